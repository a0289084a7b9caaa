"""Copies of the log on an object store and as Iceberg tables, for warehouses and for the loss of a disk."""
