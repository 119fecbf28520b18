"""Other tools read our meshes, and we read theirs: cloud-volume, igneous and neuroglancer-scripts."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import Mesh, Volume, create_volume, open_meshes, open_volume
from tests.scene.mesh_samples import LEVELS, MESHES, SHARDS, ball, merged
from tests.scene.samples import LARGEST, labels
from tests.support.brain import template

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("DracoPy")
pytest.importorskip("trimesh")
cloudvolume = pytest.importorskip("cloudvolume")

pytestmark = pytest.mark.slow  # igneous and cloud-volume take ten seconds to import

OFFSET = (-10, 20, 5)
VOXEL = (1000, 1000, 1500)  # nanometres


def opened(folder: Path | str) -> Any:
    return cloudvolume.CloudVolume(f"file://{folder}", progress=False)


def same(ours: Mesh, theirs: Any) -> bool:
    """Tell whether cloud-volume has the same arrays; it computes vertices in float64."""
    return np.array_equal(ours.vertices, theirs.vertices.astype(np.float32)) and np.array_equal(
        ours.faces, theirs.faces
    )


# -------------------------------------------------------------------------------------------------------- cloud-volume


def test_cloud_volume_reads_our_legacy_meshes(tmp_path: Path) -> None:
    labels(tmp_path).store_meshes(MESHES)
    for segment, mesh in MESHES.items():
        assert same(mesh, opened(tmp_path).mesh.get(segment, remove_duplicate_vertices=False))


def test_we_read_the_legacy_meshes_of_cloud_volume_and_replace_them(tmp_path: Path) -> None:
    labels(tmp_path).store_meshes(MESHES)  # for the member `mesh` of `info`
    theirs = [cloudvolume.Mesh(mesh.vertices, mesh.faces, segid=segment) for segment, mesh in MESHES.items()]
    opened(tmp_path).mesh.put(theirs, compress="gzip")
    assert (tmp_path / "mesh/1:0:1.gz").exists()
    volume = open_volume(tmp_path)
    assert volume.meshes.get(MESHES) == MESHES
    volume.store_meshes({1: ball(0)}, overwrite=True)
    assert same(ball(0), opened(tmp_path).mesh.get(1, remove_duplicate_vertices=False))


@pytest.mark.parametrize("options", [{}, {"sharding": SHARDS}, {"sharding": {**SHARDS, "data_encoding": "raw"}}])
@pytest.mark.parametrize("bits", [10, 16])
def test_cloud_volume_reads_all_our_levels(tmp_path: Path, options: Any, bits: int) -> None:
    volume = labels(tmp_path)
    some = {segment: LEVELS[segment] for segment in (1, 7, LARGEST)}
    volume.store_meshes(some, vertex_quantization_bits=bits, fragment_size=1500, **options)
    there = opened(tmp_path)
    for segment, levels in some.items():
        for lod in range(len(levels)):
            assert same(volume.meshes.get([segment], lod=lod)[segment], there.mesh.get([segment], lod=lod)[segment])


# ------------------------------------------------------------------------------------------------------------- igneous


@pytest.fixture(scope="module")
def tissues() -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return labels of a part of a real brain: ``[x, y, z]``."""
    part = template()[60:130, 60:124, 60:110]
    ids = np.array([0, 7, 2**40 + 1, 2**62], np.uint64)  # igneous makes shards of ids below 2**63 only
    return ids[np.digitize(part, (90, 150, 190))]


@pytest.fixture
def volume(tmp_path: Path, tissues: Any) -> Volume:
    return create_volume(
        tmp_path / "brain", tissues, resolution=VOXEL, voxel_offset=OFFSET, chunk_size=(32, 32, 32), scales=1,
        type="segmentation", encoding="raw", gzip=False,
    )  # fmt: skip


def execute(tasks: Any) -> None:
    from taskqueue import LocalTaskQueue

    queue = LocalTaskQueue(parallel=1, progress=False)
    queue.insert(tasks)
    queue.execute()


def meshed(volume: Volume, kind: str) -> Volume:
    """Let igneous make meshes in blocks of 40 voxels, and return the volume that has them."""
    from igneous import task_creation

    path = f"file://{volume.url}"
    options = {"spatial_index": True, "compress": "gzip", "max_simplification_error": 1000, "simplification": True}
    execute(
        task_creation.create_meshing_tasks(
            path, 0, shape=(40, 40, 40), mesh_dir="mesh", sharded=kind == "sharded", fill_missing=True, **options
        )
    )
    cells = {"num_lod": 3, "min_chunk_size": (8, 8, 8), "mesh_dir": "mesh"}
    if kind == "legacy":
        execute(task_creation.create_mesh_manifest_tasks(path, magnitude=1, mesh_dir="mesh"))
    elif kind == "files":
        execute(task_creation.create_unsharded_multires_mesh_tasks(path, magnitude=1, **cells))
    else:
        execute(task_creation.create_sharded_multires_mesh_tasks(path, **cells))
    return open_volume(volume.url)


def voxel_count_nm3(tissues: Any, segment: int) -> float:
    return float((tissues == segment).sum()) * float(np.prod(VOXEL))


def test_we_read_what_igneous_writes_in_many_fragments(volume: Volume, tissues: Any) -> None:
    meshes = meshed(volume, "legacy").meshes
    assert repr(meshes).endswith("mesh: legacy>")
    segments = np.unique(tissues)[1:].tolist()
    assert meshes.ids.tolist() == segments
    for segment, mesh in meshes.get(segments).items():
        assert merged(mesh).volume == pytest.approx(voxel_count_nm3(tissues, segment), rel=0.1)
        theirs = opened(volume.accessor.url).mesh.get(segment, remove_duplicate_vertices=False)
        assert corners(mesh) == corners(theirs)  # cloud-volume sorts fragments by name


def corners(mesh: Any) -> Any:
    """Return the triangles by their coordinates, in an order of their own."""
    return sorted(np.asarray(mesh.vertices, np.float32)[mesh.faces].reshape(-1, 9).tolist())


@pytest.mark.parametrize("kind", ["files", "sharded"])
def test_we_read_all_levels_that_igneous_writes_and_add_to_them(volume: Volume, tissues: Any, kind: str) -> None:
    found = meshed(volume, kind)
    there = opened(volume.accessor.url)
    segments = np.unique(tissues)[1:].tolist()
    assert found.meshes.ids.tolist() == segments
    for segment in segments:
        levels = len(found.meshes.levels(segment))
        assert levels > 1
        for lod in range(levels):
            assert same(found.meshes.get([segment], lod=lod)[segment], there.mesh.get([segment], lod=lod)[segment])
        assert merged(found.meshes[segment]).volume == pytest.approx(voxel_count_nm3(tissues, segment), rel=0.1)
    before = found.meshes.get(segments)
    added = ball(2, radius=20_000)
    found.store_meshes({9: added})
    assert open_volume(volume.url).meshes.get(segments) == before
    theirs = opened(volume.accessor.url).mesh.get([9])[9]
    assert same(found.meshes[9], theirs)
    assert merged(found.meshes[9]).volume == pytest.approx(merged(added).volume, rel=1e-3)


# ------------------------------------------------------------------------------------------------ neuroglancer-scripts


def test_we_read_what_neuroglancer_scripts_writes(tmp_path: Path) -> None:
    """It takes GIfTI, with vertices in millimetres, and names neither the folder's type nor a segment's manifest."""
    nibabel = pytest.importorskip("nibabel")
    mesh = ball(2, (1, 2, 3), 0.5)
    arrays = [
        nibabel.gifti.GiftiDataArray(mesh.vertices, intent="NIFTI_INTENT_POINTSET"),
        nibabel.gifti.GiftiDataArray(mesh.faces.astype(np.int32), intent="NIFTI_INTENT_TRIANGLE"),
    ]
    nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), tmp_path / "surface.gii")
    labels(tmp_path / "volume").store_meshes({1: ball(0)}, folder="mesh")
    program = "from neuroglancer_scripts.scripts import {0}; import sys; sys.exit({0}.main())"
    command = [sys.executable, "-c", program.format("mesh_to_precomputed"), str(tmp_path / "surface.gii")]
    subprocess.run([*command, str(tmp_path / "volume"), "--mesh-name", "left"], check=True, capture_output=True)
    (tmp_path / "links.csv").write_text("5,left\n")
    command = [sys.executable, "-c", program.format("link_mesh_fragments"), str(tmp_path / "links.csv")]
    subprocess.run([*command, str(tmp_path / "volume")], check=True, capture_output=True)
    found = open_meshes(tmp_path / "volume/mesh")[5]
    np.testing.assert_allclose(found.vertices, mesh.vertices * 1e6, rtol=1e-6)
    assert np.array_equal(found.faces, mesh.faces)
