"""How keys and numbers of bytes are shown in tables and titles."""

from precomputed_fs.volume import one_line

_LONGEST = 60  # characters


def shortened(text: str) -> str:
    """Show a text on one line, and cut it if it is long."""
    shown = one_line(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def readable_bytes(count: int) -> str:
    """Show a number of bytes with four digits.

    Examples
    --------
    >>> readable_bytes(1000), readable_bytes(8_675_289)
    ('1000 B', '8.273 MiB')
    """
    units = ("B", *(f"{letter}iB" for letter in "KMGTPEZY"))
    power = min(max(0, count.bit_length() - 1) // 10, len(units) - 1)
    return f"{count / (1 << 10 * power):.4g} {units[power]}"
