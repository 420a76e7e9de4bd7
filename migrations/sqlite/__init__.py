"""The SQLite log's schema."""
