"""What a codec works on: arrays of voxels, the kind of chunk that they belong to, and bytes that may be damaged."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Pieces

Array = np.ndarray[Any, np.dtype[Any]]

AXES = 4
"""Of a chunk's array: ``[x, y, z, channel]``."""

ChunkIndex = tuple[slice | Array, slice | Array, slice | Array, slice]
"""Some voxels and channels of a chunk, as an index of its array.

A box is four slices with positive steps. Points are three arrays of integers, each of shape (n,), and a slice."""


class ChunkPart(NamedTuple):
    """Some of the bytes of a chunk."""

    data: bytes
    """The pieces, joined."""

    pieces: Pieces


@dataclass(frozen=True, slots=True)
class ChunkKind:
    """What the chunks of one scale hold."""

    data_type: str
    """As in `info`, in lower case."""

    num_channels: int

    parameters: Mapping[str, Any]
    """Values of the encoding's own parameters, defaults included."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of decoded voxels; little-endian."""
        return _little_endian(self.data_type)


@functools.cache
def _little_endian(data_type: str) -> np.dtype[Any]:
    return np.dtype(data_type).newbyteorder("<")


# ----------------------------------------------------------------------------------------------------- damage, refusals


class DamagedError(ValueError):
    """Why bytes are not the chunk that they should be; `Codec.decode` adds what was expected."""


class UnstorableError(ValueError):
    """Why an encoding cannot store an array; `Codec.encode` adds the scale."""


@contextlib.contextmanager
def library_reads() -> Iterator[None]:
    """Treat whatever a library raises about its input as damage, except for a lack of memory."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise DamagedError(reason) from exc


# ----------------------------------------------------------------------------------------------------- bytes and arrays


def box_ranges(index: ChunkIndex, size: Triple) -> list[range]:
    """Return the voxels of a box along x, y and z."""
    return [
        range(*axis.indices(length)) for axis, length in zip(index[:3], size, strict=True) if isinstance(axis, slice)
    ]


_X_AT_ONCE = 8


def transposed(array: Array, *axes: int) -> Array:
    """Reorder axes such that x comes after z, into an array that can be copied fast.

    In most arrays z varies fastest, so voxels that differ in x only are far apart, and have left the
    processor's cache before the next z is copied. Copying a few x at a time keeps them there.
    """
    reordered = array.transpose(axes)
    if array.strides[0] <= array.strides[2]:
        return reordered
    copied = np.empty(reordered.shape, array.dtype)
    x = axes.index(0)
    for begin in range(0, array.shape[0], _X_AT_ONCE):
        part = (slice(None),) * x + (slice(begin, begin + _X_AT_ONCE),)
        copied[part] = reordered[part]
    return copied


def byte_width(largest: int) -> int:
    """Return the size in bytes of the smallest integer type that holds a number."""
    return next(width for width in (1, 2, 4, 8) if largest < 1 << 8 * width)


def join(*sections: Any) -> bytes:  # noqa: ANN401 - mypy does not take arrays for buffers
    """Concatenate bytes and arrays."""
    return b"".join(sections)


def cut(data: bytes, begin: int, *sections: tuple[int, int]) -> Iterator[Array]:
    """Cut bytes into arrays of unsigned integers, each given by their size in bytes and their number."""
    for width, count in sections:
        yield np.frombuffer(data, f"<u{width}", count, begin)
        begin += width * count
