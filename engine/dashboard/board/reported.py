"""The subjects of experiment pages: experiments, flags, and rules of flags that are experiments."""

from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.flags import RULE, rule_experiments
from engine.catalog.spec.folder import Specs


def reported_specs(specs: Specs) -> dict[str, ExperimentSpec]:
    """The experiments and flags with a report, by key; each flag precedes its rules, `FLAG#RULE`."""
    found: dict[str, ExperimentSpec] = {}
    for key, spec in specs.experiments.items():
        found[key] = spec
        found |= {rule.key: rule for rule in rule_experiments(spec) if is_reported(rule)}
    return found


def is_reported(rule: ExperimentSpec) -> bool:
    """Whether a rule of a flag has its own page: it compares variants or names metrics."""
    return rule.kind == "experiment" or rule.metrics is not None


def file_key(key: str) -> str:
    """The key in the file: for a rule its flag's, which the kill switch also pauses."""
    return key.partition(RULE)[0]
