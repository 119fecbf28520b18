"""Which annotations each cell of a spatial index has, level by level: the specification's algorithm, in arrays.

Each cell of a level has a random part of the annotations that meet it and are in no coarser cell there, the same part
in all cells, such that the fullest has as many as the limit. So the levels down to any one are a uniform sample.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.format.annotation import Block, Ragged
from precomputed_fs.format.annotation_info import Dimension
from precomputed_fs.scene.annotation_geometry import meets

Array = NDArray[Any]

MAX_LEVELS = 20
"""The most levels: the cells of the last are a millionth of the whole along each dimension."""

_ID_BITS = 64
_AT_ONCE = 1 << 18  # vectors of annotations that are compared with cells at once
_EXTENT_BITS = 8  # of the steps that an extent is rounded to, so that cells have round sizes
_MANY_UNITS = 16  # from here on bounds are whole
_FLOAT32_BITS = 24
_MOST_COPIES = 8  # of an annotation, on average, in the cells of a level that is divided further
_FEW_COPIES = 1 << 18  # of all annotations, which take little memory


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of one level."""

    lower_bound: Array
    """(rank,) float64."""

    shape: tuple[int, ...]
    chunk_size: Array
    """(rank,) float64."""

    def cells_of(self, points: Array) -> Array:
        """Return the cell that each point (n, rank) is in, or the nearest one."""
        with np.errstate(invalid="ignore", over="ignore"):
            cells = np.floor((points - self.lower_bound) / self.chunk_size)
        return np.clip(cells, 0, np.array(self.shape, np.float64) - 1).astype(np.int64)

    def box_of(self, cells: Array) -> tuple[Array, Array]:
        """Return the corners of some cells (n, rank), which belong to them; the outermost have no end."""
        low = self.lower_bound + cells * self.chunk_size
        high = np.nextafter(self.lower_bound + (cells + 1) * self.chunk_size, -np.inf)
        return np.where(cells == 0, -np.inf, low), np.where(cells == np.array(self.shape) - 1, np.inf, high)

    def codes_of(self, cells: Array) -> Array:
        """Return the compressed Morton codes of cells (n, rank), in any order."""
        codes = np.zeros(len(cells), np.uint64)
        for position, (axis, bit) in enumerate(self._bits):
            codes |= (cells[:, axis].astype(np.uint64) >> bit & np.uint64(1)) << np.uint64(position)
        return codes

    def cells_at(self, codes: Array) -> Array:
        """Return the cells (n, rank) with these compressed Morton codes."""
        cells = np.zeros((len(codes), len(self.shape)), np.int64)
        for position, (axis, bit) in enumerate(self._bits):
            cells[:, axis] |= ((codes >> np.uint64(position) & np.uint64(1)) << bit).astype(np.int64)
        return cells

    @property
    def _bits(self) -> list[tuple[int, np.uint64]]:
        """For each bit of a code, from the lowest, its axis and the bit of the index on that axis."""
        widths = [(count - 1).bit_length() for count in self.shape]
        pairs = itertools.product(range(max(widths)), range(len(widths)))
        return [(axis, np.uint64(bit)) for bit, axis in pairs if bit < widths[axis]]

    def halved(self, axes: Sequence[int]) -> "Grid":
        """Return the grid whose cells are half as long along some axes."""
        factor = np.ones(len(self.shape))
        factor[[*axes]] = 2
        shape = tuple(int(count * times) for count, times in zip(self.shape, factor, strict=True))
        return Grid(self.lower_bound, shape, self.chunk_size / factor)


@dataclass(frozen=True, slots=True)
class FilledLevel:
    """A level, and what is in its cells."""

    grid: Grid
    limit: int
    cells: Array
    """(m, rank) int64: the cells that are not empty, by ascending codes."""

    codes: Array
    """(m,) uint64: their compressed Morton codes."""

    members: Ragged
    """For each of these cells the numbers of its annotations, in random order."""


def fill_levels(
    block: Block,
    kind: str,
    whole: Grid,
    dimensions: Mapping[str, Dimension],
    *,
    limit: int,
    seed: int = 0,
) -> Iterator[FilledLevel]:
    """Distribute annotations over as many levels as they need.

    Parameters
    ----------
    block : Block
        The annotations, all of which are in the only cell of `whole`.
    kind : str
        Their type.
    whole : Grid
        The first level.
    dimensions : mapping
        Whose units tell how long cells are.
    limit : int
        The most annotations of a cell. The last level may have more: the last of `MAX_LEVELS`, or one whose cells have
        so many annotations in common that finer ones would only repeat them, such as large boxes.
    seed : int
        Of the random choice.
    """
    random = np.random.default_rng(seed)
    grid = whole
    numbers = random.permutation(len(block))
    cells = np.zeros((len(block), len(whole.shape)), np.int64)
    most_copies = max(_MOST_COPIES * len(block), _FEW_COPIES)
    for level in itertools.count(1):
        numbers, cells, codes = _sorted(grid, numbers, cells)
        begins = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])) if len(codes) else np.zeros(0, int)
        counts = np.diff(np.append(begins, len(codes)))
        most = int(counts.max(initial=0))
        is_last = most <= limit or level == MAX_LEVELS or len(numbers) > most_copies
        axes = [] if is_last else _longest(grid, dimensions)
        taken = counts
        if axes:  # the same part of each cell, rounded up or down at random
            taken = np.floor(counts * limit / most + random.random(len(counts))).astype(np.int64)
        is_taken = np.arange(len(codes)) - np.repeat(begins, counts) < np.repeat(taken, counts)
        some = taken > 0
        members = Ragged.of(numbers[is_taken], taken[some])
        yield FilledLevel(grid, limit if axes else max(limit, most), cells[begins[some]], codes[begins[some]], members)
        if not axes:
            return
        finer = grid.halved(axes)
        numbers, cells = _divided(block, kind, finer, axes, numbers=numbers[~is_taken], cells=cells[~is_taken])
        grid = finer


def _sorted(grid: Grid, numbers: Array, cells: Array) -> tuple[Array, Array, Array]:
    codes = grid.codes_of(cells)
    order = np.argsort(codes, kind="stable")
    return numbers[order], cells[order], codes[order]


def _divided(
    block: Block, kind: str, finer: Grid, axes: Sequence[int], *, numbers: Array, cells: Array
) -> tuple[Array, Array]:
    """Return the annotations in the halves of cells; one may be in several."""
    if kind == "point" and isinstance(block.geometry, np.ndarray):
        return numbers, finer.cells_of(block.geometry[numbers, 0].astype(np.float64))
    found_numbers, found_cells = [], []
    for sides in itertools.product((0, 1), repeat=len(axes)):
        halves = cells.copy()
        halves[:, [*axes]] = 2 * cells[:, [*axes]] + sides
        is_met = _meet_cells(block, kind, finer, numbers, halves)
        found_numbers.append(numbers[is_met])
        found_cells.append(halves[is_met])
    return np.concatenate(found_numbers), np.concatenate(found_cells)


def _meet_cells(block: Block, kind: str, grid: Grid, numbers: Array, cells: Array) -> Array:
    """Tell for each annotation whether it meets its cell, a part at a time, which bounds the memory."""
    geometry = block.geometry
    vectors = geometry.lengths[numbers] if isinstance(geometry, Ragged) else np.ones(len(numbers), np.int64)
    parts = np.cumsum(vectors) // _AT_ONCE
    found = [np.zeros(0, bool)]
    for which in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(parts)) + 1):
        some = numbers[which]
        part = geometry.take(some) if isinstance(geometry, Ragged) else geometry[some]
        found.append(meets(kind, part, *grid.box_of(cells[which])))
    return np.concatenate(found)


# ------------------------------------------------------------------------------------------------------------ grids


def _longest(grid: Grid, dimensions: Mapping[str, Dimension]) -> list[int]:
    """Return the axes to halve, such that cells become as nearly cubes as they can; none if they are small enough.

    Lengths are compared with lengths, times with times.
    """
    if sum((count - 1).bit_length() for count in grid.shape) + len(grid.shape) > _ID_BITS:
        return []
    groups: dict[str, list[tuple[float, int]]] = {}
    for axis, (dimension, size) in enumerate(zip(dimensions.values(), grid.chunk_size.tolist(), strict=True)):
        unit, exponent = split_unit(dimension.unit)
        groups.setdefault(unit, []).append((dimension.scale * 10.0**exponent * size, axis))
    return sorted(axis for group in groups.values() for axis in _to_halve(sorted(group, reverse=True)))


def _to_halve(sizes: Sequence[tuple[float, int]]) -> list[int]:
    """Return the first axes of those sorted by size, such that their halves are closest to the others."""

    def spread(count: int) -> float:
        halved = [size / 2 for size, _ in sizes[:count]] + [size for size, _ in sizes[count:]]
        return max(halved) / min(halved)

    best = min(range(len(sizes), 0, -1), key=spread)
    return [axis for _, axis in sizes[:best]]


_PREFIXES = (
    dict(zip("YZEPTGMkhdcm", (24, 21, 18, 15, 12, 9, 6, 3, 2, -1, -2, -3), strict=True))
    | dict(zip("\N{MICRO SIGN}unpfazy", (-6, -6, -9, -12, -15, -18, -21, -24), strict=True))
    | {"": 0, "da": 1}
)
"""Powers of ten."""


def split_unit(unit: str) -> tuple[str, int]:
    """Return a unit without its prefix, and the power of ten of that.

    Examples
    --------
    >>> split_unit("nm"), split_unit("m"), split_unit("ms"), split_unit("")
    (('m', -9), ('m', 0), ('s', -3), ('', 0))
    """
    for base in ("rad/s", "Hz", "m", "s"):
        if unit.endswith(base):
            return base, _PREFIXES[unit.removesuffix(base)]
    return unit, 0


def round_bounds(low: Sequence[float], high: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return bounds around annotations whose halves, quarters and so on are round numbers.

    The upper bound is exclusive, and by up to a hundredth larger than needed. So cells have whole sizes down to
    about a 200th of the extent, which cloud-volume 12.15 expects, and sizes that float32, which the client computes
    with, represents exactly.

    Examples
    --------
    >>> round_bounds([0.5, 3], [1000, 3])
    ((0.0, 3.0), (1004.0, 4.0))
    """
    lower, upper = [], []
    for first, last in zip(map(float, low), map(float, high), strict=True):
        extent = last - first
        step = 2.0 ** (math.frexp(extent)[1] - _EXTENT_BITS) if extent else max(1.0, _step_at(first))
        if extent >= _MANY_UNITS or (first.is_integer() and last.is_integer()):
            step = max(step, 1.0)
        begin = math.floor(first / min(step, 1)) * min(step, 1.0)
        lower.append(begin)
        upper.append(begin + (math.floor((last - begin) / step) + 1) * step)
    return tuple(lower), tuple(upper)


def _step_at(value: float) -> float:
    """Return how far the next float32 is from a value, at most."""
    return 2.0 ** (math.frexp(value)[1] - _FLOAT32_BITS)
