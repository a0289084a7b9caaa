"""Detects changes in what an arm earns, by testing each arm's rewards over time as they arrive.

A reward counts for its exposure if it came within `settle`, and as 1 whatever its amount, so that all exposures of a
span are comparable. A history has at most `MOST_SPANS` spans: they begin as minutes and are joined in pairs as it
grows. A change found truncates the history to what follows it.

Nights differ from days where nothing changed. A history longer than a day is therefore compared at the same hours of
the day. Within its first day there is nothing to compare with: a change found then may be the hour's, which is marked
(`same_hours: false`) and reported once; what follows it is not tested until it is a day old.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import msgspec
import numpy as np
import structlog

from engine.journal.records import EventRecord
from engine.learn.reward_rules import Lesson, RewardRules
from policies import detect_change

EVENT = "$change"
"""Name and customer of a change's event in the log; no customer has this id."""
MOST_SPANS = 256
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
ERROR = 0.01
"""Probability of ever reporting a change where there is none, per arm."""
SelectionArm = tuple[str, str]
_log = structlog.get_logger(__name__)


class RewardChange(NamedTuple):
    """An arm earned `before` per exposure until `since` (s since 1970), and `after` from then on.

    `same_hours` says whether both were compared at the same hours of the day; otherwise the hour may be the cause.
    """

    selection: str
    arm: str
    since: float
    before: float
    after: float
    same_hours: bool


class RewardHistory(msgspec.Struct, frozen=True):
    """Exposures (`counts`) and rewarded ones (`totals`) of one arm by spans of `width` seconds.

    `first` is the number of the first span since 1970, `judged` the time until which the history was tested (s since
    1970), `changes` how many were found. `meaning` is the reward rule's: another meaning starts a new history. Stored
    as MessagePack in the table `histories`.
    """

    meaning: str
    width: float = MINUTE
    first: int = 0
    counts: tuple[float, ...] = ()
    totals: tuple[float, ...] = ()
    judged: float = 0.0
    changes: int = 0

    def add(self, outcomes: Iterable[tuple[float, float]]) -> Self:
        """The history with more exposures: the time of each (s since 1970), and 1 if it was rewarded."""
        added = np.array(list(outcomes))
        width, spans = self.width, np.floor(added[:, 0] / self.width).astype(int)
        first = min(int(spans.min()), self.first) if self.counts else int(spans.min())
        last = max(int(spans.max()), self.first + len(self.counts) - 1)
        sums = np.zeros((2, last - first + 1))
        if self.counts:
            sums[:, self.first - first : self.first - first + len(self.counts)] = self.counts, self.totals
        np.add.at(sums[0], spans - first, 1.0)
        np.add.at(sums[1], spans - first, added[:, 1])
        while sums.shape[1] > MOST_SPANS:
            # Pad to an even number of the first span and of the spans, so that pairs are the same whenever joined.
            padded = np.pad(sums, ((0, 0), (first % 2, (first + sums.shape[1]) % 2)))
            sums, first, width = padded[:, ::2] + padded[:, 1::2], first // 2, 2 * width
        counts, totals = (tuple(row.tolist()) for row in sums)
        return msgspec.structs.replace(self, width=width, first=first, counts=counts, totals=totals)

    def test(self, until: float) -> tuple[Self, tuple[float, float, float, bool] | None]:
        """Test the spans that ended by `until` (s since 1970) for a change.

        Returns:
            The history to continue with, which after a change begins with it, and the last four fields of the
            `RewardChange`, if one was found.
        """
        complete = min(max(int(until // self.width) - self.first, 0), len(self.counts))
        ended = (self.first + complete) * self.width
        if complete < 2 or ended <= self.judged:
            return self, None
        tested = msgspec.structs.replace(self, judged=ended)
        same_hours = complete * self.width > DAY
        if self.changes and not same_hours:
            return tested, None
        middles = (self.first + np.arange(complete) + 0.5) * self.width
        hours = (middles % DAY // HOUR).astype(np.intp) if same_hours else None
        counts, totals = np.array(self.counts[:complete]), np.array(self.totals[:complete])
        change = detect_change(counts, totals, ERROR, kind=hours)
        if change is None or not change.found:
            return tested, None
        after = msgspec.structs.replace(
            tested,
            first=self.first + change.at,
            counts=self.counts[change.at :],
            totals=self.totals[change.at :],
            changes=self.changes + 1,
        )
        return after, ((self.first + change.at) * self.width, change.before, change.after, same_hours)


class ChangeDetector:
    """The histories of all arms in the learner's file; call `process` within the learner's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._histories: dict[SelectionArm, RewardHistory] = {}
        decoder = msgspec.msgpack.Decoder(RewardHistory)
        for selection, arm, blob in db.execute("SELECT selection, arm, history FROM histories"):
            self._histories[selection, arm] = decoder.decode(blob)

    def process(self, lessons: Iterable[Lesson], rules: RewardRules, until: float) -> list[RewardChange]:
        """Add each exposure's first lesson to its arm's history; return the changes found by `until` (s since 1970)."""
        outcomes: dict[SelectionArm, list[tuple[float, float]]] = {}
        for row, reward, instead in lessons:
            if instead is None:  # a correction came after `settle`
                outcomes.setdefault((row.selection, row.arm), []).append((row.exposed, float(reward > 0)))
        changes: list[RewardChange] = []
        for (selection, arm), of_arm in outcomes.items():
            rule = rules.by_selection.get(selection)
            if rule is None:
                continue
            history = self._histories.get((selection, arm))
            if history is None or history.meaning != rule.meaning:
                history = RewardHistory(rule.meaning)
            # Exposures of the last `settle` seconds are known only if they were rewarded.
            history, change = history.add(of_arm).test(until - rule.settle)
            self._histories[selection, arm] = history
            stored = selection, arm, msgspec.msgpack.encode(history)
            self._db.execute("INSERT OR REPLACE INTO histories VALUES (?, ?, ?)", stored)
            if change is not None:
                changes.append(RewardChange(selection, arm, *change))
                _log.warning("the reward rate of an offer has changed", **changes[-1]._asdict())
        return changes

    def counts(self) -> Mapping[SelectionArm, int]:
        """The number of changes by arm, without arms that had none."""
        return {arm: history.changes for arm, history in self._histories.items() if history.changes}


def change_event(change: RewardChange, at: float) -> EventRecord:
    """The event in the log of a change that was found at `at` (s since 1970)."""
    return EventRecord(
        message_id=f"change:{change.selection}:{change.arm}:{change.since!r}",
        time=at,
        received=at,
        customer=EVENT,
        event=EVENT,
        decision_id=None,
        channel=None,
        revenue=None,
        properties=msgspec.json.encode(change._asdict()),
    )


def change_figures(counts: Mapping[tuple[str, str], int], suffix: str) -> dict[str, float]:
    """The number of reward changes as named figures, for the servers' `/metrics`."""
    return {f"changes|{selection}/{arm}|{suffix}": float(n) for (selection, arm), n in counts.items()}
