"""Which columns of a table become what, and which are refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from precomputed_fs import create_annotations
from precomputed_fs.format.annotation_info import Property
from precomputed_fs.scene.annotation_dimensions import dimensions_of

LINES = [np.arange(6.0).reshape(2, 3), np.arange(9.0).reshape(3, 3)]
XYZ = {axis: [1.0, 2.0, 3.0] for axis in "xyz"}

REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ({"x": [1], "y": [1, 2]}, {}, "expected columns of equal length: x has 1, y has 2"),
    ("points", {}, "expected a table or an array of coordinates, got str"),
    ([np.zeros((1, 3))], {"kind": "polyline"}, r"polyline 0: expected an array \(points, 3\) of at least 2 points"),
    (XYZ | {"when": np.array(["2020-01-01"] * 3, "M8[D]")}, {}, "column 'when': its type datetime64.* `relationships`"),
    (XYZ | {"pre": [[1], [2], [3, 4]]}, {}, r"column 'pre': expected numbers or texts, got \[1\]"),
    (XYZ | {"name": [1, "a", 2]}, {}, "column 'name': expected numbers or texts, got 1"),
    (
        XYZ | {"name": ["a", "b", "c"]},
        {"properties": {"name": {"type": "uint8", "enum_values": [1], "enum_labels": ["a"]}}},
        "column 'name': 'b' is not among enum_labels",
    ),
    (XYZ | {"name": ["a", "b", "c"]}, {"properties": {"name": "uint8"}}, "column 'name': expected uint8, got object"),
    (XYZ | {"big": [1e39, 0, 0]}, {}, r"column 'big': expected float32, got 1e\+39 in row 0"),
    (XYZ | {"c": np.zeros((3, 4))}, {"properties": {"c": "rgb"}}, r"expected rgb, texts or an array \(n, 3\) of uint8"),
    (XYZ | {"c": np.full((3, 3), 300)}, {"properties": {"c": "rgb"}}, r"expected rgb \(0 to 255\), got 300 to 300"),
    (XYZ | {"pre": ["a", "b", "c"]}, {"relationships": ["pre"]}, "column 'pre': expected ids, integers .*, got 'a'"),
    (iter([XYZ | {"name": ["a", "b", "c"]}]), {}, "column 'name': its texts become labels, which must be known"),
    (iter([XYZ]), {"ids": np.arange(3)}, "ids: for an iterator of tables, expected the name of their column"),
    (iter([XYZ | {"size": [1, 2, 3]}, XYZ]), {}, "properties: there is no column 'size' among x, y, z"),
    (XYZ, {"dimensions": {}}, "dimensions: expected at least one"),
    (XYZ, {"dimensions": (4, 4)}, "dimensions: expected 1 length for all axes, or 3, .* or pass a mapping"),
    (XYZ, {"dimensions": {"x": -4}}, "dimensions: x: expected a positive quantity, got -4"),
    (XYZ, {"dimensions": {"x": (4, "apples")}}, "dimensions: x: expected a quantity such as"),
]


@pytest.mark.parametrize(("given", "options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        create_annotations("memory://test_annotation_columns/refused", given, **options)


def written(given: Any, **options: Any) -> Any:
    made = create_annotations("memory://test_annotation_columns/made", given, overwrite=True, **options)
    return made.get(made.ids)


def test_a_column_of_polylines() -> None:
    found = written({"points": LINES, "size": [1, 2]}, kind="polyline")
    assert [line.tolist() for line in found.geometry] == [line.tolist() for line in LINES]
    assert found.to_pandas()["points"][1].tolist() == LINES[1].tolist()
    assert repr(found) == "<Annotations: 2 polylines, properties size>"


def test_colours() -> None:
    colours = np.array([[255, 128, 0], [0, 0, 0], [1, 2, 3]], np.uint8)
    found = written(XYZ | {"a": colours, "b": colours.astype(int)}, properties={"a": None, "b": "rgb"})
    np.testing.assert_array_equal(found.properties["b"], colours)
    assert found.to_pandas()["a"].tolist() == ["#ff8000", "#000000", "#010203"]


def test_labels() -> None:
    described = {"type": "int8", "enum_values": [-1, 5], "enum_labels": ["shaft", "spine"]}
    found = written(
        XYZ | {"a": ["spine", None, "shaft"], "b": [5, 5, -1], "c": np.array([1, 2, 1 << 20])},
        properties={"a": described, "b": described, "c": Property("c", "int32")},
    )
    assert found.properties["a"].tolist() == [5, 6, -1]
    assert found.to_pandas()["b"].tolist() == ["spine", "spine", "shaft"]
    assert [each.type for each in found.info.properties] == ["int32", "int8", "int8"]  # as they are encoded


def test_integers_take_the_smallest_type_that_holds_them() -> None:
    table = pd.DataFrame(XYZ | {"a": [0, 1, 255], "b": [-1, 0, 1], "c": [0, 0, 65536], "d": [-40000, 0, 0]})
    types = {each.id: each.type for each in written(table).info.properties}
    assert types == {"a": "uint8", "b": "int8", "c": "uint32", "d": "int32"}


def test_a_list_of_tables() -> None:
    found = written([XYZ | {"size": [1, 2, 3]}, XYZ | {"size": [4, 5, 6]}], properties={"size": "uint16"})
    assert found.properties["size"].tolist() == [1, 2, 3, 4, 5, 6]
    assert len(written(iter([]))) == 0


def test_some_of_the_annotations() -> None:
    found = written(XYZ | {"size": [1, 2, 3]}, relationships={"pre": [7, 8, 9]})
    assert found[1:].ids.tolist() == [1, 2]
    assert found[np.array([True, False, True])].properties["size"].tolist() == [1, 3]
    assert found[-1].related["pre"].tolist() == [9]
    with pytest.raises(TypeError, match=r"annotations are indexed by position: .* did you mean 'size'"):
        found["sise"]
    with pytest.raises(IndexError):
        found[3]


def test_dimensions_of_a_scale_and_of_other_units() -> None:
    assert dimensions_of("8 nm")["z"] == (8e-9, "m")
    assert dimensions_of({"c": (2, ""), "r": "rad/s"}) == {"c": (2, ""), "r": (1, "rad/s")}


def test_whole_numbers_that_are_rounded_are_told() -> None:
    table = pd.DataFrame({"x": [1], "y": [2], "z": [3], "volume": [0.1]}).loc[[0, 0]].reset_index(drop=True)
    with pytest.warns(
        UserWarning, match=r"column 'root': float32 rounds 1 of 2 values .* 16777217 to 16777216 in row 1.*relation"
    ):
        create_annotations(
            "memory://test_annotation_columns/rounded", table.assign(root=[np.nan, 2**24 + 1]), overwrite=True
        )
    create_annotations("memory://test_annotation_columns/rounded", table.assign(root=[np.nan, 2**24]), overwrite=True)
