"""The array that tasks read from: a scale indexed from 0, cheap to pickle, with one accessor per process."""

import functools
import os
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.volume import Scale, ScaleArray

Array = NDArray[Any]

_SCALES_IN_PROCESS = 64


class Source(ScaleArray):
    """A scale as an array whose indices start at 0, for tasks in any process.

    All tasks of a scale in one process share one accessor and its connections.
    """

    def __init__(self, scale: Scale, pickled: bytes = b"", home: int | None = None, *, quiet: bool = True) -> None:
        super().__init__(scale, quiet=quiet)
        self._pickled = pickled
        self._home = home
        self._made_for = scale.shape

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_shape()
        if not self._pickled:
            self._pickled = pickle.dumps(self._scale)
        return _restored, (self._pickled, os.getpid() if self._home is None else self._home, self._quiet)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as in ScaleArray
        self._check_process()
        self._check_shape()
        items = index if isinstance(index, tuple) else (index,)
        return self._listed(items) if any(map(_is_list, items)) else super().__getitem__(index)

    def _listed(self, items: tuple[Any, ...]) -> Array:
        """Read with a list of indices along an axis: read the span from the least to the greatest, and pick."""
        gap = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
        rest = items[gap + 1 :]
        items = (*items[:gap], *[slice(None)] * (self.ndim - gap - len(rest)), *rest)
        at, *others = [i for i, item in enumerate(items) if _is_list(item)]
        if others:
            raise IndexError("expected a list of indices along one axis, got several: NumPy would pair them")
        wanted = _counted_from_0(np.asarray(items[at]), self.shape[at])
        span = slice(min(wanted, default=0), max(wanted, default=-1) + 1)
        found = super().__getitem__((*items[:at], span, *items[at + 1 :]))
        axis = at - sum(not isinstance(item, slice) for item in items[:at])
        return np.asarray(np.take(found, wanted - span.start, axis))

    @property
    def scale(self) -> Scale:
        """The scale.

        Raises
        ------
        ValueError
            If it is in the memory of another process.
        """
        self._check_process()
        return self._scale

    def _check_shape(self) -> None:
        """Refuse to read for an array that was made before the scale became smaller."""
        scale = self._scale
        if any(now < before for now, before in zip(scale.shape, self._made_for, strict=True)):
            raise ValueError(
                f"{scale.volume.url}: {scale.shown} had {self._made_for} voxels when the array was made, and has "
                f"{scale.shape} since it was resized: make the array again"
            )

    def _check_process(self) -> None:
        if self._home in (None, os.getpid()):
            return
        location = self._scale.volume.pyramid.location
        if any(link.protocol == "memory" for link in location.links):
            raise ValueError(
                f"{location.display()}: memory:// belongs to one process, and this is another one: compute with "
                'threads, dask.config.set(scheduler="threads")'
            )


def _is_list(item: object) -> bool:
    return isinstance(item, (list, np.ndarray)) and np.ndim(item) == 1


def _counted_from_0(indices: Array, size: int) -> Array:
    """Resolve negative indices, or a boolean mask, to indices from 0."""
    if indices.dtype == bool:
        if len(indices) != size:
            raise IndexError(f"expected {size} booleans, got {len(indices)}")
        return np.flatnonzero(indices)
    indices = indices.astype(int)
    outside = indices[(indices < -size) | (indices >= size)]
    if outside.size:
        raise IndexError(f"{outside[0]} is outside of {size} elements")
    return np.where(indices < 0, indices + size, indices)


@functools.lru_cache(maxsize=_SCALES_IN_PROCESS)
def _restored(pickled: bytes, home: int, quiet: bool) -> Source:
    return Source(pickle.loads(pickled), pickled, home, quiet=quiet)  # noqa: S301 - made by `Source.__reduce__`
