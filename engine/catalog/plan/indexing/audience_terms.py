"""Terms of audiences in tables: those that compare one trait with texts or with numbers; all others are predicates."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.catalog.conditions.compile import Predicate, compile_condition, conjuncts
from engine.catalog.conditions.js_coercion import ARRAYS, NUMBERS, read_member, to_number, to_text
from engine.catalog.plan.indexing.bits import Bits, bits_by_name, bits_of

TextKind = Literal["equal", "$eq", "$in"]
Bound = Literal["$gt", "$gte", "$lt", "$lte"]


@dataclass(frozen=True, slots=True)
class Texts:
    """Text terms on one trait: `needing` are the offers with a term, `having` those that accept a text."""

    path: tuple[str, ...]
    kind: TextKind
    needing: Bits
    having: Mapping[str, Bits]

    def failing(self, attributes: Mapping[str, object]) -> Bits:
        """The offers whose term is false; coerces values as `compile_condition` does."""
        value = _read_path(attributes, self.path)
        having = self.having
        if isinstance(value, str):
            return self.needing ^ (self.needing & having.get(value, 0))
        if self.kind == "equal":
            return self.needing ^ (self.needing & having.get(to_text(value), 0))
        accepting = 0
        if self.kind == "$in" and isinstance(value, ARRAYS):
            for item in value:
                if isinstance(item, str):
                    accepting |= having.get(item, 0)
        return self.needing ^ (self.needing & accepting)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numeric terms on one trait.

    For a value between `edges[i - 1]` and `edges[i]` the offers `below[i]` fail; for one equal to `edges[i]`, `at[i]`.
    """

    path: tuple[str, ...]
    edges: Sequence[float]
    below: Sequence[Bits]
    at: Sequence[Bits]
    needing: Bits

    def failing(self, attributes: Mapping[str, object]) -> Bits:
        """The offers with a bound that the value breaks; a value that is not a number breaks all bounds."""
        value = to_number(_read_path(attributes, self.path))
        if value != value:  # noqa: PLR0124 (NaN is the one number that is not itself)
            return self.needing
        place = bisect_right(self.edges, value)
        if place and self.edges[place - 1] == value:
            return self.at[place - 1]
        return self.below[place]


def index_audiences(
    audiences: Sequence[Mapping[str, object]],
) -> tuple[tuple[Texts, ...], tuple[Bounds, ...], tuple[tuple[Predicate, Bits], ...]]:
    """The terms of all audiences: those on texts, those on numbers, and the others as predicates."""
    texts: dict[tuple[str, TextKind], dict[str, list[int]]] = {}
    needing: dict[tuple[str, TextKind], dict[int, None]] = {}
    bounds: dict[str, list[tuple[float, Bound, int]]] = {}
    others: dict[str, tuple[Mapping[str, object], list[int]]] = {}
    for place, audience in enumerate(audiences):
        for term in conjuncts(audience):
            named = _parse_text_term(term)
            bound = _parse_bound(term)
            # A second term on the same trait needs both to hold, which one table cannot express.
            if named is not None and place not in needing.get(named[:2], ()):
                path, kind, options = named
                needing.setdefault((path, kind), {})[place] = None
                table = texts.setdefault((path, kind), {})
                for option in dict.fromkeys(options):
                    table.setdefault(option, []).append(place)
            elif bound is not None:
                path, operator, number = bound
                bounds.setdefault(path, []).append((number, operator, place))
            else:
                others.setdefault(repr(term), (term, []))[1].append(place)
    return (
        tuple(
            Texts(
                path=tuple(path.split(".")),
                kind=kind,
                needing=bits_of(needing[path, kind]),
                having=bits_by_name(table, len(audiences)),
            )
            for (path, kind), table in texts.items()
        ),
        tuple(_index_bounds(path, terms) for path, terms in bounds.items()),
        tuple((compile_condition(term), bits_of(places)) for term, places in others.values()),
    )


def _index_bounds(path: str, terms: Sequence[tuple[float, Bound, int]]) -> Bounds:
    """Sweeps the edges upwards and records which offers fail below the lowest edge, at each edge, and above it.

    An offer with several bounds on the trait fails while any of them does, hence a count of broken bounds per offer.
    """
    needing = bits_of(place for _, _, place in terms)
    counts: dict[int, int] = {}
    failing = 0

    def count_broken(changes: Iterable[tuple[int, int]]) -> None:
        nonlocal failing
        flipped = set[int]()
        for place, change in changes:
            before = counts.get(place, 0)
            counts[place] = before + change
            if bool(before) != bool(counts[place]):
                flipped ^= {place}
        failing ^= bits_of(flipped)

    by_edge: dict[float, list[tuple[Bound, int]]] = {}
    for number, operator, place in terms:
        by_edge.setdefault(number, []).append((operator, place))
    count_broken((place, 1) for _, operator, place in terms if operator in ("$gt", "$gte"))
    below, at = [failing], []
    edges = sorted(by_edge)
    for edge in edges:
        here = by_edge[edge]
        count_broken(
            (place, -1 if operator == "$gte" else 1) for operator, place in here if operator in ("$gte", "$lt")
        )
        at.append(failing)
        count_broken((place, -1 if operator == "$gt" else 1) for operator, place in here if operator in ("$gt", "$lte"))
        below.append(failing)
    return Bounds(path=tuple(path.split(".")), edges=edges, below=below, at=at, needing=needing)


def _parse_text_term(term: Mapping[str, object]) -> tuple[str, TextKind, list[str]] | None:
    """The trait and texts of a term that accepts only these texts; None for any other term."""
    ((path, value),) = term.items()
    if path.startswith("$"):
        return None
    if isinstance(value, str):
        return path, "equal", [value]
    if isinstance(value, Mapping) and len(value) == 1:
        ((operator, operand),) = value.items()
        if operator == "$eq" and isinstance(operand, str):
            return path, "$eq", [operand]
        if operator == "$in" and isinstance(operand, list) and all(isinstance(o, str) for o in operand):
            return path, "$in", operand
    return None


def _parse_bound(term: Mapping[str, object]) -> tuple[str, Bound, float] | None:
    """The trait, operator and number of a numeric term; None for any other term."""
    ((path, value),) = term.items()
    if path.startswith("$") or not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((operator, operand),) = value.items()
    if isinstance(operand, bool) or not isinstance(operand, NUMBERS) or operand != operand:  # noqa: PLR0124 (NaN)
        return None
    return (path, operator, operand) if operator in ("$gt", "$gte", "$lt", "$lte") else None


def _read_path(attributes: Mapping[str, object], path: tuple[str, ...]) -> object:
    """The value at a dotted path; None if a part is missing."""
    value: object = attributes
    for name in path:
        if value is None:
            return None
        value = value.get(name) if type(value) is dict else read_member(value, name)
    return value
