"""The contract of ``neuroglancer_scripts.accessor``, by the tests that come with neuroglancer-scripts itself.

They are in its source distribution only, which `.ci/run` puts into ``.neuroglancer-scripts/``.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from precomputed_fs import Accessor, URLError, get_accessor_for_url

REPO = Path(__file__).parents[2]
VERSION = importlib.metadata.version("neuroglancer-scripts")
SOURCES = REPO / ".neuroglancer-scripts" / f"neuroglancer_scripts-{VERSION}.tar.gz"
DOWNLOAD = (
    f"pip download --no-deps --no-binary neuroglancer-scripts -d .neuroglancer-scripts neuroglancer-scripts=={VERSION}"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that any user may enter."""
    with tempfile.TemporaryDirectory(prefix="precomputed_fs-") as name:
        path = Path(name).resolve()
        path.chmod(0o711)
        yield path


def make_examples(folder: Path) -> None:
    """Make the images that its repository has and its source distribution does not: labels, and an image."""
    folder.mkdir(parents=True)
    x, y, z = np.ogrid[:130, :130, :70]  # two scales, of several chunks in each of two shards
    labels = (x // 20 + 10 * (y // 20) + 100 * (z // 20)).astype(np.uint16)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "MPM.nii.gz")
    image = (2 * (x + y + z)).astype(np.int16)
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "colin27T1_seg.nii.gz")


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(not SOURCES.exists(), reason=f"the tests of neuroglancer-scripts are not here: {DOWNLOAD}")
def test_its_own_tests_pass_with_our_names_in_place(folder: Path) -> None:
    """But for those that `tests.peers.in_place` lists, each with its reason; these must fail."""
    shutil.unpack_archive(SOURCES, folder, filter="data")
    (theirs,) = folder.glob("neuroglancer_scripts-*")
    make_examples(theirs / "examples" / "JuBrain")
    command = [sys.executable, "-m", "pytest", "-p", "tests.peers.in_place", "-p", "no:cacheprovider", "-q", "-rxX"]
    result = subprocess.run(
        [*command, f"--basetemp={folder / 'tmp'}", "unit_tests", "script_tests"],
        cwd=theirs,
        env=os.environ | {"PYTHONPATH": str(REPO), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("options", [{}, {"gzip": True, "flat": False, "unknown_option": None}])
def test_an_accessor_by_its_urls(options: dict[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test of theirs asks, but for their classes and attributes."""
    monkeypatch.chdir(folder)
    for url, where in (
        ("", str(folder)),
        (".", str(folder)),
        ("file:///absolute", "/absolute"),
        ("http://example/", "http://example/"),
    ):
        accessor = get_accessor_for_url(url, options)
        assert isinstance(accessor, Accessor)
        assert accessor.url == where
    for url, said in (("weird://", "scheme"), ("file:///%ff", "decod")):
        with pytest.raises(URLError, match=said):
            get_accessor_for_url(url, options)


def test_a_relative_path_may_be_a_path(tmp_path: Path) -> None:
    """As theirs take it, and tools that build on it give it."""
    name: Any = PurePosixPath("mesh/1:0")
    accessor = get_accessor_for_url(str(tmp_path))
    assert not accessor.file_exists(name)
    accessor.store_file(name, b"{}", mime_type="application/json")
    assert accessor.file_exists(name)
    assert accessor.fetch_file(name) == b"{}"
