"""How the `info` of skeletons is read, and how a skeleton is decoded and encoded."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest

from precomputed_fs.errors import CorruptDataError, InvalidInfoError
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.format.skeleton import (
    MAX_ATTRIBUTES,
    SkeletonsInfo,
    StoredSkeleton,
    VertexAttribute,
    decode_skeleton,
    encode_skeleton,
)

TYPE = {"@type": "neuroglancer_skeletons"}
RADIUS = {"id": "radius", "data_type": "float32", "num_components": 1}
SHARDING = Sharding(0, "murmurhash3_x86_128", 1, 2)
ATTRIBUTES = (
    VertexAttribute.of("type", "uint8", 1),
    VertexAttribute.of("radius", "float32", 1),
    VertexAttribute.of("direction", "int16", 3),
)
SKELETON = StoredSkeleton(
    np.array([[0, 0.5, 1], [-2, 3, 4e6], [5, 6, 7]], np.float32),
    np.array([[0, 1], [2, 1]], np.uint32),
    {
        "type": np.array([1, 2, 255], np.uint8),
        "radius": np.array([0.25, 1, 2], np.float32),
        "direction": np.array([[1, 2, 3], [4, 5, 6], [-7, -8, -9]], np.int16),
    },
)
BYTES = (
    struct.pack("<II9f4I", 3, 2, 0, 0.5, 1, -2, 3, 4e6, 5, 6, 7, 0, 1, 2, 1)
    + struct.pack("<3B", 1, 2, 255)
    + struct.pack("<3f", 0.25, 1, 2)
    + struct.pack("<9h", 1, 2, 3, 4, 5, 6, -7, -8, -9)
)


# ---------------------------------------------------------------------------------------------------------------- info


def test_members_are_read_and_unknown_ones_kept() -> None:
    given = {
        **TYPE,
        "transform": [8, 0, 0, 0.5, 0, 8, 0, 0, 0, 0, 40, -1],
        "vertex_attributes": [{**RADIUS, "data_type": "FLOAT32", "num_components": 1.0, "unit": "nm"}],
        "sharding": {**SHARDING.to_info(), "mine": 1},
        "segment_properties": "../properties",
        "spatial_index": {"chunk_size": [512, 512, 512]},  # cloud-volume's
        "mip": 2,
    }
    info = SkeletonsInfo.parse(given)
    (radius,) = info.vertex_attributes
    assert info.transform == (8, 0, 0, 0.5, 0, 8, 0, 0, 0, 0, 40, -1)
    assert (radius.id, radius.data_type, radius.num_components) == ("radius", "float32", 1)
    assert info.sharding == SHARDING
    assert info.segment_properties == "../properties"
    assert info.to_dict() == {**given, "vertex_attributes": [{**RADIUS, "unit": "nm"}]}


def test_only_the_type_is_required() -> None:
    info = SkeletonsInfo.parse({**TYPE, "sharding": None, "vertex_attributes": None, "spatial_index": None})
    assert info.transform == (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    assert (info.vertex_attributes, info.sharding, info.segment_properties) == ((), None, None)


def test_a_new_info_has_what_the_client_wants() -> None:
    assert SkeletonsInfo.of(ATTRIBUTES[1:2], None).to_dict() == {
        **TYPE,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "vertex_attributes": [RADIUS],
    }
    assert SkeletonsInfo.of((), SHARDING)["sharding"] == SHARDING.to_info()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "info: @type: expected 'neuroglancer_skeletons', got None: these are no skeletons"),
        ({"@type": "neuroglancer_legacy_mesh"}, "got 'neuroglancer_legacy_mesh'"),
        ({**TYPE, "transform": [1] * 11}, "info: transform: expected 12 finite numbers"),
        ({**TYPE, "vertex_attributes": {}}, "info: vertex_attributes: expected a list, got {}"),
        ({**TYPE, "vertex_attributes": [7]}, r"info: vertex_attributes\[0\]: expected an object, got 7"),
        ({**TYPE, "vertex_attributes": [{}]}, r"vertex_attributes\[0\].id, .*data_type, .*num_components: missing"),
        ({**TYPE, "vertex_attributes": [{**RADIUS, "id": ""}]}, r"\[0\].id: expected a non-empty string, got ''"),
        ({**TYPE, "vertex_attributes": [{**RADIUS, "data_type": "f4"}]}, r"\[0\].data_type: expected one of uint8,"),
        (
            {**TYPE, "vertex_attributes": [{**RADIUS, "num_components": 0}]},
            "num_components: expected an integer from 1",
        ),
        ({**TYPE, "vertex_attributes": [{**RADIUS, "num_components": 1.5}]}, "num_components: expected an integer"),
        (
            {**TYPE, "vertex_attributes": [RADIUS, RADIUS]},
            r"\[1\].id: expected another id than that .*\[0\]",
        ),
        ({**TYPE, "vertex_attributes": [RADIUS] * (MAX_ATTRIBUTES + 1)}, "vertex_attributes: expected at most 1024"),
        ({**TYPE, "sharding": {}}, "info: sharding.@type: expected"),
        ({**TYPE, "segment_properties": "/etc"}, "segment_properties: expected a relative path, got '/etc'"),
    ],
)
def test_an_invalid_info_is_refused_at_its_place(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInfoError, match=message):
        SkeletonsInfo.parse(given)


# --------------------------------------------------------------------------------------------------------- one skeleton


def test_a_skeleton_is_stored_as_the_specification_says() -> None:
    assert encode_skeleton(SKELETON, ATTRIBUTES) == BYTES


def test_a_skeleton_is_decoded_into_arrays_of_its_own() -> None:
    found = decode_skeleton(BYTES, ATTRIBUTES)
    for array, expected in (
        (found.vertices, SKELETON.vertices),
        (found.edges, SKELETON.edges),
        *zip(found.attributes.values(), SKELETON.attributes.values(), strict=True),
    ):
        assert array.dtype == expected.dtype
        assert array.flags.writeable
        np.testing.assert_array_equal(array, expected)
    assert list(found.attributes) == ["type", "radius", "direction"]


@pytest.mark.parametrize("vertices", [0, 1])
def test_a_skeleton_without_edges_or_vertices_is_one(vertices: int) -> None:
    data = struct.pack("<II", vertices, 0) + bytes(vertices * (12 + 1 + 4 + 6))
    found = decode_skeleton(data, ATTRIBUTES)
    assert (found.vertices.shape, found.edges.shape) == ((vertices, 3), (0, 2))
    assert found.attributes["direction"].shape == (vertices, 3)
    assert encode_skeleton(found, ATTRIBUTES) == data


@pytest.mark.parametrize("data", [b"", BYTES[:7], BYTES[:8], BYTES[:-1], BYTES + b"\0", b"\xff" * 8])
def test_another_length_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match=f"{len(data)}"):
        decode_skeleton(data, ATTRIBUTES)


def test_a_wrong_length_names_the_attributes_that_info_has() -> None:
    named = r"take 93 bytes, and there are 94; .* are type \(uint8\), radius \(float32\), direction \(int16 x 3\)$"
    with pytest.raises(CorruptDataError, match=named):
        decode_skeleton(BYTES + b"\0", ATTRIBUTES)
    with pytest.raises(CorruptDataError, match=r"the vertex_attributes of info are none$"):
        decode_skeleton(BYTES, ())


def test_an_edge_to_a_vertex_that_is_not_there_is_corrupt() -> None:
    damaged = BYTES[:44] + struct.pack("<I", 3) + BYTES[48:]
    with pytest.raises(CorruptDataError, match="an edge leads to vertex 3 of 3"):
        decode_skeleton(damaged, ATTRIBUTES)


def test_damaged_skeletons_are_corrupt_or_still_skeletons() -> None:
    chance = random.Random(8)
    corrupt = 0
    for _ in range(2000):
        damaged = bytearray(BYTES)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        damaged = damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])]
        try:
            decode_skeleton(bytes(damaged), ATTRIBUTES)
        except CorruptDataError:
            corrupt += 1
    assert 1000 < corrupt < 2000
