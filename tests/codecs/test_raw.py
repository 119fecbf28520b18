"""raw: voxels as they are."""

from __future__ import annotations

import struct

from precomputed_fs.codecs import codec_for
from tests.codecs.samples import (
    codec_of,
)


def test_raw_chunks_are_views_of_their_data() -> None:
    data = bytes(range(24))
    decoded = codec_of("raw", "uint8", 2).decode(data, (2, 3, 2))
    assert decoded.base is not None
    assert decoded[1, 2, 1, 1] == 23
    assert decoded[1, 0, 0, 0] == 1
    assert decoded[0, 0, 0, 1] == 12
    assert codec_of("raw", "uint16").decode(b"\x01\x02", (1, 1, 1)) == 0x0201
    assert codec_for("raw", "float64", 1, {}).decode(struct.pack("<d", 0.1), (1, 1, 1)) == 0.1
