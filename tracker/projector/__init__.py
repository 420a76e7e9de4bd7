"""Follows the log and writes the views, live or as a rebuild."""
