"""How the values of one column become an array: exactly, whatever they are in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_INTEGERS = (-1 << 63, 1 << 64)
_UNSIGNED = 1 << 63  # from here on


def array_of(values: Any, place: str) -> Array:  # noqa: ANN401 - whatever people have
    """Return a column as an array: of objects, where integers or booleans are beside missing values.

    Parameters
    ----------
    values : array_like
        Such as a Series of pandas.
    place : str
        What it is, for messages.

    Raises
    ------
    ValueError
        If values are masked.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{place}: expected a value in each row, got masked values: .filled(...) gives them one")
    nullable = getattr(getattr(values, "dtype", None), "numpy_dtype", None)  # of pandas' own types
    if nullable is not None:
        return _of_pandas(values, nullable)
    try:
        array = np.asarray(values)
        if array.dtype.kind in "Uf" and isinstance(values, (list, tuple)):
            # NumPy makes texts of the numbers among them, and rounds large integers among small ones
            objects = _of_objects(np.asarray(values, object))
            return array if array.dtype.kind == "f" and objects.dtype.kind == "O" else objects
    except ValueError:  # lists of different lengths
        array = np.empty(len(values), object)
        array[:] = values
    return _of_objects(array) if array.dtype.kind == "O" else array


def _of_pandas(values: Any, nullable: np.dtype[Any]) -> Array:  # noqa: ANN401
    if not values.isna().any():
        return np.asarray(values, nullable)
    if nullable.kind == "f":
        return np.asarray(values.to_numpy(nullable, na_value=np.nan))
    return np.asarray(values.to_numpy(object))  # floats would round integers


def _of_objects(array: Array) -> Array:
    """Return an array of integers or booleans as such; one of other objects as it is."""
    items = array.ravel().tolist()
    if items and all(isinstance(item, (bool, np.bool_)) for item in items):
        return array.astype(np.bool_)
    if not items or not all(map(_is_integer, items)):
        return array
    low, high = min(items), max(items)
    if low < _INTEGERS[0] or high >= _INTEGERS[1] or (low < 0 and high >= _UNSIGNED):
        return array
    return np.array([*map(int, items)], np.uint64 if low >= 0 else np.int64).reshape(array.shape)


def _is_integer(item: object) -> bool:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def numbers_of(values: Any, place: str) -> Array:  # noqa: ANN401
    """Return a column as an array; one of numbers beside missing values as float64, with NaN for these."""
    array = array_of(values, place)
    if array.dtype.kind != "O" or array.ndim != 1:
        return array
    items = array.tolist()
    is_there = [not is_missing(item) for item in items]
    if not any(is_there) or not all(_is_number(item) for item in _chosen(items, is_there)):
        return array
    floats = np.full(len(items), np.nan)
    floats[is_there] = [float(item) for item in _chosen(items, is_there)]
    return floats


def _chosen(items: Sequence[Any], which: Sequence[bool]) -> list[Any]:
    return [item for item, is_chosen in zip(items, which, strict=True) if is_chosen]


def _is_number(item: object) -> bool:
    return isinstance(item, (int, float, np.integer, np.floating)) and not isinstance(item, bool)


def coordinates_of(values: Any, place: str) -> Array:  # noqa: ANN401
    """Return coordinates as float64.

    Raises
    ------
    ValueError
        If they are not numbers.
    """
    array = numbers_of(values, place)
    if array.dtype.kind not in "biufOUT":  # times, and complex numbers, would become others
        raise ValueError(f"{place}: expected numbers, as it has coordinates, got {array.dtype}")
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"{place}: expected numbers, as it has coordinates: {exc}") from exc


def is_missing(item: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is None, NaN or pandas' NA."""
    return item is None or type(item).__name__ in ("NAType", "NaTType") or (isinstance(item, float) and item != item)  # noqa: PLR0124
