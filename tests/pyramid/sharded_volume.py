"""A small sharded volume, cut into chunks and taken apart by the words of the specification, not by the code tested."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import struct
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from tests.support import servers
from tests.support.shards import sharding_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from precomputed_fs.format.grid import ChunkCoords

Array = np.ndarray[Any, np.dtype[Any]]
Spec = dict[str, Any]

KEY = "8_8_40"
CHUNK_SIZE = (4, 8, 2)  # voxels: anisotropic
SIZE = (21, 13, 9)  # voxels: clipped at the end of each axis
GRID = (6, 2, 5)  # chunks
OFFSET = (3, -50, 700)  # voxels
VOXELS: Array = np.random.default_rng(3).integers(1, 1000, SIZE, dtype=np.uint16)


def sharding(
    bits: tuple[int, int, int] = (1, 2, 1), hash_: str = "identity", index: str = "gzip", data: str = "gzip"
) -> Spec:
    """Make the member ``sharding`` of a scale; the bits are those of preshift, minishard and shard."""
    return sharding_of(bits, hash_, index, data)


ONE_SHARD = sharding((1, 2, 0))
RAW_SHARD = sharding((1, 2, 0), index="raw", data="raw")


def info_of(spec: Spec, *, offset: tuple[int, ...] = OFFSET, keys: Iterable[str] = (KEY,)) -> bytes:
    scales = [
        {
            "key": key,
            "size": list(SIZE),
            "voxel_offset": list(offset),
            "resolution": [8, 8, 40],
            "chunk_sizes": [list(CHUNK_SIZE)],
            "encoding": "raw",
            "sharding": spec,
        }
        for key in keys
    ]
    kind = {"@type": "neuroglancer_multiscale_volume", "type": "image", "data_type": "uint16", "num_channels": 1}
    return json.dumps(kind | {"scales": scales}).encode()


def chunks_of(voxels: Array, offset: tuple[int, ...] = OFFSET) -> dict[ChunkCoords, bytes]:
    """Cut a volume into raw chunks: Fortran order, clipped at the volume's end."""
    chunks = {}
    for x, y, z in itertools.product(*map(range, (0, 0, 0), voxels.shape, CHUNK_SIZE)):
        part = voxels[x : x + CHUNK_SIZE[0], y : y + CHUNK_SIZE[1], z : z + CHUNK_SIZE[2]]
        (x0, y0, z0), (dx, dy, dz) = np.add((x, y, z), offset).tolist(), part.shape
        chunks[x0, x0 + dx, y0, y0 + dy, z0, z0 + dz] = part.tobytes(order="F")
    return chunks


CHUNKS = chunks_of(VOXELS)
COORDS = list(CHUNKS)
FIRST, SECOND, THIRD = COORDS[:3]


def other(coords: ChunkCoords) -> bytes:
    """Make other content for a chunk."""
    return bytes(len(CHUNKS[coords]))


def chunk_id(coords: ChunkCoords, offset: tuple[int, ...] = OFFSET) -> int:
    """Compute the Morton code of a chunk: bit i of an axis counts while 2**i is less than the axis has chunks."""
    cell = [(low - start) // step for low, start, step in zip(coords[::2], offset, CHUNK_SIZE, strict=True)]
    code = position = 0
    for bit in range(8):
        for index, count in zip(cell, GRID, strict=True):
            if 1 << bit < count:
                code |= (index >> bit & 1) << position
                position += 1
    return code


def parse(shard: bytes, spec: Spec, number: int = 0) -> dict[int, bytes]:
    """Take a shard apart and check that it is canonical; returns the chunks as stored, by id."""
    header = 16 << spec["minishard_bits"]
    numbers = struct.unpack(f"<{2 << spec['minishard_bits']}Q", shard[:header])
    chunks: dict[int, bytes] = {}
    used = header
    for minishard, (start, end) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
        if start == end:
            continue
        assert start < end <= len(shard) - header
        index = shard[header + start : header + end]
        used += len(index)
        if spec["minishard_index_encoding"] == "gzip":
            index = unzipped(index)
        assert index, "an empty minishard has an index"
        assert len(index) % 24 == 0
        deltas, gaps, sizes = np.frombuffer(index, "<u8").reshape(3, -1).astype(object)
        ids = list(itertools.accumulate(deltas))
        assert ids == sorted(set(ids)), "ids do not ascend"
        position = header
        for number_, gap, size in zip(ids, gaps, sizes, strict=True):
            position += gap
            assert 0 < size <= len(shard) - position
            chunks[number_] = shard[position : position + size]
            position += size
            used += size
            if spec["hash"] == "identity":
                hashed = number_ >> spec["preshift_bits"]
                assert hashed % (1 << spec["minishard_bits"]) == minishard
                assert hashed >> spec["minishard_bits"] & ((1 << spec["shard_bits"]) - 1) == number
    assert used == len(shard), "there are bytes that nothing refers to"
    return chunks


def unzipped(stored: bytes) -> bytes:
    assert stored[:2] == b"\x1f\x8b", "not RFC 1952"
    return gzip.decompress(stored)


def parse_all(contents: Mapping[str, bytes], spec: Spec) -> dict[int, bytes]:
    """Take all shards of the scale apart; returns the chunks, by id."""
    chunks: dict[int, bytes] = {}
    digits = max(1, -(-spec["shard_bits"] // 4))
    for name, body in contents.items():
        if name != "info":
            match = re.fullmatch(rf"{KEY}/([0-9a-f]{{{digits}}})\.shard", name)
            assert match, f"{name} is no shard of the scale"
            found = parse(body, spec, int(match[1], 16))
            assert not chunks.keys() & found.keys()
            chunks |= found
    return {key: unzipped(data) for key, data in chunks.items()} if spec["data_encoding"] == "gzip" else chunks


BY_ID = {chunk_id(coords): chunk for coords, chunk in CHUNKS.items()}


class HeldFiles(LocalFileSystem):  # type: ignore[misc]
    """Local files, of which writing one is held."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.holding = False
        self.arrived = threading.Event()
        self.go = threading.Event()

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode and self.holding:
            self.arrived.set()
            assert self.go.wait(servers.DEADLINE)
        return super().open(path, mode, *args, **kwargs)
