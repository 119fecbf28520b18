"""What a query of annotations returns: arrays of ids, coordinates, properties and related objects; tables of pandas."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import did_you_mean
from precomputed_fs.format.annotation import Block, Ragged
from precomputed_fs.format.annotation_info import AnnotationInfo, Property

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]

POINTS_COLUMN = "points"
"""The column with the points of polylines."""

ID_COLUMN = "id"
"""The index or column with the ids."""

BOOLEAN = (0.0, 1.0), ("false", "true")
"""The values and labels of a uint8 property that stands for a boolean, which all clients know."""


def coordinate_columns(kind: str, axes: Sequence[str]) -> list[str]:
    """Name the columns of the coordinates, in their order.

    Examples
    --------
    >>> coordinate_columns("point", ["x", "y"]), coordinate_columns("line", ["x", "y"])
    (['x', 'y'], ['x0', 'y0', 'x1', 'y1'])
    >>> coordinate_columns("ellipsoid", ["x", "y"]), coordinate_columns("polyline", ["x", "y"])
    (['x', 'y', 'rx', 'ry'], ['points'])
    """
    if kind == "polyline":
        return [POINTS_COLUMN]
    if kind == "point":
        return [*axes]
    if kind == "ellipsoid":
        return [*axes, *(f"r{axis}" for axis in axes)]
    return [f"{axis}{end}" for end in (0, 1) for axis in axes]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation."""

    id: int
    kind: str
    """Its type, such as "point"."""

    geometry: Array
    """float32: the point (rank,); the ends of a line, the corners of a box, or the centre and the radii of an
    ellipsoid (2, rank); the points of a polyline (n, rank)."""

    properties: Mapping[str, Any]
    """Values by the names of the properties; colours are arrays of 3 or 4 uint8."""

    related: Mapping[str, Array] | None = None
    """Ids of related objects by the names of the relationships, uint64; None if they were not read."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Annotations:
    """Annotations, as arrays: what queries of an `AnnotationCollection` return.

    It is a sequence of `Annotation`, and slices and arrays of indices or booleans select some of them.
    """

    info: AnnotationInfo
    """What the collection's `info` says."""

    block: Block = field(repr=False)
    """The annotations as they are stored."""

    @property
    def kind(self) -> str:
        """The type of the annotations, "point", "line", "axis_aligned_bounding_box", "ellipsoid" or "polyline"."""
        return self.info.kind

    @property
    def ids(self) -> Array:
        """(n,) uint64."""
        return self.block.ids

    @property
    def geometry(self) -> Array | list[Array]:
        """Coordinates, float32, in the units of the dimensions.

        Points (n, rank). Two ends of lines, two corners of boxes, or centres and radii of ellipsoids (n, 2, rank). Of
        polylines a list of arrays (points, rank).
        """
        geometry = self.block.geometry
        if isinstance(geometry, Ragged):
            return np.split(geometry.values, geometry.starts[1:-1]) if len(self) else []
        return geometry[:, 0] if self.kind == "point" else geometry

    @property
    def properties(self) -> Mapping[str, Array]:
        """Values by the names of the properties: (n,) of their types; colours (n, 3) or (n, 4) uint8."""
        return MappingProxyType({each.id: self.block.properties[each.id] for each in self.info.properties})

    @property
    def related(self) -> Mapping[str, list[Array]] | None:
        """Ids of related objects by the names of the relationships, for each annotation an array of uint64.

        None if they are not known: only annotations that were asked for by their ids have them.
        """
        if self.block.related is None:
            return None
        names = [each.id for each in self.info.relationships]
        return MappingProxyType(
            {
                name: np.split(lists.values, lists.starts[1:-1]) if len(self) else []
                for name, lists in zip(names, self.block.related, strict=True)
            }
        )

    def __len__(self) -> int:
        return len(self.block)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - one, or several
        if isinstance(index, str):
            hint = did_you_mean(index, [each.id for each in self.info.properties])
            raise TypeError(f"annotations are indexed by position: columns are in `properties` and `to_pandas()`{hint}")
        which = np.arange(len(self))[index]
        if which.ndim:
            return Annotations(self.info, self.block.take(which))
        return self._one(int(which))

    def __iter__(self) -> Iterator[Annotation]:
        return map(self._one, range(len(self)))

    def _one(self, i: int) -> Annotation:
        block = self.block
        geometry = block.geometry
        place = geometry.item(i) if isinstance(geometry, Ragged) else geometry[i]
        names = [each.id for each in self.info.relationships]
        related = None
        if block.related is not None:
            related = {name: lists.item(i) for name, lists in zip(names, block.related, strict=True)}
        return Annotation(
            id=int(block.ids[i]),
            kind=self.kind,
            geometry=place[0] if self.kind == "point" else place,
            properties={each.id: block.properties[each.id][i] for each in self.info.properties},
            related=related,
        )

    def __repr__(self) -> str:
        names = [each.id for each in self.info.properties]
        properties = f", properties {', '.join(names)}" if names else ""
        return f"<Annotations: {counted(len(self), self.kind)}{properties}>"

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table with a row for each annotation, indexed by `id`.

        Returns
        -------
        pandas.DataFrame
            The coordinates have the names of the dimensions: points ``x, y, z``; the ends of lines and the corners of
            boxes ``x0, y0, z0, x1, y1, z1``; ellipsoids ``x, y, z`` and the radii ``rx, ry, rz``; of polylines
            ``points`` has an array (n, rank) each. Then properties follow with their types: those with labels are
            categories, colours are texts such as "#ff8000". Then relationships, if they are known, as arrays of ids.
            One that has the name of a column before it gets an underscore at its end.
        """
        pd = _pandas()
        columns = self._coordinates()
        for each in self.info.properties:
            columns[_free(each.id, columns)] = _column(self.block.properties[each.id], each)
        for name, lists in (self.related or {}).items():
            columns[_free(name, columns)] = _objects(lists)
        return pd.DataFrame(columns, index=pd.Index(self.ids, name=ID_COLUMN))

    def _coordinates(self) -> dict[str, Any]:
        names = coordinate_columns(self.kind, [*self.info.dimensions])
        geometry = self.block.geometry
        if isinstance(geometry, Ragged):
            return {names[0]: _objects(list(self.geometry))}
        table = geometry.reshape(len(self), len(names))
        return {name: table[:, i] for i, name in enumerate(names)}


def counted(count: int, kind: str) -> str:
    """Say how many annotations of a type there are.

    Examples
    --------
    >>> counted(1, "point"), counted(2, "axis_aligned_bounding_box")
    ('1 point', '2 axis-aligned bounding boxes')
    """
    ending = "" if count == 1 else "es" if kind.endswith("x") else "s"
    return f"{count:,} {kind.replace('axis_aligned', 'axis-aligned').replace('_', ' ')}{ending}"


def is_boolean(each: Property) -> bool:
    """Tell whether a property is read as booleans."""
    labels = tuple(label.lower() for label in each.enum_labels)
    return each.type == "bool" or (each.type == "uint8" and (each.enum_values, labels) == BOOLEAN)


def _column(values: Array, each: Property) -> Any:  # noqa: ANN401 - what pandas takes
    if each.is_colour:
        return [f"#{bytes(colour).hex()}" for colour in values]
    if is_boolean(each):
        return values.astype(bool)
    if not each.enum_values:
        return np.ascontiguousarray(values)
    labels = [*dict.fromkeys(each.enum_labels)]
    codes = np.full(len(values), -1)
    for value, label in zip(each.enum_values, each.enum_labels, strict=True):
        codes[values == value] = labels.index(label)
    return _pandas().Categorical.from_codes(codes, labels)


def _free(name: str, taken: Container[str]) -> str:
    while name in taken:
        name = f"{name}_"
    return name


def _objects(items: Sequence[Array]) -> Array:
    """Return a column of arrays."""
    column = np.empty(len(items), object)
    for i, item in enumerate(items):  # at once, NumPy would make a table of items of one length
        column[i] = item
    return column


def _pandas() -> Any:  # noqa: ANN401 - a module
    try:
        import pandas as pd  # noqa: PLC0415 - an extra
    except ImportError as exc:
        message = "tables need pandas, which is not installed: pip install 'precomputed-fs[pandas]'"
        raise ImportError(message) from exc
    return pd
