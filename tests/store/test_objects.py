"""ObjectStore over real servers: ranges, whole reads, writes, listings, retries, and the mapping of foreign errors."""

from __future__ import annotations

import base64
import errno
import gc
import gzip
import os
import re
import resource
import socket
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import fsspec.asyn
import pytest
from aiohttp import web
from fsspec.implementations.github import GithubFileSystem

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    NotFoundError,
)
from precomputed_fs.errors import NoRangesError
from precomputed_fs.store import failures
from precomputed_fs.store.location import resolve
from precomputed_fs.store.objects import ObjectStore
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = bytes(range(256)) * 40
PACKED = gzip.compress(BODY, mtime=0)
NAME = "a/blob"
EMPTY = "a/empty"
BUCKET = "objects"

Where = tuple[str, dict[str, Any]]
"""A URL and its storage options."""

needs_nginx = pytest.mark.skipif(not servers.nginx_installed(), reason="needs nginx")
needs_sshd = pytest.mark.skipif(not servers.sshd_installed(), reason="needs openssh-server")
needs_azurite = pytest.mark.skipif(servers.azurite_command() is None, reason="needs azurite")


def store_at(url: str, options: dict[str, Any] | None = None, *, attempts: int = 1, timeout: float = 5) -> ObjectStore:
    return ObjectStore(resolve(url, storage_options=options), attempts=attempts, timeout=timeout)


def read(store: ObjectStore, name: str = NAME, *limits: int) -> bytes:
    """Read without any Content-Encoding, which only nginx applies by itself."""
    body = store.read(name, *limits)
    return gzip.decompress(body.data) if body.content_encoding == "gzip" else body.data


def write(store: ObjectStore, name: str, data: bytes, *, create: bool = False, encoding: str = "") -> None:
    store.write(name, data, content_type="text/x", content_encoding=encoding, create=create)


def failure(verb: Callable[..., Any], *args: Any, **kwargs: Any) -> DataAccessError:
    """Do what has to fail in one of our ways."""
    with pytest.raises(DataAccessError) as caught:
        verb(*args, **kwargs)
    return caught.value


def s3_options(endpoint: str, **more: Any) -> dict[str, Any]:
    region = {"region_name": "us-east-1"}
    return {"key": "test", "secret": "test", "endpoint_url": endpoint, "client_kwargs": region, **more}


def gcs_options(endpoint: str, **more: Any) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "token": "anon", "project": "test", **more}


# ------------------------------------------------------------------------------------------------- where objects are


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    (folder / "a").mkdir()
    (folder / NAME).write_bytes(BODY)
    (folder / EMPTY).write_bytes(b"")
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr(f"pyramid/{NAME}", BODY)
        archive.writestr(f"pyramid/{EMPTY}", b"")
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[servers.S3Server]:
    with servers.s3_server() as server:
        server.create_bucket(BUCKET)
        server.put(BUCKET, f"p/{NAME}", BODY)
        server.put(BUCKET, f"p/{EMPTY}", b"")
        yield server


@pytest.fixture(scope="session")
def gcs(gcs_server: servers.GcsServer) -> servers.GcsServer:
    gcs_server.create_bucket(BUCKET)
    gcs_server.put(BUCKET, f"p/{NAME}", BODY)
    gcs_server.put(BUCKET, f"p/{EMPTY}", b"")
    return gcs_server


@pytest.fixture(scope="session")
def azure(azure_server: servers.AzureServer) -> servers.AzureServer:
    azure_server.create_container(BUCKET)
    azure_server.put(BUCKET, f"p/{NAME}", BODY)
    azure_server.put(BUCKET, f"p/{EMPTY}", b"")
    return azure_server


@pytest.fixture(scope="module")
def sftp(root: Path) -> Iterator[servers.SftpServer]:
    with servers.sftp_server(root) as server:
        yield server


@pytest.fixture(scope="module")
def in_http(root: Path) -> Iterator[Where]:
    with servers.http_server(root) as server:
        yield server.url, {}


@pytest.fixture(scope="module")
def in_nginx(root: Path) -> Iterator[Where]:
    with servers.nginx_server(root, gzip=True) as server:
        yield server.url, {}


@pytest.fixture(scope="module")
def in_s3(s3: servers.S3Server) -> Where:
    return f"s3://{BUCKET}/p", s3.storage_options


@pytest.fixture(scope="module")
def in_s3_driver(s3: servers.S3Server) -> Where:
    """S3 with an option that leaves every request to s3fs."""
    return f"s3://{BUCKET}/p", {**s3.storage_options, "requester_pays": True}


@pytest.fixture(scope="module")
def in_gcs(gcs: servers.GcsServer) -> Where:
    return f"gs://{BUCKET}/p", gcs.storage_options


@pytest.fixture(scope="module")
def in_gcs_driver(gcs: servers.GcsServer) -> Where:
    """GCS with an option that leaves every request to gcsfs."""
    return f"gs://{BUCKET}/p", {**gcs.storage_options, "requester_pays": True}


@pytest.fixture(scope="module")
def in_azure(azure: servers.AzureServer) -> Where:
    return f"az://{BUCKET}/p", azure.storage_options


@pytest.fixture(scope="module")
def in_azure_driver(azure: servers.AzureServer) -> Where:
    """Azure with an option that leaves every request to adlfs."""
    return f"az://{BUCKET}/p", {**azure.storage_options, "version_aware": True}


@pytest.fixture(scope="module")
def in_sftp(sftp: servers.SftpServer) -> Where:
    return sftp.url, sftp.storage_options


@pytest.fixture(scope="module")
def in_local(root: Path) -> Where:
    return str(root), {}


@pytest.fixture(scope="module")
def in_memory() -> Iterator[Where]:
    fs = fsspec.filesystem("memory")
    fs.pipe({f"/test-objects/{NAME}": BODY, f"/test-objects/{EMPTY}": b""})
    yield "memory://test-objects", {}
    fs.rm("/test-objects", recursive=True)


@pytest.fixture(scope="module")
def in_zip(root: Path) -> Where:
    return f"zip://pyramid::{root}/archive.zip", {}


READABLE = [
    "http",
    pytest.param("nginx", marks=needs_nginx),
    "s3",
    "s3_driver",
    "gcs",
    "gcs_driver",
    pytest.param("azure", marks=needs_azurite),
    pytest.param("azure_driver", marks=needs_azurite),
    pytest.param("sftp", marks=needs_sshd),
    "local",
    "memory",
    "zip",
]
WRITABLE = [
    "s3",
    "gcs",
    pytest.param("azure", marks=needs_azurite),
    pytest.param("sftp", marks=needs_sshd),
    "local",
    "memory",
]


Stores = Callable[[str], ObjectStore]


@pytest.fixture(scope="module")
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """Return the store of a place by its name, always the same: making a client of S3 takes long."""

    @cache
    def store_of(place: str) -> ObjectStore:
        url, options = request.getfixturevalue(f"in_{place}")
        store = store_at(url, options, attempts=2)
        open_ones.append(store)
        return store

    open_ones: list[ObjectStore] = []
    yield store_of
    for store in open_ones:
        store.close()


@pytest.fixture(params=READABLE)
def readable(request: pytest.FixtureRequest, stores: Stores) -> ObjectStore:
    return stores(request.param)


@pytest.fixture(params=WRITABLE)
def writable(request: pytest.FixtureRequest, stores: Stores) -> ObjectStore:
    return stores(request.param)


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> str:
    """Return a name that no other test writes to."""
    return f"new/{abs(hash(request.node.nodeid)):x}"


# ------------------------------------------------------------------------------------------------------------ ranges


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, len(BODY)), (255, 1000), (len(BODY) - 1, len(BODY))])
def test_a_range_is_just_the_bytes_asked_for(readable: ObjectStore, start: int, end: int) -> None:
    assert read(readable, NAME, start, end) == BODY[start:end]


@pytest.mark.parametrize(("start", "end"), [(len(BODY) - 5, len(BODY) + 5), (len(BODY) + 5, len(BODY) + 9)])
def test_a_range_past_the_end_is_corrupt(readable: ObjectStore, start: int, end: int) -> None:
    error = failure(readable.read, NAME, start, end)
    assert type(error) is CorruptDataError
    assert NAME in str(error)


def test_an_empty_range_is_empty_even_of_nothing(readable: ObjectStore) -> None:
    assert read(readable, "a/none", 7, 7) == b""


def test_an_empty_range_sends_nothing(s3: servers.S3Server, stores: Stores) -> None:
    s3.log.clear()
    assert read(stores("s3"), NAME, 3, 3) == b""
    assert s3.log.count() == 0


def test_a_range_of_an_absent_object_is_not_found(readable: ObjectStore) -> None:
    assert type(failure(readable.read, "a/none", 0, 4)) is NotFoundError


def test_a_range_asks_for_identity(s3: servers.S3Server, stores: Stores) -> None:
    s3.log.clear()
    read(stores("s3"), NAME, 2, 5)
    (request,) = s3.log.entries()
    assert (request.headers["Range"], request.headers["Accept-Encoding"]) == ("bytes=2-4", "identity")


@pytest.mark.parametrize("where", ["s3", "gcs"])
def test_a_range_of_an_encoded_object_is_refused_rather_than_wrong(
    where: str, request: pytest.FixtureRequest, stores: Stores
) -> None:
    request.getfixturevalue(where).put(BUCKET, "p/packed", PACKED, content_encoding="gzip")
    store = stores(where)
    assert isinstance(failure(store.read, "packed", 0, 10), CorruptDataError)


@pytest.mark.parametrize("where", ["s3", "gcs", pytest.param("azure", marks=needs_azurite)])
def test_a_whole_encoded_object_comes_as_stored_and_says_how(
    where: str, request: pytest.FixtureRequest, stores: Stores
) -> None:
    request.getfixturevalue(where).put(BUCKET, "p/packed", PACKED, content_encoding="gzip")
    store = stores(where)
    body = store.read("packed")
    assert (body.data, body.content_encoding) == (PACKED, "gzip")


async def _short(_: web.Request) -> web.StreamResponse:
    return web.Response(status=206, body=BODY[:3], headers={"Content-Range": f"bytes 0-9/{len(BODY)}"})


async def _long(_: web.Request) -> web.StreamResponse:
    return web.Response(status=206, body=BODY[:11], headers={"Content-Range": f"bytes 0-9/{len(BODY)}"})


async def _elsewhere(_: web.Request) -> web.StreamResponse:
    return web.Response(status=206, body=BODY[1:11], headers={"Content-Range": f"bytes 1-10/{len(BODY)}"})


async def _unsaid(_: web.Request) -> web.StreamResponse:
    return web.Response(status=206, body=BODY[:10])


async def _encoded(_: web.Request) -> web.StreamResponse:
    headers = {"Content-Range": "bytes 0-9/50", "Content-Encoding": "gzip"}
    return web.Response(status=206, body=PACKED[:10], headers=headers)


BAD_RANGES = {
    "ignored": servers.ignoring_range(BODY),
    "ignored, and the body is as long as the range": servers.ignoring_range(BODY[:10]),
    "short": _short,
    "long": _long,
    "another range": _elsewhere,
    "no Content-Range": _unsaid,
    "encoded": _encoded,
}


@pytest.mark.parametrize("scheme", ["http", "s3", "gs"])
@pytest.mark.parametrize("handler", BAD_RANGES.values(), ids=BAD_RANGES)
def test_an_answer_that_is_not_the_range_is_corrupt_at_once(handler: servers.Handler, scheme: str) -> None:
    with servers.fault_server(handler) as server:
        options = {"s3": s3_options(server.url), "gs": gcs_options(server.url)}.get(scheme)
        store = store_at(server.url if scheme == "http" else f"{scheme}://{BUCKET}/p", options, attempts=3)
        error = failure(store.read, NAME, 0, 10)
        is_ignored = handler in {BAD_RANGES[name] for name in BAD_RANGES if name.startswith("ignored")}
        assert type(error) is (NoRangesError if is_ignored else CorruptDataError)
        assert NAME in str(error)
        assert server.log.count() == 1


def test_a_local_range_past_the_end_is_not_padded(stores: Stores) -> None:
    store = stores("local")
    assert type(failure(store.read, EMPTY, 0, 1)) is CorruptDataError


# ------------------------------------------------------------------------------------------------------- whole reads


def test_a_whole_object_comes_back(readable: ObjectStore) -> None:
    assert read(readable) == BODY


def test_an_empty_object_is_empty_and_there(readable: ObjectStore) -> None:
    assert read(readable, EMPTY) == b""
    assert readable.exists(EMPTY) is True


def test_an_absent_object_is_not_found(readable: ObjectStore) -> None:
    assert type(failure(readable.read, "a/none")) is NotFoundError


def test_exists_is_the_stores_own_word(readable: ObjectStore) -> None:
    assert readable.exists(NAME) is True
    assert readable.exists("a/none") is False
    assert readable.exists("none/none/none") is False


@pytest.mark.parametrize("where", ["s3", "gcs", "s3_driver", "gcs_driver", "memory", "local", "zip", "http"])
def test_a_folder_is_no_object(where: str, stores: Stores) -> None:
    store = stores(where)
    assert store.exists("a") is False
    assert type(failure(store.read, "a")) is NotFoundError


@pytest.mark.parametrize("scheme", ["http", "s3", "gs"])
def test_a_body_shorter_than_announced_is_corrupt(scheme: str) -> None:
    with servers.fault_server(servers.truncated(BODY, len(BODY) + 1)) as server:
        options = {"s3": s3_options(server.url), "gs": gcs_options(server.url)}.get(scheme)
        store = store_at(server.url if scheme == "http" else f"{scheme}://{BUCKET}/p", options, attempts=2)
        error = failure(store.read, NAME)
        assert type(error) is CorruptDataError
        assert server.log.count() == 2


async def _reset_midway(request: web.Request) -> web.StreamResponse:
    """Begin a chunked body, whose length nobody knows, and drop the connection."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(BODY)
    if request.transport is not None:
        request.transport.abort()
    return response


def test_a_chunked_body_without_its_end_is_corrupt() -> None:
    with servers.fault_server(_reset_midway) as server:
        store = store_at(server.url, attempts=2)
        assert type(failure(store.read, NAME)) is CorruptDataError
        assert server.log.count() == 2


def truncated_once(body: bytes) -> servers.Handler:
    bad, good = servers.truncated(body[:9], len(body)), servers.respond(200, body)
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        return await (bad if len(seen) == 1 else good)(request)

    return handler


def test_a_body_truncated_once_is_read_again() -> None:
    with servers.fault_server(truncated_once(BODY)) as server:
        assert read(store_at(server.url, attempts=2)) == BODY
        assert server.log.count() == 2


@pytest.mark.parametrize("status", [202, 203, 204, 206, 304])
def test_an_odd_success_is_neither_data_nor_absence(status: int) -> None:
    with servers.fault_server(servers.respond(status)) as server:
        store = store_at(server.url)
        assert type(failure(store.read, NAME)) in {DataAccessError, CorruptDataError}


@pytest.mark.parametrize("status", [200, 203, 206, 416])
@pytest.mark.parametrize("no_head", [405, 501])
def test_without_head_a_small_get_tells_presence(no_head: int, status: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=no_head if request.method == "HEAD" else status)

    with servers.fault_server(handler) as server:
        store = store_at(server.url)
        if status == 203:
            assert type(failure(store.exists, NAME)) is DataAccessError
        else:
            assert store.exists(NAME) is True
        assert server.log.methods() == ["HEAD", "GET"]
        assert server.log.entries()[1].headers["Range"] == "bytes=0-0"


def test_without_head_a_get_tells_absence() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=405 if request.method == "HEAD" else 404)

    with servers.fault_server(handler) as server:
        store = store_at(server.url)
        assert store.exists(NAME) is False


# ------------------------------------------------------------------------------ S3: our own requests and their limits


def only_the_sdk(status: int, body: bytes) -> servers.Handler:
    """Refuse our own requests, as another region's S3 does, and answer botocore's."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if "otocore" not in request.headers["User-Agent"]:
            return web.Response(status=status)
        if "list-type" in request.query:
            return web.Response(body=b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        if "none" in request.path:
            return web.Response(status=404)
        headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        return web.Response(body=body, headers=headers)

    return handler


@pytest.mark.parametrize("status", [301, 307, 400])
def test_s3_that_redirects_our_request_is_asked_through_the_sdk(status: int) -> None:
    with servers.fault_server(only_the_sdk(status, BODY)) as server:
        store = store_at(f"s3://{BUCKET}/p", s3_options(server.url))
        assert read(store) == BODY
        assert server.log.count() == 2
        assert read(store) == BODY
        assert server.log.count() == 3  # our own request is not tried again


@pytest.mark.parametrize(("name", "there"), [(NAME, True), ("a/none", False)])
def test_s3_that_redirects_our_head_is_asked_through_the_sdk(name: str, *, there: bool) -> None:
    with servers.fault_server(only_the_sdk(301, BODY)) as server:
        store = store_at(f"s3://{BUCKET}/p", s3_options(server.url))
        assert store.exists(name) is there


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("status", [301, 307, 400])
def test_s3_that_redirects_the_sdk_too_fails_soon(status: int) -> None:
    with servers.fault_server(servers.respond(status)) as server:
        store = store_at(f"s3://{BUCKET}/p", s3_options(server.url), attempts=3)
        assert type(failure(store.read, NAME)) is DataAccessError
        assert server.log.count() < 200  # botocore follows each referral with another question
    del store
    gc.collect()  # the SDK leaves connections of its referrals open


@pytest.mark.parametrize("where", ["s3", "gcs"])
@pytest.mark.parametrize("name", ["1e+06/a b", "%41/c%2Fd", "ä/#?&=", "x/~!$'()*,;:@"])
def test_names_reach_the_server_intact(where: str, name: str, request: pytest.FixtureRequest, stores: Stores) -> None:
    request.getfixturevalue(where).put(BUCKET, f"p/{name}", b"found")
    store = stores(where)
    assert read(store, name) == b"found"
    assert store.exists(name) is True


# ------------------------------------------------------------------------------------------------------------ writes


def test_what_is_written_is_read(writable: ObjectStore, fresh: str) -> None:
    write(writable, fresh, BODY)
    assert read(writable, fresh) == BODY


def test_a_write_replaces(writable: ObjectStore, fresh: str) -> None:
    write(writable, fresh, BODY)
    write(writable, fresh, b"short")
    assert read(writable, fresh) == b"short"


@pytest.mark.parametrize("first", [True, False])
def test_create_never_replaces(writable: ObjectStore, fresh: str, *, first: bool) -> None:
    write(writable, fresh, b"old", create=first)
    for _ in range(2):
        error = failure(writable.write, fresh, b"new", content_type="a/b", content_encoding="", create=True)
        assert type(error) is AlreadyExistsError
    assert read(writable, fresh) == b"old"


def test_deleting_twice_is_no_error(writable: ObjectStore, fresh: str) -> None:
    write(writable, fresh, BODY)
    for _ in range(2):
        writable.delete(fresh)
    assert writable.exists(fresh) is False


def test_a_written_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    store = store_at(str(tmp_path))
    write(store, "d/e", b"1")
    write(store, "d/e", b"2")
    with pytest.raises(AlreadyExistsError):
        write(store, "d/e", b"3", create=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "e"]


@pytest.mark.parametrize("where", ["s3", "gcs", pytest.param("azure", marks=needs_azurite)])
def test_a_bucket_stores_type_and_encoding(
    where: str, request: pytest.FixtureRequest, stores: Stores, fresh: str
) -> None:
    write(stores(where), fresh, PACKED, encoding="gzip")
    body, fields = request.getfixturevalue(where).get(BUCKET, f"p/{fresh}")
    assert (body, fields["ContentEncoding"], fields["ContentType"]) == (PACKED, "gzip", "text/x")


@pytest.mark.parametrize("where", ["s3", "gcs"])
def test_a_second_create_takes_one_request(
    where: str, request: pytest.FixtureRequest, stores: Stores, fresh: str
) -> None:
    store = stores(where)
    write(store, f"{fresh}-1", b"x", create=True)
    log: servers.RequestLog = request.getfixturevalue(where).log
    log.clear()
    write(store, f"{fresh}-2", b"x", create=True)
    assert log.count() == 1


# ---------------------------------------------------------------------------------------------------------- listings

LISTED = [
    "local",
    "memory",
    "s3",
    "gcs",
    pytest.param("azure", marks=needs_azurite),
    pytest.param("sftp", marks=needs_sshd),
]


@pytest.fixture(params=LISTED)
def listed(request: pytest.FixtureRequest, stores: Stores, root: Path) -> ObjectStore:
    for name in ("l/aa", "l/ab.gz", "l/b", "l/ac/deep"):
        if request.param == "sftp":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x")
        elif request.param in {"local", "memory"}:
            write(stores(request.param), name, b"x", create=False)
        else:
            request.getfixturevalue(request.param).put(BUCKET, f"p/{name}", b"x")
    return stores(request.param)


@pytest.mark.parametrize(
    ("prefix", "names"),
    [("l/", {"aa", "ab.gz", "ac", "b"}), ("l/a", {"aa", "ab.gz", "ac"}), ("l/ab", {"ab.gz"}), ("none/", set())],
)
def test_a_listing_has_the_last_parts(listed: ObjectStore, prefix: str, names: set[str]) -> None:
    assert set(listed.list_names(prefix, 100)) == names


def test_a_listing_is_limited(listed: ObjectStore) -> None:
    assert len(listed.list_names("l/", 2)) == 2


@pytest.mark.parametrize("where", ["s3", "gcs"])
def test_a_listing_is_one_request(where: str, stores: Stores, request: pytest.FixtureRequest) -> None:
    store, log = stores(where), request.getfixturevalue(where).log
    store.list_names("a/", 1)
    log.clear()
    store.list_names("a/", 1)
    assert log.count() == 1


def test_what_has_no_listing_request_lists_nothing(stores: Stores) -> None:
    assert stores("http").list_names("a/", 10) == []


# ----------------------------------------------------------------------------------------------------------- retries


def once(status: int, headers: dict[str, str], then: servers.Handler | None = None) -> servers.Handler:
    """Fail once, then answer well, or as another handler does."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        if len(seen) == 1:
            return web.Response(status=status, headers=headers)
        return web.Response(body=BODY) if then is None else await then(request)

    return handler


def seconds_of(store: ObjectStore) -> float:
    began = time.monotonic()
    assert read(store) == BODY
    return time.monotonic() - began


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_leads_to_a_retry(status: int) -> None:
    with servers.fault_server(once(status, {"Retry-After": "0"})) as server:
        assert read(store_at(server.url, attempts=2)) == BODY
        assert server.log.count() == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 505])
def test_a_failure_that_stays_leads_to_no_retry(status: int) -> None:
    with servers.fault_server(servers.respond(status)) as server:
        store = store_at(server.url, attempts=3)
        failure(store.read, NAME)
        assert server.log.count() == 1


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (servers.respond(404), NotFoundError),
        (servers.respond(403), AccessDeniedError),
        (servers.respond(416), CorruptDataError),
    ],
    ids=["absent", "denied", "broken"],
)
def test_what_fails_in_another_way_the_second_time_is_what_it_is_then(
    second: servers.Handler, expected: type[Exception]
) -> None:
    with servers.fault_server(once(503, {"Retry-After": "0"}, second)) as server:
        assert type(failure(store_at(server.url, attempts=3).read, NAME)) is expected
        assert server.log.count() == 2


def test_retry_after_is_waited_for() -> None:
    with servers.fault_server(once(503, {"Retry-After": "1"})) as server:
        assert 1.0 <= seconds_of(store_at(server.url, attempts=2)) < 4


@pytest.mark.parametrize("said", ["86400", "9" * 400, "Wed, 21 Oct 2065 07:28:00 GMT"])
def test_a_server_that_asks_to_wait_for_too_long_is_given_up_at_once(said: str) -> None:
    with servers.fault_server(once(429, {"Retry-After": said})) as server:
        error = failure(store_at(server.url, attempts=2).read, NAME)
        assert type(error) is DataAccessError
        assert re.search(r"429.*asks to wait", str(error))
        assert server.log.count() == 1


@pytest.mark.parametrize("said", ["soon", "-5", "1.5", "²"])
def test_retry_after_that_is_no_number_and_no_date_does_no_harm(said: str) -> None:
    with servers.fault_server(once(503, {"Retry-After": said})) as server:
        assert seconds_of(store_at(server.url, attempts=2)) < 3


def test_no_attempt_begins_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_SECONDS", 0.5)
    with servers.fault_server(servers.respond(503)) as server:
        store = store_at(server.url, attempts=1000)
        began = time.monotonic()
        error = failure(store.read, NAME)
        assert time.monotonic() - began < 3
        assert type(error) is DataAccessError
        assert 1 < server.log.count() < 10


def test_giving_up_says_so() -> None:
    with servers.fault_server(servers.respond(503, b"", {"Retry-After": "0"})) as server:
        store = store_at(server.url, attempts=3)
        assert "gave up" in str(failure(store.read, NAME))


# ----------------------------------------------------------------------------------- errors: HTTP, S3, GCS by status

STATUSES = [
    (401, AccessDeniedError),
    (403, AccessDeniedError),
    (404, NotFoundError),
    (410, DataAccessError),
    (412, DataAccessError),
    (429, DataAccessError),
    (500, DataAccessError),
    (503, DataAccessError),
]
S3_CODES = {
    400: "InvalidRequest",
    401: "Unauthorized",
    403: "AccessDenied",
    404: "NoSuchKey",
    410: "Gone",
    412: "PreconditionFailed",
    429: "SlowDown",
    500: "InternalError",
    503: "SlowDown",
}


def s3_says(status: int, code: str) -> servers.Handler:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no.</Message></Error>"
    return servers.respond(status, body.encode(), {"Content-Type": "application/xml"})


def gcs_says(status: int) -> servers.Handler:
    body = f'{{"error": {{"code": {status}, "message": "no.", "errors": [{{"message": "no."}}]}}}}'
    return servers.respond(status, body.encode(), {"Content-Type": "application/json"})


class Failing:
    """Stores whose one server always answers with the `status` of the moment."""

    def __init__(self, server: servers.HttpServer) -> None:
        self.status = 500
        self.log = server.log
        self.url = server.url
        self._stores: dict[tuple[str, bool], ObjectStore] = {}

    def store(self, scheme: str, status: int, *, driver: bool = False) -> ObjectStore:
        """Return the store of a scheme; `driver` leaves all of its requests to s3fs or gcsfs."""
        self.status = status
        self.log.clear()
        if (scheme, driver) not in self._stores:
            more = {"requester_pays": True} if driver else {}
            options = {"http": {}, "s3": s3_options(self.url, **more), "gs": gcs_options(self.url, **more)}
            url = self.url if scheme == "http" else f"{scheme}://{BUCKET}/p"
            self._stores[scheme, driver] = store_at(url, options[scheme])
        return self._stores[scheme, driver]


@pytest.fixture(scope="module")
def failing() -> Iterator[Failing]:
    async def handler(request: web.Request) -> web.StreamResponse:
        status = made[0].status
        says = gcs_says(status) if "storage/v1" in request.path else s3_says(status, S3_CODES[status])
        return await says(request)

    made: list[Failing] = []
    with servers.fault_server(handler) as server:
        made.append(Failing(server))
        yield made[0]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
@pytest.mark.parametrize(
    ("scheme", "driver"), [("http", False), ("s3", False), ("s3", True), ("gs", False), ("gs", True)]
)
class TestReadingByStatus:
    def test_read(self, failing: Failing, scheme: str, status: int, expected: type, *, driver: bool) -> None:
        store = failing.store(scheme, status, driver=driver)
        error = failure(store.read, NAME)
        assert type(error) is expected
        assert NAME in str(error)
        assert failing.log.count() == 1

    def test_range(self, failing: Failing, scheme: str, status: int, expected: type, *, driver: bool) -> None:
        store = failing.store(scheme, status, driver=driver)
        assert type(failure(store.read, NAME, 0, 4)) is expected

    def test_exists(self, failing: Failing, scheme: str, status: int, expected: type, *, driver: bool) -> None:
        store = failing.store(scheme, status, driver=driver)
        if expected is NotFoundError:
            assert store.exists(NAME) is False
        else:
            assert type(failure(store.exists, NAME)) is expected
        assert failing.log.count() <= 3


@pytest.mark.parametrize(("status", "expected"), STATUSES)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
class TestWritingByStatus:
    def test_overwrite(self, failing: Failing, scheme: str, status: int, expected: type) -> None:
        store = failing.store(scheme, status)
        error = failure(store.write, NAME, BODY, content_type="a/b", create=False)
        assert type(error) is expected
        assert NAME in str(error)
        assert failing.log.count() == 1

    def test_delete(self, failing: Failing, scheme: str, status: int, expected: type) -> None:
        store = failing.store(scheme, status)
        if expected is NotFoundError:
            store.delete(NAME)
        else:
            assert type(failure(store.delete, NAME)) is expected

    def test_list(self, failing: Failing, scheme: str, status: int, expected: type) -> None:
        store = failing.store(scheme, status)
        assert type(failure(store.list_names, "a/", 5)) is expected


@pytest.mark.parametrize("scheme", ["http", "gs"])
def test_a_bad_request_is_an_error_of_its_own(failing: Failing, scheme: str) -> None:
    store = failing.store(scheme, 429)
    failing.status = 400
    assert type(failure(store.read, NAME)) is DataAccessError


# ------------------------------------------------------------------------------------------- errors: what a store says


class Saying(NamedTuple):
    """A way in which a store explains a failure."""

    status: int
    code: str
    message: str
    expected: type[DataAccessError]
    advises_anonymity: bool = False

    def answer(self, request: web.Request) -> web.Response:
        """Explain it as S3 and Azure do, or as GCS does."""
        if "storage/v1" not in request.path:
            more = "<AWSAccessKeyId>SECRETKEY</AWSAccessKeyId><StringToSign>SECRETSIGNED</StringToSign>"
            body = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message>{more}</Error>"
            headers = {"Content-Type": "application/xml"}
            if not request.path.startswith(f"/{BUCKET}"):
                headers["x-ms-error-code"] = self.code
            return web.Response(status=self.status, text=body, headers=headers)
        if request.query.get("alt") == "media":
            return web.Response(status=self.status, text=self.message, content_type="text/html")
        reason = {"message": self.message, "reason": self.code}
        error = {"code": self.status, "message": self.message, "errors": [reason]}
        return web.json_response({"error": error}, status=self.status)


SAYINGS = {
    "s3": [
        Saying(403, "AccessDenied", "User: u is not authorized to perform: kms:Decrypt", AccessDeniedError),
        Saying(403, "InvalidAccessKeyId", "The AWS Access Key Id does not exist", AccessDeniedError, True),
        Saying(403, "InvalidObjectState", "The operation is not valid for the storage class", AccessDeniedError),
        Saying(403, "RequestTimeTooSkewed", "The difference between the times is too large", AccessDeniedError),
        Saying(403, "SignatureDoesNotMatch", "The signatures do not match", AccessDeniedError, True),
        Saying(400, "ExpiredToken", "The provided token has expired", AccessDeniedError, True),
        Saying(400, "InvalidToken", "The provided token is malformed", AccessDeniedError, True),
        Saying(400, "KMS.DisabledException", "The key is disabled", DataAccessError),
        Saying(404, "NoSuchBucket", "The specified bucket does not exist", NotFoundError),
        Saying(503, "SlowDown", "Please reduce your request rate", DataAccessError),
    ],
    "gs": [
        Saying(401, "authError", "Invalid Credentials", AccessDeniedError, True),
        Saying(401, "required", "Anonymous caller does not have access", AccessDeniedError),
        Saying(403, "forbidden", "u does not have storage.objects.get access", AccessDeniedError),
        Saying(429, "rateLimitExceeded", "The object exceeded the rate limit", DataAccessError),
    ],
    "az": [
        Saying(403, "AuthenticationFailed", "Server failed to authenticate", AccessDeniedError, True),
        Saying(403, "AuthorizationPermissionMismatch", "This request is not authorized", AccessDeniedError),
        Saying(404, "ContainerNotFound", "The specified container does not exist", NotFoundError),
        Saying(409, "PublicAccessNotPermitted", "Public access is not permitted", AccessDeniedError),
        Saying(503, "ServerBusy", "The server is busy", DataAccessError),
    ],
}
CASES = [(scheme, saying) for scheme, sayings in SAYINGS.items() for saying in sayings]


class Explaining:
    """Stores whose one server explains the failure of the moment."""

    def __init__(self, server: servers.HttpServer) -> None:
        self.saying = CASES[0][1]
        self.log = server.log
        self.url = server.url

    @cache  # noqa: B019 - of a module's tests
    def store(self, scheme: str, *, driver: bool = False) -> ObjectStore:
        """Return the store of a scheme; `driver` leaves all of its requests to the driver."""
        key = base64.b64encode(b"SECRETKEY" * 8).decode()
        account = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={key};BlobEndpoint={self.url}/a"
        options = {
            "s3": s3_options(self.url, **({"requester_pays": True} if driver else {})),
            "gs": gcs_options(self.url, **({"requester_pays": True} if driver else {})),
            "az": {"connection_string": account, **({"version_aware": True} if driver else {})},
        }
        return store_at(f"{scheme}://{BUCKET}/p", options[scheme])


@pytest.fixture(scope="module")
def explaining() -> Iterator[Explaining]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return made[0].saying.answer(request)

    made: list[Explaining] = []
    with servers.fault_server(handler) as server:
        made.append(Explaining(server))
        yield made[0]


@pytest.mark.parametrize(("scheme", "saying"), CASES, ids=[f"{scheme}-{saying.code}" for scheme, saying in CASES])
class TestWhatAStoreSays:
    @pytest.mark.parametrize("verb", ["read", "exists", "list_names"])
    @pytest.mark.parametrize("driver", [False, True], ids=["ours", "driver"])
    def test_reading(self, explaining: Explaining, scheme: str, saying: Saying, verb: str, *, driver: bool) -> None:
        explaining.saying = saying
        store = explaining.store(scheme, driver=driver)
        if verb == "exists" and saying.expected is NotFoundError:
            assert store.exists(NAME) is False
            return
        error = failure(getattr(store, verb), NAME, *[3] * (verb == "list_names"))
        text = str(error)
        assert type(error) is saying.expected
        has_body = verb != "exists" or saying.status in {400, 403} or scheme == "gs"
        assert f"{saying.status} " in text or not has_body
        assert saying.message in text or not has_body or (driver and scheme == "az")
        has_code = has_body or scheme == "az"
        assert saying.code in text or not has_code or scheme == "gs"
        assert ("anon=True" in text) is saying.advises_anonymity
        assert "SECRET" not in "".join(traceback.format_exception(error))

    def test_writing(self, explaining: Explaining, scheme: str, saying: Saying) -> None:
        explaining.saying = saying
        error = failure(explaining.store(scheme).write, NAME, BODY, content_type="a/b", create=False)
        assert type(error) is saying.expected
        assert saying.message in str(error)
        assert "anon=True" not in str(error)
        assert "SECRET" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("options", [{}, {"client_kwargs": {"trust_env": True}}], ids=["ours", "in a session"])
def test_what_any_server_says_is_told(options: dict[str, Any], coding: str) -> None:
    body = b"This folder is for members of the lab."
    headers = {"Content-Type": "text/plain", "Content-Encoding": coding}
    answer = servers.respond(403, gzip.compress(body) if coding == "gzip" else body, headers)
    with servers.fault_server(answer) as server:
        assert body.decode() in str(failure(store_at(server.url, options).read, NAME))


@pytest.mark.parametrize("body", [b"x" * 1_000_000, gzip.compress(bytes(1 << 26))], ids=["large", "a bomb"])
def test_what_is_too_long_to_be_told_is_not(body: bytes) -> None:
    coding = {"Content-Encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}
    with servers.fault_server(servers.respond(403, body, {"Content-Type": "text/plain", **coding})) as server:
        error = failure(store_at(server.url).read, NAME)
    assert type(error) is AccessDeniedError
    assert str(error).endswith("403 Forbidden")


def test_who_is_anonymous_is_not_told_to_be(explaining: Explaining) -> None:
    explaining.saying = Saying(403, "InvalidAccessKeyId", "Who is it?", AccessDeniedError)
    options = {"endpoint_url": explaining.url, "client_kwargs": {"region_name": "us-east-1"}}
    store = ObjectStore(resolve(f"s3://{BUCKET}/p", storage_options=options, anon=True), attempts=1, timeout=5)
    told = str(failure(store.read, NAME))
    assert told.endswith("Who is it?; asked anonymously, as anon=True says")
    assert "reads public data" not in told


def test_s3_that_does_not_take_the_credentials_is_not_asked_again_through_the_sdk(explaining: Explaining) -> None:
    explaining.saying = Saying(400, "ExpiredToken", "The provided token has expired.", AccessDeniedError)
    store = explaining.store("s3")
    explaining.log.clear()
    failure(store.read, NAME)
    assert explaining.log.methods() == ["GET"]


@pytest.mark.parametrize(
    ("scheme", "status", "code"),
    [("s3", 400, "RequestTimeout"), ("s3", 400, "ThrottlingException"), ("gs", 403, "rateLimitExceeded")],
)
def test_what_may_pass_leads_to_a_retry_whatever_its_status(scheme: str, status: int, code: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return Saying(status, code, "later", DataAccessError).answer(request)

    with servers.fault_server(handler) as server:
        options = s3_options(server.url) if scheme == "s3" else gcs_options(server.url)
        error = failure(store_at(f"{scheme}://{BUCKET}/p", options, attempts=2).exists, NAME)
        assert "gave up" in str(error)
        assert server.log.count() == (4 if scheme == "s3" else 2)  # each HEAD and, for what it means, a GET


@pytest.mark.parametrize("where", ["in the environment", "in the options", "in the URL"])
def test_what_a_server_repeats_of_a_request_is_not_told(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"key": "AKIAIOSFODNN7EXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG", "token": "FwoGZXIvYXdzEBYaDKb7example"}

    async def echo(request: web.Request) -> web.StreamResponse:
        sent = " ".join(f"{name}={value}" for name, value in request.headers.items())
        return Saying(403, "AccessDenied", f"{sent} {request.query_string}", AccessDeniedError).answer(request)

    with servers.fault_server(echo) as server:
        options = {"endpoint_url": server.url, "client_kwargs": {"region_name": "us-east-1"}}
        if where == "in the URL":
            store = store_at(f"{server.url.replace('//', '//user:PASSWORD1@')}/p?sig=FwoGZXIvYXdzEBYaDKb7example")
        elif where == "in the options":
            store = store_at(f"s3://{BUCKET}/p", {**options, **secrets})
        else:
            names = {"key": "ACCESS_KEY_ID", "secret": "SECRET_ACCESS_KEY", "token": "SESSION_TOKEN"}
            for name, value in secrets.items():
                monkeypatch.setenv(f"AWS_{names[name]}", value)
            store = store_at(f"s3://{BUCKET}/p", options)
        text = "".join(traceback.format_exception(failure(store.read, NAME)))
        sent = server.log.entries()[0].headers["Authorization"]
    assert "Accept-Encoding" in text
    signed = re.findall("Signature=([0-9a-f]{64})", sent)
    basic = sent.removeprefix("Basic ") if "Basic" in sent else "PASSWORD1"
    assert [secret for secret in (*secrets.values(), *signed, basic) if secret in text] == []


def refusing_writes(status: int) -> servers.Handler:
    """Know no object, and answer every write with a status."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status if request.method in {"PUT", "POST"} else 404)

    return handler


@pytest.mark.parametrize(
    ("status", "expected"),
    [(403, AccessDeniedError), (409, DataAccessError), (412, AlreadyExistsError), (500, DataAccessError)],
)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_creating_by_status(scheme: str, status: int, expected: type) -> None:
    with servers.fault_server(refusing_writes(status)) as server:
        options = s3_options(server.url) if scheme == "s3" else gcs_options(server.url)
        store = store_at(f"{scheme}://{BUCKET}/p", options)
        error = failure(store.write, NAME, BODY, content_type="a/b", create=True)
        assert type(error) is expected


@pytest.mark.parametrize("where", ["s3", "s3_driver", "gcs", "gcs_driver", pytest.param("azure", marks=needs_azurite)])
def test_a_missing_bucket_is_not_found(where: str, request: pytest.FixtureRequest) -> None:
    url, options = request.getfixturevalue(f"in_{where}")
    store = store_at(url.replace(BUCKET, "no-such-bucket"), options)
    assert type(failure(store.read, NAME)) is NotFoundError
    assert store.exists(NAME) is False
    assert type(failure(store.write, NAME, b"x", content_type="a/b", create=False)) is NotFoundError


@needs_azurite
def test_azure_with_a_wrong_key_is_denied(azure: servers.AzureServer) -> None:
    wrong = base64.b64encode(b"w" * 64).decode()
    parts = azure.storage_options["connection_string"].split(";")
    changed = ";".join(f"AccountKey={wrong}" if part.startswith("AccountKey") else part for part in parts)
    store = store_at(f"az://{BUCKET}/p", {"connection_string": changed})
    assert type(failure(store.read, NAME)) is AccessDeniedError
    assert type(failure(store.exists, NAME)) is AccessDeniedError
    assert type(failure(store.write, NAME, b"x", content_type="a/b", create=False)) is AccessDeniedError


@pytest.mark.parametrize("scheme", ["http", "s3", "gs"])
def test_a_refused_connection_is_unreachable_without_a_retry(scheme: str) -> None:
    url = servers.refused_url()
    options = {"http": {}, "s3": s3_options(url), "gs": gcs_options(url)}
    store = store_at(url if scheme == "http" else f"{scheme}://{BUCKET}/p", options[scheme], attempts=5)
    began = time.monotonic()
    assert type(failure(store.read, NAME)) is DataAccessError
    assert type(failure(store.exists, NAME)) is DataAccessError
    assert time.monotonic() - began < 3


def test_a_host_without_an_address_is_unreachable() -> None:
    store = store_at("http://no-such-host.invalid/p")
    assert type(failure(store.read, NAME)) is DataAccessError


# ------------------------------------------------------------------------------------------------------- errors: sftp


@needs_sshd
def test_sftp_refused_is_unreachable(sftp: servers.SftpServer, root: Path) -> None:
    port = int(servers.refused_url().rpartition(":")[2])
    store = store_at(f"sftp://127.0.0.1{root}", {**sftp.storage_options, "port": port})
    assert type(failure(store.read, NAME)) is DataAccessError


@needs_sshd
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # paramiko's, of the refused session
def test_sftp_with_a_wrong_password_is_denied(sftp: servers.SftpServer, root: Path) -> None:
    options = {**sftp.storage_options, "password": "wrong"}
    del options["key_filename"]
    store = store_at(f"sftp://127.0.0.1{root}", options)
    error = failure(store.read, NAME)
    assert type(error) is AccessDeniedError
    assert "wrong" not in str(error)


@needs_sshd
def test_sftp_writes_where_no_folder_is_yet(stores: Stores, root: Path) -> None:
    store = stores("sftp")
    write(store, "new/folders/x", BODY, create=True)
    store.close()
    assert (root / "new/folders/x").read_bytes() == BODY


@needs_sshd
def test_sftp_onto_a_folder_is_not_absence(stores: Stores) -> None:
    store = stores("sftp")
    error = failure(store.write, "a", BODY, content_type="a/b", create=False)
    store.close()
    assert type(error) is DataAccessError


# -------------------------------------------------------------------------------------------------------- errors: zip


def test_a_missing_archive_is_not_found(tmp_path: Path) -> None:
    store = store_at(f"zip://::{tmp_path}/none.zip")
    error = failure(store.read, NAME)
    assert type(error) is NotFoundError
    assert "none.zip" in str(error)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    store = store_at(f"zip://::{tmp_path}/bad.zip")
    assert type(failure(store.read, NAME)) is CorruptDataError


def test_a_truncated_archive_is_corrupt(tmp_path: Path, root: Path) -> None:
    whole = (root / "archive.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    store = store_at(f"zip://pyramid::{tmp_path}/cut.zip")
    assert type(failure(store.read, NAME)) is CorruptDataError


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_corrupt(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x", os.urandom(5000))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    store = store_at(f"zip://::{path}")
    error = failure(store.read, "x")
    store.close()
    assert isinstance(error, CorruptDataError)  # damage may also decode to more than the archive says


def test_an_archive_is_written_when_it_is_closed(tmp_path: Path) -> None:
    store = store_at(f"zip://::{tmp_path}/new.zip", {"mode": "w"})
    write(store, "x", BODY)
    store.close()
    with zipfile.ZipFile(tmp_path / "new.zip") as archive:
        assert archive.read("x") == BODY


# ------------------------------------------------------------------------------------------------------ errors: local


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """Make a folder that another user may enter too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve()
        path.chmod(0o777)
        yield path


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be somebody whom permissions bind, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_denied(open_to_all: Path) -> None:
    (open_to_all / "x").write_bytes(BODY)
    (open_to_all / "x").chmod(0)
    store = store_at(str(open_to_all))
    with as_nobody():
        error = failure(store.read, "x")
    assert type(error) is AccessDeniedError


def test_a_folder_that_may_not_be_entered_is_denied_and_not_absent(open_to_all: Path) -> None:
    (open_to_all / "d").mkdir()
    (open_to_all / "d/x").write_bytes(BODY)
    (open_to_all / "d").chmod(0)
    store = store_at(str(open_to_all))
    try:
        with as_nobody():
            errors = [failure(store.read, "d/x"), failure(store.exists, "d/x")]
    finally:
        (open_to_all / "d").chmod(0o777)
    assert [type(error) for error in errors] == [AccessDeniedError] * 2


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("name", ["d/x", "d/new/x"])
def test_a_folder_that_may_not_be_written_is_denied(open_to_all: Path, name: str, *, create: bool) -> None:
    (open_to_all / "d").mkdir()
    (open_to_all / "d").chmod(0o555)
    store = store_at(str(open_to_all))
    with as_nobody():
        error = failure(store.write, name, BODY, content_type="a/b", create=create)
    assert type(error) is AccessDeniedError
    assert list((open_to_all / "d").iterdir()) == []


def test_writing_onto_a_folder_is_neither_success_nor_absence(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    store = store_at(str(tmp_path))
    error = failure(store.write, "d", BODY, content_type="a/b", create=False)
    assert type(error) is DataAccessError
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "e"]


def test_below_a_file_there_is_nothing(stores: Stores) -> None:
    store = stores("local")
    assert type(failure(store.read, f"{NAME}/x")) is NotFoundError
    assert store.exists(f"{NAME}/x") is False


@pytest.mark.parametrize("create", [True, False])
def test_writing_below_a_file_is_neither_success_nor_absence(tmp_path: Path, *, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = store_at(str(tmp_path))
    error = failure(store.write, "file/x", BODY, content_type="a/b", create=create)
    assert type(error) is DataAccessError
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["n" * 300, "/".join(["n" * 200] * 30)])
def test_a_name_too_long_is_an_error_of_its_own(tmp_path: Path, name: str) -> None:
    store = store_at(str(tmp_path))
    assert type(failure(store.read, name)) is NotFoundError  # a name that cannot be is not there
    assert store.exists(name) is False
    error = failure(store.write, name, BODY, content_type="a/b", create=True)
    assert type(error) is DataAccessError
    assert errno.ENAMETOOLONG in {getattr(cause, "errno", None) for cause in (error.__cause__, error.__context__)}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("create", [True, False])
def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path: Path, *, create: bool) -> None:
    store = store_at(str(tmp_path))
    name = "new" if create else "old"
    (tmp_path / "old").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as far as a write is concerned, the disk is full
    try:
        error = failure(store.write, name, BODY, content_type="a/b", create=create)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert type(error) is DataAccessError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"old"}


# ----------------------------------------------------------------------------------------------------- errors: github


def github_api(status: int = 200) -> servers.Handler:
    """Answer like the API of a repository whose `p` holds the file `info`."""
    tree = [{"path": "p", "mode": "0", "type": "tree", "sha": "p-sha"}]
    inside = [{"path": "info", "mode": "0", "type": "blob", "size": 2, "sha": "info-sha"}]

    async def handler(request: web.Request) -> web.StreamResponse:
        if "/trees/" in request.path:
            return web.json_response({"tree": inside if request.path.endswith("p-sha") else tree})
        if status != 200:
            return web.Response(status=status)
        if request.path.endswith("contents/p/info"):
            return web.json_response({"content": base64.b64encode(b"{}").decode()})
        return web.Response(status=404)

    return handler


@contextmanager
def github(handler: servers.Handler, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with servers.fault_server(handler) as server:
        monkeypatch.setattr(GithubFileSystem, "url", server.url + "/{org}/{repo}/git/trees/{sha}")
        monkeypatch.setattr(GithubFileSystem, "content_url", server.url + "/{org}/{repo}/contents/{path}?ref={sha}")
        yield store_at("github://org:repo@main/p", {"username": "user", "token": "github-token"})


def test_github_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with github(github_api(), monkeypatch) as store:
        assert read(store, "info") == b"{}"
        assert type(failure(store.read, "none")) is NotFoundError
        assert store.exists("info") is True
        assert store.exists("none") is False


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, AccessDeniedError), (403, AccessDeniedError), (404, NotFoundError), (500, DataAccessError)],
)
def test_github_by_status(status: int, expected: type, monkeypatch: pytest.MonkeyPatch) -> None:
    with github(github_api(status), monkeypatch) as store:
        error = failure(store.read, "info")
        assert type(error) is expected
        assert "github-token" not in str(error)


@pytest.mark.parametrize(
    ("status", "expected"), [(403, AccessDeniedError), (404, NotFoundError), (503, DataAccessError)]
)
def test_github_without_its_repository(status: int, expected: type, monkeypatch: pytest.MonkeyPatch) -> None:
    with github(servers.respond(status), monkeypatch) as store:
        assert type(failure(store.read, "info")) is expected


# -------------------------------------------------------------------------------------------------- a filesystem given


def test_a_filesystem_given_is_the_one_used(root: Path) -> None:
    fs = fsspec.filesystem("dir", path=str(root), fs=fsspec.filesystem("file"))
    store = ObjectStore(resolve("a", fs=fs), attempts=1, timeout=5)
    assert read(store, "blob") == BODY
    assert type(failure(store.read, "none")) is NotFoundError


def test_a_filesystem_bound_to_another_loop_is_refused() -> None:
    fs = fsspec.filesystem("http", asynchronous=True, skip_instance_cache=True)
    with pytest.raises(ValueError, match="asynchronous=True"):
        resolve("http://127.0.0.1/p", fs=fs)


# -------------------------------------------------------------------------------------------------------- special files


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


SPECIAL = [fifo, link_to_zeros, listening_socket]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on Windows")
@pytest.mark.parametrize("make", SPECIAL)
def test_what_is_no_regular_file_is_not_read(make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    (tmp_path / "a").mkdir()
    make(Path(NAME))
    of_ones_own = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    for store in (store_at(str(tmp_path)), ObjectStore(resolve("/", fs=of_ones_own), attempts=1, timeout=5)):
        error = failure(store.read, NAME)
        assert type(error) is DataAccessError
        assert "only regular files" in str(error)
        assert isinstance(failure(store.read, NAME, 0, 10), DataAccessError)
        assert not isinstance(failure(store.read, NAME, 0, 10), NotFoundError)
        assert store.exists(NAME), "it is in the way"


def test_a_file_that_does_not_say_how_long_it_is_is_read_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "version").symlink_to("/proc/version")
    text = Path("/proc/version").read_bytes()
    store = store_at(str(tmp_path))
    assert store.read("version", limit=len(text)).data == text
    assert isinstance(failure(store.read, "version", limit=len(text) - 1), CorruptDataError)
