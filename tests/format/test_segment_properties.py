"""How the `info` of segment properties is read, and what is never written."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.segment_properties import MAX_PROPERTIES, MAX_TAGS, SegmentPropertiesInfo, violations

TYPE = {"@type": "neuroglancer_segment_properties"}
LABEL = {"id": "name", "type": "label", "values": ["one", "", "\u00fcnicode"]}
NOTE = {"id": "note", "type": "description", "values": ["a", "b", "c"], "mine": 1}
KIND = {"id": "kind", "type": "string", "description": "of cell", "values": ["x", "y", "x"]}
TAGS = {
    "id": "tags",
    "type": "tags",
    "tags": ["big", "small", "red"],
    "tag_descriptions": ["Large", "", ""],
    "values": [[0, 2], [], [1]],
}
SIZE = {"id": "size", "type": "number", "data_type": "int16", "values": [1, -32768, 32767], "description": "of it"}
MEAN = {"id": "mean", "type": "number", "data_type": "float32", "values": [0.5, 7, -3.4e38]}
ALL = [LABEL, NOTE, KIND, TAGS, SIZE, MEAN]


def info(*properties: Any, ids: Any = ("1", "0", "18446744073709551615")) -> dict[str, Any]:
    return {**TYPE, "inline": {"ids": list(ids), "properties": list(properties)}}


def test_members_are_read_and_unknown_ones_kept() -> None:
    given = {**info(*ALL), "relationships": []}
    found = SegmentPropertiesInfo.parse(json.dumps(given))
    assert found.to_dict() == given
    assert found.inline is not None
    assert found.inline.ids == ["1", "0", "18446744073709551615"]
    kinds = {each.id: (each.type, each.data_type, each.description) for each in found.inline.properties}
    assert kinds == {
        "name": ("label", None, None),
        "note": ("description", None, None),
        "kind": ("string", None, "of cell"),
        "tags": ("tags", None, None),
        "size": ("number", "int16", "of it"),
        "mean": ("number", "float32", None),
    }
    assert found.inline.properties[3].tags == ["big", "small", "red"]
    assert list(violations(found)) == []


def test_an_info_may_be_empty() -> None:
    assert SegmentPropertiesInfo.parse(TYPE).inline is None
    assert SegmentPropertiesInfo.parse({**TYPE, "inline": None}).inline is None
    assert SegmentPropertiesInfo.parse(info(ids=[])).inline is not None


def test_numbers_and_names_are_read_as_json_has_them() -> None:
    text = json.dumps(
        info({**SIZE, "data_type": "INT16", "values": [1.0, 2e0, 3]}, {**MEAN, "values": [float("nan"), 1, 2]})
    )
    found = SegmentPropertiesInfo.parse(text).inline
    assert found is not None
    assert found.properties[0].data_type == "int16"
    assert found.properties[0].values == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "info: @type: expected 'neuroglancer_segment_properties', got None: these are no segment properties"),
        ({**TYPE, "inline": []}, r"info: inline: expected an object, got \[\]"),
        ({**TYPE, "inline": {}}, "info: inline.ids, inline.properties: missing"),
        (info(ids=[7]), r"inline.ids\[0\]: expected a uint64 as a string of digits, got 7"),
        (info(ids=["1", "07"]), r"inline.ids\[1\]: expected a uint64 as a string of digits, got '07'"),
        (info(ids=["18446744073709551616"]), "expected a uint64"),
        (info(ids=["\u0661"]), "expected a uint64"),
        (info(7), r"inline.properties\[0\]: expected an object, got 7"),
        (info({}), r"properties\[0\].id, .*\[0\].type, .*\[0\].values: missing"),
        (info(LABEL, {**NOTE, "id": "name"}), "properties: expected ids that are unique, got 'name' 2 times"),
        (info(*[LABEL] * (MAX_PROPERTIES + 1)), "properties: expected at most 4096, got 4097"),
        (
            info({**LABEL, "type": "text"}),
            r"\[0\].type: expected one of label, description, string, tags, number, got 'te",
        ),
        (info({**LABEL, "values": "abc"}), r"\[0\].values: expected a list, got 'abc'"),
        (info({**LABEL, "values": ["a", "b"]}), r"\[0\].values: expected one for each of 3 ids, got 2"),
        (info({**LABEL, "values": ["a", "b", 7]}), r"\[0\].values\[2\]: expected a string, got 7"),
        (info({**LABEL, "values": ["a", "b", "\ud800"]}), r"\[0\].values\[2\]: expected a string"),
        (info({**SIZE, "data_type": None}), r"\[0\].data_type: missing"),
        (
            info({**SIZE, "data_type": "int64"}),
            r"\[0\].data_type: expected one of uint8, int8, .*, float32, got 'int64'",
        ),
        (
            info({**SIZE, "values": [0, 0, 32768]}),
            r"values\[2\]: expected an integer of int16, -32768 to 32767, got 32768",
        ),
        (info({**SIZE, "values": [0, 0.5, 0]}), r"values\[1\]: expected an integer of int16, .* got 0.5"),
        (info({**SIZE, "values": [0, True, 0]}), r"values\[1\]: expected an integer"),
        (info({**MEAN, "values": [0, 0, 3.5e38]}), r"values\[2\]: expected a number of float32, got 3.5e\+38"),
        (info({**MEAN, "values": [0, 0, 10**400]}), r"values\[2\]: expected a number of float32"),
        (info({**MEAN, "values": [0, "0", 0]}), r"values\[1\]: expected a number of float32, got '0'"),
        (info({**TAGS, "tags": None, "tag_descriptions": None}), r"\[0\].tags: missing"),
        (info({**TAGS, "tag_descriptions": ["a"]}), "tag_descriptions: expected one for each of 3 tags, got 1"),
        (info({**TAGS, "values": [[0], [3], []]}), r"values\[1\]: expected a list of indices of 3 tags, got \[3\]"),
        (info({**TAGS, "values": [0, 0, 0]}), r"values\[0\]: expected a list of indices"),
    ],
)
def test_an_invalid_info_is_refused_at_its_place(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInfoError, match=message):
        SegmentPropertiesInfo.parse(json.dumps(given))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (info(LABEL, ids=["1", "2", "1"]), "inline.ids: 1 is listed 2 times"),
        (info(LABEL, {**LABEL, "id": "other"}), "expected at most one of the type 'label', got 'name', 'other'"),
        (info(TAGS, {**TAGS, "id": "more"}), "expected at most one of the type 'tags', got 'tags', 'more'"),
        (info({**LABEL, "id": ""}), "inline.properties[0].id: expected a name, got ''"),
        (info({**TAGS, "description": "some"}), "[0].description: tags have tag_descriptions instead"),
        (
            info({**TAGS, "tags": ["a b", "c", "d"]}),
            "[0].tags: expected words without spaces and without an initial '#', ",
        ),
        (
            info({**TAGS, "tags": ["#a", "c", "d"]}),
            "[0].tags: expected words without spaces and without an initial '#', ",
        ),
        (
            info({**TAGS, "tags": ["a", "A", "d"]}),
            "[0].tags: expected tags that differ by more than case, got 'a' 2 times",
        ),
        (
            info({**TAGS, "values": [[2, 0], [], []]}),
            "[0].values: expected indices of tags in increasing order, got [2, 0]",
        ),
        (info({**TAGS, "values": [[0, 0], [], []]}), "[0].values: expected indices of tags in increasing order"),
        (info({**MEAN, "values": [0, float("nan"), 0]}), "[0].values: expected what JSON can say, got nan"),
        (info({**MEAN, "values": [0, float("inf"), 0]}), "[0].values: expected what JSON can say, got inf"),
        (
            info({**TAGS, "tags": [f"t{i}" for i in range(MAX_TAGS + 1)], "tag_descriptions": None}),
            "[0].tags: expected at most 65536, as many as Neuroglancer can tell apart, got 65537",
        ),
    ],
)
def test_what_the_specification_has_otherwise_is_read_but_not_written(given: dict[str, Any], problem: str) -> None:
    found = SegmentPropertiesInfo.parse(json.dumps(given), most=1 << 22)
    assert problem in "\n".join(violations(found))
    assert found.inline is not None
    with pytest.raises(InvalidInfoError, match=r"^segment properties: inline"):
        SegmentPropertiesInfo.of(map(int, found.inline.ids), given["inline"]["properties"])


def test_damaged_text_is_invalid_or_still_an_info() -> None:
    text = json.dumps(info(*ALL)).encode()
    chance = random.Random(4)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(text)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            found = SegmentPropertiesInfo.parse(bytes(damaged))
            list(violations(found))
            copy.deepcopy(found.to_dict())
        except InvalidInfoError:
            refused += 1
    assert 500 < refused < 1500
