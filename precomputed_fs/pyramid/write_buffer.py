"""Where chunks wait until their shards are written: in memory up to a limit, then in a temporary file."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from precomputed_fs.errors import DataAccessError
from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.format.shard_index import Entry
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.updates import Apply, Update
from precomputed_fs.store.location import Location

BUFFER_BYTES = 64 << 20
"""Memory that waiting chunks may take before they go to a temporary file (64 MiB)."""

Shard = tuple[str, int]
"""A scale's key, and the number of a shard."""

_inherited: list[IO[bytes]] = []
"""Temporary files of parent processes, never closed here."""


class Place(NamedTuple):
    """A range of bytes in the buffer."""

    start: int
    size: int


class Pending(NamedTuple):
    """A waiting chunk: a whole chunk, or changes to the stored chunk, or changes to a whole chunk."""

    whole: Place | None
    is_new: bool
    """Whether the whole chunk must not replace another."""

    size: int
    """Bytes in the buffer."""

    patches: list[Place]
    """Shared with later states, which append to it."""

    patch_count: int = 0
    """How many of the patches belong to this state."""

    coords: ChunkCoords = (0, 0, 0, 0, 0, 0)
    apply: Apply | None = None
    lead: int = 0
    """How many bytes of the whole stand before the value: see `Sharding.lead`."""

    def patched(self, patch: Place, coords: ChunkCoords, apply: Apply) -> "Pending":
        """Return this with one more change."""
        self.patches[self.patch_count :] = [patch]  # replaces a patch whose update was interrupted
        return self._replace(size=self.size + patch.size, patch_count=self.patch_count + 1, coords=coords, apply=apply)

    def without(self, written: "Pending") -> "Pending | None":
        """Return what still waits after an earlier state was written."""
        if self.patches is not written.patches:
            return self  # the chunk was stored again during the write
        if self.patch_count == written.patch_count:
            return None
        rest = self.patches[written.patch_count :]
        return self._replace(
            whole=None, is_new=False, size=self.size - written.size, patches=rest, patch_count=len(rest)
        )


class Parts(NamedTuple):
    """The bytes of a waiting chunk."""

    whole: Entry | None
    patches: list[bytes]
    coords: ChunkCoords
    apply: Apply | None


@dataclass(slots=True)
class Waiting:
    """The chunks that wait for one shard."""

    sharding: Sharding
    chunks: dict[int, Pending] = field(default_factory=dict)


class WriteBuffer:
    """The waiting chunks of a pyramid. Safe for threads."""

    def __init__(self, location: Location) -> None:
        self.shards: dict[Shard, Waiting] = {}
        self.removals = 0
        """How often written chunks have been removed."""

        self._location = location
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._left_over = 0  # bytes in the file that belong to no waiting chunk

    def leave_parent(self) -> None:
        """In a forked process, leave the temporary file to the parent."""
        if self._file is not None:
            _inherited.append(self._file)  # closing it would move the parent's position in the file

    def counts(self) -> dict[str, int]:
        """Return how many chunks of each scale wait."""
        counts: dict[str, int] = {}
        with self._lock:
            for (key, _), waiting in self.shards.items():
                counts[key] = counts.get(key, 0) + len(waiting.chunks)
        return counts

    def parts(self, shard: Shard, chunk_id: int) -> Parts | None:
        """Return the bytes of a chunk; None if it does not wait."""
        with self._lock:
            waiting = self.shards.get(shard)
            pending = None if waiting is None else waiting.chunks.get(chunk_id)
            return None if pending is None else self._parts(pending)

    def parts_of(self, pending: Pending) -> Parts:
        """Return the bytes of one state of a chunk."""
        with self._lock:
            return self._parts(pending)

    def put(self, shard: Shard, sharding: Sharding, chunk_id: int, entry: Entry, *, is_new: bool) -> bool:
        """Add a chunk; returns False if it must not replace another one, and one waits."""
        with self._lock:
            waiting = self._waiting_for(shard, sharding)
            replaced = waiting.chunks.get(chunk_id)
            if is_new and replaced is not None:
                return False
            data = entry.data
            waiting.chunks[chunk_id] = Pending(self._keep(data), is_new, len(data), [], lead=entry.lead)
            self._left_over += 0 if replaced is None else replaced.size
            return True

    def patch(self, shard: Shard, sharding: Sharding, chunk_id: int, coords: ChunkCoords, update: Update) -> Pending:
        """Add a change to a chunk."""
        with self._lock:
            waiting = self._waiting_for(shard, sharding)
            pending = waiting.chunks.get(chunk_id) or Pending(None, False, 0, [])
            pending = pending.patched(self._keep(update.patch), coords, update.apply)
            waiting.chunks[chunk_id] = pending
            return pending

    def waiting_for(self, shard: Shard) -> Waiting | None:
        """Return the chunks that wait for a shard now."""
        with self._lock:
            waiting = self.shards.get(shard)
            return None if waiting is None else Waiting(waiting.sharding, dict(waiting.chunks))

    def remove(self, shard: Shard, written: Mapping[int, Pending]) -> None:
        """Remove the written chunks of a shard; what was stored since then goes on waiting."""
        with self._lock:
            self.removals += 1
            waiting = self.shards.get(shard)
            if waiting is None:
                return
            for chunk_id, before in written.items():
                pending = waiting.chunks.pop(chunk_id, None)
                if pending is None:
                    continue
                left = pending.without(before)
                if left is not None:
                    waiting.chunks[chunk_id] = left
                self._left_over += pending.size - (0 if left is None else left.size)
            if not waiting.chunks:
                del self.shards[shard]

    def give_up(self, shard: Shard) -> None:
        """Remove everything that waits for a shard."""
        with self._lock:
            self.shards.pop(shard, None)

    def drop(self) -> None:
        """Remove everything."""
        with self._lock:
            self.shards.clear()
            self._release()

    def compact(self, under_way: Collection[Shard]) -> None:
        """Close the file if nothing waits; move to a new one when most of a large one is no longer needed.

        Not while shards are being written, because their reads use the old places. If the disk has no room for both
        files, the old one stays.
        """
        with self._lock:
            if not self.shards:
                self._release()
                return
            if self._file is None or under_way or self._left_over < BUFFER_BYTES:
                return
            with contextlib.suppress(OSError):
                self._move_to_new_file(self._file)

    def _move_to_new_file(self, old: IO[bytes]) -> None:
        if self._left_over < old.seek(0, os.SEEK_END) // 2:
            return
        new = _new_file()
        try:
            chunks = {shard: _moved(waiting, old, new) for shard, waiting in self.shards.items()}
        except BaseException:
            new.close()
            raise
        for shard, moved in chunks.items():
            self.shards[shard].chunks.update(moved)
        self._file, self._left_over = new, 0
        old.close()

    def _waiting_for(self, shard: Shard, sharding: Sharding) -> Waiting:
        waiting = self.shards.setdefault(shard, Waiting(sharding))
        if waiting.sharding != sharding:
            shown = self._location.display(shard[0])
            message = "its sharding has changed while chunks wait for its shards; call flush() before changing it"
            raise DataAccessError(f"{shown}: {message}")
        return waiting

    def _keep(self, data: bytes) -> Place:
        """Append bytes to the file."""
        with naming_folder():
            if self._file is None:
                self._file = _new_file()
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
        return Place(start, len(data))

    def _parts(self, pending: Pending) -> Parts:
        whole = None if pending.whole is None else Entry(self._bytes(pending.whole), pending.lead)
        patches = [self._bytes(place) for place in pending.patches[: pending.patch_count]]
        return Parts(whole, patches, pending.coords, pending.apply)

    def _bytes(self, place: Place) -> bytes:
        if self._file is None:
            raise DataAccessError("the waiting chunks were discarded in the meantime")
        self._file.seek(place.start)
        return self._file.read(place.size)

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._left_over = None, 0


def _new_file() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=BUFFER_BYTES)


def _moved(waiting: Waiting, old: IO[bytes], new: IO[bytes]) -> dict[int, Pending]:
    """Copy the chunks that wait for a shard to a new file."""

    def move(place: Place) -> Place:
        old.seek(place.start)
        moved = Place(new.tell(), place.size)
        new.write(old.read(place.size))
        return moved

    return {
        chunk_id: pending._replace(
            whole=None if pending.whole is None else move(pending.whole),
            patches=[move(place) for place in pending.patches],
        )
        for chunk_id, pending in waiting.chunks.items()
    }


@contextlib.contextmanager
def naming_folder() -> Iterator[None]:
    """Name the folder of temporary files in an error of one; errors of the store pass through."""
    try:
        yield
    except OSError as exc:
        if isinstance(exc, DataAccessError):
            raise
        raise DataAccessError(
            f"cannot write a temporary file in {tempfile.gettempdir()}: {exc}; set TMPDIR to use another folder"
        ) from exc
