"""The shop of the benches: a folder of YAML, customers in the store, and a policy with observations."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import redis

from engine import keyspace
from engine.catalog import Plan, load_plan
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile
from engine.customers.model.events import Event
from engine.customers.model.reducers import apply_event
from engine.customers.redis import keys
from engine.customers.redis.stored_entry import encode_entry
from engine.snapshots.header import Header, meaning_of, prior_of
from engine.snapshots.publish import publish_snapshot
from policies import dump_policy

NOW = 1_790_000_000.0
OFFERS = 20
TRAITS = {"country": "DE", "city": "Berlin", "first_name": "Ada", "loyalty.tier": 2, "newsletter": True, "age": 34}
CATEGORIES = ("coffee", "tea", "cake", "beans", "cups")
BODY = {
    "customer": {"user_id": "u-%d"},
    "channel": "web",
    "placements": ["hero"],
    "experiments": ["checkout"],
    "context": {"page": "home"},
    "expose": True,
}
FEATURES = [
    {"trait": "loyalty.tier", "range": [0, 3]},
    {"trait": "affinity.coffee", "range": [0, 5]},
    {"trait": "affinity.tea", "range": [0, 5]},
    {"trait": "country", "one_of": ["DE", "AT", "CH"]},
    "hour",
    {"trait": "channel", "one_of": ["web", "app"]},
]


def folder(
    path: Path, experiments: Sequence[Mapping[str, object]] = (), layers: Mapping[str, object] | None = None
) -> Path:
    """Write two placements of 20 offers under linear Thompson, and experiments: `checkout` by default."""
    (path / "offers").mkdir(parents=True, exist_ok=True)
    offers = [f"offer_{number}" for number in range(OFFERS)]
    for number, key in enumerate([*offers, "banner"]):
        rendering = {"headline": f"Headline of {key}", "image": f"{key}.jpg", "code": f"C{number}"}
        offer: dict[str, object] = {"key": key, "renderings": {"web": rendering, "app": rendering}}
        if number % 4 == 1:
            offer["audience"] = {"loyalty.tier": {"$gte": 1}}
        _write(path / "offers" / f"{key}.yaml", offer)
    channels = [{"key": "web"}, {"key": "app"}]
    placements = [{"key": key, "channels": ["web", "app"]} for key in ("hero", "footer")]
    _write(path / "channels.yaml", {"channels": channels, "placements": placements})
    _write(path / "layers.yaml", {"layers": [layers] if layers else []})
    _write(path / "metrics.yaml", {"metrics": [{"key": "click", "event": "click"}]})
    policy = {"kind": "linear_thompson", "features": FEATURES, "floor": 0.01}
    reward = {"metric": "click", "window": "24h"}
    for key in ("hero", "footer"):
        chosen = {"key": key, "placement": key, "offers": offers, "policy": policy, "reward": reward}
        _write(path / f"{key}.yaml", {**chosen, "fallback": "banner"})
    for one in experiments or [experiment("checkout")]:
        _write(path / f"{one['key']}.yaml", one)
    return path


def experiment(key: str, **more: object) -> dict[str, object]:
    """Two variants, half and half, for customers of two countries unless `more` says otherwise."""
    variants = [{"key": name, "weight": 0.5, "payload": {"layout": name}} for name in ("classic", "one_page")]
    audience = {"country": {"$in": ["DE", "AT"]}}
    return {"key": key, "hypothesis": "One page, more orders.", "audience": audience, "variants": variants, **more}


def customer(name: str, chance: random.Random) -> Profile:
    """A random customer: half are new, half have a tier, views and orders from the last 30 days."""
    one = Profile(name, name, 7, NOW, NOW, ids={"user_id": [name]})
    known = chance.random() < 0.5
    country = chance.choice(("DE", "DE", "AT", "CH", "FR"))
    traits = TRAITS | {"country": country, "loyalty.tier": chance.choice((0, 1, 1, 2, 3)) if known else 0}
    events = [Event("identify", "i", user_id=name, traits=traits, channel="web")]
    for number in range(chance.randrange(1, 12) if known else 0):
        category = chance.choice(CATEGORIES)
        events.append(Event("track", f"v{number}", event="view", properties={"category": category}, channel="app"))
    for number in range(chance.randrange(4) if known else 0):
        bought = {"revenue": 12.5 + number, "order_id": f"o-{number}"}
        events.append(Event("track", f"p{number}", event="purchase", properties=bought, channel="web"))
    for event in events:
        one = apply_event(one, event, NOW - chance.uniform(0, 30) * 86_400, ProfileRules())
    return one


def learnt(client: redis.Redis, path: Path) -> Plan:
    """Publish a policy for the placement `hero`, learnt from 2,000 observations."""
    plan = load_plan(path)
    selection = plan.policies["hero"]
    chance = np.random.default_rng(1)
    n, arms = 2000, len(selection.arms)
    x = np.column_stack([np.ones(n), chance.uniform(-1, 1, (n, selection.features.dim - 1))])
    arm = chance.integers(arms, size=n)
    reward = (chance.random(n) < 0.05 + 0.05 * (arm % 3)).astype(float)
    blob = dump_policy(prior_of(selection).update(x, arm, reward, np.full(n, 1 / arms)))
    publish_snapshot(client, "hero", Header.of(1, NOW, float(n), meaning_of(selection), blob), blob)
    return plan


def fill(client: redis.Redis, customers: int) -> None:
    """Write customers `u-0` …, for the peer also as JSON."""
    chance, hash_ = random.Random(20261122), keys.key_hasher(b"counterpoint")
    for start in range(0, customers, 2000):
        pipe = client.pipeline(transaction=False)
        for name in (f"u-{number}" for number in range(start, min(start + 2000, customers))):
            profile = customer(name, chance)
            pipe.set(keyspace.profile(hash_("user_id", name)), encode_entry(profile))
            pipe.set(f"profile:{name}", msgspec.json.encode(profile))
        pipe.execute()


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
