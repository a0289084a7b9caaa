"""Backups of a whole installation, and their restoration elsewhere."""
