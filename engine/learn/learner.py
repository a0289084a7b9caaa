"""The learner's loop: read the streams, join, teach, commit all of it at once, then tell the others."""

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import structlog

from engine import keyspace
from engine.catalog.plan.plan import Plan
from engine.erasure import listener
from engine.errors import BadInput, StoreUnavailable
from engine.journal import stream
from engine.journal.log_once import LogOnce
from engine.journal.spool.drain import Drain
from engine.learn.aliases import Aliases
from engine.learn.breaker import Breaker, guardrail_tests, trip_record
from engine.learn.change_detection import ChangeDetector, change_record
from engine.learn.combine import MARK, combine_parts, keep_the_rest
from engine.learn.early_arrivals import EarlyArrivals
from engine.learn.erased_records import without_erased
from engine.learn.join import Join, bring
from engine.learn.learner_lock import only_learner
from engine.learn.merge_streams import Stamped, StreamMerger
from engine.learn.outbox import Outbox
from engine.learn.pending import Board
from engine.learn.prices import ShadowPrices
from engine.learn.reward_rules import NO_RULES, Rules, rules_of
from engine.learn.state import State, path_of
from engine.learn.teach import Learnt, fitted, restarted, teach
from engine.settings import Settings
from engine.snapshots.header import Header, StoredSnapshot, align_policy
from engine.snapshots.publish import (
    current_headers,
    current_snapshot,
    open_breaker,
    open_breakers,
    publish_figures,
    publish_snapshot,
    store_errors,
)
from policies import dump_policy, load_policy

INTERVAL = 0.1  # between looks at the streams' ends, and between two snapshots at least
FIRST = 0  # the partition whose learner moves the prices and tells of trips
SLACK = 10.0  # how far the streams' clock stays behind ours while nothing comes in
ENTRIES = 16  # of each partition that are read at once
GARBAGE = (100_000, 20, 50)
"""How many more objects are made than freed before cycles are looked for: a batch holds many records and no cycle."""
_PIECE = 5_000
_TURN = 1.0
_TIDY = 5.0
_REMEMBER_MERGES = 31 * 86_400.0  # no reward can change for longer
_KEEP_MARKS_MS = 7 * 86_400_000
_log = structlog.get_logger(__name__)


def learn(
    settings: Settings,
    plan_source: Callable[[], Plan],
    stop: threading.Event,
    once: bool = False,  # noqa: FBT001, FBT002 - the last argument of a verb
    *,
    owned: Sequence[int] | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Learn until `stop`; with `once` only until all that is in the streams is learnt, published and shipped.

    With `once` that is also what was answered before and is still in a spool of this machine.
    Of all partitions, or of those `owned`, whose learners publish parts that `combine` adds up. `clock` (s since 1970)
    moves the time of partitions in which nothing happens; with `once` only the records do. While another process learns
    a partition of these with the same data folder this one waits, to take its place.

    Raises:
        StoreUnavailable: with `once`, if the store does not answer.
        sqlite3.Error: if the state cannot be written. Nothing is lost: what was not committed is read again.
    """
    said = False
    while not stop.is_set():
        with only_learner(settings.data, range(settings.partitions) if owned is None else owned) as alone:
            if alone and _learn(settings, plan_source, stop, once, owned, clock):
                return
        if alone:
            continue
        if not said:
            _log.warning(
                "another learner has the data folder; waiting", data=str(settings.data), partitions=owned or "all"
            )
            said = True
        stop.wait(_TURN)


def _learn(
    settings: Settings,
    plan_source: Callable[[], Plan],
    stop: threading.Event,
    once: bool,  # noqa: FBT001 - as given
    owned: Sequence[int] | None,
    clock: Callable[[], float],
) -> bool:
    """Learn until the end; False if the file was lost, so that it is to begin anew."""
    learner = Learner(settings, owned)
    drain = learner.drain(settings) if once else None
    wait, outage = INTERVAL, LogOnce("learning waits", "learning goes on")
    often = gc.get_threshold()
    gc.set_threshold(*GARBAGE)
    try:
        while not stop.is_set():
            try:
                all_came = drain is not None and _all_came(drain)
                if learner.left():
                    return False
                busy = learner.step(plan_source(), None if once else clock())
                wait = INTERVAL
                outage.over()
            except StoreUnavailable as error:
                if once:
                    raise
                outage.failed(error)
                busy, wait = False, min(2 * wait, 5.0)
            if all_came and not busy:
                return True
            if not busy:
                stop.wait(wait)
        return True
    finally:
        gc.set_threshold(*often)
        if drain is not None:
            drain.close()
        learner.close()


def _all_came(drain: Drain) -> bool:
    with store_errors("waiting for the spools"):
        return drain.done()


class Learner:
    """One learner's file and place in the streams; each `step` is a batch."""

    def __init__(self, settings: Settings, owned: Sequence[int] | None = None, *, entries: int = ENTRIES) -> None:
        self._owned = None if owned is None else frozenset(owned)
        self._suffix = "" if owned is None else MARK + "-".join(map(str, sorted(owned)))
        self._state = State(path_of(settings.data, owned))
        self._data = settings.data
        self._client = stream.connect_stream(settings.redis)
        self._outbox = Outbox(self._state.db, self._state.id)
        self._time = self._state.time()
        self._entries = entries
        self._learnt = self._state.policies()
        self._partitions = settings.partitions
        self._reader: stream.Reader | None = None
        self._intake = StreamMerger(stream.Progress(), {})
        self._plan: Plan | None = None
        self._rules = NO_RULES
        self._breaker = Breaker(self._state.db, {})
        self._changes = ChangeDetector(self._state.db)
        self._prices: ShadowPrices | None = None
        self._told: dict[str, int] = {}
        self._figures: dict[str, float] = {}
        self._erasures = stream.BEGINNING
        self._next_publish = 0.0
        self._tidied = 0.0

    def close(self) -> None:
        """Let go of file and store."""
        self._state.close()
        self._client.close()

    def left(self) -> bool:
        """Whether our file was lost; the store has then all that we learnt, for one who begins anew.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        if not self._state.lost:
            return False
        with store_errors("leaving what was learnt"):
            if self._reader is not None and (progress := self._state.progress()) is not None:
                self._publish(force=True)
                self._outbox.ship(self._client)
                self._reader.commit(progress)
        _log.error(
            "the learner's file was deleted: it begins anew where the store's snapshots and positions are, "
            "without the decisions whose reward was open",
            file=str(self._state.path),
        )
        return True

    def drain(self, settings: Settings) -> Drain:
        """What tells when all that was answered until now is in the streams."""
        return Drain(settings, self._client, "shipped", self._owned)

    def step(self, plan: Plan, now: float | None) -> bool:
        """Read and learn one batch; False when there was nothing to do.

        `now` (s since 1970) moves the clock while nothing comes.

        Raises:
            StoreUnavailable: if the store does not answer; what was learnt is kept, what was not is read again.
        """
        if plan is not self._plan:
            self._adopt(plan)
        with store_errors("reading the streams"):
            reader = self._reader or self._start()
            self._listen()
            deliveries = reader.read(self._entries, besides=self._intake.waiting)
        self._intake.add(deliveries, self._entries)
        taken = self._intake.take()
        unreadable = Counter({"unreadable record": taken.unreadable} if taken.unreadable else {})
        if reader.lost:
            _log.error("the store lost records that were never read", lost=[one._asdict() for one in reader.lost])
            unreadable["lost by the store"] += sum(one.last - one.first + 1 for one in reader.lost)
            reader.lost.clear()
        busy = bool(deliveries or taken.records)
        if taken.records:
            self._let_time_pass(taken.records[0].at)
        elif now is not None and not busy:
            self._let_time_pass(now - SLACK, at_all=True)
        if busy or unreadable:
            self._batch(taken.records, unreadable, taken.progress)
        with store_errors("publishing"):
            if busy:
                reader.commit(taken.progress)
            published = self._publish(force=not busy)
            if self._owned is not None:
                combine_parts(self._client, self._rules)
            if self._prices is not None:
                self._prices.move(self._client, self._time if now is None else now)
            self._tell_trips()
            self._tell_figures()
            shipped = self._outbox.ship(self._client)
            if time.monotonic() - self._tidied > _TIDY:
                self._outbox.drop_collected(self._client)
                self._state.forget_merges(self._time - _REMEMBER_MERGES)
                self._tidied = time.monotonic()
        return bool(busy or published or shipped)

    def _start(self) -> stream.Reader:
        stream.refuse_eviction(self._client)
        progress = self._where_to_begin()
        if self._owned is not None:
            keep_the_rest(self._client, self._rules)
        progress = progress.without_spools_before(int(time.time() * 1000) - _KEEP_MARKS_MS)
        self._reader = stream.Reader(
            self._client, stream.LEARNER, progress, partitions=self._partitions, only=self._owned
        )
        self._intake = StreamMerger(progress, self._state.clocks())
        self._reader.commit(self._reader.progress)  # from now on nothing that is not read yet is trimmed
        return self._reader

    def _where_to_begin(self) -> stream.Progress:
        """Where our file ends, or beyond it where another learner had read a partition on: that has taught it."""
        found = {p: self._client.hget(keyspace.partition(p).positions, stream.LEARNER) for p in self._mine()}
        others = {p: _text(position) for p, position in found.items() if position}
        mine = self._state.progress()
        if mine is None:
            return stream.Progress(others)
        beyond = {
            p: at
            for p, at in others.items()
            if stream.position_key(at) > stream.position_key(mine.positions.get(p, stream.BEGINNING))
        }
        if beyond:
            _log.info("another learner had read on; its policies are taken over", partitions=sorted(beyond))
        marks = {p: of_spools for p, of_spools in mine.marks.items() if p not in beyond}
        return stream.Progress(mine.positions | beyond, marks)

    def _listen(self) -> None:
        """See what the store has; take over what others published in our place, by a rollback or a warm start."""
        self._erasures = listener.forget_pending(self._client, self._data, self._erasures)
        there = current_headers(self._client)
        self._told = {key: there[name].version for key in self._learnt if (name := key + self._suffix) in there}
        for key in self._told:
            header, mine = there[key + self._suffix], self._learnt[key]
            if header.version < mine.version or (header.version, header.learnt) == (mine.version, mine.learnt):
                continue
            rule = self._rules.of.get(key)
            if rule is None:
                continue
            try:
                published = current_snapshot(self._client, key + self._suffix)
                after = _instead(mine, published) if published else replace(mine, version=header.version)
            except (BadInput, ValueError) as error:
                _log.error("a snapshot in our place cannot be read; ours replaces it", key=key, error=str(error))
                after = replace(mine, version=header.version + 1)
            _log.info("took over from the store", key=key, version=header.version)
            self._learnt[key] = fitted({key: after}, Rules({key: rule}, frozenset(), 0.0))[key]
            with self._state.transaction():
                self._state.put_policies({key: self._learnt[key]})

    def _adopt(self, plan: Plan) -> None:
        self._plan = plan
        self._rules = rules_of(plan)
        self._breaker = Breaker(self._state.db, guardrail_tests(plan), len(self._mine()) / self._partitions)
        self._prices = ShadowPrices(self._state.db, plan) if FIRST in self._mine() else None
        self._learnt = self._learnt | fitted(self._learnt, self._rules)
        with self._state.transaction():
            self._state.put_policies(self._learnt)
            self._breaker.keep_to_guards()

    def _let_time_pass(self, until: float, *, at_all: bool = False) -> None:
        """Do what is due until then in pieces that fit in memory; less than a piece only `at_all`."""
        while due := self._state.due(until, _PIECE):
            if len(due) < _PIECE and not at_all:
                return
            self._batch([], Counter(), None, until=due[-1])

    def _batch(
        self,
        records: Sequence[Stamped],
        unreadable: Counter[str],
        progress: stream.Progress | None,
        *,
        until: float = 0.0,
    ) -> None:
        """Learn from records and from time, in one transaction."""
        time_before = self._time
        time_after = max(time_before, until, *(at for at, _, _ in records))
        clocks = {partition: at for at, partition, _ in records}
        with self._state.transaction():
            board, early, aliases = Board(self._state.db), EarlyArrivals(self._state.db), Aliases(self._state.db)
            records = without_erased(self._state.db, records)
            bring(records, self._rules, board, early, aliases)
            join = Join(self._rules, board, early, aliases)
            join.run(records, time_before, time_after)
            trips = self._breaker.take(records, time_after)
            changed, unlearnt = teach(join.lessons, self._rules, self._learnt)
            board.write()
            early.write()
            aliases.write()
            self._outbox.put(join.log)
            self._outbox.put((FIRST, trip_record(trip)) for trip in trips)
            changes = self._changes.take(join.lessons, self._rules, time_after)
            self._outbox.put((FIRST, change_record(change, time_after)) for change in changes)
            self._state.put_time(time_after)
            self._state.put_clocks(clocks)
            self._state.put_policies(changed)
            self._state.put_aside(join.aside + unlearnt + unreadable)
            if progress is not None:
                self._state.put_progress(progress)
        self._time = time_after
        self._learnt |= changed
        if self._prices is not None:
            self._prices.saw((record for _, _, record in records), self._learnt)

    def _publish(self, *, force: bool) -> bool:
        """Publish what changed, at the end of the streams or after a while; never for most of our time."""
        begun = time.monotonic()
        if begun < self._next_publish and not force:
            return False
        published = False
        for key, one in self._learnt.items():
            rule = self._rules.of.get(key)
            if rule is None or one.version <= self._told.get(key, 0):
                continue
            blob = dump_policy(align_policy(one.policy, rule.selection))
            header = Header.of(one.version, time.time(), one.learnt, one.meaning, blob)
            publish_snapshot(self._client, key + self._suffix, header, blob)
            published = True
        self._next_publish = begun + max(INTERVAL, 5 * (time.monotonic() - begun))
        return published

    def _tell_trips(self) -> None:
        told = self._state.told_trips()
        for selection in set(told).difference(open_breakers(self._client)) if told else ():
            self._state.forget_trip(selection)
            _log.info("circuit breaker closed by hand", selection=selection)
        for selection, reason in self._state.untold_trips():
            open_breaker(self._client, selection, reason)
            self._state.told_trip(selection)
            _log.error("circuit breaker open: the fallback is shown", selection=selection, reason=reason)

    def _tell_figures(self) -> None:
        """Let the decision servers show what was counted, where it changed."""
        figures = {f"aside|{reason}|{self._suffix}": float(n) for reason, n in self._state.aside().items()}
        figures |= {f"learnt|{key}|{self._suffix}": one.learnt for key, one in self._learnt.items()}
        for (selection, arm), changes in self._changes.counts().items():
            figures[f"changes|{selection}/{arm}|{self._suffix}"] = float(changes)
        publish_figures(self._client, dict(figures.items() - self._figures.items()))
        self._figures = figures

    def _mine(self) -> Collection[int]:
        return range(self._partitions) if self._owned is None else self._owned


def _instead(mine: Learnt, published: StoredSnapshot) -> Learnt:
    """A published snapshot in the place of `mine`; as it is if nothing was learnt here, because our file is new."""
    header, policy = published.header, load_policy(published.blob)
    if mine.version == 0:
        return Learnt(policy, header.meaning, header.version, header.learnt)
    return restarted(replace(mine, version=header.version), policy, header.meaning, header.learnt)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
