"""Which chunks one task copies: boxes of chunks, or the chunks of one shard."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace

from precomputed_fs.copying.plan import AXES, Work, chunk_voxels
from precomputed_fs.format.grid import Box, ChunkGrid, Triple, compressed_morton_code, id_bits, morton_block
from precomputed_fs.format.sharding import Sharding

_GROUP = 512  # chunks that are looked for at once in an unsharded destination, and copied by one task
_GROUP_BITS = 9  # the same for sharded sources: 8 x 8 x 8 chunks, which lie together there
_BLOCK_BYTES = 64 << 20  # of voxels that are read at once, where they are cut into other chunks
_SCATTERED = 1 << 20  # chunks whose shards are worked out at once, where a hash scatters them


@dataclass(frozen=True, slots=True)
class Part:
    """Chunks that one task copies: a box of cells of the copy's grid, or some of these."""

    box: Box
    scattered: "array[int] | None" = None
    """Which cells, counted along x, then y, then z; None for all."""

    shard: int = 0

    def cells(self) -> Iterator[Triple]:
        """Go through the cells, those along z first."""
        (x0, y0, z0), (nx, ny, _) = self.box.start, self.box.shape
        if self.scattered is None:
            xs, ys, zs = map(range, self.box.start, self.box.stop)
            yield from ((x, y, z) for x in xs for y in ys for z in zs)
            return
        for i in self.scattered:
            yield x0 + i % nx, y0 + i // nx % ny, z0 + i // nx // ny

    def blocks(self, shape: Triple) -> Iterator["Part"]:
        """Cut it into smaller boxes."""
        if self.scattered is not None:
            for x, y, z in self.cells():
                yield Part(Box((x, y, z), (x + 1, y + 1, z + 1)))
            return
        xs, ys, zs = map(range, self.box.start, self.box.stop, shape)
        for x, y, z in ((x, y, z) for x in xs for y in ys for z in zs):
            block = Box((x, y, z), (x + shape[0], y + shape[1], z + shape[2]))
            yield Part(block & self.box)


def block_shape(work: Work) -> Triple:
    """Choose how many chunks are made at once: of few source chunks, and these whole, if memory allows it."""
    block = [1] * AXES
    chunk, whole, made_of = work.grid.chunk_size, work.grid.shape, work.source_grid.chunk_size
    size = chunk_voxels(work.grid) * work.voxel_bytes
    while 2 * size <= _BLOCK_BYTES:
        axes = [axis for axis in range(AXES) if block[axis] < whole[axis]]
        if not axes:
            break
        axis = max(axes, key=lambda axis: made_of[axis] / (block[axis] * chunk[axis]))
        block[axis] *= 2
        size *= 2
    x, y, z = block
    return x, y, z


def parts_of(work: Work) -> Iterator[Part]:
    """Cut a scale into what one task copies."""
    whole = Part(Box((0, 0, 0), work.grid.shape))
    sharding = work.sharding
    if sharding is None:
        yield from whole.blocks(_group_shape(work))
        return
    bits = sharding.preshift_bits + sharding.minishard_bits
    if sharding.hash != "identity" or id_bits(work.grid.shape) > bits + sharding.shard_bits:
        yield from _scattered_parts(work.grid, sharding)
        return
    for part in whole.blocks(morton_block(work.grid.shape, bits)):
        yield replace(part, shard=_shard(work.grid, sharding, part.box.start))


def _group_shape(work: Work) -> Triple:
    if work.source_grid != work.grid:
        return block_shape(work)
    if work.source_is_sharded:
        return morton_block(work.grid.shape, _GROUP_BITS)
    z = min(work.grid.shape[2], _GROUP)
    y = min(work.grid.shape[1], _GROUP // z)
    x = min(work.grid.shape[0], _GROUP // z // y)
    return x, y, z


def _scattered_parts(grid: ChunkGrid, sharding: Sharding) -> Iterator[Part]:
    """Go through the shards of a scale where each has chunks from everywhere.

    All chunks are gone through for some shards at once, again and again, rather than to keep all in memory.
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
