"""Scales: what is read and written, with which requests, and what absent and broken chunks are."""

import asyncio
import io
import itertools
import json
import math
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from precomputed_fs import (
    CorruptDataError,
    DataAccessError,
    FsspecAccessor,
    InvalidInfoError,
    NotFoundError,
    Scale,
    Volume,
    create_volume,
    open_volume,
)
from precomputed_fs.format.grid import Box
from precomputed_fs.store import jobs, pool
from precomputed_fs.store.requests import Job, Put
from tests.support import servers
from tests.support.places import Place
from tests.volume.samples import (
    BOUNDS,
    CHUNK,
    OFFSET,
    SIZE,
    chunk_files,
    make,
    requests,
    shifted,
    voxels,
)

SHARDS = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 10,
}


def test_a_scale_describes_itself(scale: Scale) -> None:
    assert (scale.shape, scale.ndim, scale.dtype.name, len(scale)) == ((*SIZE, 2), 4, "uint16", SIZE[0])
    assert (scale.voxel_offset, scale.chunk_size, scale.resolution) == (OFFSET, CHUNK, (8, 8, 40))
    assert scale.bounds == Box(OFFSET, tuple(high for _, high in BOUNDS))  # type: ignore[arg-type]
    assert repr(scale) == "<Scale 8_8_40: 45 x 33 x 20 x 2 uint16, 8 x 8 x 40 nm, raw>"
    assert repr(scale.volume) == "<Volume memory://tests/shared: image of uint16, 1 scale>"


def test_a_scale_knows_its_size_in_memory(scale: Scale) -> None:
    assert (scale.size, scale.nbytes) == (voxels().size, voxels().nbytes)


def test_the_chunks_of_a_box_are_boxes_of_whole_chunks(scale: Scale) -> None:
    assert sum(scale[box].size for box in scale.chunks()) == scale.size
    touched = list(scale.chunks(np.s_[10:12, 8, 108:110]))
    assert touched == [Box((x, 7, z), (x + 16, 15, z + 9)) for z in (100, 109) for x in (-5, 11)]
    with pytest.raises(IndexError, match="is not inside"):
        scale.chunks(np.s_[-6:])


def test_chunks_of_a_shard_come_together() -> None:
    sharded = make("memory://tests/volume/sharded", sharding=SHARDS)[0]
    grid, sharding = sharded.grid, sharded.info.sharding
    assert sharding
    cells = [
        grid.chunk_id((*box.start[:1], box.stop[0], box.start[1], box.stop[1], box.start[2], box.stop[2]))
        for box in sharded.chunks()
    ]
    shards = [sharding.locate(chunk_id)[0] for chunk_id in cells]
    assert len(set(shards)) > 1
    assert [shard for shard, _ in itertools.groupby(shards)] == list(dict.fromkeys(shards))
    assert len(cells) == len(set(cells)) == math.prod(grid.shape)


def test_a_region_in_nanometres_is_a_box(scale: Scale) -> None:
    box = scale.box((-40, "56 nm", 4001), (-31, 100, 4001))
    assert box == Box((-5, 7, 100), (-3, 13, 101))
    assert np.array_equal(scale[box], voxels()[:2, :6, :1])
    assert scale.box((-5, 7, 100), (-3, 13, 101), unit="voxel") == box


def test_the_result_is_in_fortran_order(scale: Scale) -> None:
    result = scale[...]
    assert result.flags.f_contiguous
    assert result.flags.writeable


def test_read_pads_beyond_the_volume(scale: Scale) -> None:
    expected = np.pad(voxels(), [(3, 4), (2, 0), (0, 1), (0, 0)], constant_values=9)
    box = Box((-8, 5, 100), (44, 40, 121))
    assert np.array_equal(scale.read(box, fill=9), expected)
    assert np.array_equal(scale.read(box.to_slices(), fill=9), expected)
    assert np.array_equal(scale.read(np.s_[-8:44:5, 5:40:3, 100:121:7], fill=9), expected[::5, ::3, ::7])
    assert (scale.read(np.s_[1000:1010], fill=3) == 3).all()
    with pytest.raises(IndexError, match="fill=0"):
        scale.read(box)
    with pytest.raises(TypeError, match="does not fit in uint16"):
        scale.read(box, fill=-1)


def test_opening_is_one_request_and_each_touched_chunk_one_more(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        assert requests(server) == [("GET", "/info")]
        volume[0][11:28:16, 15:23, 100:109]  # x chunks: -5..11..27..40; the voxels 11 and 27 are in two of them
        asked = requests(server)[1:]
    names = ("/8_8_40/11-27_15-23_100-109", "/8_8_40/27-40_15-23_100-109")
    assert Counter(asked) == dict.fromkeys([("GET", name) for name in names], 1)


def test_an_empty_box_makes_no_request(tmp_path: Path) -> None:
    make(tmp_path)
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        assert volume[0][5:5].shape == (0, 33, 20, 2)
        assert volume[0].array[3:1, 5].shape == (0, 20, 2)
        assert len(requests(server)) == 1


def test_requests_are_concurrent(tmp_path: Path) -> None:
    make(tmp_path)
    under_way, most = 0, 0
    serve = servers.latency(0.05, servers.files(tmp_path))

    async def counting(request: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await serve(request)
        finally:
            under_way -= 1

    with servers.fault_server(counting) as server:
        assert np.array_equal(open_volume(server.url)[0][...], voxels())
    assert most > 20


def test_an_absent_chunk_is_zeros(tmp_path: Path) -> None:
    volume = make(tmp_path)
    (tmp_path / "8_8_40/-5-11_7-15_100-109").unlink()
    expected = voxels()
    expected[:16, :8, :9] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(volume[0][...], expected)


def test_an_absent_chunk_may_be_an_error(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "8_8_40/-5-11_7-15_100-109").unlink()
    chunk = re.escape("(-5, 11, 7, 15, 100, 109)")
    with pytest.raises(NotFoundError, match=rf"{re.escape(str(tmp_path))}.*8_8_40.*{chunk}"):
        open_volume(tmp_path, missing="raise")[0][...]
    with pytest.raises(NotFoundError, match=chunk):
        open_volume(tmp_path)[0].read(..., missing="raise")
    open_volume(tmp_path, missing="raise")[0].read(..., missing="zeros")
    with pytest.raises(ValueError, match="expected one of zeros, raise"):
        open_volume(tmp_path, missing="nan")


def test_a_box_of_absent_chunks_is_warned_about(tmp_path: Path) -> None:
    volume = create_volume(tmp_path, make("memory://tests/volume/info").info)
    with pytest.warns(UserWarning, match=r"none of the 1 chunks.*is the URL right") as caught:
        assert not volume[0][0, 10, 100].any()
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="none of the 45 chunks"):
        np.asarray(volume[0].array)


@pytest.mark.parametrize("body", [b"", b"short", bytes(10**4)])
def test_a_chunk_of_the_wrong_length_is_corrupt(tmp_path: Path, body: bytes) -> None:
    make(tmp_path, gzip=False)
    chunk = tmp_path / "8_8_40/-5-11_7-15_100-109"
    chunk.write_bytes(body)
    with pytest.raises(CorruptDataError, match=re.escape(str(chunk))):
        open_volume(tmp_path)[0][...]


@pytest.mark.parametrize("status", [403, 500, 410])
def test_a_failure_is_never_zeros(tmp_path: Path, status: int) -> None:
    make(tmp_path, gzip=False)
    serve = servers.files(tmp_path)

    async def handler(request: Any) -> Any:
        return await (servers.respond(status)(request) if "11-27_15-23" in request.path else serve(request))

    with servers.fault_server(handler) as server, pytest.raises(DataAccessError, match="11-27_15-23") as caught:
        open_volume(server.url, attempts=1)[0][...]
    assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize("protocol", ["s3", "gcs", "azure"])
def test_an_absent_bucket_is_an_error_and_never_zeros(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    place = make_pyramid(protocol)
    url = re.sub("bucket-[^/]*", "no-such-bucket", place.url)
    options: dict[str, Any] = {"storage_options": place.storage_options}
    told = "(bucket|container) does not exist"
    with pytest.raises(NotFoundError, match=rf"no-such-bucket/lab/brain/info: .*{told}"):
        open_volume(url, **options)
    for sharding in (False, True):
        info = make("memory://tests/volume/gone", sharding=sharding).info
        with FsspecAccessor(url, **options) as accessor, accessor.pyramid.expecting_info(info.to_dict()):
            scale = Volume(accessor, info)[0]
            for missing in ("zeros", "raise"):
                with pytest.raises(DataAccessError, match=told) as caught:
                    scale.read(np.s_[0, 10, 110], missing=missing)
                assert not isinstance(caught.value, NotFoundError)
            with pytest.raises(DataAccessError, match=told) as caught:
                accessor.fetch_chunk("8_8_40", (-5, 11, 7, 15, 100, 109))
            assert not isinstance(caught.value, NotFoundError)


def test_a_scale_of_an_unknown_encoding_does_not_hide_the_others(tmp_path: Path) -> None:
    info = make(tmp_path, scales=2).info.to_dict()
    info["scales"][1]["encoding"] = "wavelets"
    (tmp_path / "info").write_text(json.dumps(info))
    volume = open_volume(tmp_path)
    assert np.array_equal(volume[0][...], voxels())
    with pytest.raises(InvalidInfoError, match=r"scales\[1\]\.encoding.*wavelets"):
        volume[1][...]


def test_a_failed_read_leaves_no_thread_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, gzip=False)
    chunk_files(tmp_path)[30].write_bytes(b"broken")
    scale = open_volume(tmp_path)[0]
    call, calls = pool.call, list[Any]()

    def noting(*args: Any) -> Any:
        calls.append(call(*args))
        return calls[-1]

    monkeypatch.setattr(pool, "call", noting)
    monkeypatch.setattr("precomputed_fs.pyramid.batches.HOP", 1)  # else one thread is enough for all
    for _ in range(3):
        with pytest.raises(CorruptDataError):
            scale[...]
        assert calls
        assert all(call.is_done for call in calls)


def test_a_failure_ends_a_read_at_once(tmp_path: Path) -> None:
    """Chunks that were asked for before are not waited for."""
    make(tmp_path, gzip=False)
    serve = servers.files(tmp_path)
    first, broken = "-5-11_7-15_100-109", "11-27_7-15_100-109"

    async def handler(request: Any) -> Any:
        if broken in request.path:
            return await servers.respond(410)(request)
        if "8_8_40" in request.path and first not in request.path:
            await asyncio.Event().wait()  # for ever
        return await serve(request)

    with servers.fault_server(handler) as server, pytest.raises(DataAccessError, match=broken):
        open_volume(server.url)[0].read(...)


def test_a_scale_is_not_iterable(scale: Scale) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        list(scale)  # type: ignore[call-overload]
    assert np.array_equal(np.stack([scale.array[i] for i in range(len(scale.array))]), voxels())


def test_other_libraries_take_the_array(scale: Scale) -> None:
    import dask.array
    import neuroglancer

    array = scale.array
    assert np.array_equal(np.asarray(array), voxels())
    assert np.asarray(array, dtype=np.float32).dtype == np.float32
    assert (array.size, array.nbytes, len(array)) == (voxels().size, voxels().nbytes, SIZE[0])
    with pytest.raises(ValueError, match="makes a copy"):
        np.asarray(array, copy=False)
    lazy = dask.array.from_array(array, chunks=(16, 8, 9, 2))
    assert np.array_equal(lazy[3:30, ::2, 5].compute(), voxels()[3:30, ::2, 5])
    assert np.array_equal(lazy.mean(axis=2).compute(), voxels().mean(axis=2))
    data = xarray.DataArray(array, dims=("x", "y", "z", "channel"))
    assert np.array_equal(data.isel(x=slice(2, 9), z=3).values, voxels()[2:9, :, 3])
    space = neuroglancer.CoordinateSpace(
        names=["x", "y", "z", "c^"], units=["nm", "nm", "nm", ""], scales=[8, 8, 40, 1]
    )
    local = neuroglancer.LocalVolume(array, dimensions=space, volume_type="image")
    (encoded, _) = local.get_encoded_subvolume("npz", np.array([3, 4, 5, 0]), np.array([13, 14, 15, 2]), "1,1,1,1")
    assert np.array_equal(np.load(io.BytesIO(zlib.decompress(encoded))), voxels()[3:13, 4:14, 5:15])


def test_nibabel_takes_the_array() -> None:
    import nibabel as nib

    scale = make("memory://tests/volume/nifti", voxels(SIZE, "uint8"))[0]
    image = nib.Nifti1Image(scale.array, np.eye(4))
    assert np.array_equal(np.asanyarray(image.dataobj)[..., 0], voxels(SIZE, "uint8"))


def test_boxes_are_written_whole_and_inside(scale: Scale) -> None:
    for index in (np.s_[::2], np.s_[::-2], np.s_[..., ::2]):
        with pytest.raises(ValueError, match="steps are for reading"):
            scale[index] = 0
    with pytest.raises(IndexError, match="is not inside"):
        scale[0:100] = 0


def test_threads_may_write_different_chunks(tmp_path: Path) -> None:
    scale = make(tmp_path)[0]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda x: scale.__setitem__(slice(x, x + 1 if x >= 27 else x + 16), x + 6), [-5, 11, 27]))
    assert [int(scale[x, 10, 110, 0]) for x in (-5, 11, 27)] == [1, 17, 33]


def test_a_scale_of_several_chunk_sizes_is_read_and_not_written(tmp_path: Path) -> None:
    make(tmp_path)
    info = json.loads((tmp_path / "info").read_text())
    info["scales"][0]["chunk_sizes"].append([45, 33, 20])
    (tmp_path / "info").write_text(json.dumps(info))
    scale = open_volume(tmp_path)[0]
    assert np.array_equal(scale[...], voxels())
    with pytest.raises(ValueError, match="2 chunk sizes, each with a copy"):
        scale[0, 10, 110] = 1


@pytest.mark.parametrize("hash_name", ["identity", "murmurhash3_x86_128"])
@pytest.mark.parametrize("part", [np.s_[...], np.s_[3:29, 9:31, 101:119]])
def test_large_writes_go_shard_by_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_name: str, part: Any
) -> None:
    monkeypatch.setattr("precomputed_fs.volume.scale._SHARD_BUFFER_BYTES", 1)
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": hash_name, "minishard_bits": 1,
        "shard_bits": 5, "minishard_index_encoding": "raw", "data_encoding": "gzip",
    }  # fmt: skip
    written: list[str] = []
    write = jobs.write

    def noting(put: Put) -> Job[None]:
        written.append(put.name)
        return write(put)

    volume = make(tmp_path, sharding=sharding)
    monkeypatch.setattr(jobs, "write", noting)
    expected = voxels()
    expected[shifted(part)] = 1
    volume[0][part] = 1
    assert len(written) > 3
    if hash_name == "identity":
        assert len(written) == len(set(written))
    assert np.array_equal(open_volume(tmp_path)[0][...], expected)


def test_a_volume_can_be_written_from_itself(make_pyramid: Callable[[str], Place]) -> None:
    """Lazily: each piece is read by the threads that could be busy with writing."""
    pyramid = make_pyramid("s3")
    array = voxels((24, 16, 9, 2))
    scale = make(pyramid.url, array, storage_options=pyramid.storage_options)[0]
    scale.write(scale.bounds, scale.array)
    scale[0:10, 10:20] = scale[0:10, 10:20][::-1]
    expected = array.copy()
    expected[5:15, 3:13] = expected[5:15, 3:13][::-1]
    assert np.array_equal(scale[...], expected)
