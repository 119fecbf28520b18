"""Lazy arrays: what is read of another array, part by part, and converted or rearranged on the way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Converted:
    """An array whose parts are converted when they are read."""

    source: Any
    shape: tuple[int, ...]
    """That of `source`, and maybe an axis more, which `convert` adds."""

    dtype: np.dtype[Any]
    convert: Callable[[NDArray[Any]], NDArray[Any]]

    def __getitem__(self, cuts: tuple[slice, ...]) -> NDArray[Any]:
        axes = len(self.source.shape)
        part = self.convert(np.asarray(self.source[cuts[:axes]]))
        return part[..., cuts[axes]] if len(cuts) > axes else part


@dataclass(frozen=True, slots=True)
class Arranged:
    """An array whose axes are brought into another order; an axis that it lacks has length 1."""

    source: Any
    order: tuple[int | None, ...]
    """For each axis, that of `source`; None if it has none."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element."""
        dtype: np.dtype[Any] = np.dtype(self.source.dtype)
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, in the new order."""
        return tuple(1 if axis is None else self.source.shape[axis] for axis in self.order)

    def __getitem__(self, cuts: tuple[slice, ...]) -> NDArray[Any]:
        given: list[slice] = [slice(None)] * len(self.source.shape)
        for axis, cut in zip(self.order, cuts, strict=False):
            if axis is not None:
                given[axis] = cut
        part: NDArray[Any] = arranged(np.asarray(self.source[tuple(given)]), self.order)
        return part


@dataclass(frozen=True, slots=True)
class Taken:
    """One index of an array along one axis, which is left out."""

    source: Any
    axis: int
    index: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element."""
        dtype: np.dtype[Any] = np.dtype(self.source.dtype)
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the other axes."""
        return (*self.source.shape[: self.axis], *self.source.shape[self.axis + 1 :])

    def __getitem__(self, cuts: tuple[slice, ...]) -> NDArray[Any]:
        return np.asarray(self.source[(*cuts[: self.axis], self.index, *cuts[self.axis :])])


def as_float32(array: Any) -> Any:  # noqa: ANN401 - an array, or a lazy one
    """Convert floats of other widths, which the format does not have; return other arrays as they are."""
    dtype = np.dtype(array.dtype)
    if dtype.kind != "f" or dtype == np.float32:
        return array
    return Converted(array, tuple(array.shape), np.dtype(np.float32), lambda part: part.astype(np.float32))


def arranged(array: Any, order: tuple[int | None, ...]) -> Any:  # noqa: ANN401 - NumPy's or dask's
    """Bring the axes of an array into another order; None inserts an axis of length 1."""
    moved = array.transpose([axis for axis in order if axis is not None])
    return moved[tuple(np.newaxis if axis is None else slice(None) for axis in order)]
