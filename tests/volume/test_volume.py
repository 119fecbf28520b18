"""Volumes: sequences of scales, which flush at the end of a block, pickle and fork."""

import gc
import json
import os
import pickle
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precomputed_fs import (
    Scale,
    create_volume,
    open_volume,
)
from precomputed_fs.format.grid import Box
from precomputed_fs.volume.indexing import index_text
from tests.support import servers
from tests.volume.samples import SIZE, chunk_files, make, requests, voxels


def test_a_volume_is_a_sequence_of_scales() -> None:
    volume = make("memory://tests/volume/three", scales=3)
    assert [scale.key for scale in volume] == ["8_8_40", "16_16_40", "32_32_40"]
    assert (len(volume), volume[1].key, volume[-1].key, volume["16_16_40"].key) == (
        3, "16_16_40", "32_32_40", "16_16_40",
    )  # fmt: skip
    assert volume.at_resolution((16, 16, 40)) is volume[1]
    assert volume.at_resolution(tuple(np.array([32.0, 32, 40]))) is volume[2]
    for wrong, error in ((3, IndexError), ("4_4_40", KeyError)):
        with pytest.raises(error, match="no scale"):
            volume[wrong]
    with pytest.raises(KeyError, match=r"no scale of 4 x 4 x 40 nm; there are 8_8_40 \(8 x 8 x 40 nm\)"):
        volume.at_resolution((4, 4, 40))


def test_a_scale_is_found_by_its_voxel_size_in_units() -> None:
    volume = make("memory://tests/volume/units", resolution=("4 um", "4 um", "0.04 mm"), scales=2)
    assert (volume[0].key, volume[0].resolution) == ("4000_4000_40000", (4000, 4000, 40000))
    assert repr(volume[0]).endswith("4 x 4 x 40 µm, raw>")
    assert volume["4 x 4 x 40 µm"] is volume["4000 nm x 4 um x 40 um"] is volume[0]
    assert volume.at_resolution("8 x 8 x 40 um") is volume.at_resolution((8000, "8 um", "40 um")) is volume[1]
    for wrong in ("4 um", "1 furlong"):
        with pytest.raises(KeyError, match=rf"no scale '{wrong}'; there are 4000_4000_40000 \(4 x 4 x 40 µm\), 8000_"):
            volume[wrong]
    with pytest.raises(ValueError, match="resolution: expected a unit"):
        volume.at_resolution("8")


def test_a_key_is_found_before_a_voxel_size() -> None:
    info = make("memory://tests/volume/template", scales=2).info.to_dict()
    info["scales"][1] |= {"key": "8 nm", "resolution": [16, 16, 16]}
    volume = create_volume("memory://tests/volume/keys", info)
    assert volume["8 nm"].resolution == (16, 16, 16)


def test_the_scale_near_a_voxel_size_is_the_coarsest_that_is_fine_enough() -> None:
    volume = make("memory://tests/volume/near", scales=3)
    assert [volume.scale_near(nm).key for nm in (1, 8, 15.9, "16 nm", "1 mm", (40, 40, 16))] == [
        "8_8_40", "8_8_40", "8_8_40", "16_16_40", "32_32_40", "32_32_40",
    ]  # fmt: skip
    assert volume.scale_near((8, 100, 100)).key == "8_8_40"
    with pytest.raises(ValueError, match="resolution: expected"):
        volume.scale_near("fine")


def test_the_finest_scale_in_which_a_box_fits_is_found() -> None:
    volume = make("memory://tests/volume/within", scales=3)
    sizes = [scale.nbytes for scale in volume]
    assert [volume.scale_within(size).key for size in (sizes[0], sizes[0] - 1, "33 kB")] == [
        "8_8_40", "16_16_40", "16_16_40",
    ]  # fmt: skip
    box = volume[0].box((-40, 56, 4000), (0, 100, 4100))
    assert volume.scale_within(5 * 6 * 3 * 2 * 2, box).key == "8_8_40"
    assert volume.scale_within(5 * 6 * 3 * 2 * 2 - 1, box).key == "16_16_40"
    with pytest.raises(ValueError, match=r"takes .* in the coarsest scale, 32_32_40, and 1 B are allowed"):
        volume.scale_within(1)
    with pytest.raises(ValueError, match="size: expected a number of bytes"):
        volume.scale_within("much")
    with pytest.raises(IndexError, match="is not inside"):
        volume.scale_within("1 GB", np.s_[-100:])


COARSEST_FIRST = ["32_32_40", "16_16_40", "8_8_40"]


def test_scales_are_sorted_and_info_keeps_its_order(tmp_path: Path) -> None:
    made = make(tmp_path / "a", scales=3)
    info = {**made.info.to_dict(), "scales": made.info["scales"][::-1]}
    created = create_volume(tmp_path / "b", info)
    for volume in (created, open_volume(tmp_path / "b"), pickle.loads(pickle.dumps(created))):
        assert [scale.key for scale in volume] == COARSEST_FIRST[::-1]
        assert [scale.key for scale in volume.info.scales] == COARSEST_FIRST
        assert volume.at_resolution((8, 8, 40)) is volume[0] is volume["8_8_40"]
    assert [scale["key"] for scale in json.loads((tmp_path / "b/info").read_text())["scales"]] == COARSEST_FIRST
    created[0][...] = voxels()
    created.downsample()
    for finest_first, coarsest_first in zip(made, open_volume(tmp_path / "b"), strict=True):
        assert np.array_equal(finest_first[...], coarsest_first[...])


@pytest.mark.parametrize(
    ("resolutions", "expected"),
    [
        ([[4, 4, 40], [8, 8, 8], [4, 4, 4]], [2, 1, 0]),  # by the volume of a voxel
        ([[2, 2, 2], [1, 2, 4], [1, 1, 1], [4, 2, 1]], [2, 0, 1, 3]),  # as listed, where that is the same
        ([[1.7e308, 2e300, 3], [10**308, 10**308, 10**308], [0.5, 10**308, 1], [1, 1, 1]], [3, 2, 0, 1]),
    ],
)  # fmt: skip
def test_scales_are_sorted_by_the_volume_of_a_voxel(resolutions: list[list[float]], expected: list[int]) -> None:
    scales = [
        {"key": str(i), "size": [1, 1, 1], "resolution": step, "chunk_sizes": [[1, 1, 1]], "encoding": "raw"}
        for i, step in enumerate(resolutions)
    ]
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": scales}
    volume = create_volume("memory://tests/volume/sorted", info, overwrite=True)
    assert [int(scale.key) for scale in volume] == expected


@pytest.mark.parametrize("scales", [1, 3])
def test_a_volume_is_not_an_array(tmp_path: Path, scales: int) -> None:
    make(tmp_path, scales=scales)
    with servers.http_server(tmp_path) as server:
        volume: Any = open_volume(server.url)
        for use in (
            np.asarray,
            np.shape,
            np.mean,
            lambda volume: np.array(volume, dtype=np.uint8),
            lambda volume: create_volume("memory://tests/volume/none", volume, resolution=(1, 1, 1)),
        ):
            with pytest.raises(TypeError, match=r"np\.asarray\(vol\[0\]\)"):
                use(volume)
        for index in (np.s_[10:20, 10:20, 5], np.s_[:], ..., (0, 0, 0), Box((0, 0, 0), (1, 1, 1)), 1.5, None):
            with pytest.raises(TypeError, match=re.escape(f"vol[0][{index_text(index)}]")):
                volume[index]
            with pytest.raises(TypeError, match=re.escape(f"vol[0][{index_text(index)}] = ")):
                volume[index] = 1
        assert requests(server) == [("GET", "/info")]


def test_an_attribute_of_scales_is_pointed_to(scale: Scale) -> None:
    volume: Any = scale.volume
    of_scale = {name for name in dir(scale) if not name.startswith("_")} - {*dir(volume), "volume"}
    assert {"shape", "ndim", "chunk_size", "voxel_offset", "bounds", "read", "write", "array", "to_dask"} <= of_scale
    for name in of_scale:
        with pytest.raises(AttributeError, match=rf"vol\[0\]\.{name} "):
            getattr(volume, name)
    with pytest.raises(AttributeError, match=r"np\.asarray\(vol\[0\]\)\.mean"):
        _ = volume.mean
    with pytest.raises(AttributeError, match=r"vol\[0\]\.nbytes"):
        _ = volume.nbytes
    with pytest.raises(AttributeError, match="'Volume' object has no attribute 'shap'"):
        _ = volume.shap
    assert not hasattr(volume, "__array_interface__")


def test_info_reads_like_the_json(scale: Scale) -> None:
    info = scale.volume.info
    assert (info["num_channels"], info.num_channels, info["scales"][0]["size"]) == (2, 2, list(SIZE))
    assert json.loads(info.to_json())["scales"][0]["size"] == list(SIZE)


def test_a_write_flushes_shards(tmp_path: Path) -> None:
    volume = make(tmp_path, sharding=True)
    volume[0][0, 10, 110] = 99
    assert open_volume(tmp_path)[0][0, 10, 110].tolist() == [99, 99]


def test_a_with_block_flushes_shards_at_its_end(tmp_path: Path) -> None:
    with make(tmp_path, sharding=True) as volume:
        before = {path: path.read_bytes() for path in chunk_files(tmp_path)}
        for x in range(10):
            volume[0][x, 10, 110] = x
            assert volume[0][x, 10, 110, 0] == x
        assert {path: path.read_bytes() for path in chunk_files(tmp_path)} == before
    assert open_volume(tmp_path)[0][0:10, 10, 110, 0].tolist() == list(range(10))
    volume[0][0, 10, 110] = 77  # after the block, each write is flushed again
    assert open_volume(tmp_path)[0][0, 10, 110, 0] == 77


def test_an_abandoned_volume_writes_its_shards_late(tmp_path: Path) -> None:
    def abandon() -> None:
        open_volume(tmp_path)[0].write(np.s_[0, 10, 110], 99, flush=False)
        gc.collect()  # a volume and its scales refer to each other

    make(tmp_path, sharding=True)
    with pytest.warns(ResourceWarning, match="written late"):
        abandon()
    assert open_volume(tmp_path)[0][0, 10, 110].tolist() == [99, 99]


def test_volumes_scales_and_arrays_can_be_pickled(tmp_path: Path) -> None:
    volume = make(tmp_path)
    assert np.array_equal(volume[0][0:3], voxels()[5:8])
    for one in (pickle.loads(pickle.dumps(volume))[0], pickle.loads(pickle.dumps(volume[0]))):
        assert np.array_equal(one[0:3], voxels()[5:8])
    assert np.array_equal(pickle.loads(pickle.dumps(volume[0].array))[0:3], voxels()[0:3])


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_read(tmp_path: Path) -> None:
    volume = make(tmp_path)
    volume[0][0:3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking beside threads
        pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        signal.alarm(20)  # ends a child that hangs
        os._exit(0 if np.array_equal(volume[0][...], voxels()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_scale_beside_the_pyramid_is_read(tmp_path: Path) -> None:
    make(tmp_path / "data", sharding=True)
    info = make(tmp_path / "data", sharding=True).info.to_dict()
    info["scales"][0]["key"] = "../data/8_8_40"
    (tmp_path / "view").mkdir()
    (tmp_path / "view/info").write_text(json.dumps(info))
    with servers.http_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/view")
        assert np.array_equal(volume[0][...], voxels())
        assert volume.pyramid_for("../data/8_8_40")[0] is volume.pyramid_for("../data/8_8_40")[0]


def test_a_scale_outside_of_the_host_is_not_read(tmp_path: Path) -> None:
    info = make(tmp_path).info.to_dict()
    info["scales"][0]["key"] = "../../8_8_40"
    (tmp_path / "info").write_text(json.dumps(info))
    with servers.http_server(tmp_path) as server:
        volume = open_volume(server.url)
        with pytest.raises(ValueError, match="folders above"):
            volume[0][...]
        volume.close()
