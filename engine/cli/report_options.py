"""Options shared by several reports, and the checks of their values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from engine.cli.app import print_error
from engine.errors import BadInput

IntervalMethod = Literal["fixed", "sequential", "group_sequential", "bayesian"]
Metrics = Annotated[
    list[str] | None,
    Parameter(
        name="--metric",
        help="mean:COL, proportion:COL, ratio:NUM/DEN, quantile:COL@0.9, per unit sum:COL or any:COL; repeatable.",
    ),
]
TableFile = Annotated[str | None, Parameter(help="A Parquet or CSV file of your own instead of the log.")]
UnitColumn = Annotated[str | None, Parameter(help="The table's column of the unit of assignment.")]
Alpha = Annotated[float | None, Parameter(help="One minus the coverage of intervals; the file's, or 0.05, by default.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """The options of `aa` for splitting and reporting units."""

    method: Annotated[
        IntervalMethod | None, Parameter(help="The method of the reports; the experiment's, or fixed, by default.")
    ] = None
    share: Annotated[
        float | None, Parameter(help="Control's share of the units; the experiment's, or 0.5, by default.")
    ] = None
    looks: Annotated[
        int | None, Parameter(help="How often a split is reported while its units arrive; 15, of fixed 1, by default.")
    ] = None
    prior: Annotated[str | None, Parameter(help="MEAN,SD of the relative effect before the data (bayesian).")] = None


DaysOfDraft = Annotated[
    bool, Parameter(help="Of a draft: the days until a verdict, from the log's visits, by method, audience and more.")
]
EVEN_SPLITS = SplitOptions()


def refuse_for_placement(placement: str, given: Mapping[str, object]) -> None:
    """Refuse options that the report of a placement does not have."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if names:
        raise BadInput(
            f"{', '.join(names)}: only reports of experiments take this, and {placement} is a placement; leave it out"
        )


def parse_prior(text: str | None) -> tuple[float, float] | None:
    """The mean and standard deviation in an option's text."""
    if text is None:
        return None
    try:
        mean, sd = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--prior {text}: is not MEAN,SD; give two numbers such as 0,0.1") from None
    return mean, sd


TraitValues = dict[str, Mapping[str, float | str]]
"""Values of each customer, by the name of the trait."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ValueOptions:
    """The options for writing customers' values: the file, and the profiles."""

    csv: Annotated[Path | None, Parameter(help="Write each customer's values to this file.")] = None
    write_traits: Annotated[
        bool, Parameter(negative="", show_default=False, help="Write them to the profiles, as traits.")
    ] = False
    server: Annotated[str, Parameter(help="The server that --write-traits sends to.")] = "http://127.0.0.1:8080"
    key: Annotated[str | None, Parameter(help="Its API key, of the role server.")] = None


def write_values(traits: TraitValues, written: ValueOptions) -> None:
    """Write the customers' values to a file, and to profiles by identify events with no other change."""
    if not traits and (written.csv is not None or written.write_traits):
        raise BadInput("--csv, --write-traits: nothing can be estimated, so nothing was written")
    if written.csv is not None:
        _write_csv(written.csv, traits)
    if written.write_traits:
        from engine.cli.profile_traits import send_traits

        print_error(f"Wrote traits of {send_traits(traits, written.server, written.key):,} customers.")


def _write_csv(file: Path, traits: TraitValues) -> None:
    """Write a row per customer."""
    from csv import writer

    names = list(next(iter(traits.values())))
    try:
        with file.open("w", encoding="utf-8", newline="") as lines:
            rows = writer(lines)
            rows.writerow(["customer", *names])
            rows.writerows([customer, *values.values()] for customer, values in traits.items())
    except OSError as error:
        raise BadInput(f"--csv {file}: cannot be written ({error.strerror}); name a file in a folder") from error
    print_error(f"Wrote {file}.")
