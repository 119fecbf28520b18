"""Fixtures of these tests."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pytest

from precomputed_fs import (
    Volume,
    create_volume,
    serve,
)
from tests.support import servers
from tests.view.serving import BODY, KEY, NAME, put, raw_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from precomputed_fs.view.server import Server

mpl.use("Agg")  # plots need no screen


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve `VOXELS`, of which the second chunk is absent, and two other files."""
    files = {f"{KEY}/{NAME}": BODY, "mesh/info": b'{"@type": "neuroglancer_legacy_mesh"}', "mesh/1:0": b"0123456789"}
    with serve(put(tmp_path_factory.mktemp("served") / "pyramid", raw_info(), files)) as running:
        running.view()
        yield running


@pytest.fixture
def run() -> Iterator[Callable[..., Server]]:
    """Serve until the end of the test."""
    with ExitStack() as stack:
        yield lambda source, **options: stack.enter_context(serve(source, **options))


@pytest.fixture
def volume() -> Iterator[Volume]:
    volume = create_volume(
        "memory://test_serve/a brain", np.full((40, 30, 21), 9, np.uint8), resolution=(4, 4, 40),
        voxel_offset=(-10, 5, 100), chunk_size=(16, 16, 16), overwrite=True,
    )  # fmt: skip
    yield volume
    volume.view().server.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[servers.HttpServer]:
    with servers.http_server(tmp_path) as server:
        yield server


@pytest.fixture
def _closed() -> Iterator[None]:
    yield
    from matplotlib import pyplot as plt

    plt.close("all")
