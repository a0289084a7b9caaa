"""Has what an offer earns changed? Each arm's rewards over time, tested as they come in, and what is reported.

A reward counts for its exposure if it came within `settle`, and as 1 whatever its amount: all exposures of a span are
then known alike. Spans begin as minutes and become longer as an arm's history does.

Nights differ from days where nothing changed. From its second day on a history is compared at the same hours of the
day. In the first day there is nothing of the kind to compare with: a change found then may be the hour's, which is
said with it, and is told once; what follows a change is silent until it is a day old.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import msgspec
import numpy as np
import structlog

from engine.journal.records import EventRecord
from engine.learn.join import Lesson
from engine.learn.reward_rules import Rules
from policies import detect_change

EVENT = "$change"  # the name in the log, of nobody in particular
MOST = 256  # spans of an arm
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
ERROR = 0.01  # the chance of ever crying wolf, per arm
SelectionArm = tuple[str, str]
_log = structlog.get_logger(__name__)


class RewardChange(NamedTuple):
    """An arm earned `before` in each exposure until `since` (s since 1970), and `after` from then on.

    Both at the `same_hours` of the day, or else one after the other within a day, so that it may be the hour's.
    """

    selection: str
    arm: str
    since: float
    before: float
    after: float
    same_hours: bool


class RewardHistory(msgspec.Struct, frozen=True):
    """Exposures and rewards of one arm by spans of `width` seconds, the first being the `first`th since 1970."""

    meaning: str
    width: float = MINUTE
    first: int = 0
    counts: tuple[float, ...] = ()
    totals: tuple[float, ...] = ()
    judged: float = 0.0
    """Until when it was judged (s since 1970)."""
    changes: int = 0

    def add(self, outcomes: Iterable[tuple[float, float]]) -> Self:
        """With more exposures: when they were (s since 1970), and 1 if they earned something."""
        told = np.array(list(outcomes))
        width, places = self.width, np.floor(told[:, 0] / self.width).astype(int)
        first = min(int(places.min()), self.first) if self.counts else int(places.min())
        last = max(int(places.max()), self.first + len(self.counts) - 1)
        sums = np.zeros((2, last - first + 1))
        if self.counts:
            sums[:, self.first - first : self.first - first + len(self.counts)] = self.counts, self.totals
        np.add.at(sums[0], places - first, 1.0)
        np.add.at(sums[1], places - first, told[:, 1])
        while sums.shape[1] > MOST:
            padded = np.pad(sums, ((0, 0), (first % 2, (first + sums.shape[1]) % 2)))
            sums, first, width = padded[:, ::2] + padded[:, 1::2], first // 2, 2 * width
        counts, totals = (tuple(row.tolist()) for row in sums)
        return msgspec.structs.replace(self, width=width, first=first, counts=counts, totals=totals)

    def judge(self, until: float) -> tuple[Self, tuple[float, float, float, bool] | None]:
        """Look for a change in the spans that ended by `until`: since when, before, after, and if at the same hours.

        The history goes on with what is after it.
        """
        complete = min(max(int(until // self.width) - self.first, 0), len(self.counts))
        ended = (self.first + complete) * self.width
        if complete < 2 or ended <= self.judged:
            return self, None
        looked = msgspec.structs.replace(self, judged=ended)
        same_hours = complete * self.width > DAY
        if self.changes and not same_hours:
            return looked, None
        middles = (self.first + np.arange(complete) + 0.5) * self.width
        hours = (middles % DAY // HOUR).astype(np.intp) if same_hours else None
        counts, totals = np.array(self.counts[:complete]), np.array(self.totals[:complete])
        change = detect_change(counts, totals, ERROR, kind=hours)
        if change is None or not change.found:
            return looked, None
        after = msgspec.structs.replace(
            looked,
            first=self.first + change.at,
            counts=self.counts[change.at :],
            totals=self.totals[change.at :],
            changes=self.changes + 1,
        )
        return after, ((self.first + change.at) * self.width, change.before, change.after, same_hours)


class ChangeDetector:
    """The histories in the learner's file; `take` within its transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._histories: dict[SelectionArm, RewardHistory] = {}
        decoder = msgspec.msgpack.Decoder(RewardHistory)
        for selection, arm, blob in db.execute("SELECT selection, arm, history FROM histories"):
            self._histories[selection, arm] = decoder.decode(blob)

    def take(self, lessons: Iterable[Lesson], rules: Rules, until: float) -> list[RewardChange]:
        """Take note of what was learnt first of each exposure, until the clock says `until`; the changes found."""
        outcomes: dict[SelectionArm, list[tuple[float, float]]] = {}
        for row, reward, instead in lessons:
            if instead is None:
                outcomes.setdefault((row.selection, row.arm), []).append((row.exposed, float(reward > 0)))
        found: list[RewardChange] = []
        for (selection, arm), told in outcomes.items():
            rule = rules.of.get(selection)
            if rule is None:
                continue
            history = self._histories.get((selection, arm))
            if history is None or history.meaning != rule.meaning:
                history = RewardHistory(rule.meaning)
            history, change = history.add(told).judge(until - rule.settle)
            self._histories[selection, arm] = history
            kept = selection, arm, msgspec.msgpack.encode(history)
            self._db.execute("INSERT OR REPLACE INTO histories VALUES (?, ?, ?)", kept)
            if change is not None:
                found.append(RewardChange(selection, arm, *change))
                _log.warning("what an offer earns has changed", **found[-1]._asdict())
        return found

    def counts(self) -> Mapping[SelectionArm, int]:
        """How many changes were found, by arm that had any."""
        return {arm: history.changes for arm, history in self._histories.items() if history.changes}


def change_record(change: RewardChange, at: float) -> EventRecord:
    """What the log keeps of a change that was found at `at`."""
    name = f"change:{change.selection}:{change.arm}:{change.since!r}"
    return EventRecord(name, at, at, EVENT, EVENT, None, None, None, msgspec.json.encode(change._asdict()))
