"""A logged decision made again from its record, its plan and its snapshots: same code, same answer."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow.compute as pc

from engine.catalog.archive import Archive
from engine.catalog.compile import compile_plan
from engine.catalog.plan import Plan
from engine.decide.decision import Decision, decide
from engine.decide.explanation import Explanation, explanation
from engine.decide.offers import Snapshot
from engine.errors import BadInput
from engine.journal import parquet, publish, snapshots, traces
from engine.journal.entries import decision_record
from engine.journal.records import DecisionRow
from engine.journal.stream import Client
from policies import load

COLUMNS = ["key", "kind", "variant", "reason", "propensity", "plan", "policy", "trace"]


class LoggedRow(msgspec.Struct, frozen=True):
    """One experiment or placement of a decision, as the log has it."""

    kind: str
    key: str
    variant: str | None
    reason: str
    propensity: float
    policy: str | None


class Replayed(msgspec.Struct, frozen=True):
    """What was logged, the same decision made again with its reasons, and where the two differ."""

    decision_id: str
    time: float
    plan: str
    same: bool
    differences: list[str]
    logged: list[LoggedRow]
    explanation: Explanation


def explain_decision(log: Path, archive: Archive, client: Client, decision_id: str) -> Replayed:
    """The decision made again, and why it was so.

    Args:
        log: the Parquet log's folder.
        archive: the plans that ran.
        client: the store that keeps the snapshots.
        decision_id: as it was answered.

    Raises:
        BadInput: if the decision is not in the log, or its plan or a snapshot of it is not kept any more.
    """
    found = list(_rows(log, decision_id))
    if not found:
        raise BadInput(f"{decision_id!r} is not in {log}; check the id, or run 'counterpoint collect --drain' first")
    blob = next((trace for _, _, trace in found if trace), b"")
    trace = traces.decode(blob)
    version = found[0][1]
    plan = replace(compile_plan(archive.specs(version)), paused=frozenset(trace.paused))
    logged = [row for row, _, _ in found]
    decision = decide(
        plan,
        dict(_snapshots(plan, client, logged)),
        trace.profile,
        trace.request,
        trace.now,
        decision_id=decision_id,
        degraded=trace.degraded,
        tripped=trace.tripped,
        standing=trace.standing,
        trace=True,
    )
    differences = list(_differences(logged, decision, trace.now))
    if differences and trace.release != traces.RELEASE:
        differences.append(f"decided by Counterpoint {trace.release or 'of before'}, made again by {traces.RELEASE}")
    return Replayed(decision_id, trace.now, version, not differences, differences, logged, explanation(decision))


def _rows(log: Path, decision_id: str) -> Iterator[tuple[LoggedRow, str, bytes]]:
    """The rows of a decision; its id begins with the milliseconds of its time, which name the day's folder."""
    try:
        day = datetime.fromtimestamp(int(decision_id[:12], 16) / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError):
        return
    if not log.is_dir():
        return
    with publish.reading(log):
        for path in sorted((log / "decisions" / f"day={day}").glob("*.parquet")):
            table = parquet.read(path, COLUMNS, pc.field("decision_id") == decision_id)
            for row in table.to_pylist():
                shown = LoggedRow(
                    row["kind"], row["key"], row["variant"], row["reason"], row["propensity"], row["policy"]
                )
                yield shown, row["plan"], row["trace"] or b""


def _snapshots(plan: Plan, client: Client, logged: list[LoggedRow]) -> Iterator[tuple[str, Snapshot]]:
    for row in logged:
        key, _, version = (row.policy or "@0").rpartition("@")
        if version == "0" or key not in plan.policies:
            continue
        header = next((h for h in snapshots.kept(client, key) if h.version == int(version)), None)
        if header is None:
            raise BadInput(
                f"{row.policy} is not kept any more; the log's propensity {row.propensity:g} is what is left"
            )
        policy = load(snapshots.kept_at(client, key, header).blob)
        yield key, Snapshot(snapshots.aligned(policy, plan.policies[key]), header.version)


def _differences(logged: list[LoggedRow], decision: Decision, now: float) -> Iterator[str]:
    made: dict[str, DecisionRow] = {row.key: row for row in decision_record(decision, now).rows}
    for row in logged:
        again = made.get(row.key)
        if again is None:
            yield f"{row.key}: was {row.variant}, and is not decided any more"
        elif (again.variant, again.reason) != (row.variant, row.reason):
            yield f"{row.key}: was {row.variant} ({row.reason}), is {again.variant} ({again.reason})"
        elif abs(again.propensity - row.propensity) > 1e-9:
            yield f"{row.key}: the propensity was {row.propensity!r}, is {again.propensity!r}"
