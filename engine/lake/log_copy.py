"""Copies the Parquet log to an object store, file by file, and back.

The log on disk stays the one that is written and read here. The copy follows it commit by commit:

    upload what is new -> Iceberg tables, where configured -> replace `_manifest.json` -> delete what is gone

Invariants:

1. The manifest lists the files of one commit of the log, all of which are uploaded before it. So who reads by the
   manifest reads one state, and a copy that was killed at any point is completed by the next.
2. An object never changes. Its name has a digest of its file's size and time, so a file that erasure wrote again is
   another object, and Iceberg's metadata stays true.
3. What left the log leaves the copy: rows of erased customers go with their objects.
4. A prefix has the copy of one log, by an id that the manifest repeats; the copy of another is refused.
"""

import hashlib
import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
import structlog
from pyarrow import fs

from engine.errors import BadInput, CounterpointError, JournalError
from engine.journal.log import commit, locks
from engine.journal.log.parquet import TABLES

MANIFEST = "_manifest.json"
LAYOUT = 1
"""The layout of the copy; `read_manifest` refuses a later one."""
ID_FILE = ".log-id"
_PIECE = 4 << 20
_PART = ".part"
_ATTEMPTS = 5
"""Passes in a row before a copy gives up on a log that changes all the time; the next finds what was uploaded."""

log = structlog.get_logger(__name__)


class CopiedFile(msgspec.Struct, frozen=True):
    """The object that a file of the log became: its size in bytes, its SHA-256 and the file's time (ns since 1970)."""

    object: str
    size: int
    sha256: str
    modified: int


class CopyManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a copy: the log by its id, its checkpoint after commit number `commit`, and its files by path."""

    layout: int = LAYOUT
    log: str
    commit: int = 0
    checkpoint: str = "{}"
    files: dict[str, CopiedFile] = {}


class CopySummary(msgspec.Struct, frozen=True):
    """What a copy did: the commit that it has now, objects uploaded and deleted, and bytes uploaded."""

    commit: int
    uploaded: int
    deleted: int
    bytes: int


class ObjectStore:
    """A prefix of a file system of pyarrow's: `s3://`, `gs://`, `abfs://`, or `file://` for a mounted one."""

    def __init__(self, url: str) -> None:
        """Open the prefix; credentials are those of the environment, as AWS's own tools take them.

        Raises:
            BadInput: if the address is none of a file system.
        """
        self.url = url.partition("?")[0].rstrip("/")
        try:
            self.files, root = fs.FileSystem.from_uri(url)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadInput(f"{self.url}: {error}; name a prefix, such as s3://BUCKET/counterpoint") from error
        self.root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is none."""
        try:
            with self.files.open_input_stream(f"{self.root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, source: BinaryIO) -> str:
        """Store an object from a stream; returns its SHA-256."""
        path, digest = f"{self.root}/{name}", hashlib.sha256()
        is_local = self.files.type_name == "local"  # where a reader would see a part of a file
        if is_local:
            self.files.create_dir(path.rpartition("/")[0], recursive=True)
        written = f"{path}{_PART}" if is_local else path
        with self.files.open_output_stream(written) as target:
            while piece := source.read(_PIECE):
                digest.update(piece)
                target.write(piece)
        if is_local:
            self.files.move(written, path)
        return digest.hexdigest()

    def has(self, name: str, size: int) -> bool:
        """Whether there is an object of this name and size."""
        found = self.files.get_file_info(f"{self.root}/{name}")
        return bool(found.type == fs.FileType.File and found.size == size)

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        try:
            self.files.delete_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return

    def names(self) -> list[str]:
        """The names of all objects under the prefix."""
        found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True, recursive=True))
        return [one.path[len(self.root) + 1 :] for one in found if one.type == fs.FileType.File]


def copy_log(
    log_dir: Path, store: ObjectStore, tables: Callable[[CopyManifest], None] | None = None, *, sweep: bool = True
) -> CopySummary:
    """Bring the copy to the log's latest commit.

    Args:
        log_dir: the folder of the log.
        store: the prefix of the copy.
        tables: takes over the files of the manifest before it is replaced, as Iceberg tables say.
        sweep: delete also objects that a killed copy left; one listing of the prefix.

    Raises:
        BadInput: if the prefix has the copy of another log.
        JournalError: if the object store does not take it. The copy is as before, or completed by the next.
    """
    with locks.hold_lock(_made(log_dir) / ".copy.lock"):
        try:
            return _copy(log_dir, store, tables, sweep=sweep)
        except (pa.ArrowException, OSError) as error:
            raise JournalError(f"cannot copy the log: {error}; the next copy completes it", store.url) from error


def _copy(
    log_dir: Path, store: ObjectStore, tables: Callable[[CopyManifest], None] | None, *, sweep: bool
) -> CopySummary:
    before = read_manifest(store) or CopyManifest(log=_log_id(log_dir))
    if before.log != _log_id(log_dir):
        raise BadInput(f"{store.url}: has the copy of another log; give each log a prefix of its own")
    known, uploaded = dict(before.files), 0
    sent, found = set[str](), set[str]()
    for _ in range(_ATTEMPTS):
        checkpoint, paths = _list_files(log_dir)
        whole = True
        for path in paths:
            name = path.relative_to(log_dir).as_posix()
            try:
                with path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    target = _object_name(name, status)
                    if name not in known or known[name].object != target:
                        if store.has(target, status.st_size):  # of a copy that failed
                            digest = hashlib.file_digest(file, "sha256").hexdigest()
                            found.add(target)
                        else:
                            digest = store.write(target, file)
                            sent.add(target)
                            uploaded += status.st_size
                        known[name] = CopiedFile(target, status.st_size, digest, status.st_mtime_ns)
            except FileNotFoundError:
                whole = False  # compacted or erased meanwhile
        if whole and _list_files(log_dir)[0] == checkpoint:
            break
    else:
        raise JournalError(f"the log changed during {_ATTEMPTS} copies; the next one goes on", log_dir)
    present = {path.relative_to(log_dir).as_posix() for path in paths}
    manifest = CopyManifest(
        log=before.log,
        commit=msgspec.json.decode(checkpoint, type=commit.Checkpoint).commit,
        checkpoint=checkpoint.decode(),
        files={name: one for name, one in sorted(known.items()) if name in present},
    )
    if tables is not None:
        _bring_tables(tables, manifest, store)
    if manifest != before:
        store.write(MANIFEST, io.BytesIO(msgspec.json.encode(manifest)))
    listed = {one.object for one in manifest.files.values()}
    gone = {one.object for one in before.files.values()} | sent | found | (set(store.names()) if sweep else set())
    gone = {
        name
        for name in gone - listed
        if name.removesuffix(_PART).endswith(".parquet") and name.partition("/")[0] in TABLES
    }
    for name in gone:
        store.delete(name)
    return CopySummary(manifest.commit, len(sent & listed), len(gone), uploaded)


def _bring_tables(tables: Callable[[CopyManifest], None], manifest: CopyManifest, store: ObjectStore) -> None:
    """Have the tables take over the manifest; the errors of a catalog's client have no base class of their own."""
    try:
        tables(manifest)
    except CounterpointError:
        raise
    except Exception as error:
        raise JournalError(f"the catalog of the tables: {error}; the next copy completes it", store.url) from error


def pull_log(store: ObjectStore, target: Path) -> CopyManifest:
    """Write the log that the prefix has the copy of into the new folder `target`, where every verb reads it.

    A collector that starts there goes on after the copied commit.

    Raises:
        BadInput: if the folder is not empty, or the prefix has no copy.
        JournalError: if an object is missing or damaged; what was written is then no log.
    """
    if target.exists() and any(target.iterdir()):
        raise BadInput(f"{target}: is not empty; name a new folder")
    manifest = read_manifest(store)
    if manifest is None:
        raise BadInput(f"{store.url}: has no {MANIFEST}; copy a log there first")
    for name, one in manifest.files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = store.read(one.object)
        if content is None or hashlib.sha256(content).hexdigest() != one.sha256:
            fault = "is missing" if content is None else "does not have its SHA-256"
            raise JournalError(f"{one.object} {fault}; copy the log again, or restore the object", store.url)
        path.write_bytes(content)
        os.utime(path, ns=(one.modified, one.modified))  # so that the next copy takes it for the same
    target.mkdir(parents=True, exist_ok=True)
    (target / ID_FILE).write_text(manifest.log)
    (target / commit.CHECKPOINT).write_text(manifest.checkpoint)
    return manifest


def read_manifest(store: ObjectStore) -> CopyManifest | None:
    """The manifest of the prefix; None if it has no copy.

    Raises:
        JournalError: if it is damaged, or of a later version.
    """
    found = store.read(MANIFEST)
    if found is None:
        return None
    try:
        manifest = msgspec.json.decode(found, type=CopyManifest)
    except msgspec.MsgspecError as error:
        raise JournalError(f"{MANIFEST}: {error}; delete it, and the next copy writes it", store.url) from error
    if manifest.layout > LAYOUT:
        raise JournalError(
            f"{MANIFEST}: layout {manifest.layout} is of a later version; use that, or another prefix", store.url
        )
    return manifest


def _list_files(log_dir: Path) -> tuple[bytes, list[Path]]:
    with locks.log_read_lock(log_dir):
        return commit.committed_files(log_dir, TABLES)


def _object_name(name: str, status: os.stat_result) -> str:
    version = hashlib.sha256(f"{status.st_size}/{status.st_mtime_ns}".encode()).hexdigest()[:8]
    return f"{name.removesuffix('.parquet')}-{version}.parquet"


def _log_id(log_dir: Path) -> str:
    """The id of a log, which is made at its first copy."""
    path = log_dir / ID_FILE
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text().strip()


def _made(log_dir: Path) -> Path:
    log_dir.mkdir(parents=True, exist_ok=True)
    return log_dir
