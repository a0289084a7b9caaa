"""A placement's policies from the log: rates, their difference, and off-policy values."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from engine.analysis import policy_report
from engine.analysis.bandits.policy_report import RewardRate
from engine.analysis.offpolicy.estimators import Estimate
from engine.analysis.render.terminal import render_policies
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.cli.reports import analyze
from engine.errors import BadInput

Write = Callable[..., Path]
START = 1_793_491_200.0  # of write_log's times, 2026-11-01T00:00:00Z
SHOP = Path(__file__).resolve().parents[3] / "experiments"


def offers(rng: np.random.Generator, n: int, best: float) -> dict[str, list[dict[str, Any]]]:
    """Half the traffic by a policy that shows `a` with probability 0.8, half uniform; a pays `best`, b pays 0.1."""
    decisions, exposures, rewards = [], [], []
    for i in range(n):
        learned = bool(rng.random() < 0.5)
        p = 0.8 if learned else 0.5
        offer = "a" if rng.random() < p else "b"
        base = {"decision_id": f"d{i}", "time": float(i), "key": "hero"}
        who = {"customer": f"c{i % (n // 2)}"}
        chosen = {"propensity": p if offer == "a" else 1 - p, "candidates": ["a", "b"], "variant": offer}
        policy = {"policy": "hero@17" if learned else "uniform", "kind": "offer", "reason": "policy"}
        decisions.append({**base, **who, **chosen, **policy})
        exposures.append({**base, **who})
        if rng.random() < (best if offer == "a" else 0.1):
            rewards.append({**base, "reward": 1.0})
    return {"decisions": decisions, "exposures": exposures, "rewards": rewards}


def test_each_policy_has_its_rate_and_uniform_its_value(write_log: Write) -> None:
    tables = offers(np.random.default_rng(11), 4000, best=0.4)
    tables["decisions"].append({**tables["decisions"][0], "decision_id": "fallback", "policy": None})
    tables["exposures"].append({**tables["exposures"][0], "decision_id": "fallback"})
    tables["decisions"].append({**tables["decisions"][0], "decision_id": "unseen"})
    report = policy_report(write_log(**tables), "hero")
    assert [row.policy for row in report.policies] == ["hero", "uniform"]
    assert sum(row.exposures for row in report.policies) == 4000
    assert sum(row.rewards for row in report.policies) == len(tables["rewards"])
    hero, uniform = (row.rate for row in report.policies)
    assert isinstance(hero, RewardRate)
    assert isinstance(uniform, RewardRate)
    assert hero.low < 0.8 * 0.4 + 0.2 * 0.1 < hero.high
    assert uniform.low < 0.25 < uniform.high
    gain = report.against_uniform["hero"]
    assert isinstance(gain, Effect)
    assert gain.estimate == pytest.approx(hero.estimate - uniform.estimate)
    assert gain.low > 0
    for value in (report.uniform_ips, report.uniform_snips):
        assert isinstance(value, Estimate)
        assert value.low < 0.25 < value.high
        assert value.mean_weight == pytest.approx(1.0, abs=0.05)
    assert msgspec.json.decode(report.json())["placement"] == "hero"
    Console(quiet=True).print(render_policies(report))


def test_its_page_is_one_file(write_log: Write, tmp_path: Path) -> None:
    tables = offers(np.random.default_rng(12), 2000, best=0.4)
    log = write_log(**{name: [{**row, "key": "home_hero"} for row in rows] for name, rows in tables.items()})
    page = tmp_path / "hero.html"

    assert analyze("home_hero", log=log, experiments=SHOP, ripe=False, html=page) == 0
    text = page.read_text(encoding="utf-8")
    assert "hero earns more than uniform choice: +0." in text
    assert text.count("vegaEmbed('#chart") == 2
    assert not re.search(r"""(src|href)=["']https?:""", text)
    with pytest.raises(
        BadInput, match="--prior: only reports of experiments take this, and home_hero is a placement; leave it out"
    ):
        analyze("home_hero", log=log, experiments=SHOP, prior="past")
    with pytest.raises(BadInput, match="--segment: splits the creatives of a placement, and home_hero showed none"):
        analyze("home_hero", log=log, experiments=SHOP, ripe=False, segment="channel")
    with pytest.raises(BadInput, match="; name a file in an existing folder"):
        analyze("home_hero", log=log, experiments=SHOP, ripe=False, html=tmp_path / "none" / "x.html")


def test_a_corrected_reward_replaces_the_first(write_log: Write) -> None:
    tables = offers(np.random.default_rng(1), 100, best=1.0)
    first = tables["rewards"][0]
    tables["rewards"].append({**first, "reward": 0.0, "time": 500.0})
    report = policy_report(write_log(**tables), "hero")
    assert sum(row.rewards for row in report.policies) == len(tables["rewards"]) - 2


def test_what_came_later_does_not_count(write_log: Write) -> None:
    """As if the log ended there: rows are a second apart, and some rewards are corrected after it."""
    tables = offers(np.random.default_rng(13), 2000, best=0.4)
    until = {name: [row for row in rows if row["time"] <= 1199] for name, rows in tables.items()}
    late = [{**row, "reward": 5.0, "time": 1200.0} for row in until["rewards"][:9]]
    moment = datetime.fromtimestamp(START + 1199, timezone(timedelta(hours=2)))
    seen = policy_report(write_log(**{**tables, "rewards": [*tables["rewards"], *late]}), "hero", as_of=moment)
    assert sum(row.exposures for row in seen.policies) == 1200
    assert sum(row.rewards for row in seen.policies) == len(until["rewards"])
    assert seen.as_of == "2026-11-01T00:19:59+00:00"


def test_a_report_as_of_a_day_is_the_one_of_that_day(
    write_log: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = offers(np.random.default_rng(14), 600, best=0.4)
    named = {name: [{**row, "key": "home_hero"} for row in rows] for name, rows in tables.items()}
    early = policy_report(write_log(**named), "home_hero", ripe=False)
    late = {
        name: [{**row, "decision_id": f"late-{row['decision_id']}", "time": 86_400.0} for row in rows]
        for name, rows in named.items()
    }
    log = write_log(**late)
    moment = datetime.fromtimestamp(START + 86_399, UTC)
    assert (
        analyze("home_hero", log=log, experiments=SHOP, as_of=moment.replace(tzinfo=None), ripe=False, json=True) == 0
    )
    shown = msgspec.json.decode(capsys.readouterr().out)
    whole = msgspec.json.decode(early.json())
    with pytest.raises(BadInput, match=r"24 hours for a reward are over by 2026-11-0. .* --no-ripe counts them"):
        analyze("home_hero", log=log, experiments=SHOP, as_of=moment)
    assert policy_report(log, "home_hero", ripe=False).policies[0].exposures == 2 * early.policies[0].exposures
    assert shown["as_of"] == "2026-11-01T23:59:59+00:00"
    assert {**shown, "as_of": ""} == {**whole, "as_of": ""}
    with pytest.raises(BadInput, match=r"exposed decision .* until 2026-10-01T00:00:00\+00:00; check the name"):
        analyze("home_hero", log=log, experiments=SHOP, as_of=datetime(2026, 10, 1))  # noqa: DTZ001 # as on the command line
    page = tmp_path / "then.html"
    assert analyze("home_hero", log=log, experiments=SHOP, as_of=moment, ripe=False, html=page) == 0
    assert "As of 2026-11-01 23:59 UTC." in page.read_text(encoding="utf-8")


def test_what_the_log_cannot_say(write_log: Write) -> None:
    tables = offers(np.random.default_rng(1), 100, best=0.5)
    log = write_log(decisions=tables["decisions"], exposures=tables["exposures"])
    report = policy_report(log, "hero")
    assert report.policies[0].rate == NotEstimable("every reward is 0; an interval needs some that differ")
    with pytest.raises(BadInput, match="'nowhere' has no exposed decision"):
        policy_report(log, "nowhere")


def test_offers_are_contrasted_where_both_could_be_chosen(write_log: Write) -> None:
    """`c` is a candidate in the second half alone, in which every offer pays 0.2 more."""
    rng, tables = np.random.default_rng(21), {"decisions": [], "exposures": [], "rewards": []}
    pays = {"a": 0.3, "b": 0.1, "c": 0.2}
    for i in range(6000):
        names = ["a", "b", "c"] if i >= 3000 else ["a", "b"]
        offer = str(rng.choice(names))
        base = {"decision_id": f"d{i}", "time": float(i), "key": "hero"}
        who = {"customer": f"c{i % 700}"}
        chosen = {"propensity": 1 / len(names), "candidates": names, "variant": offer, "policy": "hero@1"}
        tables["decisions"].append({**base, **who, **chosen, "kind": "offer", "reason": "policy"})
        tables["exposures"].append({**base, **who})
        if rng.random() < pays[offer] + 0.2 * (i >= 3000):
            tables["rewards"].append({**base, "reward": 1.0})
    report = policy_report(write_log(**tables), "hero")
    found = {(row.offer, row.against): row.effect for row in report.contrasts}
    for (one, other), truth in {("a", "b"): 0.2, ("a", "c"): 0.1, ("b", "c"): -0.1}.items():
        effect = found[one, other]
        assert isinstance(effect, Effect)
        assert effect.low < truth < effect.high
        assert effect.high - effect.low < 0.15
    Console(quiet=True).print(render_policies(report))


def test_drift_is_stated_and_found_and_its_values_are_means_over_time(write_log: Write) -> None:
    """A policy that shows `a` ever more, mixed row by row with a uniform slice and its own former snapshot."""
    rng, tables = np.random.default_rng(22), {"decisions": [], "exposures": [], "rewards": []}
    n = 8000
    for i in range(n):
        time = i / n
        share = (0.5, 0.2 + 0.6 * (time > 0.5), 0.2 + 0.6 * (time > 0.4))[i % 3]
        offer = "a" if rng.random() < share else "b"
        base = {"decision_id": f"d{i}", "time": float(i), "key": "hero"}
        who = {"customer": f"c{int(rng.integers(500))}"}
        chosen = {"propensity": share if offer == "a" else 1 - share, "candidates": ["a", "b"], "variant": offer}
        policy = ("uniform", f"hero@{int(time > 0.5)}", f"hero@{int(time > 0.4)}")[i % 3]
        tables["decisions"].append({**base, **who, **chosen, "policy": policy, "kind": "offer", "reason": "policy"})
        tables["exposures"].append({**base, **who})
        if rng.random() < (0.04 + 0.16 * time if offer == "a" else 0.1):
            tables["rewards"].append({**base, "reward": 1.0})
    report = policy_report(write_log(**tables), "hero")
    rows = {row.offer: row for row in report.arms}
    for offer, truth in {"a": 0.12, "b": 0.1}.items():
        value = rows[offer].value
        assert isinstance(value, Effect)
        assert value.low < truth < value.high
    assert report.drift.offers == ["a"]
    assert report.drift.p == rows["a"].trend_p
    assert "The reward of a changed meanwhile" in report.drift.statement
    for period, truth in zip(rows["a"].periods, (0.06, 0.10, 0.14, 0.18), strict=True):
        assert isinstance(period.value, Effect)
        assert period.value.low < truth < period.value.high
        assert period.start < period.end
    text = StringIO()
    Console(width=120, file=text).print(render_policies(report))
    assert "value by period" in text.getvalue()


def test_few_customers_make_no_interval_of_an_offer(write_log: Write) -> None:
    """One customer with nine tenths of the decisions: their taste would pass for everyone's."""
    tables = offers(np.random.default_rng(23), 2000, best=0.4)
    for name in ("decisions", "exposures"):
        tables[name] = [
            {**row, "customer": row["customer"] if i % 10 == 0 else "c0"} for i, row in enumerate(tables[name])
        ]
    report = policy_report(write_log(**tables), "hero")
    for row in report.arms:
        assert isinstance(row.value, NotEstimable)
        assert "few customers make most of its decisions" in row.value.not_estimable
