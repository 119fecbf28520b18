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
    """Return for each channel the piece from the first voxel to the last; of few points, each voxel by itself."""
    width, (dx, dy, dz, dc) = kind.dtype.itemsize, _distances(size)
    x, y, z, channels = index
    numbers = range(*channels.indices(kind.num_channels))
    if isinstance(x, slice) or isinstance(y, slice) or isinstance(z, slice):
        ranges = zip(box_ranges(index, size), (dx, dy, dz), strict=True)
        spans = [(voxels[0] * step, voxels[-1] * step) for voxels, step in ranges]
        first, last = map(sum, zip(*spans, strict=True))
    elif len(x) * len(numbers) <= _MOST_PIECES:
        points = zip(x.tolist(), y.tolist(), z.tolist(), strict=True)
        places = [i * dx + j * dy + k * dz + channel * dc for i, j, k in points for channel in numbers]
        return [(width * place, width * (place + 1)) for place in places]
    else:
        offsets = x * dx + y * dy + z * dz
        first, last = int(offsets.min()), int(offsets.max())
    return [(width * (first + channel * dc), width * (last + 1 + channel * dc)) for channel in numbers]


def _decode_pieces(kind: ChunkKind, part: ChunkPart, size: Triple, index: ChunkIndex) -> Array:
    width, (dx, dy, dz, _) = kind.dtype.itemsize, _distances(size)
    x, y, z, channels = index
    count = len(range(*channels.indices(kind.num_channels)))
    voxels = np.frombuffer(part.data, kind.dtype)
    if isinstance(x, slice) or isinstance(y, slice) or isinstance(z, slice):
        ranges = box_ranges(index, size)
        steps = [voxels.step * step for voxels, step in zip(ranges, (dx, dy, dz), strict=True)]
        strides = [width * step for step in (*steps, voxels.size // count)]
        return np.ndarray([*map(len, ranges), count], kind.dtype, voxels, 0, strides)
    if len(part.pieces) == len(x) * count:
        return voxels.reshape(len(x), count)
    places = x * dx + y * dy + z * dz - part.pieces[0][0] // width % math.prod(size)
    picked: Array = voxels.reshape(count, -1)[:, places].T
    return picked


def _distances(size: Triple) -> tuple[int, int, int, int]:
    """Return how many voxels further the next one along each axis, and the next channel, is."""
    x, y, z = size
    return 1, x, x * y, x * y * z


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
