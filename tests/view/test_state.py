"""Views in the web client, and the state that they show."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import pytest

import precomputed_fs
from precomputed_fs import (
    Volume,
    create_volume,
    open_volume,
)
from precomputed_fs.view.state import LAYOUTS, Layer, view_state
from tests.view.serving import KEY, NAME, ask, linked, put, raw_info, state_of, threads, token_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.view.server import Server


def shown_state(volume: Volume, **options: Any) -> dict[str, Any]:
    """Follow a view's URL to the state that the client is opened with."""
    view = volume.view(**options)
    answer = ask(view.url)
    assert answer.status == 302
    return state_of(str(answer["Location"]))


def test_a_view_leads_to_the_client_of_the_package(volume: Volume) -> None:
    view = volume.view(height=432)
    answer = ask(view.url)
    page = urlsplit(urljoin(view.url, answer["Location"])).path
    assert page.startswith(f"/{token_of(view.server)}/v/0/")
    shown = ask(view.url, path=page)
    assert (shown.status, shown["Content-Type"]) == (200, "text/html; charset=utf-8")
    scripts = re.findall(rb'src="([^"]+\.js)"', shown.body)
    assert scripts
    types = {}
    for name in [*map(bytes.decode, scripts), *re.findall(r'href="([^"]+\.css)"', shown.body.decode())]:
        answer = ask(view.url, path=page.replace("index.html", name))
        assert answer.status == 200
        types[name.rpartition(".")[2]] = answer["Content-Type"]
    assert types == {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
    assert repr(view) == f"<View of memory://test_serve/a brain: {view.url}>"
    assert view._repr_html_() == (
        f'<iframe src="{view.url}" width="100%" height="432" style="border: 0" '
        'allow="clipboard-read; clipboard-write; fullscreen"></iframe>'
        f'<div><a href="{view.url}" target="_blank" rel="noopener">Open memory://test_serve/a brain in a new tab</a> '
        "(as long as this kernel runs; later, run the cell again)</div>"
    )


def test_the_parts_of_the_client_in_webassembly_are_such(volume: Volume) -> None:
    from precomputed_fs.view.web_client import client_folder

    modules = [path.name for path in client_folder().glob("*.wasm")]
    assert modules
    root = volume.view().url.rpartition("/view/")[0]
    for name in modules:
        answer = ask(f"{root}/v/0/{name}", "HEAD")
        assert (answer.status, answer["Content-Type"]) == (200, "application/wasm")


def test_only_files_of_the_client_are_served_there(volume: Volume) -> None:
    root = volume.view().url.rpartition("/view/")[0]
    for path in ("v/0/", "v/0/__init__.py", "v/0/x/index.html", "v/0/nothing.js", "v/0/.js", "v", "view/1", "view/x"):
        assert ask(f"{root}/{path}").status == 404
    assert ask(f"{root}/events/0", "HEAD").status == 204
    assert ask(f"{root}/events/1", "HEAD").status == 404


def test_views_of_a_volume_share_a_server_while_it_runs(volume: Volume) -> None:
    first, second = volume.view(), volume.view(layout="xy")
    assert first.server is second.server
    assert first.url != second.url
    first.server.close()
    with pytest.raises(ValueError, match="closed"):
        first.server.view()
    third = volume.view()
    assert third.server is not first.server
    assert ask(third.url).status == 302
    assert pickle.loads(pickle.dumps(volume)).url == volume.url


def test_all_of_a_volume_is_seen_from_its_middle(volume: Volume) -> None:
    state = shown_state(volume)
    assert state["dimensions"] == {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [4e-8, "m"]}
    assert state["position"] == [10.5, 20.5, 110.5]
    assert state["layout"] == "4panel"
    (layer,) = state["layers"]
    assert (layer["type"], layer["name"]) == ("image", "a brain")
    assert layer["source"] == volume.view().server.source
    assert 210 < 210 / state["crossSectionScale"] < 270  # pixels of a panel of some 270; z is the longest: 21 * 10
    assert shown_state(volume, layout="xy", height=1200)["crossSectionScale"] < state["crossSectionScale"] / 2


def test_a_single_slice_fills_the_view() -> None:
    array = np.zeros((30, 20, 1), np.uint8)
    volume = create_volume("memory://test_serve/slice", array, resolution=(1, 1, 1), overwrite=True)
    with volume.view().server:
        assert shown_state(volume)["layout"] == "xy"
        assert shown_state(volume, layout="4panel")["layout"] == "4panel"


@pytest.mark.parametrize(
    ("dtype", "kind", "expected"),
    [
        ("uint8", "image", "image"),
        ("uint64", "image", "image"),
        ("uint64", "segmentation", "segmentation"),
        ("uint8", "segmentation", "segmentation"),
        ("int64", "segmentation", "segmentation"),
        ("float32", "segmentation", "image"),
    ],
)
def test_the_layer_is_of_the_volumes_type(tmp_path: Path, dtype: str, kind: str, expected: str) -> None:
    put(tmp_path, {**raw_info(), "data_type": dtype, "type": kind}, {})
    volume = open_volume(tmp_path)
    with volume.view().server:
        (layer,) = shown_state(volume)["layers"]
    assert layer["type"] == expected
    assert ("shader" in layer) == (expected == "image")


def limits(shader: str) -> list[tuple[float, float]]:
    return [(float(low), float(high)) for low, high in re.findall(r'range=\["([^"]+)", "([^"]+)"\]', shader)]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("uint8", (3, 200), (0, 255)),
        ("uint8", (3, 7), (3, 7)),
        ("uint8", (0, 1), (0, 1)),
        ("uint8", (1, 1), (0, 1)),
        ("uint8", (0, 0), (0, 255)),
        ("uint16", (300, 700), (300, 700)),
        ("int16", (-300, 700), (-300, 700)),
        ("float32", (-0.5, 0.25), (-0.5, 0.25)),
        ("uint64", (0, 2**63), (0, 2**63)),
        ("uint16", (5, 5), (0, 5)),
        ("float32", (5, 5), (0, 5)),
        ("float32", (0, 0), (0, 1)),
        ("float32", (np.nan, np.inf), (0, 1)),
        ("float32", (np.nan, 2), (0, 2)),
    ],
)
def test_black_and_white_are_chosen_by_the_voxels(dtype: str, values: tuple[Any, Any], expected: Any) -> None:
    array = np.full((32, 32, 32), values[0], dtype)
    array[16:] = values[1]
    volume = create_volume(
        "memory://test_serve/range", array, resolution=(1, 1, 1), type="image", downsampling="stride", overwrite=True
    )
    with volume.view().server:
        assert limits(shown_state(volume)["layers"][0]["shader"]) == [expected]


def test_a_float64_is_looked_at_as_it_is_shown(tmp_path: Path) -> None:
    body = np.linspace(-3, 3, 256).tobytes()
    put(tmp_path, {**raw_info(size=[8, 8, 4]), "data_type": "float64"}, {f"{KEY}/{NAME}": body})
    volume = open_volume(tmp_path)
    with volume.view().server:
        ((low, high),) = limits(shown_state(volume)["layers"][0]["shader"])
    assert -3 < low < -2.9 < 2.9 < high < 3


def test_a_range_that_cannot_be_read_is_that_of_the_type(tmp_path: Path) -> None:
    put(tmp_path, {**raw_info(), "data_type": "int16"}, {f"{KEY}/0-8_0-8_4-8": b"short"})
    volume = open_volume(tmp_path)
    with volume.view().server:
        assert limits(shown_state(volume)["layers"][0]["shader"]) == [(-32768, 32767)]


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 1)])
def test_three_channels_are_colours(channels: int, expected: int) -> None:
    array = np.zeros((8, 8, 8, channels), np.uint8)
    volume = create_volume("memory://test_serve/colours", array, resolution=(1, 1, 1), overwrite=True)
    with volume.view().server:
        shader = shown_state(volume)["layers"][0]["shader"]
    assert limits(shader) == [(0, 255)] * expected
    assert ("emitRGB" in shader) == (expected == 3)


def test_several_volumes_are_layers_of_one_view(volume: Volume) -> None:
    labels = create_volume(
        "memory://test_serve/labels/a brain", np.ones((10, 5, 4), np.uint32), resolution=(16, 16, 40),
        voxel_offset=(20, 0, 100), overwrite=True,
    )  # fmt: skip
    view = volume.view(labels, labels.url)
    state = state_of(str(ask(view.url)["Location"]))
    assert [(layer["name"], layer["type"]) for layer in state["layers"]] == [
        ("a brain", "image"), ("a brain 2", "segmentation"), ("a brain 3", "segmentation"),
    ]  # fmt: skip
    for layer, url in zip(state["layers"], (volume.url, labels.url, labels.url), strict=True):
        served = open_volume(layer["source"])
        np.testing.assert_array_equal(served[0][...], open_volume(url)[0][...])
    assert state["position"] == [55.5, 17.5, 110.5]  # from -10 to 120, from 0 to 35 and from 100 to 121
    assert repr(view).startswith(f"<View of {volume.url} and {labels.url} and {labels.url}: http")
    again = state_of(str(ask(volume.view(labels, names=["image", "cells"]).url)["Location"]))
    assert [layer["name"] for layer in again["layers"]] == ["image", "cells"]
    assert again["layers"][1]["source"] == state["layers"][1]["source"]  # it is served once


def test_views_of_several_volumes_and_urls_begin_with_any_of_them(volume: Volume) -> None:
    with precomputed_fs.view(volume.url, volume, layout="xy").server as server:
        assert server.volume is not volume
        assert server.volume.url == volume.url
    assert precomputed_fs.view(volume).server is volume.view().server


def test_what_is_no_volume_or_has_no_name_is_refused(volume: Volume) -> None:
    with pytest.raises(TypeError, match=r"expected a volume, got <Scale 4_4_40: .*pass scale.volume"):
        volume.view(volume[0])
    with pytest.raises(TypeError, match="expected at least one pyramid"):
        precomputed_fs.view()
    wrong: list[Any] = ["one", ["one"], ["one", "one"], ["one", "two", "three"], ["one", 2]]
    for names in wrong:
        with pytest.raises(ValueError, match="names: expected 2 different texts, one for each layer, got "):
            volume.view(volume, names=names)


@pytest.mark.parametrize(
    ("layout", "rows", "columns"),
    [("xy", 300, 400), ("yz", 300, 1000), ("4panel", 2 * 1000, 2 * 1000), ("xz-3d", 1000, 2 * 400)],
)
def test_all_that_a_layout_shows_fits(layout: str, rows: float, columns: float) -> None:
    array = np.zeros((40, 30, 10), np.uint8)
    volume = create_volume("memory://test_serve/fit", array, resolution=(10, 10, 100), scales=1, overwrite=True)
    _, fit = view_state([Layer(volume, "", "")], layout, 600)
    assert np.allclose((fit.rows, fit.columns), (rows / 10 * 1.1, columns / 10 * 1.1))
    assert fit.scale_in(10_000, fit.header + 100) == fit.rows / 100
    assert fit.scale_in(100, 10_000) == fit.columns / 100


def test_a_missing_client_is_named(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    other = open_volume(volume.url)
    before = threads()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "neuroglancer" else find(name))
    with pytest.raises(ImportError, match=re.escape("pip install 'precomputed-fs[neuroglancer]'")):
        other.view()
    assert threads() == before


def test_an_unknown_layout_is_refused(run: Callable[..., Server], tmp_path: Path) -> None:
    server = run(put(tmp_path, raw_info(), {}))
    before = threads()
    for show in (server.view, server.volume.view, linked("gs://bucket/lab").neuroglancer_url):
        with pytest.raises(ValueError, match=r"layout: expected one of 4panel, .*, got 'foo'"):
            show(layout="foo")
    assert threads() == before


def test_the_nearest_keyword_of_view_is_named() -> None:
    with pytest.raises(TypeError, match=r"view\(\) has no keyword 'layot'; did you mean 'layout'"):
        precomputed_fs.view("memory://lab", layot="xy")  # type: ignore[call-arg]


@pytest.mark.parametrize("height", [0, -5, 1.5, "600", None])
def test_a_height_without_pixels_is_refused(run: Callable[..., Server], tmp_path: Path, height: Any) -> None:
    server = run(put(tmp_path, raw_info(), {}))
    with pytest.raises(ValueError, match="height: expected a number of pixels, at least 1, got "):
        server.view(height=height)


def test_layouts_are_those_of_neuroglancer() -> None:
    known = importlib.import_module("neuroglancer.viewer_state").data_panel_layout_types
    assert len(LAYOUTS) == len(known)
    assert set(LAYOUTS) == known
