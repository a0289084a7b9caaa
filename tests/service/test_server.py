"""`serve --workers N`: one address, and one page of meters that counts what each of the processes answered."""

import time
from pathlib import Path
from typing import Any

ASK = {"customer": {"user_id": "many-1"}, "channel": "web", "placements": ["home_hero"]}


def counted(server: Any) -> float:
    lines = server.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("counterpoint_decisions_total{"))


def test_decisions_of_all_workers_are_counted(tmp_path: Path, serve: Any, shop: Path, redis_url: str) -> None:
    with serve(tmp_path, redis_url, shop, {}, "--workers", "3") as server:
        deadline = time.monotonic() + 30
        while len(list((server.data / "spool").glob("*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(60):  # a connection each, so that all three answer some
            assert server.post("/v1/decide", ASK).status_code == 200
        while counted(server) < 60 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert counted(server) == 60
        assert not (server.data / "meters").exists()  # which servers of other machines may share
        assert b"Decisions at http://127.0.0.1:" in (tmp_path / "server.log").read_bytes()
