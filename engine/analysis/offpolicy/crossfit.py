"""Cross-fitted predictions for logged rows, by a reward model and a target policy trained on other rows.

The reward model is cross-fitted: customers are split into five folds, and each fold is predicted by the model trained
on the other four (Chernozhukov et al. 2018, "Double/debiased Machine Learning", definition 3.1).

A policy cannot be evaluated that way. Policies trained on each other's folds fit the same noise, so their errors add
up: 95% intervals then cover 91%. A policy is evaluated sequentially instead (Luedtke and van der Laan 2016,
"Statistical Inference for the Mean Outcome under a Possibly Non-unique Optimal Treatment Strategy"): customers are
ordered by their first decision, and each part of them is evaluated with the policy trained on all parts before. The
errors are then a martingale, and the ordinary interval holds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np

from engine.analysis.offpolicy.logged_choices import LoggedChoices
from engine.analysis.offpolicy.target_policies import TargetPolicy, select_reward_features
from engine.errors import BadInput
from policies import Bandit, LinearThompson
from policies.batches import Floats, Ints

FOLDS = 5
SEED = 1
FIRST_PART = 0.2
"""The share of the customers that trains a policy before its evaluation begins."""
PARTS = 8
"""The number of policies that are trained one after another, each evaluated on the customers that remain."""
LEAST_CUSTOMERS = 3


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """Expected rewards of a log's rows, each from the model trained on the other folds."""

    log: LoggedChoices
    fold: Ints
    """(n,)."""
    features: Floats
    """(contexts, dim)."""
    coefficients: Floats
    """(folds, arms + 1, dim); the last arm stands for every arm that is not in the log: the common expectation."""
    least: Floats
    """(folds,) the least training reward; predictions are clipped to it."""
    largest: Floats
    """(folds,) the largest training reward; predictions are clipped to it."""

    def predict_logged(self, rows: Ints) -> Floats:
        """The expected reward of the logged arm in each of `rows` (n,)."""
        fold, x = self.fold[rows], self.features[self.log.context[rows]]
        rewards = np.einsum("ij,ij->i", x, self.coefficients[fold, self.log.arm[rows]])
        return np.asarray(np.clip(rewards, self.least[fold], self.largest[fold]))

    def predict_arms(self, rows: Ints, arms: Ints) -> Floats:
        """The expected reward of each of `arms` (m,) in each of `rows` (n,): (n, m)."""
        known = np.minimum(arms, self.coefficients.shape[1] - 1)
        fold, x = self.fold[rows], self.features[self.log.context[rows]]
        rewards = np.empty((rows.size, arms.size))
        for k in set(fold.tolist()):
            part = fold == k
            rewards[part] = np.clip(x[part] @ self.coefficients[k, known].T, self.least[k], self.largest[k])
        return rewards


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A target policy's choices, and their modelled rewards, in n evaluated rows of the log."""

    rows: Ints
    """(n,) positions in the log."""
    target: Floats
    """(n,) the target's probability of the logged arm."""
    of_logged: Floats
    """(n,) the expected reward of the logged arm."""
    of_target: Floats
    """(n,) the expected reward under the target's probabilities."""
    unlogged: Floats
    """(n,) the target's probability of arms that the log never chose."""
    likeliest: Floats
    """(n,) the target's largest probability."""
    even: Floats
    """(n,) the probability of each arm under uniform choice among the target's candidates."""


def fit_reward_model(log: LoggedChoices) -> RewardModel:
    """Fits one linear model per arm, shrunken towards a common one; each fold is left out once.

    The amount of shrinkage, one number, is estimated on the whole log. With little shrinkage a policy trained on the
    same rows would look better than it is, because model and policy would fit the same noise.
    """
    features = select_reward_features(log)
    x = np.array([features.vector(context) if features.specs else np.ones(1) for context in log.contexts])
    folds = min(FOLDS, log.customers)
    fold = np.random.default_rng(SEED).permutation(log.customers)[log.customer] % folds
    training = [np.flatnonzero(fold != k) for k in range(folds)]
    prior = LinearThompson(log.arms, x.shape[1], traits=dict.fromkeys(log.arms, (1.0,)))
    whole = _fit_linear(prior, log, x, np.arange(len(log)))
    prior = replace(prior, between=whole.between, scaling=whole.scaling, tune=False)
    return RewardModel(
        log=log,
        fold=fold,
        features=x,
        coefficients=np.array([_coefficients(_fit_linear(prior, log, x, rows)) for rows in training]),
        least=np.array([log.reward[rows].min() for rows in training]),
        largest=np.array([log.reward[rows].max() for rows in training]),
    )


def _fit_linear(prior: LinearThompson, log: LoggedChoices, x: Floats, rows: Ints) -> LinearThompson:
    """The hierarchical regression of the rewards on the contexts' features x (contexts, dim)."""
    return prior.update(x[log.context[rows]], log.arm[rows], log.reward[rows], log.propensity[rows])


def _coefficients(fitted: LinearThompson) -> Floats:
    """The posterior means (arms + 1, dim), the common one last."""
    own, common = fitted.coefficients()
    coefficients = np.vstack([own, common[:-1]])
    coefficients[:, 0] += common[-1]  # the first feature is the constant 1
    return coefficients


def train_progressively(target: TargetPolicy) -> Iterator[tuple[Bandit, Ints]]:
    """The target after each stage of training, with the rows to evaluate it on.

    A policy that learns is first trained on a fifth of the customers, those who came first. It is then evaluated on
    the next tenth of them and trained on that too, and so on. All rows of a customer are in one part.

    Raises:
        BadInput: if the target cannot learn the log's rewards, or there are fewer than three customers.
    """
    customer = target.log.customer
    policy = target.make_policy()
    if not target.learns:
        yield policy, np.arange(customer.size)
        return
    customers = target.log.customers
    if customers < LEAST_CUSTOMERS:
        raise BadInput(
            f"--policy {target.file.name}: the log has {customers} customers; a policy that learns needs one to train "
            "on and two to be evaluated on"
        )
    ends = np.unique(np.ceil(np.linspace(FIRST_PART, 1, PARTS + 1) * customers))
    trained = 0.0
    for first, last in pairwise(ends.tolist()):
        if policy.discount < 1:  # what it forgets depends on the order of time, so it is trained again from the start
            policy, trained = target.make_policy(), 0.0
        policy = target.update_policy(policy, np.flatnonzero((trained <= customer) & (customer < first)))
        yield policy, np.flatnonzero((first <= customer) & (customer < last))
        trained = first


def predict(target: TargetPolicy, model: RewardModel, stages: Iterable[tuple[Bandit, Ints]]) -> Predictions:
    """The predictions for every row of `stages` (see `train_progressively`), in the order of the log."""
    parts = [_predict_stage(target, policy, model, rows) for policy, rows in stages]
    order = np.argsort(np.concatenate([part.rows for part in parts]), kind="stable")
    columns = (field.name for field in fields(Predictions))
    return Predictions(**{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in columns})


def _predict_stage(target: TargetPolicy, policy: Bandit, model: RewardModel, rows: Ints) -> Predictions:
    """The predictions for `rows` (n,) with the policy of one stage.

    The policy is asked once per group of rows with the same features and candidates, not once per row.
    """
    log = target.log
    chosen, of_target, unlogged, likeliest, even = np.zeros((5, rows.size))
    vector_group = target.vector_groups[log.context[rows]] if policy.dim else np.zeros(rows.size, np.intp)
    keys = np.column_stack([vector_group, log.which[rows], target.weight_groups[log.context[rows]]])
    distinct, group = np.unique(keys, axis=0, return_inverse=True)
    parts = np.split(np.argsort(group.ravel(), kind="stable"), np.cumsum(np.bincount(group.ravel()))[:-1])
    never_logged = np.bincount(log.arm, minlength=len(target.arms)) == 0
    chance = np.zeros(len(target.arms))
    for (_, which, _), part in zip(distinct.tolist(), parts, strict=True):
        own, candidates = rows[part], target.candidates[which]
        if not candidates.size:  # none of its offers could be chosen here
            unlogged[part] = 1.0
            continue
        p = target.probabilities(policy, int(log.context[own[0]]), candidates)
        chance[:] = 0.0
        chance[candidates] = p
        chosen[part] = chance[log.arm[own]]
        of_target[part] = model.predict_arms(own, candidates) @ p
        unlogged[part] = p[never_logged[candidates]].sum()
        likeliest[part], even[part] = p.max(), 1 / p.size
    return Predictions(
        rows=rows,
        target=chosen,
        of_logged=model.predict_logged(rows),
        of_target=of_target,
        unlogged=unlogged,
        likeliest=likeliest,
        even=even,
    )
