"""Objects that are, or become, far more than they can be: each is refused before it takes memory.

Peaks are those of a process of its own, as its kernel counts them. What takes no process to see, such as where each
limit is, is tested beside what has it.
"""

from __future__ import annotations

import asyncio
import bz2
import json
import lzma
import struct
import subprocess
import sys
import zipfile
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import brotli
import imagecodecs
import pytest
from aiohttp import web

from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MIB = 1 << 20
SIZE = 32 * MIB
MOST = 24  # MiB over the limit, which is less than 4 MiB here

MEASURE = """
import json, sys
import brotli, imagecodecs, numpy
import precomputed_fs.format.info
from precomputed_fs import CorruptDataError, FsspecAccessor, open_volume
import fsspec, aiohttp

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name))

def read(case):
    options = dict(case.get("options", {}))
    if case.get("dirfs"):
        options["fs"] = fsspec.filesystem("dir", path=case["dirfs"], target_protocol="file")
    if case["what"] == "volume":
        return open_volume(case["url"], **options)
    with FsspecAccessor(case["url"], **options) as accessor:
        if case["what"] == "chunk":
            return accessor.fetch_chunk("1", (0, 64, 0, 64, 0, 64))
        return accessor.fetch_file(case["what"])

for case in json.load(sys.stdin):
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak begins anew
    try:
        outcome = f"{len(read(case))} bytes"
    except CorruptDataError as exc:
        outcome = f"corrupt: {exc}"
    except Exception as exc:
        outcome = f"failed: {exc!r}"
    print(json.dumps([outcome, memory("VmHWM") - before]), flush=True)
"""


@cache
def zeros(name: str) -> bytes:
    """Compress zeros, as one member or, where a file may have many and its compression is slow, as many."""
    if name == "br":
        return bytes(brotli.compress(bytes(SIZE), quality=1))
    if name in MEMBERS:
        return MEMBERS[name](bytes(8 * MIB)) * (SIZE // (8 * MIB))
    packer: Any = zlib.compressobj(1, wbits=31 if name == "gz" else 15)
    return b"".join((*(packer.compress(bytes(MIB)) for _ in range(SIZE // MIB)), packer.flush()))


MEMBERS: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: bytes(imagecodecs.zstd_encode(body, 1)),
    "xz": lambda body: lzma.compress(body, preset=0),
    "bz2": lambda body: bz2.compress(body, 1),
}


def info_of(encoding: str, data_type: str = "uint8", **members: Any) -> bytes:
    scale = {
        "key": "1",
        "size": [64, 64, 64],
        "chunk_sizes": [[64, 64, 64]],
        "resolution": [1, 1, 1],
        "encoding": encoding,
        **members,
    }
    return json.dumps({"type": "image", "data_type": data_type, "num_channels": 1, "scales": [scale]}).encode()


def sharding_of(index: str, data: str) -> dict[str, Any]:
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 0,
        "hash": "identity",
        "minishard_bits": 0,
        "shard_bits": 0,
        "minishard_index_encoding": index,
        "data_encoding": data,
    }


def shard_of(chunk: bytes, index: bytes, size: int | None = None) -> bytes:
    """Write a shard of one chunk."""
    index = index or struct.pack("<3Q", 0, 0, len(chunk) if size is None else size)
    return struct.pack("<2Q", len(chunk), len(chunk) + len(index)) + chunk + index


def sparse(path: Path, start: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(16 * SIZE)


def place(folder: Path, name: str, info: bytes, chunk: bytes | None = None, chunk_name: str = "") -> Path:
    made = folder / name
    (made / "1").mkdir(parents=True)
    (made / "info").write_bytes(info)
    if chunk is not None:
        (made / "1" / (chunk_name or "0-64_0-64_0-64")).write_bytes(chunk)
    return made


def in_files(folder: Path) -> Iterator[dict[str, Any]]:
    """Put bombs on disk, and say how each is read."""
    for suffix in ("gz", "br", "zstd", "xz", "bz2"):
        made = folder / suffix
        made.mkdir()
        (made / f"info.{suffix}").write_bytes(zeros(suffix))
        yield {"what": "volume", "url": str(made), "says": "max_info_bytes"}
    (folder / "gz" / "mesh.gz").write_bytes(zeros("gz"))
    yield {"what": "mesh", "url": f"{folder}/gz", "options": {"max_file_bytes": 1000}, "says": "max_file_bytes"}
    segments = {"compressed_segmentation_block_size": [8, 8, 8]}
    for encoding, data_type, members in (
        ("raw", "uint8", {}),
        ("jpeg", "uint8", {}),
        ("png", "uint8", {}),
        ("compressed_segmentation", "uint32", segments),
    ):
        made = place(folder, encoding, info_of(encoding, data_type, **members), zeros("gz"), "0-64_0-64_0-64.gz")
        yield {"what": "chunk", "url": str(made), "says": f"no {encoding} chunk of 64 x 64 x 64 voxels"}
    made = place(folder, "sparse", info_of("raw"))
    sparse(made / "1" / "0-64_0-64_0-64")
    yield {"what": "chunk", "url": str(made), "says": "no raw chunk of 64 x 64 x 64 voxels"}
    yield {"what": "chunk", "url": "/", "dirfs": str(made), "says": "no raw chunk of 64 x 64 x 64 voxels"}
    yield {
        "what": "chunk",
        "url": f"simplecache::file://{made}",
        "options": {"storage_options": {"simplecache": {"cache_storage": str(folder / "cache")}}},
        "says": "no raw chunk of 64 x 64 x 64 voxels",
    }


def in_archives(folder: Path) -> Iterator[dict[str, Any]]:
    for method, lies in ((zipfile.ZIP_DEFLATED, False), (zipfile.ZIP_BZIP2, True), (zipfile.ZIP_LZMA, True)):
        path = folder / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
            with archive.open("info", "w") as member:
                for _ in range(SIZE // MIB):
                    member.write(bytes(MIB))
            if lies:
                archive.getinfo("info").file_size = 1000
        yield {"what": "volume", "url": f"zip://::{path}", "says": "1000" if lies else "max_info_bytes"}


def in_shards(folder: Path) -> Iterator[dict[str, Any]]:
    index, bomb = b"", zeros("gz")
    sharded = info_of("raw", sharding=sharding_of("raw", "gzip"))
    made = place(folder, "gzip chunk", sharded, shard_of(bomb, index), "0.shard")
    yield {"what": "chunk", "url": str(made), "says": "no raw chunk of 64 x 64 x 64 voxels"}
    made = place(folder, "zlib chunk", sharded, shard_of(zeros("zlib"), index), "0.shard")
    yield {"what": "chunk", "url": str(made), "says": "no raw chunk of 64 x 64 x 64 voxels"}
    made = place(folder, "index", info_of("raw", sharding=sharding_of("gzip", "raw")), shard_of(b"x", bomb), "0.shard")
    yield {"what": "chunk", "url": str(made), "says": "minishard 0"}
    made = place(folder, "long chunk", info_of("raw", sharding=sharding_of("raw", "raw")))
    sparse(made / "1" / "0.shard", shard_of(b"", index, SIZE))
    yield {"what": "chunk", "url": str(made), "says": "chunk 0: its index gives it"}


def over_http(url: str) -> Iterator[dict[str, Any]]:
    chunk = "no raw chunk of 64 x 64 x 64 voxels"
    for name in ("gzip", "br, gzip", "gzip, br"):
        yield {"what": "chunk", "url": f"{url}/{name}", "says": chunk}
    for name in ("endless", "long"):
        yield {"what": "chunk", "url": f"{url}/{name}", "says": chunk}
        yield {"what": "info", "url": f"{url}/{name}/info-is-{name}", "says": "max_info_bytes"}


async def serve_bombs(request: web.Request) -> web.StreamResponse:
    """Answer with a bomb of the kind that the path names."""
    kind, _, name = request.path.strip("/").partition("/")
    if name == "info":
        return web.Response(body=info_of("raw"))
    if kind not in ("endless", "long"):
        outermost = kind.rpartition(", ")[2]  # it is undone first
        body = zeros("gz" if outermost == "gzip" else outermost)
        return web.Response(body=body, headers={"Content-Encoding": kind})
    response = web.StreamResponse()
    if kind == "long":
        response.content_length = 16 * SIZE
    await response.prepare(request)
    for _ in range(16 * SIZE // MIB):
        await response.write(bytes(MIB))
        await asyncio.sleep(0)
    return response


def measure(cases: list[dict[str, Any]]) -> None:
    """Read bombs one after the other, and check how each is refused and what that took."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    results = [json.loads(line) for line in process.stdout.splitlines()]
    for case, (outcome, peak) in zip(cases, results, strict=True):
        assert outcome.startswith("corrupt: "), (case, outcome)
        assert case["says"] in outcome, (case, outcome)
        assert peak < MOST, (case, outcome, peak)


pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells the peak of a part of a process's life"
)


@pytest.mark.processes
def test_a_bomb_on_disk_takes_no_memory(tmp_path: Path) -> None:
    measure([*in_files(tmp_path), *in_archives(tmp_path), *in_shards(tmp_path)])


@pytest.mark.processes
def test_a_bomb_over_http_takes_no_memory() -> None:
    with servers.fault_server(serve_bombs) as server:
        measure(list(over_http(server.url)))
