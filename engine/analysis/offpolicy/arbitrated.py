"""A placement's arbitration of its policy's probabilities, compiled from a selection in its folder.

What is logged is the probability after arbitration, and the candidates are the offers that every gate and price left.
So a target whose placement arbitrates is evaluated with the same factors: values and levers of its offers' files, and
context weights whose conditions read what was logged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.analysis.offpolicy.logged_choices import LoggedChoices
from engine.catalog import load_plan
from engine.catalog.plan.arbitration import Arbitration
from engine.catalog.plan.features import Context
from engine.decision.arbitrate import arbitrate, context_weights
from engine.decision.attributes import overlay_context
from policies.batches import Floats, Ints

FOLDER_FILE = "channels.yaml"
"""A file that every folder of a shop's YAML has."""


@dataclass(frozen=True)
class PlacementRule:
    """A selection's compiled arbitration over its arms; without a `rule` the policy's probabilities are final."""

    arms: tuple[str, ...]
    rule: Arbitration | None
    floor: float

    def places(self, names: Sequence[str]) -> Ints:
        """The positions of offers among its arms."""
        position = {name: place for place, name in enumerate(self.arms)}
        return np.array([position[name] for name in names], dtype=np.intp)

    def weigh(self, probabilities: Floats, names: Sequence[str], context: Context) -> Floats:
        """The placement's probabilities (n,) of the offers `names`, from the policy's (n,)."""
        if self.rule is None:
            return probabilities
        attributes = _attributes(context)
        return arbitrate(self.rule, probabilities, self.places(names), attributes, self.floor).probabilities

    def groups(self, contexts: Sequence[Context]) -> Ints:
        """The group of each context (contexts,); contexts of one group have the same weights."""
        if self.rule is None or not self.rule.weights:
            return np.zeros(len(contexts), np.intp)
        every = np.arange(len(self.arms))
        weights = np.array([context_weights(self.rule, every, _attributes(context)) for context in contexts])
        return np.unique(weights, axis=0, return_inverse=True)[1].ravel()

    def unlogged(self, log: LoggedChoices) -> list[str]:
        """The traits of its weights that some decisions were logged without."""
        reads = frozenset[str]() if self.rule is None else self.rule.reads
        return sorted(name for name in reads if any(name not in context for context in log.contexts))


def read_placement_rule(path: Path, body: Mapping[str, object]) -> PlacementRule | None:
    """The rule of a selection's file; None if the file is not in a shop's folder, so offers are unknown.

    Raises:
        CatalogError: if the folder has problems.
    """
    if not (path.parent / FOLDER_FILE).is_file():
        return None
    selection = load_plan(path.parent).policies.get(str(body.get("key")))
    if selection is None:
        return None
    return PlacementRule(selection.arms, selection.arbitration, selection.policy.floor)


def _attributes(context: Context) -> dict[str, object]:
    """The attributes that conditions read, from a logged context."""
    attributes: dict[str, object] = {}
    overlay_context(attributes, context)
    return attributes
