"""What Neuroglancer itself shows of served pyramids, in a browser."""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from neuroglancer_scripts.chunk_encoding import get_encoder

import precomputed_fs
from precomputed_fs import (
    FsspecAccessor,
    Mesh,
    Volume,
    create_annotations,
    create_volume,
)
from tests.support import browser
from tests.support.shards import synthesize
from tests.view.client import (
    COLOURS,
    GREY,
    IDS,
    PART,
    PART_CHUNK_SIZE,
    PART_OFFSET,
    PART_POSITION,
    TISSUES,
    assert_pixels,
    assert_voxels,
    grey,
    write,
)
from tests.view.serving import KEY, Array, put, raw_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.view.server import Server
    from tests.support.browser import Chromium, Neuroglancer
    from tests.support.places import Place


def test_an_image_in_a_bucket_is_shown(
    neuroglancer: Neuroglancer, run: Callable[..., Server], make_pyramid: Callable[[str], Place]
) -> None:
    pyramid = make_pyramid("s3")
    with pyramid.accessor() as accessor:
        write(accessor, {"1mm": PART}, PART_OFFSET, PART_CHUNK_SIZE)
    server = run(pyramid.url, storage_options=pyramid.storage_options)
    with neuroglancer.show(server.source, position=PART_POSITION, shader=GREY, size=(300, 300)) as view:
        assert view.errors == []
        assert_pixels(view, grey(PART), PART_OFFSET, PART_POSITION)
        assert_voxels(view, {"1mm": PART})


def test_a_segmentation_is_shown(neuroglancer: Neuroglancer, run: Callable[..., Server]) -> None:
    part = TISSUES[60:140, 60:140, 70:90]
    volume = create_volume(
        "memory://test_serve/labels", IDS[part], resolution=(1e6, 1e6, 1e6), voxel_offset=PART_OFFSET, scales=1,
        chunk_size=PART_CHUNK_SIZE, encoding="compressed_segmentation", overwrite=True,
    )  # fmt: skip
    colours = {str(id_): "#" + bytes(colour).hex() for id_, colour in zip(IDS, COLOURS, strict=True)}
    shown: dict[str, Any] = {"segmentColors": colours, "selectedAlpha": 1, "saturation": 1}
    source = run(volume).source
    with neuroglancer.show(source, "segmentation", position=PART_POSITION, size=(300, 300), **shown) as view:
        assert view.errors == []
        assert_pixels(view, COLOURS[part], PART_OFFSET, PART_POSITION)
        assert_voxels(view, {volume[0].key: IDS[part]})


def stored_in_zlib_shards(folder: Path) -> tuple[str, dict[str, Array]]:
    """Write as neuroglancer-scripts does: zlib where `info` says gzip."""
    written = synthesize(1, 1, index="gzip", data="gzip", pack_data=zlib.compress)
    put(folder, {}, written.files)
    voxels = np.zeros(written.scale.size, np.uint8)
    for (x0, x1, y0, y1, z0, z1), body in written.chunks.items():
        voxels[x0:x1, y0:y1, z0:z1] = np.frombuffer(body, np.uint8).reshape((4, 4, 4), order="F")
    return str(folder), {written.scale.key: voxels}


def stored_in(encoding: str, dtype: str, folder: Path) -> tuple[str, dict[str, Array]]:
    voxels = PART.astype(dtype) * np.dtype(dtype).type(3.7 if dtype == "float32" else 2**40)
    create_volume(folder, voxels, resolution=(1, 1, 1), chunk_size=PART_CHUNK_SIZE, encoding=encoding, scales=1)
    return str(folder), {"1_1_1": voxels}


def stored_as_neuroglancer_scripts_does(folder: Path) -> tuple[str, dict[str, Array]]:
    """Write progressive JPEG, which the client itself gets wrong."""
    encoder = get_encoder(raw_info(encoding="jpeg"), raw_info(encoding="jpeg")["scales"][0])
    body = encoder.encode(PART.T[np.newaxis])
    assert b"\xff\xc2" in body  # the frame of a progressive one
    info = raw_info(encoding="jpeg", size=list(PART.shape), chunk_sizes=[list(PART.shape)])
    put(folder, info, {f"{KEY}/0-80_0-80_0-20": body})
    pixels = imagecodecs.jpeg8_decode(body)
    assert np.ptp(pixels) > 100
    return str(folder), {KEY: pixels.ravel().reshape(PART.shape, order="F")}


STORED: dict[str, Callable[[Path], tuple[str, dict[str, Array]]]] = {
    "zlib shards": stored_in_zlib_shards,
    "progressive JPEG": stored_as_neuroglancer_scripts_does,
    "fpzip": partial(stored_in, "fpzip", "float32"),
    "crackle": partial(stored_in, "crackle", "uint64"),
}


@pytest.mark.parametrize("way", STORED)
def test_however_it_is_stored_the_client_decodes_the_same_voxels(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path, way: str
) -> None:
    url, pyramid = STORED[way](tmp_path)
    server = run(url)
    middle = np.add(server.volume[0].bounds.start, server.volume[0].bounds.stop) / 2
    with neuroglancer.show(server.source, position=(middle + 0.25).tolist(), size=(300, 300)) as view:
        assert view.errors == []
        assert_voxels(view, pyramid)


def test_the_client_tells_a_failure_from_absence(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path
) -> None:
    with FsspecAccessor(tmp_path, flat=False) as accessor:
        write(accessor, {"1mm": PART}, PART_OFFSET, PART_CHUNK_SIZE)
    (tmp_path / "1mm" / "0-40" / "-40-0" / "0-20.gz").write_bytes(b"no gzip")
    (tmp_path / "1mm" / "-40-0" / "0-40" / "0-20.gz").unlink()
    with neuroglancer.show(run(tmp_path).source, position=PART_POSITION, size=(300, 300)) as view:
        assert "1 chunk(s) failed" in view.errors
        assert np.array_equal(view.chunk("1mm", (1, 1, 0)), PART[40:, 40:])
        with pytest.raises(browser.PageError, match="502"):
            view.chunk("1mm", (1, 0, 0))
        with pytest.raises(browser.PageError, match="chunk 0,1,0 of scale 1mm is absent"):
            view.chunk("1mm", (0, 1, 0))


def test_a_page_tells_when_its_server_has_gone_and_takes_no_connection_for_it(
    chromium: Chromium, volume: Volume
) -> None:
    """A browser has few connections to a server, which all views of a volume share."""
    shown = volume.view()
    with browser.opened(chromium, shown.url, size=(300, 300)) as view:
        asked = view.page.evaluate("""async () => {
            const sources = [...Array(20)].map(() => new EventSource("../../events/0"));
            await Promise.all(sources.map(source => new Promise(opened => { source.onopen = opened; })));
            return (await fetch("../../data/info")).status;
        }""")
        assert asked == 200
        assert not any("Python server" in error for error in view.errors)
        shown.server.close()
        assert view.page.evaluate("""async () => {
            const said = () => document.querySelector("#neuroglancer-status-container").innerText;
            while (!said().includes("Disconnected")) await new Promise(resolve => setTimeout(resolve, 50));
            return said();
        }""").startswith("Disconnected from Python server")


def test_a_view_shows_all_of_a_volume(chromium: Chromium) -> None:
    array = np.full((50, 40, 30), 1000, np.uint16)
    array[25:] = 3000
    volume = create_volume("memory://test_serve/view", array, resolution=(8, 8, 40), voxel_offset=(7, 0, -3), scales=1)
    shown = volume.view(layout="xy", height=300)
    with shown.server, browser.opened(chromium, shown.url, size=(500, 300)) as view:
        assert view.errors == []
        np.testing.assert_array_equal(view.volume("8_8_40"), array)
        state = view.page.evaluate("() => viewer.state.toJSON()")
        pixels = view.slice()
    assert state["dimensions"] == {"x": [8e-9, "m"], "y": [8e-9, "m"], "z": [4e-8, "m"]}
    assert [layer["type"] for layer in state["layers"]] == ["image"]
    voxel = 1 / state["crossSectionScale"]  # pixels
    row, column = np.array(pixels.shape[:2]) // 2 + (-20, 20)  # beside the lines through the middle
    black, white = ((pixels == colour).all(axis=-1) for colour in (0, 255))  # 1000 and 3000
    assert np.allclose([black[row].sum(), white[row].sum()], 25 * voxel, atol=3)
    assert np.isclose(white[:, column].sum(), 40 * voxel, atol=6)  # lines lie over it
    assert 40 * voxel < len(pixels) < 50 * voxel


@pytest.mark.parametrize(
    ("size", "shape", "layout"),
    [((500, 700), (60, 40, 30), "4panel"), ((1100, 600), (90, 10, 30), "xy"), ((1100, 600), (10, 80, 20), "xy-3d")],
)
def test_the_data_fill_the_panels_of_any_window(
    chromium: Chromium, size: tuple[int, int], shape: tuple[int, int, int], layout: str
) -> None:
    image = create_volume(
        "memory://test_serve/filled", np.full(shape, 200, np.uint8), resolution=(8, 8, 16), overwrite=True
    )
    labels = create_volume(
        "memory://test_serve/filled/labels", np.ones((4, 4, 4), np.uint32), resolution=7, overwrite=True
    )
    shown = image.view(labels, layout=layout)
    with shown.server, browser.opened(chromium, shown.url, size=size) as view:
        assert view.errors == []
        state = view.page.evaluate("() => viewer.state.toJSON()")
        panels = view.page.evaluate("""() => [...viewer.display.panels].filter(panel => panel.sliceView !== undefined)
            .map(panel => [panel.renderViewport.width, panel.renderViewport.height])""")
        assert [layer["type"] for layer in state["layers"]] == ["image", "segmentation"]
        np.testing.assert_array_equal(view.volume(labels[0].key), labels[0][..., 0])
    x, y, z = np.multiply(shape, (1, 1, 2)) / state.get("crossSectionScale", 1)  # pixels
    extents = {"4panel": [(x, y), (x, z), (z, y)]}.get(layout, [(x, y)])
    assert len(panels) == len(extents)
    assert 0.85 < np.divide(extents, panels[0]).max() < 1  # all panels have the same size


def test_a_segmentation_is_shown_with_what_is_beside_it(chromium: Chromium, tmp_path: Path) -> None:
    """Its mesh in three dimensions, its properties, and annotations in a layer of their own."""
    labels = create_volume(tmp_path / "labels", np.ones((20, 20, 20), np.uint64), resolution="1 mm", scales=1)
    corners = [[0, 0, 0], [2e7, 0, 0], [0, 2e7, 0], [0, 0, 2e7]]
    faces = [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]
    labels.store_meshes({1: Mesh(np.array(corners), np.array(faces))}, multiresolution=False)
    labels.store_segment_properties({"label": ["all"]}, ids=[1])
    axes = dict.fromkeys("xyz", (1, "mm"))
    create_annotations(tmp_path / "points", [[5, 6, 7]], kind="point", dimensions=axes)
    shown = precomputed_fs.view(tmp_path / "labels", tmp_path / "points", segments=[1], layout="3d")
    with shown.server, browser.opened(chromium, shown.url, size=(400, 300)) as view:
        assert view.errors == []
        state = view.page.evaluate("() => viewer.state.toJSON()")
        assert [layer["type"] for layer in state["layers"]] == ["segmentation", "annotation"]
        sources = view.page.evaluate("""() => viewer.layerManager.managedLayers.map(({layer}) =>
            layer.dataSources[0].loadState.subsources.map(one => [one.subsourceEntry.id, one.enabled]))""")
        wanted = {"default": True, "bounds": True, "properties": True, "mesh": True}
        assert list(map(dict, sources)) == [wanted, {"default": True}]
        colours = np.ptp(view.page.picture().astype(int), axis=-1)
        assert (colours > 60).mean() > 0.02, "the mesh is coloured, and large"
