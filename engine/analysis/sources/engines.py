"""Engines: each describes a table and runs queries on it.

Expressions of Ibis are built on unbound tables and compiled for the engine's dialect; connecting an Ibis backend takes
ten times as long. DuckDB also runs `duckdb_expressions`, which need no Ibis: a cold report spends most time on imports.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from glob import escape, glob
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from engine.analysis.sources.duckdb_expressions import ColumnType, Query, View, identifier, text_literal
from engine.catalog.text_files import encoding_problem
from engine.errors import BadInput

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import numpy as np
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

    Frame: TypeAlias = ir.Table | Query
    Table: TypeAlias = ir.Table | View

Cell = str | int | float | bool | None
SqlInput = str | Sequence[str] | Mapping[str, str]
"""Texts that become a literal in DuckDB's SQL: one, a list, or a struct."""
ResultRow = tuple[Cell, ...]

_INTEGER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?(8|16|32|64|128|256)?|LONG|SHORT|BYTE", re.IGNORECASE)
_DOUBLE = re.compile(r"DOUBLE|FLOAT64", re.IGNORECASE)
_SINGLE = re.compile(r"REAL|FLOAT(32)?", re.IGNORECASE)
_CSV = re.compile(r"\.(csv|tsv|txt)(\.gz|\.zst)?$", re.IGNORECASE)
_WIDE = """
SELECT DISTINCT name, precision, scale FROM parquet_schema({})
WHERE precision > 38 AND coalesce(try_cast(type_length AS INTEGER), 1) % 8 <> 0
"""  # decimals that DuckDB reads as wrong doubles: duckdb/duckdb#25058
_CSV_ROWS_WITH_NAMES = "SELECT * FROM read_csv({}, sample_size = -1, types = {})"
_TIME = re.compile(r"TIMESTAMP.*|DATETIME.*", re.IGNORECASE)


def ibis_type(declared: str) -> str:
    """Ibis's type for an engine's type name, reduced to number, boolean, time or text."""
    name = re.sub(r"^(?:Nullable|LowCardinality)\((.*)\)$", r"\1", declared)
    if _INTEGER.fullmatch(name):
        return "int64"
    if _DOUBLE.fullmatch(name):
        return "float64"
    if _SINGLE.fullmatch(name):
        return "float32"  # has seven digits; it is cast to a double before it is summed
    if name.upper().startswith("DECIMAL"):
        return "decimal"
    if name.upper() in {"BOOLEAN", "BOOL"}:
        return "boolean"
    return "timestamp('UTC')" if _TIME.fullmatch(name) else "string"


class Engine(Protocol):
    """Describes tables, and runs queries over them."""

    def table(self, path: str, names: Sequence[str] = ()) -> Table:
        """The table, Parquet or CSV file at `path`; `ibis_table` gives it all of Ibis's methods.

        The columns `names` of a CSV file, if it has them, are read as text: `01` and `1.0` stay what they are.

        Raises:
            BadInput: if it cannot be read.
        """
        ...

    def rows(self, query: Frame) -> list[ResultRow]:
        """The rows of a query over tables of this engine."""
        ...


class DuckDB:
    """The embedded engine; its views and temporary tables are private to this object."""

    def __init__(self, connection: DuckDBPyConnection | None = None) -> None:
        import duckdb  # noqa: PLC0415 # a decision server imports the package without the analysis extra

        self.connection = connection or duckdb.connect()
        self.connection.execute("SET enable_progress_bar = false")  # it would go to standard output
        # A report asks the same files several times; a file that changed is read again.
        self.connection.execute("SET parquet_metadata_cache = true")
        self.failure = duckdb.Error
        self._views: dict[str, View] = {}
        self.made: dict[str, str | None] = {}
        """Names of the temporary tables, by what they contain."""
        self._numbers = count()
        self.latest_versions: dict[str, str | None] = {}
        """The latest version of an experiment's decisions, by log, experiment and time."""

    def table(self, path: str, names: Sequence[str] = ()) -> View:
        """A Parquet or CSV file, a folder of Parquet files or a glob of them, as a view."""
        if _CSV.search(path) and not Path(path).is_dir():
            return self._csv_table(path, names)
        if path in self._views:
            return self._views[path]
        _check_readable(path)
        files = _parquet_files(path)
        view = self.view(path, "SELECT * FROM read_parquet({}, union_by_name = true)", files)
        if "float64" in view.columns.values():
            wide = {str(name): ColumnType(f"decimal({p}, {s})") for name, p, s in self.run(_WIDE, files)}
            view = self._views[path] = View(view.sql, columns={**view.columns, **wide})
        return view

    def _csv_table(self, path: str, names: Sequence[str]) -> View:
        key = ", ".join((path, *names))
        if key in self._views:
            return self._views[key]
        _check_readable(path)
        _check_encoding(path)
        files, rows = _literal_pattern(path), "SELECT * FROM read_csv({}, sample_size = -1)"
        try:
            if names:
                return self.view(key, _CSV_ROWS_WITH_NAMES, files, dict.fromkeys(names, "VARCHAR"))
            return self.view(path, rows, files)
        except BadInput as error:
            if problem := _find_encoding_problem(path):
                raise BadInput(f"{path}: {problem}") from error
            if not names:
                raise
        return self.view(path, rows, files)  # without the column that is missing, which the caller reports

    def view(self, name: str, select: str, *values: SqlInput) -> View:
        """A view of `select`, cached under `name`, with the next of `values` for each `{}`."""
        if name not in self._views:
            view = f"source_{len(self._views)}"
            try:
                self.connection.execute(f"CREATE TEMP VIEW {view} AS {_fill(select, values)}")
                described = self.connection.execute(f"DESCRIBE {view}").fetchall()
            except self.failure as error:
                raise BadInput(
                    f"{name} cannot be read: {str(error).splitlines()[0]}; give a whole Parquet or CSV file"
                ) from error
            columns = {column: ColumnType(ibis_type(kind)) for column, kind, *_ in described}
            self._views[name] = View(view, columns=columns)
        return self._views[name]

    def number_view(self) -> int:
        """A number for views or temporary tables that no other has."""
        return next(self._numbers)

    def rows(self, query: Frame) -> list[ResultRow]:
        """The rows of a query, or of an expression of Ibis."""
        return self.run(f"FROM {query.sql}" if isinstance(query, Query) else compile_sql(query, "duckdb"))

    def run(self, sql: str, *values: SqlInput) -> list[ResultRow]:
        """The rows of SQL in DuckDB's dialect, with the next of `values` for each `{}`."""
        try:
            return self.connection.execute(_fill(sql, values)).fetchall()
        except self.failure as error:
            raise BadInput(
                f"the data cannot be read: {str(error).splitlines()[0]}; check the files and columns"
            ) from error

    def columns(self, sql: str) -> dict[str, NDArray[np.generic]]:
        """The columns of SQL in DuckDB's dialect as arrays; no column may have nulls."""
        try:
            return dict(self.connection.execute(sql).fetchnumpy())
        except self.failure as error:
            raise BadInput(
                f"the data cannot be read: {str(error).splitlines()[0]}; check the files and columns"
            ) from error

    def keep(self, name: str, expression: ir.Table) -> ir.Table:
        """Stores the expression's rows in the temporary table `name`, so that several queries read them once.

        To DuckDB the literal 0.5 is a DECIMAL, which Ibis takes for a double. Sums of products of such columns overflow
        where the literals have many digits, so columns of doubles are stored as doubles.
        """
        import ibis  # noqa: PLC0415 # slow to import, and only reports need it

        schema = expression.schema()
        columns = ", ".join(
            f"{identifier(column)}::DOUBLE AS {identifier(column)}" if kind.is_float64() else identifier(column)
            for column, kind in schema.items()
        )
        rows = f"SELECT {columns} FROM ({compile_sql(expression, 'duckdb')})"  # noqa: S608 # names of our own columns # nosec B608
        self.run(f"CREATE OR REPLACE TEMP TABLE {identifier(name)} AS {rows}")
        return ibis.table(schema, name=name)

    def load(self, name: str, **columns: Sequence[str | None]) -> ir.Table:
        """Loads text columns as the temporary table `name`."""
        import ibis  # noqa: PLC0415 # slow to import, and only reports need it
        import pyarrow as pa  # noqa: PLC0415 # a decision server imports the package without the analysis extra

        texts = {key: pa.array(values, pa.string()) for key, values in columns.items()}
        self.connection.register("loaded", pa.table(texts))
        self.run(f"CREATE OR REPLACE TEMP TABLE {identifier(name)} AS FROM loaded")
        self.connection.unregister("loaded")
        return ibis.table(dict.fromkeys(columns, "string"), name=name)

    def traces(self, log_dir: Path, wanted: str) -> Iterator[tuple[str, bytes]]:
        """Yield the traces of the log's decisions whose `decision_id` is in the table `wanted`."""
        files = f"{escape(str(log_dir / 'decisions'))}/**/*.parquet"
        view = self.view("traces", "SELECT * FROM read_parquet({}, union_by_name = true)", files)
        if "trace" not in view.columns:
            return
        traced = f"FROM {identifier(view.sql)} SEMI JOIN {identifier(wanted)} USING (decision_id)"
        found = self.connection.execute(f"{traced} SELECT decision_id, trace WHERE trace IS NOT NULL")
        while rows := found.fetchmany(10_000):
            yield from rows


@cache
def _database(process: int) -> DuckDBPyConnection:  # noqa: ARG001 # a forked child lacks the parent's threads
    """The process's shared database: opening one takes as long as summing a hundred thousand rows.

    Readers of the log open databases of their own, since they register functions, which outlive a connection. File
    contents are not cached: DuckDB detects a rewritten file by its size and second, and would miss some.
    """
    import duckdb  # noqa: PLC0415 # see DuckDB

    return duckdb.connect(config={"enable_external_file_cache": False})


def unbound_table(name: str, described: dict[str, str]) -> ir.Table:
    """An Ibis table of these columns, whose types are the engine's own names."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return ibis.table({column: ibis_type(kind) for column, kind in described.items()}, name=name)


def ibis_table(table: Table) -> ir.Table:
    """The table with all of Ibis's methods."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return ibis.table(dict(table.schema()), name=table.sql) if isinstance(table, View) else table


def compile_sql(query: Frame, dialect: str) -> str:
    """The expression as SQL; sqlglot escapes its text by the rules of the dialect."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return str(ibis.to_sql(query, dialect=dialect))


def _fill(sql: str, values: Sequence[SqlInput]) -> str:
    """The SQL with a literal for each `{}`."""
    return sql.format(*map(_literal, values)) if values else sql


def _literal(value: SqlInput) -> str:
    if isinstance(value, str):
        return text_literal(value)
    if isinstance(value, Mapping):
        pairs = (f"{text_literal(key)}: {text_literal(text)}" for key, text in value.items())
        return f"{{{', '.join(pairs)}}}"
    return f"[{', '.join(map(text_literal, value))}]"


def _literal_pattern(path: str) -> str:
    """DuckDB's pattern for an existing path, in which `[`, `*` and `?` are escaped."""
    return escape(path) if Path(path).exists() else path


def _parquet_files(path: str) -> str | list[str]:
    """The files that DuckDB reads for a path: a file, a pattern, or the Parquet files of a folder."""
    if not Path(path).is_dir():
        return _literal_pattern(path)
    every = glob("**/*.parquet", root_dir=path, recursive=True, include_hidden=True)  # noqa: PTH207 # as in `partials`
    data = [name for name in every if not is_hidden(name)]
    if len(data) == len(every):
        return f"{escape(path)}/**/*.parquet"
    return [escape(str(Path(path, name))) for name in sorted(data)]


def is_hidden(file: str) -> bool:
    """Whether a file in a folder is hidden or unfinished, as Spark and Hive define it: `.x`, `_temporary/x`.

    A folder such as `_day=1` is a partition, whose files are data.
    """
    parts = Path(file).parts
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def _check_readable(path: str) -> None:
    if not path.strip():
        raise BadInput("the table has no name; give a Parquet or CSV file")
    try:
        found = Path(path).stat()
        if Path(path).is_dir():
            if all(is_hidden(str(file.relative_to(path))) for file in Path(path).rglob("*.parquet")):
                raise BadInput(f"{path} is a folder without Parquet files; give one that has some, or a file")
            return
        with Path(path).open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError):
        if not any(sign in path for sign in "*?["):
            raise BadInput(f"{path} does not exist; give a Parquet or CSV file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be opened ({error}); give a Parquet or CSV file that may be read") from error
    else:
        if found.st_size == 0:
            raise BadInput(f"{path} is empty; give a Parquet or CSV file with rows")


def _check_encoding(path: str) -> None:
    """Raises BadInput if a CSV file's first line is not UTF-8, since DuckDB would misread UTF-16."""
    if problem := _find_encoding_problem(path, lines=1):
        raise BadInput(f"{path}: {problem}")


def _find_encoding_problem(path: str, lines: int | None = None) -> str | None:
    if not Path(path).is_file() or not path.lower().endswith((".csv", ".tsv", ".txt")):
        return None
    with Path(path).open("rb") as file:
        return encoding_problem(islice(file, lines))


def connect_engine(engine: str) -> Engine:
    """The engine called `duckdb`, `spark`, `clickhouse` (in this process) or `clickhouse://…` (a server).

    Raises:
        BadInput: if there is none of that name, or it does not start.
    """
    if engine == "duckdb":
        return DuckDB(_database(os.getpid()).cursor())
    from engine.analysis.sources.warehouses import ClickHouse, Spark  # noqa: PLC0415 # their drivers are optional

    if engine == "spark":
        return Spark()
    engine = engine.removeprefix("clickhouse ")  # as the command line has it: clickhouse URL
    if engine == "clickhouse" or engine.startswith(("clickhouse://", "clickhouses://", "http://", "https://")):
        return ClickHouse(None if engine == "clickhouse" else engine)
    raise BadInput(f"engine {engine!r} is unknown; use duckdb, spark, clickhouse or clickhouse://host:8123/database")
