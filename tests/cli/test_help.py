"""`counterpoint --help` groups the verbs by their use, and a misspelled verb or option names the one that was meant."""

import pytest

from engine.cli import app
from tests.verbs import run_verb

VERBS = {
    "Run": {
        *("up", "serve", "learn", "collect", "coupons", "dashboard", "demo", "due", "mcp", "policy", "supervise"),
        *("backup", "doctor", "keys", "log", "migrate", "restore", "store", "quarantine"),
    },
    "Design": {
        "balance",
        "check",
        "conclude",
        "coverage",
        "feeds",
        "import",
        "init",
        "plan",
        "power",
        "preview",
        "schema",
        "simulate",
        "test",
    },
    "Report": {
        "aa",
        "analyze",
        "evaluate",
        "bisect",
        "explain",
        "rent",
        "interactions",
        "measure",
        "replay",
        "report",
        "status",
    },
    "Customers": {"erase", "export", "traits"},
}


def test_every_verb_has_a_group_and_help_names_them() -> None:
    groups: dict[str, set[str]] = {}
    for name in app:
        if not name.startswith("-"):
            (group,) = app[name].group
            groups.setdefault(getattr(group, "name", str(group)), set()).add(name)
    assert groups == VERBS
    page = run_verb("--help").stdout
    places = [page.index(f"─ {group} ─") for group in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["analize"], 'Did you mean "analyze"?'), (["analyze", "--metrc", "mean:y"], "Did you mean --metric?")],
)
def test_a_misspelled_word_is_answered_with_the_one_that_was_meant(words: list[str], meant: str) -> None:
    done = run_verb(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert meant in done.stderr
    assert "`counterpoint --help` lists the verbs" in done.stderr
