"""Which chunks one task copies: boxes of chunks, or the chunks of one shard."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace

from precomputed_fs.copying.plan import AXES, ScaleCopy, chunk_voxels
from precomputed_fs.format.grid import Box, ChunkGrid, Triple, compressed_morton_code, id_bits, morton_block
from precomputed_fs.format.sharding import Sharding

_GROUP = 512  # chunks that one task copies to an unsharded destination
_GROUP_BITS = 9  # the same for sharded sources: 8 x 8 x 8 chunks, which are contiguous in shards
_BLOCK_BYTES = 64 << 20  # voxels that are read at once to be cut into other chunks
_SCATTERED = 1 << 20  # chunks whose shards are computed at once, if a hash scatters them


@dataclass(frozen=True, slots=True)
class Part:
    """Chunks that one task copies: a box of cells of the copy's grid, or some cells of the box."""

    box: Box
    scattered: "array[int] | None" = None
    """Indices of the cells, with x fastest, then y, then z; None for all."""

    shard: int = 0

    def cells(self) -> Iterator[Triple]:
        """Yield the cells, with z fastest."""
        (x0, y0, z0), (nx, ny, _) = self.box.start, self.box.shape
        if self.scattered is None:
            xs, ys, zs = map(range, self.box.start, self.box.stop)
            yield from ((x, y, z) for x in xs for y in ys for z in zs)
            return
        for i in self.scattered:
            yield x0 + i % nx, y0 + i // nx % ny, z0 + i // nx // ny

    def blocks(self, shape: Triple) -> Iterator["Part"]:
        """Yield smaller boxes."""
        if self.scattered is not None:
            for x, y, z in self.cells():
                yield Part(Box((x, y, z), (x + 1, y + 1, z + 1)))
            return
        xs, ys, zs = map(range, self.box.start, self.box.stop, shape)
        for x, y, z in ((x, y, z) for x in xs for y in ys for z in zs):
            block = Box((x, y, z), (x + shape[0], y + shape[1], z + shape[2]))
            yield Part(block & self.box)


def block_shape(copy: ScaleCopy) -> Triple:
    """Choose how many chunks are made at once, so that few source chunks are read, and each once if memory allows."""
    block = [1] * AXES
    chunk, whole, made_of = copy.grid.chunk_size, copy.grid.shape, copy.source_grid.chunk_size
    size = chunk_voxels(copy.grid) * copy.voxel_bytes
    while 2 * size <= _BLOCK_BYTES:
        axes = [axis for axis in range(AXES) if block[axis] < whole[axis]]
        if not axes:
            break
        axis = max(axes, key=lambda axis: made_of[axis] / (block[axis] * chunk[axis]))
        block[axis] *= 2
        size *= 2
    x, y, z = block
    return x, y, z


def parts_of(copy: ScaleCopy) -> Iterator[Part]:
    """Divide a scale into the parts that one task each copies."""
    whole = Part(Box((0, 0, 0), copy.grid.shape))
    sharding = copy.sharding
    if sharding is None:
        yield from whole.blocks(_group_shape(copy))
        return
    bits = sharding.preshift_bits + sharding.minishard_bits
    if sharding.hash != "identity" or id_bits(copy.grid.shape) > bits + sharding.shard_bits:
        yield from _scattered_parts(copy.grid, sharding)
        return
    for part in whole.blocks(morton_block(copy.grid.shape, bits)):
        yield replace(part, shard=_shard(copy.grid, sharding, part.box.start))


def _group_shape(copy: ScaleCopy) -> Triple:
    if copy.source_grid != copy.grid:
        return block_shape(copy)
    if copy.source_is_sharded:
        return morton_block(copy.grid.shape, _GROUP_BITS)
    z = min(copy.grid.shape[2], _GROUP)
    y = min(copy.grid.shape[1], _GROUP // z)
    x = min(copy.grid.shape[0], _GROUP // z // y)
    return x, y, z


def _scattered_parts(grid: ChunkGrid, sharding: Sharding) -> Iterator[Part]:
    """Yield the shards of a scale whose chunks are scattered by a hash.

    To bound memory, each pass over all chunks collects those of some shards only.
    """
    box = Box((0, 0, 0), grid.shape)
    shards, passes = 1 << sharding.shard_bits, -(-math.prod(grid.shape) // _SCATTERED)
    step = -(-shards // passes)
    xs, ys, zs = map(range, grid.shape)
    for first in range(0, shards, step):
        found: dict[int, array[int]] = {}
        for i, cell in enumerate((x, y, z) for z in zs for y in ys for x in xs):
            shard = _shard(grid, sharding, cell)
            if first <= shard < first + step:
                found.setdefault(shard, array("Q")).append(i)
        for shard in sorted(found):
            yield Part(box, found[shard], shard)


def _shard(grid: ChunkGrid, sharding: Sharding, cell: Triple) -> int:
    return sharding.locate(compressed_morton_code(cell, grid.shape))[0]
