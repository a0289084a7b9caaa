"""`GET /v1/due` hands out a channel's due messages; `POST /v1/due/confirm` takes their outcomes."""

from typing import Annotated

import msgspec

from engine.errors import StoreUnavailable, UnreadableValueError
from engine.service.auth import RequestGuard
from engine.service.due.confirm import Confirmation, Outcome, confirm_messages
from engine.service.due.desk import LEASE, DueDesk
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.problems import Refusal, decode_body, refuse_for_now
from engine.service.worker import Worker

AWAY = "the store is away; what was leased returns when its lease ends, ask again"
UNCONFIRMED = "the store is away and some messages are not confirmed; send the same report again"
MOST = 1000
LONGEST_LEASE = 86_400
DecisionIds = Annotated[list[Annotated[str, msgspec.Meta(max_length=200)]], msgspec.Meta(max_length=MOST)]


class ConfirmRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Outcomes by decision id: `sent`, `released` (due again) or `dropped` (never to be sent)."""

    sent: DecisionIds = []
    released: DecisionIds = []
    dropped: DecisionIds = []


class ConfirmAnswer(msgspec.Struct, frozen=True):
    """The state of each message.

    `expired`: it was handed out again since. `unknown`: it never was, or days ago. `contradictory`: it stands under two
    outcomes and is as before; report one.
    """

    results: dict[str, Confirmation]


_decoder = msgspec.json.Decoder(ConfirmRequest)
_encode = msgspec.json.Encoder().encode


def due_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """The routes of `/v1/due` and `/v1/due/confirm`."""
    desk = DueDesk(worker)

    async def hand_out(call: Call) -> Reply:
        query = call.query
        unknown = query.keys() - {"channel", "limit", "lease"}
        if unknown:
            name = min(unknown)
            raise Refusal(400, f"{name!r} is not a parameter; use channel, limit and lease", name)
        channel = query.get("channel", "")
        if channel not in worker.plan.outbound:
            channels = ", ".join(sorted(worker.plan.outbound)) or "(none; write `outbound: true` in channels.yaml)"
            detail = f"{channel!r} is not a channel that writes to customers; use one of {channels}"
            raise Refusal(400, detail, "channel")
        count = _number(query, "limit", 100, MOST)
        lease = _number(query, "lease", int(LEASE), LONGEST_LEASE)
        if call.is_head:
            return Reply(b"")
        try:
            return Reply(_encode(await desk.hand_out(channel, count, lease)))
        except (StoreUnavailable, UnreadableValueError):
            raise refuse_for_now(AWAY) from None

    async def confirm(call: Call) -> Reply:
        request = decode_body(_decoder, call.body)
        groups: list[tuple[Outcome, list[str]]] = [
            ("sent", request.sent),
            ("released", request.released),
            ("dropped", request.dropped),
        ]
        reported: dict[str, set[Outcome]] = {}
        for outcome, ids in groups:
            for id_ in ids:
                reported.setdefault(id_, set()).add(outcome)
        clear = [(id_, outcome) for id_, outcomes in reported.items() if len(outcomes) == 1 for outcome in outcomes]
        results: dict[str, Confirmation] = {id_: "contradictory" for id_, all_ in reported.items() if len(all_) > 1}
        try:
            return Reply(_encode(ConfirmAnswer(results | await confirm_messages(worker, clear))))
        except (StoreUnavailable, UnreadableValueError):
            raise refuse_for_now(UNCONFIRMED) from None

    return [
        endpoint("/v1/due", {"GET": hand_out}, limit=limit, guard=guard),
        endpoint("/v1/due/confirm", {"POST": confirm}, limit=limit, guard=guard),
    ]


def _number(query: dict[str, str], name: str, usual: int, most: int) -> int:
    """A whole number of the query, between 1 and `most`."""
    text = query.get(name)
    if text is None:
        return usual
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= most:
        raise Refusal(400, f"{text!r} is not a whole number from 1 to {most}; leave it out for {usual}", name)
    return int(text)
