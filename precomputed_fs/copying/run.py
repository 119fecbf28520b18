"""Copy a pyramid: stored bytes as they are, voxels only where chunks are encoded or cut differently."""

import contextlib
import math
import operator
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from precomputed_fs.accessor import FsspecAccessor, accessor_with
from precomputed_fs.copying.place import Destination, check_apart, check_writable
from precomputed_fs.copying.plan import Wish, encoding_row, make_plan
from precomputed_fs.copying.tasks import Count, copy_here, copy_on_cluster
from precomputed_fs.format.grid import Triple
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume import Progress, Scale, Volume, open_volume, volume_of

_LEFT_OUT = ("mesh", "skeletons", "segment_properties")


def copy_pyramid(
    source: AnyURL | FsspecAccessor | Volume,
    destination: AnyURL | FsspecAccessor,
    *,
    scales: Sequence[int | str] | None = None,
    encoding: str | None = None,
    chunk_size: Sequence[int] | None = None,
    sharding: bool | Mapping[str, Any] | None = None,
    gzip: bool | None = None,
    overwrite: bool = False,
    verify: bool = False,
    progress: bool | None = None,
    denied_is_missing: bool | None = None,
    client: Any = None,  # noqa: ANN401 - a distributed.Client; dask ships no types
    **options: Any,  # noqa: ANN401 - an encoding's parameters, and as FsspecAccessor has them
) -> Volume:
    """Copy a pyramid, as it is or stored in another way.

    Where encoding and chunk size stay, stored chunks are moved without being decoded; gzip around them is undone or
    put around them only where that changes. Absent chunks stay absent. `info` is stored last: until then, nobody takes
    the destination for a pyramid. A run that fails, or is killed, leaves what it has copied, and the same call goes on
    from there.

    Parameters
    ----------
    source : str, path, UPath, Volume or FsspecAccessor
        A pyramid; a Volume of `open_volume` where it takes options to open it.
    destination : str, path, UPath or FsspecAccessor
        Where there is none yet.
    scales : sequence of int or str, optional
        Indices or keys of the scales to copy; by default all.
    encoding : str, optional
        See `precomputed_fs.codecs`; by default as each scale has it. With it, parameters are further keywords, such as
        ``jpeg_quality=90``.
    chunk_size : sequence of 3 int, optional
        Voxels, xyz; by default as each scale has it.
    sharding : bool or mapping, optional
        True to shard as `propose_sharding` says, False not to shard, or what each scale's ``sharding`` is to be; by
        default as each scale has it, and as proposed for a sharded one with another `chunk_size`.
    gzip : bool, optional
        Whether chunks that are no JPEG or PNG are compressed; by default as each one is at the source, with gzip in the
        place of all compressions. But where the destination can say that by a suffix only (files, SFTP, memory), which
        few readers look for, chunks are compressed by default only if they have a suffix at the source, too. In
        shards, what `sharding` says counts, if it does.
    overwrite : bool
        Whether what is at the destination may be deleted first: a pyramid, part of another one, chunks of no known
        origin. Only chunks and shards of the scales to be written are, and `info`. What a process of this machine is
        still at stays.
    verify : bool
        Whether everything is read back before `info` is stored, and compared: bytes where they were moved, voxels where
        they were encoded anew without loss; where with loss, that they can be decoded. This includes what an earlier
        run has copied.
    progress : bool, optional
        Whether to show a progress bar; by default if it lasts, in a notebook or on a terminal.
    denied_is_missing : bool, optional
        As `FsspecAccessor` has it, for a source that is a URL; by default False. A Volume or an accessor has its own.
    client : distributed.Client, optional
        A dask cluster to copy on: one task for each shard, or for some hundred chunks. Its workers have to reach both
        places. By default, threads of this process do it.
    **options
        Parameters of `encoding`, and options of `FsspecAccessor` for the destination, such as ``flat=False``.

    Returns
    -------
    Volume
        What is at the destination.

    Raises
    ------
    AlreadyExistsError
        If the destination has a pyramid, or part of another copy, or chunks, and ``overwrite=False``.
    ValueError
        If one place is the other, or inside of it; or if something is asked for that cannot be, such as an encoding
        that does not store such voxels. Nothing is written then.
    NotFoundError, AccessDeniedError, DataAccessError
        If the source cannot be read, or the destination not written.
    CorruptDataError
        If a chunk cannot be decoded, or what is read back is not what was copied.

    Warns
    -----
    UserWarning
        If `info` names meshes, skeletons or properties: these are not copied.

    Notes
    -----
    Memory holds only what is under way: some 64 MiB of chunks that are read, and as many that are written; where the
    chunk size changes, a few blocks of 64 MiB of voxels. A shard that is being written waits in a temporary file. A
    scale whose key leads out of the source by ``..`` is at the same key without that in the copy.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/original", np.ones((100, 80, 60), np.uint8), resolution=(8, 8, 8))
    >>> copy_pyramid(vol, "memory://docs/copy", chunk_size=(32, 32, 32), encoding="png")[0]
    <Scale 8_8_8: 100 x 80 x 60 x 1 uint8, 8 x 8 x 8 nm, png>
    """
    if client is not None and not hasattr(client, "submit"):
        raise TypeError(f"client: expected a distributed.Client, got {type(client).__name__}")
    volume = _opened(source, denied_is_missing)
    names = {parameter.key for parameter in encoding_row(encoding).parameters} if encoding is not None else set()
    parameters = {name: options.pop(name) for name in names & options.keys()}
    if isinstance(destination, FsspecAccessor):
        if options:
            raise TypeError(f"{', '.join(options)}: the destination is an accessor, which has its options")
        accessor = destination
    else:
        accessor = accessor_with(destination, {"gzip": gzip, **options})
    wish = Wish(encoding, parameters, None if chunk_size is None else _size(chunk_size), sharding, gzip, verify=verify)
    check_writable(accessor.pyramid, wish)
    if client is not None and not accessor.can_read:
        raise ValueError(f"{accessor.url}: an archive is written by one process: client=None")
    info, works = make_plan(volume, _chosen(volume, scales), accessor.pyramid, wish)
    for work in works:
        check_apart(volume, work)
    left_out = [name for name in _LEFT_OUT if name in info]
    if left_out:
        message = f"{volume.url}: what `info` names as {', '.join(left_out)} is not copied"
        warnings.warn(message, UserWarning, stacklevel=2)
    with contextlib.ExitStack() as stack:
        if not accessor.can_read:
            stack.callback(accessor.close)  # completes the archive
        place = Destination(accessor.pyramid, info, volume.url, gzip)
        stack.push(place.stop_if_failed)
        state = place.begin(volume, overwrite=overwrite)
        if state == "whole" and not verify:
            place.forget()
        else:
            works = [replace(work, resumes=state != "new") for work in works]
            total = sum(math.prod(work.grid.shape) for work in works)
            shows = volume.progress if progress is None else progress
            bar = stack.enter_context(_CopyProgress(f"copying to {accessor.url}", total, shows))
            with accessor.pyramid.expecting_info(info.to_dict()):
                if client is None:
                    copy_here(works, bar.add)
                else:
                    copy_on_cluster(client, works, bar.add)
            place.complete()
    return Volume(accessor, info, missing=volume.missing, progress=volume.progress)


def _opened(source: AnyURL | FsspecAccessor | Volume, denied_is_missing: bool | None) -> Volume:
    if not isinstance(source, (Volume, FsspecAccessor)):
        return open_volume(source, denied_is_missing=bool(denied_is_missing))
    if denied_is_missing is not None:
        raise TypeError("denied_is_missing: for a URL as the source; what is open already has its options")
    return source if isinstance(source, Volume) else volume_of(source)


def _size(given: Sequence[int]) -> Triple:
    try:
        x, y, z = map(operator.index, given)
    except (TypeError, ValueError):
        x, y, z = 0, 0, 0
    if min(x, y, z) < 1:
        raise ValueError(f"chunk_size: expected 3 positive integers, xyz, got {given!r}")
    return x, y, z


def _chosen(volume: Volume, scales: Sequence[int | str] | None) -> list[Scale]:
    """Return the scales to copy, in the order of the volume."""
    if scales is None:
        return list(volume)
    if isinstance(scales, str) or not scales:
        raise ValueError(f"scales: expected some indices or keys, got {scales!r}")
    try:
        chosen = [volume[which] for which in scales]
    except (KeyError, IndexError) as exc:
        raise ValueError(f"{volume.url}: scales: {exc.args[0]}") from exc
    return [scale for scale in volume if scale in chosen]


class _CopyProgress(Progress):
    """A progress bar of chunks, which tells bytes per second, too."""

    def __init__(self, title: str, total: int, shows: bool | None) -> None:
        super().__init__(title, total, shows)
        self._began = time.monotonic()
        self._size = 0

    def add(self, count: Count) -> None:
        """Count what is done."""
        self._size += count.size
        rate = self._size / max(time.monotonic() - self._began, 1e-3)
        self.relative_update(count.chunks, f"{_readable(rate)}/s")


def _readable(size: float) -> str:
    """Show a number of bytes.

    Examples
    --------
    >>> _readable(3.2e6)
    '3.2 MB'
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - as units are
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
