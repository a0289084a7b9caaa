"""The circuit breaker: trips a selection whose variant makes a guardrail worse than its margin allows.

A tripped selection shows the fallback until an operator closes it (`counterpoint policy close`). The life of a
customer in a guarded experiment, by the clock of the streams, in the tables of `state.sql`:

    assigned by chance     a row in `under_guard`; its window begins with the decision and lasts the metric's, an hour
                           at most, which is long enough for acute harm
    an event of the metric within the window   added to the row, once by message id (`guard_messages`)
    `GRACE` after the window                   the outcome is final: added to the sequential test in `evidence`
    the test crosses its level                 a row in `trips`, an event in the log; the test starts over

- Every customer counts once per guardrail, in the variant of the first decision.
- A customer's value adds up; of a funnel it is the number of steps reached in order. A threshold and a funnel are 1 or
  0 once the window is over, by the least value and by all steps.
- The outcomes enter a test in the order in which their windows end, so the batches of records do not matter.
- The level of an experiment, `alpha`, is divided by its guardrails times its variants (Bonferroni).
- Of several learners the owner of the first partition tests, over the customers of all.
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
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.metrics import MetricSpec
from engine.journal.records import EventRecord, UntracedDecision
from engine.learn.guarding.sequential_tests import AmountTest, SequentialTest, ShareTest
from engine.learn.merge_streams import Stamped
from engine.learn.reward_rules import Properties, decode_properties, metric_amount
from engine.metric_kinds import METRIC_KINDS
from engine.orders import CENTS, order_id
from engine.vocabulary import MERGED, PURCHASES, names_of_same_event

EVENT = "$breaker"
"""Name and customer of a trip's event in the log; no customer has this id."""
HOUR = 3600.0
GRACE = 60.0
"""Seconds after the end of a window for which late events still count."""
TestKey = tuple[str, str, str]
"""Experiment, metric, and the variant that is compared with the control."""
_decoder = msgspec.json.Decoder(SequentialTest)


class Trip(NamedTuple):
    """A tripped selection, the reason, the experiment behind it, and the time (s since 1970)."""

    selection: str
    reason: str
    experiment: str
    at: float


@dataclass(frozen=True)
class GuardrailTest:
    """One guardrail of one experiment, and the selections that it closes when it is broken.

    `window` is in seconds, `level` the probability of ever tripping a variant that does no harm.
    """

    experiment: str
    metric: MetricSpec
    control: str
    closes: Mapping[str, tuple[str, ...]]
    """By variant other than the control: the selections that choose its offers."""
    window: float
    level: float
    steps: Sequence[tuple[frozenset[str], Predicate | None]]
    """The events that count, with the condition on their properties; a funnel has several, in order."""

    def new_test(self) -> SequentialTest:
        """A guardrail's test without outcomes."""
        rules = METRIC_KINDS[self.metric.kind]
        kind = ShareTest if rules.rewards_are_counts or rules.is_share else AmountTest
        return kind(self.metric.margin or 0.0, self.metric.direction == "up")

    def amount(self, event: EventRecord, properties: Properties, value: float) -> float:
        """The amount that an event adds to a customer's value; 0 if it does not count.

        Raises:
            ValueError: if the event lacks the number that the metric is of.
        """
        at = min(int(value), len(self.steps) - 1) if len(self.steps) > 1 else 0
        names, matches = self.steps[at]
        if event.event not in names or value >= len(self.steps) > 1:
            return 0.0
        counts = matches is None or matches(properties)
        return metric_amount(self.metric, event, properties) if counts else 0.0

    def outcome(self, value: float) -> float:
        """The outcome that a customer's value is in the test."""
        least = self.metric.at_least if len(self.steps) == 1 else float(len(self.steps))
        return value if least is None else float(round(value, CENTS) >= least)


def guardrail_tests(plan: Plan) -> dict[str, list[GuardrailTest]]:
    """The guardrails by experiment, of experiments that assign a placement's policies to customers."""
    tests = {key: _of_experiment(plan, one) for key, one in plan.experiments.items() if one.spec.unit == "customer"}
    return {key: of_experiment for key, of_experiment in tests.items() if of_experiment}


def _of_experiment(plan: Plan, experiment: Experiment) -> list[GuardrailTest]:
    """One test per guardrail; a variant without a policy of its own closes every selection of the placement."""
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
    comparisons = len(keys) * len(closes)
    return [
        GuardrailTest(
            experiment=experiment.key,
            metric=metric,
            control=spec.variants[0].key,
            closes=closes,
            window=min(seconds(metric.window), HOUR) if metric.window else HOUR,
            level=spec.analysis.alpha / comparisons,
            steps=[
                (names_of_same_event(step.event), compile_condition(step.filter) if step.filter else None)
                for step in metric.ordered_steps
            ],
        )
        for metric in (plan.metrics[key] for key in keys)
        if metric.source is None  # its rows come later than the breaker could act
    ]


class Breaker:
    """Counts the customers of guarded experiments in the learner's file; call it within the learner's transaction."""

    def __init__(self, db: sqlite3.Connection, tests: Mapping[str, Sequence[GuardrailTest]]) -> None:
        self._db = db
        self._tests = tests
        self._by_event: dict[str, list[GuardrailTest]] = {}
        for of_experiment in tests.values():
            for test in of_experiment:
                for event in frozenset(name for names, _ in test.steps for name in names):
                    self._by_event.setdefault(event, []).append(test)

    def drop_unguarded(self) -> None:
        """Delete the customers of experiments or guardrails that the plan no longer has."""
        guarded = [test.experiment + " " + test.metric.key for tests in self._tests.values() for test in tests]
        self._db.execute(
            "DELETE FROM under_guard WHERE experiment || ' ' || metric NOT IN (SELECT value FROM json_each(?))",
            [msgspec.json.encode(guarded).decode()],
        )

    def process(self, records: Iterable[Stamped], until: float) -> list[Trip]:
        """Count records, test the outcomes that are final by `until` (s since 1970), and return the new trips."""
        if not self._tests:
            return []
        for at, _, record in records:
            if isinstance(record, UntracedDecision):
                self._on_decision(record, at)
            elif isinstance(record, EventRecord) and (record.event in self._by_event or record.event == MERGED):
                self._on_event(record, at)
        return self._test_outcomes(until)

    def _on_decision(self, record: UntracedDecision, at: float) -> None:
        """Open the window of a customer at their first assignment."""
        for row in record.rows:
            if row.kind != "experiment" or row.reason != "assigned" or row.variant is None:
                continue
            for test in self._tests.get(row.key, ()):
                ended = record.time + test.window
                if ended + GRACE > at:  # a window that is over has missed its events
                    self._db.execute(
                        "INSERT OR IGNORE INTO under_guard VALUES (?, ?, ?, ?, ?, ?, 0.0, 0)",
                        (row.key, test.metric.key, record.customer, row.variant, record.time, ended),
                    )

    def _on_event(self, event: EventRecord, at: float) -> None:
        """Move a merged customer, or add an event to the outcomes of the guardrails that count it."""
        try:
            properties = decode_properties(event)
            if event.event == MERGED:
                self._move_customer(str(properties.get("from")), str(properties.get("into")))
                return
            for test in self._by_event[event.event]:
                self._add_outcome(test, event, properties, at)
        except ValueError:  # no guardrail counts it; the join quarantines it if it could be a reward too
            return

    def _add_outcome(self, test: GuardrailTest, event: EventRecord, properties: Properties, at: float) -> None:
        """Add an event to its customer's outcome if it is in the window and was not counted before."""
        place = test.experiment, test.metric.key
        window = self._db.execute(
            "SELECT begun, ended, value FROM under_guard WHERE experiment = ? AND metric = ? AND customer = ? "
            "AND ended + ? > ? AND ? BETWEEN begun AND ended",
            (*place, event.customer, GRACE, at, event.time),
        ).fetchone()
        if window is None:
            return
        begun, ended, value = window
        amount = test.amount(event, properties, value)
        if not amount:
            return
        order = order_id(properties) if event.event in PURCHASES else ""
        # An order counts once, however many messages report it. A message id holds no NUL.
        message = blake2b((f"\0{order}" if order else event.message_id).encode(), digest_size=8).digest()
        insert = "INSERT OR IGNORE INTO guard_messages VALUES (?, ?, ?, ?, ?)"
        if self._db.execute(insert, (*place, begun, message, ended)).rowcount:
            self._db.execute(
                "UPDATE under_guard SET value = ? WHERE experiment = ? AND metric = ? AND customer = ?",
                (METRIC_KINDS[test.metric.kind].add_event(value, amount), *place, event.customer),
            )

    def _move_customer(self, before: str, after: str) -> None:
        """Give a merged customer's row to the other; if both have one, the other's stays, so that they count once."""
        for tests in self._tests.values():
            self._db.executemany(
                "UPDATE OR IGNORE under_guard SET customer = ? WHERE experiment = ? AND metric = ? AND customer = ?",
                [(after, test.experiment, test.metric.key, before) for test in tests],
            )

    def _test_outcomes(self, until: float) -> list[Trip]:
        """Add the outcomes that became final by `until` to their tests; trip what a test decides."""
        # `ended <= ?` alone can use the index, `ended + ?` says what is meant.
        self._db.execute("DELETE FROM guard_messages WHERE ended <= ? AND ended + ? <= ?", (until, GRACE, until))
        final = self._db.execute(
            "SELECT experiment, metric, variant, value, customer, ended FROM under_guard "
            "WHERE NOT known AND ended <= ? AND ended + ? <= ? ORDER BY ended, customer",
            (until, GRACE, until),
        ).fetchall()
        if not final:
            return []
        self._db.executemany(
            "UPDATE under_guard SET known = 1 WHERE experiment = ? AND metric = ? AND customer = ?",
            [(experiment, metric, customer) for experiment, metric, _, _, customer, _ in final],
        )
        by_place = {(test.experiment, test.metric.key): test for tests in self._tests.values() for test in tests}
        tripped = {selection for (selection,) in self._db.execute("SELECT selection FROM trips")}
        states: dict[TestKey, SequentialTest] = {}
        trips: list[Trip] = []
        for experiment, metric, variant, value, _, ended in final:
            test = by_place[experiment, metric]
            # An outcome of the control counts in the comparison with every variant.
            for compared in test.closes if variant == test.control else [variant]:
                selections = test.closes.get(compared, ())
                if tripped.issuperset(selections):  # its customers see the fallback
                    continue
                key = (experiment, metric, compared)
                state = states.get(key) or self._stored_test(test, key)
                states[key] = state.add([(variant == compared, test.outcome(value))])
                if states[key].log_evidence() >= -math.log(test.level):
                    reason = _reason(test, compared)
                    trips += [Trip(selection, reason, experiment, ended + GRACE) for selection in selections]
                    tripped.update(selections)
                    states[key] = test.new_test()  # a breaker that is closed by hand begins a new test
        rows = [(*key, msgspec.json.encode(state)) for key, state in states.items()]
        self._db.executemany("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?)", rows)
        unpublished = [(trip.selection, trip.reason) for trip in trips]
        self._db.executemany("INSERT OR REPLACE INTO trips VALUES (?, ?, 0)", unpublished)
        return trips

    def _stored_test(self, test: GuardrailTest, key: TestKey) -> SequentialTest:
        """The stored test, or a new one if the guardrail's margin or direction changed since."""
        query = "SELECT evidence FROM evidence WHERE experiment = ? AND metric = ? AND variant = ?"
        stored = self._db.execute(query, key).fetchone()
        state = _decoder.decode(stored[0]) if stored else test.new_test()
        same = (state.margin, state.up) == (test.metric.margin or 0.0, test.metric.direction == "up")
        return state if same else test.new_test()


def _reason(test: GuardrailTest, variant: str) -> str:
    """The reason of a trip, for the log and for the operator who may close it."""
    return (
        f"{test.metric.key} of {test.experiment}.{variant} is worse than {test.control}'s by more than "
        f"its margin of {test.metric.margin or 0:g} (sequential test, level {test.level:g})"
    )


def trip_event(trip: Trip) -> EventRecord:
    """The event of a trip in the log."""
    properties = {"selection": trip.selection, "experiment": trip.experiment, "reason": trip.reason}
    return EventRecord(
        message_id=f"breaker:{trip.selection}:{trip.at!r}",
        time=trip.at,
        received=trip.at,
        customer=EVENT,
        event=EVENT,
        decision_id=None,
        channel=None,
        revenue=None,
        properties=msgspec.json.encode(properties),
    )
