"""Puts deliveries into the log: webhooks over HTTP, and files."""
