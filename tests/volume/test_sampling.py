"""Points: the same voxels as NumPy's own indexing, each chunk asked for once, and what lies outside."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from precomputed_fs import NotFoundError, Scale, open_volume
from tests.support import servers
from tests.volume.samples import BOUNDS, CHUNK, OFFSET, make, requests, voxels

LOW, HIGH = np.array(BOUNDS).T
POINTS = np.random.default_rng(1).integers(LOW, HIGH, (300, 3))


def at(points: NDArray[Any], array: NDArray[Any] | None = None) -> NDArray[Any]:
    x, y, z = (points - OFFSET).T
    found: NDArray[Any] = (voxels() if array is None else array)[x, y, z]
    return found


@pytest.mark.parametrize("dtype", ["int16", "uint64", "float32"])
def test_points_give_what_indexing_gives(scale: Scale, dtype: str) -> None:
    points = POINTS.astype(dtype) if dtype != "uint64" else np.abs(POINTS).astype(dtype)
    assert np.array_equal(scale.sample(points), at(points.astype(int)))


def test_positions_in_nanometres_are_in_the_voxels_that_cover_them(scale: Scale) -> None:
    within = np.random.default_rng(2).random(POINTS.shape)
    assert np.array_equal(scale.sample((POINTS + within) * (8, 8, 40), unit="nm"), at(POINTS))
    assert np.array_equal(scale.sample(POINTS * (0.008, 0.008, 0.04), unit="um"), at(POINTS))


def test_the_shape_of_points_is_kept(scale: Scale) -> None:
    assert np.array_equal(scale.sample(POINTS.reshape(3, 100, 3)), at(POINTS).reshape(3, 100, 2))
    assert np.array_equal(scale.sample(tuple(POINTS[0])), at(POINTS[:1])[0])
    assert np.array_equal(
        scale.sample(np.asfortranarray(np.repeat(POINTS[:2], 5, axis=0))), at(POINTS[[0, 1]]).repeat(5, 0)
    )
    for found in (scale.sample([]), scale.sample(np.zeros((0, 3)))):
        assert (found.shape, found.dtype) == ((0, 2), np.dtype("uint16"))


@pytest.mark.parametrize(
    "options", [{}, {"sharding": True}, {"encoding": "png"}, {"encoding": "compressed_segmentation"}]
)
def test_each_chunk_is_asked_for_once(tmp_path: Path, options: dict[str, Any]) -> None:
    array = voxels(dtype="uint32" if options.get("encoding") == "compressed_segmentation" else "uint16")
    make(tmp_path, array, gzip=False, **options)
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        assert np.array_equal(volume[0].sample(POINTS), at(POINTS, array))
        asked = Counter(path for _, path in requests(server)[1:])
    if "sharding" not in options:
        assert set(asked.values()) == {1}
        assert len(asked) == len({tuple(cell) for cell in (POINTS - OFFSET) // CHUNK})
    else:
        assert sum(asked.values()) <= 4  # for all chunks: two for indexes, and some ranges


def test_points_in_few_chunks_read_these_alone(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        volume[0].sample([(-5, 7, 100), (10, 14, 108), (39, 39, 119), (-5, 7, 100)])
        asked = requests(server)[1:]
    assert sorted(asked) == [("GET", "/8_8_40/-5-11_7-15_100-109"), ("GET", "/8_8_40/27-40_39-40_118-120")]


def test_points_outside_are_an_error_or_filled(scale: Scale) -> None:
    points = np.array([(0, 7, 100), (-6, 7, 100), (0, np.nan, 100), (0, 40, 100), (1e300, 7, 100)])
    found = scale.sample(points, fill=9)
    assert np.array_equal(found[0], at(np.array([(0, 7, 100)]))[0])
    assert (found[1:] == 9).all()
    with pytest.raises(
        IndexError, match=r"memory://.*: 4 of 5 points are outside .* -5 <= x < 40, .* points\[1\], .*-6"
    ):
        scale.sample(points)
    with pytest.raises(IndexError, match=r"points\[0, 1\], \(0, nan, 100\), is not a position; fill=0"):
        scale.sample(points[[[0, 2]]])
    with pytest.raises(IndexError, match=r"the point, .* is in voxel"):
        scale.sample((0, 0, 0))
    with pytest.raises(TypeError, match="does not fit in uint16"):
        scale.sample(points, fill=-1)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([(1, 2)], ValueError),
        (5, ValueError),
        (np.zeros((3, 4)), ValueError),
        ([("a", "b", "c")], TypeError),
        (np.ones((5, 3), bool), TypeError),
    ],
)  # fmt: skip
def test_what_is_not_points_is_refused(scale: Scale, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="points: expected"):
        scale.sample(wrong)


def test_absent_chunks_are_zeros_or_an_error(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    (tmp_path / "8_8_40/-5-11_7-15_100-109").unlink()
    scale = open_volume(tmp_path)[0]
    assert scale.sample([(-5, 7, 100), (39, 39, 119)]).any(axis=1).tolist() == [False, True]
    with pytest.raises(NotFoundError, match="has no chunk"):
        scale.sample([(-5, 7, 100)], missing="raise")
    with pytest.raises(ValueError, match="missing: expected one of"):
        scale.sample([(-5, 7, 100)], missing="ignore")
    with pytest.raises(ValueError, match="missing: expected one of"):  # also where nothing is missing
        scale.sample([(39, 39, 119)], missing="ignore")
    with pytest.warns(UserWarning, match="none of the 1 chunks that these points touch"):
        assert not scale.sample([(-5, 7, 100)]).any()


def test_a_volume_picks_the_scale() -> None:
    volume = make("memory://tests/volume/picked", scales=3)
    assert np.array_equal(volume.sample(POINTS), at(POINTS))
    coarse = volume[1].sample(POINTS // (2, 2, 1))
    assert np.array_equal(volume.sample(POINTS, resolution="16 nm"), coarse)
    centres = (POINTS + 0.5) * (8, 8, 40)
    assert np.array_equal(volume.sample(centres, unit="nm", resolution=(20, 20, 40)), coarse)
