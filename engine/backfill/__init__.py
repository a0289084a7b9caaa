"""Computes the shop's traits from the log, with the reducers that process live events."""
