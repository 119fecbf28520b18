"""OME-Zarr images become pyramids: as ome-zarr-py writes them, as zarr does, and as they should not be."""

from __future__ import annotations

import traceback
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from upath import UPath

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    InvalidInfoError,
    NotFoundError,
    create_volume,
    open_volume,
)
from precomputed_fs.__main__ import main
from precomputed_fs.errors import ReadOnlyError
from precomputed_fs.volume import create
from tests.support import servers
from tests.volume.samples import make, voxels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from precomputed_fs.format.grid import Triple

zarr: Any = pytest.importorskip("zarr")

MICROMETERS = dict.fromkeys("zyx", "micrometer")


@pytest.fixture(scope="module")
def write_image() -> Any:
    """Return what ome-zarr-py writes images with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formats, writer = (pytest.importorskip(f"ome_zarr.{name}") for name in ("format", "writer"))

    def write(folder: Path, array: NDArray[Any], version: str, **options: Any) -> str:
        fmt = {"0.4": formats.FormatV04, "0.5": formats.FormatV05}[version]()
        group = zarr.open_group(folder, mode="w", zarr_format=fmt.zarr_format)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer.write_image(array, group, fmt=fmt, **options)
        return str(folder)

    return write


def image(folder: Path, arrays: list[NDArray[Any]], names: str = "zyx", **changed: Any) -> Any:
    """Write an image by hand: levels of halves, in micrometers unless said otherwise."""
    group: Any = zarr.open_group(folder, mode="w")
    kinds = {"c": "channel", "t": "time"}
    described = [
        {"name": name, "type": kinds.get(name, "space"), **({} if name in kinds else {"unit": "micrometer"})}
        for name in names
    ]
    datasets = []
    for i, array in enumerate(arrays):
        group.create_array(str(i), data=array, chunks=tuple(min(8, size) for size in array.shape))
        scale = {"type": "scale", "scale": [1.0 if name in kinds else 2.0**i for name in names]}
        datasets.append({"path": str(i), "coordinateTransformations": [scale]})
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": described, "datasets": datasets, **changed}]}
    return group


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_of_ome_zarr_py(tmp_path: Path, write_image: Any, version: str) -> None:
    array = voxels((1, 2, 30, 40, 48), "uint16")
    sizes = {"z": 1.0, "y": 0.5, "x": 0.5}
    url = write_image(
        tmp_path / "a.zarr", array, version, axes="tczyx", scale=sizes, axes_units=MICROMETERS, scale_factors=[2, 4]
    )
    volume = create_volume(tmp_path / "pyramid", url)
    assert [scale.resolution for scale in volume][:3] == [(500, 500, 1000), (1000,) * 3, (2000, 2000, 1000)]
    group = zarr.open_group(url, mode="r")
    for i, scale in enumerate(volume.scales[:3]):
        assert scale.voxel_offset == (0, 0, 0)
        assert np.array_equal(scale[:], group[f"s{i}"][0].T)


def test_a_level_of_other_voxels_is_computed(tmp_path: Path, write_image: Any) -> None:
    array = voxels((30, 40, 50), "uint16")  # 50, 25 and then 12, where 13 would hold all
    url = write_image(tmp_path / "a.zarr", array, "0.5", axes="zyx", axes_units=MICROMETERS, scale_factors=[2, 4])
    volume = create_volume(tmp_path / "pyramid", url, scales=3)
    assert [scale.shape[:3] for scale in volume] == [(50, 40, 30), (25, 20, 30), (25, 20, 15)]
    computed = create_volume(tmp_path / "computed", volume[1], resolution=volume[1].resolution, scales=2)
    assert np.array_equal(volume[2][:], computed[1][:])


@pytest.mark.parametrize("dtype", [">u2", "float32", "int8"])
def test_levels_are_taken_as_they_are(tmp_path: Path, dtype: str) -> None:
    arrays = [voxels((20, 16, 12)).astype(dtype), np.full((10, 8, 6), 7, dtype)]
    volume = create_volume(tmp_path / "pyramid", image(tmp_path / "a.zarr", arrays), scales=3)
    assert [scale.resolution for scale in volume] == [(1000,) * 3, (2000,) * 3, (4000,) * 3]
    assert np.array_equal(volume[0][..., 0], arrays[0].T)
    assert (volume[1][:] == 7).all()
    assert (volume[2][:] == 7).all()


def test_a_pyramid_that_was_exported_comes_back(tmp_path: Path) -> None:
    before = make(tmp_path / "before", voxels((50, 40, 30, 2)), scales=3, voxel_offset=(-4, 8, 12), chunk_size=16)
    before.export_zarr(tmp_path / "image.zarr")
    after = create_volume(tmp_path / "after", tmp_path / "image.zarr", chunk_size=16, scales=3)
    assert after.info.to_dict() == before.info.to_dict()
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one[:], other[:])


def test_labels_stay_labels(tmp_path: Path) -> None:
    before = make(tmp_path / "before", voxels((50, 40, 30), "uint8"), scales=2, type="segmentation")
    before.export_zarr(tmp_path / "image.zarr")
    group: Any = before.to_zarr()
    assert create_volume(tmp_path / "after", tmp_path / "image.zarr", scales=1).info.type == "segmentation"
    assert create_volume(tmp_path / "other", group["labels/segmentation"]).info.type == "segmentation"


@pytest.mark.parametrize("protocol", ["s3", "sftp"])
def test_images_are_read_from_and_written_to_any_store(make_pyramid: Any, tmp_path: Path, protocol: str) -> None:
    place = make_pyramid(protocol)
    volume = make(tmp_path / "before", voxels((20, 12, 10)), scales=2)
    url = f"{place.url}/image.zarr"
    volume.export_zarr(url, storage_options=place.storage_options)
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        volume.export_zarr(url, storage_options=place.storage_options)
    volume.export_zarr(url, storage_options=place.storage_options, overwrite=True)
    source = UPath(url, **place.storage_options)
    assert np.array_equal(create_volume(tmp_path / "after", source, scales=2)[1][:], volume[1][:])


def test_the_command_line_exports_and_creates(tmp_path: Path) -> None:
    volume = make(tmp_path / "before", voxels((50, 40, 30)), scales=2)
    exported = str(tmp_path / "image.zarr")
    assert main(["export", volume.url, exported]) == 0
    assert main(["export", volume.url, exported]) == 1
    assert main(["export", volume.url, exported, "--overwrite"]) == 0
    assert main(["create", exported, str(tmp_path / "after"), "--scales", "2"]) == 0
    assert np.array_equal(open_volume(tmp_path / "after")[1][:], volume[1][:])


def test_each_chunk_is_read_once(tmp_path: Path) -> None:
    group = image(tmp_path / "a.zarr", [voxels((40, 36, 33), "uint8")])
    read: list[str] = []

    class Counting(zarr.storage.LocalStore):  # type: ignore[misc]
        async def get(self, key: str, *args: Any, **options: Any) -> Any:
            read.append(key)
            return await super().get(key, *args, **options)

    counted = zarr.open_group(Counting(tmp_path / "a.zarr", read_only=True), mode="r")
    volume = create_volume(tmp_path / "pyramid", counted, chunk_size=(4, 24, 2), scales=1)
    assert np.array_equal(volume[0][..., 0], group["0"][:].T)
    chunks = [key for key in read if key.startswith("0/c/")]
    assert len(chunks) == len(set(chunks)) == 5**3


@pytest.mark.parametrize(
    ("place", "offset"),
    [((0, 0, 0), (0, 0, 0)), ((0.5, 0.5, 0.5), (0, 0, 0)), ((-3, 4.5, 10), (10, 4, -3)), ((2.5, 3, 1.2), (1, 3, 2))],
)
def test_the_first_voxel_is_where_its_centre_says(tmp_path: Path, place: Any, offset: Any) -> None:
    translation = [{"type": "translation", "translation": place}]
    group = image(tmp_path / "a.zarr", [voxels((8, 8, 8))], coordinateTransformations=translation)
    assert create_volume(tmp_path / "pyramid", group, scales=1)[0].voxel_offset == offset


def test_planes_and_sizes_that_the_caller_knows_better(tmp_path: Path) -> None:
    group = image(tmp_path / "a.zarr", [voxels((20, 16)), voxels((10, 8))], "yx")
    given: Any = {"resolution": ("2 um", "2 um", "5 um"), "voxel_offset": (2, 2, 3), "scales": 2}
    volume = create_volume(tmp_path / "pyramid", group, **given)
    assert (volume[0].shape, volume[0].resolution) == ((16, 20, 1, 1), (2000, 2000, 5000))
    assert volume[0].voxel_offset == (2, 2, 3)
    assert volume[1].resolution == (4000, 4000, 5000)


@pytest.mark.parametrize(("first", "second", "is_taken"), [(1.5, 2.0, False), (1.5, 1.0, True), (0.5, 1.0, True)])
def test_a_level_whose_voxels_lie_elsewhere_is_computed(
    tmp_path: Path, first: float, second: float, is_taken: bool
) -> None:
    """From 1 on, scales have one voxel of half a size too early: a level that has none is not theirs."""
    arrays = [voxels((9, 9, 9), "uint8"), np.full((5, 5, 5), 7, "uint8")]
    group = image(tmp_path / "a.zarr", arrays)
    datasets = [
        {
            "path": str(i),
            "coordinateTransformations": [
                {"type": "scale", "scale": [2.0**i] * 3},
                {"type": "translation", "translation": [at] * 3},
            ],
        }
        for i, at in enumerate((first, second))
    ]
    ome = group.attrs["ome"]
    group.attrs["ome"] = {**ome, "multiscales": [{**ome["multiscales"][0], "datasets": datasets}]}
    volume = create_volume(tmp_path / "pyramid", group, scales=2)
    assert volume[1].shape[:3] == (5, 5, 5)
    assert (volume[1][:] == 7).all() == is_taken


@pytest.mark.parametrize("lower", [np.full((2, 4, 4, 4), 7, "uint8"), np.full((3, 4, 4, 4), 300, "uint16")])
def test_a_level_of_other_values_is_computed(tmp_path: Path, lower: NDArray[Any]) -> None:
    group = image(tmp_path / "a.zarr", [np.full((3, 8, 8, 8), 5, "uint8"), lower], "czyx")
    volume = create_volume(tmp_path / "pyramid", group, scales=2)
    assert volume[1].shape == (4, 4, 4, 3)
    assert (volume[1][:] == 5).all()


@pytest.mark.parametrize(
    ("chunk", "block", "voxel_bytes", "size"),
    [
        ((64, 64, 64), (96, 32, 1), 1, (192, 64, 64)),
        ((64, 64, 64), (20_000, 20_000, 1), 1, (5056, 5056, 64)),  # a plane has 400 MB, and eight of them 3.2 GB
        ((64, 64, 64), (1000, 1000, 1000), 2, (1024, 1024, 1024)),
        ((8, 8, 8), (1, 1, 1), 1 << 30, (8, 8, 8)),
    ],
)
def test_memory_holds_few_blocks(chunk: Triple, block: Triple, voxel_bytes: int, size: Triple) -> None:
    assert create._block_size(chunk, block, voxel_bytes) == size


def test_labels_of_64_bits_become_storable(tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 8), "int64")
    labels[2, 3, 4] = 70_000
    group = image(tmp_path / "a.zarr", [labels, labels[::2, ::2, ::2]])
    volume = create_volume(tmp_path / "pyramid", group, scales=2)
    assert (volume.info.type, volume.dtype) == ("segmentation", np.dtype("uint32"))
    assert volume[0][4, 3, 2, 0] == 70_000


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_floats_of_other_widths_become_float32(tmp_path: Path, dtype: str) -> None:
    array = voxels((8, 8, 8), dtype) / np.array(3, dtype)
    group = image(tmp_path / "a.zarr", [array, array[::2, ::2, ::2]])
    volume = create_volume(tmp_path / "pyramid", group, scales=2)
    for i, scale in enumerate(volume):
        assert np.array_equal(scale[..., 0].T, np.asarray(group[str(i)]).astype("float32"))


def test_each_file_is_asked_for_with_the_query_of_its_url(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr", [voxels((8, 8, 8))])
    zarr.open_group(tmp_path / "b.zarr", mode="w")
    with servers.http_server(tmp_path) as server:
        volume = create_volume(tmp_path / "pyramid", f"{server.url}/a.zarr?token=x%2Fy", scales=1)
        assert np.array_equal(volume[0][..., 0].T, voxels((8, 8, 8)))
        with pytest.raises(InvalidInfoError, match="no multiscales"):
            create_volume(tmp_path / "none", f"{server.url}/b.zarr?token=x%2Fy")
        assert {request.query for request in server.log.entries()} == {"token=x%2Fy"}


@pytest.mark.parametrize("name", ["image.zarr", "zarr"])
def test_any_place_that_says_zarr_is_read(tmp_path: Path, name: str) -> None:
    image(tmp_path / name, [voxels((8, 8, 8))])
    assert create_volume(tmp_path / "pyramid", tmp_path / name, scales=1)[0].shape == (8, 8, 8, 1)
    np.save(tmp_path / name / "array.npy", voxels((8, 8, 8)))
    given = create_volume(tmp_path / "other", tmp_path / name / "array.npy", resolution=1, scales=1)
    assert np.array_equal(given[0][..., 0], voxels((8, 8, 8)))


# -------------------------------------------------------------------------------------------------------- what is wrong


def test_failures_name_the_url_without_secrets(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr", [voxels((8, 8, 8))])
    files = servers.files(tmp_path)

    async def denying(request: Any) -> Any:
        return await (servers.respond(403) if "/c/" in request.path else files)(request)

    with servers.fault_server(denying) as server:
        secret = server.url.replace("://", "://user:hidden@")
        with pytest.raises(AccessDeniedError, match=r"a.zarr/0/c/0/0/0") as denied:
            create_volume("memory://denied", f"{secret}/a.zarr")
        with pytest.raises(InvalidInfoError, match="this is an array") as invalid:
            create_volume("memory://denied", f"{secret}/a.zarr/0")
        with pytest.raises(AccessDeniedError, match=r"a.zarr/0/c/0/0/0") as queried:
            create_volume("memory://denied", f"{server.url}/a.zarr?token=hidden")
    for failure in (denied, invalid, queried):
        assert "hidden" not in "".join(traceback.format_exception_only(failure.value))


def test_a_damaged_chunk_is_a_failure(tmp_path: Path) -> None:
    group = image(tmp_path / "a.zarr", [voxels((8, 8, 8))])
    (tmp_path / "a.zarr/0/c/0/0/0").write_bytes(b"damaged")
    with pytest.raises(CorruptDataError, match=r"a.zarr/0: a chunk cannot be decoded"):
        create_volume(tmp_path / "pyramid", group)


def test_an_unknown_unit_is_named(tmp_path: Path) -> None:
    axes = [{"name": name, "type": "space", "unit": "pixel"} for name in "zyx"]
    group = image(tmp_path / "a.zarr", [voxels((8, 8, 8))], axes=axes)
    with pytest.raises(TypeError, match="not known, 'pixel': pass the size of a voxel"):
        create_volume(tmp_path / "pyramid", group)


@pytest.mark.parametrize("place", ["files", "pyramid", "."])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_but_a_zarr_hierarchy_is_replaced(tmp_path: Path, place: str, overwrite: bool) -> None:
    volume = make(tmp_path / "pyramid", voxels((8, 8, 8)))
    (tmp_path / "files").mkdir()
    (tmp_path / "files/precious").write_text("x")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises((AlreadyExistsError, ValueError), match="export to somewhere else"):
        volume.export_zarr(tmp_path / place, overwrite=overwrite)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_archives_are_not_exported_to(tmp_path: Path) -> None:
    volume = make(tmp_path / "pyramid", voxels((8, 8, 8)))
    with pytest.raises(ReadOnlyError, match="export to a folder or a bucket"):
        volume.export_zarr(f"zip://a.zarr::{tmp_path}/a.zip")


def test_an_image_without_units_needs_a_voxel_size(tmp_path: Path) -> None:
    group = image(tmp_path / "a.zarr", [voxels((8, 8, 8))], axes=["z", "y", "x"])
    with pytest.raises(TypeError, match="have no unit: pass the size of a voxel"):
        create_volume(tmp_path / "pyramid", group)
    assert create_volume(tmp_path / "pyramid", group, resolution=4)[0].resolution == (4, 4, 4)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"axes": []}, "expected axes x, y"),
        ({"axes": ["z", "y", "q"]}, "expected axes x, y"),
        ({"axes": ["y", "x"]}, "expected 2 numbers"),
        ({"axes": ["y", "x"], "datasets": [{"path": "0"}]}, "expected an array of 2 axes"),
        ({"axes": 3}, "not as OME-Zarr has them"),
        ({"datasets": [{"path": "nowhere"}]}, "not as OME-Zarr has them"),
        ({"datasets": []}, "not as OME-Zarr has them"),
        ({"coordinateTransformations": [{"type": "affine"}]}, "expected a scale or a translation, got 'affine'"),
        ({"coordinateTransformations": [{"type": "scale", "scale": [1, 0, 1]}]}, "expected positive scales"),
        ({"coordinateTransformations": [{"type": "scale", "scale": [1]}]}, "expected 3 numbers"),
    ],
)
def test_metadata_that_are_not_an_image_s_are_refused(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    group = image(tmp_path / "a.zarr", [voxels((8, 8, 8))], **changed)
    with pytest.raises(InvalidInfoError, match=f"a.zarr.*{told}"):
        create_volume(tmp_path / "pyramid", group, resolution=1)


def test_other_groups_say_what_they_hold(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_group("series")
    with pytest.raises(InvalidInfoError, match=r"no multiscales of OME-Zarr; .*: series"):
        create_volume(tmp_path / "pyramid", group)
    with pytest.raises(NotFoundError, match=r"none.zarr: there is no Zarr group"):
        create_volume(tmp_path / "pyramid", tmp_path / "none.zarr")


def test_several_times_are_refused(tmp_path: Path) -> None:
    group = image(tmp_path / "a.zarr", [voxels((3, 8, 8, 8))], "tzyx")
    with pytest.raises(InvalidInfoError, match="expected one time, got 3"):
        create_volume(tmp_path / "pyramid", group)
