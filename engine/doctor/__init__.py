"""Finds the problems of a deployment and their remedies."""
