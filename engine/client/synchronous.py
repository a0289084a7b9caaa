"""The blocking client."""

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


class Client:
    """A client of the engine at one address, for one channel. Thread-safe; close it, or use it in a `with`.

    Args:
        url: the engine's address.
        channel: the channel of all requests.
        key: an API key. A publishable one needs the `proof` of the customer in every call: see `prove`.
        timeout: seconds for all attempts of a call together.
        retries: attempts after the first, with the same bytes and keys, so that nothing counts twice.

    Raises:
        BadInput: if `url` is not an address, `timeout` not above 0 or `retries` below 0.
    """

    def __init__(
        self, url: str, *, channel: str = "web", key: str | None = None, timeout: float = 0.25, retries: int = 1
    ) -> None:
        check_arguments(url, timeout, retries)
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
        preview: str = "",
    ) -> DecisionReply:
        """Decide what to show; `fallback` (an empty, `degraded` decision) if the engine does not answer in time.

        With `preview`, a token of `counterpoint preview --link`, the customer sees what it forces, and nothing is
        logged or counted.

        >>> decision = Client("http://127.0.0.1:9").decide(CustomerIds(user_id="u-1"), experiments=["checkout_layout"])
        >>> decision.degraded, decision.variant("checkout_layout", "control")
        (True, 'control')

        Raises:
            Rejected: if the engine rejects the request, or the token was altered or has expired.
        """
        request = decide_request(
            customer, self.channel, placements, experiments, context or {}, expose=expose, preview=preview
        )
        try:
            return read_decision(self._send(request, proof))
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
        preview: str = "",
    ) -> Flag:
        """The value of a flag or experiment for the customer, which counts as an exposure; `preview` as in `decide`.

        >>> Client("http://127.0.0.1:9").flag("dark_mode", False, CustomerIds(user_id="u-1"))
        False

        Raises:
            Rejected: if the engine rejects the request. Not for a flag that is missing or of another type.
        """
        decision = self.decide(customer, experiments=[key], context=context, proof=proof, preview=preview)
        return value_or_default(decision, key, default)

    def expose(
        self,
        decision_id: str,
        *,
        placements: Sequence[str] | None = None,
        experiments: Sequence[str] | None = None,
        proof: str = "",
    ) -> dict[str, str]:
        """Report that the customer saw what was decided with `expose=False`: all of it, or the named parts.

        A publishable key needs the `proof` that the decision was asked with.

        Returns:
            The placements whose offer was refused because its cap, stock or budget is used up, each with the reason;
            the shop shows its own fallback there.

        Raises:
            Rejected: if there is no such decision.
            NoAnswer: if the engine did not answer in time.
        """
        return read_refused(self._send(exposures_request(decision_id, placements, experiments), proof))

    def track(
        self,
        customer: CustomerIds,
        event: str,
        properties: Mapping[str, object] | None = None,
        *,
        decision_id: str | None = None,
        proof: str = "",
    ) -> bool:
        """Report an event of the customer; True if it counted now, False if an earlier attempt did.

        Raises:
            Rejected: if the engine rejects the event.
            NoAnswer: if the engine did not answer in time. A new call has a new message id, so that both may count.
        """
        item = {"type": "track", "event": event, "properties": properties or {}, "decision_id": decision_id}
        return read_status(self._send(event_request(customer, self.channel, item), proof))

    def identify(self, customer: CustomerIds, traits: Mapping[str, object], *, proof: str = "") -> bool:
        """Report ids and traits of the customer. Answer and errors are those of `track`."""
        request = event_request(customer, self.channel, {"type": "identify", "traits": traits})
        return read_status(self._send(request, proof))

    def click(self, customer: CustomerIds, decision: DecisionReply, placement: str, *, proof: str = "") -> bool:
        """Report a click on the offer that the decision has for a placement. Answer and errors are those of `track`."""
        request = event_request(customer, self.channel, click_item(decision, placement))
        return read_status(self._send(request, proof))

    def login(
        self, customer: CustomerIds, user_id: str, traits: Mapping[str, object] | None = None, *, proof: str = ""
    ) -> CustomerIds:
        """Bind a visitor to a customer: what they saw and did before is that customer's. Errors are those of `track`.

        Returns:
            The ids to use from now on; `proof` is theirs.
        """
        known = msgspec.structs.replace(customer, user_id=user_id)
        self.identify(known, traits or {}, proof=proof)
        return known

    def consent(self, customer: CustomerIds, purpose: str, *, granted: bool, proof: str = "") -> bool:
        """Report that the customer grants or withdraws a consent. Answer and errors are those of `track`."""
        request = event_request(customer, self.channel, consent_item(purpose, granted=granted))
        return read_status(self._send(request, proof))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: ClientRequest, proof: str) -> bytes:
        """Send a request, retry it after transient failures until the call's time is over; the answer's body."""
        headers = {**request.headers, "x-customer-proof": proof} if proof else request.headers
        deadline = time.monotonic() + self.timeout
        for attempt in range(self.retries + 1):
            # An attempt gets an even share of the time that is left, so that a silent server leaves time for the next.
            share = max(0.001, (deadline - time.monotonic()) / (self.retries + 1 - attempt))
            retry_after = ""
            try:
                answer = self._http.post(request.path, content=request.body, headers=headers, timeout=share)
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
                time.sleep(pause)
        raise NoAnswer(f"{self._http.base_url}{request.path}: no answer within {self.timeout:g} s ({why})")
