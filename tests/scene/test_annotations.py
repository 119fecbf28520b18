"""Annotations written and read again, against what brute force finds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from precomputed_fs import NotFoundError, create_annotations, create_volume, open_annotations
from precomputed_fs.format.annotation import Ragged
from precomputed_fs.format.annotation_info import KINDS
from precomputed_fs.scene.annotation_geometry import meets
from precomputed_fs.scene.annotations import AnnotationCollection

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = 400
BOXES = [
    ((400, 400, 400), (500, 520, 600)),
    ((-1e9, -1e9, -1e9), (1e9, 1e9, 500.5)),
    ((512, 512, 512), (512.5, 530, 540)),
    ((5e6, 0, 0), (6e6, 1, 1)),
]


class Made:
    """A collection, and what is in it."""

    def __init__(self, url: str, kind: str, *, sharding: bool | None) -> None:
        rng = np.random.default_rng(5)
        base = rng.normal(500, 100, (COUNT, 1, 3))
        self.kind = kind
        self.given: Any = base[:, 0]
        if kind == "ellipsoid":
            self.given = np.concatenate([base, rng.random((COUNT, 1, 3)) * 40], axis=1)
        elif kind == "polyline":
            steps = [rng.normal(0, 20, (int(rng.integers(2, 9)), 3)) for _ in range(COUNT)]
            self.given = [start + np.cumsum(step, axis=0) for start, step in zip(base, steps, strict=True)]
        elif kind != "point":
            self.given = np.concatenate([base, base + rng.normal(0, 60, (COUNT, 1, 3))], axis=1)
        self.segments = [rng.integers(1, 30, rng.integers(0, 4)).tolist() for _ in range(COUNT)]
        self.ids = rng.choice(1 << 62, COUNT, replace=False).astype(np.uint64)
        self.score = rng.random(COUNT).astype(np.float32)
        create_annotations(
            url,
            self.given,
            kind=kind,
            limit=40,
            sharding=sharding,
            ids=self.ids,
            properties={"score": self.score},
            relationships={"segment": self.segments},
        )
        self.collection = open_annotations(url)

    def within(self, low: tuple[float, ...], high: tuple[float, ...]) -> set[int]:
        geometry: NDArray[Any] | Ragged = np.zeros(0)
        if self.kind == "polyline":
            values = np.concatenate(self.given).astype(np.float32)
            geometry = Ragged.of(values, np.array([*map(len, self.given)]))
        else:
            geometry = np.asarray(self.given, np.float32).reshape(COUNT, -1, 3)
        below = np.nextafter(np.array(high, float), -np.inf)
        return {*self.ids[meets(self.kind, geometry, np.array(low, float), below)].tolist()}


@pytest.fixture(scope="module", params=[f"{kind} {how}" for kind in KINDS for how in ("files", "shards")])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    kind, how = request.param.split()
    url = tmp_path_factory.mktemp("annotations") / "a"
    return Made(str(url), kind, sharding=how == "shards")


def test_everything(made: Made) -> None:
    found = made.collection.within()
    order = np.argsort(made.ids)
    assert found.ids.tolist() == made.ids[order].tolist()
    assert found.properties["score"].tolist() == made.score[order].tolist()
    assert found.related is None
    expected = [np.asarray(made.given[i], np.float32) for i in order]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.geometry, other)


@pytest.mark.parametrize("box", BOXES)
def test_a_box(made: Made, box: Any) -> None:
    assert {*made.collection.within(box).ids.tolist()} == made.within(*box)
    cells = made.collection.within(box, exact=False)
    assert {*cells.ids.tolist()} >= made.within(*box)


def test_blocks_have_each_annotation_once(made: Made) -> None:
    ids = np.concatenate([block.ids for block in made.collection.blocks()])
    assert sorted(ids.tolist()) == sorted(made.ids.tolist())


def test_some_by_id(made: Made) -> None:
    wanted = made.ids[[7, 3, 300, 3]]
    found = made.collection.get(wanted)
    assert found.ids.tolist() == wanted.tolist()
    assert found.related is not None
    assert [sorted(ids.tolist()) for ids in found.related["segment"]] == [
        sorted(made.segments[i]) for i in (7, 3, 300, 3)
    ]
    one = made.collection[int(made.ids[9])]
    assert (one.id, one.properties["score"]) == (made.ids[9], made.score[9])
    np.testing.assert_array_equal(one.geometry, np.asarray(made.given[9], np.float32))


def test_by_related_object(made: Made) -> None:
    def expected(*objects: int) -> set[int]:
        return {int(made.ids[i]) for i in range(COUNT) if {*objects} & {*made.segments[i]}}

    assert {*made.collection.related("segment", 7).ids.tolist()} == expected(7)
    several = made.collection.related("segment", [7, 8, 1 << 50]).ids.tolist()
    assert len(several) == len({*several})
    assert {*several} == expected(7, 8)
    assert len(made.collection.related("segment", 1 << 50)) == 0


def test_cells_have_no_more_than_the_limit(made: Made) -> None:
    collection = made.collection
    assert len(collection.info.levels) > 2
    for level in collection.info.levels:
        extent = np.array(level.grid_shape) * np.array(level.chunk_size)
        assert extent.tolist() == np.subtract(*collection.bounds[::-1]).tolist()
    counts = [len(block) for block in collection.blocks(exact=False)]
    assert max(counts) <= 40


def test_what_is_absent(made: Made) -> None:
    absent = 12345
    with pytest.raises(NotFoundError, match=r"by_id: annotation 12345 is not there"):
        made.collection[absent]
    with pytest.raises(NotFoundError, match=r"annotation 12345 and 1 others are not there"):
        made.collection.get([absent, int(made.ids[0]), absent + 1])
    assert made.collection.get([absent, int(made.ids[0])], missing="skip").ids.tolist() == [made.ids[0]]
    assert absent not in made.collection
    assert made.ids[0] in made.collection


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.fixture
def synapses() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.integers(0, 1000, 50),
            "y": rng.integers(0, 1000, 50),
            "z": rng.integers(0, 100, 50),
            "size": rng.integers(0, 5000, 50),
            "confidence": rng.random(50),
            "type": rng.choice(["shaft", "spine"], 50),
            "is_valid": rng.random(50) < 0.5,
            "colour": "#ff8000",
            "pre_root_id": rng.integers(1 << 60, (1 << 60) + 9, 50),
        },
    )


def test_a_table_is_read_as_it_was(tmp_path: Path, synapses: pd.DataFrame) -> None:
    create_annotations(tmp_path / "a", synapses, dimensions=(4, 4, 40), relationships=["pre_root_id"])
    collection = open_annotations(tmp_path / "a")
    assert collection.relationships == ("pre_root_id",)
    types = {each.id: each.type for each in collection.properties}
    assert types == {"size": "uint16", "confidence": "float32", "type": "uint8", "is_valid": "uint8", "colour": "rgb"}
    found = collection.to_pandas()
    assert found.index.name == "id"
    assert found.index.tolist() == [*range(50)]
    for name in ("x", "y", "z", "size", "is_valid", "colour"):
        assert found[name].tolist() == synapses[name].tolist()
    assert found["type"].astype(str).tolist() == synapses["type"].tolist()
    np.testing.assert_allclose(found["confidence"], synapses["confidence"], rtol=1e-6)
    again = create_annotations(tmp_path / "again", collection.get(range(50)), relationships=["pre_root_id"])
    pd.testing.assert_frame_equal(again.to_pandas(), found)
    assert again.properties == collection.properties
    assert again[3].related is not None
    assert again[3].related["pre_root_id"].tolist() == [synapses["pre_root_id"][3]]


def test_an_iterator_of_tables(tmp_path: Path, synapses: pd.DataFrame) -> None:
    synapses["type"] = synapses["type"].astype("category")
    parts = (synapses.iloc[i : i + 20] for i in range(0, 50, 20))
    made = create_annotations(tmp_path / "a", parts, relationships=["pre_root_id"])
    assert made.to_pandas()["size"].tolist() == synapses["size"].tolist()


def test_a_collection_beside_a_volume(tmp_path: Path, synapses: pd.DataFrame) -> None:
    volume = create_volume(tmp_path / "volume", np.zeros((8, 8, 8), np.uint8), resolution=(8, 8, 8))
    create_annotations(tmp_path / "volume" / "synapses", synapses[["x", "y", "z"]], dimensions=volume[0])
    collection = open_annotations("synapses", volume=volume)
    assert len(collection.within()) == 50
    assert dict(collection.dimensions) == dict.fromkeys("xyz", (8e-9, "m"))


def test_nothing(tmp_path: Path) -> None:
    made = create_annotations(tmp_path / "a", np.zeros((0, 3)))
    assert len(made.within()) == 0
    assert made.to_pandas().shape == (0, 3)
    assert isinstance(open_annotations(tmp_path / "a"), AnnotationCollection)


@pytest.mark.parametrize("given", [5, (1, np.nan), (None, 3), ("a", "b"), slice(1, 3), (1, 2, 3)])
def test_a_range_that_is_none_is_refused(made: Made, given: Any) -> None:
    with pytest.raises(ValueError, match=r"box: expected two numbers for 'z', such as \(10, 20\), got"):
        made.collection.within({"z": given})


def test_what_is_beyond_the_bounds_is_found(tmp_path: Path) -> None:
    create_annotations(tmp_path, np.array([[1.0, 2, 3], [50, 50, 50], [150, 5, 5]]), sharding=False)
    path = tmp_path / "info"
    info = json.loads(path.read_text())
    info |= {"lower_bound": [10, 0, 0], "upper_bound": [100, 100, 100]}  # as a foreign writer may have them
    info["spatial"][0]["chunk_size"] = [90, 100, 100]
    path.write_text(json.dumps(info))
    collection = open_annotations(tmp_path)
    assert collection.within([(120, 0, 0), (200, 10, 10)]).ids.tolist() == [2]
    assert collection.within({"x": (-5, 5)}).ids.tolist() == [0]
    assert collection.within({"x": (5, 9)}).ids.tolist() == []


def test_without_a_spatial_index_there_is_no_telling_what_is_where(tmp_path: Path) -> None:
    create_annotations(tmp_path, np.ones((3, 3)), sharding=False)
    path = tmp_path / "info"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spatial": []}))
    collection = open_annotations(tmp_path)
    with pytest.raises(NotFoundError, match=r"names no spatial index: use get\(\)"):
        collection.to_pandas()
    assert len(collection.get(collection.ids)) == 3
