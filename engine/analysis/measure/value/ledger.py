"""The ledger of promises by offers with a budget, and the outcome of each promise.

A promise is one exposure of such an offer; its amount is the cost of the offer on the channel, by the plan that
decided. It is in exactly one state at the moment of the report:

| state | since |
|---|---|
| redeemed | an order or a redemption named the decision |
| refunded | an order that redeemed it was refunded: by the decision, or by its order id; a named offer alone |
| released | the offer was refused or ignored before its hold ended |
| expired | its hold ended without any of these |
| open | none of these yet |

So promised = redeemed + refunded + released + expired + open, in each row and in all. Amounts are whole
ten-thousandths, as those of the live counters, and are added as integers. The state depends on
which events there are and not on their order, and an event counts once however often it is sent. Of a refund of a part
the whole promise counts as refunded.

The live counter of a budget has `spent` = redeemed + refunded, and `held` = open. A refund gives budget back only
where the budget has `refunds`, and comes within that time.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.model import (
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportCell,
    ReportTable,
    units_of,
)
from engine.analysis.sources.duckdb_expressions import identifier, text_literal
from engine.analysis.stats.estimate import NotEstimable
from engine.catalog.spec.fields import seconds
from engine.errors import BadInput, CatalogError
from engine.vocabulary import CONFIRMS, REFUNDS, RELEASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.analysis.measure.sources import EventSource
    from engine.catalog.archive import Archive
    from engine.catalog.plan.plan import Plan
    from engine.catalog.spec.offer import OfferSpec

    OffersOf = Callable[[str], list[OfferSpec]]

UNIT: Final = 10_000
"""Stored per 1.00 of an amount, as in the live counters."""
STATES: Final = ("redeemed", "refunded", "released", "expired", "open")
_LIMITS = [
    "A promise of an erased customer is in no row: their decisions are deleted. The live counter still has its amount.",
    "A refund of a part of an order counts as a refund of its whole promise.",
]
_CONCERNED = """
SELECT event, time, decision_id, customer, order_id, json_extract_string(properties, '$.offer') AS offer,
    json_extract_string(properties, '$.placement') AS placement
FROM {found}
"""
_PROMISED = """
CREATE OR REPLACE TEMP TABLE ledger_promises AS
WITH seen AS (
    SELECT decision_id, key, coalesce(position, 0) AS position, min(time) AS time FROM {exposures}
    WHERE time <= {until} GROUP BY ALL
), shown AS (
    SELECT DISTINCT decision_id, key, coalesce(position, 0) AS position, variant AS offer, channel, plan
    FROM {decisions} WHERE kind = 'offer' AND variant IS NOT NULL
)
SELECT seen.decision_id, shown.key, shown.position, shown.offer, shown.channel, cost.amount,
    seen.time, seen.time + cost.hold AS ends
FROM seen JOIN shown USING (decision_id, key, position)
JOIN ledger_costs AS cost ON cost.plan = shown.plan AND cost.offer = shown.offer
    AND cost.channel = shown.channel
"""
# Whether an event concerns a promise: by the offer that it names, or the placement; else as `otherwise` has it.
_CONCERNS = """CASE
    WHEN one.offer IS NOT NULL THEN one.offer = promise.offer
    WHEN one.placement IS NOT NULL THEN one.placement = promise.key
        OR one.placement = promise.key || '[' || promise.position || ']'
    ELSE {otherwise} END"""
# Without such a name an event by decision concerns every placement that shows one offer, a refund by order all of it.
_STATES = """
WITH about AS (
    SELECT promise.decision_id, promise.offer, promise.key, promise.position,
        one.event, one.time, one.customer, one.order_id
    FROM ledger_promises AS promise JOIN ledger_events AS one USING (decision_id)
    WHERE {by_decision}
), redeemed AS (
    SELECT DISTINCT decision_id, offer, key, position, customer, order_id FROM about WHERE event IN ({confirms})
), refunded AS (
    SELECT DISTINCT promise.decision_id, promise.offer FROM redeemed AS promise JOIN ledger_events AS one
        ON one.event IN ({refunds}) AND ((one.decision_id = promise.decision_id AND {by_decision})
            OR (one.order_id = promise.order_id AND one.customer = promise.customer AND {by_order}))
), released AS (
    SELECT decision_id, offer, min(time) AS time FROM about WHERE event IN ({releases}) GROUP BY ALL
)
SELECT promise.offer, promise.channel, CASE
        WHEN refunded.offer IS NOT NULL THEN 'refunded'
        WHEN EXISTS (FROM redeemed WHERE redeemed.decision_id = promise.decision_id
            AND redeemed.offer = promise.offer) THEN 'redeemed'
        WHEN released.time < promise.ends THEN 'released'
        WHEN promise.ends <= {until} THEN 'expired'
        ELSE 'open' END AS state, count(*), CAST(sum(promise.amount) AS BIGINT)
FROM ledger_promises AS promise
LEFT JOIN refunded ON refunded.decision_id = promise.decision_id AND refunded.offer = promise.offer
LEFT JOIN released ON released.decision_id = promise.decision_id AND released.offer = promise.offer
GROUP BY ALL ORDER BY ALL
"""


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One offer's promises on one channel, in exact decimals of the shop's currency."""

    offer: str
    channel: str
    promises: int
    promised: Decimal
    redeemed: Decimal
    refunded: Decimal
    released: Decimal
    expired: Decimal
    open: Decimal


class LedgerReport(MeasureReport, frozen=True, kw_only=True):
    """The ledger: its rows by offer and channel, and their sum.

    `unpriced` are the plans of decisions that are in the log and not in the archive: their amounts are those of the
    running plan.
    """

    rows: list[LedgerRow]
    total: LedgerRow
    unpriced: list[str]

    def tables(self) -> list[ReportTable]:
        """A row per offer and channel, and their sum."""
        columns = ["offer", "channel", "promises", "promised", *STATES]
        rows = [*self.rows, self.total] if self.rows else []
        units = units_of("cents", *range(3, 4 + len(STATES)))
        note = "promised = redeemed + refunded + released + expired + open, to the last digit."
        return [
            ReportTable(title="Ledger", columns=columns, rows=[_cells(row) for row in rows], note=note, units=units)
        ]

    def picture(self) -> Picture | None:
        """The outcomes of the promised money."""
        marks = [PictureMark(name=state, value=float(getattr(self.total, state))) for state in STATES]
        return Picture(shape="bars", title="Promised money", marks=marks, unit="money") if self.rows else None


def measure_ledger(source: EventSource, offers_of: OffersOf, current: str) -> LedgerReport:
    """The ledger of a log.

    Args:
        source: the events of a log; a table has no decisions.
        offers_of: the offers of a plan by its version; raises BadInput for one that is not archived.
        current: the version of the running plan, which stands in for such a plan.

    Raises:
        BadInput: if the source is no log, or cannot be read.
    """
    if source.log_dir is None:
        raise BadInput(f"{source.place}: a ledger needs decisions, which are in a log only; give --log DIR")
    tables = {name: source.log_rows(name) for name in ("decisions", "exposures")}
    versions = [str(row[0]) for row in source.rows("SELECT DISTINCT plan FROM {decisions} ORDER BY 1", **tables)]
    unpriced = _keep_costs(source, versions, offers_of, current)
    # Without a moment of its own, the report is of the last thing that happened: an exposure, or an event.
    last = source.rows("SELECT max(time) FROM {exposures}", **tables)[0][0]
    until = str(source.until or max(source.last or 0, int(last) if isinstance(last, int) else 0))
    columns = ("time", "customer", "event", "decision_id", "order_id", "properties")
    found_events = source.events_with_orders("ledger_rows", CONFIRMS | REFUNDS | RELEASES, columns)
    source.create("ledger_events", _CONCERNED, found=identifier(found_events.get_name()))
    source.rows(_PROMISED, until=until, **tables)
    names = {"confirms": _texts(CONFIRMS), "refunds": _texts(REFUNDS), "releases": _texts(RELEASES)}
    names["by_decision"] = _CONCERNS.format(otherwise="promise.position = 0")
    names["by_order"] = _CONCERNS.format(otherwise="TRUE")
    found: dict[tuple[str, str], dict[str, int]] = {}
    counts: dict[tuple[str, str], int] = {}
    for offer, channel, state, count, amount in source.rows(_STATES, until=until, **names):
        key = str(offer), str(channel)
        found.setdefault(key, {})[str(state)] = int(str(amount))
        counts[key] = counts.get(key, 0) + int(str(count))
    rows = [_row(*key, counts[key], amounts) for key, amounts in sorted(found.items())]
    sums = {state: sum(amounts.get(state, 0) for amounts in found.values()) for state in STATES}
    total = _row("all", "", sum(counts.values()), sums)
    return LedgerReport(
        report="ledger",
        as_of=source.as_of,
        sentence=_sentence(total, source.currency),
        money=MoneyFigure(what="promised and still open", estimate=float(total.open))
        if rows
        else NotEstimable("no offer with a budget was shown"),
        standing="descriptive",
        limits=_LIMITS,
        currency=source.currency,
        rows=rows,
        total=total,
        unpriced=unpriced,
    )


def archived_offers(archive: Archive | None, plan: Plan) -> OffersOf:
    """The offers of a plan version from the archive; of the running plan from itself."""

    def offers_of(version: str) -> list[OfferSpec]:
        if version == plan.version:
            return [offer.spec for offer in plan.offers.values()]
        if archive is None:
            raise BadInput(f"plan {version}: no archive was given; name the folder of plans")
        return list(archive.read_specs(version).every_offer())

    return offers_of


def offer_costs(offer: OfferSpec) -> Mapping[str, float]:
    """The cost of one showing of an offer by channel; empty without a budget."""
    budget = offer.budget
    return {} if budget is None else {channel: budget.cost_on(channel) for channel in offer.renderings}


def _keep_costs(source: EventSource, versions: list[str], offers_of: OffersOf, current: str) -> list[str]:
    """Stores each plan's offer costs in `ledger_costs`; returns the versions without an archived plan."""
    rows: list[str] = []
    unpriced: list[str] = []
    for version in versions:
        try:
            offers = list(offers_of(version))
        except (BadInput, CatalogError):  # not archived, or written before a rule of today
            unpriced.append(version)
            offers = list(offers_of(current))
        for offer in offers:
            hold = 0 if offer.budget is None else round(seconds(offer.budget.hold) * 1_000_000)
            for channel, cost in offer_costs(offer).items():
                texts = ", ".join(map(text_literal, (version, offer.key, channel)))
                rows.append(f"({texts}, {round(cost * UNIT)}, {hold})")
    source.rows(
        "CREATE OR REPLACE TEMP TABLE ledger_costs "
        "(plan VARCHAR, offer VARCHAR, channel VARCHAR, amount BIGINT, hold BIGINT)"
    )
    for start in range(0, len(rows), 1000):
        part = ", ".join(rows[start : start + 1000]).replace("{", "{{").replace("}", "}}")
        source.rows(f"INSERT INTO {identifier('ledger_costs')} VALUES {part}")  # nosec B608
    return unpriced


def _row(offer: str, channel: str, promises: int, amounts: Mapping[str, int]) -> LedgerRow:
    exact = {state: Decimal(amounts.get(state, 0)) / UNIT for state in STATES}
    return LedgerRow(offer=offer, channel=channel, promises=promises, promised=sum(exact.values(), Decimal(0)), **exact)


def _cells(row: LedgerRow) -> list[ReportCell]:
    amounts = (row.promised, row.redeemed, row.refunded, row.released, row.expired, row.open)
    return [row.offer, row.channel, row.promises, *(float(amount) for amount in amounts)]


def _sentence(total: LedgerRow, currency: str) -> str:
    if not total.promises:
        return "No offer with a budget was shown."
    unit = f" {currency}" if currency else ""
    return (
        f"{total.promises:,} promises of {total.promised:,.2f}{unit}: {total.redeemed:,.2f} redeemed, "
        f"{total.refunded:,.2f} refunded, {total.released:,.2f} released, {total.expired:,.2f} expired, "
        f"{total.open:,.2f} open."
    )


def _texts(names: Iterable[str]) -> str:
    return ", ".join(text_literal(name) for name in sorted(names))
