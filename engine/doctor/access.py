"""Checks of what protects a deployment: users and encryption of the store, and the copy of the log."""

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import redis

from engine.doctor.diagnosis import Diagnosis, ok, problem, warning
from engine.errors import has_extra
from engine.journal import stream
from engine.journal.log.commit import read_checkpoint
from engine.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MOST_BEHIND = 3
"""Commits that a copy may be behind: the collector commits every five seconds, and copies every ten."""


def check_store_access(settings: Settings) -> Iterator[Diagnosis]:
    """Whether a store that other machines reach asks who comes, and is reached by an encrypted way."""
    address = urlsplit(settings.redis)
    if address.scheme == "unix" or address.hostname in LOOPBACK:
        return
    if not address.scheme.startswith("rediss"):
        yield warning("store access", "customers pass to the store unencrypted", "turn its TLS on, and write rediss://")
    with closing(stream.connect_stream(settings.redis)) as client:
        try:
            name = client.acl_whoami()
        except redis.RedisError:
            return  # the store has a finding of its own
    if name in ("default", b"default"):
        yield warning(
            "store access",
            "every role connects as the user `default`, which may run every command",
            "counterpoint store acl FILE",
        )
    else:
        yield ok("store access", f"as user {name if isinstance(name, str) else name.decode()}")


def check_log_copy(settings: Settings) -> Iterator[Diagnosis]:
    """Whether the object store has the latest commit of this machine's log."""
    if settings.log_copy is None or not settings.log.is_dir() or not has_extra("analysis"):
        return
    from engine.lake.log_copy import ObjectStore, read_manifest  # noqa: PLC0415 (a server has no Parquet libraries)

    manifest = read_manifest(ObjectStore(settings.log_copy))
    behind = read_checkpoint(settings.log).commit - (manifest.commit if manifest else 0)
    if behind > MOST_BEHIND:
        yield problem(
            "log copy", f"it is {behind:,} commits behind", "read the collector's log, or counterpoint log copy"
        )
    else:
        yield ok("log copy", f"{behind:,} commits behind")
