"""A scale as an array whose indices count from 0, for what takes arrays."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from precomputed_fs.volume.indexing import DIMENSIONS, Index, select

if TYPE_CHECKING:
    from precomputed_fs.volume.scale import Scale


class ScaleArray:
    """A scale as a lazy array (x, y, z, channel) whose indices count from 0, like NumPy's.

    Functions that take arrays accept it: ``dask.array.from_array``, ``neuroglancer.LocalVolume``, nibabel. Nothing is
    read before it is sliced or converted; xarray converts it at once.

    Parameters
    ----------
    scale : Scale
    quiet : bool
        Whether reading shows no progress, and does not warn if there are no chunks.
    """

    def __init__(self, scale: "Scale", *, quiet: bool = False) -> None:
        self._scale = scale
        self._quiet = quiet

    @property
    def scale(self) -> "Scale":
        """The scale itself."""
        return self._scale

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of voxels along x, y and z, and of channels."""
        return self._scale.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element."""
        return self._scale.dtype

    @property
    def ndim(self) -> int:
        """4: x, y, z and channel."""
        return DIMENSIONS

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._scale.size

    @property
    def nbytes(self) -> int:
        """Bytes that all elements take in memory."""
        return self._scale.nbytes

    def __repr__(self) -> str:
        return f"<ScaleArray of {self._scale!r}>"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:  # noqa: ANN401 - an array, or one voxel
        selection = select(index, self.shape, self._scale.bounds, counts_from_0=True)
        return self._scale.read_selection(selection, progress=False if self._quiet else None, warns=not self._quiet)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the voxels are not in memory: reading them makes a copy")
        voxels: NDArray[Any] = self[...]
        return voxels if dtype is None else voxels.astype(dtype, copy=False)
