"""The log's quarantine: lists records that could not be counted or learnt, and sends them again after a repair.

A replay takes records out of the quarantine and into a new spool of this machine, from which they go the way of all
records: to the learner, and into the log, where events that are there already are dropped. The steps:

| step | on disk | if it dies here |
|---|---|---|
| 1. take out | one commit: the files without these rows, their frames in `.replay/<commit>.frames` | nothing happened |
| 2. spool | a spool named after that file, with the same frames | the next replay repeats it |
| 3. forget | the file of frames is deleted | the next replay repeats 2 |

Step 2 may be repeated: a record of a spool's name and sequence number that was shipped or collected is dropped. Only
readers that forgot the spool, after seven days, would take it twice.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa

from engine.journal.log import commit, locks, parquet
from engine.journal.records import AnyRecord, decode
from engine.journal.spool.frames import encode_frame
from engine.journal.spool.spool import FIRST_SEGMENT, partition_of, root_lock, sync_directory

_FRAMES = ".replay"


class QuarantinedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record in quarantine, without its body, which is about a customer. `time` is seconds since 1970.

    `kind` is the record's type, or None where no version up to this one can read it; then a replay leaves it.
    """

    time: float
    reason: str
    source: str
    kind: str | None


class ReplaySummary(msgspec.Struct, frozen=True):
    """The numbers of records spooled again, and of those that stay because they cannot be read."""

    replayed: int
    unreadable: int


def list_quarantine(log: Path, reason: str = "") -> list[QuarantinedRecord]:
    """The records whose reason begins with `reason`, oldest first."""
    found: list[QuarantinedRecord] = []
    with locks.log_read_lock(log):
        for path in _files(log):
            for row in parquet.read_table(path).to_pylist():
                if row["reason"].startswith(reason):
                    record = _decode_or_none(row["body"])
                    kind = None if record is None else str(record.__struct_config__.tag)
                    time = row["time"].timestamp()
                    found.append(QuarantinedRecord(time=time, reason=row["reason"], source=row["source"], kind=kind))
    return sorted(found, key=lambda one: one.time)


def replay_quarantine(log: Path, spools: Path, partitions: int, reason: str = "") -> ReplaySummary:
    """Send the readable records whose reason begins with `reason` again, by a new spool under `spools`.

    Raises:
        OSError: if the disk is full. Nothing is lost: call it again.
    """
    unreadable = replayed = 0

    def change(before: commit.Checkpoint) -> commit.LogChange:
        nonlocal unreadable, replayed
        add: dict[Path, Callable[[Path], None]] = {}
        remove: list[Path] = []
        bodies: list[bytes] = []
        for path in _files(log):
            table = parquet.read_table(path)
            taken = [text.startswith(reason) for text in table["reason"].to_pylist()]
            readable = [_decode_or_none(body) is not None for body in table["body"].to_pylist()]
            unreadable += sum(one and not other for one, other in zip(taken, readable, strict=True))
            goes = [one and other for one, other in zip(taken, readable, strict=True)]
            if not any(goes):
                continue
            bodies += table.filter(pa.array(goes))["body"].to_pylist()
            left = table.filter(pa.array([not one for one in goes]))
            if left.num_rows:
                add[path] = functools.partial(parquet.write_table, table="quarantine", batches=left.to_batches())
            else:
                remove.append(path)
        replayed = len(bodies)
        if bodies:
            frames = b"".join(_frames(bodies, partitions))
            add[log / _FRAMES / f"{before.commit + 1:010d}.frames"] = functools.partial(_write, frames)
        return commit.LogChange(add, remove)

    commit.commit_change(log, change)
    for path in sorted((log / _FRAMES).glob("*.frames")):
        _spool(path, spools)
        path.unlink()
    return ReplaySummary(replayed, unreadable)


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _files(log: Path) -> list[Path]:
    return sorted((log / "quarantine").glob("day=*/*.parquet"))


def _frames(bodies: list[bytes], partitions: int) -> Iterator[bytes]:
    """Encoded records as the frames of one spool."""
    for seq, body in enumerate(bodies, 1):
        record = _decode_or_none(body)
        customer = getattr(record, "customer", None)  # a reward has none: any partition reaches the log
        yield encode_frame(seq, 0 if customer is None else partition_of(customer, partitions), body)


def _spool(frames: Path, root: Path) -> None:
    """Make the complete spool of these frames under a name that no process adopts before it is finished."""
    name = hashlib.blake2b(str(frames.resolve()).encode() + frames.read_bytes(), digest_size=16).hexdigest()
    with root_lock(root):
        place = root / name
        place.mkdir(exist_ok=True)
        prepared = place / "frames.tmp"
        prepared.write_bytes(frames.read_bytes())
        with prepared.open("rb") as file:
            os.fsync(file.fileno())
        prepared.replace(place / FIRST_SEGMENT)
        sync_directory(place)
        sync_directory(root)


def _decode_or_none(body: bytes) -> AnyRecord | None:
    """The record if the log can take it now; else None."""
    try:
        record = decode(body)
        parquet.rows_of_record(record)
    except (msgspec.MsgspecError, ValueError):
        return None
    return record
