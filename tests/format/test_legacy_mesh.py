"""Manifests and fragments of legacy meshes: hostile bytes never get further than a CorruptDataError."""

from __future__ import annotations

import io
import json
import random
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from precomputed_fs import CorruptDataError
from precomputed_fs.format.legacy_mesh import (
    manifest_name,
    manifest_segment,
    pack_fragment,
    pack_manifest,
    parse_fragment,
    parse_manifest,
)
from precomputed_fs.format.mesh_geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Callable

TETRAHEDRON = Geometry(
    np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8.5]], np.float32),
    np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32),
)


def test_a_fragment_is_what_the_specification_says() -> None:
    vertices, faces = TETRAHEDRON
    expected = struct.pack("<I12f12I", 4, *vertices.ravel(), *faces.ravel())
    assert pack_fragment(TETRAHEDRON) == expected
    read = parse_fragment(expected)
    assert (read.vertices.dtype.str, read.faces.dtype.str) == ("<f4", "<u4")
    assert np.array_equal(read.vertices, vertices)
    assert np.array_equal(read.faces, faces)


def test_neuroglancer_scripts_writes_and_reads_the_same_fragments() -> None:
    mesh = pytest.importorskip("neuroglancer_scripts.mesh")
    written = io.BytesIO()
    mesh.save_mesh_as_precomputed(written, *TETRAHEDRON)
    assert written.getvalue() == pack_fragment(TETRAHEDRON)
    vertices, faces = mesh.read_precomputed_mesh(io.BytesIO(pack_fragment(TETRAHEDRON)))
    assert np.array_equal(vertices, TETRAHEDRON.vertices)
    assert np.array_equal(faces, TETRAHEDRON.faces)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "4 vertices cannot have 99 bytes"),
        (lambda data: data[:3], "cannot have 3 bytes"),
        (lambda _: b"", "0 vertices cannot have 0 bytes"),
        (lambda data: b"\xff\xff\xff\xff" + data[4:], "4294967295 vertices cannot"),
        (lambda data: data[:-4] + b"\4\0\0\0", "a triangle has the vertex 4, of 4"),
        (lambda data: data[:4] + struct.pack("<f", np.nan) + data[8:], "not a finite number"),
        (lambda _: struct.pack("<4I", 0, 0, 0, 0), "a triangle has the vertex 0, of 0"),
    ],
)
def test_a_damaged_fragment_is_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(CorruptDataError, match=message):
        parse_fragment(damage(pack_fragment(TETRAHEDRON)))


def test_mutated_fragments_are_read_or_refused() -> None:
    data = pack_fragment(TETRAHEDRON)
    refused = 0
    for chance in map(random.Random, range(300)):
        changed = bytearray(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.3 else data)
        for _ in range(min(len(changed), 3)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            read = parse_fragment(bytes(changed))
        except CorruptDataError:
            refused += 1
        else:
            assert np.isfinite(read.vertices).all()
            assert read.faces.max(initial=0) < max(1, len(read.vertices))
    assert 100 < refused < 300


def test_a_manifest_lists_each_fragment_once_in_its_order() -> None:
    data = b'{"fragments": ["7:0:b", "7:0:a", "7:0:b", "more/7"], "lod": 0}'
    assert parse_manifest(data) == ["7:0:b", "7:0:a", "more/7"]
    assert json.loads(pack_manifest(["7:0:0"])) == {"fragments": ["7:0:0"]}


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "half \ud800",
        "a//b",
        "a/",
        "%2e%2e/secret",
        "%2fetc",
        "..\\secret",
        "a\0b",
        "a\nb",
        "x" * 1025,
    ],
)
def test_a_fragment_outside_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(CorruptDataError, match="expected files of this folder"):
        parse_manifest(json.dumps({"fragments": [name]}).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"fragments": "a"}', b'{"fragments": [1]}', b"\xff", b"[" * 10**5]
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match="the manifest: "):
        parse_manifest(data)


def test_names_of_manifests_are_recognized() -> None:
    assert manifest_segment(manifest_name(2**64 - 1)) == 2**64 - 1
    for name in ("info", "7", "7:0:0", "07:0", "-7:0", ":0", "\N{ARABIC-INDIC DIGIT SEVEN}:0", "7:1"):
        assert manifest_segment(name) is None
