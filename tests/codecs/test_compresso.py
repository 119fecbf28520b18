"""compresso: all forms of the format are read; missing labels are noticed."""

from __future__ import annotations

import importlib
import importlib.util
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import CorruptDataError
from precomputed_fs.codecs import ENCODINGS, Codec
from tests.codecs.samples import (
    Case,
    assert_decoded_within_memory,
    assert_refused_cheaply,
    assert_same,
    brain,
    codec_of,
    header_bombs,
    sample,
    tissues,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precomputed_fs.format.grid import Triple


@pytest.mark.parametrize(
    "options",
    [{"random_access_z_index": False}, {"steps": (8, 8, 1)}, {"steps": (4, 4, 2), "random_access_z_index": False}],
)
@pytest.mark.parametrize("data_type", ENCODINGS["compresso"].data_types)
def test_other_forms_of_compresso_are_read(data_type: str, options: Any) -> None:
    compresso = importlib.import_module("compresso")
    codec = codec_of("compresso", data_type)
    array = tissues(data_type)[..., np.newaxis]
    assert_same(codec, codec.decode(compresso.compress(array, **options), brain().shape), array)


def test_a_chunk_that_is_too_large_for_compresso() -> None:
    codec = codec_of("compresso", "uint8")
    for size in ((65534, 1, 1), (1, 65534, 1), (1, 1, 65534)):
        array = np.arange(65534, dtype=np.uint32).reshape(*size, 1).astype(np.uint8)
        assert_same(codec, codec.decode(codec.encode(array), size), array)
    with pytest.raises(ValueError, match=r"compresso stores at most 65534 voxels a side, got \(65535, 1, 1\)"):
        codec.encode(np.zeros((65535, 1, 1, 1), np.uint8))
    data = importlib.import_module("compresso").compress(np.zeros((1, 1, 65535), np.uint8))
    with pytest.raises(CorruptDataError, match="at the very limit of the format"):
        codec.decode(data, (1, 1, 65535))


def compresso_bombs(data: bytes) -> Iterator[bytes]:
    yield from header_bombs(data, "<H", 6, 8, 10)
    yield from header_bombs(data, "<B", 4, 5, 12, 13, 35)
    yield from header_bombs(data, "<Q", 15, 27)
    yield from header_bombs(data, "<I", 23)


def deep_windows() -> tuple[Codec, bytes, Triple]:
    """Make a chunk of one slice, of which one window for each voxel reaches over 64 slices."""
    header = struct.pack("<4sBB3H3BQIQB", b"cpso", 0, 1, 256, 256, 1, 1, 1, 64, 1, 1, 0, 4)
    return codec_of("compresso", "uint8"), header + bytes(9) + struct.pack("<Q", 1 << 17 | 1), (256, 256, 1)


def test_compresso_without_an_id_is_noticed() -> None:
    """Labels are not guessed, and are not what happens to be in memory."""
    codec = codec_of("compresso", "uint8")
    array = np.repeat(np.arange(4, dtype=np.uint8), 8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones(
        (1, 8, 2, 1), np.uint8
    )
    data = codec.encode(array)
    ids = struct.unpack_from("<Q", data, 15)[0]
    shortened = data[:15] + struct.pack("<Q", ids - 1) + data[23 : 36 + ids - 1] + data[36 + ids :]
    with pytest.raises(CorruptDataError, match="it does not tell the labels of all voxels"):
        codec.decode(shortened, (32, 8, 2))


def test_compresso_with_too_many_windows_is_noticed() -> None:
    """Their number is not only right modulo 2**64."""
    codec, library = codec_of("compresso", "uint8"), importlib.import_module("compresso")
    data = library.compress(np.zeros((16, 16, 2), np.uint8), steps=(8, 8, 1), random_access_z_index=False)
    assert data[-8:] == struct.pack("<Q", 8 << 1 | 1), "a run of 8 windows"
    assert_same(codec, codec.decode(data, (16, 16, 2)), np.zeros((16, 16, 2, 1), np.uint8))
    for run in (7, 9, 1 << 40):
        with pytest.raises(CorruptDataError, match="it does not have 8 windows"):
            codec.decode(data[:-8] + struct.pack("<Q", run << 1 | 1), (16, 16, 2))
    with pytest.raises(CorruptDataError, match="it does not have 8 windows"):
        codec.decode(data + struct.pack("<4Q", *[1 << 63 | 1] * 4), (16, 16, 2))


def test_bombs_are_refused_quickly_and_without_memory() -> None:
    codec, data = sample(Case("compresso", "uint8", 1))
    assert_refused_cheaply(codec, data, compresso_bombs(data))


def test_windows_deeper_than_the_chunk_take_no_memory() -> None:
    assert_decoded_within_memory(*deep_windows())
