"""Writes a report's traits to the profiles of a running engine, by identify events."""

from collections.abc import Iterator, Mapping
from itertools import islice
from urllib.parse import quote

import httpx

from engine.errors import BadInput
from engine.hashing import bucket

BATCH = 100
SECONDS = 30.0


def send_traits(traits: Mapping[str, Mapping[str, object]], server: str, key: str | None) -> int:
    """Send each customer's traits; returns the number of customers whose profile has them.

    A customer that the server does not know is left out: they were erased, or are of another shop. Sending the same
    values twice writes them once.

    Raises:
        BadInput: if the server does not answer, or refuses.
    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    written = 0
    try:
        with httpx.Client(base_url=server, headers=headers, timeout=SECONDS) as client:
            items = _items(client, traits)
            while batch := list(islice(items, BATCH)):
                answer = client.post("/v1/events", json={"batch": batch})
                _check(answer, server)
                written += sum(one["status"] != "rejected" for one in answer.json()["statuses"])
    except httpx.HTTPError as error:
        raise BadInput(f"--server {server}: does not answer ({error}); start it with counterpoint up") from error
    return written


def _items(client: httpx.Client, traits: Mapping[str, Mapping[str, object]]) -> Iterator[dict[str, object]]:
    for customer, values in traits.items():
        answer = client.get(f"/v1/profiles/{quote(customer, safe='')}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            continue
        _check(answer, str(client.base_url))
        kinds = answer.json()["identifiers"]
        kind = next((kind for kind, names in kinds.items() if customer in names), None)
        if kind is not None:
            stamp = bucket(customer, repr(sorted(values.items())))
            yield {"type": "identify", "message_id": f"measure-{customer}-{stamp}", kind: customer, "traits": values}


def _check(answer: httpx.Response, server: str) -> None:
    if answer.is_error:
        detail = answer.json().get("detail", "") if "json" in answer.headers.get("content-type", "") else ""
        raise BadInput(
            f"--server {server}: refused with {answer.status_code} {detail}; give a --key of the role server"
        )
