"""`make calibrate`: writes level and coverage of every cell of `cells` into `docs/explanation/calibration.md`.

`RUNS=300` sets the runs of a cell, `TO=FILE` another page.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from sys import stdout

import numpy as np

from tests.statistical.cells import Cell, alarms_of_family, days_to_a_verdict, run_cell
from tests.statistical.outcomes import OUTCOMES, SPLITS, TRAFFIC
from tests.statistical.quantile_cells import (
    LEVELS,
    QUANTILE_SPLITS,
    QUANTILE_TRAFFIC,
    QuantileCell,
    run_quantile_cell,
)

RUNS = int(os.environ.get("RUNS", "2000"))
PAGE = Path(os.environ.get("TO", "docs/explanation/calibration.md"))
LONG = [("conversion 3.0%", 50, 0.1), ("revenue, 10.0% buy, sigma 1", 500, 0.9), ("revenue with CUPED", 500, 0.5)]
POWER = [
    ("conversion 3.0%", 50, 1.0),
    ("conversion 3.0%", 500, 0.3),
    ("conversion 30.0%", 500, 0.1),
    ("revenue, 3.0% buy, sigma 1", 500, 0.6),
    ("revenue, 10.0% buy, sigma 1", 50, 1.0),
    ("revenue, 10.0% buy, sigma 1", 500, 0.3),
    ("revenue, 10.0% buy, sigma 1.5", 2000, 0.3),
    ("revenue with CUPED", 500, 0.3),
    ("orders per session", 500, 0.15),
    ("orders per customer", 50, 0.3),
]
"""Outcome, units a day and effect of the experiments whose days to a verdict are compared."""
QUANTILE_RUNS = RUNS // 4
Row = tuple[str, int]
"""An outcome and its units a day."""
MARK = "<!-- figures -->"


def run_row(name: str, daily: int, runs: int = RUNS, days: int = 30, splits: tuple[float, ...] = ()) -> list[Cell]:
    """The cells of one outcome and traffic, one per split."""
    return [
        run_cell(np.random.default_rng([20_261_129, daily, round(100 * at)]), OUTCOMES[name], daily, at, runs, days)
        for at in splits or SPLITS
    ]


def run_families(name: str, daily: int, runs: int = RUNS) -> list[float | None]:
    """The false alarms of two adjusted variants by split."""
    return [
        alarms_of_family(
            np.random.default_rng([20_261_130, daily, round(100 * at)]), OUTCOMES[name], daily, at, runs, 30
        )
        for at in SPLITS
    ]


def run_power(name: str, daily: int, effect: float, runs: int = RUNS) -> tuple[float, float]:
    """The mean days to a verdict of the report and of a plain sequence, at most 60."""
    return days_to_a_verdict(np.random.default_rng([20_261_131, daily]), OUTCOMES[name], daily, effect, runs, 60)


def run_quantiles(level: float, daily: int, runs: int = QUANTILE_RUNS) -> list[QuantileCell]:
    """The cells of one quantile and traffic, one per split."""
    return [
        run_quantile_cell(np.random.default_rng([20_261_132, daily, round(100 * at)]), level, daily, at, runs)
        for at in QUANTILE_SPLITS
    ]


def family_lines(families: dict[Row, list[float | None]]) -> list[str]:
    names = [f"{round(100 * at)} : {round(100 * (1 - at))}" for at in SPLITS]
    known = [rate for row in families.values() for rate in row if rate is not None]
    lines = ["## False alarms of three variants, adjusted, %", ""]
    lines += [
        "Control and two variants, which have equal parts of the rest; any of the 30 looks at either of them.",
        f"{len(known)} cells have estimates, the highest rate is {percent(max(known))} %.",
        "",
        f"| outcome | a day | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(SPLITS)}",
    ]
    rows = [f"| {name} | {daily} | {' | '.join(map(percent, row))} |" for (name, daily), row in families.items()]
    return [*lines, *rows, ""]


def power_lines(power: dict[tuple[str, int, float], tuple[float, float]]) -> list[str]:
    lines = ["## Days to a verdict of even arms", ""]
    lines += [
        "Mean days, of at most 60, until the anytime interval excludes zero: as reported, and by a plain confidence",
        "sequence with each arm's own variance and no least number of outcomes, which fails where arms are uneven.",
        "",
        "| outcome | a day | effect | reported | plain | more units |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {name} | {daily} | {effect:+.0%} | {ours:.1f} | {plain:.1f} | {ours / plain - 1:+.1%} |"
        for (name, daily, effect), (ours, plain) in power.items()
    ]
    return [*lines, *rows, ""]


def quantile_lines(cells: dict[tuple[float, int], list[QuantileCell]]) -> list[str]:
    names = [f"{round(100 * at)} : {round(100 * (1 - at))}" for at in QUANTILE_SPLITS]
    lines = ["## Quantiles of log-normal values", ""]
    lines += [
        f"{QUANTILE_RUNS} runs a cell: false alarms at any of ten looks in 30 days, %, then coverage at a single look.",
        "",
        f"| level | a day | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(QUANTILE_SPLITS)}",
    ]
    rows = [
        f"| {level} | {daily} | {' | '.join(_quantile_text(cell) for cell in row)} |"
        for (level, daily), row in cells.items()
    ]
    return [*lines, *rows, ""]


def _quantile_text(cell: QuantileCell) -> str:
    if cell.estimable < 0.05:
        return "-"
    alarms = percent(cell.alarms)
    return f"{alarms}; {percent(min(cell.fixed))} to {percent(max(cell.fixed))}" if cell.fixed else alarms


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def spread(cell: Cell) -> str:
    return f"{percent(min(cell.fixed))} to {percent(max(cell.fixed))}" if cell.fixed else "-"


def table(title: str, rows: dict[Row, list[Cell]], show: object) -> list[str]:
    """A Markdown table with a row per outcome and traffic and a column per split."""
    assert callable(show)
    names = [f"{round(100 * at)} : {round(100 * (1 - at))}" for at in SPLITS]
    lines = [f"## {title}", "", f"| outcome | a day | {' | '.join(names)} |", f"|---|---|{'---|' * len(SPLITS)}"]
    lines += [f"| {name} | {daily} | {' | '.join(map(show, cells))} |" for (name, daily), cells in rows.items()]
    return [*lines, ""]


def summary(rows: dict[Row, list[Cell]], seconds: float) -> list[str]:
    cells = [cell for row in rows.values() for cell in row]
    alarms = [cell.alarms for cell in cells if cell.alarms is not None]
    anytime = [cell.anytime for cell in cells if cell.anytime is not None]
    fixed = [rate for cell in cells for rate in cell.fixed or []]
    below = sum(rate < 0.94 - 3 * (0.06 * 0.94 / RUNS) ** 0.5 for rate in fixed)
    above = sum(rate > 0.965 + 3 * (0.035 * 0.965 / RUNS) ** 0.5 for rate in fixed)
    error = 3 * (0.05 * 0.95 / RUNS) ** 0.5
    lines = [
        f"{len(cells)} cells of {RUNS} runs, {seconds / 60:.0f} minutes.",
        f"Three standard errors of a rate of 5 % are {100 * error:.1f} %.",
        "",
        f"- Any-look false alarms: {len(alarms)} cells have estimates, the highest rate is {100 * max(alarms):.1f} %;",
        f"  outcomes are too few in {len(cells) - len(alarms)} ({100 * (1 - len(alarms) / len(cells)):.0f} %).",
        f"- Any-look coverage of the anytime intervals: the lowest is {100 * min(anytime):.1f} %.",
        f"- Coverage at a single look: {len(fixed)} rates from {100 * min(fixed):.1f} to {100 * max(fixed):.1f} %;",
        f"  {below} are below 94 %, {above} above 96.5 %, each by more than three standard errors.",
        f"  Outcomes are too few in {sum(cell.fixed is None for cell in cells)} cells.",
    ]
    return [*lines, ""]


@dataclass
class Found:
    """What was simulated, and how long it took."""

    rows: dict[Row, list[Cell]]
    months: list[Cell]
    families: dict[Row, list[float | None]]
    days: dict[tuple[str, int, float], tuple[float, float]]
    quantiles: dict[tuple[float, int], list[QuantileCell]]
    seconds: float


def simulate() -> Found:
    """Run all cells, `PROCESSES` at once (two without it), and show the false alarms of each row as it ends."""
    started, grid = time.monotonic(), [(name, daily) for name in OUTCOMES for daily in TRAFFIC]
    rows: dict[Row, list[Cell]] = {}
    with ProcessPoolExecutor(int(os.environ.get("PROCESSES", "2"))) as pool:
        jobs = {key: pool.submit(run_row, *key) for key in grid}
        long = [pool.submit(run_row, name, daily, RUNS, 180, (at,)) for name, daily, at in LONG]
        families = {key: pool.submit(run_families, *key) for key in grid}
        days = {key: pool.submit(run_power, *key) for key in POWER}
        quantiles = {key: pool.submit(run_quantiles, *key) for key in product(LEVELS, QUANTILE_TRAFFIC)}
        for key, job in jobs.items():
            rows[key] = job.result()
            stdout.write(f"{key[0]}, {key[1]} a day: {' '.join(percent(cell.alarms) for cell in rows[key])}\n")
            stdout.flush()
        return Found(
            rows,
            [job.result()[0] for job in long],
            {key: job.result() for key, job in families.items()},
            {key: job.result() for key, job in days.items()},
            {key: job.result() for key, job in quantiles.items()},
            time.monotonic() - started,
        )


def write_page(found: Found, page: Path = PAGE) -> None:
    """Replace what follows the mark on the page by the figures."""
    rows = found.rows
    lines = summary(rows, found.seconds)
    lines += table("False alarms at any of 30 daily looks, %", rows, lambda cell: percent(cell.alarms))
    lines += ["Over 180 days:", ""]
    lines += [
        f"- {name}, {daily} a day, {round(100 * at)} : {round(100 * (1 - at))}: {percent(cell.alarms)} %, "
        f"coverage {percent(cell.anytime)} %"
        for (name, daily, at), cell in zip(LONG, found.months, strict=True)
    ]
    lines += [
        "",
        *table("Anytime intervals that contain the truth at all looks, %", rows, lambda c: percent(c.anytime)),
    ]
    lines += table("Coverage at a single look after 30 days, lowest and highest, %", rows, spread)
    lines += family_lines(found.families) + power_lines(found.days) + quantile_lines(found.quantiles)
    head = page.read_text().split(MARK)[0] if page.exists() else ""
    page.write_text("\n".join([head + MARK, "", *lines]).rstrip() + "\n")


if __name__ == "__main__":
    write_page(simulate())
