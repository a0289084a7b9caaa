"""The worker's append-only log on local disk: a record is here before its answer leaves, until it is in Parquet.

Invariants:

1. `append` returns only after the kernel has the bytes, so a record survives SIGKILL of every process. With `fsync` it
   also survives the machine.
2. Sequence numbers of a spool rise by one per record, over all partitions, and are never used twice. The shipper, the
   stream and the collector deduplicate by (spool, partition, sequence number).
3. A segment is deleted only after the collector has committed every record in it.
4. A reader stops at the first frame that is torn or altered: nothing behind such a place is trusted.

On disk:

    ROOT/.lock                       locked (flock) while a spool is created, claimed or removed
    ROOT/SPOOL_ID/lock               locked (flock) by the worker for the life of its process
    ROOT/SPOOL_ID/<first seq>.seg    segments, named by the first sequence number that they may hold, 20 digits

A segment is a sequence of frames without padding (layout: `frames`).

Life of a spool: *active* (its worker holds the lock) -> *orphaned* (the process ended, the lock is free) -> *adopted*
(another process of this machine holds the lock and ships the rest) -> *removed* (all of it is collected).
"""

import errno
import fcntl
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from engine.errors import JournalError
from engine.journal.spool.frames import HEADER, Frame, decode_frames, encode_frame
from engine.journal.spool.space import free_bytes

_SUFFIX = ".seg"
FIRST_SEGMENT = f"{1:020d}{_SUFFIX}"
"""The name of a spool's first segment."""
_LOW_SPACE = 4 << 20
"""Free bytes below which the server reports that it is not ready."""
_LEAST_SPACE = 1 << 20
"""Free bytes below which appends are refused: a store on the same disk needs room to write what belongs to them."""
_SPACE_CHECK_SECONDS = 0.02
"""Between two checks of free space; less than `_LEAST_SPACE` is written in that time."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_OPEN = -1
"""The value in place of a file descriptor while the spool could not be created."""
_log = structlog.get_logger(__name__)


class Cursor(NamedTuple):
    """A position in a spool: a segment and a byte offset in it."""

    segment: int
    offset: int


START = Cursor(0, 0)


def partition_of(customer: str, partitions: int) -> int:
    """The partition that all records of `customer` go to."""
    return zlib.crc32(customer.encode("utf-8", "surrogatepass")) % partitions


class Spool:
    """The spool of this process. Append from one thread only.

    With `fsync` each append waits for the disk.
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
        self._space_check_due = 0.0
        self._lock = self._segment = _NOT_OPEN
        try:
            self._create()
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            _log.error("the disk of the spool is full; the spool is created once there is space", path=str(root))

    @property
    def is_open(self) -> bool:
        """Whether the spool exists; on a full disk the first append that finds space creates it."""
        return self._segment != _NOT_OPEN

    def check_space(self) -> None:
        """Check that the disk has space for the next append.

        Raises:
            JournalError: if the disk is full or nearly so.
        """
        if (now := time.monotonic()) < self._space_check_due:
            return
        if self.free < _LEAST_SPACE:
            raise self._refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        if not self.is_open:
            try:
                self._create()
            except OSError as error:
                raise self._refused(error) from error
        self._space_check_due = now + _SPACE_CHECK_SECONDS

    def append(self, payload: bytes, partition: int) -> int:
        """Append one record; returns its sequence number. Errors as `append_many`."""
        return self.append_many([(payload, partition)])

    def append_many(self, records: Sequence[tuple[bytes, int]]) -> int:
        """Append all (payload, partition) with one write; returns the sequence number of the last.

        Raises:
            JournalError: if the disk is full or nearly so. None of the records is in the spool then.
        """
        self.check_space()
        seq = self.seq
        parts: list[bytes] = []
        for payload, partition in records:
            seq += 1
            parts.append(encode_frame(seq, partition, payload))
        data = b"".join(parts)
        if self._size and self._size + len(data) > self._segment_bytes:
            self.roll()
        if not self._write(data):
            # Another program truncated the segment. Its readers stop there, so the records go to a new segment.
            _log.error("a spool segment was truncated; its records that were not shipped are lost", path=str(self.path))
            self.roll()
            self._write(data)
        self._size += len(data)
        self.seq = seq
        return seq

    def roll(self) -> None:
        """Start a new segment, so that the previous one can be deleted once it is collected."""
        self.restore()
        segment = self._open_segment()
        os.close(self._segment)
        self._segment = segment
        self._size = 0

    @property
    def gone(self) -> bool:
        """Whether the spool was deleted or moved away and is not restored yet."""
        return self.is_open and not _is_same_file(self._segment, _segment_path(self.path, self._first))

    @property
    def full(self) -> bool:
        """Whether the disk is nearly full."""
        return self.free < _LOW_SPACE

    @property
    def free(self) -> float:
        """Free bytes on the disk; infinite where the file system does not report them."""
        return free_bytes(self._segment if self.is_open else self.root)

    @property
    def size(self) -> int:
        """Bytes in the current segment."""
        return self._size

    def restore(self) -> bool:
        """Restore a spool that was deleted or moved from its open last segment; False if nothing is missing.

        Name and sequence numbers stay, so records that were shipped are not shipped twice.

        Raises:
            JournalError: if its folder cannot be made.
        """
        if not self.gone:
            return False
        try:
            self._rebuild()
        except OSError as error:
            raise self._refused(error) from error
        return True

    def close(self) -> None:
        """Release the lock. Records that are not collected wait for another process to adopt the spool."""
        if self.is_open:
            os.close(self._segment)
            os.close(self._lock)

    def _create(self) -> None:
        """Create folder, lock and first segment; an error of the disk leaves none of them."""
        with root_lock(self.root):
            self.path.mkdir()
            lock = claim_spool(self.path)
        if lock is None:
            raise JournalError(
                "another process holds the lock of this new spool; give each machine its own --data", self.path
            )
        try:
            self._segment = self._open_segment()
        except JournalError as error:
            os.close(lock)
            shutil.rmtree(self.path, ignore_errors=True)
            raise error.__cause__ or error from None
        self._lock = lock

    def _open_segment(self) -> int:
        """Create the segment of the next sequence number; returns its file descriptor."""
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
        """Write to the current segment; False if another program truncated it, so that readers would miss `data`."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._segment, rest) :]
            if self._fsync:
                os.fdatasync(self._segment)
            state = os.fstat(self._segment)
            if state.st_nlink == 0:
                self._rebuild()
        except OSError as error:
            # Readers stop at a torn frame, which would hide every later one.
            os.ftruncate(self._segment, self._size)
            raise self._refused(error) from error
        return state.st_size == self._size + len(data)

    def _rebuild(self) -> None:
        """Recreate folder, lock and current segment; the descriptor still reads the bytes of the deleted file."""
        with root_lock(self.root):
            self.path.mkdir(exist_ok=True)
            if not _is_same_file(self._lock, self.path / "lock"):
                lock = claim_spool(self.path)
                if lock is None:
                    raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the spool of this name")
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
        _log.error(
            "the spool was deleted; it is restored from its open segment", path=str(self.path), segment=self._first
        )

    def _refused(self, error: OSError) -> JournalError:
        return JournalError(
            f"{error.strerror}; free the disk or restore the folder, nothing is answered until then", self.path
        )


def read_frames(path: Path, cursor: Cursor, limit: int = 256 << 10) -> tuple[list[Frame], Cursor]:
    """Reads about `limit` bytes of frames from `cursor` on; returns the frames and the next position.

    At the end, or before a torn frame of the last segment, there are none and the position stays.
    """
    segments = segments_of(path)
    for segment in segments:
        if segment < cursor.segment:
            continue
        offset = cursor.offset if segment == cursor.segment else 0
        found = list(decode_frames(_bytes_at(path, segment, offset, limit)))
        cursor = Cursor(segment, offset + sum(len(frame.raw) for frame in found))
        if found:
            return found, cursor
    return [], cursor


def bytes_after(path: Path, cursor: Cursor) -> int:
    """Bytes in the spool after `cursor`."""
    total = 0
    for segment in segments_of(path):
        if segment >= cursor.segment:
            total += _segment_path(path, segment).stat().st_size
            total -= cursor.offset if segment == cursor.segment else 0
    return total


def last_sequences(path: Path) -> dict[int, int]:
    """The last sequence number per partition in a spool."""
    last: dict[int, int] = {}
    cursor = START
    with suppress(FileNotFoundError):  # its process may remove it at this moment
        while (page := read_frames(path, cursor, 4 << 20))[0]:
            cursor = page[1]
            last.update((frame.partition, frame.seq) for frame in page[0])
    return last


def segments_of(path: Path) -> list[int]:
    """A spool's segments in order, each by the first sequence number that it may hold."""
    return sorted(int(entry.stem) for entry in path.iterdir() if entry.suffix == _SUFFIX)


def delete_segment(path: Path, segment: int) -> None:
    """Delete a segment whose records are all collected."""
    _segment_path(path, segment).unlink(missing_ok=True)


def claim_orphans(root: Path) -> list[tuple[Path, int]]:
    """Claim the spools that no process holds: each with its lock, a file descriptor that the caller closes."""
    found: list[tuple[Path, int]] = []
    with root_lock(root):
        for path in list_spools(root):
            lock = claim_spool(path)
            if lock is not None:
                found.append((path, lock))
    return found


def list_spools(root: Path) -> list[Path]:
    """All spools under `root`."""
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def remove_spool(path: Path, lock: int) -> None:
    """Delete a spool whose records are all collected, and release its lock."""
    with root_lock(path.parent):
        shutil.rmtree(path)
        os.close(lock)


def claim_spool(path: Path) -> int | None:
    """Take the lock of a spool without waiting; None if another process holds it."""
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


@contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Serializes making, claiming and removing spools, so that none is claimed before it is locked."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable: fsync of a new file does not cover its name."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _is_same_file(file: int, path: Path) -> bool:
    """Whether `path` still names the open `file`."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _segment_path(path: Path, segment: int) -> Path:
    """The path of a segment; 20 digits, so that names sort like sequence numbers."""
    return path / f"{segment:020d}{_SUFFIX}"


def _bytes_at(path: Path, segment: int, offset: int, limit: int) -> bytes:
    """`limit` bytes of a segment, or more if its first frame is longer."""
    with suppress(FileNotFoundError), _segment_path(path, segment).open("rb") as file:
        file.seek(offset)
        data = file.read(max(limit, HEADER.size))
        if len(data) >= HEADER.size:
            needed = HEADER.size + int(HEADER.unpack_from(data)[0])
            if needed > len(data):
                data += file.read(needed - len(data))
        return data
    return b""
