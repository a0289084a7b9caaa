"""A backup of a whole installation on one machine, taken while it runs, and its restoration elsewhere.

Every record that was answered before the backup began is in it, and none twice after a restoration. Each part is copied
after the parts that hand over to it, so that a record on its way is in at least one copy:

    spool -> store (streams, profiles, claims) -> learner -> log

A record that is in two copies counts once: the store's copy knows how far each spool was shipped, the log's how far
each spool was collected. A part that has read further than the store's copy continues from the start of its streams.

In the folder of a backup: `manifest.json` with the size and SHA-256 of every file, `data/` and `experiments/`. The file
of keys is not in it; nor are metrics, which belong to processes.
"""

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
import redis

from engine.embedded import is_in_use
from engine.errors import BadInput, StoreUnavailable
from engine.journal.log import commit, locks
from engine.journal.log.parquet import TABLES
from engine.journal.stream import connect_stream
from engine.settings import STORE_ADDRESS_FILE, Settings

MANIFEST = "manifest.json"
_REWRITE_SECONDS = 60.0
_LEFT_OUT = {"meters", "spool", "store", "learn", "log", STORE_ADDRESS_FILE}
"""The files that are copied in a way of their own, or belong to the running processes."""


class BackedUpFile(msgspec.Struct, frozen=True):
    """A file of a backup: its size in bytes and its SHA-256."""

    size: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a backup: when it began (s since 1970), the version that made it, and every file by its path."""

    began: float
    version: str
    files: dict[str, BackedUpFile]


def back_up(settings: Settings, target: Path) -> BackupManifest:
    """Copy an installation on an embedded store into the new folder `target`; it may run meanwhile.

    Raises:
        BadInput: if `target` exists, or the data folder has no embedded store.
        StoreUnavailable: if the store does not answer, or rewrites its file for a minute.
    """
    data = settings.data
    if target.exists():
        raise BadInput(f"{target}: exists; name a folder that does not, such as one with today's date")
    if not (data / "store").is_dir():
        raise BadInput(
            f"{data}: no embedded store ran here. Back up a store of your own by its own means, then copy this folder"
        )
    began, copied = time.time(), target / "data"
    copied.mkdir(parents=True)
    _copy_growing(data / "spool", copied / "spool")
    _copy_store(settings, copied / "store")
    _copy_learners(data / "learn", copied / "learn")
    for place in data.iterdir():
        if place.name not in _LEFT_OUT:
            _copy_growing(place, copied / place.name)
    _copy_growing(settings.experiments, target / "experiments")
    _copy_log(settings.log, copied / "log")
    files = {str(path.relative_to(target)): _digest(path) for path in sorted(target.rglob("*")) if path.is_file()}
    manifest = BackupManifest(began=began, version=version("counterpoint"), files=files)
    (target / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return manifest


def restore_backup(source: Path, data: Path, experiments: Path | None = None) -> BackupManifest:
    """Check a backup and copy it into the new folder `data`, and its YAML into `experiments` if that is given.

    Raises:
        BadInput: if the backup is damaged or incomplete, or a folder exists; nothing is written then.
    """
    for folder in filter(None, (data, experiments)):
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{folder}: is not empty; name a new folder, and keep this one until the other runs")
    manifest = check_backup(source)
    shutil.copytree(source / "data", data, dirs_exist_ok=True)
    if experiments is not None:
        shutil.copytree(source / "experiments", experiments, dirs_exist_ok=True)
    return manifest


def check_backup(source: Path) -> BackupManifest:
    """The manifest of a backup whose files are all present and unchanged.

    Raises:
        BadInput: if it is none, or a file is missing or changed.
    """
    try:
        manifest = msgspec.json.decode((source / MANIFEST).read_bytes(), type=BackupManifest)
    except FileNotFoundError:
        raise BadInput(f"{source}: has no {MANIFEST}, so it is not a backup, or one that was not finished") from None
    except msgspec.MsgspecError as error:
        raise BadInput(f"{source / MANIFEST}: {error}; take another backup") from error
    for name, file in manifest.files.items():
        path = source / name
        if not path.is_file() or _digest(path) != file:
            raise BadInput(f"{path}: is missing or not as it was backed up; take another backup")
    return manifest


def _copy_growing(source: Path, target: Path) -> None:
    """Copy a folder while its files are appended to, replaced and deleted."""
    if source.is_file():
        shutil.copyfile(source, target)
        return
    target.mkdir(exist_ok=True)
    try:
        places = list(source.iterdir())
    except FileNotFoundError:
        return
    for place in places:
        if place.name in ("lock", ".lock"):  # a lock is of its machine
            continue
        try:
            _copy_growing(place, target / place.name)
        except FileNotFoundError:
            continue  # deleted meanwhile: what was in it is in a part that is copied later


def _copy_store(settings: Settings, target: Path) -> None:
    """Copy the embedded store's append-only files as far as written: each prefix is a former state."""
    source = settings.data / "store"
    folder = "appendonlydir"
    (target / folder).mkdir(parents=True)
    if not is_in_use(source):
        shutil.copytree(source / folder, target / folder, dirs_exist_ok=True)
        return
    with closing(connect_stream(settings.redis)) as client, _no_rewrite(client):
        manifests = list((source / folder).glob("*.manifest"))
        named = [line.split()[1] for path in manifests for line in path.read_text().splitlines() if line]
        for path in [*(source / folder / name for name in named), *manifests]:
            shutil.copyfile(path, target / folder / path.name)


@contextmanager
def _no_rewrite(client: redis.Redis | redis.RedisCluster) -> Iterator[None]:
    """Prevent the store from replacing its files while the block copies them."""
    name = "auto-aof-rewrite-percentage"
    try:
        before = str(client.config_get(name)[name])
        client.config_set(name, 0)
        try:
            deadline = time.monotonic() + _REWRITE_SECONDS
            while client.info("persistence")["aof_rewrite_in_progress"]:
                if time.monotonic() > deadline:
                    raise StoreUnavailable("the store rewrites its append-only file; take the backup later")
                time.sleep(0.05)
            yield
        finally:
            client.config_set(name, before)
    except redis.RedisError as error:
        raise StoreUnavailable(f"cannot back up the store: {error}; take the backup again") from error


def _copy_learners(source: Path, target: Path) -> None:
    """Copy the learners' files, each between two of its transactions."""
    target.mkdir()
    for path in source.glob("*.sqlite"):
        with closing(sqlite3.connect(path)) as before, closing(sqlite3.connect(target / path.name)) as after:
            before.backup(after)


def _copy_log(source: Path, target: Path) -> None:
    """Copy the log as of one commit; later commits may add files, and none is removed meanwhile."""
    if not source.is_dir():
        return
    with locks.log_read_lock(source):
        checkpoint, files = commit.committed_files(source, TABLES)
        target.mkdir()
        (target / commit.CHECKPOINT).write_bytes(checkpoint)
        for path in files:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _digest(path: Path) -> BackedUpFile:
    with path.open("rb") as file:
        return BackedUpFile(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
