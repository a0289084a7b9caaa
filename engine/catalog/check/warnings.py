"""Warnings of `check`: mistakes that a growth team regrets later, although the plan is valid."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from math import ceil, sqrt
from statistics import NormalDist

from engine.catalog.check.decode import FieldProblem, suggest_name
from engine.catalog.check.null_comparisons import find_null_comparisons, find_text_dates
from engine.catalog.check.offers import find_unlike_terms
from engine.catalog.check.policies import describe_exhausted_floor, find_open_features
from engine.catalog.check.reserved_names import find_reserved_names
from engine.catalog.check.traits import find_unread_traits
from engine.catalog.feeds.check import find_bad_rows
from engine.catalog.spec.experiment import NOT_LEARNING, USUAL_FLOOR, ExperimentSpec, Prerequisite
from engine.catalog.spec.flags import RULE, is_constant, rule_experiments
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.metrics import MetricSpec
from engine.catalog.spec.ramp import final_coverage
from engine.errors import Problem
from engine.metric_kinds import METRIC_KINDS
from engine.vocabulary import DAY

POWER = 0.8
LONG_DAYS = 90
"""An experiment without an end that runs longer than this is warned of."""
MOST_NAMED = 3


def find_warnings(specs: Specs, now: float) -> list[Problem]:
    """The warnings of a checked folder, in the order of its files; `now` in seconds since 1970."""
    found = [
        Problem(file, prefix + path, message)
        for file, prefix, spec in specs.all_experiments()
        if spec.kind == "experiment" and spec.status not in {"stopped", "shipped"}
        for path, message in _check_experiment(specs, spec, now)
    ]
    found += [
        *_check_conclusions(specs),
        *_check_environment(specs),
        *_check_clashes(specs),
        *_check_selections(specs),
        *_check_fallbacks(specs),
        *find_null_comparisons(specs),
        *find_text_dates(specs),
        *find_reserved_names(specs),
        *find_unread_traits(specs),
        *find_bad_rows(specs),
        *find_unlike_terms(specs),
        *find_open_features(specs),
    ]
    return sorted(found)


def required_units(metric: MetricSpec, change: float, alpha: float, shares: tuple[float, float]) -> int | None:
    """The units that detect a relative `change` of the metric with power 0.8, two-sided; None without a baseline.

    Args:
        metric: with its baseline and, unless its kind is a share of customers, its deviation.
        change: relative to the baseline; None is returned where a share would pass 1.
        alpha: the level of the test.
        shares: of all units, in the control and in the variant.

    Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, eq. 4.14 for two proportions in unequal
    groups, without continuity correction; for means the normal approximation with one deviation in both groups.
    """
    if metric.baseline is None:
        return None
    one, two = shares
    a, b = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(POWER)
    difference = metric.baseline * change
    if METRIC_KINDS[metric.kind].is_share:
        p, q = metric.baseline, metric.baseline + difference
        if max(p, q) >= 1:
            return None
        pooled = (one * p + two * q) / (one + two)
        spread = a * sqrt(pooled * (1 - pooled) * (1 / one + 1 / two)) + b * sqrt(p * (1 - p) / one + q * (1 - q) / two)
    elif metric.deviation is None:
        return None
    else:
        spread = (a + b) * metric.deviation * sqrt(1 / one + 1 / two)
    return ceil((spread / difference) ** 2)


def _check_experiment(specs: Specs, spec: ExperimentSpec, now: float) -> Iterator[FieldProblem]:
    """Yield the warnings of one experiment: no hypothesis, metrics or end, or a run that is too short."""
    if spec.hypothesis is None:
        yield "hypothesis", "is missing; write what changes for the customer, and why the metric should follow"
    if spec.metrics is None:
        yield "metrics", "is missing, so no report can judge it; name the primary metric"
    elif not spec.metrics.guardrails:
        yield (
            "metrics.guardrails",
            "is empty, so a harm elsewhere goes unnoticed; name the metrics that must not get worse",
        )
    if spec.end is None and spec.start is not None and spec.status == "running":
        days = (now - spec.start.timestamp()) / DAY
        if days > LONG_DAYS:
            yield "end", f"is missing, and it has run for {days:.0f} days; decide, or give it an end"
    yield from _check_power(specs, spec)


def _check_conclusions(specs: Specs) -> Iterator[Problem]:
    """Yield ended experiments that do not state what was learnt."""
    for file, prefix, spec in specs.all_experiments():
        is_over = spec.kind == "experiment" and spec.status in {"stopped", "shipped"}
        if is_over and not prefix and not (spec.decided and spec.decided.why):
            key = spec.key
            message = (
                f"does not state why it is {spec.status}, so nothing can be learnt from it; add `decided: "
                f"{{on: DATE, why: TEXT}}`; `counterpoint conclude {key}` writes it"
            )
            yield Problem(file, "decided", message)


def _check_environment(specs: Specs) -> Iterator[Problem]:
    """Yield the warning that no flag names the running environment."""
    names = sorted({name for spec in specs.experiments.values() for name in spec.environments})
    if specs.environment is not None and names and specs.environment not in names:
        message = f"no flag has the environment {specs.environment!r}; {suggest_name(specs.environment, names)}"
        yield Problem(specs.folder, "COUNTERPOINT_ENVIRONMENT", message)


def _check_power(specs: Specs, spec: ExperimentSpec) -> Iterator[FieldProblem]:
    """Yield the warning that the planned run is too short to detect the metric's minimum effect."""
    metric = specs.metric(spec.metrics.primary) if spec.metrics else None
    if metric is None or metric.daily_units is None or metric.mde is None or len(spec.variants) < 2:
        return
    shares = final_shares(specs, spec)
    if not all(shares):
        return
    units = required_units(metric, metric.mde, spec.analysis.alpha, shares)
    if spec.start and spec.end:
        days, path = (spec.end - spec.start).total_seconds() / DAY, "end"
    else:
        days, path = float(spec.analysis.min_days), "analysis.min_days"
    if units is not None and units > days * metric.daily_units:
        needed = ceil(units / metric.daily_units)
        message = (
            f"{days:g} days are too few: a change of {metric.mde:.0%} in {metric.key} is detected in {needed:,} days "
            f"at {metric.daily_units:g} units a day; run longer, raise the coverage, or expect a larger change"
        )
        yield path, message


def final_shares(specs: Specs, spec: ExperimentSpec) -> tuple[float, float]:
    """The shares of all units that the control and the smallest variant have at the end of the ramp."""
    admitted, sizes = _admitted_share(specs, spec), list(_variant_sizes(spec).values())
    flag = specs.experiments.get(spec.key.partition(RULE)[0])
    if flag is not None and RULE in spec.key:
        admitted *= _share_left_by_rules(specs, flag, spec)
    return admitted * sizes[0], admitted * min(sizes[1:])


def _variant_sizes(spec: ExperimentSpec) -> dict[str, float]:
    """The share of the admitted units that each variant has at the end of the ramp."""
    coverage = final_coverage(spec.ramp, spec.coverage)
    equal = 1 / len(spec.variants)
    return {
        variant.key: coverage * (equal if variant.weight is None else variant.weight)
        if variant.range is None
        else variant.range[1] - variant.range[0]
        for variant in spec.variants
    }


def _admitted_share(specs: Specs, spec: ExperimentSpec) -> float:
    """The share of all units that layer, filters, holdouts and prerequisites admit, of any audience."""
    share = _share_asked(specs, spec)
    for holdout in specs.layers.holdouts:
        if holdout.covers(spec) or holdout.keeps is not None:
            share *= 1 - holdout.share
    return share


def _share_asked(specs: Specs, spec: ExperimentSpec) -> float:
    """The share of units outside the holdouts that layer, filters and prerequisites admit."""
    low, high = specs.layer_range(spec)
    share = high - low
    for each in spec.filters:
        share *= sum(upper - lower for lower, upper in each.ranges)
    for need in spec.prerequisites:
        share *= _met_share(specs, need)
    return share


def _share_left_by_rules(specs: Specs, flag: ExperimentSpec, spec: ExperimentSpec) -> float:
    """The share of a rule's audience that the flag and its earlier rules leave.

    A rule before it takes its share of those in its own audience; with another audience traits decide.
    """
    share = 1.0
    for need in flag.prerequisites:
        share *= _met_share(specs, need)
    for holdout in specs.layers.holdouts:
        if holdout.covers(flag) and not holdout.covers(spec):
            share *= 1 - holdout.share
    rules = rule_experiments(flag)
    before = [rule.key for rule in rules].index(spec.key) if spec.key in {rule.key for rule in rules} else 0
    for rule in rules[:before]:
        if rule.audience in ({}, spec.audience) and rule.status in {"running", "shipped"}:
            taken = 1.0 if rule.status == "shipped" else sum(_variant_sizes(rule).values())
            share *= 1 - _share_asked(specs, rule) * taken  # its holdouts are those of the rule
    return share


def _met_share(specs: Specs, need: Prerequisite) -> float:
    """The share of all units that meet a prerequisite; 1 for a flag's rules and values, which depend on traits."""
    other = specs.experiments.get(need.experiment)
    if other is None or other.rules or not other.variants or not (need.variants or need.off):
        return 1.0
    admitted = _admitted_share(specs, other)
    sizes = {} if is_constant(other) else _variant_sizes(other)
    shares: dict[str | None, float] = {key: admitted * size for key, size in sizes.items()}
    # Without a default, None stands for no variant.
    shares[other.default] = shares.get(other.default, 0.0) + 1 - sum(shares.values())
    wanted: list[str | None] = [*need.variants] if need.variants else [other.default]
    return sum(shares.get(key, 0.0) for key in wanted)


def _check_selections(specs: Specs) -> Iterator[Problem]:
    """Yield selections with nothing to choose from, and those whose floor leaves nothing to learn."""
    for selection in specs.selections.values():
        file, policy, offers = specs.files[selection.key], selection.policy, specs.named(selection.offers)
        if len(offers) == 1:
            message = "has one offer, so there is nothing to choose or learn; name a second"
            yield Problem(file, "offers", message)
        for_all = sum(not specs.offers[key].audience for key in offers if key in specs.offers)
        if policy.kind != NOT_LEARNING and policy.floor <= USUAL_FLOOR and policy.floor * for_all >= 1:
            yield Problem(file, "policy.floor", describe_exhausted_floor(policy, for_all))


def _check_clashes(specs: Specs) -> Iterator[Problem]:
    """Yield pairs of experiments that can share a customer and set the same payload key."""
    by_key: dict[tuple[str | None, str], list[ExperimentSpec]] = defaultdict(list)
    for spec in specs.experiments.values():
        if spec.kind == "experiment" and spec.status not in {"stopped", "shipped"}:
            for name in sorted({name for variant in spec.variants for name in variant.payload}):
                by_key[spec.placement, name].append(spec)
    for (placement, name), setters in by_key.items():
        for one, two in combinations(setters, 2):
            apart = one.layer is not None and one.layer == two.layer
            shared = set(one.channels or []) & set(two.channels or []) or one.channels is None or two.channels is None
            if shared and not apart:
                where = f"on {placement}" if placement else "on the same channels"
                message = (
                    f"{name!r} is also set by {two.key} {where}, and a customer can be in both; "
                    "put them into one layer, or rename the key"
                )
                yield Problem(specs.files[one.key], "variants", message)


def _check_fallbacks(specs: Specs) -> Iterator[Problem]:
    """Yield placements that share a channel and a fallback: an answer shows no offer twice, so one stays empty."""
    channels = {placement.key: placement.channels for placement in specs.channels.placements}
    earlier: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for selection in specs.selections.values():
        shown_on = set(selection.channels or channels[selection.placement])
        others = earlier[selection.fallback]
        shared = {key: shown_on & channels_of for key, channels_of in others.items() if shown_on & channels_of}
        others[selection.key] = shown_on
        if shared:
            names = ", ".join(list(shared)[:MOST_NAMED]) + (
                f" and {len(shared) - MOST_NAMED} more" if len(shared) > MOST_NAMED else ""
            )
            on = ", ".join(sorted(set().union(*shared.values())))
            message = (
                f"{selection.fallback!r} is also the fallback of {names} on {on}; in one answer the second placement "
                "stays empty where both fall back: give it another fallback"
            )
            yield Problem(specs.files[selection.key], "fallback", message)
