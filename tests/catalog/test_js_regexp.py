import json
import os
import random
import shutil
import subprocess

import pytest

from engine.catalog.conditions.js_regexp import MAX_TEXT, PatternError, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("-12-25$", "1980-12-25", True),
        ("a$", "a\n", False),
        (".", "\n", False),
        ("^.$", "é", True),
        (r"^\d+$", "٣", False),
        (r"^\w+$", "é", False),
        (r"^\W$", "é", True),
        (r"\bfoo\b", "a foo b", True),
        (r"[\w.-]+@", "a.b@", True),
        ("[]", "x", False),
        ("^[^]$", "\n", True),
        ("[[]", "[", True),
        ("]", "]", True),
        ("^a{,3}$", "a{,3}", True),
        (r"(?<year>\d{4})-", "2026-", True),
        (r"\u00e9|\x41", "A", True),
        (r"\p", "p", True),
        (r"/checkout/?$", "/checkout", True),
        (r"\101", "A", True),
        ("^..$", "😀", True),
        ("^.$", "😀", False),
        (r"^\s$", "\ufeff", True),
        (r"^\s$", "\x85", False),
        ("^[😀]{2}$", "😀", True),
        ("", "", True),
    ],
)
def test_a_pattern_reads_as_in_javascript(pattern: str, text: str, expected: bool) -> None:  # noqa: FBT001  a case's datum
    assert compile_pattern(pattern)(text) is expected


@pytest.mark.parametrize(
    "pattern", ["(", ")", "[", "a**", "a*+", "*", "^*", "/???***[)", "\\", "(?i)a", "[z-a]", "a{2,1}", "(?<n>a)(?<n>b)"]
)
def test_what_is_no_pattern_says_so(pattern: str) -> None:
    with pytest.raises(PatternError, match="is not a regular expression"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("(?=a)b", "a lookaround"),
        ("(?<!a)b", "a lookaround"),
        (r"(a)\1", "a back-reference"),
        ("^[[:alpha:]_]+$", r"the POSIX class \[:alpha:\]"),
        (r"(?<n>a)\k<n>", "a back-reference"),
        ("a{1001}", "repeats more than 1000 times"),
        ("(?:a{1,100}){1,100}b", "is too large"),
        ("(" * 60 + "a" + ")" * 60, "nests more than 50 groups"),
        ("a" * 2_000, "is longer than 1000 characters"),
    ],
)
def test_a_pattern_that_cannot_be_matched_in_linear_time_is_rejected(pattern: str, rule: str) -> None:
    with pytest.raises(PatternError, match=rule) as rejected:
        compile_pattern(pattern)
    assert rejected.value.remedy


STALLING = [
    "(a+)+$", "(a*)*b", "(a|a)*$", "(a|ab)*c", "(a?a?)+$", "(a{1,2})+$", r"(\w+\s?)*$", "((a|b)(c|cd))*e",
    "(ab?)*c?(ab?)*d", ".*a.*b.*c.*d", "(a{1,9}){9}b", "(a|a)" * 30 + "b", "[ab]*a[ab]{20}c",
]  # fmt: skip
"""Patterns on which a backtracking engine takes seconds or years."""


@pytest.mark.parametrize("pattern", STALLING)
@pytest.mark.timeout(20)
def test_a_pattern_that_stalls_others_ends(pattern: str) -> None:
    matches = compile_pattern(pattern)
    rng = random.Random(3)
    lengths = (100, 500, 2_000, MAX_TEXT, MAX_TEXT + 1)
    texts = ["".join(rng.choices("ab", k=length)) for length in lengths]
    assert [matches(text) for text in texts] == [matches(text) for text in texts]


NODE = """
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"))
const run = ([pattern, ignore, texts]) => {
  try { const re = new RegExp(pattern, ignore ? "i" : ""); return texts.map(t => re.test(t)) } catch { return null }
}
console.log(JSON.stringify(cases.map(run)))
"""
ATOMS = [
    *"abcéÉß\u017f\u212aksS079_- \t\n\u2028\ufeff😀漢.{}]^$/|(", r"\.", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\b", r"\B",  # noqa: E501
    r"\n",    r"\x41", r"\u00e9", r"\ud83d", r"\0", r"\1", r"\8", r"\12", r"\101", r"\cA", r"\c1", r"\c", r"\k", r"\p", r"\x4",  # noqa: E501
    r"\u12",    "[ab]", "[^ab]", "[a-c]", r"[\d-x]", r"[a-\d]", "[]", "[^]", "[[]", r"[\b]", r"[\cA\c_]", "[😀]",
    r"[\u0000-\uffff]",    "(a)", "(?:b|c)", "(a|b)", "(?<n>a)", "{,3}", "[k-s]", r"[^\W]", "(?:)",
]  # fmt: skip
QUANTIFIERS = ["", "", "", "", "*", "+", "?", "*?", "{2}", "{1,3}", "{0,2}?", "{2,}", "{3,1}"]
LETTERS = [*"abcABéÉßẞ\u017fsS\u212akK0789_- \t\n\u2028\ufeff😀\ud83d漢.[]{},3\x01\\\x08/n|"]


@pytest.mark.skipif(shutil.which("node") is None, reason="JavaScript's own answers need Node")
def test_random_patterns_agree_with_javascript() -> None:
    rng = random.Random(7)
    cases = []
    for _ in range(int(os.environ.get("FUZZ", "3000"))):
        pattern = "".join(rng.choice(ATOMS) + rng.choice(QUANTIFIERS) for _ in range(rng.randint(1, 5)))
        pattern += ")" * (pattern.count("(") - pattern.count(")"))
        texts = ["".join(rng.choices(LETTERS, k=rng.randint(0, 6))) for _ in range(6)]
        cases.append((pattern, rng.random() < 0.4, texts))
    node = subprocess.run(["node", "-e", NODE], input=json.dumps(cases), capture_output=True, text=True, check=True)  # noqa: S607
    rejected = 0
    for (pattern, ignore_case, texts), expected in zip(cases, json.loads(node.stdout), strict=True):
        try:
            matches = compile_pattern(pattern, ignore_case=ignore_case)
        except PatternError as error:
            rejected += expected is not None
            if expected is None or "linear time" in error.rule:
                continue
            raise
        assert [matches(text) for text in texts] == expected, pattern
    assert rejected < len(cases) / 100


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(\d+\.)+\d+$", "10.0.1"),
        (r"^[a-z]+@[a-z]+\.[a-z]+$", "a@shop.example"),
        ("Android.*Chrome.*Mobile", "Linux; Android 15 Chrome/140 Mobile Safari"),
        (".*(iPhone|iPad).*Safari", "Mozilla (iPhone) Safari"),
        (r"https?://(www\.)?shop\.example/.*\?utm=.*", "https://www.shop.example/a?utm=1"),
        (r"^([a-z0-9]+-)*[a-z0-9]+$", "second-coffee-2"),
        (r"^v?[0-9]{1,3}(\.[0-9]{1,3}){2}$", "v1.20.3"),
    ],
)
def test_what_growth_teams_write_is_taken(pattern: str, text: str) -> None:
    assert compile_pattern(pattern)(text)


def test_a_text_too_long_does_not_match() -> None:
    matches = compile_pattern("a")
    assert matches("a" * 5_000)
    assert not matches("a" * (MAX_TEXT + 1))
