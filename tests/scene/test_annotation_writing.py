"""What is refused, replaced and left behind when annotations are written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    create_annotations,
    create_volume,
    open_annotations,
)
from precomputed_fs.format.annotation_info import AnnotationInfo
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.scene import annotation_storing
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place

POINTS = np.random.default_rng(0).random((300, 3)) * 100
TABLE = pd.DataFrame(POINTS, columns=["x", "y", "z"])
BIG = 1 << 60

REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (TABLE[["x", "y"]], {}, r"there is no column z: point annotations need the columns x, y, z, got x, y; rename"),
    (TABLE, {"kind": "line"}, r"line annotations need the columns x0, y0, z0, x1, y1, z1, got x, y, z"),
    (TABLE, {"kind": "ponit"}, r"kind: expected one of point, .* got 'ponit'; did you mean 'point'\?"),
    (TABLE, {"kind": "box"}, r"did you mean 'axis_aligned_bounding_box'\?"),
    (TABLE.assign(y=np.nan), {}, r"row 0: expected finite float32 for each coordinate, got .*nan.*, and 299 more"),
    (TABLE.assign(y="a"), {}, r"column 'y': expected numbers, as it has coordinates"),
    (TABLE.assign(id=1), {}, r"ids: expected each once, got 1 again; 299 of 300 are repeated"),
    (TABLE.assign(id=-1), {}, r"column 'id': expected ids, integers of at least 0, got .*-1.* in row 0"),
    (TABLE.assign(root=BIG), {}, r"column 'root': no property can have 1152921504606846976.*`relationships`"),
    (TABLE.assign(Size=1), {}, r"property 'Size': expected a name .* begins with a small letter.* rename"),
    (
        TABLE.assign(size=300),
        {"properties": {"size": "uint8"}},
        r"expected uint8 \(0 to 255\), got 300 in row 0",
    ),
    (TABLE.assign(size=1.5), {"properties": {"size": "int8"}}, r"'size': expected int8 .*, got 1.5 in row 0"),
    (TABLE, {"properties": ["sizes"]}, r"properties: there is no column 'sizes' among x, y, z"),
    (
        TABLE.assign(size=1),
        {"properties": {"size": "uint9"}},
        r"type of property 'size': expected .* did you mean",
    ),
    (TABLE.assign(seg=[[1.5]] * 300), {"relationships": ["seg"]}, r"column 'seg': expected ids, integers .*, got 1.5"),
    (
        TABLE.assign(seg=2.0**60),
        {"relationships": ["seg"]},
        r"floats are rounded beyond 2\*\*53",
    ),
    (
        TABLE.assign(name=[*map(str, range(300))]),
        {"properties": {"name": "rgb"}},
        r"expected rgb such as '#ff8000', got '0' in row 0",
    ),
    (POINTS, {"bounds": [(0, 0, 0), (100, 100, 50)]}, r"row \d+: \[.*\] is outside of the bounds .*, and \d+ more"),
    (POINTS, {"bounds": [(0, 0, 0), (0, 1, 1)]}, r"bounds: expected finite ones, the upper one larger"),
    (POINTS, {"bounds": [0, 1]}, r"bounds: expected two corners of 3 numbers \(x, y, z\)"),
    (
        POINTS,
        {"properties": {"size": np.ones(3)}},
        r"properties: size: expected 300 values, .*, got 3",
    ),
    (POINTS, {"limit": 0}, r"limit: expected an integer of at least 1, got 0"),
    (POINTS, {"dimensions": {"x": "4 m", "y": "apples"}}, r"dimensions: y: expected a quantity such as '4 nm'"),
    (POINTS[:, :2], {}, r"expected an array \(n, 3\) for point annotations in x, y, z, got \(300, 2\)"),
    (POINTS, {"sharding": {"@type": "none"}}, r"sharding.@type: expected"),
]


@pytest.mark.parametrize(("given", "options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_stored_is_refused_before_anything_is(
    tmp_path: Path, given: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        create_annotations(tmp_path / "a", given, **options)
    assert not (tmp_path / "a").exists()


def test_coordinates_that_float32_rounds_are_told_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"coordinates are rounded by up to 4"):
        create_annotations(tmp_path, np.array([[1e8 + 4, 0, 0]]))


def test_what_other_tables_have(tmp_path: Path) -> None:
    """Missing categories and ids, nullable integers, rows of lists, other units and axes."""
    table = pd.DataFrame(
        {
            "t": [1, 2, 3],
            "x": [0.5, 1, 2],
            "label": pd.Categorical(["a", None, "b"]),
            "count": pd.array([1, 2, 3], "Int64"),
            "pre": [1, np.nan, 3],
            "post": [[BIG, BIG + 1], None, []],
            "alpha": ["#00000080", "#ffffff", "#01020304"],
            "flag": pd.array([True, False, True], "boolean"),
            "weight": pd.array([0.5, None, 1.0], "Float64"),
        }
    )
    made = create_annotations(
        tmp_path,
        table,
        dimensions={"t": "20 ms", "x": (4, "um")},
        relationships={"before": "pre", "after synapse": "post"},
        properties={"label": {"description": "what it is"}, "count": "uint32", "alpha": None}
        | dict.fromkeys(["flag", "weight"]),
    )
    assert dict(made.dimensions) == {"t": (0.02, "s"), "x": (4e-6, "m")}
    found = made.get(range(3))
    assert found.related is not None
    assert [ids.tolist() for ids in found.related["before"]] == [[1], [], [3]]
    assert [ids.tolist() for ids in found.related["after synapse"]] == [[BIG, BIG + 1], [], []]
    read = found.to_pandas()
    assert read["label"].astype(object).where(read["label"].notna(), None).tolist() == ["a", None, "b"]
    assert read["count"].tolist() == [1, 2, 3]
    assert read["flag"].tolist() == [True, False, True]
    np.testing.assert_array_equal(read["weight"], [0.5, np.nan, 1])
    assert read["alpha"].tolist() == ["#00000080", "#ffffffff", "#01020304"]
    assert {each.id: each.description for each in made.properties}["label"] == "what it is"
    info = json.loads((tmp_path / "info").read_text())
    assert [each["key"] for each in info["relationships"]] == ["rel_before", "rel_after_synapse"]


def test_bounds_are_kept(tmp_path: Path) -> None:
    points = np.array([[0, 0, 0], [100, 50, 20]])  # the upper bound itself, too
    made = create_annotations(tmp_path, points, bounds=[(0, 0, 0), (100, 50, 20)])
    assert [bound.tolist() for bound in made.bounds] == [[0, 0, 0], [100, 50, 20]]
    assert made.within().ids.tolist() == [0, 1]
    assert made.within([(100, 50, 20), (101, 51, 21)]).ids.tolist() == [1]


def test_annotations_at_one_place_end_in_the_last_level(tmp_path: Path) -> None:
    made = create_annotations(tmp_path, np.zeros((200, 3)), limit=5, sharding=True)
    assert len(made.info.levels) == 20
    assert made.info.levels[-1].limit == 200 - 19 * 5
    assert made.within([(0, 0, 0), (1e-5, 1e-5, 1e-5)]).ids.tolist() == [*range(200)]


@pytest.mark.parametrize("sharding", [False, True], ids=["files", "shards"])
def test_of_very_many_cells_those_that_are_stored_are_read(tmp_path: Path, *, sharding: bool) -> None:
    points = np.concatenate([POINTS[:50] * 1e-3, POINTS[:50] * 1e4])  # half of them in a corner
    made = create_annotations(tmp_path, points, limit=3, sharding=sharding)
    assert np.prod(made.info.levels[-1].grid_shape) > 1e9
    assert made.within().ids.tolist() == [*range(100)]
    assert made.within([(0, 0, 0), (1, 1, 1)]).ids.tolist() == [*range(50)]
    assert made.ids.tolist() == [*range(100)]


def test_cells_that_cannot_be_listed_may_be_too_many(tmp_path: Path) -> None:
    create_annotations(tmp_path, np.zeros((30, 3)), limit=3, bounds=[(0, 0, 0), (1, 1, 1)], sharding=False)
    with servers.fault_server(servers.files(tmp_path)) as server:
        collection = open_annotations(server.url)
        with pytest.raises(ValueError, match=r"16,777,216 cells of spatial8 meet the box, .* choose a smaller box"):
            collection.within()
        assert len(collection.within([(0, 0, 0), (1e-3, 1e-3, 1e-3)])) == 30


def test_the_same_is_written_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        create_annotations(tmp_path / name, POINTS, limit=30)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes() for path in files)


# ------------------------------------------------------------------------------------------------------- what is there


def test_another_collection_is_replaced_only_if_asked(tmp_path: Path) -> None:
    create_annotations(tmp_path, POINTS, limit=20, ids=np.arange(300) + 1000, sharding=False)
    with pytest.raises(AlreadyExistsError, match="there are annotations already; overwrite=True replaces it"):
        create_annotations(tmp_path, POINTS[:5])
    made = create_annotations(tmp_path, POINTS[:5], overwrite=True)
    assert made.within().ids.tolist() == [0, 1, 2, 3, 4]
    assert 1000 not in made
    assert sorted(path.name for path in tmp_path.iterdir() if not path.is_dir() or any(path.iterdir())) == [
        "by_id",
        "info",
        "spatial0",
    ]


@pytest.mark.parametrize("protocol", ["memory", "local", "s3"])
def test_files_of_unknown_origin_are_never_taken_for_new_ones(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    place = make_pyramid(protocol)
    place.put("spatial0/0_0_0", b"left over")
    options: dict[str, Any] = {"storage_options": place.storage_options}
    for _ in range(2):  # what was refused leaves nothing that the next run would go on from
        with pytest.raises(AlreadyExistsError, match=r"/spatial0: there are files of unknown origin.*overwrite=True"):
            create_annotations(place.url, POINTS[:5], sharding=True, **options)
        assert place.names() == ["spatial0/0_0_0"]
    made = create_annotations(place.url, POINTS[:5], sharding=True, overwrite=True, **options)
    assert made.within().ids.tolist() == [0, 1, 2, 3, 4]
    assert "spatial0/0_0_0" not in place.names()


def test_what_is_behind_a_link_is_not_deleted(tmp_path: Path) -> None:
    create_annotations(tmp_path / "a", POINTS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1").write_bytes(b"1")
    (tmp_path / "a" / "by_id" / "more").symlink_to(tmp_path / "other")
    with pytest.raises(AccessDeniedError, match="what is there is not deleted"):
        create_annotations(tmp_path / "a", POINTS, overwrite=True)
    assert (tmp_path / "other" / "1").read_bytes() == b"1"


@pytest.mark.parametrize("value", [1e17, -1e20, 3e38])
def test_one_point_far_away_is_within_bounds_that_have_a_size(tmp_path: Path, value: float) -> None:
    point = np.full((1, 3), value, np.float32)
    create_annotations(tmp_path, point)
    collection = open_annotations(tmp_path)
    assert collection.within([(value * (1 - 1e-3 * np.sign(value)),) * 3, (np.inf,) * 3]).ids.tolist() == [0]
    lower, upper = collection.bounds
    assert np.all(np.float32(lower) < np.float32(upper)), "the client computes with float32"


def test_a_volume_is_no_collection(tmp_path: Path) -> None:
    create_volume(tmp_path, np.zeros((4, 4, 4), np.uint8), resolution=(1, 1, 1))
    with pytest.raises(AlreadyExistsError, match="there is a pyramid already"):
        create_annotations(tmp_path, POINTS)
    with pytest.raises(ValueError, match=r"info: @type: expected 'neuroglancer_annotations_v1'"):
        open_annotations(tmp_path)


def test_what_failed_has_no_info_and_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise OSError("no more room")

    with monkeypatch.context() as patch:
        patch.setattr(annotation_storing, "_encoded", fail)
        with pytest.raises(OSError, match="no more room"):
            create_annotations(tmp_path, POINTS)
    with pytest.raises(NotFoundError, match=r"annotations were begun here at .* has failed"):
        open_annotations(tmp_path)
    (tmp_path / "by_id").mkdir(exist_ok=True)
    (tmp_path / "by_id" / "77777").write_bytes(b"left over")
    assert len(create_annotations(tmp_path, POINTS).within()) == 300
    assert not (tmp_path / "by_id" / "77777").exists()


def test_a_shard_is_what_the_writer_of_chunks_makes(tmp_path: Path) -> None:
    from precomputed_fs.pyramid.values import Values
    from precomputed_fs.scene.folder import Folder

    made = create_annotations(tmp_path / "a", POINTS, sharding=True)
    index = made.info.by_id
    assert index is not None
    assert isinstance(index.sharding, Sharding)
    pyramid = Folder.open(tmp_path / "b").pyramid
    read: Values[int] = Folder.open(tmp_path / "a").values(index.sharding, subfolder="by_id")
    write: Values[int] = Values(pyramid, "by_id", index.sharding)
    write.store_many(read.fetch_many(range(300)))
    pyramid.flush()
    for path in (tmp_path / "a" / "by_id").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "by_id" / path.name).read_bytes()


def test_info_is_that_of_the_specification(tmp_path: Path) -> None:
    create_annotations(tmp_path, TABLE.assign(size=7), dimensions="8 nm", sharding=False)
    info = json.loads((tmp_path / "info").read_text())
    assert info == {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {axis: [8e-9, "m"] for axis in "xyz"},
        "lower_bound": [0, 0, 0],
        "upper_bound": [100, 100, 100],
        "annotation_type": "POINT",
        "properties": [{"id": "size", "type": "uint8"}],
        "relationships": [],
        "by_id": {"key": "by_id"},
        "spatial": [{"key": "spatial0", "grid_shape": [1, 1, 1], "chunk_size": [100, 100, 100], "limit": 5000}],
    }
    assert AnnotationInfo.parse(info).to_dict() == info
