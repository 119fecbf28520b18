"""The skeletons of segments: of a volume, or in a folder of their own."""

import functools
from collections.abc import Iterable, Iterator
from typing import Unpack

import numpy as np

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import CorruptDataError, NotFoundError
from precomputed_fs.format.scene_folders import resolved
from precomputed_fs.format.skeleton import RADIUS, SkeletonsInfo, decode_skeleton
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid.batches import Callback
from precomputed_fs.scene.beside import named_folder
from precomputed_fs.scene.folder import Folder
from precomputed_fs.scene.per_segment import PerSegment
from precomputed_fs.scene.segment_properties import SegmentProperties, properties_in
from precomputed_fs.scene.skeleton import Skeleton
from precomputed_fs.scene.transform import Transform
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.progress import warn
from precomputed_fs.volume.text import one_line
from precomputed_fs.volume.volume import Volume


class Skeletons(PerSegment[Skeleton]):
    """The skeletons in a folder, by segment id: ``skeletons[id]``, ``skeletons.get([id, ...])``, ``id in skeletons``.

    Get them from `Volume.skeletons` or `open_skeletons`. They may be pickled and shared by threads.

    Parameters
    ----------
    folder : Folder
    info : SkeletonsInfo
    progress : bool, optional
        See `open_volume`.
    """

    kind = "skeleton"
    kinds = "skeletons"

    def __init__(self, folder: Folder, info: SkeletonsInfo, *, progress: bool | None = None) -> None:
        super().__init__(folder, folder.values(info.sharding), progress=progress)
        self.info = info
        """The content of the folder's `info`."""

        self._transform = Transform.of(info.transform)
        has_radius = any(attribute.id == RADIUS for attribute in info.vertex_attributes)
        if has_radius and self._transform is not None and self._transform.uniform_scale is None:
            where = folder.shown("info")
            warn(f"{where}: the transform scales x, y and z differently, so that a radius stays in stored units")

    @property
    def segment_properties(self) -> SegmentProperties:
        """The segment properties that the folder's own `info` names, read anew; those of a volume are named by its.

        Raises
        ------
        NotFoundError
            If it names none.
        """
        given = self.info.segment_properties
        if not given:
            raise NotFoundError(f"{self.folder.shown('info')} names no segment properties")
        path = given if "://" in given else resolved(self.folder.path, given)
        return properties_in(Folder.beside(self.pyramid, path, "segment_properties"))

    def _found(self, segments: Iterable[int], callback: Callback) -> Iterator[tuple[int, Skeleton | None]]:
        return self.values.fetch_many(segments, decode=self._decoded, callback=callback)

    def _decoded(self, _: int, data: bytes | None) -> Skeleton | None:
        if data is None:
            return None
        vertices, edges, attributes = decode_skeleton(data, self.info.vertex_attributes)
        if self._transform is not None:
            stored, vertices = vertices, self._transform.applied(vertices)
            if np.isfinite(stored).all() and not np.isfinite(vertices).all():
                raise CorruptDataError("a vertex is farther away than float32 can tell")
            if RADIUS in attributes and self._transform.uniform_scale is not None:
                attributes = {**attributes, RADIUS: attributes[RADIUS] * np.float32(self._transform.uniform_scale)}
        return Skeleton(vertices, edges, attributes)

    def _details(self) -> list[str]:
        return [*(one_line(str(attribute)) for attribute in self.info.vertex_attributes), *super()._details()]


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def open_skeletons(
    url: AnyURL, *, progress: bool | None = None, **accessor_options: Unpack[AccessorOptions]
) -> Skeletons:
    """Open a folder of skeletons: one request, for its `info`.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    progress : bool, optional
        Whether reading many shows a progress bar; by default if it takes long, in a notebook or on a terminal.
    **accessor_options
        Options of `FsspecAccessor`.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError
        If `info` cannot be read.
    InvalidInfoError
        If it is not of skeletons; the message names the place.

    Examples
    --------
    >>> from precomputed_fs import Skeleton, create_skeletons
    >>> skeleton = Skeleton([[0, 0, 0], [0, 0, 80]], [[0, 1]], {"radius": [50, 40]})
    >>> _ = create_skeletons("memory://docs/skeletons", {7: skeleton})
    >>> skeletons = open_skeletons("memory://docs/skeletons")
    >>> skeletons[7].vertices
    array([[ 0.,  0.,  0.],
           [ 0.,  0., 80.]], dtype=float32)
    """
    return skeletons_in(Folder.open(url, **accessor_options), progress)


def skeletons_in(folder: Folder, progress: bool | None) -> Skeletons:
    """Open the skeletons in a folder."""
    info = SkeletonsInfo.parse(folder.info(), folder.shown("info"), folder.pyramid.options.max_file_bytes)
    return Skeletons(folder, info, progress=progress)


def skeletons_of(volume: Volume) -> Skeletons:
    """Return the skeletons of a volume; their `info` is read once."""
    instead = "vol.store_skeletons(...) stores some, and open_skeletons(url) opens a folder of their own"
    folder = functools.partial(named_folder, volume, "skeletons", instead)
    return volume.beside("skeletons", lambda: skeletons_in(folder(), volume.progress))
