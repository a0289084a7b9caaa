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
        (r"^(a)\1$", "aa", True),
        ("", "", True),
    ],
)
def test_a_pattern_reads_as_in_javascript(pattern: str, text: str, expected: bool) -> None:  # noqa: FBT001  a case's datum
    assert compile_pattern(pattern)(text) is expected


@pytest.mark.parametrize(
    "pattern", ["(", ")", "[", "a**", "a*+", "*", "^*", "/???***[)", "\\", "(?i)a", "[z-a]", "(?<=a+)b"]
)
def test_a_malformed_pattern_is_reported(pattern: str) -> None:
    with pytest.raises(PatternError, match="is no regular expression"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a*)*b",
        "(a|a)*$",
        "(a|ab)*c",
        "(a?a?)+$",
        "(a{1,2})+$",
        r"(\w+\s?)*$",
        r"^(([a-z])+.)+[A-Z]([a-z])+$",
        "((a|b)(c|cd))*e",
        "(.*a){20}",
        "(a{1,9}){9}b",
        "a?" * 30 + "a" * 30,
        "(a|a)" * 30 + "b",
        ".*a.*b.*c.*d",
        "(" * 30 + "a" + ")" * 30,
        "a" * 2_000,
    ],
)
def test_a_pattern_that_could_stall_is_rejected(pattern: str) -> None:
    with pytest.raises(PatternError) as refused:
        compile_pattern(pattern)
    assert refused.value.remedy


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
def test_patterns_that_growth_teams_write_are_accepted(pattern: str, text: str) -> None:
    assert compile_pattern(pattern)(text)


@pytest.mark.parametrize("pattern", ["a+a+b", ".*.*b", "a.*b+", "(x|a)*b", "a+b", "(a?b?)c"])
@pytest.mark.timeout(60)
def test_matching_the_hardest_text_terminates(pattern: str) -> None:
    matches = compile_pattern(pattern)
    for length in MAX_TEXT:
        assert not matches("a" * length)


def test_a_text_too_long_does_not_match() -> None:
    matches = compile_pattern("a")
    assert matches("a" * MAX_TEXT[0])
    assert not matches("a" * (MAX_TEXT[0] + 1))
