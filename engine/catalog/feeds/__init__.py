"""Feeds: the rows of a file become the offers of a placement."""
