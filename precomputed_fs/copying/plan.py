"""What a copy will be: its `info`, and how the chunks of each scale are made."""

import math
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.codecs import ENCODINGS, Codec, Encoding, codec_for
from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.grid import ChunkCoords, ChunkGrid, Triple, chunk_name
from precomputed_fs.format.info import Info, ScaleInfo
from precomputed_fs.format.info_text import JSON
from precomputed_fs.format.sharding import Sharding, propose_sharding
from precomputed_fs.pyramid.pyramid import IN_FLIGHT, Pyramid
from precomputed_fs.store import pool
from precomputed_fs.volume import Scale, Volume

AXES = 3
BYTES_IN_FLIGHT = 64 << 20  # of chunks that are under way
LEAST_IN_FLIGHT = 2
_SHARD_READS = 16  # at once, of up to 4 MiB, where chunks go from shard to shard
_LOCAL_THREADS = max(4, 2 * pool.CORES)  # that write to disk: some may wait for it


def encoding_row(encoding: str) -> Encoding:
    """Look up an encoding by its name."""
    row = ENCODINGS.get(encoding.lower())
    if row is None:
        raise ValueError(f"encoding: expected one of {', '.join(ENCODINGS)}, got {encoding!r}")
    return row


@dataclass(frozen=True, slots=True)
class Wish:
    """How the copy is to be stored, where that is not as the source."""

    encoding: str | None
    parameters: Mapping[str, Any]
    chunk_size: Triple | None
    sharding: bool | Mapping[str, Any] | None
    gzip: bool | None
    verify: bool


@dataclass(frozen=True, slots=True)
class Recoding:
    """How chunks are encoded anew."""

    decoder: Codec
    encoder: Codec


@dataclass(frozen=True, slots=True)
class Work:
    """How the chunks of one scale, of one size, get to another scale; to be sent to any process."""

    source: Pyramid
    source_key: str
    source_grid: ChunkGrid
    source_is_sharded: bool
    destination: Pyramid
    key: str
    grid: ChunkGrid
    sharding: Sharding | None

    recoding: Recoding | None
    """None, if stored bytes are moved."""

    mime_type: str
    voxel_bytes: int

    is_raw: bool
    """Whether chunks at the source are raw, so that their length is known."""

    gzip: bool | None
    verify: bool

    resumes: bool = False
    """Whether an earlier run has copied some of it."""

    home: int = field(default_factory=os.getpid)
    """The process that it was planned in."""

    @property
    def cutting(self) -> Recoding | None:
        """How chunks are encoded anew that are cut otherwise than at the source; None, if they are cut as there."""
        return None if self.source_grid == self.grid else self.recoding

    @property
    def threads(self) -> int:
        """How many chunks are written at once."""
        return self.in_flight if self.destination.is_remote else min(self.in_flight, _LOCAL_THREADS)

    @property
    def in_flight(self) -> int:
        """How many chunks may be under way, such that their bytes are bounded, too."""
        largest = max(chunk_voxels(self.grid), chunk_voxels(self.source_grid)) * self.voxel_bytes
        most = _SHARD_READS if self.source_is_sharded and self.sharding is not None else IN_FLIGHT
        return max(LEAST_IN_FLIGHT, min(most, BYTES_IN_FLIGHT // largest))

    def display(self, coords: ChunkCoords) -> str:
        """Show where a chunk is copied to."""
        return self.destination.location.display(f"{self.key}/{chunk_name(coords)}")


def chunk_voxels(grid: ChunkGrid) -> int:
    """Return the number of voxels of the largest chunk."""
    return math.prod(map(min, grid.chunk_size, grid.size))


def make_plan(volume: Volume, scales: list[Scale], destination: Pyramid, wish: Wish) -> tuple[Info, list[Work]]:
    """Plan the `info` of the copy, and how its chunks are made."""
    members = {**volume.info.to_dict(), "scales": [_planned(scale, wish) for scale in scales]}
    try:
        info = Info.parse(members, f"the copy of {volume.url}")
        info.to_json()  # raises now what it would in the end
    except InvalidInfoError as exc:
        raise ValueError(str(exc)) from exc  # not what is there is wrong, but what is wished
    works = []
    for scale, made in zip(scales, info.scales, strict=True):
        source, source_key = volume.pyramid_for(scale.key)
        row = ENCODINGS.get(made.encoding)
        works += [
            Work(
                source=source,
                source_key=source_key,
                source_grid=source_grid,
                source_is_sharded=scale.info.sharding is not None,
                destination=destination,
                key=made.key.removesuffix("/"),
                grid=grid,
                sharding=made.sharding,
                recoding=_recoding(scale, wish, is_cut_anew=source_grid != grid),
                mime_type=row.mime_type if row else "application/octet-stream",
                voxel_bytes=volume.dtype.itemsize * volume.info.num_channels,
                is_raw=scale.encoding == "raw",
                gzip=wish.gzip,
                verify=wish.verify,
            )
            for source_grid, grid in _grids(scale.info, made)
        ]
    return info, works


def _planned(scale: Scale, wish: Wish) -> dict[str, Any]:
    """Plan what `info` says of a scale: all that it said, but for what is wished otherwise."""
    planned = {**scale.info.to_dict(), "key": _inside(scale.key)}
    if _is_recoded(scale, wish):
        own = {parameter.key for row in ENCODINGS.values() for parameter in row.parameters}
        planned = {name: value for name, value in planned.items() if name not in own}
        planned |= {"encoding": str(wish.encoding).lower(), **_encoder(scale, wish).info_parameters()}
    if wish.chunk_size is not None:
        planned["chunk_sizes"] = [list(wish.chunk_size)]
    sharding = _sharding(scale, planned, wish)
    if sharding is None:
        planned.pop("sharding", None)
    else:
        planned |= {"sharding": sharding, "chunk_sizes": planned["chunk_sizes"][:1]}
    return planned


def _inside(key: str) -> str:
    """Return the key of a scale in the copy, which has all scales inside of it."""
    inside = posixpath.normpath(key)
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    return inside if ".." in key.split("/") else key


def _is_recoded(scale: Scale, wish: Wish) -> bool:
    """Whether chunks are encoded otherwise than they are."""
    if wish.encoding is None:
        return False
    given = scale.info.parameters
    return wish.encoding.lower() != scale.encoding or any(
        given.get(name) != value for name, value in wish.parameters.items()
    )


def _encoder(scale: Scale, wish: Wish) -> Codec:
    """Return what encodes chunks anew: as wished, or as the scale has it."""
    if _is_recoded(scale, wish):
        encoding, parameters = str(wish.encoding), wish.parameters
    else:
        encoding, parameters = scale.encoding, scale.info.parameters
    info = scale.volume.info
    given = {**encoding_row(encoding).defaults, **parameters}
    codec = codec_for(encoding, info.data_type, info.num_channels, given, f"the copy of scale {scale.key}")
    codec.check()
    return codec


def _recoding(scale: Scale, wish: Wish, *, is_cut_anew: bool) -> Recoding | None:
    return Recoding(scale.codec, _encoder(scale, wish)) if is_cut_anew or _is_recoded(scale, wish) else None


def _sharding(scale: Scale, planned: Mapping[str, Any], wish: Wish) -> JSON:
    """Return the member ``sharding`` of a scale in the copy; None, if it is not sharded."""
    given = planned.get("sharding") if wish.sharding is None else wish.sharding
    row = ENCODINGS.get(planned["encoding"])
    is_compressed = row is not None and row.is_compressed
    data_encoding = "raw" if is_compressed or wish.gzip is False else "gzip"
    is_cut_anew = planned["chunk_sizes"][0] != scale.info["chunk_sizes"][0]
    if given is None or given is False:
        return None
    if given is True or (wish.sharding is None and is_cut_anew):
        x, y, z = planned["chunk_sizes"][0]
        grid = ChunkGrid(scale.info.size, (x, y, z), scale.voxel_offset)
        chunk_bytes = math.prod(grid.chunk_size) * scale.shape[3] * scale.dtype.itemsize
        return propose_sharding(grid.shape, chunk_bytes=chunk_bytes, data_encoding=data_encoding).to_info()
    if not isinstance(given, Mapping):
        raise TypeError(f"sharding: expected True, False or a mapping, got {given!r}")
    sharding = dict(given)
    if wish.sharding is None and (_is_recoded(scale, wish) or wish.gzip is not None):
        sharding["data_encoding"] = data_encoding
    return sharding


def _grids(scale: ScaleInfo, made: ScaleInfo) -> Iterator[tuple[ChunkGrid, ChunkGrid]]:
    """Pair what the copy's chunks are cut by with what they are made of: with the same, where there is that."""
    sizes = scale.chunk_sizes
    for size in made.chunk_sizes:
        source = size if size in sizes else sizes[0]
        yield (
            ChunkGrid(scale.size, source, scale.voxel_offset),
            ChunkGrid(made.size, size, made.voxel_offset),
        )
