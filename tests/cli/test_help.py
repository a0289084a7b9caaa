"""`counterpoint --help` groups the verbs by their use, and a misspelled verb or option names the one that was meant."""

import subprocess
import sys

import pytest

from engine.cli import app

VERBS = {
    "Run": {
        *("up", "serve", "learn", "collect", "dashboard", "demo", "due", "mcp", "policy", "supervise"),
        *("backup", "doctor", "restore", "quarantine"),
    },
    "Design": {
        "balance",
        "check",
        "conclude",
        "coverage",
        "import",
        "init",
        "plan",
        "power",
        "preview",
        "schema",
        "simulate",
        "test",
    },
    "Report": {"aa", "analyze", "evaluate", "explain", "interactions", "measure", "replay", "report", "status"},
    "Customers": {"erase", "export", "traits"},
}


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "engine", *words], capture_output=True, text=True, check=False, timeout=240
    )


def test_every_verb_has_a_group_and_help_names_them() -> None:
    groups: dict[str, set[str]] = {}
    for name in app:
        if not name.startswith("-"):
            (group,) = app[name].group
            groups.setdefault(getattr(group, "name", str(group)), set()).add(name)
    assert groups == VERBS
    page = run("--help").stdout
    places = [page.index(f"─ {group} ─") for group in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["analize"], 'Did you mean "analyze"?'), (["analyze", "--metrc", "mean:y"], "Did you mean --metric?")],
)
def test_a_misspelled_word_is_answered_with_the_one_that_was_meant(words: list[str], meant: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert meant in done.stderr
    assert "`counterpoint --help` lists the verbs" in done.stderr
