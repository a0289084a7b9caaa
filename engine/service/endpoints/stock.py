"""`/v1/stock`: the back office sets a SKU's stock, in all or at a place; anyone reads what is left."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from engine.catalog.plan.places import PLACE_NAMES, Places
from engine.claims.claims import Claims, stock_share
from engine.customers.time_slice import TimeSlice
from engine.errors import BadInput, StoreUnavailable
from engine.journal.records import EventRecord
from engine.json_body import (
    BATCH_ITEMS,
    MAX_BYTES,
    UNREADABLE_JSON,
    decode_json,
    replace_half_surrogates,
    split_batch,
)
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.problems import Refusal, decode_body, refuse_field, refuse_for_now
from engine.service.worker import Worker
from engine.vocabulary import STOCK_LEVEL

NOT_READ = "the store is away, so what is left is not known; ask again"
NOT_SET = "the store is away, so whether the level is set is not known; send it again"
HIGHEST = 1e9
LONGEST_SKU = 200
LEVEL_BYTES = 4096
"""Most bytes of one of many levels."""
TOGETHER = 64
"""Levels that are set in one round trip: more at once would keep decisions waiting."""
Level = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": HIGHEST})]


class StockLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A counted stock on the shelves, after the sales before the count."""

    level: Level


class PlacedLevel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several stock levels: of a SKU in all, or at a place."""

    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_SKU)]
    level: Level
    place: str | None = None


class StockLevels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several stock levels at once."""

    levels: Annotated[list[PlacedLevel], msgspec.Meta(min_length=1, max_length=BATCH_ITEMS)]


class _LevelsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    levels: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=BATCH_ITEMS)]


class _LevelName(msgspec.Struct, frozen=True):
    sku: str = ""


class StockStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one level; a rejected one has its reason."""

    sku: str
    status: Literal["set", "rejected"]
    place: str | None = None
    reason: str = ""


class StockStatuses(msgspec.Struct, frozen=True):
    """The status of each level, in their order."""

    statuses: list[StockStatus]


class Stock(msgspec.Struct, frozen=True, omit_defaults=True):
    """The remaining stock: items neither sold since the count nor held for a customer."""

    sku: str
    left: float
    place: str | None = None


class PlaceStock(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The remaining stock of a SKU at a place; `km` is the distance if the query has a position."""

    place: str
    left: float
    title: str | None = None
    address: str | None = None
    collects: bool
    ships: bool
    km: float | None = None


class StockPlaces(msgspec.Struct, frozen=True):
    """The places with a SKU in stock, the nearest first."""

    sku: str
    places: list[PlaceStock]


_decoder = msgspec.json.Decoder(StockLevel)
_placed_decoder = msgspec.json.Decoder(PlacedLevel)
_bulk_decoder = msgspec.json.Decoder(_LevelsBody)
_sku_decoder = msgspec.json.Decoder(_LevelName)
_encode = msgspec.json.Encoder().encode


class StockDesk:
    """Sets and reads stocks, with the longer store timeout of events."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._claims = Claims(worker.event_store.pipeline)

    async def set_level(self, call: Call) -> Reply:
        """Set one stock."""
        sku, place = self._named(call)
        level = decode_body(_decoder, call.body).level
        if problem := _level_problem(level):
            raise Refusal(400, problem, "level")
        await self._set([PlacedLevel(sku, level, place)], call.caller.name)
        return await self.get_left(call)

    async def set_levels(self, call: Call) -> Reply:
        """Set several stocks; each that breaks a rule is rejected alone."""
        levels: list[PlacedLevel | StockStatus] = []
        time_slice = TimeSlice()
        # To separate the levels of a large body in which one is no JSON takes long; a thread lets the others run.
        split = asyncio.to_thread(_split_levels, call.body) if len(call.body) > MAX_BYTES else None
        for sent in _split_levels(call.body) if split is None else await split:
            levels.append(self._read_level(bytes(sent)))
            await time_slice.give_way()
        await self._set([one for one in levels if isinstance(one, PlacedLevel)], call.caller.name)
        statuses = [StockStatus(one.sku, "set", one.place) if isinstance(one, PlacedLevel) else one for one in levels]
        return Reply(_encode(StockStatuses(statuses)))

    def _read_level(self, sent: bytes) -> PlacedLevel | StockStatus:
        """One of several stock levels, or the reason of its rejection."""
        try:
            if len(sent) > LEVEL_BYTES:
                raise BadInput(f"body: {len(sent):,} bytes are over the limit of {LEVEL_BYTES:,} of a level")
            level = decode_json(_placed_decoder, sent)
        except BadInput as error:
            try:
                sku = _sku_decoder.decode(replace_half_surrogates(sent)).sku
            except UNREADABLE_JSON:
                sku = ""
            return StockStatus(sku[:LONGEST_SKU], "rejected", reason=str(error).removeprefix("body: "))
        problem = _level_problem(level.level) or self._place_problem(level.place)
        return StockStatus(level.sku, "rejected", level.place, problem) if problem else level

    async def get_left(self, call: Call) -> Reply:
        """The remaining stock of one SKU."""
        sku, place = self._named(call)
        try:
            left = await self._claims.read_remaining(stock_share(sku, place), time.time())
        except StoreUnavailable:
            raise refuse_for_now(NOT_READ) from None
        return Reply(_encode(Stock(sku, left, place)))

    async def get_places(self, call: Call) -> Reply:
        """The remaining stock of a SKU at each place, the nearest first."""
        sku, places = _sku_of(call), self._worker.plan.places
        near = () if places is None else places.around(_read_position(call.query, places)).places
        shares = [stock_share(sku, one.place.key) for one in near]
        now = time.time()
        try:
            left = await asyncio.gather(*(self._claims.read_remaining(share, now) for share in shares))
        except StoreUnavailable:
            raise refuse_for_now(NOT_READ) from None
        found = [
            PlaceStock(
                place=place.key,
                left=amount,
                title=place.title,
                address=place.address,
                collects=place.collects,
                ships=place.ships,
                km=None if km is None else round(km, 3),
            )
            for (place, km), amount in zip(near, left, strict=True)
        ]
        return Reply(_encode(StockPlaces(sku, found)))

    async def _set(self, levels: list[PlacedLevel], by: str) -> None:
        """Set the levels, and record by which caller.

        Every level that the store confirmed has its record, also where the store goes away before the last one.

        Raises:
            Refusal: 503 if the store does not confirm one; of many it names the first to be sent again.
        """
        now = time.time()
        for start in range(0, len(levels), TOGETHER):
            part = levels[start : start + TOGETHER]
            changes = (self._claims.set_stock(one.sku, one.level, now, one.place) for one in part)
            replies = await asyncio.gather(*changes, return_exceptions=True)
            if done := [one for one, reply in zip(part, replies, strict=True) if reply is None]:
                self._worker.recorder.append([_audit_record(one, by, now) for one in done])
            errors = [reply for reply in replies if reply is not None]
            if unforeseen := [error for error in errors if not isinstance(error, StoreUnavailable)]:
                raise unforeseen[0]
            if errors:
                first = next(index for index, reply in enumerate(replies) if reply is not None)
                raise refuse_for_now(_not_all_set(levels, start + first))

    def _named(self, call: Call) -> tuple[str, str | None]:
        """The SKU and the place in a path."""
        place = call.path.get("place")
        if place is not None and (problem := self._place_problem(str(place))):
            raise Refusal(404, problem, "place")
        return _sku_of(call), None if place is None else str(place)

    def _place_problem(self, place: str | None) -> str:
        known = self._worker.plan.places
        if place is None or (known is not None and place in known.by_key):
            return ""
        return f"{place!r} is not in places.yaml; use one of {', '.join(known.by_key) if known else '(none)'}"


def stock_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """The routes of `/v1/stock`, `/{sku}`, `/{sku}/places` and `/{sku}/places/{place}`."""
    desk = StockDesk(worker)
    one = {"GET": desk.get_left, "POST": desk.set_level}
    return [
        endpoint("/v1/stock", {"POST": desk.set_levels}, limit=limit, guard=guard),
        endpoint("/v1/stock/{sku:str}", one, limit=limit, guard=guard),
        endpoint("/v1/stock/{sku:str}/places", {"GET": desk.get_places}, limit=limit, guard=guard),
        endpoint("/v1/stock/{sku:str}/places/{place:str}", one, limit=limit, guard=guard),
    ]


def _split_levels(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """The stock levels of a body, not decoded yet.

    Raises:
        Refusal: 400 for a body that has none.
    """
    try:
        return split_batch(body, "levels", lambda text: _bulk_decoder.decode(text).levels)
    except BadInput as error:
        raise refuse_field(str(error)) from None


def _sku_of(call: Call) -> str:
    """The SKU in a path.

    Raises:
        Refusal: 400 if it is longer than one in a body may be.
    """
    sku = str(call.path["sku"])
    if len(sku) > LONGEST_SKU:
        raise Refusal(400, f"the SKU has {len(sku):,} characters, over {LONGEST_SKU}; send the SKU itself", "sku")
    return sku


def _not_all_set(levels: list[PlacedLevel], count: int) -> str:
    """The error when only the first `count` levels are known to be set, with the remedy."""
    if len(levels) == 1:
        return NOT_SET
    first = levels[count]
    at = "" if first.place is None else f" at {first.place}"
    done = f"the {count} levels before {first.sku!r}{at} are set" if count else "no level is known to be set"
    return f"the store went away: {done}; send the level of {first.sku!r}{at} and those after it again"


def _level_problem(level: float) -> str:
    if 0 <= level <= HIGHEST and math.isfinite(level):
        return ""
    return f"{level} is not between 0 and {HIGHEST:g}; send the number of items in stock"


def _read_position(query: dict[str, str], places: Places) -> dict[str, object]:
    """The position in a query, by the rules of a decision's context."""
    position: dict[str, object] = {}
    for name, text in query.items():
        if name not in PLACE_NAMES:
            raise Refusal(400, f"{name!r} is not a parameter; use place, or latitude and longitude", name)
        if name == "place":
            if text not in places.by_key:
                raise Refusal(400, f"{text!r} is not in places.yaml; use one of {', '.join(places.by_key)}", name)
            position[name] = text
            continue
        try:
            position[name] = float(text)
        except ValueError:
            raise Refusal(400, f"{text!r} is not a number of degrees; write it as 53.55", name) from None
    if position and not places.has_position(position):
        raise Refusal(400, "latitude and longitude are degrees up to 90 and 180; give both", "latitude")
    return position


def _audit_record(level: PlacedLevel, by: str, now: float) -> EventRecord:
    """The audit record of a set stock level."""
    place = {} if level.place is None else {"place": level.place}
    return EventRecord(
        message_id=f"stock-{new_id(now)}",
        time=now,
        received=now,
        customer="",
        event=STOCK_LEVEL,
        decision_id=None,
        channel=None,
        revenue=None,
        properties=_encode({"sku": level.sku, "level": level.level, **place, "by": by}),
    )
