"""Which slices are shown, how they lie, and from which scale they are read."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest

from precomputed_fs import (
    DataAccessError,
    Volume,
    create_volume,
    open_volume,
)
from precomputed_fs.view import slices
from tests.support import browser, servers
from tests.view.volumes import OFFSET, SIZE, SOME_IDS, asked, make, open_accessor, pixels, seen, voxels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.browser import Neuroglancer


def planes(array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the slice at the first voxel along each axis, as Neuroglancer's panels show it, row by row."""
    return {"z": array[:, :, 0].T, "y": array[:, 0].T, "x": array[0][:, ::-1]}


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("at", [0, 3, -1])
def test_a_slice_is_shown_voxel_for_voxel(axis: str, at: int) -> None:
    array = voxels()
    scale = make(array, voxel_offset=OFFSET, scales=1)[0]
    number = "xyz".index(axis)
    index = at % SIZE[number]
    point: dict[str, Any] = {axis: OFFSET[number] + index}
    shown = scale.show(**point, size=None)
    assert shown.mode == "L"
    np.testing.assert_array_equal(pixels(shown), planes(array.take([index], axis=number))[axis])


def test_without_a_coordinate_there_are_three_slices_through_the_middle() -> None:
    array = voxels()
    scale = make(array, voxel_offset=OFFSET)[0]
    shown = scale.show(size=None)
    assert shown.mode == "LA"
    assert shown.size == (40 + 8 + 40 + 8 + 20, 30)
    expected = np.zeros((30, 116, 2), np.uint8)
    left = 0
    for plane in (array[:, :, 10].T, array[:, 15].T, array[20][:, ::-1]):
        rows, columns = plane.shape
        expected[:rows, left : left + columns] = np.dstack([plane, np.full_like(plane, 255)])
        left += columns + 8
    np.testing.assert_array_equal(pixels(shown), expected)


def test_two_coordinates_are_two_slices() -> None:
    array = voxels()
    shown = pixels(make(array)[0].show(x=7, z=3, size=None))
    np.testing.assert_array_equal(shown[:, :40, 0], array[:, :, 3].T)
    np.testing.assert_array_equal(shown[:, 48:, 0], array[7][:, ::-1])


@pytest.mark.parametrize(
    ("resolution", "point", "size"),
    [((8, 8, 16), {"y": 0}, (40, 40)), ((8, 8, 16), {"z": 0}, (40, 30)), ((4, 8, 8), {"z": 0}, (40, 60))],
)
def test_voxels_keep_their_proportions(
    resolution: tuple[int, ...], point: dict[str, Any], size: tuple[int, int]
) -> None:
    array = voxels()
    scale = make(array, resolution=resolution, scales=1)[0]
    shown = scale.show(**point, size=None)
    assert shown.size == size
    (axis,) = point
    plane = planes(array)[axis]
    times = [pixel // voxel for pixel, voxel in zip(pixels(shown).shape, plane.shape, strict=True)]
    np.testing.assert_array_equal(pixels(shown), plane.repeat(times[0], 0).repeat(times[1], 1))


@pytest.mark.parametrize("size", [1, 7, 39, 40, 41, 80, 512])
def test_the_longer_side_has_as_many_pixels_as_are_asked_for(size: int) -> None:
    scale = make(voxels())[0]
    assert scale.show(z=0, size=size).size == (size, max(1, round(size * 3 / 4)))
    assert scale.show(x=0, size=size).size == (max(1, round(size * 2 / 3)), size)
    assert scale.show(size=size).size[1] == max(1, round(size * 3 / 4))


def test_a_long_and_thin_volume_has_a_picture() -> None:
    assert make(voxels((500, 1, 1)))[0].show(z=0, size=100).size == (100, 1)


@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 30, 1), "z"), ((40, 1, 30), "y"), ((1, 40, 30), "x"), ((1, 1, 40), "y"), ((1, 1, 1), "z")]
)
def test_of_a_single_image_there_is_one_slice(shape: tuple[int, int, int], axis: str) -> None:
    array = voxels(shape)
    volume = make(array, voxel_offset=OFFSET, scales=1)
    for source in (volume, volume[0]):
        np.testing.assert_array_equal(pixels(source.show(size=None)), planes(array)[axis])
        assert len(seen(source).images) == 1
        assert f"{axis} = {OFFSET['xyz'.index(axis)]}, from" in seen(source).text
    assert volume.show(x=OFFSET[0], y=OFFSET[1], size=None).mode == "LA"  # as it is asked for


def test_a_volume_reads_the_coarsest_scale_with_enough_detail(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((128, 64, 32)), str(tmp_path), gzip=False, chunk_size=(32, 32, 32))
    volume = open_volume(served.url)
    assert [scale.key for scale in volume] == ["8_8_8", "16_16_16", "32_32_32"]
    sizes = {1: "32_32_32", 32: "32_32_32", 33: "16_16_16", 64: "16_16_16", 65: "8_8_8", 128: "8_8_8", 512: "8_8_8"}
    for size, key in sizes.items():
        volume.show(z=5, size=size)
        assert asked(served) == {key}, size
    volume.show(z=5, size=None)
    assert asked(served) == {"8_8_8"}
    volume["16_16_16"].show(z=5, size=4)
    assert asked(served) == {"16_16_16"}


def test_an_axis_that_is_never_finer_does_not_ask_for_a_finer_scale(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((128, 64, 4)), str(tmp_path), gzip=False, resolution=(4, 4, 64), chunk_size=(32, 32, 4))
    volume = open_volume(served.url)
    assert [scale.key for scale in volume] == ["4_4_64", "8_8_64", "16_16_64"]
    volume.show(y=5, size=32)
    assert asked(served) == {"16_16_64"}


def test_a_picture_does_not_depend_on_the_order_of_scales(coarsest_first: Path) -> None:
    volume = open_volume(coarsest_first)
    assert volume.show(z=8, size=None) == volume["4_4_4"].show(z=8, size=None)
    assert pixels(volume.show(z=8, size=8)).shape == (6, 8)
    keys = [row.split("<td>")[1].split("<")[0] for row in volume._repr_html_().split("<tr>")[2:5]]
    assert keys == ["4_4_4", "8_8_8", "16_16_16"]


def test_hidden_scales_are_not_shown() -> None:
    info = make(voxels((64, 64, 64))).info.to_dict()
    info["scales"][1]["hidden"] = True
    volume = create_volume("memory://test_display/hidden", info, overwrite=True)
    assert [slices.good_scale(volume, range(3), size).key for size in (8, 32, 64)] == ["32_32_32", "8_8_8", "8_8_8"]


def test_coordinates_of_a_volume_are_voxels_of_its_first_scale() -> None:
    array = np.arange(64, dtype=np.uint8).reshape(1, 1, 64).repeat(64, 0).repeat(64, 1)
    volume = make(array, voxel_offset=(0, 0, -32), downsampling="stride")
    assert [scale.key for scale in volume] == ["8_8_8", "16_16_16", "32_32_32"]
    for z in (-32, -31, 0, 13, 31):
        assert set(pixels(volume.show(z=z, size=64, limits=(0, 255))).ravel()) == {z + 32}
        assert set(pixels(volume.show(z=z, size=32, limits=(0, 255))).ravel()) == {(z + 32) // 2 * 2}
        assert set(pixels(volume.show(z=z, size=16, limits=(0, 255))).ravel()) == {(z + 32) // 4 * 4}


def test_a_scale_may_end_before_another() -> None:
    """Scales that were made by rounding down have no voxel for the last one of the scale above."""
    info = make(voxels((5, 5, 5)), scales=2).info.to_dict()
    info["scales"][1]["size"] = [2, 2, 2]
    volume = create_volume("memory://test_display/short", info, overwrite=True)
    volume[1][...] = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    np.testing.assert_array_equal(pixels(volume.show(z=4, size=2, limits=(0, 255))), [[1, 5], [3, 7]])


def test_a_voxel_is_shown_by_the_one_that_its_middle_is_in() -> None:
    info = make(voxels((6, 6, 6))).info.to_dict()
    info["scales"] = [info["scales"][0], info["scales"][0] | {"key": "12", "resolution": [12] * 3, "size": [4] * 3}]
    volume = create_volume("memory://test_display/middles", info, overwrite=True)
    volume[1][...] = np.arange(4, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * 10
    shown = [set(pixels(volume.show(x=x, size=4, limits=(0, 255))).ravel()) for x in range(6)]
    assert shown == [{0}, {10}, {10}, {20}, {30}, {30}]  # at 4, 12, 20, 28, 36 and 44 nm


def test_only_chunks_that_the_slice_crosses_are_read(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((64, 64, 64)), str(tmp_path), gzip=False, scales=1)
    scale = open_volume(served.url)[0]
    served.log.clear()
    scale.show(z=40)
    names = {entry.path.rpartition("_")[2] for entry in served.log.entries()}
    assert (len(served.log.entries()), names) == (16, {"32-48"})


def test_a_small_scale_is_read_once_for_its_three_slices(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((32, 32, 16)), str(tmp_path), gzip=False, scales=1)
    scale = open_volume(served.url)[0]
    served.log.clear()
    scale.show()
    assert served.log.count() == 4


def test_a_slice_of_what_nobody_could_read_whole_takes_the_memory_of_its_picture() -> None:
    """Of a trillion voxels, of which no chunk is there."""
    info = make(voxels((8, 8, 8))).info.to_dict()
    info["scales"][0] |= {"size": [10**6, 10**6, 1], "chunk_sizes": [[10**5, 10**5, 1]]}
    scale = create_volume("memory://test_display/large", info, overwrite=True)[0]
    with pytest.warns(UserWarning, match="none of the 100 chunks"):
        assert scale.show(z=0, size=100).size == (100, 100)


def test_what_is_outside_is_an_error() -> None:
    volume = make(voxels(), voxel_offset=OFFSET)
    for source in (volume, volume[0]):
        points: list[dict[str, Any]] = [{"x": -6}, {"x": 35}, {"y": 0}, {"z": 120}]
        for point in points:
            (axis,) = point
            with pytest.raises(IndexError, match=f"{axis}: {point[axis]} is not inside of"):
                source.show(**point)
        with pytest.raises(TypeError):
            source.show(z=100.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="size: expected at least 1 pixel, got 0"):
            source.show(size=0)


def test_a_picture_that_would_be_too_large_is_an_error_before_anything_is_read() -> None:
    for resolution, size in (((1, 1e6, 1e6), None), ((8, 8, 8), 10**5)):
        scale = Volume(open_accessor(servers.refused_url()), make(voxels(), resolution=resolution, scales=1).info)[0]
        with pytest.raises(ValueError, match=r"size: a picture of \d+ x \d+ pixels is too large"):
            scale.show(z=0, size=size)


@pytest.mark.usefixtures("_closed")
def test_slices_side_by_side_are_not_too_large_either() -> None:
    """None of the three is, but one is high, another is wide, and there is nothing between them."""
    scale = make(voxels(), resolution=(1, 1, 10_000), scales=1)[0]
    with pytest.raises(ValueError, match="size: a picture of 200096 x 200000 pixels is too large"):
        Volume(open_accessor(servers.refused_url()), scale.volume.info)[0].show(size=None)
    assert len(scale.plot(size=None)) == 3  # each for itself


def test_a_failure_to_read_is_an_error() -> None:
    with servers.fault_server(servers.respond(500)) as server:
        volume = Volume(open_accessor(server.url), make(voxels()).info)
        with pytest.raises(DataAccessError):
            volume.show()


@pytest.mark.parametrize("package", ["PIL", "matplotlib"])
def test_what_is_not_installed_is_named_with_the_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    scale = make(voxels())[0]
    with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[plot\]'") as caught:
        (scale.show if package == "PIL" else scale.plot)(z=0)
    assert caught.value.name == package


def test_a_long_read_shows_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    make(voxels()).show(z=0, progress=True)
    assert "reading 8_8_8: 100%" in capsys.readouterr().err


POSITION = (20.25, 15.25, 10.25)  # voxels: so that no pixel's centre lies between two of them


def in_neuroglancer(client: Neuroglancer, source: str, layout: str, **layer: Any) -> NDArray[Any]:
    """Return what a panel shows around a position, one pixel for each voxel."""
    state = {
        "dimensions": {axis: [8e-9, "m"] for axis in "xyz"},
        "position": POSITION,
        "crossSectionScale": 1,
        "crossSectionBackgroundColor": f"#{bytes(browser.BACKGROUND).hex()}",
        "layout": layout,
        "layers": [{"name": "volume", "source": source, **layer}],
        "showAxisLines": False,
        "showDefaultAnnotations": False,
        "showScaleBar": False,
    }
    with client._browser.page(f"{client.url}#!{quote(json.dumps(state))}", size=(300, 300)) as page:
        page.evaluate(browser._SCRIPT)
        assert page.evaluate("seconds => tests.settled(seconds)", browser.DEADLINE / 2)
        assert browser.View(page).errors == []
        return browser.View(page).slice()


@pytest.mark.parametrize(("layout", "point"), [("xy", {"z": 10}), ("xz", {"y": 15}), ("yz", {"x": 20})])
def test_a_slice_lies_as_in_neuroglancer(
    neuroglancer: Neuroglancer, tmp_path: Path, layout: str, point: dict[str, Any]
) -> None:
    scale = make(voxels(), str(tmp_path), gzip=False, scales=1)[0]
    ours = pixels(scale.show(**point, size=None))
    shader = "void main() { emitGrayscale(toNormalized(getDataValue())); }"
    with servers.fault_server(browser.cors(servers.files(tmp_path))) as server:
        theirs = in_neuroglancer(neuroglancer, f"precomputed://{server.url}", layout, type="image", shader=shader)
    assert_shows(theirs, np.dstack([ours] * 3), layout)


def test_a_segmentation_looks_as_in_neuroglancer(neuroglancer: Neuroglancer, tmp_path: Path) -> None:
    ids = np.array(SOME_IDS[1:], np.uint64)[voxels(SIZE) % 9]
    scale = make(ids, str(tmp_path), gzip=False, scales=1)[0]
    ours = pixels(scale.show(z=10, size=None))[..., :3]
    with servers.fault_server(browser.cors(servers.files(tmp_path))) as server:
        layer = {"type": "segmentation", "selectedAlpha": 1}
        theirs = in_neuroglancer(neuroglancer, f"precomputed://{server.url}", "xy", **layer)
    assert_shows(theirs, ours, "xy")


def assert_shows(panel: NDArray[Any], ours: NDArray[Any], layout: str) -> None:
    """Check that a panel shows a picture in its place, and nothing else."""
    across, down = {"xy": (0, 1), "xz": (0, 2), "yz": (2, 1)}[layout]
    expected = np.full_like(panel, browser.BACKGROUND)
    top, left = (count // 2 - int(POSITION[axis]) for axis, count in zip((down, across), panel.shape, strict=False))
    if layout == "yz":  # in which z grows to the left
        left = panel.shape[1] - left - ours.shape[1]
    expected[top : top + ours.shape[0], left : left + ours.shape[1]] = ours
    assert np.abs(panel.astype(int) - expected).max() <= 1
