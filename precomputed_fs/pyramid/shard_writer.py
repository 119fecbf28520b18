"""How shards are written: chunks wait in a buffer, and each shard is merged and replaced in one step.

A chunk of a sharded scale cannot be stored alone, because its shard is one object. Stored chunks wait
until they are flushed; then each existing shard is read, merged with its waiting chunks, and written
in one piece. So a shard is complete and readable, or absent. The output is deterministic: minishards
in order, ids ascending.
"""

import concurrent.futures
import contextlib
import functools
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from precomputed_fs.errors import AlreadyExistsError, CorruptDataError, DataAccessError, NotFoundError, ReplacedError
from precomputed_fs.format.compression import MAX_DECODED_SIZE, decode_gzip_or_zlib, gzip_compress
from precomputed_fs.format.grid import ChunkCoords, chunk_name
from precomputed_fs.format.shard_index import ByteRange, Entry, Wanted, pack_minishard_index, pack_shard_index
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.shard_indexes import ShardReplacedError
from precomputed_fs.pyramid.shards import ShardReader, ShardState
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.pyramid.write_buffer import Parts, Pending, Shard, WriteBuffer, naming_folder
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Compute, Delete, Job, Put, Wait

_CHANGES_BYTES = 256 << 20  # of changes to one chunk, after which its shard is written: the write needs them in memory
_MOST_MINISHARD_BITS = 20  # a shard index of 16 MiB; 3 to 11 are usual
_LOOK_AGAIN = 60.0  # seconds after which to check again whether another flush has ended

_writers: "weakref.WeakSet[ShardWriter]" = weakref.WeakSet()


class ShardWriter:
    """Collects chunks of a pyramid, and writes them into shards.

    Parameters
    ----------
    store : ObjectStore
        Where the shards are.
    reader : ShardReader
        Reads existing shards.
    compresslevel : int
        The level of gzip, for scales whose sharding uses it; 0 to 9.
    """

    def __init__(self, store: ObjectStore, reader: ShardReader, compresslevel: int) -> None:
        self._store = store
        self._reader = reader
        self._compresslevel = compresslevel
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self._buffer = WriteBuffer(self._store.location)
        self._turns: dict[Shard, concurrent.futures.Future[None]] = {}
        self._known_absent: set[Shard] = set()
        self._replaced: dict[str, set[int]] = {}
        """Scales whose shards are replaced on the first write, with the shards already replaced."""

    def leave_parent(self) -> None:
        """In a forked process, leave the waiting chunks to the parent, which received them."""
        self._buffer.leave_parent()
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.waiting:
            raise TypeError("chunks wait for their shards to be written: flush() before pickling")
        return ShardWriter, (self._store, self._reader, self._compresslevel)

    @property
    def waiting(self) -> dict[str, int]:
        """How many chunks of each scale are not written yet."""
        return self._buffer.counts()

    @property
    def flushes(self) -> int:
        """How often written chunks have left the buffer: once for each written shard."""
        return self._buffer.removals

    def find(
        self, key: str, sharding: Sharding, chunk_id: int, stored: Callable[[], Job[bytes | None]]
    ) -> Job[Entry | None]:
        """Return a waiting chunk, encoded as its shard will have it; None if the stored one stays as it is.

        Parameters
        ----------
        stored : callable
            Makes a job that returns the chunk in its shard now; called only if changes to it wait.
        """
        waits = self._buffer.parts((key, sharding.locate(chunk_id)[0]), chunk_id)  # before a flush can remove them
        if waits is None:
            return None
        there = None if waits.whole is not None else (yield from stored())
        made: Entry | None = yield Compute(
            functools.partial(self._made, key, sharding, waits, None if there is None else Entry(there))
        )
        return made

    def add(
        self,
        key: str,
        sharding: Sharding,
        chunk_id: int,
        data: bytes,
        *,
        overwrite: bool,
        is_gzip: bool = False,
        lead: bytes = b"",
    ) -> Job[int]:
        """Add a chunk to the buffer; returns how many bytes it will take in its shard.

        Parameters
        ----------
        lead : bytes
            What is to stand right before it, as it is: see `Sharding.lead`.
        is_gzip : bool
            Whether the shard's encoding is gzip and the data have it already.

        Raises
        ------
        AlreadyExistsError
            If ``overwrite=False`` and the chunk is already waiting or in its shard.
        """
        shown = self._store.location.display(key)
        if sharding.minishard_bits > _MOST_MINISHARD_BITS:
            raise ValueError(
                f"{shown}: its shard index would take {sharding.index_size} bytes in every shard; shards are written "
                f"with at most {_MOST_MINISHARD_BITS} minishard_bits"
            )
        if not data:
            raise ValueError(f"{shown}: chunk {chunk_id} is empty, which would mean in a shard that it is absent")
        if not overwrite and (yield from self._is_stored(key, sharding, chunk_id)):
            raise self._exists(key, chunk_id)
        if sharding.data_encoding == "gzip" and not is_gzip:
            data = yield Compute(functools.partial(gzip_compress, data, self._compresslevel))
        shard = key, sharding.locate(chunk_id)[0]
        entry = Entry(lead + data, len(lead))
        if not self._buffer.put(shard, sharding, chunk_id, entry, is_new=not overwrite):
            raise self._exists(key, chunk_id)
        self._reader.forget_chunk(*shard, chunk_id)
        self._buffer.compact(self._turns)
        return len(entry.data)

    def update(self, key: str, sharding: Sharding, chunk_id: int, coords: ChunkCoords, update: Update) -> Job[None]:
        """Add a change to a chunk, to be applied to the stored chunk when its shard is written.

        When the changes to one chunk become very large, its shard is written at once.
        """
        shard = sharding.locate(chunk_id)[0]
        pending = self._buffer.patch((key, shard), sharding, chunk_id, coords, update)
        self._reader.forget_chunk(key, shard, chunk_id)
        if pending.patch_count > 1 and pending.size > _CHANGES_BYTES:
            yield from self._flush_in_turn(key, shard)

    def _made(self, key: str, sharding: Sharding, waits: Parts, stored: Entry | None) -> Entry | None:
        """Return a chunk as its shard will have it, made from its waiting parts and the stored chunk."""
        entry = stored if waits.whole is None else waits.whole
        if waits.apply is None:
            return entry
        data = None if entry is None else entry.value
        is_gzip = sharding.data_encoding == "gzip"
        try:
            chunk = decode_gzip_or_zlib(data, MAX_DECODED_SIZE) if is_gzip and data is not None else data
            changed = waits.apply(waits.coords, chunk, waits.patches)
        except CorruptDataError as exc:
            raise CorruptDataError(
                f"{self._store.location.display(key)}, chunk {chunk_name(waits.coords)}: {exc}"
            ) from exc
        if changed is None:
            return entry
        return Entry(gzip_compress(changed, self._compresslevel) if is_gzip else changed)

    def _is_stored(self, key: str, sharding: Sharding, chunk_id: int) -> Job[bool]:
        """Tell whether a chunk is in its shard.

        An absent shard is looked for once, however many chunks wait for it: the merge checks again.
        """
        shard, _ = sharding.locate(chunk_id)
        if (key, shard) in self._known_absent:
            return False
        if not (yield from self._reader.has_shard(key, sharding, chunk_id)):
            self._known_absent.add((key, shard))
            return False
        return (yield from self._reader.locate(key, sharding, chunk_id)) is not None

    def replace_shards(self, keys: Iterable[str]) -> None:
        """Replace existing shards of these scales, and of no others, on the first write; later writes merge."""
        self._replaced = {key: set() for key in keys}

    def flush(self) -> None:
        """Write all shards with waiting chunks; the chunks of shards that fail go on waiting.

        Raises
        ------
        AlreadyExistsError
            If another writer has stored a chunk in the meantime that was added with
            ``overwrite=False``: that chunk is discarded, the others of its shard are written.
        DataAccessError
            If a shard cannot be read or written, or if another writer keeps changing it. Nothing is
            lost: flushing again merges with that writer's shard. The other shards are written.
        """
        failures = [exc for *_, exc in self.flush_each()]
        if len(failures) > 1:
            message = f"{failures[0]}; and {len(failures) - 1} more shards were not written"
            raise DataAccessError(message) from failures[0]
        if failures:
            raise failures[0]

    def flush_each(self) -> Iterator[tuple[Shard, str, Exception]]:
        """Write all shards with waiting chunks; yields those that fail, with their names in messages and the errors."""
        for shard in list(self._buffer.shards):
            try:
                self._store.run(self._flush_in_turn(*shard))
            except Exception as exc:  # noqa: BLE001 - the caller decides, after the other shards
                yield shard, self._shown(shard), exc
        self._buffer.compact(self._turns)

    def give_up(self, shard: Shard) -> None:
        """Discard the chunks that wait for a shard."""
        self._buffer.give_up(shard)

    def drop(self) -> None:
        """Discard all waiting chunks."""
        self._buffer.drop()

    @property
    def unwritten_shards(self) -> list[str]:
        """The shards with waiting chunks, as messages call them."""
        return [self._shown(shard) for shard in list(self._buffer.shards)]

    def _shown(self, shard: Shard) -> str:
        key, number = shard
        waiting = self._buffer.waiting_for(shard)
        name = f"{key}/{number}" if waiting is None else waiting.sharding.shard_name(key, number)
        return self._store.location.display(f"{name}.shard")

    def _flush_in_turn(self, key: str, shard: int) -> Job[None]:
        """Write one shard, once no other flush of it runs: that one may have begun too early for our chunks."""
        mine: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            while (turn := self._turns.setdefault((key, shard), mine)) is not mine:
                yield Wait(turn, _LOOK_AGAIN)
            yield from self._flush_shard(key, shard)
        finally:
            if self._turns.get((key, shard)) is mine:
                del self._turns[key, shard]
                mine.set_result(None)
        self._buffer.compact(self._turns)

    def _flush_shard(self, key: str, shard: int) -> Job[None]:
        waiting = self._buffer.waiting_for((key, shard))
        if waiting is None:
            return
        refused, was_legacy = yield from self._merge(key, shard, waiting.sharding, waiting.chunks)
        self._buffer.remove((key, shard), waiting.chunks)
        if was_legacy:
            for suffix in (".index", ".data"):
                yield Delete(f"{waiting.sharding.shard_name(key, shard)}{suffix}")
        if refused:
            raise self._exists(key, refused[0])

    def _merge(
        self, key: str, shard: int, sharding: Sharding, chunks: Mapping[int, Pending]
    ) -> Job[tuple[list[int], bool]]:
        """Merge waiting chunks into the stored shard, and try again if another writer was faster.

        Returns the chunks that were not written, because another writer has stored them, and whether
        an older pair of files is left to delete.
        """
        name = f"{sharding.shard_name(key, shard)}.shard"
        shown = self._store.location.display(name)
        failure: Exception | None = None
        with (yield from self._store.name_lock(name).begin()):
            for pause in jobs.conflicts():
                yield pause
                try:
                    return (yield from self._merge_with(key, shard, sharding, name, dict(chunks)))
                except (AlreadyExistsError, ReplacedError, ShardReplacedError) as exc:
                    failure = exc
                finally:
                    self._reader.forget(key, shard)
                    self._known_absent.discard((key, shard))
        raise DataAccessError(f"{shown}: another writer changed it again and again; flush again") from failure

    def _merge_with(
        self, key: str, shard: int, sharding: Sharding, name: str, chunks: dict[int, Pending]
    ) -> Job[tuple[list[int], bool]]:
        """Merge with the version of the shard that is there now, and replace just this version."""
        replaces = shard not in self._replaced.get(key, {shard})
        existing = None if replaces else (yield from self._reader.inspect(key, sharding, shard))
        refused: list[int] = []
        if existing is not None:
            with _expecting_a_shard():
                refused = yield from self._refused(key, sharding, chunks)
        for chunk_id in refused:
            del chunks[chunk_id]
        was_legacy = existing is not None and existing.legacy
        with naming_folder(), tempfile.TemporaryFile() as out:
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
                    create=not replaces and (existing is None or existing.legacy),
                    replacing="" if existing is None or existing.legacy else existing.version,
                )
                yield from jobs.write(put)
        if replaces:
            self._replaced.get(key, set()).add(shard)
        return refused, was_legacy

    def _refused(self, key: str, sharding: Sharding, chunks: Mapping[int, Pending]) -> Job[list[int]]:
        """Find new chunks that another writer has stored in the shard in the meantime.

        A chunk with the same bytes is taken for our own, from a flush whose answer was lost.
        """
        refused = []
        for chunk_id, pending in chunks.items():
            if pending.is_new and (yield from self._reader.locate(key, sharding, chunk_id)) is not None:
                there = yield from self._reader.fetch(key, sharding, chunk_id)
                waits = self._buffer.parts_of(pending)
                made = self._made(key, sharding, waits, None)
                if there is not None and (made is None or there.data != made.value):
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
        chunks: Mapping[int, Pending],
    ) -> Job[bool]:
        """Write a shard file: the shard index, then the data, then the indexes of all minishards.

        So one request can read several indexes. Memory holds the kept chunks of one minishard at a time.
        Returns whether there is anything to write, since changes may leave chunks as they are.
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
            kept: dict[int, Entry] = {}
            if existing is not None:
                kept = yield from self._reader.fetch_minishard(
                    key, sharding, shard, minishard, existing, without=replaced
                )
            packed = []
            for chunk_id in sorted({*kept, *added.get(minishard, ())}):
                entry = kept.pop(chunk_id, None)
                if chunk_id in chunks:
                    waits = self._buffer.parts_of(chunks[chunk_id])
                    entry = self._made(key, sharding, waits, entry)
                if entry is None:
                    continue
                out.write(entry.data)
                end = position + len(entry.data)
                packed.append(Wanted(chunk_id, position + entry.lead, end))
                position = end
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

    def _exists(self, key: str, chunk_id: int) -> AlreadyExistsError:
        shown = self._store.location.display(key)
        return AlreadyExistsError(f"{shown}: chunk {chunk_id} exists; pass overwrite=True to replace it")


@contextlib.contextmanager
def _expecting_a_shard() -> Iterator[None]:
    """Treat a shard that vanished after its index was read as replaced."""
    try:
        yield
    except NotFoundError as exc:
        raise ShardReplacedError from exc


def _leave_parents() -> None:
    for writer in list(_writers):
        writer.leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents)
