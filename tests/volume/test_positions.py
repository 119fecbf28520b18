"""Positions in voxels and in lengths: which voxels these are in."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs.format.grid import Box
from precomputed_fs.volume.positions import NOWHERE, box_between, rescaled, to_nanometres, voxels_at

RESOLUTION = (4, 0.1, 40.5)


@given(st.integers(-(1 << 40), 1 << 40), st.sampled_from([0.1, 0.3, 4, 7, 1e6 / 3, 40.5]))
def test_a_voxel_begins_at_its_first_position_and_ends_before_the_next(index: int, step: float) -> None:
    points = np.array([[index * step, np.nextafter((index + 1) * step, -np.inf), (index + 0.5) * step]]).T
    found = voxels_at(np.repeat(points, 3, axis=1), "nm", (step, step, step))
    assert (found == index).all()


def test_positions_may_have_any_unit_and_type() -> None:
    expected = [[-3, 20, 1]]
    for unit, points in (
        ("voxel", np.array([[-3, 20, 1]], np.int8)),
        ("voxel", np.array([[-2.1, 20.9, 1]], np.float32)),
        ("nm", np.array([[-12.0, 2.0, 41.0]])),
        ("um", np.array([[-0.01, 0.00205, 0.05]])),
    ):
        assert voxels_at(points, unit, RESOLUTION).tolist() == expected, unit


def test_what_is_not_a_position_is_nowhere() -> None:
    points = np.array([[np.nan, np.inf, -1e300], [5, 1e19, 0]])
    assert voxels_at(points, "voxel", RESOLUTION).tolist() == [[NOWHERE] * 3, [5, NOWHERE, 0]]
    assert voxels_at(np.array([[1 << 63, 1, 2]], np.uint64), "voxel", RESOLUTION).tolist() == [[NOWHERE, 1, 2]]


def test_an_integer_voxel_is_a_centre_in_nanometres() -> None:
    assert to_nanometres(np.array([1, 2, -1]), (4, 4, 40)).tolist() == [6, 10, -20]
    assert to_nanometres(np.array([1.5, 2, -1]), (4, 4, 40)).tolist() == [6, 8, -40]


@pytest.mark.parametrize(
    ("low", "high", "unit", "expected"),
    [
        ((0, 0, 0), (8, 0.25, 81), "nm", Box((0, 0, 0), (2, 3, 2))),
        ((-1, 0.1, 40.5), (0, 0.1, 40.5), "nm", Box((-1, 1, 1), (0, 2, 2))),  # one voxel thick
        (("8 nm", 0, 0), ("0.012 um", "1 nm", 1), "nm", Box((2, 0, 0), (3, 10, 1))),
        ((0.008, 0, 0), (0.0161, 0.001, "1 nm"), "um", Box((2, 0, 0), (5, 10, 1))),
        ((1, 2.5, -3), (2, 3.5, 4), "voxel", Box((1, 2, -3), (2, 4, 4))),
        ((1 << 60, 0, 0), ((1 << 60) + 1, 1, 1), "voxel", Box((1 << 60, 0, 0), ((1 << 60) + 1, 1, 1))),
    ],
)  # fmt: skip
def test_a_box_has_all_voxels_that_a_region_touches(low: Any, high: Any, unit: str, expected: Box) -> None:
    assert box_between(low, high, unit, RESOLUTION) == expected


@pytest.mark.parametrize(
    ("low", "high", "unit", "message"),
    [
        ((0, 0, 5), (1, 1, 4), "nm", "high: expected at least as much as `low` along each axis, got z: 5 and 4"),
        ((0, 0), (1, 1, 4), "nm", "low: expected 3 positions, xyz"),
        ("1 mm", (1, 1, 4), "nm", "low: expected 3 positions, xyz"),
        ((0, 0, 0), (1, 1, np.inf), "nm", "high: expected finite positions"),
        ((0, 0, 0), (1, 1, np.nan), "voxel", "high: expected finite positions"),
        ((0, 0, 0), (1, 1e300, 1), "mm", "high: expected finite positions"),
        (0, (1, 1, 4), "nm", "low: expected 3 positions, xyz"),
        ((0, 0, 0), (1, 1, "far"), "nm", "high: expected a number with one of the units"),
        ((0, 0, 0), (1, 1, 1), "inch", "unit: expected 'voxel', or a length"),
    ],
)  # fmt: skip
def test_a_region_that_is_none_is_refused(low: Any, high: Any, unit: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        box_between(low, high, unit, RESOLUTION)


def test_a_coarser_box_has_all_voxels_that_a_finer_one_touches() -> None:
    assert rescaled(Box((-3, 5, 7), (4, 6, 9)), (2, 2.0000001, 1)) == Box((-2, 2, 7), (2, 3, 9))
    assert rescaled(Box((0, 0, 0), (3, 3, 3)), (1.5, 1 / 3, 1)) == Box((0, 0, 0), (2, 9, 3))
