"""Dask arrays of scales: what is read, blocks, names, and tasks in other processes."""

from __future__ import annotations

import math
import pickle
import sys
import time
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray
from hypothesis import given

from precomputed_fs import (
    FsspecAccessor,
    NotFoundError,
    Scale,
    Volume,
    create_volume,
    open_volume,
)
from precomputed_fs.interop.source import Source, _restored
from tests.interop.samples import CHUNK, CHUNKS, OFFSET, SIZE, empty, indices, make, sharding, voxels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

    from precomputed_fs.format.grid import ChunkCoords
    from precomputed_fs.format.sharding import Sharding
    from tests.support import servers


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


@given(indices())
def test_it_is_indexed_like_numpy(index: tuple[Any, ...]) -> None:
    lazy = make("memory://precomputed_fs-tests/interop/indexed", overwrite=True)[0].to_dask(chunks=(32, 16, 9))
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
    began = time.process_time()
    lazy = scale.to_dask()
    graph = dict(lazy.dask)
    took = time.process_time() - began
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


def test_names_are_the_same_each_time(url: str) -> None:
    make(url, voxels((20, 20, 20)))
    first, second = (open_volume(url)[0].to_dask() for _ in range(2))
    assert first.name == second.name
    assert set(dict(first.dask)) == set(dict(second.dask))


@pytest.mark.slow
def test_names_are_the_same_in_another_process(tmp_path: Path, dask_client: Client) -> None:
    options: dict[str, Any] = {"storage_options": {"auto_mkdir": True}}
    scale = make(tmp_path / "brain", voxels((20, 20, 20)), **options)[0]
    names = dask_client.run(lambda: open_volume(tmp_path / "brain", **options)[0].to_dask().name)
    assert {*names.values()} == {scale.to_dask().name}


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
    info = make("memory://precomputed_fs-tests/interop/secret", voxels((20, 20, 20)), overwrite=True).info
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


@pytest.mark.slow
def test_two_processes_on_s3(dask_client: Client, s3_server: servers.S3Server) -> None:
    bucket = "bridges"
    s3_server.create_bucket(bucket)
    options: dict[str, Any] = {"storage_options": s3_server.storage_options}
    array = voxels((64, 32, 32), "uint8")
    given: dict[str, Any] = {"resolution": (8, 8, 8), "chunk_size": (16, 16, 16), "scales": 1, **options}
    source = create_volume(f"s3://{bucket}/source", array, **given)
    plain = create_volume(f"s3://{bucket}/plain", source.info, **options)
    shards = create_volume(f"s3://{bucket}/shards", array * 0, sharding=sharding(shard_bits=6), **given)
    strict = Volume(plain.accessor, plain.info, missing="raise")
    dask_client.run(_restored.cache_clear)
    with dask_client.as_current():
        lazy = source[0].to_dask(chunks=16)
        assert lazy.npartitions == 16
        assert np.array_equal(lazy.compute()[..., 0], array)
        with pytest.raises(NotFoundError, match="no chunk"):
            strict[0].to_dask()[0, 0, 0].compute()
        s3_server.log.clear()
        plain[0].store(lazy)
        shards[0][...] = lazy + np.uint8(1)
        who_has = dask_client.run(lambda: _restored.cache_info().currsize)
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


def test_an_array_that_is_larger_than_what_the_scale_has_become_is_refused(tmp_path: Path) -> None:
    scale = create_volume(tmp_path, voxels(), resolution=8, chunk_size=CHUNK, scales=1)[0]
    lazy, part = scale.to_dask(), scale.to_dask()[:5, :5, :5]
    x, y, z = SIZE
    scale.resize((x, y, z + 1))
    assert np.array_equal(lazy.compute(), voxels())
    scale.resize((x, y - 1, z))
    for array in (lazy, part):
        with pytest.raises(
            ValueError, match=r"scale .* had .* voxels when the array was made, .* make the array again"
        ):
            array.compute(scheduler="threads")
    with pytest.raises(ValueError, match="make the array again"):
        pickle.dumps(lazy)
    assert np.array_equal(scale.to_dask().compute(), voxels()[:, :-1])
