"""Watches the running experiments: moves held ramps, and notifies people."""
