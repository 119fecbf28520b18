"""What Neuroglancer's client makes of the meshes that we write: their decoded geometry, and the picture of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import create_volume
from precomputed_fs.codecs.draco import decode_draco
from precomputed_fs.format.multilod_mesh import Manifest
from tests.scene.mesh_samples import SHARDS, ball, balls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs import Volume
    from precomputed_fs.view.server import Server
    from tests.support.browser import MeshFragment, Neuroglancer, View

pytest.importorskip("DracoPy")
pytest.importorskip("trimesh")

SEGMENT = 2**53 + 1  # is no JavaScript number
CENTRE, RADIUS = (8000, 8000, 8000), 5000  # nanometres
SIZE = (360, 360)  # pixels
ORANGE = (255, 128, 64)


def volume_with(folder: Path, meshes: Any, **options: Any) -> Volume:
    voxels = np.zeros((16, 16, 16), np.uint64)
    volume = create_volume(folder, voxels, resolution=(1000, 1000, 1000), type="segmentation", scales=1)
    volume.store_meshes({SEGMENT: meshes}, **options)
    return volume


def show(neuroglancer: Neuroglancer, server: Server, nm_per_pixel: float) -> Any:
    viewer = {"layout": "3d", "projectionScale": nm_per_pixel * SIZE[1] / 1000, "showSlices": False}
    colours: dict[str, Any] = {"segmentColors": {str(SEGMENT): "#" + bytes(ORANGE).hex()}, "segments": [str(SEGMENT)]}
    return neuroglancer.show(
        server.source, "segmentation", position=(8, 8, 8), resolution=(1000, 1000, 1000), size=SIZE, viewer=viewer,
        **colours,
    )  # fmt: skip


def unpacked(vertices: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return vertices as the client has them on the GPU: ``[n, 3]``."""
    if vertices.dtype == np.uint32:
        return np.stack([vertices >> shift & 1023 for shift in (0, 10, 20)], axis=1)
    return vertices.reshape(-1, 3)


def triangles(points: Any, faces: Any) -> list[Any]:
    """Return triangles as coordinates, in an order of their own; each keeps which side is its front."""
    corners = [[tuple(corner) for corner in triangle] for triangle in points[faces].astype(int).tolist()]
    return sorted(min(each, each[1:] + each[:1], each[2:] + each[:2]) for each in corners)


def assert_eighths(fragment: MeshFragment, points: np.ndarray[Any, np.dtype[Any]], bits: int) -> None:
    """Check that no triangle of an eighth leaves it, apart from its border."""
    faces = fragment.indices.reshape(-1, 3)
    for eighth in range(8):
        start, end = np.array(fragment.offsets[eighth : eighth + 2]) // 3
        for axis in range(3):
            along = points[faces[start:end], axis].astype(int) - (1 << (bits - 1))
            assert (along >= 0).all() if eighth >> axis & 1 else (along <= 0).all()


def covered(view: View) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which pixels of the picture show the mesh."""
    picture = view.slice().astype(int)
    return np.asarray(picture[..., 0] > picture[..., 2] + 10)


@pytest.mark.parametrize(("bits", "sharding"), [(10, None), (16, SHARDS)], ids=["files", "shards"])
def test_the_client_decodes_the_levels_that_we_write(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path, bits: int, sharding: Any
) -> None:
    levels = balls(4, 3, 2, centre=CENTRE, radius=RADIUS)
    volume = volume_with(tmp_path, levels, vertex_quantization_bits=bits, sharding=sharding)
    plain = volume if sharding is None else volume_with(tmp_path / "plain", levels, vertex_quantization_bits=bits)
    manifest = Manifest.from_bytes(plain.accessor.fetch_file(f"mesh/{SEGMENT}.index"))
    fragments = plain.accessor.fetch_file(f"mesh/{SEGMENT}")
    with show(neuroglancer, run(volume), nm_per_pixel=4) as view:
        assert view.errors == []
        found = view.mesh_fragments()
    position, row, seen = 0, 0, set()
    for lod, level in enumerate(manifest.levels):
        for size in level.sizes.tolist():
            fragment = found.get(f"{SEGMENT}/{lod}:{row}")
            if fragment is not None:
                ((points, faces),) = decode_draco(fragments[position : position + size])
                theirs = unpacked(fragment.vertices)
                assert triangles(theirs, fragment.indices.reshape(-1, 3)) == triangles(points, faces)
                if lod:
                    assert_eighths(fragment, theirs, bits)
                seen.add(lod)
            position, row = position + size, row + 1
    assert seen == {0, 1, 2}
    assert len(found) <= row


@pytest.mark.parametrize("nm_per_pixel", [50, 400])
def test_a_mesh_of_several_levels_is_drawn_without_holes(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path, nm_per_pixel: float
) -> None:
    """Near, the picture has fine fragments; far, coarse ones, of which eighths are left out where finer ones are."""
    volume = volume_with(tmp_path, balls(5, 4, 3, centre=CENTRE, radius=RADIUS))
    with show(neuroglancer, run(volume), nm_per_pixel) as view:
        assert view.errors == []
        mask = covered(view)
    rows, columns = np.nonzero(mask)
    middle, radius = (rows.mean(), columns.mean()), (np.ptp(rows) + np.ptp(columns) + 2) / 4
    distance = np.hypot(*(np.indices(mask.shape) - np.reshape(middle, (2, 1, 1))))
    assert mask[distance < radius - 1.5].all()
    assert not mask[distance > radius + 1.5].any()


def test_the_client_decodes_the_legacy_meshes_that_we_write(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path
) -> None:
    mesh = ball(3, CENTRE, RADIUS)
    with show(neuroglancer, run(volume_with(tmp_path, mesh)), nm_per_pixel=50) as view:
        assert view.errors == []
        ((_, fragment),) = view.mesh_fragments().items()
        assert covered(view).any()
    assert np.array_equal(fragment.vertices.reshape(-1, 3), mesh.vertices)
    assert np.array_equal(fragment.indices.reshape(-1, 3), mesh.faces)
