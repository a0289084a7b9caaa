"""What a change of the YAML does to people who are already assigned: each change classed, with its reason."""

from collections.abc import Iterator, Mapping

import msgspec

from engine.catalog.conditions.compile import and_terms
from engine.catalog.diff.offers import Change, FieldChange, Safety, offer_changes
from engine.catalog.spec.experiment import ExperimentSpec, HoldoutSpec, LayerSpec
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import expand_segments

NOBODY_MOVES: Mapping[str, str] = {
    "hypothesis": "words only",
    "owner": "words only",
    "metrics": "the report asks other questions; nobody moves",
    "analysis": "the report reads the same data in another way; nobody moves",
    "force": "only the named testers change, and they count in no report",
}
RE_RANDOMIZES: Mapping[str, str] = {
    "seed": "every unit is hashed anew",
    "hash_version": "every unit is hashed anew",
    "unit": "another id is hashed, so every unit is drawn anew",
    "fallback_unit": "units without their own id are hashed over another one",
    "kind": "holdouts cover experiments and not flags, so people enter or leave",
    "bucket_version": "what was kept for the old version is left aside",
    "placement": "it acts in another place",
    "layer": "another layer lets in other units",
}


def compare_specs(old: Specs, new: Specs, now: float) -> list[Change]:
    """Every change from `old` to `new` that a customer could feel, at `now` (seconds since 1970)."""
    experiments = list(_experiments(old, new, now))
    return [
        *experiments,
        *_dependents(old, new, experiments),
        *_layers(old, new),
        *_holdouts(old, new),
        *offer_changes(old, new),
    ]


def _experiments(old: Specs, new: Specs, now: float) -> Iterator[Change]:
    for key in sorted({*old.experiments, *new.experiments}):
        before, after = old.experiments.get(key), new.experiments.get(key)
        if after is None and before is not None:
            live = before.status in {"running", "paused"}
            reason = "people in it lose their variant; set 'status: stopped' first" if live else "nobody is in it"
            yield Change(key, "", "unsafe" if live else "safe", reason, "defined", None)
        elif before is None and after is not None:
            yield Change(key, "", "safe", "nobody was in it; its layer keeps it apart from others", None, "defined")
        elif before is not None and after is not None:
            for path, verdict, reason in _experiment(old, new, before, after, now):
                yield Change(key, path, verdict, reason, _at(before, path, old), _at(after, path, new))


def _experiment(
    old: Specs, new: Specs, before: ExperimentSpec, after: ExperimentSpec, now: float
) -> Iterator[FieldChange]:
    if before.status != after.status:
        yield "status", *_status(before.status, after.status)
    verdicts = [*_simple(before, after), *_who(old, new, before, after), *_schedule(before, after, now)]
    verdicts += _variants(before, after)
    if before.status == "draft":
        verdicts = [(path, "safe", "it is a draft, so nobody is in it") for path, _, _ in verdicts]
    yield from verdicts


def _dependents(old: Specs, new: Specs, changed: list[Change]) -> Iterator[Change]:
    """Those who leave an experiment leave all that need it, and what needs these."""
    left = {change.key for change in changed if change.verdict == "unsafe" and not _only_shows(change.path)}
    grown = True
    while grown:
        grown = False
        for key, spec in new.experiments.items():
            needed = next((need.experiment for need in spec.prerequisites if need.experiment in left), None)
            if needed and key in old.experiments and key not in left:
                left.add(key)
                grown = True
                reason = f"people who leave {needed} or change there no longer meet it"
                yield Change(key, "prerequisites", "unsafe", reason)


def _only_shows(path: str) -> bool:
    """Whether a change is in what a variant shows, not in who has it."""
    return path.startswith("variants[") and path.endswith("]")


def _status(before: str, after: str) -> tuple[Safety, str]:
    if after == "draft" and before in {"running", "paused"}:
        return "unsafe", "a draft is not decided at all, so people in it lose their variant; use paused or stopped"
    if before == "running":
        return "unsafe", "everyone in it loses their variant at once; right if it is over, or does harm"
    if before == "stopped" and after == "running":
        return "unsafe", "customers saw the control since it was stopped; start a new experiment with its own seed"
    return "safe", f"nobody gets another variant by going from {before} to {after}"


def _simple(before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    for field, reason in NOBODY_MOVES.items():
        if getattr(before, field) != getattr(after, field):
            yield field, "safe", reason
    for field, reason in RE_RANDOMIZES.items():
        if field == "seed":
            if (before.seed or before.key) != (after.seed or after.key):
                yield field, "unsafe", reason
        elif getattr(before, field) != getattr(after, field):
            yield field, "unsafe", reason
    if before.sticky != after.sticky:
        verdict: Safety = "safe" if after.sticky else "unsafe"
        yield "sticky", verdict, "variants are kept from now on" if after.sticky else "kept variants are let go"
    if after.min_bucket_version != before.min_bucket_version:
        raised = after.min_bucket_version > before.min_bucket_version
        reason = "those of older versions are shut out" if raised else "those of older versions may come back"
        yield "min_bucket_version", "unsafe", reason


def _who(old: Specs, new: Specs, before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    terms = (
        and_terms(expand_segments(before.audience, old.segments)),
        and_terms(expand_segments(after.audience, new.segments)),
    )
    if terms[1] - terms[0]:
        yield "audience", "unsafe", "a new or changed condition takes out people who do not meet it"
    elif terms[0] - terms[1]:
        yield "audience", "safe", "a condition less lets people in and takes nobody out"
    if before.filters != after.filters:
        fewer = all(each in before.filters for each in after.filters)
        reason = "a filter less lets units in" if fewer else "units outside the new filter are taken out"
        yield "filters", "safe" if fewer else "unsafe", reason
    low, high = old.layer_range(before)
    low2, high2 = new.layer_range(after)
    if before.layer == after.layer and (low, high) != (low2, high2):
        wider = low2 <= low and high <= high2
        reason = "a wider range lets units in" if wider else "units outside the new range are taken out"
        yield "layer_range", "safe" if wider else "unsafe", reason
    if before.channels != after.channels:
        wider = after.channels is None or (before.channels is not None and set(before.channels) <= set(after.channels))
        reason = "more channels, and each keeps its customers" if wider else "it is gone from a channel"
        yield "channels", "safe" if wider else "unsafe", reason
    if before.prerequisites != after.prerequisites:
        fewer = all(need in before.prerequisites for need in after.prerequisites)
        reason = "a prerequisite less lets people in" if fewer else "people who do not meet it are taken out"
        yield "prerequisites", "safe" if fewer else "unsafe", reason
    held = _tagged(old, before), _tagged(new, after)
    if before.tags != after.tags:
        more = held[1] - held[0]
        reason = f"the holdout {', '.join(sorted(more))} now covers it" if more else "no holdout takes more people out"
        yield "tags", "unsafe" if more else "safe", reason


def _tagged(specs: Specs, spec: ExperimentSpec) -> set[str]:
    return {h.key for h in specs.layers.holdouts if not h.tags or set(h.tags) & set(spec.tags)}


def _schedule(before: ExperimentSpec, after: ExperimentSpec, now: float) -> Iterator[FieldChange]:
    began = before.start.timestamp() if before.start else 0.0
    begins = after.start.timestamp() if after.start else 0.0
    if began != begins:
        later = begins > began and began <= now
        reason = "it has begun, and those in it wait again" if later else "nobody in it is taken out"
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
        times = {now, *(step.at.timestamp() for spec in (before, after) for step in spec.ramp)}
        lower = any(_coverage(after, time) < _coverage(before, time) for time in times if time >= now)
        path = "coverage" if before.coverage != after.coverage else "ramp"
        reason = "a lower coverage takes people out" if lower else "a higher coverage lets people in and moves nobody"
        yield path, "unsafe" if lower else "safe", reason


def _coverage(spec: ExperimentSpec, time: float) -> float:
    steps = [step.coverage for step in spec.ramp if step.at.timestamp() <= time]
    return steps[-1] if steps else spec.coverage


def _variants(before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    if [v.key for v in before.variants] != [v.key for v in after.variants]:
        yield "variants", "unsafe", "the ranges are laid out anew, so people change their variant"
        return
    if [v.range for v in before.variants] != [v.range for v in after.variants]:
        wider = all(_within(one.range, two.range) for one, two in zip(before.variants, after.variants, strict=True))
        reason = "wider ranges let units in" if wider else "the ranges move, so people change their variant"
        yield "variants", "safe" if wider else "unsafe", reason
    equal = 1 / len(before.variants)
    for index, (one, two) in enumerate(zip(before.variants, after.variants, strict=True)):
        if (equal if one.weight is None else one.weight) != (equal if two.weight is None else two.weight):
            yield f"variants[{index}].weight", "unsafe", "the ranges move, so people change their variant"
        if (one.payload, one.policy, one.offers) != (two.payload, two.policy, two.offers):
            reason = "people keep the variant but see another thing, so the report mixes two treatments"
            yield f"variants[{index}]", "unsafe", reason


def _within(inner: list[float] | None, outer: list[float] | None) -> bool:
    return inner is not None and outer is not None and outer[0] <= inner[0] and inner[1] <= outer[1]


def _layers(old: Specs, new: Specs) -> Iterator[Change]:
    before = {layer.key: _hashed(layer) for layer in old.layers.layers}
    for layer in new.layers.layers:
        if before.get(layer.key, _hashed(layer)) != _hashed(layer):
            reason = "every unit gets another place in the layer, and with it another experiment"
            yield Change(layer.key, "layers", "unsafe", reason, before[layer.key], _hashed(layer))


def _hashed(layer: LayerSpec) -> str:
    return f"{layer.seed or f'__{layer.key}'}, version {layer.hash_version}"


def _holdouts(old: Specs, new: Specs) -> Iterator[Change]:
    before = {holdout.key: holdout for holdout in old.layers.holdouts}
    after = {holdout.key: holdout for holdout in new.layers.holdouts}
    for key in sorted({*before, *after}):
        one, two = before.get(key), after.get(key)
        if one != two:
            verdict, reason = _holdout(one, two)
            yield Change(key, "holdouts", verdict, reason, one and one.share, two and two.share)


def _holdout(before: HoldoutSpec | None, after: HoldoutSpec | None) -> tuple[Safety, str]:
    if after is None:
        return "unsafe", "held-out customers enter experiments, and what was held out can no longer be measured"
    if before is None:
        return "unsafe", "people in experiments are held out"
    if (before.seed, before.unit, before.tags) != (after.seed, after.unit, after.tags):
        return "unsafe", "others are held out"
    if after.share > before.share:
        return "unsafe", "more people are held out, some of them in experiments now"
    return "safe", "fewer people are held out; nobody is taken out of an experiment"


def _at(spec: ExperimentSpec, path: str, specs: Specs) -> object:
    if path == "layer_range":
        return list(specs.layer_range(spec))
    if path.startswith("variants["):
        variant = spec.variants[int(path[len("variants[") : path.index("]")])]
        return variant.weight if path.endswith(".weight") else msgspec.to_builtins(variant)
    return msgspec.to_builtins(getattr(spec, path, None))
