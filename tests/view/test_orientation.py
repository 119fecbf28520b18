"""How slices are turned: as in Neuroglancer, or upright."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import Volume, create_volume, open_volume
from precomputed_fs.format.info import Info
from precomputed_fs.volume.placement import Placement
from tests.view.volumes import OFFSET, SIZE, make, pixels, seen, voxels

if TYPE_CHECKING:
    from numpy.typing import NDArray

RAS = np.random.default_rng(1).integers(1, 250, (40, 30, 20)).astype(np.uint8)
"""A body whose axes point right, anterior and superior."""


def upright(array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the axial, coronal and sagittal middle slice of a body like `RAS`, by the axis that they are across."""
    x, y, z = (size // 2 for size in array.shape)
    return {"S": array[:, :, z].T[::-1], "A": array[:, y].T[::-1], "R": array[x].T[::-1]}


def reoriented(directions: str) -> NDArray[Any]:
    """Return `RAS` as somebody stores it whose axes point elsewhere."""
    import nibabel

    axes: Any = nibabel.orientations.axcodes2ornt(tuple("RAS"))
    others: Any = nibabel.orientations.axcodes2ornt(tuple(directions))
    change: Any = nibabel.orientations.ornt_transform(axes, others)
    return np.asarray(nibabel.orientations.apply_orientation(RAS, change))


def side_by_side(panels: list[NDArray[Any]]) -> NDArray[Any]:
    whole = np.zeros((max(map(len, panels)), sum(panel.shape[1] + 8 for panel in panels) - 8, 2), np.uint8)
    left = 0
    for panel in panels:
        rows, columns = panel.shape
        whole[:rows, left : left + columns] = np.dstack([panel, np.full_like(panel, 255)])
        left += columns + 8
    return whole


def test_a_body_is_shown_upright() -> None:
    scale = make(RAS, voxel_offset=OFFSET, scales=1)[0]
    shown = pixels(scale.show(size=None, orientation="anatomical"))
    np.testing.assert_array_equal(shown, side_by_side([*upright(RAS).values()]))
    for axis, side in zip("xyz", "RAS", strict=True):
        point: dict[str, Any] = {axis: OFFSET["xyz".index(axis)] + SIZE["xyz".index(axis)] // 2}
        shown = pixels(scale.show(**point, size=None, orientation="anatomical"))
        np.testing.assert_array_equal(shown, upright(RAS)[side])


@pytest.mark.parametrize("directions", ["RAS", "LPS", "LAS", "RSP", "PIR", "ASL", "IRA"])
def test_however_a_body_lies_in_a_volume_it_is_shown_upright(directions: str) -> None:
    import nibabel

    array = reoriented(directions)
    scale = make(array, scales=1)[0]
    # flipping moves the middle voxel of an even number of voxels
    point = [
        {axis: size - 1 - size // 2 if letter in "LPI" else size // 2}
        for axis, size, letter in zip("xyz", array.shape, directions, strict=True)
    ]
    by_side = dict(zip(directions, point, strict=True))
    for side, other in ("SI", "AP", "RL"):
        at: dict[str, Any] = by_side.get(side) or by_side[other]
        shown = pixels(scale.show(**at, size=None, orientation=directions))
        np.testing.assert_array_equal(shown, upright(RAS)[side])
    affine = np.eye(4)
    affine[:3, :3] = np.diag((2, 3, 4)) @ _axes(directions) @ _turned(0.3)
    assert "".join(nibabel.aff2axcodes(affine)) == directions
    volume = create_volume(
        f"memory://test_display/affine_{directions}",
        {**scale.volume.info.to_dict(), "nifti": Placement(affine, (8, 8, 8)).to_info()},
        overwrite=True,
    )  # fmt: skip
    volume[0][...] = array
    np.testing.assert_array_equal(
        pixels(volume.show(size=None, orientation="anatomical")), pixels(scale.show(size=None, orientation=directions))
    )


def _axes(directions: str) -> NDArray[Any]:
    """Return the matrix whose columns are the directions."""
    sides = ["RL", "AP", "SI"]
    columns = [[(-1.0) ** side.index(letter) if letter in side else 0.0 for side in sides] for letter in directions]
    return np.array(columns, float).T


def _turned(angle: float) -> NDArray[Any]:
    """Return a rotation, as of a head that is held askew."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned: NDArray[Any] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    both: NDArray[Any] = turned @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return both


@pytest.mark.parametrize(
    "placement", [None, [], {"affine": 7}, Placement(np.diag((0, 0, 0, 1.0)), (8, 8, 8)).to_info()]
)
def test_without_an_affine_axes_are_taken_for_those_of_nifti(placement: Any) -> None:
    made = make(RAS, scales=1)
    volume = Volume(made.accessor, Info.parse({**made.info.to_dict(), "nifti": placement}))
    shown = pixels(volume.show(z=10, size=None, orientation="anatomical"))
    np.testing.assert_array_equal(shown, upright(RAS)["S"])


def test_a_volume_keeps_its_orientation() -> None:
    url = make(voxels((160, 80, 40)), chunk_size=(160, 80, 40), scales=1).url
    volume = open_volume(url, orientation="anatomical")
    upright_xy = pixels(open_volume(url)[0].show(z=20, size=None, orientation="anatomical"))
    for source in (volume, volume[0], pickle.loads(pickle.dumps(volume))):
        np.testing.assert_array_equal(pixels(source.show(z=20, size=None)), upright_xy)
        np.testing.assert_array_equal(seen(source).images[0], upright_xy)
    assert volume.show(z=20, orientation="neuroglancer") == open_volume(url).show(z=20)
    volume.orientation = "neuroglancer"
    np.testing.assert_array_equal(seen(volume).images[0], upright_xy[::-1])


@pytest.mark.parametrize("orientation", ["upright", "RAL", "ras", "RASS", "", 7])
def test_an_unknown_orientation_is_refused(orientation: Any) -> None:
    volume = make(voxels(), scales=1)
    for use in (volume.show, volume[0].plot, lambda orientation: open_volume(volume.url, orientation=orientation)):
        with pytest.raises(ValueError, match="orientation: expected 'neuroglancer', 'anatomical', or where x, y and z"):
            use(orientation=orientation)
    with pytest.raises(ValueError, match="orientation: "):
        volume.orientation = orientation
    assert volume.orientation == "neuroglancer"


@pytest.mark.parametrize(("given", "meant"), [("ras", "RAS"), ("Anatomical", "anatomical"), ("anatomic", "anatomical")])
def test_the_nearest_orientation_is_named(given: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"; did you mean '{meant}'"):
        make(voxels(), scales=1).show(orientation=given)
