"""jxl: any JPEG XL with enough pixels is read."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest

from precomputed_fs import CorruptDataError
from tests.codecs.samples import (
    Case,
    assert_refused_cheaply,
    assert_same,
    brain,
    codec_of,
    gradient,
    rearranged,
    rows_of,
    sample,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precomputed_fs.format.grid import Triple


@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_jxl_is_written_as_grey_planes_which_neuroglancer_reads(num_channels: int) -> None:
    array = gradient(num_channels)
    data = codec_of("jxl", "uint8", num_channels, jxl_quality=100).encode(array)
    planes = imagecodecs.jpegxl_decode(data)
    assert planes.shape == ((num_channels, 120, 16) if num_channels > 1 else (120, 16))
    assert planes.tobytes() == array.tobytes(order="F")


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("width", [16, 192, 40])
@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_any_jxl_of_enough_pixels_is_read(num_channels: int, width: int, *, container: bool) -> None:
    array = gradient(num_channels)
    image = rearranged(array, width)
    codec = codec_of("jxl", "uint8", num_channels, jxl_quality=100)
    together = bytes(imagecodecs.jpegxl_encode(image, lossless=True, usecontainer=container))
    assert_same(codec, codec.decode(together, (16, 12, 10)), array)
    if num_channels > 1:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        apart = imagecodecs.jpegxl_encode(planes, lossless=True, photometric="GRAY", usecontainer=container)
        assert_same(codec, codec.decode(bytes(apart), (16, 12, 10)), array)


@pytest.mark.parametrize(
    "size", [(1, 1, 1), (8, 8, 1), (8, 8, 8), (16, 9, 1), (9, 16, 1), (40, 7, 3), (5, 4, 1), (300, 300, 1)]
)
def test_jxl_of_any_size_is_read(size: Triple) -> None:
    """Its header tells sizes in several ways."""
    codec = codec_of("jxl", "uint8", 1, jxl_quality=100, jxl_effort=1)
    array = np.resize(brain(), (*size, 1))
    assert_same(codec, codec.decode(codec.encode(array), size), array)


def with_jxl_fields(*, orientation: int = 1, preview: bool = False) -> bytes:
    """Encode three planes, and add a field that no encoder here writes to the header: how large it is to be shown."""
    planes = np.ascontiguousarray(rows_of(gradient(3)).transpose(2, 0, 1))
    data = imagecodecs.jpegxl_encode(planes, lossless=True, photometric="GRAY", effort=1)
    bits = int.from_bytes(data, "little")
    before = 16 + (1 + 5 + 3 + 5) + 1 + 1 + 3  # signature, size, "all default", "extra fields", orientation
    assert bits >> before - 5 & 0xFF == 0b1000_0010, (
        "extra fields, the image upright, no other size, no preview, animated"
    )
    added, count = 1, 1  # there is such a size
    for value, width in ((0, 1), (2, 2), (99, 18), (0, 3), (3, 2), (99, 30)):
        added |= value << count
        count += width
    assert count == 1 + 56, "whole bytes more"
    bits |= orientation - 1 << before - 3
    rest = bits >> before + 1 | preview
    return ((bits & (1 << before) - 1) | added << before | rest << before + count).to_bytes(len(data) + 7, "little")


def test_jxl_with_another_size_to_be_shown_at_is_read() -> None:
    data = with_jxl_fields()
    assert imagecodecs.jpegxl_decode(data).shape == (3, 120, 16), "the field is where it should be"
    codec = codec_of("jxl", "uint8", 3, jxl_quality=100)
    assert_same(codec, codec.decode(data, (16, 12, 10)), gradient(3))
    on_its_side = with_jxl_fields(orientation=6)
    assert imagecodecs.jpegxl_decode(on_its_side).shape == (3, 16, 120)
    assert_same(codec, codec.decode(on_its_side, (16, 12, 10)), gradient(3))  # there is no such thing in a volume
    with pytest.raises(CorruptDataError, match="its header says that it has a preview, or extra channels"):
        codec.decode(with_jxl_fields(preview=True), (16, 12, 10))


def test_jxl_in_a_large_box_is_read() -> None:
    data = bytes(imagecodecs.jpegxl_encode(rows_of(gradient()), lossless=True, usecontainer=True))
    begin = data.index(b"jxlc") - 4
    image = data[begin + 8 :]
    codec = codec_of("jxl", "uint8", 1, jxl_quality=100)
    parts = [b"".join((struct.pack(">I4s", 12 + len(part), b"jxlp"), number, part)) for number, part in (
        (b"\0\0\0\0", image[:3]), (b"\x80\0\0\1", image[3:]),
    )]  # fmt: skip
    for box in (
        struct.pack(">I4sQ", 1, b"jxlc", 16 + len(image)) + image,
        struct.pack(">I4s", 0, b"jxlc") + image,
        struct.pack(">I4s", 12, b"free") + b"free" + struct.pack(">I4s", 0, b"jxlc") + image,
        b"".join(parts),
    ):
        assert_same(codec, codec.decode(data[:begin] + box, (16, 12, 10)), gradient())


def test_a_jpeg_inside_of_jxl_is_read() -> None:
    """cloud-volume turns chunks of one into the other without loss, in a container."""
    array = gradient()
    jpeg = codec_of("jpeg", "uint8", 1, jpeg_quality=95).encode(array)
    data = bytes(imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True))
    assert data[4:8] == b"JXL "
    codec = codec_of("jxl", "uint8")
    assert_same(codec, codec.decode(data, (16, 12, 10)), array, 9)


def jxl_bombs(data: bytes) -> Iterator[bytes]:
    for shape, options in (
        ((4000, 4000), {}),
        ((200, 108, 10), {"photometric": "GRAY"}),  # frames
        ((20, 108, 10), {"planar": True}),  # extra channels
    ):
        yield bytes(imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=True, effort=1, **options))
    for bits in (0xFFFFFFFFFF, 0b110 | (1 << 30) << 3):
        yield b"\xff\x0a" + bits.to_bytes(8, "little") + data[2:]
    container = imagecodecs.jpegxl_encode(np.zeros((108, 10), np.uint8), lossless=True, usecontainer=True)
    for length in (0, 1, 3, 8, 0xFFFFFFFF):
        yield bytes(container[:12]) + struct.pack(">I", length) + b"jxlc" + bytes(8)


def test_bombs_are_refused_quickly_and_without_memory() -> None:
    codec, data = sample(Case("jxl", "uint8", 1))
    assert_refused_cheaply(codec, data, jxl_bombs(data))
