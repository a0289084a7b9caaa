"""The data folder is deleted under a server: it answers nothing that it cannot keep, and finds its way back."""

import shutil
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
        assert server.get("/metrics").status_code == 200
        for path, body in (("/v1/decide", DECIDE), ("/v1/events", EVENTS)):
            refused = server.post(path, body)
            assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
            assert refused.headers["retry-after"] == "5"
            assert "restore the folder" in refused.json()["detail"]
        server.data.unlink()
        answered.append(server.post("/v1/decide", DECIDE).json()["decision_id"])
        assert {record.decision_id for record in server.records()} == set(answered)
        deadline = time.monotonic() + 30
        while server.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "Traceback" not in (tmp_path / "server.log").read_text()
