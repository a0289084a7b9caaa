"""Copies of a whole installation, and how they come to life elsewhere."""
