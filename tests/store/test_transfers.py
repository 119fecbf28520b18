"""What a store makes of the answers of HTTP servers: whole, broken, endless, slow, or referring elsewhere.

Each server says byte by byte what a test has it say. What is the same over TCP and TLS is asked in one way only.
"""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import logging
import random
import re
import time
import tracemalloc
from contextlib import ExitStack
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    NotFoundError,
)
from precomputed_fs.store.requests import Get
from tests.store.conftest import Lane
from tests.support.faults import (
    CHUNKS,
    OK,
    SOON,
    Asked,
    Peer,
    Talk,
    answering,
    chunked,
    dripping,
    fault_server,
    flooding,
    in_order,
    moved,
    part,
    saying,
    sized,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.store.objects import ObjectStore
    from precomputed_fs.store.requests import Job

BODY = b"What is read must be what is stored. " * 3
NAME = "blob.bin"
SHORT = 0.3  # seconds of a timeout that is to run out
HANGING_UP = 32 << 20  # bytes that a server may get rid of before it notices that the client has gone
GIVING_UP = SHORT * 12  # seconds in which a request is given up whose answer comes byte by byte


def failure(act: Callable[..., Any], *args: Any) -> DataAccessError:
    """Do what has to fail in one of our ways."""
    with pytest.raises(DataAccessError) as caught:
        act(*args)
    return caught.value


def data(store: ObjectStore, *asked: Any) -> bytes:
    return store.read(NAME, *asked).data


# -------------------------------------------------------------------------------------------------- answers as they are

GOOD = {
    "Content-Length": (sized(BODY), BODY),
    "an empty body": (sized(b""), b""),
    "the same Content-Length twice": (OK + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
    "blanks around a value": (OK + b"Content-Length:  \t5\t \r\n\r\nhello", b"hello"),
    "a header without a value": (sized(BODY, headers="X-Empty:\r\n"), BODY),
    "letters that are not ASCII": (sized(BODY, headers="X-Latin: \xe4\r\n"), BODY),
    "chunks": (chunked(b"What is read ", b"x", b"must be what is stored." * 20), None),
    "no chunk but the last": (chunked(), b""),
    "extensions of chunks": (CHUNKS + b'5;a=1;b="2"\r\nhello\r\n3 ; c\r\n, b\r\n0;last\r\n\r\n', b"hello, b"),
    "trailers": (chunked(BODY, trailers="X-Checksum: 1\r\nX-More: 2\r\n"), BODY),
    "trailers that look like a head": (chunked(BODY, trailers="Content-Encoding: gzip\r\n"), BODY),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Encoding: gzip\r\n\r\n" + sized(BODY),
        BODY,
    ),
    "HTTP/1.0 that is kept": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    "lines that end as on other platforms": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", b"hello"),
    "a large head": (sized(BODY, headers="".join(f"X-{i}: {'x' * 500}\r\n" for i in range(100))), BODY),
}


@pytest.mark.parametrize("is_dripping", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", GOOD)
def test_a_body_is_what_was_sent_and_the_connection_is_kept(lane: Lane, name: str, *, is_dripping: bool) -> None:
    answer, body = GOOD[name]
    if body is None:
        body = b"What is read xmust be what is stored." + b"must be what is stored." * 19
    store, server = lane.asked(dripping(answer, at_once=len(answer) - 2000) if is_dripping else answering(answer))
    for _ in range(3):
        got = store.read(NAME)
        assert (got.data, got.content_encoding) == (body, "")
    assert server.connections == 1


ENDING = {
    "no length": (OK + b"\r\n" + BODY, BODY),
    "no length, and nothing": (OK + b"\r\n", b""),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n" + BODY, BODY),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "Connection: close": (sized(BODY, headers="Connection: close\r\n"), BODY),
    "Connection: close among others": (sized(BODY, headers="Connection: Foo\r\nConnection: bar, Close\r\n"), BODY),
}


@pytest.mark.parametrize("name", ENDING)
def test_a_body_that_ends_its_connection_is_what_was_sent(lane: Lane, name: str) -> None:
    answer, body = ENDING[name]
    store, server = lane.asked(saying(answer))
    for requests in (1, 2):
        assert data(store) == body
        assert server.count == requests


@pytest.mark.parametrize("framing", ["sized", "chunked", "closed"])
def test_a_large_body_is_what_was_sent(lane: Lane, framing: str) -> None:
    body = random.Random(1).randbytes(3_000_001)
    cuts = [body[i : i + 70_001] for i in range(0, len(body), 70_001)]
    answer = {"sized": sized(body), "chunked": chunked(*cuts), "closed": OK + b"\r\n" + body}[framing]
    assert data(lane.asked(saying(answer))[0]) == body


@pytest.mark.parametrize("coding", ["binary", "none", "utf-8", "UTF-8", "identity", "", "None"])
def test_a_coding_that_is_none_is_none(plain: Lane, coding: str) -> None:
    server = plain.serve(answering(sized(BODY, headers=f"Content-Encoding: {coding}\r\n")))
    assert plain.accessor(server.url).fetch_file(NAME) == BODY
    assert server.count == 1


@pytest.mark.parametrize("coding", ["binary", "none", "utf-8", "identity"])
def test_a_range_with_a_coding_that_is_none_is_a_range(plain: Lane, coding: str) -> None:
    def answer(asked: Asked) -> bytes:
        return part(BODY, asked).replace(b"\r\n", f"\r\nContent-Encoding: {coding}\r\n".encode(), 1)

    assert data(plain.asked(answering(answer))[0], 5, 25) == BODY[5:25]


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_a_coding_is_undone(plain: Lane, coding: str) -> None:
    server = plain.serve(answering(sized(gzip.compress(BODY), headers=f"Content-Encoding: {coding}\r\n")))
    assert plain.accessor(server.url).fetch_file(NAME) == BODY


def test_a_coding_that_is_not_known_is_corrupt(plain: Lane) -> None:
    server = plain.serve(answering(sized(BODY, headers="Content-Encoding: rot13\r\n")))
    error = failure(plain.accessor(server.url).fetch_file, NAME)
    assert type(error) is CorruptDataError
    assert "rot13" in str(error)
    assert f"{server.url}/{NAME}" in str(error)


NO_BODY = {
    "HEAD": (OK + b"Content-Length: 100\r\n\r\n", True),
    "HEAD of what is large": (OK + b"Content-Length: 99999999999\r\n\r\n", True),
    "HEAD without a length": (OK + b"\r\n", True),
    "HEAD of chunks": (CHUNKS, True),
    "HEAD of what is not there": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100000000\r\n\r\n", False),
}


@pytest.mark.parametrize("name", NO_BODY)
def test_what_has_no_body_is_not_waited_for(lane: Lane, name: str) -> None:
    answer, is_there = NO_BODY[name]
    store, server = lane.asked(answering(answer, sized(BODY)))
    assert store.exists(NAME) is is_there
    assert data(store) == BODY
    assert [asked.method for asked in server.requests] == ["HEAD", "GET"]
    assert server.connections == 1


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw an answer as it is sent, and its body."""
    body = draw(st.binary(max_size=300))
    cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=4))})
    in_chunks = chunked(*(body[i:j] for i, j in itertools.pairwise(cuts)))
    return draw(st.sampled_from([sized(body), in_chunks])), body


@settings(max_examples=30)
@given(answers=st.lists(exchanges(), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_any_answers_cut_anywhere_are_what_was_sent(answers: list[tuple[bytes, bytes]], seed: int) -> None:
    cut = random.Random(seed)

    def talk(peer: Peer) -> None:
        for sent, _ in answers:
            peer.request()
            while sent:
                size = cut.choice([1, 2, 7, 60, 5000])
                peer.send(sent[:size])
                sent = sent[size:]  # noqa: PLW2901
        peer.wait()

    with Lane() as lane:
        store, server = lane.asked(talk)
        assert [data(store) for _ in answers] == [body for _, body in answers]
        assert server.connections == 1


# ---------------------------------------------------------------------------------------------------- what is no answer

MALFORMED = {
    "a letter in the status": b"HTTP/1.1 2OO OK\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\n",
    "no status": b"HTTP/1.1\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n",
    "HTTP/7": b"HTTP/7 200\r\n",
    "another protocol": b"220 ftp.example.org ready\r\n",
    "garbage": b"\x16\x03\x01\x00\xff" * 40,
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n",
    "a header without a colon": OK + b"Content-Length 5\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "a negative length": OK + b"Content-Length: -5\r\n",
    "a length in hexadecimal": OK + b"Content-Length: 0x5\r\n",
    "a length of many digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n",
    "a NUL": OK + b"Content-Length\0: 5\r\n",
}
NOT_HTTP = {name: head + b"\r\nhello" for name, head in MALFORMED.items()}
NOT_HTTP |= {
    f"chunks: {name}": CHUNKS + body
    for name, body in {
        "no size": b"\r\nhello\r\n0\r\n\r\n",
        "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
        "no digit": b"h\r\nhello\r\n0\r\n\r\n",
        "many digits": b"f" * 4000 + b"\r\nhello",
        "a size that is too small": b"4\r\nhello\r\n0\r\n\r\n",
    }.items()
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_is_never_absence_nor_data(plain: Lane, name: str) -> None:
    store, server = plain.asked(saying(NOT_HTTP[name]))
    for _ in range(2):
        error = failure(data, store)
        assert not isinstance(error, NotFoundError)
        assert f"{server.url}/{NAME}" in str(error)
        assert len(str(error)) < 600


ENDLESS = {
    "a status line": (b"HTTP/1.1 200 ", b"x" * 1000),
    "a header": (OK + b"X-A: ", b"x" * 1000),
    "headers": (OK, b"X-A: b\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's extension": (CHUNKS + b"5;", b"x" * 1000),
    "trailers": (CHUNKS + b"0\r\n", b"X-A: b\r\n"),
    "a trailer": (CHUNKS + b"0\r\nX-A: ", b"x" * 1000),
    "a body in chunks": (CHUNKS, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"),
    "a body until the end": (OK + b"\r\n", b"x" * 1000),
    "a body of 3 GB": (OK + b"Content-Length: 3000000000\r\n\r\n", b"x" * 1000),
}


@pytest.mark.parametrize("how", ["whole", "range", "ignored range"])
@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_costs_no_memory(plain: Lane, name: str, how: str) -> None:
    begin, again = ENDLESS[name]
    asked = () if how == "whole" else (0, 64)
    if how == "range" and "body" in name:
        begin = begin.replace(b"200 OK", b"206 Partial Content").replace(
            b"\r\n", b"\r\nContent-Range: bytes 0-63/64\r\n", 1
        )
    sent: list[int] = []
    store, server = plain.asked(flooding(begin, again, sent), timeout=2 * SHORT)
    tracemalloc.start()
    try:
        error = failure(data, store, *asked) if asked else failure(partial(store.read, NAME, limit=100_000))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert not isinstance(error, NotFoundError)
    assert f"{server.url}/{NAME}" in str(error)
    server.wait_for_silence()
    assert len(sent) == server.count == 1
    assert sent[0] < HANGING_UP or "extension" in name, "the client has hung up"


@pytest.mark.parametrize("name", ["a body in chunks", "a body until the end", "a body of 3 GB"])
@pytest.mark.parametrize(
    "read",
    [
        lambda accessor: accessor.fetch_file("info"),
        lambda accessor: accessor.fetch_chunk("4_4_4", (0, 4, 0, 4, 0, 4)),
    ],
    ids=["info", "chunk"],
)
def test_a_body_is_bounded_by_what_it_may_be(plain: Lane, name: str, read: Callable[[Any], bytes]) -> None:
    info = (
        b'{"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [{"key": "4_4_4", "size": [4, 4, 4],'
        b'"resolution": [4, 4, 4], "chunk_sizes": [[4, 4, 4]], "encoding": "raw"}]}'
    )
    sent: list[int] = []
    flood = flooding(*ENDLESS[name], sent)
    store, server = plain.accessor, plain.serve(answering(sized(info)))
    accessor = store(server.url, attempts=1)
    accessor.fetch_file("info")
    server.talk = flood
    accessor.close()  # and with it the connection that is kept
    tracemalloc.start()
    try:
        error = failure(read, accessor)
        assert tracemalloc.get_traced_memory()[1] < 70 << 20
    finally:
        tracemalloc.stop()
    assert type(error) is not NotFoundError
    server.wait_for_silence()
    assert sum(sent) < 64 << 20


def test_a_lie_about_the_length_reserves_little_memory(plain: Lane) -> None:
    for lie in (OK + b"Content-Length: 999999999999999\r\n\r\nhello", CHUNKS + b"fffffffffffffff\r\nhello"):
        store, _ = plain.asked(saying(lie))
        tracemalloc.start()
        try:
            failure(data, store)
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()


# -------------------------------------------------------------------------------------------------- what ends too early

WHOLE = {
    "sized": sized(b"hello"),
    "chunked": chunked(b"hel", b"lo", trailers="X-A: b\r\n"),
    "after an interim answer": b"HTTP/1.1 103 Hints\r\nX-A: b\r\n\r\n" + sized(b"hello"),
    "an error": sized(b"hello", "503 Unavailable"),
}


@pytest.mark.parametrize("end", ["hang_up", "cut", "reset"])
@pytest.mark.parametrize("name", WHOLE)
def test_no_part_of_an_answer_is_an_answer(lane: Lane, name: str, end: str) -> None:
    step = 5 if lane.is_secure else 1  # handshakes take long
    sizes = itertools.count(len(WHOLE[name]) - 1, -step)

    def talk(peer: Peer) -> None:
        saying(WHOLE[name][: next(sizes)], end)(peer)

    store, server = lane.asked(talk)
    for asked in range(len(WHOLE[name]) // step):
        error = failure(data, store)
        assert type(error) in (DataAccessError, CorruptDataError)
        assert server.count == asked + 1


def test_a_connection_that_is_cut_is_no_end_of_a_body_over_tls(trusting: None, tls: Any) -> None:
    with Lane(tls) as lane:
        assert data(lane.asked(saying(OK + b"\r\n" + BODY))[0]) == BODY
        failure(data, lane.asked(saying(OK + b"\r\n" + BODY, "cut"))[0])


@pytest.mark.parametrize("sent", [sized(BODY)[:-1], chunked(BODY)[:-5], chunked(BODY)[:-2]])
def test_a_truncated_body_is_corrupt_in_the_end(lane: Lane, sent: bytes) -> None:
    store, server = lane.asked(saying(sent), attempts=2)
    error = failure(data, store)
    assert type(error) is CorruptDataError
    assert f"{server.url}/{NAME}" in str(error)
    assert server.count == 2


@pytest.mark.parametrize("asked", [(), (5, 25)], ids=["whole", "range"])
@pytest.mark.parametrize("end", ["hang_up", "cut", "reset"])
@pytest.mark.parametrize("size", [0, 5, 30, -1], ids=["nothing", "in the status", "in the head", "in the body"])
def test_what_ends_too_early_once_is_asked_for_again(lane: Lane, size: int, end: str, asked: tuple[int, ...]) -> None:
    def talk(peer: Peer) -> None:
        request = peer.request()
        if request is not None:
            whole = part(BODY, request)
            peer.send(whole if peer.number else whole[:size])
            getattr(peer, "wait" if peer.number else end)()

    store, server = lane.asked(talk, attempts=2)
    assert data(store, *asked) == (BODY[slice(*asked)] if asked else BODY)
    assert server.count == 2


@pytest.mark.parametrize(
    ("status", "expected", "end"),
    [
        (401, AccessDeniedError, "hang_up"),
        (403, AccessDeniedError, "cut"),
        (404, NotFoundError, "hang_up"),
        (404, NotFoundError, "cut"),
        (404, NotFoundError, "reset"),
        (404, NotFoundError, "wait"),
    ],
)
def test_an_error_is_its_status_though_its_body_ends_too_early(
    lane: Lane, status: int, expected: type, end: str
) -> None:
    for sent in (sized(BODY, f"{status} No")[:-1], chunked(BODY, status=f"{status} No")[:-5]):
        store, server = lane.asked(saying(sent, end), attempts=3, timeout=SHORT if end == "wait" else SOON)
        assert type(failure(data, store)) is expected
        assert server.count == 1


ERROR_BODIES = {
    "none": sized(b"", "404 Not Found"),
    "large": sized(b"x" * 1_000_000, "404 Not Found"),
    "large, in chunks": chunked(*[b"x" * 10_000] * 100, status="404 Not Found"),
    "larger than it can be": b"HTTP/1.1 404 Not Found\r\nContent-Length: 999999999999999\r\n\r\n",
    "without an end": b"HTTP/1.1 404 Not Found\r\n\r\nsomething",
    "with broken chunks": b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
}


@pytest.mark.parametrize("asked", [(), (0, 5)], ids=["whole", "range"])
@pytest.mark.parametrize("name", ERROR_BODIES)
def test_an_error_is_its_status_whatever_its_body(lane: Lane, name: str, asked: tuple[int, ...]) -> None:
    store, server = lane.asked(saying(ERROR_BODIES[name]))
    assert type(failure(data, store, *asked)) is NotFoundError
    assert server.count == 1


def test_the_page_of_an_error_is_bounded_like_what_was_asked_for(plain: Lane) -> None:
    sent: list[int] = []
    store, server = plain.asked(flooding(b"HTTP/1.1 404 Not Found\r\n\r\n", b"x" * 1000, sent))
    assert type(failure(partial(store.read, NAME, limit=1 << 20))) is NotFoundError
    server.wait_for_silence()
    assert sent[0] < HANGING_UP


# ------------------------------------------------------------------------------------------------------- wrong answers


def ranged(body: bytes, says: str, status: str = "206 Partial Content", headers: str = "") -> bytes:
    return sized(body, status, f"Content-Range: {says}\r\n{headers}")


WRONG = {
    "all of it": sized(BODY),
    "too little": ranged(BODY[5:20], "bytes 5-19/111"),
    "less than it says": ranged(BODY[5:20], "bytes 5-24/111"),
    "too much": ranged(BODY[5:26], "bytes 5-25/111"),
    "more than it says": ranged(BODY[5:26], "bytes 5-24/111"),
    "another place": ranged(BODY[6:26], "bytes 6-25/111"),
    "no place": sized(BODY[5:25], "206 Partial Content"),
    "another unit": ranged(BODY[5:25], "lines 5-24/111"),
    "an encoding": ranged(BODY[5:25], "bytes 5-24/111", headers="Content-Encoding: gzip\r\n"),
    "several parts": sized(b"--x\r\n\r\n", "206 Partial Content", "Content-Type: multipart/byteranges; boundary=x\r\n"),
    "nothing there": sized(b"", "416 Range Not Satisfiable", "Content-Range: bytes */3\r\n"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_the_range_is_corrupt_at_once(plain: Lane, name: str) -> None:
    store, server = plain.asked(answering(WRONG[name]), attempts=3)
    error = failure(data, store, 5, 25)
    assert isinstance(error, CorruptDataError)
    assert f"{server.url}/{NAME}" in str(error)
    assert server.count == 1


def test_a_server_that_ignores_ranges_is_told_of(plain: Lane) -> None:
    store, _ = plain.asked(answering(sized(BODY)))
    assert "Range" in str(failure(data, store, 5, 25))


@pytest.mark.parametrize("status", ["201 Created", "202 Accepted", "203 Info", "204 No Content", "206 Partial Content"])
def test_an_odd_success_is_neither_data_nor_absence(plain: Lane, status: str) -> None:
    store, server = plain.asked(answering(sized(b"" if status.startswith("204") else BODY, status)), attempts=3)
    assert type(failure(data, store)) in (DataAccessError, CorruptDataError)
    assert server.count == 1


# ----------------------------------------------------------------------------------------------------- nothing is stale

FORGED = sized(b"forged")
TOO_MUCH = {
    "an answer": (sized(BODY) + FORGED, "read"),
    "a line's end": (sized(BODY) + b"\r\n", "read"),
    "an answer after chunks": (chunked(BODY) + FORGED, "read"),
    "an answer after nothing": (sized(b"") + FORGED, "read"),
    "a body after HEAD": (sized(FORGED), "exists"),
    "a body after HEAD of nothing": (b"HTTP/1.1 404 Not Found\r\n\r\n" + FORGED, "exists"),
    "an answer after an error": (sized(BODY, "404 Not Found") + FORGED, "fail"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_follows_an_answer_is_no_part_of_the_next(lane: Lane, name: str) -> None:
    answer, verb = TOO_MUCH[name]

    def talk(peer: Peer) -> None:
        answering(*[answer] * (peer.number == 0), sized(b"true"))(peer)

    store, _ = lane.asked(talk)
    if verb == "fail":
        failure(data, store)
    else:
        getattr(store, verb)(NAME)
    assert data(store) == b"true"


def test_the_beginning_of_an_answer_that_broke_is_no_part_of_the_next(lane: Lane) -> None:
    """Not its body, and nothing of its head."""
    broken = sized(b"x" * 50, headers="Content-Encoding: gzip\r\nETag: one\r\n")[:-10]

    def talk(peer: Peer) -> None:
        saying(broken if peer.number == 0 else sized(BODY, headers="ETag: two\r\n"))(peer)

    store, _ = lane.asked(talk, attempts=2)
    body = store.read(NAME, versioned=True)
    assert (body.data, body.content_encoding, body.version) == (BODY, "", "two")


@pytest.mark.parametrize("end", ["hang_up", "cut", "reset"])
def test_a_kept_connection_that_is_closed_unanswered_costs_no_attempt(lane: Lane, end: str) -> None:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(sized(BODY))
        if peer.request():
            getattr(peer, end)()

    store, server = lane.asked(talk)
    for _ in range(2):
        assert data(store) == BODY
    assert (server.connections, server.count) == (2, 3)


# ------------------------------------------------------------------------------------------------------------ slowness

SILENT = {
    "before the head": b"",
    "in the status line": b"HTTP/1.1 2",
    "in the head": sized(BODY)[:30],
    "after an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "before the body": OK + b"Content-Length: 5\r\n\r\n",
    "in the body": sized(BODY)[:-1],
    "in a chunk": CHUNKS + b"5\r\nhel",
    "in the trailers": CHUNKS + b"0\r\nX-A: b\r\n",
    "in a body without a length": OK + b"\r\nhello",
}


@pytest.mark.parametrize("name", SILENT)
def test_silence_is_waited_for_so_long_and_no_longer(plain: Lane, name: str) -> None:
    _wait_in_vain(plain, SILENT[name])


def test_silence_over_tls_is_waited_for_so_long_and_no_longer(trusting: None, tls: Any) -> None:
    with Lane(tls) as lane:
        _wait_in_vain(lane, SILENT["in the body"])


def _wait_in_vain(lane: Lane, sent: bytes) -> None:
    store, server = lane.asked(saying(sent, "wait"), timeout=SHORT)
    began = time.monotonic()
    error = failure(data, store)
    assert SHORT * 0.9 <= time.monotonic() - began < SHORT + 2
    assert type(error) is DataAccessError
    assert "time" in str(error).lower()
    assert f"{server.url}/{NAME}" in str(error)
    server.wait_for_silence()


def test_silence_leads_to_a_retry(plain: Lane) -> None:
    def talk(peer: Peer) -> None:
        saying(sized(BODY) if peer.number else b"", "wait")(peer)

    store, server = plain.asked(talk, timeout=SHORT, attempts=2)
    assert data(store) == BODY
    assert server.count == 2


def test_what_comes_slowly_but_steadily_is_waited_for(plain: Lane) -> None:
    """However long it takes: more than a kilobyte a second."""
    sent, timeout = sized(BODY * 40), 0.6

    def talk(peer: Peer) -> None:
        peer.request()
        for i in range(0, len(sent), 500):
            peer.server.closing.wait(timeout / 6)
            peer.send(sent[i : i + 500])
        peer.wait()

    store, _ = plain.asked(talk, timeout=timeout)
    began = time.monotonic()
    assert data(store) == BODY * 40
    assert time.monotonic() - began > timeout


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"X-A: b\r\n" * 1000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        sized(b"x" * 10_000),
        chunked(b"x" * 10_000),
        OK + b"\r\n" + b"x" * 10_000,
    ],
    ids=["headers", "interim answers", "a body", "a chunk", "a body without a length"],
)
def test_a_byte_now_and_then_is_not_waited_for_forever(plain: Lane, answer: bytes) -> None:
    store, server = plain.asked(dripping(answer, SHORT / 6), timeout=SHORT)
    began = time.monotonic()
    error = failure(data, store)
    assert time.monotonic() - began < GIVING_UP
    assert type(error) is DataAccessError
    server.wait_for_silence()


@pytest.mark.parametrize("timeout", [0.05, 1.9999999, 1e9, float("inf")])
def test_any_timeout_will_do(plain: Lane, timeout: float) -> None:
    store, _ = plain.asked(answering(sized(BODY)), timeout=timeout, attempts=5)
    assert data(store) == BODY


# -------------------------------------------------------------------------------------------------------- trying again


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_leads_to_a_retry(plain: Lane, status: int) -> None:
    busy = sized(b"", f"{status} Busy", "Retry-After: 0\r\n")
    store, server = plain.asked(in_order(busy, busy, sized(BODY)), attempts=3)
    assert data(store) == BODY
    assert server.count == 3
    assert server.connections == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 501, 505])
def test_a_failure_that_stays_leads_to_no_retry(plain: Lane, status: int) -> None:
    store, server = plain.asked(answering(sized(b"", f"{status} No")), attempts=3)
    failure(data, store)
    assert server.count == 1


@pytest.mark.parametrize("fault", ["503", "429", "nothing", "cut"])
@pytest.mark.parametrize("attempts", [1, 3])
def test_what_fails_for_ever_is_asked_as_often_as_allowed(plain: Lane, fault: str, attempts: int) -> None:
    answers = {
        "503": sized(b"", "503 Unavailable", "Retry-After: 0\r\n"),
        "429": sized(b"", "429 Too Many Requests", "Retry-After: 0\r\n"),
        "nothing": b"",
        "cut": sized(BODY)[:-1],
    }
    store, server = plain.asked(saying(answers[fault]), attempts=attempts)
    error = failure(data, store)
    assert "gave up" in str(error) or attempts == 1
    assert server.count == attempts


def in_seconds(seconds: float) -> str:
    """Return the date of a moment, as headers have it."""
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return format_datetime(moment.replace(microsecond=0) + dt.timedelta(seconds=1), usegmt=True)


@pytest.mark.parametrize(("status", "is_date"), [(429, False), (503, True)], ids=["429, seconds", "503, date"])
def test_retry_after_is_obeyed(plain: Lane, status: int, *, is_date: bool) -> None:
    def answer(asked: Asked) -> bytes:
        when = in_seconds(1) if is_date else "1"
        return sized(b"", f"{status} Busy", f"Retry-After: {when}\r\n")

    store, server = plain.asked(in_order(answer, sized(BODY)), attempts=2)
    began = time.monotonic()
    assert data(store) == BODY
    assert 1 <= time.monotonic() - began < 5
    assert server.count == 2


@pytest.mark.parametrize("said", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-5", "", "²", "1e3", "Wed, 99 Oct 2015"])
def test_retry_after_that_says_nothing_does_no_harm(plain: Lane, said: str) -> None:
    store, _ = plain.asked(in_order(sized(b"", "503 Busy", f"Retry-After: {said}\r\n"), sized(BODY)), attempts=2)
    began = time.monotonic()
    assert data(store) == BODY
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("said", ["86400", "9" * 400, "Wed, 21 Oct 2065 07:28:00 GMT"])
def test_a_server_that_is_away_for_longer_than_the_time_allowed_is_not_waited_for(plain: Lane, said: str) -> None:
    store, server = plain.asked(answering(sized(b"", "503 Busy", f"Retry-After: {said}\r\n")), attempts=5)
    began = time.monotonic()
    failure(data, store)
    assert time.monotonic() - began < 3
    assert server.count == 1


def test_retries_print_nothing_and_log_one_record_for_each_object(
    plain: Lane, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    busy = sized(b"", "503 Unavailable", "Retry-After: 0\r\n")

    def answer(asked: Asked) -> bytes:
        seen.append(asked.target)
        is_good = "good" in asked.target or seen.count(asked.target) > 3
        return sized(BODY) if is_good else busy

    seen: list[str] = []
    server = plain.serve(answering(answer))
    url = server.url.replace("://", "://me:SECRET@")
    store = plain.store(f"{url}?sig=SECRET", attempts=5)
    with caplog.at_level(logging.INFO):
        for name in ("first", "good", "second"):
            assert store.read(name).data == BODY
    ours = [record for record in caplog.records if record.name.split(".")[0] == "precomputed_fs"]
    assert [record.levelname for record in ours] == ["INFO", "INFO"]
    for name, record in zip(("first", "second"), ours, strict=True):
        assert f"{server.netloc}/{name}" in record.getMessage()
        assert "503" in record.getMessage()
    assert "SECRET" not in caplog.text
    assert not [record for record in caplog.records if record not in ours and record.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------------------- redirects

SECRETS = {"X-Api-Key": "SECRET1", "Authorization": "Bearer SECRET2", "Cookie": "session=SECRET3", "Referer": "SECRET4"}


def redirecting(to: str | Callable[[Asked], str], status: str = "302 Found") -> Talk:
    return answering(lambda asked: moved(to if isinstance(to, str) else to(asked), status))


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("to", ["/there/{}", "{url}/there/{}", "there/{}", "?there", "//{netloc}/there/{}"])
def test_a_redirect_on_the_same_server_is_followed_with_all_headers(plain: Lane, status: str, to: str) -> None:
    def answer(asked: Asked) -> bytes:
        if "there" in asked.target:
            return part(BODY, asked)
        return moved(to.format(NAME, url=server.url, netloc=server.netloc), status)

    server = plain.serve(answering(answer))
    store = plain.store(server.url, options={"headers": {"X-Api-Key": "key", "Authorization": "Bearer me"}})
    assert data(store) == BODY
    assert data(store, 5, 25) == BODY[5:25]
    assert store.exists(NAME) is True
    assert [asked.method for asked in server.requests] == ["GET"] * 4 + ["HEAD"] * 2
    for asked in server.requests:
        assert (asked.headers["x-api-key"], asked.headers["authorization"]) == ("key", "Bearer me")


@pytest.mark.parametrize(
    ("to", "target"),
    [("/a b?x=c d", "/a%20b?x=c%20d"), ("/\xe4", "/%C3%A4"), ("/a%20b%2F+", "/a%20b%2F+"), ("/[a]|b~'*", "/[a]|b~'*")],
)
def test_what_a_redirect_did_not_quote_is_quoted(plain: Lane, to: str, target: str) -> None:
    server = plain.serve(answering(moved(to), sized(BODY)))
    assert data(plain.store(server.url)) == BODY
    assert server.targets == [f"/{NAME}", target]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_secret_goes_to_another_server(lane: Lane, status: str) -> None:
    other = lane.serve(answering(partial(part, BODY)))
    server = lane.serve(redirecting(lambda asked: f"{other.url}/elsewhere?x=1", status))
    url = server.url.replace("://", "://me:SECRET5@") + "/p?sig=SECRET6"
    store = lane.store(url, options={"headers": {name: SECRETS[name] for name in ("X-Api-Key", "Cookie", "Referer")}})
    authorized = lane.store(f"{server.url}/p?sig=SECRET6", options={"headers": SECRETS})
    for each in (store, authorized):
        assert data(each) == BODY
        assert data(each, 5, 25) == BODY[5:25]
        assert each.exists(NAME) is True
    assert server.count == other.count == 6
    for asked in server.requests:
        assert b"SECRET1" in asked.head
        assert b"SECRET6" in asked.head
    for asked in other.requests:
        assert b"SECRET" not in asked.head
        assert not {"x-api-key", "authorization", "cookie", "referer"} & set(asked.headers)
        assert asked.target == "/elsewhere?x=1"


def test_a_secret_that_went_nowhere_else_comes_back(plain: Lane) -> None:
    """After a detour over another server, the next request to the first has its headers again."""
    other = plain.serve(answering(sized(BODY)))
    server = plain.serve(redirecting(f"{other.url}/x"))
    store = plain.store(server.url, options={"headers": {"X-Api-Key": "key"}})
    for _ in range(3):
        data(store)
    assert [asked.headers.get("x-api-key") for asked in server.requests] == ["key"] * 3
    assert [asked.headers.get("x-api-key") for asked in other.requests] == [None] * 3


def test_no_secret_goes_from_https_to_http(trusting: None, tls: Any) -> None:
    with Lane(tls) as lane, fault_server(answering(sized(BODY))) as open_to_all:
        server = lane.serve(redirecting(f"{open_to_all.url}/{NAME}"))
        url = server.url.replace("://", "://me:SECRET5@") + "?sig=SECRET6"
        try:
            assert data(lane.store(url, options={"headers": {"X-Api-Key": "SECRET1"}})) == BODY
        except DataAccessError as exc:  # not to follow it is just as well
            assert "http" in str(exc)  # noqa: PT017
        assert server.count == 1
        assert not [asked for asked in open_to_all.requests if b"SECRET" in asked.head]


def test_a_redirect_from_http_to_https_is_followed(trusting: None, tls: Any) -> None:
    with Lane(tls) as lane, Lane() as unsafe:
        server = lane.serve(answering(sized(BODY)))
        before = unsafe.serve(redirecting(f"{server.url}/x"))
        assert data(unsafe.store(before.url)) == BODY


@pytest.mark.parametrize(
    "to",
    [
        "/p/blob.bin",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1/x",
        "http://",
        "http://127.0.0.1:99999/x",
        "",
        "/a b\x01",
    ],
)
def test_a_redirect_that_leads_nowhere_is_an_error_of_its_own(plain: Lane, to: str) -> None:
    store, server = plain.asked(redirecting(to), attempts=3)
    error = failure(data, store)
    assert type(error) is DataAccessError
    assert f"{server.url}/{NAME}" in str(error)
    assert server.count < 40
    assert "root:" not in str(error)


def test_a_redirect_in_a_circle_is_given_up_without_a_retry(plain: Lane) -> None:
    store, server = plain.asked(redirecting(lambda asked: f"/{len(asked.target)}x{asked.target[1:50]}"), attempts=3)
    error = failure(data, store)
    assert type(error) is DataAccessError
    assert "redirect" in str(error)
    assert 5 < server.count < 40


def test_what_is_behind_a_redirect_is_told_apart(plain: Lane) -> None:
    for status, expected in ((404, NotFoundError), (403, AccessDeniedError), (500, DataAccessError)):
        other = plain.serve(answering(sized(b"", f"{status} No")))
        server = plain.serve(redirecting(f"{other.url}/x?X-Amz-Signature=SECRET"))
        error = failure(data, plain.store(server.url))
        assert type(error) is expected
        assert "SECRET" not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"


def test_each_attempt_begins_where_the_first_did(plain: Lane) -> None:
    other = plain.serve(in_order(sized(b"", "503 Busy", "Retry-After: 0\r\n"), sized(BODY)))
    server = plain.serve(redirecting(f"{other.url}/x"))
    assert data(plain.store(server.url, attempts=2)) == BODY
    assert (server.count, other.count) == (2, 2)


# ------------------------------------------------------------------------------------------------------------ requests


@pytest.mark.parametrize(
    ("root", "name", "target"),
    [
        ("", "a", "/a"),
        ("/p", "1e+06/0-1", "/p/1e%2B06/0-1"),
        ("/p//q", "a", "/p//q/a"),
        ("/p%2Fq/%C3%A9", "a", "/p%2Fq/%C3%A9/a"),
        ("/p?b=%2F&c=/d?", "a/b", "/p/a/b?b=%2F&c=/d?"),
        ("/p", "a b", "/p/a%20b"),
        ("/p", "a%20b", "/p/a%2520b"),
        ("/p", "é", "/p/%C3%A9"),
        ("/p", "a#b?c", "/p/a%23b%3Fc"),
        ("/p", "~!$&'()*,;=:@", "/p/~!$&'()*,;=:@"),
    ],
)
def test_a_path_is_sent_as_it_is(plain: Lane, root: str, name: str, target: str) -> None:
    server = plain.serve(answering(sized(BODY)))
    assert plain.store(server.url + root).read(name).data == BODY
    assert server.targets == [target]


def test_a_request_says_whom_it_is_for_and_no_header_twice(plain: Lane) -> None:
    server = plain.serve(answering(lambda asked: part(BODY, asked)))
    store = plain.store(server.url, options={"headers": {"X-A": "b", "X-Empty": ""}})
    data(store)
    data(store, 5, 25)
    store.exists(NAME)
    for asked in server.requests:
        names = [line.partition(b":")[0].lower() for line in asked.head.split(b"\r\n")[1:-2]]
        assert len(set(names)) == len(names)
        assert asked.headers["host"] == server.netloc
        assert (asked.headers["x-a"], asked.headers["x-empty"]) == ("b", "")
        assert "expect" not in asked.headers
    whole, ranged, _ = server.requests
    assert "gzip" in whole.headers["accept-encoding"]
    assert ranged.headers["accept-encoding"] == "identity"
    assert ranged.headers["range"] == "bytes=5-24"


@pytest.mark.parametrize("name", ["Host", "Authorization", "User-Agent", "Accept", "Accept-Encoding"])
def test_a_header_that_is_given_replaces_ours(plain: Lane, name: str) -> None:
    server = plain.serve(answering(sized(BODY)))
    url = server.url if name == "Authorization" else server.url.replace("://", "://me:secret@")
    data(plain.store(url, options={"headers": {name: "identity"}}))
    (asked,) = server.requests
    lines = [line for line in asked.head.decode().split("\r\n") if line.lower().startswith(f"{name.lower()}:")]
    assert lines == [f"{name}: identity"]


@pytest.mark.parametrize(
    ("user", "token"),
    [
        ("me:secret", "bWU6c2VjcmV0"),
        ("me:s%40c%3Aret", "bWU6c0BjOnJldA=="),
        ("me:", "bWU6"),
        ("%C3%A4:b", "w6Q6Yg=="),
    ],
)
def test_the_user_of_a_url_is_sent_in_a_header_and_nowhere_else(plain: Lane, user: str, token: str) -> None:
    server = plain.serve(answering(sized(BODY)))
    store = plain.store(server.url.replace("://", f"://{user}@"))
    for _ in range(2):
        data(store)
    for asked in server.requests:
        assert asked.target == f"/{NAME}"
        assert asked.headers["authorization"] == f"Basic {token}"
    assert server.connections == 1


@pytest.mark.parametrize("name", ["Authorization", "X-A\r\nX-B: c\r\nX-C", "X A", ""])
@pytest.mark.parametrize("value", ["SECRET\r\nX-B: c", "SECRET\nX-B: c", "SECRET\rb", "SECRET\0b"])
def test_a_header_cannot_bring_another(plain: Lane, name: str, value: str) -> None:
    server = plain.serve(answering(sized(BODY)))
    store = plain.store(server.url, options={"headers": {name: value}})
    error = failure(data, store)
    assert "header" in str(error)
    assert "SECRET" not in f"{error} {error!r} {error.__cause__!r}"
    assert server.connections == 0


def test_a_header_of_any_script_is_sent_as_utf_8(plain: Lane) -> None:
    server = plain.serve(answering(sized(BODY)))
    data(plain.store(server.url, options={"headers": {"X-Name": "脳 é"}}))
    assert server.requests[0].headers["x-name"] == "脳 é"


@pytest.mark.parametrize("headers", [{"X-A": 5}, {"X-A": b"SECRET"}, {"X-A": None}, {"X-A": ["SECRET"]}, {5: "SECRET"}])
def test_a_header_that_is_no_text_is_named(plain: Lane, headers: dict[Any, Any]) -> None:
    server = plain.serve(answering(sized(BODY)))
    error = failure(data, plain.store(server.url, options={"headers": headers}))
    assert f"headers: {next(iter(headers))!r} and its value must be strings" in str(error)
    assert "SECRET" not in f"{error} {error!r} {error.__cause__!r}"
    assert server.connections == 0


def test_a_server_may_have_an_address_of_version_6(plain: Lane) -> None:
    try:
        server = plain.serve(answering(sized(BODY)), host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert data(plain.store(server.url)) == BODY
    assert server.requests[0].headers["host"] == server.netloc


FAILING: dict[str, Talk] = {
    "refused": answering(sized(b"", "403 Forbidden")),
    "unavailable": answering(sized(b"", "503 Unavailable")),
    "truncated": saying(sized(BODY)[:-1]),
    "not HTTP": saying(b"220 Hello\r\n\r\n"),
    "closed": Peer.hang_up,
    "silent": Peer.wait,
    "redirected": redirecting("http://127.0.0.1:1/elsewhere?token=SECRET7"),
    "redirected nowhere": redirecting("ftp://127.0.0.1/?token=SECRET8"),
    "echoing": answering(lambda asked: sized(asked.head, "400 Bad Request")),
}


@pytest.mark.parametrize("name", FAILING)
def test_no_error_shows_a_secret(lane: Lane, name: str) -> None:
    server = lane.serve(FAILING[name])
    url = server.url.replace("://", "://me:SECRET%40PASS@") + "/p?sig=SECRETSIG"
    store = lane.store(url, timeout=SHORT, options={"headers": {"X-Token": "SECRETTOKEN"}})
    error: BaseException | None = failure(data, store)
    shown = ""
    while error is not None:
        shown += f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__
    assert "SECRET" not in shown
    assert re.search(rf"{server.netloc}/p/{NAME}", shown), "what is not secret is told"


def test_what_comes_while_a_connection_is_kept_is_no_part_of_the_next_answer(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        if peer.number:
            answering(sized(b"true"))(peer)
        peer.request()
        peer.send(sized(BODY))
        peer.server.closing.wait(SHORT)
        peer.send(FORGED)
        answering(sized(b"true"))(peer)

    store, server = lane.asked(talk)
    assert data(store) == BODY
    server.closing.wait(2 * SHORT)
    assert data(store) == b"true"


def test_what_comes_on_a_connection_within_a_batch_is_no_part_of_the_next_answer(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        if peer.number:
            answering(sized(b"true"))(peer)
        peer.request()
        peer.send(sized(BODY))
        peer.server.closing.wait(SHORT)
        peer.send(FORGED)
        answering(sized(b"true"))(peer)

    def reading() -> Job[list[bytes]]:
        return [(yield Get(NAME)).data]

    store, server = lane.asked(talk)
    found = []
    for results in store.run_many((reading() for _ in range(3)), 1):
        found += results
        server.closing.wait(2 * SHORT)
    assert found == [BODY, b"true", b"true"]


@pytest.mark.parametrize("end", ["close", "keep-alive"])
def test_a_connection_that_is_closed_is_forgotten(plain: Lane, end: str, tmp_path: Path) -> None:
    """Its descriptor may be that of something else by then, which has something to read."""
    server = plain.serve(answering(sized(BODY, headers=f"Connection: {end}\r\n")))
    store = plain.store(server.url)
    (tmp_path / "other").write_bytes(BODY)
    with ExitStack() as stack:
        for _ in range(3):
            assert data(store) == BODY
            stack.enter_context((tmp_path / "other").open("rb"))
    assert server.connections == (3 if end == "close" else 1)
