"""Meshes for tests: balls, which are watertight, so that what is lost or doubled changes their volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from precomputed_fs import Mesh
from tests.scene.samples import LARGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARDS = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "murmurhash3_x86_128",
    "preshift_bits": 0,
    "minishard_bits": 1,
    "shard_bits": 1,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}


def ball(subdivisions: int = 2, centre: Sequence[float] = (4000, 5000, 6000), radius: float = 2000) -> Mesh:
    import trimesh

    made = trimesh.creation.icosphere(subdivisions, radius)
    made.apply_translation(centre)
    return Mesh.from_trimesh(made)


def balls(*subdivisions: int, **options: Any) -> list[Mesh]:
    """Return a mesh in several levels of detail."""
    return [ball(each, **options) for each in subdivisions]


MESHES = {segment: ball(index % 3, (segment % 1009, -7, 1e5)) for index, segment in enumerate((1, 7, 1 << 40, LARGEST))}
LEVELS = {
    1: balls(3, 2, 1),
    7: balls(2, centre=(-100, 0, 3e6), radius=77),
    1 << 40: balls(3, 1, radius=1e6),
    LARGEST: balls(1, 1),
}


def merged(mesh: Mesh, digits: int = 0) -> Any:
    """Return a mesh of trimesh's in which vertices at the same place, to so many digits of a nanometre, are one."""
    made = mesh.to_trimesh()
    made.merge_vertices(digits_vertex=digits)
    return made


def same_surface(mesh: Mesh, other: Mesh, tolerance: float) -> bool:
    """Tell whether two meshes have the same closed surface, however it is cut into triangles."""
    import trimesh

    nearest: Any = trimesh.proximity.closest_point_naive
    one, two = merged(mesh), merged(other)
    assert (one.is_watertight, two.is_watertight) == (True, True)
    near = nearest(two, one.vertices[::7])[1]
    return bool(near.max() <= tolerance) and bool(np.isclose(one.volume, two.volume, rtol=1e-3))
