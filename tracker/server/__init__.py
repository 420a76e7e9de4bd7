"""One running process: wiring, listeners, background tasks, metrics, roles and shutdown."""
