"""The xarray backend: data sets, groups and trees of pyramids."""

from __future__ import annotations

import asyncio
import pickle
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray
from hypothesis import given

from precomputed_fs import (
    NotFoundError,
    create_volume,
    open_volume,
)
from precomputed_fs.interop.xarray_backend import PrecomputedBackend
from tests.interop.samples import empty, indices, make, voxels

if TYPE_CHECKING:
    from collections.abc import Callable

    from precomputed_fs.format.grid import ChunkCoords


def test_a_data_set_is_lazy_without_dask(engine: Callable[..., xarray.Dataset], fetched: list[ChunkCoords]) -> None:
    with engine() as data:
        assert data.voxels.chunks is None
        assert "dask" not in repr(data)
        part = data.voxels[4:6, 3:5, 2]
        assert fetched == []
        assert np.array_equal(part.values, voxels()[4:6, 3:5, 2])
        assert fetched == [(-5, 11, 7, 15, 100, 109)]
        assert data.voxels.attrs["resolution"] == [8, 8, 40]
        assert data.x.values[0] == -36


@given(indices())
def test_a_data_set_is_indexed_like_numpy(index: tuple[Any, ...]) -> None:
    place = "memory://precomputed_fs-tests/interop/engine"
    make(place, overwrite=True)
    data = xarray.open_dataset(place, engine=PrecomputedBackend, cache=False)
    assert np.array_equal(data.voxels[index].values, voxels()[index])


def test_points_and_lists_are_found(engine: Callable[..., xarray.Dataset]) -> None:
    points = [xarray.DataArray([3, 40, 7], dims="point"), xarray.DataArray([0, 32, 8], dims="point")]
    data = engine()
    assert np.array_equal(data.voxels.isel(x=points[0], y=points[1], z=5), voxels()[[3, 40, 7], [0, 32, 8], 5])
    assert np.array_equal(data.voxels.isel(x=[9, 3], z=[1, 19]), voxels()[[9, 3]][:, :, [1, 19]])
    assert data.voxels.isel(x=1, y=2, z=3, channel=1).item() == voxels()[1, 2, 3, 1]


def test_a_data_set_is_computed_by_dask_too(engine: Callable[..., xarray.Dataset]) -> None:
    assert engine(chunks={}).voxels.chunks == ((16, 16, 13), (8, 8, 8, 8, 1), (9, 9, 2), (2,))
    assert engine(chunks="auto").voxels.chunks == ((45,), (33,), (20,), (2,))
    assert engine(chunks={"x": 32}).voxels.mean().compute() == voxels().mean()


def test_a_data_set_is_loaded_without_blocking(engine: Callable[..., xarray.Dataset]) -> None:
    loaded = asyncio.run(engine().isel(z=3).load_async())
    assert np.array_equal(loaded.voxels.values, voxels()[:, :, 3])


def test_a_data_set_can_be_pickled(tmp_path: Path) -> None:
    make(tmp_path)
    data = pickle.loads(pickle.dumps(xarray.open_dataset(tmp_path, engine=PrecomputedBackend)))
    assert np.array_equal(data.voxels.values, voxels())


def test_a_group_is_a_scale(engine: Callable[..., xarray.Dataset]) -> None:
    assert engine().voxels.attrs["resolution"] == [8, 8, 40]
    assert engine(group="16_16_40").voxels.attrs["resolution"] == [16, 16, 40]
    assert engine(group="/16_16_40").sizes == engine(group=1).sizes == {"x": 23, "y": 17, "z": 20, "channel": 2}
    with pytest.raises(KeyError, match=r"there are 8_8_40 \(8 x 8 x 40 nm\), 16_16_40"):
        engine(group="4_4_40")
    with pytest.raises(IndexError, match="there are 3"):
        engine(group=3)


def test_a_tree_has_a_group_for_each_scale(engine: Callable[..., xarray.Dataset], url: str) -> None:
    with xarray.open_datatree(url, engine=PrecomputedBackend) as tree:
        assert [*tree.children] == ["8_8_40", "16_16_40", "32_32_40"]
        assert tree.attrs == {"type": "image"}
        for scale in open_volume(url):
            assert np.array_equal(tree[scale.key].voxels.values, scale[...])
    groups = xarray.open_groups(url, engine=PrecomputedBackend, drop_variables="x")
    assert [*groups] == ["/", "/8_8_40", "/16_16_40", "/32_32_40"] or [*groups] == ["/", *tree.children]
    assert [*groups["8_8_40" if "8_8_40" in groups else "/8_8_40"].coords] == ["y", "z"]


def test_a_group_s_number_counts_from_the_finest(coarsest_first: Path) -> None:
    groups = [xarray.open_dataset(coarsest_first, engine=PrecomputedBackend, group=i) for i in (None, 0, 2)]
    assert [group.sizes["x"] for group in groups] == [32, 32, 8]
    tree = xarray.open_datatree(coarsest_first, engine=PrecomputedBackend)
    assert [*tree.children] == ["4_4_4", "8_8_8", "16_16_16"]


def test_keys_that_are_paths(url: str) -> None:
    scale = {"size": [4, 4, 4], "chunk_sizes": [[4, 4, 4]], "resolution": [1, 1, 1], "encoding": "raw"}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1}
    scales = [scale | {"key": "fine/1"}, scale | {"key": "../other/2"}]
    volume = create_volume(url, info | {"scales": scales})
    volume[1][...] = 7
    tree = xarray.open_datatree(url, engine=PrecomputedBackend)
    assert (tree["other/2"].voxels == 7).all()
    for group in ("other/2", "../other/2"):
        assert (xarray.open_dataset(url, engine=PrecomputedBackend, group=group).voxels == 7).all()
    twice = create_volume(url + "/twice", info | {"scales": [scale | {"key": "a"}, scale | {"key": "./a"}]})
    with pytest.raises(ValueError, match="the same key"):
        xarray.open_datatree(twice.url, engine=PrecomputedBackend)


def test_options_of_the_engine(url: str) -> None:
    empty(url, (8, 8, 8), chunk=8)
    with pytest.warns(UserWarning, match="none of the 1 chunks"):
        assert not xarray.open_dataset(url, engine=PrecomputedBackend).voxels.values.any()
    with pytest.raises(NotFoundError):
        _ = xarray.open_dataset(url, engine=PrecomputedBackend, missing="raise").voxels.values
    assert [*xarray.open_dataset(url, engine=PrecomputedBackend, drop_variables=["voxels", "z"]).variables] == [
        "x",
        "y",
    ]
    with pytest.raises(TypeError, match="no_such_option"):
        xarray.open_dataset(url, engine=PrecomputedBackend, no_such_option=1)


def test_a_data_sets_source_shows_no_secrets(url: str, tmp_path: Path) -> None:
    make(tmp_path)
    data = xarray.open_dataset(f"precomputed://file://{tmp_path}", engine=PrecomputedBackend)
    assert data.encoding["source"] == open_volume(tmp_path).url


@pytest.mark.parametrize(
    ("what", "can"),
    [
        ("precomputed://gs://bucket/brain", True),
        ("precomputed:///brain", True),
        ("s3://bucket/brain/|neuroglancer-precomputed:", True),
        ("s3://bucket/brain", False),
        ("brain.nc", False),
        (Path("brain.zarr"), False),
        (b"precomputed://", False),
        (None, False),
    ],
)
def test_what_the_engine_knows_by_its_name(what: Any, can: bool) -> None:
    assert PrecomputedBackend().guess_can_open(what) is can


def test_the_entry_point_is_found_by_xarray(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    ((name, value),) = project["project"]["entry-points"]["xarray.backends"].items()
    point = EntryPoint(name, value, "xarray.backends")
    assert (name, point.load()) == ("precomputed", PrecomputedBackend)
    make(url)
    with monkeypatch.context() as patch:
        patch.setattr("xarray.backends.plugins.entry_points", lambda group: EntryPoints([point]))
        xarray.backends.refresh_engines()
        try:
            for data in (xarray.open_dataset(url, engine="precomputed"), xarray.open_dataset(f"precomputed://{url}")):
                assert np.array_equal(data.voxels.values, voxels())
            assert [*xarray.open_datatree(f"precomputed://{url}").children] == ["8_8_40"]
        finally:
            patch.undo()
            xarray.backends.refresh_engines()
