"""The meshes of segments: of a volume, or in a folder of their own."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Unpack

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import AccessDeniedError, InvalidInfoError, shown
from precomputed_fs.format.legacy_mesh import LEGACY_TYPE
from precomputed_fs.format.multilod_mesh import MULTILOD_TYPE, MultilodInfo
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid.batches import IN_FLIGHT, Callback, checked_in_flight
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.scene.beside import named_folder
from precomputed_fs.scene.folder import Folder
from precomputed_fs.scene.legacy_meshes import LegacyMeshes
from precomputed_fs.scene.mesh import Mesh
from precomputed_fs.scene.multilod_meshes import MultilodMeshes
from precomputed_fs.scene.per_segment import PerSegment, checked_id
from precomputed_fs.store.requests import Job
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.indexing import checked_integer
from precomputed_fs.volume.volume import Volume


class MeshLevel(NamedTuple):
    """A level of detail of a segment's mesh."""

    scale: float
    """The resolution in nanometres, by which viewers choose a level."""

    fragments: int
    """How many cells of the octree have a part of the mesh."""

    nbytes: int
    """The bytes of these parts, as stored."""


class Meshes(PerSegment[Mesh]):
    """The meshes in a folder, by segment id: ``meshes[id]``, ``meshes.get([id, ...])``, ``id in meshes``.

    Get them from `Volume.meshes` or `open_meshes`. They may be pickled and shared by threads.

    Parameters
    ----------
    folder : Folder
    info : dict, optional
        The content of the folder's `info`; None if there is none, as in many folders of legacy meshes.
    progress : bool, optional
        See `open_volume`.
    lod : int
        The level of detail that ``meshes[id]`` reads; see `get`.
    in_flight : int
        See `stream`.
    """

    kind = "mesh"
    kinds = "meshes"

    def __init__(
        self,
        folder: Folder,
        info: dict[str, Any] | None,
        *,
        progress: bool | None = None,
        lod: int = 0,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self.reader = _reader(folder, info)
        """Makes the jobs that read meshes of this kind."""

        super().__init__(folder, self.reader.values, progress=progress)
        self.info = info
        """The content of the folder's `info`, or None."""

        self._lod = checked_integer("lod", lod)
        self._in_flight = checked_in_flight(in_flight)

    @property
    def has_levels(self) -> bool:
        """Whether meshes have levels of detail ("neuroglancer_multilod_draco"); else they are legacy meshes."""
        return isinstance(self.reader, MultilodMeshes)

    def get(
        self, segments: Iterable[int], *, lod: int = 0, missing: str = "error", progress: bool | None = None
    ) -> dict[int, Mesh]:
        """Read the meshes of some segments, many at once.

        Parameters
        ----------
        segments : iterable of int
            Segment ids.
        lod : int
            The level of detail: 0 for the finest, 1 for the next, -1 for the coarsest.
        missing : {"error", "skip"}
            How to treat a segment without a mesh: as a NotFoundError, or by leaving it out.
        progress : bool, optional
            See `open_volume`.

        Returns
        -------
        dict
            By segment id, in the order that was asked for.

        Raises
        ------
        NotFoundError
            If a segment has no mesh; the message lists them.
        IndexError
            If a mesh has no such level.
        ImportError
            If DracoPy is not installed and the meshes need it; the extra "mesh" brings it.
        CorruptDataError, DataAccessError
            If one cannot be read.
        """
        return super(Meshes, self._at(lod)).get(segments, missing=missing, progress=progress)

    def stream(
        self,
        segments: Iterable[int],
        *,
        lod: int = 0,
        missing: str = "error",
        in_flight: int = IN_FLIGHT,
        progress: bool | None = None,
    ) -> Iterator[tuple[int, Mesh]]:
        """Read the meshes of any number of segments; memory holds only those in flight.

        Parameters
        ----------
        segments, lod, missing, progress
            See `get`.
        in_flight : int
            How many meshes are read at a time: fewer take less memory, where each is large.

        Yields
        ------
        segment, mesh
            In the order in which they arrive.
        """
        return super(Meshes, self._at(lod, in_flight)).stream(segments, missing=missing, progress=progress)

    def levels(self, segment: int) -> list[MeshLevel]:
        """Return the levels of detail of a segment's mesh, the finest first; empty for a legacy mesh, which has none.

        Raises
        ------
        NotFoundError
            If it has no mesh.
        CorruptDataError, DataAccessError
            If its manifest cannot be read.
        """
        wanted = checked_id(segment)
        self.values.check_readable()
        stored = self.pyramid.store.run(self.values.find(wanted))
        if stored is None:
            raise self._absent([wanted])
        if not isinstance(self.reader, MultilodMeshes):
            return []
        info = self.reader.info
        levels = self.reader.manifest(stored).levels
        return [
            MeshLevel(level.scale * info.lod_scale_multiplier * info.unit, len(level.sizes), level.nbytes)
            for level in levels
        ]

    def _at(self, lod: int, in_flight: int = IN_FLIGHT) -> "Meshes":
        return Meshes(self.folder, self.info, progress=self.progress, lod=lod, in_flight=in_flight)

    def _found(self, segments: Iterable[int], callback: Callback) -> Iterator[tuple[int, Mesh | None]]:
        return self.values.find_many(segments, self._then, in_flight=self._in_flight, callback=callback)

    def _then(self, segment: int, stored: Stored | None) -> Job[tuple[int, Mesh | None]]:
        geometry = yield from self.reader.read(segment, stored, self._lod)
        return segment, None if geometry is None else Mesh(*geometry)

    def _details(self) -> list[str]:
        return ["several levels of detail" if self.has_levels else "legacy", *super()._details()]


def _reader(folder: Folder, info: dict[str, Any] | None) -> LegacyMeshes | MultilodMeshes:
    kind = LEGACY_TYPE if info is None else info.get("@type")
    if kind == LEGACY_TYPE:
        return LegacyMeshes(folder)
    where = folder.shown("info")
    if info is None or kind != MULTILOD_TYPE:
        what = "; a volume's meshes are open_volume(url).meshes" if info and "scales" in info else ""
        known = f"{LEGACY_TYPE!r} or {MULTILOD_TYPE!r}"
        raise InvalidInfoError(f"{where}: @type: expected {known}, got {shown(kind)}{what}")
    return MultilodMeshes(folder, MultilodInfo.parse(info, where, folder.pyramid.options.max_file_bytes))


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def open_meshes(url: AnyURL, *, progress: bool | None = None, **accessor_options: Unpack[AccessorOptions]) -> Meshes:
    """Open a folder of meshes: one request, for its `info`; without one, these are legacy meshes.

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
    AccessDeniedError, DataAccessError
        If `info` cannot be read.
    InvalidInfoError
        If it is not of meshes; the message names the place.

    Examples
    --------
    >>> from precomputed_fs import Mesh, create_meshes
    >>> mesh = Mesh([[0, 0, 0], [8, 0, 0], [0, 8, 0]], [[0, 1, 2]])
    >>> _ = create_meshes("memory://docs/meshes", {7: mesh})
    >>> open_meshes("memory://docs/meshes")[7]
    Mesh(3 vertices, 1 triangle, 0 to 8 x 0 to 8 x 0 to 0 nm)
    """
    return meshes_in(Folder.open(url, **accessor_options), progress)


def meshes_in(folder: Folder, progress: bool | None) -> Meshes:
    """Open the meshes in a folder."""
    try:
        info = folder.info_if_any()
    except AccessDeniedError as exc:
        if not exc.may_mean_absent:
            raise
        info = None
    return Meshes(folder, info, progress=progress)


def meshes_of(volume: Volume) -> Meshes:
    """Return the meshes of a volume; their `info` is read once."""
    instead = "vol.store_meshes(...) stores some, and open_meshes(url) opens a folder of their own"
    folder = functools.partial(named_folder, volume, "mesh", instead)
    return volume.beside("mesh", lambda: meshes_in(folder(), volume.progress))
