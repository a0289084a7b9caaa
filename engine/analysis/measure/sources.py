"""The events of a measurement report: from the engine's log, or from tables of the same shape.

A row of a table becomes an event: its columns are found by name, or named by the caller. A table without a column of
events holds orders only. So orders, refunds, answers and steps mean the same, whatever they were read from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Final, TypeVar, cast

from engine.analysis.design.log_times import SECOND
from engine.analysis.measure.columns import check_numbers
from engine.analysis.measure.daily.blocks import DailyStore, DailyTable, has_files, load_daily
from engine.analysis.measure.daily.ordered import OrderedDays, find_last_event
from engine.analysis.measure.daily.tables import EVENT_TABLES, ORDERED, daily_table
from engine.analysis.measure.text_tables import plain_text_table
from engine.analysis.sources.duckdb_expressions import identifier, text_literal
from engine.analysis.sources.engines import DuckDB, ibis_table
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.merged_customers import create_merged_customers
from engine.analysis.sources.orders import ORDER_EVENTS, EventSum, with_orders
from engine.catalog.spec.traits import RFM_SEGMENTS, RfmSpec
from engine.errors import BadInput
from engine.traits.stages import STAGE_RULES, StageRules
from engine.vocabulary import PURCHASE, PURCHASES, REFUNDS

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from engine.analysis.sources.duckdb_expressions import View
    from engine.analysis.sources.engines import ResultRow

_Found = TypeVar("_Found")
ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "customer": ("customer", "customer_id", "user_id", "user", "id"),
    "time": ("time", "timestamp", "date", "at"),
    "revenue": ("revenue", "amount", "value", "dollar_value", "price"),
    "event": ("event", "step", "type"),
    "channel": ("channel",),
    "offer": ("offer", "campaign"),
    "order": ("order_id", "order"),
    "path": ("path", "journey"),
    "conversions": ("conversions", "converted"),
    "total": ("total", "journeys"),
    "nulls": ("nulls", "null", "lost"),
    "score": ("score", "answer", "rating"),
    "asked": ("asked",),
    "frequency": ("frequency", "x"),
    "recency": ("recency", "t_x"),
    "age": ("age", "t"),
    "cost": ("cost", "cost_to_serve"),
    "monetary": ("monetary", "monetary_value", "zbar"),
}
"""The columns of a table that a report reads, and the names by which they are found where the caller names none."""
MEMORY: Final = "1200MB"
STORED: Final = frozenset(("decisions", "exposures"))
"""Tables of the log of which only some columns are read, which are stored by day too."""
ORDER_COLUMNS: Final = ("customer", "time", "event", "channel", "revenue", "given_back", "row", "place")
_COMPUTED: Final = {"place": "properties ->> '$.store' AS place"}
"""SQL of the columns that are no columns of events."""
EVENT_WITH_ORDER: Final[Mapping[str, str]] = {
    "day": "string",
    "message_id": "string",
    "time": "int64",
    "customer": "string",
    "event": "string",
    "decision_id": "string",
    "channel": "string",
    "revenue": "float64",
    "properties": "string",
    "order_id": "string",
    "place": "string",
    "given_back": "float64",
    "row": "string",
}
_TIME = """
CASE
    WHEN regexp_full_match({text}, '(19|20)[0-9]{{6}}') THEN epoch_us(try_strptime({text}, '%Y%m%d'))
    WHEN try_cast({text} AS DOUBLE) IS NOT NULL
        THEN CAST(try_cast({text} AS DOUBLE) * CASE WHEN abs(try_cast({text} AS DOUBLE)) > 1e11 THEN 1e3 ELSE 1e6 END
            AS BIGINT)
    ELSE epoch_us(try_cast({text} AS TIMESTAMPTZ))
END
"""
_LAST = "SELECT max(time) FROM {visits}"


def _bounded_engine() -> DuckDB:
    """An engine that spills to disk beyond `MEMORY`, so that a year's report leaves memory for others."""
    engine = DuckDB()
    engine.run(f"SET memory_limit = {text_literal(MEMORY)}")
    engine.run(f"SET temp_directory = {text_literal(str(Path(gettempdir(), 'counterpoint-reports')))}")
    return engine


@dataclass(frozen=True)
class EventSource:
    """Events of a log or of tables. `names` are the tables' columns by role, `until` is a time in µs.

    `stages` and `rfm` are those of the shop.
    """

    log_dir: Path | None = None
    files: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    until: int | None = None
    currency: str = ""
    stages: StageRules = STAGE_RULES
    rfm: tuple[RfmSpec, ...] = RFM_SEGMENTS
    engine: DuckDB = field(default_factory=_bounded_engine)
    found: dict[str, object] = field(default_factory=dict)
    """The results that several reports of this source share, by their name."""

    @cached_property
    def events(self) -> ir.Table:
        """The events: `message_id, time (microseconds), customer, event, decision_id, channel, revenue, properties`.

        Raises:
            BadInput: if the log or a table cannot be read, or a column is missing.
        """
        rows = self._log_table("events") if self.log_dir is not None else self._table_events()
        kept = rows["customer"].notnull() & (rows["customer"] != "")
        return rows.filter(kept if self.until is None else kept & (rows["time"] <= self.until))

    @cached_property
    def orders(self) -> ir.Table:
        """One row per order after refunds: `customer, row, time, revenue, channel, place, is_order`, in a table.

        An order is dated by its first message, which came as it was placed; `order_completed` may follow days later.
        A refund without an order is a row too, with a negative revenue and no `is_order` (see `engine.orders`).
        """
        events = self.events_with_orders("order_rows", ORDER_EVENTS, ORDER_COLUMNS)
        events = events.mutate(at=events["time"])
        placed, refunded = (events["event"].isin(sorted(names)) for names in (PURCHASES, REFUNDS))
        net = EventSum(name="net", adds="amount", value="revenue", taken=placed, refunds=refunded)
        rows = events.group_by("customer", "row").aggregate(
            time=events["time"].min(where=placed).fill_null(events["time"].max()),
            channel=events["channel"].argmin(events["time"], where=placed),
            place=events["place"].argmin(events["time"], where=placed),
            **net.per_order(events),
        )
        counted = rows.select(
            *("customer", "row", "time", "channel", "place"),
            revenue=net.per_row(rows),
            is_order=net.is_counted(rows).fill_null(False),
        )
        return self.keep("orders", counted.filter(counted["is_order"] | (counted["revenue"] != 0.0)))

    @property
    def as_of(self) -> str:
        """The time of the report in ISO 8601: the requested one, or the last event's."""
        if self.last is None:
            return datetime.now(UTC).isoformat(timespec="seconds")
        return datetime.fromtimestamp(self.last / SECOND, UTC).isoformat(timespec="seconds")

    @cached_property
    def last(self) -> int | None:
        """The time of the report in microseconds: the requested one, or the last event's; None without events."""
        if self.until is not None:
            return self.until
        last = find_last_event(self.engine, self.daily) if self.daily else self.rows(_LAST)[0][0]
        return last if isinstance(last, int) else None

    @cached_property
    def daily(self) -> DailyStore | None:
        """The log's daily partial statistics; None for tables, without events, or if none can be stored."""
        if self.log_dir is None or self.until is not None or not has_files(self.log_dir, "events"):
            return None
        store = DailyStore(self.engine, self.log_dir)
        return store if store.is_usable() and find_last_event(self.engine, store) is not None else None

    @property
    def has_times(self) -> bool:
        """Whether the rows have times; a summary or a table of counts has none."""
        return self.log_dir is not None or self.column("time") is not None

    @property
    def place(self) -> str:
        """The name of the source, for messages."""
        return ", ".join(self.files) if self.files else str(self.log_dir)

    def once(self, name: str, build: Callable[[], _Found]) -> _Found:
        """Returns the result of `build`, which runs once per source."""
        if name not in self.found:
            self.found[name] = build()
        return cast("_Found", self.found[name])

    def keep(self, name: str, expression: ir.Table) -> ir.Table:
        """Stores an expression's rows in a temporary table of this source."""
        return self.engine.keep(name, expression)

    def rows(self, sql: str, /, **values: str) -> list[ResultRow]:
        """The rows of a statement in which `{name}` stands for a value or a table.

        Tables are `{events}`, `{orders}` and those of `daily.tables`. Values are SQL (see `text_literal`).
        """
        return self.engine.run(self.fill(sql, **values))

    def fill(self, sql: str, /, **values: str) -> str:
        """A statement with its tables and values filled in."""
        tables = ("events", "orders", *EVENT_TABLES)
        sql = sql.format(**({name: f"{{{name}}}" for name in tables} | values))
        for name in tables:
            if f"{{{name}}}" in sql:
                sql = sql.replace(f"{{{name}}}", self._name(name))
        return sql

    def create(self, name: str, sql: str, /, **values: str) -> None:
        """Stores a statement's rows, as in `rows`, in the temporary table `name`."""
        self.rows(f"CREATE OR REPLACE TEMP TABLE {identifier(name)} AS {sql}", **values)

    def _name(self, name: str) -> str:
        if name == "orders":
            return identifier(self.orders.get_name())
        if name in EVENT_TABLES:
            return self._daily_name(name)
        if "events" not in self.engine.made:
            from engine.analysis.sources.engines import compile_sql  # noqa: PLC0415 # Ibis is slow to import

            self.engine.run(f"CREATE OR REPLACE TEMP VIEW measured AS {compile_sql(self.events, 'duckdb')}")
            self.engine.made["events"] = "measured"
        return "measured"

    def events_with_orders(self, name: str, names: Collection[str], columns: Sequence[str]) -> ir.Table:
        """The events with these `names` and their orders (see `sources.orders`), in a new table."""
        import ibis  # noqa: PLC0415 # slow to import

        from engine.analysis.sources.engines import compile_sql  # noqa: PLC0415 # it imports Ibis

        own = columns if self.daily is None else ("day", *columns)
        listed = f"WHERE event IN ({', '.join(map(text_literal, sorted(names)))})"
        read = "{rows}" if self.daily is not None else f"({compile_sql(self.events, 'duckdb')})"
        chosen = ", ".join(_COMPUTED.get(column, column) for column in own)
        rows = f"SELECT {chosen} FROM {with_orders(f'(FROM {read} {listed})')}"  # names of ours # nosec B608
        if self.daily is not None:
            place = self._daily_name(name, rows)
        else:
            place = name
            self.engine.run(f"CREATE OR REPLACE TEMP TABLE {identifier(name)} AS {rows}")
        return ibis.table({column: EVENT_WITH_ORDER[column] for column in own}, name=place)

    def _daily_name(self, name: str, order_sql: str = "") -> str:
        """The temporary table of partial statistics, with merged customers as one."""
        place = f"daily_{name}"
        if place in self.engine.made:
            return place
        store = self.daily
        if store is None or self.log_dir is None:
            rows = self.fill("(SELECT CAST(time // 86400000000 AS VARCHAR) AS day, * FROM {events})")
            self.engine.run(f"CREATE OR REPLACE TEMP TABLE {place} AS {EVENT_TABLES[name].replace('{rows}', rows)}")
        elif name in ORDERED:
            self.load_ordered(daily_table(name), place)
        else:
            select, table = "SELECT * FROM {rows}", daily_table(name, order_sql)
            merges = self._merged_customers(store, self.log_dir)
            if merges is not None:
                select = (
                    "SELECT found.* REPLACE (coalesce(became.customer, found.customer) AS customer) "
                    f"FROM {{rows}} AS found LEFT JOIN {merges} AS became "
                    "ON found.customer = became.old AND found.time <= epoch_us(became.until)"  # nosec B608
                )
            load_daily(self.engine, lambda: store.read(table), select=select, place=place)
        self.engine.made[place] = place
        return place

    def load_ordered(self, table: DailyTable, place: str, select: str = "SELECT * FROM {rows}") -> None:
        """Load a table that depends on the order of events into `place`; `select` is SQL with `{rows}`."""
        if self.daily is not None:
            load_daily(self.engine, lambda: self.ordered_days().read(table), select=select, place=place)

    def ordered_days(self) -> OrderedDays:
        """The days on which the log's events happened; of a log with stored statistics alone."""
        store = self.daily
        if store is None:
            raise BadInput(f"{self.place}: has no stored days; give the folder of a log that can be written")
        return self.once("ordered days", lambda: OrderedDays(self.engine, store, self.merged_customers()))

    def merged_customers(self) -> str | None:
        """The table `old, customer, until` of a log with stored statistics; None where no customers were merged."""
        store, log_dir = self.daily, self.log_dir
        return None if store is None or log_dir is None else self._merged_customers(store, log_dir)

    def _merged_customers(self, store: DailyStore, log_dir: Path) -> str | None:
        if "merge_rows" not in self.engine.made:
            merges = daily_table("merges")
            load_daily(self.engine, lambda: store.read(merges), select="SELECT * FROM {rows}", place="merge_rows")
            self.engine.made["merge_rows"] = create_merged_customers(self.engine, log_dir, "merge_rows")
        return self.engine.made["merge_rows"]

    def log_rows(self, name: str) -> str:
        """The name of a table of the log.

        Raises:
            BadInput: if the report reads tables instead.
        """
        if self.daily is not None and self.log_dir is not None and name in STORED and has_files(self.log_dir, name):
            return self._daily_name(name)
        return identifier(self._log_table(name).get_name())

    def _log_table(self, name: str) -> ir.Table:
        if self.log_dir is None:
            raise BadInput(f"{self.place}: {name} are in a log only; give --log DIR")
        if self.daily is not None:
            self._merged_customers(self.daily, self.log_dir)  # so that it is not read from all events again
        return read_log_table(self.engine, self.log_dir, name)

    @cached_property
    def table(self) -> View:
        """The rows of all tables, unchanged, matched by column names.

        Raises:
            BadInput: if one cannot be read.
        """
        views = [plain_text_table(self.engine, file) or self.engine.table(file) for file in self.files]
        if len(views) == 1:
            return views[0]
        return self.engine.view("tables", " UNION ALL BY NAME ".join(f"FROM {view.sql}" for view in views))

    def column(self, role: str) -> str | None:
        """The tables' column name for a role; None if there is none.

        Raises:
            BadInput: if the caller named a column that no table has.
        """
        known = {name.lower(): name for name in self.table.schema()}
        asked = self.names.get(role)
        if asked is not None:
            if asked not in known.values():
                raise BadInput(f"--{role} {asked}: {self.place} has no such column; it has {', '.join(known.values())}")
            return asked
        return next((known[name] for name in ROLES.get(role, (role,)) if name in known), None)

    def require(self, *roles: str) -> dict[str, str]:
        """The columns of roles that the report requires, quoted for SQL.

        Raises:
            BadInput: if one is missing.
        """
        found = {role: self.column(role) for role in roles}
        missing = [f"--{role} COL" for role, name in found.items() if name is None]
        if missing:
            has = ", ".join(self.table.schema())
            raise BadInput(f"{self.place}: needs {' and '.join(missing)}; its columns are {has}")
        return {role: identifier(name) for role, name in found.items() if name is not None}

    def optional(self, role: str, otherwise: str = "NULL") -> str:
        """A role's column as SQL, or the given default."""
        name = self.column(role)
        return otherwise if name is None else identifier(name)

    def number_sql(self, role: str, otherwise: str = "NULL") -> str:
        """A role's column as a DOUBLE, NULL if it is not a finite number, which `check_numbers` refuses."""
        cast = f"TRY_CAST({self.optional(role, otherwise)} AS DOUBLE)"
        return f"CASE WHEN isfinite({cast}) THEN {cast} END"

    def time_sql(self) -> str:
        """The tables' time in microseconds since 1970, as SQL; a date is its midnight in UTC."""
        column = self.require("time")["time"]
        kind = self.table.schema()[self.column("time") or ""]
        text = f"CAST({column} AS VARCHAR)"
        return f"epoch_us(CAST({column} AS TIMESTAMP))" if "timestamp" in kind else _TIME.format(text=text)

    def _table_events(self) -> ir.Table:
        columns = self.require("customer", "time")
        event = self.optional("event", text_literal(PURCHASE))
        names = ", ".join(text_literal(name) for name in sorted(ORDER_EVENTS))
        check_numbers(self, "revenue", where=f"CAST({event} AS VARCHAR) IN ({names})")
        order, amount = self.optional("order"), self.number_sql("revenue")
        stated = f"to_json({{'order_id': CAST({order} AS VARCHAR), 'amount': {amount}}})"
        select = (
            f"SELECT 'm' || row_number() OVER () AS message_id, {self.time_sql()} AS time, "
            f"CAST({columns['customer']} AS VARCHAR) AS customer, CAST({event} AS VARCHAR) AS event, "
            f"NULL::VARCHAR AS decision_id, CAST({self.optional('channel')} AS VARCHAR) AS channel, "
            f"{amount} AS revenue, CAST(CASE WHEN {order} IS NULL THEN '{{}}' ELSE {stated} END AS VARCHAR) "
            f"AS properties FROM {self.table.sql}"  # nosec B608
        )
        self.engine.run(f"CREATE OR REPLACE TEMP TABLE table_events AS {select}")
        lost, rows = self.engine.run("SELECT count(*) FILTER (time IS NULL), count(*) FROM table_events")[0]
        if lost:
            raise BadInput(
                f"{self.place}: {lost:,} of {rows:,} rows have a time that is not a date, timestamp or epoch; "
                "correct them, or name another column with --time"
            )
        return ibis_table(self.engine.view("table_events", "FROM table_events"))


def describe_span(source: EventSource) -> Sequence[float]:
    """The first and the last moment of the orders, in seconds since 1970; empty without orders."""
    found = source.rows("SELECT min(time) / 1e6, max(time) / 1e6 FROM {orders} WHERE is_order")[0]
    return [float(value) for value in found if value is not None]
