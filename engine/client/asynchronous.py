"""The client for asyncio; every method works like its namesake in `Client`."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import httpx
import msgspec

from engine.client.messages import (
    RETRYABLE,
    ClientRequest,
    DecisionReply,
    Experiments,
    Flag,
    NoAnswer,
    check_arguments,
    click_item,
    consent_item,
    decide_request,
    event_request,
    exposures_request,
    read_decision,
    read_refused,
    read_status,
    rejection,
    retry_pause,
    value_or_default,
)
from engine.customer import CustomerIds


class AsyncClient:
    """`Client` for asyncio, with the same arguments, answers and errors. Use it in an `async with`.

    >>> async def layout(customer: CustomerIds) -> str:
    ...     async with AsyncClient("http://127.0.0.1:9") as shop:
    ...         decision = await shop.decide(customer, experiments=["checkout_layout"])
    ...     return decision.variant("checkout_layout", "control")
    >>> asyncio.run(layout(CustomerIds(user_id="u-1")))
    'control'
    """

    def __init__(
        self, url: str, *, channel: str = "web", key: str | None = None, timeout: float = 0.25, retries: int = 1
    ) -> None:
        check_arguments(url, timeout, retries)
        self.channel = channel
        self.timeout = timeout
        self.retries = retries
        self._http = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"} if key else {})

    async def decide(
        self,
        customer: CustomerIds,
        *,
        placements: Sequence[str] = (),
        experiments: Experiments = (),
        context: Mapping[str, object] | None = None,
        expose: bool = True,
        fallback: DecisionReply | None = None,
        proof: str = "",
        preview: str = "",
    ) -> DecisionReply:
        """Decide what to show; the fallback if the engine does not answer in time."""
        request = decide_request(
            customer, self.channel, placements, experiments, context or {}, expose=expose, preview=preview
        )
        try:
            return read_decision(await self._send(request, proof))
        except NoAnswer:
            return fallback or DecisionReply()

    async def flag(
        self,
        key: str,
        default: Flag,
        customer: CustomerIds,
        *,
        context: Mapping[str, object] | None = None,
        proof: str = "",
        preview: str = "",
    ) -> Flag:
        """The value of a flag, or the default."""
        decision = await self.decide(customer, experiments=[key], context=context, proof=proof, preview=preview)
        return value_or_default(decision, key, default)

    async def expose(
        self,
        decision_id: str,
        *,
        placements: Sequence[str] | None = None,
        experiments: Sequence[str] | None = None,
        proof: str = "",
    ) -> dict[str, str]:
        """Report an exposure; the placements whose offer was refused, each with the reason."""
        return read_refused(await self._send(exposures_request(decision_id, placements, experiments), proof))

    async def track(
        self,
        customer: CustomerIds,
        event: str,
        properties: Mapping[str, object] | None = None,
        *,
        decision_id: str | None = None,
        proof: str = "",
    ) -> bool:
        """Report an event of the customer; True if it counted now, False if an earlier attempt did."""
        item = {"type": "track", "event": event, "properties": properties or {}, "decision_id": decision_id}
        return read_status(await self._send(event_request(customer, self.channel, item), proof))

    async def identify(self, customer: CustomerIds, traits: Mapping[str, object], *, proof: str = "") -> bool:
        """Report ids and traits of the customer; the answer is that of `track`."""
        request = event_request(customer, self.channel, {"type": "identify", "traits": traits})
        return read_status(await self._send(request, proof))

    async def click(self, customer: CustomerIds, decision: DecisionReply, placement: str, *, proof: str = "") -> bool:
        """Report a click on the offer that the decision has for a placement. Answer and errors are those of `track`."""
        request = event_request(customer, self.channel, click_item(decision, placement))
        return read_status(await self._send(request, proof))

    async def login(
        self, customer: CustomerIds, user_id: str, traits: Mapping[str, object] | None = None, *, proof: str = ""
    ) -> CustomerIds:
        """Bind a visitor to a customer: what they saw and did before is that customer's. Errors are those of `track`.

        Returns:
            The ids to use from now on; `proof` is theirs.
        """
        known = msgspec.structs.replace(customer, user_id=user_id)
        await self.identify(known, traits or {}, proof=proof)
        return known

    async def consent(self, customer: CustomerIds, purpose: str, *, granted: bool, proof: str = "") -> bool:
        """Report that the customer grants or withdraws a consent. Answer and errors are those of `track`."""
        request = event_request(customer, self.channel, consent_item(purpose, granted=granted))
        return read_status(await self._send(request, proof))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, request: ClientRequest, proof: str) -> bytes:
        """Send a request, retry it after transient failures until the call's time is over; the answer's body."""
        headers = {**request.headers, "x-customer-proof": proof} if proof else request.headers
        deadline = time.monotonic() + self.timeout
        for attempt in range(self.retries + 1):
            # An attempt gets an even share of the time that is left, so that a silent server leaves time for the next.
            share = max(0.001, (deadline - time.monotonic()) / (self.retries + 1 - attempt))
            retry_after = ""
            try:
                answer = await self._http.post(request.path, content=request.body, headers=headers, timeout=share)
            except httpx.TransportError as error:
                why = f"{type(error).__name__} {error}"
            else:
                if answer.is_success:
                    return answer.content
                if answer.status_code not in RETRYABLE:
                    raise rejection(answer.status_code, answer.content)
                why = f"it answered {answer.status_code}"
                retry_after = answer.headers.get("retry-after", "")
            pause = retry_pause(attempt, retry_after, deadline - time.monotonic())
            if pause is None:
                break
            if attempt < self.retries:
                await asyncio.sleep(pause)
        raise NoAnswer(f"{self._http.base_url}{request.path}: no answer within {self.timeout:g} s ({why})")
