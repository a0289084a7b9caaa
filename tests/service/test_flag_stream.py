"""The stream of notices: one when flags change, none when nothing does; it needs no key, and ends with the server."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

BULK = "/ofrep/v1/evaluate/flags"
WHO = {"context": {"targetingKey": "u-1"}}


@contextmanager
def listening(base: str) -> Iterator["queue.Queue[dict[str, Any]]"]:
    """The notices of one stream, once it is open."""
    notices: queue.Queue[dict[str, Any]] = queue.Queue()
    is_open, client = threading.Event(), httpx.Client(timeout=120)

    def listen() -> None:
        with client.stream("GET", base + "/ofrep/v1/stream") as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            for line in answer.iter_lines():
                is_open.set()
                if line.startswith("data: "):
                    notices.put(json.loads(line.removeprefix("data: ")))
        notices.put({"type": "end"})

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert is_open.wait(60)
    yield notices


def test_a_page_is_notified_and_evaluates_again(server: Any) -> None:
    first = server.post(BULK, WHO)
    [stream] = first.json()["eventStreams"]
    assert stream["type"] == "sse"
    assert stream["endpoint"] == {"requestUri": "/ofrep/v1/stream"}
    with listening(server.base) as notices:
        assert server.post("/v1/experiments/dark_mode/pause", {"reason": "orders fell"}).status_code == 200
        assert notices.get(timeout=60) == {"type": "refetchEvaluation"}
        again = server.post(BULK, WHO, if_none_match=first.headers["etag"])
        flags = {flag["key"]: flag for flag in again.json()["flags"]}
        assert flags["dark_mode"]["reason"] == "DISABLED"
        server.post("/v1/experiments/dark_mode/resume", {})
        assert notices.get(timeout=60) == {"type": "refetchEvaluation"}


def test_equal_results_keep_the_decision_and_the_etag(server: Any) -> None:
    answers = [server.post(BULK, WHO) for _ in range(3)]
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert len({answer.json()["metadata"]["decisionId"] for answer in answers}) == 1
    assert {json.dumps(answer.json()["flags"]) for answer in answers} == {json.dumps(answers[0].json()["flags"])}
    other = server.post(BULK, {"context": {"targetingKey": "u-2"}})
    assert other.json()["metadata"]["decisionId"] != answers[0].json()["metadata"]["decisionId"]
    ids = [record.decision_id for record in server.records() if hasattr(record, "decision_id")]
    assert answers[0].json()["metadata"]["decisionId"] in ids


def test_a_server_that_stops_ends_its_streams(redis_url: str, serve: Any, shop: Path, tmp_path: Path) -> None:
    with serve(tmp_path, redis_url, shop) as server, listening(server.base) as notices:
        server.process.terminate()
        assert notices.get(timeout=60) == {"type": "end"}
        assert server.process.wait(60) == 0
