"""What is relied on of fsspec's ZIP filesystem and of zipfile."""

import zipfile
from pathlib import Path

import pytest

from tests.store.protocols.conftest import open_place


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_is_read_however_it_is_compressed(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w", method) as archive:
        archive.writestr("lab/a", b"0123456789" * 100)
    protocol, fs, root = open_place(f"zip://lab::{tmp_path}/all.zip")
    assert isinstance(fs.zip, zipfile.ZipFile)
    assert protocol.read(fs, f"{root}/a", 1000) == b"0123456789" * 100
    assert protocol.read_range(fs, f"{root}/a", 12, 15) == b"234"
    with pytest.raises(FileNotFoundError):
        protocol.read(fs, f"{root}/b", 1000)
    protocol.close(fs)
    assert fs.zip.fp is None


def test_a_damaged_member_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", b"0123456789" * 100)
    protocol, fs, root = open_place(f"zip://::{tmp_path}/all.zip")
    fs.zip.getinfo("a").CRC ^= 1
    with pytest.raises(zipfile.BadZipFile, match="checksum"):
        protocol.read(fs, f"{root}a", 1000)
    protocol.close(fs)
