"""YAML -> Plan."""

from pathlib import Path

from engine.catalog.compile import compile_plan
from engine.catalog.load import load_specs
from engine.catalog.plan import Plan


def load_plan(folder: Path | str) -> Plan:
    """The plan of a folder of YAML.

    Raises:
        CatalogError: with every problem of every file, if there is one.
    """
    return compile_plan(load_specs(Path(folder)))


__all__ = ["Plan", "load_plan"]
