"""A signed preview shows its bearer a variant or an offer, until it expires, and leaves no trace anywhere."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest
import time_machine
import yaml
from litestar.testing import TestClient

from engine.cli import app
from engine.errors import BadInput
from engine.service.app import create_app
from engine.service.previews.tokens import PreviewRefused, read_preview, sign_preview
from engine.settings import Settings
from tests.stories.conftest import write_shop

SHOP = {
    "offers": {"rare": {"caps": [{"count": 1, "per": "7d", "event": "exposure"}]}, "vip": {"audience": {"vip": True}}},
    "placements": {"hero": {"offers": ["rare"]}},
    "experiments": {
        "steps": {
            "key": "steps",
            "audience": {"country": "DE"},
            "sticky": True,
            "variants": [{"key": "two"}, {"key": "one", "payload": {"pages": 1}}],
            "metrics": {"primary": "click"},
        },
        "next": {"key": "next", "status": "draft", "variants": [{"key": "a"}, {"key": "b", "payload": {"x": 1}}]},
    },
}
PAGE = "https://shop.example/checkout?step=2#top"
Link = Callable[..., dict[str, Any]]


@pytest.fixture
def link(capsys: pytest.CaptureFixture[str]) -> Link:
    def make(shop: Any, key: str, variant: str, *words: str) -> dict[str, Any]:
        capsys.readouterr()
        where = ("--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data))
        made = ["preview", key, "--variant", variant, "--link", PAGE, "--json", *words, *where]
        assert not app(made, result_action="return_value")
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        query = parse_qs(urlsplit(found["link"]).query)
        assert query == {"step": ["2"], "counterpoint_preview": [found["token"]]}
        assert found["link"].endswith("#top")
        return found

    return make


def post(shop: Any, path: str, body: Any, status: int = 200, **headers: str) -> Any:
    answer = shop.client().post(path, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def ask(user: str, **more: Any) -> dict[str, Any]:
    return {"customer": {"user_id": user}, "channel": "web", "experiments": ["steps"], "placements": ["hero"]} | more


def test_a_preview_shows_and_leaves_no_trace(open_shop: Any, link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    shop = open_shop(SHOP)
    token, offer = link(shop, "steps", "one")["token"], link(shop, "hero", "vip", "--expires", "2h")["token"]
    shown = []
    for n in range(6):  # nobody of them is in the audience
        answer = post(shop, "/v1/decide", ask(f"u{n}", preview=token))
        assert answer["experiments"]["steps"] == {"variant": "one", "payload": {"pages": 1}, "reason": "preview"}
        assert answer["offers"]["hero"]["offer"] == "rare"
        forced = post(shop, "/v1/decide", ask("u1", experiments="*"), **{"X-Counterpoint-Preview": offer})
        assert (forced["offers"]["hero"]["offer"], forced["offers"]["hero"]["reason"]) == ("vip", "preview")
        shown += [answer["decision_id"], forced["decision_id"]]
    post(shop, "/v1/decide", ask("u1", preview=token), **{"Idempotency-Key": "k"})
    # The cap of one exposure is unspent, and no variant was bound.
    plain = shop.decide("web", "hero", experiments=["steps"], context={"country": "DE"}, user_id="u1")
    assert plain["offers"]["hero"]["offer"] == "rare"
    assert plain["experiments"]["steps"]["reason"] in {"assigned", "sticky"}
    assert shop.decide("web", "hero", user_id="u1")["offers"]["hero"]["offer"] == "banner"
    for decision in shown[:2]:
        assert post(shop, "/v1/exposures", {"decision_id": decision}, 202) == {"status": "preview"}
        item = {"type": "track", "event": "click", "message_id": decision, "user_id": "u0", "channel": "web"}
        [status] = post(shop, "/v1/events", {"batch": [item | {"decision_id": decision}]})["statuses"]
        assert status["status"] == "accepted"
        assert "the decision was a preview" in status["warnings"][0]
    why = post(shop, "/v1/explain", ask("u9", preview=token))
    assert why["experiments"]["steps"]["reason"] == "preview"
    assert post(shop, "/v1/explain", ask("u9", preview=offer))["placements"]["hero"]["reason"] == "preview"
    shop.collect()
    rows = duckdb.sql(
        f"SELECT DISTINCT decision_id FROM read_parquet('{shop.settings.log}/decisions/*/*.parquet')"
    ).fetchall()
    assert len(rows) == 2
    assert not {one for (one,) in rows} & set(shown)
    seen = duckdb.sql(f"SELECT decision_id FROM read_parquet('{shop.settings.log}/exposures/*/*.parquet')").fetchall()
    assert not {one for (one,) in seen} & set(shown)
    events = duckdb.sql(f"SELECT decision_id FROM read_parquet('{shop.settings.log}/events/*/*.parquet')").fetchall()
    assert [one for (one,) in events if one is not None] == []
    with pytest.raises(BadInput, match="was forced by a preview, so it is not logged"):
        app(["explain", shown[0], "--data", str(shop.settings.data), "--redis", shop.settings.redis])
    capsys.readouterr()


def test_openfeature_and_drafts_are_previewed(open_shop: Any, link: Link) -> None:
    shop = open_shop(SHOP, workers=1)
    token, draft = link(shop, "steps", "one")["token"], link(shop, "next", "b")["token"]
    flags = "/ofrep/v1/evaluate/flags"
    steps = post(shop, f"{flags}/steps", {"context": {"targetingKey": "u1"}}, **{"X-Counterpoint-Preview": token})
    assert (steps["variant"], steps["reason"], steps["value"]) == ("one", "TARGETING_MATCH", {"pages": 1})
    assert steps["metadata"]["reason"] == "preview"
    plain = post(shop, f"{flags}/steps", {"context": {"targetingKey": "u1"}})
    assert plain["metadata"]["reason"] == "audience"
    post(shop, f"{flags}/next", {"context": {"targetingKey": "u1"}}, 404)
    for context in ({"targetingKey": "u1"}, {}):
        body = {"context": context | {"counterpoint_preview": draft}}
        assert post(shop, f"{flags}/next", body)["value"] == {"x": 1}
        found = {flag["key"]: flag for flag in post(shop, flags, body)["flags"]}
        assert (found["next"]["variant"], found["next"]["metadata"]["reason"]) == ("b", "preview")
    assert "next" not in {flag["key"] for flag in post(shop, flags, {"context": {"targetingKey": "u1"}})["flags"]}
    answer = post(shop, "/v1/decide", ask("u1", experiments=["next"], preview=draft))
    assert answer["experiments"]["next"]["variant"] == "b"


def test_a_preview_that_expired_was_altered_or_names_nothing_is_refused(open_shop: Any, link: Link) -> None:
    shop = open_shop(SHOP, workers=1)
    token = link(shop, "steps", "one", "--expires", "2h")["token"]

    def refusal(sent: str, status: int = 403) -> str:
        return str(post(shop, "/v1/decide", ask("u1", preview=sent), status)["detail"])

    head, _, tail = token.partition(".")
    forged = sign_preview(Settings(data=shop.settings.data / "elsewhere"), {"steps": "one"}, time.time() + 60)
    for bad in (f"{head[:-2]}AA.{tail}", f"{head}.{tail[:-2]}AA", forged):
        assert "was altered, or its secret was replaced; make a new link" in refusal(bad)
    for bad in ("x", f".{tail}", ".", "é.é"):
        assert "is not a preview token" in refusal(bad)
    until = time.time() + 60
    for force, why in (
        ({"steps": "three"}, "forces 'three', which is not a variant of steps"),
        ({"gone": "a"}, "forces 'gone', which the plan no longer has"),
        ({"hero": "gone"}, "forces the offer 'gone', which the plan no longer has"),
    ):
        assert why in refusal(sign_preview(shop.settings, force, until))
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=2, seconds=1), tick=True):
        assert "the token expired on" in refusal(token)
    # A new secret goes first and signs; the old one verifies until it is deleted. Nothing is started again.
    file = shop.settings.data / "preview.key"
    old = file.read_text()
    file.write_text("a-new-secret\n" + old)
    assert post(shop, "/v1/decide", ask("u1", preview=token))["experiments"]["steps"]["variant"] == "one"
    file.write_text("a-new-secret\n")
    assert "was altered, or its secret was replaced" in refusal(token)


def test_without_the_store_a_preview_is_shown_all_the_same(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "experiments", SHOP)
    settings = Settings(redis="redis://127.0.0.1:1", data=tmp_path / "data", experiments=folder)
    token = sign_preview(settings, {"steps": "one", "hero": "vip"}, time.time() + 60)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/decide", json=ask("u1", preview=token)).json()
    assert answer["degraded"]
    assert answer["experiments"]["steps"]["variant"] == "one"
    assert answer["offers"]["hero"]["offer"] == "vip"


def test_a_variant_of_an_experiment_with_the_key_of_a_placement_is_previewed(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "experiments", SHOP)
    chosen = yaml.safe_load((folder / "hero.yaml").read_text())
    (folder / "hero_choice.yaml").write_text(yaml.safe_dump(chosen | {"key": "hero_choice"}))
    (folder / "hero.yaml").write_text(yaml.safe_dump(SHOP["experiments"]["next"] | {"key": "hero"}))
    settings = Settings(redis="redis://127.0.0.1:1", data=tmp_path / "data", experiments=folder)
    token = sign_preview(settings, {"hero": "b"}, time.time() + 60)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/decide", json=ask("u1", experiments=["hero"], preview=token))
        assert answer.status_code == 200, answer.text
        # An empty token is none, and hides no other.
        empty = ask("u1", experiments=["hero"], preview="")
        plain = client.post("/v1/decide", json=empty)
        by_header = client.post("/v1/decide", json=empty, headers={"X-Counterpoint-Preview": token})
    assert answer.json()["experiments"]["hero"]["variant"] == "b"
    assert answer.json()["offers"]["hero"]["offer"] == "banner"
    assert plain.status_code == 200, plain.text
    assert "preview" not in plain.text
    assert by_header.json()["experiments"] == answer.json()["experiments"]


def test_the_file_of_keys_may_have_the_secrets(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    keys = [{"name": "a", "role": "admin", "key": "ak-0123456789"}]

    def settings(*secrets: str) -> Settings:
        previews = [{"name": f"s{n}", "secret": one} for n, one in enumerate(secrets)]
        file.write_text(yaml.safe_dump({"keys": keys, "previews": previews}))
        return Settings(api_keys=file, data=tmp_path / "data")

    old = sign_preview(settings("first-secret"), {"steps": "one"}, 100.0)
    assert read_preview(settings("second-secret", "first-secret"), old, 99.0).force == {"steps": "one"}
    with pytest.raises(PreviewRefused, match="was altered"):
        read_preview(settings("second-secret"), old, 99.0)
    assert not (tmp_path / "data").exists()
    with pytest.raises(BadInput, match=r"previews\[0\].secret") as raised:
        read_preview(settings("s3cret"), old, 99.0)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("steps", "--variant", "three"), "--variant three: is not a variant of steps"),
        (("hero", "--variant", "wine"), "--variant wine: is not an offer for hero"),
        (("stepz", "--variant", "one"), "did you mean 'steps'?"),
        (("steps",), "--variant is missing; steps has two, one"),
        (("steps", "--variant", "one", "--expires", "99d"), "is not a span of at most 30d"),
        (("steps", "--variant", "one", "--link", "shop"), "is not the address of a page"),
    ],
)
def test_a_link_to_nothing_is_not_made(tmp_path: Path, words: tuple[str, ...], rule: str) -> None:
    folder = write_shop(tmp_path / "experiments", SHOP)
    page = () if "--link" in words else ("--link", PAGE)
    where = (*page, "--experiments", str(folder), "--data", str(tmp_path / "data"))
    with pytest.raises(BadInput) as raised:
        app(["preview", *where, *words], result_action="return_value")
    assert rule in str(raised.value)
