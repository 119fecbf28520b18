"""The info of a copy, and which requests are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    FsspecAccessor,
    copy_pyramid,
    create_volume,
    open_volume,
)
from precomputed_fs.format.sharding import propose_sharding
from tests.copying.samples import IDENTITY, KEY, info_of, make, read, scale_of, voxels_of

if TYPE_CHECKING:
    from pathlib import Path


def test_unknown_members_are_kept(tmp_path: Path) -> None:
    sharding = {**IDENTITY, "note": "of sharding"}
    scales = [scale_of(note={"of": ["scale"]}), scale_of(key="4_4_4", sharding=sharding, jpeg_quality=7)]
    info = info_of(scales, provenance="a microscope", numbers=[1, 2.5, None])
    volume = create_volume(tmp_path / "a", {**info, "scales": [{**scale} for scale in scales]})
    (tmp_path / "a" / "info").write_text(json.dumps(info))
    copied = copy_pyramid(tmp_path / "a", tmp_path / "same")
    assert json.loads((tmp_path / "same" / "info").read_text()) == info
    copied = copy_pyramid(tmp_path / "a", tmp_path / "b", encoding="jpeg", chunk_size=20, jpeg_quality=50)
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
