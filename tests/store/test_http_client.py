"""HttpClient before servers that say just what a test has them say, and what an accessor makes of their answers.

Each answer is read in three ways: over a plain socket into which the kernel lets us peek, over one into which it does
not, as on other platforms than Linux, and over TLS.
"""

from __future__ import annotations

import datetime as dt
import gc
import http.client
import ipaddress
import itertools
import multiprocessing
import random
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
    http_client,
)
from precomputed_fs.http_client import Answer, HttpClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    Talk = Callable[["Peer"], None]

SOON = 10.0  # seconds that something may take which is to happen at once
SHORT = 0.1  # seconds of a timeout that is to run out
BODY = b"What is read must be what is stored. " * 3
OK = b"HTTP/1.1 200 OK\r\n"

forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def sized(body: bytes = BODY, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(*chunks: bytes, status: str = "200 OK", trailers: str = "") -> bytes:
    pieces = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b"")]
    pieces[-1] = f"0\r\n{trailers}\r\n".encode()
    return f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + b"".join(pieces)


# -------------------------------------------------------------------------------------------------------------- servers


class Peer:
    """A connection, as its server has it."""

    def __init__(self, sock: socket.socket, server: Server, number: int) -> None:
        self.number = number
        """How many connections there were before."""

        self._sock = sock
        self._server = server

    def request(self) -> bytes:
        """Wait for a request, and return its head; nothing if the client hangs up instead."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self._sock.recv(1)
            if not piece:
                return b""
            head += piece
        self._server.requests.append(head)
        return head

    def send(self, data: bytes, *, dribbling: bool = False) -> None:
        for piece in [data[i : i + 1] for i in range(len(data))] if dribbling else [data]:
            self._sock.sendall(piece)

    def wait(self) -> None:
        """Say nothing until the client hangs up."""
        while self._sock.recv(1 << 16):
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
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


class Server:
    """Who has a thread talk to each connection, and knows what was asked."""

    def __init__(self, talk: Talk, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.failures: list[BaseException] = []
        self._talk = talk
        self._tls = tls
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=128)
        self.port = self._listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock = self._listening.accept()[0]
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
            self.connections += 1
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with sock, suppress(OSError):
            if self._tls is None:
                self._talk_over(sock, number)
                return
            with self._tls.wrap_socket(sock, server_side=True) as secure:
                self._open.append(secure)
                self._talk_over(secure, number)

    def _talk_over(self, sock: socket.socket, number: int) -> None:
        peer = Peer(sock, self, number)
        try:
            self._talk(peer)
        except OSError:
            pass  # the client has gone
        except BaseException as exc:  # noqa: BLE001 - the test fails by it
            self.failures.append(exc)
        finally:
            peer.cut()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(SOON)
        for sock in self._open:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive()
        assert self.failures == []


@contextmanager
def server(talk: Talk, **options: Any) -> Iterator[Server]:
    running = Server(talk, **options)
    try:
        yield running
    finally:
        running.close()


def answering(*answers: bytes, dribbling: bool = False) -> Talk:
    """Answer so many requests of each connection, the last answer again and again."""

    def talk(peer: Peer) -> None:
        for answer in itertools.chain(answers, itertools.repeat(answers[-1])):
            if not peer.request():
                return
            peer.send(answer, dribbling=dribbling)

    return talk


def saying(answer: bytes, *, cut: bool = False) -> Talk:
    """Say something, and hang up."""

    def talk(peer: Peer) -> None:
        if peer.request():
            peer.send(answer)
            (peer.cut if cut else peer.hang_up)()

    return talk


# ---------------------------------------------------------------------------------------------------------------- lanes


class Authority:
    """Who vouches for servers."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the tests")])
        self._folder = folder
        self.path = folder / "authority.pem"
        certificate = self._certify(
            self._key.public_key(), self._name, x509.BasicConstraints(ca=True, path_length=None)
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, host: str = "127.0.0.1") -> ssl.SSLContext:
        """Return the context of a server of this address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        certificate = self._certify(key.public_key(), x509.Name([]), names)
        path = self._folder / f"{host}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _certify(self, key: ec.EllipticCurvePublicKey, name: x509.Name, says: x509.ExtensionType) -> x509.Certificate:
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=name,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - day,
            not_valid_after=now + day,
        )
        return builder.add_extension(says, critical=True).sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    return authority.context()


@pytest.fixture
def trusting(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))


class Lane:
    """A way to read answers: servers and clients of one test, closed at its end."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def serve(self, talk: Talk) -> Server:
        return self._stack.enter_context(server(talk, tls=self.tls))

    def client(self, timeout: float = SOON) -> HttpClient:
        client = HttpClient(timeout)
        self._stack.callback(client.close)
        return client

    def ask(self, talk: Talk, method: str = "GET", wanted: int = 200, timeout: float = SOON) -> Answer:
        """Ask a server once."""
        return self.client(timeout).ask(method, self.serve(talk).url, {}, wanted)


@pytest.fixture(params=["peeking", "buffering", "TLS"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    context = None
    if request.param == "TLS":
        request.getfixturevalue("trusting")
        context = request.getfixturevalue("tls")
    elif request.param == "buffering":
        monkeypatch.setattr(http_client, "_HAS_SOCKET_TIMEOUT", False)
    elif not http_client._HAS_SOCKET_TIMEOUT:
        pytest.skip("no such sockets on this platform")
    with Lane(context) as lane:
        yield lane


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Have what was not closed warn, which is an error."""
    yield
    gc.collect()


# -------------------------------------------------------------------------------------------------- answers as they are

GOOD = {
    "Content-Length": sized(),
    "an empty body": sized(b""),
    "the same Content-Length twice": OK + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "the same Content-Length twice in one": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "blanks around a value": OK + b"Content-Length:  \t5\t \r\n\r\nhello",
    "a header without a value": sized(headers="X-Empty:\r\n"),
    "letters that are not ASCII": sized(headers="X-Latin: \xe4\r\n"),
    "chunks": chunked(b"What is read ", b"x", b"must be what is stored." * 20),
    "no chunk but the last": chunked(),
    "extensions of chunks": OK
    + b'Transfer-Encoding: chunked\r\n\r\n5;a=1;b="2"\r\nhello\r\n3 ; c\r\n, b\r\n0;last\r\n\r\n',
    "sizes in capitals and with zeros": OK + b"Transfer-Encoding: Chunked\r\n\r\n00A\r\n0123456789\r\n000\r\n\r\n",
    "trailers": chunked(BODY, trailers="X-Checksum: 1\r\nX-More: 2\r\n"),
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
    "an empty reason": b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello",
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + sized(),
    "HTTP/1.0 that is kept": b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
}
GOOD_BODIES = {
    "an empty body": b"",
    "chunks": b"What is read xmust be what is stored." + b"must be what is stored." * 19,
    "no chunk but the last": b"",
    "extensions of chunks": b"hello, b",
    "sizes in capitals and with zeros": b"0123456789",
}


def body_of(name: str) -> bytes:
    return GOOD_BODIES.get(name, b"hello" if GOOD[name].endswith(b"hello") else BODY)


@pytest.mark.parametrize("dribbling", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", GOOD)
def test_a_body_is_what_was_sent_and_the_connection_is_kept(lane: Lane, name: str, *, dribbling: bool) -> None:
    running = lane.serve(answering(GOOD[name], dribbling=dribbling))
    client = lane.client()
    for _ in range(3):
        answer = client.ask("GET", running.url, {})
        assert (answer.status, answer.body) == (200, body_of(name))
    assert running.connections == 1


ENDING = {
    "no length": OK + b"\r\n" + BODY,
    "no length, and nothing": OK + b"\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "Connection: close": sized(headers="Connection: close\r\n"),
    "Connection: close among others": sized(headers="Connection: Foo\r\nConnection: bar, Close\r\n"),
    "Transfer-Encoding and Content-Length": OK
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", ENDING)
def test_a_body_is_what_was_sent_and_the_connection_is_not_kept(lane: Lane, name: str) -> None:
    running = lane.serve(saying(ENDING[name]))
    client = lane.client()
    body = b"" if name.endswith("nothing") else b"hello" if b"hello" in ENDING[name] else BODY
    for connections in (1, 2):
        assert client.ask("GET", running.url, {}).body == body
        assert running.connections == connections


def test_what_a_server_may_close_is_not_asked_again(lane: Lane) -> None:
    """Asking on a connection that the server said it would close would be asking twice."""
    running = lane.serve(answering(sized(headers="Connection: close\r\n")))
    client = lane.client()
    for _ in range(3):
        client.ask("GET", running.url, {})
    assert (running.connections, len(running.requests)) == (3, 3)


def test_a_head_is_what_was_sent(lane: Lane) -> None:
    answer = lane.ask(answering(sized(headers='ETag: "1:2"\r\nX-A:b \r\nx-a: \xe4\r\n', status="200 Fine, thanks")))
    assert (answer.status, answer.reason) == (200, "Fine, thanks")
    assert {name: answer.headers[name] for name in ("etag", "x-a")} == {"etag": '"1:2"', "x-a": "b, \xc3\xa4"}


@pytest.mark.parametrize("framing", ["sized", "chunked", "closed"])
def test_a_large_body_is_what_was_sent(lane: Lane, framing: str) -> None:
    body = random.Random(1).randbytes(3_000_001)
    cuts = [body[i : i + 70_001] for i in range(0, len(body), 70_001)]
    answer = {"sized": sized(body), "chunked": chunked(*cuts), "closed": OK + b"\r\n" + body}[framing]
    assert lane.ask(saying(answer)).body == body


def test_a_head_may_be_large(lane: Lane) -> None:
    headers = "".join(f"X-{i}: {'x' * 500}\r\n" for i in range(100))
    assert lane.ask(answering(sized(headers=headers))).body == BODY


NO_BODY = {
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", "GET"),
    "HEAD": (OK + b"Content-Length: 100\r\n\r\n", "HEAD"),
    "HEAD without a length": (OK + b"\r\n", "HEAD"),
    "HEAD of chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", "HEAD"),
    "HEAD of what is not there": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100000000\r\n\r\n", "HEAD"),
}


@pytest.mark.parametrize("name", NO_BODY)
def test_what_has_no_body_is_not_waited_for(lane: Lane, name: str) -> None:
    answer, method = NO_BODY[name]
    running = lane.serve(answering(answer, sized()))
    client = lane.client()
    assert client.ask(method, running.url, {}).body == b""
    assert client.ask("GET", running.url, {}).body == BODY
    assert running.connections == 1


tokens = st.text("abcXYZ-09", min_size=1, max_size=12)
values = st.text(st.characters(codec="latin-1", categories=["L", "N", "P", "S"]), max_size=20)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[bytes, Answer]:
    """Draw an answer, as it is sent and as it is."""
    status, reason = draw(st.sampled_from([200, 206, 404, 503])), draw(values)
    headers = {f"x-{name.lower()}": value for name, value in draw(st.dictionaries(tokens, values, max_size=4)).items()}
    body = draw(st.binary(max_size=300))
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    if draw(st.booleans()):
        lines.append(f"Content-Length: {len(body)}")
        sent = body
    else:
        lines.append("Transfer-Encoding: chunked")
        cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=4))})
        sent = chunked(*(body[i:j] for i, j in itertools.pairwise(cuts))).partition(b"\r\n\r\n")[2]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + sent, Answer(status, reason, headers, b"" if status == 206 else body)


@settings(max_examples=60)
@given(answers=st.lists(exchanges(), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_any_answers_cut_anywhere_are_what_was_sent(lane: Lane, answers: list[tuple[bytes, Answer]], seed: int) -> None:
    cut = random.Random(seed)

    def talk(peer: Peer) -> None:
        for sent, _ in answers:
            peer.request()
            while sent:
                size = cut.choice([1, 2, 7, 60, 5000])
                peer.send(sent[:size])
                sent = sent[size:]  # noqa: PLW2901
        peer.wait()

    with Lane(lane.tls) as inner:
        running, client = inner.serve(talk), inner.client()
        for _, expected in answers:
            answer = client.ask("GET", running.url, {})
            named = {name: value for name, value in answer.headers.items() if name in expected.headers}
            stripped = {name: value.strip() for name, value in expected.headers.items()}
            assert (answer.status, answer.reason, answer.body) == (expected.status, expected.reason, expected.body)
            assert named == stripped
        assert running.connections == 1


# ------------------------------------------------------------------------------------------------- what is not HTTP/1.1

CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MALFORMED = {
    "a letter in the status": b"HTTP/1.1 2OO OK\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n",
    "digits of another script": "HTTP/1.1 ²00 OK\r\n".encode("latin-1"),
    "status 000": b"HTTP/1.1 000 OK\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\n",
    "no status": b"HTTP/1.1\r\n",
    "a blank for a status": b"HTTP/1.1  200 OK\r\n",
    "a tab": b"HTTP/1.1\t200\tOK\r\n",
    "HTTP/2": b"HTTP/2 200\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n",
    "HTTP/1.1x": b"HTTP/1.1x 200 OK\r\n",
    "lower case": b"http/1.1 200 OK\r\n",
    "a blank before": b" HTTP/1.1 200 OK\r\n",
    "a line before": b"\r\nHTTP/1.1 200 OK\r\n",
    "another protocol": b"220 ftp.example.org ready\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n",
    "a header without a colon": OK + b"Content-Length 5\r\n",
    "a header without a name": OK + b": 5\r\n",
    "a blank before a colon": OK + b"Content-Length : 5\r\n",
    "a folded header": OK + b"X-Long: a\r\n b: c\r\n",
    "a folded header without a colon": OK + b"X-Long: a\r\n\tb\r\n",
    "a first header that is folded": OK + b" Content-Length: 5\r\n",
    "a line's end within a status line": b"HTTP/1.1 200 OK\nContent-Length: 5\r\n",
    "a line's end within a header": OK + b"X-A: b\nContent-Length: 5\r\n",
    "half of a line's end within a header": OK + b"X-A: b\rContent-Length: 5\r\n",
    "a NUL": OK + b"Content-Length\0: 5\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "two lengths in one": OK + b"Content-Length: 5, 6\r\n",
    "one length and none": OK + b"Content-Length: 5,\r\n",
    "an empty length": OK + b"Content-Length: \r\n",
    "a negative length": OK + b"Content-Length: -5\r\n",
    "a length with a sign": OK + b"Content-Length: +5\r\n",
    "a length in hexadecimal": OK + b"Content-Length: 0x5\r\n",
    "a length with an underscore": OK + b"Content-Length: 0_5\r\n",
    "a length with a point": OK + b"Content-Length: 5.0\r\n",
    "a length of digits of another script": OK + "Content-Length: ²\r\n".encode("latin-1"),
    "a length of many digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n",
    "a negative length beside chunks": OK + b"Content-Length: -5\r\nTransfer-Encoding: chunked\r\n",
    "gzip and chunks": OK + b"Transfer-Encoding: gzip, chunked\r\n",
    "chunks twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
    "something like chunks": OK + b"Transfer-Encoding: xchunked\r\n",
}
MALFORMED_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "an extension for a size": b";5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "a blank": b"0 5\r\nhello\r\n0\r\n\r\n",
    "no digit": b"h\r\nhello\r\n0\r\n\r\n",
    "many digits": b"f" * 4000 + b"\r\nhello",
    "many zeros": b"0" * 4000 + b"5\r\nhello\r\n0\r\n\r\n",
    "a long extension": b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
    "a size that is too small": b"4\r\nhello\r\n0\r\n\r\n",
    "a size that is too small by two": b"3\r\nhello\r\n0\r\n\r\n",
    "the end of another platform's line": b"5\nhello\n0\n\n" + b"x" * 5000,
}
NOT_HTTP = {name: head + b"\r\nhello" for name, head in MALFORMED.items()}
NOT_HTTP |= {f"chunks: {name}": CHUNKS + body for name, body in MALFORMED_CHUNKS.items()}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_is_an_error(lane: Lane, name: str) -> None:
    running = lane.serve(answering(NOT_HTTP[name]))
    client = lane.client()
    for connections in (1, 2):
        with pytest.raises(http.client.HTTPException) as caught:
            client.ask("GET", running.url, {})
        assert not isinstance(caught.value, http.client.IncompleteRead)
        assert len(str(caught.value)) < 300
        assert running.connections == connections


ENDLESS = {
    "a status line": (b"HTTP/1.1 200 ", b"x" * 1000),
    "a header": (OK + b"X-A: ", b"x" * 1000),
    "headers": (OK, b"X-A: b\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's extension": (CHUNKS + b"5;", b"x" * 1000),
    "trailers": (CHUNKS + b"0\r\n", b"X-A: b\r\n"),
    "a trailer": (CHUNKS + b"0\r\nX-A: ", b"x" * 1000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_an_error(lane: Lane, name: str) -> None:
    begin, again = ENDLESS[name]

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(begin)
        while True:
            peer.send(again * 50)

    with pytest.raises(http.client.HTTPException):
        lane.ask(talk)


def test_lines_that_end_as_on_other_platforms_are_no_answer(lane: Lane) -> None:
    """It never gets to an empty line, as we see it."""
    with pytest.raises(TimeoutError):
        lane.ask(answering(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"), timeout=SHORT)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    sent = bytearray(draw(st.sampled_from([*GOOD.values(), *ENDING.values()])))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(sent)))
        sent[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from([b"", b"\0", b"\r", b"\n", b"-", b"9", b":", b"\xff"])
        )
    return bytes(sent)


@settings(max_examples=150)
@given(sent=damaged())
def test_damage_is_an_error_of_http_or_unseen(lane: Lane, sent: bytes) -> None:
    """Nothing else than what `ask` says it raises, and nothing that goes on for ever."""
    with Lane(lane.tls) as inner, suppress(OSError, http.client.HTTPException):
        assert isinstance(inner.ask(saying(sent)), Answer)


# -------------------------------------------------------------------------------------------------- what ends too early

WHOLE = {"sized": sized(b"hello"), "chunked": chunked(b"hel", b"lo", trailers="X-A: b\r\n")}


@pytest.mark.parametrize("cut", [False, True], ids=["closed", "cut"])
@pytest.mark.parametrize("name", WHOLE)
def test_no_part_of_an_answer_is_an_answer(lane: Lane, name: str, *, cut: bool) -> None:
    sizes = itertools.count()

    def talk(peer: Peer) -> None:
        saying(WHOLE[name][: next(sizes)], cut=cut)(peer)

    running, client = lane.serve(talk), lane.client()
    for _ in WHOLE[name]:
        with pytest.raises((ConnectionError, http.client.IncompleteRead, ssl.SSLEOFError)):
            client.ask("GET", running.url, {})
    assert client.ask("GET", running.url, {}).body == b"hello"


def test_a_connection_that_is_cut_is_no_end_of_a_body_over_tls(trusting: None, tls: ssl.SSLContext) -> None:
    with Lane(tls) as lane:
        assert lane.ask(saying(OK + b"\r\n" + BODY)).body == BODY
        with pytest.raises(ssl.SSLEOFError):
            lane.ask(saying(OK + b"\r\n" + BODY, cut=True))


@pytest.mark.parametrize(
    "sent", [sized(BODY)[:-1], CHUNKS + b"5\r\nhel", OK + b"\r\n" + BODY], ids=["sized", "chunked", "closed"]
)
def test_a_reset_is_no_end_of_a_body(lane: Lane, sent: bytes) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(sent)
        client_has_read.wait(SHORT)
        peer.reset()

    client_has_read = threading.Event()  # it never tells; some of the body is there before the reset, most of the time
    with pytest.raises((ConnectionError, http.client.IncompleteRead, ssl.SSLError)):
        lane.ask(talk)


def test_a_lie_about_the_length_reserves_little_memory(lane: Lane) -> None:
    client = lane.client()
    running = lane.serve(saying(OK + b"Content-Length: 999999999999999\r\n\r\nhello"))
    chunks = lane.serve(saying(CHUNKS + b"fffffffffffffff\r\nhello"))
    tracemalloc.start()
    try:
        for url in (running.url, chunks.url):
            with pytest.raises(http.client.IncompleteRead):
                client.ask("GET", url, {})
        assert tracemalloc.get_traced_memory()[1] < 70 << 20
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------------------------------------------- silence

SILENT = {
    "before the head": b"",
    "in the status line": b"HTTP/1.1 2",
    "in the head": sized()[:30],
    "after an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "before the body": OK + b"Content-Length: 5\r\n\r\n",
    "in the body": sized()[:-1],
    "in a chunk": CHUNKS + b"5\r\nhel",
    "between chunks": CHUNKS + b"5\r\nhello\r\n",
    "in the trailers": CHUNKS + b"0\r\nX-A: b\r\n",
    "in a body without a length": OK + b"\r\nhello",
}


@pytest.mark.parametrize("name", SILENT)
def test_silence_is_waited_for_so_long_and_no_longer(lane: Lane, name: str) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(SILENT[name])
        peer.wait()

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        lane.ask(talk, timeout=SHORT)
    assert SHORT <= time.monotonic() - began < SOON / 2


def test_what_comes_slowly_but_steadily_is_waited_for(lane: Lane) -> None:
    """A timeout is for a server that says nothing, however long its answer takes."""
    sent, timeout = sized(b"hello"), 0.6

    def talk(peer: Peer) -> None:
        peer.request()
        for i in range(0, len(sent), 5):
            time.sleep(timeout / 7)
            peer.send(sent[i : i + 5])

    began = time.monotonic()
    assert lane.ask(talk, timeout=timeout).body == b"hello"
    assert time.monotonic() - began > timeout


def test_a_handshake_that_does_not_go_on_is_waited_for_so_long(trusting: None) -> None:
    with server(Peer.wait) as deaf, pytest.raises(TimeoutError):
        HttpClient(SHORT).ask("GET", deaf.url.replace("http", "https"), {})


@pytest.mark.parametrize("timeout", [1e-9, 0.05, 1.9999999, 1e9])
def test_any_timeout_will_do(timeout: float) -> None:
    with server(answering(sized())) as running, suppress(TimeoutError):
        client = HttpClient(timeout)
        assert client.ask("GET", running.url, {}).body == BODY
        client.close()


# ----------------------------------------------------------------------------------------------------- kept connections


def test_a_kept_connection_that_was_closed_is_replaced(lane: Lane) -> None:
    closed = threading.Event()

    def talk(peer: Peer) -> None:
        saying(sized())(peer)
        closed.set()

    running, client = lane.serve(talk), lane.client()
    for number in range(1, 4):
        assert client.ask("GET", running.url, {}).body == BODY
        assert closed.wait(SOON)
        closed.clear()
        assert (running.connections, len(running.requests)) == (number, number)


@pytest.mark.parametrize("end", ["hang_up", "cut", "reset"])
def test_a_kept_connection_that_is_closed_unanswered_is_asked_once_more(lane: Lane, end: str) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(sized())
        if peer.request():
            getattr(peer, end)()

    running, client = lane.serve(talk), lane.client()
    for _ in range(2):
        assert client.ask("GET", running.url, {}).body == BODY
    assert (running.connections, len(running.requests)) == (2, 3)


@pytest.mark.parametrize("end", ["hang_up", "cut", "reset"])
def test_a_new_connection_that_is_closed_unanswered_is_not_asked_again(lane: Lane, end: str) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        getattr(peer, end)()

    running = lane.serve(talk)
    with pytest.raises(ConnectionError):
        lane.client().ask("GET", running.url, {})
    assert len(running.requests) == 1


def test_a_kept_connection_whose_replacement_is_closed_is_not_asked_a_third_time(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        if peer.request() and peer.number == 0:
            peer.send(sized())
            peer.request()
        peer.hang_up()

    running, client = lane.serve(talk), lane.client()
    client.ask("GET", running.url, {})
    with pytest.raises(ConnectionError):
        client.ask("GET", running.url, {})
    assert len(running.requests) == 3


def test_an_answer_that_has_begun_is_not_asked_for_again(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(sized())
        if peer.request():
            peer.send(sized()[:-1])
            peer.hang_up()

    running, client = lane.serve(talk), lane.client()
    client.ask("GET", running.url, {})
    with pytest.raises(http.client.IncompleteRead):
        client.ask("GET", running.url, {})
    assert len(running.requests) == 2


FORGED = sized(b"forged")
TOO_MUCH = {
    "an answer": (sized() + FORGED, "GET", 200),
    "a line's end": (sized() + b"\r\n", "GET", 200),
    "an answer after chunks": (chunked(BODY) + FORGED, "GET", 200),
    "an answer after nothing": (sized(b"") + FORGED, "GET", 200),
    "a body after HEAD": (sized(FORGED), "HEAD", 200),
    "a body after HEAD of nothing": (b"HTTP/1.1 404 Not Found\r\n\r\n" + FORGED, "HEAD", 404),
    "a body after 204": (sized(FORGED, "204 No Content"), "GET", 204),
    "a body after 304": (sized(FORGED, "304 Not Modified"), "GET", 304),
    "an answer after an error": (sized(BODY, "404 Not Found") + FORGED, "GET", 404),
    "an answer after chunks of an error": (chunked(BODY, status="404 Not Found") + FORGED, "GET", 404),
    "an answer after a large body": (sized(BODY * 5000) + FORGED, "GET", 200),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_follows_an_answer_is_no_part_of_the_next(lane: Lane, name: str) -> None:
    answer, method, status = TOO_MUCH[name]

    def talk(peer: Peer) -> None:
        answering(answer if peer.number == 0 else sized(b"true"))(peer)

    running, client = lane.serve(talk), lane.client()
    assert client.ask(method, running.url, {}).status == status
    assert client.ask("GET", running.url, {}).body == b"true"
    assert running.connections == 2


def test_what_comes_while_a_connection_is_kept_is_no_part_of_the_next_answer(lane: Lane) -> None:
    sent = threading.Event()

    def talk(peer: Peer) -> None:
        if peer.number:
            answering(sized(b"true"))(peer)
        peer.request()
        peer.send(sized())
        asked_once.wait(SOON)
        peer.send(FORGED)
        sent.set()
        peer.wait()

    asked_once = threading.Event()
    running, client = lane.serve(talk), lane.client()
    assert client.ask("GET", running.url, {}).body == BODY
    asked_once.set()
    assert sent.wait(SOON)
    assert client.ask("GET", running.url, {}).body == b"true"


ERROR_BODIES = {
    "none": (sized(b"", "404 Not Found"), True, b""),
    "small": (sized(b"x" * 1000, "404 Not Found"), True, b"x" * 1000),
    "small, in chunks": (chunked(b"x" * 500, b"y" * 500, status="404 Not Found"), True, b"x" * 500 + b"y" * 500),
    "small, and the last": (sized(b"x" * 1000, "404 Not Found", "Connection: close\r\n"), False, b"x" * 1000),
    "large": (sized(b"x" * 1_000_000, "404 Not Found"), False, b""),
    "large, in chunks": (chunked(*[b"x" * 10_000] * 100, status="404 Not Found"), False, b""),
    "larger than it can be": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 999999999999999\r\n\r\n", False, b""),
    "without an end": (b"HTTP/1.1 404 Not Found\r\n\r\nsomething", False, b"something"),
    "with broken chunks": (b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", False, b""),
}


@pytest.mark.parametrize("name", ERROR_BODIES)
def test_an_error_is_its_status_and_what_it_says_in_short(lane: Lane, name: str) -> None:
    answer, is_kept, body = ERROR_BODIES[name]
    running, client = lane.serve(answering(answer)), lane.client()
    for _ in range(3):
        headers = client.ask("GET", running.url, {}).headers
        assert client.ask("GET", running.url, {}) == Answer(404, "Not Found", headers, body)
    assert running.connections == (1 if is_kept else 6)


@pytest.mark.parametrize("sent", [sized(BODY, "404 Not Found")[:-1], chunked(BODY, status="404 Not Found")[:-1]])
@pytest.mark.parametrize("end", ["hang_up", "cut", "wait"])
def test_an_error_is_its_status_though_its_body_ends_too_early(lane: Lane, sent: bytes, end: str) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(sent)
        getattr(peer, end)()

    assert lane.ask(talk, timeout=SHORT if end == "wait" else SOON).status == 404


def test_the_status_that_is_wanted_is_the_one_whose_body_comes(lane: Lane) -> None:
    running, client = lane.serve(answering(sized(b"part", "206 Partial Content"))), lane.client()
    assert client.ask("GET", running.url, {}, wanted=206).body == b"part"
    assert client.ask("GET", running.url, {}, wanted=200).body == b""


# ------------------------------------------------------------------------------------------------------------- requests


def request_to(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[str, list[str]]:
    """Return the first line and the others of what is sent; "SERVER" stands for where a server is."""
    with server(answering(sized())) as running:
        client = HttpClient(SOON)
        client.ask(method, url.replace("SERVER", running.url.partition("://")[2]), headers or {})
        client.close()
        (head,) = running.requests
        first, *lines = (
            head.decode().removesuffix("\r\n\r\n").replace(running.url.partition("://")[2], "SERVER").split("\r\n")
        )
        return first, lines


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("/a/b%20c", "/a/b%20c"),
        ("//a/../b/.", "//a/../b/."),
        ("/a?b=%2F&c=/d?", "/a?b=%2F&c=/d?"),
        ("?b=c", "/?b=c"),
        ("/~!$&'()*+,;=:@%41[]|\\^`{}<>\"", "/~!$&'()*+,;=:@%41[]|\\^`{}<>\""),
    ],
)
def test_a_path_is_sent_as_it_is(path: str, target: str) -> None:
    assert request_to(f"http://SERVER{path}")[0] == f"GET {target} HTTP/1.1"


def test_a_request_says_whom_it_is_for() -> None:
    first, lines = request_to("http://SERVER/a", {"X-A": "b", "Accept-Encoding": "gzip"}, method="HEAD")
    assert first == "HEAD /a HTTP/1.1"
    assert lines[0] == "Host: SERVER"
    assert {"X-A: b", "Accept-Encoding: gzip"} < set(lines)
    assert len({line.partition(":")[0].lower() for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("user", "token"),
    [
        ("me:secret", "bWU6c2VjcmV0"),
        ("me:s%40c%3Aret", "bWU6c0BjOnJldA=="),
        ("me:s@cret", "bWU6c0BjcmV0"),
        ("me", "bWU6"),
        ("me:", "bWU6"),
        (":secret", "OnNlY3JldA=="),
        ("%C3%A4:b", "w6Q6Yg=="),
    ],
)
def test_a_user_is_sent_in_a_header_and_nowhere_else(user: str, token: str) -> None:
    first, lines = request_to(f"http://{user}@SERVER/a")
    assert first == "GET /a HTTP/1.1"
    assert "Host: SERVER" in lines
    assert f"Authorization: Basic {token}" in lines


@pytest.mark.parametrize("name", ["Host", "Authorization", "User-Agent", "Accept"])
def test_a_header_that_is_given_replaces_ours(name: str) -> None:
    _, lines = request_to("http://me:secret@SERVER/a", {name: "mine"})
    assert [line for line in lines if line.startswith(f"{name}:")] == [f"{name}: mine"]


@pytest.mark.parametrize("name", ["Authorization", "X-A\r\nX-B: c\r\nX-C"])
@pytest.mark.parametrize(
    "value", ["a\r\nX-B: c", "a\nX-B: c", "a\rb", "a\0b", "a\x85b", "a\u2028b", "a\x7fb", "a\ud800b"]
)
def test_a_header_cannot_bring_another(name: str, value: str) -> None:
    with server(answering(sized())) as running:
        with pytest.raises(http.client.HTTPException, match="header") as caught:
            HttpClient(SOON).ask("GET", running.url, {name: value})
        assert "X-B" not in str(caught.value)
        assert running.connections == 0


def test_a_header_of_any_script_is_sent_as_utf_8() -> None:
    assert "X-Name: 脳 é" in request_to("http://SERVER/", {"X-Name": "脳 é"})[1]


BAD_URLS = [
    "{}/a b",
    "{}/a\r\nX-B: c",
    "{}/a\n",
    "{}/a\tb",
    "{}/a\0b",
    "{}/é",
    "{}/a#b",
    "{}/a\x7f",
    "{}\r\nX-B: c/",
    "{} /",
    "ftp://127.0.0.1/",
    "http://",
    "http:///a",
    "http://me@/a",
    "127.0.0.1/a",
    "",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_cannot_be_sent_is_an_error_before_anything_is(url: str) -> None:
    with server(answering(sized())) as running:
        with pytest.raises(http.client.HTTPException):
            HttpClient(SOON).ask("GET", url.format(running.url), {})
        assert running.connections == 0


def test_a_server_may_have_an_address_of_version_6() -> None:
    if not _has_ipv6():
        pytest.skip("no IPv6 on this machine")
    with server(answering(sized()), host="::1") as running:
        client = HttpClient(SOON)
        assert client.ask("GET", running.url, {}).body == BODY
        client.close()
        assert f"Host: [::1]:{running.port}\r\n".encode() in running.requests[0]


def _has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


# ------------------------------------------------------------------------------------------------------------------ TLS


def failure(accessor: FsspecAccessor, name: str = "info") -> DataAccessError:
    with pytest.raises(DataAccessError) as caught:
        accessor.fetch_file(name)
    return caught.value


def test_a_server_that_somebody_vouches_for_is_read(trusting: None, tls: ssl.SSLContext) -> None:
    with server(answering(sized()), tls=tls) as running, FsspecAccessor(running.url) as accessor:
        for _ in range(3):
            assert accessor.fetch_file("info") == BODY
        assert running.connections == 1


def test_a_server_that_nobody_vouches_for_is_refused(tls: ssl.SSLContext) -> None:
    with server(answering(sized()), tls=tls) as running, FsspecAccessor(running.url) as accessor:
        error = failure(accessor)
        assert type(error) is DataAccessError
        assert "certificate verify failed" in str(error)
        assert (running.connections, running.requests) == (1, [])


def test_a_server_that_is_another_than_it_says_is_refused(trusting: None, authority: Authority) -> None:
    with server(answering(sized()), tls=authority.context("127.0.0.2")) as running:
        with FsspecAccessor(running.url) as accessor:
            error = failure(accessor)
        assert type(error) is DataAccessError
        assert "not valid for '127.0.0.1'" in str(error)
        assert running.requests == []


def test_a_server_without_tls_is_refused(trusting: None) -> None:
    with server(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as running:
        with FsspecAccessor(running.url.replace("http", "https")) as accessor:
            assert type(failure(accessor)) is DataAccessError
        assert running.connections == 1


# --------------------------------------------------------------------------------------------------------- many at once


def echoing(peer: Peer) -> None:
    """Answer with the path that was asked for, now in one way and now in another."""
    for i in itertools.count():
        head = peer.request()
        if not head:
            return
        path = head.split(b" ")[1]
        peer.send((sized(path), chunked(path[:3], path[3:]), sized(path, headers="Connection: close\r\n"))[i % 3])
        if i % 3 == 2:
            peer.hang_up()
            return


def test_threads_get_each_their_own_answers(lane: Lane) -> None:
    running, client = lane.serve(echoing), lane.client()

    def ask(thread: int) -> None:
        for i in range(30):
            path = f"/{thread}/{i}/" + "x" * (i * 37)
            assert client.ask("GET", running.url + path, {}).body == path.encode()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))


def test_no_more_connections_are_kept_than_allowed(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_MOST_KEPT", 2)
    all_in = threading.Barrier(6)

    def talk(peer: Peer) -> None:
        while peer.request():
            if peer.number < 6:
                all_in.wait(SOON)
            peer.send(sized())

    running, client = lane.serve(talk), lane.client()
    with ThreadPoolExecutor(6) as pool:
        for _ in range(6):
            pool.submit(client.ask, "GET", running.url, {})
    assert len(client._kept[running.url]) == 2


def test_a_client_that_is_closed_while_in_use_goes_on(lane: Lane) -> None:
    running, client = lane.serve(answering(sized())), lane.client()
    stop = threading.Event()

    def ask(thread: int) -> int:
        asked = 0
        while not (asked and stop.is_set()):
            url = running.url.replace("://", f"://user{thread}.{asked % 50}@")  # each has connections of its own
            assert client.ask("GET", url, {}).body == BODY
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, thread) for thread in range(4)]
        for _ in range(200):
            client.close()
        stop.set()
        assert all(future.result(SOON) for future in asking)


def test_a_client_that_is_let_go_of_closes_its_connections(lane: Lane) -> None:
    gone = threading.Event()

    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(sized())
        assert peer.request() == b""
        gone.set()

    running = lane.serve(talk)
    HttpClient(SOON).ask("GET", running.url, {})
    gc.collect()
    assert gone.wait(SOON)


def _fetch_in_child(accessor: FsspecAccessor, pipe: Any) -> None:
    pipe.send(accessor.fetch_file("child"))


@forking
def test_a_forked_child_has_connections_of_its_own() -> None:
    def talk(peer: Peer) -> None:
        while head := peer.request():
            peer.send(sized(b"%b over connection %d" % (head.split(b" ")[1], peer.number)))

    with server(talk) as running, FsspecAccessor(running.url) as accessor:
        assert accessor.fetch_file("parent") == b"/parent over connection 0"
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_fetch_in_child, args=(accessor, sender))
        child.start()
        assert receiver.poll(SOON)
        assert receiver.recv() == b"/child over connection 1"
        child.join(SOON)
        assert child.exitcode == 0
        assert accessor.fetch_file("parent") == b"/parent over connection 0"
        for end in (receiver, sender):
            end.close()


# ------------------------------------------------------------------------------------------------ what an accessor says


@pytest.mark.parametrize("sent", [sized()[:-1], chunked(BODY)[:-5], sized()[:20]], ids=["sized", "chunked", "head"])
def test_a_truncated_answer_is_corrupt_in_the_end(sent: bytes) -> None:
    with server(saying(sent)) as running, FsspecAccessor(running.url, attempts=2) as accessor:
        assert type(failure(accessor)) is CorruptDataError
        assert len(running.requests) == 2


def test_an_answer_that_is_truncated_once_is_asked_for_again() -> None:
    def talk(peer: Peer) -> None:
        saying(sized() if peer.number else sized()[:-1])(peer)

    with server(talk) as running, FsspecAccessor(running.url) as accessor:
        assert accessor.fetch_file("info") == BODY
        assert len(running.requests) == 2


def test_a_silent_server_is_an_error_of_its_own() -> None:
    with server(Peer.wait) as running, FsspecAccessor(running.url, attempts=1, timeout=SHORT) as accessor:
        error = failure(accessor)
        assert type(error) is DataAccessError
        assert "TimeoutError" in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_truncated_refusal_is_a_refusal(status: int) -> None:
    with server(saying(sized(BODY, f"{status} No")[:-1])) as running, FsspecAccessor(running.url) as accessor:
        assert type(failure(accessor)) is AccessDeniedError
        assert len(running.requests) == 1


def test_a_truncated_absence_is_an_absence() -> None:
    with server(saying(sized(BODY, "404 No")[:-1])) as running, FsspecAccessor(running.url) as accessor:
        assert type(failure(accessor, "a.gz")) is NotFoundError
        assert len(running.requests) == 1


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_is_never_absence_nor_data(name: str) -> None:
    with server(answering(NOT_HTTP[name])) as running, FsspecAccessor(running.url, attempts=1) as accessor:
        assert type(failure(accessor)) is DataAccessError


FAILING: dict[str, Talk] = {
    "refused": saying(sized(b"", "403 Forbidden")),
    "unavailable": saying(sized(b"", "503 Unavailable")),
    "truncated": saying(sized()[:-1]),
    "not HTTP": saying(b"220 Hello\r\n\r\n"),
    "closed": Peer.hang_up,
    "silent": Peer.wait,
    "redirected": answering(sized(b"", "302 Found", "Location: http://127.0.0.1:1/elsewhere\r\n")),
}


@pytest.mark.parametrize("name", FAILING)
def test_no_error_shows_a_password(name: str) -> None:
    with server(FAILING[name]) as running:
        url = running.url.replace("://", "://me:SECRET%40PASS@")
        options = {"headers": {"X-Token": "SECRETTOKEN"}}
        with FsspecAccessor(f"{url}/p?sig=SECRETSIG", storage_options=options, attempts=1, timeout=SHORT) as accessor:
            error: BaseException | None = failure(accessor)
    shown = ""
    while error is not None:
        shown += f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__
    assert "SECRET" not in shown


def test_a_header_cannot_bring_another_through_an_accessor() -> None:
    options = {"headers": {"X-A": "SECRET\r\nX-B: c"}}
    with server(answering(sized())) as running, FsspecAccessor(running.url, storage_options=options) as accessor:
        error = failure(accessor)
        assert "header" in str(error)
        assert "SECRET" not in f"{error!r} {error.__cause__!r}"
        assert running.connections == 0


def test_the_user_of_a_url_is_sent_with_each_request() -> None:
    with server(answering(sized())) as running:
        with FsspecAccessor(running.url.replace("://", "://me:s%40cret@")) as accessor:
            for name in ("a", "b"):
                assert accessor.fetch_file(name) == BODY
        assert all(b"\r\nAuthorization: Basic bWU6c0BjcmV0\r\n" in head for head in running.requests)
        assert running.connections == 1
