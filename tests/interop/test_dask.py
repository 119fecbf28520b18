"""dask and xarray: blocks of whole chunks, read and written by many tasks, in threads and in other processes."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import subprocess
import sys
import time
import tomllib
import tracemalloc
from collections import Counter
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs import (
    FsspecAccessor,
    NotFoundError,
    Scale,
    Volume,
    create_volume,
    open_volume,
)
from precomputed_fs.interop.source import Source, _restored
from precomputed_fs.interop.xarray_backend import PrecomputedBackend
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from precomputed_fs.format.grid import ChunkCoords
    from precomputed_fs.format.sharding import Sharding
    from precomputed_fs.store.requests import Job, Put
    from tests import servers

OFFSET = (-5, 7, 100)
SIZE = (45, 33, 20)
CHUNK = (16, 8, 9)
CHUNKS = 3 * 5 * 3
RESOLUTION = (8, 8, 40)
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def sharding(**changed: Any) -> dict[str, Any]:
    """Two by two by two chunks in a shard, of a grid of 3 x 5 x 3 (2 + 3 + 2 bits)."""
    given: dict[str, Any] = {"preshift_bits": 1, "hash": "identity", "minishard_bits": 2, "shard_bits": 4}
    return {"@type": "neuroglancer_uint64_sharded_v1", **given, **changed}


SHARDINGS = {
    "unsharded": None,
    "shards": sharding(),
    "one shard": sharding(preshift_bits=7, minishard_bits=0, shard_bits=0),
    "shards met twice": sharding(shard_bits=2),
    "scattered": sharding(hash="murmurhash3_x86_128"),
}


def voxels(shape: tuple[int, ...] = (*SIZE, 2), dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


def make(url: Any, array: Any = None, **options: Any) -> Volume:
    usual = {"resolution": RESOLUTION, "voxel_offset": OFFSET, "chunk_size": CHUNK, "scales": 1}
    return create_volume(url, voxels() if array is None else array, **{**usual, **options})


def empty(url: Any, size: tuple[int, int, int], chunk: int = 64, **options: Any) -> Volume:
    """Make a volume with nothing in it, which may be of any size."""
    scale = {"key": "1", "size": size, "chunk_sizes": [[chunk] * 3], "resolution": [1] * 3, "encoding": "raw"}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale | options]}
    return create_volume(url, info)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"memory://precomputed_fs-tests/bridges/{request.node.name}"


@pytest.fixture(scope="module")
def scale() -> Scale:
    return make("memory://precomputed_fs-tests/bridges")[0]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[ChunkCoords]:
    """List the chunks that are read from now on."""
    chunks: list[ChunkCoords] = []
    original = Pyramid.fetch_chunks

    def spied(self: Pyramid, key: str, coords: Any, **options: Any) -> Any:
        listed = list(coords)
        chunks.extend(listed)
        return original(self, key, iter(listed), **options)

    monkeypatch.setattr(Pyramid, "fetch_chunks", spied)
    return chunks


# --------------------------------------------------------------------------------------------------------- dask arrays


def test_a_dask_array_is_the_scale_and_lazy(scale: Scale, fetched: list[ChunkCoords]) -> None:
    lazy = scale.to_dask(chunks=CHUNK)
    assert (lazy.shape, lazy.dtype, lazy.npartitions) == ((*SIZE, 2), np.dtype("uint16"), CHUNKS)
    assert type(lazy._meta) is np.ndarray
    assert fetched == []
    assert np.array_equal(lazy.compute(), voxels())
    assert (len(fetched), len(set(fetched))) == (CHUNKS, CHUNKS)


def test_a_slice_reads_what_it_touches(scale: Scale, fetched: list[ChunkCoords]) -> None:
    lazy = scale.to_dask(chunks=-1)[20:30, 8:9, 5, 1:]
    assert lazy.shape == (10, 1, 1)
    assert np.array_equal(lazy.compute(), voxels()[20:30, 8:9, 5, 1:])
    assert fetched == [(11, 27, 15, 23, 100, 109)]  # one block, of which one chunk is left


@st.composite
def indices(draw: st.DrawFn) -> tuple[Any, ...]:
    return tuple(
        draw(
            st.slices(size) | st.integers(-size, size - 1) | st.lists(st.integers(0, size - 1), min_size=1, max_size=3)
        )
        if axis == 0
        else draw(st.slices(size) | st.integers(-size, size - 1))
        for axis, size in enumerate((*SIZE, 2))
    )


@given(indices())
def test_it_is_indexed_like_numpy(index: tuple[Any, ...]) -> None:
    lazy = make("memory://precomputed_fs-tests/bridges/indexed", overwrite=True)[0].to_dask(chunks=(32, 16, 9))
    assert np.array_equal(lazy[index].compute(), voxels()[index])


def test_a_list_is_read_by_what_is_around_it(scale: Scale, fetched: list[ChunkCoords]) -> None:
    """Some versions of dask hand lists through to what they slice."""
    source = Source(scale)
    assert np.array_equal(source[[30, 17, 17], 8:9, 5], voxels()[[30, 17, 17], 8:9, 5])
    assert fetched == [(11, 27, 15, 23, 100, 109)]
    assert np.array_equal(source[3, :, np.array([19, 0])], voxels()[3, :, [19, 0]].swapaxes(0, 1))
    assert source[[]].shape == (0, 33, 20, 2)
    indices: list[Any] = [[-1, 3, -45], (slice(None), np.array([-33, 0])), (..., [1, 0])]
    for index in indices:
        assert np.array_equal(source[index], voxels()[index])
    assert np.array_equal(source[5, ..., [-1], :], voxels()[5][:, [-1]])
    is_wanted = np.arange(45) % 7 == 2
    assert np.array_equal(source[is_wanted], voxels()[is_wanted])
    wrong: list[tuple[Any, str]] = [
        (np.s_[[45]], "45 is outside of 45"),
        (np.s_[:, [-34]], "-34 is outside of 33"),
        (np.s_[[True, False]], "expected 45 booleans, got 2"),
        (np.s_[[1, 2], [1, 2]], "along one axis"),
    ]
    for index, message in wrong:
        with pytest.raises(IndexError, match=message):
            source[index]


def test_blocks_are_chunks_of_the_grid(scale: Scale) -> None:
    """Counted from the volume's first voxel, wherever that is."""
    assert scale.to_dask(chunks=CHUNK).chunks == ((16, 16, 13), (8, 8, 8, 8, 1), (9, 9, 2), (2,))
    assert scale.bounds.start == OFFSET


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (None, ((45,), (33,), (20,), (2,))),
        ("auto", ((45,), (33,), (20,), (2,))),
        (-1, ((45,), (33,), (20,), (2,))),
        (144, ((45,), (33,), (20,), (2,))),
        ((32, -1, 9), ((32, 13), (33,), (9, 9, 2), (2,))),
        ((32, None, "auto", -1), ((32, 13), (33,), (20,), (2,))),
        ([16, 8, 9, 2], ((16, 16, 13), (8, 8, 8, 8, 1), (9, 9, 2), (2,))),
        ({"z": 9, "x": (16, 29)}, ((16, 29), (33,), (9, 9, 2), (2,))),
        ((45, (8, 24, 1), 20, (2,)), ((45,), (8, 24, 1), (20,), (2,))),
        ("8 KiB", ((16, 16, 13), (8, 8, 8, 8, 1), (9, 9, 2), (2,))),
        ("20 KiB", ((32, 13), (16, 16, 1), (9, 9, 2), (2,))),
        (np.array(CHUNK), ((16, 16, 13), (8, 8, 8, 8, 1), (9, 9, 2), (2,))),
        ((np.int64(32), 8, (9, np.uint8(11))), ((32, 13), (8, 8, 8, 8, 1), (9, 11), (2,))),
        ("1 B", ((16, 16, 13), (8, 8, 8, 8, 1), (9, 9, 2), (2,))),
    ],
)
def test_blocks_as_asked_for(chunks: Any, expected: tuple[tuple[int, ...], ...], scale: Scale) -> None:
    lazy = scale.to_dask(chunks)
    assert lazy.chunks == expected
    assert np.array_equal(lazy.compute(), voxels())


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (24, "x: a block that ends at 24 would cut through a chunk: expected multiples of 16, such as 16 or 32"),
        ((16, 8, 5), "z: a block that ends at 5 .* multiples of 9, such as 9 or 18"),
        (((10, 35), 8, 9), "x: a block that ends at 10 "),
        (((16, 16), 8, 9), "x: expected lengths of 45 voxels altogether"),
        (((45, 0), 8, 9), "x: expected lengths of 45 voxels altogether"),
        ((16, 0, 9), "y: expected a positive number of voxels, or -1"),
        ((16, 8), "expected lengths along x, y and z"),
        ((16, 8, 9, 1), "expected all 2 channels"),
        ({"c": 1}, "expected axes of x, y, z, channel, got 'c'"),
    ],
)
def test_blocks_that_cannot_be(chunks: Any, message: str, scale: Scale) -> None:
    with pytest.raises(ValueError, match=message):
        scale.to_dask(chunks)


@pytest.mark.parametrize("chunks", [16.0, (16.5, 8, 9), ("1MiB", 8, 9), ((16.0, 29.0), 8, 9), (None, 8, [9, "auto"])])
def test_blocks_are_whole_numbers_of_voxels(chunks: Any, scale: Scale) -> None:
    with pytest.raises(TypeError, match=r"chunks: [xz]: expected a number of voxels, -1 or 'auto', got"):
        scale.to_dask(chunks)


def test_a_million_chunks_are_grouped(url: str) -> None:
    scale = empty(url, (6400, 6400, 6400))[0]
    assert math.prod(scale.grid.shape) == 10**6
    began = time.monotonic()
    lazy = scale.to_dask()
    graph = dict(lazy.dask)
    took = time.monotonic() - began
    assert took < 2
    assert lazy.chunksize == (512, 512, 512, 1)  # 128 MiB, 512 chunks
    assert len(graph) == lazy.npartitions == 13**3


def test_a_graph_knows_of_no_chunks(url: str) -> None:
    """Also of a million blocks, no entry is made before it is computed."""
    scale = empty(url, (6400, 6400, 6400))[0]
    began = time.monotonic()
    lazy = scale.to_dask(chunks=64)
    size = len(pickle.dumps(lazy))
    assert time.monotonic() - began < 2
    assert lazy.npartitions == 10**6
    assert size < 20_000
    assert not lazy[64 * 50, :10, :10].compute().any()


def test_the_default_follows_dasks_configuration(url: str) -> None:
    scale = empty(url, (6400, 6400, 6400))[0]
    with dask.config.set({"array.chunk-size": "4 MiB"}):
        assert scale.to_dask().chunksize == (256, 128, 128, 1)
    assert scale.to_dask("1 GiB").chunksize == (1024, 1024, 1024, 1)


def test_an_absurd_size_has_blocks_too(url: str) -> None:
    scale = empty(url, (1 << 40, 1 << 40, 64), chunk=1 << 24)[0]
    assert scale.to_dask().numblocks == (1 << 16, 1 << 16, 1, 1)


def test_more_blocks_than_can_be_listed_are_refused(url: str) -> None:
    scale = empty(url, (1 << 40, 64, 64), chunk=1, chunk_sizes=[[1, 64, 64]])[0]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"33,554,432 blocks of 32768 voxels along x.*chunks=\{'x': 1048576\}"):
            scale.to_dask()
        with pytest.raises(ValueError, match=r"chunks=\{'x': 1048576\}"):
            scale.to_xarray(1 << 15)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert scale.to_dask(chunks={"x": 1 << 25}).numblocks == (1 << 15, 1, 1, 1)
    stored = xarray.open_dataset(url, engine="precomputed").voxels.encoding
    assert stored["preferred_chunks"] == {"x": 1 << 20, "y": 64, "z": 64, "channel": 1}, "those of chunks={}"


@pytest.mark.parametrize(
    ("limit", "block"),
    [("8 MiB", (256, 256, 128)), ("16 MiB", (256, 256, 256)), ("2 MiB", (128, 128, 128)), ("64 MiB", (512, 512, 256))],
)
def test_blocks_of_a_sharded_scale_are_shards_or_parts_of_them(limit: str, block: tuple[int, ...], url: str) -> None:
    """Here a shard is 4 x 4 x 4 chunks of 64, that is 256 voxels long."""
    scale = empty(url, (2560, 2560, 2560), sharding=sharding(preshift_bits=3, minishard_bits=3, shard_bits=9))[0]
    given = scale.info.sharding
    assert given is not None
    lazy = scale.to_dask(limit)
    assert lazy.chunksize == (*block, 1)
    shards: dict[Any, set[int]] = {}
    for x in range(16):
        for y in range(16):
            for z in range(16):
                at = tuple(cell * 64 // length for cell, length in zip((x, y, z), block, strict=True))
                shards.setdefault(at, set()).add(shard_of(given, (x, y, z), scale.grid.shape))
    assert {len(numbers) for numbers in shards.values()} == {max(1, math.prod(block) >> 24)}


def shard_of(given: Sharding, cell: tuple[int, int, int], shape: tuple[int, int, int]) -> int:
    from precomputed_fs.format.grid import compressed_morton_code

    return given.locate(compressed_morton_code(cell, shape))[0]


def test_an_absent_chunk_is_as_the_volume_says(url: str) -> None:
    volume = empty(url, (128, 64, 64))
    volume[0][:64] = 3
    assert volume[0].to_dask(64).sum().compute() == 3 * 64**3  # and a block without any chunk is no warning
    strict = open_volume(url, missing="raise")[0].to_dask(64)
    assert (strict[:64] == 3).all().compute()
    with pytest.raises(NotFoundError, match=r"no chunk \(64, 128, 0, 64, 0, 64\)"):
        strict.compute()


# -------------------------------------------------------------------------------------------------- names and processes


def test_names_are_the_same_each_time(url: str) -> None:
    make(url, voxels((20, 20, 20)))
    first, second = (open_volume(url)[0].to_dask() for _ in range(2))
    assert first.name == second.name
    assert set(dict(first.dask)) == set(dict(second.dask))


def test_names_are_the_same_in_another_process(tmp_path: Path) -> None:
    options: dict[str, Any] = {"storage_options": {"auto_mkdir": True}}
    scale = make(tmp_path / "brain", voxels((20, 20, 20)), **options)[0]
    program = (
        "import precomputed_fs\n"
        f"print(precomputed_fs.open_volume({str(tmp_path / 'brain')!r}, **{options!r})[0].to_dask().name)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == scale.to_dask().name


def test_what_differs_has_another_name(url: str) -> None:
    """A key that two arrays share would make dask take one for the other."""
    make(url, voxels((40, 40, 40)), scales=2)
    make(url + "/other", voxels((40, 40, 40)), scales=2)
    scale = open_volume(url)[0]
    arrays = [
        scale.to_dask(),
        scale.to_dask(chunks=CHUNK),
        scale.to_dask(chunks=(32, 8, 9)),
        open_volume(url)[1].to_dask(),
        open_volume(url + "/other")[0].to_dask(),
        open_volume(url, missing="raise")[0].to_dask(),
        open_volume(url, storage_options={"some": "other"})[0].to_dask(),
    ]
    make(url, voxels((40, 40, 40), "uint8"), overwrite=True)
    arrays.append(open_volume(url)[0].to_dask())
    assert len({array.name for array in arrays}) == len(arrays)


SECRETS = ("hunter2secret", "sig=0123456789abcdef", "0123456789abcdef")


def secret_volumes() -> Iterator[Volume]:
    info = make("memory://precomputed_fs-tests/bridges/secret", voxels((20, 20, 20)), overwrite=True).info
    yield Volume(FsspecAccessor("https://user:hunter2secret@127.0.0.1/brain?sig=0123456789abcdef"), info)
    yield Volume(FsspecAccessor("s3://bucket/brain", storage_options={"key": "k", "secret": "hunter2secret"}), info)


def test_names_show_no_secrets() -> None:
    for volume in secret_volumes():
        lazy = volume[0].to_dask(chunks=(16, 16, 18))
        shown = [repr(lazy), lazy.name, *map(repr, dict(lazy.dask)), *lazy.dask.layers, repr(volume[0].to_xarray())]
        assert len(shown) > 4
        assert not [text for text in shown for secret in SECRETS if secret in text]


def test_other_secrets_are_other_names() -> None:
    """A query may choose what is read, and who reads with less rights must not be given what others read."""
    info = next(secret_volumes()).info
    urls = [f"https://127.0.0.1/brain{query}" for query in ("", "?sample=1", "?sample=2")]
    assert len({Volume(FsspecAccessor(url), info)[0].to_dask().name for url in urls}) == len(urls)


def test_tasks_carry_what_a_pickled_scale_does() -> None:
    for volume in secret_volumes():
        scale, carried = pickle.dumps(volume[0]), pickle.dumps(Source(volume[0]))
        assert scale in carried
        assert not any(secret.encode() in carried.replace(scale, b"") for secret in SECRETS)


def test_tasks_of_a_process_share_connections(tmp_path: Path) -> None:
    scale = make(tmp_path, voxels((20, 20, 20)))[0]
    carried = [pickle.dumps(Source(open_volume(tmp_path)[0])) for _ in range(2)]
    first, second, third = (pickle.loads(data) for data in (carried[0], carried[0], carried[1]))
    assert first is second is third
    assert first.scale is not scale
    assert np.array_equal(first[...], scale[...])


def test_memory_is_not_another_processs(scale: Scale) -> None:
    function, (pickled, home, quiet) = Source(scale).__reduce__()
    assert function is _restored
    elsewhere = _restored(pickled, home + 1, quiet)
    with pytest.raises(ValueError, match="memory:// belongs to one process"):
        elsewhere[...]
    with pytest.raises(ValueError, match="memory:// belongs to one process"):
        _ = elsewhere.scale


def test_an_archive_is_written_by_one_process(tmp_path: Path) -> None:
    with make(f"zip://brain::{tmp_path / 'brain.zip'}", storage_options={"mode": "w"}) as volume:
        stored = volume[0].store(da.zeros((*SIZE, 2), dtype=np.uint16, chunks=(*CHUNK, 2)), compute=False)
        with pytest.raises(TypeError, match="is being written: one process can"):
            pickle.dumps(stored)


@forking
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_processes_on_s3(method: str, s3_server: servers.S3Server) -> None:
    bucket = f"bridges-{method}"
    s3_server.create_bucket(bucket)
    options: dict[str, Any] = {"storage_options": s3_server.storage_options}
    array = voxels((64, 32, 32), "uint8")
    given: dict[str, Any] = {"resolution": (8, 8, 8), "chunk_size": (16, 16, 16), "scales": 1, **options}
    source = create_volume(f"s3://{bucket}/source", array, **given)
    plain = create_volume(f"s3://{bucket}/plain", source.info, **options)
    shards = create_volume(f"s3://{bucket}/shards", array * 0, sharding=sharding(shard_bits=6), **given)
    strict = Volume(plain.accessor, plain.info, missing="raise")
    settings = {"distributed.worker.multiprocessing-method": method}
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        lazy = source[0].to_dask(chunks=16)
        assert lazy.npartitions == 16
        assert np.array_equal(lazy.compute()[..., 0], array)
        with pytest.raises(NotFoundError, match="no chunk"):
            strict[0].to_dask()[0, 0, 0].compute()
        s3_server.log.clear()
        plain[0].store(lazy)
        shards[0][...] = lazy + np.uint8(1)
        who_has = client.run(lambda: _restored.cache_info().currsize)
    assert [count > 0 for count in who_has.values()] == [True, True]  # either process had tasks
    puts = Counter(entry.path for entry in s3_server.log.entries() if entry.method == "PUT")
    assert set(puts.values()) == {1}
    assert sum("/plain/" in path for path in puts) == 4 * 2 * 2
    assert sum(path.endswith(".shard") for path in puts) == 2
    assert np.array_equal(open_volume(f"s3://{bucket}/plain", **options)[0][..., 0], array)
    assert np.array_equal(open_volume(f"s3://{bucket}/shards", **options)[0][..., 0], array + 1)
    for volume in (source, plain, shards):
        volume.close()


def test_a_filesystem_of_ones_own_is_named_and_carried(tmp_path: Path) -> None:
    fs = fsspec.filesystem("file", auto_mkdir=True)
    make(tmp_path)
    scale = open_volume(str(tmp_path), fs=fs)[0]
    assert scale.to_dask().name == open_volume(str(tmp_path), fs=fs)[0].to_dask().name != ""
    assert scale.to_dask().name != open_volume(tmp_path)[0].to_dask().name
    assert np.array_equal(pickle.loads(pickle.dumps(Source(scale)))[...], voxels())


# ------------------------------------------------------------------------------------------------------------- storing

BLOCKS = {
    "of whole chunks": CHUNK,
    "of whole shards": (32, 16, 18),
    "of any size": (7, 33, 20, 1),
    "one": (45, 33, 20),
    "uneven": ((16, 29), (24, 9), (9, 11), (2,)),
}


@pytest.mark.parametrize("kind", SHARDINGS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_what_is_stored_can_be_read(kind: str, blocks: str, tmp_path: Path) -> None:
    volume = make(tmp_path, np.zeros_like(voxels()), sharding=SHARDINGS[kind])
    chunks = (*BLOCKS[blocks], 2)[:4]
    stored = volume[0].store(da.from_array(voxels(), chunks=chunks), compute=False)
    assert stored.shape == ()
    assert not open_volume(tmp_path)[0][...].any()
    assert stored.compute() == CHUNKS
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())
    assert np.array_equal(volume[0][...], voxels())


@pytest.mark.parametrize("kind", SHARDINGS)
@pytest.mark.parametrize("chunks", [5, (*CHUNK, 1), -1])
def test_a_box_keeps_what_is_around_it(kind: str, chunks: Any, tmp_path: Path) -> None:
    volume = make(tmp_path, sharding=SHARDINGS[kind])
    part = voxels((17, 20, 14, 2), "uint8") + np.uint8(50)
    assert volume[0].store(da.from_array(part, chunks=chunks), np.s_[3:20, 10:30, 101:115]) is None
    expected = voxels()
    expected[8:25, 3:23, 1:15] = part
    assert np.array_equal(open_volume(tmp_path)[0][...], expected)
    volume[0][..., 1:] = da.from_array(part[:1, :1, :1, :1], chunks=1).repeat(45, 0).repeat(33, 1).repeat(20, 2)
    expected[..., 1] = part[0, 0, 0, 0]
    assert np.array_equal(open_volume(tmp_path)[0][...], expected)


@pytest.mark.parametrize(("kind", "objects"), [("unsharded", CHUNKS), ("shards", 2 * 3 * 2), ("one shard", 1)])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_each_object_is_written_once(
    kind: str, objects: int, blocks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no two tasks write the same one, whichever blocks there are."""
    volume = make(tmp_path, np.zeros_like(voxels()), sharding=SHARDINGS[kind], gzip=False)
    before = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != "info"}
    written: Counter[str] = Counter()
    original = jobs.write

    def spied(put: Put) -> Job[None]:
        written[put.name] += 1
        return original(put)

    monkeypatch.setattr(jobs, "write", spied)
    volume[0].store(da.from_array(voxels(), chunks=(*BLOCKS[blocks], 2)[:4]))
    assert len(before) == objects
    assert {name: count for name, count in written.items() if count > 1} == {}
    assert {*written} == {path.relative_to(tmp_path).as_posix() for path in before}


def test_a_stored_array_is_never_loaded_as_a_whole(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(url, np.zeros((64, 64, 64), np.uint8), chunk_size=(16, 16, 16))
    lazy = da.from_array(voxels((64, 64, 64), "uint8"), chunks=32)
    monkeypatch.setattr(da.Array, "__array__", None)
    original, shapes = Scale.write, []

    def spied(self: Scale, box: Any, value: Any, **options: Any) -> None:
        shapes.append((type(value), value.shape))
        original(self, box, value, **options)

    monkeypatch.setattr(Scale, "write", spied)
    volume[0][...] = lazy
    assert shapes == [(da.Array, (64, 64, 64))] + [(np.ndarray, (32, 32, 32, 1))] * 8
    assert np.array_equal(volume[0][..., 0], voxels((64, 64, 64), "uint8"))


def test_blocks_that_do_not_fit_are_rechunked_lazily(url: str) -> None:
    volume = empty(url, (6400, 6400, 6400))
    planes = da.zeros((6400, 6400, 6400), dtype=np.uint8, chunks=(6400, 6400, 16))
    stored = volume[0].store(planes, compute=False)
    assert stored.shape == ()
    writes = next(layer for name, layer in stored.dask.layers.items() if name.startswith("write-block"))
    assert len(writes) == 13**3  # not blocks of 6400 x 6400 x 64


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


@pytest.mark.parametrize("kind", SHARDINGS)
def test_a_task_that_failed_after_it_wrote_is_repeated(
    kind: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = make(tmp_path, np.zeros_like(voxels()), sharding=SHARDINGS[kind])
    lazy = da.from_array(voxels(), chunks=(32, 16, 18, 2))
    owner, verb = (Scale, "write") if SHARDINGS[kind] is None else (Pyramid, "flush")
    original = getattr(owner, verb)
    calls = []

    def flaky(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        calls.append(args)
        if len(calls) % 2:
            message = "lost right after it was written"
            raise ConnectionError(message)

    with monkeypatch.context() as patch:
        stored = volume[0].store(lazy, compute=False)
        patch.setattr(owner, verb, flaky)
        assert client.compute(stored, retries=20).result(timeout=60) == CHUNKS
    assert len(calls) > 1
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())


def test_a_shard_that_could_not_be_written_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task may have it by then; and a volume's own chunks wait apart."""
    volume = make(tmp_path, sharding=sharding())
    with monkeypatch.context() as patch:
        patch.setattr("precomputed_fs.pyramid.shard_writer.ShardWriter.flush", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            volume[0].store(da.zeros((*SIZE, 2), dtype=np.uint16))
    assert volume.accessor.pyramid.writer.waiting == {}
    volume.flush()
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())


def test_whole_shards_are_written_whatever_there_was(tmp_path: Path) -> None:
    volume = make(tmp_path, np.zeros_like(voxels()), sharding=sharding())
    shards = [*tmp_path.rglob("*.shard")]
    for shard in shards:
        shard.write_bytes(b"what a writer left that was killed")
    volume[0].store(da.from_array(voxels(), chunks=(*CHUNK, 2)))
    assert len(shards) == 12
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())


def test_what_waits_for_shards_is_older(tmp_path: Path) -> None:
    with make(tmp_path, sharding=sharding()) as volume:
        volume[0][0:3, 10:12] = 77
        volume[0].store(da.from_array(voxels(), chunks=(*CHUNK, 2)))
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())


@pytest.mark.parametrize("kind", ["unsharded", "shards"])
def test_empty_chunks_can_be_left_out(kind: str, tmp_path: Path) -> None:
    array = np.zeros((*SIZE, 2), np.uint16)
    array[16:, 8:] = 5
    volume = make(tmp_path, da.from_array(array, chunks=(*CHUNK, 2)), sharding=SHARDINGS[kind], skip_empty=True)
    assert np.array_equal(volume[0][...], array)
    coords = [volume[0].grid.chunk((x, y, z)) for x in range(3) for y in range(5) for z in range(3)]
    there = [data is not None for _, data in open_volume(tmp_path).accessor.fetch_chunks("8_8_40", coords)]
    assert sum(there) == 2 * 4 * 3
    # what is there already is replaced by zeros
    volume[0].store(da.zeros((*SIZE, 2), dtype=np.uint16), skip_empty=True)
    assert not open_volume(tmp_path)[0][...].any()


@pytest.mark.parametrize("sharded", [False, True])
def test_a_pyramid_is_made_of_a_dask_array(sharded: bool, tmp_path: Path) -> None:
    array = voxels((100, 90, 80), "uint8")
    given: dict[str, Any] = {"resolution": (8, 8, 8), "chunk_size": (32, 32, 32), "sharding": sharded}
    expected = create_volume(tmp_path / "numpy", array, **given)
    volume = create_volume(tmp_path / "dask", da.from_array(array, chunks=50), **given)
    assert len(volume) == len(expected) > 1
    for scale, other in zip(volume, expected, strict=True):
        assert np.array_equal(scale[...], other[...])
    again = create_volume(tmp_path / "dask", da.from_array(array + 1, chunks=32), overwrite=True, **given)
    assert np.array_equal(again[0][..., 0], array + 1)


def test_half_a_pyramid_does_not_look_whole(tmp_path: Path) -> None:
    def fail(_: Any) -> Any:
        message = "no such block"
        raise LookupError(message)

    broken = da.zeros((64, 64, 64), dtype=np.uint8, chunks=32).map_blocks(
        fail, dtype=np.uint8, meta=np.empty((0, 0, 0), "u1")
    )
    with pytest.raises(LookupError, match="no such block"):
        create_volume(tmp_path, broken, resolution=(8, 8, 8))
    assert not (tmp_path / "info").exists()


def test_an_archive_is_stored_into_by_threads(tmp_path: Path) -> None:
    place = f"zip://brain::{tmp_path / 'brain.zip'}"
    with make(place, voxels(), storage_options={"mode": "w"}):
        pass
    options: dict[str, Any] = {"storage_options": {"mode": "w"}}
    with create_volume(f"zip://brain::{tmp_path / 'b.zip'}", open_volume(place).info, **options) as volume:
        volume[0].store(da.from_array(voxels(), chunks=(*CHUNK, 2)))
    assert np.array_equal(open_volume(f"zip://brain::{tmp_path / 'b.zip'}")[0][...], voxels())


def test_what_cannot_be_stored(url: str, tmp_path: Path) -> None:
    scale = make(url)[0]
    lazy = da.from_array(voxels(), chunks=(*CHUNK, 2))
    for array, box, error, message in [
        (lazy[:-1], ..., ValueError, r"shape \(45, 33, 20, 2\) for this box, got \(44, 33, 20, 2\)"),
        (lazy[..., 0], ..., ValueError, r"got \(45, 33, 20\)"),
        (lazy[:, :, 0], np.s_[:, :, 100], ValueError, r"expected an array of shape"),
        (lazy[lazy[:, 0, 0, 0] > 5], ..., ValueError, r"compute_chunk_sizes\(\)"),
        (lazy.astype(np.float32), ..., TypeError, "float32 cannot be cast to uint16 without loss"),
        (lazy.astype(np.int64), ..., TypeError, r"pass array.astype\('uint16'\)"),
        (lazy, np.s_[0:45], IndexError, "x: 0:45 is not inside of -5:40"),
        (lazy[::2], np.s_[::2], ValueError, "steps are for reading"),
        (voxels(), ..., TypeError, "expected a dask array, got ndarray"),
        (scale.to_dask() + np.uint16(1), ..., ValueError, "read from scale 8_8_40, to which it would be written"),
    ]:
        with pytest.raises(error, match=message):
            scale.store(array, box)
        if not isinstance(array, np.ndarray):
            with pytest.raises(error, match=message):
                scale[box] = array
    assert np.array_equal(scale[...], voxels())
    scale.store((scale.to_dask() + np.uint16(1)).persist())
    assert np.array_equal(scale[...], voxels() + 1)
    with pytest.raises(ValueError, match="read from scale 8_8_40, to which it would be written"):
        create_volume(url, scale.to_dask()[::2], resolution=RESOLUTION, overwrite=True)
    assert np.array_equal(open_volume(url)[0][...], voxels() + 1)
    info = scale.volume.info.to_dict()
    info["scales"][0]["chunk_sizes"] = [[16, 8, 9], [8, 8, 8]]
    with pytest.raises(ValueError, match="has 2 chunk sizes"):
        create_volume(tmp_path, info)[0].store(lazy)


@pytest.mark.parametrize("kind", ["unsharded", "shards"])
def test_blocks_that_are_not_what_dask_takes_them_for(kind: str, tmp_path: Path) -> None:
    """Of what NumPy would spread over the box, or take the mask from, nothing is written."""
    scale = make(tmp_path, sharding=SHARDINGS[kind])[0]
    lazy = da.zeros((*SIZE, 2), dtype=np.uint16, chunks=(*CHUNK, 2))

    def changed(change: Callable[[Any], Any]) -> Any:
        return lazy.map_blocks(change, dtype=np.uint16, meta=np.empty((0,) * 4, np.uint16))

    for array, error, message in [
        (changed(lambda block: block[:1]), ValueError, r"a block of shape \(\d+, \d, \d, 2\), .* got \(1, \d, \d, 2\)"),
        (changed(np.max), ValueError, r"got \(\)"),
        (changed(lambda block: block + 0.5), TypeError, "float64 cannot be cast to uint16"),
        (changed(lambda block: np.ma.masked_equal(block, 0)), TypeError, "a masked array"),
    ]:
        with pytest.raises(error, match=message):
            scale.store(array)
    with pytest.raises(TypeError, match=r"masked array: fill it first, with dask.array.ma.filled\(array, 0\)"):
        scale.store(da.ma.masked_equal(lazy, 0), compute=False)
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())
    scale.store(da.ma.filled(da.ma.masked_equal(lazy, 0), 3))
    assert (open_volume(tmp_path)[0][...] == 3).all()


def test_nothing_is_stored_as_nothing(scale: Scale) -> None:
    assert scale.store(da.zeros((0, 33, 20, 2), dtype=np.uint16), np.s_[3:3]) is None
    assert scale.store(da.zeros((0, 33, 20, 2), dtype=np.uint16), np.s_[3:3], compute=False).compute() == 0


# -------------------------------------------------------------------------------------------------------------- xarray


def test_a_data_array_is_lazy(scale: Scale, fetched: list[ChunkCoords]) -> None:
    data = scale.to_xarray(chunks=CHUNK)
    assert (data.dims, data.shape, data.name) == (("x", "y", "z", "channel"), (*SIZE, 2), "voxels")
    assert data.chunks == scale.to_dask(CHUNK).chunks
    assert fetched == []
    assert np.array_equal(data[3:5, :, 2].values, voxels()[3:5, :, 2])
    assert {coords[:2] for coords in fetched} == {(-5, 11)}


def test_coordinates_are_centres(scale: Scale) -> None:
    data = scale.to_xarray()
    assert [data[axis].attrs for axis in "xyz"] == [{"units": "nm"}] * 3
    assert data.x.values.tolist() == [(i + 0.5) * 8 for i in range(-5, 40)]
    assert data.z.values.tolist() == [(i + 0.5) * 40 for i in range(100, 120)]


@given(*(st.integers(low, high - 1) for low, high in zip(OFFSET, (40, 40, 120), strict=True)), st.floats(0.01, 0.99))
def test_a_position_is_in_the_nearest_voxel(x: int, y: int, z: int, part: float) -> None:
    """Neuroglancer has voxel i reach from i to i + 1: which is where the nearest centre is the i-th."""
    scale = make("memory://precomputed_fs-tests/bridges/nearest", overwrite=True)[0]
    position = [(i + part) * step for i, step in zip((x, y, z), RESOLUTION, strict=True)]
    found = scale.to_xarray().sel(dict(zip("xyz", position, strict=True)), method="nearest")
    assert np.array_equal(found.values, scale[x, y, z])


def remade(attrs: dict[str, Any], data: Any, url: str) -> dict[str, Any]:
    return create_volume(url, data, scales=1, **attrs).info.to_dict()


ENCODINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("raw", "uint8", {}),
    ("jpeg", "uint8", {"jpeg_quality": 77}),
    ("png", "uint16", {"png_level": 3}),
    ("compressed_segmentation", "uint64", {"compressed_segmentation_block_size": [4, 8, 2]}),
]


@pytest.mark.parametrize(("encoding", "dtype", "parameters"), ENCODINGS)
def test_attributes_make_the_same_volume(
    encoding: str, dtype: str, parameters: dict[str, Any], url: str, tmp_path: Path
) -> None:
    array = voxels((20, 16, 12, 1), dtype)
    options: dict[str, Any] = {
        "resolution": (4.5, 8, 40),
        "encoding": encoding,
        "chunk_size": CHUNK,
        "scales": 1,
        **parameters,
    }
    volume = create_volume(url, array, voxel_offset=(-5, 7, 100), **options)
    data = volume[0].to_xarray()
    info = volume.info.to_dict()
    assert {type(value) for value in data.attrs.values()} <= {int, float, str, list}
    attrs = json.loads(json.dumps(data.attrs))
    assert attrs == data.attrs
    assert remade(attrs, data, url + "/json") == info
    small = xarray.Dataset({"voxels": data.astype(np.float64)})  # netCDF 3 has no unsigned integers
    small.to_netcdf(tmp_path / "brain.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "brain.nc", engine="scipy") as kept:
        assert kept.x.attrs["units"] == "nm"
        assert np.array_equal(kept.z, data.z)
        assert remade(kept.voxels.attrs, data, url + "/netcdf") == info


@pytest.mark.parametrize("chunks", [None, 16])
def test_dimensions_are_found_by_their_names(chunks: int | None, url: str) -> None:
    array = voxels((20, 20, 20, 1), "uint8")
    labelled = xarray.DataArray(array, dims=("x", "y", "z", "channel")).transpose("z", "channel", "x", "y")
    turned = labelled if chunks is None else labelled.chunk(chunks)
    volume = create_volume(url, turned, resolution=(8, 8, 8), scales=1)
    assert np.array_equal(volume[0][...], array)
    volume[0][...] = turned + np.uint8(1)
    assert np.array_equal(volume[0][...], array + 1)


def test_a_data_array_is_stored(url: str) -> None:
    array = voxels((20, 20, 20, 1), "uint8")
    scale = make(url, array * 0)[0]
    labelled = xarray.DataArray(array, dims=("x", "y", "z", "t"))
    scale.store(labelled.transpose("t", "z", "y", "x").chunk(x=7))
    assert np.array_equal(scale[...], array)
    with pytest.raises(TypeError, match="expected a dask array, got DataArray"):
        scale.store(labelled)


def test_very_long_axes_have_their_coordinates_computed(url: str) -> None:
    data = empty(url, (1 << 33, 64, 64), chunk=1 << 20, voxel_offset=[-10, 0, 0], resolution=[8, 8, 8])[0].to_xarray()
    assert data.sizes["x"] == 1 << 33
    assert data.x.attrs == {"units": "nm"}
    assert data.x[[0, 1, (1 << 33) - 1]].values.tolist() == [-76.0, -68.0, ((1 << 33) - 10.5) * 8]
    assert data.sel(x=8e9 + 1, method="nearest").x == 8e9 + 4


# ------------------------------------------------------------------------------------------------------ xarray's engine


@pytest.fixture
def engine(url: str) -> Callable[..., xarray.Dataset]:
    make(url, scales=3)

    def opened(**options: Any) -> xarray.Dataset:
        return xarray.open_dataset(url, engine=PrecomputedBackend, **options)

    return opened


def test_a_data_set_is_lazy_without_dask(engine: Callable[..., xarray.Dataset], fetched: list[ChunkCoords]) -> None:
    with engine() as data:
        assert data.voxels.chunks is None
        assert "dask" not in repr(data)
        part = data.voxels[4:6, 3:5, 2]
        assert fetched == []
        assert np.array_equal(part.values, voxels()[4:6, 3:5, 2])
        assert fetched == [(-5, 11, 7, 15, 100, 109)]
        assert data.voxels.attrs["resolution"] == [8, 8, 40]
        assert data.x.values[0] == -36


@given(indices())
def test_a_data_set_is_indexed_like_numpy(index: tuple[Any, ...]) -> None:
    place = "memory://precomputed_fs-tests/bridges/engine"
    make(place, overwrite=True)
    data = xarray.open_dataset(place, engine=PrecomputedBackend, cache=False)
    assert np.array_equal(data.voxels[index].values, voxels()[index])


def test_points_and_lists_are_found(engine: Callable[..., xarray.Dataset]) -> None:
    points = [xarray.DataArray([3, 40, 7], dims="point"), xarray.DataArray([0, 32, 8], dims="point")]
    data = engine()
    assert np.array_equal(data.voxels.isel(x=points[0], y=points[1], z=5), voxels()[[3, 40, 7], [0, 32, 8], 5])
    assert np.array_equal(data.voxels.isel(x=[9, 3], z=[1, 19]), voxels()[[9, 3]][:, :, [1, 19]])
    assert data.voxels.isel(x=1, y=2, z=3, channel=1).item() == voxels()[1, 2, 3, 1]


def test_a_data_set_is_computed_by_dask_too(engine: Callable[..., xarray.Dataset]) -> None:
    assert engine(chunks={}).voxels.chunks == ((16, 16, 13), (8, 8, 8, 8, 1), (9, 9, 2), (2,))
    assert engine(chunks="auto").voxels.chunks == ((45,), (33,), (20,), (2,))
    assert engine(chunks={"x": 32}).voxels.mean().compute() == voxels().mean()


def test_a_data_set_is_loaded_without_blocking(engine: Callable[..., xarray.Dataset]) -> None:
    loaded = asyncio.run(engine().isel(z=3).load_async())
    assert np.array_equal(loaded.voxels.values, voxels()[:, :, 3])


def test_a_data_set_can_be_pickled(tmp_path: Path) -> None:
    make(tmp_path)
    data = pickle.loads(pickle.dumps(xarray.open_dataset(tmp_path, engine=PrecomputedBackend)))
    assert np.array_equal(data.voxels.values, voxels())


def test_a_group_is_a_scale(engine: Callable[..., xarray.Dataset]) -> None:
    assert engine().voxels.attrs["resolution"] == [8, 8, 40]
    assert engine(group="16_16_40").voxels.attrs["resolution"] == [16, 16, 40]
    assert engine(group="/16_16_40").sizes == engine(group=1).sizes == {"x": 23, "y": 17, "z": 20, "channel": 2}
    with pytest.raises(KeyError, match="there are 8_8_40, 16_16_40, 32_32_40"):
        engine(group="4_4_40")
    with pytest.raises(IndexError, match="there are 3"):
        engine(group=3)


def test_a_tree_has_a_group_for_each_scale(engine: Callable[..., xarray.Dataset], url: str) -> None:
    with xarray.open_datatree(url, engine=PrecomputedBackend) as tree:
        assert [*tree.children] == ["8_8_40", "16_16_40", "32_32_40"]
        assert tree.attrs == {"type": "image"}
        for scale in open_volume(url):
            assert np.array_equal(tree[scale.key].voxels.values, scale[...])
    groups = xarray.open_groups(url, engine=PrecomputedBackend, drop_variables="x")
    assert [*groups] == ["/", "/8_8_40", "/16_16_40", "/32_32_40"] or [*groups] == ["/", *tree.children]
    assert [*groups["8_8_40" if "8_8_40" in groups else "/8_8_40"].coords] == ["y", "z"]


def test_a_group_s_number_counts_from_the_finest(coarsest_first: Path) -> None:
    groups = [xarray.open_dataset(coarsest_first, engine=PrecomputedBackend, group=i) for i in (None, 0, 2)]
    assert [group.sizes["x"] for group in groups] == [32, 32, 8]
    tree = xarray.open_datatree(coarsest_first, engine=PrecomputedBackend)
    assert [*tree.children] == ["4_4_4", "8_8_8", "16_16_16"]


def test_keys_that_are_paths(url: str) -> None:
    scale = {"size": [4, 4, 4], "chunk_sizes": [[4, 4, 4]], "resolution": [1, 1, 1], "encoding": "raw"}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1}
    scales = [scale | {"key": "fine/1"}, scale | {"key": "../other/2"}]
    volume = create_volume(url, info | {"scales": scales})
    volume[1][...] = 7
    tree = xarray.open_datatree(url, engine=PrecomputedBackend)
    assert (tree["other/2"].voxels == 7).all()
    for group in ("other/2", "../other/2"):
        assert (xarray.open_dataset(url, engine=PrecomputedBackend, group=group).voxels == 7).all()
    twice = create_volume(url + "/twice", info | {"scales": [scale | {"key": "a"}, scale | {"key": "./a"}]})
    with pytest.raises(ValueError, match="the same key"):
        xarray.open_datatree(twice.url, engine=PrecomputedBackend)


def test_options_of_the_engine(url: str) -> None:
    empty(url, (8, 8, 8), chunk=8)
    with pytest.warns(UserWarning, match="none of the 1 chunks"):
        assert not xarray.open_dataset(url, engine=PrecomputedBackend).voxels.values.any()
    with pytest.raises(NotFoundError):
        _ = xarray.open_dataset(url, engine=PrecomputedBackend, missing="raise").voxels.values
    assert [*xarray.open_dataset(url, engine=PrecomputedBackend, drop_variables=["voxels", "z"]).variables] == [
        "x",
        "y",
    ]
    with pytest.raises(TypeError, match="no_such_option"):
        xarray.open_dataset(url, engine=PrecomputedBackend, no_such_option=1)


def test_a_data_sets_source_shows_no_secrets(url: str, tmp_path: Path) -> None:
    make(tmp_path)
    data = xarray.open_dataset(f"precomputed://file://{tmp_path}", engine=PrecomputedBackend)
    assert data.encoding["source"] == open_volume(tmp_path).url


@pytest.mark.parametrize(
    ("what", "can"),
    [
        ("precomputed://gs://bucket/brain", True),
        ("precomputed:///brain", True),
        ("s3://bucket/brain/|neuroglancer-precomputed:", True),
        ("s3://bucket/brain", False),
        ("brain.nc", False),
        (Path("brain.zarr"), False),
        (b"precomputed://", False),
        (None, False),
    ],
)
def test_what_the_engine_knows_by_its_name(what: Any, can: bool) -> None:
    assert PrecomputedBackend().guess_can_open(what) is can


def test_the_entry_point_is_found_by_xarray(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    ((name, value),) = project["project"]["entry-points"]["xarray.backends"].items()
    point = EntryPoint(name, value, "xarray.backends")
    assert (name, point.load()) == ("precomputed", PrecomputedBackend)
    make(url)
    with monkeypatch.context() as patch:
        patch.setattr("xarray.backends.plugins.entry_points", lambda group: EntryPoints([point]))
        xarray.backends.refresh_engines()
        try:
            for data in (xarray.open_dataset(url, engine="precomputed"), xarray.open_dataset(f"precomputed://{url}")):
                assert np.array_equal(data.voxels.values, voxels())
            assert [*xarray.open_datatree(f"precomputed://{url}").children] == ["8_8_40"]
        finally:
            patch.undo()
            xarray.backends.refresh_engines()


# ------------------------------------------------------------------------------------------------------ missing extras


@pytest.mark.parametrize(
    ("package", "call", "command"),
    [
        ("dask", "to_dask()", r"pip install 'precomputed-fs\[dask\]'"),
        ("dask", "store(None)", r"pip install 'precomputed-fs\[dask\]'"),
        ("xarray", "to_xarray()", r"pip install 'precomputed-fs\[xarray\]'"),
    ],
)
def test_a_missing_extra_says_what_to_install(
    package: str, call: str, command: str, scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=command) as caught:
        eval(f"scale.{call}", {"scale": scale})
    assert caught.value.name == package
    scale.write(np.s_[:], voxels())  # what needs neither works
