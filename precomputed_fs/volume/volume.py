"""A pyramid as a sequence of scales, the finest first."""

import contextlib
import math
import operator
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from precomputed_fs.accessor import FsspecAccessor
from precomputed_fs.errors import did_you_mean
from precomputed_fs.format.byte_sizes import bytes_in, readable_bytes
from precomputed_fs.format.grid import Box
from precomputed_fs.format.info import Info
from precomputed_fs.format.lengths import VoxelSize, is_same, readable, voxel_size
from precomputed_fs.format.scene_folders import scene_folders
from precomputed_fs.keywords import spelled_out
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.volume import interop_methods, picture_methods, scene_methods
from precomputed_fs.volume.downsampling import checked_method, compute_lower_scales
from precomputed_fs.volume.indexing import Index, checked_missing, index_text, select
from precomputed_fs.volume.orientation import NEUROGLANCER, checked_orientation
from precomputed_fs.volume.positions import VOXEL, rescaled, to_nanometres
from precomputed_fs.volume.sampling import as_points
from precomputed_fs.volume.scale import Scale
from precomputed_fs.volume.text import one_line

_T = TypeVar("_T")
_ROUNDED = 1 + 1e-5  # resolutions in `info` may be rounded


class Volume:
    """A pyramid: its scales, the finest first.

    Get one from `open_volume` or `create_volume`. ``vol[0]`` is the finest scale; ``vol["8_8_40"]`` finds one by its
    key, and ``vol["1 mm"]`` or ``vol["8 x 8 x 40 nm"]`` by its voxel size. A volume may be pickled, shared by threads
    and inherited by a fork, like its accessor.

    Parameters
    ----------
    accessor : FsspecAccessor
    info : Info
    missing, progress, orientation
        See `open_volume`.

    Attributes
    ----------
    accessor : FsspecAccessor
        Moves the bytes.
    info : Info
        The content of `info`: ``vol.info.num_channels`` or ``vol.info["num_channels"]``.
    scales : tuple of Scale
        Sorted, however `info` lists them; hidden ones included.
    """

    def __init__(
        self,
        accessor: FsspecAccessor,
        info: Info,
        *,
        missing: str = "zeros",
        progress: bool | None = None,
        orientation: str | None = None,
    ) -> None:
        self.accessor = accessor
        self.pyramid = accessor.pyramid
        self.info = info
        self.missing = checked_missing(missing)
        self.progress = progress
        self.orientation = orientation
        self.scales = tuple(Scale(self, index) for index in info.finest_first)
        self._is_in_block = False
        self._places: dict[str, tuple[Pyramid, str]] = {}
        self._beside: dict[tuple[str, Any], Any] = {}

    @property
    def url(self) -> str:
        """Where the pyramid is, without secrets."""
        return self.accessor.url

    @property
    def orientation(self) -> str:
        """How pictures of the volume are turned, also in a notebook; see `open_volume`. It may be changed."""
        return self._orientation

    @orientation.setter
    def orientation(self, orientation: str | None) -> None:
        self._orientation = checked_orientation(orientation) or NEUROGLANCER

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a voxel in each channel."""
        return np.dtype(self.info.data_type)

    def __repr__(self) -> str:
        kind = f"{one_line(self.info.type)} of {self.info.data_type}"
        has = [f"{len(self)} {'scale' if len(self) == 1 else 'scales'}"]
        has += (f"{folder.kind} in {one_line(without_secrets(folder.given))}" for folder in scene_folders(self.info))
        return f"<Volume {one_line(self.url)}: {kind}, {', '.join(has)}>"

    def __len__(self) -> int:
        return len(self.scales)

    def __iter__(self) -> Iterator[Scale]:
        return iter(self.scales)

    def __getitem__(self, which: int | str) -> Scale:
        if isinstance(which, str):
            return self._named(which)
        try:
            return self.scales[operator.index(which)]
        except IndexError:
            raise IndexError(f"no scale {which}; there are {len(self)}") from None
        except TypeError:
            message = f"a volume is a sequence of scales: vol[0][{index_text(which)}] are voxels of the finest one"
            raise TypeError(message) from None

    def __setitem__(self, index: object, value: object) -> NoReturn:
        written = f"vol[0][{index_text(index)}] = ... writes to the finest one"
        raise TypeError(f"a volume cannot be written to, but its scales can: {written}")

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NoReturn:
        # otherwise NumPy would read all scales, as a sequence of arrays
        raise TypeError("a volume is not an array, but its scales are: np.asarray(vol[0]) reads the finest one")

    if not TYPE_CHECKING:  # type checkers are to know the attributes above only

        def __getattr__(self, name: str) -> NoReturn:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            for kind, shown in ((np.ndarray, "np.asarray(vol[0])"), (Scale, "vol[0]")):
                if hasattr(kind, name) and not name.startswith("_"):
                    message = f"each scale has its own {name}: {shown}.{name} is that of the finest one"
            raise AttributeError(message, name=name, obj=self)

    def at_resolution(self, resolution: VoxelSize) -> Scale:
        """Return the scale with a voxel size.

        Parameters
        ----------
        resolution : float, str, or a sequence of 3
            Nanometres, or texts with a unit such as "1 mm"; one for all axes, or xyz.

        Raises
        ------
        KeyError
            If there is none; the message lists the voxel sizes that exist.
        ValueError
            If it is not a voxel size.
        """
        wanted = self._voxel_size(resolution)
        scale = self._sized(wanted)
        if scale is None:
            raise KeyError(f"no scale of {readable(wanted)}; there are {self._listed()}")
        return scale

    @staticmethod
    def _voxel_size(resolution: VoxelSize) -> tuple[float, float, float]:
        try:
            return voxel_size(resolution)
        except ValueError as exc:
            raise ValueError(f"resolution: {exc}") from None

    def _named(self, which: str) -> Scale:
        for scale in self.scales:
            if scale.key == which:
                return scale
        with contextlib.suppress(ValueError):  # not a voxel size either
            if (found := self._sized(voxel_size(which))) is not None:
                return found
        near = did_you_mean(which, (scale.key for scale in self.scales))
        raise KeyError(f"no scale {which!r}; there are {self._listed()}{near}")

    def _ipython_key_completions_(self) -> list[str]:
        return [scale.key for scale in self.scales]

    def _sized(self, resolution: tuple[float, float, float]) -> Scale | None:
        return next((scale for scale in self.scales if is_same(scale.resolution, resolution)), None)

    def _listed(self) -> str:
        return ", ".join(f"{one_line(scale.key)} ({readable(scale.resolution)})" for scale in self.scales)

    def scale_near(self, resolution: VoxelSize) -> Scale:
        """Return the coarsest scale that is not coarser than asked; the finest, if all are.

        Parameters
        ----------
        resolution : float, str, or a sequence of 3
            See `at_resolution`. Along an axis where all scales are coarser than this, the finest is near enough.

        Examples
        --------
        >>> import numpy as np
        >>> from precomputed_fs import create_volume
        >>> vol = create_volume("memory://docs/near", np.ones((200, 150, 100), np.uint8), resolution=(8, 8, 40))
        >>> vol.scale_near("30 nm").key, vol.scale_near("1 nm").key
        ('16_16_40', '8_8_40')
        """
        wanted = self._voxel_size(resolution)
        finest = map(min, zip(*(scale.resolution for scale in self.scales), strict=True))
        most = [max(pair) * _ROUNDED for pair in zip(wanted, finest, strict=True)]
        fine = [scale for scale in self.scales if all(map(operator.le, scale.resolution, most))]
        return fine[-1] if fine else self.scales[0]

    def scale_within(self, size: int | str, box: Index = None) -> Scale:
        """Return the finest scale in which a box takes at most so many bytes of memory.

        Parameters
        ----------
        size : int or str
            Bytes, or a text such as "100 MB" or "1 GiB".
        box : Box, or an index as in ``vol[0][...]``
            In voxels of the finest scale; by default everything. ``vol[0].box(low, high)`` makes one of nanometres, and
            `Scale.box` of the scale that is found makes the same region in its own voxels.

        Raises
        ------
        ValueError
            If it takes more even in the coarsest scale.
        IndexError
            If the box goes beyond the volume.
        """
        most = bytes_in(size, "size")
        needed = 0
        for scale, part in zip(self.scales, self.boxes_of(box), strict=True):
            needed = math.prod((*part.shape, scale.shape[3])) * scale.dtype.itemsize
            if needed <= most:
                return scale
        shown = f"takes {readable_bytes(needed)} in the coarsest scale, {one_line(self.scales[-1].key)}"
        raise ValueError(f"{self.url}: this {shown}, and {readable_bytes(most)} are allowed: choose a smaller box")

    def boxes_of(self, box: Index = None) -> list[Box]:
        """Return a box in the voxels of each scale: all voxels that it touches.

        Parameters
        ----------
        box : Box, or an index as in ``vol[0][...]``
            In absolute coordinates, in voxels of the finest scale; None for all of each scale.

        Raises
        ------
        IndexError
            If it goes beyond the volume.
        ValueError
            If it has steps.
        """
        if box is None:
            return [scale.bounds for scale in self.scales]
        finest = self.scales[0]
        selection = select(box, finest.shape, finest.bounds)
        selection.check_inside(finest.bounds, finest.shown)
        if selection.has_gaps:
            raise ValueError(f"{self.url}: box: expected a region without steps, got {index_text(box)}")
        boxes = []
        for scale in self.scales:
            ratio = list(map(operator.truediv, scale.resolution, finest.resolution))
            boxes.append(rescaled(selection.box, ratio) & scale.bounds)
        return boxes

    @spelled_out()
    def sample(
        self,
        points: ArrayLike,
        *,
        unit: str = "voxel",
        resolution: VoxelSize | None = None,
        fill: float | None = None,
        missing: str | None = None,
        progress: bool | None = None,
    ) -> NDArray[Any]:
        """Read the voxels at some points, from the finest scale or from the one nearest to a voxel size.

        Parameters
        ----------
        points : array_like
            (n, 3), xyz, in absolute coordinates: see `Scale.sample`.
        unit : str
            "voxel" for voxels of the finest scale, whichever is read; or a length: "nm", "um", "mm".
        resolution : float, str, or a sequence of 3, optional
            Read from the scale that `scale_near` finds; by default from the finest one.
        fill, missing, progress
            See `Scale.sample`.

        Returns
        -------
        ndarray
            (n, channel), or (..., channel).
        """
        scale = self.scales[0] if resolution is None else self.scale_near(resolution)
        if unit == VOXEL and scale is not self.scales[0]:
            points, unit = to_nanometres(as_points(points), self.scales[0].resolution), "nm"
        return scale.sample(points, unit=unit, fill=fill, missing=missing, progress=progress)

    _repr_html_ = picture_methods.html
    show = picture_methods.show
    plot = picture_methods.plot
    view = picture_methods.view
    neuroglancer_url = picture_methods.neuroglancer_url
    to_zarr = interop_methods.to_zarr
    export_zarr = interop_methods.export_zarr

    meshes = property(scene_methods.meshes)
    store_meshes = scene_methods.store_meshes
    segment_properties = property(scene_methods.segment_properties)
    store_segment_properties = scene_methods.store_segment_properties
    skeletons = property(scene_methods.skeletons)
    store_skeletons = scene_methods.store_skeletons

    # --------------------------------------------------------------------------------------------------------- writing

    def __enter__(self) -> Self:
        self._is_in_block = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def flush(self) -> None:
        """Write the shards of all voxels that are still in the buffer; in unsharded scales there are none.

        Every write flushes, except in a ``with`` block of the volume, which flushes at its end: many writes to one
        shard then read and write it once.
        """
        with contextlib.ExitStack() as stack:  # calls all of them, even if one fails
            for pyramid in self._pyramids():
                stack.callback(pyramid.flush)

    def flush_unless_in_block(self) -> None:
        """Flush, unless the end of a ``with`` block of the volume will."""
        if not self._is_in_block:
            self.flush()

    def close(self) -> None:
        """Flush, and close connections."""
        self._is_in_block = False
        with contextlib.ExitStack() as stack:
            for pyramid in self._pyramids():
                stack.callback(pyramid.close)

    def pyramid_for(self, key: str) -> tuple[Pyramid, str]:
        """Return the pyramid that has a scale's bytes, and the scale's key in it."""
        place = self._places.get(key)
        return self._places.setdefault(key, self.pyramid.for_scale(key)) if place is None else place

    def beside(self, member: str, make: Callable[[], _T]) -> _T:
        """Return what `info` names beside the scales, such as skeletons: made once, and closed with the volume.

        Parameters
        ----------
        member : str
            The member of `info` that names the folder.
        make : callable
            Makes it. It has a ``pyramid``.
        """
        key = member, self.info.get(member)
        made: _T | None = self._beside.get(key)
        if made is None:
            made = self._beside[key] = make()
        return made

    def make_again(self, member: str) -> None:
        """Have `beside` make again what a member of `info` names, because its folder has changed."""
        made = self._beside.pop((member, self.info.get(member)), None)
        if made is not None and made.pyramid is not self.pyramid:
            self._beside[member, made] = made  # to be closed, too

    def _pyramids(self) -> set[Pyramid]:
        others = (pyramid for pyramid, _ in self._places.copy().values())
        return {self.pyramid, *others, *(made.pyramid for made in self._beside.copy().values())}

    def use_info(self, info: Info) -> None:
        """Use an `info` that was stored in the place of the other, and has the same scales."""
        self.info = info
        for scale in self.scales:
            scale.use_info()

    @spelled_out()
    def downsample(
        self,
        method: str | None = None,
        *,
        box: Index = None,
        skip_empty: bool = False,
        progress: bool | None = None,
    ) -> None:
        """Compute each scale but the first from the one before.

        Parameters
        ----------
        method : {"average", "mode", "stride"}, optional
            By default the average of images, the most frequent label of segmentations.
        box : Box, or an index as in ``vol[0][...]``
            In absolute coordinates, in voxels of the finest scale: compute only what this box is a part of, such as
            after ``vol[0][box] = array``.
        skip_empty : bool
            Whether chunks of zeros are left out.
        progress : bool, optional
            See `open_volume`.

        Raises
        ------
        ValueError
            If a scale does not have half the voxels, or as many, of the one before along each axis.
        IndexError
            If the box goes beyond the volume.

        Notes
        -----
        The voxel at ``i`` is computed from those at ``2 * i`` and ``2 * i + 1``. Memory holds a block of some chunks
        at a time, 32 MiB of the finer scale.
        """
        shows = self.progress if progress is None else progress
        method = checked_method(method, self.info.type)
        compute_lower_scales(self.scales, method, boxes=self.boxes_of(box), skip_empty=skip_empty, shows=shows)
