"""Which voxels are at positions given in voxels or as lengths. Voxel ``i`` covers ``[i, i + 1) * resolution``."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.format.grid import Box
from precomputed_fs.format.lengths import UNITS, Length, nanometres
from precomputed_fs.volume.indexing import AXES, triple

VOXEL = "voxel"
NOWHERE = np.iinfo(np.int64).min
"""The voxel of a position that is not a number; no volume reaches there."""

_LARGEST = float(1 << 62)
_ROWS = 1 << 16  # positions converted at once
_NEARLY_WHOLE = 1e-6  # relative; resolutions in `info` may be rounded


def _nanometres_of(unit: str) -> float | None:
    """Return the nanometres of a unit of positions, or None for voxels.

    Raises
    ------
    ValueError
        If there is no such unit.
    """
    if unit == VOXEL:
        return None
    if unit not in UNITS:
        raise ValueError(f"unit: expected {VOXEL!r}, or a length such as 'nm', 'um' or 'mm', got {unit!r}")
    return float(UNITS[unit])


def voxels_at(points: NDArray[Any], unit: str, resolution: Sequence[float]) -> NDArray[np.int64]:
    """Return the voxels that contain some points.

    Parameters
    ----------
    points : ndarray
        (n, 3) numbers, xyz.
    unit : str
        "voxel", or one of `UNITS`.
    resolution : sequence of float
        Nanometres of a voxel, xyz.

    Returns
    -------
    ndarray
        (n, 3); `NOWHERE` for what is not a number, or is too large.
    """
    nm = _nanometres_of(unit)
    voxels = np.empty(points.shape, np.int64)
    for first in range(0, len(points), _ROWS):
        rows = slice(first, first + _ROWS)
        for axis, step in enumerate(resolution):
            given = points[rows, axis]
            if nm is None and given.dtype.kind in "iu":
                _copy_integers(given, voxels[rows, axis])
            elif nm is None:
                _floor(given.astype(np.float64), 1.0, voxels[rows, axis])
            else:
                _floor(given.astype(np.float64) * nm, float(step), voxels[rows, axis])
    return voxels


def _copy_integers(given: NDArray[Any], out: NDArray[np.int64]) -> None:
    out[...] = given.astype(np.int64)
    if given.dtype.kind == "u":
        out[given > np.iinfo(np.int64).max] = NOWHERE


def _floor(positions: NDArray[np.float64], step: float, out: NDArray[np.int64]) -> None:
    """Compute the ``i`` with ``i * step <= position < (i + 1) * step``, whatever the quotient was rounded to."""
    with np.errstate(invalid="ignore", over="ignore"):
        index = np.floor(positions / step)
        index += (index + 1) * step <= positions
        index -= index * step > positions
        is_there = np.abs(index) < _LARGEST
    out[...] = np.where(is_there, index, 0)
    out[~is_there] = NOWHERE


def to_nanometres(points: NDArray[Any], resolution: Sequence[float]) -> NDArray[np.float64]:
    """Return positions in voxels as nanometres; an integer stands for the centre of its voxel."""
    centre = 0.5 if points.dtype.kind in "iu" else 0.0
    return (points.astype(np.float64) + centre) * np.asarray(resolution, np.float64)


def box_between(low: Sequence[Length], high: Sequence[Length], unit: str, resolution: Sequence[float]) -> Box:
    """Return the box of all voxels that a region touches: see `Scale.box`."""
    starts, stops = _corner("low", low, unit, resolution), _corner("high", high, unit, resolution)
    for axis, (first, last) in enumerate(zip(starts, stops, strict=True)):
        if last < first:
            shown = f"{AXES[axis]}: {low[axis]!r} and {high[axis]!r}"
            raise ValueError(f"high: expected at least as much as `low` along each axis, got {shown}")
    start = triple(_voxel(at, step) for at, step in zip(starts, _steps(unit, resolution), strict=True))
    stop = triple(
        max(_after(at, step), first + 1) for at, step, first in zip(stops, _steps(unit, resolution), start, strict=True)
    )
    return Box(start, stop)


def _steps(unit: str, resolution: Sequence[float]) -> Sequence[float]:
    return (1, 1, 1) if unit == VOXEL else resolution


def _corner(name: str, given: Sequence[Length] | Length, unit: str, resolution: Sequence[float]) -> list[float]:
    """Return a corner in nanometres, or in voxels if that is the unit."""
    nm = _nanometres_of(unit)
    items = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if len(items) != len(AXES):
        raise ValueError(f"{name}: expected 3 positions, xyz, got {given!r}")
    corner = []
    for item, step in zip(items, resolution, strict=True):
        try:
            length = nanometres(item)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
        if isinstance(item, str):
            at = length if nm is not None else length / step
        else:
            at = length if nm in (None, 1) else length * nm
        if not abs(at if nm is None else at / step) < _LARGEST:
            raise ValueError(f"{name}: expected finite positions, of voxels below 2**62, got {given!r}")
        corner.append(at)
    return corner


def _voxel(position: float, step: float) -> int:
    """Return the voxel that contains a position; exact for integers."""
    if isinstance(position, int) and isinstance(step, int):
        return position // step
    out = np.empty(1, np.int64)
    _floor(np.array([float(position)]), float(step), out)
    return int(out[0])


def _after(position: float, step: float) -> int:
    """Return the first voxel that begins at a position or after it."""
    voxel = _voxel(position, step)
    return voxel + (voxel * step < position)


def rescaled(box: Box, ratio: Sequence[float]) -> Box:
    """Return the box of all coarser voxels that a box touches.

    Parameters
    ----------
    ratio : sequence of float
        How many times as long a coarser voxel is, xyz.

    Examples
    --------
    >>> rescaled(Box((-3, 0, 5), (3, 4, 6)), (2, 2, 1))
    Box(start=(-2, 0, 5), stop=(2, 2, 6))
    """
    start = triple(_voxel(at, step) for at, step in zip(box.start, _whole(ratio), strict=True))
    stop = triple(_after(at, step) for at, step in zip(box.stop, _whole(ratio), strict=True))
    return Box(start, stop)


def _whole(ratio: Sequence[float]) -> Iterator[float]:
    for step in ratio:
        is_whole = round(step) and math.isclose(step, round(step), rel_tol=_NEARLY_WHOLE)
        yield round(step) if is_whole else step
