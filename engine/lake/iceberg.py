"""The copy of the log as Iceberg tables, so that warehouses read it with snapshots and statistics.

A table has the very objects of the copy (`log_copy`); nothing is written twice. Each pass is one snapshot that adds the
new objects and removes those that are gone. Older snapshots are expired at once, since erasure deletes their objects.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, NoSuchTableError
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.table import Table, TableProperties

from engine.journal.log.parquet import SCHEMAS, TABLES, LogTable
from engine.lake.log_copy import CopyManifest

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile

NAMESPACE = "counterpoint"

log = structlog.get_logger(__name__)


class IcebergTables:
    """The tables of one catalog, whose objects are under `prefix`."""

    def __init__(self, catalog: str, prefix: str) -> None:
        """Open a catalog of PyIceberg's own configuration (`~/.pyiceberg.yaml`, `PYICEBERG_CATALOG__NAME__…`)."""
        self._catalog: Catalog = load_catalog(catalog)
        self._prefix = prefix

    def take_over(self, manifest: CopyManifest) -> None:
        """Bring every table to the files of the manifest."""
        with suppress(NamespaceAlreadyExistsError):
            self._catalog.create_namespace(NAMESPACE)
        objects = [one.object for one in manifest.files.values()]
        for name in TABLES:
            wanted = {f"{self._prefix}/{one}" for one in objects if one.partition("/")[0] == name}
            _replace_files(self._table(name), wanted, manifest.commit)

    def _table(self, name: LogTable) -> Table:
        """The table of that name, made where there is none, with the columns of this version."""
        try:
            table = self._catalog.load_table((NAMESPACE, name))
        except NoSuchTableError:
            return self._catalog.create_table(
                (NAMESPACE, name), schema=SCHEMAS[name], location=f"{self._prefix}/_iceberg/{name}"
            )
        if missing := set(SCHEMAS[name].names) - {field.name for field in table.schema().fields}:
            log.info("columns are added to an Iceberg table", table=name, columns=sorted(missing))
            with table.update_schema() as update:
                update.union_by_name(SCHEMAS[name])
        return table


def _replace_files(table: Table, wanted: set[str], commit: int) -> None:
    """Make the data files of a table those wanted, in one snapshot; nothing where they are so already."""
    present: dict[str, DataFile] = {task.file.file_path: task.file for task in table.scan().plan_files()}
    new = sorted(wanted - present.keys())
    gone = [file for path, file in present.items() if path not in wanted]
    if new or gone:
        with table.transaction() as change:
            mapping = table.schema().name_mapping.model_dump_json()
            change.set_properties({TableProperties.DEFAULT_NAME_MAPPING: mapping})
            added: Sequence[DataFile] = [parquet_file_to_data_file(table.io, change.table_metadata, one) for one in new]
            properties = {"counterpoint.commit": str(commit)}
            with change.update_snapshot(snapshot_properties=properties).overwrite() as snapshot:
                for file in gone:
                    snapshot.delete_data_file(file)
                for file in added:
                    snapshot.append_data_file(file)
    if gone:
        table.maintenance.expire_snapshots().older_than(datetime.now(UTC)).commit()
