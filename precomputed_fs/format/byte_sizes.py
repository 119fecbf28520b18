"""Numbers of bytes as people give and read them: integers, and texts such as "100 MB" or "1 GiB"."""

import operator
import re
from decimal import Decimal

_PREFIXES = "kMGTP"
_UNITS = {"b": 1} | {
    f"{prefix.lower()}{binary}b": (1024 if binary else 1000) ** power
    for power, prefix in enumerate(_PREFIXES, 1)
    for binary in ("", "i")
}
_TEXT = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_THOUSAND = 1000


def bytes_in(size: int | str, name: str = "size") -> int:
    """Return a number of bytes.

    Parameters
    ----------
    size : int or str
        Bytes, or a text with a unit in any case: B, kB, MB, GB (powers of 1000) or KiB, MiB, GiB (powers of 1024).
    name : str
        The argument's name, for messages.

    Raises
    ------
    ValueError
        If it is neither, or negative.

    Examples
    --------
    >>> bytes_in("1.5 kB"), bytes_in("1 GiB"), bytes_in(300)
    (1500, 1073741824, 300)
    """
    if isinstance(size, str):
        match = _TEXT.fullmatch(size)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match and unit:
            return int(Decimal(match[1]) * unit)
    elif not isinstance(size, bool):
        try:
            count = operator.index(size)
        except TypeError:
            count = -1
        if count >= 0:
            return count
    raise ValueError(f"{name}: expected a number of bytes, or a text such as '100 MB' or '1 GiB', got {size!r}")


def readable_bytes(size: float) -> str:
    """Format a number of bytes.

    Examples
    --------
    >>> readable_bytes(3.2e6), readable_bytes(12)
    ('3.2 MB', '12 B')
    """
    for unit in ("B", *(f"{prefix}B" for prefix in _PREFIXES[:-1])):
        if size < _THOUSAND:
            return f"{size:.4g} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _THOUSAND
    return f"{size:.1f} {_PREFIXES[-1]}B"
