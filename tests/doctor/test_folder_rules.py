"""What `doctor` says of folders beside the scales, held against cloud-volume, tensorstore and Neuroglancer."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cloudvolume
import numpy as np
import pytest

from precomputed_fs import Mesh, Skeleton, create_annotations, create_volume, doctor, open_volume
from precomputed_fs.doctor.folder_rules import FOLDER_RULES
from precomputed_fs.doctor.folders import MOST_REQUESTS
from tests.doctor.flaws import server
from tests.support import servers
from tests.support.tools import open_tensorstore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.doctor.report import Report
    from tests.support.browser import Neuroglancer

READERS = ("precomputed_fs", "neuroglancer", "cloud-volume")


def write(folder: Path, *, multiresolution: bool = True) -> None:
    """Write a segmentation with meshes, skeletons and properties."""
    volume = create_volume(folder, np.ones((8, 8, 8), np.uint64), resolution=(8, 8, 8), scales=1, gzip=False)
    corners = np.array([[0, 0, 0], [64, 0, 0], [0, 64, 0], [0, 0, 64]])
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    volume.store_meshes({1: Mesh(corners, faces)}, multiresolution=multiresolution)
    volume.store_skeletons({1: Skeleton([[0, 0, 0], [0, 0, 64]], [[0, 1]])})
    volume.store_segment_properties({"label": ["one"]}, ids=[1])


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((folder / name).read_bytes())
    change(info)
    (folder / name).write_text(json.dumps(info))


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda info: info.pop(name)


def with_(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda info: info.update(members)


def adding(name: str, data_type: str, components: int) -> Callable[[dict[str, Any]], object]:
    """Add an attribute of vertices, which no skeleton has."""
    attribute = {"id": name, "data_type": data_type, "num_components": components}
    return lambda info: info["vertex_attributes"].append(attribute)


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a folder, and who cannot read what."""

    id: str
    member: str
    change: Callable[[dict[str, Any]], object] | bytes | None
    """Of the folder's `info`: None deletes it."""

    unread: frozenset[str] = field(default_factory=frozenset)
    """The readers that cannot read the folder."""

    closed: frozenset[str] = field(default_factory=frozenset)
    """The readers that cannot read the voxels either."""

    multiresolution: bool = True


def ids(report: Report) -> set[str]:
    return {finding.rule.id for finding in report.findings}


OURS, NG, CV = (frozenset({reader}) for reader in READERS)

FLAWS = (
    Flaw("folder-absent", "skeletons", None, OURS | NG, NG),
    Flaw("folder-absent", "segment_properties", None, OURS | NG, NG),
    Flaw("mesh-info-absent", "mesh", None, multiresolution=False),
    Flaw("folder-wrong", "mesh", b"<html>", OURS | NG | CV, NG | CV),
    Flaw("folder-wrong", "skeletons", b"<html>", OURS | NG | CV, NG | CV),
    Flaw("folder-type", "mesh", with_(**{"@type": "neuroglancer_new"}), OURS | NG | CV, NG),
    Flaw("folder-type-missing", "mesh", without("@type"), OURS | NG, NG, multiresolution=False),
    Flaw("folder-type", "skeletons", with_(**{"@type": "x"}), OURS | NG, NG),
    Flaw("folder-type", "segment_properties", with_(**{"@type": "x"}), OURS | NG, NG),
    Flaw("quantization-bits", "mesh", with_(vertex_quantization_bits=12), OURS | NG, NG),
    Flaw("mesh-members", "mesh", without("lod_scale_multiplier"), NG | CV, NG | CV),
    Flaw("transform-missing", "mesh", without("transform"), CV, CV),
    Flaw("skeleton-transform", "skeletons", without("transform"), CV),
    Flaw("transform-wrong", "mesh", with_(transform=[1, 2]), OURS | NG | CV, NG | CV),
    Flaw("transform-ignored", "mesh", with_(transform=[2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0]), multiresolution=False),
    Flaw("folder-sharding-null", "skeletons", with_(sharding=None), NG, NG),
    Flaw("attributes-missing", "skeletons", without("vertex_attributes")),
    Flaw(
        "attribute-type",
        "skeletons",
        adding("a", "float64", 1),
        NG,
        NG,
    ),
    Flaw("attribute-not-drawn", "skeletons", adding("kind", "uint8", 1), NG),
    Flaw("attribute-components", "skeletons", adding("wide", "float32", 5), NG),
    Flaw("attribute-name", "skeletons", adding("1x", "float32", 1)),
    Flaw("ids-not-texts", "segment_properties", lambda info: info["inline"].update(ids=[1]), OURS | NG, NG),
    Flaw(
        "properties-otherwise",
        "segment_properties",
        lambda info: info["inline"]["properties"].append(
            {"id": "tags", "type": "tags", "tags": ["b", "a b"], "values": [[1, 0]]}
        ),
    ),
)


def made(folder: Path, flaw: Flaw) -> Report:
    write(folder, multiresolution=flaw.multiresolution)
    named = json.loads((folder / "info").read_bytes())[flaw.member]
    path = folder / named / "info"
    if flaw.change is None:
        path.unlink()
    elif isinstance(flaw.change, bytes):
        path.write_bytes(flaw.change)
    else:
        edit(folder, f"{named}/info", flaw.change)
    return doctor(folder)


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: f"{flaw.id} {flaw.member}")
def test_who_cannot_read_a_folder(tmp_path: Path, flaw: Flaw) -> None:
    report = made(tmp_path, flaw)
    assert flaw.id in ids(report)
    for reader in READERS:
        verdict = report[reader]
        assert verdict.folders[flaw.member] is (
            None if flaw.id == "folder-absent" and reader == "x" else verdict.folders[flaw.member]
        )
        knows = not (reader == "cloud-volume" and flaw.member == "segment_properties")
        assert verdict.folders[flaw.member] is ((reader not in flaw.unread) if knows else None), report
        assert verdict.scales == {"8_8_8": reader not in flaw.closed}, report
        assert verdict.ok is not bool({reader} & (flaw.unread | flaw.closed))
    assert report["tensorstore"].ok
    assert open_tensorstore(str(tmp_path), 0) is not None
    assert reads_with_cloud_volume(tmp_path, "voxels") is report["cloud-volume"].scales["8_8_8"]
    if flaw.member != "segment_properties" and flaw.id != "folder-absent":
        name = {"skeletons": "skeleton"}.get(flaw.member, flaw.member)
        assert reads_with_cloud_volume(tmp_path, name) is report["cloud-volume"].folders[flaw.member]
    assert reads_with_ours(tmp_path, flaw) is report["precomputed_fs"].folders[flaw.member]


def reads_with_cloud_volume(folder: Path, what: str) -> bool:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            volume = cloudvolume.CloudVolume(f"file://{folder}", progress=False)
            _ = volume[:, :, :] if what == "voxels" else getattr(volume, what).get(1)
        except Exception:  # noqa: BLE001 - whatever it is that it cannot
            return False
    return True


def reads_with_ours(folder: Path, flaw: Flaw) -> bool:
    volume = open_volume(folder)
    try:
        _ = volume.segment_properties if flaw.member == "segment_properties" else None
        _ = volume.meshes[1] if flaw.member == "mesh" else None
        _ = volume.skeletons[1] if flaw.member == "skeletons" and not flaw.id.startswith("attribute-") else None
    except Exception:  # noqa: BLE001
        return False
    return True


SHOWN = {"folder-absent", "quantization-bits", "folder-sharding-null", "attribute-type", "ids-not-texts"}


@pytest.mark.parametrize(
    "flaw", [flaw for flaw in FLAWS if flaw.id in SHOWN], ids=lambda flaw: f"{flaw.id} {flaw.member}"
)
def test_neuroglancer_agrees(tmp_path: Path, neuroglancer: Neuroglancer, flaw: Flaw) -> None:
    report = made(tmp_path / "pyramid", flaw)
    with servers.fault_server(server(tmp_path)) as served:
        source = f"precomputed://{served.url}/pyramid"
        with neuroglancer.show(
            source, "segmentation", position=(4, 4, 4), resolution=(8, 8, 8), size=(200, 200)
        ) as view:
            assert (view.errors == []) is report["neuroglancer"].scales["8_8_8"], view.errors


def test_each_error_is_tested() -> None:
    tested = {flaw.id for flaw in FLAWS} | {
        "not-a-volume", "folder-null", "folder-unnamed", "folder-url", "folder-suffix", "no-range-meshes",
        "folder-unreadable", "folder-invalid", "legacy-sharded",
    }  # fmt: skip
    assert {rule.id for rule in FOLDER_RULES if rule.severity == "error"} <= tested


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"mesh": None}, "folder-null"),
        ({"mesh": ""}, "folder-unnamed"),
        ({"mesh": "gs://lab/mesh"}, "folder-url"),
        ({"mesh": "../mesh"}, "folder-outside"),
        ({"type": "image"}, "beside-image"),
    ],
)
def test_what_a_volume_says_of_its_folders(tmp_path: Path, members: dict[str, Any], expected: str) -> None:
    write(tmp_path / "a")
    edit(tmp_path / "a", "info", with_(**members))
    assert expected in ids(doctor(tmp_path / "a"))


def test_an_empty_folder_and_names_with_a_suffix(tmp_path: Path) -> None:
    write(tmp_path, multiresolution=False)
    named = json.loads((tmp_path / "info").read_bytes())
    mesh = tmp_path / named["mesh"]
    (mesh / "0-8.spatial.gz").write_bytes(b"")
    assert "folder-suffix" not in ids(doctor(tmp_path)), "only cloud-volume reads it"
    (mesh / "1:0").rename(mesh / "1:0.gz")
    report = doctor(tmp_path)
    assert "folder-suffix" in ids(report)
    assert (report["neuroglancer"].folders["mesh"], report["cloud-volume"].folders["mesh"]) == (False, True)
    assert str(report["neuroglancer"]) == "only 8_8_8, segment_properties, skeletons"
    shutil.rmtree(mesh)
    assert "folder-empty" in ids(doctor(tmp_path))


def test_meshes_need_ranges_and_legacy_ones_are_not_in_shards(tmp_path: Path) -> None:
    write(tmp_path / "pyramid")
    (tmp_path / "pyramid" / "whole").touch()
    with servers.fault_server(server(tmp_path)) as served:
        assert "no-range-meshes" in ids(doctor(f"{served.url}/pyramid"))
    edit(tmp_path / "pyramid", "mesh/info", with_(**{"@type": "neuroglancer_legacy_mesh", "sharding": {"a": 1}}))
    assert "legacy-sharded" in ids(doctor(tmp_path / "pyramid"))


def test_what_stands_alone_is_examined(tmp_path: Path) -> None:
    axes = dict.fromkeys("xyz", (1, "nm"))
    create_annotations(tmp_path / "points", [[1, 2, 3]], kind="point", dimensions=axes)
    report = doctor(tmp_path / "points")
    assert [report[reader].ok for reader in report.verdicts] == [True, True, None, False, False]
    assert {finding.rule.id for finding in report.findings} == {"not-a-volume", "not-served"}
    assert str(report).startswith(f"{tmp_path}/points: annotations examined\n")
    edit(tmp_path / "points", "info", without("by_id"))
    edit(tmp_path / "points", "info", with_(lower_bound="x"))
    assert "folder-invalid" in ids(doctor(tmp_path / "points"))
    write(tmp_path / "vol")
    assert doctor(tmp_path / "vol" / "mesh")["cloud-volume"].ok


def test_requests_for_folders_are_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "pyramid"
    write(folder)
    with servers.fault_server(server(tmp_path)) as served:
        doctor(f"{served.url}/pyramid")
        without_folders = {"skeletons": "none", "mesh": "nil", "segment_properties": "no"}
        paths = [request.path for request in served.log.entries()]
        assert len([path for path in paths if path.endswith("/info")]) == 2 + 3
        edit(folder, "info", with_(**without_folders))
        served.log.clear()
        doctor(f"{served.url}/pyramid")
        asked = [request.path for request in served.log.entries()]
    for name in without_folders.values():
        assert 0 < len([path for path in asked if f"/{name}/" in path]) <= MOST_REQUESTS
