"""Whole signed calls of every vendor, and `tracker demo`, which plays them."""
