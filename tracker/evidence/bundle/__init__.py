"""Evidence bundles: one session in a zip that anybody can verify offline."""
