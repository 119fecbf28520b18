"""The most bytes that an encoded chunk can have: one function per encoding.

Reading enforces these limits, so that a malicious object takes no more memory than a chunk. They are generous:
every writer's worst case fits, with headers and metadata of up to `ROOM` bytes.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from precomputed_fs.format.grid import Triple

ROOM = 1 << 20
"""Bytes allowed beyond those for the voxels (1 MiB)."""

_STREAM_BYTES = 100  # of a zfp stream: its entry in the index, its header, and padding to a whole word


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


def _png(chunk: Chunk) -> int:
    """Allow incompressible pixels, and a filter byte per row, which may be a single pixel."""
    return 2 * (chunk.raw_bytes + chunk.voxels)


def _compressed_segmentation(chunk: Chunk) -> int:
    """Allow 32 bits and a label for each voxel of each block, even outside of the chunk."""
    blocks = math.prod(-(-side // block) for side, block in zip(chunk.size, chunk.block_size, strict=True))
    return chunk.channels * (4 + blocks * (8 + math.prod(chunk.block_size) * (4 + chunk.value_bytes)))


def _compresso(chunk: Chunk) -> int:
    """Allow an id, two locations, a window and a value per voxel, and two entries of an index per slice."""
    return chunk.voxels * (3 * chunk.value_bytes + 8 + 8 + 2 * 8)


def _crackle(chunk: Chunk) -> int:
    """Allow a label and its index per voxel, and cracks and the start of one per corner of a voxel."""
    return chunk.voxels * (chunk.value_bytes + 8 + 4 * (4 + 1))


def _zfpc(chunk: Chunk) -> int:
    """Allow 64 bits and the header of a block per value of whole blocks, and a stream per value."""
    padded = math.prod(4 * -(-side // 4) for side in (*chunk.size, chunk.channels))
    return 9 * padded + _STREAM_BYTES * chunk.values


_LARGEST: Mapping[str, Callable[[Chunk], int]] = {
    "raw": lambda chunk: chunk.raw_bytes,
    "jpeg": lambda chunk: 8 * chunk.raw_bytes,  # at most 27 bits per coefficient
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
    """Return the most bytes that an encoded chunk can have; None for an unknown encoding.

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
