"""Metrics as terms over a frame with one row per unit, and the short form `kind:COL` for tables."""

import re
from typing import Literal

import msgspec

from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS, MetricKind, MetricKindName

Direction = Literal["increase", "decrease"]
Role = Literal["primary", "secondary", "guardrail"]
Adjust = Literal["cuped", "lin"]  # one slope for both arms, or each its own

PerUnit = Literal["sum", "any", "rows"]
"""The value of a unit with several rows: their sum, whether any is not 0, or one value per row."""

_TABLE_KINDS: dict[str, MetricKind] = {kind.name: kind for kind in METRIC_KINDS.values() if kind.table_form}
_PER_UNIT: dict[str, tuple[MetricKind, PerUnit]] = {
    "sum": (METRIC_KINDS["mean"], "sum"),
    "any": (METRIC_KINDS["proportion"], "any"),
    "per-row mean": (METRIC_KINDS["mean"], "rows"),
}
"""Forms that say what the rows of one unit are to it; they need a column of the unit."""
_SPEC = re.compile(r"(?P<kind>per-row mean|\w+):(?P<body>[^|]+?)(?:\|(?P<covariates>.+))?")


class Term(msgspec.Struct, frozen=True):
    """A mean of `num` over units, or with `den` a ratio of sums (delta method), plus the constant `offset`."""

    num: str
    den: str | None = None
    offset: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the term, numerator first."""
        return (self.num,) if self.den is None else (self.num, self.den)

    def __str__(self) -> str:
        return "/".join(self.columns)


class Measure(msgspec.Struct, frozen=True):
    """A metric over a unit frame: `y`, and covariates from before the exposure that explain part of it.

    `margin` is the relative loss that a guardrail tolerates (non-inferiority); `quantile` is set for that kind only.
    """

    name: str
    kind: MetricKindName
    y: Term
    covariates: tuple[Term, ...] = ()
    quantile: float | None = None
    direction: Direction = "increase"
    role: Role = "secondary"
    margin: float = 0.0
    adjust: Adjust = "cuped"
    stratified: bool = False  # its moments are weighted over strata, so they are no counts
    per_unit: PerUnit | None = None  # None: one value per row, which the metric does not say

    @property
    def rules(self) -> MetricKind:
        """The rules of the measure's kind."""
        return METRIC_KINDS[self.kind]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the measure: those of `y`, then those of each covariate."""
        return self.y.columns + tuple(column for term in self.covariates for column in term.columns)


def parse_term(text: str) -> Term:
    """`COL` or `NUM/DEN` as a Term."""
    num, slash, den = text.partition("/")
    return Term(num.strip(), den.strip() if slash else None)


def parse_measure(text: str, covariates: tuple[str, ...] = ()) -> Measure:
    """`mean:COL`, `proportion:COL`, `ratio:NUM/DEN` or `quantile:COL@0.9`, optionally with `|COVARIATE,…`.

    Of units with several rows `sum:COL` is the mean of their sums, `any:COL` the share with a value other than 0, and
    `per-row mean:COL` the mean of rows, as `mean:COL`. A leading minus says that less is better: `-mean:latency_ms`.

    Args:
        text: the specification.
        covariates: terms used when the text names none of its own.

    Raises:
        BadInput: if the text is none of these.
    """
    direction: Direction = "decrease" if text.strip().startswith("-") else "increase"
    match = _SPEC.fullmatch(text.strip().removeprefix("-"))
    kind, per_unit = _PER_UNIT.get(match["kind"], (_TABLE_KINDS.get(match["kind"]), None)) if match else (None, None)
    if match is None or kind is None:
        forms = (*(str(known.table_form) for known in _TABLE_KINDS.values()), *(f"{form}:COL" for form in _PER_UNIT))
        raise BadInput(f"metric {text!r} is not a metric; write {', '.join(forms[:-1])} or {forms[-1]}")
    body, names = match["body"].strip(), match["covariates"]
    if names and not kind.takes_covariates:
        raise BadInput(f"metric {text!r}: a {kind.name} takes no covariate; leave |{names} out")
    if kind.has_level:
        column, at, level = body.rpartition("@")
        if not at or not re.fullmatch(r"0?\.\d+", level):
            example = f"{kind.name}:{column or body}@0.9"
            raise BadInput(f"metric {text!r} needs a level between 0 and 1 after '@', as in {example}")
        return Measure(body, kind.name, Term(column.strip()), quantile=float(level), direction=direction)
    terms = tuple(parse_term(part) for part in (names.split(",") if names else covariates))
    if not all(column for term in (parse_term(body), *terms) for column in term.columns):
        raise BadInput(f"metric {text!r}: a column has no name; write NUM/DEN, as in ratio:orders/sessions")
    if kind.has_denominator != ("/" in body):
        raise BadInput(f"metric {text!r}: only a ratio has NUM/DEN, as in ratio:orders/sessions")
    name = f"{match['kind']}:{body}" if per_unit else body
    return Measure(name, kind.name, parse_term(body), terms, direction=direction, per_unit=per_unit)
