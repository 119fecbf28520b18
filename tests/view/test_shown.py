"""What the web client gets of a pyramid: info, chunks, other files."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from typing import TYPE_CHECKING, Any

import brotli
import imagecodecs
import numpy as np
import pytest
from aiohttp import web

from precomputed_fs import (
    FsspecAccessor,
    URLError,
    create_volume,
    open_volume,
    serve,
)
from tests.support import servers
from tests.support.shards import sharding_of, synthesize
from tests.view.serving import BODY, KEY, NAME, Array, ask, put, raw_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.view.server import Server
    from tests.support.places import Place


def test_a_chunk_is_the_bytes_that_the_specification_says(server: Server) -> None:
    answer = ask(f"{server.url}/{KEY}/{NAME}")
    assert (answer.status, answer.body) == (200, BODY)
    assert answer["Content-Length"] == "256"
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["Content-Encoding"] is None


def test_the_info_says_what_is_served(run: Callable[..., Server], tmp_path: Path) -> None:
    given = raw_info(
        sharding=sharding_of((0, 0, 0), index="gzip", data="gzip"), hidden=True, encoding="RAW", mine=[1, {"a": 2}]
    )
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


def test_every_protocol_is_served(run: Callable[..., Server], readable_pyramid: Place) -> None:
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
    run: Callable[..., Server], make_pyramid: Callable[[str], Place]
) -> None:
    for protocol, suffix, encoding in (("local", ".gz", None), ("gcs", "", "gzip")):
        pyramid = make_pyramid(protocol)
        pyramid.put("info", json.dumps(raw_info()).encode())
        pyramid.put(f"mesh/0.shard{suffix}", gzip.compress(SHARD), encoding)
        server = run(pyramid.url, storage_options=pyramid.storage_options)
        assert ask(f"{server.url}/mesh/0.shard", Range="bytes=10-19").body == SHARD[10:20]
