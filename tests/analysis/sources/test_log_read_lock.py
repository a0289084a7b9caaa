"""While a report reads the log, nothing of it is taken away."""

import fcntl
from pathlib import Path

import pytest

from engine.analysis.sources.log_read_lock import lock_log_for_reading


def locked(log: Path) -> bool:
    with (log / ".reading.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_report_holds_the_logs_files(tmp_path: Path) -> None:
    with lock_log_for_reading(tmp_path), lock_log_for_reading(tmp_path):  # reports do not wait for each other
        assert locked(tmp_path)
    assert not locked(tmp_path)


def test_a_fault_of_the_report_is_the_reports(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="of the report"), lock_log_for_reading(tmp_path):
        raise PermissionError("of the report")
    assert not locked(tmp_path)


def test_no_log_is_made_by_asking_for_one(tmp_path: Path) -> None:
    with lock_log_for_reading(tmp_path / "nowhere"):
        assert not (tmp_path / "nowhere").exists()


def test_a_log_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    (tmp_path / ".reading.lock").mkdir()  # no file can be opened there, not even by root
    with lock_log_for_reading(tmp_path):
        pass
