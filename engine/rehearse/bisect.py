"""Finds the cause of a changed answer to one customer: a line of YAML, or a policy's snapshot.

Two logged decisions of the customer are compared, an early and a late one. The late one is replayed as `explain` does,
under the plans that ran between them in their order, then with the snapshots between them. The last change counts: the
plans are tried from the newest on until one gives another answer. The lines that the next plan changed are then tried
one by one on that plan.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from engine.catalog.archive import Archive
from engine.catalog.archived_plan import ArchivedPlan, read_archived_files, read_archived_plan, read_kept_plans
from engine.catalog.diff.yaml_lines import ChangedLine, changed_lines, valid_groups
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.decision.decision import DecideOptions, decide
from engine.decision.offers import Snapshot
from engine.errors import BadInput
from engine.journal import traces
from engine.journal.from_decision import decision_record
from engine.journal.log import locks, parquet
from engine.journal.stream import StreamClient
from engine.rehearse.explain import FoundRow, find_logged_rows, read_snapshots_of
from engine.snapshots.header import align_policy, meaning_of
from engine.snapshots.publish import stored_headers, stored_snapshot
from engine.vocabulary import item_name
from policies import load_policy

Step = TypeVar("Step")
ReplayOutcome = tuple[str | None, str]
"""The variant or the offer that a decision gives, and the reason."""
ChangeCause = Literal["plan", "snapshot", "other", "nothing"]
"""`other`: the customer, the request or the draw. `nothing`: both decisions gave the same."""
_COLUMNS = ["decision_id", "time", "customer", "key", "variant", "reason", "plan", "policy", "position"]


class SeenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of one logged decision under a key; `time` in seconds since 1970."""

    decision_id: str
    time: float
    got: str | None
    reason: str
    plan: str
    policy: str | None


class FoundChange(msgspec.Struct, frozen=True, kw_only=True):
    """The cause of a changed answer, and the decisions before and after it.

    Of a plan, `lines` each change the answer alone; where none does, they are all that differ. `since` is when the plan
    or the snapshot that changes it began to run, None of a plan that had run before; `author` changed its files last.
    """

    customer: str
    key: str
    before: SeenAnswer
    after: SeenAnswer
    cause: ChangeCause
    text: str
    plans: tuple[str, str] | None = None
    since: float | None = None
    author: str | None = None
    lines: list[ChangedLine] = []
    is_alone: bool = False
    snapshots: tuple[str, str] | None = None


class _Replay(NamedTuple):
    """The later decision, to be repeated."""

    rows: Sequence[FoundRow]
    trace: traces.Trace
    decision_id: str
    key: str
    client: StreamClient

    def outcome(self, plan: Plan, learnt: dict[str, Snapshot] | None = None) -> ReplayOutcome:
        """The decision's answer under a plan, by default with its own snapshots."""
        trace = self.trace
        plan = replace(plan, paused=frozenset(trace.paused), ramped=trace.ramped)
        if learnt is None:
            logged = [row for row, _, _ in self.rows]
            learnt = dict(read_snapshots_of(plan, self.client, logged, trace.probabilities))
        options = DecideOptions(degraded=trace.degraded, tripped=trace.tripped, availability=trace.availability)
        try:
            decision = decide(
                plan, learnt, trace.profile, trace.request, trace.now, decision_id=self.decision_id, options=options
            )
        except BadInput:  # a plan without the channel or a placement of the request
            return None, "not in the plan"
        for row in decision_record(decision, trace.now).rows:
            if item_name(row.key, row.position) == self.key:
                return row.variant, row.reason
        return None, "not in the plan"


def bisect_customer(
    log: Path,
    archive: Archive,
    client: StreamClient,
    customer: str,
    *,
    key: str | None = None,
    first: str | None = None,
    last: str | None = None,
) -> FoundChange:
    """Find the cause of a changed answer to a customer.

    Args:
        log: the Parquet log's folder.
        archive: the archived plans.
        client: the store with the snapshots.
        customer: the customer's id in the log.
        key: the experiment or the placement; by default the first whose answer changed.
        first: the id of the early decision; by default the last one that gave something else.
        last: the id of the late decision; by default the newest.

    Raises:
        BadInput: if there are no two such decisions, or a plan between them is not archived.
    """
    seen = list(_answers_of(log, customer))
    before, after, key = _choose_pair(seen, customer, key, first, last)
    rows = find_logged_rows(log, client, after.decision_id)
    blob = next((trace for _, _, trace in rows if trace), b"")
    late = _Replay(rows, traces.decode_trace(blob), after.decision_id, key, client)
    found = FoundChange(customer=customer, key=key, before=before, after=after, cause="nothing", text="")
    if before.got == after.got and before.reason == after.reason:
        return msgspec.structs.replace(found, text=f"both decisions gave {_named(before)}")
    change = _find_plan(late, archive, found) or _find_snapshot(late, archive, found)
    if change is not None:
        return change
    text = "no plan and no snapshot between them changed it: the customer, the request or the draw did"
    return msgspec.structs.replace(found, cause="other", text=text)


def _find_plan(late: _Replay, archive: Archive, found: FoundChange) -> FoundChange | None:
    """The change between two plans; None if the early plan also gives the late answer."""
    ran = _plans_between(archive, found.before, found.after)
    if len(ran) < 2:
        return None
    wanted = late.outcome(compile_plan(archive.read_specs(ran[-1].version)))

    def gives(plan: ArchivedPlan) -> bool:
        return late.outcome(compile_plan(archive.read_specs(plan.version))) == wanted

    pair = find_last_change(ran, gives)
    if pair is None:
        return None
    old, new = pair
    files = [_files_of(archive, plan) for plan in pair]
    changes = changed_lines(files[0], files[1])
    alone = [
        change.shown
        for group, specs in valid_groups(old.folder, files[0], files[1], changes, old.environment or "")
        if late.outcome(compile_plan(specs)) == wanted
        for change in group
    ]
    return msgspec.structs.replace(
        found,
        cause="plan",
        text=f"plan {new.version} changed it, which replaced plan {old.version}",
        plans=(old.version, new.version),
        since=new.time if new.time > found.before.time else None,
        author=new.author,
        lines=alone or [change.shown for change in changes],
        is_alone=bool(alone),
    )


def _find_snapshot(late: _Replay, archive: Archive, found: FoundChange) -> FoundChange | None:
    """The first snapshot with which the policy gives the late answer; None if the earliest one does.

    Where a snapshot is not stored any more and no other did, the cause is `other`, and the text says so.
    """
    key, _, version = (found.after.policy or "").rpartition("@")
    plan = compile_plan(archive.read_specs(found.after.plan))
    selection = plan.taught.get(key)
    if selection is None or version in ("", "0"):
        return None
    early, _, first = (found.before.policy or "").rpartition("@")
    stored = stored_headers(late.client, key)
    least = int(first) if early == key else max((x.version for x in stored if x.time <= found.before.time), default=0)
    headers = {one.version: one for one in reversed(stored) if least <= one.version <= int(version)}

    def gives(at: int) -> bool:
        if at == 0 or headers[at].meaning != meaning_of(selection):  # a server starts from the prior then
            return late.outcome(plan, {}) == wanted
        policy = load_policy(stored_snapshot(late.client, key, headers[at]).blob)
        return late.outcome(plan, {key: Snapshot(align_policy(policy, selection), at)}) == wanted

    wanted = late.outcome(plan)
    pair = find_last_change([*([0] if least == 0 else []), *headers], gives)
    if pair is None:
        if not {least, int(version)} - headers.keys() - {0}:
            return None
        text = f"no plan between them changed it; of {key} not every snapshot from @{least} to @{version} is stored"
        return msgspec.structs.replace(found, cause="other", text=f"{text} any more, so one of these may have")
    names = f"{key}@{pair[0]}", f"{key}@{pair[1]}"
    text = f"{names[1]} changed it: with {names[0]} the decision would not give {_named(found.after)}"
    since = headers[pair[1]].time
    return msgspec.structs.replace(found, cause="snapshot", text=text, snapshots=names, since=since)


def find_last_change(steps: Sequence[Step], gives: Callable[[Step], bool]) -> tuple[Step, Step] | None:
    """The last two neighbours of which only the later one gives the last step's answer.

    An answer may change several times, so a binary search could find an earlier change that was undone. None where the
    first step gives it already, or the last does not.
    """
    if len(steps) < 2 or not gives(steps[-1]) or gives(steps[0]):
        return None
    return next(pair for pair in reversed(list(pairwise(steps))) if not gives(pair[0]))


def _plans_between(archive: Archive, before: SeenAnswer, after: SeenAnswer) -> list[ArchivedPlan]:
    """The archived plans of two answers, and those that first ran between them, in order.

    A plan that ran again, as after a rollback, is archived with its first time only.
    """
    ends = [read_archived_plan(archive.directory, answer.plan) for answer in (before, after)]
    if before.plan == after.plan:
        return ends[:1]
    found = [
        plan
        for path in archive.directory.glob("*.json")
        if (plan := read_archived_plan(archive.directory, path.stem)).version not in (before.plan, after.plan)
        and before.time < plan.time < after.time
    ]
    return [ends[0], *sorted(found, key=lambda plan: plan.time), ends[1]]


def _files_of(archive: Archive, plan: ArchivedPlan) -> dict[str, bytes]:
    """The files of a plan, including the plans that its holdouts keep."""
    files = read_archived_files(archive.directory, plan)
    return files | read_kept_plans(plan.folder, files, archive.directory)[0]


def _answers_of(log: Path, customer: str) -> Iterator[tuple[str, SeenAnswer]]:
    """Yield the key and the answer of each logged row of a customer, in the order of time."""
    import pyarrow.compute as pc  # noqa: PLC0415 - slow to import

    found: list[tuple[float, str, SeenAnswer]] = []
    if (log / "decisions").is_dir():
        with locks.log_read_lock(log):
            for path in sorted((log / "decisions").glob("day=*/*.parquet")):
                for row in parquet.read_table(path, _COLUMNS, pc.field("customer") == customer).to_pylist():
                    time = row["time"].timestamp()
                    answer = SeenAnswer(
                        decision_id=row["decision_id"],
                        time=time,
                        got=row["variant"],
                        reason=row["reason"],
                        plan=row["plan"],
                        policy=row["policy"],
                    )
                    found.append((time, item_name(row["key"], row["position"] or 0), answer))
    found.sort(key=lambda one: one[0])
    yield from ((key, answer) for _, key, answer in found)


def _choose_pair(
    seen: Sequence[tuple[str, SeenAnswer]], customer: str, key: str | None, first: str | None, last: str | None
) -> tuple[SeenAnswer, SeenAnswer, str]:
    """The earlier and the later answer to compare, and their key."""
    alike: tuple[SeenAnswer, SeenAnswer, str] | None = None
    for name in [key] if key is not None else list(dict.fromkeys(one for one, _ in seen)):
        own = [answer for one, answer in seen if one == name]
        late = [one for one in own if last in (None, one.decision_id)]
        if not late:
            continue
        after = late[-1]
        early = [one for one in own if one.time < after.time and first in (None, one.decision_id)]
        others = [one for one in early if (one.got, one.reason) != (after.got, after.reason)]
        if others:
            return others[-1], after, str(name)
        if early and first is not None and alike is None:
            alike = early[-1], after, str(name)
    if alike is not None:
        return alike
    what = f"under {key!r}" if key is not None else "under any key"
    raise BadInput(
        f"{customer!r} has no two decisions {what} with different answers in the log; check the id and the key, or run "
        "'counterpoint collect --drain' first"
    )


def _named(answer: SeenAnswer) -> str:
    return f"{answer.got or 'nothing'} ({answer.reason})"
