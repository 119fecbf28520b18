"""Neuroglancer itself shows what we write: its web client, in a browser, voxel for voxel and pixel for pixel."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest

from precomputed_fs import FsspecAccessor
from tests.support import browser, servers
from tests.support.shards import sharding_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.browser import Neuroglancer, View
    from tests.support.places import Place

Array = np.ndarray[Any, np.dtype[Any]]
Triple = tuple[int, int, int]

OFFSET = (-98, -134, -72)  # voxels, which are millimetres: where the template itself says that it begins
POSITION = (-5.75, -20.75, 10.5)  # voxels: so that no pixel's centre lies between two voxels
CHUNK_SIZE = (64, 64, 64)  # voxels

GREY = "void main() { emitGrayscale(toNormalized(getDataValue())); }"  # a uint8 is shown as the level it is


def _brain() -> Array:
    """Return the MNI152 T1 template that nilearn ships, without importing nilearn."""
    (folder,) = importlib.util.find_spec("nilearn").submodule_search_locations  # type: ignore[union-attr,misc]
    path = Path(folder) / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj, np.uint8)


BRAIN = _brain()
"""``[x, y, z]``"""

PYRAMID = {"1mm": BRAIN, "2mm": BRAIN[::2, ::2, ::2]}
"""The finest scale first, each half of the one before."""

IDS = np.array([0, 7, 2**53 + 1, 2**64 - 1], np.uint64)  # two of them are no JavaScript numbers
COLOURS = np.array([browser.BACKGROUND, (255, 0, 0), (0, 255, 0), (128, 64, 255)], np.uint8)
"""In which each of `IDS` is shown; of 0, nothing is."""

TISSUES = np.digitize(BRAIN, (60, 150, 200))
"""``[x, y, z]``, an index into `IDS`."""


# ---------------------------------------------------------------------------------------------- a browser, and pyramids


@pytest.fixture
def served(tmp_path: Path) -> Iterator[servers.HttpServer]:
    """Serve `tmp_path` to pages from anywhere."""
    with servers.fault_server(browser.cors(servers.files(tmp_path))) as server:
        yield server


def write(
    accessor: FsspecAccessor,
    pyramid: dict[str, Array],
    offset: Triple = OFFSET,
    chunk_size: Triple = CHUNK_SIZE,
    **scale: Any,
) -> None:
    """Write scales, each half of the one before; `scale` is more that `info` says of each."""
    scales = [
        {
            "key": key,
            "size": list(voxels.shape),
            "voxel_offset": [start >> level for start in offset],
            "resolution": [1_000_000 << level] * 3,
            "chunk_sizes": [list(chunk_size)],
            "encoding": "raw",
            **scale,
        }
        for level, (key, voxels) in enumerate(pyramid.items())
    ]
    dtype = next(iter(pyramid.values())).dtype.name
    kind = {"type": "image" if dtype == "uint8" else "segmentation", "data_type": dtype, "num_channels": 1}
    info = {"@type": "neuroglancer_multiscale_volume", **kind, "scales": scales}
    accessor.store_file("info", json.dumps(info).encode(), mime_type="application/json")
    for described, voxels in zip(scales, pyramid.values(), strict=True):
        accessor.store_chunks(described["key"], chunks_of(voxels, described["voxel_offset"], chunk_size))
    accessor.flush()


def chunks_of(voxels: Array, offset: list[int], chunk_size: Triple) -> Iterator[tuple[Any, bytes]]:
    """Cut a volume into raw chunks: Fortran order, clipped at the volume's end."""
    for low in itertools.product(*map(range, (0, 0, 0), voxels.shape, chunk_size)):
        part = voxels[tuple(slice(start, start + step) for start, step in zip(low, chunk_size, strict=True))]
        starts = np.add(low, offset)
        yield tuple(np.stack([starts, starts + part.shape], axis=1).ravel().tolist()), part.tobytes(order="F")


def assert_voxels(view: View, pyramid: dict[str, Array]) -> None:
    """Compare all that the client decodes."""
    for key, voxels in pyramid.items():
        decoded = view.volume(key)
        assert decoded.dtype == voxels.dtype
        np.testing.assert_array_equal(decoded, voxels)


def assert_pixels(view: View, colours: Array, offset: Triple = OFFSET, position: tuple[float, ...] = POSITION) -> None:
    """Compare the slice that the client draws; `colours` are those of the finest scale: ``[x, y, z, rgb]``."""
    pixels = view.slice()
    expected = np.full_like(pixels, browser.BACKGROUND)
    rows, columns = (
        np.floor(middle + np.arange(count) + 0.5 - count / 2).astype(int) - start
        for middle, count, start in zip(position[1::-1], pixels.shape, offset[1::-1], strict=False)
    )
    x, y = np.arange(colours.shape[0]), np.arange(colours.shape[1])
    plane = colours[:, :, int(np.floor(position[2])) - offset[2]].swapaxes(0, 1)
    assert np.isin(x, columns).all(), "the page is too small for the slice"
    assert np.isin(y, rows).all(), "the page is too small for the slice"
    expected[np.ix_(np.isin(rows, y), np.isin(columns, x))] = plane
    np.testing.assert_array_equal(pixels, expected)


def grey(voxels: Array) -> Array:
    return np.stack([voxels] * 3, axis=-1)


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

PART = BRAIN[60:140, 60:140, 70:90]
PART_OFFSET = (-40, -40, 0)
PART_CHUNK_SIZE = (40, 40, 20)  # voxels: four chunks, which meet in the middle
PART_POSITION = (0.25, 0.25, 19.5)


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
