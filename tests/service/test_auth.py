import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.client import Client
from engine.customer import CustomerIds, prove
from engine.errors import BadInput
from engine.service.access.keys_file import KeySpec, read_keys_file
from engine.service.auth import Caller, Keys, load_keys_from_settings
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
    environment = {"COUNTERPOINT_API_KEYS": str(place / "keys.yaml"), "COUNTERPOINT_STORE_TIMEOUT": "5"}
    with serve(place, valkey.url, shop, environment) as server:
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


def test_an_exposure_needs_the_proof_of_the_decisions_customer(guarded: Any) -> None:
    proof, other = (prove(b"kept-by-the-backend", CustomerIds(**ids)) for ids in (ANNA, {"user_id": "bert"}))
    body = DECIDE | {"expose": False}
    answer = guarded.post("/v1/decide", body, x_api_key="pk-web-1", x_customer_proof=proof)
    report = {"decision_id": answer.json()["decision_id"]}
    for sent, status in (("", 403), (other, 403), (proof, 202)):
        seen = guarded.post("/v1/exposures", report, x_api_key="pk-web-1", x_customer_proof=sent)
        assert seen.status_code == status
    assert guarded.post("/v1/exposures", report, x_api_key="sk-backend-1").status_code == 202
    shop = Client(guarded.base, channel="web", key="pk-web-1", timeout=10)
    decision = shop.decide(CustomerIds(**ANNA), experiments=["checkout_layout"], expose=False, proof=proof)
    assert shop.expose(decision.decision_id, proof=proof) == {}


def test_a_publishable_key_reads_no_propensity_and_no_policy(guarded: Any) -> None:
    proof = prove(b"kept-by-the-backend", CustomerIds(**ANNA))
    body = DECIDE | {"placements": ["home_hero"]}
    for more in ({}, {"idempotency_key": "once"}):
        public = guarded.post("/v1/decide", body, x_api_key="pk-web-1", x_customer_proof=proof, **more)
        assert public.json()["offers"]["home_hero"].keys() <= {"offer", "rendering", "reason", "moment", "not_before"}
        assert "propensity" not in public.text
        private = guarded.post("/v1/decide", body, x_api_key="sk-backend-1", **more).json()
        assert private["offers"]["home_hero"]["propensity"] > 0
        assert {*private} == {*public.json()}
    shop = Client(guarded.base, channel="web", key="pk-web-1", timeout=10)
    assert shop.decide(CustomerIds(**ANNA), placements=["home_hero"], proof=proof).rendering("home_hero", {})


def test_a_publishable_key_without_a_customer_evaluates_what_needs_none(guarded: Any) -> None:
    flag = guarded.post("/ofrep/v1/evaluate/flags/dark_mode", {"context": {}}, x_api_key="pk-web-1")
    assert (flag.status_code, flag.json()["value"]) == (200, True)
    needs_one = guarded.post("/ofrep/v1/evaluate/flags/rollout", {"context": {}}, x_api_key="pk-web-1")
    assert needs_one.json()["errorCode"] == "TARGETING_KEY_MISSING"
    flags = guarded.post("/ofrep/v1/evaluate/flags", {"context": {}}, x_api_key="pk-web-1").json()["flags"]
    assert {flag["key"] for flag in flags if "value" in flag} >= {"dark_mode", "greeting"}


PROVEN = [
    {"user_id": "u-42"},
    {"user_id": "u-42", "email": "anna@example.org"},
    {
        "device_id": "d",
        "loyalty_card": "7",
        "phone": "+49 30",
        "email": "é@ü.de",
        "anonymous_id": "a=b",
        "user_id": "😀",
    },
    {},
]


@pytest.mark.parametrize(
    ("language", "run"),
    [
        (
            "js",
            [
                "node",
                "--input-type=module",
                "-e",
                "%s\nconsole.log(prove(process.argv[1], JSON.parse(process.argv[2])))",
            ],
        ),
        ("php", ["php", "-r", "%s\necho prove($argv[1], json_decode($argv[2], true));"]),
    ],
)
def test_the_documented_proofs_are_ours(language: str, run: list[str]) -> None:
    if shutil.which(run[0]) is None:
        pytest.skip(f"{run[0]} is not installed")
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operate.md").read_text()
    code = page.partition(f"```{language}\n")[2].partition("```")[0]
    for ids in PROVEN:
        command = [*run[:-1], run[-1].replace("%s", code), "kept-by-the-backend", json.dumps(ids)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        assert printed == prove(b"kept-by-the-backend", CustomerIds(**ids)), ids


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
    "key",
    [
        "{name: a, role: admin, key: ak-2f61-5d0c}",
        "{name: a, role: client, key: pk-own-1, secret: kept-by-the-backend-7c1f}",
        "{name: a, role: admin, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}",
    ],
)
def test_the_keys_of_the_documentation_serve_this_machine_only(tmp_path: Path, key: str) -> None:
    (tmp_path / "keys.yaml").write_text(f"keys: [{key}]")
    load_keys_from_settings(Settings(host="127.0.0.1", api_keys=tmp_path / "keys.yaml"))
    with pytest.raises(BadInput, match="published in the documentation"):
        load_keys_from_settings(Settings(host="0.0.0.0", api_keys=tmp_path / "keys.yaml"))  # noqa: S104 (is refused)


def test_every_key_of_the_documentation_is_an_example(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operate.md").read_text()
    keys = next(block for block in page.split("```yaml\n")[1:] if block.startswith("keys:")).partition("```")[0]
    (tmp_path / "keys.yaml").write_text(keys)
    for spec in read_keys_file(tmp_path / "keys.yaml"):
        (tmp_path / "one.json").write_bytes(msgspec.json.encode({"keys": [spec]}))
        with pytest.raises(BadInput, match=f"{spec.name} uses a key or secret"):
            load_keys_from_settings(Settings(host="::", api_keys=tmp_path / "one.json"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("keys: []", "keys"),
        ("keys: [{name: a, role: owner, key: abcdefgh}]", "owner"),
        ("keys: [{name: a, role: admin, key: short}]", "length"),
        ("keys: [{name: a, role: admin}]", "either key or sha256"),
        ("keys: [{name: a, role: admin, kee: abcdefgh}]", "kee"),
        ("keys: [{name: a, role: client, key: abcdefgh}]", "secret"),
        ("keys: [{name: a, role: server, key: abcdefgh, origins: ['https://a.example']}]", "origins"),
        (
            "keys: [{name: a, role: client, key: abcdefgh, secret: abcdefgh, origins: ['https://a.example/x']}]",
            "an origin",
        ),
        ("keys: [{name: a, role: client, key: abcdefgh, secret: abcdefgh, origins: ['*']}]", "an origin"),
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


def test_all_problems_of_a_file_of_keys_are_reported_at_once_and_no_key_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(
        "keys:\n- {name: a, role: boss, key: s3cr3t}\n- {role: admin, sha256: 0bad}\n"
        "- {name: c, role: client, kee: x}\n- {name: a, role: server, key: abcdefgh}\n"
        "- {name: d, role: server, key: abcdefgh, per_second: 0.5, secret: hidden}\nrate: 3\n"
    )
    with pytest.raises(BadInput) as refused:
        read_keys_file(path)
    lines = str(refused.value).splitlines()
    places = [line.removeprefix(f"{path} ").partition(":")[0] for line in lines]
    assert sorted(places) == [
        "keys[0].key",
        "keys[0].role",
        "keys[1].name",
        "keys[1].sha256",
        "keys[2]",
        "keys[2].kee",
        "keys[2].secret",
        "keys[3].name",
        "keys[4]",
        "keys[4].per_second",
        "keys[4].secret",
        "rate",
    ]
    assert not [word for word in ("s3cr3t", "0bad", "hidden", "abcdefgh") if word in str(refused.value)]
    for text in ("[]", "3", "", "keys: 3", "keys: [3]"):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"keys\.yaml.*: .*; "):
            read_keys_file(path)


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
