"""A logged decision made again from its record, its plan and its snapshots: same code, same answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pyarrow.compute as pc

from engine.catalog.archive import Archive
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.decision.decision import DecideOptions, Decision, decide
from engine.decision.explanation import Explanation, build_explanation
from engine.decision.offers import Snapshot
from engine.errors import BadInput
from engine.journal import traces
from engine.journal.from_decision import decision_record
from engine.journal.log import commit, parquet
from engine.journal.records import DecisionRow
from engine.journal.stream import StreamClient
from engine.snapshots.header import align_policy
from engine.snapshots.publish import stored_headers, stored_snapshot
from policies import Bandit, load_policy
from policies.base import ArmPositions
from policies.batches import Floats

COLUMNS = ["key", "kind", "variant", "reason", "propensity", "candidates", "plan", "policy", "trace"]


class LoggedRow(msgspec.Struct, frozen=True):
    """One experiment or placement of a decision, as the log has it."""

    kind: str
    key: str
    variant: str | None
    reason: str
    propensity: float
    policy: str | None
    candidates: list[str] = []


class ReplayedDecision(msgspec.Struct, frozen=True):
    """What was logged, the same decision made again with its reasons, and where the two differ.

    Of the policies in `recorded` no snapshot is kept any more: the probabilities that their record has were drawn from.
    """

    decision_id: str
    time: float
    plan: str
    same: bool
    differences: list[str]
    logged: list[LoggedRow]
    explanation: Explanation
    recorded: list[str] = []


@dataclass(frozen=True, eq=False)
class _RecordedPolicy(Bandit):
    """A policy of which only what it said in one decision is left."""

    kind: ClassVar[str] = "as recorded"
    said: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    def chances(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - as every policy
        said = np.array([self.said.get(arm, 0.0) for arm in self.arms])[among]
        return said if said.any() else np.ones(said.size)


def explain_decision(log: Path, archive: Archive, client: StreamClient, decision_id: str) -> ReplayedDecision:
    """The decision made again, and why it was so.

    Args:
        log: the Parquet log's folder.
        archive: the plans that ran.
        client: the store that keeps the snapshots.
        decision_id: as it was answered.

    Raises:
        BadInput: if the decision is not in the log, or its plan is not kept any more, or a snapshot of which its record
            has no probabilities.
    """
    found = list(_rows(log, decision_id))
    if not found:
        raise BadInput(f"{decision_id!r} is not in {log}; check the id, or run 'counterpoint collect --drain' first")
    blob = next((trace for _, _, trace in found if trace), b"")
    trace = traces.decode_trace(blob)
    version = found[0][1]
    plan = replace(compile_plan(archive.read_specs(version)), paused=frozenset(trace.paused))
    logged = [row for row, _, _ in found]
    learnt = dict(_snapshots(plan, client, logged, trace.probabilities))
    decision = decide(
        plan,
        learnt,
        trace.profile,
        trace.request,
        trace.now,
        decision_id=decision_id,
        options=DecideOptions(
            degraded=trace.degraded, tripped=trace.tripped, availability=trace.availability, trace=True
        ),
    )
    differences = list(_differences(logged, decision, trace.now))
    if differences and trace.release != traces.RELEASE:
        differences.append(f"decided by Counterpoint {trace.release or 'of before'}, made again by {traces.RELEASE}")
    recorded = [f"{key}@{snapshot.version}" for key, snapshot in learnt.items() if snapshot.final]
    why = build_explanation(decision)
    return ReplayedDecision(decision_id, trace.now, version, not differences, differences, logged, why, recorded)


def _rows(log: Path, decision_id: str) -> Iterator[tuple[LoggedRow, str, bytes]]:
    """The rows of a decision; its id begins with the milliseconds of its time, which name the day's folder."""
    try:
        day = datetime.fromtimestamp(int(decision_id[:12], 16) / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError):
        return
    if not log.is_dir():
        return
    with commit.log_read_lock(log):
        for path in sorted((log / "decisions" / f"day={day}").glob("*.parquet")):
            table = parquet.read_table(path, COLUMNS, pc.field("decision_id") == decision_id)
            for row in table.to_pylist():
                names = ("kind", "key", "variant", "reason", "propensity", "policy")
                shown = LoggedRow(**{name: row[name] for name in names}, candidates=row["candidates"] or [])
                yield shown, row["plan"], row["trace"] or b""


def _snapshots(
    plan: Plan, client: StreamClient, logged: list[LoggedRow], chances: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, Snapshot]]:
    for row in logged:
        key, _, version = (row.policy or "@0").rpartition("@")
        if version == "0" or key not in plan.policies:
            continue
        header = next((h for h in stored_headers(client, key) if h.version == int(version)), None)
        if header is None and row.key in chances:
            said = dict(zip(row.candidates, chances[row.key], strict=True))
            policy: Bandit = _RecordedPolicy(plan.policies[key].arms, floor=0.0, said=said)
            yield key, Snapshot(policy, int(version), final=True)
            continue
        if header is None:
            raise BadInput(
                f"{row.policy} is not kept any more; the log's propensity {row.propensity:g} is what is left"
            )
        policy = load_policy(stored_snapshot(client, key, header).blob)
        yield key, Snapshot(align_policy(policy, plan.policies[key]), header.version)


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
