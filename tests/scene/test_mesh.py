"""`Mesh`: what it takes, what it refuses, and that trimesh has the same."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from precomputed_fs.scene.mesh import Mesh

VERTICES = [[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8]]
FACES = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]


def test_arrays_of_any_numbers_are_converted() -> None:
    mesh = Mesh(np.array(VERTICES, np.int64), np.array(FACES, np.float64))
    assert [array.dtype.name for array in (mesh.vertices, mesh.faces)] == ["float32", "uint32"]
    assert mesh == Mesh(VERTICES, FACES)
    assert mesh != Mesh(VERTICES, FACES[:3])
    assert mesh.bounds.tolist() == [[0, 0, 0], [8, 8, 8]]


def test_arrays_of_the_right_types_are_not_copied() -> None:
    vertices, faces = np.zeros((3, 3), np.float32), np.zeros((1, 3), np.uint32)
    mesh = Mesh(vertices, faces)
    assert np.shares_memory(mesh.vertices, vertices)
    assert np.shares_memory(mesh.faces, faces)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        ([[0, 0]], [[0, 0, 0]], r"vertices: expected numbers of shape \(n, 3\), got int64 of shape \(1, 2\)"),
        ([["a", "b", "c"]], [], "vertices: expected numbers"),
        (VERTICES, [0, 1, 2], r"faces: expected numbers of shape \(n, 3\)"),
        (VERTICES, [[0, 1, 4]], "faces: expected vertices from 0 to 3, got 0 to 4"),
        (VERTICES, [[0, 1, -1]], "faces: expected vertices from 0 to 3, got -1 to 1"),
        (VERTICES, [[0, 1, 1.5]], "faces: expected integers"),
        (VERTICES, [[0, 1, np.nan]], "faces: expected integers"),
    ],
)
def test_what_is_no_mesh_is_refused(vertices: Any, faces: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mesh(vertices, faces)


def test_trimesh_has_the_same_vertices_and_triangles_both_ways() -> None:
    pytest.importorskip("trimesh")
    mesh = Mesh(VERTICES, FACES)
    converted = mesh.to_trimesh()
    assert converted.is_watertight
    assert converted.volume == pytest.approx(8**3 / 6)
    assert Mesh.from_trimesh(converted) == mesh


def test_anything_with_vertices_and_faces_is_a_mesh() -> None:
    assert Mesh.from_trimesh(SimpleNamespace(vertices=VERTICES, faces=FACES)) == Mesh(VERTICES, FACES)
    with pytest.raises(TypeError, match="expected a mesh with vertices and faces, got 7"):
        Mesh.from_trimesh(7)


def test_a_missing_trimesh_is_an_import_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[mesh\]'"):
        Mesh(VERTICES, FACES).to_trimesh()


def test_an_empty_mesh_is_told_as_such() -> None:
    empty = Mesh([], [])
    assert repr(empty) == "Mesh(0 vertices, 0 triangles)"
    with pytest.raises(ValueError, match="no bounds"):
        _ = empty.bounds


def test_masked_vertices_are_refused() -> None:
    masked = np.ma.masked_array([[0, 0, 1]], mask=[[False, False, True]])
    with pytest.raises(ValueError, match="vertices: expected numbers, got masked values"):
        Mesh(masked, [])
