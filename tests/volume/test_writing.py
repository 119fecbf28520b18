"""Writes: whole chunks, parts of chunks, and chunks of zeros."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs import (
    CorruptDataError,
    open_volume,
)
from tests.volume.samples import absolute_index, chunk_files, make, shifted, voxels


@given(index=absolute_index(), seed=st.integers(0, 99))
@pytest.mark.parametrize("sharding", [False, True])
def test_a_written_box_is_read_back_and_the_rest_is_kept(sharding: bool, index: Any, seed: int) -> None:
    volume = make("memory://tests/volume/written", sharding=sharding)
    items = index if isinstance(index, tuple) else ()
    index = tuple(slice(item.start, item.stop) if isinstance(item, slice) else item for item in items) or ...
    expected = voxels()
    value = np.random.default_rng(seed).integers(0, 9, expected[shifted(index)].shape).astype(np.uint16)
    expected[shifted(index)] = value
    volume[0][index] = value
    assert np.array_equal(open_volume("memory://tests/volume/written")[0][...], expected)


def test_whole_chunks_are_written_without_being_read(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    (tmp_path / "8_8_40/11-27_15-23_100-109").write_bytes(b"broken")
    scale = open_volume(tmp_path, gzip=False)[0]
    scale[11:27, 15:23, 100:109] = 3
    assert (scale[11:27, 15:23, 100:109] == 3).all()
    (tmp_path / "8_8_40/11-27_15-23_100-109").write_bytes(b"broken")
    with pytest.raises(CorruptDataError, match="11-27_15-23_100-109"):
        scale[12:27, 15:23, 100:109] = 3


def test_zeros_are_stored_unless_skipped(tmp_path: Path) -> None:
    array = voxels()
    array[:16] = 0
    make(tmp_path / "a", array)
    assert len(chunk_files(tmp_path / "a")) == 45
    make(tmp_path / "b", array, skip_empty=True)
    assert len(chunk_files(tmp_path / "b")) == 30
    assert np.array_equal(open_volume(tmp_path / "b")[0][...], array)


def test_a_negative_zero_is_not_skipped() -> None:
    array = np.zeros((45, 33, 20, 1), np.float32)
    array[20, 20, 10] = -0.0
    scale = make("memory://tests/volume/negative", array, skip_empty=True)[0]
    assert np.array_equal(np.signbit(scale[...]), np.signbit(array))
    scale.write(np.s_[0:10], np.float32(-0.0), skip_empty=True)
    assert np.signbit(scale[0:10]).all()


@pytest.mark.parametrize("sharding", [False, True])
def test_skipped_zeros_still_replace_existing_voxels(tmp_path: Path, sharding: bool) -> None:
    scale = make(tmp_path, sharding=sharding)[0]
    scale.write(np.s_[0:30], 0, skip_empty=True)
    expected = voxels()
    expected[5:35] = 0
    assert np.array_equal(open_volume(tmp_path)[0][...], expected)


def test_changes_to_zeros_pickle_small(tmp_path: Path) -> None:
    """Tasks send changes, and buffers keep them: they must not carry the volume along."""
    scale = make(tmp_path, np.zeros((64, 64, 64), np.uint8), chunk_size=(64, 64, 32))[0]
    given = list(scale.encoded(..., 0, skip_empty=True))
    assert len(pickle.dumps(given)) < 2000


@pytest.mark.parametrize("skip_empty", [False, True])
def test_many_partly_covered_chunks_are_written(skip_empty: bool) -> None:
    """More than are in flight at once."""
    array = np.zeros((1600, 8, 8), np.uint8)
    url = f"memory://tests/volume/many-{skip_empty}"
    scale = make(url, array, voxel_offset=(0, 0, 0), chunk_size=(8, 8, 8), skip_empty=skip_empty)[0]
    scale.write(np.s_[:, 2:5], 7, skip_empty=skip_empty)
    array[:, 2:5] = 7
    assert np.array_equal(scale[...][..., 0], array)
