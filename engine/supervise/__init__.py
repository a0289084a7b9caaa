"""Watches the running experiments: moves ramps that hold themselves, and notifies people of what needs them."""
