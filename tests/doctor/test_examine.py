"""What is examined, where, with how many requests; what is broken or missing."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
from aiohttp import web

from precomputed_fs import create_volume, doctor, open_volume
from precomputed_fs.doctor import SAMPLES, examine
from precomputed_fs.doctor.checks import READERS
from precomputed_fs.doctor.examine import MOST_REQUESTS
from tests.doctor.flaws import KEY, SIZE, contents, ids, read_with_ours, scale, server, write
from tests.support import servers, tools
from tests.support.brain import image
from tests.support.shards import sharding_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from precomputed_fs.doctor.report import Report
    from tests.support.places import Place

assert SAMPLES >= 8, "all chunks are looked at, so that the verdict is on the same chunks as the reader's"


def readers_of(report: Report, rule: str) -> set[str]:
    return {reader for finding in report.findings if finding.rule.id == rule for reader in finding.rule.readers}


def test_where_no_other_reader_opens_anything() -> None:
    create_volume("memory://doctor/plain", np.ones(SIZE, np.uint8), resolution=(8, 8, 8), gzip=False)
    report = doctor("memory://doctor/plain")
    others = {reader for reader in READERS if reader != "precomputed_fs"}
    assert report.ok
    assert {reader for reader, verdict in report.verdicts.items() if str(verdict) == "ok elsewhere"} == others
    assert ids(report) == set()
    assert readers_of(report, "protocol") == others


def test_this_package_opens_it_wherever_it_is(tmp_path: Path, readable_pyramid: Place) -> None:
    write(tmp_path / "made")
    for name, data in contents(tmp_path / "made").items():
        readable_pyramid.put(str(Path(name).relative_to(tmp_path / "made")), data)
    report = doctor(readable_pyramid.url, storage_options=readable_pyramid.storage_options)
    assert report["precomputed_fs"].ok, report
    assert report.chunks == SAMPLES


def test_a_failure_that_nobody_foresaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("with a s3cret")

    write(tmp_path)
    monkeypatch.setattr(examine, "_chosen", fail)
    report = doctor(tmp_path)
    assert "info-unreachable" in ids(report)
    assert "RuntimeError" in str(report)
    assert "s3cret" not in str(report)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tensorstore_opens_archives_where_it_opens_files(tmp_path: Path, compression: int) -> None:
    write(tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "made.zip", "w", compression) as archive:
        for name in contents(tmp_path / "made"):
            archive.write(name, f"brain/{Path(name).relative_to(tmp_path / 'made')}")
    voxels = open_volume(tmp_path / "made")[0][:]
    with servers.http_server(tmp_path) as served:
        for place in (f"file://{tmp_path}/made.zip", f"{served.url}/made.zip"):
            kvstore = {"driver": "zip", "base": place, "path": "brain/"}
            assert np.array_equal(tools.read_with_tensorstore(kvstore)[1], voxels)
            report = doctor(f"zip://brain::{place}")
            assert {str(report[reader]) for reader in ("precomputed_fs", "tensorstore")} == {"ok"}
            assert readers_of(report, "protocol") == {"neuroglancer", "cloud-volume", "neuroglancer-scripts"}
    fsspec.filesystem("memory").pipe_file("/doctor/made.zip", (tmp_path / "made.zip").read_bytes())
    assert str(doctor("zip://brain::memory://doctor/made.zip")["tensorstore"]) == "ok elsewhere"


def test_a_cache_in_front_is_not_what_others_read(tmp_path: Path) -> None:
    write(tmp_path / "pyramid")
    with servers.fault_server(server(tmp_path)) as served:
        cached = {"simplecache": {"cache_storage": str(tmp_path / "cache")}}
        report = doctor(f"simplecache::{served.url}/pyramid", storage_options=cached)
    assert report.ok, report


@pytest.mark.parametrize("acl", ["private", "public-read"])
def test_a_bucket_that_is_private_and_one_that_is_not(make_pyramid: Callable[[str], Place], acl: str) -> None:
    pyramid = make_pyramid("s3")
    options = pyramid.storage_options | {"s3_additional_kwargs": {"ACL": acl}}
    create_volume(pyramid.url, image("uint8")[..., :1], resolution=(8, 8, 8), storage_options=options).close()
    pyramid.server.log.clear()
    report = doctor(pyramid.url, storage_options=pyramid.storage_options)
    asked = [request for request in pyramid.server.log.entries() if "Origin" in request.headers]
    assert len(asked) == 1
    assert "Authorization" not in asked[0].headers
    anonymous = pyramid.storage_options | {"key": None, "secret": None, "anon": True}
    is_public = "info-denied" not in ids(doctor(pyramid.url, storage_options=anonymous))
    assert is_public == (acl == "public-read")
    assert report["neuroglancer"].ok == is_public, report
    assert ("private" in ids(report)) == (not is_public)
    assert report["tensorstore"].ok
    assert report["cloud-volume"].ok
    assert ids(report) - {"private"} == set()
    assert readers_of(report, "protocol") == {"neuroglancer-scripts"}, "it has no buckets"


def test_what_a_web_page_may_not_read(tmp_path: Path) -> None:
    write(tmp_path)
    with servers.http_server(tmp_path) as served:
        report = doctor(served.url)
    assert (ids(report), readers_of(report, "no-cors")) == ({"no-cors"}, {"neuroglancer"})
    assert [reader for reader in READERS if not report[reader].ok] == ["neuroglancer"]


@pytest.mark.parametrize("origin", ["*", "https://neuroglancer-demo.appspot.com", "https://elsewhere.example"])
def test_which_origins_a_server_lets_read(tmp_path: Path, origin: str) -> None:
    write(tmp_path)
    static = servers.files(tmp_path)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await static(request)
        response.headers["Access-Control-Allow-Origin"] = origin
        return response

    with servers.fault_server(handler) as served:
        assert doctor(served.url)["neuroglancer"].ok == ("elsewhere" not in origin)


def test_a_server_that_answers_no_pages(tmp_path: Path) -> None:
    write(tmp_path)
    static, reset = servers.files(tmp_path), servers.resetting()

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (reset if "Origin" in request.headers else static)(request)

    with servers.fault_server(handler) as served:
        report = doctor(served.url)
        asked = sum("Origin" in request.headers for request in served.log.entries())
        assert asked <= 2, "once more where a connection that was kept is reset, and never again"
    assert report.ok, report


INFO = json.dumps({"type": "image", "data_type": "uint8", "num_channels": 1, "scales": []}).encode()

BROKEN: Mapping[str, tuple[servers.Handler, str]] = {
    "404": (servers.respond(404), "info-absent"),
    "403": (servers.respond(403), "info-denied"),
    "401": (servers.respond(401), "info-denied"),
    "500": (servers.respond(500), "info-unreachable"),
    "no JSON": (servers.respond(200, b"<html>"), "info-wrong"),
    "nothing": (servers.respond(200, b""), "info-wrong"),
    "too deep": (servers.respond(200, b"[" * 100_000), "info-wrong"),
    "no scales": (servers.respond(200, INFO), "info-wrong"),
    "no gzip": (servers.respond(200, INFO, {"Content-Encoding": "gzip"}), "info-damaged"),
    "a redirect to nowhere": (servers.respond(200, b'{"redirect": "ftp:/x"}'), "info-wrong"),
    "cut short": (servers.truncated(INFO, len(INFO) + 1), "info-damaged"),
    "a reset": (servers.resetting(), "info-unreachable"),
}


@pytest.mark.parametrize(("handler", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_opened_is_a_finding(handler: servers.Handler, expected: str) -> None:
    with servers.fault_server(handler) as served:
        report = doctor(f"{served.url}/pyramid", attempts=1)
    found = ids(report)
    assert {name for name in found if name.startswith("info-")} == {expected}, report
    assert report["precomputed_fs"].ok is False
    if expected != "info-wrong":
        assert not any(verdict.ok is not False for verdict in report.verdicts.values())


def test_nobody_there() -> None:
    assert "info-unreachable" in ids(doctor(servers.refused_url(), attempts=1))


STRANGE: Sequence[Any] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**80,
    "",
    "raw",
    [],
    [1],
    [1, 2, 3],
    [[1, 2, 3]],
    [0, 0, 0],
    {},
    {"@type": "x"},
)


@pytest.mark.parametrize(
    "member",
    ["@type", "type", "data_type", "num_channels", "scales", "scales.key", "scales.size", "scales.resolution",
     "scales.voxel_offset", "scales.chunk_sizes", "scales.encoding", "scales.sharding", "scales.hidden"],
)  # fmt: skip
def test_a_strange_info_is_a_finding(tmp_path: Path, member: str) -> None:
    write(tmp_path)
    given = json.loads((tmp_path / "info").read_bytes())
    *_, name = member.split(".")
    for value in STRANGE:
        changed = json.loads(json.dumps(given))
        (changed["scales"][0] if "." in member else changed)[name] = value
        (tmp_path / "info").write_text(json.dumps(changed))
        report = doctor(tmp_path)
        try:
            is_read = bool([read_with_ours(str(tmp_path), index) for index in range(len(open_volume(tmp_path)))])
        except Exception:  # noqa: BLE001 - of any kind
            is_read = False
        assert report["precomputed_fs"].ok == is_read, (value, report)
        json.dumps(report.to_dict())


def test_a_key_that_leaves_the_host(tmp_path: Path) -> None:
    write(tmp_path / "pyramid")
    with servers.fault_server(server(tmp_path)) as served:
        scale(key="../../../elsewhere")(tmp_path / "pyramid")
        report = doctor(f"{served.url}/pyramid")
    assert "scale-wrong" in ids(report)
    assert [verdict.ok for verdict in report.verdicts.values()] == [False, None, None, None, None], "nothing was read"


def test_only_other_readers_need_the_finest_scale_first(coarsest_first: Path) -> None:
    report = doctor(coarsest_first)
    concerned = {
        name for name, verdict in report.verdicts.items() for f in verdict.findings if f.rule.id == "resolution-order"
    }
    assert concerned == {*READERS} - {"precomputed_fs"}
    assert report.scales == ("16_16_16", "8_8_8", "4_4_4"), "as other readers count them"
    assert report["precomputed_fs"].ok


def test_a_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, encoding="compresso", data_type="uint32")
    assert "library" not in ids(doctor(tmp_path))
    monkeypatch.setitem(sys.modules, "compresso", None)
    report = doctor(tmp_path)
    assert readers_of(report, "library") == {"precomputed_fs"}
    assert not report["precomputed_fs"].ok


def asked_of(served: servers.HttpServer, **options: Any) -> tuple[Report, list[str]]:
    served.log.clear()
    report = doctor(f"{served.url}/pyramid", **options)
    return report, [request.path for request in served.log.entries()]


@pytest.mark.parametrize("samples", [1, 3, 5, SAMPLES])
def test_requests_are_few(tmp_path: Path, samples: int) -> None:
    folder = tmp_path / "pyramid"
    create_volume(folder, image("uint8")[..., :1], resolution=(8, 8, 8), chunk_size=(5, 5, 5), scales=2, gzip=False)
    with servers.fault_server(server(tmp_path)) as served:
        report, asked = asked_of(served, samples=samples)
        assert report.chunks == 2 * samples
        assert len(asked) == 2 + 2 * samples, "info, once as a page, and each chunk"
        assert asked.count("/pyramid/info") == 2
        assert sorted(asked_of(served, samples=samples)[1]) == sorted(asked), "the same ones each time"
        if samples > 3:
            assert set(asked_of(served, samples=samples, seed=1)[1]) != set(asked)


def test_requests_for_what_is_absent_are_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "pyramid"
    write(folder)
    shutil.rmtree(folder / KEY)
    with servers.fault_server(server(tmp_path)) as served:
        report, asked = asked_of(served)
    assert "scale-empty" in ids(report, "warning")
    assert len(asked) - 2 == SAMPLES * MOST_REQUESTS


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_requests_for_shards_are_few(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "pyramid"
    write(folder, sharding=sharding_of((1, 1, 1), "identity", encoding, encoding))
    with servers.fault_server(server(tmp_path)) as served:
        report, asked = asked_of(served)
    assert report.chunks == SAMPLES
    assert report["precomputed_fs"].ok
    assert len(asked) - 2 <= 3 * SAMPLES + 2


def test_a_scale_of_many_chunks_takes_no_longer(tmp_path: Path) -> None:
    write(tmp_path)
    scale(size=[2**40] * 3, chunk_sizes=[[8, 8, 8]])(tmp_path)
    began = time.monotonic()
    assert doctor(tmp_path).chunks == SAMPLES
    assert time.monotonic() - began < 10


def test_huge_chunks_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    scale(size=[2048] * 3, chunk_sizes=[[2048] * 3])(tmp_path)
    report = doctor(tmp_path)
    assert report.chunks == 0
    assert "huge-chunks" in ids(report, "warning")
    assert {verdict.ok for verdict in report.verdicts.values()} == {None}, "nobody has tried"


def test_a_server_that_dawdles_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "pyramid"
    write(folder)
    static = server(tmp_path)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/info"):
            return await static(request)
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        for _ in range(60):  # a byte now and then: nothing that a request's own time limit would end
            await response.write(b".")
            await asyncio.sleep(0.1)
        return response

    with servers.fault_server(handler) as served:
        began = time.monotonic()
        report = doctor(f"{served.url}/pyramid", time_limit=1.0)
        assert time.monotonic() - began < 5
    assert "took-too-long" in ids(report, "warning")
    assert {verdict.ok for verdict in report.verdicts.values()} == {None}
    assert "unknown" in str(report)


def test_a_server_that_is_silent_is_not_waited_for() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    with servers.fault_server(handler) as served:
        began = time.monotonic()
        assert "info-unreachable" in ids(doctor(served.url, timeout=0.3, attempts=1))
        assert time.monotonic() - began < 5
