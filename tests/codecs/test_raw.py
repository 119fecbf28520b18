"""raw: voxels as they are."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs.codecs import ChunkPart, codec_for
from precomputed_fs.codecs.raw import RAW
from tests.codecs.samples import codec_of, parts


def test_raw_chunks_are_views_of_their_data() -> None:
    data = bytes(range(24))
    decoded = codec_of("raw", "uint8", 2).decode(data, (2, 3, 2))
    assert decoded.base is not None
    assert decoded[1, 2, 1, 1] == 23
    assert decoded[1, 0, 0, 0] == 1
    assert decoded[0, 0, 0, 1] == 12
    assert codec_of("raw", "uint16").decode(b"\x01\x02", (1, 1, 1)) == 0x0201
    assert codec_for("raw", "float64", 1, {}).decode(struct.pack("<d", 0.1), (1, 1, 1)) == 0.1


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3, st.integers(1, 3)),
    data_type=st.sampled_from(["uint8", "uint16", "float32"]),
    data=st.data(),
)
def test_pieces_hold_the_voxels_that_they_are_for(
    shape: tuple[int, int, int, int], data_type: str, data: st.DataObject
) -> None:
    codec = codec_of("raw", data_type, shape[3])
    array = np.random.default_rng(0).integers(0, 256, shape).astype(data_type)
    encoded, size, index = codec.encode(array), shape[:3], data.draw(parts(shape, most=24))
    assert RAW.pieces is not None
    pieces = RAW.pieces(codec, size, index)
    assert all(0 <= begin < end <= len(encoded) for begin, end in pieces)
    part = ChunkPart(b"".join(encoded[begin:end] for begin, end in pieces), pieces)
    expected = array[index]
    out = np.empty(expected.shape, data_type)
    assert codec.decode_part(part, size, index, out) is out
    np.testing.assert_array_equal(out, expected)


def test_pieces_are_for_much_less_than_a_large_chunk() -> None:
    codec, all_ = codec_of("raw", "uint8", 2), slice(None)
    plane = (all_, all_, slice(3, 5), slice(1, 2))
    assert codec.pieces((32, 32, 32), plane) == [(32**3 + 3 * 32**2, 32**3 + 5 * 32**2)]
    assert codec.pieces((32, 32, 32), (all_, all_, slice(3, 21), all_)) is None, "they are more than half of it"
    assert codec.pieces((16, 16, 16), plane) is None, "it is small"
    points = (np.array([5, 0]), np.array([0, 1]), np.array([0, 0]), all_)
    assert codec.pieces((32, 32, 32), points) == [(5, 6), (32**3 + 5, 32**3 + 6), (32, 33), (32**3 + 32, 32**3 + 33)]
    assert codec_of("png", "uint8", 1).pieces((32, 32, 32), plane) is None
