"""What a person sees: pictures voxel for voxel, plots, and what a notebook shows of a volume, whoever made it."""

from __future__ import annotations

import asyncio
import base64
import html
import io
import json
import re
import subprocess
import sys
import threading
import time
import warnings
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuroglancer.segment_colors import hex_string_from_segment_id
from PIL import Image

from precomputed_fs import (
    DataAccessError,
    FsspecAccessor,
    Scale,
    Volume,
    create_volume,
    open_volume,
)
from precomputed_fs.format.info import Info
from precomputed_fs.view import colours as view_colours
from precomputed_fs.view import notebook, pictures, slices
from tests import servers
from tests.support import browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Pyramid
    from tests.support.browser import Neuroglancer

mpl.use("Agg")

OFFSET = (-5, 7, 100)
SIZE = (40, 30, 20)


def voxels(shape: tuple[int, ...] = SIZE, dtype: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 250, shape).astype(dtype)


def make(array: NDArray[Any], url: str = "memory://test_display/made", **options: Any) -> Volume:
    given = {"resolution": (8, 8, 8), "chunk_size": (16, 16, 16), "overwrite": True}
    if array.dtype != np.int64:
        return create_volume(url, array, **{**given, **options})
    volume = create_volume(url, array.view(np.uint64), **{**given, **options})  # as which int64 is read, but not made
    return Volume(volume.accessor, Info.parse({**volume.info.to_dict(), "data_type": "int64"}))


def open_accessor(url: str) -> FsspecAccessor:
    return FsspecAccessor(url, attempts=1)


def pixels(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image)


# ---------------------------------------------------------------------------------------------------------- how it lies


def planes(array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the slice at the first voxel along each axis, as Neuroglancer's panels show it, row by row."""
    return {"z": array[:, :, 0].T, "y": array[:, 0].T, "x": array[0][:, ::-1]}


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("at", [0, 3, -1])
def test_a_slice_is_shown_voxel_for_voxel(axis: str, at: int) -> None:
    array = voxels()
    scale = make(array, voxel_offset=OFFSET, scales=1)[0]
    number = "xyz".index(axis)
    index = at % SIZE[number]
    point: dict[str, Any] = {axis: OFFSET[number] + index}
    shown = scale.show(**point, size=None)
    assert shown.mode == "L"
    np.testing.assert_array_equal(pixels(shown), planes(array.take([index], axis=number))[axis])


def test_without_a_coordinate_there_are_three_slices_through_the_middle() -> None:
    array = voxels()
    scale = make(array, voxel_offset=OFFSET)[0]
    shown = scale.show(size=None)
    assert shown.mode == "LA"
    assert shown.size == (40 + 8 + 40 + 8 + 20, 30)
    expected = np.zeros((30, 116, 2), np.uint8)
    left = 0
    for plane in (array[:, :, 10].T, array[:, 15].T, array[20][:, ::-1]):
        rows, columns = plane.shape
        expected[:rows, left : left + columns] = np.dstack([plane, np.full_like(plane, 255)])
        left += columns + 8
    np.testing.assert_array_equal(pixels(shown), expected)


def test_two_coordinates_are_two_slices() -> None:
    array = voxels()
    shown = pixels(make(array)[0].show(x=7, z=3, size=None))
    np.testing.assert_array_equal(shown[:, :40, 0], array[:, :, 3].T)
    np.testing.assert_array_equal(shown[:, 48:, 0], array[7][:, ::-1])


@pytest.mark.parametrize(
    ("resolution", "point", "size"),
    [((8, 8, 16), {"y": 0}, (40, 40)), ((8, 8, 16), {"z": 0}, (40, 30)), ((4, 8, 8), {"z": 0}, (40, 60))],
)
def test_voxels_keep_their_proportions(
    resolution: tuple[int, ...], point: dict[str, Any], size: tuple[int, int]
) -> None:
    array = voxels()
    scale = make(array, resolution=resolution, scales=1)[0]
    shown = scale.show(**point, size=None)
    assert shown.size == size
    (axis,) = point
    plane = planes(array)[axis]
    times = [pixel // voxel for pixel, voxel in zip(pixels(shown).shape, plane.shape, strict=True)]
    np.testing.assert_array_equal(pixels(shown), plane.repeat(times[0], 0).repeat(times[1], 1))


@pytest.mark.parametrize("size", [1, 7, 39, 40, 41, 80, 512])
def test_the_longer_side_has_as_many_pixels_as_are_asked_for(size: int) -> None:
    scale = make(voxels())[0]
    assert scale.show(z=0, size=size).size == (size, max(1, round(size * 3 / 4)))
    assert scale.show(x=0, size=size).size == (max(1, round(size * 2 / 3)), size)
    assert scale.show(size=size).size[1] == max(1, round(size * 3 / 4))


def test_a_long_and_thin_volume_has_a_picture() -> None:
    assert make(voxels((500, 1, 1)))[0].show(z=0, size=100).size == (100, 1)


@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 30, 1), "z"), ((40, 1, 30), "y"), ((1, 40, 30), "x"), ((1, 1, 40), "y"), ((1, 1, 1), "z")]
)
def test_of_a_single_image_there_is_one_slice(shape: tuple[int, int, int], axis: str) -> None:
    array = voxels(shape)
    volume = make(array, voxel_offset=OFFSET, scales=1)
    for source in (volume, volume[0]):
        np.testing.assert_array_equal(pixels(source.show(size=None)), planes(array)[axis])
        assert len(seen(source).images) == 1
        assert f"{axis} = {OFFSET['xyz'.index(axis)]}, from" in seen(source).text
    assert volume.show(x=OFFSET[0], y=OFFSET[1], size=None).mode == "LA"  # as it is asked for


# ----------------------------------------------------------------------------------------------------------- resampling


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), height=st.integers(1, 60), width=st.integers(1, 60))
def test_a_pixel_is_the_mean_of_what_it_covers(rows: int, columns: int, height: int, width: int) -> None:
    array = voxels((rows, columns, 1))
    # Every voxel in as many parts as there are pixels, of which a pixel covers so many as there are voxels.
    fine = array.repeat(height, 0).repeat(width, 1).astype(float)
    expected = fine.reshape(height, rows, width, columns).mean((1, 3))
    found = pictures._resized(array, (height, width), blends=True)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[..., 0], expected, atol=1.01)  # it is rounded once for each axis


@given(size=st.integers(1, 100), pixels=st.integers(1, 200))
def test_a_pixel_of_a_segmentation_is_the_voxel_at_its_middle(size: int, pixels: int) -> None:
    ids = np.arange(size, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    found = pictures._resized(ids, (pixels, 1), blends=False)[:, 0, 0]
    np.testing.assert_array_equal(found, [int((i + 0.5) * size / pixels) for i in range(pixels)])


def test_where_there_are_more_voxels_than_pixels_every_nth_is_kept() -> None:
    array = np.zeros((64, 64, 1), np.uint8)
    array[3::7, 3::7] = 200  # the middle ones of each seven
    scale = make(array[:63, :63], type="image")[0]
    assert (pixels(scale.show(z=0, size=9)) == 200).all()


# -------------------------------------------------------------------------------------------------- of the right scale


@pytest.fixture
def served(tmp_path: Path) -> Iterator[servers.HttpServer]:
    with servers.http_server(tmp_path) as server:
        yield server


def asked(server: servers.HttpServer) -> set[str]:
    """Return the scales of which chunks were asked for, and forget it."""
    found = {entry.path.split("/")[-2] for entry in server.log.entries() if re.search(r"\d-\d", entry.path)}
    server.log.clear()
    return found


def test_a_volume_reads_the_coarsest_scale_with_enough_detail(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((128, 64, 32)), str(tmp_path), gzip=False, chunk_size=(32, 32, 32))
    volume = open_volume(served.url)
    assert [scale.key for scale in volume] == ["8_8_8", "16_16_16", "32_32_32"]
    sizes = {1: "32_32_32", 32: "32_32_32", 33: "16_16_16", 64: "16_16_16", 65: "8_8_8", 128: "8_8_8", 512: "8_8_8"}
    for size, key in sizes.items():
        volume.show(z=5, size=size)
        assert asked(served) == {key}, size
    volume.show(z=5, size=None)
    assert asked(served) == {"8_8_8"}
    volume["16_16_16"].show(z=5, size=4)
    assert asked(served) == {"16_16_16"}


def test_an_axis_that_is_never_finer_does_not_ask_for_a_finer_scale(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((128, 64, 4)), str(tmp_path), gzip=False, resolution=(4, 4, 64), chunk_size=(32, 32, 4))
    volume = open_volume(served.url)
    assert [scale.key for scale in volume] == ["4_4_64", "8_8_64", "16_16_64"]
    volume.show(y=5, size=32)
    assert asked(served) == {"16_16_64"}


def test_a_picture_does_not_depend_on_the_order_of_scales(coarsest_first: Path) -> None:
    volume = open_volume(coarsest_first)
    assert volume.show(z=8, size=None) == volume["4_4_4"].show(z=8, size=None)
    assert pixels(volume.show(z=8, size=8)).shape == (6, 8)
    keys = [row.split("<td>")[1].split("<")[0] for row in volume._repr_html_().split("<tr>")[2:5]]
    assert keys == ["4_4_4", "8_8_8", "16_16_16"]


def test_hidden_scales_are_not_shown() -> None:
    info = make(voxels((64, 64, 64))).info.to_dict()
    info["scales"][1]["hidden"] = True
    volume = create_volume("memory://test_display/hidden", info, overwrite=True)
    every = frozenset(slices.ORIENTATIONS)
    assert [slices.good_scale(volume, every, size).key for size in (8, 32, 64)] == ["32_32_32", "8_8_8", "8_8_8"]


def test_coordinates_of_a_volume_are_voxels_of_its_first_scale() -> None:
    array = np.arange(64, dtype=np.uint8).reshape(1, 1, 64).repeat(64, 0).repeat(64, 1)
    volume = make(array, voxel_offset=(0, 0, -32), downsampling="stride")
    assert [scale.key for scale in volume] == ["8_8_8", "16_16_16", "32_32_32"]
    for z in (-32, -31, 0, 13, 31):
        assert set(pixels(volume.show(z=z, size=64)).ravel()) == {z + 32}
        assert set(pixels(volume.show(z=z, size=32)).ravel()) == {(z + 32) // 2 * 2}
        assert set(pixels(volume.show(z=z, size=16)).ravel()) == {(z + 32) // 4 * 4}


def test_a_scale_may_end_before_another() -> None:
    """Scales that were made by rounding down have no voxel for the last one of the scale above."""
    info = make(voxels((5, 5, 5)), scales=2).info.to_dict()
    info["scales"][1]["size"] = [2, 2, 2]
    volume = create_volume("memory://test_display/short", info, overwrite=True)
    volume[1][...] = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    np.testing.assert_array_equal(pixels(volume.show(z=4, size=2)), [[1, 5], [3, 7]])


def test_a_voxel_is_shown_by_the_one_that_its_middle_is_in() -> None:
    info = make(voxels((6, 6, 6))).info.to_dict()
    info["scales"] = [info["scales"][0], info["scales"][0] | {"key": "12", "resolution": [12] * 3, "size": [4] * 3}]
    volume = create_volume("memory://test_display/middles", info, overwrite=True)
    volume[1][...] = np.arange(4, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * 10
    shown = [set(pixels(volume.show(x=x, size=4)).ravel()) for x in range(6)]
    assert shown == [{0}, {10}, {10}, {20}, {30}, {30}]  # at 4, 12, 20, 28, 36 and 44 nm


def test_only_chunks_that_the_slice_crosses_are_read(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((64, 64, 64)), str(tmp_path), gzip=False, scales=1)
    scale = open_volume(served.url)[0]
    served.log.clear()
    scale.show(z=40)
    names = {entry.path.rpartition("_")[2] for entry in served.log.entries()}
    assert (len(served.log.entries()), names) == (16, {"32-48"})


def test_a_small_scale_is_read_once_for_its_three_slices(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((32, 32, 16)), str(tmp_path), gzip=False, scales=1)
    scale = open_volume(served.url)[0]
    served.log.clear()
    scale.show()
    assert served.log.count() == 4


def test_a_slice_of_what_nobody_could_read_whole_takes_the_memory_of_its_picture() -> None:
    """Of a trillion voxels, of which no chunk is there."""
    info = make(voxels((8, 8, 8))).info.to_dict()
    info["scales"][0] |= {"size": [10**6, 10**6, 1], "chunk_sizes": [[10**5, 10**5, 1]]}
    scale = create_volume("memory://test_display/large", info, overwrite=True)[0]
    with pytest.warns(UserWarning, match="none of the 100 chunks"):
        assert scale.show(z=0, size=100).size == (100, 100)


# -------------------------------------------------------------------------------------------------------------- colours


SOME_IDS = [0, 1, 2, 3, 1000, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1]


def neuroglancers(number: int) -> tuple[int, ...]:
    return (*bytes.fromhex(hex_string_from_segment_id(0, number)[1:]), 255) if number else (0, 0, 0, 0)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50).map(lambda ids: [*ids, *SOME_IDS]))
def test_segments_have_the_colours_that_neuroglancer_gives_them(ids: list[int]) -> None:
    found = view_colours.segment_colours(np.array(ids, np.uint64))
    assert [tuple(colour) for colour in found.tolist()] == [neuroglancers(number) for number in ids]


def test_colours_of_few_segments_are_distinct() -> None:
    found = view_colours.segment_colours(np.arange(1000))
    assert len({tuple(colour) for colour in found.tolist()}) > 950
    assert (found[1:, :3].max(1) == 255).all()


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_a_segmentation_is_shown_in_colours_and_nothing_in_between(encoding: str) -> None:
    ids = np.array(SOME_IDS, np.uint64)[voxels(SIZE) % 10]
    scale = make(ids, encoding=encoding, scales=1)[0]
    shown = scale.show(z=4, size=None)
    assert shown.mode == "RGBA"
    np.testing.assert_array_equal(pixels(shown), view_colours.segment_colours(ids[:, :, 4].T))
    known = {neuroglancers(number) for number in SOME_IDS}
    for size in (11, 33, 100):
        assert set(map(tuple, pixels(scale.show(z=4, size=size)).reshape(-1, 4).tolist())) <= known


def test_gaps_between_slices_of_a_segmentation_are_transparent() -> None:
    shown = pixels(make(np.full(SIZE, 9, np.uint32))[0].show(size=None))
    assert (shown[:, 40:48] == 0).all()
    assert (shown[:, :40] == neuroglancers(9)).all()


def test_a_segmentation_of_few_bits_is_one() -> None:
    for dtype in ("uint8", "int16"):
        scale = make(voxels(SIZE, dtype), type="segmentation", scales=1)[0]
        assert scale.show(z=0).mode == "RGBA"


def test_what_calls_itself_a_segmentation_of_floats_is_shown_as_an_image() -> None:
    assert make(voxels(SIZE, "float32"), type="segmentation", scales=1)[0].show(z=0).mode == "L"


def test_three_channels_are_red_green_and_blue() -> None:
    array = voxels((*SIZE, 3))
    scale = make(array, scales=1)[0]
    shown = scale.show(z=4, size=None)
    assert shown.mode == "RGB"
    np.testing.assert_array_equal(pixels(shown), array[:, :, 4].transpose(1, 0, 2))
    assert scale.show(size=None).mode == "RGBA"
    np.testing.assert_array_equal(pixels(scale.show(z=4, channel=2, size=None)), array[:, :, 4, 2].T)


def test_of_other_channels_the_first_is_shown_or_the_one_that_is_asked_for() -> None:
    array = voxels((*SIZE, 2))
    scale = make(array, scales=1)[0]
    np.testing.assert_array_equal(pixels(scale.show(z=4, size=None)), array[:, :, 4, 0].T)
    np.testing.assert_array_equal(pixels(scale.show(z=4, size=None, channel=1)), array[:, :, 4, 1].T)
    for wrong in (2, -1):
        with pytest.raises(IndexError, match=f"channel: {wrong} is not inside of 0:2"):
            scale.show(z=4, channel=wrong)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32"])
def test_other_types_are_shown_between_their_dark_and_bright_values(dtype: str) -> None:
    array = np.linspace(-100 if dtype[0] in "if" else 20, 120, 40 * 30).reshape(40, 30, 1).astype(dtype)
    outlier = array.copy()
    outlier[0, 0], outlier[-1, -1] = np.iinfo(np.int8).min * (dtype[0] in "if"), 127
    for values in (array, outlier):
        shown = pixels(make(values, type="image", scales=1)[0].show(z=0, size=None)).T
        assert (shown.min(), shown.max()) == (0, 255)
        assert abs(int(np.median(shown)) - 127) < 4
        assert (np.diff(shown.ravel().astype(int)[1:-1]) >= 0).all()


def test_black_and_white_are_the_same_in_slices_that_are_side_by_side() -> None:
    array = np.zeros(SIZE, np.uint16)
    array[:, :, 10] = 1000
    array[:, 15] = 2000
    shown = pixels(make(array, scales=1)[0].show(y=15, z=10, size=None))[..., 0]
    assert (shown[0, 0], shown[15, 0], shown[0, 48]) == (0, 255, 255)


def test_limits_are_what_is_black_and_white() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    shown = pixels(make(array)[0].show(z=0, size=None, limits=(100, 151))).T
    np.testing.assert_array_equal(shown.ravel(), [min(255, max(0, (value - 100) * 5)) for value in range(256)])
    assert set(pixels(make(array)[0].show(z=0, limits=(7, 7))).ravel()) <= set(range(256))


@pytest.mark.usefixtures("_closed")
def test_limits_may_be_an_array() -> None:
    array = voxels()
    volume, limits = make(array), np.percentile(array, (1, 99))
    expected = volume.show(z=3, limits=(float(limits[0]), float(limits[1])))
    np.testing.assert_array_equal(pixels(volume.show(z=3, limits=limits)), pixels(expected))
    (image,) = volume.plot(z=3, limits=limits).images
    assert image.get_clim() == tuple(limits)


@pytest.mark.parametrize("limits", [7, (1,), (1, 2, 3), ("dark", "bright"), (np.nan, 7), (0, np.inf)])
def test_limits_are_two_numbers(limits: Any) -> None:
    volume = Volume(open_accessor(servers.refused_url()), make(voxels()).info)
    for picture in (volume.show, volume.plot):
        with pytest.raises(ValueError, match="limits: expected two numbers, got"):
            picture(z=3, limits=limits)


def test_labels_take_no_limits() -> None:
    volume = Volume(open_accessor(servers.refused_url()), make(voxels(SIZE, "uint32"), type="segmentation").info)
    for take in (volume.show, volume.plot, volume[0].show, volume[0].plot):
        with pytest.raises(ValueError, match=r"limits: .* is a segmentation"):
            take(z=3, limits=(0, 7))


def test_a_jpeg_is_not_too_large() -> None:
    with pytest.raises(ValueError, match="at most 65535 pixels a side"):
        pictures.to_jpeg(np.zeros((1, 65536), np.uint8))


@pytest.mark.parametrize(
    ("value", "level"), [(0.0, 0), (7.0, 255), (-7.0, 0), (np.nan, 0), (np.inf, 255), (-np.inf, 0), (3e38, 255)]
)
def test_a_volume_of_one_value_is_shown(value: float, level: int) -> None:
    shown = pixels(make(np.full(SIZE, value, np.float32), scales=1)[0].show(z=0))
    assert set(shown.ravel()) == {level}


def test_what_is_no_number_is_black() -> None:
    array = np.linspace(1, 2, 1200, dtype=np.float32).reshape(40, 30, 1)
    array[5, 5] = np.nan
    array[6, 6] = np.inf
    shown = pixels(make(array)[0].show(z=0, size=None)).T
    assert (shown[5, 5], shown[6, 6]) == (0, 255)
    assert abs(int(np.median(shown)) - 127) < 4


# ------------------------------------------------------------------------------------------------------ what is refused


def test_what_is_outside_is_an_error() -> None:
    volume = make(voxels(), voxel_offset=OFFSET)
    for source in (volume, volume[0]):
        points: list[dict[str, Any]] = [{"x": -6}, {"x": 35}, {"y": 0}, {"z": 120}]
        for point in points:
            (axis,) = point
            with pytest.raises(IndexError, match=f"{axis}: {point[axis]} is not inside of"):
                source.show(**point)
        with pytest.raises(TypeError):
            source.show(z=100.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="size: expected at least 1 pixel, got 0"):
            source.show(size=0)


def test_a_picture_that_would_be_too_large_is_an_error_before_anything_is_read() -> None:
    for resolution, size in (((1e-6, 1, 1e6), None), ((8, 8, 8), 10**5)):
        scale = Volume(open_accessor(servers.refused_url()), make(voxels(), resolution=resolution, scales=1).info)[0]
        with pytest.raises(ValueError, match=r"size: a picture of \d+ x \d+ pixels is too large"):
            scale.show(z=0, size=size)


@pytest.mark.usefixtures("_closed")
def test_slices_side_by_side_are_not_too_large_either() -> None:
    """None of the three is, but one is high, another is wide, and there is nothing between them."""
    scale = make(voxels(), resolution=(1, 1, 10_000), scales=1)[0]
    with pytest.raises(ValueError, match="size: a picture of 200096 x 200000 pixels is too large"):
        Volume(open_accessor(servers.refused_url()), scale.volume.info)[0].show(size=None)
    assert len(scale.plot(size=None)) == 3  # each for itself


def test_a_failure_to_read_is_an_error() -> None:
    with servers.fault_server(servers.respond(500)) as server:
        volume = Volume(open_accessor(server.url), make(voxels()).info)
        with pytest.raises(DataAccessError):
            volume.show()


@pytest.mark.parametrize("package", ["PIL", "matplotlib"])
def test_what_is_not_installed_is_named_with_the_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    scale = make(voxels())[0]
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[plot\]'") as caught:
        (scale.show if package == "PIL" else scale.plot)(z=0)
    assert caught.value.name == package


def test_a_long_read_shows_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    make(voxels()).show(z=0, progress=True)
    assert "reading 8_8_8: 100%" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- as Neuroglancer shows it


POSITION = (20.25, 15.25, 10.25)  # voxels: so that no pixel's centre lies between two of them


def in_neuroglancer(client: Neuroglancer, source: str, layout: str, **layer: Any) -> NDArray[Any]:
    """Return what a panel shows around a position, one pixel for each voxel."""
    state = {
        "dimensions": {axis: [8e-9, "m"] for axis in "xyz"},
        "position": POSITION,
        "crossSectionScale": 1,
        "crossSectionBackgroundColor": f"#{bytes(browser.BACKGROUND).hex()}",
        "layout": layout,
        "layers": [{"name": "volume", "source": source, **layer}],
        "showAxisLines": False,
        "showDefaultAnnotations": False,
        "showScaleBar": False,
    }
    with client._browser.page(f"{client.url}#!{quote(json.dumps(state))}", size=(300, 300)) as page:
        page.evaluate(browser._SCRIPT)
        assert page.evaluate("seconds => tests.settled(seconds)", browser.DEADLINE / 2)
        assert browser.View(page).errors == []
        return browser.View(page).slice()


@pytest.mark.parametrize(("layout", "point"), [("xy", {"z": 10}), ("xz", {"y": 15}), ("yz", {"x": 20})])
def test_a_slice_lies_as_in_neuroglancer(
    neuroglancer: Neuroglancer, tmp_path: Path, layout: str, point: dict[str, Any]
) -> None:
    scale = make(voxels(), str(tmp_path), gzip=False, scales=1)[0]
    ours = pixels(scale.show(**point, size=None))
    shader = "void main() { emitGrayscale(toNormalized(getDataValue())); }"
    with servers.fault_server(browser.cors(servers.files(tmp_path))) as server:
        theirs = in_neuroglancer(neuroglancer, f"precomputed://{server.url}", layout, type="image", shader=shader)
    assert_shows(theirs, np.dstack([ours] * 3), layout)


def test_a_segmentation_looks_as_in_neuroglancer(neuroglancer: Neuroglancer, tmp_path: Path) -> None:
    ids = np.array(SOME_IDS[1:], np.uint64)[voxels(SIZE) % 9]
    scale = make(ids, str(tmp_path), gzip=False, scales=1)[0]
    ours = pixels(scale.show(z=10, size=None))[..., :3]
    with servers.fault_server(browser.cors(servers.files(tmp_path))) as server:
        layer = {"type": "segmentation", "selectedAlpha": 1}
        theirs = in_neuroglancer(neuroglancer, f"precomputed://{server.url}", "xy", **layer)
    assert_shows(theirs, ours, "xy")


def assert_shows(panel: NDArray[Any], ours: NDArray[Any], layout: str) -> None:
    """Check that a panel shows a picture in its place, and nothing else."""
    across, down = {"xy": (0, 1), "xz": (0, 2), "yz": (2, 1)}[layout]
    expected = np.full_like(panel, browser.BACKGROUND)
    top, left = (count // 2 - int(POSITION[axis]) for axis, count in zip((down, across), panel.shape, strict=False))
    if layout == "yz":  # in which z grows to the left
        left = panel.shape[1] - left - ours.shape[1]
    expected[top : top + ours.shape[0], left : left + ours.shape[1]] = ours
    assert np.abs(panel.astype(int) - expected).max() <= 1


# ---------------------------------------------------------------------------------------------------------------- plots


@pytest.fixture
def _closed() -> Iterator[None]:
    yield
    from matplotlib import pyplot as plt

    plt.close("all")


def drawn(ax: Any) -> Any:
    """Draw all of a figure, such that errors of drawing are seen, and return its one image."""
    ax.figure.savefig(io.BytesIO(), format="png")
    (image,) = ax.images
    return image


@pytest.mark.usefixtures("_closed")
def test_a_plot_has_axes_in_voxels_and_in_lengths() -> None:
    array = voxels(SIZE, "uint16")
    scale = make(array, resolution=(4, 4, 40), voxel_offset=OFFSET, scales=1)[0]
    ax = scale.plot(y=8, limits=(10, 90))
    image = drawn(ax)
    np.testing.assert_array_equal(np.asarray(image.get_array()), array[:, 1].T)
    assert image.get_extent() == [-5, 35, 120, 100]
    assert image.get_clim() == (10, 90)
    assert image.cmap.name == "gray"
    assert ax.get_aspect() == 10
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x (voxels)", "z (voxels)", "4_4_40, y = 8")
    top, right = ax.child_axes
    assert (top.get_xlabel(), right.get_ylabel()) == ("x (nm)", "z (nm)")
    np.testing.assert_allclose(top.get_xlim(), (-20, 140))
    np.testing.assert_allclose(right.get_ylim(), (4800, 4000))


@pytest.mark.usefixtures("_closed")
@pytest.mark.parametrize(("resolution", "unit", "end"), [(8, "nm", 320), (800, "µm", 32), (1e6, "mm", 40)])
def test_lengths_are_in_a_readable_unit(resolution: float, unit: str, end: float) -> None:
    ax = make(voxels(), resolution=(resolution,) * 3, scales=1)[0].plot(z=0)
    drawn(ax)
    top, _ = ax.child_axes
    assert top.get_xlabel() == f"x ({unit})"
    np.testing.assert_allclose(top.get_xlim(), (0, end))


@pytest.mark.usefixtures("_closed")
def test_without_a_coordinate_there_are_three_plots() -> None:
    array = voxels()
    axes = make(array)[0].plot()
    assert [ax.get_title() for ax in axes] == ["8_8_8, z = 10", "8_8_8, y = 15", "8_8_8, x = 20"]
    for ax, plane in zip(axes, (array[:, :, 10].T, array[:, 15].T, array[20][:, ::-1]), strict=True):
        np.testing.assert_array_equal(np.asarray(drawn(ax).get_array()), plane)
        assert drawn(ax).get_clim() == (0, 255)
    assert axes[2].get_xlim() == (20, 0)


@pytest.mark.usefixtures("_closed")
def test_a_plot_of_a_volume_counts_voxels_of_its_first_scale() -> None:
    volume = make(voxels((64, 64, 64)), voxel_offset=(-10, 0, 0))
    ax = volume.plot(z=33, size=16)
    assert drawn(ax).get_array().shape == (16, 17)
    assert ax.get_title() == "32_32_32, z = 33"
    assert drawn(ax).get_extent() == [-12, 56, 64, 0]  # of voxels that are four times as long


@pytest.mark.usefixtures("_closed")
def test_plots_in_colour() -> None:
    ids = voxels(SIZE, "uint32")
    image = drawn(make(ids, scales=1)[0].plot(z=4))
    np.testing.assert_array_equal(np.asarray(image.get_array()), view_colours.segment_colours(ids[:, :, 4].T))
    colours = voxels((*SIZE, 3))
    image = drawn(make(colours, scales=1)[0].plot(z=4))
    np.testing.assert_array_equal(np.asarray(image.get_array()), colours[:, :, 4].transpose(1, 0, 2))


@pytest.mark.usefixtures("_closed")
def test_a_plot_may_have_axes_of_ones_own() -> None:
    from matplotlib import pyplot as plt

    scale = make(voxels())[0]
    _, (first, second, third) = plt.subplots(1, 3)
    assert scale.plot(z=1, ax=first) is first
    assert list(scale.plot(ax=[first, second, third])) == [first, second, third]
    with pytest.raises(ValueError, match="ax: expected 3, one for each slice, got 1"):
        scale.plot(ax=first)


@pytest.mark.usefixtures("_closed")
def test_a_title_is_no_formula() -> None:
    info = make(voxels()).info.to_dict()
    info["scales"][0]["key"] = "$\\undefined{$ \x1b[31m"
    scale = create_volume("memory://test_display/formula", info, overwrite=True)[0]
    scale[...] = voxels()[..., np.newaxis]
    ax = scale.plot(z=0)
    drawn(ax)


# ----------------------------------------------------------------------------------------------------- plain, one line


def hostile(text: str, **changed: Any) -> Volume:
    """Make a volume, of which all that `info` can say in words is a text."""
    info = make(voxels(), scales=1).info.to_dict()
    info["type"] = text
    info["scales"][0] |= {"key": text, "encoding": text} | changed
    accessor = open_accessor("memory://test_display/hostile")
    return Volume(accessor, Info.parse(info))


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "a\u202eb", "\ud800", "a\rb", "x" * 5000])
def test_a_plain_repr_is_one_line_that_a_terminal_can_print(text: str) -> None:
    volume = hostile(text)
    for source in (volume, volume[0]):
        shown = repr(source)
        assert shown.isprintable()
        assert len(shown) < 2500
        shown.encode()


def test_a_plain_repr_says_what_it_is() -> None:
    volume = make(voxels(), resolution=(4000, 4000, 40000), scales=1)
    assert repr(volume) == "<Volume memory://test_display/made: image of uint8, 1 scale>"
    assert repr(volume[0]) == "<Scale 4000_4000_40000: 40 x 30 x 20 x 1 uint8, 4 x 4 x 40 µm, raw>"


# ------------------------------------------------------------------------------------------------------------ notebooks


class Seen(HTMLParser):
    """What a browser would make of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"br", "img"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MULTIPLICATION SIGN}", "x")

    @property
    def images(self) -> list[NDArray[Any]]:
        """The pictures in it, decoded."""
        sources = [value for name, value in self.attributes if name == "src"]
        encoded = [source.removeprefix("data:image/png;base64,") for source in sources]
        return [pixels(Image.open(io.BytesIO(base64.b64decode(data, validate=True)))) for data in encoded]


def seen(source: Volume | Scale) -> Seen:
    return Seen(source._repr_html_())


HEADINGS = ["Key", "Size", "Voxel size", "Chunk size", "Encoding", "Sharded", "Layout", "Bytes"]


def test_a_notebook_shows_a_table_of_scales() -> None:
    made = make(voxels((200, 150, 100), "uint16"), resolution=(4, 4, 40), chunk_size=(64, 64, 32), scales=4)
    volume = open_volume(made.url)
    assert seen(volume).rows == [
        HEADINGS,
        ["4_4_40", "200x150x100", "4x4x40 nm", "64x64x32", "raw", "no", "unknown", "5.722 MiB"],
        ["8_8_40", "100x75x100", "8x8x40 nm", "64x64x32", "raw", "no", "unknown", "1.431 MiB"],
        ["16_16_40", "50x38x100", "16x16x40 nm", "64x64x32", "raw", "no", "unknown", "371.1 KiB"],
        ["32_32_40", "25x19x100", "32x32x40 nm", "64x64x32", "raw", "no", "flat", "92.77 KiB"],
    ]
    assert repr(volume) in seen(volume).text


def test_a_notebook_shows_a_scale() -> None:
    volume = make(voxels(), encoding="png", sharding=True)
    assert seen(volume[0]).rows == [
        HEADINGS,
        ["8_8_8", "40x30x20", "8x8x8 nm", "16x16x16", "png", "yes", "shards", "23.44 KiB"],
    ]
    assert repr(volume[0]) in seen(volume[0]).text


@pytest.mark.parametrize(("flat", "layout"), [(True, "flat"), (False, "sub-directories")])
def test_the_layout_is_shown_once_it_is_known(tmp_path: Path, flat: bool, layout: str) -> None:
    make(voxels(), str(tmp_path), flat=flat, scales=1)
    scale = open_volume(tmp_path)[0]
    assert scale.layout == "unknown"
    scale[0, 0, 0]
    assert scale.layout == layout
    assert seen(scale).rows[1][6] == layout


def test_a_scale_that_has_both_layouts_says_so(tmp_path: Path) -> None:
    make(voxels(), str(tmp_path), scales=1)
    other = open_volume(tmp_path, flat=False)[0]
    (tmp_path / "8_8_8" / "0-16_0-16_0-16").unlink()
    other[0:16, 0:16, 0:16] = 1
    scale = open_volume(tmp_path)[0]
    assert scale[...].any()
    assert scale.layout == "flat and sub-directories"


def test_the_thumbnail_shows_the_middle_of_the_coarsest_scale() -> None:
    array = voxels((160, 80, 40))
    volume = make(array, chunk_size=(160, 80, 40))
    xy, xz, yz = seen(volume).images
    np.testing.assert_array_equal(xy, array[:, :, 20].T)
    np.testing.assert_array_equal(xz, array[:, 40].T)
    np.testing.assert_array_equal(yz, array[80][:, ::-1])
    assert "z = 20, y = 40, x = 80, from 8_8_8" in seen(volume).text


def test_the_thumbnail_of_a_segmentation_has_its_colours() -> None:
    xy, _, _ = seen(make(np.full((160, 80, 40), 77, np.uint64), chunk_size=(160, 80, 40))).images
    assert (xy == neuroglancers(77)).all()


def test_a_scale_with_few_voxels_is_passed_over_for_one_that_costs_no_more() -> None:
    volume = make(voxels((64, 64, 64)), chunk_size=(64, 64, 64), scales=5)
    assert "from 8_8_8<" in volume._repr_html_()
    volume = make(voxels((64, 64, 64)), chunk_size=(8, 8, 8), scales=5)
    assert "from 32_32_32<" in volume._repr_html_()  # 3 slices of 4 chunks, of the next scale 16


def test_a_scale_shows_itself_or_if_that_is_too_large_the_coarsest() -> None:
    volume = make(voxels((64, 64, 64)), chunk_size=(8, 8, 8))
    assert "<br>z = 16, from 16_16_16<" in volume[1]._repr_html_()  # one slice, of the 16 chunks that may be read
    assert "from 32_32_32<" in volume[2]._repr_html_()
    assert "z = 32, y = 32, x = 32, from 32_32_32<" in volume[0]._repr_html_()


def gets(server: servers.HttpServer, source: Volume | Scale) -> int:
    server.log.clear()
    source._repr_html_()
    return server.log.count()


def test_a_thumbnail_takes_a_handful_of_requests(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((200, 150, 100)), str(tmp_path), chunk_size=(64, 64, 64), gzip=False)
    volume = open_volume(served.url)
    assert [scale.shape[0] for scale in volume] == [200, 100, 50]
    assert gets(served, volume) == 4  # those of the middle scale
    assert gets(served, volume[2]) == 1


def test_of_a_stack_of_images_one_is_shown(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((80, 70, 50)), str(tmp_path), chunk_size=(128, 128, 1), gzip=False, scales=1)
    volume = open_volume(served.url)
    assert gets(served, volume) == 1
    assert len(seen(volume).images) == 1


def test_what_is_too_large_has_no_thumbnail(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((80, 80, 80)), str(tmp_path), chunk_size=(16, 16, 16), gzip=False, scales=1)
    volume = open_volume(served.url)
    assert gets(served, volume) == 0
    assert seen(volume).images == []


def test_chunks_that_are_large_are_not_read(tmp_path: Path, served: servers.HttpServer) -> None:
    info = make(voxels(), str(tmp_path), gzip=False).info.to_dict()
    info["scales"] = [info["scales"][0] | {"size": [1024] * 3, "chunk_sizes": [[1024] * 3]}]
    (tmp_path / "info").write_text(json.dumps(info))
    assert gets(served, open_volume(served.url)) == 0


def test_an_empty_volume_has_no_thumbnail_and_warns_of_nothing() -> None:
    volume = Volume(open_accessor("memory://test_display/nothing"), make(voxels()).info)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert seen(volume).images == []
    assert warned == []


def test_chunks_that_are_absent_do_not_matter() -> None:
    array = np.zeros((32, 32, 32), np.uint8)
    array[:16] = 9
    volume = make(array, "memory://test_display/gaps", scales=1, skip_empty=True)
    assert len(seen(open_volume(volume.url, missing="raise")).images) == 3


# -------------------------------------------------------------------------------------------------- for better or worse


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_server_that_fails_leaves_the_table(status: int) -> None:
    with servers.fault_server(servers.respond(status)) as server:
        volume = Volume(open_accessor(server.url), make(voxels()).info)
        for source in (volume, volume[0]):
            assert len(seen(source).rows) > 1
            assert seen(source).images == []


def test_a_server_that_is_not_there_leaves_the_table() -> None:
    volume = Volume(open_accessor(servers.refused_url()), make(voxels(), scales=2).info)
    assert (len(seen(volume).rows), seen(volume).images) == (3, [])


@pytest.mark.parametrize("chunk", [b"", b"too short", bytes(16**3 + 1)])
def test_damaged_chunks_leave_the_table(tmp_path: Path, chunk: bytes) -> None:
    make(voxels(), str(tmp_path), gzip=False, scales=1)
    for path in (tmp_path / "8_8_8").iterdir():
        path.write_bytes(chunk)
    found = seen(open_volume(tmp_path))
    assert (len(found.rows), found.images) == (2, [])


def test_an_encoding_that_is_unknown_leaves_the_table() -> None:
    assert seen(hostile("webp")).rows[1][4] == "webp"


def test_a_server_that_is_slow_is_not_waited_for(tmp_path: Path) -> None:
    make(voxels(), str(tmp_path), gzip=False, scales=1)
    asked, released = threading.Event(), threading.Event()

    async def handler(request: Any) -> Any:
        if request.path != "/info":
            asked.set()
            await asyncio.to_thread(released.wait, servers.DEADLINE)
        return await servers.files(tmp_path)(request)

    with servers.fault_server(handler) as server:
        volume = open_volume(server.url)
        started = time.monotonic()
        found = seen(volume)
        assert 1.5 < time.monotonic() - started < 4
        assert asked.is_set()
        assert (len(found.rows), found.images) == (2, [])
        released.set()
        for thread in threading.enumerate():
            if "thumbnail" in thread.name:
                thread.join(servers.DEADLINE)
        assert len(seen(volume).images) == 3


def test_who_does_not_wait_can_leave(tmp_path: Path) -> None:
    """An interpreter that ends while a thumbnail is still on its way ends at once, and in silence."""
    make(voxels(), str(tmp_path), gzip=False, scales=1)
    info = (tmp_path / "info").read_bytes()
    answers = {"/info": servers.respond(200, info)}
    with servers.fault_server(
        lambda request: answers.get(request.path, servers.latency(30, servers.respond(200)))(request)
    ) as server:
        code = f"import precomputed_fs; print(len(precomputed_fs.open_volume({server.url!r})._repr_html_()))"
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert time.monotonic() - started < 15
    assert int(done.stdout) > 100
    assert done.stderr == ""


def test_no_threads_are_left(tmp_path: Path) -> None:
    make(voxels(), str(tmp_path), scales=1)._repr_html_()
    assert [thread.name for thread in threading.enumerate() if "thumbnail" in thread.name] == []


def test_without_a_thread_there_is_still_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    volume = make(voxels(), scales=1)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    found = seen(volume)
    assert (len(found.rows), found.images) == (2, [])


def test_whatever_fails_there_is_something(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = hostile("<b>")
    monkeypatch.setattr(notebook, "_table", None)
    assert volume._repr_html_() == f"<pre>{html.escape(repr(volume))}</pre>"


ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</td></table><style>*{display:none}</style>",
    "&lt;b&gt;",
    "<!--",
    "javascript:alert(1)",
    "\ud800\u202e",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_what_info_says_is_shown_and_not_obeyed(text: str) -> None:
    volume = hostile(text)
    for source in (volume, volume[0]):
        found = seen(source)
        assert set(found.tags) <= {"div", "code", "table", "thead", "tbody", "tr", "th", "td"}
        assert found.attributes == []
        if text.isprintable():
            assert found.rows[1][0] == found.rows[1][4].replace(text.lower(), text) == text


def test_a_thumbnail_names_a_hostile_key() -> None:
    info = make(voxels(), scales=1).info.to_dict()
    info["scales"][0]["key"] = "a<b>'\"&"
    volume = create_volume("memory://test_display/key", info, overwrite=True)
    volume[0][...] = 9
    found = seen(volume)
    assert len(found.images) == 3
    assert found.text.endswith("from a<b>'\"&")
    assert {name for name, _ in found.attributes} == {"alt", "title", "src"}


def test_what_jupyterlab_trusts_nobody_with_is_not_used() -> None:
    text = make(voxels((64, 64, 64)))._repr_html_() + make(voxels())[0]._repr_html_()
    assert set(Seen(text).tags) == {"div", "code", "table", "thead", "tbody", "tr", "th", "td", "br", "img"}
    assert re.search("colou?r|background|style|class|href", re.sub(r'src="[^"]*"', "", text)) is None


SECRET = "s3cr3t-t0k3n"


def test_secrets_are_not_shown(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels(), str(tmp_path), scales=1)
    url = f"{served.url}?sig={SECRET}"
    volume = open_volume(url, storage_options={"client_kwargs": {"headers": {"Authorization": SECRET}}})
    assert len(seen(volume).images) == 3
    for source in (volume, volume[0]):
        assert SECRET not in repr(source) + source._repr_html_()


@pytest.mark.parametrize("protocol", ["s3", "zip"])
def test_a_volume_of_another_protocol_is_shown(make_pyramid: Callable[[str], Pyramid], protocol: str) -> None:
    array = voxels((160, 80, 40))
    source = make_pyramid("memory")
    make(array, source.url, chunk_size=(160, 80, 40))
    pyramid = make_pyramid(protocol)
    for name, body in source.contents().items():
        pyramid.put(name, body)
    volume = open_volume(pyramid.url, storage_options=pyramid.storage_options)
    np.testing.assert_array_equal(seen(volume).images[0], array[:, :, 20].T)
    np.testing.assert_array_equal(pixels(volume.show(z=3, size=None)), array[:, :, 3].T)


def many(count: int) -> Volume:
    info = make(voxels(), scales=1).info.to_dict()
    info["scales"] = [info["scales"][0] | {"key": f"key{i}"} for i in range(count)]
    return Volume(open_accessor("memory://test_display/many"), Info.parse(info))


def test_a_table_of_many_scales_is_shortened() -> None:
    text = many(1024)._repr_html_()
    assert len(text) < 10_000
    rows = Seen(text).rows[1:]
    assert [row[0] for row in rows] == [
        *(f"key{i}" for i in range(12)), "... and 1000 more ...", *(f"key{i}" for i in range(1012, 1024)),
    ]  # fmt: skip
    assert len(seen(many(24)).rows) == 25


def test_sizes_beyond_all_measure_are_shown() -> None:
    found = seen(hostile("raw", size=[2**61] * 3, chunk_sizes=[[2**61] * 3], resolution=[1e300, 1e-300, 5]))
    assert found.rows[1][-1].endswith(" YiB")
    assert found.rows[1][2] == "1e+300x1e-300x5 nm"
