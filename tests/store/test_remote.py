"""How one request becomes HTTP exchanges and coroutines: answered by hand."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from precomputed_fs.format.compression import TooLargeError
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.explanations import MOST_BYTES
from precomputed_fs.store.failures import (
    BrokenAnswerError,
    RangeIgnoredError,
    StatusError,
    TransferError,
    VersionError,
)
from precomputed_fs.store.protocols.base import Asynchronous
from precomputed_fs.store.remote import Remote, redirected
from precomputed_fs.store.requests import Delete, Exchange, Exists, Get, HttpRequest, List, Put, Signer
from tests.support.jobs import feed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precomputed_fs.store.protocols.base import Ask

ROOT = "https://host/lab"
HEADERS = {"X-Api-Key": "hunter2"}
SIGNER = Signer("eu", "key", "secret")


class Spoken(Asynchronous):
    """Its coroutines are tuples that say what they would do."""

    def __init__(self, *, referred: Sequence[int] = (), checks_versions: bool = False) -> None:
        self.referred_statuses = frozenset(referred)
        self.checks_versions = checks_versions

    def info(self, fs: Any, path: str) -> Any:
        return "info", path

    def version(self, fs: Any, path: str) -> Any:
        return "version", path

    def read(self, fs: Any, path: str, start: int | None = None, end: int | None = None) -> Any:
        return "read", path, start, end

    def list_names(self, fs: Any, prefix: str, limit: int) -> Any:
        return "list", prefix, limit

    def write(self, fs: Any, path: str, data: bytes, content_type: str, content_encoding: str, *, create: bool) -> Any:
        return ("create" if create else "write"), path, data

    def replace(
        self, fs: Any, path: str, data: bytes, content_type: str, content_encoding: str, *, version: str
    ) -> Any:
        return "replace", path, data, version

    def delete(self, fs: Any, path: str) -> Any:
        return "delete", path


def by_http(**options: Any) -> Remote:
    """Return what asks by HTTP, and leaves the rest to coroutines."""

    def ask(method: str, path: str) -> HttpRequest:
        return HttpRequest(path, HEADERS, method, SIGNER)

    return Remote(Spoken(**options), ROOT, ask, lambda: None)


def by_coroutines(**options: Any) -> Remote:
    return Remote(Spoken(**options), ROOT, None, lambda: None)


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    lines = [f"{name.replace('_', '-')}: {value}\r\n".encode() for name, value in headers.items()]
    return Answer(status, [f"HTTP/1.1 {status} \r\n".encode(), *lines, b"\r\n"], [body])


def asked(
    url: str, start: int | None = None, end: int | None = None, limit: int = MOST_BYTES, method: str = "GET"
) -> Exchange:
    return Exchange(HttpRequest(url, HEADERS, method, SIGNER), start, end, limit)


def part(body: bytes, start: int, **headers: str) -> Answer:
    return answer(206, body, Content_Range=f"bytes {start}-{start + len(body) - 1}/99", **headers)


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_whole_object_is_one_exchange() -> None:
    body = feed(
        by_http().answer(Get("a b", limit=9, versioned=True)),
        [(asked(f"{ROOT}/a%20b", limit=9), answer(200, b"whole", ETag='"1"', Content_Encoding="GZIP"))],
    )
    assert (body.data, body.version, body.content_encoding) == (b"whole", '"1"', "gzip")


def test_a_part_is_one_exchange_and_always_has_a_version() -> None:
    body = feed(by_http().answer(Get("a", 2, 5)), [(asked(f"{ROOT}/a", 2, 5, 3), part(b"abc", 2, ETag='"1"'))])
    assert (body.data, body.version) == (b"abc", '"1"')


@pytest.mark.parametrize("remote", [by_http(), by_coroutines()])
def test_an_empty_part_asks_for_nothing(remote: Remote) -> None:
    assert feed(remote.answer(Get("a", 3, 3)), []).data == b""


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (answer(200, b"all of it"), RangeIgnoredError),
        (part(b"abc", 3), BrokenAnswerError),
        (part(b"ab", 2), BrokenAnswerError),
        (part(b"abc", 2, Content_Encoding="gzip"), BrokenAnswerError),
        (answer(206, b"abc"), BrokenAnswerError),
        (answer(204), StatusError),
        (answer(404), StatusError),
        (answer(416), StatusError),
        (TransferError("reset"), TransferError),
    ],
    ids=["all", "elsewhere", "short", "encoded", "untold", "204", "404", "416", "failed"],
)
def test_what_is_not_the_part_asked_for_is_an_error(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        feed(by_http().answer(Get("a", 2, 5)), [(asked(f"{ROOT}/a", 2, 5, 3), given)])


@pytest.mark.parametrize("status", [201, 204, 206, 304, 404, 500])
def test_only_200_is_a_whole_object(status: int) -> None:
    with pytest.raises(StatusError) as caught:
        feed(by_http().answer(Get("a", limit=9)), [(asked(f"{ROOT}/a", limit=9), answer(status))])
    assert caught.value.status == status


def test_what_a_server_repeats_of_a_request_is_not_told() -> None:
    explained = answer(403, b"<Code>X</Code><Message>no hunter2 here</Message>")
    with pytest.raises(StatusError, match=r"no \*\*\* here"):
        feed(by_http().answer(Get("a", limit=9)), [(asked(f"{ROOT}/a", limit=9), explained)])


def test_coroutines_read_where_nothing_is_asked_by_http() -> None:
    whole = feed(
        by_coroutines().answer(Get("a", versioned=True, limit=5)),
        [(("version", f"{ROOT}/a"), "v1"), (("read", f"{ROOT}/a", None, None), b"whole")],
    )
    assert (whole.data, whole.version, whole.is_settled) == (b"whole", "v1", True)
    assert feed(by_coroutines().answer(Get("a", 1, 3)), [(("read", f"{ROOT}/a", 1, 3), b"ho")]).data == b"ho"


def test_coroutines_are_held_to_what_was_asked_for() -> None:
    with pytest.raises(TooLargeError):
        feed(by_coroutines().answer(Get("a", limit=4)), [(("read", f"{ROOT}/a", None, None), b"whole")])
    with pytest.raises(BrokenAnswerError):
        feed(by_coroutines().answer(Get("a", 1, 4)), [(("read", f"{ROOT}/a", 1, 4), b"ho")])


@pytest.mark.parametrize("told", [HttpRequest(f"{ROOT}/there", HEADERS), None])
def test_how_to_ask_may_be_asked_first(told: HttpRequest | None) -> None:
    remote = Remote(Spoken(), ROOT, cast("Ask", lambda method, path: ("ask", method, path)), lambda: None)
    question = (("ask", "GET", f"{ROOT}/a"), told)
    then: tuple[Any, Any] = (("read", f"{ROOT}/a", None, None), b"x")
    if told is not None:
        then = (Exchange(told, None, None, 9), answer(200, b"x"))
    assert feed(remote.answer(Get("a", limit=9)), [question, then]).data == b"x"


# ----------------------------------------------------------------------------------------------------------- redirects

KEEPS = [
    ("http://host/a", "/b", "http://host/b"),
    ("http://host/a?sig=1", "/b?sig=2", "http://host/b?sig=2"),
    ("http://host/lab/a", "b", "http://host/lab/b"),
    ("http://host/a", "//host/b", "http://host/b"),
    ("http://host/a", "http://host:80/b", "http://host:80/b"),
    ("http://HOST/a", "http://host/b", "http://host/b"),
    ("https://host:443/a", "https://host/b", "https://host/b"),
    ("http://host/a?sig=1", "https://host/a?sig=1", "https://host/a?sig=1"),
    ("http://me:hunter2@host/a", "/b", "http://me:hunter2@host/b"),
    ("http://me:hunter2@host/a", "https://host/b", "https://me:hunter2@host/b"),
    ("http://me:hunter2@host/a", "http://you:x@host/b", "http://you:x@host/b"),
]
LOSES = [
    ("https://host/a", "https://other/a", "https://other/a"),
    ("https://host/a", "https://host.other/a", "https://host.other/a"),
    ("https://host/a", "https://other@elsewhere/a", "https://other@elsewhere/a"),
    ("https://host/a", "//other/a", "https://other/a"),
    ("https://host/a", "http://host/a", "http://host/a"),
    ("https://host/a", "https://host:8443/a", "https://host:8443/a"),
    ("http://host:8080/a", "https://host/a", "https://host/a"),
    ("http://host/a", "https://host:8443/a", "https://host:8443/a"),
    ("https://host/a?sig=1", "https://other/a?sig=1", "https://other/a"),
    ("https://host/a?sig=1", "http://host/a?sig=1", "http://host/a"),
    ("https://host/a?sig=1", "https://other/a?sig=2", "https://other/a?sig=2"),
    ("https://me:hunter2@host/a", "https://other/a", "https://other/a"),
    ("https://me:hunter2@host/a", "http://host/a", "http://host/a"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("before", "location", "after", "keeps"),
    [*((*each, True) for each in KEEPS), *((*each, False) for each in LOSES)],
)
def test_what_the_user_has_given_goes_to_no_other_host_and_not_without_tls(
    before: str, location: str, after: str, method: str, *, keeps: bool
) -> None:
    request = redirected(HttpRequest(before, HEADERS, method, SIGNER), answer(302, Location=location))
    expected = HttpRequest(after, HEADERS, method, SIGNER) if keeps else HttpRequest(after, method=method)
    assert request == expected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_for_the_same_part(status: int) -> None:
    body = feed(
        by_http().answer(Get("a", 2, 5)),
        [
            (asked(f"{ROOT}/a", 2, 5, 3), answer(status, Location="/b")),
            (asked("https://host/b", 2, 5, 3), answer(status, Location="https://other/c?sig=2")),
            (Exchange(HttpRequest("https://other/c?sig=2"), 2, 5, 3), answer(status, Location="https://host/d")),
            (Exchange(HttpRequest("https://host/d"), 2, 5, 3), part(b"abc", 2)),  # what was taken off stays off
        ],
    )
    assert body.data == b"abc"


@pytest.mark.parametrize("request_", [Get("a", limit=MOST_BYTES), Exists("a")])
def test_a_circle_of_redirects_is_an_error(request_: Get | Exists) -> None:
    method = "HEAD" if isinstance(request_, Exists) else "GET"
    round_trip = (asked(f"{ROOT}/a", method=method), answer(302, Location=f"{ROOT}/a"))
    with pytest.raises(TransferError, match="more than 10 redirects"):
        feed(by_http().answer(request_), [round_trip] * 10)


@pytest.mark.parametrize("location", ["ftp://host/a", "file:///etc/passwd", "http:///a", "javascript:x"])
def test_a_redirect_to_what_is_not_http_is_an_error(location: str) -> None:
    with pytest.raises(TransferError, match="302, which redirects to"):
        redirected(HttpRequest(f"{ROOT}/a"), answer(302, Location=location))


def test_a_redirect_to_what_cannot_be_shows_no_query() -> None:
    with pytest.raises(TransferError) as caught:
        redirected(HttpRequest(f"{ROOT}/a"), answer(302, Location="ftp://host/a?sig=hunter2"))
    assert "hunter2" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- existence

HEAD = asked(f"{ROOT}/a", method="HEAD")
ONE_BYTE = asked(f"{ROOT}/a", 0, 1)


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, False)])
def test_head_tells_existence(status: int, *, there: bool) -> None:
    assert feed(by_http().answer(Exists("a")), [(HEAD, answer(status))]) is there


@pytest.mark.parametrize("refused", [400, 403, 405, 501])
@pytest.mark.parametrize(("status", "there"), [(200, True), (206, True), (416, True), (404, False)])
def test_where_head_is_refused_a_get_of_one_byte_tells_existence(refused: int, status: int, *, there: bool) -> None:
    exchanges = [(HEAD, answer(refused)), (ONE_BYTE, answer(status))]
    assert feed(by_http().answer(Exists("a")), exchanges) is there


@pytest.mark.parametrize("refused", [400, 403, 405, 501])
def test_where_head_and_get_are_refused_the_get_says_why(refused: int) -> None:
    exchanges = [(HEAD, answer(refused)), (ONE_BYTE, answer(403, b"<Code>AccessDenied</Code>"))]
    with pytest.raises(StatusError, match="403 Forbidden: AccessDenied"):
        feed(by_http().answer(Exists("a")), exchanges)


@pytest.mark.parametrize("status", [204, 304, 401, 429, 500, 503])
def test_another_answer_to_head_tells_nothing_and_asks_no_more(status: int) -> None:
    with pytest.raises(StatusError):
        feed(by_http().answer(Exists("a")), [(HEAD, answer(status))])


def test_a_get_that_tells_existence_is_not_repeated() -> None:
    remote = Remote(Spoken(), ROOT, lambda _, path: HttpRequest(path), lambda: None)  # as of GCS
    exchange = Exchange(HttpRequest(f"{ROOT}/a"), None, None, MOST_BYTES)
    with pytest.raises(StatusError, match="403"):
        feed(remote.answer(Exists("a")), [(exchange, answer(403))])


INFO, ONE_BYTE_READ = ("info", f"{ROOT}/a"), ("read", f"{ROOT}/a", 0, 1)


@pytest.mark.parametrize(
    ("given", "there"), [({"type": "file"}, True), ({"type": "directory"}, False), (FileNotFoundError(), False)]
)
def test_coroutines_tell_existence(given: Any, *, there: bool) -> None:
    assert feed(by_coroutines().answer(Exists("a")), [(INFO, given)]) is there


def test_where_a_coroutine_was_refused_without_a_reason_a_byte_is_read() -> None:
    assert feed(by_coroutines().answer(Exists("a")), [(INFO, StatusError(403)), (ONE_BYTE_READ, b"x")]) is True
    with pytest.raises(FileNotFoundError):
        feed(by_coroutines().answer(Exists("a")), [(INFO, StatusError(403)), (ONE_BYTE_READ, FileNotFoundError())])


@pytest.mark.parametrize("error", [StatusError(500), StatusError(403, {}, b"<Code>AccessDenied</Code>"), OSError("x")])
def test_where_a_coroutine_says_why_it_fails_nothing_more_is_asked(error: Exception) -> None:
    with pytest.raises(type(error)):
        feed(by_coroutines().answer(Exists("a")), [(INFO, error)])


# ------------------------------------------------------------------------------------------------ referred elsewhere


@pytest.mark.parametrize("status", [301, 307, 400])
def test_s3_that_redirects_is_asked_through_the_filesystem_from_then_on(status: int) -> None:
    remote = by_http(referred=(301, 307, 400))
    read = (("read", f"{ROOT}/a", None, None), b"x")
    referred = answer(status, Location="https://other/a")
    assert feed(remote.answer(Get("a", limit=9)), [(asked(f"{ROOT}/a", limit=9), referred), read]).data == b"x"
    assert feed(remote.answer(Get("a")), [read]).data == b"x"
    assert feed(remote.answer(Exists("a")), [(INFO, {"type": "file"})]) is True


@pytest.mark.parametrize("status", [301, 307, 400])
def test_s3_that_redirects_a_head_is_asked_through_the_filesystem(status: int) -> None:
    remote = by_http(referred=(301, 307, 400))
    exchanges: list[Any] = [(HEAD, answer(status))]
    if status == 400:  # which may be for many reasons, and HEAD has no body to tell them
        exchanges.append((ONE_BYTE, answer(400)))
    assert feed(remote.answer(Exists("a")), [*exchanges, (INFO, FileNotFoundError())]) is False


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "RequestTimeout", "KMS.DisabledException"])
def test_what_the_filesystem_would_be_told_as_well_is_not_asked_again(code: str) -> None:
    remote = by_http(referred=(301, 307, 400))
    refused = answer(400, f"<Code>{code}</Code>".encode())
    for _ in range(2):  # by HTTP as before
        with pytest.raises(StatusError, match=code):
            feed(remote.answer(Get("a", limit=9)), [(asked(f"{ROOT}/a", limit=9), refused)])


@pytest.mark.parametrize("status", [302, 303, 308])
def test_s3_redirects_nobody_in_another_way(status: int) -> None:
    redirect = answer(status, Location="https://other/a")
    with pytest.raises(StatusError, match=str(status)):
        feed(by_http(referred=(301,)).answer(Get("a", limit=9)), [(asked(f"{ROOT}/a", limit=9), redirect)])


# ------------------------------------------------------------------------------------------------- conditional writes

A = f"{ROOT}/a"
NEW = Put("a", b"x", "", create=True)
CHANGED = Put("a", b"x", "", replacing="v1")
UNMET = StatusError(412)
REFUSED = [
    StatusError(501),
    StatusError(400, {}, b"<Code>InvalidArgument</Code><Message>If-None-Match is not supported</Message>"),
    StatusError(400, {}, b"<Message>header If-Match not implemented</Message>"),
]
each_refusal = pytest.mark.parametrize("refusal", REFUSED, ids=["501", "400 of If-None-Match", "400 of If-Match"])


class Condition(NamedTuple):
    """A write on a condition, and how the condition is checked where the store does not do it."""

    put: Put
    write: tuple[Any, ...]
    unmet: type[Exception]
    holds: tuple[Any, Any]
    fails: tuple[Any, Any]


CREATE = Condition(NEW, ("create", A, b"x"), FileExistsError, (INFO, FileNotFoundError()), (INFO, {"type": "file"}))
REPLACE = Condition(CHANGED, ("replace", A, b"x", "v1"), VersionError, (("version", A), "v1"), (("version", A), "v2"))
WRITE = (("write", A, b"x"), None)
each_condition = pytest.mark.parametrize("condition", [CREATE, REPLACE], ids=["create", "replace"])


def trusting(condition: Condition) -> Remote:
    """Return what has seen the store refuse a write whose condition did not hold."""
    remote = by_coroutines()
    assert (
        feed(remote.answer(condition.put), [condition.holds, (condition.write, None), (condition.write, UNMET)]) is None
    )
    return remote


def test_a_write_without_a_condition_is_one_coroutine() -> None:
    assert feed(by_coroutines().answer(Put("a", b"x", "")), [WRITE]) is None


@each_condition
def test_the_first_conditional_write_is_checked_before_and_tried_again_after(condition: Condition) -> None:
    remote = trusting(condition)
    for _ in range(2):  # the store can be trusted
        assert feed(remote.answer(condition.put), [(condition.write, None)]) is None


@each_condition
def test_a_condition_that_the_store_ignores_is_checked_from_then_on(condition: Condition) -> None:
    remote = by_coroutines()
    first = [condition.holds, (condition.write, None), (condition.write, None)]
    assert feed(remote.answer(condition.put), first) is None
    for _ in range(2):
        assert feed(remote.answer(condition.put), [condition.holds, WRITE]) is None
        with pytest.raises(condition.unmet):
            feed(remote.answer(condition.put), [condition.fails])


@each_refusal
@each_condition
def test_a_condition_that_the_store_refuses_is_checked_and_not_sent_again(
    condition: Condition, refusal: StatusError
) -> None:
    remote = by_coroutines()
    assert feed(remote.answer(condition.put), [condition.holds, (condition.write, refusal), WRITE]) is None
    assert feed(remote.answer(condition.put), [condition.holds, WRITE]) is None
    with pytest.raises(condition.unmet):
        feed(remote.answer(condition.put), [condition.fails])


@each_refusal
@each_condition
def test_a_trusted_store_that_comes_to_refuse_conditions_is_checked(condition: Condition, refusal: StatusError) -> None:
    remote = trusting(condition)
    with pytest.raises(condition.unmet):
        feed(remote.answer(condition.put), [(condition.write, refusal), condition.fails])
    assert feed(remote.answer(condition.put), [condition.holds, WRITE]) is None


@each_refusal
@each_condition
def test_a_store_that_refuses_the_second_write_only_is_not_trusted(condition: Condition, refusal: StatusError) -> None:
    remote = by_coroutines()
    assert (
        feed(remote.answer(condition.put), [condition.holds, (condition.write, None), (condition.write, refusal)])
        is None
    )
    assert feed(remote.answer(condition.put), [condition.holds, WRITE]) is None


@each_condition
@pytest.mark.parametrize("unmet", [UNMET, FileExistsError()], ids=["412", "FileExistsError"])
def test_a_condition_that_does_not_hold_is_an_error(condition: Condition, unmet: Exception) -> None:
    with pytest.raises(condition.unmet):
        feed(trusting(condition).answer(condition.put), [(condition.write, unmet)])
    with pytest.raises(condition.unmet):
        feed(by_coroutines().answer(condition.put), [condition.holds, (condition.write, unmet)])
    with pytest.raises(condition.unmet):
        feed(by_coroutines().answer(condition.put), [condition.fails])


@pytest.mark.parametrize("gone", [StatusError(404), FileNotFoundError()], ids=["404", "FileNotFoundError"])
def test_what_was_to_be_replaced_and_is_gone_was_replaced(gone: Exception) -> None:
    """S3 answers a PUT with If-Match by 404, if there is none."""
    with pytest.raises(VersionError):
        feed(trusting(REPLACE).answer(CHANGED), [(REPLACE.write, gone)])
    with pytest.raises(VersionError):
        feed(by_coroutines().answer(CHANGED), [(("version", A), gone)])


def test_a_bucket_that_is_gone_is_no_conflict() -> None:
    with pytest.raises(StatusError, match="404"):
        feed(trusting(CREATE).answer(NEW), [(CREATE.write, StatusError(404))])


@each_condition
@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_a_write_that_fails_in_another_way_tells_nothing_of_conditions(condition: Condition, status: int) -> None:
    remote = by_coroutines()
    with pytest.raises(StatusError, match=str(status)):
        feed(remote.answer(condition.put), [condition.holds, (condition.write, StatusError(status))])
    first = [condition.holds, (condition.write, None), (condition.write, UNMET)]
    assert feed(remote.answer(condition.put), first) is None  # so the next one tells


@each_condition
def test_a_second_write_that_fails_in_another_way_leaves_it_to_the_next_one_to_tell(condition: Condition) -> None:
    remote = by_coroutines()
    undecided = [condition.holds, (condition.write, None), (condition.write, ConnectionResetError())]
    told = [condition.holds, (condition.write, None), (condition.write, UNMET)]
    for exchanges in (undecided, undecided, told, [(condition.write, None)]):
        assert feed(remote.answer(condition.put), exchanges) is None


@pytest.mark.parametrize("failure", [StatusError(503), StatusError(403), TimeoutError()])
def test_a_check_that_fails_writes_nothing(failure: Exception) -> None:
    with pytest.raises(type(failure)):
        feed(by_coroutines().answer(CHANGED), [(("version", A), failure)])


def test_creating_and_replacing_are_trusted_each_by_itself() -> None:
    remote = trusting(CREATE)
    assert feed(remote.answer(CHANGED), [REPLACE.holds, (REPLACE.write, REFUSED[0]), WRITE]) is None
    assert feed(remote.answer(NEW), [(CREATE.write, None)]) is None


def test_a_protocol_that_checks_versions_is_trusted_at_once() -> None:
    remote = by_coroutines(checks_versions=True)
    assert feed(remote.answer(CHANGED), [(REPLACE.write, None)]) is None
    assert feed(remote.answer(NEW), [CREATE.holds, (CREATE.write, None), (CREATE.write, UNMET)]) is None


def test_what_is_large_is_not_written_twice_to_learn_about_conditions() -> None:
    with mmap.mmap(-1, 4) as data:
        put = Put("a", data, "", create=True)
        remote = by_coroutines()
        for _ in range(2):
            assert feed(remote.answer(put), [CREATE.holds, (("create", A, bytes(4)), None)]) is None


def test_a_create_is_checked_by_http_where_it_is_read_by_http() -> None:
    exchanges = [(HEAD, answer(404)), (CREATE.write, None), (CREATE.write, UNMET)]
    assert feed(by_http().answer(NEW), exchanges) is None
    with pytest.raises(FileExistsError):
        feed(by_http().answer(NEW), [(HEAD, answer(200))])


# ------------------------------------------------------------------------------------------------ deleting and listing


@pytest.mark.parametrize("gone", [None, FileNotFoundError(), StatusError(404)])
def test_deleting_what_is_gone_is_no_error(gone: Exception | None) -> None:
    assert feed(by_coroutines().answer(Delete("a")), [(("delete", A), gone)]) is None


def test_deleting_fails_as_the_store_does() -> None:
    with pytest.raises(StatusError, match="503"):
        feed(by_coroutines().answer(Delete("a")), [(("delete", A), StatusError(503))])


@pytest.mark.parametrize("there", ["v2", "", FileNotFoundError(), StatusError(404)])
def test_another_version_is_not_deleted(there: Any) -> None:
    with pytest.raises(VersionError):
        feed(by_coroutines().answer(Delete("a", "v1")), [(("version", A), there)])
    assert feed(by_coroutines().answer(Delete("a", "v1")), [(("version", A), "v1"), (("delete", A), None)]) is None


def test_a_listing_is_one_coroutine() -> None:
    assert feed(by_http().answer(List("a/b", 7)), [(("list", f"{ROOT}/a/b", 7), ["bc"])]) == ["bc"]
