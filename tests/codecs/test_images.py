"""Chunks as images: their shapes, and their channels."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from precomputed_fs import CorruptDataError
from tests.codecs.samples import (
    assert_same,
    codec_of,
    gradient,
    jpeg_frame,
)

if TYPE_CHECKING:
    from precomputed_fs.format.grid import Triple


@pytest.mark.parametrize(("encoding", "worst"), [("jpeg", 8), ("jxl", 8)])
def test_each_colour_stays_in_its_channel(encoding: str, worst: int) -> None:
    codec = codec_of(encoding, "uint8", 3, **{f"{encoding}_quality": 95})
    x, y, z = np.indices((32, 24, 16)).astype(np.float64)
    array = np.stack([8 * x, 10 * y, 16 * z], axis=-1).astype(np.uint8)
    decoded = codec.decode(codec.encode(array), (32, 24, 16))
    assert np.abs(decoded.astype(int) - array).mean() < worst


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((2, 300, 218), (2, 65400)),
        ((2, 300, 219), (600, 219)),
        ((1, 1, 65535), (1, 65535)),
        ((1, 1, 65536), (256, 256)),
    ],
)
def test_an_image_that_is_too_high_is_written_in_another_shape(size: Triple, sides: tuple[int, int]) -> None:
    codec = codec_of("jpeg", "uint8")
    array = np.full((*size, 1), 77, np.uint8)
    data = codec.encode(array)
    assert jpeg_frame(data)[1:3] == sides
    assert_same(codec, codec.decode(data, size), array, 1)


def test_the_largest_sides_of_each_kind_of_image() -> None:
    size = (1, 1 << 10, 1 << 10)
    array = np.zeros((*size, 1), np.uint8)
    png, jxl = codec_of("png", "uint8"), codec_of("jxl", "uint8", 1, jxl_quality=100, jxl_effort=1)
    assert struct.unpack_from(">II", png.encode(array), 16) == (1 << 10, 1 << 10)
    assert jxl.encode(array)[:2] == b"\xff\n", "a bare codestream"
    for codec in (png, jxl):
        assert_same(codec, codec.decode(codec.encode(array), size), array)


def test_no_image_has_sides_that_are_small_enough() -> None:
    with pytest.raises(
        ValueError, match="no image with sides of at most 65535 pixels has 65537; use smaller chunks, or raw"
    ):
        codec_of("jpeg", "uint8").encode(np.zeros((65537, 1, 1, 1), np.uint8))


def test_the_number_of_channels_is_checked() -> None:
    for encoding in ("jpeg", "png", "jxl"):
        for ours, theirs in ((1, 3), (3, 1)):
            data = codec_of(encoding, "uint8", theirs).encode(gradient(theirs))
            with pytest.raises(CorruptDataError):
                codec_of(encoding, "uint8", ours).decode(data, (16, 12, 10))
