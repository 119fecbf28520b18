"""Chunks that were fetched, kept in memory as they are stored: the least recently used go first.

What this process writes through the same pyramid is dropped as soon as it is stored. What others write is not seen.
"""

import os
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.pyramid.stored import Stored

_OVERHEAD = 900  # bytes of memory that an entry takes beside the chunk, as measured; an absent one takes half of it


class Place(NamedTuple):
    """Where chunks are: a scale, or one of its shards."""

    scale: str
    """The URL, for messages, of the scale's folder."""

    shard: int = -1


Which = ChunkCoords | int
"""A chunk of a scale, or the number of a chunk in a shard."""


class Kept(NamedTuple):
    """What is known of a chunk."""

    stored: Stored | None
    """None: it is absent."""

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes."""
        return _OVERHEAD + (0 if self.stored is None else len(self.stored.body))


class _Entries:
    """The entries of one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[tuple[Place, Which], Kept] = OrderedDict()
        self.by_place: dict[Place, set[Which]] = {}
        self.size = 0
        self.changes = 0

    def drop(self, place: Place, which: Which) -> None:
        kept = self.kept.pop((place, which), None)
        if kept is not None:
            self.size -= kept.nbytes
            others = self.by_place[place]
            others.discard(which)
            if not others:
                del self.by_place[place]


class ChunkCache:
    """Chunks of a pyramid. Safe for threads; a pickled cache, and that of a forked process, is empty.

    Parameters
    ----------
    limit : int
        Bytes of memory; 0 for no cache.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._processes: dict[int, _Entries] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkCache, (self.limit,)

    @property
    def _entries(self) -> _Entries:
        pid = os.getpid()
        entries = self._processes.get(pid)
        return self._processes.setdefault(pid, _Entries()) if entries is None else entries

    @property
    def size(self) -> int:
        """The memory that is taken now, in bytes."""
        return self._entries.size

    @property
    def changes(self) -> int:
        """How often something was dropped because it was written; to be passed to `put`."""
        return self._entries.changes if self.limit else 0

    def get(self, place: Place, which: Which) -> Kept | None:
        """Return what is known of a chunk."""
        if not self.limit:
            return None
        entries, key = self._entries, (place, which)
        with entries.lock:
            kept = entries.kept.get(key)
            if kept is not None:
                entries.kept.move_to_end(key)
            return kept

    def put(self, place: Place, which: Which, stored: Stored | None, since: int) -> None:
        """Keep a chunk that was fetched, unless something was written meanwhile.

        Parameters
        ----------
        since : int
            `changes` before the chunk was asked for: what has changed since may be just this chunk.
        """
        if not self.limit:
            return
        kept = Kept(None if stored is None else stored.alone())
        entries = self._entries
        if kept.nbytes > self.limit:
            return
        with entries.lock:
            if entries.changes != since:
                return
            entries.drop(place, which)
            entries.kept[place, which] = kept
            entries.by_place.setdefault(place, set()).add(which)
            entries.size += kept.nbytes
            while entries.size > self.limit:
                entries.drop(*next(iter(entries.kept)))

    def forget(self, place: Place, which: Which | None = None) -> None:
        """Drop a chunk, or all chunks of a place, because these are being written or were written."""
        if not self.limit:
            return
        entries = self._entries
        with entries.lock:
            entries.changes += 1
            for each in list(entries.by_place.get(place, ())) if which is None else [which]:
                entries.drop(place, each)

    def clear(self) -> None:
        """Drop everything."""
        if not self.limit:
            return
        entries = self._entries
        with entries.lock:
            entries.changes += 1
            entries.kept.clear()
            entries.by_place.clear()
            entries.size = 0
