"""Writes a channel's due messages into one Parquet file, each once, however often the process is killed.

The file grows in a folder beside it, FILE.parts, until it is whole:

| in the folder | means |
|---|---|
| `holder` | the name under which this run leases |
| `000001.leased.parquet` | messages of one lease, not confirmed yet |
| `000001.parquet` | the same, confirmed: whoever has the file has sent them |

A part is written under another name and renamed, so it is there whole or not at all. A run that finds the folder goes
on with it: it confirms the parts that are not confirmed, and takes back what its predecessor leased and did not write.
A row whose lease had ended and that another sender has now is left out of the file.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from engine.customer import KINDS
from engine.errors import BadInput, StoreUnavailable
from engine.service.due.confirm import confirm_messages
from engine.service.due.desk import DueDesk, DueItem
from engine.service.worker import Worker
from engine.settings import Settings

LEASED = ".leased.parquet"
ATTEMPTS = 5
"""Times that a step is tried while the store does not answer in time."""

T = TypeVar("T")
_TEXTS = ("decision_id", "message_id", "cause", "occurrence", "channel", "placement", "customer")
_CHOICE = ("offer", "rendering", "policy", "reason", "creative")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in (*_TEXTS, *KINDS, *_CHOICE)),
        ("propensity", pa.float64()),
        ("time", pa.timestamp("us", tz="UTC")),
    ]
)
"""One row per message. Identifiers are the newest of their kind; `rendering` is JSON, of a list that of its items.

`time` is when the message was decided."""


class BatchSummary(msgspec.Struct, frozen=True):
    """The result of a run: messages in the file, and how many more the channel's capacity allows (None: no limit)."""

    channel: str
    file: str
    messages: int
    left: int | None


class DueBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The run's terms: the channel, its `limit`, messages per `part`, and the `lease` in seconds."""

    channel: str
    file: Path
    limit: int | None
    lease: float
    part: int

    @property
    def folder(self) -> Path:
        """The folder that holds the parts."""
        return self.file.with_name(f"{self.file.name}.parts")


async def write_due_batch(settings: Settings, batch: DueBatch, report: Callable[[int], None]) -> BatchSummary:
    """Write the messages that are due; `report` gets their number after each part.

    Raises:
        BadInput: for a channel that writes to nobody, or a file that is there already.
        StoreUnavailable: if the store does not answer; run it again.
    """
    worker = Worker(settings, logs_changes=False)
    if batch.channel not in worker.plan.outbound:
        channels = ", ".join(sorted(worker.plan.outbound)) or "(none; write `outbound: true` in channels.yaml)"
        raise BadInput(f"--channel {batch.channel}: is not a channel that writes to customers; use one of {channels}")
    if (messages := _count_finished(batch)) is not None:
        return BatchSummary(batch.channel, str(batch.file), messages, None)
    async with worker.running():
        desk = DueDesk(worker)
        written, holder = await _resume(worker, desk, batch)
        report(written)
        left: int | None = None
        while batch.limit is None or written < batch.limit:
            most = batch.part if batch.limit is None else min(batch.part, batch.limit - written)
            answer = await _again(partial(desk.hand_out, batch.channel, most, batch.lease, holder))
            if answer.items:
                written += await _confirm(worker, _write_part(batch.folder, answer.items))
                report(written)
            left = answer.left
            if not answer.more:
                break
    _join(batch.folder, batch.file)
    return BatchSummary(batch.channel, str(batch.file), written, left)


async def _resume(worker: Worker, desk: DueDesk, batch: DueBatch) -> tuple[int, str]:
    """The number of messages in existing parts, and the name under which this run leases."""
    holder = _name_holder(batch.folder)
    for part in _list_parts(batch.folder, leased=True):
        await _confirm(worker, part)
    await _again(lambda: desk.recall(batch.channel, holder))
    return sum(pq.read_metadata(part).num_rows for part in _list_parts(batch.folder, leased=False)), holder


async def _confirm(worker: Worker, part: Path) -> int:
    """Confirm a part's messages, leave out those that another sender has, and return the remaining number."""
    table = pq.read_table(part)
    ids: list[str] = table.column("decision_id").to_pylist()
    results = await _again(lambda: confirm_messages(worker, [(id_, "sent") for id_ in ids]))
    return _finish_part(part, table, [results[id_] == "sent" for id_ in ids])


async def _again(step: Callable[[], Awaitable[T]]) -> T:
    """The result of a step, retried while the store does not answer in time."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return await step()
        except StoreUnavailable:
            await asyncio.sleep(0.2 * 2**attempt)
    return await step()


def _count_finished(batch: DueBatch) -> int | None:
    """The number of messages of a run that was killed after its last step; None if work is left."""
    if not batch.file.exists():
        return None
    if not batch.folder.is_dir():
        raise BadInput(f"--out {batch.file}: is there already; name another file, or remove it")
    _remove(batch.folder)
    return int(pq.read_metadata(batch.file).num_rows)


def _name_holder(folder: Path) -> str:
    """The holder name under which this run and its predecessors lease."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / "holder"
    if not name.exists():
        _write_whole(name, lambda path: path.write_text(secrets.token_hex(8)))
    return name.read_text()


def _write_part(folder: Path, items: Sequence[DueItem]) -> Path:
    """Write leased messages."""
    numbers = [int(path.name.split(".")[0]) for path in folder.glob("*.parquet")]
    part = folder / f"{max(numbers, default=0) + 1:06}{LEASED}"
    table = pa.Table.from_pylist([_row(item) for item in items], schema=SCHEMA)
    _write_whole(part, lambda path: pq.write_table(table, path))
    return part


def _finish_part(part: Path, table: pa.Table, confirmed: Sequence[bool]) -> int:
    """Rename a part as confirmed, without unconfirmed messages; returns their number."""
    if not all(confirmed):
        table = table.filter(pa.array(confirmed))
        _write_whole(part, lambda path: pq.write_table(table, path))
    part.rename(part.with_name(part.name.replace(LEASED, ".parquet")))
    return int(table.num_rows)


def _row(item: DueItem) -> dict[str, object]:
    """One message as a row."""
    row: dict[str, object] = {name: getattr(item, name) for name in (*_TEXTS, "policy", "reason")}
    row["offer"], row["creative"] = item.offer or None, item.creative or None
    row |= {kind: values[-1] for kind, values in item.ids.items() if values}
    row["rendering"] = msgspec.json.encode(item.items or item.rendering).decode()
    return row | {"propensity": item.propensity, "time": item.time}


def _list_parts(folder: Path, *, leased: bool) -> list[Path]:
    """The confirmed or the unconfirmed parts, in order."""
    return [path for path in sorted(folder.glob("*.parquet")) if path.name.endswith(LEASED) is leased]


def _join(folder: Path, file: Path) -> None:
    """Join the parts into one file, and remove them once that file exists."""

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, SCHEMA) as writer:
            for part in _list_parts(folder, leased=False):
                writer.write_table(pq.read_table(part, schema=SCHEMA))

    _write_whole(file, write)
    _remove(folder)


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, and rename it once it is on disk."""
    draft = path.with_name(f".{path.name}.draft")
    write(draft)
    with draft.open("rb+") as stream:
        os.fsync(stream.fileno())
    draft.replace(path)


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
