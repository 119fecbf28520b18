"""How the indexes of shards are read once, cached, and checked against shards that were replaced since.

`precomputed_fs.format.shard_index` knows the layout; the jobs here ask the store. The cache is bounded in bytes, and
jobs that need the same index share a request. Each index is kept with the version of its file (ETag, or modification
time). If a chunk comes from another version, the indexes are read again, so a replaced shard never yields another
chunk's bytes. If versions count whole seconds, a file written in the last two seconds may be replaced by another one of
the same version; then the indexes are read again after the chunk, and must agree.
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
"""Most bytes of a shard that is read whole if its server ignores ranges (64 MiB)."""

INDEX_CACHE_BYTES = 64 << 20
"""Memory that the indexes of one pyramid may take (64 MiB: 2.8 million chunks)."""

TRIES = 8
"""How many times a read begins again because the shard was replaced."""

_WHOLE_SECONDS = 10.0  # how long a shard that was read whole is kept


class ShardReplacedError(DataAccessError):
    """A shard was replaced after its indexes were read; a merge begins again."""


class Located(NamedTuple):
    """Where a chunk is: a range of one version of a file."""

    name: str
    start: int
    end: int
    version: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a shard index, with the base of its offsets."""

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
    """A minishard index, with the base of its offsets."""

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
    """The least recently used indexes of one process are dropped first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[IndexKey, Page | Minishard] = OrderedDict()

    def get(self, key: "IndexKey") -> "Page | Minishard | None":
        """Return an index, or None if it is not cached."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: "IndexKey", value: "Page | Minishard") -> None:
        """Cache an index."""
        with self._lock:
            self._kept[key] = value
            self._size += value.nbytes
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1].nbytes

    def forget(self, scale: str, shard: int) -> None:
        """Drop all indexes of a shard."""
        with self._lock:
            for key in [key for key in self._kept if (key.scale, key.shard) == (scale, shard)]:
                self._size -= self._kept.pop(key).nbytes


class IndexKey(NamedTuple):
    """The key of an index: of a minishard, or of the page of the shard index that begins at a byte."""

    scale: str
    shard: int
    kind: str
    which: int


_Index = TypeVar("_Index", Page, Minishard)


class ShardIndexes:
    """The indexes of the shards of one pyramid; methods that need the store return jobs.

    Parameters
    ----------
    store : ObjectStore
        Where the shards are.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._caches: dict[int, IndexCache] = {}
        self._no_ranges_until = 0.0  # until then, ranges are not tried: the server has ignored one
        self._wholes: dict[tuple[int, str], tuple[float, Body]] = {}  # by process and name: time of reading, shard

    @property
    def cache(self) -> IndexCache:
        """The cache of this process."""
        pid = os.getpid()
        cache = self._caches.get(pid)
        return self._caches.setdefault(pid, IndexCache(INDEX_CACHE_BYTES)) if cache is None else cache

    def located(self, found: Minishard | None, sharding: Sharding, chunk_id: int) -> Located | None:
        """Return where a chunk is, according to an index; None if it is absent."""
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
        """Tell whether the index with which chunks of one minishard were looked up and read is still valid.

        If its version is too young to tell, the indexes are read again. If they have the chunks in the same places, the
        bytes read there are theirs, from whichever of the two versions of the shard. (A third version that existed
        only while the chunks were read would go unnoticed.)

        Parameters
        ----------
        since : float
            When the chunks were first looked up; a part of the shard index that was read after that is valid.
        now : float, optional
            When the chunks had been read; a part of the shard index that was read after that is not read again.
        """
        shard, minishard = sharding.locate(ids[0])
        if found is None or found.is_settled:
            return (yield from self.is_current_for(key, sharding, shard, minishard, since))
        known = self.cache.get(IndexKey(key, shard, "minishard", minishard))
        if not (isinstance(known, Minishard) and known.is_settled):
            since = time.monotonic() if now is None else now
            try:
                known = yield from self._read_again(key, sharding, shard, minishard, since)
            except (ShardReplacedError, CorruptDataError):  # maybe parts of two versions; the caller reads again
                return False
        return all(found.locate(one) == (known and known.locate(one)) for one in ids)

    def _read_again(
        self, key: str, sharding: Sharding, shard: int, minishard: int, now: float
    ) -> Job[Minishard | None]:
        """Read the indexes of a minishard, except parts that were read after `now`, and cache them.

        Raises
        ------
        ShardReplacedError
            If the shard is replaced in the meantime.
        """
        place = page_of(minishard, sharding)
        page_key = IndexKey(key, shard, "page", place.start)
        page = self.cache.get(page_key)
        if not isinstance(page, Page) or page.read_at < now:
            self.cache.forget(key, shard)
            page = yield from self._load_page(sharding.shard_name(key, shard), sharding, place)
            if page is None:
                return None
            self.cache.put(page_key, page)
        found = yield from self._read_minishard(page, sharding, minishard)
        if found is not None:
            self.cache.put(IndexKey(key, shard, "minishard", minishard), found)
        return found

    def is_current_for(self, key: str, sharding: Sharding, shard: int, minishard: int, since: float) -> Job[bool]:
        """Tell whether the cached indexes of a shard are still valid; if not, drop them.

        A chunk in a cached index is read without this check, as the version tells if it has moved.
        Absence is re-checked with one small request.
        """
        place = page_of(minishard, sharding)
        page = self.cache.get(IndexKey(key, shard, "page", place.start))
        if not isinstance(page, Page) or (page.read_at >= since and page.is_settled):
            return True  # it has just been read
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
        """Return the index of a minishard; None if the shard is absent or the minishard empty."""
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
        """Read the index of a minishard, which a page of the shard index locates.

        Raises
        ------
        ShardReplacedError
            If the shard was replaced after the page was read.
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
        """Make the cache entry of a minishard."""
        return Minishard(index, page.name, page.base, body.version, page.is_settled and body.is_settled)

    def parse(self, stored: bytes, sharding: Sharding) -> MinishardIndex:
        """Parse a minishard index as stored."""
        encoding, limit = sharding.minishard_index_encoding, sharding.largest_index
        return MinishardIndex.from_bytes(stored, encoding, limit)

    def page(self, key: str, sharding: Sharding, shard: int, minishard: int) -> Job[Page | None]:
        """Return the part of a shard index with a minishard; None if the shard is absent."""
        place = page_of(minishard, sharding)

        def load() -> Job[Page | None]:
            return self._load_page(sharding.shard_name(key, shard), sharding, place)

        return self._remembered(IndexKey(key, shard, "page", place.start), load)

    def _load_page(self, stem: str, sharding: Sharding, place: ByteRange) -> Job[Page | None]:
        """Read a part of a shard index, from `.shard` or from the older pair of `.index` and `.data`."""
        began = time.monotonic()  # later writes of others may be missing in it
        for legacy in (False, True):  # `.shard` first: a pair beside it is a leftover of a merge
            index_name = f"{stem}.index" if legacy else f"{stem}.shard"
            try:
                body = yield from self.read(index_name, place.start, place.end, "shard index")
            except NotFoundError:
                continue
            name, base = (f"{stem}.data", 0) if legacy else (index_name, sharding.index_size)
            return Page(body.data, index_name, name, base, body.version, body.is_settled, began)
        return None

    def read(self, name: str, start: int, end: int, what: str) -> Job[Body]:
        """Read a part of a shard's file; if the server ignores ranges, read a small shard whole.

        Parameters
        ----------
        what : str
            The name of the part in messages.
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
            vars(error).update(vars(exc))  # such as `may_mean_absent`
            try:
                raise error from exc
            finally:
                del error  # its traceback holds this frame, which would keep the accessor alive

    def _get(self, get: Get) -> Job[Body]:
        try:
            body: Body = yield get
        except DataAccessError as exc:
            denied_is_missing = self._store.denied_is_missing
            raise jobs.chunk_failure(exc, denied_is_missing=denied_is_missing)  # noqa: B904 - it has its cause
        return body

    def _whole(self, name: str) -> Job[Body]:
        """Read a small shard whole, because its server ignores ranges, and keep it for some seconds."""

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
                    f"{self._store.location.display(name)}: the server ignores Range, so it sends whole shards, and "
                    f"this one has more than {LARGEST_WHOLE >> 20} MiB; use a server that supports Range"
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
        """Name the file and the part of it in a CorruptDataError of the block."""
        try:
            yield
        except CorruptDataError as exc:
            raise CorruptDataError(f"{self._store.location.display(name)}, {what}: {exc}") from exc

    def replaced(self, key: str, sharding: Sharding, shard: int) -> ShardReplacedError:
        """Make the error for a shard that is replaced again and again."""
        shown = self._store.location.display(f"{sharding.shard_name(key, shard)}.shard")
        return ShardReplacedError(f"{shown} was replaced {TRIES} times while it was read; is it being written?")


def check_chunk(size: int, sharding: Sharding) -> None:
    """Check the size that an index gives a chunk."""
    if size > sharding.largest_chunk:
        raise CorruptDataError(
            f"its index gives it {size} bytes, and a chunk of this scale has at most {sharding.largest_chunk}"
        )
