"""What `info` says of a scale, as far as finding its chunks' bytes needs it.

Readers forgive: what does not matter here is not looked at, enumerations are read without case, and
``"sharding": null`` means unsharded.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.grid import ChunkGrid, Triple
from precomputed_fs.sharding import Sharding

_DATA_TYPE_BYTES = {
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
_AXES = 3


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """How the chunks of one scale are stored."""

    raw_voxel_bytes: int | None = None
    """Bytes of a voxel with all its channels, in a scale of encoding "raw" that says so."""

    sharding: Sharding | None = None
    """How the scale is sharded; None if it is not."""

    grid: ChunkGrid | None = None
    """How a sharded scale is cut into chunks."""


def parse_info(text: bytes) -> Mapping[str, Any]:
    """Parse an `info`.

    Raises
    ------
    InvalidInfoError
        If it is not a JSON object.
    """
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as exc:
        message = f"info: expected JSON: {exc}"
        raise InvalidInfoError(message) from exc
    if not isinstance(info, Mapping):
        message = f"info: expected a JSON object, got {type(info).__name__}"
        raise InvalidInfoError(message)
    return info


def scale_layout(info: Mapping[str, Any], key: str) -> ScaleLayout:
    """Find out how the chunks of a scale are stored; as by default, if `info` does not list it.

    Raises
    ------
    InvalidInfoError
        If the scale is sharded and what that needs is missing or cannot be.
    """
    scales = info.get("scales")
    if not isinstance(scales, list):
        return ScaleLayout()
    for i, scale in enumerate(scales):
        if isinstance(scale, Mapping) and _names_scale(scale.get("key"), key):
            place = f"scales[{i}]"
            raw_voxel_bytes = _raw_voxel_bytes(info, scale)
            if scale.get("sharding") is None:
                return ScaleLayout(raw_voxel_bytes)
            sharding = Sharding.from_info(scale["sharding"], f"{place}.sharding")
            grid = _grid(scale, place)
            sharding = dataclasses.replace(sharding, scale_chunks=math.prod(grid.shape))
            return ScaleLayout(raw_voxel_bytes, sharding, grid)
    return ScaleLayout()


def _names_scale(given: object, key: str) -> bool:
    """Whether a scale's key, as `info` spells it, is a key without ``.`` segments."""
    return isinstance(given, str) and "/".join(part for part in given.split("/") if part != ".") == key


def _raw_voxel_bytes(info: Mapping[str, Any], scale: Mapping[str, Any]) -> int | None:
    channels = info.get("num_channels")
    if str(scale.get("encoding")).lower() != "raw" or not isinstance(channels, int):
        return None
    voxel_bytes = _DATA_TYPE_BYTES.get(str(info.get("data_type")).lower())
    return None if voxel_bytes is None else voxel_bytes * channels


def _grid(scale: Mapping[str, Any], place: str) -> ChunkGrid:
    chunk_sizes = scale.get("chunk_sizes")
    if not isinstance(chunk_sizes, list) or len(chunk_sizes) != 1:
        message = f"{place}.chunk_sizes: expected one chunk size, as the scale is sharded, got {chunk_sizes!r}"
        raise InvalidInfoError(message)
    return ChunkGrid(
        size=_triple(scale.get("size"), f"{place}.size", least=1),
        chunk_size=_triple(chunk_sizes[0], f"{place}.chunk_sizes[0]", least=1),
        voxel_offset=_triple(scale.get("voxel_offset") or [0, 0, 0], f"{place}.voxel_offset"),
    )


def _triple(given: object, place: str, *, least: int | None = None) -> Triple:
    if not isinstance(given, list) or len(given) != _AXES or not all(type(value) is int for value in given):
        message = f"{place}: expected 3 integers, got {given!r}"
        raise InvalidInfoError(message)
    if least is not None and min(given) < least:
        message = f"{place}: expected integers of at least {least}, got {given!r}"
        raise InvalidInfoError(message)
    x, y, z = given
    return x, y, z
