"""compressed_segmentation: blocks of any size and number of labels; offsets that lead outside are noticed."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs import CorruptDataError, InvalidInfoError
from precomputed_fs.codecs import Codec, codec_for
from tests.codecs.samples import (
    BLOCK_SIZE,
    SEGMENTATION,
    Array,
    Case,
    assert_decoded_within_memory,
    assert_refused_cheaply,
    assert_same,
    codec_of,
    sample,
    small_arrays,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precomputed_fs.format.grid import Triple


@settings(max_examples=60, deadline=None)
@given(
    array=small_arrays(np.dtype("uint64"), 2, largest=12),
    block_size=st.tuples(*[st.integers(1, 16)] * 3),
    data_type=st.sampled_from(["uint32", "uint64"]),
)
def test_blocks_need_not_be_cubes(array: Array, block_size: Triple, data_type: str) -> None:
    codec = codec_of(SEGMENTATION, data_type, 2, **{BLOCK_SIZE: list(block_size)})
    array = array.astype(data_type)
    assert_same(codec, codec.decode(codec.encode(array), array.shape[:3]), array)


@pytest.mark.parametrize("side", [64, 2**20, 2**31 - 1])
def test_blocks_may_be_larger_than_all_chunks(side: int) -> None:
    """Of one label, they take no room; of more, they take more than there is, which is noticed without overflow."""
    codec = codec_of(SEGMENTATION, "uint64", 1, **{BLOCK_SIZE: [side] * 3})
    data = struct.pack("<3IQ", 1, 2, 2, 7)
    np.testing.assert_array_equal(codec.decode(data, (4, 3, 2)), 7)
    for bits in (1, 2, 4, 8, 16):
        with pytest.raises(CorruptDataError, match="a block's voxels lie after the end"):
            codec.decode(struct.pack("<3I2Q", 1, bits << 24 | 2, 2, 7, 8), (4, 3, 2))


@pytest.mark.parametrize("labels", [1, 2, 3, 5, 17, 257, 60_000])
def test_blocks_of_any_number_of_bits(labels: int) -> None:
    codec = codec_of(SEGMENTATION, "uint64", 1, **{BLOCK_SIZE: [40, 40, 40]})
    array = (np.arange(64_000, dtype=np.uint64) % labels * 2**33).reshape(40, 40, 40, 1)
    assert_same(codec, codec.decode(codec.encode(array), (40, 40, 40)), array)


def test_large_blocks_are_not_written() -> None:
    """The library counts for ever where a block has more labels than 16 bits can tell apart."""
    codec = codec_of(SEGMENTATION, "uint32", 1, **{BLOCK_SIZE: [64, 64, 17]})
    with pytest.raises(
        ValueError, match=r"scale\.compressed_.*_size: expected at most 65536 voxels, got \[64, 64, 17\]; use"
    ):
        codec.check()
    codec_of(SEGMENTATION, "uint32", 1, **{BLOCK_SIZE: [64, 64, 16]}).check()


def test_a_chunk_that_is_too_large_for_compressed_segmentation() -> None:
    codec = codec_of(SEGMENTATION, "uint32", 1, **{BLOCK_SIZE: [1, 1, 1]})
    with pytest.raises(ValueError, match="a chunk of so many labels is too large for compressed_segmentation; use raw"):
        codec.encode(np.zeros((256, 256, 129, 1), np.uint32))


@pytest.mark.parametrize(
    "block_size", [None, 8, [8, 8], [8, 8, 0], [8, 8, -8], [8, 8, 8.0], "888", [8, 8, 1 << 40], [True] * 3]
)
def test_a_block_size_is_needed_for_reading(block_size: Any) -> None:
    with pytest.raises(InvalidInfoError) as raised:
        codec_for(SEGMENTATION, "uint32", 1, {BLOCK_SIZE: block_size}, "scales[0]")
    assert str(raised.value) == f"scales[0].{BLOCK_SIZE}: expected 3 positive integers, got {block_size!r}"


def segmentation_bombs(_: bytes) -> Iterator[bytes]:
    """Change a block of 5 labels, 4 bits a voxel, whatever it leads to being there."""
    block = np.arange(512, dtype=np.uint32).reshape(8, 8, 8, 1) % 5
    data = codec_of(SEGMENTATION, "uint32").encode(np.tile(block, (2, 2, 2, 1))[:12, :10, :9]) + bytes(4000)
    words = np.frombuffer(data, "<u4")
    table = int(words[1]) & 0xFFFFFF
    for position, values in (
        (0, (0, 2, len(words), len(words) - 1, 0xFFFFFFFF)),  # where the channel begins
        (1, (4 << 24, 4 << 24 | 15, 0x04FFFFFF, 4 << 24 | len(words) - 5)),  # bits and table of the first block
        (1, tuple(bits << 24 | table for bits in (3, 5, 32, 33, 64, 255))),
        (2, (len(words) - 1, len(words) - 64, 0xFFFFFFFF)),  # its voxels
    ):
        for value in values:
            changed = words.copy()
            changed[position] = value
            yield changed.tobytes()


def fat_blocks() -> tuple[Codec, bytes, Triple]:
    """Make a chunk of which each voxel has a block of its own, whose table of labels lies at the end of the data."""
    count, block, at = 256, (256, 256, 1), 1 + 2 * 256
    labels = at + math.prod(block) // 32
    header = [1 << 24 | labels - 1, at - 1]
    words = [1, *header * count, *[0] * (labels - at), 7]
    parameters = {"compressed_segmentation_block_size": list(block)}
    return codec_of(SEGMENTATION, "uint32", 1, **parameters), struct.pack(f"<{len(words)}I", *words), (1, 1, count)


def test_labels_that_are_not_there_are_noticed() -> None:
    """A table at the end of the data may be short, but not shorter than its indices say."""
    codec = codec_of(SEGMENTATION, "uint32")
    array = np.arange(512, dtype=np.uint32).reshape(8, 8, 8, 1) % 5
    data = codec.encode(array)
    assert len(data) == 4 * (1 + 2 + 64 + 5), "offset, header, 4 bits a voxel, labels"
    assert_same(codec, codec.decode(data, (8, 8, 8)), array)
    with pytest.raises(CorruptDataError, match="a block's labels lie after the end"):
        codec.decode(data[:-4], (8, 8, 8))


def test_bombs_are_refused_quickly_and_without_memory() -> None:
    codec, data = sample(Case(SEGMENTATION, "uint32", 1))
    assert_refused_cheaply(codec, data, segmentation_bombs(data))


def test_a_table_for_each_block_takes_no_memory() -> None:
    assert_decoded_within_memory(*fat_blocks())
