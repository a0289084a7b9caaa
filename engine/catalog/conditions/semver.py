"""The operator `$semver`: versions by the precedence of Semantic Versioning 2.0 (https://semver.org, item 11).

| operand | matches a version that is |
|---|---|
| `=1.2.3`, `!=1.2.3`, `<1.2.3`, `<=1.2.3`, `>1.2.3`, `>=1.2.3` | equal, other, lower, higher |
| `^1.2.3`, `~1.2.3` | of the same major version; of the same major and minor version |

A list matches where one of its operands does. A leading `v` and missing minor and patch versions are accepted, and
build metadata does not count. What is no version matches nothing, also not `!=`. GrowthBook's `$vgt` and its like
compare padded text instead, which is the same for complete versions with numbers below 100,000.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

_VERSION = re.compile(
    r"[vV]?(0|[1-9][0-9]{0,17})(?:\.(0|[1-9][0-9]{0,17}))?(?:\.(0|[1-9][0-9]{0,17}))?"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_OPERAND = re.compile(r"(!=|<=|>=|[=<>^~])? *(.+)")
_Part = tuple[int, int, str]


class SemanticVersion(NamedTuple):
    """A version in sort order: a release follows its pre-releases."""

    major: int
    minor: int
    patch: int
    is_release: bool
    labels: tuple[_Part, ...]


def read_version(value: object) -> SemanticVersion | None:
    """The version in a text; None if the text is not a version.

    >>> read_version("1.0.0-rc.2") < read_version("v1.0.0-rc.10") < read_version("1")
    True
    """
    found = _VERSION.fullmatch(value) if isinstance(value, str) and len(value) <= 200 else None
    if found is None:
        return None
    labels = tuple(map(_order, found[4].split("."))) if found[4] else ()
    return SemanticVersion(int(found[1]), int(found[2] or 0), int(found[3] or 0), not labels, labels)


def compile_semver(operand: object) -> Callable[[object], bool]:
    """The test of `$semver`; it is never true for an operand that `is_semver_operand` rejects."""
    tests = [test for test in map(_compile, operand if isinstance(operand, list | tuple) else [operand]) if test]

    def matches(value: object) -> bool:
        version = read_version(value)
        return version is not None and any(test(version) for test in tests)

    return matches


def is_semver_operand(operand: object) -> bool:
    """Whether `$semver` can be compiled with this operand."""
    parts = operand if isinstance(operand, list | tuple) else [operand]
    return bool(parts) and all(_compile(part) is not None for part in parts)


def _order(label: str) -> _Part:
    """The sort key of a pre-release label: numbers first, by value, then texts by characters."""
    return (0, int(label), "") if label.isdigit() and len(label) < 19 else (1, 0, label)


def _compile(operand: object) -> Callable[[SemanticVersion], bool] | None:
    found = _OPERAND.fullmatch(operand) if isinstance(operand, str) else None
    bound = read_version(found[2]) if found else None
    if found is None or bound is None:
        return None
    tests: dict[str, Callable[[SemanticVersion], bool]] = {
        "=": lambda version: version == bound,
        "!=": lambda version: version != bound,
        "<": lambda version: version < bound,
        "<=": lambda version: version <= bound,
        ">": lambda version: version > bound,
        ">=": lambda version: version >= bound,
        "^": lambda version: version.major == bound.major,
        "~": lambda version: version[:2] == bound[:2],
    }
    return tests[found[1] or "="]
