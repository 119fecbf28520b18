"""What the `info` of an annotation collection says (``neuroglancer_annotations_v1``): checked, and written.

Facts are from the specification and from Neuroglancer's client. Readers are lenient where the meaning is clear:
``annotation_type`` is read in any case, as the client does, and `by_id`, `relationships` and `spatial` may be absent.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeVar

from precomputed_fs.errors import InvalidInfoError, shown
from precomputed_fs.format.grid import check_id_bits, id_bits
from precomputed_fs.format.sharding import Sharding

ANNOTATIONS_TYPE = "neuroglancer_annotations_v1"

KINDS = {"point": 1, "line": 2, "axis_aligned_bounding_box": 2, "ellipsoid": 2, "polyline": 0}
"""The types of annotations, and how many vectors each has; 0: any number of points."""

MAX_RANK = 32
"""Dimensions of a collection; Neuroglancer shows a few."""

MAX_GRID = 1 << 32
"""Cells of a grid along one dimension; the client's Morton codes have 32 bits for each."""

_MOST = 4096  # properties, relationships and levels, each
_UNITS = re.compile(r"(?:[YZEPTGMkhdcm\N{MICRO SIGN}unpfazy]|da)?(?:m|s|Hz|rad/s)|")
_PROPERTY_ID = re.compile(r"[a-z][a-zA-Z0-9_]*", re.ASCII)
_T = TypeVar("_T")


class PropertyType(NamedTuple):
    """How a property is encoded."""

    dtype: str
    """The NumPy data type of one component."""

    components: int
    alignment: int
    """Properties of larger alignment come first."""

    low: float
    high: float
    """The values that a component can have."""


PROPERTY_TYPES = {
    "rgb": PropertyType("u1", 3, 1, 0, 255),
    "rgba": PropertyType("u1", 4, 1, 0, 255),
    "uint8": PropertyType("u1", 1, 1, 0, 255),
    "int8": PropertyType("i1", 1, 1, -128, 127),
    "uint16": PropertyType("<u2", 1, 2, 0, 65535),
    "int16": PropertyType("<i2", 1, 2, -32768, 32767),
    "uint32": PropertyType("<u4", 1, 4, 0, 4294967295),
    "int32": PropertyType("<i4", 1, 4, -2147483648, 2147483647),
    "float32": PropertyType("<f4", 1, 4, -math.inf, math.inf),
    # Not in the specification; the client reads it since 2026, as a byte that is 0 or 1.
    "bool": PropertyType("u1", 1, 1, 0, 1),
}
"""The types of properties by their names in `info`."""


class Dimension(NamedTuple):
    """One unit of a dimension: `scale` times a physical unit; the unit may be empty."""

    scale: float
    unit: str


@dataclass(frozen=True, slots=True)
class Property:
    """A value that each annotation has."""

    id: str
    type: str
    """One of `PROPERTY_TYPES`."""

    description: str = ""
    enum_values: tuple[float, ...] = ()
    enum_labels: tuple[str, ...] = ()
    """The labels of `enum_values`."""

    @property
    def encoding(self) -> PropertyType:
        """How the property is encoded."""
        return PROPERTY_TYPES[self.type]

    @property
    def is_colour(self) -> bool:
        """Whether the property is a colour of several components."""
        return self.encoding.components > 1

    def to_info(self) -> dict[str, Any]:
        """Return the member of `properties`."""
        made: dict[str, Any] = {"id": self.id, "type": self.type}
        if self.description:
            made["description"] = self.description
        if self.enum_values:
            made |= {"enum_values": [*self.enum_values], "enum_labels": [*self.enum_labels]}
        return made


@dataclass(frozen=True, slots=True)
class Index:
    """Where an index is, by annotation id or by related object id."""

    key: str
    """Path of its folder from that of `info`; ``..`` may lead out of that."""

    sharding: Sharding | None = None

    def to_info(self) -> dict[str, Any]:
        """Return the member of `info`."""
        return {"key": self.key} | ({} if self.sharding is None else {"sharding": self.sharding.to_info()})


@dataclass(frozen=True, slots=True)
class Relationship:
    """Lists of object ids that each annotation has, and the index by object id."""

    id: str
    index: Index

    def to_info(self) -> dict[str, Any]:
        """Return the member of `relationships`."""
        return {"id": self.id, **self.index.to_info()}


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the spatial index: a grid of cells that begins at `lower_bound`."""

    index: Index
    grid_shape: tuple[int, ...]
    """Cells along each dimension."""

    chunk_size: tuple[float, ...]
    """Size of a cell in the units of the dimensions."""

    limit: int
    """The most annotations of a cell."""

    def to_info(self) -> dict[str, Any]:
        """Return the member of `spatial`."""
        grid = {"grid_shape": [*self.grid_shape], "chunk_size": [*map(_number, self.chunk_size)], "limit": self.limit}
        return {**self.index.to_info(), **grid}


@dataclass(frozen=True, slots=True)
class AnnotationInfo:
    """What `info` says of an annotation collection."""

    kind: str
    """One of `KINDS`."""

    dimensions: Mapping[str, Dimension]
    """By name, in the order of coordinates."""

    lower_bound: tuple[float, ...]
    upper_bound: tuple[float, ...]
    """In the units of the dimensions."""

    properties: tuple[Property, ...] = ()
    relationships: tuple[Relationship, ...] = ()
    by_id: Index | None = None
    levels: tuple[Level, ...] = ()
    """The spatial index, from coarse to fine."""

    @property
    def rank(self) -> int:
        """How many dimensions there are."""
        return len(self.dimensions)

    @classmethod
    def parse(cls, given: Mapping[str, Any], where: str = "info") -> Self:
        """Read an `info`.

        Parameters
        ----------
        given : mapping
            Its members.
        where : str
            The name of `info` in messages.

        Raises
        ------
        InvalidInfoError
            If a member is missing or invalid; the message names its place.
        """
        try:
            return cls._parse(given)
        except InvalidInfoError as exc:
            raise InvalidInfoError(f"{where}: {exc}") from None

    @classmethod
    def _parse(cls, given: Mapping[str, Any]) -> Self:
        if given.get("@type") != ANNOTATIONS_TYPE:
            raise _expected("@type", repr(ANNOTATIONS_TYPE), given.get("@type"))
        dimensions = _dimensions(given.get("dimensions"))
        rank = len(dimensions)
        lower = _numbers(given, "", "lower_bound", rank)
        upper = _numbers(given, "", "upper_bound", rank)
        if any(map(float.__gt__, map(float, lower), map(float, upper))):
            raise _expected("upper_bound", f"at least lower_bound, {shown([*lower])}", [*upper])
        properties = _list(given, "properties", property_of)
        relationships = _list(given, "relationships", _relationship)
        _check_unique("properties", [each.id for each in properties])
        _check_unique("relationships", [each.id for each in relationships])
        return cls(
            kind=_kind(given.get("annotation_type")),
            dimensions=dimensions,
            lower_bound=lower,
            upper_bound=upper,
            properties=properties,
            relationships=relationships,
            by_id=None if given.get("by_id") is None else _index(given["by_id"], "by_id"),
            levels=_list(given, "spatial", lambda level, place: _level(level, place, rank)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return `info` as JSON has it."""
        made: dict[str, Any] = {
            "@type": ANNOTATIONS_TYPE,
            "dimensions": {name: [dimension.scale, dimension.unit] for name, dimension in self.dimensions.items()},
            "lower_bound": [*map(_number, self.lower_bound)],
            "upper_bound": [*map(_number, self.upper_bound)],
            # in capitals, as the specification has it: cloud-volume 12.15 reads no other
            "annotation_type": self.kind.upper(),
            "properties": [each.to_info() for each in self.properties],
            "relationships": [each.to_info() for each in self.relationships],
        }
        if self.by_id is not None:
            made["by_id"] = self.by_id.to_info()
        return made | {"spatial": [level.to_info() for level in self.levels]}


def check_property_id(name: str) -> None:
    """Check that a property may have a name.

    Raises
    ------
    ValueError
        If it may not.
    """
    if not _PROPERTY_ID.fullmatch(name):
        what = "a name of a-z, A-Z, 0-9 and _ that begins with a small letter, as Neuroglancer requires"
        raise ValueError(f"property {name!r}: expected {what}")


# ------------------------------------------------------------------------------------------------------ members


def _expected(place: str, what: str, given: object) -> InvalidInfoError:
    got = "nothing" if given is None else shown(given)
    return InvalidInfoError(f"{place}: expected {what}, got {got}")


def _list(given: Mapping[str, Any], name: str, read: Callable[[Any, str], _T]) -> tuple[_T, ...]:
    items = given.get(name)
    if items is None:
        return ()
    if not isinstance(items, list | tuple) or len(items) > _MOST:
        raise _expected(name, f"a list of at most {_MOST}", items)
    return tuple(read(item, f"{name}[{i}]") for i, item in enumerate(items))


def _object(given: object, place: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise _expected(place, "an object", given)
    return given


def _string(given: Mapping[str, Any], place: str, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise _expected(f"{place}.{name}", "a non-empty string", value)
    return value


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(_float(value))


def _float(value: Any) -> float:  # noqa: ANN401 - JSON
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _numbers(given: Mapping[str, Any], place: str, name: str, rank: int, least: float = -math.inf) -> tuple[float, ...]:
    values = given.get(name)
    where = f"{place}.{name}".lstrip(".")
    if not isinstance(values, list | tuple) or len(values) != rank or not all(map(_is_number, values)):
        raise _expected(where, f"{rank} numbers, one for each dimension", values)
    if not all(value > least for value in values):
        raise _expected(where, f"numbers greater than {least:g}", values)
    return tuple(values)


def _integers(given: Mapping[str, Any], place: str, name: str, rank: int) -> tuple[int, ...]:
    values = _numbers(given, place, name, rank, least=0)
    if any(value != int(value) for value in values) or max(values) > MAX_GRID:
        raise _expected(f"{place}.{name}", f"integers from 1 to {MAX_GRID}", [*values])
    return tuple(map(int, values))


def _kind(given: object) -> str:
    kind = given.lower() if isinstance(given, str) else ""
    if kind not in KINDS:
        raise _expected("annotation_type", f"one of {', '.join(KINDS)}", given)
    return kind


def _dimensions(given: object) -> dict[str, Dimension]:
    if not isinstance(given, Mapping) or not 1 <= len(given) <= MAX_RANK:
        raise _expected("dimensions", f"an object of 1 to {MAX_RANK} members", given)
    return {name: _dimension(value, f"dimensions.{name}") for name, value in given.items()}


def _dimension(given: object, place: str) -> Dimension:
    what = 'a positive number and a unit, such as [4e-9, "m"]'
    if isinstance(given, Mapping):  # Neuroglancer's dimensions of labelled coordinates: the client takes them as 1
        return Dimension(1, "")
    if not isinstance(given, list | tuple) or len(given) != 2:  # noqa: PLR2004 - a pair
        raise _expected(place, what, given)
    scale, unit = given
    if not _is_number(scale) or scale <= 0 or not isinstance(unit, str) or not _UNITS.fullmatch(unit):
        raise _expected(place, what, given)
    return Dimension(scale, unit)


def property_of(given: object, place: str) -> Property:
    """Read a member of `properties`."""
    members = _object(given, place)
    name, kind = _string(members, place, "id"), _string(members, place, "type")
    if not _PROPERTY_ID.fullmatch(name):
        raise _expected(f"{place}.id", f"a name that matches {_PROPERTY_ID.pattern}", name)
    if kind not in PROPERTY_TYPES:
        raise _expected(f"{place}.type", f"one of {', '.join(PROPERTY_TYPES)}", kind)
    description = members.get("description")
    if description is not None and not isinstance(description, str):
        raise _expected(f"{place}.description", "a string", description)
    made = Property(name, kind, description or "")
    if members.get("enum_values") is None or made.is_colour:
        return made
    return Property(name, kind, made.description, *_enum(members, place, made.encoding))


def _enum(members: Mapping[str, Any], place: str, encoding: PropertyType) -> tuple[tuple[float, ...], tuple[str, ...]]:
    values, labels = members["enum_values"], members.get("enum_labels")
    low, high = encoding.low, encoding.high
    is_whole = encoding.dtype != PROPERTY_TYPES["float32"].dtype
    if not isinstance(values, list | tuple) or not all(
        _is_number(value) and low <= value <= high and (not is_whole or value == int(value)) for value in values
    ):
        raise _expected(f"{place}.enum_values", "a list of values of the type", values)
    if (
        not isinstance(labels, list | tuple)
        or len(labels) != len(values)
        or not all(isinstance(label, str) for label in labels)
    ):
        raise _expected(f"{place}.enum_labels", f"{len(values)} strings, one for each of enum_values", labels)
    return tuple(int(value) if is_whole else value for value in values), tuple(labels)


def _index(given: object, place: str) -> Index:
    members = _object(given, place)
    key = _string(members, place, "key")
    if key.startswith("/") or "://" in key or "\0" in key:
        raise _expected(f"{place}.key", "a relative path", key)
    sharding = members.get("sharding")
    return Index(key, None if sharding is None else Sharding.from_info(sharding, f"{place}.sharding"))


def _relationship(given: object, place: str) -> Relationship:
    return Relationship(_string(_object(given, place), place, "id"), _index(given, place))


def _level(given: object, place: str, rank: int) -> Level:
    members = _object(given, place)
    limit = members.get("limit")
    if not _is_number(limit) or limit != int(_float(limit)) or limit < 0:
        raise _expected(f"{place}.limit", "an integer of at least 0", limit)
    grid, size = _integers(members, place, "grid_shape", rank), _numbers(members, place, "chunk_size", rank, least=0)
    index = _index(given, place)
    if index.sharding is not None:
        try:
            check_id_bits(grid)
        except ValueError as exc:
            raise InvalidInfoError(f"{place}.grid_shape: {exc}") from exc
        index = replace(index, sharding=replace(index.sharding, scale_chunks=1 << id_bits(grid)))
    return Level(index, grid, size, int(_float(limit)))


def _check_unique(name: str, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise _expected(name, "each id once", twice)


def _number(value: float) -> float:
    """Return a whole number as an integer, as JSON shows it best."""
    return int(value) if float(value).is_integer() else float(value)


def encoding_order(properties: Iterable[Property]) -> list[Property]:
    """Sort properties as records have them: those of 4 bytes first, else in the order of `info`."""
    return sorted(properties, key=lambda each: -each.encoding.alignment)
