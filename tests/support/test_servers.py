"""The test servers, held against plain clients: what the tests of the package stand on."""

from __future__ import annotations

import gzip
import os
import stat
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

# gcsfs looks at this when it is imported.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import boto3
import botocore.exceptions
import gcsfs
import paramiko
import pytest
import requests
from aiohttp import web
from azure.storage.blob import BlobServiceClient

from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

NAME = "8_8_40/0-64 + a%2Fb"
BODY = bytes(range(256)) * 40
PACKED = gzip.compress(BODY)


def ask(url: str, method: str = "GET", **headers: str) -> requests.Response:
    return requests.request(method, url, headers={"Accept-Encoding": "identity", **headers}, timeout=5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a +b").mkdir()
    (tmp_path / "a +b" / "0-64").write_bytes(BODY)
    (tmp_path / "0-64.gz").write_bytes(PACKED)
    (tmp_path / "info").write_bytes(b"{}")
    return tmp_path


# --------------------------------------------------------------------------------------------------------------- HTTP


def test_http_server_serves_files_and_ranges(root: Path) -> None:
    with servers.http_server(root) as server:
        url = f"{server.url}/a%20+b/0-64"
        assert ask(url).content == BODY
        part = ask(url, Range="bytes=10-19")
        assert (part.status_code, part.content) == (206, BODY[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(BODY)}"
        assert ask(url, Range="bytes=-3").content == BODY[-3:]
        assert ask(url, Range=f"bytes={len(BODY) - 2}-{len(BODY) + 9}").content == BODY[-2:]
        past = ask(url, Range=f"bytes={len(BODY)}-")
        assert (past.status_code, past.headers["Content-Range"]) == (416, f"bytes */{len(BODY)}")
        assert ask(url, "HEAD").headers["Content-Length"] == str(len(BODY))
        assert server.log.methods() == ["GET"] * 5 + ["HEAD"]
        assert server.log.entries()[1].path == "/a +b/0-64"
        assert server.log.entries()[1].headers["range"] == "bytes=10-19"


def test_http_server_keeps_gz_as_bytes_and_stays_below_root(root: Path) -> None:
    with servers.http_server(root / "a +b") as server:
        assert ask(f"{server.url}/%2e%2e/info").status_code == 404
        assert ask(f"{server.url}/").status_code == 404
        assert ask(f"{server.url}/0-64", "PUT").status_code == 405
    with servers.http_server(root) as server:
        answer = ask(f"{server.url}/0-64.gz", **{"Accept-Encoding": "gzip"})
        assert answer.content == PACKED
        assert "Content-Encoding" not in answer.headers
    with pytest.raises(requests.ConnectionError):
        ask(server.url)


def test_faults() -> None:
    with servers.fault_server(servers.fail_then(2, 503, servers.respond(200, b"x", {"A": "b"}))) as server:
        assert [ask(server.url + path).status_code for path in ("/a", "/a", "/b", "/a")] == [503, 503, 503, 200]
        assert server.log.count() == server.log.count("GET") == 4
        server.log.clear()
        assert server.log.count() == 0
    with servers.fault_server(servers.truncated(b"abc", 10)) as server:
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            ask(server.url)
        assert ask(server.url, "HEAD").headers["Content-Length"] == "10"
    with servers.fault_server(servers.ignoring_range(b"abcdef")) as server:
        assert (ask(server.url, Range="bytes=0-1").status_code, ask(server.url).content) == (200, b"abcdef")
    with servers.fault_server(servers.resetting()) as server, pytest.raises(requests.ConnectionError, match="reset"):
        ask(server.url)
    with pytest.raises(requests.ConnectionError, match="refused"):
        ask(servers.refused_url())


def test_delays() -> None:
    with servers.fault_server(servers.latency(0.2, servers.respond(200))) as server, ThreadPoolExecutor(10) as pool:
        began = time.monotonic()
        assert all(pool.map(lambda _: ask(server.url).ok, range(10)))
        assert 0.2 <= time.monotonic() - began < 1
    with servers.fault_server(servers.slow(0.3, servers.respond(200, b"abcdef"))) as server:
        assert ask(server.url).content == b"abcdef"
        with pytest.raises(requests.ConnectionError):
            requests.get(server.url, timeout=0.1)


def test_handler_of_ones_own_reads_the_body_as_sent() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    with servers.fault_server(echo) as server:
        sent = requests.put(server.url, data=PACKED, headers={"Content-Encoding": "gzip"}, timeout=5)
        assert sent.content == PACKED


def test_http_servers_end_while_requests_hang() -> None:
    began = time.monotonic()
    with servers.fault_server(servers.latency(60, servers.respond(200))) as server:
        pool = ThreadPoolExecutor(1)
        hanging = pool.submit(ask, server.url)
        while not server.log.count():
            time.sleep(0.01)
    assert isinstance(hanging.exception(5), requests.ConnectionError)
    pool.shutdown()
    assert time.monotonic() - began < 5


# ----------------------------------------------------------------------------------------------------- object stores


@pytest.fixture(params=["s3", "gcs", "azure"])
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "azure" and servers.azurite_command() is None:
        pytest.skip("azurite is not installed")
    started: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "s3": servers.s3_server,
        "gcs": servers.gcs_server,
        "azure": servers.azure_server,
    }
    with started[request.param]() as server:
        getattr(server, "create_container" if request.param == "azure" else "create_bucket")("bucket")
        yield server


def test_helpers_are_alike_and_unlogged(store: Any) -> None:
    store.put("bucket", NAME, PACKED, content_encoding="gzip", content_type="image/x")
    store.put("bucket", "plain", BODY)
    body, fields = store.get("bucket", NAME)
    assert (body, fields["ContentEncoding"], fields["ContentType"]) == (PACKED, "gzip", "image/x")
    assert store.get("bucket", "plain")[0] == BODY
    assert store.get("bucket", "plain")[1]["ContentEncoding"] is None
    assert store.keys("bucket") == [NAME, "plain"]
    store.delete("bucket", NAME)
    assert store.keys("bucket") == ["plain"]
    if hasattr(store, "log"):
        assert store.log.count() == 0


# ----------------------------------------------------------------------------------------------------------------- S3


def s3_client(server: servers.S3Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )


def test_s3_counts_and_creates_once() -> None:
    with servers.s3_server() as server:
        server.create_bucket("bucket")
        client = s3_client(server)
        client.put_object(Bucket="bucket", Key=NAME, Body=BODY)
        part = client.get_object(Bucket="bucket", Key=NAME, Range="bytes=1-3")
        assert part["Body"].read() == BODY[1:4]
        assert server.log.methods() == ["PUT", "GET"]
        assert server.log.entries()[0].path == f"/bucket/{NAME}"

        def create(i: int) -> str:
            try:
                client.put_object(Bucket="bucket", Key="once", Body=b"%d" % i, IfNoneMatch="*")
            except botocore.exceptions.ClientError as error:
                return str(error.response["Error"]["Code"])
            return "created"

        with ThreadPoolExecutor(16) as pool:
            assert Counter(pool.map(create, range(64))) == {"created": 1, "PreconditionFailed": 63}
        client.close()


def test_s3_that_ignores_if_none_match() -> None:
    with servers.s3_server() as honest, servers.s3_server(honours_if_none_match=False) as server:
        server.create_bucket("bucket")
        client = s3_client(server)
        for body in (b"old", b"new"):
            client.put_object(Bucket="bucket", Key="k", Body=body, IfNoneMatch="*")
        assert server.get("bucket", "k")[0] == b"new"
        assert server.log.entries()[0].headers["If-None-Match"] == "*"
        client.close()
        assert honest.log.count() == 0
    with servers.s3_server() as server:
        with pytest.raises(botocore.exceptions.ClientError, match="NoSuchBucket"):
            server.keys("bucket")
        server.create_bucket("bucket")
        server.reset()
        with pytest.raises(botocore.exceptions.ClientError, match="NoSuchBucket"):
            server.keys("bucket")


# ---------------------------------------------------------------------------------------------------------------- GCS


@pytest.fixture
def gcs() -> Iterator[servers.GcsServer]:
    with servers.gcs_server() as server:
        server.create_bucket("bucket")
        yield server


def gcs_client(server: servers.GcsServer) -> Any:
    return gcsfs.GCSFileSystem(**server.storage_options, skip_instance_cache=True, use_listings_cache=False)


def test_gcsfs_reads_writes_lists_deletes(gcs: servers.GcsServer) -> None:
    fs, path = gcs_client(gcs), f"bucket/{NAME}"
    fs.pipe_file(path, BODY + b"\r\n", content_type="image/x")
    assert gcs.log.methods() == ["POST"]
    assert gcs.get("bucket", NAME)[0] == BODY + b"\r\n"
    assert gcs.get("bucket", NAME)[1]["ContentType"] == "image/x"
    assert fs.cat_file(path) == BODY + b"\r\n"
    assert fs.cat_file(path, start=5, end=9) == BODY[5:9]
    assert fs.info(path)["size"] == len(BODY) + 2
    assert fs.ls("bucket", detail=False) == ["bucket/8_8_40"]
    assert fs.find("bucket") == [path]
    fs.rm_file(path)
    with pytest.raises(FileNotFoundError):
        fs.rm_file(path)
    with pytest.raises(FileNotFoundError):
        fs.cat_file(path)
    with pytest.raises(FileNotFoundError):
        fs.cat_file("no-bucket/x")
    fs.pipe({"bucket/a": b"1", "bucket/b": b"2"})
    fs.rm("bucket", recursive=True)
    assert not fs.exists("bucket")
    fs.mkdir("bucket")
    assert gcs.keys("bucket") == []


@pytest.mark.parametrize("chunksize", [50 * 2**20, 2**18])
def test_gcsfs_creates_once(gcs: servers.GcsServer, chunksize: int) -> None:
    fs, body = gcs_client(gcs), BODY * 60
    fs.pipe_file("bucket/k", body, mode="create", chunksize=chunksize)
    with pytest.raises(FileExistsError):
        fs.pipe_file("bucket/k", b"other" * 2**17, mode="create", chunksize=chunksize)
    assert gcs.get("bucket", "k")[0] == body
    with servers.gcs_server(honours_generation_match=False) as careless:
        careless.create_bucket("bucket")
        careless.put("bucket", "k", b"old")
        gcs_client(careless).pipe_file("bucket/k", b"new", mode="create")
        assert careless.get("bucket", "k")[0] == b"new"


def test_gcsfs_writes_in_blocks(gcs: servers.GcsServer) -> None:
    with gcs_client(gcs).open("bucket/big", "wb", block_size=2**18) as file:
        for _ in range(80):
            file.write(BODY)
    assert gcs.get("bucket", "big")[0] == BODY * 80
    assert gcs.log.count("POST") > 2


def test_gcs_transcodes(gcs: servers.GcsServer) -> None:
    fs = gcs_client(gcs)
    fs.pipe_file("bucket/k", PACKED, fixed_key_metadata={"content_encoding": "gzip"})
    assert gcs.get("bucket", "k")[1]["ContentEncoding"] == "gzip"
    assert fs.cat_file("bucket/k") == BODY
    for url in (f"{gcs.endpoint}/storage/v1/b/bucket/o/k", f"{gcs.endpoint}/download/storage/v1/b/bucket/o/k"):
        plain = ask(f"{url}?alt=media", Range="bytes=0-3")
        assert (plain.status_code, plain.content) == (200, BODY)
        assert "Content-Encoding" not in plain.headers
        whole = ask(f"{url}?alt=media", **{"Accept-Encoding": "gzip"})
        assert (whole.headers["Content-Encoding"], whole.content) == ("gzip", BODY)
        part = ask(f"{url}?alt=media", "GET", Range="bytes=0-3", **{"Accept-Encoding": "gzip"})
        assert (part.status_code, part.headers["Content-Range"]) == (206, f"bytes 0-3/{len(PACKED)}")
        assert ask(f"{url}?alt=media", "HEAD").status_code == 200


def test_gcs_errors_and_pages(gcs: servers.GcsServer) -> None:
    url = f"{gcs.endpoint}/storage/v1/b/bucket/o"
    assert ask(f"{url}/none").json()["error"]["code"] == 404
    assert ask(f"{url}/none?alt=media").text == "No such object: bucket/none"
    for name in ("a/1", "a/2", "b", "c/3"):
        gcs.put("bucket", name, b"x")
    upload = f"{gcs.endpoint}/upload/storage/v1/b/bucket/o?uploadType=media&name=b&ifGenerationMatch=0"
    refused = requests.post(upload, data=b"y", timeout=5)
    assert refused.json()["error"]["errors"][0]["reason"] == "conditionNotMet"
    assert refused.status_code == 412
    generation = gcs.get("bucket", "b")[1]["generation"]
    renewed = requests.post(upload.replace("Match=0", f"Match={generation}"), data=b"y", timeout=5)
    assert int(renewed.json()["generation"]) > int(generation)
    assert gcs.get("bucket", "b")[0] == b"y"

    seen, token = [], ""
    while token is not None:
        page = ask(f"{url}?delimiter=/&maxResults=1&pageToken={token}").json()
        seen += [item["name"] for item in page.get("items", [])] + page.get("prefixes", [])
        token = page.get("nextPageToken")
    assert seen == ["a/", "b", "c/"]


# ---------------------------------------------------------------------------------------------------- child processes


@pytest.mark.skipif(not servers.nginx_installed(), reason="nginx is not installed (apt-get install nginx-light)")
def test_nginx(root: Path) -> None:
    with servers.nginx_server(root) as server:
        part = ask(f"{server.url}/a%20+b/0-64", Range="bytes=10-19")
        assert (part.status_code, part.content) == (206, BODY[10:20])
        packed = ask(f"{server.url}/0-64", **{"Accept-Encoding": "gzip"})
        assert (packed.headers["Content-Encoding"], packed.content) == ("gzip", BODY)
        assert ask(f"{server.url}/0-64").status_code == 404
        assert ask(f"{server.url}/info", "HEAD").headers["Content-Length"] == "2"
        assert server.requests() == ["GET", "GET", "GET", "HEAD"]
        assert server.log.entries()[0].path == "/a +b/0-64"
        assert server.log.entries()[0].headers["Range"] == "bytes=10-19"
        server.clear()
        assert server.requests() == []
    with pytest.raises(requests.ConnectionError):
        ask(server.url)


@pytest.mark.skipif(not servers.nginx_installed(), reason="nginx is not installed (apt-get install nginx-light)")
def test_nginx_that_compresses_ignores_range(root: Path) -> None:
    with servers.nginx_server(root, gzip=True) as server:
        url = f"{server.url}/a%20+b/0-64"
        assert ask(url, Range="bytes=10-19").status_code == 206
        assert ask(url, Range="bytes=10-19", **{"Accept-Encoding": "gzip"}).status_code == 200


@pytest.mark.skipif(not servers.sshd_installed(), reason="sshd is not installed (apt-get install openssh-server)")
def test_sftp(root: Path) -> None:
    with servers.sftp_server(root) as server:
        clients = [paramiko.SSHClient() for _ in range(2)]
        for client in clients:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect("127.0.0.1", **server.storage_options)
        sftp = clients[0].open_sftp()
        with sftp.open(f"{root}/a +b/0-64") as file:
            assert file.read() == BODY
        assert stat.S_ISREG(sftp.stat(f"{root}/info").st_mode or 0)
        assert server.url.endswith(str(root))
    # The sessions end with the server, though the clients are still there.
    with pytest.raises((EOFError, OSError)):
        sftp.listdir(str(root))
    for client in clients:
        client.close()


@pytest.mark.skipif(servers.azurite_command() is None, reason="azurite is not installed (npm install azurite)")
def test_azure() -> None:
    with servers.azure_server() as server:
        server.create_container("box")
        server.put("box", NAME, PACKED)
        with BlobServiceClient.from_connection_string(server.storage_options["connection_string"]) as client:
            blob = client.get_blob_client("box", NAME)
            assert blob.download_blob(offset=2, length=3).readall() == PACKED[2:5]


def test_a_child_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "azurite-blob"
    broken.write_text("#!/bin/sh\necho out of order\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("AZURITE", str(broken))
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(RuntimeError, match=r"(?s)ended with code 3.*out of order"), servers.azure_server():
        pass
