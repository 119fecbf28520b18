"""Columns as arrays: exactly, or refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from precomputed_fs.scene.annotation_arrays import array_of, coordinates_of, numbers_of

LARGE = 2**63 + 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([LARGE, 5], np.array([LARGE, 5], np.uint64)),
        ([np.uint64(LARGE), 5], np.array([LARGE, 5], np.uint64)),
        ([[LARGE, 5], [7, 8]], np.array([[LARGE, 5], [7, 8]], np.uint64)),
        ([-5, 7], np.array([-5, 7])),
        ([1.5, 7], np.array([1.5, 7])),
        ([True, False], np.array([True, False])),
        (np.array([True, False], object), np.array([True, False])),
        (np.array([LARGE], ">u8"), np.array([LARGE], np.uint64)),
        (pd.Series([LARGE, None], dtype="UInt64"), np.array([LARGE, pd.NA], object)),
        (pd.Series([0.5, None], dtype="Float64"), np.array([0.5, np.nan])),
        (["a", 5], np.array(["a", 5], object)),
    ],
)
def test_columns_are_exact(given: Any, expected: Any) -> None:
    found = array_of(given, "column 'a'")
    assert found.dtype.newbyteorder("=") == expected.dtype
    assert found.shape == expected.shape
    assert all(a is b or a == b or a != a for a, b in zip(found.ravel(), expected.ravel(), strict=True))  # noqa: PLR0124


def test_numbers_beside_missing_values_are_floats() -> None:
    np.testing.assert_array_equal(numbers_of(pd.Series([3, None], dtype="Int64"), "a"), [3, np.nan])
    np.testing.assert_array_equal(numbers_of([3, None], "a"), [3, np.nan])
    assert numbers_of([True, None], "a").dtype == object


@pytest.mark.parametrize(
    "given",
    [pd.to_datetime(["2020-01-01"]), np.ones(1, complex), np.array([1], "timedelta64[s]"), ["a"], [pd.Timestamp(0)]],
)
def test_what_is_not_a_number_is_not_a_coordinate(given: Any) -> None:
    with pytest.raises(ValueError, match="column 'x': expected numbers, as it has coordinates"):
        coordinates_of(given, "column 'x'")


def test_masked_values_are_refused_but_not_arrays_that_could_have_some() -> None:
    with pytest.raises(ValueError, match="column 'x': expected a value in each row, got masked values"):
        coordinates_of(np.ma.masked_array([1.0, 2.0], mask=[True, False]), "column 'x'")
    np.testing.assert_array_equal(coordinates_of(np.ma.masked_array([1.0, 2.0]), "x"), [1, 2])
