"""How libcurl is told what to send, over which connections, and what its failures mean."""

import contextlib
import ctypes
import functools
import itertools
import os
import re
import socket
import sys
import weakref
from collections.abc import Hashable
from typing import Any

import pycurl

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from precomputed_fs.format.compression import ACCEPT_ENCODING, too_large
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.certificates import Trust, how_to_mend
from precomputed_fs.store.failures import CertificateError, TransferError, TruncatedError
from precomputed_fs.store.requests import Exchange
from precomputed_fs.store.window import FEWEST, MOST

_LARGEST_ERROR = 1 << 16  # bytes of a body that says why
_FD_SETSIZE = 1024  # descriptors that `select` knows
_NOTHING = bytes(4)  # of an int, in which the kernel says how much was received and not read
_PROXY = re.compile("_proxy$", re.IGNORECASE)  # names of variables that may say so
_SUPPRESS_CONNECT_HEADERS = 265  # pycurl has no name for it

Settings = tuple[tuple[int, Any], ...]
"""Options of libcurl, each with its value; None: none."""


def settings_of(timeout: float, trust: Trust) -> Settings:
    """Return the options of libcurl for all requests of one filesystem.

    HTTP/1.1, as many connections are quicker than the streams of one: large chunks by a quarter, small ones by a tenth.
    """
    return (
        (pycurl.NOSIGNAL, 1),
        (pycurl.BUFFERSIZE, 1 << 19),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.HTTP_CONTENT_DECODING, 0),  # bodies stay as they are sent
        (_SUPPRESS_CONNECT_HEADERS, 1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.CONNECTTIMEOUT_MS, max(1, int(min(timeout, 1e6) * 1000))),
        (pycurl.USERAGENT, "precomputed_fs"),
        (pycurl.PROXY, ""),
        *_trusting(trust),
    )


def proxy_variables() -> tuple[tuple[str, str], ...]:
    """Return the environment's variables that may say that there is a proxy."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if _PROXY.search(name)))


SYSTEM_HAS_PROXIES = sys.platform in ("darwin", "win32")
"""Whether something else than a variable may say so."""


_in_use: "weakref.WeakSet[Connections]" = weakref.WeakSet()
"""Of this process: they share how many connections are kept."""

_kept: "dict[Hashable, list[Connections]]" = {}
"""Multi handles with warm connections, by their server and options: those of one volume serve the next one."""


def _leave_parent() -> None:
    """In a forked child, leave connections to the parent: to free them would end TLS on its sockets."""
    for connections in (*itertools.chain(*_kept.values()), *_in_use):
        for handle in (connections.multi, *connections.idle):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    _kept.clear()
    _in_use.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_parent)


class Connections:
    """A multi handle with its connections, and easy handles that are not in use."""

    def __init__(self) -> None:
        self.multi = pycurl.CurlMulti()
        self.idle: list[Any] = []
        self._sockets: dict[int, int] = {}  # descriptors of connections, by their local ports
        self._new: set[int] = set()  # descriptors of connections whose ports are not known yet

    def handle(self, settings: Settings) -> Any:  # noqa: ANN401 - a pycurl.Curl
        """Take an easy handle."""
        if self.idle:
            return self.idle.pop()
        handle: Any = pycurl.Curl()
        for option, value in settings:
            handle.unsetopt(option) if value is None else handle.setopt(option, value)
        handle.accept = handle.span = handle.limit = handle.method = handle.headers = handle.signer = None
        handle.origin = ""
        handle.lines, handle.parts = [], []
        handle.setopt(pycurl.HEADERFUNCTION, handle.lines.append)
        handle.setopt(pycurl.WRITEFUNCTION, handle.parts.append)
        if fcntl is not None:
            handle.setopt(pycurl.SOCKOPTFUNCTION, functools.partial(_note_new, self._new))
            handle.setopt(pycurl.PREREQFUNCTION, functools.partial(_check_silent, self._sockets, self._new))
        return handle

    def share(self) -> None:
        """Keep no more connections than the share of one among all that are in use."""
        self.multi.setopt(pycurl.M_MAXCONNECTS, max(FEWEST, MOST // max(1, len(_in_use))))


def _note_new(new: set[int], descriptor: int, _purpose: int) -> int:
    new.add(descriptor)
    return pycurl.SOCKOPT_OK


def _check_silent(sockets: dict[int, int], new: set[int], _ip: str, _local_ip: str, _port: int, local_port: int) -> int:
    """Refuse to reuse a connection on which the server has sent bytes since its last answer.

    libcurl would take these for the next answer.
    """
    descriptor = sockets.get(local_port)
    if descriptor is None:  # the first request of a connection
        _note_ports(sockets, new)
        return pycurl.PREREQFUNC_OK
    try:
        if fcntl.ioctl(descriptor, termios.FIONREAD, _NOTHING) == _NOTHING:
            return pycurl.PREREQFUNC_OK
    except OSError:  # closed; another connection has its port
        del sockets[local_port]
        return pycurl.PREREQFUNC_OK
    del sockets[local_port]
    return pycurl.PREREQFUNC_ABORT


def _note_ports(sockets: dict[int, int], new: set[int]) -> None:
    """Remember new connections by their local ports, which is how libcurl names the one that it is about to use."""
    for port in [port for port, descriptor in sockets.items() if descriptor in new]:  # of connections that were closed
        del sockets[port]
    for descriptor in list(new):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            match connection.getsockname():
                case (_, 0, *_):  # it has no port until it connects
                    pass
                case (_, int(port), *_):
                    sockets[port] = descriptor
                    new.discard(descriptor)
                case _:  # libcurl has closed it, and the descriptor is that of another kind of socket by now
                    new.discard(descriptor)


def take_connections(key: Hashable) -> Connections:
    """Take a multi handle, with warm connections if there is one."""
    try:
        connections = _kept[key].pop()
    except LookupError:
        connections = Connections()
    _in_use.add(connections)
    connections.share()
    return connections


def keep_connections(key: Hashable, connections: Connections) -> None:
    """Keep a multi handle for the next batch; close the oldest ones of the server that was not asked for longest."""
    _in_use.discard(connections)
    kept = _kept.pop(key, [])
    kept.append(connections)
    _kept[key] = kept
    while sum(len(one.idle) for one in itertools.chain(*list(_kept.values()))) > MOST:
        for oldest, those in list(_kept.items())[:1]:
            with contextlib.suppress(IndexError):  # all of them are in use
                those.pop(0).multi.close()
            if not those:
                _kept.pop(oldest, None)


def close_connections(key: Hashable) -> None:
    """Close the connections that are not in use."""
    for connections in _kept.pop(key, []):
        connections.multi.close()


def is_crowded() -> bool:
    """Tell whether descriptors may come that `select` does not know."""
    descriptor = os.open(os.devnull, os.O_RDONLY)  # has the number that the next one will have
    os.close(descriptor)
    return descriptor > _FD_SETSIZE - 2 * MOST


def prepare(handle: Any, exchange: Exchange) -> None:  # noqa: ANN401 - a pycurl.Curl
    """Tell a handle what to send, and where to put what comes; what it knows from the last request stays."""
    request, start, end, limit = exchange
    handle.setopt(pycurl.URL, request.url)
    handle.lines.clear()
    handle.parts.clear()
    if start is None or end is None:
        span, accept, wanted = None, ACCEPT_ENCODING, limit
    else:
        span, accept, wanted = f"{start}-{end - 1}", "identity", end - start
    if span != handle.span:
        handle.span = span
        handle.setopt(pycurl.RANGE, span) if span else handle.unsetopt(pycurl.RANGE)
    if accept != handle.accept:
        handle.accept = accept
        handle.setopt(pycurl.ENCODING, accept)
    if request.method != handle.method:
        handle.method = request.method
        handle.setopt(pycurl.NOBODY, request.method == "HEAD")
    limit = 0 if request.method == "HEAD" else max(wanted, _LARGEST_ERROR)
    if limit != handle.limit:
        handle.limit = limit
        handle.setopt(pycurl.MAXFILESIZE_LARGE, limit)
    if request.headers is not handle.headers and request.headers != handle.headers:
        lines = _header_lines(tuple(request.headers.items()))
        handle.headers = request.headers
        handle.setopt(pycurl.HTTPHEADER, lines) if lines else handle.unsetopt(pycurl.HTTPHEADER)  # [] changes nothing
    if request.signer != handle.signer:
        _sign_as(handle, request.signer)


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


def set_proxy(handle: Any, url: str) -> None:  # noqa: ANN401
    """Tell a handle which proxy is for a URL."""
    origin = _origin(url)
    if origin != handle.origin:
        handle.origin = origin
        from precomputed_fs.store.proxies import proxy_for  # noqa: PLC0415 - brings Python's own client

        proxy = proxy_for(origin)
        handle.setopt(pycurl.PROXY, proxy.url)
        handle.setopt(pycurl.NOPROXY, proxy.no_proxy)


def _trusting(trust: Trust) -> list[tuple[int, Any]]:
    if not trust.check:
        return [(pycurl.SSL_VERIFYPEER, 0), (pycurl.SSL_VERIFYHOST, 0)]
    if trust.directory is None:
        return [(pycurl.CAINFO, trust.path)] if trust.path else []
    return [(pycurl.CAINFO, trust.path), (pycurl.CAPATH, trust.directory)]  # None: not libcurl's own file either


def _sign_as(handle: Any, signer: Any) -> None:  # noqa: ANN401
    handle.signer = signer
    if signer is None:
        handle.setopt(pycurl.AWS_SIGV4, "")
        handle.unsetopt(pycurl.USERPWD)
    else:
        handle.setopt(pycurl.AWS_SIGV4, f"aws:amz:{signer.region}:s3")
        handle.setopt(pycurl.USERPWD, f"{signer.access_key}:{signer.secret_key}")


@functools.lru_cache
def _header_lines(headers: tuple[tuple[str, str], ...]) -> list[bytes]:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or _LINE_END.search(value):
            raise ValueError(f"a header that cannot be sent: {name!r} has a line's end or NUL in it, or no name")
    return [(f"{name}: {value}" if value else f"{name};").encode() for name, value in headers]


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_END = re.compile(r"[\r\n\0]")


_UNTRUSTED = frozenset({pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ISSUER_ERROR})
_FAILURES: dict[int, type[Exception]] = {
    pycurl.E_COULDNT_RESOLVE_PROXY: socket.gaierror,
    pycurl.E_COULDNT_RESOLVE_HOST: socket.gaierror,
    pycurl.E_COULDNT_CONNECT: ConnectionRefusedError,
    pycurl.E_OPERATION_TIMEDOUT: TimeoutError,
    pycurl.E_PARTIAL_FILE: TruncatedError,
    pycurl.E_GOT_NOTHING: ConnectionResetError,
    pycurl.E_SEND_ERROR: ConnectionResetError,
    pycurl.E_RECV_ERROR: ConnectionResetError,
    pycurl.E_SSL_CONNECT_ERROR: ConnectionError,
}
"""What libcurl's codes are in Python; the other ones do not pass."""

_UNREADABLE_PROXY = (
    "the URL of the proxy cannot be read: http_proxy, https_proxy and all_proxy are to be written "
    "http://user:password@host:port, with what is neither a letter nor a digit in a password as %23 for #"
)


def failed_transfer(code: int, message: str, answer: Answer, handle: Any, trust: Trust) -> Answer | Exception:  # noqa: ANN401
    """Tell what a transfer that libcurl has given up means: an answer nevertheless, or an exception."""
    if answer.is_failure:
        return answer
    if code == pycurl.E_FILESIZE_EXCEEDED:
        return answer if handle.span is not None else too_large(handle.limit)
    if code in _UNTRUSTED:
        return CertificateError(f"{message}; {how_to_mend(trust, message)}")
    if message.startswith("Unsupported proxy"):  # and all of its URL follows
        return TransferError(_UNREADABLE_PROXY)
    return _FAILURES.get(code, TransferError)(message)
