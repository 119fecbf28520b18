"""Pyramids and arrays that these tests share."""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np

from precomputed_fs import (
    FsspecAccessor,
    Volume,
)
from precomputed_fs.format.info import Info

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from precomputed_fs.view.server import Server

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "8_8_8"

NAME = "0-8_0-8_0-4"  # the first of two chunks

BODY = np.arange(8 * 8 * 4, dtype=np.uint8).tobytes()  # of that chunk

VOXELS = np.frombuffer(BODY * 2, np.uint8).reshape((8, 8, 8), order="F")


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


def token_of(server: Server) -> str:
    return urlsplit(server.url).path.split("/")[1]


def raw_info(**changes: Any) -> dict[str, Any]:
    """Describe `VOXELS` in two raw chunks, each `BODY`; changes are of the scale."""
    scale = {
        "key": KEY, "size": [8, 8, 8], "chunk_sizes": [[8, 8, 4]], "resolution": [8, 8, 8], "encoding": "raw",
    }  # fmt: skip
    return {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [{**scale, **changes}]}


def points_info(**members: Any) -> bytes:
    """Describe annotations: an `info` of their own."""
    info = {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {"y": [8e-9, "m"], "x": [4e-9, "m"], "z": [4e-8, "m"]},
        "lower_bound": [0, -10, 0],
        "upper_bound": [100, 200, 30],
        "annotation_type": "POINT",
        "properties": [],
        "relationships": [],
        "by_id": {"key": "by_id"},
        "spatial": [{"key": "spatial0", "grid_shape": [1, 1, 1], "chunk_size": [100, 210, 30], "limit": 10}],
    }
    return json.dumps({**info, **members}).encode()


def put(folder: Path, info: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
    """Store a pyramid around the code under test."""
    for name, body in {"info": json.dumps(info).encode(), **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("precomputed_fs-serve")}


def state_of(url: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(unquote(url.partition("#!")[2]))
    return state


def linked(url: Any, info: dict[str, Any] | None = None, **options: Any) -> Volume:
    """Make a volume of which nothing is read."""
    return Volume(FsspecAccessor(url, **options), Info.parse(info or raw_info()))
