"""The rows of a feed: CSV, JSON Lines or Parquet. The first two need no library that a decision server lacks."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from engine.errors import MissingExtra, has_extra

SUFFIXES: Final = (".csv", ".jsonl", ".ndjson", ".parquet")
FEEDS: Final = "feeds"
"""The folder beside the YAML in which feeds may be; they may also be in the folder of the YAML itself."""
MOST_BYTES: Final = 512 * 1024 * 1024
FeedRow = Mapping[str, object]


class FeedUnreadable(Exception):
    """The error of a feed that cannot be read at all; the text has the reason and the remedy."""


class BadRow(Exception):
    """The error of one row that cannot be an offer; the text has the reason and the remedy."""


def read_rows(name: str, data: bytes) -> Iterator[FeedRow | BadRow]:
    """Yield the rows of a file's bytes; an unreadable row as its error.

    Raises:
        FeedUnreadable: if none can.
    """
    if name.endswith(".csv"):
        return _read_csv(data)
    return _read_parquet(data) if name.endswith(".parquet") else _read_lines(data)


def _read_csv(data: bytes) -> Iterator[FeedRow | BadRow]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FeedUnreadable(f"is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    names = next(reader, None)
    if not names:
        raise FeedUnreadable("is empty; the first line names the columns")
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(names):
            yield BadRow(f"has {len(cells)} cells, and there are {len(names)} columns; quote cells that have commas")
        else:
            yield {name: cell if cell != "" else None for name, cell in zip(names, cells, strict=True)}


def _read_lines(data: bytes) -> Iterator[FeedRow | BadRow]:
    decode = msgspec.json.Decoder(dict[str, object]).decode
    for line in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.strip():
            try:
                yield decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield BadRow(f"is no JSON object ({error}); write one per line")


def _read_parquet(data: bytes) -> Iterator[FeedRow | BadRow]:
    if not has_extra("analysis"):
        otherwise = "; or write CSV or JSON Lines, which every server reads"
        raise FeedUnreadable(str(MissingExtra("is Parquet, which", "analysis", otherwise)))
    import pyarrow as pa  # noqa: PLC0415 (a decision server may lack it)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches():
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise FeedUnreadable(f"is not a complete Parquet file ({error}); write it again") from error
