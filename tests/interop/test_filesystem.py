"""Pyramids as an fsspec filesystem: what is listed, read and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from precomputed_fs import DataAccessError, NotFoundError, open_volume
from precomputed_fs.errors import ReadOnlyError
from precomputed_fs.interop.filesystem import PrecomputedFileSystem
from tests.interop.samples import CHUNKS, empty, make, sharding, voxels
from tests.support.servers import refused_url

CHUNK = "8_8_40/-5-11_7-15_100-109"


@pytest.fixture(autouse=True)
def registered() -> None:
    """Register it as the entry point does, which an editable install may be too old to have."""
    fsspec.register_implementation("precomputed", PrecomputedFileSystem, clobber=True)


def test_it_is_announced_to_fsspec() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = f"{PrecomputedFileSystem.__module__}.{PrecomputedFileSystem.__qualname__}"
    assert project["entry-points"]["fsspec.specs"] == {"precomputed": name}


@pytest.mark.parametrize("options", [{}, {"gzip": True}, {"sharding": sharding()}], ids=["raw", "gzip", "shards"])
def test_files_are_read_however_they_are_stored(tmp_path: Path, options: dict[str, Any]) -> None:
    make(tmp_path, **options)
    with fsspec.open(f"precomputed://{tmp_path}/{CHUNK}") as file:
        assert file.read() == voxels()[:16, :8, :9].tobytes(order="F")
    with fsspec.open(f"precomputed://{tmp_path}/info", "rt") as file:
        assert json.load(file)["num_channels"] == 2


def test_options_are_those_of_the_store(make_pyramid: Any) -> None:
    place = make_pyramid("s3")
    make(place.url, storage_options=place.storage_options)
    fs, path = fsspec.url_to_fs(f"precomputed://{place.url}/{CHUNK}", **place.storage_options)
    place.server.log.clear()
    assert len(fs.cat_file(path, 4, 20)) == 16
    assert len(fs.cat_file(path)) == 16 * 8 * 9 * 2 * 2
    assert place.server.log.methods() == ["GET"] * 3  # of `info`, and twice of the chunk


def test_a_pyramid_is_a_folder_of_scales(tmp_path: Path) -> None:
    make(tmp_path, scales=2)
    fs = fsspec.filesystem("precomputed", skip_instance_cache=True)
    root = f"precomputed://{tmp_path}"
    assert [Path(name).name for name in fs.ls(root, detail=False)] == ["info", "8_8_40", "16_16_40"]
    chunks = fs.ls(f"{root}/8_8_40", detail=False)
    assert len(chunks) == CHUNKS
    assert str(tmp_path / CHUNK) in chunks
    assert (fs.isdir(root), fs.isdir(f"{root}/8_8_40"), fs.isfile(f"{root}/{CHUNK}")) == (True, True, True)
    assert fs.info(f"{root}/{CHUNK}")["size"] == 16 * 8 * 9 * 2 * 2
    assert fs.exists(f"{root}/info")
    assert not fs.exists(f"{root}/8_8_40/0-1_0-1_0-1")


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    fs = fsspec.filesystem("precomputed", skip_instance_cache=True)
    with pytest.raises(NotFoundError, match=str(tmp_path)):
        fs.ls(str(tmp_path))
    empty(tmp_path, (10**6, 10**6, 10**6))
    with pytest.raises(ValueError, match="1000000 are listed at most"):
        fs.ls(f"{tmp_path}/1")
    with pytest.raises(NotFoundError, match="0-64_0-64_0-64"):
        fs.cat_file(f"{tmp_path}/1/0-64_0-64_0-64")


def test_nothing_is_written(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ReadOnlyError, match="read-only"), fsspec.open(f"precomputed://{tmp_path}/{CHUNK}", "wb"):
        pass
    assert np.array_equal(open_volume(tmp_path)[0][:], voxels())


def test_what_cannot_be_reached_is_not_absent() -> None:
    fs = fsspec.filesystem("precomputed", skip_instance_cache=True)
    url = refused_url().replace("://", "://user:hidden@")
    with pytest.raises(DataAccessError, match="cannot read"):
        fs.exists(f"precomputed://{url}/brain/info")
    with pytest.raises(ReadOnlyError) as failure:
        fs.open(f"precomputed://{url}/brain/info", "wb")
    assert "hidden" not in str(failure.value)


def test_files_beside_a_pyramid_that_have_an_info_of_their_own(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "mesh").mkdir()
    for name, content in (("info", '{"@type": "neuroglancer_legacy_mesh"}'), ("1:0", "{}"), ("2.gz", "as it is")):
        (tmp_path / "mesh" / name).write_text(content)
        fs = fsspec.filesystem("precomputed", skip_instance_cache=True)
        assert fs.cat_file(f"precomputed://{tmp_path}/mesh/{name}") == content.encode()


def test_a_pyramid_that_was_replaced_is_opened_again(tmp_path: Path) -> None:
    make(tmp_path)
    fs = fsspec.filesystem("precomputed", skip_instance_cache=True)
    assert len(fs.ls(f"{tmp_path}/8_8_40")) == CHUNKS
    shutil.rmtree(tmp_path)
    make(tmp_path, sharding=sharding(), chunk_size=(64, 64, 64))
    fs.invalidate_cache()
    (chunk,) = fs.ls(f"{tmp_path}/8_8_40", detail=False)
    assert fs.cat_file(chunk) == voxels().tobytes(order="F")


def test_no_other_way_to_write_is_ignored(tmp_path: Path) -> None:
    make(tmp_path)
    url = f"precomputed://{tmp_path}"
    fs = PrecomputedFileSystem()
    for write in (
        lambda: fs.mkdir(f"{url}/new"),
        lambda: fs.makedirs(f"{url}/new", exist_ok=True),
        lambda: fs.rmdir(f"{url}/new"),
        lambda: fs.rm([f"{url}/info"]),
        lambda: fs.mv(f"{url}/info", f"{url}/other"),
        lambda: fs.cp_file(f"{url}/info", f"{url}/other"),
        lambda: fs.touch(f"{url}/other"),
        lambda: fs.put_file(__file__, f"{url}/other"),
    ):
        with pytest.raises(ReadOnlyError, match="precomputed:// is read-only"):
            write()  # type: ignore[no-untyped-call]
    assert (tmp_path / "info").exists()
