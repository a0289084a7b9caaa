"""The options of inference, a frozen struct that every report passes on unchanged."""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from engine.analysis.design.metrics import Adjust
from engine.analysis.stats.bayes import Prior
from engine.analysis.stats.sequential import Spending
from engine.errors import BadInput

Method = Literal["fixed", "sequential", "group_sequential", "bayesian"]
Relative = Literal["fieller", "log", "linear"]
SCEPTICAL = Prior(0.0, 0.02)
"""The prior of a bayesian experiment whose file names none: most changes move a metric by less than 2 %."""
LEAST_ALPHA = 1e-12  # below it 1 - alpha / 2 has too few digits for its quantile
LEAST_SD = 1e-9
MOST_LOOKS = 50


class Inference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The statistical options of a report.

    Raises:
        BadInput: if an option is out of its range.
    """

    method: Method = "sequential"
    """`fixed` is Welch's test at one look; `sequential` is valid at every look, `group_sequential` at planned ones."""
    alpha: float = 0.05
    """One minus the coverage of the intervals."""
    relative: Relative = "fieller"
    """The interval of the relative effect, see `effects.relative_effect`."""
    prior: Prior = Prior()
    """The normal distribution of the relative effect before the data; flat by default."""
    planned: int = 5000
    """Units at which a sequential interval is narrowest, and at which a group-sequential experiment ends."""
    looks: int = 5
    """Looks of a group-sequential experiment, evenly spaced up to `planned`."""
    spending: Spending = "obrien_fleming"
    """The alpha-spending function of a group-sequential experiment over its looks."""
    between_looks: bool = False
    """Whether a group-sequential report may be of units between planned looks, as one of a table; no option."""
    tau: float | None = None
    """The expected relative effect: `sequential` is then the mixture SPRT, see `sequential.sprt_multiplier`."""
    rope: float = 0.01
    """Half width of the region of practical equivalence, relative to control."""
    tolerance: float = 0.0005
    """A bayesian experiment ends once the expected loss of the better choice, relative to control, is below this."""
    adjust: Adjust = "cuped"
    """`cuped` estimates one slope per covariate for all variants, `lin` one for each variant."""
    stratum: str | None = None
    """The trait or column within whose values variants are compared (post-stratification)."""

    @property
    def has_repeated_looks(self) -> bool:
        """Whether reports may be read several times before the end, which the data checks must then allow."""
        return self.method != "fixed"

    def __post_init__(self) -> None:
        if not LEAST_ALPHA <= self.alpha < 1:
            raise BadInput(f"alpha {self.alpha:g} is not between {LEAST_ALPHA:g} and 1; 0.05 gives 95% intervals")
        if self.planned < 2:
            raise BadInput(
                f"{self.planned} planned units are too few; give the number at which you decide, such as 5000"
            )
        if self.tau is not None and not (math.isfinite(self.tau) and self.tau > 0):
            raise BadInput(f"tau {self.tau:g} is not a relative effect above 0; give the expected one, such as 0.02")
        if not 1 <= self.looks <= MOST_LOOKS:
            raise BadInput(f"{self.looks} looks are not between 1 and {MOST_LOOKS}; for more ask for method sequential")
        if not math.isfinite(self.prior.mean) or not self.prior.sd >= LEAST_SD:
            raise BadInput(
                f"prior {self.prior.mean:g},{self.prior.sd:g} is not a finite mean with a standard deviation of "
                f"{LEAST_SD:g} or more; give two numbers such as 0,0.1"
            )


def decode_inference(options: Mapping[str, object]) -> Inference:
    """The options given by name; a missing option or None means the default.

    `prior` is a `Prior` or its mean and standard deviation. `analyze_table(..., method="fixed", alpha=0.1)` passes its
    keyword arguments here.

    Raises:
        BadInput: if a name is unknown, or a value has the wrong type or is out of its range.
    """
    known = [name for name in Inference.__struct_fields__ if name != "between_looks"]
    for name in options:
        if name not in known:
            raise BadInput(f"option {name!r} is unknown; the options are {', '.join(known)}")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return msgspec.convert(given, Inference, strict=True)
    except msgspec.ValidationError as error:
        raise BadInput(f"an option of the inference cannot be used: {error}") from error
