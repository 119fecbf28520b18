"""How segment properties are read, and stored from tables: exactly, or not at all."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from precomputed_fs import (
    AlreadyExistsError,
    InvalidInfoError,
    NotFoundError,
    create_segment_properties,
    open_segment_properties,
    open_volume,
)
from tests.scene.samples import LARGEST, labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place

IDS = [7, 0, LARGEST]
INDEX = pd.Index(np.array(IDS, np.uint64), name="id")
TABLE = pd.DataFrame(
    {
        "name": ["one", "", "\u00fc"],
        "note": ["a", "b", "c"],
        "kind": ["x", "y", "x"],
        "size": np.array([1, -32768, 32767], np.int16),
        "mean": np.array([0.1, 1e30, -0.0], np.float32),
        "tags": [("big", "red"), (), ("small",)],
    },
    index=INDEX,
)
KEYWORDS: dict[str, Any] = {
    "label": "name",
    "description": "note",
    "tags": "tags",
    "descriptions": {"size": "in voxels"},
    "tag_descriptions": {"big": "Large", "red": "", "small": "", "unused": ""},
}


def inline(folder: Path) -> dict[str, Any]:
    """Return the properties as they are stored, by id."""
    info = json.loads((folder / "info").read_text())
    assert info["@type"] == "neuroglancer_segment_properties"
    return {each["id"]: each for each in info["inline"]["properties"]}


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_table_is_read_as_it_was_stored(pyramid: Place) -> None:
    options: Any = {"storage_options": pyramid.storage_options}
    volume = labels(pyramid.url, **options)
    volume.store_segment_properties(TABLE, **KEYWORDS)
    assert volume.info["segment_properties"] == "segment_properties"
    found = open_volume(pyramid.url, **options).segment_properties.to_pandas()
    pd.testing.assert_frame_equal(found, TABLE)
    assert found.attrs == KEYWORDS
    again = create_segment_properties(f"{pyramid.url}/again", found, **found.attrs, **options)
    assert again.info.to_dict() == volume.segment_properties.info.to_dict()


def test_the_format_has_what_neuroglancer_wants(tmp_path: Path) -> None:
    create_segment_properties(tmp_path, TABLE, **KEYWORDS)
    assert json.loads((tmp_path / "info").read_text())["inline"]["ids"] == ["7", "0", str(LARGEST)]
    assert list(inline(tmp_path).values()) == [
        {"id": "name", "type": "label", "values": ["one", "", "\u00fc"]},
        {"id": "note", "type": "description", "values": ["a", "b", "c"]},
        {"id": "kind", "type": "string", "values": ["x", "y", "x"]},
        {
            "id": "size",
            "type": "number",
            "data_type": "int16",
            "description": "in voxels",
            "values": [1, -32768, 32767],
        },
        {"id": "mean", "type": "number", "data_type": "float32", "values": [0.1, 1e30, 0]},
        {
            "id": "tags",
            "type": "tags",
            "tags": ["big", "red", "small", "unused"],
            "tag_descriptions": ["Large", "", "", ""],
            "values": [[0, 1], [], [2]],
        },
    ]


def test_properties_are_arrays_without_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = create_segment_properties(tmp_path, TABLE, **KEYWORDS)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert found.ids.dtype == np.uint64
    assert found.ids.tolist() == IDS
    assert (len(found), list(found), "size" in found, "sizes" in found) == (3, list(TABLE.columns), True, False)
    assert [str(found[name].dtype) for name in ("size", "mean", "name")] == ["int16", "float32", "object"]
    assert found["size"].tolist() == [1, -32768, 32767]
    assert found["name"].tolist() == ["one", "", "\u00fc"]
    assert found["tags"].tolist() == [("big", "red"), (), ("small",)]
    with pytest.raises(KeyError, match=r"no property 'sizes'; there are name, note, .*; did you mean 'size'"):
        found["sizes"]
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[pandas\]'"):
        found.to_pandas()


def test_tags_may_be_columns_of_booleans(tmp_path: Path) -> None:
    found = create_segment_properties(tmp_path, TABLE, **KEYWORDS).to_pandas(tags="columns")
    assert list(found.columns) == ["name", "note", "kind", "size", "mean", "big", "red", "small", "unused"]
    assert found["big"].tolist() == [True, False, False]
    assert found.attrs == {**KEYWORDS, "tags": ["big", "red", "small", "unused"]}
    again = create_segment_properties(tmp_path, found, **found.attrs, overwrite=True)
    pd.testing.assert_frame_equal(again.to_pandas(), TABLE)
    with pytest.raises(ValueError, match="tags: expected one of tuples, columns, got 'lists'"):
        again.to_pandas(tags="lists")
    clash = create_segment_properties(tmp_path / "clash", {"big": [1], "tags": [["big"]]}, ids=[1])
    with pytest.raises(ValueError, match=r"the tag 'big' has the name of a property: to_pandas\(tags='tuples'\)"):
        clash.to_pandas(tags="columns")


def test_there_may_be_no_segments_and_no_properties(tmp_path: Path) -> None:
    empty = create_segment_properties(tmp_path / "a", {"size": np.zeros(0, np.int64), "label": []}, ids=[])
    assert empty.to_pandas().shape == (0, 2)
    assert [each.type for each in empty.info.inline.properties] == ["number", "label"]  # type: ignore[union-attr]
    assert create_segment_properties(tmp_path / "b", {}, ids=IDS).to_pandas().index.equals(INDEX)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/info").write_text('{"@type": "neuroglancer_segment_properties"}')
    found = open_segment_properties(tmp_path / "c")
    assert (len(found), found.ids.tolist(), found.to_pandas().shape) == (0, [], (0, 0))
    assert repr(found) == f"<SegmentProperties {tmp_path}/c: 0 segments; no properties>"


@pytest.mark.parametrize("tags", ["tuples", "columns"])
def test_a_table_of_which_no_rows_are_left_is_stored(tmp_path: Path, tags: str) -> None:
    table = {"name": ["a", "b"], "kinds": [["big"], []], "size": [1, 2]}
    found = create_segment_properties(tmp_path / "a", table, ids=[1, 2], label="name").to_pandas(tags=tags)
    again = create_segment_properties(tmp_path / "b", found[:0], **found.attrs)
    assert [each.type for each in again.info.inline.properties] == ["label", "tags", "number"]  # type: ignore[union-attr]


def test_properties_say_what_they_are(tmp_path: Path) -> None:
    table = {"<b>": ["<i>", "&amp;"] * 4, "long": ["x" * 99] * 8, "tags": [["red", "big"]] * 8}
    table |= {f"n{i}": list(range(8)) for i in range(12)}
    found = create_segment_properties(tmp_path, table, ids=range(8), label="<b>")
    assert repr(found).startswith(
        f"<SegmentProperties {tmp_path}: 8 segments; <b> (label), long (string), tags (tags), n0 ("
    )
    assert repr(found).endswith("n8 (int32), 3 more>")
    shown = found._repr_html_()
    assert "<th>&lt;b&gt;<br><i>label</i></th>" in shown
    assert "<td>4</td><td>&lt;i&gt;</td>" in shown
    assert "<td>#big #red</td>" in shown
    assert "<b>" not in shown
    assert f"<td>{'x' * 57}...</td>" in shown
    assert "<div>... and 3 more segments, 3 more properties</div>" in shown
    assert pickle.loads(pickle.dumps(found))["n3"].tolist() == list(range(8))


# ------------------------------------------------------------------------------------------------------------ requests


def test_each_access_reads_once_and_is_not_stale(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("s3")
    options: Any = {"storage_options": place.storage_options}
    labels(place.url, **options).store_segment_properties(TABLE)
    volume = open_volume(place.url, **options)
    place.server.log.clear()
    found = volume.segment_properties
    found.to_pandas()
    assert place.server.log.methods() == ["GET"]
    open_volume(place.url, **options).store_segment_properties(TABLE[:1], overwrite=True)
    assert len(volume.segment_properties) == 1


def test_a_folder_of_its_own_may_list_very_many_segments(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("http")
    count = 90_000
    folder = place.objects.folder  # type: ignore[attr-defined]
    create_segment_properties(folder, {"size": np.arange(count)}, ids=np.arange(count))
    assert (folder / "info").stat().st_size > 1 << 20
    assert open_segment_properties(place.url)["size"][-1] == count - 1


# ------------------------------------------------------------------------------------------------------------- storing


def test_info_names_the_folder_of_properties(tmp_path: Path) -> None:
    volume = labels(tmp_path / "volume")
    with pytest.raises(NotFoundError, match=r"volume/info names no segment properties: vol.store_segment_properties\("):
        volume.segment_properties  # noqa: B018
    volume.store_segment_properties(TABLE, folder="../beside/")
    assert open_volume(tmp_path / "volume").info["segment_properties"] == "../beside/"
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        volume.store_segment_properties(TABLE)
    with pytest.raises(AlreadyExistsError, match=r"names the folder '../beside/' as segment_properties: pass folder="):
        volume.store_segment_properties(TABLE, folder="other")
    volume.store_segment_properties(TABLE[:1], folder="other", overwrite=True)
    assert len(open_volume(tmp_path / "volume").segment_properties) == 1
    assert len(open_segment_properties(tmp_path / "beside")) == 3


@pytest.mark.parametrize(
    ("values", "data_type"),
    [
        (np.array([1, 2, -(2**31)], np.int64), "int32"),
        (np.array([1, 2, 2**31], np.int64), "uint32"),
        (np.array([1, 2, 2**32 - 1], np.uint64), "uint32"),
        (np.array([1, 2, 3], np.uint64), "int32"),
        (np.array([1, 2, 3], np.uint32), "uint32"),
        (np.array([1, 2, 3], np.int8), "int8"),
        (np.array([1, 2, 3], ">u2"), "uint16"),
        (np.array([0.5, 2, 2**24]), "float32"),
        (np.array([0.5, 2, 65504], np.float16), "float32"),
        ([1, 2, 3], "int32"),
        ([1, 2.5, 3], "float32"),
        (pd.Series([1, 2, 3], dtype="Int64"), "int32"),
        (pd.Series([1, 2, 3], dtype="Float32"), "float32"),
        (pd.Series([1, 2, 3], dtype="category"), "int32"),
        (pd.Series([1, 2, 3], dtype=object), "int32"),
    ],
)
def test_numbers_become_the_type_that_has_them_exactly(tmp_path: Path, values: Any, data_type: str) -> None:
    found = create_segment_properties(tmp_path, {"n": values}, ids=IDS)["n"]
    assert str(found.dtype) == data_type
    assert found.tolist() == list(values)


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b", "a"],
        np.array(["a", "b", "a"]),
        np.array(["a", "b", "a"], np.dtypes.StringDType()),
        pd.Series(["a", "b", "a"], dtype="category"),
        pd.Series(["a", "b", "a"], dtype="string"),
        pd.Series(["a", "b", "a"], dtype=object),
    ],
)
def test_texts_become_strings(tmp_path: Path, values: Any) -> None:
    create_segment_properties(tmp_path, {"description": values, "other": values}, ids=IDS)
    assert inline(tmp_path)["other"] == {"id": "other", "type": "string", "values": ["a", "b", "a"]}
    assert inline(tmp_path)["description"]["type"] == "description"


@pytest.mark.parametrize(
    "values", [[["b", "a"], [], ["b"]], [{"b", "a"}, set(), {"b"}], [np.array(["a", "b"]), (), ("b",)]]
)
@pytest.mark.parametrize("tags", [None, "t"])
def test_lists_become_tags(tmp_path: Path, values: Any, tags: str | None) -> None:
    create_segment_properties(tmp_path, {"t": values}, ids=IDS, tags=tags)
    assert inline(tmp_path)["t"] == {"id": "t", "type": "tags", "tags": ["a", "b"], "values": [[0, 1], [], [1]]}


def test_a_column_called_label_is_the_label_only_if_it_is_of_texts(tmp_path: Path) -> None:
    create_segment_properties(tmp_path, {"label": IDS, "area": [1, 2, 3]}, ids="label")  # as of scikit-image
    assert list(inline(tmp_path)) == ["area"]
    create_segment_properties(tmp_path, {"label": [1, 2, 3], "description": [1, 2, 3]}, ids=IDS, overwrite=True)
    assert {each["type"] for each in inline(tmp_path).values()} == {"number"}


NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [1, 2**32, 3],
            r"column 'c': 4294967296 does not fit into 32 bits, .*: .astype\('float32'\) rounds, .as",
        ),
        ([-1, 2**31, 3], "2147483648 does not fit into 32 bits"),
        ([-(2**31) - 1, 0, 3], "-2147483649 does not fit into 32 bits"),
        ([0.1, 2, 3], r"is float64, and 0.1 would be rounded in float32, .*: .astype\('float32'\) rounds"),
        ([1e300, 2, 3], r"1e\+300 would be rounded"),
        ([np.inf, 2, 3], "has infinite values, which JSON cannot say"),
        (
            [0.5, np.nan, 3],
            r"1 missing, first of segment 0, and the format has no missing values: .fillna\(...\) w",
        ),
        ([1, None, 3], "1 missing, first of segment 0"),
        (pd.Series([1, None, 3], dtype="Int64"), "1 missing, first of segment 0"),
        (["a", None, None], r"2 missing, first of segment 0, .*: .fillna\(...\) with '', or leave these segments out"),
        (pd.Series(["a", None, "b"]), "1 missing"),
        (np.ma.array([1, 2, 3], mask=[False, True, False]), "1 missing, first of segment 0"),
        (pd.Series(["a", None, "b"], dtype="category"), "1 missing"),
        (pd.Series([["a"], None, []]), "1 missing"),
        (pd.Series(["2026", None, "2027"], dtype="datetime64[ns]"), "1 missing"),
        ([True, False, True], r"is of booleans, .*: tags=\['c'\] makes a tag of it, .astype\('uint8'\) a number"),
        (pd.Series([True, False, True], dtype="boolean"), "is of booleans"),
        (np.array([True, False, True]), "is of booleans"),
        ([NOW, NOW, NOW], r"is of datetime, which the format does not have: .astype\(str\) makes texts"),
        (pd.Series([NOW] * 3), "is of Timestamp, which|is of datetime64"),
        (np.array([1, 2, 3], "m8[s]"), r"is of timedelta64\[s\], which"),
        ([1j, 2, 3], "has values of several types, complex, int"),
        ([b"a", b"b", b"c"], "is of bytes, which"),
        ([{}, {}, {}], "is of dict, which"),
        (["a", 1, "b"], "has values of several types, int, str"),
        ([True, 1, 2], "has values of several types, bool, int"),
        ([2**64, 1, 1], "18446744073709551616 does not fit|is of int, which"),
        ([["a"], ["b"], 3], "has values of several types, int, list"),
        ([["a"], ["b"], [3]], r"expected lists of tags, such as \['a', 'b'\], got \[3\]"),
        ([["a b"], [], []], "column 'c': tags: expected words without spaces and without an initial '#', got 'a b'"),
        ([["#a"], [], []], "expected words without spaces"),
        ([["a"], ["A"], []], "tags: expected tags that differ by more than case, got 'a' 2 times"),
        (["a", "\ud800", "b"], r"column 'c': values\[1\]: expected a string"),
        ([1, 2], r"column 'c': expected a value for each of 3 segments, got \(2,\)"),
        ("xyz", "expected a value for each segment, got 'xyz'"),
        (5, "expected a value for each segment, got 5"),
        (np.array(5), r"expected a value for each of 3 segments, got \(\)"),
        (np.ones((3, 2)), r"expected a value for each of 3 segments, got \(3, 2\)"),
    ],
)
def test_what_cannot_be_stored_exactly_is_refused_with_what_to_do(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_segment_properties(tmp_path, {"good": [1, 2, 3], "c": values}, ids=IDS)
    assert not (tmp_path / "info").exists()


@pytest.mark.parametrize("values", [[2**53 + 1, 0.5], [2**63 + 1, -1], [np.uint64(2**53 + 1), np.float32(1)]])
def test_integers_among_other_numbers_are_not_rounded_silently(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(ValueError, match=rf"column 'size': {values[0]} would be rounded"):
        create_segment_properties(tmp_path, {"size": values}, ids=[1, 2])


def test_integers_of_several_types_stay_integers(tmp_path: Path) -> None:
    found = create_segment_properties(tmp_path, {"size": [np.uint64(5), 1]}, ids=[1, 2])
    assert (found["size"].dtype.name, found["size"].tolist()) == ("int32", [5, 1])


def test_masked_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ids: expected a segment for each row, got masked values"):
        create_segment_properties(tmp_path, {"size": [1, 2]}, ids=np.ma.masked_equal([1, 2], 2))


def test_all_columns_that_are_refused_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^column 'a': .* rounds; column 'b': .* a number; column 'd': 1 missing"):
        create_segment_properties(tmp_path, {"a": [0.1], "b": [True], "c": [1], "d": [None]}, ids=[1])


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (TABLE.reset_index(drop=True), {}, r"ids: the index counts the rows, .*: pass ids='...', the column"),
        (TABLE, {"ids": "names"}, "ids: expected one of name, note, .*, got 'names'; did you mean 'name'"),
        (TABLE, {"ids": [1, 2]}, "column 'name': expected a value for each of 2 segments"),
        (TABLE, {"ids": [1, 2, 1]}, "ids: expected each segment once, got 1 twice"),
        (TABLE, {"ids": [1, 2, 1 << 64]}, "expected a segment id of at most"),
        (TABLE, {"label": "names"}, "label: expected one of name, note, .*, got 'names'; did you mean 'name'"),
        (TABLE, {"description": "x"}, "description: expected one of name"),
        (TABLE, {"descriptions": {"sizes": "x"}}, "descriptions: expected one of name, .*; did you mean 'size'"),
        (TABLE, {"tags": ["tag"]}, "tags: expected one of name, .*; did you mean 'tags'"),
        (TABLE, {"tags": ["size"]}, "column 'tags': .* that tags=.* makes: rename it"),
        (
            TABLE.drop(columns="tags"),
            {"tags": ["size"]},
            "column 'size': expected booleans, of which .* got int16",
        ),
        (TABLE, {"tags": "size"}, r"column 'size': expected lists of tags, such as \['a', 'b'\], got np.int16\(1\)"),
        (
            TABLE,
            {"label": "size"},
            r"'size': expected texts, got int16: table\['size'\].astype\(str\) makes some",
        ),
        (TABLE.assign(more=TABLE["tags"]), {}, "expected at most one of the type 'tags', got 'tags', 'more'"),
        (
            TABLE,
            {"tags": "tags", "descriptions": {"tags": "x"}},
            "'tags': description: tags have tag_descriptions",
        ),
        (
            pd.DataFrame([[1, 2]], index=[1], columns=["a", "a"]),
            {},
            "expected columns with different names, got 'a' twice",
        ),
        (pd.DataFrame([[1, 2]], index=[1]), {}, "column 0: expected a text as name, got int"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, table: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_segment_properties(tmp_path, table, **options)
    assert not (tmp_path / "info").exists()


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ([1, 2], {}, r"expected a DataFrame, or a mapping of names to columns, got \[1, 2\]"),
        ({"a": [1]}, {}, "ids: a mapping of columns needs the segment ids, an array or the name of a column"),
        ({"a": [1]}, {"ids": [1.5]}, "expected a segment id, .* got 1.5"),
        ({"a": [1]}, {"ids": [-1]}, "expected a segment id, .* got -1"),
        ({"a": [1]}, {"ids": ["1"]}, "expected a segment id, .* got '1'"),
        ({"a": [1], "i": [np.nan]}, {"ids": "i"}, "expected a segment id, .* got nan"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, table: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        create_segment_properties(tmp_path, table, **options)


def test_an_info_of_something_else_is_called_so(tmp_path: Path) -> None:
    labels(tmp_path)
    with pytest.raises(InvalidInfoError, match=rf"{tmp_path}/info: @type: expected 'neuroglancer_segment_prop"):
        open_segment_properties(tmp_path)


def test_the_largest_float_is_kept(tmp_path: Path) -> None:
    largest = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max])
    create_segment_properties(tmp_path, {"size": largest.astype(np.float32)}, ids=[1, 2])
    np.testing.assert_array_equal(open_segment_properties(tmp_path)["size"], largest)


def test_options_that_would_have_no_effect_are_refused(tmp_path: Path) -> None:
    table = {"name": ["a", "b"]}
    with pytest.raises(ValueError, match="description: expected another column than that of the labels, got 'name'"):
        create_segment_properties(tmp_path, table, ids=[1, 2], label="name", description="name")
    with pytest.raises(ValueError, match="tag_descriptions: there are no tags"):
        create_segment_properties(tmp_path, table, ids=[1, 2], tag_descriptions={"big": "large"})
