"""Verbs for other systems: they import their flags."""

from engine.cli.bridges import imports

__all__ = ["imports"]
