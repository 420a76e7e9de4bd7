"""Tracker: the flight recorder for video calls."""
