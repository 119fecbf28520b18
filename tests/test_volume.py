"""Volumes and scales: slicing like NumPy, in the right coordinates, with what is absent, broken or in the way."""

import asyncio
import io
import json
import math
import os
import pickle
import re
import signal
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    FsspecAccessor,
    InvalidInfoError,
    NotFoundError,
    Scale,
    URLError,
    Volume,
    create_volume,
    open_volume,
)
from precomputed_fs.format.grid import Box
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.store import jobs, pool
from precomputed_fs.store.requests import Job, Put
from tests import servers
from tests.conftest import Pyramid

OFFSET = (-5, 7, 100)
SIZE = (45, 33, 20)
CHUNK = (16, 8, 9)
BOUNDS = tuple((low, low + size) for low, size in zip(OFFSET, SIZE, strict=True))


def voxels(shape: tuple[int, ...] = (*SIZE, 2), dtype: str = "uint16") -> NDArray[Any]:
    rng = np.random.default_rng(0)
    return rng.integers(1, 200, shape).astype(dtype)


def make(url: Any, array: NDArray[Any] | None = None, **options: Any) -> Volume:
    given = {"resolution": (8, 8, 40), "voxel_offset": OFFSET, "chunk_size": CHUNK, "scales": 1, "overwrite": True}
    return create_volume(url, voxels() if array is None else array, **{**given, **options})


@pytest.fixture(scope="module")
def scale() -> Scale:
    return make("memory://test_volume/shared")[0]


# ------------------------------------------------------------------------------------------------------- what it is


def test_a_volume_is_a_sequence_of_scales() -> None:
    volume = make("memory://test_volume/three", scales=3)
    assert [scale.key for scale in volume] == ["8_8_40", "16_16_40", "32_32_40"]
    assert (len(volume), volume[1].key, volume[-1].key, volume["16_16_40"].key) == (
        3, "16_16_40", "32_32_40", "16_16_40",
    )  # fmt: skip
    assert volume.at_resolution((16, 16, 40)) is volume[1]
    assert volume.at_resolution(tuple(np.array([32.0, 32, 40]))) is volume[2]
    for wrong, error in ((3, IndexError), ("4_4_40", KeyError)):
        with pytest.raises(error, match="no scale"):
            volume[wrong]
    with pytest.raises(KeyError, match=r"no scale of .* there are .*\(8, 8, 40\)"):
        volume.at_resolution((4, 4, 40))


COARSEST_FIRST = ["32_32_40", "16_16_40", "8_8_40"]


def test_scales_are_sorted_and_info_keeps_its_order(tmp_path: Path) -> None:
    made = make(tmp_path / "a", scales=3)
    info = {**made.info.to_dict(), "scales": made.info["scales"][::-1]}
    created = create_volume(tmp_path / "b", info)
    for volume in (created, open_volume(tmp_path / "b"), pickle.loads(pickle.dumps(created))):
        assert [scale.key for scale in volume] == COARSEST_FIRST[::-1]
        assert [scale.key for scale in volume.info.scales] == COARSEST_FIRST
        assert volume.at_resolution((8, 8, 40)) is volume[0] is volume["8_8_40"]
    assert [scale["key"] for scale in json.loads((tmp_path / "b/info").read_text())["scales"]] == COARSEST_FIRST
    created[0][...] = voxels()
    created.downsample()
    for finest_first, coarsest_first in zip(made, open_volume(tmp_path / "b"), strict=True):
        assert np.array_equal(finest_first[...], coarsest_first[...])


@pytest.mark.parametrize(
    ("resolutions", "expected"),
    [
        ([[4, 4, 40], [8, 8, 8], [4, 4, 4]], [2, 1, 0]),  # by the volume of a voxel
        ([[2, 2, 2], [1, 2, 4], [1, 1, 1], [4, 2, 1]], [2, 0, 1, 3]),  # as listed, where that is the same
        ([[1.7e308, 2e300, 3], [10**308, 10**308, 10**308], [0.5, 10**308, 1], [1, 1, 1]], [3, 2, 0, 1]),
    ],
)  # fmt: skip
def test_scales_are_sorted_by_the_volume_of_a_voxel(resolutions: list[list[float]], expected: list[int]) -> None:
    scales = [
        {"key": str(i), "size": [1, 1, 1], "resolution": step, "chunk_sizes": [[1, 1, 1]], "encoding": "raw"}
        for i, step in enumerate(resolutions)
    ]
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": scales}
    volume = create_volume("memory://test_volume/sorted", info, overwrite=True)
    assert [int(scale.key) for scale in volume] == expected


@pytest.mark.parametrize("scales", [1, 3])
def test_a_volume_is_no_array(tmp_path: Path, scales: int) -> None:
    make(tmp_path, scales=scales)
    with servers.http_server(tmp_path) as server:
        volume: Any = open_volume(server.url)
        for use in (
            np.asarray,
            np.shape,
            np.mean,
            lambda volume: np.array(volume, dtype=np.uint8),
            lambda volume: create_volume("memory://test_volume/none", volume, resolution=(1, 1, 1)),
        ):
            with pytest.raises(TypeError, match=r"np\.asarray\(vol\[0\]\)"):
                use(volume)
        for index in (np.s_[10:20, 10:20, 5], np.s_[:], ..., (0, 0, 0), Box((0, 0, 0), (1, 1, 1)), 1.5, None):
            with pytest.raises(TypeError, match=r"vol\[0\]\[x0:x1, y0:y1, z0:z1\]"):
                volume[index]
            with pytest.raises(TypeError, match=r"vol\[0\]\[x0:x1, y0:y1, z0:z1\]"):
                volume[index] = 1
        assert requests(server) == [("GET", "/info")]


def test_what_a_volume_has_not_its_scales_have(scale: Scale) -> None:
    volume: Any = scale.volume
    of_scale = {name for name in dir(scale) if not name.startswith("_")} - {*dir(volume), "volume"}
    assert {"shape", "ndim", "chunk_size", "voxel_offset", "bounds", "read", "write", "array", "to_dask"} <= of_scale
    for name in of_scale:
        with pytest.raises(AttributeError, match=rf"vol\[0\]\.{name} "):
            getattr(volume, name)
    with pytest.raises(AttributeError, match=r"np\.asarray\(vol\[0\]\)\.mean"):
        _ = volume.mean
    with pytest.raises(AttributeError, match=r"vol\[0\]\.array\.nbytes"):
        _ = volume.nbytes
    with pytest.raises(AttributeError, match="'Volume' object has no attribute 'shap'"):
        _ = volume.shap
    assert not hasattr(volume, "__array_interface__")


def test_what_a_scale_says_of_itself(scale: Scale) -> None:
    assert (scale.shape, scale.ndim, scale.dtype.name, len(scale)) == ((*SIZE, 2), 4, "uint16", SIZE[0])
    assert (scale.voxel_offset, scale.chunk_size, scale.resolution) == (OFFSET, CHUNK, (8, 8, 40))
    assert scale.bounds == Box(OFFSET, tuple(high for _, high in BOUNDS))  # type: ignore[arg-type]
    assert repr(scale) == "<Scale 8_8_40: 45 x 33 x 20 x 2 uint16, 8 x 8 x 40 nm, raw>"
    assert repr(scale.volume) == "<Volume memory://test_volume/shared: image of uint16, 1 scale>"


def test_info_reads_like_the_json(scale: Scale) -> None:
    info = scale.volume.info
    assert (info["num_channels"], info.num_channels, info["scales"][0]["size"]) == (2, 2, list(SIZE))
    assert json.loads(info.to_json())["scales"][0]["size"] == list(SIZE)


# ------------------------------------------------------------------------------------------------ reading: coordinates


@st.composite
def slices(draw: st.DrawFn, low: int, high: int) -> slice:
    """Draw slices in bounds, in absolute coordinates."""
    start, stop = sorted(draw(st.tuples(*[st.integers(low, high)] * 2)))
    step = draw(st.none() | st.integers(1, high - low + 2))
    return slice(
        None if start == low and draw(st.booleans()) else start,
        None if stop == high and draw(st.booleans()) else stop,
        step,
    )


def absolute_index() -> st.SearchStrategy[Any]:
    axes = [st.integers(low, high - 1) | slices(low, high) for low, high in BOUNDS]
    whole = st.tuples(*axes)
    return whole | whole.flatmap(lambda index: st.integers(0, 3).map(lambda n: index[:n])) | st.just(...)


def shifted(index: Any) -> Any:
    """Make of an index in absolute coordinates the one that counts from 0."""

    def item(given: Any, low: int) -> Any:
        if isinstance(given, slice):
            start = None if given.start is None else given.start - low
            return slice(start, None if given.stop is None else given.stop - low, given.step)
        return given - low

    return tuple(map(item, index, OFFSET)) if isinstance(index, tuple) else index


@given(index=absolute_index())
def test_slicing_is_numpys_in_absolute_coordinates(scale: Scale, index: Any) -> None:
    expected = voxels()[shifted(index)]
    result = scale[index]
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    assert np.array_equal(result, expected)


@st.composite
def numpy_indices(draw: st.DrawFn) -> Any:
    shape = (*SIZE, 2)
    items: list[Any] = [
        draw(
            st.integers(-size, size - 1)
            | st.integers(-size, size - 1).map(np.int64)
            | st.slices(size)
            | st.tuples(*[st.none() | st.integers(-2 * size, 2 * size)] * 2, st.sampled_from([None, 1, 3, -1, -4])).map(
                lambda bounds: slice(*bounds)
            )
        )
        for size in shape[: draw(st.integers(0, 4))]
    ]
    if len(items) < 4 and draw(st.booleans()):
        at = draw(st.integers(0, len(items)))
        tail = [draw(st.integers(-1, 0)) for _ in items[at:]]
        items[at:] = [Ellipsis, *tail]
    return tuple(items)


@given(index=numpy_indices())
def test_the_array_is_sliced_like_numpys(scale: Scale, index: Any) -> None:
    expected = voxels()[index]
    result = scale.array[index]
    assert np.shape(result) == expected.shape
    assert np.array_equal(result, expected)


def test_axes_may_be_turned_around(scale: Scale) -> None:
    x0, x1 = BOUNDS[0]
    assert np.array_equal(scale[x1 - 1 : x0 - 1 : -2], voxels()[::-2])
    assert np.array_equal(scale[::-1, 10], voxels()[::-1, 3])


def test_the_result_is_in_fortran_order(scale: Scale) -> None:
    result = scale[...]
    assert result.flags.f_contiguous
    assert result.flags.writeable


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.s_[0:100], "x: 0:100 is not inside of -5:40"),
        (np.s_[-6:0], "x: -6:0 is not inside"),
        (np.s_[:, 6], "y: 6:7 is not inside of 7:40"),
        (np.s_[:, :, 0:5], "z: 0:5 is not inside of 100:120"),
        (np.s_[..., 2], "channel: 2 is outside of 2 elements"),
        (np.s_[..., 0, 0, 0, 0, 0], "too many indices"),
        (np.s_[..., ...], "one Ellipsis"),
        ([1, 2], r"x: expected an integer or a slice, got \[1, 2\]"),
        (np.s_[0.5], "expected an integer"),
        (np.s_[None], "expected an integer"),
        (True, "expected an integer"),
        (np.ones(45, bool), "expected an integer"),
        ("x", "expected an integer"),
    ],
)
def test_an_index_that_cannot_be_is_said_so(scale: Scale, index: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        scale[index]


@pytest.mark.parametrize("index", [np.s_[45], np.s_[-46], np.s_[:, 33], [1], None, True, np.s_[0, 0, 0, 0, 0]])
def test_an_index_of_the_array_that_cannot_be_is_said_so(scale: Scale, index: Any) -> None:
    with pytest.raises(IndexError):
        scale.array[index]


def test_a_step_of_0_is_no_step(scale: Scale) -> None:
    for array in (scale, scale.array):
        with pytest.raises(ValueError, match="step"):
            array[::0]


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


def test_a_box_stands_for_its_slices(scale: Scale) -> None:
    assert np.array_equal(scale[Box((0, 10, 100), (10, 20, 105))], scale[0:10, 10:20, 100:105])


# ----------------------------------------------------------------------------------------------- reading: the requests


def requests(server: Any) -> list[tuple[str, str]]:
    return [(entry.method, entry.path) for entry in server.log.entries()]


def test_opening_is_one_request_and_each_chunk_that_is_touched_one_more(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        assert requests(server) == [("GET", "/info")]
        volume[0][11:28:16, 15:23, 100:109]  # x chunks: -5..11..27..40; the voxels 11 and 27 are in two of them
        asked = requests(server)[1:]
    names = ("/8_8_40/11-27_15-23_100-109", "/8_8_40/27-40_15-23_100-109")
    assert Counter(asked) == dict.fromkeys([("GET", name) for name in names], 1)


def test_long_steps_pass_over_chunks(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    with servers.http_server(tmp_path) as server:
        open_volume(server.url)[0][-5:40:40, 7, 100]
        asked = {path.split("/")[-1].split("_")[0] for _, path in requests(server)[1:]}
    assert asked == {"-5-11", "27-40"}


def test_an_empty_box_asks_for_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        assert volume[0][5:5].shape == (0, 33, 20, 2)
        assert volume[0].array[3:1, 5].shape == (0, 20, 2)
        assert len(requests(server)) == 1


def test_requests_are_under_way_at_once(tmp_path: Path) -> None:
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


# ------------------------------------------------------------------------------------------- reading: absent and broken


def chunk_files(folder: Path) -> list[Path]:
    return sorted((folder / "8_8_40").iterdir())


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


def test_a_box_of_nothing_but_absent_chunks_is_warned_about(tmp_path: Path) -> None:
    volume = create_volume(tmp_path, make("memory://test_volume/info").info)
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
def test_a_bucket_that_is_not_there_is_said_so_and_never_zeros(
    make_pyramid: Callable[[str], Pyramid], protocol: str
) -> None:
    place = make_pyramid(protocol)
    url = re.sub("bucket-[^/]*", "no-such-bucket", place.url)
    options: dict[str, Any] = {"storage_options": place.storage_options}
    told = "(bucket|container) does not exist"
    with pytest.raises(NotFoundError, match=rf"no-such-bucket/lab/brain/info: .*{told}"):
        open_volume(url, **options)
    for sharding in (False, True):
        info = make("memory://test_volume/gone", sharding=sharding).info
        with FsspecAccessor(url, **options) as accessor, accessor.pyramid.expecting_info(info.to_dict()):
            scale = Volume(accessor, info)[0]
            for missing in ("zeros", "raise"):
                with pytest.raises(DataAccessError, match=told) as caught:
                    scale.read(scale.bounds, missing=missing)
                assert not isinstance(caught.value, NotFoundError)
            with pytest.raises(DataAccessError, match=told) as caught:
                accessor.fetch_chunk("8_8_40", (-5, 11, 7, 15, 100, 109))
            assert not isinstance(caught.value, NotFoundError)


def test_a_pyramid_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=re.escape(f"{tmp_path}/info")):
        open_volume(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"scales": []}', '{"@type": "neuroglancer_skeletons"}'])
def test_an_info_that_cannot_be_names_its_url(tmp_path: Path, text: str) -> None:
    (tmp_path / "info").write_text(text)
    with pytest.raises(InvalidInfoError, match=re.escape(str(tmp_path))):
        open_volume(tmp_path)


def test_a_scale_of_an_unknown_encoding_does_not_hide_the_others(tmp_path: Path) -> None:
    info = make(tmp_path, scales=2).info.to_dict()
    info["scales"][1]["encoding"] = "wavelets"
    (tmp_path / "info").write_text(json.dumps(info))
    volume = open_volume(tmp_path)
    assert np.array_equal(volume[0][...], voxels())
    with pytest.raises(InvalidInfoError, match=r"scales\[1\]\.encoding.*wavelets"):
        volume[1][...]


# -------------------------------------------------------------------------------------------------------------- writing


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(index=absolute_index(), seed=st.integers(0, 99))
@pytest.mark.parametrize("sharding", [False, True])
def test_what_is_written_into_a_box_is_read_and_the_rest_is_kept(sharding: bool, index: Any, seed: int) -> None:
    volume = make("memory://test_volume/written", sharding=sharding)
    items = index if isinstance(index, tuple) else ()
    index = tuple(slice(item.start, item.stop) if isinstance(item, slice) else item for item in items) or ...
    expected = voxels()
    value = np.random.default_rng(seed).integers(0, 9, expected[shifted(index)].shape).astype(np.uint16)
    expected[shifted(index)] = value
    volume[0][index] = value
    assert np.array_equal(open_volume("memory://test_volume/written")[0][...], expected)


def test_numbers_and_smaller_arrays_are_broadcast(tmp_path: Path) -> None:
    scale, expected = make(tmp_path)[0], voxels()
    scale[0:10, 10:20] = 7
    scale[20:30, 10, ..., 1] = np.arange(20, dtype=np.uint8)
    expected[5:15, 3:13] = 7
    expected[25:35, 3, :, 1] = np.arange(20)
    assert np.array_equal(scale[...], expected)


def test_one_channel_need_not_be_spelt_out(tmp_path: Path) -> None:
    array = voxels(SIZE, "uint8")
    scale = make(tmp_path, array)[0]
    assert np.array_equal(scale[...][..., 0], array)
    scale[...] = array[::-1]
    assert np.array_equal(scale[...][..., 0], array[::-1])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros((2, 2)), TypeError, "float64 cannot be cast to uint16 without loss"),
        (np.zeros((45, 33, 20, 2), np.int64), TypeError, r"int64.*pass array.astype\('uint16'\)"),
        (-1, TypeError, "-1 does not fit in uint16"),
        (1.5, TypeError, "1.5 does not fit in uint16"),
        (float("nan"), TypeError, "nan does not fit in uint16"),
        (2**70, TypeError, "does not fit in uint16"),
        (np.zeros((45, 33, 20, 3), np.uint8), ValueError, r"expected an array of shape \(45, 33, 20, 2\), got"),
        (np.zeros((44, 33, 20, 2), np.uint8), ValueError, "expected an array of shape"),
        ("text", TypeError, "cannot be cast"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, value: Any, error: type[Exception], message: str
) -> None:
    volume = make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in chunk_files(tmp_path)}
    with pytest.raises(error, match=message):
        volume[0][...] = value
    assert {path: path.stat().st_mtime_ns for path in chunk_files(tmp_path)} == before


def test_boxes_are_written_whole_and_inside(scale: Scale) -> None:
    for index in (np.s_[::2], np.s_[::-1], np.s_[..., ::-1]):
        with pytest.raises(ValueError, match="steps are for reading"):
            scale[index] = 0
    with pytest.raises(IndexError, match="is not inside"):
        scale[0:100] = 0


def test_whole_chunks_are_written_without_being_read(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    (tmp_path / "8_8_40/11-27_15-23_100-109").write_bytes(b"broken")
    scale = open_volume(tmp_path, gzip=False)[0]
    scale[11:27, 15:23, 100:109] = 3
    assert (scale[11:27, 15:23, 100:109] == 3).all()
    (tmp_path / "8_8_40/11-27_15-23_100-109").write_bytes(b"broken")
    with pytest.raises(CorruptDataError, match="11-27_15-23_100-109"):
        scale[12:27, 15:23, 100:109] = 3


def test_zeros_are_stored_unless_they_may_be_left_out(tmp_path: Path) -> None:
    array = voxels()
    array[:16] = 0
    make(tmp_path / "a", array)
    assert len(chunk_files(tmp_path / "a")) == 45
    make(tmp_path / "b", array, skip_empty=True)
    assert len(chunk_files(tmp_path / "b")) == 30
    assert np.array_equal(open_volume(tmp_path / "b")[0][...], array)


def test_a_negative_zero_is_not_left_out() -> None:
    array = np.zeros((45, 33, 20, 1), np.float32)
    array[20, 20, 10] = -0.0
    scale = make("memory://test_volume/negative", array, skip_empty=True)[0]
    assert np.array_equal(np.signbit(scale[...]), np.signbit(array))
    scale.write(np.s_[0:10], np.float32(-0.0), skip_empty=True)
    assert np.signbit(scale[0:10]).all()


@pytest.mark.parametrize("sharding", [False, True])
def test_zeros_that_may_be_left_out_still_replace_what_is_there(tmp_path: Path, sharding: bool) -> None:
    scale = make(tmp_path, sharding=sharding)[0]
    scale.write(np.s_[0:30], 0, skip_empty=True)
    expected = voxels()
    expected[5:35] = 0
    assert np.array_equal(open_volume(tmp_path)[0][...], expected)


class Counting:
    """A lazy array that keeps count of what was asked of it, like a data set in a file."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.largest = 0
        self.threads: set[int] = set()

    def __getitem__(self, index: Any) -> NDArray[Any]:
        part: NDArray[Any] = self._array[index]
        self.largest = max(self.largest, part.size)
        self.threads.add(threading.get_ident())
        return part


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (*SIZE, 2)])
def test_a_lazy_array_is_read_chunk_by_chunk(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = Counting(voxels(shape))
    volume = make(tmp_path, array, scales=2)  # type: ignore[arg-type]
    assert np.array_equal(volume[0][...].reshape(shape), voxels(shape))
    assert array.largest == math.prod(CHUNK) * math.prod(shape[3:])
    with pytest.raises(ValueError, match="expected an array of shape"):
        volume[0][0:10] = array  # type: ignore[assignment]


@pytest.mark.parametrize("sharding", [False, True])
def test_the_first_chunks_of_very_many_are_written_at_once(sharding: bool) -> None:
    """Nothing is made for all of them before."""

    class Ending(Counting):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            if index[0].start > 30:
                message = "that is enough"
                raise OSError(message)
            return super().__getitem__(index)

    source: Any = Ending(np.broadcast_to(np.uint8(1), (1 << 24, 4, 4)))
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="that is enough"):
            make("memory://test_volume/many", source, chunk_size=(1, 4, 4), sharding=sharding)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_another_scale_can_be_written_as_it_is(tmp_path: Path) -> None:
    volume = make(tmp_path / "a")
    copied = make(tmp_path / "b", volume[0].array, chunk_size=(20, 20, 20))  # type: ignore[arg-type]
    assert np.array_equal(copied[0][...], voxels())


def test_threads_may_write_different_chunks(tmp_path: Path) -> None:
    scale = make(tmp_path)[0]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda x: scale.__setitem__(slice(x, x + 1 if x >= 27 else x + 16), x + 6), [-5, 11, 27]))
    assert [int(scale[x, 10, 110, 0]) for x in (-5, 11, 27)] == [1, 17, 33]


# --------------------------------------------------------------------------------------------------------------- shards


def test_a_write_into_shards_is_there_when_it_returns(tmp_path: Path) -> None:
    volume = make(tmp_path, sharding=True)
    volume[0][0, 10, 110] = 99
    assert open_volume(tmp_path)[0][0, 10, 110].tolist() == [99, 99]


def test_in_a_block_shards_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = 0
    flush = ShardWriter.flush

    def counted(self: ShardWriter) -> None:
        nonlocal flushes
        flushes += 1
        flush(self)

    monkeypatch.setattr(ShardWriter, "flush", counted)
    with make(tmp_path, sharding=True) as volume:
        flushes = 0
        for x in range(10):
            volume[0][x, 10, 110] = x
            assert volume[0][x, 10, 110, 0] == x
        assert open_volume(tmp_path)[0][9, 10, 110, 0] == voxels()[14, 3, 10, 0]
    assert flushes == 1
    assert open_volume(tmp_path)[0][0:10, 10, 110, 0].tolist() == list(range(10))
    volume[0][0, 10, 110] = 77  # after the block, each write is flushed again
    assert open_volume(tmp_path)[0][0, 10, 110, 0] == 77


# ------------------------------------------------------------------------------------------------------------- creating


def test_chunks_are_compressed_where_that_can_be_said(pyramid: Pyramid) -> None:
    """In Content-Encoding, which all readers understand; of suffixes, few do."""
    options: dict[str, Any] = {"storage_options": pyramid.storage_options}
    make(pyramid.url, **options)
    name = "8_8_40/-5-11_7-15_100-109"
    body = pyramid.get(name)
    open_volume(pyramid.url, **options)[0][0, 10, 105] = 7
    assert pyramid.get(name) != body
    assert {each.partition(".")[2] for each in pyramid.names()} == {""}
    if pyramid.keeps_headers:
        assert pyramid.fields(name)["ContentEncoding"] == "gzip"


@pytest.mark.parametrize("sharding", [False, True])
def test_tensorstore_reads_from_disk_what_is_created_by_default(tmp_path: Path, sharding: bool) -> None:
    import tensorstore

    make(tmp_path, scales=2, sharding=sharding)
    open_volume(tmp_path)[0][0:10, 10, 105] = 7
    expected = voxels()
    expected[5:15, 3, 5] = 7
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{tmp_path}/"}}
    assert np.array_equal(tensorstore.open(spec, open=True).result().read().result(), expected)


def test_an_existing_pyramid_is_not_overwritten(pyramid: Pyramid) -> None:
    if not pyramid.writable:
        return
    options: dict[str, Any] = {"storage_options": pyramid.storage_options, "overwrite": False}
    make(pyramid.url, **options)
    before = pyramid.contents()
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        make(pyramid.url, voxels() + 1, **options)
    assert pyramid.contents() == before
    make(pyramid.url, voxels() + 1, **options | {"overwrite": True})
    opened = open_volume(pyramid.url, storage_options=pyramid.storage_options)
    assert np.array_equal(opened[0][...], voxels() + 1)


def test_lower_scales_are_averages_or_labels(tmp_path: Path) -> None:
    array = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    options: dict[str, Any] = {
        "resolution": (1, 1, 1),
        "voxel_offset": (-1, 0, 2),
        "chunk_size": (2, 2, 2),
        "scales": 2,
    }
    image = make(tmp_path / "image", array, **options)
    assert image[1].bounds == Box((-1, 0, 1), (2, 2, 3))
    # along x, the first voxel has but one half in the volume, and so has the last
    expected = [array[part, 0:2, 0:2].mean() for part in (slice(0, 1), slice(1, 3), slice(3, 4))]
    assert image[1][:, 0, 1, 0].tolist() == [math.floor(value + 0.5) for value in expected]
    labels = make(tmp_path / "labels", array, type="segmentation", **options)
    assert labels[1][:, 0, 1, 0].tolist() == [
        array[part, 0:2, 0:2].min() for part in (slice(0, 1), slice(1, 3), slice(3, 4))
    ]
    stride = make(tmp_path / "stride", array, downsampling="stride", **options)
    assert stride[1][-1:, 0, 1, 0].tolist() == [array[x, 0, 0] for x in (0, 1, 3)]


def test_there_are_as_many_scales_as_it_takes(tmp_path: Path) -> None:
    volume = make(tmp_path, scales=None)
    assert [scale.shape[:3] for scale in volume] == [(45, 33, 20), (23, 17, 20), (12, 9, 20), (6, 5, 10), (4, 3, 5)]
    assert all(size <= chunk for size, chunk in zip(volume[-1].shape, CHUNK, strict=False))


@pytest.mark.parametrize(
    ("offset", "size", "chunk", "coarsest"),
    [
        ((0, 0, -1), (64, 64, 2), (64, 64, 1), (64, 64, 2)),
        ((0, 0, -5), (100, 100, 10), (64, 64, 1), (13, 13, 2)),
        ((-1, -1, -1), (2, 2, 2), (1, 1, 1), (2, 2, 2)),
        ((-3, 0, 1), (6, 5, 4), (1, 1, 1), (2, 1, 1)),
        ((-32, 0, 0), (65, 4, 4), (64, 4, 4), (33, 2, 2)),
    ],
)
def test_a_box_on_both_sides_of_0_is_halved_as_far_as_that_goes(
    offset: tuple[int, ...], size: tuple[int, ...], chunk: tuple[int, ...], coarsest: tuple[int, ...]
) -> None:
    """What has a voxel on either side of 0 has two in every lower scale."""
    array = voxels(size, "uint8")
    volume = make(
        "memory://test_volume/both", array, resolution=(8, 8, 8), voxel_offset=offset, chunk_size=chunk, scales=None
    )
    assert np.array_equal(volume[0][..., 0], array)
    assert volume[-1].shape[:3] == coarsest
    assert volume[-1][...].all()
    assert max(volume[-1].resolution) <= 8 * 2 ** (len(volume) - 1)


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower scales are computed block by block; with blocks of one chunk, they are the same."""
    whole = make(tmp_path / "a", scales=4)
    monkeypatch.setattr("precomputed_fs.volume.downsampling._BLOCK_BYTES", 1)
    in_blocks = make(tmp_path / "b", scales=4)
    for one, other in zip(whole, in_blocks, strict=True):
        assert np.array_equal(one[...], other[...])


def test_scales_that_are_no_halves_are_not_computed(tmp_path: Path) -> None:
    info = make(tmp_path / "a", scales=2).info.to_dict()
    info["scales"][1]["size"] = [10, 10, 10]
    volume = create_volume(tmp_path / "b", info)
    with pytest.raises(ValueError, match=r"16_16_40 .* is not scale 8_8_40 .* halved"):
        volume.downsample()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resolution": None}, TypeError, "resolution: expected"),
        ({"resolution": (8, 8)}, ValueError, "resolution: expected 3 numbers"),
        ({"resolution": (8, 8, -1)}, InvalidInfoError, r"scales\[0\]\.resolution"),
        ({"chunk_size": (64, 0, 64)}, (InvalidInfoError, ValueError), "chunk_size"),
        ({"scales": 0}, ValueError, "scales: expected at least 1"),
        ({"downsampling": "median"}, ValueError, "expected one of average, mode, stride"),
        ({"encoding": "wavelets"}, InvalidInfoError, r"scales\[0\]\.encoding"),
        ({"encoding": "jpeg"}, ValueError, "jpeg"),
        ({"no_option": 1}, TypeError, "no_option"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 1, 1), (0, 4, 4), ()])
def test_an_array_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, InvalidInfoError)):
        make(tmp_path / "none", np.zeros(shape, np.uint8))
    assert not (tmp_path / "none").exists()


def test_an_info_is_made_such_as_every_reader_accepts(tmp_path: Path) -> None:
    info = {
        "type": "IMAGE",
        "data_type": "UInt8",
        "num_channels": 1,
        "mine": {"kept": True},
        "scales": [
            {
                "key": "k",
                "size": [10, 10, 10],
                "resolution": [1, 1.5, 2],
                "chunk_sizes": [[8, 8, 8]],
                "encoding": "RAW",
                "sharding": None,
                "jpeg_quality": 80,
                "compressed_segmentation_block_size": [8, 8, 8],
                "mine": 1,
            }
        ],
    }
    create_volume(tmp_path, info)
    written = json.loads((tmp_path / "info").read_text())
    assert written == {
        "@type": "neuroglancer_multiscale_volume",
        "type": "image",
        "data_type": "uint8",
        "num_channels": 1,
        "mine": {"kept": True},
        "scales": [
            {
                "key": "k",
                "size": [10, 10, 10],
                "resolution": [1, 1.5, 2],
                "voxel_offset": [0, 0, 0],
                "chunk_sizes": [[8, 8, 8]],
                "encoding": "raw",
                "mine": 1,
            }
        ],
    }


HTML = b"<!DOCTYPE html><html><title>Console</title></html>"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("source", [voxels(), {"redirect": "memory://elsewhere"}], ids=["array", "info"])
def test_a_web_console_is_no_pyramid_in_the_way(overwrite: bool, source: Any) -> None:
    """It sends its page whatever it is asked, also to a PUT, and keeps nothing."""
    if isinstance(source, dict):
        source = make("memory://test_volume/console").info
    options: dict[str, Any] = {"storage_options": {"key": "k", "secret": "s"}, "overwrite": overwrite}
    if isinstance(source, np.ndarray):
        options |= {"resolution": (8, 8, 40), "scales": 1}
    with servers.fault_server(servers.respond(200, HTML)) as server:
        with pytest.raises(InvalidInfoError, match=r"/brain/info(\.partial)?: expected JSON, got HTML") as caught:
            create_volume(f"s3+{server.url}/bucket/brain", source, **options)
        assert "already" not in str(caught.value)
        assert {"PUT", "POST", "DELETE"}.isdisjoint(server.log.methods())


def test_an_info_that_is_none_is_called_so_and_can_be_replaced(tmp_path: Path) -> None:
    for content in (HTML, b"", b"[]"):
        (tmp_path / "info").write_bytes(content)
        with pytest.raises(AlreadyExistsError, match=r"`info` already, but not of a pyramid \(.*overwrite=True"):
            make(tmp_path, overwrite=False)
        assert (tmp_path / "info").read_bytes() == content
    make(tmp_path, overwrite=True)
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())


# ------------------------------------------------------------------------------------------------------------ redirects


def test_a_redirect_is_followed(tmp_path: Path) -> None:
    make(tmp_path / "data")
    with servers.http_server(tmp_path) as server:
        (tmp_path / "first").mkdir()
        (tmp_path / "first/info").write_text(json.dumps({"redirect": f"precomputed://{server.url}/data"}))
        volume = open_volume(f"{server.url}/first")
        assert volume.url == f"{server.url}/data"
        assert np.array_equal(volume[0][...], voxels())


def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    with servers.http_server(tmp_path) as server:
        (tmp_path / "info").write_text(json.dumps({"redirect": server.url}))
        with pytest.raises(URLError, match="redirected 10 times"):
            open_volume(server.url)


@pytest.mark.parametrize(
    "target", ["/etc", "file:///etc", "memory://test_volume/shared", "zip://a::http://127.0.0.1/b"]
)
def test_a_web_page_does_not_redirect_to_what_is_on_the_machine(tmp_path: Path, target: str) -> None:
    (tmp_path / "info").write_text(json.dumps({"redirect": target}))
    with servers.http_server(tmp_path) as server, pytest.raises(URLError, match="redirects to"):
        open_volume(server.url)


def test_options_are_not_sent_to_another_host(tmp_path: Path) -> None:
    make(tmp_path)
    secret = {"headers": {"Authorization": "Bearer sesame-sesame"}}
    seen: list[tuple[str, str | None]] = []

    def noting(where: str) -> Callable[[Any], Any]:
        async def handler(request: Any) -> Any:
            seen.append((where, request.headers.get("Authorization")))
            return await servers.files(tmp_path / where)(request)

        return handler

    (tmp_path / "there").mkdir()
    (tmp_path / "there/info").write_text((tmp_path / "info").read_text())
    (tmp_path / "here").mkdir()
    with servers.fault_server(noting("here")) as here, servers.fault_server(noting("there")) as there:
        (tmp_path / "here/info").write_text(json.dumps({"redirect": there.url}))
        open_volume(here.url, storage_options=secret)
    assert seen == [("here", "Bearer sesame-sesame"), ("there", None)]


AMBIENT = {"AWS_ACCESS_KEY_ID": "AMBIENT", "AWS_SECRET_ACCESS_KEY": "ambient", "AWS_SESSION_TOKEN": "ambient-token"}
FLAT = {"key": "FLAT", "secret": "flat"}
NESTED = {"s3": {"key": "NESTED", "secret": "nested"}}


class Redirect(NamedTuple):
    """What `info` of a pyramid says, with ``{here}`` and ``{there}`` in the place of servers, and how it is opened."""

    url: str
    target: str
    options: dict[str, Any] = {}  # noqa: RUF012 - read only
    here: str | None = None
    """The key that the first server was shown; None: no credentials."""
    there: str | None = None


REDIRECTS = {
    # credentials of the machine
    "from HTTP": Redirect("http://{here}/b/moved", "s3+http://{there}/b/data"),
    "from disk": Redirect("{folder}/b/moved", "s3+http://{there}/b/data"),
    "from S3": Redirect("s3+http://{here}/b/moved", "s3+http://{there}/b/data", {}, "AMBIENT"),
    "asked for": Redirect("http://{here}/b/moved", "s3+http://{there}/b/data", {"anon": False}),
    "to S3 from HTTP on the same host": Redirect("http://{there}/b/moved", "s3+http://{there}/b/data"),
    "to another bucket": Redirect("s3+http://{there}/b/moved", "s3+http://{there}/c/data", {}, None, None),
    "to the same bucket": Redirect("s3+http://{there}/b/moved", "s3+http://{there}/b/data", {}, None, "AMBIENT"),
    # credentials that were given for the first URL
    "given, to the same bucket": Redirect(
        "s3+http://{there}/b/moved", "s3+http://{there}/b/data", {"storage_options": FLAT}, None, "FLAT"
    ),
    "given, to a bucket of the same name": Redirect(
        "s3+http://{here}/b/moved", "s3+http://{there}/b/data", {"storage_options": FLAT}, "FLAT"
    ),
    "given, to where the option leads": Redirect(
        "s3://b/moved",
        "s3://b/data",
        {"storage_options": {**FLAT, "endpoint_url": "http://{there}"}},
        None,
        "FLAT",
    ),
    # credentials that were given for all of S3
    "nested, to S3": Redirect(
        "http://{here}/b/moved",
        "s3://b/data",
        {"storage_options": {"s3": {**NESTED["s3"], "endpoint_url": "http://{there}"}}},
        None,
        "NESTED",
    ),
    "nested, to another bucket": Redirect(
        "s3://b/moved",
        "s3://c/data",
        {"storage_options": {"s3": {**NESTED["s3"], "endpoint_url": "http://{there}"}}},
        None,
        "NESTED",
    ),
    "nested, to a server of its own": Redirect(
        "http://{here}/b/moved", "s3+http://{there}/b/data", {"storage_options": NESTED}
    ),
    "nested, to a server of its own, from S3": Redirect(
        "s3://b/moved",
        "s3+http://{there}/c/data",
        {"storage_options": {"s3": {**NESTED["s3"], "endpoint_url": "http://{here}"}}},
        "NESTED",
    ),
}


def filled(value: Any, **places: str) -> Any:
    """Fill places into all texts of a value."""
    if isinstance(value, dict):
        return {key: filled(item, **places) for key, item in value.items()}
    return value.format(**places) if isinstance(value, str) else value


def key_of(request: servers.Request) -> str | None:
    """Return the access key that a request to S3 is signed with."""
    assert "Signature" not in request.query
    match = re.search(r"Credential=(\w+)/", request.headers.get("Authorization", ""))
    assert match or not {"Authorization", "X-Amz-Security-Token"} & set(request.headers)
    return match[1] if match else None


@pytest.mark.parametrize("redirect", REDIRECTS.values(), ids=REDIRECTS)
def test_a_redirect_takes_credentials_only_where_they_are_meant_for(
    redirect: Redirect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in AMBIENT.items():
        monkeypatch.setenv(name, value)
    for bucket in ("b", "c"):
        make(tmp_path / bucket / "data")
    (tmp_path / "b/moved").mkdir()
    handler = servers.files(tmp_path)
    with servers.fault_server(handler) as here, servers.fault_server(handler) as there:
        places = {name: url.removeprefix("http://") for name, url in (("here", here.url), ("there", there.url))}
        (tmp_path / "b/moved/info").write_text(json.dumps({"redirect": filled(redirect.target, **places)}))
        url = filled(redirect.url, **places, folder=str(tmp_path))
        volume = open_volume(url, **filled(redirect.options, **places))
        assert np.array_equal(volume[0][...], voxels())
        assert {key_of(request) for request in here.log.entries()} <= {redirect.here}
        asked = [request for request in there.log.entries() if "/data/" in request.path]
        assert {key_of(request) for request in asked} == {redirect.there}


def test_headers_for_http_are_not_sent_to_another_host(tmp_path: Path) -> None:
    make(tmp_path / "data")
    (tmp_path / "moved").mkdir()
    options = {"https": {"headers": {"Authorization": "Bearer sesame"}}, "file": {"auto_mkdir": False}}
    with servers.fault_server(servers.files(tmp_path)) as server:
        (tmp_path / "moved/info").write_text(json.dumps({"redirect": f"{server.url}/data"}))
        open_volume(tmp_path / "moved", storage_options=options)
        open_volume(f"{server.url}/data", storage_options=options)
        assert [request.headers.get("Authorization") for request in server.log.entries()] == [None, "Bearer sesame"]


def test_options_for_a_second_redirect_are_kept(tmp_path: Path) -> None:
    make(tmp_path / "b/data")
    handler = servers.files(tmp_path)
    with servers.fault_server(handler) as first, servers.fault_server(handler) as last:
        for name, target in (("one", f"{first.url}/two"), ("two", "s3://b/data")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "info").write_text(json.dumps({"redirect": target}))
        options = {"auto_mkdir": False, "s3": {**NESTED["s3"], "endpoint_url": last.url}}
        open_volume(tmp_path / "one", storage_options=options)
        assert [key_of(request) for request in last.log.entries()] == ["NESTED"]


@pytest.mark.parametrize("target", ["sftp://127.0.0.1/brain", "ssh://127.0.0.1/brain", "github://org:repo@main/brain"])
def test_a_redirect_to_where_keys_would_be_sent_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "info").write_text(json.dumps({"redirect": target}))
    with pytest.raises(URLError, match="open that, if you mean it"):
        open_volume(tmp_path, storage_options={"sftp": {"password": "sesame"}})


def test_who_is_refused_behind_a_redirect_is_told_that_no_credentials_were_sent(tmp_path: Path) -> None:
    with servers.fault_server(servers.respond(403)) as server:
        target = f"s3+{server.url}/b/data"
        (tmp_path / "info").write_text(json.dumps({"redirect": target}))
        with pytest.raises(AccessDeniedError, match="passes no credentials on: open s3://b/data itself"):
            open_volume(tmp_path)
        for anon in (True, None):
            with pytest.raises(AccessDeniedError) as caught:
                open_volume(tmp_path if anon else target, anon=anon)
            assert "redirect" not in str(caught.value)


# --------------------------------------------------------------------------------------------------- keys that lead out


def test_a_scale_beside_the_pyramid_is_read(tmp_path: Path) -> None:
    make(tmp_path / "data", sharding=True)
    info = make(tmp_path / "data", sharding=True).info.to_dict()
    info["scales"][0]["key"] = "../data/8_8_40"
    (tmp_path / "view").mkdir()
    (tmp_path / "view/info").write_text(json.dumps(info))
    with servers.http_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/view")
        assert np.array_equal(volume[0][...], voxels())
        assert volume.pyramid_for("../data/8_8_40")[0] is volume.pyramid_for("../data/8_8_40")[0]


def test_a_scale_outside_of_the_host_is_not_read(tmp_path: Path) -> None:
    info = make(tmp_path).info.to_dict()
    info["scales"][0]["key"] = "../../8_8_40"
    (tmp_path / "info").write_text(json.dumps(info))
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        with pytest.raises(ValueError, match="folders above"):
            volume[0][...]
        volume.close()


# ------------------------------------------------------------------------------------------------- processes and others


def test_volumes_are_pickled_with_all_there_is(tmp_path: Path) -> None:
    volume = make(tmp_path)
    assert np.array_equal(volume[0][0:3], voxels()[5:8])
    for one in (pickle.loads(pickle.dumps(volume))[0], pickle.loads(pickle.dumps(volume[0]))):
        assert np.array_equal(one[0:3], voxels()[5:8])
    assert np.array_equal(pickle.loads(pickle.dumps(volume[0].array))[0:3], voxels()[0:3])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_reads_too(tmp_path: Path) -> None:
    volume = make(tmp_path)
    volume[0][0:3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
        pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        signal.alarm(20)  # which ends what hangs
        os._exit(0 if np.array_equal(volume[0][...], voxels()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_array_is_taken_as_it_is(scale: Scale) -> None:
    import dask.array
    import neuroglancer
    import xarray

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

    scale = make("memory://test_volume/nifti", voxels(SIZE, "uint8"))[0]
    image = nib.Nifti1Image(scale.array, np.eye(4))
    assert np.array_equal(np.asanyarray(image.dataobj)[..., 0], voxels(SIZE, "uint8"))


# ------------------------------------------------------------------------------------------------------------- progress


def test_short_reads_show_no_progress(scale: Scale, capsys: pytest.CaptureFixture[str]) -> None:
    scale[...]
    assert capsys.readouterr().err == ""


def test_progress_is_shown_if_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = make(tmp_path, progress=True, scales=2)
    err = capsys.readouterr().err
    assert "writing 8_8_40" in err
    volume[0].read(..., progress=False)
    assert capsys.readouterr().err == ""
    volume[0][...]
    assert re.search(r"reading 8_8_40: .*/45", capsys.readouterr().err)


@pytest.mark.parametrize(("is_terminal", "shows"), [(True, True), (False, False)])
def test_long_reads_show_progress_on_a_terminal(
    scale: Scale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool, shows: bool
) -> None:
    monkeypatch.setattr("precomputed_fs.volume.progress._PATIENCE", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    scale[...]
    assert ("reading 8_8_40" in capsys.readouterr().err) is shows
    scale.read(..., progress=False)
    assert capsys.readouterr().err == ""


def test_a_failed_read_leaves_no_thread_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, gzip=False)
    chunk_files(tmp_path)[30].write_bytes(b"broken")
    scale = open_volume(tmp_path)[0]
    call, calls = pool.call, list[Any]()

    def noting(*args: Any) -> Any:
        calls.append(call(*args))
        return calls[-1]

    monkeypatch.setattr(pool, "call", noting)
    monkeypatch.setattr("precomputed_fs.accessor.HOP", 1)  # else one thread is enough for all
    for _ in range(3):
        with pytest.raises(CorruptDataError):
            scale[...]
        assert calls
        assert all(call.is_done for call in calls)


# ------------------------------------------------------------------------------------------- what a reviewer thought of


@pytest.mark.parametrize("options", [{"skip_empty": True}, {}])
def test_a_volume_is_written_from_itself(make_pyramid: Callable[[str], Pyramid], options: dict[str, Any]) -> None:
    """Lazily: each piece is read by the threads that could be busy with writing."""
    pyramid = make_pyramid("s3")
    volume = make(pyramid.url, scales=2, storage_options=pyramid.storage_options)
    volume[0].write(volume[0].bounds, volume[0].array, **options)
    part = np.s_[0:30, 10:30]
    volume[0][part] = volume[0][part][::-1]
    expected = voxels()
    expected[5:35, 3:23] = expected[5:35, 3:23][::-1]
    assert np.array_equal(volume[0][...], expected)


def test_what_fails_leaves_no_half_of_a_pyramid(tmp_path: Path) -> None:
    class Breaking(Counting):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            if self.largest > 0 and index[2].start > 0:
                message = "the source broke"
                raise OSError(message)
            return super().__getitem__(index)

    source: Any = Breaking(voxels())
    with pytest.raises(OSError, match="the source broke"):
        make(tmp_path, source)
    with pytest.raises(NotFoundError, match="info"):
        open_volume(tmp_path)
    assert np.array_equal(make(tmp_path)[0][...], voxels())


def test_what_is_given_of_chunks_is_small_without_zeros_that_are_left_out(tmp_path: Path) -> None:
    """Tasks hand it on, and it waits for shards: it must not bring the volume along, either."""
    scale = make(tmp_path, np.zeros((64, 64, 64), np.uint8), chunk_size=(64, 64, 32))[0]
    given = list(scale.encoded(..., 0, skip_empty=True))
    assert len(pickle.dumps(given)) < 2000


@pytest.mark.parametrize("skip_empty", [False, True])
def test_many_chunks_that_are_covered_in_part_are_written(tmp_path: Path, skip_empty: bool) -> None:
    array = np.zeros((4800, 8, 8), np.uint8)
    scale = make(tmp_path, array, voxel_offset=(0, 0, 0), chunk_size=(8, 8, 8), skip_empty=skip_empty)[0]
    assert len(list(tmp_path.rglob("*_*_*-*"))) == (0 if skip_empty else 600)
    scale.write(np.s_[:, 2:5], 7, skip_empty=skip_empty)
    array[:, 2:5] = 7
    assert np.array_equal(scale[...][..., 0], array)


def test_the_loser_of_a_race_changes_nothing(tmp_path: Path) -> None:
    def create(value: int) -> str:
        try:
            make(tmp_path, np.full((*SIZE, 1), value, np.uint8), overwrite=False)
        except AlreadyExistsError:
            return "lost"
        return str(value)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(create, range(1, 5)))
    (winner,) = {outcome for outcome in outcomes if outcome != "lost"}
    assert (open_volume(tmp_path)[0][...] == int(winner)).all()


def test_shards_that_no_info_vouches_for_are_replaced(tmp_path: Path) -> None:
    make(tmp_path, voxels((60, 40, 30)), sharding=True)
    (tmp_path / "info").unlink()
    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 0, "hash": "identity"}
    volume = make(tmp_path, sharding={**sharding, "minishard_bits": 0, "shard_bits": 0}, overwrite=False)
    assert np.array_equal(volume[0][...], voxels())
    volume[0][0:5] = 3  # from now on, merged
    expected = voxels()
    expected[5:10] = 3
    assert np.array_equal(open_volume(tmp_path)[0][...], expected)


def test_parameters_that_decoding_needs_are_not_changed_under_chunks(tmp_path: Path) -> None:
    labels = voxels(SIZE, "uint64")
    info = make(tmp_path, labels, encoding="compressed_segmentation").info.to_dict()
    info["scales"][0]["compressed_segmentation_block_size"] = [16, 16, 16]
    with pytest.raises(AlreadyExistsError, match="stored differently"):
        create_volume(tmp_path, info, overwrite=True)
    info["scales"][0]["key"] = "./8_8_40"
    with pytest.raises(AlreadyExistsError, match="stored differently"):
        create_volume(tmp_path, info, overwrite=True)


def test_what_would_be_taken_for_new_data_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path, sharding=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExistsError, match=r"8_8_40 is stored differently there.*another key"):
        make(tmp_path, voxels()[:20], sharding=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    changed = make("memory://test_volume/changed", voxels() + 1, sharding=True)
    assert np.array_equal(make(tmp_path, voxels() + 1, sharding=True)[0][...], changed[0][...])
    info = make(tmp_path / "other", chunk_size=(8, 8, 8)).info
    with pytest.raises(AlreadyExistsError, match="stored differently"):
        create_volume(tmp_path, info, overwrite=True)
    unsharded = make(tmp_path, voxels()[:20])  # other names altogether
    assert np.array_equal(unsharded[0][...], voxels()[:20])


def test_a_scale_of_several_chunk_sizes_is_read_and_not_written(tmp_path: Path) -> None:
    make(tmp_path)
    info = json.loads((tmp_path / "info").read_text())
    info["scales"][0]["chunk_sizes"].append([45, 33, 20])
    (tmp_path / "info").write_text(json.dumps(info))
    scale = open_volume(tmp_path)[0]
    assert np.array_equal(scale[...], voxels())
    with pytest.raises(ValueError, match="2 chunk sizes, each with a copy"):
        scale[0, 10, 110] = 1


def test_an_archive_is_written_and_read(tmp_path: Path) -> None:
    url = f"zip://brain::{tmp_path}/brain.zip"
    with pytest.raises(ValueError, match="scales=1"):
        make(url, storage_options={"mode": "w"}, overwrite=False, scales=2)
    with make(url, storage_options={"mode": "w"}, overwrite=False):
        pass
    assert np.array_equal(open_volume(url)[0][...], voxels())


def test_what_was_left_out_is_no_error_for_the_next_scale(tmp_path: Path) -> None:
    array = voxels()
    array[:33] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = make(tmp_path, array, scales=2, skip_empty=True, missing="raise")
    assert len(chunk_files(tmp_path)) == 15
    with pytest.raises(NotFoundError):
        volume[0][...]


def test_a_scale_is_a_source_like_its_array(tmp_path: Path) -> None:
    source: Any = make(tmp_path / "a")[0]
    assert np.array_equal(make(tmp_path / "b", source)[0][...], voxels())


def test_a_scale_is_not_gone_through(scale: Scale) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        list(scale)  # type: ignore[call-overload]
    assert np.array_equal(np.stack([scale.array[i] for i in range(len(scale.array))]), voxels())


@pytest.mark.parametrize(
    ("lie", "error", "message"),
    [
        (lambda part: part + 0.5, TypeError, "float64 cannot be cast to uint16"),
        (lambda part: part[:-1], ValueError, "expected a part of shape"),
        (lambda part: part.ravel(), ValueError, "expected a part of shape"),
    ],
    ids=["float", "short", "flat"],
)
def test_a_source_that_is_other_than_it_says_is_not_believed(
    tmp_path: Path, lie: Any, error: type[Exception], message: str
) -> None:
    class Lying(Counting):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            result: NDArray[Any] = lie(super().__getitem__(index))
            return result

    source: Any = Lying(voxels())
    with pytest.raises(error, match=message):
        make(tmp_path, source)


def test_a_mask_is_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="mask"):
        make(tmp_path, np.ma.masked_equal(voxels(), 7))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint64", "segmentation"), ("int32", "segmentation"), ("uint16", "image"), ("float32", "image")],
)
def test_labels_have_no_mean(dtype: str, expected: str) -> None:
    volume = make("memory://test_volume/type", np.array([1 << 20, 3, 3, 3]).astype(dtype).reshape(4, 1, 1), scales=2)
    assert volume.info.type == expected
    assert make("memory://test_volume/type", voxels(SIZE, dtype), type="image").info.type == "image"


def test_options_for_arrays_are_not_ignored(tmp_path: Path) -> None:
    info = make(tmp_path / "a").info
    with pytest.raises(TypeError, match="voxel_offset, scales: for arrays"):
        create_volume(tmp_path / "b", info, voxel_offset=(0, 0, 0), scales=3)
    with pytest.raises(ValueError, match="missing"):
        create_volume(tmp_path / "b", info, missing="zeroes")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("dtype", "value", "is_one"),
    [("float32", 1e300, False), ("float32", 16777217, False), ("float32", 0.1, True), ("float32", float("inf"), True),
     ("uint16", np.int64(5), True), ("uint16", np.float64(5.5), False), ("uint16", True, True)],
)  # fmt: skip
def test_a_number_is_a_voxel_or_it_is_not(dtype: str, value: Any, is_one: bool) -> None:
    scale = make("memory://test_volume/number", voxels(dtype=dtype))[0]
    if is_one:
        scale[0, 10, 110] = value
        assert scale[0, 10, 110, 0] == np.dtype(dtype).type(value)
    else:
        with pytest.raises(TypeError, match="does not fit in"):
            scale[0, 10, 110] = value


def test_a_stream_without_a_terminal_is_no_terminal(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", object())
    assert scale[0, 10, 110].shape == (2,)


def test_a_redirect_is_a_whole_url(tmp_path: Path) -> None:
    (tmp_path / "info").write_text('{"redirect": "../real"}')
    with pytest.raises(URLError, match="not an absolute URL"):
        open_volume(tmp_path)


def test_results_are_handed_over_soon_and_failures_at_once(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    serve = servers.files(tmp_path)
    quick, broken = "-5-11_7-15_100-109", "-5-11_15-23_100-109"

    async def handler(request: Any) -> Any:
        if broken in request.path:
            await asyncio.sleep(0.2)
            return await servers.respond(410)(request)
        if "8_8_40" in request.path and quick not in request.path:
            await asyncio.sleep(8)
        return await serve(request)

    with servers.fault_server(handler) as server:
        accessor = open_volume(server.url).accessor
        began = time.monotonic()
        names = dict.fromkeys([quick, broken, *(path.name for path in chunk_files(tmp_path))])  # few are asked at first
        coords = [tuple(map(int, re.findall(r"(?<![0-9])-?[0-9]+", name))) for name in names]
        chunks = accessor.fetch_chunks("8_8_40", coords[:20])  # type: ignore[arg-type]
        next(chunks)
        assert time.monotonic() - began < 1
        with pytest.raises(DataAccessError, match=broken):
            list(chunks)
        assert time.monotonic() - began < 3


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


def test_a_shard_that_another_writes_later_is_merged_with(tmp_path: Path) -> None:
    """Only while a pyramid is made are shards replaced; those that were left out as empty are then like others."""
    volume = make(tmp_path, np.zeros((*SIZE, 2), np.uint16), sharding=True, skip_empty=True)
    open_volume(tmp_path)[0][0, 10, 110] = 5
    volume[0][39, 39, 119] = 6
    scale = open_volume(tmp_path)[0]
    assert (scale[0, 10, 110, 0], scale[39, 39, 119, 0]) == (5, 6)


@pytest.mark.parametrize(("encoding", "expected"), [("raw", "gzip"), ("jpeg", "raw"), ("png", "raw")])
def test_what_is_compressed_already_is_not_compressed_in_shards(encoding: str, expected: str) -> None:
    volume = make(f"memory://test_volume/{encoding}", voxels(SIZE, "uint8"), encoding=encoding, sharding=True)
    sharding = volume[0].info.sharding
    assert sharding is not None
    assert sharding.data_encoding == expected


def test_creating_asks_no_more_than_storing_info_does(make_pyramid: Callable[[str], Pyramid]) -> None:
    pyramid = make_pyramid("s3")
    info = make("memory://test_volume/asked").info
    before = pyramid.server.log.count()
    create_volume(pyramid.url, info, storage_options=pyramid.storage_options)
    created = pyramid.server.log.count() - before
    other = make_pyramid("s3")
    before = other.server.log.count()
    other.accessor().store_file("info", info.to_json(), mime_type="application/json")
    assert created == other.server.log.count() - before
