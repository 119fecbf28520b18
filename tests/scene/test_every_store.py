"""All that stands beside voxels, written to and read from each protocol that can be written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    Mesh,
    Skeleton,
    copy_pyramid,
    create_annotations,
    create_volume,
    open_annotations,
    open_volume,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.places import Place

MESH = Mesh([[0, 0, 0], [80, 0, 0], [0, 80, 0], [0, 0, 80]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
SKELETON = Skeleton([[0, 0, 0], [80, 0, 40]], [[0, 1]], {"radius": np.array([20, 10], np.float32)})
POINTS = np.random.default_rng(0).uniform(0, 100, (300, 3)).astype(np.float32)


@pytest.mark.parametrize("sharding", [None, True], ids=["files", "shards"])
def test_a_dataset_is_stored_read_and_copied(each_pyramid: Place, tmp_path: Path, sharding: Any) -> None:
    options: dict[str, Any] = {"storage_options": each_pyramid.storage_options}
    volume = create_volume(each_pyramid.url, np.ones((20, 15, 10), np.uint64), resolution=(8, 8, 40), **options)
    volume.store_meshes({1: MESH, 2: MESH}, sharding=sharding, multiresolution=True)
    volume.store_skeletons({1: SKELETON}, sharding=sharding)
    volume.store_segment_properties({"label": ["one", "two"], "size": np.array([7, 9], np.uint16)}, ids=[1, 2])
    create_annotations(f"{each_pyramid.url}/points", POINTS, sharding=bool(sharding), **options)
    copy_pyramid(open_volume(each_pyramid.url, **options), tmp_path / "copy")
    for url, given in ((each_pyramid.url, options), (tmp_path / "copy", {})):
        found = open_volume(url, **given)
        assert [mesh.bounds.max() for mesh in found.meshes.get([1, 2]).values()] == [80, 80]
        assert np.array_equal(found.skeletons[1].vertices, SKELETON.vertices)
        assert found.segment_properties["label"].tolist() == ["one", "two"]
        assert (3 in found.meshes, 2 in found.skeletons) == (False, False)
    points = open_annotations(f"{each_pyramid.url}/points", **options)
    inside = np.flatnonzero((POINTS < 50).all(axis=1))
    assert points.within([(0, 0, 0), (50, 50, 50)]).ids.tolist() == inside.tolist()
    assert np.array_equal(points[5].geometry, POINTS[5])
