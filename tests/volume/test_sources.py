"""Values: what can be written for an array, and what is refused."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray
from numpy.typing import NDArray

from tests.volume.samples import (
    CHUNK,
    MASK,
    OFFSET,
    SIZE,
    SMALL,
    Counting,
    chunk_files,
    make,
    small,
    store,
    voxels,
)


def test_numbers_and_smaller_arrays_are_broadcast(tmp_path: Path) -> None:
    scale, expected = make(tmp_path)[0], voxels()
    scale[0:10, 10:20] = 7
    scale[20:30, 10, ..., 1] = np.arange(20, dtype=np.uint8)
    expected[5:15, 3:13] = 7
    expected[25:35, 3, :, 1] = np.arange(20)
    assert np.array_equal(scale[...], expected)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("keeps", [True, False], ids=["a slice", "an integer"])
def test_a_plane_may_be_written_to_a_box_one_voxel_thick(axis: int, keeps: bool) -> None:
    array = voxels(SIZE, "uint8")
    scale = make("memory://tests/volume/plane", array)[0]
    at = OFFSET[axis] + 3
    index: list[Any] = [slice(None)] * 3
    index[axis] = slice(at, at + 1) if keeps else at
    plane = voxels(SIZE[:axis] + SIZE[axis + 1 :], "uint8") + np.uint8(7)
    scale[tuple(index)] = plane
    assert np.array_equal(np.take(scale[..., 0], 3, axis), plane)
    if axis:
        assert np.array_equal(scale[-5, ..., 0].take(3, axis - 1), plane[0])


def test_an_array_without_channels_may_be_written_to_one_channel_of_several() -> None:
    array = voxels()
    scale = make("memory://tests/volume/channel", array)[0]
    scale[..., 1:2] = array[..., 0]
    scale[..., 0] = array[..., 1]
    assert np.array_equal(scale[...], array[..., ::-1])


def test_a_smaller_array_is_broadcast_where_the_last_axis_has_length_1() -> None:
    scale = make("memory://tests/volume/last", voxels(SIZE, "uint8"))[0]
    scale[:, :, 100:101, 0] = np.arange(33, dtype=np.uint8).reshape(33, 1)
    assert scale[-5, :, 100, 0].tolist() == [*range(33)]


def test_the_axis_of_one_channel_may_be_left_out(tmp_path: Path) -> None:
    array = voxels(SIZE, "uint8")
    scale = make(tmp_path, array)[0]
    assert np.array_equal(scale[...][..., 0], array)
    scale[...] = array[::-1]
    assert np.array_equal(scale[...][..., 0], array[::-1])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros((2, 2)), TypeError, "float64 cannot be cast to uint16 without loss"),
        (np.zeros((45, 33, 20, 2), np.int64), TypeError, r"int64.*pass array.astype\('uint16'\)"),
        (-1, TypeError, "-1 does not fit in uint16"),
        (1.5, TypeError, "1.5 does not fit in uint16"),
        (float("nan"), TypeError, "nan does not fit in uint16"),
        (2**70, TypeError, "does not fit in uint16"),
        (np.zeros((45, 33, 20, 3), np.uint8), ValueError, r"expected an array of shape \(45, 33, 20, 2\), got"),
        (np.zeros((44, 33, 20, 2), np.uint8), ValueError, "expected an array of shape"),
        ("text", TypeError, "cannot be cast"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, value: Any, error: type[Exception], message: str
) -> None:
    volume = make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in chunk_files(tmp_path)}
    with pytest.raises(error, match=message):
        volume[0][...] = value
    assert {path: path.stat().st_mtime_ns for path in chunk_files(tmp_path)} == before


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (*SIZE, 2)])
def test_a_lazy_array_is_read_chunk_by_chunk(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = Counting(voxels(shape))
    volume = make(tmp_path, array, scales=2)  # type: ignore[arg-type]
    assert np.array_equal(volume[0][...].reshape(shape), voxels(shape))
    assert array.largest == math.prod(CHUNK) * math.prod(shape[3:])
    with pytest.raises(ValueError, match="expected an array of shape"):
        volume[0][0:10] = array  # type: ignore[assignment]


@pytest.mark.parametrize("sharding", [False, True])
def test_a_long_array_is_not_planned_as_a_whole(sharding: bool) -> None:
    """Nothing is made for all of them before."""

    class Ending(Counting):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            if index[0].start > 30:
                message = "that is enough"
                raise OSError(message)
            return super().__getitem__(index)

    source: Any = Ending(np.broadcast_to(np.uint8(1), (1 << 24, 4, 4)))
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="that is enough"):
            make("memory://tests/volume/many", source, chunk_size=(1, 4, 4), sharding=sharding)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_another_scale_can_be_written_as_it_is(tmp_path: Path) -> None:
    volume = make(tmp_path / "a")
    copied = make(tmp_path / "b", volume[0].array, chunk_size=(20, 20, 20))  # type: ignore[arg-type]
    assert np.array_equal(copied[0][...], voxels())


def test_a_scale_is_a_source_like_its_array(tmp_path: Path) -> None:
    source: Any = make(tmp_path / "a")[0]
    assert np.array_equal(make(tmp_path / "b", source)[0][...], voxels())


@pytest.mark.parametrize(
    ("lie", "error", "message"),
    [
        (lambda part: part + 0.5, TypeError, "float64 cannot be cast to uint16"),
        (lambda part: part[:-1], ValueError, "expected a part of shape"),
        (lambda part: part.ravel(), ValueError, "expected a part of shape"),
    ],
    ids=["float", "short", "flat"],
)
def test_a_part_of_another_shape_or_type_is_refused(
    tmp_path: Path, lie: Any, error: type[Exception], message: str
) -> None:
    class Lying(Counting):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            result: NDArray[Any] = lie(super().__getitem__(index))
            return result

    source: Any = Lying(voxels())
    with pytest.raises(error, match=message):
        make(tmp_path, source)


def test_a_masked_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="mask"):
        make(tmp_path, np.ma.masked_equal(voxels(), 7))


@pytest.mark.parametrize(
    ("dtype", "value", "is_one"),
    [("float32", 1e300, False), ("float32", 16777217, False), ("float32", 0.1, True), ("float32", float("inf"), True),
     ("uint16", np.int64(5), True), ("uint16", np.float64(5.5), False), ("uint16", True, True)],
)  # fmt: skip
def test_a_number_that_does_not_fit_is_refused(dtype: str, value: Any, is_one: bool) -> None:
    scale = make("memory://tests/volume/number", voxels(dtype=dtype))[0]
    if is_one:
        scale[0, 10, 110] = value
        assert scale[0, 10, 110, 0] == np.dtype(dtype).type(value)
    else:
        with pytest.raises(TypeError, match="does not fit in"):
            scale[0, 10, 110] = value


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
    coloured = np.empty(SMALL, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for i, name in enumerate("RGB"):
        coloured[name] = CHANNELS[..., i]
    return coloured


CHANNELS = small((*SMALL, 3), "uint8")


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
    "int16 of nibabel": (
        nibabel.Nifti1Image(small(dtype="int16"), np.eye(4)),
        small(dtype="int16"),
        "image",
    ),
    "int32 of nibabel": (
        nibabel.Nifti1Image(small(dtype="int32"), np.eye(4)),
        small(dtype="int32"),
        "segmentation",
    ),
    "float64 of nibabel": (
        nibabel.Nifti1Image(small() / 7, np.eye(4)),
        (small() / 7).astype("float32"),
        "image",
    ),
    "a tensor by __array__": (ArrayTensor(small()), small(), "image"),
    "a tensor of booleans": (ArrayTensor(MASK), MASK.astype("uint8"), "segmentation"),
    "a tensor by DLPack": (DlpackTensor(small(dtype="float32")), small(dtype="float32"), "image"),
    "a tensor by numpy()": (NumpyTensor(small(dtype="uint64")), small(dtype="uint64"), "segmentation"),
    "of xarray": (xarray.DataArray(small().T, dims=["z", "y", "x"]), small(), "image"),
    "of xarray, in capitals": (xarray.DataArray(small().T, dims=["Z", "Y", "X"]), small(), "image"),
    "of xarray, of other names": (xarray.DataArray(small(), dims=["a", "b", "c"]), small(), "image"),
    "planes of xarray": (xarray.DataArray(small().T, dims=["time", "y", "x"]), small(), "image"),
    "a variable of xarray": (xarray.Variable(["z", "y", "x"], small().T), small(), "image"),
    "a variable of dask": (xarray.Variable(["z", "y", "x"], da.from_array(small().T)), small(), "image"),
    "big-endian": (small(dtype=">u2"), small(), "image"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_stored_as_their_voxels(name: str) -> None:
    source, expected, kind = SOURCES[name]
    volume = store(source)
    scale, expected = volume[0], expected.reshape(*SMALL, -1)
    assert (scale.shape, scale.dtype, volume.info.type) == (expected.shape, expected.dtype, kind)
    assert np.array_equal(scale[...], expected)
    scale[...] = np.zeros(scale.shape, scale.dtype)
    scale[...] = source
    assert np.array_equal(scale[...], expected)


def test_an_unscaled_nibabel_image_keeps_its_type(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz", "a.mgz"):
        kind: Any = nibabel.MGHImage if name == "a.mgz" else nibabel.Nifti1Image
        nibabel.save(kind(small(dtype="int16"), np.eye(4)), tmp_path / name)
        scale = store(nibabel.load(tmp_path / name))[0]
        assert scale.dtype == np.int16
        assert np.array_equal(scale[..., 0], small())


def test_a_plane_of_xarray_lies_as_its_dimensions_are_named() -> None:
    scale = store(np.zeros(SMALL, np.uint16))[0]
    plane = small((SMALL[0], SMALL[1]))
    scale[:, :, 5, 0] = xarray.DataArray(plane.T, dims=["y", "x"])
    assert np.array_equal(scale[:, :, 5, 0], plane)


def test_a_pandas_series_or_table_may_be_written() -> None:
    scale = store(small())[0]
    scale[:, 7, 5, 0] = pd.Series(np.arange(SMALL[0], dtype=np.uint16))
    assert scale[:, 7, 5, 0].tolist() == [*range(SMALL[0])]
    scale[:, 8, :, 0] = pd.DataFrame(small((SMALL[0], SMALL[2])))
    assert np.array_equal(scale[:, 8, :, 0], small((SMALL[0], SMALL[2])))
