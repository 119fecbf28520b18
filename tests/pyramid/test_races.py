"""Who wins, and what others see meanwhile: concurrent creators, readers during writes, killed writers, lost answers."""

from __future__ import annotations

import errno
import fcntl
import gzip
import multiprocessing
import os
import random
import signal
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import brotli
import fsspec
import numpy as np
import pytest
import yarl
from aiohttp import web
from fsspec.implementations.dirfs import DirFileSystem

from precomputed_fs import (
    AlreadyExistsError,
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
    Volume,
    copy_pyramid,
    create_volume,
    open_volume,
)
from precomputed_fs.store import jobs
from precomputed_fs.store.direct import Direct
from precomputed_fs.store.protocols import files, local, sftp
from precomputed_fs.store.protocols.base import LOCK_SUFFIX
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from precomputed_fs.store.requests import Get, Job, Put

KEY = "8_8_8"
COORDS = (0, 64, 0, 64, 0, 64)
NAME = "0-64_0-64_0-64"
BUCKET = "races"

needs_sshd = pytest.mark.skipif(not servers.sshd_installed(), reason="needs openssh-server")
needs_azurite = pytest.mark.skipif(servers.azurite_command() is None, reason="needs azurite")
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Pyramid(NamedTuple):
    """An empty pyramid, and how many threads its server can stand."""

    url: str
    options: dict[str, Any]
    threads: int = 16

    def accessor(self, **more: Any) -> FsspecAccessor:
        return FsspecAccessor(self.url, storage_options=self.options, **more)


@pytest.fixture(scope="module")
def s3() -> Iterator[servers.S3Server]:
    with servers.s3_server() as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def gcs(gcs_server: servers.GcsServer) -> servers.GcsServer:
    gcs_server.create_bucket(BUCKET)
    return gcs_server


@pytest.fixture
def on_s3(s3: servers.S3Server, tmp_path: Path) -> Pyramid:
    return Pyramid(f"s3://{BUCKET}/{tmp_path.name}", s3.storage_options)


@pytest.fixture
def on_gcs(gcs: servers.GcsServer, tmp_path: Path) -> Pyramid:
    return Pyramid(f"gs://{BUCKET}/{tmp_path.name}", gcs.storage_options)


@pytest.fixture(scope="session")
def azure(azure_server: servers.AzureServer) -> servers.AzureServer:
    azure_server.create_container(BUCKET)
    return azure_server


@pytest.fixture
def on_azure(azure: servers.AzureServer, tmp_path: Path) -> Pyramid:
    return Pyramid(f"az://{BUCKET}/{tmp_path.name}", azure.storage_options)


@pytest.fixture(scope="module")
def sftp_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.SftpServer]:
    """Serve the folders of all tests."""
    with servers.sftp_server(tmp_path_factory.getbasetemp()) as server:
        yield server


@pytest.fixture
def on_sftp(sftp_of_all: servers.SftpServer, tmp_path: Path) -> Pyramid:
    return Pyramid(f"{sftp_of_all.url}/{tmp_path.name}", sftp_of_all.storage_options, threads=8)


@pytest.fixture
def on_local(tmp_path: Path) -> Pyramid:
    return Pyramid(str(tmp_path), {})


@pytest.fixture
def on_memory(tmp_path: Path) -> Iterator[Pyramid]:
    yield Pyramid(f"memory://{tmp_path.name}", {})
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture
def pyramid(request: pytest.FixtureRequest) -> Pyramid:
    found: Pyramid = request.getfixturevalue(f"on_{request.param}")
    return found


PLACES = [
    "local",
    "memory",
    "s3",
    "gcs",
    pytest.param("azure", marks=needs_azurite),
    pytest.param("sftp", marks=needs_sshd),
]


def body_of(i: int) -> bytes:
    """Return bytes that tell their writer, long enough to be written in parts."""
    return b"%09d" % i * 20_000


# ----------------------------------------------------------------------------------------------------------- creators


def outcomes(n: int, create: Callable[[int], None]) -> list[type[BaseException] | None]:
    """Let n threads create the same object at once; return how it ended for each."""
    barrier = threading.Barrier(n)

    def run(i: int) -> None:
        barrier.wait(20)
        create(i)

    with ThreadPoolExecutor(n) as pool:
        futures = [pool.submit(run, i) for i in range(n)]
        errors = [future.exception(60) for future in futures]
    return [type(error) if error else None for error in errors]


def assert_one_won(ended: list[type[BaseException] | None], content: bytes) -> None:
    assert Counter(ended) == {None: 1, AlreadyExistsError: len(ended) - 1}
    assert content == body_of(ended.index(None))


@pytest.mark.parametrize("pyramid", PLACES, indirect=True)
def test_one_thread_creates_a_chunk(pyramid: Pyramid) -> None:
    with pyramid.accessor() as accessor:
        ended = outcomes(pyramid.threads, lambda i: accessor.store_chunk(body_of(i), KEY, COORDS))
        assert_one_won(ended, accessor.fetch_chunk(KEY, COORDS))


@pytest.mark.parametrize("pyramid", PLACES, indirect=True)
def test_one_thread_creates_a_file(pyramid: Pyramid) -> None:
    with pyramid.accessor(gzip=False) as accessor:
        accessor.store_file("other", b"x")  # the accessor has created before: it knows its store
        ended = outcomes(pyramid.threads, lambda i: accessor.store_file("mesh/1", body_of(i)))
        assert_one_won(ended, accessor.fetch_file("mesh/1"))


@pytest.mark.parametrize("pyramid", ["local", "memory", "s3", "gcs"], indirect=True)
def test_one_of_many_accessors_creates_a_chunk(pyramid: Pyramid) -> None:
    many = [pyramid.accessor() for _ in range(pyramid.threads if pyramid.url.startswith(("/", "memory")) else 8)]
    ended = outcomes(len(many), lambda i: many[i].store_chunk(body_of(i), KEY, COORDS))
    assert_one_won(ended, many[0].fetch_chunk(KEY, COORDS))
    for accessor in many:
        accessor.close()


def test_one_thread_wins_though_all_bring_the_same_bytes(on_local: Pyramid) -> None:
    with on_local.accessor() as accessor:
        ended = outcomes(16, lambda _: accessor.store_chunk(body_of(7), KEY, COORDS))
    assert Counter(ended) == {None: 1, AlreadyExistsError: 15}


def _create(accessor: FsspecAccessor, i: int, ready: Any, results: Any) -> None:
    try:
        ready.wait(20)
        accessor.store_chunk(body_of(i), KEY, COORDS)
    except BaseException as exc:  # noqa: BLE001 - the parent judges it
        results.put((i, type(exc)))
    else:
        results.put((i, None))


@pytest.mark.processes
@forking
def test_one_process_creates_a_chunk(on_local: Pyramid) -> None:
    context = multiprocessing.get_context("fork")
    accessor = on_local.accessor()
    ready, results = context.Barrier(8), context.Queue()
    children = [context.Process(target=_create, args=(accessor, i, ready, results)) for i in range(8)]
    for child in children:
        child.start()
    try:
        ended = dict(results.get(timeout=40) for _ in children)
    finally:
        for child in children:
            child.join(20)
            child.kill()
    results.close()
    assert_one_won([ended[i] for i in range(8)], accessor.fetch_chunk(KEY, COORDS))


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_one_thread_wins_without_hard_links(on_local: Pyramid, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with on_local.accessor() as accessor:
        ended = outcomes(16, lambda i: accessor.store_chunk(body_of(i), KEY, COORDS))
        assert_one_won(ended, accessor.fetch_chunk(KEY, COORDS))


def test_a_failure_to_link_is_no_success(on_local: Pyramid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", refuse)
    with on_local.accessor() as accessor, pytest.raises(DataAccessError, match="Input/output error"):
        accessor.store_chunk(b"x", KEY, COORDS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("pyramid", ["local", "memory", "s3"], indirect=True)
def test_losers_leave_nothing_behind(pyramid: Pyramid, tmp_path: Path, s3: servers.S3Server) -> None:
    with pyramid.accessor() as accessor:
        outcomes(10, lambda i: accessor.store_chunk(body_of(i), KEY, COORDS))
        accessor.store_chunk(body_of(1), KEY, COORDS, overwrite=True)
    stored = {
        "/": [path.name for path in tmp_path.rglob("*") if path.is_file()],
        "m": [name.rpartition("/")[2] for name in fsspec.filesystem("memory").find(f"/{tmp_path.name}")],
        "s": [name.rpartition("/")[2] for name in s3.keys(BUCKET) if name.startswith(f"{tmp_path.name}/")],
    }[pyramid.url[0]]
    assert stored == [NAME if pyramid.url[0] == "s" else f"{NAME}.gz"]


# ------------------------------------------------------------------------------------------------------------ readers


@pytest.mark.parametrize("pyramid", ["local", "memory", "gcs"], indirect=True)  # moto sends what it has just cut off
def test_readers_see_whole_objects_while_they_are_replaced(pyramid: Pyramid) -> None:
    values = {body_of(i) * 5 for i in range(3)}
    seen: Counter[bytes] = Counter()
    written = threading.Event()
    with pyramid.accessor(gzip=False) as accessor, ThreadPoolExecutor(4) as pool:
        accessor.store_chunk(min(values), KEY, COORDS)

        def poll() -> None:
            while not written.is_set():
                seen[accessor.fetch_chunk(KEY, COORDS)] += 1

        polls = [pool.submit(poll) for _ in range(4)]
        try:
            for _ in range(10):
                for value in sorted(values):
                    accessor.store_chunk(value, KEY, COORDS, overwrite=True)
        finally:
            written.set()
        assert [future.exception(20) for future in polls] == [None] * 4
    assert set(seen) <= values
    assert seen.total() > 4


@pytest.mark.parametrize("pyramid", ["local", "memory", "s3"], indirect=True)
def test_readers_see_nothing_or_the_whole_object_while_it_is_created(pyramid: Pyramid) -> None:
    seen: list[bytes | None] = []
    written = threading.Event()
    with pyramid.accessor(gzip=False) as accessor, ThreadPoolExecutor(1) as pool:

        def poll() -> None:
            i = 0
            while not written.is_set() and i < 20:
                try:
                    seen.append(accessor.fetch_file(f"f{i}"))
                    i += 1
                except NotFoundError:
                    seen.append(None)

        polling = pool.submit(poll)
        try:
            for i in range(20):
                accessor.store_file(f"f{i}", body_of(i) * 5)
        finally:
            written.set()
        polling.result(20)
    assert {value for value in seen if value is not None} <= {body_of(i) * 5 for i in range(20)}


def test_an_object_without_hard_links_is_never_seen_empty(on_local: Pyramid, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    replace = os.replace

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def watched(source: str, target: str) -> None:
        if os.path.exists(target):  # noqa: PTH110 - what a reader would find now
            seen.append(reader.fetch_file("x"))
        replace(source, target)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", watched)
    with on_local.accessor(gzip=False) as accessor, on_local.accessor() as reader:
        accessor.store_file("x", b"whole")
        assert accessor.fetch_file("x") == b"whole"
    assert set(seen) <= {b"whole"}


# ----------------------------------------------------------------------------------------- servers that do not help


UNCONDITIONAL: dict[str, Callable[[], Any]] = {
    "s3, ignored": partial(servers.s3_server, honours_if_none_match=False),
    "s3, 501": partial(servers.s3_server, refuses_conditions=501),
    "gcs, ignored": partial(servers.gcs_server, honours_generation_match=False),
}


@pytest.mark.parametrize("kind", UNCONDITIONAL)
@pytest.mark.parametrize("is_known", [True, False], ids=["after a create", "at first"])
def test_a_server_without_conditions_still_keeps_what_it_has(tmp_path: Path, kind: str, *, is_known: bool) -> None:
    folder = tmp_path.name  # all S3 servers of a process share their buckets
    with UNCONDITIONAL[kind]() as server:
        server.create_bucket(BUCKET)
        scheme = "gs" if "gcs" in kind else "s3"
        options = server.storage_options
        with FsspecAccessor(f"{scheme}://{BUCKET}/{folder}", storage_options=options, gzip=False) as accessor:
            if is_known:
                accessor.store_file("first", b"1")
                accessor.store_file("second", b"2")
            server.put(BUCKET, f"{folder}/{KEY}/{NAME}", b"old")
            server.put(BUCKET, f"{folder}/mesh/1", b"old")
            with pytest.raises(AlreadyExistsError):
                accessor.store_chunk(b"new", KEY, COORDS)
            with pytest.raises(AlreadyExistsError):
                accessor.store_file("mesh/1", b"new")
            accessor.store_file("mesh/2", b"new")
        kept = {name: server.get(BUCKET, name)[0] for name in server.keys(BUCKET)}
    assert (
        kept.items()
        >= {f"{folder}/{KEY}/{NAME}": b"old", f"{folder}/mesh/1": b"old", f"{folder}/mesh/2": b"new"}.items()
    )


@pytest.fixture(params=[501, 400])
def unconditional(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[servers.S3Server, str]]:
    """Return a server that refuses conditional writes, and the URL of a place in it."""
    with servers.s3_server(refuses_conditions=request.param) as server:
        server.create_bucket(BUCKET)
        yield server, f"s3://{BUCKET}/{tmp_path.name}"


def test_a_refused_condition_is_not_sent_again(unconditional: tuple[servers.S3Server, str]) -> None:
    server, url = unconditional
    with FsspecAccessor(url, storage_options=server.storage_options, gzip=False) as accessor:
        for i in range(3):
            accessor.store_chunk(b"x", KEY, (i, i + 1, 0, 1, 0, 1))
    conditions = [entry.headers.get("If-None-Match") for entry in server.log.entries() if entry.method == "PUT"]
    assert conditions == ["*", None, None, None]


@pytest.mark.parametrize("unconditional", [501], indirect=True)
def test_a_pyramid_is_made_and_copied_where_conditions_are_refused(
    unconditional: tuple[servers.S3Server, str],
) -> None:
    server, url = unconditional
    options: dict[str, Any] = {"storage_options": server.storage_options}
    voxels = np.arange(4096, dtype=np.uint16).reshape(16, 16, 16)
    made = create_volume(url, voxels, resolution=(1, 1, 1), chunk_size=(8, 8, 8), scales=1, **options)
    for i, sharding in enumerate([False, True]):
        copied = copy_pyramid(made, f"{url}{i}", sharding=sharding, **options)
        np.testing.assert_array_equal(copied[0][..., 0], voxels)
    with pytest.raises(AlreadyExistsError):
        create_volume(url, voxels, resolution=(1, 1, 1), **options)


@pytest.mark.parametrize("unconditional", [501], indirect=True)
def test_a_shard_is_replaced_only_in_the_version_that_was_read_where_conditions_are_refused(
    unconditional: tuple[servers.S3Server, str],
) -> None:
    server, url = unconditional
    options: dict[str, Any] = {"storage_options": server.storage_options}
    whole = {"preshift_bits": 3, "minishard_bits": 0, "shard_bits": 0}
    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", **whole}
    voxels = np.full((16, 8, 8), 5, np.uint8)
    create_volume(url, voxels, resolution=(1, 1, 1), chunk_size=(8, 8, 8), sharding=sharding, scales=1, **options)

    def store(first: int, body: bytes) -> FsspecAccessor:
        accessor = FsspecAccessor(url, **options)
        accessor.store_chunk(body * 512, "1_1_1", (first, first + 8, 0, 8, 0, 8), overwrite=True)
        return accessor

    one, other = store(0, b"\1"), store(8, b"\2")
    one.flush()
    merge = jobs.write

    def write_after_another(put: Put) -> Job[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs, "write", merge)
            with store(0, b"\3"):
                pass
        yield from merge(put)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "write", write_after_another)
        other.flush()
    one.close()
    other.close()
    found = open_volume(url, **options)[0][:, 0, 0, 0]
    np.testing.assert_array_equal(found, np.repeat(np.array([3, 2], np.uint8), 8))


HOP_BY_HOP = {"Host", "Content-Length", "Transfer-Encoding", "Connection", "Date", "Server"}


class LossyProxy:
    """Passes requests on; `lose` and `refuse` say how many of the next writes go wrong."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.lose = 0  # is done, but its answer is lost
        self.refuse = 0  # is not done: 503
        self.instead: Callable[[], None] | None = None  # what another does at that moment

    async def handle(self, request: web.Request) -> web.StreamResponse:
        is_write = request.method in {"PUT", "POST"}
        if is_write and self.refuse:
            self.refuse -= 1
            if self.instead is not None:
                self.instead()
            return web.Response(status=503, headers={"Retry-After": "0"})
        answer = await self._forward(request)
        if is_write and self.lose:
            self.lose -= 1
            return _reset(request)
        return answer

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        url = yarl.URL(self.endpoint + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name.title() not in HOP_BY_HOP}
        data = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, headers=headers, data=data) as answer,
        ):
            body = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.title() not in HOP_BY_HOP}
            return web.Response(status=answer.status, body=body, headers=kept)


def _reset(request: web.Request) -> web.StreamResponse:
    transport = request.transport
    assert transport is not None
    socket = transport.get_extra_info("socket")
    socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    return web.Response()


class Lossy(NamedTuple):
    """An accessor to a bucket behind a proxy that loses answers."""

    accessor: FsspecAccessor
    proxy: LossyProxy
    server: Any


@pytest.fixture(params=["s3", "gcs"])
def lossy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lossy]:
    server = request.getfixturevalue(request.param)
    proxy = LossyProxy(server.endpoint)
    with servers.fault_server(proxy.handle) as front:
        scheme = {"s3": "s3", "gcs": "gs"}[request.param]
        options = {**server.storage_options, "endpoint_url": front.url}
        url = f"{scheme}://{BUCKET}/{tmp_path.name}"
        with FsspecAccessor(url, storage_options=options, attempts=3, timeout=5) as accessor:
            yield Lossy(accessor, proxy, server)


@pytest.mark.parametrize("is_known", [True, False], ids=["after a create", "at first"])
def test_a_create_whose_answer_was_lost_is_a_success(lossy: Lossy, tmp_path: Path, *, is_known: bool) -> None:
    if is_known:
        lossy.accessor.store_file("first", b"1")
    lossy.proxy.lose = 1
    lossy.accessor.store_file("mesh/1", b"mine")
    assert gzip.decompress(lossy.server.get(BUCKET, f"{tmp_path.name}/mesh/1")[0]) == b"mine"


@pytest.mark.parametrize("is_known", [True, False], ids=["after a create", "at first"])
def test_a_create_that_was_refused_meets_what_another_wrote(lossy: Lossy, tmp_path: Path, *, is_known: bool) -> None:
    if is_known:
        lossy.accessor.store_file("first", b"1")
    lossy.proxy.refuse = 1
    lossy.proxy.instead = lambda: lossy.server.put(BUCKET, f"{tmp_path.name}/mesh/1", b"theirs")
    with pytest.raises(AlreadyExistsError):
        lossy.accessor.store_file("mesh/1", b"mine")
    assert lossy.server.get(BUCKET, f"{tmp_path.name}/mesh/1")[0] == b"theirs"


def test_an_overwrite_whose_answer_was_lost_is_a_success(lossy: Lossy, tmp_path: Path) -> None:
    lossy.server.put(BUCKET, f"{tmp_path.name}/mesh/1", b"old")
    lossy.proxy.lose = 1
    lossy.accessor.store_file("mesh/1", b"mine", overwrite=True)
    assert gzip.decompress(lossy.server.get(BUCKET, f"{tmp_path.name}/mesh/1")[0]) == b"mine"


# ------------------------------------------------------------------------------------------------ parts of one chunk

SLICES = 8

# A bucket cannot tell processes from accessors, each of which has its own connections.
BETWEEN_PROCESSES = ["local", "s3", pytest.param("sftp", marks=needs_sshd)]


def made_of_one_chunk(pyramid: Pyramid, *, sharded: bool, **options: Any) -> Volume:
    shards = {"preshift_bits": 0, "minishard_bits": 0, "shard_bits": 0}
    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", **shards} if sharded else None
    scale = {"key": KEY, "size": [16, 16, SLICES], "chunk_sizes": [[16, 16, SLICES]], "resolution": [8, 8, 8]}
    scales = [scale | {"encoding": "raw", "sharding": sharding}]
    info = {"data_type": "uint8", "num_channels": 1, "type": "image", "scales": scales}
    return create_volume(pyramid.url, info, storage_options=pyramid.options, **options)


def write_slices(volume: Volume, first: int, step: int) -> None:
    for z in range(first, SLICES, step):
        volume[0][:, :, z : z + 1] = z + 1


def assert_whole(pyramid: Pyramid) -> None:
    voxels = open_volume(pyramid.url, storage_options=pyramid.options)[0][...]
    np.testing.assert_array_equal(voxels[..., 0], np.broadcast_to(np.arange(1, SLICES + 1), (16, 16, SLICES)))


@pytest.mark.parametrize("sharded", [False, True], ids=["unsharded", "sharded"])
@pytest.mark.parametrize("pyramid", PLACES, indirect=True)
def test_threads_that_write_parts_of_one_chunk_lose_nothing(pyramid: Pyramid, sharded: bool) -> None:
    made = made_of_one_chunk(pyramid, sharded=sharded)
    other = open_volume(pyramid.url, storage_options=pyramid.options)
    with ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(write_slices, (made, other)[i % 2], i, 4) for i in range(4)]:
            written.result(60)
    assert_whole(pyramid)


def _once_all_are_there(start: Any, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    start.wait(20)
    target(*arguments)


def run_processes(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    """Run a function in processes at once; each must end well.

    They begin once all are forked: a later one would hold connections that the server has with the others.
    """
    context = multiprocessing.get_context("fork")
    start = context.Barrier(len(arguments))
    children = [context.Process(target=_once_all_are_there, args=(start, target, each)) for each in arguments]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join(60)
            assert child.exitcode == 0
    finally:
        for child in children:
            child.kill()
            child.join()


@pytest.mark.processes
@forking
@pytest.mark.parametrize("sharded", [False, True], ids=["unsharded", "sharded"])
@pytest.mark.parametrize("pyramid", BETWEEN_PROCESSES, indirect=True)
def test_processes_that_write_parts_of_one_chunk_lose_nothing(pyramid: Pyramid, sharded: bool) -> None:
    made = made_of_one_chunk(pyramid, sharded=sharded)
    run_processes(write_slices, [(made, i, 2) for i in range(2)])
    assert_whole(pyramid)


@pytest.mark.processes
@forking
def test_processes_that_compress_and_that_do_not_lose_no_part_of_a_chunk(on_local: Pyramid) -> None:
    made_of_one_chunk(on_local, sharded=False)
    run_processes(write_slices, [(open_volume(on_local.url, gzip=i > 0), i, 2) for i in range(2)])
    assert_whole(on_local)
    assert len(os.listdir(f"{on_local.url}/{KEY}")) == 1  # noqa: PTH208


@pytest.mark.parametrize("pyramid", PLACES, indirect=True)
def test_a_part_is_written_into_what_another_has_stored_since_it_was_read(
    pyramid: Pyramid, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = made_of_one_chunk(pyramid, sharded=False)
    coords = (0, 16, 0, 16, 0, SLICES)
    others = [bytes([i]) * 256 * SLICES for i in range(3)]
    volume[0][...] = 9
    write = jobs.write

    def write_late(put: Put) -> Job[None]:
        if others:
            with monkeypatch.context() as patch, pyramid.accessor() as accessor:
                patch.setattr(jobs, "write", write)
                accessor.store_chunk(others.pop(0), KEY, coords, overwrite=True)
        yield from write(put)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write", write_late)
        volume[0][:, :, 3:4] = 7
    voxels = open_volume(pyramid.url, storage_options=pyramid.options)[0][0, 0, :, 0]
    assert voxels.tolist() == [2, 2, 2, 7, *[2] * (SLICES - 4)]


def test_a_part_that_others_always_come_before_is_an_error(on_local: Pyramid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precomputed_fs.store.jobs._MOST_CONFLICTS", 3)
    volume = made_of_one_chunk(on_local, sharded=False)
    write, coords = jobs.write, (0, 16, 0, 16, 0, SLICES)

    def write_late(put: Put) -> Job[None]:
        with monkeypatch.context() as patch, on_local.accessor() as accessor:
            patch.setattr(jobs, "write", write)
            accessor.store_chunk(b"\1" * 256 * SLICES, KEY, coords, overwrite=True)
        yield from write(put)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write", write_late)
        with pytest.raises(DataAccessError, match=rf"{KEY}/0-16_0-16_0-{SLICES}: another writer .*try again"):
            volume[0][:, :, 3:4] = 7
    assert set(volume[0][...].ravel()) == {1}


@pytest.mark.parametrize("pyramid", ["local", "memory", pytest.param("sftp", marks=needs_sshd)], indirect=True)
def test_a_part_of_a_chunk_that_another_stores_first_under_another_name_is_written_into_that(
    pyramid: Pyramid, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = made_of_one_chunk(pyramid, sharded=False, gzip=False)
    others = [b"\1" * 256 * SLICES]
    write = jobs.write

    def write_late(put: Put) -> Job[None]:
        if others:
            with monkeypatch.context() as patch, pyramid.accessor(gzip=True) as accessor:
                patch.setattr(jobs, "write", write)
                accessor.store_chunk(others.pop(), KEY, (0, 16, 0, 16, 0, SLICES))
        yield from write(put)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write", write_late)
        volume[0][:, :, 3:4] = 7
    voxels = open_volume(pyramid.url, storage_options=pyramid.options)[0][0, 0, :, 0]
    assert voxels.tolist() == [1, 1, 1, 7, *[1] * (SLICES - 4)]


def test_parts_of_a_chunk_that_writers_bring_under_names_of_their_own_are_in_one(
    on_local: Pyramid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of cloud-volume's compressions only gzip is written: others go with the first change, by each writer's option."""
    volume = made_of_one_chunk(on_local, sharded=False, gzip=False)
    others = [open_volume(on_local.url, gzip=True)]
    with on_local.accessor() as accessor:
        accessor.store_file(f"{KEY}/0-16_0-16_0-{SLICES}.br", brotli.compress(b"\1" * 256 * SLICES))
    write = jobs.write

    def write_late(put: Put) -> Job[None]:
        if others:
            with monkeypatch.context() as patch:
                patch.setattr(jobs, "write", write)
                others.pop()[0][:, :, 5:6] = 5
        yield from write(put)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write", write_late)
        volume[0][:, :, 3:4] = 3
    assert volume[0][0, 0, :7, 0].tolist() == [1, 1, 1, 3, 1, 5, 1]
    assert len(os.listdir(f"{on_local.url}/{KEY}")) == 1  # noqa: PTH208


def test_the_first_part_of_a_chunk_that_another_replaces_as_a_whole_is_written_into_that(
    on_local: Pyramid, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = made_of_one_chunk(on_local, sharded=False, gzip=False)
    name = f"{KEY}/0-16_0-16_0-{SLICES}"
    others = [b"\1" * 256 * SLICES]
    exists = jobs.exists

    def exists_late(asked: str) -> Job[bool]:
        """Answer when the other has written its own and before it has deleted what it takes for a twin of that."""
        if others and asked == f"{name}.gz" and (yield from exists(name)):
            with on_local.accessor(gzip=True) as accessor:
                accessor.store_chunk(others.pop(), KEY, (0, 16, 0, 16, 0, SLICES), overwrite=True)
        return (yield from exists(asked))

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "exists", exists_late)
        volume[0][:, :, 3:4] = 7
    assert others == []
    assert volume[0][0, 0, :5, 0].tolist() == [1, 1, 1, 7, 1]


def test_files_that_follow_each_other_within_a_tick_have_versions_of_their_own(on_local: Pyramid) -> None:
    """File systems date files by the millisecond, and give the inode of a file that was just deleted to the next."""
    versions = set()
    with on_local.accessor(gzip=False) as accessor:
        for i in range(200):
            accessor.store_chunk(bytes([i]), KEY, COORDS, overwrite=True)
            versions.add(accessor.pyramid.store.read(f"{KEY}/{NAME}", versioned=True).version)
    assert len(versions) == 200


def test_a_file_is_replaced_once_nobody_holds_its_lock(on_local: Pyramid) -> None:
    with on_local.accessor(gzip=False) as accessor, ThreadPoolExecutor(1) as pool:
        accessor.store_chunk(b"old", KEY, COORDS)
        with open(f"{on_local.url}/{KEY}/{NAME}", "rb") as held:  # noqa: PTH123
            fcntl.flock(held, fcntl.LOCK_EX)
            written = pool.submit(accessor.store_chunk, b"new", KEY, COORDS, overwrite=True)
            with pytest.raises(TimeoutError):
                written.result(0.05)
            assert accessor.fetch_chunk(KEY, COORDS) == b"old"
        written.result(20)
        assert accessor.fetch_chunk(KEY, COORDS) == b"new"


def test_a_lock_that_is_held_for_long_is_an_error(on_local: Pyramid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.05)
    with on_local.accessor(gzip=False) as accessor:
        accessor.store_chunk(b"old", KEY, COORDS)
        with open(f"{on_local.url}/{KEY}/{NAME}", "rb") as held:  # noqa: PTH123
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(DataAccessError, match=rf"{NAME}.*another process has held its lock"):
                accessor.store_chunk(b"new", KEY, COORDS, overwrite=True)
        assert accessor.fetch_chunk(KEY, COORDS) == b"old"
    assert os.listdir(f"{on_local.url}/{KEY}") == [NAME]  # noqa: PTH208


@pytest.mark.parametrize("there_are", ["none", "those of NFS", "none here"])
def test_files_are_replaced_whatever_locks_there_are(
    on_local: Pyramid, monkeypatch: pytest.MonkeyPatch, there_are: str
) -> None:
    flock = fcntl.flock

    def limited(file: int, operation: int) -> None:
        is_writable = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_RDWR
        if operation & fcntl.LOCK_EX and not (is_writable and there_are == "those of NFS"):
            raise OSError(errno.EBADF if there_are == "those of NFS" else errno.ENOLCK, "no lock")
        flock(file, operation)

    if there_are == "none":
        monkeypatch.setattr(local, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", limited)
    made_of_one_chunk(on_local, sharded=False)
    volumes = [open_volume(on_local.url) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_slices, volumes, range(2), [2, 2]))
    assert_whole(on_local)


@needs_sshd
def test_a_lock_that_a_killed_writer_left_on_a_server_is_broken(
    on_sftp: Pyramid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = sftp._mtime

    def look_slowly(*args: Any) -> int | None:
        time.sleep(0.05)
        return look(*args)

    monkeypatch.setattr(files, "LOCK_SECONDS", 0.02)
    monkeypatch.setattr(sftp, "_mtime", look_slowly)
    with on_sftp.accessor(gzip=False) as accessor:
        accessor.store_chunk(b"old", KEY, COORDS)
        [chunk] = tmp_path.rglob(NAME)
        (chunk.parent / f".{NAME}{LOCK_SUFFIX}").write_bytes(b"")
        accessor.store_chunk(b"new", KEY, COORDS, overwrite=True)
        assert accessor.fetch_chunk(KEY, COORDS) == b"new"
    assert os.listdir(chunk.parent) == [NAME]  # noqa: PTH208


# -------------------------------------------------------------------------------------- names that change meanwhile


@pytest.mark.parametrize("pyramid", ["local", "memory"], indirect=True)
@pytest.mark.parametrize("what", ["chunk", "file"])
def test_an_object_that_is_moved_from_name_to_name_is_not_absent(pyramid: Pyramid, what: str) -> None:
    name = f"{KEY}/{NAME}" if what == "chunk" else "mesh/1"
    with pyramid.accessor(gzip=False) as accessor:
        accessor.store_file(name, b"x")
        files, root = fsspec.core.url_to_fs(pyramid.url)
        read, moves = Direct._get, iter(range(9))

        def read_late(driver: Direct, request: Get) -> Any:
            """Move the object to another name just before it is asked for under this one."""
            asked = request.name
            twin = f"{name}.gz" if asked == name else name
            if asked in {name, f"{name}.gz"} and files.exists(f"{root}/{asked}") and next(moves, None) is not None:
                files.mv(f"{root}/{asked}", f"{root}/{twin}")
            return read(driver, request)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Direct, "_get", read_late)
            if what == "chunk":
                accessor.pyramid.find_chunk(KEY, COORDS)
            else:
                accessor.pyramid.find_file(name)


@pytest.mark.parametrize("where", ["on disk", "where nothing tells"])
def test_an_absent_chunk_is_asked_for_once_where_nothing_has_changed_lately(on_local: Pyramid, where: str) -> None:
    files = None if where == "on disk" else DirFileSystem(on_local.url, fsspec.filesystem("file", auto_mkdir=True))
    with FsspecAccessor(on_local.url if files is None else "", fs=files) as accessor:
        accessor.store_chunk(b"x", KEY, (64, 128, 0, 64, 0, 64))
        asked: list[str] = []
        read = Direct._get

        def note(driver: Direct, request: Get) -> Any:
            asked.append(request.name)
            return read(driver, request)

        for folder in (on_local.url, f"{on_local.url}/{KEY}") if files is None else ():
            os.utime(folder, (1, 1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Direct, "_get", note)
            with pytest.raises(NotFoundError):
                accessor.fetch_chunk(KEY, COORDS)
        chunks = [name for name in asked if name.startswith(KEY)]
        assert len(chunks) == len(set(chunks)) == 12


# ----------------------------------------------------------------------------------------------------- killed writers

SIZE = 1 << 20


def _write_for_ever(accessor: FsspecAccessor, started: Any, *, overwrite: bool) -> None:
    for i in range(1_000_000):
        key = KEY if overwrite else f"{KEY}/{i}"
        accessor.store_chunk(bytes([i % 256]) * SIZE, key, COORDS, overwrite=overwrite)
        started.set()


def kill_in_mid_write(accessor: FsspecAccessor, delay: float, *, overwrite: bool) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    child = context.Process(
        target=_write_for_ever, args=(accessor, started), kwargs={"overwrite": overwrite}, daemon=True
    )
    child.start()
    assert child.pid is not None
    assert started.wait(20)
    time.sleep(delay)  # the moment is the point of the test
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    child.close()


@pytest.mark.processes
@forking
def test_a_killed_writer_leaves_the_old_object_or_the_new(on_local: Pyramid) -> None:
    chance = random.Random(1)
    with on_local.accessor(gzip=False) as accessor:
        for _ in range(8):
            kill_in_mid_write(accessor, chance.uniform(0, 0.02), overwrite=True)
            content = accessor.fetch_chunk(KEY, COORDS)
            assert (len(content), len(set(content))) == (SIZE, 1)


@pytest.mark.processes
@forking
def test_a_killed_creator_leaves_the_whole_object_or_none(on_local: Pyramid, tmp_path: Path) -> None:
    chance = random.Random(2)
    for turn in range(5):
        folder = tmp_path / str(turn)
        with FsspecAccessor(folder, gzip=False) as accessor:
            kill_in_mid_write(accessor, chance.uniform(0, 0.02), overwrite=False)
        sizes = {path.stat().st_size for path in folder.rglob(NAME)}
        assert sizes == {SIZE}


# --------------------------------------------------------------------------------------------------------- leftovers


@pytest.fixture
def littered(tmp_path: Path) -> Path:
    """Make a pyramid with what a killed writer leaves, under the name that one really gave."""
    left = []
    real = os.link

    def note(source: Any, target: Any) -> None:
        left.append(os.path.basename(source))  # noqa: PTH119
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", note)
        FsspecAccessor(tmp_path / "other").store_file("x", b"x")
    for folder in (tmp_path / "p", tmp_path / "p" / KEY):
        folder.mkdir()
        (folder / left[0]).write_bytes(b"half an obj")
    return tmp_path / "p"


@pytest.fixture
def local_litter(littered: Path) -> Pyramid:
    return Pyramid(str(littered), {})


@pytest.fixture
def sftp_litter(littered: Path) -> Iterator[Pyramid]:
    with servers.sftp_server(littered) as server:
        yield Pyramid(server.url, server.storage_options)


@pytest.fixture(params=["local", pytest.param("sftp", marks=needs_sshd)])
def on_litter(request: pytest.FixtureRequest) -> Pyramid:
    found: Pyramid = request.getfixturevalue(f"{request.param}_litter")
    return found


def test_what_a_killed_writer_left_is_no_chunk_and_no_file(on_litter: Pyramid) -> None:
    with on_litter.accessor() as accessor:
        with pytest.raises(NotFoundError):
            accessor.fetch_chunk(KEY, COORDS)
        assert accessor.file_exists("info") is False


def test_what_a_killed_writer_left_is_in_nobodys_way(on_litter: Pyramid) -> None:
    with on_litter.accessor() as accessor:
        accessor.store_chunk(b"one", KEY, COORDS)
        accessor.store_chunk(b"two", KEY, COORDS, overwrite=True)
        accessor.store_file("info", b"{}", mime_type="application/json")
        assert accessor.fetch_chunk(KEY, COORDS) == b"two"
        assert accessor.fetch_file("info") == b"{}"


def test_what_was_left_long_ago_is_removed_by_the_next_writer(on_litter: Pyramid, littered: Path) -> None:
    left = next((littered / KEY).iterdir())
    recent, foreign = littered / KEY / f".{'0' * 32}.tmp", littered / KEY / ".of-others.lock"
    recent.write_bytes(b"of a writer that is at work")
    for old in (foreign, *(left.with_name(f".{i:032x}.tmp") for i in range(1, 9))):
        old.write_bytes(b"")
    immovable = left.with_name(f".{9:032x}.tmp")
    immovable.mkdir()
    for old in (littered / KEY).iterdir():
        if old != recent:
            os.utime(old, (time.time() - 2 * 86400,) * 2)
    with on_litter.accessor(gzip=False) as accessor:
        accessor.store_chunk(b"one", KEY, COORDS)
        assert set(accessor.pyramid.store.list_names(f"{KEY}/", 99)) == {NAME, foreign.name}
    assert {path.name for path in (littered / KEY).iterdir()} == {NAME, recent.name, foreign.name, immovable.name}


def test_what_a_killed_writer_leaves_is_hidden(littered: Path) -> None:
    assert all(path.name.startswith(".") for path in littered.rglob("*") if path.is_file())
