"""The engines of tables outside the log: each takes the exposures, runs one query, and returns its rows.

The exposures are a temporary table that ends with the connection. No table of the other side is written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote

from engine.analysis.sources.engines import compile_sql
from engine.analysis.values.addresses import find_secrets
from engine.analysis.values.table_rows import EXPOSED, unbound_columns
from engine.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from engine.analysis.sources.engines import Cell, DuckDB
    from engine.catalog.spec.sources import SourceSpec

FetchedRow = tuple["Cell", ...]
_CONNECT_SECONDS = 10


class Exposures(NamedTuple):
    """Rows of exposures: `columns` are `n`, `id` and moments; rows have a number, a text and times in UTC."""

    columns: Sequence[str]
    rows: Sequence[tuple[object, ...]]


NOBODY = Exposures((), ())
"""The exposures of a query that reads none."""


class Connection(Protocol):
    """An engine with tables outside the log."""

    dialect: str

    def table(self, name: str, columns: Sequence[str]) -> ir.Table:
        """A table for a query, with the columns that the query reads."""
        ...

    def fetch(self, query: ir.Table, exposed: Exposures) -> list[FetchedRow]:
        """The rows of a query that reads the exposures.

        Raises:
            BadInput: if there is no connection, or the engine refuses the query.
        """
        ...


def connect(spec: SourceSpec, source: DuckDB) -> Connection:
    """The connection of `sources.yaml`; `source` is the log's engine, which also reads files.

    Raises:
        BadInput: if the environment variable with its address is missing.
        MissingExtra: if the driver is not installed.
    """
    if spec.kind == "files":
        return _Files(spec, source)
    if spec.kind == "sqlite":
        return _SQLite(spec)
    if spec.kind == "postgres":
        return _Postgres(spec, _read_address(spec))
    from engine.analysis.values.warehouse_connections import connect_warehouse  # noqa: PLC0415 # drivers are optional

    return connect_warehouse(spec, _read_address(spec) if spec.address else None)


def _read_address(spec: SourceSpec) -> str:
    """The address in the connection's environment variable."""
    found = os.environ.get(spec.address or "", "").strip()
    if not found:
        raise BadInput(
            f"source {spec.key}: the environment variable {spec.address} is not set; set it to the address of the "
            "database, such as postgresql://reader:password@host/shop"
        )
    return found


def refuse_connection(spec: SourceSpec, error: Exception, address: str = "") -> BadInput:
    """The error of a connection that failed."""
    where = f"the address in {spec.address}" if spec.address else f"its path {spec.path!r}" if spec.path else "its host"
    text = _first_line(error, spec, address)
    if address and find_secrets(address) is None:
        where += ": write @ : / ? # % and spaces of its password as %40 %3A %2F %3F %23 %25 %20"
    return BadInput(f"source {spec.key} cannot be reached: {text}; check {where}")


def refuse_query(spec: SourceSpec, error: Exception, address: str = "") -> BadInput:
    """The error of a query that the engine refused."""
    text = _first_line(error, spec, address)
    return BadInput(f"source {spec.key}: the query failed: {text}; check the table and the columns of the metric")


def _first_line(error: Exception, spec: SourceSpec, address: str) -> str:
    """An error's first line without the address; only its kind if that line may contain part of a password."""
    kind = type(error).__name__
    text = str(error).strip().partition("\n")[0] or kind
    if not address:
        return text
    text, secrets = text.replace(address, f"${spec.address}"), find_secrets(address)
    if secrets is not None and not any(secret in text for secret in secrets):
        return text
    state = getattr(error, "sqlstate", None)
    return f"{kind} (SQLSTATE {state})" if state else f"{kind} (its text may have a part of the password)"


def split_name(name: str) -> tuple[str, list[str]]:
    """A table's name and its schema (and database), from `database.schema.table`."""
    *place, table = name.split(".")
    return table, place


class _Files:
    """Parquet and CSV files of a folder, which the log's engine reads."""

    dialect = "duckdb"

    def __init__(self, spec: SourceSpec, source: DuckDB) -> None:
        self._spec, self._source = spec, source
        self._folder = Path(spec.path or ".").resolve()

    def table(self, name: str, columns: Sequence[str]) -> ir.Table:
        """The file, folder or pattern `name` in the folder."""
        path = Path(os.path.normpath(self._folder / name))
        if not path.is_relative_to(self._folder):
            raise BadInput(f"source {self._spec.key}: {name!r} is outside of {self._spec.path}; name a file in it")
        view = self._source.table(str(path))
        missing = [column for column in columns if column not in view.columns]
        if missing:
            known = ", ".join(view.columns)
            raise BadInput(f"source {self._spec.key}: {name} has no column {missing[0]!r}; it has {known}")
        return unbound_columns(columns, view.sql)

    def fetch(self, query: ir.Table, exposed: Exposures) -> list[FetchedRow]:
        """The rows, read by the log's engine."""
        import pyarrow as pa  # noqa: PLC0415 # a decision server imports the package without the analysis extra

        run = self._source.connection.execute
        run("SET TimeZone = 'UTC'")
        if exposed.columns:
            kinds = [pa.int64(), pa.string(), *[pa.timestamp("us", "UTC")] * (len(exposed.columns) - 2)]
            arrays = [pa.array([row[at] for row in exposed.rows], kind) for at, kind in enumerate(kinds)]
            self._source.connection.register(EXPOSED, pa.table(arrays, names=list(exposed.columns)))
        try:
            return [tuple(row) for row in run(compile_sql(query, self.dialect)).fetchall()]
        except self._source.failure as error:
            raise refuse_query(self._spec, error) from error


class _SQLite:
    """A SQLite file, opened for reading. Its times are ISO 8601 texts."""

    dialect = "sqlite"

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec

    def table(self, name: str, columns: Sequence[str]) -> ir.Table:
        """A table of the file."""
        return unbound_columns(columns, name)

    def fetch(self, query: ir.Table, exposed: Exposures) -> list[FetchedRow]:
        """The rows, with the exposures in a temporary table."""
        path = Path(self._spec.path or "").resolve()
        try:
            opened = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_CONNECT_SECONDS)
            opened.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise refuse_connection(self._spec, error) from error
        with closing(opened) as connection:
            try:
                if exposed.columns:
                    columns = ", ".join(f'"{name}"' for name in exposed.columns)
                    connection.execute(f"CREATE TEMP TABLE {EXPOSED} ({columns})")
                    marks = ", ".join("?" * len(exposed.columns))
                    rows = ([number, name, *map(_sqlite_time, times)] for number, name, *times in exposed.rows)
                    connection.executemany(f"INSERT INTO {EXPOSED} VALUES ({marks})", rows)  # noqa: S608 # nosec B608 # names of ours
                    connection.execute(f"CREATE INDEX temp.{EXPOSED}_id ON {EXPOSED} (id)")
                return connection.execute(compile_sql(query, self.dialect)).fetchall()
            except sqlite3.Error as error:
                raise refuse_query(self._spec, error) from error


def _sqlite_time(at: object) -> str:
    """A time in the format of SQLite's `strftime('%Y-%m-%d %H:%M:%f')`."""
    return f"{at:%Y-%m-%d %H:%M:%S}.{getattr(at, 'microsecond', 0) // 1000:03d}"


class _Postgres:
    """A PostgreSQL database (extra `postgres`)."""

    dialect = "postgres"

    def __init__(self, spec: SourceSpec, address: str) -> None:
        try:
            import psycopg  # noqa: PLC0415 # an optional driver
        except ImportError as error:
            raise MissingExtra(f"source {spec.key}", "postgres") from error
        self._spec, self._address, self._driver = spec, address, psycopg

    def table(self, name: str, columns: Sequence[str]) -> ir.Table:
        """A table of the database, `schema.table` or on the search path."""
        return unbound_columns(columns, *split_name(name))

    def fetch(self, query: ir.Table, exposed: Exposures) -> list[FetchedRow]:
        """The rows, with the exposures in a temporary table that the transaction drops."""
        try:
            connection = self._driver.connect(self._address, connect_timeout=_CONNECT_SECONDS)
        except (self._driver.Error, ValueError) as error:
            raise refuse_connection(self._spec, error, self._address) from error
        with closing(connection), connection.cursor() as cursor:
            try:
                cursor.execute("SET TIME ZONE 'UTC'")
                if exposed.columns:
                    first, second, *moments = exposed.columns
                    kinds = ", ".join(
                        [f"{first} bigint", f"{second} text", *(f"{name} timestamptz" for name in moments)]
                    )
                    cursor.execute(f"CREATE TEMP TABLE {EXPOSED} ({kinds}) ON COMMIT DROP")
                    with cursor.copy(f"COPY {EXPOSED} FROM STDIN") as copy:
                        for row in exposed.rows:
                            copy.write_row(row)
                    cursor.execute(f"ANALYZE {EXPOSED}")  # or the planner takes it for a small table
                cursor.execute(compile_sql(query, self.dialect))
                return list(cursor.fetchall())
            except self._driver.Error as error:
                raise refuse_query(self._spec, error, self._address) from error
