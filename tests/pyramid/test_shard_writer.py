"""Shards as they are written: every byte, on every protocol, with others writing, failing and looking on."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import itertools
import json
import pickle
import random
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest
import s3fs
import tensorstore
import yarl
from aiohttp import web
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs import AccessDeniedError, AlreadyExistsError, DataAccessError, FsspecAccessor, NotFoundError
from precomputed_fs.format.sharding import Sharding, propose_sharding
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.store.requests import Get, Put
from tests.pyramid.sharded_volume import (
    BY_ID,
    CHUNK_SIZE,
    CHUNKS,
    COORDS,
    FIRST,
    GRID,
    KEY,
    ONE_SHARD,
    RAW_SHARD,
    SECOND,
    THIRD,
    VOXELS,
    Array,
    HeldFiles,
    Spec,
    chunk_id,
    chunks_of,
    info_of,
    other,
    parse,
    parse_all,
    sharding,
    unzipped,
)
from tests.support import servers
from tests.support.shards import MURMUR
from tests.support.tools import (
    bucket_of_tensorstore,
    read_with_cloud_volume,
    read_with_tensorstore,
    write_with_tensorstore,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from precomputed_fs.format.grid import ChunkCoords
    from precomputed_fs.format.shard_index import Entry
    from precomputed_fs.store.requests import Job
    from tests.support.places import Place


REPO = Path(__file__).parents[2]


def started(pyramid: Place, spec: Spec, **options: Any) -> FsspecAccessor:
    """Put an `info` and return an accessor."""
    pyramid.put("info", info_of(spec))
    return pyramid.accessor(**options)


def written(pyramid: Place, spec: Spec, chunks: Mapping[ChunkCoords, bytes] = CHUNKS) -> None:
    with started(pyramid, spec) as accessor:
        accessor.store_chunks(KEY, chunks.items())


@contextmanager
def dropping(accessor: FsspecAccessor) -> Iterator[FsspecAccessor]:
    """Let go of what still waits at the end, which a flush would write."""
    try:
        yield accessor
    finally:
        accessor.pyramid.writer.drop()


def read_all(accessor: FsspecAccessor) -> dict[ChunkCoords, bytes | None]:
    return dict(accessor.fetch_chunks(KEY, COORDS))


def read_each(accessor: FsspecAccessor, wanted: Iterable[ChunkCoords]) -> dict[ChunkCoords, bytes]:
    return {coords: accessor.fetch_chunk(KEY, coords) for coords in wanted}


def check_with_other_readers(folder: Path | str, voxels: Array = VOXELS) -> None:
    np.testing.assert_array_equal(read_with_tensorstore(folder)[1][..., 0], voxels)
    np.testing.assert_array_equal(read_with_cloud_volume(folder)[1][..., 0], voxels)


ENCODINGS = [
    sharding(hash_=hash_, index=index, data=data)
    for hash_, index, data in itertools.product(("identity", MURMUR), ("raw", "gzip"), ("raw", "gzip"))
]
BITS = {
    "identity": [(7, 0, 0), (63, 0, 1), (0, 0, 7), (2, 3, 9)],
    MURMUR: [(0, 0, 0), (3, 4, 0), (1, 2, 4), (0, 7, 2)],
}
SPECS = ENCODINGS + [sharding(bits, hash_) for hash_ in BITS for bits in BITS[hash_]]
SOME_SPECS = [ENCODINGS[0], ENCODINGS[3], ENCODINGS[5], ENCODINGS[6]]


def name_of(spec: Spec) -> str:
    bits = "-".join(str(spec[f"{name}_bits"]) for name in ("preshift", "minishard", "shard"))
    return f"{spec['hash'][:6]}-{spec['minishard_index_encoding']}-{spec['data_encoding']}-{bits}"


# ------------------------------------------------------------------------------------------------------ whole volumes


def test_a_volume_is_read_back_on_every_protocol(each_pyramid: Place) -> None:
    spec = ENCODINGS[3]
    written(each_pyramid, spec)
    assert parse_all(each_pyramid.contents(), spec) == BY_ID
    assert read_all(each_pyramid.accessor()) == CHUNKS


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_tensorstore_and_cloud_volume_read_ours(make_pyramid: Callable[[str], Place], spec: Spec) -> None:
    pyramid = make_pyramid("local")
    written(pyramid, spec)
    assert parse_all(pyramid.contents(), spec) == BY_ID
    check_with_other_readers(pyramid.url)
    assert read_all(pyramid.accessor()) == CHUNKS


@pytest.mark.parametrize("offset", [(0, 0, 0), (-21, -13, -9), (100, 2, 1), (-3, 5, -(2**20))])
def test_a_volume_may_begin_anywhere(make_pyramid: Callable[[str], Place], offset: tuple[int, ...]) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(sharding(), offset=offset))
    chunks = chunks_of(VOXELS, offset)
    with pyramid.accessor() as accessor:
        accessor.store_chunks(KEY, chunks.items())
    assert parse_all(pyramid.contents(), sharding()) == BY_ID
    check_with_other_readers(pyramid.url)
    assert dict(pyramid.accessor().fetch_chunks(KEY, chunks)) == chunks


@pytest.mark.parametrize("protocol", ["http", "nginx"])
@pytest.mark.parametrize("read", [read_with_tensorstore, read_with_cloud_volume])
def test_others_read_ours_over_http(
    make_pyramid: Callable[[str], Place], protocol: str, read: Callable[[str], Any]
) -> None:
    pyramid, source = make_pyramid(protocol), make_pyramid("local")
    written(source, sharding())
    for name, body in source.contents().items():
        pyramid.put(name, body)
    np.testing.assert_array_equal(read(pyramid.url)[1][..., 0], VOXELS)


def test_tensorstore_reads_ours_in_a_bucket(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    pyramid = make_pyramid("s3")
    written(pyramid, sharding())
    bucket = bucket_of_tensorstore(pyramid, monkeypatch)
    np.testing.assert_array_equal(read_with_tensorstore(bucket)[1][..., 0], VOXELS)


@pytest.mark.parametrize("protocol", ["s3", "gcs", "azure"])
def test_a_shard_is_stored_without_http_compression(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    written(pyramid, ONE_SHARD)
    fields = pyramid.fields(f"{KEY}/0.shard")
    assert (fields["ContentEncoding"] or None, fields["ContentType"]) == (None, "application/octet-stream")


def test_a_part_of_a_volume_leaves_the_rest_absent(pyramid: Place) -> None:
    written(pyramid, sharding(), {coords: CHUNKS[coords] for coords in COORDS[::7]})
    accessor = pyramid.accessor()
    expected = {coords: CHUNKS[coords] if coords in COORDS[::7] else None for coords in COORDS}
    assert read_all(accessor) == expected
    with pytest.raises(NotFoundError):
        accessor.fetch_chunk(KEY, SECOND)


# ------------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("spec", SOME_SPECS, ids=name_of)
def test_neither_order_nor_number_of_calls_changes_the_bytes(make_pyramid: Callable[[str], Place], spec: Spec) -> None:
    whole, single, parts = (make_pyramid("local") for _ in range(3))
    written(whole, spec)
    with started(single, spec) as accessor:
        for coords in random.Random(1).sample(COORDS, len(COORDS)):
            accessor.store_chunk(CHUNKS[coords], KEY, coords)
    for wanted in (COORDS[40:], COORDS[:13], COORDS[13:40]):
        written(parts, spec, {coords: CHUNKS[coords] for coords in wanted})
    assert single.contents() == whole.contents()
    assert parts.contents() == whole.contents()


def test_the_bytes_are_the_same_on_every_protocol(each_pyramid: Place, make_pyramid: Callable[[str], Place]) -> None:
    local = make_pyramid("local")
    for each in (each_pyramid, local):
        written(each, sharding())
    assert each_pyramid.contents() == local.contents()


def test_storing_twice_what_is_there_changes_nothing(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    written(pyramid, sharding())
    before = pyramid.contents()
    with pyramid.accessor() as accessor:
        accessor.store_chunks(KEY, CHUNKS.items(), overwrite=True)
    assert pyramid.contents() == before


# ----------------------------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("spec", SOME_SPECS[::3], ids=name_of)
def test_rewriting_one_chunk_keeps_all_others(pyramid: Place, spec: Spec) -> None:
    written(pyramid, spec)
    with pyramid.accessor() as accessor:
        accessor.store_chunk(other(SECOND), KEY, SECOND, overwrite=True)
    assert parse_all(pyramid.contents(), spec) == BY_ID | {chunk_id(SECOND): other(SECOND)}
    assert read_all(pyramid.accessor()) == CHUNKS | {SECOND: other(SECOND)}


@pytest.mark.parametrize("spec", SOME_SPECS[::3], ids=name_of)
def test_adding_one_chunk_keeps_all_others(pyramid: Place, spec: Spec) -> None:
    written(pyramid, spec, {coords: chunk for coords, chunk in CHUNKS.items() if coords != THIRD})
    with pyramid.accessor() as accessor:
        accessor.store_chunk(CHUNKS[THIRD], KEY, THIRD)
    assert parse_all(pyramid.contents(), spec) == BY_ID


@pytest.mark.parametrize("spec", SOME_SPECS, ids=name_of)
def test_a_shard_of_tensorstore_is_merged_with_ours(tmp_path: Path, spec: Spec) -> None:
    write_with_tensorstore(tmp_path, json.loads(info_of(spec)), [VOXELS[..., np.newaxis]])
    with FsspecAccessor(tmp_path) as accessor:
        accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
    expected = VOXELS.copy()
    expected[: CHUNK_SIZE[0], : CHUNK_SIZE[1], : CHUNK_SIZE[2]] = 0
    check_with_other_readers(tmp_path, expected)
    with FsspecAccessor(tmp_path) as accessor:
        assert read_all(accessor) == CHUNKS | {FIRST: other(FIRST)}


NEUROGLANCER_SCRIPTS = """
import itertools, sys
from neuroglancer_scripts.sharded_file_accessor import ShardedFileAccessor
accessor = ShardedFileAccessor(sys.argv[1])
for x, y, z in itertools.product(range(0, 16, 4), range(0, 8, 4), range(0, 8, 4)):
    accessor.store_chunk(bytes([x, y, z]) + bytes(125), sys.argv[2], (x, x + 4, y, y + 4, z, z + 4))
accessor.close()
"""


def run(code: str, *arguments: Any, options: Iterable[str] = ()) -> str:
    """Run a program in a process of its own; returns what it said on its standard error."""
    command = [sys.executable, *options, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stderr


@pytest.mark.processes
@pytest.mark.parametrize(("index", "data"), [("gzip", "gzip"), ("raw", "gzip"), ("raw", "raw")])
def test_a_shard_of_neuroglancer_scripts_is_merged_with_ours(tmp_path: Path, index: str, data: str) -> None:
    """Its "gzip" is zlib; it takes cubic chunks only."""
    spec = sharding((1, 2, 1), index=index, data=data)
    info = json.loads(info_of(spec, offset=(0, 0, 0)))
    info["scales"][0] |= {"size": [16, 8, 8], "chunk_sizes": [[4, 4, 4]]}
    (tmp_path / "info").write_text(json.dumps(info))
    (tmp_path / KEY).mkdir()
    run(NEUROGLANCER_SCRIPTS, tmp_path, KEY)
    corners = itertools.product(range(0, 16, 4), range(0, 8, 4), range(0, 8, 4))
    chunks = {(x, x + 4, y, y + 4, z, z + 4): bytes([x, y, z]) + bytes(125) for x, y, z in corners}
    first, ours = next(iter(chunks)), bytes(range(128))
    with FsspecAccessor(tmp_path) as accessor:
        assert dict(accessor.fetch_chunks(KEY, chunks)) == chunks
        accessor.store_chunk(ours, KEY, first, overwrite=True)
    with FsspecAccessor(tmp_path) as accessor:
        assert dict(accessor.fetch_chunks(KEY, chunks)) == chunks | {first: ours}
    merged = parse((tmp_path / KEY / "0.shard").read_bytes(), spec)
    assert (unzipped(merged[0]) if data == "gzip" else merged[0]) == ours
    assert sorted(path.name for path in (tmp_path / KEY).iterdir()) == ["0.shard", "1.shard"]


def split(pyramid: Place, spec: Spec) -> None:
    """Make the older layout of each shard."""
    for name in pyramid.names():
        if name.endswith(".shard"):
            body, header = pyramid.get(name), 16 << spec["minishard_bits"]
            pyramid.put(name.replace(".shard", ".index"), body[:header])
            pyramid.put(name.replace(".shard", ".data"), body[header:])
            pyramid.delete(name)


def test_a_legacy_pair_is_merged_into_one_shard(each_pyramid: Place) -> None:
    written(each_pyramid, ONE_SHARD, {coords: CHUNKS[coords] for coords in COORDS[1:]})
    split(each_pyramid, ONE_SHARD)
    assert each_pyramid.names() == [f"{KEY}/0.data", f"{KEY}/0.index", "info"]
    with each_pyramid.accessor() as accessor:
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
    assert each_pyramid.names() == [f"{KEY}/0.shard", "info"]
    assert parse_all(each_pyramid.contents(), ONE_SHARD) == BY_ID


def test_the_accessor_that_merged_a_legacy_pair_reads_all_on(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    written(pyramid, sharding((1, 2, 4)))
    split(pyramid, sharding((1, 2, 4)))
    accessor = pyramid.accessor()
    assert accessor.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]
    accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
    accessor.flush()
    assert read_all(accessor) == CHUNKS | {FIRST: other(FIRST)}


@pytest.mark.parametrize("start", [FIRST, COORDS[-1]], ids=["merged first", "legacy first"])
def test_a_scale_may_have_legacy_pairs_and_shards(make_pyramid: Callable[[str], Place], start: ChunkCoords) -> None:
    """As it is after one of several legacy shards was written to."""
    pyramid, spec = make_pyramid("local"), sharding((1, 2, 4))
    written(pyramid, spec)
    split(pyramid, spec)
    with pyramid.accessor() as accessor:
        accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
    assert {Path(name).suffix for name in pyramid.names()} == {"", ".shard", ".index", ".data"}
    expected = CHUNKS | {FIRST: other(FIRST)}
    accessor = pyramid.accessor()
    assert accessor.fetch_chunk(KEY, start) == expected[start]
    assert read_all(accessor) == expected


def test_writing_to_a_legacy_pair_beside_shards_keeps_its_chunks(make_pyramid: Callable[[str], Place]) -> None:
    pyramid, spec = make_pyramid("local"), sharding((1, 2, 4))
    written(pyramid, spec)
    split(pyramid, spec)
    with pyramid.accessor() as accessor:  # one after the other: what it has learnt must not mislead it
        for coords in COORDS:
            accessor.store_chunk(other(coords), KEY, coords, overwrite=True)
            accessor.flush()
            assert accessor.fetch_chunk(KEY, COORDS[0]) == other(COORDS[0])
    assert parse_all(pyramid.contents(), spec) == {chunk_id(coords): other(coords) for coords in COORDS}


class KeptFiles(LocalFileSystem):  # type: ignore[misc]
    """Local files, of which those with a suffix cannot be deleted."""

    cachable = False

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self._suffix = suffix

    def rm_file(self, path: str) -> None:
        if path.endswith(self._suffix):
            raise PermissionError(13, "Permission denied", path)
        super().rm_file(path)


@pytest.mark.parametrize("suffix", [".index", ".data"])
def test_a_legacy_pair_that_cannot_be_deleted_is_named_and_its_merge_is_done(
    make_pyramid: Callable[[str], Place], suffix: str
) -> None:
    pyramid = make_pyramid("local")
    written(pyramid, ONE_SHARD, {coords: CHUNKS[coords] for coords in COORDS[1:]})
    split(pyramid, ONE_SHARD)
    with dropping(FsspecAccessor(pyramid.url, fs=KeptFiles(suffix))) as accessor:
        accessor.store_chunk(other(SECOND), KEY, SECOND, overwrite=True)
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        with pytest.raises(AccessDeniedError, match=rf"0\{suffix}"):
            accessor.flush()
        assert accessor.pyramid.writer.waiting == {}
        accessor.flush()
    assert f"{KEY}/0{suffix}" in pyramid.names()
    merged = parse(pyramid.get(f"{KEY}/0.shard"), ONE_SHARD)
    assert {key: unzipped(data) for key, data in merged.items()} == BY_ID | {chunk_id(SECOND): other(SECOND)}
    assert read_all(pyramid.accessor()) == CHUNKS | {SECOND: other(SECOND)}


def test_a_minishard_of_entries_without_size_becomes_empty(make_pyramid: Callable[[str], Place]) -> None:
    """neuroglancer-scripts writes such entries: they mean that a chunk is absent."""
    pyramid, spec = make_pyramid("local"), sharding((1, 2, 0), data="raw")
    ids = sorted({chunk_id(coords) for coords in COORDS if chunk_id(coords) >> 1 & 3 == 2})
    absent = np.array([np.diff(ids, prepend=0), [0] * len(ids), [0] * len(ids)], "<u8").tobytes()
    index = gzip.compress(absent)
    places = [0, 0, 0, 0, 0, len(index), 0, 0]
    pyramid.put(f"{KEY}/0.shard", struct.pack("<8Q", *places) + index)
    with started(pyramid, spec) as accessor:
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
    assert parse(pyramid.get(f"{KEY}/0.shard"), spec) == {0: CHUNKS[FIRST]}


def test_a_broken_shard_is_not_written_over(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    written(pyramid, RAW_SHARD)
    broken = pyramid.get(f"{KEY}/0.shard")[:-7]
    pyramid.put(f"{KEY}/0.shard", broken)
    with dropping(pyramid.accessor()) as accessor:
        accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
        with pytest.raises(DataAccessError, match=r"0\.shard"):
            accessor.flush()
    assert pyramid.get(f"{KEY}/0.shard") == broken


# ----------------------------------------------------------------------------------------------------------- waiting


def test_a_waiting_chunk_is_read_before_the_flush(pyramid: Place) -> None:
    with dropping(started(pyramid, sharding())) as accessor:
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        assert pyramid.names() == ["info"]
        assert accessor.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]
        assert dict(accessor.fetch_chunks(KEY, [FIRST, SECOND])) == {FIRST: CHUNKS[FIRST], SECOND: None}
        with pytest.raises(NotFoundError):
            accessor.fetch_chunk(KEY, SECOND)


def test_a_waiting_chunk_hides_the_stored_one(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    written(pyramid, sharding())
    with dropping(pyramid.accessor()) as accessor:
        accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
        assert accessor.fetch_chunk(KEY, FIRST) == other(FIRST)
        assert read_all(accessor) == CHUNKS | {FIRST: other(FIRST)}
        assert read_all(pyramid.accessor()) == CHUNKS


def test_storing_again_while_waiting_replaces(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    with started(pyramid, ONE_SHARD) as accessor:
        for body in (b"one", b"another", CHUNKS[FIRST]):
            accessor.store_chunk(body, KEY, FIRST, overwrite=True)
        assert accessor.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]
    assert parse_all(pyramid.contents(), ONE_SHARD) == {0: CHUNKS[FIRST]}


def test_what_was_flushed_is_read_by_the_same_accessor(pyramid: Place) -> None:
    written(pyramid, sharding())
    accessor = pyramid.accessor()
    assert read_all(accessor) == CHUNKS
    accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
    accessor.flush()
    assert accessor.fetch_chunk(KEY, FIRST) == other(FIRST)
    assert read_all(accessor) == CHUNKS | {FIRST: other(FIRST)}


def test_a_stored_chunk_is_not_replaced_unasked(pyramid: Place) -> None:
    written(pyramid, sharding())
    with pyramid.accessor() as accessor, pytest.raises(AlreadyExistsError, match=KEY):
        accessor.store_chunk(other(FIRST), KEY, FIRST)
    assert read_all(pyramid.accessor()) == CHUNKS


def test_a_waiting_chunk_is_not_replaced_unasked(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    with started(pyramid, sharding()) as accessor:
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        with pytest.raises(AlreadyExistsError, match=KEY):
            accessor.store_chunk(other(FIRST), KEY, FIRST)
    assert pyramid.accessor().fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]


def test_a_chunk_of_a_batch_that_exists_is_an_error(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    written(pyramid, sharding(), {THIRD: CHUNKS[THIRD]})
    with pyramid.accessor() as accessor, pytest.raises(AlreadyExistsError):
        accessor.store_chunks(KEY, [(coords, other(coords)) for coords in COORDS])
    assert pyramid.accessor().fetch_chunk(KEY, THIRD) == CHUNKS[THIRD]


def test_what_is_no_chunk_of_the_grid_is_refused_when_it_is_stored(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    with started(pyramid, sharding()) as accessor, pytest.raises(ValueError, match="grid"):
        accessor.store_chunk(b"x", KEY, (FIRST[0], FIRST[1] + 1, *FIRST[2:]))
    assert pyramid.names() == ["info"]


# ------------------------------------------------------------------------------------------------- flush, close, leave


def test_flush_writes_what_waits(pyramid: Place) -> None:
    accessor = started(pyramid, sharding())
    accessor.store_chunks(KEY, CHUNKS.items())
    accessor.flush()
    assert parse_all(pyramid.contents(), sharding()) == BY_ID


def test_close_writes_what_waits(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    accessor = started(pyramid, sharding())
    accessor.store_chunks(KEY, CHUNKS.items())
    accessor.close()
    assert parse_all(pyramid.contents(), sharding()) == BY_ID


def test_leaving_a_block_writes_what_waits_also_when_it_raises(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")

    def interrupted() -> None:
        with started(pyramid, sharding()) as accessor:
            accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
            raise KeyError(FIRST)

    with pytest.raises(KeyError):
        interrupted()
    assert pyramid.accessor().fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]


def test_an_accessor_goes_on_after_flush_and_close(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    accessor = started(pyramid, sharding())
    for coords in COORDS[:3]:
        accessor.store_chunk(CHUNKS[coords], KEY, coords)
        accessor.close()
    for coords in COORDS[3:6]:
        accessor.store_chunk(CHUNKS[coords], KEY, coords)
        accessor.flush()
    assert parse_all(pyramid.contents(), sharding()) == {chunk_id(coords): CHUNKS[coords] for coords in COORDS[:6]}


def test_several_scales_wait_together(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD, keys=("fine", "coarse")))
    with pyramid.accessor() as accessor:
        for coords in COORDS:
            accessor.store_chunk(CHUNKS[coords], "fine", coords)
            accessor.store_chunk(other(coords), "coarse", coords)
    fine, coarse = (parse(pyramid.get(f"{key}/0.shard"), ONE_SHARD) for key in ("fine", "coarse"))
    assert {key: unzipped(data) for key, data in fine.items()} == BY_ID
    assert {key: unzipped(data) for key, data in coarse.items()} == {key: bytes(len(BY_ID[key])) for key in BY_ID}


# ----------------------------------------------------------------------------------------------------------- pickling


def test_a_pickle_with_waiting_chunks_is_refused(make_pyramid: Callable[[str], Place]) -> None:
    accessor = started(make_pyramid("local"), sharding())
    accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
    with pytest.raises(TypeError, match="flush"):
        pickle.dumps(accessor)


@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_a_pickled_accessor_writes_and_sees_what_it_wrote(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    accessor = started(pyramid, sharding())
    accessor.store_chunks(KEY, CHUNKS.items())
    accessor.flush()
    with pickle.loads(pickle.dumps(accessor)) as copy:
        assert read_all(copy) == CHUNKS
        copy.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
        copy.flush()
        assert read_all(copy) == CHUNKS | {FIRST: other(FIRST)}


# ----------------------------------------------------------------------------------------------------------- requests

WRITES = {"s3": "PUT", "gcs": "POST"}


@pytest.mark.parametrize("protocol", WRITES)
def test_flush_and_close_with_nothing_waiting_send_nothing(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    accessor = started(pyramid, sharding())
    pyramid.server.log.clear()
    accessor.flush()
    accessor.close()
    assert pyramid.server.log.methods() == []
    accessor.store_chunks(KEY, CHUNKS.items())
    accessor.flush()
    pyramid.server.log.clear()
    accessor.flush()
    accessor.close()
    assert pyramid.server.log.methods() == []


@pytest.mark.parametrize("protocol", WRITES)
def test_many_chunks_of_a_new_shard_are_one_write(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    accessor = pyramid.accessor()
    accessor.store_file("info", info_of(ONE_SHARD), mime_type="application/json")
    accessor.store_chunks(KEY, CHUNKS.items(), overwrite=True)
    pyramid.server.log.clear()
    accessor.flush()
    assert pyramid.server.log.count(WRITES[protocol]) == 1
    assert parse_all(pyramid.contents(), ONE_SHARD) == BY_ID


@pytest.mark.parametrize("protocol", WRITES)
def test_many_chunks_of_an_existing_shard_are_one_write(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    written(pyramid, ONE_SHARD)
    with pyramid.accessor() as accessor:
        accessor.store_chunks(KEY, [(coords, other(coords)) for coords in COORDS[:9]], overwrite=True)
        pyramid.server.log.clear()
        accessor.flush()
        log = pyramid.server.log
        assert log.count(WRITES[protocol]) == 1
        assert log.count("GET") <= 1 + 4 + 4, "shard index, four minishard indexes, their chunks in one range each"


def test_replacing_every_chunk_of_a_minishard_reads_none_of_it(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    written(pyramid, ONE_SHARD)
    with pyramid.accessor() as accessor:
        accessor.store_chunks(KEY, [(coords, other(coords)) for coords in COORDS], overwrite=True)
        pyramid.server.log.clear()
        accessor.flush()
        assert pyramid.server.log.count("GET") <= 1 + 4, "indexes only"


def test_storing_with_overwrite_asks_nothing(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    written(pyramid, ONE_SHARD)
    with dropping(pyramid.accessor()) as accessor:
        accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
        pyramid.server.log.clear()
        accessor.store_chunk(other(SECOND), KEY, SECOND, overwrite=True)
        assert pyramid.server.log.methods() == []


def store_each(accessor: FsspecAccessor, chunks: Mapping[ChunkCoords, bytes]) -> None:
    for coords, chunk in chunks.items():
        accessor.store_chunk(chunk, KEY, coords)


def store_batch(accessor: FsspecAccessor, chunks: Mapping[ChunkCoords, bytes]) -> None:
    accessor.store_chunks(KEY, chunks.items())


def requested(pyramid: Place) -> list[str]:
    """Return the methods and file names that the server was asked for."""
    return sorted(f"{request.method} {Path(request.path).name}" for request in pyramid.server.log.entries())


@pytest.mark.parametrize("store", [store_each, store_batch])
@pytest.mark.parametrize("protocol", WRITES)
def test_storing_new_chunks_asks_once_for_a_shard_that_is_not_there(
    make_pyramid: Callable[[str], Place], protocol: str, store: Callable[..., None]
) -> None:
    pyramid = make_pyramid(protocol)
    assert {chunk_id(coords) >> 1 & 3 for coords in COORDS} == {0, 1, 2, 3}, "the chunks of all minishards"
    with dropping(started(pyramid, ONE_SHARD)) as accessor:
        pyramid.server.log.clear()
        store(accessor, CHUNKS)
        assert requested(pyramid) == ["GET 0.index", "GET 0.shard", "GET info"]
        accessor.flush()
    assert parse_all(pyramid.contents(), ONE_SHARD) == BY_ID


@pytest.mark.parametrize("store", [store_each, store_batch])
def test_storing_new_chunks_asks_once_for_each_shard_that_is_not_there(
    make_pyramid: Callable[[str], Place], store: Callable[..., None]
) -> None:
    pyramid = make_pyramid("s3")
    with dropping(started(pyramid, sharding((0, 1, 2)))) as accessor:
        pyramid.server.log.clear()
        store(accessor, CHUNKS)
        shards = [f"GET {number}.{suffix}" for number in range(4) for suffix in ("index", "shard")]
        assert requested(pyramid) == [*shards, "GET info"]


@pytest.mark.parametrize("protocol", WRITES)
def test_a_new_chunk_that_another_writer_stored_meanwhile_is_refused_at_the_flush(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    with dropping(started(pyramid, ONE_SHARD)) as accessor:
        accessor.store_chunks(KEY, CHUNKS.items())
        written(pyramid, ONE_SHARD, {SECOND: other(SECOND)})
        with pytest.raises(AlreadyExistsError, match=rf"{KEY}: chunk {chunk_id(SECOND)} exists"):
            accessor.flush()
        assert accessor.pyramid.writer.waiting == {}
        expected = BY_ID | {chunk_id(SECOND): other(SECOND)}
        assert parse_all(pyramid.contents(), ONE_SHARD) == expected
        accessor.flush()
        assert accessor.fetch_chunk(KEY, SECOND) == other(SECOND)
    assert parse_all(pyramid.contents(), ONE_SHARD) == expected


def test_once_a_new_shard_is_written_its_chunks_are_refused_at_once(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    with dropping(started(pyramid, ONE_SHARD)) as accessor:
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        accessor.flush()
        with pytest.raises(AlreadyExistsError, match=KEY):
            accessor.store_chunk(other(FIRST), KEY, FIRST)
        assert accessor.pyramid.writer.waiting == {}


# ------------------------------------------------------------------------------------------------------- buffer, memory

MEBI = 1 << 20
BIG_CHUNK = (128, 128, 64)  # voxels of uint8: 1 MiB


def big_info(count: int, spec: Spec) -> bytes:
    scale = {
        "key": KEY,
        "size": [BIG_CHUNK[0] * count, *BIG_CHUNK[1:]],
        "resolution": [1, 1, 1],
        "chunk_sizes": [list(BIG_CHUNK)],
        "encoding": "raw",
        "sharding": spec,
    }
    return json.dumps({"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale]}).encode()


def big_coords(number: int) -> ChunkCoords:
    x, y, z = BIG_CHUNK
    return number * x, (number + 1) * x, 0, y, 0, z


def big_chunk(number: int, salt: int = 0) -> bytes:
    return struct.pack("<Q", number + 1000 * salt) * (MEBI // 8)


def spilled(folder: Path) -> int:
    """Count the bytes of this process's open temporary files in a folder; they have no names."""
    size = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if str(link.readlink()).startswith(str(folder)):
                size += link.stat().st_size
        except FileNotFoundError:
            continue
    return size


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have temporary files made in a folder of the test's own."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_buffer_goes_to_disk_beyond_its_limit_and_is_released(
    make_pyramid: Callable[[str], Place], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", 1000)
    pyramid, spec = make_pyramid("local"), sharding(data="raw")
    accessor = started(pyramid, spec)
    accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
    assert spilled(scratch) == 0
    accessor.store_chunks(KEY, [(coords, CHUNKS[coords]) for coords in COORDS[1:]])
    for coords in COORDS:  # reading from the buffer must not disturb what is written to it
        assert accessor.fetch_chunk(KEY, coords) == CHUNKS[coords]
        accessor.store_chunk(other(coords), KEY, coords, overwrite=True)
    assert spilled(scratch) > 0
    accessor.flush()
    assert parse_all(pyramid.contents(), spec) == {key: bytes(len(chunk)) for key, chunk in BY_ID.items()}
    assert spilled(scratch) == 0
    assert list(scratch.iterdir()) == []


class StoredAgain:
    """Stores the same few chunks again and again, each of its own length, with bytes that do not compress."""

    def __init__(self, pyramid: Place, spec: Spec) -> None:
        info = info_of(spec).replace(b'"encoding": "raw"', b'"encoding": "jpeg"')  # which may have any length
        pyramid.put("info", info)
        self.accessor = pyramid.accessor()
        self.last: dict[ChunkCoords, bytes] = {}
        self.live = 10 * 300  # bytes, at most, of what waits
        self.total = 0  # bytes, at least, of all that was stored
        self.buffers: list[Any] = []
        self._chance = random.Random(4)

    def __call__(self, times: int) -> Iterator[int]:
        """Yield how many bytes the buffer has after each."""
        for number in range(times):
            coords = COORDS[number % 10]
            chunk = self._chance.randbytes(100 + 16 * (number % 10))
            self.accessor.store_chunk(chunk, KEY, coords, overwrite=True)
            self.last[coords] = chunk
            self.total += len(chunk)
            writer = self.accessor.pyramid.writer
            buffer = writer._buffer
            with buffer._lock:
                size = 0 if buffer._file is None else buffer._file.seek(0, 2)
                if buffer._file not in (None, *self.buffers[-1:]):
                    self.buffers.append(buffer._file)
            yield size

    def by_id(self) -> dict[int, bytes]:
        return {chunk_id(coords): chunk for coords, chunk in self.last.items()}


@pytest.mark.parametrize("limit", [1000, 10_000], ids=["small buffer", "large buffer"])
@pytest.mark.parametrize("data", ["raw", "gzip"])
def test_chunks_that_are_stored_again_and_again_do_not_fill_the_disk(
    make_pyramid: Callable[[str], Place], scratch: Path, monkeypatch: pytest.MonkeyPatch, data: str, limit: int
) -> None:
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", limit)
    pyramid, spec = make_pyramid("local"), sharding(data=data)
    storing = StoredAgain(pyramid, spec)
    with dropping(storing.accessor) as accessor:
        bound = 2 * max(storing.live, limit)
        for step, size in enumerate(storing(500)):
            assert size < bound
            assert step % 10 or spilled(scratch) < bound
        assert storing.total > 3 * bound
        assert len(storing.buffers) < 2 * storing.total // limit, "it is copied now and then only"
        assert read_each(accessor, storing.last) == storing.last
        accessor.flush()
        assert parse_all(pyramid.contents(), spec) == storing.by_id()


def test_a_small_buffer_is_left_as_it_is(
    make_pyramid: Callable[[str], Place], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", 1_000_000)
    storing = StoredAgain(make_pyramid("local"), sharding(data="raw"))
    with dropping(storing.accessor):
        *_, size = storing(1000)
        assert size == storing.total
        assert spilled(scratch) == 0


@pytest.mark.processes
@pytest.mark.parametrize("data", ["raw", "gzip"])
@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_what_is_being_flushed_stays_in_its_place_in_the_buffer(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, protocol: str, data: str
) -> None:
    """A flush that has begun is held before it reads the shard's index; then it takes chunks from the buffer."""
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", 1000)
    pyramid, spec = make_pyramid(protocol), sharding((1, 2, 0), data=data)
    storing = StoredAgain(pyramid, spec)
    with dropping(storing.accessor) as accessor, ThreadPoolExecutor(1) as pool:
        list(storing(20))
        before, hold = storing.by_id(), Hold(accessor, Get)
        flush = flushing_late(pool, accessor, hold)
        list(storing(200))
        hold.go.set()
        flush.result()
        assert parse_all(pyramid.contents(), spec) == before
        assert read_each(accessor, storing.last) == storing.last
        *_, size = storing(20)
        assert size < 2 * storing.live, "what was put off during the flush"
        accessor.flush()
        assert parse_all(pyramid.contents(), spec) == storing.by_id()


@pytest.mark.parametrize("data", ["raw", "gzip"])
def test_chunks_are_stored_again_and_again_while_others_flush(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", 1000)
    pyramid, spec, done = make_pyramid("local"), sharding((0, 1, 2), data=data), threading.Event()
    storing = StoredAgain(pyramid, spec)
    with dropping(storing.accessor) as accessor, ThreadPoolExecutor(2) as pool:

        def flush() -> int:
            count = 0
            while not done.is_set():
                accessor.flush()
                count += 1
            return count

        flushes = [pool.submit(flush) for _ in range(2)]
        try:
            for number, _ in enumerate(storing(500)):
                coords = COORDS[number * 7 % min(10, number + 1)]
                assert accessor.fetch_chunk(KEY, coords) == storing.last[coords]
        finally:
            done.set()
        assert [future.result() > 1 for future in flushes] == [True, True]
        accessor.flush()
        assert parse_all(pyramid.contents(), spec) == storing.by_id()


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Measure the most memory that Python has in use during the block, beyond what it had."""
    peak: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", ["raw", "gzip"])
def test_memory_is_bounded_however_many_chunks_wait(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", MEBI)
    count, spec = 32, sharding((0, 3, 0), data=data)
    pyramid = make_pyramid("local")
    pyramid.put("info", big_info(count, spec))
    accessor = pyramid.accessor(compresslevel=0)
    with peak_memory() as peak:
        for number in range(count):
            accessor.store_chunk(big_chunk(number), KEY, big_coords(number))
    assert peak[0] < 8 * MEBI, "storing"
    with peak_memory() as peak:
        accessor.flush()
    assert peak[0] < 8 * MEBI, "writing a new shard"
    for number in range(0, count, 2):
        accessor.store_chunk(big_chunk(number, salt=1), KEY, big_coords(number), overwrite=True)
    with peak_memory() as peak:
        accessor.flush()
    assert peak[0] < 16 * MEBI, "merging: one minishard, four chunks, and the range they are cut from"
    for number in range(count):
        assert accessor.fetch_chunk(KEY, big_coords(number)) == big_chunk(number, salt=(number + 1) % 2)


@pytest.mark.parametrize("protocol", WRITES)
def test_a_large_shard_is_not_sent_again_to_learn_of_exclusive_create(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid, spec = make_pyramid(protocol), sharding((0, 1, 0), index="raw", data="raw")
    pyramid.put("info", big_info(2, spec))
    with dropping(pyramid.accessor()) as accessor:
        for number in range(2):
            accessor.store_chunk(big_chunk(number), KEY, big_coords(number))
        pyramid.server.log.clear()
        accessor.flush()
    assert pyramid.server.log.count(WRITES[protocol]) == 1
    assert parse(pyramid.get(f"{KEY}/0.shard"), spec) == {number: big_chunk(number) for number in range(2)}


@pytest.mark.slow
def test_a_shard_too_large_for_one_part_is_uploaded_and_replaced(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs sends two parts' size and more in parts, for which it knows no If-Match: a replacement is one PUT."""
    chunksize, *others = s3fs.S3FileSystem._pipe_file.__defaults__
    assert chunksize == 50 * MEBI
    monkeypatch.setattr(s3fs.S3FileSystem._pipe_file, "__defaults__", (5 * MEBI, *others))
    count, spec = 11, sharding((0, 3, 0), index="raw", data="raw")
    pyramid = make_pyramid("s3")
    pyramid.put("info", big_info(count, spec))
    with pyramid.accessor() as accessor:
        for number in range(count):
            accessor.store_chunk(big_chunk(number), KEY, big_coords(number), overwrite=True)
        pyramid.server.log.clear()
    uploads = [request.query for request in pyramid.server.log.entries() if request.method == "POST"]
    assert ["uploads" in query for query in uploads] == [True, False], "begun once, completed once"
    expected = {number: big_chunk(number) for number in range(count)}
    assert parse(pyramid.get(f"{KEY}/0.shard"), spec) == expected
    with pyramid.accessor() as accessor:
        accessor.store_chunk(big_chunk(1, salt=1), KEY, big_coords(1), overwrite=True)
        pyramid.server.log.clear()
    (write,) = [request for request in pyramid.server.log.entries() if request.method in {"PUT", "POST"}]
    assert "If-Match" in write.headers
    assert parse(pyramid.get(f"{KEY}/0.shard"), spec) == expected | {1: big_chunk(1, salt=1)}


# ------------------------------------------------------------------------------------------- whole, or not there at all


def test_a_shard_is_complete_whenever_it_is_seen(make_pyramid: Callable[[str], Place]) -> None:
    spec, count = sharding((0, 2, 0), index="raw", data="raw"), 4
    pyramid = make_pyramid("local")
    pyramid.put("info", big_info(count, spec))
    path, done, seen = Path(pyramid.url) / KEY / "0.shard", threading.Event(), set()

    def watch() -> None:
        while not done.is_set():
            if path.exists():
                chunks = parse(path.read_bytes(), spec)
                assert len(chunks) == count
                (salt,) = {struct.unpack("<Q", chunk[:8])[0] // 1000 for chunk in chunks.values()}
                assert all(chunk == big_chunk(number, salt) for number, chunk in chunks.items())
                seen.add(salt)
            assert {entry.name for entry in path.parent.glob("[!.]*")} <= {"0.shard"}

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            with pyramid.accessor() as accessor:
                for salt in range(15):
                    chunks = [(big_coords(number), big_chunk(number, salt)) for number in range(count)]
                    accessor.store_chunks(KEY, chunks, overwrite=True)
                    accessor.flush()
        finally:
            done.set()
        watching.result()
    assert len(seen) > 1, "the watcher was too slow to see anything"


FLUSHING = """
import itertools, struct, sys
from precomputed_fs import FsspecAccessor
accessor = FsspecAccessor(sys.argv[1])
for salt in itertools.count(int(sys.argv[3])):
    for n in range(16):
        chunk = struct.pack("<Q", n + 1000 * salt) * (1 << 17)
        accessor.store_chunk(chunk, sys.argv[2], (n * 128, n * 128 + 128, 0, 128, 0, 64), overwrite=True)
    accessor.flush()
"""


def killed_while_flushing(pyramid: Place, salt: int) -> None:
    """Have another process flush, and kill it while a file is being written."""
    folder = Path(pyramid.url) / KEY
    before = set(folder.glob(".*"))
    command = [sys.executable, "-c", FLUSHING, pyramid.url, KEY, str(salt)]
    writer = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 3 * servers.DEADLINE
    try:
        while not set(folder.glob(".*")) - before:
            assert time.monotonic() < deadline, "nothing is being written"
            assert writer.poll() is None, writer.stderr and writer.stderr.read()
    finally:
        writer.kill()
        writer.communicate()


@pytest.mark.processes
def test_a_killed_flush_leaves_the_old_shard_or_the_new(make_pyramid: Callable[[str], Place]) -> None:
    spec = sharding((0, 2, 0), index="raw", data="raw")
    pyramid = make_pyramid("local")
    pyramid.put("info", big_info(16, spec))
    killed_while_flushing(pyramid, 1)
    shards = [name for name in pyramid.names() if name.endswith(".shard")]
    salts = {
        struct.unpack("<Q", chunk[:8])[0] // 1000
        for name in shards
        for chunk in parse(pyramid.get(name), spec).values()
    }
    assert len(salts) <= 1
    with pyramid.accessor() as accessor:
        accessor.store_chunks(KEY, [(big_coords(n), big_chunk(n, 500)) for n in range(16)], overwrite=True)
    killed_while_flushing(pyramid, 501)
    chunks = parse(pyramid.get(f"{KEY}/0.shard"), spec)
    (salt,) = {struct.unpack("<Q", chunk[:8])[0] // 1000 for chunk in chunks.values()}
    assert salt >= 500
    assert chunks == {number: big_chunk(number, salt) for number in range(16)}
    with pyramid.accessor() as accessor:
        accessor.store_chunk(big_chunk(3, 999), KEY, big_coords(3), overwrite=True)
    assert parse(pyramid.get(f"{KEY}/0.shard"), spec) == chunks | {3: big_chunk(3, 999)}


# ----------------------------------------------------------------------------------------------------------- failures

HOP_BY_HOP = {"Host", "Content-Length", "Transfer-Encoding", "Connection", "Date", "Server"}


class Gate:
    """In front of a server: writes of shards are passed on, refused or held."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.refusing = False
        self.holding = False
        self.arrived = threading.Event()
        self.go = threading.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method in {"PUT", "POST"}:
            if self.refusing:
                return web.Response(status=503, headers={"Retry-After": "0"})
            if self.holding:
                self.arrived.set()
                assert await asyncio.to_thread(self.go.wait, servers.DEADLINE)
        return await self._pass_on(request)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        url = yarl.URL(self.endpoint + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name.title() not in HOP_BY_HOP}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, headers=headers, data=await request.read()) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.title() not in HOP_BY_HOP}
            body = await answer.read()
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, body=body, headers=kept)


@contextmanager
def gated(pyramid: Place) -> Iterator[tuple[FsspecAccessor, Gate]]:
    """Make an accessor that reaches the pyramid's server through a gate."""
    gate = Gate(pyramid.server.endpoint)
    with servers.fault_server(gate.handle) as front:
        options = {**pyramid.storage_options, "endpoint_url": front.url}
        with FsspecAccessor(pyramid.url, storage_options=options, attempts=2) as accessor:
            try:
                yield accessor, gate
            except BaseException:  # what waits would fail again
                accessor.pyramid.writer.drop()
                raise


@pytest.mark.parametrize("existing", [False, True], ids=["new shard", "existing shard"])
def test_what_a_server_refuses_goes_on_waiting(make_pyramid: Callable[[str], Place], existing: bool) -> None:
    pyramid = make_pyramid("s3")
    written(pyramid, ONE_SHARD, {coords: CHUNKS[coords] for coords in COORDS[10 if existing else 60 :]})
    before = pyramid.contents()
    with gated(pyramid) as (accessor, gate):
        accessor.store_chunks(KEY, [(coords, CHUNKS[coords]) for coords in COORDS[:10]], overwrite=True)
        gate.refusing = True
        with pytest.raises(DataAccessError, match=r"0\.shard.*Service Unavailable"):
            accessor.flush()
        assert pyramid.contents() == before
        assert read_each(accessor, COORDS[:10]) == {coords: CHUNKS[coords] for coords in COORDS[:10]}
        gate.refusing = False
        accessor.flush()
    wanted = COORDS if existing else COORDS[:10]
    assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(coords): CHUNKS[coords] for coords in wanted}


def test_what_finds_no_room_in_its_folder_goes_on_waiting(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    with dropping(started(pyramid, ONE_SHARD)) as accessor:
        pyramid.put(KEY, b"a file where the folder would be")
        accessor.store_chunks(KEY, CHUNKS.items(), overwrite=True)
        with pytest.raises(DataAccessError, match=r"0\.shard"):
            accessor.flush()
        assert read_each(accessor, COORDS) == CHUNKS
        pyramid.delete(KEY)
        accessor.flush()
        assert parse_all(pyramid.contents(), ONE_SHARD) == BY_ID


def test_a_shard_that_cannot_be_written_does_not_hold_up_the_others(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precomputed_fs.store.jobs._MOST_CONFLICTS", 3)
    pyramid, spec = make_pyramid("local"), sharding((0, 1, 2))
    with dropping(started(pyramid, spec)) as accessor:
        pyramid.put(f"{KEY}/0.shard/file", b"a folder where the shard would be")
        accessor.store_chunks(KEY, CHUNKS.items(), overwrite=True)
        with pytest.raises(DataAccessError, match=r"0\.shard"):
            accessor.flush()
        assert [f"{KEY}/{number}.shard" in pyramid.names() for number in range(4)] == [False, True, True, True]
        assert accessor.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]
        pyramid.delete(f"{KEY}/0.shard/file")
        Path(pyramid.url, KEY, "0.shard").rmdir()
        accessor.flush()
        assert parse_all(pyramid.contents(), spec) == BY_ID


class ShortOfMemory(MemoryFileSystem):  # type: ignore[misc]
    """Objects in memory, which has no room for some."""

    cachable = False

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = refused

    def pipe_file(self, path: str, *args: Any, **kwargs: Any) -> None:
        if path.endswith(self.refused):
            raise MemoryError(path)
        super().pipe_file(path, *args, **kwargs)


@pytest.mark.parametrize("failing", [(0,), (3,), (1, 2)])
def test_a_failure_that_is_not_the_stores_does_not_hold_up_the_other_shards(
    make_pyramid: Callable[[str], Place], failing: tuple[int, ...]
) -> None:
    pyramid, spec = make_pyramid("memory"), sharding((0, 1, 2))
    pyramid.put("info", info_of(spec))
    files = ShortOfMemory(*(f"/{number}.shard" for number in failing))
    with dropping(FsspecAccessor(pyramid.url, fs=files)) as accessor:
        accessor.store_chunks(KEY, CHUNKS.items())
        expected = (MemoryError, r"\.shard$") if len(failing) == 1 else (DataAccessError, "and 1 more shards")
        with pytest.raises(expected[0], match=expected[1]):
            accessor.flush()
        there = [number for number in range(4) if f"{KEY}/{number}.shard" in pyramid.names()]
        assert there == [number for number in range(4) if number not in failing]
        waiting = [coords for coords in COORDS if chunk_id(coords) >> 1 & 3 in failing]
        assert accessor.pyramid.writer.waiting == {KEY: len(waiting)}
        assert read_all(accessor) == CHUNKS
        files.refused = ()
        accessor.flush()
        assert parse_all(pyramid.contents(), spec) == BY_ID


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as if the disk was full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_a_flush_into_a_full_disk_can_be_repeated(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    with dropping(started(pyramid, RAW_SHARD)) as accessor:
        accessor.store_chunks(KEY, CHUNKS.items())
        with full_disk(2000), pytest.raises(DataAccessError):
            accessor.flush()
        assert pyramid.names() == ["info"]
        assert read_each(accessor, COORDS) == CHUNKS
        accessor.flush()
        assert parse_all(pyramid.contents(), RAW_SHARD) == BY_ID


def test_a_chunk_that_the_full_disk_cannot_take_harms_no_other(
    make_pyramid: Callable[[str], Place], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", 100)
    pyramid = make_pyramid("local")
    with dropping(started(pyramid, RAW_SHARD)) as accessor:
        for coords in COORDS[:5]:
            accessor.store_chunk(CHUNKS[coords], KEY, coords)
        with full_disk(spilled(scratch) + 10), pytest.raises(DataAccessError):
            accessor.store_chunk(CHUNKS[COORDS[5]], KEY, COORDS[5])
        accessor.store_chunk(CHUNKS[COORDS[6]], KEY, COORDS[6])
        accessor.flush()
        wanted = [*COORDS[:5], COORDS[6]]
        assert parse_all(pyramid.contents(), RAW_SHARD) == {chunk_id(coords): CHUNKS[coords] for coords in wanted}


# ---------------------------------------------------------------------------------------------------- several at once


def flushing_late(pool: ThreadPoolExecutor, accessor: FsspecAccessor, gate: Any) -> Any:
    """Begin a flush and return its future when it has come to the write, where it is held."""
    gate.holding = True
    flush = pool.submit(accessor.flush)
    assert gate.arrived.wait(servers.DEADLINE)
    gate.holding = False
    return flush


def before_each(job: Job[Any], kind: type, act: Callable[[], None]) -> Job[Any]:
    """Run a job, and act before each of its requests of a kind is sent."""
    answer: Any = None
    error: Exception | None = None
    while True:
        try:
            request = job.send(answer) if error is None else job.throw(error)
        except StopIteration as end:
            return end.value
        if isinstance(request, kind):
            act()
        try:
            answer, error = (yield request), None
        except Exception as exc:  # noqa: BLE001 - it goes on to the job
            error = exc


class Hold:
    """Between an accessor and its store, on any protocol: requests of a kind can be held."""

    def __init__(self, accessor: FsspecAccessor, kind: type) -> None:
        self.holding = False
        self.arrived = threading.Event()
        self.go = threading.Event()
        store = accessor.pyramid.store
        run = store.run
        store.run = lambda job: run(before_each(job, kind, self._wait))  # type: ignore[method-assign]

    def _wait(self) -> None:
        if self.holding:
            self.arrived.set()
            assert self.go.wait(servers.DEADLINE)


@contextmanager
def late(pyramid: Place) -> Iterator[tuple[FsspecAccessor, Any]]:
    """Make an accessor whose writes can be held."""
    if pyramid.protocol == "local":
        files = HeldFiles()
        with FsspecAccessor(pyramid.url, fs=files) as accessor:
            try:
                yield accessor, files
            except BaseException:
                accessor.pyramid.writer.drop()
                raise
    else:
        with gated(pyramid) as (accessor, gate):
            yield accessor, gate


def shard_of(wanted: Iterable[ChunkCoords]) -> bytes:
    """Return a shard as another process would have written it."""
    with FsspecAccessor("memory://another-process") as accessor:
        accessor.store_file("info", info_of(ONE_SHARD), overwrite=True)
        accessor.store_chunks(KEY, ((coords, CHUNKS[coords]) for coords in wanted))
        accessor.flush()
        shard = accessor.fetch_file(f"{KEY}/0.shard")
        accessor.pyramid.delete_file(f"{KEY}/0.shard")
    return shard


@pytest.mark.processes
@pytest.mark.parametrize("before", [(), (THIRD,)], ids=["new shard", "existing shard"])
def test_what_another_process_has_written_meanwhile_is_merged(
    each_pyramid: Place, before: tuple[ChunkCoords, ...]
) -> None:
    each_pyramid.put("info", info_of(ONE_SHARD))
    if before:
        each_pyramid.put(f"{KEY}/0.shard", shard_of(before))
    with dropping(each_pyramid.accessor()) as later, ThreadPoolExecutor(1) as pool:
        hold = Hold(later, Put)
        later.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        flush = flushing_late(pool, later, hold)
        each_pyramid.put(f"{KEY}/0.shard", shard_of([*before, SECOND]))
        hold.go.set()
        flush.result()
    wanted = (FIRST, SECOND, *before)
    assert parse_all(each_pyramid.contents(), ONE_SHARD) == {chunk_id(coords): CHUNKS[coords] for coords in wanted}


@pytest.mark.processes
@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_who_never_comes_first_is_told_and_loses_nothing(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setattr("precomputed_fs.store.jobs._MOST_CONFLICTS", 3)
    pyramid = make_pyramid(protocol)
    pyramid.put("info", info_of(ONE_SHARD))
    others = iter([[SECOND], [SECOND, THIRD], [THIRD]])
    with dropping(pyramid.accessor()) as later:
        run = later.pyramid.store.run

        def come_first() -> None:
            pyramid.put(f"{KEY}/0.shard", shard_of(next(others)))

        later.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        with monkeypatch.context() as patch:
            patch.setattr(later.pyramid.store, "run", lambda job: run(before_each(job, Put, come_first)))
            with pytest.raises(
                DataAccessError, match=r"0\.shard.*another writer changed it again and again; flush again"
            ):
                later.flush()
        assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(THIRD): CHUNKS[THIRD]}
        assert later.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]
        later.flush()
    assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(coords): CHUNKS[coords] for coords in (FIRST, THIRD)}


@pytest.mark.parametrize("existing", [False, True], ids=["new shard", "existing shard"])
def test_writers_of_one_shard_that_flush_one_after_the_other_lose_nothing(pyramid: Place, existing: bool) -> None:
    written(pyramid, ONE_SHARD, {THIRD: CHUNKS[THIRD]} if existing else {})
    accessors = [pyramid.accessor() for _ in range(2)]
    for accessor, coords in zip(accessors, (FIRST, SECOND), strict=True):  # each asks for the shard as it is now
        accessor.store_chunk(CHUNKS[coords], KEY, coords)
        assert read_all(accessor)[coords] == CHUNKS[coords]
    for accessor in accessors:
        accessor.flush()
    wanted = (FIRST, SECOND, THIRD) if existing else (FIRST, SECOND)
    assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(coords): CHUNKS[coords] for coords in wanted}


@pytest.mark.parametrize("existing", [False, True], ids=["new shards", "existing shards"])
def test_two_writers_of_the_same_shards_at_once_lose_nothing(each_pyramid: Place, existing: bool) -> None:
    spec, start = sharding((0, 1, 2)), threading.Barrier(2)
    parts: tuple[list[ChunkCoords], ...] = ([], [], [])
    for coords in COORDS:  # so that all have some of each shard
        parts[chunk_id(coords) // 8 % 3 if existing else chunk_id(coords) // 8 % 2].append(coords)
    written(each_pyramid, spec, {coords: CHUNKS[coords] for coords in parts[2]})
    accessors = [each_pyramid.accessor() for _ in range(2)]
    for part, accessor in zip(parts, accessors, strict=False):
        accessor.store_chunks(KEY, [(coords, CHUNKS[coords]) for coords in part])

    def flush(accessor: FsspecAccessor) -> None:
        start.wait()
        accessor.flush()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(flush, accessors))
    assert parse_all(each_pyramid.contents(), spec) == BY_ID


@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_a_chunk_stored_again_while_its_shard_is_written_is_not_lost(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("info", info_of(ONE_SHARD))
    with late(pyramid) as (accessor, gate), ThreadPoolExecutor(1) as pool:
        accessor.store_chunk(other(FIRST), KEY, FIRST)
        flush = flushing_late(pool, accessor, gate)
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST, overwrite=True)
        accessor.store_chunk(CHUNKS[SECOND], KEY, SECOND, overwrite=True)
        gate.go.set()
        flush.result()
        assert accessor.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]
        assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(FIRST): other(FIRST)}
    wanted = (FIRST, SECOND)
    assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(coords): CHUNKS[coords] for coords in wanted}


def test_a_change_of_a_new_chunk_while_its_shard_is_written_is_made_of_that(
    make_pyramid: Callable[[str], Place],
) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    update = Update(b"?", lambda _, chunk, patches: b"".join(patches) + (chunk or b"")[1:])
    with late(pyramid) as (accessor, gate), ThreadPoolExecutor(1) as pool:
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        flush = flushing_late(pool, accessor, gate)
        accessor.store_chunks(KEY, [(FIRST, update)])
        gate.go.set()
        flush.result()
    assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(FIRST): b"?" + CHUNKS[FIRST][1:]}


def test_very_many_changes_of_a_chunk_do_not_all_wait(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in memory at once when they are made."""
    monkeypatch.setattr("precomputed_fs.pyramid.shard_writer._CHANGES_BYTES", 100)
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    most = 0

    def apply(_: ChunkCoords, chunk: bytes | None, patches: Sequence[bytes]) -> bytes:
        nonlocal most
        most = max(most, sum(map(len, patches)))
        return (chunk or b"") + b"".join(patches)

    patches = [bytes([i]) * 10 for i in range(100)]
    with pyramid.accessor() as accessor:
        for patch in patches:  # of one batch, there would be no order among them
            accessor.store_chunks(KEY, [(FIRST, Update(patch, apply))])
    assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(FIRST): b"".join(patches)}
    assert most == 110


def test_a_batch_misses_nothing_that_is_flushed_while_it_is_read(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    pyramid = make_pyramid("memory")
    written(pyramid, ONE_SHARD)
    accessor = pyramid.accessor()
    accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
    find = accessor.pyramid.writer.find

    def find_late(*args: Any) -> Job[Entry | None]:
        accessor.flush()
        return find(*args)

    monkeypatch.setattr(accessor.pyramid.writer, "find", find_late)
    assert dict(accessor.fetch_chunks(KEY, [FIRST, SECOND])) == {FIRST: other(FIRST), SECOND: CHUNKS[SECOND]}


def test_writers_of_different_shards_do_not_disturb_each_other(pyramid: Place) -> None:
    spec = sharding((0, 2, 4))
    pyramid.put("info", info_of(spec))
    shards: dict[int, list[ChunkCoords]] = {}
    for coords in COORDS:
        shards.setdefault(chunk_id(coords) >> 2 & 15, []).append(coords)
    accessors = [pyramid.accessor() for _ in range(4)]
    start = threading.Barrier(len(accessors))

    def write(number: int) -> None:
        start.wait()
        for shard in list(shards)[number :: len(accessors)]:
            for coords in shards[shard]:
                accessors[number].store_chunk(CHUNKS[coords], KEY, coords)
            accessors[number].flush()

    with ThreadPoolExecutor(len(accessors)) as pool:
        list(pool.map(write, range(len(accessors))))
    assert parse_all(pyramid.contents(), spec) == BY_ID


@pytest.mark.parametrize("protocol", ["local", "memory", "s3"])
def test_32_threads_store_into_one_accessor(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    accessor = started(pyramid, sharding((0, 1, 2)))
    start = threading.Barrier(32)

    def store(number: int) -> None:
        start.wait()
        for coords in COORDS[number::32]:
            accessor.store_chunk(CHUNKS[coords], KEY, coords)
            assert accessor.fetch_chunk(KEY, coords) == CHUNKS[coords]

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(store, range(32)))
    accessor.flush()
    assert parse_all(pyramid.contents(), sharding((0, 1, 2))) == BY_ID


@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_threads_store_and_flush_one_accessor(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    with dropping(started(pyramid, ONE_SHARD)) as accessor:
        start = threading.Barrier(8)

        def store(number: int) -> None:
            start.wait()
            for coords in COORDS[number:24:8]:
                accessor.store_chunk(CHUNKS[coords], KEY, coords)
                accessor.flush()
                assert accessor.fetch_chunk(KEY, coords) == CHUNKS[coords]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(store, range(8)))
        assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(coords): CHUNKS[coords] for coords in COORDS[:24]}


def test_of_32_threads_that_store_one_chunk_one_wins(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    accessor = started(pyramid, ONE_SHARD)
    start = threading.Barrier(32)

    def store(number: int) -> bytes | None:
        body = bytes([number]) * len(CHUNKS[FIRST])
        start.wait()
        try:
            accessor.store_chunk(body, KEY, FIRST)
        except AlreadyExistsError:
            return None
        return body

    with ThreadPoolExecutor(32) as pool:
        (winner,) = filter(None, pool.map(store, range(32)))
    accessor.flush()
    assert parse_all(pyramid.contents(), ONE_SHARD) == {0: winner}


# ---------------------------------------------------------------------------------------------------------- async door


def test_the_async_door_stores_and_flushes(pyramid: Place) -> None:
    accessor = started(pyramid, sharding())

    async def write() -> None:
        await accessor.flush_async()
        await asyncio.gather(*(accessor.store_chunk_async(CHUNKS[coords], KEY, coords) for coords in COORDS))
        assert await accessor.fetch_chunk_async(KEY, FIRST) == CHUNKS[FIRST]
        assert pyramid.names() == ["info"]
        await accessor.flush_async()
        assert await accessor.fetch_chunk_async(KEY, FIRST) == CHUNKS[FIRST]
        with pytest.raises(AlreadyExistsError):
            await accessor.store_chunk_async(other(FIRST), KEY, FIRST)

    asyncio.run(write())
    assert parse_all(pyramid.contents(), sharding()) == BY_ID


def test_two_flushes_at_once_write_each_chunk(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    with dropping(started(pyramid, sharding((0, 1, 2)))) as accessor:

        async def write() -> None:
            await asyncio.gather(*(accessor.store_chunk_async(CHUNKS[coords], KEY, coords) for coords in COORDS))
            await asyncio.gather(accessor.flush_async(), accessor.flush_async())

        asyncio.run(write())
        assert parse_all(pyramid.contents(), sharding((0, 1, 2))) == BY_ID


# ------------------------------------------------------------------------------------------------- proposed sharding

grids = st.tuples(*[st.integers(1, 1 << 21)] * 3)
chunk_sizes = st.integers(1, 1 << 26)
shard_sizes = st.integers(1 << 12, 1 << 34)


def id_bits(grid: tuple[int, int, int]) -> int:
    return sum((count - 1).bit_length() for count in grid)


@given(grids, chunk_sizes, shard_sizes)
def test_the_proposed_bits_add_up_to_those_of_the_grid(grid: Any, chunk_bytes: int, shard_bytes: int) -> None:
    proposed = propose_sharding(grid, chunk_bytes, shard_bytes=shard_bytes)
    assert proposed.preshift_bits + proposed.minishard_bits + proposed.shard_bits == id_bits(grid)


@given(grids, chunk_sizes, shard_sizes)
def test_a_proposed_shard_is_as_large_as_asked_for_and_no_larger(grid: Any, chunk_bytes: int, shard_bytes: int) -> None:
    proposed = propose_sharding(grid, chunk_bytes, shard_bytes=shard_bytes)
    chunks = 1 << proposed.preshift_bits + proposed.minishard_bits
    assert chunks == 1 or chunks * chunk_bytes <= shard_bytes
    assert proposed.shard_bits == 0 or 2 * chunks * chunk_bytes > shard_bytes


@given(grids, chunk_sizes, shard_sizes, st.sampled_from(["raw", "gzip"]))
def test_a_proposal_survives_info(grid: Any, chunk_bytes: int, shard_bytes: int, data: str) -> None:
    proposed = propose_sharding(grid, chunk_bytes, shard_bytes=shard_bytes, data_encoding=data)
    info = json.loads(json.dumps(proposed.to_info()))
    assert Sharding.from_info(info) == proposed
    assert proposed.data_encoding == data


@given(grids, chunk_sizes, shard_sizes)
def test_tensorstore_accepts_a_proposal(grid: Any, chunk_bytes: int, shard_bytes: int) -> None:
    proposed = propose_sharding(grid, chunk_bytes, shard_bytes=shard_bytes)
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": "memory://",
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        "scale_metadata": {
            "key": KEY,
            "size": [count * 2 for count in grid],
            "resolution": [1, 1, 1],
            "encoding": "raw",
            "chunk_size": [2, 2, 2],
            "sharding": proposed.to_info(),
        },
    }
    store = tensorstore.open(spec, create=True, context=tensorstore.Context()).result()
    assert store.spec().to_json()["scale_metadata"]["sharding"] == proposed.to_info()


def test_a_grid_of_more_chunks_than_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        propose_sharding((1 << 22, 1 << 22, 1 << 21), 1 << 17)


@pytest.mark.parametrize("shard_bytes", [1, 500, 2000, 1 << 30])
def test_a_volume_with_a_proposed_sharding_is_read_by_others(
    make_pyramid: Callable[[str], Place], shard_bytes: int
) -> None:
    pyramid = make_pyramid("local")
    spec = propose_sharding(GRID, 128, shard_bytes=shard_bytes).to_info()
    written(pyramid, spec)
    check_with_other_readers(pyramid.url)
    assert parse_all(pyramid.contents(), spec) == BY_ID


# --- A: beside test_a_legacy_pair_that_cannot_be_deleted_is_named_and_its_merge_is_done


@pytest.mark.parametrize("suffix", [".index", ".data"])
def test_a_shard_comes_before_the_pair_that_was_left_beside_it(
    make_pyramid: Callable[[str], Place], suffix: str
) -> None:
    """As it is after a merge whose writer could not delete the pair, or was killed before that."""
    pyramid, spec = make_pyramid("local"), sharding((1, 2, 4))
    written(pyramid, spec)
    split(pyramid, spec)
    expected = CHUNKS | {FIRST: other(FIRST)}
    with dropping(FsspecAccessor(pyramid.url, fs=KeptFiles(suffix))) as accessor:
        accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
        with pytest.raises(AccessDeniedError):
            accessor.flush()
        assert accessor.fetch_chunk(KEY, FIRST) == other(FIRST)
        assert read_all(accessor) == expected
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST, overwrite=True)
        accessor.flush()
        assert accessor.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]
        accessor.store_chunk(other(FIRST), KEY, FIRST, overwrite=True)
        accessor.flush()
    reader = pyramid.accessor()
    assert reader.fetch_chunk(KEY, COORDS[-1]) == CHUNKS[COORDS[-1]], "from a pair"
    assert reader.fetch_chunk(KEY, FIRST) == other(FIRST)
    assert read_all(pyramid.accessor()) == expected


# --- B, C: beside the other tests of the buffer


def test_a_disk_that_fills_up_while_the_buffer_is_renewed_harms_no_chunk(
    make_pyramid: Callable[[str], Place], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", 1000)
    pyramid, spec = make_pyramid("local"), sharding(data="raw")
    storing, room = StoredAgain(pyramid, spec), [10**6]

    class Full(tempfile.SpooledTemporaryFile[bytes]):
        """Not the first, but each later one can take just so many bytes."""

        def write(self, data: Any) -> int:
            if self.seek(0, 2) + len(data) > self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.room = room.pop() if room else 1500

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", Full)
    with dropping(storing.accessor) as accessor:
        with suppress(DataAccessError):  # a chunk may be refused; the others are as they were
            list(storing(100))
        assert read_each(accessor, storing.last) == storing.last
        monkeypatch.undo()
        accessor.flush()
        assert parse_all(pyramid.contents(), spec) == storing.by_id()


def test_what_was_flushed_leaves_the_buffer_while_other_chunks_wait_on(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precomputed_fs.store.jobs._MOST_CONFLICTS", 3)
    monkeypatch.setattr("precomputed_fs.pyramid.write_buffer.BUFFER_BYTES", 1000)
    pyramid, spec = make_pyramid("local"), sharding((0, 1, 2), data="raw")
    with dropping(started(pyramid, spec)) as accessor:
        pyramid.put(f"{KEY}/0.shard/file", b"a folder where the shard would be")
        accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
        written_ = {coords: chunk for coords, chunk in CHUNKS.items() if chunk_id(coords) >> 1 & 3}
        for _ in range(10):
            accessor.store_chunks(KEY, written_.items(), overwrite=True)
            with pytest.raises(DataAccessError, match=r"0\.shard"):
                accessor.flush()
            buffer = accessor.pyramid.writer._buffer._file
            assert buffer is not None
            assert buffer.seek(0, 2) < 2 * 1000 + sum(map(len, written_.values()))
        assert accessor.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST]


# --- E: in tests/test_shards.py, or beside the writers of one shard


@pytest.mark.parametrize(
    ("protocol", "index"),
    [
        *((protocol, "gzip") for protocol in ("memory", "local", "http", "nginx", "s3", "gcs", "azure", "sftp")),
        *((protocol, "raw") for protocol in ("memory", "local", "nginx", "s3")),
    ],
)
def test_a_shard_that_has_become_smaller_is_read_by_those_who_knew_it(
    make_pyramid: Callable[[str], Place], protocol: str, index: str
) -> None:
    spec = sharding((1, 2, 0), index=index, data="raw")
    pyramid, large, small = make_pyramid(protocol), make_pyramid("local"), make_pyramid("local")
    last = max(COORDS, key=chunk_id)
    written(large, spec)
    written(small, spec, {coords: CHUNKS[coords] for coords in (FIRST, last)})
    pyramid.put("info", info_of(spec))
    pyramid.put(f"{KEY}/0.shard", large.get(f"{KEY}/0.shard"))
    one, several, rest = (pyramid.accessor() for _ in range(3))
    for reader in (one, several):
        assert read_all(reader) == CHUNKS
    assert rest.fetch_chunk(KEY, FIRST) == CHUNKS[FIRST], "knows the shard's index, and that of another minishard"
    pyramid.put(f"{KEY}/0.shard", small.get(f"{KEY}/0.shard"))
    assert one.fetch_chunk(KEY, last) == CHUNKS[last]
    assert dict(several.fetch_chunks(KEY, [last, FIRST])) == {last: CHUNKS[last], FIRST: CHUNKS[FIRST]}
    assert rest.fetch_chunk(KEY, last) == CHUNKS[last]
