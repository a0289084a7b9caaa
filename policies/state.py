"""Policies by name and as bytes: built from YAML, published by the learner, combined from two learners.

A state is one msgpack map, `PolicyState`. Its statistics are little-endian float64 arrays with their shapes, so that a
policy read on another machine is equal to the last bit. Names of kinds, parameters and statistics are stored: a renamed
one is a new format, and the servers would go back to the prior.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import msgspec
import numpy as np

from policies.base import Bandit
from policies.kinds import KINDS

Traits = Mapping[str, tuple[float, ...]]
"""Traits of arms by their names, all of one length."""
Parameter = bool | int | float | tuple[float, ...] | dict[str, tuple[float, ...]]
AnyBandit = TypeVar("AnyBandit", bound=Bandit)

_NOT_PARAMETERS = {"arms", "dim", "seen", "statistics"}
_ADDED: Mapping[str, Parameter] = {"scaling": (), "trait_scaling": ()}
"""Parameters that earlier releases did not store, with the value that stands for their absence and is not stored."""


class Array(msgspec.Struct, frozen=True, array_like=True):
    """One statistic: little-endian float64 bytes of this shape."""

    shape: tuple[int, ...]
    data: bytes


class PolicyState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The complete state of a policy, as it is stored and sent."""

    kind: str
    arms: tuple[str, ...]
    dim: int
    seen: int
    parameters: dict[str, Parameter]
    statistics: dict[str, Array]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(PolicyState)


def make_policy(kind: str, arms: Sequence[str], dim: int = 0, **parameters: Parameter) -> Bandit:
    """A policy without observations, by its YAML kind.

    >>> make_policy("beta_thompson", ["a", "b"], floor=0.01).probabilities()
    array([0.5, 0.5])

    Args:
        kind: one of `KINDS`.
        arms: distinct names, at least one.
        dim: length of a context; a policy without context ignores it.
        parameters: those of `parameters_of(kind)`; the others have their defaults.

    Raises:
        ValueError: a kind or parameter that does not exist, with those that do, or a value out of its range.
    """
    if kind not in KINDS:
        raise ValueError(f"policy kind {kind!r} does not exist; choose one of {', '.join(KINDS)}")
    known = parameters_of(kind)
    for name in parameters:
        if name not in known:
            raise ValueError(f"{kind} has no parameter {name!r}; it has {', '.join(known)}")
    policy = KINDS[kind]
    return policy(tuple(arms), dim if policy.contextual else 0, **parameters)  # type: ignore[arg-type] # checked by name above, by value in __post_init__


def parameters_of(kind: str) -> list[str]:
    """Names of the parameters of a kind."""
    return [field.name for field in fields(KINDS[kind]) if field.name not in _NOT_PARAMETERS]


def dump_policy(policy: Bandit) -> bytes:
    """The policy as bytes; equal policies give equal bytes."""
    statistics = {
        name: Array(value.shape, np.ascontiguousarray(value, "<f8").tobytes())
        for name, value in policy.statistics.items()
    }
    state = PolicyState(
        kind=policy.kind,
        arms=policy.arms,
        dim=policy.dim,
        seen=policy.seen,
        parameters={
            name: value for name in parameters_of(policy.kind) if (value := getattr(policy, name)) != _ADDED.get(name)
        },
        statistics=statistics,
    )
    return _encoder.encode(state)


def load_policy(data: bytes) -> Bandit:
    """The policy that `dump_policy` wrote, equal to the last bit.

    Raises:
        ValueError: the bytes are not a policy, or its statistics do not fit its arms.
    """
    state = _decoder.decode(data)
    empty = make_policy(state.kind, state.arms, state.dim, **state.parameters)
    shapes = empty.shapes()
    found = {name: array.shape for name, array in state.statistics.items()}
    if found != shapes:
        raise ValueError(
            f"statistics of {state.kind} have shapes {found}, its arms need {shapes}; "
            "was the state written by another release? publish it again"
        )
    statistics = {
        name: np.frombuffer(array.data, "<f8").reshape(array.shape) for name, array in state.statistics.items()
    }
    return replace(empty, seen=state.seen, statistics=statistics)


def with_arms(policy: AnyBandit, arms: Sequence[str], traits: Traits | None = None) -> AnyBandit:
    """The policy over a new set of arms; an arm in both sets keeps what it learnt.

    New arms start from the prior, in contextual policies from what arms with similar traits taught. `traits` replaces
    the policy's own, for arms that it did not have.
    """
    if tuple(arms) == policy.arms and traits is None:
        return policy
    return policy.with_arms(tuple(arms), traits)


def merge_policies(a: AnyBandit, b: AnyBandit, base: AnyBandit) -> AnyBandit:
    """The combined knowledge of two learners that both started from `base`: a + b - base, statistic by statistic.

    Parameters are those of the one with more observations; what is estimated from the statistics is estimated again.
    Exact without discount. With one, the knowledge of `base` ages only approximately as if the two had learnt one after
    the other.

    Raises:
        ValueError: the three differ in kind, arms or dim.
    """
    if not (a.kind == b.kind == base.kind and a.arms == b.arms == base.arms and a.dim == b.dim == base.dim):
        raise ValueError(
            f"{a.kind} and {b.kind} from {base.kind} differ in kind, arms or dim; merge equal policies only"
        )
    statistics = {name: a.statistics[name] + b.statistics[name] - base.statistics[name] for name in base.statistics}
    larger = a if a.seen >= b.seen else b
    return replace(larger, seen=a.seen + b.seen - base.seen, statistics=statistics).after_merge()
