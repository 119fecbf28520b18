"""How the values of a sharded folder are found by their ids: waiting to be written, cached, or in a shard."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.chunk_cache import Kept, Place
from precomputed_fs.pyramid.options import Options
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.pyramid.shards import ShardReader
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Body, Job

_Tag = TypeVar("_Tag")

_NO_PLACE = Place("")


class ShardFinder:
    """Finds chunks, and whatever else has a uint64 id, in the shards of the folders of one pyramid.

    Parameters
    ----------
    store : ObjectStore
    options : Options
    shards : ShardReader
    writer : ShardWriter
        Values in its buffer are found, too.
    """

    def __init__(self, store: ObjectStore, options: Options, shards: ShardReader, writer: ShardWriter) -> None:
        self._location = store.location
        self._options = options
        self._shards = shards
        self._writer = writer
        self._kept = shards.kept

    def one(
        self, folder: str, sharding: Sharding, value_id: int, described: Callable[[Stored], Stored]
    ) -> Job[Stored | None]:
        """Find one value; None if it is absent.

        Parameters
        ----------
        described : callable
            Adds what is known of the value, such as its limit.
        """
        found = yield from self._waiting(folder, sharding, value_id)
        if found is not None:
            return described(found)
        place = self._place(folder, sharding, value_id)
        kept = self._kept.get(place, value_id)
        if kept is None:
            since = self._kept.changes
            found = yield from self._shards.fetch(folder, sharding, value_id)
            kept = Kept(None if found is None else described(found))
            self._kept.put(place, value_id, kept.stored, since)
        return kept.stored

    def exists(self, folder: str, sharding: Sharding, value_id: int) -> Job[bool]:
        """Tell whether there is a value, waiting or in its shard; its bytes are not read."""
        if (yield from self._waiting(folder, sharding, value_id, None)) is not None:
            return True
        return (yield from self._shards.locate(folder, sharding, value_id)) is not None

    def many(
        self,
        folder: str,
        sharding: Sharding,
        wanted: Iterable[tuple[int, _Tag]],
        described: Callable[[_Tag, Stored], Stored],
        *,
        window: int,
        range_size: int,
    ) -> Iterator[Job[Any]]:
        """Plan how to find values: jobs that return lists of ``(tag, Stored or None)``, or follow-up jobs.

        Parameters
        ----------
        wanted : iterable of (int, tag)
            Ids, each with a tag by which the caller recognizes the value.
        described : callable
            Adds what is known of the value with a tag, such as its limit.
        window : int
            How many values are planned at once at first.
        range_size : int
            Most bytes of a shard that are read at once.
        """

        def fetch(wanted: Iterable[tuple[int, _Tag]]) -> Iterator[Job[Any]]:
            return self._fetched(folder, sharding, wanted, described, window=window, range_size=range_size)

        if not self._kept.limit:
            return fetch(wanted)
        remaining = iter(wanted)
        return self._kept_or(fetch, folder, sharding, iter(lambda: list(itertools.islice(remaining, window)), []))

    def _kept_or(
        self,
        fetch: Callable[[Iterable[tuple[int, _Tag]]], Iterator[Job[Any]]],
        folder: str,
        sharding: Sharding,
        groups: Iterable[list[tuple[int, _Tag]]],
    ) -> Iterator[Job[Any]]:
        """Look for values in the cache, and fetch the others."""

        def unless_waiting(found: Sequence[tuple[int, _Tag, Kept]]) -> Job[list[tuple[_Tag, Stored | None]]]:
            values = []
            for value_id, tag, kept in found:
                waiting = yield from self._waiting(folder, sharding, value_id, kept.stored)
                values.append((tag, waiting or kept.stored))
            return values

        for group in groups:
            looked = [(one, self._kept.get(self._place(folder, sharding, one[0]), one[0])) for one in group]
            if found := [(*one, kept) for one, kept in looked if kept is not None]:
                yield unless_waiting(found)
            yield from fetch([one for one, kept in looked if kept is None])

    def _fetched(
        self,
        folder: str,
        sharding: Sharding,
        wanted: Iterable[tuple[int, _Tag]],
        described: Callable[[_Tag, Stored], Stored],
        *,
        window: int,
        range_size: int,
    ) -> Iterator[Job[Any]]:
        began, since = self._writer.flushes, self._kept.changes

        def finish(numbered: tuple[int, _Tag], stored: Stored | None) -> Job[tuple[_Tag, Stored | None]]:
            flushes = began
            value_id, tag = numbered
            while True:
                waiting = yield from self._waiting(folder, sharding, value_id, stored)
                if self._writer.flushes == flushes:
                    break
                flushes = self._writer.flushes  # what waited during the fetch may have been written since
                stored = yield from self._shards.fetch(folder, sharding, value_id)
            value = waiting or stored
            found = None if value is None else described(tag, value)
            if waiting is None:
                self._kept.put(self._place(folder, sharding, value_id), value_id, found, since)
            return tag, found

        numbered = ((one[0], one) for one in wanted)
        gap = min(self._options.max_gap, range_size)
        return self._shards.fetch_many(folder, sharding, numbered, finish, window=window, gap=gap, size=range_size)

    def _place(self, folder: str, sharding: Sharding, value_id: int) -> Place:
        """Return where the cache has a value."""
        if not self._kept.limit:
            return _NO_PLACE
        return Place(self._location.display(folder), sharding.locate(value_id)[0])

    def _waiting(self, folder: str, sharding: Sharding, value_id: int, *there: Stored | None) -> Job[Stored | None]:
        """Return a value that is not flushed yet; `there` is the one in its shard, if that was fetched."""

        def stored() -> Job[bytes | None]:
            value = there[0] if there else (yield from self._shards.fetch(folder, sharding, value_id))
            return None if value is None else value.data

        entry = yield from self._writer.find(folder, sharding, value_id, stored)
        if entry is None:
            return None
        name = f"{folder} (not flushed)"
        encoding, span = sharding.data_encoding, (entry.lead, len(entry.data))
        return Stored(self._location, name, Body([entry.data]), sniff=False, span=span, shard_encoding=encoding)
