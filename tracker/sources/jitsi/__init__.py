"""Jitsi Meet: webhooks of Prosody's event_sync component, proved by a secret header."""
