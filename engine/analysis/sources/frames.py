"""Tables in memory: DuckDB reads pandas, Polars, Arrow and Ibis tables and relations by Arrow's C stream interface."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from engine.analysis.sources.engines import DuckDB
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.sources.engines import Engine, Table

FRAME_NAME = "table"
"""The name of a frame in reports and errors, in the place of a file's."""


@runtime_checkable
class ArrowFrame(Protocol):
    """A pandas (from 2.2), Polars, Arrow or Ibis table, a DuckDB relation, or any Arrow C stream exporter."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The stream as a capsule."""
        ...


@runtime_checkable
class LazyArrowFrame(Protocol):
    """A polars LazyFrame, which exports its rows once collected."""

    def collect(self) -> ArrowFrame:
        """The frame with its rows loaded."""
        ...


FrameOrFile = str | os.PathLike[str] | ArrowFrame | LazyArrowFrame


def table_name(frame_or_file: FrameOrFile) -> str:
    """The path of a file, or the name given to a frame."""
    return os.fspath(frame_or_file) if isinstance(frame_or_file, str | os.PathLike) else FRAME_NAME


def open_table(source: Engine, frame_or_file: FrameOrFile, names: Sequence[str] = ()) -> Table:
    """The table at a path or of a frame. A frame's missing values (in pandas also NaN) are nulls.

    The columns `names` of a CSV file are read as text.

    Raises:
        BadInput: if the file or the frame cannot be read, or the engine reads no frames.
    """
    if isinstance(frame_or_file, str | os.PathLike):
        return source.table(os.fspath(frame_or_file), names)
    if not isinstance(source, DuckDB):
        raise BadInput("a frame is read by duckdb alone; leave the engine out, or name a table of the engine")
    import pyarrow as pa  # noqa: PLC0415 # slow to import, and only frames need it

    frame = frame_or_file if isinstance(frame_or_file, ArrowFrame) else None
    if frame is None and isinstance(frame_or_file, LazyArrowFrame):
        frame = frame_or_file.collect()
    if not isinstance(frame, ArrowFrame):
        given = type(frame_or_file).__name__
        raise BadInput(
            f"a value of type {given} is not a table; give a path, or a pandas, Polars, Arrow, DuckDB or Ibis table"
        )
    try:
        rows = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BadInput(f"the frame cannot be read as a table: {str(error).splitlines()[0]}") from error
    twice = sorted({name for name in rows.column_names if rows.column_names.count(name) > 1})
    if twice:
        raise BadInput(f"the frame has two columns named {twice[0]!r}; give each its own name")
    name = f"frame_{id(rows)}"
    source.connection.register(name, rows)
    return source.view(name, f"FROM {name}")
