from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.check.yaml_text import MAX_BYTES, MAX_PROBLEMS, decode_yaml

BOMB = b"a: &a [lol, lol]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c]\n" % (n, n, n - 1, n - 1, n - 1) for n in range(98, 123)
)


def read(text: str) -> Any:
    value, problems, _ = decode_yaml(text.encode(), "x.yaml")
    assert problems == []
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12),
        ("-3", -3),
        ("+4", 4),
        ("0", 0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("0x1f", "0x1f"),
        ("0o14", "0o14"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-11-01", "2026-11-01"),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
        ("1.2.3", "1.2.3"),
        ("'012'", "012"),
        ('"true"', "true"),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_plain_values(text: str, expected: object) -> None:
    value = read(f"a: {text}\n")["a"]
    assert (value, type(value)) == (expected, type(expected))


def test_keys_are_text() -> None:
    assert read("on: 1\nno: 2\n3: 4\nnull: 5\nloyalty.tier: {$gte: 1}\n") == {
        "on": 1,
        "no": 2,
        "3": 4,
        "null": 5,
        "loyalty.tier": {"$gte": 1},
    }


def test_a_byte_order_mark_and_an_empty_file_are_read() -> None:
    assert decode_yaml(b"\xef\xbb\xbfa: 1\n", "x.yaml") == ({"a": 1}, [], {})
    assert decode_yaml(b"# nothing yet\n", "x.yaml") == (None, [], {})


@pytest.mark.parametrize(
    ("data", "path", "parts"),
    [
        (b"a: 1\nb:\n  c: 1\n  c: 2\n", "b.c", ["line 4", "'c'", "line 3", "keep one"]),
        (b"a:\n  - x: 1\n    x: 2\n", "a[0].x", ["line 3"]),
        (b"a: &x 1\n", "a", ["line 1", "'&x'", "write out the values"]),
        (b"a: *x\n", "a", ["line 1", "'*x'", "write out the value"]),
        (b"c:\n  <<: {x: 1}\n", "c.<<", ["line 2", "write its keys out"]),
        (b"a: 012\n", "a", ["line 1", "012", "starts with a zero", "quote it"]),
        (b"a: 01.5\n", "a", ["01.5", "starts with a zero"]),
        (b"a: 1e999\n", "a", ["1e999", "too large"]),
        (b"a: " + b"9" * 5000, "a", ["18 digits", "quote it"]),
        (b"a: !!python/object/apply:os.system [ls]\n", "a", ["line 1", "tag", "not allowed"]),
        (b"a: !!str 1\n", "a", ["tag", "quotes"]),
        (b"? [a, b]\n: 1\n", "", ["line 1", "write the key as text"]),
        (b"a: 1\n---\nb: 2\n", "", ["line 2", "second document"]),
        (b"a:\n\tb: 1\n", "", ["line 2", "tab", "spaces"]),
        (b"a:\n  b: 1\n  \tc: 2\n", "", ["line 3", "tab"]),
        (b"a: b: c\n", "", ["line 1, column 5", "check indentation"]),
        (b"a: 'b\nc: d\n", "", ["line 3", "line 1", "quotes"]),
        (b"a: 1\nb: \xff\n", "", ["line 2", "0xff", "UTF-8"]),
        ("a: 1".encode("utf-16"), "", ["not UTF-8", "save the file as UTF-8"]),
        (b"a: 1\nb: \0\n", "", ["line 2", "U+0000"]),
        (b"a: 1\n" * 2_000_000, "", ["10,000,000 bytes", "1,000,000", "split it"]),
    ],
)
def test_each_trap_is_one_line_with_place_rule_and_remedy(data: bytes, path: str, parts: list[str]) -> None:
    value, problems, _ = decode_yaml(data, "experiments/x.yaml")
    assert value is None
    (problem,) = problems
    assert (problem.file, problem.path) == ("experiments/x.yaml", path)
    assert "\n" not in str(problem)
    for words in parts:
        assert words in problem.message


def test_all_problems_of_a_file_are_reported_at_once() -> None:
    _, problems, _ = decode_yaml(b"a: 012\nb: *x\nc: 1\nc: 2\nd: !t 1\n", "x.yaml")
    assert [problem.path for problem in problems] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        b"[" * 900_000,
        b"{a: " * 200_000,
        b"- " * 400_000,
        b"? " * 400_000,
        b"a:" * 450_000,
        b"'a' " * 200_000,
        b"!" * 900_000,
        b"&a " * 300_000,
        b"{" + b"a," * 300_000 + b"}",
        bytes(range(256)) * 4_000,
    ],
    ids=["bomb", "lists", "maps", "items", "keys", "colons", "quotes", "tags", "anchors", "doubles", "binary"],
)
@pytest.mark.timeout(20)
def test_hostile_files_yield_short_problems(data: bytes) -> None:
    value, problems, _ = decode_yaml(data, "x.yaml")
    assert value is None
    assert 1 <= len(problems) <= MAX_PROBLEMS
    assert all(len(str(problem)) < 500 for problem in problems)


def test_a_large_good_file_is_read() -> None:
    line = "  - {key: control, weight: 0.5, payload: {layout: classic}}\n"
    value = read("variants:\n" + line * (MAX_BYTES // len(line) - 1))
    assert value["variants"][-1] == {"key": "control", "weight": 0.5, "payload": {"layout": "classic"}}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    value, problems, _ = decode_yaml(data, "x.yaml")
    assert value is None or problems == []


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,?<~01. \n\t", max_size=60))
def test_no_yaml_like_text_raises(text: str) -> None:
    value, problems, _ = decode_yaml(text.encode(), "x.yaml")
    assert value is None or problems == []
