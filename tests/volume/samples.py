"""A small volume with an offset, and ways to look at how it is stored."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from precomputed_fs import Volume, create_volume

OFFSET = (-5, 7, 100)
SIZE = (45, 33, 20)
CHUNK = (16, 8, 9)
BOUNDS = tuple((low, low + size) for low, size in zip(OFFSET, SIZE, strict=True))


def voxels(shape: tuple[int, ...] = (*SIZE, 2), dtype: str = "uint16") -> NDArray[Any]:
    rng = np.random.default_rng(0)
    return rng.integers(1, 200, shape).astype(dtype)


def make(url: Any, array: NDArray[Any] | None = None, **options: Any) -> Volume:
    given = {"resolution": (8, 8, 40), "voxel_offset": OFFSET, "chunk_size": CHUNK, "scales": 1, "overwrite": True}
    return create_volume(url, voxels() if array is None else array, **{**given, **options})


SMALL = (21, 17, 10)
SMALL_CHUNK = (8, 16, 4)


def small(shape: tuple[int, ...] = SMALL, dtype: str = "uint16") -> NDArray[Any]:
    return voxels(shape, dtype)


LABELS = np.repeat(np.array([10, 200, 10], np.uint8), 7).reshape(-1, 1, 1) * np.ones(SMALL, np.uint8)
MASK = small() > 100


def store(source: Any, url: Any = "memory://tests/volume/stored", **options: Any) -> Volume:
    """Store an array of any kind, without an offset."""
    given = {"resolution": (8, 8, 8), "chunk_size": SMALL_CHUNK, "scales": 1, "overwrite": True}
    return create_volume(url, source, **{**given, **options})


def chunk_files(folder: Path) -> list[Path]:
    return sorted((folder / "8_8_40").iterdir())


ONE_CHUNK = voxels((*CHUNK, 2))
"""Fills one chunk, where requests are slow."""


def requests(server: Any) -> list[tuple[str, str]]:
    return [(entry.method, entry.path) for entry in server.log.entries()]


class Counting:
    """A lazy array, like a data set in a file, which notes the size of the largest part that was read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.largest = 0

    def __getitem__(self, index: Any) -> NDArray[Any]:
        part: NDArray[Any] = self._array[index]
        self.largest = max(self.largest, part.size)
        return part


@st.composite
def slices(draw: st.DrawFn, low: int, high: int) -> slice:
    """Draw slices in bounds, in absolute coordinates."""
    start, stop = sorted(draw(st.tuples(*[st.integers(low, high)] * 2)))
    step = draw(st.none() | st.integers(1, high - low + 2))
    return slice(
        None if start == low and draw(st.booleans()) else start,
        None if stop == high and draw(st.booleans()) else stop,
        step,
    )


def absolute_index() -> st.SearchStrategy[Any]:
    axes = [st.integers(low, high - 1) | slices(low, high) for low, high in BOUNDS]
    whole = st.tuples(*axes)
    return whole | whole.flatmap(lambda index: st.integers(0, 3).map(lambda n: index[:n])) | st.just(...)


def shifted(index: Any) -> Any:
    """Turn an index in absolute coordinates into one that counts from 0."""

    def item(given: Any, low: int) -> Any:
        if isinstance(given, slice):
            start = None if given.start is None else given.start - low
            return slice(start, None if given.stop is None else given.stop - low, given.step)
        return given - low

    return tuple(map(item, index, OFFSET)) if isinstance(index, tuple) else index
