"""Random designs of an experiment as YAML, its customers, and the rows that serving them adds to a Parquet log."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from engine.catalog.plan.plan import Plan
from engine.customer import CustomerIds, Profile, Trait
from engine.decision.decision import DecideRequest, decide
from engine.journal.from_decision import records_of
from engine.journal.log.parquet import as_columns, rows_of_record, write_table
from engine.journal.records import AnyRecord, EventRecord
from engine.vocabulary import RAMP_MOVED

START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = 8
MOVED = START + timedelta(days=4)
SHIPPED = START + timedelta(days=6)
CUSTOMERS = 1_500
KEY = "e"
STEPS = (0.2, 0.8)
PARTS: list[list[dict[str, Any]]] = [
    [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.5}],
    [{"key": "a", "weight": 0.8}, {"key": "b", "weight": 0.2}],
    [{"key": "a", "weight": 0.3}, {"key": "b", "weight": 0.6}, {"key": "c", "weight": 0.1}],
    [{"key": "a"}, {"key": "b"}, {"key": "c"}],
    [{"key": "a", "range": [0.0, 0.25]}, {"key": "b", "range": [0.25, 1.0]}],
    [{"key": "a", "range": [0.0, 0.1]}, {"key": "b", "range": [0.5, 0.8]}],
]
UNITS = {"customer": CUSTOMERS, "device": 1_000, "company": 900, "store": 700}
"""The number of each kind of unit; a customer always has the same ones."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """One experiment: `form` is a file of its own, the middle rule of a flag, or a flag that the hash splits."""

    form: str
    unit: str
    parts: list[dict[str, Any]]
    coverage: float = 1.0
    ramp: str = "none"
    has_audience: bool = False
    has_filter: bool = False
    has_layer: bool = False
    needs: str = "nothing"
    holdout: str = "none"
    environment: bool = False
    switches: bool = False
    ships: bool = False

    @property
    def reported(self) -> str:
        return f"{KEY}#mid" if self.form == "rule" else KEY

    @property
    def weights(self) -> dict[str, float]:
        """The share of each variant among those let in."""
        sizes = [one["range"][1] - one["range"][0] if "range" in one else one.get("weight", 1.0) for one in self.parts]
        return {one["key"]: size / sum(sizes) for one, size in zip(self.parts, sizes, strict=True)}


@st.composite
def designs(draw: st.DrawFn) -> Design:
    """A valid design of random constructs."""
    form = draw(st.sampled_from(["experiment", "rule", "flag"]))
    parts = draw(st.sampled_from(PARTS))
    has_ranges = "range" in parts[0]
    if form == "experiment" and not has_ranges and draw(st.integers(0, 3)) == 0:
        return Design(form=form, unit="store", parts=PARTS[0], switches=True, has_audience=draw(st.booleans()))
    return Design(
        form=form,
        unit=draw(st.sampled_from(list(UNITS))),
        parts=parts,
        coverage=1.0 if has_ranges else draw(st.sampled_from([1.0, 0.5])),
        ramp="none" if has_ranges else draw(st.sampled_from(["none", "none", "dates", "held"])),
        has_audience=draw(st.booleans()),
        has_filter=draw(st.booleans()),
        has_layer=form == "experiment" and draw(st.booleans()),
        needs=draw(st.sampled_from(["nothing", "nothing", "variant", "off"])),
        holdout=draw(st.sampled_from(["none", "none", "plain", "frozen"])),
        environment=form == "rule" and draw(st.booleans()),
        ships=form != "flag" and draw(st.booleans()),
    )


def write_design(design: Design, *, is_whole: bool = False, is_shipped: bool = False, kept: str = "") -> dict[str, Any]:
    """The shop of a design; `is_whole` lets everyone in whom only its shares keep out, on the same hash."""
    made: dict[str, Any] = {
        "unit": design.unit,
        "seed": "the same",
        "variants": design.parts,
        "metrics": {"primary": "revenue"},
        "analysis": {"method": "fixed", "min_days": 1},
    }
    if is_whole:
        made["variants"] = [{"key": key, "weight": round(share, 9)} for key, share in design.weights.items()]
    else:
        made["coverage"] = design.coverage
        if design.ramp == "dates":
            made |= {"coverage": STEPS[0], "ramp": [{"at": MOVED.isoformat(), "coverage": STEPS[1]}]}
        elif design.ramp == "held":
            made |= {"coverage": 1.0, "ramp": {"steps": list(STEPS), "every": "1d"}}
        if design.has_filter:
            made["filters"] = [{"seed": "f", "ranges": [[0.1, 0.8]]}]
        if design.has_layer:
            made["layer"] = "l"
    if design.has_audience:
        made["audience"] = {"country": "DE"}
    if design.needs != "nothing":
        need = {"variants": ["on"]} if design.needs == "variant" else {"off": True}
        made["prerequisites"] = [{"experiment": "gate", **need}]
    if design.switches:
        made["switchback"] = {"every": "12h", "by": "store"}
        made.pop("unit")
        made.pop("coverage", None)
    if is_shipped:
        made |= {"status": "shipped", "ship": "b", "decided": {"on": SHIPPED.date().isoformat(), "why": "It won"}}
    holdouts = [{"key": "q", "share": 0.25, "unit": design.unit, **({"keeps": kept} if kept else {})}]
    return {
        "offers": {},
        "placements": {},
        "metrics": [{"key": "revenue", "kind": "revenue", "event": "purchase", "value": "revenue"}],
        "units": {"company": {"trait": "company.id"}},
        "experiments": {KEY: _in_form(design, made), "gate": {**GATE, "unit": design.unit}},
        "layers": {
            "layers": [{"key": "l", "reserve": {KEY: [0.2, 0.7]}}] if design.has_layer and not is_whole else [],
            "holdouts": [] if design.holdout == "none" else holdouts,
        },
    }


GATE = {
    "kind": "flag",
    "type": "boolean",
    "variants": [{"key": "on", "weight": 0.6}, {"key": "off", "weight": 0.4}],
    "default": "off",
}


def _in_form(design: Design, made: dict[str, Any]) -> dict[str, Any]:
    """The experiment, or the flag in which it is a rule between a forced rule, a rollout and another rollout."""
    if design.form == "experiment":
        return made
    variants = [{"key": one["key"]} for one in made["variants"]]
    if design.form == "flag":
        return {**made, "kind": "flag", "default": "a", "holdouts": [] if design.holdout != "plain" else ["q"]}
    rules = [
        {"key": "first", "audience": {"employee": True}, "variant": "b"},
        {"key": "some", "coverage": 0.2, "variant": "a", "unit": design.unit},
        {"key": "mid", **made},
        {"key": "last", "coverage": 0.5, "variant": "b"},
    ]
    flag = {"kind": "flag", "variants": variants, "default": "a", "rules": rules}
    if not design.environment:
        return flag
    return {**flag, "rules": [{"key": "other", "variant": "a"}], "environments": {"staging": {"rules": rules}}}


@dataclass
class World:
    """Who came, what they got, and the log of it."""

    log: Path
    exposed: dict[str, str] = field(default_factory=dict)
    """The variant of each unit that the experiment has by the answers; "" of one that had several."""
    customers: dict[str, str] = field(default_factory=dict)
    """The variant of each customer of these units."""
    members: set[tuple[str, str]] = field(default_factory=set)
    """Each unit with each of its customers."""
    bought: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The time and amount of each customer's purchase."""
    late: set[str] = field(default_factory=set)
    """The units of the experiment since the ramp moved."""
    end: float = float("inf")
    """When the first customer got what was shipped."""
    records: dict[tuple[str, str], list[Any]] = field(default_factory=lambda: defaultdict(list))

    def add(self, records: Sequence[AnyRecord]) -> None:
        for record in records:
            table, day, rows = rows_of_record(record)
            self.records[table, day] += rows

    def write(self) -> None:
        for (table, day), rows in self.records.items():
            folder = self.log / table / f"day={day}"
            folder.mkdir(parents=True)
            write_table(folder / "0.parquet", table, [as_columns(table, rows)])  # type: ignore[arg-type]


def visits() -> Iterator[tuple[int, float]]:
    """Each customer and the time of their visit; every third comes again three days later."""
    begin, span = START.timestamp(), DAYS * 86_400.0
    for n in range(CUSTOMERS):
        at = (n * 0.618034) % 1.0 * span
        yield n, begin + at
        if n % 3 == 0 and at + 3 * 86_400 < span:
            yield n, begin + at + 3 * 86_400


def unit_ids(n: int) -> dict[str, str]:
    """The ids of a customer's units; a company is a number in the profile."""
    return {
        "customer": f"u{n}",
        "device": f"d{n % UNITS['device']}",
        "company": str(n % UNITS["company"]),
        "store": f"S{n % UNITS['store']}",
    }


def unit_of(design: Design, n: int, at: float) -> str:
    """The unit of a customer at a time; of a switchback that is a store in a period."""
    return unit_ids(n)[design.unit] + (f"@{(at - START.timestamp()) // 43_200:g}" if design.switches else "")


def audience_of(design: Design, since: float, until: float) -> set[str]:
    """The units of those whom only shares may keep out: the audience, without whom an earlier rule's audience has."""
    return {
        unit_of(design, n, at)
        for n, at in visits()
        if since <= at < until and (n % 5 < 3 or not design.has_audience) and (n % 10 != 9 or design.form != "rule")
    }


def serve(design: Design, before: Plan, after: Plan | None, log: Path) -> World:
    """Decide for every visit, by the plan `after` once it is shipped, and log what was answered and bought."""
    world = World(log)
    for number, (n, at) in enumerate(sorted(visits(), key=lambda one: one[1])):
        plan = after if after is not None and at >= SHIPPED.timestamp() else before
        if design.ramp == "held" and plan is before:
            plan = replace(plan, ramped={design.reported: STEPS[at >= MOVED.timestamp()]})
        ids = unit_ids(n)
        traits = {"company.id": Trait(n % UNITS["company"], 0.0)}
        request = DecideRequest(
            customer=CustomerIds(user_id=f"u{n}", anonymous_id=ids["device"]),
            channel="web",
            experiments=[KEY],
            context={"country": "DE" if n % 5 < 3 else "AT", "store": ids["store"], "employee": n % 10 == 9},
        )
        profile = Profile(id=f"u{n}", unit=f"u{n}", traits=traits)
        decision = decide(plan, {}, profile, request, at, decision_id=f"d{number}")
        world.add(records_of(decision, at, expose=True))
        answer = decision.answer.experiments[KEY]
        if answer.reason == "shipped":
            world.end = min(world.end, at)
        if answer.reason == "assigned" and (design.form != "rule" or answer.rule == "mid"):
            variant, unit = str(answer.variant), unit_of(design, n, at)
            if world.exposed.setdefault(unit, variant) != variant:
                world.exposed[unit] = ""
            world.members.add((unit, f"u{n}"))
            if at >= MOVED.timestamp():
                world.late.add(unit)
            if world.customers.setdefault(f"u{n}", variant) == variant and f"u{n}" not in world.bought:
                # 3 more in every variant than in the one before it
                world.bought[f"u{n}"] = at + 3600, 10.0 + n % 7 + 3.0 * "abc".index(variant)
    for customer, (at, amount) in world.bought.items():
        world.add([_event("purchase", at, f"p-{customer}", customer, b"{}", amount)])
    if design.ramp == "held":
        for at, share in ((START, STEPS[0]), (MOVED, STEPS[1])):
            moved = {"experiment": design.reported, "coverage": share, "status": "running", "reason": "it held"}
            world.add([_event(RAMP_MOVED, at.timestamp() - 1, f"ramp{share}", "", msgspec.json.encode(moved))])
    world.write()
    return world


def _event(name: str, at: float, message: str, customer: str, properties: bytes, revenue: float | None = None) -> Any:
    return EventRecord(message, at, at, customer, name, None, "web", revenue, properties)
