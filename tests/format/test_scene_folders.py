"""Which folders `info` names, and where they are."""

from __future__ import annotations

from typing import Any

import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.info import Info
from precomputed_fs.format.scene_folders import SceneFolder, resolved, scene_folders

SCALE = {"key": "1", "size": [1, 1, 1], "resolution": [1, 1, 1], "chunk_sizes": [[1, 1, 1]], "encoding": "raw"}


def info_of(**members: Any) -> Info:
    return Info.parse({"data_type": "uint32", "num_channels": 1, "scales": [SCALE], **members})


def test_the_folders_are_in_one_order_whatever_that_of_info() -> None:
    info = info_of(skeletons="skeletons_mip_1", mesh="mesh", segment_properties="props")
    assert [(folder.member, folder.path, folder.kind) for folder in scene_folders(info)] == [
        ("segment_properties", "props", "segment properties"),
        ("mesh", "mesh", "meshes"),
        ("skeletons", "skeletons_mip_1", "skeletons"),
    ]
    assert info.mesh == "mesh"


@pytest.mark.parametrize("given", [None, ""])
def test_an_empty_path_names_no_folder(given: str | None) -> None:
    """As cloud-volume has it; Neuroglancer takes null for an error and "" for the volume's own folder."""
    info = info_of(mesh=given)
    assert scene_folders(info) == ()
    assert info.to_dict()["mesh"] == given


@pytest.mark.parametrize("given", [5, True, ["mesh"], {"a": 1}, "a\0b"])
def test_what_is_not_a_path_is_invalid(given: Any) -> None:
    with pytest.raises(InvalidInfoError, match="info: skeletons: expected the path of a folder, got "):
        info_of(skeletons=given)


@pytest.mark.parametrize(
    ("given", "path", "is_inside"),
    [
        ("mesh", "mesh", True),
        ("./a//b/", "a/b", True),
        ("/mesh", "mesh", True),
        ("a/../mesh", "mesh", True),
        (".", "", False),
        ("a/..", "", False),
        ("..", "..", False),
        ("../meshes", "../meshes", False),
        ("a/../../../b", "../../b", False),
        ("..mesh", "..mesh", True),
        ("gs://bucket/mesh", "gs:/bucket/mesh", False),
    ],
)
def test_paths_are_resolved_as_by_the_client(given: str, path: str, is_inside: bool) -> None:
    (folder,) = scene_folders(info_of(mesh=given))
    assert (folder.path, folder.is_inside, folder.given) == (path, is_inside, given)


def test_a_folder_contains_itself_and_what_is_in_it() -> None:
    folder = SceneFolder("mesh", "a/b", "a/b")
    assert [folder.contains(path) for path in ("a/b", "a/b/c", "a/bc", "a")] == [True, True, False, False]
    assert resolved("mesh", "../../x") == "../x"
