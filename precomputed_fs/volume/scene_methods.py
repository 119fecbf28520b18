"""Methods of volumes for what stands beside the voxels; package `scene` implements them: see `extensions`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precomputed_fs.keywords import spelled_out
from precomputed_fs.volume.extensions import call_later

if TYPE_CHECKING:
    from precomputed_fs.scene.skeletons import Skeletons


def skeletons(self: Any) -> "Skeletons":  # noqa: ANN401 - a Volume
    """Return the skeletons of segments, by segment id.

    ``vol.skeletons[id]`` reads one, ``vol.skeletons.get([id, ...])`` many at once, ``vol.skeletons.stream(ids)`` any
    number, ``id in vol.skeletons`` asks whether there is one, and ``vol.skeletons.ids`` lists all where the store can.
    The first access reads the `info` of their folder, which is then kept.

    Raises
    ------
    NotFoundError
        If `info` names no skeletons.
    InvalidInfoError, DataAccessError
        If the `info` of their folder is invalid, or cannot be read.
    """
    found: Skeletons = call_later("skeletons", self)
    return found


@spelled_out()
def store_skeletons(
    self: Any,  # noqa: ANN401 - a Volume
    skeletons: Mapping[int, Any] | Iterable[tuple[int, Any]],
    *,
    attributes: Sequence[str] | Mapping[str, Any] | None = None,
    folder: str | None = None,
    sharding: bool | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> None:
    """Store skeletons of segments, many at once, and have `info` name their folder.

    Parameters
    ----------
    skeletons : mapping, or iterable of pairs
        Skeletons by segment id, or ``(id, skeleton)``, one after the other: of a generator, memory holds only those in
        flight. Beside `Skeleton`, those of cloud-volume, kimimaro and igneous will do.
    attributes : sequence of str, or mapping of str to dtype, optional
        The vertex attributes to store, by default all that the first skeleton has. All skeletons have to have them, in
        the same type. A mapping converts them: ``{"radius": "float32"}``. The format has float32 and integers of up to
        32 bits.
    folder : str, optional
        Where to store them, from the volume's folder; by default where `info` names skeletons already, or else in
        "skeletons".
    sharding : bool or mapping, optional
        True to shard as `propose_hashed_sharding` says; or the ``sharding`` of `info`. By default each is a file, or as
        the folder is already.
    overwrite : bool
        Whether existing skeletons of these segments are replaced. Others in the folder stay in any case.
    progress : bool, optional
        See `open_volume`.

    Raises
    ------
    AlreadyExistsError
        If one exists and `overwrite` is false, or the folder has skeletons with other attributes or another sharding.
    TypeError, ValueError
        If something is not a skeleton, or an attribute cannot be stored exactly.
    DataAccessError
        If something cannot be written.

    Notes
    -----
    Shards are written at the end of the call, or at the end of a ``with`` block of the volume, in which any number of
    calls then write each shard once.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import Skeleton, create_volume
    >>> vol = create_volume("memory://docs/skeletal", np.ones((20, 15, 10), np.uint64), resolution=(8, 8, 40))
    >>> vol.store_skeletons({1: Skeleton([[0, 0, 0], [80, 0, 40]], [[0, 1]], {"radius": [20, 10]})})
    >>> vol.skeletons[1]
    Skeleton(2 vertices, 1 edges, radius (float32))
    """
    call_later(
        "store_skeletons", self, skeletons, attributes=attributes, folder=folder, sharding=sharding,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip
