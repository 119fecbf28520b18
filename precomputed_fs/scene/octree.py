"""How meshes of several levels of detail are cut into the cells of an octree, as their fragments have to be.

No triangle of a fragment may cross the border of its cell; and, but for the finest level, none may cross the planes
that cut the cell into 2 x 2 x 2, because Neuroglancer draws such a part of a fragment where no finer one is at hand.
Work is done in units of the cells to cut into, where borders are integers: a vertex on a border is there exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from precomputed_fs.format.multilod_mesh import Positions, z_order
from precomputed_fs.scene.mesh import Mesh

Points = npt.NDArray[np.float64]
Triangles = npt.NDArray[np.int64]
Cells = npt.NDArray[np.int64]

_AXES = 3
_SNAP = 2.0**-20  # of a cell: a vertex so near to a border is taken for one on it; a 32nd of a step of 16 bits
_TOP = 1 << 21  # cells along an axis; more would not fit into 64 bits together
_MOST_PIECES = 1 << 23  # that triangles are cut into, beside their number itself: they take some gigabytes


class Octree(NamedTuple):
    """Where the cells are."""

    origin: tuple[float, float, float]
    """Where they begin (xyz, nm)."""

    cell: tuple[float, float, float]
    """The size of a cell of the finest level (nm)."""

    levels: int


class Fragment(NamedTuple):
    """A cell and the part of a mesh in it."""

    position: tuple[int, int, int]

    points: npt.NDArray[np.int32]
    """``[n, 3]``: vertices as integers relative to the cell; none where the cell is empty."""

    faces: Triangles


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A mesh cut into pieces that cross no border."""

    points: Points
    """In units of the pieces."""

    faces: Triangles
    cells: Cells
    """``[m, 3]``: in which piece each triangle is."""


def octree_around(meshes: Sequence[Mesh], cell: Sequence[float] | None = None) -> Octree:
    """Choose an octree around the levels of a mesh.

    Parameters
    ----------
    meshes : sequence of Mesh
        The levels.
    cell : three floats, optional
        The size of a cell of the finest level (nm). By default such that the coarsest level has one cell.

    Raises
    ------
    ValueError
        If there would be too many cells along an axis.
    """
    bounds = np.array([mesh.bounds for mesh in meshes], np.float64)
    low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    levels = len(meshes)
    origin = _float32_beyond(low, -np.inf)
    extent = high - origin
    if cell is not None:
        size = np.array(cell, np.float32).astype(np.float64)
        if (extent / size >= _TOP).any():
            raise ValueError(f"fragment_size: expected fewer than {_TOP} fragments along each axis, got {list(cell)}")
    else:
        across = 2.0 ** (levels - 1)
        largest = extent.max() or 1.0
        wanted = np.where(extent > 0, extent, largest) / across
        size = _float32_beyond(np.maximum(wanted, np.finfo(np.float32).tiny), np.inf)
    return Octree(_triple(origin), _triple(size), levels)


def cut(meshes: Sequence[Mesh], octree: Octree, bits: int) -> list[list[Fragment]]:
    """Cut the levels of a mesh into fragments, each level along the Z-curve.

    Each cell has its parent among those of the next level, and each part of a cell that has triangles its child in the
    level before; a cell that has no triangles is an empty fragment. Else Neuroglancer would not find the one, and would
    draw the coarse triangles of the other beside the fine ones.
    """
    per_level = [_fragments(mesh, octree, lod, bits) for lod, mesh in enumerate(meshes)]
    cells = [set(fragments) for fragments, _ in per_level]
    for lod, (_, children) in enumerate(per_level[1:]):
        cells[lod] |= children
    for lod in range(len(cells) - 1):
        cells[lod + 1] |= {(x >> 1, y >> 1, z >> 1) for x, y, z in cells[lod]}
    return [_in_order(fragments, wanted) for (fragments, _), wanted in zip(per_level, cells, strict=True)]


Cell = tuple[int, int, int]


def _in_order(fragments: dict[Cell, Fragment], wanted: set[Cell]) -> list[Fragment]:
    listed = sorted(wanted)
    order = z_order(np.array(listed, np.uint32).reshape(-1, _AXES))
    empty = np.empty((0, _AXES), np.int32), np.empty((0, _AXES), np.int64)
    return [fragments.get(listed[i]) or Fragment(listed[i], *empty) for i in order]


def _fragments(mesh: Mesh, octree: Octree, lod: int, bits: int) -> tuple[dict[Cell, Fragment], set[Cell]]:
    """Return the fragments of one level, and the cells of the level before in which it has triangles."""
    halves = 2 if lod else 1  # pieces along each axis of a cell
    pieces = _cut_up(mesh, octree, 2.0**lod / halves)
    fragments = {}
    children: set[Cell] = set()
    cells = pieces.cells // halves
    for position, chosen in _grouped(cells):
        used, faces = np.unique(pieces.faces[chosen], return_inverse=True)
        points = _quantized(pieces.points[used] / halves - position, bits)
        points, inverse = _unique(points)
        faces = inverse[faces.reshape(-1, _AXES)]
        is_flat = (faces == np.roll(faces, 1, axis=1)).any(axis=1)  # two of its vertices have become one
        if is_flat.all():
            continue
        fragments[position] = _without_unused(position, points, faces[~is_flat])
        if lod:
            children |= {_cell(row) for row in np.unique(pieces.cells[chosen][~is_flat], axis=0).tolist()}
    return fragments, children


def _without_unused(position: Cell, points: npt.NDArray[np.int32], faces: Triangles) -> Fragment:
    used, faces = np.unique(faces, return_inverse=True)
    return Fragment(position, points[used], faces.reshape(-1, _AXES))


def _unique(points: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp]]:
    """Return different points, and the index of each point among them."""
    x, y, z = points.astype(np.int64).T
    _, first, inverse = np.unique(x << 32 | y << 16 | z, return_index=True, return_inverse=True)
    return points[first], inverse


def _quantized(relative: Points, bits: int) -> npt.NDArray[np.int32]:
    """Return coordinates from 0 to 1 as integers.

    Halves are rounded up, because Neuroglancer takes 2**(bits - 1) for the middle of a cell, which is half a step less.
    """
    largest = (1 << bits) - 1
    return np.clip(np.floor(relative * largest + 0.5), 0, largest).astype(np.int32)


def _grouped(cells: Cells) -> list[tuple[Cell, npt.NDArray[np.intp]]]:
    """Return the triangles of each cell, by their indices."""
    if not len(cells):
        return []
    order = np.lexsort(cells.T)
    changes = np.flatnonzero((np.diff(cells[order], axis=0) != 0).any(axis=1)) + 1
    return [(_cell(cells[some[0]].tolist()), some) for some in np.split(order, changes)]


# ------------------------------------------------------------------------------------------------------------- cutting


def _cut_up(mesh: Mesh, octree: Octree, size: float) -> _Pieces:
    """Cut a mesh along the planes between pieces, which have so many cells of the finest level along each axis."""
    points = (mesh.vertices.astype(np.float64) - octree.origin) / (np.array(octree.cell) * size)
    nearest = np.rint(points)
    points = np.where(np.abs(points - nearest) < _SNAP, nearest, points)
    faces = mesh.faces.astype(np.int64)
    _check_pieces(points, faces)
    last = np.maximum(np.ceil(points.max(axis=0)).astype(np.int64) - 1, 0)
    for axis in range(_AXES):
        points, faces = _cut_along(points, faces, axis)
    lowest = np.floor(_extremes(points, faces)[0]).astype(np.int64)
    # A triangle that lies in the outermost plane belongs to the last piece.
    return _Pieces(points, faces, np.clip(lowest, 0, last))


def _extremes(points: Points, faces: Triangles) -> tuple[Points, Points]:
    """Return the least and the greatest coordinates of each triangle: numpy takes long for that along a short axis."""
    one, two, three = (points[corner] for corner in faces.T)
    return np.minimum(np.minimum(one, two), three), np.maximum(np.maximum(one, two), three)


def _check_pieces(points: Points, faces: Triangles) -> None:
    """Check that triangles are not cut into very many pieces, because cells are very small beside them."""
    low, high = _extremes(points, faces)
    x, y, z = np.maximum(np.ceil(high) - np.floor(low), 1).T
    crossed = (x * y * z).sum()
    if crossed > _MOST_PIECES + 8 * len(faces):
        raise ValueError(
            f"fragment_size: expected larger fragments, as its {len(faces)} triangles would be cut into up to "
            f"{int(crossed)} pieces"
        )


def _cut_along(points: Points, faces: Triangles, axis: int) -> tuple[Points, Triangles]:
    """Cut triangles until none crosses an integer along an axis, each at a plane in its middle first."""
    done = []
    while len(faces):
        low, high = _extremes(points[:, axis], faces)
        first, last = np.floor(low) + 1, np.ceil(high) - 1  # the planes strictly inside
        crosses = first <= last
        done.append(faces[~crosses])
        plane = np.floor((first + last) / 2)[crosses]
        points, faces = _cut_at(points, faces[crosses], axis, plane)
    return points, np.concatenate([np.empty((0, _AXES), np.int64), *done])


def _cut_at(points: Points, faces: Triangles, axis: int, planes: Points) -> tuple[Points, Triangles]:
    """Cut each triangle at a plane that it crosses.

    Triangles that share an edge get the same new vertex on it, so that no gap opens between them.
    """
    if not len(faces):
        return points, faces
    sides = np.sign(points[faces, axis] - planes[:, np.newaxis])
    # Turn each triangle such that its first vertex is alone on its side, or one of the others is on the plane.
    is_alone = (sides != np.roll(sides, 1, axis=1)) & (sides != np.roll(sides, -1, axis=1)) & (sides != 0)
    turn = is_alone.argmax(axis=1)
    turned = (turn[:, np.newaxis] + np.arange(_AXES)) % _AXES
    faces, sides = np.take_along_axis(faces, turned, 1), np.take_along_axis(sides, turned, 1)
    one, two, three = faces.T
    edges = np.concatenate([np.stack([one, two], 1), np.stack([one, three], 1)])
    points, crossings = _crossings(points, edges, axis, np.concatenate([planes, planes]))
    on_second, on_third = crossings[: len(faces)], crossings[len(faces) :]
    # A vertex on the plane is its own crossing, and the triangle beyond it vanishes.
    parts = [
        np.stack([one, on_second, on_third], 1),
        np.stack([on_second, two, three], 1)[sides[:, 1] != 0],
        np.stack([on_second, three, on_third], 1)[sides[:, 2] != 0],
    ]
    return points, np.concatenate(parts)


def _crossings(points: Points, edges: Triangles, axis: int, planes: Points) -> tuple[Points, npt.NDArray[np.int64]]:
    """Return the vertex at which each edge meets its plane: its end, if that is on the plane, or a new one."""
    ends = np.sort(edges, axis=1)
    meets = np.where(points[edges[:, 1], axis] == planes, edges[:, 1], -1)
    inside = np.flatnonzero(meets < 0)
    keys = np.column_stack([ends[inside], planes[inside].astype(np.int64)])
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    begin, end = points[unique[:, 0]], points[unique[:, 1]]
    share = (unique[:, 2] - begin[:, axis]) / (end[:, axis] - begin[:, axis])
    new = begin + share[:, np.newaxis] * (end - begin)
    new = np.clip(new, np.minimum(begin, end), np.maximum(begin, end))  # rounding must lead across no other plane
    new[:, axis] = unique[:, 2]
    meets[inside] = len(points) + inverse.reshape(-1)
    return np.concatenate([points, new]), meets


def _float32_beyond(values: Points, toward: float) -> Points:
    """Round to float32, which manifests have, in one direction."""
    rounded = values.astype(np.float32)
    is_short = rounded > values if toward < 0 else rounded < values
    return np.where(is_short, np.nextafter(rounded, np.float32(toward)), rounded).astype(np.float64)


def _triple(values: Points) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _cell(values: Sequence[int]) -> Cell:
    x, y, z = values
    return x, y, z


def positions_of(fragments: Sequence[Fragment]) -> Positions:
    """Return the cells of fragments as an array ``[n, 3]``."""
    return np.array([fragment.position for fragment in fragments], np.uint32).reshape(-1, _AXES)
