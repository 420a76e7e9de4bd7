"""The vendors: how each one proves its deliveries, and what its events mean. One folder per vendor."""
