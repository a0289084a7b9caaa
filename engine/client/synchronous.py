"""The client that waits."""

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


class Client:
    """The engine at one address, for one channel. Thread-safe; close it, or use it in a `with`.

    `timeout` is for all attempts of a call together, seconds; `retries` more attempts follow one that failed, with the
    same bytes and keys, so that nothing counts twice. A `proof` goes with a publishable key: see `prove`.

    Raises:
        BadInput: if `url` is no address, `timeout` not above 0 or `retries` below it.
    """

    def __init__(
        self, url: str, *, channel: str = "web", key: str | None = None, timeout: float = 0.25, retries: int = 1
    ) -> None:
        check_client(url, timeout, retries)
        self.channel = channel
        self.timeout = timeout
        self.retries = retries
        self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"} if key else {})

    def decide(
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
        """What to show; `fallback` (an empty decision, `degraded`) if the engine does not answer in time.

        >>> decision = Client("http://127.0.0.1:9").decide(CustomerIds(user_id="u-1"), experiments=["checkout_layout"])
        >>> decision.degraded, decision.variant("checkout_layout", "control")
        (True, 'control')

        Raises:
            Rejected: if the request is wrong.
        """
        message = deciding(customer, self.channel, placements, experiments, context or {}, expose=expose)
        try:
            return decided(self._send(message, proof))
        except NoAnswer:
            return fallback or DecisionReply()

    def flag(
        self,
        key: str,
        default: Flag,
        customer: CustomerIds,
        *,
        context: Mapping[str, object] | None = None,
        proof: str = "",
    ) -> Flag:
        """The value of a flag or experiment for the customer, who now counts as having seen it.

        >>> Client("http://127.0.0.1:9").flag("dark_mode", False, CustomerIds(user_id="u-1"))
        False

        Raises:
            Rejected: if the request is wrong. Not if the flag is missing or of another type than `default`.
        """
        return flag_value(self.decide(customer, experiments=[key], context=context, proof=proof), key, default)

    def expose(
        self, decision_id: str, *, placements: Sequence[str] | None = None, experiments: Sequence[str] | None = None
    ) -> dict[str, str]:
        """Tell that the customer sees what was decided with `expose=False`: all of it, or what is named.

        Returns the placements whose offer cannot be had any more (its cap, stock or budget is used up), each with the
        reason; the shop shows its own fallback there.

        Raises:
            Rejected: if there is no such decision.
            NoAnswer: if it could not be told in time.
        """
        return withheld(self._send(exposing(decision_id, placements, experiments), ""))

    def track(
        self,
        customer: CustomerIds,
        event: str,
        properties: Mapping[str, object] | None = None,
        *,
        decision_id: str | None = None,
        proof: str = "",
    ) -> bool:
        """Tell what the customer did; True if it was counted now, False if an earlier attempt was.

        Raises:
            Rejected: if the event is wrong.
            NoAnswer: if it could not be told in time; it may be told again.
        """
        item = {"type": "track", "event": event, "properties": properties or {}, "decision_id": decision_id}
        return accepted(self._send(telling(customer, self.channel, item), proof))

    def identify(self, customer: CustomerIds, traits: Mapping[str, object], *, proof: str = "") -> bool:
        """Tell who the customer is and what they are like. Answer and errors as in `track`."""
        message = telling(customer, self.channel, {"type": "identify", "traits": traits})
        return accepted(self._send(message, proof))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: ClientRequest, proof: str) -> bytes:
        headers = {**message.headers, "x-customer-proof": proof} if proof else message.headers
        deadline = time.monotonic() + self.timeout
        for attempt in range(self.retries + 1):
            share = max(0.001, (deadline - time.monotonic()) / (self.retries + 1 - attempt))
            retry_after = ""
            try:
                answer = self._http.post(message.path, content=message.body, headers=headers, timeout=share)
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
                time.sleep(pause)
        raise NoAnswer(f"{self._http.base_url}{message.path}: no answer within {self.timeout:g} s ({why})")
