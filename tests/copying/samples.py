"""Pyramids and arrays that these tests share."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precomputed_fs import (
    DataAccessError,
    create_volume,
    open_volume,
)
from precomputed_fs.store import jobs
from precomputed_fs.volume.indexing import Touched
from tests.support.tools import read_with_tensorstore

if TYPE_CHECKING:
    import pytest
    from numpy.typing import NDArray

    from precomputed_fs.store.requests import Job, Put
    from tests.support.places import Place

DEADLINE = 60.0

OFFSET = (-5, 7, 100)

WRITE = jobs.write

KEY = "8_8_8"

MURMUR = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "murmurhash3_x86_128",
    "minishard_bits": 1,
    "shard_bits": 2,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}

IDENTITY = {**MURMUR, "preshift_bits": 2, "hash": "identity", "data_encoding": "raw"}

WRAPPED = {**IDENTITY, "preshift_bits": 0, "minishard_bits": 0}
"""With fewer bits than chunk ids have: one shard has chunks from many places."""


def voxels_of(dtype: str = "uint8", size: tuple[int, int, int] = (80, 50, 40)) -> NDArray[Any]:
    """Return smooth voxels, with a box of zeros in which whole chunks are absent."""
    x, y, z = np.ogrid[: size[0], : size[1], : size[2]]
    voxels: NDArray[Any] = (1 + (x // 3 + y // 2 + z) % 200).astype(dtype)
    voxels[:37, :33, :] = 0
    return voxels


def make(place: Place | str | Path, array: NDArray[Any] | None = None, **options: Any) -> Any:
    given = {"resolution": (8, 8, 8), "voxel_offset": OFFSET, "chunk_size": (16, 16, 16), "skip_empty": True}
    url = place if isinstance(place, str | Path) else place.url
    if not isinstance(place, str | Path):
        options = {"storage_options": place.storage_options, **options}
    return create_volume(url, voxels_of() if array is None else array, **{**given, **options})


def read(folder: Path | str, scale: int = 0) -> NDArray[Any]:
    """Read a scale with tensorstore."""
    return read_with_tensorstore(folder, scale)[1]


def present(url: str, key: str = KEY, chunk_size: tuple[int, int, int] = (16, 16, 16), **options: Any) -> set[Any]:
    """Return the coordinates of the chunks that are there."""
    scale = open_volume(url, **options)[key]
    assert scale.chunk_size == chunk_size
    touched = Touched(scale.grid, (range(-5, 75), range(7, 57), range(100, 140)))
    return {where for where, data in scale.volume.pyramid.fetch_chunks(key, touched) if data is not None}


def scale_of(**members: Any) -> dict[str, Any]:
    return {
        "key": KEY,
        "size": [80, 50, 40],
        "resolution": [8, 8, 8],
        "voxel_offset": list(OFFSET),
        "chunk_sizes": [[16, 16, 16]],
        "encoding": "raw",
        **members,
    }


def info_of(scales: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "image",
        "data_type": "uint8",
        "num_channels": 1,
        "scales": scales,
        **members,
    }


STORED: dict[str, dict[str, Any]] = {
    "plain": {"gzip": False},
    "gzip in folders": {"flat": False},
    "identity": {"sharding": IDENTITY},
    "murmur": {"sharding": MURMUR},
    "png": {"encoding": "png", "gzip": False},
}

WISHES: dict[str, dict[str, Any]] = {
    "plain": {"gzip": False, "sharding": False},
    "identity": {"sharding": IDENTITY},
    "murmur": {"sharding": MURMUR},
    "wrapped": {"sharding": WRAPPED},
    "proposed": {"sharding": True},
    "larger": {"gzip": False, "sharding": False, "chunk_size": (32, 64, 24)},
    "smaller": {"gzip": False, "sharding": False, "chunk_size": (16, 8, 5)},
    "larger in shards": {"sharding": True, "chunk_size": (32, 32, 32)},
    "cut and scattered": {"sharding": MURMUR, "chunk_size": (32, 16, 20)},
    "png": {"gzip": False, "sharding": False, "encoding": "png", "png_level": 3},
    "png in shards": {"sharding": True, "encoding": "png", "chunk_size": (40, 40, 40)},
    "raw": {"gzip": False, "sharding": False, "encoding": "raw"},
}


def failing_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writing of chunks and shards fail after so many, and not before these are written."""
    write, begun, left = jobs.write, itertools.count(), itertools.count(count - 1, -1)
    written = threading.Event()

    def failing(put: Put) -> Job[None]:
        is_data = put.name.startswith(KEY)
        if is_data and next(begun) >= count:
            assert not count or written.wait(DEADLINE)
            message = f"cannot write {put.name}: the disk is full"
            raise DataAccessError(message)
        yield from write(put)
        if is_data and next(left) == 0:
            written.set()

    monkeypatch.setattr(jobs, "write", failing)


Run = Callable[..., tuple[int, str, str]]
