"""What `create_volume` and writing take for arrays, and what they say of the rest."""

import json
import math
import re
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from precomputed_fs import Volume, create_volume, open_volume
from tests.codecs.test_codecs import brain
from tests.test_volume import Counting

SIZE = (21, 17, 10)
CHUNK = (8, 16, 4)


def voxels(shape: tuple[int, ...] = SIZE, dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


def make(source: Any, url: Any = "memory://test_sources/made", **options: Any) -> Volume:
    given = {"resolution": (8, 8, 8), "chunk_size": CHUNK, "scales": 1, "overwrite": True}
    return create_volume(url, source, **{**given, **options})


class Tensor:
    """Has a dtype of its own, like PyTorch's tensors, and in each subclass one way to make a NumPy array of it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape, self.dtype = array, array.shape, object()

    def __getitem__(self, index: Any) -> Any:
        return type(self)(self.array[index])


class ArrayTensor(Tensor):
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.array


class DlpackTensor(Tensor):
    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class NumpyTensor(Tensor):
    def numpy(self) -> NDArray[Any]:
        return self.array


def rgb() -> NDArray[Any]:
    """Return voxels of NIfTI's type RGB24."""
    coloured = np.empty(SIZE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for i, name in enumerate("RGB"):
        coloured[name] = CHANNELS[..., i]
    return coloured


CHANNELS = voxels((*SIZE, 3), "uint8")
MASK = voxels() > 100
SOURCES: dict[str, tuple[Any, NDArray[Any], str]] = {
    "booleans": (MASK, MASK.astype("uint8"), "segmentation"),
    "booleans in a channel": (MASK[..., np.newaxis], MASK.astype("uint8"), "segmentation"),
    "booleans in lists": (MASK.tolist(), MASK.astype("uint8"), "segmentation"),
    "booleans in a file": (Counting(MASK), MASK.astype("uint8"), "segmentation"),
    "booleans of dask": (da.from_array(MASK, chunks=8), MASK.astype("uint8"), "segmentation"),
    "rgb": (rgb(), CHANNELS, "image"),
    "rgb as records": (rgb().view(np.recarray), CHANNELS, "image"),
    "rgb in a file": (Counting(rgb()), CHANNELS, "image"),
    "rgb of dask": (da.from_array(rgb(), chunks=8), CHANNELS, "image"),
    "rgb of nibabel": (nibabel.Nifti1Image(rgb(), np.eye(4)), CHANNELS, "image"),
    "int16 of nibabel": (nibabel.Nifti1Image(voxels(dtype="int16"), np.eye(4)), voxels(dtype="int16"), "image"),
    "int32 of nibabel": (nibabel.Nifti1Image(voxels(dtype="int32"), np.eye(4)), voxels(dtype="int32"), "segmentation"),
    "float64 of nibabel": (nibabel.Nifti1Image(voxels() / 7, np.eye(4)), (voxels() / 7).astype("float32"), "image"),
    "a tensor by __array__": (ArrayTensor(voxels()), voxels(), "image"),
    "a tensor of booleans": (ArrayTensor(MASK), MASK.astype("uint8"), "segmentation"),
    "a tensor by DLPack": (DlpackTensor(voxels(dtype="float32")), voxels(dtype="float32"), "image"),
    "a tensor by numpy()": (NumpyTensor(voxels(dtype="uint64")), voxels(dtype="uint64"), "segmentation"),
    "of xarray": (xarray.DataArray(voxels().T, dims=["z", "y", "x"]), voxels(), "image"),
    "of xarray, in capitals": (xarray.DataArray(voxels().T, dims=["Z", "Y", "X"]), voxels(), "image"),
    "of xarray, of other names": (xarray.DataArray(voxels(), dims=["a", "b", "c"]), voxels(), "image"),
    "planes of xarray": (xarray.DataArray(voxels().T, dims=["time", "y", "x"]), voxels(), "image"),
    "a variable of xarray": (xarray.Variable(["z", "y", "x"], voxels().T), voxels(), "image"),
    "a variable of dask": (xarray.Variable(["z", "y", "x"], da.from_array(voxels().T)), voxels(), "image"),
    "big-endian": (voxels(dtype=">u2"), voxels(), "image"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_whose_meaning_is_clear(name: str) -> None:
    source, expected, kind = SOURCES[name]
    volume = make(source)
    scale, expected = volume[0], expected.reshape(*SIZE, -1)
    assert (scale.shape, scale.dtype, volume.info.type) == (expected.shape, expected.dtype, kind)
    assert np.array_equal(scale[...], expected)
    scale[...] = np.zeros(scale.shape, scale.dtype)
    scale[...] = source
    assert np.array_equal(scale[...], expected)


def test_a_mask_that_is_stored_as_an_image_is_one() -> None:
    assert make(MASK, type="image").info.type == "image"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("takes", ["image", "dataobj"])
def test_a_scaled_image_is_read_once(tmp_path: Path, suffix: str, takes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image: Any = nibabel.Nifti1Image(voxels() / 7, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / f"a{suffix}")
    image = nibabel.load(tmp_path / f"a{suffix}")
    assert image.dataobj.slope != 1
    parts = []
    read: Any = ArrayProxy.__getitem__

    def reading(proxy: Any, index: Any) -> Any:
        part = read(proxy, index)
        parts.append(part.size)
        return part

    monkeypatch.setattr(ArrayProxy, "__getitem__", reading)
    scale = make(image if takes == "image" else image.dataobj)[0]
    assert scale.dtype == np.float32
    assert np.array_equal(scale[..., 0], image.get_fdata().astype(np.float32))
    if suffix == ".nii":
        assert sum(parts) <= math.prod(SIZE) + 1
        assert max(parts) == math.prod(CHUNK)
    else:
        assert parts == [1], "what is compressed is read as a whole, not from the start for each chunk"


def test_an_image_that_is_not_scaled_keeps_its_type(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz", "a.mgz"):
        kind: Any = nibabel.MGHImage if name == "a.mgz" else nibabel.Nifti1Image
        nibabel.save(kind(voxels(dtype="int16"), np.eye(4)), tmp_path / name)
        scale = make(nibabel.load(tmp_path / name))[0]
        assert scale.dtype == np.int16
        assert np.array_equal(scale[..., 0], voxels())


def test_a_plane_of_xarray_lies_as_its_dimensions_are_named() -> None:
    scale = make(np.zeros(SIZE, np.uint16))[0]
    plane = voxels((SIZE[0], SIZE[1]))
    scale[:, :, 5, 0] = xarray.DataArray(plane.T, dims=["y", "x"])
    assert np.array_equal(scale[:, :, 5, 0], plane)


def test_a_line_or_a_plane_may_be_of_pandas() -> None:
    scale = make(voxels())[0]
    scale[:, 7, 5, 0] = pd.Series(np.arange(SIZE[0], dtype=np.uint16))
    assert scale[:, 7, 5, 0].tolist() == [*range(SIZE[0])]
    scale[:, 8, :, 0] = pd.DataFrame(voxels((SIZE[0], SIZE[2])))
    assert np.array_equal(scale[:, 8, :, 0], voxels((SIZE[0], SIZE[2])))


NOT_STORABLE: dict[str, tuple[Any, str]] = {
    "a series": (pd.Series(range(8)), r"shape \(8,\): pass np\.asarray\(array\)\.reshape\(8, 1, 1\)"),
    "a table": (pd.DataFrame(np.zeros((4, 3))), r"shape \(4, 3\): pass np\.asarray\(array\)\.reshape\(4, 3, 1\)"),
    "5 axes": (nibabel.Nifti1Image(np.zeros((4, 3, 2, 1, 3), np.uint8), np.eye(4)), r"reshape\(4, 3, 2, 3\)"),
    "objects": (np.zeros((4, 3, 2), object), r"its type is object; pass np\.asarray\(array, 'float32'\)"),
    "float16": (np.zeros((4, 3, 2), np.float16), r'got float16: pass array\.astype\("float32"\)'),
    "float64": (np.zeros((4, 3, 2)), r'got float64: pass array\.astype\("float32"\)'),
    "complex": (np.zeros((4, 3, 2), complex), r'got complex128: pass np\.abs\(array\)\.astype\("float32"\)'),
    "times": (np.zeros((4, 3, 2), "datetime64[s]"), r"got datetime64\[s\]"),
    "mixed fields": (np.zeros((4, 3, 2), [("a", "u1"), ("b", "u2")]), r"fields of one type.*such as array\['a'\]"),
    "no fields": (np.zeros((4, 3, 2), []), r"voxels are stored as .*, got \[\]"),
    "long fields": (np.zeros((4, 3, 2), [("a", "u1", 2)]), r"such as array\['a'\]"),
    "fields of dask": (da.zeros((4, 3, 2), dtype=[("a", "u1"), ("b", "u2")]), r"such as array\['a'\]"),
    "unknown chunks": (da.ones((4, 3, 2))[da.ones(4) > 0], r"\(nan, 3, 2\): call array\.compute_chunk_sizes\(\)"),
    "a mapping": ({"t1": voxels()}, "got dict: pass one array of it"),
    "a data set": (xarray.Dataset({"t1": (("x", "y", "z"), voxels())}), "got Dataset: pass one array of it"),
    "a file name": ("brain.nii", "str cannot be cast to an array of numbers"),
    "a path": (Path("brain.nii"), "Path cannot be cast"),
    "nothing": (None, "NoneType cannot be cast"),
}


@pytest.mark.parametrize("name", NOT_STORABLE)
def test_what_cannot_be_stored_is_told_what_can(tmp_path: Path, name: str) -> None:
    source, message = NOT_STORABLE[name]
    with pytest.raises((TypeError, ValueError), match=message):
        make(source, tmp_path / "none")
    assert not (tmp_path / "none").exists()


TO_CONVERT: dict[str, Any] = {
    "int64": voxels(dtype="int64"),
    "int64 in lists": voxels(dtype="int64").tolist(),
    "int64 of nibabel": nibabel.Nifti1Image(voxels(dtype="int64"), np.eye(4), dtype="int64"),
    "float64 in a file": Counting(voxels() / 7),
    "float64 of dask": da.from_array(voxels() / 7),
    "float64 of xarray": xarray.DataArray(voxels() / 7),
    "complex of nibabel": nibabel.Nifti1Image(voxels(dtype="complex64"), np.eye(4)),
    "1 axis in a file": Counting(voxels((9,))),
    "2 axes of dask": da.from_array(voxels((7, 6))),
    "2 axes of pandas": pd.DataFrame(voxels((7, 6))),
    "5 axes of nibabel": nibabel.Nifti1Image(voxels((4, 3, 2, 1, 3), "float32"), np.eye(4)),
    "fields in a field": np.zeros((4, 3, 2), [("a", [("x", "u1"), ("y", "u1")]), ("b", "u2")]),
}


@pytest.mark.parametrize("name", TO_CONVERT)
def test_the_call_that_a_message_tells_works(name: str) -> None:
    source = TO_CONVERT[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        make(source)
    (call,) = re.findall(r"pass (?:one of them, such as )?(.*?)(?:, or .*)?$", str(caught.value))
    make(eval(call, {"np": np, "array": source}))


def test_the_call_that_a_message_tells_keeps_named_axes() -> None:
    array = voxels((*SIZE, 2, 3))
    source = xarray.DataArray(array.transpose(3, 4, 2, 1, 0), dims=["t", "c", "z", "y", "x"])
    with pytest.raises(ValueError, match="pass ") as caught:
        make(source)
    call = str(caught.value).partition("pass ")[2]
    assert np.array_equal(make(eval(call, {"array": source}))[0][...], array.reshape(*SIZE, 6))


# ----------------------------------------------------------------------------------------- images and segmentations

LABELS = np.repeat(np.array([10, 200, 10], np.uint8), 7).reshape(-1, 1, 1) * np.ones(SIZE, np.uint8)


class CountingVoxels(Counting):
    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array)
        self.count = 0

    def __getitem__(self, index: Any) -> NDArray[Any]:
        part = super().__getitem__(index)
        self.count += part.size
        return part


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("kind", [np.asarray, CountingVoxels, da.from_array])
def test_labels_that_are_averaged_are_warned_about(dtype: str, kind: Any) -> None:
    source = kind((LABELS // 2).astype(dtype))
    with pytest.warns(UserWarning, match=r'only 2 distinct values.* type="segmentation".* type="image"') as warned:
        volume = make(source, scales=2)
    assert [warning.filename for warning in warned] == [__file__]
    assert volume.info.type == "image"
    if isinstance(source, CountingVoxels):
        assert source.count == math.prod(SIZE), "it is not read for that"
    labels = make(source, scales=2, type="segmentation")
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
        make(parcels(count, dtype), scales=2)


def padded(image: NDArray[Any], value: int) -> NDArray[Any]:
    return np.pad(image, 12, constant_values=value)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (padded(voxels(dtype="uint8"), 255), {}),
        (padded(voxels(dtype="int16"), -1000), {}),
        (np.maximum(voxels(dtype="uint8"), 150), {}),
        (voxels(dtype="uint16").repeat(2, 0).repeat(2, 1).repeat(2, 2), {}),
        (np.add.outer(np.add.outer(np.arange(60), np.arange(50)), np.arange(9)).astype("uint8"), {}),
        (LABELS, {"type": "image"}),
        (LABELS, {"type": "Segmentation"}),
        (LABELS, {"downsampling": "average"}),
        (LABELS, {"scales": 1}),
        (LABELS > 10, {}),
        (LABELS.astype("int32"), {}),
        (LABELS.astype("float32"), {}),
        (np.stack([LABELS] * 3, -1), {}),
        (np.ones(SIZE, np.uint8), {}),
        (np.zeros(SIZE, np.int16), {}),
        (voxels(dtype="uint8"), {}),
        (voxels((3, 3, 3)), {"chunk_size": (2, 2, 2)}),
        (np.arange(math.prod(SIZE), dtype=np.uint16).reshape(SIZE) // 100, {}),
    ],
)  # fmt: skip
def test_images_are_not_warned_about(source: Any, options: dict[str, Any]) -> None:
    make(source, **{"scales": 2, **options})


def test_a_brain_is_an_image() -> None:
    volume = make(nibabel.Nifti1Image(brain(), np.eye(4)), scales=None)
    assert volume.info.type == "image"
    assert len(volume) > 2


@pytest.mark.parametrize("kind", ["image", "segmentation"])
def test_a_scale_stays_what_its_volume_is(kind: str) -> None:
    scale = make(LABELS, "memory://test_sources/scale", type=kind)[0]
    for source in (scale, scale.array):
        assert make(source, scales=2).info.type == kind


@pytest.mark.parametrize("kind", ["seg", "", "images", 5])
def test_a_type_is_image_or_segmentation(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ValueError, match=r"type: expected (image or segmentation|a string), got"):
        make(LABELS, tmp_path / "none", type=kind)
    info = {**make(LABELS, type="SEGMENTATION").info.to_dict(), "type": kind}
    with pytest.raises(ValueError, match=r"type: expected (image or segmentation|a string), got"):
        create_volume(tmp_path / "none", info)
    assert not (tmp_path / "none").exists()
    if isinstance(kind, str):
        make(LABELS, tmp_path / "read").close()
        (tmp_path / "read/info").write_text(json.dumps(info))
        assert open_volume(tmp_path / "read").info.type == kind
        assert np.array_equal(open_volume(tmp_path / "read")[0][..., 0], LABELS)


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, Counting, da.from_array])
def test_what_few_readers_have_is_not_made(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(TypeError, match=r'got int64: pass .*array.*\.astype\("uint64"\)'):
        make(kind(LABELS.astype(np.int64)), tmp_path / "none")
    for dtype in ("int64", "float64"):
        info = {**make(voxels()).info.to_dict(), "data_type": dtype}
        with pytest.raises(ValueError, match=rf"data_type: .*uint64.*float32, got {dtype}$"):
            create_volume(tmp_path / "none", info)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_what_few_readers_have_is_read(tmp_path: Path, dtype: str) -> None:
    make(LABELS.astype(np.uint64), tmp_path, gzip=False).close()
    info = json.loads((tmp_path / "info").read_text())
    (tmp_path / "info").write_text(json.dumps({**info, "data_type": dtype}))
    voxels = open_volume(tmp_path)[0][..., 0]
    assert voxels.dtype == dtype
    assert np.array_equal(voxels.view(np.uint64), LABELS)
