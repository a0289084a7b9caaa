"""From the log, or any table, to what a growth team may believe."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.analysis.aa import aa_experiment, aa_table
    from engine.analysis.experiment import analyze_experiment
    from engine.analysis.policies import policy_report
    from engine.analysis.question import ExperimentQuestion, MetricSpec
    from engine.analysis.report import Report
    from engine.analysis.table import analyze_table

__all__ = [
    "ExperimentQuestion",
    "MetricSpec",
    "Report",
    "aa_experiment",
    "aa_table",
    "analyze_experiment",
    "analyze_table",
    "policy_report",
]

_HOMES = {
    "ExperimentQuestion": "question",
    "MetricSpec": "question",
    "Report": "report",
    "aa_experiment": "aa",
    "aa_table": "aa",
    "analyze_experiment": "experiment",
    "analyze_table": "table",
    "policy_report": "policies",
}


def __getattr__(name: str) -> object:
    """Imports a name's module when it is asked for: a cold report is mostly imports."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
