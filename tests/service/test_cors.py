"""Who may ask from where: pages of other origins, hosts that are not this machine, peers that guess keys."""

import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.customer import CustomerIds, prove

KEYS = """
keys:
  - {name: web-shop, role: client, key: pk-web-1, secret: kept-by-the-backend, origins: ['https://shop.example']}
  - {name: app-shop, role: client, key: pk-app-1, secret: kept-by-the-backend, origins: ['capacitor://localhost']}
  - {name: backend, role: server, key: sk-backend-1}
"""
SHOP, OTHER = "https://shop.example", "https://evil.example"
ANNA = {"user_id": "anna"}
DECIDE = {"customer": ANNA, "channel": "web", "experiments": ["checkout_layout"]}
PROOF = prove(b"kept-by-the-backend", CustomerIds(**ANNA))
OFFERED = {
    "/v1/decide": "POST",
    "/v1/events": "POST",
    "/v1/exposures": "POST",
    "/ofrep/v1/evaluate/flags": "POST",
    "/ofrep/v1/evaluate/flags/dark_mode": "POST",
    "/v1/experiments/checkout_layout/pause": "POST",
    "/v1/profiles/anna": "GET, DELETE, HEAD",
    "/v1/stock/S": "GET, POST, HEAD",
    "/healthz": "GET, HEAD",
    "/docs": "GET, HEAD",
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, serve: Any, shop: Path, valkey: Any) -> Any:
    place = tmp_path_factory.mktemp("cors")
    (place / "keys.yaml").write_text(KEYS)
    environment = {"COUNTERPOINT_API_KEYS": str(place / "keys.yaml"), "COUNTERPOINT_STORE_TIMEOUT": "5"}
    with serve(place, valkey.url, shop, environment) as server:
        yield server


def preflight(server: Any, path: str, origin: str) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    return httpx.options(server.base + path, headers=headers)


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/events", "/ofrep/v1/evaluate/flags/dark_mode"])
def test_a_page_of_a_listed_origin_may_ask_and_read(guarded: Any, path: str) -> None:
    answer = preflight(guarded, path, SHOP)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "POST" in answer.headers["access-control-allow-methods"]
    asked = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert asked >= {"authorization", "x-api-key", "content-type", "x-customer-proof", "if-none-match"}
    assert "access-control-allow-credentials" not in answer.headers
    for origin in (OTHER, "null", "https://shop.example.evil.example", "http://shop.example"):
        refused = preflight(guarded, path, origin)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


def test_answers_and_errors_can_be_read_by_the_page(guarded: Any) -> None:
    sent = {"x_api_key": "pk-web-1", "origin": SHOP}
    for answer, status in (
        (guarded.post("/v1/decide", DECIDE, x_customer_proof=PROOF, **sent), 200),
        (guarded.post("/v1/decide", DECIDE, **sent), 403),
        (guarded.post("/v1/decide", b"{", **sent), 400),
        (guarded.post("/v1/decide", DECIDE, origin=SHOP), 401),
    ):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert answer.headers["access-control-expose-headers"] == "ETag, Retry-After, X-Request-Id"
        assert answer.headers["vary"] == "origin"


def test_a_flag_list_that_did_not_change_can_be_read_by_the_page(guarded: Any) -> None:
    path, body = "/ofrep/v1/evaluate/flags", {"context": {"targetingKey": "anna"}}
    sent = {"x_api_key": "pk-web-1", "origin": SHOP, "x_customer_proof": PROOF}
    guarded.post(path, body, **sent)  # binds sticky flags, whose reason changes by that
    etag = guarded.post(path, body, **sent).headers["etag"]
    answer = guarded.post(path, body, if_none_match=etag, **sent)
    assert answer.status_code == 304
    assert answer.headers["access-control-allow-origin"] == SHOP


def test_a_key_is_refused_to_pages_that_it_does_not_list(guarded: Any) -> None:
    for origin in (OTHER, "capacitor://localhost"):
        answer = guarded.post("/v1/decide", DECIDE, x_api_key="pk-web-1", x_customer_proof=PROOF, origin=origin)
        assert answer.status_code == 403
        assert [error["field"] for error in answer.json()["errors"]] == ["origin"]
    assert "access-control-allow-origin" not in guarded.post("/v1/decide", DECIDE, origin=OTHER).headers
    assert guarded.post("/v1/decide", DECIDE, x_api_key="pk-web-1", x_customer_proof=PROOF).status_code == 200


@pytest.mark.parametrize("path", OFFERED)
def test_options_names_the_methods_that_exist(guarded: Any, path: str) -> None:
    answer = httpx.options(guarded.base + path)
    assert answer.status_code == 204
    assert answer.headers["allow"] == f"{OFFERED[path]}, OPTIONS"
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        refused = httpx.request(method, guarded.base + path).status_code == 405
        assert refused == (method not in OFFERED[path]), method


def test_no_page_may_read_profiles(guarded: Any) -> None:
    assert preflight(guarded, "/v1/profiles/anna", SHOP).status_code == 403
    answer = guarded.get("/v1/profiles/anna", x_api_key="sk-backend-1", origin=SHOP)
    assert "access-control-allow-origin" not in answer.headers


def raw_status(server: Any, text: str) -> int:
    """The status of a request whose head is sent as it is."""
    with socket.create_connection(("127.0.0.1", int(server.base.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        found = re.match(rb"HTTP/1.1 (\d+)", connection.recv(65536))
    assert found
    return int(found.group(1))


@pytest.mark.parametrize("path", ["/v1/decide", "/ofrep/v1/evaluate/flags"])
def test_without_keys_only_hosts_of_this_machine_are_served(server: Any, path: str) -> None:
    head = f"POST {path} HTTP/1.1\n%scontent-type: application/json\ncontent-length: 2\n\n{{}}"
    for host in ("127.0.0.1:8080", "localhost", "LOCALHOST:80", "[::1]:9", "shop.localhost", "127.9.9.9"):
        assert raw_status(server, head % f"host: {host}\n") in (200, 400), host
    for host in (
        "evil.example",
        "127.0.0.1.evil.example:8080",
        "localhost.evil.example",
        "10.0.0.1",
        "192.168.1.4",
        "",
    ):
        assert raw_status(server, head % f"host: {host}\n") == 421, host
    assert raw_status(server, head % "") == 421
    assert raw_status(server, head % "host: localhost\nhost: evil.example\n") == 421


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/docs", "/v1/profiles/anna"])
def test_without_keys_no_page_reads_anything_through_another_name(server: Any, path: str) -> None:
    assert raw_status(server, f"GET {path} HTTP/1.1\nhost: evil.example\n\n") == 421


def test_with_keys_any_host_is_served(guarded: Any) -> None:
    assert raw_status(guarded, "GET /healthz HTTP/1.1\nhost: decisions.example.org\n\n") == 200


def test_guesses_of_keys_are_limited_and_known_keys_go_on(tmp_path: Path, serve: Any, shop: Path, valkey: Any) -> None:
    (tmp_path / "keys.yaml").write_text(KEYS)
    with serve(tmp_path, valkey.url, shop, {"COUNTERPOINT_API_KEYS": str(tmp_path / "keys.yaml")}) as server:
        known = {"x_api_key": "pk-web-1", "x_customer_proof": PROOF}
        assert server.post("/v1/decide", DECIDE, **known).status_code == 200
        answers = [server.post("/v1/decide", DECIDE, x_api_key=f"sk-backend-{n + 2}") for n in range(40)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:20] == [401] * 20
        assert set(statuses) == {401, 429}
        refused = answers[statuses.index(429)]
        assert int(refused.headers["retry-after"]) > 0
        while server.post("/v1/decide", DECIDE, x_api_key="sk-backend-0").status_code != 429:
            pass  # guesses that a slow machine was given back
        assert server.post("/v1/decide", DECIDE, x_api_key="sk-backend-1").status_code == 429  # the lucky guess
        assert server.post("/v1/decide", DECIDE, **known).status_code == 200


def test_the_number_of_guesses_is_a_setting(tmp_path: Path, serve: Any, shop: Path, valkey: Any) -> None:
    (tmp_path / "keys.yaml").write_text(KEYS)
    settings = {"COUNTERPOINT_API_KEYS": str(tmp_path / "keys.yaml"), "COUNTERPOINT_KEY_GUESSES": "100000"}
    with serve(tmp_path, valkey.url, shop, settings) as server:
        answers = [server.post("/v1/decide", DECIDE, x_api_key=f"sk-backend-{n + 2}") for n in range(40)]
        assert {answer.status_code for answer in answers} == {401}
