"""How the columns of a table become segment properties: exactly, or not at all."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import InvalidInfoError, expected_one_of, shown
from precomputed_fs.format.segment_properties import (
    DESCRIPTION,
    FLOAT,
    INTEGER_RANGES,
    LABEL,
    NUMBER,
    STRING,
    TAGS,
    SegmentProperty,
    violations_of,
)

_TAGS_NAME = "tags"  # of the property that is made of columns of booleans
_INTEGERS = ("int32", "uint32")  # what wider ones become
_COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)


class ColumnError(ValueError):
    """A column cannot be stored as it is; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What the columns of a table are to be, as the caller has it."""

    label: str | None = None
    description: str | None = None
    tags: str | Sequence[str] | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict)
    tag_descriptions: Mapping[str, str] = field(default_factory=dict)

    def check(self, columns: Collection[str]) -> None:
        """Check that all columns that are named are there.

        Raises
        ------
        ValueError
            If one is not, or one column is to be two things.
        """
        tags = () if self.tags is None else (self.tags,) if isinstance(self.tags, str) else self.tags
        for what, names in (
            ("label", [self.label] if self.label is not None else []),
            ("description", [self.description] if self.description is not None else []),
            ("tags", tags),
            ("descriptions", self.descriptions),
        ):
            for name in names:
                if name not in columns:
                    raise ValueError(expected_one_of(what, list(map(str, columns)), name))
        if self.label is not None and self.label == self.description:
            raise ValueError(f"description: expected another column than that of the labels, got {self.label!r}")

    def type_of_texts(self, name: str) -> str:
        """Return the type of a property of texts; a column called "label" is the label, unless another one is."""
        for kind, chosen in ((LABEL, self.label), (DESCRIPTION, self.description)):
            if name == (kind if chosen is None else chosen):
                return kind
        return STRING


def properties_of_columns(columns: Mapping[str, Any], ids: Sequence[int], roles: Roles) -> list[dict[str, Any]]:
    """Return columns as the properties of an `info`.

    Raises
    ------
    ColumnError
        If a column cannot be stored exactly; the message lists all that cannot, and what to do.
    ValueError
        If `roles` are of columns or tags that there are not.
    """
    roles.check(columns)
    flags = [] if roles.tags is None or isinstance(roles.tags, str) else list(roles.tags)
    made: list[dict[str, Any]] = []
    problems: list[str] = []
    for name, given in columns.items():
        try:
            if name not in flags:
                made.append(_checked(_property(name, _Column.of(name, given, ids), roles)))
            elif name == next(each for each in columns if each in flags):
                made.append(_checked(_flag_property(columns, flags, ids, roles)))
        except ColumnError as exc:
            problems.append(str(exc))
    if problems:
        raise ColumnError("; ".join(problems))
    if roles.tag_descriptions and not any(each["type"] == TAGS for each in made):
        raise ValueError("tag_descriptions: there are no tags: tags=... tells which columns have some")
    return made


def _checked(made: dict[str, Any]) -> dict[str, Any]:
    """Check that a property is as the specification has it."""
    where = f"column {made['id']!r}: "
    try:
        problem = next(violations_of(SegmentProperty(made)), None)
    except InvalidInfoError as exc:
        raise ColumnError(where + str(exc.args[0]).lstrip(".")) from exc
    if problem is not None:
        raise ColumnError(where + problem.lstrip("."))
    return made


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table, with an array of its values: numbers, booleans, or objects."""

    name: str
    values: NDArray[Any]
    ids: Sequence[int]

    @classmethod
    def of(cls, name: str, given: Any, ids: Sequence[int]) -> "_Column":  # noqa: ANN401 - an array or a Series
        if not isinstance(name, str):
            raise ColumnError(f"column {name!r}: expected a text as name, got {type(name).__name__}")
        if not hasattr(given, "dtype"):
            if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
                raise ColumnError(f"column {name!r}: expected a value for each segment, got {shown(given)}")
            given = _objects(given)
        is_missing = np.asarray(given.isna()) if hasattr(given, "isna") else np.ma.getmaskarray(given)
        values = given.to_numpy() if hasattr(given, "to_numpy") else np.asarray(given)
        if values.shape != (len(ids),):
            raise ColumnError(f"column {name!r}: expected a value for each of {len(ids)} segments, got {values.shape}")
        if values.dtype.kind in "UT":
            values = values.astype(object)
        made = cls(name, values, ids)
        made.check_not_missing(is_missing | made.missing())
        return made

    @property
    def kinds(self) -> set[type]:
        """The types of the objects; empty if there are none."""
        return set(map(type, self.values)) if self.values.dtype.kind == "O" else set()

    def missing(self) -> NDArray[np.bool_]:
        """Return which values are missing."""
        count = len(self.values)
        if self.values.dtype.kind == "f":
            return np.fromiter(np.isnan(self.values), np.bool_, count)
        if all(issubclass(kind, (str, *_COLLECTIONS)) for kind in self.kinds):
            return np.zeros(count, np.bool_)
        return np.fromiter(map(_is_missing, self.values), np.bool_, count)

    def check_not_missing(self, is_missing: NDArray[np.bool_]) -> None:
        if is_missing.any():
            count, first = int(is_missing.sum()), self.ids[int(is_missing.argmax())]
            kind = "''" if any(isinstance(value, str) for value in self.values) else "a value such as 0 or -1"
            what = f"{count} missing, first of segment {first}, and the format has no missing values"
            raise self.error(f"{what}: .fillna(...) with {kind}, or leave these segments out")

    def error(self, message: str) -> ColumnError:
        return ColumnError(f"column {self.name!r}: {message}")


def _property(name: str, column: _Column, roles: Roles) -> dict[str, Any]:
    """Return a column as a property."""
    kinds = column.kinds
    made: dict[str, Any] = {"id": name}
    if name == roles.tags or (kinds and all(issubclass(kind, _COLLECTIONS) for kind in kinds)):
        if roles.tags is not None and name != roles.tags:
            raise column.error("has lists, which only tags have, and these are others: choose one with tags=...")
        made |= _tags([_tag_set(column, value) for value in column.values], roles)
    elif column.values.dtype.kind == "O" and all(issubclass(kind, str) for kind in kinds):  # or there is no row
        made |= {"type": roles.type_of_texts(name), "values": list(map(str, column.values))}
    elif name in (roles.label, roles.description):
        raise column.error(f"expected texts, got {_kind_of(column)}: table[{name!r}].astype(str) makes some")
    else:
        made |= _numbers(column)
    if name in roles.descriptions:
        made["description"] = roles.descriptions[name]
    return made


# ------------------------------------------------------------------------------------------------------------- numbers


def _numbers(column: _Column) -> dict[str, Any]:
    values = column.values
    if values.dtype.kind == "O":
        values = _from_objects(column)
    data_type = _data_type_of(column, values)
    if data_type == FLOAT:
        narrow = values.astype(np.float32)
        plain = narrow.astype(str).astype(np.float64)  # the shortest that float32 reads as the same
        return {"type": NUMBER, "data_type": data_type, "values": plain.tolist()}
    return {"type": NUMBER, "data_type": data_type, "values": values.tolist()}


def _data_type_of(column: _Column, values: NDArray[Any]) -> str:
    """Return the data type that has all values exactly."""
    name = values.dtype.name
    if values.dtype.kind in "iu":
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        for data_type in (name, *_INTEGERS):
            least, most = INTEGER_RANGES.get(data_type, (0, -1))
            if least <= low and high <= most:
                return data_type
        outside = high if high > INTEGER_RANGES["int32"][1] else low
        what = f"{outside} does not fit into 32 bits, the most that the format has"
        raise column.error(f"{what}: .astype('float32') rounds, .astype(str) keeps all digits")
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise column.error("has infinite values, which JSON cannot say: replace them, or leave these segments out")
        if (narrow == values).all():
            return FLOAT
        lost = values[narrow != values][0]
        what = f"is {name}, and {lost} would be rounded in float32, the only floats that the format has"
        raise column.error(f"{what}: .astype('float32') rounds")
    if values.dtype.kind == "b":
        how = f"tags=[{column.name!r}] makes a tag of it, .astype('uint8') a number"
        raise column.error(f"is of booleans, which the format does not have: {how}")
    raise column.error(f"is of {_kind_of(column)}, which the format does not have: .astype(str) makes texts")


def _from_objects(column: _Column) -> NDArray[Any]:
    """Return Python's numbers as an array; one of other objects stays as it is."""
    kinds = column.kinds
    are_booleans = [issubclass(kind, (bool, np.bool_)) for kind in kinds]
    are_numbers = [issubclass(kind, (int, float, np.number)) for kind in kinds]
    if all(are_booleans) or (all(are_numbers) and not any(are_booleans)):
        plain = [value.item() if isinstance(value, np.generic) else value for value in column.values]
        made = np.array(plain)
        if made.dtype.kind == "f" and made.tolist() != plain:  # Python compares integers with floats exactly
            lost = next(value for value, near in zip(plain, made.tolist(), strict=True) if value != near)
            raise column.error(f"{lost} would be rounded in float64, as there are floats or large integers beside it")
        return made
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise column.error(f"has values of several types, {names}: .astype(str) makes texts")
    return column.values


def _kind_of(column: _Column) -> str:
    if column.values.dtype.kind != "O" or not len(column.values):
        return str(column.values.dtype)
    return type(column.values[0]).__name__


# ---------------------------------------------------------------------------------------------------------------- tags


def _tags(sets: list[frozenset[str]], roles: Roles) -> dict[str, Any]:
    """Return the tags of all segments as a property; those that are described come first, others by name."""
    found = {tag for tags in sets for tag in tags}
    names = [*roles.tag_descriptions, *sorted(found - roles.tag_descriptions.keys())]
    numbers = {name: number for number, name in enumerate(names)}
    made: dict[str, Any] = {"type": TAGS, "tags": names}
    if any(roles.tag_descriptions.values()):
        made["tag_descriptions"] = [roles.tag_descriptions.get(name, "") for name in names]
    return {**made, "values": [sorted(numbers[tag] for tag in tags) for tags in sets]}


def _tag_set(column: _Column, value: Any) -> frozenset[str]:  # noqa: ANN401 - checked here
    if not isinstance(value, _COLLECTIONS) or not all(isinstance(tag, str) for tag in value):
        raise column.error(f"expected lists of tags, such as ['a', 'b'], got {shown(value)}")
    return frozenset(map(str, value))


def _flag_property(columns: Mapping[str, Any], flags: list[str], ids: Sequence[int], roles: Roles) -> dict[str, Any]:
    """Return columns of booleans as one property."""
    taken = [name for name in columns if name == _TAGS_NAME and name not in flags]
    if taken:
        raise ColumnError(f"column {_TAGS_NAME!r}: that is the name of the property that tags=[...] makes: rename it")
    rows: list[set[str]] = [set() for _ in ids]
    for name in flags:
        column = _Column.of(name, columns[name], ids)
        values = np.array(column.values.tolist()) if column.values.dtype.kind == "O" else column.values
        if values.dtype.kind != "b" and len(values):
            raise column.error(f"expected booleans, of which tags=[...] makes tags, got {_kind_of(column)}")
        for row in np.flatnonzero(values):
            rows[row].add(name)
    described = {name: roles.tag_descriptions.get(name, "") for name in flags} | dict(roles.tag_descriptions)
    return {"id": _TAGS_NAME, **_tags(list(map(frozenset, rows)), Roles(tag_descriptions=described))}


# ------------------------------------------------------------------------------------------------------------- objects


def _objects(given: Iterable[Any]) -> NDArray[Any]:
    listed = list(given)
    made: NDArray[Any] = np.empty(len(listed), object)
    made[:] = listed
    return made


def _is_missing(value: object) -> bool:
    """Whether a value is None, NaN, NaT or pandas' NA, none of which equals itself for sure."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value  # noqa: PLR0124 - NaN
