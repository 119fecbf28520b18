"""Segment properties as `neuroglancer_segment_properties` has them: one `info` with all segments and their values.

Readers are lenient where the meaning is clear, such as with two labels, or tags in any order; what `violations` lists
is never written.
"""

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from precomputed_fs.errors import InvalidInfoError, shown
from precomputed_fs.format.info_members import expected, problems_of, read_all, whole
from precomputed_fs.format.info_objects import InfoObject, check_type, member, parse_typed
from precomputed_fs.format.info_text import JSON, MAX_INFO_BYTES

SEGMENT_PROPERTIES_TYPE = "neuroglancer_segment_properties"

LABEL, DESCRIPTION, STRING, TAGS, NUMBER = PROPERTY_TYPES = ("label", "description", "string", "tags", "number")
"""The types of properties. Of the first two and of tags, there is at most one."""

INTEGER_RANGES: Mapping[str, tuple[int, int]] = {
    "uint8": (0, (1 << 8) - 1),
    "int8": (-1 << 7, (1 << 7) - 1),
    "uint16": (0, (1 << 16) - 1),
    "int16": (-1 << 15, (1 << 15) - 1),
    "uint32": (0, (1 << 32) - 1),
    "int32": (-1 << 31, (1 << 31) - 1),
}
"""The data types of integers, each with its least and its largest value."""

FLOAT = "float32"
NUMBER_TYPES = (*INTEGER_RANGES, FLOAT)
"""The data types of numbers."""

MAX_PROPERTIES = 4096
"""Properties of a segment; the specification has no limit."""

MAX_TAGS = 1 << 16
"""Tags of a property: Neuroglancer's client stores them as the characters of a string (``String.fromCharCode``)."""

_ID = re.compile(r"0|[1-9][0-9]{0,19}")
_LARGEST_ID = (1 << 64) - 1
_INFINITE_FLOAT = (2 - 2**-24) * 2.0**127  # the least that float32 rounds to infinity
_SPACE = re.compile(r"\s")


# ------------------------------------------------------------------------------------------------------------- members


def _refuse(values: Iterable[JSON], is_right: Callable[[JSON], bool], what: str) -> None:
    """Raise the error of the first item of a list that is not right; slower than to find out that there is one."""
    for i, value in enumerate(values):
        if not is_right(value):
            raise InvalidInfoError(f"[{i}]: expected {what}, got {shown(value)}")


def _read_list(given: JSON) -> list[JSON]:
    if not isinstance(given, list):
        raise expected("a list", given)
    return given


def _check_texts(values: list[JSON]) -> None:
    if not set(map(type, values)) <= {str} or not _is_unicode("".join(values)):
        _refuse(values, _is_text, "a string")


def _is_text(value: JSON) -> bool:
    return type(value) is str and _is_unicode(value)


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair of UTF-16
        return False
    return True


def _read_texts(given: JSON) -> list[str]:
    values = _read_list(given)
    _check_texts(values)
    return values


def _read_text(given: JSON) -> str:
    if not _is_text(given):
        raise expected("a string", given)
    return str(given)


def _read_choice(given: JSON, known: Sequence[str]) -> str:
    chosen = given.lower() if isinstance(given, str) else ""
    if chosen not in known:
        raise expected(f"one of {', '.join(known)}", given)
    return chosen


def _optional(read: Callable[[JSON], Any]) -> dict[str, Any]:
    return member(lambda given: None if given is None else read(given), None)


@dataclass(frozen=True, slots=True, repr=False)
class SegmentProperty(InfoObject):
    """A property, with its value for each segment."""

    id: str = field(init=False, metadata=member(_read_text))
    """Its name."""

    type: str = field(init=False, metadata=member(functools.partial(_read_choice, known=PROPERTY_TYPES)))
    """One of `PROPERTY_TYPES`."""

    description: str | None = field(init=False, metadata=_optional(_read_text))
    """What it is, in words."""

    data_type: str | None = field(init=False, metadata=_optional(functools.partial(_read_choice, known=NUMBER_TYPES)))
    """Of numbers: their type as NumPy names it."""

    tags: list[str] | None = field(init=False, metadata=_optional(_read_texts))
    """Of tags: all that there are."""

    tag_descriptions: list[str] | None = field(init=False, metadata=_optional(_read_texts))
    """Of tags: what each is, in words."""

    values: list[Any] = field(init=False, metadata=member(_read_list))
    """One for each segment: a string; a list of indices of `tags`; or a number."""

    def _check(self) -> None:
        needed = {TAGS: "tags", NUMBER: "data_type"}.get(self.type)
        if needed is not None and getattr(self, needed) is None:
            raise InvalidInfoError(f".{needed}: missing")
        if self.tag_descriptions is not None and len(self.tag_descriptions) != len(self.tags or ()):
            what = f"one for each of {len(self.tags or ())} tags"
            raise InvalidInfoError(f".tag_descriptions: expected {what}, got {len(self.tag_descriptions)}")
        try:
            self._check_values()
        except InvalidInfoError as exc:
            raise InvalidInfoError(f".values{exc}") from exc

    def _check_values(self) -> None:
        integers = INTEGER_RANGES.get(self.data_type or "")
        if self.type == NUMBER and integers is not None:
            if not _are_integers(self.values, *integers):
                low, high = integers
                what = f"an integer of {self.data_type}, {low} to {high}"
                _refuse(self.values, lambda value: _are_integers([value], low, high), what)
        elif self.type == NUMBER:
            if not _are_floats(self.values):
                _refuse(self.values, lambda value: _are_floats([value]), "a number of float32")
        elif self.type == TAGS:
            most = len(self.tags or ()) - 1
            if not _are_lists_of_indices(self.values, most):
                is_right = functools.partial(_are_lists_of_indices, most=most)
                _refuse(self.values, lambda value: is_right([value]), f"a list of indices of {most + 1} tags")
        else:
            _check_texts(self.values)


def _are_integers(values: Collection[JSON], low: int, high: int) -> bool:
    """Whether these are integers within a range; 64.0 is 64."""
    if not set(map(type, values)) <= {int}:
        if not set(map(type, values)) <= {int, float}:
            return False
        values = list(map(whole, values))
        if not set(map(type, values)) <= {int}:
            return False
    return not values or (low <= min(values) and max(values) <= high)


def _are_floats(values: Collection[JSON]) -> bool:
    """Whether these are numbers; NaN and infinity, too, which some writers write though JSON does not have them."""
    return set(map(type, values)) <= {int, float} and not any(_INFINITE_FLOAT <= abs(v) < math.inf for v in values)


def _are_lists_of_indices(values: Collection[JSON], most: int) -> bool:
    if not set(map(type, values)) <= {list}:
        return False
    indices = list(itertools.chain.from_iterable(values))
    return _are_integers(indices, 0, most)


def _read_ids(given: JSON) -> list[str]:
    ids = _read_list(given)
    _refuse(ids, _is_id, "a uint64 as a string of digits")
    return ids


def _is_id(value: JSON) -> bool:
    return type(value) is str and _ID.fullmatch(value) is not None and int(value) <= _LARGEST_ID


def _read_properties(given: JSON) -> tuple[SegmentProperty, ...]:
    items = _read_list(given)
    if len(items) > MAX_PROPERTIES:
        raise InvalidInfoError(f": expected at most {MAX_PROPERTIES}, got {len(items)}")
    properties = tuple(read_all((f"[{i}]", SegmentProperty, item) for i, item in enumerate(items)))
    for name, count in Counter(each.id for each in properties).items():
        if count > 1:
            raise InvalidInfoError(f": expected ids that are unique, got {shown(name)} {count} times")
    return properties


@dataclass(frozen=True, slots=True, repr=False)
class InlineProperties(InfoObject):
    """The segments, and their properties."""

    ids: list[str] = field(init=False, metadata=member(_read_ids))
    """Decimal numbers."""

    properties: tuple[SegmentProperty, ...] = field(init=False, metadata=member(_read_properties))
    """In the order of `info`."""

    def _check(self) -> None:
        for i, each in enumerate(self.properties):
            if len(each.values) != len(self.ids):
                what = f"one for each of {len(self.ids)} ids"
                raise InvalidInfoError(f".properties[{i}].values: expected {what}, got {len(each.values)}")


# ---------------------------------------------------------------------------------------------------------------- info


@dataclass(frozen=True, slots=True, repr=False)
class SegmentPropertiesInfo(InfoObject):
    """What `info` says of a folder of segment properties. Use `SegmentPropertiesInfo.parse` to make one."""

    inline: InlineProperties | None = field(init=False, metadata=_optional(InlineProperties))
    """All that there is; None if there is nothing."""

    @classmethod
    def parse(cls, given: bytes | str | Mapping[str, Any], where: str = "info", most: int = MAX_INFO_BYTES) -> Self:
        """Read the `info` of a folder of segment properties.

        Parameters
        ----------
        given : bytes, str or mapping
            JSON, or its members.
        where : str
            The name of `info` in messages.
        most : int
            The most bytes that it may have.

        Raises
        ------
        InvalidInfoError
            If it does not describe segment properties, or a member is invalid; the message names the first place.

        Examples
        --------
        >>> SegmentPropertiesInfo.parse({"@type": "neuroglancer_segment_properties", "inline": {"ids": [7]}})
        Traceback (most recent call last):
            ...
        precomputed_fs.errors.InvalidInfoError: info: inline.ids[0]: expected a uint64 as a string of digits, got 7; \
inline.properties: missing
        """
        parsed = parse_typed(given, where, most)
        check_type(parsed, SEGMENT_PROPERTIES_TYPE, where, "these are no segment properties")
        with problems_of(where):
            return cls(parsed)

    @classmethod
    def of(cls, ids: Iterable[int], properties: Iterable[Mapping[str, Any]]) -> Self:
        """Make an `info` of segment ids, and properties as JSON has them.

        Raises
        ------
        InvalidInfoError
            If a property is not one, or `violations` has something.
        """
        inline = {"ids": list(map(str, ids)), "properties": list(properties)}
        with problems_of("segment properties"):
            made = cls({"@type": SEGMENT_PROPERTIES_TYPE, "inline": inline})
        for problem in violations(made):
            raise InvalidInfoError(f"segment properties: {problem}")
        return made


def violations(info: SegmentPropertiesInfo) -> Iterator[str]:
    """Say what the specification has otherwise, though the meaning is clear."""
    inline = info.inline
    if inline is None:
        return
    for segment, count in Counter(inline.ids).items():
        if count > 1:
            yield f"inline.ids: {segment} is listed {count} times"
            break
    for kind in (LABEL, DESCRIPTION, TAGS):
        names = [each.id for each in inline.properties if each.type == kind]
        if len(names) > 1:
            yield f"inline.properties: expected at most one of the type {kind!r}, got {', '.join(map(shown, names))}"
    for i, each in enumerate(inline.properties):
        yield from (f"inline.properties[{i}]{problem}" for problem in violations_of(each))


def violations_of(each: SegmentProperty) -> Iterator[str]:
    """Say what the specification has otherwise in one property; each text begins with the place in it."""
    if not each.id:
        yield ".id: expected a name, got ''"
    if each.type == TAGS:
        yield from _violations_of_tags(each)
    elif each.type == NUMBER and each.data_type == FLOAT:
        infinite = [value for value in each.values if not abs(value) < _INFINITE_FLOAT]
        if infinite:
            yield f".values: expected what JSON can say, got {infinite[0]}"


def _violations_of_tags(each: SegmentProperty) -> Iterator[str]:
    if each.description is not None:
        yield ".description: tags have tag_descriptions instead"
    tags = each.tags or []
    if len(tags) > MAX_TAGS:
        yield f".tags: expected at most {MAX_TAGS}, as many as Neuroglancer can tell apart, got {len(tags)}"
    for tag in tags:
        if not tag or tag.startswith("#") or _SPACE.search(tag):
            yield f".tags: expected words without spaces and without an initial '#', got {shown(tag)}"
    for tag, count in Counter(tag.casefold() for tag in tags).items():
        if count > 1:
            yield f".tags: expected tags that differ by more than case, got {shown(tag)} {count} times"
    unordered = [value for value in each.values if len(value) > 1 and value != sorted(set(value))]
    if unordered:
        yield f".values: expected indices of tags in increasing order, got {shown(unordered[0])}"
