"""One learner: reads the streams, joins, teaches, commits all of it at once, then publishes.

A batch, in this order:

    read      entries of all partitions, merged by time (`merge_streams`)
    learn     join, circuit breaker, teach, change detection, in one transaction with the stream position (`state`)
    commit    the position in the stream, which may then be trimmed up to it
    publish   snapshots, the sum of parts, prices, trips, figures, and the outbox

Whatever fails after `learn` is repeated by the next batch: publishing is idempotent by version, shipping by sequence
number. Whatever fails before it is read again. A store that is away therefore costs time and nothing else.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from engine import keyspace
from engine.catalog.plan.plan import Plan
from engine.erasure import learner_files
from engine.errors import BadInput
from engine.journal import stream
from engine.journal.spool.drain import Drain
from engine.learn.breaker import Breaker, guardrail_tests, trip_event
from engine.learn.change_detection import ChangeDetector, change_event
from engine.learn.combine import MARK, combine_parts, publish_remainder
from engine.learn.early_arrivals import EarlyArrivals
from engine.learn.join import Join
from engine.learn.merge_streams import Stamped, StreamMerger, drop_erased
from engine.learn.outbox import Outbox
from engine.learn.pending import Aliases, PendingStore, load_batch
from engine.learn.prices import PriceMover
from engine.learn.reward_rules import NO_RULES, RewardRules, reward_rules
from engine.learn.state import State, state_path
from engine.learn.teach import Learnt, fit_to_plan, restart_from, teach
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

INTERVAL = 0.1
"""Seconds between two reads of streams without news, and at least between two snapshots."""
FIRST = 0
"""The partition whose learner moves the prices; trips and changes are logged in it."""
SLACK = 10.0
"""Seconds by which the clock of streams without news stays behind ours: records may still be in a spool."""
ENTRIES = 16
"""Entries of each partition that are read at once."""
_DUE_AT_ONCE = 5_000
_PUBLISH_SHARE = 5  # publishing takes at most a sixth of the time
_TIDY_SECONDS = 5.0
_MERGE_SECONDS = 31 * 86_400.0  # no reward can change for longer
_MARK_MS = 7 * 86_400_000  # a spool that was silent for longer has no more entries
_log = structlog.get_logger(__name__)


class Learner:
    """The file of one learner and its position in the streams; `step` processes one batch."""

    def __init__(self, settings: Settings, owned: Sequence[int] | None = None, *, entries: int = ENTRIES) -> None:
        self._owned = None if owned is None else frozenset(owned)
        self._suffix = "" if owned is None else MARK + "-".join(map(str, sorted(owned)))
        self._state = State(state_path(settings.data, owned))
        self._data = settings.data
        self._client = stream.connect_stream(settings.redis)
        self._outbox = Outbox(self._state.db, self._state.id)
        self._time = self._state.time()
        self._entries = entries
        self._learnt = self._state.policies()
        self._partitions = settings.partitions
        self._reader: stream.Reader | None = None
        self._merger = StreamMerger(stream.Progress(), {})
        self._plan: Plan | None = None
        self._rules = NO_RULES
        self._breaker = Breaker(self._state.db, {})
        self._detector = ChangeDetector(self._state.db)
        self._prices: PriceMover | None = None
        self._published: dict[str, int] = {}
        self._figures: dict[str, float] = {}
        self._erasures = stream.BEGINNING
        self._next_publish = 0.0
        self._tidied = 0.0

    def close(self) -> None:
        """Close the file and the connection."""
        self._state.close()
        self._client.close()

    def hand_over_if_lost(self) -> bool:
        """If the file was deleted, publish and commit what only this process still knows; whether it was.

        A learner with a new file then starts from the store.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        if not self._state.is_lost:
            return False
        with store_errors("handing over what was learnt"):
            if self._reader is not None and (progress := self._state.progress()) is not None:
                self._publish(force=True)
                self._outbox.ship(self._client)
                self._reader.commit(progress)  # last: whoever reads from here has the policies of before
        _log.error(
            "the learner's file was deleted: starting over from the published snapshots and positions, without the "
            "decisions whose reward was open",
            file=str(self._state.path),
        )
        return True

    def drain(self, settings: Settings) -> Drain:
        """A drain that ends when everything answered until now is in the streams."""
        return Drain(settings, self._client, "shipped", self._owned)

    def step(self, plan: Plan, now: float | None) -> bool:
        """Process one batch; False if there was nothing to do.

        Args:
            plan: the plan to learn by.
            now: moves the clock while no records come (s since 1970); None to let only records move it.

        Raises:
            StoreUnavailable: if the store does not answer; what was learnt is stored, the rest is read again.
        """
        if plan is not self._plan:
            self._adopt_plan(plan)
        with store_errors("reading the streams"):
            reader = self._reader or self._start()
            self._erasures = learner_files.erase_pending(self._client, self._data, self._erasures)
            self._adopt_published()
            deliveries = reader.read(self._entries, besides=self._merger.waiting)
        self._merger.add(deliveries, self._entries)
        taken = self._merger.take()
        aside = _report_lost(reader)
        if taken.unreadable:
            aside["unreadable record"] += taken.unreadable
        busy = bool(deliveries or taken.records)
        if taken.records:
            self._process_due(taken.records[0].at)
        elif now is not None and not busy:
            self._process_due(now - SLACK, partial=True)
        if busy or aside:
            self._process_batch(taken.records, aside, taken.progress)
        with store_errors("publishing"):
            if busy:
                reader.commit(taken.progress)
            published = self._publish(force=not busy)
            if self._owned is not None:
                combine_parts(self._client, self._rules)
            if self._prices is not None:
                self._prices.move(self._client, self._time if now is None else now)
            self._publish_trips()
            self._publish_figures()
            shipped = self._outbox.ship(self._client)
            self._tidy()
        return bool(busy or published or shipped)

    def _start(self) -> stream.Reader:
        """Open the streams where this learner continues."""
        stream.refuse_eviction(self._client)
        progress = self._starting_progress()
        if self._owned is not None:
            publish_remainder(self._client, self._rules)
        progress = progress.without_spools_before(int(time.time() * 1000) - _MARK_MS)
        self._reader = stream.Reader(
            self._client, stream.LEARNER, progress, partitions=self._partitions, only=self._owned
        )
        self._merger = StreamMerger(progress, self._state.clocks())
        self._reader.commit(self._reader.progress)  # from now on nothing unread is trimmed
        return self._reader

    def _starting_progress(self) -> stream.Progress:
        """The stored progress; of a partition that another learner read further, that learner's position.

        What the other one learnt from it is in the published snapshots, which this learner adopts.
        """
        found = {p: self._client.hget(keyspace.partition(p).positions, stream.LEARNER) for p in self._own_partitions()}
        committed = {p: _decode(position) for p, position in found.items() if position}
        stored = self._state.progress()
        if stored is None:
            return stream.Progress(committed)
        beyond = {
            p: at
            for p, at in committed.items()
            if stream.position_key(at) > stream.position_key(stored.positions.get(p, stream.BEGINNING))
        }
        if beyond:
            _log.info("another learner read further; continuing from its policies", partitions=sorted(beyond))
        marks = {p: of_spools for p, of_spools in stored.marks.items() if p not in beyond}
        return stream.Progress(stored.positions | beyond, marks)

    def _adopt_published(self) -> None:
        """Adopt snapshots that others published in place of this learner's, by a rollback or a warm start."""
        headers = current_headers(self._client)
        self._published = {
            key: headers[name].version for key in self._learnt if (name := key + self._suffix) in headers
        }
        for key in self._published:
            header, own, rule = headers[key + self._suffix], self._learnt[key], self._rules.by_selection.get(key)
            is_own = header.version < own.version or (header.version, header.learnt) == (own.version, own.learnt)
            if is_own or rule is None:
                continue
            try:
                published = current_snapshot(self._client, key + self._suffix)
                after = _replaced(own, published) if published else replace(own, version=header.version)
            except (BadInput, ValueError) as error:
                _log.error(
                    "a snapshot in place of the learner's cannot be read; replacing it", key=key, error=str(error)
                )
                after = replace(own, version=header.version + 1)
            _log.info("adopted a snapshot from the store", key=key, version=header.version)
            self._learnt[key] = fit_to_plan({key: after}, RewardRules({key: rule}, frozenset(), 0.0))[key]
            with self._state.transaction():
                self._state.put_policies({key: self._learnt[key]})

    def _adopt_plan(self, plan: Plan) -> None:
        """Fit rules, guardrails, prices and policies to a new plan."""
        self._plan = plan
        self._rules = reward_rules(plan)
        share = len(self._own_partitions()) / self._partitions
        self._breaker = Breaker(self._state.db, guardrail_tests(plan), share)
        self._prices = PriceMover(self._state.db, plan) if FIRST in self._own_partitions() else None
        self._learnt = self._learnt | fit_to_plan(self._learnt, self._rules)
        with self._state.transaction():
            self._state.put_policies(self._learnt)
            self._breaker.drop_unguarded()

    def _process_due(self, until: float, *, partial: bool = False) -> None:
        """Process what is due by `until` in batches that fit in memory; the last, incomplete one only if `partial`.

        The incomplete batch is otherwise processed together with the records that follow.
        """
        while due := self._state.due(until, _DUE_AT_ONCE):
            if len(due) < _DUE_AT_ONCE and not partial:
                return
            self._process_batch([], Counter(), None, until=due[-1])

    def _process_batch(
        self,
        records: Sequence[Stamped],
        aside: Counter[str],
        progress: stream.Progress | None,
        *,
        until: float = 0.0,
    ) -> None:
        """Learn from records and from time, in one transaction with the progress."""
        time_before = self._time
        time_after = max(time_before, until, *(at for at, _, _ in records))
        clocks = {partition: at for at, partition, _ in records}
        with self._state.transaction():
            pending, early = PendingStore(self._state.db), EarlyArrivals(self._state.db)
            aliases = Aliases(self._state.db)
            records = drop_erased(records, self._state.erased())
            load_batch(records, self._rules, pending, early, aliases)
            join = Join(self._rules, pending, early, aliases)
            join.process(records, time_before, time_after)
            trips = self._breaker.process(records, time_after)
            changed, unlearnt = teach(join.lessons, self._rules, self._learnt)
            pending.write()  # after `teach`, which sets when each row was learnt
            early.write()
            aliases.write()
            self._outbox.put(join.log)
            self._outbox.put((FIRST, trip_event(trip)) for trip in trips)
            changes = self._detector.process(join.lessons, self._rules, time_after)
            self._outbox.put((FIRST, change_event(change, time_after)) for change in changes)
            self._state.put_time(time_after)
            self._state.put_clocks(clocks)
            self._state.put_policies(changed)
            self._state.add_aside(join.aside + unlearnt + aside)
            if progress is not None:
                self._state.put_progress(progress)
        self._time = time_after
        self._learnt |= changed
        if self._prices is not None:
            self._prices.observe((record for _, _, record in records), self._learnt)

    def _publish(self, *, force: bool) -> bool:
        """Publish the policies that changed: at the end of the streams (`force`), or when the last time is long ago."""
        begun = time.monotonic()
        if begun < self._next_publish and not force:
            return False
        published = False
        for key, one in self._learnt.items():
            rule = self._rules.by_selection.get(key)
            if rule is None or one.version <= self._published.get(key, 0):
                continue
            blob = dump_policy(align_policy(one.policy, rule.selection))
            header = Header.of(one.version, time.time(), one.learnt, one.meaning, blob)
            publish_snapshot(self._client, key + self._suffix, header, blob)
            published = True
        self._next_publish = begun + max(INTERVAL, _PUBLISH_SHARE * (time.monotonic() - begun))
        return published

    def _publish_trips(self) -> None:
        """Publish new trips, and drop those that somebody closed in the store."""
        known = self._state.published_trips()
        for selection in set(known).difference(open_breakers(self._client)) if known else ():
            self._state.drop_trip(selection)
            _log.info("circuit breaker closed by hand", selection=selection)
        for selection, reason in self._state.unpublished_trips():
            open_breaker(self._client, selection, reason)
            self._state.mark_published(selection)
            _log.error("circuit breaker open: the fallback is shown", selection=selection, reason=reason)

    def _publish_figures(self) -> None:
        """Publish the counters that changed, for the metrics of the decision servers."""
        figures = {f"aside|{reason}|{self._suffix}": float(n) for reason, n in self._state.aside().items()}
        figures |= {f"learnt|{key}|{self._suffix}": one.learnt for key, one in self._learnt.items()}
        figures |= _change_figures(self._detector.counts(), self._suffix)
        publish_figures(self._client, dict(figures.items() - self._figures.items()))
        self._figures = figures

    def _tidy(self) -> None:
        """Delete what is collected or too old to matter, every few seconds."""
        if time.monotonic() - self._tidied > _TIDY_SECONDS:
            self._outbox.drop_collected(self._client)
            self._state.drop_merges(self._time - _MERGE_SECONDS)
            self._tidied = time.monotonic()

    def _own_partitions(self) -> Collection[int]:
        return range(self._partitions) if self._owned is None else self._owned


def _report_lost(reader: stream.Reader) -> Counter[str]:
    """Log and count the records that the store lost before they were read."""
    aside: Counter[str] = Counter()
    if reader.lost:
        _log.error("the store lost records that were never read", lost=[span._asdict() for span in reader.lost])
        aside["lost by the store"] = sum(span.last - span.first + 1 for span in reader.lost)
        reader.lost.clear()
    return aside


def _change_figures(counts: Mapping[tuple[str, str], int], suffix: str) -> dict[str, float]:
    return {f"changes|{selection}/{arm}|{suffix}": float(n) for (selection, arm), n in counts.items()}


def _replaced(own: Learnt, published: StoredSnapshot) -> Learnt:
    """A published snapshot in place of the learner's own; unchanged if a learner with a new file learnt nothing yet."""
    header, policy = published.header, load_policy(published.blob)
    if own.version == 0:
        return Learnt(policy, header.meaning, header.version, header.learnt)
    return restart_from(replace(own, version=header.version), policy, header.meaning, header.learnt)


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
