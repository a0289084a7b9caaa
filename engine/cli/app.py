"""What all verbs share: the application, its options, how they print."""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import cyclopts
import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Column, Table

from engine.errors import CatalogError
from engine.settings import Settings, from_environment

app = cyclopts.App(
    name="counterpoint",
    help="Experiments and offers, decided for every channel of one shop.",
    version=lambda: version("counterpoint"),
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=()),
)
PIPED = 160
"""Columns of what is not read in a terminal, unless COLUMNS says another number."""
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED)
err = Console(stderr=True)

AsJson = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON document and nothing else.")
]
Folder = Annotated[Path | None, Parameter(help="The folder of YAML; ./experiments by default.")]
Data = Annotated[Path | None, Parameter(help="Where spool, store and log are kept; ./.data by default.")]
Log = Annotated[Path | None, Parameter(help="The Parquet log; DATA/log by default.")]
Redis = Annotated[
    str | None,
    Parameter(help="redis://…, rediss://… or redis+cluster://…; the store of the data directory by default."),
]


@contextmanager
def at_store(data: Path | None, redis: str | None) -> Iterator[Settings]:
    """Settings whose store answers: the one named, or the embedded one of the data directory, started if need be."""
    from engine.up import store_of

    named = redis is not None or "COUNTERPOINT_REDIS" in os.environ
    with store_of(from_environment(data=data, redis=redis), named=named) as settings:
        yield settings


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def say(text: str) -> None:
    """A line of a person's answer, as it is."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def grid(*headers: str, figures: Collection[str] = ()) -> Table:
    """A table that breaks long words in a narrow terminal and never cuts them, its `figures` flush right."""
    columns = (Column(name, overflow="fold", justify="right" if name in figures else "left") for name in headers)
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def complain(text: str) -> None:
    """A line on standard error, as it is."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def count(number: int, noun: str) -> str:
    """`3 problems`, `1 problem`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def complain_of(error: CatalogError) -> None:
    """Every problem on standard error."""
    for problem in error.problems:
        complain(str(problem))
    complain(f"{count(len(error.problems), 'problem')}. Nothing was started or changed.")


def log_to_stderr() -> None:
    """Structured log lines on standard error, so that standard output is the answer alone."""
    import structlog

    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%Y-%m-%d %H:%M:%S"),
            # Never with local variables: they hold keys and customers.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
    )
