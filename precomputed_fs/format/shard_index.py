"""The indexes of a shard: reading and packing them, and planning which ranges of the shard to read.

Facts are from the specification of ``neuroglancer_uint64_sharded_v1``. A shard file begins with the shard
index, 2**minishard_bits pairs (start, end) of little-endian uint64 that locate the minishard indexes;
a minishard index is a C-order [3, n] array of uint64: chunk ids (delta-coded), offsets (each from the
end of the chunk before), sizes. All offsets count from the end of the shard index.
"""

import bisect
import heapq
import operator
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.compression import decode_gzip_or_zlib, stored_limit
from precomputed_fs.format.sharding import ENTRY_BYTES, MAX_INDEX_BYTES, ROW_BYTES, Sharding

_UINT64 = (1 << 64) - 1
_LARGEST_OFFSET = 1 << 62
_PAIR = struct.Struct("<QQ")
_RUN = 1 << 15  # ids sorted at once

PAGE_ENTRIES = 4096
"""Entries of the shard index that are read at once (64 KiB): nearly always all of them."""


class Entry(NamedTuple):
    """What a shard has for an id: a value, and the bytes right before it that belong to it: see `Sharding.lead`."""

    data: bytes
    lead: int = 0
    """How many of the bytes stand before the value."""

    @property
    def value(self) -> bytes:
        """The value alone, as stored."""
        return self.data[self.lead :]


class ByteRange(NamedTuple):
    """The bytes of a file from ``start`` up to ``end``."""

    start: int
    end: int


def page_of(minishard: int, sharding: Sharding) -> ByteRange:
    """Return the range of the shard index that has a minishard's entry and those around it."""
    first = minishard - minishard % PAGE_ENTRIES
    end = min(first + PAGE_ENTRIES, 1 << sharding.minishard_bits)
    return ByteRange(first * ENTRY_BYTES, end * ENTRY_BYTES)


def minishard_index_range(page: bytes, minishard: int, sharding: Sharding) -> ByteRange | None:
    """Return the range of a minishard's index in the shard; None if the minishard is empty.

    Parameters
    ----------
    page : bytes
        The range of the shard index that `page_of` returns.

    Raises
    ------
    CorruptDataError
        If the range is impossible: reversed, too long, or raw and not of whole rows.
    """
    start, end = _PAIR.unpack_from(page, minishard % PAGE_ENTRIES * ENTRY_BYTES)
    if start == end:
        return None
    if start > end or end > _LARGEST_OFFSET:
        raise CorruptDataError(f"the shard index places the index of minishard {minishard} at {start} to {end}")
    largest = sharding.largest_index
    if sharding.minishard_index_encoding == "gzip":
        largest = stored_limit(largest)
    if end - start > largest:
        raise CorruptDataError(f"the index of minishard {minishard} would take {end - start} bytes")
    if sharding.minishard_index_encoding == "raw" and (end - start) % ROW_BYTES:
        raise CorruptDataError(
            f"the raw index of minishard {minishard} takes {end - start} bytes, not a multiple of {ROW_BYTES}"
        )
    return ByteRange(start, end)


class MinishardIndex:
    """Where the chunks of one minishard are.

    Offsets count from the end of the shard index, as in the file. An index takes 24 bytes per chunk.
    """

    __slots__ = ("_ends", "_ids", "_starts")

    def __init__(self, ids: "array[int]", starts: "array[int]", ends: "array[int]") -> None:
        self._ids = ids
        self._starts = starts
        self._ends = ends

    @classmethod
    def from_bytes(cls, stored: bytes, encoding: str, limit: int = MAX_INDEX_BYTES) -> "MinishardIndex":
        """Read a stored index, of at most `limit` bytes when decoded.

        Raises
        ------
        CorruptDataError
            If it does not decode, does not consist of whole rows, overflows, or has an id twice.
        """
        data = decode_gzip_or_zlib(stored, limit) if encoding == "gzip" else stored
        if len(data) % ROW_BYTES:
            raise CorruptDataError(f"a minishard index of {len(data)} bytes is not a multiple of {ROW_BYTES}")
        count = len(data) // ROW_BYTES
        numbers = memoryview(_native(data)).cast("Q")
        deltas, gaps, sizes = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
        # Deltas are modulo 2**64: neither ids nor offsets have to ascend.
        ids = array("Q", [total & _UINT64 for total in accumulate(deltas)])
        ends = array("Q", [total & _UINT64 for total in accumulate(map(operator.add, gaps, sizes))])
        if any(map(operator.lt, ends, sizes)) or max(ends, default=0) > _LARGEST_OFFSET:
            raise CorruptDataError("a minishard index places a chunk where no file can be")
        starts = array("Q", list(map(operator.sub, ends, sizes)))
        if any(map(operator.ge, ids, islice(ids, 1, None))):
            order = _order(ids)
            ids, starts, ends = (array("Q", map(column.__getitem__, order)) for column in (ids, starts, ends))
            if any(map(operator.eq, ids, islice(ids, 1, None))):
                raise CorruptDataError("a minishard index has the same chunk twice")
        return cls(ids, starts, ends)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return ROW_BYTES * len(self._ids) + 256

    def __iter__(self) -> Iterator["Wanted"]:
        """Yield the chunks that are present, by ascending ids."""
        rows = zip(self._ids, self._starts, self._ends, strict=True)
        return (Wanted(chunk_id, start, end) for chunk_id, start, end in rows if start != end)

    def find(self, chunk_id: int) -> ByteRange | None:
        """Return the range of a chunk; None if it is absent, or of size zero, which means absent."""
        i = bisect.bisect_left(self._ids, chunk_id)
        if i == len(self._ids) or self._ids[i] != chunk_id or self._starts[i] == self._ends[i]:
            return None
        return ByteRange(self._starts[i], self._ends[i])


def _native(data: bytes) -> bytes:
    """Convert little-endian 64-bit integers to this machine's byte order."""
    if sys.byteorder == "little":
        return data
    numbers = array("Q", data)
    numbers.byteswap()
    return numbers.tobytes()


def _order(ids: "array[int]") -> "array[int]":
    """Return the order of ids; sorted in runs, as a list of Python's integers takes five times the memory."""
    runs = (range(begin, min(begin + _RUN, len(ids))) for begin in range(0, len(ids), _RUN))
    key = ids.__getitem__
    return array("Q", heapq.merge(*(array("Q", sorted(run, key=key)) for run in runs), key=key))


# ---------------------------------------------------------------------------------- packing


def pack_minishard_index(chunks: Sequence["Wanted"]) -> bytes:
    """Write a minishard index.

    Parameters
    ----------
    chunks : sequence of Wanted
        With offsets from the end of the shard index. Ascending ids and offsets give the smallest deltas.
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
    """Write a shard index: the ranges of minishard indexes, without those of empty minishards."""
    packed = bytearray(sharding.index_size)
    for minishard, place in places.items():
        _PAIR.pack_into(packed, minishard * ENTRY_BYTES, place.start, place.end)
    return bytes(packed)


# --------------------------------------------------------------------------------- planning


class Wanted(NamedTuple):
    """A chunk and its range in the file; or a minishard index, with the number of the minishard as the id."""

    chunk_id: int
    start: int
    end: int


class Read(NamedTuple):
    """One range to read, and the chunks in it."""

    start: int
    end: int
    chunks: tuple[Wanted, ...]


def plan_reads(wanted: Iterable[Wanted], *, gap: int, size: int) -> list[Read]:
    """Join chunks that are close to each other in a shard into ranges to read at once.

    Parameters
    ----------
    wanted : iterable of Wanted
        Chunks of one file.
    gap : int
        The most bytes between two chunks to read needlessly, to save a request.
    size : int
        The most bytes of a joined range; a longer chunk is read alone.

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
