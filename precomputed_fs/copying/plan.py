"""The plan of a copy: its `info`, and how the chunks of each scale are made."""

import math
import os
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.codecs import ENCODINGS, Codec, codec_for, encoding_named
from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, Triple, chunk_name
from precomputed_fs.format.info import Info, ScaleInfo
from precomputed_fs.format.info_text import JSON
from precomputed_fs.format.scene_folders import KINDS
from precomputed_fs.format.sharding import Sharding, propose_sharding
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store import pool
from precomputed_fs.volume import Scale, Volume

AXES = 3
BYTES_IN_FLIGHT = 64 << 20
"""Bytes of the chunks in flight."""

LEAST_IN_FLIGHT = 2
_SHARD_READS = 16  # concurrent reads of up to 4 MiB, from shard to shard
LOCAL_THREADS = max(4, 2 * pool.CORES)
"""Concurrent writes to disk, where some may block."""


@dataclass(frozen=True, slots=True)
class Target:
    """How the copy is stored, where that differs from the source."""

    encoding: str | None
    parameters: Mapping[str, Any]
    chunk_size: Triple | None
    sharding: bool | Mapping[str, Any] | None
    gzip: bool | None
    verify: bool


@dataclass(frozen=True, slots=True)
class Transcoding:
    """How chunks are decoded and encoded again."""

    decoder: Codec
    encoder: Codec


@dataclass(frozen=True, slots=True)
class ScaleCopy:
    """How the chunks of one scale, of one chunk size, are copied. It can be pickled to any process."""

    source: Pyramid
    source_key: str
    source_grid: ChunkGrid
    source_is_sharded: bool
    destination: Pyramid
    key: str
    grid: ChunkGrid
    sharding: Sharding | None

    transcoding: Transcoding | None
    """None if stored bytes are copied as they are."""

    keeps_encoding: bool
    """Whether chunks that both grids have are copied as they are, even if others are cut."""

    mime_type: str
    voxel_bytes: int

    is_raw: bool
    """Whether the source's chunks are raw, so that their length is known."""

    gzip: bool | None
    verify: bool

    resumes: bool = False
    """Whether an earlier run may have copied some of it."""

    home: int = field(default_factory=os.getpid)
    """The process that made the plan."""

    @property
    def recutting(self) -> Transcoding | None:
        """How chunks are transcoded if the chunk size changes; otherwise None."""
        return None if self.source_grid == self.grid else self.transcoding

    def moves(self, coords: ChunkCoords) -> bool:
        """Whether a chunk is copied as it is stored: the source has the same one, and its encoding is kept."""
        if self.transcoding is None or not self.keeps_encoding:
            return self.transcoding is None
        if self.source_grid.chunk_size != self.grid.chunk_size:
            return False
        try:
            self.source_grid.cell(coords)
        except ValueError:
            return False
        return True

    @property
    def threads(self) -> int:
        """The number of concurrent writes."""
        return self.in_flight if self.destination.is_remote else min(self.in_flight, LOCAL_THREADS)

    @property
    def in_flight(self) -> int:
        """The number of chunks in flight, bounded also by their bytes."""
        largest = max(chunk_voxels(self.grid), chunk_voxels(self.source_grid)) * self.voxel_bytes
        most = _SHARD_READS if self.source_is_sharded and self.sharding is not None else IN_FLIGHT
        return max(LEAST_IN_FLIGHT, min(most, BYTES_IN_FLIGHT // largest))

    def display(self, coords: ChunkCoords) -> str:
        """Return the URL of a chunk of the copy, without secrets."""
        return self.destination.location.display(f"{self.key}/{chunk_name(coords)}")


def chunk_voxels(grid: ChunkGrid) -> int:
    """Return the number of voxels of the largest chunk."""
    return math.prod(map(min, grid.chunk_size, grid.size))


def make_plan(
    volume: Volume,
    parts: Sequence[tuple[Scale, Box]],
    destination: Pyramid,
    target: Target,
    scene: Collection[str] = tuple(KINDS),
) -> tuple[Info, list[ScaleCopy]]:
    """Plan the copy's `info`, and how its chunks are made.

    Parameters
    ----------
    parts : sequence of (Scale, Box)
        The scales, and which part of each is copied.
    scene : collection of str
        Those of `KINDS` whose folders are copied, too.
    """
    named = volume.info.to_dict()
    kept = {name: value for name, value in named.items() if name in scene or name not in KINDS}
    members = {**kept, "scales": [_planned(scale, box, target) for scale, box in parts]}
    try:
        info = Info.parse(members, f"the copy of {volume.url}")
        info.to_json()  # raise now rather than at the end
    except InvalidInfoError as exc:
        raise ValueError(str(exc)) from exc  # the request is wrong, and not an existing `info`
    scale_copies = []
    for (scale, _), made in zip(parts, info.scales, strict=True):
        source, source_key = volume.pyramid_for(scale.key)
        row = ENCODINGS.get(made.encoding)
        scale_copies += [
            ScaleCopy(
                source=source,
                source_key=source_key,
                source_grid=source_grid,
                source_is_sharded=scale.info.sharding is not None,
                destination=destination,
                key=made.key.removesuffix("/"),
                grid=grid,
                sharding=made.sharding,
                transcoding=_transcoding(scale, target, is_recut=source_grid != grid),
                keeps_encoding=not _is_transcoded(scale, target),
                mime_type=row.mime_type if row else "application/octet-stream",
                voxel_bytes=volume.dtype.itemsize * volume.info.num_channels,
                is_raw=scale.encoding == "raw",
                gzip=target.gzip,
                verify=target.verify,
            )
            for source_grid, grid in _grids(scale.info, made)
        ]
    return info, scale_copies


def _planned(scale: Scale, box: Box, target: Target) -> dict[str, Any]:
    """Plan a scale's member of `info`: as at the source, except for what the box and the target change."""
    planned = {**scale.info.to_dict(), "key": _inside(scale.key)}
    if box != scale.bounds:
        planned |= {"size": list(box.shape), "voxel_offset": list(box.start)}
    if _is_transcoded(scale, target):
        own = {parameter.key for row in ENCODINGS.values() for parameter in row.parameters}
        planned = {name: value for name, value in planned.items() if name not in own}
        planned |= {"encoding": str(target.encoding).lower(), **_encoder(scale, target).info_parameters()}
    if target.chunk_size is not None:
        planned["chunk_sizes"] = [list(target.chunk_size)]
    sharding = _sharding(scale, box, planned, target)
    if sharding is None:
        planned.pop("sharding", None)
    else:
        planned |= {"sharding": sharding, "chunk_sizes": planned["chunk_sizes"][:1]}
    return planned


def _inside(key: str) -> str:
    """Return the key of a scale in the copy, where all scales are inside the pyramid."""
    inside = posixpath.normpath(key)
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    return inside if ".." in key.split("/") else key


def _is_transcoded(scale: Scale, target: Target) -> bool:
    """Whether the encoding or its parameters change."""
    if target.encoding is None:
        return False
    given = scale.info.parameters
    return target.encoding.lower() != scale.encoding or any(
        given.get(name) != value for name, value in target.parameters.items()
    )


def _encoder(scale: Scale, target: Target) -> Codec:
    """Return the codec that encodes the copy's chunks: the target's, or the scale's own."""
    if _is_transcoded(scale, target):
        encoding, parameters = str(target.encoding), target.parameters
    else:
        encoding, parameters = scale.encoding, scale.info.parameters
    info = scale.volume.info
    given = {**encoding_named(encoding).defaults, **parameters}
    codec = codec_for(encoding, info.data_type, info.num_channels, given, f"the copy of scale {scale.key}")
    codec.check()
    return codec


def _transcoding(scale: Scale, target: Target, *, is_recut: bool) -> Transcoding | None:
    return Transcoding(scale.codec, _encoder(scale, target)) if is_recut or _is_transcoded(scale, target) else None


def _sharding(scale: Scale, box: Box, planned: Mapping[str, Any], target: Target) -> JSON:
    """Return the member ``sharding`` of a scale of the copy; None if it is not sharded."""
    given = planned.get("sharding") if target.sharding is None else target.sharding
    row = ENCODINGS.get(planned["encoding"])
    is_compressed = row is not None and row.is_compressed
    data_encoding = "raw" if is_compressed or target.gzip is False else "gzip"
    is_recut = planned["chunk_sizes"][0] != scale.info["chunk_sizes"][0] or box != scale.bounds
    if given is None or given is False:
        return None
    if given is True or (target.sharding is None and is_recut):
        x, y, z = planned["chunk_sizes"][0]
        grid = ChunkGrid(box.shape, (x, y, z), box.start)
        chunk_bytes = math.prod(grid.chunk_size) * scale.shape[3] * scale.dtype.itemsize
        return propose_sharding(grid.shape, chunk_bytes=chunk_bytes, data_encoding=data_encoding).to_info()
    if not isinstance(given, Mapping):
        raise TypeError(f"sharding: expected True, False or a mapping, got {given!r}")
    sharding = dict(given)
    if target.sharding is None and (_is_transcoded(scale, target) or target.gzip is not None):
        sharding["data_encoding"] = data_encoding
    return sharding


def _grids(scale: ScaleInfo, made: ScaleInfo) -> Iterator[tuple[ChunkGrid, ChunkGrid]]:
    """Pair each chunk grid of the copy with the source's grid that it is made from: the same one, if there is one."""
    sizes = scale.chunk_sizes
    for size in made.chunk_sizes:
        source = size if size in sizes else sizes[0]
        yield (
            ChunkGrid(scale.size, source, scale.voxel_offset),
            ChunkGrid(made.size, size, made.voxel_offset),
        )
