"""How legacy meshes are read: a manifest for each segment, and then the fragments that it lists, all at once."""

import functools
from collections.abc import Sequence

from precomputed_fs.codecs.draco import MAGIC, decode_draco
from precomputed_fs.errors import CorruptDataError, NotFoundError
from precomputed_fs.format.legacy_mesh import manifest_name, parse_fragment, parse_manifest
from precomputed_fs.format.mesh_geometry import Geometry, checked, joined
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.requests import Compute, Job

_FRAGMENTS_AT_ONCE = 64  # of one segment


class LegacyMeshes:
    """The meshes of a folder of the type ``neuroglancer_legacy_mesh``, or without `info`.

    Vertices that several fragments share stay apart, as in the files: which ones are the same cannot be told from
    coordinates alone, and trimesh's ``merge_vertices`` joins them. A member ``transform`` of `info` is not applied, as
    the specification has none and Neuroglancer ignores it; cloud-volume applies it.

    Parameters
    ----------
    folder : Folder
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.values = folder.values(name_of=manifest_name)
        """The manifests, by segment."""

    def read(self, segment: int, stored: Stored | None, lod: int) -> Job[Geometry | None]:  # noqa: ARG002 - as `MultilodMeshes`
        """Read a segment's mesh, given its manifest; None if that is absent."""
        if stored is None:
            return None
        if lod not in (0, -1):
            raise IndexError(f"{self._folder.shown()}: legacy meshes have one level of detail, 0; got lod={lod}")
        names: list[str] = yield Compute(functools.partial(_manifest, stored))
        parts: list[Geometry] = []
        for begin in range(0, len(names), _FRAGMENTS_AT_ONCE):
            some = names[begin : begin + _FRAGMENTS_AT_ONCE]
            for outcome in (yield [self._fragment(stored, name) for name in some]):
                if isinstance(outcome, Exception):
                    raise outcome
                parts.append(outcome)
        mesh: Geometry = yield Compute(functools.partial(_joined, stored, parts))
        return mesh

    def _fragment(self, manifest: Stored, name: str) -> Job[Geometry]:
        try:
            stored = yield from self._folder.pyramid.finder.one_of_many(self._folder.path, name)
        except NotFoundError as exc:
            message = f"{manifest.shown} lists a fragment that is not there: {exc}"
            raise CorruptDataError(message) from exc
        geometry: Geometry = yield Compute(functools.partial(_geometry, stored))
        return geometry


def _manifest(stored: Stored) -> list[str]:
    data = stored.decoded()
    with stored.naming():
        return parse_manifest(data)


def _geometry(stored: Stored) -> Geometry:
    """Decode a fragment; also one that igneous encodes with Draco, as PyChunkedGraph takes them, in nanometres."""
    data = stored.decoded()
    with stored.naming():
        if not data.startswith(MAGIC):
            return parse_fragment(data)
        (arrays,) = decode_draco(data)
        return checked(Geometry(*arrays))


def _joined(stored: Stored, parts: Sequence[Geometry]) -> Geometry:
    with stored.naming():
        return joined(parts)
