"""fpzip and kempressed: precision, and headers that do not belong to the chunk."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs import CorruptDataError
from tests.codecs.samples import (
    FPZIP,
    Case,
    assert_refused_cheaply,
    assert_same,
    codec_of,
    sample,
    voxels_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


each_fragile_encoding = pytest.mark.parametrize("encoding", FPZIP)


@pytest.mark.parametrize(("precision", "worst"), [(0, 0), (32, 0), (20, 2**-10), (12, 2**-2)])
def test_fpzip_keeps_as_many_bits_as_it_is_told(precision: int, worst: float) -> None:
    codec = codec_of("fpzip", "float32", 1, fpzip_precision=precision)
    assert codec.lossless == (worst == 0)
    array = voxels_of(Case("fpzip", "float32", 1))
    assert_same(codec, codec.decode(codec.encode(array), array.shape[:3]), array, worst)


def test_values_that_fpzip_would_make_larger_are_refused() -> None:
    """The library would go on, and write behind its buffer."""
    bits = np.random.default_rng(1).integers(0, 2**32, (64, 64, 8, 1), np.uint32)
    with pytest.raises(ValueError, match="scale: fpzip cannot make these values smaller; use raw"):
        codec_of("fpzip", "float32").encode(bits.view(np.float32))


def fpzip_bombs() -> Iterator[bytes]:
    fpzip = importlib.import_module("fpzip")
    for array in (
        np.zeros((12, 10, 9, 1)),
        np.zeros((64, 64, 64, 4), np.float32),
        np.zeros((12, 9, 10, 1), np.float32),
    ):
        yield fpzip.compress(array, order="F")


@each_fragile_encoding
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_garbage_is_not_fpzip(encoding: str, data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        codec_of(encoding, "float32").decode(data, (12, 10, 9))


@each_fragile_encoding
def test_bombs_are_refused_quickly_and_without_memory(encoding: str) -> None:
    codec, data = sample(Case(encoding, "float32", 1))
    assert_refused_cheaply(codec, data, fpzip_bombs())
