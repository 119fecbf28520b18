"""Lengths as people give and read them: numbers are nanometres, and texts have a unit, such as "1 mm"."""

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import TypeVar

Length = float | Decimal | str
"""Nanometres, or a text with a unit."""

VoxelSize = Length | Sequence[Length]
"""One length for all axes, or three, xyz."""

UNITS = {  # nanometres
    "pm": Decimal("0.001"),
    "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}": Decimal("0.1"),
    "nm": Decimal(1),
    "um": Decimal(1000),
    "\N{MICRO SIGN}m": Decimal(1000),
    "\N{GREEK SMALL LETTER MU}m": Decimal(1000),
    "mm": Decimal(1_000_000),
    "cm": Decimal(10_000_000),
    "m": Decimal(1_000_000_000),
    **dict.fromkeys(("micron", "microns"), Decimal(1000)),
}
"""Nanometres of each unit."""

_NAMED_UNITS = "nm, um, mm, cm, m"
_T = TypeVar("_T")
_SHOWN_UNITS = ((1e6, "mm"), (1e3, "\N{MICRO SIGN}m"))
_AXES = 3
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_LENGTH = re.compile(rf"\s*({_NUMBER})\s*([^\W\d]*)\s*")
_TIMES = re.compile(r"[x\N{MULTIPLICATION SIGN}]")
_LARGEST_DIFFERENCE = 1e-5  # relative; what `readable` shows has six digits
_USUAL = (1, 1e9)  # nanometres; outside of this, the unit was probably mistaken


def nanometres(length: Length) -> float:
    """Return a length in nanometres: an integer if it is whole.

    Raises
    ------
    ValueError
        If it is not a number or a text with a known unit.

    Examples
    --------
    >>> nanometres("1.5 um"), nanometres(4), nanometres("1mm")
    (1500, 4, 1000000)
    """
    if isinstance(length, str):
        (given,) = _read([length])
        return given
    length = _plain(length)
    if isinstance(length, Decimal):
        length = float(length)
        return int(length) if length.is_integer() else length
    if isinstance(length, Real) and not isinstance(length, bool):
        return int(length) if isinstance(length, Integral) else float(length)
    raise ValueError(f"expected nanometres or a text such as '1.5 um', got {length!r}")


def voxel_size(given: VoxelSize) -> tuple[float, float, float]:
    """Return the size of a voxel in nanometres, xyz: one length stands for all three axes.

    Raises
    ------
    ValueError
        If it is neither one length nor three, or one is not positive and finite.

    Examples
    --------
    >>> voxel_size("1 mm")
    (1000000, 1000000, 1000000)
    >>> voxel_size("4 x 4 x 40 nm") == voxel_size(("4 nm", 4, "0.04 um")) == (4, 4, 40)
    True
    """
    given = _plain(given)
    if isinstance(given, str):
        lengths = _read(_TIMES.split(given))
    elif isinstance(given, Iterable):
        lengths = [nanometres(length) for length in given]
    else:
        lengths = [nanometres(given)]
    if len(lengths) == 1:
        lengths *= _AXES
    if len(lengths) != _AXES:
        raise ValueError(f"expected 1 length for all axes, or 3, xyz, got {len(lengths)}: {given!r}")
    if not all(0 < length < math.inf for length in lengths):
        raise ValueError(f"expected positive lengths, got {given!r}")
    x, y, z = lengths
    return x, y, z


def is_same(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two voxel sizes are equal as far as `readable` shows them."""
    pairs = zip(first, second, strict=True)
    return all(math.isclose(a, b, rel_tol=_LARGEST_DIFFERENCE) for a, b in pairs)


def readable(resolution: Sequence[float]) -> str:
    """Format a voxel size in the largest unit that does not exceed it; `voxel_size` reads it back.

    Examples
    --------
    >>> readable((4000, 4000, 40000)), readable((1e6, 1e6, 1e6))
    ('4 x 4 x 40 µm', '1 mm')
    """
    nm, unit = unit_of(min(resolution))
    steps = [f"{step / nm:g}" for step in resolution]
    return f"{steps[0] if len(set(steps)) == 1 else ' x '.join(steps)} {unit}"


def unit_of(length: float) -> tuple[float, str]:
    """Return the largest unit that does not exceed a length in nanometres: its nanometres and its name."""
    rounded = length * (1 + _LARGEST_DIFFERENCE)  # 999999.99 is a millimetre
    return next((unit for unit in _SHOWN_UNITS if rounded >= unit[0]), (1, "nm"))


def doubt_about(resolution: Sequence[float]) -> str:
    """Say why a voxel size is probably not in nanometres; empty if it may be."""
    low, high = _USUAL
    for length in resolution:
        if not low <= length <= high:
            beyond = "smaller than 1 nm" if length < low else "larger than 1 m"
            return f"voxels of {readable(resolution)} are {beyond}: numbers are nanometres, and '1 mm' is a millimetre"
    return ""


def _plain(value: _T) -> _T:
    """Return NumPy's arrays without dimensions as numbers."""
    is_scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_scalar else value  # type: ignore[attr-defined]


def _about_commas(text: str) -> str:
    """Say what to write instead of commas: points of decimal fractions, or ``x`` between lengths."""
    for count, instead in ((1, "."), (_AXES - 1, " x ")):
        meant = re.sub(r"\s*,\s*", instead, text)
        matches = [_LENGTH.fullmatch(length) for length in _TIMES.split(meant)]
        if text.count(",") == count and all(match and (not match[2] or match[2] in UNITS) for match in matches):
            return f": write {meant!r}"
    return ""


def _read(texts: Sequence[str]) -> list[float]:
    """Read lengths; those without a unit have that of the next."""
    lengths: list[float] = []
    unit = ""
    for text in reversed(texts):
        match = _LENGTH.fullmatch(text)
        if match is None or (match[2] and match[2] not in UNITS):
            given = "x".join(texts).strip()
            message = f"expected a number with one of the units {_NAMED_UNITS}, got {given!r}"
            raise ValueError(message + _about_commas(given))
        unit = match[2] or unit
        if not unit:
            given = text.strip()
            raise ValueError(f"expected a unit, such as '{given} nm', got {given!r}; a plain number is in nanometres")
        exact = Decimal(match[1]) * UNITS[unit]
        rounded = float(exact)
        lengths.append(int(rounded) if exact == rounded and rounded.is_integer() else rounded)
    return lengths[::-1]
