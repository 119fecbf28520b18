"""compressed_segmentation: labels in blocks, each with a table of its labels."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkIndex, ChunkKind, UnstorableError, box_ranges, library_reads
from precomputed_fs.codecs.compiled import Compiled
from precomputed_fs.codecs.encoding import (
    ANY,
    NEUROGLANCER,
    NEUROGLANCER_SCRIPTS,
    TENSORSTORE,
    Encoding,
    Parameter,
    is_integer,
)
from precomputed_fs.codecs.label_blocks import Kernel, LabelBlocks, label_blocks
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk

_BLOCK_SIZE = "compressed_segmentation_block_size"
_BLOCK_VOXELS = 1 << 16  # in a larger block, there may be more labels than the library can count
_SLOWER = 10  # how many times as long as the library NumPy takes for a voxel
_WHOLE: ChunkIndex = (slice(None), slice(None), slice(None), slice(None))


def _load_for_boxes(data_type: str) -> Kernel:
    from precomputed_fs.codecs import label_kernel

    return label_kernel.load_for_boxes(data_type)


def _load_for_points(data_type: str) -> Kernel:
    from precomputed_fs.codecs import label_kernel

    return label_kernel.load_for_points(data_type)


_DATA_TYPES = ("uint32", "uint64")

BOX_KERNELS, POINT_KERNELS = (
    {name: Compiled(f"decoding {name} labels {of}", functools.partial(load, name)) for name in _DATA_TYPES}
    for of, load in (("in boxes", _load_for_boxes), ("at points", _load_for_points))
)
"""By type: decode labels, once they are compiled."""


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    return _decode_part(kind, data, size, _WHOLE, None)


def _decode_part(kind: ChunkKind, data: bytes, size: Triple, index: ChunkIndex, out: Array | None) -> Array:
    """Decode by the compiled kernels once they are there; before, by NumPy or the library."""
    blocks = label_blocks(kind, data, size, kind.parameters[_BLOCK_SIZE])
    is_box = isinstance(index[0], slice)
    kernel = (BOX_KERNELS if is_box else POINT_KERNELS)[kind.data_type]
    if kernel.function is not None:
        decoded = blocks.decode(kernel.function, index, out)
        if decoded is not None:
            return decoded  # otherwise a block is damaged: which one, the others tell
    with kernel.stood_in_for():
        if is_box and math.prod(map(len, box_ranges(index, size))) * _SLOWER > math.prod(size):
            return _decode_by_library(kind, blocks, data)[index]
        return blocks.pick(index)


def _decode_by_library(kind: ChunkKind, blocks: LabelBlocks, data: bytes) -> Array:
    import compressed_segmentation

    blocks.check()  # the library follows offsets blindly
    shape = (*blocks.size, kind.num_channels)
    with library_reads():
        decoded: Array = compressed_segmentation.decompress(
            data, shape, kind.dtype, kind.parameters[_BLOCK_SIZE], order="F"
        )
    return decoded


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


_KINDS = ((_DATA_TYPES, ANY),)


def _largest(chunk: Chunk) -> int:
    """Allow 32 bits and a label for each voxel of each block, even outside of the chunk."""
    blocks = math.prod(-(-side // block) for side, block in zip(chunk.size, chunk.block_size, strict=True))
    return chunk.channels * (4 + blocks * (8 + math.prod(chunk.block_size) * (4 + chunk.value_bytes)))


COMPRESSED_SEGMENTATION = Encoding(
    "compressed_segmentation",
    _DATA_TYPES,
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
