"""The embedded store loses nothing that it answered, is alone on its directory, and does not outlive its parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from engine import embedded
from engine.errors import StoppedError, StoreUnavailable


def test_data_survives_a_restart_in_order(tmp_path: Path) -> None:
    for value in (b"1", b"2"):
        with embedded.running(tmp_path) as server, redis.Redis.from_url(server.url) as client:
            assert client.incr("count") == int(value)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with embedded.running(tmp_path), pytest.raises(StoreUnavailable, match="another Valkey"):
        embedded.start(tmp_path, timeout=0.2)


def test_ends_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from engine import embedded\n"
        "server = embedded.start(pathlib.Path(sys.argv[1])); print(server.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    embedded.start(tmp_path).stop()


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_stop_kills_a_server_that_does_not_react(tmp_path: Path) -> None:
    server = embedded.start(tmp_path)
    os.kill(server.process.pid, signal.SIGSTOP)
    server.stop(timeout=0.2)
    assert server.process.returncode == -signal.SIGKILL


def test_start_waits_for_a_long_file_to_load_until_it_is_stopped(tmp_path: Path) -> None:
    with embedded.running(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.rpush("numbers", *range(500))
    (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    with file.open("ab") as more:
        more.write(b"*4\r\n$4\r\nSORT\r\n$7\r\nnumbers\r\n$5\r\nSTORE\r\n$6\r\nsorted\r\n" * 60_000)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        embedded.start(tmp_path, stop=stop)
    server = embedded.start(tmp_path, timeout=1.5)
    with redis.Redis.from_url(server.url) as client:
        assert client.llen("sorted") == 500
    server.stop()


def test_an_answered_write_is_in_the_file_while_the_disk_is_busy(tmp_path: Path) -> None:
    """With `appendfsync everysec` a write would wait for the fsync under way, and a kill would lose it."""
    done = threading.Event()

    def keep_busy() -> None:
        with (tmp_path / "other").open("wb") as other:
            while not done.is_set():
                os.ftruncate(other.fileno(), 0)
                other.write(bytes(8 << 20))
                os.fsync(other.fileno())

    busy = threading.Thread(target=keep_busy)
    with embedded.running(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("n", 0)
        (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
        busy.start()
        try:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                before = file.stat().st_size
                client.incr("n")
                assert file.stat().st_size > before
        finally:
            done.set()
            busy.join()
