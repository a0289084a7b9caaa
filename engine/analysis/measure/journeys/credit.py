"""Credit for conversions by rules, Shapley value and Markov removal. None of them is a causal effect.

Every rule shares a journey's conversions out among its touches, so the credits sum to the conversions.

- first, last, linear; position: 40 % first, 40 % last, the rest between; decay: half a touch's weight per half-life
  before the conversion (per touch, in a table of paths without times).
- Shapley: the value of a set of names is the conversions of journeys within it. Then the Shapley value of a name is
  its equal share of each journey it is in, by the linearity of the value (Shapley 1953).
- Markov: the share of conversions that is lost if every journey ended where a name stands, normalized over the names
  (Anderl, Becker, von Wangenheim and Schumann 2016, "Mapping the Customer Journey").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource
    from policies.batches import Floats

RULES: Final = ("first", "last", "linear", "position", "decay", "shapley", "markov")
_CREDITS = """
WITH weighed AS (
    SELECT journey, name, conversions, value,
        CASE WHEN place = 1 THEN 1.0 ELSE 0.0 END AS first, CASE WHEN place = length THEN 1.0 ELSE 0.0 END AS last,
        1.0 / length AS linear,
        CASE WHEN length = 1 THEN 1.0 WHEN length = 2 THEN 0.5 WHEN place IN (1, length) THEN 0.4
            ELSE 0.2 / (length - 2) END AS position,
        pow(0.5, coalesce(age / {half_life}, length - place)) AS decay,
        1.0 / count(*) OVER (PARTITION BY journey, name) AS once
    FROM steps WHERE converts
), shares AS (
    SELECT *, decay / sum(decay) OVER (PARTITION BY journey) AS decayed,
        once / sum(once) OVER (PARTITION BY journey) AS shapley
    FROM weighed
)
SELECT name, {sums} FROM shares GROUP BY name
"""
_MOVES = """
SELECT coalesce(name, ''), following, sum(journeys) FROM (
    SELECT name, journeys, coalesce(lead(name) OVER steps, CASE WHEN converts THEN '+' ELSE '-' END) AS following
    FROM steps WINDOW steps AS (PARTITION BY journey ORDER BY place)
    UNION ALL SELECT NULL, journeys, name FROM steps WHERE place = 1
) GROUP BY ALL
"""


class CreditRow(msgspec.Struct, frozen=True, kw_only=True):
    """The conversions and the value that each rule credits to one name."""

    name: str
    touches: int
    conversions: dict[str, float]
    value: dict[str, float]
    removal: float
    """The share of conversions that is lost without it, by the Markov chain, before normalization."""


def credit_names(source: EventSource, half_life: float) -> list[CreditRow]:
    """The credits of every name in `steps`, most last-touch conversions first."""
    touches = {str(n): int(str(c)) for n, c in source.rows("SELECT name, count(*) FROM steps GROUP BY name")}
    if not touches:
        return []
    columns = ("first", "last", "linear", "position", "decayed", "shapley")
    sums = ", ".join(f"sum({column} * conversions), sum({column} * value)" for column in columns)
    rows = source.rows(_CREDITS, half_life=repr(half_life), sums=sums)
    found = {str(row[0]): [float(cell or 0) for cell in row[1:]] for row in rows}
    total, worth = (sum(row[at] for row in found.values()) for at in (0, 1))
    removal = _removal_effects(source)
    whole = sum(removal.values())
    found_rows = []
    for name, count in touches.items():
        cells = found.get(name, [0.0] * 2 * len(columns))
        share = removal[name] / whole if whole > 0 else 0.0
        conversions = [*cells[::2], share * total]
        value = [*cells[1::2], share * worth]
        found_rows.append(
            CreditRow(
                name=name,
                touches=count,
                conversions=dict(zip(RULES, conversions, strict=True)),
                value=dict(zip(RULES, value, strict=True)),
                removal=removal[name],
            )
        )
    return sorted(found_rows, key=lambda row: (-row.conversions["last"], row.name))


def _removal_effects(source: EventSource) -> dict[str, float]:
    """The share of the chain's conversions that is lost if a name leads nowhere, for each name.

    With Q the moves between names, the visits of a start s are s (I - Q)^-1. Removing a name loses what it converts
    and what is reached through it: its visits times the chance to convert from it, over its expected returns.
    """
    moves = [(str(a), str(b), float(n or 0)) for a, b, n in source.rows(_MOVES)]
    names = sorted({a for a, _, _ in moves if a})
    index = {name: at for at, name in enumerate(names)}
    between, start, converts = np.zeros((len(names),) * 2), np.zeros(len(names)), np.zeros(len(names))
    out = np.zeros(len(names))
    for one, other, count in moves:
        if one == "":
            start[index[other]] += count
            continue
        out[index[one]] += count
        if other == "+":
            converts[index[one]] += count
        elif other != "-":
            between[index[one], index[other]] += count
    if start.sum() == 0:
        return dict.fromkeys(names, 0.0)
    safe = np.where(out > 0, out, 1.0)
    lost = _lost(between / safe[:, None], start / start.sum(), converts / safe)
    return dict(zip(names, lost.tolist(), strict=True))


def _lost(moves: Floats, start: Floats, converts: Floats) -> Floats:
    inverse = np.linalg.inv(np.eye(len(start)) - moves)
    visits, chance = start @ inverse, inverse @ converts
    total = float(start @ chance)
    if total <= 0:
        return np.zeros(len(start))
    # visits / returns is the probability of ever being there; what it would convert from there on is lost.
    return np.asarray(visits / np.diag(inverse) * chance / total)
