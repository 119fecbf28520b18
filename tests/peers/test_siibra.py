"""siibra reads volumes by neuroglancer-scripts' classes, and so through our accessor: over HTTP and from a bucket.

It runs in a process of its own, unmodified. No network is needed: only its spaces and atlases come from there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import precomputed_fs
from precomputed_fs import create_volume
from tests.support.servers import http_server, s3_server

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(importlib.util.find_spec("siibra") is None, reason="siibra is not installed"),
]

CHAPTER = Path(precomputed_fs.__file__).parent / "guide" / "from-neuroglancer-scripts.md"
BLOCKS = re.findall(r"```python\n(.*?)```", CHAPTER.read_text(encoding="utf-8"), re.DOTALL)
ROUTES = [block for block in BLOCKS if "siibra" in block]
"""What the guide says to do for a volume that is in a bucket."""

AFFINE = np.array([[0.5, 0, 0, -20], [0, 0.5, 0, -30.25], [0, 0, 0.5, 4], [0, 0, 0, 1]])
SAVE = "__import__('nibabel').save(image, 'image.nii')\n"


def scan() -> Any:
    voxels = np.random.default_rng(0).integers(1, 200, (40, 33, 20)).astype(np.uint16)
    return nibabel.Nifti1Image(voxels, AFFINE)


def run(folder: Path, program: str, **environment: str) -> Any:
    """Run a program that makes an `image`; return this with the axes x, y, z."""
    environment |= {"SIIBRA_CACHEDIR": str(folder / "cache"), "SIIBRA_LOG_LEVEL": "WARNING"}
    command = [sys.executable, "-c", f"{program}\n{SAVE}"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return nibabel.as_closest_canonical(nibabel.load(folder / "image.nii"))


def assert_same(image: Any, expected: Any) -> None:
    assert np.array_equal(np.asanyarray(image.dataobj), np.asanyarray(expected.dataobj))
    assert np.allclose(image.affine, expected.affine)


def test_it_reads_shards_over_http(tmp_path: Path) -> None:
    """Without `install`, it finds none of these chunks."""
    create_volume(tmp_path / "brain", scan(), chunk_size=16, scales=2, sharding=True, gzip=True)
    with http_server(tmp_path) as server:
        program = f"""
import precomputed_fs
from siibra.volumes.providers import NeuroglancerProvider

provider = NeuroglancerProvider("{server.url}/brain")
assert provider.fetch() is None
precomputed_fs.install()
image = provider.fetch()
"""
        assert_same(run(tmp_path, program), scan())


@pytest.mark.parametrize("route", ROUTES, ids=["served", "from the bucket"])
def test_it_reads_a_bucket_as_the_guide_says(tmp_path: Path, route: str) -> None:
    with s3_server() as server:
        server.create_bucket("bucket")
        create_volume("s3://bucket/brain", scan(), chunk_size=16, scales=2, storage_options=server.storage_options)
        environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": server.endpoint,
        }
        assert_same(run(tmp_path, route, **environment), scan())
