"""The units of a group-sequential experiment's last planned look; later units count at the next look, or never.

The boundaries of Lan and DeMets hold at the planned looks alone, and spend all of alpha up to the last. Read daily,
also between the looks, they raise a false alarm in 6 % of experiments without an effect; read on and on after the last,
in 14 %. So a report between two looks is that of the look before, on the units that it had, in the order of their first
exposure. Units after the last planned look do not count: the experiment is to be concluded.

A table has no order of time. Within 0.1 % of a step it is the planned look. Between looks, and up to half a step beyond
the plan, its interval is wider and holds however often such a table is read (`sequential.unplanned_multiplier`); beyond
there is no error left to spend.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from engine.analysis.design.log_times import SECOND
from engine.analysis.stats.estimate import NotEstimable
from engine.analysis.stats.inference import Arm
from engine.analysis.stats.sequential import OVERRUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis.expr.types as ir

    from engine.analysis.design.methods import Inference
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.report.compare import Evidence
    from engine.analysis.sources.engines import DuckDB


class PlannedLook(NamedTuple):
    """A due planned look: its number, the first exposure of its last unit (µs), and the number of later units."""

    number: int
    last: int
    later: int


def find_planned_looks(
    source: DuckDB, units: ir.Table, question: ExperimentQuestion, specs: Sequence[MeasuredMetric], as_of: int
) -> dict[str, PlannedLook]:
    """The last due look by metric; empty before the first look and for other methods.

    Args:
        source: the engine that holds `units`.
        units: `variant, crossed, first`, one row per unit.
        question: the experiment's design.
        specs: the metrics; units whose window is open do not count towards a look.
        as_of: the date of the report in microseconds.
    """
    inference = question.inference
    if inference.method != "group_sequential":
        return {}
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    names = list(question.weights)
    kept = units.filter(~units["crossed"] & units["variant"].isin(names)).select("variant", "first")
    per_moment = kept.group_by("first").aggregate(
        **{f"n{at}": (kept["variant"] == v).sum() for at, v in enumerate(names)}
    )
    order = ibis.window(order_by="first", rows=(None, 0))
    counted = source.keep(
        "counted",
        per_moment.select("first", **{f"n{at}": per_moment[f"n{at}"].sum().over(order) for at in range(len(names))}),
    )
    control = names.index(question.control)
    step = inference.planned / inference.looks
    found: dict[str, PlannedLook] = {}
    known: dict[int, PlannedLook | None] = {}
    for spec in specs:
        span = int(spec.span * SECOND) if spec.needs_closed_window else 0
        if span not in known:
            known[span] = _find_look(source, counted.filter(counted["first"] <= as_of - span), control, step, inference)
        look = known[span]
        if look is not None:
            found[spec.name] = look
    return found


def _find_look(
    source: DuckDB, counted: ir.Table, control: int, step: float, inference: Inference
) -> PlannedLook | None:
    """The last due look, given the units so far, `n0, n1, …` by variant, at each moment `first`."""
    names = [column for column in counted.columns if column != "first"]
    pairs = [counted[names[control]] + counted[name] for at, name in enumerate(names) if at != control]
    fewest = pairs[0]
    for pair in pairs[1:]:
        fewest = (pair < fewest).ifelse(pair, fewest)
    total = counted[names[0]]
    for name in names[1:]:
        total = total + counted[name]
    rows = counted.select("first", fewest=fewest, total=total)
    most, everything = source.rows(rows.aggregate(most=rows["fewest"].max(), total=rows["total"].max()))[0]
    number = min(int(float(most or 0) / step + 1e-9), inference.looks)
    if number == 0:
        return None
    reached = rows.filter(rows["fewest"] >= number * step - 1e-6)
    last, units = source.rows(reached.aggregate(last=reached["first"].min(), units=reached["total"].min()))[0]
    return PlannedLook(number, int(last or 0), int(everything or 0) - int(units or 0))


def flag_planned_looks(found: Mapping[str, PlannedLook], inference: Inference) -> list[str]:
    """A sentence, for metrics that share a look, about the units that the look leaves out."""
    texts: dict[str, list[str]] = {}
    for name, look in found.items():
        if not look.later:
            continue
        date = datetime.fromtimestamp(look.last / SECOND, UTC).strftime("%Y-%m-%d")
        which = f"planned look {look.number} of {inference.looks}, with units until {date}"
        if look.number < inference.looks:
            text = f"{which}; {look.later:,} later units count at the next look"
        else:
            text = f"{which}; {look.later:,} later units do not count, since the plan ends there: conclude it"
        texts.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in texts.items()]


def refuse_overrun(evidence: Evidence, inference: Inference) -> dict[str, NotEstimable]:
    """The metrics of a table with units beyond the last planned look, which spent all of the error."""
    if inference.method != "group_sequential":
        return {}
    most = inference.planned * (1 + OVERRUN / inference.looks)
    refused: dict[str, NotEstimable] = {}
    for name, sizes in _compared_units(evidence).items():
        others = [n for variant, n in sizes.items() if variant != evidence.control]
        units = sizes.get(evidence.control, 0) + max(others, default=0)
        if units > most:
            refused[name] = NotEstimable(
                f"{units:,} units are more than the {inference.planned:,} planned; the last look spent all of alpha",
                remedy=f"The units of the last planned look would, or planned {units:,} if no look was taken before.",
            )
    return refused


def _compared_units(evidence: Evidence) -> dict[str, dict[str, int]]:
    """The units with a value, by metric and variant, of moments and of quantiles."""
    found: dict[str, dict[str, int]] = {}
    for variant, group in evidence.groups.items():
        for name, moments in group.moments.items():
            found.setdefault(name, {})[variant] = moments.n
    for name, arms in evidence.quantiles.items():
        found[name] = {variant: arm.n for variant, arm in arms.items() if isinstance(arm, Arm)}
    return found
