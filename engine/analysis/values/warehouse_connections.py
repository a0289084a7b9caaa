"""ClickHouse and Spark as sources, and BigQuery and Snowflake by Ibis's own connection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.analysis.sources.engines import compile_sql
from engine.analysis.sources.warehouses import ClickHouse, Spark
from engine.analysis.values.connections import Exposures, FetchedRow, refuse_connection, refuse_query, split_name
from engine.analysis.values.table_rows import EXPOSED, unbound_columns
from engine.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ibis.expr.types as ir

    from engine.analysis.values.connections import Connection
    from engine.catalog.spec.sources import SourceSpec

_APPROXIMATE = re.compile(r"\buniq(If)?\(")


def connect_warehouse(spec: SourceSpec, address: str | None) -> Connection:
    """A warehouse's connection; `address` is None for one in this process."""
    if spec.kind == "clickhouse":
        return _ClickHouseTables(spec, address)
    return _SparkTables(spec) if spec.kind == "spark" else _IbisTables(spec, address or "")


def warehouse_sql(query: ir.Table, dialect: str) -> str:
    """The SQL of a query, with exact distinct counts instead of ClickHouse's approximate ones."""
    sql = compile_sql(query, dialect)
    return _APPROXIMATE.sub(r"uniqExact\1(", sql) if dialect == "clickhouse" else sql


class _ClickHouseTables:
    """A ClickHouse server, or ClickHouse in this process, where a table is a Parquet or CSV file."""

    dialect = "clickhouse"

    def __init__(self, spec: SourceSpec, address: str | None) -> None:
        self._spec, self._address = spec, address or ""
        try:
            self._engine = ClickHouse(address)
        except (BadInput, ValueError) as error:
            if address is None or isinstance(error, MissingExtra):
                raise
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise refuse_connection(spec, cause, address) from error

    def table(self, name: str, columns: Sequence[str]) -> ir.Table:
        """A table of the server, `database.table` or of the default database; in this process a file."""
        if self._engine.embedded:
            return unbound_columns(columns, self._engine.table(name).get_name())
        return unbound_columns(columns, *split_name(name))

    def fetch(self, query: ir.Table, exposed: Exposures) -> list[FetchedRow]:
        """The rows, with the exposures in a temporary table of the session."""
        client = self._engine.client
        try:
            if exposed.columns:
                moments = (f"`{name}` DateTime64(6, 'UTC')" for name in exposed.columns[2:])
                kinds = ", ".join(["`n` Int64", "`id` String", *moments])
                client.command(f"CREATE OR REPLACE TEMPORARY TABLE {EXPOSED} ({kinds}) ENGINE = Memory")
                client.insert(EXPOSED, [list(row) for row in exposed.rows], column_names=list(exposed.columns))
            settings = {"session_timezone": "UTC", "join_use_nulls": 1}
            rows = client.query(warehouse_sql(query, self.dialect), settings=settings).result_rows
            return [tuple(row) for row in rows]
        except self._engine.failure as error:
            raise refuse_query(self._spec, error, self._address) from error


class _SparkTables:
    """The Spark session of the process."""

    dialect = "pyspark"

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._engine = Spark()

    def table(self, name: str, columns: Sequence[str]) -> ir.Table:
        """A table of the session's catalogue, or a Parquet or CSV file."""
        return unbound_columns(columns, self._engine.table(name).get_name())

    def fetch(self, query: ir.Table, exposed: Exposures) -> list[FetchedRow]:
        """The rows, with the exposures in a temporary view."""
        session = self._engine.session
        try:
            if exposed.columns:
                moments = (f"`{name}` timestamp" for name in exposed.columns[2:])
                kinds = ", ".join(["`n` bigint", "`id` string", *moments])
                session.createDataFrame(list(exposed.rows), kinds).createOrReplaceTempView(EXPOSED)
            return [tuple(row) for row in session.sql(warehouse_sql(query, self.dialect)).collect()]
        except self._engine.failure as error:
            raise refuse_query(self._spec, error) from error


class _IbisTables:
    """BigQuery or Snowflake, by the URL and the driver of Ibis (`ibis-framework[bigquery]`, `[snowflake]`)."""

    def __init__(self, spec: SourceSpec, address: str) -> None:
        self._spec, self._address, self.dialect = spec, address, str(spec.kind)

    def table(self, name: str, columns: Sequence[str]) -> ir.Table:
        """A table of the warehouse."""
        return unbound_columns(columns, *split_name(name))

    def fetch(self, query: ir.Table, exposed: Exposures) -> list[FetchedRow]:
        """The rows, with the exposures in a temporary table."""
        import ibis  # noqa: PLC0415 # slow to import, and only reports need it
        import pyarrow as pa  # noqa: PLC0415 # as above

        try:
            backend = ibis.connect(self._address)
        except ImportError as error:
            raise BadInput(
                f"source {self._spec.key} needs ibis-framework[{self.dialect}], which is not installed; install it"
            ) from error
        except Exception as error:  # each driver raises errors of its own
            raise refuse_connection(self._spec, error, self._address) from error
        try:
            if exposed.columns:
                arrays = [pa.array([row[at] for row in exposed.rows]) for at in range(len(exposed.columns))]
                backend.create_table(EXPOSED, pa.table(arrays, names=list(exposed.columns)), temp=True)
            cursor = backend.raw_sql(warehouse_sql(query, self.dialect))
            return [tuple(row) for row in (cursor.fetchall() if hasattr(cursor, "fetchall") else cursor)]
        except Exception as error:  # as above
            raise refuse_query(self._spec, error, self._address) from error
