"""Feeds from tables: `counterpoint feeds` writes what the entry names, and servers serve it and follow a change."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import start_postgres
from tests.stories.conftest import write_shop
from tests.verbs import run_verb

ENTRY: dict[str, Any] = {
    "key": "sku",
    "title": "name",
    "price": "price",
    "rendering": {"web": {"headline": "{name}", "price": "{price}"}},
}
PRODUCTS = [("k-2", "Kettle, red", 19.5, "kitchen"), ("k-1", "Kettle", 10, "kitchen")]


def shop_of(feed: str, source: dict[str, Any], table: str = "products") -> dict[str, Any]:
    entry = ENTRY | {"feed": feed, "table": {"table": table, "at": "warehouse"}}
    return {
        "offers": {},
        "placements": {"hero": {"offers": entry}},
        "sources": [{"key": "warehouse"} | source],
    }


def fill(file: Path, rows: list[tuple[Any, ...]]) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE IF NOT EXISTS products (sku, name, price, shelf)")
        db.execute("DELETE FROM products")
        db.executemany("INSERT INTO products VALUES (?, ?, ?, ?)", rows)
        db.commit()


def pull(folder: Path, code: int = 0) -> Any:
    done = run_verb("feeds", "--experiments", str(folder), "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.mark.parametrize("feed", ["feeds/products.jsonl", "products.csv", "feeds/products.parquet"])
def test_a_table_becomes_the_file_of_the_feed(tmp_path: Path, feed: str) -> None:
    fill(tmp_path / "shop.db", PRODUCTS)
    folder = write_shop(tmp_path / "experiments", shop_of(feed, {"kind": "sqlite", "path": str(tmp_path / "shop.db")}))
    missing = run_verb("check", str(folder), "--json")
    assert missing.returncode == 1
    assert "`counterpoint feeds` writes it from its table" in missing.stdout
    assert pull(folder) == [{"feed": feed, "table": "products", "rows": 2, "state": "written"}]
    assert run_verb("check", str(folder)).returncode == 0
    written = (folder / feed).read_bytes()
    assert pull(folder)[0]["state"] == "unchanged"
    assert (folder / feed).read_bytes() == written
    fill(tmp_path / "shop.db", [])
    assert "has 0 rows" in pull(folder, code=2)
    assert (folder / feed).read_bytes() == written
    if feed.endswith(".jsonl"):
        assert [json.loads(line) for line in written.splitlines()] == [
            {"sku": "k-1", "name": "Kettle", "price": 10},
            {"sku": "k-2", "name": "Kettle, red", "price": 19.5},
        ]


@pytest.fixture
def postgres() -> Iterator[str]:
    with start_postgres() as address:
        yield address


def test_postgres_has_the_products(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE SCHEMA feed_shop")
        db.execute("CREATE TABLE feed_shop.products (sku text, name text, price numeric(10, 2), shelf text)")
        with db.cursor() as cursor:
            cursor.executemany("INSERT INTO feed_shop.products VALUES (%s, %s, %s, %s)", PRODUCTS)
    monkeypatch.setenv("WAREHOUSE", postgres)
    source = {"kind": "postgres", "address": "WAREHOUSE"}
    folder = write_shop(tmp_path / "experiments", shop_of("products.jsonl", source, "feed_shop.products"))
    assert pull(folder)[0]["rows"] == 2
    lines = [json.loads(line) for line in (folder / "products.jsonl").read_text().splitlines()]
    assert lines == [
        {"sku": "k-1", "name": "Kettle", "price": 10},
        {"sku": "k-2", "name": "Kettle, red", "price": 19.5},
    ]


def test_a_server_follows_what_the_table_has_now(open_shop: Any, tmp_path: Path) -> None:
    products = tmp_path / "tables"
    products.mkdir()
    (products / "products.csv").write_text("sku,name,price\nk-1,Kettle,10\n")
    shop_file = '{"sku": "k-0", "name": "Old kettle", "price": 9}\n'
    spec = shop_of("products.jsonl", {"kind": "files", "path": str(products)}, "products.csv")
    shop = open_shop(spec | {"feeds": {"products.jsonl": shop_file}}, workers=1)
    assert shop.offer("web", "hero", user_id="ada") == "k-0"
    pull(shop.settings.experiments)
    deadline = time.monotonic() + 60
    while shop.decide("web", "hero", user_id="ada", expose=False)["offers"]["hero"]["offer"] != "k-1":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    rendering = shop.decide("web", "hero", user_id="ada")["offers"]["hero"]["rendering"]
    assert rendering == {"headline": "Kettle", "price": 10}
