"""The command-line application: the groups and options of all verbs, and how answers and errors are printed."""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TextIO, cast

import cyclopts
import msgspec
from cyclopts import Group, Parameter
from rich.console import Console
from rich.table import Column, Table

from engine.cli.encoding import json_for_output
from engine.errors import CatalogError
from engine.settings import Settings, from_environment, keep_files_private

app = cyclopts.App(
    name="counterpoint",
    help="Experiments and offers, decided for every channel of one shop.",
    version=lambda: version("counterpoint"),
    version_flags=["--version"],
    help_format="plaintext",  # of the list of verbs: the import of a Markdown parser is a quarter of its time
    default_parameter=Parameter(negative_iterable=()),
)
RUN, DESIGN, REPORT, CUSTOMERS = (Group.create_ordered(name) for name in ("Run", "Design", "Report", "Customers"))
PIPED = 160
"""Columns of output that is not read in a terminal, unless COLUMNS sets another number."""
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED)
err = Console(stderr=True)

AsJson = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON document and nothing else.")
]
Folder = Annotated[Path | None, Parameter(help="The folder of YAML; ./experiments by default.")]
Data = Annotated[Path | None, Parameter(help="The folder of spool, store and log; ./.data by default.")]
LogFolder = Annotated[Path | None, Parameter(help="The Parquet log; DATA/log by default.")]
Redis = Annotated[
    str | None,
    Parameter(help="redis://…, rediss://… or redis+cluster://…; the store of the data directory by default."),
]


def is_store_named(redis: str | None) -> bool:
    """Whether an option or the environment names the store, so that it must answer."""
    return redis is not None or "COUNTERPOINT_REDIS" in os.environ


@contextmanager
def open_store(data: Path | None, redis: str | None) -> Iterator[Settings]:
    """Settings with a store that answers: the named one, or the data directory's embedded one, started if needed."""
    from engine.up import reach_store

    keep_files_private()
    with reach_store(from_environment(data=data, redis=redis), is_named=is_store_named(redis)) as settings:
        yield settings


def print_json(value: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json_for_output(msgspec.json.encode(value)) + "\n")


def print_line(text: str) -> None:
    """Print one line of an answer on standard output, without markup or wrapping."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Print one line of progress or of an error on standard error, without markup or wrapping."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def print_problems(error: CatalogError) -> None:
    """Print every problem of the YAML on standard error."""
    for problem in error.problems:
        print_error(str(problem))
    print_error(f"{format_count(len(error.problems), 'problem')}. Nothing was started or changed.")


def new_table(*headers: str, figures: Collection[str] = ()) -> Table:
    """A table with its `figures` flush right, which folds long words in a narrow terminal and never cuts them."""
    columns = (Column(name, overflow="fold", justify="right" if name in figures else "left") for name in headers)
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def format_count(number: int, noun: str) -> str:
    """`3 problems`, `1 problem`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def log_to_stderr() -> None:
    """Write log lines to standard error, so that standard output is the answer alone."""
    from engine.progress import ConsoleFile
    from engine.telemetry.log_lines import configure_logs

    if os.environ.get("COUNTERPOINT_LOGS") == "json":  # of `Settings`, which not every verb reads
        configure_logs(sys.stderr, "json")
    else:
        configure_logs(cast("TextIO", ConsoleFile(err)), colors=sys.stderr.isatty())
