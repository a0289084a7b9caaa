"""Finds the YAML lines that differ between two folders, each of which can be applied to the old folder alone.

A line is a value at a path that is not a mapping: a number, a text, a list. A list whose entries have a `key` is a
mapping by that key, one of as many mappings on both sides is one by their places, and any other changes whole. A file
on one side only is one line, and so is a feed.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import yaml

from engine.catalog.archived_plan import KEPT
from engine.catalog.check.load import build_specs
from engine.catalog.check.yaml_text import decode_yaml
from engine.catalog.feeds.rows import SUFFIXES
from engine.catalog.spec.folder import Specs
from engine.errors import CatalogError

FolderFiles = Mapping[str, bytes]
Steps = tuple[str, ...]
ABSENT = msgspec.UNSET
ORDER = "\0order"
"""The key under which a tree has the order of a list's keys."""
MOST_PAIRED = 24
"""Changed lines up to which every pair is tried; of more, the lines of a file go together."""


class ChangedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One changed value: its file, line, path and values; a removed line has its old number.

    A value is absent on the side that does not have it. The `path` of a whole file is empty, its values are its name.
    """

    file: str
    line: int
    path: str
    old: object = ABSENT
    new: object = ABSENT


class LineChange(msgspec.Struct, frozen=True, kw_only=True):
    """A changed line, and the `steps` in its file's tree at which it is applied."""

    shown: ChangedLine
    steps: Steps


def changed_lines(old: FolderFiles, new: FolderFiles) -> list[LineChange]:
    """The lines that differ, sorted by file and place."""
    found: list[LineChange] = []
    for name in sorted({*old, *new}):
        if name.startswith(KEPT) or old.get(name) == new.get(name):
            continue
        is_whole = name not in old or name not in new or name.endswith(SUFFIXES)
        before, after = (None if is_whole else _tree_of(name, side[name]) for side in (old, new))
        if before is None or after is None:
            values = {"old": ABSENT if name not in old else name, "new": ABSENT if name not in new else name}
            found.append(LineChange(shown=ChangedLine(file=name, line=1, path="", **values), steps=()))
            continue
        lines = [_line_numbers(side[name]) for side in (old, new)]
        for steps, one, two in _compare_trees(before, after, ()):
            at = lines[two is ABSENT].get(steps) or lines[two is not ABSENT].get(steps) or 1
            shown = ChangedLine(file=name, line=at, path=_shown_path(steps), old=_plain(one), new=_plain(two))
            found.append(LineChange(shown=shown, steps=steps))
    return found


def apply_lines(old: FolderFiles, new: FolderFiles, changes: Iterable[LineChange]) -> dict[str, bytes]:
    """The files of `old` after some of the changes to `new`."""
    files = {**old, **{name: data for name, data in new.items() if name.startswith(KEPT)}}
    trees: dict[str, tuple[object, object]] = {}
    for change in changes:
        name = change.shown.file
        if not change.steps:
            if name in new:
                files[name] = new[name]
            else:
                files.pop(name, None)
            continue
        before, after = trees.setdefault(name, (_tree_of(name, old[name]), _tree_of(name, new[name])))
        _copy_value(before, after, change.steps)
    return {**files, **{name: json.dumps(_untree(tree)).encode() for name, (tree, _) in trees.items()}}


def valid_groups(
    folder: str,
    old: FolderFiles,
    new: FolderFiles,
    changes: Sequence[LineChange],
    environment: str | None = None,
) -> list[tuple[list[LineChange], Specs]]:
    """The smallest groups of changes that each give a valid plan, in the order of the changes, with their specs.

    Most are one line. A line that is no plan alone goes with another one, else with those of its file, else with all
    that are none alone, else with all. A change that is in a valid group of fewer is not in one of more for its sake.
    The `environment` is that of the flags; None takes that of the process.
    """

    def attempt(group: Sequence[LineChange]) -> Specs | None:
        try:
            return build_specs(folder, apply_lines(old, new, group), environment=environment)
        except CatalogError:
            return None

    groups: list[tuple[list[LineChange], Specs]] = []
    alone = [attempt([change]) for change in changes]
    broken = [change for change, specs in zip(changes, alone, strict=True) if specs is None]
    covered: list[LineChange] = []
    for change, specs in zip(changes, alone, strict=True):
        if specs is not None:
            groups.append(([change], specs))
        elif change not in covered:
            group, found = _grow(attempt, change, changes, broken)
            if found is not None:
                groups.append((group, found))
                covered += group
    return groups


def _grow(
    attempt: Callable[[Sequence[LineChange]], Specs | None],
    change: LineChange,
    changes: Sequence[LineChange],
    broken: Sequence[LineChange],
) -> tuple[list[LineChange], Specs | None]:
    """The smallest valid group that contains a change, and its specs."""
    others = [one for one in changes if one is not change]
    pairs = ([one, change] for one in [*broken, *others] if one is not change and len(changes) <= MOST_PAIRED)
    of_file = [one for one in changes if one.shown.file == change.shown.file]
    for group in itertools.chain(pairs, [of_file, list(broken), list(changes)]):
        ordered = [one for one in changes if one in group]
        specs = attempt(ordered)
        if specs is not None:
            return ordered, specs
    return [], None


def _tree_of(name: str, data: bytes) -> object:
    """A file's value with lists of keyed entries as mappings."""
    return _as_tree(decode_yaml(data, name).value)


def _as_tree(value: object) -> object:
    if isinstance(value, dict):
        return {key: _as_tree(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, dict) and "key" in one for one in value):
        keys = [str(one["key"]) for one in value]
        if len(set(keys)) == len(keys):
            return {ORDER: keys} | {key: _as_tree(one) for key, one in zip(keys, value, strict=True)}
    return value


def _untree(tree: object) -> object:
    """The plain value of a tree."""
    if not isinstance(tree, dict):
        return tree
    order = tree.get(ORDER)
    if isinstance(order, list):
        return [_untree(tree[key]) for key in order]
    return {key: _untree(one) for key, one in tree.items()}


def _plain(value: object) -> object:
    return value if value is ABSENT else _untree(value)


def _compare_trees(before: object, after: object, steps: Steps) -> Iterator[tuple[Steps, object, object]]:
    """Yield the steps to each differing value, with both values."""
    if _are_alike(before, after):
        for place, (one, two) in enumerate(zip(_items(before), _items(after), strict=True)):
            yield from _compare_trees(one, two, (*steps, f"[{place}]"))
        return
    if not isinstance(before, dict) or not isinstance(after, dict) or (ORDER in before) != (ORDER in after):
        if type(before) is not type(after) or before != after:
            yield steps, before, after
        return
    orders = [[key for key in side.get(ORDER, ()) if key in before and key in after] for side in (before, after)]
    if orders[0] != orders[1]:  # the order of entries may matter, so the list changes whole
        yield steps, before, after
        return
    for key in [*before, *(key for key in after if key not in before)]:
        if key == ORDER:
            continue
        one, two = before.get(key, ABSENT), after.get(key, ABSENT)
        if one is ABSENT or two is ABSENT:
            yield (*steps, key), one, two
        else:
            yield from _compare_trees(one, two, (*steps, key))


def _copy_value(before: object, after: object, steps: Steps) -> None:
    """Copy the value at `steps` from one tree to another, or remove it there."""
    one, two = before, after
    for step in steps[:-1]:
        one, two = _child(one, step), _child(two, step)
    if not isinstance(one, dict) or not isinstance(two, dict):
        return
    last = steps[-1]
    if last in two:
        one[last] = two[last]
    else:
        one.pop(last, None)
    if isinstance(two.get(ORDER), list):
        kept = [key for key in two[ORDER] if key in one]
        one[ORDER] = kept + [key for key in one.get(ORDER, ()) if key in one and key not in kept]


def _child(tree: object, step: str) -> object:
    if isinstance(tree, list):
        return tree[int(step[1:-1])]
    return tree.get(step) if isinstance(tree, dict) else None


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _are_alike(before: object, after: object) -> bool:
    """Whether both are lists of mappings with the same length, which are compared by position."""
    sides = _items(before), _items(after)
    return 0 < len(sides[0]) == len(sides[1]) and all(isinstance(one, dict) for side in sides for one in side)


def _shown_path(steps: Steps) -> str:
    return ".".join(steps).replace(".[", "[")


def _line_numbers(data: bytes) -> dict[Steps, int]:
    """The line of each value by its steps, counted from 1."""
    found: dict[Steps, int] = {}
    node = yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    if node is not None:
        _add_lines(node, (), found)
    return found


def _add_lines(node: yaml.Node, steps: Steps, found: dict[Steps, int]) -> None:
    found.setdefault(steps, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*steps, str(key.value))
            found[inner] = key.start_mark.line + 1
            _add_lines(value, inner, found)
    elif isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            _add_lines(item, (*steps, _key_of(item) or f"[{place}]"), found)


def _key_of(node: yaml.Node) -> str | None:
    """The `key` of a list entry."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((str(value.value) for key, value in node.value if key.value == "key"), None)
