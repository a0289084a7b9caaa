"""The identifiers by which tables outside the log may name a customer, as known from the log.

A customer is known by their id in the log, by the ids of visitors who were merged into them, by the identifiers that a
merge names, and by those that the exposed decisions' requests named. An id of the log is that customer whatever else
names it. Any other identifier that leads to two customers leads to nobody: no row counts for a stranger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.merged_customers import merged_customers_table
from engine.analysis.values.json_fields import json_at
from engine.catalog.spec.identifiers import is_placeholder, normalize_identifier
from engine.customer import KINDS, WEAK, CustomerIds
from engine.journal.traces import FORMAT, UNMARKED
from engine.vocabulary import MERGED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.sources.engines import DuckDB

PERSONAL = tuple(kind for kind in KINDS if kind not in WEAK)
_NAME = "identifiers"
_RESOLVED = """
CREATE OR REPLACE TEMP TABLE identifiers AS
SELECT id, id AS customer FROM own
UNION ALL
SELECT id, any_value(customer) AS customer FROM named
ANTI JOIN own USING (id)
WHERE id <> '' AND customer IS NOT NULL GROUP BY id HAVING count(DISTINCT customer) = 1
"""


class _TracedRequest(msgspec.Struct):
    customer: CustomerIds


class _TracedIds(msgspec.Struct, array_like=True):
    """The head of a `Trace`, the only part that is read."""

    now: float
    request: _TracedRequest


_decoder = msgspec.msgpack.Decoder(_TracedIds)


def find_identifiers(source: DuckDB, log_dir: Path, customers: ir.Table | None = None) -> ir.Table:
    """The identifiers of the log's customers, a table `id, customer`.

    E-mail addresses and phone numbers are in canonical form.

    Args:
        source: the engine of the log.
        log_dir: the folder of the log.
        customers: a table `customer`; requests are read for the identifiers of these alone. Of all by default.
    """
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    if _NAME not in source.made:
        named = [_traced_ids(source, log_dir, customers), *_merged_ids(source, log_dir)]
        source.keep("named", ibis.union(*named) if len(named) > 1 else named[0])
        # Any customer of the log, who need not have seen the experiment, owns their id.
        own = [read_log_table(source, log_dir, name).select(id="customer") for name in ("decisions", "events")]
        both = ibis.union(*own, distinct=True)
        source.keep("own", both.filter(both["id"].notnull()))
        source.run(_RESOLVED)
        if customers is None:
            source.made[_NAME] = _NAME
    return ibis.table({"id": "string", "customer": "string"}, name=_NAME)


def _merged_ids(source: DuckDB, log_dir: Path) -> Iterator[ir.Table]:
    """Yield ids of merged visitors, and identifiers that merges name, each with the customer."""
    import ibis  # noqa: PLC0415 # as above

    merges = merged_customers_table(source, log_dir)
    if merges is None:
        return
    yield ibis.table({"old": "string", "customer": "string"}, name=merges).select("customer", id="old")
    events = read_log_table(source, log_dir, "events")
    events = events.filter(events["event"] == MERGED)
    for kind in PERSONAL:
        yield events.select("customer", id=json_at(events["properties"], f"/by/{kind}"))


def _traced_ids(source: DuckDB, log_dir: Path, customers: ir.Table | None) -> ir.Table:
    """The personal identifiers in decisions' requests, each with the customer."""
    decisions = read_log_table(source, log_dir, "decisions")
    if customers is not None:
        decisions = decisions.semi_join(customers, "customer")
    decisions = source.keep("identifying", decisions.select("decision_id", "customer").distinct())
    found: dict[tuple[str, str], None] = {}
    for decision_id, blob in source.traces(log_dir, decisions.get_name()):
        marked = blob[0] not in UNMARKED
        if marked and blob[0] != FORMAT:
            continue
        try:
            ids = _decoder.decode(memoryview(blob)[1:] if marked else blob).request.customer
        except msgspec.DecodeError:  # of a release that this one does not read
            continue
        for kind in PERSONAL:
            value = getattr(ids, kind)
            if value and not is_placeholder(value, kind):
                found[decision_id, normalize_identifier(kind, value)] = None
    rows = source.load("traced_ids", decision_id=[one for one, _ in found], id=[value for _, value in found])
    return rows.join(decisions, "decision_id").select("customer", "id")
