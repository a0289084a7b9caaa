"""Checks references between files: names are defined, ranges do not overlap, references have no cycle."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise

from engine.catalog.check.campaigns import campaign_problems
from engine.catalog.check.decode import FieldProblem, suggest_name
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.check.flags import flag_problems, prerequisite_problems
from engine.catalog.check.metrics import kpi_problems, metric_problems, reward_problems
from engine.catalog.check.offers import offer_problems
from engine.catalog.check.sources import exposures_problems, source_problems
from engine.catalog.check.traits import rfm_problems, trait_problems
from engine.catalog.check.units import unit_problems
from engine.catalog.feeds.check import feed_problems
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.flags import RULE
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.hashed import USUAL_BUCKETS
from engine.catalog.spec.metrics import MetricsFile, is_in_money
from engine.catalog.spec.offer import OffersSpec, SelectionSpec
from engine.catalog.spec.ramp import HeldRamp, timed_steps
from engine.catalog.spec.segments import find_cycle, groups_in, segments_in
from engine.errors import Problem
from engine.metric_kinds import METRIC_KINDS


def reference_problems(specs: Specs, unread: Collection[str] = ()) -> Iterator[Problem]:
    """Yield every invalid reference between specs.

    Args:
        specs: the specs that could be read.
        unread: the names of the files that could not; a name that they may define is not reported.
    """
    known = DefinedNames(specs, unread)
    for file, prefix, spec in specs.all_experiments():
        for path, message in _check_experiment(specs, spec, known, is_rule=bool(prefix)):
            yield Problem(file, prefix + path, message)
    yield from flag_problems(specs)
    for selection in specs.selections.values():
        for path, message in _check_selection(specs, selection, known):
            yield Problem(specs.files[selection.key], path, message)
    yield from _check_offers(specs, known)
    yield from offer_problems(specs, known)
    yield from campaign_problems(specs, known)
    yield from feed_problems(specs, known)
    yield from _check_single_files(specs)
    yield from source_problems(specs)
    yield from metric_problems(specs, known)
    yield from kpi_problems(specs, known)
    yield from trait_problems(specs, known)
    yield from rfm_problems(specs)
    yield from _check_receivers(specs)
    yield from unit_problems(specs, known)
    yield from _check_placements(specs, known)
    yield from _check_layers(specs, known)
    yield from _check_cycles(specs, known)


def _check_segments(known: DefinedNames, path: str, condition: object) -> Iterator[FieldProblem]:
    """Yield undefined segments and groups in a condition."""
    for name in segments_in(condition):
        yield from check_defined(path, name, known.conditions, "the conditions of segments.yaml")
    for name in groups_in(condition):
        yield from check_defined(path, name, known.lists, "the lists of values in segments.yaml")


def _check_experiment(
    specs: Specs, spec: ExperimentSpec, known: DefinedNames, *, is_rule: bool
) -> Iterator[FieldProblem]:
    """Yield the problems of one experiment: undefined names, variants, ranges, schedule, prerequisites."""
    if spec.metrics:
        yield from check_defined("metrics.primary", spec.metrics.primary, known.metrics, "metrics.yaml")
        for name, keys in (("secondary", spec.metrics.secondary), ("guardrails", spec.metrics.guardrails)):
            for index, key in enumerate(keys):
                yield from check_defined(f"metrics.{name}[{index}]", key, known.metrics, "metrics.yaml")
    for index, channel in enumerate([] if is_rule else spec.channels or []):
        yield from check_defined(f"channels[{index}]", channel, known.channels, "channels.yaml")
    if spec.layer:
        yield from check_defined("layer", spec.layer, known.layers, "layers.yaml")
    for index, holdout in enumerate(spec.holdouts):
        yield from check_defined(f"holdouts[{index}]", holdout, known.holdouts, "layers.yaml")
    yield from _check_segments(known, "audience", spec.audience)
    yield from _check_variants(specs, spec, known)
    yield from exposures_problems(spec, known)
    yield from _check_schedule(spec, specs.metrics)
    for index, need in enumerate(spec.prerequisites):
        yield from check_defined(
            f"prerequisites[{index}].experiment", need.experiment, known.experiments, "this folder"
        )
        for path, message in prerequisite_problems(need, specs.experiments.get(need.experiment)):
            yield f"prerequisites[{index}]{path}", message


def _check_variants(specs: Specs, spec: ExperimentSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of the variants' keys, weights and offers, and of their placement."""
    keys = [variant.key for variant in spec.variants]
    if not keys:
        yield "variants", "is missing; add two, or for 'kind: flag' one, or rules"
    for key, times in Counter(keys).items():
        if times > 1:
            yield "variants", f"{key!r} is given {times} times; give each variant its own key"
    if spec.kind == "experiment" and len(keys) == 1:
        yield "variants", "one variant is not an experiment; add a second, or write 'kind: flag'"
    weights = [variant.weight for variant in spec.variants if variant.weight is not None]
    if weights and len(weights) < len(keys):
        yield "variants", f"{len(weights)} of {len(keys)} variants have a weight; give one to all or to none"
    elif weights and abs(sum(weights) - 1) > 1e-3:
        yield "variants", f"the weights sum to {sum(weights):g}, not to 1; make them shares of 1"
    yield from _check_ranges(spec)
    yield from _check_end(spec)
    for index, force in enumerate(spec.force):
        yield from check_defined(f"force[{index}].variant", force.variant, keys, "the variants")
    for index, variant in enumerate(spec.variants):
        if (variant.policy or variant.offers) and not spec.placement:
            yield f"variants[{index}]", "chooses offers, but the experiment names no placement; add 'placement: …'"
        for at, offer in enumerate(variant.offers or []):
            yield from check_defined(f"variants[{index}].offers[{at}]", offer, known.offers, "offers/")
    if spec.placement:
        yield from check_defined("placement", spec.placement, known.placements, "channels.yaml")
        if known.has_all_selections and spec.placement not in {
            selection.placement for selection in specs.selections.values()
        }:
            yield "placement", f"no file chooses offers for {spec.placement!r}; add one with its offers and fallback"


def _check_end(spec: ExperimentSpec) -> Iterator[FieldProblem]:
    """Yield what a shipped experiment's end lacks, or what it must not have."""
    keys = [variant.key for variant in spec.variants]
    if spec.status == "shipped" and spec.ship is None:
        yield "ship", "is missing; name the variant that everyone has now"
    if spec.ship is not None and spec.status != "shipped":
        yield "ship", f"has no effect with status {spec.status!r}; write `status: shipped`, or leave it out"
    if spec.ship is not None:
        yield from check_defined("ship", spec.ship, keys, "the variants")
    if spec.decided is not None and spec.status not in {"shipped", "stopped"}:
        yield "decided", f"ends the experiment, but its status is {spec.status!r}; ship or stop it, or leave it out"


def _check_ranges(spec: ExperimentSpec) -> Iterator[FieldProblem]:
    """Yield problems of hash and ranges: buckets without effect, and empty, overlapping or redundant ranges."""
    for path, hashed in (("", spec), *((f"filters[{index}].", each) for index, each in enumerate(spec.filters))):
        if hashed.buckets is not None and hashed.hash not in USUAL_BUCKETS:
            with_buckets = ", ".join(USUAL_BUCKETS)
            yield f"{path}buckets", f"has no effect with the hash {hashed.hash}, only with {with_buckets}; leave it out"
    own = [(variant.range[0], variant.range[1]) for variant in spec.variants if variant.range is not None]
    if not own:
        return
    if len(own) < len(spec.variants):
        yield "variants", f"{len(own)} of {len(spec.variants)} variants have a range; give one to all or to none"
    if spec.ramp or spec.coverage != 1 or any(variant.weight is not None for variant in spec.variants):
        yield "variants", "ranges exclude weights, coverage and a ramp; keep the ranges or these"
    for low, high in own:
        if low > high:
            yield "variants", f"the range [{low}, {high}] is empty; put the lower first"
    for (_, high), (low, _) in pairwise(sorted(own)):
        if low < high:
            yield (
                "variants",
                f"a range up to {high} and one from {low} overlap; make them disjoint, as a unit has one variant",
            )


def _check_schedule(spec: ExperimentSpec, metrics: MetricsFile) -> Iterator[FieldProblem]:
    """Yield the problems of dates and ramp, and units that cannot be sticky or have a fallback."""
    if spec.start and spec.end and spec.end <= spec.start:
        yield "end", f"{spec.end.isoformat()} is not after the start; move one of them"
    if isinstance(spec.ramp, HeldRamp):
        yield from _check_held_ramp(spec, spec.ramp, metrics)
    times = [step.at for step in timed_steps(spec.ramp)]
    if times != sorted(times):
        yield "ramp", "the steps are not in the order of their times; sort them"
    shares = [spec.coverage, *(step.coverage for step in timed_steps(spec.ramp))]
    if shares != sorted(shares):
        yield "ramp", "the coverage goes down, which removes customers from their variant; let it only rise"
    shared = {spec.unit, spec.fallback_unit} - {"customer", "device", None}
    if spec.sticky and shared:
        what = min(unit for unit in shared if unit)
        yield "sticky", f"a sticky variant is stored with a customer, and a {what} is not one; remove sticky"
    if spec.fallback_unit == spec.unit:
        yield "fallback_unit", f"{spec.unit!r} is the unit itself; name another or remove it"


def _check_held_ramp(spec: ExperimentSpec, ramp: HeldRamp, metrics: MetricsFile) -> Iterator[FieldProblem]:
    """Yield what a held ramp lacks: a control, a metric, or rates that convert its money."""
    if ramp.steps != sorted(set(ramp.steps)) or ramp.steps[0] <= 0:
        yield "ramp.steps", "do not rise from above 0; give each coverage once, the lowest first"
    if spec.coverage != 1:
        yield "coverage", "is given beside a ramp that holds itself, whose steps set the coverage; leave it out"
    if len(spec.variants) < 2:
        yield "ramp", "holds itself by comparing with control, and there is one variant; give `variants`, control first"
    if spec.metrics is None:
        yield "ramp", "holds itself by the experiment's metrics, and it names none; add `metrics:`"
    elif ramp.loss_budget is not None:
        primary = next((one for one in metrics.metrics if one.key == spec.metrics.primary), None)
        if primary and not (METRIC_KINDS[primary.kind].has_moments and is_in_money(primary)):
            yield "ramp.loss_budget", f"is in money, and {primary.key!r} is not; give that metric `money:`, its worth"


def _check_receivers(specs: Specs) -> Iterator[Problem]:
    """Yield repeated receivers, and receivers without an address."""
    file = f"{specs.folder}/notify.yaml"
    for index, receiver in enumerate(specs.notify.receivers):
        path = f"receivers[{index}]"
        if [one.key for one in specs.notify.receivers].index(receiver.key) < index:
            yield Problem(file, f"{path}.key", f"{receiver.key!r} is given twice; give each receiver its own key")
        if receiver.webhook is None and not receiver.email:
            yield Problem(file, path, "has neither a webhook nor email; give it one")
        if receiver.email and receiver.smtp is None:
            yield Problem(file, path, "sends e-mail and names no server; add `smtp: smtp://HOST:587`")


def _check_selection(specs: Specs, spec: SelectionSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of one selection: undefined names, repeated offers, an unusable fallback."""
    shown_on = next((p.channels for p in specs.channels.placements if p.key == spec.placement), None)
    yield from check_defined("placement", spec.placement, known.placements, "channels.yaml")
    for index, channel in enumerate(spec.channels or []):
        yield from check_defined(f"channels[{index}]", channel, shown_on, f"the channels of {spec.placement}")
    yield from check_defined("reward.metric", spec.reward.metric, known.metrics, "metrics.yaml")
    rewarded = next((one for one in specs.metrics.metrics if one.key == spec.reward.metric), None)
    if rewarded is not None:
        yield from reward_problems(rewarded)
    if isinstance(spec.offers, OffersSpec):
        if (
            known.has_all_offers
            and spec.offers.tagged is not None
            and spec.offers.feed is None
            and not any(spec.offers.tagged in offer.tags for offer in specs.offers.values())
        ):
            yield "offers.tagged", f"no offer has the tag {spec.offers.tagged!r}; tag one in offers/"
    else:
        for index, key in enumerate(spec.offers):
            yield from check_defined(f"offers[{index}]", key, known.offers, "offers/")
        if not spec.offers:
            yield "offers", "is empty; name at least one offer"
        for key, times in Counter(spec.offers).items():
            if times > 1:
                yield "offers", f"{key!r} is given {times} times; name it once"
    yield from check_defined("fallback", spec.fallback, known.offers, "offers/")
    fallback = specs.offers.get(spec.fallback)
    if fallback:
        if not fallback.is_unrestricted:
            yield (
                "fallback",
                f"{spec.fallback!r} is not for everyone at any time; remove its audience, dates and limits",
            )
        for channel in spec.channels or shown_on or []:
            if channel not in fallback.renderings:
                yield (
                    "fallback",
                    f"{spec.fallback!r} has no rendering for {channel}; add one, so that the placement is never empty",
                )


def _check_offers(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems of offers' names, audiences and dates."""
    for offer in specs.offers.values():
        file = f"{specs.folder}/offers/{offer.key}.yaml"
        found: list[FieldProblem] = []
        for channel in offer.renderings:
            found += check_defined(f"renderings.{channel}", channel, known.channels, "channels.yaml")
        found += _check_segments(known, "audience", offer.audience)
        if offer.start and offer.end and offer.end <= offer.start:
            found.append(("end", f"{offer.end.isoformat()} is not after the start; move one of them"))
        yield from (Problem(file, path, message) for path, message in found)


def _check_single_files(specs: Specs) -> Iterator[Problem]:
    """Yield repeated keys, and placements on undefined channels."""
    lists: Mapping[str, tuple[str, list[str]]] = {
        "channels.yaml": ("channels", _channel_keys(specs)),
        "metrics.yaml": ("metrics", [metric.key for metric in specs.metrics.metrics]),
        "layers.yaml": ("layers", [layer.key for layer in specs.layers.layers]),
    }
    for name, (path, keys) in lists.items():
        for key, times in Counter(keys).items():
            if times > 1:
                yield Problem(f"{specs.folder}/{name}", path, f"{key!r} is defined {times} times; define it once")
    for index, placement in enumerate(specs.channels.placements):
        for at, channel in enumerate(placement.channels):
            for path, message in check_defined(
                f"placements[{index}].channels[{at}]", channel, _channel_keys(specs), "channels"
            ):
                yield Problem(f"{specs.folder}/channels.yaml", path, message)
    if specs.metrics.currency in specs.metrics.rates:
        message = "is the shop's own currency, whose rate is 1; remove it"
        yield Problem(f"{specs.folder}/metrics.yaml", f"rates.{specs.metrics.currency}", message)


def _check_placements(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield placements that have no selection, or several, on a channel."""
    taken: dict[tuple[str, str], str] = {}
    for spec in specs.selections.values():
        shown_on = next((p.channels for p in specs.channels.placements if p.key == spec.placement), [])
        for channel in spec.channels or shown_on:
            other = taken.setdefault((spec.placement, channel), spec.key)
            if other != spec.key:
                message = (
                    f"{spec.placement!r} on {channel} already has {other!r} to choose its offers; keep one of them"
                )
                yield Problem(specs.files[spec.key], "placement", message)
    for index, placement in enumerate(specs.channels.placements if known.has_all_selections else []):
        for channel in placement.channels:
            if (placement.key, channel) not in taken:
                message = f"no file chooses its offers on {channel}; add one with 'placement: {placement.key}'"
                yield Problem(f"{specs.folder}/channels.yaml", f"placements[{index}]", message)


def _check_layers(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield empty, overlapping or unused reserved ranges, and live experiments without a range."""
    file = f"{specs.folder}/layers.yaml"
    for index, layer in enumerate(specs.layers.layers):
        members = [experiment for experiment in specs.experiments.values() if experiment.layer == layer.key]
        for key in layer.reserve:
            if key not in known.experiments:
                path = f"layers[{index}].reserve.{key}"
                yield Problem(file, path, f"{key!r} is not an experiment; {suggest_name(key, list(known.experiments))}")
        live = [experiment for experiment in members if experiment.status in {"running", "paused"}]
        for experiment in live if len(live) > 1 else []:
            if experiment.key not in layer.reserve:
                message = (
                    f"layer {layer.key!r} holds {len(live)} experiments; reserve a range for this one in layers.yaml"
                )
                yield Problem(specs.files[experiment.key], "layer", message)
        ranges = sorted((low, high, key) for key, (low, high) in layer.reserve.items())
        for low, high, key in ranges:
            if low >= high:
                yield Problem(file, f"layers[{index}].reserve.{key}", f"[{low}, {high}] is empty; put the lower first")
        for (_, high, one), (low, _, two) in pairwise(ranges):
            if low < high:
                message = f"{one!r} up to {high} and {two!r} from {low} overlap; experiments in a layer share no unit"
                yield Problem(file, f"layers[{index}].reserve", message)


def _check_cycles(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield segments and prerequisites that refer to themselves, and segments with an invalid definition."""
    cycle = find_cycle({segment.key: list(segments_in(segment.condition)) for segment in specs.segments.values()})
    if cycle:
        yield Problem(
            f"{specs.folder}/segments.yaml", cycle[0], f"{' → '.join(cycle)} leads back to itself; break the cycle"
        )
    for segment in specs.segments.values():
        for path, message in _check_segments(known, segment.key, segment.condition):
            yield Problem(f"{specs.folder}/segments.yaml", path, message)
        if (segment.condition is None) == (segment.values is None):
            message = "has a condition and values, or neither; give it one of the two"
            yield Problem(f"{specs.folder}/segments.yaml", segment.key, message)
    needs: dict[str, list[str]] = {}
    for _, _, spec in specs.all_experiments():
        needs.setdefault(spec.key.partition(RULE)[0], []).extend(need.experiment for need in spec.prerequisites)
    cycle = find_cycle(needs)
    if cycle:
        yield Problem(
            specs.files[cycle[0]], "prerequisites", f"{' → '.join(cycle)} leads back to itself; break the cycle"
        )


def _channel_keys(specs: Specs) -> list[str]:
    return [channel.key for channel in specs.channels.channels]
