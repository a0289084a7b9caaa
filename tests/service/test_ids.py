"""Any id that a shop gives its customers and goods has an address."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from engine.service.ids import new_id


@pytest.mark.parametrize("who", ["a/b", "/", "a/export", "x%2Fy", "a//b", "é/ü", "\ue000", "q?r#s", "plain"])
def test_every_id_is_read_handed_out_and_erased_at_its_address(server: Any, who: str) -> None:
    event = {"type": "track", "message_id": f"m-{who}", "user_id": who, "event": "view"}
    assert server.post("/v1/events", {"batch": [event]}).json()["statuses"][0]["status"] == "accepted"
    address = f"{server.base}/v1/profiles/{quote(who, safe='')}"
    assert httpx.get(address).json()["customer"] == who
    assert httpx.get(address.replace("%2F", "%2f")).json()["customer"] == who
    assert httpx.get(f"{address}/export").json()["customer"] == who
    assert httpx.delete(address, timeout=120).json()["ids"] == [who]
    assert httpx.get(address).status_code == 404


def test_a_sku_may_have_a_slash_and_a_route_may_not(server: Any) -> None:
    address = f"{server.base}/v1/stock/BAG%2F250"
    assert httpx.post(address, json={"level": 3}).json()["sku"] == "BAG/250"
    assert httpx.get(address).json()["left"] == 3
    assert httpx.get(f"{server.base}/v1%2Fstock/BAG").status_code == 404
    assert httpx.get(f"{server.base}/v1/stock/BAG/250").status_code == 404


def test_a_sku_in_a_path_is_no_longer_than_one_in_a_body(server: Any) -> None:
    for length, status in ((200, 200), (201, 400)):
        sku = "x" * length
        assert server.post(f"/v1/stock/{sku}", {"level": 3}).status_code == status
        assert server.get(f"/v1/stock/{sku}").status_code == status
        listed = server.post("/v1/stock", {"levels": [{"sku": sku, "level": 3}]}).json()
        assert listed["statuses"][0]["status"] == ("set" if status == 200 else "rejected")


def test_threads_never_make_the_same_decision_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = [id_ for some in pool.map(lambda _: [new_id(1e9) for _ in range(5000)], range(8)) for id_ in some]
    assert len(set(ids)) == 40_000
    assert {len(id_) for id_ in ids} == {32}
