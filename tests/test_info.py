"""What `info` says of how a scale is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.grid import ChunkGrid
from precomputed_fs.info import ScaleLayout, parse_info, scale_layout

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


# ------------------------------------------------------------------------------------------------------------- parsing


def test_an_object_is_parsed() -> None:
    assert parse_info(b'{"scales": [], "mine": 1}') == {"scales": [], "mine": 1}


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"nul", b"[" * 100_000])
def test_what_is_not_json_is_an_error(text: bytes) -> None:
    with pytest.raises(InvalidInfoError, match=r"^info: expected JSON"):
        parse_info(text)


@pytest.mark.parametrize("text", [b"[]", b"null", b"3", b'"info"'])
def test_what_is_not_an_object_is_an_error(text: bytes) -> None:
    with pytest.raises(InvalidInfoError, match=r"^info: expected a JSON object, got "):
        parse_info(text)


# ------------------------------------------------------------------------------------------------------------- layouts


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
        ({"size": [1, 2, 3.0]}, "size"),
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
    assert str(caught.value).startswith(f"scales[1].{place}: expected ")


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
