"""A server on 127.0.0.1 that says just what a test has it say, byte by byte, over TCP or TLS.

::

    with fault_server(saying(sized(BODY)[:-1])) as server:        # one byte is missing
        FsspecAccessor(server.url).fetch_file("info")
    server.requests, server.connections, server.most_at_once      # what came

A `Talk` is what is said over one connection, in a thread of its own; the ready-made ones follow, a proxy among them.
"""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

SOON = 10.0  # seconds in which something happens that is to happen at once, on the slowest machine
_PIECE = 1 << 16

# ------------------------------------------------------------------------------------------------------------- answers

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"
"""The head of a body in chunks."""


def sized(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """Return an answer with Content-Length."""
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(*chunks: bytes, status: str = "200 OK", headers: str = "", trailers: str = "") -> bytes:
    """Return an answer in chunks."""
    pieces = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    head = f"HTTP/1.1 {status}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(pieces) + f"0\r\n{trailers}\r\n".encode()


def moved(to: str, status: str = "302 Found") -> bytes:
    """Return an answer that refers elsewhere."""
    return sized(b"", status, f"Location: {to}\r\n")


def part(body: bytes, asked: Asked) -> bytes:
    """Return the range that was asked for, or all; to HEAD without its body."""
    answer = sized(body)
    if asked.range is not None:
        start, end = asked.range
        said = f"Content-Range: bytes {start}-{end - 1}/{len(body)}\r\n"
        answer = sized(body[start:end], "206 Partial Content", said)
    return answer[: answer.index(b"\r\n\r\n") + 4] if asked.method == "HEAD" else answer


# ------------------------------------------------------------------------------------------------------------- servers


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    head: bytes
    """As it came, with the blank line."""

    connection: int
    """How many connections there were before."""

    @property
    def method(self) -> str:
        return self.head.split(b" ")[0].decode()

    @property
    def target(self) -> str:
        """What the first line asks for, as it was sent."""
        return self.head.split(b" ")[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case names."""
        lines = (line.partition(":") for line in self.head.decode().split("\r\n")[1:-2])
        return {name.lower(): value.strip() for name, _, value in lines}

    @property
    def range(self) -> tuple[int, int] | None:
        """The half-open range, if one is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) + 1) if found else None


class Peer:
    """A connection, as its server has it."""

    def __init__(self, sock: socket.socket, server: FaultServer, number: int) -> None:
        self.number = number
        """How many connections there were before."""

        self.server = server
        self.sent = 0
        """Bytes that the system took; it holds some megabytes itself."""

        self._sock = sock

    def request(self) -> Asked | None:
        """Wait for a request; None if the client hangs up instead."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self._sock.recv(1)
            if not piece:
                return None
            head += piece
        asked = Asked(head, self.number)
        self.server.requests.append(asked)
        return asked

    def hear(self) -> None:
        """Wait until something comes."""
        self._sock.recv(_PIECE)

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)
        self.sent += len(data)

    def drip(self, data: bytes, seconds: float = 0.0) -> None:
        """Send byte by byte, with pauses, until the client hangs up."""
        for byte in data:
            self.send(bytes([byte]))
            if seconds and self.server.closing.wait(seconds):
                return

    def wait(self) -> None:
        """Say nothing until the client hangs up."""
        while self._sock.recv(_PIECE):
            pass

    def hang_up(self) -> None:
        """Close as one does who is done, which TLS tells apart from a connection that was cut."""
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(0)  # else it would wait for the client to say goodbye, too
            with suppress(OSError):
                self._sock.unwrap()
        self._sock.close()

    def cut(self) -> None:
        """Send the end of the connection, and no end of TLS."""
        self._sock.close()

    def reset(self) -> None:
        """Have the client see ECONNRESET."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def join(self, host: str, port: int) -> None:
        """Be a tunnel to another server."""
        with socket.create_connection((host, port), SOON) as other:
            back = threading.Thread(target=_pour, args=(other, self._sock), daemon=True)
            back.start()
            _pour(self._sock, other)
            back.join(SOON)


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


Talk: TypeAlias = Callable[[Peer], None]
Answer: TypeAlias = "bytes | Callable[[Asked], bytes]"


class FaultServer:
    """Has a thread talk over each connection, and knows what was asked."""

    def __init__(self, talk: Talk, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.talk = talk
        """Of connections to come."""

        self.requests: list[Asked] = []
        self.connections = 0
        self.open = 0
        """How many connections there are now."""

        self.most_at_once = 0
        """How many connections there were at once at most."""

        self.closing = threading.Event()
        self._failures: list[BaseException] = []
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=128)
        self.port = self._listening.getsockname()[1]
        self.netloc = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.netloc}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def count(self) -> int:
        """How many requests came."""
        return len(self.requests)

    @property
    def targets(self) -> list[str]:
        return [asked.target for asked in self.requests]

    def wait_for(self, requests: int = 1) -> None:
        """Wait until so many requests have come."""
        self._wait_until(lambda: self.count >= requests, f"{requests} requests")

    def wait_for_silence(self, left: int = 0) -> None:
        """Wait until no more than so many connections are left."""
        self._wait_until(lambda: self.open <= left, f"no more than {left} connections")

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        waiting = threading.Event()
        for _ in range(int(SOON / 0.005)):
            if is_so():
                return
            waiting.wait(0.005)
        message = f"expected {what}; there were {self.count} requests, and {self.open} connections are open"
        raise AssertionError(message)

    def close(self) -> None:
        """End all connections, and fail if a talk has failed."""
        self.closing.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(SOON)
        for sock in self._sockets:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive()
        assert self._failures == []

    def _accept(self) -> None:
        while True:
            try:
                sock = self._listening.accept()[0]
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
            self._count(1)
            self._threads.append(thread)
            thread.start()

    def _count(self, change: int) -> None:
        with self._lock:
            self.connections += change > 0
            self.open += change
            self.most_at_once = max(self.most_at_once, self.open)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            with sock, suppress(OSError):
                if self._tls is None:
                    self._talk_over(sock, number)
                    return
                with self._tls.wrap_socket(sock, server_side=True) as secure:
                    self._sockets.append(secure)
                    self._talk_over(secure, number)
        finally:
            self._count(-1)

    def _talk_over(self, sock: socket.socket, number: int) -> None:
        peer = Peer(sock, self, number)
        try:
            self.talk(peer)
        except OSError:
            pass  # the client has gone
        except BaseException as exc:  # noqa: BLE001 - the test fails by it
            self._failures.append(exc)
        finally:
            peer.cut()


@contextmanager
def fault_server(talk: Talk, **options: Any) -> Iterator[FaultServer]:
    """Serve while the block runs."""
    server = FaultServer(talk, **options)
    try:
        yield server
    finally:
        server.close()


# --------------------------------------------------------------------------------------------------------------- talks


def answering(*answers: Answer) -> Talk:
    """Answer so many requests of each connection, the last answer again and again."""

    def talk(peer: Peer) -> None:
        for answer in itertools.chain(answers, itertools.repeat(answers[-1])):
            asked = peer.request()
            if asked is None:
                return
            peer.send(answer if isinstance(answer, bytes) else answer(asked))

    return talk


def in_order(*answers: Answer) -> Talk:
    """Answer so many requests of all connections, the last answer again and again."""
    left = list(answers)

    def answer(asked: Asked) -> bytes:
        said = left.pop(0) if len(left) > 1 else left[0]
        return said if isinstance(said, bytes) else said(asked)

    return answering(answer)


def saying(answer: bytes, end: str = "hang_up") -> Talk:
    """Say something, and end: "hang_up", "cut", "reset", or "wait" for the client to give up."""

    def talk(peer: Peer) -> None:
        if peer.request() is not None:
            peer.send(answer)
            getattr(peer, end)()

    return talk


def dripping(answer: bytes, seconds: float = 0.0, at_once: int = 0) -> Talk:
    """Send byte by byte, after so many bytes at once."""
    begin = max(0, at_once)

    def talk(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(answer[:begin])
            peer.drip(answer[begin:], seconds)

    return talk


def flooding(head: bytes, again: bytes, sent: list[int]) -> Talk:
    """Send without end, until the client hangs up, and note how many bytes that were."""

    def talk(peer: Peer) -> None:
        if peer.request() is None:
            return
        peer.send(head)
        piece = again * (_PIECE // len(again) or 1)
        try:
            while not peer.server.closing.is_set():
                peer.send(piece)
        finally:
            sent.append(peer.sent)

    return talk


def gated(gate: threading.Event, answer: Answer) -> Talk:
    """Answer once a gate is open."""

    def held(asked: Asked) -> bytes:
        assert gate.wait(SOON)
        return answer if isinstance(answer, bytes) else answer(asked)

    return answering(held)


def proxying(hosts: dict[str, int], answer: bytes = b"") -> Talk:
    """Be a proxy before the ports of some hosts; what it is asked for without TLS it answers itself."""

    def talk(peer: Peer) -> None:
        while asked := peer.request():
            if asked.method != "CONNECT":
                peer.send(answer)
                continue
            host = urlsplit(f"//{asked.target}").hostname or ""
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            peer.join("127.0.0.1", hosts[host])
            return

    return talk
