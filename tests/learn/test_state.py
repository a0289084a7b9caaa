"""A learner's file of an earlier release opens as it is: `vectors/learner_state.sql` was written by 0.1."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from engine.journal.records import EventRecord, ExposureRecord, QuarantineRecord, RewardRecord, decode
from engine.journal.stream import Mark, Progress
from engine.learn.early_arrivals import EarlyArrivals
from engine.learn.guarding.change_detection import ChangeDetector
from engine.learn.guarding.sequential_tests import AmountTest, SequentialTest, ShareTest
from engine.learn.pending import (
    CLOSED,
    NO_OFFER,
    OPEN,
    REFUNDED,
    REWARDED,
    UNSEEN,
    ZERO,
    Aliases,
    Pending,
    PendingStore,
)
from engine.learn.state import State
from policies import BetaThompson, Pacing

T0 = 1_790_000_000.0
VECTOR = Path(__file__).resolve().parents[1] / "vectors" / "learner_state.sql"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    path = tmp_path / "all.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VECTOR.read_text(encoding="utf-8"))
    with closing(State(path)) as opened:
        yield opened


def test_position_time_and_counters_are_read(state: State) -> None:
    assert state.id == "learner-0123456789abcdef"
    assert state.progress() == Progress(
        {0: "1790000000000-0", 1: "1790000000001-3"}, {0: {"spool-1": Mark(9, 1_790_000_000_000)}}
    )
    assert (state.time(), state.clocks()) == (T0 + 10, {0: T0, 1: T0 + 1})
    assert state.aside() == {"late": 2, "unknown decision": 1}
    assert state.erased() == {"digest": T0}


def test_decisions_keep_their_state_and_are_written_back_byte_for_byte(state: State) -> None:
    before = state.db.execute("SELECT * FROM pending").fetchall()
    pending = PendingStore(state.db)
    rows = pending.load_due(T0 + 1000)
    assert [row.status for row in rows] == [UNSEEN, OPEN, ZERO, REWARDED, REFUNDED, CLOSED, NO_OFFER]
    assert rows[3] == Pending(
        decision_id="d3",
        key="hero",
        selection="hero",
        customer="c3",
        partition=1,
        arm="a",
        propensity=0.5,
        context=b'{"hour":7}',
        time=T0 + 3,
        status=REWARDED,
        due=T0 + 103,
        exposed=T0 + 4,
        reward=12.5,
        learnt=3.0,
        rewarded=T0 + 5,
        cause="m-1",
        purchase="o-1",
        amount=12.5,
        logged=T0 + 5,
        rowid=rows[3].rowid,
    )
    for row in rows:
        row.dirty = True
    pending.write()
    assert state.db.execute("SELECT * FROM pending").fetchall() == before


def test_a_learner_that_died_as_it_took_the_decisions_over_loses_none(state: State) -> None:
    before = state.db.execute("SELECT * FROM pending").fetchall()
    state.db.execute("ALTER TABLE pending RENAME TO pending_before")
    with closing(State(state.path)) as again:
        assert again.db.execute("SELECT * FROM pending").fetchall() == before
        assert not again.db.execute("SELECT * FROM sqlite_master WHERE name = 'pending_before'").fetchall()


def test_messages_that_guards_counted_are_read_from_the_table_of_before(state: State) -> None:
    counted = state.db.execute("SELECT * FROM guard_messages").fetchall()
    assert counted == [("bold", "click", T0, b"12345678", T0 + 3600)]


def test_early_arrivals_merges_and_the_outbox_are_read(state: State) -> None:
    early = EarlyArrivals(state.db)
    early.load(["x"], ["c9"])
    exposure, event = (early.release(key)[0].record for key in ("dx", "cc9"))
    assert exposure == ExposureRecord("x", T0, "c8", ["hero"])
    assert isinstance(event, EventRecord)
    assert (event.event, event.revenue) == ("purchase", 12.5)
    aliases = Aliases(state.db)
    aliases.load(["v1"], [])
    assert aliases.current_id("v1") == "c1"
    reward, quarantined = (decode(blob) for (blob,) in state.db.execute("SELECT record FROM outbox ORDER BY seq"))
    assert reward == RewardRecord("d3", "hero", 12.5, T0 + 5)
    assert isinstance(quarantined, QuarantineRecord)


def test_policies_prices_and_histories_are_read(state: State) -> None:
    learnt = state.policies()["hero"]
    assert (learnt.meaning, learnt.version, learnt.learnt) == ("0123456789ab", 4, 3.0)
    assert learnt.forgotten == ((1.0, 2.0),)
    assert isinstance(learnt.policy, BetaThompson)
    assert learnt.policy.statistics["count"].tolist() == [1, 2, 0]
    (stored,) = state.db.execute("SELECT pacing FROM prices").fetchone()
    assert msgspec.json.decode(stored, type=Pacing) == Pacing(left=40.0, ends=T0 + 86_400, now=T0, price=0.5)
    assert ChangeDetector(state.db).counts() == {("hero", "a"): 1}


def test_the_circuit_breaker_continues_with_its_evidence(state: State) -> None:
    rows = dict(state.db.execute("SELECT metric, evidence FROM evidence"))
    share, amount = (msgspec.json.decode(rows[name], type=SequentialTest) for name in ("click", "spend"))
    for stored, tested in (
        (share, ShareTest(0.02, up=True).add([(True, 0.0), (False, 1.0), (False, 1.0)])),
        (amount, AmountTest(0.02, up=True).add([(True, 3.0), (False, 4.0)])),
    ):
        assert type(stored) is type(tested)
        for name in stored.__struct_fields__:  # another processor's logarithm may differ in the last bit
            assert getattr(stored, name) == pytest.approx(getattr(tested, name), rel=1e-14), name
    assert state.published_trips() == ["bold.loud"]
    assert state.unpublished_trips() == [("hero", "click of bold.loud is worse")]
    state.mark_published("hero")
    assert Counter(state.published_trips()) == Counter({"bold.loud", "hero"})
    state.drop_trip("hero")
    assert (state.published_trips(), state.unpublished_trips()) == (["bold.loud"], [])
