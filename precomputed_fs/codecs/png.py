"""png: an image of one to four channels, of 8 or 16 bits."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, library_reads
from precomputed_fs.codecs.encoding import CLOUD_VOLUME, NEUROGLANCER, TENSORSTORE, Encoding, integer
from precomputed_fs.codecs.images import check_image, from_image, to_image
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk

_LARGEST = 1_000_000  # pixels of a side: libpng's limit for reading and writing
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 4: 2, 2: 3, 6: 4}  # by colour type; volumes have no palette
_HEADER = struct.Struct(">IIBB2xB")
_SMALL = 1 << 12  # bytes of pixels
_DEFLATE_STORED = 0xFFFF  # bytes of a block


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    import imagecodecs

    chunks = _png_chunks(data)
    name, header = next(chunks)
    if name != b"IHDR" or len(header) != 25:  # noqa: PLR2004
        raise DamagedError("it does not begin with a PNG header")
    width, height, bits, colour_type, interlaced = _HEADER.unpack_from(header, 8)
    check_image(kind, size, (width, height, _CHANNELS.get(colour_type, 0), bits))
    # Only the pixels matter. Dropping the other chunks drops their bombs and the library's warnings about them.
    *pixels, end = (chunk for name, chunk in chunks if name in {b"IDAT", b"IEND"})
    channels = kind.num_channels
    image = np.empty((height, width, channels) if channels > 1 else (height, width), kind.dtype)
    with library_reads():
        if image.nbytes > _SMALL and not interlaced:
            pixels = [memoryview(_inflate(pixels, height + image.nbytes))]  # each row begins with a byte, its filter
        imagecodecs.png_decode(b"".join((_SIGNATURE, header, *pixels, end)), out=image)
    return from_image(image, size, channels)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Iterate over a PNG's chunks, checked, up to the last; what follows it is not part of the image."""
    if data[:8] != _SIGNATURE:
        raise DamagedError("it does not begin like PNG")
    rest = memoryview(data)[8:]
    name = b""
    while name != b"IEND":
        length = 12 + int.from_bytes(rest[:4], "big")
        chunk, rest = rest[:length], rest[length:]
        if len(chunk) < length:
            raise DamagedError("it ends too early")
        name = bytes(chunk[4:8])
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise DamagedError(f"the checksum of its {name!r} does not match")
        yield name, chunk


def _inflate(chunks: list[memoryview], length: int) -> bytes:
    """Replace compressed pixels by the same pixels in stored blocks (RFC 1951).

    libpng inflates row by row. For rows as short as a chunk's, that takes several times as long as
    inflating everything at once, which leaves only the filters to libpng.
    """
    import imagecodecs

    pixels = bytes(imagecodecs.deflate_decode(b"".join(chunk[8:-4] for chunk in chunks), out=length))
    parts = [b"IDAT\x78\x01"]
    for begin in range(0, len(pixels), _DEFLATE_STORED):
        block = pixels[begin : begin + _DEFLATE_STORED]
        is_last = begin + _DEFLATE_STORED >= len(pixels)
        parts += (struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block)
    chunk = b"".join((*parts, struct.pack(">I", imagecodecs.deflate_adler32(pixels))))
    return b"".join((struct.pack(">I", len(chunk) - 4), chunk, struct.pack(">I", imagecodecs.deflate_crc32(chunk))))


def _encode(kind: ChunkKind, array: Array) -> bytes:
    import imagecodecs

    image = to_image(array, _LARGEST)
    room = image.nbytes + image.nbytes // 8 + 16 * len(image) + 4096  # without it, narrow images do not fit
    return bytes(imagecodecs.png_encode(image, kind.parameters["png_level"], out=room))


def _largest(chunk: Chunk) -> int:
    """Allow incompressible pixels, and a filter byte per row, which may be a single pixel."""
    return 2 * (chunk.raw_bytes + chunk.voxels)


PNG = Encoding(
    "png",
    ("uint8", "uint16"),
    (1, 2, 3, 4),
    _decode,
    _encode,
    _largest,
    parameters=(integer("png_level", 6, 0, 9),),
    mime_type="image/png",
    is_compressed=True,
    library="imagecodecs",
    readers={
        NEUROGLANCER: ((("uint8",), (1, 2, 3, 4)), (("uint16",), (1,))),  # it mixes up the bytes of more channels
        TENSORSTORE: ((("uint8", "uint16"), (1, 2, 3, 4)),),
        CLOUD_VOLUME: ((("uint8",), (1, 2, 3, 4)), (("uint16",), (2, 4))),
    },
)
