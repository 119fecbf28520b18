"""How one HTTP request travels: over a connection that is kept, in the thread that asks.

Only what reading takes: requests without a body, and answers that are no redirect. A body comes from the
socket straight into the bytes that are returned; an event loop's client copies it twice on the way, which takes
as long as to decode it.
"""

import base64
import collections
import contextlib
import functools
import http
import http.client
import re
import select
import socket
import ssl
import struct
import sys
import threading
import urllib.parse
import weakref
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from precomputed_fs.flights import ended_by, only_waiting
from precomputed_fs.format.compression import TooLargeError, too_large

_MOST_KEPT = 256  # connections to one host that wait for their next request
_LARGEST_HEAD = 1 << 16  # bytes
_LARGEST_LINE = 1 << 12  # bytes, of what is between the chunks of a body
_PEEKED = 1 << 11  # bytes; a usual head takes 300
_READ_AT_ONCE = 1 << 26  # bytes that are reserved on a server's word
_UNWANTED = 1 << 16  # bytes of an unwanted body that are read: it may say why, and the connection is kept
_READ_OF_REST = 1 << 16  # bytes that are read at once, of a body whose length nobody knows
_RECORD = 1 << 14  # bytes, of which TLS makes one piece
_MOST_HEADS = 16  # of one answer: all but the last are interim
_MOST_DIGITS = 16  # of a length
_URL = re.compile(r"(https?://[^/?#\s]+)([!-\"$-~]*)")  # what is to be sent has no blank, fragment or bare letter
_STATUS_LINE = re.compile(r"HTTP/1\.(\d) ([1-9]\d\d)(?: (.*))?", re.ASCII)
_BODILESS = frozenset({http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED})
_NOT_QUOTED = "a URL is to be quoted"
_SO_MEMINFO = 55  # Linux: how much memory is taken, first of all by what was received and not read; also by an end
_NOTHING_RECEIVED = bytes(4)
_HAS_SOCKET_TIMEOUT = sys.platform == "linux"  # MSG_WAITALL and Python's own timeouts exclude each other


class Answer(NamedTuple):
    """What a server answers to a request."""

    status: int
    reason: str
    headers: Mapping[str, str]
    """By their names in lower case."""

    body: bytes = b""
    """As it was sent, not decoded; where the status is not the one that was wanted, only that of an error, if short."""


class HttpClient:
    """Connections to servers, for any number of threads.

    Parameters
    ----------
    timeout : float
        Seconds to connect in, and without a byte of an answer.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._kept: dict[str, collections.deque[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._kept)

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        wanted: int = http.HTTPStatus.OK,
        most: int = sys.maxsize,
    ) -> Answer:
        """Send a request and wait for its answer.

        Parameters
        ----------
        method : str
            GET or HEAD: what may be sent again if a kept connection turns out to be closed.
        url : str
            Quoted as it is to be sent. A user and password in it become an Authorization header.
        headers : mapping
            Besides Host.
        wanted : int
            The status of an answer whose body is wanted.
        most : int
            How many bytes that may have.

        Raises
        ------
        TooLargeError
            If the body has, or would have, more bytes.
        TimeoutError, ConnectionError, OSError
            If the server cannot be reached, falls silent or closes the connection.
        http.client.IncompleteRead
            If a body ends too early.
        http.client.HTTPException
            If the URL cannot be sent, or what comes back is not HTTP.
        """
        parts = _URL.fullmatch(url)
        if parts is None:
            raise http.client.InvalidURL(_NOT_QUOTED)
        origin, target = parts.groups()
        request = _Request(method, _encoded(method, origin, target, headers), wanted, most)
        kept = self._kept.get(origin) or self._kept.setdefault(origin, collections.deque())
        connection = _idle_one(kept)
        if connection is not None:
            try:
                return self._ask_on(connection, request, kept)
            except _ClosedError:
                pass  # a new connection will tell whether the server is there
        try:
            with only_waiting():
                connection = self._connect(origin)
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        return self._ask_on(connection, request, kept)

    def close(self) -> None:
        """Close what is not in use."""
        _close_all(self._kept)

    def _ask_on(self, connection: "_Connection", request: "_Request", kept: "collections.deque[_Connection]") -> Answer:
        """Ask on one connection, and keep it or close it."""
        try:
            with ended_by(connection.abort):
                answer = connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if connection.is_reusable and len(kept) < _MOST_KEPT:
            kept.append(connection)
        else:
            connection.close()
        return answer

    def _connect(self, origin: str) -> "_Connection":
        parts = urllib.parse.urlsplit(origin)
        is_secure = parts.scheme == "https"
        if not parts.hostname:
            message = "no host"
            raise http.client.InvalidURL(message)
        sock = socket.create_connection((parts.hostname, parts.port or (443 if is_secure else 80)), self._timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if is_secure:
                # An answer without a length ends with the connection: it must be the server that ended it.
                sock = self._context().wrap_socket(sock, server_hostname=parts.hostname, suppress_ragged_eofs=False)
            elif _HAS_SOCKET_TIMEOUT:
                return _Connection(sock, _PeekingReader(sock, self._timeout))
            return _Connection(sock, _BufferingReader(sock))
        except BaseException:
            sock.close()
            raise

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls


class _Request(NamedTuple):
    method: str
    encoded: bytes
    wanted: int
    most: int


class _ClosedError(ConnectionResetError):
    """The server closed the connection before it answered, as it may with one that was kept."""

    def __init__(self) -> None:
        super().__init__("the server closed the connection without an answer")


def _idle_one(kept: "collections.deque[_Connection]") -> "_Connection | None":
    """Take a kept connection that the server has neither closed nor sent anything on."""
    while kept:
        try:
            connection = kept.pop()
        except IndexError:  # another thread was faster
            break
        if connection.reader.is_silent():
            return connection
        connection.close()
    return None


def _close_all(kept: "dict[str, collections.deque[_Connection]]") -> None:
    for connections in list(kept.values()):
        with contextlib.suppress(IndexError):
            while True:
                connections.pop().close()


# --------------------------------------------------------------------------------- requests


@functools.lru_cache
def _origin_headers(origin: str) -> Mapping[str, str]:
    """Return what is sent to a server unless the caller says otherwise: its own name, and who asks."""
    user, at, host = origin.partition("://")[2].rpartition("@")
    headers = {"Host": host if host.isascii() else host.encode("idna").decode()}
    if at:
        name, _, password = user.partition(":")
        token = base64.b64encode(urllib.parse.unquote_to_bytes(f"{name}:{password}")).decode()
        headers["Authorization"] = f"Basic {token}"
    return headers | {"Accept": "*/*", "User-Agent": "precomputed_fs"}


@functools.lru_cache
def _header_lines(origin: str, headers: tuple[tuple[str, str], ...]) -> str:
    """Write the headers of a request, which but for signed ones are the same each time."""
    lines = [f"{name}: {value}" for name, value in {**_origin_headers(origin), **dict(headers)}.items()]
    if not all(map(str.isprintable, lines)):
        message = "a header that is to be sent has a line's end or the like in it"
        raise http.client.HTTPException(message)
    return "\r\n".join([*lines, "", ""])


def _encoded(method: str, origin: str, target: str, headers: Mapping[str, str]) -> bytes:
    slash = "" if target.startswith("/") else "/"
    return f"{method} {slash}{target} HTTP/1.1\r\n{_header_lines(origin, tuple(headers.items()))}".encode()


# ---------------------------------------------------------------------------------- answers


class _Reader(Protocol):
    """What an answer is read from."""

    def peek(self, size: int, /) -> bytes:
        """Return what comes next, which is also read next: some, but at most so many bytes; none at the end."""

    def read(self, size: int, /) -> bytes:
        """Read some, but at most so many bytes; none at the end."""

    def is_silent(self) -> bool:
        """Tell whether there is nothing to read: neither the end, nor what nobody asked for."""


class _PeekingReader:
    """A socket, read by the kernel into the very bytes that are returned, in one call."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._sock = sock
        seconds = struct.pack("ll", int(timeout), max(1, int(timeout % 1 * 1e6)))
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)

    def peek(self, size: int, /) -> bytes:
        try:
            return self._sock.recv(size, socket.MSG_PEEK)
        except BlockingIOError:
            raise _silent() from None

    def read(self, size: int, /) -> bytes:
        try:
            return self._sock.recv(size, socket.MSG_WAITALL)
        except BlockingIOError:
            raise _silent() from None

    def is_silent(self) -> bool:
        # `poll` would tell, too, and let another thread take the interpreter each time.
        try:
            return self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, len(_NOTHING_RECEIVED)) == _NOTHING_RECEIVED
        except OSError:
            return _has_nothing(self._sock)


class _BufferingReader:
    """A socket that cannot be peeked into, as that of TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pending = sock.pending if isinstance(sock, ssl.SSLSocket) else int
        self._ahead = b""

    def peek(self, size: int, /) -> bytes:
        if not self._ahead:
            self._ahead = self._sock.recv(size)
        return self._ahead

    def read(self, size: int, /) -> bytes:
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return part or self._sock.recv(min(size, _RECORD))

    def is_silent(self) -> bool:
        return not self._ahead and not self._pending() and _has_nothing(self._sock)


def _silent() -> TimeoutError:
    return TimeoutError("the server has fallen silent")


def _has_nothing(sock: socket.socket) -> bool:
    if not hasattr(select, "poll"):
        return not select.select([sock], [], [], 0)[0]
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(self, sock: socket.socket, reader: _Reader) -> None:
        self.is_reusable = False
        self._sock = sock
        self.reader = reader

    def ask(self, request: _Request) -> Answer:
        self.is_reusable = False
        try:
            self._sock.sendall(request.encoded)
            head = self._read_head()
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError) as exc:
            raise _ClosedError from exc
        except BlockingIOError:
            message = "the server takes no request"
            raise TimeoutError(message) from None
        return self._read_body(head, request)

    def abort(self) -> None:
        """Have the thread that reads find the end, and the server, too."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # of TLS, too, whose own one is not for two threads

    def close(self) -> None:
        self._sock.close()

    def _read_head(self) -> "_Head":
        for _ in range(_MOST_HEADS):
            head = _Head.parse(self._read_until(b"\r\n\r\n", _LARGEST_HEAD, first=True))
            if head.status >= http.HTTPStatus.OK:
                return head
            if head.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.BadStatusLine(head.reason)
        raise _malformed("nothing but interim answers")

    def _read_body(self, head: "_Head", request: _Request) -> Answer:
        status, length = head.status, head.length
        if request.method == "HEAD" or status in _BODILESS:
            length = 0
        has_end = length is not None or head.is_chunked
        body = b""
        if status == request.wanted:
            body = self._read_framed(length, request.most) if has_end else self._read_rest(request.most)
            self.is_reusable = has_end and head.is_kept
        else:
            with contextlib.suppress(OSError, http.client.HTTPException, TooLargeError):  # the status is what counts
                unwanted = self._read_framed(length, _UNWANTED) if has_end else self.reader.peek(_UNWANTED)
                body = unwanted if status >= http.HTTPStatus.BAD_REQUEST else b""
                self.is_reusable = has_end and head.is_kept
        return Answer(status, head.reason, head.headers, body)

    def _read_framed(self, length: int | None, most: int) -> bytes:
        """Read a body that is in chunks unless its length is known; one of more bytes is an error."""
        if length is None:
            return b"".join(self._read_chunks(most))
        if length > most:
            raise too_large(most, length)
        return self._read_exactly(length)

    def _read_chunks(self, most: int) -> list[bytes]:
        chunks = []
        left = most
        while size := _chunk_size(self._read_until(b"\r\n", _LARGEST_LINE)):
            left -= size
            if left < 0:
                raise too_large(most)
            chunks.append(self._read_exactly(size))
            if self._read_until(b"\r\n", 0):
                raise _malformed("a chunk longer than it says")
        left = _LARGEST_HEAD  # for more headers, which may follow the last chunk
        while line := self._read_until(b"\r\n", left):
            left -= len(line)
        return chunks

    def _read_exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        left = size
        while left:
            part = self.reader.read(min(left, _READ_AT_ONCE))
            if not part:
                raise http.client.IncompleteRead(b"".join(parts), left)
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_rest(self, most: int) -> bytes:
        parts = []
        left = most
        while part := self.reader.read(_READ_OF_REST):
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise too_large(most)
        return b"".join(parts)

    def _read_until(self, mark: bytes, limit: int, *, first: bool = False) -> bytes:
        """Read up to a mark, and return what is before it: at most as many bytes."""
        got = b""
        while True:
            seen = self.reader.peek(_PEEKED)
            if not seen:
                raise _ClosedError if first and not got else http.client.IncompleteRead(got)
            place = (got + seen).find(mark)
            end = len(got) + len(seen) if place < 0 else place + len(mark)
            got += self.reader.read(end - len(got))
            if place >= 0 and place <= limit:
                return got[:place]
            if len(got) > limit + len(mark):
                raise _malformed(f"more than {limit} bytes before {mark!r}")


class _Head(NamedTuple):
    """What stands before a body, and says where that ends."""

    status: int
    reason: str
    headers: Mapping[str, str]
    length: int | None
    is_chunked: bool
    is_kept: bool

    @classmethod
    def parse(cls, head: bytes) -> "_Head":
        text = head.decode("latin-1")
        first, *lines = text.split("\r\n")
        minor, status, reason = _parsed_status_line(first)
        if not len(lines) == text.count("\n") == text.count("\r") or "\0" in text:
            raise _malformed("a line with half of a line's end in it, or a NUL")
        headers = dict(map(_parsed_header, lines))
        if len(headers) < len(lines):
            headers = _merged(map(_parsed_header, lines))
        coding = headers.get("transfer-encoding", "").lower()
        if coding not in ("", "chunked"):
            raise _malformed(f"Transfer-Encoding {coding[:80]!r}")
        connection = headers.get("connection", "").lower()
        is_kept = "close" not in connection and (minor != "0" or "keep-alive" in connection)
        length = _content_length(headers.get("content-length"))
        if coding:
            length, is_kept = None, is_kept and length is None  # who says both may be two that disagree
        return cls(status, reason, headers, length, bool(coding), is_kept)


# Most lines of an answer are those of the answer before. While pixels go through the processor's cache, what is
# executed in between is slow each time: to look a line up takes a fifth of parsing it.


@functools.lru_cache
def _parsed_status_line(line: str) -> tuple[str, int, str]:
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise http.client.BadStatusLine(line[:80])
    minor, code, reason = found.groups("")
    return minor, int(code), reason


@functools.lru_cache
def _parsed_header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise _malformed("a line that is no header")
    return name.lower(), value.strip()


def _merged(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Put together what several lines say under one name."""
    merged: dict[str, str] = {}
    for name, value in headers:
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    return merged


@functools.lru_cache
def _content_length(value: str | None) -> int | None:
    if value is None:
        return None
    lengths = {length.strip() for length in value.split(",")}  # a proxy may say the same twice
    length = lengths.pop()
    if lengths or len(length) > _MOST_DIGITS or not (length.isascii() and length.isdecimal()):
        raise _malformed(f"Content-Length {value[:80]!r}")
    return int(length)


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > _MOST_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
        raise _malformed("a chunk of no size")
    return int(digits, 16)


def _malformed(what: str) -> http.client.HTTPException:
    return http.client.HTTPException(f"the answer is not HTTP/1.1: {what}")
