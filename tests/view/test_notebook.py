"""What a notebook shows of volumes and scales, and thumbnails."""

from __future__ import annotations

import asyncio
import html
import json
import re
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    Scale,
    Volume,
    open_volume,
)
from precomputed_fs.view import notebook
from tests.support import servers
from tests.view.volumes import Seen, hostile, make, many, neuroglancers, open_accessor, pixels, seen, voxels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place

HEADINGS = ["Key", "Size", "Voxel size", "Chunk size", "Encoding", "Sharded", "Layout", "Bytes"]


def test_a_notebook_shows_a_table_of_scales() -> None:
    made = make(voxels((200, 150, 100), "uint16"), resolution=(4, 4, 40), chunk_size=(64, 64, 32), scales=4)
    volume = open_volume(made.url)
    assert seen(volume).rows == [
        HEADINGS,
        ["4_4_40", "200x150x100", "4x4x40 nm", "64x64x32", "raw", "no", "unknown", "5.722 MiB"],
        ["8_8_40", "100x75x100", "8x8x40 nm", "64x64x32", "raw", "no", "unknown", "1.431 MiB"],
        ["16_16_40", "50x38x100", "16x16x40 nm", "64x64x32", "raw", "no", "unknown", "371.1 KiB"],
        ["32_32_40", "25x19x100", "32x32x40 nm", "64x64x32", "raw", "no", "flat", "92.77 KiB"],
    ]
    assert repr(volume) in seen(volume).text


def test_a_notebook_shows_a_scale() -> None:
    volume = make(voxels(), encoding="png", sharding=True)
    assert seen(volume[0]).rows == [
        HEADINGS,
        ["8_8_8", "40x30x20", "8 nm", "16x16x16", "png", "yes", "shards", "23.44 KiB"],
    ]
    assert repr(volume[0]) in seen(volume[0]).text


@pytest.mark.parametrize(("flat", "layout"), [(True, "flat"), (False, "sub-directories")])
def test_the_layout_is_shown_once_it_is_known(tmp_path: Path, flat: bool, layout: str) -> None:
    make(voxels(), str(tmp_path), flat=flat, scales=1)
    scale = open_volume(tmp_path)[0]
    assert scale.layout == "unknown"
    scale[0, 0, 0]
    assert scale.layout == layout
    assert seen(scale).rows[1][6] == layout


def test_a_scale_that_has_both_layouts_says_so(tmp_path: Path) -> None:
    make(voxels(), str(tmp_path), scales=1)
    other = open_volume(tmp_path, flat=False)[0]
    (tmp_path / "8_8_8" / "0-16_0-16_0-16").unlink()
    other[0:16, 0:16, 0:16] = 1
    scale = open_volume(tmp_path)[0]
    assert scale[...].any()
    assert scale.layout == "flat and sub-directories"


def test_the_thumbnail_shows_the_middle_of_the_coarsest_scale() -> None:
    array = voxels((160, 80, 40))
    volume = make(array, chunk_size=(160, 80, 40))
    xy, xz, yz = seen(volume).images
    np.testing.assert_array_equal(xy, array[:, :, 20].T)
    np.testing.assert_array_equal(xz, array[:, 40].T)
    np.testing.assert_array_equal(yz, array[80][:, ::-1])
    assert "z = 20, y = 40, x = 80, from 8 nm" in seen(volume).text


def test_the_thumbnail_of_a_segmentation_has_its_colours() -> None:
    xy, _, _ = seen(make(np.full((160, 80, 40), 77, np.uint64), chunk_size=(160, 80, 40))).images
    assert (xy == neuroglancers(77)).all()


def test_a_scale_with_few_voxels_is_passed_over_for_one_that_costs_no_more() -> None:
    volume = make(voxels((64, 64, 64)), chunk_size=(64, 64, 64), scales=5)
    assert "from 8 nm<" in volume._repr_html_()
    volume = make(voxels((64, 64, 64)), chunk_size=(8, 8, 8), scales=5)
    assert "from 32 nm<" in volume._repr_html_()  # 3 slices of 4 chunks, of the next scale 16


def test_a_scale_shows_itself_or_if_that_is_too_large_the_coarsest() -> None:
    volume = make(voxels((64, 64, 64)), chunk_size=(8, 8, 8))
    assert "<br>z = 16, from 16 nm<" in volume[1]._repr_html_()  # one slice, of the 16 chunks that may be read
    assert "from 32 nm<" in volume[2]._repr_html_()
    assert "z = 32, y = 32, x = 32, from 32 nm<" in volume[0]._repr_html_()


def gets(server: servers.HttpServer, source: Volume | Scale) -> int:
    server.log.clear()
    source._repr_html_()
    return server.log.count()


def test_a_thumbnail_takes_a_handful_of_requests(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((200, 150, 100)), str(tmp_path), chunk_size=(64, 64, 64), gzip=False)
    volume = open_volume(served.url)
    assert [scale.shape[0] for scale in volume] == [200, 100, 50]
    assert gets(served, volume) == 4  # those of the middle scale
    assert gets(served, volume[2]) == 1


def test_of_a_stack_of_images_one_is_shown(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((80, 70, 50)), str(tmp_path), chunk_size=(128, 128, 1), gzip=False, scales=1)
    volume = open_volume(served.url)
    assert gets(served, volume) == 1
    assert len(seen(volume).images) == 1


def test_what_is_too_large_has_no_thumbnail(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels((80, 80, 80)), str(tmp_path), chunk_size=(16, 16, 16), gzip=False, scales=1)
    volume = open_volume(served.url)
    assert gets(served, volume) == 0
    assert seen(volume).images == []


def test_chunks_that_are_large_are_not_read(tmp_path: Path, served: servers.HttpServer) -> None:
    info = make(voxels(), str(tmp_path), gzip=False).info.to_dict()
    info["scales"] = [info["scales"][0] | {"size": [1024] * 3, "chunk_sizes": [[1024] * 3]}]
    (tmp_path / "info").write_text(json.dumps(info))
    assert gets(served, open_volume(served.url)) == 0


def test_an_empty_volume_has_no_thumbnail_and_warns_of_nothing() -> None:
    volume = Volume(open_accessor("memory://test_display/nothing"), make(voxels()).info)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert seen(volume).images == []
    assert warned == []


def test_chunks_that_are_absent_do_not_matter() -> None:
    array = np.zeros((32, 32, 32), np.uint8)
    array[:16] = 9
    volume = make(array, "memory://test_display/gaps", scales=1, skip_empty=True)
    assert len(seen(open_volume(volume.url, missing="raise")).images) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_server_that_fails_leaves_the_table(status: int) -> None:
    with servers.fault_server(servers.respond(status)) as server:
        volume = Volume(open_accessor(server.url), make(voxels()).info)
        for source in (volume, volume[0]):
            assert len(seen(source).rows) > 1
            assert seen(source).images == []


def test_a_server_that_is_not_there_leaves_the_table() -> None:
    volume = Volume(open_accessor(servers.refused_url()), make(voxels(), scales=2).info)
    assert (len(seen(volume).rows), seen(volume).images) == (3, [])


@pytest.mark.parametrize("chunk", [b"", b"too short", bytes(16**3 + 1)])
def test_damaged_chunks_leave_the_table(tmp_path: Path, chunk: bytes) -> None:
    make(voxels(), str(tmp_path), gzip=False, scales=1)
    for path in (tmp_path / "8_8_8").iterdir():
        path.write_bytes(chunk)
    found = seen(open_volume(tmp_path))
    assert (len(found.rows), found.images) == (2, [])


def test_an_encoding_that_is_unknown_leaves_the_table() -> None:
    assert seen(hostile("webp")).rows[1][4] == "webp"


def test_a_server_that_is_slow_is_not_waited_for(tmp_path: Path) -> None:
    make(voxels(), str(tmp_path), gzip=False, scales=1)
    asked, released = threading.Event(), threading.Event()

    async def handler(request: Any) -> Any:
        if request.path != "/info":
            asked.set()
            await asyncio.to_thread(released.wait, servers.DEADLINE)
        return await servers.files(tmp_path)(request)

    with servers.fault_server(handler) as server:
        volume = open_volume(server.url)
        started = time.monotonic()
        found = seen(volume)
        assert 1.5 < time.monotonic() - started < 4
        assert asked.is_set()
        assert (len(found.rows), found.images) == (2, [])
        released.set()
        for thread in threading.enumerate():
            if "thumbnail" in thread.name:
                thread.join(servers.DEADLINE)
        assert len(seen(volume).images) == 3


@pytest.mark.processes
def test_who_does_not_wait_can_leave(tmp_path: Path) -> None:
    """An interpreter that ends while a thumbnail is still on its way ends at once, and in silence."""
    make(voxels(), str(tmp_path), gzip=False, scales=1)
    info = (tmp_path / "info").read_bytes()
    answers = {"/info": servers.respond(200, info)}
    with servers.fault_server(
        lambda request: answers.get(request.path, servers.latency(30, servers.respond(200)))(request)
    ) as server:
        code = f"import precomputed_fs; print(len(precomputed_fs.open_volume({server.url!r})._repr_html_()))"
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert time.monotonic() - started < 15
    assert int(done.stdout) > 100
    assert done.stderr == ""


def test_no_threads_are_left(tmp_path: Path) -> None:
    make(voxels(), str(tmp_path), scales=1)._repr_html_()
    assert [thread.name for thread in threading.enumerate() if "thumbnail" in thread.name] == []


def test_without_a_thread_there_is_still_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    volume = make(voxels(), scales=1)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    found = seen(volume)
    assert (len(found.rows), found.images) == (2, [])


def test_whatever_fails_there_is_something(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = hostile("<b>")
    monkeypatch.setattr(notebook, "_table", None)
    assert volume._repr_html_() == f"<pre>{html.escape(repr(volume))}</pre>"


ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</td></table><style>*{display:none}</style>",
    "&lt;b&gt;",
    "<!--",
    "javascript:alert(1)",
    "\ud800\u202e",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_what_info_says_is_shown_and_not_obeyed(text: str) -> None:
    volume = hostile(text)
    for source in (volume, volume[0]):
        found = seen(source)
        assert set(found.tags) <= {"div", "code", "table", "thead", "tbody", "tr", "th", "td"}
        assert found.attributes == []
        if text.isprintable():
            assert found.rows[1][0] == found.rows[1][4].replace(text.lower(), text) == text


def test_what_jupyterlab_trusts_nobody_with_is_not_used() -> None:
    text = make(voxels((64, 64, 64)))._repr_html_() + make(voxels())[0]._repr_html_()
    assert set(Seen(text).tags) == {"div", "code", "table", "thead", "tbody", "tr", "th", "td", "br", "img"}
    assert re.search("colou?r|background|style|class|href", re.sub(r'src="[^"]*"', "", text)) is None


SECRET = "s3cr3t-t0k3n"


def test_secrets_are_not_shown(tmp_path: Path, served: servers.HttpServer) -> None:
    make(voxels(), str(tmp_path), scales=1)
    url = f"{served.url}?sig={SECRET}"
    volume = open_volume(url, storage_options={"client_kwargs": {"headers": {"Authorization": SECRET}}})
    assert len(seen(volume).images) == 3
    for source in (volume, volume[0]):
        assert SECRET not in repr(source) + source._repr_html_()


@pytest.mark.parametrize("protocol", ["s3", "zip"])
def test_a_volume_of_another_protocol_is_shown(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    array = voxels((160, 80, 40))
    source = make_pyramid("memory")
    make(array, source.url, chunk_size=(160, 80, 40))
    pyramid = make_pyramid(protocol)
    for name, body in source.contents().items():
        pyramid.put(name, body)
    volume = open_volume(pyramid.url, storage_options=pyramid.storage_options)
    np.testing.assert_array_equal(seen(volume).images[0], array[:, :, 20].T)
    np.testing.assert_array_equal(pixels(volume.show(z=3, size=None)), array[:, :, 3].T)


def test_a_table_of_many_scales_is_shortened() -> None:
    text = many(1024)._repr_html_()
    assert len(text) < 10_000
    rows = Seen(text).rows[1:]
    assert [row[0] for row in rows] == [
        *(f"key{i}" for i in range(12)), "... and 1000 more ...", *(f"key{i}" for i in range(1012, 1024)),
    ]  # fmt: skip
    assert len(seen(many(24)).rows) == 25


def test_sizes_beyond_all_measure_are_shown() -> None:
    found = seen(hostile("raw", size=[2**61] * 3, chunk_sizes=[[2**61] * 3], resolution=[1e300, 1e-300, 5]))
    assert found.rows[1][-1].endswith(" YiB")
    assert found.rows[1][2] == "1e+300x1e-300x5 nm"
