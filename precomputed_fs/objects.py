"""How bytes move: one filesystem's objects, read, written, probed and deleted.

`ObjectStore` has each verb once, as a coroutine, with two doors: `ObjectStore.run` for callers
without an event loop and `ObjectStore.run_async` for callers in any. Foreign exceptions are mapped to
ours here and nowhere else, and transient ones are tried again here and nowhere else.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import http
import lzma
import mmap
import os
import queue
import socket
import threading
import time
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import stamina

from precomputed_fs.compression import ACCEPT_ENCODING, decode
from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    NotFoundError,
    ReadOnlyError,
)
from precomputed_fs.urls import Copies, Filesystem, Location, Options, Publish, Request, Scheme, join

_T = TypeVar("_T")
_Response = Any  # an aiohttp.ClientResponse; aiohttp is imported when it is first used
_Session = Any  # an aiohttp.ClientSession
_Operation = Callable[[], Awaitable[_T]]
Job = Callable[[], Coroutine[Any, Any, Any]]
"""Makes a coroutine when there is room to run it, so that none is left over."""

RETRY_SECONDS = 30.0
"""No attempt begins later than this many seconds after the first."""

_WAITS = {"wait_initial": 0.2, "wait_max": 5.0, "wait_jitter": 0.2}  # seconds; each twice the last
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_THREADS = min(32, 2 * _CORES)  # that one caller has use a synchronous filesystem
_QUICK = 2e-4  # seconds, of a job that is better run than handed to a thread
_TURN = 1e-3  # seconds of such jobs, after which their results are handed over
_SHARE = 0.25  # of what is under way, that is handed over at once when it has ended
_MOMENT = 2e-3  # seconds, after which it is handed over anyway
_PATIENCE = 2e-3  # seconds that are spent on jobs before it is known that they are not quick
_FOLDER_TRIES = 3
_READ_BUFFER = 1 << 20  # bytes of a body that may come before reading of its socket pauses
_NO_HEAD = frozenset({405, 501})
_REPLACED = "another writer has replaced it meanwhile; nothing was written"
_LONGEST_WAIT = 10.0  # seconds, of what a server asks for in Retry-After


@dataclass(frozen=True, slots=True)
class Body:
    """What a store returned for an object."""

    data: bytes
    """The bytes as served: not decoded, unless the filesystem does so and does not tell."""

    content_encoding: str = ""
    """How the served bytes are encoded, where the answer says it."""

    version: str = ""
    """Of a range: what tells one state of the object from another, where the store says it."""


@dataclass(frozen=True, slots=True)
class More:
    """What a job of `ObjectStore.run_many` may return to have further ones run."""

    jobs: Sequence[Job]


class _TransientError(DataAccessError):
    """A failure that may pass; ``final`` is what it is if it does not."""

    def __init__(
        self,
        message: str,
        final: type[DataAccessError] = DataAccessError,
        wait: float | None = None,
    ) -> None:
        super().__init__(message)
        self.final = final
        self.wait = wait


class _StatusError(Exception):
    """An HTTP answer that is not the one asked for."""

    def __init__(self, status: int, reason: str | None, retry_after: str = "") -> None:
        super().__init__(f"{status} {reason or ''}".strip())
        self.status = status
        self.wait = float(retry_after) if retry_after.isdecimal() else None


class _WrongThreadError(RuntimeError):
    """A synchronous call from the filesystem's own event loop, which would wait for itself."""


class _BrokenAnswerError(Exception):
    """An answer that is not what was asked for, or not what its own headers promise."""


class _Transport(Protocol):
    """How to reach one filesystem, in the filesystem's paths and with its exceptions."""

    async def read(self, path: str, start: int | None, end: int | None) -> Body: ...

    async def exists(self, path: str) -> bool: ...

    async def write(
        self, path: str, data: bytes | mmap.mmap, keywords: Options, *, create: bool, replacing: str
    ) -> None: ...

    async def delete(self, path: str) -> None: ...

    async def list_names(self, prefix: str, limit: int) -> list[str]: ...

    async def retry(self, operation: _Operation[_T], attempts: int) -> _T: ...

    async def in_thread(self, function: Callable[[], _T]) -> _T: ...

    async def wait(self, future: concurrent.futures.Future[_T]) -> _T: ...

    def flight(self) -> "_Flight": ...

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T: ...

    async def run_async(self, coroutine: Coroutine[Any, Any, _T]) -> _T: ...

    def is_alive(self) -> bool: ...

    def close(self) -> None: ...


class _Flight(Protocol):
    """Coroutines under way at once."""

    def __len__(self) -> int: ...

    def advance(self, new: list[Job]) -> list[Any]:
        """Start some more, wait until any have ended, and return their results."""

    async def advance_async(self, new: list[Job]) -> list[Any]: ...

    def cancel(self) -> None:
        """Begin nothing more, and end what can be ended."""

    def join(self) -> None:
        """Wait until what is under way has ended."""

    async def join_async(self) -> None: ...


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
    """

    def __init__(self, location: Location, *, attempts: int, timeout: float) -> None:
        self.location = location
        self.scheme = location.scheme
        self.attempts = attempts
        self.timeout = timeout
        self._secrets = location.secrets
        self._connections: dict[int, _Connection] = {}
        self._is_used = False

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.location.readable:
            message = f"{self.location.display()} is being written: one process can"
            raise TypeError(message)
        rebuild = functools.partial(ObjectStore, attempts=self.attempts, timeout=self.timeout)
        return rebuild, (self.location,)

    # ------------------------------------------------------------------------------ the doors

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of this store to its end, from a thread that is not its event loop's."""
        with _closed_on_error(coroutine):
            transport = self._open()
        return transport.run(coroutine)

    async def run_async(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Await a coroutine of this store from any event loop."""
        with _closed_on_error(coroutine):
            transport = await self._open_async()
        return await transport.run_async(coroutine)

    def run_many(self, jobs: Iterable[Callable[[], Coroutine[Any, Any, _T | More]]], limit: int) -> Iterator[_T]:
        """Run coroutines of this store, up to `limit` at once; their results as they come.

        A new one is taken only while fewer than `limit` are under way or wait to be consumed. The
        first failure ends the iteration, and ending it cancels what is under way.
        """
        upcoming = _Upcoming(jobs)
        flight = self._open().flight()
        pid = os.getpid()
        try:
            while (new := upcoming.take(limit - len(flight))) or len(flight):
                if os.getpid() != pid:
                    message = f"{self.location.display()}: a batch goes on in the process that began it"
                    raise DataAccessError(message)
                yield from upcoming.sifted(flight.advance(new))
            upcoming.end()
        finally:
            flight.cancel()
            flight.join()

    async def run_many_async(
        self, jobs: Iterable[Callable[[], Coroutine[Any, Any, _T | More]]], limit: int
    ) -> AsyncIterator[_T]:
        """Run coroutines of this store from any event loop: `run_many`, to be awaited."""
        upcoming = _Upcoming(jobs)
        flight = (await self._open_async()).flight()
        try:
            while (new := upcoming.take(limit - len(flight))) or len(flight):
                for result in upcoming.sifted(await flight.advance_async(new)):
                    yield result
            upcoming.end()
        finally:
            flight.cancel()
            await flight.join_async()

    def close(self) -> None:
        """Let go of the filesystem; a store that is used again makes a new one."""
        connection = self._connections.pop(os.getpid(), None)
        if connection is not None:
            connection.close()

    # ------------------------------------------------------------------------------ the verbs

    async def read(self, name: str, start: int | None = None, end: int | None = None) -> Body:
        """Read an object, or the bytes from ``start`` up to ``end`` of what is stored.

        Raises
        ------
        NotFoundError, AccessDeniedError
        CorruptDataError
            If the body is shorter than announced, or not the range that was asked for.
        DataAccessError
            If the store cannot be reached, or fails in another way.
        """
        if start is not None and start == end:
            return Body(b"")
        return await self._attempt("read", name, lambda link, path: link.read(path, start, end))

    async def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name; False is the store's own word for it."""
        try:
            return await self._attempt("probe", name, lambda link, path: link.exists(path))
        except NotFoundError:
            return False

    async def write(
        self,
        name: str,
        data: bytes | mmap.mmap,
        *,
        content_type: str,
        content_encoding: str = "",
        create: bool,
        replacing: str = "",
    ) -> None:
        """Write an object, whole or not at all.

        Parameters
        ----------
        create : bool
            Whether an existing object is an AlreadyExistsError. The store itself decides where the
            protocol has a way to ask it; otherwise the name is checked before the write.
        replacing : str
            The version that is replaced; any other one there is a DataAccessError. Decided by the
            store itself on S3, checked before the write on files, not looked at elsewhere.
        """
        keywords: Options = {}
        if self.scheme.write_keywords is not None:
            keywords = self.scheme.write_keywords(content_type, content_encoding)
        tries = 0

        async def put(transport: _Transport, path: str) -> None:
            nonlocal tries
            tries += 1
            await transport.write(path, data, keywords, create=create, replacing=replacing)

        try:
            await self._attempt("create" if create else "write", name, put)
        except AlreadyExistsError:
            # A try whose answer was lost may have written just what the next one met.
            if tries == 1 or (await self.read(name)).data != data[:]:
                raise

    async def delete(self, name: str) -> None:
        """Delete an object; that there is none is no error."""
        with contextlib.suppress(NotFoundError):
            await self._attempt("delete", name, lambda link, path: link.delete(path))

    async def list_names(self, prefix: str, limit: int) -> list[str]:
        """List the last parts of up to `limit` names that begin with a prefix, in one request."""
        return await self._attempt("list", prefix, lambda link, path: link.list_names(path, limit))

    # ----------------------------------------------------------------------------- the inside

    @property
    def _connection(self) -> "_Connection":
        pid = os.getpid()
        connection = self._connections.get(pid)
        if connection is None:  # setdefault: of two threads, one wins
            if self._is_used and not self.location.readable:
                message = f"{self.location.display()} is complete, or another process writes it: make a new accessor"
                raise ReadOnlyError(message)
            connection = self._connections.setdefault(pid, _Connection(self.location, self.timeout))
            self._is_used = True
        return connection

    def in_turn(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Have threads take turns at one name, on filesystems that are used by threads."""
        if self.scheme.request is not None:
            return contextlib.nullcontext()
        return _turns[hash(self.location.display(name)) % len(_turns)]

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """Run what computes where it does not hold up requests; for coroutines of this store."""
        return await self._connection.transport.in_thread(function)

    async def wait(self, future: concurrent.futures.Future[_T]) -> _T:
        """Wait for what another thread or task does; for coroutines of this store."""
        return await self._connection.transport.wait(future)

    async def load_once(
        self, key: Hashable, kept: Callable[[], _T | None], load: Callable[[], Awaitable[_T | None]]
    ) -> _T | None:
        """Return what is kept, or load it; for coroutines of this store.

        Of many threads and tasks that ask at once, one loads and the others take its result, unless
        it fails: then each tries for itself, one after the other.
        """
        connection = self._connection
        mine: concurrent.futures.Future[tuple[_T | None] | None] = concurrent.futures.Future()
        mine.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it
        outcome: tuple[_T | None] | None
        while (value := kept()) is None:
            flight = connection.loads.setdefault(key, mine)
            if flight is mine:
                break
            outcome = await connection.transport.wait(flight)
            if outcome is not None:
                return outcome[0]
        else:
            return value
        outcome = None
        try:
            value = kept()  # another may have ended between the two questions above
            outcome = (await load() if value is None else value,)
            return outcome[0]
        finally:
            del connection.loads[key]
            mine.set_result(outcome)

    def _open(self) -> _Transport:
        """Return the transport, making the filesystem if need be."""
        connection = self._connection
        if connection.is_open:
            return connection.transport
        with _giving_up():
            for attempt in _retrying(self.attempts):
                with attempt:
                    return self._opened(connection)
        raise AssertionError  # pragma: no cover - the loop ends by returning or raising

    async def _open_async(self) -> _Transport:
        return self._open() if self._connection.is_open else await asyncio.to_thread(self._open)

    def _opened(self, connection: "_Connection") -> _Transport:
        try:
            return connection.transport
        except Exception as exc:  # noqa: BLE001 - each becomes one of ours
            error = self._error("open", "", exc)
        raise error

    async def _attempt(self, verb: str, name: str, operation: Callable[[_Transport, str], Awaitable[_T]]) -> _T:
        connection = self._connection

        async def once() -> _T:
            transport = self._opened(connection)
            try:
                return await operation(transport, join(connection.root, name))
            except Exception as exc:  # noqa: BLE001 - each becomes one of ours
                error = self._error(verb, name, exc if transport.is_alive() else _lost_connection(exc))
            raise error  # outside of the handler: a cause with secrets would follow as context

        if not self.scheme.remote:
            return await once()
        try:
            return await once()  # without the machinery of retries, which costs as much as a request
        except _TransientError as exc:
            failures = [exc]

        async def again() -> _T:
            if failures:
                raise failures.pop()  # what has happened counts as the first attempt
            return await once()

        with _giving_up():
            return await self._opened(connection).retry(again, self.attempts)

    def _error(self, verb: str, name: str, exc: Exception) -> Exception:
        """Map a foreign exception; the cause goes along unless it shows a secret."""
        if isinstance(exc, (DataAccessError, MemoryError, _WrongThreadError)):
            return exc
        secrets = self._secrets
        shows_secret = _shows_url(exc) or any(
            secret in f"{link!r} {link}" for link in _causes(exc) for secret in secrets
        )
        detail = f"{type(exc).__name__}: {exc}" if not isinstance(exc, _OWN) else str(exc)
        for secret in secrets:
            detail = detail.replace(secret, "***")
        if _shows_url(exc):
            detail = type(exc).__name__
        error = _mapped(verb, exc, f"cannot {verb} {self.location.display(name)}: {detail}")
        error.__cause__ = None if shows_secret else exc
        return error


class _Upcoming:
    """Jobs that are still to be started: those that others asked for first."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._given = iter(jobs)
        self._more: collections.deque[Job] = collections.deque()
        self._failure: Exception | None = None

    def take(self, count: int) -> list[Job]:
        """Take some; an exception of the iterable is kept until those before it are done."""
        taken = [self._more.popleft() for _ in range(min(count, len(self._more)))]
        while len(taken) < count and self._failure is None:
            try:
                taken.append(next(self._given))
            except StopIteration:
                break
            except Exception as exc:  # noqa: BLE001 - `end` raises it
                self._failure = exc
        return taken

    def end(self) -> None:
        """Raise what the iterable raised."""
        if self._failure is not None:
            raise self._failure

    def sifted(self, results: Iterable[Any]) -> Iterator[Any]:
        for result in results:
            if isinstance(result, More):
                self._more.extend(result.jobs)
            else:
                yield result


class _Connection:
    """One process's filesystem for a store."""

    def __init__(self, location: Location, timeout: float) -> None:
        self.root = ""
        self.loads: dict[Hashable, concurrent.futures.Future[Any]] = {}
        self._location = location
        self._timeout = timeout
        self._lock = threading.Lock()
        self._transport: _Transport | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    @property
    def transport(self) -> _Transport:
        transport = self._transport
        if transport is None or not transport.is_alive():
            with self._lock:
                transport = self._transport
                if transport is None or not transport.is_alive():
                    transport = self._transport = self._make()
        return transport

    def _make(self) -> _Transport:
        scheme = self._location.scheme
        try:
            fs, self.root = self._location.open(self._timeout)
        except (FileNotFoundError, ValueError) as exc:
            self._confirm_missing(exc)
            raise
        if scheme.request is not None:
            return _AsyncTransport(fs, scheme, self._timeout)
        return _ThreadTransport(fs, self._location, self._timeout)

    def _confirm_missing(self, exc: Exception) -> None:
        """Ask the store behind an archive; to fsspec's HTTP files any failure is "not found"."""
        if self._location.behind is None:
            return
        behind = _Connection(self._location.behind, self._timeout)
        if behind.transport.run(behind.transport.exists(behind.root)):
            message = f"it is there, but could not be opened: {exc}"
            raise ConnectionError(message) from exc  # which may pass

    def close(self) -> None:
        with self._lock:
            if self._transport is not None and self._location.fs is None:  # who made it closes it
                self._transport.close()
            self._transport = None


class _AsyncTransport:
    """A filesystem of coroutines, read by HTTP requests of our own where it tells how."""

    def __init__(self, fs: Filesystem, scheme: Scheme, timeout: float) -> None:
        self._fs = fs
        self._scheme = scheme
        self._timeout = timeout
        self._crew = _Crew()
        self._sessions: Any = None  # the filesystem whose aiohttp session is ours to use
        self._referred = False
        self._create_is_real: bool | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The filesystem's event loop."""
        loop: asyncio.AbstractEventLoop = self._fs.loop  # read at each call: another one after a fork
        return loop

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        loop = self.loop
        if _running_loop() is loop:
            coroutine.close()
            message = "called from the filesystem's own event loop: await the _async method instead"
            raise _WrongThreadError(message)
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except BaseException:  # of the coroutine, or a KeyboardInterrupt here
            future.cancel()
            raise

    async def run_async(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        loop = self.loop
        if _running_loop() is loop:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    async def retry(self, operation: _Operation[_T], attempts: int) -> _T:
        async for attempt in _retrying(attempts):
            with attempt:
                return await operation()
        raise AssertionError  # pragma: no cover - the loop ends by returning or raising

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        return await self._crew.run(function)

    async def wait(self, future: concurrent.futures.Future[_T]) -> _T:
        return await asyncio.wrap_future(future)

    def flight(self) -> _Flight:
        return _AsyncFlight(self)

    async def read(self, path: str, start: int | None, end: int | None) -> Body:
        request = await self._request("GET", path)
        if request is not None:
            async with await self._send(request, start, end) as response:
                if not self._is_referred(response):
                    return await _read_response(response, start, end)
        if start is None:
            return Body(await self._fs._cat_file(path, **self._scheme.read_keywords))  # noqa: SLF001
        data = await self._fs._cat_file(path, start=start, end=end)  # noqa: SLF001
        return _checked_range(data, start, end)

    async def exists(self, path: str) -> bool:
        request = await self._request("HEAD", path)
        if request is None:
            return await self._is_file(path)
        async with await self._send(request) as response:
            if self._is_referred(response):
                return await self._is_file(path)
            if response.status not in _NO_HEAD:
                return _found(response)
        whole = request._replace(method="GET")  # a server without HEAD
        async with await self._send(whole, 0, 1) as response:
            return response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or _found(response)

    async def write(
        self, path: str, data: bytes | mmap.mmap, keywords: Options, *, create: bool, replacing: str
    ) -> None:
        if replacing and self._scheme.replace_keywords is not None:
            keywords = {**keywords, **self._scheme.replace_keywords(replacing)}
        body = data if isinstance(data, bytes) else data[:]  # no driver sends a mapped file as it is
        pipe = functools.partial(self._fs._pipe_file, path, body, **keywords)  # noqa: SLF001
        if not create:
            await self._overwrite(pipe, replacing)
        elif self._create_is_real:
            await self._create(pipe)
        else:
            if await self.exists(path):
                raise FileExistsError(path)
            await self._create(pipe)
            if self._create_is_real is None and isinstance(data, bytes):  # a mapped file is large
                self._create_is_real = await self._refuses_second(pipe)

    async def delete(self, path: str) -> None:
        await self._fs._rm_file(path)  # noqa: SLF001

    async def list_names(self, prefix: str, limit: int) -> list[str]:
        return await self._scheme.list_names(self._fs, prefix, limit)

    def is_alive(self) -> bool:
        return True

    def close(self) -> None:
        session = getattr(self._sessions, "_session", None)  # fsspec has no public way to close it
        self._sessions = None
        if session is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the session with it
                asyncio.run_coroutine_threadsafe(session.close(), self.loop)

    async def _overwrite(self, pipe: Callable[..., Awaitable[Any]], replacing: str) -> None:
        try:
            await pipe(mode="overwrite")
        except Exception as exc:
            if replacing and _status_of(exc) == http.HTTPStatus.PRECONDITION_FAILED:
                raise OSError(_REPLACED) from exc
            raise

    async def _create(self, pipe: Callable[..., Awaitable[Any]]) -> None:
        try:
            await pipe(mode="create")
        except Exception as exc:
            if _status_of(exc) == http.HTTPStatus.PRECONDITION_FAILED:
                raise FileExistsError from exc
            raise

    async def _refuses_second(self, pipe: Callable[..., Awaitable[Any]]) -> bool | None:
        """Create once more what was just created: some servers ignore that it should fail."""
        try:
            await self._create(pipe)
        except FileExistsError:
            return True
        except Exception:  # noqa: BLE001 - the write itself is done; the next one will tell
            return None
        return False

    async def _is_file(self, path: str) -> bool:
        try:
            info = await self._fs._info(path)  # noqa: SLF001
        except FileNotFoundError:
            return False
        return bool(info["type"] == "file")

    async def _request(self, method: str, path: str) -> Request | None:
        if self._referred or self._scheme.request is None:
            return None
        return await self._scheme.request(self._fs, method, path)

    async def _send(self, request: Request, start: int | None = None, end: int | None = None) -> _Response:
        import aiohttp  # noqa: PLC0415 - only where requests are sent
        import yarl  # noqa: PLC0415

        headers = {**request.headers, "Accept-Encoding": ACCEPT_ENCODING}
        if start is not None and end is not None:
            headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
        options: Options = {
            "timeout": aiohttp.ClientTimeout(sock_connect=self._timeout, sock_read=self._timeout),
            **request.options,
        }
        session = await self._session()
        return session.request(
            request.method,
            yarl.URL(request.url, encoded=True),
            headers=headers,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            allow_redirects=not self._scheme.refer_statuses,
            **options,
        )

    async def _session(self) -> _Session:
        """Return an aiohttp session, which fsspec makes on its loop and closes in the end."""
        if self._sessions is None:
            if hasattr(self._fs, "set_session") and hasattr(self._fs, "get_client"):
                self._sessions = self._fs
            else:
                import fsspec  # noqa: PLC0415

                options = {"trust_env": bool(urllib.request.getproxies())}
                self._sessions = fsspec.filesystem(
                    "http", client_kwargs=options, loop=self._fs.loop, skip_instance_cache=True
                )
        return await self._sessions.set_session()

    def _is_referred(self, response: _Response) -> bool:
        """Whether only the filesystem knows where to ask; it is asked from then on."""
        if response.status not in self._scheme.refer_statuses:
            return False
        self._referred = True
        return True


class _Crew:
    """Threads that compute for an event loop, as many as the process may use cores.

    One that is at it goes on with whatever waits, and tells the loop of several results at once: to
    call a thread and be called back takes as long as to decode a small chunk. All bookkeeping is done
    on the loop.
    """

    def __init__(self) -> None:
        self._waiting: collections.deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = collections.deque()
        self._at_work = 0

    async def run(self, function: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._waiting.append((future, function))
        self._call(loop)
        return await future

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting or self._at_work >= _CORES:
            return
        self._at_work += 1
        try:
            loop.run_in_executor(None, self._work, loop)
        except RuntimeError:  # the interpreter is about to end, and starts no threads any more
            self._work(loop)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        ended: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        told = time.perf_counter()
        with contextlib.suppress(IndexError):
            while True:
                future, function = self._waiting.popleft()
                ended.append((future, *_outcome(function, future)))
                if time.perf_counter() - told > _TURN:
                    loop.call_soon_threadsafe(self._settle, ended)
                    ended, told = [], time.perf_counter()
        loop.call_soon_threadsafe(self._leave, ended, loop)

    def _settle(self, ended: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
        for future, result, error in ended:
            if future.done():  # cancelled
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

    def _leave(
        self, ended: list[tuple[asyncio.Future[Any], Any, BaseException | None]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._at_work -= 1
        self._settle(ended)
        self._call(loop)  # for what came when the thread had just looked


def _outcome(function: Callable[[], Any], future: asyncio.Future[Any]) -> tuple[Any, BaseException | None]:
    if future.cancelled():
        return None, None
    try:
        return function(), None
    except BaseException as exc:  # noqa: BLE001 - it is raised where the result is awaited
        return None, exc


class _AsyncFlight:
    """Tasks under way on a filesystem's event loop.

    The caller is in another thread, and to wake it takes as long as a small request. So results are
    handed over some at a time: when a quarter of all that is under way has ended, or after a moment.
    """

    def __init__(self, transport: _AsyncTransport) -> None:
        self._transport = transport
        self._pending: set[asyncio.Task[Any]] = set()
        self._ended: list[asyncio.Task[Any]] = []
        self._is_closed = False
        self._has_failed = False
        self._enough: asyncio.Event | None = None  # made on the loop that it is for

    def __len__(self) -> int:
        return len(self._pending) + len(self._ended)

    def advance(self, new: list[Job]) -> list[Any]:
        return self._transport.run(self._step(new))

    async def advance_async(self, new: list[Job]) -> list[Any]:
        return await self._transport.run_async(self._step(new))

    async def _step(self, new: list[Job]) -> list[Any]:
        if self._is_closed:
            return []
        loop = asyncio.get_running_loop()
        enough = self._enough = asyncio.Event()
        for job in new:
            task = loop.create_task(job())
            self._pending.add(task)
            task.add_done_callback(self._note)
        self._look()
        if self._ended and not enough.is_set():  # in the step before, after its results were handed over
            loop.call_later(_MOMENT, enough.set)
        await enough.wait()
        ended, self._ended = self._ended, []
        failed = [task for task in ended if task.cancelled() or task.exception() is not None]
        return [task.result() for task in failed[:1] or ended]

    def _note(self, task: asyncio.Task[Any]) -> None:
        self._pending.discard(task)
        self._ended.append(task)
        self._has_failed |= task.cancelled() or task.exception() is not None
        self._look()
        if len(self._ended) == 1 and self._enough is not None:
            asyncio.get_running_loop().call_later(_MOMENT, self._enough.set)

    def _look(self) -> None:
        """Have the results handed over, if these are enough or one of them is a failure."""
        is_enough = len(self._ended) >= _SHARE * len(self)
        if self._enough is not None and self._ended and (is_enough or self._has_failed):
            self._enough.set()

    def cancel(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and all in it
            self._transport.loop.call_soon_threadsafe(self._cancel_all)

    def join(self) -> None:
        if self._transport.loop.is_running() and _running_loop() is not self._transport.loop:
            self._transport.run(self._all_ended())

    async def join_async(self) -> None:
        await self._transport.run_async(self._all_ended())

    async def _all_ended(self) -> None:
        await asyncio.gather(*self._pending, return_exceptions=True)

    def _cancel_all(self) -> None:
        self._is_closed = True
        for task in self._pending:
            task.cancel()
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


class _ThreadTransport:
    """A filesystem used through fsspec's synchronous API, in the calling thread or in a pool's."""

    def __init__(self, fs: Filesystem, location: Location, timeout: float) -> None:
        self._fs = fs
        self._scheme = location.scheme
        self._turn = threading.RLock() if self._scheme.one_at_a_time else contextlib.nullcontext()
        self._behind: _Connection | None = None
        if self._scheme.copies is not None and location.behind is not None:
            self._behind = _Connection(location.behind, timeout)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine that never waits, which none does on this transport."""
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        coroutine.close()
        message = "a coroutine waited on a synchronous filesystem"
        raise RuntimeError(message)

    async def run_async(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.to_thread(self.run, coroutine)

    async def retry(self, operation: _Operation[_T], attempts: int) -> _T:
        for attempt in _retrying(attempts):
            with attempt:
                return await operation()
        raise AssertionError  # pragma: no cover - the loop ends by returning or raising

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        return function()  # it is in one

    async def wait(self, future: concurrent.futures.Future[_T]) -> _T:
        return future.result()

    def flight(self) -> _Flight:
        return _ThreadFlight(self, remote=self._scheme.remote)

    async def read(self, path: str, start: int | None, end: int | None) -> Body:
        if self._behind is not None and self._scheme.copies is not None:
            return self._read_through(self._behind.transport, self._scheme.copies, path, start, end)
        with self._turn:
            if start is not None:
                before, size = self._version(path)
                if end is not None and size is not None and end > size:
                    message = f"asked for bytes {start}-{end - 1} of {size}"
                    raise _BrokenAnswerError(message)
                body = _checked_range(self._fs.cat_file(path, start=start, end=end), start, end)
                # Replaced meanwhile: of no version that an index could be of
                version = before if before == self._version(path)[0] else f"{before} and later"
                return dataclasses.replace(body, version=version)
            if self._scheme.read is not None:
                return Body(self._scheme.read(self._fs, path))
            return Body(self._fs.cat_file(path, **self._scheme.read_keywords))

    def _read_through(self, behind: _Transport, copies: Copies, path: str, start: int | None, end: int | None) -> Body:
        """Read from a cache's copy, or with our own checks what it is in front of, and keep a copy.

        fsspec's caches keep a truncated download for good, let a thread read what another is still
        downloading, and call any failure "not found". Ranges are passed on and not kept.
        """
        with self._turn:
            copy = copies.find(self._fs, path)
            if copy is not None:
                with open(copy, "rb") as file:  # noqa: PTH123 - fsspec's name for it
                    file.seek(start or 0)
                    data = file.read() if start is None or end is None else file.read(end - start)
                return Body(data) if start is None else _checked_range(data, start, end)
        body = behind.run(behind.read(path, start, end))
        if start is None:
            body = Body(decode(body.data, content_encoding=body.content_encoding, sniff=False))
            with self._turn:
                copies.keep(self._fs, path, body.data)
        return body

    def _version(self, path: str) -> tuple[str, int | None]:
        """Tell the states of a file apart by what its filesystem knows of it; and its size."""
        info = self._fs.info(path)
        return " ".join(str(info.get(name)) for name in ("ino", "size", "mtime", "created", "etag")), info.get("size")

    def _check_version(self, path: str, replacing: str) -> None:
        if replacing and self._version(path)[0] != replacing:
            raise OSError(_REPLACED)

    async def exists(self, path: str) -> bool:
        if self._behind is not None:
            behind = self._behind.transport
            return behind.run(behind.exists(path))
        try:
            with self._turn:
                return bool(self._fs.info(path)["type"] != "directory")
        except (FileNotFoundError, NotADirectoryError):
            return False

    async def write(
        self, path: str, data: bytes | mmap.mmap, keywords: Options, *, create: bool, replacing: str
    ) -> None:
        if self._scheme.publish is not None:
            self._write_sibling(path, data, self._scheme.publish, create=create, replacing=replacing)
            return
        with self._turn, _creating if create else contextlib.nullcontext():
            if create and await self.exists(path):
                raise FileExistsError(path)
            self._fs.pipe_file(path, data if isinstance(data, bytes) else data[:], **keywords)

    async def delete(self, path: str) -> None:
        with self._turn:
            self._fs.rm_file(path)

    async def list_names(self, prefix: str, limit: int) -> list[str]:
        with self._turn:
            return await self._scheme.list_names(self._fs, prefix, limit)

    def is_alive(self) -> bool:
        return self._scheme.is_alive(self._fs)

    def close(self) -> None:
        with self._turn:
            self._scheme.close(self._fs)
        if self._behind is not None:
            self._behind.close()

    def _write_sibling(
        self, path: str, data: bytes | mmap.mmap, publish: Publish, *, create: bool, replacing: str
    ) -> None:
        """Write a temporary file beside the object and put it in place in one step."""
        parent = path.rpartition("/")[0]
        temporary = f"{parent}/.{uuid.uuid4().hex}.tmp"
        with self._turn:
            try:
                self._fill(temporary, data)
            except FileNotFoundError:
                self._fill_in_new_folder(parent, temporary, data)
            try:
                with _creating if create or replacing else contextlib.nullcontext():
                    self._check_version(path, replacing)
                    publish(self._fs, temporary, path, create)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._fs.rm_file(temporary)
                raise

    def _fill_in_new_folder(self, folder: str, path: str, data: bytes | mmap.mmap) -> None:
        try:
            self._make_folder(folder)
            self._fill(path, data)
        except (FileNotFoundError, FileExistsError) as exc:  # a file stands in the way
            raise NotADirectoryError(folder) from exc

    def _make_folder(self, folder: str) -> None:
        """Make a folder and those above it, while others may be making the same ones."""
        failure: OSError | None = None
        for _ in range(_FOLDER_TRIES):
            try:
                self._fs.makedirs(folder, exist_ok=True)
            except OSError as exc:  # SFTP tells no reason; it may be that another was faster
                failure = exc
            if self._fs.isdir(folder):
                return
        if failure is not None:
            raise failure

    def _fill(self, path: str, data: bytes | mmap.mmap) -> None:
        try:
            with self._fs.open(path, "wb") as file:
                file.write(data)
        except FileNotFoundError:
            raise
        except BaseException:  # a full disk, an interrupt: leave nothing behind
            with contextlib.suppress(OSError):
                self._fs.rm_file(path)
            raise


class _ThreadFlight:
    """Coroutines under way in threads of their own, on a synchronous filesystem.

    Quick ones are run by the caller: to hand one over takes longer than to read a small file.
    """

    def __init__(self, transport: _ThreadTransport, *, remote: bool) -> None:
        self._transport = transport
        self._todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._under_way = 0
        self._threads: list[threading.Thread] = []
        self._needs_threads = remote
        self._here = threading.Lock()  # held while the caller runs some
        self._run_here, self._seconds_here = 0, 0.0

    def __len__(self) -> int:
        return self._under_way

    def advance(self, new: list[Job]) -> list[Any]:
        with self._lock:
            if self._is_closed:
                return []
            for job in new:
                self._todo.put(job)
            self._under_way += len(new)
        if not self._needs_threads:
            with self._here:
                return self._advance_here()
        self._start_threads()
        ended = [self._done.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                ended.append(self._done.get_nowait())
        self._under_way -= len(ended)
        for _, error in ended:
            if error is not None:
                raise error
        return [result for result, _ in ended]

    def _advance_here(self) -> list[Any]:
        """Run some in the calling thread, until it is time to hand over the results."""
        results: list[Any] = []
        began = time.perf_counter()
        seconds = 0.0
        with contextlib.suppress(queue.Empty):
            while seconds < _TURN and not self._is_closed:
                job = self._todo.get_nowait()
                if job is not None:
                    results.append(self._transport.run(job()))
                    seconds = time.perf_counter() - began
        self._under_way -= len(results)
        self._run_here += len(results)
        self._seconds_here += seconds
        self._needs_threads = self._seconds_here > max(_PATIENCE, _QUICK * self._run_here)
        return results

    def _start_threads(self) -> None:
        with self._lock:
            while not self._is_closed and len(self._threads) < min(_THREADS, self._under_way):
                self._threads.append(threading.Thread(target=self._work, daemon=True, name="precomputed_fs"))
                self._threads[-1].start()

    async def advance_async(self, new: list[Job]) -> list[Any]:
        return await asyncio.to_thread(self.advance, new)

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            try:
                self._done.put((self._transport.run(job()), None))
            except BaseException as exc:  # noqa: BLE001 - it is raised where the results are taken
                self._done.put((None, exc))

    def cancel(self) -> None:
        with self._lock:
            self._is_closed = True
            with contextlib.suppress(queue.Empty):
                while True:
                    self._todo.get_nowait()
            for _ in self._threads:
                self._todo.put(None)
            # One who waits in another thread, as an async caller that was cancelled does, wakes up.
            self._done.put((None, asyncio.CancelledError()))

    def join(self) -> None:
        with self._here:
            pass
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    async def join_async(self) -> None:
        await asyncio.to_thread(self.join)


# --------------------------------------------------------------------------------- answers


async def _read_response(response: _Response, start: int | None, end: int | None) -> Body:
    """Take the body of an HTTP answer that is just what was asked for."""
    if start is None or end is None:
        if response.status != http.HTTPStatus.OK:
            raise _status_error(response)
        return Body(await response.read(), response.headers.get("Content-Encoding", ""))
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        if response.status == http.HTTPStatus.OK:
            message = f"the server ignores Range: asked for bytes {start}-{end - 1}, it sends all"
            raise _BrokenAnswerError(message)
        raise _status_error(response)
    encoding = response.headers.get("Content-Encoding", "")
    sent = response.headers.get("Content-Range", "")  # looked at first: the body may be all there is
    if encoding not in ("", "identity") or not sent.startswith(f"bytes {start}-{end - 1}/"):
        message = f"asked for bytes {start}-{end - 1}, got Content-Range {sent!r}, Content-Encoding {encoding!r}"
        raise _BrokenAnswerError(message)
    body = _checked_range(await response.read(), start, end)
    modified = response.headers.get("Last-Modified", "")
    version = response.headers.get("ETag") or f"{modified} {sent.rpartition('/')[2]}"
    return dataclasses.replace(body, version=version)


def _checked_range(data: bytes, start: int, end: int | None) -> Body:
    if end is not None and len(data) != end - start:
        message = f"asked for bytes {start}-{end - 1}, got {len(data)} instead of {end - start} bytes"
        raise _BrokenAnswerError(message)
    return Body(data)


def _found(response: _Response) -> bool:
    """Tell presence from the status of an answer: only 404 means that there is nothing."""
    if response.status == http.HTTPStatus.NOT_FOUND:
        return False
    if response.status in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        return True
    raise _status_error(response)


def _status_error(response: _Response) -> _StatusError:
    return _StatusError(response.status, response.reason, response.headers.get("Retry-After", ""))


# ---------------------------------------------------------------------- retries and mapping


def _retrying(attempts: int) -> "stamina._core._RetryContextIterator":
    return stamina.retry_context(on=_retry_after, attempts=attempts, timeout=RETRY_SECONDS, **_WAITS)


@contextlib.contextmanager
def _giving_up() -> Iterator[None]:
    """Turn a failure that was tried again in vain into what it is."""
    began = time.monotonic()
    try:
        yield
    except _TransientError as exc:
        seconds = time.monotonic() - began
        final = exc.final(f"{exc} (gave up after trying again for {seconds:.1f} s)")
        final.__cause__ = exc.__cause__
    else:
        return
    raise final


@contextlib.contextmanager
def _closed_on_error(coroutine: Coroutine[Any, Any, Any]) -> Iterator[None]:
    """Close a coroutine that will never run, lest Python warns of it."""
    try:
        yield
    except BaseException:
        coroutine.close()
        raise


def _lost_connection(exc: Exception) -> ConnectionResetError:
    lost = ConnectionResetError(f"the connection was lost: {exc}")
    lost.__cause__ = exc
    return lost


def _retry_after(exc: Exception) -> bool | float:
    """Tell whether to try again; where the server says when, the seconds to wait."""
    if not isinstance(exc, _TransientError):
        return False
    return True if exc.wait is None else min(exc.wait, _LONGEST_WAIT)


_OWN = (_StatusError, _BrokenAnswerError)
_SHOWING_URLS = frozenset({"ClientResponseError", "InvalidURL", "RequestException"})


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which foreign failures are one of ours."""

    error: type[DataAccessError]
    transient: bool = False
    statuses: frozenset[int] = frozenset()
    types: tuple[type[Exception], ...] = ()
    names: frozenset[str] = frozenset()
    """Names of drivers' exception classes, so that no driver is imported to ask."""

    verbs: frozenset[str] = frozenset({"open", "read", "probe", "write", "create", "delete", "list"})
    """What was being done."""


_UNKNOWN = _Rule(DataAccessError)
_RULES = (
    _Rule(
        NotFoundError,
        statuses=frozenset({404}),
        types=(FileNotFoundError,),
    ),
    _Rule(
        NotFoundError,  # a folder is no object, and there are none below a file
        types=(NotADirectoryError, IsADirectoryError),
        verbs=frozenset({"read", "probe"}),
    ),
    _Rule(
        AccessDeniedError,
        statuses=frozenset({401, 403}),
        types=(PermissionError,),
        names=frozenset(
            {
                "AuthenticationException",
                "ClientAuthenticationError",
                "DefaultCredentialsError",
                "NoCredentialsError",
                "PartialCredentialsError",
                "RefreshError",
            }
        ),
    ),
    _Rule(AlreadyExistsError, types=(FileExistsError,), verbs=frozenset({"create"})),
    _Rule(
        CorruptDataError,
        statuses=frozenset({416}),
        types=(_BrokenAnswerError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    ),
    _Rule(
        CorruptDataError,
        transient=True,
        names=frozenset({"ClientPayloadError", "IncompleteRead", "IncompleteReadError"}),
    ),
    _Rule(
        DataAccessError,  # unreachable
        types=(ConnectionRefusedError, socket.gaierror),
        names=frozenset({"ClientConnectorError", "NoValidConnectionsError", "ServiceRequestError"}),
    ),
    _Rule(
        DataAccessError,
        transient=True,
        statuses=frozenset({408, 409, 425, 429, 500, 502, 503, 504}),
        types=(TimeoutError, ConnectionError, EOFError),
        names=frozenset(
            {
                "ClientOSError",
                "ConnectTimeoutError",
                "ConnectionClosedError",
                "EndpointConnectionError",
                "FSTimeoutError",
                "ReadTimeoutError",
                "SSHException",
                "ServiceResponseError",
                "ServerDisconnectedError",
                "Timeout",
            }
        ),
    ),
)


def _mapped(verb: str, exc: Exception, message: str) -> DataAccessError:
    """Make the exception of ours for a foreign one: by its status, else by its type."""
    rule = _rule_for(verb, exc)
    if rule.transient:
        return _TransientError(message, final=rule.error, wait=getattr(exc, "wait", None))
    return rule.error(message)


def _rule_for(verb: str, exc: Exception) -> _Rule:
    rules = [rule for rule in _RULES if verb in rule.verbs]
    status = None if isinstance(exc, FileExistsError) else _status_of(exc)
    if status is not None:
        return next((rule for rule in rules if status in rule.statuses), _UNKNOWN)
    if isinstance(exc, OSError) and exc.errno == errno.ENAMETOOLONG and verb in ("read", "probe"):
        return _Rule(NotFoundError)  # a name that cannot be is not there
    if str(exc) == "Invalid data stream":
        return _Rule(CorruptDataError)  # bz2 gives an OSError without a number
    names = _class_names(exc)
    matching = (rule for rule in rules if isinstance(exc, rule.types) or names & rule.names)
    return next(matching, _UNKNOWN)


def _status_of(exc: BaseException) -> int | None:
    """Find the HTTP status that an exception of any driver carries."""
    return next((status for link in _causes(exc) if (status := _own_status(link)) is not None), None)


def _own_status(exc: BaseException) -> int | None:
    if type(exc).__module__ == "aiohttp.http_exceptions":
        return None  # their code tells what a server would answer to such a request
    if str(exc).startswith("Forbidden: "):
        return http.HTTPStatus.FORBIDDEN  # gcsfs gives an OSError without a number
    response = getattr(exc, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for holder, name in ((exc, "status"), (exc, "status_code"), (response, "status_code"), (exc, "code")):
        status = getattr(holder, name, None)  # aiohttp and ours, azure, requests, gcsfs
        if isinstance(status, int):
            return int(status)
    return None


def _causes(exc: BaseException) -> list[BaseException]:
    chain = [exc]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return chain


def _class_names(exc: BaseException) -> set[str]:
    return {base.__name__ for link in _causes(exc) for base in type(link).__mro__}


def _shows_url(exc: BaseException) -> bool:
    """Whether an exception's text may hold a URL with a signature in it."""
    return bool(_class_names(exc) & _SHOWING_URLS)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


_creating = threading.Lock()
"""Held from checking a name to writing it, where a store has no exclusive write of its own."""

_turns = [threading.RLock() for _ in range(64)]
"""Held while an object and its twins are changed; which one, the object's name tells."""


def _renew_locks() -> None:
    global _creating  # noqa: PLW0603 - a lock held by another thread at the fork is held for ever
    _creating = threading.Lock()
    _turns[:] = [threading.RLock() for _ in _turns]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
