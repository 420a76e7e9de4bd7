"""Proves what is in the log: signed checkpoints, proofs, verification, and evidence bundles."""
