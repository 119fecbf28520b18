"""Objects of any `info`: members are declared with their readers, unknown ones are kept."""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any

from precomputed_fs.errors import InvalidInfoError, did_you_mean, shown
from precomputed_fs.format.info_members import check_name, expected, lowercase, read_all, read_member
from precomputed_fs.format.info_text import JSON, dump_info, parse_info, readable_json
from precomputed_fs.format.sharding import Sharding


def parse_typed(given: bytes | str | Mapping[str, Any], where: str, most: int) -> dict[str, JSON]:
    """Parse an `info`, strictly: JSON, or a mapping of its members.

    Raises
    ------
    InvalidInfoError
        If it is not a JSON object, has repeated members, is nested deeply or is too long.
    """
    if isinstance(given, Mapping):
        given = dump_info(given, where, most)
    elif not isinstance(given, bytes | bytearray | str):
        raise InvalidInfoError(f"{where}: expected JSON or a mapping, got {type(given).__name__}")
    return parse_info(given, where, most, strict=True)


def check_type(parsed: dict[str, JSON], kind: str, where: str, otherwise: str) -> None:
    """Check the member ``@type`` of an `info`, and write it in lower case.

    Parameters
    ----------
    kind : str
        The type that it has to be.
    otherwise : str
        What another type means, such as "this is not a volume".

    Raises
    ------
    InvalidInfoError
        If it is another type.
    """
    given = parsed.get("@type")
    if lowercase(given) != kind:
        raise InvalidInfoError(f"{where}: @type: expected {kind!r}, got {shown(given)}: {otherwise}")
    parsed["@type"] = kind


def member(read: Callable[[JSON], object], default: object = ...) -> dict[str, Any]:
    """Declare a member: its reader, and its default unless it is required."""
    return {"read": read, "default": default}


@dataclass(frozen=True, slots=True, repr=False)
class InfoObject:
    """An object of `info`. It reads like the JSON too: ``scale["size"]`` is a list."""

    given: InitVar[JSON]
    _members: dict[str, JSON] = field(init=False, repr=False, hash=False)

    def __post_init__(self, given: JSON) -> None:
        if not isinstance(given, dict):
            raise expected("an object", given)
        for name in given:
            check_name(name)
        declared = declared_members(type(self))
        values = read_all(
            (f".{name}", functools.partial(read_member, name, **how), given) for name, how in declared.items()
        )
        for name, value in zip(declared, values, strict=True):
            object.__setattr__(self, name, value)
        known = {name: _as_json(getattr(self, name), given[name]) for name in declared if name in given}
        object.__setattr__(self, "_members", given | known)
        self._check()

    def _check(self) -> None:
        """Check what concerns several members."""

    def __repr__(self) -> str:
        return readable_json(self._members)

    def __getitem__(self, name: str) -> JSON:
        if name not in self._members:
            raise KeyError(f"there is no member {name!r}{did_you_mean(name, self._members)}")
        return copy.deepcopy(self._members[name])

    def _ipython_key_completions_(self) -> list[str]:
        return [*self._members]

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def get(self, name: str, default: JSON = None) -> JSON:
        """Return a member as JSON has it, or a default if it is absent."""
        return copy.deepcopy(self._members.get(name, default))

    def to_dict(self) -> dict[str, JSON]:
        """Return all members as JSON has them, known and unknown; absent ones stay absent.

        Equal to the parsed JSON, except for the case of enumerations (lower) and for values that some readers
        do not understand: ``"voxel_offset": null`` becomes ``[0, 0, 0]``, ``"hidden": "true"`` becomes true.
        """
        return copy.deepcopy(self._members)

    def to_json(self, *, indent: int | None = 2) -> bytes:
        """Write an `info`: ASCII, with sorted members.

        Parameters
        ----------
        indent : int or None
            None for one line without spaces.

        Raises
        ------
        InvalidInfoError
            If an unknown member is NaN or infinite, which Python reads and JSON does not have.
        """
        try:
            separators = (",", ":") if indent is None else None
            text = json.dumps(self._members, indent=indent, sort_keys=True, allow_nan=False, separators=separators)
        except ValueError as exc:
            raise InvalidInfoError(f"info: expected what JSON can say: {exc}") from exc
        return text.encode() + b"\n"


def declared_members(cls: type[InfoObject]) -> dict[str, Mapping[str, Any]]:
    """Return the declared members of a class, by name: the reader and the default of each."""
    return {each.name: each.metadata for each in dataclasses.fields(cls) if each.metadata}


def _as_json(value: object, given: JSON) -> JSON:
    """Write a checked value as JSON; `given` is what it was read from."""
    if isinstance(value, tuple):
        return [_as_json(item, None) for item in value]
    if isinstance(value, InfoObject):
        return value._members  # noqa: SLF001 - shared, as nothing ever changes it
    if isinstance(value, Sharding):  # without defaults that were absent, with unknown members
        return given | {name: known for name, known in value.to_info().items() if name in given}
    return value
