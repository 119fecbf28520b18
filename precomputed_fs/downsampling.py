"""What a lower scale shows: blocks of 2 voxels along some axes, made one.

Averaging suits images; labels have no mean, so segmentations take the most frequent one of a block,
or simply the first.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.format.grid import Triple

_FACTOR = 2
_NEARLY_ISOTROPIC = math.sqrt(2)
_AT_ONCE = 1 << 17  # voxels whose mode is found at once: the sorted labels stay in the processor's cache
_LONGEST = 8  # bytes of an integer; sums of these have no longer type


def factors_for(size: Triple, resolution: tuple[float, float, float]) -> Triple:
    """Choose the axes to halve, such that voxels become more and more isotropic.

    An axis is halved if it has more than one voxel, and these are less than 1.4 times as long as
    the shortest ones.

    Parameters
    ----------
    size : tuple of int
        Voxels, xyz.
    resolution : tuple of float
        Nanometres, xyz.

    Examples
    --------
    >>> factors_for((6446, 6643, 8090), (4, 4, 40))
    (2, 2, 1)
    """
    shortest = min((step for step, voxels in zip(resolution, size, strict=True) if voxels > 1), default=math.inf)
    x, y, z = (
        _FACTOR if voxels > 1 and step < shortest * _NEARLY_ISOTROPIC else 1
        for step, voxels in zip(resolution, size, strict=True)
    )
    return x, y, z


def downsample(array: NDArray[Any], factors: Triple, method: str) -> NDArray[Any]:
    """Make each block of voxels one.

    Parameters
    ----------
    array : ndarray
        (x, y, z, channel). Where a size is no multiple of its factor, the last block is of the voxels
        that there are.
    factors : tuple of int
        1 or 2 for each of x, y and z.
    method : {"average", "mode", "stride"}
        The mean, rounded half up; the most frequent value, of several the smallest; the first one.

    Returns
    -------
    ndarray
        (x, y, z, channel), of the same type.
    """
    padding = [(0, -size % factor) for size, factor in zip(array.shape, (*factors, 1), strict=True)]
    if method != "stride" and any(after for _, after in padding):
        array = np.pad(array, padding, mode="edge")
    return METHODS[method](array, factors)


def _corners(array: NDArray[Any], factors: Triple) -> list[NDArray[Any]]:
    """Return a view for each voxel of a block, of that voxel in all blocks."""
    starts = itertools.product(*map(range, factors))
    return [array[x :: factors[0], y :: factors[1], z :: factors[2]] for x, y, z in starts]


def _average(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    corners = _corners(array, factors)
    dtype, count = array.dtype, len(corners)
    if dtype.kind == "f":
        return np.asarray(sum(corner.astype(np.float64) for corner in corners) / count).astype(dtype)
    if dtype.itemsize == _LONGEST:  # sum(a) / n is sum(a // n) + sum(a % n) / n, which fits
        whole = sum(corner // count for corner in corners)
        rest = sum(corner % count for corner in corners)
        return np.asarray(whole + (rest + count // 2) // count).astype(dtype)
    wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
    total = np.full(corners[0].shape, count // 2, wide, order="F")
    for corner in corners:
        total += corner
    return (total // count).astype(dtype)


def _mode(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    thickness = factors[2] * max(1, _AT_ONCE // math.prod(array.shape[:2]))
    slabs = (array[:, :, z : z + thickness] for z in range(0, array.shape[2], thickness))
    return np.concatenate([_mode_of_slab(slab, factors) for slab in slabs], axis=2)


def _mode_of_slab(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    """Sort the voxels of each block, and find the first of the longest runs."""
    corners = _corners(array, factors)
    ranked = [*np.sort(np.stack(corners), axis=0)] if array.dtype.kind == "f" else _ranked(corners)
    mode = ranked[0].copy(order="K")
    longest = np.ones(mode.shape, np.uint8, order="F")
    run = np.ones(mode.shape, np.uint8, order="F")
    for before, here in itertools.pairwise(ranked):
        run *= here == before
        run += 1
        np.copyto(mode, here, where=run > longest)
        np.maximum(longest, run, out=longest)
    return mode


def _ranked(corners: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Sort integers across arrays: the first result has the smallest of each position, and so on.

    Comparing whole arrays takes a fifth of the time that `np.sort` takes for many short rows. It is not
    for floats: `np.minimum` and `np.maximum` both prefer NaN, so other values would be lost.
    """
    ranked = [np.array(corner, order="F") for corner in corners]
    spare = np.empty_like(ranked[0])
    for low, high in _sorting_network(len(ranked)):
        np.minimum(ranked[low], ranked[high], out=spare)
        np.maximum(ranked[low], ranked[high], out=ranked[high])
        ranked[low], spare = spare, ranked[low]
    return ranked


@functools.cache
def _sorting_network(count: int) -> list[tuple[int, int]]:
    """Return the pairs to compare and exchange in turn: Batcher's odd-even mergesort, 19 pairs for 8 values."""
    pairs = []
    steps = [1 << exponent for exponent in range((count - 1).bit_length())]
    for merged in steps:
        for step in [step for step in reversed(steps) if step <= merged]:
            lows = range(step % merged, count - step)
            pairs += [
                (low, low + step)
                for low in lows
                if (low - step % merged) // step % 2 == 0 and low // (2 * merged) == (low + step) // (2 * merged)
            ]
    return pairs


def _stride(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    return _corners(array, factors)[0]


METHODS: Mapping[str, Callable[[NDArray[Any], Triple], NDArray[Any]]] = {
    "average": _average,
    "mode": _mode,
    "stride": _stride,
}
"""The ways to make a block of voxels one."""
