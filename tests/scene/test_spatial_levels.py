import itertools
from typing import Any

import numpy as np
import pytest

from precomputed_fs.format.annotation import Block
from precomputed_fs.format.annotation_info import Dimension
from precomputed_fs.format.grid import compressed_morton_code
from precomputed_fs.scene.spatial_levels import FilledLevel, Grid, fill_levels, round_bounds

NM = dict.fromkeys("xyz", Dimension(1e-9, "m"))


def filled(points: Any, *, limit: int, dimensions: dict[str, Dimension] = NM, size: Any = 1000.0) -> list[FilledLevel]:
    points = np.asarray(points, np.float32)
    block = Block(np.arange(len(points), dtype=np.uint64), points[:, None], np.zeros(len(points), np.dtype([])))
    whole = Grid(np.zeros(3), (1, 1, 1), np.broadcast_to(np.asarray(size, float), 3))
    return [*fill_levels(block, "point", whole, dimensions, limit=limit)]


def test_coarse_levels_are_uniform_samples() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.random((9000, 3)) * 500, rng.random((1000, 3)) * 1000])  # most in one corner
    levels = filled(points, limit=400)
    assert len(levels) > 3
    numbers = np.concatenate([level.members.values for level in levels])
    assert sorted(numbers.tolist()) == [*range(10_000)]
    assert all(level.members.lengths.max() <= level.limit == 400 for level in levels)
    is_dense = [np.mean(level.members.values < 9000) for level in levels[:2]]
    np.testing.assert_allclose(is_dense, 0.9, atol=0.04)
    for level in levels:
        for cell, i in zip(level.cells, itertools.count(), strict=False):
            low, high = level.grid.box_of(cell)
            inside = points[level.members.item(i)].astype(np.float32)
            assert ((inside >= low) & (inside <= high)).all()


def test_cells_become_cubes() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((4000, 3)) * (1000, 1000, 250)
    anisotropic = {"x": Dimension(4e-9, "m"), "y": Dimension(4, "nm"), "z": Dimension(40, "nm")}
    shapes = [level.grid.shape for level in filled(points, limit=60, dimensions=anisotropic, size=(1000, 1000, 250))]
    assert shapes[:4] == [(1, 1, 1), (1, 1, 2), (2, 2, 4), (4, 4, 8)]
    times = {"x": Dimension(1e-9, "m"), "y": Dimension(1e-9, "m"), "t": Dimension(5, "s")}
    assert filled(points, limit=1000, dimensions=times)[1].grid.shape == (2, 2, 2)  # compared among themselves


def test_codes_are_those_of_shards() -> None:
    grid = Grid(np.zeros(4), (4, 3, 1, 9), np.ones(4))
    cells = np.array([*itertools.product(*map(range, grid.shape))])
    codes = grid.codes_of(cells)
    assert codes.tolist() == [compressed_morton_code(tuple(cell), grid.shape) for cell in cells.tolist()]
    np.testing.assert_array_equal(grid.cells_at(codes), cells)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 999.0, (0, 1000)),
        (10.7, 100_000.2, (10, 100_362)),
        (-3.0, -3.0, (-3, -2)),
        (0.0, 1.0, (0, 2)),
        (-0.001, 0.002, (-0.001007080078125, 0.0020141601562500)),
    ],
)
def test_bounds_are_round(low: float, high: float, expected: tuple[float, float]) -> None:
    (lower,), (upper,) = round_bounds([low], [high])
    assert lower <= low <= high < upper
    assert (lower, upper) == pytest.approx(expected, rel=1e-2)
    assert np.float32(upper - lower) == upper - lower


def test_levels_end_where_finer_cells_would_only_repeat_what_overlaps() -> None:
    corners = np.random.default_rng(0).random((4000, 2, 3)).astype(np.float32) * 300
    corners[:, 1] += 700
    block = Block(np.arange(4000, dtype=np.uint64), corners, np.zeros(4000, np.dtype([])))
    whole = Grid(np.zeros(3), (1, 1, 1), np.full(3, 1000.0))
    levels = [*fill_levels(block, "axis_aligned_bounding_box", whole, NM, limit=10)]
    assert len(levels) < 6
    assert sum(len(level.members.values) for level in levels) < 8 * (1 << 18)
    assert {*itertools.chain.from_iterable(level.members.values.tolist() for level in levels)} == {*range(4000)}
    assert [level.limit for level in levels[:-1]] == [10] * (len(levels) - 1)
    assert levels[-1].limit == levels[-1].members.lengths.max()
