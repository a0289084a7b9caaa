"""The client for asyncio; each method as its namesake in `Client`."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import httpx

from engine.client.messages import (
    AGAIN,
    ClientRequest,
    DecisionReply,
    Experiments,
    Flag,
    NoAnswer,
    accepted,
    check_client,
    decided,
    deciding,
    exposing,
    flag_value,
    pause_after,
    refused,
    telling,
    withheld,
)
from engine.customer import CustomerIds


class AsyncClient:
    """`Client` for asyncio: the same arguments, answers and errors. Use it in an `async with`.

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
        check_client(url, timeout, retries)
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
    ) -> DecisionReply:
        """What to show, or the fallback."""
        message = deciding(customer, self.channel, placements, experiments, context or {}, expose=expose)
        try:
            return decided(await self._send(message, proof))
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
    ) -> Flag:
        """The value of a flag, or the default."""
        decision = await self.decide(customer, experiments=[key], context=context, proof=proof)
        return flag_value(decision, key, default)

    async def expose(
        self, decision_id: str, *, placements: Sequence[str] | None = None, experiments: Sequence[str] | None = None
    ) -> dict[str, str]:
        """Tell what the customer sees, and hear where its offer cannot be had any more."""
        return withheld(await self._send(exposing(decision_id, placements, experiments), ""))

    async def track(
        self,
        customer: CustomerIds,
        event: str,
        properties: Mapping[str, object] | None = None,
        *,
        decision_id: str | None = None,
        proof: str = "",
    ) -> bool:
        """Tell what the customer did."""
        item = {"type": "track", "event": event, "properties": properties or {}, "decision_id": decision_id}
        return accepted(await self._send(telling(customer, self.channel, item), proof))

    async def identify(self, customer: CustomerIds, traits: Mapping[str, object], *, proof: str = "") -> bool:
        """Tell who the customer is."""
        message = telling(customer, self.channel, {"type": "identify", "traits": traits})
        return accepted(await self._send(message, proof))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, message: ClientRequest, proof: str) -> bytes:
        headers = {**message.headers, "x-customer-proof": proof} if proof else message.headers
        deadline = time.monotonic() + self.timeout
        for attempt in range(self.retries + 1):
            share = max(0.001, (deadline - time.monotonic()) / (self.retries + 1 - attempt))
            retry_after = ""
            try:
                answer = await self._http.post(message.path, content=message.body, headers=headers, timeout=share)
            except httpx.TransportError as error:
                why = f"{type(error).__name__} {error}"
            else:
                if answer.is_success:
                    return answer.content
                if answer.status_code not in AGAIN:
                    raise refused(answer.status_code, answer.content)
                why = f"it answered {answer.status_code}"
                retry_after = answer.headers.get("retry-after", "")
            pause = pause_after(attempt, retry_after, deadline - time.monotonic())
            if pause is None:
                break
            if attempt < self.retries:
                await asyncio.sleep(pause)
        raise NoAnswer(f"{self._http.base_url}{message.path}: no answer within {self.timeout:g} s ({why})")
