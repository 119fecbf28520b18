"""What a mesh is to Python: `Mesh`, arrays of vertices and triangles."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from precomputed_fs.errors import shown

_MOST_VERTICES = 1 << 32  # that the format's indices can number


class Mesh:
    """The surface of a segment, as triangles.

    Parameters
    ----------
    vertices : array_like
        ``[n, 3]``: xyz in nanometres; converted to float32.
    faces : array_like
        ``[m, 3]``: the three vertices of each triangle; converted to uint32.

    Raises
    ------
    ValueError
        If the shapes differ, or a triangle has a vertex that is not there.

    Examples
    --------
    >>> mesh = Mesh([[0, 0, 0], [8, 0, 0], [0, 8, 0]], [[0, 1, 2]])
    >>> mesh
    Mesh(3 vertices, 1 triangle, 0 to 8 x 0 to 8 x 0 to 0 nm)
    """

    __slots__ = ("faces", "vertices")

    vertices: npt.NDArray[np.float32]
    """``[n, 3]``: xyz in nanometres."""

    faces: npt.NDArray[np.uint32]
    """``[m, 3]``: the three vertices of each triangle."""

    def __init__(self, vertices: npt.ArrayLike, faces: npt.ArrayLike) -> None:
        with np.errstate(over="ignore"):  # what float32 cannot tell is infinite, and is not stored
            self.vertices = _rows(vertices, "vertices").astype(np.float32, copy=False)
        self.faces = _indices(_rows(faces, "faces"), len(self.vertices))

    @classmethod
    def from_trimesh(cls, mesh: Any) -> Self:  # noqa: ANN401 - a trimesh.Trimesh, or what has vertices and faces
        """Make a mesh of trimesh's; its units are taken for nanometres.

        Any object with ``vertices`` and ``faces`` will do, such as cloud-volume's and zmesh's meshes.
        """
        if isinstance(mesh, cls):
            return mesh
        missing = [name for name in ("vertices", "faces") if not hasattr(mesh, name)]
        if missing:
            raise TypeError(f"expected a mesh with vertices and faces, got {shown(mesh)}")
        return cls(mesh.vertices, mesh.faces)

    def to_trimesh(self) -> Any:  # noqa: ANN401 - trimesh has no types
        """Return a ``trimesh.Trimesh`` in nanometres, with the same vertices and triangles in the same order.

        It can be measured, shown and exported: ``mesh.to_trimesh().export("neuron.ply")``.

        Raises
        ------
        ImportError
            If trimesh is not installed; the extra "mesh" brings it.
        """
        try:
            import trimesh  # noqa: PLC0415 - of an extra
        except ImportError as exc:
            raise ImportError("it needs trimesh: pip install 'precomputed-fs[mesh]'", name="trimesh") from exc
        return trimesh.Trimesh(self.vertices, self.faces, process=False)

    @property
    def bounds(self) -> npt.NDArray[np.float32]:
        """``[2, 3]``: the corners of the box around the vertices, in nanometres.

        Raises
        ------
        ValueError
            If there are no vertices.
        """
        if not len(self.vertices):
            raise ValueError("a mesh without vertices has no bounds")
        return np.stack([self.vertices.min(axis=0), self.vertices.max(axis=0)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mesh):
            return NotImplemented
        return np.array_equal(self.vertices, other.vertices) and np.array_equal(self.faces, other.faces)

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def __repr__(self) -> str:
        vertices, faces = len(self.vertices), len(self.faces)
        counts = f"{_number(vertices, 'vertices', 'vertex')}, {_number(faces, 'triangles', 'triangle')}"
        if not len(self.vertices):
            return f"Mesh({counts})"
        lows, highs = self.bounds.tolist()
        box = " x ".join(f"{low:g} to {high:g}" for low, high in zip(lows, highs, strict=True))
        return f"Mesh({counts}, {box} nm)"


def _number(count: int, many: str, one: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _rows(given: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    if np.ma.is_masked(given):
        raise ValueError(f"{name}: expected numbers, got masked values")
    array = np.asarray(given)
    if array.ndim == 1 and not len(array):
        array = array.reshape(0, 3)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf":  # noqa: PLR2004
        raise ValueError(f"{name}: expected numbers of shape (n, 3), got {array.dtype} of shape {array.shape}")
    return array


def _indices(faces: npt.NDArray[Any], vertices: int) -> npt.NDArray[np.uint32]:
    if vertices > _MOST_VERTICES:
        raise ValueError(f"vertices: expected at most {_MOST_VERTICES}, got {vertices}")
    if not len(faces):
        return faces.astype(np.uint32)
    if faces.dtype.kind == "f" and not (faces == np.floor(faces)).all():
        raise ValueError("faces: expected integers")
    low, high = faces.min(), faces.max()
    if not (low >= 0 and high < vertices):
        raise ValueError(f"faces: expected vertices from 0 to {vertices - 1}, got {low} to {high}")
    return faces.astype(np.uint32, copy=False)
