"""What `info` says, as far as it takes to move bytes: where the volume is, how its chunks are stored.

Nothing else is looked at here. What shows arrays needs all of it to be right, and asks the `models`.
"""

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.chunk_limits import Chunk
from precomputed_fs.format.grid import ChunkGrid
from precomputed_fs.format.sharding import Sharding

JSON = Any
"""What JSON can say, as `json` reads it."""

MAX_INFO_BYTES = 1 << 20
"""Bytes of an `info`: 1 KiB for each of `models.MAX_SCALES`, where 400 bytes are usual. Parsed, the worst of
that size takes 30 times the memory (30 MB) and half a second."""

DATA_TYPE_BYTES = {
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
}
"""Bytes of a value, for each data type that a volume may have."""

_HTML = re.compile(
    r"\s*((<\?xml[^>]*>|<!--(?:(?!-->).)*-->)\s*)*<(!doctype\s+html|html|head|body|script)\b", re.IGNORECASE | re.DOTALL
)
_HTML_START = 1024  # bytes that are enough to tell HTML by
_USUAL_CHUNK = 1 << 18  # bytes
_SHOWN = 80  # characters of a value in a message


class HtmlError(InvalidInfoError):
    """HTML came instead of ``info``: the answer of a login page or a web console, not of a store."""


# ----------------------------------------------------------------------------------------- parsing


def parse_info(text: bytes, where: str = "info", most: int = MAX_INFO_BYTES) -> Mapping[str, Any]:
    """Parse an `info` without looking at what it says.

    Parameters
    ----------
    text : bytes
        The contents of `info`.
    where : str
        What messages call it.
    most : int
        How many bytes it may have.

    Raises
    ------
    InvalidInfoError
        If it is not a JSON object, or has more bytes; an HtmlError if it is HTML.
    """
    return parse_json(text, where, dict, most)


def redirect_of(info: Mapping[str, Any], where: str = "info") -> str | None:
    """Return where an `info` says that the volume is instead; it needs to say nothing else then.

    Raises
    ------
    InvalidInfoError
        If that is not a string, or empty.

    Examples
    --------
    >>> redirect_of({"redirect": "gs://bucket/moved"})
    'gs://bucket/moved'
    """
    if "redirect" not in info:
        return None
    redirect = info["redirect"]
    if not isinstance(redirect, str) or not redirect:
        message = f"{where}: redirect: expected a non-empty string, got {shown(redirect)}"
        raise InvalidInfoError(message)
    return redirect


def parse_json(
    text: bytes | str,
    where: str,
    make_object: Callable[[list[tuple[str, JSON]]], dict[str, JSON]],
    most: int = MAX_INFO_BYTES,
) -> dict[str, JSON]:
    """Parse JSON that is an object; all objects in it are made as told, of their members."""
    check_not_html(text, where)
    check_length(len(text), where, most)
    try:
        if not isinstance(text, str):
            text = text.decode("utf-8")
        parsed = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=make_object)
    except (ValueError, RecursionError) as exc:
        message = f"{where}: expected JSON: {exc}"
        raise InvalidInfoError(message) from exc
    if not isinstance(parsed, dict):
        message = f"{where}: expected a JSON object, got {type(parsed).__name__}"
        raise InvalidInfoError(message)
    return parsed


def check_not_html(text: bytes | str, where: str) -> None:
    """Check that this is not HTML, which some servers send for whatever is asked of them.

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


def check_length(length: int, where: str, most: int = MAX_INFO_BYTES) -> None:
    """Check that an `info` has no more bytes than it may have."""
    if length > most:
        message = f"{where}: expected at most {most} bytes, got {length}"
        raise InvalidInfoError(message)


# ------------------------------------------------------------------------------------------ layout


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """How the chunks of one scale are stored."""

    raw_voxel_bytes: int | None = None
    """Bytes of a voxel with all its channels, in a scale of encoding "raw" that says so."""

    sharding: Sharding | None = None
    """How the scale is sharded; None if it is not."""

    grid: ChunkGrid | None = None
    """How a sharded scale is cut into chunks."""

    encoding: str = field(default="", compare=False)
    """As `info` has it, in lower case."""

    voxel: Chunk | None = field(default=None, compare=False)
    """One voxel of the scale; None if `info` does not say what it is."""

    chunk_voxels: int | None = field(default=None, compare=False)
    """Voxels of a whole chunk; None if `info` does not say it."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the voxels of a whole chunk, or a guess where `info` does not say it."""
        if self.voxel is None or self.chunk_voxels is None:
            return _USUAL_CHUNK
        return self.voxel.raw_bytes * self.chunk_voxels

    def with_largest_chunk(self, size: int) -> "ScaleLayout":
        """Have shards tell that a chunk takes at most so many bytes in them."""
        if self.sharding is None:
            return self
        return dataclasses.replace(self, sharding=dataclasses.replace(self.sharding, largest_chunk=size))


def scale_layout(info: Mapping[str, Any], key: str, where: str = "info") -> ScaleLayout:
    """Find out how the chunks of a scale are stored; as by default, if `info` does not list it.

    Parameters
    ----------
    info : mapping
        What `parse_info` returned.
    key : str
        The scale's key, without ``.`` segments.
    where : str
        What messages call `info`.

    Raises
    ------
    InvalidInfoError
        If the scale is sharded and what that needs is missing or cannot be.
    """
    scales = info.get("scales")
    if not isinstance(scales, list):
        return ScaleLayout()
    for i, scale in enumerate(scales):
        if isinstance(scale, Mapping) and _names_scale(scale.get("key"), key):
            sharding = grid = None
            if scale.get("sharding") is not None:
                from precomputed_fs.format.models import sharded_grid  # noqa: PLC0415 - brings pydantic, only for shards

                sharding, grid = sharded_grid(scale, where, ("scales", i))
            encoding = lowercase(scale.get("encoding"))
            voxel = _voxel(info, scale, encoding)
            raw_voxel_bytes = voxel.raw_bytes if voxel is not None and encoding == "raw" else None
            return ScaleLayout(raw_voxel_bytes, sharding, grid, encoding, voxel, _chunk_voxels(scale))
    return ScaleLayout()


def _names_scale(given: object, key: str) -> bool:
    """Whether a scale's key, as `info` spells it, is a key without ``.`` segments."""
    return isinstance(given, str) and without_dots(given) == key


def without_dots(key: str) -> str:
    """Leave out the segments of a scale's key that mean nothing."""
    return "/".join(part for part in key.removesuffix("/").split("/") if part != ".")


def lowercase(given: JSON) -> str:
    """Return an enumeration's value in lower case, and nothing for what is not a string."""
    return given.lower() if isinstance(given, str) else ""


def _voxel(info: Mapping[str, Any], scale: Mapping[str, Any], encoding: str) -> Chunk | None:
    channels, value_bytes = _positive(info.get("num_channels")), DATA_TYPE_BYTES.get(lowercase(info.get("data_type")))
    if channels is None or value_bytes is None:
        return None
    voxel = Chunk((1, 1, 1), channels, value_bytes)
    if encoding != "compressed_segmentation":
        return voxel
    given = scale.get("compressed_segmentation_block_size")
    sides = [side for side in map(_positive, given if isinstance(given, list) else ()) if side is not None]
    return voxel._replace(block_size=(sides[0], sides[1], sides[2])) if len(sides) == len(voxel.size) else None


def _chunk_voxels(scale: Mapping[str, Any]) -> int | None:
    sizes = scale.get("chunk_sizes")
    first = sizes[0] if isinstance(sizes, list) and sizes else None
    sides = [side for side in map(_positive, first if isinstance(first, list) else ()) if side is not None]
    return math.prod(sides) if len(sides) == 3 else None  # noqa: PLR2004


def _positive(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and value > 0 else None


# ---------------------------------------------------------------------------------------- messages


def shown(value: object) -> str:
    """Represent a value in a few characters, however long it is."""
    return shorten(_REPR.repr(value), _SHOWN)


def shorten(text: str, length: int) -> str:
    """Cut a text that is longer."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _short_repr() -> reprlib.Repr:
    made = reprlib.Repr()
    made.maxstring = made.maxlong = made.maxother = 2 * _SHOWN
    made.maxlevel = 3
    return made


_REPR = _short_repr()
