"""How a shard's bytes are fetched: its indexes once, its chunks by ranges, never the whole file.

`precomputed_fs.format.shard_index` knows the layout and the jobs here ask the store. Indexes are remembered, in
a cache that is bounded in bytes, and jobs that need the same one share a request. Each remembers
which version of the file it is from (ETag, or modification time), and an answer from another version
sends the reader back to the indexes: a shard that was replaced never yields another chunk's bytes.
Where a version counts seconds, a file that was written in the last two may be replaced once more by
one of the same version: then the indexes are read again after the chunk, and have to say the same.
"""

import contextlib
import functools
import itertools
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, cast

from precomputed_fs.errors import CorruptDataError, DataAccessError, NoRangesError, NotFoundError
from precomputed_fs.format.compression import TooLargeError
from precomputed_fs.format.shard_index import (
    PAGE_ENTRIES,
    ByteRange,
    MinishardIndex,
    Read,
    Wanted,
    minishard_index_range,
    page_of,
    plan_reads,
)
from precomputed_fs.format.sharding import ENTRY_BYTES, Sharding
from precomputed_fs.store import jobs
from precomputed_fs.store.answers import checked_range
from precomputed_fs.store.failures import BrokenAnswerError
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Body, Get, Job, More

LARGEST_WHOLE = 64 << 20
"""Bytes of a shard that is read as a whole if its server knows no ranges (64 MiB)."""

INDEX_CACHE_BYTES = 64 << 20
"""Memory that the indexes of one accessor may take (64 MiB: 2.8 million chunks)."""

_COPY_GAP, _COPY_SIZE = 1 << 16, 8 << 20  # bytes, see `plan_reads`; of chunks that are copied
_LARGEST_WINDOW = 4096  # chunks of a batch whose reading is planned at once
_WHOLE_SECONDS = 10.0  # that such a shard is kept for
_TRIES = 8  # times that a shard may be replaced while it is read


class ShardReplacedError(DataAccessError):
    """A shard is not the one any more that its indexes were read from; who merges it begins again."""


class ShardState(NamedTuple):
    """What is known of a whole shard."""

    version: str
    legacy: bool
    """Whether it is a pair of `.index` and `.data`."""

    minishards: tuple[int, ...]
    """Those that are not empty."""


class Stored(NamedTuple):
    """A chunk as its shard has it, in what was read of it, and the name of the file."""

    name: str
    body: Body
    start: int
    end: int

    @property
    def data(self) -> bytes:
        """The bytes of the chunk."""
        data = self.body.data
        return data if self.start == 0 and self.end == len(data) else data[self.start : self.end]


class Located(NamedTuple):
    """Where a chunk is: a range of a file, and the version of the file that this holds for."""

    name: str
    start: int
    end: int
    version: str


@dataclass(frozen=True, slots=True)
class _Page:
    """A part of a shard index, and where the offsets in it count from."""

    data: bytes
    index_name: str
    name: str
    base: int
    version: str
    is_settled: bool
    read_at: float

    @property
    def nbytes(self) -> int:
        return len(self.data) + 256


@dataclass(frozen=True, slots=True)
class _Minishard:
    """A minishard index, and where the offsets in it count from."""

    index: MinishardIndex
    name: str
    base: int
    version: str
    is_settled: bool

    @property
    def nbytes(self) -> int:
        return self.index.nbytes + 256

    def locate(self, chunk_id: int) -> Located | None:
        place = self.index.find(chunk_id)
        return place and Located(self.name, self.base + place.start, self.base + place.end, self.version)


class _IndexCache:
    """Indexes of one process, the least recently used ones let go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[_IndexKey, _Page | _Minishard] = OrderedDict()

    def get(self, key: "_IndexKey") -> "_Page | _Minishard | None":
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: "_IndexKey", value: "_Page | _Minishard") -> None:
        with self._lock:
            self._kept[key] = value
            self._size += value.nbytes
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1].nbytes

    def forget(self, scale: str, shard: int) -> None:
        """Let go of all that is known of a shard."""
        with self._lock:
            for key in [key for key in self._kept if (key.scale, key.shard) == (scale, shard)]:
                self._size -= self._kept.pop(key).nbytes


class _IndexKey(NamedTuple):
    """Which index: a minishard's, or the page of the shard index that begins at a byte."""

    scale: str
    shard: int
    kind: str
    which: int


_Index = TypeVar("_Index", _Page, _Minishard)
_Found = Mapping[int, _Minishard | None]
_Tag = TypeVar("_Tag")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Group(Generic[_Tag, _Result]):
    """Chunks of one shard that are fetched together, and how: see `ShardReader.fetch_many`."""

    key: str
    sharding: Sharding
    shard: int
    finish: Callable[[_Tag, Stored | None], Job[_Result]]
    gap: int
    size: int

    tags: dict[int, list[_Tag]] = field(default_factory=dict)
    """What the caller knows each chunk by; more than one, if it asks twice."""

    minishards: set[int] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def minishard(self, chunk_id: int) -> int:
        return self.sharding.locate(chunk_id)[1]


class ShardReader:
    """The sharded scales of one pyramid. What needs the store is a job.

    Parameters
    ----------
    store : ObjectStore
        Where the shards are.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._caches: dict[int, _IndexCache] = {}
        self._no_ranges_until = 0.0  # as the server has sent all of a shard for a part
        self._wholes: dict[tuple[int, str], tuple[float, Body]] = {}  # by process and name, with when it was read

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardReader, (self._store,)

    def fetch(self, key: str, sharding: Sharding, chunk_id: int) -> Job[Stored | None]:
        """Fetch one chunk, encoded as the shard has it; None if it is absent.

        Raises
        ------
        CorruptDataError
            If an index cannot be, or points where there is no data; names the file and the chunk.
        DataAccessError
            If the store fails, or the shard is replaced again and again.
        """
        began = time.monotonic()
        shard, minishard = sharding.locate(chunk_id)
        for _ in range(_TRIES):
            found = yield from self._minishard(key, sharding, shard, minishard)
            located = self._located(found, sharding, chunk_id)
            body: Body | None = None
            try:
                if located is not None:
                    body = yield from self._read(located.name, located.start, located.end, f"chunk {chunk_id}")
            except CorruptDataError:  # or beyond the end of a smaller shard that took its place
                if (yield from self._holds(key, sharding, found, [chunk_id], began)):
                    raise
                continue
            if located is None or body is None:
                if (yield from self._holds(key, sharding, found, [chunk_id], began)):
                    return None
            elif body.version != located.version:
                self._cache.forget(key, shard)
            elif found is None or found.is_settled or (yield from self._holds(key, sharding, found, [chunk_id], began)):
                return Stored(located.name, body, 0, len(body))
        raise self._replaced(key, sharding, shard)

    def has_shard(self, key: str, sharding: Sharding, chunk_id: int) -> Job[bool]:
        """Tell whether the shard of a chunk exists: without a request, if its index is known."""
        page = yield from self._page(key, sharding, *sharding.locate(chunk_id))
        return page is not None

    def locate(self, key: str, sharding: Sharding, chunk_id: int) -> Job[Located | None]:
        """Find a chunk through the indexes: without a request, if they are known."""
        found = yield from self._minishard(key, sharding, *sharding.locate(chunk_id))
        return self._located(found, sharding, chunk_id)

    def _located(self, found: _Minishard | None, sharding: Sharding, chunk_id: int) -> Located | None:
        located = None if found is None else found.locate(chunk_id)
        if located is not None:
            with self._naming(located.name, f"chunk {chunk_id}"):
                _check_chunk(located.end - located.start, sharding)
        return located

    def _holds(
        self,
        key: str,
        sharding: Sharding,
        found: _Minishard | None,
        ids: Sequence[int],
        since: float,
        *,
        now: float | None = None,
    ) -> Job[bool]:
        """Tell whether an index, by which chunks of one minishard were looked up and read, still holds.

        Where its version is too young to tell, the indexes are read once more: if these have the chunks in the same
        place, what was read there is theirs, whichever of two states of the shard it is from. (Of a third state, that
        was there just while the chunks were read, nothing would tell.)

        Parameters
        ----------
        since : float
            When the chunks were first looked up; what was read of the shard index after that is known to hold.
        now : float, optional
            When the chunks had been read; what is read of the shard index after that need not be read again.
        """
        shard, minishard = sharding.locate(ids[0])
        if found is None or found.is_settled:
            return (yield from self._is_current_for(key, sharding, shard, minishard, since))
        known = self._cache.get(_IndexKey(key, shard, "minishard", minishard))
        if not (isinstance(known, _Minishard) and known.is_settled):
            since = time.monotonic() if now is None else now
            try:
                known = yield from self._read_again(key, sharding, shard, minishard, since)
            except (ShardReplacedError, CorruptDataError):  # which may be of two states; who reads it again will know
                return False
        return all(found.locate(one) == (known and known.locate(one)) for one in ids)

    def _read_again(
        self, key: str, sharding: Sharding, shard: int, minishard: int, now: float
    ) -> Job[_Minishard | None]:
        """Read the indexes of a minishard, but for what was read since, and remember them.

        Raises
        ------
        ShardReplacedError
            If the shard is replaced meanwhile.
        """
        place = page_of(minishard, sharding)
        page_key = _IndexKey(key, shard, "page", place.start)
        page = self._cache.get(page_key)
        if not isinstance(page, _Page) or page.read_at < now:
            self._cache.forget(key, shard)
            page = yield from self._load_page(f"{key}/{sharding.shard_name(shard)}", sharding, place)
            if page is None:
                return None
            self._cache.put(page_key, page)
        found = yield from self._read_minishard(page, sharding, minishard)
        if found is not None:
            self._cache.put(_IndexKey(key, shard, "minishard", minishard), found)
        return found

    def _is_current_for(self, key: str, sharding: Sharding, shard: int, minishard: int, since: float) -> Job[bool]:
        """Tell whether what is remembered of a shard still holds; if it does not, it is forgotten.

        A chunk that is in a remembered index is looked up at once, and the version tells if it has
        moved. Absence is re-checked with one small request.
        """
        place = page_of(minishard, sharding)
        page = self._cache.get(_IndexKey(key, shard, "page", place.start))
        if not isinstance(page, _Page) or (page.read_at >= since and page.is_settled):
            return True  # it was asked for just now
        start = minishard * ENTRY_BYTES
        try:
            body = yield from self._read(page.index_name, start, start + ENTRY_BYTES, "shard index")
        except NotFoundError:
            body = Body([])
        if body.version == page.version and body.data == page.data[start - place.start :][:ENTRY_BYTES]:
            return True
        self._cache.forget(key, shard)
        return False

    # ----------------------------------------------------------------------------- whole shards

    def forget(self, key: str, shard: int) -> None:
        """Forget what is remembered of a shard."""
        self._cache.forget(key, shard)

    def inspect(self, key: str, sharding: Sharding, shard: int) -> Job[ShardState | None]:
        """Read a shard's index once more; None if there is no such shard."""
        self.forget(key, shard)
        minishards = []
        page: _Page | None = None
        for minishard in range(1 << sharding.minishard_bits):
            if minishard % PAGE_ENTRIES == 0:
                before = page
                page = yield from self._page(key, sharding, shard, minishard)
                if page is None:
                    return None
                if before is not None and before.version != page.version:
                    raise ShardReplacedError
            if page is not None:
                with self._naming(page.index_name, "shard index"):
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
    ) -> Job[dict[int, bytes]]:
        """Fetch the chunks of a minishard as they are stored, but for some, by id.

        Raises
        ------
        ShardReplacedError
            If the shard is not in the given state any more.
        """
        found = yield from self._minishard(key, sharding, shard, minishard)
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
            with self._naming(found.name, f"chunk {chunk_id}"):
                _check_chunk(end - start, sharding)
        chunks: dict[int, bytes] = {}
        for read in plan_reads(wanted, gap=_COPY_GAP, size=_COPY_SIZE):
            began = time.monotonic()
            try:
                body = yield from self._read(found.name, read.start, read.end, f"minishard {minishard}")
            except CorruptDataError:
                if (yield from self._is_current_for(key, sharding, shard, minishard, began)):
                    raise
                raise ShardReplacedError from None
            if body.version != found.version:
                raise ShardReplacedError
            chunks |= {
                chunk.chunk_id: body.data[chunk.start - read.start : chunk.end - read.start] for chunk in read.chunks
            }
        return chunks

    # -------------------------------------------------------------------------------- batches

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
    ) -> Iterator[Job[list[_Result] | More]]:
        """Go through many chunks, so many at a time: first their indexes, then ranges of the shards.

        Parameters
        ----------
        wanted : iterable of (int, tag)
            Chunk ids, each with what the caller knows the chunk by.
        finish : callable
            ``(tag, stored or None)`` to a job that makes the result.
        window : int
            How many chunks are planned at once to begin with; it doubles, up to 4096.
        gap, size : int
            See `plan_reads`.

        Returns
        -------
        iterator of jobs
            For `ObjectStore.run_many`.
        """
        remaining = iter(wanted)
        while chunks := list(itertools.islice(remaining, window)):
            window = min(2 * window, _LARGEST_WINDOW)
            groups: dict[int, _Group[_Tag, _Result]] = {}
            for chunk_id, tag in chunks:
                shard, minishard = sharding.locate(chunk_id)
                group = groups.setdefault(shard, _Group(key, sharding, shard, finish, gap, size))
                group.tags.setdefault(chunk_id, []).append(tag)
                group.minishards.add(minishard)
            yield from map(self._fetch_group, groups.values())

    def _fetch_group(self, group: "_Group[_Tag, _Result]") -> Job[list[_Result] | More]:
        """Read the indexes that a group needs, those that lie together at once; then plan how to read its chunks."""
        unread: dict[str, list[Wanted]] = {}
        pages: dict[str, _Page] = {}
        for minishard in group.minishards:
            page = yield from self._page(group.key, group.sharding, group.shard, minishard)
            if page is None:
                return (yield from self._finish(group, dict.fromkeys(group.tags)))
            if self._cache.get(_IndexKey(group.key, group.shard, "minishard", minishard)) is None:
                with self._naming(page.index_name, "shard index"):
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

    def _read_indexes(self, group: "_Group[_Tag, _Result]", page: _Page, read: Read) -> Job[None]:
        """Read minishard indexes that lie together; one by one, where that fails or the shard was replaced."""
        if len(read.chunks) > 1:
            try:
                body = yield from self._read(page.name, read.start, read.end, "minishard indexes")
                if page.name != page.index_name or body.version == page.version:
                    for minishard, start, end in read.chunks:
                        index = self._parse(body.data[start - read.start : end - read.start], group.sharding)
                        key = _IndexKey(group.key, group.shard, "minishard", minishard)
                        self._cache.put(key, self._made(index, page, body))
                    return
            except CorruptDataError:
                pass
        for minishard, _, _ in read.chunks:
            yield from self._minishard(group.key, group.sharding, group.shard, minishard)

    def _plan(self, group: "_Group[_Tag, _Result]") -> Job[list[_Result] | More]:
        """Plan what to read of a shard whose indexes are known."""
        for _ in range(_TRIES):
            found = {}
            for one in group.minishards:
                found[one] = yield from self._minishard(group.key, group.sharding, group.shard, one)
            places = {one: self._located(found[group.minishard(one)], group.sharding, one) for one in group.tags}
            absent = [one for one, located in places.items() if located is None]
            if (yield from self._all_hold(group, found, absent, absent=True)):
                break
        else:
            raise self._replaced(group.key, group.sharding, group.shard)
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
        return More(more)

    def _all_hold(
        self, group: "_Group[_Tag, _Result]", found: "_Found", ids: Iterable[int], *, absent: bool = False
    ) -> Job[bool]:
        """Tell whether indexes still hold that are too young to tell, and, of absent chunks, one of the others.

        A version tells of the whole shard, so one of these is enough.
        """
        now = time.monotonic()
        is_told = not absent
        by_minishard: dict[int, list[int]] = {}
        for one in ids:
            by_minishard.setdefault(group.minishard(one), []).append(one)
        for minishard, some in by_minishard.items():
            index: _Page | _Minishard | None = found[minishard]
            if index is None:
                place = page_of(minishard, group.sharding)
                index = self._cache.get(_IndexKey(group.key, group.shard, "page", place.start))
            if index is None or index.is_settled:
                if is_told:
                    continue
                is_told = True
            holds = yield from self._holds(group.key, group.sharding, found[minishard], some, group.began, now=now)
            if not holds:
                return False
        return True

    def _fetch_read(
        self, group: "_Group[_Tag, _Result]", found: "_Found", file: Located, read: Read
    ) -> Job[list[_Result]]:
        """Fetch the chunks of one range; one by one, where that fails or the shard was replaced."""
        ids = [chunk.chunk_id for chunk in read.chunks]
        body: Body | None = None
        try:
            body = yield from self._read(file.name, read.start, read.end, f"chunk {ids[0]}")
        except CorruptDataError:  # of several, the one that fails by itself tells which it is
            index = found[group.minishard(ids[0])]
            if len(ids) == 1 and (yield from self._holds(group.key, group.sharding, index, ids, group.began)):
                raise
        chunks: dict[int, Stored | None] = {}
        if body is not None and body.version == file.version and (yield from self._all_hold(group, found, ids)):
            for chunk in read.chunks:
                chunks[chunk.chunk_id] = Stored(file.name, body, chunk.start - read.start, chunk.end - read.start)
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

    # ---------------------------------------------------------------------------- the indexes

    @property
    def _cache(self) -> _IndexCache:
        pid = os.getpid()
        cache = self._caches.get(pid)
        return self._caches.setdefault(pid, _IndexCache(INDEX_CACHE_BYTES)) if cache is None else cache

    def _minishard(self, key: str, sharding: Sharding, shard: int, minishard: int) -> Job[_Minishard | None]:
        load = functools.partial(self._load_minishard, key, sharding, shard, minishard)
        return self._remembered(_IndexKey(key, shard, "minishard", minishard), load)

    def _remembered(self, key: _IndexKey, load: Callable[[], Job[_Index | None]]) -> Job[_Index | None]:
        cache = self._cache

        def load_and_keep() -> Job[_Index | None]:
            value = yield from load()
            if value is not None:
                cache.put(key, value)
            return value

        return self._store.once(key, lambda: cast("_Index | None", cache.get(key)), load_and_keep)

    def _load_minishard(self, key: str, sharding: Sharding, shard: int, minishard: int) -> Job[_Minishard | None]:
        for _ in range(_TRIES):
            began = time.monotonic()
            page = yield from self._page(key, sharding, shard, minishard)
            try:
                return None if page is None else (yield from self._read_minishard(page, sharding, minishard))
            except ShardReplacedError:
                self._cache.forget(key, shard)
            except CorruptDataError:
                if (yield from self._is_current_for(key, sharding, shard, minishard, began)):
                    raise
        raise self._replaced(key, sharding, shard)

    def _read_minishard(self, page: _Page, sharding: Sharding, minishard: int) -> Job[_Minishard | None]:
        """Read the index that a page of the shard index has of a minishard.

        Raises
        ------
        ShardReplacedError
            If the shard is another one meanwhile.
        """
        where = f"index of minishard {minishard}"
        with self._naming(page.index_name, where):
            place = minishard_index_range(page.data, minishard, sharding)
        if place is None:
            return None
        body = yield from self._read(page.name, page.base + place.start, page.base + place.end, where)
        if page.name == page.index_name and body.version != page.version:
            raise ShardReplacedError
        with self._naming(page.name, where):
            return self._made(self._parse(body.data, sharding), page, body)

    def _made(self, index: MinishardIndex, page: _Page, body: Body) -> _Minishard:
        return _Minishard(index, page.name, page.base, body.version, page.is_settled and body.is_settled)

    def _parse(self, stored: bytes, sharding: Sharding) -> MinishardIndex:
        encoding, limit = sharding.minishard_index_encoding, sharding.largest_index
        return MinishardIndex.from_bytes(stored, encoding, limit)

    def _page(self, key: str, sharding: Sharding, shard: int, minishard: int) -> Job[_Page | None]:
        place = page_of(minishard, sharding)

        def load() -> Job[_Page | None]:
            return self._load_page(f"{key}/{sharding.shard_name(shard)}", sharding, place)

        return self._remembered(_IndexKey(key, shard, "page", place.start), load)

    def _load_page(self, stem: str, sharding: Sharding, place: ByteRange) -> Job[_Page | None]:
        """Read a part of a shard index, from `.shard` or from the older pair of `.index` and `.data`."""
        began = time.monotonic()  # what others write from now on may not be in it
        for legacy in (False, True):  # beside `.shard`, a pair is what a merge could not delete
            index_name = f"{stem}.index" if legacy else f"{stem}.shard"
            try:
                body = yield from self._read(index_name, place.start, place.end, "shard index")
            except NotFoundError:
                continue
            name, base = (f"{stem}.data", 0) if legacy else (index_name, sharding.index_size)
            return _Page(body.data, index_name, name, base, body.version, body.is_settled, began)
        return None

    def _read(self, name: str, start: int, end: int, what: str) -> Job[Body]:
        try:
            if time.monotonic() > self._no_ranges_until:
                try:
                    return (yield from self._get(Get(name, start, end)))
                except NoRangesError:
                    self._no_ranges_until = time.monotonic() + _WHOLE_SECONDS
            whole = yield from self._whole(name)
            return checked_range(Body([whole.data[start:end]], version=whole.version), start, end)
        except BrokenAnswerError as exc:
            raise CorruptDataError(f"{self._store.location.display(name)}, {what}: {exc}") from exc
        except DataAccessError as exc:
            error = type(exc)(f"{what}: {exc}")
            vars(error).update(vars(exc))  # what else is known of it
            try:
                raise error from exc
            finally:
                del error  # its traceback has this frame, which would keep the accessor

    def _get(self, get: Get) -> Job[Body]:
        return jobs.read_chunks(get, denied_is_missing=self._store.denied_is_missing)

    def _whole(self, name: str) -> Job[Body]:
        """Read a small shard as a whole, as its server knows no ranges, and keep it for some seconds."""

        def kept() -> Body | None:
            read_at, whole = self._wholes.get((os.getpid(), name), (0.0, None))
            return whole if time.monotonic() < read_at + _WHOLE_SECONDS else None

        def load() -> Job[Body]:
            try:
                with (yield from self._store.turn("whole shards").begin()):  # one in memory at a time
                    body = yield from self._get(Get(name, limit=LARGEST_WHOLE))
            except TooLargeError as exc:
                self._no_ranges_until = 0.0
                raise NoRangesError(
                    f"{self._store.location.display(name)}: the server ignores Range, so it sends all of a shard for a "
                    f"part, and this one has more than {LARGEST_WHOLE >> 20} MiB; serve it by one that knows Range"
                ) from exc
            whole = Body([body.data], version=f"{len(body)} {zlib.crc32(body.data)}")
            while sum(len(other) for _, other in self._wholes.values()) > 2 * LARGEST_WHOLE:
                self._wholes.pop(next(iter(self._wholes)), None)
            self._wholes[os.getpid(), name] = time.monotonic(), whole
            return whole

        whole = yield from self._store.once(("whole", name), kept, load)
        return Body([]) if whole is None else whole

    @contextlib.contextmanager
    def _naming(self, name: str, what: str) -> Iterator[None]:
        """Say of which file and which part of it a finding is."""
        try:
            yield
        except CorruptDataError as exc:
            raise CorruptDataError(f"{self._store.location.display(name)}, {what}: {exc}") from exc

    def _replaced(self, key: str, sharding: Sharding, shard: int) -> ShardReplacedError:
        shown = self._store.location.display(f"{key}/{sharding.shard_name(shard)}.shard")
        return ShardReplacedError(f"{shown} was replaced {_TRIES} times while it was read; is it being written?")


def _check_chunk(size: int, sharding: Sharding) -> None:
    if size > sharding.largest_chunk:
        raise CorruptDataError(
            f"its index gives it {size} bytes, and a chunk of this scale has at most {sharding.largest_chunk}"
        )
