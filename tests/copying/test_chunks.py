"""Which bytes are moved as they are, and how they are compressed."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from typing import TYPE_CHECKING, Any

import brotli
import imagecodecs
import numpy as np
import pytest

from precomputed_fs import (
    copy_pyramid,
    create_volume,
    open_volume,
)
from precomputed_fs.codecs import Codec
from tests.copying.samples import IDENTITY, KEY, MURMUR, info_of, make, read, scale_of, voxels_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to compress or decompress."""

    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("gzip was done or undone")

    for module in ("copies", "storing", "shard_writer"):
        monkeypatch.setattr(f"precomputed_fs.pyramid.{module}.gzip_compress", refuse)
    for name in ("decode", "decode_gzip_or_zlib"):
        monkeypatch.setattr(f"precomputed_fs.pyramid.stored.{name}", refuse)


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


@pytest.mark.parametrize("wish", [{}, {"chunk_size": (48, 50, 24)}], ids=["moved", "cut"])
@pytest.mark.parametrize("stored", ["s3", "shards"])
def test_what_every_reader_finds_is_not_hidden_by_a_suffix(
    make_pyramid: Callable[[str], Place], tmp_path: Path, stored: str, wish: dict[str, Any]
) -> None:
    """What is compressed in a bucket or in shards, all read; files named .gz are zeros to tensorstore."""
    there = make_pyramid("s3")
    array = voxels_of(size=(48, 50, 24))
    volume = make(there, array, scales=1, sharding=stored == "shards")
    options: dict[str, Any] = {"sharding": False, **wish}
    copied = copy_pyramid(volume, tmp_path / "copy", verify=True, **options)
    np.testing.assert_array_equal(read(tmp_path / "copy")[..., 0], array)
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
