"""How long an encoded chunk can be: no writer's worst case is longer, and a bomb is."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from precomputed_fs.codecs import ENCODINGS, ROOM, codec_for, largest_chunk
from precomputed_fs.format.scale_layout import Chunk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precomputed_fs.format.grid import Triple

HEADERS = 4096  # bytes
SIZES = [(32, 32, 16), (1, 1, 1024), (1, 128, 64), (65, 33, 3)]

PARAMETERS: Mapping[str, list[dict[str, Any]]] = {
    "jpeg": [{"jpeg_quality": 100}],
    "png": [{"png_level": 0}, {"png_level": 9}],
    "jxl": [{"jxl_quality": 100, "jxl_effort": 1}, {"jxl_quality": 99, "jxl_effort": 1}],
    "compressed_segmentation": [
        {"compressed_segmentation_block_size": [8, 8, 8]},
        {"compressed_segmentation_block_size": [64, 64, 16]},
        {"compressed_segmentation_block_size": [1, 1, 1]},
    ],
    "zfpc": [
        {"zfpc_correlated_dims": list(correlated)} | limit
        for correlated in ((True, True, True, False), (True, False, False, False), (False, False, False, True))
        for limit in ({}, {"zfpc_rate": 64})
    ],
}
"""What makes chunks long."""


def noise(size: Triple, channels: int, data_type: str) -> np.ndarray[Any, np.dtype[Any]]:
    chance = np.random.default_rng(0)
    dtype = np.dtype(data_type)
    count = math.prod(size) * channels
    if dtype.kind == "f":
        values = chance.standard_normal(count).astype(dtype)
    else:
        values = np.frombuffer(chance.bytes(count * dtype.itemsize), dtype)
    return values.reshape((*size, channels))


def chunk_of(size: Triple, channels: int, data_type: str, parameters: Mapping[str, Any]) -> Chunk:
    block_size = parameters.get("compressed_segmentation_block_size", [8, 8, 8])
    return Chunk(size, channels, np.dtype(data_type).itemsize, tuple(block_size))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_noise_is_no_longer_than_its_encoding_allows(encoding: str) -> None:
    row = ENCODINGS[encoding]
    for size, data_type, channels in itertools.product(SIZES, row.data_types, row.channels or (1, 3)):
        voxels = noise(size, channels, data_type)
        for given in PARAMETERS.get(encoding, [{}]):
            codec = codec_for(encoding, data_type, channels, row.defaults | given)
            try:
                data = codec.encode(voxels)
            except ValueError:  # fpzip does not store what it cannot make smaller
                assert encoding in {"fpzip", "kempressed", "compressed_segmentation"}
                continue
            most = largest_chunk(encoding, chunk_of(size, channels, data_type, codec.parameters))
            assert most is not None
            assert len(data) <= most - ROOM + HEADERS, (size, data_type, channels, given)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_limit_is_a_few_times_what_the_voxels_take(encoding: str) -> None:
    row = ENCODINGS[encoding]
    for data_type in row.data_types:
        chunk = chunk_of((64, 64, 64), 1, data_type, {})
        most = largest_chunk(encoding, chunk)
        assert most is not None
        assert chunk.raw_bytes <= most - ROOM <= 36 * max(chunk.raw_bytes, 4 * chunk.voxels)


@pytest.mark.parametrize("options", [{"optimize": False}, {"subsampling": "420"}, {"lossless": True}])
def test_other_kinds_of_jpeg_are_no_longer_than_allowed(options: dict[str, Any]) -> None:
    for height, width in ((4096, 1), (64, 64), (1, 4096)):
        image = noise((height, width, 1), 3, "uint8")[:, :, 0]
        data = imagecodecs.jpeg8_encode(image, level=100, **options)
        most = largest_chunk("jpeg", Chunk((width, height, 1), 3, 1))
        assert most is not None
        assert len(data) <= most - ROOM + HEADERS


def test_an_encoding_that_is_not_known_has_no_limit() -> None:
    assert largest_chunk("webp", Chunk((64, 64, 64), 1, 1)) is None
