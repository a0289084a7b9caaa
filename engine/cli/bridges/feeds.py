"""The verb that writes feeds from tables."""

from collections.abc import Iterator, Mapping

import msgspec

from engine.catalog.spec.offer import OffersSpec
from engine.catalog.spec.sources import SourcesFile
from engine.cli.app import DESIGN, AsJson, Folder, app, print_json, print_line
from engine.errors import BadInput, MissingExtra, has_extra
from engine.settings import from_environment


@app.command(name="feeds", group=DESIGN)
def write_feeds(*, experiments: Folder = None, json: AsJson = False) -> int:
    """Write the feeds that come from tables of a database; servers read a changed file again.

    Where a placement has `offers: {feed: products.jsonl, table: {table: shop.products, at: warehouse}}`, the columns
    that it names are read from there. A file whose rows are the same is left as it is.
    """
    from engine.catalog.check.load import read_folder

    if not has_extra("analysis"):
        raise MissingExtra("feeds", "analysis")
    from engine.analysis.values.table_feeds import write_feed

    folder = from_environment(experiments=experiments).experiments
    files = {name: data for name, data in read_folder(folder)[0].items() if name.endswith(".yaml")}
    try:
        known = msgspec.yaml.decode(files.get("sources.yaml", b"{}"), type=SourcesFile).sources
        entries = list(_entries(files))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{folder.name}: {error}; `counterpoint check` says where") from None
    sources = {source.key: source for source in known}
    written = []
    for entry in entries:
        at = entry.table.at if entry.table else ""
        if at not in sources:
            raise BadInput(f"{entry.feed}: {at!r} is not in sources.yaml; known are {', '.join(sources) or 'none'}")
        written.append(write_feed(folder, entry, sources[at]))
    if json:
        print_json(written)
    else:
        for one in written:
            print_line(f"{one.feed}: {one.rows:,} rows of {one.table}, {one.state}.")
        if not written:
            print_line(f"No placement of {folder} has a feed from a table.")
    return 0


def _entries(files: Mapping[str, bytes]) -> Iterator[OffersSpec]:
    """Yield the entries with a feed from a table, in the order of the files; the rest of a file may be wrong."""
    for _, data in sorted(files.items()):
        found = msgspec.yaml.decode(data)
        offers = found.get("offers") if isinstance(found, dict) else None
        if isinstance(offers, dict) and "table" in offers and "feed" in offers:
            yield msgspec.convert(offers, OffersSpec)
