"""Target policies from YAML files: the arms of each in a logged decision, and its training on a log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from engine.analysis.offpolicy.arbitrated import PlacementRule, read_placement_rule
from engine.analysis.offpolicy.logged_choices import LoggedChoices
from engine.catalog.check.decode import find_problems
from engine.catalog.check.yaml_text import MAX_BYTES, decode_yaml
from engine.catalog.plan.compile_policies import CHANNEL
from engine.catalog.plan.features import Featurizer, PoolGroup, Value
from engine.catalog.spec.experiment import NOT_LEARNING, FeatureSpec, PolicySpec
from engine.errors import BadInput, CatalogError, Problem
from engine.vocabulary import SILENCE
from policies import KINDS, Bandit, make_policy
from policies.batches import Floats, Ints

MOST_REWARD_FEATURES = 48
MOST_VALUES = 16
"""Values of one text feature that get a number of their own in the reward model, the commonest."""
CONSTANT_SHARE = 0.95
"""A feature with one value in more than this share of the rows is left out of the reward model."""
MOST_NAMES = 6
"""Names that an error message lists."""


@dataclass(frozen=True)
class PolicyFile:
    """A policy read from one YAML file, with its selection's placement and offers if there is one."""

    name: str
    spec: PolicySpec
    placement: str | None = None
    offers: tuple[str, ...] | None = None
    """None means every logged candidate."""
    ignored: tuple[str, ...] = ()
    """Keys of the file that affect the placement's choice but not the evaluation."""
    placed: PlacementRule | None = None
    """How the placement changes the policy's probabilities, where the file lies among the shop's others."""


def read_policy(path: Path) -> PolicyFile:
    """Reads a policy: the value of `policy` in a selection's YAML, or a file that is only the policy.

    Raises:
        BadInput: if the file cannot be read, or is an experiment or an offer.
        CatalogError: if the policy has problems; it names all of them.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"--policy {path}: cannot be read: {error.strerror}; name a YAML file") from error
    value, problems, _ = decode_yaml(data, str(path))
    if problems:
        raise CatalogError(problems)
    if not isinstance(value, dict):
        raise BadInput(f"--policy {path}: has no policy; write `policy: {{kind: uniform}}`")
    in_selection = "policy" in value
    if not in_selection and "key" in value:
        raise BadInput(
            f"--policy {path}: is neither a selection nor a policy alone; copy the policy of an experiment's variant "
            "into a file of its own"
        )
    body = value["policy"] if in_selection else value
    faults = list(find_problems(body, PolicySpec, "policy" if in_selection else ""))
    if faults:
        raise CatalogError([Problem(str(path), where, message) for where, message in faults])
    spec = msgspec.convert(body, PolicySpec, strict=False)
    ignored = ["attributes"] if spec.attributes else []
    if not in_selection:
        return PolicyFile(name=path.stem, spec=spec, ignored=tuple(ignored))
    offers, placement = value.get("offers"), value.get("placement")
    placed = read_placement_rule(path, value)
    names = tuple(map(str, offers)) if isinstance(offers, list) else None
    if placed is not None:
        names = placed.arms
    else:
        ignored += [key for key in ("arbitration", "weights") if value.get(key)]
        if offers is not None and names is None:
            ignored.append("offers by tag")
    return PolicyFile(
        name=path.stem,
        spec=spec,
        placement=None if placement is None else str(placement),
        offers=names,
        ignored=tuple(ignored),
        placed=placed,
    )


def read_policies(paths: Sequence[Path], taken: str) -> list[PolicyFile]:
    """Reads policy files under distinct names: the stem, or the path if the stem is not unique or `taken`.

    Raises:
        BadInput: if a file is named twice, or cannot be read.
        CatalogError: if a policy has problems; it names all of them.
    """
    files = [read_policy(path) for path in paths]
    names = [taken, *(file.name for file in files)]
    renamed = [
        replace(file, name=str(path)) if names.count(file.name) > 1 else file
        for file, path in zip(files, paths, strict=True)
    ]
    twice = [file.name for place, file in enumerate(renamed) if file.name in {one.name for one in renamed[:place]}]
    if twice:
        raise BadInput(f"--policy {twice[0]}: is named twice; name each file once")
    return renamed


@dataclass(frozen=True)
class TargetPolicy:
    """A policy over a log's arms, followed by its file's offers that were never candidates in the log.

    In each decision it chooses among the logged candidates that its file names. Offers unknown to the log count as
    candidates in every decision, so that the probability the policy gives them shows as unlogged mass.
    """

    file: PolicyFile
    log: LoggedChoices
    features: Featurizer

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, the log's first."""
        known = set(self.log.arms)
        return (*self.log.arms, *(name for name in self.file.offers or () if name not in known))

    @cached_property
    def candidates(self) -> list[Ints]:
        """The positions of permitted arms for each of the log's sets of candidates; may be empty."""
        offers = self.file.offers
        # A policy chooses among offers: silence is a hold-out of the placement, unless the file names it as an arm.
        allowed = np.array([name != SILENCE if offers is None else name in offers for name in self.log.arms])
        new = np.arange(len(self.log.arms), len(self.arms))
        return [np.concatenate([names[allowed[names]], new]) for names in self.log.sets]

    @cached_property
    def vectors(self) -> Floats:
        """The features of each distinct context (contexts, dim)."""
        return np.array([self.features.vector(context) for context in self.log.contexts])

    @cached_property
    def vector_groups(self) -> Ints:
        """The group of each context (contexts,); contexts with equal vectors share a group."""
        return np.unique(self.vectors, axis=0, return_inverse=True)[1].ravel()

    @cached_property
    def placed(self) -> PlacementRule | None:
        """The placement's change of the policy's probabilities; None if there is none or it is unknown."""
        rule = self.file.placed
        return None if rule is None or rule.rule is None or rule.unlogged(self.log) else rule

    @cached_property
    def weight_groups(self) -> Ints:
        """The group of each context (contexts,); the placement's weights are equal within a group."""
        none = np.zeros(len(self.log.contexts), np.intp)
        return none if self.placed is None else self.placed.groups(self.log.contexts)

    @property
    def ignored(self) -> tuple[str, ...]:
        """The keys of its file by which the placement would choose differently than evaluated."""
        rule = self.file.placed
        unlogged = [] if rule is None or rule.rule is None else rule.unlogged(self.log)
        why = f"weights, which read {', '.join(unlogged)}: not logged (make it a feature of a policy of the placement),"
        return (*self.file.ignored, *([why] if unlogged else []))

    def probabilities(self, policy: Bandit, context: int, candidates: Ints) -> Floats:
        """The probabilities (n,) of showing the `candidates` (n,) in a context, given by number."""
        p = policy.probabilities(self.vectors[context] if policy.dim else None, candidates=candidates)
        if self.placed is None:
            return p
        return self.placed.weigh(p, [self.arms[arm] for arm in candidates.tolist()], self.log.contexts[context])

    @property
    def features_read(self) -> list[str]:
        """The features on which its probabilities depend."""
        if not KINDS[self.file.spec.kind].contextual:
            return []
        return [spec.trait for spec in self.features.specs] + [group.name for group in self.features.groups]

    @property
    def learns(self) -> bool:
        """Whether training changes its probabilities."""
        return self.file.spec.kind != NOT_LEARNING

    def make_policy(self) -> Bandit:
        """The policy before any training.

        Raises:
            BadInput: if its options do not fit the log's arms, such as a floor that many arms exceed.
        """
        spec = self.file.spec
        try:
            pool = {"pool": self.features.pool} if self.features.pool else {}
            return make_policy(
                spec.kind, self.arms, self.features.dim, floor=spec.floor, discount=spec.discount, **pool
            )
        except ValueError as error:
            raise BadInput(f"--policy {self.file.name}: {error}") from error

    def update_policy(self, policy: Bandit, rows: Ints) -> Bandit:
        """The policy after training on `rows` of the log, in order.

        Raises:
            BadInput: if the rewards are outside the range that its model assumes.
        """
        log = self.log
        x = self.vectors[log.context[rows]] if policy.dim else None
        try:
            return policy.update(x, log.arm[rows], log.reward[rows], log.propensity[rows])
        except ValueError as error:
            raise BadInput(f"--policy {self.file.name}: {self.file.spec.kind} cannot learn the log: {error}") from error

    def missing_features(self, log: LoggedChoices) -> dict[str, float]:
        """The features that some rows were logged without, with the share of those rows."""
        missing = {
            name: _share_of_rows(log, [name not in context for context in log.contexts]) for name in self.features_read
        }
        return {name: share for name, share in missing.items() if share > 0}

    def notes(self, log: LoggedChoices) -> list[str]:
        """Sentences on offers that are not in the log and features without a value."""
        notes = []
        new = self.arms[len(self.log.arms) :]
        if new:
            notes.append(f"never a candidate in the log: {', '.join(new)}")
        for name in self.features_read:
            share = _share_of_rows(log, [name in context and context[name] is None for context in log.contexts])
            if share > 0:
                notes.append(f"feature {name} is missing in {share:.1%} of the decisions and 0 there")
        return notes


def make_target(file: PolicyFile, log: LoggedChoices) -> TargetPolicy:
    """Makes the target policy of a file on a log.

    Raises:
        BadInput: if none of its offers is in the log, or a feature was not logged or never has a listed value.
    """
    known = set(log.arms)
    if file.offers is not None and not known & set(file.offers):
        raise BadInput(f"--policy {file.name}: none of its offers is in the log, which has {_list_some(log.arms)}")
    features = _make_featurizer(file, log)
    groups = (FeatureSpec(trait=group.name, one_of=list(group.values)) for group in features.groups)
    for spec in (*features.specs, *groups):
        _check_feature(file, spec, log)
    return TargetPolicy(file, log, features)


def _check_feature(file: PolicyFile, spec: FeatureSpec, log: LoggedChoices) -> None:
    """Raises BadInput if a feature was never logged or never has a listed value: probably a wrong name."""
    logged = list(dict.fromkeys(name for context in log.contexts for name in context))
    if spec.trait not in logged:
        raise BadInput(f"--policy {file.name}: feature {spec.trait!r} was not logged; the log has {_list_some(logged)}")
    values = {context[spec.trait] for context in log.contexts if context.get(spec.trait) is not None}
    if values and spec.one_of is not None and not values & set(spec.one_of):
        raise BadInput(
            f"--policy {file.name}: feature {spec.trait!r} is never one of {_list_some(spec.one_of)} in the log; "
            f"its values are {_list_some(sorted(map(repr, values)))}"
        )


def _make_featurizer(file: PolicyFile, log: LoggedChoices) -> Featurizer:
    """The features of a file's policy; pools by channel use the log's channels."""
    groups: list[PoolGroup] = []
    for pooled in file.spec.pool:
        if isinstance(pooled, FeatureSpec):
            groups.append(PoolGroup(pooled.trait, tuple(pooled.one_of or ())))
        elif pooled == CHANNEL:
            channels = {context.get(CHANNEL) for context in log.contexts}
            groups.append(PoolGroup(CHANNEL, tuple(sorted(value for value in channels if isinstance(value, str)))))
        else:
            groups.append(PoolGroup(f"segment {pooled}", (True, False)))
    return Featurizer(file.spec.features, groups, constant=KINDS[file.spec.kind].contextual)


def select_reward_features(log: LoggedChoices) -> Featurizer:
    """Features for a reward model from the log's contexts; at most 48 numbers.

    A number is scaled to its range; text becomes an indicator for each of its 16 commonest values. A feature that is
    nearly constant is left out.
    """
    rows = np.bincount(log.context, minlength=len(log.contexts))
    specs: list[FeatureSpec] = []
    left = MOST_REWARD_FEATURES
    for trait in dict.fromkeys(name for context in log.contexts for name in context):
        counts: dict[Value, int] = {}
        for context, times in zip(log.contexts, rows.tolist(), strict=True):
            value = context.get(trait)
            counts[value] = counts.get(value, 0) + times
        if max(counts.values()) > CONSTANT_SHARE * len(log):
            continue
        spec, cost = _reward_feature(trait, counts)
        if 0 < cost <= left:
            specs.append(spec)
            left -= cost
    return Featurizer(specs)


def _reward_feature(trait: str, counts: Mapping[Value, int]) -> tuple[FeatureSpec, int]:
    """A feature of the reward model, and its length in numbers."""
    values = [value for value in counts if value is not None]
    numbers = [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v)]
    if len(numbers) == len(values) and len(set(numbers)) > 1:
        return FeatureSpec(trait=trait, range=[min(numbers), max(numbers)]), 1
    texts = sorted((v for v in values if isinstance(v, str | bool)), key=lambda v: (-counts[v], str(v)))
    return FeatureSpec(trait=trait, one_of=list(texts[:MOST_VALUES])), len(texts[:MOST_VALUES])


def _share_of_rows(log: LoggedChoices, contexts: Sequence[bool]) -> float:
    """The share of rows whose context is marked in `contexts`."""
    return float(np.array(contexts)[log.context].mean())


def _list_some(names: Sequence[object]) -> str:
    """The first six names, and the number of further ones."""
    shown = ", ".join(map(str, names[:MOST_NAMES]))
    return f"{shown} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else shown or "none"
