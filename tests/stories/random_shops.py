"""Random shops for tests that compare two answers of the engine: valid YAML of what may change a decision."""

import random
from typing import Any

CONDITIONS: list[dict[str, Any]] = [
    {},
    {"country": "DE"},
    {"country": {"$in": ["AT", "CH"]}},
    {"tier": {"$gte": 2}},
    {"tier": {"$exists": False}},
    {"vip": True},
    {"$or": [{"country": "DE"}, {"vip": True}]},
    {"$not": {"tier": {"$lt": 1}}},
    {"loyalty.tier": {"$gte": 0}},
    {"visits": {"$gt": 1}},
]
POLICIES: list[dict[str, Any]] = [
    {"kind": "uniform"},
    {"kind": "beta_thompson", "floor": 0.02},
    {"kind": "gaussian_thompson", "floor": 0.02},
    {"kind": "linear_thompson", "floor": 0.02, "features": [{"trait": "tier", "range": [0, 3]}, "hour"]},
]


def weights(dice: random.Random, count: int) -> list[float]:
    """Shares that sum to 1, some of them very uneven."""
    parts = [dice.choice([1, 1, 2, 5, 20]) for _ in range(count)]
    shares = [round(part / sum(parts), 4) for part in parts]
    return [*shares[:-1], round(1 - sum(shares[:-1]), 4)]


def variants(dice: random.Random) -> list[dict[str, Any]]:
    """Two to four variants, by weights, by ranges or by neither."""
    keys = ["x", "y", "z", "w"][: dice.randint(2, 4)]
    shares = weights(dice, len(keys))
    kind = dice.randrange(4)
    if kind == 0:
        return [{"key": key} for key in keys]
    if kind == 1:
        edges = [round(sum(shares[:at]), 4) for at in range(len(keys))] + [1.0]
        return [{"key": key, "range": [edges[at], edges[at + 1]]} for at, key in enumerate(keys)]
    return [{"key": key, "weight": share, "payload": {"at": key}} for key, share in zip(keys, shares, strict=True)]


def experiment(dice: random.Random, number: int) -> dict[str, Any]:
    """One experiment or flag."""
    made: dict[str, Any] = {"variants": variants(dice), "metrics": {"primary": dice.choice(["click", "revenue"])}}
    if dice.random() < 0.5:
        made["audience"] = dice.choice(CONDITIONS)
    has_ranges = "range" in made["variants"][0]
    if dice.random() < 0.4 and not has_ranges:
        made["coverage"] = dice.choice([0.1, 0.5, 0.9])
    elif dice.random() < 0.2 and not has_ranges:
        made["coverage"] = 0.1
        made["ramp"] = [{"at": "2026-01-01T00:00:00Z", "coverage": 0.3}, {"at": "2090-01-01T00:00:00Z", "coverage": 1}]
    if dice.random() < 0.3:
        made["filters"] = [{"seed": f"f{number}", "ranges": [[0.0, 0.4], [0.6, 1.0]]}]
    if dice.random() < 0.3:
        made["layer"] = "l"
    if dice.random() < 0.2:
        made["sticky"] = True
    if dice.random() < 0.3:
        made["tags"] = ["held"]
    if dice.random() < 0.15:
        made["unit"] = dice.choice(["device", "device" if "sticky" in made else "store"])
    if number and dice.random() < 0.2:
        made["prerequisites"] = [{"experiment": f"e{dice.randrange(number)}", "variants": ["x"]}]
    if dice.random() < 0.15:
        made |= {"kind": "flag", "holdouts": dice.choice([[], ["all"]])}
    return made


def offer(dice: random.Random, number: int) -> dict[str, Any]:
    """One offer."""
    made: dict[str, Any] = {"audience": dice.choice(CONDITIONS), "value": dice.choice([1.0, 2.5])}
    if dice.random() < 0.4:
        made["caps"] = [{"count": dice.randint(1, 3), "per": "7d", "window": dice.choice(["rolling", "calendar"])}]
    if dice.random() < 0.2:
        made["purpose"] = "marketing"
    if dice.random() < 0.2:
        made["stock"] = {"sku": f"SKU{number}"}
    if dice.random() < 0.2:
        made["suppress"] = {"after": 1, "outcome": "refused", "within": "30d", "for": "60d"}
    if dice.random() < 0.2:
        made["start" if dice.random() < 0.5 else "end"] = "2026-01-01T00:00:00Z"
    return made


def shop(dice: random.Random, experiments: int = 12) -> dict[str, Any]:
    """A shop as `write_shop` takes it."""
    reserve = {}
    made = {f"e{n}": experiment(dice, n) for n in range(experiments)}
    layered = [key for key, one in made.items() if one.get("layer")]
    for at, key in enumerate(layered):
        reserve[key] = [round(at / len(layered), 4), round((at + 1) / len(layered), 4)]
    placed = {
        name: {"offers": [f"o{n}" for n in sorted(dice.sample(range(8), 4))], "policy": dice.choice(POLICIES)}
        for name in ("hero", "side")
    }
    if dice.random() < 0.5:
        placed["hero"]["weights"] = [
            {"when": {"intent": "cancel"}, "offers": placed["hero"]["offers"][:1], "weight": 9}
        ]
    return {
        "offers": {f"o{n}": offer(dice, n) for n in range(8)},
        "placements": placed,
        "experiments": made,
        "layers": {
            "layers": [{"key": "l", "reserve": reserve}],
            "holdouts": [{"key": "all", "share": 0.1}, {"key": "held", "share": 0.3, "tags": ["held"]}],
        },
    }


def context(dice: random.Random) -> dict[str, Any]:
    """What a page says of a visit."""
    every = {
        "country": dice.choice(["DE", "AT", "CH", "FR"]),
        "intent": dice.choice(["cancel", "browse"]),
        "vip": dice.random() < 0.3,
        "store": dice.choice(["S1", "S2", "S3"]),
    }
    return {name: value for name, value in every.items() if dice.random() < 0.7}
