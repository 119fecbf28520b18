"""How a change to part of a chunk is represented until it is applied."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from precomputed_fs.format.grid import ChunkCoords

Apply = Callable[[ChunkCoords, bytes | None, Sequence[bytes]], bytes | None]
"""``(coords, chunk, patches)`` to the chunk changed by one patch after the other. The chunk is None if it is absent; a
result of None leaves the stored chunk as it is."""


class Update(NamedTuple):
    """A change to part of a chunk, applied when the chunk is written, so that no other change is lost."""

    patch: bytes
    """The change, in the format of `apply`."""

    apply: Apply
