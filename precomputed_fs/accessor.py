"""The face: byte-level access to a pyramid, by the contract of ``neuroglancer_scripts.accessor``.

An accessor names objects, knows under which names they may stand, and undoes their compression; it
does not interpret what is in them. `FsspecAccessor` is the one for every protocol.
"""

import argparse
import contextlib
import functools
import itertools
import posixpath
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, overload

from precomputed_fs import claims
from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    ReadOnlyError,
    ReplacedError,
    URLError,
)
from precomputed_fs.format.chunk_limits import Chunk, largest_chunk
from precomputed_fs.format.compression import (
    GZIP_ENCODING,
    GZIP_SUFFIX,
    INCOMPRESSIBLE_MIME_TYPES,
    MAX_DECODED_SIZE,
    SUFFIXES,
    TooLargeError,
    decode,
    decode_gzip_or_zlib,
    gzip_compress,
    is_gzip,
    may_be_gzip,
    split_suffix,
    stored_limit,
)
from precomputed_fs.format.grid import (
    ChunkCoords,
    ChunkGrid,
    Triple,
    chunk_coords,
    chunk_name,
    compressed_morton_code,
    layout_of,
    size_of,
)
from precomputed_fs.format.info_text import MAX_INFO_BYTES, parse_info
from precomputed_fs.format.scale_layout import ScaleLayout, scale_layout
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.shard_writer import ShardWriter, Update
from precomputed_fs.pyramid.shards import ShardReader, Stored
from precomputed_fs.store import jobs
from precomputed_fs.store.location import Location, resolve
from precomputed_fs.store.loop import in_thread
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.pool import HOP
from precomputed_fs.store.protocols.base import Filesystem
from precomputed_fs.store.requests import Body, ChangedLately, Compute, Delete, Get, Job, List, Put
from precomputed_fs.store.url import AnyURL, check_relative_path, convert_file_url_to_pathname

_T = TypeVar("_T")

__all__ = [
    "Accessor",
    "DataAccessError",
    "FsspecAccessor",
    "URLError",
    "add_argparse_options",
    "convert_file_url_to_pathname",
    "get_accessor_for_url",
]

Buffer = bytes | bytearray | memoryview
"""What can be stored; a NumPy array passes its memory as ``array.data``."""

Decode = Callable[[ChunkCoords, bytes | None], _T]
"""Makes of a chunk's bytes, or of their absence, what a batch yields."""

Encode = Callable[[ChunkCoords, Any], bytes | Update]
"""Makes of what a batch is given the bytes of a chunk, or a change of it."""

Callback = Any
"""An `fsspec.callbacks.Callback`, such as its ``TqdmCallback``, or None; fsspec ships no types."""

IN_FLIGHT = 128
"""Chunks of a batch that are under way at once, unless told otherwise."""

MAX_GAP = 1 << 16
"""Bytes between chunks of a shard that are read in vain, at most, to save a request (64 KiB)."""

MAX_RANGE = 1 << 22
"""Bytes of a shard that are read at once, at most, where chunks lie together (4 MiB)."""

MAX_FILE_BYTES = MAX_DECODED_SIZE
"""Bytes of a file, or of a chunk of which `info` does not say how large it can be, unless told otherwise (1 GiB)."""

_OCTET_STREAM = "application/octet-stream"
_CHUNK_DEPTH = 2  # folders that chunks are in, below that of their scale, in the layout of sub-directories
_SAMPLED_NAMES = 100  # entries of a scale that are looked at to learn its names, in one request
_LOOKS = 5  # times more that an object is looked for where names are changing
_USUAL = 4  # of the names of a chunk, or of a file: those that writers use
_TWIN_ROUNDS = 3  # times that an object is written if another process takes it for a twin of its own
_TWIN_NAMES = 1000  # the most that one listing request returns


class Accessor:
    """Access to the objects of a pyramid as bytes; inherit from it to make another accessor.

    Attributes
    ----------
    can_read : bool
        Whether this accessor reads.
    can_write : bool
        Whether this accessor writes.
    """

    can_read = False
    can_write = False

    def file_exists(self, relative_path: str) -> bool:
        """Tell whether there is a file.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid.

        Raises
        ------
        DataAccessError
            If the store did not say whether there is one.
        NotImplementedError
            If `can_read` is False.
        """
        raise NotImplementedError

    def fetch_file(self, relative_path: str) -> bytes:
        """Fetch a file.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid.

        Raises
        ------
        DataAccessError
            If the file cannot be retrieved.
        NotImplementedError
            If `can_read` is False.
        """
        raise NotImplementedError

    def store_file(
        self,
        relative_path: str,
        buf: Buffer,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a file.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid.
        buf : bytes
            The contents.
        mime_type : str
            The media type of the contents.
        overwrite : bool
            Whether an existing file may be replaced.

        Raises
        ------
        DataAccessError
            If the file cannot be stored.
        NotImplementedError
            If `can_write` is False.
        """
        raise NotImplementedError

    def fetch_chunk(self, key: str, chunk_coords: ChunkCoords) -> bytes:
        """Fetch a chunk, encoded as its scale says, without the compression it is stored with.

        Parameters
        ----------
        key : str
            The scale's key.
        chunk_coords : tuple of int
            ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open.

        Raises
        ------
        DataAccessError
            If the chunk cannot be retrieved.
        NotImplementedError
            If `can_read` is False.
        """
        raise NotImplementedError

    def store_chunk(
        self,
        buf: Buffer,
        key: str,
        chunk_coords: ChunkCoords,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a chunk.

        Parameters
        ----------
        buf : bytes
            The chunk, encoded as its scale says.
        key : str
            The scale's key.
        chunk_coords : tuple of int
            ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open.
        mime_type : str
            The media type of the encoded chunk.
        overwrite : bool
            Whether an existing chunk may be replaced.

        Raises
        ------
        DataAccessError
            If the chunk cannot be stored.
        NotImplementedError
            If `can_write` is False.
        """
        raise NotImplementedError


class _Variant(NamedTuple):
    """One of the names that a chunk may stand under."""

    flat: bool
    suffix: str


_VARIANTS = tuple(
    sorted(
        (_Variant(flat, suffix) for flat in (True, False) for suffix in SUFFIXES),
        key=lambda variant: (variant.suffix not in ("", GZIP_SUFFIX), not variant.flat),
    )
)
"""Every name that a chunk may stand under, the most usual first."""


@dataclass(slots=True)
class _ScaleNames:
    """What is known of the names in one scale."""

    seen: list[_Variant] = field(default_factory=list)
    sampled: bool = False
    folders: bool = False
    """Whether the listing showed sub-directories, in which chunks may be compressed or not."""

    def note(self, variant: _Variant) -> None:
        if variant not in self.seen:
            self.seen = [*self.seen, variant]

    def known(self) -> list[_Variant]:
        """Return the names in use, as far as is known."""
        if self.folders and all(variant.flat for variant in self.seen):
            return [*self.seen, *(variant for variant in _VARIANTS if not variant.flat)]
        return self.seen


class Limit(NamedTuple):
    """How many bytes an object may have without compression."""

    size: int
    reason: str
    """Where that comes from, for messages."""


class Found(NamedTuple):
    """An object, or a chunk in a shard, as it was found: how it stands, and its bytes as they are stored."""

    name: str
    """Under which name, with any suffix; of a chunk in a shard, what messages call it."""

    suffix: str
    """The compression's, which the name ends in; or nothing."""

    body: Body
    limit: Limit
    raw_length: int | None = None
    """How long it is without compression, if that is known."""

    sniff: bool = True
    """Whether it may be gzip although nothing says so."""

    in_shard: tuple[int, int] | None = None
    """Of a chunk in a shard: where it is in the body."""

    shard_gzip: bool = False
    """Whether it is in a shard whose chunks are gzip."""

    @property
    def data(self) -> bytes:
        """The bytes as they are stored."""
        data = self.body.data
        if self.in_shard is None or self.in_shard == (0, len(data)):
            return data
        return data[slice(*self.in_shard)]

    @property
    def needs_decoding(self) -> bool:
        return bool(self.in_shard or self.suffix or self.body.content_encoding) or (
            self.sniff and may_be_gzip(self.body.data)
        )

    @property
    def told(self) -> tuple[str, str]:
        """What the answer and the name say of the compression."""
        return self.body.content_encoding.strip().lower(), self.suffix


_TOLD_GZIP = frozenset({(GZIP_ENCODING, ""), ("", GZIP_SUFFIX)})


class _Packed(NamedTuple):
    """An object as it will be stored."""

    data: bytes
    suffix: str
    content_type: str
    content_encoding: str


class StoredChunk(NamedTuple):
    """A chunk that is on its way from one place to another."""

    data: bytes
    """Its bytes: as they are stored, if that is gzip or no compression at all, or else decompressed."""

    is_gzip: bool
    """Whether these are gzip around the chunk."""

    was_compressed: bool
    """Whether it is stored under any compression."""

    decoded: Callable[[], bytes]
    """Its bytes without compression."""

    name: str
    """What messages call it."""

    suffix: str = ""
    """The compression's, which its name ends in; or nothing."""


class FsspecAccessor(Accessor):
    """Access to a pyramid on any protocol that fsspec knows.

    Parameters
    ----------
    url : str, path or UPath
        Where the pyramid is: a path, or any fsspec URL or chain of URLs, with ``precomputed://`` in
        front or ``|neuroglancer-precomputed:`` behind or neither; ``s3+https://endpoint/bucket/path``.
    storage_options : mapping, optional
        Options of the filesystem, as fsspec has them: flat, or nested by protocol for a chain.
    fs : fsspec.AbstractFileSystem, optional
        A filesystem to use instead of making one; `url` is then a path in it.
    anon : bool, optional
        Whether to go without credentials, on S3, GCS and Azure alike. By default: if the machine has
        none, which is found out in a fraction of a second.
    flat : bool
        How chunks are named when writing: as the format's specification says, or with False in
        sub-directories as neuroglancer-scripts does. Reading finds either.
    gzip : bool or None
        Whether what is not JSON, JPEG or PNG is compressed when writing. None: where the protocol can say so in
        Content-Encoding, which every reader understands, and not where only a suffix of the name would.
    compresslevel : int
        0 (stored) to 9 (smallest).
    attempts : int
        How often a request is sent at most, if it fails in a way that may pass.
    timeout : float
        Seconds without a byte after which a request has failed; so has a read that is slower than 1 KiB a second on
        average after that time. No request is repeated later than 30 seconds after it was first sent.
    denied_is_missing : bool
        Whether a chunk or shard for which the store answers 403 is absent, once `info` was read. So S3 answers for
        what is not there in buckets that may be read but not listed, as public ones often are. A 401, credentials
        that are wrong or have expired, and reasons of another kind stay errors; so does a 403 for any other file, and
        for `file_exists`.

    max_gap : int
        Bytes between two wanted chunks of a shard that are read in vain to save a request.
    max_range : int
        Bytes beyond which no range of a shard grows by joining chunks that lie together.
    max_info_bytes : int
        Bytes that `info` may have without compression.
    max_file_bytes : int
        Bytes that any other file may have without compression. For a chunk, this holds only where `info` does
        not say how large it can be.

    Raises
    ------
    URLError
        If the URL is of no known scheme, or the scheme's driver is not installed.
    ValueError
        If an option is out of its range.

    Notes
    -----
    Nothing is sent before the first use. Accessors may be pickled, used by many threads at once and
    inherited by a fork. Each verb has a twin that ends in ``_async``, to be awaited in any event loop.
    """

    def __init__(
        self,
        url: AnyURL | Location,
        *,
        storage_options: Mapping[str, Any] | None = None,
        fs: Filesystem = None,
        anon: bool | None = None,
        flat: bool = True,
        gzip: bool | None = True,
        compresslevel: int = 9,
        attempts: int = 5,
        timeout: float = 30.0,
        denied_is_missing: bool = False,
        max_gap: int = MAX_GAP,
        max_range: int = MAX_RANGE,
        max_info_bytes: int = MAX_INFO_BYTES,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        if compresslevel not in range(10):
            message = f"compresslevel: expected 0 to 9, got {compresslevel!r}"
            raise ValueError(message)
        if attempts < 1 or not timeout > 0:
            message = f"expected attempts >= 1 and timeout > 0, got {attempts!r} and {timeout!r}"
            raise ValueError(message)
        if max_gap < 0 or max_range < 1:
            message = f"expected max_gap >= 0 and max_range >= 1, got {max_gap!r} and {max_range!r}"
            raise ValueError(message)
        if max_info_bytes < 1 or max_file_bytes < 1:
            given = f"{max_info_bytes!r} and {max_file_bytes!r}"
            message = f"expected max_info_bytes >= 1 and max_file_bytes >= 1, got {given}"
            raise ValueError(message)
        self._location = resolve(url, storage_options=storage_options, fs=fs, anon=anon)
        self._store = ObjectStore(
            self._location, attempts=attempts, timeout=timeout, denied_is_missing=denied_is_missing
        )
        self._flat = flat
        self._gzip = gzip
        self._compresslevel = compresslevel
        self._max_gap = max_gap
        self._max_range = max_range
        self._max_info_bytes = max_info_bytes
        self._max_file_bytes = max_file_bytes
        self._shards = ShardReader(self._store)
        self._writer = ShardWriter(self._store, self._shards, compresslevel)
        self._scales: dict[str, _ScaleNames] = {}
        self._info: Mapping[str, Any] | None = None
        self._info_error: NotFoundError | AccessDeniedError | None = None
        self._info_generation = 0
        self._layouts: dict[str, ScaleLayout] = {}
        self.can_read = self._location.readable
        self.can_write = self._location.writable
        self._writer.watch(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def location(self) -> Location:
        """Where the pyramid is, and how it is reached."""
        return self._location

    @property
    def denied_is_missing(self) -> bool:
        """Whether a 403 for a chunk means that it is absent."""
        return self._store.denied_is_missing

    @property
    def url(self) -> str:
        """Where the pyramid is, to be shown: without query, password or options."""
        return self._location.display()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._writer.watch(self)

    def layouts_met(self, key: str) -> frozenset[str]:
        """Return how the chunks of a scale that were met so far are named: "flat", "sub-directories".

        Nothing is asked of the store.
        """
        return frozenset("flat" if variant.flat else "sub-directories" for variant in self._names_in(key).known())

    def flush(self) -> None:
        """Write the shards that stored chunks wait for; nothing else waits.

        Raises
        ------
        AlreadyExistsError
            If another writer has meanwhile stored a chunk that was stored here with
            ``overwrite=False``: that chunk is let go, all others are written.
        DataAccessError
            If a shard cannot be written, or another writer has changed it meanwhile. Nothing is
            lost: what is not written goes on waiting.
        """
        if self._writer.waiting:
            self._writer.flush()

    async def flush_async(self) -> None:
        """Write the shards that stored chunks wait for: `flush`, to be awaited."""
        await in_thread(self.flush)

    def close(self) -> None:
        """Flush, and let go of connections; an archive that is being written is completed by this."""
        try:
            self.flush()
        finally:
            self._store.close()

    # ------------------------------------------------------------------------------ the verbs

    def file_exists(self, relative_path: str) -> bool:
        """Tell whether there is a file, compressed or not.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid.

        Raises
        ------
        ValueError
            If the path leaves the pyramid.
        DataAccessError
            If the store did not say whether there is one; never False for a failure.
        """
        name = self._to_read(relative_path)
        return self._store.run(_any_exists(name + suffix for suffix in _suffixes_of(name)))

    async def file_exists_async(self, relative_path: str) -> bool:
        """Tell whether there is a file: `file_exists`, to be awaited."""
        return await in_thread(functools.partial(self.file_exists, relative_path))

    def fetch_file(self, relative_path: str) -> bytes:
        """Fetch a file, without the compression it is stored with.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid. A path that itself ends in a compression's
            suffix names the compressed bytes.

        Raises
        ------
        ValueError
            If the path leaves the pyramid.
        NotFoundError, AccessDeniedError, CorruptDataError, DataAccessError
            See `precomputed_fs.errors`.
        """
        return self.decoded(self.find_file(relative_path))

    async def fetch_file_async(self, relative_path: str) -> bytes:
        """Fetch a file: `fetch_file`, to be awaited."""
        return await in_thread(functools.partial(self.fetch_file, relative_path))

    def fetch_chunk(self, key: str, chunk_coords: ChunkCoords) -> bytes:
        """Fetch a chunk, encoded as its scale says, without the compression it is stored with.

        Parameters
        ----------
        key : str
            The scale's key.
        chunk_coords : tuple of int
            ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open, voxel_offset included.

        Raises
        ------
        ValueError
            If the coordinates are not six integers that span a box, or the key leaves the pyramid.
        NotFoundError
            If the store said that the chunk is not there, under any of its names.
        AccessDeniedError, CorruptDataError, DataAccessError
            See `precomputed_fs.errors`.
        """
        return self.decoded(self.find_chunk(key, chunk_coords))

    @property
    def max_info_bytes(self) -> int:
        """How many bytes `info` may have."""
        return self._max_info_bytes

    def fetch_info(self) -> Mapping[str, Any]:
        """Fetch `info` as it is, parsed; once, and shared with what the other verbs need of it.

        Raises
        ------
        NotFoundError, AccessDeniedError, DataAccessError
            If it cannot be read; where a pyramid is being made, or was not completed, the message says so.
        InvalidInfoError
            If it is no JSON object.
        """
        self._to_read("info")
        info = self._store.run(self._read_info())
        if self._info_error is not None:
            if isinstance(self._info_error, NotFoundError) and (unfinished := claims.unfinished(self)):
                raise NotFoundError(unfinished) from self._info_error
            raise self._info_error
        return info

    @contextlib.contextmanager
    def replacing_shards(self, keys: Iterable[str]) -> Iterator[None]:
        """Write the shards of some scales anew, whatever there is: each is merged from its second time on.

        Afterwards all are merged, as always: what is there then may be another writer's. If the block fails, chunks
        that wait are discarded.
        """
        self._writer.replace_shards(key.removesuffix("/") for key in keys)
        try:
            yield
        except BaseException:
            self._writer.drop()
            raise
        finally:
            self._writer.replace_shards(())

    def confined(self) -> "FsspecAccessor":
        """Return an accessor that shares all and, to read, follows no symbolic link out of the pyramid."""
        store = self._store.confined()
        if store is self._store:
            return self
        twin = object.__new__(type(self))
        vars(twin).update({**vars(self), "_store": store, "_shards": ShardReader(store)})
        return twin

    def check_info(self) -> None:
        """Check that `info` may be read, where files have links and it costs no request.

        Raises
        ------
        AccessDeniedError
            If it may not.
        """
        if self._store.protocol.follows_links and self._location.behind is None:
            with contextlib.suppress(NotFoundError):
                self.find_file("info")

    @contextlib.contextmanager
    def apart(self) -> Iterator["FsspecAccessor"]:
        """Use an accessor that shares all but what waits for shards: not flushed in the block, that is let go of.

        So many tasks of a process write shards by one set of connections, and neither write nor lose one another's
        chunks; and of a task that failed nothing is left to be written later, when it may be older than what is there.
        """
        writer = ShardWriter(self._store, self._shards, self._compresslevel)
        twin = object.__new__(type(self))
        vars(twin).update({**vars(self), "_writer": writer})  # and nobody watches what waits there
        try:
            yield twin
        finally:
            writer.drop()

    def store_info(self, text: bytes, *, overwrite: bool, listed: Collection[str] | None) -> None:
        """Store `info` where the names that it stands under are known: `store_file` without the request for them."""
        packed = self._packed(self._to_write("info"), text, "application/json")
        self._store_file("info", packed, overwrite=overwrite, listed=listed)

    @contextlib.contextmanager
    def expecting_info(self, info: Mapping[str, Any]) -> Iterator[None]:
        """Go by an `info` that is not stored yet, so that what is stored does not look whole meanwhile."""
        try:
            self._go_by_info(info)
            yield
        finally:
            self._go_by_info(None)

    def _go_by_info(self, info: Mapping[str, Any] | None) -> None:
        self._info_generation += 1
        self._info, self._info_error, self._layouts = info, None, {}

    def delete_file(self, relative_path: str) -> None:
        """Delete a file, under every name that it may have; that there is none is no error."""
        name = self._to_write(relative_path)
        for other in (name, *self._other_names(name, "")):
            self._store.delete(other)

    def for_scale(self, key: str) -> tuple["FsspecAccessor", str]:
        """Return the accessor and the key to reach a scale by, if its key in `info` has ``..`` in it.

        Such a scale is outside of the pyramid, and no verb takes its key as it is; the format allows
        it, and here it may be anywhere in the same bucket, host or archive.

        Raises
        ------
        ValueError
            If the key leaves that, too.
        """
        if ".." not in key.split("/"):
            return self, key.removesuffix("/")
        inside = posixpath.normpath(key)
        levels = inside.split("/").count("..")
        inside = check_relative_path(inside.removeprefix("../" * levels))
        other: FsspecAccessor = self.at(self._location.above(levels) if levels else self._location)
        other._layouts[inside] = self._layout(key)
        return other, inside

    def at(self, location: Location, *, denied_is_missing: bool | None = None) -> "FsspecAccessor":
        """Make an accessor of a place, with the same options as this one unless told, and with its own connections."""
        return FsspecAccessor(
            location,
            flat=self._flat,
            gzip=self._gzip,
            compresslevel=self._compresslevel,
            attempts=self._store.attempts,
            timeout=self._store.timeout,
            denied_is_missing=self.denied_is_missing if denied_is_missing is None else denied_is_missing,
            max_gap=self._max_gap,
            max_range=self._max_range,
            max_info_bytes=self._max_info_bytes,
            max_file_bytes=self._max_file_bytes,
        )

    async def fetch_chunk_async(self, key: str, chunk_coords: ChunkCoords) -> bytes:
        """Fetch a chunk: `fetch_chunk`, to be awaited."""
        return await in_thread(functools.partial(self.fetch_chunk, key, chunk_coords))

    def store_file(
        self,
        relative_path: str,
        buf: Buffer,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a file, whole or not at all.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid. Under a path that itself ends in a
            compression's suffix the bytes are stored as they are.
        buf : bytes-like
            The contents.
        mime_type : str
            The media type; stored as Content-Type where the protocol can.
        overwrite : bool
            Whether an existing file is replaced. Afterwards there is just one, under one name.

        Raises
        ------
        AlreadyExistsError
            If ``overwrite=False`` and there is one, compressed or not.
        ReadOnlyError
            If the protocol cannot be written to; see `can_write`.
        ValueError
            If the path leaves the pyramid.
        AccessDeniedError, DataAccessError
            See `precomputed_fs.errors`.
        """
        name = self._to_write(relative_path)
        packed = self._packed(name, _bytes_of(buf), _checked_mime_type(mime_type))
        self._store_file(name, packed, overwrite=overwrite)

    async def store_file_async(
        self,
        relative_path: str,
        buf: Buffer,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a file: `store_file`, to be awaited."""
        store = functools.partial(self.store_file, mime_type=mime_type, overwrite=overwrite)
        await in_thread(functools.partial(store, relative_path, _bytes_of(buf)))

    def store_chunk(
        self,
        buf: Buffer,
        key: str,
        chunk_coords: ChunkCoords,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a chunk, whole or not at all.

        Parameters
        ----------
        buf : bytes-like
            The chunk, encoded as its scale says.
        key : str
            The scale's key.
        chunk_coords : tuple of int
            ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open, voxel_offset included.
        mime_type : str
            The media type; stored as Content-Type where the protocol can.
        overwrite : bool
            Whether an existing chunk is replaced. Afterwards there is just one, under one name.

        Raises
        ------
        AlreadyExistsError
            If ``overwrite=False`` and there is one, under any of its names.
        ReadOnlyError
            If the protocol cannot be written to; see `can_write`.
        ValueError
            If the coordinates are not six integers that span a box, or the key leaves the pyramid.
        AccessDeniedError, DataAccessError
            See `precomputed_fs.errors`.
        """
        key, coords = self._chunk_to_write(key, chunk_coords)
        make = _ready(buf)
        self._store.run(self._store_one(key, coords, make, _checked_mime_type(mime_type), overwrite=overwrite))

    async def store_chunk_async(
        self,
        buf: Buffer,
        key: str,
        chunk_coords: ChunkCoords,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a chunk: `store_chunk`, to be awaited."""
        store = functools.partial(self.store_chunk, mime_type=mime_type, overwrite=overwrite)
        await in_thread(functools.partial(store, _bytes_of(buf), key, chunk_coords))

    # -------------------------------------------------------------------------------- batches

    @overload
    def fetch_chunks(
        self,
        key: str,
        chunk_coords: Iterable[ChunkCoords],
        *,
        decode: None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> Iterator[tuple[ChunkCoords, bytes | None]]: ...

    @overload
    def fetch_chunks(
        self,
        key: str,
        chunk_coords: Iterable[ChunkCoords],
        *,
        decode: Decode[_T],
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> Iterator[tuple[ChunkCoords, _T]]: ...

    def fetch_chunks(
        self,
        key: str,
        chunk_coords: Iterable[ChunkCoords],
        *,
        decode: Decode[Any] | None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> Iterator[tuple[ChunkCoords, Any]]:
        """Fetch many chunks at once.

        Parameters
        ----------
        key : str
            The scale's key.
        chunk_coords : iterable of tuple of int
            Consumed as the results are, so it may be as long as it likes; of a sharded scale more and
            more at once, up to 4096.
        decode : callable, optional
            ``(coords, bytes or None)`` to what is yielded in the place of the bytes. Called in one
            of many threads, as soon as the chunk has come.
        in_flight : int
            Requests under way at once, and results that wait to be consumed.
        callback : fsspec.callbacks.Callback, optional
            Told of each chunk that has come, and of their number if the coordinates have a length.

        Yields
        ------
        tuple of int, bytes or None
            The coordinates and the chunk, in the order in which they come; None: it is absent.

        Raises
        ------
        AccessDeniedError, CorruptDataError, DataAccessError
            For the first chunk that fails, named in the message; the iteration ends. A
            CorruptDataError of `decode` is one of these.
        """
        key = self._to_read(key)
        layout = self._layout(key)
        in_flight = _checked_in_flight(in_flight)
        batch = self._finding_jobs(key, layout, _counted(chunk_coords, callback), in_flight, self._max_range)
        finish = functools.partial(self._finished, decode)
        for results in self._store.run_many(batch, in_flight, finish, _per_hop(layout)):
            for result in results:
                _tell(callback)
                yield result

    async def fetch_chunks_async(
        self,
        key: str,
        chunk_coords: Iterable[ChunkCoords],
        *,
        decode: Decode[Any] | None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> AsyncIterator[tuple[ChunkCoords, Any]]:
        """Fetch many chunks at once: `fetch_chunks`, with ``async for`` in any event loop."""
        key = self._to_read(key)
        layout = await in_thread(functools.partial(self._layout, key))
        in_flight = _checked_in_flight(in_flight)
        batch = self._finding_jobs(key, layout, _counted(chunk_coords, callback), in_flight, self._max_range)
        finish = functools.partial(self._finished, decode)
        found = self._store.run_many_async(batch, in_flight, finish, _per_hop(layout))
        async with contextlib.aclosing(found):
            async for results in found:
                for result in results:
                    _tell(callback)
                    yield result

    def store_chunks(
        self,
        key: str,
        chunks: Iterable[tuple[ChunkCoords, Any]],
        *,
        encode: Encode | None = None,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> None:
        """Store many chunks at once.

        Parameters
        ----------
        key : str
            The scale's key.
        chunks : iterable of (tuple of int, bytes-like)
            Coordinates and encoded chunks; consumed as chunks are stored, so it may be a generator
            of any length.
        encode : callable, optional
            ``(coords, chunk)`` to the bytes to store, for chunks that are something else so far.
            Called in one of many threads.
        mime_type, overwrite
            As for `store_chunk`.
        in_flight : int
            Chunks that are compressed and sent at once.
        callback : fsspec.callbacks.Callback, optional
            Told of each chunk that is stored, and of their number if the chunks have a length.

        Raises
        ------
        AlreadyExistsError, AccessDeniedError, DataAccessError
            For the first chunk that fails, named in the message; of those before it, some may be stored.
        """
        batch = self._store_jobs(
            self._to_write(key), _counted(chunks, callback), encode, mime_type, overwrite=overwrite
        )
        for stored in self._store.run_many(batch, _checked_in_flight(in_flight)):
            _tell(callback, len(stored))

    async def store_chunks_async(
        self,
        key: str,
        chunks: Iterable[tuple[ChunkCoords, Any]],
        *,
        encode: Encode | None = None,
        mime_type: str = _OCTET_STREAM,
        overwrite: bool = False,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> None:
        """Store many chunks at once: `store_chunks`, to be awaited."""
        batch = self._store_jobs(
            self._to_write(key), _counted(chunks, callback), encode, mime_type, overwrite=overwrite
        )
        async for stored in self._store.run_many_async(batch, _checked_in_flight(in_flight)):
            _tell(callback, len(stored))

    def _finding_jobs(
        self, key: str, layout: ScaleLayout, wanted: Iterable[Iterable[int]], window: int, range_size: int
    ) -> Iterator[Job[Any]]:
        """Plan how chunks are found; the jobs return lists of ``(coords, found or None)``."""
        checked = map(chunk_coords, wanted)
        sharding, grid = layout.sharding, layout.grid
        if sharding is None or grid is None:
            return (self._find_alone_or_none(key, layout, coords) for coords in checked)

        began = self._writer.flushes

        def finish(coords: ChunkCoords, stored: Stored | None) -> Job[tuple[ChunkCoords, Found | None]]:
            flushes = began
            while True:
                chunk = (yield from self._waiting_chunk(key, sharding, grid, coords, stored)) or stored
                if self._writer.flushes == flushes:
                    return coords, None if chunk is None else self._from_shard(layout, coords, chunk)
                flushes = self._writer.flushes  # what waited while it was fetched may have been written since
                chunk_id = compressed_morton_code(grid.cell(coords), grid.shape)
                stored = yield from self._shards.fetch(key, sharding, chunk_id)

        numbered = ((compressed_morton_code(grid.cell(coords), grid.shape), coords) for coords in checked)
        gap = min(self._max_gap, range_size)
        return self._shards.fetch_many(key, sharding, numbered, finish, window=window, gap=gap, size=range_size)

    def _find_alone_or_none(
        self, key: str, layout: ScaleLayout, coords: ChunkCoords
    ) -> Job[list[tuple[ChunkCoords, Found | None]]]:
        try:
            found = yield from self._find_alone(key, layout, coords)
        except NotFoundError:
            return [(coords, None)]
        return [(coords, found)]

    def _finished(
        self, decode: Decode[Any] | None, result: tuple[ChunkCoords, Found | None]
    ) -> tuple[ChunkCoords, Any]:
        """Undo the compression of a chunk and do with it what the caller of a batch wants."""
        coords, found = result
        data = None if found is None else self.decoded(found)
        if decode is None:
            return coords, data
        if found is None:
            return coords, decode(coords, None)
        try:
            return coords, decode(coords, data)
        except CorruptDataError as exc:
            raise self._named(exc, found.name) from exc

    def _store_jobs(
        self,
        key: str,
        chunks: Iterable[tuple[Iterable[int], Any]],
        encode: Encode | None,
        mime_type: str,
        *,
        overwrite: bool,
    ) -> Iterator[Job[list[None]]]:
        for given, chunk in chunks:
            coords = chunk_coords(given)
            make = _ready(chunk) if encode is None else functools.partial(encode, coords, chunk)
            yield _listed(self._store_one(key, coords, make, _checked_mime_type(mime_type), overwrite=overwrite))

    # ------------------------------------------------------------------------- whole pyramids

    # For copies: chunks as they are stored, in places where there are no others, and which only one task writes.

    @property
    def objects(self) -> ObjectStore:
        """The objects that are there, each under just its name."""
        return self._store

    @property
    def flat(self) -> bool:
        """How chunks are named when writing."""
        return self._flat

    @property
    def says_encoding(self) -> bool:
        """Whether Content-Encoding tells of compression, not a suffix, which few readers look for."""
        return self._store.protocol.keeps_encoding

    @property
    def is_remote(self) -> bool:
        """Whether reading and writing waits for a server."""
        return self._store.protocol.is_remote

    def stored_chunks(
        self, key: str, chunk_coords: Iterable[ChunkCoords], *, range_size: int, in_flight: int
    ) -> Iterator[tuple[ChunkCoords, StoredChunk | None]]:
        """Fetch many chunks at once, as they are stored.

        Parameters
        ----------
        range_size : int
            Bytes of a shard that are read at once, at most, but for the accessor's own limit.
        in_flight : int
            Requests under way at once, and results that wait to be consumed.

        Yields
        ------
        tuple of int, StoredChunk or None
            The coordinates and the chunk, in the order in which they come; None: it is absent.
        """
        key = self._to_read(key)
        layout = self._layout(key)
        batch = self._finding_jobs(key, layout, chunk_coords, IN_FLIGHT, min(self._max_range, range_size))
        for results in self._store.run_many(batch, in_flight, self._as_stored, _per_hop(layout)):
            yield from results

    def _as_stored(self, result: tuple[ChunkCoords, Found | None]) -> tuple[ChunkCoords, StoredChunk | None]:
        coords, found = result
        return coords, None if found is None else self._stored_chunk(found)

    def _stored_chunk(self, found: Found) -> StoredChunk:
        """Tell how a chunk is stored, and undo what is neither gzip nor nothing, or not said to be gzip."""
        data = found.data
        chunk = functools.partial(StoredChunk, name=self._location.display(found.name), suffix=found.suffix)
        if not found.needs_decoding:
            return chunk(data, is_gzip=False, was_compressed=False, decoded=lambda: data)
        if may_be_gzip(data) and (found.shard_gzip or found.told in _TOLD_GZIP):
            return chunk(data, is_gzip=True, was_compressed=True, decoded=functools.partial(self.decoded, found))
        decoded = self.decoded(found)
        return chunk(decoded, is_gzip=False, was_compressed=decoded is not data, decoded=lambda: decoded)

    def put_chunk(self, key: str, chunk_coords: ChunkCoords, chunk: StoredChunk, mime_type: str, *, gzip: bool) -> int:
        """Store a chunk of an unsharded scale, whatever there is, as gzip or not.

        Returns
        -------
        int
            How many bytes are stored.
        """
        key, coords = self._chunk_to_write(key, chunk_coords)
        data = chunk.data
        if not (gzip and chunk.is_gzip):
            data = chunk.decoded()
            gzip = gzip or is_gzip(data)  # as in `_packed`
            if gzip:
                data = gzip_compress(data, self._compresslevel)
        variant = _Variant(self._flat, GZIP_SUFFIX if gzip and not self.says_encoding else "")
        encoding = GZIP_ENCODING if gzip and self.says_encoding else ""
        name = _object_name(key, coords, variant)
        if not self._store.protocol.can_replace and self._store.exists(name):
            raise self._in_the_way(name, overwrite=True)
        self._store.write(name, data, content_type=mime_type, content_encoding=encoding, create=False)
        self._names_in(key).note(variant)
        return len(data)

    @contextlib.contextmanager
    def whole_shard(self, key: str) -> Iterator[Callable[[ChunkCoords, StoredChunk], int]]:
        """Write all chunks of one shard at the end of a block, in place of whatever there is; none, if it fails.

        Yields
        ------
        callable
            ``(coords, chunk)`` to the bytes that the chunk takes; for any thread.
        """
        key = self._to_write(key)
        layout = self._layout(key)
        sharding, grid = layout.sharding, layout.grid
        if sharding is None or grid is None:
            message = f"{self._location.display(key)} is not sharded"
            raise ValueError(message)
        writer = ShardWriter(self._store, self._shards, self._compresslevel)
        writer.replace_shards([key])
        as_gzip = sharding.data_encoding == "gzip"

        def add(coords: ChunkCoords, chunk: StoredChunk) -> int:
            data = chunk.data if as_gzip else chunk.decoded()
            chunk_id = compressed_morton_code(grid.cell(coords), grid.shape)
            is_gzip = as_gzip and chunk.is_gzip
            return self._store.run(writer.add(key, sharding, chunk_id, data, overwrite=True, is_gzip=is_gzip))

        try:
            yield add
            writer.flush()
        finally:
            writer.drop()

    def has_shard(self, key: str, shard: int) -> bool:
        """Tell whether a shard is there."""
        key = self._to_read(key)
        sharding = self._layout(key).sharding
        return sharding is not None and self._store.exists(f"{key}/{sharding.shard_name(shard)}.shard")

    def missing_chunks(self, key: str, chunk_coords: Iterable[ChunkCoords]) -> list[ChunkCoords]:
        """Find out which chunks of an unsharded scale `put_chunk` has not stored.

        In a bucket, one listing tells it of all that differ along z only.
        """
        key = self._to_read(key)
        missing = []
        for _, column in itertools.groupby(chunk_coords, key=lambda coords: coords[:4]):
            wanted = list(column)
            there = self._listed_column(key, wanted) if len(wanted) > 1 else None
            missing += [coords for coords in wanted if not self._is_there(key, coords, there)]
        return missing

    def _listed_column(self, key: str, wanted: list[ChunkCoords]) -> set[str] | None:
        """List the names of chunks that differ along z only; None, if that does not tell of all."""
        if not self._store.protocol.keeps_encoding:
            return None
        name = _object_name(key, wanted[0], _Variant(self._flat, ""))
        prefix = name.removesuffix("{4}-{5}".format(*wanted[0]))
        try:
            listed = self._store.list_names(prefix, _TWIN_NAMES)
        except AccessDeniedError:  # who may not list may still write
            return None
        return set(listed) if len(listed) < _TWIN_NAMES else None

    def _is_there(self, key: str, coords: ChunkCoords, listed: set[str] | None) -> bool:
        names = (_object_name(key, coords, variant) for variant in self._own_variants())
        if listed is None:
            return any(self._store.exists(name) for name in names)
        return any(name.rpartition("/")[2] in listed for name in names)

    def has_data(self, key: str) -> bool:
        """Tell whether a scale has chunks or shards, by any `info`."""
        return any(self._data_names(f"{self._to_read(key)}/", 0))

    def delete_data(self, key: str) -> None:
        """Delete the chunks and shards that a scale has, by whatever `info` these were written.

        Raises
        ------
        DataAccessError
            If too many other objects are among them.
        """
        self._delete_data(f"{self._to_write(key)}/", 0)
        self._scales.pop(key, None)

    def _delete_data(self, folder: str, depth: int) -> bool:
        """Delete what is in a folder and in those below; tells whether there was anything."""
        deleted = False
        while names := self._data_names(folder, depth):
            files = [name for name, is_folder in names if not is_folder]
            for _ in self._store.run_many((_deleted(folder + name) for name in files), IN_FLIGHT):
                pass
            below = [self._delete_data(f"{folder}{name}/", depth + 1) for name, is_folder in names if is_folder]
            if not files and not any(below):  # on disk, empty folders stay
                break
            deleted = True
        return deleted

    def _data_names(self, folder: str, depth: int) -> list[tuple[str, bool]]:
        """List some names of chunks and shards, or of the folders of chunks, and whether they are these."""
        listed = self._store.list_names(folder, _TWIN_NAMES)
        names = [(name, is_folder) for name in listed if (is_folder := _is_data_folder(name, depth)) is not None]
        if not names and len(listed) == _TWIN_NAMES:
            shown = self._location.display(folder)
            message = f"{shown} has {_TWIN_NAMES} objects that are no chunks, and maybe more behind them"
            raise DataAccessError(message)
        return names

    # -------------------------------------------------------------------------------- finding

    def find_file(self, relative_path: str) -> Found:
        """Find a file under one of the names that it may have: what `fetch_file` decodes."""
        return self._store.run(self._find_file(self._to_read(relative_path)))

    def _find_file(self, name: str) -> Job[Found]:
        suffixes = _suffixes_of(name)
        limit = self._file_limit(name)

        def find(suffix: str) -> Job[Found | None]:
            try:
                body = yield from _read_whole(Get(name + suffix), limit)
            except NotFoundError as exc:
                if exc.is_of_bucket:
                    raise
                return None
            return Found(name + suffix, suffix, body, limit, sniff=not split_suffix(name)[1])

        found = yield from self._first(suffixes, lambda suffix: name + suffix, find)
        if found is None:
            raise self._not_found(name, len(suffixes))
        return found

    def _file_limit(self, name: str) -> Limit:
        if split_suffix(name)[0] == "info":
            return Limit(self._max_info_bytes, "the option max_info_bytes allows more")
        return Limit(self._max_file_bytes, "the option max_file_bytes allows more")

    def _chunk_limit(self, layout: ScaleLayout, size: Triple) -> Limit:
        return _chunk_limit(layout.encoding, layout.voxel, size) or self._file_limit("")

    def find_chunk(self, key: str, chunk_coords: ChunkCoords) -> Found:
        """Find a chunk under one of the names that it may have, or in its shard: what `fetch_chunk` decodes."""
        return self._store.run(self.finding(key, chunk_coords))

    def finding(self, key: str, chunk_coords: ChunkCoords) -> Job[Found]:
        """Return the job of `find_chunk`."""
        key, coords = self._chunk(key, chunk_coords)
        layout = yield from self._layout_job(key)
        if layout.sharding is None:
            return (yield from self._find_alone(key, layout, coords))
        found = yield from self._find_in_shard(key, layout, coords)
        if found is None:
            raise self._not_in_shard(key, coords)
        return found

    def fetch_range(self, relative_path: str, start: int, end: int) -> bytes:
        """Fetch some bytes of a file, such as a shard, as they are stored under just this name."""
        name, limit = self._to_read(relative_path), self._file_limit("")
        if end - start > limit.size:
            message = f"{self._location.display(name)}: asked for {end - start} bytes, of at most {limit.size}"
            raise CorruptDataError(f"{message}; {limit.reason}")
        return self._store.read(name, start, end).data

    def _find_in_shard(self, key: str, layout: ScaleLayout, coords: ChunkCoords) -> Job[Found | None]:
        sharding, grid = layout.sharding, layout.grid
        if sharding is None or grid is None:
            return None
        waits = yield from self._waiting_chunk(key, sharding, grid, coords)
        if waits is None:
            chunk_id = compressed_morton_code(grid.cell(coords), grid.shape)
            waits = yield from self._shards.fetch(key, sharding, chunk_id)
        return None if waits is None else self._from_shard(layout, coords, waits)

    def _waiting_chunk(
        self, key: str, sharding: Sharding, grid: ChunkGrid, coords: ChunkCoords, *there: Stored | None
    ) -> Job[Stored | None]:
        """Return a chunk that is stored and not flushed yet; `there` is what its shard has, if it was fetched."""
        chunk_id = compressed_morton_code(grid.cell(coords), grid.shape)

        def stored() -> Job[bytes | None]:
            chunk = there[0] if there else (yield from self._shards.fetch(key, sharding, chunk_id))
            return None if chunk is None else chunk.data

        data = yield from self._writer.find(key, sharding, chunk_id, stored)
        return None if data is None else Stored(f"{key} (not flushed)", Body([data]), 0, len(data))

    def _from_shard(self, layout: ScaleLayout, coords: ChunkCoords, stored: Stored) -> Found:
        return Found(
            f"{stored.name}, chunk {chunk_name(coords)}",
            "",
            stored.body,
            self._chunk_limit(layout, size_of(coords)),
            _raw_length(layout, coords),
            sniff=False,
            in_shard=(stored.start, stored.end),
            shard_gzip=layout.sharding is not None and layout.sharding.data_encoding == "gzip",
        )

    def _find_alone(self, key: str, layout: ScaleLayout, coords: ChunkCoords, *, versioned: bool = False) -> Job[Found]:
        tried = self._variants_to_read(self._names_in(key))
        denials: list[AccessDeniedError] = []
        find = functools.partial(self._find_variant, key, layout, coords, denials, versioned=versioned)
        found: Found | None = yield from self._first(tried, functools.partial(_object_name, key, coords), find)
        if found is not None:
            return found
        # Without `info`, the chunk may be in a shard: who may not read that does not know.
        if isinstance(self._info_error, AccessDeniedError):
            denials.append(self._info_error)
        raise denials[0] if denials else self._not_found(f"{key}/{chunk_name(coords)}", len(tried))

    def _find_variant(
        self,
        key: str,
        layout: ScaleLayout,
        coords: ChunkCoords,
        denials: list[AccessDeniedError],
        variant: _Variant,
        *,
        versioned: bool,
    ) -> Job[Found | None]:
        name = _object_name(key, coords, variant)
        limit = self._chunk_limit(layout, size_of(coords))
        try:
            body = yield from _read_whole(Get(name, versioned=versioned), limit, self._read_chunks)
        except NotFoundError:
            return None
        except AccessDeniedError as exc:  # S3 without the right to list says so of absent ones
            denials.append(exc)
            return None
        self._names_in(key).note(variant)
        return Found(name, variant.suffix, body, limit, _raw_length(layout, coords))

    def _read_chunks(self, get: Get) -> Job[Body]:
        knows_info = self._info_error is None
        return jobs.read_chunks(get, denied_is_missing=self.denied_is_missing, knows_info=knows_info)

    def _first(
        self, variants: Collection[_T], name_of: Callable[[_T], str], find: Callable[[_T], Job[Found | None]]
    ) -> Job[Found | None]:
        """Find an object under the first name that it has.

        Those that writers use are asked for again, while one may be replacing one by the other: only where misses
        are cheap; elsewhere, an object keeps its name.
        """
        for variant in variants:
            found = yield from find(variant)
            if found is not None:
                return found
        if not self._store.protocol.cheap_misses:
            return None
        usual = list(variants)[:_USUAL]
        folders = {posixpath.dirname(name_of(variant)) for variant in usual}
        folders |= {posixpath.dirname(folder) for folder in folders}
        for _ in range(_LOOKS):
            if not any((yield [ChangedLately(folder) for folder in folders])):
                return None
            for variant in usual:
                found = yield from find(variant)
                if found is not None:
                    return found
        return None

    def _layout(self, key: str) -> ScaleLayout:
        layout = self._layouts.get(key)
        return self._store.run(self._layout_job(key)) if layout is None else layout

    def _layout_job(self, key: str) -> Job[ScaleLayout]:
        """Find out how a scale is stored, from `info`, which is read once; by default without one."""
        layout = self._layouts.get(key)
        if layout is None and not self.can_read:
            layout = scale_layout(self._info or {}, key)
            if layout.sharding is not None:
                message = f"{self._location.display(key)} is sharded: an archive that is being written takes no shards"
                raise ReadOnlyError(message)
            return layout
        if layout is None:
            generation = self._info_generation
            info = yield from self._read_info()
            layout = scale_layout(info, key.removesuffix("/"), self._location.display("info"))
            if layout.sharding is not None and layout.grid is not None:
                most = self._chunk_limit(layout, layout.grid.chunk_size).size
                layout = layout.with_largest_chunk(stored_limit(most))
            if generation == self._info_generation:
                self._layouts[key] = layout
        return layout

    def _read_info(self) -> Job[Mapping[str, Any]]:
        def load() -> Job[Mapping[str, Any] | None]:
            generation = self._info_generation
            try:
                text = self.decoded((yield from self._find_file(self._to_read("info"))))
                self._info = parse_info(text, self._location.display("info"), self._max_info_bytes)
            except (NotFoundError, AccessDeniedError) as exc:  # S3 says so of absent ones to who may not list
                self._info, self._info_error = {}, exc
            info = self._info
            if generation != self._info_generation:  # stored anew meanwhile
                self._info = None
            return info

        return (yield from self._store.once("info", lambda: self._info, load)) or {}

    def _variants_to_read(self, names: _ScaleNames) -> Collection[_Variant]:
        """Choose the names to ask for, so that a scale's usual chunk takes one request.

        Once one chunk of a scale was found, the others are asked for under the same name; and under
        those that our own writer uses there, since it may have written some of them anew.
        """
        known = names.known()
        if self._store.protocol.cheap_misses or not known:
            return _VARIANTS
        return dict.fromkeys((*known, *self._own_variants())) if self.can_write else known

    def _own_variants(self) -> Iterable[_Variant]:
        if not self.can_write:
            return ()
        suffixes = ("",) if self._store.protocol.keeps_encoding else ("", GZIP_SUFFIX)
        return [_Variant(self._flat, suffix) for suffix in suffixes]

    def _names_in(self, key: str) -> _ScaleNames:
        return self._scales.get(key) or self._scales.setdefault(key, _ScaleNames())

    def decoded(self, found: Found) -> bytes:
        """Undo the compression of what was found.

        Raises
        ------
        CorruptDataError
            If that cannot be done; the message names it.
        """
        if not found.needs_decoding and len(found.data) <= found.limit.size:
            return found.data
        try:
            if found.in_shard:
                return self._decoded_from_shard(found)
            return decode(
                found.body.data,
                suffix=found.suffix,
                content_encoding=found.body.content_encoding,
                raw_length=found.raw_length,
                limit=found.limit.size,
                sniff=found.sniff,
            )
        except TooLargeError as exc:
            message = f"{self._location.display(found.name)}: {exc}; {found.limit.reason}"
            raise CorruptDataError(message) from exc
        except CorruptDataError as exc:
            raise self._named(exc, found.name) from exc

    def _named(self, exc: CorruptDataError, name: str) -> CorruptDataError:
        """Say of which object a finding is."""
        return CorruptDataError(f"{self._location.display(name)}: {exc}")

    def _decoded_from_shard(self, found: Found) -> bytes:
        """Undo a shard's encoding; the wrong length would be an index that points to other bytes."""
        data = decode_gzip_or_zlib(found.data, found.limit.size) if found.shard_gzip else found.data
        if found.raw_length is not None and len(data) != found.raw_length:
            message = f"a raw chunk of {found.raw_length} bytes is {len(data)} bytes long"
            raise CorruptDataError(message)
        return data

    def _not_found(self, name: str, names: int) -> NotFoundError:
        meant = self._location.mistaken if name == "info" else ""
        question = meant or "is the pyramid's URL right, and was all of it uploaded?"
        return NotFoundError(
            f"{self._location.display(name)} does not exist, under {names} names that it may have; {question}"
        )

    def _not_in_shard(self, key: str, coords: ChunkCoords) -> NotFoundError:
        return NotFoundError(f"{self._location.display(key)} is sharded, and no shard has chunk {coords}")

    # -------------------------------------------------------------------------------- storing

    def _packed(self, name: str, data: bytes, mime_type: str) -> _Packed:
        """Compress what is to be compressed.

        Bytes that are gzip themselves are always wrapped: reading would otherwise take them for
        something that this package compressed. A name with a suffix says what they are.
        """
        is_named = bool(split_suffix(name)[1])
        wanted = self.says_encoding if self._gzip is None else self._gzip
        wanted = wanted and mime_type.partition(";")[0].strip().lower() not in INCOMPRESSIBLE_MIME_TYPES
        if is_named or not (wanted or is_gzip(data)):
            return _Packed(data, "", mime_type, "")
        data = gzip_compress(data, self._compresslevel)
        if self.says_encoding:
            return _Packed(data, "", mime_type, GZIP_ENCODING)
        return _Packed(data, GZIP_SUFFIX, mime_type, "")

    def _store_file(
        self, name: str, packed: _Packed, *, overwrite: bool, listed: Collection[str] | None = None
    ) -> None:
        if name == "info" and self._writer.waiting:
            self._writer.flush()  # as the `info` says that they were stored under
        others = self._other_names(name, packed.suffix) if listed is None else sorted({*listed} - {name})
        self._store.run(self._put(name, name + packed.suffix, others, packed, overwrite=overwrite))
        if name == "info":
            self._info_generation += 1
            self._info = self._info_error = None
            self._layouts = {}
            if not self.can_read:  # an archive that is being written: this is the one time to see it
                with contextlib.suppress(InvalidInfoError):
                    self._info = parse_info(decode(packed.data, suffix=packed.suffix))

    def _other_names(self, name: str, suffix: str) -> list[str]:
        """List the names, besides the one to write, that the file may stand under."""
        names = {name + other for other in _suffixes_of(name)} - {name + suffix}
        if not self._store.protocol.cheap_misses:
            parent, slash, _ = name.rpartition("/")
            try:
                listed = self._store.list_names(name, _TWIN_NAMES)
            except AccessDeniedError:  # who may not list may still write
                listed = []
            names &= {f"{parent}{slash}{entry}" for entry in listed}
        return sorted(names)

    def _store_one(
        self, key: str, coords: ChunkCoords, make: Callable[[], bytes | Update], mime_type: str, *, overwrite: bool
    ) -> Job[None]:
        layout = yield from self._layout_job(key)
        data: bytes | Update = yield Compute(make)
        if layout.sharding is not None and layout.grid is not None:
            chunk_id = compressed_morton_code(layout.grid.cell(coords), layout.grid.shape)
            if isinstance(data, Update):
                yield from self._writer.update(key, layout.sharding, chunk_id, coords, data)
            else:
                yield from self._writer.add(key, layout.sharding, chunk_id, data, overwrite=overwrite)
            return
        if isinstance(data, Update):
            yield from self._update_one(key, layout, coords, data, mime_type)
            return
        packed: _Packed = yield Compute(functools.partial(self._packed, "", data, mime_type))
        names = self._names_in(key)
        variant = _Variant(self._flat, packed.suffix)
        twins = yield from self._variants_to_clear(key, names)
        others = [_object_name(key, coords, twin) for twin in twins if twin != variant]
        stem = _object_name(key, coords, _VARIANTS[0])
        yield from self._put(stem, _object_name(key, coords, variant), others, packed, overwrite=overwrite)
        names.note(variant)

    def _update_one(
        self, key: str, layout: ScaleLayout, coords: ChunkCoords, update: Update, mime_type: str
    ) -> Job[None]:
        """Change part of a chunk: replace only the version that was read, and keep its name."""
        self._to_read(key)
        stem = _object_name(key, coords, _VARIANTS[0])
        failure: Exception | None = None
        with (yield from self._store.turn(stem).begin()):
            for pause in jobs.conflicts():
                yield pause
                found: Found | None = None
                with contextlib.suppress(NotFoundError):
                    found = yield from self._find_alone(key, layout, coords, versioned=True)
                data: bytes | None = yield Compute(functools.partial(self._updated, coords, found, update))
                if data is None:
                    return
                try:
                    yield from self._put_updated(key, coords, found, data, mime_type)
                except (AlreadyExistsError, ReplacedError) as exc:
                    failure = exc
                else:
                    return
        message = f"{self._location.display(stem)}: another writer has changed it meanwhile, again and again; try again"
        raise DataAccessError(message) from failure

    def _updated(self, coords: ChunkCoords, found: Found | None, update: Update) -> bytes | None:
        if found is None:
            return update.apply(coords, None, [update.patch])
        data = self.decoded(found)
        try:
            return update.apply(coords, data, [update.patch])
        except CorruptDataError as exc:
            raise self._named(exc, found.name) from exc

    def _put_updated(
        self, key: str, coords: ChunkCoords, found: Found | None, data: bytes, mime_type: str
    ) -> Job[None]:
        """Replace the chunk that this one was made from, or create it."""
        if found is None:
            packed = yield Compute(functools.partial(self._packed, "", data, mime_type))
            yield from self._put_first(key, coords, packed)
            return
        if not self._store.protocol.can_replace:
            raise self._in_the_way(found.name, overwrite=True)
        packed = yield Compute(functools.partial(self._packed_like, found, data, mime_type))
        variant = _Variant(found.name == _object_name(key, coords, _Variant(True, found.suffix)), packed.suffix)
        name = _object_name(key, coords, variant)
        if name == found.name:
            yield from _write(name, packed, create=False, replacing=found.body.version)
        else:
            self._names_in(key).note(variant)  # whoever puts it there
            yield from _write(name, packed, create=True)
            try:
                yield from jobs.delete(found.name, found.body.version)
            except ReplacedError:  # ours was made of what was there before
                if (yield from _take_back(name, packed)):
                    raise

    def _put_first(self, key: str, coords: ChunkCoords, packed: _Packed) -> Job[None]:
        """Put a chunk where there is none, also not under another name that a writer may have used meanwhile."""
        names = self._names_in(key)
        variant = _Variant(self._flat, packed.suffix)
        name = _object_name(key, coords, variant)
        yield from _write(name, packed, create=True)
        names.note(variant)
        usual = set(_VARIANTS[:_USUAL]).intersection((yield from self._variants_to_clear(key, names))) - {variant}
        there_are_others = yield from _any_exists(_object_name(key, coords, twin) for twin in usual)
        if there_are_others and (yield from _take_back(name, packed)):
            message = f"{self._location.display(name)}: another writer has stored it under another name"
            raise ReplacedError(message)

    def _packed_like(self, found: Found, data: bytes, mime_type: str) -> _Packed:
        """Compress a chunk as the one is that it replaces, if we write such."""
        if found.suffix == GZIP_SUFFIX:
            return _Packed(gzip_compress(data, self._compresslevel), GZIP_SUFFIX, mime_type, "")
        if not found.suffix and not self._store.protocol.keeps_encoding and not is_gzip(data):
            return _Packed(data, "", mime_type, "")
        return self._packed("", data, mime_type)

    def _variants_to_clear(self, key: str, names: _ScaleNames) -> Job[Collection[_Variant]]:
        """Choose the names under which a twin of a chunk to be written may stand.

        Where a miss costs a request, these are the names that the scale was found to use: by what
        was read of it, and by looking at some of its entries before the first write.
        """
        if self._store.protocol.cheap_misses:
            return _VARIANTS
        with contextlib.suppress(AccessDeniedError, NotFoundError):  # credentials without list permission may write
            yield from self._sample(key, names)
        return dict.fromkeys((*names.known(), *self._own_variants()))

    def _sample(self, key: str, names: _ScaleNames) -> Job[None]:
        """Look at some entries of a scale, once, to learn how its chunks are named."""
        if names.sampled or self._store.protocol.cheap_misses:
            return
        names.sampled = True
        for entry in (yield List(f"{key}/", _SAMPLED_NAMES)):
            name, suffix = split_suffix(entry)
            flat = layout_of(name)
            if flat:
                names.note(_Variant(flat, suffix))
            elif flat is not None and not suffix:
                names.folders = True

    def _put(self, stem: str, name: str, others: list[str], packed: _Packed, *, overwrite: bool) -> Job[None]:
        """Write an object and see to it that it is the only one of its twins.

        Jobs take turns at the names of one object. Another process may take ours for a twin of
        what it writes, under another name: so it is looked at in the end, and written again.
        """
        replaceable = self._store.protocol.can_replace
        with (yield from self._store.turn(stem).begin()):
            if not overwrite or not replaceable:
                for other in others if replaceable else (name, *others):
                    if (yield from jobs.exists(other)):
                        raise self._in_the_way(other, overwrite=overwrite)
            for _ in range(_TWIN_ROUNDS):
                try:
                    yield from _write(name, packed, create=not overwrite)
                except AlreadyExistsError as exc:
                    raise self._in_the_way(name, overwrite=overwrite) from exc
                if not overwrite or not replaceable:
                    return
                for other in others:  # the new data is in place before the old twins go
                    yield Delete(other)
                if not others or (yield from jobs.exists(name)):
                    return
            yield from _write(name, packed, create=False)  # two that go on like this would both leave nothing

    def _in_the_way(self, name: str, *, overwrite: bool) -> DataAccessError:
        shown = self._location.display(name)
        if overwrite:
            return DataAccessError(f"{shown} exists, and this kind of archive cannot replace it")
        return AlreadyExistsError(f"{shown} exists; pass overwrite=True to replace it")

    # ------------------------------------------------------------------------------- checking

    def _to_read(self, relative_path: str) -> str:
        name = check_relative_path(relative_path)
        if not self.can_read:
            message = f"{self._location.display(name)}: this archive is open for writing"
            raise ReadOnlyError(message)
        self._store.open()
        return name

    def _to_write(self, relative_path: str) -> str:
        name = check_relative_path(relative_path)
        if not self.can_write:
            message = (
                f"{self._location.display(name)}: {self._location.links[0].protocol}:// is read-only "
                "here; write to where the data is stored"
            )
            raise ReadOnlyError(message)
        self._store.open()
        return name

    def _chunk(self, key: str, coords: Iterable[int]) -> tuple[str, ChunkCoords]:
        return self._to_read(key), chunk_coords(coords)

    def _chunk_to_write(self, key: str, coords: Iterable[int]) -> tuple[str, ChunkCoords]:
        return self._to_write(key), chunk_coords(coords)


def get_accessor_for_url(
    url: AnyURL,
    accessor_options: Mapping[str, Any] = {},
) -> FsspecAccessor:
    """Make an accessor for a pyramid's URL.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    accessor_options : mapping
        Options of `FsspecAccessor`. Unknown ones are ignored, and so are those that are None, so
        that ``vars(args)`` of a command line with `add_argparse_options` can be passed.

    Raises
    ------
    URLError
        If the URL is of no known scheme, or the scheme's driver is not installed.
    """
    options = {name: accessor_options[name] for name in _OPTION_NAMES if accessor_options.get(name) is not None}
    return FsspecAccessor(url, **options)


_OPTION_NAMES = tuple(FsspecAccessor.__init__.__kwdefaults__ or ())


def accessor_with(url: AnyURL | Location, options: Mapping[str, Any]) -> FsspecAccessor:
    """Make an accessor with options that were given to another function.

    Raises
    ------
    TypeError
        If some are not options of `FsspecAccessor`; the message says where those of the filesystem go.
    """
    if unknown := [name for name in options if name not in _OPTION_NAMES]:
        message = (
            f"{', '.join(unknown)}: not among the options, which are {', '.join(_OPTION_NAMES)}; those of the "
            "filesystem go into storage_options={...}, and an encoding's parameters need that encoding"
        )
        raise TypeError(message)
    return FsspecAccessor(url, **options)


def add_argparse_options(
    parser: argparse.ArgumentParser,
    write_chunks: bool = True,
    write_files: bool = True,
) -> None:
    """Add the command-line options for writing pyramids.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    write_chunks : bool
        Whether the command writes chunks.
    write_files : bool
        Whether the command writes other files.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_argparse_options(parser)
    >>> vars(parser.parse_args(["--no-gzip"]))
    {'gzip': False, 'compresslevel': 9, 'flat': True}
    """
    if not (write_chunks or write_files):
        return
    group = parser.add_argument_group("Options for file storage")
    group.add_argument(
        "--no-gzip",
        "--no-compression",
        action="store_false",
        dest="gzip",
        help="do not compress with gzip what is written",
    )
    group.add_argument(
        "--compresslevel",
        type=int,
        default=9,
        choices=range(10),
        help="level of the gzip compression (0 to 9, default 9)",
    )
    if write_chunks:
        group.add_argument(
            "--flat",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="name chunks as the format's specification says (the default); with --no-flat put "
            "them into sub-directories, which Neuroglancer cannot read without a special web server",
        )


def _checked_mime_type(mime_type: str) -> str:
    if not mime_type.isprintable() or not mime_type.isascii():
        message = f"mime_type: expected a media type, got {mime_type!r}"
        raise ValueError(message)
    return mime_type


def _bytes_of(buf: Buffer) -> bytes:
    return buf if isinstance(buf, bytes) else memoryview(buf).tobytes(order="A")


def _ready(buf: Buffer | Update) -> Callable[[], bytes | Update]:
    """Take the bytes now, as the caller may go on to change the buffer."""
    data = buf if isinstance(buf, Update) else _bytes_of(buf)
    return lambda: data


def _checked_in_flight(in_flight: int) -> int:
    if in_flight < 1:
        message = f"in_flight: expected at least 1, got {in_flight!r}"
        raise ValueError(message)
    return in_flight


def _counted(items: Iterable[_T], callback: Callback) -> Iterable[_T]:
    """Tell a callback how many there will be, if they have a length."""
    if callback is not None and isinstance(items, Sized):
        callback.set_size(len(items))
    return items


def _tell(callback: Callback, count: int = 1) -> None:
    if callback is not None:
        callback.relative_update(count)


def _per_hop(layout: ScaleLayout) -> int:
    """Return how many chunks of a scale one thread is given at once."""
    return max(1, HOP // layout.chunk_bytes)


def _listed(job: Job[_T]) -> Job[list[_T]]:
    return [(yield from job)]


def _deleted(name: str) -> Job[list[None]]:
    yield Delete(name)
    return [None]


def _any_exists(names: Iterable[str]) -> Job[bool]:
    for name in names:
        if (yield from jobs.exists(name)):
            return True
    return False


def _read_whole(get: Get, limit: Limit, read: Callable[[Get], Job[Body]] = jobs.read) -> Job[Body]:
    get.limit = stored_limit(limit.size)
    try:
        return (yield from read(get))
    except TooLargeError as exc:
        message = f"{exc}; {limit.reason}"
        raise CorruptDataError(message) from exc


def _write(name: str, packed: _Packed, *, create: bool, replacing: str = "") -> Job[None]:
    put = Put(name, packed.data, packed.content_type, packed.content_encoding, create, replacing)
    return jobs.write(put)


def _take_back(name: str, packed: _Packed) -> Job[bool]:
    """Delete what was just stored; False, if another writer has gone on from it, which is as good as ours there."""
    try:
        ours: Body = yield Get(name, versioned=True)
    except NotFoundError:
        return True
    if ours.data != packed.data:
        return False
    yield from jobs.delete(name, ours.version)
    return True


def _object_name(key: str, coords: ChunkCoords, variant: _Variant) -> str:
    return f"{key}/{chunk_name(coords, flat=variant.flat)}{variant.suffix}"


@functools.lru_cache
def _chunk_limit(encoding: str, voxel: Chunk | None, size: Triple) -> Limit | None:
    """Return how many bytes a chunk of a size can have, if that is known; there are few sizes in a scale."""
    most = None if voxel is None else largest_chunk(encoding, voxel._replace(size=size))
    if most is None:
        return None
    return Limit(most, f"no {encoding} chunk of {' x '.join(map(str, size))} voxels has more")


def _suffixes_of(name: str) -> tuple[str, ...]:
    """Return the suffixes that a file's name may carry: none more, if it has one."""
    return ("",) if split_suffix(name)[1] else SUFFIXES


def _is_data_folder(name: str, depth: int) -> bool | None:
    """Tell of an entry so deep in a scale whether it is a folder of chunks; None, if it is no data at all."""
    stem, suffix = split_suffix(name)
    is_flat = layout_of(stem)
    if is_flat is False:
        if depth < _CHUNK_DEPTH:
            return None if suffix else True
        return False
    is_data = depth == 0 and (is_flat or name.endswith((".shard", ".index", ".data")))
    return False if is_data else None


def _raw_length(layout: ScaleLayout, coords: ChunkCoords) -> int | None:
    """Compute the length in bytes of a raw chunk; None if the scale is not known to be raw."""
    if layout.raw_voxel_bytes is None:
        return None
    x, y, z = size_of(coords)
    return layout.raw_voxel_bytes * x * y * z
