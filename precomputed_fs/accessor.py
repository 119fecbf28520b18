"""The face: byte-level access to a pyramid, by the contract of ``neuroglancer_scripts.accessor``.

An accessor names objects, knows the names that they may have, and undoes their compression; it
does not interpret what is in them. `FsspecAccessor` is the one for every protocol.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, overload

from precomputed_fs.contract import Accessor, add_argparse_options
from precomputed_fs.errors import DataAccessError, URLError
from precomputed_fs.format.byte_sizes import bytes_in
from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.format.info_text import MAX_INFO_BYTES
from precomputed_fs.keywords import spelled_out
from precomputed_fs.pyramid.batches import IN_FLIGHT, Callback, Decode
from precomputed_fs.pyramid.buffers import OCTET_STREAM, Buffer, bytes_of
from precomputed_fs.pyramid.options import MAX_FILE_BYTES, MAX_GAP, MAX_RANGE, Options
from precomputed_fs.pyramid.pyramid import Encode, Pyramid
from precomputed_fs.store.location import Location, resolve
from precomputed_fs.store.loop import in_thread
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.protocols.base import Filesystem
from precomputed_fs.store.url import AnyURL, convert_file_url_to_pathname

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
        Whether to read without credentials, on S3, GCS and Azure alike. By default, credentials are used if the
        machine has any, which takes a fraction of a second to find out.
    flat : bool
        How chunks are named when writing: as in the format's specification, or (False) in sub-directories
        as neuroglancer-scripts names them. Reading finds both.
    gzip : bool or None
        Whether to compress what is written, except JSON, JPEG and PNG. None: only where Content-Encoding marks
        it, which every reader understands, and not where a suffix of the name would.
    compresslevel : int
        0 (stored) to 9 (smallest).
    attempts : int
        How often a request is sent at most, if its failures are transient.
    timeout : float
        Seconds without a byte after which a request fails. After that time, a read also fails if it is slower than
        1 KiB a second on average. No request is retried later than 30 seconds after it was first sent.
    denied_is_missing : bool
        Whether a 403 for a chunk or shard means that it is absent, once `info` was read. S3 answers this way for
        absent objects in buckets that may be read but not listed, as many public ones are. Other reasons stay errors:
        a 401, credentials that are wrong or have expired, and a 403 for any other file or in `file_exists`.

    max_gap : int
        Most unwanted bytes between two chunks of a shard that are read to save a request.
    max_range : int
        Most bytes of a shard in one request, when adjacent chunks are read together.
    max_info_bytes : int
        Most bytes of `info`, without compression.
    max_file_bytes : int
        Most bytes of any other file, without compression; for a chunk, only where `info` does not limit its size.
    cache : int or str
        Bytes of memory, or a text such as "1 GiB", in which chunks that were fetched are kept as they are stored, and
        that they are absent; the least recently used go first. What this accessor writes is dropped from it; what
        others write is not seen. A pickled accessor begins with an empty cache.

    Raises
    ------
    URLError
        If the URL's scheme is unknown, or its driver is not installed.
    ValueError
        If an option is out of range.

    Notes
    -----
    Nothing is sent before the first use. Accessors can be pickled, shared by threads, and used after a fork.
    Each verb has a twin that ends in ``_async``, for any event loop.
    """

    @spelled_out()
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
        cache: int | str = 0,
    ) -> None:
        kept = bytes_in(cache, "cache")
        options = Options(flat, gzip, compresslevel, max_gap, max_range, max_info_bytes, max_file_bytes, kept)
        try:
            is_valid = attempts >= 1 and timeout > 0
        except TypeError:
            is_valid = False
        if not is_valid:
            raise ValueError(f"expected attempts >= 1 and timeout > 0, got {attempts!r} and {timeout!r}")
        location = resolve(url, storage_options=storage_options, fs=fs, anon=anon)
        store = ObjectStore(location, attempts=attempts, timeout=timeout, denied_is_missing=denied_is_missing)
        self._pyramid = Pyramid(store, options)
        self.can_read = location.readable
        """Whether the protocol can be read."""

        self.can_write = location.writable
        """Whether the protocol can be written to."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def pyramid(self) -> Pyramid:
        """The same pyramid with more verbs, for the other packages."""
        return self._pyramid

    @property
    def url(self) -> str:
        """Where the pyramid is, without secrets, such as a query, a password or options."""
        return self._pyramid.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> None:
        """Write the shards of stored chunks. Only chunks of sharded scales wait for this.

        Raises
        ------
        AlreadyExistsError
            If another writer has meanwhile stored a chunk that was stored here with
            ``overwrite=False``: that chunk is discarded, all others are written.
        DataAccessError
            If a shard cannot be written, or another writer has changed it meanwhile. Nothing is
            lost: unwritten chunks go on waiting.
        """
        self._pyramid.flush()

    async def flush_async(self) -> None:
        """Write the shards of stored chunks: `flush`, awaited."""
        await in_thread(self.flush)

    def close(self) -> None:
        """Flush, and close connections. This completes an archive that is being written."""
        self._pyramid.close()

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
            If the store did not say whether there is one. A failure is never False.
        """
        return self._pyramid.file_exists(relative_path)

    async def file_exists_async(self, relative_path: str) -> bool:
        """Tell whether there is a file: `file_exists`, awaited."""
        return await in_thread(functools.partial(self.file_exists, relative_path))

    def fetch_file(self, relative_path: str) -> bytes:
        """Fetch a file, without the compression it is stored with.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid. A path that ends in a compression's suffix
            names the compressed bytes.

        Raises
        ------
        ValueError
            If the path leaves the pyramid.
        NotFoundError, AccessDeniedError, CorruptDataError, DataAccessError
            See `precomputed_fs.errors`.
        """
        return self._pyramid.fetch_file(relative_path)

    async def fetch_file_async(self, relative_path: str) -> bytes:
        """Fetch a file: `fetch_file`, awaited."""
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
        return self._pyramid.fetch_chunk(key, chunk_coords)

    async def fetch_chunk_async(self, key: str, chunk_coords: ChunkCoords) -> bytes:
        """Fetch a chunk: `fetch_chunk`, awaited."""
        return await in_thread(functools.partial(self.fetch_chunk, key, chunk_coords))

    def store_file(
        self,
        relative_path: str,
        buf: Buffer,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a file, whole or not at all.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid. If it ends in a compression's suffix,
            the bytes are stored as they are.
        buf : bytes-like
            The contents.
        mime_type : str
            The media type; stored as Content-Type where the protocol can.
        overwrite : bool
            Whether to replace an existing file. Afterwards there is exactly one, under one name.

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
        self._pyramid.store_file(relative_path, buf, mime_type, overwrite)

    async def store_file_async(
        self,
        relative_path: str,
        buf: Buffer,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a file: `store_file`, awaited."""
        store = functools.partial(self.store_file, mime_type=mime_type, overwrite=overwrite)
        await in_thread(functools.partial(store, relative_path, bytes_of(buf)))

    def store_chunk(
        self,
        buf: Buffer,
        key: str,
        chunk_coords: ChunkCoords,
        mime_type: str = OCTET_STREAM,
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
            Whether to replace an existing chunk. Afterwards there is exactly one, under one name.

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
        self._pyramid.store_chunk(buf, key, chunk_coords, mime_type, overwrite)

    async def store_chunk_async(
        self,
        buf: Buffer,
        key: str,
        chunk_coords: ChunkCoords,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a chunk: `store_chunk`, awaited."""
        store = functools.partial(self.store_chunk, mime_type=mime_type, overwrite=overwrite)
        await in_thread(functools.partial(store, bytes_of(buf), key, chunk_coords))

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
            Consumed as the results are, so it may be of any length; for a sharded scale in growing groups, up to
            4096 at once.
        decode : callable, optional
            Takes ``(coords, bytes or None)`` and returns what is yielded in place of the bytes. Called in one
            of several threads, as soon as the chunk has arrived.
        in_flight : int
            Most requests in flight plus results that wait to be consumed.
        callback : fsspec.callbacks.Callback, optional
            Is told of each chunk, and of the total if the coordinates have a length.

        Yields
        ------
        tuple of int, bytes or None
            The coordinates and the chunk, in order of arrival; None if it is absent.

        Raises
        ------
        AccessDeniedError, CorruptDataError, DataAccessError
            For the first chunk that fails, named in the message; the iteration ends. A
            CorruptDataError of `decode` is one of these.
        """
        return self._pyramid.fetch_chunks(key, chunk_coords, decode=decode, in_flight=in_flight, callback=callback)

    def fetch_chunks_async(
        self,
        key: str,
        chunk_coords: Iterable[ChunkCoords],
        *,
        decode: Decode[Any] | None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> AsyncIterator[tuple[ChunkCoords, Any]]:
        """Fetch many chunks at once: `fetch_chunks`, with ``async for`` in any event loop."""
        return self._pyramid.fetch_chunks_async(
            key, chunk_coords, decode=decode, in_flight=in_flight, callback=callback
        )

    def store_chunks(
        self,
        key: str,
        chunks: Iterable[tuple[ChunkCoords, Any]],
        *,
        encode: Encode | None = None,
        mime_type: str = OCTET_STREAM,
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
            Takes ``(coords, chunk)`` and returns the bytes to store, for chunks that are not bytes yet.
            Called in one of several threads.
        mime_type, overwrite
            As for `store_chunk`.
        in_flight : int
            Most chunks that are compressed and sent at once.
        callback : fsspec.callbacks.Callback, optional
            Is told of each chunk, and of the total if the chunks have a length.

        Raises
        ------
        AlreadyExistsError, AccessDeniedError, DataAccessError
            For the first chunk that fails, named in the message; of those before it, some may be stored.
        """
        self._pyramid.store_chunks(
            key, chunks, encode=encode, mime_type=mime_type, overwrite=overwrite, in_flight=in_flight, callback=callback
        )

    async def store_chunks_async(
        self,
        key: str,
        chunks: Iterable[tuple[ChunkCoords, Any]],
        *,
        encode: Encode | None = None,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> None:
        """Store many chunks at once: `store_chunks`, awaited."""
        await self._pyramid.store_chunks_async(
            key, chunks, encode=encode, mime_type=mime_type, overwrite=overwrite, in_flight=in_flight, callback=callback
        )


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
    return FsspecAccessor(url, **known_options(accessor_options))


def known_options(accessor_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that `FsspecAccessor` has, and that are not None."""
    return {name: accessor_options[name] for name in OPTION_DEFAULTS if accessor_options.get(name) is not None}


OPTION_DEFAULTS: Mapping[str, Any] = {
    name: each.default
    for name, each in inspect.signature(FsspecAccessor).parameters.items()
    if each.kind is each.KEYWORD_ONLY
}
"""The options of `FsspecAccessor`, which are keywords of the functions that open pyramids, too."""
