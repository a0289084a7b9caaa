"""Tables whose rows depend on one customer alone: a refresh computes those of the customers that changed.

What a row of such a table says may need all days of a customer, such as the orders after a decision, but nothing of any
other customer. So the stored rows of a customer are right unless one of the rows read of that customer changed.

On disk, beside the daily blocks:

| file | content |
|---|---|
| `<table>.json` | the names of the files below, and the digest of each day of each table that was read |
| `<table>-base-<id>.parquet` | the rows of all customers at the last full computation |
| `<table>-changed-<id>.parquet` | the rows of the customers that changed since then, in the place of those in `base` |
| `<table>-customers-<id>.parquet` | who these customers are; one without rows may be among them |
| `<table>-young-<id>.parquet` | the customers of each table's last days, to which rows may still be added |
| `<table>-merges-<id>.parquet` | the merges of customers that were applied |

Who changed:

| what | who |
|---|---|
| a day is new, or a young one has other files | its customers now and before, and those of its decisions |
| a merge is new, or names another customer | both of its identifiers |
| an older day has other files, or is gone | everybody |

Days on which events happened (`stretches`) may change at any age by late events. There those changed whose stretches
differ from the stored rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.daily.blocks import ABANDONED, DailyTable, has_files, load_daily
from engine.analysis.measure.daily.tables import daily_table
from engine.analysis.sources.duckdb_expressions import text_literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from engine.analysis.measure.daily.blocks import DailyStore
    from engine.analysis.measure.sources import EventSource

LOGGED: Final = frozenset(("decisions", "exposures"))
YOUNG_DAYS: Final = 3
STRETCH: Final = "customer, first, time, event, started, finished, orders, revenue, order_row"
MOST_CHANGED: Final = 0.5
"""The share of customers from which on all are computed."""
_TOUCHED: Final = """
WITH ids AS (SELECT DISTINCT day, decision_id FROM {rows} WHERE day IN ({days}))
SELECT ids.day, seen.customer FROM {decisions} AS seen JOIN ids USING (decision_id)
UNION SELECT ids.day, seen.customer FROM {exposures} AS seen JOIN ids USING (decision_id)
"""
_MERGES_DIFFER: Final = """
SELECT unnest([old, customer]) FROM (
    (SELECT old, customer, until FROM {one} EXCEPT SELECT old, customer, until FROM {other})
    UNION ALL (SELECT old, customer, until FROM {other} EXCEPT SELECT old, customer, until FROM {one})
)
"""
_NO_MERGES: Final = "(SELECT '' AS old, '' AS customer, TIMESTAMPTZ '1970-01-01 00:00:00Z' AS until WHERE false)"


@dataclass(frozen=True, kw_only=True)
class CustomerTable:
    """A table with a `customer`: SQL over those of `{decisions}`, `{exposures}` and `{orders}` that it reads.

    Or over `{stretches}`; then it has a row for each of them, with the columns `STRETCH`. A row that differs from its
    stretch, or lacks, only costs that its customer is computed again when the day changes.
    """

    label: str
    reads: tuple[str, ...]
    sql: str

    @property
    def name(self) -> str:
        """The name of its files, another one for each SQL."""
        return f"{self.label}_{hashlib.sha256(self.sql.encode()).hexdigest()[:12]}"


class StoredRows(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a stored table, and the digests of the days that it was computed from, by the table read."""

    base: str
    changed: str
    customers: str
    young: str
    merges: str
    read: dict[str, dict[str, str]]


def load_customer_rows(
    source: EventSource, table: CustomerTable, place: str, select: str = "SELECT * FROM {rows}"
) -> None:
    """Load the rows of a table into the temporary table `place`; `select` is SQL with `{rows}`.

    A log without stored statistics is computed for all customers.
    """
    store, log_dir = source.daily, source.log_dir
    if store is None or log_dir is None or not all(has_files(log_dir, name) for name in LOGGED & set(table.reads)):
        sql = _fill(table.sql, _names(source, table.reads))
        source.create(place, select.replace("{rows}", f"({sql})"))
        return
    load_daily(source.engine, lambda: _CustomerRows(source, store, table).read(), select=select, place=place)


def _fill(sql: str, tables: Mapping[str, str]) -> str:
    for name, rows in tables.items():
        sql = sql.replace(f"{{{name}}}", rows)
    return sql


def _names(source: EventSource, reads: Iterable[str]) -> dict[str, str]:
    """The names of the tables that are read, with all of their rows."""
    return {name: source.log_rows(name) if name in LOGGED else source.fill(f"{{{name}}}") for name in reads}


class _CustomerRows:
    """One table of a log, read once."""

    def __init__(self, source: EventSource, store: DailyStore, table: CustomerTable) -> None:
        self._source = source
        self._engine = source.engine
        self._store = store
        self._table = table
        self._list: Path = store.folder / f"{table.name}.json"
        self._is_ordered = "stretches" in table.reads
        self._tables = {} if self._is_ordered else _names(source, table.reads)

    def read(self) -> str:
        """SQL of the rows of all customers, after those that changed were computed."""
        wanted, before = self._wanted(), self._read_list()
        if before is not None and before.read == wanted:
            return self._union(before)
        if before is not None and self._find_changed(before, wanted):
            self._restrict()
            sql = _fill(self._table.sql, self._restricted())
            matches = "changed_customers AS newer ON found.customer = newer.customer"
            kept = f"SELECT found.* FROM {self._file(before.changed)} AS found ANTI JOIN {matches}"  # nosec B608
            fresh = f"SELECT found.* FROM ({sql}) AS found SEMI JOIN {matches}"  # nosec B608
            customers = f"SELECT customer FROM {self._file(before.customers)} UNION FROM changed_customers"  # nosec B608
            found = self._stored(
                wanted, base=before.base, changed=f"{kept} UNION ALL BY NAME {fresh}", customers=customers
            )
        else:
            if self._is_ordered:
                self._source.load_ordered(daily_table("stretches"), "all_stretches")
                self._tables = {"stretches": "all_stretches"}
            rows = _fill(self._table.sql, self._tables)
            base = self._store.write(f"{self._table.name}-base", rows)
            empty = f"FROM {self._file(base)} LIMIT 0"
            found = self._stored(
                wanted,
                base=base,
                changed=empty,
                customers=f"SELECT customer FROM ({empty})",  # nosec B608
            )
        self._write_list(found)
        return self._union(found)

    def _wanted(self) -> dict[str, dict[str, str]]:
        """The digest of each day of each table that is read."""
        if self._is_ordered:
            return {"stretches": self._source.ordered_days().digests()}
        reads = {name: ("events",) if name == "orders" else (name,) for name in self._table.reads}
        return {
            name: self._store.digests(DailyTable(name=name, reads=tables, sql=lambda _: ""))
            for name, tables in reads.items()
        }

    def _find_changed(self, before: StoredRows, wanted: dict[str, dict[str, str]]) -> bool:
        """Puts who changed into the table `changed_customers`; False if it is everybody, or too many."""
        parts = []
        for name, days in wanted.items():
            known = before.read.get(name, {})
            changed = [day for day, digest in days.items() if known.get(day) != digest]
            gone = sorted(known.keys() - days.keys())
            if self._is_ordered:
                parts.append(self._of_happened(before, [*changed, *gone]))
                continue
            young = sorted(known)[-YOUNG_DAYS:]
            if gone or any(day in known and day not in young for day in changed):
                return False
            if changed:
                listed = ", ".join(map(text_literal, changed))
                parts.append(f"SELECT customer FROM ({self._touched(name, listed)})")  # nosec B608
                parts.append(
                    f"SELECT customer FROM {self._file(before.young)} "
                    f"WHERE name = {text_literal(name)} AND day IN ({listed})"  # nosec B608
                )
        merges = self._source.merged_customers() or _NO_MERGES
        parts.append(_MERGES_DIFFER.format(one=merges, other=self._file(before.merges)))
        self._engine.run(
            "CREATE OR REPLACE TEMP TABLE changed_customers AS SELECT DISTINCT customer "
            f"FROM ({' UNION ALL '.join(f'({one})' for one in parts)}) AS found(customer) "
            "WHERE customer IS NOT NULL"  # nosec B608
        )
        [[changed_now]] = self._engine.run(
            f"SELECT count(*) FROM (SELECT customer FROM {self._file(before.customers)} UNION FROM changed_customers)"  # nosec B608
        )
        [[everybody]] = self._engine.run(
            f"SELECT approx_count_distinct(customer) FROM {self._file(before.base)}"  # nosec B608
        )
        return float(changed_now or 0) <= MOST_CHANGED * float(everybody or 0)

    def _touched(self, name: str, days: str) -> str:
        """SQL of the `day, customer` of a table's rows of some days, which are SQL, and of the same decisions."""
        if name == "orders":
            return f"SELECT DISTINCT day, customer FROM daily_order_rows WHERE day IN ({days})"  # nosec B608
        return _TOUCHED.format(
            decisions=self._tables["decisions"], exposures=self._tables["exposures"], rows=self._tables[name], days=days
        )

    def _of_happened(self, before: StoredRows, days: list[str]) -> str:
        """SQL of the customers who have other stretches on some days than when the table was stored."""
        if not days:
            return "SELECT '' WHERE false"
        listed = ", ".join(map(text_literal, days))
        select = f"SELECT {STRETCH} FROM {{rows}} WHERE day IN ({listed})"  # nosec B608
        self._source.load_ordered(daily_table("stretches"), "changed_days", select)
        stored = f"SELECT {STRETCH} FROM ({self._union(before)}) WHERE first // 86400000000 IN ({', '.join(days)})"  # nosec B608
        return (
            f"SELECT customer FROM ((FROM changed_days EXCEPT {stored}) "
            f"UNION ALL ({stored} EXCEPT FROM changed_days))"  # nosec B608
        )

    def _restrict(self) -> None:
        """Makes the temporary tables of the rows of the customers that changed."""
        if self._is_ordered:
            select = "SELECT * FROM {rows} SEMI JOIN changed_customers USING (customer)"
            self._source.load_ordered(daily_table("stretches"), "changed_stretches", select)
            return
        parts = [
            f"SELECT decision_id FROM {self._tables[name]} SEMI JOIN changed_customers USING (customer)"  # nosec B608
            for name in ("decisions", "exposures")
        ]
        self._engine.run(f"CREATE OR REPLACE TEMP TABLE changed_decisions AS {' UNION '.join(parts)}")

    def _restricted(self) -> dict[str, str]:
        """SQL of the tables that are read, with the rows that matter to customers that changed."""
        if self._is_ordered:
            return {"stretches": "changed_stretches"}
        keys = {"orders": ("changed_customers", "customer")}
        found = {}
        for name, rows in self._tables.items():
            other, key = keys.get(name, ("changed_decisions", "decision_id"))
            found[name] = f"(SELECT * FROM {rows} SEMI JOIN {other} USING ({key}))"  # nosec B608
        return found

    def _stored(self, wanted: dict[str, dict[str, str]], *, base: str, changed: str, customers: str) -> StoredRows:
        name = self._table.name
        young = [
            f"SELECT {text_literal(read)} AS name, day, customer FROM "
            f"({self._touched(read, ', '.join(map(text_literal, sorted(days)[-YOUNG_DAYS:])))})"  # nosec B608
            for read, days in wanted.items()
            if not self._is_ordered and days
        ]
        nobody = "SELECT '' AS name, '' AS day, '' AS customer WHERE false"
        return StoredRows(
            base=base,
            changed=self._store.write(f"{name}-changed", changed),
            customers=self._store.write(f"{name}-customers", customers),
            young=self._store.write(f"{name}-young", " UNION ALL ".join([nobody, *young])),
            merges=self._store.write(f"{name}-merges", f"FROM {self._source.merged_customers() or _NO_MERGES}"),
            read=wanted,
        )

    def _union(self, found: StoredRows) -> str:
        changed = self._file(found.changed)
        return (
            f"SELECT stored.* FROM {self._file(found.base)} AS stored "
            f"ANTI JOIN {self._file(found.customers)} AS newer ON stored.customer = newer.customer "
            f"UNION ALL BY NAME SELECT * FROM {changed}"  # nosec B608
        )

    def _file(self, name: str) -> str:
        return f"read_parquet({text_literal(str(self._store.folder / name))})"

    def _read_list(self) -> StoredRows | None:
        """What is stored; None without it, or where a file of it is missing."""
        try:
            found = msgspec.json.decode(self._list.read_bytes(), type=StoredRows)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None
        return found if all((self._store.folder / name).exists() for name in _files(found)) else None

    def _write_list(self, found: StoredRows) -> None:
        """Lists the new files, and deletes those that were listed before."""
        before = self._read_list()
        draft = self._store.folder / f".{self._table.name}.{os.getpid()}"
        draft.write_bytes(msgspec.json.encode(found))
        draft.replace(self._list)
        dropped = set() if before is None else _files(before) - _files(found)
        for path in self._store.folder.glob(f"*{self._table.name}-*.parquet"):
            with contextlib.suppress(FileNotFoundError):
                is_old = path.name not in _files(found) and time.time() - path.stat().st_mtime > ABANDONED
                if path.name in dropped or is_old:
                    path.unlink()


def _files(found: StoredRows) -> set[str]:
    return {found.base, found.changed, found.customers, found.young, found.merges}
