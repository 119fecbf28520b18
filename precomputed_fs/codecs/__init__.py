"""What a chunk's bytes mean: bytes <-> ndarray, one table row per encoding.

Everything happens in memory. A chunk is an array of shape (x, y, z, channel); its bytes are in one of
the encodings that ``info`` may name. The codecs themselves are libraries', each imported when a chunk
first needs it. What stands here is what the libraries do not know: how a volume becomes an image, and
that stored bytes may be damaged. Several of these libraries believe whatever they read, and write or
read beyond their buffers where it is not true; the structure of the data is therefore checked, or the
data are put into a form in which nothing they say can lead outside, before a library sees them.
Where that is not possible, the library is called in a process of its own.
"""

import contextlib
import copy
import functools
import importlib
import itertools
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from precomputed_fs.codecs.sandbox import CrashError, Sandbox
from precomputed_fs.errors import CorruptDataError, InvalidInfoError
from precomputed_fs.format.grid import Triple

Array = np.ndarray[Any, np.dtype[Any]]

_AXES = 4
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
_RAW = (*_UNSIGNED, "int8", "int16", "int32", "float32")
_DATA_TYPES = (*_RAW, "int64", "float64")  # these two are not of the format, but cloud-volume writes them
_OCTETS = "application/octet-stream"


class _DamagedError(ValueError):
    """Why bytes are not the chunk that they should be; `Codec.decode` says the rest."""


def _damaged(reason: str) -> NoReturn:
    raise _DamagedError(reason)


@contextlib.contextmanager
def _library_reads() -> Iterator[None]:
    """Take whatever a library raises about the data that it was given for damage."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise _DamagedError(reason) from exc


# ------------------------------------------------------------------------------------------------------------ the face


@dataclass(frozen=True, slots=True)
class Parameter:
    """A key of a scale in `info` that belongs to one encoding."""

    key: str

    default: Any
    """What is used, and written into `info`, if nothing is given; None: nothing is."""

    expected: str
    """What a value has to be, for messages."""

    accepts: Callable[[Any], bool]
    """Whether a value, as parsed from JSON, is that."""

    required: bool = False
    """Whether nothing can be decoded without it."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One row of the table: what an encoding stores, and how."""

    name: str

    data_types: tuple[str, ...]
    """What may be written; reading takes what it finds."""

    channels: tuple[int, ...] | None
    """The numbers of channels that may be written; None for any."""

    decode: Callable[["Codec", bytes, Triple], Array]
    """``(codec, data, size) -> array`` or a ValueError that gives the reason."""

    encode: Callable[["Codec", Array], bytes]
    """``(codec, array) -> data``; the array has been checked."""

    parameters: tuple[Parameter, ...] = ()

    lossless: Callable[[Mapping[str, Any]], bool] = lambda _: True
    """Whether what is written with these values of the parameters is read back unchanged."""

    conflict: Callable[[Mapping[str, Any]], str] = lambda _: ""
    """What is wrong with values that are acceptable one by one; empty for nothing."""

    mime_type: str = _OCTETS

    layer_type: str = "image"
    """What volumes of this encoding usually are: "image" or "segmentation"."""

    library: str | None = None
    """The module that does the work; None for NumPy."""

    extra: str | None = None
    """The extra of this package that installs the library; None if it is always there."""

    @property
    def defaults(self) -> dict[str, Any]:
        """The keys of a new scale of this encoding in `info`, for which nothing was chosen."""
        defaults = {parameter.key: parameter.default for parameter in self.parameters}
        return {key: copy.copy(value) for key, value in defaults.items() if value is not None}

    def fits(self, data_type: str, num_channels: int) -> bool:
        """Whether volumes of this kind can be written."""
        return data_type in self.data_types and (self.channels is None or num_channels in self.channels)


@dataclass(frozen=True, slots=True)
class Codec:
    """How the chunks of one scale are decoded and encoded. Made by `codec_for`; it can be pickled."""

    encoding: str
    """A name in `ENCODINGS`."""

    data_type: str
    """As in `info`, in lower case."""

    num_channels: int

    parameters: Mapping[str, Any]
    """Values of the encoding's own parameters, defaults included."""

    place: str = "scale"
    """What messages call the scale."""

    @property
    def row(self) -> Encoding:
        """The encoding."""
        return ENCODINGS[self.encoding]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is decoded to; little-endian."""
        return np.dtype(self.data_type).newbyteorder("<")

    @property
    def mime_type(self) -> str:
        """The content type of an encoded chunk."""
        return self.row.mime_type

    @property
    def lossless(self) -> bool:
        """Whether what is encoded is decoded to the same."""
        return self.row.lossless(self.parameters)

    def decode(self, data: bytes, size: Triple) -> Array:
        """Decode a chunk.

        Parameters
        ----------
        data : bytes
        size : tuple of int
            The chunk's size in voxels, xyz, clipped to the volume.

        Returns
        -------
        ndarray
            ``[x, y, z, channel]``, of `dtype`. It may be read-only, a view of the data, or strided in
            any way: it is meant to be copied to where it belongs.

        Raises
        ------
        CorruptDataError
            If the data are not a chunk of this size. The message does not name the chunk: the caller
            does. What a JPEG, compresso or fpzip stream says once its structure is right has no
            checksum, so that not every changed byte is noticed.
        ImportError
            If the encoding's library is not installed; the message says how to install it.
        """
        try:
            return self.row.decode(self, data, size)
        except _DamagedError as exc:
            x, y, z = size
            expected = f"a {self.encoding} chunk of {x} x {y} x {z} voxels, {_kind(self.data_type, self.num_channels)}"
            message = f"expected {expected}, got {len(data)} bytes: {exc}"
            raise CorruptDataError(message) from exc

    def encode(self, array: Array) -> bytes:
        """Encode a chunk; the same array gives the same bytes.

        Parameters
        ----------
        array : ndarray
            ``[x, y, z, channel]``, of the scale's data type, in any memory order.

        Raises
        ------
        ValueError
            If the array is not of the scale's data type and number of channels, or as `check` does, or
            if an array of this shape or content cannot be stored in this encoding.
        ImportError
            If the encoding's library is not installed; the message says how to install it.
        """
        self.check()
        if array.ndim != _AXES or array.shape[3] != self.num_channels or array.size == 0:
            expected = f"an array of shape (x, y, z, {self.num_channels})"
            message = f"{self.place}: expected {expected} that is not empty, got {array.shape}"
            raise ValueError(message)
        if array.dtype.newbyteorder("=") != self.dtype.newbyteorder("="):
            message = f"{self.place}: expected an array of {self.data_type}, got {array.dtype}"
            raise ValueError(message)
        return self.row.encode(self, array.astype(self.dtype, copy=False))

    def check(self) -> None:
        """Check that the scale can be written.

        Raises
        ------
        ValueError
            If the encoding does not store this data type or number of channels, or a parameter is not
            acceptable; the message names the place in `info` and what would be.
        """
        row = self.row
        if not row.fits(self.data_type, self.num_channels):
            stored = " or ".join(row.data_types) + " only"
            if row.channels is not None:
                stored += f", in {' or '.join(map(str, row.channels))} channel{'s' * (row.channels != (1,))}"
            base = [other for other in ENCODINGS.values() if other.extra is None]
            others = [other.name for other in base if other.fits(self.data_type, self.num_channels)]
            use = f"use {' or '.join(others)}" if others else "no encoding stores that"
            got = _kind(self.data_type, self.num_channels)
            message = f"{self.place}.encoding: {row.name} stores {stored}, got {got}; {use}"
            raise ValueError(message)
        for parameter in row.parameters:
            value = self.parameters[parameter.key]
            if value is not None and not parameter.accepts(value):
                message = f"{self.place}.{parameter.key}: expected {parameter.expected}, got {value!r}"
                raise ValueError(message)
        if conflict := row.conflict(self.parameters):
            message = f"{self.place}.{conflict}"
            raise ValueError(message)

    def info_parameters(self) -> dict[str, Any]:
        """Return the scale's keys in `info` that belong to this encoding, with the values used.

        tensorstore refuses a scale with any other encoding's keys.
        """
        return {key: copy.copy(value) for key, value in self.parameters.items() if value is not None}


def codec_for(
    encoding: str, data_type: str, num_channels: int, parameters: Mapping[str, Any], place: str = "scale"
) -> Codec:
    """Find out how the chunks of a scale are decoded and encoded.

    Reading forgives: what only matters for writing is not looked at here, but by `Codec.check`.

    Parameters
    ----------
    encoding : str
        As in `info`; read without case.
    data_type : str
        As in `info`; read without case.
    num_channels : int
    parameters : mapping
        The scale's JSON object. Keys that do not belong to the encoding are ignored. A new scale needs
        `Encoding.defaults` for what was not chosen.
    place : str
        What messages call the scale, such as ``scales[0]``.

    Raises
    ------
    InvalidInfoError
        If the encoding or the data type is not known, or what decoding needs is missing or wrong.

    Examples
    --------
    >>> codec = codec_for("png", "uint16", 2, {"key": "1mm", "png_level": 9})
    >>> codec.decode(codec.encode(np.full((4, 3, 2, 2), 1000, np.uint16)), (4, 3, 2))[0, 0, 0]
    array([1000, 1000], dtype=uint16)
    >>> codec.info_parameters()
    {'png_level': 9}
    >>> codec_for("jpeg", "uint16", 1, {}).check()
    Traceback (most recent call last):
        ...
    ValueError: scale.encoding: jpeg stores uint8 only, in 1 or 3 channels, got 1 channel of uint16; use raw or png
    """
    row = ENCODINGS.get(str(encoding).lower())
    if row is None:
        message = f"{place}.encoding: expected one of {', '.join(ENCODINGS)}, got {encoding!r}"
        raise InvalidInfoError(message)
    if str(data_type).lower() not in _DATA_TYPES:
        message = f"data_type: expected one of {', '.join(_DATA_TYPES)}, got {data_type!r}"
        raise InvalidInfoError(message)
    if not _is_integer(1, math.inf, num_channels):
        message = f"num_channels: expected a positive integer, got {num_channels!r}"
        raise InvalidInfoError(message)
    values = {}
    for parameter in row.parameters:
        value = parameters.get(parameter.key)
        if parameter.required and not parameter.accepts(value):
            message = f"{place}.{parameter.key}: expected {parameter.expected}, got {value!r}"
            raise InvalidInfoError(message)
        values[parameter.key] = copy.copy(parameter.default if value is None else value)
    return Codec(row.name, data_type.lower(), num_channels, values, place)


def _kind(data_type: str, num_channels: int) -> str:
    return f"{num_channels} channel{'s' * (num_channels > 1)} of {data_type}"


def _load(codec: Codec) -> Any:  # noqa: ANN401  the libraries ship no types
    """Import an encoding's library."""
    row = codec.row
    try:
        return importlib.import_module(str(row.library))
    except ImportError as exc:
        package = f"precomputed-fs[{row.extra}]" if row.extra else "precomputed-fs"
        message = f"{codec.place}.encoding: {row.name} needs {row.library}: pip install '{package}'"
        raise ImportError(message, name=row.library) from exc


# ----------------------------------------------------------------------------------------------------------------- raw


def _decode_raw(codec: Codec, data: bytes, size: Triple) -> Array:
    shape = (*size, codec.num_channels)
    length = math.prod(shape) * codec.dtype.itemsize
    if len(data) != length:
        _damaged(f"it has {length} bytes")
    return np.frombuffer(data, codec.dtype).reshape(shape, order="F")


def _encode_raw(_: Codec, array: Array) -> bytes:
    return _transposed(array, 3, 2, 1, 0).tobytes()


_X_AT_ONCE = 8


def _transposed(array: Array, *axes: int) -> Array:
    """Return an array with its axes in another order, where x comes after z, that can be copied fast.

    Where z varies fastest, as in most arrays, all x of one z are far from each other, and when the next z
    is copied, they have been dropped from the processor's cache. Those of some x at a time have not.
    """
    transposed = array.transpose(axes)
    if array.strides[0] <= array.strides[2]:
        return transposed
    copied = np.empty(transposed.shape, array.dtype)
    x = axes.index(0)
    for begin in range(0, array.shape[0], _X_AT_ONCE):
        part = (slice(None),) * x + (slice(begin, begin + _X_AT_ONCE),)
        copied[part] = transposed[part]
    return copied


# ----------------------------------------------------------------------------------------- volumes as images: [z y, x]


def _to_image(array: Array, largest: int) -> Array:
    """Lay a chunk out as an image: ``[row, column, channel]``, or ``[row, column]`` for one channel.

    The rows one after the other are the chunk in Fortran order, and readers accept any width and height
    of the right product. The width is x, or x y where the height y z would be too large, or whatever
    keeps both sides below the largest.
    """
    x, y, z, channels = array.shape
    flat = np.ascontiguousarray(_transposed(array, 2, 1, 0, 3)).reshape(-1)
    for width, height in ((x, y * z), (x * y, z), _nearly_square(x * y * z)):
        if max(width, height) <= largest:
            return flat.reshape((height, width, channels) if channels > 1 else (height, width))
    message = f"no image with sides of at most {largest} pixels has {x * y * z}; use smaller chunks, or raw"
    raise ValueError(message)


def _nearly_square(area: int) -> tuple[int, int]:
    """Return the integral sides of an area that differ least."""
    width = next(side for side in range(math.isqrt(area), 0, -1) if area % side == 0)
    return width, area // width


def _from_image(image: Array, size: Triple, channels: int) -> Array:
    """Undo `_to_image`; a view."""
    x, y, z = size
    return image.reshape(z, y, x, channels).transpose(2, 1, 0, 3)


def _check_image(codec: Codec, size: Triple, header: tuple[int, int, int, int]) -> None:
    """Compare an image's width, height, channels, and bits of each, with what the chunk has to be."""
    width, height, channels, bits = header
    expected = (math.prod(size), codec.num_channels, 8 * codec.dtype.itemsize)
    if codec.dtype.kind != "u" or (width * height, channels, bits) != expected:
        _damaged(f"its header says {width} x {height} pixels, {channels} channels of {bits} bits")


# ---------------------------------------------------------------------------------------------------------------- jpeg

_JPEG_LARGEST = 65535  # pixels of a side
_JPEG_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without contents, which belong elsewhere
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG, DAC
_JPEG_FRAME = struct.Struct(">BHHB")
_JPEG_SCAN = 0xDA
_JPEG_NEXT_SCAN = re.compile(rb"\xff\xda")
_JPEG_SCANS = 100  # in one image; each costs time for every pixel, and a progressive image has about ten


def _decode_jpeg(codec: Codec, data: bytes, size: Triple) -> Array:
    width, height = _check_jpeg(codec, data, size)
    shape = (height, width, 3) if codec.num_channels > 1 else (height, width)
    # libjpeg-turbo writes colours past the processor's cache if they are aligned to 32 bytes: that takes twice as long.
    image = np.empty(1 + math.prod(shape), np.uint8)[1:].reshape(shape)
    imagecodecs = _load(codec)
    with _library_reads():
        imagecodecs.jpeg8_decode(data, out=image)
    return _from_image(image, size, codec.num_channels)


def _check_jpeg(codec: Codec, data: bytes, size: Triple) -> tuple[int, int]:
    """Check a JPEG's frame header, and that the image ends; return its width and height."""
    frames = []
    position = 2
    for marker, begin, end in jpeg_segments(data):
        if marker in _JPEG_FRAMES and end - begin >= _JPEG_FRAME.size:
            frames.append(_JPEG_FRAME.unpack_from(data, begin))
        position = end
    if len(frames) != 1:
        _damaged("it does not have one frame header")
    ((bits, height, width, channels),) = frames
    _check_image(codec, size, (width, height, channels, bits))
    # The library takes missing pixels for grey. In entropy-coded data, there are no such bytes but as markers.
    if data.rfind(b"\xff\xd9", position) < 0:
        _damaged("it ends too early")
    if len(_JPEG_NEXT_SCAN.findall(data, position)) > _JPEG_SCANS:  # `count` takes three times as long
        _damaged(f"it has more than {_JPEG_SCANS} scans")
    return width, height


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Go through the segments of a JPEG up to its first scan: marker, begin and end of the contents."""
    if data[:2] != b"\xff\xd8":
        _damaged("it does not begin like JPEG")
    position = 2
    marker = 0
    while marker != _JPEG_SCAN:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        prefix, marker, length = struct.unpack_from(">BBH", data, position) if position + 4 <= len(data) else (0, 0, 0)
        begin, position = position + 4, position + 2 + length
        if prefix != 0xFF or marker in _JPEG_BARE or begin > position or position > len(data):  # noqa: PLR2004
            _damaged("its headers are broken, or end too early")
        yield marker, begin, position


def _encode_jpeg(codec: Codec, array: Array) -> bytes:
    image = _to_image(array, _JPEG_LARGEST)
    return bytes(_load(codec).jpeg8_encode(image, codec.parameters["jpeg_quality"], subsampling="444"))


# ----------------------------------------------------------------------------------------------------------------- png

_PNG_LARGEST = 1_000_000  # pixels of a side: libpng's limit for reading and writing
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 4: 2, 2: 3, 6: 4}  # of a colour type; there is no palette in a volume
_PNG_HEADER = struct.Struct(">IIBB2xB")
_PNG_SMALL = 1 << 12  # bytes of pixels
_DEFLATE_STORED = 0xFFFF  # bytes of a block


def _decode_png(codec: Codec, data: bytes, size: Triple) -> Array:
    chunks = _png_chunks(data)
    kind, header = next(chunks)
    if kind != b"IHDR" or len(header) != 25:  # noqa: PLR2004
        _damaged("it does not begin with a PNG header")
    width, height, bits, colour_type, interlaced = _PNG_HEADER.unpack_from(header, 8)
    _check_image(codec, size, (width, height, _PNG_CHANNELS.get(colour_type, 0), bits))
    # Nothing but the pixels matters, and what is not there cannot be a bomb or make a warning.
    *pixels, end = (chunk for kind, chunk in chunks if kind in {b"IDAT", b"IEND"})
    channels = codec.num_channels
    image = np.empty((height, width, channels) if channels > 1 else (height, width), codec.dtype)
    imagecodecs = _load(codec)
    with _library_reads():
        if image.nbytes > _PNG_SMALL and not interlaced:
            inflated = _inflate_pixels(
                imagecodecs, pixels, height + image.nbytes
            )  # a byte more in each row, its filter
            pixels = [memoryview(inflated)]
        imagecodecs.png_decode(b"".join((_PNG_SIGNATURE, header, *pixels, end)), out=image)
    return _from_image(image, size, channels)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Go through the chunks of a PNG, checked; what follows the last is no part of it."""
    if data[:8] != _PNG_SIGNATURE:
        _damaged("it does not begin like PNG")
    rest = memoryview(data)[8:]
    kind = b""
    while kind != b"IEND":
        length = 12 + int.from_bytes(rest[:4], "big")
        chunk, rest = rest[:length], rest[length:]
        if len(chunk) < length:
            _damaged("it ends too early")
        kind = bytes(chunk[4:8])
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            _damaged(f"the checksum of its {kind!r} does not match")
        yield kind, chunk


def _inflate_pixels(imagecodecs: Any, chunks: list[memoryview], length: int) -> bytes:  # noqa: ANN401  a module
    """Replace compressed pixels by the same in blocks that are stored as they are (RFC 1951).

    libpng inflates row by row, and for rows as short as those of a chunk that takes several times as
    long as doing it at once. What is left to it are the filters.
    """
    pixels = imagecodecs.deflate_decode(b"".join(chunk[8:-4] for chunk in chunks), out=length)
    parts = [b"IDAT\x78\x01"]
    for begin in range(0, len(pixels), _DEFLATE_STORED):
        block = pixels[begin : begin + _DEFLATE_STORED]
        is_last = begin + _DEFLATE_STORED >= len(pixels)
        parts += (struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block)
    chunk = b"".join((*parts, struct.pack(">I", imagecodecs.deflate_adler32(pixels))))
    return b"".join((struct.pack(">I", len(chunk) - 4), chunk, struct.pack(">I", imagecodecs.deflate_crc32(chunk))))


def _encode_png(codec: Codec, array: Array) -> bytes:
    image = _to_image(array, _PNG_LARGEST)
    room = image.nbytes + image.nbytes // 8 + 16 * len(image) + 4096  # without it, narrow images do not fit
    return bytes(_load(codec).png_encode(image, codec.parameters["png_level"], out=room))


# ----------------------------------------------------------------------------------------------------------------- jxl

_JXL_LARGEST = 1 << 18  # pixels of a side in a plain codestream (level 5)
_JXL_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_JXL_HEADER = 64  # bytes that are enough for what is read of it
_JXL_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_JXL_LOSSLESS = 100  # quality


def _decode_jxl(codec: Codec, data: bytes, size: Triple) -> Array:
    """Decode grey planes, one a channel, which is what Neuroglancer reads, or one image in colour."""
    if codec.data_type != "uint8":
        _damaged("a jxl chunk holds uint8")
    x, y, z = size
    channels = codec.num_channels
    width, height, animated = _read_jxl_header(data)
    shape: tuple[int, ...] = (height, width)
    # cloud-volume hands the planes to its encoder, which takes up to four columns for an image's channels.
    mistaken = channels == 3 and x <= 4 and not animated and (height, width) == (3, y * z) != (y * z, x)  # noqa: PLR2004
    if mistaken:
        shape = (3, y * z, x)
    elif width * height != math.prod(size):
        _damaged(f"its header says {width} x {height} pixels")
    elif channels > 1:
        shape = (channels, height, width) if animated else (height, width, channels)
    image = np.empty(shape, np.uint8)
    imagecodecs = _load(codec)
    with _library_reads():
        imagecodecs.jpegxl_decode(data, keeporientation=True, out=image)  # refuses an array that does not fit
    if animated or mistaken:
        image = image.reshape(channels, -1).T
    return _from_image(image, size, channels)


def _read_jxl_header(data: bytes) -> tuple[int, int, bool]:
    """Return the width and height of a JPEG XL image, and whether it has several frames.

    The fields are those of ISO/IEC 18181-1, SizeHeader and ImageMetadata, as far as to the number of
    extra channels, which would take memory.
    """
    header = _JxlHeader(int.from_bytes(_jxl_codestream(data), "little"))
    width, height = header.sides()
    animated = preview = 0
    if not header.take(1):  # not all are defaults
        if header.take(1):  # there are extra fields
            header.take(3)  # orientation
            if header.take(1):
                header.sides()  # to be shown at
            preview, animated = header.take(1), header.take(1)
        if animated and not preview:
            header.take_animation()
        if preview or header.take_extra_channels() > 1:
            _damaged("its header says that it has a preview, or extra channels")
    return width, height, bool(animated)


@dataclass(slots=True)
class _JxlHeader:
    """The bits of a header that have not been taken yet."""

    bits: int

    def take(self, count: int) -> int:
        """Take an integer of some bits."""
        value = self.bits & ((1 << count) - 1)
        self.bits >>= count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """Take an integer in one of four forms: an offset, and a number of bits."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)

    def sides(self) -> tuple[int, int]:
        """Take a width and a height."""
        eighths = bool(self.take(1))
        height = self._side(eighths=eighths)
        over, under = _JXL_RATIOS[self.take(3)]
        return height * over // under if over else self._side(eighths=eighths), height

    def _side(self, *, eighths: bool) -> int:
        return 8 * (1 + self.take(5)) if eighths else self.choose((1, 9), (1, 13), (1, 18), (1, 30))

    def take_animation(self) -> None:
        """Take how fast frames are shown."""
        self.choose((100, 0), (1000, 0), (1, 10), (1, 30))
        self.choose((1, 0), (1001, 0), (1, 8), (1, 10))
        self.choose((0, 0), (0, 3), (0, 16), (0, 32))
        self.take(1)

    def take_extra_channels(self) -> int:
        """Take the bits of a sample, and the number of channels beyond grey or three colours."""
        if self.take(1):  # floating point
            self.choose((32, 0), (16, 0), (24, 0), (1, 6))
            self.take(4)
        else:
            self.choose((8, 0), (10, 0), (12, 0), (1, 6))
        self.take(1)  # of 16 bits while decoding
        return self.choose((0, 0), (1, 0), (2, 4), (1, 12))


def _jxl_codestream(data: bytes) -> bytes:
    """Return the beginning of an image's codestream, without its signature, bare or in a container."""
    if data.startswith(_JXL_CONTAINER):
        found = b""
        position = len(_JXL_CONTAINER)
        while len(found) < _JXL_HEADER and position + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            begin = position + 8
            if length == 1:
                length = int.from_bytes(data[begin : begin + 8], "big")
                begin += 8
            end = position + length if length else len(data)
            if end < begin:
                break
            if kind in {b"jxlc", b"jxlp"}:
                found += data[begin + 4 * (kind == b"jxlp") : min(end, begin + 4 + _JXL_HEADER)]
            position = end
    else:
        found = data[:_JXL_HEADER]
    if found[:2] != b"\xff\x0a":
        _damaged("it does not begin like JPEG XL")
    return found[2:_JXL_HEADER]


def _encode_jxl(codec: Codec, array: Array) -> bytes:
    image = _to_image(array, _JXL_LARGEST)
    planes = image.transpose(2, 0, 1) if codec.num_channels > 1 else image
    return bytes(
        _load(codec).jpegxl_encode(
            planes,
            level=codec.parameters["jxl_quality"],
            lossless=codec.parameters["jxl_quality"] >= _JXL_LOSSLESS,
            effort=codec.parameters["jxl_effort"],
            decodingspeed=codec.parameters["jxl_decodingspeed"],
            photometric="GRAY",
        )
    )


# --------------------------------------------------------------------------------------------- compressed_segmentation

_BLOCK_SIZE = "compressed_segmentation_block_size"
_BLOCK_VOXELS = 1 << 16  # in a larger block, there may be more labels than the library can count
_VOXELS_AT_ONCE = 1 << 20
_WORD_BITS = 32
_IS_READ = np.isin(np.arange(256), [0, 1, 2, 4, 8, 16])  # by bits of a voxel; on 32, allowed too, the library is wrong


def _decode_compressed_segmentation(codec: Codec, data: bytes, size: Triple) -> Array:
    _check_compressed_segmentation(codec, data, size)
    library = _load(codec)
    shape = (*size, codec.num_channels)
    with _library_reads():
        decoded: Array = library.decompress(data, shape, codec.dtype, codec.parameters[_BLOCK_SIZE], order="F")
    return decoded


def _check_compressed_segmentation(codec: Codec, data: bytes, size: Triple) -> None:
    """Check that every offset in the data leads into the data: the library follows them blindly."""
    if codec.data_type not in {"uint32", "uint64"}:
        _damaged("a compressed_segmentation chunk holds uint32 or uint64")
    block_size = codec.parameters[_BLOCK_SIZE]
    blocks = math.prod(-(-length // block) for length, block in zip(size, block_size, strict=True))
    channels = codec.num_channels
    if len(data) % 4 or len(data) < 4 * (channels + 2 * blocks):
        _damaged(f"it has at least {4 * (channels + 2 * blocks)} bytes, and a multiple of 4")
    words = np.frombuffer(data, "<u4")
    if words[0] != channels:
        _damaged(f"its first channel begins at {words[0]}, and not at {channels}")
    for start in words[:channels].tolist():
        if start < channels or start + 2 * blocks > words.size:
            _damaged("a channel begins where it cannot")
        _check_channel(words[start:], blocks, math.prod(block_size), codec.dtype.itemsize // 4)


def _check_channel(words: Array, blocks: int, block_voxels: int, label_words: int) -> None:
    """Check the blocks of one channel.

    A block's header gives the offset of its table of labels, in 24 bits, how many bits each voxel has,
    and the offset of those; all in words from the channel's beginning.
    """
    headers = words[: 2 * blocks].reshape(-1, 2).astype(np.int64)
    bits, tables, values = headers[:, 0] >> 24, headers[:, 0] & 0xFFFFFF, headers[:, 1]
    if tables.min() < 2 * blocks:
        _damaged("a block's labels lie among the headers")
    if not _IS_READ[bits].all():
        _damaged(f"a block has {bits[~_IS_READ[bits]][0]} bits a voxel")
    block_voxels = min(block_voxels, _WORD_BITS * words.size + 1)  # more do not fit anyway, and products could overflow
    ends = values - (-bits * block_voxels // _WORD_BITS)
    if ends[bits > 0].max(initial=0) > words.size:
        _damaged("a block's voxels lie after the end")
    # Only a table at the end of the data may be shorter than the number of bits allows for.
    at_end = np.flatnonzero(tables + (label_words << bits) > words.size)
    for count in set(bits[at_end].tolist()):
        chosen = at_end[bits[at_end] == count]
        last = _last_labels(words, values[chosen], count, block_voxels) if count else 0
        if (tables[chosen] + (last + 1) * label_words > words.size).any():
            _damaged("a block's labels lie after the end")


def _last_labels(words: Array, values: Array, bits: int, block_voxels: int) -> Array:
    """Return the largest index into its table of labels that each of some blocks has."""
    length = -(-bits * block_voxels // _WORD_BITS)
    shifts = np.arange(0, _WORD_BITS, bits, dtype=np.uint32)
    largest = np.empty(len(values), np.int64)
    step = max(1, _VOXELS_AT_ONCE // block_voxels)  # a thin chunk may have many large blocks
    for begin in range(0, len(values), step):
        part = slice(begin, begin + step)
        rows = words[values[part].astype(np.int64)[:, np.newaxis] + np.arange(length)]
        indices = (rows[:, :, np.newaxis] >> shifts) & np.uint32((1 << bits) - 1)
        largest[part] = indices.reshape(len(rows), -1)[:, :block_voxels].max(axis=1)
    return largest


def _encode_compressed_segmentation(codec: Codec, array: Array) -> bytes:
    """Encode each channel by itself: the library's own several channels read a stride that nobody wrote."""
    library = _load(codec)
    channels = []
    for channel in range(codec.num_channels):
        plane = np.array(array[..., channel], order="F")  # the library takes no read-only array
        try:
            encoded = library.compress(plane, codec.parameters[_BLOCK_SIZE], order="F")
        except OverflowError as exc:
            message = f"{codec.place}: a chunk of so many labels is too large for {codec.encoding}; use raw"
            raise ValueError(message) from exc
        channels.append(encoded[4:])  # without the offset of its only channel
    lengths = [len(channels), *(len(channel) // 4 for channel in channels[:-1])]
    return b"".join((np.cumsum(lengths).astype("<u4").tobytes(), *channels))


def _too_large_blocks(parameters: Mapping[str, Any]) -> str:
    block_size = parameters[_BLOCK_SIZE]
    if math.prod(block_size) <= _BLOCK_VOXELS:
        return ""
    return f"{_BLOCK_SIZE}: expected at most {_BLOCK_VOXELS} voxels, got {block_size}; use [8, 8, 8]"


# ----------------------------------------------------------------------------------------------------------- compresso

_COMPRESSO_HEADER = struct.Struct("<4sBB3H3BQIQB")
_COMPRESSO_LARGEST = 65534  # voxels of a side: one less than in the format, as decoding adds a slice
_COMPRESSO_WINDOW = 64  # voxels
_COMPRESSO_DEEP = 8  # slices of a window; usual is one, and as many are decoded even of a chunk that has fewer
_COMPRESSO_CONNECTIVITY = 4  # components are of one slice, and connected through the sides of voxels
_COMPRESSO_LABEL = 7  # what is added to the labels in locations


@dataclass(frozen=True, slots=True)
class _Compresso:
    """The sections of a compresso stream.

    The windows, small blocks of voxels, are indices into values, whose bits say which voxels lie on a
    boundary between labels. The voxels between boundaries are components, and each has an id, its label.
    A voxel on a boundary is labelled by a neighbour or, where that does not tell, by the next location.
    """

    steps: Triple
    """The size of a window."""

    ids: Array
    values: Array
    locations: Array
    windows: Array
    """Run-length encoded."""


def _decode_compresso(codec: Codec, data: bytes, size: Triple) -> Array:
    """Decode with all that the library looks for without looking whether it is there.

    A stream may have more components than ids, or more voxels that wait for a location than
    locations, or a location may point below the last slice. So there are ids and locations for all,
    of a label that is not used, and one more slice. Where that label turns up, something is missing.
    """
    x, y, z = size
    stream = _read_compresso(codec, data, size)
    across = -(-x // stream.steps[0]) * -(-y // stream.steps[1])
    depth = -(-z // stream.steps[2]) * stream.steps[2] + 1
    dtype = np.dtype(f"<u{max(4, codec.dtype.itemsize)}")  # so that there is a label that is not used
    ids, locations = stream.ids.astype(dtype), stream.locations.astype(dtype)
    unused = _unused_label(ids, locations)
    ids = np.append(ids, np.full(depth * (x * y // 2 + 1), unused))
    locations = np.append(locations, np.full(x * y * depth + 1, unused))
    values = np.append(stream.values, np.zeros(1, stream.values.dtype))
    empty = int(np.argmin(values))  # a window without a boundary
    if depth - 1 > _COMPRESSO_LARGEST or empty << 1 > np.iinfo(values.dtype).max:
        _damaged("its size or the number of its windows is at the very limit of the format")
    windows = np.append(stream.windows, np.full(across, empty << 1, values.dtype))
    counts = ids.size, values.size, locations.size
    header = (b"cpso", 0, dtype.itemsize, x, y, depth, *stream.steps, *counts, _COMPRESSO_CONNECTIVITY)
    library = _load(codec)
    with _library_reads():
        found: Array = library.decompress(_join(_COMPRESSO_HEADER.pack(*header), ids, values, locations, windows))
    labels = found[:, :, :z, np.newaxis]
    if ((labels == unused) | (labels == unused - _COMPRESSO_LABEL)).any():
        _damaged("it does not tell the labels of all voxels")
    return labels.astype(codec.dtype, copy=False)


def _unused_label(ids: Array, locations: Array) -> Any:  # noqa: ANN401  a scalar of either type
    """Find a number that stands for a label that is not used, be it an id or a location.

    Locations of up to 5 point to a neighbour, the one that follows a 6 is a label, and any other is a
    label plus 7.
    """
    direct = locations[locations >= _COMPRESSO_LABEL] - ids.dtype.type(_COMPRESSO_LABEL)
    limits = np.array([0, np.iinfo(ids.dtype).max], ids.dtype)
    used = np.unique(np.concatenate((limits, ids, locations, direct)))
    return used[np.argmax(np.diff(used))] + ids.dtype.type(_COMPRESSO_LABEL + 1)


def _read_compresso(codec: Codec, data: bytes, size: Triple) -> _Compresso:
    """Cut a stream into its sections and check them."""
    if len(data) < _COMPRESSO_HEADER.size or data[:4] != b"cpso":
        _damaged("it does not begin like compresso")
    _, version, width, x, y, z, *steps, ids, values, locations, connectivity = _COMPRESSO_HEADER.unpack_from(data)
    window = math.prod(steps)
    if (x, y, z) != size or f"uint{8 * width}" != codec.data_type:
        _damaged(f"its header says {x} x {y} x {z} voxels of {width} bytes")
    if steps[2] > max(_COMPRESSO_DEEP, z):
        _damaged(f"its windows are {steps[2]} slices deep, and it has {z}")
    if version > 1 or connectivity != _COMPRESSO_CONNECTIVITY or not 0 < window <= _COMPRESSO_WINDOW:
        _damaged(f"its header says version {version}, connectivity {connectivity}, windows of {window} voxels")
    value_width = _byte_width((1 << window) - 1)
    sections = [(width, ids), (value_width, values), (width, locations)]
    index = 2 * z * _byte_width(2 * x * y) * version  # tells where each slice begins: of no use for all of them
    rest = len(data) - _COMPRESSO_HEADER.size - index - sum(each * count for each, count in sections)
    if rest < 0 or rest % value_width:
        _damaged("its sections do not add up to its length")
    sections.append((value_width, rest // value_width))
    stream = _Compresso((steps[0], steps[1], steps[2]), *_sections(data, _COMPRESSO_HEADER.size, *sections))
    _check_windows(stream, math.prod(-(-side // step) for side, step in zip(size, steps, strict=True)))
    return stream


def _check_windows(stream: _Compresso, count: int) -> None:
    """Check that the windows are as many as there have to be, and that there is a value for each."""
    windows, runs = stream.windows >> 1, (stream.windows & 1).astype(bool)  # runs of windows of the first value
    lengths = windows[runs]
    if stream.values.size == 0 or (windows[~runs] >= stream.values.size).any():
        _damaged("a window has a value that there is not")
    if (lengths > count).any() or int(lengths.sum(dtype=np.uint64)) + windows.size - lengths.size != count:
        _damaged(f"it does not have {count} windows")


def _encode_compresso(codec: Codec, array: Array) -> bytes:
    if max(array.shape) > _COMPRESSO_LARGEST:
        message = f"{codec.place}: compresso stores at most {_COMPRESSO_LARGEST} voxels a side, got {array.shape[:3]}"
        raise ValueError(message)
    encoded: bytes = _load(codec).compress(np.array(array[..., 0], order="F"))  # it takes no read-only array
    return encoded


def _byte_width(largest: int) -> int:
    """Return the size in bytes of the smallest integer type that holds a number."""
    return next(width for width in (1, 2, 4, 8) if largest < 1 << 8 * width)


def _join(*sections: Any) -> bytes:  # noqa: ANN401  for mypy, arrays are no buffers
    """Put bytes and arrays one after the other."""
    return b"".join(sections)


def _sections(data: bytes, begin: int, *sections: tuple[int, int]) -> Iterator[Array]:
    """Cut bytes into arrays, each given by the size in bytes of its unsigned integers and their number."""
    for width, count in sections:
        yield np.frombuffer(data, f"<u{width}", count, begin)
        begin += width * count


# ------------------------------------------------------------------------------------------------------------- crackle

_CRACKLE_HEADER = struct.Struct("<4sBHIIIBI")  # of version 0
_CRACKLE_GRID = 31  # log2 of the size of the parts of a slice: each slice is one part
_CRACKLE_PERMISSIBLE = 1 << 4  # how the header says that cracks lie between equal labels, not between others
_CRACKLE_FORTRAN = 1 << 7
_CRACKLE_UINT32 = 2 | 2 << 2  # log2 of the bytes of a label, and of a stored one
_STEP_X = np.array([0, 1, 0, -1])  # up, right, down, left
_STEP_Y = np.array([-1, 0, 1, 0])
_UP, _LEFT = 0, 3


@dataclass(frozen=True, slots=True)
class _Crackle:
    """The sections of a crackle stream.

    A code for each slice draws the cracks between labels. Between cracks are the slice's components,
    numbered in the order in which a raster meets them.
    """

    permissible: bool
    codes: list[bytes]
    counts: Array
    """How many components each slice has."""

    labels: Array
    """Their labels, slice by slice."""

    checksums: list[int] | None
    """CRC-32C of the components of each slice; None in version 0, which has no checksums."""


def _decode_crackle(codec: Codec, data: bytes, size: Triple) -> Array:
    """Let the library find the components, and look up their labels here.

    Left to itself, it draws cracks outside of a slice if a code leads there, and returns memory that
    nobody wrote for a slice that it finds broken.
    """
    stream = _read_crackle(codec, data, size)
    for code in stream.codes:
        _check_cracks(code, size)
    components = _crackle_components(codec, stream, size)
    if stream.checksums is not None and stream.checksums != [_crc32c(plane.tobytes()) for plane in components]:
        _damaged("the checksum of a slice does not match")
    if (components.max(axis=(1, 2)) >= stream.counts).any():
        _damaged("it does not tell the labels of all components")
    firsts = np.cumsum(stream.counts, dtype=np.int64) - stream.counts
    labels: Array = stream.labels[components + firsts[:, np.newaxis, np.newaxis]]
    return labels.T[..., np.newaxis]


def _crc32c(data: bytes) -> int:
    value: int = importlib.import_module("google_crc32c").value(data)  # crackle requires it
    return value


def _read_crackle(codec: Codec, data: bytes, size: Triple) -> _Crackle:
    """Cut a stream into its sections and check them."""
    crackle = _load(codec)
    with _library_reads():
        header = crackle.header(data)
    x, y, z = header.sx, header.sy, header.sz
    if (x, y, z) != size or header.signed or f"uint{8 * header.data_width}" != codec.data_type:
        _damaged(f"its header says {x} x {y} x {z} voxels of {header.data_width} bytes")
    if header.label_format or header.markov_model_order or header.grid_size < max(x, y):
        _damaged("it has pins, a Markov model or parts of slices, which cloud-volume does not write")
    begin = header.header_bytes + header.grid_index_bytes
    if begin > len(data):
        _damaged("it ends too early")
    (lengths,) = _sections(data, header.header_bytes, (4, z))
    ends = list(itertools.accumulate(lengths.tolist(), initial=begin + header.num_label_bytes))
    checked = header.format_version > 0
    if ends[-1] + 4 * (z + 1) * checked != len(data):
        _damaged("its sections do not add up to its length")
    checksums = None
    if checked:
        of_labels, *checksums = np.frombuffer(data, "<u4", z + 1, ends[-1]).tolist()
        of_index = int.from_bytes(data[begin - 4 : begin], "little")
        if (of_index, of_labels) != (_crc32c(lengths.tobytes()), _crc32c(data[begin : ends[0]])):
            _damaged("the checksum of its index or its labels does not match")
    counts, labels = _crackle_labels(data[begin : ends[0]], header.stored_data_width, size)
    return _Crackle(
        permissible=bool(header.crack_format),
        codes=[data[low:high] for low, high in itertools.pairwise(ends)],
        counts=counts,
        labels=labels.astype(codec.dtype, copy=False),
        checksums=checksums,
    )


def _crackle_labels(section: bytes, width: int, size: Triple) -> tuple[Array, Array]:
    """Return how many components each slice has, and the labels of all of them.

    The section has the number of labels, the labels, the number of components of each slice, and for
    each component the index of its label.
    """
    x, y, z = size
    known = int.from_bytes(section[:8], "little")
    heads = [(width, known), (_byte_width(x * y), z)]
    begin = 8 + sum(each * count for each, count in heads)
    if not known or begin > len(section):
        _damaged("its labels end too early")
    labels, counts = _sections(section, 8, *heads)
    total = int(counts.sum(dtype=np.uint64))
    if begin + total * _byte_width(known) != len(section):
        _damaged("its labels do not add up to their length")
    (indices,) = _sections(section, begin, (_byte_width(known), total))
    if (indices >= known).any():
        _damaged("a component has a label that there is not")
    return counts.astype(np.int64), labels[indices]


def _crackle_components(codec: Codec, stream: _Crackle, size: Triple) -> Array:
    """Find the components of each slice: ``[z, y, x]``, numbered from 0 in each.

    The codes are put into a stream of version 0 where all slices share one table that labels each
    component with its number, and has one for as many as there may be.
    """
    x, y, z = size
    numbers = np.arange(x * y)
    width = _byte_width(x * y)
    table = _join(struct.pack("<Q", x * y), numbers.astype("<u4"), bytes(z * width), numbers.astype(f"<u{width}"))
    kind = _CRACKLE_UINT32 | _CRACKLE_FORTRAN | _CRACKLE_PERMISSIBLE * stream.permissible
    header = _CRACKLE_HEADER.pack(b"crkl", 0, kind, x, y, z, _CRACKLE_GRID, len(table))
    lengths = np.array([len(code) for code in stream.codes], "<u4")
    with _library_reads():
        components = _load(codec).decompress(_join(header, lengths, table, *stream.codes), parallel=1)
    return np.ascontiguousarray(components.T)


def _check_cracks(code: bytes, size: Triple) -> None:
    """Follow all cracks of a slice, and check that they stay in its inside.

    The code has chains of moves along the edges of voxels. A move back the way that the last came is
    none, but the two together say "branch" (come back here) or "end" (of this branch, or of the
    chain). Moves are in two bits, as differences from the move before.
    """
    x, y, _ = size
    nodes, begin = _crack_nodes(code, x, y)
    if not nodes:
        return
    packed = np.frombuffer(code, np.uint8, offset=begin)
    moves = np.cumsum((packed[:, np.newaxis] >> np.array([0, 2, 4, 6], np.uint8)) & 3, dtype=np.uint8) & 3
    ends, is_move = _crack_pairs(moves)
    across = np.append(0, np.cumsum(np.where(is_move, _STEP_X[moves], 0)))
    down = np.append(0, np.cumsum(np.where(is_move, _STEP_Y[moves], 0)))
    stops, origins = _crack_origins(nodes, ends.tolist(), moves[ends].tolist(), across.tolist(), down.tolist())
    count = stops[-1]
    repeats = np.diff(stops)
    moves, is_move = moves[:count], is_move[:count]
    columns, rows = across[:count] + np.repeat(origins[:, 0], repeats), down[:count] + np.repeat(origins[:, 1], repeats)
    # Between two voxels, a crack begins and ends in the slice or on its border, but does not follow the border.
    inside = np.where(moves % 2 == 0, (columns > 0) & (columns < x), (rows > 0) & (rows < y))
    for positions, largest in ((columns, x), (columns + _STEP_X[moves], x), (rows, y), (rows + _STEP_Y[moves], y)):
        inside &= (positions >= 0) & (positions <= largest)
    if not inside[is_move].all():
        _damaged("a crack leads out of its slice")


def _crack_nodes(code: bytes, x: int, y: int) -> tuple[list[tuple[int, int]], int]:
    """Return where chains begin, as (column, row) of the grid between voxels, and where their moves do.

    For each row that has any, there are its distance from the row before, and the number of columns
    with theirs from the column before.
    """
    column_width, row_width = _byte_width(x + 1), _byte_width(y + 1)
    end = 4 + int.from_bytes(code[:4], "little")
    position = 4 + row_width
    if end < position or end > len(code):
        _damaged("the code of a slice ends too early")
    nodes = []
    row = 0
    for _ in range(int.from_bytes(code[4:position], "little")):
        row += int.from_bytes(code[position : position + row_width], "little")
        position += row_width
        count = int.from_bytes(code[position : position + column_width], "little")
        position += column_width
        if position + count * column_width > end:
            _damaged("the code of a slice ends too early")
        (columns,) = _sections(code, position, (column_width, count))
        position += count * column_width
        nodes += [(column, row) for column in np.cumsum(columns, dtype=np.int64).tolist()]
    if position != end:
        _damaged("the code of a slice is longer than it says")
    return nodes, end


def _crack_pairs(moves: Array) -> tuple[Array, Array]:
    """Return the second moves of pairs that say "branch" or "end", and which moves belong to none."""
    opposite = (moves[1:] ^ moves[:-1]) == 2  # noqa: PLR2004
    index = np.arange(len(opposite))
    last_other = np.maximum.accumulate(np.where(opposite, -1, index))
    ends = np.flatnonzero(opposite & ((index - last_other) % 2 == 1)) + 1
    is_move = np.ones(len(moves), bool)
    is_move[ends] = is_move[ends - 1] = False
    return ends, is_move


def _crack_origins(
    nodes: list[tuple[int, int]], ends: list[int], moves: list[int], across: list[int], down: list[int]
) -> tuple[list[int], Array]:
    """Return where the sums of moves have to begin anew, and from what (column, row), up to the last chain's end."""
    chains = iter(nodes)
    stops = [0]
    origins = [next(chains)]
    branches: list[tuple[int, int]] = []
    for end, move in zip(ends, moves, strict=True):
        if move not in (_UP, _LEFT):
            branches.append((origins[-1][0] + across[end], origins[-1][1] + down[end]))
            continue
        stops.append(end + 1)
        node = branches.pop() if branches else next(chains, None)
        if node is None:
            return stops, np.array(origins)
        origins.append((node[0] - across[end + 1], node[1] - down[end + 1]))
    _damaged("the code of a slice ends too early")


def _encode_crackle(codec: Codec, array: Array) -> bytes:
    encoded: bytes = _load(codec).compress(np.asfortranarray(array[..., 0]), parallel=1)
    return encoded


# --------------------------------------------------------------------------------------------------- fpzip, kempressed

_FPZIP_FIELDS = (8, 8, 8, 8, 16, 8, 1, 7, 32, 32, 32, 32)  # bits: signature, version, mode, type, precision, sizes
_FPZIP_SIGNATURE = list(b"fpz\0")
_FPZIP_SHORTEST = 28  # bytes
_FPZIP_ROOM = 72  # bytes that the library's buffer has beyond the size of the values
_FPZIP_PRECISION = "fpzip_precision"
_fpzip = Sandbox("fpzip", "decompress", order="F")
"""Nothing in the data tells whether they are damaged, and the library crashes on nearly all that are."""

_KEMPRESSED_OFFSET = 2  # what cloud-volume adds to the values


def _decode_fpzip(codec: Codec, data: bytes, size: Triple) -> Array:
    return _read_fpzip(codec, data, (*size, codec.num_channels))


def _decode_kempressed(codec: Codec, data: bytes, size: Triple) -> Array:
    """Undo cloud-volume's transformation: fpzip of ``[x, y, channel, z]``, each value two larger."""
    x, y, z = size
    values = _read_fpzip(codec, data, (x, y, codec.num_channels, z))
    with np.errstate(invalid="ignore", over="ignore"):  # of what damaged data may say
        values -= values.dtype.type(_KEMPRESSED_OFFSET)
    return values.swapaxes(2, 3)


def _read_fpzip(codec: Codec, data: bytes, shape: tuple[int, ...]) -> Array:
    *signature, _, _, is_double, _, nx, ny, nz, nf = _fpzip_header(data)
    if len(data) < _FPZIP_SHORTEST or signature != _FPZIP_SIGNATURE:
        _damaged("it does not begin like fpzip")
    sizes = nx, ny, nz, nf
    found = "float64" if is_double else "float32"
    if sizes != shape or found != codec.data_type:
        _damaged(f"its header says {' x '.join(map(str, sizes))} values of {found}")
    _load(codec)
    # The library neither knows the length of the data nor heeds it; zeros do the least harm there.
    padded = data + bytes(8 * math.prod(shape))
    try:
        values = _fpzip.call(padded)
    except CrashError as exc:
        _damaged(str(exc))
    if len(values) != math.prod(shape) * codec.dtype.itemsize:
        _damaged(f"{len(values)} bytes of values were in it")
    return np.frombuffer(values, codec.dtype).reshape(shape, order="F")


def _fpzip_header(data: bytes) -> list[int]:
    """Decode the fields of a header, which are in the same range code as the values."""
    largest = 0xFFFFFFFF
    taken = iter(data[:64] + bytes(4))
    low, width, code = 0, largest, int.from_bytes(itertools.islice(taken, 4), "big")

    def take(bits: int) -> int:
        nonlocal low, width, code
        width >>= bits
        value = ((code - low) & largest) // max(width, 1)
        low = (low + width * value) & largest
        while not (low ^ (low + width) & largest) >> 24:
            code, low, width = (code << 8 | next(taken, 0)) & largest, low << 8 & largest, width << 8 & largest
        if not width >> 16:
            for _ in range(2):
                code, low = (code << 8 | next(taken, 0)) & largest, low << 8 & largest
            width = -low & largest
        return value

    return [take(16) | take(bits - 16) << 16 if bits > 16 else take(bits) for bits in _FPZIP_FIELDS]  # noqa: PLR2004


def _encode_fpzip(codec: Codec, array: Array) -> bytes:
    return _write_fpzip(codec, np.array(array, order="F"), codec.parameters[_FPZIP_PRECISION])


def _encode_kempressed(codec: Codec, array: Array) -> bytes:
    values = array.swapaxes(2, 3) + array.dtype.type(_KEMPRESSED_OFFSET)
    return _write_fpzip(codec, np.asfortranarray(values), 0)


def _write_fpzip(codec: Codec, values: Array, precision: int) -> bytes:
    """Compress an array that may be written to."""
    fpzip = _load(codec)
    try:
        # Its `compress` goes on where this gives up, in a buffer that it believes to be larger than it is.
        encoded: bytes = fpzip._try_compress(values, values.nbytes + _FPZIP_ROOM, precision, "F")  # noqa: SLF001
    except fpzip.FpzipWriteError as exc:
        message = f"{codec.place}: {codec.encoding} cannot make these values smaller; use raw"
        raise ValueError(message) from exc
    return encoded


# ---------------------------------------------------------------------------------------------------------------- zfpc

_ZFPC_HEADER = struct.Struct("<4sBB4IB")
_ZFPC_FLOAT32 = 3
_ZFP_LARGEST_RATE = 64  # bits a value
_ZFPC_LIMITS = ("zfpc_rate", "zfpc_precision", "zfpc_tolerance")
_ZFPC_CORRELATED = "zfpc_correlated_dims"


def _decode_zfpc(codec: Codec, data: bytes, size: Triple) -> Array:
    """Decode with zeros after each stream: the library does not know where a stream ends."""
    shape = (*size, codec.num_channels)
    streams, stream_shape = _read_zfpc(codec, data, shape)
    zfpc, zfpy = _load(codec), importlib.import_module("zfpy")  # zfpc is made of it
    padded = []
    for stream in streams:
        with _library_reads():
            header = zfpy.header(stream + bytes(64))
        sides = tuple(side for side in (header["nw"], header["nz"], header["ny"], header["nx"]) if side)
        if sides != stream_shape or header["type"] != np.float32:
            _damaged(f"a stream's header says {' x '.join(map(str, sides))} values")
        least = header["config"]["expert"]["minbits"]
        if least > _ZFP_LARGEST_RATE << 2 * len(stream_shape):
            _damaged(f"a stream's header says that its blocks take {least} bits")
        padded.append(stream + bytes(_zfp_room(stream_shape, least)))
    begin = _ZFPC_HEADER.size + 8 * (1 + len(padded))
    index = np.array([begin, *map(len, padded)], "<u8")
    with _library_reads():
        decoded: Array = zfpc.decompress(_join(data[: _ZFPC_HEADER.size], index, *padded))
    return decoded.reshape(shape, order="F")


def _read_zfpc(codec: Codec, data: bytes, shape: tuple[int, ...]) -> tuple[list[bytes], tuple[int, ...]]:
    """Return the zfp streams of a zfpc container, and the shape that each of them is to have."""
    if len(data) < _ZFPC_HEADER.size or data[:5] != b"zfpc\0":
        _damaged("it does not begin like zfpc")
    _, _, kind, *sides, correlated = _ZFPC_HEADER.unpack_from(data)
    if tuple(sides) != shape or kind & 7 != _ZFPC_FLOAT32 or codec.data_type != "float32":
        _damaged(f"its header says {' x '.join(map(str, sides))} values of type {kind & 7}")
    stream_shape = tuple(side for axis, side in enumerate(shape) if correlated >> axis & 1)
    count = math.prod(side for axis, side in enumerate(shape) if not correlated >> axis & 1)
    begin = _ZFPC_HEADER.size + 8 * (1 + count)
    if not stream_shape or begin > len(data):
        _damaged("its index ends too early")
    first, *lengths = np.frombuffer(data, "<u8", 1 + count, _ZFPC_HEADER.size).tolist()
    ends = list(itertools.accumulate(lengths, initial=begin))
    if first != begin or ends[-1] != len(data):
        _damaged("its streams do not add up to its length")
    return [data[low:high] for low, high in itertools.pairwise(ends)], stream_shape


def _zfp_room(shape: tuple[int, ...], least: int) -> int:
    """Return how many bytes a zfp stream may have at most, given the least number of bits of a block."""
    blocks = math.prod(-(-side // 4) for side in shape)
    values = 1 << 2 * len(shape)
    return blocks * max(least, 33 * values + 64) // 8 + 64


def _encode_zfpc(codec: Codec, array: Array) -> bytes:
    parameters = codec.parameters
    limits = {key.removeprefix("zfpc_"): parameters[key] for key in _ZFPC_LIMITS if _is_set(parameters[key])}
    encoded: bytes = _load(codec).compress(
        np.asfortranarray(array), correlated_dims=list(parameters[_ZFPC_CORRELATED]), **limits
    )
    return encoded


def _is_set(limit: float | None) -> bool:
    """Whether one of zfpc's limits is used: for cloud-volume and zfpc, a negative one is none."""
    return limit is not None and limit >= 0


def _several_limits(parameters: Mapping[str, Any]) -> str:
    given = [key for key in _ZFPC_LIMITS if _is_set(parameters[key])]
    return "" if len(given) <= 1 else f"{given[0]}: expected at most one of {', '.join(_ZFPC_LIMITS)}, got {given}"


# ----------------------------------------------------------------------------------------------------------- the table


def _is_integer(low: float, high: float, value: object) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(low: float, high: float, value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_block_size(value: object) -> bool:
    largest = (1 << 31) - 1
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_integer(1, largest, each) for each in value)  # noqa: PLR2004


def _is_precision(value: object) -> bool:
    return _is_integer(0, 0, value) or _is_integer(2, 32, value)


def _are_correlated(value: object) -> bool:
    return isinstance(value, list | tuple) and list(map(type, value)) == [bool] * _AXES and any(value)


def _integer(key: str, default: int, low: int, high: int) -> Parameter:
    return Parameter(key, default, f"an integer from {low} to {high}", functools.partial(_is_integer, low, high))


def _limit(key: str, expected: str, accepts: Callable[[Any], bool]) -> Parameter:
    """Describe one of zfpc's limits, of which none is used by default, nor if it is -1 as in cloud-volume."""
    return Parameter(key, None, f"{expected}, or -1 for none", lambda value: value == -1 or accepts(value))


ENCODINGS: Mapping[str, Encoding] = {
    row.name: row
    for row in (
        Encoding("raw", _RAW, None, _decode_raw, _encode_raw),
        Encoding(
            "jpeg",
            ("uint8",),
            (1, 3),
            _decode_jpeg,
            _encode_jpeg,
            parameters=(_integer("jpeg_quality", 85, 0, 100),),
            lossless=lambda _: False,
            mime_type="image/jpeg",
            library="imagecodecs",
        ),
        Encoding(
            "png",
            ("uint8", "uint16"),
            (1, 2, 3, 4),
            _decode_png,
            _encode_png,
            parameters=(_integer("png_level", 6, 0, 9),),
            mime_type="image/png",
            library="imagecodecs",
        ),
        Encoding(
            "jxl",
            ("uint8",),
            (1, 3, 4),
            _decode_jxl,
            _encode_jxl,
            parameters=(
                _integer("jxl_quality", 85, 0, _JXL_LOSSLESS),
                _integer("jxl_effort", 5, 1, 9),
                _integer("jxl_decodingspeed", 0, 0, 4),
            ),
            lossless=lambda parameters: bool(parameters["jxl_quality"] == _JXL_LOSSLESS),
            mime_type="image/jxl",
            library="imagecodecs",
        ),
        Encoding(
            "compressed_segmentation",
            ("uint32", "uint64"),
            None,
            _decode_compressed_segmentation,
            _encode_compressed_segmentation,
            parameters=(Parameter(_BLOCK_SIZE, [8, 8, 8], "3 positive integers", _is_block_size, required=True),),
            conflict=_too_large_blocks,
            library="compressed_segmentation",
            layer_type="segmentation",
        ),
        Encoding(
            "compresso",
            _UNSIGNED,
            (1,),
            _decode_compresso,
            _encode_compresso,
            library="compresso",
            extra="codecs",
            layer_type="segmentation",
        ),
        Encoding(
            "crackle",
            _UNSIGNED,
            (1,),
            _decode_crackle,
            _encode_crackle,
            library="crackle",
            extra="codecs",
            layer_type="segmentation",
        ),
        Encoding(
            "fpzip",
            ("float32",),
            None,
            _decode_fpzip,
            _encode_fpzip,
            parameters=(Parameter(_FPZIP_PRECISION, 0, "0 for all bits, or 2 to 32 of them", _is_precision),),
            lossless=lambda parameters: parameters[_FPZIP_PRECISION] in {0, 32},
            library="fpzip",
            extra="codecs",
        ),
        Encoding(
            "kempressed",
            ("float32",),
            None,
            _decode_kempressed,
            _encode_kempressed,
            lossless=lambda _: False,
            library="fpzip",
            extra="codecs",
        ),
        Encoding(
            "zfpc",
            ("float32",),
            None,
            _decode_zfpc,
            _encode_zfpc,
            parameters=(
                _limit("zfpc_rate", "a number of bits from 1 to 64", functools.partial(_is_number, 1, 64)),
                _limit("zfpc_precision", "a number of bits from 1 to 32", functools.partial(_is_integer, 1, 32)),
                _limit("zfpc_tolerance", "a number of at least 0", functools.partial(_is_number, 0, math.inf)),
                Parameter(_ZFPC_CORRELATED, [True, True, True, False], "4 booleans, not all false", _are_correlated),
            ),
            conflict=_several_limits,
            lossless=lambda parameters: not any(_is_set(parameters[key]) for key in _ZFPC_LIMITS),
            library="zfpc",
            extra="codecs",
        ),
    )
}
"""Each encoding of a scale that Neuroglancer, tensorstore or cloud-volume knows, by its name in `info`."""
