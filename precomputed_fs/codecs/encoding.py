"""What the table says about an encoding: how chunks are decoded and encoded, and all that others ask about it."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.codecs.chunks import Array, ChunkIndex, ChunkKind, ChunkPart
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk, Pieces

UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
VOXEL_TYPES = (*UNSIGNED, "int8", "int16", "int32", "float32")
"""The data types of the format."""

ANY = range(1, 1 << 31)
"""Any number of channels."""

NEUROGLANCER = "neuroglancer"
TENSORSTORE = "tensorstore"
CLOUD_VOLUME = "cloud-volume"
NEUROGLANCER_SCRIPTS = "neuroglancer-scripts"

Kinds = tuple[tuple[Sequence[str], Sequence[int]], ...]
"""Data types, and the numbers of channels of each of them."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A key of a scale in `info` that belongs to one encoding."""

    key: str

    default: Any
    """The value that is used, and written into `info`, if none is given; None for no value."""

    expected: str
    """Describes acceptable values in messages."""

    accepts: Callable[[Any], bool]
    """Whether a value, as parsed from JSON, is acceptable."""

    required: bool = False
    """Whether decoding needs it."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One row of the table."""

    name: str

    data_types: tuple[str, ...]
    """What may be written; reading takes what it finds."""

    channels: tuple[int, ...] | None
    """The numbers of channels that may be written; None for any."""

    decode: Callable[[ChunkKind, bytes, Triple], Array]
    """``(kind, data, size) -> array``; raises `DamagedError`."""

    encode: Callable[[ChunkKind, Array], bytes]
    """``(kind, array) -> data``, of an array that fits the kind; raises `UnstorableError`."""

    largest: Callable[[Chunk], int]
    """The most bytes that a chunk can have, without headers: the worst case of every writer."""

    decode_part: Callable[[ChunkKind, bytes, Triple, ChunkIndex, Array | None], Array] | None = None
    """``(kind, data, size, index, out) -> array``, of an encoding in which parts of a chunk can be decoded.

    It returns `out`, or another array, which the caller copies to `out`."""

    pieces: Callable[[ChunkKind, Triple, ChunkIndex], Pieces] | None = None
    """``(kind, size, index) -> pieces``, of an encoding whose voxels have fixed places: the bytes that hold some."""

    decode_pieces: Callable[[ChunkKind, ChunkPart, Triple, ChunkIndex], Array] | None = None
    """``(kind, part, size, index) -> array``: decodes voxels from their `pieces`."""

    parameters: tuple[Parameter, ...] = ()

    lossless: Callable[[Mapping[str, Any]], bool] = lambda _: True
    """Whether decoding returns the voxels that were encoded with these parameters."""

    conflict: Callable[[Mapping[str, Any]], str] = lambda _: ""
    """Says what is wrong with parameters that are acceptable one by one; empty for nothing."""

    mime_type: str = "application/octet-stream"

    is_compressed: bool = False
    """Whether gzip is left off, since it would hardly make chunks smaller."""

    layer_type: str = "image"
    """What volumes of this encoding usually are: "image" or "segmentation"."""

    library: str | None = None
    """The module that does the work; None for NumPy."""

    extra: str | None = None
    """The extra of this package that installs the library; None if the package itself requires it."""

    readers: Mapping[str, Kinds] = field(default_factory=dict)
    """What each other tool decodes. cloud-volume knows every encoding, and decodes every kind where none is listed."""

    @property
    def defaults(self) -> dict[str, Any]:
        """The keys of a new scale of this encoding in `info`, for which nothing was chosen."""
        defaults = {parameter.key: parameter.default for parameter in self.parameters}
        return {key: copy.copy(value) for key, value in defaults.items() if value is not None}

    def fits(self, data_type: str, num_channels: int) -> bool:
        """Whether volumes of this kind can be written."""
        return data_type in self.data_types and (self.channels is None or num_channels in self.channels)

    def is_known_to(self, reader: str) -> bool:
        """Whether another tool decodes any chunks of this encoding."""
        return reader == CLOUD_VOLUME or reader in self.readers

    def is_read_by(self, reader: str, data_type: str, num_channels: int) -> bool:
        """Whether another tool decodes chunks of this kind."""
        if reader not in self.readers:
            return self.is_known_to(reader)
        return any(data_type in types and num_channels in counts for types, counts in self.readers[reader])


# ----------------------------------------------------------------------------------------------------------- parameters


def is_integer(low: float, high: float, value: object) -> bool:
    """Whether a JSON value is an integer from low to high."""
    return type(value) is int and low <= value <= high


def integer(key: str, default: int, low: int, high: int) -> Parameter:
    """Describe a parameter that is an integer from low to high."""
    return Parameter(key, default, f"an integer from {low} to {high}", functools.partial(is_integer, low, high))
