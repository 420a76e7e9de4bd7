"""The read API: HTTP answers from the views and the log."""
