import gzip
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from engine import embedded

DECIDE = {"customer": {"user_id": "u-1"}, "channel": "web", "experiments": ["checkout_layout"]}


def refused(server: Any, path: str, body: Any, status: int, field: str, **headers: str) -> dict[str, Any]:
    before = len(server.records())
    answer = server.post(path, body, **headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert [error["field"] for error in problem["errors"]] == [field]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(server.records()) == before
    return problem


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/exposures", "/v1/events"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"decide",
        b"{",
        b'\xff\xfe{"a": 1}',
        b'{"\xc3\x28": 1}',
        b"[" * 200_000,
        b"[1]",
        b"null",
    ],
    ids=["empty", "word", "cut", "utf-16", "bad-utf-8", "deep", "list", "null"],
)
def test_a_body_that_is_no_json_object_is_refused_at_the_body(server: Any, path: str, body: bytes) -> None:
    refused(server, path, body, 400, "body")


def test_json_nested_200000_deep_in_the_context_is_refused(server: Any) -> None:
    body = (
        b'{"customer": {"user_id": "u"}, "channel": "web", "context": {"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}"
    )
    refused(server, "/v1/decide", body, 400, "body")


def test_a_body_over_the_limit_is_refused(server: Any) -> None:
    refused(server, "/v1/decide", b'{"channel": "' + b"w" * 1_100_000 + b'"}', 413, "body")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json-seq"])
def test_another_content_type_is_refused(server: Any, kind: str) -> None:
    refused(server, "/v1/decide", b"{}", 415, "content-type", content_type=kind)


def test_json_with_a_charset_is_taken(server: Any) -> None:
    answer = server.post(
        "/v1/decide",
        b'{"customer": {"user_id": "u"}, "channel": "web"}',
        content_type="application/json; charset=utf-8",
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"channel": 3}, "channel"),
        ({"channel": "fax"}, "channel"),
        ({"chanel": "web"}, "chanel"),
        ({"placements": ["home_hero", "sky"]}, "placements[1]"),
        ({"placements": ["till_prompt"]}, "placements[0]"),
        ({"placements": "home_hero"}, "placements"),
        ({"experiments": "some"}, "experiments"),
        ({"customer": {}}, "customer"),
        ({"customer": {"user_id": 7}}, "customer.user_id"),
        ({"context": []}, "context"),
        ({"expose": "yes"}, "expose"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(server: Any, change: dict[str, Any], field: str) -> None:
    problem = refused(server, "/v1/decide", DECIDE | change, 400, field)
    assert ";" in problem["detail"]


@pytest.mark.parametrize("field", ["customer", "channel"])
def test_a_missing_field_is_named(server: Any, field: str) -> None:
    refused(server, "/v1/decide", {name: value for name, value in DECIDE.items() if name != field}, 400, field)


def test_an_id_that_is_no_text_is_refused_and_not_a_failure(server: Any) -> None:
    answer = server.post("/v1/decide", b'{"customer": {"user_id": "\\ud800"}, "channel": "web"}')
    assert answer.status_code == 400


def test_another_method_is_refused_with_those_that_are_offered(server: Any) -> None:
    answer = server.get("/v1/decide")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_address_is_a_problem_that_points_to_the_documentation(server: Any) -> None:
    answer = server.post("/v1/decided", DECIDE)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/docs" in answer.json()["detail"]
    assert answer.headers["x-request-id"]


def test_the_request_id_is_echoed_or_made(server: Any) -> None:
    assert server.post("/v1/decide", DECIDE, x_request_id="till-7").headers["x-request-id"] == "till-7"
    made = {server.post("/v1/decide", DECIDE).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert server.post("/v1/decide", DECIDE, x_request_id="x" * 200).headers["x-request-id"] != "x" * 200


def test_a_decision_and_its_exposure_are_in_the_spool_when_the_answer_arrives(server: Any) -> None:
    answer = server.post(
        "/v1/decide", DECIDE | {"customer": {"user_id": "logged-1"}, "placements": ["home_hero"]}
    ).json()
    mine = [record for record in server.records() if getattr(record, "decision_id", None) == answer["decision_id"]]
    kinds = [type(record).__name__ for record in mine]
    assert kinds == ["DecisionRecord", "ExposureRecord"]
    row = next(row for row in mine[0].rows if row.kind == "offer")
    assert (row.variant, row.propensity) == (
        answer["offers"]["home_hero"]["offer"],
        answer["offers"]["home_hero"]["propensity"],
    )


def test_an_unknown_experiment_is_an_answer_and_not_an_error(server: Any) -> None:
    answer = server.post("/v1/decide", DECIDE | {"experiments": ["checkout_layout", "no_such"]}).json()
    assert answer["experiments"]["no_such"] == {"variant": None, "payload": None, "reason": "unknown"}
    assert answer["experiments"]["checkout_layout"]["reason"] == "assigned"


def test_what_is_prefetched_counts_as_seen_only_when_its_exposure_is_reported(server: Any) -> None:
    body = DECIDE | {"customer": {"user_id": "ahead-1"}, "placements": ["home_hero"], "expose": False}
    answer = server.post("/v1/decide", body).json()
    decision_id = answer["decision_id"]
    assert decision_id[12] == "p", "the log counts each of its exposures once"

    def seen() -> list[str]:
        return [
            key
            for r in server.records()
            if type(r).__name__ == "ExposureRecord" and r.decision_id == decision_id
            for key in r.keys
        ]

    assert seen() == []
    refused(server, "/v1/exposures", {"decision_id": decision_id, "placements": ["till_prompt"]}, 404, "placements")
    assert server.post("/v1/exposures", {"decision_id": decision_id, "placements": ["home_hero"]}).status_code == 202
    assert seen() == ["home_hero", "hero_policy"]  # the experiment on the placement is seen with it
    assert server.post("/v1/exposures", {"decision_id": decision_id}).status_code == 202
    assert "checkout_layout" in seen()


def test_an_exposure_of_no_decision_is_refused(server: Any) -> None:
    refused(server, "/v1/exposures", {"decision_id": "0000"}, 404, "decision_id")


def test_events_get_a_status_each_and_a_message_counts_once(server: Any) -> None:
    event = {"type": "track", "message_id": "m-http-1", "user_id": "u-1", "event": "click"}
    batch = {"batch": [event, event, {"type": "track", "message_id": "m-http-2"}]}
    answer = server.post("/v1/events", batch)
    assert [status["status"] for status in answer.json()["statuses"]] == ["accepted", "duplicate", "rejected"]
    assert server.post("/v1/events", batch).json()["statuses"][0]["status"] == "duplicate"
    assert sum(getattr(record, "message_id", "") == "m-http-1" for record in server.records()) == 1


def test_live_and_ready_and_the_metrics_count(server: Any) -> None:
    assert server.get("/healthz").json() == {"status": "live"}
    ready = server.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["plan"] == server.post("/v1/decide", DECIDE).json()["plan"]
    assert 'counterpoint_decisions_total{channel="web"}' in server.get("/metrics").text


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "gone"])
def test_without_the_store_the_fallback_comes_marked_degraded(tmp_path: Path, serve: Any, shop: Path, how: int) -> None:
    with embedded.running(tmp_path / "store") as store, serve(tmp_path, store.url, shop) as server:
        assert server.get("/readyz").status_code == 200
        body = DECIDE | {
            "customer": {"user_id": "u-9"},
            "placements": ["home_hero"],
            "experiments": ["checkout_layout", "dark_mode"],
        }
        assert server.post("/v1/decide", body).json()["degraded"] is False
        store.process.send_signal(how)
        try:
            answer = server.post("/v1/decide", body)  # 30 s at most; redis-py left alone waits for a minute
            assert answer.status_code == 200
            got = answer.json()
            assert got["degraded"] is True
            assert (got["offers"]["home_hero"]["offer"], got["offers"]["home_hero"]["reason"]) == (
                "generic_banner",
                "fallback",
            )
            assert got["experiments"]["checkout_layout"] == {"variant": None, "payload": None, "reason": "degraded"}
            assert got["experiments"]["dark_mode"]["payload"] == {"value": True}
            assert got["decision_id"] in {getattr(record, "decision_id", "") for record in server.records()}
            ready = server.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["store"] is False
            event = {"type": "track", "message_id": "m-away", "user_id": "u-9", "event": "click"}
            answer = server.post("/v1/events", {"batch": [event]})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
        finally:
            if how == signal.SIGSTOP:
                store.process.send_signal(signal.SIGCONT)


def test_the_root_says_where_to_go_and_there_is_something(server: Any) -> None:
    index = server.get("/")
    assert (index.status_code, index.json()["name"]) == (200, "Counterpoint")
    for link in index.json()["links"].values():
        assert server.get(link).status_code == 200, link


GZIPPED = {"content_encoding": "gzip"}


def test_a_body_with_gzip_is_the_same_request(server: Any) -> None:
    body = gzip.compress(json.dumps(DECIDE).encode())
    for _ in range(20):  # some come in one piece, on the fast path, and some in two
        answer = server.post("/v1/decide", body, **GZIPPED)
        assert answer.status_code == 200
    assert answer.json()["experiments"] == server.post("/v1/decide", DECIDE).json()["experiments"]
    events = [{"type": "track", "message_id": f"gz{n}", "user_id": "u-gz", "event": "view"} for n in range(500)]
    answer = server.post("/v1/events", gzip.compress(json.dumps({"batch": events}).encode()), **GZIPPED)
    assert [status["status"] for status in answer.json()["statuses"]] == ["accepted"] * 500


def test_a_body_is_never_inflated_past_the_limit(server: Any) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    assert len(bomb) < 100_000
    refused(server, "/v1/events", bomb, 413, "body", **GZIPPED)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"",
        gzip.compress(b"{}")[:-4],
        gzip.compress(b"{}") + gzip.compress(b"{}"),
        gzip.compress(b"{}")[:-8] + bytes(8),
    ],
    ids=["plain", "empty", "cut", "two members", "another checksum"],
)
def test_what_is_not_gzip_is_refused(server: Any, body: bytes) -> None:
    refused(server, "/v1/decide", body, 400, "body", **GZIPPED)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_another_encoding_is_refused_with_those_that_are_understood(server: Any, encoding: str) -> None:
    refused(server, "/v1/decide", b"{}", 415, "content-encoding", content_encoding=encoding)
    answer = server.post("/v1/decide", b"{}", content_encoding=encoding)
    assert answer.headers["accept-encoding"] == "gzip, identity"
