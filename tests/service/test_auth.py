import hashlib
from pathlib import Path
from typing import Any

import pytest

from engine.customer import CustomerIds
from engine.errors import BadInput
from engine.service.auth import Caller, Keys, KeySpec, load_keys_from_settings, prove, read_keys_file
from engine.service.problems import Refusal
from engine.settings import Settings

KEYS = f"""
keys:
  - {{name: web-shop, role: client, key: pk-web-1, secret: kept-by-the-backend}}
  - {{name: backend, role: server, sha256: {hashlib.sha256(b"sk-backend-1").hexdigest()}}}
  - {{name: ops, role: admin, key: ak-ops-1}}
"""
ANNA = {"user_id": "anna", "anonymous_id": "a-1"}
DECIDE = {"customer": ANNA, "channel": "web", "experiments": ["checkout_layout"]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, serve: Any, shop: Path, valkey: Any) -> Any:
    place = tmp_path_factory.mktemp("guarded")
    (place / "keys.yaml").write_text(KEYS)
    with serve(place, valkey.url, shop, {"COUNTERPOINT_API_KEYS": str(place / "keys.yaml")}) as server:
        yield server


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/exposures", "/v1/events", "/ofrep/v1/evaluate/flags"])
def test_nobody_without_a_key_is_answered(guarded: Any, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer sk-backend-2"}, {"x_api_key": ""}, {"authorization": "Basic eDp5"}):
        answer = guarded.post(path, DECIDE, **headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
    assert guarded.records() == []


def test_a_key_is_taken_in_either_header_and_known_by_its_digest(guarded: Any) -> None:
    for headers in ({"authorization": "Bearer sk-backend-1"}, {"x_api_key": "sk-backend-1"}, {"x_api_key": "ak-ops-1"}):
        assert guarded.post("/v1/decide", DECIDE, **headers).status_code == 200


def test_health_needs_no_key(guarded: Any) -> None:
    assert guarded.get("/healthz").status_code == guarded.get("/readyz").status_code == 200


def test_only_an_admin_throws_the_kill_switch(guarded: Any) -> None:
    path = "/v1/experiments/checkout_layout/resume"
    assert guarded.post(path, {}, x_api_key="pk-web-1").status_code == 403
    assert guarded.post(path, {}, x_api_key="sk-backend-1").status_code == 403
    assert guarded.post(path, {}, x_api_key="ak-ops-1").status_code == 200


def test_a_publishable_key_needs_the_proof_of_all_ids_that_are_sent(guarded: Any) -> None:
    proof = prove(b"kept-by-the-backend", CustomerIds(**ANNA))

    def decided(customer: dict[str, str], proof: str) -> int:
        body = DECIDE | {"customer": customer}
        status: int = guarded.post("/v1/decide", body, x_api_key="pk-web-1", x_customer_proof=proof).status_code
        return status

    assert decided(ANNA, proof) == 200
    assert decided(ANNA, "") == 403
    assert decided({"user_id": "anna"}, proof) == 403
    assert decided(ANNA | {"email": "anna@example.org"}, proof) == 403
    assert decided({"user_id": "bert"}, proof) == 403
    assert decided({"user_id": "anna\nanonymous_id=a-1"}, proof) == 403
    context = {"targetingKey": "anna", "anonymousId": "a-1"}
    flag = "/ofrep/v1/evaluate/flags/dark_mode"
    for sent, status in ((proof, 200), ("", 403)):
        answer = guarded.post(flag, {"context": context}, x_api_key="pk-web-1", x_customer_proof=sent)
        assert answer.status_code == status


def test_of_a_batch_only_what_is_about_the_proven_customer_counts(guarded: Any) -> None:
    proof = prove(b"kept-by-the-backend", CustomerIds(user_id="anna"))
    item = {"type": "track", "event": "click", "user_id": "anna"}
    batch = [
        item | {"message_id": "auth-1"},
        item | {"message_id": "auth-2", "user_id": "bert"},
        {"type": "identify", "message_id": "auth-3", "user_id": "anna", "traits": {"email": "bert@example.org"}},
        {"type": "alias", "message_id": "auth-4", "user_id": "anna", "previous_id": "berts-visitor"},
    ]
    answer = guarded.post("/v1/events", {"batch": batch}, x_api_key="pk-web-1", x_customer_proof=proof)
    assert [status["status"] for status in answer.json()["statuses"]] == [
        "accepted",
        "rejected",
        "rejected",
        "rejected",
    ]
    assert "X-Customer-Proof" in answer.json()["statuses"][1]["reason"]


def test_without_keys_only_this_machine_can_be_served() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        load_keys_from_settings(Settings(host=host))
    for host in ("0.0.0.0", "::", "192.168.1.7", "shop.example.org"):  # noqa: S104 (refused is what is tested)
        with pytest.raises(BadInput, match="COUNTERPOINT_API_KEYS"):
            load_keys_from_settings(Settings(host=host))


def test_with_keys_others_can_be_served(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(KEYS)
    load_keys_from_settings(Settings(host="0.0.0.0", api_keys=tmp_path / "keys.yaml"))  # noqa: S104 (with keys it may)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("keys: []", "keys"),
        ("keys: [{name: a, role: owner, key: abcdefgh}]", "owner"),
        ("keys: [{name: a, role: admin, key: short}]", "length"),
        ("keys: [{name: a, role: admin}]", "either key or sha256"),
        ("keys: [{name: a, role: admin, kee: abcdefgh}]", "kee"),
        ("keys: [{name: a, role: client, key: abcdefgh}]", "secret"),
        ("keys: [{name: a, role: admin, key: abcdefgh}, {name: b, role: admin, key: abcdefgh}]", "same key"),
        ("keys: {", "keys.yaml"),
    ],
)
def test_a_wrong_file_of_keys_is_refused_with_its_place(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=named):
        read_keys_file(path)
    with pytest.raises(BadInput, match="can be read"):
        read_keys_file(tmp_path / "none.yaml")


def test_a_rate_is_given_back_over_time() -> None:
    caller = Caller("slow", "server", per_second=2)
    caller.count_request(100.0)
    caller.count_request(100.0)
    with pytest.raises(Refusal, match="2 requests per second") as refused:
        caller.count_request(100.0)
    assert refused.value.headers == ((b"retry-after", b"1"),)
    caller.count_request(100.5)


def test_roles_include_the_ones_below() -> None:
    keys = Keys([KeySpec(name="b", role="server", key="sk-12345")])
    sent = [(b"authorization", b"bearer sk-12345")]
    assert keys.guard_for("client")(sent).name == keys.guard_for("server")(sent).name == "b"
    with pytest.raises(Refusal, match="a key of role admin"):
        keys.guard_for("admin")(sent)
