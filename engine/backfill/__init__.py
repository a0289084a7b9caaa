"""Computes the traits that the shop defines from the log, with the reducers that count live events."""
