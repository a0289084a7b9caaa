"""Verbs for other systems: they import their flags, and serve agents."""

from engine.cli.bridges import agents, imports

__all__ = ["agents", "imports"]
