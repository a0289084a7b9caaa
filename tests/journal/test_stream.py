"""Records reach every reader once and in order, and leave the store only when all readers are past them."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from engine import keyspace
from engine.errors import BadInput, JournalError
from engine.journal import stream
from engine.journal.spool import ship, spool
from engine.journal.spool.spool import Spool
from engine.journal.stream import Mark, Progress, Reader, StreamClient

IDS = st.builds("{}-{}".format, st.integers(0, 2_000), st.integers(0, 20))
MARKS = st.builds(Mark, st.integers(0, 1000), st.integers(0, 1000))
PARTITION = st.integers(0, 3)
PROGRESS = st.builds(
    Progress,
    st.dictionaries(PARTITION, IDS),
    st.dictionaries(PARTITION, st.dictionaries(st.sampled_from("abc"), MARKS)),
)


@given(PROGRESS, PROGRESS, PROGRESS)
def test_progress_merges_in_any_order(a: Progress, b: Progress, c: Progress) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a
    assert a.merge(Progress()) == a
    for partition, position in a.positions.items():
        assert stream.position_key(a.merge(b).positions[partition]) >= stream.position_key(position)


@given(PROGRESS)
def test_progress_survives_json(progress: Progress) -> None:
    assert msgspec.json.decode(msgspec.json.encode(progress), type=Progress) == progress


def test_progress_drops_spools_that_were_silent_for_long() -> None:
    progress = Progress({0: "9-0"}, {0: {"old": Mark(1, 10), "new": Mark(2, 20)}, 1: {"old": Mark(3, 19)}})
    assert progress.without_spools_before(20) == Progress({0: "9-0"}, {0: {"new": Mark(2, 20)}, 1: {}})


@pytest.fixture
def client(redis_url: str) -> Iterator[StreamClient]:
    with stream.connect_stream(redis_url) as connected:
        yield connected


def shipped(root: Path, url: str, *records: tuple[bytes, int]) -> Path:
    """A spool of a process that is gone, in the streams."""
    own = Spool(root)
    own.append_many(records)
    own.close()
    ship_again(own.path, url)
    return own.path


def ship_again(path: Path, url: str) -> None:
    asyncio.run(ship.ship_spools([(ship.Shipment(path), -1)], url))


def taken(deliveries: list[stream.Delivery]) -> list[bytes]:
    return [payload for delivery in deliveries for _, payload in delivery.frames]


def test_records_shipped_twice_are_added_once(tmp_path: Path, redis_url: str, client: StreamClient) -> None:
    path = shipped(tmp_path, redis_url, (b"a", 0), (b"b", 1), (b"c", 0))
    ship_again(path, redis_url)
    assert client.xlen(keyspace.partition(0).stream) == 1
    reader = Reader(client, "r", Progress(), partitions=1)
    assert taken(reader.read()) == [b"a", b"c"]
    assert taken(reader.read()) == [b"b"]  # a partition that it did not know
    assert reader.read() == []


def test_a_reader_of_some_partitions_sees_and_holds_no_others(
    tmp_path: Path, redis_url: str, client: StreamClient
) -> None:
    shipped(tmp_path, redis_url, (b"a", 0), (b"b", 1), (b"c", 2), (b"d", 5))
    reader = Reader(client, "r", Progress({0: "0-0", 1: "0-0"}), partitions=3, only=[1, 5])
    assert taken(reader.read() + reader.read()) == [b"b", b"d"]
    assert set(reader.progress.positions) == {1, 5}
    reader.commit(reader.progress)
    held = [partition for partition in range(6) if client.hexists(keyspace.partition(partition).positions, "r")]
    assert held == [1, 5]


def test_a_partition_that_is_passed_over_is_read_later(tmp_path: Path, redis_url: str, client: StreamClient) -> None:
    shipped(tmp_path, redis_url, (b"a", 0), (b"b", 1))
    reader = Reader(client, "r", Progress(), partitions=2)
    assert taken(reader.read(besides=[0])) == [b"b"]
    assert taken(reader.read()) == [b"a"]


def test_a_reader_skips_records_it_has_and_reports_lost_ones(
    tmp_path: Path, redis_url: str, client: StreamClient
) -> None:
    path = shipped(tmp_path, redis_url, *((b"%d" % number, 0) for number in range(5)))
    reader = Reader(client, "r", Progress(), partitions=1)
    assert len(taken(reader.read())) == 5
    client.flushall()
    ship_again(path, redis_url)
    assert taken(reader.read() + reader.read()) == []
    assert reader.lost == []
    client.xadd(keyspace.partition(0).stream, {"s": path.name, "p": "9", "f": b""})
    client.hset(keyspace.partition(0).shipped, "last", "99999999999999-0")
    reader.read()
    assert reader.lost == [stream.LostRecords(0, path.name, 6, 9)]


def test_a_store_whose_clock_fell_back_hides_nothing(tmp_path: Path, redis_url: str, client: StreamClient) -> None:
    shipped(tmp_path, redis_url, (b"before", 0))
    ahead = Progress({0: "99999999999999-0"})
    reader = Reader(client, "r", ahead)
    assert taken(reader.read()) == []
    assert taken(reader.read()) == [b"before"]


def test_a_foreign_entry_is_delivered_as_broken(client: StreamClient) -> None:
    client.xadd(keyspace.partition(0).stream, {"hello": "world"})
    (delivery,) = Reader(client, "r", Progress(), partitions=1).read()
    assert delivery.frames == []
    assert b"world" in delivery.broken


def test_entries_are_trimmed_behind_the_slowest_reader(tmp_path: Path, redis_url: str, client: StreamClient) -> None:
    for payload in (b"1", b"2", b"3"):
        shipped(tmp_path, redis_url, (payload, 0))
    fast, slow = Reader(client, "fast", Progress(), partitions=1), Reader(client, "slow", Progress(), partitions=1)
    fast.read()
    slow.read(count=1)
    fast.commit(fast.progress)
    slow.commit(slow.progress)
    stream.trim_streams(client, [0])
    assert client.xlen(keyspace.partition(0).stream) == 2
    slow.read(count=1)
    slow.commit(slow.progress)
    stream.trim_streams(client, [0])
    assert client.xlen(keyspace.partition(0).stream) == 1
    client.sadd(keyspace.PARTITIONS, 0)
    stream.unregister_reader(client, "slow")
    stream.trim_streams(client, [0])
    assert client.xlen(keyspace.partition(0).stream) == 0
    shipped(tmp_path, redis_url, (b"4", 0))
    assert taken(fast.read()) == [b"4"]


def test_an_evicting_store_is_refused(client: StreamClient) -> None:
    stream.refuse_eviction(client)
    client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(JournalError, match=r"'allkeys-lru'.*set it to noeviction"):
        stream.refuse_eviction(client)


def test_an_invalid_address_is_refused() -> None:
    with pytest.raises(BadInput, match="'nowhere'"):
        stream.connect_stream("nowhere")


def test_the_shipper_waits_for_an_unreachable_store(tmp_path: Path, redis_url: str, client: StreamClient) -> None:
    async def scenario() -> tuple[ship.Lag, ship.Lag]:
        own = Spool(tmp_path)
        shipper = ship.Shipper(own, redis_url, interval=0.01, scan=0.02)
        running = asyncio.create_task(shipper.run())
        own.append(b"first", 0)
        await until(lambda: shipper.lag().records == 0)
        client.config_set("maxmemory", "1")  # noeviction: writes are refused
        own.append(b"second", 0)
        await until(lambda: shipper.lag().error is not None)
        behind = shipper.lag()
        client.config_set("maxmemory", "0")
        await until(lambda: shipper.lag().records == 0)
        current = shipper.lag()
        shipper.stop()
        await running
        return behind, current

    behind, current = asyncio.run(scenario())
    assert behind.records == 1
    assert behind.bytes > 6
    assert behind.seconds > 0
    assert "maxmemory" in str(behind.error)
    assert current == ship.Lag(0, 0, 0.0, None)
    reader = Reader(client, "r", Progress(), partitions=1)
    assert taken(reader.read()) == [b"first", b"second"]


def test_a_collected_segment_and_an_adopted_spool_are_deleted(
    tmp_path: Path, redis_url: str, client: StreamClient
) -> None:
    left = shipped(tmp_path, redis_url, (b"left", 2))

    async def scenario() -> None:
        own = Spool(tmp_path, segment_bytes=100)
        shipper = ship.Shipper(own, redis_url, interval=0.01, scan=0.02)
        running = asyncio.create_task(shipper.run())
        for number in range(10):
            own.append(b"%d" % number * 40, number % 2)
        await until(lambda: shipper.lag().records == 0)
        assert len(list(own.path.glob("*.seg"))) > 3
        reader = Reader(client, "r", Progress(), partitions=3)
        assert len(taken(reader.read())) == 11
        stream.publish_collected(client, reader.progress)
        await until(lambda: len(list(own.path.glob("*.seg"))) == 1 and not left.exists())
        shipper.stop()
        await running

    asyncio.run(scenario())
    assert client.hget(keyspace.partition(2).shipped, left.name) is None


def test_a_segment_is_deleted_after_its_life_whatever_the_load(
    tmp_path: Path, redis_url: str, client: StreamClient
) -> None:
    async def scenario() -> None:
        own = Spool(tmp_path)
        shipper = ship.Shipper(own, redis_url, interval=0.01, scan=0.02, life=0.1)
        running = asyncio.create_task(shipper.run())
        own.append(b"first", 0)
        reader = Reader(client, "r", Progress(), partitions=1)

        def busy() -> bool:
            own.append(b"more", 0)  # so there is always something that is not collected
            reader.read()
            stream.publish_collected(client, reader.progress)
            return spool.segments_of(own.path)[0] > 1

        await until(busy)
        shipper.stop()
        await running

    asyncio.run(scenario())


def test_the_last_segment_of_an_idle_worker_is_deleted_too(
    tmp_path: Path, redis_url: str, client: StreamClient
) -> None:
    async def scenario() -> None:
        own = Spool(tmp_path)
        shipper = ship.Shipper(own, redis_url, interval=0.01, scan=0.02, life=0.1)
        running = asyncio.create_task(shipper.run())
        own.append(b"the last", 0)
        reader = Reader(client, "r", Progress(), partitions=1)

        def gone() -> bool:
            reader.read()
            stream.publish_collected(client, reader.progress)
            return spool.segments_of(own.path)[0] > 1

        await until(gone)
        assert not any(path.stat().st_size for path in own.path.glob("*.seg"))
        own.append(b"and one more", 0)
        await until(lambda: len(taken(reader.read())) == 1)
        shipper.stop()
        await running

    asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (what is awaited happens in files and in the store)
            await asyncio.sleep(0.01)


def test_redis_itself_refuses_a_batch_that_does_not_follow(redis_url: str) -> None:
    script = Path(ship.__file__).with_name("ship.lua").read_text()
    with redis.Redis.from_url(redis_url) as raw:
        names = keyspace.partition(7)
        call = (script, 2, names.stream, names.shipped, "s")
        assert int(raw.eval(*call, 0, 4, b"x")) == 4
        assert int(raw.eval(*call, 0, 4, b"x")) == 4
        assert int(raw.eval(*call, 5, 9, b"x")) == 4
        assert raw.xlen(names.stream) == 1
