"""The data folder is deleted under a server: it answers nothing that it cannot keep, and finds its way back."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DECIDE = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}
EVENTS = {"batch": [{"type": "track", "message_id": "m-1", "user_id": "u-1", "event": "click"}]}


def test_a_deleted_data_folder_is_reported_and_loses_no_answer(
    tmp_path: Path, redis_url: str, serve: Any, shop: Path
) -> None:
    with serve(tmp_path, redis_url, shop, {"COUNTERPOINT_STORE_TIMEOUT": "5"}) as server:
        answered = [server.post("/v1/decide", DECIDE).json()["decision_id"]]
        shutil.rmtree(server.data)
        server.data.write_text("in the way of a new one")
        for path in ("/readyz", "/readyz/degraded"):
            ready = server.get(path)
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            assert "was deleted" in ready.json()["why"][0]
            assert str(tmp_path) not in ready.text
        assert server.get("/metrics").status_code == 200
        for path, body in (("/v1/decide", DECIDE), ("/v1/events", EVENTS)):
            refused = server.post(path, body)
            assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
            assert refused.headers["retry-after"] == "5"
            assert "restore the folder" in refused.json()["detail"]
            assert str(tmp_path) not in refused.text
        server.data.unlink()
        answered.append(server.post("/v1/decide", DECIDE).json()["decision_id"])
        assert {record.decision_id for record in server.records()} == set(answered)
        deadline = time.monotonic() + 30
        while server.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_other_users_of_the_machine_read_nothing(tmp_path: Path, redis_url: str, serve: Any, shop: Path) -> None:
    umask = os.umask(0o022)
    try:
        with serve(tmp_path, redis_url, shop) as server:
            assert server.post("/v1/decide", DECIDE).status_code == 200
        verb = [sys.executable, "-m", "engine", "collect", "--drain", "--data", str(server.data), "--redis", redis_url]
        subprocess.run(verb, check=True, timeout=240)
    finally:
        os.umask(umask)
    files = [path for path in server.data.rglob("*") if path.is_file()]
    assert any(path.suffix == ".parquet" for path in files)
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
