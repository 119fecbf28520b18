"""png: any PNG with enough pixels is read; damage is noticed by its checksums."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from precomputed_fs import CorruptDataError
from tests.codecs.samples import (
    Array,
    Case,
    assert_refused_cheaply,
    assert_same,
    brain,
    codec_of,
    gradient,
    rearranged,
    rows_of,
    sample,
    saved,
    voxels_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precomputed_fs.format.grid import Triple


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("data_type", ["uint8", "uint16"])
def test_png_is_what_the_standard_says(data_type: str, num_channels: int) -> None:
    """Undo the container by hand: most significant byte first, the channels of a pixel together."""
    array = voxels_of(Case("png", data_type, num_channels))[:16, :12, :10]
    data = codec_of("png", data_type, num_channels, png_level=0).encode(array)
    width, height, bits, colour_type, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    expected_type = {1: 0, 2: 4, 3: 2, 4: 6}[num_channels]
    assert (width, height, bits, colour_type, methods) == (16, 120, 8 * array.itemsize, expected_type, [0, 0, 0])
    image = Image.open(io.BytesIO(data))
    if data_type == "uint8":
        np.testing.assert_array_equal(np.asarray(image), rows_of(array))
    elif num_channels == 1:
        np.testing.assert_array_equal(np.asarray(image, np.uint16), rows_of(array))
    else:  # Pillow keeps the upper bytes only
        np.testing.assert_array_equal(np.asarray(image)[..., -1], rows_of(array)[..., -1] >> 8)


@pytest.mark.parametrize("level", [0, 9])
@pytest.mark.parametrize("size", [(1, 64, 64), (2, 1, 900), (64, 64, 4)])
def test_png_of_noise_is_written(size: Triple, level: int) -> None:
    """Where nothing can be made smaller, each row takes a byte more."""
    codec = codec_of("png", "uint8", 1, png_level=level)
    array = np.random.default_rng(1).integers(0, 256, (*size, 1), np.uint8)
    assert_same(codec, codec.decode(codec.encode(array), size), array)


def with_png_chunks(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks before the pixels of a PNG."""
    inserted = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + inserted + data[33:]


@pytest.mark.parametrize("width", [16, 192, 40])
def test_any_png_of_enough_pixels_is_read(width: int, caplog: pytest.LogCaptureFixture) -> None:
    array = gradient(3)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "IEND", zip=True)
    codec = codec_of("png", "uint8", 3)
    plain = saved(rearranged(array, width), "PNG")
    for data in (
        plain,
        plain + b"\n",
        saved(rearranged(array, width), "PNG", pnginfo=text, dpi=(300, 300), icc_profile=b"nonsense"),
        with_png_chunks(
            plain, (b"tRNS", bytes(6)), (b"gAMA", b"\0\0\0\1"), (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))
        ),
    ):
        assert_same(codec, codec.decode(data, (16, 12, 10)), array)
    assert not caplog.records, "nothing is logged of what does not matter"


def png_of(image: Array, pixels: bytes, *, adam7: bool = False, parts: int = 1) -> bytes:
    """Make a PNG of filtered rows, compressed by zlib, in so many chunks."""
    height, width, channels = (*image.shape, 1)[:3]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, colour_type, 0, 0, adam7)
    length = max(1, -(-len(pixels) // parts))
    body = [(b"IDAT", pixels[begin : begin + length]) for begin in range(0, len(pixels), length)]
    return with_png_chunks(b"\x89PNG\r\n\x1a\n", (b"IHDR", header), *body, (b"IEND", b""))


def unfiltered(image: Array) -> bytes:
    """Write rows as they are, most significant byte first, each after the number of its filter, 0."""
    return b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in image)


def interlaced(image: Array) -> bytes:
    """Write the passes of an interlaced image one after the other (PNG specification, 8.2)."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(unfiltered(image[y::step_y, x::step_x]) for x, y, step_x, step_y in passes)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("data_type", ["uint8", "uint16"])
def test_png_of_any_structure_is_read(data_type: str, num_channels: int) -> None:
    """In one chunk or many, with each filter, in each way of compressing, interlaced."""
    codec = codec_of("png", data_type, num_channels)
    array = voxels_of(Case("png", data_type, num_channels))[:33, :20, :9]
    image = rows_of(array)
    for level, parts, behind in itertools.product((0, 6), (1, 3, 1000), (b"", b"behind")):
        data = png_of(image, zlib.compress(unfiltered(image), level) + behind, parts=parts)
        assert_same(codec, codec.decode(data, (33, 20, 9)), array)
    for png_filter in (8, 16, 32, 64, 128, 248):
        data = bytes(imagecodecs.png_encode(image, filter=png_filter))
        assert_same(codec, codec.decode(data, (33, 20, 9)), array)
    data = png_of(image, zlib.compress(interlaced(image)), adam7=True)
    assert_same(codec, codec.decode(data, (33, 20, 9)), array)


@pytest.mark.parametrize("size", [(33, 20, 9), (6, 5, 4)], ids=["large", "small"])
def test_png_of_another_number_of_pixels_is_corrupt(size: Triple, caplog: pytest.LogCaptureFixture) -> None:
    """Its header is right, and so are all checksums, but the last."""
    codec = codec_of("png", "uint8")
    x, y, z = size
    image = rows_of(brain()[:x, :y, :z, np.newaxis])
    whole = unfiltered(image)
    assert_same(codec, codec.decode(png_of(image, zlib.compress(whole)), size), brain()[:x, :y, :z, np.newaxis])
    wrong = zlib.compress(whole)[:-1] + b"?"
    for pixels in (b"", zlib.compress(b""), zlib.compress(whole[:-1]), zlib.compress(whole)[:-5], wrong, whole):
        with pytest.raises(CorruptDataError):
            codec.decode(png_of(image, pixels), size)
    with pytest.raises(CorruptDataError):
        codec.decode(png_of(image, zlib.compress(b"\5" + whole[1:])), size)  # there is no filter 5
    assert not caplog.records


def png_bombs(data: bytes) -> Iterator[bytes]:
    for sides in ((100_000, 100_000), (1 << 31, 1), ((1 << 32) - 1, (1 << 32) - 1), (0, 1080)):
        header = b"IHDR" + struct.pack(">II", *sides) + data[24:29]
        yield data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    yield data[:8] + data[33:]  # without a header
    yield data[:33] + data[-12:]  # without pixels


def test_a_damaged_png_says_where_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    codec, data = sample(Case("png", "uint8", 1))
    for position, kind in ((20, "IHDR"), (len(data) // 2, "IDAT"), (len(data) - 1, "IEND")):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(CorruptDataError, match=f"the checksum of its b'{kind}' does not match"):
            codec.decode(changed, (12, 10, 9))
    assert not caplog.records


def test_bombs_are_refused_quickly_and_without_memory() -> None:
    codec, data = sample(Case("png", "uint8", 1))
    assert_refused_cheaply(codec, data, png_bombs(data))
