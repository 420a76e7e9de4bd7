"""The append-only log: append, read, head, wait."""
