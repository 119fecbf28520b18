"""What is in the way at a destination, and places that overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    AlreadyExistsError,
    FsspecAccessor,
    InvalidInfoError,
    copy_pyramid,
    open_volume,
)
from precomputed_fs.pyramid import copies
from precomputed_fs.store.overlap import place_of
from tests.copying.samples import KEY, MURMUR, make, present, read, voxels_of
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.places import Place


def alike(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Go through names of one place, and of places inside of each other."""
    a = tmp_path / "a"
    (tmp_path / "link").symlink_to(a)
    yield str(a), str(a)
    yield str(a), f"file://{a}/"
    yield str(a), f"{a}/../a"
    yield str(a), str(tmp_path / "link")
    yield str(a), str(a / "copy")
    yield str(a), str(tmp_path)
    yield str(a), str(tmp_path / "link" / KEY)


def test_one_place_or_one_inside_the_other(tmp_path: Path) -> None:
    make(tmp_path / "a")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for source, destination in alike(tmp_path):
        with pytest.raises(ValueError, match=r"same place|one inside the other"):
            copy_pyramid(source, destination, overwrite=True)
    for source, destination in (("s3://b/x", "s3a://b/x/y"), ("gs://b/x/", "gcs://b/x"), ("memory://b", "memory:///b")):
        volume = open_volume(tmp_path / "a")
        volume.pyramid.store.location = FsspecAccessor(source).pyramid.location
        with pytest.raises(ValueError, match=r"same place|one inside the other"):
            copy_pyramid(volume, destination, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("url", "option"),
    [("az://data/brain", "account_name"), ("s3://data/brain", "endpoint_url"), ("sftp://a/b", "port")],
)
def test_containers_of_one_name_in_two_places(tmp_path: Path, url: str, option: str) -> None:
    """Options tell them apart."""
    volume = make(tmp_path)
    one, two = ({option: value, "secret" if "s3" in url else "password": "x"} for value in (9, 10))
    volume.pyramid.store.location = FsspecAccessor(url, storage_options=one).pyramid.location
    accessors = [FsspecAccessor(url, storage_options=options) for options in (one, dict(one), two)]
    place, same, other = (place_of(accessor.pyramid.location) for accessor in accessors)
    assert place == same != other
    with pytest.raises(ValueError, match="are the same place"):
        copy_pyramid(volume, FsspecAccessor(url, storage_options=one))


def test_beside_each_other_is_fine(tmp_path: Path) -> None:
    """One name begins like the other."""
    make(tmp_path / "brain")
    copied = copy_pyramid(tmp_path / "brain", tmp_path / "brain2")
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_one_place_under_two_urls(make_pyramid: Callable[[str], Place], served_folder: Path) -> None:
    """No URL tells that a server serves the destination; that it shows what was written there does."""
    served = make_pyramid("http")
    folder = served_folder / served.url.rpartition("/")[2]
    make(folder)
    before = served.contents()
    with pytest.raises(ValueError, match="are the same place"):
        copy_pyramid(served.url, folder, overwrite=True)
    assert served.contents() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_web_console_is_no_copy_in_the_way(tmp_path: Path, overwrite: bool) -> None:
    """It sends its page whatever it is asked, also to a PUT, and keeps nothing."""
    volume = make(tmp_path / "a", scales=1)
    with servers.fault_server(servers.respond(200, b"<!doctype html>")) as server:
        options: dict[str, Any] = {"storage_options": {"key": "k", "secret": "s"}, "overwrite": overwrite}
        with pytest.raises(InvalidInfoError, match=r"brain/info\.partial: expected JSON, got HTML"):
            copy_pyramid(volume, f"s3+{server.url}/bucket/brain", **options)
        assert {"PUT", "POST", "DELETE"}.isdisjoint(server.log.methods())


def test_a_page_that_was_saved_as_info_is_in_the_way_of_a_copy(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", scales=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "info").write_bytes(b"<!doctype html>")
    with pytest.raises(AlreadyExistsError, match=r"`info` already, but not of a pyramid \(.*HTML.*overwrite=True"):
        copy_pyramid(volume, tmp_path / "b")
    copy_pyramid(volume, tmp_path / "b", overwrite=True, gzip=False)
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


def test_a_pyramid_in_the_way(tmp_path: Path) -> None:
    volume = make(tmp_path / "a", scales=1)
    make(tmp_path / "b", voxels_of() + 1, scales=2)
    (tmp_path / "b" / KEY / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExistsError, match=rf"{tmp_path}/b: there is a pyramid already.*overwrite=True"):
        copy_pyramid(volume, tmp_path / "b")
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before
    copy_pyramid(volume, tmp_path / "b", overwrite=True, verify=True, gzip=False)
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())
    assert present(str(tmp_path / "b")) == present(str(tmp_path / "a"))
    assert (tmp_path / "b" / KEY / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("protocol", "there"),
    [
        ("local", {}),
        ("local", {"flat": False}),
        ("local", {"flat": False, "gzip": False}),
        ("local", {"sharding": MURMUR}),
        ("s3", {"flat": False}),
        ("s3", {"sharding": MURMUR}),
    ],
)
def test_whatever_is_in_the_way_goes(
    make_pyramid: Callable[[str], Place], tmp_path: Path, protocol: str, there: dict[str, Any]
) -> None:
    pyramid = make_pyramid(protocol)
    volume = make(tmp_path / "original", scales=1, gzip=False)
    make(pyramid, voxels_of() + 1, chunk_size=(40, 40, 40), **there)
    copied = copy_pyramid(
        volume, pyramid.url, overwrite=True, chunk_size=(80, 50, 40), storage_options=pyramid.storage_options
    )
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    names = [name for name in pyramid.names() if name.startswith(f"{KEY}/")]
    assert [name.removesuffix(".gz") for name in names] == [f"{KEY}/-5-75_7-57_100-140"]


def test_chunks_of_no_known_origin_are_in_the_way(pyramid: Place, tmp_path: Path) -> None:
    size = (40, 40, 40)
    volume = make(tmp_path / "original", scales=1, chunk_size=size)
    pyramid.put(f"{KEY}/-5-35_7-47_100-140", bytes(64000))
    with pytest.raises(AlreadyExistsError, match=f"there are chunks of unknown origin in {KEY}"):
        copy_pyramid(volume, pyramid.url, storage_options=pyramid.storage_options)
    assert pyramid.names() == [f"{KEY}/-5-35_7-47_100-140"]
    copy_pyramid(volume, pyramid.url, storage_options=pyramid.storage_options, overwrite=True)
    url, options = pyramid.url, pyramid.storage_options
    assert present(url, chunk_size=size, storage_options=options) == present(str(volume.url), chunk_size=size)


def test_more_than_one_listing_shows_goes(
    make_pyramid: Callable[[str], Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_MOST_LISTED", 10)
    there = make_pyramid("s3")
    for x in range(25):
        there.put(f"{KEY}/{x}-{x + 1}_0-1_0-1", b"old")
    volume = make(tmp_path, scales=1, chunk_size=(80, 50, 40))
    copy_pyramid(volume, there.url, storage_options=there.storage_options, overwrite=True)
    assert there.names() == [f"{KEY}/-5-75_7-57_100-140", "info"]
