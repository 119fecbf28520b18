"""One scale of a pyramid: read and written by slicing, in absolute voxel coordinates."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from precomputed_fs.codecs import ChunkPart, Codec, codec_for
from precomputed_fs.errors import NotFoundError
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, Triple, size_of
from precomputed_fs.format.lengths import Length, readable
from precomputed_fs.format.scale_layout import Pieces
from precomputed_fs.keywords import spelled_out
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.volume import extensions, interop_methods, picture_methods
from precomputed_fs.volume.indexing import DIMENSIONS, Index, Selection, Touched, checked_missing, overlaps_with, select
from precomputed_fs.volume.positions import box_between
from precomputed_fs.volume.progress import Progress, warn
from precomputed_fs.volume.sampling import PointsByChunk, sample
from precomputed_fs.volume.scale_array import ScaleArray
from precomputed_fs.volume.sources import cast_scalar, from_xarray, is_dask, parts_of
from precomputed_fs.volume.text import one_line
from precomputed_fs.volume.writing import ChunkEncoder, chunk_parts

if TYPE_CHECKING:
    from precomputed_fs.volume.volume import Volume

_BYTES_IN_FLIGHT = 64 << 20  # decoded
_LEAST_COMPRESSION = 4  # what is counted on
_MIN_IN_FLIGHT = 2
_SHARD_BUFFER_BYTES = 256 << 20  # decoded bytes of a large write, after which complete shards are flushed


class Scale:
    """One scale of a volume, to be sliced in absolute voxel coordinates.

    ``scale[10:20, 30:40, 5]`` reads an ndarray; ``scale[10:20, 30:40, 5:6] = array`` writes one. The axes are
    x, y, z and channel. Coordinates include `voxel_offset` and may be negative: -5 is the voxel at -5. For indices that
    count from 0 see `array`.

    Attributes
    ----------
    volume : Volume
        The volume that it is a scale of.
    info : ScaleInfo
        The scale's part of `Volume.info`.
    """

    def __init__(self, volume: "Volume", index: int) -> None:
        self.volume = volume
        self.info = volume.info.scales[index]
        self._index = index

    @property
    def key(self) -> str:
        """The folder of its chunks."""
        return self.info.key

    @functools.cached_property
    def shown(self) -> str:
        """What messages call the scale, with its key and the size of a voxel."""
        return f"scale {one_line(self.key)} ({readable(self.resolution)})"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of voxels along x, y and z, and of channels."""
        return (*self.info.size, self.volume.info.num_channels)

    @property
    def ndim(self) -> int:
        """4: x, y, z and channel."""
        return DIMENSIONS

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a voxel in each channel."""
        return self.volume.dtype

    @property
    def voxel_offset(self) -> Triple:
        """Coordinates of the first voxel, xyz."""
        return self.info.voxel_offset

    @property
    def resolution(self) -> tuple[float, float, float]:
        """The size of a voxel in nanometres, xyz."""
        return self.info.resolution

    @property
    def chunk_size(self) -> Triple:
        """Voxels of a chunk along x, y and z."""
        return self.grid.chunk_size

    @property
    def encoding(self) -> str:
        """How the voxels of a chunk are encoded."""
        return self.info.encoding

    @property
    def bounds(self) -> Box:
        """The box of all voxels, in absolute coordinates."""
        return self.grid.bounds

    @property
    def size(self) -> int:
        """Number of voxels, times channels."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all voxels take in memory."""
        return self.size * self.dtype.itemsize

    def box(self, low: Sequence[Length], high: Sequence[Length], unit: str = "nm") -> Box:
        """Return the box of voxels that a region of space touches, for ``scale[box]``.

        Parameters
        ----------
        low, high : sequence of 3
            Corners, xyz: numbers in `unit`, or texts such as "1.5 mm". Voxel ``i`` covers
            ``[i, i + 1) * resolution``. Where both are equal, the box is one voxel thick.
        unit : str
            A length such as "nm", "um" or "mm"; or "voxel".

        Returns
        -------
        Box
            In absolute voxel coordinates. It may go beyond the volume: see `read`.

        Raises
        ------
        ValueError
            If `high` is below `low`, or these are not three positions each, or there is no such unit.

        Examples
        --------
        >>> import numpy as np
        >>> from precomputed_fs import create_volume
        >>> scale = create_volume("memory://docs/box", np.ones((20, 15, 10), np.uint8), resolution=(8, 8, 40))[0]
        >>> scale[scale.box((40, 0, 100), (80, 20, 100))].shape
        (5, 3, 1, 1)
        """
        return box_between(low, high, unit, self.resolution)

    def chunks(self, box: Index = ...) -> Iterator[Box]:
        """Iterate over the chunks that a box touches, as boxes of whole chunks, for ``scale[box]``.

        Chunks of one shard come together, if a shard is a block of chunks.

        Parameters
        ----------
        box : Box, or an index as in ``scale[...]``
            In absolute coordinates; by default the whole scale.

        Raises
        ------
        IndexError
            If the box goes beyond the volume.
        """
        selection = select(box, self.shape, self.bounds)
        selection.check_inside(self.bounds, self.shown)
        groups = Touched(self.grid, selection.ranges).by_shard(self.info.sharding)
        return (Box.of(coords) for chunks, _ in groups for coords in chunks)

    @functools.cached_property
    def grid(self) -> ChunkGrid:
        """How the scale is cut into chunks."""
        return self.info.grid

    @functools.cached_property
    def codec(self) -> Codec:
        """Encodes and decodes chunks."""
        info = self.volume.info
        return codec_for(
            self.encoding, info.data_type, info.num_channels, self.info.parameters, f"scales[{self._index}]"
        )

    @functools.cached_property
    def _place(self) -> tuple[Pyramid, str]:
        return self.volume.pyramid_for(self.key)

    @property
    def array(self) -> "ScaleArray":
        """The same voxels as a lazy array whose indices count from 0."""
        return ScaleArray(self)

    @property
    def layout(self) -> str:
        """How chunks are named: "shards", "flat", "sub-directories"; or "unknown" until one was seen."""
        if self.info.sharding is not None:
            return "shards"
        if "_place" not in vars(self):
            return "unknown"
        pyramid, key = self._place
        met = {"flat" if variant.flat else "sub-directories" for variant in pyramid.known.names_in(key).known()}
        return " and ".join(sorted(met)) or "unknown"

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        size = readable(self.resolution)
        return f"<Scale {one_line(self.key)}: {shape} {self.dtype}, {size}, {one_line(self.encoding)}>"

    def __len__(self) -> int:
        return self.shape[0]

    if not TYPE_CHECKING:  # type checkers are to know the attributes above only

        def __getattr__(self, name: str) -> NoReturn:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            if hasattr(np.ndarray, name) and not name.startswith("_"):
                message += f": scale[...].{name} is that of its voxels"
            raise AttributeError(message, name=name, obj=self)

    __iter__ = None  # iterating from 0 would use wrong coordinates; iterate over `array` instead

    _repr_html_ = picture_methods.html
    show = picture_methods.show
    plot = picture_methods.plot
    to_dask = interop_methods.to_dask
    to_xarray = interop_methods.to_xarray
    store = interop_methods.store
    to_nifti = interop_methods.to_nifti
    resize = extensions.resize
    sample = sample

    # --------------------------------------------------------------------------------------------------------- reading

    def __getitem__(self, index: Index) -> Any:  # noqa: ANN401 - an array, or one voxel
        bounds = self.bounds
        selection = select(index, self.shape, bounds)
        selection.check_inside(bounds, self.shown)
        return self.read_selection(selection)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self.array.__array__(dtype, copy)

    @spelled_out()
    def read(
        self,
        box: Index,
        *,
        fill: float | None = None,
        missing: str | None = None,
        progress: bool | None = None,
    ) -> Any:  # noqa: ANN401 - an array, or one voxel
        """Read a box, as ``scale[box]`` does, with options.

        Parameters
        ----------
        box : Box, or an index as in ``scale[...]``
            In absolute coordinates.
        fill : number, optional
            The value of voxels beyond the volume; by default a box that goes there is an IndexError.
        missing : {"zeros", "raise"}, optional
            How to treat an absent chunk; by default as the volume was opened with.
        progress : bool, optional
            See `open_volume`.

        Returns
        -------
        ndarray
            (x, y, z, channel), in Fortran order.

        Raises
        ------
        IndexError
            If the box goes beyond the volume, and no `fill` is given.
        NotFoundError
            If a chunk is absent, and ``missing="raise"``.
        AccessDeniedError, CorruptDataError, DataAccessError
            If a chunk cannot be read; the message names it.

        Warns
        -----
        UserWarning
            If all chunks that the box touches are absent: usually the path is wrong.
        """
        selection = select(box, self.shape, self.bounds)
        if fill is None:
            selection.check_inside(self.bounds, self.shown)
        return self.read_selection(selection, fill=fill, missing=missing, progress=progress)

    def read_selection(
        self,
        selection: Selection,
        *,
        fill: float | None = None,
        missing: str | None = None,
        progress: bool | None = None,
        warns: bool = True,
    ) -> Any:  # noqa: ANN401 - an array, or one voxel
        """Read the voxels of a resolved index: see `read`."""
        missing = self.missing_or_default(missing)
        result = np.empty(selection.shape, self.dtype, order="F")
        if fill is not None and selection.excess(self.bounds):
            result[...] = cast_scalar(fill, self.dtype)
        codec, channels, overlaps = self.codec, selection.channels, overlaps_with(selection.ranges)

        def pieces(coords: ChunkCoords) -> Pieces | None:
            return codec.pieces(size_of(coords), (*overlaps(coords)[1], channels))

        def paste(coords: ChunkCoords, data: bytes | ChunkPart | None) -> bool:
            into, out_of = overlaps(coords)
            if data is None:
                self.check_may_miss(coords, missing)
                result[into] = 0
                return False
            codec.decode_part(data, size_of(coords), (*out_of, channels), out=result[into])
            return True

        touched = Touched(self.grid, selection.ranges)
        self.fetch_each(touched, paste, pieces, "this box touches", progress=progress, warns=warns)
        return result[selection.final]

    def missing_or_default(self, missing: str | None) -> str:
        """Check an option `missing`, and return it, or the volume's own in place of None."""
        return self.volume.missing if missing is None else checked_missing(missing)

    def check_may_miss(self, coords: ChunkCoords, missing: str) -> None:
        """Raise a NotFoundError for an absent chunk if `missing` says so."""
        if missing == "raise":
            raise NotFoundError(f"{self.volume.url}: {self.shown} has no chunk {coords}")

    def fetch_each(
        self,
        chunks: Touched | PointsByChunk,
        use: Callable[[ChunkCoords, bytes | ChunkPart | None], bool],
        pieces: Callable[[ChunkCoords], Pieces | None],
        touched: str,
        *,
        progress: bool | None,
        warns: bool = True,
    ) -> None:
        """Fetch some chunks; `use` takes each, in threads, and tells whether it was there.

        Parameters
        ----------
        pieces : callable
            Which bytes of a raw chunk suffice, or None for all.
        touched : str
            What messages say of these chunks, such as "this box touches".
        """
        total = len(chunks)
        with Progress(f"reading {self.key}", total, self._shows(progress)) as bar:
            pyramid, key = self._place
            found = pyramid.fetch_chunks(
                key, iter(chunks), decode=use, pieces=pieces, in_flight=self._fetched_at_once, callback=bar
            )
            present = sum(was_there for _, was_there in found)
        if total and not present and warns:
            message = (
                f"{self.volume.url}: {self.shown} has none of the {total} chunks that {touched}, so it is "
                'all zeros; is the URL right, and was all of the data uploaded? missing="raise" makes this an error'
            )
            warn(message)

    # --------------------------------------------------------------------------------------------------------- writing

    def __setitem__(self, index: Index, value: ArrayLike) -> None:
        self.write(index, value)

    @spelled_out()
    def write(
        self,
        box: Index,
        value: ArrayLike,
        *,
        skip_empty: bool = False,
        progress: bool | None = None,
        flush: bool = True,
    ) -> None:
        """Write a box, as ``scale[box] = value`` does, with options.

        Chunks that the box covers are replaced. Chunks that it covers in part are read, changed and written.
        Several such writes to one chunk may happen at once: each changes what the last one has stored, in this
        process and, if the store can tell versions apart, in others. In a lossy encoding, such as jpeg, the rest of
        the chunk is encoded once more, too.

        Parameters
        ----------
        box : Box, or an index as in ``scale[...]``
            In absolute coordinates, without steps.
        value : array
            Of the box's shape, (x, y, z, channel), or any shape that NumPy broadcasts to it; (x, y, z) if there is
            one channel. Any other object that has a ``shape`` and a ``dtype`` and can be sliced is read chunk by
            chunk; whatever `create_volume` converts is converted here, too. A dask array is never loaded as
            a whole: `store` computes and writes it block by block, and dask shows the progress.
        skip_empty : bool
            Whether chunks of zeros are left out, unless they replace others.
        progress : bool, optional
            See `open_volume`.
        flush : bool
            Whether shards are written before this returns; see `Volume.flush`.

        Raises
        ------
        IndexError
            If the box goes beyond the volume.
        ValueError
            If the value does not fit the box, or the encoding cannot store it, or the scale has several chunk sizes.
        TypeError
            If the value's type cannot be cast to the volume's without loss.
        AccessDeniedError, CorruptDataError, DataAccessError
            If a chunk cannot be written, or one that is changed cannot be read.
        """
        value = from_xarray(value)
        if is_dask(value):
            self.store(value, box, skip_empty=skip_empty)
            return
        selection = self.select_to_write(box)
        parts = parts_of(value.array if isinstance(value, Scale) else value, selection, self.dtype)
        encode = ChunkEncoder(self.codec, skip_empty=skip_empty)
        pyramid, key = self._place
        touched = Touched(self.grid, selection.ranges)
        waiting = 0
        with Progress(f"writing {self.key}", len(touched), self._shows(progress)) as bar:
            for chunks, count in touched.by_shard(self.info.sharding):
                pyramid.store_chunks(
                    key,
                    chunk_parts(chunks, selection, parts),
                    encode=encode,
                    mime_type=self.codec.mime_type,
                    overwrite=True,
                    in_flight=self.in_flight,
                    callback=bar,
                )
                waiting += count * self._chunk_bytes
                if flush and waiting >= _SHARD_BUFFER_BYTES:
                    self.volume.flush_unless_in_block()
                    waiting = 0
        if flush:
            self.volume.flush_unless_in_block()

    def encoded(
        self, box: Index, value: ArrayLike, *, skip_empty: bool = False
    ) -> Iterator[tuple[ChunkCoords, bytes | Update]]:
        """Yield what `write` would store, as coordinates and chunks or changes of chunks; nothing is written."""
        selection = self.select_to_write(box)
        parts = parts_of(value, selection, self.dtype)
        encode = ChunkEncoder(self.codec, skip_empty=skip_empty)
        for coords, part in chunk_parts(Touched(self.grid, selection.ranges), selection, parts):
            yield coords, encode(coords, part)

    def select_to_write(self, box: Index) -> Selection:
        """Resolve a box, and check that it can be written: see `write`."""
        selection = select(box, self.shape, self.bounds)
        selection.check_inside(self.bounds, self.shown)
        if selection.has_gaps:
            raise ValueError("steps are for reading: a box is written whole; read it, change it, write it")
        self.check_writable()
        return selection

    def check_writable(self) -> None:
        """Check that chunks of the scale can be written.

        Raises
        ------
        ValueError
            If the encoding does not store such voxels, or there are several chunk sizes.
        """
        if len(self.info.chunk_sizes) > 1:
            message = (
                f"{self.volume.url}: {self.shown} has {len(self.info.chunk_sizes)} chunk sizes, each with a copy "
                "of the data, and writing one would leave the copies different: list a single one in `info`"
            )
            raise ValueError(message)
        self.codec.check()

    def use_info(self) -> None:
        """Follow the volume's `info`, which was replaced."""
        self.info = self.volume.info.scales[self._index]
        for name in ("grid", "codec", "in_flight", "_fetched_at_once", "_chunk_bytes"):
            vars(self).pop(name, None)

    # -------------------------------------------------------------------------------------------------------- internal

    @functools.cached_property
    def _chunk_bytes(self) -> int:
        return math.prod(map(min, self.chunk_size, self.info.size)) * self.shape[3] * self.dtype.itemsize

    @functools.cached_property
    def in_flight(self) -> int:
        """Number of chunks in flight, such that their decoded bytes are bounded, too."""
        return max(_MIN_IN_FLIGHT, min(IN_FLIGHT, _BYTES_IN_FLIGHT // self._chunk_bytes))

    @functools.cached_property
    def _fetched_at_once(self) -> int:
        """Number of chunks in flight that are read: encoded, since only as many as there are threads are decoded."""
        if self.encoding == "raw":
            return self.in_flight
        return max(_MIN_IN_FLIGHT, min(IN_FLIGHT, _BYTES_IN_FLIGHT // self._chunk_bytes * _LEAST_COMPRESSION))

    def _shows(self, progress: bool | None) -> bool | None:
        return self.volume.progress if progress is None else progress
