"""How any text from an `info` or a URL reads in one line."""

_MAX_LENGTH = 1000  # characters


def one_line(text: str) -> str:
    r"""Escape what is not printable, and cut what is too long.

    Examples
    --------
    >>> one_line("a\tkey")
    'a\\tkey'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MAX_LENGTH])
    return shown + "..." * (len(text) > _MAX_LENGTH)
