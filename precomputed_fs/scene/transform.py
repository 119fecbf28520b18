"""The `transform` of meshes and skeletons: from the coordinates that are stored to nanometres, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.info_members import IDENTITY

_ROUNDED = 1e-5  # relative: transforms may be written with few digits


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """A matrix and an offset."""

    matrix: NDArray[np.float64]
    """(3, 3)."""

    offset: NDArray[np.float64]
    """(3,), in nanometres."""

    @classmethod
    def of(cls, transform: Sequence[float]) -> Self | None:
        """Read a `transform` as `info` has it, row by row; None if it changes nothing."""
        if tuple(transform) == IDENTITY:
            return None
        rows = np.array(transform, np.float64).reshape(3, 4)
        return cls(rows[:, :3], rows[:, 3])

    @property
    def uniform_scale(self) -> float | None:
        """How many nanometres a stored unit is; None if that differs between directions."""
        products = self.matrix @ self.matrix.T
        squared = products.trace() / 3
        if squared == 0 or not np.allclose(products, squared * np.eye(3), rtol=0, atol=_ROUNDED * squared):
            return None
        return float(np.sqrt(squared))

    def applied(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return stored vertices, (n, 3), in nanometres; infinite ones where float32 has no such number."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (stored @ self.matrix.T + self.offset).astype(np.float32)

    def undone(self, vertices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vertices in nanometres, (n, 3), as they are stored.

        Raises
        ------
        InvalidInfoError
            If the matrix has no inverse.
        ValueError
            If float32 does not have such a number.
        """
        try:
            inverse = np.linalg.inv(self.matrix)
        except np.linalg.LinAlgError as exc:
            raise InvalidInfoError("transform: expected a matrix with an inverse") from exc
        with np.errstate(over="ignore", invalid="ignore"):
            stored = ((vertices - self.offset) @ inverse.T).astype(np.float32)
        if not np.isfinite(stored).all():
            raise ValueError("a vertex is farther away than float32 and the folder's transform allow")
        return stored
