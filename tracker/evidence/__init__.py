"""What makes the log provable: leaves, tree, proofs, signed checkpoints. Pure: bytes in, bytes out."""
