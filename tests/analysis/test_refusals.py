"""What a person may get wrong on the command line of the reports, each refused in one line."""

import math

import pytest

from engine.analysis.bayes import Prior
from engine.analysis.effects import Settings
from engine.analysis.power import design, parse_baseline
from engine.errors import BadInput


@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1.0, 2.0, -0.1, math.nan])
def test_an_alpha_that_gives_no_interval(alpha: float) -> None:
    with pytest.raises(BadInput, match="is not between 1e-12 and 1"):
        Settings(alpha=alpha)


@pytest.mark.parametrize("prior", [(0, 0), (0, -1), (math.nan, 1), (0, math.nan), (math.inf, 1)])
def test_a_prior_that_is_no_distribution(prior: tuple[float, float]) -> None:
    with pytest.raises(BadInput, match="is no finite mean with a standard deviation"):
        Settings(prior=Prior(*prior))


@pytest.mark.parametrize("units", [-4, 0, 3, 10**400])
def test_a_number_of_units_that_nobody_has(units: int) -> None:
    with pytest.raises(BadInput, match="are not between 4 and"):
        design(parse_baseline("proportion:0.1"), Settings("fixed"), mde=None, units=units, power=None)


def test_effects_powers_and_baselines_are_finite() -> None:
    baseline = parse_baseline("mean:10,3")
    with pytest.raises(BadInput, match="effect nan is no finite number"):
        design(baseline, Settings("fixed"), mde=math.nan, units=None, power=None)
    with pytest.raises(BadInput, match="power 0 is not between 0 and 1"):
        design(baseline, Settings("fixed"), mde=0.1, units=None, power=0.0)
    for text in ("mean:nan,1", "mean:1,inf", "mean:1e300,1e300", "proportion:nan"):
        with pytest.raises(BadInput, match="are not finite"):
            parse_baseline(text)
