"""Where chunks are: the names that a chunk's bytes may be stored under.

Coordinates are in voxels, half-open, in the order ``(xmin, xmax, ymin, ymax, zmin, zmax)``; they
include the scale's ``voxel_offset`` and so may be negative. The specification names a chunk
``{key}/{xmin}-{xmax}_{ymin}-{ymax}_{zmin}-{zmax}`` (flat); neuroglancer-scripts writes
``{key}/{xmin}-{xmax}/{ymin}-{ymax}/{zmin}-{zmax}`` (sub-directories) unless told otherwise.
"""

import operator
import re
from collections.abc import Iterable

ChunkCoords = tuple[int, int, int, int, int, int]
"""``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open."""

_COORDS_LENGTH = 6
_FLAT_NAME = re.compile(r"-?\d+--?\d+_-?\d+--?\d+_-?\d+--?\d+")
_SUBDIRECTORY_NAME = re.compile(r"-?\d+--?\d+")


def chunk_name(coords: ChunkCoords, *, flat: bool = True) -> str:
    """Name a chunk below its scale's key.

    Parameters
    ----------
    coords : tuple of int
        ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels.
    flat : bool
        The specification's layout, or neuroglancer-scripts' sub-directories.

    Examples
    --------
    >>> chunk_name((0, 64, -64, 0, 128, 189))
    '0-64_-64-0_128-189'
    >>> chunk_name((0, 64, -64, 0, 128, 189), flat=False)
    '0-64/-64-0/128-189'
    """
    x0, x1, y0, y1, z0, z1 = coords
    separator = "_" if flat else "/"
    return separator.join((f"{x0}-{x1}", f"{y0}-{y1}", f"{z0}-{z1}"))


def chunk_coords(coords: Iterable[int]) -> ChunkCoords:
    """Check a chunk's coordinates.

    Parameters
    ----------
    coords : iterable of int
        ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels; NumPy integers are accepted.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If these are not six integers, or an axis is empty or reversed.

    Examples
    --------
    >>> chunk_coords([0, 64, 0, 64, 64, 0])
    Traceback (most recent call last):
        ...
    ValueError: chunk_coords: expected zmin < zmax, got 64 and 0 in (0, 64, 0, 64, 64, 0)
    """
    given = tuple(coords)
    try:
        checked = tuple(operator.index(value) for value in given)
    except TypeError as exc:
        message = f"chunk_coords: expected integers, got {given}"
        raise ValueError(message) from exc
    if len(checked) != _COORDS_LENGTH:
        message = f"chunk_coords: expected 6 integers (xmin, xmax, ymin, ymax, zmin, zmax), got {given}"
        raise ValueError(message)
    for axis, low, high in zip("xyz", checked[::2], checked[1::2], strict=True):
        if low >= high:
            message = f"chunk_coords: expected {axis}min < {axis}max, got {low} and {high} in {checked}"
            raise ValueError(message)
    x0, x1, y0, y1, z0, z1 = checked
    return x0, x1, y0, y1, z0, z1


def layout_of(name: str) -> bool | None:
    """Tell the layout from the name of an entry directly below a scale's key.

    Returns
    -------
    bool or None
        True for a chunk of the flat layout (without a compression's suffix), False for a directory
        of the sub-directory layout, None for anything else.

    Examples
    --------
    >>> layout_of("0-64_-64-0_128-189"), layout_of("0-64"), layout_of("0.shard")
    (True, False, None)
    """
    if _FLAT_NAME.fullmatch(name):
        return True
    if _SUBDIRECTORY_NAME.fullmatch(name):
        return False
    return None
