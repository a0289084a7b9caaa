"""The Python client against a real server, also through a network that loses answers."""

import asyncio
import decimal
import doctest
import importlib
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.cli import app
from engine.client import AsyncClient, Client, Customer, Decision, NoAnswer, Rejected, Unsendable, prove
from engine.errors import BadInput

PATIENT = {"COUNTERPOINT_STORE_TIMEOUT": "5"}  # degraded answers on a busy machine are tested elsewhere


def records(server: Any, kind: str, **fields: Any) -> list[Any]:
    return [
        record
        for record in server.records()
        if type(record).__name__ == kind and all(getattr(record, name) == value for name, value in fields.items())
    ]


def test_a_client_loads_neither_policies_nor_a_server() -> None:
    script = "import sys, engine.client; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert "httpx" in done.stdout.split()
    assert {"numpy", "scipy", "policies", "litestar", "redis", "duckdb", "yaml"}.isdisjoint(done.stdout.split())


def test_a_decision_arrives_typed(server: Any) -> None:
    with Client(server.base, timeout=10) as shop:
        anna = Customer(user_id="client-1")
        decision = shop.decide(anna, placements=["home_hero"], experiments=["checkout_layout"], context={"cart": 2})
        assert not decision.degraded
        assert decision.variant("checkout_layout", "none") in ("control", "one_page")
        assert decision.rendering("home_hero", {}) == decision.offers["home_hero"].rendering != {}
        assert records(server, "ExposureRecord", decision_id=decision.decision_id)
        assert shop.decide(anna, experiments="*").experiments["checkout_layout"].reason == "assigned"


def test_flags_have_the_type_of_their_default_or_are_the_default(server: Any) -> None:
    with Client(server.base, timeout=10) as shop:
        anna = Customer(user_id="client-2")
        assert shop.flag("dark_mode", False, anna) is True
        assert shop.flag("greeting", "Hi", anna) == "Good morning"
        assert shop.flag("page_size", 10, anna) == 24
        assert shop.flag("page_size", 10.5, anna) == 24.0
        assert shop.flag("theme", {}, anna) == {"colour": "brown", "leaves": 3}
        assert shop.flag("markets", [], anna) == ["DE", "AT"]
        assert shop.flag("bare", "none", anna) in ("left", "right")
        assert shop.flag("greeting", 7, anna) == 7
        assert shop.flag("resting", False, anna) is False
        assert shop.flag("no_such", "kept", anna) == "kept"
        assert shop.flag("beta_search", False, anna, context={"country": "AT"}) is True


def preview_token(server: Any, variant: str, capsys: Any) -> str:
    where = ("--experiments", str(server.experiments), "--data", str(server.data))
    link = ("--variant", variant, "--link", "https://shop.example/", "--json")
    assert not app(["preview", "checkout_layout", *link, *where], result_action="return_value")
    return str(json.loads(capsys.readouterr().out)["token"])


@pytest.mark.parametrize("variant", ["control", "one_page"])
def test_the_bearer_of_a_preview_sees_what_it_forces_and_leaves_no_trace(
    server: Any, variant: str, capsys: Any
) -> None:
    ada, token = Customer(user_id=f"client-preview-{variant}"), preview_token(server, variant, capsys)

    async def decide_again() -> tuple[str, str]:
        async with AsyncClient(server.base, timeout=10) as shop:
            decision = await shop.decide(ada, experiments=["checkout_layout"], preview=token)
            asked = await shop.decide(ada, experiments=["checkout_layout"], expose=False, preview="")
            return decision.variant("checkout_layout", "none"), asked.experiments["checkout_layout"].reason

    with Client(server.base, timeout=10) as shop:
        decision = shop.decide(ada, experiments=["checkout_layout"], preview=token)
        found = decision.experiments["checkout_layout"]
        assert (found.variant, found.reason) == (variant, "preview")
        value = shop.flag("checkout_layout", "none" if found.payload is None else {}, ada, preview=token)
        assert value == (found.payload or variant)
        with pytest.raises(Rejected, match="the token was altered"):
            shop.decide(ada, experiments=["checkout_layout"], preview=f"{token[:-4]}AAAA")
        assert records(server, "DecisionRecord", customer=ada.user_id) == []
        assert records(server, "ExposureRecord", customer=ada.user_id) == []
    assert asyncio.run(decide_again()) == (variant, "assigned")
    assert len(records(server, "DecisionRecord", customer=ada.user_id)) == 1


def test_what_was_prefetched_is_exposed_when_reported(server: Any) -> None:
    with Client(server.base, timeout=10) as shop:
        decision = shop.decide(Customer(user_id="client-3"), placements=["home_hero"], expose=False)
        assert records(server, "ExposureRecord", decision_id=decision.decision_id) == []
        shop.expose(decision.decision_id, placements=["home_hero"])
        assert len(records(server, "ExposureRecord", decision_id=decision.decision_id)) == 1
        with pytest.raises(Rejected, match="decision_id"):
            shop.expose("no-such-decision")


def test_events_are_reported_and_a_wrong_one_is_rejected(server: Any) -> None:
    with Client(server.base, timeout=10) as shop:
        anna = Customer(user_id="client-4")
        assert shop.identify(anna, {"country": "DE"})
        assert shop.track(anna, "purchase", {"revenue": 12.5})
        assert shop.flag("beta_search", False, anna) is True
        [event] = records(server, "EventRecord", customer="client-4", event="purchase")
        assert event.revenue == 12.5
        with pytest.raises(Rejected, match="event"):
            shop.track(anna, "")


def test_a_visitor_logs_in_clicks_and_consents(server: Any) -> None:
    visitor = Customer(anonymous_id="client-visitor")

    async def again(customer: Customer, decision: Decision) -> tuple[Customer, bool, bool]:
        async with AsyncClient(server.base, timeout=10) as shop:
            known = await shop.login(customer, "client-login")
            clicked = await shop.click(known, decision, "home_hero")
            return known, clicked, await shop.consent(known, "marketing", granted=False)

    with Client(server.base, timeout=10) as shop:
        decision = shop.decide(visitor, placements=["home_hero"], experiments=["checkout_layout"])
        known = shop.login(visitor, "client-login", {"first_name": "Ada"})
        assert known == Customer(user_id="client-login", anonymous_id="client-visitor")
        later = shop.decide(known, experiments=["checkout_layout"])
        assert later.experiments["checkout_layout"] == decision.experiments["checkout_layout"]
        assert shop.click(visitor, decision, "home_hero") is True
        assert shop.click(visitor, Decision(), "home_hero") is True
        assert shop.consent(known, "marketing", granted=True) is True
        profile = server.get("/v1/profiles/client-login").json()
        assert profile["traits"]["first_name"]["value"] == "Ada"
        assert profile["consents"]["marketing"]["granted"] is True
    assert asyncio.run(again(visitor, decision)) == (known, True, True)
    clicks = records(server, "EventRecord", event="click", customer=later.customer)
    assert [record.decision_id for record in clicks] == [decision.decision_id, None, decision.decision_id]
    assert server.get("/v1/profiles/client-login").json()["consents"]["marketing"]["granted"] is False


def test_a_wrong_request_is_an_error_and_not_the_fallback(server: Any) -> None:
    with Client(server.base, channel="fax", timeout=10) as shop, pytest.raises(Rejected, match="channel"):
        shop.decide(Customer(user_id="client-5"))


def test_a_lost_answer_is_requested_again_and_logged_once(server: Any, network: Any) -> None:
    network.lost = 2
    with Client(network.base, timeout=20, retries=2) as shop:
        decision = shop.decide(Customer(user_id="client-6"), placements=["home_hero"], experiments=["checkout_layout"])
    assert network.connections == 3
    assert not decision.degraded
    [record] = records(server, "DecisionRecord", customer="client-6")
    assert record.decision_id == decision.decision_id
    assert len(records(server, "ExposureRecord", customer="client-6")) == 1


def test_a_lost_event_is_sent_again_and_counts_once(server: Any, network: Any) -> None:
    network.lost = 1
    with Client(network.base, timeout=20, retries=2) as shop:
        assert shop.track(Customer(user_id="client-7"), "click") is False
    assert len(records(server, "EventRecord", customer="client-7")) == 1


def test_without_an_answer_the_fallback_is_returned() -> None:
    stored = Decision(decision_id="stored")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.05) as shop:
            assert shop.decide(Customer(user_id="u"), placements=["home_hero"]).degraded
            assert shop.decide(Customer(user_id="u"), fallback=stored) is stored
            assert shop.flag("dark_mode", True, Customer(user_id="u")) is True
            with pytest.raises(NoAnswer):
                shop.track(Customer(user_id="u"), "click")


def test_the_async_client_does_the_same(server: Any, network: Any) -> None:
    async def visit() -> Decision:
        async with AsyncClient(network.base, timeout=20, retries=2) as shop:
            anna = Customer(user_id="client-8")
            decision = await shop.decide(anna, placements=["home_hero"], expose=False)
            await shop.expose(decision.decision_id)
            assert await shop.flag("page_size", 10, anna) == 24
            assert await shop.identify(anna, {"country": "DE"})
            assert await shop.track(anna, "click", decision_id=decision.decision_id)
            with pytest.raises(Rejected):
                await shop.expose("no-such-decision")
        return decision

    network.lost = 1
    decision = asyncio.run(visit())
    assert len(records(server, "DecisionRecord", decision_id=decision.decision_id)) == 1
    assert [e.event for e in records(server, "EventRecord", decision_id=decision.decision_id)] == ["click"]

    async def away() -> bool:
        async with AsyncClient("http://127.0.0.1:9", timeout=0.05) as shop:
            return await shop.flag("dark_mode", True, Customer(user_id="u"))

    assert asyncio.run(away()) is True


NICHE = """key: {key}
placement: {key}
offers: [{offer}]
policy: {{kind: uniform}}
reward: {{metric: click}}
fallback: generic_banner
"""


def test_a_placement_stays_empty_and_a_prefetched_offer_is_used_up(
    tmp_path: Path, serve: Any, shop: Path, redis_url: str
) -> None:
    folder = shutil.copytree(shop, tmp_path / "experiments")
    channels = (folder / "channels.yaml").read_text()
    more = "\n".join(f"  - {{key: {key}, channels: [web]}}" for key in ("top", "side"))
    (folder / "channels.yaml").write_text(channels.replace("placements:\n", f"placements:\n{more}\n"))
    (folder / "offers" / "once.yaml").write_text(
        "key: once\ncaps: [{count: 1, per: 7d}]\nrenderings: {web: {headline: Only once}}\n"
    )
    (folder / "top.yaml").write_text(NICHE.format(key="top", offer="once"))
    (folder / "side.yaml").write_text(NICHE.format(key="side", offer="back_in_stock"))
    with serve(tmp_path, redis_url, folder, PATIENT) as server, Client(server.base, timeout=20) as client:
        anna = Customer(user_id="client-9")
        first, second = (client.decide(anna, placements=["top"], expose=False) for _ in range(2))
        assert (first.offers["top"].offer, second.offers["top"].offer) == ("once", "once")
        assert client.expose(first.decision_id) == {}
        assert client.expose(second.decision_id) == {"top": "cap"}
        decision = client.decide(anna, placements=["top", "side"], experiments=["dark_mode"])
        assert (decision.degraded, decision.variant("dark_mode", "none")) == (False, "on")
        assert (decision.offers["side"].offer, decision.offers["side"].reason) == (None, "shown")
        assert decision.rendering("side", {"headline": "the shop's own"}) == {}


def test_a_publishable_key_speaks_for_the_proven_customer_only(
    tmp_path: Path, serve: Any, shop: Path, redis_url: str
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": [{"name": "web", "role": "client", "key": "pk-web-1", "secret": "backend-only"}]}')
    with serve(tmp_path, redis_url, shop, {"COUNTERPOINT_API_KEYS": str(keys)}) as server:
        anna, bert = Customer(user_id="anna"), Customer(user_id="bert")
        proof = prove(b"backend-only", anna)
        with Client(server.base, key="pk-web-1", timeout=10) as client:
            assert client.flag("dark_mode", False, anna, proof=proof) is True
            assert client.track(anna, "click", proof=proof)
            with pytest.raises(Rejected, match="403"):
                client.flag("dark_mode", False, bert, proof=proof)
            with pytest.raises(Rejected, match="not proven"):
                client.track(bert, "click", proof=proof)


@pytest.mark.parametrize("name", ["engine.client", "engine.client.synchronous", "engine.client.asynchronous"])
def test_the_examples_in_the_documentation_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "localhost:8080"}, "url 'localhost:8080': is not the address"),
        ({"url": "http://"}, "url 'http://': is not the address"),
        ({"url": "http://shop:99999"}, "url 'http://shop:99999': is not the address"),
        ({"url": "http://shop", "timeout": 0}, "timeout 0: is not a number of seconds above 0"),
        ({"url": "http://shop", "timeout": float("nan")}, "timeout nan: is not a number"),
        ({"url": "http://shop", "retries": -1}, "retries -1: is below 0"),
    ],
)
def test_a_client_that_could_never_be_answered_is_refused(client: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=f"^{message}"):
        client(**given)


def test_a_decimal_is_sent_as_a_number(server: Any) -> None:
    with Client(server.base, timeout=10) as shop:
        anna = Customer(user_id="client-decimal")
        assert shop.track(anna, "purchase", {"revenue": decimal.Decimal("12.50"), "order_id": "o-decimal"})
    [record] = records(server, "EventRecord", customer="client-decimal", event="purchase")
    assert record.revenue == 12.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("caf\ud83d", r"properties\.note: has '\\ud83d', half of a surrogate pair"),
        ({"\ude00": 1}, "half of a surrogate pair"),
        (float("nan"), "properties.note: nan is not a number"),
        (decimal.Decimal("Infinity"), "properties.note: Infinity is not a number"),
        ([1, 2**64], r"properties.note\[1\]: .* has more than 64 bits"),
        (object(), "is no JSON"),
        ({(1, 2): 3}, "is no JSON"),
    ],
)
def test_what_json_cannot_carry_is_an_error_of_its_own_class(server: Any, value: object, message: str) -> None:
    with Client(server.base, timeout=10) as shop, pytest.raises(Unsendable, match=message):
        shop.track(Customer(user_id="client-unsendable"), "view", {"note": value})


def test_what_of_an_event_is_not_read_is_logged(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Client(server.base, channel="fax", timeout=10) as shop:
        assert shop.track(Customer(user_id="client-warned"), "view", {"points": "12"})
    assert "properties.points: '12' is not a number" in caplog.text
    assert "channel: 'fax' is not a channel" in caplog.text
