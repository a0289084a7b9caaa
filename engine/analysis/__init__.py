"""From the log, or any table, to what a growth team may believe."""

from engine.analysis.experiment import analyze_experiment
from engine.analysis.policies import policy_report
from engine.analysis.question import ExperimentQuestion, MetricSpec
from engine.analysis.report import Report
from engine.analysis.table import analyze_table

__all__ = ["ExperimentQuestion", "MetricSpec", "Report", "analyze_experiment", "analyze_table", "policy_report"]
