"""Tracker's vocabulary: deliveries, facts and rows, and the rules that depend on nothing else. Pure but for `clock`."""
