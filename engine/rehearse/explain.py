"""Repeats a logged decision from its record, its plan and its snapshots, and compares the answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np

from engine.catalog.archive import Archive
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.creatives import CREATIVES, creative_arm
from engine.catalog.plan.plan import Plan
from engine.decision.decision import DecideOptions, Decision, decide
from engine.decision.explanation import Explanation, build_explanation
from engine.decision.offers import Snapshot
from engine.errors import BadInput, MissingExtra, has_extra
from engine.journal import traces
from engine.journal.from_decision import decision_record
from engine.journal.records import PREVIEW_MARK, DecisionRow
from engine.journal.stream import StreamClient
from engine.journal.uncollected import find_streamed_decision
from engine.snapshots.header import align_policy, meaning_of
from engine.snapshots.publish import stored_headers, stored_snapshot
from engine.vocabulary import SILENCE, item_name
from policies import Bandit, load_policy
from policies.base import ArmPositions
from policies.batches import Floats

COLUMNS = ["key", "kind", "variant", "reason", "propensity", "candidates", "plan", "policy", "trace", "position"]
_OF_CREATIVE = ("creative", "creative_propensity", "creative_policy")
COLUMNS += [*_OF_CREATIVE, "creatives"]


class LoggedRow(msgspec.Struct, frozen=True, kw_only=True):
    """The logged row of one experiment or placement of a decision; `position` is that of a list's item, from 1.

    The propensity is that of the variant with its `creative`, `creative_propensity` that of the creative given the
    variant.
    """

    kind: str
    key: str
    variant: str | None
    reason: str
    propensity: float
    policy: str | None
    candidates: list[str] = []
    position: int = 0
    creative: str | None = None
    creative_propensity: float | None = None
    creatives: list[str] = []
    creative_policy: str | None = None

    @property
    def name(self) -> str:
        """The key, or the name of the list item."""
        return item_name(self.key, self.position)


FoundRow = tuple[LoggedRow, str, bytes]
"""A row, the version of its plan, and the trace of its decision."""


class ReplayedDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The logged rows of a decision, the explanation of its repetition, and the differences between the two.

    The policies in `recorded` have no stored snapshot any more; their offers are drawn from recorded probabilities.
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
    """A policy without a snapshot, limited to its recorded probabilities in one decision.

    `recorded` has those of each position of a list, the first one first: the set of candidates tells which is asked.
    """

    kind: ClassVar[str] = "as recorded"
    recorded: Sequence[Mapping[str, float]] = field(default=(), kw_only=True)

    def chances(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - as every policy
        asked = np.array(self.arms, dtype=object)[among].tolist()
        chosen = next((one for one in self.recorded if one.keys() <= set(asked)), {})
        chances = np.array([chosen.get(arm, 0.0) for arm in asked])
        return chances if chances.any() else np.ones(chances.size)


def explain_decision(log: Path, archive: Archive, client: StreamClient, decision_id: str) -> ReplayedDecision:
    """Repeat a logged decision and explain it.

    Args:
        log: the Parquet log's folder.
        archive: the archived plans.
        client: the store with the snapshots, and with the decisions that are not collected yet.
        decision_id: the id in the decision's answer.

    Raises:
        BadInput: if the decision is not in the log, or its plan is not archived, or a snapshot is deleted and
            the record has no probabilities.
        MissingExtra: if the decision is not in the streams any more, and the libraries that read the log are missing.
        StoreUnavailable: if the store does not answer.
    """
    found = find_logged_rows(log, client, decision_id)
    blob = next((trace for _, _, trace in found if trace), b"")
    trace = traces.decode_trace(blob)
    version = found[0][1]
    plan = replace(compile_plan(archive.read_specs(version)), paused=frozenset(trace.paused), ramped=trace.ramped)
    logged = [row for row, _, _ in found]
    learnt = dict(read_snapshots_of(plan, client, logged, trace.probabilities))
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
        differences.append(
            f"decided by Counterpoint {trace.release or 'of an earlier release'}, repeated by {traces.RELEASE}"
        )
    recorded = [f"{key}@{snapshot.version}" for key, snapshot in learnt.items() if snapshot.final]
    why = build_explanation(decision)
    return ReplayedDecision(
        decision_id=decision_id,
        time=trace.now,
        plan=version,
        same=not differences,
        differences=differences,
        logged=logged,
        explanation=why,
        recorded=recorded,
    )


def find_logged_rows(log: Path, client: StreamClient, decision_id: str) -> list[FoundRow]:
    """The rows of a decision from the log, or from the streams until the collector has taken it.

    Raises:
        BadInput: if it is in neither.
        MissingExtra: if it is not in the streams any more, and the libraries that read the log are missing.
    """
    if decision_id[12:13] == PREVIEW_MARK:
        raise BadInput(
            f"{decision_id!r} was forced by a preview, so it is not logged; send its token to POST /v1/explain"
        )
    unknown = BadInput(f"{decision_id!r} is not in {log}; check the id, or run 'counterpoint collect --drain' first")
    try:
        time = int(decision_id[:12], 16) / 1000  # an id begins with its milliseconds since 1970
        day = datetime.fromtimestamp(time, UTC).date().isoformat()
    except (ValueError, OverflowError):
        raise unknown from None
    folder = log / "decisions" / f"day={day}"
    reads_log = has_extra("analysis")
    found = list(_logged_rows(log, folder, decision_id)) if reads_log and folder.is_dir() else []
    found = found or list(_streamed_rows(client, decision_id, time))
    if not found and folder.is_dir() and not reads_log:
        raise MissingExtra(f"a decision of {day}, which is in the log at {log},", "analysis")
    if not found:
        raise unknown
    return found


def _logged_rows(log: Path, folder: Path, decision_id: str) -> Iterator[FoundRow]:
    import pyarrow.compute as pc  # noqa: PLC0415 # a decision of the last seconds is explained without the log

    from engine.journal.log import locks, parquet  # noqa: PLC0415

    with locks.log_read_lock(log):
        for path in sorted(folder.glob("*.parquet")):
            table = parquet.read_table(path, COLUMNS, pc.field("decision_id") == decision_id)
            for row in table.to_pylist():
                names = ("kind", "key", "variant", "reason", "propensity", "policy", *_OF_CREATIVE)
                shown = LoggedRow(
                    **{name: row[name] for name in names},
                    candidates=row["candidates"] or [],
                    position=row["position"] or 0,
                    creatives=row["creatives"] or [],
                )
                yield shown, row["plan"], row["trace"] or b""


def _streamed_rows(client: StreamClient, decision_id: str, time: float) -> Iterator[FoundRow]:
    record = find_streamed_decision(client, decision_id, time)
    if record is None:
        return
    for row in record.rows:
        creative = row.creative
        shown = LoggedRow(
            kind=row.kind,
            key=row.key,
            variant=row.variant,
            reason=row.reason,
            propensity=row.propensity,
            policy=row.policy,
            candidates=row.candidates,
            position=row.position,
            creative=creative.key if creative else None,
            creative_propensity=creative.propensity if creative else None,
            creatives=creative.candidates if creative else [],
            creative_policy=creative.policy if creative else None,
        )
        yield shown, record.plan, record.trace


def read_snapshots_of(
    plan: Plan, client: StreamClient, logged: list[LoggedRow], chances: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, Snapshot]]:
    """Yield a decision's policies by selection of a plan, from the store or from its record.

    As in a server, a selection for which a snapshot means something else starts from its prior.
    """
    drawn, taught = [each for row in logged for each in _draws_of(row)], plan.taught
    for one in drawn:
        key, _, version = (one.policy or "@0").rpartition("@")
        selection = taught.get(key)
        if version == "0" or selection is None:
            continue
        header = next((h for h in stored_headers(client, key) if h.version == int(version)), None)
        if header is None and one.name in chances:
            recorded = [
                _policy_chances(dict(zip(each.arms, chances[each.name], strict=True)), selection.arms)
                for each in drawn
                if each.policy == one.policy and each.name in chances
            ]
            policy: Bandit = _RecordedPolicy(selection.arms, floor=0.0, recorded=recorded)
            yield key, Snapshot(policy, int(version), final=True)
            continue
        if header is None:
            raise BadInput(
                f"{one.policy} has no stored snapshot any more; the log still has the propensity {one.propensity:g}"
            )
        if header.meaning != meaning_of(selection):
            continue
        policy = load_policy(stored_snapshot(client, key, header).blob)
        yield key, Snapshot(align_policy(policy, selection), header.version)


class _Draw(NamedTuple):
    """One draw of a logged row by a policy: its name among recorded probabilities, its arms and their policy."""

    name: str
    arms: list[str]
    policy: str | None
    propensity: float


def _draws_of(row: LoggedRow) -> Iterator[_Draw]:
    """Yield the draw of a row's offer, and that of its creative if it has one."""
    yield _Draw(row.name, row.candidates, row.policy, row.propensity)
    if row.creative is not None:
        arms = [creative_arm(row.variant or "", key) for key in row.creatives]
        yield _Draw(row.name + CREATIVES, arms, row.creative_policy, row.propensity)


def _policy_chances(recorded: Mapping[str, float], arms: Sequence[str]) -> Mapping[str, float]:
    """The policy's recorded probabilities, without a holdout's share of silence.

    The repetition holds out again. To a campaign's policy silence is an arm.
    """
    if SILENCE in arms or SILENCE not in recorded:
        return recorded
    rest = sum(chance for arm, chance in recorded.items() if arm != SILENCE)
    return {arm: chance / rest for arm, chance in recorded.items() if arm != SILENCE}


def _differences(logged: list[LoggedRow], decision: Decision, now: float) -> Iterator[str]:
    made: dict[str, DecisionRow] = {
        item_name(row.key, row.position): row for row in decision_record(decision, now).rows
    }
    for row in logged:
        again = made.get(row.name)
        if again is None:
            yield f"{row.name}: was {row.variant}, and is not decided any more"
        elif (again.variant, again.reason) != (row.variant, row.reason):
            yield f"{row.name}: was {row.variant} ({row.reason}), is {again.variant} ({again.reason})"
        elif (creative := again.creative.key if again.creative else None) != row.creative:
            yield f"{row.name}: the creative was {row.creative}, is {creative}"
        elif abs(again.propensity - row.propensity) > 1e-9:
            yield f"{row.name}: the propensity was {row.propensity!r}, is {again.propensity!r}"
