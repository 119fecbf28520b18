"""How shards are written: chunks wait in a buffer, and a shard is merged and put in place at once.

A chunk of a sharded scale cannot be stored by itself, as its shard is one object. Chunks that are
stored wait, in memory up to a limit and then in a temporary file, until they are flushed: then, shard
by shard, what the store has is read, merged with what waits, and written in one piece. So a shard is
complete and readable, or not there. The output is deterministic: minishards in order, ids ascending.

What nobody flushes is written late, as the buffer of a file would be: when the accessor is let go of, or at the end
of the process that stored it.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import logging
import mmap
import os
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from precomputed_fs.errors import AlreadyExistsError, CorruptDataError, DataAccessError, NotFoundError, ReplacedError
from precomputed_fs.format.compression import MAX_DECODED_SIZE, decode_gzip_or_zlib, gzip_compress
from precomputed_fs.format.grid import ChunkCoords, chunk_name
from precomputed_fs.format.shard_index import ByteRange, Wanted, pack_minishard_index, pack_shard_index
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.shards import ShardReader, ShardReplacedError, ShardState
from precomputed_fs.store import jobs
from precomputed_fs.store.loop import expect_no_threads
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Compute, Delete, Job, Put, Wait

BUFFER_BYTES = 64 << 20
"""Memory that waiting chunks may take before they go to a temporary file (64 MiB)."""


_CHANGES_BYTES = 256 << 20  # of one chunk, after which its shard is written: they are all in memory then
_MOST_MINISHARD_BITS = 20  # a shard index of 16 MiB; usual are 3 to 11


_LATE_SECONDS = 60.0  # that one who lets go of an accessor waits for its shards

_LOOK_AGAIN = 60.0  # seconds, after which it is looked again whether another flush has ended

_log = logging.getLogger("precomputed_fs")

_inherited: list[IO[bytes]] = []
"""Temporary files of parent processes, which are left alone."""

_writers: "weakref.WeakSet[ShardWriter]" = weakref.WeakSet()

_watched: dict[int, "ShardWriter"] = {}
"""Writers by their id, whose chunks are written at the end of the process, if not before."""

_ends_in: int | None = None
"""The process whose end `_write_all` is called at."""


class Update(NamedTuple):
    """A change to part of a chunk, applied to what is stored when it is written, so that no other change is lost."""

    patch: bytes
    """The change, as `apply` understands it."""

    apply: "Apply"


Apply = Callable[[ChunkCoords, bytes | None, Sequence[bytes]], bytes | None]
"""``(coords, chunk, patches)``: the chunk, or None where there is none, changed by one patch after the other; None
leaves what is there."""


class _Place(NamedTuple):
    """Where bytes are in the buffer."""

    start: int
    size: int


class _Pending(NamedTuple):
    """A chunk that waits: whole, or changes of the one that is stored, or changes of a whole one."""

    whole: _Place | None
    is_new: bool
    """Whether the whole one must not replace another."""

    size: int
    """Bytes in the buffer."""

    patches: list[_Place]
    """To which more may be added."""

    patch_count: int = 0
    """How many of the patches are of this state."""

    coords: ChunkCoords = (0, 0, 0, 0, 0, 0)
    apply: Apply | None = None

    def patched(self, patch: _Place, coords: ChunkCoords, apply: Apply) -> "_Pending":
        self.patches[self.patch_count :] = [patch]  # in the place of one whose update was interrupted
        return self._replace(size=self.size + patch.size, patch_count=self.patch_count + 1, coords=coords, apply=apply)

    def without(self, written: "_Pending") -> "_Pending | None":
        """Return what still waits when an earlier state has been written."""
        if self.patches is not written.patches:
            return self  # stored again while it was written
        if self.patch_count == written.patch_count:
            return None
        rest = self.patches[written.patch_count :]
        return self._replace(
            whole=None, is_new=False, size=self.size - written.size, patches=rest, patch_count=len(rest)
        )


class _Parts(NamedTuple):
    """The bytes of a chunk that waits."""

    whole: bytes | None
    patches: list[bytes]
    coords: ChunkCoords
    apply: Apply | None


@dataclass(slots=True)
class _Waiting:
    """Chunks that wait for one shard."""

    sharding: Sharding
    chunks: dict[int, _Pending] = field(default_factory=dict)


class ShardWriter:
    """The chunks of a pyramid that wait to be written into shards.

    Parameters
    ----------
    store : ObjectStore
        Where the shards are.
    reader : ShardReader
        What knows the shards that are there.
    compresslevel : int
        Of gzip, where a scale's sharding asks for it; 0 to 9.
    """

    def __init__(self, store: ObjectStore, reader: ShardReader, compresslevel: int) -> None:
        self._store = store
        self._reader = reader
        self._compresslevel = compresslevel
        self._owner = ""
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self._turns: dict[tuple[str, int], concurrent.futures.Future[None]] = {}
        self._lock = threading.Lock()
        self._late = threading.Lock()
        self._buffer: IO[bytes] | None = None
        self.flushes = 0
        """How many shards have been written: what waited for them does not wait any more."""

        self._left_over = 0  # bytes in the buffer, of chunks that wait no more
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._unborn: set[tuple[str, int]] = set()
        self._anew: dict[str, set[int]] = {}
        """Scales whose shards are replaced, and those that have been."""

    def leave_parent(self) -> None:
        """In a forked process, leave the chunks that wait to the one that they were given to."""
        if self._buffer is not None:
            _inherited.append(self._buffer)  # to close it would move the parent's place in the file
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._waiting:
            raise TypeError("chunks wait for their shards to be written: flush() before pickling")
        return ShardWriter, (self._store, self._reader, self._compresslevel)

    def watch(self, owner: object) -> None:
        """Have all written when its owner is let go of, at the end of the process at the latest."""
        self._owner = repr(owner)
        _watched[id(self)] = self
        weakref.finalize(owner, _let_go, self).atexit = False  # `_write_all` is for that

    @property
    def waiting(self) -> dict[str, int]:
        """How many chunks of each scale are not written yet."""
        counts: dict[str, int] = {}
        with self._lock:
            for (key, _), waiting in self._waiting.items():
                counts[key] = counts.get(key, 0) + len(waiting.chunks)
        return counts

    def find(
        self, key: str, sharding: Sharding, chunk_id: int, stored: Callable[[], Job[bytes | None]]
    ) -> Job[bytes | None]:
        """Return a waiting chunk, encoded as its shard will have it; None if the stored one stays as it is.

        Parameters
        ----------
        stored : callable
            Makes a job that returns the chunk as its shard has it now; called only if changes of it wait.
        """
        with self._lock:
            waiting = self._waiting.get((key, sharding.locate(chunk_id)[0]))
            pending = None if waiting is None else waiting.chunks.get(chunk_id)
            if pending is None:
                return None
            waits = self._parts(pending)  # now, as a flush may come before `stored`
        there = None if pending.whole is not None else (yield from stored())
        made: bytes | None = yield Compute(functools.partial(self._made, key, sharding, waits, there))
        return made

    def add(
        self, key: str, sharding: Sharding, chunk_id: int, data: bytes, *, overwrite: bool, is_gzip: bool = False
    ) -> Job[int]:
        """Have a chunk wait for its shard to be written; returns how many bytes it will take there.

        Parameters
        ----------
        is_gzip : bool
            Whether the data are in the shard's encoding already, and that is gzip.

        Raises
        ------
        AlreadyExistsError
            If ``overwrite=False`` and the chunk waits already or is in its shard.
        """
        shown = self._store.location.display(key)
        if sharding.minishard_bits > _MOST_MINISHARD_BITS:
            raise ValueError(
                f"{shown}: its shard index would take {sharding.index_size} bytes in every shard; shards are written "
                f"with up to {_MOST_MINISHARD_BITS} minishard_bits"
            )
        if not data:
            raise ValueError(f"{shown}: chunk {chunk_id} has no bytes, which in a shard would mean that it is absent")
        if not overwrite and (yield from self._is_stored(key, sharding, chunk_id)):
            raise self._exists(key, chunk_id)
        if sharding.data_encoding == "gzip" and not is_gzip:
            data = yield Compute(functools.partial(gzip_compress, data, self._compresslevel))
        with self._lock:
            waiting = self._waiting_for(key, sharding, chunk_id)
            replaced = waiting.chunks.get(chunk_id)
            if not overwrite and replaced is not None:
                raise self._exists(key, chunk_id)
            waiting.chunks[chunk_id] = _Pending(self._keep(data), not overwrite, len(data), [])
            if replaced is not None:
                self._left_over += replaced.size
                self._compact()
        _expect_end()
        return len(data)

    def update(self, key: str, sharding: Sharding, chunk_id: int, coords: ChunkCoords, update: Update) -> Job[None]:
        """Have a change of a chunk wait for its shard to be written, which is made of the chunk as it is then.

        Once very many wait for one chunk, its shard is written.
        """
        with self._lock:
            waiting = self._waiting_for(key, sharding, chunk_id)
            pending = waiting.chunks.get(chunk_id) or _Pending(None, False, 0, [])
            pending = pending.patched(self._keep(update.patch), coords, update.apply)
            waiting.chunks[chunk_id] = pending
        _expect_end()
        if pending.patch_count > 1 and pending.size > _CHANGES_BYTES:
            yield from self._flush_in_turn(key, sharding.locate(chunk_id)[0])

    def _waiting_for(self, key: str, sharding: Sharding, chunk_id: int) -> _Waiting:
        """Return what waits for the shard of a chunk, to which more is about to be added."""
        shard, _ = sharding.locate(chunk_id)
        waiting = self._waiting.setdefault((key, shard), _Waiting(sharding))
        if waiting.sharding != sharding:
            shown = self._store.location.display(key)
            raise DataAccessError(
                f"{shown}: its sharding has changed while chunks wait for its shards; flush() before that"
            )
        return waiting

    def _parts(self, pending: _Pending) -> "_Parts":
        whole = None if pending.whole is None else self._buffered(pending.whole)
        patches = [self._buffered(place) for place in pending.patches[: pending.patch_count]]
        return _Parts(whole, patches, pending.coords, pending.apply)

    def _made(self, key: str, sharding: Sharding, waits: "_Parts", stored: bytes | None) -> bytes | None:
        """Return a chunk as its shard will have it, made of what waits and of what the shard has."""
        data = stored if waits.whole is None else waits.whole
        if waits.apply is None:
            return data
        is_gzip = sharding.data_encoding == "gzip"
        try:
            chunk = decode_gzip_or_zlib(data, MAX_DECODED_SIZE) if is_gzip and data is not None else data
            changed = waits.apply(waits.coords, chunk, waits.patches)
        except CorruptDataError as exc:
            raise CorruptDataError(
                f"{self._store.location.display(key)}, chunk {chunk_name(waits.coords)}: {exc}"
            ) from exc
        if changed is None:
            return data
        return gzip_compress(changed, self._compresslevel) if is_gzip else changed

    def _is_stored(self, key: str, sharding: Sharding, chunk_id: int) -> Job[bool]:
        """Tell whether a chunk is in its shard.

        That there is no shard yet is asked once, however many chunks wait for it: the merge looks again.
        """
        shard, _ = sharding.locate(chunk_id)
        if (key, shard) in self._unborn:
            return False
        if not (yield from self._reader.has_shard(key, sharding, chunk_id)):
            self._unborn.add((key, shard))
            return False
        return (yield from self._reader.locate(key, sharding, chunk_id)) is not None

    def _keep(self, data: bytes) -> _Place:
        """Put bytes at the end of the buffer."""
        with _disk():
            if self._buffer is None:
                self._buffer = _new_buffer()
            start = self._buffer.seek(0, os.SEEK_END)
            self._buffer.write(data)
        return _Place(start, len(data))

    def _compact(self) -> None:
        """Let go of the buffer if nothing waits; begin a new one, once most of a large one is of what waits no more.

        If the disk has no room for both, the old one stays.
        """
        if not self._waiting:
            self._release()
            return
        old = self._buffer
        if old is None or self._turns or self._left_over < max(BUFFER_BYTES, old.seek(0, os.SEEK_END) // 2):
            return
        new = _new_buffer()

        def move(place: _Place) -> _Place:
            old.seek(place.start)
            moved = _Place(new.tell(), place.size)
            new.write(old.read(place.size))
            return moved

        chunks: dict[tuple[str, int], dict[int, _Pending]] = {}
        try:
            for shard, waiting in self._waiting.items():
                chunks[shard] = {
                    chunk_id: pending._replace(
                        whole=None if pending.whole is None else move(pending.whole),
                        patches=[move(place) for place in pending.patches],
                    )
                    for chunk_id, pending in waiting.chunks.items()
                }
        except OSError:
            new.close()
            return
        for shard, moved in chunks.items():
            self._waiting[shard].chunks.update(moved)
        self._buffer, self._left_over = new, 0
        old.close()

    def replace_shards(self, keys: Iterable[str]) -> None:
        """Have each shard of these scales, and of no others, replaced when it is first written, not merged."""
        self._anew = {key: set() for key in keys}

    def flush(self) -> None:
        """Write all shards that chunks wait for; those that fail go on waiting.

        Raises
        ------
        AlreadyExistsError
            If another writer has meanwhile stored a chunk that must not replace one: that chunk
            is let go, the others of its shard are written.
        DataAccessError
            If a shard cannot be read or written, or another writer has changed it meanwhile: then
            nothing is lost, and flushing again merges with what that writer wrote. The others are
            written all the same.
        """
        failures = [exc for *_, exc in self._failing()]
        if len(failures) > 1:
            raise DataAccessError(f"{failures[0]}; and {len(failures) - 1} more shards were not written") from failures[
                0
            ]
        if failures:
            raise failures[0]

    def unwritten(self) -> str:
        """Tell what is still to be written; nothing, if all is."""
        parts = [f"{count} chunks of {key}" for key, count in self.waiting.items()]
        if self._store.is_incomplete:
            parts.append("the end of the archive")
        return ", ".join(parts)

    def write_late(self) -> str:
        """Write what is still to be written, as nobody flushes or closes; what fails is logged, and let go.

        Returns
        -------
        str
            What was still to be written.
        """
        with self._late:
            late = self.unwritten()
            try:
                for place, name, exc in self._failing():
                    _log.error("%s: chunks that were not flushed are lost: %s", name, exc)
                    with self._lock:
                        self._waiting.pop(place, None)
                if self._store.is_incomplete:
                    self._complete_archive()
            except BaseException as exc:
                names = ", ".join(self._shown(*place) for place in list(self._waiting.items()))
                _log.error("%s: what was not flushed is lost: %s", names or self._owner, type(exc).__name__)
                raise
        return late

    def _complete_archive(self) -> None:
        try:
            self._store.close()
        except Exception as exc:  # noqa: BLE001 - nobody is there any more to catch it
            _log.error("%s: the archive is not complete: %s", self._store.location.display(), exc)

    def warn(self, late: str) -> None:
        """Warn of what was written late."""
        message = f"{self._owner} was left without flush() or close(): {late}: written late"
        warnings.warn(message, ResourceWarning, 3)

    def _failing(self) -> Iterator[tuple[tuple[str, int], str, Exception]]:
        """Write all shards that chunks wait for; yields those that fail, what messages call them, and why they do."""
        for place, waiting in list(self._waiting.items()):
            try:
                self._store.run(self._flush_in_turn(*place))
            except Exception as exc:  # noqa: BLE001 - it is up to the caller, while the other shards are written
                yield place, self._shown(place, waiting), exc
        with self._lock:
            self._compact()

    def _shown(self, place: tuple[str, int], waiting: _Waiting) -> str:
        """Return what messages call a shard."""
        key, shard = place
        return self._store.location.display(f"{key}/{waiting.sharding.shard_name(shard)}.shard")

    def _flush_in_turn(self, key: str, shard: int) -> Job[None]:
        """Write one shard, after another flush of it has ended, which may have begun too early."""
        mine: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            while (turn := self._turns.setdefault((key, shard), mine)) is not mine:
                yield Wait(turn, _LOOK_AGAIN)
            yield from self._flush_shard(key, shard)
        finally:
            if self._turns.get((key, shard)) is mine:
                del self._turns[key, shard]
                mine.set_result(None)
        with self._lock:
            self._compact()

    def _flush_shard(self, key: str, shard: int) -> Job[None]:
        with self._lock:
            waiting = self._waiting.get((key, shard))
            chunks = {} if waiting is None else dict(waiting.chunks)
        if waiting is None:
            return
        refused, was_legacy = yield from self._merge(key, shard, waiting.sharding, chunks)
        with self._lock:
            self.flushes += 1
            for chunk_id, written in chunks.items():
                pending = waiting.chunks.pop(chunk_id)
                left = pending.without(written)
                if left is not None:
                    waiting.chunks[chunk_id] = left
                self._left_over += pending.size - (0 if left is None else left.size)
            if not waiting.chunks and self._waiting.get((key, shard)) is waiting:
                del self._waiting[key, shard]
        if was_legacy:
            for suffix in (".index", ".data"):
                yield Delete(f"{key}/{waiting.sharding.shard_name(shard)}{suffix}")
        if refused:
            raise self._exists(key, refused[0])

    def drop(self) -> None:
        """Let go of all chunks that wait."""
        with self._lock:
            self._waiting.clear()
            self._release()

    def _release(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
            self._buffer, self._left_over = None, 0

    def _merge(
        self, key: str, shard: int, sharding: Sharding, chunks: Mapping[int, _Pending]
    ) -> Job[tuple[list[int], bool]]:
        """Merge what waits into the stored shard, and try again if another writer was faster.

        Returns the chunks that were not written, as there are others in their place by now, and
        whether an older pair of files is left to be deleted.
        """
        name = f"{key}/{sharding.shard_name(shard)}.shard"
        shown = self._store.location.display(name)
        failure: Exception | None = None
        with (yield from self._store.turn(name).begin()):
            for pause in jobs.conflicts():
                yield pause
                try:
                    return (yield from self._merge_with(key, shard, sharding, name, dict(chunks)))
                except (AlreadyExistsError, ReplacedError, ShardReplacedError) as exc:
                    failure = exc
                finally:
                    self._reader.forget(key, shard)
                    self._unborn.discard((key, shard))
        raise DataAccessError(
            f"{shown}: another writer has changed it meanwhile, again and again; flush again"
        ) from failure

    def _merge_with(
        self, key: str, shard: int, sharding: Sharding, name: str, chunks: dict[int, _Pending]
    ) -> Job[tuple[list[int], bool]]:
        """Replace the version of the shard that is there, or fail."""
        is_anew = shard not in self._anew.get(key, {shard})
        existing = None if is_anew else (yield from self._reader.inspect(key, sharding, shard))
        refused: list[int] = []
        if existing is not None:
            with _expecting_a_shard():
                refused = yield from self._refused(key, sharding, chunks)
        for chunk_id in refused:
            del chunks[chunk_id]
        was_legacy = existing is not None and existing.legacy
        with _disk(), tempfile.TemporaryFile() as out:
            if not chunks:
                return refused, False
            with _expecting_a_shard():
                has_data = yield from self._assemble(out, key, sharding, shard, existing=existing, chunks=chunks)
            if not has_data:
                return refused, False
            with mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ) as data:
                put = Put(
                    name,
                    data,
                    content_type="application/octet-stream",
                    create=not is_anew and (existing is None or existing.legacy),
                    replacing="" if existing is None or existing.legacy else existing.version,
                )
                yield from jobs.write(put)
        if is_anew:
            self._anew.get(key, set()).add(shard)
        return refused, was_legacy

    def _refused(self, key: str, sharding: Sharding, chunks: Mapping[int, _Pending]) -> Job[list[int]]:
        """Look again, in the shard as it is now: another writer may have stored the same chunk.

        The same bytes are our own, of a flush whose answer was lost.
        """
        refused = []
        for chunk_id, pending in chunks.items():
            if pending.is_new and (yield from self._reader.locate(key, sharding, chunk_id)) is not None:
                there = yield from self._reader.fetch(key, sharding, chunk_id)
                with self._lock:
                    waits = self._parts(pending)
                if there is not None and there.data != self._made(key, sharding, waits, None):
                    refused.append(chunk_id)
        return refused

    def _assemble(
        self,
        out: IO[bytes],
        key: str,
        sharding: Sharding,
        shard: int,
        *,
        existing: ShardState | None,
        chunks: Mapping[int, _Pending],
    ) -> Job[bool]:
        """Write a shard file: behind the shard index the data, and then the indexes of all minishards.

        So one request reads as many indexes as are wanted. What is kept of one minishard is in memory at once.
        Returns whether there is anything to write: changes may leave what is there.
        """
        added: dict[int, list[int]] = {}
        replaced = {chunk_id for chunk_id, pending in chunks.items() if pending.whole is not None}
        for chunk_id in chunks:
            added.setdefault(sharding.locate(chunk_id)[1], []).append(chunk_id)
        minishards = set(added) | set(existing.minishards if existing is not None else ())
        out.seek(sharding.index_size)
        position = 0
        indexes: dict[int, bytes] = {}
        for minishard in sorted(minishards):
            kept: dict[int, bytes] = {}
            if existing is not None:
                kept = yield from self._reader.fetch_minishard(
                    key, sharding, shard, minishard, existing, without=replaced
                )
            packed = []
            for chunk_id in sorted({*kept, *added.get(minishard, ())}):
                data = kept.pop(chunk_id, None)
                if chunk_id in chunks:
                    with self._lock:
                        waits = self._parts(chunks[chunk_id])
                    data = self._made(key, sharding, waits, data)
                if data is None:
                    continue
                out.write(data)
                packed.append(Wanted(chunk_id, position, position + len(data)))
                position += len(data)
            if not packed:
                continue
            index = pack_minishard_index(packed)
            if sharding.minishard_index_encoding == "gzip":
                index = gzip_compress(index, self._compresslevel)
            indexes[minishard] = index
        index_places: dict[int, ByteRange] = {}
        for minishard, index in indexes.items():
            out.write(index)
            index_places[minishard] = ByteRange(position, position + len(index))
            position += len(index)
        out.seek(0)
        out.write(pack_shard_index(index_places, sharding))
        out.flush()
        return bool(indexes)

    def _buffered(self, place: _Place) -> bytes:
        if self._buffer is None:
            raise DataAccessError("the chunks that waited were dropped meanwhile")
        self._buffer.seek(place.start)
        return self._buffer.read(place.size)

    def _exists(self, key: str, chunk_id: int) -> AlreadyExistsError:
        shown = self._store.location.display(key)
        return AlreadyExistsError(f"{shown}: chunk {chunk_id} exists; pass overwrite=True to replace it")


def _let_go(writer: ShardWriter) -> None:
    """Write what is still to be written by the writer of an accessor that is gone.

    Garbage may be collected in any line of any thread: in one that holds a lock, or that is itself a connection to
    the store, as fsspec's event loop is. So another thread does it, and this one waits for a limited time, unless it
    is a daemon, as the threads of connections are.
    """

    def write() -> None:
        try:
            writer.write_late()
        finally:
            _watched.pop(id(writer), None)

    late = writer.unwritten()
    if not late:
        _watched.pop(id(writer), None)
        return
    thread = threading.Thread(target=write, daemon=True, name="precomputed_fs late")
    try:
        thread.start()
    except RuntimeError:  # the interpreter is about to end
        write()
    else:
        thread.join(0 if threading.current_thread().daemon else _LATE_SECONDS)
    writer.warn(late)


def _expect_end() -> None:
    """Have what waits in this process written at its end, before drivers let go of their connections.

    What is registered last is called first, and when a chunk waits, the driver is there already.
    """
    global _ends_in  # noqa: PLW0603 - once in each process
    if _ends_in == os.getpid():
        return
    _ends_in = os.getpid()
    atexit.register(_write_all)
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:  # such a child ends without `atexit`
        from multiprocessing.util import Finalize  # noqa: PLC0415 - it is imported already

        Finalize(None, _write_all, exitpriority=0)


def _write_all() -> None:
    """Write what is still to be written in this process, which ends."""
    expect_no_threads()
    for writer in list(_watched.values()):
        if late := writer.write_late():
            try:
                writer.warn(late)
            except ResourceWarning:  # warnings are errors, and others are still to be written
                sys.excepthook(*sys.exc_info())


atexit.register(_write_all)  # after that, for what is stored at the end


def _new_buffer() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=BUFFER_BYTES)


@contextlib.contextmanager
def _expecting_a_shard() -> Iterator[None]:
    """Take a shard that is gone since its index was read for one that was replaced."""
    try:
        yield
    except NotFoundError as exc:
        raise ShardReplacedError from exc


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Say of a failing temporary file where it is; errors of the store pass."""
    try:
        yield
    except OSError as exc:
        if isinstance(exc, DataAccessError):
            raise
        raise DataAccessError(
            f"no temporary file in {tempfile.gettempdir()} can be written: {exc}; TMPDIR names another folder"
        ) from exc


def _leave_parents() -> None:
    for writer in list(_writers):
        writer.leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents)
