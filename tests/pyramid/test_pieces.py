"""Pieces of raw chunks: a box or points that need few of a chunk's bytes read these alone, where that is possible."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web

from precomputed_fs import CorruptDataError, NotFoundError, create_volume, open_volume
from precomputed_fs.store.protocols.local import Local
from tests.support import servers

if TYPE_CHECKING:
    from pathlib import Path

    from precomputed_fs import Scale

KEY = "8_8_8"
ARRAY = np.random.default_rng(0).integers(0, 1 << 16, (70, 40, 64, 2)).astype(np.uint16)
CHUNK = (32, 32, 32)
PLANE = np.s_[:, :, 33:35, 0]
POINTS = np.random.default_rng(1).integers(0, (70, 40, 64), (40, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_volume(tmp_path, ARRAY, resolution=8, chunk_size=CHUNK, scales=1, gzip=False)
    return tmp_path


def assert_right(scale: Scale) -> None:
    assert np.array_equal(scale[PLANE], ARRAY[PLANE])
    assert np.array_equal(scale.sample(POINTS), ARRAY[tuple(POINTS.T)])
    assert np.array_equal(scale[69:30:-3, 1::2, 40:5:-1], ARRAY[69:30:-3, 1::2, 40:5:-1])
    assert np.array_equal(scale[...], ARRAY)


def chunk_requests(server: servers.HttpServer) -> list[str]:
    """Return the ranges that were asked for of chunks, in order; empty: the whole chunk."""
    found = [entry for entry in server.log.entries() if KEY in entry.path]
    server.log.clear()
    return [entry.headers.get("range", "") for entry in found]


def test_over_http_one_chunk_tells_whether_they_are_plain(folder: Path) -> None:
    with servers.http_server(folder) as server:
        scale = open_volume(server.url)[0]
        assert np.array_equal(scale[0, 0, 5], ARRAY[0, 0, 5])
        assert chunk_requests(server) == [""]
        assert np.array_equal(scale[PLANE], ARRAY[PLANE])
        ranges = chunk_requests(server)
        assert len(ranges) == 6
        assert "bytes=2048-6143" in ranges, "two planes of the first channel"
        assert np.array_equal(scale.sample([(40, 3, 9)]), ARRAY[[40], [3], [9]])
        assert chunk_requests(server) == ["bytes=18640-84177"], "from the first channel to the second"
        assert_right(scale)


def test_while_one_chunk_tells_the_others_wait(folder: Path) -> None:
    with servers.fault_server(servers.latency(0.05, servers.files(folder))) as server:
        scale = open_volume(server.url)[0]
        assert np.array_equal(scale[PLANE], ARRAY[PLANE])
        first, *others = chunk_requests(server)
        assert first == ""
        assert len(others) == 5
        assert others.count("") == 1, "the smallest one"


@pytest.mark.parametrize("damaged", [False, True])
def test_where_the_first_chunk_is_absent_or_damaged_the_others_are_looked_for_whole(
    folder: Path, damaged: bool
) -> None:
    for path in (folder / KEY).glob("*_32-64"):
        path.write_bytes(b"") if damaged else path.unlink()
    with servers.fault_server(servers.latency(0.05, servers.files(folder))) as server:
        scale = open_volume(server.url)[0]
        if damaged:
            with pytest.raises(CorruptDataError):
                scale[PLANE]
        else:
            with pytest.warns(UserWarning, match="none of the 6 chunks"):
                assert not scale[PLANE].any()
            assert set(chunk_requests(server)) == {""}
        assert np.array_equal(scale[:, :, 5], ARRAY[:, :, 5])


def encoded(root: Path) -> servers.Handler:
    """Serve chunks that are gzip as such."""
    files = servers.files(root)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await files(request)
        if KEY in request.path and (root / request.path[1:]).read_bytes()[:2] == b"\x1f\x8b":
            response.headers["Content-Encoding"] = "gzip"
        return response

    return handler


def without_ranges(root: Path) -> servers.Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=(root / request.path[1:]).read_bytes())

    return handler


def test_compressed_chunks_are_read_whole_from_the_first_on(folder: Path) -> None:
    for path in (folder / KEY).iterdir():
        path.write_bytes(gzip.compress(path.read_bytes()))
    with servers.fault_server(encoded(folder)) as server:
        scale = open_volume(server.url)[0]
        assert_right(scale)
        ranges = chunk_requests(server)
    assert set(ranges) == {""}
    assert_right(open_volume(folder)[0])


@pytest.mark.parametrize("handler", [encoded, without_ranges])
def test_where_there_are_no_pieces_the_whole_chunk_is_read_and_the_next_ones_too(folder: Path, handler: Any) -> None:
    compressed = folder / KEY / "0-32_0-32_32-64"
    compressed.write_bytes(gzip.compress(compressed.read_bytes()))
    with servers.fault_server(handler(folder)) as server:
        scale = open_volume(server.url)[0]
        assert scale[40, 0, 5, 0] == ARRAY[40, 0, 5, 0]
        chunk_requests(server)
        assert np.array_equal(scale[0:32, 0:32, 40], ARRAY[0:32, 0:32, 40])
        first, second = chunk_requests(server)
        assert first
        assert not second
        assert_right(scale)
        assert set(chunk_requests(server)) == {""}


def test_pieces_are_followed_to_where_a_server_redirects(folder: Path) -> None:
    with servers.http_server(folder) as behind:

        async def redirect(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(behind.url + request.path)

        with servers.fault_server(redirect) as server:
            scale = open_volume(server.url)[0]
            assert_right(scale)
            assert any(chunk_requests(behind))
            for path in (folder / KEY).iterdir():
                path.write_bytes(path.read_bytes() + b"\0")
            with pytest.raises(CorruptDataError, match="bytes"):
                scale[PLANE]


def test_an_absent_chunk_takes_one_request(folder: Path) -> None:
    (folder / KEY / "0-32_0-32_32-64").unlink()
    with servers.http_server(folder) as server:
        scale = open_volume(server.url)[0]
        assert scale[40, 0, 5, 0] == ARRAY[40, 0, 5, 0]
        chunk_requests(server)
        with pytest.raises(NotFoundError, match="has no chunk"):
            scale.read(np.s_[0:32, 0:32, 40], missing="raise")
        assert len(chunk_requests(server)) == 1


@pytest.mark.parametrize("length", [0, 100, 2 * 32**3 * 2 - 1, 2 * 32**3 * 2 + 1])
@pytest.mark.parametrize("place", ["disk", "http"])
def test_a_chunk_of_another_length_is_damaged(folder: Path, length: int, place: str) -> None:
    path = folder / KEY / "0-32_0-32_32-64"
    path.write_bytes(path.read_bytes().ljust(length, b"\0")[:length])
    with servers.http_server(folder) as server:
        scale = open_volume(folder if place == "disk" else server.url)[0]
        assert scale[40, 0, 5, 0] == ARRAY[40, 0, 5, 0]
        with pytest.raises(CorruptDataError, match="0-32_0-32_32-64"):
            scale[0:32, 0:32, 40]
        with pytest.raises(CorruptDataError, match="0-32_0-32_32-64"):
            scale.sample([(0, 0, 40)])


def test_what_is_kept_in_memory_is_read_whole(folder: Path) -> None:
    with servers.http_server(folder) as server:
        scale = open_volume(server.url, cache="1 MiB")[0]
        assert_right(scale)
        assert set(chunk_requests(server)) == {""}


# ---------------------------------------------------------------------------------------------------------------- disk


@pytest.fixture
def pieces_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many bytes were read in pieces at a time."""
    sizes: list[int] = []
    read_pieces = Local.read_pieces

    def noted(*args: Any) -> list[bytes] | None:
        found = read_pieces(*args)
        sizes.append(sum(map(len, found or [])))
        return found

    monkeypatch.setattr(Local, "read_pieces", noted)
    return sizes


def test_from_disk_the_first_chunk_is_read_in_pieces_too(folder: Path, pieces_read: list[int]) -> None:
    scale = open_volume(folder)[0]
    assert np.array_equal(scale[PLANE], ARRAY[PLANE])
    assert sorted(pieces_read) == [768, 1024, 1024, 4096, 4096], "two planes of each chunk but the smallest"
    pieces_read.clear()
    assert np.array_equal(scale.sample([(0, 0, 0), (1, 1, 1), (0, 0, 0)]), ARRAY[[0, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert pieces_read == [12]
    assert_right(scale)


def test_from_disk_compressed_names_are_found(folder: Path) -> None:
    for path in (folder / KEY).iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert_right(open_volume(folder)[0])


def test_what_is_written_meanwhile_is_read(folder: Path) -> None:
    scale = open_volume(folder)[0]
    for value in (1, 2):
        scale[...] = np.full_like(ARRAY, value)
        assert (scale[PLANE] == value).all()
        assert (scale.sample(POINTS) == value).all()


def test_in_memory_chunks_are_read_whole() -> None:
    volume = create_volume(
        "memory://tests/pieces", ARRAY, resolution=8, chunk_size=CHUNK, scales=1, gzip=False, overwrite=True
    )
    assert_right(volume[0])
    assert_right(open_volume("memory://tests/pieces")[0])
