"""compressed_segmentation: labels in blocks, each with a table of its labels."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkIndex, ChunkKind, UnstorableError, library_reads
from precomputed_fs.codecs.encoding import (
    ANY,
    NEUROGLANCER,
    NEUROGLANCER_SCRIPTS,
    TENSORSTORE,
    Encoding,
    Parameter,
    is_integer,
)
from precomputed_fs.codecs.label_blocks import label_blocks
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk

_BLOCK_SIZE = "compressed_segmentation_block_size"
_BLOCK_VOXELS = 1 << 16  # in a larger block, there may be more labels than the library can count
_SLOWER = 10  # how many times as long as the library NumPy takes for a voxel


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    import compressed_segmentation

    label_blocks(kind, data, size, kind.parameters[_BLOCK_SIZE]).check()  # the library follows offsets blindly
    shape = (*size, kind.num_channels)
    with library_reads():
        decoded: Array = compressed_segmentation.decompress(
            data, shape, kind.dtype, kind.parameters[_BLOCK_SIZE], order="F"
        )
    return decoded


def _decode_part(kind: ChunkKind, data: bytes, size: Triple, index: ChunkIndex) -> Array:
    """Decode few voxels one by one. Of many, that takes longer than the library takes for the whole chunk."""
    if _number_of_voxels(index, size) * _SLOWER > math.prod(size):
        return _decode(kind, data, size)[index]
    return label_blocks(kind, data, size, kind.parameters[_BLOCK_SIZE]).pick(index)


def _number_of_voxels(index: ChunkIndex, size: Triple) -> int:
    *axes, _ = index
    counts = [
        len(range(*axis.indices(length))) if isinstance(axis, slice) else len(axis)
        for axis, length in zip(axes, size, strict=True)
    ]
    return math.prod(counts) if isinstance(axes[0], slice) else counts[0]


def _encode(kind: ChunkKind, array: Array) -> bytes:
    """Encode the channels one by one: given several, the library reads a stride that nobody wrote."""
    import compressed_segmentation

    channels = []
    for channel in range(kind.num_channels):
        plane = np.array(array[..., channel], order="F")  # the library takes no read-only array
        try:
            encoded = compressed_segmentation.compress(plane, kind.parameters[_BLOCK_SIZE], order="F")
        except OverflowError as exc:
            message = "a chunk of so many labels is too large for compressed_segmentation; use raw"
            raise UnstorableError(message) from exc
        channels.append(encoded[4:])  # without the offset of its only channel
    lengths = [len(channels), *(len(channel) // 4 for channel in channels[:-1])]
    return b"".join((np.cumsum(lengths).astype("<u4").tobytes(), *channels))


def _too_large_blocks(parameters: Mapping[str, Any]) -> str:
    block_size = parameters[_BLOCK_SIZE]
    if math.prod(block_size) <= _BLOCK_VOXELS:
        return ""
    return f"{_BLOCK_SIZE}: expected at most {_BLOCK_VOXELS} voxels, got {block_size}; use [8, 8, 8]"


def _is_block_size(value: object) -> bool:
    largest = (1 << 31) - 1
    return isinstance(value, list | tuple) and len(value) == 3 and all(is_integer(1, largest, each) for each in value)  # noqa: PLR2004


_KINDS = ((("uint32", "uint64"), ANY),)


def _largest(chunk: Chunk) -> int:
    """Allow 32 bits and a label for each voxel of each block, even outside of the chunk."""
    blocks = math.prod(-(-side // block) for side, block in zip(chunk.size, chunk.block_size, strict=True))
    return chunk.channels * (4 + blocks * (8 + math.prod(chunk.block_size) * (4 + chunk.value_bytes)))


COMPRESSED_SEGMENTATION = Encoding(
    "compressed_segmentation",
    ("uint32", "uint64"),
    None,
    _decode,
    _encode,
    _largest,
    decode_part=_decode_part,
    parameters=(Parameter(_BLOCK_SIZE, [8, 8, 8], "3 positive integers", _is_block_size, required=True),),
    conflict=_too_large_blocks,
    library="compressed_segmentation",
    layer_type="segmentation",
    readers=dict.fromkeys((NEUROGLANCER, TENSORSTORE, NEUROGLANCER_SCRIPTS), _KINDS),
)
