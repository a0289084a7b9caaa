"""The cost of the journal: CPU of appending and shipping in a worker, and records per second of the collector."""

import argparse
import asyncio
import gc
import tempfile
import time
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from engine import embedded
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.journal.records import DecisionRecord, DecisionRow, EventRecord, encode
from engine.journal.spool.ship import adopt_spools, ship_spools
from engine.journal.spool.spool import Spool, partition_of
from engine.settings import Settings

ARMS = [f"offer-{number}" for number in range(20)]


def record(number: int) -> tuple[bytes, int]:
    customer = f"u-{number % 5000}"
    now = 1_790_000_000.0 + number / 1000
    if number % 3 == 2:
        event = EventRecord(
            f"m-{number}", now, now, customer, "purchase", f"d-{number}", "web", 12.5, b'{"revenue": 12.5}'
        )
        return encode(event), partition_of(customer, 4)
    rows = [
        DecisionRow("experiment", "checkout_layout", "one_page", "assigned", 1.0, version="1"),
        DecisionRow("offer", "home_hero", ARMS[number % 20], "policy", 0.05, ARMS, {"hour": 9.0, "tier": 2.0}, "h@17"),
    ]
    trace = b"t" * 600
    return encode(DecisionRecord(f"d-{number}", now, customer, None, "web", "plan", rows, trace)), partition_of(
        customer, 4
    )


def appended(root: Path, records: list[tuple[bytes, int]], batch: int) -> float:
    spool = Spool(root)
    begun = time.process_time()
    for at in range(0, len(records), batch):
        spool.append_many(records[at : at + batch])
    seconds = time.process_time() - begun
    spool.close()
    return seconds / len(records) * 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=300_000)
    count = arguments.parse_args().records
    records = [record(number) for number in range(count)]
    gc.freeze()  # keeps the garbage collector from scanning these records
    with tempfile.TemporaryDirectory() as name, embedded.running(Path(name) / "valkey") as store:
        data = Path(name)
        settings = Settings(data=data, redis=store.url)
        print(f"{count} records of {sum(len(payload) for payload, _ in records) / count:.0f} bytes on average")
        for batch in (1, 8, 32):
            cost = appended(data / f"append-{batch}", records[:50_000], batch)
            print(f"append, {batch:2} a write      {cost:8.2f} µs CPU a record")
        spool = Spool(settings.spool)
        for at in range(0, count, 32):
            spool.append_many(records[at : at + 32])
        spool.close()
        adopted = adopt_spools(settings.spool)
        begun = time.process_time()
        asyncio.run(ship_spools(adopted, store.url))
        print(f"ship                     {(time.process_time() - begun) / count * 1e6:8.2f} µs CPU a record")
        # A collector reads spools only to drain them, which is no part of this figure.
        settings = msgspec.structs.replace(settings, data=data / "collected")
        begun, cpu = time.perf_counter(), time.process_time()
        summary = collect(settings, LogErasures(), drain=True)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        print(f"collect                  {count / seconds:8.0f} records/s, {cpu / count * 1e6:.2f} µs CPU a record")
        print(f"rows                     {summary.rows}")
        raw = written_raw(settings.log, data)
        print(f"raw pyarrow of the rows  {raw / count * 1e6:8.2f} µs CPU a record: {raw / cpu:.2f} of collect")


def written_raw(log: Path, folder: Path) -> float:
    """CPU seconds in which pyarrow alone writes the same rows, from Python objects, to one file per table."""
    tables = {table.name: pa.concat_tables(map(read_one, table.glob("day=*/*.parquet"))) for table in log.glob("*/")}
    rows = {name: table.to_pylist() for name, table in tables.items() if table.num_rows}
    begun = time.process_time()
    for name, of_table in rows.items():
        table = pa.Table.from_pylist(of_table, schema=tables[name].schema)
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    return time.process_time() - begun


def read_one(path: Path) -> pa.Table:
    return pq.read_table(path, partitioning=None)


if __name__ == "__main__":
    main()
