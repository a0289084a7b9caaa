"""Policies to be judged, from YAML files: what each may choose in a logged decision, and how it learns from a log."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from engine.analysis.offpolicy.logged_choices import Floats, Ints, Logged
from engine.catalog.check.decode import find_problems
from engine.catalog.check.yaml_text import MAX_BYTES, decode_yaml
from engine.catalog.plan.compile_policies import CHANNEL
from engine.catalog.plan.features import Featurizer, PoolGroup
from engine.catalog.spec.experiment import FeatureSpec, PolicySpec
from engine.errors import BadInput, CatalogError, Problem
from policies import KINDS, Bandit, make_policy


@dataclass(frozen=True)
class PolicyFile:
    """One file: a policy, and of a selection its placement and offers. `ignored` is what an evaluation leaves out."""

    name: str
    spec: PolicySpec
    placement: str | None = None
    offers: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()


def read_policy(path: Path) -> PolicyFile:
    """A policy from a selection's YAML, with its key `policy`, or from a file that is the policy alone.

    Raises:
        BadInput: if the file cannot be read, or is an experiment or an offer.
        CatalogError: with every problem of the policy.
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
        raise BadInput(f"--policy {path}: holds no policy; write `policy: {{kind: uniform}}`")
    within = "policy" in value
    if not within and "key" in value:
        raise BadInput(
            f"--policy {path}: is neither a selection nor a policy alone; copy the policy of an experiment's variant "
            "into a file of its own"
        )
    body = value["policy"] if within else value
    found = list(find_problems(body, PolicySpec, "policy" if within else ""))
    if found:
        raise CatalogError([Problem(str(path), where, message) for where, message in found])
    spec = msgspec.convert(body, PolicySpec, strict=False)
    own = ("attributes",) if spec.attributes else ()
    if not within:
        return PolicyFile(path.stem, spec, ignored=own)
    offers, placement = value.get("offers"), value.get("placement")
    named = tuple(map(str, offers)) if isinstance(offers, list) else None
    ignored = tuple(name for name in ("arbitration", "weights") if value.get(name))
    ignored = (*own, *ignored)
    if offers is not None and named is None:
        ignored = (*ignored, "offers by tag")
    return PolicyFile(path.stem, spec, None if placement is None else str(placement), named, ignored)


def read_policies(paths: Sequence[Path], taken: str) -> list[PolicyFile]:
    """The files under names that differ: each its own, or its path where two are alike or it is `taken` already.

    Raises:
        BadInput: if a file is named twice, or cannot be read.
        CatalogError: with every problem of a policy.
    """
    files = [read_policy(path) for path in paths]
    names = [taken, *(one.name for one in files)]
    renamed = [
        replace(one, name=str(path)) if names.count(one.name) > 1 else one
        for one, path in zip(files, paths, strict=True)
    ]
    if len({one.name for one in renamed}) < len(renamed):
        raise BadInput("a --policy file is named twice; name each once")
    return renamed


@dataclass(frozen=True)
class Target:
    """A policy over a log's arms, and behind them offers of its file that the log never had as a candidate.

    In a decision it chooses among the logged candidates that its file names; an offer that the log does not know at
    all counts as a candidate everywhere, so that what it would take shows as unlogged mass.
    """

    file: PolicyFile
    log: Logged
    features: Featurizer

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms."""
        known = set(self.log.arms)
        return (*self.log.arms, *(name for name in self.file.offers or () if name not in known))

    @cached_property
    def candidates(self) -> list[Ints]:
        """Positions of the arms it may choose, for each of the log's sets of candidates; may be none."""
        offers = self.file.offers
        allowed = np.array([offers is None or name in offers for name in self.log.arms])
        new = np.arange(len(self.log.arms), len(self.arms))
        return [np.concatenate([names[allowed[names]], new]) for names in self.log.sets]

    @cached_property
    def vectors(self) -> Floats:
        """The features of each distinct context, (contexts, dim)."""
        return np.array([self.features.vector(context) for context in self.log.contexts])

    @cached_property
    def alike(self) -> Ints:
        """A number for each context (contexts,), the same where the vectors are."""
        return np.unique(self.vectors, axis=0, return_inverse=True)[1].ravel()

    @property
    def reads(self) -> list[str]:
        """The traits that its probabilities depend on."""
        if not KINDS[self.file.spec.kind].contextual:
            return []
        return [spec.trait for spec in self.features.specs] + [group.name for group in self.features.groups]

    @property
    def learns(self) -> bool:
        """Whether its probabilities depend on what it was taught."""
        return self.file.spec.kind != "uniform"

    def prior(self) -> Bandit:
        """The policy before anything was learnt."""
        spec = self.file.spec
        try:
            pool = {"pool": self.features.pool} if self.features.pool else {}
            return make_policy(
                spec.kind, self.arms, self.features.dim, floor=spec.floor, discount=spec.discount, **pool
            )
        except ValueError as error:
            raise BadInput(f"--policy {self.file.name}: {error}") from error

    def taught(self, policy: Bandit, rows: Ints) -> Bandit:
        """The policy that also knows these rows of the log, in their order.

        Raises:
            BadInput: if its model does not hold the rewards.
        """
        log = self.log
        x = self.vectors[log.context[rows]] if policy.dim else None
        try:
            return policy.update(x, log.arm[rows], log.reward[rows], log.propensity[rows])
        except ValueError as error:
            raise BadInput(f"--policy {self.file.name}: {self.file.spec.kind} cannot learn the log: {error}") from error

    def unread(self, log: Logged) -> dict[str, float]:
        """What it reads that some of these rows were logged without, with their share."""
        lacking = {name: _share(log, [name not in context for context in log.contexts]) for name in self.reads}
        return {name: share for name, share in lacking.items() if share > 0}

    def notes(self, log: Logged) -> list[str]:
        """What of the file the evaluation leaves out or could not find in these rows."""
        notes = []
        new = self.arms[len(self.log.arms) :]
        if new:
            notes.append(f"never a candidate in the log: {', '.join(new)}")
        for name in self.reads:
            share = _share(log, [name in context and context[name] is None for context in log.contexts])
            if share > 0:
                notes.append(f"feature {name} is missing in {share:.1%} of the decisions and 0 there")
        return notes


def target_of(file: PolicyFile, log: Logged) -> Target:
    """The policy over the log's arms.

    Raises:
        BadInput: if none of its offers is in the log, or a feature was not logged or never has a listed value.
    """
    known = set(log.arms)
    if file.offers is not None and not known & set(file.offers):
        raise BadInput(f"--policy {file.name}: none of its offers is in the log, which has {_some(log.arms)}")
    features = _features(file, log)
    read = (*features.specs, *(FeatureSpec(trait=group.name, one_of=list(group.values)) for group in features.groups))
    for spec in read:
        seen = {context[spec.trait] for context in log.contexts if context.get(spec.trait) is not None}
        logged = list(dict.fromkeys(name for context in log.contexts for name in context))
        if spec.trait not in logged:
            raise BadInput(f"--policy {file.name}: feature {spec.trait!r} was not logged; the log has {_some(logged)}")
        if seen and spec.one_of is not None and not seen & set(spec.one_of):
            raise BadInput(
                f"--policy {file.name}: feature {spec.trait!r} is never one of {_some(spec.one_of)} in the log, "
                f"but {_some(sorted(map(repr, seen)))}"
            )
    return Target(file, log, features)


def _features(file: PolicyFile, log: Logged) -> Featurizer:
    """The features of a file's policy; its channels are those that the log has."""
    groups: list[PoolGroup] = []
    for pooled in file.spec.pool:
        if isinstance(pooled, FeatureSpec):
            groups.append(PoolGroup(pooled.trait, tuple(pooled.one_of or ())))
        elif pooled == CHANNEL:
            seen = {context.get(CHANNEL) for context in log.contexts}
            groups.append(PoolGroup(CHANNEL, tuple(sorted(value for value in seen if isinstance(value, str)))))
        else:
            groups.append(PoolGroup(f"segment {pooled}", (True, False)))
    return Featurizer(file.spec.features, groups, constant=KINDS[file.spec.kind].contextual)


def reward_features(log: Logged) -> Featurizer:
    """Features for a model of the reward, from what the log's contexts hold: 48 numbers at most.

    A number is scaled, text is one of its 16 commonest values; what is nearly always the same is left out.
    """
    weight = np.bincount(log.context, minlength=len(log.contexts))
    specs: list[FeatureSpec] = []
    left = 48
    for trait in dict.fromkeys(name for context in log.contexts for name in context):
        counts: dict[str | float | None, int] = {}
        for context, times in zip(log.contexts, weight.tolist(), strict=True):
            value = context.get(trait)
            counts[value] = counts.get(value, 0) + times
        if max(counts.values()) > 0.95 * len(log):
            continue
        values = [value for value in counts if value is not None]
        numbers = [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v)]
        if len(numbers) == len(values) and len(set(numbers)) > 1:
            spec, cost = FeatureSpec(trait=trait, range=[min(numbers), max(numbers)]), 1
        else:
            common = sorted((v for v in values if isinstance(v, str | bool)), key=lambda v: (-counts[v], str(v)))[:16]
            spec, cost = FeatureSpec(trait=trait, one_of=list(common)), len(common)
        if 0 < cost <= left:
            specs.append(spec)
            left -= cost
    return Featurizer(specs)


def _share(log: Logged, contexts: Sequence[bool]) -> float:
    """The share of the rows whose context is one of these."""
    return float(np.array(contexts)[log.context].mean())


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:6]))
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown or "none"
