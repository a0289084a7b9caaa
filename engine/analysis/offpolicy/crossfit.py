"""What a policy would do, and what a reward model expects, in rows that neither of them learnt from.

The model is cross-fitted: five folds of whole customers, each judged by what the others taught (Chernozhukov et al.
2018, "Double/debiased Machine Learning", definition 3.1). That does not do for a policy: policies that are taught each
other's folds chase the same chance, so that their errors add up and 95% intervals cover 91%. A policy is judged as it
goes (Luedtke and van der Laan 2016, "Statistical Inference for the Mean Outcome under a Possibly Non-unique Optimal
Treatment Strategy"): customers in the order in which they first came, each part of them judged by the policy as those
before taught it. The errors are then those of a martingale.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np

from engine.analysis.offpolicy.logged_choices import Floats, Ints, Logged
from engine.analysis.offpolicy.target_policies import Target, reward_features
from engine.errors import BadInput
from policies import Bandit, LinearThompson

FOLDS = 5
SEED = 1
START = 0.2
PARTS = 8


@dataclass(frozen=True)
class RewardModel:
    """What each row of a log is expected to earn, by what the other folds taught.

    `coefficients` (folds, arms + 1, numbers) times `features` (contexts, numbers); the last arm is any that the log
    does not know: the common expectation. It stays between the `least` and the `largest` reward (folds,) seen.
    """

    log: Logged
    fold: Ints
    features: Floats
    coefficients: Floats
    least: Floats
    largest: Floats

    def of_logged(self) -> Floats:
        """Of each row's own arm (n,)."""
        chosen = self.coefficients[self.fold, self.log.arm]
        found = np.einsum("ij,ij->i", self.features[self.log.context], chosen)
        return np.asarray(np.clip(found, self.least[self.fold], self.largest[self.fold]))

    def expected(self, rows: Ints, arms: Ints) -> Floats:
        """Of these arms (m,) in these rows (n,): (n, m)."""
        known = np.minimum(arms, self.coefficients.shape[1] - 1)
        fold, x = self.fold[rows], self.features[self.log.context[rows]]
        out = np.empty((rows.size, arms.size))
        for k in set(fold.tolist()):
            at = fold == k
            out[at] = np.clip(x[at] @ self.coefficients[k, known].T, self.least[k], self.largest[k])
        return out


@dataclass(frozen=True)
class Predicted:
    """Of the judged `rows` (n,): the target's probability of what was chosen, and what the model expects.

    `of_logged` is what it expects of what was chosen, `of_target` of the target's choice; `unlogged` the target's
    probability of arms that the log never chose, `likeliest` that of its likeliest arm, which is `even` where it
    chooses evenly.
    """

    rows: Ints
    target: Floats
    of_logged: Floats
    of_target: Floats
    unlogged: Floats
    likeliest: Floats
    even: Floats


def reward_model(log: Logged) -> RewardModel:
    """A linear model for each arm, shrunken to a common one, for each fold from the others.

    How much they are shrunken, one number, the whole log says. Little shrinkage would flatter a policy that learnt
    from the same rows and so chases the same noise.
    """
    features = reward_features(log)
    x = np.array([features.vector(context) if features.specs else np.ones(1) for context in log.contexts])
    folds = min(FOLDS, log.customers)
    fold = np.random.default_rng(SEED).permutation(log.customers)[log.customer] % folds
    taught = [np.flatnonzero(fold != k) for k in range(folds)]
    prior = LinearThompson(log.arms, x.shape[1], traits=dict.fromkeys(log.arms, (1.0,)))
    prior = replace(prior, between=_fitted(prior, log, x, np.arange(len(log))).between, tune=False)
    return RewardModel(
        log,
        fold,
        x,
        np.array([_coefficients(_fitted(prior, log, x, rows)) for rows in taught]),
        np.array([log.reward[rows].min() for rows in taught]),
        np.array([log.reward[rows].max() for rows in taught]),
    )


def _fitted(prior: LinearThompson, log: Logged, x: Floats, rows: Ints) -> LinearThompson:
    return prior.update(x[log.context[rows]], log.arm[rows], log.reward[rows], log.propensity[rows])


def _coefficients(fitted: LinearThompson) -> Floats:
    known = fitted.posterior
    coefficients = np.vstack([np.asarray(known.mean, np.float64), known.common[:-1]])
    coefficients[:, 0] += known.common[-1]  # every context starts with 1
    return coefficients


def progress(target: Target) -> Iterator[tuple[Bandit, Ints]]:
    """The target as it goes, with the rows that it is judged on then.

    One that learns is first taught a fifth of the customers, those who came first; then it is judged on the next
    tenth of them and taught that too, and so on. All rows of a customer are in one part, whenever they were.

    Raises:
        BadInput: if the target cannot learn the log's rewards, or there are fewer than three customers.
    """
    customer = target.log.customer
    policy = target.prior()
    if not target.learns:
        yield policy, np.arange(customer.size)
        return
    customers = target.log.customers
    if customers < 3:
        raise BadInput(
            f"--policy {target.file.name}: the log has {customers} customers, but one must teach it and two judge it"
        )
    ends = np.unique(np.ceil(np.linspace(START, 1, PARTS + 1) * customers))
    taught = 0.0
    for first, last in pairwise(ends.tolist()):
        if policy.discount < 1:  # what it forgets hangs on the order of time
            policy, taught = target.prior(), 0.0
        policy = target.taught(policy, np.flatnonzero((taught <= customer) & (customer < first)))
        yield policy, np.flatnonzero((first <= customer) & (customer < last))
        taught = first


def predicted(target: Target, model: RewardModel, steps: Iterable[tuple[Bandit, Ints]]) -> Predicted:
    """What the target would do in the rows that its `progress` is judged on."""
    log = target.log
    out = Predicted(np.arange(len(log)), *(np.zeros(len(log)) for _ in range(6)))
    out.of_logged[:] = model.of_logged()
    judged = np.zeros(len(log), dtype=np.bool_)
    for policy, rows in steps:
        _judge(target, policy, model, rows, out)
        judged[rows] = True
    return Predicted(*(getattr(out, field.name)[judged] for field in fields(Predicted)))


def _judge(target: Target, policy: Bandit, model: RewardModel, rows: Ints, out: Predicted) -> None:
    """Fills in `rows`: one asking of the policy for all in which it sees the same and may choose the same."""
    log = target.log
    seen = target.alike[log.context[rows]] if policy.dim else np.zeros(rows.size, np.intp)
    asked, group = np.unique(np.column_stack([seen, log.which[rows]]), axis=0, return_inverse=True)
    parts = np.split(np.argsort(group.ravel(), kind="stable"), np.cumsum(np.bincount(group.ravel()))[:-1])
    never = np.bincount(log.arm, minlength=len(target.arms)) == 0
    chance = np.zeros(len(target.arms))
    for (_, which), part in zip(asked.tolist(), parts, strict=True):
        own, among = rows[part], target.candidates[which]
        if not among.size:
            out.unlogged[own] = 1.0
            continue
        p = policy.probabilities(target.vectors[log.context[own[0]]] if policy.dim else None, candidates=among)
        chance[:] = 0.0
        chance[among] = p
        out.target[own] = chance[log.arm[own]]
        out.of_target[own] = model.expected(own, among) @ p
        out.unlogged[own] = p[never[among]].sum()
        out.likeliest[own], out.even[own] = p.max(), 1 / p.size
