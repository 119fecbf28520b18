"""zfpc: floating-point numbers, within a chosen error."""

import functools
import itertools
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from precomputed_fs.codecs.chunks import AXES, Array, ChunkKind, DamagedError, join, library_reads
from precomputed_fs.codecs.encoding import Encoding, Parameter, is_integer
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk

_HEADER = struct.Struct("<4sBB4IB")
_FLOAT32 = 3
_LARGEST_RATE = 64  # bits a value
_LIMITS = ("zfpc_rate", "zfpc_precision", "zfpc_tolerance")
_STREAM_BYTES = 100  # of a zfp stream: its entry in the index, its header, and padding to a whole word
_CORRELATED = "zfpc_correlated_dims"


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    """Decode with zeros after each stream: the library does not know where a stream ends."""
    import zfpc
    import zfpy  # zfpc requires it

    shape = (*size, kind.num_channels)
    streams, stream_shape = _read(kind, data, shape)
    padded = []
    for stream in streams:
        with library_reads():
            header = zfpy.header(stream + bytes(64))
        sides = tuple(side for side in (header["nw"], header["nz"], header["ny"], header["nx"]) if side)
        if sides != stream_shape or header["type"] != np.float32:
            raise DamagedError(f"a stream's header says {' x '.join(map(str, sides))} values")
        least = header["config"]["expert"]["minbits"]
        if least > _LARGEST_RATE << 2 * len(stream_shape):
            raise DamagedError(f"a stream's header says that its blocks take {least} bits")
        padded.append(stream + bytes(_room(stream_shape, least)))
    begin = _HEADER.size + 8 * (1 + len(padded))
    index = np.array([begin, *map(len, padded)], "<u8")
    with library_reads():
        decoded: Array = zfpc.decompress(join(data[: _HEADER.size], index, *padded))
    return decoded.reshape(shape, order="F")


def _read(kind: ChunkKind, data: bytes, shape: tuple[int, ...]) -> tuple[list[bytes], tuple[int, ...]]:
    """Return the zfp streams of a zfpc container, and the shape that each of them must have."""
    if len(data) < _HEADER.size or data[:5] != b"zfpc\0":
        raise DamagedError("it does not begin like zfpc")
    _, _, stored, *sides, correlated = _HEADER.unpack_from(data)
    if tuple(sides) != shape or stored & 7 != _FLOAT32 or kind.data_type != "float32":
        raise DamagedError(f"its header says {' x '.join(map(str, sides))} values of type {stored & 7}")
    stream_shape = tuple(side for axis, side in enumerate(shape) if correlated >> axis & 1)
    count = math.prod(side for axis, side in enumerate(shape) if not correlated >> axis & 1)
    begin = _HEADER.size + 8 * (1 + count)
    if not stream_shape or begin > len(data):
        raise DamagedError("its index ends too early")
    first, *lengths = np.frombuffer(data, "<u8", 1 + count, _HEADER.size).tolist()
    ends = list(itertools.accumulate(lengths, initial=begin))
    if first != begin or ends[-1] != len(data):
        raise DamagedError("its streams do not add up to its length")
    return [data[low:high] for low, high in itertools.pairwise(ends)], stream_shape


def _room(shape: tuple[int, ...], least: int) -> int:
    """Return the most bytes that a zfp stream may have, given the least number of bits of a block."""
    blocks = math.prod(-(-side // 4) for side in shape)
    values = 1 << 2 * len(shape)
    return blocks * max(least, 33 * values + 64) // 8 + 64


def _encode(kind: ChunkKind, array: Array) -> bytes:
    import zfpc

    parameters = kind.parameters
    limits = {key.removeprefix("zfpc_"): parameters[key] for key in _LIMITS if _is_set(parameters[key])}
    encoded: bytes = zfpc.compress(np.asfortranarray(array), correlated_dims=list(parameters[_CORRELATED]), **limits)
    return encoded


def _is_set(limit: float | None) -> bool:
    """Whether one of zfpc's limits is used: to cloud-volume and zfpc, a negative one means none."""
    return limit is not None and limit >= 0


def _several_limits(parameters: Mapping[str, Any]) -> str:
    given = [key for key in _LIMITS if _is_set(parameters[key])]
    return "" if len(given) <= 1 else f"{given[0]}: expected at most one of {', '.join(_LIMITS)}, got {given}"


def _is_number(low: float, high: float, value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _are_correlated(value: object) -> bool:
    return isinstance(value, list | tuple) and list(map(type, value)) == [bool] * AXES and any(value)


def _limit(key: str, expected: str, accepts: Callable[[Any], bool]) -> Parameter:
    """Describe one of zfpc's limits, none of which is used by default, nor if it is -1, as in cloud-volume."""
    return Parameter(key, None, f"{expected}, or -1 for none", lambda value: value == -1 or accepts(value))


def _largest(chunk: Chunk) -> int:
    """Allow 64 bits and the header of a block per value of whole blocks, and a stream per value."""
    padded = math.prod(4 * -(-side // 4) for side in (*chunk.size, chunk.channels))
    return 9 * padded + _STREAM_BYTES * chunk.values


ZFPC = Encoding(
    "zfpc",
    ("float32",),
    None,
    _decode,
    _encode,
    _largest,
    parameters=(
        _limit("zfpc_rate", "a number of bits from 1 to 64", functools.partial(_is_number, 1, 64)),
        _limit("zfpc_precision", "a number of bits from 1 to 32", functools.partial(is_integer, 1, 32)),
        _limit("zfpc_tolerance", "a number of at least 0", functools.partial(_is_number, 0, math.inf)),
        Parameter(_CORRELATED, [True, True, True, False], "4 booleans, not all false", _are_correlated),
    ),
    conflict=_several_limits,
    lossless=lambda parameters: not any(_is_set(parameters[key]) for key in _LIMITS),
    library="zfpc",
    extra="codecs",
)
