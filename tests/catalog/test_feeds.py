"""Offers from a feed: every row checked alone, the entry's gates on every item, and an index for many."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.catalog.check.load import build_specs, load_specs, read_folder
from engine.catalog.check.warnings import find_warnings
from engine.catalog.feeds import rows
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.indexing.bits import FEW_OFFERS, set_places
from engine.catalog.plan.indexing.offer_index import IndexedOffer, build_offer_index
from engine.customer import Consent, CustomerIds, Profile, Trait
from engine.decision.decision import DecideRequest, Decision, decide
from engine.errors import CatalogError

NOW = 1_790_000_000.0
ENTRY: dict[str, Any] = {
    "feed": "products.csv",
    "key": "sku",
    "title": "title",
    "price": "price",
    "tags": "category",
    "attributes": {"brand": "brand"},
    "purpose": "marketing",
    "audience": {"shelf": "{category}"},
    "caps": [{"count": 2, "per": "7d"}],
    "stock": {"sku": "{sku}"},
    "rendering": {"web": {"headline": "{title}", "price": "{price}", "text": "{title} for {price} €"}},
}
CSV = """sku,title,price,category,brand
k-1,Kettle,19.90,kitchen,Acme
k-2,"Kettle, large",30,kitchen,Acme
l 3,Lamp,5,light,
l-4,Lamp,cheap,light,Lumo
k-1,Kettle again,1,kitchen,
l-5,,12,light,Lumo
l-6,Lamp,12,light
l-7,Bulb,2,light,Lumo
silence,Bell,2,light,Lumo
"""


def write(folder: Path, data: str | bytes, **entry: Any) -> Path:
    (folder / "offers").mkdir(parents=True, exist_ok=True)
    banner = {"key": "banner", "renderings": {"web": {"headline": "Hello"}}}
    (folder / "offers" / "banner.yaml").write_text(json.dumps(banner))
    channels = {"channels": [{"key": "web"}], "placements": [{"key": "hero", "channels": ["web"]}]}
    (folder / "channels.yaml").write_text(json.dumps(channels))
    (folder / "metrics.yaml").write_text(json.dumps({"metrics": [{"key": "click", "event": "click"}]}))
    offers = {name: value for name, value in (ENTRY | entry).items() if value is not None}
    hero = {
        "key": "hero", "placement": "hero", "offers": offers, "policy": {"kind": "uniform"},
        "reward": {"metric": "click"}, "fallback": "banner",
    }  # fmt: skip
    (folder / "hero.yaml").write_text(json.dumps(hero))
    path = folder / offers["feed"]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def ask(folder: Path, shelf: str, *, consent: bool = True, now: float = NOW) -> Decision:
    plan = load_plan(folder)
    profile = Profile("u", "u", traits={"shelf": Trait(shelf, NOW)}, consents={"marketing": Consent(consent, NOW)})
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", placements=["hero"])
    return decide(plan, {}, profile, request, now)


def test_good_rows_are_served_under_the_entrys_gates_and_bad_ones_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, CSV)
    kitchen = ask(folder, "kitchen").choices["hero"]
    assert sorted(kitchen.candidates) == ["k-1", "k-2"]
    assert ask(folder, "light").choices["hero"].candidates == ["l-7"]
    assert ask(folder, "garden").choices["hero"].reason == "fallback"
    assert ask(folder, "kitchen", consent=False).choices["hero"].reason == "fallback"
    plan = load_plan(folder)
    item = plan.offers["k-2"]
    assert item.spec.renderings == {"web": {"headline": "Kettle, large", "price": 30, "text": "Kettle, large for 30 €"}}
    assert (item.spec.tags, item.spec.attributes) == (["kitchen"], {"price": 30.0, "brand": "Acme"})
    assert item.limits.pools == ("stock:k-2",)
    assert "exposure|offer:k-2" in plan.watched
    found = [problem for problem in find_warnings(load_specs(folder), NOW) if problem.file.endswith("products.csv")]
    assert [problem.path for problem in found] == ["row 3", "row 4", "row 5", "row 6", "row 7", "row 9"]
    reasons = ["not a key", "not a number", "in a row above", "title is empty", "4 cells", "use a prefix"]
    assert all(reason in problem.message for reason, problem in zip(reasons, found, strict=True))


def test_one_feed_reads_alike_as_csv_json_lines_and_parquet(tmp_path: Path) -> None:
    table = [
        {"sku": "a", "title": "One", "price": 1.5, "category": "x", "brand": None},
        {"sku": "b", "title": "Two", "price": 2.0, "category": "x", "brand": "Acme"},
    ]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "t.parquet")
    files = {
        "products.csv": b"sku,title,price,category,brand\na,One,1.5,x,\nb,Two,2,x,Acme\n",
        "feeds/products.jsonl": b"\n".join(json.dumps(row).encode() for row in table),
        "products.parquet": (tmp_path / "t.parquet").read_bytes(),
    }
    found = []
    for number, (name, data) in enumerate(files.items()):
        plan = load_plan(write(tmp_path / str(number), data, feed=name))
        found.append([(key, plan.offers[key].spec) for key in ("a", "b")])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("feed", "entry", "message"),
    [
        ("sku,titel,price,category,brand\na,b,1,c,d\n", {}, "has no column 'title'; it has"),
        ("sku,title,price,category,brand\n", {}, "has no row that can be served; it is empty"),
        ("sku,title,price,category,brand\na,b,x,c,d\n", {}, "has no row that can be served; row 1: price 'x'"),
        (CSV, {"key": None}, "name the column that tells the items apart"),
        (CSV, {"rendering": None}, "is missing; give one per channel"),
        (CSV, {"feed": "products.xml"}, "a file beside the YAML"),
        (CSV, {"tagged": "sale"}, "stands beside a feed"),
        ("sku,title,price,category,brand\nbanner,b,1,c,d\n", {}, "give this feed a prefix"),
        (b"PAR1 broken", {"feed": "products.parquet"}, "is not a complete Parquet file"),
    ],
)
def test_an_entry_that_cannot_be_served_is_refused(tmp_path: Path, feed: Any, entry: Any, message: str) -> None:
    with pytest.raises(CatalogError) as refused:
        load_specs(write(tmp_path, feed, **entry))
    assert message in str(refused.value.problems)
    assert len(refused.value.problems) == 1


def test_a_missing_feed_is_refused_and_so_is_parquet_without_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, CSV)
    (folder / "products.csv").unlink()
    with pytest.raises(CatalogError, match="is missing or cannot be read"):
        load_specs(folder)
    monkeypatch.setattr(rows, "has_extra", lambda _: False)
    with pytest.raises(CatalogError) as refused:
        load_specs(write(tmp_path, b"PAR1 of a bare server", feed="products.parquet"))
    assert "install counterpoint[analysis]; or write CSV or JSON Lines" in str(refused.value.problems)


def test_a_changed_feed_is_another_plan_and_the_archive_stores_each_once(tmp_path: Path) -> None:
    folder, archive = write(tmp_path / "shop", CSV), Archive(tmp_path / "plans")
    versions = []
    for feed in (CSV, CSV.replace("19.90", "17.90"), CSV):
        (folder / "products.csv").write_text(feed)
        files, problems = read_folder(folder)
        specs = build_specs("shop", files, problems)
        archive.store(specs, files, "ann", NOW)
        versions.append(specs.version)
    assert versions[0] == versions[2] != versions[1]
    assert len(list((tmp_path / "plans" / "feeds").iterdir())) == 2
    assert "Kettle" not in (tmp_path / "plans" / f"{versions[0]}.json").read_text()
    old = [compile_plan(archive.read_specs(version)).offers["k-1"].spec.renderings["web"] for version in versions]
    assert [one["price"] for one in old] == [19.9, 17.9, 19.9]


def test_an_index_of_many_offers_closes_the_same_as_one_by_one() -> None:
    dice = random.Random(3)
    audiences: list[dict[str, Any]] = [
        {"shelf": f"s-{number % 700}"}
        | ({"tier": {dice.choice(["$gt", "$gte", "$lt", "$lte"]): dice.randint(0, 3)}} if number % 3 else {})
        | ({"$or": [{"vip": True}, {"age": 30}]} if number % 7 == 0 else {})
        for number in range(FEW_OFFERS + 2_000)
    ]

    def of(numbers: list[int]) -> Any:
        return build_offer_index(
            [IndexedOffer(str(n), 0.0, float("inf"), audiences[n], {"pool": (f"p{n % 900}",)}) for n in numbers]
        )

    numbers = list(range(len(audiences)))
    large, small = of(numbers), [of(numbers[at : at + 1_000]) for at in range(0, len(numbers), 1_000)]
    for customer in (
        {"shelf": "s-3", "tier": 2},
        {"shelf": "s-14", "vip": True},
        {"tier": 0},
        {"shelf": "s-7", "tier": 3},
    ):
        closed = {large.keys[place] for place in set_places(large.outside_audience(customer, large.everything))}
        one_by_one = {
            part.keys[place] for part in small for place in set_places(part.outside_audience(customer, part.everything))
        }
        assert closed == one_by_one
        assert len(closed) < len(numbers) or "vip" not in customer
    for name in ("p3", "p899", "nothing"):
        here = {large.keys[place] for place in set_places(large.named("pool").get(name, 0))}
        assert here == {str(n) for n in numbers if f"p{n % 900}" == name}
    assert [large.bits[key] for key in ("0", "4099")] == [1, 1 << 4099]
