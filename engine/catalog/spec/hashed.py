"""The hash that gives a unit its place in [0, 1): shared by experiments, rules of flags and filters."""

from typing import Literal

from engine.catalog.spec.fields import Count, Spec

HashName = Literal[
    "growthbook",
    "unleash",
    "unleash_variants",
    "launchdarkly",
    "flagd",
    "flagd_text",
    "flagd_unit",
    "flagsmith",
    "eppo",
    "confidence",
]
USUAL_BUCKETS = {"unleash": 100, "unleash_variants": 1000, "eppo": 10_000, "confidence": 1_000_000}
"""The places of the hashes that have a number of them."""


class Hashed(Spec, frozen=True, kw_only=True):
    """The hash: GrowthBook's in one of its versions, or with `hash` that of another system.

    `counterpoint import` writes `hash`, so that everyone keeps what they have. `buckets` is the number of places, for
    `unleash` (by default 100), `unleash_variants` (1000), `eppo` (10,000) and `confidence` (1,000,000).
    """

    hash_version: Literal[1, 2] = 2
    hash: HashName = "growthbook"
    buckets: Count | None = None
