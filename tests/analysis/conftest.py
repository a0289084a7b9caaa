"""Writers of small logs with the collector's Parquet layout."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.postgres import start_postgres

TIME = pa.timestamp("us", tz="UTC")
START = 1_793_491_200.0  # 2026-11-01T00:00:00Z
SCHEMAS = {
    "decisions": pa.schema(
        [
            ("decision_id", pa.string()),
            ("time", TIME),
            ("customer", pa.string()),
            ("device", pa.string()),
            ("channel", pa.string()),
            ("kind", pa.string()),
            ("key", pa.string()),
            ("variant", pa.string()),
            ("reason", pa.string()),
            ("propensity", pa.float64()),
            ("candidates", pa.list_(pa.string())),
            ("context", pa.string()),
            ("plan", pa.string()),
            ("policy", pa.string()),
            ("crossover", pa.bool_()),
            ("version", pa.string()),
        ]
    ),
    "exposures": pa.schema(
        [("decision_id", pa.string()), ("time", TIME), ("key", pa.string()), ("customer", pa.string())]
    ),
    "events": pa.schema(
        [
            ("message_id", pa.string()),
            ("time", TIME),
            ("received", TIME),
            ("customer", pa.string()),
            ("event", pa.string()),
            ("decision_id", pa.string()),
            ("channel", pa.string()),
            ("revenue", pa.float64()),
            ("properties", pa.string()),
        ]
    ),
    "rewards": pa.schema(
        [("decision_id", pa.string()), ("key", pa.string()), ("reward", pa.float64()), ("time", TIME)]
    ),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "decisions": {
        "device": None,
        "channel": "web",
        "kind": "experiment",
        "key": "checkout",
        "reason": "assigned",
        "propensity": 1.0,
        "candidates": [],
        "context": "{}",
        "plan": "p1",
        "policy": None,
        "crossover": False,
        "version": "",
    },
    "exposures": {"key": "checkout"},
    "events": {"decision_id": None, "channel": "web", "revenue": None, "properties": "{}"},
    "rewards": {},
}

WriteLog = Callable[..., Path]


@pytest.fixture
def write_log(tmp_path: Path) -> WriteLog:
    """Writes rows given as dicts; times are seconds after START, one folder per day."""

    def write(**tables: Iterable[dict[str, Any]]) -> Path:
        for name, given in tables.items():
            days: dict[str, list[dict[str, Any]]] = {}
            for row in given:
                at = datetime.fromtimestamp(START + row["time"], UTC)
                full = {**DEFAULTS[name], **row, "time": at}
                if name == "events":
                    full.setdefault("received", at)
                days.setdefault(at.strftime("%Y-%m-%d"), []).append(full)
            for day, part in days.items():
                folder = tmp_path / name / f"day={day}"
                folder.mkdir(parents=True, exist_ok=True)
                pq.write_table(
                    pa.Table.from_pylist(part, SCHEMAS[name]), folder / f"{len(list(folder.iterdir()))}.parquet"
                )
        return tmp_path

    return write


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a real PostgreSQL without tables."""
    with start_postgres() as address:
        yield address
