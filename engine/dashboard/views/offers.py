"""Offers: the customers from which gates keep each offer, and the rest of stocks and budgets."""

import asyncio
import time
from collections.abc import Sequence

from engine.analysis.checks.lights import Tone
from engine.analysis.measure.activity import ActivityReport, ShownOffer
from engine.analysis.measure.model import count_of
from engine.catalog.plan.plan import Offer
from engine.claims.requirements import every_share
from engine.dashboard.board.results import Job
from engine.dashboard.charts.bars import Bar, BarChart, bar_chart
from engine.dashboard.figures import format_figure, format_share
from engine.dashboard.tables import (
    DataTable,
    TableCell,
    columns_of,
    count_cell,
    money_cell,
    share_cell,
    text_cell,
)
from engine.dashboard.web import Page, PageVisit, link_to
from engine.decision.gating.gates import GATES
from engine.errors import StoreUnavailable
from engine.rehearse.coverage import CoverageCell
from engine.rehearse.dry_run import DryRun
from engine.service.problems import Refusal

Left = dict[str, float | None]
"""The amount left by pool, `budget:KEY`, `stock:SKU` or `shelf:PLACE/SKU`; None where the store does not say."""


async def offers(visit: PageVisit) -> Page:
    """The page of all offers with the rest of their limits, and the holes of the catalogue."""
    desk = visit.desk
    activity = desk.results.read(Job("activity", ""))
    shown = activity.value.shown if activity and isinstance(activity.value, ActivityReport) else []
    holes = desk.results.read(Job("coverage", ""))
    cells = holes.value if holes is not None and isinstance(holes.value, list) else []
    left = await read_left(visit, list(desk.plan.offers.values()))
    placements = dict.fromkeys(placement for _, placement in desk.plan.selections)
    return Page(
        template="offers.html",
        title="Offers",
        context={
            "placements": [(name, link_to("offers", name)) for name in placements],
            "waits": holes is None,
            "holes": sum(cell.hole for cell in cells),
            "cells": len(cells),
        },
        tables=(_offers_table(visit, left, shown), _shelves_table(visit, left), _holes_table(cells)),
    )


async def placement_offers(visit: PageVisit) -> Page:
    """The funnel of gates of one placement, on the newest decisions of the log."""
    placement = visit.path["placement"]
    if placement not in visit.desk.plan.placements:
        raise Refusal(404, f"{placement!r} is not a placement of the running plan; see the list of offers")
    result = visit.desk.results.read(Job("gates", placement))
    run = result.value if result is not None and isinstance(result.value, DryRun) else None
    return Page(
        template="placement.html",
        title=f"Offers on {placement}",
        context={
            "placement": placement,
            "run": run,
            "reason": result.reason if result else "",
            "computed": result.at if result else None,
            "outcomes": _outcomes_chart(run) if run else None,
            "funnel": _funnel_chart(run) if run else None,
        },
        tables=(_outcomes_table(run), _gates_table(run), _limits_table(run)),
    )


async def read_left(visit: PageVisit, found: Sequence[Offer]) -> Left:
    """The rest of the stock and budget of each offer."""
    now, claims, plan = time.time(), visit.desk.worker.claims, visit.desk.plan
    shares = {f"{share.pool}:{share.name}": share for offer in found for share in every_share(plan, offer, now)}
    try:
        values = await asyncio.gather(*(claims.read_remaining(share, now) for share in shares.values()))
    except StoreUnavailable:
        return dict.fromkeys(shares)
    return dict(zip(shares, values, strict=True))


def _offers_table(visit: PageVisit, left: Left, shown: Sequence[ShownOffer]) -> DataTable:
    titles = {
        "offer": "Offer",
        "title": "Title",
        "value": "Value",
        "purpose": "Consent to",
        "channels": "Channels",
        "shown": "Shown, 30 days",
        "stock": "Stock left",
        "budget": "Budget left",
        "caps": "Caps",
    }
    counts: dict[str, int] = {}
    for one in shown:
        counts[one.offer] = counts.get(one.offer, 0) + one.decisions
    rows = [_offer_row(offer, left, counts, visit.desk.plan.currency) for offer in visit.desk.plan.offers.values()]
    return DataTable(
        name="offers",
        title="Offers",
        columns=columns_of(titles, figures=("value", "shown", "stock", "budget")),
        rows=rows,
        empty="The shop has no offer. Add a file to offers/ in the editor.",
    )


def _offer_row(offer: Offer, left: Left, counts: dict[str, int], currency: str) -> list[TableCell]:
    spec = offer.spec
    caps = [f"{count_of(cap.count, cap.event)} per {cap.per}" for cap in spec.caps]
    stock = _stock_left(offer, left)
    return [
        text_cell(offer.key, href=link_to("editor", key=offer.key)),
        text_cell(spec.title or ""),
        money_cell(spec.value, currency),
        text_cell(spec.purpose or ""),
        text_cell(", ".join(spec.renderings)),
        count_cell(counts.get(offer.key, 0)),
        _left_cell(stock, spec.stock.at_least if spec.stock else 0),
        _left_cell(_budget_left(offer, left), spec.budget.cost if spec.budget else 0, currency),
        text_cell(", ".join(caps)),
    ]


def _budget_left(offer: Offer, left: Left) -> float | None:
    budget = offer.limits.budget
    return None if budget is None else left.get(f"budget:{budget.pool}")


def _stock_left(offer: Offer, left: Left) -> float | None:
    """The rest of an offer's stock; for a stock by place the sum over its places."""
    sku = offer.limits.shelf_sku
    if sku is None:
        return left.get(f"stock:{offer.spec.stock.sku}") if offer.spec.stock else None
    amounts = [
        amount
        for pool, amount in left.items()
        if pool.startswith("shelf:") and pool.partition("/")[2] == sku and amount is not None
    ]
    return sum(amounts) if amounts else None


def _shelves_table(visit: PageVisit, left: Left) -> DataTable:
    places = {} if visit.desk.plan.places is None else visit.desk.plan.places.by_key
    rows = []
    for pool, amount in left.items():
        if pool.startswith("shelf:"):
            place, _, sku = pool.removeprefix("shelf:").partition("/")
            title = places[place].title if place in places else None
            rows.append([text_cell(sku), text_cell(title or place), _left_cell(amount, 1)])
    return DataTable(
        name="shelves",
        title="Stock by place",
        columns=columns_of({"sku": "SKU", "place": "Place", "left": "Left"}, figures=("left",)),
        rows=rows,
        empty="No offer's item is handed over by places.",
    )


def _left_cell(left: float | None, least: float, currency: str = "") -> TableCell:
    """The rest, in red if it does not suffice for another showing."""
    if left is None:
        return TableCell(None, " ")
    tone: Tone = "bad" if left < least else ""
    return money_cell(left, currency, tone=tone) if currency else count_cell(left, tone=tone)


def _holes_table(cells: Sequence[CoverageCell]) -> DataTable:
    titles = {
        "segment": "Segment",
        "stage": "Stage",
        "channel": "Channel",
        "placement": "Placement",
        "without": "Without an offer",
        "offers": "Offers for them",
    }
    rows = [
        [
            *(text_cell(name) for name in (cell.segment, cell.stage, cell.channel, cell.placement)),
            share_cell(cell.without, tone="bad" if cell.hole else ""),
            text_cell(", ".join(cell.offers)),
        ]
        for cell in cells
    ]
    columns = columns_of(titles, figures=("without",))
    note = "A made-up customer of each stage of the journey, who consented to everything."
    return DataTable(name="holes", title="Where the shop has offers", columns=columns, rows=rows, note=note)


def _outcomes_chart(run: DryRun) -> BarChart | None:
    bars = [Bar(name=row.outcome, value=row.share, text=format_share(row.share)) for row in run.outcomes[:12]]
    return bar_chart("What the visits got", bars)


def _funnel_chart(run: DryRun) -> BarChart | None:
    """The number of times that each gate closed an offer, over offers and visits, in gate order."""
    closed: dict[str, int] = {}
    for row in run.kept:
        closed[row.gate] = closed.get(row.gate, 0) + row.visits
    ordered = [(str(gate), closed[gate]) for gate in GATES if gate in closed]
    bars = [Bar(name=gate, value=float(number), text=format_figure(number)) for gate, number in ordered]
    return bar_chart("How often each gate closed an offer", bars)


def _outcomes_table(run: DryRun | None) -> DataTable:
    titles = {"outcome": "Outcome", "visits": "Visits", "customers": "Customers", "share": "Share", "value": "Value"}
    rows = [
        [
            text_cell(row.outcome),
            count_cell(row.visits),
            count_cell(row.customers),
            share_cell(row.share),
            count_cell(row.value),
        ]
        for row in (run.outcomes if run else [])
    ]
    columns = columns_of(titles, figures=list(titles)[1:])
    return DataTable(name="outcomes", title="What the visits got", columns=columns, rows=rows)


def _gates_table(run: DryRun | None) -> DataTable:
    titles = {"offer": "Offer", "gate": "Gate", "visits": "Visits", "share": "Share of visits", "meaning": "Because"}
    rows = []
    for row in run.kept if run else []:
        share = row.visits / run.visits if run and run.visits else None
        cells = [text_cell(row.offer), text_cell(row.gate), count_cell(row.visits), share_cell(share)]
        rows.append([*cells, text_cell(GATES[row.gate].meaning)])
    columns = columns_of(titles, figures=("visits", "share"))
    empty = "No gate closed an offer: every offer could be shown to everyone."
    return DataTable(name="gates", title="Why offers were not shown", columns=columns, rows=rows, empty=empty)


def _limits_table(run: DryRun | None) -> DataTable:
    titles = {"pool": "Limit", "name": "Of", "amount": "Amount", "spent": "Spent", "held": "On hold"}
    titles |= {"ran_out": "Ran out"}
    rows = [
        [
            text_cell(row.pool),
            text_cell(row.name),
            *(count_cell(amount) for amount in (row.limit, row.spent, row.held)),
            text_cell("yes" if row.ran_out is not None else "no", tone="bad" if row.ran_out is not None else ""),
        ]
        for row in (run.limits if run else [])
    ]
    columns = columns_of(titles, figures=("amount", "spent", "held"))
    empty = "No offer here has a stock or a budget."
    return DataTable(name="limits", title="What these visits use up", columns=columns, rows=rows, empty=empty)
