"""Manifests of meshes of several levels of detail, and where their vertices are."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import CorruptDataError, InvalidInfoError
from precomputed_fs.format.multilod_mesh import Level, Manifest, MultilodInfo, z_order

if TYPE_CHECKING:
    from collections.abc import Callable

INFO = {
    "@type": "neuroglancer_multilod_draco",
    "vertex_quantization_bits": 10,
    "transform": [2, 0, 0, 100, 0, 1, 0, 0, 0, 0, -1, 0],
    "lod_scale_multiplier": 1.5,
}
MANIFEST = Manifest(
    cell=(8, 8, 16),
    origin=(-4, 0, 1),
    levels=(
        Level(1, (0, 0, 0), np.array([[0, 0, 0], [1, 0, 0], [3, 3, 1]], np.uint32), np.array([5, 0, 7], np.uint32)),
        Level(2, (0.5, 0, 0), np.array([[0, 0, 0], [1, 1, 0]], np.uint32), np.array([2, 3], np.uint32)),
    ),
)


def test_a_manifest_is_what_the_specification_says() -> None:
    expected = struct.pack(
        "<6fI2f6f2I9I3I6I2I",
        *(8, 8, 16, -4, 0, 1),
        2,
        *(1, 2),
        *(0, 0, 0, 0.5, 0, 0),
        *(3, 2),
        *(0, 1, 3, 0, 0, 3, 0, 0, 1),  # x of all cells, then y, then z
        *(5, 0, 7),
        *(0, 1, 0, 1, 0, 0),
        *(2, 3),
    )
    assert MANIFEST.to_bytes() == expected
    read = Manifest.from_bytes(expected)
    assert (read.cell, read.origin) == (MANIFEST.cell, MANIFEST.origin)
    for level, same in zip(read.levels, MANIFEST.levels, strict=True):
        assert (level.scale, level.offset) == (same.scale, same.offset)
        assert np.array_equal(level.positions, same.positions)
        assert np.array_equal(level.sizes, same.sizes)
    assert read.nbytes == 17
    assert [read.span(lod) for lod in range(2)] == [(0, 12), (12, 17)]


def test_cloud_volume_packs_and_reads_the_same_manifest() -> None:
    multilod = pytest.importorskip("cloudvolume.datasource.precomputed.mesh.multilod")
    read = multilod.MultiLevelPrecomputedMeshManifest.from_binary(MANIFEST.to_bytes(), segment_id=1)
    assert read.fragment_positions[0].tolist() == MANIFEST.levels[0].positions.tolist()
    read.fragment_offsets = [5, 0, 7, 2, 3]  # as igneous gives it
    assert read.to_binary() == MANIFEST.to_bytes()


def test_vertices_are_placed_as_the_specification_says() -> None:
    points = np.array([[0, 0, 0], [1023, 1023, 1023], [512, 0, 0]], np.float32)
    placed = MANIFEST.placed(1, 1, points, MultilodInfo.parse(INFO))
    x = -4 + 0.5 + 16 * np.array([1, 2, 1 + 512 / 1023])
    assert placed.dtype == np.float32
    assert placed == pytest.approx(np.column_stack([2 * x + 100, [16, 32, 16], [-1, -33, -1]]))


@pytest.mark.parametrize(("value", "bits"), [(-1, 10), (1024, 10), (np.nan, 16), (65536, 16)])
def test_a_vertex_outside_of_its_cell_is_refused(value: float, bits: int) -> None:
    info = MultilodInfo.parse(INFO | {"vertex_quantization_bits": bits})
    with pytest.raises(CorruptDataError, match=f"not from 0 to {2**bits - 1}"):
        MANIFEST.placed(0, 0, np.array([[0, value, 0]], np.float32), info)


def test_a_vertex_beyond_float32_is_refused() -> None:
    info = MultilodInfo.parse(INFO | {"transform": [1e300, 0, 0, 0, 0, 1e300, 0, 0, 0, 0, 1e300, 0]})
    with pytest.raises(CorruptDataError, match="farther away"):
        MANIFEST.placed(0, 0, np.array([[1023, 0, 0]], np.float32), info)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:27], "shorter than the 28"),
        (lambda data: data[:-4], "cannot list 5 fragments"),
        (lambda data: data + b"\0" * 4, "of 152 bytes cannot list 5 fragments"),
        (lambda data: data[:24] + b"\xff" * 4 + data[28:], "cannot have 4294967295 levels"),
        (lambda data: data[:24] + b"\x09\0\0\0" + data[28:], "cannot have 9 levels"),
        (lambda data: data[:60] + b"\xff" * 4 + data[64:], "cannot list 4294967297 fragments"),
        (lambda data: struct.pack("<f", np.inf) + data[4:], "not finite"),
    ],
)
def test_a_damaged_manifest_is_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(CorruptDataError, match=message):
        Manifest.from_bytes(damage(MANIFEST.to_bytes()))


def test_mutated_manifests_are_read_or_refused() -> None:
    data = MANIFEST.to_bytes()
    info = MultilodInfo.parse(INFO)
    for chance in map(random.Random, range(300)):
        changed = bytearray(data)
        for _ in range(3):
            changed[chance.randrange(len(changed))] = chance.choice([0, 1, 255, chance.randrange(256)])
        try:
            manifest = Manifest.from_bytes(bytes(changed))
            for lod in range(len(manifest.levels)):
                manifest.span(lod)
                manifest.placed(lod, 0, np.zeros((1, 3), np.float32), info)
        except (CorruptDataError, IndexError):  # a level without fragments has no first one
            continue


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertex_quantization_bits": 12}, "info: vertex_quantization_bits: expected 10 or 16, got 12"),
        ({"vertex_quantization_bits": True}, "vertex_quantization_bits: expected 10 or 16"),
        ({"transform": [1] * 11}, "info: transform: expected 12 finite numbers"),
        ({"transform": [10**400] * 12}, "info: transform: expected 12 finite numbers"),
        ({"lod_scale_multiplier": 0}, "info: lod_scale_multiplier: expected a positive number, got 0"),
        ({"lod_scale_multiplier": 10**400}, "lod_scale_multiplier: expected a positive number"),
        ({"sharding": {"@type": "x"}}, "info: sharding.@type: expected"),
        ({"@type": "neuroglancer_legacy_mesh"}, "these are no meshes of several levels"),
    ],
)
def test_an_invalid_info_names_the_member(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInfoError, match=message):
        MultilodInfo.parse(INFO | change)


def test_an_info_keeps_unknown_members_and_an_absent_transform_is_the_identity() -> None:
    info = MultilodInfo.parse({key: INFO[key] for key in INFO if key != "transform"} | {"mip": 0})
    assert info["mip"] == 0
    assert info.transform == (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)


def test_cells_are_ordered_along_the_z_curve_up_to_the_largest() -> None:
    cells = np.array([[2**32 - 1, 0, 0], [0, 0, 2**31], [1, 1, 1], [2, 0, 0], [0, 2**31, 0], [0, 0, 0]], np.uint32)

    def code(cell: tuple[int, int, int]) -> int:
        return sum((number >> bit & 1) << (3 * bit + axis) for axis, number in enumerate(cell) for bit in range(32))

    expected = sorted(range(len(cells)), key=lambda i: code(tuple(cells[i].tolist())))
    assert z_order(cells).tolist() == expected


def test_a_manifest_that_could_not_be_read_is_not_written() -> None:
    none = np.zeros((0, 3), np.uint32), np.zeros(0, np.uint32)
    for scale, shown in ((1e39, r"1e\+39"), (float("nan"), "nan")):
        with pytest.raises(ValueError, match=f"a manifest has lengths of float32, and cannot have {shown}"):
            Manifest((1, 1, 1), (0, 0, 0), (Level(1, (0, 0, 0), *none), Level(scale, (0, 0, 0), *none))).to_bytes()
