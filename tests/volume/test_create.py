"""Creating: in which order, over what exists, and what is refused before anything is written."""

import gc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from precomputed_fs import (
    AlreadyExistsError,
    InvalidInfoError,
    NotFoundError,
    create_volume,
    open_volume,
)
from tests.support import servers
from tests.support.places import Place
from tests.support.tools import read_with_tensorstore
from tests.volume.samples import ONE_CHUNK, SIZE, Counting, chunk_files, make, voxels


@pytest.mark.parametrize(("protocol", "encoding"), [("local", None), ("s3", "gzip")])
def test_chunks_are_compressed_where_headers_can_say_so(
    make_pyramid: Callable[[str], Place], protocol: str, encoding: str | None
) -> None:
    """All readers understand Content-Encoding; few know suffixes."""
    pyramid = make_pyramid(protocol)
    options: dict[str, Any] = {"storage_options": pyramid.storage_options}
    make(pyramid.url, ONE_CHUNK, **options)
    (name,) = [name for name in pyramid.names() if name != "info"]
    before = pyramid.get(name)
    open_volume(pyramid.url, **options)[0][0, 10, 105] = 7
    assert name == "8_8_40/-5-11_7-15_100-109"
    assert pyramid.get(name) != before
    assert pyramid.fields(name).get("ContentEncoding") == encoding


@pytest.mark.parametrize("sharding", [False, True])
def test_tensorstore_reads_from_disk_what_is_created_by_default(tmp_path: Path, sharding: bool) -> None:
    make(tmp_path, scales=2, sharding=sharding)
    open_volume(tmp_path)[0][0:10, 10, 105] = 7
    expected = voxels()
    expected[5:15, 3, 5] = 7
    assert np.array_equal(read_with_tensorstore(tmp_path)[1], expected)


@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_an_existing_pyramid_is_not_overwritten(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    options: dict[str, Any] = {"storage_options": pyramid.storage_options, "overwrite": False}
    make(pyramid.url, ONE_CHUNK, **options)
    before = pyramid.contents()
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        make(pyramid.url, ONE_CHUNK + 1, **options)
    assert pyramid.contents() == before
    make(pyramid.url, ONE_CHUNK + 1, **options | {"overwrite": True})
    opened = open_volume(pyramid.url, storage_options=pyramid.storage_options)
    assert np.array_equal(opened[0][...], ONE_CHUNK + 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resolution": None}, TypeError, "resolution: expected"),
        ({"resolution": (8, 8)}, ValueError, "resolution: expected 1 length for all axes, or 3"),
        ({"resolution": (8, 8, -1)}, ValueError, "resolution: expected positive lengths"),
        ({"resolution": "8"}, ValueError, "resolution: expected a unit, such as '8 nm'"),
        ({"chunk_size": (8, 8)}, ValueError, "chunk_size: expected a positive integer, or 3, xyz"),
        ({"chunk_size": 8.5}, ValueError, "chunk_size: expected a positive integer, or 3, xyz"),
        ({"chunk_size": (64, 0, 64)}, (InvalidInfoError, ValueError), "chunk_size"),
        ({"scales": 0}, ValueError, "scales: expected at least 1"),
        ({"downsampling": "median"}, ValueError, "expected one of average, mode, stride"),
        ({"encoding": "wavelets"}, ValueError, "encoding: expected one of raw, "),
        ({"encoding": "jpeg"}, ValueError, "jpeg"),
        ({"no_option": 1}, TypeError, "no_option"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_options_for_arrays_are_refused_with_an_info(tmp_path: Path) -> None:
    info = make(tmp_path / "a").info
    with pytest.raises(TypeError, match="voxel_offset, scales: for arrays"):
        create_volume(tmp_path / "b", info, voxel_offset=(0, 0, 0), scales=3)
    with pytest.raises(ValueError, match="missing"):
        create_volume(tmp_path / "b", info, missing="zeroes")
    assert not (tmp_path / "b").exists()


HTML = b"<!DOCTYPE html><html><title>Console</title></html>"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("source", [ONE_CHUNK, {"redirect": "memory://elsewhere"}], ids=["array", "info"])
def test_a_web_console_is_not_an_existing_pyramid(overwrite: bool, source: Any) -> None:
    """It answers any request with its page, even a PUT, and stores nothing."""
    if isinstance(source, dict):
        source = make("memory://tests/volume/console").info
    options: dict[str, Any] = {"storage_options": {"key": "k", "secret": "s"}, "overwrite": overwrite}
    if isinstance(source, np.ndarray):
        options |= {"resolution": (8, 8, 40), "scales": 1}
    with servers.fault_server(servers.respond(200, HTML)) as server:
        with pytest.raises(InvalidInfoError, match=r"/brain/info(\.partial)?: expected JSON, got HTML") as caught:
            create_volume(f"s3+{server.url}/bucket/brain", source, **options)
        assert "already" not in str(caught.value)
        assert {"PUT", "POST", "DELETE"}.isdisjoint(server.log.methods())


def test_an_existing_file_that_is_not_an_info_can_be_replaced(tmp_path: Path) -> None:
    for content in (HTML, b"", b"[]"):
        (tmp_path / "info").write_bytes(content)
        with pytest.raises(AlreadyExistsError, match=r"`info` already, but not of a pyramid \(.*overwrite=True"):
            make(tmp_path, overwrite=False)
        assert (tmp_path / "info").read_bytes() == content
    make(tmp_path, overwrite=True)
    assert np.array_equal(open_volume(tmp_path)[0][...], voxels())


def test_a_failure_leaves_no_info(tmp_path: Path) -> None:
    class Breaking(Counting):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            if self.largest > 0 and index[2].start > 0:
                message = "the source broke"
                raise OSError(message)
            return super().__getitem__(index)

    source: Any = Breaking(voxels())
    with pytest.raises(OSError, match="the source broke"):
        make(tmp_path, source)
    with pytest.raises(NotFoundError, match="info"):
        open_volume(tmp_path)
    assert np.array_equal(make(tmp_path)[0][...], voxels())


def test_the_loser_of_a_race_changes_nothing(tmp_path: Path) -> None:
    def create(value: int) -> str:
        try:
            make(tmp_path, np.full((*SIZE, 1), value, np.uint8), overwrite=False)
        except AlreadyExistsError:
            return "lost"
        return str(value)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(create, range(1, 5)))
    (winner,) = {outcome for outcome in outcomes if outcome != "lost"}
    assert (open_volume(tmp_path)[0][...] == int(winner)).all()


def test_shards_without_an_info_are_replaced(tmp_path: Path) -> None:
    make(tmp_path, voxels((60, 40, 30)), sharding=True)
    (tmp_path / "info").unlink()
    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 0, "hash": "identity"}
    volume = make(tmp_path, sharding={**sharding, "minishard_bits": 0, "shard_bits": 0}, overwrite=False)
    assert np.array_equal(volume[0][...], voxels())
    volume[0][0:5] = 3  # from now on, merged
    expected = voxels()
    expected[5:10] = 3
    assert np.array_equal(open_volume(tmp_path)[0][...], expected)


def test_parameters_needed_for_decoding_cannot_change_under_chunks(tmp_path: Path) -> None:
    labels = voxels(SIZE, "uint64")
    info = make(tmp_path, labels, encoding="compressed_segmentation").info.to_dict()
    info["scales"][0]["compressed_segmentation_block_size"] = [16, 16, 16]
    with pytest.raises(AlreadyExistsError, match="stored differently"):
        create_volume(tmp_path, info, overwrite=True)
    info["scales"][0]["key"] = "./8_8_40"
    with pytest.raises(AlreadyExistsError, match="stored differently"):
        create_volume(tmp_path, info, overwrite=True)


def test_leftovers_that_could_be_taken_for_new_data_are_refused(tmp_path: Path) -> None:
    make(tmp_path, sharding=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExistsError, match=r"8_8_40 is stored differently there.*another key"):
        make(tmp_path, voxels()[:20], sharding=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    changed = make("memory://tests/volume/changed", voxels() + 1, sharding=True)
    assert np.array_equal(make(tmp_path, voxels() + 1, sharding=True)[0][...], changed[0][...])
    info = make(tmp_path / "other", chunk_size=(8, 8, 8)).info
    with pytest.raises(AlreadyExistsError, match="stored differently"):
        create_volume(tmp_path, info, overwrite=True)
    unsharded = make(tmp_path, voxels()[:20])  # other names altogether
    assert np.array_equal(unsharded[0][...], voxels()[:20])


def test_an_archive_is_written_and_read(tmp_path: Path) -> None:
    url = f"zip://brain::{tmp_path}/brain.zip"
    with pytest.raises(ValueError, match="scales=1"):
        make(url, storage_options={"mode": "w"}, overwrite=False, scales=2)
    with make(url, storage_options={"mode": "w"}, overwrite=False):
        pass
    assert np.array_equal(open_volume(url)[0][...], voxels())


def test_skipped_chunks_are_zeros_for_the_next_scale(tmp_path: Path) -> None:
    array = voxels()
    array[:33] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = make(tmp_path, array, scales=2, skip_empty=True, missing="raise")
    assert len(chunk_files(tmp_path)) == 15
    with pytest.raises(NotFoundError):
        volume[0][...]


def test_shards_merge_with_later_writes_of_others(tmp_path: Path) -> None:
    """Shards are replaced only while a pyramid is made, even those that were skipped as empty."""
    volume = make(tmp_path, np.zeros((*SIZE, 2), np.uint16), sharding=True, skip_empty=True)
    open_volume(tmp_path)[0][0, 10, 110] = 5
    volume[0][39, 39, 119] = 6
    scale = open_volume(tmp_path)[0]
    assert (scale[0, 10, 110, 0], scale[39, 39, 119, 0]) == (5, 6)


def test_creating_from_an_info_makes_no_more_requests_than_storing_it(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    info = make("memory://tests/volume/asked").info
    before = pyramid.server.log.count()
    create_volume(pyramid.url, info, storage_options=pyramid.storage_options)
    created = pyramid.server.log.count() - before
    other = make_pyramid("s3")
    before = other.server.log.count()
    other.accessor().store_file("info", info.to_json(), mime_type="application/json")
    assert created == other.server.log.count() - before


def test_a_failed_pyramid_is_not_written_late(tmp_path: Path) -> None:
    class Breaking(Counting):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            if index[2].start > 0:
                raise OSError("the source broke")
            return super().__getitem__(index)

    source: Any = Breaking(voxels())
    with pytest.raises(OSError, match="the source broke"):
        make(tmp_path, source, sharding=True)
    before = sorted(tmp_path.rglob("*"))
    gc.collect()  # would show a ResourceWarning as an error, too
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_nobody_closes_is_completed(tmp_path: Path) -> None:
    url = f"zip://::{tmp_path}/brain.zip"

    def abandon() -> None:
        make(url, ONE_CHUNK, overwrite=False, storage_options={"mode": "w"})
        gc.collect()  # a volume and its scales refer to each other

    with pytest.warns(ResourceWarning, match=r"brain\.zip.*without.*close"):
        abandon()
    assert np.array_equal(open_volume(url)[0][...], ONE_CHUNK)
