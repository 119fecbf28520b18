"""jpeg: an image of one or three channels."""

import math
import re
import struct
from collections.abc import Iterator

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, library_reads
from precomputed_fs.codecs.encoding import NEUROGLANCER, NEUROGLANCER_SCRIPTS, TENSORSTORE, Encoding, integer
from precomputed_fs.codecs.images import check_image, from_image, to_image
from precomputed_fs.format.grid import Triple

_LARGEST = 65535  # pixels of a side
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without contents, which belong elsewhere
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG, DAC
_FRAME = struct.Struct(">BHHB")
_SCAN = 0xDA
_NEXT_SCAN = re.compile(rb"\xff\xda")
_SCANS = 100  # in one image; each costs time for every pixel, and a progressive image has about ten


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    import imagecodecs

    width, height = _check(kind, data, size)
    shape = (height, width, 3) if kind.num_channels > 1 else (height, width)
    # libjpeg-turbo writes colours past the processor's cache if they are aligned to 32 bytes: that takes twice as long.
    image = np.empty(1 + math.prod(shape), np.uint8)[1:].reshape(shape)
    with library_reads():
        imagecodecs.jpeg8_decode(data, out=image)
    return from_image(image, size, kind.num_channels)


def _check(kind: ChunkKind, data: bytes, size: Triple) -> tuple[int, int]:
    """Check a JPEG's frame header, and that the image ends; return its width and height."""
    frames = []
    position = 2
    for marker, begin, end in jpeg_segments(data):
        if marker in _FRAMES and end - begin >= _FRAME.size:
            frames.append(_FRAME.unpack_from(data, begin))
        position = end
    if len(frames) != 1:
        raise DamagedError("it does not have one frame header")
    ((bits, height, width, channels),) = frames
    check_image(kind, size, (width, height, channels, bits))
    # The library makes missing pixels grey. Entropy-coded data have these bytes only as a marker.
    if data.rfind(b"\xff\xd9", position) < 0:
        raise DamagedError("it ends too early")
    if len(_NEXT_SCAN.findall(data, position)) > _SCANS:  # `count` takes three times as long
        raise DamagedError(f"it has more than {_SCANS} scans")
    return width, height


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Iterate over a JPEG's segments up to its first scan: marker, begin and end of the contents."""
    if data[:2] != b"\xff\xd8":
        raise DamagedError("it does not begin like JPEG")
    position = 2
    marker = 0
    while marker != _SCAN:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        prefix, marker, length = struct.unpack_from(">BBH", data, position) if position + 4 <= len(data) else (0, 0, 0)
        begin, position = position + 4, position + 2 + length
        if prefix != 0xFF or marker in _BARE or begin > position or position > len(data):  # noqa: PLR2004
            raise DamagedError("its headers are broken, or end too early")
        yield marker, begin, position


def _encode(kind: ChunkKind, array: Array) -> bytes:
    import imagecodecs

    image = to_image(array, _LARGEST)
    return bytes(imagecodecs.jpeg8_encode(image, kind.parameters["jpeg_quality"], subsampling="444"))


_KINDS = ((("uint8",), (1, 3)),)

JPEG = Encoding(
    "jpeg",
    ("uint8",),
    (1, 3),
    _decode,
    _encode,
    lambda chunk: 8 * chunk.raw_bytes,  # at most 27 bits per coefficient
    parameters=(integer("jpeg_quality", 85, 0, 100),),
    lossless=lambda _: False,
    mime_type="image/jpeg",
    is_compressed=True,
    library="imagecodecs",
    readers=dict.fromkeys((NEUROGLANCER, TENSORSTORE, NEUROGLANCER_SCRIPTS), _KINDS),
)
