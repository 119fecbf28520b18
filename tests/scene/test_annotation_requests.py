"""What reading annotations sends, and writing them to other places than disks."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import CorruptDataError, create_annotations, open_annotations
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.places import Place

POINTS = np.random.default_rng(0).random((800, 3)) * 1000
POINTS = POINTS[(POINTS[:, 0] > 500) | (POINTS[:, 1] < 500)]  # so that some cells are empty
COUNT = len(POINTS)


def write(url: Any, *, sharding: bool, **options: Any) -> None:
    segments = np.arange(COUNT) % 50
    create_annotations(url, POINTS, limit=60, sharding=sharding, relationships={"segment": segments}, **options)


class Counted:
    """Counts what a call sends to the server."""

    def __init__(self, server: Any, url: str) -> None:
        self.server = server
        self.url = url

    def __call__(self, call: Callable[[], Any]) -> tuple[list[str], Any]:
        self.server.log.clear()
        result = call()
        return self.server.log.methods(), result


@pytest.fixture(scope="module", params=[False, True], ids=["files", "shards"])
def counted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder = tmp_path_factory.mktemp("annotations")
    write(folder, sharding=request.param)
    with servers.fault_server(servers.files(folder)) as server:
        yield Counted(server, server.url)


def test_by_id_and_by_object(counted: Counted, request: pytest.FixtureRequest) -> None:
    cold = 3 if "shards" in request.node.name else 1
    sent, collection = counted(lambda: open_annotations(counted.url))
    assert sent == ["GET"]
    assert counted(lambda: collection[5])[0] == ["GET"] * cold
    assert counted(lambda: collection[5])[0] == ["GET"]
    assert counted(lambda: 10**6 in collection) == (["GET"] * (cold - 1) or ["GET"], False)
    assert counted(lambda: collection.related("segment", 3))[0] == ["GET"] * cold
    assert counted(lambda: collection.related("segment", 3))[0] == ["GET"]
    sent, found = counted(lambda: collection.get(range(COUNT)))
    assert len(found) == COUNT
    assert len(sent) <= (12 if cold > 1 else COUNT)


def test_within_a_box_each_cell_is_asked_for_once(counted: Counted, request: pytest.FixtureRequest) -> None:
    is_sharded = "shards" in request.node.name
    collection = open_annotations(counted.url)
    levels = collection.info.levels
    cells = [int(np.prod(level.grid_shape)) for level in levels]
    assert len(levels) > 2
    collection.within([(0, 0, 0), (1, 1, 1)])  # says how files are named
    sent, found = counted(collection.within)
    assert len(found) == COUNT
    if is_sharded:
        assert len(sent) <= 3 * len(levels) + 8  # neighbours are joined where there are more than 8 cells
        return
    assert len(sent) == sum(cells)  # those that are empty, too: only the answer tells
    paths = [entry.path for entry in counted.server.log.entries()]
    assert len({*paths}) == len(paths)
    sent, found = counted(lambda: collection.within([(0, 0, 0), (100, 100, 100)]))
    assert len(sent) == len(levels)
    assert {*found.ids.tolist()} == {*np.flatnonzero((POINTS < 100).all(axis=1)).tolist()}
    sent, found = counted(lambda: collection.within([(5e3, 0, 0), (6e3, 1, 1)]))
    assert len(sent) == len(levels)  # the outermost cells, where what is beyond the bounds is
    assert len(found) == 0
    assert counted(lambda: collection.within({"x": (10, 10)}))[0] == []


@pytest.mark.parametrize(("protocol", "sharding"), [("memory", False), ("memory", True), ("s3", True)])
def test_written_to_a_store(make_pyramid: Callable[[str], Place], protocol: str, *, sharding: bool) -> None:
    place = make_pyramid(protocol)
    options: dict[str, Any] = {"storage_options": place.storage_options}
    write(place.url, sharding=sharding, **options)
    assert "info.partial" not in place.names()
    collection = open_annotations(place.url, **options)
    assert collection.within().ids.tolist() == [*range(COUNT)]
    np.testing.assert_array_equal(collection.get(range(COUNT)).geometry, POINTS.astype(np.float32))
    assert collection.related("segment", 7).ids.tolist() == [*range(7, COUNT, 50)]


@pytest.mark.parametrize("sharding", [False, True], ids=["files", "shards"])
def test_a_damaged_file_is_named(tmp_path: Path, *, sharding: bool) -> None:
    write(tmp_path, sharding=sharding)
    (damaged,) = (tmp_path / "spatial0").iterdir()
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] if not sharding else data[:16] + b"\xff" * 8 + data[24:])
    with pytest.raises(CorruptDataError, match="spatial0"):
        open_annotations(tmp_path).within()


@pytest.mark.parametrize("sharding", [False, True], ids=["files", "shards"])
def test_mutated_files_are_read_or_damage(tmp_path: Path, *, sharding: bool) -> None:
    create_annotations(tmp_path, POINTS[:60], limit=20, sharding=sharding, relationships={"s": np.arange(60) % 3})
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "info"]
    rng = random.Random(7)
    damaged = 0
    for _ in range(60):
        path = rng.choice(files)
        before = path.read_bytes()
        mutated = bytearray(before)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(min(len(mutated), 64))] = rng.choice((0, 1, 127, 255))
        path.write_bytes(mutated[: rng.choice((len(mutated), rng.randrange(len(mutated))))])
        collection = open_annotations(tmp_path)
        reads: list[Callable[[], Any]] = [
            collection.within,
            functools.partial(collection.get, range(60), missing="skip"),
            functools.partial(collection.related, "s", [0, 1, 2]),
        ]
        for read in reads:
            try:
                found = read()
            except CorruptDataError:
                damaged += 1
            else:
                assert len(found) <= 60
        path.write_bytes(before)
    assert 20 < damaged < 120
    assert len(open_annotations(tmp_path).within()) == 60
