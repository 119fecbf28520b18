"""How the stored bytes of a file or chunk are decompressed, and how many there may be."""

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

from precomputed_fs.codecs import largest_chunk
from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.compression import (
    GZIP_ENCODING,
    GZIP_SUFFIX,
    MAX_DECODED_SIZE,
    TooLargeError,
    decode,
    decode_gzip_or_zlib,
    may_be_gzip,
    split_suffix,
)
from precomputed_fs.format.grid import ChunkCoords, Triple, chunk_name, size_of
from precomputed_fs.format.scale_layout import Chunk, Pieces, ScaleLayout
from precomputed_fs.pyramid.options import Options
from precomputed_fs.store.location import Location
from precomputed_fs.store.requests import Body

_MARKED_GZIP = frozenset({(GZIP_ENCODING, ""), ("", GZIP_SUFFIX)})


class Limit(NamedTuple):
    """The most bytes that an object may have without compression."""

    size: int
    reason: str
    """Where the limit comes from, for messages."""


class Stored(NamedTuple):
    """A file or a chunk as stored.

    A chunk in a shard is a part of the bytes that were read from the shard.
    """

    location: Location
    name: str
    """With any suffix; for a chunk in a shard, the name of the shard."""

    body: Body
    suffix: str = ""
    """The compression suffix of the name, or empty."""

    limit: Limit = Limit(MAX_DECODED_SIZE, "no object may have more")
    raw_length: int | None = None
    """Its length in bytes without compression, if known."""

    sniff: bool = True
    """Whether it may be gzip although neither name nor header says so."""

    span: tuple[int, int] | None = None
    """For a chunk in a shard: its place in the body."""

    position: int = 0
    """For a chunk in a shard: where it begins in the shard's file."""

    shard_encoding: str = ""
    """For a chunk in a shard: the shard's ``data_encoding``."""

    pieces: Pieces | None = None
    """Of a raw chunk: which pieces the body has; None: all of it."""

    part: str = ""
    """For a chunk in a shard: its name in messages."""

    @property
    def data(self) -> bytes:
        """The bytes as stored."""
        data = self.body.data
        if self.span is None or self.span == (0, len(data)):
            return data
        return data[slice(*self.span)]

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return self.location.display(self.name) + (f", {self.part}" if self.part else "")

    @property
    def is_gzip(self) -> bool:
        """Whether the bytes look like gzip, and the shard, the name or the answer says so."""
        marks = self.body.content_encoding.strip().lower(), self.suffix
        return (self.shard_encoding == "gzip" or marks in _MARKED_GZIP) and may_be_gzip(self.data)

    @property
    def is_compressed(self) -> bool:
        """Whether there is any compression, however marked."""
        return self.is_gzip or self.decoded() is not self.data

    @property
    def may_be_coded(self) -> bool:
        """Whether `decoded` may differ from `data`."""
        return bool(self.span or self.suffix or self.body.content_encoding) or (
            self.sniff and may_be_gzip(self.body.data)
        )

    def decoded(self) -> bytes:
        """Undo the compression.

        Raises
        ------
        CorruptDataError
            If the bytes cannot be decoded; the message names the object.
        """
        if not self.may_be_coded and len(self.data) <= self.limit.size:
            return self.data
        if self.body.is_pieces:  # of a raw chunk
            return self.data
        try:
            if self.span is not None:
                return self._decoded_from_shard()
            return decode(
                self.body.data,
                suffix=self.suffix,
                content_encoding=self.body.content_encoding,
                raw_length=self.raw_length,
                limit=self.limit.size,
                sniff=self.sniff,
            )
        except TooLargeError as exc:
            raise CorruptDataError(f"{self.shown}: {exc}; {self.limit.reason}") from exc
        except CorruptDataError as exc:
            raise self.named(exc) from exc

    def _decoded_from_shard(self) -> bytes:
        """Undo a shard's encoding; a wrong length means that the index points to other bytes."""
        data = decode_gzip_or_zlib(self.data, self.limit.size) if self.shard_encoding == "gzip" else self.data
        if self.raw_length is not None and len(data) != self.raw_length:
            raise CorruptDataError(f"a raw chunk of {self.raw_length} bytes is {len(data)} bytes long")
        return data

    def alone(self) -> "Stored":
        """Return this without the other chunks that were read from the shard along with it."""
        if self.span is None or self.span == (0, len(self.body)):
            return self
        data = self.data
        return self._replace(body=Body([data], version=self.body.version), span=(0, len(data)))

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Name the object in a CorruptDataError of the block."""
        try:
            yield
        except CorruptDataError as exc:
            raise self.named(exc) from exc

    def named(self, exc: CorruptDataError) -> CorruptDataError:
        """Return an error that names the object, too."""
        return CorruptDataError(f"{self.shown}: {exc}")

    def as_chunk(self, layout: ScaleLayout, coords: ChunkCoords, limit: Limit) -> "Stored":
        """Return this as a chunk of a shard: with its name, limit and length."""
        part = f"chunk {chunk_name(coords)}"
        return self._replace(limit=limit, raw_length=raw_length(layout, coords), part=part)


def file_limit(name: str, options: Options) -> Limit:
    """Return the limit for a file."""
    if split_suffix(name)[0] == "info":
        return Limit(options.max_info_bytes, "the option max_info_bytes allows more")
    return Limit(options.max_file_bytes, "the option max_file_bytes allows more")


def chunk_limit(layout: ScaleLayout, size: Triple, options: Options) -> Limit:
    """Return the limit for a chunk of this size (xyz, in voxels)."""
    return _chunk_limit(layout.encoding, layout.voxel, size) or file_limit("", options)


@functools.lru_cache
def _chunk_limit(encoding: str, voxel: Chunk | None, size: Triple) -> Limit | None:
    """Return the limit that the encoding gives, or None; cached, because a scale has few sizes of chunks."""
    most = None if voxel is None else largest_chunk(encoding, voxel._replace(size=size))
    if most is None:
        return None
    return Limit(most, f"no {encoding} chunk of {' x '.join(map(str, size))} voxels has more")


def raw_length(layout: ScaleLayout, coords: ChunkCoords) -> int | None:
    """Compute the length in bytes of a raw chunk; None if the scale is not known to be raw."""
    if layout.raw_voxel_bytes is None:
        return None
    x, y, z = size_of(coords)
    return layout.raw_voxel_bytes * x * y * z
