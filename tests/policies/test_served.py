"""What is served fits what is logged: every policy, floor, mask and pool, drawn as the engine draws."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

import policies
from engine import decide, load_plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideRequest
from engine.decision.offers import Snapshot, draw
from engine.hashing import uniform_draw

ARMS = tuple("abcdef")
SERVED = 4000
POOLED = sorted(kind for kind, policy in policies.KINDS.items() if policy.contextual)


def fits(counts: np.ndarray, p: np.ndarray) -> bool:
    """Chi-square at 1 in 10,000, what is expected fewer than five times being one cell; never what cannot be."""
    expected = p * counts.sum()
    rare = expected < 5
    cells = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    some = cells[1] > 0
    return not counts[p == 0].any() and (
        some.sum() < 2 or stats.chisquare(cells[0][some], cells[1][some]).pvalue > 1e-4
    )


@pytest.mark.parametrize("mask", [None, (True, False, True, True, False, False)])
@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.05, 1.0])
@pytest.mark.parametrize(("kind", "pool"), [*((kind, 0) for kind in sorted(policies.KINDS)), *((k, 2) for k in POOLED)])
def test_served_frequencies_fit_logged_propensities(
    kind: str, pool: int, floor: float, mask: tuple[bool, ...] | None
) -> None:
    random = np.random.default_rng(3)
    x = np.column_stack([np.ones(150), random.normal(size=150), random.integers(0, 2, 150)])
    arm = random.integers(0, 6, 150)
    about = {"pool": pool} if pool else {}
    policy = policies.make_policy(kind, ARMS, 3, floor=floor, **about)
    policy = policy.update(x, arm, (random.random(150) < 0.2 + 0.1 * arm).astype(float), np.full(150, 1 / 6))
    shown = np.array(mask or [True] * 6)
    for context in ([1.0, 0.4, 0.0], [1.0, -2.0, 1.0]):
        p = policy.probabilities(np.array(context), None if mask is None else shown)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert (p[shown] >= min(floor, 1 / shown.sum()) - 1e-12).all()
        assert (p[~shown] == 0).all()
        drawn = [draw(p.tolist(), uniform_draw(f"decision-{n}", kind)) for n in range(SERVED)]
        assert fits(np.bincount(drawn, minlength=6), p)


def test_two_placements_are_served_as_often_as_their_logged_propensities_say(tmp_path: Path) -> None:
    """The second placement's propensity is that of its own draw, given what the first one showed."""
    (tmp_path / "offers").mkdir()
    for key in (*ARMS[:4], "z"):
        (tmp_path / "offers" / f"{key}.yaml").write_text(yaml.safe_dump({"key": key, "renderings": {"web": {}}}))
    chosen = {"offers": list(ARMS[:4]), "policy": {"kind": "beta_thompson"}, "reward": {"metric": "click"}}
    files: dict[str, object] = {
        key: {"key": key, "placement": key, "fallback": "z"} | chosen for key in ("hero", "side")
    }
    files["channels"] = {
        "channels": [{"key": "web"}],
        "placements": [{"key": key, "channels": ["web"]} for key in ("hero", "side")],
    }
    files["metrics"] = {"metrics": [{"key": "click", "event": "click"}]}
    for name, value in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(value))
    plan = load_plan(tmp_path)
    random = np.random.default_rng(4)
    arm = random.integers(0, 4, 60)
    policy = policies.BetaThompson(ARMS[:4], floor=0.02)
    policy = policy.update(None, arm, (random.random(60) < 0.3 + 0.1 * arm).astype(float), np.full(60, 0.25))
    snapshots = {"hero": Snapshot(policy, 1), "side": Snapshot(policy, 1)}
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", placements=["hero", "side"])
    counts = np.zeros((4, 4))
    logged = np.zeros((4, 4))
    for n in range(SERVED):
        answer = decide(plan, snapshots, Profile("u", "u"), request, 1.8e9, decision_id=f"d-{n}").answer.offers
        pair = tuple(ARMS.index(str(answer[key].offer)) for key in ("hero", "side"))
        counts[pair] += 1
        both = answer["hero"].propensity * answer["side"].propensity
        assert logged[pair] in (0, both)
        logged[pair] = both
    assert (np.diag(counts) == 0).all()
    assert logged.sum() == pytest.approx(1)
    assert fits(counts.ravel(), logged.ravel())


@pytest.mark.parametrize("kind", ["kl_ucb", "linucb"])
def test_a_deterministic_policy_gives_the_others_their_floor(kind: str) -> None:
    random = np.random.default_rng(5)
    arm = random.integers(0, 6, 300)
    policy = policies.make_policy(kind, ARMS, 1, floor=0.02)
    policy = policy.update(np.ones((300, 1)), arm, (arm == 2).astype(float), np.full(300, 1 / 6))
    assert policy.probabilities([1.0]) == pytest.approx([0.02, 0.02, 0.9, 0.02, 0.02, 0.02])
