"""How many bytes an encoded chunk can take: one function per encoding, from its voxels.

Reading goes by these limits, so that an object which only claims to be a chunk takes no more memory than
one. They are generous: every writer's worst case fits, and so do headers and metadata of up to `ROOM` bytes.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from precomputed_fs.format.grid import Triple

ROOM = 1 << 20
"""Bytes that a chunk may take beyond what its voxels need (1 MiB)."""

_STREAM_BYTES = 100  # of a zfp stream: its place in the index, its header, and what fills its last word


class Chunk(NamedTuple):
    """What there is to encode."""

    size: Triple
    """In voxels, xyz."""

    channels: int
    value_bytes: int
    """Bytes of a value of one channel."""

    block_size: Triple = (8, 8, 8)
    """Of compressed_segmentation, in voxels, xyz."""

    @property
    def voxels(self) -> int:
        """How many voxels there are."""
        return math.prod(self.size)

    @property
    def values(self) -> int:
        """How many values all channels have."""
        return self.voxels * self.channels

    @property
    def raw_bytes(self) -> int:
        """Bytes of all values."""
        return self.values * self.value_bytes


def _png(chunk: Chunk) -> int:
    """Allow a byte for the filter of each row, which may be as short as a pixel, and incompressible pixels."""
    return 2 * (chunk.raw_bytes + chunk.voxels)


def _compressed_segmentation(chunk: Chunk) -> int:
    """Allow each block all its voxels, also those outside of the chunk, in 32 bits, and a label for each."""
    blocks = math.prod(-(-side // block) for side, block in zip(chunk.size, chunk.block_size, strict=True))
    return chunk.channels * (4 + blocks * (8 + math.prod(chunk.block_size) * (4 + chunk.value_bytes)))


def _compresso(chunk: Chunk) -> int:
    """Allow each voxel an id, two locations, a window and its value, and each slice two places in an index."""
    return chunk.voxels * (3 * chunk.value_bytes + 8 + 8 + 2 * 8)


def _crackle(chunk: Chunk) -> int:
    """Allow each voxel a label and its index, and at each corner of a voxel cracks, and a place where some begin."""
    return chunk.voxels * (chunk.value_bytes + 8 + 4 * (4 + 1))


def _zfpc(chunk: Chunk) -> int:
    """Allow 64 bits and a block's header for each value of whole blocks, and a stream for each value."""
    padded = math.prod(4 * -(-side // 4) for side in (*chunk.size, chunk.channels))
    return 9 * padded + _STREAM_BYTES * chunk.values


_LARGEST: Mapping[str, Callable[[Chunk], int]] = {
    "raw": lambda chunk: chunk.raw_bytes,
    "jpeg": lambda chunk: 8 * chunk.raw_bytes,  # 27 bits a coefficient, at most
    "png": _png,
    "jxl": lambda chunk: 8 * chunk.raw_bytes,
    "compressed_segmentation": _compressed_segmentation,
    "compresso": _compresso,
    "crackle": _crackle,
    "fpzip": lambda chunk: 2 * chunk.raw_bytes,
    "kempressed": lambda chunk: 2 * chunk.raw_bytes,
    "zfpc": _zfpc,
}


def largest_chunk(encoding: str, chunk: Chunk) -> int | None:
    """Return how many bytes an encoded chunk can take; None for an encoding that is not known.

    Parameters
    ----------
    encoding : str
        As in `info`, in lower case.

    Examples
    --------
    >>> largest_chunk("raw", Chunk((64, 64, 64), 1, 4)) - ROOM
    1048576
    """
    largest = _LARGEST.get(encoding)
    return None if largest is None else largest(chunk) + ROOM
