"""Images and labels: which type a pyramid gets, and when averages are warned about."""

import math
from typing import Any

import dask.array as da
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.brain import template
from tests.volume import samples
from tests.volume.samples import LABELS, MASK, SIZE, SMALL, Counting, make, small, store, voxels


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint64", "segmentation"), ("int32", "segmentation"), ("uint16", "image"), ("float32", "image")],
)
def test_wide_integers_are_labels(dtype: str, expected: str) -> None:
    volume = make("memory://tests/volume/type", np.array([1 << 20, 3, 3, 3]).astype(dtype).reshape(4, 1, 1), scales=2)
    assert volume.info.type == expected
    assert make("memory://tests/volume/type", voxels(SIZE, dtype), type="image").info.type == "image"


def test_a_mask_can_be_an_image() -> None:
    assert store(MASK, type="image").info.type == "image"


class CountingVoxels(Counting):
    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array)
        self.count = 0

    def __getitem__(self, index: Any) -> NDArray[Any]:
        part = super().__getitem__(index)
        self.count += part.size
        return part


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("uint8", np.asarray),
        ("int8", np.asarray),
        ("uint16", np.asarray),
        ("int16", np.asarray),
        ("uint8", CountingVoxels),
        ("uint8", da.from_array),
    ],
)
def test_averaged_labels_are_warned_about(dtype: str, kind: Any) -> None:
    source = kind((LABELS // 2).astype(dtype))
    with pytest.warns(UserWarning, match=r'only 2 distinct values.* type="segmentation".* type="image"') as warned:
        volume = store(source, scales=2)
    assert [warning.filename for warning in warned] == [samples.__file__]
    assert volume.info.type == "image"
    if isinstance(source, CountingVoxels):
        assert source.count == math.prod(SMALL), "it is not read for that"
    labels = store(source, scales=2, type="segmentation")
    assert np.unique(labels[1][...]).tolist() == [5, 100]


def parcels(count: int, dtype: str) -> NDArray[Any]:
    """Make an atlas: each voxel has the number of the nearest of some points, or 0 outside of a ball."""
    x, y, z = np.indices((40, 40, 20))
    points = np.random.default_rng(0).random((count, 3)) * x.shape
    distances = np.stack([(x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2 for px, py, pz in points])
    inside = (x - 20) ** 2 + (y - 20) ** 2 + (2 * z - 20) ** 2 < 20**2
    return np.where(inside, distances.argmin(0) + 1, 0).astype(dtype)


@pytest.mark.parametrize(("count", "dtype"), [(100, "uint8"), (100, "int8"), (60, "uint16"), (60, "int16")])
def test_an_atlas_of_many_labels_is_warned_about(count: int, dtype: str) -> None:
    with pytest.warns(UserWarning, match=r'mostly equal their neighbours.* type="segmentation"'):
        store(parcels(count, dtype), scales=2)


def padded(image: NDArray[Any], value: int) -> NDArray[Any]:
    return np.pad(image, 12, constant_values=value)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (padded(small(dtype="uint8"), 255), {}),
        (padded(small(dtype="int16"), -1000), {}),
        (np.maximum(small(dtype="uint8"), 150), {}),
        (small(dtype="uint16").repeat(2, 0).repeat(2, 1).repeat(2, 2), {}),
        (np.add.outer(np.add.outer(np.arange(60), np.arange(50)), np.arange(9)).astype("uint8"), {}),
        (LABELS, {"type": "image"}),
        (LABELS, {"type": "Segmentation"}),
        (LABELS, {"downsampling": "average"}),
        (LABELS, {"scales": 1}),
        (LABELS > 10, {}),
        (LABELS.astype("int32"), {}),
        (LABELS.astype("float32"), {}),
        (np.stack([LABELS] * 3, -1), {}),
        (np.ones(SMALL, np.uint8), {}),
        (np.zeros(SMALL, np.int16), {}),
        (small(dtype="uint8"), {}),
        (small((3, 3, 3)), {"chunk_size": (2, 2, 2)}),
        (np.arange(math.prod(SMALL), dtype=np.uint16).reshape(SMALL) // 100, {}),
    ],
)  # fmt: skip
def test_images_are_not_warned_about(source: Any, options: dict[str, Any]) -> None:
    store(source, **{"scales": 2, **options})


def test_a_brain_is_an_image() -> None:
    volume = store(nibabel.Nifti1Image(template()[60:124, 80:144, 60:84], np.eye(4)), scales=None)
    assert volume.info.type == "image"
    assert len(volume) > 2


@pytest.mark.parametrize("kind", ["image", "segmentation"])
def test_the_array_of_a_scale_keeps_its_type(kind: str) -> None:
    scale = store(LABELS, "memory://tests/volume/scale", type=kind)[0]
    for source in (scale, scale.array):
        assert store(source, scales=2).info.type == kind
