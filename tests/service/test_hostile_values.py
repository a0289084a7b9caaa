"""What is sent stays out of logs and metrics: no secret, address or payload, and no line that a value has forged."""

import io
import itertools
import json
import logging
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import structlog

from engine import embedded
from engine.service.endpoints.operations import OPERATIONS, Operation
from engine.telemetry.log_lines import configure_logs

ADDRESS, SECRET = "anna.quist@example.org", "hidden-by-the-backend-91"
KEYS = {"client": "pk-hostile-11", "server": "sk-hostile-22", "admin": "ak-hostile-33"}
FORGED = "2026-11-30 10:00:00 [error    ] forged"
MARK = "payload-4711"
HOSTILE = [
    f"{ADDRESS}\r\n{FORGED}",
    f"\x1b[2J\x1b[31m{MARK}\x07",
    f"{MARK}\u2028{FORGED}\u202e",
    f'{MARK}", "level": "forged',
    f"{MARK}%n%s{{0}}$(id)",
    f"{MARK}" * 60,
    SECRET,
]
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all texts and numbers within an example."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, (*path, name))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from leaves(one, (*path, at))
    else:
        yield path


def with_leaf(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    if not path:
        return leaf
    name, *rest = path
    if isinstance(value, list):
        return [with_leaf(one, tuple(rest), leaf) if at == name else one for at, one in enumerate(value)]
    return {key: with_leaf(one, tuple(rest), leaf) if key == name else one for key, one in value.items()}


def requests_of(one: Operation, hostile: str) -> Iterator[tuple[str, Any]]:
    """The hostile text in the address, in each leaf of the example, and as the name of a field."""
    quoted = httpx.QueryParams({"x": hostile})["x"]
    plain = re.sub(r"{\w+}", "home_hero", one.path)
    if "{" in one.path:
        yield re.sub(r"{\w+}", lambda _: httpx.URL("http://x", params={"x": quoted}).query.decode()[2:], one.path), {}
    yield f"{plain}?{httpx.QueryParams({'cursor': hostile, hostile: hostile})}", one.example or {}
    for path in leaves(one.example or {}):
        yield plain, with_leaf(one.example, path, hostile)
    yield plain, {**(one.example or {}), hostile: hostile}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, serve: Any, shop: Path) -> Iterator[Any]:
    place = tmp_path_factory.mktemp("hostile")
    secret = f", secret: {SECRET}"
    lines = [f"  - {{name: {r}, role: {r}, key: {k}{secret * (r == 'client')}}}" for r, k in KEYS.items()]
    (place / "keys.yaml").write_text("keys:\n" + "\n".join(lines))
    with embedded.running(place / "store") as store:
        more = {"COUNTERPOINT_API_KEYS": str(place / "keys.yaml"), "COUNTERPOINT_LOGS": "json"}
        with serve(place, store.url, shop, {**more, "COUNTERPOINT_STORE_TIMEOUT": "2"}) as server:
            yield server, store, place


def test_hostile_values_at_every_endpoint_reach_neither_logs_nor_metrics(place: Any) -> None:
    server, store, folder = place
    rng = random.Random(18)
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=server.base, timeout=30) as client:
        for one, hostile in itertools.product(OPERATIONS, HOSTILE):
            if one.path == "/ofrep/v1/stream":
                continue
            sent = list(requests_of(one, hostile))
            for path, body in rng.sample(sent, min(4, len(sent))):
                role = rng.choice([*KEYS, one.role or "admin"])
                headers = {"x-api-key": KEYS[role], "x-request-id": "r-18", "x-customer-proof": SECRET}
                headers["user-agent"] = headers["idempotency-key"] = (
                    repr(hostile)[:100].encode("ascii", "replace").decode()
                )
                more = {} if one.method == "get" else {"json": body}
                answers.append(client.request(one.method, path, headers=headers, **more))
        # What is stored is damaged too: each error has the stored bytes at hand.
        for ids in ({"user_id": ADDRESS}, {"user_id": MARK}):
            body = {"customer": ids, "channel": "web", "placements": ["home_hero"]}
            client.post("/v1/decide", json=body, headers={"x-api-key": KEYS["server"]})
        with redis.Redis.from_url(store.url) as direct:
            for key in direct.scan_iter("cp:{*}"):
                if direct.type(key) == b"string":
                    direct.set(key, f"P{ADDRESS}\x1b[31m\r\n{FORGED}{MARK}")
        for ids in ({"user_id": ADDRESS}, {"user_id": MARK}):
            body = {"customer": ids, "channel": "web", "placements": ["home_hero"]}
            answers.append(client.post("/v1/decide", json=body, headers={"x-api-key": KEYS["server"]}))
            answers.append(client.get(f"/v1/profiles/{ids['user_id']}", headers={"x-api-key": KEYS["server"]}))
        metrics = client.get("/metrics", headers={"x-api-key": KEYS["admin"]}).text
    assert [answer.status_code for answer in answers if answer.status_code == 500] == []
    for answer in answers:
        everything = answer.text + str(answer.headers)
        assert not [key for key in KEYS.values() if key in everything]
        assert "\x1b" not in everything
    assert "counterpoint_decisions_total" in metrics
    environment = {**os.environ, "COUNTERPOINT_LOGS": "json"}
    collect = [sys.executable, "-m", "engine", "collect", "--drain", "--data", str(server.data), "--redis", store.url]
    drained = subprocess.run(collect, capture_output=True, text=True, check=True, env=environment).stderr
    logged = (folder / "server.log").read_text()
    for text in (metrics, logged, drained):
        hidden = [*KEYS.values(), ADDRESS, SECRET, "example.org", MARK]
        assert not [line for line in text.splitlines() if any(value in line for value in hidden)]
        assert not RAW.search(text)
    lines = [json.loads(line) for line in logged.splitlines()[1:]]  # the first announces the address
    unreadable = [line for line in lines if "cannot be read" in line["event"]]
    assert {line["level"] for line in lines} <= {"info", "warning", "error"}
    assert any(line.get("decision_id") for line in unreadable)
    assert any(line.get("request_id") for line in unreadable)


def test_a_value_forges_no_line_and_an_unexpected_error_quotes_none() -> None:
    for style in ("text", "json"):
        stream = io.StringIO()
        configure_logs(stream, style)  # type: ignore[arg-type]
        log = structlog.get_logger("test")
        try:
            {}[f"{ADDRESS}\n{FORGED}"]
        except KeyError as error:
            log.exception("failed", value=f"a\n{FORGED}", nested={"to": [ADDRESS, "\x1b[0m"]}, exc_info=error)
        log.warning("connect", url=f"redis://ops:{SECRET}@cache.example:6379/0")
        written = stream.getvalue()
        assert ADDRESS not in written
        assert SECRET not in written
        assert "KeyError: " in written
        assert "cache.example:6379" in written
        assert not [line for line in written.splitlines() if line.startswith(FORGED)]
        assert not RAW.search(written)
    structlog.reset_defaults()


def test_no_line_of_a_library_fails_it_and_numbers_stay_json() -> None:
    stream = io.StringIO()
    configure_logs(stream, "json")
    library = logging.getLogger("library")
    library.warning("%d of %d", 1)  # its mistake
    library.log(logging.WARNING + 5, "between two levels")
    structlog.get_logger("test").warning("measured", lag=float("nan"))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["%d of %d", "between two levels", "measured"]
    stream.close()
    library.warning("nobody reads this")
    structlog.reset_defaults()
