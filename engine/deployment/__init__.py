"""Tools for a deployment beside its roles: users of the store, layouts and their migration."""
