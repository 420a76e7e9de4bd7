"""The read model: where rows are stored and read. It can be deleted and rebuilt from the log at any time."""
