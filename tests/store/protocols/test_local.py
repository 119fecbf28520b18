"""Local files: what fsspec and the system do."""

import os
import time
from pathlib import Path

import pytest

from tests.store.protocols.conftest import open_place


def test_a_file_is_read_with_its_state(tmp_path: Path) -> None:
    protocol, fs, root = open_place(str(tmp_path))
    path = f"{root}/a"
    Path(path).write_bytes(b"0123456789")
    assert protocol.read(fs, path, 10) == b"0123456789"
    assert protocol.read_range(fs, path, 2, 5) == b"234"
    state = protocol.state(fs, path)
    assert (state.size, state.modified) == (fs.info(path)["size"], fs.info(path)["mtime"])
    os.utime(path, ns=(1, 1))
    assert protocol.state(fs, path).version != state.version


def test_pieces_are_those_of_a_file_of_a_certain_size(tmp_path: Path) -> None:
    protocol, fs, root = open_place(str(tmp_path))
    path = f"{root}/a"
    Path(path).write_bytes(b"0123456789")
    assert protocol.read_pieces(fs, path, 10, [(7, 9), (0, 1), (0, 1)]) == [b"78", b"0", b"0"]
    assert protocol.read_pieces(fs, path, 9, [(0, 1)]) is None
    assert protocol.read_pieces(fs, path, 10, [(8, 11)]) is None
    with pytest.raises(FileNotFoundError):
        protocol.read_pieces(fs, f"{root}/b", 10, [(0, 1)])


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    protocol, fs, root = open_place(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="only regular files"):
        protocol.read(fs, f"{root}/pipe", 10)
    with pytest.raises(OSError, match="only regular files"):
        protocol.read_pieces(fs, f"{root}/pipe", 10, [(0, 1)])
    with pytest.raises(IsADirectoryError):
        protocol.read_range(fs, root, 0, 1)
    with pytest.raises(IsADirectoryError):
        protocol.read_pieces(fs, root, 10, [(0, 1)])


def test_a_file_that_is_there_is_not_created_without_hard_links_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, fs, root = open_place(str(tmp_path))
    link = os.link

    def no_links(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted", source, target)

    for way in (link, no_links):
        monkeypatch.setattr(os, "link", way)
        for name, data in (("one", b"1"), ("two", b"2")):
            (tmp_path / name).write_bytes(data)
        protocol.publish(fs, f"{root}/one", f"{root}/a", True)
        with pytest.raises(FileExistsError):
            protocol.publish(fs, f"{root}/two", f"{root}/a", True)
        assert (tmp_path / "a").read_bytes() == b"1"
        (tmp_path / "a").unlink()


def test_a_change_of_a_folder_is_a_late_one_for_a_second(tmp_path: Path) -> None:
    protocol, fs, root = open_place(str(tmp_path))
    assert protocol.changed_lately(fs, root)
    os.utime(tmp_path, (time.time() - 2,) * 2)
    assert not protocol.changed_lately(fs, root)
    assert not protocol.changed_lately(fs, f"{root}/nothing")


def test_names_in_memory_may_always_have_changed() -> None:
    protocol, fs, root = open_place("memory://lab")
    assert protocol.changed_lately(fs, root)
