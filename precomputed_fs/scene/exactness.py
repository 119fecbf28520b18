"""Which values are not the same in another data type."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def differing(values: NDArray[Any], converted: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which numbers are others since they were converted; NaN is the same as NaN.

    NumPy compares integers of 64 bits with floats as floats, in which large ones are rounded.

    Examples
    --------
    >>> ids = np.array([2**24, 2**53 + 1, 2**64 - 1], np.uint64)
    >>> differing(ids, ids.astype(np.float32)).tolist()
    [False, True, True]
    """
    if values.dtype.kind in "iu" and converted.dtype.kind == "f":
        end = 2.0 ** (8 * values.dtype.itemsize - (values.dtype.kind == "i"))
        is_there = (converted >= -end) & (converted < end)
        is_other: NDArray[np.bool_] = ~is_there | (np.where(is_there, converted, 0).astype(values.dtype) != values)
    else:
        is_other = (converted != values) & ~(np.isnan(converted) & np.isnan(values))
    return is_other
