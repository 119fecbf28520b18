"""raw: the voxels as they are, little-endian, in Fortran order."""

import math

import numpy as np

from precomputed_fs.codecs.chunks import (
    Array,
    ChunkIndex,
    ChunkKind,
    ChunkPart,
    DamagedError,
    box_ranges,
    transposed,
)
from precomputed_fs.codecs.encoding import (
    ANY,
    NEUROGLANCER,
    NEUROGLANCER_SCRIPTS,
    TENSORSTORE,
    UNSIGNED,
    VOXEL_TYPES,
    Encoding,
)
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Pieces

_MOST_PIECES = 16  # read one by one


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    shape, dtype = (*size, kind.num_channels), kind.dtype
    length = math.prod(shape) * dtype.itemsize
    if len(data) != length:
        raise DamagedError(f"it has {length} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def _pieces(kind: ChunkKind, size: Triple, index: ChunkIndex) -> Pieces:
    """Return the piece from the first voxel to the last; of few points, a piece for each point and channel."""
    dx, dy, dz, dc = _distances(kind, size)
    x, y, z, channels = index
    numbers = range(*channels.indices(kind.num_channels))
    if isinstance(x, slice) or isinstance(y, slice) or isinstance(z, slice):
        ranges = (*box_ranges(index, size), numbers)
        first, last = (
            sum(voxels[at] * step for voxels, step in zip(ranges, (dx, dy, dz, dc), strict=True)) for at in (0, -1)
        )
    elif len(x) * len(numbers) > _MOST_PIECES:
        offsets = x * dx + y * dy + z * dz
        first, last = int(offsets.min()) + numbers[0] * dc, int(offsets.max()) + numbers[-1] * dc
    else:
        points = zip(x.tolist(), y.tolist(), z.tolist(), strict=True)
        offsets = [i * dx + j * dy + k * dz + channel * dc for i, j, k in points for channel in numbers]
        return [(offset, offset + dx) for offset in offsets]
    return [(first, last + dx)]


def _decode_pieces(kind: ChunkKind, part: ChunkPart, size: Triple, index: ChunkIndex) -> Array:
    distances = _distances(kind, size)
    x, y, z, channels = index
    numbers = range(*channels.indices(kind.num_channels))
    begin = part.pieces[0][0]
    if isinstance(x, slice) or isinstance(y, slice) or isinstance(z, slice):
        ranges = (*box_ranges(index, size), numbers)
        offset = sum(voxels[0] * step for voxels, step in zip(ranges, distances, strict=True)) - begin
        strides = [voxels.step * step for voxels, step in zip(ranges, distances, strict=True)]
        return np.ndarray([*map(len, ranges)], kind.dtype, part.data, offset, strides)
    voxels = np.frombuffer(part.data, kind.dtype)
    if len(part.pieces) == len(x) * len(numbers):
        return voxels.reshape(len(x), len(numbers))
    dx, dy, dz, dc = distances
    offsets = (x * dx + y * dy + z * dz - begin)[:, np.newaxis] + np.array(numbers) * dc
    decoded: Array = voxels[offsets // dx]
    return decoded


def _distances(kind: ChunkKind, size: Triple) -> tuple[int, int, int, int]:
    """Return how many bytes a voxel is from the next one along each axis."""
    x, y, _ = size
    width = kind.dtype.itemsize
    return width, width * x, width * x * y, width * math.prod(size)


def _encode(_: ChunkKind, array: Array) -> bytes:
    return transposed(array, 3, 2, 1, 0).tobytes()


RAW = Encoding(
    "raw",
    VOXEL_TYPES,
    None,
    _decode,
    _encode,
    lambda chunk: chunk.raw_bytes,
    pieces=_pieces,
    decode_pieces=_decode_pieces,
    readers={
        NEUROGLANCER: ((VOXEL_TYPES, ANY),),
        TENSORSTORE: ((VOXEL_TYPES, ANY),),
        NEUROGLANCER_SCRIPTS: (((*UNSIGNED, "float32"), ANY),),
    },
)
