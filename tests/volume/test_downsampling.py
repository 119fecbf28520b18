"""Lower scales: what each voxel is made of, against brute force."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from precomputed_fs import create_volume
from precomputed_fs.format.grid import Box
from precomputed_fs.volume.downsampling import downsample, factors_for
from tests.volume.samples import make

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


def rounded_mean(values: list[int]) -> int:
    return (2 * sum(values) + len(values)) // (2 * len(values))


def smallest_mode(values: list[int]) -> int:
    counts = Counter(values)
    return min(value for value, count in counts.items() if count == max(counts.values()))


EXPECTED: dict[str, Callable[[list[int]], int]] = {
    "average": rounded_mean,
    "mode": smallest_mode,
    "stride": lambda values: values[0],
}


def blocks(array: NDArray[Any], factors: tuple[int, ...]) -> NDArray[Any]:
    """Return an object array of lists: the voxels of each block; those that are not there, as their neighbours."""
    shape = [math.ceil(size / factor) for size, factor in zip(array.shape, factors, strict=True)]
    found = np.empty(shape, object)
    for cell in np.ndindex(*shape):
        corners = itertools.product(*map(range, factors))
        places = (
            tuple(min(i * f + d, n - 1) for i, f, d, n in zip(cell, factors, corner, array.shape, strict=True))
            for corner in corners
        )
        found[cell] = [int(array[place]) for place in places]
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[Any], tuple[int, int, int]]:
    dtype: np.dtype[Any] = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3, st.integers(1, 2)))
    factors = draw(st.tuples(*[st.sampled_from([1, 2])] * 3))
    bounds = np.iinfo(dtype)
    few = st.sampled_from([0, 1, int(bounds.max), int(bounds.min), int(bounds.max) - 1])
    values = draw(
        st.lists(few | st.integers(bounds.min, bounds.max), min_size=math.prod(shape), max_size=math.prod(shape))
    )
    return np.array(values, dtype).reshape(shape, order="F"), factors


@pytest.mark.parametrize("method", EXPECTED)
@given(case=cases())
def test_each_voxel_is_made_of_its_block(method: str, case: tuple[NDArray[Any], tuple[int, int, int]]) -> None:
    array, factors = case
    result = downsample(array, factors, method)
    expected = [EXPECTED[method](values) for values in blocks(array, (*factors, 1)).ravel()]
    assert result.dtype == array.dtype
    assert [int(value) for value in result.ravel()] == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_are_no_integers_have_a_mean(dtype: str) -> None:
    array = np.array([1.5, 2.25, 1e30, 3e30], dtype).reshape(4, 1, 1, 1)
    assert downsample(array, (2, 1, 1), "average").ravel().tolist() == [1.875, np.dtype(dtype).type(2e30)]


def test_labels_beyond_the_precision_of_a_double_stay_themselves() -> None:
    label = (1 << 63) + 1
    array = np.full((4, 4, 4, 1), label, np.uint64)
    for method in EXPECTED:
        assert set(downsample(array, (2, 2, 2), method).ravel().tolist()) == {label}


def most_frequent(block: NDArray[Any]) -> Any:
    values, counts = np.unique(block, return_counts=True)
    return values[np.argmax(counts)]


@pytest.mark.parametrize("factors", [(2, 2, 2), (2, 1, 2), (1, 1, 2)])
def test_mode_of_every_order_of_few_labels(factors: tuple[int, int, int]) -> None:
    cases = np.array([*itertools.product([0, 1, (1 << 64) - 1], repeat=math.prod(factors))], np.uint64)
    array = cases.reshape(-1, *factors).transpose(1, 2, 0, 3).reshape(factors[0], factors[1], -1, 1)
    result = downsample(array, factors, "mode")
    assert result.shape == (1, 1, len(cases), 1)
    assert result.ravel().tolist() == [most_frequent(case) for case in cases]


@pytest.mark.parametrize("order", ["C", "F"])
def test_mode_of_an_array_of_several_slabs(order: Any) -> None:
    array = np.array(np.random.default_rng(0).integers(0, 3, (700, 70, 7, 2), np.uint32), order=order)
    rows = array[:, :, [0, 1, 2, 3, 4, 5, 6, 6]].reshape(350, 2, 35, 2, 4, 2, 2).transpose(0, 2, 4, 6, 1, 3, 5)
    counts = (rows.reshape(350, 35, 4, 2, 8, 1) == np.arange(3)).sum(axis=4)
    np.testing.assert_array_equal(downsample(array, (2, 2, 2), "mode"), counts.argmax(axis=-1))


def test_mode_of_floats_passes_over_nan() -> None:
    array = np.array([np.nan, 2.5, 1.5, 2.5, 7, np.nan, np.nan, np.nan], np.float32).reshape(4, 2, 1, 1)
    assert downsample(array, (2, 2, 1), "mode").ravel().tolist() == [2.5, 7]


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((100, 100, 100), (8, 8, 8), (2, 2, 2)),
        ((100, 100, 100), (4, 4, 40), (2, 2, 1)),
        ((100, 100, 100), (32, 32, 40), (2, 2, 2)),
        ((100, 100, 100), (64, 64, 40), (1, 1, 2)),
        ((100, 100, 1), (8, 8, 1), (2, 2, 1)),
        ((1, 1, 1), (8, 8, 8), (1, 1, 1)),
    ],
)
def test_the_axes_of_short_voxels_are_halved(
    size: tuple[int, int, int], resolution: tuple[float, float, float], expected: tuple[int, int, int]
) -> None:
    assert factors_for(size, resolution) == expected


def test_lower_scales_are_averages_or_labels(tmp_path: Path) -> None:
    array = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    options: dict[str, Any] = {
        "resolution": (1, 1, 1),
        "voxel_offset": (-1, 0, 2),
        "chunk_size": (2, 2, 2),
        "scales": 2,
    }
    image = make(tmp_path / "image", array, **options)
    assert image[1].bounds == Box((-1, 0, 1), (2, 2, 3))
    # along x, the first and the last block are half outside of the volume
    expected = [array[part, 0:2, 0:2].mean() for part in (slice(0, 1), slice(1, 3), slice(3, 4))]
    assert image[1][:, 0, 1, 0].tolist() == [math.floor(value + 0.5) for value in expected]
    labels = make(tmp_path / "labels", array, type="segmentation", **options)
    assert labels[1][:, 0, 1, 0].tolist() == [
        array[part, 0:2, 0:2].min() for part in (slice(0, 1), slice(1, 3), slice(3, 4))
    ]
    stride = make(tmp_path / "stride", array, downsampling="stride", **options)
    assert stride[1][-1:, 0, 1, 0].tolist() == [array[x, 0, 0] for x in (0, 1, 3)]


def test_block_size_does_not_change_lower_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower scales are computed block by block; with blocks of one chunk, they are the same."""
    whole = make(tmp_path / "a", scales=4)
    monkeypatch.setattr("precomputed_fs.volume.downsampling._BLOCK_BYTES", 1)
    in_blocks = make(tmp_path / "b", scales=4)
    for one, other in zip(whole, in_blocks, strict=True):
        assert np.array_equal(one[...], other[...])


def test_scales_that_are_not_halves_are_refused(tmp_path: Path) -> None:
    info = make(tmp_path / "a", scales=2).info.to_dict()
    info["scales"][1]["size"] = [10, 10, 10]
    volume = create_volume(tmp_path / "b", info)
    with pytest.raises(ValueError, match=r"16_16_40 .* is not scale 8_8_40 .* halved"):
        volume.downsample()


def test_only_what_a_box_touches_is_computed(tmp_path: Path) -> None:
    volume = make(tmp_path, scales=3, gzip=False)
    expected = [scale[...] for scale in volume]
    for scale in volume:
        scale[...] = 0
    volume[0][...] = expected[0]
    volume.downsample(box=np.s_[0:3, 9, 110:])
    for scale, index in ((volume[1], np.s_[3:5, 1:2, 10:]), (volume[2], np.s_[2:3, 1:2, 10:])):
        found = scale[...]
        assert found[index].all()
        found[index] = 0
        assert not found.any()
    assert np.array_equal(volume[1].array[3:5, 1:2, 10:], expected[1][3:5, 1:2, 10:])
    volume.downsample(box=np.s_[5:5])
    volume.downsample()
    for scale, whole in zip(volume, expected, strict=True):
        assert np.array_equal(scale[...], whole)
    with pytest.raises(IndexError, match="is not inside"):
        volume.downsample(box=np.s_[-100:])
