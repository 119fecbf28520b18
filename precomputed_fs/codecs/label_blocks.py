"""The blocks of a compressed_segmentation chunk: where their labels are, and whether they are damaged.

A chunk begins with the offset of each channel. A channel begins with a header of two words for each block, x fastest:
the offset of the block's table of labels in 24 bits, the number of bits of each voxel, and the offset of the voxels.
All offsets are in words of 32 bits, those of a block from the beginning of its channel. A voxel is an index into the
table. So any block can be found and decoded by itself.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkIndex, ChunkKind, DamagedError, box_ranges
from precomputed_fs.format.grid import Triple

_VOXELS_AT_ONCE = 1 << 20
_WORD_BITS = 32
_IS_READ = np.isin(np.arange(256), [0, 1, 2, 4, 8, 16])  # by bits of a voxel; the library misreads 32, which is allowed


Kernel = Callable[..., bool]
"""Decodes a box or points. It returns False, with anything in `out`, if a block that is touched is damaged.

Parameters
----------
words : ndarray of uint32
    The chunk.
starts : ndarray of uint32
    Where its channels begin.
grid : tuple of int
    Number of blocks, xyz.
block_size : tuple of int
voxels : int
    Of a block; no more than the words have bits, and one.
xs, ys, zs : ndarray of int64
    Of a box: what `_cut` returns for each axis. Of points: where they are in the chunk, (n,).
steps or size : tuple of int
    Of a box: its steps. Of points: the size of the chunk in voxels; False is returned, too, if one is not in it.
out : ndarray
    ``[x, y, z, channel]`` of a box, ``[point, 1, 1, channel]`` of points, with any strides.
"""


class _Headers(NamedTuple):
    """The headers of some blocks of a channel, an element for each."""

    bits: Array
    tables: Array
    values: Array


@dataclass(frozen=True, slots=True)
class LabelBlocks:
    """The blocks of one chunk. Made by `label_blocks`, which has checked where its channels begin."""

    words: Array
    """The chunk, as little-endian uint32."""

    channels: list[int]
    """Where each channel begins."""

    size: Triple
    """Of the chunk in voxels, xyz."""

    block_size: Triple

    dtype: np.dtype[Any]
    """Of the labels: uint32 or uint64."""

    def check(self) -> None:
        """Check that every offset in the data leads into the data.

        Raises
        ------
        DamagedError
            If one does not.
        """
        for start in self.channels:
            self._headers(self.words[start:], slice(None))

    def pick(self, index: ChunkIndex) -> Array:
        """Return labels, after a check of the blocks that hold them.

        Raises
        ------
        DamagedError
            If one of these blocks is damaged.
        """
        *axes, channels = index
        points = [np.arange(length)[axis] for axis, length in zip(axes, self.size, strict=True)]  # checks them
        cells, within = zip(*map(np.divmod, points, self.block_size), strict=True)
        if isinstance(index[0], slice):
            blocks, block_of = self._blocks_of_box(cells)
            x, y, z = _mesh(within)
        else:
            blocks, block_of = np.unique(self._number(*cells), return_inverse=True)
            x, y, z = within
        width, height, _ = self.block_size
        at = x + width * (y + height * z)  # overflows in huge blocks only, which are of one label: see `_picked`
        chosen = self.channels[channels]
        picked = np.empty((len(chosen), *block_of.shape), self.dtype)
        for labels, start in zip(picked, chosen, strict=True):
            words = self.words[start:]
            labels[...] = self._picked(words, self._headers(words, blocks), block_of, at)
        return picked.T

    def decode(self, kernel: Kernel, index: ChunkIndex, out: Array | None) -> Array | None:
        """Decode by the kernel for such an index, into `out` if that is an array for it; return None if it refuses."""
        *axes, channels = index
        starts = self.words[: len(self.channels)][channels]
        if not starts.flags.c_contiguous:
            starts = np.array(starts)
            starts.flags.writeable = False  # as the kernels are compiled for
        block_voxels = min(math.prod(self.block_size), _WORD_BITS * self.words.size + 1)
        blocks = (self.words, starts, self._grid, tuple(self.block_size), block_voxels)
        if isinstance(axes[0], slice):
            boxed = box_ranges(index, self.size)
            out = _array_for(out, (*map(len, boxed), starts.size), self.dtype)
            cuts = [_cut(voxels, block) for voxels, block in zip(boxed, self.block_size, strict=True)]
            is_sound = kernel(*blocks, *cuts, tuple(voxels.step for voxels in boxed), out)
        else:
            points = [np.array(axis, np.int64) for axis in axes]
            out = _array_for(out, (points[0].size, starts.size), self.dtype)
            is_sound = kernel(*blocks, *points, self.size, out[:, np.newaxis, np.newaxis])
        return out if is_sound else None

    @property
    def _grid(self) -> Triple:
        x, y, z = (-(-length // block) for length, block in zip(self.size, self.block_size, strict=True))
        return x, y, z

    def _number(self, x: Array, y: Array, z: Array) -> Array:
        """Return the number of each block, given by its place in the grid."""
        columns, rows, _ = self._grid
        number: Array = x + columns * (y + rows * z)
        return number

    def _blocks_of_box(self, cells: tuple[Array, ...]) -> tuple[Array, Array]:
        """Return the numbers of the blocks, and for each voxel, ``[z, y, x]``, which of these holds it."""
        xs, ys, zs = (np.array(sorted({*axis.tolist()}), np.int64) for axis in cells)
        blocks = self._number(*_mesh((xs, ys, zs))).reshape(-1)
        x, y, z = _mesh((xs.searchsorted(cells[0]), ys.searchsorted(cells[1]), zs.searchsorted(cells[2])))
        return blocks, x + len(xs) * (y + len(ys) * z)

    def _picked(self, words: Array, headers: _Headers, block_of: Array, at: Array) -> Array:
        """Return the labels of voxels, given by the header and the position in the block of each."""
        bits, tables, values = headers
        masks = (np.uint32(1) << bits.astype(np.uint32)) - np.uint32(1)
        values = np.where(bits, values, 0)  # that of a block of one label may lead anywhere
        position = at * bits[block_of]
        index = (words[values[block_of] + (position >> 5)] >> (position & 31).astype(np.uint32)) & masks[block_of]
        label_words = self.dtype.itemsize // 4
        label = tables[block_of] + label_words * index.astype(np.int64)
        labels: Array = words[label].astype(self.dtype, copy=False)
        if label_words > 1:
            labels |= words[label + 1].astype(self.dtype) << np.uint64(_WORD_BITS)
        return labels

    def _headers(self, words: Array, blocks: Array | slice) -> _Headers:
        """Return the headers of some blocks of a channel, which begins with the first word, and check these blocks."""
        count, block_voxels = math.prod(self._grid), math.prod(self.block_size)
        label_words = self.dtype.itemsize // 4
        headers = words[: 2 * count].reshape(-1, 2)[blocks].astype(np.int64)
        bits, tables, values = headers[:, 0] >> 24, headers[:, 0] & 0xFFFFFF, headers[:, 1]
        if tables.min(initial=2 * count) < 2 * count:
            raise DamagedError("a block's labels lie among the headers")
        if not _IS_READ[bits].all():
            raise DamagedError(f"a block has {bits[~_IS_READ[bits]][0]} bits a voxel")
        block_voxels = min(block_voxels, _WORD_BITS * words.size + 1)  # more cannot fit, and products could overflow
        ends = values - (-bits * block_voxels // _WORD_BITS)
        if ends[bits > 0].max(initial=0) > words.size:
            raise DamagedError("a block's voxels lie after the end")
        # Only a table at the end of the data may be shorter than the number of bits allows for.
        at_end = np.flatnonzero(tables + (label_words << bits) > words.size)
        for bit_count in set(bits[at_end].tolist()):
            chosen = at_end[bits[at_end] == bit_count]
            last = _last_labels(words, values[chosen], bit_count, block_voxels) if bit_count else 0
            if (tables[chosen] + (last + 1) * label_words > words.size).any():
                raise DamagedError("a block's labels lie after the end")
        return _Headers(bits, tables, values)


def label_blocks(kind: ChunkKind, data: bytes, size: Triple, block_size: Triple) -> LabelBlocks:
    """Find the channels of a chunk.

    Raises
    ------
    DamagedError
        If the data cannot be a chunk of this kind and size.
    """
    if kind.data_type not in {"uint32", "uint64"}:
        raise DamagedError("a compressed_segmentation chunk holds uint32 or uint64")
    blocks = math.prod(-(-length // block) for length, block in zip(size, block_size, strict=True))
    channels = kind.num_channels
    if len(data) % 4 or len(data) < 4 * (channels + 2 * blocks):
        raise DamagedError(f"it has at least {4 * (channels + 2 * blocks)} bytes, and a multiple of 4")
    words = np.frombuffer(data, "<u4")
    if words[0] != channels:
        raise DamagedError(f"its first channel begins at {words[0]}, and not at {channels}")
    starts = words[:channels].tolist()
    if min(starts) < channels or max(starts) + 2 * blocks > words.size:
        raise DamagedError("a channel begins where it cannot")
    return LabelBlocks(words, starts, size, block_size, kind.dtype)


@functools.lru_cache(1 << 10)
def _cut(voxels: range, block: int) -> Array:
    """Cut voxels along one axis at the edges of blocks.

    Returns
    -------
    ndarray of int64
        A row for each block: its first voxel and one past the last, counted among the voxels; the block's place in the
        grid; and where in the block the first voxel is.
    """
    rows = []
    first = 0
    while first < len(voxels):
        cell, at = divmod(voxels[first], block)
        after = min(len(voxels), first - (at - block) // voxels.step)
        rows.append((first, after, cell, at))
        first = after
    cuts = np.array(rows, np.int64).reshape(-1, 4)
    cuts.flags.writeable = False
    return cuts


def _array_for(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if out is None or out.shape != shape or out.dtype != dtype:
        return np.empty(shape, dtype, order="F")
    return out


def _mesh(axes: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Shape the coordinates along x, y and z such that they broadcast to ``[z, y, x]``."""
    x, y, z = axes
    return x, y[:, np.newaxis], z[:, np.newaxis, np.newaxis]


def _last_labels(words: Array, values: Array, bits: int, block_voxels: int) -> Array:
    """Return the largest index into its table of labels, for each of some blocks."""
    length = -(-bits * block_voxels // _WORD_BITS)
    shifts = np.arange(0, _WORD_BITS, bits, dtype=np.uint32)
    largest = np.empty(len(values), np.int64)
    step = max(1, _VOXELS_AT_ONCE // block_voxels)  # a thin chunk may have many large blocks
    for begin in range(0, len(values), step):
        part = slice(begin, begin + step)
        rows = words[values[part].astype(np.int64)[:, np.newaxis] + np.arange(length)]
        indices = (rows[:, :, np.newaxis] >> shifts) & np.uint32((1 << bits) - 1)
        largest[part] = indices.reshape(len(rows), -1)[:, :block_voxels].max(axis=1)
    return largest
