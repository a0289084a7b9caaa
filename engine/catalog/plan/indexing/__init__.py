"""The offers of a collection, indexed by the terms that decide who may see them."""
