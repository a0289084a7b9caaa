"""Settings of a process: read once from the environment, then passed on as one frozen argument."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec

from engine.errors import BadInput

DATA = Path(".data")
KEY_GUESSES = 20
_CLUSTER, _STORE_PORT = "+cluster", 6379
PARTIALS_FOLDER = ".partials"
"""Within a log: statistics of reports by day, a cache, which erasure deletes."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process; each is the variable `COUNTERPOINT_<NAME>`. Times are in seconds, sizes in bytes."""

    experiments: Path = Path("experiments")
    data: Path = DATA
    redis: Annotated[str, msgspec.Meta(pattern=r"^(rediss?(\+cluster)?|unix)://")] = "redis://127.0.0.1:6379/0"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 4
    store_timeout: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    """The time that a decision waits for the store in all; after that it is answered without profile, degraded."""
    event_timeout: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    """The wait of requests that cannot be answered without the store: events, exposures, the kill switch."""
    body_limit: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    fsync: bool = False
    """Whether an append to the spool waits for the disk, so that records also survive the loss of the machine."""
    full_disk: Literal["refuse", "answer"] = "refuse"
    """The answer to a decision whose record the full disk does not take: a 503, or a degraded one without a record."""
    api_keys: Path | None = None
    key_guesses: Annotated[int, msgspec.Meta(ge=1)] = KEY_GUESSES
    """The unknown keys that an address may send at once, and one more every ten seconds, before it gets 429."""
    tls_certificate: Path | None = None
    """The chain of certificates (PEM) with which `serve` answers over TLS; needs `tls_key`."""
    tls_key: Path | None = None
    dashboard: Annotated[str, msgspec.Meta(pattern=r"^https?://")] | None = None
    """The address of the dashboard's process, to which decision servers pass requests for pages."""
    logs: Literal["text", "json"] = "text"
    """The style of log lines (`telemetry.log_lines`): for people, or one JSON object per line."""
    traces: Annotated[str, msgspec.Meta(pattern=r"^https?://")] | None = None
    """The receiver of OpenTelemetry traces, by OTLP over HTTP (`telemetry.tracing`)."""
    log_copy: Annotated[str, msgspec.Meta(pattern=r"^(s3|gs|gcs|abfs|abfss|hdfs|file)://")] | None = None
    """The prefix of an object store that the collector copies the log to (`lake.log_copy`)."""
    iceberg: str | None = None
    """The catalog, by its name in PyIceberg's configuration, whose tables have the copy (`lake.iceberg`)."""
    environment: str | None = None
    """The environment whose keys flags take from `environments`; read where the YAML is (`catalog.check.load`)."""

    @property
    def scheme(self) -> str:
        """The scheme of a server's address."""
        return "http" if self.tls_certificate is None else "https"

    @property
    def spool(self) -> Path:
        """The folder of this machine's spools: answered decisions until they are collected."""
        return self.data / "spool"

    @property
    def plans(self) -> Path:
        """The archive of the plans that ran."""
        return self.data / "plans"

    @property
    def log(self) -> Path:
        """The folder of the Parquet log."""
        return self.data / "log"


RULES = {
    "redis": "an address: redis://HOST:6379/0, rediss://…, redis+cluster://HOST:6379,HOST:6379 or unix://…",
    "port": "a whole number from 0 to 65535",
    "workers": "a whole number from 1 to 256",
    "partitions": "a whole number from 1 to 1024",
    "store_timeout": "a number of seconds above 0, such as 0.05",
    "event_timeout": "a number of seconds above 0, such as 2",
    "body_limit": "a whole number of bytes, such as 1000000",
    "fsync": "true or false",
    "key_guesses": "a whole number from 1",
    "full_disk": "refuse or answer",
    "logs": "text or json",
    "dashboard": "an address: http://127.0.0.1:8081",
    "traces": "an address: http://127.0.0.1:4318",
    "log_copy": "a prefix of an object store: s3://BUCKET/counterpoint",
}
"""The rule of each setting, for messages; a setting without one accepts any text."""

STORE_ADDRESS_FILE = "store.url"
"""The file in a data directory that has the address of its embedded store while that runs."""


def from_environment(environment: Mapping[str, str] = os.environ, **overrides: object) -> Settings:
    """Settings from `COUNTERPOINT_*` variables; an override that is not None replaces its variable.

    If neither names a store, it is the embedded store that runs on the data directory.

    Raises:
        BadInput: if a variable is not a setting, or its value breaks the setting's rule.
    """
    prefix = "COUNTERPOINT_"
    values: dict[str, object] = {
        name.removeprefix(prefix).lower(): value for name, value in environment.items() if name.startswith(prefix)
    }
    values |= {name: value for name, value in overrides.items() if value is not None}
    address = Path(str(values.get("data", DATA))) / STORE_ADDRESS_FILE
    if "redis" not in values and address.is_file():
        values["redis"] = address.read_text().strip()
    known = Settings.__struct_fields__
    for name in values:
        if name not in known:
            raise BadInput(
                f"{prefix}{name.upper()}: not a setting; use one of {', '.join(prefix + k.upper() for k in known)}"
            )
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_convert_path)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("$.")[2].rstrip("`")
        place = f"{prefix}{name.upper()}" if overrides.get(name) is None else f"--{name.replace('_', '-')}"
        raise BadInput(f"{place} {values[name]}: is not {RULES[name]}") from error


class ClusterAddress(NamedTuple):
    """The nodes of a cluster: the address of the first as redis-py takes it, and the others by host and port.

    A process that starts asks them for all nodes. One is enough while it lives, so operators name several.
    """

    first: str
    others: list[tuple[str, int]]


def cluster_address(url: str) -> ClusterAddress | None:
    """The nodes that an address names; None where it is not of a cluster.

    Raises:
        ValueError: if a port is not a number.
    """
    scheme, place, *rest = urlsplit(url)
    base, mark, _ = scheme.partition(_CLUSTER)
    if not mark:
        return None
    login, at, hosts = place.rpartition("@")
    first, *others = hosts.split(",")
    nodes = [urlsplit(f"//{other}") for other in others if other]
    return ClusterAddress(
        urlunsplit((base, login + at + first, *rest)),
        [(node.hostname or "localhost", node.port or _STORE_PORT) for node in nodes],
    )


def settings_environment(settings: Settings) -> dict[str, str]:
    """The variables from which another process reads the same settings."""

    def text(value: object) -> str:
        return str(value.resolve()) if isinstance(value, Path) else str(value)

    return {
        f"COUNTERPOINT_{name.upper()}": text(value)
        for name in Settings.__struct_fields__
        if (value := getattr(settings, name)) is not None
    }


def keep_files_private() -> None:
    """Make files of this process and its children unreadable for other users, since they contain customers' data."""
    os.umask(0o077)


def _convert_path(kind: type, value: object) -> object:
    """Convert text to a path, which msgspec does not know."""
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise NotImplementedError(f"a setting cannot be of type {kind}")
