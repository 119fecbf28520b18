"""Dask arrays written to scales, block by block and shard by shard."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest

from precomputed_fs import (
    Scale,
    create_volume,
    open_volume,
)
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store import jobs
from tests.interop.samples import CHUNK, CHUNKS, RESOLUTION, SIZE, empty, make, sharding, voxels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from precomputed_fs.store.requests import Job, Put

SHARDINGS = {
    "unsharded": None,
    "shards": sharding(),
    "one shard": sharding(preshift_bits=7, minishard_bits=0, shard_bits=0),
    "shards met twice": sharding(shard_bits=2),
    "scattered": sharding(hash="murmurhash3_x86_128"),
}

BLOCKS = {
    "of whole chunks": CHUNK,
    "of whole shards": (32, 16, 18),
    "of any size": (7, 33, 20, 1),
    "one": (45, 33, 20),
    "uneven": ((16, 29), (24, 9), (9, 11), (2,)),
}


@pytest.mark.parametrize("kind", SHARDINGS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_what_is_stored_can_be_read(kind: str, blocks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each object is written once, so no two tasks write the same one, whichever blocks there are."""
    volume = make(tmp_path, np.zeros_like(voxels()), sharding=SHARDINGS[kind], gzip=False)
    objects = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} - {"info"}
    assert len(objects) == {"unsharded": CHUNKS, "shards": 2 * 3 * 2, "one shard": 1}.get(kind, len(objects))
    written: Counter[str] = Counter()
    original = jobs.write

    def spied(put: Put) -> Job[None]:
        written[put.name] += 1
        return original(put)

    monkeypatch.setattr(jobs, "write", spied)
    chunks = (*BLOCKS[blocks], 2)[:4]
    stored = volume[0].store(da.from_array(voxels(), chunks=chunks), compute=False)
    assert stored.shape == ()
    assert not open_volume(tmp_path)[0][...].any()
    assert stored.compute() == CHUNKS
    assert written == dict.fromkeys(objects, 1)
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
