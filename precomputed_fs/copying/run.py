"""Copy a pyramid: stored bytes as they are, voxels only where chunks are encoded or cut differently."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from precomputed_fs.accessor import OPTION_DEFAULTS, FsspecAccessor
from precomputed_fs.codecs import take_parameters
from precomputed_fs.copying.place import Destination, check_apart, check_writable
from precomputed_fs.copying.plan import Target, make_plan
from precomputed_fs.copying.scene import ScenePlan, plan_scene
from precomputed_fs.copying.tasks import copy_here, copy_on_cluster
from precomputed_fs.copying.workers import Count
from precomputed_fs.format.byte_sizes import readable_bytes
from precomputed_fs.format.grid import Box
from precomputed_fs.keywords import CopyOptions, spelled_out
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume import Index, Progress, Scale, Volume, checked_size, open_volume, volume_of
from precomputed_fs.volume.indexing import select
from precomputed_fs.volume.progress import warn


@spelled_out(OPTION_DEFAULTS)
def copy_pyramid(
    source: AnyURL | FsspecAccessor | Volume,
    destination: AnyURL | FsspecAccessor,
    *,
    scales: Sequence[int | str] | None = None,
    box: Index = None,
    encoding: str | None = None,
    chunk_size: int | Sequence[int] | None = None,
    sharding: bool | Mapping[str, Any] | None = None,
    gzip: bool | None = None,
    overwrite: bool = False,
    verify: bool = False,
    scene: bool = True,
    progress: bool | None = None,
    denied_is_missing: bool | None = None,
    client: Any = None,  # noqa: ANN401 - a distributed.Client; dask ships no types
    **options: Unpack[CopyOptions],
) -> Volume:
    """Copy a pyramid, as it is or stored differently.

    If encoding and chunk size stay the same, stored chunks are copied without decoding; gzip is only undone or added
    where it changes. Absent chunks stay absent. `info` is stored last, so that an incomplete copy is never mistaken for
    a pyramid. A run that fails or is killed leaves what it has copied, and the same call resumes it.

    Parameters
    ----------
    source : str, path, UPath, Volume or FsspecAccessor
        A pyramid; use a Volume of `open_volume` if opening takes options.
    destination : str, path, UPath or FsspecAccessor
        A place without a pyramid.
    scales : sequence of int or str, optional
        Indices or keys of the scales to copy; by default all.
    box : Box, or an index as in ``source[0][...]``, optional
        Copy only this region, in absolute coordinates, in voxels of the finest scale; of coarser scales the voxels that
        it touches. Voxels keep their coordinates: ``voxel_offset`` of the copy is the corner of the box. Chunks that
        the box cuts, or all of them if it does not begin at the corner of one, are decoded and encoded again.
    encoding : str, optional
        See `precomputed_fs.codecs`; by default each scale's own. Its parameters are further keywords, such as
        ``jpeg_quality=90``.
    chunk_size : int or sequence of 3 int, optional
        Voxels, xyz; by default each scale's own.
    sharding : bool or mapping, optional
        True for what `propose_sharding` proposes, False for none, or the ``sharding`` of each scale; by default each
        scale's own, or the proposal for a sharded scale with another `chunk_size`.
    gzip : bool, optional
        Whether chunks other than JPEG and PNG are compressed; by default as at the source, with gzip instead of any
        other compression. Files, SFTP and memory can mark compression by a suffix only, which few readers look for;
        there, chunks are compressed by default only if they have a suffix at the source as well. In shards,
        `sharding` decides, if it is given.
    overwrite : bool
        Whether to delete first what is at the destination: a pyramid, part of another copy, or chunks of unknown
        origin. Only `info`, chunks and shards of the scales to be written, and the folders that `scene` copies are
        deleted. What a running process of
        this machine writes there is kept.
    verify : bool
        Whether to read everything back before `info` is stored, and compare: bytes if they were copied, voxels if they
        were encoded without loss; after lossy encoding, chunks must be decodable. This includes what an earlier run has
        copied.
    scene : bool
        Whether to copy the folders of meshes, skeletons and segment properties that `info` names: all their files,
        byte for byte, whatever `box` and `scales` are, since these have coordinates of their own, in nanometres. A
        folder outside of the pyramid's own is not copied. On HTTP, which has no listings, only segment properties and
        folders in shards are: see "Warns". If False, the copy's `info` does not name these folders.
    progress : bool, optional
        Whether to show a progress bar; by default for copies that take long, in a notebook or on a terminal.
    denied_is_missing : bool, optional
        As in `FsspecAccessor`, for a source that is a URL; by default False. A Volume or an accessor has its own.
    client : distributed.Client, optional
        A dask cluster to copy on, with one task for each shard, or for some hundred chunks. Its workers must reach both
        places. By default, threads of this process copy.
    **options
        Parameters of `encoding`, and options of `FsspecAccessor` for the destination, such as ``flat=False``.

    Returns
    -------
    Volume
        The copy.

    Raises
    ------
    AlreadyExistsError
        If the destination has a pyramid, or part of another copy, or chunks, and ``overwrite=False``.
    IndexError
        If the box goes beyond the volume.
    ValueError
        If the places are the same, or one is inside the other; or if the request is impossible, such as an encoding
        that cannot store the voxels, or a box with steps. Nothing is written then.
    NotFoundError, AccessDeniedError, DataAccessError
        If the source cannot be read, or the destination not be written.
    CorruptDataError
        If a chunk cannot be decoded, or what is read back differs from what was copied.

    Warns
    -----
    UserWarning
        If `info` names folders that cannot be copied; the message names them, with the reasons. The copy's `info` does
        not name them.

    Notes
    -----
    Memory holds only the chunks in flight: about 64 MiB that were read, and as many to be written; if the chunk size
    changes, a few blocks of 64 MiB of voxels. A shard that is being written is kept in a temporary file. A scale whose
    key leaves the source by ``..`` has the same key without that in the copy.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/original", np.ones((100, 80, 60), np.uint8), resolution=(8, 8, 8))
    >>> copy_pyramid(vol, "memory://docs/copy", chunk_size=(32, 32, 32), encoding="png")[0]
    <Scale 8_8_8: 100 x 80 x 60 x 1 uint8, 8 nm, png>
    """
    if client is not None and not hasattr(client, "submit"):
        raise TypeError(f"client: expected a distributed.Client, got {type(client).__name__}")
    volume = _opened(source, denied_is_missing)
    accessor_options: dict[str, Any] = {**options}
    parameters = take_parameters(encoding, accessor_options)
    if isinstance(destination, FsspecAccessor):
        if accessor_options:
            raise TypeError(f"{', '.join(accessor_options)}: the destination is an accessor, which has its options")
        accessor = destination
    else:
        accessor = FsspecAccessor(destination, gzip=gzip, **accessor_options)
    size = None if chunk_size is None else checked_size("chunk_size", chunk_size)
    target = Target(encoding, parameters, size, sharding, gzip, verify=verify)
    check_writable(accessor.pyramid, target)
    if client is not None and not accessor.can_read:
        raise ValueError(f"{accessor.url}: an archive is written by one process: client=None")
    chosen = _chosen(volume, scales, box)
    beside = plan_scene(volume, accessor.pyramid, target) if scene else ScenePlan()
    info, scale_copies = make_plan(volume, chosen, accessor.pyramid, target, beside.members)
    for copy in scale_copies:
        check_apart(volume, copy)
    if beside.left_out:
        warn(f"{volume.url}: not copied, and not named by the copy: {'; '.join(beside.left_out)}")
    with contextlib.ExitStack() as stack:
        if not accessor.can_read:
            stack.callback(accessor.close)  # completes the archive
        place = Destination(accessor.pyramid, info, volume.url, gzip, [folder.path for folder in beside.folders])
        stack.push(place.stop_if_failed)
        state = place.begin(volume, overwrite=overwrite)
        if state == "whole" and not verify:
            place.forget()
        else:
            scale_copies = [replace(copy, resumes=state != "new") for copy in scale_copies]
            folder_copies = [replace(folder, resumes=state != "new") for folder in beside.folders]
            total = sum(math.prod(copy.grid.shape) for copy in scale_copies)
            shows = volume.progress if progress is None else progress
            bar = stack.enter_context(
                _CopyProgress(f"copying to {accessor.url}", total, shows, "object" if folder_copies else "chunk")
            )
            with accessor.pyramid.expecting_info(info.to_dict()):
                if client is None:
                    copy_here(scale_copies, folder_copies, bar.add)
                else:
                    copy_on_cluster(client, scale_copies, folder_copies, bar.add)
            place.complete()
    return Volume(accessor, info, missing=volume.missing, progress=volume.progress)


def _opened(source: AnyURL | FsspecAccessor | Volume, denied_is_missing: bool | None) -> Volume:
    if not isinstance(source, (Volume, FsspecAccessor)):
        return open_volume(source, denied_is_missing=bool(denied_is_missing))
    if denied_is_missing is not None:
        raise TypeError("denied_is_missing: for a URL as the source; what is open already has its options")
    return source if isinstance(source, Volume) else volume_of(source)


def _chosen(volume: Volume, scales: Sequence[int | str] | None, box: Index) -> list[tuple[Scale, Box]]:
    """Return the scales to copy, in the order of the volume, and the part of each."""
    boxes = volume.boxes_of(box)
    if not all(boxes[0].shape):
        raise ValueError(f"{volume.url}: box: expected at least one voxel, got {boxes[0]}")
    if box is not None and select(box, volume[0].shape, boxes[0]).shape[3] < volume.info.num_channels:
        raise ValueError(f"{volume.url}: box: expected all channels; to store some, read them and use create_volume")
    parts = list(zip(volume, boxes, strict=True))
    if scales is None:
        return parts
    if isinstance(scales, str) or not scales:
        raise ValueError(f"scales: expected some indices or keys, got {scales!r}")
    try:
        chosen = [volume[which] for which in scales]
    except (KeyError, IndexError) as exc:
        raise ValueError(f"{volume.url}: scales: {exc.args[0]}") from exc
    return [part for part in parts if part[0] in chosen]


class _CopyProgress(Progress):
    """A progress bar of chunks and files that also shows bytes per second."""

    def __init__(self, title: str, total: int, shows: bool | None, unit: str) -> None:
        super().__init__(title, total, shows, unit)
        self._began = time.monotonic()
        self._size = 0

    def add(self, count: Count) -> None:
        """Add to the progress."""
        if count.found:
            self.expect(count.found)
            return
        self._size += count.size
        rate = self._size / max(time.monotonic() - self._began, 1e-3)
        self.relative_update(count.done, f"{readable_bytes(rate)}/s")
