"""How much there is of what an offer needs, as the shop's back office tells it."""

import math
import time

import msgspec

from engine.claims.claims import PoolShare
from engine.errors import StoreUnavailable
from engine.journal.records import EventRecord
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.problems import Refusal, refuse_body
from engine.service.worker import Worker

AWAY = "the store is away; nothing was changed, send it again"


class StockLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stock as the shop counted it: what was sold until then is not in it any more."""

    level: float


class Stock(msgspec.Struct, frozen=True):
    """What is left of a stock: neither sold since it was counted nor held for a customer."""

    sku: str
    left: float


def stock_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`POST` and `GET /v1/stock/{sku}`."""

    async def tell(call: Call) -> Reply:
        sku = str(call.path["sku"])
        try:
            level = msgspec.json.decode(call.body, type=StockLevel).level
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise refuse_body(error) from None
        if not 0 <= level <= 1e9 or not math.isfinite(level):
            raise Refusal(400, f"{level} is not between 0 and 1e9; send how many there are", "level")
        now = time.time()
        try:
            await worker.claims.set_stock(sku, level, now)
        except StoreUnavailable:
            raise Refusal(503, AWAY, "", ((b"retry-after", b"1"),)) from None
        told = msgspec.json.encode({"sku": sku, "level": level, "by": call.caller.name})
        worker.append([EventRecord(f"stock-{new_id(now)}", now, now, "", "stock_level", None, None, None, told)])
        return await left(sku)

    async def get(call: Call) -> Reply:
        return await left(str(call.path["sku"]))

    async def left(sku: str) -> Reply:
        try:
            amount = await worker.claims.read_remaining(PoolShare("stock", sku), time.time())
        except StoreUnavailable:
            raise Refusal(503, AWAY, "", ((b"retry-after", b"1"),)) from None
        return Reply(msgspec.json.encode(Stock(sku, amount)))

    return [endpoint("/v1/stock/{sku:str}", {"GET": get, "POST": tell}, limit=limit, guard=guard)]
