"""Sources: what is read of them, and what is refused."""

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray

from precomputed_fs import create_volume
from tests.volume.samples import SMALL, Counting, make, small, store

ARRAY = small((*SMALL, 3), "uint8")


@pytest.mark.parametrize("axes", ["xyzc", "zyxc", "czyx", "cxyz", "zcyx", "CZYX"])
@pytest.mark.parametrize("of", [np.asarray, Counting, lambda array: da.from_array(array, chunks=8)])
def test_axes_say_the_order_of_an_array_s(axes: str, of: Any) -> None:
    array = ARRAY.transpose(["xyzc".index(name) for name in axes.lower()])
    assert np.array_equal(store(of(array), axes=axes)[0][...], ARRAY)


@pytest.mark.parametrize(
    ("axes", "shape"), [("zyx", (*SMALL, 1)), ("yx", (21, 17, 1, 1)), ("yxc", (21, 17, 1, 3)), ("zx", (21, 1, 10, 1))]
)
@pytest.mark.parametrize("of", [np.asarray, Counting])
def test_axes_that_are_not_there_have_length_1(axes: str, shape: tuple[int, ...], of: Any) -> None:
    expected = small(shape)
    array = expected[tuple(slice(None) if name in axes else 0 for name in "xyzc")]
    names = [name for name in "xyzc" if name in axes]
    assert np.array_equal(store(of(array.transpose([names.index(name) for name in axes])), axes=axes)[0][...], expected)


def test_the_colours_of_pixels_follow_the_axes_that_are_named() -> None:
    pixels = np.zeros((5, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    pixels["G"] = small((5, 7), "uint8")
    volume = store(pixels, axes="yx")
    assert np.array_equal(volume[0][:, :, 0, 1], pixels["G"].T)


@pytest.mark.parametrize("axes", ["", "xyy", "tzyx", "c", "xyzz"])
def test_other_letters_are_refused(axes: str) -> None:
    with pytest.raises(
        ValueError, match=r"axes: expected some of x, y, z and c \(channel\), each once, such as 'zyx', got"
    ):
        store(small(), axes=axes)


def test_a_letter_is_needed_for_each_axis() -> None:
    with pytest.raises(
        ValueError, match=r"axes: expected a letter for each axis of the array, got 'zyx' for \(21, 17, 10, 3\)"
    ):
        store(ARRAY, axes="zyx")


@pytest.mark.parametrize("axes", [("z", "y", "x"), b"zyx", 3])
def test_axes_are_a_text(axes: Any) -> None:
    with pytest.raises(TypeError, match=r"axes: expected a text, such as 'zyx', got"):
        store(small(), axes=axes)


def test_axes_that_a_source_names_itself_are_not_named_again() -> None:
    scale: Any = make("memory://tests/volume/axes")[0]
    for source, name in ((xarray.DataArray(small(), dims=["x", "y", "z"]), "an array of xarray"), (scale, "a scale")):
        with pytest.raises(TypeError, match=f"axes: for arrays; {name} has axes of its own"):
            store(source, axes="zyx")


@pytest.mark.parametrize("of", [np.asarray, Counting, da.from_array])
def test_a_last_axis_that_looks_like_space_is_refused_with_a_hint(of: Any) -> None:
    array = small((3, 9, 8, 17), "uint8")
    with pytest.raises(
        ValueError, match=r'shape \(3, 9, 8, 17\), and 17 channels look like .* such as axes="czyx", or axes="xyzc"'
    ):
        store(of(array))
    assert store(of(array), axes="czyx")[0].shape == (17, 8, 9, 3)
    assert store(of(array), axes="xyzc")[0].shape == (3, 9, 8, 17)
    assert store(of(array[..., :16]))[0].shape == (3, 9, 8, 16)


def test_named_channels_may_be_many() -> None:
    array = small((4, 3, 2, 17), "uint8")
    named = store(xarray.DataArray(array, dims=["x", "y", "z", "channel"]))
    assert named[0].shape == store(named[0])[0].shape == array.shape


def test_a_segmentation_of_floats_is_refused_with_a_hint() -> None:
    with pytest.raises(TypeError, match=r'a segmentation has integers, got float32: pass array\.astype\("uint32"\)'):
        store(small(dtype="float32"), type="segmentation")


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 4, 0)])
def test_an_array_without_voxels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected an array that has voxels, got shape \("):
        create_volume("memory://tests/volume/empty", np.zeros(shape, np.uint8), resolution=8)
