"""`counterpoint up` on a data folder that another engine has: it logs what it waits for, and can be ended."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine import embedded, up
from engine.errors import BadInput
from engine.settings import Settings

SHOP = Path(__file__).resolve().parents[2] / "experiments"


def test_a_wait_for_another_engine_is_logged_and_ends_on_a_signal(tmp_path: Path) -> None:
    words = ("up", "--experiments", str(SHOP), "--data", str(tmp_path), "--port", "0")
    with embedded.running(tmp_path / "store"):
        second = subprocess.Popen([sys.executable, "-m", "engine", *words], stderr=subprocess.PIPE, text=True)
        assert second.stderr
        assert "another engine runs on this data folder" in second.stderr.readline()
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0
        second.stderr.close()


def test_another_engine_that_stays_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "START_SECONDS", 0.1)
    settings = Settings(experiments=SHOP, data=tmp_path, port=0)
    with (
        embedded.running(tmp_path / "store"),
        pytest.raises(BadInput, match="another engine runs there"),
        up.run_engine(settings, threading.Event()),
    ):
        pass
