"""A copy of the log that failed: what the next one finds, and what the error is."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import JournalError
from engine.lake.log_copy import CopyManifest, ObjectStore, copy_log

NAME = "decisions/day=2026-11-01/0000000001-0badf00d.parquet"


class CatalogAway(Exception):
    """What a catalog's client raises, which has no base class but this."""


def _refuse(_: CopyManifest) -> None:
    raise CatalogAway("no answer")


def test_a_copy_goes_on_with_the_objects_of_one_that_the_catalog_failed(tmp_path: Path) -> None:
    log, store = tmp_path / "log", ObjectStore((tmp_path / "copy").as_uri())
    (log / NAME).parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1]}), log / NAME)
    with pytest.raises(JournalError, match="no answer"):
        copy_log(log, store, _refuse)
    summary = copy_log(log, store)
    assert (summary.uploaded, summary.bytes) == (0, 0)
    assert len(store.names()) == 2


def test_an_object_replaced_halfway_stays_as_it_was(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            raise OSError("gone")

    store = ObjectStore(tmp_path.as_uri())
    store.write("_manifest.json", io.BytesIO(b"{}"))
    with pytest.raises(OSError, match="gone"):
        store.write("_manifest.json", Broken())
    assert store.read("_manifest.json") == b"{}"
