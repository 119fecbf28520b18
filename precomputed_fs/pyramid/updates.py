"""A change to part of a chunk."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from precomputed_fs.format.grid import ChunkCoords

Apply = Callable[[ChunkCoords, bytes | None, Sequence[bytes]], bytes | None]
"""``(coords, chunk, patches)``: the chunk, or None where there is none, changed by one patch after the other; None
leaves what is there."""


class Update(NamedTuple):
    """A change to part of a chunk, applied to what is stored when it is written, so that no other change is lost."""

    patch: bytes
    """The change, as `apply` understands it."""

    apply: Apply
