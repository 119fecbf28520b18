"""A scale that tests only read, and a memory that forgets what other tests stored."""

from collections.abc import Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from precomputed_fs import Scale
from tests.volume.samples import make


@pytest.fixture(scope="session")
def scale() -> Scale:
    return make("memory://tests/shared")[0]


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    """Delete objects in memory, which all are looked through by each listing."""
    yield
    for path in [path for path in MemoryFileSystem.store if path.startswith("/tests/volume/")]:
        del MemoryFileSystem.store[path]
