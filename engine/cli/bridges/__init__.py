"""Verbs that connect other systems: imports of their flags, feeds from their tables, and a server for agents."""

from engine.cli.bridges import agents, feeds, imports

__all__ = ["agents", "feeds", "imports"]
