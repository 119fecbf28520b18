"""What stands beside the voxels of a volume: skeletons of segments, the same in each process."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SEGMENTS = range(1, 1001)
VERTICES = 400  # of a skeleton, which then takes 10 KB, about as much as a neuron's at a coarse scale


def skeleton(segment: int) -> tuple[Array, Array, Array]:
    """Return the vertices, edges and radii of a segment's skeleton: a tree."""
    chance = np.random.default_rng(segment)
    vertices = np.cumsum(chance.normal(0, 200, (VERTICES, 3)), axis=0, dtype=np.float32)
    children = np.arange(1, VERTICES, dtype=np.uint32)
    edges = np.stack([children, children - chance.integers(1, np.minimum(children, 8) + 1).astype(np.uint32)], axis=1)
    return vertices, edges, chance.random(VERTICES, np.float32) * 100


def skeletons() -> Iterator[tuple[int, tuple[Array, Array, Array]]]:
    """Go through all of them."""
    return ((segment, skeleton(segment)) for segment in SEGMENTS)
