"""How the objects below a folder are listed, on every protocol that can list."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs.errors import DataAccessError
from precomputed_fs.store import walking
from precomputed_fs.store.location import resolve
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.protocols.clouds import page_below
from precomputed_fs.store.requests import Listed, Page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place

BODIES = {
    "mesh/info": b"{}",
    "mesh/1:0": b"12345",
    "mesh/a/b/c": b"",
    "mesh/a/d": b"1",
    "mesh.old": b"x",
    "mesh2/x": b"x",
}


def opened(place: Place) -> ObjectStore:
    return ObjectStore(resolve(place.url, storage_options=place.storage_options), attempts=1, timeout=10)


def walked(store: ObjectStore, folder: str = "mesh") -> tuple[list[Listed], int]:
    """Return what is found, and on how many pages."""
    found: list[Listed] = []
    more, pages = None, 0
    while pages == 0 or more is not None:
        page = store.list_page(folder, more)
        assert page is not None
        found += page.objects
        more, pages = page.more, pages + 1
    return found, pages


def test_all_objects_below_a_folder_are_listed(pyramid: Place) -> None:
    for name, body in BODIES.items():
        pyramid.put(name, body)
    expected = sorted((name, len(body)) for name, body in BODIES.items() if name.startswith("mesh/"))
    store = opened(pyramid)
    assert sorted(walked(store)[0]) == expected
    assert walked(store, "none") == ([], 1)
    assert sorted(walked(store, "mesh/a")[0]) == [("mesh/a/b/c", 0), ("mesh/a/d", 1)]
    store.close()


def test_an_archive_is_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, body in BODIES.items():
            archive.writestr(f"brain/{name}", body)
    store = ObjectStore(resolve(f"zip://brain::{tmp_path}/a.zip"), attempts=1, timeout=10)
    assert sorted(walked(store, "mesh/a")[0]) == [("mesh/a/b/c", 0), ("mesh/a/d", 1)]


def test_a_web_server_has_no_listings(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("http")
    place.put("mesh/info", b"{}")
    assert opened(place).list_page("mesh") is None


@pytest.mark.parametrize("protocol", ["s3", "gcs"])
def test_a_page_is_one_request(
    protocol: str, make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = {"s3": 11, "gcs": 1001}[protocol]
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    place = make_pyramid(protocol)
    for i in range(count):
        place.put(f"mesh/{i:04}", b"x")
    store = opened(place)
    store.list_page("elsewhere")
    place.server.log.clear()
    found, pages = walked(store)
    assert (len({name for name, _ in found}), pages, place.server.log.count()) == (count, 2, 2)
    store.close()


def test_a_folder_is_listed_a_page_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "_MOST_OBJECTS", 2)
    for name in ("a", "b", "c", "d/e", "d/f/g"):
        (tmp_path / "mesh" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mesh" / name).write_bytes(b"1")
    found, pages = walked(ObjectStore(resolve(tmp_path), attempts=1, timeout=10))
    assert (len(set(found)), len(found), pages) == (5, 5, 3)


def test_symbolic_links_are_followed_unless_in_circles(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "1").write_bytes(b"123")
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "more").symlink_to(tmp_path / "there")
    (tmp_path / "mesh" / "2").symlink_to(tmp_path / "there" / "1")
    (tmp_path / "mesh" / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "mesh" / "pipe")
    store = ObjectStore(resolve(tmp_path), attempts=1, timeout=10)
    assert sorted(walked(store)[0]) == [("mesh/2", 3), ("mesh/more/1", 3)]
    (tmp_path / "mesh" / "again").symlink_to(tmp_path / "mesh")
    with pytest.raises(DataAccessError, match="does a symbolic link lead to a folder above it"):
        walked(store)


def test_a_listing_that_has_failed_half_way_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mesh").mkdir()

    def entries(*_: Any) -> Any:
        yield from ()
        message = "I/O error"
        raise OSError(message)

    store = ObjectStore(resolve(tmp_path), attempts=1, timeout=10)
    walker = walking.Walker(store.protocol, "mesh")  # type: ignore[arg-type]
    monkeypatch.setattr(type(store.protocol), "entries", entries)
    for _ in range(2):
        with pytest.raises(OSError, match="I/O error"):
            walker.page(None, str(tmp_path / "mesh"))


def test_what_stands_for_a_folder_in_a_bucket_is_not_an_object() -> None:
    listed = [("lab/mesh/", 0), ("lab/mesh/a", 1), ("lab/mesh/b/", 0)]
    assert page_below("lab/mesh/", listed, "") == Page([Listed("a", 1)], None)
