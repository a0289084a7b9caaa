"""Reads `tests/*.yaml` of a folder of experiments, and reports every problem in them at once."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.catalog.check.decode import FieldProblem, find_problems, suggest_name
from engine.catalog.check.yaml_text import MAX_BYTES, decode_yaml
from engine.catalog.spec.assertions import (
    POWER,
    AssertionsFile,
    AssertionSpec,
    ExpectedOffers,
    ExpectedPower,
    ExpectedVariant,
    SampledCustomers,
)
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.flags import rule_experiments
from engine.catalog.spec.folder import TESTS, Specs
from engine.catalog.spec.segments import segments_in
from engine.errors import CatalogError, Problem

SENTENCE = re.compile(
    r"(?P<which>no|every) (?P<held_out>held-out )?customer(?: in (?P<segment>\S+))?(?: on (?P<channel>\S+))? "
    r"sees (?P<what>\S+(?: (?:or|and) \S+)*)"
)
SENTENCE_RULE = (
    "write 'no held-out customer sees KEY', or 'every customer in SEGMENT on CHANNEL sees EXPERIMENT=VARIANT'"
)

ANY_VARIANT = "name a variant or a value, a list of them, null for no variant, or one of variant, value, reason, rule"
ANY_OFFER = "name an offer or a list, null for nothing, or one of only, may, never and reason"


class Assertion(NamedTuple):
    """One assertion of a file: its place, name and content."""

    file: str
    path: str
    name: str
    spec: AssertionSpec


def read_assertions(folder: Path, specs: Specs) -> list[Assertion]:
    """The assertions in `tests/` of a folder, in file order; empty without that folder.

    Raises:
        CatalogError: with every problem of every file, if there is one.
    """
    found: list[Assertion] = []
    problems: list[Problem] = []
    for path in sorted(folder.glob(f"{TESTS}*.yaml")):
        name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
        value, wrong, _ = decode_yaml(path.read_bytes()[: MAX_BYTES + 1], name)
        wrong = wrong or [Problem(name, place, message) for place, message in find_problems(value, AssertionsFile)]
        if wrong:
            problems += wrong
            continue
        file = msgspec.convert(value, AssertionsFile, strict=False)
        for index, one in enumerate(file.tests):
            place = f"tests[{index}]"
            spec = parse_sentence(one) if isinstance(one, str) else one
            if spec is None:
                problems.append(Problem(name, place, f"{one!r} is not such a sentence; {SENTENCE_RULE}"))
                continue
            mistakes = [*_check_assertion(spec, specs)]
            problems += [Problem(name, f"{place}.{where}" if where else place, text) for where, text in mistakes]
            timed = spec if spec.at is not None else msgspec.structs.replace(spec, at=file.at)
            found.append(Assertion(name, place, spec.name or _describe(one), timed))
    if problems:
        raise CatalogError(problems)
    return found


def parse_sentence(text: str) -> AssertionSpec | None:
    """The assertion that a sentence expresses; None for another sentence."""
    match = SENTENCE.fullmatch(" ".join(text.rstrip(".").split()))
    if match is None:
        return None
    who = SampledCustomers(
        held_out=True if match["held_out"] else None,
        audience={"$segment": match["segment"]} if match["segment"] else {},
        channel=match["channel"],
    )
    is_never = match["which"] == "no"
    what = match["what"].split(" or " if is_never else " and ")
    if any(" " in name for name in what):
        return None
    return AssertionSpec(customers=who, never=what if is_never else [], always=[] if is_never else what)


def _describe(one: AssertionSpec | str) -> str:
    """The default name of an assertion."""
    if isinstance(one, str):
        return one
    if one.expect is None:
        return "customers"
    given = {**({"customer": one.customer} if one.customer else {}), **one.given}
    return f"{as_flow(given) if given else 'anyone'} → {as_flow(one.expect)}"


def as_flow(value: object) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {as_flow(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_flow, value))}]"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _check_assertion(spec: AssertionSpec, specs: Specs) -> Iterator[FieldProblem]:
    """Yield the problems of a well-formed assertion: its combination of keys, and its names."""
    if (spec.expect is None) == (spec.customers is None):
        yield (
            "",
            "has not exactly one of `expect` (with `given`) and `customers` (with `never` or `always`); give one",
        )
        return
    channels = [one.key for one in specs.channels.channels]
    channel = spec.channel or (spec.customers.channel if spec.customers else None)
    if channel is not None and channel not in channels:
        yield "channel", f"{channel!r} is not in channels.yaml; {suggest_name(channel, channels)}"
    if spec.customers is not None:
        yield from _check_customers(spec, spec.customers, specs)
    for key, value in (spec.expect or {}).items():
        for where, message in _check_expectation(key, value, spec, specs):
            yield f"expect.{key}{'.' if where else ''}{where}", message


def _check_customers(spec: AssertionSpec, who: SampledCustomers, specs: Specs) -> Iterator[FieldProblem]:
    if not spec.never and not spec.always:
        yield (
            "",
            "expects nothing of its customers; give `never` or `always`, a list of offers, experiments or variants",
        )
    for name in segments_in(who.audience):
        if name not in specs.segments:
            yield "customers.audience", f"{name!r} is not in segments.yaml; {suggest_name(name, list(specs.segments))}"
    holdouts = [one.key for one in specs.layers.holdouts]
    if who.held_out is not None and (not holdouts or who.held_out not in {True, *holdouts}):
        yield (
            "customers.held_out",
            f"{who.held_out!r} is not a holdout of layers.yaml; {suggest_name(who.held_out, holdouts)}",
        )
    for field, names in (("never", spec.never), ("always", spec.always)):
        for index, name in enumerate(names):
            key, _, variant = name.partition("=")
            experiment = specs.experiments.get(key)
            if experiment is None and (variant or key not in specs.offers):
                known = [*specs.offers, *specs.experiments]
                yield f"{field}[{index}]", f"{key!r} is neither an offer nor an experiment; {suggest_name(key, known)}"
            elif experiment is not None and variant:
                yield from ((f"{field}[{index}]", text) for text in _check_variants(experiment, [variant]))


def _check_expectation(key: str, value: object, spec: AssertionSpec, specs: Specs) -> Iterator[FieldProblem]:
    """Yield the problems of what is expected of one experiment, flag or placement, or of the power."""
    placements = {one.key for one in specs.channels.placements}
    if key == POWER:
        yield from _check_power(value, spec, specs)
    elif key in specs.experiments:
        yield from find_problems(value, ExpectedVariant) if isinstance(value, Mapping) else ()
        if _says_nothing(value, ExpectedVariant) or not all(_lists_of_variants(value)):
            yield "", f"{as_flow(value)} expects nothing; {ANY_VARIANT}"
        experiment = specs.experiments[key]
        if experiment.type in {None, "string"}:
            texts = [one for one in expected_variants(value) if isinstance(one, str)]
            yield from (("", message) for message in _check_variants(experiment, texts))
    elif key in placements:
        if isinstance(value, Mapping):
            yield from find_problems(value, ExpectedOffers)
            if _says_nothing(value, ExpectedOffers):
                yield "", f"{as_flow(value)} expects nothing; {ANY_OFFER}"
        names = [one for part in (value.values() if isinstance(value, Mapping) else [value]) for one in _texts(part)]
        reasons = _texts(value.get("reason")) if isinstance(value, Mapping) else []
        for name in names:
            if name not in specs.offers and name not in reasons:
                yield "", f"{name!r} is not an offer; {suggest_name(name, list(specs.offers))}"
    else:
        known = [*specs.experiments, *placements, POWER]
        yield "", f"{key!r} is neither an experiment nor a placement; {suggest_name(key, known)}"


def _says_nothing(value: object, kind: type[ExpectedVariant | ExpectedOffers]) -> bool:
    """Whether a mapping omits every expectation, so that each decision would meet it."""
    if not isinstance(value, Mapping):
        return False
    try:
        return msgspec.convert(value, kind, strict=False) == kind()
    except msgspec.ValidationError:
        return False  # `find_problems` reports it


def _lists_of_variants(value: object) -> Iterator[object]:
    """Yield the lists of alternative variants; every decision would meet an empty one."""
    for one in (value, value.get("variant") if isinstance(value, Mapping) else None):
        if isinstance(one, list):
            yield one


def _check_power(value: object, spec: AssertionSpec, specs: Specs) -> Iterator[FieldProblem]:
    if not isinstance(value, Mapping):
        yield "", f"{value!r} is not a mapping; write {{METRIC: 0.8, days: 14}}"
        return
    yield from find_problems(power_fields(value), ExpectedPower)
    if not power_fields(value)["metrics"]:
        yield "", f"{as_flow(value)} expects nothing; name a metric and its power, as in {{METRIC: 0.8, days: 14}}"
    known = [one.key for one in specs.metrics.metrics]
    for name in power_fields(value)["metrics"]:
        if name not in known:
            yield str(name), f"{name!r} is not in metrics.yaml; {suggest_name(name, known)}"
    experiments = measured_experiments(specs)
    if spec.experiment is not None and spec.experiment not in experiments:
        yield "", f"{spec.experiment!r} is not an experiment; {suggest_name(spec.experiment, list(experiments))}"


def measured_experiments(specs: Specs) -> dict[str, ExperimentSpec]:
    """The experiments and flags of a folder, and the rules of flags under the keys of their reports."""
    rules = {rule.key: rule for spec in specs.experiments.values() for rule in rule_experiments(spec)}
    return {**specs.experiments, **rules}


def power_fields(value: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """`{conversion: 0.8, days: 14}` as its metrics and its other keys."""
    others: dict[str, object] = {name: value[name] for name in ("days", "effect") if name in value}
    return {"metrics": {name: one for name, one in value.items() if name not in others}, **others}  # type: ignore[dict-item]


def expected_variants(value: object) -> list[object]:
    """The expected variants or values, of which one must be given; None stands for no variant."""
    if isinstance(value, Mapping):
        return expected_variants(value["variant"]) if "variant" in value else []
    return list(value) if isinstance(value, list) else [value]


def _check_variants(experiment: ExperimentSpec, names: list[str]) -> Iterator[str]:
    known = [one.key for one in experiment.variants]
    values = [one.payload.get("value") for one in experiment.variants]
    for name in names:
        if name not in known and name not in values:
            yield f"{name!r} is not a variant of {experiment.key}; {suggest_name(name, known)}"


def _texts(value: object) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
