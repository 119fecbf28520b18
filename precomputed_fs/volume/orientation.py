"""Which way pictures of a volume are turned, and where its axes point in a body."""

import contextlib
import itertools

import numpy as np

from precomputed_fs.errors import InvalidInfoError, did_you_mean, shown
from precomputed_fs.format.info import Info
from precomputed_fs.volume.placement import MEMBER, Matrix, Placement

NEUROGLANCER = "neuroglancer"
"""As in Neuroglancer's panels: y and z grow downwards."""

ANATOMICAL = "anatomical"
"""Upright, by the directions of the volume's axes."""

SIDES = ("RL", "AP", "SI")
"""Opposite directions: right and left, anterior and posterior, superior and inferior."""


def checked_orientation(orientation: str | None) -> str | None:
    """Check an option `orientation`, and return it.

    Raises
    ------
    ValueError
        If it is neither "neuroglancer", "anatomical", nor where three axes point, such as "RAS".
    """
    if orientation in (None, NEUROGLANCER, ANATOMICAL) or _are_directions(orientation):
        return orientation
    directions = str(orientation).upper()
    known = [NEUROGLANCER, ANATOMICAL, *([directions] if _are_directions(directions) else ())]
    message = (
        f"orientation: expected {NEUROGLANCER!r}, {ANATOMICAL!r}, or where x, y and z point, such as 'RAS' or 'LPS', "
        f"got {shown(orientation)}{did_you_mean(orientation, known)}"
    )
    raise ValueError(message)


def directions_of(info: Info, orientation: str) -> str | None:
    """Return where x, y and z point, as letters; None if pictures are to lie as in Neuroglancer.

    Without an affine in `info`, "anatomical" takes them to point right, anterior and superior.

    Examples
    --------
    >>> info = Info.parse({"data_type": "uint8", "num_channels": 1, "scales": [
    ...     {"key": "1", "size": [1, 1, 1], "resolution": [1, 1, 1], "chunk_sizes": [[1, 1, 1]], "encoding": "raw"}]})
    >>> directions_of(info, "anatomical"), directions_of(info, "LPI"), directions_of(info, "neuroglancer")
    ('RAS', 'LPI', None)
    """
    if orientation == NEUROGLANCER:
        return None
    if orientation != ANATOMICAL:
        return orientation
    with contextlib.suppress(InvalidInfoError):  # somebody else may mean something else by the member
        return _directions_by(Placement.parse(info.get(MEMBER), "info").affine)
    return "".join(side[0] for side in SIDES)


def _directions_by(affine: Matrix) -> str:
    """Return where an affine lets the axes point: of all ways to name them, the one with the smallest angles."""
    count = len(SIDES)
    steps = affine[:count, :count]
    steps = steps / np.maximum(np.linalg.norm(steps, axis=0), np.finfo(float).tiny)
    sides = max(itertools.permutations(range(count)), key=lambda order: np.abs(steps[order, range(count)]).sum())
    return "".join(SIDES[side][int(steps[side, axis] < 0)] for axis, side in enumerate(sides))


def _are_directions(orientation: object) -> bool:
    """Whether these are three letters, one for each pair of opposite directions."""
    if not isinstance(orientation, str) or len(orientation) != len(SIDES):
        return False
    return all(sum(letter in side for letter in orientation) == 1 for side in SIDES)
