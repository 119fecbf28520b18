"""Under which names one object may stand: two layouts of chunks, and a suffix for each compression."""

from typing import NamedTuple

from precomputed_fs.format.compression import GZIP_SUFFIX, SUFFIXES, split_suffix
from precomputed_fs.format.grid import ChunkCoords, chunk_name, layout_of

_CHUNK_DEPTH = 2  # folders below a scale's, in the layout of sub-directories
_SHARD_SUFFIXES = (".shard", ".index", ".data")


class Variant(NamedTuple):
    """One of the names that a chunk may have."""

    flat: bool
    """Whether in the layout of the specification; if not, in neuroglancer-scripts' sub-directories."""

    suffix: str
    """The compression's, or nothing."""

    def name(self, key: str, coords: ChunkCoords) -> str:
        """Return the name of a chunk, with its scale's key."""
        return f"{key}/{chunk_name(coords, flat=self.flat)}{self.suffix}"


VARIANTS = tuple(
    sorted(
        (Variant(flat, suffix) for flat in (True, False) for suffix in SUFFIXES),
        key=lambda variant: (variant.suffix not in ("", GZIP_SUFFIX), not variant.flat),
    )
)
"""Every name that a chunk may have, the most common first."""

COMMON = 4
"""How many of an object's names writers use: the first ones."""


def joined(folder: str, name: str) -> str:
    """Return the path of something in a folder; the folder is empty for the root."""
    return f"{folder}/{name}" if folder else name


def suffixes_of(name: str) -> tuple[str, ...]:
    """Return the suffixes that may follow a file's name: only the empty one, if it already has one."""
    return ("",) if split_suffix(name)[1] else SUFFIXES


def is_data_folder(name: str, depth: int) -> bool | None:
    """Classify an entry of a scale's folder.

    Parameters
    ----------
    name : str
    depth : int
        How many folders below the scale's own the entry is.

    Returns
    -------
    bool or None
        True: a folder of chunks. False: a chunk or a shard. None: neither.
    """
    stem, suffix = split_suffix(name)
    is_flat = layout_of(stem)
    if is_flat is False:
        if depth < _CHUNK_DEPTH:
            return None if suffix else True
        return False
    is_data = depth == 0 and (is_flat or name.endswith(_SHARD_SUFFIXES))
    return False if is_data else None
