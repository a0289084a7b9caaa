"""A report as a data frame: one row per metric and variant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable
from engine.errors import BadInput

if TYPE_CHECKING:
    from types import ModuleType

    import pandas as pd
    import polars as pl

    from engine.analysis.report.model import MetricReport, Report

    Cell = str | float | None

COLUMNS: dict[str, type[str | float]] = {
    "experiment": str,
    "metric": str,
    "kind": str,
    "role": str,
    "variant": str,
    "control": str,
    "method": str,
    "units": float,
    "control_units": float,
    "mean": float,
    "control_mean": float,
    **{f"{scale}{part}": float for scale in ("absolute", "relative") for part in ("", "_low", "_high", "_se", "_p")},
    "adjusted_p": float,
    "chance_to_win": float,
    "expected_loss": float,
    "variance_reduction": float,
    "guard": str,
    "not_estimable": str,
}
"""The columns and their types. A number without an estimate is null, and `not_estimable` is the reason."""


def import_library(name: str, caller: str) -> ModuleType:
    """Imports an optional library.

    Raises:
        BadInput: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise BadInput(f"{caller} needs {name}, which is not installed; run pip install {name}") from error


def pandas_frame(report: Report) -> pd.DataFrame:
    """The rows as a pandas frame.

    Raises:
        BadInput: if pandas is not installed.
    """
    pandas = import_library("pandas", "to_pandas()")
    columns = report_columns(report)
    dtypes = {name: "object" if kind is str else "float64" for name, kind in COLUMNS.items()}
    return pandas.DataFrame({name: pandas.Series(cells, dtype=dtypes[name]) for name, cells in columns.items()})


def polars_frame(report: Report) -> pl.DataFrame:
    """The rows as a polars frame.

    Raises:
        BadInput: if polars is not installed.
    """
    polars = import_library("polars", "to_polars()")
    schema = {name: polars.String if kind is str else polars.Float64 for name, kind in COLUMNS.items()}
    frame: pl.DataFrame = polars.DataFrame(report_columns(report), schema=schema)
    return frame


def report_columns(report: Report) -> dict[str, list[Cell]]:
    """The cells of each column of `COLUMNS`, a row per metric and variant."""
    rows = [_row(report, metric) for metric in report.metrics]
    return {name: [row.get(name) for row in rows] for name in COLUMNS}


def _row(report: Report, metric: MetricReport) -> dict[str, Cell]:
    control, variant = report.control, metric.variant
    reason = next((part for part in (metric.absolute, metric.relative) if isinstance(part, NotEstimable)), None)
    return {
        "experiment": report.experiment,
        "metric": metric.metric,
        "kind": metric.kind,
        "role": metric.role,
        "variant": variant,
        "control": control,
        "method": metric.method,
        "units": metric.units.get(variant),
        "control_units": metric.units.get(control),
        "mean": metric.mean.get(variant),
        "control_mean": metric.mean.get(control),
        **_effect_cells("absolute", metric.absolute),
        **_effect_cells("relative", metric.relative),
        "adjusted_p": metric.adjusted_p,
        **_posterior_cells(metric.bayes),
        "variance_reduction": metric.variance_reduction,
        "guard": metric.guard,
        "not_estimable": None if reason is None else reason.not_estimable,
    }


def _effect_cells(scale: str, effect: Effect | NotEstimable) -> dict[str, Cell]:
    if isinstance(effect, NotEstimable):
        return {}
    return {
        scale: effect.estimate,
        f"{scale}_low": effect.low,
        f"{scale}_high": effect.high,
        f"{scale}_se": effect.se,
        f"{scale}_p": effect.p,
    }


def _posterior_cells(posterior: Bayes | NotEstimable) -> dict[str, Cell]:
    if isinstance(posterior, NotEstimable):
        return {}
    return {"chance_to_win": posterior.chance_to_win, "expected_loss": posterior.expected_loss}
