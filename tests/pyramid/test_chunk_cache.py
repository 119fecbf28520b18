"""Fetched chunks are kept in memory: each is asked for once, within a limit, and an own write is never missed."""

import contextlib
import os
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precomputed_fs import FsspecAccessor, NotFoundError, Volume, open_volume
from precomputed_fs.format.grid import Box
from precomputed_fs.pyramid import copies
from precomputed_fs.pyramid.chunk_cache import ChunkCache, Place
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.location import resolve
from precomputed_fs.store.requests import Body
from tests.support import servers
from tests.volume.samples import BOUNDS, CHUNK, OFFSET, SIZE, make, requests, voxels

SHARDS = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 10,
    "data_encoding": "gzip",
}
LAYOUTS = pytest.mark.parametrize("options", [{}, {"gzip": True}, {"sharding": SHARDS}], ids=["raw", "gzip", "shards"])
HERE = Place("memory://here/1mm")
FIRST = (-5, 11, 7, 15, 100, 109)


def chunk(size: int) -> Stored:
    return Stored(resolve("memory://here"), "1mm/chunk", Body([bytes(size)]))


# ------------------------------------------------------------------------------------------------------------ the cache


def test_the_least_recently_used_go_first() -> None:
    cache = ChunkCache(10_000)
    for which in range(3):
        cache.put(HERE, which, chunk(2400), cache.changes)
    assert cache.get(HERE, 0) is not None
    cache.put(HERE, 3, chunk(2400), cache.changes)
    assert [cache.get(HERE, which) is not None for which in range(4)] == [True, False, True, True]
    assert 7200 < cache.size <= 10_000
    cache.put(HERE, 4, chunk(10_000), cache.changes)  # larger than all: nothing goes for it
    assert [cache.get(HERE, which) is not None for which in range(5)] == [True, False, True, True, False]


def test_absent_chunks_take_room_too() -> None:
    cache = ChunkCache(10_000)
    for which in range(100):
        cache.put(HERE, which, None, cache.changes)
    assert cache.size <= 10_000
    assert cache.get(HERE, 0) is None
    kept = cache.get(HERE, 99)
    assert kept is not None
    assert kept.stored is None


def test_what_was_written_meanwhile_is_not_kept() -> None:
    cache = ChunkCache(10_000)
    since = cache.changes
    cache.forget(HERE, 1)
    cache.put(HERE, 1, chunk(10), since)
    assert cache.get(HERE, 1) is None


def test_a_place_or_everything_is_forgotten() -> None:
    cache, there = ChunkCache(10_000), Place(HERE.scale, 5)
    for place in (HERE, there):
        for which in range(2):
            cache.put(place, which, chunk(10), cache.changes)
    cache.forget(there)
    assert [cache.get(place, which) is not None for place in (HERE, there) for which in range(2)] == [
        True,
        True,
        False,
        False,
    ]
    cache.clear()
    assert cache.size == 0


def test_a_chunk_of_a_shard_is_kept_without_its_neighbours() -> None:
    cache = ChunkCache(10_000)
    body = Body([bytes(1 << 20)])
    cache.put(HERE, 1, Stored(resolve("memory://here"), "0.shard", body, span=(5, 15)), cache.changes)
    kept = cache.get(HERE, 1)
    assert kept is not None
    assert kept.stored is not None
    assert kept.stored.data == bytes(10)
    assert cache.size < 1000


def test_no_cache_keeps_nothing() -> None:
    cache = ChunkCache(0)
    cache.put(HERE, 1, chunk(10), cache.changes)
    assert (cache.get(HERE, 1), cache.size) == (None, 0)


# ----------------------------------------------------------------------------------------------------- counted requests


@pytest.fixture(params=[{}, {"gzip": True}, {"sharding": SHARDS}], ids=["raw", "gzip", "shards"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[servers.HttpServer]:
    made = make(tmp_path, **{"gzip": False, **request.param})
    if "sharding" not in request.param:
        (file,) = (tmp_path / made[0].key).glob("-5-11_7-15_100-109*")
        file.unlink()
    with servers.http_server(tmp_path) as server:
        yield server


def test_scrolling_through_slices_reads_each_chunk_once(served: servers.HttpServer) -> None:
    volume = open_volume(served.url, cache="1 MiB")
    scale = volume[0]
    slices = [scale[:, :, z] for z in range(*BOUNDS[2])]
    asked = requests(served)[1:]
    if scale.info.sharding is None:
        assert set(Counter(asked).values()) == {1}  # the absent chunk under each of its names
    again = [scale[:, :, z] for z in range(*BOUNDS[2])]
    whole = scale[...]
    sampled = scale.sample([(0, 20, 110), (-5, 7, 100)])
    for coords in (FIRST, (11, 27, 7, 15, 100, 109)):
        with contextlib.suppress(NotFoundError):
            volume.accessor.fetch_chunk(scale.key, coords)
    assert requests(served)[1:] == asked
    assert np.array_equal(np.stack(slices, 2), whole)
    assert np.array_equal(np.stack(again, 2), whole)
    assert np.array_equal(sampled[0], whole[5, 13, 10])
    expected = voxels()
    if scale.info.sharding is None:
        expected[:16, :8, :9] = 0
    assert np.array_equal(whole, expected)


def test_a_small_cache_stays_within_its_limit(served: servers.HttpServer) -> None:
    volume = open_volume(served.url, cache=20_000)
    for z in range(*BOUNDS[2]):
        volume[0][:, :, z]
        assert 0 < volume.pyramid.shards.kept.size <= 20_000


def test_without_a_cache_each_slice_reads_its_chunks(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        for z in (100, 101):
            volume[0][:11, :15, z]
        assert len(requests(server)) == 3


# ----------------------------------------------------------------------------------------------------------- own writes


@LAYOUTS
def test_own_writes_are_seen(options: dict[str, Any]) -> None:
    """Write and read boxes at random, with a cache that is too small for all chunks."""
    expected = voxels()
    volume = make("memory://tests/volume/cached", expected.copy(), cache=60_000, **options)
    rng = np.random.default_rng(0)

    def random_box() -> tuple[Box, tuple[slice, ...]]:
        low = rng.integers(0, SIZE)
        high = rng.integers(low, np.minimum(low + 20, SIZE)) + 1
        start, stop = (low + OFFSET).tolist(), (high + OFFSET).tolist()
        return Box(tuple(start), tuple(stop)), tuple(map(slice, low, high))

    def step(volume: Volume) -> None:
        box, index = random_box()
        if rng.random() < 0.4:
            value = int(rng.integers(0, 3))
            volume[0][box] = value
            expected[index] = value
        box, index = random_box()
        assert np.array_equal(volume[0][box], expected[index])

    for _ in range(20):
        step(volume)
    with volume:
        for _ in range(20):
            step(volume)
    for _ in range(10):
        step(volume)
    assert np.array_equal(open_volume("memory://tests/volume/cached")[0][...], expected)


@LAYOUTS
def test_chunks_stored_through_the_accessor_are_seen(options: dict[str, Any]) -> None:
    volume = make("memory://tests/volume/cached", cache="1 MB", **options)
    accessor, key = volume.accessor, volume[0].key
    before = accessor.fetch_chunk(key, FIRST)
    new = bytes(len(before))
    accessor.store_chunk(new, key, FIRST, overwrite=True)
    assert accessor.fetch_chunk(key, FIRST) == new
    accessor.flush()
    assert dict(accessor.fetch_chunks(key, [FIRST])) == {FIRST: new}
    accessor.store_chunks(key, [(FIRST, before)], overwrite=True)
    assert dict(accessor.fetch_chunks(key, [FIRST])) == {FIRST: before}
    accessor.flush()
    assert accessor.fetch_chunk(key, FIRST) == before
    with volume.pyramid.with_own_buffer() as sibling:
        sibling.store_chunk(new, key, FIRST, overwrite=True)
        accessor.fetch_chunk(key, FIRST)
        sibling.flush()
    assert accessor.fetch_chunk(key, FIRST) == new


def test_files_and_deletions_are_seen() -> None:
    volume = make("memory://tests/volume/cached", cache="1 MB")
    accessor, key = volume.accessor, volume[0].key
    before = accessor.fetch_chunk(key, FIRST)
    name = f"{key}/-5-11_7-15_100-109"
    accessor.store_file(name, bytes(len(before)), overwrite=True)
    assert accessor.fetch_chunk(key, FIRST) == bytes(len(before))
    volume.pyramid.delete_file(name)
    for _ in range(2):  # asked for, and remembered
        with pytest.raises(NotFoundError, match=r"does not exist.* \(looked under \d+ names\)"):
            accessor.fetch_chunk(key, FIRST)
    accessor.store_chunk(before, key, FIRST)
    assert accessor.fetch_chunk(key, FIRST) == before
    copies.delete_data(volume.pyramid, key)
    assert dict(accessor.fetch_chunks(key, [FIRST])) == {FIRST: None}


@LAYOUTS
def test_writes_of_others_are_not_seen(options: dict[str, Any]) -> None:
    make("memory://tests/volume/cached", **options)
    volume = open_volume("memory://tests/volume/cached", cache="1 MB")
    before = volume[0][...]
    open_volume("memory://tests/volume/cached")[0][...] = 1
    assert np.array_equal(volume[0][...], before)


# ---------------------------------------------------------------------------------------------------- pickles and forks


def test_a_pickled_volume_has_an_empty_cache_of_the_same_size() -> None:
    volume = make("memory://tests/volume/cached", cache="1 MB")
    volume[0][...]
    kept = pickle.loads(pickle.dumps(volume)).pyramid.shards.kept
    assert (kept.limit, kept.size) == (1_000_000, 0)
    assert volume.pyramid.shards.kept.size > 10_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_has_a_cache_of_its_own() -> None:
    volume = make("memory://tests/volume/cached", cache="1 MB")
    volume[0][...]
    volume.pyramid.shards.kept._entries.lock.acquire()  # as another thread may hold it
    process = os.fork()
    if not process:
        os._exit(0 if volume.pyramid.shards.kept.size == 0 and volume[0][...].any() else 1)
    volume.pyramid.shards.kept._entries.lock.release()
    assert os.waitpid(process, 0)[1] == 0


def test_chunks_from_behind_links_are_not_served(tmp_path: Path) -> None:
    volume = make(tmp_path / "pyramid", cache="1 MB", gzip=False)
    (file,) = (tmp_path / "pyramid" / volume[0].key).glob("-5-11_7-15_100-109")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert volume.accessor.fetch_chunk(volume[0].key, FIRST)
    confined = dict(volume.pyramid.confined().fetch_chunks(volume[0].key, [(11, 27, 7, 15, 100, 109)]))
    assert [len(data) for data in confined.values()] == [np.prod(CHUNK) * 4]
    with pytest.raises(Exception, match="link"):
        volume.pyramid.confined().fetch_chunk(volume[0].key, FIRST)


def test_the_size_is_checked() -> None:
    with pytest.raises(ValueError, match="cache: expected a number of bytes, or a text such as"):
        FsspecAccessor("memory://tests/volume/cached", cache="large")
