"""Tables of experiments whose reports are hard to get right, and how often their intervals hold the true effect.

    python -m tests.statistical.table_worlds [--runs N]

A world draws one table and knows its truth; the report is that of `analyze_table`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.analysis import analyze_table
from engine.analysis.stats.estimate import Effect

Floats = NDArray[np.float64]
Table = dict[str, object]
NAMES = np.array(["a", "b", "c"])


@dataclass(frozen=True, kw_only=True)
class TableWorld:
    """How a table comes about: `draw` has its columns, `truth` the absolute and the relative effect of `variant`."""

    draw: Callable[[np.random.Generator], Table]
    metric: str
    truth: tuple[float, float]
    control: str = "a"
    variant: str = "b"
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class TableRates:
    """Of all runs: the shares with an absolute and a relative interval; and of these those that hold the truth."""

    estimated: float
    related: float
    absolute: float
    relative: float
    verdicts: dict[str, int]


def run_world(world: TableWorld, runs: int, *, method: str = "fixed", seed: int = 1) -> TableRates:
    """Report `runs` tables of a world."""
    made, held, of_ratio, ratios = 0, 0, 0, 0
    verdicts: dict[str, int] = {}
    for run in range(runs):
        columns = world.draw(np.random.default_rng((seed, run)))
        options: dict[str, Any] = dict(world.options)
        report = analyze_table(
            pa.table(columns),
            variant="variant",
            control=world.control,
            metrics=[world.metric],
            method=method,
            **options,
        )
        verdict = report.recommendation.verdict
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        row = next(row for row in report.metrics if row.variant == world.variant)
        if isinstance(row.absolute, Effect):
            made += 1
            held += row.absolute.low <= world.truth[0] <= row.absolute.high
        if isinstance(row.relative, Effect):
            ratios += 1
            of_ratio += row.relative.low <= world.truth[1] <= row.relative.high
    return TableRates(made / runs, ratios / runs, held / max(made, 1), of_ratio / max(ratios, 1), verdicts)


def pick(rng: np.random.Generator, n: int, weights: tuple[float, ...]) -> NDArray[np.intp]:
    """The variant of each unit."""
    return rng.choice(len(weights), n, p=np.array(weights) / sum(weights))


def planned(*weights: float) -> dict[str, object]:
    """The planned shares of a report."""
    return {"weights": dict(zip(NAMES.tolist(), weights, strict=False))}


def overdispersed(n: int, share: float, effect: float) -> TableWorld:
    """Orders of customers of whom few order often: negative binomial, mean 0.5, dispersion 0.15."""

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, (share, 1 - share))
        rate = rng.gamma(0.15, 0.5 / 0.15, n) * (1 + effect * arm)
        return {"variant": NAMES[arm], "y": rng.poisson(rate).astype(float)}

    return TableWorld(draw=draw, metric="mean:y", truth=(0.5 * effect, effect), options=planned(share, 1 - share))


def refunds(n: int, share: float, effect: float) -> TableWorld:
    """Revenue of which three tenths are sent back, some of it bought before the experiment."""
    mean = 0.2 * (0.7 - 0.3) * math.exp(0.5)

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, (share, 1 - share))
        size = np.exp(rng.standard_normal(n)) * (rng.random(n) < 0.2) * (1 + effect * arm)
        return {"variant": NAMES[arm], "y": size * np.where(rng.random(n) < 0.3, -1, 1)}

    return TableWorld(draw=draw, metric="mean:y", truth=(mean * effect, effect), options=planned(share, 1 - share))


def losses(n: int, share: float) -> TableWorld:
    """Margins that are negative on average; the variant loses a tenth less."""

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, (share, 1 - share))
        y = -rng.gamma(2.0, 1.0, n) * (1 - 0.1 * arm) + 0.5 * rng.standard_normal(n)
        return {"variant": NAMES[arm], "y": y}

    return TableWorld(draw=draw, metric="mean:y", truth=(0.2, 0.1), options=planned(share, 1 - share))


def missing_covariates(n: int, share: float, effect: float, missing: float, adjust: str = "cuped") -> TableWorld:
    """New customers have no past: their covariate is missing, and they spend less."""
    mean = (1 - missing) * 4.0 + missing * 1.0

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, (share, 1 - share))
        past = rng.gamma(2.0, 2.0, n)
        new = rng.random(n) < missing
        level = np.where(new, 1.0, past)
        y = rng.gamma(1.0, 1.0, n) * level * (1 + effect * arm)
        return {"variant": NAMES[arm], "y": y, "x": pa.array(past, mask=new)}

    options = {**planned(share, 1 - share), "adjust": adjust}
    return TableWorld(draw=draw, metric="mean:y|x", truth=(mean * effect, effect), options=options)


def stores(units: int, share: float, effect: float, spread: float = 1.0) -> TableWorld:
    """Rows of stores of unlike size, each with a level of its own; stores are assigned."""

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, units, (share, 1 - share))
        size = np.maximum(rng.lognormal(2.5, spread, units).astype(int), 1)
        level = rng.gamma(10.0, 0.4, units)
        of = np.repeat(np.arange(units), size)
        y = rng.gamma(1.0, 1.0, of.size) * level[of] * (1 + effect * arm[of])
        return {"variant": NAMES[arm[of]], "store": of, "y": y}

    options = {**planned(share, 1 - share), "unit": "store"}
    return TableWorld(draw=draw, metric="mean:y", truth=(4.0 * effect, effect), options=options)


def strata(n: int, share: float, effect: float, tiny: float) -> TableWorld:
    """Three strata with levels of 1, 5 and 50; the last has a share `tiny` of the units."""
    sizes = np.array([0.7, 0.3 - tiny, tiny])
    levels = np.array([1.0, 5.0, 50.0])

    def draw(rng: np.random.Generator) -> Table:
        arm, tier = pick(rng, n, (share, 1 - share)), rng.choice(3, n, p=sizes)
        y = rng.gamma(2.0, 0.5, n) * levels[tier] * (1 + effect * arm)
        return {"variant": NAMES[arm], "y": y, "tier": tier}

    options = {**planned(share, 1 - share), "stratum": "tier"}
    mean = float(sizes @ levels)
    return TableWorld(draw=draw, metric="mean:y", truth=(mean * effect, effect), options=options)


def three(n: int, weights: tuple[float, float, float], effect: float, control: str = "a") -> TableWorld:
    """Log-normal revenue of a tenth in three variants; the last one earns more."""
    mean = 0.1 * math.exp(0.5)

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, weights)
        y = np.exp(rng.standard_normal(n)) * (rng.random(n) < 0.1) * np.where(arm == 2, 1 + effect, 1)
        return {"variant": NAMES[arm], "y": y}

    truth = (mean * effect, effect) if control == "a" else (-mean * effect, 1 / (1 + effect) - 1)
    return TableWorld(
        draw=draw,
        metric="mean:y",
        truth=truth,
        control=control,
        variant="c" if control == "a" else "a",
        options=planned(*weights),
    )


def net_promoters(n: int, share: float, answered: float, effect: float) -> TableWorld:
    """Net promoter scores of the few who answer, once or several times: sums of scores over answers."""

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, (share, 1 - share))
        answers = rng.binomial(3, answered / 3, n)
        happy = np.clip(rng.normal(0.4, 0.15, n) + effect * arm, 0, 0.69)
        promoters = rng.binomial(answers, happy)
        detractors = rng.binomial(answers - promoters, np.minimum(0.3 / (1 - happy), 1.0))
        return {"variant": NAMES[arm], "y": 100.0 * (promoters - detractors), "n": answers.astype(float)}

    rng = np.random.default_rng(0)
    tastes = rng.normal(0.4, 0.15, 4_000_000)
    before, after = (float(np.clip(tastes + e, 0, 0.69).mean()) for e in (0.0, effect))
    base = 100 * (before - 0.3)
    gain = 100 * (after - before)
    return TableWorld(draw=draw, metric="ratio:y/n", truth=(gain, gain / base), options=planned(share, 1 - share))


def tied_quantile(n: int, share: float, shift: float) -> TableWorld:
    """The 90 % quantile of waits in tenths of a second, which have many ties."""

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, (share, 1 - share))
        return {"variant": NAMES[arm], "y": np.round(rng.gamma(2.0, 1.0, n) + shift * arm, 1)}

    from scipy.stats import gamma  # noqa: PLC0415

    at = round(float(gamma.ppf(0.9, 2.0)), 1)
    return TableWorld(draw=draw, metric="quantile:y@0.9", truth=(shift, shift / at), options=planned(share, 1 - share))


def skewed_ratio(n: int, share: float, effect: float) -> TableWorld:
    """Revenue per session, of customers with Pareto numbers of sessions; the sessions of an order are more valuable."""

    def draw(rng: np.random.Generator) -> Table:
        arm = pick(rng, n, (share, 1 - share))
        sessions = np.minimum(1 + rng.pareto(2.5, n).astype(int), 50)
        orders = rng.binomial(sessions, 0.15)
        revenue = orders * np.exp(0.8 * rng.standard_normal(n)) * (1 + effect * arm)
        return {"variant": NAMES[arm], "y": revenue, "n": sessions.astype(float)}

    mean = 0.15 * math.exp(0.32)
    return TableWorld(draw=draw, metric="ratio:y/n", truth=(mean * effect, effect), options=planned(share, 1 - share))


WORLDS: dict[str, TableWorld] = {
    "overdispersed orders 50:50": overdispersed(3000, 0.5, 0.0),
    "overdispersed orders 10:90, +20 %": overdispersed(4000, 0.1, 0.2),
    "overdispersed orders 90:10, +100 %": overdispersed(4000, 0.9, 1.0),
    "refunds of 30 %, 50:50, +20 %": refunds(4000, 0.5, 0.2),
    "refunds of 30 %, 10:90, +50 %": refunds(6000, 0.1, 0.5),
    "losses, 20:80": losses(1500, 0.2),
    "losses, 50:50": losses(400, 0.5),
    "40 % without a covariate, 50:50": missing_covariates(2000, 0.5, 0.0, 0.4),
    "40 % without a covariate, 10:90, +30 %": missing_covariates(3000, 0.1, 0.3, 0.4),
    "40 % without a covariate, lin, 10:90, +30 %": missing_covariates(3000, 0.1, 0.3, 0.4, "lin"),
    "95 % without a covariate, 50:50": missing_covariates(1000, 0.5, 0.1, 0.95),
    "24 stores, 50:50": stores(24, 0.5, 0.0),
    "60 stores, 20:80, +10 %": stores(60, 0.2, 0.1),
    "200 very unlike stores, 10:90": stores(200, 0.1, 0.1, 1.5),
    "a tiny stratum, 50:50": strata(1500, 0.5, 0.1, 0.004),
    "a tiny stratum, 10:90": strata(1500, 0.1, 0.1, 0.004),
    "1:1:8, +30 %": three(8000, (0.1, 0.1, 0.8), 0.3),
    "1:2:7, +30 %": three(8000, (0.1, 0.2, 0.7), 0.3),
    "8:1:1, +30 %": three(8000, (0.8, 0.1, 0.1), 0.3),
    "1:1:8, the large one is control": three(8000, (0.1, 0.1, 0.8), 0.3, control="c"),
    "promoters, 10 % answer, 50:50": net_promoters(4000, 0.5, 0.1, 0.1),
    "promoters, 10 % answer, 10:90": net_promoters(4000, 0.1, 0.1, 0.1),
    "promoters, 1 % answer, 50:50": net_promoters(4000, 0.5, 0.01, 0.0),
    "tied waits, 50:50": tied_quantile(2000, 0.5, 0.0),
    "tied waits, 10:90, +0.5 s": tied_quantile(3000, 0.1, 0.5),
    "revenue per session, 10:90, +30 %": skewed_ratio(5000, 0.1, 0.3),
    "revenue per session, 99:1": skewed_ratio(20000, 0.99, 0.0),
}


def main(runs: int) -> int:
    """Print the rates of each world; 1 if one that has intervals in most runs is three standard errors below 94 %."""
    below = False
    for name, world in WORLDS.items():
        found = run_world(world, runs)
        shares = f"{found.estimated:.0%} and {found.related:.0%} estimated"
        rates = f"{shares}, {found.absolute:.1%} and {found.relative:.1%} covered"
        sys.stdout.write(f"{name}: {rates}\n")
        least = 0.94 - 3 * math.sqrt(0.06 * 0.94 / max(runs * found.estimated, 1))
        below |= found.estimated > 0.5 and found.absolute < least
        below |= found.related > 0.5 and found.relative < least
    return int(below)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=500)
    sys.exit(main(parser.parse_args().runs))
