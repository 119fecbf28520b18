"""Copies of a region: the same voxels at the same coordinates, in chunks that are copied as they are where possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import AlreadyExistsError, Volume, copy_pyramid, create_volume, open_volume
from precomputed_fs.codecs import Codec
from precomputed_fs.format.grid import Box, ChunkCoords
from tests.copying.samples import OFFSET, STORED, WISHES, make, read, voxels_of

if TYPE_CHECKING:
    from pathlib import Path

BOXES = {
    "aligned": Box((11, 23, 100), (43, 55, 132)),
    "begins at a chunk": Box((11, 23, 100), (75, 57, 140)),
    "cuts chunks": Box((-3, 9, 101), (70, 50, 127)),
    "one voxel": Box((70, 50, 130), (71, 51, 131)),
    "everything": Box(OFFSET, (75, 57, 140)),
}


def coords_of(box: Box) -> ChunkCoords:
    (x0, y0, z0), (x1, y1, z1) = box.start, box.stop
    return x0, x1, y0, y1, z0, z1


def source(folder: Path, **options: Any) -> Volume:
    volume: Volume = make(
        folder, voxels_of(), **{"scales": 3, "skip_empty": True, "chunk_size": (16, 16, 16), **options}
    )
    return volume


@pytest.mark.parametrize(
    ("stored", "box"),
    [*(("plain", name) for name in BOXES), *((name, "cuts chunks") for name in STORED if name != "plain")],
)
def test_a_region_has_the_same_voxels_at_the_same_coordinates(tmp_path: Path, stored: str, box: str) -> None:
    region = BOXES[box]
    volume = source(tmp_path / "a", **STORED[stored])
    copied = copy_pyramid(volume, tmp_path / "b", box=region, verify=True)
    assert copied[0].bounds == region
    for i, (scale, whole) in enumerate(zip(copied, volume, strict=True)):
        assert all(abs(2**i * low - first) < 2**i for low, first in zip(scale.bounds.start, region.start, strict=True))
        assert np.array_equal(scale[...], whole[scale.bounds])
        np.testing.assert_array_equal(read(tmp_path / "b", i), whole[scale.bounds])  # by tensorstore
    again = open_volume(tmp_path / "b")
    again.downsample()  # it is a pyramid that can be computed
    assert np.array_equal(copied[0][...], volume[0][region])


@pytest.mark.parametrize("wish", WISHES)
def test_a_region_may_be_stored_differently(tmp_path: Path, wish: str) -> None:
    volume = source(tmp_path / "a", scales=1)
    for name in ("begins at a chunk", "cuts chunks"):
        copied = copy_pyramid(volume, tmp_path / name, box=BOXES[name], verify=True, **WISHES[wish])
        assert np.array_equal(copied[0][...], volume[0][BOXES[name]])
        np.testing.assert_array_equal(read(tmp_path / name, 0), volume[0][BOXES[name]])


@pytest.mark.parametrize("sharding", [False, True])
def test_chunks_that_the_box_does_not_cut_are_copied_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharding: bool
) -> None:
    volume = make(tmp_path / "a", np.maximum(voxels_of(), 1), encoding="jpeg", scales=1)
    encoded: list[tuple[int, ...]] = []
    encode = Codec.encode

    def noting(self: Codec, array: Any) -> bytes:
        encoded.append(array.shape[:3])
        return encode(self, array)

    monkeypatch.setattr(Codec, "encode", noting)
    box = Box((11, 23, 100), (50, 55, 140))
    copied = copy_pyramid(volume, tmp_path / "b", box=box, sharding=sharding, verify=True)
    chunks = list(copied[0].chunks())
    whole = [chunk for chunk in chunks if chunk.stop[0] < 50]
    key = copied[0].key
    for chunk in map(coords_of, whole):
        assert copied.accessor.fetch_chunk(key, chunk) == volume.accessor.fetch_chunk(key, chunk)
    assert len(encoded) == len(chunks) - len(whole) > 0
    assert {shape[0] for shape in encoded} == {7}


def test_another_region_is_another_copy(tmp_path: Path) -> None:
    volume = source(tmp_path / "a")
    copied = copy_pyramid(volume, tmp_path / "b", box=np.s_[11:43], scales=[1])
    assert [scale.key for scale in copied] == [volume[1].key]
    assert copied[0].shape[0] == 17
    with pytest.raises(AlreadyExistsError):
        copy_pyramid(volume, tmp_path / "b", box=np.s_[11:27], scales=[1])
    assert copy_pyramid(volume, tmp_path / "b", box=np.s_[11:27], scales=[1], overwrite=True)[0].shape[0] == 9
    with pytest.raises(IndexError, match="is not inside of"):
        copy_pyramid(volume, tmp_path / "c", box=np.s_[-50:27])
    with pytest.raises(ValueError, match="box: expected at least one voxel"):
        copy_pyramid(volume, tmp_path / "c", box=np.s_[5:5])
    assert not (tmp_path / "c").exists()


def test_a_region_is_whole() -> None:
    voxels = np.ones((8, 8, 8, 2), np.uint8)
    volume = create_volume("memory://tests/copying/whole", voxels, resolution=8, type="image")
    for box, message in (
        (np.s_[0:8:2], "box: expected a region without steps, got 0:8:2"),
        (np.s_[..., 0], "box: expected all channels"),
        (np.s_[3:3], "box: expected at least one voxel"),
    ):
        with pytest.raises(ValueError, match=message):
            copy_pyramid(volume, "memory://tests/copying/whole-copy", box=box)
    assert copy_pyramid(volume, "memory://tests/copying/whole-copy", box=np.s_[5:2:-1, 4])[0].shape == (3, 1, 8, 2)
