"""Where voxels are in space, as `info` and ``transform.json`` keep it."""

import json
from typing import Any

import numpy as np
import pytest

from precomputed_fs import CorruptDataError, InvalidInfoError
from precomputed_fs.volume.placement import Placement

AFFINE = np.array([[-0.7, 0.1, 0, 90], [0.1, 0.7, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
PLACEMENT = Placement(AFFINE, (700_000, 700_000, 2_000_000), "mni", (2.5, "sec"), is_rgb=True)


def test_a_placement_is_read_back_as_it_was_written() -> None:
    read = Placement.parse(json.loads(json.dumps(PLACEMENT.to_info())), "info")
    assert read.affine.tolist() == AFFINE.tolist()
    assert (read.resolution, read.space, read.time_step, read.is_rgb) == (
        (700_000, 700_000, 2_000_000), "mni", (2.5, "sec"), True,
    )  # fmt: skip


def test_the_affine_of_the_same_voxels_is_exactly_the_image_s() -> None:
    assert np.array_equal(PLACEMENT.affine_of(PLACEMENT.resolution, (0, 0, 0)), AFFINE)


def test_a_voxel_of_a_lower_scale_is_in_the_middle_of_its_own() -> None:
    lower = PLACEMENT.affine_of((1_400_000, 1_400_000, 2_000_000), (3, 0, 5))
    middle = AFFINE @ np.array([[6, 0, 5, 1], [7, 0, 5, 1], [6, 1, 5, 1], [7, 1, 5, 1]]).T
    assert np.allclose(lower[:, 3], middle.mean(axis=1))
    assert np.allclose(lower[:3, :3], AFFINE[:3, :3] * [2, 2, 1])


def test_a_transform_places_the_same_voxels() -> None:
    read = Placement.of_transform(PLACEMENT.to_transform(), "transform.json")
    cases: Any = (((700_000, 700_000, 2_000_000), (0, 0, 0)), ((1_400_000, 700_000, 4e6), (-3, 4, 5)))
    for resolution, start in cases:
        assert np.allclose(read.affine_of(resolution, start), PLACEMENT.affine_of(resolution, start))


def test_without_a_placement_axes_run_from_the_corner() -> None:
    affine = Placement.of_resolution((8e5, 8e5, 4e6)).affine_of((8e5, 8e5, 4e6), (10, 0, -1))
    assert np.allclose(affine, np.array([[0.8, 0, 0, 8.4], [0, 0.8, 0, 0.4], [0, 0, 4, -2], [0, 0, 0, 1]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affine": None}, r"info: nifti\.affine: expected 4 lists of 4 numbers, got None"),
        ({"affine": np.eye(3).tolist()}, r"nifti\.affine: expected"),
        ({"affine": [*np.eye(4)[:3].tolist(), [0, 0, 1, 1]]}, r"nifti\.affine: expected"),
        ({"affine": np.full((4, 4), np.inf).tolist()}, r"nifti\.affine: expected"),
        ({"affine": [["a"] * 4] * 4}, r"nifti\.affine: expected"),
        ({"resolution": [1, 1]}, r"nifti\.resolution: expected 3 positive numbers, got \[1, 1\]"),
        ({"resolution": [1, 1, 0]}, r"nifti\.resolution: expected"),
        ({"resolution": [1, 1, True]}, r"nifti\.resolution: expected"),
    ],
)
def test_an_invalid_member_names_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInfoError, match=message):
        Placement.parse({**PLACEMENT.to_info(), **change}, "info")


def test_what_is_no_object_is_refused_and_unknown_texts_are_not() -> None:
    with pytest.raises(InvalidInfoError, match="info: nifti: expected an object"):
        Placement.parse([], "info")
    read = Placement.parse({**PLACEMENT.to_info(), "space": "mars", "time_step": [1, "year"], "rgb": 1}, "info")
    assert (read.space, read.time_step, read.is_rgb) == ("unknown", None, False)


@pytest.mark.parametrize("text", [b"{}", b"[[1, 2]]", b"not JSON", b"[[[[1]]]]"])
def test_a_transform_that_is_no_matrix_is_corrupt(text: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"a/transform\.json: expected 4 lists of 4 numbers"):
        Placement.of_transform(text, "a/transform.json")
