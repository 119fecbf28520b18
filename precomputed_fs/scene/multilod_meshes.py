"""How meshes of several levels of detail are read: a segment's manifest, and the range of one level's fragments."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from precomputed_fs.codecs.draco import decode_draco, require_draco
from precomputed_fs.errors import CorruptDataError, DataAccessError, NotFoundError
from precomputed_fs.format.mesh_geometry import Geometry, joined
from precomputed_fs.format.multilod_mesh import Manifest, MultilodInfo
from precomputed_fs.format.names import joined as joined_path
from precomputed_fs.pyramid.stored import Stored, file_limit
from precomputed_fs.pyramid.values import Values
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.pool import HOP
from precomputed_fs.store.requests import Body, Compute, Job

_TRIES = 5  # at a mesh that is being replaced
_Ranges = list[tuple[int, int, int]]  # fragment, where it begins and where it ends


def manifest_name(segment: int) -> str:
    """Return the name of a segment's manifest, if that is a file of its own."""
    return f"{segment}.index"


class MultilodMeshes:
    """The meshes of a folder of the type ``neuroglancer_multilod_draco``.

    Parameters
    ----------
    folder : Folder
    info : MultilodInfo
    """

    def __init__(self, folder: Folder, info: MultilodInfo) -> None:
        self._folder = folder
        self._pyramid = folder.pyramid
        self.info = info
        self.values = folder.values(info.led_sharding, name_of=manifest_name)
        """The manifests, by segment."""

        self.fragments = Values[int](folder.pyramid, folder.path)
        """The fragments of all levels, by segment, where these are files of their own."""

    def manifest(self, stored: Stored) -> Manifest:
        """Decode a manifest."""
        data = stored.decoded()
        with stored.naming():
            return Manifest.from_bytes(data)

    def read(self, segment: int, stored: Stored | None, lod: int) -> Job[Geometry | None]:
        """Read a level of a segment's mesh, given its manifest; None if that is absent."""
        for _ in range(_TRIES):
            if stored is None:
                return None
            require_draco()
            manifest: Manifest = yield Compute(functools.partial(self.manifest, stored))
            level = _Level(self.info, manifest, _checked_lod(manifest, lod, stored), stored)
            failure: CorruptDataError | None = None
            try:
                data = yield from self._fragments(segment, level)
                if data is not None:
                    return (yield from level.decoded(data))
            except CorruptDataError as exc:  # damaged, or of a mesh that has replaced the one seen
                failure = exc
            there = yield from self._found_again(segment)
            if failure is not None and there is not None and _is_same(there, stored):
                raise failure
            stored = there
        raise DataAccessError(f"{self._folder.shown()}: mesh {segment} is replaced again and again")

    def _found_again(self, segment: int) -> Job[Stored | None]:
        """Find a manifest without what is known of its shard."""
        if self.values.sharding is not None:
            self._pyramid.shards.forget(self._folder.path, self.values.sharding.locate(segment)[0])
        return (yield from self.values.find(segment))

    def _fragments(self, segment: int, level: "_Level") -> Job[bytes | None]:
        """Read all fragments of a level; None if the manifest is of another version of the shard."""
        start, end = level.manifest.span(level.lod)
        limit = file_limit("", self._pyramid.options)
        if end - start > limit.size:
            shown = level.stored.shown
            raise CorruptDataError(f"{shown}: level {level.lod} would take {end - start} bytes; {limit.reason}")
        if start == end:
            return b""
        sharding = self.values.sharding
        if sharding is None:
            name = joined_path(self._folder.path, str(segment))
            return (yield from self._range(level, name, start, end)).data
        stored = level.stored
        in_body = (stored.span or (0, 0))[0] - level.manifest.nbytes
        if in_body + start >= 0:  # not flushed yet, or read along with the manifest
            return stored.body.data[in_body + start : in_body + end]
        begin = stored.position - level.manifest.nbytes
        if begin < sharding.index_size * stored.name.endswith(".shard"):
            raise CorruptDataError(f"{stored.shown}: its fragments do not fit into the shard before it")
        body = yield from self._range(level, stored.name, begin + start, begin + end)
        return body.data if body.version == stored.body.version else None

    def _range(self, level: "_Level", name: str, start: int, end: int) -> Job[Body]:
        what = f"level {level.lod} of the mesh"
        try:
            return (yield from self._pyramid.shards.indexes.read(name, start, end, what))
        except NotFoundError as exc:
            raise CorruptDataError(f"{level.stored.shown} is there without its fragments: {exc}") from exc


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of a mesh, to be decoded."""

    info: MultilodInfo
    manifest: Manifest
    lod: int
    stored: Stored
    """The manifest as stored, for messages."""

    def decoded(self, data: bytes) -> Job[Geometry]:
        """Decode fragments in several threads, and join them."""
        hops = [Compute(functools.partial(self._decode, data, ranges)) for ranges in self._hops()]
        parts: list[Geometry] = []
        for outcome in (yield hops):
            if isinstance(outcome, Exception):
                raise outcome
            parts += outcome
        geometry: Geometry = yield Compute(functools.partial(joined, parts))
        return geometry

    def _hops(self) -> Iterator[_Ranges]:
        """Return the fragments that are not empty, some at a time."""
        ranges: _Ranges = []
        position = 0
        for fragment, size in enumerate(self.manifest.levels[self.lod].sizes.tolist()):
            if size:
                ranges.append((fragment, position, position + size))
            position += size
            if ranges and position - ranges[0][1] >= HOP:
                yield ranges
                ranges = []
        if ranges:
            yield ranges

    def _decode(self, data: bytes, ranges: _Ranges) -> list[Geometry]:
        """Decode some fragments at once; one by one if that fails, to name the damaged one."""
        try:
            return self._decode_at_once(data, ranges)
        except CorruptDataError as exc:
            if len(ranges) > 1:
                return [geometry for each in ranges for geometry in self._decode(data, [each])]
            message = f"{self.stored.shown}: fragment {ranges[0][0]} of level {self.lod}: {exc}"
            raise CorruptDataError(message) from exc

    def _decode_at_once(self, data: bytes, ranges: _Ranges) -> list[Geometry]:
        decoded = decode_draco(*(data[start:end] for _, start, end in ranges))
        return [
            Geometry(self.manifest.placed(self.lod, fragment, points, self.info), faces)
            for (fragment, *_), (points, faces) in zip(ranges, decoded, strict=True)
        ]


def _is_same(manifest: Stored, other: Stored) -> bool:
    """Whether two manifests are of one version of a mesh, as far as can be seen."""
    return manifest.body.version == other.body.version and manifest.data == other.data


def _checked_lod(manifest: Manifest, lod: int, stored: Stored) -> int:
    """Return the number of a level; negative ones count from the coarsest."""
    levels = len(manifest.levels)
    if not -levels <= lod < levels:
        has = f"its levels of detail are 0, the finest, to {levels - 1}" if levels else "it has no levels of detail"
        raise IndexError(f"{stored.shown}: {has}; got lod={lod}")
    return lod % levels
