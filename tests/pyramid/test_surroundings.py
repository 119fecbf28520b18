"""What is said of a place without `info`: which pyramid was probably meant; with few requests, and after a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from precomputed_fs import NotFoundError, create_volume, doctor, open_volume
from tests.support import servers

if TYPE_CHECKING:
    from pathlib import Path

VOXELS = np.zeros((4, 4, 4), np.uint8)


def said(url: str | Path, **options: object) -> str:
    """Return why a pyramid cannot be opened."""
    with pytest.raises(NotFoundError) as caught:
        open_volume(url, **options)  # type: ignore[arg-type]
    return str(caught.value).replace(str(url).rstrip("/"), "HERE")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Make a folder of two pyramids."""
    for name in ("brain", "labels"):
        create_volume(tmp_path / "lab" / name, VOXELS, resolution=8)
    return tmp_path / "lab"


def test_a_folder_of_pyramids_lists_them(lab: Path) -> None:
    assert said(lab) == "HERE/info does not exist; there are pyramids in it: HERE/brain, HERE/labels"
    for i in range(5):
        create_volume(lab / f"z{i}", VOXELS, resolution=8)
    assert said(lab).endswith("HERE/z2 and 2 more")


def test_a_bucket_of_pyramids_lists_them_in_a_few_requests(lab: Path, s3_server: servers.S3Server) -> None:
    s3_server.create_bucket("surroundings")
    options = {"storage_options": s3_server.storage_options}
    info = (lab / "brain" / "info").read_bytes()
    for i in range(30):
        s3_server.put("surroundings", f"lab/{i:02}/info", info)
    s3_server.log.clear()
    found = said("s3://surroundings/lab", **options)
    assert found.endswith("it: HERE/00, HERE/01, HERE/02, HERE/03, HERE/04 and 15 more (of the first 20 folders)")
    assert s3_server.log.count() <= 6 + 1 + 1 + 20  # `info` by its names, `info.partial`, a listing, the folders


def test_other_files_are_named(lab: Path) -> None:
    (lab / "notes").mkdir()
    for name in ("a.txt", "b.txt"):
        (lab / "notes" / name).touch()
    assert said(lab / "notes") == "HERE/info does not exist; only this is there: a.txt, b.txt; is the URL right?"


def test_a_folder_of_a_pyramid_leads_to_it(lab: Path) -> None:
    (lab / "brain" / "finest").mkdir()
    (lab / "brain" / "finest" / "0-4_0-4_0-4").touch()
    assert said(lab / "brain" / "finest").endswith(f"did you mean the pyramid, {lab}/brain?")


def test_over_http_too(lab: Path) -> None:
    with servers.http_server(lab) as server:
        assert said(f"{server.url}/brain/finest").endswith(f"did you mean the pyramid, {server.url}/brain?")


def test_a_misspelt_name_leads_to_the_nearest(lab: Path) -> None:
    assert said(lab / "brian").endswith("nothing is there; did you mean 'brain'?")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("brain.nii.gz", "create_volume(url, 'HERE') makes a pyramid of"),
        ("brain.h5", "read it as an array"),
        ("brain.zip", "zip://folder::HERE?"),
        ("$HOME/brain", "os.path.expandvars"),
    ],
)
def test_files_and_variables(name: str, meant: str, tmp_path: Path) -> None:
    assert meant in said(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "what"), [(".zattrs", "a Zarr"), ("zarr.json", "a Zarr"), ("attributes.json", "an N5")]
)
def test_another_format(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert f"this is {what}, which" in said(tmp_path)


def test_where_nothing_is_known_the_names_are_counted(tmp_path: Path) -> None:
    assert said(tmp_path / "a" / "b").endswith("was all of it uploaded? (looked under 6 names)")


def test_doctor_says_it_too(lab: Path) -> None:
    assert "there are pyramids in it" in str(doctor(lab))
