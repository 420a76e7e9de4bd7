"""OpenVidu 2: webhooks and CDR files."""
