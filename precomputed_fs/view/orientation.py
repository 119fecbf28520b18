"""How slices lie on the screen: as in Neuroglancer's panels, so that a place is easily found there, or upright."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from precomputed_fs.volume import Scale, Volume
from precomputed_fs.volume.orientation import SIDES, checked_orientation, directions_of

Array = NDArray[Any]

AXES = "xyz"


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a slice lies on the screen: which axis runs across, which runs down, and whether they are reversed."""

    across: int
    down: int
    leftwards: bool = False
    upwards: bool = False

    @property
    def through(self) -> int:
        """The axis that is perpendicular to the slice."""
        return sum(range(len(AXES))) - self.across - self.down

    @property
    def edges(self) -> tuple[int, int]:
        """The axes of the slice's rows and columns, in this order."""
        return self.down, self.across

    def ends(self, start: Sequence[float], stop: Sequence[float]) -> tuple[float, float, float, float]:
        """Return the left, right, top and bottom coordinates of a slice between two corners."""
        left, right = start[self.across], stop[self.across]
        top, bottom = start[self.down], stop[self.down]
        return (
            *((right, left) if self.leftwards else (left, right)),
            *((bottom, top) if self.upwards else (top, bottom)),
        )

    def laid_out(self, plane: Array) -> Array:
        """Turn a plane (x, y, z, channel) such that it is (row, column, channel) on the screen."""
        rows: Array = plane.transpose(self.through, *self.edges, 3)[0]
        return rows[:: -1 if self.upwards else 1, :: -1 if self.leftwards else 1]


IN_NEUROGLANCER = (Orientation(0, 1), Orientation(0, 2), Orientation(2, 1, leftwards=True))
"""Neuroglancer's panels: xy, xz and yz."""


def orientations(source: Volume | Scale, orientation: str | None) -> tuple[Orientation, Orientation, Orientation]:
    """Return how the three slices of a volume are turned; by default as the volume's own `orientation` says."""
    volume = source.volume if isinstance(source, Scale) else source
    directions = directions_of(volume.info, checked_orientation(orientation) or volume.orientation)
    return IN_NEUROGLANCER if directions is None else _upright(directions)


def _upright(directions: str) -> tuple[Orientation, Orientation, Orientation]:
    """Return the axial, coronal and sagittal slice: right or anterior is on the right, anterior or superior at the top.

    Parameters
    ----------
    directions : str
        Where x, y and z point, such as "RAS".
    """
    (right, leftwards), (anterior, backwards), (superior, downwards) = (
        next((axis, letter == side[1]) for axis, letter in enumerate(directions) if letter in side) for side in SIDES
    )
    return (
        Orientation(right, anterior, leftwards=leftwards, upwards=not backwards),
        Orientation(right, superior, leftwards=leftwards, upwards=not downwards),
        Orientation(anterior, superior, leftwards=backwards, upwards=not downwards),
    )


def telling(views: Sequence[Orientation], scale: Scale) -> Sequence[Orientation]:
    """Return the slices worth showing: all, or the widest one if the others are lines."""
    if 1 not in scale.shape[:3]:
        return views
    return [max(views, key=lambda view: math.prod(scale.shape[axis] for axis in view.edges))]
