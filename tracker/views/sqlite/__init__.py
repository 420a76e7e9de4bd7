"""The views in a SQLite file: schema, reading, writing, search and statistics."""
