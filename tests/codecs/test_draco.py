"""Draco meshes: what damage does, and that a few bytes cannot take much memory or time."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import numpy as np
import pytest

from precomputed_fs import CorruptDataError
from precomputed_fs.codecs import draco
from precomputed_fs.codecs.draco import decode_draco, encode_draco

DracoPy = pytest.importorskip("DracoPy")


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a bumpy sheet."""
    x, y = np.mgrid[:size, :size]
    points = np.stack([x, y, (x * y) % 7], axis=-1).reshape(-1, 3)
    corner = (x * size + y)[:-1, :-1].ravel()
    lower = np.stack([corner, corner + 1, corner + size], axis=1)
    upper = np.stack([corner + 1, corner + size + 1, corner + size], axis=1)
    return points, np.concatenate([lower, upper])


def triangles(points: np.ndarray, faces: np.ndarray) -> list[Any]:
    """Return triangles as their coordinates, whatever the order of vertices and triangles."""
    corners = [sorted(map(tuple, points[face].tolist())) for face in faces]
    return sorted(corners)


@pytest.mark.parametrize("bits", [10, 16])
def test_vertices_come_back_exactly(bits: int) -> None:
    points, faces = grid(12)
    points[-1] = (1 << bits) - 1
    ((decoded, decoded_faces),) = decode_draco(encode_draco(points, faces, bits))
    assert (decoded.dtype.str, decoded_faces.dtype.str) == ("<f4", "<u4")
    assert triangles(decoded, decoded_faces) == triangles(points, faces)


def test_several_meshes_are_decoded_at_once() -> None:
    meshes = [grid(size) for size in (2, 12, 5)]
    found = decode_draco(*(encode_draco(*mesh, 16) for mesh in meshes))
    assert [triangles(*mesh) for mesh in found] == [triangles(*mesh) for mesh in meshes]


def test_vertices_are_of_the_only_integer_type_that_neuroglancer_decodes() -> None:
    decoded = DracoPy.decode(encode_draco(*grid(4), 16))
    int32, position = 5, 0
    assert [(each["data_type"], each["attribute_type"]) for each in decoded.attributes] == [(int32, position)]


def test_mutated_meshes_are_decoded_or_refused() -> None:
    points, faces = grid(9)
    samples = [encode_draco(points, faces, 16), DracoPy.encode(points, faces.astype(np.uint32), preserve_order=True)]
    refused = 0
    for chance in map(random.Random, range(120)):
        changed = bytearray(chance.choice(samples))
        for _ in range(chance.choice([1, 2, 8])):
            changed[chance.randrange(5, min(len(changed), chance.choice([24, 1000])))] = chance.randrange(256)
        if chance.random() < 0.2:
            del changed[chance.randrange(len(changed)) :]
        try:
            ((vertices, decoded),) = decode_draco(bytes(changed))
        except CorruptDataError:
            refused += 1
        else:
            assert decoded.max(initial=0) < max(1, len(vertices))
    assert 60 < refused < 120


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_few_bytes_that_promise_many_triangles_are_refused_at_once() -> None:
    """By itself, the library fills 2.4 GiB of memory in 15 s before it refuses these."""
    data = encode_draco(*grid(9), 16)
    count = _varint(10**8)
    began = time.perf_counter()
    with pytest.raises(CorruptDataError, match="MemoryError"):
        decode_draco(data[:12] + count + count + b"\0" + count + data[16:])
    assert time.perf_counter() - began < 5
    decode_draco(data)  # the child goes on


def test_other_bytes_are_refused_without_the_library() -> None:
    with pytest.raises(CorruptDataError, match="does not begin like a Draco file"):
        decode_draco(b"<html>")


def test_a_missing_library_is_an_import_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    draco.require_draco.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    for call in (lambda: decode_draco(b"DRACO"), lambda: encode_draco(*grid(2), 16)):
        with pytest.raises(ImportError, match=r"pip install 'precomputed-fs\[mesh\]'"):
            call()


def test_a_refusal_of_the_library_does_not_end_the_child() -> None:
    """Starting one for each of thousands of damaged fragments would take minutes."""
    data = encode_draco(*grid(6), 16)
    decode_draco(data)
    before = {child.pid for children in draco._SANDBOX._idle.values() for child in children}
    for _ in range(3):
        with pytest.raises(CorruptDataError, match="not a Draco mesh"):
            decode_draco(data[:40])
    after = {child.pid for children in draco._SANDBOX._idle.values() for child in children}
    assert after == before != set()
