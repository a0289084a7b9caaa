"""Policies as bytes and by name: what the learner publishes, and what YAML asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import msgspec
import numpy as np

from policies.base import Bandit
from policies.greedy import EpsilonGreedy
from policies.klucb import KLUCB
from policies.linear_thompson import LinearThompson
from policies.linucb import LinUCB
from policies.logistic import LogisticThompson
from policies.squarecb import SquareCB
from policies.thompson import BetaThompson, GaussianThompson, TopTwoThompson
from policies.uniform import Uniform

Traits = Mapping[str, tuple[float, ...]]
Parameter = bool | int | float | tuple[float, ...] | dict[str, tuple[float, ...]]
AnyBandit = TypeVar("AnyBandit", bound=Bandit)

KINDS: Mapping[str, type[Bandit]] = {
    policy.kind: policy
    for policy in (
        Uniform,
        EpsilonGreedy,
        KLUCB,
        BetaThompson,
        GaussianThompson,
        TopTwoThompson,
        LinUCB,
        LinearThompson,
        LogisticThompson,
        SquareCB,
    )
}
_OWN = {"arms", "dim", "seen", "statistics"}


class Array(msgspec.Struct, frozen=True, array_like=True):
    """One statistic: little-endian float64 bytes of this shape."""

    shape: tuple[int, ...]
    data: bytes


class PolicyState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a policy, as it is stored and sent."""

    kind: str
    arms: tuple[str, ...]
    dim: int
    seen: int
    parameters: dict[str, Parameter]
    statistics: dict[str, Array]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(PolicyState)


def make_policy(kind: str, arms: Sequence[str], dim: int = 0, **parameters: Parameter) -> Bandit:
    """A policy that has seen nothing, by its YAML kind.

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
    """Names of the parameters that a kind takes."""
    return [f.name for f in fields(KINDS[kind]) if f.name not in _OWN]


def dump_policy(policy: Bandit) -> bytes:
    """The policy as bytes; the same policy gives the same bytes."""
    statistics = {
        name: Array(value.shape, np.ascontiguousarray(value, "<f8").tobytes())
        for name, value in policy.statistics.items()
    }
    parameters = {name: getattr(policy, name) for name in parameters_of(policy.kind)}
    return _encoder.encode(PolicyState(policy.kind, policy.arms, policy.dim, policy.seen, parameters, statistics))


def load_policy(data: bytes) -> Bandit:
    """The policy that `dump` wrote, equal to the last bit.

    Raises:
        ValueError: bytes that hold no policy, or one whose statistics do not fit its arms.
    """
    state = _decoder.decode(data)
    empty = make_policy(state.kind, state.arms, state.dim, **state.parameters)
    shapes = empty.shapes()
    found = {name: array.shape for name, array in state.statistics.items()}
    if found != shapes:
        raise ValueError(f"statistics of {state.kind} have shapes {found}, its arms need {shapes}; publish it anew")
    statistics = {
        name: np.frombuffer(array.data, "<f8").reshape(array.shape) for name, array in state.statistics.items()
    }
    return replace(empty, seen=state.seen, statistics=statistics)


def with_arms(policy: AnyBandit, arms: Sequence[str], traits: Traits | None = None) -> AnyBandit:
    """The policy over a new set of arms: kept arms keep what they learnt.

    New arms start from the prior, in contextual policies from what arms of similar traits taught. `traits` replaces
    the policy's, for arms that it did not name.
    """
    if tuple(arms) == policy.arms and traits is None:
        return policy
    return policy.with_arms(tuple(arms), traits)


def merge_policies(a: AnyBandit, b: AnyBandit, base: AnyBandit) -> AnyBandit:
    """What two learners that both started from `base` know together: a + b - base, statistic by statistic.

    Exact without discount; with it, what `base` knew ages as if the two had learnt one after the other only
    approximately.

    Raises:
        ValueError: the three are not one policy.
    """
    if not (a.kind == b.kind == base.kind and a.arms == b.arms == base.arms and a.dim == b.dim == base.dim):
        raise ValueError(
            f"{a.kind} and {b.kind} from {base.kind} differ in kind, arms or dim; merge equal policies only"
        )
    statistics = {name: a.statistics[name] + b.statistics[name] - base.statistics[name] for name in base.statistics}
    return replace(a, seen=a.seen + b.seen - base.seen, statistics=statistics)
