"""Brings a store and a log to the layouts of this version, or says what that would do."""

import msgspec

from engine import keyspace
from engine.journal import stream
from engine.journal.log import commit, layout
from engine.settings import Settings
from engine.snapshots.publish import store_errors


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an installation: its layout, this version's, and what is between the two."""

    part: str
    layout: int
    target: int
    steps: list[str] = []

    @property
    def is_due(self) -> bool:
        """Whether there is something to do."""
        return bool(self.steps)


def plan_migrations(settings: Settings) -> list[Migration]:
    """What `migrate` would do; nothing is changed.

    Raises:
        JournalError: if the log or the store is of a later version.
        StoreUnavailable: if the store does not answer.
    """
    found = []
    with stream.connect_stream(settings.redis) as client, store_errors("reading its layout"):
        stored = stream.read_layout(client)
        steps = [] if stored else [f"note layout {keyspace.LAYOUT} in {keyspace.STORE_LAYOUT}; no value changes"]
        found.append(Migration(part="store", layout=stored or 1, target=keyspace.LAYOUT, steps=steps))
    if settings.log.is_dir():
        before = commit.read_checkpoint(settings.log).layout
        files = list(layout.outdated_files(settings.log))
        steps = []
        if files:
            columns = sorted({name for one in files for name in one.missing})
            size = sum(one.size for one in files) / 1e6
            steps.append(f"write {len(files):,} files, {size:,.1f} MB, again with the columns {', '.join(columns)}")
        if before < commit.LAYOUT:
            steps.append(f"note layout {commit.LAYOUT} in {commit.CHECKPOINT}")
        found.append(Migration(part="log", layout=before, target=commit.LAYOUT, steps=steps))
    return found


def migrate(settings: Settings) -> list[Migration]:
    """Do what `plan_migrations` says, and return that. It may be run again, also after a kill. Errors as there."""
    planned = plan_migrations(settings)
    due = {one.part for one in planned if one.is_due}
    if "store" in due:
        with stream.connect_stream(settings.redis) as client, store_errors("noting its layout"):
            stream.note_layout(client)
    if "log" in due:
        layout.migrate_log(settings.log)
    return planned
