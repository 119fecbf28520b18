"""How a voxel size, and any text from an `info` or a URL, reads in one line."""

_UNITS = ((1e6, "mm"), (1e3, "µm"))  # nanometres
_MAX_LENGTH = 1000  # characters


def readable_resolution(resolution: tuple[float, float, float]) -> str:
    """Format a voxel size in the largest unit that does not exceed it.

    Examples
    --------
    >>> readable_resolution((4000, 4000, 40000))
    '4 x 4 x 40 µm'
    """
    nm, unit = unit_of(min(resolution))
    return " x ".join(f"{step / nm:g}" for step in resolution) + f" {unit}"


def unit_of(length: float) -> tuple[float, str]:
    """Return the largest unit that does not exceed a length in nanometres: its nanometres and its name."""
    return next((unit for unit in _UNITS if length >= unit[0]), (1, "nm"))


def one_line(text: str) -> str:
    r"""Escape what is not printable, and cut what is too long.

    Examples
    --------
    >>> one_line("a\tkey")
    'a\\tkey'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MAX_LENGTH])
    return shown + "..." * (len(text) > _MAX_LENGTH)
