"""The YAML of connections to data outside the log, and of the tables that metrics and exposures are read from."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.fields import FlagKey, Key, Spec, Text
from engine.customer import IdKind

SourceKind = Literal["files", "sqlite", "postgres", "clickhouse", "spark", "bigquery", "snowflake"]
NEEDS_PATH: frozenset[SourceKind] = frozenset(("files", "sqlite"))
NEEDS_ADDRESS: frozenset[SourceKind] = frozenset(("postgres", "bigquery", "snowflake"))
MAY_HAVE_ADDRESS = NEEDS_ADDRESS | {"clickhouse"}

AddressVariable = Annotated[
    str,
    Meta(
        pattern="^(?!COUNTERPOINT_)[A-Z_][A-Z0-9_]{0,99}$",
        description="the name of an environment variable that is not a setting",
        extra={"remedy": "write the variable's name, such as WAREHOUSE_URL; the address stays out of the file"},
    ),
]
Column = Annotated[
    str,
    Meta(
        pattern="^[^\\u0000-\\u001f\\u007f]{1,128}$",
        description="the name of a column, 128 characters at most",
        extra={"remedy": "write the column's name as the table has it, on one line"},
    ),
]
TableName = Annotated[
    str,
    Meta(
        pattern="^[^\\u0000-\\u001f\\u007f]{1,300}$",
        description="the name of a table, 300 characters at most",
        extra={"remedy": "write orders, or shop.orders with its schema, on one line"},
    ),
]


class SourceSpec(Spec, frozen=True, kw_only=True):
    """A connection: `files` (Parquet and CSV in the folder `path`), `sqlite` (the file `path`), or a database.

    `address` is the name of the environment variable that has the database's address with its password, such as
    `postgresql://reader:…@db/shop`; the address itself is never in a file. `clickhouse` without one runs in this
    process, where its tables are files. `spark` uses the session of the process.
    """

    key: Key
    kind: SourceKind
    path: Text | None = None
    address: AddressVariable | None = None


class SourcesFile(Spec, frozen=True, kw_only=True):
    """`sources.yaml`: connections to tables outside the log, which metrics and exposures name with `at`."""

    sources: list[SourceSpec] = []


class TableSpec(Spec, frozen=True, kw_only=True):
    """The table of a metric: `at` names a connection of `sources.yaml`, the other keys columns.

    Each row is an event of `customer` at `time` (UTC where the column has no zone). `customer` may be any identifier
    that the log knows of the person: a user id, a card, an e-mail address. `identifier: email` or `phone` says that it
    is spelled freely. `value` is the number that adds up, `currency` the column of its ISO code. Of a ratio
    `denominator` is the number below; without one each row counts 1 there. Of a funnel `event` is the column whose
    values are the events that its steps name.
    """

    table: TableName
    at: Key
    customer: Column
    time: Column
    value: Column | None = None
    denominator: Column | None = None
    currency: Column | None = None
    event: Column | None = None
    identifier: IdKind | None = None


class ExposuresSpec(Spec, frozen=True, kw_only=True):
    """A table of exposures: each row is a `customer` who saw the `variant` at `time`.

    `experiment` is the column that holds the experiment's key, where the table has those of several; `key` is that key,
    where it is another one there. The other keys are as of a metric's table.
    """

    table: TableName
    at: Key
    customer: Column
    time: Column
    variant: Column
    experiment: Column | None = None
    key: FlagKey | None = None
    identifier: IdKind | None = None
