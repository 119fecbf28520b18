"""The child process for a library that crashes: damage ends the child and nothing else."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from precomputed_fs import CorruptDataError
from precomputed_fs.codecs import fpzip
from precomputed_fs.codecs.sandbox import Sandbox
from tests.codecs.samples import Case, sample


def test_a_crash_of_the_library_is_damage_and_leaves_our_process_alive() -> None:
    """And what is decoded next is right."""
    codec, data = sample(Case("fpzip", "float32", 1))
    size = (12, 10, 9)
    expected = codec.decode(data, size)
    crashes = 0
    for chance in map(random.Random, range(100)):
        changed = bytearray(data)
        for _ in range(5):
            changed[chance.randrange(28, len(changed))] = chance.randrange(256)
        try:
            assert codec.decode(bytes(changed), size).shape == expected.shape
        except CorruptDataError as exc:
            crashes += "did not survive" in str(exc)
        if crashes == 2:
            break
    assert crashes == 2
    assert np.array_equal(codec.decode(data, size), expected)


def test_a_child_killed_while_idle_is_replaced() -> None:
    codec, data = sample(Case("fpzip", "float32", 1))
    expected = codec.decode(data, (12, 10, 9))
    for children in fpzip._SANDBOX._idle.values():
        for child in children:
            child.kill()
    assert np.array_equal(codec.decode(data, (12, 10, 9)), expected)


def test_a_child_that_cannot_be_started_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, data = sample(Case("fpzip", "float32", 1))
    monkeypatch.setattr(fpzip, "_SANDBOX", Sandbox("fpzip", "decompress", order="F"))
    for executable in ("/no/python", "/bin/true"):
        monkeypatch.setattr("sys.executable", executable)
        with pytest.raises(RuntimeError, match=f"{executable} .*to decode in"):
            codec.decode(data, (12, 10, 9))


def test_several_threads_decode_at_once() -> None:
    codec, data = sample(Case("fpzip", "float32", 1))
    expected = codec.decode(data, (12, 10, 9))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: codec.decode(data, (12, 10, 9)), range(40)))
    assert all(np.array_equal(result, expected) for result in results)
