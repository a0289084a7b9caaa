"""GrowthBook's experiments and features as our specs: what an import does, and how its cases are put to `assign`."""

from collections.abc import Iterator, Mapping
from typing import Any

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.experiment import (
    ExperimentSpec,
    FilterSpec,
    ForceSpec,
    LayersFile,
    LayerSpec,
    Prerequisite,
    SegmentSpec,
    Unit,
    VariantSpec,
)
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.metrics import MetricsFile
from engine.catalog.spec.offer import ChannelsFile, ChannelSpec
from engine.decision.assign import Assignment, Subject, assign
from engine.decision.sticky import new_sticky_entry

Json = dict[str, Any]
KINDS: tuple[Unit, ...] = ("customer", "device", "store")


class Imported:
    """One GrowthBook experiment in its context: its plan and the subject that it assigns."""

    def __init__(self, experiment: Json, context: Json, documents: list[Json] = []) -> None:  # noqa: B006 (not changed)
        self.experiment, self.attributes = experiment, context.get("attributes", {})
        self.kinds = dict(zip(_attributes(experiment), KINDS, strict=False))
        forced = context.get("forcedVariations", {}).get(experiment["key"], experiment.get("force"))
        self.spec = self._spec(forced, qa=context.get("qaMode", False))
        self.plan = self._plan(context)
        self.documents = {f"{d['attributeName']}||{d['attributeValue']}": d for d in documents}
        units: dict[Unit, str | None] = dict.fromkeys(KINDS)
        units |= {kind: self.attributes.get(name) for name, kind in self.kinds.items()}
        self.subject = Subject(units, frozenset({"tester"}), self.attributes, self._held(units))

    def run(self) -> Assignment:
        return assign(self.plan, self.plan.experiments[self.spec.key], self.subject, now=0.0)

    def documents_after(self, got: Assignment) -> dict[str, Json]:
        """The sticky documents after the assignment: an entry is stored under the first attribute that is there."""
        if got.reason not in {"assigned", "sticky"} or not self.spec.sticky:
            return self.documents
        name, kind = next((n, k) for n, k in self.kinds.items() if self.subject.units[k])
        unit = self.subject.units[kind]
        place = f"{name}||{unit}"
        held = self.documents.get(place, {}).get("assignments", {})
        own = {_held_as(key, kind, unit): variant for key, variant in held.items()}
        new = new_sticky_entry(self.spec, self.subject.units, own, self.spec.variants[got.index].key)
        assignments = held | {key.partition("@")[0]: variant for key, variant in new.items()}
        return self.documents | {
            place: {"attributeName": name, "attributeValue": unit, "assignments": assignments},
        }

    def _held(self, units: Mapping[Unit, str | None]) -> dict[str, str]:
        return {
            _held_as(key, kind, units[kind]): variant
            for name, kind in self.kinds.items()
            for key, variant in self.documents.get(f"{name}||{units[kind]}", {}).get("assignments", {}).items()
        }

    def _spec(self, forced: int | None, *, qa: bool) -> ExperimentSpec:
        one = self.experiment
        names = [str(meta["key"]) for meta in one.get("meta", [])] or [str(i) for i in range(len(one["variations"]))]
        weights = one.get("weights") or [None] * len(names)
        ranges = one.get("ranges") or [None] * len(names)
        return ExperimentSpec(
            key=one["key"],
            unit="customer",
            fallback_unit="device" if "fallbackAttribute" in one else None,
            layer=one["namespace"][0] if "namespace" in one and "filters" not in one else None,
            seed=one.get("seed", one["key"]),
            hash_version=one.get("hashVersion", 1),
            status="running" if one.get("active", True) else "stopped",
            audience=one.get("condition", {}),
            coverage=0.0 if qa else one.get("coverage", 1.0),
            prerequisites=[_prerequisite(parent) for parent in one.get("parentConditions", [])],
            filters=[
                FilterSpec(
                    seed=f["seed"],
                    unit=self.kinds[f.get("attribute", "id")],
                    hash_version=f.get("hashVersion", 2),
                    ranges=f["ranges"],
                )
                for f in one.get("filters", [])
            ],
            sticky=not one.get("disableStickyBucketing", False),
            bucket_version=one.get("bucketVersion", 0),
            min_bucket_version=one.get("minBucketVersion", 0),
            variants=[
                VariantSpec(key=key, weight=weight, range=part, payload={"value": value})
                for key, weight, part, value in zip(names, weights, ranges, one["variations"], strict=True)
            ],
            force=[] if forced is None else [ForceSpec(customers=["tester"], variant=names[forced])],
        )

    def _plan(self, context: Json) -> Plan:
        specs = [self.spec, *_flags(self.experiment, context)]
        layers = [
            LayerSpec(key=n, hash_version=1, reserve={self.spec.key: r})
            for n, *r in filter(None, [self.experiment.get("namespace")])
        ]
        groups = context.get("savedGroups", {}).items()
        return compile_plan(
            Specs(
                folder="growthbook",
                version="",
                files={},
                experiments={spec.key: spec for spec in specs},
                selections={},
                offers={},
                channels=ChannelsFile(channels=[ChannelSpec(key="web")]),
                layers=LayersFile(layers=layers),
                segments={name: SegmentSpec(key=name, values=values) for name, values in groups},
                metrics=MetricsFile(metrics=[]),
            )
        )


def _attributes(experiment: Json) -> Iterator[str]:
    named = [experiment.get("hashAttribute", "id"), experiment.get("fallbackAttribute")]
    return iter(dict.fromkeys(n for n in [*named, *(f.get("attribute") for f in experiment.get("filters", []))] if n))


def _held_as(key: str, kind: Unit, unit: str | None) -> str:
    return key if kind == "customer" else f"{key}@{unit}"


def _flags(experiment: Json, context: Json) -> Iterator[ExperimentSpec]:
    """The features that are prerequisites, each a flag of one variant: whether its value meets the condition."""
    for parent in experiment.get("parentConditions", []):
        value = context["features"][parent["id"]]["defaultValue"]
        met = compile_condition(parent["condition"])({"value": value})
        variant = VariantSpec(key="met" if met else "not_met", payload={"value": value})
        yield ExperimentSpec(key=parent["id"], kind="flag", variants=[variant])


def _prerequisite(parent: Json) -> Prerequisite:
    return Prerequisite(experiment=parent["id"], variants=["met"])
