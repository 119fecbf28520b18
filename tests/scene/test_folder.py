"""Folders beside the scales: found where `info` names them, or opened alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    AlreadyExistsError,
    FsspecAccessor,
    InvalidInfoError,
    Mesh,
    NotFoundError,
    URLError,
    copy_pyramid,
    create_annotations,
    create_segment_properties,
    create_volume,
    doctor,
    open_annotations,
    open_volume,
)
from precomputed_fs.__main__ import main
from precomputed_fs.scene.folder import Folder
from tests.scene.samples import labels

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("named", "there"), [("mesh", "v/mesh"), ("mesh/", "v/mesh"), ("a/b", "v/a/b"), ("../mesh", "mesh")]
)
def test_a_folder_is_found_relative_to_the_pyramid(tmp_path: Path, named: str, there: str) -> None:
    pyramid = FsspecAccessor(tmp_path / "v").pyramid
    Folder.beside(pyramid, named, "mesh").store_info({"@type": "x"})
    assert (tmp_path / there / "info").read_text() == '{"@type": "x"}'
    alone = Folder.open(tmp_path / there)
    assert alone.info() == Folder.beside(pyramid, named, "mesh").info() == {"@type": "x"}
    assert alone.shown("info") == str(tmp_path / there / "info")


@pytest.mark.parametrize("given", ["", None, 3, ["mesh"], "../../x"])
def test_a_member_that_names_no_folder_is_refused(given: Any) -> None:
    pyramid = FsspecAccessor("s3://bucket/pyramid", anon=True).pyramid
    with pytest.raises(InvalidInfoError, match="s3://bucket/pyramid/info: mesh"):
        Folder.beside(pyramid, given, "mesh")


def test_an_absolute_url_is_not_followed() -> None:
    pyramid = FsspecAccessor("s3://bucket/pyramid", anon=True).pyramid
    with pytest.raises(URLError, match="'gs://other/mesh': open that"):
        Folder.beside(pyramid, "gs://other/mesh?token=1", "mesh")
    with pytest.raises(URLError, match="'https://other/mesh': open that"):
        Folder.beside(pyramid, "https://user:hidden@other/mesh", "mesh")


def test_an_absent_info_is_told_with_its_url(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    assert folder.info_if_any() is None
    with pytest.raises(NotFoundError, match=re.escape(str(tmp_path / "info"))):
        folder.info()


def test_an_info_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "info").write_text("[1]")
    with pytest.raises(InvalidInfoError, match="expected a JSON object, got list"):
        Folder.open(tmp_path).info()


def test_what_is_there_instead_of_an_info_is_told(tmp_path: Path) -> None:
    (tmp_path / "lab/skeletons").mkdir(parents=True)
    (tmp_path / "lab/skeletons/info").write_text('{"@type": "neuroglancer_skeletons"}')
    with pytest.raises(NotFoundError, match=r"lab/info does not exist; .*skeletons"):
        Folder.open(tmp_path / "lab").info()


def test_an_info_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    volume = labels(tmp_path)
    volume.store_meshes({1: Mesh([[0, 0, 0], [8, 0, 0], [0, 8, 0]], [[0, 1, 2]])})
    before = {name: (tmp_path / name).read_bytes() for name in ("info", "mesh/info")}
    properties: dict[str, Any] = {"table": {"label": ["a"]}, "ids": [1], "overwrite": True}
    array = np.zeros((2, 3), np.uint8)
    for store, there in (
        (lambda: create_segment_properties(tmp_path, **properties), "a volume"),
        (lambda: volume.store_segment_properties(folder="mesh", **properties), "meshes"),
        (lambda: create_annotations(tmp_path, array, overwrite=True), "a volume"),
        (lambda: create_annotations(tmp_path / "mesh", array, overwrite=True), "meshes"),
        (lambda: create_volume(tmp_path / "mesh", array[..., None], resolution=1, overwrite=True), "meshes"),
        (lambda: create_volume(tmp_path / "mesh", volume.info, overwrite=True), "meshes"),
    ):
        with pytest.raises(AlreadyExistsError, match=f"there is the info of {there}, and overwrite=True does not"):
            store()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not [*tmp_path.rglob("*.partial")]


def test_a_copy_does_not_replace_annotations(tmp_path: Path) -> None:
    create_annotations(tmp_path / "points", np.zeros((2, 3)))
    volume = labels(tmp_path / "volume")
    with pytest.raises(AlreadyExistsError, match="there is the info of annotations, and overwrite=True does not"):
        copy_pyramid(volume.url, tmp_path / "points", overwrite=True)
    assert len(open_annotations(tmp_path / "points").within()) == 2


@pytest.mark.parametrize("url", ["https://u:hidden@h/x", "s3://b/x?token=hidden"])
def test_a_url_in_the_place_of_a_folder_shows_no_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    volume = labels(tmp_path / "volume")
    (tmp_path / "volume" / "info").write_bytes(json.dumps({**volume.info.to_dict(), "mesh": url}).encode())
    volume = open_volume(tmp_path / "volume")
    with pytest.raises(AlreadyExistsError) as refused:
        volume.store_meshes({}, folder="other")
    with pytest.warns(UserWarning, match="meshes in") as left_out:
        copy_pyramid(volume.url, tmp_path / "copy")
    assert main(["info", volume.url]) == 0
    told = [volume, volume._repr_html_(), refused.value, left_out[0].message, doctor(volume.url), capsys.readouterr()]
    assert all("x" in str(text) for text in told)
    assert "hidden" not in " ".join(map(str, told))
