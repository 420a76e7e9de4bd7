"""The views in one SQLite file."""
