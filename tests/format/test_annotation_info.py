from typing import Any

import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.annotation_info import AnnotationInfo, Dimension, Property

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 0,
    "hash": "identity",
    "minishard_bits": 0,
    "shard_bits": 0,
}
LEVEL = {"key": "spatial0", "grid_shape": [1, 2], "chunk_size": [10, 2.5], "limit": 7}
INFO: dict[str, Any] = {
    "@type": "neuroglancer_annotations_v1",
    "dimensions": {"x": [4e-9, "m"], "t": [1, "ms"]},
    "lower_bound": [0, -5],
    "upper_bound": [10, 0],
    "annotation_type": "LINE",
    "properties": [
        {"id": "type", "type": "uint8", "description": "what", "enum_values": [0, 2], "enum_labels": ["a", "b"]},
        {"id": "colour", "type": "rgba"},
    ],
    "relationships": [{"id": "Pre synapse", "key": "rel/../pre", "sharding": SHARDING}],
    "by_id": {"key": "by_id"},
    "spatial": [LEVEL],
}

INVALID: list[tuple[dict[str, Any], str]] = [
    (
        {"@type": "neuroglancer_skeletons"},
        r"@type: expected 'neuroglancer_annotations_v1', got 'neuroglancer_skeletons'",
    ),
    ({"dimensions": {}}, r"dimensions: expected an object of 1 to 32 members, got \{\}"),
    ({"dimensions": {"x": [0, "m"], "t": [1, "s"]}}, r"dimensions.x: expected a positive number and a unit"),
    ({"dimensions": {"x": [1, "apple"], "t": [1, "s"]}}, r"dimensions.x: expected .*, got \[1, 'apple'\]"),
    ({"lower_bound": [0]}, r"lower_bound: expected 2 numbers, one for each dimension, got \[0\]"),
    ({"lower_bound": [0, float("nan")]}, r"lower_bound: expected 2 numbers"),
    ({"upper_bound": [10, -6]}, r"upper_bound: expected at least lower_bound, \[0, -5\], got \[10, -6\]"),
    ({"annotation_type": "SPHERE"}, r"annotation_type: expected one of point, line, .*, got 'SPHERE'"),
    ({"properties": {}}, r"properties: expected a list of at most 4096, got \{\}"),
    ({"properties": [{"id": "Type", "type": "uint8"}]}, r"properties\[0\].id: expected a name that matches"),
    ({"properties": [{"id": "a", "type": "uint64"}]}, r"properties\[0\].type: expected one of rgb, .*, got 'uint64'"),
    (
        {"properties": [{"id": "a", "type": "uint8", "description": 1}]},
        r"properties\[0\].description: expected a string",
    ),
    ({"properties": [{"id": "a", "type": "uint8"}] * 2}, r"properties: expected each id once, got 'a'"),
    (
        {"properties": [{"id": "a", "type": "uint8", "enum_values": [300], "enum_labels": ["a"]}]},
        r"properties\[0\].enum_values: expected a list of values of the type, got \[300\]",
    ),
    (
        {"properties": [{"id": "a", "type": "uint8", "enum_values": [3]}]},
        r"properties\[0\].enum_labels: expected 1 strings, one for each of enum_values, got nothing",
    ),
    ({"relationships": [{"key": "a"}]}, r"relationships\[0\].id: expected a non-empty string, got nothing"),
    ({"relationships": [{"id": "a", "key": "/b"}]}, r"relationships\[0\].key: expected a relative path, got '/b'"),
    ({"by_id": {"key": "a", "sharding": {}}}, r"by_id.sharding.@type: expected"),
    ({"by_id": []}, r"by_id: expected an object, got \[\]"),
    ({"spatial": [LEVEL | {"grid_shape": [0, 1]}]}, r"spatial\[0\].grid_shape: expected numbers greater than 0"),
    ({"spatial": [LEVEL | {"grid_shape": [1.5, 1]}]}, r"spatial\[0\].grid_shape: expected integers from 1 to"),
    ({"spatial": [LEVEL | {"chunk_size": [1]}]}, r"spatial\[0\].chunk_size: expected 2 numbers"),
    ({"spatial": [LEVEL | {"limit": 1e400}]}, r"spatial\[0\].limit: expected an integer of at least 0"),
    (
        {
            "dimensions": {"x": [1, "m"], "y": [1, "m"], "z": [1, "m"]},
            "lower_bound": [0] * 3,
            "upper_bound": [1] * 3,
            "spatial": [LEVEL | {"grid_shape": [1 << 32] * 3, "chunk_size": [1] * 3, "sharding": SHARDING}],
        },
        r"spatial\[0\].grid_shape: a grid of .* needs 96 bits",
    ),
]


def test_members() -> None:
    info = AnnotationInfo.parse(INFO)
    assert (info.kind, info.rank) == ("line", 2)
    assert info.dimensions == {"x": Dimension(4e-9, "m"), "t": Dimension(1, "ms")}
    assert info.properties[0] == Property("type", "uint8", "what", (0, 2), ("a", "b"))
    assert info.relationships[0].index.sharding is not None
    assert (info.levels[0].grid_shape, info.levels[0].chunk_size, info.levels[0].limit) == ((1, 2), (10, 2.5), 7)
    again = info.to_dict()
    assert AnnotationInfo.parse(again) == info
    assert again["spatial"] == INFO["spatial"]


def test_what_may_be_absent() -> None:
    names = ("@type", "dimensions", "lower_bound", "upper_bound", "annotation_type")
    info = AnnotationInfo.parse({name: INFO[name] for name in names} | {"annotation_type": "polyLine", "by_id": None})
    assert (info.kind, info.properties, info.by_id, info.levels) == ("polyline", (), None, ())
    assert "by_id" not in info.to_dict()


@pytest.mark.parametrize(("changed", "message"), INVALID, ids=range(len(INVALID)))
def test_what_is_invalid_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInfoError, match=f"^somewhere: {message}"):
        AnnotationInfo.parse(INFO | changed, "somewhere")
