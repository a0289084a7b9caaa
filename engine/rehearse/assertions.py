"""Decides what assertions describe, and reports for each the input, the expectation, the result and the reason.

Everything is decided by the `decide` that serves requests, without a store: limits that the store counts (caps, stocks,
budgets) are open, and policies are as before learning. Their arms are those that may be shown, whatever was learnt.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec

from engine.catalog.conditions.compile import compile_condition, conjuncts
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.assertions import POWER, AssertionSpec, ExpectedOffers, ExpectedPower, ExpectedVariant
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import expand_segments
from engine.customer import CustomerIds
from engine.customers.model.traits import flatten_traits
from engine.decision.attributes import build_attributes
from engine.decision.decision import DecideOptions, DecideRequest, Decision, decide
from engine.rehearse.assertion_files import Assertion, as_flow, expected_variants, measured_experiments, power_fields
from engine.rehearse.customers import SampledCustomer, customer_of
from engine.rehearse.generated_customers import STORES
from engine.rehearse.preview import channel_of, with_draft
from engine.rehearse.sample_file import SampleRow
from engine.rehearse.sampled_properties import check_customers, shown_offers

TRIED = 100
"""Ids that are tried where an assertion names no customer."""


class AssertionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one expectation is met. `why` is empty if it is; `ramps` has the step of each ramp.

    One that this installation cannot judge is neither: `judged` is false, and `why` has the remedy.
    """

    file: str
    test: str
    ok: bool
    given: str
    expected: str
    got: str
    why: str = ""
    ramps: list[str] = []
    judged: bool = True


class PowerFinding(msgspec.Struct, frozen=True):
    """An experiment's power by one metric after some days; None with the reason if it cannot be computed.

    `judged` is false where this installation cannot compute any power.
    """

    experiment: str
    metric: str
    power: float | None
    why: str
    judged: bool = True


PowerOf = Callable[[Specs, str, str, float, float | None], PowerFinding]
"""The power of (specs, experiment, metric, days, effect)."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One assertion to decide: its plan (with named drafts running), its time, and its customers."""

    assertion: Assertion
    plan: Plan
    specs: Specs
    now: float


def check_assertions(
    assertions: Iterable[Assertion],
    specs: Specs,
    sample: list[SampledCustomer],
    now: float,
    power_of: PowerOf,
    *,
    ramped: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[AssertionResult]:
    """Yield a result for each expectation of each assertion, in order.

    Args:
        assertions: as read.
        specs: the folder.
        sample: the customers that `customers` chooses from.
        now: the time (s since 1970) of assertions that name none.
        power_of: computes the power of an experiment.
        ramped: the coverage that ramps which hold themselves have reached, by experiment; the others are at their
            first step.
    """
    for one in assertions:
        spec = one.spec
        drafts = specs
        for key in [*(spec.expect or {}), *(name.partition("=")[0] for name in (*spec.always, *spec.never))]:
            if key in specs.experiments and specs.experiments[key].status == "draft":
                drafts = with_draft(drafts, key, dated=spec.at is not None)
        at = now if spec.at is None else spec.at.timestamp()
        asked = _Asked(assertion=one, plan=replace(compile_plan(drafts), ramped=ramped), specs=drafts, now=at)
        if spec.customers is not None:
            yield from _check_sample(asked, sample)
        for key, value in (spec.expect or {}).items():
            if key == POWER:
                yield from _check_power(asked, value, power_of)
            elif key in specs.experiments:
                yield _check_experiment(asked, key, value)
            else:
                yield _check_placement(asked, key, value)


def _check_experiment(asked: _Asked, key: str, value: object) -> AssertionResult:
    """Whether every tried customer gets the expected variant of an experiment or a flag."""
    wanted = msgspec.convert(value, ExpectedVariant) if isinstance(value, Mapping) else ExpectedVariant()
    variants = expected_variants(value)
    got: Counter[str] = Counter()
    why = ""
    for decision in _decisions(asked, key, experiments=[key]):
        answer = decision.answer.experiments[key]
        given = (answer.payload or {}).get("value", answer.payload)
        is_right = not variants or any(_is_it(one, answer.variant, given) for one in variants)
        is_right &= wanted.value is msgspec.UNSET or wanted.value == given
        is_right &= wanted.reason is None or answer.reason in _as_list(wanted.reason)
        is_right &= wanted.rule is None or wanted.rule == answer.rule
        rule = f" by rule {answer.rule}" if isinstance(answer.rule, str) else ""
        got[f"{answer.variant or 'no variant'} ({answer.reason}{rule})"] += 1
        if not is_right and not why:
            who = f"{decision.answer.customer}: " if asked.assertion.spec.customer is None else ""
            why = f"{who}{_why_variant(asked, key, decision)}"
    return _result(asked, {key: value}, got=_counts(got), why=why, experiments=[key])


def _why_variant(asked: _Asked, key: str, decision: Decision) -> str:
    """A sentence with the reason for a customer's variant."""
    answer = decision.answer.experiments[key]
    spec = asked.specs.experiments[key]
    if answer.reason == "audience" and spec.audience:
        return f"audience: {_unmet(asked, spec.audience, decision)} does not match"
    if isinstance(answer.rule, str):
        return f"rule {answer.rule} of {key} is the first that gives a variant ({answer.reason})"
    if answer.reason in REASONS:
        return f"{answer.reason}: {REASONS[answer.reason]}"
    return answer.reason


REASONS: Mapping[str, str] = {
    "assigned": "the hash of the id is in this variant's range",
    "forced": "the file forces this customer",
    "audience": "no rule's audience matches",
    "default": "no rule gave a variant",
    "coverage": "the hash of the id is in no variant's range: raise the coverage, or name a customer",
    "holdout": "a holdout keeps the id out",
    "layer": "the id is in another part of the layer, or outside a filter",
    "prerequisite": "another experiment does not give what this one needs",
    "not_started": "its start is later",
    "ended": "it is stopped, or its end is over",
    "paused": "its file pauses it",
    "shipped": "it is shipped to all of its audience",
    "channel": "it runs on other channels",
    "unit": "the request names no such unit",
}
"""The reasons of `AssignmentReason` in words, where the reason alone does not say what to look at."""


def _unmet(asked: _Asked, audience: Mapping[str, object], decision: Decision) -> str:
    """The first part of an audience that the customer does not meet."""
    spec = asked.assertion.spec
    profile = _customer(spec, decision.answer.customer).profile
    attributes, _ = build_attributes(
        profile, decision.channel, spec.context, asked.now, asked.plan.zone, computed=asked.plan.rules.computed
    )
    parts = list(conjuncts(expand_segments(audience, asked.specs.segments)))
    unmet = next((part for part in parts if not compile_condition(part)(attributes)), audience)
    return as_flow(unmet)


def _check_placement(asked: _Asked, key: str, value: object) -> AssertionResult:
    """Whether a placement may show exactly the expected offers to every tried customer."""
    if isinstance(value, Mapping):
        wanted = msgspec.convert(value, ExpectedOffers)
    else:
        wanted = ExpectedOffers(only=[str(one) for one in _as_list(value) if one is not None])
    got: Counter[str] = Counter()
    why = ""
    for decision in _decisions(asked, key, placements=[key]):
        choice = decision.choices[key]
        chances = shown_offers(decision, key)
        got[f"{', '.join(f'{offer} {p:.3g}' for offer, p in chances.items()) or 'nothing'} ({choice.reason})"] += 1
        others = [one for one in chances if wanted.only is not None and one not in wanted.only]
        faults = [f"{one} may be shown too" for one in others]
        faults += [f"{one} may be shown" for one in wanted.never if one in chances]
        missing = [one for one in wanted.may if one not in chances]
        if faults or not chances:
            missing += [one for one in wanted.only or [] if one not in chances]
        faults += [f"{one} may not be shown: {choice.closed.get(one, choice.reason)}" for one in missing]
        if wanted.reason is not None and choice.reason not in _as_list(wanted.reason):
            faults.append(f"the reason is {choice.reason}")
        if faults and not why:
            why = "; ".join(faults)
    return _result(asked, {key: value}, got=_counts(got), why=why)


def _check_power(asked: _Asked, value: object, power_of: PowerOf) -> Iterator[AssertionResult]:
    """Yield whether each experiment has the expected power."""
    fields = power_fields(value) if isinstance(value, Mapping) else {}
    wanted = msgspec.convert(fields, ExpectedPower, strict=False)
    named, specs = asked.assertion.spec.experiment, asked.specs
    for metric, least in wanted.metrics.items():
        open_ones = (
            spec.key
            for spec in measured_experiments(specs).values()
            if spec.metrics is not None and spec.metrics.primary == metric and spec.status in {"draft", "running"}
        )
        keys = [named] if named is not None else list(open_ones)
        if not keys:
            why = f"no draft or running experiment has the primary metric {metric}; name an `experiment`"
            yield _result(asked, {POWER: value}, got="nothing to compute", why=why)
        for key in keys:
            found = power_of(specs, key, metric, wanted.days, wanted.effect)
            is_enough = found.power is not None and found.power >= least
            got = f"{key}: {'unknown' if found.power is None else f'{found.power:.2f}'}"
            result = _result(asked, {POWER: value}, got=got, why="" if is_enough else found.why)
            yield result if found.judged else msgspec.structs.replace(result, judged=False)


def _check_sample(asked: _Asked, sample: list[SampledCustomer]) -> Iterator[AssertionResult]:
    spec = asked.assertion.spec
    for word, names in (("never", spec.never), ("always", spec.always)):
        for name in names:
            found = check_customers(asked.plan, asked.specs, spec, name, sample=sample, now=asked.now)
            faults = found.seen if word == "never" else found.unseen
            got = f"seen by {len(found.seen):,} of {found.customers:,}"
            why = ""
            if not found.customers:
                why = (
                    f"nobody of {len(sample):,} sampled customers is one of these, so it says nothing: --customers FILE"
                )
            elif faults:
                why = f"{faults[0]}{f' and {len(faults) - 1:,} more' if len(faults) > 1 else ''}"
            who = f"{found.customers:,} sampled customers"
            experiments = [name.partition("=")[0]]
            yield _result(asked, {word: name}, got=got, why=why, given=who, experiments=experiments)


def _decisions(
    asked: _Asked, key: str, *, experiments: list[str] | None = None, placements: list[str] | None = None
) -> Iterator[Decision]:
    """Yield a decision for the assertion's customer, or for each of `TRIED` ids with its traits."""
    spec, plan = asked.assertion.spec, asked.plan
    experiment = plan.experiments.get(key)
    channel = spec.channel or channel_of(plan, key, None if experiment else key)
    ids = [spec.customer] if spec.customer is not None else [f"test-{n}" for n in range(TRIED)]
    for number, name in enumerate(ids):
        one = _customer(spec, name)
        context = {"store": f"store-{number % STORES}", **spec.context}
        request = DecideRequest(
            customer=CustomerIds(user_id=name, device_id=f"device of {name}"),
            channel=channel,
            placements=placements or [],
            experiments=experiments or [],
            context=context if _needs_store(plan, key) else spec.context,
            expose=False,
        )
        draw = f"test of {key} for {name}"
        options = DecideOptions(trace=True)
        yield decide(plan, {}, one.profile, request, asked.now, decision_id=draw, options=options)


def _needs_store(plan: Plan, key: str) -> bool:
    """Whether the unit of an experiment, or of one of its rules, is the store."""
    experiment = plan.experiments.get(key)
    if experiment is None:
        return False
    return "store" in {experiment.spec.unit, *(rule.experiment.spec.unit for rule in experiment.rules)}


def _customer(spec: AssertionSpec, name: str) -> SampledCustomer:
    row = SampleRow(user_id=name, traits=flatten_traits(spec.given), context=spec.context, channel=spec.channel)
    return customer_of(row)


def _is_it(wanted: object, variant: str | None, value: object) -> bool:
    """Whether a variant is the expected one, by key or else by value."""
    if wanted is None or variant is None:
        return wanted is None and variant is None
    return wanted == variant or (wanted == value and isinstance(wanted, bool) == isinstance(value, bool))


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _counts(got: Counter[str]) -> str:
    """The results, with the number of each if they differ."""
    if len(got) == 1:
        return next(iter(got))
    return ", ".join(f"{count} x {what}" for what, count in got.most_common())


def _ramp_steps(plan: Plan, experiments: Iterable[str]) -> Iterator[str]:
    """Yield the step of each held ramp of these experiments and their rules."""
    flags = [plan.experiments[key] for key in experiments if key in plan.experiments]
    for one in (found for flag in flags for found in (flag, *(rule.experiment for rule in flag.rules))):
        if one.held_steps:
            reached = plan.ramped.get(one.key, 0.0)
            step = max((share for share, _ in one.held_steps if share <= reached), default=one.held_steps[0][0])
            which = "its current step" if one.key in plan.ramped else "its first step, as no data has another"
            yield f"{one.key} at {step:.3g} of its audience, {which}"


def _result(
    asked: _Asked,
    expected: Mapping[str, object],
    *,
    got: str,
    why: str,
    given: str = "",
    experiments: Iterable[str] = (),
) -> AssertionResult:
    spec, one = asked.assertion.spec, asked.assertion
    known = {"customer": spec.customer, "channel": spec.channel} if spec.expect is not None else {}
    shown = {name: value for name, value in known.items() if value is not None} | spec.given | spec.context
    return AssertionResult(
        file=one.file,
        test=one.name,
        ok=not why,
        given=given or as_flow(shown),
        expected=as_flow(expected),
        got=got,
        why=why,
        ramps=list(_ramp_steps(asked.plan, experiments)),
    )
