"""How meshes are stored: beside a volume or alone, what stays of those that are there, and what is refused."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    AlreadyExistsError,
    InvalidInfoError,
    Mesh,
    create_meshes,
    open_meshes,
    open_volume,
)
from precomputed_fs.codecs.draco import require_draco
from precomputed_fs.format.multilod_mesh import Manifest
from tests.scene.mesh_samples import LEVELS, MESHES, SHARDS, ball, balls, merged, same_surface
from tests.scene.samples import LARGEST, labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.places import Place

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("DracoPy")

KINDS: dict[str, Any] = {"legacy": {}, "files": {"multiresolution": True}, "shards": {"sharding": SHARDS}}

each_kind = pytest.mark.parametrize("kind", KINDS)


# ------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("meshes", "options", "expected"),
    [
        ({1: ball(0)}, {}, "neuroglancer_legacy_mesh"),
        ({1: [ball(0)]}, {}, "neuroglancer_legacy_mesh"),
        ({1: [ball(1), ball(0)]}, {}, "neuroglancer_multilod_draco"),
        ({1: ball(0)}, {"multiresolution": True}, "neuroglancer_multilod_draco"),
        ({1: ball(0)}, {"sharding": True}, "neuroglancer_multilod_draco"),
        ({1: ball(0)}, {"fragment_size": "1 um"}, "neuroglancer_multilod_draco"),
        ({1: ball(0)}, {"vertex_quantization_bits": 10}, "neuroglancer_multilod_draco"),
    ],
)
def test_the_format_is_that_which_the_meshes_and_options_need(
    tmp_path: Path, meshes: Any, options: Any, expected: str
) -> None:
    made = create_meshes(tmp_path, meshes, **options)
    assert (made.info or {})["@type"] == expected
    assert same_surface(made[1], ball(0) if isinstance(meshes[1], Mesh) else meshes[1][0], 5)


def test_the_info_of_meshes_with_levels_is_that_of_the_specification(tmp_path: Path) -> None:
    create_meshes(tmp_path, LEVELS, vertex_quantization_bits=10, sharding=SHARDS)
    assert json.loads((tmp_path / "info").read_text()) == {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": 10,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "lod_scale_multiplier": 1,
        "sharding": SHARDS,
    }


def test_the_manifest_of_a_ball_lists_its_cells(tmp_path: Path) -> None:
    create_meshes(tmp_path, {1: balls(4, 3)}, fragment_size=1000)
    manifest = Manifest.from_bytes((tmp_path / "1.index").read_bytes())
    assert manifest.cell == (1000, 1000, 1000)
    assert manifest.origin == tuple(ball(4).bounds[0].tolist())
    fine, coarse = (level.positions.tolist() for level in manifest.levels)
    assert {tuple(cell) for cell in coarse} == {tuple(np.array(cell) // 2) for cell in fine}
    assert max(max(cell) for cell in fine) == 3
    assert manifest.nbytes == (tmp_path / "1").stat().st_size


def test_meshes_of_other_libraries_are_stored(tmp_path: Path) -> None:
    given = ball(1).to_trimesh()
    assert create_meshes(tmp_path, {1: given})[1] == ball(1)


def test_levels_are_stored_in_a_folder_whose_coordinates_are_voxels(tmp_path: Path) -> None:
    """As igneous writes them: the transform is the size of a voxel."""
    info = {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": 16,
        "transform": [4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 40, 0],
        "lod_scale_multiplier": 2,
    }
    (tmp_path / "info").write_text(json.dumps(info))
    meshes = create_meshes(tmp_path, {1: balls(3, 2)}, fragment_size=(1000, 1000, 2000), level_scales=[100, 200])
    manifest = Manifest.from_bytes((tmp_path / "1.index").read_bytes())
    assert manifest.cell == (250, 250, 50)
    assert [level.scale for level in meshes.levels(1)] == pytest.approx([100, 200])
    assert same_surface(meshes[1], ball(3), 0.5)


# --------------------------------------------------------------------------------------------------- beside, and again


def test_info_names_the_folder_of_meshes(tmp_path: Path) -> None:
    volume = labels(tmp_path / "volume")
    volume.store_meshes({1: ball(0)}, folder="../beside")
    assert open_volume(tmp_path / "volume").info["mesh"] == "../beside"
    volume.store_meshes({7: ball(1)})
    assert open_volume(tmp_path / "volume").meshes.get([1, 7]) == {1: ball(0), 7: ball(1)}
    with pytest.raises(AlreadyExistsError, match=r"names the folder '../beside' as mesh: pass folder='../beside'"):
        volume.store_meshes(MESHES, folder="other")


def test_no_meshes_are_not_named(tmp_path: Path) -> None:
    volume = labels(tmp_path)
    volume.store_meshes({}, multiresolution=True)
    assert "mesh" not in open_volume(tmp_path).info
    volume.store_meshes({1: ball(0)})
    volume.store_meshes({})
    assert list(volume.meshes) == [1]


@pytest.mark.parametrize("folder", ["mesh", "../beside"])
def test_a_folder_without_info_gets_one_and_is_looked_at_again(tmp_path: Path, folder: str) -> None:
    labels(tmp_path / "volume")
    info = json.loads((tmp_path / "volume/info").read_text())
    (tmp_path / "volume/info").write_text(json.dumps({**info, "mesh": folder}))
    with open_volume(tmp_path / "volume") as volume:
        assert 1 not in volume.meshes
        volume.store_meshes(LEVELS)
        assert volume.meshes.has_levels
        assert 1 in volume.meshes


@each_kind
def test_writers_of_one_new_folder_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    create_meshes(tmp_path, {7: ball(1)}, **KINDS[kind])
    monkeypatch.setattr("precomputed_fs.scene.folder.Folder.info_if_any", lambda _: None)  # as before the other began
    other = "files" if kind == "legacy" else "legacy"
    create_meshes(tmp_path, {1: ball(0)}, **KINDS[kind])
    with pytest.raises(AlreadyExistsError, match=r"is of .*meshes"):
        create_meshes(tmp_path, {2: ball(0)}, **{"multiresolution": False, **KINDS[other]})
    monkeypatch.undo()
    assert list(open_meshes(tmp_path)) == [1, 7]


@pytest.mark.parametrize(("kind", "puts"), [("legacy", 2), ("files", 2), ("shards", 0)])
def test_a_mesh_takes_two_writes_and_in_shards_none_of_its_own(
    make_pyramid: Callable[[str], Place], kind: str, puts: int
) -> None:
    place = make_pyramid("s3")
    options: Any = {"storage_options": place.storage_options}
    create_meshes(place.url, MESHES, **KINDS[kind], **options)
    place.server.log.clear()
    some = {segment: ball(0) for segment in range(10, 20)}
    create_meshes(place.url, some, overwrite=True, **KINDS[kind], **options)
    shards = {entry.path for entry in place.server.log.entries() if entry.path.endswith(".shard")}
    assert place.server.log.methods().count("PUT") == 10 * puts + len(shards)


@each_kind
def test_an_existing_mesh_is_replaced_only_if_asked(pyramid: Place, kind: str) -> None:
    options: Any = {"storage_options": pyramid.storage_options}
    volume = labels(pyramid.url, **options)
    volume.store_meshes(MESHES, **KINDS[kind])
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        volume.store_meshes({7: ball(3)})
    volume.store_meshes({7: ball(3)}, overwrite=True)
    meshes = open_volume(pyramid.url, **options).meshes
    assert same_surface(meshes[7], ball(3), 1)
    for segment in (1, 1 << 40, LARGEST):
        assert same_surface(meshes[segment], MESHES[segment], 1)


def test_the_fragments_of_a_mesh_that_is_replaced_are_deleted_and_no_others(tmp_path: Path) -> None:
    fragments = ["5:0:a", "5:0:b", "shared", "6:0:1"]
    (tmp_path / "5:0").write_text(json.dumps({"fragments": fragments}))
    for name in fragments:
        (tmp_path / name).write_bytes(b"\0" * 4)
    with pytest.raises(AlreadyExistsError, match="5:0 exists"):
        create_meshes(tmp_path, {5: ball(0)})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["5:0", "info", *fragments])
    create_meshes(tmp_path, {5: ball(0)}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5:0", "5:0:1", "6:0:1", "info", "shared"]


@each_kind
def test_a_folder_has_meshes_of_one_kind(tmp_path: Path, kind: str) -> None:
    create_meshes(tmp_path, MESHES, **KINDS[kind])
    others: list[Any] = [{"sharding": {**SHARDS, "shard_bits": 5}}]
    others += [{"multiresolution": True}, {"vertex_quantization_bits": 16}] if kind == "legacy" else []
    others += [{"multiresolution": False}, {"vertex_quantization_bits": 10}] if kind != "legacy" else []
    others += [{"sharding": True}] if kind == "files" else []
    others += [{"sharding": False}] if kind == "shards" else []
    for options in others:
        with pytest.raises(AlreadyExistsError, match=r"info is of .*: choose another folder, or leave the option out"):
            create_meshes(tmp_path, {9: ball(0)}, **options)
    assert 9 in create_meshes(tmp_path, {9: ball(0)}, **KINDS[kind])


def test_several_levels_do_not_fit_into_a_folder_of_legacy_meshes(tmp_path: Path) -> None:
    create_meshes(tmp_path, MESHES)
    with pytest.raises(ValueError, match=r"mesh 9 has 2 levels of detail, and .*info is of legacy meshes"):
        create_meshes(tmp_path, {9: balls(1, 0)})


def test_a_block_of_the_volume_writes_each_shard_once(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("s3")
    one = {**SHARDS, "minishard_bits": 0, "shard_bits": 0}
    with labels(place.url, storage_options=place.storage_options) as volume:
        place.server.log.clear()
        for segment, levels in LEVELS.items():
            volume.store_meshes({segment: levels}, sharding=one)
        waiting = volume.meshes.get([1], lod=1)[1]  # not flushed yet
    written = [entry.path for entry in place.server.log.entries() if entry.method == "PUT" and "/mesh" in entry.path]
    assert [path.rpartition("/")[2] for path in written] == ["info", "0.shard"]
    stored = open_volume(place.url, storage_options=place.storage_options).meshes
    assert stored.get([1], lod=1)[1] == waiting


def test_shards_that_are_added_to_are_as_those_that_are_written_at_once(tmp_path: Path) -> None:
    create_meshes(tmp_path / "at once", LEVELS, sharding=SHARDS)
    for segment, levels in LEVELS.items():
        create_meshes(tmp_path / "added", {segment: levels}, sharding=SHARDS)
    for path in (tmp_path / "at once").iterdir():
        assert (tmp_path / "added" / path.name).read_bytes() == path.read_bytes()


def test_any_number_of_meshes_comes_from_a_generator(tmp_path: Path) -> None:
    given = ball(0)

    def made() -> Iterator[tuple[int, Mesh]]:
        yield from ((segment, given) for segment in range(500))

    assert len(create_meshes(tmp_path, made())) == 500
    with pytest.raises(TypeError, match="sharding=True has to know how many there are: pass a mapping"):
        create_meshes(tmp_path / "other", made(), sharding=True)


# ------------------------------------------------------------------------------------------------------------- refused


def huge() -> Mesh:
    """Make a mesh of more triangles than there is memory for."""
    mesh = ball(0)
    mesh.faces = np.broadcast_to(mesh.faces[:1], ((1 << 32) // 3 + 1, 3))
    return mesh


BAD_MESHES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no triangles": (lambda: {5: Mesh([[0, 0, 0]], [])}, ValueError, "mesh 5: it has no triangles"),
    "NaN": (lambda: {5: Mesh([[0, 0, np.nan]] * 3, [[0, 1, 2]])}, ValueError, "mesh 5: .* not a finite number"),
    "an empty level": (lambda: {5: [ball(0), Mesh([], [])]}, ValueError, "mesh 5, level 1: it has no triangles"),
    "no levels": (lambda: {5: []}, ValueError, "mesh 5: expected 1 to 32 levels of detail, got 0"),
    "many levels": (lambda: {5: [ball(0)] * 33}, ValueError, "mesh 5: expected 1 to 32 levels of detail, got 33"),
    "too many indices": (lambda: {5: huge()}, ValueError, "mesh 5: it has 4294967298 indices, more than 32 bits"),
    "twice": (lambda: [(5, ball(0)), (5, ball(0))], ValueError, "segment 5 is given twice"),
    "a large id": (lambda: {1 << 64: ball(0)}, ValueError, "expected a segment id of at most"),
    "a text": (lambda: {"a": ball(0)}, TypeError, "expected a segment id"),
    "no mesh": (lambda: {5: 7}, TypeError, "mesh 5: expected a mesh with vertices and faces, got 7"),
    "no vertices": (
        lambda: {5: SimpleNamespace(vertices=[], faces=[[0, 0, 0]])},
        ValueError,
        "mesh 5: faces: expected vertices",
    ),
    "beyond float32": (
        lambda: {5: Mesh([[0, 0, 1e300]] * 3, [[0, 1, 2]])},
        ValueError,
        "mesh 5: .* not a finite number",
    ),
    "no mapping": (lambda: 5, TypeError, "expected a mapping of segment ids to meshes"),
}


@pytest.mark.parametrize("case", BAD_MESHES)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing_behind(tmp_path: Path, case: str) -> None:
    make, error, message = BAD_MESHES[case]
    with pytest.raises(error, match=message):
        create_meshes(tmp_path, make())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("5") and case != "twice"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vertex_quantization_bits": 12}, "vertex_quantization_bits: expected one of 10, 16, got 12"),
        ({"multiresolution": False, "sharding": True}, "sharding: legacy meshes have no such option"),
        ({"multiresolution": False, "fragment_size": 8}, "fragment_size: legacy meshes have no such option"),
        ({"level_scales": [2, 1]}, r"level_scales: expected positive lengths that do not decrease, got \[2, 1\]"),
        ({"level_scales": []}, "level_scales: expected positive lengths"),
        ({"level_scales": [1]}, "mesh 5: it has 2 levels, and level_scales are 1"),
        ({"fragment_size": -1}, "expected positive lengths, got -1"),
        ({"fragment_size": 1e-6}, "mesh 5: fragment_size: expected fewer than"),
        ({"fragment_size": "1 km"}, "km"),
        (
            {"fragment_size": "1 m", "vertex_quantization_bits": 10},
            "mesh 5: no triangle is left when vertices are round",
        ),
    ],
)
def test_options_that_are_mistaken_are_explained(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_meshes(tmp_path, {5: balls(1, 0)}, **options)
    assert not (tmp_path / "5.index").exists()


def test_arrays_that_were_changed_are_checked_again(tmp_path: Path) -> None:
    made = ball(0)
    made.vertices = made.vertices[:5]
    with pytest.raises(ValueError, match="mesh 1: faces: expected vertices from 0 to 4"):
        create_meshes(tmp_path, {1: [ball(0), made]})


def test_a_level_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    flat = Mesh([[0, 0, 0], [0, 0, 0], [80, 80, 80]], [[0, 1, 2]])
    with pytest.raises(ValueError, match=r"mesh 5: no triangle of level 1 is left .* or leave the level out"):
        create_meshes(tmp_path, {5: [ball(0), flat]})
    assert not (tmp_path / "5.index").exists()


def test_a_sharding_that_is_mistaken_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidInfoError, match="sharding"):
        create_meshes(tmp_path, {5: ball(0)}, sharding={"@type": "x"})


def test_without_draco_such_meshes_are_neither_read_nor_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = create_meshes(tmp_path / "stored", LEVELS)
    require_draco.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[mesh\]'"):
        stored[1]
    assert 1 in stored
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[mesh\]'"):
        create_meshes(tmp_path / "new", LEVELS)
    assert not (tmp_path / "new").exists()
    assert create_meshes(tmp_path / "new", MESHES).get(MESHES) == MESHES


def test_no_meshes_make_an_empty_folder(tmp_path: Path) -> None:
    assert list(create_meshes(tmp_path, {})) == []
    assert open_meshes(tmp_path).info is None


def test_a_vertex_without_triangles_takes_no_precision_from_the_others(tmp_path: Path) -> None:
    mesh = ball(2, (1e7, 2e7, 5e6), 100)
    beyond = Mesh([[0, 0, 0], *mesh.vertices], mesh.faces + np.uint32(1))
    found = create_meshes(tmp_path, {1: mesh, 2: beyond}, multiresolution=True)
    assert found[2] == found[1]


def test_large_coordinates_keep_their_precision(tmp_path: Path) -> None:
    """Manifests have float32; the origin is one, so that vertices are off by half a step of the quantization."""
    mesh = ball(3, (1e7, 2e7, 5e6), 3000)
    found = create_meshes(tmp_path, {1: [mesh, ball(2, (1e7, 2e7, 5e6), 3000)]})[1]
    assert merged(found).volume == pytest.approx(merged(mesh).volume, rel=1e-3)
    assert np.abs(found.bounds - mesh.bounds).max() <= 2


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_levels_have_finite_scales(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ValueError, match="level_scales: expected positive lengths that do not decrease"):
        create_meshes(tmp_path, {5: ball(0)}, level_scales=[scale])
