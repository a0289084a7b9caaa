"""The registry of metric kinds covers every name, agrees with the YAML, and replaces comparisons of names."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from engine.analysis.design.metrics import parse_measure
from engine.analysis.stats.power import parse_baseline
from engine.catalog.spec.metrics import MetricSpec
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS, MetricKind, MetricKindName

ROOT = Path(__file__).resolve().parents[1]
each_kind = pytest.mark.parametrize("kind", METRIC_KINDS.values(), ids=METRIC_KINDS)


def test_every_name_has_its_kind() -> None:
    assert set(get_args(MetricKindName)) == set(METRIC_KINDS)
    assert all(kind.name == name for name, kind in METRIC_KINDS.items())


@each_kind
def test_a_required_key_is_a_key_of_metrics(kind: MetricKind) -> None:
    assert set(kind.required) <= {field.name for field in msgspec.structs.fields(MetricSpec)}


@each_kind
def test_a_kind_is_measured_as_one_that_is_measured_as_itself(kind: MetricKind) -> None:
    measured = METRIC_KINDS[kind.measured_as or kind.name]
    assert measured.measured_as is None
    assert (measured.event_adds, measured.is_share, measured.has_moments, measured.refund_leaves_rest) == (
        kind.event_adds,
        kind.is_share,
        kind.has_moments,
        kind.refund_leaves_rest,
    )


@each_kind
def test_the_form_over_a_table_is_one_that_is_read(kind: MetricKind) -> None:
    if kind.table_form is None:
        with pytest.raises(BadInput, match="is not a metric"):
            parse_measure(f"{kind.name}:COL")
    else:
        assert parse_measure(kind.table_form).kind == kind.name


@each_kind
def test_a_baseline_has_the_numbers_of_its_form(kind: MetricKind) -> None:
    numbers = {"share": "0.1", "mean,sd": "16.2,25.1"}
    for form, text in numbers.items():
        if form == kind.baseline_form:
            assert parse_baseline(f"{kind.name}:{text}").kind == kind.name
        else:
            with pytest.raises(BadInput, match="has no baseline"):
                parse_baseline(f"{kind.name}:{text}")


def compared_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names of metric kinds that something's `kind` is compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(getattr(side, "attr", getattr(side, "id", "")) == "kind" for side in sides):
                for part in (part for side in sides for part in ast.walk(side)):
                    if isinstance(part, ast.Constant) and part.value in METRIC_KINDS:
                        yield node.lineno, str(part.value)


def test_no_code_compares_the_names_of_kinds() -> None:
    files = [path for package in ("engine", "policies") for path in sorted((ROOT / package).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}:{line} {name!r}"
        for path in files
        for line, name in compared_names(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)
