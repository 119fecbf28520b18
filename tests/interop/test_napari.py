"""napari's reader plugin: its manifest, what it opens, and the layers that it makes."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import precomputed_fs.interop
from precomputed_fs import create_volume
from precomputed_fs.interop.napari import get_reader, read
from tests.interop.samples import OFFSET, RESOLUTION, SIZE, make, voxels

with warnings.catch_warnings():  # of pydantic
    warnings.simplefilter("ignore")
    npe2: Any = pytest.importorskip("npe2")

MANIFEST = Path(precomputed_fs.interop.__path__[0]) / "napari.yaml"


def test_the_manifest_is_napari_s_and_announced() -> None:
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert [reader.accepts_directories for reader in manifest.contributions.readers] == [True]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {project["name"]: "precomputed_fs.interop:napari.yaml"}
    assert manifest.name == project["name"]


def test_npe2_reads_a_folder_and_a_url_by_it(tmp_path: Path) -> None:
    make(tmp_path / "brain", scales=2)
    make("memory://napari/brain", scales=2, overwrite=True)
    manager, manifest = npe2.PluginManager.instance(), npe2.PluginManifest.from_file(MANIFEST)
    manager.register(manifest)
    for path in (str(tmp_path / "brain"), "precomputed://memory://napari/brain"):
        ((data, attributes, kind),) = npe2.read([path], stack=False, plugin_name=manifest.name)
        assert (kind, attributes["name"], len(data)) == ("image", "brain", 2)
    manager.unregister(manifest.name)


@pytest.mark.parametrize("path", ["nowhere", "s3://bucket/brain", ["precomputed://a", "precomputed://b"]])
def test_other_paths_are_left_to_other_readers(path: Any) -> None:
    assert get_reader(path) is None


def test_a_folder_is_a_volume_if_it_has_an_info(tmp_path: Path) -> None:
    assert get_reader(str(tmp_path)) is None
    make(tmp_path)
    assert get_reader(str(tmp_path)) is read


@pytest.mark.parametrize(
    ("array", "options", "kind"),
    [
        (voxels((*SIZE, 1)), {}, "image"),
        (voxels((*SIZE, 1), "uint32"), {"type": "segmentation", "encoding": "compressed_segmentation"}, "labels"),
    ],
)
def test_axes_are_those_of_napari(tmp_path: Path, array: Any, options: dict[str, Any], kind: str) -> None:
    volume = make(tmp_path, array, scales=2, **options)
    ((data, attributes, found),) = read(str(tmp_path))
    assert found == kind
    for level, scale in zip(data, volume, strict=True):
        assert np.array_equal(np.asarray(level), scale[..., 0].transpose(2, 1, 0))
    assert attributes["scale"] == [40, 8, 8]
    assert attributes["units"] == ["nm"] * 3
    centre = [(first + 0.5) * size for first, size in zip(OFFSET, RESOLUTION, strict=True)]
    assert attributes["translate"] == centre[::-1]


def test_three_channels_of_bytes_are_colours_and_others_are_an_axis(tmp_path: Path) -> None:
    array = voxels((*SIZE, 3), "uint8")
    make(tmp_path / "rgb", array)
    ((data, attributes, _),) = read(str(tmp_path / "rgb"))
    assert attributes["rgb"]
    assert np.array_equal(np.asarray(data[0]), array.transpose(2, 1, 0, 3))
    make(tmp_path / "channels")
    ((data, attributes, _),) = read(str(tmp_path / "channels"))
    assert not attributes["rgb"]
    assert np.array_equal(np.asarray(data[0]), voxels().transpose(3, 2, 1, 0))
    assert attributes["scale"] == [1, 40, 8, 8]
    assert attributes["units"] == ["pixel", "nm", "nm", "nm"]


@pytest.mark.parametrize("path", ["a" * 5000, "nul\0", "precomputed:/a"])
def test_what_is_no_path_is_left_to_other_readers(path: str) -> None:
    assert get_reader(path) is None


def test_labels_that_are_not_integers_are_an_image(tmp_path: Path) -> None:
    scale = {"key": "1", "size": [4] * 3, "chunk_sizes": [[4] * 3], "resolution": [1] * 3, "encoding": "raw"}
    info = {"type": "segmentation", "data_type": "float32", "num_channels": 1, "scales": [scale]}
    create_volume(tmp_path, info)
    ((_, _, kind),) = read(str(tmp_path))
    assert kind == "image"
