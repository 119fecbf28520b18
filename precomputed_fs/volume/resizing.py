"""How the bounds of all scales change together, in an order in which readers never find half of it.

The name of a chunk says where it ends, and the last chunks of an axis are clipped to the volume. So if an axis becomes
longer or shorter, its last chunks get other names. First they are stored under these, which no reader of the old `info`
asks for; then `info` is replaced, in one step; then the old ones are deleted, for which no reader of the new one asks.
"""

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from precomputed_fs.errors import DataAccessError, ReadOnlyError
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, Triple, size_of
from precomputed_fs.format.info import Info
from precomputed_fs.pyramid import renaming
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.volume.downsampling import factors_between, halved
from precomputed_fs.volume.indexing import checked_size, triple
from precomputed_fs.volume.info_update import update_info
from precomputed_fs.volume.progress import Progress
from precomputed_fs.volume.scale import Scale

_LISTED_AT_ONCE = 1000  # names of a page


def resize(scale: Scale, size: int | Sequence[int], *, progress: bool | None = None) -> None:
    """Change the bounds of all scales of a volume: see `Scale.resize`."""
    volume = scale.volume
    if scale is not volume.scales[0]:
        raise ValueError(f"{volume.url}: resize the finest scale, vol[0]: the others, such as {scale.shown}, follow")
    wanted = checked_size("size", size)
    changes = _planned(volume.scales, wanted)
    if all(change.old == change.new for change in changes):
        return
    sizes = {change.scale.key: list(change.new.size) for change in changes}
    scales = [{**member.to_dict(), "size": sizes[member.key]} for member in volume.info.scales]
    Info.parse({**volume.info.to_dict(), "scales": scales}, f"{volume.url}: the new info")
    volume.flush()
    _check_current(scale)
    shows = volume.progress if progress is None else progress
    with Progress(f"resizing to {' x '.join(map(str, wanted))}", sum(change.steps for change in changes), shows) as bar:
        for change in changes:
            for _ in change.prepare():
                bar.relative_update(1)
        update_info(volume, {"scales": scales})
        for change in changes:
            for _ in change.clean_up():
                bar.relative_update(1)


def _planned(scales: Sequence[Scale], size: Triple) -> "list[_Change]":
    """Plan the new size of each scale; raises if one of them cannot be changed."""
    for scale in scales:
        _check_resizable(scale)
    bounds = Box(scales[0].voxel_offset, triple(map(operator.add, scales[0].voxel_offset, size)))
    all_bounds = [bounds]
    for finer, coarser in itertools.pairwise(scales):
        bounds = halved(bounds, factors_between(finer, coarser))
        all_bounds.append(bounds)
    return [
        _Change(scale, scale.grid, ChunkGrid(new.shape, scale.chunk_size, scale.voxel_offset))
        for scale, new in zip(scales, all_bounds, strict=True)
    ]


def _check_resizable(scale: Scale) -> None:
    volume, pyramid = scale.volume, scale.volume.pyramid
    shown = f"{volume.url}: {scale.shown}"
    if scale.info.sharding is not None:
        message = (
            f"{shown} is sharded, and the numbers of chunks in shards depend on the size: copy the volume, with "
            "copy_pyramid(vol, url, sharding=False), and resize the copy"
        )
        raise ValueError(message)
    scale.check_writable()
    if not pyramid.can_write or not pyramid.can_read or not pyramid.store.protocol.can_replace:
        raise ReadOnlyError(f"{volume.url}: it cannot be resized, as what is stored here cannot be replaced")


def _check_current(scale: Scale) -> None:
    """Check that `info` is as it was when the volume was opened."""
    pyramid = scale.volume.pyramid
    pyramid.known.expect(None)
    there = Info.parse(pyramid.fetch_info(), pyramid.location.display("info"), pyramid.options.max_info_bytes)
    if there.to_dict() != scale.volume.info.to_dict():
        shown = pyramid.location.display("info")
        raise DataAccessError(f"{shown} has been changed since the volume was opened: open it again")


@dataclass(frozen=True, slots=True)
class _Change:
    """The new size of one scale."""

    scale: Scale
    old: ChunkGrid
    new: ChunkGrid

    @property
    def _common(self) -> Triple:
        """Chunks along each axis that both grids have."""
        return triple(map(min, self.old.shape, self.new.shape))

    @property
    def _unchanged(self) -> Triple:
        """Chunks along each axis that also end at the same voxel."""
        return triple(
            count - (self.old.span(axis, count - 1) != self.new.span(axis, count - 1))
            for axis, count in enumerate(self._common)
        )

    @property
    def steps(self) -> int:
        renamed, added = _shell(self._common, self._unchanged), _shell(self.new.shape, self._common)
        removed = _shell(self.old.shape, self._common)
        return 3 * _count(renamed) + _count(added) + _count(removed)

    def prepare(self) -> Iterator[None]:
        """Store the chunks that readers of the new `info` find; what is left there of others is deleted first."""
        pyramid, key = self.scale.volume.pyramid_for(self.scale.key)
        renamed = _shell(self._common, self._unchanged)
        new = [*_shell(self.new.shape, self._common), *renamed]
        listed = None
        rounds = -(-_count(new) // IN_FLIGHT)  # of deletions at once; a listing is one page after another
        if _count([Box((0, 0, 0), self.old.shape)]) <= rounds * _LISTED_AT_ONCE:
            listed = renaming.list_chunks(pyramid, key, 2 * rounds * _LISTED_AT_ONCE)  # chunks may have two names
        yield from renaming.delete_chunks(pyramid, key, _chunks(self.new, new), listed)
        pairs = zip(_chunks(self.old, renamed), _chunks(self.new, renamed), strict=True)
        mime_type, in_flight = self.scale.codec.mime_type, self.scale.in_flight
        yield from renaming.copy_chunks(pyramid, key, pairs, self._remade, mime_type, in_flight=in_flight)

    def clean_up(self) -> Iterator[None]:
        """Delete the chunks for which readers of the new `info` do not ask."""
        pyramid, key = self.scale.volume.pyramid_for(self.scale.key)
        gone = [*_shell(self._common, self._unchanged), *_shell(self.old.shape, self._common)]
        yield from renaming.delete_chunks(pyramid, key, _chunks(self.old, gone))

    def _remade(self, data: bytes, old: ChunkCoords, new: ChunkCoords) -> bytes:
        """Cut off voxels of a chunk, or add zeros."""
        codec = self.scale.codec
        voxels = np.zeros((*size_of(new), codec.num_channels), codec.dtype, order="F")
        kept = tuple(map(slice, map(min, size_of(old), size_of(new))))
        voxels[kept] = codec.decode(data, size_of(old))[kept]
        return codec.encode(voxels)


def _shell(outer: Triple, inner: Triple) -> list[Box]:
    """Cut the cells of a grid that are not in a smaller one at the same corner into boxes.

    Examples
    --------
    >>> _shell((3, 2, 1), (1, 2, 1))
    [Box(start=(1, 0, 0), stop=(3, 2, 1))]
    """
    boxes = []
    for axis in range(len(outer)):
        start, stop = [0, 0, 0], [*inner[:axis], *outer[axis:]]
        start[axis] = inner[axis]
        box = Box(triple(start), triple(stop))
        if all(box.shape):
            boxes.append(box)
    return boxes


def _count(boxes: Sequence[Box]) -> int:
    return sum(box.shape[0] * box.shape[1] * box.shape[2] for box in boxes)


def _chunks(grid: ChunkGrid, boxes: Sequence[Box]) -> Iterator[ChunkCoords]:
    for box in boxes:
        xs, ys, zs = map(range, box.start, box.stop)
        yield from (grid.chunk((x, y, z)) for z in zs for y in ys for x in xs)
