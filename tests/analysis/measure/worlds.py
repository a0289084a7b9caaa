"""Worlds with known effects, as logs: keen customers are shown the offer that does nothing, and order anyway."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

OFFERS = np.array(["idle", "good", "fine"])
EFFECTS = np.array([0.0, 0.3, 0.1])
"""The orders that each offer adds, per showing."""
DAY = 86_400_000_000
START = 1_793_491_200_000_000
TIME = pa.timestamp("us", tz="UTC")
LET_IN = 2.0
"""What being let into experiments adds to a customer's revenue, in the worlds of channels."""


def true_effect(offer: str) -> float:
    """The effect of showing an offer instead of an even choice among the others."""
    at = OFFERS.tolist().index(offer)
    return float(EFFECTS[at] - np.delete(EFFECTS, at).mean())


def write_world(folder: Path, seed: int, customers: int = 1500) -> Path:
    """One decision for each customer, with propensities that depend on how keen they are; orders within a week."""
    rng = np.random.default_rng(seed)
    keen, channel = rng.random(customers) < 0.4, np.where(rng.random(customers) < 0.5, "web", "app")
    chances = np.where(keen[:, None], [0.7, 0.15, 0.15], [0.15, 0.45, 0.4])
    chosen = (rng.random(customers)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    propensity = chances[np.arange(customers), chosen]
    orders = rng.poisson(np.where(keen, 1.0, 0.2) + EFFECTS[chosen])
    names = np.array([f"c{n}" for n in range(customers)])
    ids = np.array([f"d{n}" for n in range(customers)])
    times = START + rng.integers(0, 5 * DAY, customers)
    buyer = np.repeat(np.arange(customers), orders)
    after = times[buyer] + rng.integers(1, 6 * DAY, buyer.size)
    _write(
        folder / "decisions",
        {
            "decision_id": ids,
            "time": pa.array(times, TIME),
            "customer": names,
            "device": pa.nulls(customers, pa.string()),
            "channel": channel,
            "kind": ["offer"] * customers,
            "key": ["hero"] * customers,
            "variant": OFFERS[chosen],
            "reason": ["policy"] * customers,
            "propensity": propensity,
            "candidates": pa.array([OFFERS.tolist()] * customers, pa.list_(pa.string())),
            "context": ["{}"] * customers,
            "plan": ["p"] * customers,
            "policy": ["hero@1"] * customers,
            "crossover": [False] * customers,
            "version": [""] * customers,
        },
    )
    exposures = {"decision_id": ids, "time": pa.array(times, TIME), "key": ["hero"] * customers, "customer": names}
    _write(folder / "exposures", exposures)
    count = buyer.size + 1  # a last event, so that every window is over
    moments = pa.array(np.append(after, START + 30 * DAY), TIME)
    _write(
        folder / "events",
        {
            "message_id": [f"m{n}" for n in range(count)],
            "time": moments,
            "received": moments,
            "customer": np.append(names[buyer], "c0"),
            "event": ["purchase"] * (count - 1) + ["visit"],
            "decision_id": pa.nulls(count, pa.string()),
            "channel": np.append(channel[buyer], "web"),
            "revenue": np.full(count, 10.0),
            "properties": ["{}"] * count,
        },
    )
    return folder


def write_channel_world(folder: Path, seed: int, customers: int = 600) -> Path:
    """Keen customers spend 10 more and use two channels, which add nothing; being let in adds `LET_IN`."""
    rng = np.random.default_rng(seed)
    keen, held = rng.random(customers) < 0.5, rng.random(customers) < 0.3
    names = np.array([f"c{n}" for n in range(customers)])
    decided = pa.array(np.full(customers, START), TIME)
    _write(
        folder / "decisions",
        {
            "decision_id": np.array([f"d{n}" for n in range(customers)]),
            "time": decided,
            "customer": names,
            "device": pa.nulls(customers, pa.string()),
            "channel": ["web"] * customers,
            "kind": ["experiment"] * customers,
            "key": ["all"] * customers,
            "variant": pa.array(["x"] * customers, mask=held),
            "reason": np.where(held, "holdout", "assigned"),
            "propensity": np.ones(customers),
            "candidates": pa.array([[]] * customers, pa.list_(pa.string())),
            "context": ["{}"] * customers,
            "plan": ["p"] * customers,
            "policy": pa.nulls(customers, pa.string()),
            "crossover": [False] * customers,
            "version": [""] * customers,
        },
    )
    spends = np.where(keen, 15.0, 5.0) + np.where(held, 0.0, LET_IN) + rng.uniform(-3, 3, customers)
    two = np.flatnonzero(keen)
    moments = pa.array(np.full(customers + two.size, START + DAY), TIME)
    _write(
        folder / "events",
        {
            "message_id": [f"m{n}" for n in range(customers + two.size)],
            "time": moments,
            "received": moments,
            "customer": np.append(names, names[two]),
            "event": ["purchase"] * customers + ["visit"] * two.size,
            "decision_id": pa.nulls(customers + two.size, pa.string()),
            "channel": ["web"] * customers + ["app"] * two.size,
            "revenue": pa.array(
                np.append(spends, np.zeros(two.size)), mask=np.arange(customers + two.size) >= customers
            ),
            "properties": ["{}"] * (customers + two.size),
        },
    )
    return folder


def _write(folder: Path, columns: dict[str, object]) -> None:
    (folder / "day=2026-11-01").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "day=2026-11-01" / "0.parquet")
