"""Learners that share the work: the partitions that each teaches, its leases on them, and the sum of their policies."""
