"""Copies stored differently: encodings, chunk sizes, shards; read by tensorstore."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    DataAccessError,
    FsspecAccessor,
    copy_pyramid,
)
from precomputed_fs.codecs import Codec
from precomputed_fs.pyramid.claims import PARTIAL
from precomputed_fs.store import jobs
from tests.copying.samples import (
    IDENTITY,
    KEY,
    MURMUR,
    STORED,
    WISHES,
    WRITE,
    failing_after,
    info_of,
    make,
    present,
    read,
    scale_of,
    voxels_of,
)

if TYPE_CHECKING:
    from pathlib import Path


UNSHARDED = [name for name, options in STORED.items() if "sharding" not in options]
SHARDED = [name for name, options in STORED.items() if "sharding" in options]


@pytest.mark.parametrize(
    ("stored", "wish"),
    [(stored, wish) for i, wish in enumerate(WISHES) for stored in (UNSHARDED[i % 3], SHARDED[i % 2])],
)
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
