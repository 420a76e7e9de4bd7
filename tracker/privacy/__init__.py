"""Erasing people, sessions and old records."""
