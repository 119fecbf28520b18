"""DataArrays of scales: coordinates, attributes, and what they are stored to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs import (
    Scale,
    create_volume,
)
from tests.interop.samples import CHUNK, OFFSET, RESOLUTION, SIZE, empty, make, voxels

if TYPE_CHECKING:
    from pathlib import Path

    from precomputed_fs.format.grid import ChunkCoords


def test_a_data_array_is_lazy(scale: Scale, fetched: list[ChunkCoords]) -> None:
    data = scale.to_xarray(chunks=CHUNK)
    assert (data.dims, data.shape, data.name) == (("x", "y", "z", "channel"), (*SIZE, 2), "voxels")
    assert data.chunks == scale.to_dask(CHUNK).chunks
    assert fetched == []
    assert np.array_equal(data[3:5, :, 2].values, voxels()[3:5, :, 2])
    assert {coords[:2] for coords in fetched} == {(-5, 11)}


def test_coordinates_are_centres(scale: Scale) -> None:
    data = scale.to_xarray()
    assert [data[axis].attrs for axis in "xyz"] == [{"units": "nm"}] * 3
    assert data.x.values.tolist() == [(i + 0.5) * 8 for i in range(-5, 40)]
    assert data.z.values.tolist() == [(i + 0.5) * 40 for i in range(100, 120)]


@given(*(st.integers(low, high - 1) for low, high in zip(OFFSET, (40, 40, 120), strict=True)), st.floats(0.01, 0.99))
def test_a_position_is_in_the_nearest_voxel(x: int, y: int, z: int, part: float) -> None:
    """Neuroglancer has voxel i reach from i to i + 1: which is where the nearest centre is the i-th."""
    scale = make("memory://precomputed_fs-tests/interop/nearest", overwrite=True)[0]
    position = [(i + part) * step for i, step in zip((x, y, z), RESOLUTION, strict=True)]
    found = scale.to_xarray().sel(dict(zip("xyz", position, strict=True)), method="nearest")
    assert np.array_equal(found.values, scale[x, y, z])


def remade(attrs: dict[str, Any], data: Any, url: str) -> dict[str, Any]:
    return create_volume(url, data, scales=1, **attrs).info.to_dict()


ENCODINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("raw", "uint8", {}),
    ("jpeg", "uint8", {"jpeg_quality": 77}),
    ("png", "uint16", {"png_level": 3}),
    ("compressed_segmentation", "uint64", {"compressed_segmentation_block_size": [4, 8, 2]}),
]


@pytest.mark.parametrize(("encoding", "dtype", "parameters"), ENCODINGS)
def test_attributes_make_the_same_volume(
    encoding: str, dtype: str, parameters: dict[str, Any], url: str, tmp_path: Path
) -> None:
    array = voxels((20, 16, 12, 1), dtype)
    options: dict[str, Any] = {
        "resolution": (4.5, 8, 40),
        "encoding": encoding,
        "chunk_size": CHUNK,
        "scales": 1,
        **parameters,
    }
    volume = create_volume(url, array, voxel_offset=(-5, 7, 100), **options)
    data = volume[0].to_xarray()
    info = volume.info.to_dict()
    assert {type(value) for value in data.attrs.values()} <= {int, float, str, list}
    attrs = json.loads(json.dumps(data.attrs))
    assert attrs == data.attrs
    assert remade(attrs, data, url + "/json") == info
    small = xarray.Dataset({"voxels": data.astype(np.float64)})  # netCDF 3 has no unsigned integers
    small.to_netcdf(tmp_path / "brain.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "brain.nc", engine="scipy") as kept:
        assert kept.x.attrs["units"] == "nm"
        assert np.array_equal(kept.z, data.z)
        assert remade(kept.voxels.attrs, data, url + "/netcdf") == info


@pytest.mark.parametrize("chunks", [None, 16])
def test_dimensions_are_found_by_their_names(chunks: int | None, url: str) -> None:
    array = voxels((20, 20, 20, 1), "uint8")
    labelled = xarray.DataArray(array, dims=("x", "y", "z", "channel")).transpose("z", "channel", "x", "y")
    turned = labelled if chunks is None else labelled.chunk(chunks)
    volume = create_volume(url, turned, resolution=(8, 8, 8), scales=1)
    assert np.array_equal(volume[0][...], array)
    volume[0][...] = turned + np.uint8(1)
    assert np.array_equal(volume[0][...], array + 1)


def test_a_data_array_is_stored(url: str) -> None:
    array = voxels((20, 20, 20, 1), "uint8")
    scale = make(url, array * 0)[0]
    labelled = xarray.DataArray(array, dims=("x", "y", "z", "t"))
    scale.store(labelled.transpose("t", "z", "y", "x").chunk(x=7))
    assert np.array_equal(scale[...], array)
    with pytest.raises(TypeError, match="expected a dask array, got DataArray"):
        scale.store(labelled)


def test_very_long_axes_have_their_coordinates_computed(url: str) -> None:
    data = empty(url, (1 << 33, 64, 64), chunk=1 << 20, voxel_offset=[-10, 0, 0], resolution=[8, 8, 8])[0].to_xarray()
    assert data.sizes["x"] == 1 << 33
    assert data.x.attrs == {"units": "nm"}
    assert data.x[[0, 1, (1 << 33) - 1]].values.tolist() == [-76.0, -68.0, ((1 << 33) - 10.5) * 8]
    assert data.sel(x=8e9 + 1, method="nearest").x == 8e9 + 4
