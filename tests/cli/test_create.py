"""``precomputed-fs create`` and ``slice --out x.nii.gz``: from images to pyramids, and back."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from precomputed_fs import __main__, create_volume, open_volume
from tests.support import brain, servers

AFFINE = np.diag([0.5, 0.5, 2.0, 1])
AFFINE[:3, 3] = -98, -134, -72
VOXELS = np.ascontiguousarray(brain.template()[60:101, 80:111, 60:77])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE), tmp_path / "brain.nii.gz")
    return tmp_path / "brain.nii.gz"


def run(*arguments: Any) -> int:
    return __main__.main([str(argument) for argument in arguments])


def loaded(path: Path) -> Any:
    return nibabel.load(path)


def test_an_image_becomes_a_pyramid_in_a_bucket_and_comes_back(image: Path, s3_server: servers.S3Server) -> None:
    s3_server.create_bucket("created")
    options = json.dumps(s3_server.storage_options)
    assert run("create", image, "s3://created/brain", "--destination-storage-options", options) == 0
    volume = open_volume("s3://created/brain", storage_options=s3_server.storage_options)
    assert np.array_equal(volume[0][..., 0], VOXELS)
    assert volume[0].resolution == (500_000, 500_000, 2_000_000)

    s3_server.put("created", "brain.nii.gz", image.read_bytes())
    assert run("create", "s3://created/brain.nii.gz", image.parent / "b", "--source-storage-options", options) == 0
    assert np.array_equal(open_volume(image.parent / "b")[0][...], volume[0][...])

    back = image.parent / "back.nii.gz"
    assert run("slice", "s3://created/brain", "--out", back, "--storage-options", options) == 0
    assert np.array_equal(np.asanyarray(loaded(back).dataobj), VOXELS)
    assert np.array_equal(loaded(back).affine, AFFINE)


def test_options_are_those_of_create_volume(image: Path, tmp_path: Path) -> None:
    options = "--resolution 25um --voxel-offset -3 4 7 --chunk-size 16 --scales 2 --encoding png --sharding auto"
    more = "--type segmentation --downsampling stride --parameter png_level=3 --skip-empty"
    assert run("create", image, tmp_path / "a", *options.split(), *more.split()) == 0
    volume = open_volume(tmp_path / "a")
    expected = create_volume(
        tmp_path / "b", image, resolution="25 um", voxel_offset=(-3, 4, 7), chunk_size=16, scales=2, encoding="png",
        sharding=True, type="segmentation", downsampling="stride", png_level=3, skip_empty=True,
    )  # fmt: skip
    assert volume.info.to_dict() == expected.info.to_dict()
    assert np.array_equal(volume[1][...], expected[1][...])


def test_lengths_and_sizes_are_one_or_three(image: Path, tmp_path: Path) -> None:
    for number, given in enumerate((["8", "8", "40"], ["8nm", "8nm", "40nm"], ["8 x 8 x 40 nm"])):
        assert run("create", image, tmp_path / str(number), "--resolution", *given, "--chunk-size", 32, 16, 8) == 0
        scale = open_volume(tmp_path / str(number))[0]
        assert (scale.resolution, scale.chunk_size) == ((8, 8, 40), (32, 16, 8))


def test_an_array_of_numpy_s_has_named_axes(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", VOXELS.T)
    assert (
        run("create", tmp_path / "array.npy", tmp_path / "a", "--axes", "zyx", "--resolution", "1.5", "--no-flat") == 0
    )
    assert np.array_equal(open_volume(tmp_path / "a")[0][..., 0], VOXELS)
    assert (tmp_path / "a/1.5_1.5_1.5/0-41").is_dir()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.nii.gz", "a"], 3, "cannot read"),
        (["info", "a"], 5, "is not a NIfTI file"),
        (["brain.nii.gz", "a"], 1, "there is a pyramid already; --overwrite replaces it"),
        (["brain.nii.gz", "b", "--resolution", "8", "9"], 2, "resolution: expected 1 length for all axes, or 3"),
        (["brain.nii.gz", "b", "--resolution", "8furlongs"], 2, "resolution: expected a number with one of the units"),
        (["brain.nii.gz", "b", "--axes", "zyx"], 2, "axes: for arrays; an image has axes of its own"),
        (["brain.nii.gz", "b", "--type", "seg"], 2, "invalid choice: 'seg'"),
        (["brain.nii.gz", "b", "--parameter", "jpeg_quality=3"], 2, "--parameter jpeg_quality: the given --encoding"),
    ],
)
def test_mistakes_are_told_and_nothing_is_made(
    image: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    folder = image.parent
    (folder / "info").write_text("{}")
    create_volume(folder / "a", VOXELS, resolution=8)
    source, destination, *options = arguments
    assert run("create", folder / source, folder / destination, *options) == code
    assert message in capfd.readouterr().err
    assert not (folder / "b").exists()


# --------------------------------------------------------------------------------------------------------------- slice


def test_a_slice_is_an_image_one_voxel_thick(image: Path, tmp_path: Path) -> None:
    create_volume(tmp_path / "a", image)
    out = tmp_path / "slice.NII"
    assert run("slice", tmp_path / "a", "--out", out, "--z", 5, "--channel", 0) == 0
    assert np.array_equal(np.asanyarray(loaded(out).dataobj), VOXELS[:, :, 5:6])
    assert np.allclose(loaded(out).affine @ [0, 0, 0, 1], AFFINE @ [0, 0, 5, 1])


def test_a_region_is_an_image(image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    create_volume(tmp_path / "a", image)
    assert run("slice", tmp_path / "a", "--out", tmp_path / "a.nii", "--box", "3:10,:,5:7") == 0
    assert np.array_equal(np.asanyarray(loaded(tmp_path / "a.nii").dataobj), VOXELS[3:10, :, 5:7])
    assert np.allclose(loaded(tmp_path / "a.nii").affine @ [0, 0, 0, 1], AFFINE @ [3, 0, 5, 1])
    assert run("slice", tmp_path / "a", "--out", tmp_path / "a.png", "--box", "3:10,:,5:7") == 2
    assert "--box is for NIfTI files" in capfd.readouterr().err
    assert run("slice", tmp_path / "a", "--out", tmp_path / "a.nii", "--box", "3:10,:,5:7", "--z", 6) == 2
    assert "--box already says where" in capfd.readouterr().err


def test_another_scale_is_chosen_by_its_voxel_size(image: Path, tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "a", image, chunk_size=16)
    assert run("slice", tmp_path / "a", "--out", tmp_path / "a.nii", "--scale", "1 x 1 x 2 mm") == 0
    assert np.array_equal(np.asanyarray(loaded(tmp_path / "a.nii").dataobj), volume[1][..., 0])
    assert np.allclose(loaded(tmp_path / "a.nii").affine, volume[1].to_nifti().affine)


def test_what_is_large_is_written_only_if_it_is_chosen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scale = {"resolution": [8] * 3, "chunk_sizes": [[64] * 3], "encoding": "raw"}
    scales = [{**scale, "key": "8", "size": [2000] * 3}, {**scale, "key": "16", "size": [20] * 3}]
    create_volume(tmp_path / "a", {"data_type": "uint8", "num_channels": 1, "scales": scales})
    assert run("slice", tmp_path / "a", "--out", tmp_path / "a.nii") == 2
    assert (
        "choose how much to write with --scale, of 8 (7.451 GiB), 16 (7.812 KiB); or with --box"
        in capfd.readouterr().err
    )
    open_volume(tmp_path / "a")["16"][...] = 3
    assert run("slice", tmp_path / "a", "--out", tmp_path / "a.nii", "--scale", "16") == 0
    assert loaded(tmp_path / "a.nii").shape == (20, 20, 20)


@pytest.mark.parametrize("options", [["--size", "100"], ["--limits", "0", "1"], ["--orientation", "LPS"]])
def test_options_for_pictures_are_not_for_images(
    image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    create_volume(tmp_path / "a", image)
    assert run("slice", tmp_path / "a", "--out", tmp_path / "a.nii", *options) == 2
    assert f"{options[0]} is for pictures" in capfd.readouterr().err
