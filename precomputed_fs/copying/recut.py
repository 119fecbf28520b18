"""How voxels are read and cut into chunks where the copy has another chunk size."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.copying.chunks import MadeChunk, encode_chunk
from precomputed_fs.copying.parts import Part
from precomputed_fs.copying.plan import Recoding, Work
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, Triple


class Block(NamedTuple):
    """Voxels that were read at the source, to be cut."""

    box: Box
    voxels: NDArray[Any]
    cells: Box
    """Of the source's grid."""

    present: NDArray[np.bool_]
    """In which of these a chunk was found."""


def cut_chunk(work: Work, recoding: Recoding, coords: ChunkCoords, block: Block) -> MadeChunk | None:
    """Make a chunk of the copy of the voxels that were read."""
    box = Box.of(coords)
    if not block.present[_relative(_cells(work.source_grid, box), block.cells.start)].any():
        return None
    return encode_chunk(work, recoding.encoder, coords, block.voxels[_relative(box, block.box.start)])


def read_block(work: Work, recoding: Recoding, coords: Iterable[ChunkCoords]) -> Block:
    """Read the voxels of some chunks of the copy, which lie together."""
    boxes = [Box.of(each) for each in coords]
    box = Box(_extreme(min, [each.start for each in boxes]), _extreme(max, [each.stop for each in boxes]))
    grid, decoder = work.source_grid, recoding.decoder
    cells = _cells(grid, box)
    voxels = np.zeros((*box.shape, decoder.num_channels), decoder.dtype, order="F")
    present = np.zeros(cells.shape, bool)

    def paste(coords: ChunkCoords, data: bytes | None) -> None:
        if data is None:
            return
        whole = Box.of(coords)
        overlap = whole & box
        voxels[_relative(overlap, box.start)] = decoder.decode(data, whole.shape)[_relative(overlap, whole.start)]
        present[_relative(_cells(grid, whole), cells.start)] = True

    wanted = (grid.chunk(cell) for cell in Part(cells).cells())
    for _ in work.source.fetch_chunks(work.source_key, wanted, decode=paste, in_flight=work.in_flight):
        pass
    return Block(box, voxels, cells, present)


def _cells(grid: ChunkGrid, box: Box) -> Box:
    """Return the cells of a grid that a box of voxels touches."""
    axes = list(zip(box.start, box.stop, grid.voxel_offset, grid.chunk_size, strict=True))
    x0, y0, z0 = ((low - offset) // chunk for low, _, offset, chunk in axes)
    x1, y1, z1 = (-((offset - high) // chunk) for _, high, offset, chunk in axes)
    return Box((x0, y0, z0), (x1, y1, z1))


def _relative(box: Box, origin: Triple) -> tuple[slice, slice, slice]:
    x, y, z = (slice(low - zero, high - zero) for low, high, zero in zip(box.start, box.stop, origin, strict=True))
    return x, y, z


def _extreme(choose: Callable[[Iterable[int]], int], corners: Iterable[Triple]) -> Triple:
    x, y, z = map(choose, zip(*corners, strict=True))
    return x, y, z
