"""Damaged chunks of every encoding: refused at once, without memory, and without ending the process."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from precomputed_fs import CorruptDataError
from precomputed_fs.codecs import ENCODINGS
from tests.codecs.samples import (
    CASES,
    FPZIP,
    REPOSITORY,
    SEGMENTATION,
    Case,
    assert_refused_cheaply,
    codec_of,
    each_case,
    each_encoding,
    sample,
)

each_firm_encoding = pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in FPZIP])


@each_case
def test_a_chunk_of_another_size_is_corrupt(case: Case) -> None:
    codec, data = sample(case)
    sizes = [(12, 10, 900), (10**4, 10**4, 10**4)]
    if case.encoding != SEGMENTATION:  # which is the same for any size of as many blocks
        sizes += [(12, 10, 8), (13, 10, 9), (1, 1, 1)]
    for size in sizes:
        with pytest.raises(CorruptDataError) as raised:
            codec.decode(data, size)
        x, y, z = size
        channels = f"{case.num_channels} channel{'s' * (case.num_channels > 1)}"
        expected = f"expected a {case.encoding} chunk of {x} x {y} x {z} voxels, {channels} of {case.data_type}, "
        assert str(raised.value).startswith(f"{expected}got {len(data)} bytes: ")


@each_encoding
def test_a_chunk_of_another_kind_is_corrupt(encoding: str) -> None:
    row = ENCODINGS[encoding]
    (x, y, z), case = (12, 10, 9), Case(encoding, row.data_types[0], 1)
    _, data = sample(case, (x, y, z))
    for data_type in (*ENCODINGS["raw"].data_types, "float64"):
        for num_channels in (1, 2, 3, 4):
            other = codec_of(encoding, data_type, num_channels)
            if (data_type, num_channels) == case[1:] or (
                encoding == "raw" and len(data) == x * y * z * num_channels * other.dtype.itemsize
            ):
                continue
            if encoding == SEGMENTATION and num_channels == 1 and data_type in {"uint32", "uint64"}:
                continue  # nothing in the data tells
            if row.channels == (1,) and data_type == case.data_type:
                continue  # they are not asked for channels
            with pytest.raises(CorruptDataError):
                other.decode(data, (x, y, z))


@pytest.mark.parametrize("case", [case for case in CASES if case.num_channels in {1, 3}], ids=str)
def test_a_truncated_chunk_is_corrupt(case: Case) -> None:
    codec, data = sample(case, (6, 5, 4))
    stops = range(28) if case.encoding in FPZIP else range(len(data))
    for stop in stops:
        with pytest.raises(CorruptDataError):
            codec.decode(data[:stop], (6, 5, 4))


@pytest.mark.parametrize("case", [case for case in CASES if case.num_channels in {1, 3}], ids=str)
def test_trailing_bytes(case: Case) -> None:
    """A format that says where it ends may be followed by anything; others must have the right length."""
    codec, data = sample(case)
    if case.encoding in {"jpeg", "png", "jxl", "fpzip", "kempressed"}:
        np.testing.assert_array_equal(codec.decode(data + b"\0", (12, 10, 9)), codec.decode(data, (12, 10, 9)))
    else:
        with pytest.raises(CorruptDataError):
            codec.decode(data + b"\0", (12, 10, 9))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case("raw", "uint16", 3), "got 6480 bytes: it has 12960 bytes"),
        (Case("jpeg", "uint8", 1), "its header says 10 x 108 pixels, 1 channels of 8 bits"),
        (Case("png", "uint16", 3), "its header says 10 x 108 pixels, 3 channels of 16 bits"),
        (Case("jxl", "uint8", 1), "its header says 10 x 108 pixels"),
        (Case("compresso", "uint32", 1), "its header says 10 x 12 x 9 voxels of 4 bytes"),
        (Case("crackle", "uint8", 1), "its header says 10 x 12 x 9 voxels of 1 bytes"),
        (Case("fpzip", "float32", 2), "its header says 10 x 12 x 9 x 2 values of float32"),
        (Case("kempressed", "float32", 2), "its header says 10 x 12 x 2 x 9 values of float32"),
        (Case("zfpc", "float32", 2), "its header says 10 x 12 x 9 x 2 values of type 3"),
    ],
    ids=str,
)
def test_messages_say_what_came(case: Case, reason: str) -> None:
    codec, data = sample(case, (10, 12, 9))
    with pytest.raises(CorruptDataError) as raised:
        codec.decode(data, (10, 24, 9))
    assert str(raised.value).endswith(reason)


@each_firm_encoding
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), keep=st.integers(0, 40))
@example(data=b"", keep=0)
def test_garbage_is_corrupt(encoding: str, data: bytes, keep: int) -> None:
    codec, whole = sample(Case(encoding, ENCODINGS[encoding].data_types[0], 1))
    with pytest.raises(CorruptDataError):
        codec.decode(whole[:keep] + data, (12, 10, 9))


CHECKED = ("png", "crackle")
"""Encodings with checksums of everything that matters."""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change a chunk as disks, networks and enemies do."""
    changed = bytearray(data)
    position = chance.randrange(len(changed))
    match chance.randrange(6):
        case 0:
            del changed[position:]
        case 1:
            for _ in range(chance.choice((1, 1, 2, 5, 20))):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        case 2:
            changed[chance.randrange(min(64, len(changed)))] ^= 1 << chance.randrange(8)
        case 3:
            changed[position : position + chance.randrange(8)] = chance.randbytes(chance.randrange(8))
        case 4:
            changed[position : position + chance.choice((2, 4, 8))] = chance.choice((b"\0", b"\xff")) * 4
        case _:
            other = chance.randrange(len(changed))
            changed[position : position + 50] = changed[other : other + 50]
    return bytes(changed)


def fuzz(count: int) -> None:
    """Decode changed chunks of all encodings that are not fragile, in a process that may die of it."""
    for encoding, row in ENCODINGS.items():
        if encoding in FPZIP:
            continue
        samples = []
        for data_type in row.data_types[-2:]:
            for num_channels in sorted({(row.channels or (1, 2))[0], (row.channels or (1, 2))[-1]}):
                for size in ((12, 10, 9), (24, 20, 16)):
                    codec, data = sample(Case(encoding, data_type, num_channels), size)
                    samples.append((codec, data, size, codec.decode(data, size)))
        for seed in range(count):
            print(encoding, seed, flush=True)  # noqa: T201  what a child says that died
            chance = random.Random(seed)
            codec, data, size, expected = chance.choice(samples)
            changed = mutated(data, chance)
            try:
                decoded = codec.decode(changed, size)
            except CorruptDataError:
                continue
            assert decoded.shape == expected.shape
            assert decoded.dtype == expected.dtype
            assert encoding not in CHECKED or np.array_equal(decoded, expected), "a checksum did not match"


@pytest.mark.processes
@pytest.mark.slow
def test_fuzzed_chunks_do_not_crash_the_process() -> None:
    program = "from tests.codecs.test_damage import fuzz; fuzz(100)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, cwd=REPOSITORY, text=True)
    last = child.stdout.splitlines()[-1:]
    assert child.returncode == 0, f"at {last}: {child.stderr}"
    assert last == ["zfpc 99"]


@pytest.mark.parametrize("case", [Case(SEGMENTATION, "uint64", 2), Case("compresso", "uint16", 1)], ids=str)
def test_offsets_beyond_the_data_are_safe(case: Case) -> None:
    """Each index of the data, set to just what is outside, is noticed."""
    codec, data = sample(case, (9, 9, 2))
    expected = codec.decode(data, (9, 9, 2)).copy()
    for position in range(0, len(data) - 1, 2):
        changed = bytearray(data)
        changed[position : position + 2] = b"\xff\xff"
        with_zeros = bytes(changed)
        try:
            decoded = codec.decode(with_zeros, (9, 9, 2))
        except CorruptDataError:
            continue
        assert decoded.shape == expected.shape


def test_a_memory_error_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, data = sample(Case("png", "uint8", 1))

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(imagecodecs, "png_decode", fail)
    with pytest.raises(MemoryError):
        codec.decode(data, (12, 10, 9))


@each_encoding
def test_garbage_is_refused_quickly_and_without_memory(encoding: str) -> None:
    codec, data = sample(Case(encoding, ENCODINGS[encoding].data_types[0], 1))
    assert_refused_cheaply(codec, data, [b"", b"\0", data[:1], bytes(1000), b"\xff" * 1000, data[:16] + b"\xff" * 40])
