"""Lengths with units, as people give and read them."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs.format.lengths import doubt_about, is_same, nanometres, readable, voxel_size

MM = 1_000_000


@pytest.mark.parametrize(
    ("text", "nm"),
    [
        ("4 nm", 4), ("1mm", MM), (" 1.5 um ", 1500),
        ("1.5 \N{MICRO SIGN}m", 1500), ("0.1 \N{GREEK SMALL LETTER MU}m", 100),
        ("1.1 mm", 1_100_000), ("2e-3 mm", 2000), ("0.7 nm", 0.7),
        ("2.5 \N{LATIN CAPITAL LETTER A WITH RING ABOVE}", 0.25),
        ("1 cm", 10 * MM), ("2.5 microns", 2500), ("1 micron", 1000), ("-3 mm", -3 * MM), (".5m", 500 * MM),
    ],
)  # fmt: skip
def test_a_text_with_a_unit_is_nanometres_and_whole_ones_are_integers(text: str, nm: float) -> None:
    assert nanometres(text) == nm
    assert type(nanometres(text)) is type(nm)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (8, (8, 8, 8)), (0.5, (0.5, 0.5, 0.5)), ("1 mm", (MM, MM, MM)),
        (Decimal("0.5"), (0.5, 0.5, 0.5)), (Decimal(8), (8, 8, 8)), ((Decimal(8), 8, "8 nm"), (8, 8, 8)),
        (np.float32(8), (8, 8, 8)), (np.array(8), (8, 8, 8)),
        ((8, 8, 40), (8, 8, 40)), (np.array([8, 8, 40]), (8, 8, 40)), (("4 nm", 4, "0.04 um"), (4, 4, 40)),
        ("4 nm x 4 nm x 40 nm", (4, 4, 40)), ("4 x 4 x 40 nm", (4, 4, 40)),
        ("4\N{MULTIPLICATION SIGN}4\N{MULTIPLICATION SIGN}40\N{NO-BREAK SPACE}nm", (4, 4, 40)),
        ("1 um x 4 x 40 nm", (1000, 4, 40)),
    ],
)  # fmt: skip
def test_one_length_stands_for_all_axes(size: Any, expected: tuple[float, ...]) -> None:
    assert voxel_size(size) == expected
    assert not any(isinstance(length, np.generic) for length in voxel_size(size))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("8", r"expected a unit, such as '8 nm', got '8'; a plain number is in nanometres"),
        ("8_8_40", "expected a number with one of the units"),
        ("8 furlongs", "expected a number with one of the units nm, um, mm, cm, m, got '8 furlongs'"),
        ("0,5 mm", "got '0,5 mm': write '0.5 mm'"),
        ("0,5 x 1 mm", "got '0,5 x 1 mm': write '0.5 x 1 mm'"),
        ("4, 4, 40 nm", "got '4, 4, 40 nm': write '4 x 4 x 40 nm'"),
        ("0,5 furlongs", "got '0,5 furlongs'$"),
        (Decimal("NaN"), "expected positive lengths"),
        (Decimal("1e999999999"), "expected positive lengths"),
        ("1e999999999 mm", "expected a number"),  # 10^9 digits
        ("", "expected a number"),
        ((8, 8), "or 3, xyz, got 2"),
        ("8 x 8 nm", "or 3, xyz, got 2"),
        (0, "expected positive lengths"),
        ((8, 8, float("inf")), "expected positive lengths"),
        ((8, 8, float("nan")), "expected positive lengths"),
        (True, "expected nanometres or a text"),
        (None, "expected nanometres or a text"),
        ([[8, 8, 40]], "expected nanometres or a text"),
    ],
)
def test_what_is_not_a_voxel_size_is_refused(size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        voxel_size(size)


lengths = st.floats(1e-3, 1e12)


@given(st.tuples(lengths, lengths, lengths))
def test_a_voxel_size_is_read_back_as_it_is_shown(size: tuple[float, float, float]) -> None:
    assert is_same(voxel_size(readable(size)), size)


def test_equal_lengths_are_shown_once_and_small_differences_do_not_count() -> None:
    assert readable((MM, MM, MM)) == "1 mm"
    assert readable((1000000.0149, 1000000, 999999.99)) == "1 mm"  # the header of a NIfTI file has float32
    assert readable((4, 4, 40)) == "4 x 4 x 40 nm"
    assert is_same((MM, MM, MM), (1000000.0149, MM, MM))
    assert not is_same((4, 4, 40), (4, 4, 41))


def test_a_voxel_below_1_nm_or_above_1_m_is_doubted() -> None:
    assert doubt_about((0.001, 0.001, 0.001)).startswith("voxels of 0.001 nm are smaller than 1 nm")
    assert doubt_about((8, 8, 2e9)).startswith("voxels of 8 x 8 x 2e+09 nm are larger than 1 m")
    assert doubt_about((1, 1e9, MM)) == ""
