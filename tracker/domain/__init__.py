"""The vocabulary of Tracker: deliveries, facts and rows, and the rules that need nothing else. Pure."""
