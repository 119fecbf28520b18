"""jxl: grey planes, one for each channel, or one image in colour."""

import math
import struct
from dataclasses import dataclass

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, library_reads
from precomputed_fs.codecs.encoding import NEUROGLANCER, Encoding, integer
from precomputed_fs.codecs.images import from_image, to_image
from precomputed_fs.format.grid import Triple

_LARGEST = 1 << 18  # pixels of a side in a plain codestream (level 5)
_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_HEADER = 64  # bytes that are enough for what is read of it
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_LOSSLESS = 100  # quality


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    """Decode grey planes, which Neuroglancer reads, or one image in colour."""
    import imagecodecs

    if kind.data_type != "uint8":
        raise DamagedError("a jxl chunk holds uint8")
    x, y, z = size
    channels = kind.num_channels
    width, height, animated = _read_header(data)
    shape: tuple[int, ...] = (height, width)
    # cloud-volume passes planes to an encoder that takes up to four columns for the channels of an image.
    mistaken = channels == 3 and x <= 4 and not animated and (height, width) == (3, y * z) != (y * z, x)  # noqa: PLR2004
    if mistaken:
        shape = (3, y * z, x)
    elif width * height != math.prod(size):
        raise DamagedError(f"its header says {width} x {height} pixels")
    elif channels > 1:
        shape = (channels, height, width) if animated else (height, width, channels)
    image = np.empty(shape, np.uint8)
    with library_reads():
        imagecodecs.jpegxl_decode(data, keeporientation=True, out=image)  # refuses an array that does not fit
    if animated or mistaken:
        image = image.reshape(channels, -1).T
    return from_image(image, size, channels)


def _read_header(data: bytes) -> tuple[int, int, bool]:
    """Return the width and height of a JPEG XL image, and whether it has several frames.

    Reads SizeHeader and ImageMetadata of ISO/IEC 18181-1 up to the number of extra channels, which
    would take memory.
    """
    header = _Header(int.from_bytes(_codestream(data), "little"))
    width, height = header.sides()
    animated = preview = 0
    if not header.take(1):  # not all are defaults
        if header.take(1):  # there are extra fields
            header.take(3)  # orientation
            if header.take(1):
                header.sides()  # the size to be shown at
            preview, animated = header.take(1), header.take(1)
        if animated and not preview:
            header.take_animation()
        if preview or header.take_extra_channels() > 1:
            raise DamagedError("its header says that it has a preview, or extra channels")
    return width, height, bool(animated)


@dataclass(slots=True)
class _Header:
    """The bits of a header that remain to be read."""

    bits: int

    def take(self, count: int) -> int:
        """Read an integer of some bits."""
        value = self.bits & ((1 << count) - 1)
        self.bits >>= count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """Read an integer in one of four forms, each an offset and a number of bits."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)

    def sides(self) -> tuple[int, int]:
        """Read a width and a height."""
        eighths = bool(self.take(1))
        height = self._side(eighths=eighths)
        over, under = _RATIOS[self.take(3)]
        return height * over // under if over else self._side(eighths=eighths), height

    def _side(self, *, eighths: bool) -> int:
        return 8 * (1 + self.take(5)) if eighths else self.choose((1, 9), (1, 13), (1, 18), (1, 30))

    def take_animation(self) -> None:
        """Skip how fast frames are shown."""
        self.choose((100, 0), (1000, 0), (1, 10), (1, 30))
        self.choose((1, 0), (1001, 0), (1, 8), (1, 10))
        self.choose((0, 0), (0, 3), (0, 16), (0, 32))
        self.take(1)

    def take_extra_channels(self) -> int:
        """Read how many channels there are beyond grey or three colours."""
        if self.take(1):  # floating point
            self.choose((32, 0), (16, 0), (24, 0), (1, 6))
            self.take(4)
        else:
            self.choose((8, 0), (10, 0), (12, 0), (1, 6))
        self.take(1)  # of 16 bits while decoding
        return self.choose((0, 0), (1, 0), (2, 4), (1, 12))


def _codestream(data: bytes) -> bytes:
    """Return the beginning of the codestream after its signature, bare or in a container."""
    if data.startswith(_CONTAINER):
        found = b""
        position = len(_CONTAINER)
        while len(found) < _HEADER and position + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            begin = position + 8
            if length == 1:
                length = int.from_bytes(data[begin : begin + 8], "big")
                begin += 8
            end = position + length if length else len(data)
            if end < begin:
                break
            if kind in {b"jxlc", b"jxlp"}:
                found += data[begin + 4 * (kind == b"jxlp") : min(end, begin + 4 + _HEADER)]
            position = end
    else:
        found = data[:_HEADER]
    if found[:2] != b"\xff\x0a":
        raise DamagedError("it does not begin like JPEG XL")
    return found[2:_HEADER]


def _encode(kind: ChunkKind, array: Array) -> bytes:
    import imagecodecs

    image = to_image(array, _LARGEST)
    planes = image.transpose(2, 0, 1) if kind.num_channels > 1 else image
    return bytes(
        imagecodecs.jpegxl_encode(
            planes,
            level=kind.parameters["jxl_quality"],
            lossless=kind.parameters["jxl_quality"] >= _LOSSLESS,
            effort=kind.parameters["jxl_effort"],
            decodingspeed=kind.parameters["jxl_decodingspeed"],
            photometric="GRAY",
        )
    )


JXL = Encoding(
    "jxl",
    ("uint8",),
    (1, 3, 4),
    _decode,
    _encode,
    lambda chunk: 8 * chunk.raw_bytes,
    parameters=(
        integer("jxl_quality", 85, 0, _LOSSLESS),
        integer("jxl_effort", 5, 1, 9),
        integer("jxl_decodingspeed", 0, 0, 4),
    ),
    lossless=lambda parameters: bool(parameters["jxl_quality"] == _LOSSLESS),
    mime_type="image/jxl",
    library="imagecodecs",
    readers={NEUROGLANCER: ((("uint8",), (1,)),)},
)
