"""What is relied on of fsspec's caches: where they keep copies, and what they record of each."""

from pathlib import Path

import pytest

from tests.store.protocols.conftest import open_place


@pytest.mark.parametrize("name", ["simplecache", "filecache", "blockcache"])
@pytest.mark.parametrize("check_files", [False, True])
def test_a_copy_that_we_keep_is_the_caches_own(name: str, check_files: bool, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "a").write_bytes(b"0123456789")
    options = {} if name == "simplecache" else {"check_files": check_files}
    protocol, fs, root = open_place(f"{name}::{tmp_path}/lab", cache_storage=str(tmp_path / "copies"), **options)
    path = f"{root}/a"
    assert protocol.find_copy(fs, path) is None
    protocol.keep_copy(fs, path, b"a copy")
    found = protocol.find_copy(fs, path)
    assert Path(found).read_bytes() == b"a copy"
    with fs.open(path, "rb") as file:  # fsspec takes it for one of its own
        assert file.read() == b"a copy"
    other = open_place(f"{name}::{tmp_path}/lab", cache_storage=str(tmp_path / "copies"), **options)
    assert other.protocol.find_copy(other.fs, path) == found


def test_blocks_are_no_copy(tmp_path: Path) -> None:
    protocol, fs, root = open_place(f"blockcache::{tmp_path}", cache_storage=str(tmp_path / "copies"))
    protocol.keep_copy(fs, f"{root}/a", b"a copy")
    fs._metadata.cached_files[-1][f"{root}/a"]["blocks"] = {0}
    assert fs._check_file(f"{root}/a")
    assert protocol.find_copy(fs, f"{root}/a") is None


def test_links_are_those_of_the_place_behind(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    protocol, fs, root = open_place(f"simplecache::{tmp_path}", cache_storage=str(tmp_path / "copies"))
    assert protocol.real_path(fs, f"{root}/a") == str(tmp_path / "b")
