"""A spool has every record that `append` accepted, in order, and none that it refused."""

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import JournalError
from engine.journal.spool import spool
from engine.journal.spool.frames import Frame, decode_frames
from engine.journal.spool.spool import START, Cursor, Spool, read_frames


def everything(path: Path, cursor: Cursor = START, limit: int = 100) -> list[Frame]:
    found: list[Frame] = []
    while True:
        frames, cursor = spool.read_frames(path, cursor, limit)
        if not frames:
            return found
        found += frames


@given(st.lists(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.integers(0, 65_535)), min_size=1)))
def test_reads_what_was_appended(tmp_path_factory: pytest.TempPathFactory, batches: list) -> None:
    own = Spool(tmp_path_factory.mktemp("spool"), segment_bytes=500)
    for batch in batches:
        own.append_many(batch)
    records = [record for batch in batches for record in batch]
    found = everything(own.path)
    assert [(frame.payload, frame.partition) for frame in found] == records
    assert [frame.seq for frame in found] == list(range(1, own.seq + 1))
    assert spool.bytes_after(own.path, START) == sum(len(frame.raw) for frame in found)
    own.close()


def test_rolls_to_a_new_segment_and_keeps_frames_whole(tmp_path: Path) -> None:
    own = Spool(tmp_path, segment_bytes=1000, fsync=True)
    for number in range(50):
        own.append(bytes([number]) * 100, 0)
    assert len(spool.segments_of(own.path)) > 4
    assert [frame.payload[0] for frame in everything(own.path)] == list(range(50))
    first, second, *_ = spool.segments_of(own.path)
    spool.delete_segment(own.path, first)
    assert everything(own.path)[0].seq == second


@pytest.mark.parametrize("cut", [1, 17, 18, 40])
def test_a_torn_tail_hides_nothing_before_it(tmp_path: Path, cut: int) -> None:
    own = Spool(tmp_path)
    own.append_many([(b"first" * 10, 1), (b"second" * 10, 2)])
    (segment,) = own.path.glob("*.seg")
    os.truncate(segment, segment.stat().st_size - cut)
    assert [frame.payload for frame in everything(own.path)] == [b"first" * 10]


def test_a_torn_segment_hides_nothing_after_it(tmp_path: Path) -> None:
    own = Spool(tmp_path)
    own.append_many([(b"first", 1), (b"torn", 2)])
    (segment,) = own.path.glob("*.seg")
    own.roll()
    own.append(b"third", 3)
    os.truncate(segment, segment.stat().st_size - 1)
    assert [frame.payload for frame in everything(own.path)] == [b"first", b"third"]


@pytest.mark.parametrize("at", [0, 5, 9, 17, 20])
def test_an_altered_frame_is_not_read(tmp_path: Path, at: int) -> None:
    own = Spool(tmp_path)
    own.append(b"payload", 1)
    (segment,) = own.path.glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[at] ^= 1
    assert list(decode_frames(bytes(data))) == []


def test_a_full_disk_refuses_and_the_next_append_is_whole(tmp_path: Path) -> None:
    own = Spool(tmp_path)
    own.append(b"x" * 1000, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(JournalError, match="File too large; free the disk"):
            own.append_many([(b"y" * 400, 0), (b"z" * 400, 0)])
        assert own.seq == 1
        assert own.append(b"small", 0) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    own.append(b"after", 0)
    assert [(frame.seq, frame.payload[:5]) for frame in everything(own.path)] == [
        (1, b"xxxxx"),
        (2, b"small"),
        (3, b"after"),
    ]


def test_only_a_spool_without_its_process_is_an_orphan(tmp_path: Path) -> None:
    living = Spool(tmp_path)
    dead = Spool(tmp_path)
    dead.append(b"left", 0)
    dead.close()
    ((path, lock),) = spool.claim_orphans(tmp_path)
    assert path == dead.path
    assert spool.claim_orphans(tmp_path) == []
    spool.remove_spool(path, lock)
    assert spool.list_spools(tmp_path) == [living.path]


def test_partitions_are_stable_and_even() -> None:
    assert [spool.partition_of(name, 4) for name in ("u-1", "u-2", "ü", "\ud800")] == [0, 2, 1, 0]
    counts = [0] * 4
    for number in range(40_000):
        counts[spool.partition_of(f"u-{number}", 4)] += 1
    assert max(counts) - min(counts) < 6 * (40_000 * 3 / 16) ** 0.5


def test_a_deleted_spool_is_restored_from_its_open_segment(tmp_path: Path) -> None:
    root = tmp_path / "data" / "spool"
    own = Spool(root)
    own.append_many([(b"first", 1), (b"second", 2)])
    assert not own.restore()
    shutil.rmtree(tmp_path / "data")
    assert own.gone
    own.append(b"third", 1)
    assert [(frame.seq, frame.payload) for frame in everything(own.path)] == [
        (1, b"first"),
        (2, b"second"),
        (3, b"third"),
    ]
    assert spool.claim_orphans(root) == []  # it is held
    own.close()
    ((path, lock),) = spool.claim_orphans(root)
    assert path == own.path
    os.close(lock)


def test_a_spool_that_cannot_be_restored_refuses_and_loses_nothing(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    own = Spool(root)
    own.append(b"first", 0)
    shutil.rmtree(root)
    root.write_text("in the way")
    with pytest.raises(JournalError, match="restore the folder"):
        own.append(b"refused", 0)
    with pytest.raises(JournalError, match="restore the folder"):
        own.restore()
    root.unlink()
    assert own.restore()
    own.append(b"second", 0)
    assert [(frame.seq, frame.payload) for frame in everything(own.path)] == [(1, b"first"), (2, b"second")]
    own.close()


def test_a_spool_that_was_moved_away_is_restored_in_its_place(tmp_path: Path) -> None:
    own = Spool(tmp_path / "spool", segment_bytes=60)
    own.append(b"first", 0)
    (tmp_path / "spool").rename(tmp_path / "moved")
    assert own.restore()
    own.append(b"second" * 9, 0)  # in a new segment
    assert [frame.payload for frame in everything(own.path)] == [b"first", b"second" * 9]
    own.close()


@pytest.mark.parametrize("cut", [0, 7, 30])
def test_a_segment_that_is_cut_under_its_worker_hides_nothing_after_it(tmp_path: Path, cut: int) -> None:
    own = Spool(tmp_path)
    own.append_many([(b"first" * 3, 0), (b"second" * 3, 0)])
    (segment,) = own.path.glob("*.seg")
    os.truncate(segment, cut)
    for payload in (b"third", b"fourth"):
        own.append(payload, 0)
    assert [frame.seq for frame in everything(own.path)] in ([3, 4], [3, 3, 4])  # whoever ships looks at the numbers
    own.close()


def test_a_full_disk_is_seen_before_anything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_SPACE_CHECK_SECONDS", 0.0)
    own = Spool(tmp_path)
    assert not own.full
    monkeypatch.setattr(spool, "_LOW_SPACE", 1 << 62)
    assert own.full
    own.append(b"one", 0)
    monkeypatch.setattr(spool, "_LEAST_SPACE", 1 << 62)
    with pytest.raises(JournalError, match="No space left on device; free the disk"):
        own.append(b"two", 0)
    monkeypatch.undo()
    assert own.append(b"three", 0) == 2
    assert [frame.payload for frame in everything(own.path)] == [b"one", b"three"]
    own.close()


def test_a_small_limit_still_reads_a_whole_record(tmp_path: Path) -> None:
    """A spool is removed once nothing follows what was collected, which is asked with the smallest limit."""
    own = Spool(tmp_path, segment_bytes=1500)
    own.append_many([(b"first", 0), (b"x" * 1400, 0)])
    _, after = read_frames(own.path, START)
    own.roll()
    own.append_many([(b"second", 0)])
    frames, _ = read_frames(own.path, after, 1)
    assert [frame.payload for frame in frames] == [b"second"]
    own.close()
