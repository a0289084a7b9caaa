"""Values of creatives: the reward of an offer's showing with each of its creatives, by offer, channel and segment.

Within a cell the offer is shown, and its creative was drawn with a logged probability. A creative's value is the mean
reward of these showings if all had it, by AIPW over the draw of the creative alone (`arm_values`): unbiased whatever
the policy of the creatives did. It says nothing about how often the offer is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.bandits.arm_values import ArmScores, RowOwners, contrast_arms, score_arm
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.analysis.bandits.exposed_choices import CreativeChoices


class CreativeValue(msgspec.Struct, frozen=True, kw_only=True):
    """One creative of an offer on a channel, in a segment if the report is split by segment.

    `against_first` is its value less that of the first creative of the cell by name; None of that one itself.
    """

    offer: str
    creative: str
    channel: str
    segment: str | None
    exposures: int
    naive_mean: float
    value: Effect | NotEstimable
    against_first: Effect | NotEstimable | None


def value_creatives(shown: CreativeChoices, alpha: float) -> Iterator[CreativeValue]:
    """Yield the creatives of each offer, channel and segment, in the order of their names."""
    cells = list(zip(shown.offer, shown.channel, shown.segment, strict=True))
    numbers = {cell: number for number, cell in enumerate(dict.fromkeys(cells))}
    own = np.array([numbers[cell] for cell in cells])
    for cell in sorted(numbers, key=lambda one: (one[0], one[1], one[2] is not None, one[2] or "")):
        yield from _value_cell(shown, np.flatnonzero(own == numbers[cell]), cell, alpha)


def _value_cell(
    shown: CreativeChoices, rows: NDArray[np.intp], cell: tuple[str, str, str | None], alpha: float
) -> Iterator[CreativeValue]:
    """Yield the creatives of one cell, whose showings are `rows`."""
    offer, channel, segment = cell
    policies = {name: number for number, name in enumerate(sorted({shown.policy[row] for row in rows.tolist()}))}
    owners = RowOwners(
        policy=np.array([policies[shown.policy[row]] for row in rows.tolist()]),
        customer=np.unique(shown.customer[rows], return_inverse=True)[1].ravel(),
        customers=int(np.unique(shown.customer[rows]).size),
    )
    chosen = np.array([shown.creative[row] for row in rows.tolist()])
    first: ArmScores | None = None
    for name in sorted(set(chosen.tolist())):
        taken = chosen == name
        scores = score_arm(
            candidate=np.array([name in shown.candidates[row] for row in rows.tolist()]) | taken,
            taken=taken,
            propensity=shown.propensity[rows],
            reward=shown.reward[rows],
            owners=owners,
        )
        yield CreativeValue(
            offer=offer,
            creative=name,
            channel=channel,
            segment=segment,
            exposures=scores.shown,
            naive_mean=float(shown.reward[rows][taken].mean()),
            value=scores.value(alpha),
            against_first=None if first is None else contrast_arms(scores, first, alpha),
        )
        first = first or scores
