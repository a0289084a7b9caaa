"""The effect of a plan change on customers who were already exposed, from the log: who drops out, and its cost.

Every exposed unit's last exposed decision is decided again, from its trace, by both plans at one time. Who has a
variant by the running plan and none by the new one is dropped; who has another one is moved: neither can be compared
any more, so as many others have to come. They come as fast as the log's last requests would enter by the new plan.

A trace has the traits that its plan read, and not all others. Where the new plan reads one that no trace has, or that
is computed in another way, nothing is counted: the decisions would be those of customers without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.log_times import SECOND
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.report.experiment import analyze_experiment
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import ASSIGNED, read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.catalog.spec.flags import RULE
from engine.decision.decision import decide
from engine.errors import BadInput
from engine.journal.log.logged_requests import latest_requests
from engine.journal.traces import Trace, decode_trace
from engine.journal.untraced_names import find_untraced, redefined_traits, traced_among

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.catalog.plan.plan import Plan

GIVEN = ("assigned", "sticky", "forced", "rule", "shipped")
"""The reasons with which a customer has a variant, rather than the default for those without."""
MOST_UNITS = 20_000
"""Exposed units that are decided again; of more, these are a random part, and the numbers are scaled."""
NamesRead = tuple[frozenset[str], frozenset[str]]
"""The names that the decision on an experiment reads, by the running plan and by the new one."""
MOST_REQUESTS = 4_000
"""The last requests of the log, from which the new rate is estimated."""


class ChangeEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of a change on one experiment, flag or rule.

    Of `exposed` customers it drops some and moves some to another variant. `rate` is how many enter per customer that
    enters by the running plan; `days_added` is None where nothing is measured, or nobody would come any more. All of
    these are None where the log's traces do not have the traits `untraced`, which the new plan reads.
    """

    key: str
    exposed: int
    dropped: int | None
    moved: int | None
    rate: float | None
    days_added: float | None
    text: str
    is_estimate: bool = False
    untraced: list[str] = []


def measure_change(
    before: Plan, after: Plan, keys: Mapping[str, NamesRead], log_dir: Path, now: float
) -> list[ChangeEvidence]:
    """The evidence on each experiment or flag that both plans have and that has exposures in the log.

    Args:
        before: the running plan, with the positions of its ramps.
        after: the plan that would replace it.
        keys: of experiments and flags, each with the names that its decision reads; a rule is part of its flag.
        log_dir: the log.
        now: the time (s since 1970) at which both decide.

    Raises:
        BadInput: if the folder is no log.
    """
    known = [key for key in keys if key in before.experiments]
    redefined = redefined_traits(before, after)
    found: list[ChangeEvidence] = []
    if not known:
        return found
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        exposed = {key: _count_exposed(source, log_dir, key, now) for key in known}
        traces = {key: list(_traces(source, log_dir, key, now)) for key in known if exposed[key]}
    requests = latest_requests(log_dir, MOST_REQUESTS) if traces else []
    for key, traced in traces.items():
        old, new = keys[key]
        untraced = sorted({*find_untraced(new - old, [*traced, *requests]), *(new & redefined)})
        if untraced:
            found.append(_not_counted(key, exposed[key], untraced))
            continue
        one = _measure(before, after, key, exposed=exposed[key], traced=traced, requests=requests, now=now)
        found.append(_with_lacking(_with_days(before, one, log_dir), new - old, traced))
    return found


def _exposed_decisions(source: DuckDB, log_dir: Path, key: str, now: float) -> ir.Table:
    """Each customer's last exposed and randomized decision of the experiment or a rule of the flag."""
    decided = read_log_table(source, log_dir, "decisions")
    own = (decided["key"] == key) | decided["key"].startswith(f"{key}{RULE}")
    decided = decided.filter(
        own & decided["variant"].notnull() & decided["reason"].isin(ASSIGNED) & decided["customer"].notnull()
    )
    exposures = read_log_table(source, log_dir, "exposures")
    exposures = exposures.filter(exposures["time"] <= int(now * SECOND)).select("decision_id", "key")
    seen = decided.semi_join(exposures, ["decision_id", "key"])
    return seen.group_by("customer").aggregate(decision_id=seen["decision_id"].argmax(seen["time"]))


def _count_exposed(source: DuckDB, log_dir: Path, key: str, now: float) -> int:
    [[number]] = source.rows(_exposed_decisions(source, log_dir, key, now).count().as_table())
    return int(number or 0)


def _traces(source: DuckDB, log_dir: Path, key: str, now: float) -> Iterable[Trace]:
    """Yield the traces of exposed decisions of at most `MOST_UNITS` customers, in the order of their hashes."""
    exposed = _exposed_decisions(source, log_dir, key, now)
    chosen = exposed.order_by(exposed["customer"].hash()).limit(MOST_UNITS).select("decision_id")
    wanted = source.keep(f"exposed to {key}", chosen)
    for _, blob in source.traces(log_dir, wanted.get_name()):
        try:
            yield decode_trace(blob)
        except BadInput:  # of a release that this one does not read
            continue


def _measure(
    before: Plan,
    after: Plan,
    key: str,
    *,
    exposed: int,
    traced: Sequence[Trace],
    requests: Sequence[Trace],
    now: float,
) -> ChangeEvidence:
    """The evidence without the number of days."""
    had = dropped = moved = 0
    for trace in traced:
        old, new = _given(before, key, trace, now), _given(after, key, trace, now)
        if old is not None:
            had += 1
            dropped += new is None
            moved += new is not None and new != old
    customers: dict[str, Trace] = {trace.profile.id: trace for trace in requests}
    entering = sum(_given(before, key, trace, now) is not None for trace in customers.values())
    will_enter = sum(_given(after, key, trace, now) is not None for trace in customers.values())
    scale = exposed / len(traced) if len(traced) >= MOST_UNITS else 1.0
    return ChangeEvidence(
        key=key,
        exposed=exposed,
        dropped=round(dropped * scale),
        moved=round(moved * scale),
        rate=will_enter / entering if entering else None,
        days_added=None,
        text="",
        is_estimate=scale > 1,
    )


def _not_counted(key: str, exposed: int, untraced: list[str]) -> ChangeEvidence:
    """The evidence if the log cannot show how the new plan decides."""
    text = (
        f"the log's traces do not have {', '.join(untraced)}, which the new plan reads, so nobody can be counted; "
        "they have it some days after a segment of the running plan reads it"
    )
    return ChangeEvidence(
        key=key, exposed=exposed, dropped=None, moved=None, rate=None, days_added=None, text=text, untraced=untraced
    )


def _with_lacking(one: ChangeEvidence, names: frozenset[str], traced: Sequence[Trace]) -> ChangeEvidence:
    """The evidence with the number of customers whose trace lacks a trait that others have."""
    lacking = dict.fromkeys(sorted(names), 0)
    for trace in traced if names else ():
        for name in names - traced_among(names, trace):
            lacking[name] += 1
    parts = [
        f"{count:,} of {len(traced):,} people have no {name} in the log's traces and count as without it"
        for name, count in lacking.items()
        if count
    ]
    return msgspec.structs.replace(one, text="; ".join([one.text, *parts]))


def _given(plan: Plan, key: str, trace: Trace, now: float) -> tuple[str, object] | None:
    """The variant and rule that a plan gives the customer of a request; None if it gives none."""
    if key not in plan.experiments or trace.request.channel not in plan.channels:
        return None
    request = msgspec.structs.replace(trace.request, experiments=[key], placements=[])
    answer = decide(plan, {}, trace.profile, request, now).answer.experiments[key]
    if answer.variant is None or answer.reason not in GIVEN:
        return None
    return answer.variant, answer.rule


def _with_days(before: Plan, one: ChangeEvidence, log_dir: Path) -> ChangeEvidence:
    """The evidence with the number of added days and a sentence that describes it."""
    added, why = _days_added(before, one, log_dir)
    about = "about " if one.is_estimate else ""
    parts = [f"drops {about}{one.dropped:,} of {one.exposed:,} exposed people" if one.dropped else "drops nobody"]
    if one.moved:
        parts.append(f"moves {about}{one.moved:,} to another variant")
    if added is not None and abs(added) >= 0.5:
        parts.append(f"{'adds' if added > 0 else 'saves'} {_count_days(abs(added))}")
    elif added is not None:
        parts.append("adds no day")
    text = f"{', '.join(parts)}{f'; {why}' if why else ''}"
    return msgspec.structs.replace(one, days_added=added, text=text)


def _days_added(before: Plan, one: ChangeEvidence, log_dir: Path) -> tuple[float | None, str]:
    """The days that a change adds until a verdict; None with the reason if they cannot be computed.

    With n units in d days, and D days left by the report, a verdict takes n (d + D) / d units. Of these k = n less the
    dropped and the moved stay, and n / d times the rate come each day.
    """
    lost = ((one.dropped or 0) + (one.moved or 0)) / one.exposed
    reports = [one.key] if before.experiments[one.key].spec.metrics is not None else []
    rules = [rule.experiment for rule in before.experiments[one.key].rules]
    reports = reports or [rule.key for rule in rules if rule.spec.metrics is not None and len(rule.spec.variants) > 1]
    if not reports:
        return None, "nothing is measured, so no verdict waits for it"
    if one.rate == 0:
        return None, "nobody of the last requests would enter it any more, so no verdict comes"
    try:
        question, metrics = build_question(before, reports[0])
        report = analyze_experiment(question, metrics, log_dir)
    except BadInput as error:
        return None, str(error)
    units, days = sum(report.units.values()), report.days
    if not units or not days:
        return None, "its report has no units yet"
    left = report.recommendation.days_left or 0.0
    daily = units / days * (1.0 if one.rate is None else one.rate)
    needed = units * (days + left) / days
    return max(0.0, needed - units * (1 - lost)) / daily - left, ""


def _count_days(days: float) -> str:
    number = round(days)
    return f"{number:,} day{'' if number == 1 else 's'}"
