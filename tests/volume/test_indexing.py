"""Indices: NumPy's slicing in absolute coordinates, and the chunks that hold the voxels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs import (
    Scale,
    create_volume,
)
from precomputed_fs.format.grid import Box
from precomputed_fs.volume.indexing import Touched
from tests.volume.samples import BOUNDS, SIZE, absolute_index, shifted, voxels


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


def test_axes_may_be_reversed(scale: Scale) -> None:
    x0, x1 = BOUNDS[0]
    assert np.array_equal(scale[x1 - 1 : x0 - 1 : -2], voxels()[::-2])
    assert np.array_equal(scale[::-1, 10], voxels()[::-1, 3])


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
        ([1, 2], r"x: expected an integer or a slice, got 2 of them at once: scale\.sample\(points\)"),
        (np.s_[0.5], "expected an integer"),
        (np.s_[None], "expected an integer"),
        (True, "expected an integer"),
        (np.ones(45, bool), "expected an integer"),
        ("x", "expected an integer"),
    ],
)
def test_an_invalid_index_is_an_index_error(scale: Scale, index: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        scale[index]


@pytest.mark.parametrize("index", [np.s_[45], np.s_[-46], np.s_[:, 33], [1], None, True, np.s_[0, 0, 0, 0, 0]])
def test_an_invalid_index_of_the_array_is_an_index_error(scale: Scale, index: Any) -> None:
    with pytest.raises(IndexError):
        scale.array[index]


def test_a_step_of_0_is_refused(scale: Scale) -> None:
    for array in (scale, scale.array):
        with pytest.raises(ValueError, match="step"):
            array[::0]


def test_a_box_stands_for_its_slices(scale: Scale) -> None:
    assert np.array_equal(scale[Box((0, 10, 100), (10, 20, 105))], scale[0:10, 10:20, 100:105])


def test_a_step_longer_than_a_chunk_skips_chunks(scale: Scale) -> None:
    touched = Touched(scale.grid, (range(-5, 40, 40), range(7, 8), range(100, 101)))
    assert list(touched) == [(-5, 11, 7, 15, 100, 109), (27, 40, 7, 15, 100, 109)]
    assert len(touched) == 2


def test_voxels_outside_of_the_grid_are_in_no_chunk(scale: Scale) -> None:
    assert list(Touched(scale.grid, (range(40, 90), range(7, 40), range(100, 120)))) == []


@pytest.mark.parametrize(
    "index",
    [np.s_[::-1], np.s_[5:0:-1, 4:2], np.s_[:, ::-1, ::-1, ::-1], np.s_[3:3], np.s_[7:2:-1, :, 1], np.s_[2:5, 3:1:-1]],
    ids=str,
)
def test_negative_steps_and_empty_slices_do_as_numpys(index: Any) -> None:
    array = np.arange(8 * 7 * 6 * 2, dtype=np.uint16).reshape(8, 7, 6, 2)
    scale = create_volume("memory://test_indexing/steps", array, resolution=8, overwrite=True, type="image")[0]
    np.testing.assert_array_equal(scale[index], array[index])
    np.testing.assert_array_equal(scale.array[index], array[index])
    value = np.arange(array[index].size, dtype=np.uint16).reshape(array[index].shape)
    array[index] = value
    scale[index] = value
    np.testing.assert_array_equal(scale[...], array)
