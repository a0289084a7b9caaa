"""Customers played against a running engine: those of the demo, and the rounds of the Open Bandit Dataset."""
