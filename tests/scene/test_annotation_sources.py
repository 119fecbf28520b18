"""What annotations are made of, beside plain tables: those of other collections, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precomputed_fs import create_annotations, open_annotations
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.scene.annotations import AnnotationCollection

BOXES = pd.DataFrame(
    {"x0": [1, 2], "y0": [1, 2], "x1": [3, 4], "y1": [5, 6]}, index=pd.Index([7, 2**63 + 1], name="id")
)


def boxes(url: Path, annotations: Any = BOXES, **options: Any) -> AnnotationCollection:
    return create_annotations(url, annotations, kind="axis_aligned_bounding_box", **options)


@pytest.mark.parametrize("given", ["one", "blocks", "list"])
def test_annotations_of_a_collection_keep_all_that_is_known(tmp_path: Path, given: str) -> None:
    properties = {
        "id": {"type": "uint8", "description": "not that of the annotation"},
        "x0": {"type": "int16", "enum_values": [-3, 5], "enum_labels": ["same", "same"]},
        "colour": "rgba",
    }
    table = BOXES.reset_index(drop=True)
    columns = {name: table[name] for name in table}
    values = {"id": [9, 9], "x0": [1, 2], "colour": ["#01020304", "#05060708"]}
    first = boxes(
        tmp_path / "first", {**columns, **values}, properties=properties, ids=np.array([7, 2**63 + 1], np.uint64),
        dimensions={"x": "4 nm", "y": "40 nm"},
    )  # fmt: skip
    found = first.within()
    again = {"one": found, "blocks": first.blocks(), "list": [found]}[given]
    second = boxes(tmp_path / "second", again)
    assert second.dimensions == first.dimensions
    assert second.properties == first.properties
    np.testing.assert_array_equal(second.within().block.geometry, found.block.geometry)
    np.testing.assert_array_equal(second.within().block.properties, found.block.properties)
    np.testing.assert_array_equal(second.within().ids, [7, 2**63 + 1])


def test_annotations_read_by_id_keep_their_relationships(tmp_path: Path) -> None:
    first = boxes(
        tmp_path / "first", BOXES.assign(segment=[[2**64 - 1, 5], []]), relationships={"a b": "segment"},
        dimensions={"x": "4 nm", "y": "40 nm"},
    )  # fmt: skip
    second = boxes(tmp_path / "second", first.get(first.ids))
    assert second.relationships == ("a b",)
    np.testing.assert_array_equal(second.related("a b", 2**64 - 1).ids, [7])
    without = boxes(tmp_path / "third", first.get(first.ids), relationships=[])
    assert (without.relationships, without.properties) == ((), ())


def test_annotations_of_another_kind_or_other_dimensions_are_refused(tmp_path: Path) -> None:
    found = boxes(tmp_path / "first", dimensions={"x": "4 nm", "y": "40 nm"}).within()
    with pytest.raises(ValueError, match="kind: expected 'axis_aligned_bounding_box', as these annotations are"):
        create_annotations(tmp_path / "second", found)
    with pytest.raises(ValueError, match="dimensions: expected x, y, as of these annotations, got x, y, z"):
        boxes(tmp_path / "second", found, dimensions=4)


class OtherTable:
    """A table as polars has it: NumPy would take its columns for x, y, z."""

    columns = ("z", "y", "x")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.ones((1, 3), dtype)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (OtherTable(), TypeError, "expected a DataFrame of pandas or a mapping of columns, got OtherTable"),
        (pd.DataFrame([[1, 2, 3, 4]], columns=["x", "y", "z", "x"]), ValueError, "different names, got 'x' twice"),
        (np.ma.masked_array(np.ones((1, 3)), mask=[[True, False, False]]), TypeError, "got masked values"),
        (np.ones((1, 3), complex), TypeError, "expected numbers"),
        (pd.DataFrame({"x": [1], "y": [1], "z": [1], "a": [None]}), ValueError, "'a': expected values, got none"),
    ],
)
def test_tables_that_would_be_misread_are_refused(
    tmp_path: Path, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_annotations(tmp_path, given)
    assert not [*tmp_path.iterdir()]


def test_no_rows_may_have_columns_of_texts(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1.0], "y": [1.0], "z": [1.0], "type": ["a"]})[:0]
    assert len(create_annotations(tmp_path, table).within()) == 0


def test_large_ids_beside_missing_ones_are_exact(tmp_path: Path) -> None:
    table = {"x": [1, 2], "y": [1, 2], "z": [1, 2], "segment": pd.Series([2**53 + 1, None], dtype="Int64")}
    found = create_annotations(tmp_path, table, relationships=["segment"]).get([0, 1])
    assert found.related is not None
    assert [objects.tolist() for objects in found.related["segment"]] == [[2**53 + 1], []]
    with pytest.raises(ValueError, match="floats are rounded beyond 2"):
        create_annotations(tmp_path, {**table, "segment": [2.0**53, np.nan]}, relationships=["segment"], overwrite=True)


@pytest.mark.parametrize("given", [np.array([True, False]), [2.0**53], [np.True_]])
def test_what_may_be_another_id_is_refused(tmp_path: Path, given: Any) -> None:
    create_annotations(tmp_path, np.ones((2, 3)), relationships={"segment": [1, 2]})
    ann = open_annotations(tmp_path)
    for read in (ann.get, lambda ids: ann.related("segment", ids)):
        with pytest.raises(TypeError, match="expected an id, an integer"):
            read(given)


def test_everything_has_also_what_is_nowhere(tmp_path: Path) -> None:
    ann = create_annotations(tmp_path, np.ones((1, 3)))
    cell = tmp_path / "spatial0" / "0_0_0"
    cell.write_bytes(struct.pack("<Q3fQ", 1, np.nan, 1, 1, 5))
    assert ann.within().ids.tolist() == ann.to_pandas().index.tolist() == [5]
    assert ann.within([(0, 0, 0), (9, 9, 9)]).ids.tolist() == []


def test_tables_have_all_columns_whatever_their_names(tmp_path: Path) -> None:
    values: dict[str, Any] = {"properties": {"x": [7], "s": [8]}, "relationships": {"s": [70], "z": [80]}}
    table = create_annotations(tmp_path, np.ones((1, 3)), **values).get([0]).to_pandas()
    assert [*table.columns] == ["x", "y", "z", "x_", "s", "s_", "z_"]
    assert table.iloc[0].tolist() == [1, 1, 1, 7, 8, [70], [80]]


def test_values_do_not_take_the_place_of_a_column(tmp_path: Path) -> None:
    table = {"x": [1], "y": [2], "z": [3]}
    for option in ("properties", "relationships"):
        with pytest.raises(ValueError, match=f"{option}: there are values for 'x', and a column of that name, too"):
            create_annotations(tmp_path, table, **{option: {"x": [7]}})  # type: ignore[arg-type]


def test_a_sharding_is_used_as_it_is_or_refused(tmp_path: Path) -> None:
    wanted = Sharding(preshift_bits=0, hash="identity", minishard_bits=2, shard_bits=1)
    ann = create_annotations(tmp_path, np.ones((3, 3)), relationships={"segment": [1, 2, 3]}, sharding=wanted)
    assert ann.info.by_id is not None
    assert ann.info.by_id.sharding == wanted
    assert ann.related("segment", np.array(3)).ids.tolist() == [2]
    for other in ("yes", 1):
        with pytest.raises(TypeError, match="sharding: expected True, False or a mapping"):
            create_annotations(tmp_path, np.ones((3, 3)), sharding=other, overwrite=True)  # type: ignore[arg-type]
