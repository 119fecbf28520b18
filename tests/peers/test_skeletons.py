"""What cloud-volume, neuroglancer's package and igneous write is read as skeletons, and cloud-volume reads ours."""

from __future__ import annotations

import json
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import Skeleton, create_volume, open_volume
from precomputed_fs.format.skeleton import SkeletonsInfo, StoredSkeleton, encode_skeleton
from tests.scene.samples import SKELETONS, labels, skeleton
from tests.support.brain import template
from tests.support.tools import open_cloud_volume

if TYPE_CHECKING:
    from pathlib import Path

    from precomputed_fs import Volume

SEGMENTS = [segment for segment in SKELETONS if segment]  # to cloud-volume, 0 is the background


def cloud_volume(volume: Volume) -> Any:
    return open_cloud_volume(volume.url)


def theirs(segment: int, made: Skeleton) -> Any:
    """Return a skeleton as cloud-volume has it, with the attributes that it stores by default."""
    import cloudvolume

    return cloudvolume.Skeleton(made.vertices, made.edges, made.attributes["radius"], segid=segment)


def by_default(made: Skeleton) -> Skeleton:
    types = np.zeros(len(made.vertices), np.uint8)
    return Skeleton(made.vertices, made.edges, {"radius": made.attributes["radius"], "vertex_types": types})


def assert_same(found: Any, expected: Skeleton) -> None:
    np.testing.assert_array_equal(found.vertices, expected.vertices)
    np.testing.assert_array_equal(found.edges, expected.edges)
    for name, values in expected.attributes.items():
        np.testing.assert_array_equal(getattr(found, name), values)


@pytest.mark.parametrize("sharded", [False, True])
def test_cloud_volume_s_skeletons_are_read(tmp_path: Path, sharded: bool) -> None:
    volume = labels(tmp_path, encoding="raw")
    cv = cloud_volume(volume)
    cv.info["skeletons"] = "skeletons_mip_0"
    cv.commit_info()
    if sharded:
        cv.skeleton.meta.info["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1", "hash": "murmurhash3_x86_128", "preshift_bits": 2,
            "minishard_bits": 3, "shard_bits": 0, "minishard_index_encoding": "gzip", "data_encoding": "gzip",
        }  # fmt: skip
    cv.skeleton.meta.commit_info()
    cloud_volume(volume).skeleton.upload([theirs(segment, SKELETONS[segment]) for segment in SEGMENTS])
    found = open_volume(tmp_path).skeletons
    assert found.ids.tolist() == SEGMENTS
    assert found.get(SEGMENTS) == {segment: by_default(SKELETONS[segment]) for segment in SEGMENTS}


@pytest.mark.parametrize("sharding", [None, True])
def test_cloud_volume_reads_ours(tmp_path: Path, sharding: bool | None) -> None:
    volume = labels(tmp_path, encoding="raw")
    volume.store_skeletons(SKELETONS, sharding=sharding)
    cv = cloud_volume(volume)
    for found in cv.skeleton.get(SEGMENTS):
        assert_same(found, SKELETONS[int(found.id)])


def test_cloud_volume_s_skeletons_are_stored_and_a_transform_is_applied_as_by_it(tmp_path: Path) -> None:
    volume = labels(tmp_path, encoding="raw")
    with pytest.warns(UserWarning, match="Neuroglancer shows skeletons only if all attributes are float32"):
        volume.store_skeletons((segment, theirs(segment, SKELETONS[segment])) for segment in SEGMENTS)
    path = tmp_path / "skeletons/info"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "transform": [4, 0, 0, 16, 0, 4, 0, -8, 0, 0, 4, 0.5]}))
    found = open_volume(tmp_path).skeletons.get(SEGMENTS)
    for expected in cloud_volume(volume).skeleton.get(SEGMENTS):
        ours = found[int(expected.id)]
        np.testing.assert_allclose(ours.vertices, expected.vertices, rtol=1e-6)
        # cloud-volume leaves the radius in stored units; the specification has it in these, and vertices in nanometres
        np.testing.assert_array_equal(ours.attributes["radius"], expected.radius * 4)


def test_the_bytes_are_those_of_neuroglancer_s_package() -> None:
    from neuroglancer.skeleton import Skeleton as Theirs

    made = skeleton(3)
    made.attributes |= {
        "vertex_types": np.arange(20).astype(np.uint8),
        "level": np.arange(40, dtype=np.int16).reshape(20, 2),
    }
    attribute = namedtuple("attribute", "data_type num_components")  # noqa: PYI024 - as the package has it
    attributes = {
        "radius": attribute("float32", 1),
        "vertex_types": attribute("uint8", 1),
        "direction": attribute("int16", 2),
    }
    source = namedtuple("source", "vertex_attributes")(attributes)  # noqa: PYI024
    info = SkeletonsInfo.parse(
        {
            "@type": "neuroglancer_skeletons",
            "vertex_attributes": [{"id": name, **each._asdict()} for name, each in attributes.items()],
        }
    )
    stored = StoredSkeleton(made.vertices, made.edges, made.attributes)
    assert encode_skeleton(stored, info.vertex_attributes) == Theirs(made.vertices, made.edges, made.attributes).encode(
        source
    )


# ------------------------------------------------------------------------------------------------------------- igneous


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_igneous_skeletons_of_a_brain_are_read(tmp_path: Path, sharded: bool) -> None:
    import igneous.task_creation as tc
    from taskqueue import LocalTaskQueue

    white = template("wm")[60:140:2, 80:150:2, 60:120:2] > 150
    sides = np.where(np.arange(white.shape[0])[:, None, None] < 20, 1, 2)
    options: Any = {"resolution": "2 um", "chunk_size": (32, 32, 32), "scales": 1, "encoding": "raw"}
    volume = create_volume(tmp_path, (white * sides).astype(np.uint32), type="segmentation", **options)
    url = f"file://{tmp_path}"
    queue = LocalTaskQueue(parallel=1, progress=False)
    how = {"shape": (32, 32, 32), "teasar_params": {"scale": 1.5, "const": 2000}, "dust_threshold": 10}
    queue.insert_all(tc.create_skeletonizing_tasks(url, 0, sharded=sharded, **how))
    if sharded:
        queue.insert_all(tc.create_sharded_skeleton_merge_tasks(url, dust_threshold=10, tick_threshold=0))
    else:
        queue.insert_all(
            tc.create_unsharded_skeleton_merge_tasks(url, magnitude=1, dust_threshold=10, tick_threshold=0)
        )
    found = open_volume(tmp_path).skeletons
    assert found.ids.tolist() == [1, 2]
    assert "spatial_index" in found.info
    for each in cloud_volume(volume).skeleton.get([1, 2]):
        assert len(each.vertices) > 20
        assert_same(each, found[int(each.id)])
    right = found[2].vertices
    assert (right >= (20 * 2000, 0, 0)).all()
    assert (right <= np.array(volume[0].shape[:3]) * 2000).all()
