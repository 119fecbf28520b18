"""What stands beside the voxels of a volume: skeletons and meshes of segments, the same in each process."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SEGMENTS = range(1, 1001)
AROUND, ALONG = 32, 20  # vertices around the axis of a mesh, and along it; it takes 22 KB
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


def mesh(segment: int) -> tuple[Array, Array]:
    """Return the vertices and triangles of a segment's mesh: a tube that narrows at its ends, at a place of its own."""
    turn, height = np.meshgrid(np.arange(AROUND) * (2 * np.pi / AROUND), np.linspace(0.05, 0.95, ALONG) * np.pi)
    wide = np.sin(height)
    vertices = 500 * np.stack([wide * np.cos(turn), wide * np.sin(turn), np.cos(height)], axis=-1).reshape(-1, 3)
    corners = np.arange(AROUND * ALONG).reshape(ALONG, AROUND)
    right, above, beyond = np.roll(corners, -1, 1)[:-1], corners[1:], np.roll(corners, -1, 1)[1:]
    halves = (corners[:-1], right, above), (right, beyond, above)
    triangles = np.concatenate([np.stack(three, axis=-1).reshape(-1, 3) for three in halves])
    return np.add(vertices, [1000 * segment, 0, 0]).astype(np.float32), triangles.astype(np.uint32)


def meshes() -> Iterator[tuple[int, tuple[Array, Array]]]:
    """Go through all of them."""
    return ((segment, mesh(segment)) for segment in SEGMENTS)
