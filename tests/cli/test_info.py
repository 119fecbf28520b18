"""What ``precomputed-fs info`` prints of what is beside a pyramid's scales, or stands alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from precomputed_fs import __main__, create_annotations, create_volume, open_volume

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def labels_with(folder: Path, files: dict[str, dict[str, Any]], **named: str) -> Path:
    """Make a segmentation whose `info` names folders, with the `info` of some of these."""
    volume = create_volume(folder, np.ones((4, 4, 4), np.uint32), resolution=8)
    (folder / "info").write_text(json.dumps({**volume.info.to_dict(), **named}))
    for name, info in files.items():
        (folder / name).mkdir()
        (folder / name / "info").write_text(json.dumps(info))
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert __main__.main(["info", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_each_folder_that_info_names_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    infos: dict[str, dict[str, Any]] = {
        "mesh": {"@type": "neuroglancer_multilod_draco", "vertex_quantization_bits": 16, "lod_scale_multiplier": 1},
        "odd": {"@type": "neuroglancer_legacy_mesh"},
    }
    folder = labels_with(tmp_path / "a", infos, mesh="mesh", skeletons="odd", segment_properties="none")
    *_, properties, meshes, skeletons = printed(capsys, folder).splitlines()
    assert properties.startswith(f"segment properties in none: {folder}/none/info does not exist")
    assert meshes.startswith(f"<Meshes {folder}/mesh: ")
    assert skeletons.startswith(f"skeletons in odd: {folder}/odd/info: @type: expected 'neuroglancer_skeletons', got ")
    as_json = json.loads(printed(capsys, folder, "--json"))
    assert as_json["mesh"] == {"folder": "mesh", "type": "neuroglancer_multilod_draco", "sharded": False}
    assert as_json["segment_properties"] == {"folder": "none", "type": None, "sharded": False}


def test_a_folder_that_leads_nowhere_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = labels_with(tmp_path / "a", {}, mesh="gs://lab/mesh")
    assert "meshes in gs://lab/mesh: " in printed(capsys, folder).splitlines()[-1]
    assert "is an absolute URL" in json.loads(printed(capsys, folder, "--json"))["mesh"]["error"]


def test_what_stands_alone_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = create_annotations(
        tmp_path / "points", [[1, 2, 3]], kind="point", dimensions=dict.fromkeys("xyz", (1, "nm"))
    )
    assert printed(capsys, tmp_path / "points") == f"{points!r}\n"
    as_json = json.loads(printed(capsys, tmp_path / "points", "--json"))
    assert (as_json["holds"], as_json["info"]["annotation_type"]) == ("annotations", "POINT")


def test_the_repr_of_a_volume_names_the_folders_without_a_request(tmp_path: Path) -> None:
    folder = labels_with(tmp_path / "a", {}, mesh="mesh", segment_properties="../a\nb")
    assert repr(open_volume(folder)) == (
        f"<Volume {folder}: segmentation of uint32, 1 scale, segment properties in ../a\\nb, meshes in mesh>"
    )
