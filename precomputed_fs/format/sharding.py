"""Which shard and minishard a chunk is in: the member `sharding` of a scale.

Facts are from the specification of ``neuroglancer_uint64_sharded_v1``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.compression import MAX_DECODED_SIZE, decode_gzip_or_zlib
from precomputed_fs.format.grid import check_id_bits, id_bits

SHARDING_TYPE = "neuroglancer_uint64_sharded_v1"

_UINT32 = (1 << 32) - 1
_HASHES = ("identity", "murmurhash3_x86_128")
_ENCODINGS = ("raw", "gzip")
_MOST_BITS = 64
_MOST_MINISHARD_BITS = 32
_PROPOSED_PRESHIFT = 9
ENTRY_BYTES = 16
"""Bytes per minishard in the shard index."""

ROW_BYTES = 24
"""Bytes per chunk in a minishard index: id, offset, size."""

MAX_INDEX_BYTES = 16 << 20
"""The most bytes of a minishard index (16 MiB): 700,000 chunks, where 512 are common."""


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
    """Number of chunk ids of the scale, the most that an index can list; not a member of ``sharding``."""

    largest_chunk: int = field(default=MAX_DECODED_SIZE, compare=False)
    """The most bytes of a chunk in a shard; not a member of ``sharding``."""

    lead: Callable[[bytes], int] | None = field(default=None, compare=False)
    """How many bytes stand right before a value in its shard and belong to it, as the fragments of a mesh do, by what
    the decoded value says; None if there are none. Not a member of ``sharding``."""

    @classmethod
    def from_info(cls, given: Mapping[str, Any], place: str = "sharding") -> "Sharding":
        """Read the member ``sharding`` of a scale.

        Raises
        ------
        InvalidInfoError
            If a member is missing or invalid; the message begins with its place.
        """
        if not isinstance(given, Mapping):
            raise InvalidInfoError(f"{place}: expected an object, got {given!r}")
        if given.get("@type") != SHARDING_TYPE:
            raise InvalidInfoError(f"{place}.@type: expected {SHARDING_TYPE!r}, got {given.get('@type')!r}")
        preshift, minishard, shard = (
            _bits(given, place, name, most)
            for name, most in (
                ("preshift_bits", _MOST_BITS),
                ("minishard_bits", _MOST_MINISHARD_BITS),
                ("shard_bits", _MOST_BITS),
            )
        )
        if minishard + shard > _MOST_BITS:
            raise InvalidInfoError(f"{place}: expected minishard_bits + shard_bits <= 64, got {given!r}")
        return cls(
            preshift,
            _choice(given, place, "hash", _HASHES, None),
            minishard,
            shard,
            minishard_index_encoding=_choice(given, place, "minishard_index_encoding", _ENCODINGS, "raw"),
            data_encoding=_choice(given, place, "data_encoding", _ENCODINGS, "raw"),
        )

    @property
    def index_size(self) -> int:
        """Size in bytes of the shard index, which each shard begins with."""
        return ENTRY_BYTES << self.minishard_bits

    def to_info(self) -> dict[str, Any]:
        """Return the member ``sharding`` of a scale."""
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
        """The most bytes of a decoded minishard index.

        The shift makes groups of ids, which a hash spreads over the minishards at random. No minishard ever gets
        more groups than eight times the average and 128.
        """
        groups = -(-self.scale_chunks >> self.preshift_bits)
        average = groups >> (self.minishard_bits + self.shard_bits)
        chunks = min(self.scale_chunks, (8 * average + 128) << self.preshift_bits)
        return min(MAX_INDEX_BYTES, ROW_BYTES * chunks)

    def lead_of(self, stored: bytes) -> int:
        """Return how many bytes stand before a value, given as its shard has it: see `lead`.

        Raises
        ------
        CorruptDataError
            If the value is damaged.
        """
        if self.lead is None:
            return 0
        is_gzip = self.data_encoding == "gzip"
        return self.lead(decode_gzip_or_zlib(stored, self.largest_chunk) if is_gzip else stored)

    def locate(self, chunk_id: int) -> tuple[int, int]:
        """Return the shard of a chunk, and the minishard within it."""
        hashed = chunk_id >> self.preshift_bits
        if self.hash == "murmurhash3_x86_128":
            hashed = murmurhash3_x86_128_low64(hashed)
        minishard = hashed & ((1 << self.minishard_bits) - 1)
        shard = hashed >> self.minishard_bits & ((1 << self.shard_bits) - 1)
        return shard, minishard

    def shard_name(self, folder: str, shard: int) -> str:
        """Return the name of a shard, without its extension.

        Parameters
        ----------
        folder : str
            A scale's key, or another folder of the pyramid; empty for its root.

        Examples
        --------
        >>> Sharding(0, "identity", 2, 9).shard_name("8_8_40", 255)
        '8_8_40/0ff'
        """
        name = f"{shard:0{max(1, -(-self.shard_bits // 4))}x}"
        return f"{folder}/{name}" if folder else name


def propose_sharding(
    grid_shape: tuple[int, int, int],
    chunk_bytes: int,
    *,
    shard_bytes: int = 512 << 20,
    data_encoding: str = "gzip",
) -> Sharding:
    """Propose a sharding for a scale.

    Chunk ids are Morton codes: chunks whose ids differ only in some low bits form a block. With the
    hash "identity", minishards and shards are therefore blocks of the volume, as readers and writers
    need them:

    - A minishard has up to 512 chunks (8 x 8 x 8). Its index of 12 KiB, less than half with gzip, is
      read by one request, as large as a small chunk.
    - A shard has as many minishards as fit into `shard_bytes`: large enough for few objects, small
      enough for one task to write, and to merge when a chunk is rewritten.
    - The remaining bits number the shards: there are at most 2**shard_bits objects.

    Parameters
    ----------
    grid_shape : tuple of int
        Chunks along x, y and z; see `ChunkGrid.shape`.
    chunk_bytes : int
        The average size in bytes of a stored chunk.
    shard_bytes : int
        The most bytes of a shard; the proposal uses more than half, if the scale has as much.
    data_encoding : str
        "gzip", or "raw" for chunks that are already compressed (JPEG, PNG).

    Raises
    ------
    ValueError
        If 64 bits cannot number the chunks.

    Examples
    --------
    >>> proposed = propose_sharding((313, 313, 110), chunk_bytes=128 << 10)
    >>> proposed.preshift_bits, proposed.minishard_bits, proposed.shard_bits
    (9, 3, 13)
    """
    check_id_bits(grid_shape)
    bits = id_bits(grid_shape)
    in_shard = min(bits, max(0, (max(1, shard_bytes // max(1, chunk_bytes))).bit_length() - 1))
    preshift = min(_PROPOSED_PRESHIFT, in_shard)
    return Sharding(
        preshift_bits=preshift,
        hash="identity",
        minishard_bits=in_shard - preshift,
        shard_bits=bits - in_shard,
        minishard_index_encoding="gzip",
        data_encoding=data_encoding,
    )


def propose_hashed_sharding(
    count: int, value_bytes: int, *, shard_bytes: int = 512 << 20, data_encoding: str = "gzip"
) -> Sharding:
    """Propose a sharding for values with any ids, such as those of segments: a hash spreads them evenly.

    Minishards have about 512 values, and shards as many as fit into `shard_bytes`, as in `propose_sharding`.

    Parameters
    ----------
    count : int
        How many values there are.
    value_bytes : int
        The average size in bytes of a stored value.
    shard_bytes, data_encoding
        See `propose_sharding`.

    Examples
    --------
    >>> proposed = propose_hashed_sharding(1_000_000, value_bytes=50_000)
    >>> proposed.minishard_bits, proposed.shard_bits
    (4, 7)
    """
    in_shard = max(1, shard_bytes // max(1, value_bytes))
    shard_bits = (max(1, -(-count // in_shard)) - 1).bit_length()
    minishards = -(-count >> shard_bits) >> _PROPOSED_PRESHIFT
    return Sharding(
        preshift_bits=0,
        hash="murmurhash3_x86_128",
        minishard_bits=minishards.bit_length(),
        shard_bits=shard_bits,
        minishard_index_encoding="gzip",
        data_encoding=data_encoding,
    )


def _bits(given: Mapping[str, Any], place: str, name: str, most: int) -> int:
    value = given.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidInfoError(f"{place}.{name}: expected an integer from 0 to {most}, got {value!r:.80}")
    return value


def _choice(given: Mapping[str, Any], place: str, name: str, known: tuple[str, ...], default: str | None) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or value.lower() not in known:
        raise InvalidInfoError(f"{place}.{name}: expected one of {', '.join(known)}, got {value!r:.80}")
    return value.lower()


def murmurhash3_x86_128_low64(value: int) -> int:
    """Hash the 8 little-endian bytes of a value with seed 0, and return the low 64 of the 128 bits.

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
