import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from engine import embedded

DECIDE = {
    "customer": {"user_id": "k-1"},
    "channel": "web",
    "experiments": ["checkout_layout"],
    "placements": ["home_hero"],
}


def reason(server: Any) -> str:
    return str(server.post("/v1/decide", DECIDE).json()["experiments"]["checkout_layout"]["reason"])


def comes(server: Any, wanted: str) -> bool:
    """A second is promised; half a minute is waited, since a loaded machine is no broken promise."""
    deadline = time.monotonic() + 30
    while reason(server) != wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_paused_experiment_is_paused_at_every_worker_until_it_is_resumed(
    tmp_path: Path, serve: Any, shop: Path, redis_url: str
) -> None:
    with serve(tmp_path / "a", redis_url, shop) as here, serve(tmp_path / "b", redis_url, shop) as there:
        assert reason(here) == reason(there) == "assigned"
        answer = here.post("/v1/experiments/checkout_layout/pause", {"reason": "orders fell"})
        assert answer.status_code == 200
        assert answer.json().items() >= {"experiment": "checkout_layout", "paused": True, "status": "running"}.items()
        assert reason(here) == "paused"
        assert comes(there, "paused")
        flag = there.post("/ofrep/v1/evaluate/flags/checkout_layout", {"context": {"targetingKey": "k-1"}}).json()
        assert (flag["reason"], "value" in flag) == ("DISABLED", False)

        with serve(tmp_path / "late", redis_url, shop) as late:
            assert comes(late, "paused")

        assert there.post("/v1/experiments/checkout_layout/resume", {}).json()["paused"] is False
        assert reason(there) == "assigned"
        assert comes(here, "assigned")

        audited = [
            (event.event, msgspec.json.decode(event.properties))
            for server in (here, there)
            for event in server.records()
            if type(event).__name__ == "EventRecord" and event.message_id.startswith("audit-")
        ]
        by = "anyone on this machine"
        assert audited == [
            ("experiment_paused", {"experiment": "checkout_layout", "by": by, "reason": "orders fell"}),
            ("experiment_resumed", {"experiment": "checkout_layout", "by": by, "reason": ""}),
        ]


def test_the_switch_works_without_a_body_but_not_from_another_sites_page(server: Any) -> None:
    path = "/v1/experiments/theme/pause"
    assert server.post(path, b"", content_type="").status_code == 200
    assert server.post("/v1/experiments/theme/resume", b"", content_type="").status_code == 200
    assert server.post(path, b"", content_type="", origin="https://example.org").status_code == 415
    assert server.post(path, b"x", content_type="text/plain", origin="https://example.org").status_code == 415


def test_a_paused_selection_shows_its_fallback(server: Any) -> None:
    body = {"customer": {"user_id": "k-2"}, "channel": "store", "placements": ["till_prompt"]}
    server.post("/v1/experiments/till_prompt/pause", {})
    assert server.post("/v1/decide", body).json()["offers"]["till_prompt"]["offer"] == "generic_banner"
    server.post("/v1/experiments/till_prompt/resume", {})
    assert server.post("/v1/decide", body).json()["offers"]["till_prompt"]["reason"] == "policy"


def test_an_unknown_experiment_or_a_wrong_body_is_refused(server: Any) -> None:
    assert server.post("/v1/experiments/no_such/pause", {}).status_code == 404
    assert server.post("/v1/experiments/theme/pause", {"raeson": "x"}).json()["errors"][0]["field"] == "raeson"
    assert server.get("/v1/experiments/theme/pause").status_code == 405


def test_without_the_store_the_switch_says_that_it_was_not_thrown(tmp_path: Path, serve: Any, shop: Path) -> None:
    with embedded.running(tmp_path / "store") as store, serve(tmp_path, store.url, shop) as server:
        store.process.send_signal(signal.SIGKILL)
        answer = server.post("/v1/experiments/theme/pause", {})
        assert answer.status_code == 503
        assert "file" in answer.json()["detail"]
