"""How voxels are read, and cut into chunks of another size."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.copying.chunks import NewChunk, encode_chunk
from precomputed_fs.copying.parts import Part
from precomputed_fs.copying.plan import ScaleCopy, Transcoding
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, Triple


class Block(NamedTuple):
    """Voxels of the source, to be cut into chunks."""

    box: Box
    voxels: NDArray[Any]
    cells: Box
    """The cells of the source's grid."""

    present: NDArray[np.bool_]
    """Which of the cells have a chunk."""


def cut_chunk(copy: ScaleCopy, transcoding: Transcoding, coords: ChunkCoords, block: Block) -> NewChunk | None:
    """Make a chunk of the copy from voxels."""
    box = Box.of(coords)
    if not block.present[_relative(_cells(copy.source_grid, box), block.cells.start)].any():
        return None
    return encode_chunk(copy, transcoding.encoder, coords, block.voxels[_relative(box, block.box.start)])


def read_block(copy: ScaleCopy, transcoding: Transcoding, coords: Iterable[ChunkCoords]) -> Block:
    """Read the voxels of some neighbouring chunks of the copy."""
    boxes = [Box.of(each) for each in coords]  # not all chunks that are between them may be wanted
    box = Box(_extreme(min, [each.start for each in boxes]), _extreme(max, [each.stop for each in boxes]))
    grid, decoder = copy.source_grid, transcoding.decoder
    cells = _cells(grid, box)
    voxels = np.zeros((*box.shape, decoder.num_channels), decoder.dtype, order="F")
    present = np.zeros(cells.shape, bool)

    def paste(coords: ChunkCoords, data: bytes | None) -> None:
        if data is None:
            return
        whole = Box.of(coords)
        overlap = whole & box
        index = (*_relative(overlap, whole.start), slice(None))
        decoder.decode_part(data, whole.shape, index, out=voxels[_relative(overlap, box.start)])
        present[_relative(_cells(grid, whole), cells.start)] = True

    touched = dict.fromkeys(cell for each in boxes for cell in Part(_cells(grid, each)).cells())
    wanted = map(grid.chunk, touched)
    for _ in copy.source.fetch_chunks(copy.source_key, wanted, decode=paste, in_flight=copy.in_flight):
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
