"""Pyramids and arrays that these tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from precomputed_fs import (
    Volume,
    create_volume,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


OFFSET = (-5, 7, 100)

SIZE = (45, 33, 20)

CHUNK = (16, 8, 9)

CHUNKS = 3 * 5 * 3

RESOLUTION = (8, 8, 40)


def sharding(**changed: Any) -> dict[str, Any]:
    """Two by two by two chunks in a shard, of a grid of 3 x 5 x 3 (2 + 3 + 2 bits)."""
    given: dict[str, Any] = {"preshift_bits": 1, "hash": "identity", "minishard_bits": 2, "shard_bits": 4}
    return {"@type": "neuroglancer_uint64_sharded_v1", **given, **changed}


def voxels(shape: tuple[int, ...] = (*SIZE, 2), dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


def make(url: Any, array: Any = None, **options: Any) -> Volume:
    usual = {"resolution": RESOLUTION, "voxel_offset": OFFSET, "chunk_size": CHUNK, "scales": 1}
    return create_volume(url, voxels() if array is None else array, **{**usual, **options})


def empty(url: Any, size: tuple[int, int, int], chunk: int = 64, **options: Any) -> Volume:
    """Make a volume with nothing in it, which may be of any size."""
    scale = {"key": "1", "size": size, "chunk_sizes": [[chunk] * 3], "resolution": [1] * 3, "encoding": "raw"}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale | options]}
    return create_volume(url, info)


@st.composite
def indices(draw: st.DrawFn) -> tuple[Any, ...]:
    return tuple(
        draw(
            st.slices(size) | st.integers(-size, size - 1) | st.lists(st.integers(0, size - 1), min_size=1, max_size=3)
        )
        if axis == 0
        else draw(st.slices(size) | st.integers(-size, size - 1))
        for axis, size in enumerate((*SIZE, 2))
    )
