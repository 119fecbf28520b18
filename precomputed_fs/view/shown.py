"""What the web client sees of a pyramid: its `info`, and its chunks, in encodings that the client decodes.

The client gets each chunk under its own flat name and uncompressed, however it is stored: the accessor finds and
unpacks it. Sharded scales are shown unsharded: the client sends one request per chunk, and shard indexes are read and
cached here, once for all views.
"""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from precomputed_fs.codecs import ENCODINGS, Codec, codec_for
from precomputed_fs.codecs.encoding import NEUROGLANCER
from precomputed_fs.errors import NotFoundError, ReadOnlyError
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, chunk_name, parse_chunk_name
from precomputed_fs.format.info import Info
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.loop import in_thread
from precomputed_fs.view.shown_folder import JSON_TYPE, Content, ShownFolder, shown_folders
from precomputed_fs.volume import Scale, Volume

_PLAIN_SEGMENT = re.compile(r"(?!\.\.?\Z)[\w.~+,=-]+", re.ASCII)


def client_type(info: Info) -> str:
    """Return the data type that voxels are shown as: the client has no 64-bit floats or signed integers."""
    if info.data_type == "int64" and info.type == "segmentation":
        return "uint64"
    return "float32" if info.data_type in ("int64", "float64") else info.data_type


def client_reads(codec: Codec, data_type: str) -> bool:
    """Whether the client can decode a codec's chunks into the data type that is shown."""
    return data_type == codec.data_type and codec.row.is_read_by(NEUROGLANCER, data_type, codec.num_channels)


def _shown_codec(codec: Codec, data_type: str) -> Codec:
    """Return the codec of the chunks that the client gets: the stored one if it can decode that, otherwise raw.

    JPEG is always decoded here: the client is wrong by tens of grey levels for progressive JPEGs, which
    neuroglancer-scripts writes, and `info` does not tell which kind a scale has.
    """
    if codec.encoding != "jpeg" and client_reads(codec, data_type):
        return codec
    return codec_for("raw", data_type, codec.num_channels, {}, codec.place)


@dataclass(frozen=True, slots=True)
class _ShownScale:
    """A scale as the client sees it."""

    pyramid: Pyramid
    key: str
    grids: tuple[ChunkGrid, ...]
    stored: Codec
    shown: Codec

    @classmethod
    def of(cls, scale: Scale) -> Self:
        """Look up how a scale is stored."""
        info = scale.volume.info
        pyramid, key = scale.volume.pyramid_for(scale.key)
        grids = tuple(ChunkGrid(scale.info.size, size, scale.voxel_offset) for size in scale.info.chunk_sizes)
        return cls(pyramid, key, grids, scale.codec, _shown_codec(scale.codec, client_type(info)))

    async def fetch(self, coords: ChunkCoords) -> Content:
        """Fetch a chunk for the client; outside of the grid, chunks are absent."""
        if not any(_has_chunk(grid, coords) for grid in self.grids):
            raise NotFoundError(f"{chunk_name(coords)} is not a chunk of scale {self.key}")
        data = await in_thread(functools.partial(self.pyramid.fetch_chunk, self.key, coords))
        if self.shown != self.stored:
            data = await asyncio.to_thread(self._transcode, data, coords)
        elif self.stored.encoding == "raw":
            self.stored.decode(data, Box.of(coords).shape)  # only checks the length
        return Content(data, self.shown.mime_type)

    def _transcode(self, data: bytes, coords: ChunkCoords) -> bytes:
        voxels = self.stored.decode(data, Box.of(coords).shape)
        with np.errstate(over="ignore"):  # what exceeds float32 becomes infinite
            return self.shown.encode(voxels.astype(self.shown.dtype, copy=False))


def _has_chunk(grid: ChunkGrid, coords: ChunkCoords) -> bool:
    try:
        grid.cell(coords)
    except ValueError:
        return False
    return True


def _coords_of(name: str) -> ChunkCoords | None:
    """Parse a chunk's name in the spelling of the specification."""
    with contextlib.suppress(ValueError):
        coords = parse_chunk_name(name)
        return coords if coords is not None and chunk_name(coords) == name else None
    return None


class ShownPyramid:
    """A pyramid as the client sees it: a rewritten `info`, and the objects that it names."""

    def __init__(self, volume: Volume, *, follow_links: bool) -> None:
        if not volume.pyramid.can_read:
            raise ReadOnlyError(f"{volume.url}: this archive is open for writing")
        self._scales: dict[str, _ShownScale] = {}
        shown = [_ShownScale.of(scale) for scale in volume]
        if not follow_links:
            shown = [dataclasses.replace(scale, pyramid=scale.pyramid.confined()) for scale in shown]
        keys = self._name(volume, shown)
        info, outside = shown_folders(volume.pyramid, volume.info.to_dict(), follow_links=follow_links)
        self._files = ShownFolder(volume.pyramid, follow_links=follow_links, outside=outside)
        self.info = _shown_info(Info.parse(info), volume, keys, shown).to_json()

    def _name(self, volume: Volume, shown: Sequence[_ShownScale]) -> list[str]:
        """Give each scale a key: its own, unless that leaves the pyramid or has a meaning in a URL."""
        keys = []
        taken = {scale.key for scale in volume}
        for i, (given, scale) in enumerate(zip(volume, shown, strict=True)):
            key = given.key.removesuffix("/")
            if not all(map(_PLAIN_SEGMENT.fullmatch, key.split("/"))):
                key = next(name for n in itertools.count() if (name := f"scale{i}.{n}") not in taken)
            same = self._scales.get(key)
            grids = (*same.grids, *scale.grids) if same else scale.grids
            self._scales[key] = dataclasses.replace(scale, grids=grids)
            keys.append(key)
        return keys

    async def fetch(self, path: str) -> Content:
        """Fetch what a decoded path names.

        Raises
        ------
        NotFoundError
            If there is nothing, or the path leaves the pyramid.
        DataAccessError
            If the store fails.
        """
        if path == "info":
            return Content(self.info, JSON_TYPE)
        key, _, name = path.rpartition("/")
        scale, coords = self._scales.get(key), _coords_of(name)
        if scale is not None and coords is not None:
            return await scale.fetch(coords)
        return await self._files.fetch(path)

    async def fetch_range(self, path: str, span: slice) -> bytes | None:
        """Fetch a part of a file that is not a chunk; None if the whole file is needed to answer."""
        key, _, name = path.rpartition("/")
        if path == "info" or (key in self._scales and _coords_of(name) is not None):
            return None
        return await self._files.fetch_range(path, span)


def _shown_info(info: Info, volume: Volume, keys: Sequence[str], shown: Sequence[_ShownScale]) -> Info:
    """Rewrite `info` for the client, the finest scale first; unknown members are kept."""
    own = {parameter.key for row in ENCODINGS.values() for parameter in row.parameters}
    scales = []
    for before, key, scale in zip(volume, keys, shown, strict=True):
        dropped = {"sharding"} | (own if scale.shown != scale.stored else set())
        kept = {name: value for name, value in before.info.to_dict().items() if name not in dropped}
        scales.append({**kept, "key": key, "encoding": scale.shown.encoding})
    return Info.parse(
        {
            **info.to_dict(),
            "@type": "neuroglancer_multiscale_volume",
            "type": info.type if info.type in ("image", "segmentation") else "image",
            "data_type": client_type(info),
            "scales": scales,
        }
    )
