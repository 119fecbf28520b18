"""Pyramids of other tools are read byte by byte as they were written, and ours are read by other tools."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import cloudfiles.paths  # type: ignore[import-untyped]
import numpy as np
import pytest
from neuroglancer_scripts.file_accessor import FileAccessor

from precomputed_fs import FsspecAccessor
from tests.support import tools
from tests.support.brain import template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from precomputed_fs.format.grid import ChunkCoords
    from tests.support.places import Place
    from tests.support.servers import S3Server

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "1mm"
OFFSET = (5, -3, 7)  # voxels
CHUNK_SIZE = (24, 20, 16)  # voxels
DATA_TYPES = ("uint8", "uint16")


# --------------------------------------------------------------------------------------------------------- real voxels


BRAIN = template()[80:120, 100:136, 70:90]
VOLUMES: Mapping[str, Array] = {"uint8": BRAIN, "uint16": BRAIN.astype(np.uint16) * 257 + 1}
"""``[x, y, z]``"""

SIZE = VOLUMES["uint8"].shape


def info_of(data_type: str, encoding: str = "raw") -> dict[str, Any]:
    scale = {
        "key": KEY,
        "size": list(SIZE),
        "voxel_offset": list(OFFSET),
        "resolution": [1_000_000, 1_000_000, 1_000_000],
        "chunk_sizes": [list(CHUNK_SIZE)],
        "encoding": encoding,
    }
    return {"type": "image", "data_type": data_type, "num_channels": 1, "scales": [scale]}


def chunks_of(volume: Array) -> dict[ChunkCoords, bytes]:
    """Cut a volume into the raw chunks of the format: Fortran order, clipped at the volume's end."""
    starts = itertools.product(*map(range, (0, 0, 0), volume.shape, CHUNK_SIZE))
    chunks = {}
    for x, y, z in starts:
        part = volume[x : x + CHUNK_SIZE[0], y : y + CHUNK_SIZE[1], z : z + CHUNK_SIZE[2]]
        (x0, y0, z0), (dx, dy, dz) = np.add((x, y, z), OFFSET).tolist(), part.shape
        chunks[x0, x0 + dx, y0, y0 + dy, z0, z0 + dz] = part.tobytes(order="F")
    return chunks


CHUNKS = {data_type: chunks_of(volume) for data_type, volume in VOLUMES.items()}


def test_the_voxels_are_worth_reading() -> None:
    assert SIZE == (40, 36, 20)
    assert len(CHUNKS["uint8"]) == 8
    assert min(map(len, CHUNKS["uint8"].values())) < math.prod(CHUNK_SIZE), "no chunk is clipped"
    assert all(len(set(chunk)) > 20 for chunk in CHUNKS["uint8"].values()), "a chunk is next to empty"


# --------------------------------------------------------------------------------------------------------- the writers


def write_with_neuroglancer_scripts(folder: Path, data_type: str, **options: Any) -> None:
    accessor = FileAccessor(str(folder), **options)
    accessor.store_file("info", json.dumps(info_of(data_type)).encode(), mime_type="application/json")
    for coords, chunk in CHUNKS[data_type].items():
        accessor.store_chunk(chunk, KEY, coords)


def write_with_cloud_volume(place: Path | str, data_type: str, **options: Any) -> None:
    tools.write_with_cloud_volume(place, info_of(data_type), [VOLUMES[data_type][..., np.newaxis]], **options)


def write_with_tensorstore(folder: Path, data_type: str) -> None:
    tools.write_with_tensorstore(folder, info_of(data_type), [VOLUMES[data_type][..., np.newaxis]])


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "neuroglancer-scripts flat gzip": partial(write_with_neuroglancer_scripts, flat=True, gzip=True),
    "neuroglancer-scripts flat no-gzip": partial(write_with_neuroglancer_scripts, flat=True, gzip=False),
    "neuroglancer-scripts no-flat gzip": partial(write_with_neuroglancer_scripts, flat=False, gzip=True),
    "neuroglancer-scripts no-flat no-gzip": partial(write_with_neuroglancer_scripts, flat=False, gzip=False),
    "cloud-volume gzip": partial(write_with_cloud_volume, compress="gzip"),
    "cloud-volume br": partial(write_with_cloud_volume, compress="br"),
    "cloud-volume zstd": partial(write_with_cloud_volume, compress="zstd"),
    "cloud-volume xz": partial(write_with_cloud_volume, compress="xz"),
    "cloud-volume bz2": partial(write_with_cloud_volume, compress="bz2"),
    "cloud-volume False": partial(write_with_cloud_volume, compress=False),
    "tensorstore": write_with_tensorstore,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Have a writer write its pyramid, once for all tests; returns the folder."""
    root = tmp_path_factory.mktemp("foreign")

    def write(writer: str, data_type: str) -> Path:
        folder = root / f"{writer} {data_type}".replace(" ", "-")
        if not folder.exists():
            WRITERS[writer](folder, data_type)
        return folder

    return write


def copy(folder: Path, pyramid: Place) -> None:
    """Put a folder's files into a pyramid as they are."""
    for path in folder.rglob("*"):
        if path.is_file():
            pyramid.put(path.relative_to(folder).as_posix(), path.read_bytes())


def read_all(accessor: FsspecAccessor, data_type: str) -> dict[ChunkCoords, bytes]:
    return {coords: accessor.fetch_chunk(KEY, coords) for coords in CHUNKS[data_type]}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("protocol", ["local", "http", "nginx", "s3", "memory", "zip"])
def test_the_pyramid_of_another_tool_is_read_byte_by_byte(
    make_pyramid: Callable[[str], Place], written: Callable[[str, str], Path], writer: str, protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    copy(written(writer, "uint8"), pyramid)
    accessor = pyramid.accessor()
    assert read_all(accessor, "uint8") == CHUNKS["uint8"]
    info = json.loads(accessor.fetch_file("info"))
    assert (info["data_type"], info["scales"][0]["key"], info["scales"][0]["size"]) == ("uint8", KEY, list(SIZE))


@pytest.mark.parametrize("writer", WRITERS)
def test_16_bit_voxels_of_another_tool_are_read_byte_by_byte(written: Callable[[str, str], Path], writer: str) -> None:
    with FsspecAccessor(written(writer, "uint16")) as accessor:
        assert read_all(accessor, "uint16") == CHUNKS["uint16"]


def test_the_writers_write_what_their_names_say(written: Callable[[str, str], Path]) -> None:
    """Without this, eleven equal pyramids would pass as well."""
    endings = {}
    for writer in WRITERS:
        folder = written(writer, "uint8") / KEY
        names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        (endings[writer],) = {(len(name.parts), name.suffix) for name in names}
    assert endings == {
        "neuroglancer-scripts flat gzip": (1, ".gz"),
        "neuroglancer-scripts flat no-gzip": (1, ""),
        "neuroglancer-scripts no-flat gzip": (3, ".gz"),
        "neuroglancer-scripts no-flat no-gzip": (3, ""),
        "cloud-volume gzip": (1, ".gz"),
        "cloud-volume br": (1, ".br"),
        "cloud-volume zstd": (1, ".zstd"),
        "cloud-volume xz": (1, ".xz"),
        "cloud-volume bz2": (1, ".bz2"),
        "cloud-volume False": (1, ""),
        "tensorstore": (1, ""),
    }


def test_jpeg_chunks_that_cloud_volume_compressed_once_more_come_back_as_jpeg(tmp_path: Path) -> None:
    array = VOLUMES["uint8"][..., np.newaxis]
    tools.write_with_cloud_volume(tmp_path, info_of("uint8", "jpeg"), [array], compress="gzip")
    stored = {path.stem: gzip.decompress(path.read_bytes()) for path in (tmp_path / KEY).glob("*.gz")}
    with FsspecAccessor(tmp_path) as accessor:
        fetched = read_all(accessor, "uint8")
    assert {"{}-{}_{}-{}_{}-{}".format(*coords): chunk for coords, chunk in fetched.items()} == stored
    assert {chunk[:3] for chunk in fetched.values()} == {b"\xff\xd8\xff"}


# ------------------------------------------------------------------------------------------- cloud-volume in a bucket


@pytest.fixture
def cloud_volume_url(s3_server: S3Server) -> Iterator[Callable[[Place], str]]:
    """Return what cloud-volume calls a pyramid on the S3 of the tests: its aliases are its way to an endpoint."""
    cloudfiles.paths.add_alias("moto", f"s3://{s3_server.endpoint}/")
    yield lambda pyramid: pyramid.url.replace("s3://", "moto://")
    cloudfiles.paths.remove_alias("moto")


SECRETS = {"secrets": {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}}


@pytest.mark.parametrize(
    ("compress", "encoding"),
    [("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("xz", "xz"), ("bz2", "bzip2"), (False, None)],
)
def test_each_content_encoding_of_cloud_volume_is_read_byte_by_byte(
    make_pyramid: Callable[[str], Place],
    cloud_volume_url: Callable[[Place], str],
    compress: str | bool,
    encoding: str | None,
) -> None:
    pyramid = make_pyramid("s3")
    write_with_cloud_volume(cloud_volume_url(pyramid), "uint16", compress=compress, **SECRETS)
    names = [name for name in pyramid.names() if name.startswith(KEY)]
    assert {pyramid.fields(name)["ContentEncoding"] for name in names} == {encoding}
    accessor = pyramid.accessor()
    assert read_all(accessor, "uint16") == CHUNKS["uint16"]
    assert json.loads(accessor.fetch_file("info"))["data_type"] == "uint16"


def test_what_cloud_volume_wrote_into_a_bucket_is_overwritten_in_place(
    make_pyramid: Callable[[str], Place], cloud_volume_url: Callable[[Place], str]
) -> None:
    pyramid = make_pyramid("s3")
    write_with_cloud_volume(cloud_volume_url(pyramid), "uint16", compress="br", **SECRETS)
    before = pyramid.names()
    coords = next(iter(CHUNKS["uint16"]))
    pyramid.accessor().store_chunk(bytes(2 * math.prod(CHUNK_SIZE)), KEY, coords, overwrite=True)
    assert pyramid.names() == before
    volume = read_with_cloud_volume(cloud_volume_url(pyramid), **SECRETS)
    expected = VOLUMES["uint16"].copy()
    expected[: CHUNK_SIZE[0], : CHUNK_SIZE[1], : CHUNK_SIZE[2]] = 0
    np.testing.assert_array_equal(volume, expected)


# --------------------------------------------------------------------------------------------------------- the readers


def write_with_ours(url: str | Path, data_type: str, **options: Any) -> None:
    with FsspecAccessor(url, **options) as accessor:
        accessor.store_file("info", json.dumps(info_of(data_type)).encode(), mime_type="application/json")
        for coords, chunk in CHUNKS[data_type].items():
            accessor.store_chunk(chunk, KEY, coords)


def read_with_cloud_volume(place: Path | str, **options: Any) -> Array:
    return tools.read_with_cloud_volume(place, **options)[1][..., 0]


def read_with_tensorstore(place: Path | str | dict[str, Any]) -> Array:
    return tools.read_with_tensorstore(place)[1][..., 0]


@pytest.mark.parametrize("data_type", DATA_TYPES)
@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "no-gzip"])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "no-flat"])
def test_neuroglancer_scripts_reads_ours(tmp_path: Path, data_type: str, packed: bool, flat: bool) -> None:
    write_with_ours(tmp_path, data_type, flat=flat, gzip=packed)
    accessor = FileAccessor(str(tmp_path))
    assert json.loads(accessor.fetch_file("info")) == info_of(data_type)
    assert {coords: accessor.fetch_chunk(KEY, coords) for coords in CHUNKS[data_type]} == CHUNKS[data_type]


@pytest.mark.parametrize("data_type", DATA_TYPES)
@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "no-gzip"])
def test_cloud_volume_reads_ours_on_disk(tmp_path: Path, data_type: str, packed: bool) -> None:
    write_with_ours(tmp_path, data_type, gzip=packed)
    np.testing.assert_array_equal(read_with_cloud_volume(tmp_path), VOLUMES[data_type])


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_tensorstore_reads_ours_on_disk_where_names_have_no_suffix(tmp_path: Path, data_type: str) -> None:
    write_with_ours(tmp_path, data_type, gzip=False)
    np.testing.assert_array_equal(read_with_tensorstore(tmp_path), VOLUMES[data_type])


# nginx answers with name.gz for name (gzip_static), which aiohttp's server does not.
SERVED = [("nginx", True), ("nginx", False), ("http", False)]


@pytest.mark.parametrize(("protocol", "packed"), SERVED)
@pytest.mark.parametrize("read", [read_with_cloud_volume, read_with_tensorstore])
def test_ours_is_read_over_http(
    make_pyramid: Callable[[str], Place], tmp_path: Path, protocol: str, packed: bool, read: Callable[..., Array]
) -> None:
    pyramid = make_pyramid(protocol)
    write_with_ours(tmp_path, "uint16", gzip=packed)
    copy(tmp_path, pyramid)
    np.testing.assert_array_equal(read(pyramid.url), VOLUMES["uint16"])


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "no-gzip"])
def test_cloud_volume_reads_ours_in_a_bucket(
    make_pyramid: Callable[[str], Place], cloud_volume_url: Callable[[Place], str], packed: bool
) -> None:
    pyramid = make_pyramid("s3")
    write_with_ours(pyramid.url, "uint16", gzip=packed, storage_options=pyramid.storage_options)
    np.testing.assert_array_equal(read_with_cloud_volume(cloud_volume_url(pyramid), **SECRETS), VOLUMES["uint16"])


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "no-gzip"])
def test_tensorstore_reads_ours_in_a_bucket(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    pyramid = make_pyramid("s3")
    write_with_ours(pyramid.url, "uint16", gzip=packed, storage_options=pyramid.storage_options)
    bucket = tools.bucket_of_tensorstore(pyramid, monkeypatch)
    np.testing.assert_array_equal(read_with_tensorstore(bucket), VOLUMES["uint16"])
