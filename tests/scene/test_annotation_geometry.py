from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs.scene.annotation_geometry import bounds_of, meets

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sampled(kind: str, pair: Any, count: int = 4000) -> "NDArray[np.float64]":
    """Return points of an annotation."""
    rng = np.random.default_rng(1)
    first, second = pair.astype(float)
    if kind == "line":
        along: NDArray[np.float64] = first + np.linspace(0, 1, count)[:, None] * (second - first)
        return along
    if kind == "ellipsoid":
        unit = rng.normal(size=(count, 3))
        unit *= (rng.random(count) ** (1 / 3) / np.linalg.norm(unit, axis=1))[:, None]
        inside: NDArray[np.float64] = first + unit * second
        return inside
    filling: NDArray[np.float64] = first + rng.random((count, 3)) * (second - first)
    return filling


@pytest.mark.parametrize("kind", ["line", "axis_aligned_bounding_box", "ellipsoid"])
def test_what_meets_a_box_has_a_point_in_it(kind: str) -> None:
    rng = np.random.default_rng(0)
    pairs = rng.random((300, 2, 3)).astype(np.float32)
    if kind == "ellipsoid":
        pairs[:, 1] *= 0.4
    low, high = np.full(3, 0.4), np.full(3, 0.7)
    found = meets(kind, pairs, low, high)
    points = [sampled(kind, pair) for pair in pairs]
    has_point = np.array([((each >= low) & (each <= high)).all(axis=1).any() for each in points])
    assert not (has_point & ~found).any()
    assert (found != has_point).mean() < 0.05  # samples miss what only touches
    assert 0.1 < found.mean() < 0.9
    lows, highs = bounds_of(kind, pairs)
    assert all(((each >= a - 1e-6) & (each <= b + 1e-6)).all() for each, a, b in zip(points, lows, highs, strict=True))


def test_flat_ones() -> None:
    low, high = np.zeros(3), np.ones(3)
    along = np.array(
        [[[-1, 0.5, 0.5], [2, 0.5, 0.5]], [[-1, 1.5, 0.5], [2, 1.5, 0.5]], [[1, 1, 1], [1, 1, 1]]], np.float32
    )
    assert meets("line", along, low, high).tolist() == [True, False, True]
    balls = np.array([[[2, 0, 0], [1, 0, 0]], [[2, 0, 0], [0, 1, 1]], [[1, 1, 1], [0, 0, 0]]], np.float32)
    assert meets("ellipsoid", balls, low, high).tolist() == [True, False, True]
