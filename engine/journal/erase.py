"""Takes people out of the Parquet log, and keeps what of them is still on its way from coming in."""

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.erasures import KEPT, digest
from engine.journal import parquet, publish
from engine.journal.parquet import Table

__all__ = ["digest", "erase_customers", "remember", "without_erased"]

Keep = Callable[[pa.RecordBatch | pa.Table], pa.Array]


def erase_customers(log: Path, ids: set[str], now: float) -> int:
    """Remove all rows of the customers or devices `ids`, and what came before `now` and is still to come.

    The rewards of their decisions go with them; so does what is in quarantine and has one of the ids in it. The log
    is never without the rows of others. Killed halfway, it is finished by calling it again.

    Returns:
        The number of rows removed.
    """
    remember(log, {digest(identifier): now for identifier in ids})
    decisions = _decisions_of(log, ids)
    removed = 0
    for table in reversed(parquet.TABLES):  # rewards before the decisions that say whose they are
        keep = functools.partial(_others, table=table, ids=ids, decisions=decisions)
        for day in sorted((log / table).glob("day=*")):
            if any(_count(_files(day), table, keep).values()):
                removed += _rewrite(log, table, day, keep)
    return removed


def remember(log: Path, erased: Mapping[str, float]) -> None:
    """Keep what was made by these before they were erased, and is still to come, from coming in: by digest, when."""
    oldest = max(erased.values(), default=0.0) - KEPT

    def change(before: publish.Checkpoint) -> publish.Change:
        return publish.Change(erased={one: at for one, at in before.erased.items() if at > oldest} | dict(erased))

    publish.commit(log, change)


def without_erased(batch: pa.RecordBatch, erased: dict[str, float]) -> pa.RecordBatch:
    """The rows that were not made by an erased customer before the erasure."""
    if not erased or "customer" not in batch.schema.names:
        return batch
    made = batch.column("received" if "received" in batch.schema.names else "time").cast(pa.int64()).to_pylist()
    customers = batch.column("customer").to_pylist()
    devices = batch.column("device").to_pylist() if "device" in batch.schema.names else customers
    known = {name: erased.get(digest(name), 0.0) * 1e6 for name in {*customers, *devices} if name is not None}
    keep = [
        at > known[customer] and at > known.get(device, 0.0)
        for at, customer, device in zip(made, customers, devices, strict=True)
    ]
    return batch.filter(pa.array(keep))


def _decisions_of(log: Path, ids: set[str]) -> set[str]:
    decisions: set[str] = set()
    for path in (log / "decisions").glob("day=*/*.parquet"):
        found = pq.read_table(path, columns=["decision_id", "customer", "device"], partitioning=None)
        decisions.update(
            found.filter(pc.invert(_others(found, "decisions", ids, decisions)))["decision_id"].to_pylist()
        )
    return decisions


def _rewrite(log: Path, table: Table, day: Path, keep: Keep) -> int:
    removed = 0

    def change(_: publish.Checkpoint) -> publish.Change:
        nonlocal removed
        counts = _count(_files(day), table, keep)  # again: compaction may have replaced the files meanwhile
        removed = sum(counts.values())
        return publish.Change(
            {
                path: functools.partial(parquet.copy, table=table, sources=[path], keep=keep)
                for path, count in counts.items()
                if count
            }
        )

    publish.commit(log, change)
    return removed


def _count(files: list[Path], table: Table, keep: Keep) -> dict[Path, int]:
    """How many rows of each file are not to be kept."""
    names = [name for name in ("customer", "device", "decision_id", "body") if name in parquet.SCHEMAS[table].names]
    counts: dict[Path, int] = {}
    for path in files:
        with suppress(FileNotFoundError):
            found = pq.read_table(path, columns=names, partitioning=None)
            counts[path] = found.num_rows - (pc.sum(keep(found)).as_py() or 0)
    return counts


def _files(day: Path) -> list[Path]:
    return sorted(day.glob("*.parquet"))


def _others(rows: pa.RecordBatch | pa.Table, table: Table, ids: set[str], decisions: set[str]) -> pa.Array:
    """For each row whether it is of others."""
    match table:
        case "rewards":
            return pc.invert(pc.is_in(rows["decision_id"], pa.array(sorted(decisions), pa.string())))
        case "quarantine":
            words = [identifier.encode() for identifier in ids]
            return pa.array([not any(word in body for word in words) for body in rows["body"].to_pylist()], pa.bool_())
        case _:
            people = pa.array(sorted(ids), pa.string())
            own = pc.is_in(rows["customer"], people)
            if "device" in rows.schema.names:
                own = pc.or_(own, pc.is_in(rows["device"], people))
            return pc.invert(own)
