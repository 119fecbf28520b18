"""neuroglancer-scripts through our accessor: what was imported before, inherited from it, and made of it."""

from __future__ import annotations

import concurrent.futures
import gzip
import json
import pathlib
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import brotli
import neuroglancer_scripts.accessor
import numpy as np
import pytest
from neuroglancer_scripts.accessor import DataAccessError as TheirError
from neuroglancer_scripts.accessor import get_accessor_for_url as theirs_get
from neuroglancer_scripts.file_accessor import FileAccessor
from neuroglancer_scripts.http_accessor import HttpAccessor
from neuroglancer_scripts.precomputed_io import get_IO_for_existing_dataset, get_IO_for_new_dataset
from neuroglancer_scripts.sharded_file_accessor import ShardedFileAccessor
from neuroglancer_scripts.sharded_http_accessor import ShardedHttpAccessor

import precomputed_fs
from precomputed_fs import DataAccessError, FsspecAccessor, NotFoundError, URLError, Volume, create_volume, open_volume
from precomputed_fs.__main__ import main
from precomputed_fs.interop import neuroglancer_scripts as ngs
from tests.interop import samples
from tests.interop.samples import sharding, voxels
from tests.support.servers import http_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.places import Place

KEY = "8_8_40"
COORDS = (0, 16, 0, 8, 0, 9)


@pytest.fixture
def installed() -> Iterator[None]:
    precomputed_fs.install()
    yield
    precomputed_fs.uninstall()


def make(url: Any, **options: Any) -> Volume:
    """Make a volume at the origin: theirs know no offset."""
    return samples.make(url, voxel_offset=(0, 0, 0), **options)


def first_chunk(accessor: Any) -> np.ndarray[Any, Any]:
    """Read a chunk as their tools do, (channel, z, y, x)."""
    found: np.ndarray[Any, Any] = get_IO_for_existing_dataset(accessor).read_chunk(KEY, COORDS)
    return found


@pytest.mark.usefixtures("installed")
def test_their_accessor_of_http_reads_any_url(readable_pyramid: Place) -> None:
    make("memory://ngs/source", overwrite=True)
    source = FsspecAccessor("memory://ngs/source")
    for name in ("info", f"{KEY}/0-16_0-8_0-9"):
        readable_pyramid.objects.put(name, source.fetch_file(name), None)
    precomputed_fs.install(storage_options={readable_pyramid.url.partition("://")[0]: readable_pyramid.storage_options})
    accessor = HttpAccessor(readable_pyramid.url)
    assert np.array_equal(first_chunk(accessor).T, voxels()[:16, :8, :9])
    assert accessor.base_url == f"{readable_pyramid.url}/"
    assert accessor.chunk_exists(KEY, COORDS)
    assert not accessor.chunk_exists(KEY, (16, 32, 0, 8, 0, 9))


def test_what_was_made_before_is_ours_until_it_is_taken_back(tmp_path: Path) -> None:
    make(tmp_path, gzip=False)
    path = tmp_path / KEY / "0-16_0-8_0-9"
    path.with_name(f"{path.name}.br").write_bytes(brotli.compress(path.read_bytes()))
    path.unlink()
    accessor = FileAccessor(str(tmp_path))  # theirs does not know brotli
    with pytest.raises(TheirError):
        accessor.fetch_chunk(KEY, COORDS)
    precomputed_fs.install()
    assert np.array_equal(first_chunk(accessor).T, voxels()[:16, :8, :9])
    precomputed_fs.uninstall()
    with pytest.raises(TheirError):
        accessor.fetch_chunk(KEY, COORDS)


def test_what_is_installed_twice_is_taken_back_at_once() -> None:
    def state() -> list[object]:
        kinds = (FileAccessor, HttpAccessor, ShardedFileAccessor, ShardedHttpAccessor)
        functions = [getattr(neuroglancer_scripts.accessor, name) for name in neuroglancer_scripts.accessor.__all__]
        return [*functions, *(dict(vars(kind)) for kind in kinds), DataAccessError.__mro__, URLError.__mro__]

    before = state()
    for _ in range(2):
        precomputed_fs.install()
    assert state() != before
    for _ in range(2):
        precomputed_fs.uninstall()
    assert state() == before


def test_a_block_restores_what_was_installed_before() -> None:
    def flat() -> bool:
        flat: bool = neuroglancer_scripts.accessor.get_accessor_for_url("memory://ngs/x").pyramid.options.flat
        return flat

    precomputed_fs.install(flat=False)
    try:
        with ngs.installed():
            assert flat()
            with ngs.installed(flat=False):
                assert not flat()
            assert flat()
        assert not flat()
    finally:
        precomputed_fs.uninstall()
    with ngs.installed():
        pass
    assert neuroglancer_scripts.accessor.get_accessor_for_url is theirs_get


@pytest.mark.usefixtures("installed")
def test_who_catches_their_errors_catches_ours(tmp_path: Path) -> None:
    with pytest.raises(TheirError) as caught:
        HttpAccessor("memory://ngs/nowhere").fetch_file("info")
    assert isinstance(caught.value, NotFoundError)
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(neuroglancer_scripts.accessor.URLError, match="unknown"):
        neuroglancer_scripts.accessor.get_accessor_for_url("unknown://x")


def test_functions_are_replaced_where_they_were_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("imported_before")
    vars(module).update(get_it=theirs_get, ours=precomputed_fs.add_argparse_options)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    precomputed_fs.install()
    accessor = vars(module)["get_it"]("memory://ngs/x")
    assert isinstance(accessor, FsspecAccessor)
    assert isinstance(accessor, neuroglancer_scripts.accessor.Accessor)
    precomputed_fs.uninstall()
    assert vars(module)["get_it"] is theirs_get
    assert vars(module)["ours"] is precomputed_fs.add_argparse_options
    assert precomputed_fs.get_accessor_for_url.__module__ == "precomputed_fs.accessor"


@pytest.mark.usefixtures("installed")
def test_arguments_are_theirs(tmp_path: Path) -> None:
    info = json.loads(FsspecAccessor(make(tmp_path / "source").url).fetch_file("info"))
    in_folders, flat = f"{KEY}/0-16/0-8/0-9.gz", f"{KEY}/0-16_0-8_0-9"
    for arguments, name in (((), in_folders), ((True, False), flat), ((False, True, 1), in_folders)):
        folder = tmp_path / repr(arguments)
        accessor = FileAccessor(folder, *arguments)
        get_IO_for_new_dataset(info, accessor).write_chunk(voxels().T[:, :9, :8, :16], KEY, COORDS)
        data = (folder / name).read_bytes()
        voxels_there = gzip.decompress(data) if name == in_folders else data
        assert voxels_there == voxels()[:16, :8, :9].tobytes(order="F")
        assert accessor.base_path == folder


@pytest.mark.usefixtures("installed")
def test_their_sharded_accessors_write_and_read_shards(tmp_path: Path) -> None:
    source = make(tmp_path / "source", sharding=sharding())
    info = json.loads(FsspecAccessor(source.url).fetch_file("info"))
    accessor = ShardedFileAccessor(tmp_path / "copy")
    accessor.store_file("info", json.dumps(info).encode())
    accessor.store_chunk(source.accessor.fetch_chunk(KEY, COORDS), KEY, COORDS, mime_type="application/octet-stream")
    accessor.close()
    assert np.array_equal(open_volume(tmp_path / "copy")[0][:16, :8, :9], voxels()[:16, :8, :9])
    assert ShardedFileAccessor(tmp_path / "copy").chunk_exists(KEY, COORDS)
    with http_server(tmp_path / "copy") as server:
        assert np.array_equal(first_chunk(ShardedHttpAccessor(server.url)).T, voxels()[:16, :8, :9])


@pytest.mark.usefixtures("installed")
def test_a_replicator_that_inherits_from_both_resumes(tmp_path: Path) -> None:
    """A pattern of dependents: mirrors of chunks as subclasses, with paths as objects, that skip what is there."""

    class Source(HttpAccessor):  # type: ignore[misc]
        def __init__(self, url: str) -> None:
            super().__init__(url)
            self.fetched: list[Any] = []

        def fetch_chunk(self, key: str, chunk_coords: Any) -> bytes:
            self.fetched.append(chunk_coords)
            data: bytes = super().fetch_chunk(key, chunk_coords)
            return data

    class Mirror(FileAccessor):  # type: ignore[misc]
        def mirror(self, source: Source, keys: Any) -> None:
            if not self.file_exists(pathlib.PurePosixPath("info")):
                self.store_file(pathlib.PurePosixPath("info"), source.fetch_file(pathlib.PurePosixPath("info")))
            for key, coords in keys:
                if not self.chunk_exists(key, coords):
                    self.store_chunk(source.fetch_chunk(key, coords), key, coords)

    volume = make("memory://ngs/replicated")
    chunks = [(KEY, coords) for coords in map(volume[0].grid.chunk, np.ndindex(*volume[0].grid.shape))]
    source = Source("memory://ngs/replicated")
    Mirror(tmp_path).mirror(source, chunks[:7])
    again = Source("memory://ngs/replicated")
    Mirror(tmp_path).mirror(again, chunks)
    assert len(source.fetched) == 7
    assert len(again.fetched) == len(chunks) - 7
    assert np.array_equal(open_volume(tmp_path)[0][:], voxels())


# ---------------------------------------------------------------------------------------------------- the command line


def test_a_tool_runs_on_any_url(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    array = np.arange(20 * 15 * 10, dtype=np.uint16).reshape(20, 15, 10)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "brain.nii")
    url = "memory://ngs/tool"
    assert main(["ngs", "volume-to-precomputed-pyramid", "--no-gzip", str(tmp_path / "brain.nii"), url]) == 0
    assert np.array_equal(open_volume(url)[0][..., 0], array)
    assert neuroglancer_scripts.accessor.get_accessor_for_url is theirs_get


def test_an_unknown_tool_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ngs", "volume-to-precomputd"]) == 2
    assert "did you mean 'volume-to-precomputed'" in capsys.readouterr().err


def test_shards_of_a_tool_are_complete_when_it_has_ended(tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "source", np.ones((130, 70, 70), np.uint8), resolution=1000, scales=1)
    info = {**volume.info.to_dict()}
    info["scales"][0]["sharding"] = sharding()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/info").write_text(json.dumps(info))
    assert main(["ngs", "convert-chunks", str(tmp_path / "source"), str(tmp_path / "copy")]) == 0
    assert open_volume(tmp_path / "copy", missing="raise")[0][:].all()


def test_a_tool_that_fails_leaves_no_chunks_waiting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = create_volume(tmp_path / "source", np.ones((130, 70, 70), np.uint8), resolution=1000, scales=1)
    (tmp_path / "source" / volume[0].key / "128-130_64-70_64-70").unlink()
    info = {**volume.info.to_dict()}
    info["scales"][0]["sharding"] = sharding()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/info").write_text(json.dumps(info))
    assert main(["ngs", "convert-chunks", str(tmp_path / "source"), str(tmp_path / "copy")]) != 0
    assert "128-130_64-70_64-70" in capsys.readouterr().err
    assert open_volume(tmp_path / "copy", missing="raise")[0][:128, :64, :64].all()


@pytest.mark.parametrize("odd", [None, object(), types.ModuleType("odd")])
def test_modules_of_any_kind_are_passed_over(monkeypatch: pytest.MonkeyPatch, odd: Any) -> None:
    """An entry of None forbids an import; packages put objects of their own there, too."""
    if isinstance(odd, types.ModuleType):
        odd.__name__ = None  # type: ignore[assignment]
    before = neuroglancer_scripts.accessor.get_accessor_for_url
    monkeypatch.setitem(sys.modules, "odd", odd)
    precomputed_fs.install()
    assert neuroglancer_scripts.accessor.get_accessor_for_url is ngs.get_accessor_for_url
    precomputed_fs.uninstall()
    assert neuroglancer_scripts.accessor.get_accessor_for_url is before


@pytest.mark.usefixtures("installed")
def test_threads_that_share_an_accessor_share_what_waits(tmp_path: Path) -> None:
    shared = ShardedFileAccessor(tmp_path)
    barrier = threading.Barrier(8)

    def ours(_: int) -> FsspecAccessor:
        barrier.wait()
        return ngs._accessor(shared)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert len(set(map(id, threads.map(ours, range(8))))) == 1


@pytest.mark.usefixtures("installed")
def test_closing_writes_what_waits_at_each_place(tmp_path: Path) -> None:
    whole = {"array": np.full((8, 8, 8), 5, "uint8"), "chunk_size": 8, "sharding": sharding(), "overwrite": True}
    volumes = [make(tmp_path / name, **whole) for name in "ab"]
    accessor = ShardedFileAccessor(tmp_path / "a")
    accessor.store_chunk(bytes([7]) * 512, KEY, (0, 8, 0, 8, 0, 8), overwrite=True)
    accessor.base_dir = tmp_path / "b"
    accessor.store_chunk(bytes([7]) * 512, KEY, (0, 8, 0, 8, 0, 8), overwrite=True)
    accessor.close()
    assert [(open_volume(volume.url)[0][:] == 7).all() for volume in volumes] == [True, True]
