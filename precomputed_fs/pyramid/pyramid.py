"""One pyramid: its files and chunks by name, one at a time or many at once, for all packages above."""

import contextlib
import copy
import functools
import itertools
import posixpath
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeVar

from precomputed_fs.errors import CorruptDataError, InvalidInfoError
from precomputed_fs.format.compression import decode, split_suffix
from precomputed_fs.format.grid import ChunkCoords, chunk_coords
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.names import suffixes_of
from precomputed_fs.format.scale_layout import ScaleLayout
from precomputed_fs.pyramid import late_writes
from precomputed_fs.pyramid.finding import Finder, Known
from precomputed_fs.pyramid.options import Options
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.pyramid.shards import ShardReader
from precomputed_fs.pyramid.stored import Stored, file_limit
from precomputed_fs.pyramid.storing import Storer, any_exists
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.store.location import Location
from precomputed_fs.store.loop import in_thread
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.pool import HOP
from precomputed_fs.store.requests import Job
from precomputed_fs.store.url import check_relative_path

_T = TypeVar("_T")

Buffer = bytes | bytearray | memoryview
"""What can be stored; a NumPy array passes its memory as ``array.data``."""

Decode = Callable[[ChunkCoords, bytes | None], _T]
"""Makes the result of a batch from a chunk's bytes, or from their absence."""

Encode = Callable[[ChunkCoords, Any], bytes | Update]
"""Makes the bytes of a chunk, or a change of it, from what a batch is given."""

Callback = Any
"""An `fsspec.callbacks.Callback`, such as its ``TqdmCallback``, or None; fsspec ships no types."""

IN_FLIGHT = 128
"""Default for how many chunks of a batch are under way at once."""

OCTET_STREAM = "application/octet-stream"
"""The media type of bytes of which nothing is known."""


class Pyramid:
    """One pyramid, whose files and chunks have names.

    What differs from `precomputed_fs.FsspecAccessor`, which has the verbs for users and says more about each: nothing
    here is asynchronous but batches, and some verbs are for other packages only.

    Parameters
    ----------
    store : ObjectStore
    options : Options
    known : Known, optional
        What is remembered of it, if that is shared with a sibling.
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
        """The objects that are there, each under just its name."""

        self.options = options
        self.known = Known() if known is None else known
        """What is remembered of its `info` and names."""

        self.shards = ShardReader(store) if shards is None else shards
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
        """Where it is, and how it is reached."""
        return self.store.location

    @property
    def url(self) -> str:
        """Where it is, to be shown: without query, password or options."""
        return self.store.location.display()

    @property
    def can_read(self) -> bool:
        """Whether it can be read."""
        return self.location.readable

    @property
    def can_write(self) -> bool:
        """Whether it can be written."""
        return self.location.writable

    @property
    def keeps_encoding(self) -> bool:
        """Whether Content-Encoding marks compression, and not a suffix, which few readers look for."""
        return self.store.protocol.keeps_encoding

    @property
    def is_remote(self) -> bool:
        """Whether reading and writing waits for a server."""
        return self.store.protocol.is_remote

    @property
    def checks_links(self) -> bool:
        """Whether a confined pyramid looks where links lead, and can do so without a request."""
        return self.store.protocol.follows_links and self.location.behind is None

    # ------------------------------------------------------------------------------- siblings

    def confined(self) -> "Pyramid":
        """Return the same pyramid, read without following symbolic links out of it."""
        if not self.store.protocol.follows_links:
            return self
        return Pyramid(self.store.confined(), self.options, known=self.known, writer=self.writer)

    @contextlib.contextmanager
    def with_own_buffer(self) -> Iterator["Pyramid"]:
        """Yield a sibling with its own write buffer; what is not flushed when the block ends is discarded.

        So many tasks of a process write shards over one set of connections, and neither write nor lose one another's
        chunks. A task that failed leaves nothing that would be written later, when it may be outdated.
        """
        writer = ShardWriter(self.store, self.shards, self.options.compresslevel)
        try:
            yield Pyramid(self.store, self.options, known=self.known, shards=self.shards, writer=writer)
        finally:
            writer.drop()

    def for_scale(self, key: str) -> tuple["Pyramid", str]:
        """Return the pyramid and the key by which to reach a scale whose key in `info` may have ``..`` in it.

        Such a scale is outside of the pyramid, and no verb takes its key as it is. The format allows
        it; here it may be anywhere in the same bucket, host or archive.

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
        store = ObjectStore(
            self.location.above(levels) if levels else self.location,
            attempts=self.store.attempts,
            timeout=self.store.timeout,
            denied_is_missing=self.store.denied_is_missing,
        )
        other = Pyramid(store, self.options)
        other.known.current.layouts[inside] = self.layout(key)
        return other, inside

    # ------------------------------------------------------------------------------------ info

    def fetch_info(self) -> Mapping[str, Any]:
        """Fetch `info` as it is, parsed; once, and shared with what the other verbs need of it.

        Raises
        ------
        NotFoundError, AccessDeniedError, DataAccessError
            If it cannot be read.
        InvalidInfoError
            If it is no JSON object.
        """
        self.finder.checked("info")
        state = self.store.run(self.finder.info())
        if state.error is not None:
            raise copy.copy(state.error)
        return state.info or {}

    def layout(self, key: str) -> ScaleLayout:
        """Return how a scale is stored."""
        layout = self.known.current.layouts.get(key)
        return self.store.run(self.finder.layout(key)) if layout is None else layout

    @contextlib.contextmanager
    def expecting_info(self, info: Mapping[str, Any]) -> Iterator[None]:
        """Go by an `info` that is not stored yet, so that what is stored does not look complete meanwhile."""
        try:
            self.known.expect(info)
            yield
        finally:
            self.known.expect(None)

    def store_info(self, text: bytes, *, overwrite: bool, listed: Collection[str] | None) -> None:
        """Store `info` where the names that it has are known: `store_file` without the request for them."""
        self._store_file("info", text, "application/json", overwrite=overwrite, listed=listed)

    # ----------------------------------------------------------------------------------- files

    def file_exists(self, relative_path: str) -> bool:
        """Tell whether there is a file, compressed or not."""
        name = self.finder.checked(relative_path)
        return self.store.run(any_exists(name + suffix for suffix in suffixes_of(name)))

    def find_file(self, relative_path: str) -> Stored:
        """Fetch a file as it is stored."""
        return self.store.run(self.finder.file(self.finder.checked(relative_path)))

    def fetch_file(self, relative_path: str) -> bytes:
        """Fetch a file, without the compression it is stored with."""
        return self.find_file(relative_path).decoded()

    def fetch_range(self, relative_path: str, start: int, end: int) -> bytes:
        """Fetch some bytes of a file, such as a shard, as they are stored under just this name."""
        name, limit = self.finder.checked(relative_path), file_limit("", self.options)
        if end - start > limit.size:
            shown = self.location.display(name)
            raise CorruptDataError(f"{shown}: asked for {end - start} bytes, of at most {limit.size}; {limit.reason}")
        return self.store.read(name, start, end).data

    def store_file(
        self, relative_path: str, buf: Buffer, mime_type: str = OCTET_STREAM, overwrite: bool = False
    ) -> None:
        """Store a file, whole or not at all."""
        name = self.storer.checked(relative_path)
        self._store_file(name, bytes_of(buf), _checked_mime_type(mime_type), overwrite=overwrite)

    def _store_file(
        self, name: str, data: bytes, mime_type: str, *, overwrite: bool, listed: Collection[str] | None = None
    ) -> None:
        self.storer.checked(name)
        if name == "info" and self.writer.waiting:
            self.writer.flush()  # as the `info` says that they were stored under
        put = self.storer.packed(name, data, mime_type)
        self.store.run(self.storer.file(put, name, listed, overwrite=overwrite))
        if name == "info":
            info = None
            if not self.can_read:  # an archive that is being written: this is the one time to see it
                with contextlib.suppress(InvalidInfoError):
                    info = parse_info(decode(put.data[:], suffix=split_suffix(put.name)[1]))
            self.known.expect(info)

    def delete_file(self, relative_path: str) -> None:
        """Delete a file, under every name that it may have; that there is none is no error."""
        name = self.storer.checked(relative_path)
        for other in dict.fromkeys((name, *self.store.run(self.storer.other_names(name)))):
            self.store.delete(other)

    # ------------------------------------------------------------------------------- one chunk

    def find_chunk(self, key: str, coords: Iterable[int]) -> Stored:
        """Fetch a chunk as it is stored."""
        return self.store.run(self.finder.chunk(self.finder.checked(key), chunk_coords(coords)))

    def fetch_chunk(self, key: str, coords: Iterable[int]) -> bytes:
        """Fetch a chunk, encoded as its scale says, without the compression it is stored with."""
        return self.find_chunk(key, coords).decoded()

    def store_chunk(
        self, buf: Buffer, key: str, coords: Iterable[int], mime_type: str = OCTET_STREAM, overwrite: bool = False
    ) -> None:
        """Store a chunk, whole or not at all."""
        key, checked = self.storer.checked(key), chunk_coords(coords)
        job = self.storer.chunk(key, checked, _ready(buf), _checked_mime_type(mime_type), overwrite=overwrite)
        self.store.run(job)

    # --------------------------------------------------------------------------------- batches

    def fetch_chunks(
        self,
        key: str,
        coords: Iterable[Iterable[int]],
        *,
        decode: Decode[Any] | None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> Iterator[tuple[ChunkCoords, Any]]:
        """Fetch many chunks at once."""
        for results in self.store.run_many(*self._fetching(key, coords, decode, in_flight, callback)):
            for result in results:
                _report(callback)
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
                    _report(callback)
                    yield result

    def find_chunks(
        self, key: str, coords: Iterable[Iterable[int]], *, range_size: int, in_flight: int
    ) -> Iterator[tuple[ChunkCoords, Stored | None]]:
        """Fetch many chunks at once, as they are stored.

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
    ) -> tuple[Iterator[Job[Any]], int, Callable[[Any], Any], int]:
        """Return what `ObjectStore.run_many` needs to fetch chunks."""
        key = self.finder.checked(key)
        layout = self.layout(key)
        in_flight = _checked_in_flight(in_flight)
        coords = _counted(coords, callback)
        batch = self.finder.chunks(key, layout, coords, window=in_flight, range_size=self.options.max_range)
        return batch, in_flight, functools.partial(_finished, decode), _per_hop(layout)

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
        batch = self._storing(key, _counted(chunks, callback), encode, mime_type, overwrite=overwrite)
        for stored in self.store.run_many(batch, _checked_in_flight(in_flight)):
            _report(callback, len(stored))

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
        batch = self._storing(key, _counted(chunks, callback), encode, mime_type, overwrite=overwrite)
        async for stored in self.store.run_many_async(batch, _checked_in_flight(in_flight)):
            _report(callback, len(stored))

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
            return _listed(self.storer.chunk(key, coords, make, _checked_mime_type(mime_type), overwrite=overwrite))

        return itertools.starmap(storing, chunks)

    # ------------------------------------------------------------------------- waiting shards

    def flush(self) -> None:
        """Write the shards that stored chunks wait for; nothing else waits."""
        if self.writer.waiting:
            self.writer.flush()

    @contextlib.contextmanager
    def replacing_shards(self, keys: Iterable[str]) -> Iterator[None]:
        """Replace existing shards of some scales on the first write; later writes to the same shard merge.

        After the block all writes merge, as always: what is there then may be another writer's. If the block fails,
        chunks that wait are discarded.
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
        """Flush, and close connections. An archive that is being written is completed by this."""
        try:
            self.flush()
        finally:
            self.store.close()


def _unpickled(store: ObjectStore, options: Options, known: Known, shards: ShardReader, writer: ShardWriter) -> Pyramid:
    pyramid = Pyramid(store, options, known=known, shards=shards, writer=writer)
    late_writes.watch(pyramid, writer, store)
    return pyramid


def _finished(decode: Decode[Any] | None, result: tuple[ChunkCoords, Stored | None]) -> tuple[ChunkCoords, Any]:
    """Undo the compression of a chunk, and make the result that the caller of a batch wants."""
    coords, found = result
    data = None if found is None else found.decoded()
    if decode is None:
        return coords, data
    if found is None:
        return coords, decode(coords, None)
    with found.naming():
        return coords, decode(coords, data)


def bytes_of(buf: Buffer) -> bytes:
    """Return the bytes in a buffer, in the order of its axes in memory."""
    return buf if isinstance(buf, bytes) else memoryview(buf).tobytes(order="A")


def _ready(buf: Buffer | Update) -> Callable[[], bytes | Update]:
    """Take the bytes now, as the caller may go on to change the buffer."""
    data = buf if isinstance(buf, Update) else bytes_of(buf)
    return lambda: data


def _listed(job: Job[_T]) -> Job[list[_T]]:
    return [(yield from job)]


def _checked_mime_type(mime_type: str) -> str:
    if not mime_type.isprintable() or not mime_type.isascii():
        raise ValueError(f"mime_type: expected a media type, got {mime_type!r}")
    return mime_type


def _checked_in_flight(in_flight: int) -> int:
    if in_flight < 1:
        raise ValueError(f"in_flight: expected at least 1, got {in_flight!r}")
    return in_flight


def _counted(items: Iterable[_T], callback: Callback) -> Iterable[_T]:
    """Tell a callback how many there will be, if they have a length."""
    if callback is not None and isinstance(items, Sized):
        callback.set_size(len(items))
    return items


def _report(callback: Callback, count: int = 1) -> None:
    if callback is not None:
        callback.relative_update(count)


def _per_hop(layout: ScaleLayout) -> int:
    """Return how many chunks of a scale one thread is given at once."""
    return max(1, HOP // layout.chunk_bytes)
