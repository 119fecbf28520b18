"""SWC, the text format of neuron tracing: a line for each point, with its parent."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import expected_one_of, shown
from precomputed_fs.format.lengths import UNITS

_AXES = 3
_ENDS = 2  # of an edge
_COLUMNS = 7
_NO_PARENT = -1
_UNKNOWN_RADII = ("NA", "N/A")
_LARGEST_TYPE = 255
_INFINITE = (2 - 2**-24) * 2.0**127  # the least that float32 rounds to infinity


class Points(NamedTuple):
    """What SWC says, in nanometres."""

    vertices: NDArray[np.float32]
    """(n, 3), in the order of the lines."""

    edges: NDArray[np.uint32]
    """(m, 2), from each point to its parent."""

    radii: NDArray[np.float32]
    """(n,), NaN where it is unknown."""

    types: NDArray[np.uint8]
    """(n,)."""


def read_swc(text: str, unit: str) -> Points:
    """Read SWC: see `Skeleton.from_swc`.

    Raises
    ------
    ValueError
        If a line is not of SWC; the message has its number. Or if there is no such unit.
    TypeError
        If it is not text.
    """
    factor = _nanometres_of(unit)
    rows = [_Row.read(number, line, factor) for number, line in _lines_of(text)]
    indices = {row.id: index for index, row in enumerate(rows)}
    edges = []
    for index, row in enumerate(rows):
        if indices[row.id] != index:
            raise ValueError(f"line {row.line}: id {row.id} is that of another line, too")
        if row.parent >= 0:
            if row.parent not in indices or row.parent == row.id:
                raise ValueError(f"line {row.line}: expected the id of another line as parent, got {row.parent}")
            edges.append((index, indices[row.parent]))
    return Points(
        np.array([row.position for row in rows], np.float32).reshape(-1, _AXES),
        np.array(edges, np.uint32).reshape(-1, _ENDS),
        np.array([row.radius for row in rows], np.float32),
        np.array([row.type for row in rows], np.uint8),
    )


def write_swc(
    vertices: NDArray[np.float32],
    edges: NDArray[np.uint32],
    radii: NDArray[Any],
    types: NDArray[Any],
    *,
    unit: str,
    root: int | None,
    break_cycles: bool,
) -> str:
    """Write SWC: see `Skeleton.to_swc`.

    Parameters
    ----------
    vertices, edges
        (n, 3), in nanometres, and (m, 2).
    radii, types
        (n,): in nanometres, and whole numbers.

    Raises
    ------
    ValueError
        If the edges have a cycle and `break_cycles` is false, a vertex is nowhere, or there is no such root or unit.
    """
    factor = _nanometres_of(unit)
    if not np.isfinite(vertices).all():
        raise ValueError("vertices: expected finite coordinates for SWC")
    count = len(vertices)
    if root is not None and not 0 <= root < count:
        raise ValueError(f"root: expected a vertex from 0 to {count - 1}, got {root!r}")
    positions, sizes = _texts_of(vertices.reshape(-1), factor), _texts_of(radii, factor)
    kinds = types.astype(np.int64).tolist()
    lines = [f"# id type x y z radius parent, in {unit}\n"]
    numbers: dict[int, int] = {_NO_PARENT: _NO_PARENT}
    for vertex, parent in _grown(_without_cycles(edges, vertices) if break_cycles else edges, count, root):
        number = numbers[vertex] = len(lines)
        place = " ".join(positions[_AXES * vertex : _AXES * (vertex + 1)])
        lines.append(f"{number} {kinds[vertex]} {place} {sizes[vertex]} {numbers[parent]}\n")
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of SWC, in nanometres."""

    line: int
    id: int
    type: int
    position: tuple[float, ...]
    radius: float
    parent: int

    @classmethod
    def read(cls, number: int, line: str, factor: Decimal) -> Self:
        columns = line.split()
        with contextlib.suppress(ValueError, ArithmeticError):  # of Decimal
            point, kind, *position, radius, parent = columns[:_COLUMNS]
            place = tuple(float(Decimal(text) * factor) for text in position)
            size = math.nan if radius in _UNKNOWN_RADII else float(Decimal(radius) * factor)
            row = cls(number, int(point), int(kind), place, size, int(parent))
            are_floats = all(abs(number) < _INFINITE for number in place) and not abs(size) >= _INFINITE
            if len(place) == _AXES and are_floats and 0 <= row.type <= _LARGEST_TYPE:
                return row
        what = f"id, type (0 to {_LARGEST_TYPE}), x, y, z, radius and parent"
        raise ValueError(f"line {number}: expected {what}, got {shown(line.strip())}")


def _lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Return the lines that are not empty or comments, with their numbers."""
    if not isinstance(text, str):
        raise TypeError(f"text: expected the contents of a file, got {type(text).__name__}")
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _nanometres_of(unit: str) -> Decimal:
    if unit not in UNITS:
        raise ValueError(expected_one_of("unit", UNITS, unit))
    return UNITS[unit]


def _texts_of(values: NDArray[Any], factor: Decimal) -> list[str]:
    """Write nanometres in another unit, without rounding: the shortest text of each value, with its point moved."""
    texts: list[str] = values.astype(np.float32).astype(str).tolist()
    return [f"{Decimal(text) / factor:f}" for text in texts]


def _grown(edges: NDArray[np.uint32], count: int, root: int | None) -> Iterator[tuple[int, int]]:
    """Walk through all trees from their roots, depth first: each vertex once, with the parent that came before it."""
    neighbours = _neighbours(edges, count)
    seen = bytearray(count)
    for start in range(count) if root is None else (root, *range(count)):
        waiting = [] if seen[start] else [(start, _NO_PARENT)]
        while waiting:
            vertex, parent = waiting.pop()
            if seen[vertex]:
                what = f"vertices {parent} and {vertex} close one: break_cycles=True leaves out its longest edge"
                raise ValueError(f"edges: expected trees, as SWC has no cycles; {what}")
            seen[vertex] = True
            yield vertex, parent
            waiting += ((other, vertex) for other in reversed(neighbours[vertex]) if other != parent)


def _without_cycles(edges: NDArray[np.uint32], vertices: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return a minimum spanning forest: Kruskal's, with the shortest edges first."""
    starts, ends = vertices.astype(np.float64)[edges.T]
    order = np.argsort(((ends - starts) ** 2).sum(axis=1), kind="stable")
    above = list(range(len(vertices)))  # a tree of vertices that are connected

    def top(vertex: int) -> int:
        while above[vertex] != vertex:
            above[vertex] = vertex = above[above[vertex]]
        return vertex

    kept = []
    for index, (start, end) in zip(order.tolist(), edges[order].tolist(), strict=True):
        first, second = top(start), top(end)
        if first != second:
            above[first] = second
            kept.append(index)
    return edges[sorted(kept)]


def _neighbours(edges: NDArray[np.uint32], count: int) -> Sequence[Sequence[int]]:
    """Return the vertices that each vertex has an edge to, each once, in order."""
    both = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    ends = np.searchsorted(both[:, 0], np.arange(1, count))
    return [part.tolist() for part in np.split(both[:, 1], ends)] if count else []
