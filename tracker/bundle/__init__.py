"""The evidence of one session in one file: how it is written, and how it is read from strangers."""
