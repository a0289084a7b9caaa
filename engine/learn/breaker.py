"""The circuit breaker: a variant whose guardrail got worse than its margin sends its placement back to the fallback.

Every customer who was assigned by chance counts once, in the experiment's first variant (the control) or another one,
by what the guardrail's events add up to within an hour of the first decision: long enough for acute harm.
"""

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.plan import Experiment, Plan
from engine.catalog.spec.experiment import MetricSpec
from engine.catalog.spec.fields import seconds
from engine.journal.records import DecisionRecord, EventRecord
from engine.learn.merge_streams import Stamped
from engine.learn.reward_rules import Properties, amount_of, properties_of
from engine.learn.sequential_tests import AmountTest, SequentialTest, ShareTest
from engine.vocabulary import MERGED

EVENT = "$breaker"  # the name in the log, of nobody in particular
HOUR = 3600.0
GRACE = 60.0  # how long an outcome is waited for beyond its end
TestKey = tuple[str, str, str]
AMOUNTS = frozenset({"mean", "revenue", "ratio", "quantile"})
_decoder = msgspec.json.Decoder(SequentialTest)


class Trip(NamedTuple):
    """A selection to be closed, why, and where that came from."""

    selection: str
    reason: str
    experiment: str
    at: float


@dataclass(frozen=True)
class GuardrailTest:
    """One guardrail of one experiment."""

    experiment: str
    metric: MetricSpec
    control: str
    closes: Mapping[str, tuple[str, ...]]
    """By variant other than the control: the selections that it shows offers by."""
    window: float
    level: float
    matches: Predicate | None

    def fresh(self) -> SequentialTest:
        """No evidence yet."""
        kind = AmountTest if self.metric.kind in AMOUNTS else ShareTest
        return kind(self.metric.margin or 0.0, self.metric.direction == "up")


def guardrail_tests(plan: Plan) -> dict[str, list[GuardrailTest]]:
    """The guardrails of a plan by experiment: of those that choose a placement's offers, by customer."""
    found = {key: _guards(plan, one) for key, one in plan.experiments.items() if one.spec.unit == "customer"}
    return {key: guards for key, guards in found.items() if guards}


def _guards(plan: Plan, experiment: Experiment) -> list[GuardrailTest]:
    spec = experiment.spec
    keys = spec.metrics.guardrails if spec.metrics else []
    if not keys or spec.placement is None:
        return []
    shown = tuple(
        dict.fromkeys(
            selection.key for (_, placement), selection in plan.selections.items() if placement == spec.placement
        )
    )
    closes = {
        variant.key: shown if own is None else (own.key,)
        for variant, own in zip(spec.variants[1:], experiment.selections[1:], strict=True)
    }
    tests = len(keys) * len(closes)
    return [
        GuardrailTest(
            experiment=experiment.key,
            metric=metric,
            control=spec.variants[0].key,
            closes=closes,
            window=min(seconds(metric.window), HOUR) if metric.window else HOUR,
            level=spec.analysis.alpha / tests,
            matches=compile_condition(metric.filter) if metric.filter else None,
        )
        for metric in (plan.metrics[key] for key in keys)
    ]


class Breaker:
    """Counts the customers of guarded experiments in the learner's file; all verbs within its transaction."""

    def __init__(
        self, db: sqlite3.Connection, guards: Mapping[str, Sequence[GuardrailTest]], share: float = 1.0
    ) -> None:
        """`share` of the level is this learner's, where several count customers of their own."""
        self._db = db
        self._share = share
        self._guards = guards
        self._by_event: dict[str, list[GuardrailTest]] = {}
        for of_experiment in guards.values():
            for guard in of_experiment:
                self._by_event.setdefault(guard.metric.event, []).append(guard)

    def keep_to_guards(self) -> None:
        """Forget the customers of experiments that are not guarded any more."""
        kept = [guard.experiment + " " + guard.metric.key for guards in self._guards.values() for guard in guards]
        self._db.execute(
            "DELETE FROM under_guard WHERE experiment || ' ' || metric NOT IN (SELECT value FROM json_each(?))",
            [msgspec.json.encode(kept).decode()],
        )

    def take(self, records: Iterable[Stamped], until: float) -> list[Trip]:
        """Count records, and what is known by the clock `until`; the trips that follow, however batches are cut."""
        if not self._guards:
            return []
        for at, _, record in records:
            if isinstance(record, DecisionRecord):
                self._enter(record, at)
            elif isinstance(record, EventRecord) and (record.event in self._by_event or record.event == MERGED):
                self._count(record, at)
        return self._judge(until)

    def _enter(self, record: DecisionRecord, at: float) -> None:
        for row in record.rows:
            if row.kind != "experiment" or row.reason != "assigned" or row.variant is None:
                continue
            for guard in self._guards.get(row.key, ()):
                ended = record.time + guard.window
                if ended + GRACE > at:  # who came earlier than that may be known already
                    self._db.execute(
                        "INSERT OR IGNORE INTO under_guard VALUES (?, ?, ?, ?, ?, ?, 0.0, 0)",
                        (row.key, guard.metric.key, record.customer, row.variant, record.time, ended),
                    )

    def _count(self, event: EventRecord, at: float) -> None:
        try:
            properties = properties_of(event)
            if event.event == MERGED:
                self._rename(str(properties.get("from")), str(properties.get("into")))
                return
            for guard in self._by_event[event.event]:
                if guard.matches is None or guard.matches(properties):
                    self._add(guard, event, properties, at)
        except ValueError:  # the learner keeps it aside, if it is a reward too; no guardrail counts it
            return

    def _add(self, guard: GuardrailTest, event: EventRecord, properties: Properties, at: float) -> None:
        amount = amount_of(guard.metric, event, properties)
        place = guard.experiment, guard.metric.key
        found = self._db.execute(
            "SELECT begun, ended FROM under_guard WHERE experiment = ? AND metric = ? AND customer = ? "
            "AND ended + ? > ? AND ? BETWEEN begun AND ended",
            (*place, event.customer, GRACE, at, event.time),
        ).fetchone()
        if found is None:
            return
        begun, ended = found
        message = blake2b(event.message_id.encode(), digest_size=8).digest()
        heard = "INSERT OR IGNORE INTO guard_heard VALUES (?, ?, ?, ?, ?)"
        if self._db.execute(heard, (*place, begun, message, ended)).rowcount:
            self._db.execute(
                "UPDATE under_guard SET value = value + ? WHERE experiment = ? AND metric = ? AND customer = ?",
                (amount, *place, event.customer),
            )

    def _rename(self, before: str, after: str) -> None:
        for guards in self._guards.values():
            self._db.executemany(
                "UPDATE OR IGNORE under_guard SET customer = ? WHERE experiment = ? AND metric = ? AND customer = ?",
                [(after, guard.experiment, guard.metric.key, before) for guard in guards],
            )

    def _judge(self, until: float) -> list[Trip]:
        self._db.execute("DELETE FROM guard_heard WHERE ended <= ? AND ended + ? <= ?", (until, GRACE, until))
        ripe = self._db.execute(
            "SELECT experiment, metric, variant, value, customer, ended FROM under_guard "
            "WHERE NOT known AND ended <= ? AND ended + ? <= ? ORDER BY ended, customer",
            (until, GRACE, until),
        ).fetchall()
        if not ripe:
            return []
        self._db.executemany(
            "UPDATE under_guard SET known = 1 WHERE experiment = ? AND metric = ? AND customer = ?",
            [(experiment, metric, customer) for experiment, metric, _, _, customer, _ in ripe],
        )
        by_place = {(guard.experiment, guard.metric.key): guard for guards in self._guards.values() for guard in guards}
        tripped = {selection for (selection,) in self._db.execute("SELECT selection FROM trips")}
        evidence: dict[TestKey, SequentialTest] = {}
        trips: list[Trip] = []
        for experiment, metric, variant, value, _, ended in ripe:
            guard = by_place[experiment, metric]
            for compared in guard.closes if variant == guard.control else [variant]:
                selections = guard.closes.get(compared, ())
                if tripped.issuperset(selections):  # its customers see the fallback
                    continue
                place = (experiment, metric, compared)
                if place not in evidence:
                    evidence[place] = self._stored(guard, place)
                evidence[place] = evidence[place].add([(variant == compared, value)])
                if evidence[place].against() >= -math.log(guard.level * self._share):
                    reason = _reason(guard, compared)
                    trips += [Trip(selection, reason, experiment, ended + GRACE) for selection in selections]
                    tripped.update(selections)
                    evidence[place] = guard.fresh()  # whoever closes the breaker again begins a new test
        rows = [(*place, msgspec.json.encode(one)) for place, one in evidence.items()]
        self._db.executemany("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?)", rows)
        told = [(trip.selection, trip.reason) for trip in trips]
        self._db.executemany("INSERT OR REPLACE INTO trips VALUES (?, ?, 0)", told)
        return trips

    def _stored(self, guard: GuardrailTest, place: TestKey) -> SequentialTest:
        asked = "SELECT evidence FROM evidence WHERE experiment = ? AND metric = ? AND variant = ?"
        stored = self._db.execute(asked, place).fetchone()
        before = _decoder.decode(stored[0]) if stored else guard.fresh()
        same = (before.margin, before.up) == (guard.metric.margin or 0.0, guard.metric.direction == "up")
        return before if same else guard.fresh()


def _reason(guard: GuardrailTest, variant: str) -> str:
    return (
        f"{guard.metric.key} of {guard.experiment}.{variant} is worse than {guard.control}'s by more than "
        f"its margin of {guard.metric.margin or 0:g} (sequential test, level {guard.level:g})"
    )


def trip_record(trip: Trip) -> EventRecord:
    """What the log keeps of a trip."""
    told = {"selection": trip.selection, "experiment": trip.experiment, "reason": trip.reason}
    name = f"breaker:{trip.selection}:{trip.at!r}"
    return EventRecord(name, trip.at, trip.at, EVENT, EVENT, None, None, None, msgspec.json.encode(told))
