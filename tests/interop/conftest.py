"""Fixtures of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import xarray
from distributed import Client, LocalCluster

from precomputed_fs.interop.xarray_backend import PrecomputedBackend
from precomputed_fs.pyramid.pyramid import Pyramid
from tests.interop.samples import make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from precomputed_fs import (
        Scale,
    )
    from precomputed_fs.format.grid import ChunkCoords


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"memory://precomputed_fs-tests/interop/{request.node.name}"


@pytest.fixture(scope="module")
def scale() -> Scale:
    return make("memory://precomputed_fs-tests/interop", overwrite=True)[0]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[ChunkCoords]:
    """List the chunks that are read from now on."""
    chunks: list[ChunkCoords] = []
    original = Pyramid.fetch_chunks

    def spied(self: Pyramid, key: str, coords: Any, **options: Any) -> Any:
        listed = list(coords)
        chunks.extend(listed)
        return original(self, key, iter(listed), **options)

    monkeypatch.setattr(Pyramid, "fetch_chunks", spied)
    return chunks


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


@pytest.fixture
def engine(url: str) -> Callable[..., xarray.Dataset]:
    make(url, scales=3)

    def opened(**options: Any) -> xarray.Dataset:
        return xarray.open_dataset(url, engine=PrecomputedBackend, **options)

    return opened
