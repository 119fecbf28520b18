"""crackle: all forms that are written are read; cracks that lead outside and missing labels are noticed."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import CorruptDataError
from precomputed_fs.codecs import ENCODINGS
from tests.codecs.samples import (
    Case,
    assert_refused_cheaply,
    assert_same,
    brain,
    codec_of,
    header_bombs,
    sample,
    tissues,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("data_type", ENCODINGS["crackle"].data_types)
def test_other_forms_of_crackle_are_read(data_type: str) -> None:
    crackle = importlib.import_module("crackle")
    codec = codec_of("crackle", data_type)
    for labels in (tissues(data_type), np.random.default_rng(1).integers(0, 200, (20, 30, 4)).astype(data_type)):
        size = labels.shape
        c_order = crackle.compress(np.ascontiguousarray(labels), parallel=1)
        assert not crackle.header(c_order).fortran_order
        assert_same(codec, codec.decode(c_order, size), labels[..., np.newaxis])
        assert_same(codec, codec.decode(without_checksums(c_order), size), labels[..., np.newaxis])


def without_checksums(data: bytes) -> bytes:
    """Turn a crackle stream into version 0 of the format."""
    z = struct.unpack_from("<I", data, 15)[0]
    labels = struct.unpack_from("<Q", data, 20)[0]
    header = data[:4] + b"\0" + data[5:20] + struct.pack("<I", labels)
    return header + data[29 : 29 + 4 * z] + data[33 + 4 * z : len(data) - 4 * (z + 1)]


@pytest.mark.parametrize("options", [{"allow_pins": 1}, {"markov_model_order": 3}])
def test_forms_of_crackle_that_nobody_writes_are_refused(options: Any) -> None:
    data = importlib.import_module("crackle").compress(np.asfortranarray(tissues("uint32")), **options)
    with pytest.raises(CorruptDataError, match=r"pins, a Markov model .* which cloud-volume does not write"):
        codec_of("crackle", "uint32").decode(data, brain().shape)


def crackle_bombs(data: bytes) -> Iterator[bytes]:
    yield from header_bombs(data, "<I", 7, 11, 15)
    yield from header_bombs(data, "<Q", 20)
    plain = without_checksums(data)
    yield from header_bombs(plain, "<I", 7, 11, 15, 20, 24)


def crackle_of(node: tuple[int, int], path: str) -> bytes:
    """Draw one crack, from (column, row), in a slice of 8 x 4 voxels: up, right, down, left, "rl" for the end."""
    moves = ["urdl".index(move) for move in path]
    bits = sum((move - last) % 4 << 2 * i for i, (last, move) in enumerate(itertools.pairwise([0, *moves])))
    column, row = node
    code = struct.pack("<IBBBB", 4, 1, row, 1, column) + bits.to_bytes(-(-len(moves) // 4), "little")
    labels = struct.pack("<QBBBBB", 2, 5, 6, 2, 0, 1)  # 2 labels, 5 and 6, for 2 components
    kind = 1 << 7  # uint8, in Fortran order
    return struct.pack("<4sBHIIIBII", b"crkl", 0, kind, 8, 4, 1, 31, len(labels), len(code)) + labels + code


def test_a_crack_lies_between_voxels() -> None:
    codec = codec_of("crackle", "uint8")
    expected = np.repeat(np.array([5, 6], np.uint8), 4)[:, None, None, None] * np.ones((1, 4, 1, 1), np.uint8)
    assert_same(codec, codec.decode(crackle_of((4, 0), "ddddrl"), (8, 4, 1)), expected)
    assert_same(codec, codec.decode(crackle_of((4, 4), "uuuurl"), (8, 4, 1)), expected)
    for node, path in (
        *(((column, 0), "ddddrl") for column in (0, 8, 9, 255)),
        *(((0, row), "rrrrdu") for row in (0, 4, 5, 255)),
        *(((4, row), "dddddrl") for row in (0, 1, 4)),
        *(((4, row), "uuuuurl") for row in (0, 1, 4, 9)),
        *(((column, 2), "rrrrrrrrrdu") for column in (0, 4)),
        ((4, 2), "lllll" + "du"),
        ((4, 0), "dd" + "lr" + "rrrrr" + "du" + "dd" + "rl"),  # on a branch
        ((4, 0), "dd" + "lr" + "rrrr" + "du" + "ddd" + "rl"),  # after a branch
    ):
        with pytest.raises(CorruptDataError, match="a crack leads out of its slice"):
            codec.decode(crackle_of(node, path), (8, 4, 1))
    with pytest.raises(CorruptDataError, match="the code of a slice ends too early"):
        codec.decode(crackle_of((4, 0), "dddd"), (8, 4, 1))


def test_crackle_without_a_label_is_noticed() -> None:
    labels = np.repeat(np.arange(4, dtype=np.uint32), 4)
    codec, array = codec_of("crackle", "uint32"), np.broadcast_to(labels[:, None, None, None], (16, 8, 2, 1))
    data = without_checksums(codec.encode(array))
    length = struct.unpack_from("<I", data, 20)[0]
    counts = 24 + 4 * 2 + 8 + 4  # after header, index, number of labels, labels
    assert data[counts : counts + 10] == b"\4\4" + bytes([0, 1, 2, 3]) * 2, "of components, and the label of each"
    shortened = data[:counts] + b"\4\3" + data[counts + 2 : counts + 9] + data[counts + 10 :]
    shortened = shortened[:20] + struct.pack("<I", length - 1) + shortened[24:]
    with pytest.raises(CorruptDataError, match="it does not tell the labels of all components"):
        codec.decode(shortened, (16, 8, 2))


def test_crackle_that_leads_out_of_its_slice_is_noticed() -> None:
    """Without checksums, too: the library would write where the cracks lead."""
    codec = codec_of("crackle", "uint32")
    data = without_checksums(codec.encode(tissues("uint32")[:24, :20, :4, np.newaxis]))
    expected = codec.decode(data, (24, 20, 4)).copy()
    outcomes = set()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0xA5
        try:
            same = np.array_equal(codec.decode(bytes(changed), (24, 20, 4)), expected)
            outcomes.add("the same" if same else "other labels")
        except CorruptDataError as exc:
            outcomes.add(str(exc).split(": ")[-1])
    assert {"a crack leads out of its slice", "the code of a slice ends too early", "other labels"} <= outcomes


def test_bombs_are_refused_quickly_and_without_memory() -> None:
    codec, data = sample(Case("crackle", "uint8", 1))
    assert_refused_cheaply(codec, data, crackle_bombs(data))
