"""The names that a folder defines, including those that unreadable files may define.

A file that could not be read has its own problem already. A name that it may define is never reported as missing, so
that one mistake is reported once.
"""

from collections.abc import Collection, Iterator

from engine.catalog.check.decode import FieldProblem, suggest_name
from engine.catalog.spec.folder import SINGLE, Specs
from engine.catalog.spec.units import BUILT_IN

Names = Collection[str] | None
"""The defined names; None where their file could not be read, so that any name may be defined."""


class DefinedNames:
    """The names of a folder.

    An experiment, selection or offer has the name of its file, so a file of theirs that could not be read still
    defines that name.

    Args:
        specs: the specs that could be read.
        unread: the names, relative to the folder, of the files that could not.
    """

    def __init__(self, specs: Specs, unread: Collection[str] = ()) -> None:
        def unless_unread(file: str, names: Collection[str]) -> Names:
            return None if file in unread else names

        offers = {name.removeprefix("offers/").removesuffix(".yaml") for name in unread if name.startswith("offers/")}
        others = {name.removesuffix(".yaml") for name in unread if "/" not in name and name not in SINGLE}
        segments = specs.segments.values()
        self.channels = unless_unread("channels.yaml", [channel.key for channel in specs.channels.channels])
        self.placements = unless_unread("channels.yaml", [placement.key for placement in specs.channels.placements])
        self.metrics = unless_unread("metrics.yaml", [metric.key for metric in specs.metrics.metrics])
        self.sources = unless_unread("sources.yaml", [source.key for source in specs.sources.sources])
        self.layers = unless_unread("layers.yaml", [layer.key for layer in specs.layers.layers])
        self.holdouts = unless_unread("layers.yaml", [holdout.key for holdout in specs.layers.holdouts])
        self.conditions = unless_unread("segments.yaml", [one.key for one in segments if one.condition is not None])
        self.lists = unless_unread("segments.yaml", [one.key for one in segments if one.values is not None])
        self.budgets = unless_unread("campaigns.yaml", list(specs.budgets))
        self.places = unless_unread("places.yaml", [place.key for place in specs.places])
        self.units = unless_unread("units.yaml", [*BUILT_IN, *specs.units.units])
        self.offers: Collection[str] = [*specs.offers, *sorted(offers)]
        self.experiments: Collection[str] = [*specs.experiments, *sorted(others)]
        self.has_all_offers = not offers
        self.has_all_selections = not others


def check_defined(path: str, name: str, defined: Names, where: str) -> Iterator[FieldProblem]:
    """Yield the problem of an undefined name; `where` is the place that should define it."""
    if defined is not None and name not in defined:
        yield path, f"{name!r} is not in {where}; {suggest_name(name, list(defined))}"
