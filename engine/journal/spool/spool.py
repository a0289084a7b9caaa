"""The worker's append-only file: what was answered is here before the answer leaves, and stays until it is collected.

A spool is a directory `<root>/<id>/` of segments, each named by the first sequence number it may hold. Its worker
holds a lock on it for life; a spool whose lock is free is an orphan that anyone on the machine may ship.
"""

import errno
import fcntl
import math
import os
import shutil
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from engine.errors import JournalError

_LENGTH_CRC = struct.Struct("<II")
_SEQ_PARTITION = struct.Struct("<QH")
_HEAD = struct.Struct("<IIQH")
_SUFFIX = ".seg"
_ROOM = 4 << 20
_LEAST = 1 << 20  # so that a store on the same disk can write what belongs to what is answered
_LOOK_SECONDS = 0.02  # between two looks at the disk: within them less is written than that
_log = structlog.get_logger(__name__)


class Frame(NamedTuple):
    """One record as it lies in a segment; `raw` is the frame with its header."""

    seq: int
    partition: int
    payload: bytes
    raw: bytes


class Cursor(NamedTuple):
    """A place in a spool: a segment and an offset in it."""

    segment: int
    offset: int


START = Cursor(0, 0)


def partition_of(customer: str, partitions: int) -> int:
    """The partition that all records of `customer` go to."""
    return zlib.crc32(customer.encode("utf-8", "surrogatepass")) % partitions


class Spool:
    """The spool of this process. Append from one thread only: a record that `append` returned survives SIGKILL.

    With `fsync` it survives the machine too, at the price of a disk's latency for each append.
    """

    def __init__(self, root: Path, *, fsync: bool = False, segment_bytes: int = 64 << 20) -> None:
        self.root = root
        self.id = uuid.uuid4().hex
        self.path = root / self.id
        self.seq = 0
        self._fsync = fsync
        self._segment_bytes = segment_bytes
        self._size = 0
        self._first = 1
        self._look = 0.0
        with root_lock(root):
            self.path.mkdir()
            lock = claim(self.path)
        if lock is None:
            raise JournalError(f"{self.path}: a new spool is held by another process; give each machine its own --data")
        self._lock = lock
        self._segment = self._open_segment()

    def append(self, payload: bytes, partition: int) -> int:
        """The sequence number of `payload`, now kept. For its errors see `append_many`."""
        return self.append_many([(payload, partition)])

    def append_many(self, records: Sequence[tuple[bytes, int]]) -> int:
        """Keep all of (payload, partition) with one write; the sequence number of the last.

        Raises:
            JournalError: if the disk takes no more, or hardly any. None of the records is kept then.
        """
        if (now := time.monotonic()) >= self._look:
            if self._free() < _LEAST:
                raise self._refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            self._look = now + _LOOK_SECONDS
        seq = self.seq
        parts: list[bytes] = []
        for payload, partition in records:
            seq += 1
            parts.append(framed(seq, partition, payload))
        data = b"".join(parts)
        if self._size and self._size + len(data) > self._segment_bytes:
            self.roll()
        if not self._write(data):
            _log.error("a segment of the spool was cut; what of it was not shipped is lost", path=str(self.path))
            self.roll()
            self._write(data)
        self._size += len(data)
        self.seq = seq
        return seq

    def roll(self) -> None:
        """Begin a new segment, so that the one before can go once it is collected."""
        self.restore()
        segment = self._open_segment()
        os.close(self._segment)
        self._segment = segment
        self._size = 0

    @property
    def gone(self) -> bool:
        """Whether the spool was deleted or moved away, and was not made again yet."""
        return not _is_at(self._segment, _segment_path(self.path, self._first))

    @property
    def full(self) -> bool:
        """Whether the disk takes hardly any more."""
        return self._free() < _ROOM

    @property
    def size(self) -> int:
        """Bytes in the segment that is being written."""
        return self._size

    def restore(self) -> bool:
        """Make a spool again that was deleted or moved away, with what its last segment held; False: it was there.

        It keeps its name and its sequence numbers, so that what was shipped of it is not shipped twice.

        Raises:
            JournalError: if its folder cannot be made.
        """
        if not self.gone:
            return False
        try:
            self._make_again()
        except OSError as error:
            raise self._refused(error) from error
        return True

    def close(self) -> None:
        """Let go of the spool. What was not collected is left for others to adopt."""
        os.close(self._segment)
        os.close(self._lock)

    def _free(self) -> float:
        """Bytes that the disk takes; infinite where it does not say."""
        try:
            disk = os.fstatvfs(self._segment)
        except OSError:
            return math.inf
        if not disk.f_blocks:
            return math.inf
        return (disk.f_bavail if os.geteuid() else disk.f_bfree) * disk.f_frsize

    def _open_segment(self) -> int:
        first = self.seq + 1
        try:
            segment = os.open(_segment_path(self.path, first), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            if self._fsync:
                sync_directory(self.path)
        except OSError as error:
            raise self._refused(error) from error
        self._first = first
        return segment

    def _write(self, data: bytes) -> bool:
        """Whether the segment is still whole: nothing can be read in it behind a place where it was cut."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._segment, rest) :]
            if self._fsync:
                os.fdatasync(self._segment)
            state = os.fstat(self._segment)
            if state.st_nlink == 0:
                self._make_again()
        except OSError as error:
            # A torn frame would hide every later one from the readers.
            os.ftruncate(self._segment, self._size)
            raise self._refused(error) from error
        return state.st_size == self._size + len(data)

    def _make_again(self) -> None:
        with root_lock(self.root):
            self.path.mkdir(exist_ok=True)
            if not _is_at(self._lock, self.path / "lock"):
                lock = claim(self.path)
                if lock is None:
                    raise BlockingIOError(errno.EWOULDBLOCK, "another process holds a spool of this name")
                os.close(self._lock)
                self._lock = lock
        place = _segment_path(self.path, self._first)
        prepared = place.with_suffix(".tmp")
        with prepared.open("wb") as file:
            file.write(os.pread(self._segment, os.fstat(self._segment).st_size, 0))
            if self._fsync:
                file.flush()
                os.fsync(file.fileno())
        segment = os.open(prepared, os.O_RDWR | os.O_APPEND)
        prepared.replace(place)
        os.close(self._segment)
        self._segment = segment
        _log.error("the spool was deleted and is made again", path=str(self.path), segment=self._first)

    def _refused(self, error: OSError) -> JournalError:
        return JournalError(
            f"{self.path}: {error.strerror}; free the disk or give the folder back, nothing is answered until then"
        )


def framed(seq: int, partition: int, payload: bytes) -> bytes:
    """One record as it lies in a segment and in a stream: length, checksum, sequence number, partition, payload."""
    tail = _SEQ_PARTITION.pack(seq, partition)
    return _LENGTH_CRC.pack(len(payload), zlib.crc32(payload, zlib.crc32(tail))) + tail + payload


def frames(data: bytes) -> Iterator[Frame]:
    """The whole frames at the beginning of `data`; ends at a torn or altered one."""
    at, end = 0, len(data)
    while at + _HEAD.size <= end:
        length, crc, seq, partition = _HEAD.unpack_from(data, at)
        after = at + _HEAD.size + length
        if after > end or length == 0:
            return
        payload = data[at + _HEAD.size : after]
        if zlib.crc32(payload, zlib.crc32(data[at + _LENGTH_CRC.size : at + _HEAD.size])) != crc:
            return
        yield Frame(seq, partition, payload, data[at:after])
        at = after


def read(path: Path, cursor: Cursor, limit: int = 256 << 10) -> tuple[list[Frame], Cursor]:
    """About `limit` bytes of frames from `cursor` on, and the place after them.

    At the end, or before a frame that is torn in the last segment, there are none and the place stays.
    """
    segments = segments_of(path)
    for segment in segments:
        if segment < cursor.segment:
            continue
        offset = cursor.offset if segment == cursor.segment else 0
        found = list(frames(_bytes_at(path, segment, offset, limit)))
        cursor = Cursor(segment, offset + sum(len(frame.raw) for frame in found))
        if found:
            return found, cursor
    return [], cursor


def bytes_after(path: Path, cursor: Cursor) -> int:
    """Bytes in the spool behind `cursor`."""
    total = 0
    for segment in segments_of(path):
        if segment >= cursor.segment:
            total += _segment_path(path, segment).stat().st_size
            total -= cursor.offset if segment == cursor.segment else 0
    return total


def last_sequences(path: Path) -> dict[int, int]:
    """The last sequence number of each partition in a spool."""
    last: dict[int, int] = {}
    cursor = START
    with suppress(FileNotFoundError):  # its worker may just remove it
        while (page := read(path, cursor, 4 << 20))[0]:
            cursor = page[1]
            last.update((frame.partition, frame.seq) for frame in page[0])
    return last


def segments_of(path: Path) -> list[int]:
    """The segments of a spool in their order, each as the first sequence number it may hold."""
    return sorted(int(entry.stem) for entry in path.iterdir() if entry.suffix == _SUFFIX)


def delete_segment(path: Path, segment: int) -> None:
    """Remove a segment that is collected."""
    _segment_path(path, segment).unlink(missing_ok=True)


def orphans(root: Path) -> list[tuple[Path, int]]:
    """The spools that no process holds, now held by this one: each with its lock, an open file to close at the end."""
    found: list[tuple[Path, int]] = []
    with root_lock(root):
        for path in spools(root):
            lock = claim(path)
            if lock is not None:
                found.append((path, lock))
    return found


def spools(root: Path) -> list[Path]:
    """All spools below `root`."""
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def remove(path: Path, lock: int) -> None:
    """Remove a spool that is collected, and let go of it."""
    with root_lock(path.parent):
        shutil.rmtree(path)
        os.close(lock)


def claim(path: Path) -> int | None:
    """The lock of a spool if it is free, else None."""
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


@contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Spools come, are claimed and go one at a time: none is taken between its making and its locking."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _segment_path(path: Path, segment: int) -> Path:
    return path / f"{segment:020d}{_SUFFIX}"


def _bytes_at(path: Path, segment: int, offset: int, limit: int) -> bytes:
    """`limit` bytes of a segment, or more if its next frame is longer."""
    with suppress(FileNotFoundError), _segment_path(path, segment).open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
        if len(data) >= _HEAD.size:
            needed = _HEAD.size + int(_HEAD.unpack_from(data)[0])
            if needed > len(data):
                data += file.read(needed - len(data))
        return data
    return b""
