"""The YAML of an experiment's end."""

from datetime import date

from engine.catalog.spec.fields import Spec, Text


class ConclusionSpec(Spec, frozen=True, kw_only=True):
    """The end of an experiment: the day, the person, and the reason or what was learnt. Its report ends then."""

    on: date
    by: Text | None = None
    why: Text | None = None
