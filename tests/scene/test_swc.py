"""How skeletons are read from SWC and written to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudvolume import Skeleton as CloudVolumeSkeleton

from precomputed_fs import Skeleton

VERTICES: list[list[float]] = [[0, 0, 0], [10, 0, 0], [20, 0.5, 0], [10, -30, 4e6], [5, 5, 5], [6, 6, 6]]
EDGES = [[2, 1], [0, 1], [1, 3], [4, 5]]


def test_swc_has_trees_whose_parents_come_first() -> None:
    skeleton = Skeleton(VERTICES, EDGES, {"radius": [1, 2, 3, 4, 0.1, 6], "vertex_types": [1, 3, 3, 4, 0, 255]})
    assert skeleton.to_swc().splitlines()[1:] == [
        "1 1 0.0 0.0 0.0 1.0 -1",
        "2 3 10.0 0.0 0.0 2.0 1",
        "3 3 20.0 0.5 0.0 3.0 2",
        "4 4 10.0 -30.0 4000000 4.0 2",
        "5 0 5.0 5.0 5.0 0.1 -1",
        "6 255 6.0 6.0 6.0 6.0 5",
    ]


def test_types_may_be_stored_as_floats_which_neuroglancer_wants() -> None:
    as_floats = Skeleton(VERTICES, EDGES, {"vertex_types": np.arange(6, dtype=np.float32)})
    assert as_floats.to_swc() == Skeleton(VERTICES, EDGES, {"vertex_types": np.arange(6)}).to_swc()


def test_swc_grows_from_a_root_in_any_unit() -> None:
    lines = Skeleton(VERTICES, EDGES).to_swc(unit="um", root=3).splitlines()
    assert lines[:3] == [
        "# id type x y z radius parent, in um",
        "1 0 0.01 -0.03 4000 0.0 -1",
        "2 0 0.01 0.0 0.0 0.0 1",
    ]
    assert [line.split()[-1] for line in lines[3:]] == ["2", "2", "-1", "5"]


@pytest.mark.parametrize("edges", [[[0, 1], [1, 2], [2, 0]], [[0, 1], [5, 5]], [[1, 2], [2, 3], [3, 4], [4, 1]]])
def test_swc_has_no_cycles(edges: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"expected trees, as SWC has no cycles; vertices \d and \d close one"):
        Skeleton(VERTICES, edges).to_swc()


def test_swc_can_leave_out_the_longest_edge_of_each_cycle() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 5, 0], [0, 2, 0], [9, 9, 9], [9, 9, 8]], np.float32)
    edges = [[0, 1], [1, 2], [2, 3], [3, 0], [3, 1], [4, 5], [5, 5]]
    trees = Skeleton(vertices, [[0, 1], [3, 0], [2, 3], [4, 5]])
    assert Skeleton(vertices, edges).to_swc(break_cycles=True) == trees.to_swc()
    assert trees.to_swc(break_cycles=True, root=2) == trees.to_swc(root=2)


def test_an_edge_that_is_repeated_is_no_cycle() -> None:
    assert Skeleton(VERTICES, [*EDGES, [1, 2], [0, 1]]).to_swc() == Skeleton(VERTICES, EDGES).to_swc()


def test_a_long_skeleton_is_no_deep_recursion() -> None:
    count = 20_000
    skeleton = Skeleton(np.zeros((count, 3)), np.stack([np.arange(count - 1), np.arange(1, count)], 1))
    assert skeleton.to_swc().endswith(f"\n{count} 0 0.0 0.0 0.0 0.0 {count - 1}\n")


@pytest.mark.parametrize(
    ("attributes", "arguments", "message"),
    [
        (
            {"vertex_types": np.full(6, 0.5)},
            {},
            "attribute 'vertex_types': expected whole numbers for SWC, one a vertex",
        ),
        (
            {"radius": np.ones((6, 2))},
            {},
            "attribute 'radius': expected numbers for SWC, one a vertex, got float32 x",
        ),
        ({}, {"unit": "furlong"}, "unit: expected one of .*, got 'furlong'"),
        ({}, {"root": 6}, "root: expected a vertex from 0 to 5, got 6"),
    ],
)
def test_swc_cannot_be_of_anything(attributes: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Skeleton(VERTICES, EDGES, attributes).to_swc(**arguments)


@pytest.mark.parametrize("unit", ["nm", "um", "mm"])
def test_swc_is_read_back_as_it_was(unit: str) -> None:
    chance = np.random.default_rng(3)
    vertices = chance.normal(0, 1e5, (50, 3)).astype(np.float32)
    parents = [int(chance.integers(0, child)) for child in range(1, 50)]
    radii = chance.random(50, np.float32)
    written = Skeleton(vertices, list(enumerate(parents, 1)), {"radius": radii, "vertex_types": np.arange(50) % 8})
    found = Skeleton.from_swc(written.to_swc(unit=unit), unit=unit)
    again = Skeleton.from_swc(found.to_swc(unit=unit), unit=unit)
    for first, second in ((found, again), (written, found)):
        order = np.lexsort(first.vertices.T)
        other = np.lexsort(second.vertices.T)
        np.testing.assert_array_equal(first.vertices[order], second.vertices[other])
        for name in first.attributes:
            np.testing.assert_array_equal(first.attributes[name][order], second.attributes[name][other])
        assert first.cable_length == pytest.approx(second.cable_length, rel=1e-12)


def test_swc_of_other_programs_is_read() -> None:
    text = "\ufeff# made by hand\n\n 7\t1 1e3 2 3 0.5 -1 \r\n9 2 1 1 1 NA 8 extra\n  # end\n8 2 0 0 0 1 7"
    found = Skeleton.from_swc(text, unit="um")
    np.testing.assert_array_equal(found.vertices, [[1e6, 2e3, 3e3], [1e3, 1e3, 1e3], [0, 0, 0]])
    np.testing.assert_array_equal(found.edges, [[1, 2], [2, 0]])
    np.testing.assert_array_equal(found.attributes["radius"], np.array([500, np.nan, 1000], np.float32))
    assert found.attributes["vertex_types"].tolist() == [1, 2, 2]
    assert Skeleton.from_swc("# nothing\n").vertices.shape == (0, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0 0 0 0 1", r"line 3: expected id, type \(0 to 255\), x, y, z, radius and parent, got '2 0 0 0 0 1'"),
        ("2 0 0 0 zero 1 1", "line 3: expected id"),
        ("2 0 0 0 nan 1 1", "line 3: expected id"),
        ("2 256 0 0 0 1 1", "line 3: expected id"),
        ("2.5 0 0 0 0 1 1", "line 3: expected id"),
        ("2 0 0 0 0 1 3", "line 3: expected the id of another line as parent, got 3"),
        ("2 0 0 0 0 1 2", "line 3: expected the id of another line as parent, got 2"),
        ("1 0 0 0 0 1 -1", "line 2: id 1 is that of another line, too"),
    ],
)
def test_what_is_not_swc_is_refused_by_its_line(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Skeleton.from_swc(f"# comment\n1 0 0 0 0 1 -1\n{line}\n")
    with pytest.raises(TypeError, match="text: expected the contents of a file, got PosixPath"):
        Skeleton.from_swc(Path("neuron.swc"))  # type: ignore[arg-type]


def test_cloud_volume_reads_our_swc_and_we_read_its() -> None:
    skeleton = Skeleton(VERTICES, EDGES, {"radius": [1, 2, 3, 4, 0.5, 6], "vertex_types": [1, 3, 3, 4, 0, 5]})
    theirs = CloudVolumeSkeleton.from_swc(skeleton.to_swc().strip())
    expected = CloudVolumeSkeleton(skeleton.vertices, skeleton.edges, *skeleton.attributes.values())
    assert CloudVolumeSkeleton.equivalent(theirs, expected)
    ours = Skeleton.from_swc(theirs.to_swc())
    assert sorted(ours.attributes["radius"].tolist()) == [0.5, 1, 2, 3, 4, 6]
    assert ours.cable_length == pytest.approx(skeleton.cable_length)


@pytest.mark.parametrize("number", ["1e39", "1e999999999999999999", "-1e400", "inf"])
@pytest.mark.parametrize("line", ["1 1 {} 0 0 1 -1", "1 1 0 0 0 {} -1"])
def test_numbers_that_float32_has_not_are_refused(line: str, number: str) -> None:
    with pytest.raises(ValueError, match="line 1: expected id, type"):
        Skeleton.from_swc(line.format(number))


def test_a_vertex_that_is_nowhere_is_not_written() -> None:
    with pytest.raises(ValueError, match="vertices: expected finite coordinates for SWC"):
        Skeleton([[0, 0, np.inf]], []).to_swc()
