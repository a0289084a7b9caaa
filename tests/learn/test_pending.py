"""What `PendingStore` stores is what its rows are, whichever statement wrote them: a plain dictionary is the model."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from engine.learn import pending
from engine.learn.pending import CLOSED, OPEN, REFUNDED, REWARDED, UNSEEN, ZERO, Pending, PendingStore
from engine.learn.state import State, state_path

CUSTOMERS = ("a", "b", "c")
Columns = tuple[object, ...]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with closing(State(state_path(tmp_path, None))) as opened:
        yield opened


def new_row(draw: random.Random, number: int) -> Pending:
    return Pending(
        decision_id=f"d{number}",
        key="hero",
        selection="hero",
        customer=draw.choice(CUSTOMERS),
        partition=0,
        arm=draw.choice("xyz"),
        propensity=draw.random(),
        context=b'{"n":1}',
        time=float(number),
        status=UNSEEN,
        due=draw.uniform(0, 100),
    )


def change(draw: random.Random, store: PendingStore, row: Pending) -> None:
    """One change of a row's life, of those that time makes and of those that a reward, refund or merge makes."""
    if row.status == CLOSED:  # it is only removed
        return
    kind = draw.randrange(6)
    if kind < 3:
        row.advanced = True
    else:
        row.dirty = True
    match kind:
        case 0:
            row.status, row.exposed, row.due = OPEN, draw.random(), draw.uniform(0, 100)
        case 1:
            row.status, row.due, row.learnt = ZERO, draw.uniform(0, 100), draw.random()
        case 2:
            row.status, row.due = CLOSED, draw.uniform(0, 100)
        case 3:
            row.status, row.reward, row.cause, row.logged = REWARDED, draw.random(), "m", draw.random()
        case 4:
            row.status, row.refunded, row.refunded_whole = REFUNDED, draw.random(), draw.random() < 0.5
        case 5:
            store.move_customer(row.customer, draw.choice(CUSTOMERS))


def as_stored(row: Pending) -> Columns:
    values = tuple(getattr(row, name) for name in row.__struct_fields__[:27])
    context = b"" if row.status == CLOSED else row.context
    return (*values[:7], context, *values[8:])


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_file_has_the_rows_of_a_dictionary_after_random_batches(state: State, seed: int, *, is_kept: bool) -> None:
    draw = random.Random(seed)
    model: dict[str, Columns] = {}
    kept = PendingStore(state.db)
    for batch in range(8):
        with state.transaction():
            store = kept if is_kept else PendingStore(state.db)
            store.begin()
            store.load(list(model), CUSTOMERS if draw.random() < 0.5 else ())
            assert len(store.load_due(50.0)) == sum(columns[10] <= 50 for columns in model.values())
            rows = [row for id_ in model for row in store.of_decision(id_)]
            for row in draw.sample(rows, min(len(rows), 6)):
                if draw.random() < 0.15:
                    store.remove(row)
                else:
                    change(draw, store, row)
            # The id of a removed row may come again, in the same batch too.
            for number in {batch * 3, batch * 3 + 1, draw.randrange(batch * 3 + 1)}:
                if not store.of_decision(f"d{number}"):
                    row = new_row(draw, number)
                    store.add(row)
                    if draw.random() < 0.3:
                        change(draw, store, row)
            store.write()
            known = {f"d{number}" for number in range(batch * 3 + 2)}
            model = {id_: as_stored(row) for id_ in sorted(known) for row in store.of_decision(id_)}
        assert state.db.execute("SELECT * FROM pending ORDER BY decision_id").fetchall() == list(model.values())
        assert loaded_of_customers(state.db) == {
            id_ for id_, columns in model.items() if columns[9] in {UNSEEN, OPEN, ZERO, REWARDED, REFUNDED}
        }


def loaded_of_customers(db: sqlite3.Connection) -> set[str]:
    """The decisions that are loaded by their customers, as a batch of events does."""
    store = PendingStore(db)
    store.load((), CUSTOMERS)
    return {row.decision_id for number in range(40) for row in store.of_decision(f"d{number}")}


def test_rows_that_another_process_changed_are_read_again(state: State) -> None:
    draw, kept = random.Random(1), PendingStore(state.db)
    with state.transaction():
        for number in range(6):
            kept.add(new_row(draw, number))
        kept.write()
    with closing(sqlite3.connect(state.path, isolation_level=None)) as other:  # an erasure does both
        other.execute("DELETE FROM pending WHERE decision_id < 'd4'")
        other.execute("VACUUM")
    with state.transaction():
        kept.begin()
        kept.load([f"d{number}" for number in range(6)], ())
        rows = [row for number in range(6) for row in kept.of_decision(f"d{number}")]
        for row in rows:
            row.status, row.advanced = CLOSED, True
        kept.write()
    assert [row.decision_id for row in rows] == ["d4", "d5"]
    stored = state.db.execute("SELECT decision_id, status, context FROM pending ORDER BY decision_id").fetchall()
    assert stored == [("d4", CLOSED, b""), ("d5", CLOSED, b"")]


def test_a_batch_that_failed_leaves_nothing_in_memory(state: State) -> None:
    kept = PendingStore(state.db)
    with state.transaction():
        kept.add(new_row(random.Random(2), 1))
        kept.write()
    with suppress(ZeroDivisionError), state.transaction(undone=kept.clear):
        kept.begin()
        kept.load(["d1"], ())
        kept.remove(kept.of_decision("d1")[0])
        kept.write()
        raise ZeroDivisionError
    kept.begin()
    kept.load(["d1"], ())
    assert [row.decision_id for row in kept.of_decision("d1")] == ["d1"]


def test_only_the_newest_rows_stay_in_memory(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MOST_HOT", 10)
    draw, kept = random.Random(3), PendingStore(state.db)
    for batch in range(6):
        with state.transaction():
            kept.begin()
            for number in range(batch * 4, batch * 4 + 4):
                kept.add(new_row(draw, number))
            kept.write()
    loaded = [number for number in range(24) if kept.of_decision(f"d{number}")]
    assert loaded == list(range(24))[-len(loaded) :]
    assert 0 < len(loaded) <= 10
    kept.begin()
    kept.load([f"d{number}" for number in range(24)], ())
    assert all(kept.of_decision(f"d{number}") for number in range(24))


def test_rows_of_a_customer_are_found_by_an_index(state: State) -> None:
    plan = state.db.execute(
        "EXPLAIN QUERY PLAN SELECT pending.* FROM json_each(?) asked JOIN pending "
        "ON customer = asked.value AND pending.key <> '' AND status BETWEEN 0 AND 4",
        ["[]"],
    ).fetchall()
    assert any("USING INDEX pending_by_customer" in step[-1] for step in plan), plan
