"""FsspecAccessor when things go wrong: faults, secrets, threads, processes, event loops, interrupts."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import itertools
import json
import logging
import multiprocessing
import pickle
import signal
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import aiohttp
import fsspec
import fsspec.asyn
import pytest
import yarl
from aiohttp import web
from google.oauth2.credentials import Credentials

from precomputed_fs import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
)
from precomputed_fs.store import failures
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

# fsspec's blockcache does not close its file, also if all goes well.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedRandom:ResourceWarning")

BODY = bytes(range(256)) * 40
KEY = "8_8_8"
FILE = "mesh/1"
SCALE = {"key": KEY, "size": [64, 64, 64], "resolution": [8, 8, 8], "chunk_sizes": [[64, 64, 64]], "encoding": "jpeg"}
INFO = json.dumps({"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [SCALE]}).encode()
COORDS = (0, 64, 0, 64, 0, 64)
CHUNK = f"{KEY}/0-64_0-64_0-64"
BUCKET = "robustness"

needs_sshd = pytest.mark.skipif(not servers.sshd_installed(), reason="needs openssh-server")

Act = Callable[[FsspecAccessor], Any]

READS: dict[str, Act] = {
    "fetch_chunk": lambda accessor: accessor.fetch_chunk(KEY, COORDS),
    "fetch_file": lambda accessor: accessor.fetch_file(FILE),
    "file_exists": lambda accessor: accessor.file_exists(FILE),
}
WRITES: dict[str, Act] = {
    "store_chunk": lambda accessor: accessor.store_chunk(BODY, KEY, COORDS),
    "store_file": lambda accessor: accessor.store_file(FILE, BODY),
    "store_chunk, overwrite": lambda accessor: accessor.store_chunk(BODY, KEY, COORDS, overwrite=True),
    "store_file, overwrite": lambda accessor: accessor.store_file(FILE, BODY, overwrite=True),
}
CACHES = ["simplecache", "filecache", "blockcache"]
BUCKETS = ["s3", "gcs", "azure"]
KINDS = ["http", *BUCKETS, *CACHES, "zip"]


def pairs(kinds: list[str], acts: dict[str, Act], one: str) -> list[Any]:
    """Return parameters: the first act on each kind, and each act on one of these."""
    first = next(iter(acts))
    chosen = ((kind, name) for kind in kinds for name in acts if kind == one or name == first)
    return [pytest.param(kind, acts[name], id=f"{kind}-{name}") for kind, name in chosen]


EACH_KIND_EACH_READ = pairs(KINDS, READS, "http")


def url_and_options(kind: str, url: str, cache: Path) -> tuple[str, dict[str, Any]]:
    """Return the URL and the storage options of a pyramid of this kind that an HTTP server at `url` serves."""
    key = base64.b64encode(b"k" * 64).decode()
    account = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={key};BlobEndpoint={url}/a"
    region = {"region_name": "us-east-1"}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "http": (f"{url}/p", {}),
        "s3": (
            f"s3://{BUCKET}/p",
            {"key": "test", "secret": "test", "endpoint_url": url, "client_kwargs": region},
        ),
        "gcs": (f"gs://{BUCKET}/p", {"token": "anon", "project": "test", "endpoint_url": url}),
        "azure": (f"az://{BUCKET}/p", {"connection_string": account}),
        "zip": (f"zip://p::{url}/archive.zip", {}),
        **{name: (f"{name}::{url}/p", {name: {"cache_storage": str(cache)}}) for name in CACHES},
    }
    return made[kind]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a pyramid `p` and the same in `archive.zip`."""
    folder = tmp_path_factory.mktemp("root")
    objects = {"p/info": INFO, f"p/{CHUNK}": BODY, f"p/{FILE}": BODY}
    objects |= {f"p/{KEY}/{i}-{i + 1}_0-1_0-1": b"%d" % i * 1000 for i in range(32)}
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for name, data in objects.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            archive.writestr(name, data)
    return folder


def with_info(handler: servers.Handler, good: servers.Handler) -> servers.Handler:
    """Answer well for `info`, and with the handler for everything else."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (good if request.path.endswith("/info") else handler)(request)

    return answer


async def answer_of_a_bucket(request: web.Request) -> web.StreamResponse:
    return web.Response(body=INFO if request.path.endswith("/info") else BODY)


class Faulty:
    """One server that answers with the `handler` of the moment, and accessors to it."""

    def __init__(self, root: Path) -> None:
        self.handler: servers.Handler = answer_of_a_bucket
        self.url = ""
        self.log = servers.RequestLog()
        self._root = root
        self._kept: dict[tuple[str, int, float], FsspecAccessor] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await self.handler(request)

    def good(self, kind: str) -> servers.Handler:
        """Return the handler of a server that is well."""
        return answer_of_a_bucket if kind in BUCKETS else servers.files(self._root)

    def accessor(
        self, kind: str, handler: servers.Handler, cache: Path, *, attempts: int = 1, timeout: float = 5
    ) -> FsspecAccessor:
        """Return an accessor, with the handler in place; those of buckets, slow to make, are used again."""
        self.handler = with_info(handler, self.good(kind))
        self.log.clear()
        made = self._kept.get((kind, attempts, timeout))
        if made is None:
            url, options = url_and_options(kind, self.url, cache)
            made = FsspecAccessor(url, storage_options=options, attempts=attempts, timeout=timeout)
            if kind in BUCKETS:
                self._kept[kind, attempts, timeout] = made
        return made

    def close(self) -> None:
        for accessor in self._kept.values():
            accessor.close()


@pytest.fixture(scope="module")
def faulty(root: Path) -> Iterator[Faulty]:
    made = Faulty(root)
    with servers.fault_server(made.handle) as server:
        made.url, made.log = server.url, server.log
        yield made
        made.close()


def failure(act: Callable[[], Any]) -> DataAccessError:
    """Do what has to fail in one of our ways."""
    with pytest.raises(DataAccessError) as caught:
        act()
    return caught.value


def in_turn(*handlers: servers.Handler) -> servers.Handler:
    """Answer the first request of each path with the first handler and so on; the last one stays."""
    seen: dict[str, int] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        turn = seen[request.path] = seen.get(request.path, -1) + 1
        return await handlers[min(turn, len(handlers) - 1)](request)

    return handler


def cut_short(handler: servers.Handler) -> servers.Handler:
    """Send half of what is announced, and close the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        whole = await handler(request)
        if request.method == "HEAD" or not isinstance(whole, web.Response) or not isinstance(whole.body, bytes):
            return whole
        half = web.StreamResponse(status=whole.status, headers=whole.headers)
        half.content_length = len(whole.body)
        await half.prepare(request)
        await half.write(whole.body[: len(whole.body) // 2])
        if request.transport is not None:
            request.transport.close()
        return half

    return answer


def on_get(handler: servers.Handler, good: servers.Handler) -> servers.Handler:
    """Answer GET with one handler and anything else with the other."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (handler if request.method == "GET" else good)(request)

    return answer


HOP_BY_HOP = {"Host", "Content-Length", "Transfer-Encoding", "Connection", "Date", "Server"}


def forwarding(endpoint: str) -> servers.Handler:
    """Pass everything on to another server."""

    async def handler(request: web.Request) -> web.StreamResponse:
        url = yarl.URL(endpoint + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name.title() not in HOP_BY_HOP}
        data = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, headers=headers, data=data) as answer,
        ):
            body = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.title() not in HOP_BY_HOP}
            return web.Response(status=answer.status, body=body, headers=kept)

    return handler


# ------------------------------------------------------------------------------------------------------------- faults

STATUSES = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: NotFoundError,
    500: DataAccessError,
    503: DataAccessError,
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_read_says_what_it_is(faulty: Faulty, tmp_path: Path, kind: str, read: Act, status: int) -> None:
    accessor = faulty.accessor(kind, servers.respond(status), tmp_path)
    if status == 404 and read is READS["file_exists"] and kind != "zip":
        assert read(accessor) is False
    else:
        error = failure(lambda: read(accessor))
        assert type(error) is STATUSES[status]
        assert BUCKET in str(error) or faulty.url in str(error)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("kind", BUCKETS)
def test_a_failed_write_says_what_it_is(faulty: Faulty, tmp_path: Path, kind: str, write: Act, status: int) -> None:
    accessor = faulty.accessor(kind, servers.respond(status), tmp_path)
    assert type(failure(lambda: write(accessor))) is STATUSES[status]


@pytest.mark.parametrize(("kind", "act"), [*pairs(BUCKETS, READS, "s3"), *pairs(BUCKETS, WRITES, "s3")])
def test_an_unreachable_bucket_says_so_soon(tmp_path: Path, kind: str, act: Act) -> None:
    url, options = url_and_options(kind, servers.refused_url(), tmp_path)
    began = time.monotonic()
    with FsspecAccessor(url, storage_options=options) as accessor:
        assert type(failure(lambda: act(accessor))) is DataAccessError
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("kind", ["http", *CACHES, "zip"])
def test_an_unreachable_server_says_so_soon(tmp_path: Path, kind: str, read: Act) -> None:
    url, options = url_and_options(kind, servers.refused_url(), tmp_path)
    began = time.monotonic()
    with FsspecAccessor(url, storage_options=options) as accessor:
        assert type(failure(lambda: read(accessor))) is DataAccessError
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("kind", "read"), EACH_KIND_EACH_READ)
def test_a_read_that_is_not_answered_ends_by_timeout(faulty: Faulty, tmp_path: Path, kind: str, read: Act) -> None:
    accessor = faulty.accessor(kind, servers.latency(20, servers.respond(404)), tmp_path, timeout=0.2)
    began = time.monotonic()
    assert type(failure(lambda: read(accessor))) is DataAccessError
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["http", *BUCKETS])
def test_a_body_that_stalls_ends_by_timeout(faulty: Faulty, tmp_path: Path, kind: str) -> None:
    accessor = faulty.accessor(kind, servers.slow(20, servers.respond(200, BODY)), tmp_path, timeout=0.2)
    began = time.monotonic()
    assert type(failure(lambda: accessor.fetch_file(FILE))) is DataAccessError
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("kind", "write"), pairs(BUCKETS, WRITES, "s3"))
def test_a_write_that_is_not_answered_ends_by_timeout(faulty: Faulty, tmp_path: Path, kind: str, write: Act) -> None:
    accessor = faulty.accessor(kind, servers.latency(20, servers.respond(404)), tmp_path, timeout=0.2)
    began = time.monotonic()
    assert type(failure(lambda: write(accessor))) is DataAccessError
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_503_that_passes_is_not_noticed(faulty: Faulty, tmp_path: Path, kind: str, read: Act) -> None:
    busy = servers.respond(503, b"", {"Retry-After": "0"})
    accessor = faulty.accessor(kind, in_turn(busy, faulty.good(kind)), tmp_path, attempts=2)
    assert read(accessor) in {True, BODY}


@pytest.mark.parametrize("fault", ["reset", "cut"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_connection_is_made_up_for(faulty: Faulty, tmp_path: Path, kind: str, fault: str) -> None:
    good = faulty.good(kind)
    bad = servers.resetting() if fault == "reset" else cut_short(good)
    accessor = faulty.accessor(kind, on_get(in_turn(bad, good), good), tmp_path, attempts=2)
    assert accessor.fetch_chunk(KEY, COORDS) == BODY


@pytest.mark.parametrize(
    ("kind", "verb"),
    [*itertools.product(["http"], READS), *itertools.product(BUCKETS, [*READS, *WRITES])],
)
def test_a_503_for_ever_takes_just_the_attempts(faulty: Faulty, tmp_path: Path, kind: str, verb: str) -> None:
    act = (READS | WRITES)[verb]
    accessor = faulty.accessor(kind, servers.respond(503, b"", {"Retry-After": "0"}), tmp_path, attempts=2)
    assert type(failure(lambda: act(accessor))) is DataAccessError
    assert sum(not entry.path.endswith("/info") for entry in faulty.log.entries()) == 2


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("kind", [*CACHES, "zip"])
def test_a_503_for_ever_behind_a_chain_is_bounded(faulty: Faulty, tmp_path: Path, kind: str, read: Act) -> None:
    accessor = faulty.accessor(kind, servers.respond(503, b"", {"Retry-After": "0"}), tmp_path, attempts=2)
    assert type(failure(lambda: read(accessor))) is DataAccessError
    # HEAD and GET of the chain, and the question what it was
    assert sum(not entry.path.endswith("/info") for entry in faulty.log.entries()) <= 2 * 4


def test_a_503_without_a_hint_is_waited_out_for_a_bounded_time(
    faulty: Faulty, tmp_path: Path, usual_waits: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in usual_waits.items():
        monkeypatch.setattr(failures, name, seconds)
    accessor = faulty.accessor("http", servers.respond(503), tmp_path, attempts=3)
    began = time.monotonic()
    failure(lambda: accessor.fetch_file(FILE))
    assert 0.2 < time.monotonic() - began < 3


@pytest.mark.parametrize("kind", ["http", *BUCKETS])
def test_a_reset_for_ever_is_unreachable_after_the_attempts(faulty: Faulty, tmp_path: Path, kind: str) -> None:
    accessor = faulty.accessor(kind, servers.resetting(), tmp_path, attempts=2)
    assert type(failure(lambda: accessor.fetch_file(FILE))) is DataAccessError
    assert faulty.log.count() >= 2  # aiohttp repeats by itself what a kept connection dropped


@pytest.mark.parametrize("read", ["fetch_chunk", "fetch_file"])
@pytest.mark.parametrize("kind", ["http", *BUCKETS, *CACHES])
def test_a_body_cut_for_ever_is_corrupt(faulty: Faulty, tmp_path: Path, kind: str, read: str) -> None:
    accessor = faulty.accessor(kind, cut_short(faulty.good(kind)), tmp_path, attempts=2)
    error = failure(lambda: READS[read](accessor))
    assert type(error) is CorruptDataError
    assert faulty.log.count("GET") >= 2


@pytest.mark.parametrize("kind", ["s3", "gcs"])
@pytest.mark.parametrize("verb", ["store_chunk", "store_file, overwrite"])
def test_a_failed_write_leads_to_a_retry(faulty: Faulty, tmp_path: Path, kind: str, verb: str) -> None:
    started: dict[str, Any] = {"s3": servers.s3_server, "gcs": servers.gcs_server}
    with started[kind]() as server:
        server.create_bucket(BUCKET)
        busy = servers.respond(503, b"", {"Retry-After": "0"})
        accessor = faulty.accessor(kind, in_turn(busy, forwarding(server.endpoint)), tmp_path, attempts=3)
        WRITES[verb](accessor)
        (name,) = server.keys(BUCKET)
        assert gzip.decompress(server.get(BUCKET, name)[0]) == BODY


@pytest.mark.parametrize("status", [500, 503])
def test_a_fault_of_the_info_makes_no_chunk_absent(faulty: Faulty, tmp_path: Path, status: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status if request.path.endswith("/info") else 404)

    accessor = faulty.accessor("http", handler, tmp_path)
    faulty.handler = handler
    assert type(failure(lambda: accessor.fetch_chunk(KEY, COORDS))) is DataAccessError


# -------------------------------------------------------------------------------------------------------- bad contents

GOOD_GZIP = gzip.compress(BODY)
BAD_GZIPS = {
    "not gzip": BODY,
    "empty": b"",
    "cut": GOOD_GZIP[:-20],
    "wrong checksum": GOOD_GZIP[:-8] + bytes(4) + GOOD_GZIP[-4:],
    "wrong length": GOOD_GZIP[:-4] + bytes(4),
    "damaged": GOOD_GZIP[:50] + bytes(20) + GOOD_GZIP[70:],
}


def serving(name: str, body: bytes, headers: dict[str, str]) -> servers.Handler:
    """Answer for one name only."""

    async def handler(request: web.Request) -> web.StreamResponse:
        found = request.path.endswith(name)
        return web.Response(body=body, headers=headers) if found else web.Response(status=404)

    return handler


def fetch_bad(accessor: FsspecAccessor) -> bytes:
    """Fetch a chunk of a scale of its own: an accessor remembers the names of a scale."""
    return accessor.fetch_chunk("bad", COORDS)


@pytest.mark.parametrize("body", BAD_GZIPS.values(), ids=BAD_GZIPS)
@pytest.mark.parametrize("kind", ["http", "s3", "gcs"])
class TestBadGzip:
    def test_under_a_suffix(self, faulty: Faulty, tmp_path: Path, kind: str, body: bytes) -> None:
        accessor = faulty.accessor(kind, serving(".gz", body, {}), tmp_path)
        for read, name in ((fetch_bad, "bad/0-64_0-64_0-64.gz"), (READS["fetch_file"], f"{FILE}.gz")):
            error = failure(partial(read, accessor))
            assert type(error) is CorruptDataError
            assert f"/p/{name}" in str(error)

    def test_under_a_header(self, faulty: Faulty, tmp_path: Path, kind: str, body: bytes) -> None:
        accessor = faulty.accessor(kind, servers.respond(200, body, {"Content-Encoding": "gzip"}), tmp_path)
        for read, name in ((fetch_bad, "bad/0-64_0-64_0-64"), (READS["fetch_file"], FILE)):
            error = failure(partial(read, accessor))
            assert type(error) is CorruptDataError
            assert f"/p/{name}" in str(error)


def test_bad_gzip_on_disk_is_corrupt_and_named(tmp_path: Path) -> None:
    (tmp_path / "info.gz").write_bytes(GOOD_GZIP[:-20])
    error = failure(lambda: FsspecAccessor(tmp_path).fetch_file("info"))
    assert type(error) is CorruptDataError
    assert str(tmp_path / "info.gz") in str(error)


def test_an_encoding_that_is_not_known_is_corrupt(faulty: Faulty, tmp_path: Path) -> None:
    accessor = faulty.accessor("http", servers.respond(200, BODY, {"Content-Encoding": "rot13"}), tmp_path)
    error = failure(lambda: accessor.fetch_file(FILE))
    assert type(error) is CorruptDataError
    assert "rot13" in str(error)


# ------------------------------------------------------------------------------------------------------------- secrets

SECRETS = ("SECRETSIG", "SECRETPASS", "SECRETKEY", "SECRETTOKEN", "SECRETHEADER", "X-Amz-Signature=", "AccountKey=")
SECRET_KINDS = [*KINDS, "azure with a token"]
LOGGERS = ("precomputed_fs", "fsspec", "fsspec.http", "aiohttp", "asyncio", "s3fs", "gcsfs")


def secret_place(kind: str, url: str, cache: Path) -> tuple[str, dict[str, Any]]:
    """Return a URL and storage options in which everything that can be secret is."""
    host = url.removeprefix("http://")
    http = f"http://user:SECRETPASS@{host}/p?sig=SECRETSIG&se=2030"
    headers = {"headers": {"X-Key": "Bearer SECRETHEADER"}}
    token = Credentials("SECRETTOKEN")  # type: ignore[no-untyped-call]
    account = f"AccountName=a;AccountKey={base64.b64encode(b'SECRETKEY' * 8).decode()};BlobEndpoint={url}/a"
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "http": (http, headers),
        "s3": (
            f"s3://{BUCKET}/p",
            {"key": "SECRETKEY-id", "secret": "SECRETKEY", "token": "SECRETTOKEN", "endpoint_url": url},
        ),
        "gcs": (f"gs://{BUCKET}/p", {"token": token, "project": "test", "endpoint_url": url}),
        "azure": (f"az://{BUCKET}/p", {"connection_string": f"DefaultEndpointsProtocol=http;{account}"}),
        "azure with a token": (
            f"az://{BUCKET}/p",
            {"account_name": "a", "account_host": f"{host}/a", "sas_token": "sv=1&sig=SECRETSIG"},
        ),
        "zip": (f"zip://p::http://user:SECRETPASS@{host}/archive.zip?sig=SECRETSIG", {"http": headers}),
        **{name: (f"{name}::{http}", {name: {"cache_storage": str(cache)}, "http": headers}) for name in CACHES},
    }
    return made[kind]


async def _invalid_redirect(_: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "http://[bad/?sig=SECRETSIG"})


FAULTS: dict[str, servers.Handler] = {
    "403": servers.respond(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"),
    "404": servers.respond(404),
    "503": servers.respond(503, b"", {"Retry-After": "0"}),
    "cut": servers.truncated(BODY[:99], len(BODY)),
    "reset": servers.resetting(),
    "no gzip": servers.respond(200, BODY, {"Content-Encoding": "gzip"}),
    "not answered": servers.latency(20, servers.respond(200)),
    "redirected to nowhere": _invalid_redirect,
}


def shown(act: Callable[[], Any]) -> str:
    """Return everything that a user may come to see of an error, of its causes and its contexts."""
    try:
        act()
    except DataAccessError as exc:
        return "\n".join((str(exc), repr(exc), repr(exc.args), *_chain(exc), *traceback.format_exception(exc)))
    return ""


def _chain(exc: BaseException | None) -> Iterator[str]:
    while exc is not None:
        yield f"{exc} {exc!r}"
        exc = exc.__cause__ or exc.__context__


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


def secrets_in(text: str, log: servers.RequestLog) -> list[str]:
    """Return the secrets that a text shows; what the server saw of a signed URL is one."""
    queries = [dict(parse_qsl(entry.query)) for entry in log.entries()]
    signed = {query[name] for query in queries for name in query if name in {"X-Amz-Signature", "sig"}}
    return [secret for secret in (*SECRETS, *signed) if secret in text]


class Place(NamedTuple):
    """A pyramid full of secrets whose server misbehaves."""

    accessor: FsspecAccessor
    log: servers.RequestLog


@pytest.fixture(scope="module")
def secret_accessors(faulty: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FsspecAccessor]]:
    made = {}
    for kind in SECRET_KINDS:
        url, options = secret_place(kind, faulty.url, tmp_path_factory.mktemp("cache"))
        made[kind] = FsspecAccessor(url, storage_options=options, attempts=1, timeout=0.1)
    yield made
    for accessor in made.values():
        accessor.close()


@pytest.fixture
def leaky(
    request: pytest.FixtureRequest, faulty: Faulty, secret_accessors: dict[str, FsspecAccessor], tmp_path: Path
) -> Iterator[Place]:
    """Return an accessor of the kind and with the fault that the test names."""
    kind, fault = request.param
    faulty.log.clear()
    if fault in FAULTS:
        faulty.handler = with_info(FAULTS[fault], faulty.good(kind))
        yield Place(secret_accessors[kind], faulty.log)
    else:
        url, options = secret_place(kind, servers.refused_url(), tmp_path)
        with FsspecAccessor(url, storage_options=options, attempts=1, timeout=0.1) as accessor:
            yield Place(accessor, faulty.log)


# These caches keep what is sent and not how it is encoded: without the magic of gzip it is taken as it is.
UNNOTICED = {("simplecache", "no gzip"), ("filecache", "no gzip")}


def leaks(kinds: list[str]) -> pytest.MarkDecorator:
    places = [(kind, fault) for kind in kinds for fault in (*FAULTS, "refused")]
    places = [place for place in places if place not in UNNOTICED]
    return pytest.mark.parametrize("leaky", places, ids=map("-".join, places), indirect=True)


@leaks(SECRET_KINDS)
def test_no_secret_shows_in_the_errors_of_reads(leaky: Place) -> None:
    text = "\n".join(shown(partial(read, leaky.accessor)) for read in READS.values())
    assert "precomputed_fs.errors" in text
    assert secrets_in(text, leaky.log) == []


@leaks(BUCKETS)
def test_no_secret_shows_in_the_errors_of_writes(leaky: Place) -> None:
    text = "\n".join(shown(partial(write, leaky.accessor)) for write in WRITES.values())
    assert secrets_in(text, leaky.log) == []


@leaks(["http", "s3", "gcs"])
def test_no_secret_is_logged_by_reads(leaky: Place, caplog: pytest.LogCaptureFixture) -> None:
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, logger=name)
    for read in READS.values():
        shown(partial(read, leaky.accessor))
    assert secrets_in(logged(caplog), leaky.log) == []


@pytest.mark.parametrize("kind", SECRET_KINDS)
def test_no_secret_is_in_the_repr(kind: str, secret_accessors: dict[str, FsspecAccessor], faulty: Faulty) -> None:
    accessor = secret_accessors[kind]
    pyramid = accessor.pyramid
    assert secrets_in(f"{accessor!r} {accessor} {pyramid!r} {pyramid.location!r} {pyramid.store!r}", faulty.log) == []


def test_no_secret_shows_where_s3_refers_to_the_sdk(faulty: Faulty, tmp_path: Path) -> None:
    url, options = secret_place("s3", faulty.url, tmp_path)
    faulty.handler = servers.respond(400)
    faulty.log.clear()
    with FsspecAccessor(url, storage_options=options, attempts=1) as accessor:
        text = shown(lambda: accessor.fetch_file(FILE))
    assert "DataAccessError" in text
    assert secrets_in(text, faulty.log) == []


def test_secrets_do_reach_the_server(faulty: Faulty, tmp_path: Path) -> None:
    url, options = secret_place("http", faulty.url, tmp_path)
    faulty.handler = servers.respond(200, BODY)
    faulty.log.clear()
    FsspecAccessor(url, storage_options=options).fetch_file(FILE)
    (request,) = faulty.log.entries()
    user = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
    assert (user, request.headers["X-Key"], request.query) == (
        "user:SECRETPASS",
        "Bearer SECRETHEADER",
        "sig=SECRETSIG&se=2030",
    )


@needs_sshd
def test_no_password_of_sftp_shows(tmp_path: Path) -> None:
    port = servers.refused_url().rpartition(":")[2]
    refused = FsspecAccessor(f"sftp://user:SECRETPASS@127.0.0.1:{port}{tmp_path}", attempts=1)
    texts = [shown(lambda: refused.fetch_file(FILE)), repr(refused)]
    with servers.sftp_server(tmp_path) as server:
        options = {"port": server.storage_options["port"], "look_for_keys": False, "allow_agent": False}
        denied = FsspecAccessor(f"sftp://user:SECRETPASS@127.0.0.1{tmp_path}", storage_options=options, attempts=1)
        texts.append(shown(lambda: denied.fetch_file(FILE)))
    assert all(texts)
    assert secrets_in("\n".join(texts), servers.RequestLog()) == []


# --------------------------------------------------------------------------------- pyramids that answer, for the rest


class Pyramid(NamedTuple):
    """A pyramid that is well: `INFO`, `BODY` at `COORDS` and 32 small chunks."""

    url: str
    options: dict[str, Any]

    def accessor(self, **more: Any) -> FsspecAccessor:
        return FsspecAccessor(self.url, storage_options=self.options, **more)


@pytest.fixture(scope="module")
def on_http(root: Path) -> Iterator[Pyramid]:
    with servers.http_server(root) as server:
        yield Pyramid(f"{server.url}/p", {})


def _put_all(server: servers.S3Server | servers.GcsServer, root: Path) -> None:
    server.create_bucket(BUCKET)
    for path in (root / "p").rglob("*"):
        if path.is_file():
            server.put(BUCKET, str(path.relative_to(root)), path.read_bytes())


@pytest.fixture(scope="module")
def on_s3(root: Path) -> Iterator[Pyramid]:
    with servers.s3_server() as server:
        _put_all(server, root)
        yield Pyramid(f"s3://{BUCKET}/p", server.storage_options)


@pytest.fixture(scope="module")
def on_gcs(root: Path, gcs_server: servers.GcsServer) -> Pyramid:
    _put_all(gcs_server, root)
    return Pyramid(f"gs://{BUCKET}/p", gcs_server.storage_options)


@pytest.fixture(scope="module")
def on_sftp(root: Path) -> Iterator[Pyramid]:
    with servers.sftp_server(root) as server:
        yield Pyramid(f"{server.url}/p", server.storage_options)


@pytest.fixture(scope="module")
def on_local(root: Path) -> Pyramid:
    return Pyramid(str(root / "p"), {})


@pytest.fixture(scope="module")
def on_memory(root: Path) -> Iterator[Pyramid]:
    fs = fsspec.filesystem("memory")
    files = {str(path.relative_to(root / "p")): path for path in (root / "p").rglob("*") if path.is_file()}
    fs.pipe({f"/test-robustness/{name}": path.read_bytes() for name, path in files.items()})
    yield Pyramid("memory://test-robustness", {})
    fs.rm("/test-robustness", recursive=True)


@pytest.fixture(scope="module")
def on_zip(root: Path) -> Pyramid:
    return Pyramid(f"zip://p::{root}/archive.zip", {})


@pytest.fixture
def on_simplecache(on_http: Pyramid, tmp_path: Path) -> Pyramid:
    return Pyramid(f"simplecache::{on_http.url}", {"simplecache": {"cache_storage": str(tmp_path)}})


PLACES = ["local", "memory", "http", "s3", "gcs", pytest.param("sftp", marks=needs_sshd), "zip", "simplecache"]
SHARED_BY_PROCESSES = [place for place in PLACES if place != "memory"]
WRITABLE = ["local", "memory", "s3", "gcs", pytest.param("sftp", marks=needs_sshd)]


@pytest.fixture
def pyramid(request: pytest.FixtureRequest) -> Pyramid:
    found: Pyramid = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def used(pyramid: Pyramid) -> Iterator[FsspecAccessor]:
    """Return an accessor that has been used."""
    with pyramid.accessor() as accessor:
        assert accessor.fetch_chunk(KEY, COORDS) == BODY
        yield accessor


on_each = partial(pytest.mark.parametrize, "pyramid", indirect=True)


# ------------------------------------------------------------------------------------------------------------ threads


def small(i: int) -> tuple[int, int, int, int, int, int]:
    return (i, i + 1, 0, 1, 0, 1)


def small_body(i: int) -> bytes:
    return b"%d" % i * 1000


@on_each(PLACES)
def test_many_threads_read_through_one_accessor(pyramid: Pyramid) -> None:
    barrier = threading.Barrier(16)
    with pyramid.accessor() as accessor, ThreadPoolExecutor(16) as pool:

        def read(i: int) -> bool:
            barrier.wait(10)
            return all(accessor.fetch_chunk(KEY, small(j % 32)) == small_body(j % 32) for j in range(i, i + 4))

        assert all(pool.map(read, range(16)))


@on_each(WRITABLE)
def test_many_threads_read_and_write_through_one_accessor(pyramid: Pyramid, tmp_path: Path) -> None:
    barrier = threading.Barrier(16)
    with pyramid.accessor() as accessor, ThreadPoolExecutor(16) as pool:

        def use(i: int) -> bool:
            key = f"{tmp_path.name}_{i % 4}"
            barrier.wait(10)
            accessor.store_chunk(small_body(i), key, small(i))
            accessor.store_file(f"{tmp_path.name}/{i}", small_body(i), overwrite=True)
            return (
                accessor.fetch_chunk(key, small(i)) == small_body(i)
                and accessor.fetch_chunk(KEY, small(i)) == small_body(i)
                and accessor.fetch_file(f"{tmp_path.name}/{i}") == small_body(i)
            )

        assert all(pool.map(use, range(16)))


@on_each(["http", "s3", "zip", "simplecache"])
def test_threads_that_find_nothing_all_hear_so(pyramid: Pyramid) -> None:
    with pyramid.accessor() as accessor, ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(accessor.fetch_chunk, "none", small(i)) for i in range(16)]
        assert {type(future.exception(20)) for future in futures} == {NotFoundError}


# ---------------------------------------------------------------------------------------------------------- processes


def _in_child(accessor: FsspecAccessor, pipe: Connection) -> None:
    try:
        pipe.send(accessor.fetch_chunk(KEY, COORDS))
    except BaseException as exc:  # noqa: BLE001 - the parent reports it
        pipe.send(repr(exc))


def forked(accessor: FsspecAccessor) -> Any:
    """Return what a forked child fetches with the accessor that it inherits."""
    gc.collect()  # the child would wait a second for each filesystem that fsspec lets go of there
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(accessor, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(20) else "the child hangs"
    except EOFError:
        return "the child died"
    finally:
        child.kill()
        child.join()
        receiver.close()


forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.mark.processes
@forking
@on_each(PLACES)
def test_a_used_accessor_works_in_a_forked_child(used: FsspecAccessor) -> None:
    assert forked(used) == BODY


@pytest.mark.processes
@forking
@on_each(PLACES)
def test_a_used_accessor_works_on_in_the_parent_of_a_fork(used: FsspecAccessor) -> None:
    forked(used)
    assert used.fetch_chunk(KEY, small(3)) == small_body(3)
    assert used.fetch_file(FILE) == BODY


@pytest.mark.processes
@forking
@on_each(PLACES)
def test_an_unused_accessor_works_in_a_forked_child(pyramid: Pyramid) -> None:
    with pyramid.accessor() as accessor:
        assert forked(accessor) == BODY


@pytest.mark.processes
@forking
@on_each(["http", "s3", "zip", pytest.param("sftp", marks=needs_sshd)])
def test_a_fork_while_threads_read_hangs_nobody(used: FsspecAccessor) -> None:
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            assert used.fetch_chunk(KEY, COORDS) == BODY
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(read) for _ in range(4)]
        try:
            assert [forked(used) for _ in range(2)] == [BODY] * 2
        finally:
            stop.set()
        assert all(future.result(20) for future in reading)


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    """Make a process that has inherited nothing."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.processes
@on_each(SHARED_BY_PROCESSES)
def test_a_used_accessor_works_in_a_spawned_child(used: FsspecAccessor, spawned: ProcessPoolExecutor) -> None:
    assert spawned.submit(used.fetch_chunk, KEY, COORDS).result(30) == BODY
    assert used.fetch_chunk(KEY, small(3)) == small_body(3)


@on_each(PLACES)
def test_a_used_accessor_survives_a_pickle(used: FsspecAccessor) -> None:
    with pickle.loads(pickle.dumps(used)) as copy:
        assert copy.fetch_chunk(KEY, COORDS) == BODY
        assert repr(copy) == repr(used)
        assert (copy.can_read, copy.can_write) == (used.can_read, used.can_write)


@on_each(PLACES)
def test_a_used_accessor_survives_cloudpickle(used: FsspecAccessor) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    with pickle.loads(cloudpickle.dumps(used)) as copy:
        assert copy.fetch_chunk(KEY, COORDS) == BODY


def test_options_survive_a_pickle(tmp_path: Path) -> None:
    accessor = FsspecAccessor(tmp_path, flat=False, gzip=False)
    pickle.loads(pickle.dumps(accessor)).store_chunk(BODY, KEY, COORDS)
    assert (tmp_path / KEY / "0-64" / "0-64" / "0-64").read_bytes() == BODY


def _given(pyramid: Pyramid) -> FsspecAccessor:
    fs, path = fsspec.core.url_to_fs(pyramid.url, **pyramid.options, skip_instance_cache=True)
    return FsspecAccessor(path, fs=fs)


@on_each(["local", "memory", "http", "s3", "gcs"])
def test_an_accessor_of_a_given_filesystem_survives_a_pickle(pyramid: Pyramid) -> None:
    with _given(pyramid) as accessor:
        assert accessor.fetch_chunk(KEY, COORDS) == BODY
        with pickle.loads(pickle.dumps(accessor)) as copy:
            assert copy.fetch_chunk(KEY, COORDS) == BODY


@pytest.mark.processes
@forking
@on_each(["local", "memory", "http", "s3", "gcs"])
def test_an_accessor_of_a_given_filesystem_works_in_a_forked_child(pyramid: Pyramid) -> None:
    with _given(pyramid) as accessor:
        assert accessor.fetch_chunk(KEY, COORDS) == BODY
        assert forked(accessor) == BODY
        assert accessor.fetch_chunk(KEY, small(3)) == small_body(3)


# -------------------------------------------------------------------------------------------------------- event loops


def until_asked(log: servers.RequestLog) -> None:
    """Wait for the first request."""
    while not log.count():
        time.sleep(0.005)


@on_each(PLACES)
def test_the_plain_door_works_inside_a_running_loop(pyramid: Pyramid) -> None:
    async def notebook_cell() -> bytes:
        with pyramid.accessor() as accessor:
            return accessor.fetch_chunk(KEY, COORDS)

    assert asyncio.run(notebook_cell()) == BODY


@on_each(PLACES)
def test_one_accessor_is_awaited_from_many_loops_at_once(pyramid: Pyramid) -> None:
    barrier = threading.Barrier(4)

    async def reads(accessor: FsspecAccessor) -> list[bytes]:
        return await asyncio.gather(*(accessor.fetch_chunk_async(KEY, small(i)) for i in range(8)))

    def loop(accessor: FsspecAccessor) -> list[bytes]:
        barrier.wait(10)
        return asyncio.run(reads(accessor))

    with pyramid.accessor() as accessor, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(loop, accessor) for _ in range(4)]
        assert [future.result(30) for future in futures] == [[small_body(i) for i in range(8)]] * 4


@on_each(WRITABLE)
def test_what_one_loop_stores_another_fetches(pyramid: Pyramid) -> None:
    with pyramid.accessor() as accessor:
        asyncio.run(accessor.store_chunk_async(BODY, "loops", COORDS, overwrite=True))
        asyncio.run(accessor.store_file_async("loops.bin", BODY, overwrite=True))
        assert asyncio.run(accessor.fetch_chunk_async("loops", COORDS)) == BODY
        assert asyncio.run(accessor.fetch_file_async("loops.bin")) == BODY
        assert asyncio.run(accessor.file_exists_async("loops.bin")) is True


@on_each(["http", "s3", "gcs", "local", "zip"])
def test_the_awaited_door_fails_like_the_plain_one(pyramid: Pyramid) -> None:
    with pyramid.accessor() as accessor:
        with pytest.raises(NotFoundError):
            asyncio.run(accessor.fetch_chunk_async("none", COORDS))
        assert asyncio.run(accessor.file_exists_async("none")) is False


@pytest.mark.parametrize("kind", ["http", "s3", "gcs", "simplecache"])
def test_a_cancelled_fetch_leaves_the_accessor_usable(faulty: Faulty, tmp_path: Path, kind: str) -> None:
    # A thread cannot be cancelled, and the end of a loop waits for it: behind a cache the delay is short.
    delay = 0.5 if kind in CACHES else 20
    accessor = faulty.accessor(kind, servers.latency(delay, faulty.good(kind)), tmp_path)

    async def give_up() -> None:
        task = asyncio.create_task(accessor.fetch_chunk_async(KEY, COORDS))
        await asyncio.to_thread(until_asked, faulty.log)
        task.cancel()
        await task

    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())
    assert time.monotonic() - began < 4
    faulty.handler = faulty.good(kind)
    assert accessor.fetch_chunk(KEY, COORDS) == BODY
    assert asyncio.run(accessor.fetch_chunk_async(KEY, COORDS)) == BODY


def test_a_timeout_around_an_awaited_fetch_holds(faulty: Faulty, tmp_path: Path) -> None:
    accessor = faulty.accessor("http", servers.latency(20, servers.respond(200)), tmp_path)

    async def limited() -> None:
        await asyncio.wait_for(accessor.fetch_file_async(FILE), 0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(limited())


@pytest.mark.parametrize("kind", ["http", "s3", "gcs", "simplecache", "zip"])
def test_an_interrupt_ends_a_slow_fetch_and_leaves_the_accessor_usable(
    faulty: Faulty, tmp_path: Path, kind: str
) -> None:
    accessor = faulty.accessor(kind, servers.latency(20, faulty.good(kind)), tmp_path, timeout=30)
    main = threading.get_ident()

    def interrupt() -> None:
        until_asked(faulty.log)
        signal.pthread_kill(main, signal.SIGINT)

    began = time.monotonic()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        accessor.fetch_chunk(KEY, COORDS)
    thread.join()
    assert time.monotonic() - began < 4
    faulty.handler = faulty.good(kind)
    assert accessor.fetch_chunk(KEY, COORDS) == BODY


@on_each(["http", "s3", "gcs", "simplecache"])
def test_a_plain_call_on_fsspecs_own_loop_reads(pyramid: Pyramid) -> None:
    """It blocks the loop, so that no coroutine of the filesystem can run meanwhile; libcurl needs none."""
    with pyramid.accessor() as accessor:
        accessor.fetch_file(FILE)  # S3's credentials are found by a coroutine

        async def stuck() -> bytes:
            return accessor.fetch_chunk(KEY, COORDS)

        future = asyncio.run_coroutine_threadsafe(stuck(), fsspec.asyn.get_loop())
        assert future.result(5) == BODY


@on_each(["s3", "gcs"])
def test_a_plain_call_to_write_on_fsspecs_own_loop_is_refused(pyramid: Pyramid) -> None:
    with pyramid.accessor() as accessor:

        async def stuck() -> None:
            accessor.store_file("stuck", b"")

        future = asyncio.run_coroutine_threadsafe(stuck(), fsspec.asyn.get_loop())
        with pytest.raises(RuntimeError, match="loop"):
            future.result(5)
        assert accessor.fetch_chunk(KEY, COORDS) == BODY


@on_each(["http", "s3", "gcs"])
def test_the_awaited_door_works_on_fsspecs_own_loop(pyramid: Pyramid) -> None:
    with pyramid.accessor() as accessor:
        fetching = accessor.fetch_chunk_async(KEY, COORDS)
        assert asyncio.run_coroutine_threadsafe(fetching, fsspec.asyn.get_loop()).result(10) == BODY


@on_each(PLACES)
def test_a_closed_accessor_opens_again(used: FsspecAccessor) -> None:
    used.close()
    used.close()
    assert used.fetch_chunk(KEY, COORDS) == BODY
