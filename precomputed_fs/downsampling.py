"""What a lower scale shows: blocks of 2 voxels along some axes, made one.

Averaging suits images; labels have no mean, so segmentations take the most frequent one of a block,
or simply the first.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.format.grid import Triple

_FACTOR = 2
_NEARLY_ISOTROPIC = math.sqrt(2)
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
    corners = np.sort(np.stack(_corners(array, factors)), axis=0)
    mode: NDArray[Any] = corners[0].copy()
    most = np.ones(mode.shape, np.uint8)
    run = np.ones(mode.shape, np.uint8)
    for before, here in itertools.pairwise(corners):
        run = np.where(here == before, run + np.uint8(1), np.uint8(1))
        longer = run > most
        mode[longer] = here[longer]
        most[longer] = run[longer]
    return mode


def _stride(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    return _corners(array, factors)[0]


METHODS: Mapping[str, Callable[[NDArray[Any], Triple], NDArray[Any]]] = {
    "average": _average,
    "mode": _mode,
    "stride": _stride,
}
"""The ways to make a block of voxels one."""
