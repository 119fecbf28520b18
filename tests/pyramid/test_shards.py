"""Shards are read by ranges: those of other tools, on every protocol, broken ones, and ones that change meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import os
import pickle
import random
import re
import struct
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from precomputed_fs import AccessDeniedError, CorruptDataError, DataAccessError, FsspecAccessor, NotFoundError
from precomputed_fs.codecs import ROOM
from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.compression import stored_limit
from precomputed_fs.pyramid import shard_indexes
from tests.support import servers
from tests.support.brain import template
from tests.support.shards import (
    KEY,
    MURMUR,
    PACK,
    SHARD,
    Array,
    Scale,
    Written,
    index_rows,
    pack_shard,
    sharding_of,
    synthesize,
)
from tests.support.tools import CLOUD_VOLUME, NEUROGLANCER_SCRIPTS, TENSORSTORE, Tool, read_with_tensorstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from precomputed_fs.format.grid import ChunkCoords, Triple
    from tests.support.places import Place


WITH_LOG = ("http", "nginx", "s3", "gcs")


def fetch_singly(accessor: FsspecAccessor, coords: Iterable[ChunkCoords]) -> dict[ChunkCoords, bytes | None]:
    return {each: accessor.fetch_chunk(KEY, each) for each in coords}


def fetch_at_once(accessor: FsspecAccessor, coords: Iterable[ChunkCoords]) -> dict[ChunkCoords, bytes | None]:
    return dict(accessor.fetch_chunks(KEY, coords))


def fetch_awaiting(accessor: FsspecAccessor, coords: Iterable[ChunkCoords]) -> dict[ChunkCoords, bytes | None]:
    async def main() -> dict[ChunkCoords, bytes | None]:
        return {each: await accessor.fetch_chunk_async(KEY, each) for each in coords}

    return asyncio.run(main())


FETCH = [fetch_singly, fetch_at_once, fetch_awaiting]
Fetch = "Callable[[FsspecAccessor, Iterable[ChunkCoords]], dict[ChunkCoords, bytes | None]]"
each_fetch = pytest.mark.parametrize("fetch", FETCH)


# ------------------------------------------------------------------------------------------------------- other writers

SIZE: Triple = (40, 36, 20)  # of the volumes: no multiple of the chunks' 16
LABELS = "uint32 labels"
PIECE = template()[80:120, 100:136, 70:90]
SOURCES: Mapping[str, Array] = {
    "uint8": PIECE,
    "uint16": PIECE.astype(np.uint16) * 257 + 1,
    LABELS: PIECE.astype(np.uint32) // 8 * 0x01010101 + 1,
}
LABEL_EXTRA = {"compressed_segmentation_block_size": [8, 8, 4]}
BRAIN: Mapping[str, Any] = {"size": SIZE, "chunk_size": (16, 16, 16)}


def files_below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


FOREIGN: Mapping[str, tuple[Tool, Scale, str]] = {
    "tensorstore identity": (TENSORSTORE, Scale(sharding_of((0, 1, 2)), **BRAIN), "uint8"),
    "tensorstore identity, one shard": (TENSORSTORE, Scale(sharding_of((0, 0, 0)), **BRAIN), "uint8"),
    "tensorstore identity, preshift": (
        TENSORSTORE,
        Scale(sharding_of((2, 1, 1)), **BRAIN),
        "uint8",
    ),
    "tensorstore murmurhash": (
        TENSORSTORE,
        Scale(sharding_of((1, 2, 5), MURMUR), **BRAIN),
        "uint8",
    ),
    "tensorstore gzip data": (TENSORSTORE, Scale(sharding_of((0, 1, 1), data="gzip"), **BRAIN), "uint8"),
    "tensorstore gzip index": (TENSORSTORE, Scale(sharding_of((0, 1, 1), index="gzip"), **BRAIN), "uint8"),
    "tensorstore murmurhash, gzip": (
        TENSORSTORE,
        Scale(sharding_of((0, 3, 2), MURMUR, index="gzip", data="gzip"), **BRAIN, data_type="uint16"),
        "uint16",
    ),
    "tensorstore anisotropic": (
        TENSORSTORE,
        Scale(sharding_of((0, 2, 1), index="gzip"), SIZE, chunk_size=(40, 5, 2), voxel_offset=(5, 3, 7)),
        "uint8",
    ),
    "tensorstore negative offset": (
        TENSORSTORE,
        Scale(sharding_of((0, 1, 1), data="gzip"), SIZE, chunk_size=(16, 8, 16), voxel_offset=(-41, -3, 1000)),
        "uint8",
    ),
    "tensorstore jpeg": (
        TENSORSTORE,
        Scale(sharding_of((0, 1, 1)), **BRAIN, encoding="jpeg", extra={"jpeg_quality": 100}),
        "uint8",
    ),
    "tensorstore compressed_segmentation": (
        TENSORSTORE,
        Scale(
            sharding_of((0, 1, 1), index="gzip", data="gzip"),
            **BRAIN,
            data_type="uint32",
            encoding="compressed_segmentation",
            extra=LABEL_EXTRA,
        ),
        LABELS,
    ),
    "cloud-volume": (
        CLOUD_VOLUME,
        Scale(sharding_of((0, 2, 2), MURMUR), **BRAIN, voxel_offset=(-7, 0, 9)),
        "uint8",
    ),
    "cloud-volume gzip": (
        CLOUD_VOLUME,
        Scale(sharding_of((0, 2, 1), index="gzip", data="gzip"), **BRAIN, data_type="uint16"),
        "uint16",
    ),
    "neuroglancer-scripts": (NEUROGLANCER_SCRIPTS, Scale(sharding_of((0, 1, 1)), **BRAIN), "uint8"),
    "neuroglancer-scripts zlib": (
        NEUROGLANCER_SCRIPTS,
        Scale(sharding_of((0, 1, 2), index="gzip", data="gzip"), **BRAIN),
        "uint8",
    ),
}


@dataclass(frozen=True)
class Foreign:
    """A pyramid that another tool wrote into a folder."""

    folder: Path
    scale: Scale
    volume: Array

    def put(self, pyramid: Place) -> Place:
        for name, body in files_below(self.folder).items():
            pyramid.put(name, body)
        return pyramid

    @property
    def coords(self) -> list[ChunkCoords]:
        return [self.scale.coords(cell) for cell in self.scale.cells]

    def check(self, chunks: Mapping[ChunkCoords, bytes | None]) -> None:
        """Compare fetched chunks with the voxels that were written."""
        assert sorted(chunks) == sorted(self.coords)
        for coords, chunk in chunks.items():
            expected = self.scale.part(self.volume, coords)
            assert chunk is not None
            if self.scale.encoding == "raw":
                assert chunk == expected.tobytes(order="F")
            elif self.scale.encoding == "jpeg":
                found = np.asarray(Image.open(io.BytesIO(chunk))).reshape(expected.shape, order="C")
                pixels = found.ravel().astype(int).reshape(expected.shape, order="F")
                assert np.abs(pixels - expected).max() <= 4
            else:
                from neuroglancer_scripts.chunk_encoding import get_encoder

                encoder = get_encoder(self.scale.info(), self.scale.info()["scales"][0])
                decoded = encoder.decode(chunk, expected.shape)  # [channel, z, y, x]
                assert np.array_equal(decoded[0].T, expected)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Foreign]:
    """Have a tool write its shards, once for all tests."""
    root = tmp_path_factory.mktemp("shards")

    @cache
    def written(name: str) -> Foreign:
        tool, scale, source = FOREIGN[name]
        folder = root / re.sub(r"\W+", "-", name)
        folder.mkdir()
        tool.write(folder, scale.info(), [SOURCES[source][..., np.newaxis]])
        return Foreign(folder, scale, SOURCES[source])

    return written


# What a shard is made of does not depend on where it is: all of them in three places, some of them everywhere.
PLACED = [(name, protocol) for name in FOREIGN for protocol in ("local", "nginx", "memory")] + [
    (name, protocol)
    for name in ("tensorstore murmurhash, gzip", "tensorstore jpeg", "cloud-volume gzip", "neuroglancer-scripts zlib")
    for protocol in ("http", "s3", "gcs", "zip", "simplecache")
]


@pytest.mark.parametrize(("name", "protocol"), PLACED)
def test_the_shards_of_another_tool_are_read_voxel_by_voxel(
    make_pyramid: Callable[[str], Place], foreign: Callable[[str], Foreign], name: str, protocol: str
) -> None:
    written = foreign(name)
    accessor = written.put(make_pyramid(protocol)).accessor()
    written.check(fetch_singly(accessor, written.coords))
    written.check(fetch_at_once(accessor, written.coords))


@pytest.mark.parametrize("name", [name for name in FOREIGN if name.startswith("tensorstore")])
def test_chunks_are_the_bytes_that_tensorstore_reads_from_its_shards(
    foreign: Callable[[str], Foreign], name: str
) -> None:
    written = foreign(name)
    spec = {
        "driver": "neuroglancer_uint64_sharded",
        "base": f"file://{written.folder}/{KEY}/",
        "metadata": written.scale.sharding,
    }
    import tensorstore

    store = tensorstore.KvStore.open(spec).result()
    with FsspecAccessor(written.folder) as accessor:
        for cell in written.scale.cells:
            expected = store[struct.pack(">Q", written.scale.chunk_id(cell))]
            assert accessor.fetch_chunk(KEY, written.scale.coords(cell)) == expected


def test_the_other_tools_wrote_what_the_tests_are_about(foreign: Callable[[str], Foreign]) -> None:
    for name, (_, scale, _) in FOREIGN.items():
        files = files_below(foreign(name).folder)
        assert scale.sharding is not None
        assert sum(file.endswith(".shard") for file in files) > (scale.sharding["shard_bits"] > 0), name
        assert all(file == "info" or file.endswith(".shard") for file in files), name
    zlibbed = files_below(foreign("neuroglancer-scripts zlib").folder)[SHARD]
    assert zlibbed[32:33] == b"\x78"
    assert gzip.compress(b"")[:3] in files_below(foreign("tensorstore gzip data").folder)[SHARD]


@pytest.mark.parametrize("name", ["tensorstore murmurhash, gzip", "cloud-volume", "neuroglancer-scripts zlib"])
@each_fetch
def test_a_shard_of_the_older_kind_is_a_pair_of_files(
    make_pyramid: Callable[[str], Place], foreign: Callable[[str], Foreign], name: str, fetch: Any
) -> None:
    written = foreign(name)
    assert written.scale.sharding is not None
    cut = 16 << written.scale.sharding["minishard_bits"]
    for protocol in ("local", "s3"):
        pyramid = make_pyramid(protocol)
        for file, body in files_below(written.folder).items():
            if file.endswith(".shard"):
                stem = file.removesuffix(".shard")
                pyramid.put(f"{stem}.index", body[:cut])
                pyramid.put(f"{stem}.data", body[cut:])
            else:
                pyramid.put(file, body)
        written.check(fetch(pyramid.accessor(), written.coords))


# ------------------------------------------------------------------------------------------------------ every protocol


def test_shards_are_read_on_every_protocol_through_every_door(each_readable_pyramid: Place) -> None:
    written = synthesize(2, 1, index="gzip", data="gzip", descending=True)
    accessor = written.put(each_readable_pyramid).accessor()
    for fetch in FETCH:
        assert fetch(accessor, written.coords) == written.chunks


@each_fetch
def test_the_tests_own_shards_are_read_by_tensorstore_as_well(tmp_path: Path, fetch: Any) -> None:
    written = synthesize(2, 1, index="gzip", data="gzip", descending=True, gap=5, without=lambda i: i % 4 == 3)
    for name, body in written.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    volume = read_with_tensorstore(tmp_path)[1][..., 0]
    for coords, chunk in written.chunks.items():
        assert written.scale.part(volume, coords).tobytes(order="F") == chunk
    with FsspecAccessor(tmp_path) as accessor:
        assert fetch(accessor, written.coords) == written.chunks


def is_absent(accessor: FsspecAccessor, coords: ChunkCoords) -> bool:
    """Whether all doors say that a chunk is not there."""
    with pytest.raises(NotFoundError, match=KEY):
        accessor.fetch_chunk(KEY, coords)
    with pytest.raises(NotFoundError, match=KEY):
        asyncio.run(accessor.fetch_chunk_async(KEY, coords))
    return fetch_at_once(accessor, [coords]) == {coords: None}


@pytest.mark.parametrize(
    ("kind", "without"),
    [
        ("chunk", lambda chunk_id: chunk_id == 5),
        ("minishard", lambda chunk_id: chunk_id % 4 == 1),
        ("shard", lambda chunk_id: chunk_id // 4 % 2 == 1),
    ],
)
def test_an_absent_chunk_minishard_or_shard_is_absent(readable_pyramid: Place, kind: str, without: Any) -> None:
    written = synthesize(2, 1, without=without)
    accessor = written.put(readable_pyramid).accessor()
    (absent,) = [written.scale.coords(c) for c in written.scale.cells if written.scale.chunk_id(c) == 5]
    assert (f"{KEY}/1.shard" in written.files) is (kind != "shard")
    assert is_absent(accessor, absent)
    assert fetch_at_once(accessor, [absent, *written.coords]) == {**written.chunks, absent: None}


def test_a_chunk_of_size_zero_is_absent(make_pyramid: Callable[[str], Place]) -> None:
    written = synthesize(1, 0)
    scale = written.scale
    shard = pack_shard({0: [(0, b"\1" * 64), (2, b""), (4, b"\2" * 64)]}, 1)
    pyramid = make_pyramid("memory")
    pyramid.put("info", written.files["info"])
    pyramid.put(SHARD, shard)
    by_id = {scale.chunk_id(cell): scale.coords(cell) for cell in scale.cells}
    accessor = pyramid.accessor()
    assert is_absent(accessor, by_id[2])
    assert accessor.fetch_chunk(KEY, by_id[4]) == b"\2" * 64


def test_a_large_shard_index_is_read_in_part(make_pyramid: Callable[[str], Place]) -> None:
    scale = Scale(sharding_of((0, 14, 0)), size=(4 * 2**14, 4, 4))
    (first, last) = (scale.coords((x, 0, 0)) for x in (0, 2**14 - 1))
    pyramid = make_pyramid("http")
    pyramid.put("info", json.dumps(scale.info()).encode())
    pyramid.put(SHARD, pack_shard({0: [(0, b"\1" * 64)], 2**14 - 1: [(2**14 - 1, b"\2" * 64)]}, 14))
    accessor = pyramid.accessor()
    pyramid.server.log.clear()
    assert fetch_singly(accessor, [first, last]) == {first: b"\1" * 64, last: b"\2" * 64}
    assert sum(range_length(entry) for entry in shard_requests(pyramid)) < 2**18 < len(pyramid.get(SHARD))


# -------------------------------------------------------------------------------------------------- what `info` decides


def test_a_pyramid_may_mix_sharded_and_unsharded_scales(readable_pyramid: Place) -> None:
    sharded = synthesize(1, 1)
    coords = sharded.coords[3]
    info = json.loads(sharded.files["info"])
    (scale,) = info["scales"]
    unsharded = {name: value for name, value in scale.items() if name != "sharding"}
    info["scales"] += [{**unsharded, "key": "plain"}, {**unsharded, "key": "null", "sharding": None}]
    sharded.put(readable_pyramid)
    readable_pyramid.put("info", json.dumps(info).encode())
    for key in ("plain", "null"):
        readable_pyramid.put(f"{key}/{'{}-{}_{}-{}_{}-{}'.format(*coords)}", key.encode() * 3)
    accessor = readable_pyramid.accessor()
    assert accessor.fetch_chunk(KEY, coords) == sharded.chunks[coords]
    for key in ("plain", "null"):
        assert accessor.fetch_chunk(key, coords) == key.encode() * 3
        assert dict(accessor.fetch_chunks(key, [coords])) == {coords: key.encode() * 3}


@pytest.mark.parametrize("protocol", ["memory", "local", "s3", "http"])
def test_without_info_a_scale_is_not_sharded(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    written = synthesize()
    pyramid = written.put(make_pyramid(protocol))
    pyramid.delete("info")
    coords = written.coords[0]
    pyramid.put(f"{KEY}/{'{}-{}_{}-{}_{}-{}'.format(*coords)}", b"alone")
    accessor = pyramid.accessor()
    assert accessor.fetch_chunk(KEY, coords) == b"alone"
    with pytest.raises(NotFoundError):
        accessor.fetch_chunk(KEY, written.coords[1])


@pytest.mark.parametrize("protocol", ["memory", "local", "s3", "http"])
@pytest.mark.parametrize("text", [b"", b"[]", b'{"scales": [{"key": "1mm", "sharding": {"@type": "other"}}]}'])
def test_an_info_that_cannot_be_is_an_error_that_names_it(
    make_pyramid: Callable[[str], Place], protocol: str, text: bytes
) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("info", text)
    accessor = pyramid.accessor()
    for fetch in FETCH:
        with pytest.raises(InvalidInfoError, match=r"/info: .*expected"):
            fetch(accessor, [(0, 4, 0, 4, 0, 4)])


def test_an_info_that_the_server_fails_to_send_is_not_no_info() -> None:
    with servers.fault_server(servers.respond(500)) as server, FsspecAccessor(server.url, attempts=1) as accessor:
        for fetch in FETCH:
            with pytest.raises(DataAccessError, match=r"/info.*500") as caught:
                fetch(accessor, [(0, 4, 0, 4, 0, 4)])
            assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize(
    "coords",
    [
        (1, 5, 0, 4, 0, 4),
        (0, 8, 0, 4, 0, 4),
        (0, 3, 0, 4, 0, 4),
        (-4, 0, 0, 4, 0, 4),
        (32, 36, 0, 4, 0, 4),
        (0, 4, 0, 4, 4, 8),
        (2**70, 2**70 + 4, 0, 4, 0, 4),
    ],
)
@each_fetch
def test_coordinates_that_are_not_on_the_grid_are_an_error_before_any_shard_is_read(
    make_pyramid: Callable[[str], Place], coords: ChunkCoords, fetch: Any
) -> None:
    pyramid = synthesize().put(make_pyramid("http"))
    accessor = pyramid.accessor()
    pyramid.server.log.clear()
    with pytest.raises(ValueError, match=re.escape(str(coords))) as caught:
        fetch(accessor, [coords])
    assert not isinstance(caught.value, DataAccessError)
    assert shard_requests(pyramid) == []


HUGE = (4 * 2**22, 4 * 2**21, 4 * 2**21)


@each_fetch
def test_a_grid_may_need_all_64_bits(make_pyramid: Callable[[str], Place], fetch: Any) -> None:
    scale = Scale(sharding_of((0, 0, 64)), size=HUGE)
    last = scale.coords((2**22 - 1, 2**21 - 1, 2**21 - 1))
    pyramid = make_pyramid("memory")
    pyramid.put("info", json.dumps(scale.info()).encode())
    pyramid.put(f"{KEY}/{'f' * 16}.shard", pack_shard({0: [(2**64 - 1, b"\7" * 64)]}, 0))
    assert fetch(pyramid.accessor(), [last]) == {last: b"\7" * 64}


@each_fetch
def test_a_grid_that_needs_more_than_64_bits_is_an_error(make_pyramid: Callable[[str], Place], fetch: Any) -> None:
    scale = Scale(sharding_of((0, 0, 64)), size=(HUGE[0] + 1, *HUGE[1:]))
    pyramid = make_pyramid("memory")
    pyramid.put("info", json.dumps(scale.info()).encode())
    with pytest.raises(ValueError, match=r"65 bits.*64"):
        fetch(pyramid.accessor(), [(0, 4, 0, 4, 0, 4)])


# ------------------------------------------------------------------------------------------------------------ requests


def shard_requests(pyramid: Place) -> list[servers.Request]:
    """Return the logged requests but those of `info`; each is a GET of a range."""
    asked: list[servers.Request] = [e for e in pyramid.server.log.entries() if not e.path.endswith("/info")]
    assert {entry.method for entry in asked} <= {"GET"}
    assert all(range_length(entry) for entry in asked)
    return asked


def range_length(entry: servers.Request) -> int:
    first, last = map(int, entry.headers["Range"].removeprefix("bytes=").split("-"))
    return last - first + 1


def date(pyramid: Place, seconds: float) -> None:
    """Say of all files of a pyramid that they were written at a time."""
    for name in pyramid.names():
        os.utime(pyramid.objects.folder / name, (seconds, seconds))  # type: ignore[attr-defined]


class Counted:
    """A pyramid on a server that counts, with one accessor."""

    def __init__(self, pyramid: Place, **options: Any) -> None:
        if pyramid.protocol == "nginx":
            date(pyramid, time.time() - 60)  # so that its versions are none that another state may get
        self.pyramid = pyramid
        self.accessor = pyramid.accessor(**options)

    def requests(self, fetch: Callable[..., Any], *args: Any) -> int:
        """Count what one call asks of shards."""
        (self.pyramid.server if self.pyramid.protocol == "nginx" else self.pyramid.server.log).clear()
        fetch(self.accessor, *args)
        return len(shard_requests(self.pyramid))


with_log = pytest.mark.parametrize("protocol", WITH_LOG)


@with_log
@each_fetch
def test_a_cold_chunk_is_three_gets_and_the_next_of_its_minishard_is_one(
    make_pyramid: Callable[[str], Place], protocol: str, fetch: Any
) -> None:
    written = synthesize(1, 0, index="gzip", data="gzip")
    counted = Counted(written.put(make_pyramid(protocol)))
    first, other_minishard, same_minishard = written.coords[:3]
    assert counted.requests(fetch, [first]) == 3
    assert counted.requests(fetch, [same_minishard]) == 1
    assert counted.requests(fetch, [first]) == 1
    assert counted.requests(fetch, [other_minishard]) == 2


@with_log
def test_info_is_one_get_for_all_that_is_read(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    written = synthesize(1, 1)
    counted = Counted(written.put(make_pyramid(protocol)))
    (counted.pyramid.server if protocol == "nginx" else counted.pyramid.server.log).clear()
    for fetch in FETCH:
        fetch(counted.accessor, written.coords[:5])
    entries = counted.pyramid.server.log.entries()
    assert sum(entry.path.endswith("/info") for entry in entries) == 1


@with_log
def test_that_a_chunk_is_absent_from_a_known_index_is_one_small_get_however_many_are(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    written = synthesize(1, 0, without=lambda chunk_id: chunk_id in {4, 6} or chunk_id % 2 == 1)
    by_id = {written.scale.chunk_id(cell): written.scale.coords(cell) for cell in written.scale.cells}
    counted = Counted(written.put(make_pyramid(protocol)))
    counted.requests(fetch_at_once, [by_id[0]])
    for absent in ([4], [1], [1, 3, 4, 5, 6, 7]):
        coords = [by_id[chunk_id] for chunk_id in absent]
        assert counted.requests(fetch_at_once, coords) == 1
        assert range_length(shard_requests(counted.pyramid)[0]) <= 32
        with pytest.raises(NotFoundError):
            counted.requests(fetch_singly, coords)
        assert len(shard_requests(counted.pyramid)) == 1


@each_fetch
def test_a_chunk_that_is_added_to_a_shard_is_found_where_it_was_absent(
    make_pyramid: Callable[[str], Place], fetch: Any
) -> None:
    before, after = synthesize(1, 0, without=lambda chunk_id: chunk_id == 2), synthesize(1, 0)
    (added,) = set(after.coords) - set(before.coords)
    for protocol in ("memory", "local", "s3", "nginx"):
        pyramid = before.put(make_pyramid(protocol))
        accessor = pyramid.accessor()
        fetch(accessor, before.coords)
        assert is_absent(accessor, added)
        after.put(pyramid)
        assert fetch(accessor, [added]) == {added: after.chunks[added]}


@with_log
@pytest.mark.parametrize("count", [1, 8])
def test_an_absent_shard_is_one_get_for_each_layout_that_it_may_have(
    make_pyramid: Callable[[str], Place], protocol: str, count: int
) -> None:
    written = synthesize(0, 1, without=lambda chunk_id: chunk_id % 2 == 1)
    by_id = {written.scale.chunk_id(cell): written.scale.coords(cell) for cell in written.scale.cells}
    counted = Counted(written.put(make_pyramid(protocol)))
    counted.requests(fetch_at_once, [by_id[0]])
    assert counted.requests(fetch_at_once, [by_id[2 * i + 1] for i in range(count)]) == 2


@with_log
def test_contiguous_chunks_of_known_indexes_are_one_get(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    written = synthesize(2, 0)
    counted = Counted(written.put(make_pyramid(protocol)))
    assert counted.requests(fetch_at_once, written.coords) == 1 + 1 + 1, "the shard's index, all others, the chunks"
    shuffled = random.Random(0).sample(written.coords, len(written.coords))
    assert counted.requests(fetch_at_once, shuffled) == 1


@pytest.mark.parametrize("damaged", range(4))
def test_of_indexes_that_are_read_together_the_damaged_one_is_named(
    make_pyramid: Callable[[str], Place], damaged: int
) -> None:
    written = synthesize(2, 0)
    [(name, body)] = ((name, body) for name, body in written.files.items() if name.endswith(".shard"))
    start, end = struct.unpack_from("<QQ", body, 16 * damaged)
    start, end = 16 * 4 + start, 16 * 4 + end
    pyramid = written.put(make_pyramid("http"))
    pyramid.put(name, body[:start] + b"\xff" * (end - start) + body[end:])
    with FsspecAccessor(pyramid.url) as accessor, pytest.raises(CorruptDataError, match=f"minishard {damaged}"):
        fetch_at_once(accessor, written.coords)


@pytest.mark.parametrize(("max_range", "expected"), [(64, 32), (127, 32), (128, 16), (640, 4), (2048, 1)])
def test_joined_ranges_are_no_longer_than_max_range(
    make_pyramid: Callable[[str], Place], max_range: int, expected: int
) -> None:
    written = synthesize()
    counted = Counted(written.put(make_pyramid("http")), max_range=max_range)
    counted.requests(fetch_singly, written.coords[:1])
    assert counted.requests(fetch_at_once, written.coords) == expected
    assert max(map(range_length, shard_requests(counted.pyramid))) <= max_range


@pytest.mark.parametrize("in_flight", [1, 4])
def test_of_a_range_with_many_chunks_few_are_held_at_once(tmp_path: Path, in_flight: int) -> None:
    scale = Scale(sharding_of((0, 0, 0), data="gzip"), size=(512, 512, 512), chunk_size=(64, 64, 64))
    coords = [scale.coords((x, y, z)) for x, y, z in itertools.product(range(8), range(8), range(2))]
    with FsspecAccessor(tmp_path) as accessor:
        accessor.store_file("info", json.dumps(scale.info()).encode())
        accessor.store_chunks(KEY, ((each, bytes(64**3)) for each in coords))
    with FsspecAccessor(tmp_path) as accessor:
        tracemalloc.start()
        try:
            assert sum(1 for _ in accessor.fetch_chunks(KEY, coords, in_flight=in_flight)) == len(coords)
            assert tracemalloc.get_traced_memory()[1] < 10 * 2**20, "all of them are 32 MiB"
        finally:
            tracemalloc.stop()


def test_a_chunk_longer_than_max_range_is_read_all_the_same(make_pyramid: Callable[[str], Place]) -> None:
    written = synthesize()
    counted = Counted(written.put(make_pyramid("http")), max_range=1)
    assert fetch_at_once(counted.accessor, written.coords) == written.chunks


@pytest.mark.parametrize(("max_gap", "expected"), [(0, 32), (99, 32), (100, 1)])
def test_chunks_with_more_than_max_gap_between_them_are_not_joined(
    make_pyramid: Callable[[str], Place], max_gap: int, expected: int
) -> None:
    written = synthesize(gap=100)
    counted = Counted(written.put(make_pyramid("http")), max_gap=max_gap)
    counted.requests(fetch_singly, written.coords[:1])
    assert counted.requests(fetch_at_once, written.coords) == expected
    assert fetch_at_once(counted.accessor, written.coords) == written.chunks


@pytest.mark.parametrize("options", [{"max_gap": -1}, {"max_range": 0}])
def test_bounds_out_of_their_range_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FsspecAccessor("memory://brain", **options)


def test_what_is_asked_of_a_shard_is_its_bytes_as_they_are(make_pyramid: Callable[[str], Place]) -> None:
    written = synthesize(1, 1, index="gzip", data="gzip")
    counted = Counted(written.put(make_pyramid("http")))
    counted.requests(fetch_at_once, written.coords)
    assert {entry.headers["Accept-Encoding"] for entry in shard_requests(counted.pyramid)} == {"identity"}


def test_a_shard_is_read_from_an_nginx_that_compresses(tmp_path: Path) -> None:
    if not servers.nginx_installed():
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    written = synthesize(1, 0)
    for name, body in written.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    with servers.nginx_server(tmp_path, gzip=True) as server, FsspecAccessor(server.url) as accessor:
        for fetch in FETCH:
            assert fetch(accessor, written.coords) == written.chunks


# ------------------------------------------------------------------------------------------------- at once, and bounded


class Shards:
    """Serves files of a dict, with Range and an ETag, and lets a test act on the requests for shards."""

    def __init__(self, files: Mapping[str, bytes], seconds: float = 0) -> None:
        self.files = dict(files)
        self.etag = '"1"'
        self.fields: tuple[str, ...] = ("ETag",)
        self.dates: dict[str, str] = {}
        self.seconds = seconds
        self.before: Callable[[int, web.Request], web.StreamResponse | None] = lambda _number, _request: None
        """Called with the number of each request for a shard, from 1; may answer in place of the server."""
        self.seen = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.seconds)
        name = request.path.strip("/")
        if name.endswith(".shard"):
            self.seen += 1
            answer = self.before(self.seen, request)
            if answer is not None:
                return answer
        body = self.files.get(name)
        if body is None:
            return web.Response(status=404)
        return servers._partial(request, body, {**dict.fromkeys(self.fields, self.etag), **self.dates})

    def put(self, written: Written) -> None:
        """Serve other files, of the same version."""
        self.files = dict(written.files)

    def replace(self, written: Written) -> None:
        self.files = dict(written.files)
        self.etag = f'"{random.random()}"'


def test_32_threads_that_need_the_same_indexes_share_their_requests() -> None:
    written = synthesize()
    serving = Shards(written.files, seconds=0.05)
    barrier = threading.Barrier(32)

    def fetch(coords: ChunkCoords) -> bytes:
        barrier.wait(10)
        return accessor.fetch_chunk(KEY, coords)

    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        with ThreadPoolExecutor(32) as pool:
            assert dict(zip(written.coords, pool.map(fetch, written.coords), strict=True)) == written.chunks
        assert server.log.count() == 1 + 2 + 32


def test_tasks_of_two_loops_that_need_the_same_indexes_share_their_requests() -> None:
    written = synthesize()
    serving = Shards(written.files, seconds=0.05)
    barrier = threading.Barrier(2)

    async def fetch_all(coords: list[ChunkCoords]) -> list[bytes]:
        barrier.wait(10)
        return await asyncio.gather(*(accessor.fetch_chunk_async(KEY, each) for each in coords))

    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        with ThreadPoolExecutor(2) as pool:
            halves = [written.coords[::2], written.coords[1::2]]
            found = list(pool.map(lambda half: asyncio.run(fetch_all(half)), halves))
        assert found == [[written.chunks[coords] for coords in half] for half in halves]
        assert server.log.count() == 1 + 2 + 32


@pytest.mark.parametrize("slow", ["/info", ".shard"])
@pytest.mark.parametrize("cancelled", ["the first", "the second"])
def test_a_cancelled_reader_does_not_harm_another_that_needs_the_same_index(slow: str, cancelled: str) -> None:
    written = synthesize()
    serving = Shards(written.files)
    waiting, go_on = threading.Event(), threading.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(slow) and not go_on.is_set():
            waiting.set()
            while not go_on.is_set():  # noqa: ASYNC110 - of a thread
                await asyncio.sleep(0.005)
        return await serving.handle(request)

    async def main() -> bytes:
        first, second = written.coords[:2]
        tasks = {"the first": asyncio.create_task(accessor.fetch_chunk_async(KEY, first))}
        await asyncio.to_thread(waiting.wait, 10)
        tasks["the second"] = asyncio.create_task(accessor.fetch_chunk_async(KEY, second))
        await asyncio.sleep(0.1)  # until it waits for the first one, which nothing tells
        stopped = tasks.pop(cancelled)
        stopped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopped
        await asyncio.sleep(0.05)  # for the cancellation to reach the other loop
        go_on.set()
        (kept,) = tasks.values()
        return await asyncio.wait_for(kept, 10)

    with servers.fault_server(handle) as server, FsspecAccessor(server.url) as accessor:
        kept = written.coords[cancelled == "the first"]
        assert asyncio.run(main()) == written.chunks[kept]
        assert fetch_at_once(accessor, written.coords) == written.chunks


def test_a_failure_to_read_an_index_is_not_remembered() -> None:
    written = synthesize()
    serving = Shards(written.files)
    serving.before = lambda number, _request: web.Response(status=500) if number in {1, 3} else None
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url, attempts=1) as accessor:
        for _ in range(2):  # the shard index, then that of the minishard
            with pytest.raises(DataAccessError, match="500"):
                accessor.fetch_chunk(KEY, written.coords[0])
        assert fetch_singly(accessor, written.coords) == written.chunks


def test_a_shard_that_appears_is_found(make_pyramid: Callable[[str], Place]) -> None:
    written = synthesize()
    for protocol in ("local", "s3"):
        pyramid = written.put(make_pyramid(protocol))
        pyramid.delete(SHARD)
        accessor = pyramid.accessor()
        assert is_absent(accessor, written.coords[0])
        written.put(pyramid)
        assert fetch_singly(accessor, written.coords) == written.chunks


def test_indexes_take_bounded_memory(make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_indexes, "INDEX_CACHE_BYTES", 3000)
    written = synthesize(0, 5)  # 32 shards of one chunk
    counted = Counted(written.put(make_pyramid("http")))
    assert fetch_singly(counted.accessor, written.coords) == written.chunks
    last, first = written.coords[-1], written.coords[0]
    assert counted.requests(fetch_singly, [last]) == 1
    assert counted.requests(fetch_singly, [first]) == 3
    (kept,) = counted.accessor.pyramid.shards.indexes._caches.values()
    assert 0 < sum(value.nbytes for value in kept._kept.values()) <= 3000


def test_a_pickled_accessor_reads_shards(readable_pyramid: Place) -> None:
    written = synthesize(1, 1, data="gzip")
    accessor = written.put(readable_pyramid).accessor()
    accessor.fetch_chunk(KEY, written.coords[0])
    with pickle.loads(pickle.dumps(accessor)) as copy:
        assert fetch_at_once(copy, written.coords) == written.chunks


# ------------------------------------------------------------------------------------------------------- broken servers


def partial_answer(
    body: bytes, asked: tuple[int, int], *, shift: int = 0, longer: int = 0, encoding: str = ""
) -> web.Response:
    start, end = asked[0] + shift, asked[1] + shift + longer
    part = body[max(0, start) : end]
    fields = {"ETag": '"1"', "Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}
    if encoding:
        fields["Content-Encoding"] = encoding
    return web.Response(status=206, body=part, headers=fields)


def misplaced(body: bytes, asked: tuple[int, int]) -> web.Response:
    """Announce what was asked for, and send as many other bytes."""
    return partial_answer(body, asked, shift=1)


def short(body: bytes, asked: tuple[int, int]) -> web.Response:
    return partial_answer(body, asked, longer=-1)


def long(body: bytes, asked: tuple[int, int]) -> web.Response:
    return partial_answer(body + b"more", asked, longer=1)


def gzipped(body: bytes, asked: tuple[int, int]) -> web.Response:
    """Send as many bytes of the compressed file as were asked for of the file itself."""
    return partial_answer(gzip.compress(body, 0), asked, encoding="gzip")


def empty(_body: bytes, _asked: tuple[int, int]) -> web.Response:
    return web.Response(status=204)


PHASES = {"shard index": 1, "minishard index": 2, "chunk": 3}


def named(written: Written, coords: ChunkCoords) -> str:
    """Return a pattern for an error about a chunk: it gives the chunk's id or its coordinates."""
    (cell,) = (cell for cell in written.scale.cells if written.scale.coords(cell) == coords)
    given_name = "{}-{}_{}-{}_{}-{}".format(*coords)
    return rf"chunks? {written.scale.chunk_id(cell)}\b|{re.escape(str(coords))}|{re.escape(given_name)}"


def asked_range(request: web.Request) -> tuple[int, int]:
    first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
    return first, last + 1


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("answer", [misplaced, short, long, gzipped, empty])
@each_fetch
def test_an_answer_that_is_not_the_range_asked_for_is_an_error_that_names_the_shard(
    phase: str, answer: Any, fetch: Any
) -> None:
    written = synthesize(1, 0)
    serving = Shards(written.files)
    coords = written.coords[2]

    def before(number: int, request: web.Request) -> web.StreamResponse | None:
        if number != PHASES[phase]:
            return None
        response: web.StreamResponse = answer(written.files[SHARD], asked_range(request))
        return response

    serving.before = before
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url, attempts=1) as accessor:
        with pytest.raises(DataAccessError, match=re.escape(SHARD)) as caught:
            fetch(accessor, [coords])
        assert not isinstance(caught.value, NotFoundError)
        if answer is not empty:
            assert isinstance(caught.value, CorruptDataError)
        if phase == "chunk":
            assert re.search(named(written, coords), str(caught.value))
        assert 0 <= serving.seen - PHASES[phase] <= 1  # one more asks whether the shard was replaced
        assert fetch(accessor, [coords]) == {coords: written.chunks[coords]}, "the failure is remembered"


@pytest.mark.parametrize("phase", PHASES)
@each_fetch
def test_a_range_that_breaks_off_is_asked_for_again_and_then_an_error(phase: str, fetch: Any) -> None:
    written = synthesize(1, 0)
    files = Shards(written.files)
    coords = written.coords[2]

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(".shard") and files.seen + 1 == PHASES[phase]:
            start, end = asked_range(request)
            response = web.StreamResponse(status=206)
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(written.files[SHARD])}"
            response.content_length = end - start
            await response.prepare(request)
            await response.write(written.files[SHARD][start : end - 1])
            assert request.transport is not None
            request.transport.close()
            return response
        return await files.handle(request)

    with servers.fault_server(handle) as server, FsspecAccessor(server.url, attempts=2) as accessor:
        with pytest.raises(CorruptDataError, match=re.escape(SHARD)):
            fetch(accessor, [coords])
        assert 0 <= server.log.count() - (1 + PHASES[phase] - 1 + 2) <= 2  # two ask whether the shard was replaced


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("status", "error"), [(403, AccessDeniedError), (500, DataAccessError), (416, CorruptDataError)]
)
@each_fetch
def test_a_status_is_never_an_absent_chunk(phase: str, status: int, error: type[Exception], fetch: Any) -> None:
    written = synthesize(1, 0)
    serving = Shards(written.files)
    serving.before = lambda number, _: web.Response(status=status) if number == PHASES[phase] else None
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url, attempts=1) as accessor:
        with pytest.raises(error, match=re.escape(SHARD)) as caught:
            fetch(accessor, written.coords[2:3])
        assert not isinstance(caught.value, NotFoundError)


# -------------------------------------------------------------------------------------------------------- broken shards


def broken(minishards: Mapping[int, Iterable[tuple[int, int, int]]], data: bytes, *, bits: int = 1) -> bytes:
    """Write a shard of which the minishard indexes are given, ``(id, start, size)``, whatever they say."""
    entries, indexes = [], b""
    for minishard in range(2**bits):
        rows = index_rows(minishards.get(minishard, ()))
        start = len(data) + len(indexes)
        indexes += rows
        entries.append(struct.pack("<QQ", start, start + len(rows)))
    return b"".join(entries) + data + indexes


FAR = 1 << 61  # more than any memory
OUTSIDE = {
    "begins at the end": lambda size: (size, size + 48),
    "ends behind the end": lambda size: (size - 24, size + 24),
    "ends far behind the end": lambda size: (size - 24, size + 24 * 2**57),
    "is far behind the end": lambda size: (FAR, FAR + 24),
}
outside = pytest.mark.parametrize("place", OUTSIDE.values(), ids=OUTSIDE)


@outside
def test_an_index_outside_of_its_file_is_corrupt(each_readable_pyramid: Place, place: Any) -> None:
    written = synthesize(1, 0)
    shard = written.files[SHARD]
    pyramid = written.put(each_readable_pyramid)
    pyramid.put(SHARD, struct.pack("<QQ", *place(len(shard) - 32)) + shard[16:])
    accessor = pyramid.accessor()
    for fetch in FETCH:
        with pytest.raises(CorruptDataError, match=re.escape(SHARD)):
            fetch(accessor, written.coords[:1])
        assert fetch(accessor, written.coords[1:2]) == {written.coords[1]: written.chunks[written.coords[1]]}


@outside
def test_a_chunk_outside_of_its_file_is_corrupt(each_readable_pyramid: Place, place: Any) -> None:
    written = synthesize(1, 0)
    first, second = written.coords[0], written.coords[2]  # of minishard 0
    data = written.chunks[second]
    start, end = place(len(data) + 48)
    pyramid = written.put(each_readable_pyramid)
    pyramid.put(SHARD, broken({0: [(0, start, end - start), (2, 0, 64)]}, data))
    accessor = pyramid.accessor()
    for fetch in FETCH:
        with pytest.raises(CorruptDataError, match=re.escape(SHARD)) as caught:
            fetch(accessor, [first])
        assert re.search(named(written, first), str(caught.value))
        assert fetch(accessor, [second]) == {second: data}


def test_a_chunk_of_more_bytes_than_it_can_have_is_not_read(make_pyramid: Callable[[str], Place]) -> None:
    written = synthesize(1, 0)
    first, second = written.coords[0], written.coords[2]  # of minishard 0
    most = stored_limit(64 + ROOM)
    for size in (most, most + 1):
        pyramid = written.put(make_pyramid("http"))
        pyramid.put(SHARD, broken({0: [(0, 0, size), (2, 0, 64)]}, bytes(size)))
        counted = Counted(pyramid)
        for fetch in FETCH:
            with pytest.raises(CorruptDataError, match=re.escape(SHARD)) as caught:
                counted.requests(fetch, [first])
            assert ("its index gives it" in str(caught.value)) == (size > most)
            assert any(range_length(entry) == size for entry in shard_requests(pyramid)) == (size <= most)
        assert fetch_singly(counted.accessor, [second]) == {second: bytes(64)}


@pytest.mark.parametrize("protocol", ["memory", "local", "http", "s3"])
def test_a_shard_shorter_than_its_index_is_corrupt(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    written = synthesize(2, 0)
    pyramid = written.put(make_pyramid(protocol))
    for length in (0, 1, 63):
        pyramid.put(SHARD, written.files[SHARD][:length])
        accessor = pyramid.accessor()
        for fetch in FETCH:
            with pytest.raises(CorruptDataError, match=re.escape(SHARD)):
                fetch(accessor, written.coords[:1])


def gzip_shard(change: Callable[[bytes], bytes], *, index: str = "raw") -> Written:
    """Write a shard of which chunk 2 is stored in a broken way."""
    good = synthesize(1, 0, data="gzip", index=index)
    bodies = {good.scale.chunk_id(cell): good.chunks[good.scale.coords(cell)] for cell in good.scale.cells}
    stored = {i: gzip.compress(body, mtime=0) for i, body in bodies.items()}
    stored[2] = change(bodies[2])
    minishards = {m: [(i, stored[i]) for i in sorted(stored) if i % 2 == m] for m in (0, 1)}
    return Written(good.scale, {**good.files, SHARD: pack_shard(minishards, 1, pack_index=PACK[index])}, good.chunks)


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


BROKEN_GZIP: Mapping[str, Callable[[bytes], bytes]] = {
    "cut by a byte": lambda body: gzip.compress(body)[:-1],
    "cut to its header": lambda body: gzip.compress(body)[:10],
    "of a wrong checksum": lambda body: gzip.compress(body)[:-8] + bytes(8),
    "with a tail": lambda body: gzip.compress(body) + b"tail",
    "not gzip": bytes,
    "a cut zlib stream": lambda body: zlib.compress(body)[:-1],
    "of no checksum at all": deflated,
    "larger than a chunk": lambda body: gzip.compress(body + b"."),
    "smaller than a chunk": lambda body: gzip.compress(body[1:]),
    "a bomb": lambda body: gzip.compress(body + bytes(1 << 24), 9),
}


@pytest.mark.parametrize(("protocol", "change"), [*(("local", change) for change in BROKEN_GZIP), ("http", "not gzip")])
def test_a_chunk_that_does_not_decode_is_corrupt_and_named(
    make_pyramid: Callable[[str], Place], protocol: str, change: str
) -> None:
    written = gzip_shard(BROKEN_GZIP[change])
    accessor = written.put(make_pyramid(protocol)).accessor()
    (coords,) = [written.scale.coords(cell) for cell in written.scale.cells if written.scale.chunk_id(cell) == 2]
    others = [each for each in written.coords if each != coords]
    for fetch in FETCH:
        with pytest.raises(CorruptDataError, match=re.escape(SHARD)) as caught:
            fetch(accessor, [coords])
        assert re.search(named(written, coords), str(caught.value))
        assert fetch(accessor, others) == {each: written.chunks[each] for each in others}
    with pytest.raises(CorruptDataError, match=named(written, coords)):
        fetch_at_once(accessor, written.coords)


@pytest.mark.parametrize("size", [63, 65, 128])
@each_fetch
def test_a_raw_chunk_of_another_length_is_corrupt(make_pyramid: Callable[[str], Place], size: int, fetch: Any) -> None:
    written = synthesize(1, 0)
    first, second = written.coords[0], written.coords[2]
    data = written.chunks[first] + written.chunks[second]
    pyramid = written.put(make_pyramid("memory"))
    pyramid.put(SHARD, broken({0: [(0, 0, size), (2, 64, 64)]}, data))
    accessor = pyramid.accessor()
    with pytest.raises(CorruptDataError, match=named(written, first)):
        fetch(accessor, [first])
    assert fetch(accessor, [second]) == {second: written.chunks[second]}


def test_the_chunk_that_breaks_a_joined_range_is_named(make_pyramid: Callable[[str], Place]) -> None:
    written = synthesize(1, 0)
    even = [(written.scale.chunk_id(cell), written.scale.coords(cell)) for cell in written.scale.cells]
    even = sorted(pair for pair in even if pair[0] % 2 == 0)
    data = b"".join(written.chunks[coords] for _, coords in even)
    places = [(chunk_id, 64 * i, 64) for i, (chunk_id, _) in enumerate(even)]
    last_id, last = even[-1]
    places[-1] = (last_id, len(data) - 64, 64 + 24 * 16 + 1)  # one byte behind the end of the file
    for protocol in ("local", "http"):
        pyramid = written.put(make_pyramid(protocol))
        pyramid.put(SHARD, broken({0: places}, data))
        with pytest.raises(CorruptDataError, match=named(written, last)):
            fetch_at_once(pyramid.accessor(), [coords for _, coords in even])


@pytest.mark.parametrize(
    "index",
    [
        index_rows([(0, 0, 64), (0, 0, 64)]),
        index_rows([(0, 2**63, 64)]),
        b"\xff" * 24,
    ],
    ids=["a chunk twice", "a chunk at no place", "all ones"],
)
def test_an_index_that_cannot_be_is_corrupt_and_names_shard_and_minishard(
    readable_pyramid: Place, index: bytes
) -> None:
    written = synthesize(1, 0)
    pyramid = written.put(readable_pyramid)
    pyramid.put(SHARD, struct.pack("<QQQQ", 0, len(index), 0, 0) + index)
    accessor = pyramid.accessor()
    for fetch in FETCH:
        with pytest.raises(CorruptDataError, match=rf"{re.escape(SHARD)}.*minishard 0"):
            fetch(accessor, written.coords[:1])


PEAK = 32 << 20


def peak_of(call: Callable[[], Any]) -> int:
    """Return the bytes that Python took, at the most, for a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
def test_an_index_that_decodes_to_more_than_its_scale_has_chunks_takes_no_memory(
    make_pyramid: Callable[[str], Place], pack: Any
) -> None:
    written = synthesize(0, 0, index="gzip")
    bomb = pack(bytes(24 << 20))
    pyramid = written.put(make_pyramid("memory"))
    pyramid.put(SHARD, struct.pack("<QQ", 0, len(bomb)) + bomb)
    accessor = pyramid.accessor()

    def fetch() -> None:
        with pytest.raises(CorruptDataError, match=re.escape(SHARD)):
            accessor.fetch_chunk(KEY, written.coords[0])

    assert peak_of(fetch) < PEAK


@pytest.mark.parametrize("protocol", ["memory", "local", "http", "zip"])
def test_a_range_that_no_file_has_takes_no_memory(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    written = synthesize(1, 0)
    pyramid = written.put(make_pyramid(protocol))
    pyramid.put(SHARD, broken({0: [(0, 0, 1 << 35), (2, 0, 64)]}, bytes(64)))
    accessor = pyramid.accessor()

    def fetch() -> None:
        with pytest.raises(CorruptDataError, match=re.escape(SHARD)):
            accessor.fetch_chunk(KEY, written.coords[0])

    assert peak_of(fetch) < PEAK


# ------------------------------------------------------------------------------------------------------------- replaced

OLD = synthesize(1, 0, seed=1)
NEW = synthesize(1, 0, seed=2, descending=True, gap=3)


@pytest.mark.parametrize("protocol", ["memory", "local", "s3", "gcs", "azure", "sftp", "nginx"])
@each_fetch
def test_a_replaced_shard_yields_its_new_chunks(
    make_pyramid: Callable[[str], Place], protocol: str, fetch: Any
) -> None:
    pyramid = OLD.put(make_pyramid(protocol))
    accessor = pyramid.accessor()
    assert fetch(accessor, OLD.coords) == OLD.chunks
    NEW.put(pyramid)
    assert fetch(accessor, NEW.coords) == NEW.chunks


@pytest.mark.parametrize("field_name", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("after", [2, 4])  # tests/pyramid/test_shard_jobs.py has all points
@each_fetch
def test_a_shard_that_is_replaced_between_two_requests_yields_chunks_of_one_version(
    field_name: str, after: int, fetch: Any
) -> None:
    serving = Shards(OLD.files)
    serving.fields = (field_name,)
    serving.before = lambda number, _: serving.replace(NEW) if number == after + 1 else None
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        found = fetch(accessor, OLD.coords[:4])
    for coords, chunk in found.items():
        assert chunk in (OLD.chunks[coords], NEW.chunks[coords])
    if after < 3:  # before the first chunk was read
        assert found == {coords: NEW.chunks[coords] for coords in OLD.coords[:4]}


ALIKE = synthesize(1, 0, seed=2, descending=True), synthesize(1, 0, seed=3)
"""Shards of the same size, in which chunks are elsewhere."""

NOW = 1_000_000_000


def dated(age: int) -> dict[str, str]:
    return {"Last-Modified": formatdate(NOW - age, usegmt=True), "Date": formatdate(NOW, usegmt=True)}


def is_of_one_version(found: Mapping[ChunkCoords, bytes | None], versions: Iterable[Written]) -> bool:
    return all(chunk in [written.chunks.get(coords) for written in versions] for coords, chunk in found.items())


@pytest.mark.parametrize("protocol", ["local", "sftp", "nginx"])
@each_fetch
def test_a_shard_replaced_by_one_of_the_same_size_and_time_is_not_mixed_with_it(
    make_pyramid: Callable[[str], Place], protocol: str, fetch: Any
) -> None:
    old, new = ALIKE
    assert len(old.files[SHARD]) == len(new.files[SHARD])
    pyramid = old.put(make_pyramid(protocol))
    now = int(time.time()) + 60  # a clock that is ahead, so that the file stays young
    date(pyramid, now)
    accessor = pyramid.accessor()
    assert fetch(accessor, old.coords[:8]) == {coords: old.chunks[coords] for coords in old.coords[:8]}
    new.put(pyramid)  # into the same file
    date(pyramid, now)
    assert fetch(accessor, new.coords) == new.chunks


@pytest.mark.parametrize("etag", ['"3b9aca00-880"', 'W/"3b9aca00-880"', "12345", None])
@pytest.mark.parametrize("after", [2, 5])  # tests/pyramid/test_shard_jobs.py has all points
@each_fetch
def test_a_shard_that_is_replaced_by_one_of_its_version_between_two_requests_is_not_mixed_with_it(
    etag: str | None, after: int, fetch: Any
) -> None:
    old, new = ALIKE
    serving = Shards(old.files)
    serving.dates = dated(1)
    serving.etag, serving.fields = str(etag), ("ETag",) if etag else ()
    serving.before = lambda number, _: serving.put(new) if number == after + 1 else None
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        assert is_of_one_version(fetch(accessor, old.coords[:4]), ALIKE)
        serving.put(new)
        assert fetch(accessor, old.coords) == new.chunks


@each_fetch
def test_a_chunk_that_is_in_one_of_two_shards_of_one_version_only_is_found_and_not_found(fetch: Any) -> None:
    old, new = (synthesize(1, 0, seed=gone, without=gone.__eq__) for gone in (4, 6))
    (only_new,), (only_old,) = set(new.coords) - set(old.coords), set(old.coords) - set(new.coords)
    assert len(old.files[SHARD]) == len(new.files[SHARD])
    serving = Shards(old.files)
    serving.dates = dated(0)
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        assert fetch(accessor, [only_old]) == {only_old: old.chunks[only_old]}
        assert is_absent(accessor, only_new)
        serving.put(new)
        assert fetch(accessor, [only_new]) == {only_new: new.chunks[only_new]}
        serving.put(old)
        serving.put(new)
        assert is_absent(accessor, only_old)


@pytest.mark.parametrize(
    ("headers", "warm"),
    [
        ({"ETag": '"3b9aca00-880"', **dated(0)}, 3),
        ({"ETag": '"3b9aca00-880"', **dated(1)}, 3),
        ({"ETag": '"3b9aca00-880"', **dated(2)}, 1),
        ({"ETag": '"3b9aca00-880"', **dated(-5)}, 3),  # of a disk whose clock is ahead
        ({"ETag": '"3b9aca00-880"', **dated(-1_000_000)}, 1),
        ({"ETag": '"3b9aca00-880"'}, 1),
        (dated(0), 3),
        (dated(2), 1),
        ({"ETag": '"d41d8cd98f00b204e9800998ecf8427e"', **dated(0)}, 1),  # S3
        ({"ETag": '"d41d8cd98f00b204e9800998ecf8427e-38"', **dated(0)}, 1),
        ({"ETag": '"0x8DCB6B2D1B0A8C1"', **dated(0)}, 1),  # Azure
        ({"ETag": '"CJ/4lbL9qooDEAE="', "x-goog-generation": "1760000000000000", **dated(0)}, 1),
    ],
    ids=str,
)
@each_fetch
def test_an_index_is_read_again_as_long_as_its_version_is_too_young_to_tell(
    headers: dict[str, str], warm: int, fetch: Any
) -> None:
    written = ALIKE[0]
    first, second = written.coords[0], written.coords[2]  # of minishard 0
    serving = Shards(written.files)
    serving.fields, serving.dates = (), headers
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        for coords, requests in ((first, 2 + warm), (second, warm)):
            serving.seen = 0
            assert fetch(accessor, [coords]) == {coords: written.chunks[coords]}
            assert serving.seen == requests
        if "Last-Modified" in headers:
            serving.dates = {**headers, "Date": formatdate(NOW + 2_000_000, usegmt=True)}
        fetch(accessor, [first])
        serving.seen = 0
        fetch(accessor, [second])
        assert serving.seen == 1


@each_fetch
def test_a_shard_that_never_stays_the_same_is_an_error(fetch: Any) -> None:
    serving = Shards(OLD.files)
    serving.before = lambda _number, _request: serving.replace(OLD)
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        with pytest.raises(DataAccessError, match=rf"{re.escape(SHARD)}.*replaced"):
            fetch(accessor, OLD.coords[:1])
        assert serving.seen < 20


def test_a_shard_that_is_gone_since_its_index_was_read_is_not_found() -> None:
    serving = Shards(OLD.files)
    with servers.fault_server(serving.handle) as server, FsspecAccessor(server.url) as accessor:
        accessor.fetch_chunk(KEY, OLD.coords[0])
        del serving.files[SHARD]
        with pytest.raises(NotFoundError, match=KEY):
            accessor.fetch_chunk(KEY, OLD.coords[0])


# ----------------------------------------------------------------------------------------------------------------- fuzz


def unpacked(stored: bytes, encoding: str) -> bytes:
    """Decode as the specification says; ValueError if that cannot be."""
    if encoding == "raw":
        return stored
    parts: list[bytes] = []
    rest = stored
    while rest or not parts:
        member = zlib.decompressobj(wbits=31 if stored[:3] == b"\x1f\x8b\x08" else 15)
        try:
            parts.append(member.decompress(rest, 1 << 20))
        except zlib.error as exc:
            raise ValueError from exc
        if not member.eof:
            raise ValueError
        rest = member.unused_data
    return b"".join(parts)


def by_the_book(shard: bytes, written: Written, chunk_id: int) -> bytes | None:
    """Read a chunk in the plainest way: None if it is absent, ValueError if the shard cannot be."""
    members = written.scale.sharding
    assert members is not None
    count = 2 ** members["minishard_bits"]
    entry = shard[16 * (chunk_id % count) : 16 * (chunk_id % count + 1)]
    if len(entry) != 16:
        raise ValueError
    start, end = struct.unpack("<QQ", entry)
    body = shard[16 * count :]
    if start == end:
        return None
    if not start < end <= len(body):
        raise ValueError
    rows = unpacked(body[start:end], members["minishard_index_encoding"])
    if len(rows) % 24:
        raise ValueError
    numbers = struct.unpack(f"<{len(rows) // 8}Q", rows)
    n = len(rows) // 24
    found_id = position = 0
    for delta, gap, size in zip(numbers[:n], numbers[n : 2 * n], numbers[2 * n :], strict=True):
        found_id = (found_id + delta) % 2**64
        position = (position + gap) % 2**64
        if found_id == chunk_id:
            if size == 0:
                return None
            if position + size > len(body):
                raise ValueError
            return unpacked(body[position : position + size], members["data_encoding"])
        position = (position + size) % 2**64
    return None


@st.composite
def mutations(draw: st.DrawFn, shard: bytes, index_size: int) -> bytes:
    """Change some bytes of a shard, more of its indexes than of its chunks, and perhaps its length."""
    mutated = bytearray(shard)
    (index_start,) = struct.unpack_from("<Q", shard)
    positions = st.one_of(
        st.integers(0, index_size - 1),
        st.integers(min(len(shard) - 1, index_size + index_start), len(shard) - 1),
        st.integers(0, len(shard) - 1),
    )
    for position, value in draw(st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=4)):
        mutated[position] = value
    if draw(st.booleans()):
        word = 8 * draw(st.integers(0, index_size // 8 - 1))
        value = draw(st.one_of(st.integers(0, len(shard)), st.integers(0, 2**64 - 1)))
        mutated[word : word + 8] = struct.pack("<Q", value)
    cut = draw(st.one_of(st.none(), st.integers(0, len(shard)), st.binary(max_size=20)))
    return bytes(mutated) if cut is None else bytes(mutated[:cut]) if isinstance(cut, int) else bytes(mutated) + cut


FUZZED = {
    "raw": synthesize(1, 0),
    "gzip": synthesize(1, 0, index="gzip", data="gzip"),
    "gzip index": synthesize(1, 0, index="gzip"),
    "zlib": synthesize(1, 0, data="gzip", pack_data=zlib.compress, descending=True, gap=1),
}


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [*(("memory", kind) for kind in FUZZED), ("local", "raw"), ("local", "gzip"), ("http", "zlib")],
)
def test_a_mutated_shard_yields_what_it_says_or_an_error_of_ours(
    make_pyramid: Callable[[str], Place], protocol: str, kind: str
) -> None:
    written = FUZZED[kind]
    pyramid = written.put(make_pyramid(protocol))
    ids = {written.scale.coords(cell): written.scale.chunk_id(cell) for cell in written.scale.cells}

    @settings(max_examples=25 if protocol == "memory" else 10)
    @given(shard=mutations(written.files[SHARD], 32))
    def check(shard: bytes) -> None:
        pyramid.put(SHARD, shard)
        with FsspecAccessor(pyramid.url, attempts=1) as accessor:
            for coords, chunk in all_that_comes(accessor):
                if chunk is None:
                    assert by_the_book(shard, written, ids[coords]) is None
                else:
                    assert chunk == by_the_book(shard, written, ids[coords])

    def all_that_comes(accessor: FsspecAccessor) -> Iterator[tuple[ChunkCoords, bytes | None]]:
        for coords in written.coords[::5]:
            try:
                yield coords, accessor.fetch_chunk(KEY, coords)
            except NotFoundError:
                yield coords, None
            except DataAccessError as exc:
                assert SHARD in str(exc)  # noqa: PT017
        try:
            yield from accessor.fetch_chunks(KEY, written.coords)
        except DataAccessError as exc:
            assert SHARD in str(exc)  # noqa: PT017

    if protocol == "local":
        assert peak_of(check) < PEAK
    else:
        check()
