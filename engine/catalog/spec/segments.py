"""Segments: named conditions, used as `{$segment: name}` wherever a condition may stand, without cycles.

A segment with a list of values is a group, used as `{id: {$inGroup: name}}`.
"""

from collections.abc import Iterator, Mapping

from engine.catalog.spec.experiment import SegmentSpec

_GROUPS: Mapping[str, str] = {"$inGroup": "$in", "$notInGroup": "$nin"}


def expand_segments(condition: Mapping[str, object], segments: Mapping[str, SegmentSpec]) -> dict[str, object]:
    """The condition with every `$segment` and group replaced by its definition.

    Raises:
        KeyError: for a segment that is not defined; `check` reports those, and cycles, before a plan is compiled.
    """
    out: dict[str, object] = {}
    terms: list[object] = []
    for key, value in condition.items():
        if key == "$segment":
            names = value if isinstance(value, list) else [value]
            terms += [expand_segments(segments[str(name)].condition or {}, segments) for name in names]
        elif key in {"$and", "$or", "$nor"} and isinstance(value, list):
            out[key] = [expand_segments(part, segments) if isinstance(part, Mapping) else part for part in value]
        elif key == "$not" and isinstance(value, Mapping):
            out[key] = expand_segments(value, segments)
        else:
            out[key] = _with_values(value, segments)
    if not terms:
        return out
    return {"$and": [*terms, *([out] if out else [])]}


def segments_in(condition: object) -> Iterator[str]:
    """Yield the segments that a condition names, at any depth."""
    if isinstance(condition, Mapping):
        for key, value in condition.items():
            if key == "$segment":
                yield from (str(name) for name in (value if isinstance(value, list) else [value]))
            elif key in {"$and", "$or", "$nor", "$not"}:
                yield from segments_in(value)
    elif isinstance(condition, list):
        for part in condition:
            yield from segments_in(part)


def groups_in(condition: object) -> Iterator[str]:
    """Yield the groups that a condition names, at any depth."""
    if isinstance(condition, Mapping):
        for key, value in condition.items():
            if key in _GROUPS and isinstance(value, str):
                yield value
            else:
                yield from groups_in(value)
    elif isinstance(condition, list):
        for part in condition:
            yield from groups_in(part)


def _with_values(value: object, segments: Mapping[str, SegmentSpec]) -> object:
    """The operand with each group operator replaced by `$in` or `$nin` over the group's values."""
    if isinstance(value, Mapping):
        return {
            _GROUPS.get(key, key): list(segments[part].values or [])
            if key in _GROUPS and isinstance(part, str)
            else _with_values(part, segments)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_with_values(part, segments) for part in value]
    return value


def find_cycle(needs: Mapping[str, list[str]]) -> list[str] | None:
    """A path of references that returns to its start (a, b, a), or None; for segments and prerequisites.

    Args:
        needs: by name, the names that it refers to; names that are not keys are ignored.
    """
    acyclic: set[str] = set()
    for start in needs:
        if start in acyclic:
            continue
        # Depth-first with a stack of its own: a chain of references may be longer than Python's recursion limit.
        path = [start]
        stack = [iter(needs[start])]
        while stack:
            following = next((name for name in stack[-1] if name in needs and name not in acyclic), None)
            if following is None:
                stack.pop()
                acyclic.add(path.pop())
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                path.append(following)
                stack.append(iter(needs[following]))
    return None
