"""Where chunks are: the grid of a scale; the coordinates, names and ids of its chunks.

Coordinates are in voxels, half-open, in the order ``(xmin, xmax, ymin, ymax, zmin, zmax)``. They
include the scale's ``voxel_offset`` and so may be negative. The specification names a chunk
``{key}/{xmin}-{xmax}_{ymin}-{ymax}_{zmin}-{zmax}`` (flat). neuroglancer-scripts writes
``{key}/{xmin}-{xmax}/{ymin}-{ymax}/{zmin}-{zmax}`` (sub-directories) by default.
"""

import functools
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

ChunkCoords = tuple[int, int, int, int, int, int]
"""``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open."""

Triple = tuple[int, int, int]
"""``(x, y, z)``."""

_COORDS_LENGTH = 6
_MORTON_BITS = 64
_AXIS_NAME = re.compile(r"(-?\d+)-(-?\d+)", re.ASCII)
_FLAT_NAME = re.compile("_".join([_AXIS_NAME.pattern] * 3), re.ASCII)


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


def parse_chunk_name(name: str) -> ChunkCoords | None:
    """Return the coordinates in a chunk's name of the flat layout; None for any other name.

    Raises
    ------
    ValueError
        If an axis is empty or reversed.

    Examples
    --------
    >>> parse_chunk_name("0-64_-64-0_128-189")
    (0, 64, -64, 0, 128, 189)
    """
    match = _FLAT_NAME.fullmatch(name)
    return chunk_coords(map(int, match.groups())) if match else None


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
        checked = tuple(map(operator.index, given))
    except TypeError as exc:
        raise ValueError(f"chunk_coords: expected integers, got {given}") from exc
    if len(checked) != _COORDS_LENGTH:
        raise ValueError(f"chunk_coords: expected 6 integers (xmin, xmax, ymin, ymax, zmin, zmax), got {given}")
    x0, x1, y0, y1, z0, z1 = checked
    if x0 < x1 and y0 < y1 and z0 < z1:
        return x0, x1, y0, y1, z0, z1
    axis, low, high = next(axis for axis in zip("xyz", checked[::2], checked[1::2], strict=True) if axis[1] >= axis[2])
    raise ValueError(f"chunk_coords: expected {axis}min < {axis}max, got {low} and {high} in {checked}")


def size_of(coords: ChunkCoords) -> Triple:
    """Return how many voxels a chunk has along x, y and z.

    Examples
    --------
    >>> size_of((0, 64, -64, 0, 128, 189))
    (64, 64, 61)
    """
    x0, x1, y0, y1, z0, z1 = coords
    return x1 - x0, y1 - y0, z1 - z0


def layout_of(name: str) -> bool | None:
    """Return the layout that an entry of a scale's directory belongs to.

    Returns
    -------
    bool or None
        True for a chunk of the flat layout (without a suffix), False for a directory of the
        sub-directory layout, None for anything else.

    Examples
    --------
    >>> layout_of("0-64_-64-0_128-189"), layout_of("0-64"), layout_of("0.shard")
    (True, False, None)
    """
    if _FLAT_NAME.fullmatch(name):
        return True
    if _AXIS_NAME.fullmatch(name):
        return False
    return None


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxels, half-open, xyz.

    Examples
    --------
    >>> Box((0, 0, -64), (64, 64, 0)).shape
    (64, 64, 64)
    >>> Box((0, 0, 0), (64, 64, 64)) & Box((32, -8, 8), (96, 8, 9))
    Box(start=(32, 0, 8), stop=(64, 8, 9))
    """

    start: Triple
    stop: Triple

    @classmethod
    def of(cls, coords: ChunkCoords) -> "Box":
        """Make a box of ``(xmin, xmax, ymin, ymax, zmin, zmax)``."""
        x0, x1, y0, y1, z0, z1 = coords
        return cls((x0, y0, z0), (x1, y1, z1))

    @property
    def shape(self) -> Triple:
        """Voxels along x, y and z; 0 if the box stops before it starts."""
        x, y, z = (max(0, high - low) for low, high in zip(self.start, self.stop, strict=True))
        return x, y, z

    def to_slices(self) -> tuple[slice, slice, slice]:
        """Return an index of the box for an array with the same origin."""
        x, y, z = map(slice, self.start, self.stop)
        return x, y, z

    def __and__(self, other: "Box") -> "Box":
        (x0, y0, z0), (x1, y1, z1) = map(max, self.start, other.start), map(min, self.stop, other.stop)
        return Box((x0, y0, z0), (x1, y1, z1))


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """How a scale's volume is cut into chunks; all in voxels, xyz."""

    size: Triple
    chunk_size: Triple
    voxel_offset: Triple = (0, 0, 0)

    @property
    def bounds(self) -> Box:
        """The box of the volume."""
        x, y, z = map(operator.add, self.voxel_offset, self.size)
        return Box(self.voxel_offset, (x, y, z))

    @property
    def shape(self) -> Triple:
        """Chunks along x, y and z."""
        x, y, z = (-(-size // chunk) for size, chunk in zip(self.size, self.chunk_size, strict=True))
        return x, y, z

    def chunk(self, cell: Triple) -> ChunkCoords:
        """Return the coordinates of the chunk at a cell of the grid, clipped to the volume.

        Examples
        --------
        >>> ChunkGrid(size=(100, 64, 64), chunk_size=(64, 64, 64), voxel_offset=(-10, 0, 0)).chunk((1, 0, 0))
        (54, 90, 0, 64, 0, 64)
        """
        x, y, z = cell
        return (*self.span(0, x), *self.span(1, y), *self.span(2, z))

    def span(self, axis: int, index: int) -> tuple[int, int]:
        """Return where the chunks with an index along one axis begin and end.

        Examples
        --------
        >>> ChunkGrid(size=(100, 64, 64), chunk_size=(64, 64, 64), voxel_offset=(-10, 0, 0)).span(0, 1)
        (54, 90)
        """
        low, offset = index * self.chunk_size[axis], self.voxel_offset[axis]
        return offset + low, offset + min(low + self.chunk_size[axis], self.size[axis])

    def cell(self, coords: ChunkCoords) -> Triple:
        """Return the cell of the grid that a chunk is in.

        Raises
        ------
        ValueError
            If the grid does not have a chunk with these coordinates; the message gives the one
            that begins there, or the bounds.
        """
        lows = [low - offset for low, offset in zip(coords[::2], self.voxel_offset, strict=True)]
        x, y, z = (low // chunk for low, chunk in zip(lows, self.chunk_size, strict=True))
        if not all(0 <= index < count for index, count in zip((x, y, z), self.shape, strict=True)):
            raise ValueError(
                f"chunk {coords} is outside of the volume: size {self.size}, voxel_offset {self.voxel_offset}"
            )
        if self.chunk((x, y, z)) != coords:
            raise ValueError(f"{coords} is no chunk of the grid; the chunk there is {self.chunk((x, y, z))}")
        return x, y, z

    def chunk_id(self, coords: ChunkCoords) -> int:
        """Return the number of a chunk in shards.

        Raises
        ------
        ValueError
            If the grid does not have this chunk, or has too many to number them.

        Examples
        --------
        >>> ChunkGrid(size=(100, 64, 64), chunk_size=(64, 64, 64)).chunk_id((64, 100, 0, 64, 0, 64))
        1
        """
        return compressed_morton_code(self.cell(coords), self.shape)


def id_bits(shape: tuple[int, ...]) -> int:
    """Return how many bits number the cells of a grid, given how many it has along each axis."""
    return sum((count - 1).bit_length() for count in shape)


def check_id_bits(shape: tuple[int, ...]) -> None:
    """Check that 64 bits, which shards have, can number the chunks of a grid.

    Raises
    ------
    ValueError
        If they cannot.
    """
    if (bits := id_bits(shape)) > _MORTON_BITS:
        raise ValueError(f"a grid of {shape} chunks needs {bits} bits to number its chunks; shards have 64")


def compressed_morton_code(cell: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Interleave the bits of a cell's indices, which numbers the chunks in shards.

    Parameters
    ----------
    cell : tuple of int
        Indices of a chunk in the grid, xyz; or of a cell of a grid of any number of axes.
    shape : tuple of int
        Chunks of the grid along each axis. Bit ``i`` of an axis is used only while ``2**i`` is
        less than their number (specification, "compressed Morton code").

    Raises
    ------
    ValueError
        If the code would need more than 64 bits.

    Examples
    --------
    >>> compressed_morton_code((2, 1, 0), (4, 2, 1))
    6
    """
    code = 0
    for position, (axis, bit) in enumerate(_morton_bits(shape)):
        code |= (cell[axis] >> bit & 1) << position
    return code


def morton_block(shape: Triple, bits: int) -> Triple:
    """Return the size in cells of the blocks in which codes differ only in the lowest bits.

    Examples
    --------
    >>> morton_block((100, 100, 2), 7)
    (8, 8, 2)
    """
    counts = [0, 0, 0]
    for axis, _ in _morton_bits(shape)[:bits]:
        counts[axis] += 1
    x, y, z = counts
    return 1 << x, 1 << y, 1 << z


@functools.lru_cache(maxsize=64)
def _morton_bits(shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return for each bit of a code, from the lowest, its axis and the bit of the index on that axis."""
    check_id_bits(shape)
    widths = [(count - 1).bit_length() for count in shape]
    return tuple((axis, bit) for bit in range(max(widths)) for axis in range(len(widths)) if bit < widths[axis])
