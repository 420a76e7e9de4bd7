"""The read door: HTTP answers from views."""
