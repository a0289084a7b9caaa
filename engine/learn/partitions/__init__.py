"""Learners beside each other: which partitions each teaches, its leases on them, and the sum of their policies."""
