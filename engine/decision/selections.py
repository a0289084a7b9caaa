"""Which selection chooses at a placement: its own, an experiment's variant's, or a campaign's."""

from collections.abc import Mapping

from engine.catalog.plan.plan import Plan, Selection
from engine.decision.experiments import Assigned
from engine.vocabulary import CAMPAIGN_CHANNEL


def selection_at(plan: Plan, channel: str, placement: str, assigned: Mapping[str, Assigned]) -> Selection:
    """The placement's selection, or that of the variant which the customer has in an experiment on it."""
    if channel == CAMPAIGN_CHANNEL:
        return plan.campaigns[placement].selection
    selection = plan.selections[channel, placement]
    for experiment in plan.by_placement.get((channel, placement), ()):
        selection = assigned[experiment.key].selection or selection
    return selection
