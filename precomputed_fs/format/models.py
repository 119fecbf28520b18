"""What the members of `info` may be: of a volume and its scales, checked, with what is unknown kept.

Readers forgive where a meaning is clear: enumerations are read without case, 64.0 is 64,
``"sharding": null`` means unsharded. What cannot be is an `InvalidInfoError` that names the place.

Only this module needs pydantic. Importing that and making the models takes longer than importing NumPy, so
this is imported where an `info` is first read in full, and not with the package.
"""

import dataclasses
import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.grid import ChunkGrid, Triple, compressed_morton_code
from precomputed_fs.format.info import (
    DATA_TYPE_BYTES,
    JSON,
    MAX_INFO_BYTES,
    check_length,
    lowercase,
    parse_json,
    shorten,
    shown,
    without_dots,
)
from precomputed_fs.format.sharding import Sharding

MAX_SCALES = 1024
"""Scales of a volume: halving the largest sizes along one axis at a time makes 187."""

MAX_CHUNK_SIZES = 64
"""Chunk sizes of a scale, each of which is a full copy of its data; three are usual where there are several."""

MAX_CHANNELS = (1 << 31) - 1
"""Channels of a voxel; tensorstore counts them in a signed 32-bit integer."""

MAX_COORDINATE = (1 << 62) - 1
"""The largest size, offset and upper bound in voxels; tensorstore keeps what is beyond for infinity."""

_VOLUME_TYPE = "neuroglancer_multiscale_volume"
_IMAGE = "image"
_AXES = 3
_MAX_DEPTH = 64  # a volume's own members are nested four deep; far from Python's recursion limit
_SHOWN_TEXT = 240  # characters of a message that another module wrote
_BOOLEANS = {"true": True, "false": False}


# ------------------------------------------------------------------------------------------- JSON


def _unique(members: list[tuple[str, JSON]]) -> dict[str, JSON]:
    """Make an object, in which no member may be given twice: JSON leaves open which one counts."""
    made = dict(members)
    if len(made) < len(members):
        counts = Counter(name for name, _ in members)
        twice = next(name for name, count in counts.items() if count > 1)
        message = f"the member {shown(twice)} occurs twice in an object"
        raise ValueError(message)
    return made


def _dump_json(given: Mapping[str, Any], where: str, most: int) -> str:
    """Write a mapping as JSON, part by part: one that is too long is not written to its end."""
    parts = []
    length = 0
    try:
        for part in json.JSONEncoder(default=_native).iterencode(dict(given)):
            parts.append(part)
            length += len(part)
            check_length(length, where, most)
    except InvalidInfoError:
        raise
    except (TypeError, ValueError, RecursionError) as exc:
        message = f"{where}: expected what JSON can say: {exc}"
        raise InvalidInfoError(message) from exc
    return "".join(parts)


def _native(value: object) -> JSON:
    """Return what JSON can say of a value that `json` does not know, NumPy's above all."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    message = f"{type(value).__name__} is not of JSON"
    raise TypeError(message)


def _check_depth(parsed: JSON, where: str) -> None:
    level = [parsed]
    for _ in range(_MAX_DEPTH):
        level = [
            value
            for parent in level
            for value in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(value, (dict, list))
        ]
        if not level:
            return
    message = f"{where}: expected JSON of at most {_MAX_DEPTH} levels"
    raise InvalidInfoError(message)


# ---------------------------------------------------------------------------------------- messages


def _expected(what: str) -> PydanticCustomError:
    """Say what was expected; the message adds what was got."""
    return PydanticCustomError("expected", "expected {what}", {"what": what})


def _wrong(text: str) -> PydanticCustomError:
    """Say all of it; the text goes on from the place of the model, as in ``.size: expected ...``."""
    return PydanticCustomError("wrong", "{text}", {"text": text})


def _first_error(exc: ValidationError, within: tuple[str | int, ...] = ()) -> str:
    """Say where the first error is, what was expected there and what was got."""
    errors = exc.errors(include_url=False, include_context=False)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return _describe(errors[0], within) + more


def _describe(error: ErrorDetails, within: tuple[str | int, ...]) -> str:
    steps = (*within, *error["loc"])
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    match error["type"]:
        case "wrong":
            text = error["msg"]
        case "missing":
            text = ": missing"
        case "model_type":
            text = f": expected an object, got {shown(error['input'])}"
        case "string_unicode":  # of a surrogate, which pydantic takes in values only
            text = f": expected a name that is Unicode, got {shown(error['input'])}"
        case _:
            text = f": {error['msg']}, got {shown(error['input'])}"
    return (place + text).lstrip(".: ")


# ------------------------------------------------------------------------------------------ values


def _read_triple(given: JSON, *, least: int, most: int = MAX_COORDINATE) -> Triple:
    if not isinstance(given, list | tuple) or len(given) != _AXES or not all(type(value) is int for value in given):
        raise _expected("3 integers")
    if min(given) < least:
        raise _expected(f"integers of at least {least}")
    if max(given) > most:
        raise _expected(f"integers of at most {most}")
    x, y, z = given
    return x, y, z


def _read_offset(given: JSON) -> Triple:
    return (0, 0, 0) if given is None else _read_triple(given, least=-MAX_COORDINATE)


def _read_resolution(given: JSON) -> tuple[float, float, float]:
    """Read three numbers; comparisons, as `math.isfinite` fails for integers beyond floats."""
    if (
        not isinstance(given, list | tuple)
        or len(given) != _AXES
        or not all(type(value) in (int, float) and 0 < value <= sys.float_info.max for value in given)
    ):
        raise _expected("3 positive numbers")
    x, y, z = given
    return x, y, z


def _read_list(given: JSON, *, most: int) -> JSON:
    if not isinstance(given, list | tuple):
        raise _expected("a list")
    if not given:
        raise _expected("at least 1")
    if len(given) > most:
        raise _wrong(f": expected at most {most}, got {len(given)}")
    return given


def _read_sharding(given: JSON) -> Sharding | None:
    if given is None or isinstance(given, Sharding):
        return given
    try:
        return Sharding.from_info(given, "")
    except InvalidInfoError as exc:
        raise _wrong(shorten(str(exc), _SHOWN_TEXT)) from exc
    except RecursionError as exc:
        raise _expected("less depth") from exc


def _read_lowercase(given: JSON) -> str:
    if not isinstance(given, str):
        raise _expected("a string")
    return given.lower()


def _read_type(given: JSON) -> str:
    return _IMAGE if given is None else _read_lowercase(given)


def _read_data_type(given: JSON) -> str:
    data_type = lowercase(given)
    if data_type not in DATA_TYPE_BYTES:
        raise _expected(f"one of {', '.join(DATA_TYPE_BYTES)}")
    return data_type


def _read_channels(given: JSON) -> int:
    channels = _whole(given)
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise _expected(f"an integer from 1 to {MAX_CHANNELS}")
    return channels


def _read_key(given: JSON) -> str:
    if not isinstance(given, str) or not given:
        raise _expected("a non-empty string")
    if given.startswith("/") or "://" in given or "\0" in given:
        raise _expected("a relative path")
    return given


def _read_hidden(given: JSON) -> bool:
    """Read whether a scale is hidden; strings too, as Neuroglancer does."""
    if isinstance(given, str) and given in _BOOLEANS:
        return _BOOLEANS[given]
    if given is not None and not isinstance(given, bool):
        raise _expected("true or false")
    return given or False


def _whole(value: JSON) -> JSON:
    """Make the floats that are whole integers: JSON has one kind of number, in which 64.0 is 64."""
    if isinstance(value, list) and len(value) <= MAX_CHUNK_SIZES:
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Size = Annotated[Triple, PlainValidator(functools.partial(_read_triple, least=1))]
_Lowercase = Annotated[str, PlainValidator(_read_lowercase)]


# ------------------------------------------------------------------------------------------ models


class _Object(BaseModel):
    """An object of `info`, which reads like the JSON too: ``scale["size"]`` is a list."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def __getitem__(self, name: str) -> JSON:
        if name not in self:
            raise KeyError(name)
        unknown = self.__pydantic_extra__ or {}
        return _plain(unknown[name] if name in unknown else getattr(self, name))

    def __contains__(self, name: object) -> bool:
        return name in self.model_fields_set

    def get(self, name: str, default: JSON = None) -> JSON:
        """Return a member as JSON says it, or a default if it is not given."""
        if name not in self:
            return default
        return self[name]

    def to_dict(self) -> dict[str, JSON]:
        """Return what JSON says: the members that are given, known and unknown.

        Equal to what was parsed, but for the case of enumerations (lower) and what not all readers
        understand: ``"voxel_offset": null`` becomes ``[0, 0, 0]``, ``"hidden": "true"`` becomes true.
        """
        fields = [name for name in type(self).model_fields if name in self]
        return {name: self[name] for name in (*fields, *(self.__pydantic_extra__ or {}))}


def _plain(value: JSON) -> JSON:
    """Copy a member as JSON has it."""
    if isinstance(value, _Object):
        return value.to_dict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class _ChunkedScale(_Object):
    """How a scale is cut into chunks, and how these are stored: what finding their bytes needs."""

    sharding: Annotated[Sharding | None, PlainValidator(_read_sharding)] = None
    """How the scale is sharded; None if it is not."""

    size: _Size
    """Voxels along x, y and z."""

    voxel_offset: Annotated[Triple, PlainValidator(_read_offset)] = (0, 0, 0)
    """The first voxel's coordinates."""

    chunk_sizes: Annotated[tuple[_Size, ...], BeforeValidator(functools.partial(_read_list, most=MAX_CHUNK_SIZES))]
    """Voxels of a chunk along x, y and z; each gives a full copy of the data."""

    @property
    def grid(self) -> ChunkGrid:
        """How the scale is cut into chunks, of the first size."""
        return ChunkGrid(self.size, self.chunk_sizes[0], self.voxel_offset)

    @model_validator(mode="before")
    @classmethod
    def _read_whole_floats(cls, given: JSON) -> JSON:
        """Take whole floats for integers."""
        if not isinstance(given, dict):
            return given
        integers = ("size", "voxel_offset", "chunk_sizes")
        return given | {name: _whole(given[name]) for name in integers if name in given}

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.sharding is not None and len(self.chunk_sizes) != 1:
            got = shown(_plain(self.chunk_sizes))
            raise _wrong(f".chunk_sizes: expected one chunk size, as the scale is sharded, got {got}")
        if any(offset + size > MAX_COORDINATE for offset, size in zip(self.voxel_offset, self.size, strict=True)):
            text = f"expected at most {MAX_COORDINATE} with the size added, got {_plain(self.voxel_offset)}"
            raise _wrong(f".voxel_offset: {text}")
        return self


class ScaleInfo(_ChunkedScale):
    """What `info` says of a scale."""

    key: Annotated[str, PlainValidator(_read_key)]
    """Path of the scale from the directory of `info`; it may lead out of that, by ``..``."""

    resolution: Annotated[tuple[float, float, float], PlainValidator(_read_resolution)]
    """Nanometres of a voxel along x, y and z; integers where `info` has integers."""

    encoding: _Lowercase
    """How chunks are encoded, in lower case; not necessarily one that is known."""

    hidden: Annotated[bool, PlainValidator(_read_hidden)] = False
    """Whether viewers leave the scale out."""

    _given_sharding: Mapping[str, JSON] = PrivateAttr(default_factory=dict)

    @property
    def parameters(self) -> Mapping[str, JSON]:
        """The other members: those of the encoding, such as ``jpeg_quality``, and unknown ones."""
        return {name: self[name] for name in self.__pydantic_extra__ or {}}

    def __getitem__(self, name: str) -> JSON:
        """Return a member; of ``sharding`` its unknown members too, but no default that was not given."""
        if name != "sharding" or self.sharding is None:
            return super().__getitem__(name)
        given = _plain(self._given_sharding)
        known = self.sharding.to_info().items()
        return given | {member: value for member, value in known if member in given or value != "raw" or not given}

    @model_validator(mode="wrap")
    @classmethod
    def _keep_given_sharding(cls, given: JSON, handler: ModelWrapValidatorHandler[Self]) -> Self:
        scale = handler(given)
        sharding = given.get("sharding") if isinstance(given, dict) else None
        if isinstance(sharding, dict):
            scale._given_sharding = sharding  # noqa: SLF001 (of this class)
        return scale

    @model_validator(mode="after")
    def _check_chunk_ids(self) -> Self:
        if self.sharding is not None:
            try:
                compressed_morton_code((0, 0, 0), self.grid.shape)
            except ValueError as exc:
                raise _wrong(f".size: {exc}") from exc
        return self


class Info(_Object):
    """What `info` says of a volume."""

    type: Annotated[str, PlainValidator(_read_type)] = _IMAGE
    """Usually "image" or "segmentation", in lower case."""

    data_type: Annotated[str, PlainValidator(_read_data_type)]
    """Data type of the voxels as NumPy names it."""

    num_channels: Annotated[int, PlainValidator(_read_channels)]
    """Values of a voxel."""

    scales: Annotated[tuple[ScaleInfo, ...], BeforeValidator(functools.partial(_read_list, most=MAX_SCALES))]
    """The scales, in the order that `info` lists them in; see `finest_first`."""

    @property
    def finest_first(self) -> list[int]:
        """Indices into `scales`, sorted by the volume of a voxel.

        The specification wants scales listed so, and some files do not comply. Neuroglancer's pull request 1086 sorts
        them by this measure; its releases, like tensorstore and cloud-volume, take them as they are listed.
        """
        # as floats: integers may be too large to be multiplied by floats
        return sorted(range(len(self.scales)), key=lambda i: math.prod(map(float, self.scales[i].resolution)))

    @classmethod
    def parse(cls, given: bytes | str | Mapping[str, Any], where: str = "info", most: int = MAX_INFO_BYTES) -> Self:
        """Read an `info`.

        Parameters
        ----------
        given : bytes, str or mapping
            JSON, or what it says; NumPy's numbers and arrays are taken for numbers and lists.
        where : str
            What messages call it.
        most : int
            How many bytes it may have.

        Raises
        ------
        InvalidInfoError
            If it is not JSON, is unreasonably large, does not describe a volume, or a member is
            missing or cannot be; the message names the place of the first that is wrong.

        Examples
        --------
        >>> Info.parse({"data_type": "uint8", "num_channels": 1, "scales": []})
        Traceback (most recent call last):
            ...
        precomputed_fs.errors.InvalidInfoError: info: scales: expected at least 1, got []
        """
        if isinstance(given, Mapping):
            given = _dump_json(given, where, most)
        elif not isinstance(given, bytes | bytearray | str):
            message = f"{where}: expected JSON or a mapping, got {type(given).__name__}"
            raise InvalidInfoError(message)
        parsed = parse_json(given, where, _unique, most)
        _check_depth(parsed, where)
        try:
            return cls.model_validate(parsed)
        except ValidationError as exc:
            message = f"{where}: {_first_error(exc)}"
            raise InvalidInfoError(message) from exc

    def to_json(self) -> bytes:
        """Write an `info`: ASCII, with sorted members.

        Raises
        ------
        InvalidInfoError
            If an unknown member is NaN or infinite, which Python reads and JSON does not have.
        """
        try:
            text = json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False)
        except ValueError as exc:
            message = f"info: expected what JSON can say: {exc}"
            raise InvalidInfoError(message) from exc
        return text.encode() + b"\n"

    @model_validator(mode="before")
    @classmethod
    def _check_kind(cls, given: JSON) -> JSON:
        kind = given.get("@type") if isinstance(given, dict) else None
        if kind is None:
            return given
        if lowercase(kind) != _VOLUME_TYPE:
            raise _wrong(f".@type: expected {_VOLUME_TYPE!r}, got {shown(kind)}: this is no volume")
        return given | {"@type": _VOLUME_TYPE}

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        """Check that scales with one key are stored alike, as an accessor tells them by their keys."""
        first: dict[str, int] = {}
        for i, scale in enumerate(self.scales):
            same = self.scales[first.setdefault(without_dots(scale.key), i)]
            if _stored(same) != _stored(scale):
                text = f"expected another key than that of scales[{first[without_dots(scale.key)]}]"
                raise _wrong(f".scales[{i}].key: {text}, which is stored otherwise, got {shown(scale.key)}")
        return self


def _stored(scale: ScaleInfo) -> tuple[str, Sharding | None, ChunkGrid | None]:
    """Return how the chunks of a scale are stored, but for the cut of those that stand alone, which they name."""
    return scale.encoding, scale.sharding, None if scale.sharding is None else scale.grid


# ------------------------------------------------------------------------------------------ shards


def sharded_grid(
    scale: Mapping[str, Any], where: str, place: tuple[str | int, ...]
) -> tuple[Sharding | None, ChunkGrid]:
    """Read how a scale is sharded and cut into chunks; nothing else of it needs to be right.

    Parameters
    ----------
    scale : mapping
        What `info` says of the scale.
    where : str
        What messages call `info`.
    place : tuple
        Where the scale is in it.

    Raises
    ------
    InvalidInfoError
        If that is missing or cannot be.
    """
    needed = {name: scale[name] for name in _ChunkedScale.model_fields if name in scale}
    try:
        chunked = _ChunkedScale.model_validate(needed)
    except ValidationError as exc:
        message = f"{where}: {_first_error(exc, place)}"
        raise InvalidInfoError(message) from exc
    return _counted(chunked), chunked.grid


def _counted(scale: _ChunkedScale) -> Sharding | None:
    """Return a scale's sharding, which knows how many chunk ids there are.

    These are more than there are chunks, where the grid is of no powers of two: neuroglancer-scripts
    lists those between, too, as absent.
    """
    bits = sum((count - 1).bit_length() for count in scale.grid.shape)
    return scale.sharding and dataclasses.replace(scale.sharding, scale_chunks=1 << bits)
