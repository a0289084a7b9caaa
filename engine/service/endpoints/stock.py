"""`/v1/stock/{sku}`: how many there are of a SKU, set by the shop's back office, and how many are left."""

import math
import time
from typing import Annotated

import msgspec

from engine.claims.claims import Claims, PoolShare
from engine.errors import StoreUnavailable
from engine.journal.records import EventRecord
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.problems import Refusal, decode_body, refuse_for_now
from engine.service.worker import Worker
from engine.vocabulary import STOCK_LEVEL

AWAY = "the store is away and nothing is changed; send it again"
HIGHEST = 1e9


class StockLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stock as counted on the shelves, without what was sold before the count."""

    level: Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": HIGHEST})]


class Stock(msgspec.Struct, frozen=True):
    """The rest of a stock: items neither sold since the count nor held for a customer."""

    sku: str
    left: float


_decoder = msgspec.json.Decoder(StockLevel)
_encode = msgspec.json.Encoder().encode


def stock_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`POST` and `GET /v1/stock/{sku}`. They wait as long for the store as events do, not as short as a decision."""
    claims = Claims(worker.event_store.pipeline)

    async def set_level(call: Call) -> Reply:
        sku = str(call.path["sku"])
        level = decode_body(_decoder, call.body).level
        if not 0 <= level <= HIGHEST or not math.isfinite(level):
            raise Refusal(400, f"{level} is not between 0 and {HIGHEST:g}; send the number of items in stock", "level")
        now = time.time()
        try:
            await claims.set_stock(sku, level, now)
        except StoreUnavailable:
            raise refuse_for_now(AWAY) from None
        record = EventRecord(
            message_id=f"stock-{new_id(now)}",
            time=now,
            received=now,
            customer="",
            event=STOCK_LEVEL,
            decision_id=None,
            channel=None,
            revenue=None,
            properties=_encode({"sku": sku, "level": level, "by": call.caller.name}),
        )
        worker.recorder.append([record])
        return await read_left(sku)

    async def get_left(call: Call) -> Reply:
        return await read_left(str(call.path["sku"]))

    async def read_left(sku: str) -> Reply:
        try:
            left = await claims.read_remaining(PoolShare(pool="stock", name=sku), time.time())
        except StoreUnavailable:
            raise refuse_for_now(AWAY) from None
        return Reply(_encode(Stock(sku, left)))

    return [endpoint("/v1/stock/{sku:str}", {"GET": get_left, "POST": set_level}, limit=limit, guard=guard)]
