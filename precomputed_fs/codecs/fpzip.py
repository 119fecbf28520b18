"""fpzip, and kempressed, which is cloud-volume's variant of it: floating-point numbers."""

import itertools
import math

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, UnstorableError
from precomputed_fs.codecs.encoding import Encoding, Parameter, is_integer
from precomputed_fs.codecs.sandbox import CrashError, Sandbox
from precomputed_fs.format.grid import Triple

_FIELDS = (8, 8, 8, 8, 16, 8, 1, 7, 32, 32, 32, 32)  # bits: signature, version, mode, type, precision, sizes
_SIGNATURE = list(b"fpz\0")
_SHORTEST = 28  # bytes
_ROOM = 72  # bytes that the library's buffer has beyond the size of the values
_PRECISION = "fpzip_precision"
_SANDBOX = Sandbox("fpzip", "decompress", order="F")
"""The data have no checksum, and the library crashes on nearly all that are damaged."""

_KEMPRESSED_OFFSET = 2  # is added to the values by cloud-volume


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    return _read(kind, data, (*size, kind.num_channels))


def _decode_kempressed(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    """Undo cloud-volume's transformation: fpzip of ``[x, y, channel, z]``, with 2 added to each value."""
    x, y, z = size
    values = _read(kind, data, (x, y, kind.num_channels, z))
    with np.errstate(invalid="ignore", over="ignore"):  # damaged data may hold any number
        values -= values.dtype.type(_KEMPRESSED_OFFSET)
    return values.swapaxes(2, 3)


def _read(kind: ChunkKind, data: bytes, shape: tuple[int, ...]) -> Array:
    import fpzip  # noqa: F401 - a missing library is not for the child process to report

    *signature, _, _, is_double, _, nx, ny, nz, nf = _header(data)
    if len(data) < _SHORTEST or signature != _SIGNATURE:
        raise DamagedError("it does not begin like fpzip")
    sizes = nx, ny, nz, nf
    found = "float64" if is_double else "float32"
    if sizes != shape or found != kind.data_type:
        raise DamagedError(f"its header says {' x '.join(map(str, sizes))} values of {found}")
    # The library reads beyond the end of the data; zeros do the least harm there.
    padded = data + bytes(8 * math.prod(shape))
    try:
        values = _SANDBOX.call(padded)
    except CrashError as exc:
        raise DamagedError(str(exc)) from exc
    if len(values) != math.prod(shape) * kind.dtype.itemsize:
        raise DamagedError(f"it holds {len(values)} bytes of values")
    return np.frombuffer(values, kind.dtype).reshape(shape, order="F")


def _header(data: bytes) -> list[int]:
    """Decode the fields of a header, which share the range code of the values."""
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

    return [take(16) | take(bits - 16) << 16 if bits > 16 else take(bits) for bits in _FIELDS]  # noqa: PLR2004


def _encode(kind: ChunkKind, array: Array) -> bytes:
    return _write(np.array(array, order="F"), kind.parameters[_PRECISION])


def _encode_kempressed(_: ChunkKind, array: Array) -> bytes:
    values = array.swapaxes(2, 3) + array.dtype.type(_KEMPRESSED_OFFSET)
    return _write(np.asfortranarray(values), 0)


def _write(values: Array, precision: int) -> bytes:
    """Compress a writeable array."""
    import fpzip

    try:
        # Where this gives up, its `compress` goes on in a buffer that is smaller than it believes.
        encoded: bytes = fpzip._try_compress(values, values.nbytes + _ROOM, precision, "F")  # noqa: SLF001
    except fpzip.FpzipWriteError as exc:
        message = "fpzip cannot make these values smaller; use raw"
        raise UnstorableError(message) from exc
    return encoded


def _is_precision(value: object) -> bool:
    return is_integer(0, 0, value) or is_integer(2, 32, value)


FPZIP = Encoding(
    "fpzip",
    ("float32",),
    None,
    _decode,
    _encode,
    lambda chunk: 2 * chunk.raw_bytes,
    parameters=(Parameter(_PRECISION, 0, "0 for all bits, or 2 to 32 of them", _is_precision),),
    lossless=lambda parameters: parameters[_PRECISION] in {0, 32},
    library="fpzip",
    extra="codecs",
)

KEMPRESSED = Encoding(
    "kempressed",
    ("float32",),
    None,
    _decode_kempressed,
    _encode_kempressed,
    lambda chunk: 2 * chunk.raw_bytes,
    lossless=lambda _: False,
    library="fpzip",
    extra="codecs",
)
