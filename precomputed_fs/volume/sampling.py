"""How the voxels at some points are read: grouped by the chunks that hold them, each of which is fetched once."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from precomputed_fs.codecs import ChunkPart
from precomputed_fs.format.grid import ChunkCoords, ChunkGrid, Triple, size_of
from precomputed_fs.format.scale_layout import Pieces
from precomputed_fs.keywords import spelled_out
from precomputed_fs.volume.indexing import AXES, shard_block
from precomputed_fs.volume.positions import NOWHERE, voxels_at
from precomputed_fs.volume.sources import cast_scalar

if TYPE_CHECKING:
    from precomputed_fs.volume.scale import Scale


@spelled_out()
def sample(
    self: "Scale",
    points: ArrayLike,
    *,
    unit: str = "voxel",
    fill: float | None = None,
    missing: str | None = None,
    progress: bool | None = None,
) -> NDArray[Any]:
    """Read the voxels at some points, in any order. Each chunk that holds some is fetched once.

    Parameters
    ----------
    points : array_like
        (n, 3), xyz: one row for each point, with any number of repetitions; or (..., 3). Absolute coordinates:
        voxel ``i`` covers ``[i, i + 1)`` in voxels and ``[i, i + 1) * resolution`` in nanometres, so 5.9 is in
        voxel 5 and -0.1 in voxel -1.
    unit : str
        "voxel" for voxels of this scale, or a length: "nm", "um", "mm".
    fill : number, optional
        The value of points outside of the volume, and of NaN; by default these are an IndexError.
    missing, progress
        See `read`.

    Returns
    -------
    ndarray
        (n, channel), or (..., channel).

    Raises
    ------
    IndexError
        If a point is outside of the volume, or is NaN, and no `fill` is given.
    ValueError, TypeError
        If these are not points, or there is no such unit.
    NotFoundError, AccessDeniedError, CorruptDataError, DataAccessError
        See `read`.

    Notes
    -----
    Memory holds the result twice, about 110 bytes for each point, and the chunks in flight.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    >>> scale = create_volume("memory://docs/sample", array, resolution=(8, 8, 40))[0]
    >>> scale.sample([(1, 2, 3), (0, 0, 0)])
    array([[23],
           [ 0]], dtype=uint8)
    >>> scale.sample([(12.5, 20, 130), (-1, 0, 0)], unit="nm", fill=99)
    array([[23],
           [99]], dtype=uint8)
    """
    missing = self.missing_or_default(missing)
    given = as_points(points)
    block = shard_block(self.grid, self.info.sharding)
    chunks = PointsByChunk(voxels_at(given.reshape(-1, len(AXES)), unit, self.resolution), self.grid, block)
    count, channels = given.size // len(AXES), self.shape[3]
    outside = chunks.describe_outside(given, self.shown)
    if outside and fill is None:
        raise IndexError(f"{self.volume.url}: {outside}")
    picked = np.zeros((len(chunks.order), channels), self.dtype)
    codec = self.codec

    def pieces(coords: ChunkCoords) -> Pieces | None:
        return codec.pieces(size_of(coords), (*chunks.points(coords), slice(None)))

    def pick(coords: ChunkCoords, data: bytes | ChunkPart | None) -> bool:
        x, y, z = chunks.points(coords)
        rows = chunks.take(coords)
        if data is None:
            self.check_may_miss(coords, missing)
            return False
        codec.decode_part(data, size_of(coords), (x, y, z, slice(None)), out=picked[rows])
        return True

    self.fetch_each(chunks, pick, pieces, "these points touch", progress=progress)
    result = np.empty((count, channels), self.dtype)
    result[chunks.order] = picked
    if outside and fill is not None:
        result[~chunks.is_inside] = cast_scalar(fill, self.dtype)
    return result.reshape(*given.shape[:-1], channels)


def as_points(given: ArrayLike) -> NDArray[Any]:
    """Check points: an array (..., 3), or anything that NumPy makes one of; nothing, such as ``[]``, is no points.

    Raises
    ------
    ValueError
        If the last axis is not x, y and z.
    TypeError
        If these are not real numbers.
    """
    array = np.asarray(given)
    if array.size == 0 and array.ndim < 2:  # noqa: PLR2004
        array = np.empty((0, len(AXES)))
    if array.ndim == 0 or array.shape[-1] != len(AXES):
        raise ValueError(f"points: expected shape (n, 3), xyz, got {array.shape}")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"points: expected real numbers, got {array.dtype}")
    return array


_ROWS = 1 << 10  # chunks whose coordinates are computed at once


_Group = tuple[slice, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Of a chunk: its places in `PointsByChunk.order`; and x, y and z in the chunk."""


class PointsByChunk:
    """Voxels, grouped by the chunks of a grid that hold them.

    Parameters
    ----------
    voxels : ndarray
        (n, 3) absolute coordinates, xyz.
    grid : ChunkGrid
    block : tuple of int
        Chunks of a block, xyz: those of one block come together.
    """

    def __init__(self, voxels: NDArray[np.int64], grid: ChunkGrid, block: Triple) -> None:
        self._voxels = voxels
        self._grid = grid
        bounds = grid.bounds
        self.is_inside = np.all((voxels >= bounds.start) & (voxels < bounds.stop), axis=1)
        """(n,) Whether each voxel is in the grid; the others are in no group."""

        inside = np.flatnonzero(self.is_inside)
        cells, within = np.divmod(voxels[inside] - bounds.start, grid.chunk_size)
        order = np.lexsort((*cells.T, *(cells // block).T))
        cells = cells[order]
        is_first = np.ones(len(cells), bool)
        is_first[1:] = np.any(cells[1:] != cells[:-1], axis=1)
        self.order = inside[order]
        """Which voxel comes at each place, chunk after chunk."""

        self._within = [np.ascontiguousarray(axis) for axis in within[order].T]
        starts = np.flatnonzero(is_first)
        self._begins = cells[starts] * grid.chunk_size + bounds.start
        self._starts = np.append(starts, len(cells))
        self._under_way: dict[ChunkCoords, _Group] = {}

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._begins)

    def __iter__(self) -> Iterator[ChunkCoords]:
        """Yield each chunk once; `points` and `take` then tell of its voxels."""
        for first in range(0, len(self), _ROWS):
            begins = self._begins[first : first + _ROWS]
            ends = np.minimum(begins + self._grid.chunk_size, self._grid.bounds.stop)
            starts = self._starts[first : first + _ROWS + 1].tolist()
            places = [slice(*ends) for ends in itertools.pairwise(starts)]
            xs, ys, zs = ([axis[place] for place in places] for axis in self._within)
            for *box, group in zip(*_interleaved(begins, ends), zip(places, xs, ys, zs, strict=True), strict=True):
                x0, x1, y0, y1, z0, z1 = box
                coords = x0, x1, y0, y1, z0, z1
                self._under_way[coords] = group
                yield coords

    def points(self, coords: ChunkCoords) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return where in a chunk the voxels are that it holds, x, y and z: (k,) each."""
        _, x, y, z = self._under_way[coords]
        return x, y, z

    def take(self, coords: ChunkCoords) -> slice:
        """Return the places in `order` of the voxels that a chunk holds; it is done with."""
        places, *_ = self._under_way.pop(coords)
        return places

    def describe_outside(self, given: NDArray[Any], shown: str) -> str:
        """Say which points are outside of the scale, which messages call `shown`; empty if none is."""
        outside = np.flatnonzero(~self.is_inside)
        if not len(outside):
            return ""
        first = int(outside[0])
        at = np.unravel_index(first, given.shape[:-1])
        name = f"points[{', '.join(map(str, at))}]" if at else "the point"
        shown = ", ".join(f"{value:g}" for value in given[at].tolist())
        voxel = self._voxels[first].tolist()
        where = "is not a position" if NOWHERE in voxel else f"is in voxel {tuple(voxel)}"
        bounds = self._grid.bounds
        inside = ", ".join(
            f"{low} <= {axis} < {high}" for axis, low, high in zip(AXES, bounds.start, bounds.stop, strict=True)
        )
        return (
            f"{len(outside):,} of {len(self.is_inside):,} points are outside of {shown}, which has voxels "
            f"{inside}: {name}, ({shown}), {where}; fill=0 gives points outside a value"
        )


def _interleaved(begins: NDArray[Any], ends: NDArray[Any]) -> Iterator[list[int]]:
    """Return xmin, xmax, ymin, ymax, zmin and zmax of some chunks."""
    return (column for pair in zip(begins.T.tolist(), ends.T.tolist(), strict=True) for column in pair)
