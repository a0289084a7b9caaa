"""Verbs that connect other systems: imports of their flags, and a server for agents."""

from engine.cli.bridges import agents, imports

__all__ = ["agents", "imports"]
