"""Classifies the effect of a YAML change on customers who are already assigned, with a reason for each change.

A change is `safe` if it removes no customer from an experiment and changes nobody's variant; a property test compares
this with the assignments of both plans. A change of the question that an experiment was started with is `unsafe` too:
no customer changes variant, but who picks the metric or the method after a look at the data has no error rate.
"""

from collections.abc import Iterator, Mapping

import msgspec

from engine.catalog.conditions.compile import and_terms
from engine.catalog.diff.flags import compare_flags
from engine.catalog.diff.offers import Change, FieldChange, Safety, offer_changes
from engine.catalog.diff.units import compare_units
from engine.catalog.spec.experiment import (
    ExperimentMetrics,
    ExperimentSpec,
    HoldoutSpec,
    LayerSpec,
)
from engine.catalog.spec.flags import rule_names
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.ramp import HeldRamp, timed_steps
from engine.catalog.spec.segments import expand_segments

NOBODY_MOVES: Mapping[str, str] = {
    "title": "text only",
    "decided": "it records when and why the experiment was decided",
    "hypothesis": "text only",
    "owner": "text only",
    "environments": "other environments only; what applies in this one is compared on its own",
    "force": "only the named testers change, and they count in no report",
}
RE_RANDOMIZES: Mapping[str, str] = {
    "seed": "every unit is hashed to another place",
    "hash_version": "every unit is hashed to another place",
    "hash": "every unit is hashed to another place",
    "buckets": "every unit is hashed to another place",
    "unit": "another id is hashed, so every unit is assigned again",
    "fallback_unit": "units without their own id are hashed over another one",
    "bucket_version": "variants stored under the old version no longer apply",
    "placement": "it changes another placement",
    "layer": "another layer admits other units",
    "switchback": "other periods are drawn, so every store changes its variants",
}


def compare_specs(old: Specs, new: Specs, now: float) -> list[Change]:
    """Every change from `old` to `new`, experiments first.

    Args:
        old: the specs that run.
        new: the specs that would replace them.
        now: seconds since 1970; whether an experiment has begun or ended depends on it.
    """
    experiments = list(_compare_experiments(old, new, now))
    return [
        *experiments,
        *_find_dependents(old, new, experiments),
        *_compare_layers(old, new),
        *_compare_holdouts(old, new),
        *compare_units(old, new),
        *offer_changes(old, new),
    ]


def _compare_experiments(old: Specs, new: Specs, now: float) -> Iterator[Change]:
    """Yield the changes of all experiments, by key."""
    for key in sorted({*old.experiments, *new.experiments}):
        before, after = old.experiments.get(key), new.experiments.get(key)
        if after is None and before is not None:
            live = before.status in {"running", "paused"}
            reason = "customers in it lose their variant; set 'status: stopped' first" if live else "nobody is in it"
            yield Change(key=key, path="", verdict="unsafe" if live else "safe", reason=reason, old="defined")
        elif before is None and after is not None:
            reason = "nobody was in it, and in its layer it has a range of its own"
            yield Change(key=key, path="", verdict="safe", reason=reason, new="defined")
        elif before is not None and after is not None:
            for path, verdict, reason in _compare_experiment(old, new, before, after, now):
                values = _read_value(before, path, old), _read_value(after, path, new)
                yield Change(key=key, path=path, verdict=verdict, reason=reason, old=values[0], new=values[1])


def _compare_experiment(
    old: Specs, new: Specs, before: ExperimentSpec, after: ExperimentSpec, now: float
) -> Iterator[FieldChange]:
    """Yield the changes of one experiment; in a draft only a change of status can be unsafe."""
    if before.status != after.status:
        yield "status", *_compare_status(before.status, after.status)

    def compare_alone(one: ExperimentSpec, two: ExperimentSpec) -> Iterator[FieldChange]:
        yield from _compare_fields_alone(one, two)
        yield from _compare_admission(old, new, one, two)
        yield from _compare_schedule(one, two, now)

    def compare_rule(one: ExperimentSpec, two: ExperimentSpec) -> Iterator[FieldChange]:
        if one.status != two.status and before.status == after.status:
            yield "status", *_compare_status(one.status, two.status)
        yield from compare_alone(one, two)
        yield from _compare_variants(one, two)

    has_rules = bool(before.rules or after.rules)
    variants = compare_flags(before, after, compare_rule) if has_rules else _compare_variants(before, after)
    changes = [*compare_alone(before, after), *variants]
    if before.status == "draft":
        changes = [(path, "safe", "it is a draft, so nobody is in it") for path, _, _ in changes]
    yield from changes


def _find_dependents(old: Specs, new: Specs, changed: list[Change]) -> Iterator[Change]:
    """Yield experiments that require one from which customers are removed, and experiments that require those."""
    left = {change.key for change in changed if change.verdict == "unsafe" and not _only_shows(change.path)}
    grown = True
    while grown:
        grown = False
        for key, spec in new.experiments.items():
            needed = next((need.experiment for need in spec.prerequisites if need.experiment in left), None)
            if needed and key in old.experiments and key not in left:
                left.add(key)
                grown = True
                reason = f"customers who leave {needed}, or change their variant there, no longer meet it"
                yield Change(key=key, path="prerequisites", verdict="unsafe", reason=reason)


def _only_shows(path: str) -> bool:
    """Whether a change affects a variant's content or the report, but no assignment."""
    return path in {"metrics", "exposures", "analysis"} or (path.startswith("variants[") and path.endswith("]"))


def _compare_status(before: str, after: str) -> tuple[Safety, str]:
    """The class and reason of a change of status."""
    if after == "draft" and before in {"running", "paused"}:
        return "unsafe", "a draft is never decided, so customers in it lose their variant; use paused or stopped"
    if after == "shipped":
        return "unsafe", "all of its audience but the holdouts has one variant from then on; right if it is decided"
    if before == "shipped":
        return "unsafe", "everyone has had one variant since it was shipped; start a new experiment with its own seed"
    if before == "running":
        return "unsafe", "everyone in it loses their variant at once; right if it is over, or does harm"
    if before == "stopped" and after == "running":
        return "unsafe", "customers saw the control since it was stopped; start a new experiment with its own seed"
    return "safe", f"nobody's variant changes from {before} to {after}"


def _compare_fields_alone(before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    """Yield the changes whose class follows from one field alone."""
    for field, reason in NOBODY_MOVES.items():
        if getattr(before, field) != getattr(after, field):
            yield field, "safe", reason
    for field, reason in RE_RANDOMIZES.items():
        if field == "seed":
            if (before.seed or before.key) != (after.seed or after.key):
                yield field, "unsafe", reason
        elif getattr(before, field) != getattr(after, field):
            yield field, "unsafe", reason
    yield from _compare_question(before, after)
    if before.ship != after.ship and before.status == after.status == "shipped":
        yield "ship", "unsafe", "all of its audience but the holdouts changes to the other variant at once"
    if before.sticky != after.sticky:
        verdict: Safety = "safe" if after.sticky else "unsafe"
        yield (
            "sticky",
            verdict,
            "variants are stored from now on" if after.sticky else "stored variants no longer apply",
        )
    if after.min_bucket_version != before.min_bucket_version:
        raised = after.min_bucket_version > before.min_bucket_version
        reason = "customers of older versions are excluded" if raised else "customers of older versions may return"
        yield "min_bucket_version", "unsafe", reason


def _compare_question(before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    """Yield changes of what decides the verdict; they move no customer."""
    if before.metrics != after.metrics:
        old, new = before.metrics, after.metrics
        if old is None or (new is not None and _deciding(old) == _deciding(new)):
            yield "metrics", "safe", "the report has other secondary metrics; no customer changes variant"
        else:
            reason = "the metric or the guardrails that decide the verdict are chosen after customers were exposed"
            yield "metrics", "unsafe", f"{reason}, so alpha no longer bounds its errors; no customer changes variant"
    if before.exposures != after.exposures:
        yield (
            "exposures",
            "unsafe",
            "the report counts other exposures, chosen after customers were exposed; no customer changes variant",
        )
    if before.analysis != after.analysis:
        longer = msgspec.structs.replace(before.analysis, min_days=after.analysis.min_days)
        if longer == after.analysis and after.analysis.min_days > before.analysis.min_days:
            yield "analysis", "safe", "the verdict waits longer; no customer changes variant"
        else:
            reason = "the method of the verdict is chosen after customers were exposed"
            yield "analysis", "unsafe", f"{reason}, so alpha no longer bounds its errors; no customer changes variant"


def _deciding(metrics: ExperimentMetrics) -> tuple[str, frozenset[str]]:
    """The metrics that decide the verdict."""
    return metrics.primary, frozenset(metrics.guardrails)


def _compare_admission(old: Specs, new: Specs, before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    """Yield changes of admission: audience, filters, layer range, channels, prerequisites, holdouts."""
    yield from _compare_audience(old, new, before, after)
    if before.filters != after.filters:
        fewer = all(each in before.filters for each in after.filters)
        reason = "a removed filter admits units" if fewer else "units outside the new filter are removed"
        yield "filters", "safe" if fewer else "unsafe", reason
    low, high = old.layer_range(before)
    low2, high2 = new.layer_range(after)
    if before.layer == after.layer and (low, high) != (low2, high2):
        wider = low2 <= low and high <= high2
        reason = "a wider range admits units" if wider else "units outside the new range are removed"
        yield "layer_range", "safe" if wider else "unsafe", reason
    if before.channels != after.channels:
        wider = after.channels is None or (before.channels is not None and set(before.channels) <= set(after.channels))
        reason = "more channels, and each keeps its customers" if wider else "a channel no longer has it"
        yield "channels", "safe" if wider else "unsafe", reason
    if before.prerequisites != after.prerequisites:
        fewer = all(need in before.prerequisites for need in after.prerequisites)
        reason = "a removed prerequisite admits customers" if fewer else "customers who do not meet it are removed"
        yield "prerequisites", "safe" if fewer else "unsafe", reason
    for name in ("tags", "holdouts", "kind"):
        if getattr(before, name) != getattr(after, name):
            yield name, *_compare_cover(_covering_holdouts(old, before), _covering_holdouts(new, after), name)


def _compare_cover(before: set[str], after: set[str], field: str) -> tuple[Safety, str]:
    """The class and reason of a change by which other holdouts may cover an experiment or flag."""
    more, fewer = sorted(after - before), sorted(before - after)
    if more:
        return "unsafe", f"the holdout {', '.join(more)} now covers it"
    if fewer and field != "tags":
        remedy = f"; keep it out by 'holdouts: [{', '.join(fewer)}]'" if field == "kind" else ""
        return "unsafe", f"the units of the holdout {', '.join(fewer)} enter, and it measures no total any more{remedy}"
    return "safe", "no holdout removes more customers"


def _compare_audience(old: Specs, new: Specs, before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    """Yield the change of the audience; only removing terms is provably safe."""
    was = and_terms(expand_segments(before.audience, old.segments))
    now = and_terms(expand_segments(after.audience, new.segments))
    if now - was:
        yield "audience", "unsafe", "a new or changed condition removes customers who do not meet it"
    elif was - now:
        yield "audience", "safe", "a removed condition admits customers and removes nobody"


def _covering_holdouts(specs: Specs, spec: ExperimentSpec) -> set[str]:
    """The keys of the holdouts that cover an experiment."""
    return {holdout.key for holdout in specs.layers.holdouts if holdout.covers(spec)}


def _compare_schedule(before: ExperimentSpec, after: ExperimentSpec, now: float) -> Iterator[FieldChange]:
    """Yield the changes of start, end and coverage, classed by whether they take effect before or after now."""
    began = before.start.timestamp() if before.start else 0.0
    begins = after.start.timestamp() if after.start else 0.0
    if began != begins and after.switchback and began <= now:
        yield "start", "unsafe", "periods are counted from the start, so every store changes its variants"
    elif began != begins:
        later = begins > began and began <= now
        reason = (
            "it has begun, and customers in it lose their variant until then" if later else "nobody in it is removed"
        )
        yield "start", "unsafe" if later else "safe", reason
    if before.end != after.end:
        ended = before.end is not None and before.end.timestamp() <= now
        ends = after.end is not None and after.end.timestamp() <= now
        if ended and not ends:
            yield "end", "unsafe", "customers saw the control since it ended; start a new experiment with its own seed"
        elif ends and not ended:
            yield "end", "unsafe", "everyone in it loses their variant at once; right if it is over, or does harm"
        else:
            yield "end", "safe", "it ends at another time; until then everyone keeps their variant"
    if before.coverage != after.coverage or before.ramp != after.ramp:
        times = {now, *(step.at.timestamp() for spec in (before, after) for step in timed_steps(spec.ramp))}
        lower = any(_coverage_at(after, time) < _coverage_at(before, time) for time in times if time >= now)
        path = "coverage" if before.coverage != after.coverage else "ramp"
        reason = (
            "a lower coverage removes customers" if lower else "a higher coverage admits customers and moves nobody"
        )
        yield path, "unsafe" if lower else "safe", reason


def _coverage_at(spec: ExperimentSpec, time: float) -> float:
    """The coverage at a time, in seconds since 1970, by the ramp."""
    if isinstance(spec.ramp, HeldRamp):
        return spec.ramp.steps[-1]
    steps = [step.coverage for step in spec.ramp if step.at.timestamp() <= time]
    return steps[-1] if steps else spec.coverage


def _compare_variants(before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    """Yield the changes of the variants' keys, ranges, weights and content."""
    if [v.key for v in before.variants] != [v.key for v in after.variants]:
        yield "variants", "unsafe", "all ranges move, so customers change their variant"
        return
    if [v.range for v in before.variants] != [v.range for v in after.variants]:
        wider = all(_is_within(one.range, two.range) for one, two in zip(before.variants, after.variants, strict=True))
        reason = "wider ranges admit units" if wider else "the ranges move, so customers change their variant"
        yield "variants", "safe" if wider else "unsafe", reason
    equal = 1 / len(before.variants)
    for index, (one, two) in enumerate(zip(before.variants, after.variants, strict=True)):
        if (equal if one.weight is None else one.weight) != (equal if two.weight is None else two.weight):
            yield f"variants[{index}].weight", "unsafe", "the ranges move, so customers change their variant"
        if (one.payload, one.policy, one.offers) != (two.payload, two.policy, two.offers):
            reason = "customers keep the variant but see other content, so the report mixes two treatments"
            yield f"variants[{index}]", "unsafe", reason


def _is_within(inner: list[float] | None, outer: list[float] | None) -> bool:
    """Whether `outer` covers `inner`: a range that only grows keeps its units."""
    return inner is not None and outer is not None and outer[0] <= inner[0] and inner[1] <= outer[1]


def _compare_layers(old: Specs, new: Specs) -> Iterator[Change]:
    """Yield layers that hash units to other places; new or removed layers show in their experiments."""
    before = {layer.key: _describe_hash(layer) for layer in old.layers.layers}
    for layer in new.layers.layers:
        if before.get(layer.key, _describe_hash(layer)) != _describe_hash(layer):
            reason = "every unit is hashed to another place in the layer, and so to another experiment"
            yield Change(
                key=layer.key,
                path="layers",
                verdict="unsafe",
                reason=reason,
                old=before[layer.key],
                new=_describe_hash(layer),
            )


def _describe_hash(layer: LayerSpec) -> str:
    """The seed and version of a layer's hash."""
    return f"{layer.seed or f'__{layer.key}'}, version {layer.hash_version}"


def _compare_holdouts(old: Specs, new: Specs) -> Iterator[Change]:
    """Yield the changes of holdouts, by key."""
    before = {holdout.key: holdout for holdout in old.layers.holdouts}
    after = {holdout.key: holdout for holdout in new.layers.holdouts}
    for key in sorted({*before, *after}):
        one, two = before.get(key), after.get(key)
        if one != two:
            verdict, reason = _compare_holdout(one, two)
            shares = one and one.share, two and two.share
            yield Change(key=key, path="holdouts", verdict=verdict, reason=reason, old=shares[0], new=shares[1])


def _compare_holdout(before: HoldoutSpec | None, after: HoldoutSpec | None) -> tuple[Safety, str]:
    """The class and reason of a change of one holdout; None stands for an undefined one."""
    if after is None:
        return "unsafe", "its customers enter experiments, and the total effect can no longer be measured"
    if before is None and after.keeps is not None:
        return "unsafe", f"its customers go back to the plan {after.keeps}, offers included"
    if before is None:
        return "unsafe", "customers in experiments are held out"
    if (before.seed, before.unit, before.tags) != (after.seed, after.unit, after.tags):
        return "unsafe", "other customers are held out"
    if before.keeps != after.keeps:
        return "unsafe", "another plan decides for its customers, so its report mixes two comparisons"
    if before.share == after.share:
        return "safe", "only its report changes"
    if after.share > before.share:
        return "unsafe", "more customers are held out, some of them in experiments now"
    return "safe", "fewer customers are held out; nobody is removed from an experiment"


def _read_value(spec: ExperimentSpec, path: str, specs: Specs) -> object:
    """The value at a change's path, in JSON form."""
    if path == "layer_range":
        return list(specs.layer_range(spec))
    if path.startswith("rules."):
        rules = dict(zip(rule_names(spec.rules), spec.rules, strict=True))
        name, _, field = path.removeprefix("rules.").partition(".")
        rule = rules.get(name)
        return msgspec.to_builtins(rule if rule is None or not field else getattr(rule, field, rule))
    if path.startswith("variants."):
        return next((v.payload for v in spec.variants if v.key == path.removeprefix("variants.")), None)
    if path.startswith("variants["):
        variant = spec.variants[int(path[len("variants[") : path.index("]")])]
        return variant.weight if path.endswith(".weight") else msgspec.to_builtins(variant)
    return msgspec.to_builtins(getattr(spec, path, None))
