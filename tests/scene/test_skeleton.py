"""What a skeleton is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from precomputed_fs.scene.skeleton import Skeleton

VERTICES: list[list[float]] = [[0, 0, 0], [10, 0, 0], [20, 0.5, 0], [10, -30, 4e6], [5, 5, 5], [6, 6, 6]]
EDGES = [[2, 1], [0, 1], [1, 3], [4, 5]]


def test_lists_become_arrays_of_the_format() -> None:
    skeleton = Skeleton(
        VERTICES, EDGES, {"radius": list(range(6)), "normal": np.ones((6, 3), np.int16), "id": np.ones((6, 1))}
    )
    assert (str(skeleton.vertices.dtype), skeleton.vertices.shape) == ("float32", (6, 3))
    assert (str(skeleton.edges.dtype), skeleton.edges.shape) == ("uint32", (4, 2))
    assert {name: values.shape for name, values in skeleton.attributes.items()} == {
        "radius": (6,),
        "normal": (6, 3),
        "id": (6,),
    }
    assert repr(skeleton) == "Skeleton(6 vertices, 4 edges, radius (float32), normal (int16 x 3), id (float64))"


def test_a_skeleton_may_be_empty() -> None:
    skeleton = Skeleton([], attributes={"radius": []})
    assert (skeleton.vertices.shape, skeleton.edges.shape, skeleton.cable_length) == ((0, 3), (0, 2), 0)
    assert skeleton.to_swc() == "# id type x y z radius parent, in nm\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 0]],), r"vertices: expected numbers of shape \(n, 3\), got int64 of shape \(1, 2\)"),
        (([["0", "0", "0"]],), "vertices: expected numbers"),
        ((VERTICES, [[0, 6]]), "edges: expected indices of 6 vertices, 0 to 5, got 6"),
        ((VERTICES, [[0, -1]]), "edges: expected indices of 6 vertices, 0 to 5, got -1"),
        ((VERTICES, [[0.0, 1.0]]), "edges: expected integers"),
        ((VERTICES, [0, 1]), r"edges: expected integers of shape \(m, 2\), got int64 of shape \(2,\)"),
        ((VERTICES, EDGES, {"radius": [1, 2]}), r"attribute 'radius': expected numbers of shape \(6,\) or \(6, comp"),
        ((VERTICES, EDGES, {"name": ["a"] * 6}), "attribute 'name': expected numbers"),
        ((VERTICES, EDGES, {"none": np.ones((6, 0))}), "attribute 'none': expected numbers"),
    ],
)
def test_other_arrays_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Skeleton(*arguments)


def test_the_cable_length_is_that_of_all_edges() -> None:
    assert Skeleton(np.array([[0, 0, 0], [3e6, 4e6, 0], [0, 0, 1]]), [[0, 1], [2, 0]]).cable_length == 5_000_001


def test_masked_values_are_refused() -> None:
    masked = np.ma.masked_array([[0, 0, 1]], mask=[[False, False, True]])
    with pytest.raises(ValueError, match="vertices: expected numbers, got masked values"):
        Skeleton(masked, [])
    with pytest.raises(ValueError, match="attribute 'a': expected numbers, got masked values"):
        Skeleton([[0, 0, 0]], [], {"a": masked})
