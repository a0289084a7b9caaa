"""Conditions of other systems as trees, until they become audiences, filters and dates of a flag's rules.

A condition of ours cannot hash or ask the time, a rule can. A tree with a share or a time in it is therefore spread
over several rules: its disjunctive normal form has one rule for each alternative.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from engine.catalog.spec.hashed import HashName
from engine.imports.model import Criteria, Unsupported

MOST_ALTERNATIVES = 50
"""A condition that needs more rules than this is not imported: nobody could read them."""
LATEST = float("inf")


class TraitTest(msgspec.Struct, frozen=True):
    """A condition of ours."""

    condition: Criteria


class Hash(msgspec.Struct, frozen=True):
    """The hash that gives a unit its place in [0, 1); the `unit` is an attribute of the other system."""

    seed: str
    hash: HashName = "growthbook"
    hash_version: int = 2
    buckets: int | None = None
    unit: str = "id"


class InRange(msgspec.Struct, frozen=True):
    """The share of units whose place lies in [low, high)."""

    by: Hash
    low: float
    high: float

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The range, as those of `InRanges`."""
        return ((self.low, self.high),)


class InRanges(msgspec.Struct, frozen=True):
    """The share of units whose place lies in one of the ranges, which are in their order and do not meet."""

    by: Hash
    ranges: tuple[tuple[float, float], ...]

    def outside(self) -> "InRanges":
        """The share of all other units."""
        edges = [0.0, *(edge for one in self.ranges for edge in one), 1.0]
        return InRanges(self.by, tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b))


class During(msgspec.Struct, frozen=True):
    """The time from `start` up to `end` (s since 1970)."""

    start: float = -LATEST
    end: float = LATEST


class AllOf(msgspec.Struct, frozen=True):
    """Every part holds; without parts it always does."""

    parts: tuple["Tree", ...] = ()


class AnyOf(msgspec.Struct, frozen=True):
    """One of the parts holds; without parts it never does."""

    parts: tuple["Tree", ...] = ()


class NoneOf(msgspec.Struct, frozen=True):
    """The part does not hold."""

    part: "Tree"


Tree = TraitTest | InRange | InRanges | During | AllOf | AnyOf | NoneOf
ALWAYS, NEVER = AllOf(), AnyOf()
_Leaf = TraitTest | InRange | InRanges | During


class Alternative(msgspec.Struct, frozen=True):
    """The conditions of one rule."""

    audience: Criteria
    shares: tuple[InRange | InRanges, ...] = ()
    start: float = -LATEST
    end: float = LATEST


def trait(name: str, test: object) -> TraitTest:
    """The condition that one trait meets a test."""
    return TraitTest({name: test})


def all_of(parts: Sequence[Tree]) -> Tree:
    """Every part holds."""
    flat = [one for part in parts for one in (part.parts if isinstance(part, AllOf) else (part,))]
    if any(part == NEVER for part in flat):
        return NEVER
    return flat[0] if len(flat) == 1 else AllOf(tuple(flat))


def any_of(parts: Sequence[Tree]) -> Tree:
    """One of the parts holds."""
    flat = [one for part in parts for one in (part.parts if isinstance(part, AnyOf) else (part,))]
    if any(part == ALWAYS for part in flat):
        return ALWAYS
    return flat[0] if len(flat) == 1 else AnyOf(tuple(flat))


def negate(tree: Tree) -> Tree:
    """The tree does not hold."""
    if isinstance(tree, NoneOf):
        return tree.part
    if tree in (ALWAYS, NEVER):
        return NEVER if tree == ALWAYS else ALWAYS
    return NoneOf(tree)


def has_shares(tree: Tree) -> bool:
    """Whether the tree hashes or asks the time, which needs rules."""
    match tree:
        case InRange() | InRanges() | During():
            return True
        case AllOf(parts) | AnyOf(parts):
            return any(map(has_shares, parts))
        case NoneOf(part):
            return has_shares(part)
        case _:
            return False


def to_condition(tree: Tree) -> Criteria:
    """The condition of a tree without shares and times.

    Raises:
        Unsupported: for a share or a time, which no condition has.
    """
    match tree:
        case TraitTest(condition):
            return condition
        case AllOf(parts):
            return _join([to_condition(part) for part in parts])
        case AnyOf(()):
            return {"id": {"$in": []}}
        case AnyOf(parts):
            return {"$or": [to_condition(part) for part in parts]}
        case NoneOf(part):
            return {"$not": to_condition(part)}
        case _:
            raise Unsupported("has a share or a time inside a segment, where a condition cannot hash")


def alternatives(tree: Tree) -> list[Alternative]:
    """The rules' conditions of which one must hold; none where the tree never does.

    Raises:
        Unsupported: where it needs too many rules.
    """
    if not has_shares(tree):
        return [] if tree == NEVER else [Alternative(to_condition(tree))]
    found = list(islice(_spread(tree, negated=False), MOST_ALTERNATIVES + 1))
    if len(found) > MOST_ALTERNATIVES:
        raise Unsupported(f"needs more than {MOST_ALTERNATIVES} rules, as it combines shares by 'or'")
    return [one for one in map(_alternative, found) if one.start < one.end]


def _join(conditions: Sequence[Criteria]) -> Criteria:
    """One condition that holds where all do: in one mapping where their traits differ."""
    keys = [key for condition in conditions for key in condition]
    if len(keys) == len(set(keys)):
        return {key: value for condition in conditions for key, value in condition.items()}
    return {"$and": [condition for condition in conditions if condition]}


def _spread(tree: Tree, *, negated: bool) -> Iterator[tuple[_Leaf, ...]]:
    """Yield the conjunctions of which one must hold."""
    if not has_shares(tree):
        plain = negate(tree) if negated else tree
        if plain != NEVER:
            yield (TraitTest(to_condition(plain)),)
        return
    match tree:
        case InRange(by, low, high):
            kept = [(0.0, low), (high, 1.0)] if negated else [(low, high)]
            yield from ((InRange(by, part[0], part[1]),) for part in kept if part[0] < part[1])
        case InRanges():
            part_of = tree.outside() if negated else tree
            if part_of.ranges:
                yield (part_of,)
        case During(start, end):
            spans = [During(end=start), During(start=end)] if negated else [tree]
            yield from ((span,) for span in spans if span.start < LATEST and span.end > -LATEST)
        case NoneOf(part):
            yield from _spread(part, negated=not negated)
        case AllOf(parts) | AnyOf(parts):
            if isinstance(tree, AllOf) is not negated:
                yield from _product(parts, negated=negated)
            else:
                for part in parts:
                    yield from _spread(part, negated=negated)


def _product(parts: Sequence[Tree], *, negated: bool) -> Iterator[tuple[_Leaf, ...]]:
    if not parts:
        yield ()
        return
    for first in _spread(parts[0], negated=negated):
        for rest in _product(parts[1:], negated=negated):
            yield (*first, *rest)


def _alternative(leaves: Sequence[_Leaf]) -> Alternative:
    return Alternative(
        audience=_join([leaf.condition for leaf in leaves if isinstance(leaf, TraitTest) and leaf.condition]),
        shares=tuple(leaf for leaf in leaves if isinstance(leaf, InRange | InRanges)),
        start=max((leaf.start for leaf in leaves if isinstance(leaf, During)), default=-LATEST),
        end=min((leaf.end for leaf in leaves if isinstance(leaf, During)), default=LATEST),
    )
