"""All files of a folder: listed, and deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from precomputed_fs import AccessDeniedError, FsspecAccessor
from precomputed_fs.errors import ReadOnlyError
from precomputed_fs.pyramid import folders
from precomputed_fs.store import walking

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place


def test_a_folder_is_deleted_and_nothing_else(pyramid: Place) -> None:
    for name in ("mesh/1", "mesh/a/b/2", "mesh2/3", "mesh.x", "info"):
        pyramid.put(name, b"1")
    accessor = pyramid.accessor()
    assert folders.has_files(accessor.pyramid, "mesh")
    folders.delete_files(accessor.pyramid, "mesh")
    assert pyramid.names() == ["info", "mesh.x", "mesh2/3"]
    assert not folders.has_files(accessor.pyramid, "mesh")


def test_a_folder_of_many_pages_is_deleted(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_pyramid("memory")
    monkeypatch.setattr(walking, "_MOST_OBJECTS", 3)
    for i in range(10):
        place.put(f"mesh/{i}", b"1")
    assert [len(page) for page in folders.pages(place.accessor().pyramid, "mesh")] == [3, 3, 3, 1]
    folders.delete_files(place.accessor().pyramid, "mesh")
    assert place.names() == []


def test_nothing_is_deleted_where_nothing_can_be_written(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("http")
    place.put("mesh/1", b"1")
    with pytest.raises(ReadOnlyError):
        folders.delete_files(place.accessor().pyramid, "mesh")
    assert not folders.has_files(place.accessor().pyramid, "mesh"), "it cannot be listed"


def test_what_is_behind_a_link_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1").write_bytes(b"1")
    (tmp_path / "brain" / "mesh").mkdir(parents=True)
    (tmp_path / "brain" / "mesh" / "2").symlink_to(tmp_path / "other" / "1")
    pyramid = FsspecAccessor(tmp_path / "brain").pyramid
    folders.delete_files(pyramid, "mesh")
    assert [*(tmp_path / "brain" / "mesh").iterdir()] == []
    (tmp_path / "brain" / "mesh" / "more").symlink_to(tmp_path / "other")
    with pytest.raises(AccessDeniedError, match="what is there is not deleted"):
        folders.delete_files(pyramid, "mesh")
    assert (tmp_path / "other" / "1").read_bytes() == b"1"
