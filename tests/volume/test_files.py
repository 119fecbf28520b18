"""Files as sources, wherever they are and however they are compressed."""

import bz2
import gzip
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import nibabel
import numpy as np
import pytest
from upath import UPath

from precomputed_fs import AccessDeniedError, CorruptDataError, NotFoundError
from tests.support import servers
from tests.volume.samples import SMALL, small, store


def saved(folder: Path, suffix: str = ".nii.gz") -> Path:
    nibabel.save(nibabel.Nifti1Image(small(), np.eye(4)), folder / f"brain{suffix}")
    return folder / f"brain{suffix}"


def test_a_file_is_read_wherever_it_is(tmp_path: Path, s3_server: servers.S3Server) -> None:
    data = saved(tmp_path).read_bytes()
    s3_server.create_bucket("images")
    s3_server.put("images", "brain.nii.gz", data)
    fsspec.filesystem("memory").pipe_file("/tests/volume/images/brain.nii.gz", data)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a brain.nii.gz", data)
    for source in (
        "memory://tests/volume/images/brain.nii.gz",
        f"zip://a brain.nii.gz::{tmp_path}/images.zip",
        UPath("s3://images/brain.nii.gz", **s3_server.storage_options),
    ):
        assert np.array_equal(store(source)[0][..., 0], small())


@pytest.mark.parametrize(
    ("says", "sends"),
    [("gzip", gzip.compress), (None, gzip.compress), (None, bytes)],
    ids=["gzip", "a .gz file", "decompressed"],
)
def test_what_a_server_says_of_compression_does_not_matter(tmp_path: Path, says: str | None, sends: Any) -> None:
    """Many send .nii.gz files with the Content-Encoding gzip, and some decompress them."""
    body = sends(saved(tmp_path, ".nii").read_bytes())
    with servers.fault_server(servers.respond(200, body, {"Content-Encoding": says} if says else None)) as server:
        volume = store(f"{server.url}/brain.nii.gz?token=secret")
    assert np.array_equal(volume[0][..., 0], small())


def test_absent_files_and_folders_are_told(tmp_path: Path) -> None:
    for source in (tmp_path / "none.nii", str(tmp_path / "none.nii"), "memory://tests/volume/none.nii"):
        with pytest.raises(NotFoundError, match=r"cannot read .*none\.nii"):
            store(source)
    with pytest.raises(NotFoundError, match="is a folder: expected a file; copy_pyramid copies a pyramid"):
        store(tmp_path)


ARRAY = small((*SMALL, 3), "uint8")


@pytest.mark.parametrize("of", [np.asfortranarray, np.ascontiguousarray])
@pytest.mark.parametrize("suffix", [".npy", ".npy.gz"])
def test_a_file_of_numpy_s_is_an_array(tmp_path: Path, of: Any, suffix: str) -> None:
    with (gzip.open if suffix.endswith(".gz") else open)(tmp_path / f"array{suffix}", "wb") as file:
        np.save(file, of(ARRAY.T))
    assert np.array_equal(store(tmp_path / f"array{suffix}", axes="czyx")[0][...], ARRAY)
    with pytest.raises(TypeError, match="resolution: expected the size of a voxel"):
        store(tmp_path / f"array{suffix}", axes="czyx", resolution=None)


def test_what_a_file_holds_is_to_be_read_and_converted(tmp_path: Path) -> None:
    np.save(tmp_path / "doubles.npy", np.zeros((4, 3, 2)))
    np.save(tmp_path / "series.npy", np.zeros(8, np.uint8))
    with pytest.raises(TypeError, match=r'got float64: read the file, and pass array\.astype\("float32"\)'):
        store(tmp_path / "doubles.npy")
    with pytest.raises(ValueError, match=r"got shape \(8,\): read the file, and pass array\.reshape\(8, 1, 1\)"):
        store(str(tmp_path / "series.npy"))


def test_a_damaged_file_of_numpy_s_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([None, 1]), allow_pickle=True)
    np.save(tmp_path / "array.npy", ARRAY)
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "array.npy").read_bytes()[:-1])
    (tmp_path / "header.npy").write_bytes(b"\x93NUMPY\x01\x00")
    for name in ("objects", "truncated", "header"):
        with pytest.raises(CorruptDataError, match=rf"{name}\.npy cannot be mapped into memory"):
            store(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress], ids=["gzip", "bz2"])
def test_a_damaged_compression_is_told(tmp_path: Path, compress: Any) -> None:
    data = compress(bytes(10_000))
    for damaged in (data[:-15], data[:10] + b"damaged" + data[17:]):
        (tmp_path / "brain.nii.gz").write_bytes(damaged)
        with pytest.raises(CorruptDataError, match=r"brain\.nii\.gz: cannot be decompressed"):
            store(tmp_path / "brain.nii.gz")


def test_an_unreadable_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AccessDeniedError, match=r"cannot read .*brain\.nii"):
        store(tmp_path / "brain.nii")
