"""How the members of `info` are read: each reader takes a JSON value and returns it checked.

It raises an InvalidInfoError with an argument for each problem, which begins with the place within the value:
".size: expected ...", or ": expected ..." for the value itself.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from precomputed_fs.errors import InvalidInfoError, shown
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.info_text import JSON
from precomputed_fs.format.sharding import Sharding

MAX_CHUNK_SIZES = 64
"""Chunk sizes of a scale, each of which is a full copy of its data; volumes with several usually have three."""

MAX_CHANNELS = (1 << 31) - 1
"""Channels of a voxel; tensorstore counts them in a signed 32-bit integer."""

MAX_COORDINATE = (1 << 62) - 1
"""The largest size, offset and upper bound in voxels; tensorstore takes larger ones for infinity."""

DATA_TYPE_BYTES = {
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
}
"""Bytes of a value, for each data type that a volume may have."""

IDENTITY = (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
"""The `transform` of meshes and skeletons whose coordinates are stored in nanometres."""

_T = TypeVar("_T")
_IMAGE = "image"
_AXES = 3
_BOOLEANS = {"true": True, "false": False}
_SHOWN_SHARDING = 240  # characters of a message about a sharding
_MISSING = ": missing"
_MOST_MISSING = 12  # members that one message names


def expected(what: str, given: JSON) -> InvalidInfoError:
    return InvalidInfoError(f": expected {what}, got {shown(given)}")


def read_all(parts: Iterable[tuple[str, Callable[[JSON], Any], JSON]]) -> list[Any]:
    """Read several parts of a value, each given with its place and its reader, and collect all problems."""
    values = []
    problems: list[str] = []
    for place, read, given in parts:
        try:
            values.append(read(given))
        except InvalidInfoError as exc:
            problems += (place + problem for problem in exc.args)
    if problems:
        raise InvalidInfoError(*problems)
    return values


@contextmanager
def problems_of(where: str, place: str = "") -> Iterator[None]:
    """Raise the first problem of a value at a place in `info`, and all that is missing; count the others."""
    try:
        yield
    except InvalidInfoError as exc:
        problems = [(place + problem).lstrip(".: ") for problem in exc.args]
        missing = [problem.removesuffix(_MISSING) for problem in problems if problem.endswith(_MISSING)][:_MOST_MISSING]
        others = [problem for problem in problems[:1] if not problem.endswith(_MISSING)]
        told = [*others, f"{', '.join(missing)}{_MISSING}"] if missing else others
        left = len(problems) - len(missing) - len(others)
        more = f" (and {left} more)" if left else ""
        raise InvalidInfoError(f"{where}: {'; '.join(told)}{more}") from None


def read_list(given: JSON, read: Callable[[JSON], Any], most: int) -> tuple[Any, ...]:
    if not isinstance(given, list | tuple):
        raise expected("a list", given)
    if not given:
        raise expected("at least 1", given)
    if len(given) > most:
        raise InvalidInfoError(f": expected at most {most}, got {len(given)}")
    return tuple(read_all((f"[{i}]", read, item) for i, item in enumerate(given)))


def read_triple(given: JSON, least: int) -> Triple:
    given = whole(given)
    if not isinstance(given, list | tuple) or len(given) != _AXES or not all(type(value) is int for value in given):
        raise expected("3 integers", given)
    if min(given) < least:
        raise expected(f"integers of at least {least}", given)
    if max(given) > MAX_COORDINATE:
        raise expected(f"integers of at most {MAX_COORDINATE}", given)
    x, y, z = given
    return x, y, z


def read_size(given: JSON) -> Triple:
    return read_triple(given, 1)


def read_offset(given: JSON) -> Triple:
    return (0, 0, 0) if given is None else read_triple(given, -MAX_COORDINATE)


def read_chunk_sizes(given: JSON) -> tuple[Triple, ...]:
    return read_list(whole(given), read_size, MAX_CHUNK_SIZES)


def read_resolution(given: JSON) -> tuple[float, float, float]:
    if (
        not isinstance(given, list | tuple)
        or len(given) != _AXES
        # compared, as `math.isfinite` fails for integers beyond floats
        or not all(type(value) in (int, float) and 0 < value <= sys.float_info.max for value in given)
    ):
        raise expected("3 positive numbers", given)
    x, y, z = given
    return x, y, z


def read_sharding(given: JSON) -> Sharding | None:
    if given is None:
        return None
    try:
        return Sharding.from_info(given, "")
    except InvalidInfoError as exc:
        text = str(exc)
        short = text if len(text) <= _SHOWN_SHARDING else text[: _SHOWN_SHARDING - 3] + "..."
        raise InvalidInfoError(short) from exc
    except RecursionError as exc:
        raise expected("less depth", given) from exc


def read_lowercase(given: JSON) -> str:
    if not isinstance(given, str):
        raise expected("a string", given)
    return given.lower()


def read_type(given: JSON) -> str:
    return _IMAGE if given is None else read_lowercase(given)


def read_data_type(given: JSON) -> str:
    data_type = lowercase(given)
    if data_type not in DATA_TYPE_BYTES:
        raise expected(f"one of {', '.join(DATA_TYPE_BYTES)}", given)
    return data_type


def read_channels(given: JSON) -> int:
    channels = whole(given)
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise expected(f"an integer from 1 to {MAX_CHANNELS}", given)
    return channels


def read_key(given: JSON) -> str:
    if not isinstance(given, str) or not given:
        raise expected("a non-empty string", given)
    if given.startswith("/") or "://" in given or "\0" in given:
        raise expected("a relative path", given)
    return given


def read_transform(given: JSON) -> tuple[float, ...]:
    """Read a `transform` of meshes or skeletons: the 3 x 4 matrix from stored coordinates to nanometres, row by row."""
    if (
        not isinstance(given, list | tuple)
        or len(given) != len(IDENTITY)
        or not all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in given)
    ):
        raise expected(f"{len(IDENTITY)} finite numbers", given)
    return tuple(given)


def read_folder(given: JSON) -> str | None:
    """Read the path of a folder, which may be anything that a URL leads to; null is none."""
    if given is not None and (not isinstance(given, str) or "\0" in given):
        raise expected("the path of a folder", given)
    return given


def check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise expected("a name that is Unicode", name) from None


def read_member(name: str, given: Mapping[str, JSON], *, read: Callable[[JSON], _T], default: _T) -> _T:
    if name in given:
        return read(given[name])
    if default is ...:
        raise InvalidInfoError(_MISSING)
    return default


def read_hidden(given: JSON) -> bool:
    """Read whether a scale is hidden; from strings too, as Neuroglancer does."""
    if isinstance(given, str) and given in _BOOLEANS:
        return _BOOLEANS[given]
    if given is not None and not isinstance(given, bool):
        raise expected("true or false", given)
    return given or False


def whole(value: JSON) -> JSON:
    """Turn whole floats into integers: JSON has one kind of number, in which 64.0 is 64."""
    if isinstance(value, list) and len(value) <= MAX_CHUNK_SIZES:
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def lowercase(given: JSON) -> str:
    """Return the value of an enumeration in lower case, and "" for other values than strings."""
    return given.lower() if isinstance(given, str) else ""
