"""The objects below one root, on one filesystem: `ObjectStore` runs jobs on it, and has each verb for one object."""

import functools
import mmap
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from precomputed_fs.errors import ReadOnlyError
from precomputed_fs.format.compression import MAX_DECODED_SIZE
from precomputed_fs.store import jobs, loop
from precomputed_fs.store.certificates import trusted
from precomputed_fs.store.direct import Direct
from precomputed_fs.store.failures import Failures, Tries
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols.base import Asynchronous, Filesystem, Synchronous
from precomputed_fs.store.protocols.caches import SimpleCache
from precomputed_fs.store.protocols.s3 import S3
from precomputed_fs.store.remote import Cached, Remote
from precomputed_fs.store.requests import Body, Delete, Get, Job, List, Page, Put, Walk

_T = TypeVar("_T")


class Driver(Protocol):
    """Does what jobs ask of one filesystem."""

    def run_one(self, job: Job[_T]) -> _T:
        """Run one job, and return its result."""

    def run(
        self, jobs: Iterable[Job[Any]], limit: int, finish: Callable[[Any], Any] | None, per_hop: int
    ) -> Iterator[list[Any]]:
        """Run jobs, up to `limit` at once; yields their results as they come, some at a time.

        Parameters
        ----------
        finish : callable, optional
            What is made of each result, in a thread of the pool.
        per_hop : int
            How many results a thread is given at once.
        """

    def confined(self) -> "Driver":
        """Return a driver of the same filesystem that, to read, follows no link out of the root."""

    def close(self) -> None:
        """Let go of connections."""


class ObjectStore:
    """The objects below one root, on one filesystem.

    The filesystem is built when it is first needed, once per process: a store may be pickled, used
    by threads and inherited by a fork.

    Parameters
    ----------
    location : Location
        Where the pyramid is.
    attempts : int
        How often a request is sent at most, if its failures are transient.
    timeout : float
        Seconds without an answer, or without a byte of it, after which a request has failed.
    denied_is_missing : bool
        Whether a 403 of an object that holds chunks is its absence, where it may mean that.
    """

    def __init__(self, location: Location, *, attempts: int, timeout: float, denied_is_missing: bool = False) -> None:
        self.location = location
        self.denied_is_missing = denied_is_missing
        self.protocol = location.protocol
        self.attempts = attempts
        self.timeout = timeout
        self._connections: dict[int, _Connection] = {}
        self._is_used = False
        self._is_confined = False

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.location.readable:
            raise TypeError(f"{self.location.display()} is being written: one process can")
        rebuild = functools.partial(
            ObjectStore, attempts=self.attempts, timeout=self.timeout, denied_is_missing=self.denied_is_missing
        )
        return rebuild, (self.location,)

    def confined(self) -> "ObjectStore":
        """Return a store of the same objects and connections that, to read, follows no link out of its root."""
        if self._is_confined:
            return self
        twin = object.__new__(type(self))
        vars(twin).update({**vars(self), "_is_confined": True})
        return twin

    # ---------------------------------------------------------------------------------- jobs

    def run(self, job: Job[_T]) -> _T:
        """Run one job, and return its result."""
        return self._driver.run_one(job)

    def run_many(
        self,
        jobs: Iterable[Job[Any]],
        limit: int,
        finish: Callable[[Any], Any] | None = None,
        per_hop: int = 1,
    ) -> Generator[list[Any], None, None]:
        """Run jobs that return lists of results: see `Driver.run`.

        A new one is taken only while fewer than `limit` are under way or wait to be consumed. The
        first failure ends the iteration, and ending it cancels what is under way.
        """
        yield from self._driver.run(jobs, limit, finish, per_hop)

    def run_many_async(
        self,
        jobs: Iterable[Job[Any]],
        limit: int,
        finish: Callable[[Any], Any] | None = None,
        per_hop: int = 1,
    ) -> AsyncGenerator[list[Any], None]:
        """Run jobs: `run_many`, with ``async for`` in any event loop."""
        return loop.iterate(self.run_many(jobs, limit, finish, per_hop))

    def once(self, key: Hashable, kept: Callable[[], _T | None], load: Callable[[], Job[_T | None]]) -> Job[_T | None]:
        """Return what is kept, or load it, once for all jobs of this process: see `jobs.once`."""
        return jobs.once(self._connection.loads, key, kept, load)

    def name_lock(self, name: str) -> jobs.NameLock:
        """Return what has the jobs of this process take turns at a name."""
        return jobs.NameLock(self.location.display(name))

    # --------------------------------------------------------------------- single objects

    def read(
        self,
        name: str,
        start: int | None = None,
        end: int | None = None,
        limit: int = MAX_DECODED_SIZE,
        *,
        versioned: bool = False,
    ) -> Body:
        """Read an object, or a part of what is stored: see `Get`.

        Raises
        ------
        NotFoundError, AccessDeniedError
        TooLargeError
            If there are more bytes than the limit.
        CorruptDataError
            If the body is shorter than announced, or not the range that was asked for.
        DataAccessError
            If the store cannot be reached, or fails in another way.
        """
        return self.run(jobs.read(Get(name, start, end, limit, versioned)))

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name; False is the store's own word for it."""
        return self.run(jobs.exists(name))

    def write(
        self,
        name: str,
        data: bytes | mmap.mmap,
        *,
        content_type: str,
        content_encoding: str = "",
        create: bool,
        replacing: str = "",
    ) -> None:
        """Write an object, whole or not at all: see `jobs.write`."""
        self.run(jobs.write(Put(name, data, content_type, content_encoding, create, replacing)))

    def delete(self, name: str, *, replacing: str = "") -> None:
        """Delete an object, or one version of it; that there is none is no error."""
        self.run(_one(Delete(name, replacing)))

    def list_names(self, prefix: str, limit: int) -> list[str]:
        """List the last parts of up to `limit` names that begin with a prefix, in one request."""
        names: list[str] = self.run(_one(List(prefix, limit)))
        return names

    def list_page(self, folder: str, more: Any = None) -> Page | None:  # noqa: ANN401 - see `Walk`
        """List some objects in a folder, at any depth, with their sizes; None if the protocol has no listings."""
        page: Page | None = self.run(_one(Walk(folder, more)))
        return page

    # --------------------------------------------------------------------- the filesystem

    def open(self) -> None:
        """Make the filesystem, if need be; so that its failure is not taken for that of an object."""
        _ = self._driver

    @property
    def is_incomplete(self) -> bool:
        """Whether this process writes an archive, which is complete when it is closed."""
        return not self.location.readable and self.location.fs is None and os.getpid() in self._connections

    def close(self) -> None:
        """Let go of the filesystem; a store that is used again makes a new one."""
        connection = self._connections.pop(os.getpid(), None)
        if connection is not None:
            connection.close()

    @property
    def _driver(self) -> Driver:
        connection = self._connections.get(os.getpid()) or self._connection
        return connection.confined_driver if self._is_confined else connection.driver

    @property
    def _connection(self) -> "_Connection":
        pid = os.getpid()
        connection = self._connections.get(pid)
        if connection is None:  # setdefault: of two threads, one wins
            if self._is_used and not self.location.readable:
                raise ReadOnlyError(
                    f"{self.location.display()} is complete, or another process writes it: make a new accessor"
                )
            connection = self._connections.setdefault(pid, _Connection(self))
            self._is_used = True
        return connection


def _one(request: Any) -> Job[Any]:  # noqa: ANN401
    return (yield request)


class _Connection:
    """One process's filesystem for a store."""

    def __init__(self, store: ObjectStore) -> None:
        self.loads: dict[Hashable, Any] = {}
        self._location = store.location
        self._timeout = store.timeout
        self._attempts = store.attempts
        self._failures = Failures(store.location, store.attempts)
        self._lock = threading.Lock()
        self._driver: Driver | None = None

    @property
    def driver(self) -> Driver:
        """What reaches the filesystem, which is made when it is first needed."""
        driver = self._driver
        if driver is None:
            with self._lock:
                driver = self._driver
                if driver is None:
                    driver = self._driver = self._opened(self._make)
        return driver

    @functools.cached_property
    def confined_driver(self) -> Driver:
        return self.driver.confined()

    def close(self) -> None:
        """Let go of the filesystem, unless it is the user's."""
        with self._lock:
            driver, self._driver = self._driver, None
        if driver is not None and self._location.fs is None:  # who made it closes it
            driver.close()

    def _opened(self, make: Callable[[], _T]) -> _T:
        """Make something, and again where the failure may pass."""
        tries = Tries()
        while True:
            try:
                return make()
            except Exception as exc:  # noqa: BLE001 - each becomes one of ours
                error, due = self._failures.judged(None, exc, tries)
            if due is None:
                try:
                    raise error  # outside of the handler: a cause with secrets would follow as context
                finally:
                    del error  # its traceback has this frame, which would keep all that it knows
            time.sleep(max(0.0, due - time.monotonic()))

    def _make(self) -> Driver:
        location, protocol = self._location, self._location.protocol
        if isinstance(protocol, Asynchronous):
            return self._transfers(location, self._remote(location, protocol))
        fs, root = self._open_filesystem()
        behind = location.behind
        if behind is not None and isinstance(protocol, SimpleCache) and isinstance(behind.protocol, Asynchronous):
            return self._transfers(behind, Cached(fs, protocol, root, self._remote(behind, behind.protocol)))
        if not isinstance(protocol, Synchronous):
            raise TypeError(type(protocol).__name__)
        return Direct(
            fs,
            protocol,
            root,
            failures=self._failures,
            reopen=lambda: self._open_filesystem()[0],
        )

    def _remote(self, location: Location, protocol: Asynchronous) -> Remote:
        link = location.links[0]
        if location.fs is None and len(location.links) == 1:
            ask = protocol.plain_requests(link.options)
            if ask is not None:
                return Remote(protocol, link.url, ask, lambda: location.open(self._timeout)[0])
        fs, root = location.open(self._timeout)
        return Remote(protocol, root, protocol.http_requests(fs), lambda: fs)

    def _open_filesystem(self) -> tuple[Filesystem, str]:
        try:
            return self._location.open(self._timeout)
        except (FileNotFoundError, ValueError) as exc:
            failure = exc
        try:
            self._confirm_missing(failure)  # outside of the handler: a failure with secrets would follow as context
            raise failure
        finally:
            del failure  # its traceback has this frame

    def _transfers(self, location: Location, remote: Remote | Cached) -> Driver:
        from precomputed_fs.store.transfers import Transfers  # noqa: PLC0415 - brings libcurl, only where it is used

        link = location.links[0]
        trust = trusted(link.options, is_s3=isinstance(location.protocol, S3))
        return Transfers(remote, failures=self._failures, timeout=self._timeout, trust=trust)

    def _confirm_missing(self, exc: Exception) -> None:
        """Ask the store behind an archive; to fsspec's HTTP files any failure is "not found"."""
        behind = self._location.behind
        if behind is None:
            return
        store = ObjectStore(behind, attempts=self._attempts, timeout=self._timeout)
        try:
            if store.exists(""):
                raise ConnectionError(f"it is there, but could not be opened: {exc}") from exc  # which may pass
        finally:
            store.close()
