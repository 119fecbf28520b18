"""What `serve` gives the Neuroglancer web client, and others that ask: request by request, and in a browser."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import importlib
import importlib.util
import json
import logging
import multiprocessing
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import brotli
import imagecodecs
import numpy as np
import pytest
from aiohttp import web
from neuroglancer_scripts.chunk_encoding import get_encoder

from precomputed_fs import (
    AccessDeniedError,
    FsspecAccessor,
    InvalidInfoError,
    NotFoundError,
    URLError,
    Volume,
    create_volume,
    open_volume,
    serve,
)
from precomputed_fs.errors import ReadOnlyError
from precomputed_fs.format.info import Info
from precomputed_fs.store.protocols.local import Local
from precomputed_fs.view.state import LAYOUTS
from tests import servers
from tests.pyramid.test_shards import synthesize
from tests.support import browser
from tests.view.test_neuroglancer import (
    COLOURS,
    GREY,
    IDS,
    PART,
    PART_CHUNK_SIZE,
    PART_OFFSET,
    PART_POSITION,
    TISSUES,
    assert_pixels,
    assert_voxels,
    grey,
    sharding,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from precomputed_fs.view.server import Server
    from tests.conftest import Pyramid
    from tests.support.browser import Chromium, Neuroglancer

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "8_8_8"
NAME = "0-8_0-8_0-4"  # the first of two chunks
BODY = np.arange(8 * 8 * 4, dtype=np.uint8).tobytes()  # of that chunk
VOXELS = np.frombuffer(BODY * 2, np.uint8).reshape((8, 8, 8), order="F")


# ---------------------------------------------------------------------------------------------------------- asking it


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        return self.headers.get(name)


def ask(url: str, method: str = "GET", *, path: str | None = None, host: str | None = None, **headers: str) -> Answer:
    """Send one request as it is: nothing in the path is quoted or put in order, no header is added."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=20)
    try:
        connection.putrequest(method, path or parts.path, skip_host=True, skip_accept_encoding=True)
        if host != "":
            connection.putheader("Host", host or parts.netloc)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def send(server: Server, *lines: str) -> bytes:
    """Send lines as they are, and return what comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        return connection.makefile("rb").read()


def token_of(server: Server) -> str:
    return urlsplit(server.url).path.split("/")[1]


def raw_info(**changes: Any) -> dict[str, Any]:
    """Describe `VOXELS` in two raw chunks, each `BODY`; changes are of the scale."""
    scale = {
        "key": KEY, "size": [8, 8, 8], "chunk_sizes": [[8, 8, 4]], "resolution": [8, 8, 8], "encoding": "raw",
    }  # fmt: skip
    return {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [{**scale, **changes}]}


def put(folder: Path, info: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
    """Store a pyramid around the code under test."""
    for name, body in {"info": json.dumps(info).encode(), **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve `VOXELS`, of which the second chunk is absent, and two other files."""
    files = {f"{KEY}/{NAME}": BODY, "mesh/info": b'{"@type": "neuroglancer_legacy_mesh"}', "mesh/1:0": b"0123456789"}
    with serve(put(tmp_path_factory.mktemp("served") / "pyramid", raw_info(), files)) as running:
        running.view()
        yield running


@pytest.fixture
def run() -> Iterator[Callable[..., Server]]:
    """Serve until the end of the test."""
    with ExitStack() as stack:
        yield lambda source, **options: stack.enter_context(serve(source, **options))


# ----------------------------------------------------------------------------------------------- what the client reads


def test_a_chunk_is_the_bytes_that_the_specification_says(server: Server) -> None:
    answer = ask(f"{server.url}/{KEY}/{NAME}")
    assert (answer.status, answer.body) == (200, BODY)
    assert answer["Content-Length"] == "256"
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["Content-Encoding"] is None


def test_the_info_says_what_is_served(run: Callable[..., Server], tmp_path: Path) -> None:
    given = raw_info(sharding=sharding("identity", (0, 0, 0), "gzip"), hidden=True, encoding="RAW", mine=[1, {"a": 2}])
    given |= {"mesh": "mesh", "segment_properties": "props", "mine": {"x": 1.5}, "type": "IMAGE"}
    server = run(put(tmp_path, given, {}))
    answer = ask(f"{server.url}/info")
    assert (answer.status, answer["Content-Type"]) == (200, "application/json")
    shown = json.loads(answer.body)
    (scale,) = given.pop("scales")
    del scale["sharding"]
    assert shown.pop("scales") == [{**scale, "encoding": "raw"}]
    assert shown == {**given, "type": "image", "@type": "neuroglancer_multiscale_volume"}


def test_the_client_is_given_the_finest_scale_first(run: Callable[..., Server], coarsest_first: Path) -> None:
    server = run(coarsest_first)
    scales = json.loads(ask(f"{server.url}/info").body)["scales"]
    assert [(scale["key"], scale["size"], scale["resolution"]) for scale in scales] == [
        ("4_4_4", [32, 24, 16], [4, 4, 4]), ("8_8_8", [16, 12, 8], [8, 8, 8]), ("16_16_16", [8, 6, 4], [16, 16, 16]),
    ]  # fmt: skip
    name = "8_8_8/0-16_0-12_0-8"
    assert ask(f"{server.url}/{name}").body == open_volume(coarsest_first).accessor.fetch_chunk(
        "8_8_8", (0, 16, 0, 12, 0, 8)
    )


def test_an_info_without_a_type_or_of_an_unknown_one_is_an_image(run: Callable[..., Server], tmp_path: Path) -> None:
    for i, given in enumerate(({}, {"type": "labels"})):
        info = {**raw_info(), **given}
        if not given:
            del info["type"]
        assert json.loads(ask(f"{run(put(tmp_path / str(i), info, {})).url}/info").body)["type"] == "image"


def test_every_protocol_is_served(run: Callable[..., Server], readable_pyramid: Pyramid) -> None:
    readable_pyramid.put("info", json.dumps(raw_info()).encode())
    readable_pyramid.put(f"{KEY}/0-8/0-8/0-4.gz", gzip.compress(BODY))
    server = run(readable_pyramid.url, storage_options=readable_pyramid.storage_options)
    answer = ask(f"{server.url}/{KEY}/{NAME}")
    assert (answer.status, answer.body, answer["Content-Encoding"]) == (200, BODY, None)
    assert ask(f"{server.url}/{KEY}/0-8_0-8_4-8").status == 404


COMPRESSED: dict[str, Callable[[bytes], Any]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".br": brotli.compress,
    ".zstd": imagecodecs.zstd_encode,
    ".xz": imagecodecs.lzma_encode,
    ".bz2": imagecodecs.bz2_encode,
}


@pytest.mark.parametrize("name", [f"{KEY}/{NAME}", f"{KEY}/0-8/0-8/0-4"])
@pytest.mark.parametrize("suffix", COMPRESSED)
def test_every_layout_and_compression_is_served_flat_and_plain(
    run: Callable[..., Server], tmp_path: Path, name: str, suffix: str
) -> None:
    server = run(put(tmp_path, raw_info(), {name + suffix: COMPRESSED[suffix](BODY)}))
    answer = ask(f"{server.url}/{KEY}/{NAME}")
    assert (answer.status, answer.body, answer["Content-Encoding"]) == (200, BODY, None)


@pytest.mark.parametrize("kind", ["raw", "gzip", "zlib", "legacy"])
def test_every_kind_of_shard_is_served_as_chunks(run: Callable[..., Server], tmp_path: Path, kind: str) -> None:
    if kind in ("raw", "legacy"):
        written = synthesize(2, 1)
    else:
        pack = zlib.compress if kind == "zlib" else None
        written = synthesize(2, 1, index="gzip", data="gzip", pack_data=pack, descending=True)
    for name, body in written.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if kind == "legacy" and name.endswith(".shard"):
            path.with_suffix(".index").write_bytes(body[: 16 << 2])
            path.with_suffix(".data").write_bytes(body[16 << 2 :])
        else:
            path.write_bytes(body)
    server = run(tmp_path)
    for (x0, x1, y0, y1, z0, z1), body in written.chunks.items():
        answer = ask(f"{server.url}/{written.scale.key}/{x0}-{x1}_{y0}-{y1}_{z0}-{z1}")
        assert (answer.status, answer.body) == (200, body)
    assert "sharding" not in json.loads(ask(f"{server.url}/info").body)["scales"][0]


def random_voxels(dtype: str, channels: int) -> Array:
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (20, 13, 9, channels)).astype(dtype)


Kind = tuple[str, str, int, dict[str, Any]]
SHOWN_AS_STORED: list[Kind] = [
    ("raw", "uint8", 1, {}),
    ("raw", "int16", 2, {}),
    ("raw", "float32", 5, {}),
    ("png", "uint8", 2, {"png_level": 9}),
    ("png", "uint8", 4, {}),
    ("png", "uint16", 1, {}),
    ("jxl", "uint8", 1, {}),
    ("compressed_segmentation", "uint32", 2, {"compressed_segmentation_block_size": [4, 8, 2]}),
    ("compresso", "uint64", 1, {}),
]
SHOWN_AS_RAW: list[Kind] = [
    ("jpeg", "uint8", 1, {"jpeg_quality": 90}),
    ("jpeg", "uint8", 3, {}),
    ("png", "uint16", 2, {"png_level": 9}),
    ("png", "uint16", 3, {}),
    ("jxl", "uint8", 3, {"jxl_quality": 100}),
    ("jxl", "uint8", 4, {}),
    ("crackle", "uint64", 1, {}),
    ("crackle", "uint8", 1, {}),
    ("fpzip", "float32", 1, {"fpzip_precision": 0}),
    ("fpzip", "float32", 3, {}),
    ("kempressed", "float32", 2, {}),
    ("zfpc", "float32", 1, {"zfpc_tolerance": 0.25}),
]


@pytest.mark.parametrize("kind", SHOWN_AS_STORED, ids=str)
def test_what_the_client_reads_goes_through_unchanged(run: Callable[..., Server], kind: Kind) -> None:
    encoding, dtype, channels, parameters = kind
    volume = create_volume(
        "memory://test_serve/stored", random_voxels(dtype, channels), resolution=(8, 8, 8), chunk_size=(16, 16, 16),
        encoding=encoding, scales=1, overwrite=True, **parameters,
    )  # fmt: skip
    server = run(volume)
    for coords in ((0, 16, 0, 13, 0, 9), (16, 20, 0, 13, 0, 9)):
        x0, x1, y0, y1, z0, z1 = coords
        answer = ask(f"{server.url}/{KEY}/{x0}-{x1}_{y0}-{y1}_{z0}-{z1}")
        assert answer.body == volume.accessor.fetch_chunk(KEY, coords)
        image = encoding in ("png", "jxl")
        assert answer["Content-Type"] == (f"image/{encoding}" if image else "application/octet-stream")
    assert json.loads(ask(f"{server.url}/info").body) == volume.info.to_dict()


@pytest.mark.parametrize("kind", SHOWN_AS_RAW, ids=str)
@pytest.mark.parametrize("sharded", [False, True], ids=["alone", "sharded"])
def test_what_the_client_does_not_read_is_decoded(run: Callable[..., Server], kind: Kind, sharded: bool) -> None:
    encoding, dtype, channels, parameters = kind
    volume = create_volume(
        f"memory://test_serve/{encoding}-{channels}-{dtype}-{sharded}", random_voxels(dtype, channels), scales=1,
        resolution=(8, 8, 8), chunk_size=(16, 16, 16), encoding=encoding, sharding=sharded, **parameters,
    )  # fmt: skip
    server = run(volume)
    answer = ask(f"{server.url}/{KEY}/16-20_0-13_0-9")
    assert answer.body == volume[0][16:20].tobytes(order="F")
    assert answer["Content-Type"] == "application/octet-stream"
    (scale,) = json.loads(ask(f"{server.url}/info").body)["scales"]
    (before,) = volume.info.to_dict()["scales"]
    unchanged = ("key", "size", "voxel_offset", "resolution", "chunk_sizes")
    assert scale == {**{name: before[name] for name in unchanged}, "encoding": "raw"}


@pytest.mark.parametrize(
    ("kind", "stored", "shown"),
    [("image", "float64", "float32"), ("image", "int64", "float32"), ("segmentation", "int64", "uint64")],
)
def test_types_that_the_client_has_not_are_converted(
    run: Callable[..., Server], tmp_path: Path, kind: str, stored: str, shown: str
) -> None:
    voxels = np.arange(256).astype(stored)
    voxels[-1] = 2**40
    if stored == "float64":
        voxels[0] = 1e300
    info = {**raw_info(), "data_type": stored, "type": kind}
    server = run(put(tmp_path, info, {f"{KEY}/{NAME}": voxels.tobytes()}))
    with np.errstate(over="ignore"):
        assert ask(f"{server.url}/{KEY}/{NAME}").body == voxels.astype(shown).tobytes()
    assert json.loads(ask(f"{server.url}/info").body)["data_type"] == shown


def test_what_is_served_is_a_pyramid_for_others_too(run: Callable[..., Server]) -> None:
    volume = create_volume(
        "memory://test_serve/others", random_voxels("float32", 2), resolution=(8, 8, 8), voxel_offset=(-7, 3, 100),
        chunk_size=(16, 8, 8), encoding="fpzip", sharding=True,
    )  # fmt: skip
    shown = open_volume(run(volume).url)
    assert [scale.key for scale in shown] == [scale.key for scale in volume]
    for there, here in zip(shown, volume, strict=True):
        assert there.voxel_offset == here.voxel_offset
        np.testing.assert_array_equal(there[...], here[...])


# ------------------------------------------------------------------------------------------------------ odd pyramids


@pytest.mark.parametrize("key", ["1e+06_1e+06_1e+06", "a/b", "x~y=1,z", "8.5_8_8"])
def test_a_plain_key_stays(run: Callable[..., Server], tmp_path: Path, key: str) -> None:
    server = run(put(tmp_path, raw_info(key=key), {f"{key}/{NAME}": BODY}))
    assert json.loads(ask(f"{server.url}/info").body)["scales"][0]["key"] == key
    assert ask(f"{server.url}/{key}/{NAME}").body == BODY


@pytest.mark.parametrize(
    "key", ["../other/8_8_8", "a/../b", "./8_8_8", "a b", "50%", "%41", "a?b", "a#b", "a|b", "ä", "a@b", "..."]
)
def test_a_key_that_means_something_in_a_url_is_replaced(run: Callable[..., Server], tmp_path: Path, key: str) -> None:
    where = os.path.normpath(f"pyramid/{key}/{NAME}")
    put(tmp_path, {}, {where: BODY, "pyramid/info": json.dumps(raw_info(key=key)).encode()})
    server = run(tmp_path / "pyramid")
    shown = json.loads(ask(f"{server.url}/info").body)["scales"][0]["key"]
    assert re.fullmatch(r"[\w.]+", shown, re.ASCII)
    assert shown == key or ".." not in shown
    assert ask(f"{server.url}/{shown}/{NAME}").body == BODY
    assert open_volume(server.url)[0][7, 7, 3, 0] == 255


def test_keys_stay_different(run: Callable[..., Server], tmp_path: Path) -> None:
    info = raw_info()
    (scale,) = info["scales"]
    keys = ["a b", "scale0.0", "../pyramid/a b", "a c", "twice", "twice", "slash/"]
    info["scales"] = [{**scale, "key": key} for key in keys]
    files = {f"{key.removesuffix('/')}/{NAME}": f"{key:256}".encode() for key in keys if ".." not in key}
    server = run(put(tmp_path / "pyramid", info, files))
    shown = [scale["key"] for scale in json.loads(ask(f"{server.url}/info").body)["scales"]]
    assert (shown[1], shown[4:]) == ("scale0.0", ["twice", "twice", "slash"])
    assert len(set(shown)) == 6
    for key, given in zip(shown, keys, strict=True):
        assert ask(f"{server.url}/{key}/{NAME}").body == f"{given.removeprefix('../pyramid/'):256}".encode()


def test_each_of_several_chunk_sizes_is_served(run: Callable[..., Server], tmp_path: Path) -> None:
    sizes = [[8, 8, 4], [8, 4, 8]]
    server = run(put(tmp_path, raw_info(chunk_sizes=sizes), {f"{KEY}/{NAME}": BODY, f"{KEY}/0-8_0-4_0-8": BODY[::-1]}))
    assert json.loads(ask(f"{server.url}/info").body)["scales"][0]["chunk_sizes"] == sizes
    assert ask(f"{server.url}/{KEY}/{NAME}").body == BODY
    assert ask(f"{server.url}/{KEY}/0-8_0-4_0-8").body == BODY[::-1]


@pytest.mark.parametrize(
    "name",
    [
        "0-8_0-8_0-5",
        "0-8_0-8_4-12",
        "8-16_0-8_0-4",
        "-8-0_0-8_0-4",
        "00-8_0-8_0-4",
        "0-8_0-8_4-4",
        "0-8_0-8_-0-4",
        f"0-8_0-8_{10**18}-{10**18 + 4}",
        f"0-{'9' * 30}_0-8_0-4",
    ],
)
def test_what_is_no_chunk_of_the_scale_is_absent(run: Callable[..., Server], tmp_path: Path, name: str) -> None:
    server = run(put(tmp_path, raw_info(encoding="png"), {f"{KEY}/0-8_0-8_0-5": BODY}))
    assert ask(f"{server.url}/{KEY}/{name}").status == 404


def test_a_redirect_is_followed(run: Callable[..., Server], tmp_path: Path) -> None:
    put(tmp_path / "there", raw_info(), {f"{KEY}/{NAME}": BODY})
    put(tmp_path / "here", {"redirect": (tmp_path / "there").as_uri()}, {})
    server = run(tmp_path / "here")
    assert "redirect" not in json.loads(ask(f"{server.url}/info").body)
    assert ask(f"{server.url}/{KEY}/{NAME}").body == BODY
    with FsspecAccessor(tmp_path / "here") as accessor, pytest.raises(URLError, match="pass the URL"):
        serve(accessor)


# ------------------------------------------------------------------------------------------------------- other files


def test_other_files_are_served(server: Server) -> None:
    answer = ask(f"{server.url}/mesh/1:0")
    assert (answer.status, answer.body, answer["Content-Type"]) == (200, b"0123456789", "application/octet-stream")
    assert ask(f"{server.url}/mesh/1%3A0").body == b"0123456789"
    assert ask(f"{server.url}/mesh/info")["Content-Type"] == "application/json"
    for absent in ("mesh", "mesh/", "mesh/2:0", "", "/", "nothing"):
        assert ask(f"{server.url}/{absent}").status == 404


def test_what_looks_like_a_page_is_none(run: Callable[..., Server], tmp_path: Path) -> None:
    server = run(put(tmp_path, raw_info(), {"evil.html": b"<script>alert(1)</script>"}))
    answer = ask(f"{server.url}/evil.html")
    assert (answer["Content-Type"], answer["X-Content-Type-Options"]) == ("application/octet-stream", "nosniff")


SHARD = bytes(range(100))


def test_of_a_shard_of_meshes_only_the_range_is_read(run: Callable[..., Server], tmp_path: Path) -> None:
    put(tmp_path, raw_info(), {"mesh/0.shard": SHARD})
    with servers.http_server(tmp_path) as store:
        server = run(store.url)
        store.log.clear()
        answer = ask(f"{server.url}/mesh/0.shard", Range="bytes=10-19")
        assert (answer.status, answer.body, answer["Content-Range"]) == (206, SHARD[10:20], "bytes 10-19/*")
        assert [entry.headers.get("Range") for entry in store.log.entries()] == ["bytes=10-19"]
        for asked, expected in {
            "bytes=90-200": (206, SHARD[90:], "bytes 90-99/100"),
            "bytes=-10": (206, SHARD[90:], "bytes 90-99/100"),
            "bytes=90-": (206, SHARD[90:], "bytes 90-99/100"),
            "bytes=100-200": (416, b"", "bytes */100"),
            "bytes=5-4": (200, SHARD, None),
        }.items():
            answer = ask(f"{server.url}/mesh/0.shard", Range=asked)
            assert (answer.status, answer.body, answer["Content-Range"]) == expected
        assert ask(f"{server.url}/mesh/1.shard", Range="bytes=10-19").status == 404


def test_a_range_is_asked_for_as_often_as_the_user_says(run: Callable[..., Server]) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("info"):
            return web.json_response(raw_info())
        asked.append(request.headers.get("Range"))
        return web.Response(status=503)

    with servers.fault_server(answer) as store:
        server = run(store.url, attempts=1)
        assert ask(f"{server.url}/mesh/0.shard", Range="bytes=10-19").status == 503
    assert asked == ["bytes=10-19"]


def test_a_range_of_a_compressed_shard_is_of_what_is_in_it(
    run: Callable[..., Server], make_pyramid: Callable[[str], Pyramid]
) -> None:
    for protocol, suffix, encoding in (("local", ".gz", None), ("gcs", "", "gzip")):
        pyramid = make_pyramid(protocol)
        pyramid.put("info", json.dumps(raw_info()).encode())
        pyramid.put(f"mesh/0.shard{suffix}", gzip.compress(SHARD), encoding)
        server = run(pyramid.url, storage_options=pyramid.storage_options)
        assert ask(f"{server.url}/mesh/0.shard", Range="bytes=10-19").body == SHARD[10:20]


# --------------------------------------------------------------------------------------------------------------- HTTP


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


# --------------------------------------------------------------------------------------------------------- web pages


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


# ------------------------------------------------------------------------------------------------------- who may read


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


# ----------------------------------------------------------------------------------------------------------- failures


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


# ---------------------------------------------------------------------------------------------------------- at once


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


# ---------------------------------------------------------------------------------------------------- beginning, ending


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("precomputed_fs-serve")}


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


def test_an_accessor_is_served(run: Callable[..., Server], make_pyramid: Callable[[str], Pyramid]) -> None:
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


# --------------------------------------------------------------------------------------------------------------- views


@pytest.fixture
def volume() -> Iterator[Volume]:
    volume = create_volume(
        "memory://test_serve/a brain", np.full((40, 30, 21), 9, np.uint8), resolution=(4, 4, 40),
        voxel_offset=(-10, 5, 100), chunk_size=(16, 16, 16), overwrite=True,
    )  # fmt: skip
    yield volume
    volume.view().server.close()


def state_of(url: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(unquote(url.partition("#!")[2]))
    return state


def shown_state(volume: Volume, **options: Any) -> dict[str, Any]:
    """Follow a view's URL to the state that the client is opened with."""
    view = volume.view(**options)
    answer = ask(view.url)
    assert answer.status == 302
    return state_of(str(answer["Location"]))


def test_a_view_leads_to_the_client_of_the_package(volume: Volume) -> None:
    view = volume.view(height=432)
    answer = ask(view.url)
    page = str(answer["Location"]).partition("#")[0]
    assert page.startswith(f"/{token_of(view.server)}/v/0/")
    shown = ask(view.url, path=page)
    assert (shown.status, shown["Content-Type"]) == (200, "text/html; charset=utf-8")
    scripts = re.findall(rb'src="([^"]+\.js)"', shown.body)
    assert scripts
    types = {}
    for name in [*map(bytes.decode, scripts), *re.findall(r'href="([^"]+\.css)"', shown.body.decode())]:
        answer = ask(view.url, path=page.replace("index.html", name))
        assert answer.status == 200
        types[name.rpartition(".")[2]] = answer["Content-Type"]
    assert types == {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
    assert repr(view) == f"<View of memory://test_serve/a brain: {view.url}>"
    assert view._repr_html_() == (
        f'<iframe src="{view.url}" width="100%" height="432" style="border: 0" '
        'allow="clipboard-read; clipboard-write; fullscreen"></iframe>'
    )


def test_the_parts_of_the_client_in_webassembly_are_such(volume: Volume) -> None:
    from precomputed_fs.view.web_client import client_folder

    modules = [path.name for path in client_folder().glob("*.wasm")]
    assert modules
    root = volume.view().url.rpartition("/view/")[0]
    for name in modules:
        answer = ask(f"{root}/v/0/{name}", "HEAD")
        assert (answer.status, answer["Content-Type"]) == (200, "application/wasm")


def test_only_files_of_the_client_are_served_there(volume: Volume) -> None:
    root = volume.view().url.rpartition("/view/")[0]
    for path in ("v/0/", "v/0/__init__.py", "v/0/x/index.html", "v/0/nothing.js", "v/0/.js", "v", "view/1", "view/x"):
        assert ask(f"{root}/{path}").status == 404
    assert ask(f"{root}/events/0", "HEAD").status == 204
    assert ask(f"{root}/events/1", "HEAD").status == 404


def test_views_of_a_volume_share_a_server_while_it_runs(volume: Volume) -> None:
    first, second = volume.view(), volume.view(layout="xy")
    assert first.server is second.server
    assert first.url != second.url
    first.server.close()
    with pytest.raises(ValueError, match="closed"):
        first.server.view()
    third = volume.view()
    assert third.server is not first.server
    assert ask(third.url).status == 302
    assert pickle.loads(pickle.dumps(volume)).url == volume.url


def test_all_of_a_volume_is_seen_from_its_middle(volume: Volume) -> None:
    state = shown_state(volume)
    assert state["dimensions"] == {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [4e-8, "m"]}
    assert state["position"] == [10.5, 20.5, 110.5]
    assert state["layout"] == "4panel"
    (layer,) = state["layers"]
    assert (layer["type"], layer["name"]) == ("image", "a brain")
    assert layer["source"] == volume.view().server.source
    assert 210 < 210 / state["crossSectionScale"] < 270  # pixels of a panel of some 270; z is the longest: 21 * 10
    assert shown_state(volume, layout="xy", height=1200)["crossSectionScale"] < state["crossSectionScale"] / 2


def test_a_single_slice_fills_the_view() -> None:
    array = np.zeros((30, 20, 1), np.uint8)
    volume = create_volume("memory://test_serve/slice", array, resolution=(1, 1, 1), overwrite=True)
    with volume.view().server:
        assert shown_state(volume)["layout"] == "xy"
        assert shown_state(volume, layout="4panel")["layout"] == "4panel"


@pytest.mark.parametrize(
    ("dtype", "kind", "expected"),
    [
        ("uint8", "image", "image"),
        ("uint64", "image", "image"),
        ("uint64", "segmentation", "segmentation"),
        ("uint8", "segmentation", "segmentation"),
        ("int64", "segmentation", "segmentation"),
        ("float32", "segmentation", "image"),
    ],
)
def test_the_layer_is_of_the_volumes_type(tmp_path: Path, dtype: str, kind: str, expected: str) -> None:
    put(tmp_path, {**raw_info(), "data_type": dtype, "type": kind}, {})
    volume = open_volume(tmp_path)
    with volume.view().server:
        (layer,) = shown_state(volume)["layers"]
    assert layer["type"] == expected
    assert ("shader" in layer) == (expected == "image")


def limits(shader: str) -> list[tuple[float, float]]:
    return [(float(low), float(high)) for low, high in re.findall(r'range=\["([^"]+)", "([^"]+)"\]', shader)]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("uint8", (3, 7), (0, 255)),
        ("uint16", (300, 700), (300, 700)),
        ("int16", (-300, 700), (-300, 700)),
        ("float32", (-0.5, 0.25), (-0.5, 0.25)),
        ("uint64", (0, 2**63), (0, 2**63)),
        ("uint16", (5, 5), (0, 65535)),
        ("float32", (5, 5), (0, 1)),
        ("float32", (np.nan, np.inf), (0, 1)),
        ("float32", (np.nan, 2), (0, 1)),
    ],
)
def test_black_and_white_are_chosen_by_the_voxels(dtype: str, values: tuple[Any, Any], expected: Any) -> None:
    array = np.full((32, 32, 32), values[0], dtype)
    array[16:] = values[1]
    volume = create_volume(
        "memory://test_serve/range", array, resolution=(1, 1, 1), type="image", downsampling="stride", overwrite=True
    )
    with volume.view().server:
        assert limits(shown_state(volume)["layers"][0]["shader"]) == [expected]


def test_a_float64_is_looked_at_as_it_is_shown(tmp_path: Path) -> None:
    body = np.linspace(-3, 3, 256).tobytes()
    put(tmp_path, {**raw_info(size=[8, 8, 4]), "data_type": "float64"}, {f"{KEY}/{NAME}": body})
    volume = open_volume(tmp_path)
    with volume.view().server:
        ((low, high),) = limits(shown_state(volume)["layers"][0]["shader"])
    assert -3 < low < -2.9 < 2.9 < high < 3


def test_a_range_that_cannot_be_read_is_that_of_the_type(tmp_path: Path) -> None:
    put(tmp_path, {**raw_info(), "data_type": "int16"}, {f"{KEY}/0-8_0-8_4-8": b"short"})
    volume = open_volume(tmp_path)
    with volume.view().server:
        assert limits(shown_state(volume)["layers"][0]["shader"]) == [(-32768, 32767)]


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 1)])
def test_three_channels_are_colours(channels: int, expected: int) -> None:
    array = np.zeros((8, 8, 8, channels), np.uint8)
    volume = create_volume("memory://test_serve/colours", array, resolution=(1, 1, 1), overwrite=True)
    with volume.view().server:
        shader = shown_state(volume)["layers"][0]["shader"]
    assert limits(shader) == [(0, 255)] * expected
    assert ("emitRGB" in shader) == (expected == 3)


def test_a_missing_client_is_named(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    other = open_volume(volume.url)
    before = threads()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "neuroglancer" else find(name))
    with pytest.raises(ImportError, match=re.escape("pip install 'precomputed-fs[neuroglancer]'")):
        other.view()
    assert threads() == before


def test_an_unknown_layout_is_refused(run: Callable[..., Server], tmp_path: Path) -> None:
    server = run(put(tmp_path, raw_info(), {}))
    before = threads()
    for show in (server.view, server.volume.view, linked("gs://bucket/lab").neuroglancer_url):
        with pytest.raises(ValueError, match=r"layout: expected one of 4panel, .*, got 'foo'"):
            show(layout="foo")
    assert threads() == before


def test_layouts_are_those_of_neuroglancer() -> None:
    known = importlib.import_module("neuroglancer.viewer_state").data_panel_layout_types
    assert len(LAYOUTS) == len(known)
    assert set(LAYOUTS) == known


# --------------------------------------------------------------------------------------------------------------- links


def linked(url: Any, info: dict[str, Any] | None = None, **options: Any) -> Volume:
    """Make a volume of which nothing is read."""
    return Volume(FsspecAccessor(url, **options), Info.parse(info or raw_info()))


@pytest.mark.parametrize(
    ("url", "options", "source"),
    [
        ("https://example.org/lab/brain", {}, "https://example.org/lab/brain"),
        ("http://example.org:8080/a%20b/", {}, "http://example.org:8080/a%20b/"),
        ("precomputed://gs://bucket/lab/brain", {}, "gs://bucket/lab/brain"),
        ("gcs://bucket/lab/brain", {}, "gs://bucket/lab/brain"),
        ("s3://bucket/lab/a brain", {"anon": True}, "s3://bucket/lab/a%20brain"),
        ("s3a://bucket/lab", {}, "s3://bucket/lab"),
        ("s3://bucket/lab", {"storage_options": {"anon": True, "key": None, "token": ""}}, "s3://bucket/lab"),
        ("gs://bucket/lab", {"storage_options": {"token": "anon", "project": "mine"}}, "gs://bucket/lab"),
        ("s3+https://example.org/bucket/lab", {}, "s3+https://example.org/bucket/lab"),
        (
            "s3://bucket/lab",
            {"storage_options": {"client_kwargs": {"endpoint_url": "http://example.org:9000/"}}},
            "s3+http://example.org:9000/bucket/lab",
        ),
    ],
)
def test_a_link_to_public_data(url: str, options: dict[str, Any], source: str) -> None:
    link = linked(url, **options).neuroglancer_url()
    assert link.startswith("https://neuroglancer-demo.appspot.com/#!%7B")
    (layer,) = state_of(link)["layers"]
    assert layer["source"] == f"precomputed://{source}"


def test_a_link_to_jpeg_is_possible() -> None:
    assert linked("gs://bucket/lab", raw_info(encoding="jpeg")).neuroglancer_url()


def test_a_link_leads_where_one_likes() -> None:
    link = linked("gs://bucket/lab").neuroglancer_url("https://example.org/ng/", layout="xy")
    assert link.startswith("https://example.org/ng/#!")
    assert state_of(link)["layout"] == "xy"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("memory://lab/brain", {}),
        ("lab/brain", {}),
        ("zip://brain::https://example.org/brain.zip", {}),
        ("simplecache::https://example.org/brain", {}),
        ("az://container/brain", {"storage_options": {"account_name": "lab", "anon": True}}),
        ("https://example.org/brain?signature=SECRETSECRET", {}),
        ("https://user:SECRETSECRET@example.org/brain", {}),
        ("https://example.org/brain", {"storage_options": {"headers": {"Authorization": "SECRETSECRET"}}}),
        ("s3://bucket/brain", {"storage_options": {"key": "SECRETSECRET", "secret": "SECRETSECRET"}}),
        ("s3://bucket/brain", {"storage_options": {"endpoint_url": "https://me:pw@example.org"}}),
        ("s3+https://me:pw@example.org/bucket/brain", {}),
        # however short they are, and whatever they are
        ("s3://bucket/brain", {"storage_options": {"key": "k", "secret": "s"}}),
        ("s3://bucket/brain", {"storage_options": {"s3": {"key": "k", "secret": "s"}}}),
        ("s3://bucket/brain", {"storage_options": {"profile": "lab"}}),
        ("s3://bucket/brain", {"storage_options": {"session": object()}}),
        ("s3://bucket/brain", {"storage_options": {"anon": False}}),
        ("s3://bucket/brain", {"storage_options": {"client_kwargs": {"aws_session_token": "t"}}}),
        ("s3://bucket/brain", {"anon": False}),
        ("gs://bucket/brain", {"storage_options": {"token": "cloud"}}),
        ("gs://bucket/brain", {"storage_options": {"token": object()}}),
        ("https://example.org/brain", {"storage_options": {"headers": {"Authorization": "a"}}}),
        ("https://example.org/brain", {"storage_options": {"client_kwargs": {"auth": ("a", "b")}}}),
        ("https://u:p@example.org/brain", {}),
    ],
)
def test_no_link_to_what_others_cannot_read(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"use view\(\) or precomputed_fs.serve") as caught:
        linked(url, **options).neuroglancer_url()
    assert not {"SECRETSECRET", "pw"} & set(re.split(r"\W", str(caught.value)))


@pytest.mark.parametrize(
    ("encoding", "dtype", "channels"),
    [("crackle", "uint32", 1), ("jxl", "uint8", 3), ("raw", "float64", 1), ("jpeg", "uint8", 2)],
)
def test_no_link_to_what_neuroglancer_does_not_decode(encoding: str, dtype: str, channels: int) -> None:
    info = {**raw_info(encoding=encoding), "data_type": dtype, "num_channels": channels}
    with pytest.raises(ValueError, match=rf"does not read {encoding} of {channels} x {dtype}: use view\(\)"):
        linked("gs://bucket/brain", info).neuroglancer_url()


# ------------------------------------------------------------------------------------------------ Neuroglancer itself


def test_an_image_in_a_bucket_is_shown(
    neuroglancer: Neuroglancer, run: Callable[..., Server], make_pyramid: Callable[[str], Pyramid]
) -> None:
    pyramid = make_pyramid("s3")
    with pyramid.accessor() as accessor:
        write(accessor, {"1mm": PART}, PART_OFFSET, PART_CHUNK_SIZE)
    server = run(pyramid.url, storage_options=pyramid.storage_options)
    with neuroglancer.show(server.source, position=PART_POSITION, shader=GREY, size=(300, 300)) as view:
        assert view.errors == []
        assert_pixels(view, grey(PART), PART_OFFSET, PART_POSITION)
        assert_voxels(view, {"1mm": PART})


def test_a_segmentation_is_shown(neuroglancer: Neuroglancer, run: Callable[..., Server]) -> None:
    part = TISSUES[60:140, 60:140, 70:90]
    volume = create_volume(
        "memory://test_serve/labels", IDS[part], resolution=(1e6, 1e6, 1e6), voxel_offset=PART_OFFSET, scales=1,
        chunk_size=PART_CHUNK_SIZE, encoding="compressed_segmentation", overwrite=True,
    )  # fmt: skip
    colours = {str(id_): "#" + bytes(colour).hex() for id_, colour in zip(IDS, COLOURS, strict=True)}
    shown: dict[str, Any] = {"segmentColors": colours, "selectedAlpha": 1, "saturation": 1}
    source = run(volume).source
    with neuroglancer.show(source, "segmentation", position=PART_POSITION, size=(300, 300), **shown) as view:
        assert view.errors == []
        assert_pixels(view, COLOURS[part], PART_OFFSET, PART_POSITION)
        assert_voxels(view, {volume[0].key: IDS[part]})


def stored_in_zlib_shards(folder: Path) -> tuple[str, dict[str, Array]]:
    """Write as neuroglancer-scripts does: zlib where `info` says gzip."""
    written = synthesize(1, 1, index="gzip", data="gzip", pack_data=zlib.compress)
    put(folder, {}, written.files)
    voxels = np.zeros(written.scale.size, np.uint8)
    for (x0, x1, y0, y1, z0, z1), body in written.chunks.items():
        voxels[x0:x1, y0:y1, z0:z1] = np.frombuffer(body, np.uint8).reshape((4, 4, 4), order="F")
    return str(folder), {written.scale.key: voxels}


def stored_in_a_zip(folder: Path) -> tuple[str, dict[str, Array]]:
    url = f"zip://brain::{folder}/brain.zip"
    with FsspecAccessor(url, storage_options={"mode": "w"}) as accessor:
        write(accessor, {"1mm": PART}, PART_OFFSET, PART_CHUNK_SIZE)
    return url, {"1mm": PART}


def stored_in_folders(folder: Path) -> tuple[str, dict[str, Array]]:
    with FsspecAccessor(folder, flat=False) as accessor:
        write(accessor, {"1mm": PART}, PART_OFFSET, PART_CHUNK_SIZE)
    assert (folder / "1mm" / "0-40" / "-40-0" / "0-20.gz").exists()
    return str(folder), {"1mm": PART}


def stored_in(encoding: str, dtype: str, folder: Path) -> tuple[str, dict[str, Array]]:
    voxels = PART.astype(dtype) * np.dtype(dtype).type(3.7 if dtype == "float32" else 2**40)
    create_volume(folder, voxels, resolution=(1, 1, 1), chunk_size=PART_CHUNK_SIZE, encoding=encoding, scales=1)
    return str(folder), {"1_1_1": voxels}


def stored_as_neuroglancer_scripts_does(folder: Path) -> tuple[str, dict[str, Array]]:
    """Write progressive JPEG, which the client itself gets wrong."""
    encoder = get_encoder(raw_info(encoding="jpeg"), raw_info(encoding="jpeg")["scales"][0])
    body = encoder.encode(PART.T[np.newaxis])
    assert b"\xff\xc2" in body  # the frame of a progressive one
    info = raw_info(encoding="jpeg", size=list(PART.shape), chunk_sizes=[list(PART.shape)])
    put(folder, info, {f"{KEY}/0-80_0-80_0-20": body})
    pixels = imagecodecs.jpeg8_decode(body)
    assert np.ptp(pixels) > 100
    return str(folder), {KEY: pixels.ravel().reshape(PART.shape, order="F")}


STORED: dict[str, Callable[[Path], tuple[str, dict[str, Array]]]] = {
    "zlib shards": stored_in_zlib_shards,
    "zip": stored_in_a_zip,
    "sub-directories": stored_in_folders,
    "progressive JPEG": stored_as_neuroglancer_scripts_does,
    "fpzip": partial(stored_in, "fpzip", "float32"),
    "crackle": partial(stored_in, "crackle", "uint64"),
}


@pytest.mark.parametrize("way", STORED)
def test_however_it_is_stored_the_client_decodes_the_same_voxels(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path, way: str
) -> None:
    url, pyramid = STORED[way](tmp_path)
    server = run(url)
    middle = np.add(server.volume[0].bounds.start, server.volume[0].bounds.stop) / 2
    with neuroglancer.show(server.source, position=(middle + 0.25).tolist(), size=(300, 300)) as view:
        assert view.errors == []
        assert_voxels(view, pyramid)


def test_the_client_tells_a_failure_from_absence(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path
) -> None:
    url, _ = stored_in_folders(tmp_path)
    (tmp_path / "1mm" / "0-40" / "-40-0" / "0-20.gz").write_bytes(b"no gzip")
    (tmp_path / "1mm" / "-40-0" / "0-40" / "0-20.gz").unlink()
    with neuroglancer.show(run(url).source, position=PART_POSITION, size=(300, 300)) as view:
        assert "1 chunk(s) failed" in view.errors
        with pytest.raises(browser.PageError, match="502"):
            view.chunk("1mm", (1, 0, 0))
        with pytest.raises(browser.PageError, match="chunk 0,1,0 of scale 1mm is absent"):
            view.chunk("1mm", (0, 1, 0))


def test_a_page_tells_when_its_server_has_gone_and_takes_no_connection_for_it(
    chromium: Chromium, volume: Volume
) -> None:
    """A browser has few connections to a server, which all views of a volume share."""
    shown = volume.view()
    with browser.opened(chromium, shown.url, size=(300, 300)) as view:
        asked = view.page.evaluate("""async () => {
            const sources = [...Array(20)].map(() => new EventSource("../../events/0"));
            await Promise.all(sources.map(source => new Promise(opened => { source.onopen = opened; })));
            return (await fetch("../../data/info")).status;
        }""")
        assert asked == 200
        assert not any("Python server" in error for error in view.errors)
        shown.server.close()
        assert view.page.evaluate("""async () => {
            const said = () => document.querySelector("#neuroglancer-status-container").innerText;
            while (!said().includes("Disconnected")) await new Promise(resolve => setTimeout(resolve, 50));
            return said();
        }""").startswith("Disconnected from Python server")


def test_a_view_shows_all_of_a_volume(chromium: Chromium) -> None:
    array = np.full((50, 40, 30), 1000, np.uint16)
    array[25:] = 3000
    volume = create_volume("memory://test_serve/view", array, resolution=(8, 8, 40), voxel_offset=(7, 0, -3), scales=1)
    shown = volume.view(layout="xy", height=300)
    with shown.server, browser.opened(chromium, shown.url, size=(500, 300)) as view:
        assert view.errors == []
        np.testing.assert_array_equal(view.volume("8_8_40"), array)
        state = view.page.evaluate("() => viewer.state.toJSON()")
        pixels = view.slice()
    assert state["dimensions"] == {"x": [8e-9, "m"], "y": [8e-9, "m"], "z": [4e-8, "m"]}
    assert [layer["type"] for layer in state["layers"]] == ["image"]
    voxel = 1 / state["crossSectionScale"]  # pixels
    row, column = np.array(pixels.shape[:2]) // 2 + (-20, 20)  # beside the lines through the middle
    black, white = ((pixels == colour).all(axis=-1) for colour in (0, 255))  # 1000 and 3000
    assert np.allclose([black[row].sum(), white[row].sum()], 25 * voxel, atol=3)
    assert np.isclose(white[:, column].sum(), 40 * voxel, atol=6)  # lines lie over it
    assert 50 * voxel < len(pixels) < 250 * voxel


# --------------------------------------------------------------------------------------------------------------- links


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
