"""Sample files: the same customers in JSON, JSON Lines and CSV are the same sample, whatever their names and texts."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.plan.compile import compile_plan
from engine.errors import BadInput
from engine.rehearse.customers import read_sample
from engine.rehearse.preview import preview
from engine.rehearse.trait_names import text_traits
from tests.catalog.folder import experiment, plan, specs
from tests.verbs import run_verb

SHOP = Path(__file__).resolve().parents[2] / "experiments"
NOW = 1_790_000_000.0
AUDIENCE = {
    "$or": [{"loyalty.tier": {"$gte": 2}}, {"zip": "01234"}, {"country": {"$in": ["DE", "4,5"]}}, {"new": True}]
}
PLAN = plan({"key": "trial", "variants": [{"key": "a"}, {"key": "b"}], "audience": AUDIENCE})
TEXTS = st.text(
    st.sampled_from(list("aé4,\"';\n\r\u2028\u0085 |{"))
    | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    min_size=1,
    max_size=6,
)
WORDS = TEXTS.map(lambda text: f"x{text}") | st.sampled_from(["DE", "4,5", "True", "+1", "007x"])
TRAITS: dict[str, st.SearchStrategy[Any]] = {
    "country": WORDS,
    "zip": st.sampled_from(["01234", "12345", "1e5"]),
    "loyalty.card.id": st.integers(0, 99).map(str),
    "loyalty.tier": st.integers(-3, 3),
    "spent": st.integers(-99, 99) | st.sampled_from([0.5, -12.25]),
    "new": st.booleans(),
    "bars": st.lists(WORDS, min_size=1, max_size=3),
    "consent.letters": st.booleans(),
}
CUSTOMERS = st.lists(
    st.fixed_dictionaries(
        {"user_id": TEXTS},
        optional=TRAITS | {"channel": st.sampled_from(["web", "app"]), "context.hour": st.integers(0, 23)},
    ),
    min_size=1,
    max_size=8,
)


def nested(customer: dict[str, Any]) -> dict[str, Any]:
    """The customer with its traits and context as objects."""
    tree: dict[str, Any] = {}
    for name, value in customer.items():
        path = (
            name.split(".")
            if name in {"user_id", "channel"} or name.startswith("context.")
            else ["traits", *name.split(".")]
        )
        inner = tree
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
        inner[path[-1]] = value
    return tree


def cell(value: object) -> object:
    return value if isinstance(value, str) else json.dumps(value)


def as_csv(customers: list[dict[str, Any]], prefix: str = "") -> str:
    names = list(dict.fromkeys(name for customer in customers for name in customer))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(f"{prefix}{name}" if name in TRAITS else name for name in names)
    writer.writerows([cell(customer[name]) if name in customer else "" for name in names] for customer in customers)
    return text.getvalue()


@given(CUSTOMERS, st.sampled_from(["", "\ufeff"]))
@settings(max_examples=150, deadline=None)
def test_the_same_customers_in_three_formats_get_the_same(customers: list[dict[str, Any]], mark: str) -> None:
    files = {
        "flat.jsonl": "\n".join(json.dumps(customer, ensure_ascii=False) for customer in customers),
        "nested.json": json.dumps([nested(customer) for customer in customers], indent=1),
        "flat.csv": as_csv(customers),
        "dotted.csv": as_csv(customers, "traits."),
    }
    samples = []
    with TemporaryDirectory() as folder:
        for name, text in files.items():
            file = Path(folder, name)
            file.write_bytes((mark + text).encode())
            samples.append(read_sample(file))
    assert [one.profile.id for one in samples[0]] == [customer["user_id"] for customer in customers]
    assert all(sample == samples[0] for sample in samples)
    rows = [preview(PLAN, "trial", sample, NOW) for sample in samples]
    assert all(row == rows[0] for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "latin.csv",
            "user_id,city\nx,Köln\n".encode("latin-1"),
            r"line 2 has the byte 0xF6.*Latin-1; save it as UTF-8",
        ),
        ("excel.csv", "user_id,city\nx,Köln\n".encode("utf-16"), "is UTF-16, not UTF-8; save it as UTF-8"),
        ("no_mark.csv", "user_id,city\nx,Köln\n".encode("utf-16-le"), "has NUL bytes, as UTF-16 has.*save it as UTF-8"),
        ("latin.jsonl", '{"user_id": "x"}\n{"user_id": "é"}'.encode("latin-1"), "line 2 has the byte 0xE9"),
        ("semicolon.csv", b"user_id;city\nx;Rome\n", "has no column user_id; .*separate columns by commas"),
        ("twice.csv", b"user_id,city,city\nx,A,B\n", "has two columns 'city'; name each column once"),
        ("unnamed.csv", b"user_id,,city\nx,A,B\n", "column 2 has no name"),
        ("open.csv", b'user_id,city\nx,"A\n', "line 2: unexpected end of data; quote"),
        ("number.jsonl", b'{"user_id": 7}', "line 1: its user_id 7 is not text; .*such as 'u-1'"),
        ("both.jsonl", b'{"user_id": "x", "city": "A", "traits": {"city": "B"}}', "the trait 'city' is given twice"),
        ("text.jsonl", b'{"user_id": "x", "traits": "gold"}', "its traits are 'gold', not an object"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_with_a_remedy(
    name: str, content: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=why) as error:
        read_sample(tmp_path / name)
    assert "\n" not in str(error.value)


def test_names_are_no_numbers(tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    file.write_text("user_id,zip,card,tier,size\n007,01234,4000123412341234,2,38\n1e3,12345,4,3,38 1/2\n")
    traits = [{name: trait.value for name, trait in one.profile.traits.items()} for one in read_sample(file)]
    assert traits == [
        {"zip": "01234", "card": "4000123412341234", "tier": 2, "size": "38"},
        {"zip": "12345", "card": "4", "tier": 3, "size": "38 1/2"},
    ]
    assert [one.profile.id for one in read_sample(file)] == ["007", "1e3"]


def test_a_trait_that_the_shop_compares_with_texts_is_text(tmp_path: Path) -> None:
    audience = {"$and": [{"branch": {"$in": ["017", "12"]}}, {"$not": {"line": "5"}}, {"spent": {"$gte": 5}}]}
    shop = specs(
        experiment("trial", audience=audience | {"plan": {"$inGroup": "plans"}}),
        segments={"segments": [{"key": "plans", "values": ["1", "2"]}]},
    )
    texts = text_traits(shop)
    assert texts == {"branch", "line", "plan"}
    rows = [{"user_id": f"u-{at}", "branch": "12", "line": "4", "spent": 7, "plan": "1"} for at in range(9)]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "some.csv").write_text(as_csv(rows))
    one, other = (read_sample(tmp_path / name, texts) for name in ("some.jsonl", "some.csv"))
    assert one == other
    shown = preview(compile_plan(shop), "trial", other, NOW)
    assert {row.reason for row in shown} == {"assigned"}


@pytest.mark.parametrize("verb", [("preview", "home_hero", "--customers"), ("coverage", "--profiles")])
def test_a_trait_that_nothing_reads_is_reported(verb: tuple[str, ...], tmp_path: Path) -> None:
    folder = shutil.copytree(SHOP, tmp_path / "shop")
    file = tmp_path / "customers.csv"
    file.write_text("user_id,loyalty.tier,loyalty.teir,consent.marketing\nx,2,2,true\n")
    words = (*verb, str(file), "--experiments", str(folder), "--json")
    done = run_verb(*words, cwd=tmp_path, env={**os.environ, "COLUMNS": "300"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    (line,) = (line for line in done.stderr.splitlines() if "reads the trait" in line)
    assert line == f"{file}: no file of the shop reads the trait 'loyalty.teir'; did you mean 'loyalty.tier'?"
