"""Spark and ClickHouse as engines, for tables beyond one machine."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, cast

from engine.analysis.sources.engines import ResultRow, compile_sql, unbound_table
from engine.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ibis.expr.types as ir

    from engine.analysis.sources.engines import Frame

_FILE = re.compile(r"[/\\]|\.(parquet|csv|tsv|txt)(\.\w+)?$", re.IGNORECASE)  # any other name is a table's
_CSV = re.compile(r"\.(csv|tsv|txt)(\.gz)?$", re.IGNORECASE)
_SAMPLED = re.compile(r"\bquantile(If)?\(")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class Spark:
    """A Spark session: the active or a local one (extra `spark`, needs Java)."""

    def __init__(self) -> None:
        try:
            import ibis  # noqa: PLC0415 # an optional engine
            from pyspark.errors import PySparkException  # noqa: PLC0415
            from pyspark.sql import SparkSession  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtra("engine spark", "spark") from error
        self.failure = PySparkException
        builder = SparkSession.builder.config("spark.sql.session.timeZone", "UTC").config("spark.ui.enabled", "false")
        try:
            self.session = builder.getOrCreate()
        except Exception as error:  # py4j raises errors of its own, and bare ones when Java is missing
            raise BadInput(f"engine spark did not start: {_first_line(error)}; it needs Java 17") from error
        self.session.sparkContext.setLogLevel("ERROR")
        ibis.pyspark.connect(self.session)  # the compiler reads options that are registered on connecting
        self._views = 0

    def table(self, path: str, names: Sequence[str] = ()) -> ir.Table:
        """A Parquet or CSV file, a folder of Parquet files, or a table of the session's catalogue."""
        try:
            if not _FILE.search(path):
                frame = self.session.table(path)
            elif _CSV.search(path):
                inferred = self.session.read.csv(path, header=True, escape='"', inferSchema=True).dtypes
                kinds = ", ".join(
                    f"`{column.replace('`', '``')}` {'string' if column in names else kind}"
                    for column, kind in inferred
                )
                frame = self.session.read.csv(path, header=True, escape='"', schema=kinds)
            else:
                frame = self.session.read.parquet(path)
        except self.failure as error:
            raise BadInput(f"{path} cannot be read: {_first_line(error)}; check its name and its rights") from error
        name = f"source_{self._views}"
        self._views += 1
        frame.createOrReplaceTempView(name)
        return unbound_table(name, dict(frame.dtypes))

    def rows(self, query: Frame) -> list[ResultRow]:
        """The rows of an expression."""
        try:
            return [tuple(row) for row in self.session.sql(compile_sql(query, "pyspark")).collect()]
        except self.failure as error:
            raise BadInput(f"the data cannot be read: {_first_line(error)}; check the table's columns") from error


class ClickHouse:
    """A ClickHouse server by URL, or ClickHouse in this process (extra `clickhouse`)."""

    def __init__(self, url: str | None) -> None:
        try:
            import clickhouse_connect  # noqa: PLC0415 # an optional engine
            from clickhouse_connect.driver.exceptions import Error  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtra("engine clickhouse", "clickhouse") from error
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # it also raises what it logs
        self.failure = Error
        self.embedded = url is None
        try:
            get = clickhouse_connect.get_client
            self.client = get(interface="chdb") if url is None else get(dsn=url)
        except (Error, ImportError, OSError) as error:
            raise BadInput(f"engine {url or 'clickhouse'} cannot be reached: {_first_line(error)}") from error
        self._views = 0

    def table(self, path: str, names: Sequence[str] = ()) -> ir.Table:
        """A table of the server; in this process a Parquet or CSV file."""
        from sqlglot import expressions as sg  # noqa: PLC0415 # slow to import

        name = path
        try:
            if self.embedded and _FILE.search(path):
                name = f"source_{self._views}"
                self._views += 1
                rows = sg.select("*").from_(sg.func("file", sg.Literal.string(path)))
                if names and _CSV.search(path):
                    hints = ", ".join(
                        f"{sg.to_identifier(n, quoted=True).sql('clickhouse')} Nullable(String)" for n in names
                    )
                    hint = sg.EQ(this=sg.column("schema_inference_hints"), expression=sg.Literal.string(hints))
                    rows.set("settings", [hint])
                view = sg.Create(this=sg.to_table(name), kind="VIEW", replace=True, expression=rows)
                self.client.command(view.sql("clickhouse"))
            described = self.client.query(f"DESCRIBE TABLE {sg.to_identifier(name, quoted=True).sql('clickhouse')}")
        except self.failure as error:
            raise BadInput(f"{path} cannot be read: {_first_line(error)}; check its name and its rights") from error
        return unbound_table(name, {str(column): str(kind) for column, kind, *_ in described.result_rows})

    def rows(self, query: Frame) -> list[ResultRow]:
        """The rows of an expression, with exact quantiles instead of ClickHouse's sampled default."""
        sql = _SAMPLED.sub(r"quantileExactInclusive\1(", compile_sql(query, "clickhouse"))
        try:
            return [cast("ResultRow", tuple(row)) for row in self.client.query(sql).result_rows]
        except self.failure as error:
            raise BadInput(f"the data cannot be read: {_first_line(error)}; check the table's columns") from error
