"""What the other packages can do with one pyramid: fetch and store its files and chunks by name, one or many."""

import contextlib
import functools
import itertools
import posixpath
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from precomputed_fs.errors import CorruptDataError, InvalidInfoError
from precomputed_fs.format.compression import decode, split_suffix
from precomputed_fs.format.grid import ChunkCoords, chunk_coords
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.names import suffixes_of
from precomputed_fs.format.scale_layout import ScaleLayout
from precomputed_fs.pyramid import late_writes
from precomputed_fs.pyramid.batches import (
    IN_FLIGHT,
    Callback,
    Decode,
    checked_in_flight,
    counted,
    finished,
    per_hop,
    report,
)
from precomputed_fs.pyramid.buffers import OCTET_STREAM, Buffer, bytes_of, checked_mime_type
from precomputed_fs.pyramid.chunk_cache import ChunkCache
from precomputed_fs.pyramid.finding import Finder, PiecesOf
from precomputed_fs.pyramid.known import Known
from precomputed_fs.pyramid.options import Options
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.pyramid.shards import ShardReader
from precomputed_fs.pyramid.stored import Stored, file_limit
from precomputed_fs.pyramid.storing import Storer
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.store import jobs
from precomputed_fs.store.location import Location
from precomputed_fs.store.loop import in_thread
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Job
from precomputed_fs.store.url import check_relative_path

_T = TypeVar("_T")

Encode = Callable[[ChunkCoords, Any], bytes | Update]
"""Makes a chunk's bytes, or a change to it, from an item that was passed to a batch."""


class Pyramid:
    """The files and chunks of one pyramid, by name.

    `precomputed_fs.FsspecAccessor` has the verbs for users, and describes them in detail. Here only batches have
    asynchronous twins, and some verbs are for other packages only.

    Parameters
    ----------
    store : ObjectStore
    options : Options
    known : Known, optional
        What a sibling remembers about the pyramid, to be shared.
    shards : ShardReader, optional
    writer : ShardWriter, optional
    """

    def __init__(
        self,
        store: ObjectStore,
        options: Options,
        *,
        known: Known | None = None,
        shards: ShardReader | None = None,
        writer: ShardWriter | None = None,
    ) -> None:
        self.store = store
        """The objects of the pyramid, by their exact names."""
        self.options = options
        self.known = Known() if known is None else known
        """What is remembered about `info` and names."""

        self.shards = ShardReader(store, ChunkCache(options.cache)) if shards is None else shards
        self.writer = ShardWriter(store, self.shards, options.compresslevel) if writer is None else writer
        if writer is None:
            late_writes.watch(self, self.writer, store)
        self.finder = Finder(store, options, self.known, self.shards, self.writer)
        self.storer = Storer(store, options, self.known, self.finder, self.writer)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.store, self.options, self.known, self.shards, self.writer)

    def __repr__(self) -> str:
        return f"Pyramid({self.url!r})"

    @property
    def location(self) -> Location:
        """Where the pyramid is, and how it is reached."""
        return self.store.location

    @property
    def url(self) -> str:
        """The URL for messages: without query, password or options."""
        return self.store.location.display()

    @property
    def can_read(self) -> bool:
        """Whether the pyramid can be read."""
        return self.location.readable

    @property
    def can_write(self) -> bool:
        """Whether the pyramid can be written."""
        return self.location.writable

    @property
    def keeps_encoding(self) -> bool:
        """Whether Content-Encoding marks compression, rather than a suffix, which few readers look for."""
        return self.store.protocol.keeps_encoding

    @property
    def is_remote(self) -> bool:
        """Whether reading and writing wait for a server."""
        return self.store.protocol.is_remote

    @property
    def checks_links(self) -> bool:
        """Whether a confined pyramid checks where symbolic links lead, and can do so without a request."""
        return self.store.protocol.follows_links and self.location.behind is None

    # ------------------------------------------------------------------------------- siblings

    def confined(self) -> "Pyramid":
        """Return the same pyramid, read without following symbolic links out of it."""
        if not self.store.protocol.follows_links:
            return self
        store = self.store.confined()
        shards = ShardReader(store, ChunkCache(0))  # in the cache there may be chunks from behind links
        return Pyramid(store, self.options, known=self.known, shards=shards, writer=self.writer)

    @contextlib.contextmanager
    def with_own_buffer(self) -> Iterator["Pyramid"]:
        """Yield a sibling with its own write buffer; what is not flushed when the block ends is discarded.

        So many tasks of a process can write shards over one set of connections, without writing or losing each other's
        chunks. A failed task leaves no chunks that would be written later, when they may be outdated.
        """
        writer = ShardWriter(self.store, self.shards, self.options.compresslevel)
        try:
            yield Pyramid(self.store, self.options, known=self.known, shards=self.shards, writer=writer)
        finally:
            writer.drop()

    def for_scale(self, key: str) -> tuple["Pyramid", str]:
        """Return the pyramid and the key with which to reach a scale whose key in `info` may contain ``..``.

        The format allows such a scale outside of the pyramid, but no verb takes its key. It may be
        anywhere in the same bucket, host or archive.

        Raises
        ------
        ValueError
            If the key leaves the bucket, host or archive.
        """
        pyramid, inside = self.reaching(key)
        if pyramid is not self:
            pyramid.known.current.layouts[inside] = self.layout(key)
        return pyramid, inside

    def reaching(self, path: str) -> tuple["Pyramid", str]:
        """Return the pyramid, and the path in it, with which to reach a folder whose path may contain ``..``.

        Raises
        ------
        ValueError
            If the path leaves the bucket, host or archive.
        """
        if ".." not in path.split("/"):
            return self, path.removesuffix("/")
        inside = posixpath.normpath(path)
        levels = inside.split("/").count("..")
        inside = check_relative_path(inside.removeprefix("../" * levels))
        return self._at(self.location.above(levels) if levels else self.location), inside

    def rooted_at(self, folder: str) -> "Pyramid":
        """Return a pyramid of its own in a folder of this one."""
        return self._at(self.location.below(self.finder.checked(folder)))

    def _at(self, location: Location) -> "Pyramid":
        known = self.store
        store = ObjectStore(
            location, attempts=known.attempts, timeout=known.timeout, denied_is_missing=known.denied_is_missing
        )
        return Pyramid(store, self.options, shards=ShardReader(store, self.shards.kept))

    # ------------------------------------------------------------------------------------ info

    def fetch_info(self) -> Mapping[str, Any]:
        """Fetch `info`, parsed but not validated; it is read once, and the other verbs use it too.

        Raises
        ------
        NotFoundError, AccessDeniedError, DataAccessError
            If it cannot be read.
        InvalidInfoError
            If it is not a JSON object.
        """
        self.finder.checked("info")
        state = self.store.run(self.finder.info())
        if state.error is not None:
            raise state.error.alone()
        return state.info or {}

    def layout(self, key: str) -> ScaleLayout:
        """Return how a scale is stored."""
        layout = self.known.current.layouts.get(key)
        return self.store.run(self.finder.layout(key)) if layout is None else layout

    @contextlib.contextmanager
    def expecting_info(self, info: Mapping[str, Any]) -> Iterator[None]:
        """Use an `info` that is not stored yet: as long as there is none, the pyramid does not look complete."""
        try:
            self.known.expect(info)
            yield
        finally:
            self.known.expect(None)

    def store_info(self, text: bytes, *, overwrite: bool, listed: Collection[str] | None) -> None:
        """Store `info` when its existing names are known: `store_file` without the request for these."""
        self._store_file("info", text, "application/json", overwrite=overwrite, listed=listed)

    # ----------------------------------------------------------------------------------- files

    def file_exists(self, relative_path: str) -> bool:
        """Tell whether a file exists, compressed or not."""
        name = self.finder.checked(relative_path)
        return self.store.run(jobs.any_exists(name + suffix for suffix in suffixes_of(name)))

    def find_file(self, relative_path: str) -> Stored:
        """Fetch a file as stored."""
        return self.store.run(self.finder.file(self.finder.checked(relative_path)))

    def fetch_file(self, relative_path: str) -> bytes:
        """Fetch a file, without the compression it is stored with."""
        return self.find_file(relative_path).decoded()

    def fetch_range(self, relative_path: str, start: int, end: int) -> bytes:
        """Fetch some bytes of a file, such as a shard, as stored under exactly this name."""
        name, limit = self.finder.checked(relative_path), file_limit("", self.options)
        if end - start > limit.size:
            shown = self.location.display(name)
            raise CorruptDataError(f"{shown}: asked for {end - start} bytes, more than {limit.size}; {limit.reason}")
        return self.store.read(name, start, end).data

    def store_file(
        self, relative_path: str, buf: Buffer, mime_type: str = OCTET_STREAM, overwrite: bool = False
    ) -> None:
        """Store a file, whole or not at all."""
        name = self.storer.checked(relative_path)
        self._store_file(name, bytes_of(buf), checked_mime_type(mime_type), overwrite=overwrite)

    def _store_file(
        self, name: str, data: bytes, mime_type: str, *, overwrite: bool, listed: Collection[str] | None = None
    ) -> None:
        self.storer.checked(name)
        if name == "info" and self.writer.waiting:
            self.writer.flush()  # with the sharding of the `info` that they were stored under
        put = self.storer.packed(name, data, mime_type)
        try:
            self.store.run(self.storer.file(put, name, listed, overwrite=overwrite))
        finally:
            self.shards.kept.clear()  # any of them may be in this file, or mean something else by it
        if name == "info":
            info = None
            if not self.can_read:  # an archive that is being written: it cannot be read later
                with contextlib.suppress(InvalidInfoError):
                    info = parse_info(decode(put.data[:], suffix=split_suffix(put.name)[1]))
            self.known.expect(info)

    def update_file(self, relative_path: str, change: Callable[[bytes], bytes], mime_type: str) -> None:
        """Change a file: read it, and replace just the version that was read; no change of another writer is lost.

        Parameters
        ----------
        change : callable
            Makes the new content from the old one; called again if another writer was faster.
        """
        name = self.storer.checked(relative_path)
        try:
            self.store.run(self.storer.file_update(self.finder.checked(name), change, mime_type))
        finally:
            self.shards.kept.clear()
            if name == "info":
                self.known.expect(None)

    def delete_file(self, relative_path: str) -> None:
        """Delete a file, under every name that it may have; it need not exist."""
        name = self.storer.checked(relative_path)
        try:
            for other in dict.fromkeys((name, *self.store.run(self.storer.other_names(name)))):
                self.store.delete(other)
        finally:
            self.shards.kept.clear()

    # ------------------------------------------------------------------------------- one chunk

    def find_chunk(self, key: str, coords: Iterable[int]) -> Stored:
        """Fetch a chunk as stored."""
        return self.store.run(self.finder.chunk(self.finder.checked(key), chunk_coords(coords)))

    def fetch_chunk(self, key: str, coords: Iterable[int]) -> bytes:
        """Fetch a chunk in the encoding of its scale, without the compression it is stored with."""
        return self.find_chunk(key, coords).decoded()

    def chunk_exists(self, key: str, coords: Iterable[int]) -> bool:
        """Tell whether there is a chunk, under any of its names, or in its shard."""
        return self.store.run(self.finder.chunk_exists(self.finder.checked(key), chunk_coords(coords)))

    def store_chunk(
        self, buf: Buffer, key: str, coords: Iterable[int], mime_type: str = OCTET_STREAM, overwrite: bool = False
    ) -> None:
        """Store a chunk, whole or not at all."""
        key, checked = self.storer.checked(key), chunk_coords(coords)
        job = self.storer.chunk(key, checked, _ready(buf), checked_mime_type(mime_type), overwrite=overwrite)
        self.store.run(job)

    # --------------------------------------------------------------------------------- batches

    def fetch_chunks(
        self,
        key: str,
        coords: Iterable[Iterable[int]],
        *,
        decode: Decode[Any] | None = None,
        pieces: PiecesOf | None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> Iterator[tuple[ChunkCoords, Any]]:
        """Fetch many chunks at once.

        Parameters
        ----------
        pieces : callable, optional
            Which bytes of a raw chunk suffice, or None for all. Where the store can send just these, `decode` is given
            a `ChunkPart`.
        """
        for results in self.store.run_many(*self._fetching(key, coords, decode, in_flight, callback, pieces=pieces)):
            for result in results:
                report(callback)
                yield result

    async def fetch_chunks_async(
        self,
        key: str,
        coords: Iterable[Iterable[int]],
        *,
        decode: Decode[Any] | None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> AsyncIterator[tuple[ChunkCoords, Any]]:
        """Fetch many chunks at once, with ``async for`` in any event loop."""
        batch = await in_thread(functools.partial(self._fetching, key, coords, decode, in_flight, callback))
        async with contextlib.aclosing(self.store.run_many_async(*batch)) as found:
            async for results in found:
                for result in results:
                    report(callback)
                    yield result

    def find_chunks(
        self, key: str, coords: Iterable[Iterable[int]], *, range_size: int, in_flight: int
    ) -> Iterator[tuple[ChunkCoords, Stored | None]]:
        """Fetch many chunks at once, as stored.

        Parameters
        ----------
        range_size : int
            Most bytes of a shard that are read at once, within the pyramid's own limit.
        """
        key = self.finder.checked(key)
        layout = self.layout(key)
        range_size = min(self.options.max_range, range_size)
        batch = self.finder.chunks(key, layout, coords, window=IN_FLIGHT, range_size=range_size)
        for results in self.store.run_many(batch, in_flight):
            yield from results

    def _fetching(
        self,
        key: str,
        coords: Iterable[Iterable[int]],
        decode: Decode[Any] | None,
        in_flight: int,
        callback: Callback,
        *,
        pieces: PiecesOf | None = None,
    ) -> tuple[Iterator[Job[Any]], int, Callable[[Any], Any], int]:
        """Return the arguments of `ObjectStore.run_many` for fetching chunks."""
        key = self.finder.checked(key)
        layout = self.layout(key)
        in_flight = checked_in_flight(in_flight)
        coords = counted(coords, callback)
        batch = self.finder.chunks(
            key, layout, coords, window=in_flight, range_size=self.options.max_range, pieces_of=pieces
        )
        return batch, in_flight, functools.partial(finished, decode), per_hop(layout)

    def store_chunks(
        self,
        key: str,
        chunks: Iterable[tuple[Iterable[int], Any]],
        *,
        encode: Encode | None = None,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> None:
        """Store many chunks at once."""
        batch = self._storing(key, counted(chunks, callback), encode, mime_type, overwrite=overwrite)
        for stored in self.store.run_many(batch, checked_in_flight(in_flight)):
            report(callback, len(stored))

    async def store_chunks_async(
        self,
        key: str,
        chunks: Iterable[tuple[Iterable[int], Any]],
        *,
        encode: Encode | None = None,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> None:
        """Store many chunks at once, awaited."""
        batch = self._storing(key, counted(chunks, callback), encode, mime_type, overwrite=overwrite)
        async for stored in self.store.run_many_async(batch, checked_in_flight(in_flight)):
            report(callback, len(stored))

    def _storing(
        self,
        key: str,
        chunks: Iterable[tuple[Iterable[int], Any]],
        encode: Encode | None,
        mime_type: str,
        *,
        overwrite: bool,
    ) -> Iterator[Job[list[None]]]:
        key = self.storer.checked(key)

        def storing(given: Iterable[int], chunk: Any) -> Job[list[None]]:  # noqa: ANN401 - what `encode` takes
            coords = chunk_coords(given)
            make = _ready(chunk) if encode is None else functools.partial(encode, coords, chunk)
            return _listed(self.storer.chunk(key, coords, make, checked_mime_type(mime_type), overwrite=overwrite))

        return itertools.starmap(storing, chunks)

    # ------------------------------------------------------------------------- waiting shards

    def flush(self) -> None:
        """Write the shards of the waiting chunks; nothing else waits."""
        if self.writer.waiting:
            self.writer.flush()

    @contextlib.contextmanager
    def replacing_shards(self, keys: Iterable[str]) -> Iterator[None]:
        """Replace existing shards of some scales on the first write; later writes to the same shard merge.

        After the block all writes merge again, since existing shards may then be another writer's. If the block fails,
        the waiting chunks are discarded.
        """
        self.writer.replace_shards(key.removesuffix("/") for key in keys)
        try:
            yield
        except BaseException:
            self.writer.drop()
            raise
        finally:
            self.writer.replace_shards(())

    def close(self) -> None:
        """Flush, and close connections; this completes an archive that is being written."""
        try:
            self.flush()
        finally:
            self.store.close()


def _unpickled(store: ObjectStore, options: Options, known: Known, shards: ShardReader, writer: ShardWriter) -> Pyramid:
    pyramid = Pyramid(store, options, known=known, shards=shards, writer=writer)
    late_writes.watch(pyramid, writer, store)
    return pyramid


def _ready(buf: Buffer | Update) -> Callable[[], bytes | Update]:
    """Copy the bytes now, because the caller may change the buffer afterwards."""
    data = buf if isinstance(buf, Update) else bytes_of(buf)
    return lambda: data


def _listed(job: Job[_T]) -> Job[list[_T]]:
    return [(yield from job)]
