"""Volumes as Zarr groups: read by zarr, xarray, dask and tensorstore, and held against OME-Zarr's models."""

from __future__ import annotations

import json
import os
import pickle
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore

from precomputed_fs import CorruptDataError, NotFoundError, Volume, create_volume, open_volume, serve
from precomputed_fs.interop.zarr_view import ZarrView
from tests.interop.samples import CHUNK, OFFSET, RESOLUTION, SIZE, empty, make, sharding, voxels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.browser import Neuroglancer

zarr: Any = pytest.importorskip("zarr")

LABELS: Any = {"type": "segmentation", "encoding": "compressed_segmentation"}


def group_of(volume: Volume) -> Any:
    """Return the group, of whose members zarr does not say which are arrays."""
    return volume.to_zarr()


def expected(volume: Volume, index: int = 0) -> NDArray[Any]:
    """Return the voxels of a scale with the axes of the group."""
    read: NDArray[Any] = volume[index][:].transpose(3, 2, 1, 0)
    return read if read.shape[0] > 1 else read.reshape(read.shape[1:])


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (voxels(), {}),
        (voxels((*SIZE, 1), "float32"), {"encoding": "raw", "gzip": True}),
        (voxels((*SIZE, 3), "uint8"), {"encoding": "png"}),
        (voxels((*SIZE, 1), "uint64"), LABELS),
        (voxels((*SIZE, 2), "int8"), {"sharding": sharding()}),
        (voxels((5, 1, 1), "uint32"), {"chunk_size": (64, 64, 64)}),
    ],
)
def test_each_scale_is_an_array_with_its_voxels(tmp_path: Path, array: Any, options: dict[str, Any]) -> None:
    make(tmp_path, array, **{"scales": 2, **options})
    volume = open_volume(tmp_path)
    group = group_of(volume)
    name = "labels" if volume.info.type == "segmentation" else "image"
    for i, scale in enumerate(volume):
        found = group[f"scale{i}/{name}"]
        assert found.dtype == scale.dtype
        assert np.array_equal(found[:], expected(volume, i))
    assert np.array_equal(group[f"scale0/{name}"][..., 1:, :1, 2:4], expected(volume)[..., 1:, :1, 2:4])


def test_a_segmentation_is_found_where_labels_are(tmp_path: Path) -> None:
    volume = make(tmp_path, voxels((*SIZE, 1), "uint32"), scales=2, **LABELS)
    group = group_of(volume)
    assert group["labels"].attrs["ome"]["labels"] == ["segmentation"]
    assert np.array_equal(group["labels/segmentation/scale1"][:], expected(volume, 1))


def test_each_chunk_is_one_of_the_scale_fetched_by_one_request(make_pyramid: Any) -> None:
    place = make_pyramid("s3")
    make(place.url, storage_options=place.storage_options)
    volume = open_volume(place.url, storage_options=place.storage_options)
    array = group_of(volume)["scale0/image"]
    assert array.chunks == (2, *reversed(CHUNK))
    place.server.log.clear()
    assert array[0, 3, 2, 1] == voxels()[1, 2, 3, 0]
    assert place.server.log.methods() == ["GET"]
    place.server.log.clear()
    array[:, : CHUNK[2], : CHUNK[1], : 2 * CHUNK[0]]
    assert place.server.log.methods() == ["GET"] * 2


def test_absent_chunks_are_zeros_unless_the_volume_says_otherwise(tmp_path: Path) -> None:
    empty(tmp_path, (100, 80, 60))
    assert not group_of(open_volume(tmp_path))["scale0/image"][:].any()
    with pytest.raises(NotFoundError, match=str(tmp_path)):
        group_of(open_volume(tmp_path, missing="raise"))["scale0/image"][0, 0, 0]


def test_a_damaged_chunk_is_a_failure(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    next((tmp_path / "8_8_40").iterdir()).write_bytes(b"damaged")
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/8_8_40/"):
        group_of(open_volume(tmp_path))["scale0/image"][:]


def test_nothing_is_written_through_the_group(tmp_path: Path) -> None:
    group = group_of(make(tmp_path))
    with pytest.raises(ValueError, match="read-only"):
        group["scale0/image"][0, 0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        group.create_group("more")


def test_a_huge_volume_is_listed_without_its_chunks(tmp_path: Path) -> None:
    group = group_of(empty(tmp_path, (10**7, 10**7, 10**7)))
    assert [name for name, _ in group.members()] == ["scale0"]
    assert list(group["scale0"].array_keys()) == ["image"]


@pytest.mark.parametrize(
    "key",
    [
        "zarr.json/x", "scale0", "scale0/image", "scale0/image/c", "scale0/image/c/0/0", "scale0/image/c/0/0/0/0/0",
        "scale0/image/c/0/00/0/0", "scale0/image/c/0/-1/0/0", "scale0/image/c/0/3/0/0", "scale0/image/c/1/0/0/0",
        "scale0/image/c/0/٣/0/0", "scale9/image/zarr.json", "../info", "info", "8_8_40/0-16_0-8_0-9", "",
        f"scale0/image/c/0/{'9' * 9999}/0/0",
    ],
)  # fmt: skip
def test_other_keys_name_nothing(tmp_path: Path, key: str) -> None:
    view = ZarrView(make(tmp_path))
    assert view.read(key) is None
    assert not view.has(key)


def test_parts_of_chunks_are_read(tmp_path: Path) -> None:
    store = group_of(make(tmp_path)).store
    key = "scale0/image/c/0/0/0/0"
    whole = zarr.core.sync.sync(store.get(key)).to_bytes()
    kinds = zarr.abc.store
    asked = [kinds.RangeByteRequest(2, 6), kinds.OffsetByteRequest(len(whole) - 3), kinds.SuffixByteRequest(5), None]
    prototype = zarr.core.buffer.default_buffer_prototype()
    parts = zarr.core.sync.sync(store.get_partial_values(prototype, [(key, each) for each in asked]))
    assert [part.to_bytes() for part in parts] == [whole[2:6], whole[-3:], whole[-5:], whole]


def test_arrays_may_be_pickled(tmp_path: Path) -> None:
    volume = make(tmp_path)
    array = pickle.loads(pickle.dumps(group_of(volume)["scale0/image"]))
    assert np.array_equal(array[:], expected(volume))


def test_xarray_and_dask_read_the_group(tmp_path: Path) -> None:
    xarray, dask_array = pytest.importorskip("xarray"), pytest.importorskip("dask.array")
    volume = make(tmp_path, scales=2)
    group = group_of(volume)
    opened = xarray.open_zarr(group.store, group="scale1", consolidated=False)
    assert opened["image"].dims == ("c", "z", "y", "x")
    assert np.array_equal(opened["image"], expected(volume, 1))
    tree = xarray.open_datatree(group.store, engine="zarr", consolidated=False)
    assert np.array_equal(tree["scale0/image"], expected(volume))
    assert np.array_equal(dask_array.from_zarr(group["scale0/image"]).compute(), expected(volume))


# ------------------------------------------------------------------------------------------------------------ OME-Zarr


@pytest.mark.parametrize("channels", [1, 2])
def test_the_metadata_are_those_of_an_ome_zarr_image(tmp_path: Path, channels: int) -> None:
    models = pytest.importorskip("ome_zarr_models.v05.image")
    group = make(tmp_path, voxels((*SIZE, channels)), scales=2).to_zarr()
    multiscale = models.Image.from_zarr(group).attributes.ome.multiscales[0]
    places = [dataset.coordinateTransformations for dataset in multiscale.datasets]
    assert [tuple(reversed(scale.scale))[:3] for scale, _ in places] == [RESOLUTION, (16, 16, 40)]
    for translation, voxel_size, offset in (
        (places[0][1], RESOLUTION, OFFSET),
        (places[1][1], (16, 16, 40), (-3, 3, 100)),
    ):
        centre = [(at + 0.5) * size for at, size in zip(offset, voxel_size, strict=True)]
        assert list(reversed(translation.translation))[:3] == centre


def test_the_metadata_are_those_of_ome_zarr_labels(tmp_path: Path) -> None:
    models = pytest.importorskip("ome_zarr_models.v05")
    group = make(tmp_path, voxels((*SIZE, 1), "uint32"), scales=2, **LABELS).to_zarr()
    models.Image.from_zarr(group)
    models.ImageLabel.from_zarr(group["labels/segmentation"])
    models.Labels.from_zarr(group["labels"])


# --------------------------------------------------------------------------------------------------------------- served


@pytest.mark.parametrize("options", [{"type": "image"}, LABELS], ids=["image", "segmentation"])
def test_tensorstore_reads_what_is_served(tmp_path: Path, options: dict[str, Any]) -> None:
    volume = make(tmp_path, voxels((*SIZE, 1), "uint32"), scales=2, **options)
    name = "labels" if options is LABELS else "image"
    with serve(tmp_path) as server:
        for i in range(2):
            spec = {"driver": "zarr3", "kvstore": f"{server.zarr_url}/scale{i}/{name}/"}
            opened = tensorstore.open(spec, read=True).result()
            assert opened.domain.labels == ("z", "y", "x")
            assert np.array_equal(opened.read().result(), expected(volume, i))


def assert_same_slices(neuroglancer: Neuroglancer, sources: Sequence[str], layer_type: str, **layer: Any) -> None:
    """Check that Neuroglancer shows the same slice of all sources, at the same place, and no errors."""
    slices = []
    for source in sources:
        with neuroglancer.show(source, layer_type, position=(20, 10, 12.5), scale=0.2, **layer) as view:
            slices.append(view.slice())
            assert view.errors == []
    assert slices[0].std() > 10
    assert [np.array_equal(slices[0], other) for other in slices] == [True] * len(sources)


IN_NEUROGLANCER: Any = {"resolution": (1e6,) * 3, "voxel_offset": (4, -4, 8), "chunk_size": 16}


@pytest.mark.browser
@pytest.mark.slow
def test_neuroglancer_shows_the_same_voxels_at_the_same_places(tmp_path: Path, neuroglancer: Neuroglancer) -> None:
    volume = create_volume(tmp_path, voxels((40, 32, 20), "uint8"), **IN_NEUROGLANCER)
    with serve(volume) as server:
        assert_same_slices(neuroglancer, [server.source, f"zarr3://{server.zarr_url}/"], "image")


@pytest.mark.browser
@pytest.mark.slow
def test_neuroglancer_shows_the_same_segments_at_the_same_places(tmp_path: Path, neuroglancer: Neuroglancer) -> None:
    """Of ids that are no JavaScript numbers, and which differ in their highest bits and in their lowest."""
    ids = np.array([0, 7, 2**53 + 1, 2**53, 2**64 - 1], np.uint64)
    colours = dict(zip(map(str, ids.tolist()), ("#000000", "#ff0000", "#00ff00", "#8040ff", "#ffff00"), strict=True))
    array = ids[np.random.default_rng(0).integers(0, len(ids), (40, 32, 20))]
    volume = create_volume(tmp_path, array, **IN_NEUROGLANCER, **LABELS)
    with serve(volume) as server:
        zarr3 = f"zarr3://{server.zarr_url}/"
        shown = {"segmentColors": colours, "selectedAlpha": 1, "saturation": 1}
        sources = [server.source, zarr3, f"{zarr3}labels/segmentation/"]
        assert_same_slices(neuroglancer, sources, "segmentation", **shown)


def test_the_metadata_are_json_without_python_s_own(tmp_path: Path) -> None:
    view = ZarrView(make(tmp_path, scales=2))
    for key in view.metadata_keys():
        document = view.read(key)
        assert isinstance(document, bytes)
        json.loads(document, parse_constant=pytest.fail)


def test_an_array_of_more_than_there_is_now_is_refused(tmp_path: Path) -> None:
    volume = make(tmp_path, voxels((*SIZE, 1)))
    array = group_of(volume)["scale0/image"]
    volume[0].resize((SIZE[0] + 20, *SIZE[1:]))
    assert np.array_equal(array[:], expected(volume)[..., : SIZE[0]])
    volume[0].resize((SIZE[0] - 20, *SIZE[1:]))
    with pytest.raises(ValueError, match="since it was resized: call to_zarr"):
        array[:]
    assert np.array_equal(group_of(volume)["scale0/image"][:], expected(volume))


def test_what_is_served_is_as_it_is_now(tmp_path: Path) -> None:
    volume = make(tmp_path, voxels((*SIZE, 1)))
    with serve(volume) as server:
        assert zarr.open_group(server.zarr_url, mode="r")["scale0/image"].shape == SIZE[::-1]
        volume[0].resize((SIZE[0] + 20, *SIZE[1:]))
        assert np.array_equal(zarr.open_group(server.zarr_url, mode="r")["scale0/image"][:], expected(volume))


def test_what_must_not_miss_is_not_served_as_zeros(tmp_path: Path) -> None:
    empty(tmp_path, (8, 8, 8), 4)
    with serve(open_volume(tmp_path, missing="raise")) as server:
        request = urllib.request.Request(f"{server.zarr_url}/scale0/image/c/0/0/0")
        with pytest.raises(urllib.error.HTTPError, match="502"):
            urllib.request.urlopen(request)


def test_memory_of_another_process_is_not_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make("memory://zarr/pickled", overwrite=True)
    pickled = pickle.dumps(group_of(volume)["scale0/image"])
    assert np.array_equal(pickle.loads(pickled)[:], expected(volume))
    here = os.getpid()
    monkeypatch.setattr("os.getpid", lambda: here + 1)
    with pytest.raises(ValueError, match="belongs to one process"):
        pickle.loads(pickled)
