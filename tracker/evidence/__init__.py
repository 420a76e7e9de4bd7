"""What proves the log: signed checkpoints, proofs, and the verification of a whole log."""
