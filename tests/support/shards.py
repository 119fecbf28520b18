"""Shards made by the words of the specification, without the code under test; pyramids of one scale of them."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import struct
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from precomputed_fs.format.grid import ChunkCoords, Triple
    from tests.support.places import Place

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "1mm"
SHARD = f"{KEY}/0.shard"
MURMUR = "murmurhash3_x86_128"

ChunkPlace: TypeAlias = tuple[int, int, int]
"""``(chunk id, first byte, size)``"""


def index_rows(places: Iterable[ChunkPlace]) -> bytes:
    """Write a raw minishard index by the words of the specification: three rows, two of them of differences."""
    ids, starts, sizes = np.array(list(places), dtype="<u8").reshape(-1, 3).T
    ends = np.concatenate([np.zeros(1, "<u8"), (starts + sizes)[:-1]])[: len(ids)]
    deltas = np.diff(ids, prepend=np.zeros(1, "<u8"))  # modulo 2**64, as NumPy's unsigned integers are
    return np.stack([deltas, starts - ends, sizes]).astype("<u8").tobytes(order="C")


def pack_shard(
    minishards: Mapping[int, Sequence[tuple[int, bytes]]],
    minishard_bits: int,
    *,
    pack_index: Callable[[bytes], bytes] = bytes,
    gap: int = 0,
) -> bytes:
    """Write a shard: its index, then the chunks as they are given, then the minishard indexes.

    Parameters
    ----------
    minishards
        The chunks of each minishard, ``(id, stored bytes)``, in the order in which they are to lie.
    gap
        Bytes that nobody asked for, before each chunk.
    """
    body = bytearray()
    indexes = {}
    for minishard, chunks in minishards.items():
        places = []
        for chunk_id, stored in chunks:
            body += b"\xee" * gap
            places.append((chunk_id, len(body), len(stored)))
            body += stored
        indexes[minishard] = pack_index(index_rows(places))
    entries = []
    for minishard in range(2**minishard_bits):
        start = len(body)
        body += indexes.get(minishard, b"")
        entries.append(struct.pack("<QQ", start, len(body)))
    return b"".join(entries) + bytes(body)


@dataclass(frozen=True)
class Scale:
    """A scale to be written, of one channel."""

    sharding: Mapping[str, Any] | None
    size: Triple = (32, 16, 4)
    chunk_size: Triple = (4, 4, 4)
    voxel_offset: Triple = (0, 0, 0)
    data_type: str = "uint8"
    encoding: str = "raw"
    extra: Mapping[str, Any] = field(default_factory=dict)
    key: str = KEY

    @property
    def shape(self) -> Triple:
        x, y, z = (-(-size // chunk) for size, chunk in zip(self.size, self.chunk_size, strict=True))
        return x, y, z

    @property
    def cells(self) -> Iterator[Triple]:
        x, y, z = self.shape
        return itertools.product(range(x), range(y), range(z))

    def coords(self, cell: Triple) -> ChunkCoords:
        begins = np.multiply(cell, self.chunk_size)
        ends = np.minimum(begins + self.chunk_size, self.size)
        (x0, y0, z0), (x1, y1, z1) = (np.add(corner, self.voxel_offset).tolist() for corner in (begins, ends))
        return x0, x1, y0, y1, z0, z1

    def chunk_id(self, cell: Triple) -> int:
        """Return a chunk's number, bit by bit as the specification describes it."""
        code, position = 0, 0
        for bit in range(64):
            for axis in range(3):
                if 2**bit < self.shape[axis]:
                    code |= (cell[axis] >> bit & 1) << position
                    position += 1
        return code

    def part(self, volume: Array, coords: ChunkCoords) -> Array:
        """Cut a chunk out of a volume ``[x, y, z]``."""
        x, y, z = (
            slice(low - offset, high - offset)
            for low, high, offset in zip(coords[::2], coords[1::2], self.voxel_offset, strict=True)
        )
        return volume[x, y, z]

    def info(self) -> dict[str, Any]:
        scale = {
            "key": self.key,
            "size": list(self.size),
            "voxel_offset": list(self.voxel_offset),
            "chunk_sizes": [list(self.chunk_size)],
            "resolution": [1_000_000, 1_000_000, 1_000_000],
            "encoding": self.encoding,
            **self.extra,
            **({} if self.sharding is None else {"sharding": dict(self.sharding)}),
        }
        return {"type": "image", "data_type": self.data_type, "num_channels": 1, "scales": [scale]}


@dataclass(frozen=True)
class Written:
    """A pyramid of one scale as it was written: its files, and its chunks as they are encoded."""

    scale: Scale
    files: Mapping[str, bytes]
    chunks: Mapping[ChunkCoords, bytes]

    def put(self, pyramid: Place) -> Place:
        for name, body in self.files.items():
            pyramid.put(name, body)
        return pyramid

    @property
    def coords(self) -> list[ChunkCoords]:
        return list(self.chunks)


def sharding_of(bits: Triple, hashed_by: str = "identity", index: str = "raw", data: str = "raw") -> dict[str, Any]:
    """Make the member ``sharding`` of a scale; the bits are those of preshift, minishard and shard."""
    preshift_bits, minishard_bits, shard_bits = bits
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": preshift_bits,
        "minishard_bits": minishard_bits,
        "shard_bits": shard_bits,
        "hash": hashed_by,
        "minishard_index_encoding": index,
        "data_encoding": data,
    }


PACK: Mapping[str, Callable[[bytes], bytes]] = {"raw": bytes, "gzip": partial(gzip.compress, mtime=0)}


@cache
def chunk_bodies(seed: int, count: int) -> list[bytes]:
    """Make chunks of 64 bytes of which no two are alike."""
    return [random.Random(f"{seed} {i}").randbytes(64) for i in range(count)]


def synthesize(
    minishard_bits: int = 0,
    shard_bits: int = 0,
    *,
    index: str = "raw",
    data: str = "raw",
    pack_data: Callable[[bytes], bytes] | None = None,
    seed: int = 0,
    gap: int = 0,
    descending: bool = False,
    without: Callable[[int], bool] = lambda _: False,
) -> Written:
    """Write 32 chunks of 64 voxels by the tests' own writer."""
    scale = Scale(sharding_of((0, minishard_bits, shard_bits), index=index, data=data))
    pack_data = pack_data or PACK[data]
    bodies = chunk_bodies(seed, 32)
    by_id = sorted((scale.chunk_id(cell), scale.coords(cell)) for cell in scale.cells)
    kept = {chunk_id: coords for chunk_id, coords in by_id if not without(chunk_id)}
    laid_out: dict[int, dict[int, list[tuple[int, bytes]]]] = {}
    for chunk_id in sorted(kept, reverse=descending):
        minishard = chunk_id % 2**minishard_bits
        shard = chunk_id // 2**minishard_bits % 2**shard_bits
        laid_out.setdefault(shard, {}).setdefault(minishard, []).append((chunk_id, pack_data(bodies[chunk_id])))
    files = {"info": json.dumps(scale.info()).encode()}
    for shard, minishards in laid_out.items():
        files[f"{KEY}/{shard:0{-(-shard_bits // 4) or 1}x}.shard"] = pack_shard(
            minishards, minishard_bits, pack_index=PACK[index], gap=gap
        )
    return Written(scale, files, {coords: bodies[chunk_id] for chunk_id, coords in kept.items()})
