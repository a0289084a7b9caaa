"""The log on an object store, and as Iceberg tables: a copy for warehouses, and for the day a disk is lost."""
