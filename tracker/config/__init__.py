"""config.toml as frozen structs, read once before anything starts."""
