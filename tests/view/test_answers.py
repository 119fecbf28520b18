"""HTTP answers: ranges, entity tags, methods, and what web pages may do."""

from __future__ import annotations

import gzip
import re
from typing import TYPE_CHECKING

import pytest

from tests.view.serving import BODY, KEY, NAME, ask, put, raw_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.view.server import Server


@pytest.mark.parametrize("path", [f"{KEY}/{NAME}", "info", "mesh/1:0", f"{KEY}/0-8_0-8_4-8", "nothing"])
def test_head_is_get_without_a_body(server: Server, path: str) -> None:
    whole, head = (ask(f"{server.url}/{path}", method) for method in ("GET", "HEAD"))
    assert head.body == b""
    assert head.status == whole.status
    assert {**dict(head.headers), "Date": ""} == {**dict(whole.headers), "Date": ""}
    assert whole["Content-Length"] == str(len(whole.body))


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=250-", 250, 256),
        ("bytes=250-1000000", 250, 256),
        ("bytes=0-255", 0, 256),
        ("bytes=0-", 0, 256),
        ("bytes=-6", 250, 256),
        ("bytes=-1000", 0, 256),
        ("BYTES=1-2", 1, 3),
        ("bytes= 1-2", 1, 3),
    ],
)
def test_a_range_is_answered_with_that_part(server: Server, asked: str, start: int, stop: int) -> None:
    answer = ask(f"{server.url}/{KEY}/{NAME}", Range=asked)
    assert (answer.status, answer.body) == (206, BODY[start:stop])
    assert answer["Content-Range"] == f"bytes {start}-{stop - 1}/256"
    assert answer["Content-Length"] == str(stop - start)
    assert answer["ETag"] == ask(f"{server.url}/{KEY}/{NAME}")["ETag"]


@pytest.mark.parametrize("asked", ["bytes=256-", "bytes=256-300", "bytes=-0", f"bytes={10**18}-"])
def test_a_range_beyond_the_end_cannot_be(server: Server, asked: str) -> None:
    answer = ask(f"{server.url}/{KEY}/{NAME}", Range=asked)
    assert (answer.status, answer.body, answer["Content-Range"]) == (416, b"", "bytes */256")


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,3-4",
        "bytes=5-4",
        "bytes=-",
        "bytes=",
        "bytes",
        "0-1",
        "lines=0-1",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=--1",
        "bytes=1-2-3",
        f"bytes={'9' * 5000}-",
        "bytes=\u0661-\u0662".encode().decode("latin-1"),  # Arabic digits
    ],
)
def test_a_malformed_range_or_several_are_ignored(server: Server, asked: str) -> None:
    answer = ask(f"{server.url}/{KEY}/{NAME}", Range=asked)
    assert (answer.status, answer.body, answer["Content-Range"]) == (200, BODY, None)
    assert answer["Accept-Ranges"] == "bytes"


def test_a_range_is_for_get_only(server: Server) -> None:
    answer = ask(f"{server.url}/{KEY}/{NAME}", "HEAD", Range="bytes=0-1")
    assert (answer.status, answer["Content-Length"]) == (200, "256")


def test_a_range_of_an_earlier_state_is_the_whole(server: Server) -> None:
    url = f"{server.url}/{KEY}/{NAME}"
    etag = ask(url)["ETag"]
    assert etag is not None
    assert ask(url, Range="bytes=0-1", If_Range=etag).status == 206
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert ask(url, Range="bytes=0-1", If_Range=other).body == BODY


def test_the_etag_is_of_the_bytes(run: Callable[..., Server], tmp_path: Path) -> None:
    server = run(put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY}))
    url = f"{server.url}/{KEY}/{NAME}"
    first = ask(url)["ETag"]
    assert first is not None
    assert re.fullmatch('"[0-9a-f]{32}"', first)
    (tmp_path / KEY / f"{NAME}.gz").write_bytes(gzip.compress(BODY))
    (tmp_path / KEY / NAME).unlink()
    assert ask(url)["ETag"] == first
    (tmp_path / KEY / f"{NAME}.gz").write_bytes(gzip.compress(BODY[::-1]))
    answer = ask(url, If_None_Match=first)
    assert (answer.status, answer.body) == (200, BODY[::-1])
    assert answer["ETag"] != first
    assert answer["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("form", ["{}", "W/{}", '"a", {}', '{} , "b"', '"a,b",W/{},"c"', "*", " * "])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_the_client_has_is_not_sent_again(server: Server, form: str, method: str) -> None:
    url = f"{server.url}/{KEY}/{NAME}"
    etag = ask(url)["ETag"]
    answer = ask(url, method, If_None_Match=form.format(etag), Range="bytes=0-1")
    assert (answer.status, answer.body, answer["ETag"]) == (304, b"", etag)
    assert answer["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("given", ['"other"', '"a", "b"', "", '"*"', '"', "{0}", '"{0}', '"x{0}"'])
def test_what_the_client_has_not_is_sent(server: Server, given: str) -> None:
    url = f"{server.url}/{KEY}/{NAME}"
    etag = str(ask(url)["ETag"]).strip('"')
    assert ask(url, If_None_Match=given.format(etag)).body == BODY


@pytest.mark.parametrize("path", [f"{KEY}/{NAME}", "info", "nothing", f"{KEY}/0-8_0-8_4-8"])
def test_a_page_from_anywhere_that_knows_the_url_may_read(server: Server, path: str) -> None:
    answer = ask(f"{server.url}/{path}", Origin="https://neuroglancer-demo.appspot.com")
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert answer["Cross-Origin-Resource-Policy"] == "cross-origin"
    exposed = {name.strip() for name in str(answer["Access-Control-Expose-Headers"]).split(",")}
    assert {"Content-Length", "Content-Range", "Content-Encoding", "ETag"} <= exposed


def test_a_preflight_is_answered(server: Server) -> None:
    answer = ask(
        f"{server.url}/{KEY}/{NAME}",
        "OPTIONS",
        Origin="https://neuroglancer-demo.appspot.com",
        Access_Control_Request_Method="GET",
        Access_Control_Request_Headers="range",
        Access_Control_Request_Private_Network="true",
    )
    assert (answer.status, answer.body) == (204, b"")
    assert answer["Access-Control-Allow-Origin"] == answer["Access-Control-Allow-Headers"] == "*"
    assert answer["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    assert answer["Access-Control-Allow-Private-Network"] == "true"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "get", "PROPFIND"])
def test_nothing_but_reading_is_possible(server: Server, method: str) -> None:
    answer = ask(f"{server.url}/{KEY}/{NAME}", method)
    assert answer.status in (400, 405)
    if answer.status == 405:
        assert answer["Allow"] == "GET, HEAD, OPTIONS"
    assert BODY not in answer.body
