"""Reports of experiments and offers, from the log or from any table."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.analysis.bandits.aa_placement import aa_placement
    from engine.analysis.bandits.policy_report import policy_report
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.report.aa import aa_experiment, aa_table
    from engine.analysis.report.experiment import analyze_experiment
    from engine.analysis.report.model import Report
    from engine.analysis.report.table import analyze_table

__all__ = [
    "ExperimentQuestion",
    "MeasuredMetric",
    "Report",
    "aa_experiment",
    "aa_placement",
    "aa_table",
    "analyze_experiment",
    "analyze_table",
    "policy_report",
]

_HOMES = {
    "ExperimentQuestion": "design.question",
    "MeasuredMetric": "design.question",
    "Report": "report.model",
    "aa_experiment": "report.aa",
    "aa_placement": "bandits.aa_placement",
    "aa_table": "report.aa",
    "analyze_experiment": "report.experiment",
    "analyze_table": "report.table",
    "policy_report": "bandits.policy_report",
}


def __getattr__(name: str) -> object:
    """Imports a name's module on first use, since imports take most of the time of a cold report."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
