"""The KPI tree of `metrics.yaml`: which metric is expected to drive which."""

from typing import Literal

from engine.catalog.spec.fields import Key, Spec

KpiTier = Literal["implementation", "strategy", "business"]
"""Operational lead measures, what customers experience, and what the business lives on, in the order of cause."""
KPI_TIERS: tuple[KpiTier, ...] = ("implementation", "strategy", "business")


class KpiSpec(Spec, frozen=True, kw_only=True):
    """One node of the KPI tree: a metric of this file, its tier, and the metrics that it is expected to drive.

    A driven metric is a node of its own, of the same tier or a later one. `assumed` is the slope that the team expects
    of such an edge: the change of the driven metric when this one rises by 1. `measure kpis` shows it beside the slope
    that past experiments have, and never computes with it.
    """

    metric: Key
    tier: KpiTier
    drives: list[Key] = []
    assumed: dict[Key, float] = {}
