"""Planning: the scales, types and shardings of new pyramids."""

import json
import re
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray

from precomputed_fs import (
    InvalidInfoError,
    create_volume,
    open_volume,
)
from tests.volume import samples
from tests.volume.samples import CHUNK, LABELS, SIZE, SMALL, Counting, make, small, store, voxels


def test_halving_ends_when_one_chunk_holds_all(tmp_path: Path) -> None:
    volume = make(tmp_path, scales=None)
    assert [scale.shape[:3] for scale in volume] == [(45, 33, 20), (23, 17, 20), (12, 9, 20), (6, 5, 10), (4, 3, 5)]
    assert all(size <= chunk for size, chunk in zip(volume[-1].shape, CHUNK, strict=False))


@pytest.mark.parametrize(
    ("offset", "size", "chunk", "coarsest"),
    [
        ((0, 0, -1), (64, 64, 2), (64, 64, 1), (64, 64, 2)),
        ((0, 0, -5), (100, 100, 10), (64, 64, 1), (13, 13, 2)),
        ((-1, -1, -1), (2, 2, 2), (1, 1, 1), (2, 2, 2)),
        ((-3, 0, 1), (6, 5, 4), (1, 1, 1), (2, 1, 1)),
        ((-32, 0, 0), (65, 4, 4), (64, 4, 4), (33, 2, 2)),
    ],
)
def test_a_box_on_both_sides_of_0_keeps_a_voxel_on_either_side(
    offset: tuple[int, ...], size: tuple[int, ...], chunk: tuple[int, ...], coarsest: tuple[int, ...]
) -> None:
    """What has a voxel on either side of 0 has two in every lower scale."""
    array = voxels(size, "uint8")
    volume = make(
        "memory://tests/volume/both", array, resolution=(8, 8, 8), voxel_offset=offset, chunk_size=chunk, scales=None
    )
    assert np.array_equal(volume[0][..., 0], array)
    assert volume[-1].shape[:3] == coarsest
    assert volume[-1][...].all()
    assert max(volume[-1].resolution) <= 8 * 2 ** (len(volume) - 1)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 1, 1), (0, 4, 4), ()])
def test_an_array_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, InvalidInfoError)):
        make(tmp_path / "none", np.zeros(shape, np.uint8))
    assert not (tmp_path / "none").exists()


def test_one_length_and_one_number_stand_for_all_axes() -> None:
    volume = make("memory://tests/volume/one", resolution="1.5 mm", chunk_size=16, scales=1)
    assert (volume[0].key, volume[0].info["resolution"]) == ("1500000_1500000_1500000", [1_500_000] * 3)
    assert volume[0].chunk_size == (16, 16, 16)


@pytest.mark.parametrize("resolution", [(0.1, 0.1, 0.1), "2 m"])
def test_a_resolution_that_is_hardly_in_nanometres_is_warned_about(resolution: Any) -> None:
    with pytest.warns(UserWarning, match="resolution: voxels of .* than 1 n?m: numbers are nanometres") as caught:
        volume = make("memory://tests/volume/odd", resolution=resolution, scales=None, overwrite=True)
    assert caught[0].filename == samples.__file__
    with pytest.warns(UserWarning, match="resolution"):
        create_volume("memory://tests/volume/odd-info", volume.info, overwrite=True)


def test_an_info_is_normalized_for_every_reader(tmp_path: Path) -> None:
    info = {
        "type": "IMAGE",
        "data_type": "UInt8",
        "num_channels": 1,
        "mine": {"kept": True},
        "scales": [
            {
                "key": "k",
                "size": [10, 10, 10],
                "resolution": [1, 1.5, 2],
                "chunk_sizes": [[8, 8, 8]],
                "encoding": "RAW",
                "sharding": None,
                "jpeg_quality": 80,
                "compressed_segmentation_block_size": [8, 8, 8],
                "mine": 1,
            }
        ],
    }
    create_volume(tmp_path, info)
    written = json.loads((tmp_path / "info").read_text())
    assert written == {
        "@type": "neuroglancer_multiscale_volume",
        "type": "image",
        "data_type": "uint8",
        "num_channels": 1,
        "mine": {"kept": True},
        "scales": [
            {
                "key": "k",
                "size": [10, 10, 10],
                "resolution": [1, 1.5, 2],
                "voxel_offset": [0, 0, 0],
                "chunk_sizes": [[8, 8, 8]],
                "encoding": "raw",
                "mine": 1,
            }
        ],
    }


@pytest.mark.parametrize(("encoding", "expected"), [("raw", "gzip"), ("jpeg", "raw"), ("png", "raw")])
def test_compressed_encodings_are_not_compressed_again_in_shards(encoding: str, expected: str) -> None:
    volume = make(f"memory://tests/volume/{encoding}", voxels(SIZE, "uint8"), encoding=encoding, sharding=True)
    sharding = volume[0].info.sharding
    assert sharding is not None
    assert sharding.data_encoding == expected


NOT_STORABLE: dict[str, tuple[Any, str]] = {
    "a series": (pd.Series(range(8)), r"shape \(8,\): pass np\.asarray\(array\)\.reshape\(8, 1, 1\)"),
    "a table": (pd.DataFrame(np.zeros((4, 3))), r"shape \(4, 3\): pass np\.asarray\(array\)\.reshape\(4, 3, 1\)"),
    "5 axes": (np.zeros((4, 3, 2, 1, 3), np.uint8), r"reshape\(4, 3, 2, 3\)"),
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
    "a mapping": ({"t1": small()}, "got dict: pass one array of it"),
    "a data set": (xarray.Dataset({"t1": (("x", "y", "z"), small())}), "got Dataset: pass one array of it"),
    "nothing": (None, "NoneType cannot be cast"),
}


@pytest.mark.parametrize("name", NOT_STORABLE)
def test_an_array_that_cannot_be_stored_is_refused_with_advice(tmp_path: Path, name: str) -> None:
    source, message = NOT_STORABLE[name]
    with pytest.raises((TypeError, ValueError), match=message):
        store(source, tmp_path / "none")
    assert not (tmp_path / "none").exists()


TO_CONVERT: dict[str, Any] = {
    "int64": small(dtype="int64"),
    "int64 in lists": small(dtype="int64").tolist(),
    "float64 in a file": Counting(small() / 7),
    "float64 of dask": da.from_array(small() / 7),
    "float64 of xarray": xarray.DataArray(small() / 7),
    "complex of nibabel": nibabel.Nifti1Image(small(dtype="complex64"), np.eye(4)),
    "1 axis in a file": Counting(small((9,))),
    "2 axes of dask": da.from_array(small((7, 6))),
    "2 axes of pandas": pd.DataFrame(small((7, 6))),
    "5 axes in a file": Counting(small((4, 3, 2, 1, 3), "float32")),
    "fields in a field": np.zeros((4, 3, 2), [("a", [("x", "u1"), ("y", "u1")]), ("b", "u2")]),
}


@pytest.mark.parametrize("name", TO_CONVERT)
def test_the_conversion_in_a_message_works(name: str) -> None:
    source = TO_CONVERT[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        store(source)
    (call,) = re.findall(r"pass (?:one of them, such as )?(.*?)(?:, or .*)?$", str(caught.value))
    store(eval(call, {"np": np, "array": source}))


def test_the_conversion_in_a_message_keeps_named_axes() -> None:
    array = small((*SMALL, 2, 3))
    source = xarray.DataArray(array.transpose(3, 4, 2, 1, 0), dims=["t", "c", "z", "y", "x"])
    with pytest.raises(ValueError, match="pass ") as caught:
        store(source)
    call = str(caught.value).partition("pass ")[2]
    assert np.array_equal(store(eval(call, {"array": source}))[0][...], array.reshape(*SMALL, 6))


@pytest.mark.parametrize("kind", ["seg", "", "images", 5])
def test_a_type_is_image_or_segmentation(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ValueError, match=r"type: expected (one of image, segmentation|a string), got"):
        store(LABELS, tmp_path / "none", type=kind)
    info = {**store(LABELS, type="SEGMENTATION").info.to_dict(), "type": kind}
    with pytest.raises(ValueError, match=r"type: expected (one of image, segmentation|a string), got"):
        create_volume(tmp_path / "none", info)
    assert not (tmp_path / "none").exists()
    if isinstance(kind, str):
        store(LABELS, tmp_path / "read").close()
        (tmp_path / "read/info").write_text(json.dumps(info))
        assert open_volume(tmp_path / "read").info.type == kind
        assert np.array_equal(open_volume(tmp_path / "read")[0][..., 0], LABELS)


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, Counting, da.from_array])
def test_types_that_few_readers_know_are_not_written(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(TypeError, match=r'got int64: pass .*array.*\.astype\("uint64"\)'):
        store(kind(LABELS.astype(np.int64)), tmp_path / "none")
    for dtype in ("int64", "float64"):
        info = {**store(small()).info.to_dict(), "data_type": dtype}
        with pytest.raises(ValueError, match=rf"data_type: .*uint64.*float32, got {dtype}$"):
            create_volume(tmp_path / "none", info)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_types_that_few_readers_know_are_read(tmp_path: Path, dtype: str) -> None:
    store(LABELS.astype(np.uint64), tmp_path, gzip=False).close()
    info = json.loads((tmp_path / "info").read_text())
    (tmp_path / "info").write_text(json.dumps({**info, "data_type": dtype}))
    voxels = open_volume(tmp_path)[0][..., 0]
    assert voxels.dtype == dtype
    assert np.array_equal(voxels.view(np.uint64), LABELS)
