"""The logged shares with which an experiment's units were assigned.

Weights may be edited while an experiment runs. Every decision logs the share of its variant, so units of one plan, or
of several with the same shares, form a period with one allocation. The split is tested within periods. Effects are
weighted over periods like over strata: a comparison of totals would mix the periods' own changes into the effect
(Simpson's paradox). So would units from before a variant began: a period counts if every variant of the last one had a
share in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.analysis.report.sample_ratio import SampleRatio, sample_ratio, sequential_ratio_of_periods

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis.expr.types as ir

    from engine.analysis.aggregates.aggregate import Groups
    from engine.analysis.sources.engines import DuckDB

    Counts = Mapping[str, int]
    Shares = Mapping[str, float]

DIGITS = 6
TOLERANCE = 1e-6


class Allocation(NamedTuple):
    """The variants' shares by period, in time order, and the period of each plan.

    `last` is the latest period in which at least two variants had a share.
    """

    shares: Sequence[Shares]
    plans: Mapping[str | None, int]
    last: int = 0

    def period(self, plan: ir.Value) -> ir.Value:
        """The period of a column of plans; 0 for a plan without a logged share."""
        import ibis  # noqa: PLC0415 # slow to import, and only reports need it

        known = [(name, index) for name, index in self.plans.items() if name is not None and index]
        return plan.cases(*known, else_=0) if known else ibis.literal(0)

    def expected(self, units: Mapping[int, Counts]) -> dict[str, float]:
        """The shares expected among units, given by period and variant."""
        sizes = {period: sum(counts.values()) for period, counts in units.items()}
        total = sum(sizes.values())
        if not total:
            return dict(self.shares[0])
        names = list(self.shares[0])
        return {
            name: math.fsum(self.shares[period][name] * size for period, size in sizes.items()) / total
            for name in names
        }

    def test_split(self, units: Mapping[int, Counts], looks: Sequence[Mapping[int, Counts]] | None) -> SampleRatio:
        """The test of the split within the periods.

        At a single look its p-value is the smallest of the periods' times their number. The sequential test combines
        their evidence (`sequential_ratio_of_periods`).

        Args:
            units: by period and variant.
            looks: new units by period and variant at each look; None for a report at a single look.
        """
        tested = [period for period in range(len(self.shares)) if sum(units.get(period, {}).values())] or [0]
        found = [
            sample_ratio(
                units.get(period, {}),
                self.shares[period],
                looks=None if looks is None else [look.get(period, {}) for look in looks],
            )
            for period in tested
        ]
        least = min(found, key=lambda one: one.p)
        p = min(1.0, len(found) * least.p)
        if looks and len(tested) > 1:
            p = sequential_ratio_of_periods([self._looks_of(period, looks) for period in tested])[-1]
        return msgspec.structs.replace(
            least,
            p=p,
            ok=p >= least.gate,
            expected=self.expected(units),
            sequential_p=None if least.sequential_p is None else p,
        )

    def _looks_of(self, period: int, looks: Sequence[Mapping[int, Counts]]) -> tuple[list[list[int]], list[float]]:
        """A period's new units by look and variant, and its shares."""
        names = list(self.shares[period])
        counts = [[look.get(period, {}).get(name, 0) for name in names] for look in looks]
        return counts, [self.shares[period][name] for name in names]

    @property
    def compared(self) -> list[int]:
        """The periods in which every variant of the last one had a share."""
        present = {name for name, share in self.shares[self.last].items() if share > 0}
        return [at for at, shares in enumerate(self.shares) if all(shares[name] > 0 for name in present)]

    @property
    def variants(self) -> list[str]:
        """The variants that are compared: those with a share in each of these periods."""
        return [name for name in self.shares[0] if all(self.shares[at][name] > 0 for at in self.compared)]

    def select_compared(self, groups: Groups) -> Groups:
        """The groups, by variant, crossover, stratum and period, that are compared; all where no share changed."""
        if len(self.shares) == 1:
            return groups
        periods, names = self.compared, self.variants
        return {key: group for key, group in groups.items() if key[0] in names and int(key[3] or 0) in periods}

    def describe(self) -> str:
        """The periods' shares as text."""
        listed = ["/".join(f"{share:.3g}" for share in shares.values()) for shares in self.shares]
        return ", then ".join(listed)


def read_allocation(source: DuckDB, decisions: ir.Table, weights: Shares) -> Allocation:
    """The allocation by logged shares; by the planned `weights` if none were logged.

    Args:
        source: the engine of the log.
        decisions: `time, plan, variant, reason, propensity`, one row per exposed decision.
        weights: the planned share of each variant.
    """
    drawn = decisions.filter((decisions["reason"] == "assigned") & decisions["propensity"].notnull())
    rows = source.rows(
        drawn.group_by("plan", "variant")
        .aggregate(share=drawn["propensity"].max(), first=drawn["time"].min(), last=drawn["time"].max())
        .order_by("first")
    )
    by_plan: dict[str | None, dict[str, float]] = {}
    ends: dict[str | None, float] = {}
    for plan, variant, share, _, end in rows:
        name = None if plan is None else str(plan)
        by_plan.setdefault(name, {})[str(variant)] = float(share or 0.0)
        ends[name] = max(ends.get(name, 0.0), float(end or 0.0))
    shares: list[dict[str, float]] = []
    plans: dict[str | None, int] = {}
    for plan, logged in by_plan.items():
        # A share of 1 is that of a row that was not drawn: it says nothing of the others.
        # Where all of a plan's rows are of one variant, while other plans drew, the others had not begun or had ended.
        is_alone = list(logged.values()) == [1.0] and len(by_plan) > 1
        drawn_shares = logged if is_alone else {name: share for name, share in logged.items() if 0 < share < 1}
        is_known = drawn_shares and math.fsum(drawn_shares.values()) < 1 + TOLERANCE
        allocation = _complete(drawn_shares if is_known else weights, weights)
        if allocation not in shares:
            shares.append(allocation)
        plans[plan] = shares.index(allocation)
    split = [name for name in plans if sum(share > 0 for share in shares[plans[name]].values()) > 1]
    last = max(split, key=lambda name: ends[name], default=None)
    return Allocation(shares or [dict(weights)], plans, plans[last] if split else 0)


def _complete(logged: Shares, weights: Shares) -> dict[str, float]:
    """The shares of all variants: unlogged ones divide the rest in proportion to their weights."""
    others = {name: weight for name, weight in weights.items() if name not in logged}
    rest, total = max(0.0, 1.0 - math.fsum(logged.values())), math.fsum(others.values())
    shares = {
        name: rest * others[name] / total if total and name in others else logged.get(name, 0.0) for name in weights
    }
    return {name: round(share, DIGITS) for name, share in shares.items()}
