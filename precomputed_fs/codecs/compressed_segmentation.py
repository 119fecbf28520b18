"""compressed_segmentation: labels in blocks, each with a table of its labels."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, UnstorableError, library_reads
from precomputed_fs.codecs.encoding import (
    ANY,
    NEUROGLANCER,
    NEUROGLANCER_SCRIPTS,
    TENSORSTORE,
    Encoding,
    Parameter,
    is_integer,
)
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk

_BLOCK_SIZE = "compressed_segmentation_block_size"
_BLOCK_VOXELS = 1 << 16  # in a larger block, there may be more labels than the library can count
_VOXELS_AT_ONCE = 1 << 20
_WORD_BITS = 32
_IS_READ = np.isin(np.arange(256), [0, 1, 2, 4, 8, 16])  # by bits of a voxel; the library misreads 32, which is allowed


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    import compressed_segmentation

    _check(kind, data, size)
    shape = (*size, kind.num_channels)
    with library_reads():
        decoded: Array = compressed_segmentation.decompress(
            data, shape, kind.dtype, kind.parameters[_BLOCK_SIZE], order="F"
        )
    return decoded


def _check(kind: ChunkKind, data: bytes, size: Triple) -> None:
    """Check that every offset in the data leads into the data: the library follows them blindly."""
    if kind.data_type not in {"uint32", "uint64"}:
        raise DamagedError("a compressed_segmentation chunk holds uint32 or uint64")
    block_size = kind.parameters[_BLOCK_SIZE]
    blocks = math.prod(-(-length // block) for length, block in zip(size, block_size, strict=True))
    channels = kind.num_channels
    if len(data) % 4 or len(data) < 4 * (channels + 2 * blocks):
        raise DamagedError(f"it has at least {4 * (channels + 2 * blocks)} bytes, and a multiple of 4")
    words = np.frombuffer(data, "<u4")
    if words[0] != channels:
        raise DamagedError(f"its first channel begins at {words[0]}, and not at {channels}")
    for start in words[:channels].tolist():
        if start < channels or start + 2 * blocks > words.size:
            raise DamagedError("a channel begins where it cannot")
        _check_channel(words[start:], blocks, math.prod(block_size), kind.dtype.itemsize // 4)


def _check_channel(words: Array, blocks: int, block_voxels: int, label_words: int) -> None:
    """Check the blocks of one channel.

    A block's header gives the offset of its table of labels, in 24 bits, the number of bits of each
    voxel, and the offset of the voxels. Offsets are in words from the beginning of the channel.
    """
    headers = words[: 2 * blocks].reshape(-1, 2).astype(np.int64)
    bits, tables, values = headers[:, 0] >> 24, headers[:, 0] & 0xFFFFFF, headers[:, 1]
    if tables.min() < 2 * blocks:
        raise DamagedError("a block's labels lie among the headers")
    if not _IS_READ[bits].all():
        raise DamagedError(f"a block has {bits[~_IS_READ[bits]][0]} bits a voxel")
    block_voxels = min(block_voxels, _WORD_BITS * words.size + 1)  # more cannot fit, and products could overflow
    ends = values - (-bits * block_voxels // _WORD_BITS)
    if ends[bits > 0].max(initial=0) > words.size:
        raise DamagedError("a block's voxels lie after the end")
    # Only a table at the end of the data may be shorter than the number of bits allows for.
    at_end = np.flatnonzero(tables + (label_words << bits) > words.size)
    for count in set(bits[at_end].tolist()):
        chosen = at_end[bits[at_end] == count]
        last = _last_labels(words, values[chosen], count, block_voxels) if count else 0
        if (tables[chosen] + (last + 1) * label_words > words.size).any():
            raise DamagedError("a block's labels lie after the end")


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
    parameters=(Parameter(_BLOCK_SIZE, [8, 8, 8], "3 positive integers", _is_block_size, required=True),),
    conflict=_too_large_blocks,
    library="compressed_segmentation",
    layer_type="segmentation",
    readers=dict.fromkeys((NEUROGLANCER, TENSORSTORE, NEUROGLANCER_SCRIPTS), _KINDS),
)
