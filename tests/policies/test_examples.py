"""The examples in the policies' docstrings run as they are written."""

import doctest

import pytest

from policies import base, state


@pytest.mark.parametrize("module", [base, state], ids=lambda module: module.__name__)
def test_the_examples_run(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
