"""The rooms of vendors: one file each, its words, its proof, its quirks."""
