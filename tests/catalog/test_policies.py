"""The problems that `check` reports of policies: rewards, groups, attributes and floors that cannot work."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.catalog import Plan, load_plan
from engine.errors import CatalogError
from policies import KINDS, Bandit

FLAVOURS: dict[str, Any] = {
    "dark": {"attributes": {"roast": "dark", "strength": 4}, "tags": ["coffee"]},
    "light": {"attributes": {"roast": "light", "strength": 2}, "tags": ["coffee"]},
    "mug": {"value": 3.0},
}


def shop(root: Path, *, metric: str = "click", variant: Any = None, **policy: Any) -> Plan:
    (root / "offers").mkdir()
    for key, offer in {"z": {}, **FLAVOURS}.items():
        text = {"key": key, "renderings": {"web": {}, "till": {}}} | offer
        (root / "offers" / f"{key}.yaml").write_text(yaml.safe_dump(text))
    hero = {"key": "hero", "placement": "hero", "offers": list(FLAVOURS), "policy": policy, "fallback": "z"}
    files: dict[str, Any] = {
        "hero": hero | {"reward": {"metric": metric}},
        "channels": {
            "channels": [{"key": "web"}, {"key": "till"}],
            "placements": [{"key": "hero", "channels": ["web", "till"]}],
        },
        "metrics": {
            "metrics": [
                {"key": "click", "event": "click"},
                {"key": "bought", "event": "purchase", "kind": "count"},
                {"key": "spend", "event": "purchase", "kind": "revenue"},
                {"key": "stars", "event": "rated", "kind": "mean", "value": "stars"},
            ]
        },
        "segments": {"segments": [{"key": "regulars", "condition": {"orders": {"$gte": 3}}}]},
    }
    if variant is not None:
        files["bold"] = {
            "key": "bold",
            "hypothesis": "Bolder is better, and that is why we try it.",
            "owner": "growth",
            "unit": "customer",
            "placement": "hero",
            "variants": [{"key": "calm", "weight": 0.5}, {"key": "loud", "weight": 0.5, "policy": variant}],
            "metrics": {"primary": "click"},
        }
    for name, content in files.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return load_plan(root)


def refusals(root: Path, **given: Any) -> list[str]:
    with pytest.raises(CatalogError) as refused:
        shop(root, **given)
    return [f"{problem.path}: {problem.message}" for problem in refused.value.problems]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("metric", ["click", "bought", "spend", "stars"])
def test_a_policy_that_serves_can_learn_its_reward(tmp_path: Path, kind: str, metric: str) -> None:
    shares = {"beta_thompson", "top_two_thompson", "kl_ucb", "logistic_thompson"}
    if kind not in shares or metric in {"click", "bought"}:
        assert shop(tmp_path, kind=kind, metric=metric).policies["hero"].prior.arms == tuple(FLAVOURS)
        return
    (problem,) = refusals(tmp_path, kind=kind, metric=metric)
    assert problem.startswith(f"policy.kind: '{kind}' learns from rewards between 0 and 1, and '{metric}' is of kind ")
    assert problem.endswith(
        "use one of epsilon_greedy, gaussian_thompson, linucb, linear_thompson, squarecb, "
        "or reward a metric of kind proportion"
    )


def test_a_variants_policy_is_checked_against_its_placements_reward(tmp_path: Path) -> None:
    (problem,) = refusals(tmp_path, kind="uniform", metric="spend", variant={"kind": "kl_ucb"})
    assert problem.startswith("variants[1].policy.kind: 'kl_ucb' learns from rewards between 0 and 1")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"kind": "beta_thompson", "pool": ["channel"]}, "policy.pool: beta_thompson reads no attributes or groups"),
        ({"kind": "kl_ucb", "attributes": ["strength"]}, "policy.attributes: kl_ucb reads no attributes or groups"),
        ({"kind": "linucb", "pool": ["regular"]}, "policy.pool[0]: 'regular' is neither 'channel' nor a segment; did"),
        ({"kind": "linucb", "pool": [{"trait": "tier"}]}, "policy.pool[0]: 'tier' has no list of values; add one_of"),
        (
            {"kind": "linucb", "pool": ["channel", {"trait": "tier", "one_of": list(range(40))}]},
            "policy.pool: makes 80 groups, 64 at most",
        ),
        ({"kind": "linucb", "attributes": ["strenght"]}, "policy.attributes[0]: no offer has 'strenght'; did you mean"),
        ({"kind": "linucb", "attributes": ["roast"]}, "policy.attributes[0]: 'roast' is text ('dark'), not a number"),
    ],
)
def test_groups_and_attributes_that_do_not_exist_are_rejected(tmp_path: Path, policy: Any, message: str) -> None:
    (problem,) = refusals(tmp_path, **policy)
    assert problem.startswith(message)


def test_a_floor_that_leaves_nothing_to_learn_is_rejected(tmp_path: Path) -> None:
    message = (
        "0.34 for each of 3 offers is 1.02 of 1, so each is shown equally often whatever the policy learns; "
        "give a floor below 1/3, such as 0.03"
    )
    variant = {"kind": "kl_ucb", "floor": 0.34}
    assert refusals(tmp_path, kind="linucb", floor=0.34, variant=variant) == [
        f"variants[1].policy.floor: {message}",
        f"policy.floor: {message}",
    ]


def test_a_floor_with_room_for_all_offers_is_accepted(tmp_path: Path) -> None:
    assert shop(tmp_path, kind="linucb", floor=0.33).policies["hero"].prior.floor == 0.33


def test_a_list_of_offers_too_long_for_its_floor_is_rejected(tmp_path: Path) -> None:
    shop(tmp_path, kind="linucb", floor=0.33, variant={"kind": "kl_ucb"})
    bold = tmp_path / "bold.yaml"
    experiment = yaml.safe_load(bold.read_text())
    del experiment["variants"][1]["policy"]
    experiment["variants"][1]["offers"] = ["z", "dark", "light", "mug"]
    bold.write_text(yaml.safe_dump(experiment))
    with pytest.raises(CatalogError) as refused:
        load_plan(tmp_path)
    (problem,) = refused.value.problems
    assert problem.path == "variants[1].offers"
    assert problem.message.startswith("0.33 for each of 4 offers is 1.32 of 1")


def test_groups_are_the_combinations_and_anything_else_is_another_group(tmp_path: Path) -> None:
    pool = ["channel", "regulars", {"trait": "tier", "one_of": [1, 2, 3]}]
    features = shop(tmp_path, kind="linear_thompson", features=["hour"], pool=pool).policies["hero"].features
    assert (features.pool, features.dim) == (12, 4)
    seen = set()
    for channel in ("web", "till"):
        for orders in (0, 3):
            for tier in (1, 2, 3):
                context = features.read({"channel": channel, "orders": orders, "tier": tier, "hour": 3})
                seen.add(features.vector(context)[-1])
    assert seen == set(range(12))
    assert features.vector(features.read({"channel": "web", "tier": 9}))[-1] == -1


def test_a_policy_with_features_needs_none_to_learn_by_attributes(tmp_path: Path) -> None:
    attributes = ["strength", "tags.coffee", "value", {"trait": "roast", "one_of": ["dark", "light"]}]
    selection = shop(tmp_path, kind="linear_thompson", attributes=attributes).policies["hero"]
    assert selection.features.vector({}).tolist() == [1.0]
    assert isinstance(selection.prior, Bandit)
    assert selection.prior.traits == {
        "dark": (1, 4, 1, 0, 1, 0),
        "light": (1, 2, 1, 0, 0, 1),
        "mug": (1, 0, 0, 3, 0, 0),
    }
