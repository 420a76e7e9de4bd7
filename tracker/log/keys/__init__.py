"""The keys that encrypt records, stored apart from the log so that they can be destroyed."""
