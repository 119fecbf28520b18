"""What the web client gets of folders of meshes, skeletons, segment properties and annotations."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import InvalidInfoError, NotFoundError, open_volume, serve
from precomputed_fs.scene.folder import Folder
from tests.support import servers
from tests.view.serving import ask, points_info, put, raw_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.view.server import Server

FRAGMENTS = bytes(range(250)) * 40
LEGACY, MULTILOD = b'{"@type": "neuroglancer_legacy_mesh"}', b'{"@type": "neuroglancer_multilod_draco"}'
PROPERTIES = b'{"@type": "neuroglancer_segment_properties"}'


def named(**members: Any) -> dict[str, Any]:
    """Describe a volume that names folders."""
    return {**raw_info(), **members}


def files_in(folder: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


# --------------------------------------------------------------------------------------------------------------- ranges


def test_only_the_part_of_a_mesh_that_is_asked_for_is_read(run: Callable[..., Server], tmp_path: Path) -> None:
    put(tmp_path, named(mesh="mesh"), {"mesh/info": MULTILOD, "mesh/7": FRAGMENTS})
    with servers.http_server(tmp_path) as store:
        server = run(store.url)
        store.log.clear()
        answer = ask(f"{server.url}/mesh/7", Range="bytes=1000-1999")
        assert (answer.status, answer.body) == (206, FRAGMENTS[1000:2000])
        assert [entry.headers.get("Range") for entry in store.log.entries()] == ["bytes=1000-1999"]


def test_a_part_of_what_is_compressed_is_that_of_what_is_in_it(run: Callable[..., Server], tmp_path: Path) -> None:
    put(tmp_path, named(mesh="mesh"), {"mesh/info": MULTILOD, "mesh/7.gz": gzip.compress(FRAGMENTS)})
    server = run(tmp_path)
    assert ask(f"{server.url}/mesh/7", Range="bytes=1000-1999").body == FRAGMENTS[1000:2000]
    assert ask(f"{server.url}/info", Range="bytes=0-0").body == b"{"


# -------------------------------------------------------------------------------------------------------------- outside


def test_what_info_names_outside_of_the_pyramid_is_shown(run: Callable[..., Server], tmp_path: Path) -> None:
    files_in(tmp_path, {"meshes/info": LEGACY, "meshes/1:0": b"[1]", "props/info": PROPERTIES})
    put(tmp_path / "lab" / "brain", named(mesh="../../meshes", segment_properties="../../props/", skeletons="skel"), {})
    server = run(tmp_path / "lab" / "brain")
    info = json.loads(ask(f"{server.url}/info").body)
    assert info["skeletons"] == "skel"
    assert ask(f"{server.url}/{info['mesh']}/info").body == LEGACY
    assert ask(f"{server.url}/{info['mesh']}/1:0").body == b"[1]"
    assert ask(f"{server.url}/{info['mesh']}/1:0", Range="bytes=1-1").body == b"1"
    assert ask(f"{server.url}/{info['segment_properties']}/info").body == PROPERTIES
    assert info["mesh"] != info["segment_properties"]


@pytest.mark.parametrize(
    "mesh", ["../secret", "../props", "../none", "../../../../../../../../..", "http://127.0.0.1:9/mesh", ".."]
)
def test_a_folder_that_is_not_what_it_is_named_as_is_not_shown(
    run: Callable[..., Server], tmp_path: Path, mesh: str
) -> None:
    files_in(tmp_path, {"secret/id_rsa": b"secret", "secret/info": b"{}", "props/info": PROPERTIES, "info": b"{}"})
    put(tmp_path / "brain", named(mesh=mesh), {})
    server = run(tmp_path / "brain")
    shown = json.loads(ask(f"{server.url}/info").body)["mesh"]
    assert shown == mesh
    assert ask(f"{server.url}/outside.0/id_rsa").status == 404


def test_nothing_leads_out_of_a_folder_that_is_outside(run: Callable[..., Server], tmp_path: Path) -> None:
    files_in(tmp_path, {"meshes/info": LEGACY, "secret": b"secret", "meshes/1": b"1"})
    (tmp_path / "meshes" / "2").symlink_to(tmp_path / "secret")
    put(tmp_path / "brain", named(mesh="../meshes"), {})
    for follow_links in (False, True):
        server = run(tmp_path / "brain", follow_links=follow_links)
        url = f"{server.url}/{json.loads(ask(f'{server.url}/info').body)['mesh']}"
        assert ask(f"{url}/1").body == b"1"
        assert ask(f"{url}/%2e%2e/secret").status == 404
        assert ask(f"{url}/2").status == (200 if follow_links else 502)
        assert ask(f"{url}/2", Range="bytes=0-0").status == (206 if follow_links else 502)


# ---------------------------------------------------------------------------------------------------------------- alone


def test_annotations_are_served_alone(run: Callable[..., Server], tmp_path: Path) -> None:
    files_in(tmp_path / "points", {"info": points_info(), "by_id/7": b"seven", "spatial0/0_0_0": b"cell"})
    server = run(tmp_path / "points")
    assert ask(f"{server.url}/info").body == points_info()
    assert ask(f"{server.url}/by_id/7").body == b"seven"
    assert ask(f"{server.url}/spatial0/0_0_0").body == b"cell"
    assert ask(f"{server.zarr_url}/zarr.json").status == 404
    assert repr(server).startswith(f"<Server of {tmp_path}/points: port ")
    with pytest.raises(AttributeError, match="points is not a volume: annotations are served"):
        _ = server.volume


def test_of_an_index_of_annotations_that_is_outside_only_its_files_are_shown(
    run: Callable[..., Server], tmp_path: Path
) -> None:
    files = {"7": b"seven", "0_1_2": b"cell", "0f.shard": b"shard", "id_rsa": b"secret", "sub/7": b"no", "info": b"{}"}
    files_in(tmp_path / "index", files)
    spatial = [{"key": "../index"}]
    given = points_info(by_id={"key": "../index"}, spatial=spatial, relationships=[{"id": "a", "key": "here"}])
    server = run(files_in(tmp_path / "points", {"info": given}))
    info = json.loads(ask(f"{server.url}/info").body)
    assert [*info["dimensions"]] == ["y", "x", "z"], "their order tells which is which"
    assert info["relationships"][0]["key"] == "here"
    for key in (info["by_id"]["key"], info["spatial"][0]["key"]):
        found = {name: ask(f"{server.url}/{key}/{name}").status for name in files}
        assert {name for name, status in found.items() if status == 200} == {"7", "0_1_2", "0f.shard"}


def test_a_folder_that_is_open_is_served_and_stays_open(run: Callable[..., Server], tmp_path: Path) -> None:
    put(tmp_path, named(mesh="mesh"), {"mesh/info": LEGACY, "mesh/1:0": b"[1]"})

    class Opened:
        folder = Folder(open_volume(tmp_path).pyramid, "mesh")

    server = run(Opened())
    assert ask(f"{server.url}/1:0").body == b"[1]"
    assert ask(f"{server.url}/../info").status == 404
    with pytest.raises(TypeError, match="anon: for URLs"):
        serve(Opened(), anon=True)


def test_what_is_neither_a_volume_nor_a_folder_of_a_known_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInfoError, match="@type: expected 'neuroglancer_multiscale_volume', got 'other'"):
        serve(files_in(tmp_path / "a", {"info": b'{"@type": "other"}'}))
    with pytest.raises(NotFoundError):
        serve(tmp_path / "none")

    class Opened:
        folder = Folder.open(tmp_path / "a")

    with pytest.raises(InvalidInfoError, match="a/info: @type: expected one of neuroglancer_legacy_mesh, "):
        serve(Opened())
