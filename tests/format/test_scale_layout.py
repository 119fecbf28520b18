"""What `info` says of how the chunks of a scale are stored."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.grid import ChunkGrid
from precomputed_fs.format.scale_layout import ScaleLayout, scale_layout

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "identity",
    "minishard_bits": 2,
    "shard_bits": 3,
}


def info(data_type: Any = "uint16", num_channels: Any = 3, **scale: Any) -> dict[str, Any]:
    """Return an `info` with a scale "other" before the one that is asked for, "key"."""
    given = {
        "key": "key",
        "size": [100, 80, 60],
        "voxel_offset": [-5, 0, 7],
        "chunk_sizes": [[64, 32, 16]],
        "encoding": "raw",
    }
    scales = [{"key": "other"}, {**given, **scale}]
    return {"data_type": data_type, "num_channels": num_channels, "scales": scales}


def test_a_sharded_scale_has_its_sharding_and_its_grid() -> None:
    layout = scale_layout(info(sharding=SHARDING), "key")
    assert layout.raw_voxel_bytes == 6
    assert layout.sharding is not None
    assert (layout.sharding.preshift_bits, layout.sharding.hash) == (1, "identity")
    assert (layout.sharding.minishard_bits, layout.sharding.shard_bits) == (2, 3)
    assert layout.grid == ChunkGrid(size=(100, 80, 60), chunk_size=(64, 32, 16), voxel_offset=(-5, 0, 7))


@pytest.mark.parametrize("scale", [{}, {"sharding": None}])
def test_a_scale_without_sharding_or_with_null_is_not_sharded(scale: dict[str, Any]) -> None:
    assert scale_layout(info(**scale), "key") == ScaleLayout(6)


@pytest.mark.parametrize(
    "other", [{}, {"scales": None}, {"scales": {}}, {"scales": []}, {"scales": ["key", None, {"key": "another"}]}]
)
def test_a_scale_that_is_not_listed_is_stored_as_by_default(other: dict[str, Any]) -> None:
    assert scale_layout(other, "key") == ScaleLayout()


@pytest.mark.parametrize("voxel_offset", [None, [0, 0, 0]])
def test_the_voxel_offset_is_zero_by_default(voxel_offset: Any) -> None:
    grid = scale_layout(info(sharding=SHARDING, voxel_offset=voxel_offset), "key").grid
    assert grid is not None
    assert grid.voxel_offset == (0, 0, 0)


def test_sizes_may_be_huge() -> None:
    grid = scale_layout(info(sharding=SHARDING, size=[2**40, 2**50, 1]), "key").grid
    assert grid is not None
    assert grid.shape == (2**34, 2**45, 1)


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"sharding": {}}, "sharding.@type"),
        ({"sharding": []}, "sharding"),
        ({"sharding": False}, "sharding"),
        ({"sharding": {**SHARDING, "hash": "md5"}}, "sharding.hash"),
        ({"size": [1, 2]}, "size"),
        ({"size": [1, 2, 0]}, "size"),
        ({"size": [1, 2, 3.5]}, "size"),
        ({"size": [1, 2, True]}, "size"),
        ({"size": None}, "size"),
        ({"chunk_sizes": []}, "chunk_sizes"),
        ({"chunk_sizes": None}, "chunk_sizes"),
        ({"chunk_sizes": [[64, 64, 64], [32, 32, 32]]}, "chunk_sizes"),
        ({"chunk_sizes": [[64, 64]]}, "chunk_sizes[0]"),
        ({"chunk_sizes": [[64, 64, -64]]}, "chunk_sizes[0]"),
        ({"voxel_offset": [0, 0]}, "voxel_offset"),
        ({"voxel_offset": "0"}, "voxel_offset"),
    ],
    ids=str,
)
def test_what_a_sharded_scale_cannot_be_is_an_error_at_its_place(changed: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInfoError) as caught:
        scale_layout(info(**{"sharding": SHARDING, **changed}), "key")
    assert str(caught.value).startswith(f"info: scales[1].{place}: expected ")


@pytest.mark.parametrize("name", ["size", "chunk_sizes"])
def test_what_a_sharded_scale_needs_may_not_be_missing(name: str) -> None:
    given = info(sharding=SHARDING)
    del given["scales"][1][name]
    with pytest.raises(InvalidInfoError, match=rf"^info: scales\[1\]\.{name}: missing$"):
        scale_layout(given, "key")
    with pytest.raises(InvalidInfoError, match=rf"^s3://b/info: scales\[1\]\.{name}: missing$"):
        scale_layout(given, "key", "s3://b/info")


def test_a_sharding_that_is_not_known_is_said_before_what_is_missing() -> None:
    given = {"scales": [{"key": "key", "sharding": {"@type": "other"}}]}
    with pytest.raises(InvalidInfoError, match=r"^info: scales\[0\]\.sharding\.@type: .*'other'; .*size, .*: missing$"):
        scale_layout(given, "key")


def test_a_sharded_scale_is_not_asked_for_more_than_its_shards_need() -> None:
    needless = {"resolution": "1mm", "encoding": 3, "hidden": "perhaps", "\ud800": math.nan}
    assert scale_layout(info(sharding=SHARDING, **needless), "key").sharding is not None


def test_a_sharding_knows_how_many_chunk_ids_there_are() -> None:
    sharding = scale_layout(info(sharding=SHARDING), "key").sharding
    assert sharding is not None
    assert sharding.scale_chunks == 2 * 4 * 4


def test_sharding_nested_deeper_than_python_can_show_is_an_error() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(InvalidInfoError, match=r"^info: scales\[1\]\.sharding: expected less depth, got "):
        scale_layout(info(sharding={**SHARDING, "hash": nested}), "key")
    assert scale_layout(info(nested, encoding=nested), "key") == ScaleLayout()


def test_nothing_is_asked_of_an_unsharded_scale() -> None:
    broken = info(size=None, chunk_sizes=[[1], 2], voxel_offset="0")
    assert scale_layout(broken, "key") == ScaleLayout(6)


# ---------------------------------------------------------------------------------------------------------- raw voxels


@pytest.mark.parametrize(
    ("data_type", "channels", "expected"),
    [("uint8", 1, 1), ("int16", 2, 4), ("FLOAT32", 3, 12), ("uint64", 1, 8), ("float64", 1, 8)],
)
def test_a_raw_voxel_has_the_bytes_of_its_channels(data_type: str, channels: int, expected: int) -> None:
    assert scale_layout(info(data_type, channels, encoding="Raw"), "key").raw_voxel_bytes == expected


@pytest.mark.parametrize(
    "given",
    [
        info(encoding="jpeg"),
        info(encoding=None),
        info("uint128"),
        info(None),
        info(num_channels=None),
        info(num_channels="3"),
    ],
    ids=json.dumps,
)
def test_the_bytes_of_a_voxel_are_unknown_where_info_does_not_say_them(given: dict[str, Any]) -> None:
    assert scale_layout(given, "key").raw_voxel_bytes is None
