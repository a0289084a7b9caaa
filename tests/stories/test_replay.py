"""A logged decision is made again from its record, also after plan, customer and policy moved: the same answer."""

from typing import Any

import numpy as np
import pytest
import yaml

from engine import keyspace
from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.journal import stream
from engine.rehearse.explain import explain_decision
from engine.snapshots.header import Header, meaning_of, prior_of
from engine.snapshots.publish import publish_snapshot
from policies import dump_policy

SHOP = {
    "offers": {
        "a": {},
        "b": {"tags": ["loyal"], "audience": {"tier": {"$gte": 1}}, "value": 2.0},
        "c": {"caps": [{"count": 1, "per": "7d"}]},
        "last": {"stock": {"sku": "LAST"}},
        "d": {},
        "e": {},
    },
    "placements": {
        "hero": {
            "offers": ["a", "b", "c", "last"],
            "policy": {"kind": "linear_thompson", "features": [{"trait": "tier", "range": [0, 3]}, "hour"]},
            "weights": [{"when": {"intent": "browse"}, "offers": ["a"], "weight": 3}],
            "silence": 0.25,
        },
        "row": {"offers": ["a", "d", "e"], "count": 2, "policy": {"kind": "beta_thompson"}, "silence": 0.25},
    },
    "experiments": {"layout": {"variants": [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}]}},
}


def publish(url: str, shop: Any, key: str, version: int) -> None:
    selection = load_plan(shop.settings.experiments).policies[key]
    rng, prior = np.random.default_rng(version), prior_of(selection)
    x = np.column_stack([np.ones(400), rng.uniform(-1, 1, (400, max(prior.dim, 1) - 1))])
    arm = rng.integers(len(selection.arms), size=400)
    rewards = (rng.random(400) < 0.1 + 0.2 * (arm == version)) * 1.0
    policy = prior.update(x if prior.dim else None, arm, rewards, x[:, 0])
    blob = dump_policy(policy)
    header = Header.of(version, 1e9, 400.0, meaning_of(selection), blob)
    with stream.connect_stream(url) as client:
        publish_snapshot(client, key, header, blob)


def test_same_code_same_answer(open_shop: Any, redis_url: str) -> None:
    shop = open_shop(SHOP)
    shop.stock("LAST", 0)
    ids = []
    for version in (1, 2):
        for key in ("hero", "row"):
            publish(redis_url, shop, key, version)
            while any(f"{key}@{version}" not in str(shop.decide("web", key, user_id="probe")) for _ in shop.bases):
                continue
        shop.identify({"tier": version}, user_id="ada")
        while shop.offer("web", "hero", user_id="ada") != "c" and version == 1:
            continue
        for n in range(12):
            context = {"intent": "browse"} if n % 2 else {}
            decision = shop.decide("web", "hero", "row", user_id="ada", experiments=["layout"], context=context)
            ids.append((decision["decision_id"], decision))
    (shop.settings.experiments / "offers" / "a.yaml").write_text(
        yaml.safe_dump({"key": "a", "audience": {"tier": 9}, "renderings": {"web": {}}})
    )
    shop.identify({"tier": 0}, user_id="ada")
    shop.collect()
    archive = Archive(shop.settings.data / "plans")
    reasons = set()
    with stream.connect_stream(redis_url) as client:
        for snapshots_are_kept in (True, False):
            if not snapshots_are_kept:
                for key in ("hero", "row"):
                    client.delete(f"{keyspace.SNAPSHOT_HEADERS}:{key}:kept")
            for decision_id, decision in ids:
                again = explain_decision(shop.settings.log, archive, client, decision_id)
                assert (again.same, again.differences) == (True, [])
                learnt = {row.policy for row in again.logged if row.kind == "offer"} - {"hero@0", "row@0"}
                assert len(learnt) == 2
                assert {*again.recorded} == (set() if snapshots_are_kept else learnt)
                for key, placement in again.explanation.placements.items():
                    shown, *_ = decision["offers"][key].get("items") or [decision["offers"][key]]
                    assert placement.offer == shown.get("offer")
                    assert placement.propensity == pytest.approx(shown["propensity"], rel=1e-12)
                    reasons |= {placement.reason, *placement.closed.values()}
    assert {"cap", "stock", "silence", "policy"} <= reasons
