"""Which names a folder defines, and which it may define in a file that could not be read: of those nothing is said."""

from collections.abc import Collection, Iterator

from engine.catalog.check.decode import FieldProblem, suggest_name
from engine.catalog.spec.folder import SINGLE, Specs

Names = Collection[str] | None
"""The names that are defined; None where their file could not be read, so that any name may be."""


class DefinedNames:
    """The names of a folder. `unread` are the files, by their names in it, that could not be read.

    A keyed file is called like its key, so a file that could not be read still defines that one name.
    """

    def __init__(self, specs: Specs, unread: Collection[str] = ()) -> None:
        def of(file: str, names: Collection[str]) -> Names:
            return None if file in unread else names

        offers = {name[7:-5] for name in unread if name.startswith("offers/")}
        others = {name[:-5] for name in unread if "/" not in name and name not in SINGLE}
        self.channels = of("channels.yaml", [channel.key for channel in specs.channels.channels])
        self.placements = of("channels.yaml", [placement.key for placement in specs.channels.placements])
        self.metrics = of("metrics.yaml", [metric.key for metric in specs.metrics.metrics])
        self.layers = of("layers.yaml", [layer.key for layer in specs.layers.layers])
        segments = specs.segments.values()
        self.conditions = of("segments.yaml", [one.key for one in segments if one.condition is not None])
        self.lists = of("segments.yaml", [one.key for one in segments if one.values is not None])
        self.offers: Collection[str] = [*specs.offers, *sorted(offers)]
        self.experiments: Collection[str] = [*specs.experiments, *sorted(others)]
        self.all_offers = not offers
        self.all_selections = not others


def check_defined(path: str, name: str, known: Names, where: str) -> Iterator[FieldProblem]:
    """The problem of a name that is nowhere defined."""
    if known is not None and name not in known:
        yield path, f"{name!r} is not in {where}; {suggest_name(name, list(known))}"
