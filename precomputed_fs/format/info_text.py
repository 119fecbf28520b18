"""Which text is an `info`: a JSON object of bounded size; read and written, whatever it says."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from precomputed_fs.errors import InvalidInfoError, shown

JSON = Any
"""A JSON value, as `json` reads it."""

MAX_INFO_BYTES = 1 << 20
"""The size of an `info`: 1 KiB for each of `info.MAX_SCALES`, where 400 bytes are usual. The worst text of this size
takes half a second to parse, and 30 times its size in memory."""

MAX_DEPTH = 64
"""Levels of nesting: a volume's own members take four, and Python's recursion limit is far off."""

_SHOWN_LINES = 200  # of JSON

_HTML = re.compile(
    r"\s*((<\?xml[^>]*>|<!--(?:(?!-->).)*-->)\s*)*<(!doctype\s+html|html|head|body|script)\b", re.IGNORECASE | re.DOTALL
)
_HTML_START = 1024  # bytes in which to look for HTML


class HtmlError(InvalidInfoError):
    """HTML came instead of ``info``: a login page or a web console answered, not a store."""


def parse_info(
    text: bytes | str, where: str = "info", most: int = MAX_INFO_BYTES, *, strict: bool = False
) -> dict[str, JSON]:
    """Parse an `info` without checking its members.

    Parameters
    ----------
    text : bytes or str
        The contents of `info`.
    where : str
        The name of `info` in messages.
    most : int
        The most bytes that it may have.
    strict : bool
        Whether to refuse repeated members and deep nesting.

    Raises
    ------
    InvalidInfoError
        If it is not a JSON object, or too long; an HtmlError if it is HTML.
    """
    check_not_html(text, where)
    _check_length(len(text), where, most)
    try:
        if not isinstance(text, str):
            text = text.decode("utf-8")
        parsed = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique if strict else None)
    except (ValueError, RecursionError) as exc:
        raise InvalidInfoError(f"{where}: expected JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise InvalidInfoError(f"{where}: expected a JSON object, got {type(parsed).__name__}")
    if strict:
        _check_depth(parsed, where)
    return parsed


def dump_info(given: Mapping[str, Any], where: str = "info", most: int = MAX_INFO_BYTES) -> str:
    """Write a mapping as JSON. It may contain mappings and NumPy's numbers and arrays.

    Raises
    ------
    InvalidInfoError
        If JSON cannot express it, or it is too long. The rest of a text that is too long is never made.
    """
    parts = []
    length = 0
    try:
        for part in json.JSONEncoder(default=_native).iterencode(dict(given)):
            parts.append(part)
            length += len(part)
            _check_length(length, where, most)
    except InvalidInfoError:
        raise
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInfoError(f"{where}: expected what JSON can say: {exc}") from exc
    return "".join(parts)


def readable_json(value: JSON) -> str:
    """Show JSON to people: indented, but short lists in one line; of a long text the beginning.

    Examples
    --------
    >>> print(readable_json({"size": [4, 4, 4], "key": "8_8_8"}))
    {
      "size": [4, 4, 4],
      "key": "8_8_8"
    }
    """
    lists = re.sub(r"\[\s+([^][{}]{,200}?)\s+\]", _in_one_line, json.dumps(value, indent=2))
    lines = lists.splitlines()
    more = [f"... ({len(lines) - _SHOWN_LINES} more lines)"] if len(lines) > _SHOWN_LINES else []
    return "\n".join(lines[:_SHOWN_LINES] + more)


def _in_one_line(found: re.Match[str]) -> str:
    items = re.sub(r",\s+", ", ", found[1])
    return f"[{items}]"


def check_not_html(text: bytes | str, where: str) -> None:
    """Check that text is not HTML, which some servers send whatever they are asked for.

    Raises
    ------
    HtmlError
        If it is.
    """
    start = text[:_HTML_START]
    if not isinstance(start, str):
        start = start.decode("utf-8", errors="replace")
    if _HTML.match(start.removeprefix("\ufeff")):
        message = (
            f"{where}: expected JSON, got HTML, as login pages and web consoles send: check the URL and the endpoint, "
            "and open the URL in a browser to see the page"
        )
        raise HtmlError(message)


def _check_length(length: int, where: str, most: int) -> None:
    if length > most:
        raise InvalidInfoError(f"{where}: expected at most {most} bytes, got {length}")


def _unique(members: list[tuple[str, JSON]]) -> dict[str, JSON]:
    """Make an object of its members; JSON does not say which one counts if a name is repeated."""
    made = dict(members)
    if len(made) < len(members):
        counts = Counter(name for name, _ in members)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the member {shown(twice)} occurs twice in an object")
    return made


def _check_depth(parsed: JSON, where: str) -> None:
    level = [parsed]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for parent in level
            for value in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(value, (dict, list))
        ]
        if not level:
            return
    raise InvalidInfoError(f"{where}: expected JSON of at most {MAX_DEPTH} levels")


def _native(value: object) -> JSON:
    """Convert a value that `json` does not know to one that it does."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not of JSON")
