"""Verbs for operators of an installation."""
