"""`counterpoint simulate --environment`: the regret of policies in simulated shops, beside uniform choice."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli.simulate import simulate
from engine.errors import BadInput
from tests.verbs import run_verb


def run(*words: str) -> tuple[int, Any, str]:
    done = run_verb("simulate", *words)
    return (
        done.returncode,
        json.loads(done.stdout) if "--json" in words and not done.returncode else done.stdout,
        done.stderr,
    )


def policy(folder: Path, name: str, text: str) -> str:
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return str(file)


def test_the_verb_ranks_policies_of_files_beside_uniform_and_is_repeatable(tmp_path: Path) -> None:
    forgets = policy(tmp_path, "forgets", "kind: beta_thompson\ndiscount: 0.99\n")
    remembers = policy(tmp_path, "remembers", "policy: {kind: beta_thompson}\n")
    words = ("--environment", "drifting", "--policy", forgets, "--policy", remembers, "--rounds", "1500", "--json")
    code, report, _ = run(*words)
    assert code == 0
    assert [one["policy"] for one in report["policies"]][-1] == "uniform"
    by_name = {one["policy"]: one for one in report["policies"]}
    assert by_name.keys() == {"forgets", "remembers", "uniform"}
    assert by_name["uniform"]["of_uniform"] == 1.0
    assert by_name["forgets"]["regret"] < by_name["uniform"]["regret"] - 4 * by_name["uniform"]["error"]
    again = {one["policy"]: one["regret"] for one in run(*words)[1]["policies"]}
    assert again == {name: one["regret"] for name, one in by_name.items()}


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    code, _, error = run()
    assert (code, error.strip()) == (
        2,
        "simulate: nothing to simulate; name an experiment, a placement or an --environment",
    )
    code, _, error = run("--environment", "linear", "--rounds", "0")
    assert code == 2
    assert "--rounds 0 --runs 3: give at least one of each" in error
    code, _, error = run("--environment", "linear", "--rounds", "5", "--seed", "-1")
    assert (code, error.strip()) == (2, "--seed -1: is below 0; give a whole number from 0 on")
    code, _, error = run("--environment", "linear", "--policy", policy(tmp_path, "bad", "kind: linear_thomson\n"))
    assert code == 2
    assert "did you mean 'linear_thompson'?" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["home_hero", "--environment", "linear"],
            "KEY is for your own shop; leave it out, or leave out --environment linear",
        ),
        (["--environment", "linear", "--stock", "BAG=4"], "--stock is for your own shop"),
        (["--environment", "linear", "--customers", "7"], "--customers is for your own shop"),
        (["--environment", "linear", "--redeem", "0.5"], "--redeem is for your own shop"),
        (
            ["home_hero", "--rounds", "10"],
            "--rounds is for an --environment, and home_hero is in your own shop; leave it out",
        ),
        (["home_hero", "--runs", "3"], "--runs is for an --environment"),
        (["checkout_layout", "--seed", "0"], "--seed is for an --environment"),
        (["home_hero", "--log", ".", "--visits", "2"], "--visits is for generated visits, and --log has its own"),
        (
            ["home_hero", "--profiles", "p", "--customers", "2"],
            "--customers is for generated customers, and --profiles has",
        ),
        (["home_hero", "--policy", "new.yaml"], "--policy new.yaml is for an --environment; home_hero has the policy"),
    ],
)
def test_what_would_be_ignored_is_refused(words: list[str], message: str) -> None:
    code, answer, error = run(*words)
    assert (code, answer) == (2, "")
    assert message in error


def test_files_of_one_name_are_distinguished_and_one_given_twice_is_refused(tmp_path: Path) -> None:
    words = ["--environment", "bernoulli", "--rounds", "50", "--runs", "1", "--json"]
    for one in ("before", "after", "new"):
        (tmp_path / one).mkdir()
    alike = [policy(tmp_path / one, "hero", "kind: kl_ucb\n") for one in ("before", "after")]
    baseline = policy(tmp_path / "new", "uniform", "kind: beta_thompson\n")
    code, report, _ = run(*words, *(word for file in (*alike, baseline) for word in ("--policy", file)))
    assert code == 0
    assert {one["policy"] for one in report["policies"]} == {*alike, baseline, "uniform"}
    code, _, error = run(*words, "--policy", alike[0], "--policy", alike[0])
    assert code == 2
    assert "named twice" in error


@pytest.mark.parametrize(
    ("stock", "why"),
    [
        ("ROAST-2=40", "no offer has this SKU; known are ROAST-1"),
        ("ROAST-1=-1", "is not SKU=LEVEL with a level from 0 on; write COFFEE-12=40"),
        ("ROAST-1=nan", "is not SKU=LEVEL with a level from 0 on; write COFFEE-12=40"),
        ("ROAST-1", "is not SKU=LEVEL with a level from 0 on; write COFFEE-12=40"),
    ],
)
def test_a_stock_that_no_offer_could_use_is_refused(
    stock: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERPOINT_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))
    monkeypatch.setenv("COUNTERPOINT_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=f"^--stock {stock}: {why}$"):
        simulate("till_prompt", stock=[stock])
