"""The geometry that files of meshes hold: vertices and triangles as arrays, checked and joined."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from precomputed_fs.errors import CorruptDataError

Vertices = npt.NDArray[np.float32]
Faces = npt.NDArray[np.uint32]

_MOST_VERTICES = (1 << 32) - 1


class Geometry(NamedTuple):
    """A mesh as arrays."""

    vertices: Vertices
    """``[n, 3]``: xyz."""

    faces: Faces
    """``[m, 3]``: the vertices of each triangle."""


def checked(geometry: Geometry) -> Geometry:
    """Check that vertices are finite and triangles have vertices that are there.

    Raises
    ------
    CorruptDataError
        If not.
    """
    if not np.isfinite(geometry.vertices).all():
        raise CorruptDataError("a vertex has a coordinate that is not a finite number")
    largest = int(geometry.faces.max(initial=0))
    if len(geometry.faces) and largest >= len(geometry.vertices):
        raise CorruptDataError(f"a triangle has the vertex {largest}, of {len(geometry.vertices)}")
    return geometry


def joined(parts: Sequence[Geometry]) -> Geometry:
    """Join meshes into one. Vertices that several have stay apart, as the files have them.

    Raises
    ------
    CorruptDataError
        If they have more vertices than 32 bits can number.
    """
    counts = [len(part.vertices) for part in parts]
    if sum(counts) > _MOST_VERTICES:
        raise CorruptDataError(f"its fragments have {sum(counts)} vertices together, more than 32 bits can number")
    if len(parts) == 1:
        return parts[0]
    first, faces = 0, []
    for part, count in zip(parts, counts, strict=True):
        faces.append(part.faces + np.uint32(first))
        first += count
    return Geometry(
        np.concatenate([np.empty((0, 3), np.float32), *(part.vertices for part in parts)]),
        np.concatenate([np.empty((0, 3), np.uint32), *faces]),
    )
