"""What the nodes of a cluster exchange, and how they notice that their records differ."""
