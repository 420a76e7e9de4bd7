"""The ways into the log: webhooks over HTTP, and files."""
