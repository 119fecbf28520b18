"""A skeleton: points in space joined by edges, with attributes of the points; read from SWC and written to it."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from precomputed_fs.errors import shown
from precomputed_fs.format.skeleton import RADIUS
from precomputed_fs.keywords import spelled_out
from precomputed_fs.scene.swc import read_swc, write_swc

VERTEX_TYPES = "vertex_types"
"""The attribute that has the types of SWC, as cloud-volume names it."""

_AXES = 3
_ENDS = 2  # of an edge


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
        vertices = f"{len(self.vertices)} {'vertex' if len(self.vertices) == 1 else 'vertices'}"
        edges = f"{len(self.edges)} {'edge' if len(self.edges) == 1 else 'edges'}"
        return f"Skeleton({vertices}, {edges}{''.join(attributes)})"

    @property
    def cable_length(self) -> float:
        """The length of all edges in nanometres."""
        starts, ends = self.vertices.astype(np.float64)[self.edges.T]
        return float(np.linalg.norm(ends - starts, axis=1).sum())

    # ------------------------------------------------------------------------------------------------------------- SWC

    @classmethod
    @spelled_out()
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
        vertices, edges, radii, types = read_swc(text, unit)
        return cls(vertices, edges, {RADIUS: radii, VERTEX_TYPES: types})

    @spelled_out()
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
        radii, types = self._column(RADIUS, np.float32), self._column(VERTEX_TYPES, np.int64)
        return write_swc(self.vertices, self.edges, radii, types, unit=unit, root=root, break_cycles=break_cycles)

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
    vertices = _unmasked(given, "vertices")
    if vertices.size == 0:
        vertices = vertices.reshape(-1, _AXES)
    if vertices.ndim != _ENDS or vertices.shape[1] != _AXES or vertices.dtype.kind not in "fiub":
        raise ValueError(f"vertices: expected numbers of shape (n, 3), got {vertices.dtype} of shape {vertices.shape}")
    with np.errstate(over="ignore"):  # what float32 cannot tell is infinite, and is not stored
        return vertices.astype(np.float32, copy=False)


def _checked_edges(given: ArrayLike, vertices: int) -> NDArray[np.uint32]:
    edges = _unmasked(given, "edges")
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
    values = _unmasked(given, f"attribute {name!r}")
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


def _unmasked(given: ArrayLike, name: str) -> NDArray[Any]:
    if np.ma.is_masked(given):
        raise ValueError(f"{name}: expected numbers, got masked values")
    return np.asarray(given)


def _kind_of(values: NDArray[Any]) -> str:
    return str(values.dtype) + (f" x {values.shape[1]}" if values.ndim > 1 else "")
