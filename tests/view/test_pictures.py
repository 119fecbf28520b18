"""Pictures of slices: sizes, resampling, PNG and JPEG."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs.view import pictures
from tests.view.volumes import hostile, make, pixels, voxels


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
