"""Segments: named conditions, written `{$segment: name}` wherever a condition stands, without cycles.

A segment of values is a group: `{id: {$inGroup: name}}`.
"""

from collections.abc import Iterator, Mapping

from engine.catalog.spec.experiment import SegmentSpec

_GROUPS: Mapping[str, str] = {"$inGroup": "$in", "$notInGroup": "$nin"}


def expand_segments(condition: Mapping[str, object], segments: Mapping[str, SegmentSpec]) -> dict[str, object]:
    """The condition with every `$segment` and every group replaced by what it stands for.

    Raises:
        KeyError: for a segment that is not defined; `check` reports those, and cycles, before.
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
    """The segments that a condition names, at any depth where one may stand."""
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
    """The groups that a condition names, at any depth."""
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
    """A way that leads back to where it began (a, b, a), or None; for segments and for prerequisites."""
    done: set[str] = set()
    for start in needs:
        way: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = []
        node = start
        if node in done:
            continue
        stack.append((node, iter(needs[node])))
        way.append(node)
        while stack:
            node, rest = stack[-1]
            after = next((n for n in rest if n in needs and n not in done), None)
            if after is None:
                done.add(node)
                stack.pop()
                way.pop()
            elif after in way:
                return [*way[way.index(after) :], after]
            else:
                stack.append((after, iter(needs[after])))
                way.append(after)
    return None
