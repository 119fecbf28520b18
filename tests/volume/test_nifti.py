"""NIfTI files and images of nibabel as sources."""

import gzip
import json
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from precomputed_fs import CorruptDataError, Volume, copy_pyramid, create_volume
from precomputed_fs.volume.intake import read_source
from precomputed_fs.volume.planning import ArrayOptions
from tests.support.tools import open_cloud_volume, read_with_tensorstore
from tests.volume.samples import small

MM = 1_000_000
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array(
    [[-0.7 * COS, -0.7 * SIN, 0, 90], [-0.7 * SIN, 0.7 * COS, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]], float
)
"""Of voxels of 0.7 x 0.7 x 2 mm that are rotated, the first axis to the left."""


def made(data: Any, affine: Any = OBLIQUE, **header: Any) -> Any:
    image: Any = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    for name, value in header.items():
        image.header[name] = value
    return image


def saved(folder: Path, data: Any, affine: Any = OBLIQUE, *, suffix: str = ".nii.gz", **header: Any) -> Path:
    nibabel.save(made(data, affine, **header), folder / f"brain{suffix}")
    return folder / f"brain{suffix}"


def create(source: Any, **options: Any) -> Volume:
    return create_volume("memory://tests/volume/nifti", source, **{"overwrite": True, "scales": 1, **options})


# ------------------------------------------------------------------------------------------------------------- voxels


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nii.bz2"])
@pytest.mark.parametrize("of", [str, Path, "file://{}".format, nibabel.load])
def test_a_file_gives_voxels_resolution_and_place(tmp_path: Path, suffix: str, of: Any) -> None:
    volume = create(of(saved(tmp_path, small(dtype="int16"), suffix=suffix)))
    assert np.array_equal(volume[0][..., 0], small())
    assert (volume[0].resolution, volume[0].voxel_offset, volume.dtype.name) == (
        (700_000, 700_000, 2 * MM),
        (0, 0, 0),
        "int16",
    )
    assert np.allclose(volume.info["nifti"]["affine"], OBLIQUE)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_and_byte_orders_are_read(tmp_path: Path, kind: Any, order: str) -> None:
    image = kind(small(dtype=f"{order}i2"), OBLIQUE, kind.header_class(endianness=order))
    image.to_filename(tmp_path / "brain.nii")
    assert np.array_equal(create(tmp_path / "brain.nii")[0][..., 0], small())


def test_values_are_scaled_as_nibabel_scales_them(tmp_path: Path) -> None:
    image = made(small() / 7)
    image.set_data_dtype(np.int16)
    for suffix in (".nii", ".nii.gz"):
        nibabel.save(image, tmp_path / f"brain{suffix}")
        loaded: Any = nibabel.load(tmp_path / f"brain{suffix}")
        assert loaded.dataobj.slope != 1
        for source in (tmp_path / f"brain{suffix}", loaded, loaded.dataobj):
            scale = create(source, **({"resolution": 8} if source is loaded.dataobj else {}))[0]
            assert scale.dtype == np.float32
            assert np.array_equal(scale[..., 0], loaded.get_fdata().astype(np.float32))


@pytest.mark.parametrize("of", [str, nibabel.load])
def test_memory_does_not_hold_the_voxels_of_a_compressed_file(tmp_path: Path, of: Any) -> None:
    image = made(np.zeros((128, 128, 160), np.int16), np.eye(4))  # 5 MiB, and 10 as float32
    image.header.set_slope_inter(0.5, 1)
    nibabel.save(image, tmp_path / "zeros.nii.gz")
    del image
    source = of(tmp_path / "zeros.nii.gz")
    tracemalloc.start()
    try:
        voxels = read_source(source, ArrayOptions()).array
        part = voxels[slice(60, 92), slice(60, 92), slice(60, 92)]
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    assert (voxels.shape, part.shape, part.dtype) == ((128, 128, 160), (32, 32, 32), np.dtype("float32"))
    assert (part == 1).all()


def test_colours_are_not_scaled(tmp_path: Path) -> None:
    colours = np.ones((3, 2, 2), [(name, "u1") for name in "RGB"])
    data = bytearray(saved(tmp_path, colours, suffix=".nii").read_bytes())
    data[112:116] = np.float32(2).tobytes()  # the slope
    (tmp_path / "brain.nii").write_bytes(data)
    voxels = create(tmp_path / "brain.nii")[0][...]
    assert voxels.shape == (3, 2, 2, 3)
    assert (voxels == 1).all()


# --------------------------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        ((4, 3), (4, 3, 1, 1)), ((4, 3, 2), (4, 3, 2, 1)), ((4, 3, 2, 20), (4, 3, 2, 20)), ((4, 3, 2, 1), (4, 3, 2, 1)),
        ((4, 3, 2, 1, 5), (4, 3, 2, 5)), ((4, 3, 1, 6, 1, 1), (4, 3, 1, 6)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1, 0.5])
def test_axes_become_x_y_z_and_channel(
    tmp_path: Path, shape: tuple[int, ...], stored: tuple[int, ...], scale: float
) -> None:
    """Times are channels, however many; so are the components of vectors, which NIfTI has as the fifth axis."""
    image = made(small(shape, "int16"))
    image.header.set_slope_inter(scale, 0)
    nibabel.save(image, tmp_path / "brain.nii")
    volume = create(tmp_path / "brain.nii")
    expected = np.asanyarray(nibabel.load(tmp_path / "brain.nii").dataobj)  # type: ignore[attr-defined]
    assert np.array_equal(volume[0][...], expected.reshape(stored, order="F"))


def test_two_axes_of_channels_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"at most 4 axes, got shape \(4, 3, 2, 2, 3\): pass a part, such as image.slicer"
    ):
        create(made(small((4, 3, 2, 2, 3), "int16")))


def test_a_time_series_has_chunks_of_reasonable_bytes() -> None:
    scale = create(made(np.zeros((70, 70, 70, 40), np.float32)))[0]
    assert scale.chunk_size == (32, 32, 32)


def test_axes_are_the_image_s_own() -> None:
    with pytest.raises(TypeError, match="axes: for arrays"):
        create(made(small()), axes="zyx")


# ------------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("unit", "code", "nm"), [("meter", 1, 1000 * MM), ("mm", 2, MM), ("micron", 3, 1000), ("unknown", 0, MM)]
)
def test_the_header_s_unit_counts(unit: str, code: int, nm: int) -> None:
    volume = create(made(small(), np.diag([0.5, 0.5, 0.25, 1]), xyzt_units=code))
    assert volume[0].resolution == (nm / 2, nm / 2, nm / 4), unit
    assert volume.info["nifti"]["affine"][2][2] == 0.25 * nm / MM


def test_an_unknown_code_of_a_unit_is_taken_for_millimetres() -> None:
    assert create(made(small(), np.eye(4), xyzt_units=7))[0].resolution == (MM, MM, MM)


def test_a_given_resolution_overrides_the_header_s_with_its_affine() -> None:
    volume = create(made(small()), resolution="25 um")
    assert volume[0].resolution == (25_000, 25_000, 25_000)
    assert "nifti" not in volume.info
    assert "nifti" in create(made(small()), resolution=("0.7 mm", "0.7 mm", "2 mm")).info


@pytest.mark.parametrize("step", [0, np.nan])
def test_without_an_affine_a_resolution_is_needed(step: float) -> None:
    nothing = made(small())
    nothing.affine[:3, 2] = step
    with pytest.raises(TypeError, match=r"resolution: the image's header has no affine, .*: pass .*'1 mm'"):
        create(nothing)
    assert create(nothing, resolution=8)[0].resolution == (8, 8, 8)


@pytest.mark.parametrize(
    ("sform", "qform", "size", "space"), [(4, 1, 2, "mni"), (0, 1, 3, "scanner"), (0, 0, 4, "unknown")]
)
def test_sform_counts_before_qform_and_names_the_space(
    tmp_path: Path, sform: int, qform: int, size: int, space: str
) -> None:
    header: Any = nibabel.Nifti1Header()
    header.set_data_shape(small().shape)
    header.set_qform(np.diag([3.0, 3, 3, 1]), qform)
    header.set_sform(np.diag([2.0, 2, 2, 1]), sform)
    if not qform:
        header.set_zooms((4, 4, 4))
    nibabel.save(nibabel.Nifti1Image(small(), None, header), tmp_path / "brain.nii")
    member = create(tmp_path / "brain.nii").info["nifti"]
    loaded: Any = nibabel.load(tmp_path / "brain.nii")
    assert (member["affine"], member["resolution"], member["space"]) == (
        loaded.affine.tolist(), [size * MM] * 3, space,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- labels


LABELS = small(dtype="int16") % 5


@pytest.mark.parametrize(
    ("labels", "options", "stored"),
    [
        (LABELS.astype("float32"), {"type": "segmentation"}, "uint32"),
        (LABELS * 2.0**33, {"type": "segmentation"}, "uint64"),
        (LABELS.astype("int64"), {}, "uint32"),
        (-LABELS.astype("int64"), {}, "int32"),
        (LABELS, {"encoding": "compressed_segmentation"}, "uint32"),
        (LABELS.astype("uint8"), {"encoding": "compressed_segmentation"}, "uint32"),
        (LABELS, {"type": "segmentation"}, "int16"),
        (LABELS.astype("int32"), {}, "int32"),
    ],
)
def test_labels_are_stored_as_integers_that_hold_them(labels: Any, options: dict[str, str], stored: str) -> None:
    volume = create(made(labels), **options)
    assert (volume.info.type, volume.dtype.name) == ("segmentation", stored)
    assert np.array_equal(volume[0][..., 0], labels)


@pytest.mark.parametrize(
    ("labels", "encoding", "message"),
    [
        (LABELS + np.float32(0.5), "raw", r"labels are whole numbers, got .*\.5: pass type=\"image\""),
        (np.where(LABELS == 0, np.float32(np.nan), LABELS), "raw", "labels are whole numbers, got nan"),
        (-LABELS, "compressed_segmentation", "integers of uint32, uint64, and labels are from -4 to 0"),
    ],
)
def test_labels_that_no_integer_holds_are_refused_before_anything_is_written(
    tmp_path: Path, labels: Any, encoding: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        create_volume(tmp_path / "none", made(labels), type="segmentation", encoding=encoding)
    assert not (tmp_path / "none").exists()


def test_the_header_may_say_that_values_are_labels() -> None:
    assert create(made(LABELS, intent_code=1002)).info.type == "segmentation"
    assert create(made(LABELS, intent_code=1002), type="image").info.type == "image"


# --------------------------------------------------------------------------------------------------- what is kept of it


def test_info_and_transform_json_say_where_the_voxels_are(tmp_path: Path) -> None:
    volume = create_volume(tmp_path, made(small(), xyzt_units=10), voxel_offset=(-3, 4, 7))
    matrix = np.array(json.loads((tmp_path / "transform.json").read_text()))
    for index in ((0, 0, 0), (5, 3, 8)):
        centre = (np.add(index, (-3, 4, 7)) + 0.5) * volume[0].resolution
        in_mm = OBLIQUE @ [*index, 1]
        assert np.allclose(matrix @ [*centre, 1], [*in_mm[:3] * MM, 1])
        assert np.allclose(np.array(volume.info["nifti"]["affine"]) @ [*np.add(index, (-3, 4, 7)), 1], in_mm)


def test_other_readers_do_not_mind(tmp_path: Path) -> None:
    create_volume(tmp_path, made(small()))
    assert np.array_equal(read_with_tensorstore(tmp_path)[1][..., 0], small())
    assert np.array_equal(np.asarray(open_cloud_volume(tmp_path)[...])[..., 0], small())


def test_what_is_replaced_leaves_no_transform(tmp_path: Path) -> None:
    create_volume(tmp_path, made(small()))
    info = create_volume(tmp_path, made(small() + 1), overwrite=True).info
    assert (tmp_path / "transform.json").exists()
    create_volume(tmp_path, small(), resolution="1 mm", overwrite=True)
    assert not (tmp_path / "transform.json").exists()
    create_volume(tmp_path, info, overwrite=True)
    assert (tmp_path / "transform.json").exists()


def test_a_copy_has_it_too(tmp_path: Path) -> None:
    create_volume(tmp_path / "a", made(small()))
    copy_pyramid(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b/transform.json").read_bytes() == (tmp_path / "a/transform.json").read_bytes()


def test_an_archive_has_it_too(tmp_path: Path) -> None:
    with create_volume(f"zip://brain::{tmp_path}/a.zip", made(small()), scales=1, storage_options={"mode": "w"}):
        pass
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert "brain/transform.json" in archive.namelist()


# -------------------------------------------------------------------------------------------------------------- damage


DAMAGED: dict[str, tuple[Any, str]] = {
    "text": (lambda _: b"<html>", r"brain.nii.gz is not a NIfTI file: it begins with b'<html>'; pass nibabel.load"),
    "nothing": (lambda _: b"", "is not a NIfTI file"),
    "a pair": (lambda data: data.replace(b"n+1", b"ni1", 1), "is not a NIfTI file, but one of a pair"),
    "truncated": (lambda data: data[:-1], r"is truncated: its header says 7492 bytes, and it has 7491"),
    "truncated gzip": (lambda data: gzip.compress(data)[:-20], "cannot be decompressed"),
    "a negative axis": (lambda data: data[:42] + b"\xf9\xff" + data[44:], r"damaged: expected axes .* got shape \(-7,"),
    "another type": (lambda data: data[:70] + b"\xff\x7f" + data[72:], "the NIfTI header is damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGED[name]
    data = saved(tmp_path, small(), suffix=".nii").read_bytes()
    (tmp_path / "brain.nii.gz").write_bytes(damage(data))
    with pytest.raises(CorruptDataError, match=message):
        create_volume(tmp_path / "none", tmp_path / "brain.nii.gz")
    assert not (tmp_path / "none").exists()


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, small())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[nifti\]'"):
        create(path)
