"""Pyramids and arrays that these tests share."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from precomputed_fs import create_volume, open_volume
from tests.support import browser, servers
from tests.support.brain import image, labels
from tests.support.shards import sharding_of
from tests.support.tools import LABELS, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.doctor.report import Report

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "8_8_8"

SIZE, CHUNK_SIZE = (24, 20, 18), (12, 10, 9)

CUBE, CUBES = (12, 12, 12), (24, 24, 24)

IDENTITY = sharding_of((1, 1, 1), "identity")


def read_with_ours(url: str, index: int) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is there
        volume = open_volume(url)
        return np.asarray(volume[volume.info.scales[index].key][...])  # the others count as `info` does


def write(folder: Path, *, encoding: str = "raw", data_type: str = "uint8", channels: int = 1, **options: Any) -> None:
    """Write a pyramid of one scale, of eight chunks."""
    sharding = options.get("sharding")
    x, y, z = options.pop("size", CUBES if sharding else SIZE)
    make = labels if encoding in LABELS else image
    voxels = np.pad(make(data_type)[-24:, :, :24, :channels], ((0, 0),) * 4)[:x, -y:, :z]
    given = {
        "resolution": (8, 8, 8),
        "chunk_size": CUBE if sharding else CHUNK_SIZE,
        "scales": 1,
        "gzip": False,
        "encoding": encoding,
        **PARAMETERS.get(encoding, {}),
        **options,
    }
    create_volume(folder, voxels, **given).close()


def info(**members: Any) -> Callable[[Path], None]:
    return edited(lambda given: given.update(members))


def scale(**members: Any) -> Callable[[Path], None]:
    return edited(lambda given: given["scales"][0].update(members))


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        given = json.loads((folder / "info").read_bytes())
        edit(given)
        (folder / "info").write_text(json.dumps(given))

    return spoil


def each(change: Callable[[bytes], bytes], suffix: str = "") -> Callable[[Path], None]:
    """Change each chunk."""

    def spoil(folder: Path) -> None:
        for path in [*(folder / KEY).iterdir()]:
            data = change(path.read_bytes())
            path.unlink()
            (folder / KEY / (path.name + suffix)).write_bytes(data)

    return spoil


def first(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Change one file of the scale."""
    return lambda folder: (change(min((folder / KEY).iterdir())), None)[1]


def server(root: Path) -> servers.Handler:
    """Serve files to pages from anywhere, in the ways that some flaws ask for."""
    static = servers.files(root)
    folder = root / "pyramid"

    async def handler(request: web.Request) -> web.StreamResponse:
        is_chunk = not request.path.rpartition("/")[2].startswith("info")
        if (folder / "moved").exists():
            if not request.path.startswith("/elsewhere"):
                moved = int((folder / "moved").read_text())
                return web.Response(status=moved, headers={"Location": f"/elsewhere{request.raw_path}"})
            request = request.clone(rel_url=request.raw_path.removeprefix("/elsewhere"))
        if (folder / "whole").exists():
            kept = {name: value for name, value in request.headers.items() if name.lower() != "range"}
            request = request.clone(headers=kept)
        if is_chunk and (folder / "status").exists():
            return web.Response(status=int((folder / "status").read_text()))
        response = await static(request)
        if is_chunk and (folder / "encoding").exists() and response.status == 200:
            response.headers["Content-Encoding"] = (folder / "encoding").read_text()
        return response

    return browser.cors(handler)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ids(report: Report, severity: str = "error") -> set[str]:
    return {finding.rule.id for finding in report.findings if finding.rule.severity == severity}
