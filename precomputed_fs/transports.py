"""How one filesystem is reached: by its own verbs, and by HTTP requests of our own where it tells how.

Everything here is done in the thread that asks, in the filesystem's paths and with its exceptions. What a
filesystem does in coroutines runs on its event loop meanwhile.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import http
import mmap
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Hashable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.flights import Crew, ended_by
from precomputed_fs.format.compression import ACCEPT_ENCODING, TooLargeError, decode, too_large
from precomputed_fs.signing import Signer
from precomputed_fs.store.explanations import (
    BUSY,
    MOST_BYTES,
    NO_EXPLANATION,
    WRONG_CREDENTIALS,
    Explanation,
    explanation_in,
)
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols.base import (
    Asynchronous,
    Filesystem,
    Options,
    Synchronous,
    read_file,
    temporary_name,
)
from precomputed_fs.store.protocols.caches import SimpleCache
from precomputed_fs.store.protocols.files import Files
from precomputed_fs.store.requests import HttpRequest
from precomputed_fs.store.url import secrets_of

if TYPE_CHECKING:
    from precomputed_fs.http_client import Answer

_T = TypeVar("_T")
_Session = Any  # an aiohttp.ClientSession; aiohttp is imported when it is first used

_FOLDER_TRIES = 3
_LARGEST_PROBE = 1 << 20  # bytes of an answer that only tells whether there is an object
_UNTOLD = frozenset({400, 403, 405, 501})  # to HEAD: no body says why, or HEAD is what is refused
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FORBIDDEN = "Forbidden: "  # gcsfs gives an OSError without a number
_CONDITION = re.compile("if-(none-)?match", re.IGNORECASE)


class Body(NamedTuple):
    """What a store returned for an object."""

    data: bytes
    """The bytes as served: not decoded, unless the filesystem does so and does not tell."""

    content_encoding: str = ""
    """How the served bytes are encoded, where the answer says it."""

    version: str = ""
    """What tells one state of the object from another, where the store says it and it was asked for or is a range."""

    is_settled: bool = True
    """Of a range: whether no other state can get this version any more; False also where there is no version."""


_UNIQUE_VERSION = re.compile(r'"([0-9a-f]{32,}(-[0-9]+)?|0x[0-9a-f]{15})"', re.IGNORECASE)
"""An ETag that no other state of an object gets: a hash of the content, or Azure's."""

_YOUNG = 2.0  # seconds: some servers and file systems count in these
_LARGEST_SKEW = 86400.0  # seconds: what is dated later was not dated by a clock


class StatusError(Exception):
    """An HTTP answer that is not the one asked for."""

    def __init__(
        self, status: int, reason: str | None, retry_after: str = "", explanation: Explanation = NO_EXPLANATION
    ) -> None:
        super().__init__(": ".join(filter(None, (f"{status} {reason or ''}".strip(), *explanation))))
        self.status = status
        self.explanation = explanation
        self.wait = float(retry_after) if retry_after.isdecimal() else None


class VersionError(Exception):
    """The version of an object that was to be replaced is not there any more."""

    def __init__(self) -> None:
        super().__init__("another writer has replaced it meanwhile; nothing was written")


class WrongThreadError(RuntimeError):
    """A synchronous call from the filesystem's own event loop, which would wait for itself."""


class BrokenAnswerError(Exception):
    """An answer that is not what was asked for, or not what its own headers promise."""


class Transport(Protocol):
    """How to reach one filesystem."""

    crew: Crew

    """The threads that work for it."""

    def read(self, path: str, start: int | None, end: int | None, limit: int, *, versioned: bool) -> Body:
        """Read an object, or a range of what is stored; more than `limit` bytes are a TooLargeError.

        With its version, if that is wanted or it is a range.
        """

    def inside(self, root: str, path: str) -> str:
        """Return a path without symbolic links, which must not lead out of the root."""

    def exists(self, path: str) -> bool:
        """Tell whether there is an object."""

    def write(self, path: str, data: bytes | mmap.mmap, kind: tuple[str, str], *, create: bool, replacing: str) -> None:
        """Write an object: a new one, in the place of a version, or in that of whatever there is."""

    def delete(self, path: str, *, replacing: str = "") -> None:
        """Delete an object, or one version of it."""

    def list_names(self, prefix: str, limit: int) -> list[str]:
        """List the last parts of some names, in one request."""

    def changed_lately(self, folder: str) -> bool:
        """Tell whether names in a folder may have changed in the last second."""

    def is_alive(self) -> bool:
        """Tell whether the filesystem still has its connection."""

    def close(self) -> None:
        """Let go of connections."""


class Connection:
    """One process's filesystem for a store."""

    def __init__(self, location: Location, timeout: float) -> None:
        self.root = ""
        self.loads: dict[Hashable, concurrent.futures.Future[Any]] = {}
        self._location = location
        self._timeout = timeout
        self._lock = threading.Lock()
        self._transport: Transport | None = None

    @property
    def is_open(self) -> bool:
        """Whether the filesystem is there already."""
        return self._transport is not None

    @property
    def transport(self) -> Transport:
        """The way to the filesystem, which is made when it is first needed."""
        transport = self._transport
        if transport is None or not transport.is_alive():
            with self._lock:
                transport = self._transport
                if transport is None or not transport.is_alive():
                    transport = self._transport = self._make()
        return transport

    def _make(self) -> Transport:
        protocol = self._location.protocol
        try:
            fs, self.root = self._location.open(self._timeout)
        except (FileNotFoundError, ValueError) as exc:
            self._confirm_missing(exc)
            raise
        if isinstance(protocol, Asynchronous):
            return _AsyncTransport(fs, protocol, self._timeout)
        assert isinstance(protocol, Synchronous)  # noqa: S101
        return _SyncTransport(fs, protocol, self._behind() if protocol.keeps_copies else None)

    def _behind(self) -> "Connection | None":
        behind = self._location.behind
        return None if behind is None else Connection(behind, self._timeout)

    def _confirm_missing(self, exc: Exception) -> None:
        """Ask the store behind an archive; to fsspec's HTTP files any failure is "not found"."""
        behind = self._behind()
        if behind is not None and behind.transport.exists(behind.root):
            message = f"it is there, but could not be opened: {exc}"
            raise ConnectionError(message) from exc  # which may pass

    def close(self) -> None:
        """Let go of the filesystem, unless it is the user's."""
        with self._lock:
            if self._transport is not None and self._location.fs is None:  # who made it closes it
                self._transport.close()
            self._transport = None


class _AsyncTransport:
    """A filesystem of coroutines, read by HTTP requests of our own where it tells how.

    Such a request goes over our own connections, or over an aiohttp session where it needs what only
    that has: a proxy, redirects, or what the user has set for it.
    """

    def __init__(self, fs: Filesystem, protocol: Asynchronous, timeout: float) -> None:
        import urllib.request  # noqa: PLC0415 - only where requests are sent

        from precomputed_fs.http_client import HttpClient  # noqa: PLC0415

        self.crew = Crew(remote=protocol.is_remote)
        self._fs = fs
        self._protocol = protocol
        self._make_request = protocol.http_requests(fs)
        self._options: Options = {}
        self._timeout = timeout
        self._proxied = not urllib.request.getproxies().keys().isdisjoint({"http", "https"})
        self._client = HttpClient(timeout)
        self._sessions: Any = None  # the filesystem whose aiohttp session is ours to use
        self._has_own_session = hasattr(fs, "set_session") and hasattr(fs, "get_client")
        self._needs_session = not self._has_own_session and self._proxied
        if self._make_request is None and self._has_own_session:  # HTTP, with settings of the user's
            headers = {**(fs.client_kwargs.get("headers") or {}), **(fs.kwargs.get("headers") or {})}
            self._options = {key: value for key, value in fs.kwargs.items() if key != "headers"}
            self._make_request = lambda method, path: HttpRequest(path, headers, method)
            self._needs_session = True
        self._referred = False
        self._takes_conditions: dict[type, bool] = {}  # by the failure; False: it ignores or refuses them
        if protocol.checks_versions:
            self._takes_conditions[VersionError] = True

    def read(self, path: str, start: int | None, end: int | None, limit: int, *, versioned: bool) -> Body:
        request = self._request("GET", path)
        if request is not None:
            try:
                answer = self._ask(request, start, end, limit)
            except TooLargeError as exc:
                if start is None or end is None:
                    raise
                message = f"asked for bytes {start}-{end - 1}, got {exc}"
                raise BrokenAnswerError(message) from exc
            if not self._is_referred(answer):
                return _body_of(answer, start, end, self._protocol.version_header)
        version = self._version(path) if versioned else ""
        if start is None:
            data = self._on_loop(self._protocol.read(self._fs, path))
            if len(data) > limit:
                raise too_large(limit, len(data))
            body = Body(data)
        else:
            body = _checked_range(self._on_loop(self._protocol.read(self._fs, path, start, end)), start, end)
        return body._replace(version=version, is_settled=bool(version))

    def _version(self, path: str) -> str:
        return self._on_loop(self._protocol.version(self._fs, path))

    def inside(self, _root: str, path: str) -> str:
        return path

    def exists(self, path: str) -> bool:
        request = self._request("HEAD", path)
        if request is None:
            return self._is_file(path)
        answer = self._ask(request)
        if request.method == "HEAD" and answer.status in _UNTOLD:
            request = self._request("GET", path)
            if request is None:
                return self._is_file(path)
            answer = self._ask(request, 0, 1)
        if self._is_referred(answer):
            return self._is_file(path)
        return answer.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or _found(answer)

    def write(self, path: str, data: bytes | mmap.mmap, kind: tuple[str, str], *, create: bool, replacing: str) -> None:
        may_repeat = isinstance(data, bytes)  # a mapped file is large
        body = data if isinstance(data, bytes) else data[:]  # no driver sends a mapped file as it is

        def pipe(mode: str) -> None:
            self._on_loop(self._protocol.write(self._fs, path, body, *kind, create=mode == "create"))

        if create:
            self._create(path, pipe, may_repeat=may_repeat)
        elif replacing:
            replace = functools.partial(self._protocol.replace, self._fs, path, body, *kind, version=replacing)
            self._replace(path, lambda: self._on_loop(replace()), replacing, pipe, may_repeat=may_repeat)
        else:
            pipe("overwrite")

    def delete(self, path: str, *, replacing: str = "") -> None:
        if replacing and self._version(path) != replacing:
            raise VersionError
        self._on_loop(self._protocol.delete(self._fs, path))

    def list_names(self, prefix: str, limit: int) -> list[str]:
        return self._on_loop(self._protocol.list_names(self._fs, prefix, limit))

    def is_alive(self) -> bool:
        return True

    def close(self) -> None:
        self._client.close()
        session = getattr(self._sessions, "_session", None)  # fsspec has no public way to close it
        self._sessions = None
        if session is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the session with it
                asyncio.run_coroutine_threadsafe(session.close(), self._fs.loop)

    def changed_lately(self, folder: str) -> bool:
        return self._protocol.changed_lately(self._fs, folder)

    def _create(self, path: str, pipe: Callable[[str], None], *, may_repeat: bool) -> None:
        """Write a new object: by the store's own exclusive write, or by a check before the write."""

        def check() -> None:
            if self.exists(path):
                raise FileExistsError(path)

        self._write_if(lambda: pipe("create"), check, pipe, FileExistsError(path), may_repeat=may_repeat)

    def _replace(
        self, path: str, replace: Callable[[], None], version: str, pipe: Callable[[str], None], *, may_repeat: bool
    ) -> None:
        """Replace one version of an object: by the store's own condition, or by a check before the write."""

        def check() -> None:
            try:
                if self._version(path) == version:
                    return
            except Exception as exc:
                if not _is_gone(exc):
                    raise
            raise VersionError

        self._write_if(replace, check, pipe, VersionError(), may_repeat=may_repeat)

    def _write_if(
        self,
        write: Callable[[], None],
        check: Callable[[], None],
        pipe: Callable[[str], None],
        failure: Exception,
        *,
        may_repeat: bool,
    ) -> None:
        """Write on a condition, which the store looks at, or where it does not a check before the write.

        Some stores refuse conditions, and some ignore them: what was just written is written once more, on the
        condition that does not hold any more.
        """
        kind = type(failure)
        trusted = self._takes_conditions.get(kind)
        if not trusted:
            check()
        if trusted is False or not self._conditional(write, failure):
            self._takes_conditions[kind] = False
            pipe("overwrite")
        elif trusted is None and may_repeat:
            with contextlib.suppress(Exception):  # the write itself is done; the next one will tell
                self._takes_conditions[kind] = not self._is_ignored(write, failure)

    def _conditional(self, write: Callable[[], None], failure: Exception) -> bool:
        """Write on a condition; return False, with nothing written, if the store does not take conditions."""
        try:
            write()
        except Exception as exc:
            if _is_unmet(exc) or (isinstance(failure, VersionError) and _is_gone(exc)):
                raise failure from exc
            if not _refuses_conditions(exc):
                raise
            return False
        return True

    def _is_ignored(self, write: Callable[[], None], failure: Exception) -> bool:
        try:
            return self._conditional(write, failure)
        except type(failure):
            return False

    def _is_file(self, path: str) -> bool:
        try:
            info = self._on_loop(self._protocol.info(self._fs, path))
        except FileNotFoundError:
            return False
        except Exception as exc:
            if status_of(exc) not in _UNTOLD or any(explanation_of(exc)):
                raise
        else:
            return bool(info["type"] == "file")
        self._on_loop(self._protocol.read(self._fs, path, 0, 1))
        return True

    def _on_loop(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of the filesystem's on its event loop, and wait for what it returns."""
        try:
            self._check_thread()
        except WrongThreadError:
            coroutine.close()
            raise
        loop = self._fs.loop
        if _threadless is not None:
            loop.set_default_executor(_threadless)
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            with ended_by(future.cancel):
                return future.result()
        except BaseException:  # of the coroutine, a KeyboardInterrupt, or a flight that was cancelled just before
            future.cancel()
            raise

    def _check_thread(self) -> None:
        running = asyncio._get_running_loop()  # noqa: SLF001 - the public one raises, which takes longer than all of this
        if running is not None and running is self._fs.loop:  # asked for at each call: it is another one after a fork
            message = "called from the filesystem's own event loop: await the _async method instead"
            raise WrongThreadError(message)

    # ----------------------------------------------------------------------- our own requests

    def _request(self, method: str, path: str) -> HttpRequest | None:
        if self._referred or self._make_request is None:
            return None
        made = self._make_request(method, path)
        request = made if made is None or isinstance(made, HttpRequest) else self._on_loop(made)
        return request if request is None or request.signer is None else _signed(request)

    def _ask(
        self, request: HttpRequest, start: int | None = None, end: int | None = None, limit: int = _LARGEST_PROBE
    ) -> "Answer":
        wanted = http.HTTPStatus.OK if start is None else http.HTTPStatus.PARTIAL_CONTENT
        answer = self._send(request, (start, end), wanted, limit)
        return answer if answer.status == wanted else _safe_to_tell(answer, request)

    def _send(self, request: HttpRequest, span: tuple[int | None, int | None], wanted: int, limit: int) -> "Answer":
        start, end = span
        headers = {"Accept-Encoding": ACCEPT_ENCODING, **request.headers}
        self._check_thread()
        if start is not None and end is not None:
            headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
        if not self._needs_session:
            answer = self._client.ask(request.method, request.url, headers, wanted, limit)
            if answer.status not in _REDIRECTS or self._protocol.referred_statuses:
                return answer
            self._needs_session = True  # from now on: it would be asked twice for every object
        return self._on_loop(self._ask_in_session(request, headers, wanted, limit))

    async def _ask_in_session(self, request: HttpRequest, headers: Options, wanted: int, limit: int) -> "Answer":
        import aiohttp  # noqa: PLC0415 - only where it is used
        import yarl  # noqa: PLC0415

        from precomputed_fs.http_client import Answer  # noqa: PLC0415

        limits = aiohttp.ClientTimeout(sock_connect=self._timeout, sock_read=self._timeout)
        session = await self._session()
        asked = session.request(
            request.method,
            yarl.URL(request.url, encoded=True),
            headers=headers,
            auto_decompress=False,
            allow_redirects=not self._protocol.referred_statuses,
            **{"timeout": limits, **self._options},
        )
        async with asked as response:
            lowered = {name.lower(): value for name, value in response.headers.items()}
            body = await (_whole(response, limit) if response.status == wanted else _beginning(response))
            return Answer(response.status, response.reason or "", lowered, body)

    async def _session(self) -> _Session:
        """Return an aiohttp session, which fsspec makes on its loop and closes in the end."""
        if self._sessions is None:
            if self._has_own_session:
                self._sessions = self._fs
            else:
                import fsspec  # noqa: PLC0415

                self._sessions = fsspec.filesystem(
                    "http",
                    client_kwargs={"trust_env": self._proxied},
                    loop=self._fs.loop,
                    skip_instance_cache=True,
                )
        return await self._sessions.set_session()

    def _is_referred(self, answer: "Answer") -> bool:
        """Whether only the filesystem knows where to ask; it is asked from then on."""
        if answer.status not in self._protocol.referred_statuses or _is_settled(_explained(answer).code):
            return False
        self._referred = True
        return True


class _SyncTransport:
    """A filesystem used through fsspec's synchronous API."""

    def __init__(self, fs: Filesystem, protocol: Synchronous, behind: "Connection | None") -> None:
        self.crew = Crew(remote=protocol.is_remote)
        self._fs = fs
        self._protocol = protocol
        self._turn = threading.RLock() if protocol.one_at_a_time else contextlib.nullcontext()
        self._behind = behind

    def read(self, path: str, start: int | None, end: int | None, limit: int, *, versioned: bool) -> Body:
        if self._behind is not None and isinstance(self._protocol, SimpleCache):
            return self._read_through(self._behind.transport, self._protocol, path, (start, end), limit)
        with self._turn:
            if start is not None:
                before, size, modified = self._protocol.state(self._fs, path)
                if end is not None and size is not None and end > size:
                    message = f"asked for bytes {start}-{end - 1} of {size}"
                    raise BrokenAnswerError(message)
                body = _checked_range(self._protocol.read_range(self._fs, path, start, end), start, end)
                # Replaced meanwhile: of no version that an index could be of
                version = before if before == self._protocol.state(self._fs, path).version else f"{before} and later"
                is_settled = modified is None or not _is_young(modified, time.time())
                return body._replace(version=version, is_settled=is_settled)
            version = self._protocol.state(self._fs, path).version if versioned else ""
            return Body(self._protocol.read(self._fs, path, limit), version=version)

    def inside(self, root: str, path: str) -> str:
        if not self._protocol.follows_links:
            return path
        with self._turn:
            real, real_root = (self._protocol.real_path(self._fs, one) for one in (path, root))
        if not PurePath(real).is_relative_to(real_root):
            message = "a symbolic link leads out of the pyramid; serve(..., follow_links=True) follows it"
            raise PermissionError(message)
        return real

    def _read_through(
        self, behind: Transport, copies: SimpleCache, path: str, span: tuple[int | None, int | None], limit: int
    ) -> Body:
        """Read from a cache's copy, or with our own checks what it is in front of, and keep a copy.

        fsspec's caches keep a truncated download for good, let a thread read what another is still
        downloading, and call any failure "not found". Ranges are passed on and not kept.
        """
        start, end = span
        with self._turn:
            copy = copies.find_copy(self._fs, path)
            if copy is not None:
                with open(copy, "rb") as file:  # noqa: PTH123 - fsspec's name for it
                    file.seek(start or 0)
                    data = read_file(file, limit) if start is None or end is None else file.read(end - start)
                return Body(data) if start is None else _checked_range(data, start, end)
        body = behind.read(path, start, end, limit, versioned=False)
        if start is None:
            body = Body(decode(body.data, content_encoding=body.content_encoding, limit=limit, sniff=False))
            with self._turn:
                copies.keep_copy(self._fs, path, body.data)
        return body

    def _check_version(self, path: str, replacing: str) -> None:
        try:
            if not replacing or self._protocol.state(self._fs, path).version == replacing:
                return
        except FileNotFoundError:
            pass
        raise VersionError

    def exists(self, path: str) -> bool:
        if self._behind is not None:
            return self._behind.transport.exists(path)
        try:
            with self._turn:
                return bool(self._fs.info(path)["type"] != "directory")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def write(
        self,
        path: str,
        data: bytes | mmap.mmap,
        kind: tuple[str, str],  # noqa: ARG002
        *,
        create: bool,
        replacing: str,
    ) -> None:
        if isinstance(self._protocol, Files):
            self._write_sibling(path, data, self._protocol, create=create, replacing=replacing)
            return
        with self._turn, _creating if create or replacing else contextlib.nullcontext():
            if create and self.exists(path):
                raise FileExistsError(path)
            self._check_version(path, replacing)
            self._fs.pipe_file(path, data if isinstance(data, bytes) else data[:])

    def delete(self, path: str, *, replacing: str = "") -> None:
        with self._turn, self._locked(path):
            self._check_version(path, replacing)
            self._fs.rm_file(path)

    def _locked(self, path: str) -> contextlib.AbstractContextManager[Any]:
        """Keep others from replacing an object between a check of it and what follows from that."""
        return self._protocol.lock(self._fs, path)

    def changed_lately(self, folder: str) -> bool:
        with self._turn:
            return self._protocol.changed_lately(self._fs, folder)

    def list_names(self, prefix: str, limit: int) -> list[str]:
        with self._turn:
            return self._protocol.list_names(self._fs, prefix, limit)

    def is_alive(self) -> bool:
        return self._protocol.is_alive(self._fs)

    def close(self) -> None:
        with self._turn:
            self._protocol.close(self._fs)
        if self._behind is not None:
            self._behind.close()

    def _write_sibling(self, path: str, data: bytes | mmap.mmap, files: Files, *, create: bool, replacing: str) -> None:
        """Write a temporary file beside the object and put it in place in one step."""
        parent = path.rpartition("/")[0]
        temporary = temporary_name(parent)
        with self._turn:
            files.sweep(self._fs, parent)
            try:
                self._fill(temporary, data)
            except FileNotFoundError:
                self._fill_in_new_folder(parent, temporary, data)
            try:
                with _creating if create else self._locked(path):
                    self._check_version(path, replacing)
                    files.publish(self._fs, temporary, path, create)
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


# --------------------------------------------------------------------------------- answers


def _body_of(answer: "Answer", start: int | None, end: int | None, version_header: str) -> Body:
    """Take the body of an HTTP answer that is just what was asked for."""
    encoding = answer.headers.get("content-encoding", "")
    version = answer.headers.get(version_header, "")
    if start is None or end is None:
        if answer.status != http.HTTPStatus.OK:
            raise _status_error(answer)
        return Body(answer.body, encoding, version)
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        if answer.status == http.HTTPStatus.OK:
            message = f"the server ignores Range: asked for bytes {start}-{end - 1}, it sends all"
            raise BrokenAnswerError(message)
        raise _status_error(answer)
    sent = answer.headers.get("content-range", "")
    if encoding not in ("", "identity") or not sent.startswith(f"bytes {start}-{end - 1}/"):
        message = f"asked for bytes {start}-{end - 1}, got Content-Range {sent!r}, Content-Encoding {encoding!r}"
        raise BrokenAnswerError(message)
    body = _checked_range(answer.body, start, end)
    is_settled = version_header != "etag" or _is_for_good(answer, version)
    version = version or f"{answer.headers.get('last-modified', '')} {sent.rpartition('/')[2]}"
    return body._replace(version=version, is_settled=is_settled)


def _is_for_good(answer: "Answer", version: str) -> bool:
    """Tell whether no other state of an object can get an answer's version any more.

    Many servers make it of the time of the last change, in seconds, and of the size.
    """
    headers = answer.headers
    if "x-goog-generation" in headers or _UNIQUE_VERSION.fullmatch(version):
        return True
    modified, now = (_seconds(headers.get(name, "")) for name in ("last-modified", "date"))
    return modified is None or not _is_young(modified, time.time() if now is None else now)


def _is_young(modified: float, now: float) -> bool:
    return -_LARGEST_SKEW < now - modified < _YOUNG


@functools.lru_cache
def _seconds(date: str) -> float | None:
    """Read the date of a header, as seconds since 1970."""
    import email.utils  # noqa: PLC0415 - only where it is used

    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _checked_range(data: bytes, start: int, end: int | None) -> Body:
    if end is not None and len(data) != end - start:
        message = f"asked for bytes {start}-{end - 1}, got {len(data)} instead of {end - start} bytes"
        raise BrokenAnswerError(message)
    return Body(data)


def _found(answer: "Answer") -> bool:
    """Tell presence from the status of an answer: only 404 means that there is nothing."""
    if answer.status == http.HTTPStatus.NOT_FOUND:
        return False
    if answer.status in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        return True
    raise _status_error(answer)


def _status_error(answer: "Answer") -> StatusError:
    return StatusError(answer.status, answer.reason, answer.headers.get("retry-after", ""), _explained(answer))


def _explained(answer: "Answer") -> Explanation:
    return explanation_in(answer.headers, answer.body)


def _signed(request: HttpRequest) -> HttpRequest:
    if request.signer is None:
        return request
    region, key, secret = request.signer
    host, slash, path = request.url.partition("://")[2].partition("/")
    signer = Signer(key, region, "s3", secret, request.headers.get("x-amz-security-token", ""))
    return request._replace(headers=signer.headers(request.method, host, slash + path), signer=None)


def _is_settled(code: str) -> bool:
    """Whether a store that answers with a code would say the same if the filesystem asked it."""
    return code in WRONG_CREDENTIALS | BUSY or code.startswith("KMS.")


def _safe_to_tell(answer: "Answer", request: HttpRequest) -> "Answer":
    """Decode what explains a failure, without the signatures and tokens of the request, which servers may repeat."""
    body = answer.body
    if body:
        encoding = answer.headers.get("content-encoding", "")
        try:
            body = decode(body, content_encoding=encoding, sniff=False, limit=MOST_BYTES)
        except CorruptDataError:
            body = b""
        for secret in secrets_of(request):
            body = body.replace(secret.encode(), b"***")
    return answer._replace(body=body)


async def _whole(response: Any, limit: int) -> bytes:  # noqa: ANN401 - an aiohttp.ClientResponse
    """Read a body, of at most so many bytes."""
    parts: list[bytes] = []
    left = limit
    async for part in response.content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise too_large(limit)
    return b"".join(parts)


async def _beginning(response: Any) -> bytes:  # noqa: ANN401 - an aiohttp.ClientResponse
    """Read of the body of a failure what comes at once, and no more than may explain it."""
    import aiohttp  # noqa: PLC0415 - only where it is used

    try:
        return bytes(await response.content.read(MOST_BYTES))
    except (aiohttp.ClientError, TimeoutError):  # the status is what counts
        return b""


def _is_unmet(exc: Exception) -> bool:
    """Tell whether a store has looked at a write's condition, and refused the write."""
    return isinstance(exc, FileExistsError) or status_of(exc) == http.HTTPStatus.PRECONDITION_FAILED


def _is_gone(exc: Exception) -> bool:
    return isinstance(exc, FileNotFoundError) or status_of(exc) == http.HTTPStatus.NOT_FOUND


def _refuses_conditions(exc: Exception) -> bool:
    """Tell whether a store does not know conditional writes: 501, or a 400 that names the header."""
    status = status_of(exc)
    if status != http.HTTPStatus.BAD_REQUEST:
        return status == http.HTTPStatus.NOT_IMPLEMENTED
    return any(_CONDITION.search(f"{link} {getattr(link, 'response', '')}") for link in causes(exc))


def status_of(exc: BaseException) -> int | None:
    """Find the HTTP status that an exception of any driver carries."""
    return next((status for link in causes(exc) if (status := _own_status(link)) is not None), None)


def _own_status(exc: BaseException) -> int | None:
    if type(exc).__module__ == "aiohttp.http_exceptions":
        return None  # their code tells what a server would answer to such a request
    if str(exc).startswith(_FORBIDDEN):
        return http.HTTPStatus.FORBIDDEN
    response = getattr(exc, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for holder, name in ((exc, "status"), (exc, "status_code"), (response, "status_code"), (exc, "code")):
        status = getattr(holder, name, None)  # aiohttp and ours, azure, requests, gcsfs
        if isinstance(status, int):
            return int(status)
    return None


def explanation_of(exc: BaseException) -> Explanation:
    """Find what a store said, in an exception of any driver."""
    return next((said for link in causes(exc) if any(said := _own_explanation(link))), NO_EXPLANATION)


def _own_explanation(exc: BaseException) -> Explanation:
    if isinstance(exc, StatusError):
        return exc.explanation
    response = getattr(exc, "response", None)
    if isinstance(response, dict):  # botocore
        code, message = (response.get("Error", {}).get(name) for name in ("Code", "Message"))
        return NO_EXPLANATION if str(code).isdecimal() else Explanation.of(code, message)  # of HEAD, it is the status
    if hasattr(exc, "error_code"):  # azure
        code = getattr(exc.error_code, "value", exc.error_code)
        return Explanation.of(code, getattr(exc, "message", ""))
    if type(exc).__name__ == "HttpError":  # gcsfs
        return Explanation.of("", str(exc).removesuffix(f", {getattr(exc, 'code', None)}"))
    if str(exc).startswith(_FORBIDDEN):
        return Explanation.of("", str(exc).partition("\n")[2])
    return NO_EXPLANATION


def causes(exc: BaseException) -> list[BaseException]:
    """List an exception and those that led to it."""
    chain = [exc]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return chain


class _Threadless(concurrent.futures.ThreadPoolExecutor):
    """Does at once, in the thread that asks, what an event loop has threads do: above all, look up hosts' names."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[_T]":  # noqa: ANN401
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(exc)
        return future


_threadless: _Threadless | None = None
"""At the end of the process, what takes the place of pools of threads, which are gone before."""


def expect_no_threads() -> None:
    """Go on without pools of threads, as the process ends."""
    global _threadless  # noqa: PLW0603 - the process ends
    _threadless = _Threadless()


_creating = threading.Lock()
"""Held from checking a name to writing it, where a store has no exclusive write of its own."""


def _renew_lock() -> None:
    global _creating  # noqa: PLW0603 - one held by another thread at the fork is held for ever
    _creating = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
