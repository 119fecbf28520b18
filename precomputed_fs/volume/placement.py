"""Where voxels are in the space of a scanner or a template: the affine of an image, as a pyramid keeps it.

`info` has it as the member ``nifti``, and ``transform.json`` as neuroglancer-scripts writes it. NIfTI counts from the
centres of voxels and in millimetres; precomputed counts from their corners and in nanometres. So the voxel at ``i``
has its centre at ``(i + 0.5) * resolution``.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import CorruptDataError, InvalidInfoError, shown
from precomputed_fs.format.info import Info

Matrix = NDArray[np.float64]

MEMBER = "nifti"
"""The member of `info` that keeps the placement."""

FILE = "transform.json"
"""Keeps it for neuroglancer-scripts and its users, beside `info`."""

SPACES = ("unknown", "scanner", "aligned", "talairach", "mni", "template")
"""NIfTI's names of spaces, by code."""

TIME_UNITS = ("unknown", "sec", "msec", "usec", "hz", "ppm", "rads")
"""NIfTI's names of the units of a fourth axis."""

_NM = 1e6  # of a millimetre


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where voxels are in space."""

    affine: Matrix
    """(4, 4): of the voxel at (i, j, k), in absolute coordinates, the centre in millimetres: right, anterior, superior
    (RAS+)."""

    resolution: tuple[float, float, float]
    """The size in nanometres of the voxels that `affine` is of; other scales follow from it."""

    space: str = SPACES[0]
    """One of `SPACES`."""

    time_step: tuple[float, str] | None = None
    """The time between channels, if they are that; and its unit, one of `TIME_UNITS`."""

    is_rgb: bool = False
    """Whether channels are the red, green and blue of an image whose voxels are colours."""

    @classmethod
    def of_resolution(cls, resolution: tuple[float, float, float]) -> Self:
        """Return the placement of a pyramid that has none: its axes run right, anterior and superior from 0."""
        affine = np.diag([*(step / _NM for step in resolution), 1.0])
        affine[:3, 3] = [0.5 * step / _NM for step in resolution]
        return cls(affine, resolution, "aligned")

    @classmethod
    def parse(cls, given: object, where: str) -> Self:
        """Read the member of `info`.

        Raises
        ------
        InvalidInfoError
            If it is not one that `to_info` makes.
        """
        if not isinstance(given, dict):
            raise InvalidInfoError(f"{where}: {MEMBER}: expected an object, got {shown(given)}")
        affine, resolution = _matrix(given.get("affine")), given.get("resolution")
        if affine is None:
            what = shown(given.get("affine"))
            raise InvalidInfoError(f"{where}: {MEMBER}.affine: expected 4 lists of 4 numbers, got {what}")
        if not _are_sizes(resolution):
            what = shown(resolution)
            raise InvalidInfoError(f"{where}: {MEMBER}.resolution: expected 3 positive numbers, got {what}")
        space = given.get("space")
        x, y, z = resolution
        return cls(
            affine,
            (x, y, z),
            space if space in SPACES else SPACES[0],
            _time_step(given.get("time_step")),
            given.get("rgb") is True,
        )

    @classmethod
    def of_transform(cls, text: bytes, where: str) -> Self:
        """Read ``transform.json``: a matrix of nanometres from corners.

        Raises
        ------
        CorruptDataError
            If it is not a matrix.
        """
        try:
            matrix = _matrix(json.loads(text))
        except (ValueError, RecursionError):
            matrix = None
        if matrix is None:
            raise CorruptDataError(f"{where}: expected 4 lists of 4 numbers, got {shown(text[:100].decode('latin-1'))}")
        matrix[:3] /= _NM
        return cls(_moved(matrix, (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)), (1, 1, 1), "aligned")

    def to_info(self) -> dict[str, Any]:
        """Return the member of `info`."""
        member = {"affine": self.affine.tolist(), "resolution": list(self.resolution), "space": self.space}
        if self.time_step is not None:
            member["time_step"] = list(self.time_step)
        if self.is_rgb:
            member["rgb"] = True
        return member

    def to_transform(self) -> bytes:
        """Return the contents of ``transform.json``."""
        x, y, z = self.resolution
        matrix = _moved(self.affine, (1 / x, 1 / y, 1 / z), (-0.5, -0.5, -0.5))
        matrix[:3] *= _NM
        return json.dumps(matrix.tolist()).encode()

    def shifted(self, offset: Sequence[int]) -> Self:
        """Return the placement of the same voxels if their coordinates grow by an offset."""
        affine = _moved(self.affine, (1.0, 1.0, 1.0), [-step for step in offset])
        return dataclasses.replace(self, affine=affine)

    def affine_of(self, resolution: Sequence[float], start: Sequence[int]) -> Matrix:
        """Return the affine of an array of voxels.

        Parameters
        ----------
        resolution : sequence of 3 float
            Their size in nanometres.
        start : sequence of 3 int
            Absolute coordinates of the first one.
        """
        factors = [step / of for step, of in zip(resolution, self.resolution, strict=True)]
        centres = [(at + 0.5) * factor - 0.5 for at, factor in zip(start, factors, strict=True)]
        return _moved(self.affine, factors, centres)


def transform_of(info: Info) -> bytes | None:
    """Return the contents of ``transform.json`` for an `info`; None if that says nothing of space.

    Raises
    ------
    InvalidInfoError
        If what it says is invalid.
    """
    return Placement.parse(info[MEMBER], "info").to_transform() if MEMBER in info else None


def _moved(matrix: Matrix, steps: Sequence[float], start: Sequence[float]) -> Matrix:
    """Return the matrix for new coordinates, whose unit is `steps` old ones and whose 0 was at `start`."""
    inner = np.diag([*steps, 1.0])
    inner[:3, 3] = start
    return np.asarray(matrix @ inner, np.float64)


def _matrix(given: object) -> Matrix | None:
    """Return 4 lists of 4 finite numbers as a matrix; None if it is something else, or not affine."""
    try:
        matrix = np.array(given, np.float64)
    except (TypeError, ValueError):
        return None
    is_affine = matrix.shape == (4, 4) and bool(np.isfinite(matrix).all()) and matrix[3].tolist() == [0, 0, 0, 1]
    return matrix if is_affine else None


def _time_step(given: Any) -> tuple[float, str] | None:  # noqa: ANN401 - of JSON
    match given:
        case [int() | float() as step, str() as unit] if unit in TIME_UNITS and 0 < step < math.inf:
            return step, unit
    return None


def _are_sizes(given: Any) -> TypeGuard[list[float]]:  # noqa: ANN401 - of JSON
    is_list = isinstance(given, list) and len(given) == 3  # noqa: PLR2004 - axes
    return is_list and all(type(step) in (int, float) and 0 < step < math.inf for step in given)
