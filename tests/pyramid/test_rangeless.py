"""Sharded scales on servers that know no Range: small shards are read whole, once; large ones are an error."""

from __future__ import annotations

import http.server
import threading
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import DataAccessError, FsspecAccessor, NotFoundError, create_volume, open_volume
from tests.support.faults import Asked, Peer, answering, fault_server, part, sized

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "identity",
    "minishard_bits": 1,
    "shard_bits": 1,
    "minishard_index_encoding": "raw",
    "data_encoding": "raw",
}
KEY = "4_4_4"
SHARDS = ("0.shard", "1.shard")


@pytest.fixture(scope="module")
def array() -> npt.NDArray[Any]:
    return np.arange(32 * 32 * 16, dtype=np.uint16).reshape(32, 32, 16)


@pytest.fixture(scope="module")
def folder(array: npt.NDArray[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    create_volume(folder, array, resolution=(4, 4, 4), chunk_size=(8, 8, 8), sharding=SHARDING, scales=1)
    assert {path.name for path in (folder / KEY).iterdir()} == set(SHARDS)
    return folder


@contextmanager
def python_server(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Serve by Python's own server, as people do; count the names that are asked for."""
    asked = Counter[str]()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked[self.path.rpartition("/")[2]] += 1

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            serving.join()


def test_small_shards_are_read_whole_and_once(folder: Path, array: npt.NDArray[Any]) -> None:
    with python_server(folder) as (url, asked):
        scale = open_volume(url)[0]
        for _ in range(3):
            assert np.array_equal(scale[...][..., 0], array)
            assert np.array_equal(scale[3:7, 9:30, :][..., 0], array[3:7, 9:30])
        for shard in SHARDS:
            assert asked[shard] <= 2, "once to see that ranges are ignored, and once whole"


def test_chunks_one_by_one_read_their_shard_once(folder: Path, array: npt.NDArray[Any]) -> None:
    boxes = [(x, x + 8, y, y + 8, z, z + 8) for x in range(0, 32, 8) for y in range(0, 32, 8) for z in (0, 8)]
    with python_server(folder) as (url, asked), FsspecAccessor(url) as accessor:
        for x0, x1, y0, y1, z0, z1 in boxes:
            chunk = accessor.fetch_chunk(KEY, (x0, x1, y0, y1, z0, z1))
            assert chunk == array[x0:x1, y0:y1, z0:z1].tobytes("F")
        assert dict(accessor.fetch_chunks(KEY, boxes)).keys() == set(boxes)
        for shard in SHARDS:
            assert asked[shard] <= 2


def test_a_shard_that_is_absent_is_absent(folder: Path) -> None:
    def answer(request: Asked) -> bytes:
        path = folder / request.target[1:]
        if not path.is_file() or path.name == "1.shard":
            return sized(b"", "404 Not Found")
        return sized(path.read_bytes())

    with fault_server(answering(answer)) as server, FsspecAccessor(server.url) as accessor:
        chunks = dict(accessor.fetch_chunks(KEY, [(0, 8, 0, 8, z, z + 8) for z in (0, 8)]))
        assert {type(chunk) for chunk in chunks.values()} == {bytes, type(None)}


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_large_shards_are_an_error_that_says_so_and_costs_no_memory(folder: Path, framing: str) -> None:
    piece = b"x" * (1 << 16)

    def talk(peer: Peer) -> None:
        while asked := peer.request():
            if asked.target == "/info":
                peer.send(sized((folder / "info").read_bytes()))
            elif framing == "sized":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000000\r\n\r\n")
                while not peer.server.closing.is_set():
                    peer.send(piece)
            else:
                peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not peer.server.closing.is_set():
                    peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))

    with fault_server(talk) as server, FsspecAccessor(server.url, attempts=2) as accessor:
        accessor.fetch_file("info")
        tracemalloc.start()
        try:
            with pytest.raises(DataAccessError, match="Range") as caught:
                accessor.fetch_chunk(KEY, (0, 8, 0, 8, 0, 8))
            assert tracemalloc.get_traced_memory()[1] < 150 << 20
        finally:
            tracemalloc.stop()
        assert not isinstance(caught.value, NotFoundError)
        assert f"{server.url}/{KEY}/" in str(caught.value)
        assert server.count <= 4


def test_a_server_that_knows_ranges_is_asked_for_them(folder: Path, array: npt.NDArray[Any]) -> None:
    def answer(asked: Asked) -> bytes:
        return part((folder / asked.target[1:]).read_bytes(), asked)

    with fault_server(answering(answer)) as server:
        assert np.array_equal(open_volume(server.url)[0][...][..., 0], array)
        assert all(asked.range for asked in server.requests if asked.target.endswith(".shard"))
