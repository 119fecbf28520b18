"""Copies of pyramids: what arrives, in which order, how it goes on after a failure, and what is refused."""

from __future__ import annotations

import functools
import gzip
import importlib
import itertools
import json
import lzma
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import imagecodecs
import numpy as np
import pytest

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    FsspecAccessor,
    InvalidInfoError,
    NotFoundError,
    Volume,
    __main__,
    copy_pyramid,
    create_volume,
    open_volume,
)
from precomputed_fs.codecs import Codec
from precomputed_fs.copying import place as copying_place
from precomputed_fs.copying import run as copying_run
from precomputed_fs.format.sharding import propose_sharding
from precomputed_fs.pyramid import claims, copies
from precomputed_fs.pyramid.claims import PARTIAL, Claim
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Pause
from precomputed_fs.volume.indexing import Touched
from tests import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from precomputed_fs.store.requests import Job, Put
    from tests.conftest import Pyramid

DEADLINE = 60.0
OFFSET = (-5, 7, 100)
WRITE = jobs.write
KEY = "8_8_8"
MURMUR = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "murmurhash3_x86_128",
    "minishard_bits": 1,
    "shard_bits": 2,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
IDENTITY = {**MURMUR, "preshift_bits": 2, "hash": "identity", "data_encoding": "raw"}
WRAPPED = {**IDENTITY, "preshift_bits": 0, "minishard_bits": 0}
"""With fewer bits than chunk ids have: one shard has chunks from many places."""


def voxels_of(dtype: str = "uint8", size: tuple[int, int, int] = (80, 50, 40)) -> NDArray[Any]:
    """Return smooth voxels, with a box of zeros in which whole chunks are absent."""
    x, y, z = np.ogrid[: size[0], : size[1], : size[2]]
    voxels: NDArray[Any] = (1 + (x // 3 + y // 2 + z) % 200).astype(dtype)
    voxels[:37, :33, :] = 0
    return voxels


def make(place: Pyramid | str | Path, array: NDArray[Any] | None = None, **options: Any) -> Any:
    given = {"resolution": (8, 8, 8), "voxel_offset": OFFSET, "chunk_size": (16, 16, 16), "skip_empty": True}
    url = place if isinstance(place, str | Path) else place.url
    if not isinstance(place, str | Path):
        options = {"storage_options": place.storage_options, **options}
    return create_volume(url, voxels_of() if array is None else array, **{**given, **options})


def read(folder: Path | str, scale: int = 0) -> NDArray[Any]:
    """Read a scale with tensorstore."""
    tensorstore = importlib.import_module("tensorstore")
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "scale_index": scale,
    }
    return np.asarray(tensorstore.open(spec, open=True, read=True).result().read().result())


def present(url: str, key: str = KEY, chunk_size: tuple[int, int, int] = (16, 16, 16), **options: Any) -> set[Any]:
    """Return the coordinates of the chunks that are there."""
    scale = open_volume(url, **options)[key]
    assert scale.chunk_size == chunk_size
    touched = Touched(scale.grid, (range(-5, 75), range(7, 57), range(100, 140)))
    return {where for where, data in scale.volume.pyramid.fetch_chunks(key, touched) if data is not None}


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to decode or encode voxels."""

    def refuse(*_: Any) -> Any:
        pytest.fail("voxels were decoded")

    monkeypatch.setattr(Codec, "decode", refuse)
    monkeypatch.setattr(Codec, "encode", refuse)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to compress or decompress."""

    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("gzip was done or undone")

    for module in ("copies", "storing", "shard_writer"):
        monkeypatch.setattr(f"precomputed_fs.pyramid.{module}.gzip_compress", refuse)
    for name in ("decode", "decode_gzip_or_zlib"):
        monkeypatch.setattr(f"precomputed_fs.pyramid.stored.{name}", refuse)


# --------------------------------------------------------------------------------------------------- protocols


def test_from_every_protocol(readable_pyramid: Pyramid, make_pyramid: Callable[[str], Pyramid]) -> None:
    original = make_pyramid("memory")
    make(original, gzip=False, chunk_size=(32, 32, 32))
    for name, body in original.contents().items():
        readable_pyramid.put(name, body)
    copy = make_pyramid("memory")
    source = open_volume(readable_pyramid.url, storage_options=readable_pyramid.storage_options)
    copied = copy_pyramid(source, copy.url, verify=True)
    assert copy.contents() == original.contents()
    assert copied.url == copy.accessor().url
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


@pytest.mark.usefixtures("undecoded")
def test_to_every_protocol(pyramid: Pyramid, make_pyramid: Callable[[str], Pyramid]) -> None:
    original = make_pyramid("memory")
    coords = [(x, x + 16, 7, 23, 100, 116) for x in (-5, 11, 27)]
    accessor = original.accessor()
    accessor.store_file("info", json.dumps(info_of([scale_of()])).encode(), mime_type="application/json")
    accessor.store_chunks(KEY, ((where, bytes([i, *range(255)]) * 16) for i, where in enumerate(coords)))
    copy_pyramid(original.url, pyramid.url, storage_options=pyramid.storage_options, verify=True)
    suffix = "" if pyramid.keeps_headers else ".gz"
    expected = {name.removesuffix(".gz") + suffix for name in original.names() if name != "info"}
    assert set(pyramid.names()) == {"info", *expected}
    for name in original.names():
        if name == "info":
            assert json.loads(pyramid.get(name)) == json.loads(original.get(name))
            continue
        there = name.removesuffix(".gz") + suffix
        assert pyramid.get(there) == original.get(name)
        if pyramid.keeps_headers:
            assert pyramid.fields(there)["ContentEncoding"] == "gzip"


def scale_of(**members: Any) -> dict[str, Any]:
    return {
        "key": KEY,
        "size": [80, 50, 40],
        "resolution": [8, 8, 8],
        "voxel_offset": list(OFFSET),
        "chunk_sizes": [[16, 16, 16]],
        "encoding": "raw",
        **members,
    }


def info_of(scales: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "image",
        "data_type": "uint8",
        "num_channels": 1,
        "scales": scales,
        **members,
    }


def test_a_sharded_pyramid_to_every_protocol(pyramid: Pyramid, make_pyramid: Callable[[str], Pyramid]) -> None:
    original = make_pyramid("memory")
    make(original, sharding=IDENTITY)
    copied = copy_pyramid(original.url, pyramid.url, storage_options=pyramid.storage_options, verify=True)
    assert pyramid.contents() == original.contents()
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_into_an_archive(tmp_path: Path) -> None:
    volume = make(tmp_path / "original")
    copy_pyramid(volume, f"zip://brain::{tmp_path}/copy.zip", storage_options={"zip": {"mode": "w"}})
    copied = open_volume(f"zip://brain::{tmp_path}/copy.zip")
    for scale, original in zip(copied, volume, strict=True):
        np.testing.assert_array_equal(scale[...], original[...])
    assert PARTIAL not in (tmp_path / "copy.zip").read_bytes().decode("latin-1")
    with pytest.raises(ValueError, match="verify=False"):
        copy_pyramid(volume, f"zip://brain::{tmp_path}/b.zip", storage_options={"zip": {"mode": "w"}}, verify=True)
    before = (tmp_path / "copy.zip").stat().st_size
    with pytest.raises(DataAccessError, match=r"zip://brain/.*exists, and this kind of archive cannot replace it"):
        copy_pyramid(volume, f"zip://brain::{tmp_path}/copy.zip", storage_options={"zip": {"mode": "a"}})
    assert (tmp_path / "copy.zip").stat().st_size == before


def test_what_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"http://127.0.0.1:9/brain: .*cannot be written to"):
        copy_pyramid(make(tmp_path), "http://127.0.0.1:9/brain")


# ------------------------------------------------------------------------------------------- what is moved, and how


@pytest.mark.usefixtures("undecoded", "unpacked")
@pytest.mark.parametrize(("made", "asked"), [(True, None), (False, None), (True, True), (False, False)])
def test_straight_bytes(tmp_path: Path, made: bool, asked: bool | None) -> None:
    """Where both sides are gzip, the bytes are the same ones, however these were compressed."""
    info = info_of([scale_of()])
    folder = tmp_path / "original"
    (folder / KEY).mkdir(parents=True)
    (folder / "info").write_text(json.dumps(info))
    body = bytes(range(256)) * 16
    stored = gzip.compress(body, 3, mtime=12345) if made else body
    (folder / KEY / f"-5-11_7-23_100-116{'.gz' * made}").write_bytes(stored)
    copy_pyramid(folder, tmp_path / "copy", gzip=asked)
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy" / KEY).iterdir()} == {
        f"-5-11_7-23_100-116{'.gz' * made}": stored
    }


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("asked", [None, True, False])
def test_other_compressions(tmp_path: Path, asked: bool | None) -> None:
    """What is compressed is gzip in the copy, or nothing; what is not is only if that is asked for."""
    folder = tmp_path / "original"
    (folder / KEY).mkdir(parents=True)
    (folder / "info").write_text(json.dumps(info_of([scale_of()])))
    bodies = {f"{x}-{x + 16}_7-23_100-116": bytes([i]) * 4096 for i, x in enumerate(range(-5, 75, 16))}
    compress: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".br": brotli.compress,
        ".zstd": lambda data: bytes(imagecodecs.zstd_encode(data)),
        ".xz": lzma.compress,
    }
    for (name, body), (suffix, make_) in zip(bodies.items(), compress.items(), strict=True):
        (folder / KEY / (name + suffix)).write_bytes(make_(body))
    copy_pyramid(folder, tmp_path / "copy", gzip=asked, verify=True)
    found = {path.name: path.read_bytes() for path in (tmp_path / "copy" / KEY).iterdir()}
    plain = set(list(bodies)[:1]) if asked is None else set() if asked else set(bodies)
    assert found.keys() == {name if name in plain else f"{name}.gz" for name in bodies}
    for name, data in found.items():
        stem = name.removesuffix(".gz")
        assert (data if stem == name else gzip.decompress(data)) == bodies[stem]


@pytest.mark.parametrize("wish", [{}, {"chunk_size": (80, 50, 40)}], ids=["moved", "cut"])
@pytest.mark.parametrize("stored", ["s3", "shards"])
def test_what_every_reader_finds_is_not_hidden_by_a_suffix(
    make_pyramid: Callable[[str], Pyramid], tmp_path: Path, stored: str, wish: dict[str, Any]
) -> None:
    """What is compressed in a bucket or in shards, all read; files named .gz are zeros to tensorstore."""
    there = make_pyramid("s3")
    volume = make(there, scales=1, sharding=stored == "shards")
    options: dict[str, Any] = {"sharding": False, **wish}
    copied = copy_pyramid(volume, tmp_path / "copy", verify=True, **options)
    np.testing.assert_array_equal(read(tmp_path / "copy")[..., 0], voxels_of())
    copied[0][0:3, 10, 110] = 9
    assert not list(tmp_path.rglob("*.gz"))
    assert (read(tmp_path / "copy")[5:8, 3, 10] == 9).all()
    copy_pyramid(volume, tmp_path / "small", gzip=True, **options)[0][0:3, 10, 110] = 9
    assert len(list(tmp_path.rglob("*.gz"))) == len(list((tmp_path / "small" / KEY).iterdir()))


def test_a_raw_chunk_that_looks_like_gzip_is_what_it_was(tmp_path: Path) -> None:
    """Uncompressed, it would be taken for gzip where its length is not looked at."""
    payload = gzip.compress(np.random.default_rng(0).bytes(4096), mtime=0)
    size = [len(payload), 1, 1]
    volume = create_volume(tmp_path / "a", info_of([scale_of(size=size, chunk_sizes=[size], voxel_offset=[0, 0, 0])]))
    volume.accessor.store_chunk(payload, KEY, (0, len(payload), 0, 1, 0, 1))
    copy_pyramid(volume, tmp_path / "b", gzip=False, verify=True)
    assert open_volume(tmp_path / "b")[0][:, 0, 0, 0].tobytes() == payload


def test_jpeg_is_not_compressed_again(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", encoding="jpeg", scales=1)
    copy_pyramid(volume, tmp_path / "b", gzip=True)
    names = {path.name for path in (tmp_path / "b" / KEY).iterdir()}
    assert names
    assert not any(name.endswith(".gz") for name in names)
    np.testing.assert_array_equal(read(tmp_path / "b"), volume[0][...])


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("flat", [True, False])
def test_layouts(tmp_path: Path, flat: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "encode", lambda _, voxels: voxels.tobytes(order="F"))
        patch.setattr(Codec, "decode", lambda _, data, size: np.frombuffer(data, "u1").reshape((*size, 1), order="F"))
        make(tmp_path / "a", flat=not flat, gzip=True)
    copy_pyramid(tmp_path / "a", tmp_path / "b", flat=flat, verify=True)
    a, b = ({p.relative_to(f).as_posix() for p in f.rglob("*.gz")} for f in (tmp_path / "a", tmp_path / "b"))
    assert b
    assert all(name.count("/") == (1 if flat else 3) for name in b)
    assert {name.replace("/", "_") for name in a} == {name.replace("/", "_") for name in b}


@pytest.mark.usefixtures("undecoded", "unpacked")
@pytest.mark.parametrize("data_encoding", ["raw", "gzip"])
def test_from_shards_to_shards(tmp_path: Path, data_encoding: str) -> None:
    """Chunks are packed anew, as they are; minishards are not compressed in this one."""
    source, target = (
        {**sharding, "data_encoding": data_encoding, "minishard_index_encoding": "raw"}
        for sharding in (IDENTITY, MURMUR)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "encode", lambda _, voxels: voxels.tobytes(order="F"))
        patch.setattr(Codec, "decode", lambda _, data, size: np.frombuffer(data, "u1").reshape((*size, 1), order="F"))
        patch.setattr(
            "precomputed_fs.pyramid.shard_writer.gzip_compress", lambda data, _: gzip.compress(data, mtime=99)
        )
        make(tmp_path / "a", sharding=source, scales=1)
    copy_pyramid(tmp_path / "a", tmp_path / "b", sharding=target)
    names = sorted(path.name for path in (tmp_path / "b" / KEY).iterdir())
    assert names == ["0.shard", "1.shard", "2.shard", "3.shard"]
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())
    copy_pyramid(tmp_path / "b", tmp_path / "c", sharding=source)
    for path in (tmp_path / "a").rglob("*.shard"):
        assert path.read_bytes() == (tmp_path / "c" / path.relative_to(tmp_path / "a")).read_bytes()


def test_shards_in_zlib_are_gzip_in_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As neuroglancer-scripts writes them, only neuroglancer-scripts and we read them."""
    monkeypatch.setattr("precomputed_fs.pyramid.shard_writer.gzip_compress", lambda data, _: zlib.compress(data))
    volume = make(tmp_path / "a", sharding=MURMUR, scales=1)
    monkeypatch.undo()
    np.testing.assert_array_equal(volume[0][..., 0], voxels_of())
    with pytest.raises(ValueError, match=r"gzip|zlib|header|decod"):
        read(tmp_path / "a")
    copy_pyramid(tmp_path / "a", tmp_path / "b", verify=True)
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


# ---------------------------------------------------------------------------------------- everything into everything

STORED: dict[str, dict[str, Any]] = {
    "plain": {"gzip": False},
    "gzip in folders": {"flat": False},
    "identity": {"sharding": IDENTITY},
    "murmur": {"sharding": MURMUR},
    "png": {"encoding": "png", "gzip": False},
}
WISHES: dict[str, dict[str, Any]] = {
    "plain": {"gzip": False, "sharding": False},
    "identity": {"sharding": IDENTITY},
    "murmur": {"sharding": MURMUR},
    "wrapped": {"sharding": WRAPPED},
    "proposed": {"sharding": True},
    "larger": {"gzip": False, "sharding": False, "chunk_size": (32, 64, 24)},
    "smaller": {"gzip": False, "sharding": False, "chunk_size": (16, 8, 5)},
    "larger in shards": {"sharding": True, "chunk_size": (32, 32, 32)},
    "cut and scattered": {"sharding": MURMUR, "chunk_size": (32, 16, 20)},
    "png": {"gzip": False, "sharding": False, "encoding": "png", "png_level": 3},
    "png in shards": {"sharding": True, "encoding": "png", "chunk_size": (40, 40, 40)},
    "raw": {"gzip": False, "sharding": False, "encoding": "raw"},
}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("stored", STORED)
def test_tensorstore_reads_what_was_written(tmp_path: Path, stored: str, wish: str) -> None:
    volume = make(tmp_path / "a", voxels_of(size=(56, 40, 33)), scales=2, **STORED[stored])
    copied = copy_pyramid(tmp_path / "a", tmp_path / "b", verify=True, **WISHES[wish])
    assert len(copied) == len(volume)
    for i, scale in enumerate(volume):
        np.testing.assert_array_equal(read(tmp_path / "b", i), scale[...])
    assert not (tmp_path / "b" / PARTIAL).exists()


@pytest.mark.parametrize("wish", ["plain", "murmur", "wrapped", "larger", "larger in shards", "cut and scattered"])
@pytest.mark.parametrize("stored", ["plain", "identity"])
def test_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, wish: str) -> None:
    """What is cut into pieces in the large is cut here, too."""
    for name, value in {"_GROUP": 7, "_GROUP_BITS": 2, "_BLOCK_BYTES": 100_000, "_SCATTERED": 13}.items():
        monkeypatch.setattr(f"precomputed_fs.copying.parts.{name}", value)
    volume = make(tmp_path / "a", scales=1, **STORED[stored])
    failing_after(0 if wish == "larger in shards" else 1, monkeypatch)  # that is one shard
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(tmp_path / "a", tmp_path / "b", **WISHES[wish])
    monkeypatch.setattr(jobs, "write", WRITE)
    copy_pyramid(tmp_path / "a", tmp_path / "b", **WISHES[wish])
    np.testing.assert_array_equal(read(tmp_path / "b"), volume[0][...])


@pytest.mark.parametrize(
    ("dtype", "encoding", "parameters"),
    [
        ("uint64", "compressed_segmentation", {"compressed_segmentation_block_size": [8, 8, 4]}),
        ("uint16", "png", {}),
        ("uint8", "jxl", {"jxl_quality": 100}),
    ],
)
def test_other_encodings(tmp_path: Path, dtype: str, encoding: str, parameters: dict[str, Any]) -> None:
    volume = make(tmp_path / "a", voxels_of(dtype), scales=1)
    copied = copy_pyramid(volume, tmp_path / "b", encoding=encoding, gzip=False, verify=True, **parameters)
    scale = copied[0].info.to_dict()
    assert scale["encoding"] == encoding
    assert {name: scale[name] for name in parameters} == parameters
    back = read(tmp_path / "b") if encoding != "jxl" else copied[0][...]
    np.testing.assert_array_equal(back[..., 0], voxels_of(dtype))
    again = copy_pyramid(copied, tmp_path / "c", encoding="raw", gzip=False, verify=True)
    assert again[0].info.to_dict() == volume[0].info.to_dict()
    np.testing.assert_array_equal(read(tmp_path / "c")[..., 0], voxels_of(dtype))


def test_jpeg_with_another_quality(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", scales=1, encoding="jpeg", jpeg_quality=95)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "encode", None)
        copy_pyramid(volume, tmp_path / "same", encoding="jpeg", jpeg_quality=95)
    copied = copy_pyramid(volume, tmp_path / "b", encoding="jpeg", jpeg_quality=30, verify=True)
    assert copied[0].info["jpeg_quality"] == 30
    sizes = [sum(path.stat().st_size for path in (tmp_path / n / KEY).iterdir()) for n in ("a", "b")]
    assert sizes[1] < sizes[0]
    difference = np.abs(read(tmp_path / "b").astype(int) - volume[0][...])
    assert 0 < difference.max() < 200
    assert difference.mean() < 15


def test_encodings_that_nobody_knows_are_moved(tmp_path: Path) -> None:
    accessor = FsspecAccessor(tmp_path / "a")
    accessor.store_file("info", json.dumps(info_of([scale_of(encoding="of-tomorrow")])).encode())
    accessor.store_chunk(b"whatever", KEY, (-5, 11, 7, 23, 100, 116))
    copied = copy_pyramid(tmp_path / "a", tmp_path / "b", verify=True)
    assert copied.accessor.fetch_chunk(KEY, (-5, 11, 7, 23, 100, 116)) == b"whatever"
    with pytest.raises(ValueError, match="of-tomorrow"):
        copy_pyramid(tmp_path / "a", tmp_path / "c", encoding="raw")


@pytest.mark.parametrize("sharding", [None, IDENTITY, MURMUR], ids=["unsharded", "identity", "murmur"])
@pytest.mark.parametrize("wish", ["plain", "identity", "murmur", "wrapped"])
def test_absent_chunks_stay_absent(tmp_path: Path, sharding: Any, wish: str) -> None:
    make(tmp_path / "a", sharding=sharding, scales=1)
    copy_pyramid(tmp_path / "a", tmp_path / "b", **WISHES[wish])
    expected = present(str(tmp_path / "a"))
    assert 0 < len(expected) < 60
    assert present(str(tmp_path / "b")) == expected


def test_absent_chunks_stay_absent_where_others_are_cut(tmp_path: Path) -> None:
    """What is made of absent chunks only is absent; what of some is zeros there."""
    volume = make(tmp_path / "a", scales=1)
    copied = copy_pyramid(tmp_path / "a", tmp_path / "b", chunk_size=(20, 20, 20))
    starts = [(x, y, z) for x in range(0, 80, 20) for y in range(0, 50, 20) for z in range(0, 40, 20)]

    def has_source(x: int, y: int, z: int) -> bool:
        low = [16 * (start // 16) for start in (x, y, z)]
        high = [-(-min(start + 20, size) // 16) * 16 for start, size in zip((x, y, z), (80, 50, 40), strict=True)]
        return bool(voxels_of()[low[0] : high[0], low[1] : high[1], low[2] : high[2]].any())

    expected = {(x, y, z) for x, y, z in starts if has_source(x, y, z)}
    there = present(copied.url, chunk_size=(20, 20, 20))
    assert {(x + 5, y - 7, z - 100) for x, _, y, _, z, _ in there} == expected
    assert len(expected) < len(starts)
    np.testing.assert_array_equal(copied[0][...], volume[0][...])


def test_several_channels(tmp_path: Path) -> None:
    array = np.stack([voxels_of("uint16"), 3 * voxels_of("uint16")], axis=-1)
    volume = make(tmp_path / "a", array, scales=1)
    copy_pyramid(volume, tmp_path / "b", chunk_size=(40, 25, 40), sharding=True, verify=True)
    np.testing.assert_array_equal(read(tmp_path / "b"), array)


def test_several_chunk_sizes(tmp_path: Path) -> None:
    """Each is a full copy of the data, and so it is in the copy; where there can be one only, it is moved if it may."""
    sizes = [[16, 16, 16], [40, 50, 40]]
    accessor = FsspecAccessor(tmp_path / "a")
    accessor.store_file("info", json.dumps(info_of([scale_of(chunk_sizes=sizes)])).encode())
    for name in ("cubes", "slabs"):
        size = sizes[name == "slabs"]
        make(tmp_path / name, scales=1, chunk_size=size)
        (tmp_path / "a" / KEY).mkdir(exist_ok=True)
        for path in (tmp_path / name / KEY).iterdir():
            path.rename(tmp_path / "a" / KEY / path.name)
    copy_pyramid(tmp_path / "a", tmp_path / "b")
    names = [sorted(path.name for path in (tmp_path / place / KEY).iterdir()) for place in ("a", "b")]
    assert names[0] == names[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "decode", None)
        copied = copy_pyramid(tmp_path / "a", tmp_path / "c", chunk_size=(40, 50, 40), sharding=True)
    np.testing.assert_array_equal(read(tmp_path / "c")[..., 0], voxels_of())
    assert copied[0].chunk_size == (40, 50, 40)


# ------------------------------------------------------------------------------------------------------------ info


def test_unknown_members_are_kept(tmp_path: Path) -> None:
    sharding = {**IDENTITY, "note": "of sharding"}
    scales = [scale_of(note={"of": ["scale"]}), scale_of(key="4_4_4", sharding=sharding, jpeg_quality=7)]
    info = info_of(scales, provenance="a microscope", numbers=[1, 2.5, None])
    volume = create_volume(tmp_path / "a", {**info, "scales": [{**scale} for scale in scales]})
    (tmp_path / "a" / "info").write_text(json.dumps(info))
    copied = copy_pyramid(tmp_path / "a", tmp_path / "same")
    assert json.loads((tmp_path / "same" / "info").read_text()) == info
    copied = copy_pyramid(tmp_path / "a", tmp_path / "b", encoding="jpeg", chunk_size=(20, 20, 20), jpeg_quality=50)
    told = json.loads((tmp_path / "b" / "info").read_text())
    assert {name: told[name] for name in ("provenance", "numbers")} == {
        name: info[name] for name in ("provenance", "numbers")
    }
    assert told["scales"][0]["note"] == {"of": ["scale"]}
    assert [scale["jpeg_quality"] for scale in told["scales"]] == [50, 50]
    assert copied[1].info.sharding == propose_sharding((4, 3, 2), chunk_bytes=8000, data_encoding="raw")
    assert volume[1].key == "4_4_4"


@pytest.mark.parametrize(
    ("scales", "keys"),
    [([1], ["16_16_16"]), (["16_16_16"], ["16_16_16"]), ([-1], ["32_32_32"]), ([2, "8_8_8"], ["8_8_8", "32_32_32"])],
)
def test_some_scales(tmp_path: Path, scales: list[Any], keys: list[str]) -> None:
    volume = make(tmp_path / "a", scales=3)
    copied = copy_pyramid(volume, tmp_path / "b", scales=scales)
    assert [scale.key for scale in copied] == keys
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted([*keys, "info"])
    for scale in copied:
        np.testing.assert_array_equal(scale[...], volume[scale.key][...])


@pytest.mark.parametrize(("scales", "keys"), [(None, ["4_4_4", "8_8_8", "16_16_16"]), ([0, 2], ["4_4_4", "16_16_16"])])
def test_scales_in_another_order_are_sorted(coarsest_first: Path, tmp_path: Path, scales: Any, keys: list[str]) -> None:
    copied = copy_pyramid(coarsest_first, tmp_path / "b", scales=scales)
    assert [scale.key for scale in copied.info.scales] == keys
    for scale in copied:
        np.testing.assert_array_equal(scale[...], open_volume(coarsest_first)[scale.key][...])


@pytest.mark.parametrize("scales", [[], ["1_1_1"], [7], KEY])
def test_scales_that_there_are_not(tmp_path: Path, scales: Any) -> None:
    with pytest.raises(ValueError, match="scales"):
        copy_pyramid(make(tmp_path / "a"), tmp_path / "b", scales=scales)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "wish",
    [
        {"encoding": "jpeg", "jpeg_quality": 101},
        {"encoding": "compressed_segmentation"},
        {"encoding": "gif"},
        {"chunk_size": (64, 64)},
        {"chunk_size": (64, 64, 0)},
        {"sharding": {"@type": "of-tomorrow"}},
    ],
    ids=str,
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path: Path, wish: dict[str, Any]) -> None:
    volume = make(tmp_path / "a")
    with pytest.raises(ValueError, match=list(wish)[-1]):
        copy_pyramid(volume, tmp_path / "b", **wish)
    assert not (tmp_path / "b").exists()


def test_options_of_an_accessor_are_its_own(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", scales=1)
    copied = copy_pyramid(volume.accessor, FsspecAccessor(tmp_path / "b", flat=False))
    assert all(path.name.count("_") == 0 for path in (tmp_path / "b" / KEY).iterdir())
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    with pytest.raises(TypeError, match="flat"):
        copy_pyramid(volume, FsspecAccessor(tmp_path / "c"), flat=False)
    with pytest.raises(TypeError, match="jpeg_quality"):
        copy_pyramid(volume, tmp_path / "c", jpeg_quality=30)


def test_what_else_a_pyramid_may_have_is_not_copied(tmp_path: Path) -> None:
    make(tmp_path / "a")
    info = json.loads((tmp_path / "a" / "info").read_text())
    (tmp_path / "a" / "info").write_text(json.dumps({**info, "mesh": "meshes"}))
    with pytest.warns(UserWarning, match=r"mesh is not copied"):
        copied = copy_pyramid(tmp_path / "a", tmp_path / "b")
    assert copied.info["mesh"] == "meshes"


def test_a_scale_outside_of_the_source_is_inside_of_the_copy(tmp_path: Path) -> None:
    make(tmp_path / "shared", scales=1)
    info = json.loads((tmp_path / "shared" / "info").read_text())
    info["scales"][0]["key"] = f"../shared/{KEY}"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "info").write_text(json.dumps(info))
    copied = copy_pyramid(tmp_path / "a", tmp_path / "b" / "c", gzip=False)
    assert copied[0].key == f"shared/{KEY}"
    np.testing.assert_array_equal(read(tmp_path / "b" / "c")[..., 0], voxels_of())
    for inside in ("shared", f"shared/{KEY}", f"shared/{KEY}/sub"):
        with pytest.raises(ValueError, match=r"one inside the other|same place"):
            copy_pyramid(tmp_path / "a", tmp_path / inside, overwrite=True)
    np.testing.assert_array_equal(open_volume(tmp_path / "shared")[0][..., 0], voxels_of())


def test_redirects_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "info").write_text(json.dumps({"redirect": str(tmp_path / "a")}))
    copied = copy_pyramid(tmp_path / "moved", tmp_path / "b")
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


# ------------------------------------------------------------------------------------------- what is in the way


def alike(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Go through names of one place, and of places inside of each other."""
    a = tmp_path / "a"
    (tmp_path / "link").symlink_to(a)
    yield str(a), str(a)
    yield str(a), f"file://{a}/"
    yield str(a), f"{a}/../a"
    yield str(a), str(tmp_path / "link")
    yield str(a), str(a / "copy")
    yield str(a), str(tmp_path)
    yield str(a), str(tmp_path / "link" / KEY)


def test_one_place_or_one_inside_the_other(tmp_path: Path) -> None:
    make(tmp_path / "a")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for source, destination in alike(tmp_path):
        with pytest.raises(ValueError, match=r"same place|one inside the other"):
            copy_pyramid(source, destination, overwrite=True)
    for source, destination in (("s3://b/x", "s3a://b/x/y"), ("gs://b/x/", "gcs://b/x"), ("memory://b", "memory:///b")):
        volume = open_volume(tmp_path / "a")
        volume.pyramid.store.location = FsspecAccessor(source).pyramid.location
        with pytest.raises(ValueError, match=r"same place|one inside the other"):
            copy_pyramid(volume, destination, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("url", "option"),
    [("az://data/brain", "account_name"), ("s3://data/brain", "endpoint_url"), ("sftp://a/b", "port")],
)
def test_containers_of_one_name_in_two_places(tmp_path: Path, url: str, option: str) -> None:
    """Options tell them apart."""
    volume = make(tmp_path)
    one, two = ({option: value, "secret" if "s3" in url else "password": "x"} for value in (9, 10))
    volume.pyramid.store.location = FsspecAccessor(url, storage_options=one).pyramid.location
    accessors = [FsspecAccessor(url, storage_options=options) for options in (one, dict(one), two)]
    place, same, other = (copying_place._place(accessor.pyramid.location) for accessor in accessors)
    assert place == same != other
    with pytest.raises(ValueError, match="are the same place"):
        copy_pyramid(volume, FsspecAccessor(url, storage_options=one))


def test_beside_each_other_is_fine(tmp_path: Path) -> None:
    """One name begins like the other."""
    make(tmp_path / "brain")
    copied = copy_pyramid(tmp_path / "brain", tmp_path / "brain2")
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_one_place_under_two_urls(make_pyramid: Callable[[str], Pyramid], served_folder: Path) -> None:
    """No URL tells that a server serves the destination; that it shows what was written there does."""
    served = make_pyramid("http")
    folder = served_folder / served.url.rpartition("/")[2]
    make(folder)
    before = served.contents()
    with pytest.raises(ValueError, match="are the same place"):
        copy_pyramid(served.url, folder, overwrite=True)
    assert served.contents() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_web_console_is_no_copy_in_the_way(tmp_path: Path, overwrite: bool) -> None:
    """It sends its page whatever it is asked, also to a PUT, and keeps nothing."""
    volume = make(tmp_path / "a", scales=1)
    with servers.fault_server(servers.respond(200, b"<!doctype html>")) as server:
        options: dict[str, Any] = {"storage_options": {"key": "k", "secret": "s"}, "overwrite": overwrite}
        with pytest.raises(InvalidInfoError, match=r"brain/info\.partial: expected JSON, got HTML"):
            copy_pyramid(volume, f"s3+{server.url}/bucket/brain", **options)
        assert {"PUT", "POST", "DELETE"}.isdisjoint(server.log.methods())


def test_a_page_that_was_saved_as_info_is_in_the_way_of_a_copy(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", scales=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "info").write_bytes(b"<!doctype html>")
    with pytest.raises(AlreadyExistsError, match=r"`info` already, but not of a pyramid \(.*HTML.*overwrite=True"):
        copy_pyramid(volume, tmp_path / "b")
    copy_pyramid(volume, tmp_path / "b", overwrite=True, gzip=False)
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


def test_a_pyramid_in_the_way(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", scales=1)
    make(tmp_path / "b", voxels_of() + 1, scales=2)
    (tmp_path / "b" / KEY / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExistsError, match=rf"{tmp_path}/b: there is a pyramid already.*overwrite=True"):
        copy_pyramid(volume, tmp_path / "b")
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before
    copy_pyramid(volume, tmp_path / "b", overwrite=True, verify=True, gzip=False)
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())
    assert present(str(tmp_path / "b")) == present(str(tmp_path / "a"))
    assert (tmp_path / "b" / KEY / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("there", [{"flat": False}, {"flat": False, "gzip": False}, {"sharding": MURMUR}, {}])
def test_whatever_is_in_the_way_goes(pyramid: Pyramid, tmp_path: Path, there: dict[str, Any]) -> None:
    volume = make(tmp_path / "original", scales=1, gzip=False)
    make(pyramid, voxels_of() + 1, chunk_size=(40, 40, 40), **there)
    copied = copy_pyramid(
        volume, pyramid.url, overwrite=True, chunk_size=(80, 50, 40), storage_options=pyramid.storage_options
    )
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    names = [name for name in pyramid.names() if name.startswith(f"{KEY}/")]
    assert [name.removesuffix(".gz") for name in names] == [f"{KEY}/-5-75_7-57_100-140"]


def test_chunks_of_no_known_origin_are_in_the_way(pyramid: Pyramid, tmp_path: Path) -> None:
    volume = make(tmp_path / "original", scales=1)
    pyramid.put(f"{KEY}/-5-11_7-23_100-116", bytes(4096))
    with pytest.raises(AlreadyExistsError, match=f"there are chunks of unknown origin in {KEY}"):
        copy_pyramid(volume, pyramid.url, storage_options=pyramid.storage_options)
    assert pyramid.names() == [f"{KEY}/-5-11_7-23_100-116"]
    copy_pyramid(volume, pyramid.url, storage_options=pyramid.storage_options, overwrite=True)
    url, options = pyramid.url, pyramid.storage_options
    assert present(url, storage_options=options) == present(str(tmp_path / "original"))


def test_more_than_one_listing_shows_goes(
    make_pyramid: Callable[[str], Pyramid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_MOST_LISTED", 10)
    there = make_pyramid("s3")
    for x in range(25):
        there.put(f"{KEY}/{x}-{x + 1}_0-1_0-1", b"old")
    volume = make(tmp_path, scales=1, chunk_size=(80, 50, 40))
    copy_pyramid(volume, there.url, storage_options=there.storage_options, overwrite=True)
    assert there.names() == [f"{KEY}/-5-75_7-57_100-140", "info"]


# --------------------------------------------------------------------------------------------- order, and going on


def failing_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writing of chunks and shards fail after so many, and not before these are written."""
    write, begun, left = jobs.write, itertools.count(), itertools.count(count - 1, -1)
    written = threading.Event()

    def failing(put: Put) -> Job[None]:
        is_data = put.name.startswith(KEY)
        if is_data and next(begun) >= count:
            assert not count or written.wait(DEADLINE)
            message = f"cannot write {put.name}: the disk is full"
            raise DataAccessError(message)
        yield from write(put)
        if is_data and next(left) == 0:
            written.set()

    monkeypatch.setattr(jobs, "write", failing)


@pytest.mark.parametrize("wish", [{}, {"chunk_size": (32, 32, 20)}], ids=["moved", "cut"])
@pytest.mark.parametrize("error", [DataAccessError, KeyboardInterrupt])
def test_the_first_failure_ends_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any], error: type[BaseException]
) -> None:
    volume, begun = make(tmp_path / "a", scales=1), itertools.count()

    def writing(put: Put) -> Job[None]:
        if not put.name.startswith(KEY):
            yield from WRITE(put)
        elif next(begun) != 1:
            yield Pause(DEADLINE)
        elif error is DataAccessError:
            raise error
        else:
            signal.raise_signal(signal.SIGINT)  # of Ctrl-C, in the main thread

    monkeypatch.setattr(jobs, "write", writing)
    began = time.monotonic()
    with pytest.raises(error):
        copy_pyramid(volume, tmp_path / "b", **wish)
    assert time.monotonic() - began < DEADLINE / 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("precomputed_fs copy")]
    assert next(begun) < 60, "not all of them were begun"


def settled(there: Pyramid) -> set[str]:
    """Return the names of what is there, once what was sent before has arrived."""
    names, before = set(there.names()), None
    while names != before:
        time.sleep(0.1)
        names, before = set(there.names()), names
    return names


def test_info_comes_last(make_pyramid: Callable[[str], Pyramid], tmp_path: Path) -> None:
    there = make_pyramid("s3")
    volume = make(tmp_path)
    there.server.log.clear()
    copy_pyramid(volume, there.url, storage_options=there.storage_options)
    changes = [
        (entry.method, entry.path.rpartition("lab/brain/")[2])
        for entry in there.server.log.entries()
        if entry.method in {"PUT", "DELETE", "POST"}
    ]
    assert changes[0] == ("PUT", PARTIAL)
    assert changes[-2:] == [("PUT", "info"), ("DELETE", PARTIAL)]
    assert len(set(changes)) == 3 + sum(len(list((tmp_path / scale.key).iterdir())) for scale in volume)
    assert len(changes) <= len(set(changes)) + 1, "the server is put to the test once, whether it refuses a second one"


@pytest.mark.parametrize("protocol", ["local", "s3", "sftp"])
@pytest.mark.parametrize("flat", [True, False])
def test_a_second_run_does_what_is_missing(
    make_pyramid: Callable[[str], Pyramid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, flat: bool
) -> None:
    volume = make(tmp_path / "original", scales=1)
    chunks = len(present(volume.url))
    there = make_pyramid(protocol)
    options: dict[str, Any] = {"storage_options": there.storage_options, "flat": flat}
    failing_after(20, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, there.url, **options)
    monkeypatch.undo()
    with pytest.raises(NotFoundError):
        open_volume(there.url, storage_options=there.storage_options)
    before = settled(there)
    missing = chunks - len(before - {PARTIAL})
    assert 0 < missing <= chunks - 20
    written: list[str] = []

    def writing(put: Put) -> Job[None]:
        written.append(put.name)
        return WRITE(put)

    monkeypatch.setattr(jobs, "write", writing)
    if protocol == "s3":
        there.server.log.clear()
    copied = copy_pyramid(volume, there.url, **options)
    methods = there.server.log.methods() if protocol == "s3" else []
    assert len(written) == missing + 1
    assert not before.intersection(written)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert set(there.names()) == {"info", *before - {PARTIAL}, *written}
    if protocol == "s3":
        assert methods.count("PUT") <= missing + 2
        assert methods.count("HEAD") <= 8, "of `info`, under the names that it may have; listings tell of chunks"
        assert methods.count("GET") <= 5 * 4 + 10, "a listing for each column of chunks, and some for `info`"


def test_a_second_run_does_the_missing_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(2, monkeypatch)
    with pytest.raises(DataAccessError, match=r"2\.shard: the disk is full"):
        copy_pyramid(volume, tmp_path / "b", sharding=MURMUR)
    monkeypatch.undo()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert len(before) >= 2
    copy_pyramid(volume, tmp_path / "b", sharding=MURMUR, verify=True)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


def test_a_second_run_cuts_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(3, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", chunk_size=(32, 32, 20), gzip=False)
    monkeypatch.undo()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    copy_pyramid(volume, tmp_path / "b", chunk_size=(32, 32, 20), gzip=False)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert len(before) >= 3
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


def test_what_was_only_to_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between storing `info` and deleting what it said before it leaves nothing to be copied."""
    volume = make(tmp_path / "a")
    delete = ObjectStore.delete
    monkeypatch.setattr(ObjectStore, "delete", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        copy_pyramid(volume, tmp_path / "b")
    monkeypatch.setattr(ObjectStore, "delete", delete)
    assert (tmp_path / "b" / PARTIAL).exists()
    monkeypatch.setattr(copies, "put_chunk", None)
    copied = copy_pyramid(volume, tmp_path / "b")
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert not (tmp_path / "b" / PARTIAL).exists()


@pytest.mark.parametrize("other", ["source", "encoding", "chunk_size", "gzip", "flat", "sharding"])
def test_a_part_of_another_copy_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    volume = make(tmp_path / "a", scales=1)
    others: dict[str, dict[str, Any]] = {
        "encoding": {"encoding": "png"},
        "chunk_size": {"chunk_size": (32, 32, 32)},
        "gzip": {"gzip": False},
        "flat": {"flat": False},
        "sharding": {"sharding": True},
    }
    source = make(tmp_path / "other", voxels_of() + 1, scales=1) if other == "source" else volume
    failing_after(0 if other == "sharding" else 5, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(source, tmp_path / "b", **others.get(other, {}))
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExistsError, match=f"a copy of {source.url} to here was begun"):
        copy_pyramid(volume, tmp_path / "b")
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True, verify=True)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert present(str(tmp_path / "b")) == present(str(tmp_path / "a"))
    assert len(list((tmp_path / "b" / KEY).glob("*_*_*"))) == len(present(str(tmp_path / "a")))


def test_what_is_there_already_is_verified_if_asked(tmp_path: Path) -> None:
    """Also where nothing but a word is left to be deleted."""
    volume = make(tmp_path / "a", scales=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "delete", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            copy_pyramid(volume, tmp_path / "b")
    path = next((tmp_path / "b" / KEY).iterdir())
    body = path.read_bytes()
    path.write_bytes(gzip.compress(bytes(4096)))
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/b/{KEY}/"):
        copy_pyramid(volume, tmp_path / "b", verify=True)
    path.write_bytes(body)
    copy_pyramid(volume, tmp_path / "b", verify=True)
    assert not (tmp_path / "b" / PARTIAL).exists()


def meanwhile(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, other: Callable[[], Any]) -> list[Any]:
    """Have another run done at the first call of a function; returns what comes of it."""
    call, results = getattr(place, name), list[Any]()

    def calling(*args: Any, **given: Any) -> Any:
        if not results:
            results.append(None)  # the other run calls it, too
            try:
                results[0] = other()
            except DataAccessError as exc:
                results[0] = exc
        return call(*args, **given)

    monkeypatch.setattr(place, name, calling)
    return results


@pytest.mark.parametrize("wish", [{}, {"sharding": MURMUR}], ids=["chunks", "shards"])
def test_two_runs_of_one_copy_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]) -> None:
    """Each would store `info` in the end."""
    volume = make(tmp_path / "a", scales=1)
    others = meanwhile(monkeypatch, copying_run, "copy_here", lambda: copy_pyramid(volume, tmp_path / "b", **wish))
    copied = copy_pyramid(volume, tmp_path / "b", **wish)
    for each in (copied, *others):
        np.testing.assert_array_equal(each[0][..., 0], voxels_of())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [KEY, "info"]


def broken_copy(tmp_path: Path) -> Path:
    """Make a pyramid of which no copy gets to its end."""
    make(tmp_path / "broken", scales=1, gzip=False)
    (tmp_path / "broken" / KEY / "59-75_39-55_132-140").write_bytes(b"short")
    return tmp_path / "broken"


@pytest.mark.parametrize("is_through", [True, False])
def test_two_copies_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_through: bool) -> None:
    """What another one has taken the place of, from another machine, is not called whole."""
    volume = make(tmp_path / "a", scales=1)
    source = str(make(tmp_path / "other", scales=2).url if is_through else broken_copy(tmp_path))

    def elsewhere() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "_machine", lambda: "another one")
            return copy_pyramid(source, tmp_path / "b", overwrite=True)

    others = meanwhile(monkeypatch, copying_run, "copy_here", elsewhere)
    with pytest.raises(AlreadyExistsError, match=f"{tmp_path}/b"):
        copy_pyramid(volume, tmp_path / "b")
    assert isinstance(others[0], Volume if is_through else CorruptDataError)
    assert (tmp_path / "b" / "info").exists() == is_through
    if is_through:
        assert len(open_volume(tmp_path / "b")) == 2
    else:
        assert json.loads((tmp_path / "b" / PARTIAL).read_text())["source"] == source


def test_a_copy_that_is_under_way_on_this_machine_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks would go among those of the other one."""
    volume, source = make(tmp_path / "a", scales=1), make(tmp_path / "other", voxels_of() + 1, scales=1)
    again = functools.partial(copy_pyramid, source, tmp_path / "b", overwrite=True)
    others = meanwhile(monkeypatch, copying_run, "copy_here", again)
    np.testing.assert_array_equal(copy_pyramid(volume, tmp_path / "b")[0][..., 0], voxels_of())
    assert isinstance(others[0], AlreadyExistsError)
    assert re.search(rf"/b: a copy of {volume.url} .* by process {os.getpid()} .* still at it", str(others[0]))
    np.testing.assert_array_equal(copy_pyramid(source, tmp_path / "b", overwrite=True)[0][..., 0], voxels_of() + 1)


def test_two_copies_that_begin_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find nothing there; one is the first to say what will be."""
    volume, source = make(tmp_path / "a", scales=1), broken_copy(tmp_path)
    for place, mine in (("b", volume), ("c", open_volume(source))):
        with monkeypatch.context() as patch:
            other = functools.partial(copy_pyramid, source, tmp_path / place)
            others = meanwhile(patch, Claim, "take", other)
            with pytest.raises(AlreadyExistsError if place == "b" else CorruptDataError):
                copy_pyramid(mine, tmp_path / place)
            assert isinstance(others[0], CorruptDataError)
        assert json.loads((tmp_path / place / PARTIAL).read_text())["source"] == str(source)


@pytest.mark.parametrize("said", [b"{", b"[]", b"{}", b"\xff"])
def test_whatever_else_is_said_is_not_this_copy(tmp_path: Path, said: bytes) -> None:
    volume = make(tmp_path / "a", scales=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / PARTIAL).write_bytes(said)
    with pytest.raises(AlreadyExistsError, match="a copy of something to here was begun"):
        copy_pyramid(volume, tmp_path / "b")
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_to_where_nothing_may_be_listed(
    make_pyramid: Callable[[str], Pyramid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 says 403, not 404, of what is absent to who may not list."""
    there = make_pyramid("s3")
    volume = make(tmp_path, scales=1)
    listing, reading = ObjectStore.list_names, ObjectStore.read

    def denied(self: ObjectStore, name: str, *args: Any) -> Any:
        if self.location.links[0].protocol == "file":
            return listing(self, name, *args)
        raise AccessDeniedError(name)

    def denying(self: ObjectStore, name: str, *args: Any, **options: Any) -> Any:
        try:
            return reading(self, name, *args, **options)
        except NotFoundError as exc:
            if self.location.links[0].protocol == "file":
                raise
            raise AccessDeniedError(name) from exc

    failing_after(10, monkeypatch)
    monkeypatch.setattr(ObjectStore, "list_names", denied)
    monkeypatch.setattr(ObjectStore, "read", denying)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, there.url, storage_options=there.storage_options, gzip=True)
    monkeypatch.setattr(jobs, "write", WRITE)
    before = settled(there)
    there.server.log.clear()
    copy_pyramid(volume, there.url, storage_options=there.storage_options, gzip=True)
    puts = [entry.path for entry in there.server.log.entries() if entry.method == "PUT"]
    assert not any(path.endswith(tuple(name for name in before if name.startswith(KEY))) for path in puts)
    monkeypatch.undo()
    assert present(there.url, storage_options=there.storage_options) == present(str(tmp_path))


def test_clearing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run that was ended while it deleted has left is of the old pyramid."""
    volume = make(tmp_path / "a", scales=1)
    make(tmp_path / "b", voxels_of() + 1, scales=1)
    deleted: list[str] = []
    delete = copies._deleting

    def failing(name: str) -> Job[list[None]]:
        deleted.append(name)
        if len(deleted) > 10:
            raise AccessDeniedError(name)
        return (yield from delete(name))

    monkeypatch.setattr(copies, "_deleting", failing)
    with pytest.raises(AccessDeniedError):
        copy_pyramid(volume, tmp_path / "b", overwrite=True)
    monkeypatch.undo()
    assert not (tmp_path / "b" / "info").exists()
    with pytest.raises(AlreadyExistsError, match="was begun"):
        copy_pyramid(volume, tmp_path / "b")
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert present(str(tmp_path / "b")) == present(str(tmp_path / "a"))


def test_overwriting_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call again keeps what the first has copied, and nothing that was there before."""
    volume = make(tmp_path / "a", scales=1)
    make(tmp_path / "b", voxels_of() + 1, scales=1)
    failing_after(10, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", overwrite=True)
    monkeypatch.undo()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert len(before) >= 10
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_a_source_that_fails_is_named(tmp_path: Path) -> None:
    make(tmp_path / "a", scales=1, gzip=False)
    served = servers.files(tmp_path)
    broken = "27-43_39-55_116-132"

    async def handler(request: Any) -> Any:
        return await (servers.respond(403) if request.path.endswith(broken) else served)(request)

    with servers.fault_server(handler) as server:
        with pytest.raises(AccessDeniedError, match=rf"{server.url}/a/{KEY}/{broken}"):
            copy_pyramid(f"{server.url}/a", tmp_path / "b")
        assert not (tmp_path / "b" / "info").exists()
    with servers.http_server(tmp_path) as server, pytest.raises(AlreadyExistsError):
        copy_pyramid(f"{server.url}/a", tmp_path / "b")  # of another port


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    make(tmp_path / "a", scales=1, gzip=False)
    (tmp_path / "a" / KEY / "27-43_39-55_116-132").write_bytes(b"short")
    for wish in ({"encoding": "png"}, {"chunk_size": (32, 32, 32)}):
        with pytest.raises(CorruptDataError, match=rf"{tmp_path}/a/{KEY}/27-43_39-55_116-132"):
            copy_pyramid(tmp_path / "a", tmp_path / f"b{len(wish)}", overwrite=True, **wish)


@pytest.mark.parametrize(("stored", "length"), [("plain", 0), ("plain", 4095), ("identity", 4095), ("folders", 4097)])
@pytest.mark.parametrize("wish", [{}, {"gzip": True}, {"sharding": MURMUR}], ids=str)
def test_a_chunk_of_another_length_is_not_moved(tmp_path: Path, stored: str, length: int, wish: dict[str, Any]) -> None:
    """Of what is compressed, the length is known where it is verified."""
    volume = make(tmp_path / "a", scales=1, **STORED.get(stored, {"flat": False}))
    volume.accessor.store_chunk(b"." * length, KEY, (27, 43, 39, 55, 116, 132), overwrite=True)
    volume.accessor.flush()
    with pytest.raises(CorruptDataError, match=rf"{tmp_path}/a/{KEY}/.* of 4096 bytes is {length} bytes long"):
        copy_pyramid(tmp_path / "a", tmp_path / "b", verify=stored == "folders", **wish)
    assert not (tmp_path / "b" / "info").exists()


def test_a_chunk_without_bytes_is_not_moved(tmp_path: Path) -> None:
    """Whatever its encoding is; in a shard, it would be absent."""
    make(tmp_path / "a", scales=1, encoding="png")
    (tmp_path / "a" / KEY / "27-43_39-55_116-132").write_bytes(b"")
    for sharding in (None, True):
        with pytest.raises(CorruptDataError, match=rf"{tmp_path}/a/{KEY}/27-43_39-55_116-132: .* 0 bytes"):
            copy_pyramid(tmp_path / "a", tmp_path / f"b{sharding}", sharding=sharding)


def test_a_chunk_that_cannot_be_encoded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)

    def refuse(*_: Any) -> bytes:
        raise ValueError("too many colours")

    monkeypatch.setattr(Codec, "encode", refuse)
    with pytest.raises(DataAccessError, match=rf"{tmp_path}/b/{KEY}/.* cannot be encoded: too many colours"):
        copy_pyramid(volume, tmp_path / "b", encoding="png")


CHILD = """
import sys
from precomputed_fs import copy_pyramid
copy_pyramid(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
"""


@pytest.mark.parametrize(
    "wish", [{}, {"sharding": WRAPPED}, {"chunk_size": (24, 24, 24)}], ids=["moved", "shards", "cut"]
)
def test_a_killed_run_loses_nothing(tmp_path: Path, wish: dict[str, Any]) -> None:
    array = voxels_of(size=(100, 90, 80))
    make(tmp_path / "a", array, scales=1, gzip=False)
    with servers.fault_server(servers.latency(0.03, servers.files(tmp_path))) as server:
        arguments = [f"{server.url}/a", str(tmp_path / "b"), repr({**wish, "gzip": False})]
        kills, before = 0, {}
        for round_ in range(1, 3):
            with servers.child([sys.executable, "-c", CHILD, *arguments]) as child:
                wait_for_chunks(tmp_path / "b", round_, child)
                child.send_signal(signal.SIGKILL)
            if child.returncode == 0:  # it was faster
                break
            kills += 1
            assert not (tmp_path / "b" / "info").exists()
            before = {path: path.stat().st_ino for path in (tmp_path / "b").glob(f"{KEY}/[!.]*")}
        assert kills
        if not (tmp_path / "b" / "info").exists():
            copy_pyramid(f"{server.url}/a", tmp_path / "b", gzip=False, **wish)
    assert {path: path.stat().st_ino for path in before} == before
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], array)


def wait_for_chunks(folder: Path, count: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE
    while len(list(folder.glob(f"{KEY}/[!.]*"))) < count and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


# -------------------------------------------------------------------------------------------------------- verifying


def damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one object be written otherwise than it is given: a byte of the data is another one."""
    write = jobs.write
    damaged: list[str] = []

    def writing(put: Put) -> Job[None]:
        body = bytearray(put.data[:])
        if put.name.startswith(KEY) and not damaged:
            damaged.append(put.name)
            body[-40 if put.name.endswith(".shard") else len(body) // 2] ^= 1
        return write(replace(put, data=bytes(body)))

    monkeypatch.setattr(jobs, "write", writing)


@pytest.mark.parametrize(
    "wish",
    [
        {"gzip": False},
        {"chunk_size": (40, 25, 20), "gzip": False},
        {"encoding": "compressed_segmentation", "gzip": False},
        {"sharding": {**IDENTITY, "minishard_index_encoding": "raw", "shard_bits": 4, "minishard_bits": 0}},
    ],
    ids=["moved", "cut", "encoded", "shards"],
)
def test_verifying_finds_a_wrong_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]) -> None:
    volume = make(tmp_path / "a", voxels_of("uint32"), scales=1)
    damage(monkeypatch)
    copy_pyramid(volume, tmp_path / "unnoticed", **wish)
    damage(monkeypatch)
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/b/{KEY}"):
        copy_pyramid(volume, tmp_path / "b", verify=True, **wish)
    assert not (tmp_path / "b" / "info").exists()


@pytest.mark.parametrize(
    "wish", [{}, {"sharding": MURMUR}, {"chunk_size": (32, 32, 32)}], ids=["moved", "shards", "cut"]
)
def test_verifying_includes_what_an_earlier_run_has_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(2, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", **wish)
    monkeypatch.undo()
    other = make(tmp_path / "other", voxels_of()[::-1], scales=1)
    copy_pyramid(other, tmp_path / "c", **wish)
    path = next((tmp_path / "b" / KEY).iterdir())
    same = tmp_path / "c" / KEY / path.name
    path.write_bytes(same.read_bytes() if same.exists() else gzip.compress(bytes(4096)))
    with pytest.raises(
        CorruptDataError, match=f"{tmp_path}/b/{KEY}/.*(differs from what was copied|it is missing|it exists, but not)"
    ):
        copy_pyramid(volume, tmp_path / "b", verify=True, **wish)


@pytest.mark.parametrize("wish", [{}, {"chunk_size": (16, 16, 20)}], ids=["moved", "cut"])
def test_verifying_finds_what_is_not_at_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(2, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", **wish)
    monkeypatch.undo()
    name = f"-5-11_7-23_100-{120 if wish else 116}"
    (tmp_path / "b" / KEY / name).write_bytes(bytes(16 * 16 * (20 if wish else 16)))
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/b/{KEY}/.*it exists, but not at the source"):
        copy_pyramid(volume, tmp_path / "b", verify=True, **wish)


def test_verifying_what_is_encoded_with_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    copy_pyramid(volume, tmp_path / "b", encoding="jpeg", verify=True)
    encode = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda self, voxels: encode(self, voxels)[:-50])
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/c/{KEY}"):
        copy_pyramid(volume, tmp_path / "c", encoding="jpeg", verify=True)


# --------------------------------------------------------------------------------------------------------- progress


def test_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    copy_pyramid(volume, tmp_path / "b")
    assert capsys.readouterr() == ("", "")
    put = copies.put_chunk

    def slowly(*args: Any, **given: Any) -> int:
        time.sleep(0.02)
        return put(*args, **given)

    monkeypatch.setattr(copies, "put_chunk", slowly)
    copy_pyramid(volume, tmp_path / "c", progress=True)
    shown = capsys.readouterr().err
    assert f"copying to {tmp_path}/c" in shown
    assert "60/60" in shown
    assert "B/s" in shown
    assert "<00:0" in shown, "the time that remains"


# ----------------------------------------------------------------------------------------------------------- memory


MEASURE = """
import resource, sys
import numpy
from precomputed_fs import copy_pyramid, open_volume
volume = open_volume(sys.argv[1])
copy_pyramid(volume, sys.argv[2] + "0", scales=[-1], **eval(sys.argv[3]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
copy_pyramid(volume, sys.argv[2], scales=[0], **eval(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("wish", [{"sharding": True}, {"chunk_size": (128, 64, 32)}], ids=["shards", "cut"])
def test_memory_is_bounded(tmp_path: Path, wish: dict[str, Any]) -> None:
    """Voxels of half a gigabyte, which stored are next to nothing."""
    size, small = (512, 1024, 1024), (64, 64, 64)
    scales = [
        scale_of(key=key, size=each, chunk_sizes=[small], voxel_offset=(0, 0, 0))
        for key, each in ((KEY, size), ("16_16_16", small))
    ]
    volume = create_volume(tmp_path / "a", info_of(scales), gzip=True)
    volume[1][...] = 1
    chunk = next((tmp_path / "a" / "16_16_16").iterdir()).read_bytes()
    (tmp_path / "a" / KEY).mkdir()
    for x0, x1, y0, y1, z0, z1 in Touched(volume[0].grid, (range(512), range(1024), range(1024))):
        (tmp_path / "a" / KEY / f"{x0}-{x1}_{y0}-{y1}_{z0}-{z1}.gz").write_bytes(chunk)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "a"), str(tmp_path / "b"), repr(wish)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 320 << 20
    copied = open_volume(tmp_path / "b")[0]
    assert copied[400:500, 1000, 3].all()


def test_nothing_is_made_for_all_chunks_at_once(tmp_path: Path) -> None:
    """Of 10**12 chunks, the first ones fail."""
    scale = scale_of(size=[10**6, 10**6, 10**6], chunk_sizes=[[100, 100, 100]], voxel_offset=[0, 0, 0])
    volume = create_volume(tmp_path / "a", info_of([scale]))
    (tmp_path / "a" / KEY).mkdir()
    (tmp_path / "a" / KEY / "0-100_0-100_300-400.gz").write_bytes(b"not gzip")
    for wish in ({"gzip": False}, {"encoding": "png"}, {"sharding": True}):
        began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CorruptDataError, match="0-100_0-100_300-400"):
            copy_pyramid(volume, tmp_path / f"b{len(str(wish))}", verify=True, **wish)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 200_000


# ------------------------------------------------------------------------------------------------------------- dask


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = importlib.import_module("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as made,
    ):
        yield made


@pytest.mark.parametrize("wish", ["plain", "murmur", "larger in shards"])
def test_on_a_cluster(make_pyramid: Callable[[str], Pyramid], tmp_path: Path, client: Any, wish: str) -> None:
    there = make_pyramid("s3")
    volume = make(tmp_path / "a", voxels_of()[:48], scales=2)
    copied = copy_pyramid(
        volume, there.url, client=client, verify=True, storage_options=there.storage_options, **WISHES[wish]
    )
    back = copy_pyramid(copied, tmp_path / "b", client=client, gzip=False)
    for i, scale in enumerate(volume):
        np.testing.assert_array_equal(read(tmp_path / "b", i), scale[...])
    assert len(back) == len(volume)


def test_what_is_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"client: expected a distributed\.Client, got str"):
        copy_pyramid(make(tmp_path / "a"), tmp_path / "b", client="tcp://127.0.0.1:8786")
    assert not (tmp_path / "b").exists()


def test_what_other_processes_cannot_reach(make_pyramid: Callable[[str], Pyramid], tmp_path: Path, client: Any) -> None:
    volume, there = make(tmp_path / "a", scales=1), make_pyramid("memory")
    with pytest.raises(ValueError, match="memory:// belongs to one process"):
        copy_pyramid(volume, there.url, client=client)
    assert there.names() == [PARTIAL]
    with pytest.raises(ValueError, match="one process"):
        copy_pyramid(volume, f"zip://b::{tmp_path}/b.zip", client=client, storage_options={"zip": {"mode": "w"}})


def test_a_failure_on_a_cluster(tmp_path: Path, client: Any) -> None:
    volume = make(tmp_path / "a", scales=1, gzip=False, sharding=False)
    broken = tmp_path / "a" / KEY / "27-43_39-55_116-132"
    body = broken.read_bytes()
    broken.write_bytes(b"short")
    with pytest.raises(CorruptDataError, match=f"{broken}"):
        copy_pyramid(volume, tmp_path / "b", client=client, encoding="png", sharding=WRAPPED)
    assert not (tmp_path / "b" / "info").exists()
    broken.write_bytes(body)
    copy_pyramid(volume, tmp_path / "b", client=client, encoding="png", sharding=WRAPPED)
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


# ----------------------------------------------------------------------------------------------------- command line


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command; returns its exit code, and what it prints to stdout and stderr."""

    def running(*arguments: Any) -> tuple[int, str, str]:
        try:
            code = __main__.main(["copy", *map(str, arguments)])
        except SystemExit as exc:  # of argparse
            code = int(exc.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return running


def test_the_command(tmp_path: Path, run: Run) -> None:
    volume = make(tmp_path / "a")
    wish = ["--no-gzip", "--scale", KEY, "--chunk-size", 32, 32, 20, "--verify"]
    assert run(tmp_path / "a", tmp_path / "b", *wish) == (0, "", "")
    np.testing.assert_array_equal(read(tmp_path / "b"), volume[0][...])
    message = f"{tmp_path}/b: there is a pyramid already; overwrite=True deletes that first"
    assert run(tmp_path / "a", tmp_path / "b") == (1, "", f"precomputed-fs: error: {message}\n")
    assert run(tmp_path / "a", tmp_path / "b", "--overwrite", "--sharding", "auto") == (0, "", "")
    np.testing.assert_array_equal(read(tmp_path / "b", 1), volume[1][...])


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", scales=1)
    command = [sys.executable, "-m", "precomputed_fs", "copy", str(tmp_path / "a"), str(tmp_path / "b"), "--no-gzip"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    np.testing.assert_array_equal(read(tmp_path / "b"), volume[0][...])


def test_the_command_encodes(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "a", scales=1)
    (tmp_path / "sharding").write_text(json.dumps(IDENTITY))
    wish = ["--encoding", "jpeg", "--parameter", "jpeg_quality=33", "--sharding", f"@{tmp_path}/sharding"]
    assert run(tmp_path / "a", tmp_path / "b", *wish) == (0, "", "")
    info = open_volume(tmp_path / "b")[0].info
    assert (info.encoding, info["jpeg_quality"], info["sharding"]) == ("jpeg", 33, IDENTITY)
    assert np.abs(read(tmp_path / "b")[..., 0].astype(int) - voxels_of()).mean() < 40


def test_the_command_tells_both_sides_apart(make_pyramid: Callable[[str], Pyramid], tmp_path: Path, run: Run) -> None:
    original, copy = make_pyramid("s3"), make_pyramid("s3")
    make(original, chunk_size=(40, 40, 40))
    options = tmp_path / "options.json"
    options.write_text(json.dumps({**original.storage_options, "key": "wrong"}))
    endpoint = f"endpoint_url={original.storage_options['endpoint_url']}"
    done = run(
        original.url, copy.url, "--storage-options", f"@{options}", "--source-storage-options", "key=test",
        "--destination-storage-options", json.dumps({"key": "test"}), "--destination-storage-options", endpoint,
        "--attempts", 2,
    )  # fmt: skip
    assert done == (0, "", "")
    assert copy.contents() == original.contents()


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["--parameter", "jpeg_quality=3"]),
        (2, ["--encoding", "gif"]),
        (2, ["--encoding", "jpeg", "--parameter", "png_level=3"]),
        (2, ["--parameter", "three"]),
        (2, ["--sharding", "always"]),
        (2, ["--sharding", "@/nowhere"]),
        (2, ["--sharding", "[]"]),
        (2, ["--sharding", "{}"]),
        (2, ["--scale", "1_1_1"]),
        (1, ["--dask", "tcp://127.0.0.1:9", "--timeout", "0.5"]),
    ],
)
def test_the_command_refuses(tmp_path: Path, run: Run, code: int, arguments: list[str]) -> None:
    make(tmp_path / "a", scales=1)
    returned, out, error = run(tmp_path / "a", tmp_path / "b", *arguments)
    assert (returned, out) == (code, "")
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(("precomputed-fs: error: ", "precomputed-fs copy: error: "))
    assert not (tmp_path / "b").exists()


def test_the_command_says_what_is_not_there(tmp_path: Path, run: Run) -> None:
    code, _, error = run(tmp_path / "nothing", tmp_path / "b")
    assert code == 3
    assert f"{tmp_path}/nothing/info" in error
