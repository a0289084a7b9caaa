"""Turns the rows of a feed into offers; each row is checked alone, and a wrong one is reported and left out.

An item has the gates of the feed's entry: purpose, audience, dates, caps, suppression and stock. `{column}` in a text
of the rendering, the audience or the stock is what the row has there.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import replace

from engine.catalog.feeds.rows import BadRow, FeedRow, FeedUnreadable, read_rows
from engine.catalog.spec.offer import OfferSpec, OffersSpec
from engine.vocabulary import SILENCE

MOST_ITEMS: Final = 200_000
MOST_NAMED: Final = 20
"""Wrong rows that are named; of the others only the number is known."""
_LOOKED_AT: Final = 100
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?")
_COLUMN: Final = re.compile(r"\{([^{}]+)\}")

FillRow = Callable[[FeedRow], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedItems:
    """A feed's offers by key; `problems` name the first wrong rows, `bad` counts all of them."""

    offers: Mapping[str, OfferSpec] = field(default_factory=dict)
    bad: int = 0
    problems: tuple[tuple[str, str], ...] = ()
    error: str = ""
    """Why the feed cannot be served at all."""


def feed_name(spec: OffersSpec) -> str:
    """The name that distinguishes the items of two entries: the whole entry as JSON."""
    return msgspec.json.encode(spec).decode()


def feed_columns(spec: OffersSpec) -> list[str]:
    """The columns that an entry reads, its key first."""
    return [spec.key or "", *sorted(_ItemMaker(spec).columns - {spec.key or ""})]


@lru_cache(maxsize=4)
def expand_feed(entry: str, data: bytes) -> FeedItems:
    """The items of an entry (`feed_name`, segments expanded) from the bytes of its file."""
    spec = msgspec.json.decode(entry, type=OffersSpec)
    problems: list[tuple[str, str]] = []
    offers: dict[str, OfferSpec] = {}
    bad = 0
    try:
        make = _ItemMaker(spec)
        for number, row in enumerate(_checked(spec, data, make.columns), 1):
            try:
                if isinstance(row, BadRow):
                    raise row
                offer = make.offer(row)
                if offer.key in offers:
                    raise BadRow(f"{spec.key} {offer.key!r} is in a row above; give each item its own")
                offers[offer.key] = offer
            except BadRow as error:
                bad += 1
                if len(problems) < MOST_NAMED:
                    problems.append((f"row {number}", str(error)))
    except FeedUnreadable as error:
        return FeedItems(error=str(error))
    if len(offers) > MOST_ITEMS:
        return FeedItems(error=f"has {len(offers):,} items, over the limit of {MOST_ITEMS:,}; divide it")
    if not offers:
        first = f"; {problems[0][0]}: {problems[0][1]}" if problems else "; it is empty"
        return FeedItems(error=f"has no row that can be served{first}", bad=bad, problems=tuple(problems))
    return FeedItems(offers=offers, bad=bad, problems=tuple(problems))


def _checked(spec: OffersSpec, data: bytes, needed: set[str]) -> Iterator[FeedRow | BadRow]:
    """The rows, after comparing the first rows' columns with those that the entry names."""
    rows = read_rows(spec.feed or "", data)
    first = [row for _, row in zip(range(_LOOKED_AT), rows, strict=False)]
    known = {name for row in first if not isinstance(row, BadRow) for name in row}
    if known and (missing := sorted(needed - known)):
        raise FeedUnreadable(f"has no column {missing[0]!r}; it has {', '.join(sorted(known)[:12])}")
    yield from first
    yield from rows


class _ItemMaker:
    """Makes offers from rows by one entry."""

    def __init__(self, spec: OffersSpec) -> None:
        self.columns: set[str] = set()
        self._spec = spec
        self._key = self._need(spec.key or "")
        self._numbers = [(name, self._need(column)) for name, column in (("price", spec.price),) if column]
        self._value = self._need(spec.value) if spec.value else None
        self._tags = self._need(spec.tags) if spec.tags else None
        self._title = self._need(spec.title) if spec.title else None
        self._attributes = {name: self._need(column) for name, column in spec.attributes.items()}
        self._rendering = self._fill(spec.rendering)
        self._audience = self._fill(spec.audience)
        self._sku = self._fill(spec.stock.sku) if spec.stock else None
        self._base = OfferSpec(
            key="item",
            purpose=spec.purpose,
            start=spec.start,
            end=spec.end,
            caps=spec.caps,
            suppress=spec.suppress,
            renderings={},
        )

    def offer(self, row: FeedRow) -> OfferSpec:
        """The offer made from a row.

        Raises:
            BadRow: if it cannot be one.
        """
        named = _cell(row, self._key)
        key = f"{self._spec.prefix or ''}{_plain_text(named)}"
        if not _KEY.fullmatch(key):
            raise BadRow(f"{self._key} {key!r:.40} is not a key; use letters, digits, _ and - only, 64 at most")
        if key == SILENCE:
            raise BadRow(f"{self._key} {key!r} is the log's name for deliberate silence; use a prefix")
        attributes: dict[str, str | float | bool] = {name: _number(row, column) for name, column in self._numbers}
        for name, column in self._attributes.items():
            if row.get(column) is not None:
                attributes[name] = _scalar(row, column)
        stock = self._spec.stock
        return replace(
            self._base,
            key=key,
            title=_plain_text(row.get(self._title)) or None if self._title else None,
            tags=_tags(row.get(self._tags)) if self._tags else [],
            attributes=attributes,
            value=_number(row, self._value) if self._value else 0.0,
            audience=self._audience(row),
            stock=replace(stock, sku=_plain_text(self._sku(row))) if stock and self._sku else None,
            renderings=self._rendering(row),
        )

    def _need(self, column: str) -> str:
        self.columns.add(column)
        return column

    def _fill(self, template: object) -> FillRow:
        """The function that replaces `{column}` at any depth; a value without columns is shared by all items."""
        if isinstance(template, str):
            return self._fill_text(template)
        if isinstance(template, Mapping):
            parts = [(self._fill(str(name)), self._fill(value)) for name, value in template.items()]
            if not _COLUMN.search(repr(template)):
                return lambda _: template
            return lambda row: {str(name(row)): value(row) for name, value in parts}
        if isinstance(template, list):
            items = [self._fill(value) for value in template]
            return lambda row: [item(row) for item in items]
        return lambda _: template

    def _fill_text(self, template: str) -> FillRow:
        columns = [self._need(column) for column in _COLUMN.findall(template)]
        if not columns:
            return lambda _: template
        if template == f"{{{columns[0]}}}":
            return lambda row: _typed(_cell(row, columns[0]))
        return lambda row: _COLUMN.sub(lambda found: _plain_text(_cell(row, found[1])), template)


def _cell(row: FeedRow, column: str) -> object:
    value = row.get(column)
    if value is None:
        raise BadRow(f"{column} is empty; give it a value")
    return value


def _typed(value: object) -> object:
    """A CSV cell as a number or boolean if it has that form; otherwise unchanged."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _number(row: FeedRow, column: str) -> float:
    value = _typed(_cell(row, column))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise BadRow(f"{column} {value!r:.40} is not a number from 0 on; write it as 12.5")
    return float(value)


def _scalar(row: FeedRow, column: str) -> str | float | bool:
    value = _typed(row[column])
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)
    raise BadRow(f"{column} {value!r:.40} is not a text, number or boolean; give one of these")


def _tags(value: object) -> list[str]:
    """The tags in a cell: a list, or a text separated by `|` or `,`; characters not allowed in a key become `_`."""
    parts = value if isinstance(value, list) else re.split(r"[|,]", "" if value is None else _plain_text(value))
    tags = (re.sub(r"[^A-Za-z0-9_-]+", "_", str(part).strip()).strip("_")[:64] for part in parts)
    return list(dict.fromkeys(tag for tag in tags if tag))


def _plain_text(value: object) -> str:
    """A value as part of a text; a table's `12.0` becomes `12`."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)
