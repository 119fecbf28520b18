"""Meshes cut into the cells of an octree: nothing crosses a border, and nothing is lost."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from precomputed_fs.format.multilod_mesh import z_order
from precomputed_fs.scene.mesh import Mesh
from precomputed_fs.scene.octree import Fragment, Octree, cut, octree_around, positions_of

trimesh = pytest.importorskip("trimesh")

BITS = 16
STEPS = (1 << BITS) - 1


def ball(subdivisions: int = 3, radius: float = 1000.0) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions, radius)
    made.apply_translation([-300, 7000, 12])
    return Mesh.from_trimesh(made)


def joined(fragments: list[Fragment], octree: Octree, lod: int) -> Any:
    """Place fragments as the specification says, and join them."""
    size = np.array(octree.cell) * 2**lod
    parts = [
        trimesh.Trimesh(octree.origin + size * (np.array(each.position) + each.points / STEPS), each.faces)
        for each in fragments
        if len(each.faces)
    ]
    return trimesh.util.concatenate(parts)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_a_cut_mesh_has_the_surface_and_the_volume_of_the_whole(levels: int) -> None:
    mesh = ball()
    octree = octree_around([mesh] * levels)
    for lod, fragments in enumerate(cut([mesh] * levels, octree, BITS)):
        made = joined(fragments, octree, lod)
        made.merge_vertices(digits_vertex=1)  # those of neighbouring fragments are at the same place
        assert made.area == pytest.approx(mesh.to_trimesh().area, rel=1e-4)
        assert made.volume == pytest.approx(mesh.to_trimesh().volume, rel=1e-4)
        assert made.is_watertight


def test_no_triangle_crosses_the_middle_of_its_cell_as_neuroglancer_takes_it() -> None:
    """Else its client draws the triangle in the wrong eighth; the finest level has no eighths."""
    mesh = ball()
    middle = 1 << (BITS - 1)
    for fragments in cut([mesh] * 3, octree_around([mesh] * 3), BITS)[1:]:
        for each in fragments:
            sides = np.sign(each.points[each.faces] - middle)
            assert not ((sides == 1).any(axis=1) & (sides == -1).any(axis=1)).any()


def test_triangles_that_span_many_cells_are_cut_at_each() -> None:
    flat = Mesh([[0, 0, 0], [1600, 0, 0], [0, 1600, 0], [1600, 1600, 0]], [[0, 1, 2], [1, 3, 2]])
    octree = octree_around([flat], cell=(100, 100, 100))
    (fragments,) = cut([flat], octree, BITS)
    assert len(fragments) == 16 * 16
    assert joined(fragments, octree, 0).area == pytest.approx(1600**2)


def test_cells_follow_the_z_curve_and_have_parents_and_children() -> None:
    """A level may have triangles where another has none: the cells are there all the same, and are empty."""
    fine, coarse = ball(), ball(1, 1300)
    octree = octree_around([fine, coarse, coarse])
    levels = cut([fine, coarse, coarse], octree, BITS)
    cells = [{each.position for each in fragments} for fragments in levels]
    assert any(not len(each.faces) for each in levels[0])
    for fragments in levels:
        assert z_order(positions_of(fragments)).tolist() == list(range(len(fragments)))
    for finer, coarser in itertools.pairwise(cells):
        assert {(x >> 1, y >> 1, z >> 1) for x, y, z in finer} <= coarser
    for lod in (1, 2):
        for each in levels[lod]:
            eighths = np.clip((each.points[each.faces].mean(axis=1) > STEPS / 2).astype(int), 0, 1)
            for eighth in np.unique(eighths, axis=0).tolist():
                child = tuple(2 * p + e for p, e in zip(each.position, eighth, strict=True))
                assert child in cells[lod - 1]


def test_by_default_the_coarsest_level_is_one_fragment() -> None:
    mesh = ball()
    assert [len(fragments) for fragments in cut([mesh] * 3, octree_around([mesh] * 3), BITS)][-1] == 1


@pytest.mark.parametrize("offset", [0.0, 1e8, -123456.789])
def test_the_octree_holds_the_mesh_although_manifests_have_float32(offset: float) -> None:
    mesh = Mesh(np.array([[0, 0, 0], [999.9, 0.1, 1 / 3], [3, 7, 1e-3]]) + offset, [[0, 1, 2]])
    octree = octree_around([mesh, mesh])
    assert np.array_equal(np.array(octree.origin, np.float32), octree.origin)
    assert np.array_equal(np.array(octree.cell, np.float32), octree.cell)
    low, high = mesh.bounds.astype(np.float64)
    assert (octree.origin <= low).all()
    assert (octree.origin + 2 * np.array(octree.cell) >= high).all()


def test_a_flat_mesh_and_one_in_a_plane_between_cells_are_kept() -> None:
    flat = Mesh([[0, 0, 5], [100, 0, 5], [0, 100, 5]], [[0, 1, 2]])
    slab = Mesh([[0, 0, 0], [100, 0, 50], [0, 100, 50], [100, 100, 100], [0, 0, 50]], [[4, 1, 2], [0, 1, 3]])
    for mesh in (flat, slab):
        octree = octree_around([mesh] * 2)
        for lod, fragments in enumerate(cut([mesh] * 2, octree, BITS)):
            assert joined(fragments, octree, lod).area == pytest.approx(mesh.to_trimesh().area, rel=1e-3)


def test_triangles_in_millions_of_pieces_are_refused() -> None:
    with pytest.raises(
        ValueError, match="fragment_size: expected larger fragments, as its 1280 triangles would be cut"
    ):
        cut([ball()], octree_around([ball()], cell=(0.25, 0.25, 0.25)), BITS)


def test_too_many_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="fragment_size: expected fewer than"):
        octree_around([ball()], cell=(1e-6, 1, 1))


def area(points: Any, faces: Any) -> float:
    one, two, three = (np.asarray(points, np.float64)[corner] for corner in faces.T)
    return float(np.linalg.norm(np.cross(two - one, three - one), axis=1).sum() / 2)


@pytest.mark.parametrize("seed", range(12))
def test_triangles_that_are_no_surface_are_cut_too(seed: int) -> None:
    chance = np.random.default_rng(seed)
    points = chance.random((20, 3)) if seed % 2 else chance.integers(0, 5, (20, 3))  # on borders, or anywhere
    mesh = Mesh(points * 10.0 ** (seed - 4), [chance.choice(20, 3, replace=False) for _ in range(30)])
    octree = octree_around([mesh] * 3)
    for lod, fragments in enumerate(cut([mesh] * 3, octree, BITS)):
        size = np.array(octree.cell) * 2**lod
        placed = [(size * (np.array(each.position) + each.points / STEPS), each.faces) for each in fragments]
        assert all(0 <= each.points.min(initial=0) <= each.points.max(initial=0) <= STEPS for each in fragments)
        assert sum(area(*each) for each in placed) == pytest.approx(area(mesh.vertices, mesh.faces), rel=0.01)
