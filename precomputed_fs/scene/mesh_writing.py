"""How meshes are stored: beside a volume, or in a folder of their own."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.codecs.draco import require_draco
from precomputed_fs.errors import AlreadyExistsError, CorruptDataError, expected_one_of
from precomputed_fs.format.info_members import IDENTITY
from precomputed_fs.format.legacy_mesh import LEGACY_TYPE, pack_fragment, pack_manifest, parse_manifest
from precomputed_fs.format.lengths import Length, VoxelSize, nanometres, voxel_size
from precomputed_fs.format.mesh_geometry import Geometry
from precomputed_fs.format.multilod_mesh import MOST_LEVELS, MULTILOD_TYPE, QUANTIZATIONS, MultilodInfo
from precomputed_fs.format.names import joined
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.scene.beside import finish_writing, folder_to_write
from precomputed_fs.scene.folder import Folder
from precomputed_fs.scene.legacy_meshes import LegacyMeshes
from precomputed_fs.scene.mesh import Mesh
from precomputed_fs.scene.meshes import Meshes, meshes_in
from precomputed_fs.scene.multilod_encoding import EncodedMesh, encoded_mesh
from precomputed_fs.scene.multilod_meshes import MultilodMeshes
from precomputed_fs.scene.per_segment import count_of, items_of, sharding_for, sharding_mismatch
from precomputed_fs.store.requests import Compute, Delete, Job
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.progress import Progress
from precomputed_fs.volume.volume import Volume

MeshItems = Mapping[int, Any] | Iterable[tuple[int, Any]]
"""Meshes, or lists of their levels, by segment id; or pairs of both, one after the other."""

ShardingLike = bool | Mapping[str, Any] | Sharding | None
"""True to have one proposed."""

_IN_FLIGHT = 32
_JSON_TYPE = "application/json"
_LARGEST_INDEX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class _Layout:
    """How meshes are to be stored, as far as the caller says; None leaves it to the folder, or to a default."""

    multiresolution: bool | None
    vertex_quantization_bits: int | None
    fragment_size: VoxelSize | None
    level_scales: Sequence[Length] | None
    sharding: ShardingLike

    def __post_init__(self) -> None:
        bits = self.vertex_quantization_bits
        if bits is not None and bits not in QUANTIZATIONS:
            raise ValueError(expected_one_of("vertex_quantization_bits", map(str, QUANTIZATIONS), bits))
        if self.multiresolution is False and self.options_of_levels:
            named = ", ".join(self.options_of_levels)
            raise ValueError(f"{named}: legacy meshes have no such option; leave multiresolution=False out")
        if self.level_scales is not None:
            scales = [nanometres(scale) for scale in self.level_scales]
            is_right = all(0 < scale < math.inf for scale in scales)
            if not scales or not is_right or any(b < a for a, b in itertools.pairwise(scales)):
                raise ValueError(f"level_scales: expected positive lengths that do not decrease, got {scales}")

    def encoded(self, levels: Sequence[Mesh], info: MultilodInfo) -> EncodedMesh:
        """Encode a mesh."""
        scales = None if self.level_scales is None else [nanometres(scale) for scale in self.level_scales]
        if scales is not None and len(scales) < len(levels):
            raise ValueError(f"it has {len(levels)} levels, and level_scales are {len(scales)}")
        size = None if self.fragment_size is None else voxel_size(self.fragment_size)
        return encoded_mesh(levels, info, fragment_size=size, scales=scales)

    @property
    def options_of_levels(self) -> list[str]:
        """The options that are given and that only meshes with levels of detail have."""
        names = ("vertex_quantization_bits", "fragment_size", "level_scales", "sharding")
        return [name for name in names if getattr(self, name) not in (None, False)]


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def create_meshes(
    url: AnyURL,
    meshes: MeshItems,
    *,
    multiresolution: bool | None = None,
    vertex_quantization_bits: int | None = None,
    fragment_size: VoxelSize | None = None,
    level_scales: Sequence[Length] | None = None,
    sharding: ShardingLike = None,
    overwrite: bool = False,
    progress: bool | None = None,
    **accessor_options: Unpack[AccessorOptions],
) -> Meshes:
    """Store meshes in a folder of their own, new or not.

    Parameters
    ----------
    url : str, path or UPath
        Of the folder; see `FsspecAccessor`.
    meshes, multiresolution, vertex_quantization_bits, fragment_size, level_scales, sharding, overwrite, progress
        See `Volume.store_meshes`.
    **accessor_options
        Options of `FsspecAccessor`.

    Returns
    -------
    Meshes
        All that are in the folder.

    Raises
    ------
    AlreadyExistsError, TypeError, ValueError, DataAccessError
        See `Volume.store_meshes`.
    """
    layout = _Layout(multiresolution, vertex_quantization_bits, fragment_size, level_scales, sharding)
    folder = Folder.open(url, **accessor_options)
    _write(folder, meshes, layout, overwrite=overwrite, shows=progress)
    folder.pyramid.flush()
    return meshes_in(folder, progress)


def store_meshes(
    volume: Volume,
    meshes: MeshItems,
    *,
    folder: str | None,
    overwrite: bool,
    progress: bool | None,
    **layout: Any,  # noqa: ANN401 - see `_Layout`
) -> None:
    """Store meshes beside a volume: see `Volume.store_meshes`."""
    checked = _Layout(**layout)
    place = folder_to_write(volume, "mesh", folder, "mesh", overwrite=overwrite)
    shows = volume.progress if progress is None else progress
    if _write(place, meshes, checked, overwrite=overwrite, shows=shows):
        finish_writing(volume, "mesh", place, folder or volume.info.mesh or "mesh")
        volume.make_again("mesh")  # there may have been no `info` before


def _write(folder: Folder, meshes: MeshItems, layout: _Layout, *, overwrite: bool, shows: bool | None) -> bool:
    """Store meshes in a folder; tell whether it has an `info`, which is not made without any meshes."""
    total = count_of(meshes)
    items = _checked(items_of(meshes, "meshes"))
    first = next(items, None)
    there = meshes_in(folder, None)
    if there.info is None:
        if first is None:
            return False
        there = _begun(folder, meshes, first[1], layout)
    _check_alike(there, layout)
    if there.has_levels:
        require_draco()
    writer = (
        _MultilodWriter(there.reader, layout) if isinstance(there.reader, MultilodMeshes) else _LegacyWriter(folder)
    )
    pairs = items if first is None else itertools.chain([first], items)
    jobs = (_counted(writer.store(segment, levels, overwrite=overwrite)) for segment, levels in pairs)
    there.values.check_writable()
    with Progress("storing meshes", total, shows, "mesh") as bar:
        for stored in folder.pyramid.store.run_many(jobs, _IN_FLIGHT):
            bar.relative_update(len(stored))
    return True


def _begun(folder: Folder, meshes: MeshItems, first: Sequence[Mesh], layout: _Layout) -> Meshes:
    """Store the `info` of a new folder; if another writer was faster, take that one's."""
    has_levels = layout.multiresolution or bool(layout.options_of_levels) or len(first) > 1
    if has_levels:
        require_draco()
    info = _new_info(meshes, layout) if has_levels and layout.multiresolution is not False else {"@type": LEGACY_TYPE}
    try:
        folder.store_info(info)
    except AlreadyExistsError:
        return Meshes(folder, folder.info())
    return Meshes(folder, info)


def _new_info(meshes: MeshItems, layout: _Layout) -> dict[str, Any]:
    """Make the `info` of new meshes with levels of detail."""
    bits = layout.vertex_quantization_bits or max(QUANTIZATIONS)
    members = {"vertex_quantization_bits": bits, "transform": IDENTITY, "lod_scale_multiplier": 1}
    info = MultilodInfo.parse({"@type": MULTILOD_TYPE, **members})

    def sizes() -> Iterator[int]:
        for _, levels in _checked(items_of(meshes, "meshes")):
            yield sum(map(len, layout.encoded(levels, info)))

    sharding = sharding_for(layout.sharding, meshes, sizes)
    return info.to_dict() | ({} if sharding is None else {"sharding": sharding.to_info()})


def _counted(job: Job[None]) -> Job[list[None]]:
    yield from job
    return [None]


# ------------------------------------------------------------------------------------------------------------ checking


def _checked(items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, list[Mesh]]]:
    """Yield the levels of each mesh."""
    for segment, given in items:
        try:
            levels = [_made(mesh) for mesh in (given if isinstance(given, (list, tuple)) else [given])]
        except (TypeError, ValueError) as exc:
            raise type(exc)(f"mesh {segment}: {exc}") from exc
        if not 1 <= len(levels) <= MOST_LEVELS:
            raise ValueError(f"mesh {segment}: expected 1 to {MOST_LEVELS} levels of detail, got {len(levels)}")
        for lod, mesh in enumerate(levels):
            problem = _problem(mesh)
            if problem:
                raise ValueError(f"mesh {segment}{f', level {lod}' if len(levels) > 1 else ''}: {problem}")
        yield segment, levels


def _made(given: Any) -> Mesh:  # noqa: ANN401 - see `Mesh.from_trimesh`
    """Return a mesh whose arrays are right now: they may have been changed since it was made."""
    mesh = Mesh.from_trimesh(given)
    return mesh if mesh.faces.size > _LARGEST_INDEX else Mesh(mesh.vertices, mesh.faces)


def _problem(mesh: Mesh) -> str:
    """Say why a mesh cannot be stored; empty if it can."""
    if not len(mesh.faces):
        return "it has no triangles; leave out segments without a mesh"
    if mesh.faces.size > _LARGEST_INDEX:
        return f"it has {mesh.faces.size} indices, more than 32 bits can number"
    if not np.isfinite(mesh.vertices).all():
        return "a vertex has a coordinate that is not a finite number"
    return ""


def _check_alike(there: Meshes, layout: _Layout) -> None:
    """Check that new meshes fit to the folder in which they are to be."""
    where = there.folder.shown("info")
    otherwise = "choose another folder, or leave the option out"
    if isinstance(there.reader, MultilodMeshes):
        if layout.multiresolution is False:
            raise AlreadyExistsError(f"{where} is of meshes with levels of detail: {otherwise}")
        info = there.reader.info
        bits = layout.vertex_quantization_bits
        if bits is not None and bits != info.vertex_quantization_bits:
            has = f"vertices of {info.vertex_quantization_bits} bits"
            raise AlreadyExistsError(f"{where} is of meshes that have {has}: {otherwise}")
        if how := sharding_mismatch(layout.sharding, info.sharding):
            raise AlreadyExistsError(f"{where} is of meshes that are {how}: {otherwise}")
    elif layout.multiresolution or layout.options_of_levels:
        raise AlreadyExistsError(f"{where} is of legacy meshes, which have no levels of detail: {otherwise}")


# ------------------------------------------------------------------------------------------------------------- storing


class _LegacyWriter:
    """Stores legacy meshes: a fragment and a manifest each."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._manifests = LegacyMeshes(folder).values
        self._fragments = folder.values(name_of=_fragment_name)

    def store(self, segment: int, levels: Sequence[Mesh], *, overwrite: bool) -> Job[None]:
        """Store a mesh; of one that is replaced, other fragments are deleted at the end."""
        if len(levels) > 1:
            what = f"{self._folder.shown('info')} is of legacy meshes, which have one: choose another folder"
            raise ValueError(f"mesh {segment} has {len(levels)} levels of detail, and {what}")
        before = (yield from self._listed(segment)) if overwrite else []
        geometry = Geometry(levels[0].vertices, levels[0].faces)
        data: bytes = yield Compute(functools.partial(pack_fragment, geometry))
        name = _fragment_name(segment)
        yield from self._fragments.store(segment, data, overwrite=overwrite)
        manifest = pack_manifest([name])
        try:
            yield from self._manifests.store(segment, manifest, _JSON_TYPE, overwrite=overwrite)
        except AlreadyExistsError:  # a mesh whose fragments have other names
            yield from self._delete(name)
            raise
        for other in before:
            if other != name and other.startswith(f"{segment}:"):  # others may belong to another mesh
                yield from self._delete(other)

    def _listed(self, segment: int) -> Job[list[str]]:
        """Return the fragments of the mesh that is there."""
        stored = yield from self._manifests.find(segment)
        try:
            return [] if stored is None else parse_manifest(stored.decoded())
        except CorruptDataError:
            return []

    def _delete(self, name: str) -> Job[None]:
        path = joined(self._folder.path, name)
        for other in (path, *(yield from self._folder.pyramid.storer.other_names(path))):
            yield Delete(other)


class _MultilodWriter:
    """Stores meshes with levels of detail."""

    def __init__(self, there: MultilodMeshes, layout: _Layout) -> None:
        self._info = there.info
        self._layout = layout
        self._manifests = there.values
        self._fragments = there.fragments

    def store(self, segment: int, levels: Sequence[Mesh], *, overwrite: bool) -> Job[None]:
        """Store a mesh: its fragments, and then the manifest, or both at once in a shard.

        They are not compressed as files: readers ask for ranges.
        """
        try:
            encoded: EncodedMesh = yield Compute(functools.partial(self._layout.encoded, levels, self._info))
        except ValueError as exc:
            raise ValueError(f"mesh {segment}: {exc}") from exc
        if self._manifests.sharding is not None:
            yield from self._manifests.store(segment, encoded.manifest, overwrite=overwrite, lead=encoded.fragments)
            return
        yield from self._fragments.store(segment, encoded.fragments, compress=False, overwrite=overwrite)
        yield from self._manifests.store(segment, encoded.manifest, compress=False, overwrite=overwrite)


def _fragment_name(segment: int) -> str:
    """Return the name of the one fragment of a mesh, as cloud-volume chooses it."""
    return f"{segment}:0:1"
