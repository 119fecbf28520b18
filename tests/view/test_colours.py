"""Grey levels, limits, and the colours of segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs import (
    Volume,
)
from precomputed_fs.format.info import Info
from precomputed_fs.view import colours as view_colours
from precomputed_fs.view import pictures
from tests.support import servers
from tests.view.volumes import SIZE, SOME_IDS, make, neuroglancers, open_accessor, pixels, voxels


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
    made = make(voxels(SIZE, "float32"), scales=1)
    volume = Volume(made.accessor, Info.parse({**made.info.to_dict(), "type": "segmentation"}))
    assert volume.show(z=0).mode == "L"


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


@pytest.mark.parametrize(("values", "expected"), [((0, 1), (0, 255)), ((3, 100), (0, 255)), ((3, 200), (3, 200))])
def test_dim_bytes_are_stretched_as_other_types_are(values: tuple[int, int], expected: tuple[int, int]) -> None:
    array = np.full((40, 30, 1), values[0], np.uint8)
    array[10:20, 10:20] = values[1]
    shown = make(array, type="image", scales=1).show(z=0, size=None)
    assert (pixels(shown).min(), pixels(shown).max()) == expected


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
def test_limits_are_in_order() -> None:
    for show in (make(voxels()).show, make(voxels()).plot):
        with pytest.raises(ValueError, match=r"limits: expected low < high, .*got \(5, 1\)"):
            show(z=3, limits=(5, 1))


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
