"""What is stored of a box that is written: whole chunks, and changes of those that it covers in part."""

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.codecs import Codec
from precomputed_fs.format.grid import ChunkCoords, size_of
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.volume.indexing import Selection, overlaps_with
from precomputed_fs.volume.sources import Parts

_PATCH_HEAD = struct.Struct("<8q?")
"""Head of a change: start and stop along x, y, z and channel; and whether it is zeros, which are then not repeated
behind the head and do not create a chunk that is absent."""


class Part(NamedTuple):
    """The voxels to write into one chunk."""

    voxels: NDArray[Any]
    """(x, y, z, channel)"""

    into: tuple[slice, slice, slice, slice]
    """Where they are in the chunk."""


def chunk_parts(
    chunks: Iterable[ChunkCoords], selection: Selection, parts: Parts
) -> Iterator[tuple[ChunkCoords, Part]]:
    """Yield the part of a value that goes into each chunk."""
    overlaps = overlaps_with(selection.ranges)
    for coords in chunks:
        out_of, into = overlaps(coords)
        yield coords, Part(parts((*out_of, slice(None))), (*into, selection.channels))


class ChunkEncoder:
    """Encodes a part that covers its chunk; makes a change to the stored chunk of any other.

    Parameters
    ----------
    codec : Codec
    skip_empty : bool
        Whether chunks of zeros are left out, unless they replace others.
    """

    def __init__(self, codec: Codec, *, skip_empty: bool) -> None:
        self._codec = codec
        self._skip_empty = skip_empty
        self._apply = functools.partial(_patched, codec)  # holds no accessor: changes wait in the accessor's buffer

    def __call__(self, coords: ChunkCoords, part: Part) -> bytes | Update:
        """Encode a part."""
        is_skipped = self._skip_empty and _is_empty(part.voxels)
        is_whole = part.voxels.shape == (*size_of(coords), self._codec.num_channels)
        if is_whole and not is_skipped:
            return self._codec.encode(part.voxels)
        head = _PATCH_HEAD.pack(*(bound for cut in part.into for bound in (cut.start, cut.stop)), is_skipped)
        return Update(head if is_skipped else head + part.voxels.tobytes(order="F"), self._apply)


def _is_empty(voxels: NDArray[Any]) -> bool:
    """Whether voxels equal what an absent chunk is read as: zeros, and no negative zeros."""
    return not voxels.any() and not (voxels.dtype.kind == "f" and np.signbit(voxels).any())


def _patched(codec: Codec, coords: ChunkCoords, chunk: bytes | None, patches: Sequence[bytes]) -> bytes | None:
    """Apply changes to the stored chunk, or to zeros if there is none; see `Update`."""
    shape = (*size_of(coords), codec.num_channels)
    voxels: NDArray[Any] | None = None
    for patch in patches:
        *bounds, is_zeros = _PATCH_HEAD.unpack_from(patch)
        if voxels is None and chunk is None and is_zeros:
            continue
        into = tuple(map(slice, bounds[::2], bounds[1::2]))
        size = [cut.stop - cut.start for cut in into]
        if voxels is None:
            voxels = np.zeros(shape, codec.dtype, order="F")
            if chunk is not None and size != [*shape]:
                voxels[...] = codec.decode(chunk, size_of(coords))
        given = np.frombuffer(patch, codec.dtype, offset=_PATCH_HEAD.size)
        voxels[into] = 0 if is_zeros else given.reshape(size, order="F")
    return None if voxels is None else codec.encode(voxels)
