"""One customer: identity, history by channel, current decisions with reasons; export and erasure."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec

from engine.customer import CustomerIds
from engine.customers.redis.keys import identifier_spellings
from engine.dashboard.figures import format_moment, format_money
from engine.dashboard.tables import DataTable, TableCell, columns_of, moment_cell, share_cell, text_cell
from engine.dashboard.web import Download, Page, PageAnswer, PageVisit, Redirect, link_to
from engine.decision.explanation import Explanation, build_explanation
from engine.decision.gating.gates import GATES
from engine.decision.staff_view import AgentView, build_agent_view
from engine.journal.log.export import recent_rows
from engine.service.decide_body import decode_decide
from engine.service.endpoints.admin import record_audit
from engine.service.endpoints.explain import decide_with_trace
from engine.service.endpoints.profiles import erase_customer, export_customer, show_customer
from engine.service.ids import new_id
from engine.service.problems import Refusal
from engine.vocabulary import CUSTOMER_ERASED, CUSTOMER_EXPORTED

TIMELINE_SECONDS = 0.15
"""Seconds for which the log is read for a timeline, newest days first; an export reads all of it."""
SHOWN = 200
"""Entries of a timeline."""


async def customers(visit: PageVisit) -> PageAnswer:
    """The search by any identifier, or the page of the customer that it names."""
    wanted = visit.query.get("id", "").strip()
    if wanted:
        return Redirect(to=link_to("customers", wanted))
    return Page(template="customers.html", title="Customers", context={"missing": "", "wanted": ""})


async def customer(visit: PageVisit) -> Page:
    """The page of one customer."""
    wanted = visit.path["id"]
    try:
        view = await show_customer(visit.desk.worker, wanted)
    except Refusal as refusal:
        if refusal.status != 404:
            raise
        context = {"missing": refusal.detail, "wanted": wanted}
        return Page(template="customers.html", title="Customers", context=context, status=404)
    channels = sorted({channel for channel, _ in visit.desk.plan.selections} | set(visit.desk.plan.channels))
    asked = visit.query.get("channel", "")
    channel = asked if asked in channels else _usual_channel(view, channels)
    explained, agent = await _explain(visit, view, wanted, channel)
    return Page(
        template="customer.html",
        title=f"Customer {view['customer']}",
        context={
            "id": wanted,
            "view": view,
            "attributes": _attributes(view, visit.desk.plan.currency),
            "channel": channel,
            "channels": channels,
            "explained": explained,
            "agent": agent,
            "timeline": link_to("timeline", id=wanted),
        },
        tables=(
            _mapping_table("identifiers", "Identifiers", _mapping(view, "identifiers")),
            _traits_table(view),
            _consents_table(view),
            _orders_table(view),
            _candidates_table(explained),
            _closed_table(explained),
            _experiments_table(explained),
        ),
    )


async def timeline(visit: PageVisit) -> Page:
    """Shows a customer's history, newest first; the customer's page loads it separately."""
    wanted, settings = visit.query.get("id", ""), visit.desk.settings
    view = await show_customer(visit.desk.worker, wanted)
    ids = {str(view["customer"]), *identifier_spellings(wanted)}
    for values in _mapping(view, "identifiers").values():
        ids |= {str(value) for value in values} if isinstance(values, list) else set()
    found = await asyncio.to_thread(recent_rows, settings.log, ids, settings.redis, seconds=TIMELINE_SECONDS)
    entries = [
        _entry(table, row) for table, rows in found.rows.items() for row in rows if table != "exposures" or row["key"]
    ]
    entries.sort(key=lambda cells: str(cells[0].value), reverse=True)
    titles = {"time": "When", "channel": "Channel", "what": "What", "detail": "Detail", "decision_id": "Decision"}
    table = DataTable(
        name="timeline",
        title="Timeline",
        columns=columns_of(titles),
        rows=entries,
        note=f"From {found.since} on; the export has everything before." if found.since else "",
        empty="Nothing is in the log of this customer.",
    )
    return Page(
        template="timeline.html",
        title=f"Timeline of {view['customer']}",
        context={"entries": entries[:SHOWN], "more": max(0, len(entries) - SHOWN), "id": wanted},
        tables=(table,),
    )


async def export(visit: PageVisit) -> Download:
    """Everything stored about a customer, as JSON."""
    wanted, worker = visit.form.get("id", ""), visit.desk.worker
    found = await export_customer(worker, wanted)
    record_audit(worker, CUSTOMER_EXPORTED, {"by": visit.session.name}, time.time())
    body = msgspec.json.format(msgspec.json.encode(found), indent=2)
    return Download(body=body, media_type="application/json", file="customer.json")


async def erase(visit: PageVisit) -> Page:
    """Erase a customer everywhere. The audit record does not name them."""
    wanted, worker = visit.form.get("id", ""), visit.desk.worker
    if visit.form.get("sure") != "yes":
        raise Refusal(400, "an erasure cannot be undone; go back and tick the box that confirms it")
    result = await erase_customer(worker, wanted, by=visit.session.name)
    record_audit(worker, CUSTOMER_ERASED, {"by": visit.session.name, "rows": result.rows}, time.time())
    context = {"ids": len(result.ids), "rows": result.rows}
    return Page(template="erased.html", title="Erased", context=context)


async def _explain(
    visit: PageVisit, view: Mapping[str, object], wanted: str, channel: str
) -> tuple[Explanation | None, AgentView | None]:
    """The customer's decision on a channel now, by `decide` itself with no effect; None without the store."""
    desk, now = visit.desk, time.time()
    known = {kind: values for kind, values in _mapping(view, "identifiers").items() if isinstance(values, list)}
    ids = {kind: str(known[kind][0]) for kind in CustomerIds.__struct_fields__ if known.get(kind)}
    placements = sorted({name for where, name in desk.plan.selections if where == channel})
    body = {
        "customer": ids or {"user_id": wanted},
        "channel": channel,
        "placements": placements,
        "experiments": "*",
        "expose": False,
    }
    request = decode_decide(msgspec.json.encode(body))
    try:
        decided = await decide_with_trace(desk.worker, desk.flow, request, now=now, decision_id=new_id(now))
    except Refusal:
        return None, None
    profile = decided.fetched.customer.profile if decided.fetched else None
    agent = build_agent_view(desk.plan, decided.decision, profile, now) if profile else None
    return build_explanation(decided.decision), agent


def _usual_channel(view: Mapping[str, object], channels: Sequence[str]) -> str:
    """The channel on which the customer was last seen, else the first."""
    seen = {name: str(at) for name, at in _mapping(view, "channels").items() if name in channels}
    return max(seen, key=lambda name: seen[name]) if seen else next(iter(channels), "")


def _mapping(view: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = view.get(name)
    return value if isinstance(value, Mapping) else {}


def _attributes(view: Mapping[str, object], currency: str) -> list[tuple[str, str]]:
    """The attributes that people look up first."""
    known = _mapping(view, "attributes")
    orders, loyalty = _mapping(known, "orders"), _mapping(known, "loyalty")
    found = [
        ("Stage", known.get("stage")),
        ("Tier", loyalty.get("tier")),
        ("Orders", orders.get("count")),
        ("Revenue", _amount(orders.get("revenue", known.get("monetary")), currency)),
        ("Known since", format_moment(str(view.get("created", "")))),
        ("Last change", format_moment(str(view.get("updated", "")))),
    ]
    return [(name, str(value)) for name, value in found if value is not None]


def _entry(table: str, row: Mapping[str, object]) -> list[TableCell]:
    """One row of the log as an entry of the timeline."""
    what, detail = {
        "decisions": ("decided", f"{row.get('key')}: {row.get('variant') or 'nothing'} ({row.get('reason')})"),
        "exposures": ("saw", str(row.get("key"))),
        "events": (str(row.get("event")), str(row.get("properties") or "")),
    }[table]
    decision = str(row.get("decision_id") or "")
    cells = [moment_cell(str(row.get("time"))), text_cell(row.get("channel")), text_cell(what)]
    return [*cells, text_cell(detail if detail != "{}" else ""), text_cell(decision)]


def _mapping_table(name: str, title: str, found: Mapping[str, object]) -> DataTable:
    rows = [[text_cell(kind), text_cell(_plain(value))] for kind, value in found.items()]
    return DataTable(name=name, title=title, columns=columns_of({"name": "Kind", "value": "Value"}), rows=rows)


def _traits_table(view: Mapping[str, object]) -> DataTable:
    titles = {"trait": "Trait", "value": "Value", "time": "Since", "source": "From"}
    rows = []
    for name in _mapping(view, "traits"):
        one = _mapping(_mapping(view, "traits"), name)
        cells = [text_cell(name), text_cell(_plain(one.get("value"))), moment_cell(str(one.get("time")))]
        rows.append([*cells, text_cell(one.get("source"))])
    columns = columns_of(titles)
    return DataTable(name="traits", title="Traits", columns=columns, rows=rows, empty="No trait is known.")


def _consents_table(view: Mapping[str, object]) -> DataTable:
    titles = {"purpose": "Purpose", "granted": "Granted", "time": "Since", "source": "From"}
    rows = []
    for name in _mapping(view, "consents"):
        one = _mapping(_mapping(view, "consents"), name)
        given = TableCell(bool(one.get("granted")), "yes" if one.get("granted") else "no")
        rows.append([text_cell(name), given, moment_cell(str(one.get("time"))), text_cell(one.get("source"))])
    empty = "No consent was given or refused: offers with a purpose are not shown."
    return DataTable(name="consents", title="Consents", columns=columns_of(titles), rows=rows, empty=empty)


def _orders_table(view: Mapping[str, object]) -> DataTable:
    titles = {"order_id": "Order", "time": "When", "revenue": "Revenue", "refunded": "Refunded"}
    orders = view.get("orders")
    rows = [
        [
            text_cell(order.get("order_id")),
            moment_cell(str(order.get("time"))),
            TableCell(order.get("revenue"), f"{order.get('revenue') or 0:,.2f}"),
            TableCell(order.get("refunded"), f"{order.get('refunded') or 0:,.2f}"),
        ]
        for order in (orders[::-1] if isinstance(orders, list) else [])
    ]
    columns = columns_of(titles, figures=("revenue", "refunded"))
    return DataTable(name="orders", title="Orders", columns=columns, rows=rows, empty="No order yet.")


def _candidates_table(explained: Explanation | None) -> DataTable:
    titles = {"placement": "Placement", "offer": "Offer", "propensity": "Probability", "policy": "Policy"}
    titles |= {"context": "Context", "value": "Value", "lever": "Lever", "price": "Price"}
    rows = [
        [
            text_cell(placement),
            text_cell(one.offer),
            share_cell(one.propensity),
            share_cell(one.policy),
            *(TableCell(factor, f"{factor:g}") for factor in (one.context, one.value, one.lever, one.price)),
        ]
        for placement, found in (explained.placements.items() if explained else ())
        for one in found.candidates
    ]
    columns = columns_of(titles, figures=list(titles)[2:])
    empty = "No offer may be shown on this channel now; the reasons are below."
    return DataTable(name="candidates", title="What may be shown", columns=columns, rows=rows, empty=empty)


def _closed_table(explained: Explanation | None) -> DataTable:
    titles = {"placement": "Placement", "offer": "Offer", "gate": "Gate", "meaning": "Because"}
    rows = [
        [text_cell(placement), text_cell(offer), text_cell(gate), text_cell(GATES[gate].meaning)]
        for placement, found in (explained.placements.items() if explained else ())
        for offer, gate in found.closed.items()
    ]
    empty = "No gate is closed: every offer may be shown."
    return DataTable(name="closed", title="What may not be shown", columns=columns_of(titles), rows=rows, empty=empty)


def _experiments_table(explained: Explanation | None) -> DataTable:
    titles = {"experiment": "Experiment", "variant": "Variant", "reason": "Reason"}
    rows = [
        [text_cell(key, href=link_to("experiments", key)), text_cell(one.variant), text_cell(one.reason)]
        for key, one in (explained.experiments.items() if explained else ())
    ]
    empty = "No experiment applies on this channel."
    return DataTable(name="experiments", title="Experiments", columns=columns_of(titles), rows=rows, empty=empty)


def _amount(value: object, currency: str) -> str | None:
    return format_money(value, currency) if isinstance(value, int | float) else None


def _plain(value: object) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
