"""Which of the folders that `info` names are copied, and what is said of the others."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import AccessDeniedError, AlreadyExistsError, DataAccessError, copy_pyramid, open_volume
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from tests.copying.samples import IDENTITY, Run, make, voxels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from precomputed_fs.store.requests import Job, Put
    from tests.support.places import Place

SHARDED: dict[str, Any] = {"@type": "neuroglancer_skeletons", "sharding": {**IDENTITY, "shard_bits": 3}}
FILES: Mapping[str, bytes] = {
    "props/info": b'{"@type": "neuroglancer_segment_properties"}',
    "mesh/info": b'{"@type": "neuroglancer_legacy_mesh"}',
    "mesh/1:0": b'{"fragments": ["1:0:a"]}',
    "mesh/1:0:a": b"\x1f\x8b\x08 not gzip",
    "mesh/deep/er/2:0:b": b"",
    "skeletons/info": json.dumps(SHARDED).encode(),
    "skeletons/2.shard": b"shard" * 100,
    "skeletons/7.shard": b"7",
}
NAMED = {"mesh": "mesh", "skeletons": "skeletons", "segment_properties": "props"}


def make_scene(place: Place, files: Mapping[str, bytes] = FILES, **named: Any) -> Place:
    """Make a segmentation with other folders that its `info` names."""
    make_labels(place)
    info = json.loads(place.get("info"))
    place.put("info", json.dumps({**info, **NAMED, **named}).encode())
    for name, body in files.items():
        place.put(name, body)
    return place


def make_labels(place: Place) -> None:
    voxels = voxels_of("uint32", (20, 20, 20))
    if place.writable:
        make(place, voxels, type="segmentation", gzip=False)
        return
    make("memory://precomputed_fs-tests/scene", voxels, type="segmentation", gzip=False, overwrite=True)
    accessor = open_volume("memory://precomputed_fs-tests/scene").accessor
    for name in ("info", *(f"8_8_8/{name}" for name in accessor.pyramid.store.list_names("8_8_8/", 100))):
        place.put(name, accessor.fetch_file(name))


def copied(place: Place, folders: tuple[str, ...] = ("mesh/", "skeletons/", "props/")) -> dict[str, bytes]:
    return {name: body for name, body in place.contents().items() if name.startswith(folders)}


# ------------------------------------------------------------------------------------------------------------ protocols


def test_all_that_info_names_goes_to_every_protocol(pyramid: Place, make_pyramid: Callable[[str], Place]) -> None:
    source = make_scene(make_pyramid("memory"))
    copy = copy_pyramid(source.url, pyramid.url, storage_options=pyramid.storage_options, verify=True)
    assert copied(pyramid) == FILES
    assert {name: copy.info[name] for name in NAMED} == NAMED
    if pyramid.keeps_headers:
        assert pyramid.fields("mesh/1:0")["ContentType"] == "application/json"
        assert not pyramid.fields("mesh/1:0:a").get("ContentEncoding")


def test_all_that_can_be_listed_comes_from_every_protocol(
    readable_pyramid: Place, make_pyramid: Callable[[str], Place]
) -> None:
    make_scene(readable_pyramid)
    place, options = readable_pyramid, readable_pyramid.storage_options
    there = make_pyramid("memory")
    has_listings = not place.url.startswith("http") and "::http" not in place.url
    with warned(
        None if has_listings else "not copied, and not named by the copy: meshes in 'mesh', which is on a server"
    ):
        copy = copy_pyramid(open_volume(place.url, storage_options=options), there.url, verify=True)
    expected = {name: body for name, body in FILES.items() if has_listings or not name.startswith("mesh")}
    assert copied(there) == expected
    assert ("mesh" in copy.info, copy.info["skeletons"]) == (has_listings, "skeletons")


def warned(what: str | None) -> Any:
    """Expect a warning, or none: any other one is an error anyway."""
    return contextlib.nullcontext() if what is None else pytest.warns(UserWarning, match=re.escape(what))


@pytest.mark.parametrize(
    ("source", "there", "wish", "name"),
    [
        ("s3", "gcs", None, "mesh/1:0:a"),
        ("gcs", "memory", None, "mesh/1:0:a"),
        ("gcs", "memory", True, "mesh/1:0:a.gz"),
        ("gcs", "gcs", False, "mesh/1:0:a"),
        ("local", "s3", None, "mesh/1:0:a"),
        ("local", "memory", None, "mesh/1:0:a.gz"),
        ("local", "memory", False, "mesh/1:0:a"),
    ],
)
def test_compression_is_marked_as_the_place_can(
    source: str, there: str, wish: bool | None, name: str, make_pyramid: Callable[[str], Place]
) -> None:
    """As chunks: gzip stays gzip, unless only a suffix could say so, which few readers look for."""
    begin, end = make_scene(make_pyramid(source), {}, skeletons=None, segment_properties=None), make_pyramid(there)
    body, packed = b"vertices" * 99, gzip.compress(b"vertices" * 99, mtime=0)
    if begin.keeps_headers:
        begin.put("mesh/1:0:a", packed, "gzip")
    else:
        begin.put("mesh/1:0:a.gz", packed)
    volume = open_volume(begin.url, storage_options=begin.storage_options)
    copy_pyramid(volume, end.url, storage_options=end.storage_options, gzip=wish, verify=True)
    is_said = end.keeps_headers and wish is not False
    assert copied(end) == {name: packed if is_said or name.endswith(".gz") else body}
    if end.keeps_headers:
        assert end.fields(name).get("ContentEncoding") == ("gzip" if is_said else None)


def test_folders_are_copied_on_a_cluster(make_pyramid: Callable[[str], Place], dask_client: Any) -> None:
    source, there = make_scene(make_pyramid("local")), make_pyramid("s3")
    copy_pyramid(source.url, there.url, client=dask_client, storage_options=there.storage_options, verify=True)
    assert copied(there) == FILES


def test_folders_are_copied_into_an_archive(make_pyramid: Callable[[str], Place], tmp_path: Path) -> None:
    source = make_scene(make_pyramid("memory"))
    copy_pyramid(source.url, f"zip://brain::{tmp_path}/copy.zip", storage_options={"zip": {"mode": "w"}})
    with zipfile.ZipFile(tmp_path / "copy.zip") as archive:
        found = {name.removeprefix("brain/"): archive.read(name) for name in archive.namelist()}
    assert {name: body for name, body in found.items() if not name.startswith(("8_8_8", "16_", "32_", "info"))} == FILES


def test_requests_are_few(make_pyramid: Callable[[str], Place]) -> None:
    source = make_scene(make_pyramid("s3"))
    volume = open_volume(source.url, storage_options=source.storage_options)
    server = source.server
    counts = []
    for scene in (False, True):
        there = make_pyramid("s3")
        server.log.clear()
        copy_pyramid(volume, there.url, storage_options=there.storage_options, scene=scene)
        counts.append((server.log.count("GET"), server.log.count("PUT")))
    gets, puts = (more - fewer for fewer, more in zip(*counts, strict=True))
    assert puts == len(FILES)
    plan = 3 + 2 + 1  # a page of each folder, the info of meshes and skeletons, and properties that these name: none
    there_before = 3  # whether there is anything in the way
    assert gets <= plan + there_before + 3 + len(FILES), "a page of each folder, and each file"


# ------------------------------------------------------------------------------------------------ what cannot be copied


def test_without_scene_nothing_of_it_is_copied_nor_named(make_pyramid: Callable[[str], Place], run: Run) -> None:
    source, there, other = make_scene(make_pyramid("memory")), make_pyramid("memory"), make_pyramid("memory")
    copy = copy_pyramid(source.url, there.url, scene=False)
    assert not copied(there)
    assert not NAMED.keys() & copy.info.to_dict().keys()
    assert run(source.url, other.url, "--no-scene") == (0, "", "")
    assert other.contents() == there.contents()


@pytest.mark.filterwarnings("default")  # the command prints it
@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("../mesh", "meshes in '../mesh', which is not a folder in the pyramid's own"),
        (".", "meshes in '.', which is not a folder in the pyramid's own"),
        ("gs://lab/mesh", "meshes in 'gs://lab/mesh', which is a URL and not a folder of the pyramid"),
        ("a%2f..%2fb", "meshes in 'a%2f..%2fb', which is not a path inside the pyramid"),
        ("none", "meshes in 'none', where there is nothing"),
        ("8_8_8", "meshes in '8_8_8', where scale 8_8_8 is as well"),
    ],
)
def test_what_cannot_be_copied_is_named(named: str, told: str, make_pyramid: Callable[[str], Place], run: Run) -> None:
    source, there = make_scene(make_pyramid("memory"), mesh=named), make_pyramid("memory")
    warning = f"{source.accessor().url}: not copied, and not named by the copy: {told}"
    assert run(source.url, there.url) == (0, "", f"precomputed-fs: warning: {warning}\n")
    assert "mesh" not in open_volume(there.url).info
    assert copied(there) == {name: body for name, body in FILES.items() if not name.startswith("mesh")}


def test_properties_that_only_meshes_name_are_copied(make_pyramid: Callable[[str], Place]) -> None:
    files = {
        "mesh/info": json.dumps({"segment_properties": "../props"}).encode(),
        "mesh/1:0": b"{}",
        "props/info": b"{}",
    }
    source = make_scene(make_pyramid("memory"), files, segment_properties=None, skeletons=None)
    there = make_pyramid("memory")
    copy_pyramid(source.url, there.url)
    assert copied(there) == files


def test_folders_in_another_are_copied_once(make_pyramid: Callable[[str], Place]) -> None:
    files = {"mesh/1:0": b"{}", "mesh/props/info": b"{}", "mesh/skel/info": b"{}"}
    source = make_scene(make_pyramid("memory"), files, segment_properties="mesh/props", skeletons="mesh/skel")
    there = make_pyramid("memory")
    copy = copy_pyramid(source.url, there.url, verify=True)
    assert copied(there) == files
    assert copy.info["skeletons"] == "mesh/skel"


def test_a_web_server_is_asked_for_what_has_a_known_name(make_pyramid: Callable[[str], Place]) -> None:
    place, there = make_scene(make_pyramid("http"), mesh=None), make_pyramid("memory")
    volume = open_volume(place.url)
    place.server.log.clear()
    copy_pyramid(volume, there.url)
    assert copied(there) == {name: body for name, body in FILES.items() if not name.startswith("mesh")}
    asked = [entry for entry in place.server.log.entries() if "/skeletons/" in entry.path]
    assert len(asked) == 1 + (1 + 8) + 3, "info for the plan, each name that there may be, and what there is"


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (b'{"@type": "neuroglancer_skeletons"}', "which is on a server that cannot list files"),
        (b"[", "which is on a server that cannot list files"),
        (
            json.dumps({"sharding": {**IDENTITY, "shard_bits": 17}}).encode(),
            "which is on a server that cannot list files, and has too many shards to look for each",
        ),
    ],
)
def test_a_folder_without_listing_is_copied_whole_or_not_at_all(
    info: bytes, why: str, make_pyramid: Callable[[str], Place]
) -> None:
    place = make_scene(make_pyramid("http"), {"skeletons/info": info}, mesh=None, segment_properties=None)
    there = make_pyramid("memory")
    with warned(f"skeletons in 'skeletons', {why}"):
        copy = copy_pyramid(place.url, there.url)
    assert not copied(there)
    assert "skeletons" not in copy.info


def test_a_bucket_that_may_not_be_listed_is_as_a_web_server(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, there = make_scene(make_pyramid("memory")), make_pyramid("memory")
    listing = ObjectStore.list_page

    def denied(store: ObjectStore, folder: str, more: Any = None) -> Any:
        if source.url.endswith(store.location.display().rpartition("/")[2]):
            message = f"{folder}: 403"
            raise AccessDeniedError(message)
        return listing(store, folder, more)

    monkeypatch.setattr(ObjectStore, "list_page", denied)
    with warned("meshes in 'mesh', which may not be listed"):
        copy_pyramid(source.url, there.url)
    assert copied(there) == {name: body for name, body in FILES.items() if not name.startswith("mesh")}


def test_a_box_and_some_scales_have_all_of_the_scene(make_pyramid: Callable[[str], Place]) -> None:
    source, there = make_scene(make_pyramid("memory")), make_pyramid("memory")
    copy = copy_pyramid(source.url, there.url, scales=[0], box=(slice(-5, 11), slice(7, 23), slice(100, 116)))
    assert copied(there) == FILES
    assert copy[0].shape == (16, 16, 16, 1)


# ------------------------------------------------------------------------------------------------------- what is there


def test_files_of_unknown_origin_are_in_the_way(make_pyramid: Callable[[str], Place]) -> None:
    source, there = make_scene(make_pyramid("memory")), make_pyramid("memory")
    there.put("mesh/old/9:0", b"{}")
    there.put("elsewhere/9:0", b"{}")
    with pytest.raises(AlreadyExistsError, match="there are files of unknown origin in mesh"):
        copy_pyramid(source.url, there.url)
    copy_pyramid(source.url, there.url, overwrite=True)
    assert copied(there) == FILES
    assert there.get("elsewhere/9:0") == b"{}"


def test_a_copy_that_failed_among_the_meshes_is_resumed(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, there = make_scene(make_pyramid("memory")), make_pyramid("memory")
    write, written = jobs.write, list[str]()

    def failing(put: Put) -> Job[None]:
        if put.name == "mesh/1:0:a" and not written:
            message = "the disk is full"
            raise DataAccessError(message)
        if written:
            written.append(put.name)
        yield from write(put)

    monkeypatch.setattr(jobs, "write", failing)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(source.url, there.url)
    assert "info" not in there.names()
    before = copied(there)
    written.append("from now on")
    copy_pyramid(source.url, there.url)
    assert copied(there) == FILES
    assert sorted(name for name in written if name in FILES) == sorted(FILES.keys() - before.keys())


def test_shards_of_a_folder_have_the_names_of_the_specification() -> None:
    """As `FILES` has them: with 3 bits, one hexadecimal digit."""
    assert Sharding.from_info(SHARDED["sharding"], "").shard_name("skeletons", 7) == "skeletons/7"
