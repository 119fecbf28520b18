"""Skeletons and volumes for tests of what stands beside voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precomputed_fs import Skeleton, create_volume

if TYPE_CHECKING:
    from precomputed_fs import Volume

LARGEST = (1 << 64) - 1
SEGMENTS = (0, 1, 7, 300, 1 << 40, LARGEST)


def labels(url: Any, **options: Any) -> Volume:
    """Create a small volume of labels."""
    voxels = np.arange(4 * 3 * 2, dtype=np.uint64).reshape(4, 3, 2)
    return create_volume(url, voxels, resolution=(8, 8, 40), scales=1, type="segmentation", **options)


def skeleton(seed: int, count: int = 20) -> Skeleton:
    """Make a random tree with a radius and another attribute."""
    chance = np.random.default_rng(seed)
    return Skeleton(
        chance.normal(0, 1e5, (count, 3)),
        [(child, int(chance.integers(0, child))) for child in range(1, count)],
        {
            "radius": chance.random(count, np.float32) * 500,
            "direction": chance.random((count, 2), np.float32),
        },
    )


SKELETONS = {segment: skeleton(index, 1 + 7 * index) for index, segment in enumerate(SEGMENTS)}
