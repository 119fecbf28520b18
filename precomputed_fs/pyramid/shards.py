"""How chunks are fetched from shards: first the indexes, once, then ranges of the shards."""

import itertools
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.shard_index import (
    PAGE_ENTRIES,
    Entry,
    Read,
    Wanted,
    minishard_index_range,
    page_of,
    plan_reads,
)
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.chunk_cache import ChunkCache, Place
from precomputed_fs.pyramid.shard_indexes import (
    TRIES,
    IndexKey,
    Located,
    Minishard,
    Page,
    ShardIndexes,
    ShardReplacedError,
    check_chunk,
)
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Body, FollowUps, Job

_COPY_GAP, _COPY_SIZE = 1 << 16, 8 << 20  # bytes, see `plan_reads`; for chunks that a merge keeps
LARGEST_WINDOW = 4096
"""Most chunks of a batch whose reads are planned at once."""


class ShardState(NamedTuple):
    """One version of a shard."""

    version: str
    legacy: bool
    """Whether it is a pair of `.index` and `.data`."""

    minishards: tuple[int, ...]
    """The minishards that are not empty."""


_Found = Mapping[int, Minishard | None]
_Tag = TypeVar("_Tag")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Group(Generic[_Tag, _Result]):
    """Chunks of one shard to fetch together, with the parameters of `ShardReader.fetch_many`."""

    key: str
    sharding: Sharding
    shard: int
    finish: Callable[[_Tag, Stored | None], Job[_Result]]
    gap: int
    size: int

    tags: dict[int, list[_Tag]] = field(default_factory=dict)
    """The caller's tags of each chunk; several if it asks for a chunk twice."""

    minishards: set[int] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def minishard(self, chunk_id: int) -> int:
        return self.sharding.locate(chunk_id)[1]


class ShardReader:
    """Fetches chunks from the shards of one pyramid; methods that need the store return jobs.

    Parameters
    ----------
    store : ObjectStore
        Where the shards are.
    kept : ChunkCache
    """

    def __init__(self, store: ObjectStore, kept: ChunkCache) -> None:
        self._store = store
        self.kept = kept
        """The chunks of the pyramid that were fetched, from shards or not, and are kept in memory."""

        self.indexes = ShardIndexes(store)
        """Reads the indexes of shards, and ranges of the shards."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardReader, (self._store, self.kept)

    def fetch(self, key: str, sharding: Sharding, chunk_id: int) -> Job[Stored | None]:
        """Fetch one chunk, encoded as in the shard; None if it is absent.

        Raises
        ------
        CorruptDataError
            If an index is damaged or points where there are no data; names the file and the chunk.
        DataAccessError
            If the store fails, or the shard is replaced again and again.
        """
        began = time.monotonic()
        shard, minishard = sharding.locate(chunk_id)
        for _ in range(TRIES):
            found = yield from self.indexes.minishard(key, sharding, shard, minishard)
            located = self.indexes.located(found, sharding, chunk_id)
            body: Body | None = None
            try:
                if located is not None:
                    body = yield from self.indexes.read(located.name, located.start, located.end, f"chunk {chunk_id}")
            except CorruptDataError:  # or a smaller shard has replaced this one
                if (yield from self.indexes.holds(key, sharding, found, [chunk_id], began)):
                    raise
                continue
            if located is None or body is None:
                if (yield from self.indexes.holds(key, sharding, found, [chunk_id], began)):
                    return None
            elif body.version != located.version:
                self.indexes.cache.forget(key, shard)
            elif (
                found is None
                or found.is_settled
                or (yield from self.indexes.holds(key, sharding, found, [chunk_id], began))
            ):
                return self._stored(sharding, located.name, body, located.start)
        raise self.indexes.replaced(key, sharding, shard)

    def _stored(
        self, sharding: Sharding, name: str, body: Body, at: int, span: tuple[int, int] | None = None
    ) -> Stored:
        """Describe a chunk: a part of a body that begins at a byte of the shard."""
        span = span or (0, len(body))
        encoding, start = sharding.data_encoding, at + span[0]
        return Stored(self._store.location, name, body, sniff=False, span=span, position=start, shard_encoding=encoding)

    def has_shard(self, key: str, sharding: Sharding, chunk_id: int) -> Job[bool]:
        """Tell whether the shard of a chunk exists; without a request if its index is cached."""
        page = yield from self.indexes.page(key, sharding, *sharding.locate(chunk_id))
        return page is not None

    def locate(self, key: str, sharding: Sharding, chunk_id: int) -> Job[Located | None]:
        """Find a chunk through the indexes; without a request if they are cached."""
        found = yield from self.indexes.minishard(key, sharding, *sharding.locate(chunk_id))
        return self.indexes.located(found, sharding, chunk_id)

    def forget(self, key: str, shard: int) -> None:
        """Drop the cached indexes and chunks of a shard."""
        self.indexes.cache.forget(key, shard)
        self.kept.forget(Place(self._store.location.display(key), shard))

    def forget_chunk(self, key: str, shard: int, chunk_id: int) -> None:
        """Drop a cached chunk."""
        if self.kept.limit:
            self.kept.forget(Place(self._store.location.display(key), shard), chunk_id)

    def inspect(self, key: str, sharding: Sharding, shard: int) -> Job[ShardState | None]:
        """Read a shard's index again; None if the shard is absent."""
        self.forget(key, shard)
        minishards = []
        page: Page | None = None
        for minishard in range(1 << sharding.minishard_bits):
            if minishard % PAGE_ENTRIES == 0:
                before = page
                page = yield from self.indexes.page(key, sharding, shard, minishard)
                if page is None:
                    return None
                if before is not None and before.version != page.version:
                    raise ShardReplacedError
            if page is not None:
                with self.indexes.naming(page.index_name, "shard index"):
                    place = minishard_index_range(page.data, minishard, sharding)
                if place is not None:
                    minishards.append(minishard)
        return None if page is None else ShardState(page.version, page.name != page.index_name, tuple(minishards))

    def fetch_minishard(
        self,
        key: str,
        sharding: Sharding,
        shard: int,
        minishard: int,
        state: ShardState,
        *,
        without: Container[int],
    ) -> Job[dict[int, Entry]]:
        """Fetch the chunks of a minishard as stored, by id, except those in `without`, and what belongs before them.

        Raises
        ------
        ShardReplacedError
            If the shard is no longer in the given state.
        """
        found = yield from self.indexes.minishard(key, sharding, shard, minishard)
        if found is None:
            return {}
        if not state.legacy and found.version != state.version:
            raise ShardReplacedError
        wanted = [
            Wanted(chunk_id, found.base + start, found.base + end)
            for chunk_id, start, end in found.index
            if chunk_id not in without
        ]
        for chunk_id, start, end in wanted:
            with self.indexes.naming(found.name, f"chunk {chunk_id}"):
                check_chunk(end - start, sharding)
        place = IndexKey(key, shard, "minishard", minishard)
        chunks = yield from self._copied(place, sharding, found, wanted)
        before = [] if sharding.lead is None else list(self._leads(found, sharding, wanted, chunks))
        leads = yield from self._copied(place, sharding, found, before)
        return {one: Entry(leads.get(one, b"") + data, len(leads.get(one, b""))) for one, data in chunks.items()}

    def _leads(
        self, found: Minishard, sharding: Sharding, wanted: Iterable[Wanted], chunks: Mapping[int, bytes]
    ) -> Iterator[Wanted]:
        """Find what belongs before chunks: see `Sharding.lead`."""
        for chunk_id, start, _ in wanted:
            with self.indexes.naming(found.name, f"chunk {chunk_id}"):
                lead = sharding.lead_of(chunks[chunk_id])
                if lead > start - found.base:
                    raise CorruptDataError(f"there is no room for the {lead} bytes that belong before it")
            if lead:
                yield Wanted(chunk_id, start - lead, start)

    def _copied(
        self, place: IndexKey, sharding: Sharding, found: Minishard, wanted: Iterable[Wanted]
    ) -> Job[dict[int, bytes]]:
        """Read ranges of the file that has a minishard, each known by the id of a chunk."""
        key, shard, _, minishard = place
        chunks: dict[int, bytes] = {}
        for read in plan_reads(wanted, gap=_COPY_GAP, size=_COPY_SIZE):
            began = time.monotonic()
            try:
                body = yield from self.indexes.read(found.name, read.start, read.end, f"minishard {minishard}")
            except CorruptDataError:
                if (yield from self.indexes.is_current_for(key, sharding, shard, minishard, began)):
                    raise
                raise ShardReplacedError from None
            if body.version != found.version:
                raise ShardReplacedError
            chunks |= {
                chunk.chunk_id: body.data[chunk.start - read.start : chunk.end - read.start] for chunk in read.chunks
            }
        return chunks

    def fetch_many(
        self,
        key: str,
        sharding: Sharding,
        wanted: Iterable[tuple[int, _Tag]],
        finish: Callable[[_Tag, Stored | None], Job[_Result]],
        *,
        window: int,
        gap: int,
        size: int,
    ) -> Iterator[Job[list[_Result] | FollowUps]]:
        """Fetch many chunks, window by window: first their indexes, then ranges of the shards.

        Parameters
        ----------
        wanted : iterable of (int, tag)
            Chunk ids, each with a tag by which the caller recognizes the chunk.
        finish : callable
            ``(tag, stored or None)`` to a job that makes the result.
        window : int
            How many chunks are planned at once at first; it doubles, up to 4096.
        gap, size : int
            See `plan_reads`.

        Returns
        -------
        iterator of jobs
            For `ObjectStore.run_many`.
        """
        remaining = iter(wanted)
        while chunks := list(itertools.islice(remaining, window)):
            window = min(2 * window, LARGEST_WINDOW)
            groups: dict[int, _Group[_Tag, _Result]] = {}
            for chunk_id, tag in chunks:
                shard, minishard = sharding.locate(chunk_id)
                group = groups.setdefault(shard, _Group(key, sharding, shard, finish, gap, size))
                group.tags.setdefault(chunk_id, []).append(tag)
                group.minishards.add(minishard)
            yield from map(self._fetch_group, groups.values())

    def _fetch_group(self, group: "_Group[_Tag, _Result]") -> Job[list[_Result] | FollowUps]:
        """Read the indexes of a group, neighbouring ones together; then plan how to read its chunks."""
        unread: dict[str, list[Wanted]] = {}
        pages: dict[str, Page] = {}
        for minishard in group.minishards:
            page = yield from self.indexes.page(group.key, group.sharding, group.shard, minishard)
            if page is None:
                return (yield from self._finish(group, dict.fromkeys(group.tags)))
            if self.indexes.cache.get(IndexKey(group.key, group.shard, "minishard", minishard)) is None:
                with self.indexes.naming(page.index_name, "shard index"):
                    place = minishard_index_range(page.data, minishard, group.sharding)
                if place is not None:
                    pages[page.version] = page
                    wanted = Wanted(minishard, page.base + place.start, page.base + place.end)
                    unread.setdefault(page.version, []).append(wanted)
        outcomes: list[Any] = yield [
            self._read_indexes(group, pages[version], read)
            for version, wanted_ones in unread.items()
            for read in plan_reads(wanted_ones, gap=group.gap, size=group.size)
        ]
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return (yield from self._plan(group))

    def _read_indexes(self, group: "_Group[_Tag, _Result]", page: Page, read: Read) -> Job[None]:
        """Read neighbouring minishard indexes together; one by one if that fails or the shard was replaced."""
        if len(read.chunks) > 1:
            try:
                body = yield from self.indexes.read(page.name, read.start, read.end, "minishard indexes")
                if page.name != page.index_name or body.version == page.version:
                    for minishard, start, end in read.chunks:
                        index = self.indexes.parse(body.data[start - read.start : end - read.start], group.sharding)
                        key = IndexKey(group.key, group.shard, "minishard", minishard)
                        self.indexes.cache.put(key, self.indexes.made(index, page, body))
                    return
            except CorruptDataError:
                pass
        for minishard, _, _ in read.chunks:
            yield from self.indexes.minishard(group.key, group.sharding, group.shard, minishard)

    def _plan(self, group: "_Group[_Tag, _Result]") -> Job[list[_Result] | FollowUps]:
        """Plan the reads of a shard whose indexes are cached."""
        for _ in range(TRIES):
            found = {}
            for one in group.minishards:
                found[one] = yield from self.indexes.minishard(group.key, group.sharding, group.shard, one)
            places = {one: self.indexes.located(found[group.minishard(one)], group.sharding, one) for one in group.tags}
            absent = [one for one, located in places.items() if located is None]
            if (yield from self._all_hold(group, found, absent, absent=True)):
                break
        else:
            raise self.indexes.replaced(group.key, group.sharding, group.shard)
        files: dict[Located, list[Wanted]] = {}
        for wanted_id, located in places.items():
            if located is not None:
                file = located._replace(start=0, end=0)
                files.setdefault(file, []).append(Wanted(wanted_id, located.start, located.end))
        more: list[Job[Any]] = []
        if absent:
            more.append(self._finish(group, dict.fromkeys(absent)))
        for file, chunks in files.items():
            reads = plan_reads(chunks, gap=group.gap, size=group.size)
            more += [self._fetch_read(group, found, file, read) for read in reads]
        return FollowUps(more)

    def _all_hold(
        self, group: "_Group[_Tag, _Result]", found: "_Found", ids: Iterable[int], *, absent: bool = False
    ) -> Job[bool]:
        """Tell whether the indexes that chunks were read by are still valid.

        Every index that is too young to tell is checked; for absent chunks, also one of the others, which is enough
        because a version covers the whole shard.
        """
        now = time.monotonic()
        is_told = not absent
        by_minishard: dict[int, list[int]] = {}
        for one in ids:
            by_minishard.setdefault(group.minishard(one), []).append(one)
        for minishard, some in by_minishard.items():
            index: Page | Minishard | None = found[minishard]
            if index is None:
                place = page_of(minishard, group.sharding)
                index = self.indexes.cache.get(IndexKey(group.key, group.shard, "page", place.start))
            if index is None or index.is_settled:
                if is_told:
                    continue
                is_told = True
            holds = yield from self.indexes.holds(
                group.key, group.sharding, found[minishard], some, group.began, now=now
            )
            if not holds:
                return False
        return True

    def _fetch_read(
        self, group: "_Group[_Tag, _Result]", found: "_Found", file: Located, read: Read
    ) -> Job[list[_Result]]:
        """Fetch the chunks of one range; one by one if that fails or the shard was replaced."""
        ids = [chunk.chunk_id for chunk in read.chunks]
        body: Body | None = None
        try:
            body = yield from self.indexes.read(file.name, read.start, read.end, f"chunk {ids[0]}")
        except CorruptDataError:  # several chunks are read again one by one, to name the damaged one
            index = found[group.minishard(ids[0])]
            if len(ids) == 1 and (yield from self.indexes.holds(group.key, group.sharding, index, ids, group.began)):
                raise
        chunks: dict[int, Stored | None] = {}
        if body is not None and body.version == file.version and (yield from self._all_hold(group, found, ids)):
            for chunk in read.chunks:
                span = chunk.start - read.start, chunk.end - read.start
                chunks[chunk.chunk_id] = self._stored(group.sharding, file.name, body, read.start, span)
        else:
            for one in ids:
                chunks[one] = yield from self.fetch(group.key, group.sharding, one)
        return (yield from self._finish(group, chunks))

    def _finish(self, group: "_Group[_Tag, _Result]", found: Mapping[int, Stored | None]) -> Job[list[_Result]]:
        results = []
        for chunk_id, stored in found.items():
            for tag in group.tags[chunk_id]:
                results.append((yield from group.finish(tag, stored)))  # noqa: PERF401 - no comprehension can yield
        return results
