"""Operators of texts, versions, addresses and remainders: their matches, and what `check` says of operands."""

from typing import Any

import pytest

from engine.catalog.conditions.check import condition_problems
from engine.catalog.conditions.compile import compile_condition

CASES: list[tuple[dict[str, Any], Any, bool]] = [
    ({"$startsWith": "Kaf"}, "Kaffee", True),
    ({"$startsWith": "kaf"}, "Kaffee", False),
    ({"$startsWith": ["Tee", "Kaf"]}, "Kaffee", True),
    ({"$startsWith": "1"}, 12, False),
    ({"$endsWith": "@example.com"}, "ada@example.com", True),
    ({"$endsWith": "@example.com"}, "ada@example.org", False),
    ({"$contains": "ff"}, "Kaffee", True),
    ({"$contains": ["xx", "ff"]}, ["Tee", "Kaffee"], True),
    ({"$contains": "ff"}, None, False),
    ({"$not": {"$contains": "ff"}}, None, True),
    ({"$semver": ">=1.2.3"}, "1.10.0", True),
    ({"$semver": ">=1.2.3"}, "v1.2", False),
    ({"$semver": "=1.2"}, "1.2.0+build.7", True),
    ({"$semver": "2.0.0"}, "2", True),
    ({"$semver": "!=2.0.0"}, "2.0.0", False),
    ({"$semver": "!=2.0.0"}, "two", False),
    ({"$semver": "<2.0.0"}, "2.0.0-rc.1", True),
    ({"$semver": "<2.0.0-rc.2"}, "2.0.0-rc.10", False),
    ({"$semver": ">2.0.0-1"}, "2.0.0-alpha", True),
    ({"$semver": ">2.0.0-alpha"}, "2.0.0-alpha.0", True),
    ({"$semver": "^2.0.0"}, "2.9.1", True),
    ({"$semver": "~2.1.0"}, "2.2.0", False),
    ({"$semver": ["<1.0.0", ">=2.0.0"]}, "2.1.0", True),
    ({"$semver": "=1.0.0"}, 1, False),
    ({"$semver": "=1.0.0"}, "01.0.0", False),
    ({"$semver": "=1.0.0"}, None, False),
    ({"$ip": "10.0.0.0/8"}, "10.20.30.40", True),
    ({"$ip": "10.0.0.0/8"}, "11.0.0.1", False),
    ({"$ip": ["192.0.2.1", "2001:db8::/32"]}, "192.0.2.1", True),
    ({"$ip": ["192.0.2.1", "2001:db8::/32"]}, "2001:DB8:0::7", True),
    ({"$ip": "10.0.0.0/8"}, "::ffff:10.0.0.1", True),
    ({"$ip": "::/0"}, "no address", False),
    ({"$ip": "0.0.0.0/0"}, 167772161, False),
    ({"$mod": [4, 0]}, 8, True),
    ({"$mod": [4, 0]}, 4.5, True),
    ({"$mod": [4, 1]}, 8, False),
    ({"$mod": [4, -1]}, -5, True),
    ({"$mod": [4, 0]}, "8", False),
    ({"$mod": [2, 1]}, True, False),
    ({"$mod": [4, 0]}, None, False),
    ({"$mod": [4, 0]}, float("inf"), False),
]


@pytest.mark.parametrize(("operators", "value", "matches"), CASES, ids=str)
def test_an_operator_matches(operators: dict[str, Any], value: Any, *, matches: bool) -> None:
    assert condition_problems({"trait": operators}) == []
    assert compile_condition({"trait": operators})({} if value is None else {"trait": value}) is matches


@pytest.mark.parametrize(
    ("operators", "remedy"),
    [
        ({"$startsWith": 1}, "$startsWith: abc"),
        ({"$contains": []}, "$contains: abc"),
        ({"$endsWith": ["a", 1]}, "$endsWith: abc"),
        ({"$ip": "10.0.0.0/99"}, "10.0.0.0/8"),
        ({"$ip": "home"}, "10.0.0.0/8"),
        ({"$semver": ">=one"}, ">=1.2.0"),
        ({"$semver": 1.2}, ">=1.2.0"),
        ({"$mod": [0, 1]}, "[10, 3]"),
        ({"$mod": 4}, "[10, 3]"),
        ({"$mod": [4]}, "[10, 3]"),
        ({"$startswith": "a"}, "did you mean '$startsWith'"),
    ],
)
def test_a_wrong_operand_has_its_remedy_and_matches_nobody(operators: dict[str, Any], remedy: str) -> None:
    [problem] = condition_problems({"trait": operators})
    assert remedy in problem.remedy
    assert not any(compile_condition({"trait": operators})({"trait": value}) for value in (0, 4, "a", "10.0.0.1", None))
