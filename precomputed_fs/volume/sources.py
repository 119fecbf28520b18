"""Which values can be written to a scale: arrays, whatever converts to one, and whatever can be sliced like one."""

import contextlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from precomputed_fs.volume.indexing import AXES, Selection
from precomputed_fs.volume.lazy import Converted
from precomputed_fs.volume.nifti import voxels_of

_PLAIN_TYPES = (bool, int, float)


def as_source(value: ArrayLike) -> Any:  # noqa: ANN401 - an array, or what can be sliced like one
    """Return an array, or a lazy one: an object with a shape and a dtype of NumPy's that can be sliced.

    Raises
    ------
    TypeError
        If the value does not convert to an array of numbers.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("an array with a mask: fill what is masked first, with array.filled(0)")
    source = _from_nibabel(from_xarray(value))
    if not _is_sliceable(source):
        source = _loaded(source)
    return fields_to_channels(source)


def _loaded(source: Any) -> NDArray[Any]:  # noqa: ANN401
    """Convert a list, or another library's tensor, to an array."""
    if getattr(source, "__array__", None) is None:
        if hasattr(source, "__dlpack__"):
            source = np.from_dlpack(source)
        elif callable(getattr(source, "numpy", None)):
            source = source.numpy()
    array = np.asarray(source)
    if array.dtype.kind in "OUS":
        message = f"{type(source).__name__} cannot be cast to an array of numbers"
        if array.ndim:
            message += f": its type is {array.dtype}; pass np.asarray(array, 'float32'), if that is meant"
        raise TypeError(message)
    return array


def _from_nibabel(source: Any) -> Any:  # noqa: ANN401
    """Take the voxels of a nibabel image or of its ``dataobj``, scaled as the header says."""
    data = getattr(source, "dataobj", source)
    return voxels_of(data) if data is not source or getattr(data, "is_proxy", False) else source


def fields_to_channels(source: Any) -> Any:  # noqa: ANN401
    """Turn the fields of a structured type, such as NIfTI's RGB, into channels."""
    dtype = np.dtype(source.dtype)
    if not dtype.names:
        return source
    kind = dtype[0]
    if any(dtype[name] != kind for name in dtype.names) or kind.shape or kind.names:
        one = f"array[{dtype.names[0]!r}]"
        raise TypeError(f"expected fields of one type, to be channels, got {dtype}: pass one of them, such as {one}")
    from numpy.lib.recfunctions import structured_to_unstructured  # noqa: PLC0415 - imports numpy.ma

    count = len(dtype.names)
    if is_dask(source):
        return source.map_blocks(
            structured_to_unstructured, dtype=kind, new_axis=source.ndim, chunks=(*source.chunks, (count,))
        )
    if isinstance(source, np.ndarray):
        return structured_to_unstructured(source)
    return Converted(source, (*source.shape, count), kind, structured_to_unstructured)


def from_xarray(value: Any) -> Any:  # noqa: ANN401
    """Transpose an xarray array to x, y, z, rest, and unwrap a dask array in it; return other values as they are."""
    if not _is_xarray(value):
        return value
    order = _storage_order(value)
    if order != [*value.dims]:
        value = value.transpose(*order)
    return value if value.chunks is None else value.data


def _is_xarray(value: object) -> bool:
    """Whether a value is an xarray array; does not import xarray."""
    kinds = (getattr(sys.modules.get("xarray"), name, ()) for name in ("DataArray", "Variable"))
    return isinstance(value, tuple(kinds))


def _storage_order(array: Any) -> list[Any]:  # noqa: ANN401 - xarray's DataArray or Variable
    return sorted(array.dims, key=lambda name: (*AXES, str(name).lower()).index(str(name).lower()))


def is_dask(value: object) -> bool:
    """Whether a value is a dask array; does not import dask."""
    array_module = sys.modules.get("dask.array")
    return isinstance(value, getattr(array_module, "Array", ()))


def _is_sliceable(value: Any) -> bool:  # noqa: ANN401
    """Whether parts of a value can be read by slicing; a dtype that NumPy does not know, such as torch's, cannot."""
    if not all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    try:
        return bool(np.dtype(value.dtype) != np.object_)
    except TypeError:
        return False


# --------------------------------------------------------------------------------------------------------------- parts


Parts = Callable[[tuple[slice, ...]], NDArray[Any]]
"""Returns a part of a value as (x, y, z, channel), of the scale's type; its slices count from the box's first voxel."""


def parts_of(value: ArrayLike, selection: Selection, dtype: np.dtype[Any]) -> Parts:
    """Check that a value fits a selection, and return what reads its parts.

    Raises
    ------
    TypeError
        If its type cannot be cast to `dtype` without loss.
    ValueError
        If it has another shape than the selection, and cannot be broadcast to it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN_TYPES):
        value = cast_scalar(value, dtype)
    source = as_source(value)
    check_cast(np.dtype(source.dtype), dtype, value)
    if isinstance(source, np.ndarray) or len(source.shape) < len(AXES):
        return _parts_of_array(np.asarray(source), selection, dtype)
    shape, axes = selection.shape, len(source.shape)
    if selection.reversed_axes:
        raise ValueError("an array that is read part by part is not turned around: write it without negative steps")
    if tuple(source.shape) != shape[:axes] or math.prod(shape[axes:]) != 1 or 0 in selection.final:
        raise ValueError(f"expected an array of shape {shape}, got {tuple(source.shape)}")

    def read(part: tuple[slice, ...]) -> NDArray[Any]:
        cuts = tuple(slice(*cut.indices(size)) for cut, size in zip(part, shape, strict=True))
        sizes = tuple(cut.stop - cut.start for cut in cuts)
        given = np.asarray(source[cuts[:axes]])
        if given.shape != sizes[:axes]:
            raise ValueError(f"expected a part of shape {sizes[:axes]} of the array, got {given.shape}")
        check_cast(given.dtype, dtype, value)
        return given.reshape(sizes).astype(dtype, copy=False)

    return read


def _parts_of_array(array: NDArray[Any], selection: Selection, dtype: np.dtype[Any]) -> Parts:
    """Broadcast an array to a selection, as NumPy does; axes of length 1 may be left out, as that of one channel is."""
    shape = selection.shape
    dropped = tuple(axis for axis, item in enumerate(selection.final) if item == 0)
    kept = tuple(size for axis, size in enumerate(shape) if axis not in dropped)
    readings = [array]
    if array.ndim < len(kept) and array.shape == tuple(size for size in kept if size != 1):
        readings = [array.reshape(kept)]
    elif array.ndim == len(kept) - 1 and kept[-1] == 1:
        readings = [array[..., np.newaxis], array]
    for reading in readings:
        with contextlib.suppress(ValueError):
            whole = np.expand_dims(np.broadcast_to(reading, kept), dropped)
            whole = np.flip(whole, tuple(selection.reversed_axes))
            return lambda part: whole[part].astype(dtype, copy=False)
    raise ValueError(f"expected an array of shape {kept}, got {array.shape}")


def check_cast(given: np.dtype[Any], dtype: np.dtype[Any], source: object) -> None:
    """Check that values of one type can be stored as another.

    Raises
    ------
    TypeError
        If that could lose something; the message gives the call that converts `source`.
    """
    if not np.can_cast(given, dtype, "safe"):
        call = f"{expression_for(source, 'astype')}.astype({str(dtype)!r})"
        raise TypeError(f"{given} cannot be cast to {dtype} without loss; if that is meant, pass {call}")


def expression_for(source: object, method: str) -> str:
    """Return code that makes a value called ``array`` an object with a method such as ``reshape``; for messages."""
    if hasattr(source, method):
        return "array"
    if _is_xarray(source):
        return f"array.transpose{tuple(_storage_order(source))}.values"
    if _is_sliceable(source) and not hasattr(source, "__array__"):
        return "array[...]"
    return "np.asarray(array.dataobj)" if hasattr(source, "dataobj") else "np.asarray(array)"


def cast_scalar(value: float, dtype: np.dtype[Any]) -> np.generic:
    """Convert a plain number to a voxel.

    Raises
    ------
    TypeError
        If the type cannot hold it.
    """
    with contextlib.suppress(OverflowError, ValueError), np.errstate(over="ignore"):
        voxel: np.generic = dtype.type(value)
        is_rounded = dtype.kind == "f" and not isinstance(value, int) and np.isinf(voxel) == math.isinf(value)
        if is_rounded or voxel.item() == value:
            return voxel
    raise TypeError(f"{value!r} does not fit in {dtype}{_range_of(dtype)}")


def _range_of(dtype: np.dtype[Any]) -> str:
    return f" ({np.iinfo(dtype).min} to {np.iinfo(dtype).max})" if dtype.kind in "iu" else ""
