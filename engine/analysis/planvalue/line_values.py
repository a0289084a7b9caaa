"""The value of a YAML change on the log: of each changed line alone, and of all together.

Every logged decision is made again by the pure `decide`, under the old plan and under the old plan with the line
changed. The difference in money is doubly robust (`differences`), with an interval by customer. Each decision is judged
in the state in which it was logged: the change's own effect on later states, such as a cap that is used up later, is
not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from engine.analysis.planvalue.differences import DifferenceEstimator, PlanDifference
from engine.analysis.planvalue.replay import PlanReplay, ReplayedPlan
from engine.analysis.planvalue.shown_rows import ShownLog, read_shown_log
from engine.analysis.report.money import MONTH
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.catalog.check.load import build_specs, read_folder
from engine.catalog.diff.yaml_lines import ChangedLine, changed_lines, valid_groups
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.limits import Limits
from engine.catalog.plan.plan import Plan
from engine.errors import CatalogError
from engine.journal.untraced_names import find_untraced, redefined_traits

LineVerdict = Literal["earns", "loses", "open", "no effect", "cannot be judged"]
"""`open`: the interval has zero within it. `no effect`: no decision of the log would have been another."""
PER = 1000
"""Decisions per which the difference is given."""


class LineValue(msgspec.Struct, frozen=True, kw_only=True):
    """The value of changed lines per 1,000 decisions and per 30 days, at the log's traffic.

    `changed` is the share of the decisions in which something else would have been as likely.
    """

    lines: list[ChangedLine]
    verdict: LineVerdict
    per_thousand: Effect | NotEstimable
    per_month: Effect | NotEstimable
    changed: float
    decisions: int
    notes: list[str] = []


class PlanValue(msgspec.Struct, frozen=True, kw_only=True):
    """The values of changed lines, each alone, and of all `together`; None if the change is one group."""

    currency: str
    alpha: float
    decisions: int
    customers: int
    days: float
    lines: list[LineValue]
    together: LineValue | None
    notes: list[str] = []


def value_plan(old: Path, new: Path, log_dir: Path, *, plans: Path | None = None, alpha: float = 0.05) -> PlanValue:
    """The value of each line by which the folder `new` differs from the running `old`.

    Args:
        old: the folder of YAML that runs.
        new: the folder that would.
        log_dir: the log.
        plans: the archive of plans that holdouts keep.
        alpha: one minus the intervals' coverage.

    Raises:
        BadInput: if the log has no decisions on offers that were seen.
        CatalogError: if a folder has problems.
    """
    files = [_read_files(folder, plans) for folder in (old, new)]
    specs = [build_specs(folder.name, one) for folder, one in zip((old, new), files, strict=True)]
    changes = changed_lines(files[0], files[1])
    groups = valid_groups(old.name, files[0], files[1], changes)
    judge = PlanJudge(read_shown_log(log_dir), compile_plan(specs[0]), alpha)
    lines = [judge.value(compile_plan(found), [change.shown for change in group]) for group, found in groups]
    together = None
    if len(groups) > 1:
        together = judge.value(compile_plan(specs[1]), [change.shown for change in changes])
    return PlanValue(
        currency=judge.plan.currency,
        alpha=alpha,
        decisions=len(judge.log.rows),
        customers=judge.customers,
        days=judge.log.days,
        lines=lines,
        together=together,
        notes=list(_notes(judge.log)),
    )


class PlanJudge:
    """Values plans against one that runs, on one log."""

    def __init__(self, log: ShownLog, plan: Plan, alpha: float) -> None:
        self.log = log
        self.plan = plan
        self._alpha = alpha
        numbers: dict[str, int] = {}
        customer = np.array([numbers.setdefault(row.customer, len(numbers)) for row in log.rows], dtype=np.intp)
        self.customers = len(numbers)
        self._replay = PlanReplay(log, plan, customer)
        self._estimator = DifferenceEstimator(log, plan, customer)
        self._old: ReplayedPlan = self._replay.replay(plan)

    def value(self, plan: Plan, lines: Sequence[ChangedLine]) -> LineValue:
        """The value of a plan that differs from the running one in these lines."""
        lacking = self._find_unlogged_state(plan)
        if lacking:
            refused = NotEstimable(f"the log does not have {lacking}")
            return _line_value(lines, PlanDifference(refused, 0.0, 0), refused, [])
        new = self._replay.replay(plan)
        found = self._estimator.compare(self._old, new, self._alpha)
        notes = [f"the policy of {', '.join(new.trained)} was trained on earlier customers"] if new.trained else []
        return _line_value(lines, found, self._per_month(found.effect), notes)

    def _find_unlogged_state(self, plan: Plan) -> str:
        """State that the plan reads and the log's traces lack; empty if there is none."""
        before = self.plan
        names = find_untraced(plan.read_names - before.read_names, self.log.traces.values())
        names += sorted(plan.read_names & redefined_traits(before, plan))
        if names:
            return f"the traits {', '.join(names)} of its decisions"
        events = sorted(plan.rules.watched_events - before.rules.watched_events)
        if events:
            return f"when {', '.join(events)} last was, which no rule of the running plan asks"
        counters = sorted(name for name, most in plan.watched.items() if before.watched.get(name, 0) < most)
        if counters:
            return f"the counts of {', '.join(counters)} that the new limit compares"
        pools = [
            key
            for key, offer in plan.offers.items()
            if key in before.offers and _adds_pools(before.offers[key].limits, offer.limits)
        ]
        return f"what would be left of the stock, the budget or the codes of {', '.join(pools)}" if pools else ""

    def _per_month(self, effect: Effect | NotEstimable) -> Effect | NotEstimable:
        """An effect per decision, converted to 30 days."""
        if isinstance(effect, NotEstimable):
            return effect
        if self.log.days < 1:
            return NotEstimable("the log covers less than a day of traffic; a month needs at least one")
        return _scale(effect, self.log.rows_per_day * MONTH)


def _line_value(
    lines: Sequence[ChangedLine], found: PlanDifference, per_month: Effect | NotEstimable, notes: list[str]
) -> LineValue:
    effect = found.effect
    return LineValue(
        lines=list(lines),
        verdict=_judge(found),
        per_thousand=effect if isinstance(effect, NotEstimable) else _scale(effect, PER),
        per_month=per_month,
        changed=found.changed,
        decisions=found.rows,
        notes=notes,
    )


def _judge(found: PlanDifference) -> LineVerdict:
    effect = found.effect
    if isinstance(effect, NotEstimable):
        return "cannot be judged"
    if not found.changed:
        return "no effect"
    return "earns" if effect.low > 0 else "loses" if effect.high < 0 else "open"


def _scale(effect: Effect, factor: float) -> Effect:
    return Effect(
        estimate=effect.estimate * factor,
        low=effect.low * factor,
        high=effect.high * factor,
        se=effect.se * factor,
        p=effect.p,
    )


def _adds_pools(before: Limits, after: Limits) -> bool:
    """Whether an offer needs more of a stock, a budget or codes than before."""
    pairs = ((before.stock, after.stock), (before.budget, after.budget), (before.coupons, after.coupons))
    return any(new is not None and new != old for old, new in pairs)


def _read_files(folder: Path, plans: Path | None) -> dict[str, bytes]:
    files, problems = read_folder(folder, plans)
    if problems:
        raise CatalogError(list(problems))
    return files


def _notes(log: ShownLog) -> Iterator[str]:
    if log.untraced:
        yield f"{log.untraced:,} decisions have no trace that this release reads, and are left out"
    waiting = sum(row.reward is None and row.policy is not None for row in log.rows)
    if waiting:
        yield f"{waiting:,} decisions have neither a reward nor a zero in the log yet, and count as zero"
