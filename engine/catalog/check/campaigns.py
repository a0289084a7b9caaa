"""Checks campaigns: defined names, channels that can reach customers, and a policy that can learn."""

from collections.abc import Iterator

from engine.catalog.check.budgets import check_shared_budget
from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.check.offers import check_zone
from engine.catalog.check.policies import check_reward, describe_exhausted_floor
from engine.catalog.spec.experiment import USUAL_FLOOR
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import CampaignSpec
from engine.errors import Problem


def campaign_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems of `campaigns.yaml`."""
    file = f"{specs.folder}/campaigns.yaml"
    for index, spec in enumerate(specs.campaigns.values()):
        for path, message in _check_campaign(specs, spec, known):
            yield Problem(file, f"campaigns[{index}].{path}", message)
    for index, shared in enumerate(specs.budgets.values()):
        for path, message in check_shared_budget(specs, shared):
            yield Problem(file, f"budgets[{index}].{path}", message)


def _check_campaign(specs: Specs, spec: CampaignSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of one campaign."""
    taken = {**dict.fromkeys(known.placements or (), "a placement"), **dict.fromkeys(known.experiments, "a file")}
    taken |= dict.fromkeys(specs.selections, "a file") | dict.fromkeys(specs.moments, "a moment")
    if spec.key in taken:
        yield "key", f"{spec.key!r} is the key of {taken[spec.key]} too, and reports name both by it; give it another"
    if spec.start and spec.end and spec.end <= spec.start:
        yield "end", f"{spec.end.isoformat()} is not after the start; move one of them"
    if spec.schedule.at != sorted(set(spec.schedule.at)):
        yield "schedule.at", "does not rise; give each time once, the earliest first"
    yield from check_zone("schedule.zone", spec.schedule.zone, customer=True)
    yield from _check_channels(specs, spec, known)
    yield from _check_learning(specs, spec, known)


def _check_channels(specs: Specs, spec: CampaignSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield repeated or inbound channels, and placements that a channel does not have."""
    outbound = {channel.key: channel.outbound for channel in specs.channels.channels}
    placements = {place.key: place.channels for place in specs.channels.placements}
    seen: set[str] = set()
    for index, reach in enumerate(spec.channels):
        path = f"channels[{index}]"
        yield from check_defined(f"{path}.channel", reach.channel, known.channels, "channels.yaml")
        yield from check_defined(f"{path}.placement", reach.placement, known.placements, "channels.yaml")
        if not outbound.get(reach.channel, True):
            able = ", ".join(key for key, is_outbound in outbound.items() if is_outbound)
            use = f"or use one of {able}" if able else "no channel has it yet"
            message = f"{reach.channel!r} does not write to customers; give it 'outbound: true' in channels.yaml, {use}"
            yield f"{path}.channel", message
        if reach.channel in seen:
            yield f"{path}.channel", f"{reach.channel!r} is given twice; name it once"
        seen.add(reach.channel)
        if reach.placement in placements and reach.channel not in placements[reach.placement]:
            where = ", ".join(placements[reach.placement])
            yield f"{path}.placement", f"{reach.placement!r} is not on {reach.channel}; it is on {where}"


def _check_learning(specs: Specs, spec: CampaignSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of the policy and its reward."""
    yield from check_defined("reward.metric", spec.reward.metric, known.metrics, "metrics.yaml")
    metric = next((one for one in specs.metrics.metrics if one.key == spec.reward.metric), None)
    if metric is not None:
        yield from check_reward(spec.policy, metric, "policy")
    for name in ("pool", "attributes"):
        if getattr(spec.policy, name):
            yield f"policy.{name}", "has no effect in a campaign, whose arms are channels and hours; leave it out"
    arms = len(spec.channels) * len(spec.schedule.at) + 1
    if spec.policy.floor > USUAL_FLOOR and spec.policy.floor * arms >= 1:
        yield "policy.floor", describe_exhausted_floor(spec.policy, arms)
