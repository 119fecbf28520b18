"""Lazy arrays: parts are converted and rearranged when they are read."""

import numpy as np
import pytest

from precomputed_fs.volume.lazy import Arranged, Converted, arranged
from tests.volume.samples import SMALL, Counting, small

PART = (slice(3, 9), slice(None), slice(2, 3))


def test_only_the_part_that_is_read_is_converted() -> None:
    source = Counting(small())
    lazy = Converted(source, SMALL, np.dtype("float32"), lambda part: part.astype("float32") / 2)
    assert np.array_equal(lazy[PART], small()[PART].astype("float32") / 2)
    assert source.largest == 6 * 17


def test_a_conversion_may_add_an_axis() -> None:
    lazy = Converted(small(), (*SMALL, 2), np.dtype("uint16"), lambda part: np.stack([part, part + 1], -1))
    assert np.array_equal(lazy[(*PART, slice(1, 2))][..., 0], small()[PART] + 1)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, None, 2, 0), (2, 0, 1, None)])
def test_axes_are_rearranged_part_by_part(order: tuple[int | None, ...]) -> None:
    expected = arranged(small(), order)
    source = Counting(small())
    lazy = Arranged(source, order)
    assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
    cuts = tuple(slice(0, max(1, size // 2)) for size in lazy.shape)
    assert np.array_equal(lazy[cuts], expected[cuts])
    assert source.largest == expected[cuts].size
