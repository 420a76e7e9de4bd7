"""What the nodes of a cluster say to each other, and how they notice that their records differ."""
