"""jpeg: any JPEG with enough pixels is read; what is written is baseline."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.codecs.samples import (
    Case,
    assert_refused_cheaply,
    assert_same,
    brain,
    codec_of,
    gradient,
    jpeg_frame,
    rearranged,
    rows_of,
    sample,
    saved,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("num_channels", [1, 3])
def test_jpeg_is_close_to_the_brain(num_channels: int) -> None:
    case = Case("jpeg", "uint8", num_channels)
    array = np.stack([brain()] * num_channels, axis=-1)
    errors = []
    for quality in (20, 85, 100):
        codec = case.codec(jpeg_quality=quality)
        decoded = codec.decode(codec.encode(array), brain().shape)
        errors.append(np.abs(decoded.astype(int) - array).mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 2
    assert errors[2] < 0.7


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "comment": b"\xff\xd9 \xff\xda"}])
@pytest.mark.parametrize("width", [16, 192, 160, 40])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_any_jpeg_of_enough_pixels_is_read(num_channels: int, width: int, options: Any) -> None:
    array = gradient(num_channels)
    data = saved(rearranged(array, width), "JPEG", quality=95, subsampling=0, **options)
    codec = codec_of("jpeg", "uint8", num_channels)
    for variant in (data, data + b"\n", data[:2] + b"\xff" + data[2:]):
        assert_same(codec, codec.decode(variant, (16, 12, 10)), array, 9)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_subsampled_jpeg_is_read(subsampling: int) -> None:
    array = gradient(3)
    data = saved(rows_of(array), "JPEG", quality=95, subsampling=subsampling)
    decoded = codec_of("jpeg", "uint8", 3).decode(data, (16, 12, 10))
    assert np.abs(decoded.astype(int) - array).mean() < 3


@pytest.mark.parametrize("num_channels", [1, 3])
def test_jpeg_is_written_baseline_and_without_subsampling(num_channels: int) -> None:
    data = codec_of("jpeg", "uint8", num_channels).encode(gradient(num_channels))
    kind, width, height, components = jpeg_frame(data)
    assert (kind, width, height) == (0xC0, 16, 120)
    assert [components[i] for i in range(1, len(components), 3)] == [0x11] * num_channels
    assert Image.open(io.BytesIO(data)).mode == {1: "L", 3: "RGB"}[num_channels]


def jpeg_bombs(data: bytes) -> Iterator[bytes]:
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for sides in ((65535, 65535), (0, 1080), (1080, 0)):
        yield data[: frame + 5] + struct.pack(">HH", *sides) + data[frame + 9 :]
    yield data[: frame + 13] + data[frame:]
    yield data[:-2] + data[scan:-2] * 200 + data[-2:]
    progressive = saved(np.zeros((108, 10), np.uint8), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    assert imagecodecs.jpeg8_decode(progressive[:-2] + progressive[last:-2] * 200 + progressive[-2:]).any() == 0
    yield progressive[:-2] + progressive[last:-2] * 200 + progressive[-2:]


def test_bombs_are_refused_quickly_and_without_memory() -> None:
    codec, data = sample(Case("jpeg", "uint8", 1))
    assert_refused_cheaply(codec, data, jpeg_bombs(data))
