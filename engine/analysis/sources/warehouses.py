"""Where one machine ends: the same expressions on Spark and ClickHouse."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, cast

from engine.analysis.sources.engines import ResultRow, compile_sql, unbound_table
from engine.errors import BadInput

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from engine.analysis.sources.engines import Frame

_FILE = re.compile(r"[/\\]|\.(parquet|csv|tsv|txt)(\.\w+)?$", re.IGNORECASE)  # else it is a table's name
_SAMPLED = re.compile(r"\bquantile(If)?\(")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class Spark:
    """A Spark session, the one that is active or a local one (extra `spark`, needs Java)."""

    def __init__(self) -> None:
        try:
            import ibis  # noqa: PLC0415 # an optional engine
            from pyspark.errors import PySparkException  # noqa: PLC0415
            from pyspark.sql import SparkSession  # noqa: PLC0415
        except ImportError as error:
            raise BadInput("engine spark needs pyspark; install counterpoint[spark]") from error
        self.failure = PySparkException
        builder = SparkSession.builder.config("spark.sql.session.timeZone", "UTC").config("spark.ui.enabled", "false")
        try:
            self.session = builder.getOrCreate()
        except Exception as error:  # py4j raises its own and bare ones when Java is missing
            raise BadInput(f"engine spark did not start: {_first_line(error)}; it needs Java 17") from error
        self.session.sparkContext.setLogLevel("ERROR")
        ibis.pyspark.connect(self.session)  # its compiler reads options that only connecting registers
        self._views = 0

    def table(self, path: str) -> ir.Table:
        """A Parquet or CSV file, a folder of Parquet files, or a table of the session's catalogue."""
        try:
            if not _FILE.search(path):
                frame = self.session.table(path)
            elif re.search(r"\.(csv|tsv|txt)(\.gz)?$", path, re.IGNORECASE):
                frame = self.session.read.csv(path, header=True, inferSchema=True)
            else:
                frame = self.session.read.parquet(path)
        except self.failure as error:
            raise BadInput(f"{path} cannot be read: {_first_line(error)}") from error
        name = f"source_{self._views}"
        self._views += 1
        frame.createOrReplaceTempView(name)
        return unbound_table(name, dict(frame.dtypes))

    def rows(self, asked: Frame) -> list[ResultRow]:
        """Compiles and runs."""
        try:
            return [tuple(row) for row in self.session.sql(compile_sql(asked, "pyspark")).collect()]
        except self.failure as error:
            raise BadInput(f"the data cannot be read: {_first_line(error)}") from error


class ClickHouse:
    """A ClickHouse server by its URL, or ClickHouse in this process where there is none (extra `clickhouse`)."""

    def __init__(self, url: str | None) -> None:
        try:
            import clickhouse_connect  # noqa: PLC0415 # an optional engine
            from clickhouse_connect.driver.exceptions import Error  # noqa: PLC0415
        except ImportError as error:
            raise BadInput("engine clickhouse needs clickhouse-connect; install counterpoint[clickhouse]") from error
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # what it logs, it raises too
        self.failure = Error
        self.embedded = url is None
        try:
            get = clickhouse_connect.get_client
            self.client = get(interface="chdb") if url is None else get(dsn=url)
        except (Error, ImportError, OSError) as error:
            raise BadInput(f"engine {url or 'clickhouse'} cannot be reached: {_first_line(error)}") from error
        self._views = 0

    def table(self, path: str) -> ir.Table:
        """A table of the server; a Parquet or CSV file where ClickHouse runs in this process."""
        name = path
        try:
            if self.embedded and _FILE.search(path):
                name = f"source_{self._views}"
                self._views += 1
                quoted = path.replace("\\", "\\\\").replace("'", "\\'")
                self.client.command(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM file('{quoted}')")  # noqa: S608 # quoted above
            described = self.client.query(f"DESCRIBE TABLE {name}").result_rows
        except self.failure as error:
            raise BadInput(f"{path} cannot be read: {_first_line(error)}") from error
        return unbound_table(name, {str(column): str(kind) for column, kind, *_ in described})

    def rows(self, asked: Frame) -> list[ResultRow]:
        """Compiles and runs; its plain quantile is sampled, so the exact one takes its place."""
        sql = _SAMPLED.sub(r"quantileExactInclusive\1(", compile_sql(asked, "clickhouse"))
        try:
            return [cast("ResultRow", tuple(row)) for row in self.client.query(sql).result_rows]
        except self.failure as error:
            raise BadInput(f"the data cannot be read: {_first_line(error)}") from error
