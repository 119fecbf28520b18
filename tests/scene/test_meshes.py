"""How the meshes of segments are found and read: legacy ones, and those with levels of detail."""

from __future__ import annotations

import json
import pickle
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    CorruptDataError,
    InvalidInfoError,
    Mesh,
    NotFoundError,
    create_meshes,
    open_meshes,
    open_volume,
)
from precomputed_fs.errors import DataAccessError
from precomputed_fs.format.legacy_mesh import pack_fragment, parse_manifest
from precomputed_fs.format.mesh_geometry import Geometry
from precomputed_fs.format.multilod_mesh import Manifest
from tests.scene.mesh_samples import LEVELS, MESHES, SHARDS, ball, balls, merged, same_surface
from tests.scene.samples import LARGEST, labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place

pytest.importorskip("trimesh")
pytest.importorskip("DracoPy")

ONE_SHARD = {**SHARDS, "hash": "identity", "minishard_bits": 0, "shard_bits": 0}

each_sharding = pytest.mark.parametrize("sharding", [None, SHARDS], ids=["files", "shards"])


def put_legacy(folder: Path, segment: int, parts: list[Mesh]) -> None:
    """Write a legacy mesh of several fragments."""
    folder.mkdir(exist_ok=True)
    names = [f"{segment}:0:{index}" for index in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(pack_fragment(Geometry(part.vertices, part.faces)))
    (folder / f"{segment}:0").write_text(json.dumps({"fragments": names}))


# ------------------------------------------------------------------------------------------------------- legacy meshes


def test_legacy_meshes_are_read_as_they_were_stored(pyramid: Place) -> None:
    options: Any = {"storage_options": pyramid.storage_options}
    labels(pyramid.url, **options).store_meshes(MESHES)
    meshes = open_volume(pyramid.url, **options).meshes
    assert {segment: meshes[segment] for segment in MESHES} == MESHES
    assert meshes.get(reversed(MESHES)) == MESHES
    assert dict(meshes.stream(np.array([*MESHES], np.uint64), in_flight=1)) == MESHES
    assert meshes.ids.tolist() == sorted(MESHES)
    assert [segment in meshes for segment in (1, LARGEST, 8)] == [True, True, False]
    assert meshes.levels(7) == []


def test_a_folder_without_info_has_legacy_meshes_of_any_number_of_fragments(tmp_path: Path) -> None:
    parts = [ball(0, (1000 * x, 0, 0), 10) for x in range(200)]
    put_legacy(tmp_path, 5, parts)
    mesh = open_meshes(tmp_path)[5]
    assert np.array_equal(mesh.vertices, np.concatenate([part.vertices for part in parts]))
    assert merged(mesh).body_count == 200


def test_a_manifest_without_fragments_is_a_mesh_without_triangles(tmp_path: Path) -> None:
    put_legacy(tmp_path, 5, [])
    assert open_meshes(tmp_path)[5] == Mesh([], [])


def test_a_fragment_of_draco_is_decoded(tmp_path: Path) -> None:
    """Igneous writes these with ``encoding="draco"``: positions in nanometres, quantized by Draco itself."""
    import DracoPy

    mesh = ball(2)
    put_legacy(tmp_path, 5, [mesh])
    (tmp_path / "5:0:0").write_bytes(DracoPy.encode(mesh.vertices, mesh.faces, quantization_bits=16))
    assert same_surface(open_meshes(tmp_path)[5], mesh, 0.1)


def test_an_absent_mesh_is_not_found(tmp_path: Path) -> None:
    meshes = create_meshes(tmp_path, MESHES)
    with pytest.raises(NotFoundError, match=rf"{tmp_path}/2:0: segment 2 has no mesh"):
        meshes[2]
    with pytest.raises(NotFoundError, match=rf"{tmp_path}: 2 segments have no mesh: 2, 5; missing='skip' leaves"):
        meshes.get([2, 7, 5])
    with pytest.raises(NotFoundError, match="segment 2 has no mesh"):
        meshes.levels(2)
    assert meshes.get([2, 7, 5], missing="skip") == {7: MESHES[7]}


def test_a_fragment_that_is_not_there_is_no_absent_mesh(tmp_path: Path) -> None:
    put_legacy(tmp_path, 5, [ball(0), ball(1)])
    (tmp_path / "5:0:1").unlink()
    with pytest.raises(CorruptDataError, match=rf"{tmp_path}/5:0 lists a fragment that is not there: {tmp_path}/5:0:1"):
        open_meshes(tmp_path).get([5], missing="skip")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "%2e%2e/secret"])
def test_a_manifest_leads_to_no_file_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(pack_fragment(Geometry(ball(0).vertices, ball(0).faces)))
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh/5:0").write_text(json.dumps({"fragments": [name]}))
    with pytest.raises(CorruptDataError, match="mesh/5:0: the manifest: fragments: expected files of this folder"):
        open_meshes(tmp_path / "mesh")[5]


def test_legacy_meshes_have_one_level(tmp_path: Path) -> None:
    meshes = create_meshes(tmp_path, MESHES)
    assert meshes.get([7], lod=-1) == {7: MESHES[7]}
    with pytest.raises(IndexError, match="legacy meshes have one level of detail, 0; got lod=1"):
        meshes.get([7], lod=1)


# ---------------------------------------------------------------------------------------------------- levels of detail


@each_sharding
def test_each_level_is_read_as_it_was_stored(pyramid: Place, sharding: Any) -> None:
    options: Any = {"storage_options": pyramid.storage_options}
    labels(pyramid.url, **options).store_meshes(LEVELS, sharding=sharding)
    meshes = open_volume(pyramid.url, **options).meshes
    assert meshes.ids.tolist() == sorted(LEVELS)
    assert [segment in meshes for segment in (1, LARGEST, 8)] == [True, True, False]
    for segment, levels in LEVELS.items():
        size = np.ptp(levels[0].bounds, axis=0).max()
        assert len(meshes.levels(segment)) == len(levels)
        for lod, mesh in enumerate(levels):
            found = meshes.get([segment], lod=lod)[segment]
            assert merged(found, 0 if size > 1000 else 2).volume == pytest.approx(merged(mesh, 2).volume, rel=1e-3)
            assert np.abs(found.bounds - mesh.bounds).max() <= size / 65535
        assert meshes[segment] == meshes.get([segment])[segment]
        assert meshes.get([segment], lod=-1) == meshes.get([segment], lod=len(levels) - 1)


@each_sharding
def test_fragments_without_triangles_are_left_out(tmp_path: Path, sharding: Any) -> None:
    """They stand for cells of a level in which only another level has triangles."""
    fine = ball(3, (5500, 6500, 7500), 800)
    meshes = create_meshes(tmp_path, {1: [fine, ball(1, radius=2600)]}, sharding=sharding)
    stored = meshes.pyramid.store.run(meshes.values.find(1))
    assert stored is not None
    assert 0 in Manifest.from_bytes(stored.decoded()).levels[0].sizes
    assert same_surface(meshes[1], fine, 1)


@each_sharding
def test_the_levels_of_a_mesh_are_described(tmp_path: Path, sharding: Any) -> None:
    meshes = create_meshes(tmp_path, {1: balls(3, 2, 1)}, sharding=sharding, level_scales=[100, "0.2 um", 450])
    levels = meshes.levels(1)
    assert [level.scale for level in levels] == [100, 200, 450]
    assert [level.fragments for level in levels] == [56, 8, 1]
    assert levels[0].nbytes > levels[1].nbytes > levels[2].nbytes > 0


@each_sharding
def test_a_level_that_a_mesh_does_not_have_is_refused(tmp_path: Path, sharding: Any) -> None:
    meshes = create_meshes(tmp_path, {1: balls(2, 1)}, sharding=sharding)
    for lod in (2, -3):
        with pytest.raises(IndexError, match=rf"1.index: its levels of detail are 0, the finest, to 1; got lod={lod}"):
            meshes.get([1], lod=lod)


@each_sharding
def test_an_absent_mesh_with_levels_is_not_found(tmp_path: Path, sharding: Any) -> None:
    meshes = create_meshes(tmp_path, LEVELS, sharding=sharding, multiresolution=True)
    name = "/2.index" if sharding is None else ""
    with pytest.raises(NotFoundError, match=rf"{tmp_path}{name}: segment 2 has no mesh"):
        meshes[2]


def test_a_transform_leads_to_nanometres(tmp_path: Path) -> None:
    meshes = create_meshes(tmp_path, {1: balls(2, 1)})
    stored = meshes[1].vertices
    info = {**(meshes.info or {}), "transform": [0, -8, 0, 100, 8, 0, 0, 0, 0, 0, 40, -0.5]}
    meshes.folder.store_info(info, overwrite=True)
    expected = np.stack([100 - 8 * stored[:, 1], 8 * stored[:, 0], 40 * stored[:, 2] - 0.5], axis=1)
    np.testing.assert_allclose(open_meshes(tmp_path)[1].vertices, expected, rtol=1e-6)


def test_meshes_say_what_they_are(tmp_path: Path) -> None:
    assert repr(create_meshes(tmp_path / "a", MESHES)) == f"<Meshes {tmp_path}/a: legacy>"
    sharded = create_meshes(tmp_path / "b", MESHES, sharding=True)
    assert repr(sharded) == f"<Meshes {tmp_path}/b: several levels of detail, sharded>"
    assert sharded.has_levels


@pytest.mark.parametrize("options", [{}, {"sharding": SHARDS}])
def test_meshes_can_be_pickled(tmp_path: Path, options: Any) -> None:
    labels(tmp_path).store_meshes(MESHES, **options)
    volume = open_volume(tmp_path)
    mesh = volume.meshes[7]
    assert pickle.loads(pickle.dumps(volume.meshes))[7] == mesh
    assert pickle.loads(pickle.dumps(volume)).meshes[7] == mesh


# ---------------------------------------------------------------------------------------------------------------- info


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"@type": "meshes"}, "info: @type: expected 'neuroglancer_legacy_mesh' or 'neuroglancer_multilod_draco'"),
        ({"@type": "neuroglancer_multilod_draco"}, "info: vertex_quantization_bits: missing"),
        ({"scales": []}, r"got None; a volume's meshes are open_volume\(url\).meshes"),
    ],
)
def test_an_info_of_something_else_is_explained(tmp_path: Path, info: Any, message: str) -> None:
    (tmp_path / "info").write_text(json.dumps(info))
    with pytest.raises(InvalidInfoError, match=message):
        open_meshes(tmp_path)


def test_a_volume_whose_info_names_no_meshes_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"info names no meshes: vol.store_meshes\(...\) stores some, and open_meshes"
    ):
        labels(tmp_path).meshes  # noqa: B018


# ------------------------------------------------------------------------------------------------------------ requests


def test_a_legacy_mesh_takes_its_manifest_and_its_fragments(
    make_pyramid: Callable[[str], Place], tmp_path: Path
) -> None:
    place = make_pyramid("s3")
    put_legacy(tmp_path / "mesh", 5, balls(1, 2, 0))
    for path in (tmp_path / "mesh").iterdir():
        place.put(f"mesh/{path.name}", path.read_bytes())
    meshes = open_meshes(f"{place.url}/mesh", storage_options=place.storage_options)
    place.server.log.clear()
    assert len(meshes[5].vertices) == 42 + 162 + 12
    assert place.server.log.methods() == ["GET"] * 4


@pytest.mark.parametrize(("sharding", "requests"), [(None, [2, 2]), (ONE_SHARD, [4, 2])], ids=["files", "shards"])
@pytest.mark.parametrize("lod", [0, 1])
def test_a_level_takes_its_manifest_and_one_range(
    make_pyramid: Callable[[str], Place], sharding: Any, requests: list[int], lod: int
) -> None:
    """Of shards, the manifest takes three requests at first and then one, like a chunk."""
    place = make_pyramid("s3")
    options: Any = {"storage_options": place.storage_options}
    create_meshes(place.url, {1: balls(3, 2), 2: balls(4, 3)}, sharding=sharding, **options)
    meshes = open_meshes(place.url, **options)
    for segment, count in zip((1, 2), requests, strict=True):
        place.server.log.clear()
        assert merged(meshes.get([segment], lod=lod)[segment]).is_watertight
        assert place.server.log.methods() == ["GET"] * count


@pytest.mark.parametrize("protocol", ["http", "nginx"])
@pytest.mark.parametrize(
    "options", [{}, {"multiresolution": True}, {"sharding": SHARDS}], ids=["legacy", "files", "shards"]
)
def test_meshes_are_read_over_http_but_not_listed(
    make_pyramid: Callable[[str], Place], protocol: str, options: Any
) -> None:
    place = make_pyramid(protocol)
    folder = place.objects.folder  # type: ignore[attr-defined]
    stored = create_meshes(folder, MESHES, gzip=False, **options)
    meshes = open_meshes(place.url)
    assert meshes.get(MESHES) == stored.get(MESHES)
    assert (7 in meshes, 8 in meshes) == (True, False)
    with pytest.raises(DataAccessError, match="cannot be listed"):
        meshes.ids  # noqa: B018


@pytest.mark.parametrize("when", ["before its manifest is read", "after its manifest is read"])
@pytest.mark.parametrize(("sharding", "other"), [(ONE_SHARD, 0), (ONE_SHARD, 5), (None, 0)])
def test_a_mesh_that_is_replaced_while_it_is_read_is_read_from_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, sharding: Any, other: int
) -> None:
    """Also where the new shard is smaller than the old one, or larger."""
    create_meshes(tmp_path, {1: balls(2, 1), 2: ball(4), 0: ball(4)}, sharding=sharding, multiresolution=True)
    meshes = open_meshes(tmp_path)
    before = meshes.get([1])[1]
    indexes = meshes.pyramid.shards.indexes
    read = indexes.read

    def replace() -> None:
        monkeypatch.undo()
        others = {0: ball(other), 1: balls(3, 1), 2: ball(other)}
        create_meshes(tmp_path, others, overwrite=True)

    def replace_first(name: str, start: int, end: int, what: str) -> Any:
        if "level" in what:
            replace()
        return read(name, start, end, what)

    if when.startswith("before"):
        replace()
    else:
        monkeypatch.setattr(indexes, "read", replace_first)
    after = meshes.get([1])[1]
    assert len(after.faces) > 2 * len(before.faces)
    assert same_surface(after, ball(3), 1)


def test_a_mesh_that_is_deleted_while_it_is_read_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_meshes(tmp_path, {1: balls(2, 1)})
    meshes = open_meshes(tmp_path)
    read = meshes.pyramid.shards.indexes.read

    def delete_first(name: str, start: int, end: int, what: str) -> Any:
        (tmp_path / "1").unlink(missing_ok=True)
        (tmp_path / "1.index").unlink(missing_ok=True)
        return read(name, start, end, what)

    monkeypatch.setattr(meshes.pyramid.shards.indexes, "read", delete_first)
    with pytest.raises(NotFoundError, match=rf"{tmp_path}"):
        meshes[1]


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "options", [{}, {"multiresolution": True}, {"sharding": SHARDS}], ids=["legacy", "files", "shards"]
)
def test_mutated_files_are_read_or_refused_quickly(tmp_path: Path, options: Any) -> None:
    create_meshes(tmp_path, {1: balls(2)[0], 7: ball(1)}, gzip=False, **options)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused = 0
    began = time.perf_counter()
    for chance in map(random.Random, range(60)):
        path = chance.choice([*files])
        changed = bytearray(files[path][: chance.randrange(len(files[path]))] if chance.random() < 0.2 else files[path])
        for _ in range(min(len(changed), chance.choice([1, 4, 30]))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            open_meshes(tmp_path).get([1, 7], missing="skip")
        except (CorruptDataError, InvalidInfoError):
            refused += 1
        path.write_bytes(files[path])
    assert refused > 20
    assert time.perf_counter() - began < 30


def test_fragments_of_a_level_that_are_missing_or_too_short_are_damage(tmp_path: Path) -> None:
    create_meshes(tmp_path, {1: balls(2, 1)})
    (tmp_path / "1").write_bytes((tmp_path / "1").read_bytes()[:-1])
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/1"):
        open_meshes(tmp_path).get([1], lod=1)
    assert merged(open_meshes(tmp_path)[1]).is_watertight
    (tmp_path / "1").unlink()
    with pytest.raises(CorruptDataError, match=rf"{tmp_path}/1.index is there without its fragments: .*{tmp_path}/1: "):
        open_meshes(tmp_path)[1]


def test_a_level_of_more_bytes_than_a_file_may_have_is_refused_before_it_is_read(tmp_path: Path) -> None:
    create_meshes(tmp_path, {1: balls(3, 1)})
    with pytest.raises(CorruptDataError, match=r"level 0 would take .* the option max_file_bytes allows more"):
        open_meshes(tmp_path, max_file_bytes=3000)[1]


def test_the_manifest_of_a_stored_mesh_names_the_fragment_of_cloud_volume(tmp_path: Path) -> None:
    create_meshes(tmp_path, {5: ball(0)})
    assert parse_manifest((tmp_path / "5:0").read_bytes()) == ["5:0:1"]


def test_a_cache_of_values_keeps_manifests_of_shards(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("s3")
    options: Any = {"storage_options": place.storage_options}
    create_meshes(place.url, {1: balls(3, 2), 2: ball(2)}, sharding=ONE_SHARD, **options)
    meshes = open_meshes(place.url, cache="1 MiB", **options)
    found = meshes.get([1, 2])
    place.server.log.clear()
    assert meshes.get([1, 2]) == found
    assert place.server.log.methods() == ["GET"] * 2


def test_the_fragment_that_is_damaged_is_named(tmp_path: Path) -> None:
    create_meshes(tmp_path, {1: balls(3, 1)}, fragment_size=1000)
    data = bytearray((tmp_path / "1").read_bytes())
    sizes = Manifest.from_bytes((tmp_path / "1.index").read_bytes()).levels[0].sizes
    start = int(sizes[:5].sum())
    data[start : start + 40] = bytes(40)
    (tmp_path / "1").write_bytes(data)
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/1.index: fragment 5 of level 0: it does not begin like"):
        open_meshes(tmp_path)[1]
