"""Values that another data type does not have."""

from typing import Any

import numpy as np
import pytest

from precomputed_fs.scene.exactness import differing


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (np.array([2**24, 2**24 + 1], np.int32), "f4", [False, True]),
        (np.array([-(2**63), 2**63 - 1, -(2**53) - 1], np.int64), "f4", [False, True, True]),
        (np.array([2**63, 2**64 - 1, 2**53 + 1], np.uint64), "f4", [False, True, True]),
        (np.array([2**32, 2**64 - 1], np.uint64), "i4", [True, True]),
        (np.array([2.0**31, -(2.0**31), 0.5, np.nan]), "i4", [True, False, True, True]),
        (np.array([np.nan, np.inf, 0.1]), "f4", [False, False, True]),
    ],
)
def test_differing_values_are_found(values: Any, dtype: str, expected: list[bool]) -> None:
    with np.errstate(invalid="ignore"):
        assert differing(values, values.astype(dtype)).tolist() == expected
