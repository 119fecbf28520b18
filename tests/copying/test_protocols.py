"""Copies from and to every protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from precomputed_fs import (
    DataAccessError,
    copy_pyramid,
    open_volume,
)
from precomputed_fs.pyramid.claims import PARTIAL
from tests.copying.samples import IDENTITY, KEY, info_of, make, scale_of, voxels_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place


def test_from_every_protocol(readable_pyramid: Place, make_pyramid: Callable[[str], Place]) -> None:
    original = make_pyramid("memory")
    make(original, gzip=False, chunk_size=(32, 32, 32))
    for name, body in original.contents().items():
        readable_pyramid.put(name, body)
    copy = make_pyramid("memory")
    source = open_volume(readable_pyramid.url, storage_options=readable_pyramid.storage_options)
    copied = copy_pyramid(source, copy.url, verify=True)
    assert copy.contents() == original.contents()
    assert copied.url == copy.accessor().url
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


@pytest.mark.usefixtures("undecoded")
def test_to_every_protocol(pyramid: Place, make_pyramid: Callable[[str], Place]) -> None:
    original = make_pyramid("memory")
    coords = [(x, x + 16, 7, 23, 100, 116) for x in (-5, 11, 27)]
    accessor = original.accessor()
    accessor.store_file("info", json.dumps(info_of([scale_of()])).encode(), mime_type="application/json")
    accessor.store_chunks(KEY, ((where, bytes([i, *range(255)]) * 16) for i, where in enumerate(coords)))
    copy_pyramid(original.url, pyramid.url, storage_options=pyramid.storage_options, verify=True)
    suffix = "" if pyramid.keeps_headers else ".gz"
    expected = {name.removesuffix(".gz") + suffix for name in original.names() if name != "info"}
    assert set(pyramid.names()) == {"info", *expected}
    for name in original.names():
        if name == "info":
            assert json.loads(pyramid.get(name)) == json.loads(original.get(name))
            continue
        there = name.removesuffix(".gz") + suffix
        assert pyramid.get(there) == original.get(name)
        if pyramid.keeps_headers:
            assert pyramid.fields(there)["ContentEncoding"] == "gzip"


def test_a_sharded_pyramid_to_every_protocol(pyramid: Place, make_pyramid: Callable[[str], Place]) -> None:
    original = make_pyramid("memory")
    make(original, sharding=IDENTITY)
    copied = copy_pyramid(original.url, pyramid.url, storage_options=pyramid.storage_options, verify=True)
    assert pyramid.contents() == original.contents()
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_into_an_archive(tmp_path: Path) -> None:
    volume = make(tmp_path / "original")
    copy_pyramid(volume, f"zip://brain::{tmp_path}/copy.zip", storage_options={"zip": {"mode": "w"}})
    copied = open_volume(f"zip://brain::{tmp_path}/copy.zip")
    for scale, original in zip(copied, volume, strict=True):
        np.testing.assert_array_equal(scale[...], original[...])
    assert PARTIAL not in (tmp_path / "copy.zip").read_bytes().decode("latin-1")
    with pytest.raises(ValueError, match="verify=False"):
        copy_pyramid(volume, f"zip://brain::{tmp_path}/b.zip", storage_options={"zip": {"mode": "w"}}, verify=True)
    before = (tmp_path / "copy.zip").stat().st_size
    with pytest.raises(DataAccessError, match=r"zip://brain/.*exists, and this kind of archive cannot replace it"):
        copy_pyramid(volume, f"zip://brain::{tmp_path}/copy.zip", storage_options={"zip": {"mode": "a"}})
    assert (tmp_path / "copy.zip").stat().st_size == before


def test_what_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"http://127.0.0.1:9/brain: .*cannot be written to"):
        copy_pyramid(make(tmp_path), "http://127.0.0.1:9/brain")
