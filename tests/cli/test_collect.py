"""`counterpoint collect --drain`: its exit code says whether everything answered is in the log."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from engine.cli.roles import collect
from engine.errors import StoreUnavailable
from engine.journal.records import ExposureRecord, encode
from engine.journal.spool import drain
from engine.journal.spool.spool import Spool


@pytest.fixture
def own_process() -> Iterator[None]:
    """Restores the signal handlers, the mode of new files and the log that a verb replaces."""
    umask = os.umask(0o022)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    structlog.reset_defaults()
    os.umask(umask)


@pytest.mark.usefixtures("own_process")
def test_a_drain_that_misses_records_exits_with_1(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drain, "PATIENCE", 0.2)
    hanging = Spool(tmp_path / "spool")
    hanging.append(encode(ExposureRecord("d-1", 1e9, "u-1", ["hero"])), 0)
    assert collect(data=tmp_path, redis=redis_url, drain=True) == 1
    assert "Uncollected records remain in 1 spool" in capsys.readouterr().err
    hanging.close()
    assert collect(data=tmp_path, redis=redis_url, drain=True) == 0
    assert "Collected 1 exposures." in capsys.readouterr().err


@pytest.mark.usefixtures("own_process")
def test_a_drain_of_an_unreachable_store_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nothing is lost"):
        collect(data=tmp_path, redis="redis://127.0.0.1:1", drain=True)
    assert list(tmp_path.iterdir()) == []
