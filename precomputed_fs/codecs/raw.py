"""raw: the voxels as they are, little-endian, in Fortran order."""

import math

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, transposed
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


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    shape, dtype = (*size, kind.num_channels), kind.dtype
    length = math.prod(shape) * dtype.itemsize
    if len(data) != length:
        raise DamagedError(f"it has {length} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def _encode(_: ChunkKind, array: Array) -> bytes:
    return transposed(array, 3, 2, 1, 0).tobytes()


RAW = Encoding(
    "raw",
    VOXEL_TYPES,
    None,
    _decode,
    _encode,
    lambda chunk: chunk.raw_bytes,
    readers={
        NEUROGLANCER: ((VOXEL_TYPES, ANY),),
        TENSORSTORE: ((VOXEL_TYPES, ANY),),
        NEUROGLANCER_SCRIPTS: (((*UNSIGNED, "float32"), ANY),),
    },
)
