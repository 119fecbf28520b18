"""Scales as NIfTI images: the affine of whole scales, of lower ones and of boxes; and the way there and back."""

import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from neuroglancer_scripts.scripts import generate_scales_info, volume_to_precomputed

from precomputed_fs import CorruptDataError, InvalidInfoError, copy_pyramid, create_volume, open_volume
from tests.support import brain, servers

MM = 1_000_000
OBLIQUE = np.array(nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.7, 0.7, 2]), [90, -126, -72]
))  # fmt: skip
OFFSET = (-3, 4, 7)
VOXELS = np.ascontiguousarray(brain.template()[60:101, 80:111, 60:77])


def made(data: Any = VOXELS, affine: Any = OBLIQUE) -> Any:
    return nibabel.Nifti1Image(data, affine, dtype=data.dtype)


def create(source: Any = None, **options: Any) -> Any:
    options = {"chunk_size": 16, "voxel_offset": OFFSET, "overwrite": True, **options}
    return create_volume("memory://tests/interop/nifti", made() if source is None else source, **options)


def loaded(path: Path) -> Any:
    return nibabel.load(path)


@pytest.mark.parametrize("name", ["t1", "gm"])
def test_a_brain_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    voxels = brain.template(name)
    nibabel.save(made(voxels, nibabel.affines.from_matvec(np.eye(3), [-98, -134, -72])), tmp_path / "brain.nii.gz")
    create_volume(tmp_path / "brain", tmp_path / "brain.nii.gz", scales=1)
    nibabel.save(open_volume(tmp_path / "brain")[0].to_nifti(), tmp_path / "back.nii.gz")
    before, after = loaded(tmp_path / "brain.nii.gz"), loaded(tmp_path / "back.nii.gz")
    assert np.array_equal(after.affine, before.affine)
    assert after.get_data_dtype() == before.get_data_dtype()
    assert np.array_equal(np.asanyarray(after.dataobj), voxels)
    assert after.header.get_xyzt_units()[0] == "mm"


def test_every_voxel_has_its_place_whatever_is_cut_out(tmp_path: Path) -> None:
    """A voxel's value tells its indices in the source."""
    numbers = np.arange(30 * 20 * 10, dtype=np.int32).reshape(30, 20, 10)
    scale = create(made(numbers), scales=1)[0]
    for box in (None, ..., np.s_[0:10, 10:12, 9], np.s_[:, 5:6], np.s_[-3, 4, 7], scale.bounds):
        nibabel.save(scale.to_nifti(box), tmp_path / "part.nii")
        part = loaded(tmp_path / "part.nii")
        assert part.ndim == 3
        found = np.asanyarray(part.dataobj)
        for index in ((0, 0, 0), tuple(size - 1 for size in found.shape)):
            source = np.unravel_index(found[index], numbers.shape)
            assert np.allclose(part.affine @ [*index, 1], OBLIQUE @ [*source, 1])


def test_a_lower_scale_lies_on_the_finer_one() -> None:
    fine, coarse = (create()[level].to_nifti() for level in (0, 1))
    steps = np.array(create()[1].resolution) / create()[0].resolution
    # the first voxel is at an odd coordinate, so it is made of one column of the finer scale
    corner = np.linalg.inv(fine.affine) @ coarse.affine @ [*[-0.5] * 3, 1]
    start = np.floor_divide(OFFSET, steps) * steps - OFFSET
    assert np.allclose(corner[:3], start - 0.5)
    assert np.allclose(coarse.affine[:3, :3], fine.affine[:3, :3] * steps)


def test_a_region_that_was_copied_stays_in_its_place() -> None:
    volume = create()
    copied = copy_pyramid(volume, "memory://tests/interop/region", box=np.s_[5:30, :, 12:], overwrite=True)
    for scale, whole in zip(copied, volume, strict=True):
        image, expected = scale.to_nifti(), whole.to_nifti(scale.bounds)
        assert np.allclose(image.affine, expected.affine)
        assert np.array_equal(np.asanyarray(image.dataobj), np.asanyarray(expected.dataobj))


def test_both_transforms_of_the_header_are_set_unless_there_are_shears() -> None:
    header = create()[0].to_nifti().header
    assert np.allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert (header["sform_code"], header["qform_code"]) == (2, 2)
    sheared = OBLIQUE.copy()
    sheared[0, 1] += 0.2
    image = create(made(affine=sheared))[0].to_nifti()
    assert np.allclose(image.affine, sheared)
    assert (image.header["sform_code"], image.header["qform_code"]) == (2, 0)


@pytest.mark.parametrize("space", [0, 1, 4])
def test_the_space_is_kept(space: int) -> None:
    image = made()
    image.header.set_sform(OBLIQUE, space)
    assert create(image)[0].to_nifti().header["sform_code"] == (space or 2)


def test_without_an_image_axes_run_from_coordinate_0() -> None:
    volume = create(VOXELS, resolution=("1 mm", "1 mm", "2 mm"))
    image = volume[0].to_nifti()
    assert np.allclose(image.affine, np.array([[1, 0, 0, -2.5], [0, 1, 0, 4.5], [0, 0, 2, 15], [0, 0, 0, 1]]))
    assert np.array_equal(np.asanyarray(image.dataobj), VOXELS)


def test_times_colours_channels_and_labels_are_told() -> None:
    series = made(np.stack([VOXELS] * 20, axis=-1))
    series.header.set_xyzt_units("mm", "sec")
    series.header.set_zooms((*series.header.get_zooms()[:3], 2.5))
    header = create(series)[0].to_nifti().header
    assert (header.get_zooms()[3], header.get_xyzt_units()) == (2.5, ("mm", "sec"))

    colours = np.zeros(VOXELS.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = VOXELS
    assert np.array_equal(np.asanyarray(create(made(colours))[0].to_nifti().dataobj), colours)

    channels = create(np.stack([VOXELS] * 3, axis=-1), resolution=8)[0]
    assert channels.to_nifti().shape == (*VOXELS.shape, 3)
    assert channels.to_nifti(np.s_[..., 1]).shape == VOXELS.shape

    labels = create(VOXELS // 64, resolution=8, type="segmentation")[0].to_nifti()
    assert labels.header.get_intent()[0] == "label"
    assert create(labels).info.type == "segmentation"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "int32", "uint64", "float32"])
def test_each_type_is_kept(tmp_path: Path, dtype: str) -> None:
    nibabel.save(create(VOXELS.astype(dtype), resolution=8)[0].to_nifti(), tmp_path / "back.nii")
    data = np.asanyarray(loaded(tmp_path / "back.nii").dataobj)
    assert data.dtype == dtype
    assert np.array_equal(data, VOXELS)


def test_a_long_axis_needs_the_second_version() -> None:
    image = create(np.ones((40_000, 2, 2), np.uint8), resolution=8, chunk_size=(8192, 2, 2), scales=1)[0].to_nifti()
    assert isinstance(image, nibabel.Nifti2Image)
    assert image.shape == (40_000, 2, 2)


def test_boxes_that_are_no_image_are_refused() -> None:
    scale = create(scales=1)[0]
    for box, error, message in (
        (np.s_[::2], ValueError, "steps are not possible, but a lower scale is"),
        (np.s_[0:0], ValueError, "expected a box with voxels"),
        (np.s_[0:100], IndexError, "is not inside of"),
    ):
        with pytest.raises(error, match=message):
            scale.to_nifti(box)


def test_an_invalid_member_of_info_names_its_place(tmp_path: Path) -> None:
    create_volume(tmp_path, VOXELS, resolution=8, scales=1)
    info = json.loads((tmp_path / "info").read_text())
    (tmp_path / "info").write_text(json.dumps({**info, "nifti": {"affine": 1}}))
    with pytest.raises(InvalidInfoError, match=r"info: nifti\.affine: expected 4 lists of 4 numbers, got 1"):
        open_volume(tmp_path)[0].to_nifti()
    (tmp_path / "info").write_text(json.dumps(info))
    (tmp_path / "transform.json").write_text("{}")
    with pytest.raises(CorruptDataError, match=r"transform\.json: expected 4 lists of 4 numbers"):
        open_volume(tmp_path)[0].to_nifti()


def test_a_denied_transform_is_told_and_the_image_made_without() -> None:
    objects = create_volume("memory://tests/interop/denied", VOXELS, resolution="1 mm", scales=1).accessor
    chunk = "1000000_1000000_1000000/"
    found = {"/info": objects.fetch_file("info")}

    async def handler(request: Any) -> Any:
        name = request.path
        if name.startswith(f"/{chunk}"):
            return await servers.respond(200, objects.fetch_file(name[1:]))(request)
        return await servers.respond(*((200, found[name]) if name in found else (403, b"")))(request)

    told = pytest.warns(UserWarning, match=r"transform\.json.*the image is made as if there were none")
    with servers.fault_server(handler) as server, told:
        image = open_volume(server.url)[0].to_nifti()
    assert np.allclose(np.diag(image.affine), 1)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = create(VOXELS, resolution=8)[0]
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[nifti\]'"):
        scale.to_nifti()


# ------------------------------------------------------------------------------------------------ neuroglancer-scripts


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Convert an oblique image with the tools of neuroglancer-scripts."""
    nibabel.save(made(), tmp_path / "brain.nii.gz")
    folder = tmp_path / "theirs"
    folder.mkdir()
    arguments = ["", str(tmp_path / "brain.nii.gz"), str(folder)]
    assert volume_to_precomputed.main([*arguments, "--generate-info"]) == 0
    assert not generate_scales_info.main(["", str(folder / "info_fullres.json"), str(folder)])
    assert volume_to_precomputed.main(arguments) == 0
    return folder


def test_we_read_their_place_from_their_transform(theirs: Path) -> None:
    image = open_volume(theirs)[0].to_nifti()
    assert np.allclose(image.affine, OBLIQUE, atol=1e-5)
    assert np.array_equal(np.asanyarray(image.dataobj), VOXELS)


def test_they_would_write_what_we_write(theirs: Path, tmp_path: Path) -> None:
    ours = create_volume(tmp_path / "ours", tmp_path / "brain.nii.gz")[0]
    matrix, theirs_too = (json.loads((folder / "transform.json").read_text()) for folder in (tmp_path / "ours", theirs))
    assert np.allclose(matrix, theirs_too, rtol=1e-6, atol=10)  # nanometres
    their = open_volume(theirs)[0]
    assert np.allclose(ours.resolution, their.resolution, rtol=1e-6)
    assert ours.resolution == (700_000, 700_000, 2 * MM)
    assert np.array_equal(ours[...], their[...])
