"""Reads the feeds of a folder together with its YAML, and checks the entries that name them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.check.offers import check_renderings
from engine.catalog.feeds.items import FeedItems, expand_feed, feed_name
from engine.catalog.feeds.rows import MOST_BYTES
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import OffersSpec, SelectionSpec
from engine.catalog.spec.segments import expand_segments, segments_in
from engine.errors import Problem

_NAMED: Final = re.compile(rb"""\bfeed["']?\s*:\s*["']?((?:feeds/)?[\w-][\w.-]*\.(?:csv|jsonl|ndjson|parquet))""")
NOT_OF_TAGS: Final = tuple(name for name in OffersSpec.__struct_fields__ if name != "tagged")


def read_feeds(folder: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The bytes of the feeds that the YAML names, by name, without unreadable ones."""
    names = {found.decode() for data in files.values() for found in _NAMED.findall(data)}
    found: dict[str, bytes] = {}
    for name in sorted(names):
        try:
            with (folder / name).open("rb") as stream:
                found[name] = stream.read(MOST_BYTES + 1)
        except OSError:
            continue
    return found


def with_feeds(specs: Specs, files: Mapping[str, bytes]) -> Specs:
    """The specs with their feeds' items."""
    feeds: dict[str, FeedItems] = {}
    for selection in specs.selections.values():
        entry = selection.offers
        if isinstance(entry, OffersSpec) and entry.feed is not None and entry.key is not None:
            data = files.get(entry.feed)
            if data is None:
                feeds[feed_name(entry)] = FeedItems(error="is missing or cannot be read; put it beside the YAML")
            elif len(data) > MOST_BYTES:
                feeds[feed_name(entry)] = FeedItems(error=f"is over {MOST_BYTES // 2**20} MB; divide it")
            elif set(segments_in(entry.audience)) <= specs.segments.keys():
                expanded = msgspec.structs.replace(entry, audience=expand_segments(entry.audience, specs.segments))
                feeds[feed_name(entry)] = expand_feed(feed_name(expanded), data)
    return replace(specs, feeds=feeds) if feeds else specs


def feed_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems that prevent the offers of a tag or a feed from being served."""
    owners: dict[str, str] = dict.fromkeys(specs.offers, "offers/")
    for selection in specs.selections.values():
        if isinstance(selection.offers, OffersSpec):
            for path, message in _check_entry(specs, selection, selection.offers, known):
                yield Problem(specs.files[selection.key], path, message)
            for key in specs.items_of(selection.offers):
                if key in owners:
                    message = f"has the key {key!r}, which {owners[key]} has too; give this feed a prefix"
                    yield Problem(specs.files[selection.key], "offers.feed", message)
                    break
            owners |= dict.fromkeys(specs.items_of(selection.offers), selection.offers.feed or "")


def find_bad_rows(specs: Specs) -> Iterator[Problem]:
    """Yield the first wrong rows of each feed, and the number of further ones."""
    for selection in specs.selections.values():
        entry = selection.offers
        items = specs.feeds.get(feed_name(entry)) if isinstance(entry, OffersSpec) else None
        if items is None or not isinstance(entry, OffersSpec):
            continue
        file = f"{specs.folder}/{entry.feed}"
        yield from (Problem(file, row, f"{message}; the row is left out") for row, message in items.problems)
        if items.bad > len(items.problems):
            yield Problem(file, "", f"{items.bad - len(items.problems):,} more rows are left out, {items.bad:,} in all")


def _check_entry(
    specs: Specs, selection: SelectionSpec, entry: OffersSpec, known: DefinedNames
) -> Iterator[FieldProblem]:
    """Yield the problems of one entry: missing keys, keys that do not belong there, an unreadable feed."""
    given = [name for name in NOT_OF_TAGS if getattr(entry, name) not in (None, [], {})]
    if entry.feed is None:
        if entry.tagged is None:
            yield "offers", "has neither a tag nor a feed; name offers, or give `tagged:` or `feed:`"
        for name in given:
            yield f"offers.{name}", "is of a feed, and there is none; add 'feed: products.csv', or leave it out"
        return
    if entry.tagged is not None:
        yield "offers.tagged", "stands beside a feed; give one of the two, and tags of the feed by `tags:`"
    if entry.table is not None:
        yield from check_defined("offers.table.at", entry.table.at, known.sources, "sources.yaml")
    if entry.key is None:
        yield "offers.key", "is missing; name the column that tells the items apart, such as sku"
    if not entry.rendering:
        yield "offers.rendering", "is missing; give one per channel, such as web: {headline: '{title}'}"
    for channel in entry.rendering:
        yield from check_defined(f"offers.rendering.{channel}", channel, known.channels, "channels.yaml")
    yield from check_renderings("offers.rendering", entry.rendering)
    for name in segments_in(entry.audience):
        yield from check_defined("offers.audience", name, known.conditions, "the conditions of segments.yaml")
    items = specs.feeds.get(feed_name(entry))
    if items is not None and items.error:
        remedy = "" if entry.table is None else "; `counterpoint feeds` writes it from its table"
        yield "offers.feed", f"{entry.feed} {items.error}{remedy}"
    placement = next((one for one in specs.channels.placements if one.key == selection.placement), None)
    shown_on = selection.channels or (placement.channels if placement else [])
    if entry.rendering and not set(entry.rendering) & set(shown_on):
        yield "offers.rendering", f"has none of the placement's channels {', '.join(shown_on)}; add one"
