"""How the chunks of one scale are stored: as much of `info` as moving their bytes needs, and no more is checked."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from precomputed_fs.format.grid import ChunkGrid, Triple
from precomputed_fs.format.info import sharded_grid, without_dots
from precomputed_fs.format.info_members import DATA_TYPE_BYTES, lowercase
from precomputed_fs.format.info_text import JSON
from precomputed_fs.format.sharding import Sharding

_AXES = 3
_USUAL_CHUNK = 1 << 18  # bytes

Pieces = Sequence[tuple[int, int]]
"""Where bytes of a chunk begin and end."""


class Chunk(NamedTuple):
    """The voxels to encode."""

    size: Triple
    """In voxels, xyz."""

    channels: int
    value_bytes: int
    """Bytes of a value of one channel."""

    block_size: Triple = (8, 8, 8)
    """Of compressed_segmentation, in voxels, xyz."""

    @property
    def voxels(self) -> int:
        """The number of voxels."""
        return math.prod(self.size)

    @property
    def values(self) -> int:
        """The number of values in all channels."""
        return self.voxels * self.channels

    @property
    def raw_bytes(self) -> int:
        """Bytes of all values."""
        return self.values * self.value_bytes


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """How the chunks of one scale are stored."""

    raw_voxel_bytes: int | None = None
    """Bytes of a voxel with all its channels, if the encoding is "raw" and `info` tells them."""

    sharding: Sharding | None = None
    """How the scale is sharded; None if it is not."""

    grid: ChunkGrid | None = None
    """How a sharded scale is cut into chunks."""

    encoding: str = field(default="", compare=False)
    """As in `info`, in lower case."""

    voxel: Chunk | None = field(default=None, compare=False)
    """One voxel of the scale; None if `info` does not describe it."""

    chunk_voxels: int | None = field(default=None, compare=False)
    """Voxels of a whole chunk; None if `info` does not tell them."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the voxels of a whole chunk, or a guess where `info` does not tell them."""
        if self.voxel is None or self.chunk_voxels is None:
            return _USUAL_CHUNK
        return self.voxel.raw_bytes * self.chunk_voxels

    def with_largest_chunk(self, size: int) -> "ScaleLayout":
        """Limit the bytes that a chunk may take in a shard."""
        if self.sharding is None:
            return self
        return dataclasses.replace(self, sharding=dataclasses.replace(self.sharding, largest_chunk=size))


def scale_layout(info: Mapping[str, Any], key: str, where: str = "info") -> ScaleLayout:
    """Find out how the chunks of a scale are stored; the default layout if `info` does not list it.

    Parameters
    ----------
    info : mapping
        A parsed `info`, not necessarily valid.
    key : str
        The scale's key, without ``.`` segments.
    where : str
        The name of `info` in messages.

    Raises
    ------
    InvalidInfoError
        If the scale is sharded and a member that shards need is missing or invalid.
    """
    scales = info.get("scales")
    for i, scale in enumerate(scales if isinstance(scales, list) else ()):
        if isinstance(scale, Mapping) and _names_scale(scale.get("key"), key):
            sharding = grid = None
            if scale.get("sharding") is not None:
                sharding, grid = sharded_grid(scale, f"scales[{i}]", where)
            encoding = lowercase(scale.get("encoding"))
            voxel = _voxel(info, scale, encoding)
            raw_voxel_bytes = voxel.raw_bytes if voxel is not None and encoding == "raw" else None
            return ScaleLayout(raw_voxel_bytes, sharding, grid, encoding, voxel, _chunk_voxels(scale))
    return ScaleLayout()


def _names_scale(given: object, key: str) -> bool:
    """Tell whether a scale's key, as `info` spells it, is a key without ``.`` segments."""
    return isinstance(given, str) and without_dots(given) == key


def _voxel(info: Mapping[str, Any], scale: Mapping[str, Any], encoding: str) -> Chunk | None:
    channels, value_bytes = _positive(info.get("num_channels")), DATA_TYPE_BYTES.get(lowercase(info.get("data_type")))
    if channels is None or value_bytes is None:
        return None
    voxel = Chunk((1, 1, 1), channels, value_bytes)
    if encoding != "compressed_segmentation":
        return voxel
    sides = _positives(scale.get("compressed_segmentation_block_size"))
    return voxel._replace(block_size=(sides[0], sides[1], sides[2])) if len(sides) == _AXES else None


def _chunk_voxels(scale: Mapping[str, Any]) -> int | None:
    sizes = scale.get("chunk_sizes")
    sides = _positives(sizes[0] if isinstance(sizes, list) and sizes else None)
    return math.prod(sides) if len(sides) == _AXES else None


def _positives(given: JSON) -> list[int]:
    return [value for value in map(_positive, given if isinstance(given, list) else ()) if value is not None]


def _positive(value: JSON) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and value > 0 else None
