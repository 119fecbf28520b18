"""A skeleton: points in space joined by edges, with attributes of the points; read from SWC and written to it."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from precomputed_fs.errors import expected_one_of, shown
from precomputed_fs.format.lengths import UNITS
from precomputed_fs.format.skeleton import RADIUS

VERTEX_TYPES = "vertex_types"
"""The attribute that has the types of SWC, as cloud-volume names it."""

_AXES = 3
_ENDS = 2  # of an edge
_COLUMNS = 7  # of SWC
_NO_PARENT = -1
_UNKNOWN_RADII = ("NA", "N/A")
_LARGEST_TYPE = 255


class Skeleton:
    """The skeleton of a segment, or any other graph in space.

    Parameters
    ----------
    vertices : array_like
        (n, 3), xyz, in nanometres.
    edges : array_like
        (m, 2), pairs of indices of vertices.
    attributes : mapping of str to array_like, optional
        What else is known of the vertices: (n,), or (n, components). "radius" is in nanometres, and becomes float32.

    Raises
    ------
    ValueError
        If an array has another shape, or an edge leads to a vertex that there is not.

    Examples
    --------
    >>> skeleton = Skeleton([[0, 0, 0], [300, 400, 0], [300, 400, 80]], [[0, 1], [1, 2]], {"radius": [50, 40, 30]})
    >>> skeleton
    Skeleton(3 vertices, 2 edges, radius (float32))
    >>> skeleton.cable_length
    580.0
    >>> print(skeleton.to_swc(unit="um"), end="")
    # id type x y z radius parent, in um
    1 0 0.0 0.0 0.0 0.05 -1
    2 0 0.3 0.4 0.0 0.04 1
    3 0 0.3 0.4 0.08 0.03 2
    """

    __slots__ = ("attributes", "edges", "vertices")

    def __init__(
        self, vertices: ArrayLike, edges: ArrayLike = (), attributes: Mapping[str, ArrayLike] | None = None
    ) -> None:
        self.vertices = _checked_vertices(vertices)
        """(n, 3) float32, xyz, in nanometres."""

        self.edges = _checked_edges(edges, len(self.vertices))
        """(m, 2) uint32, indices of vertices. The order of the two says nothing."""

        self.attributes: dict[str, NDArray[Any]] = {
            name: _checked_attribute(name, given, len(self.vertices)) for name, given in (attributes or {}).items()
        }
        """(n,) each, or (n, components)."""

    @classmethod
    def of(cls, given: Any) -> Self:  # noqa: ANN401 - any object with `vertices` and `edges`
        """Make a skeleton of one that another library has, such as cloud-volume's, kimimaro's or igneous'.

        Parameters
        ----------
        given : object
            With ``vertices`` and ``edges``, and maybe ``extra_attributes`` that name its attributes. If it has
            ``physical_space()``, that gives nanometres; otherwise its units are taken for nanometres. A `Skeleton` is
            returned as it is.

        Raises
        ------
        TypeError
            If it is something else.
        """
        if isinstance(given, cls):
            return given
        if not hasattr(given, "vertices") or not hasattr(given, "edges"):
            raise TypeError(f"expected a skeleton with vertices and edges, got {shown(given)}")
        theirs = given.physical_space() if hasattr(given, "physical_space") else given
        names = [attribute["id"] for attribute in getattr(theirs, "extra_attributes", ())]
        return cls(theirs.vertices, theirs.edges, {name: getattr(theirs, name) for name in names})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Skeleton):
            return NotImplemented
        return (
            np.array_equal(self.vertices, other.vertices)
            and np.array_equal(self.edges, other.edges)
            and self.attributes.keys() == other.attributes.keys()
            and all(np.array_equal(values, other.attributes[name]) for name, values in self.attributes.items())
        )

    __hash__ = None  # type: ignore[assignment] # arrays can change

    def __repr__(self) -> str:
        attributes = (f", {name} ({_kind_of(values)})" for name, values in self.attributes.items())
        return f"Skeleton({len(self.vertices)} vertices, {len(self.edges)} edges{''.join(attributes)})"

    @property
    def cable_length(self) -> float:
        """The length of all edges in nanometres."""
        starts, ends = self.vertices.astype(np.float64)[self.edges.T]
        return float(np.linalg.norm(ends - starts, axis=1).sum())

    # ------------------------------------------------------------------------------------------------------------- SWC

    @classmethod
    def from_swc(cls, text: str, *, unit: str = "nm") -> Self:
        """Read SWC: lines of id, type, x, y, z, radius and parent.

        Parameters
        ----------
        text : str
            The contents of a file: ``Skeleton.from_swc(Path("neuron.swc").read_text())``.
        unit : str
            That of the coordinates and radii: "nm", "um", "mm". SWC does not say it; many files are in "um".

        Returns
        -------
        Skeleton
            With the attributes "radius" (float32; NaN where the file has "NA") and "vertex_types" (uint8). Vertices are
            in the order of the lines, and an edge leads from each to its parent.

        Raises
        ------
        ValueError
            If a line is not of SWC; the message has its number.
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
        attributes: dict[str, NDArray[Any]] = {
            RADIUS: np.array([row.radius for row in rows], np.float32),
            VERTEX_TYPES: np.array([row.type for row in rows], np.uint8),
        }
        vertices = np.array([row.position for row in rows], np.float32).reshape(-1, _AXES)
        return cls(vertices, np.array(edges, np.uint32).reshape(-1, _ENDS), attributes)

    def to_swc(self, *, unit: str = "nm", root: int | None = None, break_cycles: bool = False) -> str:
        """Write SWC, the text format of neuron tracing.

        Parameters
        ----------
        unit : str
            That of coordinates and radii: "nm", "um", "mm". SWC does not say it; many programs expect "um".
        root : int, optional
            The vertex from which its tree grows, such as that of the soma. By default, and in all other trees, the one
            with the lowest index.
        break_cycles : bool
            Whether to leave out the longest edge of each cycle: SWC has trees only, and skeletons of labels often have
            some.

        Returns
        -------
        str
            One line a vertex, parents before their children. The radius is 0 where there is no attribute "radius", the
            type is that of the attribute "vertex_types", or else 0 (undefined).

        Raises
        ------
        ValueError
            If the edges have a cycle and `break_cycles` is false, or an attribute is not what SWC has.
        """
        factor = _nanometres_of(unit)
        count = len(self.vertices)
        if root is not None and not 0 <= root < count:
            raise ValueError(f"root: expected a vertex from 0 to {count - 1}, got {root!r}")
        positions = _texts_of(self.vertices.reshape(-1), factor)
        radii = _texts_of(self._column(RADIUS, np.float32), factor)
        types = self._column(VERTEX_TYPES, np.int64).astype(np.int64).tolist()
        lines = [f"# id type x y z radius parent, in {unit}\n"]
        numbers: dict[int, int] = {_NO_PARENT: _NO_PARENT}
        edges = _without_cycles(self.edges, self.vertices) if break_cycles else self.edges
        for vertex, parent in _grown(edges, count, root):
            number = numbers[vertex] = len(lines)
            place = " ".join(positions[_AXES * vertex : _AXES * (vertex + 1)])
            lines.append(f"{number} {types[vertex]} {place} {radii[vertex]} {numbers[parent]}\n")
        return "".join(lines)

    def _column(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        """Return an attribute as a column of SWC."""
        values = self.attributes.get(name)
        if values is None:
            return np.zeros(len(self.vertices), dtype)
        with np.errstate(invalid="ignore"):
            fits = values.ndim == 1 and (dtype is not np.int64 or (values == values.astype(dtype)).all())
        if not fits:
            what = "whole numbers" if name == VERTEX_TYPES else "numbers"
            raise ValueError(f"attribute {name!r}: expected {what} for SWC, one a vertex, got {_kind_of(values)}")
        return values


# ------------------------------------------------------------------------------------------------------------- checking


def _checked_vertices(given: ArrayLike) -> NDArray[np.float32]:
    vertices = np.asarray(given)
    if vertices.size == 0:
        vertices = vertices.reshape(-1, _AXES)
    if vertices.ndim != _ENDS or vertices.shape[1] != _AXES or vertices.dtype.kind not in "fiub":
        raise ValueError(f"vertices: expected numbers of shape (n, 3), got {vertices.dtype} of shape {vertices.shape}")
    return vertices.astype(np.float32, copy=False)


def _checked_edges(given: ArrayLike, vertices: int) -> NDArray[np.uint32]:
    edges = np.asarray(given)
    if edges.size == 0:
        return np.empty((0, _ENDS), np.uint32)
    if edges.ndim != _ENDS or edges.shape[1] != _ENDS or edges.dtype.kind not in "iu":
        raise ValueError(f"edges: expected integers of shape (m, 2), got {edges.dtype} of shape {edges.shape}")
    low, high = int(edges.min()), int(edges.max())
    if low < 0 or high >= vertices:
        at_fault = low if low < 0 else high
        raise ValueError(f"edges: expected indices of {vertices} vertices, 0 to {vertices - 1}, got {at_fault}")
    return edges.astype(np.uint32, copy=False)


def _checked_attribute(name: str, given: ArrayLike, vertices: int) -> NDArray[Any]:
    values = np.asarray(given)
    if values.ndim == _ENDS and values.shape[1] == 1:
        values = values[:, 0]
    if (
        values.ndim not in (1, _ENDS)
        or len(values) != vertices
        or 0 in values.shape[1:]
        or values.dtype.kind not in "fiub"
    ):
        what = f"numbers of shape ({vertices},) or ({vertices}, components)"
        raise ValueError(f"attribute {name!r}: expected {what}, got {values.dtype} of shape {values.shape}")
    return values.astype(np.float32, copy=False) if name == RADIUS else values


def _kind_of(values: NDArray[Any]) -> str:
    return str(values.dtype) + (f" x {values.shape[1]}" if values.ndim > 1 else "")


# ------------------------------------------------------------------------------------------------------------------ SWC


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
        with contextlib.suppress(ValueError, InvalidOperation):
            point, kind, *position, radius, parent = columns[:_COLUMNS]
            place = tuple(float(Decimal(text) * factor) for text in position)
            size = math.nan if radius in _UNKNOWN_RADII else float(Decimal(radius) * factor)
            row = cls(number, int(point), int(kind), place, size, int(parent))
            if len(place) == _AXES and all(map(math.isfinite, place)) and 0 <= row.type <= _LARGEST_TYPE:
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
