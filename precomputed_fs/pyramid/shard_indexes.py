"""The indexes of shards: read once, remembered, and checked for shards that were replaced since.

`precomputed_fs.format.shard_index` knows the layout; the jobs here ask the store. Indexes are remembered in a cache
that is bounded in bytes, and jobs that need the same one share a request. Each remembers the version of the file that
it is from (ETag, or modification time). An answer of another version sends the reader back to the indexes, so a shard
that was replaced never yields another chunk's bytes. Where versions count seconds, a file that was written in the last
two may be replaced once more by one of the same version: then the indexes are read again after the chunk, and must say
the same.
"""

import contextlib
import functools
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

from precomputed_fs.errors import CorruptDataError, DataAccessError, NoRangesError, NotFoundError
from precomputed_fs.format.compression import TooLargeError
from precomputed_fs.format.shard_index import ByteRange, MinishardIndex, minishard_index_range, page_of
from precomputed_fs.format.sharding import ENTRY_BYTES, Sharding
from precomputed_fs.store import jobs
from precomputed_fs.store.answers import checked_range
from precomputed_fs.store.failures import BrokenAnswerError
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Body, Get, Job

LARGEST_WHOLE = 64 << 20
"""Bytes of a shard that is read as a whole if its server does not know ranges (64 MiB)."""

INDEX_CACHE_BYTES = 64 << 20
"""Memory that the indexes of one pyramid may take (64 MiB: 2.8 million chunks)."""

TRIES = 8
"""How often a shard may be replaced while it is read."""

_WHOLE_SECONDS = 10.0  # that such a shard is kept for


class ShardReplacedError(DataAccessError):
    """A shard is not the one any more that its indexes were read from; who merges it begins again."""


class Located(NamedTuple):
    """Where a chunk is: a range of a file, and the version of the file that this holds for."""

    name: str
    start: int
    end: int
    version: str


@dataclass(frozen=True, slots=True)
class Page:
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
        """The memory that it takes, in bytes."""
        return len(self.data) + 256


@dataclass(frozen=True, slots=True)
class Minishard:
    """A minishard index, and where the offsets in it count from."""

    index: MinishardIndex
    name: str
    base: int
    version: str
    is_settled: bool

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes."""
        return self.index.nbytes + 256

    def locate(self, chunk_id: int) -> Located | None:
        """Return where a chunk is; None if it is absent."""
        place = self.index.find(chunk_id)
        return place and Located(self.name, self.base + place.start, self.base + place.end, self.version)


class IndexCache:
    """Indexes of one process, the least recently used ones let go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[IndexKey, Page | Minishard] = OrderedDict()

    def get(self, key: "IndexKey") -> "Page | Minishard | None":
        """Return an index, if it is remembered."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: "IndexKey", value: "Page | Minishard") -> None:
        """Remember an index."""
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


class IndexKey(NamedTuple):
    """Which index: a minishard's, or the page of the shard index that begins at a byte."""

    scale: str
    shard: int
    kind: str
    which: int


_Index = TypeVar("_Index", Page, Minishard)


class ShardIndexes:
    """The indexes of the shards of one pyramid. What needs the store is a job.

    Parameters
    ----------
    store : ObjectStore
        Where the shards are.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._caches: dict[int, IndexCache] = {}
        self._no_ranges_until = 0.0  # as the server has sent all of a shard for a part
        self._wholes: dict[tuple[int, str], tuple[float, Body]] = {}  # by process and name, with when it was read

    @property
    def cache(self) -> IndexCache:
        """What this process remembers."""
        pid = os.getpid()
        cache = self._caches.get(pid)
        return self._caches.setdefault(pid, IndexCache(INDEX_CACHE_BYTES)) if cache is None else cache

    def located(self, found: Minishard | None, sharding: Sharding, chunk_id: int) -> Located | None:
        """Return where an index has a chunk; None if it is absent."""
        located = None if found is None else found.locate(chunk_id)
        if located is not None:
            with self.naming(located.name, f"chunk {chunk_id}"):
                check_chunk(located.end - located.start, sharding)
        return located

    def holds(
        self,
        key: str,
        sharding: Sharding,
        found: Minishard | None,
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
            return (yield from self.is_current_for(key, sharding, shard, minishard, since))
        known = self.cache.get(IndexKey(key, shard, "minishard", minishard))
        if not (isinstance(known, Minishard) and known.is_settled):
            since = time.monotonic() if now is None else now
            try:
                known = yield from self._read_again(key, sharding, shard, minishard, since)
            except (ShardReplacedError, CorruptDataError):  # which may be of two states; who reads it again will know
                return False
        return all(found.locate(one) == (known and known.locate(one)) for one in ids)

    def _read_again(
        self, key: str, sharding: Sharding, shard: int, minishard: int, now: float
    ) -> Job[Minishard | None]:
        """Read the indexes of a minishard, but for what was read since, and remember them.

        Raises
        ------
        ShardReplacedError
            If the shard is replaced meanwhile.
        """
        place = page_of(minishard, sharding)
        page_key = IndexKey(key, shard, "page", place.start)
        page = self.cache.get(page_key)
        if not isinstance(page, Page) or page.read_at < now:
            self.cache.forget(key, shard)
            page = yield from self._load_page(f"{key}/{sharding.shard_name(shard)}", sharding, place)
            if page is None:
                return None
            self.cache.put(page_key, page)
        found = yield from self._read_minishard(page, sharding, minishard)
        if found is not None:
            self.cache.put(IndexKey(key, shard, "minishard", minishard), found)
        return found

    def is_current_for(self, key: str, sharding: Sharding, shard: int, minishard: int, since: float) -> Job[bool]:
        """Tell whether what is remembered of a shard still holds; if it does not, it is forgotten.

        A chunk that is in a remembered index is looked up at once, and the version tells if it has
        moved. Absence is re-checked with one small request.
        """
        place = page_of(minishard, sharding)
        page = self.cache.get(IndexKey(key, shard, "page", place.start))
        if not isinstance(page, Page) or (page.read_at >= since and page.is_settled):
            return True  # it was asked for just now
        start = minishard * ENTRY_BYTES
        try:
            body = yield from self.read(page.index_name, start, start + ENTRY_BYTES, "shard index")
        except NotFoundError:
            body = Body([])
        if body.version == page.version and body.data == page.data[start - place.start :][:ENTRY_BYTES]:
            return True
        self.cache.forget(key, shard)
        return False

    def minishard(self, key: str, sharding: Sharding, shard: int, minishard: int) -> Job[Minishard | None]:
        """Return the index of a minishard; None if there is no such shard, or the minishard is empty."""
        load = functools.partial(self._load_minishard, key, sharding, shard, minishard)
        return self._remembered(IndexKey(key, shard, "minishard", minishard), load)

    def _remembered(self, key: IndexKey, load: Callable[[], Job[_Index | None]]) -> Job[_Index | None]:
        cache = self.cache

        def load_and_keep() -> Job[_Index | None]:
            value = yield from load()
            if value is not None:
                cache.put(key, value)
            return value

        return self._store.once(key, lambda: cast("_Index | None", cache.get(key)), load_and_keep)

    def _load_minishard(self, key: str, sharding: Sharding, shard: int, minishard: int) -> Job[Minishard | None]:
        for _ in range(TRIES):
            began = time.monotonic()
            page = yield from self.page(key, sharding, shard, minishard)
            try:
                return None if page is None else (yield from self._read_minishard(page, sharding, minishard))
            except ShardReplacedError:
                self.cache.forget(key, shard)
            except CorruptDataError:
                if (yield from self.is_current_for(key, sharding, shard, minishard, began)):
                    raise
        raise self.replaced(key, sharding, shard)

    def _read_minishard(self, page: Page, sharding: Sharding, minishard: int) -> Job[Minishard | None]:
        """Read the index that a page of the shard index has of a minishard.

        Raises
        ------
        ShardReplacedError
            If the shard is another one meanwhile.
        """
        where = f"index of minishard {minishard}"
        with self.naming(page.index_name, where):
            place = minishard_index_range(page.data, minishard, sharding)
        if place is None:
            return None
        body = yield from self.read(page.name, page.base + place.start, page.base + place.end, where)
        if page.name == page.index_name and body.version != page.version:
            raise ShardReplacedError
        with self.naming(page.name, where):
            return self.made(self.parse(body.data, sharding), page, body)

    def made(self, index: MinishardIndex, page: Page, body: Body) -> Minishard:
        """Make what is remembered of a minishard."""
        return Minishard(index, page.name, page.base, body.version, page.is_settled and body.is_settled)

    def parse(self, stored: bytes, sharding: Sharding) -> MinishardIndex:
        """Read a minishard index as it is stored."""
        encoding, limit = sharding.minishard_index_encoding, sharding.largest_index
        return MinishardIndex.from_bytes(stored, encoding, limit)

    def page(self, key: str, sharding: Sharding, shard: int, minishard: int) -> Job[Page | None]:
        """Return the part of a shard index that has a minishard; None if there is no such shard."""
        place = page_of(minishard, sharding)

        def load() -> Job[Page | None]:
            return self._load_page(f"{key}/{sharding.shard_name(shard)}", sharding, place)

        return self._remembered(IndexKey(key, shard, "page", place.start), load)

    def _load_page(self, stem: str, sharding: Sharding, place: ByteRange) -> Job[Page | None]:
        """Read a part of a shard index, from `.shard` or from the older pair of `.index` and `.data`."""
        began = time.monotonic()  # what others write from now on may not be in it
        for legacy in (False, True):  # beside `.shard`, a pair is what a merge could not delete
            index_name = f"{stem}.index" if legacy else f"{stem}.shard"
            try:
                body = yield from self.read(index_name, place.start, place.end, "shard index")
            except NotFoundError:
                continue
            name, base = (f"{stem}.data", 0) if legacy else (index_name, sharding.index_size)
            return Page(body.data, index_name, name, base, body.version, body.is_settled, began)
        return None

    def read(self, name: str, start: int, end: int, what: str) -> Job[Body]:
        """Read a part of a shard's file. Where the server does not know ranges, a small shard is read whole.

        Parameters
        ----------
        what : str
            What messages call the part.
        """
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
        try:
            body: Body = yield get
        except DataAccessError as exc:
            denied_is_missing = self._store.denied_is_missing
            raise jobs.chunk_failure(exc, denied_is_missing=denied_is_missing)  # noqa: B904 - it has its cause
        return body

    def _whole(self, name: str) -> Job[Body]:
        """Read a small shard as a whole, as its server knows no ranges, and keep it for some seconds."""

        def kept() -> Body | None:
            read_at, whole = self._wholes.get((os.getpid(), name), (0.0, None))
            return whole if time.monotonic() < read_at + _WHOLE_SECONDS else None

        def load() -> Job[Body]:
            try:
                with (yield from self._store.name_lock("whole shards").begin()):  # one in memory at a time
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
    def naming(self, name: str, what: str) -> Iterator[None]:
        """Say of which file and which part of it a finding is."""
        try:
            yield
        except CorruptDataError as exc:
            raise CorruptDataError(f"{self._store.location.display(name)}, {what}: {exc}") from exc

    def replaced(self, key: str, sharding: Sharding, shard: int) -> ShardReplacedError:
        """Make the error for a shard that is replaced again and again."""
        shown = self._store.location.display(f"{key}/{sharding.shard_name(shard)}.shard")
        return ShardReplacedError(f"{shown} was replaced {TRIES} times while it was read; is it being written?")


def check_chunk(size: int, sharding: Sharding) -> None:
    """Check the size that an index gives a chunk."""
    if size > sharding.largest_chunk:
        raise CorruptDataError(
            f"its index gives it {size} bytes, and a chunk of this scale has at most {sharding.largest_chunk}"
        )
