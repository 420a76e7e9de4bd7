"""What the facts add up to: pure folding of facts into rows."""
