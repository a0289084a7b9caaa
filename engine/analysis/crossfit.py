"""Cross-fitting: what a policy would do, and what a reward model expects, in rows that neither of them learnt from.

Chernozhukov et al. 2018, "Double/debiased Machine Learning", definition 3.1, with folds of whole customers: each fold
is judged by a policy and a model that were taught the others. Policies that are learnt so from one log share its
chance: of 300 simulated logs with arms that differ little 95% intervals covered the value 274 times, and 288 times for
policies that were fixed before.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.analysis.logged import Floats, Ints, Logged
from engine.analysis.targets import Target, reward_features
from policies import Bandit, LinearThompson

FOLDS = 5
SEED = 1


@dataclass(frozen=True)
class RewardModel:
    """Expected rewards as rows (arms + 1, numbers) of coefficients over `features` (contexts, numbers).

    The last row is that of an arm the log does not know: the common expectation. What is expected stays between the
    least and the largest reward that was seen.
    """

    features: Floats
    coefficients: Floats
    least: float
    largest: float

    def expected(self, context: int, arms: Ints) -> Floats:
        """Expected rewards (n,) of arms in a context."""
        known = np.minimum(arms, len(self.coefficients) - 1)
        return np.asarray(np.clip(self.coefficients[known] @ self.features[context], self.least, self.largest))


@dataclass(frozen=True)
class Predicted:
    """Per row (n,): the target's probability of what was chosen, the model's reward of it and of the target's choice.

    `unlogged` is the target's probability of arms that the log never chose.
    """

    target: Floats
    of_logged: Floats
    of_target: Floats
    unlogged: Floats


def folds_of(log: Logged) -> list[tuple[Ints, Ints]]:
    """Rows to learn and rows to judge, in the order of time; all rows of a customer are in one fold."""
    customers = int(log.customer.max()) + 1
    folds = min(FOLDS, customers)
    fold = np.random.default_rng(SEED).permutation(customers) % folds
    own = fold[log.customer]
    return [(np.flatnonzero(own != k), np.flatnonzero(own == k)) for k in range(folds)]


def reward_models(log: Logged, folds: list[tuple[Ints, Ints]]) -> list[RewardModel]:
    """A linear model for each arm, shrunken to a common one as far as the data say; taught the other folds, for each.

    Little shrinkage would flatter a policy that learnt from the same rows and so chases the same noise.
    """
    features = reward_features(log)
    x = np.array([features.vector(context) if features.specs else np.ones(1) for context in log.contexts])
    return [_model(log, x, learnt) for learnt, _ in folds]


def _model(log: Logged, x: Floats, rows: Ints) -> RewardModel:
    prior = LinearThompson(log.arms, x.shape[1], traits=dict.fromkeys(log.arms, (1.0,)))
    fitted = prior.update(x[log.context[rows]], log.arm[rows], log.reward[rows], log.propensity[rows])
    known = fitted.posterior
    unknown = known.common[:-1]
    coefficients = np.vstack([np.asarray(known.mean, np.float64), unknown])
    coefficients[:, 0] += known.common[-1]  # every context starts with 1
    rewards = log.reward[rows]
    return RewardModel(x, coefficients, float(rewards.min()), float(rewards.max()))


def predicted(target: Target, folds: list[tuple[Ints, Ints]], models: list[RewardModel]) -> Predicted:
    """What the target, taught the other folds, would do in each fold.

    Raises:
        BadInput: if the target cannot learn the log's rewards.
    """
    log = target.log
    out = Predicted(*(np.zeros(len(log)) for _ in range(4)))
    never = np.bincount(log.arm, minlength=len(target.arms)) == 0
    for (learnt, judged), model in zip(folds, models, strict=True):
        policy = target.prior()
        if target.learns:
            policy = target.taught(policy, learnt)
        _judge(target, policy, model, judged, never, out)
    return out


def _judge(
    target: Target, policy: Bandit, model: RewardModel, rows: Ints, never: NDArray[np.bool_], out: Predicted
) -> None:
    """Fills in `rows`: one asking of the policy for all rows with the same context and candidates."""
    log = target.log
    asked, group = np.unique(np.column_stack([log.context[rows], log.which[rows]]), axis=0, return_inverse=True)
    parts = np.split(np.argsort(group.ravel(), kind="stable"), np.cumsum(np.bincount(group.ravel()))[:-1])
    without_context: dict[int, Floats] = {}
    chance = np.zeros(len(target.arms))
    for (context, which), part in zip(asked.tolist(), parts, strict=True):
        own, among = rows[part], target.candidates[which]
        logged = log.arm[own]
        expected = model.expected(context, log.sets[which])
        out.of_logged[own] = expected[np.searchsorted(log.sets[which], logged)]
        if not among.size:
            out.unlogged[own] = 1.0
            continue
        p = without_context.get(which)
        if p is None:
            p = policy.probabilities(target.vectors[context] if policy.dim else None, candidates=among)
            if not policy.dim:
                without_context[which] = p
        chance[:] = 0.0
        chance[among] = p
        out.target[own] = chance[logged]
        out.of_target[own] = p @ model.expected(context, among)
        out.unlogged[own] = p[never[among]].sum()
