"""Many chunks at once: all of them come, as fast as they may, in bounded memory, and it can be stopped at any time."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from typing import TYPE_CHECKING, Any

import fsspec.asyn
import numpy as np
import pytest
from aiohttp import web
from fsspec.callbacks import Callback, TqdmCallback
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from precomputed_fs import AlreadyExistsError, CorruptDataError, DataAccessError, FsspecAccessor, NotFoundError
from precomputed_fs.pyramid import shards
from tests.support import servers
from tests.support.shards import pack_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from types import FrameType

    from precomputed_fs.format.grid import ChunkCoords
    from tests.support.places import Place

KEY = "8_8_40"
WAIT = 10.0  # seconds that something may take which is to happen at once

Fetched = list[tuple["ChunkCoords", bytes | None]]


def coords_of(i: int) -> ChunkCoords:
    return i, i + 1, 0, 64, -64, 0


def name_of(i: int) -> str:
    return f"{KEY}/{i}-{i + 1}_0-64_-64-0"


def body_of(i: int) -> bytes:
    return f"chunk {i}: ".encode() * 20


def fill(pyramid: Place, present: Iterable[int]) -> None:
    """Store chunks of an unsharded scale, and its `info`."""
    scale = {"key": KEY, "encoding": "compressed_segmentation"}
    pyramid.put("info", json.dumps({"scales": [scale]}).encode())
    for i in present:
        pyramid.put(name_of(i), body_of(i))


def fill_sharded(pyramid: Place, count: int, *, shard_bits: int, minishard_bits: int = 1) -> None:
    """Store a row of chunks in shards."""
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 0,
        "hash": "identity",
        "minishard_bits": minishard_bits,
        "shard_bits": shard_bits,
    }
    scale = {
        "key": KEY,
        "encoding": "compressed_segmentation",
        "size": [count, 64, 64],
        "chunk_sizes": [[1, 64, 64]],
        "voxel_offset": [0, 0, -64],
        "sharding": sharding,
    }
    pyramid.put("info", json.dumps({"scales": [scale]}).encode())
    minishards, digits = 2**minishard_bits, -(-shard_bits // 4) or 1
    for shard in range(min(2**shard_bits, -(-count // minishards))):
        ids = [i for i in range(count) if i // minishards % 2**shard_bits == shard]
        chunks = {m: [(i, body_of(i)) for i in ids if i % minishards == m] for m in range(minishards)}
        pyramid.put(f"{KEY}/{shard:0{digits}x}.shard", pack_shard(chunks, minishard_bits))


def expected(indexes: Iterable[int], absent: Iterable[int] = ()) -> Fetched:
    return sorted([(coords_of(i), body_of(i)) for i in indexes] + [(coords_of(i), None) for i in absent])


def by_coords(fetched: Iterable[tuple[ChunkCoords, bytes | None]]) -> Fetched:
    return sorted(fetched, key=lambda pair: pair[0])


# --------------------------------------------------------------------------------------------------------------- doors


def fetch_sync(accessor: FsspecAccessor, wanted: Iterable[Any], **options: Any) -> Fetched:
    return list(accessor.fetch_chunks(KEY, wanted, **options))


def fetch_async(accessor: FsspecAccessor, wanted: Iterable[Any], **options: Any) -> Fetched:
    async def main() -> Fetched:
        return [pair async for pair in accessor.fetch_chunks_async(KEY, wanted, **options)]

    return asyncio.run(main())


def fetch_sync_in_a_loop(accessor: FsspecAccessor, wanted: Iterable[Any], **options: Any) -> Fetched:
    async def main() -> Fetched:  # as in a notebook's cell
        return list(accessor.fetch_chunks(KEY, wanted, **options))

    return asyncio.run(main())


def store_sync(accessor: FsspecAccessor, chunks: Iterable[Any], **options: Any) -> None:
    accessor.store_chunks(KEY, chunks, **options)


def store_async(accessor: FsspecAccessor, chunks: Iterable[Any], **options: Any) -> None:
    asyncio.run(accessor.store_chunks_async(KEY, chunks, **options))


FETCH = [fetch_sync, fetch_async, fetch_sync_in_a_loop]
each_fetch = pytest.mark.parametrize("fetch", [fetch_sync, fetch_async])
each_store = pytest.mark.parametrize("store", [store_sync, store_async])
sync_and_async_filesystem = pytest.mark.parametrize("protocol", ["memory", "http"])


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Check that a test leaves no task and no thread of ours, and no coroutine that nobody awaited."""
    assert gc.isenabled(), "tests run as users do: garbage may be collected in any line, of any thread"
    gc.collect()
    gc.freeze()  # what is older takes no time at the end
    yield
    gc.collect()  # a warning from here is an error
    loop = fsspec.asyn.get_loop()
    until(lambda: not [task for task in asyncio.all_tasks(loop) if "precomputed_fs" in repr(task.get_coro())])
    until(lambda: workers() == 0)


def workers() -> int:
    """Count the threads of ours that have something to do."""
    ours = {thread.ident for thread in threading.enumerate() if thread.name.startswith("precomputed_fs")}
    return sum(not is_idle(frame) for ident, frame in sys._current_frames().items() if ident in ours)


def is_idle(frame: FrameType) -> bool:
    """Tell whether a thread of a pool waits for something to do."""
    return frame.f_code.co_name in {"_work", "_worker"}


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is to happen soon."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


class Gate:
    """A handler that lets chunks through only when enough have come since it last did, and counts how many are in."""

    def __init__(self, handler: servers.Handler, opens_at: int, expected_in_all: int = 10**9) -> None:
        self.most = 0
        self.rounds = 0
        self.finished = 0
        self._handler = handler
        self._opens_at = opens_at
        self._remaining = expected_in_all
        self._inside = 0
        self._arrived = 0
        self._open = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if f"/{KEY}/" not in request.path:
            return await self._handler(request)
        self._inside += 1
        self._arrived += 1
        self.most = max(self.most, self._inside)
        opened = self._open
        if self._arrived >= min(self._opens_at, self._remaining):
            self.rounds += 1
            self._remaining -= self._arrived
            self._arrived = 0
            self._open = asyncio.Event()
            opened.set()
        try:
            await opened.wait()
            return await self._handler(request)
        finally:
            self._inside -= 1
            self.finished += 1


def chunk_server() -> servers.Handler:
    """Answer to the name of each chunk with its body, however many there are."""

    async def handler(request: web.Request) -> web.StreamResponse:
        match = re.fullmatch(rf"/{KEY}/(\d+)-\d+_0-64_-64-0", request.path)
        return web.Response(body=body_of(int(match[1]))) if match else web.Response(status=404)

    return handler


def slow(handler: servers.Handler, latency: float) -> servers.Handler:
    """Answer as another handler does, after some seconds."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(latency)
        return await handler(request)

    return handle


# ---------------------------------------------------------------------------------------------------- all that is asked


def test_all_chunks_come_on_every_protocol_through_every_door(each_readable_pyramid: Place) -> None:
    fill(each_readable_pyramid, range(12))
    accessor = each_readable_pyramid.accessor()
    for fetch in FETCH:
        assert by_coords(fetch(accessor, map(coords_of, range(12)))) == expected(range(12))


def test_all_chunks_of_shards_come_through_every_door(readable_pyramid: Place) -> None:
    fill_sharded(readable_pyramid, 24, shard_bits=2)
    accessor = readable_pyramid.accessor()
    for fetch in FETCH:
        assert by_coords(fetch(accessor, map(coords_of, range(24)))) == expected(range(24))


def test_absent_chunks_come_as_none_on_every_protocol(each_readable_pyramid: Place) -> None:
    fill(each_readable_pyramid, range(0, 10, 3))
    accessor = each_readable_pyramid.accessor()
    for fetch in FETCH:
        found = by_coords(fetch(accessor, map(coords_of, range(10))))
        assert found == expected(range(0, 10, 3), set(range(10)) - set(range(0, 10, 3)))


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("protocol", ["local", "http", "zip"])
def test_a_batch_finds_chunks_under_all_their_names(
    make_pyramid: Callable[[str], Place], protocol: str, suffix: str, flat: bool
) -> None:
    pyramid = make_pyramid(protocol)
    for i in range(20):
        name = name_of(i) if flat else name_of(i).replace("_0", "/0").replace("_-64", "/-64")
        pyramid.put(name + suffix, gzip.compress(body_of(i)) if suffix else body_of(i))
    for fetch in FETCH:
        assert by_coords(fetch(pyramid.accessor(), map(coords_of, range(20)))) == expected(range(20))


@each_fetch
@pytest.mark.parametrize("sharded", [False, True])
@sync_and_async_filesystem
def test_a_chunk_that_is_asked_for_twice_comes_twice(
    make_pyramid: Callable[[str], Place], protocol: str, sharded: bool, fetch: Any
) -> None:
    pyramid = make_pyramid(protocol)
    if sharded:
        fill_sharded(pyramid, 4, shard_bits=0)
    else:
        fill(pyramid, range(4))
    found = fetch(pyramid.accessor(), map(coords_of, [1, 2, 1, 1]))
    assert by_coords(found) == expected([1, 1, 1, 2])


@each_fetch
@sync_and_async_filesystem
def test_of_nothing_nothing_comes(make_pyramid: Callable[[str], Place], protocol: str, fetch: Any) -> None:
    assert fetch(make_pyramid(protocol).accessor(), []) == []


def test_numpy_integers_are_coordinates(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("memory")
    fill(pyramid, range(3))
    wanted = np.array([coords_of(i) for i in range(3)])
    ((coords, _), *_) = found = by_coords(pyramid.accessor().fetch_chunks(KEY, wanted))
    assert found == expected(range(3))
    assert all(type(value) is int for value in coords)


@each_fetch
@pytest.mark.parametrize("in_flight", [1, 3, 64, 10_000])
@sync_and_async_filesystem
def test_any_number_in_flight_gives_the_same_chunks_of_shards(
    make_pyramid: Callable[[str], Place], protocol: str, in_flight: int, fetch: Any
) -> None:
    pyramid = make_pyramid(protocol)
    fill_sharded(pyramid, 100, shard_bits=3)
    found = fetch(pyramid.accessor(), map(coords_of, range(100)), in_flight=in_flight)
    assert by_coords(found) == expected(range(100))


def test_a_batch_may_be_longer_than_what_is_planned_at_once(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LARGEST_WINDOW", 256)
    pyramid = make_pyramid("memory")
    fill_sharded(pyramid, 900, shard_bits=2, minishard_bits=3)
    found = pyramid.accessor().fetch_chunks(KEY, map(coords_of, range(900)))
    assert by_coords(found) == expected(range(900))


@sync_and_async_filesystem
def test_batches_of_several_threads_do_not_disturb_each_other(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    fill(pyramid, range(60))
    accessor = pyramid.accessor()
    with ThreadPoolExecutor(4) as pool:
        parts = [range(start, start + 30) for start in (0, 10, 20, 30)]
        for part, found in zip(parts, pool.map(lambda p: fetch_sync(accessor, map(coords_of, p)), parts), strict=True):
            assert by_coords(found) == expected(part)


@sync_and_async_filesystem
def test_two_batches_may_be_consumed_in_turn(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    fill(pyramid, range(40))
    accessor = pyramid.accessor()
    batches = [accessor.fetch_chunks(KEY, map(coords_of, part), in_flight=4) for part in (range(20), range(20, 40))]
    found = list(itertools.chain.from_iterable(zip(*batches, strict=True)))
    assert by_coords(found) == expected(range(40))


def test_two_async_batches_share_a_loop(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("http")
    fill(pyramid, range(40))
    accessor = pyramid.accessor()

    async def one(part: range) -> Fetched:
        return [pair async for pair in accessor.fetch_chunks_async(KEY, map(coords_of, part))]

    async def main() -> Fetched:
        return [pair for found in await asyncio.gather(one(range(20)), one(range(20, 40))) for pair in found]

    assert by_coords(asyncio.run(main())) == expected(range(40))


# -------------------------------------------------------------------------------------------------------- many at once


@each_fetch
@pytest.mark.parametrize("in_flight", [1, 7, 40])
def test_as_many_requests_as_in_flight_are_under_way_and_no_more(in_flight: int, fetch: Any) -> None:
    count = 4 * in_flight
    gate = Gate(slow(chunk_server(), 0.05), opens_at=1)
    with servers.fault_server(gate.handle) as server, FsspecAccessor(server.url, timeout=WAIT) as accessor:
        found = fetch(accessor, map(coords_of, range(count)), in_flight=in_flight)
    assert by_coords(found) == expected(range(count))
    assert gate.most == in_flight


@each_fetch
def test_200_chunks_cost_a_few_latencies_by_default(fetch: Any) -> None:
    latency = 0.2
    with servers.fault_server(slow(chunk_server(), latency)) as server, FsspecAccessor(server.url) as accessor:
        began = time.monotonic()
        assert len(fetch(accessor, map(coords_of, range(200)))) == 200
        assert time.monotonic() - began < 15 * latency  # the loop over fetch_chunk would be 200


def test_shards_are_read_at_once_and_no_more_than_in_flight(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("http")
    fill_sharded(pyramid, 64, shard_bits=6, minishard_bits=0)
    files = servers.files(pyramid.objects.folder)  # type: ignore[attr-defined]
    gate = Gate(slow(files, 0.05), opens_at=1)
    with servers.fault_server(gate.handle) as server, FsspecAccessor(server.url, timeout=WAIT) as accessor:
        found = fetch_sync(accessor, map(coords_of, range(64)), in_flight=8)
    assert by_coords(found) == expected(range(64))
    assert gate.most == 8


@pytest.mark.parametrize("in_flight", [0, -1])
@each_fetch
def test_nothing_in_flight_is_an_error(make_pyramid: Callable[[str], Place], in_flight: int, fetch: Any) -> None:
    accessor = make_pyramid("memory").accessor()
    with pytest.raises(ValueError, match=f"in_flight.*{in_flight}"):
        fetch(accessor, [coords_of(0)], in_flight=in_flight)
    with pytest.raises(ValueError, match=f"in_flight.*{in_flight}"):
        accessor.store_chunks(KEY, [(coords_of(0), b"")], in_flight=in_flight)


# -------------------------------------------------------------------- who reads, where the filesystem is synchronous


class Reads:
    """Looks on while a filesystem reads below the scale; `during` is called with the path in each read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, filesystem: Any, during: Callable[[str], object]) -> None:
        self.readers: list[int] = []  # threads, in the order of the reads
        self.inside = 0
        self.most = 0
        lock, real = threading.Lock(), filesystem.cat_file

        def cat_file(itself: Any, path: str, *args: Any, **kwargs: Any) -> Any:
            if f"/{KEY}/" not in path:
                return real(itself, path, *args, **kwargs)
            with lock:
                self.readers.append(threading.get_ident())
                self.inside += 1
                self.most = max(self.most, self.inside)
            try:
                during(path)
                return real(itself, path, *args, **kwargs)
            finally:
                with lock:
                    self.inside -= 1

        monkeypatch.setattr(filesystem, "cat_file", cat_file)


def number_in(path: str) -> int:
    """Return the i of `name_of`."""
    return int(path.partition(f"/{KEY}/")[2].partition("-")[0])


class Threads(Callback):  # type: ignore[misc]
    """A progress callback that counts the threads of ours that there are at each result."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def relative_update(self, inc: int = 1) -> None:
        self.counts.append(workers())


@each_fetch
@pytest.mark.parametrize(("protocol", "filesystem"), [("memory", MemoryFileSystem), ("local", LocalFileSystem)])
def test_slow_chunks_are_read_by_several_threads_at_once(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, protocol: str, filesystem: Any, fetch: Any
) -> None:
    pyramid = make_pyramid(protocol)
    if protocol == "memory":
        fill(pyramid, range(32))
    else:
        fill_sharded(pyramid, 32, shard_bits=3)  # ranges are asked of the filesystem
    reads = Reads(monkeypatch, filesystem, lambda _: time.sleep(0.005))
    found = fetch(pyramid.accessor(), map(coords_of, range(32)))
    assert by_coords(found) == expected(range(32))
    assert reads.most >= 2
    assert len(set(reads.readers)) >= 3


@each_fetch
@pytest.mark.parametrize("in_flight", [1, 3, 64])
def test_all_chunks_come_whether_quick_or_slow(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, in_flight: int, fetch: Any
) -> None:
    pyramid = make_pyramid("memory")
    fill(pyramid, [i for i in range(60) if i % 7])
    reads = Reads(monkeypatch, MemoryFileSystem, lambda path: time.sleep(0.002 * (number_in(path) % 60 >= 30)))
    found = fetch(pyramid.accessor(), map(coords_of, range(60)), in_flight=in_flight)
    assert by_coords(found) == expected([i for i in range(60) if i % 7], range(0, 60, 7))
    assert reads.most <= in_flight


@each_fetch
def test_a_remote_filesystem_is_read_by_threads_at_once(make_pyramid: Callable[[str], Place], fetch: Any) -> None:
    pyramid = make_pyramid("sftp")
    fill(pyramid, range(12))
    callback = Threads()
    found = fetch(pyramid.accessor(), map(coords_of, range(12)), callback=callback)
    assert by_coords(found) == expected(range(12))
    assert callback.counts[0] >= 1, "from the first result on"


@pytest.mark.parametrize("received", [1, 7])
def test_a_batch_that_is_closed_early_reads_no_more(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, received: int
) -> None:
    pyramid = make_pyramid("memory")
    fill(pyramid, range(10))
    reads = Reads(monkeypatch, MemoryFileSystem, lambda _: time.sleep(0.001))
    batch = as_generator(pyramid.accessor().fetch_chunks(KEY, Endless(10), in_flight=5))
    assert len(list(itertools.islice(batch, received))) == received
    batch.close()
    after_closing(reads)


def after_closing(reads: Reads) -> None:
    """Check that nothing is read and that nobody is left who could."""
    begun = len(reads.readers)
    assert reads.inside == 0
    time.sleep(0.02)  # in which nothing must begin
    assert len(reads.readers) == begun
    assert workers() == 0


@pytest.mark.parametrize("received", [1, 7])
def test_an_async_batch_that_is_closed_early_reads_no_more(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, received: int
) -> None:
    pyramid = make_pyramid("memory")
    fill(pyramid, range(10))
    accessor = pyramid.accessor()
    reads = Reads(monkeypatch, MemoryFileSystem, lambda _: time.sleep(0.001))

    async def main() -> None:
        found = 0
        async with aclosing(accessor.fetch_chunks_async(KEY, Endless(10), in_flight=5)) as batch:  # type: ignore[type-var]
            async for _ in batch:
                found += 1
                if found == received:
                    break
        after_closing(reads)

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0, 0.005], ids=["quick", "slow"])
def test_ctrl_c_while_a_chunk_is_read_ends_the_batch(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    pyramid, endless = make_pyramid("memory"), Endless(10)
    fill(pyramid, range(10))
    pressed = [5]

    def during(path: str) -> None:
        time.sleep(seconds)
        if number_in(path) in pressed:
            pressed.clear()
            raise KeyboardInterrupt

    reads = Reads(monkeypatch, MemoryFileSystem, during)
    accessor = pyramid.accessor()
    with pytest.raises(KeyboardInterrupt):
        list(accessor.fetch_chunks(KEY, endless, in_flight=8))
    after_closing(reads)
    assert pressed == []
    assert by_coords(fetch_sync(accessor, map(coords_of, range(10)))) == expected(range(10))


def test_cancelling_an_async_batch_ends_with_the_chunk_that_is_being_read(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    pyramid, go = make_pyramid("memory"), threading.Event()
    fill(pyramid, range(10))
    accessor = pyramid.accessor()
    reads = Reads(monkeypatch, MemoryFileSystem, lambda _: go.wait(WAIT))

    async def consume() -> None:
        async for _ in accessor.fetch_chunks_async(KEY, Endless(10), in_flight=8):
            raise AssertionError

    async def main() -> None:
        task = asyncio.create_task(consume())
        try:
            await asyncio.to_thread(until, lambda: reads.inside >= 1)
            task.cancel()
            await asyncio.wait({task}, timeout=0.05)
            assert not task.done(), "chunks are still being read"
            begun = len(reads.readers)
        finally:
            go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        after_closing(reads)
        assert len(reads.readers) <= max(begun, 8)

    asyncio.run(main())
    assert by_coords(fetch_sync(accessor, map(coords_of, range(10)))) == expected(range(10))


# -------------------------------------------------------------------------------------------------------- lazy, bounded


class Endless:
    """Coordinates without end, of `period` chunks again and again; counts those that were taken."""

    def __init__(self, period: int = 10**9) -> None:
        self.taken = 0
        self._period = period

    def __iter__(self) -> Iterator[ChunkCoords]:
        for i in itertools.count():
            self.taken += 1
            yield coords_of(i % self._period)


@pytest.mark.parametrize("protocol", ["memory", "local", "http", "s3"])
def test_coordinates_are_taken_as_results_are(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    fill(pyramid, range(10))
    endless = Endless(10)
    with closing(as_generator(pyramid.accessor().fetch_chunks(KEY, endless, in_flight=4))) as batch:
        assert endless.taken == 0
        for received in range(1, 30):
            next(batch)
            assert endless.taken <= received + 4


@pytest.mark.parametrize("protocol", ["memory", "http"])
def test_coordinates_are_taken_as_results_are_by_the_async_twin(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    fill(pyramid, range(10))
    accessor, endless = pyramid.accessor(), Endless(10)

    async def main() -> None:
        received = 0
        async with aclosing(accessor.fetch_chunks_async(KEY, endless, in_flight=4)) as batch:  # type: ignore[type-var]
            async for _ in batch:
                received += 1
                assert endless.taken <= received + 4
                if received == 30:
                    break

    asyncio.run(main())


@sync_and_async_filesystem
def test_coordinates_in_shards_are_taken_a_few_windows_ahead(
    make_pyramid: Callable[[str], Place], protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LARGEST_WINDOW", 256)
    pyramid = make_pyramid(protocol)
    fill_sharded(pyramid, 64, shard_bits=2)
    endless = Endless(64)
    with closing(as_generator(pyramid.accessor().fetch_chunks(KEY, endless, in_flight=4))) as batch:
        for _ in range(5):
            next(batch)
        assert endless.taken <= 64
        for _ in range(2000):
            next(batch)
        assert endless.taken <= 2005 + 2 * 256 + 4


def as_generator(batch: Iterator[Any]) -> Generator[Any, None, None]:
    """Say that a batch can be closed."""
    return batch  # type: ignore[return-value]


CHUNK = 1 << 20
PEAK = 24 * CHUNK


@pytest.mark.parametrize("protocol", ["local", "nginx"])
def test_memory_is_bounded_by_what_is_in_flight(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("info", b"{}")
    for i in range(4):
        pyramid.put(name_of(i), bytes([i]) * CHUNK)
    accessor = pyramid.accessor()
    endless = Endless(4)
    with closing(as_generator(accessor.fetch_chunks(KEY, endless, in_flight=4))) as batch:
        next(batch)
        tracemalloc.start()
        try:
            for _ in range(100):
                next(batch)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < PEAK


def test_memory_is_bounded_while_the_consumer_is_slow(make_pyramid: Callable[[str], Place]) -> None:
    gate = Gate(chunk_server(), opens_at=1)
    endless = Endless()
    with servers.fault_server(gate.handle) as server, FsspecAccessor(server.url) as accessor:
        batch = as_generator(accessor.fetch_chunks(KEY, endless, in_flight=4))
        next(batch)
        until(lambda: gate.finished >= 4)
        time.sleep(0.05)  # in which no more must be asked for
        assert (endless.taken, gate.finished) <= (4, 4)
        batch.close()


# ------------------------------------------------------------------------------------------------------ stopped early


def hanging_after(answered: int) -> tuple[servers.Handler, dict[str, int]]:
    """Answer so many chunks, and keep the others waiting for ever; count those that wait."""
    state = {"seen": 0, "hanging": 0}
    inner = chunk_server()

    async def handler(request: web.Request) -> web.StreamResponse:
        if f"/{KEY}/" not in request.path:
            return await inner(request)
        state["seen"] += 1
        if state["seen"] <= answered:
            return await inner(request)
        state["hanging"] += 1
        try:
            await asyncio.sleep(3600)
        finally:
            state["hanging"] -= 1
        raise AssertionError

    return handler, state


def test_closing_a_batch_cancels_what_is_under_way() -> None:
    handler, state = hanging_after(1)
    with servers.fault_server(handler) as server, FsspecAccessor(server.url) as accessor:
        batch = as_generator(accessor.fetch_chunks(KEY, Endless(), in_flight=8))
        next(batch)
        until(lambda: state["hanging"] >= 3)
        batch.close()
        until(lambda: state["hanging"] == 0)
        state["seen"] = 0
        assert accessor.fetch_chunk(KEY, coords_of(3)) == body_of(3)


def test_letting_go_of_a_batch_cancels_what_is_under_way() -> None:
    handler, state = hanging_after(1)
    with servers.fault_server(handler) as server, FsspecAccessor(server.url) as accessor:
        for _ in accessor.fetch_chunks(KEY, Endless(), in_flight=8):
            until(lambda: state["hanging"] >= 3)
            break
        gc.collect()
        until(lambda: state["hanging"] == 0)


def test_breaking_off_an_async_batch_cancels_what_is_under_way() -> None:
    handler, state = hanging_after(1)

    async def main() -> None:
        async for _ in accessor.fetch_chunks_async(KEY, Endless(), in_flight=8):
            await asyncio.to_thread(until, lambda: state["hanging"] >= 3)
            break

    with servers.fault_server(handler) as server, FsspecAccessor(server.url) as accessor:
        asyncio.run(main())
        until(lambda: state["hanging"] == 0)


def test_cancelling_the_task_of_a_batch_cancels_what_is_under_way() -> None:
    handler, state = hanging_after(0)

    async def main() -> None:
        task = asyncio.create_task(consume())
        await asyncio.to_thread(until, lambda: state["hanging"] >= 6)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: state["hanging"] == 0)

    async def consume() -> None:
        async for _ in accessor.fetch_chunks_async(KEY, Endless(), in_flight=8):
            raise AssertionError

    with servers.fault_server(handler) as server, FsspecAccessor(server.url) as accessor:
        asyncio.run(main())


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("received", [0, 1, 17])
@pytest.mark.parametrize("protocol", ["memory", "zip", "http"])
def test_a_batch_that_is_closed_at_any_time_leaves_the_accessor_usable(
    make_pyramid: Callable[[str], Place], protocol: str, received: int, sharded: bool
) -> None:
    pyramid = make_pyramid(protocol)
    if sharded:
        fill_sharded(pyramid, 32, shard_bits=3)
    else:
        fill(pyramid, range(32))
    accessor = pyramid.accessor()
    batch = as_generator(accessor.fetch_chunks(KEY, map(coords_of, range(32)), in_flight=6))
    assert len(list(itertools.islice(batch, received))) == received
    batch.close()
    assert list(batch) == []
    assert by_coords(accessor.fetch_chunks(KEY, map(coords_of, range(32)))) == expected(range(32))


@contextmanager
def interrupted_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Have the main thread raise KeyboardInterrupt, as Ctrl-C does, as soon as something holds."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def watch() -> None:
        until(condition)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("answered", [0, 3])
def test_ctrl_c_ends_a_batch_that_waits(answered: int) -> None:
    handler, state = hanging_after(answered)
    with servers.fault_server(handler) as server, FsspecAccessor(server.url) as accessor:
        found: Fetched = []
        with pytest.raises(KeyboardInterrupt), interrupted_when(lambda: state["hanging"] >= 6):
            found.extend(accessor.fetch_chunks(KEY, Endless(), in_flight=8))
        until(lambda: state["hanging"] == 0)
        state["seen"] = -1
        assert accessor.fetch_chunk(KEY, coords_of(3)) == body_of(3)


INTERRUPTED = """
import faulthandler, json, random, signal, sys
from precomputed_fs import FsspecAccessor

url, options, key, count, stores, times, longest = json.loads(sys.argv[1])
chunks = {(i, i + 1, 0, 64, -64, 0): f"chunk {i}: ".encode() * 20 for i in range(count)}
chance = random.Random(1)
signal.signal(signal.SIGALRM, signal.default_int_handler)

def work(accessor):
    while True:
        if stores:
            accessor.store_chunks(f"new/{chance.random()}", chunks.items(), in_flight=chance.choice([6, 64]))
        else:
            for _ in accessor.fetch_chunks(key, chunks, in_flight=chance.choice([6, 64])):
                pass

with FsspecAccessor(url, storage_options=options, gzip=False) as accessor:
    # Imports the filesystem, in which Python passes over what is raised while it lets go of a module's lock.
    assert dict(accessor.fetch_chunks(key, chunks)) == chunks
    for _ in range(times):
        faulthandler.dump_traceback_later(30, exit=True)
        try:
            try:
                # Once more after a while: Python passes over what is raised where a file is finalized.
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, longest), 2)
                work(accessor)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            assert dict(accessor.fetch_chunks(key, chunks)) == chunks
print("usable")
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "count", "stores", "times", "longest"),
    [
        ("local", 64, False, 40, 0.006),
        ("nginx", 64, False, 40, 0.006),
        ("local", 64, True, 40, 0.006),
        ("s3", 16, True, 10, 0.6),
    ],
)
def test_ctrl_c_at_any_time_leaves_the_accessor_usable(
    make_pyramid: Callable[[str], Place], protocol: str, count: int, *, stores: bool, times: int, longest: float
) -> None:
    pyramid = make_pyramid(protocol)
    fill(pyramid, range(count))
    # Without coverage, which may be interrupted while it holds a lock of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    arguments = [pyramid.url, pyramid.storage_options, KEY, count, stores, times, longest]
    done = subprocess.run(
        # Python warns of a coroutine that was interrupted before it began: of a request that was never sent.
        [sys.executable, "-W", "ignore:coroutine:RuntimeWarning", "-c", INTERRUPTED, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("usable\n", "")
    new = [name for name in pyramid.names() if name.startswith("new/")]
    assert bool(new) == stores
    bodies = {name_of(i).removeprefix(KEY): body_of(i) for i in range(count)}
    assert [name for name in new if pyramid.get(name) != bodies.get(f"/{name.rpartition('/')[2]}")] == []


# ------------------------------------------------------------------------------------------------------------- failing


@each_fetch
def test_a_chunk_that_fails_ends_the_batch_and_is_named(fetch: Any) -> None:
    inner = chunk_server()

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500) if request.path.endswith(name_of(13)) else await inner(request)

    with servers.fault_server(handler) as server, FsspecAccessor(server.url, attempts=1) as accessor:
        with pytest.raises(DataAccessError, match=rf"{name_of(13)}.*500") as caught:
            fetch(accessor, Endless(), in_flight=5)
        assert not isinstance(caught.value, NotFoundError)
        assert fetch(accessor, map(coords_of, range(5))) is not None


def test_after_a_failure_nothing_more_comes() -> None:
    handler, state = hanging_after(3)

    async def failing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500) if request.path.endswith(name_of(2)) else await handler(request)

    with servers.fault_server(failing) as server, FsspecAccessor(server.url, attempts=1) as accessor:
        batch = accessor.fetch_chunks(KEY, Endless(), in_flight=20)
        with pytest.raises(DataAccessError, match=name_of(2)):
            list(batch)
        assert list(batch) == []
        until(lambda: state["hanging"] == 0)


def test_a_corrupt_chunk_is_named_on_every_protocol(readable_pyramid: Place) -> None:
    for i in range(9):
        readable_pyramid.put(f"{name_of(i)}.gz", gzip.compress(body_of(i))[: -3 if i == 5 else None])
    accessor = readable_pyramid.accessor()
    for fetch in FETCH:
        with pytest.raises(CorruptDataError, match=name_of(5)):
            fetch(accessor, map(coords_of, range(9)))


@each_fetch
@pytest.mark.parametrize("sharded", [False, True])
@sync_and_async_filesystem
def test_a_failing_source_of_coordinates_fails_as_it_is(
    make_pyramid: Callable[[str], Place], protocol: str, sharded: bool, fetch: Any
) -> None:
    pyramid = make_pyramid(protocol)
    if sharded:
        fill_sharded(pyramid, 8, shard_bits=1)
    else:
        fill(pyramid, range(8))

    def wanted() -> Iterator[ChunkCoords]:
        yield from map(coords_of, range(3))
        message = "no more"
        raise LookupError(message)

    accessor = pyramid.accessor()
    with pytest.raises(LookupError, match="no more"):
        fetch(accessor, wanted())
    assert by_coords(fetch(accessor, map(coords_of, range(8)))) == expected(range(8))


@each_fetch
@sync_and_async_filesystem
@pytest.mark.parametrize("bad", [(0, 1), (4, 3, 0, 64, -64, 0), (0.5, 1, 0, 64, -64, 0), "012345"])
def test_what_is_no_chunk_among_coordinates_is_an_error(
    make_pyramid: Callable[[str], Place], protocol: str, bad: Any, fetch: Any
) -> None:
    pyramid = make_pyramid(protocol)
    fill(pyramid, range(4))
    accessor = pyramid.accessor()
    with pytest.raises(ValueError, match="chunk_coords: expected"):
        fetch(accessor, [coords_of(0), coords_of(1), bad, coords_of(2)])
    assert by_coords(fetch(accessor, map(coords_of, range(4)))) == expected(range(4))


def test_a_key_that_leaves_the_pyramid_is_an_error_before_anything_is_taken(
    make_pyramid: Callable[[str], Place],
) -> None:
    pyramid = make_pyramid("http")
    accessor, endless = pyramid.accessor(), Endless()
    pyramid.server.log.clear()
    with pytest.raises(ValueError, match=r"\.\./secret"):
        list(accessor.fetch_chunks("../secret", endless))
    assert (endless.taken, pyramid.server.log.count()) == (0, 0)


# ------------------------------------------------------------------------------------------------------------ progress


class Counting(Callback):  # type: ignore[misc]
    """A progress callback that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int | None, int]] = []

    def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
        self.told.append((self.size, self.value))


@each_fetch
@pytest.mark.parametrize("sharded", [False, True])
@sync_and_async_filesystem
def test_a_callback_is_told_the_size_and_of_each_chunk(
    make_pyramid: Callable[[str], Place], protocol: str, sharded: bool, fetch: Any
) -> None:
    pyramid = make_pyramid(protocol)
    if sharded:
        fill_sharded(pyramid, 12, shard_bits=1)
    else:
        fill(pyramid, range(10))  # of which two are absent
    callback = Counting()
    fetch(pyramid.accessor(), [coords_of(i) for i in range(12)], callback=callback)
    assert (callback.size, callback.value) == (12, 12)
    assert [value for _, value in callback.told] == list(range(13))
    assert {size for size, _ in callback.told} == {12}


@each_fetch
def test_a_callback_is_told_no_size_of_what_has_none(make_pyramid: Callable[[str], Place], fetch: Any) -> None:
    pyramid = make_pyramid("memory")
    fill(pyramid, range(5))
    callback = Counting()
    fetch(pyramid.accessor(), map(coords_of, range(5)), callback=callback)
    assert (callback.size, callback.value) == (None, 5)


def test_a_callback_is_told_before_the_chunk_is_handed_over(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("memory")
    fill(pyramid, range(5))
    callback = Counting()
    batch = pyramid.accessor().fetch_chunks(KEY, map(coords_of, range(5)), callback=callback)
    for received, _ in enumerate(batch, 1):
        assert callback.value == received


@pytest.mark.parametrize("verb", ["fetch", "store"])
def test_the_progress_bar_of_fsspec_just_works(make_pyramid: Callable[[str], Place], verb: str) -> None:
    pyramid = make_pyramid("memory")
    fill(pyramid, range(5))
    accessor, screen = pyramid.accessor(), io.StringIO()
    wanted = [coords_of(i) for i in range(5)]
    with TqdmCallback(tqdm_kwargs={"file": screen, "mininterval": 0, "ascii": True}) as callback:
        if verb == "fetch":
            fetch_sync(accessor, wanted, callback=callback)
        else:
            store_sync(accessor, [(coords, b"new") for coords in wanted], callback=callback, overwrite=True)
    assert "5/5" in screen.getvalue()


# ------------------------------------------------------------------------------------------------------------- storing


def chunks_of(indexes: Iterable[int]) -> list[tuple[ChunkCoords, bytes]]:
    return [(coords_of(i), body_of(i)) for i in indexes]


def test_all_chunks_are_stored_on_every_protocol(each_pyramid: Place) -> None:
    store_and_check(each_pyramid, store_sync)


@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_all_chunks_are_stored_by_a_coroutine(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    store_and_check(make_pyramid(protocol), store_async)


def store_and_check(pyramid: Place, store: Any) -> None:
    store(pyramid.accessor(), iter(chunks_of(range(12))))
    assert len(pyramid.names()) == 12
    assert by_coords(pyramid.accessor().fetch_chunks(KEY, map(coords_of, range(12)))) == expected(range(12))


@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_storing_many_is_storing_each(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    one, other = make_pyramid(protocol), make_pyramid(protocol)
    options: Mapping[str, Any] = {"mime_type": "image/jpeg"}
    one.accessor().store_chunks(KEY, chunks_of(range(5)), **options)
    single = other.accessor()
    for coords, chunk in chunks_of(range(5)):
        single.store_chunk(chunk, KEY, coords, **options)
    assert one.contents() == other.contents()
    for name in one.names():
        for field in ("ContentType", "ContentEncoding"):
            assert one.fields(name).get(field) == other.fields(name).get(field)


@each_store
def test_a_chunk_that_exists_is_an_error_that_names_it(pyramid: Place, store: Any) -> None:
    accessor = pyramid.accessor(gzip=False)
    pyramid.put(name_of(7), b"precious")
    with pytest.raises(AlreadyExistsError, match=name_of(7)):
        store(accessor, chunks_of(range(20)), in_flight=1)
    assert pyramid.get(name_of(7)) == b"precious"
    assert pyramid.names() == sorted(name_of(i) for i in range(8))
    for i in range(7):
        assert pyramid.get(name_of(i)) == body_of(i)


def test_a_chunk_that_exists_is_replaced_if_asked(pyramid: Place) -> None:
    accessor = pyramid.accessor()
    accessor.store_chunks(KEY, [(coords_of(i), b"old") for i in range(6)])
    accessor.store_chunks(KEY, chunks_of(range(6)), overwrite=True)
    assert by_coords(accessor.fetch_chunks(KEY, map(coords_of, range(6)))) == expected(range(6))
    assert len(pyramid.names()) == 6


@pytest.mark.parametrize("protocol", ["memory", "s3", "gcs"])
@each_store
def test_chunks_are_taken_as_they_are_stored(make_pyramid: Callable[[str], Place], protocol: str, store: Any) -> None:
    callback, ahead = Counting(), []

    def chunks() -> Iterator[tuple[ChunkCoords, bytes]]:
        for taken, chunk in enumerate(chunks_of(range(24)), 1):
            ahead.append(taken - callback.value)
            yield chunk

    pyramid = make_pyramid(protocol)
    store(pyramid.accessor(), chunks(), in_flight=5, callback=callback)
    assert callback.value == len(pyramid.names()) == 24
    assert max(ahead) <= 5


@each_store
def test_a_callback_is_told_the_size_and_of_each_stored_chunk(make_pyramid: Callable[[str], Place], store: Any) -> None:
    callback = Counting()
    store(make_pyramid("local").accessor(), chunks_of(range(9)), callback=callback)
    assert [value for _, value in callback.told] == list(range(10))
    assert callback.size == 9


@each_store
@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_a_failing_source_of_chunks_fails_as_it_is_and_those_before_are_stored(
    make_pyramid: Callable[[str], Place], protocol: str, store: Any
) -> None:
    def chunks() -> Iterator[tuple[ChunkCoords, bytes]]:
        yield from chunks_of(range(3))
        message = "no more"
        raise LookupError(message)

    pyramid = make_pyramid(protocol)
    accessor = pyramid.accessor(gzip=False)
    with pytest.raises(LookupError, match="no more"):
        store(accessor, chunks())
    assert {name: pyramid.get(name) for name in pyramid.names()} == {name_of(i): body_of(i) for i in range(3)}


@each_store
@pytest.mark.parametrize("protocol", ["memory", "s3"])
@pytest.mark.parametrize("bad", [((0, 1), b""), (coords_of(0), "text"), (coords_of(0), None)], ids=str)
def test_what_is_no_chunk_is_an_error(
    make_pyramid: Callable[[str], Place], protocol: str, bad: Any, store: Any
) -> None:
    pyramid = make_pyramid(protocol)
    with pytest.raises((ValueError, TypeError)):
        store(pyramid.accessor(), [bad])
    assert pyramid.names() == []


def test_a_buffer_may_be_reused_once_the_next_chunk_is_asked_for(make_pyramid: Callable[[str], Place]) -> None:
    buffer = np.zeros(500, "uint8")

    def chunks() -> Iterator[tuple[ChunkCoords, memoryview]]:
        for i in range(20):
            buffer[:] = i
            yield coords_of(i), buffer.data

    pyramid = make_pyramid("s3")
    accessor = pyramid.accessor()
    accessor.store_chunks(KEY, chunks())
    found = dict(accessor.fetch_chunks(KEY, map(coords_of, range(20))))
    assert found == {coords_of(i): bytes([i]) * 500 for i in range(20)}


@pytest.mark.parametrize(("source", "target"), [("http", "s3"), ("memory", "local"), ("gcs", "gcs")])
def test_a_scale_is_copied_by_storing_what_is_fetched(
    make_pyramid: Callable[[str], Place], source: str, target: str
) -> None:
    from_pyramid, to_pyramid = make_pyramid(source), make_pyramid(target)
    fill(from_pyramid, range(10))
    fetched = from_pyramid.accessor().fetch_chunks(KEY, map(coords_of, range(14)))
    copy = to_pyramid.accessor()
    copy.store_chunks(KEY, ((coords, chunk) for coords, chunk in fetched if chunk is not None))
    assert by_coords(copy.fetch_chunks(KEY, map(coords_of, range(10)))) == expected(range(10))


@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_one_accessor_stores_what_it_fetches(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    fill(pyramid, range(10))
    accessor = pyramid.accessor()
    fetched = accessor.fetch_chunks(KEY, map(coords_of, range(10)))
    accessor.store_chunks("other", ((coords, (chunk or b"")[::-1]) for coords, chunk in fetched))
    found = dict(accessor.fetch_chunks("other", map(coords_of, range(10))))
    assert found == {coords_of(i): body_of(i)[::-1] for i in range(10)}
