"""How a mesh of several levels of detail is encoded: its manifest, and the fragments of all levels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from precomputed_fs.codecs.draco import encode_draco
from precomputed_fs.format.multilod_mesh import Level, Manifest, MultilodInfo
from precomputed_fs.scene.mesh import Mesh
from precomputed_fs.scene.octree import Fragment, cut, octree_around, positions_of
from precomputed_fs.scene.transform import Transform

_EDGES = 1 << 16  # of a mesh, whose lengths are measured


class EncodedMesh(NamedTuple):
    """What a folder has for a mesh."""

    manifest: bytes

    fragments: bytes
    """Of all levels, the finest first."""


def encoded_mesh(
    meshes: Sequence[Mesh],
    info: MultilodInfo,
    *,
    fragment_size: Sequence[float] | None = None,
    scales: Sequence[float] | None = None,
) -> EncodedMesh:
    """Encode the levels of a mesh.

    Parameters
    ----------
    meshes : sequence of Mesh
        From the finest to the coarsest, in nanometres.
    info : MultilodInfo
        Of their folder.
    fragment_size : three floats, optional
        The size of a fragment of the finest level (nm). By default such that the coarsest level is one fragment.
    scales : sequence of float, optional
        The resolution of each level (nm); by default the average length of its edges, and never finer than that of
        the level before.

    Raises
    ------
    ValueError
        If there would be too many fragments, or no triangle is left when vertices are rounded.
    """
    meshes = [_without_unused(mesh) for mesh in meshes]
    transform = Transform.of(info.transform)
    if transform is not None:
        meshes = [Mesh(transform.undone(mesh.vertices), mesh.faces) for mesh in meshes]
        if fragment_size is not None:
            fragment_size = (np.array(fragment_size) / np.linalg.norm(transform.matrix, axis=0)).tolist()
    stored_scales = _scales(meshes) if scales is None else [scale / info.unit for scale in scales]
    octree = octree_around(meshes, fragment_size)
    bits = info.vertex_quantization_bits
    cut_levels = cut(meshes, octree, bits)
    for lod, fragments in enumerate(cut_levels):
        if not any(len(fragment.faces) for fragment in fragments):
            which = f" of level {lod}" if lod else ""
            raise ValueError(
                f"no triangle{which} is left when vertices are rounded to {bits} bits of a fragment of "
                f"{' x '.join(f'{length * 2**lod:g}' for length in octree.cell)}: choose a smaller fragment_size"
                f"{', or leave the level out' if lod else ''}"
            )
    levels, data = [], []
    for fragments, scale in zip(cut_levels, stored_scales, strict=False):
        encoded = [_encoded(fragment, bits) for fragment in fragments]
        sizes = np.array([len(each) for each in encoded], np.uint32)
        levels.append(Level(scale / info.lod_scale_multiplier, (0, 0, 0), positions_of(fragments), sizes))
        data += encoded
    return EncodedMesh(Manifest(octree.cell, octree.origin, tuple(levels)).to_bytes(), b"".join(data))


def _without_unused(mesh: Mesh) -> Mesh:
    """Leave out vertices without triangles: fragments around them would be larger, and so the steps of coordinates."""
    is_used = np.zeros(len(mesh.vertices), bool)
    is_used[mesh.faces] = True
    if is_used.all():
        return mesh
    return Mesh(mesh.vertices[is_used], (np.cumsum(is_used) - 1)[mesh.faces])


def _encoded(fragment: Fragment, bits: int) -> bytes:
    return encode_draco(fragment.points, fragment.faces, bits) if len(fragment.faces) else b""


def _scales(meshes: Sequence[Mesh]) -> list[float]:
    """Return the resolutions of levels: the average lengths of their edges, which do not decrease.

    Neuroglancer compares them with the size of a pixel. igneous writes 1, 2, 4, ... voxels, whatever the meshes are.
    """
    scales: list[float] = []
    for mesh in meshes:
        corners = mesh.vertices[mesh.faces[:: math.ceil(len(mesh.faces) / _EDGES)]].astype(np.float64)
        length = float(np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).mean())
        scales.append(max(length, *scales[-1:], float(np.finfo(np.float32).tiny)))
    return scales
