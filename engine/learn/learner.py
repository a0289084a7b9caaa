"""One learner: reads the streams, joins, teaches, commits all of it in one transaction, then publishes.

A batch, in this order:

    read      entries of all partitions, merged by time (`merge_streams`)
    learn     join, circuit breaker, teach, change detection, in one transaction with the stream position (`state`)
    commit    the position in the stream, which may then be trimmed up to it
    publish   snapshots, the sum of parts, prices, trips, figures, and the outbox

Whatever fails after `learn` is repeated by the next batch: publishing is idempotent by version, shipping by sequence
number. Whatever fails before it is read again. A store that is away therefore costs time and nothing else.

A learner with another file continues from the published snapshots at the committed position. So while a snapshot waits
for its second, the commit waits too: what was learnt since is read again and not forgotten.
"""

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from engine.catalog.plan.plan import Plan
from engine.erasure import learner_files
from engine.errors import BadInput
from engine.journal import stream
from engine.learn.early_arrivals import EarlyArrivals, load_batch
from engine.learn.guarding.breaker import Breaker, guardrail_tests, trip_event
from engine.learn.guarding.change_detection import ChangeDetector, change_event, change_figures
from engine.learn.join import Join
from engine.learn.merge_streams import Stamped, StreamMerger, Taken, drop_erased, report_lost, starting_progress
from engine.learn.outbox import FAILED, FailedRecord, Outbox, quarantine_failed
from engine.learn.partitions import combine
from engine.learn.partitions.leases import PartitionLeases
from engine.learn.partitions.share import FIRST, PartitionShare
from engine.learn.pending import Aliases, PendingStore
from engine.learn.prices import PriceMover
from engine.learn.reward_rules import NO_RULES, RewardRules, reward_rules
from engine.learn.state import TRANSIENT, State, find_poisoned, state_path
from engine.learn.teach import Learnt, fit_to_plan, restart_from_snapshot, teach
from engine.settings import Settings
from engine.snapshots.header import Header, align_policy
from engine.snapshots.publish import (
    current_headers,
    current_snapshot,
    publish_figures,
    publish_snapshot,
    store_errors,
)
from policies import dump_policy

INTERVAL = 0.1
"""Seconds between two reads of streams without news, and at least between two snapshots."""
SLACK = 10.0
"""Seconds by which the clock of streams without news stays behind ours: records may still be in a spool."""
ENTRIES = 32
"""Entries of each partition that are read at once."""
_DUE_AT_ONCE = 5_000
_PUBLISH_SHARE = 5  # publishing takes at most a sixth of the time
_SNAPSHOT_SECONDS = 1.0
_SNAPSHOT_GROWTH = 0.01
"""A snapshot follows the one before it after so many seconds, or at once where it learnt so much more: each empties the
propensities that the servers cache."""
_TIDY_SECONDS = 5.0
_MERGE_SECONDS = 31 * 86_400.0  # no reward can change for longer
_MARK_MS = 7 * 86_400_000  # a spool that was silent for longer has no more entries
_log = structlog.get_logger(__name__)


class Learner:
    """The file of one learner and its position in the streams; `step` processes one batch."""

    def __init__(self, settings: Settings, owned: Sequence[int] | None = None, *, entries: int = ENTRIES) -> None:
        self._share = PartitionShare(owned, settings.partitions)
        self._state = State(state_path(settings.data, owned))
        self._data = settings.data
        self._client = stream.connect_stream(settings.redis)
        self._may_publish: Callable[[], bool] = lambda: True  # with leases, whether it still has them
        self._pending = PendingStore(self._state.db)
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
        self._headers: dict[str, Header | None] = {}  # last published or adopted; None if the store had none
        self._figures: dict[str, float] = {}
        self._erasures = stream.BEGINNING
        self._next_publish = 0.0
        self._is_committed = True
        """Whether the stream has the position that the file has."""
        self._snapshots: dict[str, tuple[float, float]] = {}  # when each was published, and what it had learnt
        self._tidied = 0.0

    def close(self) -> None:
        """Close the file and the connection."""
        self._state.close()
        self._client.close()

    def hand_over_if_lost(self) -> bool:
        """If the file was deleted, publish and commit what only this process still has; returns whether it was.

        A learner with a new file then starts from the store.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        if not self._state.is_lost:
            return False
        with store_errors("handing over what was learnt"):
            if self._reader is not None and (progress := self._state.progress()) is not None:
                self._publish(force=True, hasty=True)
                self._outbox.ship(self._client)
                self._share.commit(self._client, progress)  # last: a learner that continues here then has the policies
        _log.error(
            "the learner's file was deleted: starting over from the published snapshots and positions, without the "
            "decisions whose reward was open",
            file=str(self._state.path),
        )
        return True

    def leases(self, client: stream.StreamClient) -> PartitionLeases:
        """The leases without which this learner must not step."""
        leases = PartitionLeases(client, self._state.id, self._share.partitions)
        self._may_publish = leases.hold
        return leases

    def erase_announced(self) -> None:
        """Delete erased customers from the files of this folder; a learner that waits for its leases does so too.

        Raises:
            redis.RedisError: if the store does not answer.
        """
        self._erasures = learner_files.erase_pending(self._client, self._data, self._erasures)

    def step(self, plan: Plan, now: float | None) -> bool:
        """Process one batch; False if there was nothing to process.

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
            self.erase_announced()
            self._adopt_published()
            deliveries = reader.read(self._entries, besides=self._merger.waiting)
        self._merger.add(deliveries, self._entries)
        taken = self._merger.take()
        aside = report_lost(reader)
        if taken.unreadable:
            aside["unreadable record"] += taken.unreadable
        busy = bool(deliveries or taken.records)
        if taken.records:
            self._process_due(taken.records[0][0])
        elif now is not None and not busy:
            self._process_due(now - SLACK, partial=True)
        if busy or aside:
            self._process_taken(taken, aside)
        self._is_committed &= not busy
        with store_errors("publishing"):
            if not self._may_publish():
                return False
            published = self._publish(force=not busy, hasty=now is None)
            self._commit()
            if not self._share.is_all:
                combine.combine_parts(self._client, self._rules)
            if self._prices is not None:
                self._prices.move(self._client, self._time if now is None else now)
            combine.publish_trips(self._client, self._state)
            self._publish_figures()
            shipped = self._outbox.ship(self._client)
            self._tidy()
        return bool(busy or published or shipped)

    def publish_last(self) -> None:
        """Publish and commit what only this file has, since a learner with another file may continue.

        Raises:
            StoreUnavailable: if the store does not answer; then only a learner with this file knows the rest.
        """
        if self._reader is None or self._state.is_lost:
            return
        with store_errors("publishing before the end"):
            if not self._may_publish():
                return
            self._publish(force=True, hasty=True)
            self._commit()
            if not self._share.is_all:
                combine.combine_parts(self._client, self._rules)
            self._outbox.ship(self._client)

    def _commit(self) -> None:
        """Release the records up to the stored position, unless a policy that learnt from them is not published."""
        if self._is_committed or self._has_unpublished():
            return
        if (progress := self._state.progress()) is not None:
            self._share.commit(self._client, progress)
        self._is_committed = True

    def _has_unpublished(self) -> bool:
        published, rules = self._published, self._rules.by_selection
        return any(one.version > published.get(key, 0) for key, one in self._learnt.items() if key in rules)

    def _start(self) -> stream.Reader:
        """Open the streams at this learner's position."""
        stream.refuse_eviction(self._client)
        stored, partitions = self._state.progress(), self._partitions
        progress = starting_progress(stored, self._share.committed(self._client, stored, partitions))
        if not self._share.is_all:
            combine.publish_remainder(self._client, self._rules)
        progress = progress.without_spools_before(int(time.time() * 1000) - _MARK_MS)
        self._reader = stream.Reader(self._client, stream.LEARNER, progress, partitions=partitions)
        self._merger = StreamMerger(progress, self._state.clocks())
        if not self._share.is_registered(self._client, partitions):
            self._share.commit(self._client, self._reader.progress)  # from now on nothing unread is trimmed
        self._share.drop_former(self._client, partitions)
        self._is_committed = False  # the file may know what a killed learner had not published
        return self._reader

    def _adopt_published(self) -> None:
        """Adopt snapshots that a rollback or a warm start published in place of this learner's."""
        headers = current_headers(self._client)
        self._published = {
            key: headers[name].version for key in self._learnt if (name := key + self._share.suffix) in headers
        }
        for key, own in self._learnt.items():
            header, rule = headers.get(key + self._share.suffix), self._rules.by_selection.get(key)
            if header is None:
                self._headers.setdefault(key, None)
                continue
            if combine.is_own_snapshot(key, own, header, self._headers) or rule is None:
                continue
            try:
                published = current_snapshot(self._client, key + self._share.suffix)
                after = restart_from_snapshot(own, published) if published else replace(own, version=header.version)
                fitted = fit_to_plan({key: after}, RewardRules({key: rule}, frozenset(), 0.0))[key]
            except (BadInput, ValueError) as error:
                _log.error(
                    "a snapshot in place of the learner's cannot be read; replacing it", key=key, error=str(error)
                )
                fitted = replace(own, version=header.version + 1)
            else:
                _log.info("adopted a snapshot from the store", key=key, version=header.version)
            self._learnt[key] = fitted
            self._headers[key] = header
            with self._state.transaction():
                self._state.put_policies({key: self._learnt[key]})

    def _adopt_plan(self, plan: Plan) -> None:
        """Fit rules, guardrails, prices and policies to a new plan."""
        self._plan = plan
        self._rules = reward_rules(plan)
        self._breaker = Breaker(self._state.db, guardrail_tests(plan) if self._share.leads else {})
        self._prices = PriceMover(self._state.db, plan) if self._share.leads else None
        self._learnt = self._learnt | combine.number_versions(
            fit_to_plan(self._learnt, self._rules), self._published, self._headers
        )
        with self._state.transaction():
            self._state.put_policies(self._learnt)
            self._breaker.drop_unguarded()

    def _process_due(self, until: float, *, partial: bool = False) -> None:
        """Process due rows up to `until` in batches that fit in memory; the last, smaller one only if `partial`.

        The incomplete batch is otherwise processed together with the records that follow.
        """
        while due := self._state.due(until, _DUE_AT_ONCE):
            if len(due) < _DUE_AT_ONCE and not partial:
                return
            self._process_batch([], Counter(), None, until=due[-1])

    def _process_taken(self, taken: Taken, aside: Counter[str]) -> None:
        """Learn from the taken records; quarantine a record that fails three times, and learn the rest."""
        try:
            self._process_batch(taken.records, aside, taken.progress)
        except TRANSIENT:
            raise
        except Exception:
            last = taken.records[-1][0] if taken.records else 0.0  # no record is to blame for what is due by then
            trial = functools.partial(self._process_batch, aside=aside, progress=None, until=last, keep=False)
            poisoned = find_poisoned(taken.records, trial)
            if not poisoned:
                raise
            left = [one for place, one in enumerate(taken.records) if place not in poisoned]
            failed = [(*taken.records[place][1:], error) for place, error in poisoned.items()]
            self._process_batch(left, aside, taken.progress, failed=failed)

    def _process_batch(
        self,
        records: Sequence[Stamped],
        aside: Counter[str],
        progress: stream.Progress | None,
        *,
        until: float = 0.0,
        failed: Sequence[FailedRecord] = (),
        keep: bool = True,
    ) -> None:
        """Learn from records and time, in one transaction with the progress; without `keep` it is rolled back."""
        time_before = self._time
        time_after = max(time_before, until, records[-1][0] if records else until)
        clocks = {partition: at for at, partition, _ in records}
        pending = self._pending
        with self._state.transaction(undone=self._forget_batch, keep=keep):
            pending.begin()
            early, aliases = EarlyArrivals(self._state.db), Aliases(self._state.db)
            records = drop_erased(records, self._state.erased())
            load_batch(records, self._rules, pending, early, aliases)
            join = Join(self._rules, pending, early, aliases)
            join.process(records, time_before, time_after)
            trips = self._breaker.process(records, time_after)
            taught, unlearnt = teach(self._share.lessons(join.lessons), self._rules, self._learnt)
            changed = combine.number_versions(taught, self._published, self._headers)
            pending.write()  # after `teach`, which sets when each row was learnt
            early.write()
            aliases.write()
            self._outbox.put(self._share.logged(join.log))
            self._outbox.put(self._share.logged(map(quarantine_failed, failed)))
            self._outbox.put((FIRST, trip_event(trip)) for trip in trips)
            changes = self._detector.process(join.lessons if self._share.leads else (), self._rules, time_after)
            self._outbox.put((FIRST, change_event(change, time_after)) for change in changes)
            self._state.put_time(time_after)
            self._state.put_clocks(clocks)
            self._state.put_policies(changed)
            shared = join.aside + aside + Counter({FAILED: len(failed)} if failed else {})
            self._state.add_aside(unlearnt + shared if self._share.leads else unlearnt)
            if progress is not None:
                self._state.put_progress(progress)
        if not keep:
            return
        self._time = time_after
        self._learnt |= changed
        if self._prices is not None:
            self._prices.observe((record for _, _, record in records), self._learnt)

    def _forget_batch(self) -> None:
        """Reload what a batch that was rolled back changed in memory."""
        self._pending.clear()
        self._detector = ChangeDetector(self._state.db)

    def _publish(self, *, force: bool, hasty: bool) -> bool:
        """Publish changed policies: at the end of the streams (`force`), or if the last publishing is long ago.

        One that changed little waits for a second, unless this may be the last chance (`hasty`).
        """
        begun = time.monotonic()
        if begun < self._next_publish and not force:
            return False
        rules = self._rules.by_selection
        changed = {
            key: one for key, one in self._learnt.items() if key in rules and one.version > self._published.get(key, 0)
        }
        # All or none: records are released once every lesson is published, and policies that wait in turn would never
        # all be.
        if not (hasty or any(self._is_due(key, one, begun) for key, one in changed.items())):
            changed = {}
        for key, one in changed.items():
            rule = rules[key]
            self._snapshots[key] = begun, one.learnt
            blob = dump_policy(align_policy(one.policy, rule.selection))
            header = Header.of(one.version, time.time(), one.learnt, one.meaning, blob)
            self._headers[key] = header  # before: a reply may be lost
            self._published[key] = publish_snapshot(self._client, key + self._share.suffix, header, blob)
        self._next_publish = begun + max(INTERVAL, _PUBLISH_SHARE * (time.monotonic() - begun))
        return bool(changed)

    def _is_due(self, key: str, one: Learnt, now: float) -> bool:
        """Whether a changed policy is published now (`time.monotonic`): it learnt much, or waited a second."""
        at, learnt = self._snapshots.get(key, (-math.inf, 0.0))
        return abs(one.learnt - learnt) > _SNAPSHOT_GROWTH * learnt or now >= at + _SNAPSHOT_SECONDS

    def _publish_figures(self) -> None:
        """Publish changed counters, for the metrics of the decision servers."""
        figures = {f"aside|{reason}|{self._share.suffix}": float(n) for reason, n in self._state.aside().items()}
        figures |= {f"learnt|{key}|{self._share.suffix}": one.learnt for key, one in self._learnt.items()}
        figures |= change_figures(self._detector.counts(), self._share.suffix)
        publish_figures(self._client, dict(figures.items() - self._figures.items()))
        self._figures = figures

    def _tidy(self) -> None:
        """Delete collected and outdated rows, every few seconds."""
        if time.monotonic() - self._tidied > _TIDY_SECONDS:
            self._outbox.drop_collected(self._client)
            self._state.drop_merges(self._time - _MERGE_SECONDS)
            self._tidied = time.monotonic()
