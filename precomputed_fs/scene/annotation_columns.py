"""How a table becomes annotations: which columns are coordinates, properties and relationships, and their types."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import did_you_mean, expected_one_of, shown
from precomputed_fs.format.annotation import Block, Ragged, properties_dtype
from precomputed_fs.format.annotation_info import (
    KINDS,
    PROPERTY_TYPES,
    Property,
    check_property_id,
    encoding_order,
    property_of,
)
from precomputed_fs.scene.annotation_arrays import array_of, coordinates_of, is_missing, numbers_of
from precomputed_fs.scene.annotation_values import BOOLEAN, ID_COLUMN, POINTS_COLUMN, Annotations, coordinate_columns
from precomputed_fs.scene.exactness import differing
from precomputed_fs.volume.progress import warn

Array = NDArray[Any]

Properties = Sequence[str] | Mapping[str, Any] | None
"""Names of columns; or for each property its type, a mapping as in `info`, or its values."""

Relationships = Sequence[str] | Mapping[str, Any] | None
"""Names of columns; or for each relationship the name of its column, or its values."""

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}([0-9a-fA-F]{2})?")
_MOST_LABELS = 1000  # distinct texts that are taken for categories
_TOO_LARGE = 2.0**53  # from here on, float64 rounds integers
_LARGEST_ERROR = 0.5  # units by which coordinates are rounded without a warning
_PAIR = 2
_IDS = 1 << 64
_SHOWN_COLUMNS = 12
_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")


class Table(NamedTuple):
    """Columns of equal length, and coordinates that are not among them."""

    columns: Mapping[str, Any]
    length: int
    geometry: Array | Ragged | None = None
    """As in `Block`; None if columns have the coordinates."""

    ids: Array | None = None
    """uint64; None if a column has them, or they are counted."""

    known: Mapping[str, Property] = {}
    """What is known of columns that are properties."""

    related: Mapping[str, str] = {}
    """The columns of relationships, where these are known."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a table's columns mean."""

    kind: str
    axes: tuple[str, ...]
    properties: tuple[Property, ...]
    relationships: Mapping[str, str]
    """The columns of the relationships."""

    ids: str | None
    """The column of the ids; None to count."""


# --------------------------------------------------------------------------------------------------------------- tables


def table_of(given: Any, kind: str, axes: Sequence[str]) -> Table:  # noqa: ANN401 - whatever people have
    """Return what was given as columns.

    Raises
    ------
    TypeError, ValueError
        If it is neither a table nor an array of coordinates of such annotations.
    """
    if isinstance(given, Annotations):
        return _of_annotations(given, kind, axes)
    if hasattr(given, "columns") and hasattr(given, "index"):  # a DataFrame
        names = [*map(str, given.columns)]
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"expected columns with different names, got {shown(twice)} twice")
        columns = {str(name): given[name] for name in given.columns}
        if given.index.name == ID_COLUMN:
            columns.setdefault(ID_COLUMN, given.index)
        return Table(columns, len(given))
    if isinstance(given, Mapping):
        lengths = {name: len(column) for name, column in given.items()}
        if len({*lengths.values()}) > 1:
            told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ValueError(f"expected columns of equal length: {told}")
        return Table(given, next(iter(lengths.values()), 0))
    if hasattr(given, "columns"):  # a table of polars or pyarrow, whose columns NumPy would take in their order
        what = f"expected a DataFrame of pandas or a mapping of columns, got {type(given).__name__}"
        raise TypeError(f"{what}: its to_pandas() makes one")
    geometry = _lines_of(given, axes) if kind == "polyline" else _coordinates_of(given, kind, axes)
    return Table({}, len(geometry.lengths) if isinstance(geometry, Ragged) else len(geometry), geometry)


def _of_annotations(given: Annotations, kind: str, axes: Sequence[str]) -> Table:
    """Return annotations of another collection as columns, with what is known of them."""
    if given.kind != kind:
        raise ValueError(f"kind: expected {given.kind!r}, as these annotations are, got {kind!r}")
    if [*given.info.dimensions] != [*axes]:
        raise ValueError(
            f"dimensions: expected {', '.join(given.info.dimensions)}, as of these annotations, got {', '.join(axes)}"
        )
    columns: dict[str, Any] = dict(given.properties)
    related = {}
    for name, lists in zip(given.related or (), given.block.related or (), strict=True):
        related[name] = name if name not in columns else f"{name} (objects)"
        columns[related[name]] = lists
    known = {each.id: each for each in given.info.properties}
    return Table(columns, len(given), given.block.geometry, given.ids, known, related)


def _coordinates_of(given: Any, kind: str, axes: Sequence[str]) -> Array:  # noqa: ANN401
    vectors, rank = KINDS[kind], len(axes)
    try:
        array = coordinates_of(given, "coordinates")
    except (TypeError, ValueError) as exc:
        raise TypeError(f"expected a table or an array of coordinates, got {type(given).__name__}: {exc}") from exc
    if array.size == 0 and array.ndim <= 1:
        return np.zeros((0, vectors, rank))
    if array.shape[1:] not in ((vectors * rank,), (vectors, rank)):
        shape = f"(n, {rank})" if vectors == 1 else f"(n, {vectors}, {rank}) or (n, {vectors * rank})"
        raise ValueError(f"expected an array {shape} for {kind} annotations in {', '.join(axes)}, got {array.shape}")
    return array.reshape(len(array), vectors, rank)


def _lines_of(given: Iterable[Any], axes: Sequence[str]) -> Ragged:
    lines = [coordinates_of(line, f"polyline {i}") for i, line in enumerate(given)]
    for i, line in enumerate(lines):
        if line.ndim != _PAIR or line.shape[1] != len(axes) or len(line) < _PAIR:
            raise ValueError(
                f"polyline {i}: expected an array (points, {len(axes)}) of at least 2 points, got shape {line.shape}"
            )
    values = np.concatenate([np.zeros((0, len(axes))), *lines])
    return Ragged.of(values, np.array([len(line) for line in lines], np.int64))


# --------------------------------------------------------------------------------------------------------------- schema


def schema_of(
    table: Table,
    kind: str,
    axes: Sequence[str],
    *,
    properties: Properties,
    relationships: Relationships,
    ids: str | None,
    is_all: bool,
) -> Schema:
    """Decide what the columns of a table mean.

    Parameters
    ----------
    properties, relationships
        Without values: those are columns of the table already.
    ids : str, optional
        The column of the ids; by default ``id``, if there is one.
    is_all : bool
        Whether the table has all annotations, so that its values tell the smallest types of integers.

    Raises
    ------
    ValueError
        If a column is absent or of no type that a property can have.
    """
    if ids is None and table.ids is None and ID_COLUMN in table.columns:
        ids = ID_COLUMN
    related = _named(table.related if relationships is None else relationships)
    related = {name: str(column or name) for name, column in related.items()}
    places = [] if table.geometry is not None else coordinate_columns(kind, axes)
    if properties is None:
        used = {*places, *related.values(), *table.related.values(), ids}
        specs: dict[str, Any] = {name: None for name in table.columns if name not in used}
    else:
        specs = _named(properties)
    for what, names in (("relationships", related.values()), ("properties", specs), ("ids", [ids] if ids else [])):
        for name in names:
            _check_column(name, table, what)
    specs = {name: table.known.get(name) if spec is None else spec for name, spec in specs.items()}
    made = [_property(name, table.columns[name], spec, is_all=is_all) for name, spec in specs.items()]
    return Schema(kind, tuple(axes), tuple(encoding_order(made)), related, ids)


def _named(given: Sequence[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return {**given}
    return dict.fromkeys([given] if isinstance(given, str) else given or ())


def _check_column(name: str, table: Table, what: str) -> None:
    if name not in table.columns:
        known = [*map(str, table.columns)][:_SHOWN_COLUMNS]
        raise ValueError(f"{what}: there is no column {name!r} among {', '.join(known)}{did_you_mean(name, known)}")


def _property(name: str, values: Any, spec: Any, *, is_all: bool) -> Property:  # noqa: ANN401
    """Return a property as it was described, or as its values suggest."""
    try:
        check_property_id(name)
    except ValueError as exc:
        raise ValueError(f"{exc}: rename the column, or list others in `properties`") from exc
    if isinstance(spec, Property):
        return spec
    if isinstance(spec, str):
        if spec not in PROPERTY_TYPES:
            raise ValueError(expected_one_of(f"type of property {name!r}", PROPERTY_TYPES, spec))
        return Property(name, spec)
    described: Mapping[str, Any] = spec or {}
    if "type" not in described:
        described = {**_inferred(name, values, is_all=is_all).to_info(), **described}
    return property_of({**described, "id": name}, f"property {name!r}")


def _inferred(name: str, values: Any, *, is_all: bool) -> Property:  # noqa: ANN401
    categories = getattr(getattr(values, "dtype", None), "categories", None)
    if categories is not None:
        return _labelled(name, [str(label) for label in categories])
    array = numbers_of(values, f"column {name!r}")
    if array.ndim == _PAIR and array.dtype == np.uint8 and array.shape[1] in (3, 4):
        return Property(name, "rgb" if array.shape[1] == 3 else "rgba")  # noqa: PLR2004 - colours
    if array.ndim == 1 and array.dtype.kind == "b":
        return Property(name, "uint8", "", *BOOLEAN)
    if array.ndim == 1 and array.dtype.kind in "iu":
        return Property(name, _integer_type(name, array, is_all=is_all))
    if array.ndim == 1 and array.dtype.kind == "f":
        return Property(name, "float32")
    if array.ndim == 1 and array.dtype.kind in "OUT":
        return _of_texts(name, array, is_all=is_all)
    raise ValueError(f"column {name!r}: its type {array.dtype} is none that a property can have{_ADVICE}")


_ADVICE = "; list the columns that are to be stored in `properties`, and those with ids of objects in `relationships`"


def _labelled(name: str, labels: Sequence[str]) -> Property:
    kind = next(kind for kind in ("uint8", "uint16", "uint32") if len(labels) < PROPERTY_TYPES[kind].high)
    return Property(name, kind, "", tuple(range(len(labels))), tuple(labels))


def _integer_type(name: str, array: Array, *, is_all: bool) -> str:
    if array.dtype.name in _INTEGERS:
        return array.dtype.name
    if not is_all:
        return "uint32" if array.dtype.kind == "u" else "int32"
    low, high = (int(array.min()), int(array.max())) if len(array) else (0, 0)
    for kind in _INTEGERS:
        if PROPERTY_TYPES[kind].low <= low and high <= PROPERTY_TYPES[kind].high:
            return kind
    raise ValueError(f"column {name!r}: no property can have {high if high > 0 else low}, which takes 64 bits{_ADVICE}")


def _of_texts(name: str, array: Array, *, is_all: bool) -> Property:
    texts = [text for text in array.tolist() if not is_missing(text)]
    if len(array) and not texts:
        raise ValueError(f"column {name!r}: expected values, got none in any row{_ADVICE}")
    if not all(isinstance(text, str) for text in texts):
        other = next(text for text in texts if not isinstance(text, str))
        raise ValueError(f"column {name!r}: expected numbers or texts, got {shown(other)}{_ADVICE}")
    if texts and len(texts) == len(array) and all(map(_COLOUR.fullmatch, texts)):
        return Property(name, "rgba" if any(len(text) == len("#rrggbbaa") for text in texts) else "rgb")
    if not is_all:
        message = (
            "its texts become labels, which must be known before the first block: pass enum_values and enum_labels"
        )
        raise ValueError(f"column {name!r}: {message} in `properties`, or make the column categorical")
    labels = sorted({*texts})
    if len(labels) > _MOST_LABELS:
        raise ValueError(f"column {name!r}: {len(labels)} different texts are too many for labels{_ADVICE}")
    return _labelled(name, labels)


# --------------------------------------------------------------------------------------------------------------- blocks


def block_of(table: Table, schema: Schema, first_id: int) -> Block:
    """Return the annotations of a table.

    Parameters
    ----------
    first_id : int
        That of the first row, if ids are counted.

    Raises
    ------
    ValueError
        If a column is absent, or has a value that cannot be stored.
    """
    properties = np.zeros(table.length, properties_dtype(schema.properties))
    for each in schema.properties:
        _check_column(each.id, table, "properties")
        properties[each.id] = _stored(table.columns[each.id], each)
    for column in schema.relationships.values():
        _check_column(column, table, "relationships")
    related = tuple(_related(table.columns[column], column) for column in schema.relationships.values())
    ids = np.arange(first_id, first_id + table.length, dtype=np.uint64) if table.ids is None else table.ids
    if schema.ids is not None:
        _check_column(schema.ids, table, "ids")
        place = f"column {schema.ids!r}"
        ids = ids_of(table.columns[schema.ids], place)
    return Block(ids, _geometry(table, schema), properties, related)


def _geometry(table: Table, schema: Schema) -> Array | Ragged:
    geometry = table.geometry
    names = coordinate_columns(schema.kind, schema.axes)
    if geometry is None:
        if missing := [name for name in names if name not in table.columns]:
            needed = f"{schema.kind} annotations need the columns {', '.join(names)}"
            there = ", ".join([*map(str, table.columns)][:_SHOWN_COLUMNS])
            raise ValueError(
                f"there is no column {', '.join(missing)}: {needed}, got {there}; rename columns, or name other axes "
                "in `dimensions`"
            )
        if schema.kind == "polyline":
            geometry = _lines_of(table.columns[POINTS_COLUMN], schema.axes)
        else:
            columns = [coordinates_of(table.columns[name], f"column {name!r}") for name in names]
            geometry = np.stack(columns, axis=1).reshape(table.length, KINDS[schema.kind], len(schema.axes))
    if isinstance(geometry, Ragged):
        owners = np.repeat(np.arange(table.length), geometry.lengths)
        return geometry._replace(values=_finite(geometry.values, owners, "point of a polyline"))
    return _finite(geometry, np.arange(table.length), "coordinate")


def _finite(values: Array, rows: Array, what: str) -> Array:
    """Return coordinates as float32, which the format has."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    is_bad = ~np.isfinite(rounded).all(axis=tuple(range(1, values.ndim)))
    if is_bad.any():
        first = int(np.argmax(is_bad))
        got = shown(values[first].reshape(-1).tolist())
        others = int(is_bad.sum()) - 1
        more = f", and {others} more: drop them first, such as with df.dropna()" if others else ""
        raise ValueError(f"row {rows[first]}: expected finite float32 for each {what}, got {got}{more}")
    error = float(np.abs(rounded - values).max(initial=0))
    if error > _LARGEST_ERROR:
        advice = "the format has float32: give larger units in `dimensions`, such as voxels instead of nanometres"
        warn(f"coordinates are rounded by up to {error:g}, as {advice}")
    return rounded


def _stored(values: Any, each: Property) -> Array:  # noqa: ANN401
    """Return the values of a property as they are encoded."""
    place = f"column {each.id!r}"
    if each.is_colour:
        return _colours(values, each, place)
    labels = dict(zip(each.enum_labels, each.enum_values, strict=True))
    categories = getattr(getattr(values, "dtype", None), "categories", None)
    if categories is not None and labels:
        by_code = np.array([*(_value_of(str(label), labels, place) for label in categories), _unused(each)])
        array = by_code[np.asarray(values.cat.codes if hasattr(values, "cat") else values.codes)]
    else:
        array = numbers_of(values, place)
        if array.dtype.kind in "OUT" and (labels or not len(array)):
            texts = array.tolist()
            array = np.array([_unused(each) if is_missing(text) else _value_of(text, labels, place) for text in texts])
    return _in_range(array, each, place)


def _value_of(label: Any, labels: Mapping[str, float], place: str) -> float:  # noqa: ANN401
    if label not in labels:
        raise ValueError(f"{place}: {shown(label)} is not among enum_labels{did_you_mean(label, labels)}")
    return labels[label]


def _unused(each: Property) -> float:
    """Return a value without a label, which stands for what is missing."""
    return max(each.enum_values, default=-1) + 1


def _in_range(array: Array, each: Property, place: str) -> Array:
    encoding = each.encoding
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"{place}: expected {each.type}, got {array.dtype} of shape {array.shape}")
    if each.type == "float32":
        with np.errstate(over="ignore"):
            rounded = array.astype(np.float32)
        is_bad = np.isinf(rounded) & np.isfinite(array)
        _warn_of_rounded(array, rounded, place)
    else:
        is_bad = ~((array >= encoding.low) & (array <= encoding.high))
        if array.dtype.kind == "f":
            is_bad |= array != np.floor(array)
        rounded = array
    if is_bad.any():
        row = int(np.argmax(is_bad))
        span = "" if each.type == "float32" else f" ({encoding.low:g} to {encoding.high:g})"
        raise ValueError(f"{place}: expected {each.type}{span}, got {array[row]} in row {row}")
    return rounded.astype(encoding.dtype)


def _warn_of_rounded(array: Array, rounded: Array, place: str) -> None:
    """Warn of whole numbers that float32 does not have: they may be ids, which became floats as some are missing."""
    with np.errstate(invalid="ignore"):
        is_other = np.isfinite(rounded) & (array == np.floor(array)) & differing(array, rounded)
    if is_other.any():
        row = int(np.argmax(is_other))
        advice = "make them integers, or list them in `relationships` if they are ids of objects"
        warn(
            f"{place}: float32 rounds {int(is_other.sum())} of {len(array)} values that are whole numbers, such as "
            f"{array[row]:.0f} to {rounded[row]:.0f} in row {row}: {advice}"
        )


def _colours(values: Any, each: Property, place: str) -> Array:  # noqa: ANN401
    array = array_of(values, place)
    count = each.encoding.components
    if array.ndim == 1 and array.dtype.kind in "OUT":
        texts = array.tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not _COLOUR.fullmatch(text) or len(text) // 2 > count:
                example = "#ff8000" if each.type == "rgb" else "#ff8000ff"
                raise ValueError(f"{place}: expected {each.type} such as {example!r}, got {shown(text)} in row {row}")
        opaque = [text[1:] + "ff" for text in texts]  # of those without alpha
        joined = bytes.fromhex("".join(text[: 2 * count] for text in opaque))
        return np.frombuffer(joined, np.uint8).reshape(len(texts), count)
    if array.ndim != _PAIR or array.shape[1] != count or array.dtype.kind not in "iu":
        raise ValueError(f"{place}: expected {each.type}, texts or an array (n, {count}) of uint8, got {array.dtype}")
    if array.size and not (array.min() >= 0 and array.max() <= each.encoding.high):
        raise ValueError(f"{place}: expected {each.type} (0 to 255), got {array.min()} to {array.max()}")
    return array.astype(np.uint8)


def _related(values: Any, name: str) -> Ragged:  # noqa: ANN401
    """Return the object ids of each row: one, several, or none."""
    if isinstance(values, Ragged):
        return values
    place = f"column {name!r}"
    array = array_of(values, place)
    if array.dtype.kind in "iuf" and array.ndim in (1, _PAIR):
        table = array.reshape(len(array), -1)
        is_given = ~np.isnan(table) if array.dtype.kind == "f" else np.ones(table.shape, bool)
        return Ragged.of(_ids(table[is_given], place), is_given.sum(axis=1))
    lists = [_listed(item) for item in array.tolist()] if array.ndim == 1 else [*array]
    lengths = np.array([*map(len, lists)], np.int64)
    if lists and all(isinstance(item, np.ndarray) for item in lists) and len({item.dtype for item in lists}) == 1:
        return Ragged.of(_ids(np.concatenate(lists), place), lengths)  # of several types, NumPy may make floats
    items = np.empty(int(lengths.sum()), object)
    items[:] = [item for row in lists for item in row]
    return Ragged.of(_ids(items, place), lengths)


def _listed(item: Any) -> Any:  # noqa: ANN401
    if is_missing(item):
        return ()
    if isinstance(item, np.ndarray) and item.ndim == 1:
        return item
    return [*item] if isinstance(item, Iterable) and not isinstance(item, (str, bytes)) else [item]


def ids_of(values: Any, place: str) -> Array:  # noqa: ANN401
    """Return ids as uint64.

    Raises
    ------
    ValueError
        If they are not exact.
    """
    return _ids(array_of(values, place), place)


def _ids(array: Array, place: str) -> Array:
    """Return ids as uint64."""
    if array.dtype.kind == "O":
        try:
            return np.array([_one_id(item) for item in array.tolist()], np.uint64)
        except ValueError as exc:
            raise ValueError(f"{place}: {exc}") from exc
    if array.dtype.kind not in "iuf" or array.ndim != 1:
        raise ValueError(f"{place}: expected ids, integers of at least 0, got {array.dtype}")
    is_bad = ~(array >= 0)
    if array.dtype.kind == "f":
        is_bad |= (array != np.floor(array)) | (array >= _TOO_LARGE)
    if is_bad.any():
        row = int(np.argmax(is_bad))
        what = "ids, integers of at least 0"
        if array.dtype.kind == "f" and array[row] >= _TOO_LARGE:
            what = "exact ids: floats are rounded beyond 2**53, read them as integers, such as with dtype='uint64'"
        raise ValueError(f"{place}: expected {what}, got {array[row]!r} in row {row}")
    return array.astype(np.uint64)


def _one_id(item: Any) -> int:  # noqa: ANN401
    if isinstance(item, bool) or not isinstance(item, (int, np.integer)) or not 0 <= item < _IDS:
        raise ValueError(f"expected ids, integers from 0 to 2**64 - 1, got {shown(item)}")
    return int(item)
