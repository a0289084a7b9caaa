"""Traces of a request and of the batches behind it, as a receiver of OTLP over HTTP gets them from real processes."""

import gzip
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from engine.settings import from_environment
from tests.service.conftest import serving, write_shop

STAGES = {"queue", "store.read", "decide", "spool.append"}
WHO = {"user_id": "traced-customer-77", "email": "anna@example.org"}


class Receiver(ThreadingHTTPServer):
    """Takes traces as a collector does: POST /v1/traces, protobuf, perhaps gzip."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), Take)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self, service: str) -> list[tuple[str, str, str, str, dict[str, str]]]:
        """Name, trace, id, parent and attributes of each span."""
        found = []
        for request in self.requests:
            for resource in request.resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    if names["service.name"] == service:
                        attributes = {one.key: str(one.value).strip() for one in span.attributes}
                        ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                        found.append((span.name, *ids, attributes))
        return found


class Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        assert isinstance(self.server, Receiver)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the base's)
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_decision_is_a_span_with_its_stages_in_the_trace_of_its_caller(
    tmp_path: Path, redis_url: str, receiver: Receiver
) -> None:
    shop = write_shop(tmp_path / "shop")
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    more = {"COUNTERPOINT_TRACES": receiver.address}
    body = {"customer": WHO, "channel": "web", "placements": ["home_hero"], "experiments": "*"}
    with serving(tmp_path / "server", redis_url, shop, more) as server:
        whole = server.post("/v1/decide", body, traceparent=f"00-{trace}-{parent}-01")
        assert whole.status_code == 200
        parts = server.post("/v1/decide", body, expect="100-continue", traceparent=f"00-{trace}-{parent}-01")
        assert parts.status_code == 200
        unsampled = server.post("/v1/decide", body, traceparent=f"00-{'a' * 32}-{parent}-00")
        assert unsampled.status_code == 200
        assert server.get("/v1/profiles/traced-customer-77").status_code == 200
        event = {"type": "track", "message_id": "m-1", "user_id": WHO["user_id"], "event": "product_viewed"}
        assert server.post("/v1/events", {"batch": [event]}).status_code == 200
    environment = {**os.environ, **more}
    command = [sys.executable, "-m", "engine", "collect", "--drain", "--redis", redis_url]
    subprocess.run([*command, "--data", str(tmp_path / "server" / "data")], check=True, env=environment)

    spans = receiver.spans("counterpoint-serve")
    mine = [span for span in spans if span[1] == trace]
    roots = [span for span in mine if span[3] == parent]
    decisions = {answer.json()["decision_id"] for answer in (whole, parts)}
    assert [span[0] for span in roots] == ["POST /v1/decide"] * 2
    assert {json.loads(span[4]["counterpoint.decision_id"].partition(":")[2]) for span in roots} == decisions
    for root in roots:
        assert {span[0] for span in mine if span[3] == root[2]} >= STAGES
    assert not [span for span in spans if span[1] == "a" * 32]
    names = {span[0] for span in spans}
    assert {"POST /v1/events", "GET /v1/profiles/{id:str}", "spool.ship"} <= names
    [commit] = [span for span in receiver.spans("counterpoint-collect") if span[0] == "collect.commit"]
    assert "int_value" in commit[4]["counterpoint.decisions"]
    sent = b"".join(request.SerializeToString() for request in receiver.requests)
    for private in ("traced-customer-77", "anna", "example.org"):
        assert private.encode() not in sent


def test_a_receiver_that_is_away_costs_spans_and_nothing_else(tmp_path: Path, redis_url: str) -> None:
    shop = write_shop(tmp_path / "shop")
    with serving(tmp_path / "server", redis_url, shop, {"COUNTERPOINT_TRACES": "http://127.0.0.1:9"}) as server:
        for number in range(20):
            body = {"customer": {"user_id": f"u-{number}"}, "channel": "web", "experiments": "*"}
            assert httpx.post(f"{server.base}/v1/decide", json=body).json()["degraded"] is False
    assert server.process.returncode == 0


def test_traces_are_off_without_an_address() -> None:
    assert from_environment({}).traces is None
