"""How shards are written: chunks wait in a buffer, and a shard is merged and put in place at once.

A chunk of a sharded scale cannot be stored by itself, as its shard is one object. Chunks that are
stored wait until they are flushed: then, shard by shard, what the store has is read, merged with what
waits, and written in one piece. So a shard is complete and readable, or not there. The output is
deterministic: minishards in order, ids ascending.
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
from precomputed_fs.format.shard_index import ByteRange, Wanted, pack_minishard_index, pack_shard_index
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.shard_indexes import ShardReplacedError
from precomputed_fs.pyramid.shards import ShardReader, ShardState
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.pyramid.write_buffer import Parts, Pending, Shard, WriteBuffer, naming_folder
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Compute, Delete, Job, Put, Wait

_CHANGES_BYTES = 256 << 20  # of one chunk, after which its shard is written: they are all in memory then
_MOST_MINISHARD_BITS = 20  # a shard index of 16 MiB; usual are 3 to 11
_LOOK_AGAIN = 60.0  # seconds, after which it is looked again whether another flush has ended

_writers: "weakref.WeakSet[ShardWriter]" = weakref.WeakSet()


class ShardWriter:
    """The chunks of a pyramid that wait to be written into shards.

    Parameters
    ----------
    store : ObjectStore
        Where the shards are.
    reader : ShardReader
        Reads the shards that are there.
    compresslevel : int
        Of gzip, where a scale's sharding asks for it; 0 to 9.
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
        """Scales whose shards are replaced on the first write, and those that have been."""

    def leave_parent(self) -> None:
        """In a forked process, leave the chunks that wait to the one that they were given to."""
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
        """How many shards have been written: what waited for them does not wait any more."""
        return self._buffer.removals

    def find(
        self, key: str, sharding: Sharding, chunk_id: int, stored: Callable[[], Job[bytes | None]]
    ) -> Job[bytes | None]:
        """Return a waiting chunk, encoded as its shard will have it; None if the stored one stays as it is.

        Parameters
        ----------
        stored : callable
            Makes a job that returns the chunk as its shard has it now; called only if changes of it wait.
        """
        waits = self._buffer.parts((key, sharding.locate(chunk_id)[0]), chunk_id)  # as a flush may come before `stored`
        if waits is None:
            return None
        there = None if waits.whole is not None else (yield from stored())
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
        shard = key, sharding.locate(chunk_id)[0]
        if not self._buffer.put(shard, sharding, chunk_id, data, is_new=not overwrite):
            raise self._exists(key, chunk_id)
        self._buffer.compact(self._turns)
        return len(data)

    def update(self, key: str, sharding: Sharding, chunk_id: int, coords: ChunkCoords, update: Update) -> Job[None]:
        """Have a change of a chunk wait for its shard to be written, which is made of the chunk as it is then.

        Once very many wait for one chunk, its shard is written.
        """
        shard = sharding.locate(chunk_id)[0]
        pending = self._buffer.patch((key, shard), sharding, chunk_id, coords, update)
        if pending.patch_count > 1 and pending.size > _CHANGES_BYTES:
            yield from self._flush_in_turn(key, shard)

    def _made(self, key: str, sharding: Sharding, waits: Parts, stored: bytes | None) -> bytes | None:
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
        failures = [exc for *_, exc in self.flush_each()]
        if len(failures) > 1:
            message = f"{failures[0]}; and {len(failures) - 1} more shards were not written"
            raise DataAccessError(message) from failures[0]
        if failures:
            raise failures[0]

    def flush_each(self) -> Iterator[tuple[Shard, str, Exception]]:
        """Write all shards that chunks wait for; yields those that fail, what messages call them, and why they do."""
        for shard in list(self._buffer.shards):
            try:
                self._store.run(self._flush_in_turn(*shard))
            except Exception as exc:  # noqa: BLE001 - it is up to the caller, while the other shards are written
                yield shard, self._shown(shard), exc
        self._buffer.compact(self._turns)

    def give_up(self, shard: Shard) -> None:
        """Discard the chunks that wait for a shard."""
        self._buffer.give_up(shard)

    def drop(self) -> None:
        """Discard all chunks that wait."""
        self._buffer.drop()

    @property
    def unwritten_shards(self) -> list[str]:
        """What messages call the shards that chunks wait for."""
        return [self._shown(shard) for shard in list(self._buffer.shards)]

    def _shown(self, shard: Shard) -> str:
        key, number = shard
        waiting = self._buffer.waiting_for(shard)
        name = str(number) if waiting is None else waiting.sharding.shard_name(number)
        return self._store.location.display(f"{key}/{name}.shard")

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
        self._buffer.compact(self._turns)

    def _flush_shard(self, key: str, shard: int) -> Job[None]:
        waiting = self._buffer.waiting_for((key, shard))
        if waiting is None:
            return
        refused, was_legacy = yield from self._merge(key, shard, waiting.sharding, waiting.chunks)
        self._buffer.remove((key, shard), waiting.chunks)
        if was_legacy:
            for suffix in (".index", ".data"):
                yield Delete(f"{key}/{waiting.sharding.shard_name(shard)}{suffix}")
        if refused:
            raise self._exists(key, refused[0])

    def _merge(
        self, key: str, shard: int, sharding: Sharding, chunks: Mapping[int, Pending]
    ) -> Job[tuple[list[int], bool]]:
        """Merge what waits into the stored shard, and try again if another writer was faster.

        Returns the chunks that were not written, as there are others in their place by now, and
        whether an older pair of files is left to be deleted.
        """
        name = f"{key}/{sharding.shard_name(shard)}.shard"
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
        raise DataAccessError(
            f"{shown}: another writer has changed it meanwhile, again and again; flush again"
        ) from failure

    def _merge_with(
        self, key: str, shard: int, sharding: Sharding, name: str, chunks: dict[int, Pending]
    ) -> Job[tuple[list[int], bool]]:
        """Replace the version of the shard that is there, or fail."""
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
        """Look again, in the shard as it is now: another writer may have stored the same chunk.

        The same bytes are our own, of a flush whose answer was lost.
        """
        refused = []
        for chunk_id, pending in chunks.items():
            if pending.is_new and (yield from self._reader.locate(key, sharding, chunk_id)) is not None:
                there = yield from self._reader.fetch(key, sharding, chunk_id)
                waits = self._buffer.parts_of(pending)
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
        chunks: Mapping[int, Pending],
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
                    waits = self._buffer.parts_of(chunks[chunk_id])
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

    def _exists(self, key: str, chunk_id: int) -> AlreadyExistsError:
        shown = self._store.location.display(key)
        return AlreadyExistsError(f"{shown}: chunk {chunk_id} exists; pass overwrite=True to replace it")


@contextlib.contextmanager
def _expecting_a_shard() -> Iterator[None]:
    """Take a shard that is gone since its index was read for one that was replaced."""
    try:
        yield
    except NotFoundError as exc:
        raise ShardReplacedError from exc


def _leave_parents() -> None:
    for writer in list(_writers):
        writer.leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parents)
