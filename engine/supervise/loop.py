"""Looks at the running shop repeatedly: moves ramps and sends notices.

The state is one JSON file, `DATA/supervise/state.json`, written whole and renamed; a lock beside it lets one process
look at a time. What a look changes, in this order, so that a process that is killed repeats and never skips:

    1. the store: the ramp's position, or a pause by the kill switch      (the same again changes nothing)
    2. the log: an audit event in a spool                                 (a repetition is a second event)
    3. the state file, with the notice of the move
    4. the receivers: each message until it is taken, a day at most       (a repetition has the same id)
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog
from msgspec.structs import replace

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.report.model import Report
from engine.catalog.plan.plan import Experiment, Plan
from engine.catalog.spec.notify import NoticeKind, NotifyFile, ReceiverSpec
from engine.catalog.spec.ramp import HeldRamp
from engine.claims.claims import UNIT, PoolShare, pool_key
from engine.claims.requirements import every_share
from engine.errors import BadInput, StoreUnavailable
from engine.journal import stream
from engine.journal.audit import append_audit
from engine.keyspace import PAUSED_EXPERIMENTS
from engine.learn.prices import units_left
from engine.metric_kinds import METRIC_KINDS
from engine.service.kill_switch import Pause
from engine.settings import Settings
from engine.snapshots.publish import open_breakers, publish_ramp_position, ramp_positions, store_errors
from engine.supervise.notices import (
    Notice,
    digest_markdown,
    notices_of_breakers,
    notices_of_pools,
    notices_of_report,
)
from engine.supervise.ramp import LOSS_LEVEL, RampLook, RampState, next_state
from engine.supervise.receivers import Message, NotDelivered, send
from engine.supervise.running_state import read_pauses
from engine.vocabulary import DAY, RAMP_MOVED

EVERY = 60.0
"""Seconds between two looks."""
SUPERVISOR = "ramp"
"""The author of the pause of an experiment whose ramp returned everyone to control."""
WEEK = 7 * DAY
_log = structlog.get_logger(__name__)


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a receiver has not accepted yet."""

    receiver: str
    message: Message


class SupervisionState(msgspec.Struct, frozen=True, kw_only=True):
    """The state stored between two looks: ramps by experiment, notices sent and waiting, with their first time.

    `sent` has the ids of messages by receiver with their time; `seen` the first look at each experiment (s since 1970);
    `units` those of each variant at the last look; `moves` are notices of ramps that no receiver was asked to take yet.
    """

    ramps: dict[str, RampState] = {}
    sent: dict[str, float] = {}
    waiting: list[Waiting] = []
    seen: dict[str, float] = {}
    units: dict[str, dict[str, int]] = {}
    moves: list[Notice] = []


class _Shop(msgspec.Struct, frozen=True, kw_only=True):
    """The shop at one look, with ramp positions and pauses from the store."""

    plan: Plan
    positions: Mapping[str, float]
    paused: Mapping[str, Pause]
    now: float


class Supervision:
    """Looks at the shop of one data folder."""

    def __init__(self, settings: Settings, client: stream.StreamClient) -> None:
        self._settings = settings
        self._client = client
        self._file = settings.data / "supervise" / "state.json"
        self.state = _read_state(self._file)

    def look(self, plan: Plan, notify: NotifyFile, now: float) -> list[Notice]:
        """Move a plan's ramps, send due notices, and return the notices of this look.

        Raises:
            StoreUnavailable: if the store does not answer; the next look begins again.
        """
        with store_errors("looking at the running experiments"):
            paused = read_pauses(self._client)
            shop = _Shop(plan=plan, positions=ramp_positions(self._client), paused=paused, now=now)
            notices: list[Notice] = []
            reports: list[Report] = []
            for experiment in running_experiments(plan, now):
                report = self._report(plan, experiment)
                if report is None:
                    continue
                reports.append(report)
                seen = self.state.seen.setdefault(experiment.key, now)
                if experiment.key not in paused:
                    notices += notices_of_report(report, now, max(seen, experiment.start))
                ramp = experiment.spec.ramp
                if isinstance(ramp, HeldRamp):
                    self._move(shop, experiment, ramp, report)
            notices += notices_of_pools(self._read_pools(plan, now), now)
            notices += notices_of_breakers(open_breakers(self._client), now)
        notices += self.state.moves
        self._deliver(notify, notices, reports, now)
        return notices

    def _report(self, plan: Plan, experiment: Experiment, *, alpha: float | None = None) -> Report | None:
        """The experiment's report; None if there is nothing to report yet.

        With `alpha` it is one of a single look at that level; otherwise that of a ramp holds at every look.
        """
        try:
            question, metrics = build_question(plan, experiment.key)
            inference = question.inference
            if alpha is not None:
                inference = replace(inference, method="fixed", alpha=alpha)
            elif isinstance(experiment.spec.ramp, HeldRamp):
                inference = replace(inference, method="sequential")
            resumed = self.state.ramps[experiment.key].judged_from if experiment.key in self.state.ramps else 0.0
            start = max(question.start or 0.0, resumed) or None
            asked = replace(question, inference=inference, start=start)
            return analyze_experiment(asked, metrics, self._settings.log)
        except BadInput as error:
            _log.warning("cannot report an experiment", experiment=experiment.key, error=str(error))
            return None

    def _move(self, shop: _Shop, experiment: Experiment, ramp: HeldRamp, report: Report) -> None:
        """Move one ramp if it is due. A person's pause stops it; its step begins again at the resume."""
        key, now = experiment.key, shop.now
        stored, pause = self.state.ramps.get(key), shop.paused.get(key)
        if stored is not None and pause is not None and (pause.by != SUPERVISOR or stored.status == "stopped"):
            if stored.status == "running":
                self.state.ramps[key] = replace(stored, since=now)
            return
        before = _current_state(stored, ramp, shop.positions.get(key, 0.0), now)
        if pause is not None and pause.by != SUPERVISOR:
            return
        if pause is not None:  # the process ended before it stored what it had done
            after = replace(before, since=now, status="stopped", reason=pause.reason)
        elif stored is not None and before.judged_from > stored.judged_from:  # resumed: the report is of before
            after = before
        else:
            after = next_state(ramp, before, self._ramp_look(shop.plan, experiment, ramp, report), now)
        if after is stored:
            return
        if after.status == "stopped":
            self._client.hset(PAUSED_EXPERIMENTS, key, msgspec.json.encode(Pause(SUPERVISOR, now, after.reason)))
            publish_ramp_position(self._client, key, ramp.steps[0])
        else:
            publish_ramp_position(self._client, key, after.coverage)
        self._record(key, after, now)
        title = {
            "running": f"{key}: at {after.coverage:.3g} of its audience",
            "stopped": f"{key}: everyone is back at control",
            "done": f"{key}: its ramp is over",
        }[after.status]
        notice = Notice(kind="ramp", subject=key, title=title, text=f"{after.reason}.", at=now)
        ramps = self.state.ramps | {key: after}
        self._store(replace(self.state, ramps=ramps, moves=[*self.state.moves, notice]))

    def _ramp_look(self, plan: Plan, experiment: Experiment, ramp: HeldRamp, report: Report) -> RampLook:
        """The report with the inputs of the loss, if a budget limits it."""
        metrics = experiment.spec.metrics
        if ramp.loss_budget is None or metrics is None:
            return RampLook(report=report)
        primary = plan.metrics[metrics.primary]
        worth = primary.money if primary.money is not None else 1.0 if METRIC_KINDS[primary.kind].is_money else None
        loss_report = self._report(plan, experiment, alpha=LOSS_LEVEL)
        before = self.state.units.get(experiment.key, {})
        self.state.units[experiment.key] = report.units
        return RampLook(report=report, loss_report=loss_report, worth=worth, before=before)

    def _record(self, key: str, after: RampState, now: float) -> None:
        """Append the audit event of a move to the log, by a spool that a server or the collector ships."""
        properties = {"experiment": key, "coverage": after.coverage, "status": after.status, "reason": after.reason}
        message_id = f"ramp-{key}-{after.since!r}"
        append_audit(self._settings, RAMP_MOVED, properties, message_id=message_id, now=now)
        _log.warning("ramp moved", experiment=key, coverage=after.coverage, status=after.status, reason=after.reason)

    def _read_pools(self, plan: Plan, now: float) -> dict[tuple[NoticeKind, str], tuple[float, float]]:
        """The rest and the total of each of the offers' stocks and budgets."""
        found: dict[tuple[NoticeKind, str], tuple[float, float]] = {}
        for offer in plan.offers.values():
            for share in every_share(plan, offer, now):
                if share.pool == "coupon":
                    continue  # its codes are counted by the metrics of the servers
                left = units_left(self._client, share, now)
                if left is None:
                    continue
                kind: NoticeKind = "budget" if share.pool == "budget" else "stock"
                whole = share.limit if share.limit is not None else stock_level(self._client, share)
                found[kind, share.name] = left, whole
        return found

    def _deliver(self, notify: NotifyFile, notices: Sequence[Notice], reports: Sequence[Report], now: float) -> None:
        """Send new and waiting notices; one that is not accepted within a day is dropped and logged."""
        receivers = {receiver.key: receiver for receiver in notify.receivers}
        sent = {key: at for key, at in self.state.sent.items() if at > now - 8 * DAY}
        waiting = {(one.receiver, one.message.id): one for one in self.state.waiting}
        for receiver in notify.receivers:
            for message in _messages(receiver, notices, reports, now):
                if f"{receiver.key}:{message.id}" not in sent:
                    waiting.setdefault((receiver.key, message.id), Waiting(receiver=receiver.key, message=message))
        self._store(replace(self.state, sent=sent, waiting=list(waiting.values()), moves=[]))
        silent: set[str] = set()
        for place, one in list(waiting.items()):
            found = receivers.get(one.receiver)
            if found is None or now - one.message.at > DAY:
                _log.error("a notice was not delivered", receiver=one.receiver, title=one.message.title)
            elif one.receiver in silent:
                continue  # it failed a moment ago: the looks at ramps must not wait for it
            else:
                try:
                    send(found, one.message)
                except (NotDelivered, BadInput) as error:
                    _log.warning("a notice waits for its receiver", receiver=one.receiver, error=str(error))
                    silent.add(one.receiver)
                    continue
                sent[f"{one.receiver}:{one.message.id}"] = now
            del waiting[place]
            self._store(replace(self.state, sent=sent, waiting=list(waiting.values())))

    def _store(self, state: SupervisionState) -> None:
        """Replace the state, in memory and on disk."""
        self.state = state
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)


def running_experiments(plan: Plan, now: float) -> Iterator[Experiment]:
    """Yield the experiments and rules that have metrics and run at `now`."""
    for experiment in plan.experiments.values():
        for one in (experiment, *(rule.experiment for rule in experiment.rules)):
            is_running = one.spec.status == "running" and one.start <= now < one.end
            if is_running and one.spec.metrics is not None and len(one.spec.variants) > 1:
                yield one


def has_held_ramps(plan: Plan) -> bool:
    """Whether an experiment or a rule of the plan has a ramp that holds itself."""
    flags = plan.experiments.values()
    return any(one.held_steps or any(rule.experiment.held_steps for rule in one.rules) for one in flags)


def _current_state(stored: RampState | None, ramp: HeldRamp, position: float, now: float) -> RampState:
    """The state before a look: as stored, unless the ramp is new, resumed by a person, or changed."""
    reached = max((step for step in ramp.steps if step <= position), default=ramp.steps[0])
    if stored is None:
        return RampState(coverage=reached, since=now, reason="it begins")
    if stored.status == "stopped":
        reason = "it was resumed and begins again"
        return RampState(coverage=ramp.steps[0], since=now, reason=reason, judged_from=now)
    if stored.coverage != reached:
        return replace(stored, coverage=reached, since=now, status="running", reason="its steps were changed")
    if stored.status == "done" and reached < ramp.steps[-1]:
        return replace(stored, since=now, status="running", reason="a step was added")
    return stored


def stock_level(client: stream.StreamClient, share: PoolShare) -> float:
    """The last level of a stock that the shop set."""
    return float(client.hget(pool_key(share), "level") or 0) / UNIT


def supervise(
    settings: Settings,
    plan_source: Callable[[], tuple[Plan, NotifyFile]],
    stop: threading.Event,
    *,
    every: float = EVERY,
    once: bool = False,
) -> list[Notice]:
    """Look every `every` seconds until `stop` is set; returns the notices of the last look.

    Raises:
        BadInput: if another process supervises the data folder.
        StoreUnavailable: with `once`, if the store does not answer.
    """
    notices: list[Notice] = []
    with _lock(settings.data / "supervise"), stream.connect_stream(settings.redis) as client:
        supervision = Supervision(settings, client)
        while not stop.is_set():
            plan, notify = plan_source()
            try:
                if not (once or notify.receivers or has_held_ramps(plan)):
                    notices = []
                else:
                    notices = supervision.look(plan, notify, time.time())
            except StoreUnavailable as error:
                if once:
                    raise
                _log.warning("the look is repeated later", error=str(error))
            if once or stop.wait(every):
                break
    return notices


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process look at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise BadInput(
                f"{folder}: another process supervises this data folder; end it, or leave it to it"
            ) from None
        yield


def _messages(
    receiver: ReceiverSpec, notices: Sequence[Notice], reports: Sequence[Report], now: float
) -> Iterator[Message]:
    """Yield the messages of this look that a receiver wants."""
    for notice in notices:
        if receiver.on is None or notice.kind in receiver.on:
            yield Message(
                id=notice.id, kind=notice.kind, subject=notice.subject, title=notice.title, text=notice.text, at=now
            )
    day = datetime.fromtimestamp(now, UTC)
    if receiver.digest is not None and day.strftime("%A").lower() == receiver.digest:
        text = digest_markdown(reports, datetime.fromtimestamp(now - WEEK, UTC))
        title = f"Experiments, week {day:%G-W%V}"
        yield Message(id=f"digest-{day:%G-W%V}", kind="digest", subject="digest", title=title, text=text, at=now)


def _read_state(file: Path) -> SupervisionState:
    """The stored state; empty if there is none.

    Raises:
        BadInput: if the file is damaged.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=SupervisionState)
    except FileNotFoundError:
        return SupervisionState()
    except msgspec.DecodeError as error:
        raise BadInput(
            f"{file}: is damaged ({error}); delete it, and ramps continue from their positions in the store"
        ) from error
