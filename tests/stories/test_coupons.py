"""Coupon codes over HTTP: drawn once, shown to one customer, redeemed by decision or code, revoked, erased."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine import keyspace
from tests.store import open_store

SHOP: dict[str, Any] = {
    "offers": {
        "welcome": {
            "coupons": {"hold": "2d"},
            "caps": [{"count": 1, "per": "30d", "event": "redemption"}],
            "renderings": {
                "web": {"headline": "Ten euros off", "text": "Use {coupon}", "more": {"codes": ["{coupon}"]}},
                "email": {"headline": "Your code {coupon}"},
            },
        }
    },
    "placements": {"hero": {"offers": ["welcome"]}},
    "channels": {"email": {"outbound": True}},
}


def run(shop: Any, *words: str, code: int = 0) -> str:
    """One verb of `counterpoint coupons`; its standard output."""
    command = [sys.executable, "-m", "engine", "coupons", *words]
    command += ["--data", str(shop.settings.data), "--redis", shop.settings.redis]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout + done.stderr


def fill(shop: Any, tmp_path: Path, codes: int) -> None:
    file = tmp_path / "codes.txt"
    file.write_text("code\n" + "".join(f"CODE-{n}\n" for n in range(codes)))
    experiments = str(shop.settings.experiments)
    assert f"{codes} codes are new" in run(
        shop, "import", str(file), "--offer", "welcome", "--experiments", experiments
    )


def counts(shop: Any) -> tuple[int, int, int, int]:
    """How many codes are free, drawn, redeemed, revoked."""
    (one,) = json.loads(run(shop, "list", "--json"))
    assert one["imported"] == one["free"] + one["drawn"] + one["redeemed"] + one["revoked"]
    return one["free"], one["drawn"], one["redeemed"], one["revoked"]


def shown(shop: Any, **ids: str) -> dict[str, Any]:
    found: dict[str, Any] = shop.decide("web", "hero", **ids)["offers"]["hero"]
    return found


def test_a_code_is_imported_shown_redeemed_once_and_counted(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 2)
    first = shop.decide("web", "hero", user_id="ada")
    mine = first["offers"]["hero"]
    assert mine["coupon"] == "CODE-0"
    assert mine["rendering"] == {"headline": "Ten euros off", "text": "Use CODE-0", "more": {"codes": ["CODE-0"]}}
    assert shown(shop, user_id="ada")["coupon"] == "CODE-0"  # their own again, on every channel
    mail = shop.decide("email", "hero", user_id="ada")["offers"]["hero"]
    assert mail["rendering"]["headline"] == "Your code CODE-0"
    assert shown(shop, user_id="bo")["coupon"] == "CODE-1"
    assert shown(shop, user_id="cy")["offer"] == "banner"
    assert shop.explain("web", "hero", user_id="cy")["closed"] == {"welcome": "coupon"}
    assert shop.explain("web", "hero", user_id="bo")["offer"] == "welcome"
    assert shown(shop, user_id="bo")["coupon"] == "CODE-1"  # no code is left, but this one is theirs
    at_till = {"type": "track", "event": "redemption", "user_id": "ada", "channel": "store", "message_id": "r-1"}
    at_till |= {"properties": {"coupon": "CODE-0"}}
    assert [shop.send(at_till), shop.send(at_till)] == ["accepted", "duplicate"]
    assert shop.send(at_till | {"message_id": "r-2"}) == "rejected"
    assert shop.send(at_till | {"message_id": "r-3", "properties": {"coupon": "CODE-9"}}) == "rejected"
    assert counts(shop) == (0, 1, 1, 0)
    assert shown(shop, user_id="ada")["offer"] == "banner"  # theirs is redeemed, and none is left
    metrics = "".join(client.get("/metrics").text for client in shop.clients)
    assert 'counterpoint_coupon_claims_total{offer="welcome",outcome="granted"}' in metrics
    assert 'counterpoint_coupon_claims_total{offer="welcome",outcome="refused"}' in metrics


def test_a_purchase_redeems_by_decision_or_code_and_a_code_past_a_cap_stays_valid(
    open_shop: Any, tmp_path: Path
) -> None:
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 3)
    made = shop.decide("web", "hero", user_id="ada")
    shop.tell("purchase", user_id="ada", decision_id=made["decision_id"], properties={"revenue": 9.0, "order_id": "1"})
    assert counts(shop) == (2, 0, 1, 0)
    assert shop.tell("purchase", user_id="x", properties={"coupon": "CODE-0", "revenue": 5.0}) == "accepted"
    assert shown(shop, user_id="bo")["coupon"] == "CODE-1"
    assert shop.tell("purchase", user_id="bo", properties={"coupon": "CODE-1", "revenue": 5.0}) == "accepted"
    assert counts(shop) == (1, 0, 2, 0)
    assert shown(shop, user_id="cy")["coupon"] == "CODE-2"
    once = {"offer": "welcome"}
    assert shop.tell("redemption", user_id="cy", properties=once) == "accepted"  # by hand: their cap is used up
    assert shop.tell("redemption", user_id="cy", properties={"coupon": "CODE-2"}) == "rejected"
    assert counts(shop) == (0, 1, 2, 0)


def test_a_prefetched_code_is_given_at_the_exposure_and_a_revoked_one_is_no_more(
    open_shop: Any, tmp_path: Path
) -> None:
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 2)
    seen = shop.decide("web", "hero", user_id="ada", expose=False)
    assert "coupon" not in seen["offers"]["hero"]
    assert seen["offers"]["hero"]["rendering"]["text"] == "Use {coupon}"
    assert counts(shop) == (2, 0, 0, 0)
    exposed = shop.client().post("/v1/exposures", json={"decision_id": seen["decision_id"]}).json()
    assert exposed == {"status": "accepted", "coupons": {"hero": "CODE-0"}}
    assert "revoked; it was drawn" in run(shop, "revoke", "CODE-0", "--offer", "welcome")
    run(shop, "revoke", "CODE-0", "--offer", "welcome", code=1)
    run(shop, "revoke", "CODE-7", "--offer", "welcome", code=1)
    assert shop.tell("redemption", user_id="ada", properties={"coupon": "CODE-0"}) == "rejected"
    assert shown(shop, user_id="ada")["coupon"] == "CODE-1"
    assert counts(shop) == (0, 1, 0, 1)


def test_no_code_is_ever_given_to_two_customers(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP, workers=2)
    fill(shop, tmp_path, 20)
    lock, got = threading.Lock(), dict[str, set[str]]()

    def ask(n: int) -> None:
        who = f"u{n % 40}"
        made = shop.decide("web", "hero", user_id=who)
        code = made["offers"]["hero"].get("coupon")
        if code is not None:
            with lock:
                got.setdefault(code, set()).add(who)
        if n % 3 == 0 and code is not None:  # what was shown and refused stays with its customer
            shop.tell("refused", user_id=who, decision_id=made["decision_id"], properties={"offer": "welcome"})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(120)))
    assert len(got) == 20
    assert all(len(people) == 1 for people in got.values())
    assert counts(shop) == (0, 20, 0, 0)


def test_a_code_of_an_offer_that_another_limit_refused_was_not_seen_and_returns(open_shop: Any, tmp_path: Path) -> None:
    scarce = {"welcome": SHOP["offers"]["welcome"] | {"stock": {"sku": "BAG"}}}
    shop = open_shop({**SHOP, "offers": scarce})
    fill(shop, tmp_path, 5)
    assert shown(shop, user_id="ada")["offer"] == "banner"
    assert counts(shop) == (5, 0, 0, 0)
    shop.stock("BAG", 1)
    assert shown(shop, user_id="bo")["offer"] == "welcome"
    assert shown(shop, user_id="cy")["offer"] == "banner"
    assert counts(shop) == (4, 1, 0, 0)


def test_an_erasure_deletes_whose_code_it_was_and_nobody_gets_it_again(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 2)
    assert shown(shop, user_id="ada")["coupon"] == "CODE-0"
    with open_store(shop.settings.redis) as client:
        owners = [key for key in client.hkeys(keyspace.coupons("welcome")[0]) if key.startswith(b"w:")]
        assert len(owners) == 1
        assert shop.client().delete("/v1/profiles/ada").status_code == 200
        assert not [key for key in client.hkeys(keyspace.coupons("welcome")[0]) if key.startswith(b"w:")]
    assert shown(shop, user_id="bo")["coupon"] == "CODE-1"
    assert shown(shop, user_id="cy")["offer"] == "banner"


@pytest.mark.parametrize(
    ("text", "found"),
    [("A B\n", ":1: 'A B' is not a code"), ("", "has no code"), ("code\nOK-1\n\u00e4\u00f6\u00fc\n", ":3:")],
)
def test_a_file_that_has_no_codes_imports_nothing(open_shop: Any, tmp_path: Path, text: str, found: str) -> None:
    shop = open_shop(SHOP, workers=1)
    file = tmp_path / "codes.txt"
    file.write_text(text, encoding="utf-8")
    experiments = ["--experiments", str(shop.settings.experiments)]
    assert found in run(shop, "import", str(file), "--offer", "welcome", *experiments, code=2)
    assert "No codes were imported." in run(shop, "list")
    file.write_text("GOOD-1\nGOOD-1\n")
    assert "use one of welcome" in run(shop, "import", str(file), "--offer", "banner", *experiments, code=2)
    assert "1 codes are new, 0 were known" in run(shop, "import", str(file), "--offer", "welcome", *experiments)
    assert "0 codes are new, 1 were known" in run(shop, "import", str(file), "--offer", "welcome", *experiments)
