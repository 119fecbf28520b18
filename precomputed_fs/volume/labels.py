"""Whether an array is an image or labels, whose average would mean nothing; and as which integers labels are stored."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.codecs import ENCODINGS
from precomputed_fs.format.info import Info
from precomputed_fs.volume.lazy import Converted
from precomputed_fs.volume.scale_array import ScaleArray

TYPES = ("image", "segmentation")

_LABEL_BYTES = 4  # integers this wide are labels rather than measured
_MAX_LABELS = 32  # distinct values, up to which integers look like labels; images of 8 bits have more
_VOXELS_PER_LABEL = 8  # at least, on average
_EQUAL_NEIGHBOURS = 0.65  # fraction among voxels of labels, at least; in images 0.02 to 0.25, twice enlarged 0.6
_MIN_NEIGHBOURS = 256
_LABEL_TYPES = ("uint32", "uint64", "int32", "uint16", "uint8")
_BYTES_AT_ONCE = 16 << 20
_PLANES_OF_BLOCK = 8  # in which neighbours are compared


def type_for(array: Any, encoding: str) -> str:  # noqa: ANN401 - an array, or what can be sliced like one
    """Choose the ``type`` of a pyramid made from an array: "image" or "segmentation", as a mask is."""
    row, dtype = ENCODINGS.get(encoding.lower()), np.dtype(array.dtype)
    if row is not None and row.layer_type != "image":
        return row.layer_type
    if isinstance(array, ScaleArray) and (known := array.scale.volume.info.type) in TYPES:
        return known
    is_mask = dtype == np.bool_
    return "segmentation" if is_mask or (dtype.kind in "iu" and dtype.itemsize >= _LABEL_BYTES) else "image"


def is_for_labels(kind: str | None, encoding: str) -> bool:
    """Whether the caller has chosen labels, by the type or the encoding."""
    row = ENCODINGS.get(encoding.lower())
    return (kind or "").lower() == "segmentation" or (row is not None and row.layer_type == "segmentation")


def storable_labels(array: Any, encoding: str) -> Any:  # noqa: ANN401 - an array, or a lazy one
    """Convert labels of a file to integers that an encoding can store, if they are whole numbers; reads all of them.

    Programs write labels as int64 or float32, too. Other arrays are the caller's to convert.

    Raises
    ------
    ValueError
        If some are not whole, or no type holds all of them.
    """
    row = ENCODINGS.get(encoding.lower(), ENCODINGS["raw"])
    allowed = [name for name in row.data_types if np.dtype(name).kind in "iu" and name in ENCODINGS["raw"].data_types]
    if np.dtype(array.dtype).name in allowed:
        return array
    low, high = _whole_range(array)
    for name in (name for name in _LABEL_TYPES if name in allowed):
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return Converted(array, tuple(array.shape), np.dtype(name), lambda part: part.astype(name))  # noqa: B023
    raise ValueError(
        f"the encoding {encoding} has integers of {', '.join(allowed)}, and labels are from {low} to {high}"
    )


def _whole_range(array: Any) -> tuple[int, int]:  # noqa: ANN401
    """Return the smallest and the largest of some whole numbers, and 0."""
    low = high = 0
    planes = max(1, _BYTES_AT_ONCE // max(1, math.prod(array.shape[:2]) * np.dtype(array.dtype).itemsize))
    for z in range(0, array.shape[2], planes):
        part = np.asarray(array[:, :, z : z + planes])
        if part.dtype.kind == "f" and not (is_whole := np.isfinite(part) & (part == np.trunc(part))).all():
            found = part[~is_whole].flat[0]
            raise ValueError(f'labels are whole numbers, got {found}: pass type="image", or round them first')
        low, high = min(low, int(part.min())), max(high, int(part.max()))
    return low, high


def may_be_labels(array: Any, info: Info) -> bool:  # noqa: ANN401
    """Whether an array that `type_for` took for an image may be labels: one channel of integers, not of a scale."""
    is_known = isinstance(array, ScaleArray)
    return info.type == "image" and info.num_channels == 1 and np.dtype(info.data_type).kind in "iu" and not is_known


class LabelDetector:
    """Tells labels from an image of 8 or 16 bits by the number of distinct values, and by equal neighbours."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._found: NDArray[Any] = np.empty(0, dtype)
        self._neighbours = np.zeros((2, 2, 1 << 8 * dtype.itemsize), np.int64)
        """Along x and y, for each value: the number of neighbours that are not 0, and of equal ones."""

    def add(self, block: NDArray[Any]) -> None:
        """Look at the values of all voxels, until there are too many, and at the neighbours in some planes."""
        for plane in np.moveaxis(block, 2, 0):
            if len(self._found) > _MAX_LABELS:
                break
            self._found = np.union1d(self._found, plane)
        planes = block[:, :, :: max(1, block.shape[2] // _PLANES_OF_BLOCK), 0].view(f"u{block.itemsize}")
        count = self._neighbours.shape[2]
        for axis, along in enumerate((planes, planes.swapaxes(0, 1))):
            first, second = along[:-1], along[1:]
            for which, chosen in enumerate((second != 0, second == first)):
                self._neighbours[axis, which] += np.bincount(first[chosen], minlength=count)

    def likeness_to_labels(self, of: int) -> str:
        """Say why that many voxels look like labels; empty if they look like an image."""
        if 1 < len(self._found) <= min(_MAX_LABELS, of // _VOXELS_PER_LABEL):
            return f"have only {len(self._found)} distinct values, as labels have"
        most_frequent = 1 + int(self._neighbours[0, 1, 1:].argmax())  # may be padding, or saturated
        some, equal = np.delete(self._neighbours, [0, most_frequent], axis=2).sum(axis=2).T
        if (some >= _MIN_NEIGHBOURS).all() and (equal >= _EQUAL_NEIGHBOURS * some).all():
            return "mostly equal their neighbours, as labels do"
        return ""
