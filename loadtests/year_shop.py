"""A shop's log of a year with known truths: customers, orders, visits, answers, offers, experiments and a holdout.

    python -m loadtests.year_shop FOLDER [--customers N] [--days N]

Orders follow BG/NBD and their worth Gamma-Gamma, whatever the shop shows. An offer, a variant and being let in multiply
the revenue of the orders after it. So what each of them adds is known exactly, order by order. Each policy prefers an
offer for keen customers, and logs the propensity. The truths are in `FOLDER/truth.json`.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAY = 86_400_000_000
START = 1_764_547_200_000_000  # 2025-12-01T00:00:00Z
TIME = pa.timestamp("us", tz="UTC")
R, ALPHA, A, B = 0.8, 70.0, 0.6, 4.0
"""BG/NBD by days: a customer orders every 88 days at first, and leaves after one order in eight."""
P, Q, V = 6.0, 4.0, 15.0
CHANNELS = np.array(["web", "app", "store"])
PLACES = np.array(["home_hero", "till_prompt"])
OFFERS = np.array(["free_delivery", "second_coffee", "tasting_set"])
LIFT = np.array([0.0, 0.4, 0.15])
"""The share that each offer adds to the revenue of the orders of the next week, until another one is seen."""
GAINS = (0.0, 0.0, 0.12, 0.0, -0.08, 0.0, 0.05, 0.0, 0.2, 0.0, 0.0, 0.03)
"""The share that the variant `new` of each experiment adds to the revenue of two weeks."""
LET_IN = 0.06
HELD_OUT = 0.1
NPS = (0.5, 0.3)
"""The shares of promoters and passives."""
WEEK = 7 * DAY
VIEWS = 6

Times = np.ndarray[tuple[int], np.dtype[np.int64]]
Ids = np.ndarray[tuple[int], np.dtype[np.int64]]
Values = np.ndarray[tuple[int], np.dtype[np.float64]]


class Orders(NamedTuple):
    """Orders (n,) sorted by customer and time: the customer, the time in microseconds, the revenue without effects."""

    customer: Ids
    time: Times
    revenue: Values


class Shop(NamedTuple):
    """The columns of the log's tables by name, and the truths."""

    tables: dict[str, dict[str, object]]
    truth: dict[str, object]


def simulate_orders(rng: np.random.Generator, customers: int, days: int, ahead: int) -> tuple[Orders, int, Times]:
    """Orders of `days`, the number in the `ahead` days after, and each customer's first order."""
    rate = rng.gamma(R, 1 / ALPHA, customers)
    leaves = rng.beta(A, B, customers)
    scale = rng.gamma(Q, 1 / V, customers)
    first = (rng.random(customers) * days * DAY).astype(np.int64)
    who, at, later = [np.arange(customers)], [first], 0
    alive, now = np.arange(customers), first.astype(np.float64)
    end, last = days * DAY, (days + ahead) * DAY
    while alive.size:
        now = now + rng.exponential(1, alive.size) / rate[alive] * DAY
        alive, now = alive[now < last], now[now < last]
        later += int((now >= end).sum())
        who.append(alive[now < end])
        at.append(now[now < end].astype(np.int64))
        stays = rng.random(alive.size) >= leaves[alive]
        alive, now = alive[stays], now[stays]
    customer, time = np.concatenate(who), np.concatenate(at)
    order = np.lexsort((time, customer))
    customer, time = customer[order], time[order]
    return Orders(customer, time, np.round(rng.gamma(P, 1, customer.size) / scale[customer], 2)), later, first


def decide_offers(
    rng: np.random.Generator, orders: Orders, first: Times, count: int, days: int
) -> tuple[dict[str, object], Values, dict[str, float]]:
    """The decisions of `count` showings, the lift of each order, and the revenue that each offer caused by channel."""
    customers = first.size
    who = rng.integers(0, customers, count)
    time = (first[who] + rng.random(count) * (days * DAY - first[who])).astype(np.int64)
    order = np.lexsort((time, who))
    who, time = who[order], time[order]
    place = rng.integers(0, 2, count)
    channel = np.where(place == 1, 2, rng.integers(0, 2, count))
    keen = (who * 2_654_435_761 % 97) % 5 < 2
    chances = np.where(keen[:, None], [0.7, 0.15, 0.15], [0.2, 0.4, 0.4])
    chosen = (rng.random(count)[:, None] > chances.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    key = who * (1 << 50) + time
    at = np.searchsorted(key, orders.customer * (1 << 50) + orders.time, side="right") - 1
    safe = at.clip(0)
    follows = (at >= 0) & (who[safe] == orders.customer) & (orders.time - time[safe] <= WEEK)
    lift = np.where(follows, LIFT[chosen[safe]], 0.0)
    base = np.bincount(safe[follows], weights=orders.revenue[follows], minlength=count)
    ripe = time <= (days - 7) * DAY
    truth = {}
    for offer in range(3):
        others = (LIFT.sum() - LIFT[offer]) / 2
        for value in range(3):
            part = ripe & (channel == value)
            shown = int((part & (chosen == offer)).sum())
            effect = float(base[part].sum()) / max(int(part.sum()), 1) * (LIFT[offer] - others)
            truth[f"{OFFERS[offer]} on {CHANNELS[value]}"] = effect * shown
    columns: dict[str, object] = {
        "decision_id": np.char.add("o", np.arange(count).astype(str)),
        "time": time,
        "who": who,
        "channel": CHANNELS[channel],
        "kind": np.full(count, "offer"),
        "key": PLACES[place],
        "variant": OFFERS[chosen],
        "reason": np.full(count, "policy"),
        "propensity": chances[np.arange(count), chosen],
        "policy": np.char.add(PLACES[place], "@1"),
        "is_offer": np.ones(count, dtype=bool),
    }
    return columns, lift, truth


def run_experiments(
    rng: np.random.Generator, first: Times, days: int, size: int
) -> tuple[list[dict[str, object]], dict[str, tuple[Ids, Times, Values]]]:
    """Each experiment's decisions, and its customers with exposure time and added share."""
    tables, members = [], {}
    span = days // (len(GAINS) + 2)
    for number, gain in enumerate(GAINS):
        start = (number + 1) * span * DAY
        known = np.flatnonzero(first < start)
        who = np.sort(rng.choice(known, min(size, known.size), replace=False))
        time = start + (rng.random(who.size) * span * DAY / 2).astype(np.int64)
        new = rng.random(who.size) < 0.5
        members[f"experiment_{number}"] = (who, time, np.where(new, gain, 0.0))
        tables.append(
            {
                "decision_id": np.char.add(f"x{number}-", np.arange(who.size).astype(str)),
                "time": time,
                "who": who,
                "channel": CHANNELS[rng.integers(0, 2, who.size)],
                "kind": np.full(who.size, "experiment"),
                "key": np.full(who.size, f"experiment_{number}"),
                "variant": np.where(new, "new", "control"),
                "reason": np.full(who.size, "assigned"),
                "propensity": np.full(who.size, 0.5),
                "policy": np.full(who.size, ""),
                "is_offer": np.zeros(who.size, dtype=bool),
            }
        )
    return tables, members


def lift_of_members(orders: Orders, members: tuple[Ids, Times, Values], span: int) -> Values:
    """The share that an experiment adds to each order."""
    who, time, gain = members
    at = np.searchsorted(who, orders.customer).clip(0, who.size - 1)
    after = orders.time - time[at]
    return np.where((who[at] == orders.customer) & (after >= 0) & (after <= span), gain[at], 0.0)


def hold_out(rng: np.random.Generator, first: Times) -> tuple[dict[str, object], np.ndarray]:
    """A decision of the holdout for each customer at the first order: let in or held out."""
    held = rng.random(first.size) < HELD_OUT
    table = {
        "decision_id": np.char.add("h", np.arange(first.size).astype(str)),
        "time": first,
        "who": np.arange(first.size),
        "channel": np.full(first.size, "web"),
        "kind": np.full(first.size, "experiment"),
        "key": np.full(first.size, "always_on"),
        "variant": np.where(held, "", "on"),
        "reason": np.where(held, "holdout", "assigned"),
        "propensity": np.ones(first.size),
        "policy": np.full(first.size, ""),
        "is_offer": np.zeros(first.size, dtype=bool),
    }
    return table, held


def visit(rng: np.random.Generator, first: Times, days: int, count: int) -> tuple[Ids, Times, Ids]:
    """The customer, time and channel of `count` page views: visits of six views within ten minutes."""
    visits = count // VIEWS + 1
    who = rng.integers(0, first.size, visits)
    begins = first[who] + rng.random(visits) * (days * DAY - 1e9 - first[who])
    which = np.repeat(np.arange(visits), VIEWS)[:count]
    times = (begins[which] + rng.random(count) * 6e8).astype(np.int64)
    return who[which], times, rng.integers(0, 3, visits)[which]


def simulate_shop(seed: int, customers: int, days: int, events: int) -> Shop:
    """The tables of a shop: `customers`, `days`, and visits until there are `events`."""
    rng = np.random.default_rng(seed)
    orders, later, first = simulate_orders(rng, customers, days, 365)
    tables, members = run_experiments(rng, first, days, customers // 8)
    holdout, held = hold_out(rng, first)
    shares = {key: lift_of_members(orders, one, 2 * WEEK) for key, one in members.items()}
    varied = orders.revenue * np.prod([1 + share for share in shares.values()], axis=0)
    let_in = np.where(held[orders.customer], 1.0, 1 + LET_IN)
    offers, lift, credit = decide_offers(rng, orders._replace(revenue=varied * let_in), first, customers * 6, days)
    revenue = varied * (1 + lift) * let_in
    gains = {}
    for number, (key, (who, time, _)) in enumerate(members.items()):
        inside = lift_of_members(orders, (who, time, np.ones(who.size)), 2 * WEEK) > 0
        gains[key] = float((revenue / (1 + shares[key]))[inside].sum() / who.size) * GAINS[number]
    answers = rng.choice(customers, customers // 10, replace=False)
    score = np.where((u := rng.random(answers.size)) < NPS[0], 10, np.where(u < sum(NPS), 8, 3))
    more = max(events - orders.time.size - answers.size, 0)
    visitor, seen, at = visit(rng, first, days, more)
    truth = {
        "orders_ahead": later,
        "nps": 100 * (NPS[0] - (1 - sum(NPS))),
        "holdout": float((varied * (1 + lift)).sum() / customers * LET_IN),
        "credit": credit,
        "experiments": gains,
    }
    decisions = {
        name: np.concatenate([part[name] for part in (offers, holdout, *tables)])  # type: ignore[misc]
        for name in offers
    }
    event = {
        "time": np.concatenate([orders.time, first[answers] + DAY // 2, seen]),
        "who": np.concatenate([orders.customer, answers, visitor]),
        "what": np.concatenate([np.zeros(orders.time.size, int), np.ones(answers.size, int), np.full(more, 2)]),
        "revenue": np.concatenate([np.round(revenue, 2), score.astype(float), np.zeros(more)]),
        "channel": np.concatenate([rng.integers(0, 3, orders.time.size + answers.size), at]),
    }
    return Shop({"decisions": decisions, "events": event}, truth)


def write_shop(folder: Path, shop: Shop, days: int) -> None:
    """Write the log a day at a time, as the collector lays it out, and the truths."""
    for name, columns in shop.tables.items():
        time = np.asarray(columns["time"])
        order = np.argsort(time, kind="stable")
        edges = np.searchsorted(time[order], np.arange(days + 1) * DAY)
        for day in range(days):
            rows = order[edges[day] : edges[day + 1]]
            part = {key: np.asarray(column)[rows] for key, column in columns.items()}
            if name == "events":
                _write(folder / "events", day, _events(part, rows))
            else:
                _write(folder / "decisions", day, _decisions(part))
                shown = part["variant"] != ""
                seen = {"decision_id": part["decision_id"][shown], "time": _times(part["time"][shown])}
                seen |= {"key": part["key"][shown], "customer": _names(part["who"][shown])}
                _write(folder / "exposures", day, seen)
    (folder.parent / "truth.json").write_text(json.dumps(shop.truth, indent=1))


def _events(part: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, object]:
    what, value = part["what"], part["revenue"]
    ids = np.char.add("m", rows.astype(str))
    order = np.char.add(np.char.add('{"order_id": "', ids), '"}')
    answer = np.char.add(np.char.add('{"score": ', value.astype(np.int64).astype(str)), "}")
    intent = np.array(['{"intent": "buy"}', '{"intent": "learn"}', "{}", "{}"])[rows % 4]
    names = np.array(["purchase", "nps", "page_view", "product_view"])
    return {
        "message_id": ids,
        "time": _times(part["time"]),
        "received": _times(part["time"]),
        "customer": _names(part["who"]),
        "event": names[np.where(what == 2, 2 + rows % 2, what)],
        "decision_id": pa.nulls(rows.size, pa.string()),
        "channel": CHANNELS[part["channel"]],
        "revenue": pa.array(value, mask=what != 0),
        "properties": np.where(what == 0, order, np.where(what == 1, answer, intent)),
    }


def _decisions(part: dict[str, np.ndarray]) -> dict[str, object]:
    count = part["who"].size
    return {
        "decision_id": part["decision_id"],
        "time": _times(part["time"]),
        "customer": _names(part["who"]),
        "device": pa.nulls(count, pa.string()),
        "channel": part["channel"],
        "kind": part["kind"],
        "key": part["key"],
        "variant": pa.array(part["variant"], mask=part["variant"] == ""),
        "reason": part["reason"],
        "propensity": part["propensity"],
        "candidates": pa.array([OFFERS.tolist() if offer else [] for offer in part["is_offer"]], pa.list_(pa.string())),
        "context": np.full(count, "{}"),
        "plan": np.full(count, "p"),
        "policy": pa.array(part["policy"], mask=part["policy"] == ""),
        "crossover": np.zeros(count, dtype=bool),
        "version": np.full(count, ""),
    }


def _names(who: np.ndarray) -> np.ndarray:
    return np.char.add("c", who.astype(str))


def _times(offsets: np.ndarray) -> pa.Array:
    return pa.array(offsets + START, TIME)


def _write(folder: Path, day: int, columns: dict[str, object]) -> None:
    name = np.datetime64(START // 1_000_000, "s") + np.timedelta64(day, "D")
    place = folder / f"day={str(name)[:10]}"
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), place / "0.parquet", compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=366)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    shop = simulate_shop(asked.seed, asked.customers, asked.days, asked.events)
    write_shop(asked.folder / "log", shop, asked.days)


if __name__ == "__main__":
    main()
