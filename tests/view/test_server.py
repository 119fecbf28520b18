"""The server: who may read, failures, concurrency, its beginning and end, symbolic links."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import logging
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import imagecodecs
import numpy as np
import pytest
from aiohttp import web

from precomputed_fs import (
    AccessDeniedError,
    InvalidInfoError,
    NotFoundError,
    URLError,
    Volume,
    create_volume,
    open_volume,
    serve,
)
from precomputed_fs.errors import ReadOnlyError
from precomputed_fs.store.protocols.local import Local
from precomputed_fs.view import server as server_module
from tests.support import servers
from tests.view.serving import BODY, KEY, NAME, ask, put, raw_info, threads, token_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.view.server import Server
    from tests.support.places import Place


def send(server: Server, *lines: str) -> bytes:
    """Send lines as they are, and return what comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        return connection.makefile("rb").read()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1:{port}.evil.example",
        "localhost",
        "localhost.evil.example:{port}",
        "127.0.0.1:{port}:{port}",
        "user@127.0.0.1:{port}",
        "0.0.0.0:{port}",
        "[::1]:{port}",
        "",
    ],
)
def test_another_host_name_is_refused(server: Server, host: str) -> None:
    for path in (None, "/favicon.ico", f"/{token_of(server)}/v/0/index.html"):
        answer = ask(f"{server.url}/info", path=path, host=host.format(port=server.port))
        assert answer.status in (400, 403)
        assert b"scales" not in answer.body
        assert answer["Access-Control-Allow-Origin"] is None


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LocalHost:{port}"])
def test_this_machine_is_the_host(server: Server, host: str) -> None:
    assert ask(f"{server.url}/info", host=host.format(port=server.port)).status == 200


def test_what_comes_through_jupyters_proxy_may_have_any_host_name(
    run: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "proxied_path", lambda port: f"/user/me/proxy/{port}")
    server = run(put(tmp_path, raw_info(), {}))
    hub = {"host": "hub.example.org", "X_ProxyContextPath": f"/user/me/proxy/{server.port}"}
    assert ask(f"{server.url}/info", **hub).status == 403  # no view has found a proxy yet
    view = server.view()
    assert view.address == f"/user/me/proxy/{server.port}{urlsplit(view.url).path}"
    assert ask(f"{server.url}/info", **hub).status == 200
    assert ask(f"{server.url}/info", host="hub.example.org").status == 403
    assert ask(f"{server.url}/info", host="hub.example.org", X_ProxyContextPath="/user/me/proxy/1").status == 403
    assert ask(f"{server.url}/info", path=f"/{'x' * 22}/data/info", **hub).status == 404


def test_two_host_names_are_refused(server: Server) -> None:
    path, ours = urlsplit(server.url).path, f"Host: 127.0.0.1:{server.port}"
    for hosts in (("Host: evil.example", ours), (ours, "Host: evil.example"), (ours, ours)):
        answer = send(server, f"GET {path}/info HTTP/1.1", *hosts)
        assert re.match(rb"HTTP/1\.[01] (400|403) ", answer)
        assert b"scales" not in answer


def test_without_the_token_there_is_nothing(server: Server) -> None:
    token = token_of(server)
    assert len(token) >= 22  # 128 bits
    wrong = ["", token[:-1], token + "x", token.swapcase(), "x" * len(token), f"./{token}", f"%20{token}", "%C3%A4"]
    paths = [f"/{each}/data/info" for each in wrong]
    paths += ["/", "/info", "/data/info", "//", f"//{token}/data/info", f"/x/{token}/data/info", "/../data/info", "*"]
    paths += [f"http://127.0.0.1/{token}/data/info", f"/?/{token}/data/info"]
    for path in paths:
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            answer = ask(server.url, method, path=path)
            assert answer.status in (400, 404)
            assert b"scales" not in answer.body
            assert answer["Access-Control-Allow-Origin"] is None
    for path in (f"/{token}", f"/{token}/", f"/{token}?data/info"):
        assert ask(server.url, path=path).status == 404
    told = send(server, "GET /\xe4\u20ac/data/info HTTP/1.1", f"Host: 127.0.0.1:{server.port}")
    assert re.match(rb"HTTP/1\.[01] (400|404) ", told)


def test_each_server_has_a_token_of_its_own(run: Callable[..., Server], server: Server) -> None:
    other = run(server.volume)
    assert token_of(other) != token_of(server)
    assert ask(other.url, path=urlsplit(server.url).path + "/info").status == 404


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "mesh/../../secret",
        "%2e%2e/secret",
        "%2E%2E%2Fsecret",
        "..%2fsecret",
        ".%2e/secret",
        "%252e%252e/secret",
        "%252e%252e%252fsecret",
        "..%5csecret",
        "..\\secret",
        "mesh/%2e%2e/%2e%2e/secret",
        "{root}/secret",
        "%2f{root}/secret",
        "//{root}/secret",
        "file://{root}/secret",
        "./../secret",
        "8_8_8/../../secret",
        "secret%00",
        "..%00/secret",
        "%c0%ae%c0%ae/secret",
        "%",
        "%zz",
        "%ff",
        "main.js/../../../secret",
    ],
)
def test_no_path_leads_out_of_the_pyramid(server: Server, path: str) -> None:
    root = os.path.dirname(server.volume.url)  # noqa: PTH120 - a URL
    secret = os.path.join(root, "secret")  # noqa: PTH118
    with open(secret, "w") as file:  # noqa: PTH123
        file.write("TOP SECRET")
    base = urlsplit(server.url).path
    for area in ("data", "v/0", "view", "events"):
        answer = ask(server.url, path=f"{base.removesuffix('data')}{area}/{path.format(root=root)}")
        assert answer.status in (400, 404)
        assert b"SECRET" not in answer.body


def test_nothing_tells_the_token(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    token = token_of(server)
    with caplog.at_level(logging.DEBUG):
        for path in ("data/info", "data/nothing", "data/../x", "v/0/index.html", "nothing"):
            for method in ("GET", "POST"):
                answer = ask(server.url, method, path=f"/{token}/{path}", Referer=server.url)
                assert token not in f"{answer.body!r}{answer.headers.items()}"
                assert answer["Referrer-Policy"] == "no-referrer"
        assert send(server, f"GET /{token}/data/info HTTP/1.1", f"no header {token}").startswith(b"HTTP/1.0 400")
    assert token not in caplog.text
    assert token not in repr(server)
    assert "aiohttp" not in str(ask(server.url)["Server"])


FAULTS: dict[str, tuple[servers.Handler, int]] = {
    "500": (servers.respond(500), 503),
    "503": (servers.respond(503), 503),
    "429": (servers.respond(429), 503),
    "reset": (servers.resetting(), 503),
    "403": (servers.respond(403), 502),
    "401": (servers.respond(401), 502),
    "truncated": (servers.truncated(BODY[:100], 256), 502),
    "no gzip": (servers.respond(200, b"no gzip", {"Content-Encoding": "gzip"}), 502),
    "404": (servers.respond(404), 404),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_of_the_store_is_not_absence(
    run: Callable[..., Server], caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    handler, status = FAULTS[fault]
    info = servers.respond(200, json.dumps(raw_info()).encode())

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (info if request.path == "/lab/info" else handler)(request)

    with servers.fault_server(answer) as store:
        server = run(f"{store.url}/lab?signature=SECRETSECRET", attempts=1)
        for path in (f"{KEY}/{NAME}", f"{KEY}/0-8_0-8_4-8", "mesh/1:0"):
            answered = ask(f"{server.url}/{path}")
            assert answered.status == status
            assert answered["Access-Control-Allow-Origin"] == "*"  # else the client takes it for absent
            assert b"SECRETSECRET" not in answered.body
    assert "SECRETSECRET" not in caplog.text
    logged = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(logged) == (status != 404)  # the first of its kind
    assert all(record.getMessage().startswith(f"serving {store.url}/lab: ") for record in logged)


def test_a_store_that_has_gone_is_a_failure(run: Callable[..., Server], tmp_path: Path) -> None:
    put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})
    with servers.http_server(tmp_path) as store:
        server = run(store.url, attempts=1)
    assert ask(f"{server.url}/{KEY}/{NAME}").status == 503
    assert ask(f"{server.url}/info").status == 200


@pytest.mark.parametrize(("encoding", "dtype"), [("fpzip", "float32"), ("crackle", "uint32")])
def test_a_chunk_that_cannot_be_decoded_is_a_failure(
    run: Callable[..., Server], tmp_path: Path, encoding: str, dtype: str
) -> None:
    info = {**raw_info(encoding=encoding), "data_type": dtype}
    server = run(put(tmp_path, info, {f"{KEY}/{NAME}": BODY}))
    answer = ask(f"{server.url}/{KEY}/{NAME}")
    assert answer.status == 502
    assert encoding.encode() in answer.body


@pytest.mark.parametrize("body", [b"", BODY[:-1], BODY + b"x"])
def test_a_raw_chunk_of_another_length_is_a_failure(run: Callable[..., Server], tmp_path: Path, body: bytes) -> None:
    server = run(put(tmp_path, raw_info(), {f"{KEY}/{NAME}": body}))
    answer = ask(f"{server.url}/{KEY}/{NAME}")
    assert answer.status == 502
    assert b"256" in answer.body


def test_a_codec_that_is_not_installed_is_named(
    run: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros((8, 8, 8), np.float32)
    volume = create_volume(tmp_path, array, resolution=(8, 8, 8), chunk_size=(8, 8, 4), encoding="zfpc")
    monkeypatch.setitem(sys.modules, "zfpc", None)
    answer = ask(f"{run(volume).url}/{KEY}/{NAME}")
    assert answer.status == 501
    assert b"pip install 'precomputed-fs[codecs]'" in answer.body


def test_a_fault_of_the_server_says_no_more(
    run: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = run(put(tmp_path, raw_info(), {}))

    def fails(*_: object) -> bytes:
        raise RuntimeError("SECRET")

    monkeypatch.setattr("precomputed_fs.pyramid.pyramid.Pyramid.fetch_chunk", fails)
    answer = ask(f"{server.url}/{KEY}/{NAME}")
    assert (answer.status, answer.body) == (500, b"RuntimeError")


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_many_requests_are_at_the_store_at_once(run: Callable[..., Server], encoding: str) -> None:
    count = 24
    info = json.dumps(raw_info(size=[8, 8, 4 * count], encoding=encoding)).encode()
    body = BODY if encoding == "raw" else imagecodecs.png_encode(np.frombuffer(BODY, np.uint8).reshape(32, 8))
    waiting = 0
    all_there = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal waiting
        if request.path == "/info":
            return web.Response(body=info)
        waiting += 1
        if waiting == count:
            all_there.set()
        await asyncio.wait_for(all_there.wait(), 20)
        return web.Response(body=body)

    with servers.fault_server(answer) as store, ThreadPoolExecutor(count) as pool:
        server = run(store.url, attempts=1)
        urls = [f"{server.url}/{KEY}/0-8_0-8_{4 * i}-{4 * i + 4}" for i in range(count)]
        assert {answered.body for answered in pool.map(ask, urls)} == {body}


def test_a_synchronous_filesystem_is_read_in_many_threads(
    run: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 16
    barrier = threading.Barrier(count, timeout=20)
    put(tmp_path, raw_info(size=[8, 8, 4 * count]), {f"{KEY}/0-8_0-8_{4 * i}-{4 * i + 4}": BODY for i in range(count)})
    server = run(tmp_path)
    read = Local.read

    def together(protocol: Local, fs: Any, path: str, limit: int) -> bytes:
        body = read(protocol, fs, path, limit)
        barrier.wait()
        return body

    monkeypatch.setattr(Local, "read", together)
    urls = [f"{server.url}/{KEY}/0-8_0-8_{4 * i}-{4 * i + 4}" for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        assert {answered.body for answered in pool.map(ask, urls)} == {BODY}


def test_a_client_that_hangs_up_does_no_harm(run: Callable[..., Server], tmp_path: Path) -> None:
    put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})
    with servers.fault_server(servers.latency(0.2, servers.files(tmp_path))) as store:
        server = run(store.url)
        path = f"{urlsplit(server.url).path}/{KEY}/{NAME}"
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        assert ask(f"{server.url}/{KEY}/{NAME}").body == BODY


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_is_closed_as_often_as_one_likes(tmp_path: Path) -> None:
    before = threads()
    with serve(put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})) as server:
        assert server.is_open
        assert server.url.startswith(f"http://127.0.0.1:{server.port}/")
        assert server.source == f"precomputed://{server.url}"
        assert repr(server) == f"<Server of {tmp_path}: port {server.port}>"
        assert ask(f"{server.url}/{KEY}/{NAME}").status == 200
        server.close()
        assert not is_listening(server.port)
    server.close()
    assert (server.is_open, repr(server)) == (False, f"<Server of {tmp_path}: closed>")
    for thread in threading.enumerate():
        if thread.name.startswith("precomputed_fs-serve"):
            thread.join(0.1 if thread.name in before else 10)
    assert threads() <= before


def test_requests_under_way_end_with_it(tmp_path: Path) -> None:
    put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})

    async def stall(request: web.Request) -> web.StreamResponse:
        if request.path != "/info":
            await asyncio.sleep(60)
        return await servers.files(tmp_path)(request)

    with servers.fault_server(stall) as store, serve(store.url) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, f"{server.url}/{KEY}/{NAME}")
        while store.log.count() < 2:
            threading.Event().wait(0.01)
        server.close()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            asked.result(10)


def test_several_run_at_once_at_ports_of_choice(run: Callable[..., Server], tmp_path: Path) -> None:
    volumes = [put(tmp_path / str(i), raw_info(), {f"{KEY}/{NAME}": bytes([i]) * 256}) for i in range(3)]
    shown = [run(volume) for volume in volumes]
    assert len({server.port for server in shown}) == 3
    for i, server in enumerate(shown):
        assert ask(f"{server.url}/{KEY}/{NAME}").body == bytes([i]) * 256
    before = threads()
    with pytest.raises(OSError, match=f"{shown[0].port}"):
        serve(volumes[1], port=shown[0].port)
    assert threads() == before
    port = shown[1].port
    shown[1].close()
    again = run(volumes[1], port=port)
    assert again.port == port
    assert ask(f"{again.url}/{KEY}/{NAME}").body == b"\1" * 256


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_is_one(tmp_path: Path, port: int) -> None:
    before = threads()
    with pytest.raises(ValueError, match=f"port: expected 0 to 65535, got {port}"):
        serve(put(tmp_path, raw_info(), {}), port=port)
    assert threads() == before


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_does_not_keep_the_port(tmp_path: Path) -> None:
    told, said = multiprocessing.Pipe()
    done = multiprocessing.get_context("fork").Event()

    def child(server: Server) -> None:
        server.close()  # which is the parent's
        said.send((server.is_open, repr(server)))
        done.wait(20)

    with serve(put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})) as server:
        process = multiprocessing.get_context("fork").Process(target=child, args=(server,))
        process.start()
        try:
            assert told.poll(20)
            assert told.recv() == (False, f"<Server of {tmp_path}: closed>")
            assert ask(f"{server.url}/{KEY}/{NAME}").body == BODY
            server.close()
            assert not is_listening(server.port)
            with serve(tmp_path, port=server.port) as again:
                assert ask(f"{again.url}/{KEY}/{NAME}").body == BODY
        finally:
            done.set()
            process.join(20)
    assert process.exitcode == 0


def test_it_works_where_a_loop_runs(tmp_path: Path) -> None:
    put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})

    async def notebook() -> bytes:
        with serve(tmp_path) as server:
            return (await asyncio.to_thread(ask, f"{server.url}/{KEY}/{NAME}")).body

    assert asyncio.run(notebook()) == BODY


@pytest.mark.processes
@pytest.mark.slow
def test_the_interpreter_ends_though_it_runs(tmp_path: Path) -> None:
    put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})
    program = """
import http.client, sys, urllib.parse, precomputed_fs
url = urllib.parse.urlsplit(precomputed_fs.serve(sys.argv[1]).url)
connection = http.client.HTTPConnection(url.netloc)
connection.request("GET", f"{url.path}/8_8_8/0-8_0-8_0-4")
print(connection.getresponse().status)
connection.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("200\n", "")


def test_it_closes_what_it_opened(tmp_path: Path) -> None:
    put(tmp_path, raw_info(), {f"{KEY}/{NAME}": BODY})
    closed = []

    class Watched(Volume):
        def close(self) -> None:
            closed.append(self.url)
            super().close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("precomputed_fs.volume.open.Volume", Watched)
        given = open_volume(tmp_path)
        with serve(given):
            pass
        with serve(given.accessor):
            pass
        assert closed == []
        with serve(tmp_path) as server:
            pass
        assert closed == [str(tmp_path)]
        with serve(tmp_path) as server, pytest.raises(OSError, match="in use"):
            serve(tmp_path, port=server.port)
        assert closed == [str(tmp_path)] * 3


def test_an_accessor_is_served(run: Callable[..., Server], make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    pyramid.put("info", json.dumps(raw_info()).encode())
    pyramid.put(f"{KEY}/{NAME}", gzip.compress(BODY), "gzip")
    assert ask(f"{run(pyramid.accessor()).url}/{KEY}/{NAME}").body == BODY


def test_what_cannot_be_served_is_refused_at_once(tmp_path: Path) -> None:
    before = threads()
    with pytest.raises(NotFoundError):
        serve(tmp_path / "nothing")
    with pytest.raises(URLError):
        serve("s3:bucket/brain")
    put(tmp_path / "unknown", raw_info(encoding="mp4"), {})
    with pytest.raises(InvalidInfoError, match="mp4"):
        serve(tmp_path / "unknown")
    with pytest.raises(TypeError, match="anon: for URLs"):
        serve(open_volume(put(tmp_path / "there", raw_info(), {})), anon=True)
    archive = f"zip://brain::{tmp_path}/new.zip"
    with create_volume(archive, raw_info(), storage_options={"mode": "w"}) as volume, pytest.raises(ReadOnlyError):
        serve(volume)
    assert threads() == before


def with_links(tmp_path: Path) -> Path:
    """Make a pyramid with links in it: out of it but for one of them."""
    outside = tmp_path / "outside"
    (outside / KEY).mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    (outside / KEY / NAME).write_bytes(BODY)
    folder = put(tmp_path / "brain", raw_info(), {"mesh/here": b"mesh", f"{KEY}/{NAME}": BODY})
    (folder / KEY / "0-8_0-8_4-8").symlink_to(outside / KEY / NAME)
    for name, target in (
        ("mesh/inside", "here"),
        ("mesh/file", outside / "secret"),
        ("mesh/0.shard", "../../outside/secret"),
        ("folder", outside),
        ("mesh/nowhere", "/nowhere"),
    ):
        (folder / name).symlink_to(target)
    return folder


LEADING_OUT = {
    f"{KEY}/0-8_0-8_4-8": BODY,
    "mesh/file": b"secret",
    "mesh/0.shard": b"secret",
    "folder/secret": b"secret",
}


@pytest.mark.parametrize("scheme", ["file", "simplecache::file"])
def test_a_link_that_leaves_the_pyramid_is_followed_only_if_told(
    run: Callable[..., Server], tmp_path: Path, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{scheme}://{with_links(tmp_path)}"
    server = run(url)
    for name in LEADING_OUT:
        for headers in ({}, {"Range": "bytes=0-1"}):
            answer = ask(f"{server.url}/{name}", **headers)
            assert answer.status == 502
            assert b"follow_links=True" in answer.body
    assert "follow_links=True" in caplog.text
    assert ask(f"{server.url}/mesh/nowhere").status == 502
    for name, body in ((f"{KEY}/{NAME}", BODY), ("mesh/here", b"mesh"), ("mesh/inside", b"mesh")):
        assert ask(f"{server.url}/{name}").body == body
    told = run(url, follow_links=True)
    for name, body in LEADING_OUT.items():
        assert ask(f"{told.url}/{name}").body == body
    assert ask(f"{told.url}/mesh/nowhere").status == 404


def test_links_are_followed_where_the_pyramid_is_and_beside_it(run: Callable[..., Server], tmp_path: Path) -> None:
    folder = put(tmp_path / "a" / "brain", raw_info(key="../other"), {f"../other/{NAME}": BODY})
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "a" / "brain" / "other").symlink_to("../other")
    server = run(open_volume(folder))
    (key,) = (scale["key"] for scale in json.loads(ask(f"{server.url}/info").body)["scales"])
    assert ask(f"{server.url}/{key}/{NAME}").body == BODY, "that scale is in another folder, as info says"
    assert ask(f"{server.url}/other/{NAME}").status == 502, "a link is not what info says"
    put(tmp_path / "a" / "plain", raw_info(), {f"{KEY}/{NAME}": BODY})
    (tmp_path / "plain").symlink_to("a/plain")
    assert ask(f"{run(tmp_path / 'plain').url}/{KEY}/{NAME}").body == BODY


def test_an_info_that_is_a_link_out_of_the_pyramid_is_not_served_unless_told(
    run: Callable[..., Server], tmp_path: Path
) -> None:
    folder = put(tmp_path / "brain", raw_info(), {f"{KEY}/{NAME}": BODY})
    (folder / "info").rename(tmp_path / "info")
    (folder / "info").symlink_to("../info")
    with pytest.raises(AccessDeniedError, match="follow_links=True"):
        run(folder)
    assert ask(f"{run(folder, follow_links=True).url}/{KEY}/{NAME}").body == BODY


def test_what_waits_for_its_shard_is_served_without_links_too(run: Callable[..., Server], tmp_path: Path) -> None:
    volume = create_volume(tmp_path, np.zeros((8, 8, 8), np.uint8), resolution=(8, 8, 8), sharding=True, scales=1)
    with volume:
        volume[0][...] = 7
        assert ask(f"{run(volume).url}/8_8_8/0-8_0-8_0-8").body == bytes([7]) * 8**3


@pytest.mark.skipif(not servers.sshd_installed(), reason="needs openssh-server")
def test_a_link_on_an_sftp_server_is_followed_only_if_told(run: Callable[..., Server], tmp_path: Path) -> None:
    with_links(tmp_path)
    with servers.sftp_server(tmp_path) as sftp:
        options = {"storage_options": sftp.storage_options}
        server, told = run(f"{sftp.url}/brain", **options), run(f"{sftp.url}/brain", follow_links=True, **options)
        for name, body in LEADING_OUT.items():
            assert ask(f"{server.url}/{name}").status == 502
            assert ask(f"{told.url}/{name}").body == body
        assert ask(f"{server.url}/mesh/inside").body == b"mesh"
