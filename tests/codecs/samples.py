"""Voxels and chunks that the tests of codecs share."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import struct
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from precomputed_fs import CorruptDataError
from precomputed_fs.codecs import ENCODINGS, Codec, codec_for
from tests.support.brain import template

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from precomputed_fs.format.grid import Triple


Array = np.ndarray[Any, np.dtype[Any]]


REPOSITORY = Path(__file__).parents[2]


SEGMENTATION = "compressed_segmentation"


BLOCK_SIZE = "compressed_segmentation_block_size"


LOSSLESS = {"jxl": {"jxl_quality": 100}}
"""Parameters that make an encoding lossless, where others are its defaults."""


def codec_of(encoding: str, data_type: str, num_channels: int = 1, **parameters: Any) -> Codec:
    """Return the codec of a new scale."""
    return codec_for(encoding, data_type, num_channels, ENCODINGS[encoding].defaults | parameters)


@st.composite
def parts(draw: st.DrawFn, shape: tuple[int, ...], most: int = 5) -> tuple[Any, ...]:
    """Draw the index of a box, with steps, or of up to so many points."""
    channels = slice(draw(st.integers(0, shape[3] - 1)), shape[3], draw(st.integers(1, 2)))
    if draw(st.booleans()):
        count = draw(st.integers(0, most))
        points = [draw(st.lists(st.integers(0, side - 1), min_size=count, max_size=count)) for side in shape[:3]]
        return (*(np.array(axis, np.int64) for axis in points), channels)
    box = []
    for side in shape[:3]:
        start = draw(st.integers(0, side - 1))
        box.append(slice(start, draw(st.integers(start + 1, side)), draw(st.integers(1, 4))))
    return (*box, channels)


class Case(NamedTuple):
    encoding: str
    data_type: str
    num_channels: int

    def codec(self, **parameters: Any) -> Codec:
        return codec_of(*self, **parameters)

    def __str__(self) -> str:
        return "-".join(map(str, self))


def cases() -> Iterator[Case]:
    """Go through what can be written."""
    for encoding, row in ENCODINGS.items():
        for data_type, num_channels in itertools.product(row.data_types, row.channels or (1, 3)):
            yield Case(encoding, data_type, num_channels)


CASES = list(cases())


each_case = pytest.mark.parametrize("case", CASES, ids=str)


each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


FPZIP = ("fpzip", "kempressed")  # whose library crashes on damaged data, and has processes of its own for that


def brain() -> Array:
    """Return a piece of a real brain: ``[x, y, z]`` of uint8."""
    return template()[60:124, 80:144, 60:84]


def tissues(data_type: str) -> Array:
    """Label the brain by thresholds, with labels that use all of the type."""
    labels = np.array([0, 5, 200, np.iinfo(data_type).max], data_type)
    tissue: Array = labels[np.digitize(brain(), [60, 120, 170])]
    return tissue


@functools.cache
def voxels_of(case: Case) -> Array:
    """Return the brain, or its tissues, in the data type and number of channels of a case: ``[x, y, z, channel]``."""
    dtype = np.dtype(case.data_type)
    if dtype.kind == "f":
        volume = brain() / dtype.type(255)
    elif case.encoding in {SEGMENTATION, "compresso", "crackle"}:
        volume = tissues(case.data_type)
    elif dtype.kind == "i":
        volume = brain().astype(dtype) - dtype.type(100)
    else:
        volume = brain().astype(dtype) * dtype.type(1 if dtype.itemsize == 1 else 257)
    return np.stack([np.roll(volume, 7 * channel, axis=channel % 3) for channel in range(case.num_channels)], axis=-1)


def assert_same(codec: Codec, decoded: Array, array: Array, worst: float = 0) -> None:
    """Compare what was decoded with what was encoded, which may differ by the worst of a lossy encoding."""
    assert decoded.shape == array.shape
    assert decoded.dtype == codec.dtype
    if codec.lossless:
        np.testing.assert_array_equal(decoded, array)
    else:
        np.testing.assert_allclose(decoded.astype(np.float64), array.astype(np.float64), rtol=0, atol=worst)


def small_arrays(dtype: np.dtype[Any], num_channels: int, largest: int = 9) -> st.SearchStrategy[Array]:
    sides = st.tuples(*[st.integers(1, largest)] * 3, st.just(num_channels))
    # few values make components, runs and shared tables; any value makes the rest
    few = st.sampled_from([0, 1, 2, 250])
    many = st.floats(-1e6, 1e6, width=32) if dtype.kind == "f" else hnp.from_dtype(dtype)
    return sides.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=few) | hnp.arrays(dtype, shape, elements=many))


def gradient(num_channels: int = 1, data_type: str = "uint8") -> Array:
    """Return a chunk of 16 x 12 x 10 voxels that JPEG likes."""
    x, y, z = np.indices((16, 12, 10))
    return np.stack([(5 * x + 4 * y + 3 * z + 20 * c) for c in range(num_channels)], axis=-1).astype(data_type)


def rows_of(array: Array) -> Array:
    """Lay a chunk out as the specification says: ``[z y, x]``, or ``[z y, x, channel]``."""
    x, y, z, channels = array.shape
    image = array.transpose(2, 1, 0, 3).reshape(z * y, x, channels)
    return image if channels > 1 else image[..., 0]


def saved(image: Array, kind: str, **options: Any) -> bytes:
    """Encode an image with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def rearranged(array: Array, width: int) -> Array:
    image = rows_of(array)
    return np.ascontiguousarray(image).reshape(-1, width, *image.shape[2:])


@functools.cache
def sample(case: Case, size: Triple = (12, 10, 9)) -> tuple[Codec, bytes]:
    """Return a small chunk with something in it."""
    codec = case.codec(**LOSSLESS.get(case.encoding, {}))
    x, y, z = size
    return codec, codec.encode(voxels_of(case)[20 : 20 + x, 20 : 20 + y, 5 : 5 + z])


def header_bombs(data: bytes, kind: str, *fields: int) -> Iterator[bytes]:
    """Change one field of a header at a time, given by their offsets."""
    width = struct.calcsize(kind)
    for field, value in itertools.product(fields, (0, 1, 200, 0xFFFF, 0xFFFFFFFF, (1 << 64) - 1)):
        changed = data[:field] + struct.pack(kind, value & (1 << 8 * width) - 1) + data[field + width :]
        if changed != data:
            yield changed


def jpeg_frame(data: bytes) -> tuple[int, int, int, bytes]:
    """Return the kind of frame, width, height and components of a JPEG."""
    position = 2
    while data[position + 1] not in {0xC0, 0xC1, 0xC2}:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    height, width, count = struct.unpack_from(">HHB", data, position + 5)
    return data[position + 1], width, height, data[position + 10 : position + 10 + 3 * count]


def assert_refused_cheaply(codec: Codec, data: bytes, bombs: Iterable[bytes]) -> None:
    """Decode what claims to be a chunk of 12 x 10 x 9 voxels, such as headers that ask for a lot of memory."""
    codec.decode(data, (12, 10, 9))  # the library is imported now
    for bomb in bombs:
        tracemalloc.start()
        try:
            begin = time.perf_counter()
            with pytest.raises(CorruptDataError):
                codec.decode(bomb, (12, 10, 9))
            assert time.perf_counter() - begin < 2
            assert tracemalloc.get_traced_memory()[1] < 10**6 + 4 * len(bomb)
        finally:
            tracemalloc.stop()


def assert_decoded_within_memory(codec: Codec, data: bytes, size: Triple) -> None:
    """Decode a chunk that asks for more memory than its voxels need; whether it is refused does not matter."""
    codec.decode(codec.encode(np.zeros((4, 4, 4, 1), codec.dtype)), (4, 4, 4))  # the library is imported now
    tracemalloc.start()
    try:
        with contextlib.suppress(CorruptDataError):
            codec.decode(data, size)
        assert tracemalloc.get_traced_memory()[1] < 20 * 10**6 + 4 * math.prod(size) * codec.dtype.itemsize
    finally:
        tracemalloc.stop()
