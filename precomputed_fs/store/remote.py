"""How a remote filesystem answers requests: by HTTP exchanges, with redirects, else by fsspec's coroutines.

Each kind of `Request` is a generator that yields what a driver does for it (an `Exchange`, or a coroutine for the
event loop of the filesystem) and is sent what came of it, exceptions of the driver as they are.
"""

import contextlib
import functools
import threading
import urllib.parse
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NamedTuple, TypeVar

from precomputed_fs.format.compression import decode, too_large
from precomputed_fs.store.answers import Answer, checked_range, has_pieces, is_found, range_body, whole_body
from precomputed_fs.store.explanations import BUSY, MOST_BYTES, WRONG_CREDENTIALS
from precomputed_fs.store.failures import (
    RangeIgnoredError,
    TransferError,
    VersionError,
    explanation_of,
    is_gone,
    is_unmet,
    refuses_conditions,
    status_of,
)
from precomputed_fs.store.protocols.base import Ask, Asynchronous, Filesystem, read_file
from precomputed_fs.store.protocols.caches import SimpleCache
from precomputed_fs.store.redaction import secrets_of
from precomputed_fs.store.requests import (
    Body,
    ChangedLately,
    Delete,
    Exchange,
    Exists,
    Get,
    HttpRequest,
    List,
    Page,
    Put,
    Walk,
)
from precomputed_fs.store.url import join, listed_prefix
from precomputed_fs.store.walking import within

_T = TypeVar("_T")

Steps = Generator[Any, Any, _T]
"""Yields exchanges and coroutines, and is sent what came of them."""

_UNTOLD = frozenset({400, 403, 405, 501})  # to HEAD: no body says why, or HEAD is what is refused
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))  # what of a Location goes into the next request as it is
_NO_PIECES = frozenset({200, 206, 416})  # what may be answered to a range
_OK, _PARTIAL = 200, 206  # quicker than the members of an enum


class Remote:
    """One filesystem of coroutines.

    Parameters
    ----------
    protocol : Asynchronous
    root : str
        The pyramid's path in the filesystem.
    ask : callable, optional
        Makes the HTTP requests by which we read.
    make : callable
        Makes the filesystem, when it is first needed.
    """

    def __init__(self, protocol: Asynchronous, root: str, ask: Ask | None, make: Callable[[], Filesystem]) -> None:
        self._protocol = protocol
        self._root = root
        self._ask = ask
        self._make = make
        self._takes_conditions: dict[type, bool] = {}  # by the failure; False: it ignores or refuses them
        if protocol.checks_versions:
            self._takes_conditions[VersionError] = True
        self._verbs: dict[type, Callable[[Any], Steps[Any]]] = {
            Exists: self._exists,
            Put: self._put,
            Delete: self._delete,
            List: self._list,
            Walk: self._walk,
            ChangedLately: self._changed_lately,
        }

    @functools.cached_property
    def fs(self) -> Filesystem:
        """The filesystem."""
        return self._make()

    def answer(self, request: Any) -> Steps[Any]:  # noqa: ANN401
        """Answer a request by steps."""
        begun = self.begin(request)
        if not isinstance(begun, Exchange):
            return (yield from begun)
        ended = self.end(request, begun, (yield begun))
        return ended if isinstance(ended, Body) else (yield from ended)

    def begin(self, request: Any) -> Exchange | Steps[Any]:  # noqa: ANN401
        """Begin to answer a request: by one exchange, of whose answer `end` makes the request's, or by steps."""
        if type(request) is not Get:
            return self._verbs[type(request)](request)
        path = join(self._root, request.name)
        http_request = None
        if self._ask is not None and (request.start is None or request.start != request.end):
            http_request = self._ask("GET", path)
            if type(http_request) is HttpRequest:
                return Exchange(http_request, request.start, request.end, request.most)
        return self._get(request, path, http_request)

    # ------------------------------------------------------------------------------- reading

    def _get(self, request: Get, path: str, asking: Any) -> Steps[Body]:  # noqa: ANN401
        start, end = request.start, request.end
        if start is not None and start == end:
            return Body([])
        http_request: HttpRequest | None = None if asking is None else (yield asking)
        if http_request is None:
            return (yield from self._get_by_coroutine(path, request))
        exchange = Exchange(http_request, start, end, request.most)
        ended = self.end(request, exchange, (yield exchange))
        return ended if isinstance(ended, Body) else (yield from ended)

    def end(self, request: Get, exchange: Exchange, answer: Answer) -> Body | Steps[Body]:
        """Make of an exchange's answer that of the request; or the steps that this still takes."""
        if answer.status in _REDIRECTS or answer.status in self._protocol.referred_statuses:
            return self._get_elsewhere(request, exchange, answer)
        if request.pieces and answer.status in _NO_PIECES and not has_pieces(answer, request):
            whole: Steps[Body] = self.answer(request.whole)
            return whole
        return self._body(request, exchange, answer)

    def _body(self, request: Get, exchange: Exchange, answer: Answer) -> Body:
        status, start, end = answer.status, request.start, request.end
        if start is None or end is None:
            if status == _OK:
                return whole_body(answer, self._protocol.version_header, versioned=request.versioned)
        elif status == _PARTIAL and request.pieces:
            data = checked_range(Body(answer.parts), start, end).data
            return Body([data[first - start : last - start] for first, last in request.pieces], is_pieces=True)
        elif status == _PARTIAL:
            return range_body(answer, start, end, self._protocol.version_header)
        elif status == _OK:
            raise RangeIgnoredError(f"the server ignores Range: asked for bytes {start}-{end - 1}, it sends all")
        raise answer.error(secrets_of(exchange.http))

    def _get_elsewhere(self, request: Get, exchange: Exchange, answer: Answer) -> Steps[Body]:
        answer = yield from self._followed(exchange, answer)
        if self._is_referred(answer):
            return (yield from self._get_by_coroutine(join(self._root, request.name), request))
        if request.pieces and answer.status in _NO_PIECES and not has_pieces(answer, request):
            whole: Body = yield from self.answer(request.whole)
            return whole
        return self._body(request, exchange, answer)

    def _get_by_coroutine(self, path: str, request: Get) -> Steps[Body]:
        if request.pieces:  # of which size the object is, the filesystem does not tell
            request = request.whole
        start, end = request.start, request.end
        version = (yield self._protocol.version(self.fs, path)) if request.versioned else ""
        data = yield self._protocol.read(self.fs, path, start, end)
        if len(data) > request.most:
            raise too_large(request.most, len(data))
        body = Body([data], version=version, is_settled=bool(version))
        return body if start is None else checked_range(body, start, end)

    def _exists(self, request: Exists) -> Steps[bool]:
        path = join(self._root, request.name)
        http_request = yield from self._http("HEAD", path)
        if http_request is None:
            return (yield from self._is_file(path))
        answer = yield from self._exchanged(Exchange(http_request, None, None, MOST_BYTES))
        if http_request.method == "HEAD" and answer.status in _UNTOLD:
            http_request = (yield from self._http("GET", path)) or http_request
            answer = yield from self._exchanged(Exchange(http_request, 0, 1, MOST_BYTES))
        if self._is_referred(answer):
            return (yield from self._is_file(path))
        return is_found(answer, secrets_of(http_request))

    def _is_file(self, path: str) -> Steps[bool]:
        try:
            info = yield self._protocol.info(self.fs, path)
        except FileNotFoundError:
            return False
        except Exception as exc:
            if status_of(exc) not in _UNTOLD or any(explanation_of(exc)):
                raise
        else:
            return bool(info["type"] == "file")
        yield self._protocol.read(self.fs, path, 0, 1)
        return True

    def _http(self, method: str, path: str) -> Steps[HttpRequest | None]:
        """Learn how to ask over HTTP; None: the filesystem's coroutines do it."""
        if self._ask is None:
            return None
        request = self._ask(method, path)
        if request is None or isinstance(request, HttpRequest):
            return request
        asked: HttpRequest | None = yield request
        return asked

    def _exchanged(self, exchange: Exchange) -> Steps[Answer]:
        return (yield from self._followed(exchange, (yield exchange)))

    def _followed(self, exchange: Exchange, answer: Answer) -> Steps[Answer]:
        """Follow redirects, unless only the filesystem knows how to."""
        count = 0
        while answer.status in _REDIRECTS and not self._protocol.referred_statuses:
            count += 1
            if count == _MOST_REDIRECTS:
                raise TransferError(f"more than {_MOST_REDIRECTS} redirects")
            exchange = exchange._replace(http=redirected(exchange.http, answer))
            answer = yield exchange
        return answer

    def _is_referred(self, answer: Answer) -> bool:
        """Whether only the filesystem knows where to ask; it is asked from then on."""
        if answer.status not in self._protocol.referred_statuses or _would_repeat(answer.error(()).explanation.code):
            return False
        self._ask = None
        return True

    # ------------------------------------------------------------------------------- writing

    def _put(self, request: Put) -> Steps[None]:
        path = join(self._root, request.name)
        may_repeat = isinstance(request.data, bytes)  # a mapped file is large
        data = request.data if isinstance(request.data, bytes) else request.data[:]  # no driver sends a mapped file
        content = (self.fs, path, data, request.content_type, request.content_encoding)

        def write(*, create: bool) -> Coroutine[Any, Any, Any]:
            return self._protocol.write(*content, create=create)

        def replace() -> Coroutine[Any, Any, Any]:
            return self._protocol.replace(*content, version=request.replacing)

        if request.create:
            condition = _Condition(FileExistsError(path), functools.partial(write, create=True))
            yield from self._put_if(condition, self._check_absent(request.name, path), write, may_repeat=may_repeat)
        elif request.replacing:
            condition = _Condition(VersionError(), replace)
            check = self._check_version(path, request.replacing)
            yield from self._put_if(condition, check, write, may_repeat=may_repeat)
        else:
            yield write(create=False)

    def _put_if(
        self,
        condition: "_Condition",
        check: Steps[None],
        write: Callable[..., Coroutine[Any, Any, Any]],
        *,
        may_repeat: bool,
    ) -> Steps[None]:
        """Write on a condition, which the store looks at, or where it does not a check before the write.

        Some stores refuse conditions, and some ignore them: what was just written is written once more, on the
        condition that does not hold any more.
        """
        kind = type(condition.failure)
        trusted = self._takes_conditions.get(kind)
        if not trusted:
            yield from check
        if trusted is False or not (yield from condition.put()):
            self._takes_conditions[kind] = False
            if trusted:  # until now
                yield from check
            yield write(create=False)
        elif trusted is None and may_repeat:
            with contextlib.suppress(Exception):  # the write itself is done; the next one will tell
                self._takes_conditions[kind] = yield from condition.is_looked_at()

    def _check_absent(self, name: str, path: str) -> Steps[None]:
        if (yield from self._exists(Exists(name))):
            raise FileExistsError(path)

    def _check_version(self, path: str, version: str) -> Steps[None]:
        try:
            if (yield self._protocol.version(self.fs, path)) == version:
                return
        except Exception as exc:
            if not is_gone(exc):
                raise
        raise VersionError

    def _delete(self, request: Delete) -> Steps[None]:
        path = join(self._root, request.name)
        if request.replacing:
            yield from self._check_version(path, request.replacing)
        try:
            yield self._protocol.delete(self.fs, path)
        except Exception as exc:
            if not is_gone(exc):
                raise

    def _list(self, request: List) -> Steps[list[str]]:
        names: list[str] = yield self._protocol.list_names(
            self.fs, listed_prefix(self._root, request.prefix), request.limit
        )
        return names

    def _walk(self, request: Walk) -> Steps[Page | None]:
        page = yield self._protocol.walk(self.fs, f"{join(self._root, request.folder)}/", request.more)
        if page is None:
            return None
        return Page([within(request.folder, listed) for listed in page.objects], page.more)

    def _changed_lately(self, request: ChangedLately) -> Steps[bool]:
        yield from ()
        return self._protocol.changed_lately(self.fs, join(self._root, request.folder))


class _Condition(NamedTuple):
    """A write that a store does only if a condition holds."""

    failure: Exception
    """What it is if the condition does not hold."""

    write: Callable[[], Coroutine[Any, Any, Any]]

    def put(self) -> Steps[bool]:
        """Write; return False, with nothing written, if the store does not take conditions."""
        try:
            yield self.write()
        except Exception as exc:
            if is_unmet(exc) or (isinstance(self.failure, VersionError) and is_gone(exc)):
                raise self.failure from exc
            if not refuses_conditions(exc):
                raise
            return False
        return True

    def is_looked_at(self) -> Steps[bool]:
        """Tell whether the store refuses a write whose condition does not hold, for that reason."""
        try:
            yield from self.put()
        except type(self.failure):
            return True
        return False


class Cached:
    """A cache of whole objects on disk, in front of a filesystem that is read by ourselves.

    fsspec's caches keep a truncated download for good, let a thread read what another is still downloading, and call
    any failure "not found". Ranges are passed on and not kept.
    """

    def __init__(self, fs: Filesystem, protocol: SimpleCache, root: str, behind: Remote) -> None:
        self._fs = fs
        self._protocol = protocol
        self._root = root
        self._behind = behind
        self._turn = threading.Lock()

    @property
    def fs(self) -> Filesystem:
        """What the coroutines are of."""
        return self._behind.fs

    def begin(self, request: Any) -> Exchange | Steps[Any]:  # noqa: ANN401
        """Begin to answer a request: see `Remote`."""
        return self._get(request) if isinstance(request, Get) else self._behind.begin(request)

    def end(self, request: Any, exchange: Exchange, answer: Answer) -> Body | Steps[Any]:  # noqa: ANN401
        """Make of an exchange's answer that of the request: see `Remote`."""
        return self._behind.end(request, exchange, answer)

    def _get(self, request: Get) -> Steps[Body]:
        if request.pieces:  # the whole object is worth keeping
            request = request.whole
        path, start, end = join(self._root, request.name), request.start, request.end
        with self._turn:
            copy = self._protocol.find_copy(self._fs, path)
        if copy is not None:
            with open(copy, "rb") as file:  # noqa: PTH123 - fsspec's name for it
                file.seek(start or 0)
                data = read_file(file, request.limit) if start is None or end is None else file.read(end - start)
            return Body([data]) if start is None else checked_range(Body([data]), start, end)
        body: Body = yield from self._behind.answer(request)
        if start is not None:
            return body
        data = decode(body.data, content_encoding=body.content_encoding, limit=request.limit, sniff=False)
        with self._turn:
            self._protocol.keep_copy(self._fs, path, data)
        return Body([data])


# ------------------------------------------------------------------------------------ redirects


def redirected(request: HttpRequest, answer: Answer) -> HttpRequest:
    """Return the request to where an answer redirects.

    To another host, or from https to http, goes nothing that the user has given: no header, credential or query.
    """
    target = urllib.parse.quote(answer.headers.get("location", "").encode("latin-1"), safe=_PRINTABLE)
    url = urllib.parse.urljoin(request.url, target)
    before, after = urllib.parse.urlsplit(request.url), urllib.parse.urlsplit(url)
    if after.scheme not in ("http", "https") or not after.hostname:
        raise TransferError(f"{answer.status}, which redirects to {target.partition('?')[0]!r}")
    if _origin(before) == _origin(after) or _is_secured(before, after):
        if "@" in before.netloc and "@" not in after.netloc:
            user = before.netloc.rpartition("@")[0]
            url = urllib.parse.urlunsplit(after._replace(netloc=f"{user}@{after.netloc}"))
        return request._replace(url=url)
    if before.query and after.query == before.query:
        url = urllib.parse.urlunsplit(after._replace(query=""))
    return HttpRequest(url, method=request.method)


def _origin(parts: urllib.parse.SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_secured(before: urllib.parse.SplitResult, after: urllib.parse.SplitResult) -> bool:
    """Whether a server redirects to its own address with TLS."""
    return before.hostname == after.hostname and (_origin(before)[2], _origin(after)[2]) == (80, 443)


def _would_repeat(code: str) -> bool:
    """Whether a store that answers with a code would say the same if the filesystem asked it."""
    return code in WRONG_CREDENTIALS | BUSY or code.startswith("KMS.")
