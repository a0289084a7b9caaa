"""Where the data lie: an engine describes a table and runs what is asked of it.

Ibis's expressions are built on unbound tables and compiled for the engine's dialect: connecting an Ibis backend costs
ten times that. DuckDB also takes those of `duckdb_expressions`, which need no Ibis: a cold report is mostly imports.
"""

from __future__ import annotations

import os
import re
from functools import cache
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from engine.analysis.sources.duckdb_expressions import ColumnType, Query, View
from engine.errors import BadInput

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from duckdb import DuckDBPyConnection

    Frame: TypeAlias = ir.Table | Query
    Table: TypeAlias = ir.Table | View

Cell = str | int | float | bool | None
ResultRow = tuple[Cell, ...]

_INTEGER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?(8|16|32|64|128|256)?|LONG|SHORT|BYTE", re.IGNORECASE)
_DOUBLE = re.compile(r"DOUBLE|FLOAT64", re.IGNORECASE)
_SINGLE = re.compile(r"REAL|FLOAT(32)?", re.IGNORECASE)
_CSV = re.compile(r"\.(csv|tsv|txt)(\.gz|\.zst)?$", re.IGNORECASE)
_WIDE = """
SELECT DISTINCT name, precision, scale FROM parquet_schema({})
WHERE precision > 38 AND coalesce(try_cast(type_length AS INTEGER), 1) % 8 <> 0
"""  # decimals that DuckDB makes doubles of, and wrong ones: duckdb/duckdb#25058
_TIME = re.compile(r"TIMESTAMP.*|DATETIME.*", re.IGNORECASE)


def ibis_type(declared: str) -> str:
    """An engine's type name as one of Ibis's: what matters here is number, truth, time or text."""
    name = re.sub(r"^(?:Nullable|LowCardinality)\((.*)\)$", r"\1", declared)
    if _INTEGER.fullmatch(name):
        return "int64"
    if _DOUBLE.fullmatch(name):
        return "float64"
    if _SINGLE.fullmatch(name):
        return "float32"  # seven digits: what is summed is made a double first
    if name.upper().startswith("DECIMAL"):
        return "decimal"
    if name.upper() in {"BOOLEAN", "BOOL"}:
        return "boolean"
    return "timestamp('UTC')" if _TIME.fullmatch(name) else "string"


class Engine(Protocol):
    """Runs one SELECT and knows the columns of what it reads."""

    def table(self, path: str) -> Table:
        """The table, Parquet or CSV file at `path`, to be asked by `duckdb_expressions`; `ibis_table` has more.

        Raises:
            BadInput: if it cannot be read.
        """
        ...

    def rows(self, asked: Frame) -> list[ResultRow]:
        """The rows of what was asked of tables of this engine."""
        ...


class DuckDB:
    """The embedded engine; views and tables of one object are unknown to others."""

    def __init__(self, connection: DuckDBPyConnection | None = None) -> None:
        import duckdb  # noqa: PLC0415 # a decision server imports the package without the analysis extra

        self.connection = connection or duckdb.connect()
        self.failure = duckdb.Error
        self._views: dict[str, View] = {}
        self.made: dict[str, str | None] = {}
        """Tables that were made on the way, by what they hold."""

    def table(self, path: str) -> View:
        """A Parquet or CSV file, or a glob of Parquet files, as a view."""
        if path in self._views:
            return self._views[path]
        _check_readable(path)
        if _CSV.search(path) and not Path(path).is_dir():
            return self.view(path, f"SELECT * FROM read_csv({_quoted(path)}, sample_size = -1)")  # noqa: S608 # quoted
        files = _quoted(f"{escape(path)}/**/*.parquet" if Path(path).is_dir() else path)
        view = self.view(path, f"SELECT * FROM read_parquet({files}, union_by_name = true)")  # noqa: S608 # quoted
        if "float64" in view.columns.values():
            wide = {str(name): ColumnType(f"decimal({p}, {s})") for name, p, s in self.run(_WIDE.format(files))}
            view = self._views[path] = View(view.sql, {**view.columns, **wide})
        return view

    def view(self, name: str, select: str) -> View:
        """`select` under a name of its own, described once."""
        if name not in self._views:
            view = f"source_{len(self._views)}"
            try:
                self.connection.execute(f"CREATE TEMP VIEW {view} AS {select}")
                described = self.connection.execute(f"DESCRIBE {view}").fetchall()
            except self.failure as error:
                raise BadInput(f"{name} cannot be read: {str(error).splitlines()[0]}") from error
            self._views[name] = View(view, {column: ColumnType(ibis_type(kind)) for column, kind, *_ in described})
        return self._views[name]

    def rows(self, asked: Frame) -> list[ResultRow]:
        """Compiles what is Ibis's, and runs."""
        return self.run(f"FROM {asked.sql}" if isinstance(asked, Query) else compile_sql(asked, "duckdb"))

    def run(self, sql: str) -> list[ResultRow]:
        """Runs SQL of DuckDB's own."""
        try:
            return self.connection.execute(sql).fetchall()
        except self.failure as error:
            raise BadInput(f"the data cannot be read: {str(error).splitlines()[0]}") from error

    def keep(self, name: str, expression: ir.Table) -> ir.Table:
        """The expression's rows in a temporary table, so that several questions read them once."""
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {compile_sql(expression, 'duckdb')}")
        import ibis  # noqa: PLC0415 # slow to import, and only reports need it

        return ibis.table(expression.schema(), name=name)


@cache
def _database(process: int) -> DuckDBPyConnection:  # noqa: ARG001 # its threads do not live on in a forked child
    """This process's database for tables: to open one takes as long as to sum a hundred thousand rows.

    The log's sources have their own. They add functions, which a database keeps for longer than their connection lives.
    It caches no file contents: DuckDB detects a rewritten file by size and second alone, and would miss some.
    """
    import duckdb  # noqa: PLC0415 # see DuckDB

    return duckdb.connect(config={"enable_external_file_cache": False})


def unbound_table(name: str, described: dict[str, str]) -> ir.Table:
    """An Ibis table of these columns, by an engine's own type names."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return ibis.table({column: ibis_type(kind) for column, kind in described.items()}, name=name)


def ibis_table(table: Table) -> ir.Table:
    """The table with all the verbs of Ibis."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return ibis.table(dict(table.schema()), name=table.sql) if isinstance(table, View) else table


def compile_sql(asked: Frame, dialect: str) -> str:
    """The expression as SQL."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return str(ibis.to_sql(asked, dialect=dialect))


def _check_readable(path: str) -> None:
    if not path.strip():
        raise BadInput("the table has no name; give a Parquet or CSV file")
    try:
        found = Path(path).stat()
        if Path(path).is_dir():
            if next(Path(path).rglob("*.parquet"), None) is None:
                raise BadInput(f"{path} is a folder without Parquet files; give one that holds some, or a file")
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


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"


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
