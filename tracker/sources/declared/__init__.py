"""Any vendor that a declaration describes: a TOML file that says how its deliveries are proved and what they mean."""
