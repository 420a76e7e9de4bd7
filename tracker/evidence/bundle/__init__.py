"""Evidence bundles: one session in a zip file that anybody can verify offline."""
