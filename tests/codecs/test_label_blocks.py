"""Parts of a compressed_segmentation chunk: the same labels as the library's, from the blocks that hold them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import compressed_segmentation
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs import CorruptDataError
from tests.codecs.samples import (
    BLOCK_SIZE,
    SEGMENTATION,
    Array,
    Case,
    codec_of,
    parts,
    sample,
    small_arrays,
    voxels_of,
)

if TYPE_CHECKING:
    from precomputed_fs.format.grid import Triple

ALL = slice(0, None, 1)
FIRST = (slice(0, 1), slice(0, 1), slice(0, 1), ALL)


@settings(max_examples=80, deadline=None)
@given(
    array=small_arrays(np.dtype("uint64"), 3, largest=12),
    block_size=st.tuples(*[st.integers(1, 7)] * 3),
    data_type=st.sampled_from(["uint32", "uint64"]),
    data=st.data(),
)
def test_a_part_is_what_the_whole_has_there(
    array: Array, block_size: Triple, data_type: str, data: st.DataObject
) -> None:
    codec = codec_of(SEGMENTATION, data_type, 3, **{BLOCK_SIZE: list(block_size)})
    array = array.astype(data_type)
    index = data.draw(parts(array.shape))
    part = codec.decode_part(codec.encode(array), array.shape[:3], index)
    assert part.dtype == codec.dtype
    np.testing.assert_array_equal(part, array[index])


@pytest.mark.parametrize("labels", [1, 2, 3, 5, 17, 257, 60_000])
def test_blocks_of_any_number_of_bits(labels: int) -> None:
    codec = codec_of(SEGMENTATION, "uint64", 1, **{BLOCK_SIZE: [40, 40, 40]})
    array = (np.arange(64_000, dtype=np.uint64) % labels * 2**33 + 1).reshape(40, 40, 40, 1)
    index = (ALL, ALL, slice(38, 40), ALL)
    np.testing.assert_array_equal(codec.decode_part(codec.encode(array), (40, 40, 40), index), array[index])


@pytest.mark.parametrize("side", [64, 2**20, 2**31 - 1])
def test_blocks_may_be_larger_than_all_chunks(side: int) -> None:
    """Of one label, they take no room; of more, they take more than there is, which is noticed without overflow."""
    codec = codec_of(SEGMENTATION, "uint64", 1, **{BLOCK_SIZE: [side] * 3})
    at_end = (slice(3, 4), slice(2, 3), slice(9, 10), ALL)
    assert codec.decode_part(struct.pack("<3IQ", 1, 2, 0xFFFFFFFF, 7), (4, 3, 10), at_end) == 7
    for bits in (1, 2, 4, 8, 16):
        with pytest.raises(CorruptDataError, match="a block's voxels lie after the end"):
            codec.decode_part(struct.pack("<3I2Q", 1, bits << 24 | 2, 2, 7, 8), (4, 3, 10), at_end)


def test_few_voxels_do_not_need_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, data = sample(Case(SEGMENTATION, "uint64", 3))
    expected = voxels_of(Case(SEGMENTATION, "uint64", 3))[20:32, 20:30, 5:14]
    monkeypatch.delattr(compressed_segmentation, "decompress")
    for index in (
        (slice(4, 5), ALL, slice(3, 9, 5), ALL),
        (np.array([1, 1, 11]), np.array([9, 0, 9]), np.array([8, 8, 8]), ALL),
    ):
        np.testing.assert_array_equal(codec.decode_part(data, (12, 10, 9), index), expected[index])


def test_points_outside_of_the_chunk_are_refused() -> None:
    codec, data = sample(Case(SEGMENTATION, "uint64", 1))
    for x in (12, -13, 2**40):
        with pytest.raises(IndexError):
            codec.decode_part(data, (12, 10, 9), (np.array([x]), np.array([0]), np.array([0]), ALL))


# -------------------------------------------------------------------------------------------------------------- damage


def test_damage_is_noticed_in_the_blocks_that_are_touched() -> None:
    codec, data = sample(Case(SEGMENTATION, "uint32", 1))
    size = (12, 10, 9)  # 2 x 2 x 2 blocks
    expected = codec.decode(data, size)
    changed = bytearray(data)
    changed[4 * 3 + 3] = 3  # bits of a voxel, of the second block
    np.testing.assert_array_equal(codec.decode_part(bytes(changed), size, FIRST), expected[FIRST])
    for index in ((slice(7, 9), slice(0, 1), slice(0, 1), ALL), (np.array([8]), np.array([0]), np.array([0]), ALL)):
        with pytest.raises(
            CorruptDataError, match=r"expected a compressed_segmentation chunk of 12 x 10 x 9 .* 3 bits"
        ):
            codec.decode_part(bytes(changed), size, index)


@pytest.mark.parametrize("data_type", ["uint32", "uint64"])
def test_no_changed_word_leads_outside(data_type: str) -> None:
    """Each word in turn leads to just before and after the end, and far away: a part is refused, or has its shape."""
    codec, data = sample(Case(SEGMENTATION, data_type, 2), (9, 9, 2))
    words = np.frombuffer(data, "<u4")
    index = (slice(7, 9), slice(8, 9), slice(0, 1), ALL)
    refused = 0
    for position in range(words.size):
        high = int(words[position]) & 0xFF000000
        for value in (words.size - 1, words.size, high | words.size - 1, high | words.size, 0xFFFFFFFF):
            changed = words.copy()
            changed[position] = value
            try:
                part = codec.decode_part(changed.tobytes(), (9, 9, 2), index)
            except CorruptDataError:
                refused += 1
                with pytest.raises(CorruptDataError):
                    codec.decode(changed.tobytes(), (9, 9, 2))
            else:
                assert part.shape == (2, 1, 1, 2)
    assert refused


def test_labels_that_are_not_there_are_noticed() -> None:
    """A table at the end of the data may be short, but not shorter than its indices say."""
    codec = codec_of(SEGMENTATION, "uint32")
    array = np.arange(512, dtype=np.uint32).reshape(8, 8, 8, 1) % 5
    data = codec.encode(array)
    np.testing.assert_array_equal(codec.decode_part(data, (8, 8, 8), FIRST), array[FIRST])
    with pytest.raises(CorruptDataError, match="a block's labels lie after the end"):
        codec.decode_part(data[:-4], (8, 8, 8), FIRST)
