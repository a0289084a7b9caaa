"""The states of a decision between request and answer, and steps over many decisions (`decision_flow`)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from engine.catalog.spec.identifiers import describe_absent, present_ids
from engine.catalog.spec.units import Unit
from engine.customer import CustomerIds, Profile
from engine.customers.redis.keys import strongest_identifier
from engine.customers.store import FetchedCustomer
from engine.decision.decision import Availability, DecideRequest, Decision
from engine.decision.units import read_store
from engine.errors import BadInput
from engine.service.idempotency import PreparedAnswer
from engine.service.ids import tag_customer


class DecisionTask(msgspec.Struct, frozen=True, kw_only=True):
    """A request to decide at `now` (s since 1970); `is_public` if a publishable key gets the answer.

    `deadline` is when it stops waiting for the store (s, of the event loop's clock); None for a budget of its own.
    `warnings` go into the answer.
    """

    request: DecideRequest
    now: float
    decision_id: str
    is_public: bool = False
    deadline: float | None = None
    warnings: list[str] = []


class FetchedTask(msgspec.Struct, frozen=True):
    """A task whose customer was read."""

    task: DecisionTask
    customer: FetchedCustomer
    availability: Availability


class DecidedTask(msgspec.Struct, frozen=True):
    """A task with its decision; `fetched` is None if the decision was made without the store."""

    task: DecisionTask
    decision: Decision
    fetched: FetchedTask | None


class PreparedTask(msgspec.Struct, frozen=True):
    """A decision whose answer is encoded; its records are not in the spool yet."""

    decision: Decision
    answer: PreparedAnswer


class FailedTask(msgspec.Struct, frozen=True):
    """A task that ended with an error of the request or of the engine."""

    error: Exception


Read = FetchedTask | DecidedTask | FailedTask
Decided = DecidedTask | FailedTask
Prepared = PreparedTask | FailedTask
In = TypeVar("In")
Out = TypeVar("Out")


def new_task(
    request: DecideRequest,
    now: float,
    decision_id: str,
    placeholders: Collection[str] = (),
    *,
    is_public: bool = False,
    deadline: float | None = None,
) -> DecisionTask:
    """The task of a request, whose customer's placeholders are removed.

    A request that names no customer but a store, as a sign or a kiosk sends it, is decided for the store. Raises
    BadInput if every identifier is a placeholder.
    """
    customer = present_ids(request.customer, placeholders)
    absent = [] if customer is request.customer else describe_absent(request.customer, customer)
    request = replace(request, customer=customer) if absent else request
    store = read_store(request.context, placeholders)
    nobody = request.customer == CustomerIds()
    if nobody and store is not None:
        request = replace(request, customer=unit_as_customer("store", store))
    elif absent and customer == CustomerIds():
        raise BadInput(f"customer: no identifier is left; {'; '.join(absent)}")
    return DecisionTask(
        request=request,
        now=now,
        decision_id=tag_customer(decision_id, request.customer),
        is_public=is_public,
        deadline=deadline,
        warnings=absent,
    )


def unit_as_customer(unit: Unit, name: str) -> CustomerIds:
    """The identifiers of a store or other unit, which stand in for a customer if the request names none."""
    return CustomerIds(device_id=f"{unit}:{name}")


def unknown_profile(ids: CustomerIds) -> Profile:
    """The profile used while the store is away; it has only the strongest identifier.

    Raises:
        BadInput: if no identifier is given.
    """
    name = strongest_identifier(ids)
    return Profile(id=name, unit=name)


def result_of(outcome: Out | FailedTask) -> Out:
    """The task's result, or raise the error that ended it."""
    if isinstance(outcome, FailedTask):
        raise outcome.error
    return outcome


def attempt(step: Callable[[In], Out], task: In) -> Out | FailedTask:
    """Run a step; an error becomes the task's outcome, so that it fails only this request."""
    try:
        return step(task)
    except Exception as error:  # noqa: BLE001 (it ends this request; the others go on)
        return FailedTask(error)


def each(step: Callable[[In], Out], tasks: Sequence[In | FailedTask]) -> list[Out | FailedTask]:
    """Run a step on every task that has not failed."""
    return [task if isinstance(task, FailedTask) else attempt(step, task) for task in tasks]


async def each_async(step: Callable[[In], Awaitable[Out]], tasks: Sequence[In | FailedTask]) -> list[Out | FailedTask]:
    """Run as `each` does, with several steps at a time, so that their writes share round trips."""

    async def attempt_async(task: In | FailedTask) -> Out | FailedTask:
        if isinstance(task, FailedTask):
            return task
        try:
            return await step(task)
        except Exception as error:  # noqa: BLE001 (it ends this request; the others go on)
            return FailedTask(error)

    if len(tasks) == 1:  # a task of the event loop costs more than the step itself
        return [await attempt_async(tasks[0])]
    return await asyncio.gather(*map(attempt_async, tasks))
