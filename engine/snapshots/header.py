"""The stored form of a snapshot, and whether it fits the plan that would use it.

A snapshot is one header line, a newline and the policy's bytes. The header reads
`VERSION TIME LEARNT MEANING DIGEST`, separated by spaces; the digest is that of the policy's bytes.
"""

import warnings
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import msgspec
import numpy as np

from engine.catalog.plan.plan import Selection
from engine.errors import BadInput
from policies import Bandit, load_policy, with_arms
from policies.linear.regression import Linear

_TOLERANCE = 1e-6
_MOST = 2.0**53
"""Above it neither Lua nor JSON has every whole number; `publish.lua` has the same limit."""


class Header(NamedTuple):
    """The header of a snapshot: `time` in seconds since 1970, `learnt` the total weight of observations so far.

    `meaning` is `meaning_of` the selection that the policy was learnt for.
    """

    version: int
    time: float
    learnt: float
    meaning: str
    digest: str

    @classmethod
    def of(cls, version: int, at: float, learnt: float, meaning: str, blob: bytes) -> "Header":
        """The header of a policy's bytes."""
        return cls(version, at, learnt, meaning, _digest(blob))

    def line(self) -> bytes:
        """The header in stored form."""
        return f"{self.version} {self.time!r} {self.learnt!r} {self.meaning} {self.digest}".encode()


class StoredSnapshot(NamedTuple):
    """A snapshot read from the store."""

    header: Header
    blob: bytes


def meaning_of(selection: Selection) -> str:
    """A digest of the meaning of a policy's numbers: its kind, features and groups, and its reward.

    Floor and discount are left out: changing them does not change what was learnt.
    """
    policy = msgspec.structs.replace(selection.policy, floor=0.0, discount=1.0)
    metric = selection.reward.metric
    groups = [(group.name, group.values) for group in selection.features.groups]
    defines = (policy, groups, metric.event, metric.kind, metric.value, metric.filter)
    return blake2b(msgspec.json.encode(defines), digest_size=6).hexdigest()


def align_policy(policy: Bandit, selection: Selection, arms: tuple[str, ...] | None = None) -> Bandit:
    """The learnt policy over the plan's arms (or over `arms`), with the plan's floor and discount.

    Raises:
        ValueError: if its kind or its number of dimensions differs from the plan's.
    """
    prior = prior_of(selection)
    if policy.kind != prior.kind or policy.dim != prior.dim:
        raise ValueError(
            f"{selection.key}: the snapshot is a {policy.kind} of {policy.dim} dimensions, the plan asks for "
            f"{prior.kind} of {prior.dim}; the learner publishes one that fits"
        )
    traits = None
    if isinstance(policy, Linear) and isinstance(prior, Linear) and prior.traits.items() - policy.traits.items():
        traits = {**policy.traits, **prior.traits}
    return replace(with_arms(policy, arms or prior.arms, traits), floor=prior.floor, discount=prior.discount)


def prior_of(selection: Selection) -> Bandit:
    """The policy with which a selection starts.

    Raises:
        TypeError: if the plan holds a policy that is not of `policies`, which cannot be stored.
    """
    if not isinstance(selection.prior, Bandit):
        raise TypeError(f"{selection.key}: {type(selection.prior).__name__} cannot be stored; make it with policies")
    return selection.prior


def parse_header(line: bytes) -> Header:
    """The header in a line.

    Raises:
        ValueError: if the line is no header, or a number in it is none that a learner wrote.
    """
    version, at, learnt, meaning, digest = line.decode().split(" ")
    header = Header(int(version), float(at), float(learnt), meaning, digest)
    if not 0 <= header.version <= _MOST or not 0 <= header.time <= _MOST or not 0 <= header.learnt <= _MOST:
        raise ValueError(f"version {version:.40}, time {at:.40} or weight {learnt:.40} is out of range")
    return header


def parse_snapshot(key: str, value: bytes) -> StoredSnapshot:
    """The snapshot of selection `key` in stored bytes, its digest checked.

    Raises:
        BadInput: if header or digest does not fit.
    """
    line, _, blob = value.partition(b"\n")
    try:
        header = parse_header(line)
    except ValueError as error:
        raise BadInput(f"the snapshot of {key} has no header ({line[:60]!r}); roll back to an earlier one") from error
    if header.digest != _digest(blob):
        raise BadInput(f"{key}@{header.version} does not have the digest it was published with; roll back")
    return StoredSnapshot(header, blob)


def load_usable_policy(blob: bytes) -> Bandit:
    """The policy in a snapshot's bytes, after a trial, since altered statistics may give no probabilities.

    Raises:
        ValueError: if the bytes are no policy, or it cannot choose.
    """
    try:
        policy = load_policy(blob)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chances = policy.probabilities(np.zeros(policy.dim))
    except (ArithmeticError, LookupError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise ValueError(f"the bytes are not a policy that can choose: {error}") from error
    if not all(np.isfinite(array).all() for array in policy.statistics.values()) or not np.isfinite(chances).all():
        raise ValueError("the policy's statistics are not finite")
    least = float(policy.statistics.get("count", np.zeros(1)).min(initial=0.0))
    if least < 0:
        raise ValueError(f"the policy's `count` has {least:g}; a number of observations is at least 0")
    if (chances < 0).any() or abs(chances.sum() - 1) > _TOLERANCE:
        raise ValueError(f"the policy's probabilities are {chances.tolist()}, which do not sum to 1")
    return policy


def _digest(blob: bytes) -> str:
    """A digest of a snapshot's bytes, which detects a torn or foreign value."""
    return blake2b(blob, digest_size=16).hexdigest()
