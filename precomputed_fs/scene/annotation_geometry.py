"""Where annotations are: the box around each of them, and which of them meet a box."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import shown
from precomputed_fs.format.annotation import Ragged
from precomputed_fs.format.grid import Box

Array = NDArray[Any]


def corners_of(given: Any, axes: Sequence[str], name: str) -> tuple[Array, Array]:  # noqa: ANN401
    """Return the two corners of a box, float64, that was given as a pair of sequences or a `Box`.

    Parameters
    ----------
    given : Box or pair of sequences
    axes : sequence of str
        The names of the dimensions.
    name : str
        The name of the argument, for messages.

    Raises
    ------
    ValueError
        If it is not two corners.
    """
    corners = [given.start, given.stop] if isinstance(given, Box) else given
    try:
        low, high = (np.array([*corner], np.float64) for corner in corners)
    except (TypeError, ValueError):
        low = high = np.zeros(0)
    if not low.shape == high.shape == (len(axes),) or np.isnan([low, high]).any():
        what = f"two corners of {len(axes)} numbers ({', '.join(axes)})"
        raise ValueError(f"{name}: expected {what}, got {shown(given)}")
    return low, high


def bounds_of(kind: str, geometry: Array | Ragged) -> tuple[Array, Array]:
    """Return the lower and the upper corner of the box around each annotation.

    Parameters
    ----------
    kind : str
        The type of the annotations.
    geometry : array or Ragged
        As in `Block`.

    Returns
    -------
    array, array
        Each (n, rank) float64. Those of polylines without points are reversed and infinite.
    """
    if isinstance(geometry, Ragged):
        points = geometry.values.astype(np.float64)
        lows = np.full((len(geometry.lengths), points.shape[1]), np.inf)
        highs = -lows
        owners = _owners(geometry)
        np.minimum.at(lows, owners, points)
        np.maximum.at(highs, owners, points)
        return lows, highs
    exact = geometry.astype(np.float64)
    if kind == "ellipsoid":
        radii = np.abs(exact[:, 1])
        return exact[:, 0] - radii, exact[:, 0] + radii
    return exact.min(axis=1), exact.max(axis=1)


def meets(kind: str, geometry: Array | Ragged, low: Array, high: Array) -> Array:
    """Tell which annotations have a point in a box, or each in one of its own.

    A line or polyline meets it with any point between its ends, a box or ellipsoid with any point on or in it.

    Parameters
    ----------
    kind : str
    geometry : array or Ragged
        As in `Block`.
    low, high : array
        (rank,) or (n, rank): the corners of a box, which belong to it.

    Returns
    -------
    array
        (n,) of booleans.
    """
    if isinstance(geometry, Ragged):
        return _meet_of_polylines(geometry, low, high)
    exact = geometry.astype(np.float64)
    if kind == "line":
        return _meet_of_segments(exact[:, 0], exact[:, 1], low, high)
    if kind == "ellipsoid":
        return _meet_of_ellipsoids(exact[:, 0], np.abs(exact[:, 1]), low, high)
    found: Array = np.all((exact.min(axis=1) <= high) & (exact.max(axis=1) >= low), axis=1)
    return found


def _meet_of_segments(begin: Array, end: Array, low: Array, high: Array) -> Array:
    """Clip each segment to the box's range along one axis after the other."""
    step = end - begin
    is_flat = step == 0
    step[is_flat] = 1
    with np.errstate(over="ignore", invalid="ignore"):
        enter, leave = (low - begin) / step, (high - begin) / step
    enter, leave = np.minimum(enter, leave), np.maximum(enter, leave)
    is_beside = is_flat & ((begin < low) | (begin > high))
    enter[is_flat], leave[is_flat] = 0, 1
    first, last = np.maximum(enter.max(axis=1), 0), np.minimum(leave.min(axis=1), 1)
    found: Array = (first <= last) & ~is_beside.any(axis=1)
    # the ends themselves are not subject to rounding
    return found | _are_inside(begin, low, high) | _are_inside(end, low, high)


def _meet_of_polylines(lines: Ragged, low: Array, high: Array) -> Array:
    owners = _owners(lines)
    following = np.minimum(np.arange(1, len(owners) + 1), lines.starts[1:][owners] - 1)  # of the last point: itself
    points = lines.values.astype(np.float64)
    each_low, each_high = (bound if bound.ndim == 1 else bound[owners] for bound in (low, high))
    found = np.zeros(len(lines.lengths), bool)
    found[owners[_meet_of_segments(points, points[following], each_low, each_high)]] = True
    return found


def _meet_of_ellipsoids(centre: Array, radii: Array, low: Array, high: Array) -> Array:
    """Compare the nearest point of the box with the surface, where the radii are the units of the axes."""
    away = np.abs(np.clip(centre, low, high) - centre)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(away == 0, 0, away / radii)
    found: Array = (scaled**2).sum(axis=1) <= 1
    return found


def _are_inside(points: Array, low: Array, high: Array) -> Array:
    found: Array = np.all((points >= low) & (points <= high), axis=1)
    return found


def _owners(lines: Ragged) -> Array:
    """Return for each point the number of its polyline."""
    return np.repeat(np.arange(len(lines.lengths)), lines.lengths)
