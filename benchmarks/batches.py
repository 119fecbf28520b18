"""Many small chunks: `fetch_chunks` against a loop over `fetch_chunk`, as ratios in one run.

``python -m benchmarks.batches [--chunks N]`` prints, for local disk and for HTTP without and with 10 ms of
latency, the seconds of the loop and of the batch (best of three) and their ratio. What is read is compared
with what was stored before it counts. Over HTTP with latency the loop is timed on a tenth of the chunks.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from precomputed_fs import FsspecAccessor
from tests import servers

KEY = "8_8_8"
CHUNK = 16**3  # bytes
LATENCY = 0.01  # seconds
ROUNDS = 3

Coords = tuple[int, int, int, int, int, int]


def coords_of(count: int) -> list[Coords]:
    return [(16 * i, 16 * i + 16, 0, 16, 0, 16) for i in range(count)]


def fetch_singly(accessor: FsspecAccessor, wanted: list[Coords]) -> dict[Coords, bytes | None]:
    return {coords: accessor.fetch_chunk(KEY, coords) for coords in wanted}


def fetch_together(accessor: FsspecAccessor, wanted: list[Coords]) -> dict[Coords, bytes | None]:
    return dict(accessor.fetch_chunks(KEY, wanted))


def seconds_per_chunk(
    fetch: Callable[[FsspecAccessor, list[Coords]], dict[Coords, bytes | None]],
    accessor: FsspecAccessor,
    stored: dict[Coords, bytes],
) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        fetched = fetch(accessor, list(stored))
        best = min(best, time.perf_counter() - began)
        assert fetched == stored
    return best / len(stored)


@contextmanager
def slow_server(root: Path) -> Iterator[str]:
    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(LATENCY)
        return await serve(request)

    serve = servers.files(root)
    with servers.fault_server(handler) as server:
        yield server.url


def compare(where: str, url: str, stored: dict[Coords, bytes], singly: int) -> None:
    accessor = FsspecAccessor(url)
    fetch_together(accessor, list(stored)[:100])  # warm
    loop = seconds_per_chunk(fetch_singly, accessor, dict(list(stored.items())[:singly]))
    batch = seconds_per_chunk(fetch_together, accessor, stored)
    print(f"{where:>14} {loop * 1e6:>12.0f} {batch * 1e6:>12.0f} {loop / batch:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10_000)
    count = parser.parse_args().chunks
    stored = {coords: os.urandom(CHUNK) for coords in coords_of(count)}
    with tempfile.TemporaryDirectory() as folder:
        FsspecAccessor(folder, gzip=False).store_chunks(KEY, stored.items())
        print(f"{count} chunks of {CHUNK} bytes, microseconds per chunk")
        print(f"{'':>14} {'fetch_chunk':>12} {'fetch_chunks':>12} {'ratio':>8}")
        compare("local disk", folder, stored, count)
        if servers.nginx_installed():
            with servers.nginx_server(Path(folder)) as nginx:
                compare("HTTP", nginx.url, stored, count)
        with slow_server(Path(folder)) as url:
            compare("HTTP, 10 ms", url, stored, max(1, count // 10))


if __name__ == "__main__":
    main()
