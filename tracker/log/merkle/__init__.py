"""The Merkle tree over the log: leaves, proofs, signed notes and checkpoints."""
