"""zfpc: its limits, and streams that are damaged."""

from __future__ import annotations

import importlib
import importlib.util
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.codecs.samples import (
    Case,
    assert_decoded_within_memory,
    assert_refused_cheaply,
    assert_same,
    codec_of,
    header_bombs,
    sample,
    voxels_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precomputed_fs.codecs import Codec
    from precomputed_fs.format.grid import Triple


@pytest.mark.parametrize(
    ("parameters", "worst"),
    [
        ({"zfpc_tolerance": 0.05}, 0.05),
        ({"zfpc_tolerance": 0}, 1e-6),
        ({"zfpc_rate": 16}, 0.01),
        ({"zfpc_precision": 20, "zfpc_rate": -1}, 0.01),
    ],
)
@pytest.mark.parametrize(
    "correlated", [[True, True, True, True], [True, True, False, False], [False, False, True, False]]
)
def test_zfpc_within_its_limits(parameters: dict[str, float], worst: float, correlated: list[bool]) -> None:
    codec = codec_of("zfpc", "float32", 2, zfpc_correlated_dims=correlated, **parameters)
    assert not codec.lossless
    array = voxels_of(Case("zfpc", "float32", 2))[:21, :17, :9]
    assert_same(codec, codec.decode(codec.encode(array), (21, 17, 9)), array, worst)
    without_loss = codec_of("zfpc", "float32", 2, zfpc_correlated_dims=correlated)
    assert without_loss.lossless
    assert_same(without_loss, without_loss.decode(without_loss.encode(array), (21, 17, 9)), array)


def test_zfpc_has_one_limit() -> None:
    codec = codec_of("zfpc", "float32", 1, zfpc_rate=8, zfpc_precision=-1, zfpc_tolerance=0.5)
    with pytest.raises(ValueError, match="zfpc") as raised:
        codec.check()
    expected = "expected at most one of zfpc_rate, zfpc_precision, zfpc_tolerance, got ['zfpc_rate', 'zfpc_tolerance']"
    assert str(raised.value) == f"scale.zfpc_rate: {expected}"


def zfpc_of(stream: bytes, size: Triple) -> bytes:
    """Put one zfp stream into a container."""
    kind = 3 | 5 << 3  # float32, without loss
    return struct.pack("<4sBB4IBQQ", b"zfpc", 0, kind, *size, 1, 0b0111, 39, len(stream)) + stream


def zfpc_bombs(data: bytes) -> Iterator[bytes]:
    yield from header_bombs(data, "<I", 6, 10, 14, 18)
    yield from header_bombs(data, "<Q", 23, 31)
    yield from header_bombs(data, "<B", 4)
    stream = data.index(b"zfp", 4)
    yield data[: stream + 4] + b"\xff" * 16 + data[stream + 20 :]
    for other in (np.zeros((12, 10, 8), np.float32), np.zeros((12, 10, 9)), np.zeros((500, 500), np.float32)):
        yield zfpc_of(importlib.import_module("zfpy").compress_numpy(other), (12, 10, 9))


def wasteful_blocks() -> tuple[Codec, bytes, Triple]:
    """Make a chunk of 4096 zfp streams, whose header says that each block of 4 values takes 4 KiB."""
    stream = importlib.import_module("zfpy").compress_numpy(np.zeros(64, np.float32), tolerance=0.1)
    mode = 0xFFF | 0x7FFF << 12 | 0x7FFF << 27 | 31 << 42 | 15421 << 49  # the longest blocks
    stream = (int.from_bytes(stream, "little") & (1 << 84) - 1 | mode << 84).to_bytes(32, "little")
    header = struct.pack("<4sBB4IB", b"zfpc", 0, 3 | 5 << 3, 64, 64, 64, 1, 0b0001)
    index = struct.pack("<4097Q", len(header) + 8 * 4097, *[len(stream)] * 4096)
    return codec_of("zfpc", "float32"), header + index + stream * 4096, (64, 64, 64)


def test_a_zfp_stream_that_ends_too_early_does_not_go_on_in_memory() -> None:
    codec = codec_of("zfpc", "float32")
    values = np.random.default_rng(1).random((64, 64, 64), np.float32)
    stream = importlib.import_module("zfpy").compress_numpy(values)
    np.testing.assert_array_equal(codec.decode(zfpc_of(stream, (64, 64, 64)), (64, 64, 64))[..., 0], values)
    short, padded = stream[:1000], stream[:1000] + bytes(len(stream))
    expected = codec.decode(zfpc_of(padded, (64, 64, 64)), (64, 64, 64))
    np.testing.assert_array_equal(codec.decode(zfpc_of(short, (64, 64, 64)), (64, 64, 64)), expected)


def test_bombs_are_refused_quickly_and_without_memory() -> None:
    codec, data = sample(Case("zfpc", "float32", 1))
    assert_refused_cheaply(codec, data, zfpc_bombs(data))


def test_blocks_longer_than_their_values_take_no_memory() -> None:
    assert_decoded_within_memory(*wasteful_blocks())
