"""Neuroglancer itself shows what we write: its web client, in a browser, voxel for voxel and pixel for pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import FsspecAccessor
from tests.support import browser, servers
from tests.support.shards import sharding_of
from tests.view.client import (
    BRAIN,
    COLOURS,
    GREY,
    IDS,
    OFFSET,
    PART,
    PART_CHUNK_SIZE,
    PART_OFFSET,
    PART_POSITION,
    POSITION,
    PYRAMID,
    TISSUES,
    Triple,
    assert_pixels,
    assert_voxels,
    grey,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.browser import Neuroglancer
    from tests.support.places import Place


# ---------------------------------------------------------------------------------------------- a browser, and pyramids


@pytest.fixture
def served(tmp_path: Path) -> Iterator[servers.HttpServer]:
    """Serve `tmp_path` to pages from anywhere."""
    with servers.fault_server(browser.cors(servers.files(tmp_path))) as server:
        yield server


# --------------------------------------------------------------------------------------------------------------- images


def test_a_pyramid_in_a_bucket(neuroglancer: Neuroglancer, make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    public = pyramid.storage_options | {"s3_additional_kwargs": {"ACL": "public-read"}}
    with pyramid.accessor(storage_options=public) as accessor:
        write(accessor, PYRAMID)
    url = f"precomputed://{pyramid.server.endpoint}/{pyramid.url.removeprefix('s3://')}"
    with neuroglancer.show(url, position=POSITION, shader=GREY) as view:
        assert view.errors == []
        assert_pixels(view, grey(BRAIN))
        assert_voxels(view, PYRAMID)
    assert pyramid.fields("1mm/-98--34_-134--70_-72--8")["ContentEncoding"] == "gzip"


@pytest.mark.parametrize(
    ("hash_", "offset"), [("identity", OFFSET), ("murmurhash3_x86_128", (1000, -60, 7))], ids=["identity", "murmurhash"]
)
def test_a_volume_in_shards(
    neuroglancer: Neuroglancer,
    tmp_path: Path,
    served: servers.HttpServer,
    hash_: str,
    offset: Triple,
) -> None:
    with FsspecAccessor(tmp_path) as accessor:
        write(accessor, {"1mm": BRAIN}, offset, sharding=sharding_of((1, 2, 3), hash_, "gzip", "gzip"))
    shards = {f"/1mm/{path.name}" for path in (tmp_path / "1mm").iterdir()}
    assert len(shards) > 4
    position = tuple(np.add(POSITION, np.subtract(offset, OFFSET)).tolist())
    with neuroglancer.show(f"precomputed://{served.url}", position=position, shader=GREY) as view:
        assert view.errors == []
        assert_pixels(view, grey(BRAIN), offset, position)
        assert_voxels(view, {"1mm": BRAIN})
    asked = [request for request in served.log.entries() if request.path != "/info"]
    assert {request.path for request in asked} == shards
    assert all("Range" in request.headers for request in asked)


# -------------------------------------------------------------------------------------------------------- segmentations


def test_a_segmentation_in_shards(neuroglancer: Neuroglancer, tmp_path: Path, served: servers.HttpServer) -> None:
    part = TISSUES[:, :, 64:96]
    offset = (-98, -134, -8)
    with FsspecAccessor(tmp_path) as accessor:
        write(accessor, {"1mm": IDS[part]}, offset, (64, 64, 16), sharding=sharding_of((1, 2, 3)))
    colours = {str(id_): "#" + bytes(colour).hex() for id_, colour in zip(IDS, COLOURS, strict=True)}
    shown: dict[str, Any] = {"segmentColors": colours, "selectedAlpha": 1, "saturation": 1}
    with neuroglancer.show(f"precomputed://{served.url}", "segmentation", position=POSITION, **shown) as view:
        assert view.errors == []
        assert_pixels(view, COLOURS[part], offset)
        assert_voxels(view, {"1mm": IDS[part]})


# ------------------------------------------------------------------------------------------ what these tests can tell


def test_one_voxel_that_differs_is_seen(neuroglancer: Neuroglancer, tmp_path: Path, served: servers.HttpServer) -> None:
    with FsspecAccessor(tmp_path, gzip=False) as accessor:
        write(accessor, {"1mm": PART}, PART_OFFSET, PART_CHUNK_SIZE)
    path = tmp_path / "1mm" / "0-40_-40-0_0-20"
    path.write_bytes(path.read_bytes()[:-1] + bytes([PART[-1, 39, -1] ^ 1]))
    with neuroglancer.show(f"precomputed://{served.url}", position=PART_POSITION, shader=GREY) as view:
        assert view.errors == []
        with pytest.raises(AssertionError, match="Mismatched elements: 1 / 128000"):
            assert_voxels(view, {"1mm": PART})
        with pytest.raises(AssertionError, match="Mismatched elements: 3 / "):  # red, green and blue of one pixel
            assert_pixels(view, grey(PART), PART_OFFSET, PART_POSITION)


def test_chunks_that_are_cut_short_or_absent_are_seen(
    neuroglancer: Neuroglancer, tmp_path: Path, served: servers.HttpServer
) -> None:
    with FsspecAccessor(tmp_path, gzip=False) as accessor:
        write(accessor, {"1mm": PART}, PART_OFFSET, PART_CHUNK_SIZE)
    path = tmp_path / "1mm" / "0-40_-40-0_0-20"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "1mm" / "-40-0_0-40_0-20").unlink()
    with neuroglancer.show(f"precomputed://{served.url}", position=PART_POSITION, shader=GREY) as view:
        assert "1 chunk(s) failed" in view.errors
        assert np.array_equal(view.chunk("1mm", (1, 1, 0)), PART[40:, 40:])
        with pytest.raises(browser.PageError, match="chunk is 31999 bytes"):
            view.chunk("1mm", (1, 0, 0))
        with pytest.raises(browser.PageError, match="chunk 0,1,0 of scale 1mm is absent"):
            view.chunk("1mm", (0, 1, 0))
        with pytest.raises(browser.PageError):
            view.volume("1mm")


def test_a_corrupt_chunk_in_a_shard_is_seen(
    neuroglancer: Neuroglancer, tmp_path: Path, served: servers.HttpServer
) -> None:
    with FsspecAccessor(tmp_path) as accessor:
        write(
            accessor,
            {"1mm": PART},
            PART_OFFSET,
            PART_CHUNK_SIZE,
            sharding=sharding_of((0, 0, 0), index="gzip", data="gzip"),
        )
    path = tmp_path / "1mm" / "0.shard"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with neuroglancer.show(f"precomputed://{served.url}", position=PART_POSITION, shader=GREY) as view:
        assert "1 chunk(s) failed" in view.errors
        with pytest.raises(browser.PageError):
            view.volume("1mm")


def test_what_is_no_pyramid_is_seen(neuroglancer: Neuroglancer, served: servers.HttpServer) -> None:
    with neuroglancer.show(f"precomputed://{served.url}", position=PART_POSITION) as view:
        assert any("404" in line for line in view.errors)
