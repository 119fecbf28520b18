"""How shards are laid out: where a chunk is, what the indexes say, which ranges to read.

Facts from the specification of ``neuroglancer_uint64_sharded_v1``. A shard file begins with the shard
index, 2**minishard_bits pairs (start, end) of little-endian uint64 that locate the minishard indexes;
a minishard index is a C-order [3, n] array of uint64: chunk ids (delta-coded), offsets (each from the
end of the chunk before), sizes. All offsets count from the end of the shard index.

This module is pure: it reads and writes bytes in memory, and plans; others do the input and output.
"""

import bisect
import heapq
import operator
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, NamedTuple

from precomputed_fs.compression import MAX_DECODED_SIZE, decode_gzip_or_zlib, stored_limit
from precomputed_fs.errors import CorruptDataError, InvalidInfoError

SHARDING_TYPE = "neuroglancer_uint64_sharded_v1"

_UINT64 = (1 << 64) - 1
_UINT32 = (1 << 32) - 1
_LARGEST_OFFSET = 1 << 62
_PAIR = struct.Struct("<QQ")
_ROW_BYTES = 24  # of one chunk in a minishard index: id, offset, size
_HASHES = ("identity", "murmurhash3_x86_128")
_ENCODINGS = ("raw", "gzip")
_RUN = 1 << 15  # ids that are sorted at once
_MOST_BITS = 64
_MOST_MINISHARD_BITS = 32
_PROPOSED_PRESHIFT = 9
ENTRY_BYTES = _PAIR.size
"""Of a minishard in the shard index."""

MAX_INDEX_BYTES = 16 << 20
"""Bytes that a minishard index may take (16 MiB): 700,000 chunks, where 512 are usual."""

PAGE_ENTRIES = 4096
"""Entries of the shard index that are read at once (64 KiB): nearly always all there are."""


class ByteRange(NamedTuple):
    """Bytes ``start`` up to ``end`` of a file."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sharding:
    """A scale's ``sharding``, as the specification names its members."""

    preshift_bits: int
    hash: str
    minishard_bits: int
    shard_bits: int
    minishard_index_encoding: str = "raw"
    data_encoding: str = "raw"

    scale_chunks: int = field(default=1 << _MOST_BITS, compare=False)
    """How many chunk ids the scale has, which no index can have more of; not a member of ``sharding``."""

    largest_chunk: int = field(default=MAX_DECODED_SIZE, compare=False)
    """How many bytes a chunk of the scale can take in a shard; not a member of ``sharding``."""

    @classmethod
    def from_info(cls, given: Mapping[str, Any], place: str = "sharding") -> "Sharding":
        """Read the member ``sharding`` of a scale.

        Raises
        ------
        InvalidInfoError
            If a member is missing or cannot be; the message begins with its place.
        """
        if not isinstance(given, Mapping):
            message = f"{place}: expected an object, got {given!r}"
            raise InvalidInfoError(message)
        if given.get("@type") != SHARDING_TYPE:
            message = f"{place}.@type: expected {SHARDING_TYPE!r}, got {given.get('@type')!r}"
            raise InvalidInfoError(message)
        bits = {
            name: _bits(given, place, name, most)
            for name, most in (
                ("preshift_bits", _MOST_BITS),
                ("minishard_bits", _MOST_MINISHARD_BITS),
                ("shard_bits", _MOST_BITS),
            )
        }
        if bits["minishard_bits"] + bits["shard_bits"] > _MOST_BITS:
            message = f"{place}: expected minishard_bits + shard_bits <= 64, got {given!r}"
            raise InvalidInfoError(message)
        return cls(
            hash=_choice(given, place, "hash", _HASHES, None),
            minishard_index_encoding=_choice(given, place, "minishard_index_encoding", _ENCODINGS, "raw"),
            data_encoding=_choice(given, place, "data_encoding", _ENCODINGS, "raw"),
            **bits,
        )

    @property
    def index_size(self) -> int:
        """Bytes of the shard index, at the beginning of each shard."""
        return _PAIR.size << self.minishard_bits

    def to_info(self) -> dict[str, Any]:
        """Return what to put into a scale's ``sharding``."""
        return {
            "@type": SHARDING_TYPE,
            "preshift_bits": self.preshift_bits,
            "hash": self.hash,
            "minishard_bits": self.minishard_bits,
            "shard_bits": self.shard_bits,
            "minishard_index_encoding": self.minishard_index_encoding,
            "data_encoding": self.data_encoding,
        }

    @property
    def largest_index(self) -> int:
        """Bytes that a minishard index may take when decoded.

        The ids of a scale spread over its minishards in groups that the shift makes, by a hash at random: eight
        times the average, and 128 groups, is more than that ever gives one.
        """
        groups = -(-self.scale_chunks >> self.preshift_bits)
        average = groups >> (self.minishard_bits + self.shard_bits)
        chunks = min(self.scale_chunks, (8 * average + 128) << self.preshift_bits)
        return min(MAX_INDEX_BYTES, _ROW_BYTES * chunks)

    def locate(self, chunk_id: int) -> tuple[int, int]:
        """Return the shard and, within it, the minishard that a chunk belongs to."""
        hashed = chunk_id >> self.preshift_bits
        if self.hash == "murmurhash3_x86_128":
            hashed = murmurhash3_x86_128_low64(hashed)
        minishard = hashed & ((1 << self.minishard_bits) - 1)
        shard = hashed >> self.minishard_bits & ((1 << self.shard_bits) - 1)
        return shard, minishard

    def shard_name(self, shard: int) -> str:
        """Return a shard's name below the scale's key, without its extension.

        Examples
        --------
        >>> Sharding(0, "identity", 2, 9).shard_name(255)
        '0ff'
        """
        return f"{shard:0{max(1, -(-self.shard_bits // 4))}x}"


def propose_sharding(
    grid_shape: tuple[int, int, int],
    chunk_bytes: int,
    *,
    shard_bytes: int = 512 << 20,
    data_encoding: str = "gzip",
) -> Sharding:
    """Propose a sharding for a scale.

    Chunk ids are Morton codes: chunks whose ids agree but for some low bits lie in a cube. With the
    hash "identity" each level is therefore a block of the volume, which is what readers and writers
    go through:

    - A minishard has up to 512 chunks (8 x 8 x 8). Its index, raw 12 KiB and less than half of it in
      gzip, is one request of the size of a small chunk.
    - A shard has as many minishards as fit `shard_bytes`: large enough for few objects, small enough
      to be merged when a chunk is rewritten, and to be written by one task.
    - The remaining bits number the shards: there are 2**shard_bits objects at most.

    Parameters
    ----------
    grid_shape : tuple of int
        Chunks along x, y and z; see `ChunkGrid.shape`.
    chunk_bytes : int
        How many bytes a chunk takes on average when it is stored.
    shard_bytes : int
        The size of a shard to aim for; the proposal is at most that, by less than half.
    data_encoding : str
        "gzip", or "raw" for chunks that are compressed already (JPEG, PNG).

    Raises
    ------
    ValueError
        If the chunks cannot be numbered with 64 bits.

    Examples
    --------
    >>> proposed = propose_sharding((313, 313, 110), chunk_bytes=128 << 10)
    >>> proposed.preshift_bits, proposed.minishard_bits, proposed.shard_bits
    (9, 3, 13)
    """
    id_bits = sum((count - 1).bit_length() for count in grid_shape)
    if id_bits > _MOST_BITS:
        message = f"a grid of {grid_shape} chunks needs {id_bits} bits to number its chunks; shards have 64"
        raise ValueError(message)
    in_shard = min(id_bits, max(0, (max(1, shard_bytes // max(1, chunk_bytes))).bit_length() - 1))
    preshift = min(_PROPOSED_PRESHIFT, in_shard)
    return Sharding(
        preshift_bits=preshift,
        hash="identity",
        minishard_bits=in_shard - preshift,
        shard_bits=id_bits - in_shard,
        minishard_index_encoding="gzip",
        data_encoding=data_encoding,
    )


def _bits(given: Mapping[str, Any], place: str, name: str, most: int) -> int:
    value = given.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        message = f"{place}.{name}: expected an integer from 0 to {most}, got {value!r:.80}"
        raise InvalidInfoError(message)
    return value


def _choice(given: Mapping[str, Any], place: str, name: str, known: tuple[str, ...], default: str | None) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or value.lower() not in known:
        message = f"{place}.{name}: expected one of {', '.join(known)}, got {value!r:.80}"
        raise InvalidInfoError(message)
    return value.lower()


def murmurhash3_x86_128_low64(value: int) -> int:
    """Hash the 8 little-endian bytes of a value with seed 0; the low 64 of the 128 bits.

    Examples
    --------
    >>> hex(murmurhash3_x86_128_low64(0))
    '0x4772b084e028ae41'
    """
    k1, k2 = value & _UINT32, value >> 32 & _UINT32
    h1 = _multiply(_rotate(_multiply(k1, 0x239B961B), 15), 0xAB0E9789)
    h2 = _multiply(_rotate(_multiply(k2, 0xAB0E9789), 16), 0x38B34AE5)
    h1, h2, h3, h4 = h1 ^ 8, h2 ^ 8, 8, 8  # 8 is the length in bytes
    h1 = h1 + h2 + h3 + h4 & _UINT32
    h2, h3, h4 = h2 + h1 & _UINT32, h3 + h1 & _UINT32, h4 + h1 & _UINT32
    h1, h2, h3, h4 = _mix(h1), _mix(h2), _mix(h3), _mix(h4)
    h1 = h1 + h2 + h3 + h4 & _UINT32
    return h1 | (h2 + h1 & _UINT32) << 32


def _multiply(a: int, b: int) -> int:
    return a * b & _UINT32


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _UINT32


def _mix(value: int) -> int:
    value = _multiply(value ^ value >> 16, 0x85EBCA6B)
    value = _multiply(value ^ value >> 13, 0xC2B2AE35)
    return value ^ value >> 16


# ------------------------------------------------------------------------------- the indexes


def page_of(minishard: int, sharding: Sharding) -> ByteRange:
    """Return the bytes of the shard index to read for a minishard's entry and those around it."""
    first = minishard - minishard % PAGE_ENTRIES
    end = min(first + PAGE_ENTRIES, 1 << sharding.minishard_bits)
    return ByteRange(first * _PAIR.size, end * _PAIR.size)


def minishard_index_range(page: bytes, minishard: int, sharding: Sharding) -> ByteRange | None:
    """Return where in the shard a minishard's index is; None if the minishard is empty.

    Parameters
    ----------
    page : bytes
        The part of the shard index that `page_of` names.

    Raises
    ------
    CorruptDataError
        If the entry ends before it starts, or is no whole number of rows long where it is raw.
    """
    start, end = _PAIR.unpack_from(page, minishard % PAGE_ENTRIES * _PAIR.size)
    if start == end:
        return None
    if start > end or end > _LARGEST_OFFSET:
        message = f"the shard index places the index of minishard {minishard} at {start} to {end}"
        raise CorruptDataError(message)
    largest = sharding.largest_index
    if sharding.minishard_index_encoding == "gzip":
        largest = stored_limit(largest)
    if end - start > largest:
        message = f"the index of minishard {minishard} would take {end - start} bytes"
        raise CorruptDataError(message)
    if sharding.minishard_index_encoding == "raw" and (end - start) % _ROW_BYTES:
        message = f"the raw index of minishard {minishard} takes {end - start} bytes, not a multiple of {_ROW_BYTES}"
        raise CorruptDataError(message)
    return ByteRange(start, end)


class MinishardIndex:
    """Where the chunks of one minishard are.

    Offsets count from the end of the shard index, as in the file. It takes 24 bytes a chunk.
    """

    __slots__ = ("_ends", "_ids", "_starts")

    def __init__(self, ids: "array[int]", starts: "array[int]", ends: "array[int]") -> None:
        self._ids = ids
        self._starts = starts
        self._ends = ends

    @classmethod
    def from_bytes(cls, stored: bytes, encoding: str, limit: int = MAX_INDEX_BYTES) -> "MinishardIndex":
        """Read an index as it is stored, of at most `limit` bytes when decoded.

        Raises
        ------
        CorruptDataError
            If it does not decode, is not made of whole rows, overflows, or has an id twice.
        """
        data = decode_gzip_or_zlib(stored, limit) if encoding == "gzip" else stored
        if len(data) % _ROW_BYTES:
            message = f"a minishard index of {len(data)} bytes is not a multiple of {_ROW_BYTES}"
            raise CorruptDataError(message)
        count = len(data) // _ROW_BYTES
        numbers = memoryview(_native(data)).cast("Q")
        deltas, gaps, sizes = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
        # Deltas are modulo 2**64: neither ids nor offsets need ascend.
        ids = array("Q", [total & _UINT64 for total in accumulate(deltas)])
        ends = array("Q", [total & _UINT64 for total in accumulate(map(operator.add, gaps, sizes))])
        if any(map(operator.lt, ends, sizes)) or max(ends, default=0) > _LARGEST_OFFSET:
            message = "a minishard index places a chunk where no file can be"
            raise CorruptDataError(message)
        starts = array("Q", list(map(operator.sub, ends, sizes)))
        if any(map(operator.ge, ids, islice(ids, 1, None))):
            order = _order(ids)
            ids, starts, ends = (array("Q", map(column.__getitem__, order)) for column in (ids, starts, ends))
            if any(map(operator.eq, ids, islice(ids, 1, None))):
                message = "a minishard index has the same chunk twice"
                raise CorruptDataError(message)
        return cls(ids, starts, ends)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes."""
        return _ROW_BYTES * len(self._ids) + 256

    def __iter__(self) -> Iterator["Wanted"]:
        """Go through the chunks that are there, by ascending ids."""
        rows = zip(self._ids, self._starts, self._ends, strict=True)
        return (Wanted(chunk_id, start, end) for chunk_id, start, end in rows if start != end)

    def find(self, chunk_id: int) -> ByteRange | None:
        """Return where a chunk is; None if it is absent, which a size of zero means too."""
        i = bisect.bisect_left(self._ids, chunk_id)
        if i == len(self._ids) or self._ids[i] != chunk_id or self._starts[i] == self._ends[i]:
            return None
        return ByteRange(self._starts[i], self._ends[i])


def _native(data: bytes) -> bytes:
    """Return little-endian 64-bit integers in this machine's byte order."""
    if sys.byteorder == "little":
        return data
    numbers = array("Q", data)
    numbers.byteswap()
    return numbers.tobytes()


def _order(ids: "array[int]") -> "array[int]":
    """Return the places of ids in ascending order; sorted in runs, as Python's integers take five times the memory."""
    runs = (range(begin, min(begin + _RUN, len(ids))) for begin in range(0, len(ids), _RUN))
    key = ids.__getitem__
    return array("Q", heapq.merge(*(array("Q", sorted(run, key=key)) for run in runs), key=key))


# ---------------------------------------------------------------------------------- packing


def pack_minishard_index(chunks: Sequence["Wanted"]) -> bytes:
    """Write a minishard index.

    Parameters
    ----------
    chunks : sequence of Wanted
        Ids and offsets from the end of the shard index; in ascending order of both, which gives the
        smallest deltas.
    """
    ids = [chunk.chunk_id for chunk in chunks]
    ends = [0, *(chunk.end for chunk in chunks)]
    columns = array("Q", map(operator.sub, ids, [0, *ids]))
    columns.extend(chunk.start - end for chunk, end in zip(chunks, ends, strict=False))
    columns.extend(chunk.end - chunk.start for chunk in chunks)
    if sys.byteorder == "big":
        columns.byteswap()
    return columns.tobytes()


def pack_shard_index(places: Mapping[int, ByteRange], sharding: Sharding) -> bytes:
    """Write a shard index: where the index of each minishard is, and nothing for empty ones."""
    packed = bytearray(sharding.index_size)
    for minishard, place in places.items():
        _PAIR.pack_into(packed, minishard * _PAIR.size, place.start, place.end)
    return bytes(packed)


# --------------------------------------------------------------------------------- planning


class Wanted(NamedTuple):
    """A chunk in a shard, and where it is; or, by its minishard, an index. Offsets from the beginning of the file."""

    chunk_id: int
    start: int
    end: int


class Read(NamedTuple):
    """One range to read, and the chunks that are in it."""

    start: int
    end: int
    chunks: tuple[Wanted, ...]


def plan_reads(wanted: Iterable[Wanted], *, gap: int, size: int) -> list[Read]:
    """Join chunks that lie together in a shard into ranges to be read at once.

    Parameters
    ----------
    wanted : iterable of Wanted
        Chunks of one file.
    gap : int
        Bytes between two chunks that may be read in vain to save a request.
    size : int
        Bytes beyond which no range grows by joining; a longer chunk is read alone.

    Examples
    --------
    >>> near, far = Wanted(1, 0, 10), Wanted(2, 12, 20)
    >>> [(read.start, read.end) for read in plan_reads([far, near], gap=2, size=100)]
    [(0, 20)]
    >>> [(read.start, read.end) for read in plan_reads([far, near], gap=1, size=100)]
    [(0, 10), (12, 20)]
    """
    reads: list[Read] = []
    for chunk in sorted(wanted, key=lambda chunk: (chunk.start, chunk.end)):
        last = reads[-1] if reads else None
        if last is not None and chunk.start - last.end <= gap and max(last.end, chunk.end) - last.start <= size:
            reads[-1] = Read(last.start, max(last.end, chunk.end), (*last.chunks, chunk))
        else:
            reads.append(Read(chunk.start, chunk.end, (chunk,)))
    return reads
