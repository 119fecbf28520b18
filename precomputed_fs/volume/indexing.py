"""Which voxels an index selects, which chunks hold them, and where in these chunks they are."""

import functools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precomputed_fs.errors import expected_one_of, shown
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, Triple, morton_block
from precomputed_fs.format.sharding import Sharding

AXES = "xyz"
DIMENSIONS = 4
"""x, y, z and channel."""

_MISSING = ("zeros", "raise")
_CACHED_OVERLAPS = 1 << 14  # of chunks along an axis with voxels; each is that of many chunks

Index = Any
"""NumPy's basic indexing: integers, slices, an Ellipsis; or a `Box`."""

Ranges = tuple[range, range, range]
"""Voxels along x, y and z, in absolute coordinates, ascending."""

Slices = tuple[slice, slice, slice]


def triple(values: Iterable[int]) -> Triple:
    """Make a tuple (x, y, z)."""
    x, y, z = values
    return x, y, z


def checked_numbers(name: str, values: object) -> tuple[Any, Any, Any]:
    """Check that an argument is three numbers; NumPy's become Python's.

    Raises
    ------
    ValueError
        If it is not; the message names the argument.
    """
    each = values if isinstance(values, Iterable) else [values]
    given = [value.item() if isinstance(value, np.generic) else value for value in each]
    if len(given) != len(AXES) or not all(isinstance(value, (int, float)) for value in given):
        raise ValueError(f"{name}: expected 3 numbers, xyz, got {given}")
    x, y, z = given
    return x, y, z


def checked_integer(name: str, given: Any) -> int:  # noqa: ANN401 - anything
    """Check that an argument is an integer, and return it.

    Raises
    ------
    TypeError
        If it is not; the message names the argument.
    """
    try:
        return operator.index(given)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {shown(given)}") from None


def checked_size(name: str, given: int | Iterable[int]) -> Triple:
    """Check that an argument is a size in voxels, and return it for each axis; one integer stands for all axes.

    Raises
    ------
    ValueError
        If it is not; the message names the argument.
    """
    try:
        size = triple(map(operator.index, given if isinstance(given, Iterable) else [given] * len(AXES)))
    except (TypeError, ValueError):
        size = (0, 0, 0)
    if min(size) < 1:
        raise ValueError(f"{name}: expected a positive integer, or 3, xyz, got {given!r}")
    return size


def checked_missing(missing: str) -> str:
    """Check an option `missing`, and return it.

    Raises
    ------
    ValueError
        If it is neither "zeros" nor "raise".
    """
    if missing not in _MISSING:
        raise ValueError(expected_one_of("missing", _MISSING, missing))
    return missing


# ---------------------------------------------------------------------------------------------------------- selections


@dataclass(frozen=True, slots=True)
class Selection:
    """The voxels and channels that an index selects from a scale."""

    ranges: Ranges

    channels: slice
    """With a start, a stop and a positive step."""

    final: tuple[int | slice, ...]
    """The index to apply to the voxels read: it reverses axes, and drops those that were indexed by an integer."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of voxels and channels, before `final`."""
        x, y, z = map(len, self.ranges)
        return x, y, z, len(range(self.channels.start, self.channels.stop, self.channels.step))

    @property
    def reversed_axes(self) -> list[int]:
        """The axes along which the index counts downwards."""
        return [axis for axis, item in enumerate(self.final) if isinstance(item, slice) and item.step == -1]

    @property
    def has_steps(self) -> bool:
        """Whether voxels or channels are skipped, or any axis is reversed."""
        return self.has_gaps or bool(self.reversed_axes)

    @property
    def has_gaps(self) -> bool:
        """Whether voxels or channels are skipped."""
        return self.channels.step != 1 or any(voxels.step != 1 for voxels in self.ranges)

    @property
    def box(self) -> Box:
        """The box from the first voxel to the last, whatever is skipped."""
        start = triple(voxels.start for voxels in self.ranges)
        return Box(start, triple(voxels[-1] + 1 if voxels else voxels.start for voxels in self.ranges))

    def excess(self, bounds: Box) -> str:
        """Describe where the selection goes beyond the bounds; empty if it does not."""
        for name, voxels, low, high in zip(AXES, self.ranges, bounds.start, bounds.stop, strict=True):
            if voxels and not (low <= voxels[0] and voxels[-1] < high):
                return f"{name}: {voxels[0]}:{voxels[-1] + 1} is not inside of {low}:{high}"
        return ""

    def check_inside(self, bounds: Box, shown: str) -> None:
        """Check that all voxels are in the bounds of a scale; messages call it `shown`.

        Raises
        ------
        IndexError
            If some are not.
        """
        if excess := self.excess(bounds):
            message = (
                f"{excess}, the bounds of {shown} in absolute coordinates; scale.read(box, fill=0) pads, "
                "and scale.array counts from 0"
            )
            raise IndexError(message)


def select(index: Index, shape: Sequence[int], bounds: Box, *, counts_from_0: bool = False) -> Selection:
    """Resolve an index.

    Parameters
    ----------
    index : Index
    shape : sequence of int
        (x, y, z, channel) of the scale.
    bounds : Box
        The scale's box in absolute coordinates.
    counts_from_0 : bool
        Whether the index counts from the first voxel, and negative numbers from the last one, as in NumPy;
        otherwise it is in absolute coordinates.

    Raises
    ------
    IndexError
        If it is not a basic index of four axes, or counts from 0 and is out of range.
    """
    x, y, z, channel = _expanded(index.to_slices() if isinstance(index, Box) else index)
    chosen: list[range] = []
    final: list[int | slice] = []
    for name, item, low, high in zip(AXES, (x, y, z), bounds.start, bounds.stop, strict=True):
        voxels, last = _selected(item, range(low, high), name, relative=counts_from_0)
        chosen.append(voxels)
        final.append(last)
    channels, last = _selected(channel, range(shape[3]), "channel", relative=True)
    stop = max(channels.start, channels.stop)
    xs, ys, zs = chosen
    return Selection((xs, ys, zs), slice(channels.start, stop, channels.step), (*final, last))


def _expanded(index: Index) -> list[Any]:
    """Complete an index to four items."""
    items = list(index) if isinstance(index, tuple) else [index]
    gaps = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(gaps) > 1:
        raise IndexError("an index can have only one Ellipsis")
    missing = DIMENSIONS - (len(items) - len(gaps))
    if missing < 0:
        raise IndexError(f"too many indices: a scale has 4 axes (x, y, z, channel), got {len(items) - len(gaps)}")
    gap = gaps[0] if gaps else len(items)
    return [*items[:gap], *[slice(None)] * missing, *items[gap + len(gaps) :]]


def _selected(item: Any, axis: range, name: str, *, relative: bool) -> tuple[range, int | slice]:  # noqa: ANN401
    """Resolve the index of one axis to ascending voxels, and the index to apply to these afterwards."""
    if isinstance(item, slice):
        try:
            voxels = axis[item] if relative else _absolute(item, axis)
        except TypeError:
            got = index_text(item)
            raise IndexError(f"{name}: expected integers, which count voxels, got {got}; {_LENGTHS}") from None
        if voxels.step < 0:
            return voxels[::-1], slice(None, None, -1)
        return voxels, slice(None)
    try:
        if isinstance(item, (bool, np.bool_)):
            raise TypeError  # noqa: TRY301 - NumPy takes it for a mask
        at = operator.index(item)
    except TypeError:
        raise IndexError(f"{name}: expected an integer or a slice, got {_advised(item)}") from None
    if relative:
        if not -len(axis) <= at < len(axis):
            raise IndexError(f"{name}: {at} is outside of {len(axis)} elements")
        at = axis[at]
    return range(at, at + 1), 0


_LENGTHS = "scale.box(low, high, unit='nm') takes lengths"


def _advised(item: Any) -> str:  # noqa: ANN401 - anything
    """Show what is not a basic index, and say what reads it."""
    if item is None:
        return "None: read first, and add axes then, as in scale[...][..., None]"
    if isinstance(item, (list, np.ndarray)):
        array = np.asarray(item)
        if array.dtype.kind == "b":
            return f"a mask of shape {array.shape}: read first, and apply it then, as in scale[...][mask]"
        return f"{len(item)} of them at once: scale.sample(points) reads scattered voxels" if array.ndim else repr(item)
    return f"{shown(item)}; {_LENGTHS}" if isinstance(item, float) else shown(item)


def index_text(index: Index) -> str:
    """Write an index as it stands between brackets, for messages.

    Examples
    --------
    >>> index_text(np.s_[0:10, ..., ::2, 3])
    '0:10, ..., ::2, 3'
    """
    if isinstance(index, tuple):
        return ", ".join(map(index_text, index))
    if not isinstance(index, slice):
        return "..." if index is Ellipsis else shown(index)
    start, stop, step = ("" if item is None else shown(item) for item in (index.start, index.stop, index.step))
    return f"{start}:{stop}" + (f":{step}" if step else "")


def _absolute(item: slice, axis: range) -> range:
    step = 1 if item.step is None else operator.index(item.step)
    if step == 0:
        raise ValueError("a slice's step must not be 0")
    first, last = (axis.start, axis.stop) if step > 0 else (axis.stop - 1, axis.start - 1)
    start = first if item.start is None else operator.index(item.start)
    stop = last if item.stop is None else operator.index(item.stop)
    return range(start, stop, step)


# -------------------------------------------------------------------------------------------------------------- chunks


def shard_block(grid: ChunkGrid, sharding: Sharding | None) -> Triple:
    """Return the size in chunks of the blocks that are a shard each; the whole grid if there are no such blocks."""
    if sharding is None or sharding.hash != "identity":
        return grid.shape
    return morton_block(grid.shape, sharding.preshift_bits + sharding.minishard_bits)


class Touched:
    """The chunks that hold some voxels.

    Parameters
    ----------
    grid : ChunkGrid
    ranges : tuple of range
        The voxels; those outside of the grid are in no chunk.
    """

    def __init__(self, grid: ChunkGrid, ranges: Ranges) -> None:
        self._grid = grid
        bounds = grid.bounds
        axes = zip(ranges, bounds.start, bounds.stop, grid.chunk_size, strict=True)
        self._cells = [_cells(*axis) for axis in axes]

    def __len__(self) -> int:
        return math.prod(map(len, self._cells))

    def __iter__(self) -> Iterator[ChunkCoords]:
        xs, ys, zs = [[self._grid.span(axis, cell) for cell in along] for axis, along in enumerate(self._cells)]
        return ((*x, *y, *z) for z in zs for y in ys for x in xs)

    def by_shard(self, sharding: Sharding | None) -> Iterator[tuple[Iterator[ChunkCoords], int]]:
        """Yield groups of chunks and how many each has: those of one shard together if they form a block.

        So a shard can be written before the next one is begun. In an unsharded scale, and where a hash scatters
        chunks over shards, all are one group.
        """
        block = shard_block(self._grid, sharding)
        along_x, along_y, along_z = zip(self._cells, block, strict=True)
        groups = ((x, y, z) for z in _runs(*along_z) for y in _runs(*along_y) for x in _runs(*along_x))
        for xs, ys, zs in groups:
            chunks = (self._grid.chunk((x, y, z)) for z in zs for y in ys for x in xs)
            yield chunks, len(xs) * len(ys) * len(zs)


def _cells(voxels: range, low: int, high: int, chunk: int) -> Collection[int]:
    """Return the cells along one axis of a grid that hold any of the voxels."""
    inside = range(*_within(voxels, low, high))
    if not inside:
        return ()
    first, last = (voxels[inside[0]] - low) // chunk, (voxels[inside[-1]] - low) // chunk
    if voxels.step <= chunk:
        return range(first, last + 1)
    return sorted({(voxels[i] - low) // chunk for i in inside})


def _within(voxels: range, low: int, high: int) -> tuple[int, int]:
    """Return which of some ascending voxels are from `low` up to `high`: the first, and one past the last."""
    return max(0, -((voxels.start - low) // voxels.step)), min(len(voxels), -((voxels.start - high) // voxels.step))


def _runs(cells: Collection[int], length: int) -> Iterator[range]:
    """Cut consecutive cells at each multiple of a length."""
    first = next(iter(cells), 0)
    last = first + len(cells)
    while first < last:
        stop = min(first - first % length + length, last)
        yield range(first, stop)
        first = stop


def overlaps_with(ranges: Ranges) -> Callable[[ChunkCoords], tuple[Slices, Slices]]:
    """Return a function of a chunk's coordinates: where its voxels are in an array of `ranges`, and in the chunk."""
    xs, ys, zs = ranges

    def overlaps(coords: ChunkCoords) -> tuple[Slices, Slices]:
        x0, x1, y0, y1, z0, z1 = coords
        (x, u), (y, v), (z, w) = _overlap(xs, x0, x1), _overlap(ys, y0, y1), _overlap(zs, z0, z1)
        return (x, y, z), (u, v, w)

    return overlaps


@functools.lru_cache(_CACHED_OVERLAPS)
def _overlap(voxels: range, low: int, high: int) -> tuple[slice, slice]:
    first, after = _within(voxels, low, high)
    return slice(first, after), slice(voxels[first] - low, voxels[after - 1] - low + 1, voxels.step)
