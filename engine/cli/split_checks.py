"""A/A checks as a verb: random splits of a table, of an experiment's control, or of a placement's customers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.app import new_table, out
from engine.cli.report_options import SplitOptions, parse_prior, refuse_for_placement
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.analysis.checks.random_splits import Check


def split_table(
    table: str, metrics: Sequence[str], unit: str | None, splits: SplitOptions, *, runs: int, alpha: float | None
) -> "Sequence[Check]":
    """The checks of a table's metrics."""
    from engine.analysis import aa_table

    return aa_table(
        table,
        metrics=metrics,
        unit=unit,
        runs=runs,
        alpha=alpha,
        method=splits.method or "fixed",
        prior=parse_prior(splits.prior),
        share=0.5 if splits.share is None else splits.share,
        looks=splits.looks,
    )


def split_log(
    key: str, settings: Settings, log: Path, splits: SplitOptions, *, runs: int, alpha: float | None
) -> "Sequence[Check]":
    """The checks of an experiment's metrics, or of a placement's offers."""
    from msgspec.structs import replace

    from engine.analysis import aa_experiment, aa_placement
    from engine.analysis.design.question_from_plan import build_question
    from engine.analysis.stats.bayes import Prior
    from engine.catalog import load_plan

    plan = load_plan(settings.experiments, settings.plans)
    windows = [one.reward.window for (_, placement), one in plan.selections.items() if placement == key]
    if key not in plan.experiments and windows:
        given = {name: getattr(splits, name) for name in ("method", "share", "looks", "prior")}
        refuse_for_placement(key, given)
        return aa_placement(log, key, alpha=0.05 if alpha is None else alpha, window=max(windows), runs=runs)
    question, metrics = build_question(plan, key)
    options: dict[str, object] = {"method": splits.method, "alpha": alpha}
    if (prior := parse_prior(splits.prior)) is not None:
        options["prior"] = Prior(*prior)
    inference = replace(question.inference, **{name: value for name, value in options.items() if value is not None})
    asked = replace(question, inference=inference)
    return aa_experiment(asked, metrics, log, runs=runs, looks=splits.looks, share=splits.share)


def print_checks(checks: "Sequence[Check]") -> None:
    """Print a line for each check, with its rates."""
    from engine.analysis.stats.estimate import NotEstimable

    figures = ["estimated", "false positives", "coverage", "false ships"]
    table = new_table("metric", "split", "looks", *figures, "ok", figures=["split", "looks", *figures])
    for check in checks:
        cells = []
        for part in (check.false_positives, check.coverage, check.false_ships):
            if isinstance(part, NotEstimable):
                cells.append(part.not_estimable)
            else:
                cells.append(f"{part.share:.1%} ({part.low:.1%} to {part.high:.1%})")
        split = f"{100 * check.share:.3g} : {100 * (1 - check.share):.3g}"
        verdict = "yes" if check.ok else "no"
        table.add_row(check.metric, split, str(check.looks), f"{check.estimated:.0%}", *cells, verdict)
    out.print(table)
    for note in dict.fromkeys(check.note for check in checks if check.note):
        out.print(note, soft_wrap=True)
