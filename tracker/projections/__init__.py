"""What the facts of a session add up to: pure functions from facts to rows."""
