"""Options of the inference given by name are decoded strictly into one struct."""

import pytest

from engine.analysis.design.methods import Inference, decode_inference
from engine.analysis.stats.bayes import Prior
from engine.errors import BadInput


def test_options_left_out_or_none_have_their_defaults() -> None:
    assert decode_inference({}) == Inference()
    assert decode_inference({"method": "fixed", "tau": None, "prior": None}) == Inference(method="fixed")


def test_a_prior_is_a_pair_or_a_prior() -> None:
    expected = Inference(prior=Prior(0.0, 0.1))
    assert decode_inference({"prior": (0.0, 0.1)}) == expected
    assert decode_inference({"prior": Prior(0.0, 0.1)}) == expected


def test_an_unknown_name_lists_the_options() -> None:
    with pytest.raises(BadInput, match=r"option 'methd' is unknown; the options are method, alpha, .*, stratum$"):
        decode_inference({"methd": "fixed"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, r"'guess' - at `\$.method`"),
        ({"alpha": "0.05"}, r"Expected `float`, got `str` - at `\$.alpha`"),
        ({"alpha": 2.0}, "alpha 2 is not between"),
        ({"prior": (0.0, -1.0)}, "prior 0,-1 is not a finite mean"),
    ],
)
def test_a_value_that_is_no_option_names_the_option(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        decode_inference(options)
