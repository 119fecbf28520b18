"""Pyramids as arrays: volumes of scales that are read and written by slicing.

Boxes are in absolute voxel coordinates, as Neuroglancer shows them: they include ``voxel_offset``.
Arrays are (x, y, z, channel). The bytes come and go through an accessor; what is between bytes and
voxels is done in its threads, each chunk straight into or out of the caller's array.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import math
import operator
import posixpath
import struct
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from precomputed_fs import claims
from precomputed_fs.accessor import IN_FLIGHT, FsspecAccessor, accessor_with
from precomputed_fs.codecs import ENCODINGS, Codec, codec_for
from precomputed_fs.downsampling import METHODS, downsample, factors_for
from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    ReadOnlyError,
    URLError,
)
from precomputed_fs.format.compression import INCOMPRESSIBLE_MIME_TYPES
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, Triple, morton_block, size_of
from precomputed_fs.format.info import MAX_INFO_BYTES, HtmlError, redirect_of, shown
from precomputed_fs.format.sharding import propose_sharding
from precomputed_fs.pyramid.shard_writer import Apply, Update
from precomputed_fs.store.location import Location, resolve
from precomputed_fs.store.protocols import PROTOCOLS
from precomputed_fs.store.url import AnyURL

if TYPE_CHECKING:
    import xarray
    from PIL.Image import Image

    from precomputed_fs.format.models import Info, ScaleInfo
    from precomputed_fs.view.server import View

_AXES = "xyz"
_DIMENSIONS = 4
_BYTES_IN_FLIGHT = 64 << 20  # decoded, of chunks that are under way
_LEAST_IN_FLIGHT = 2
_BYTES_OF_SHARDS = 256 << 20  # decoded, of chunks that wait for their shards in a large write
_PATCH_HEAD = struct.Struct("<8q?")  # of a change of a chunk: where x, y, z and channels begin and end, and whether
# it is zeros, which are left out where there is no chunk, and here
_BLOCK_BYTES = 32 << 20  # of a scale, that the next lower one is computed from at once
_LABEL_BYTES = 4  # of integers that are rather labels than measured
_MOST_LABELS = 32  # distinct values, of which integers look like labels; images of 8 bits have more
_VOXELS_PER_LABEL = 8  # at least, on average
_EQUAL_NEIGHBOURS = 0.65  # of the voxels of labels, at least; of images 0.02 to 0.25, twice enlarged 0.6
_LEAST_NEIGHBOURS = 256
_PLANES_OF_BLOCK = 8  # in which neighbours are looked at
_REPLACE = "overwrite=True replaces it"
_MOST_SPANS = 1 << 16  # of chunks along an axis, for which it is remembered where they are in an array
_STORABLE = {  # by the kind of a type
    "i": '{array}.astype("uint64"), or "int32" if some are negative',
    "f": '{array}.astype("float32")',
    "c": 'np.abs({array}).astype("float32")',
}
_STORED_TYPES = f"voxels are stored as {', '.join(ENCODINGS['raw'].data_types)}"
_SEQUENTIAL = (".gz", ".bz2", ".zst", ".mgz")  # files of nibabel's that are read from the start for each part
_MOST_REDIRECTS = 10
_TYPES = ("image", "segmentation")
_MISSING = ("zeros", "raise")
_PATIENCE = 2.0  # seconds, after which progress is shown
_PLAIN_TYPES = (bool, int, float)
_UNITS = ((1e6, "mm"), (1e3, "µm"))  # nanometres
_LONGEST_LINE = 1000  # characters
_VOXELS_OF_SCALES = "vol[0][x0:x1, y0:y1, z0:z1] are voxels of the finest one"
_PICTURE_PIXELS = 512  # of a picture's longer side, unless told otherwise

Index = Any
"""What NumPy's basic indexing takes: integers, slices, an Ellipsis; or a `Box`."""


def open_volume(
    url: AnyURL,
    *,
    missing: str = "zeros",
    progress: bool | None = None,
    **accessor_options: Any,  # noqa: ANN401 - as FsspecAccessor has them
) -> "Volume":
    """Open a pyramid: one request, for its `info`.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    missing : {"zeros", "raise"}
        What an absent chunk is: zeros, as writers may leave those out, or a NotFoundError.
    progress : bool, optional
        Whether reading and writing show a progress bar; by default if they last, in a notebook or on
        a terminal.
    **accessor_options
        Options of `FsspecAccessor`. `gzip` is None by default, as for `create_volume`.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError
        If `info` cannot be read.
    InvalidInfoError
        If `info` says what cannot be; the message names the place.
    URLError
        If the URL is of no known scheme, or `info` redirects to where this URL may not lead.

    Notes
    -----
    If `info` redirects to another host, bucket or protocol, that is asked without credentials. Storage options go along
    only where they are nested under its protocol, and not to a server that the redirect itself names.

    Examples
    --------
    >>> import numpy as np
    >>> vol = create_volume("memory://docs/open", np.ones((100, 80, 60), np.uint8), resolution=(8, 8, 8))
    >>> open_volume("memory://docs/open")[0][10:20, :, 5].shape
    (10, 80, 1)
    """
    accessor_options = {"gzip": None, **accessor_options}
    accessor = accessor_with(url, accessor_options)
    anon = accessor_options.get("anon")
    others = {name: value for name, value in accessor_options.items() if name not in ("storage_options", "anon", "fs")}
    for _ in range(_MOST_REDIRECTS):
        try:
            given = accessor.fetch_info()
        except AccessDeniedError as exc:
            if not accessor.location.anon or anon:
                raise
            message = f"{exc}; a redirect has led there, and takes no credentials along: open {accessor.url} itself"
            raise AccessDeniedError(message) from exc
        where = accessor.location.display("info")
        target = redirect_of(given, where)
        if target is None:
            info = _parse(given, where, accessor.max_info_bytes)
            return Volume(accessor, info, missing=missing, progress=progress)
        accessor = FsspecAccessor(_redirected(accessor.location, target, anon), **others)
    message = f"{accessor.url}: redirected {_MOST_REDIRECTS} times"
    raise URLError(message)


def volume_of(accessor: FsspecAccessor) -> "Volume":
    """Open a pyramid by an accessor of it.

    Raises
    ------
    URLError
        If `info` redirects: `open_volume` follows, an accessor stays where it is.
    NotFoundError, AccessDeniedError, DataAccessError, InvalidInfoError
        See `open_volume`.
    """
    given = accessor.fetch_info()
    where = accessor.location.display("info")
    check_not_redirected(given, where)
    return Volume(accessor, _parse(given, where, accessor.max_info_bytes))


def check_not_redirected(given: Mapping[str, Any], where: str) -> None:
    """Check that an `info` describes a pyramid itself, which an accessor has to go by."""
    if redirect_of(given, where) is not None:
        message = f"{where} redirects: pass the URL, which is followed, instead of an accessor"
        raise URLError(message)


def create_volume(
    url: AnyURL,
    source: "Mapping[str, Any] | Info | ArrayLike",
    *,
    resolution: Sequence[float] | None = None,
    voxel_offset: Sequence[int] | None = None,
    chunk_size: Sequence[int] | None = None,
    encoding: str | None = None,
    type: str | None = None,  # noqa: A002 - the name that it has in `info`
    sharding: bool | Mapping[str, Any] | None = None,
    scales: int | None = None,
    downsampling: str | None = None,
    skip_empty: bool = False,
    overwrite: bool = False,
    missing: str = "zeros",
    progress: bool | None = None,
    **options: Any,  # noqa: ANN401 - an encoding's parameters, and as FsspecAccessor has them
) -> "Volume":
    """Make a pyramid: from an `info`, with nothing in it yet; or from an array, with all lower scales.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    source : mapping or array
        An `info`; chunks that are there already stay. Or an array (x, y, z) or (x, y, z, channel),
        which may be anything that has a ``shape`` and a ``dtype`` and can be sliced, such as an open
        HDF5 data set: it is read chunk by chunk. A dask array is stored as `Scale.store` does it. All
        that follows up to `downsampling` is for arrays.
    resolution : sequence of 3 float
        Voxel size in nanometres, xyz.
    voxel_offset : sequence of 3 int
        Coordinates of the array's first voxel, xyz; by default 0.
    chunk_size : sequence of 3 int
        Voxels, xyz; by default 64.
    encoding : str
        See `precomputed_fs.codecs`; by default "raw". Its parameters are further keywords, such as ``jpeg_quality=90``.
    type : {"image", "segmentation"}, optional
        In any case. By default "segmentation" where `encoding` is for labels; what the volume of a `Scale`
        is; "segmentation" of booleans, and of integers of 32 bits or more, of which no mean is made; else
        "image".
    sharding : bool or mapping
        True to shard as `propose_sharding` says; or what each scale's ``sharding`` is to be.
    scales : int, optional
        How many there will be; by default as many as it takes until one chunk holds all voxels, as far as
        halving gets there: a box on both sides of 0 keeps a voxel on either side.
    downsampling : {"average", "mode", "stride"}, optional
        How a lower scale is made of the one before; by default the average of images, the most
        frequent label of segmentations.
    skip_empty : bool
        Whether chunks of nothing but zeros are left out.
    overwrite : bool
        Whether an existing `info` is replaced, and chunks of the same names; or what another process has
        begun. What else is there stays: where it would be taken for a part of the new pyramid, that is refused.
    missing, progress
        See `open_volume`.
    **options
        Parameters of `encoding`, and options of `FsspecAccessor`. `gzip` is None by default: chunks are compressed in
        buckets and in shards, and not on disk, where few readers look for ``.gz`` files.

    Raises
    ------
    AlreadyExistsError
        If there is an `info` already, or another pyramid was begun, and ``overwrite=False``; if it stores scales
        of the same keys in a way that cannot be overwritten; or if another process makes a pyramid there.
    InvalidInfoError, ValueError, TypeError
        If the scales cannot be, or the encoding cannot store such voxels; before anything is written.

    Warns
    -----
    UserWarning
        If integers of 8 or 16 bits were averaged that may be labels, as they have few distinct values
        or mostly equal their neighbours, and neither `type` nor `downsampling` was given.

    Notes
    -----
    `info` is stored when all chunks are there, and an old one is deleted before any chunk is replaced: half of a
    pyramid never opens. Until then, ``info.partial`` says what is being made, since when and by which process. If that
    fails or is killed, what it has stored stays, and the same call begins anew; from another machine, where nobody
    knows whether the process is gone, with ``overwrite=True``. Archives, which nobody reads before they are complete,
    have no ``info.partial``.

    Booleans are stored as a uint8 segmentation of 0 and 1, the fields of a structured type (RGB) as
    channels. An image of nibabel stands for its voxels, scaled; where nibabel makes them float64, they
    are stored as float32. Tensors (PyTorch's, say) stand for the NumPy arrays that they convert to.
    """
    from precomputed_fs.format.models import Info  # noqa: PLC0415 - as in `_parse`

    _checked_missing(missing)
    for_arrays = {
        "resolution": resolution,
        "voxel_offset": voxel_offset,
        "chunk_size": chunk_size,
        "encoding": encoding,
        "type": type,
        "sharding": sharding,
        "scales": scales,
        "downsampling": downsampling,
    }
    array = None
    if isinstance(source, (Info, Mapping)):
        _check_for_info(source, for_arrays)
        info = source if isinstance(source, Info) else Info.parse(source)
    else:
        array = _as_source(source)
        if resolution is None:
            message = "resolution: expected the size of a voxel in nanometres, such as (8, 8, 8)"
            raise TypeError(message)
        encoding = encoding or "raw"
        parameters = {name: options.pop(name) for name in _parameter_names(encoding) & options.keys()}
        _check_voxels(array, source)
        info = _info_for(
            array,
            resolution=_triple_of("resolution", resolution),
            voxel_offset=_triple_of("voxel_offset", (0, 0, 0) if voxel_offset is None else voxel_offset),
            chunk_size=_triple_of("chunk_size", (64, 64, 64) if chunk_size is None else chunk_size),
            encoding=encoding,
            type=type,
            sharding=sharding or False,
            scales=scales,
            parameters=parameters,
        )
    info = _to_write(info)
    method = _checked_method(downsampling, info)
    accessor = accessor_with(url, {"gzip": None, **options})
    if not accessor.can_write:
        message = f"{accessor.url}: this cannot be written to; create it where the data is to be stored"
        raise ReadOnlyError(message)
    if _is_dask(array):
        from precomputed_fs.interop import dask  # noqa: PLC0415 - it is made of scales

        dask.check_not_read_from(array, accessor.location, [scale.key for scale in info.scales])
    if array is not None and len(info.scales) > 1 and not accessor.can_read:
        message = f"{accessor.url}: an archive that is being written cannot be read, as lower scales need: scales=1"
        raise ValueError(message)
    volume = Volume(accessor, info, missing=missing, progress=progress)
    if array is None:
        with _closing_archive(accessor):
            _store_info(accessor, info, overwrite=overwrite)
        return volume
    how = {"array": [*array.shape, str(array.dtype)], "gzip": options.get("gzip"), "flat": accessor.flat}
    with _closing_archive(accessor), _making(accessor, info, how, overwrite=overwrite):
        volume[0].write(volume[0].bounds, array, skip_empty=skip_empty)
        guessed = type is None and downsampling is None and _may_be_labels(array, info)
        volume._downsample(method, skip_empty=skip_empty, warns_of_labels=guessed)  # noqa: SLF001 - of this module
    return volume


@contextlib.contextmanager
def _closing_archive(accessor: FsspecAccessor) -> Iterator[None]:
    """Complete an archive whose writing fails in a block: nobody else has its accessor."""
    try:
        yield
    except BaseException:
        if not accessor.can_read:
            accessor.close()
        raise


def _store_info(accessor: FsspecAccessor, info: "Info", *, overwrite: bool) -> None:
    """Store an `info`, and nothing else, unless another pyramid is there or is being made."""
    infos, there = claims.look(accessor, reads_first=False)
    if there is not None and (overwrite or not infos):
        claims.check_free(accessor, there, overwrite=overwrite, advice=_REPLACE)
    if overwrite and accessor.can_read:
        _check_in_the_way(accessor, info, there, replaces_data=False)
    try:
        accessor.store_info(info.to_json(), overwrite=overwrite, listed=infos)
    except AlreadyExistsError as exc:
        message = f"{accessor.url}: {what_is_there(accessor)}; {_REPLACE}"
        raise AlreadyExistsError(message) from exc
    if there is not None:
        accessor.objects.delete(claims.PARTIAL)


@contextlib.contextmanager
def _making(accessor: FsspecAccessor, info: "Info", how: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Have all chunks of a pyramid stored in a block, and then its `info`: so half of a pyramid never opens.

    Meanwhile `info.partial` says what is being made. What a block that fails has stored stays, and so does that.
    """
    claim = claims.Claim(accessor, {**how, "info": info.to_dict()})
    keys = [scale.key for scale in info.scales]
    try:
        _take_place(accessor, info, claim, overwrite=overwrite)
        with accessor.expecting_info(info.to_dict()), accessor.replacing_shards(keys):
            yield
        claim.check_held()
        try:
            accessor.store_info(info.to_json(), overwrite=False, listed=())
        except AlreadyExistsError as exc:
            message = f"{accessor.url}: meanwhile {what_is_there(accessor)}; chunks of both may be there: make it again"
            raise AlreadyExistsError(message) from exc
    except BaseException:
        claim.stop()
        raise
    claim.release()


def _take_place(accessor: FsspecAccessor, info: "Info", claim: claims.Claim, *, overwrite: bool) -> None:
    """Claim a place for a new pyramid, and delete the `info` that is there: its chunks will be replaced."""
    infos, there = claims.look(accessor, reads_first=accessor.can_read)
    if infos and not (overwrite and accessor.can_read):
        advice = _REPLACE if accessor.can_read else "this kind of archive cannot replace it"
        message = f"{accessor.url}: {what_is_there(accessor)}; {advice}"
        raise AlreadyExistsError(message)
    if there is not None:
        is_left = claim.is_same(there) and there.is_running() is False
        claims.check_free(accessor, there, overwrite=overwrite or is_left, advice=_REPLACE)
    if not accessor.can_read:
        return
    if overwrite:
        _check_in_the_way(accessor, info, there, replaces_data=True)
    try:
        claim.take(there)
    except AlreadyExistsError as exc:
        message = f"{exc}: {what_is_there(accessor)}"
        raise AlreadyExistsError(message) from exc
    infos, there = claims.look(accessor)  # another may have completed one meanwhile
    claim.check_held(there)
    if overwrite:
        for name in ["info"] if infos is None else infos:
            accessor.objects.delete(name)
    elif infos is None:
        claims.find(accessor)  # fails, if nothing can be read here, and nothing tells whether there is an `info`
    elif infos:
        claim.release()
        message = f"{accessor.url}: meanwhile {what_is_there(accessor)}; {_REPLACE}"
        raise AlreadyExistsError(message)


def what_is_there(accessor: FsspecAccessor) -> str:
    """Tell what an `info` that is in the way belongs to.

    Raises
    ------
    HtmlError
        If a server sends HTML: then nothing is in the way, but the URL is wrong.
    """
    try:
        accessor.fetch_info()
    except InvalidInfoError as exc:
        if isinstance(exc, HtmlError) and accessor.is_remote:
            raise
        return f"there is an `info` already, but not of a pyramid ({exc})"
    except NotFoundError as exc:
        return str(exc)
    except DataAccessError:
        return "there is an `info` already"
    return "there is a pyramid already"


def _check_for_info(source: "Mapping[str, Any] | Info", for_arrays: Mapping[str, Any]) -> None:
    """Check that nothing is asked for that an `info` says itself, or that a collection of arrays does not."""
    needless = [name for name, value in for_arrays.items() if value is not None]
    if needless and "scales" not in source:
        message = f"expected an array or an `info`, got {type(source).__name__}: pass one array of it"
        raise TypeError(message)
    if needless:
        message = f"{', '.join(needless)}: for arrays; `info` says it itself"
        raise TypeError(message)


def _check_in_the_way(
    accessor: FsspecAccessor,
    info: "Info",
    claimed: claims.Claimed | None,
    *,
    replaces_data: bool,
) -> None:
    """Check that what is stored already cannot be taken for a part of a new pyramid."""
    try:
        there = _parse(accessor.fetch_info(), most=accessor.max_info_bytes)
        _check_not_mixed(accessor, info, there, replaces_data=replaces_data)
    except (NotFoundError, InvalidInfoError) as exc:
        if isinstance(exc, HtmlError) and accessor.is_remote:  # this is no store, whatever it answers to a write
            raise
    with contextlib.suppress(InvalidInfoError):
        if claimed is not None:
            begun = _parse(claimed.what.get("info", {}), most=accessor.max_info_bytes)
            _check_not_mixed(accessor, info, begun, replaces_data=replaces_data)


def _check_not_mixed(accessor: FsspecAccessor, info: "Info", there: "Info", *, replaces_data: bool) -> None:
    kind = (info.data_type, info.num_channels) == (there.data_type, there.num_channels)
    before = {posixpath.normpath(scale.key): scale for scale in there.scales}
    for scale in info.scales:
        old = before.get(posixpath.normpath(scale.key))
        if old is None:
            continue
        is_alike = (scale.grid, scale.sharding) == (old.grid, old.sharding)
        if replaces_data:  # shards are merged into what is there; other chunks are all written anew
            stays = scale.sharding is not None and old.sharding is not None and not is_alike
        else:
            stays = not (is_alike and kind and scale.encoding == old.encoding) or (
                _required_parameters(scale) != _required_parameters(old)
            )
        if stays:
            message = (
                f"{accessor.url}: scale {scale.key} is stored otherwise there, and its chunks would be taken for new "
                "ones: delete them first, or choose another key"
            )
            raise AlreadyExistsError(message)


def _required_parameters(scale: "ScaleInfo") -> list[Any]:
    """Return what a scale's chunks cannot be decoded without."""
    row = ENCODINGS.get(scale.encoding)
    return [scale.parameters.get(parameter.key) for parameter in row.parameters if parameter.required] if row else []


class Volume:
    """A pyramid: its scales, the finest one first.

    Get one from `open_volume` or `create_volume`. A volume may be pickled, shared by threads and
    inherited by a fork, like the accessor that it reads and writes by.

    Parameters
    ----------
    accessor : FsspecAccessor
    info : Info
    missing, progress
        See `open_volume`.

    Attributes
    ----------
    accessor : FsspecAccessor
        What moves the bytes.
    info : Info
        What `info` says: ``vol.info.num_channels`` or ``vol.info["num_channels"]``.
    scales : tuple of Scale
        Sorted, in whatever order `info` lists them; hidden ones included.
    """

    def __init__(
        self,
        accessor: FsspecAccessor,
        info: "Info",
        *,
        missing: str = "zeros",
        progress: bool | None = None,
    ) -> None:
        self.accessor = accessor
        self.info = info
        self.missing = _checked_missing(missing)
        self.progress = progress
        self.scales = tuple(Scale(self, index) for index in info.finest_first)
        self._flushes = True
        self._places: dict[str, tuple[FsspecAccessor, str]] = {}

    @property
    def url(self) -> str:
        """Where the pyramid is, without secrets."""
        return self.accessor.url

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a voxel in each channel."""
        return np.dtype(self.info.data_type)

    def __repr__(self) -> str:
        kind = f"{one_line(self.info.type)} of {self.info.data_type}"
        return f"<Volume {one_line(self.url)}: {kind}, {len(self)} {'scale' if len(self) == 1 else 'scales'}>"

    def _repr_html_(self) -> str:
        from precomputed_fs.view import pictures  # noqa: PLC0415 - it is made of volumes

        return pictures.html(self)

    def __len__(self) -> int:
        return len(self.scales)

    def __iter__(self) -> "Iterator[Scale]":
        return iter(self.scales)

    def __getitem__(self, which: int | str) -> "Scale":
        if isinstance(which, str):
            for scale in self.scales:
                if scale.key == which:
                    return scale
            message = f"no scale {which!r}; there are {', '.join(scale.key for scale in self.scales)}"
            raise KeyError(message)
        try:
            return self.scales[operator.index(which)]
        except IndexError:
            message = f"no scale {which}; there are {len(self)}"
            raise IndexError(message) from None
        except TypeError:
            message = f"expected the number or the key of a scale, got {which!r}: {_VOXELS_OF_SCALES}"
            raise TypeError(message) from None

    def __setitem__(self, index: object, value: object) -> NoReturn:
        message = f"a volume cannot be written to, but its scales can: {_VOXELS_OF_SCALES}"
        raise TypeError(message)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NoReturn:
        # without this, NumPy would read all scales as a sequence of arrays
        message = "a volume is no array, but its scales are: np.asarray(vol[0]) reads the finest one"
        raise TypeError(message)

    if not TYPE_CHECKING:  # for type checkers, there are no other attributes than these

        def __getattr__(self, name: str) -> NoReturn:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            for kind, shown in ((np.ndarray, "np.asarray(vol[0])"), (ScaleArray, "vol[0].array"), (Scale, "vol[0]")):
                if hasattr(kind, name) and not name.startswith("_"):
                    message = f"each scale has its own {name}: {shown}.{name} is that of the finest one"
            raise AttributeError(message, name=name, obj=self)

    def at_resolution(self, resolution: Sequence[float]) -> "Scale":
        """Return the scale of a voxel size, in nanometres, xyz.

        Raises
        ------
        KeyError
            If there is none; the message lists those that there are.
        """
        wanted = _triple_of("resolution", resolution)
        for scale in self.scales:
            if all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(scale.resolution, wanted, strict=True)):
                return scale
        message = f"no scale of {wanted} nm; there are {', '.join(str(scale.resolution) for scale in self.scales)}"
        raise KeyError(message)

    # ------------------------------------------------------------------------------- pictures

    def show(
        self,
        *,
        x: int | None = None,
        y: int | None = None,
        z: int | None = None,
        size: int | None = _PICTURE_PIXELS,
        channel: int | None = None,
        limits: Iterable[float] | None = None,
        progress: bool | None = None,
    ) -> "Image":
        """Make a picture of a slice, read from the coarsest scale that has all the detail the picture can show.

        In a notebook, the picture shows itself. Voxels are drawn in their true proportions, and lie as
        Neuroglancer shows them: in an xy slice x grows to the right and y downwards, in an xz slice z
        grows downwards, in a yz slice z grows to the left.

        Parameters
        ----------
        x, y, z : int, optional
            Where to slice, in absolute voxel coordinates of the first scale, whichever is read. Each one
            that is given makes a slice, and these stand side by side; without any, there are all three,
            through the middle, or of a volume one voxel thick the one that is no line.
        size : int or None
            Pixels of the longer side of a slice, or with several, of the volume's longest side. None for a
            pixel from each voxel of the first scale; where voxels are anisotropic, from the shortest side.
        channel : int, optional
            Which channel to show; by default three channels are red, green and blue, and of any other
            number the first one is shown.
        limits : two floats, optional
            The values that are black and white, not of a segmentation. By default uint8 is shown as it is, and
            other types between the percentiles 0.5 and 99.5 of what is shown.
        progress : bool, optional
            See `open_volume`.

        Returns
        -------
        PIL.Image.Image
            Of mode L or RGB; of a segmentation RGBA, in which each id has the colour that Neuroglancer gives
            it by default, in every picture, and 0 is transparent. Several slices have transparent gaps (LA, RGBA).

        Raises
        ------
        ImportError
            If Pillow is not installed, which the extra "plot" brings.
        IndexError
            If the slice is outside of the volume, or there is no such channel.
        ValueError
            If the picture would have more than 2**27 pixels, or there are `limits` for a segmentation.
        DataAccessError
            If a chunk cannot be read.
        """
        from precomputed_fs.view import pictures  # noqa: PLC0415 - it is made of volumes

        return pictures.show(self, (x, y, z), size=size, channel=channel, limits=limits, progress=progress)

    def plot(
        self,
        *,
        x: int | None = None,
        y: int | None = None,
        z: int | None = None,
        size: int | None = _PICTURE_PIXELS,
        channel: int | None = None,
        limits: Iterable[float] | None = None,
        ax: Any = None,  # noqa: ANN401 - matplotlib's Axes, or several
        progress: bool | None = None,
    ) -> Any:  # noqa: ANN401 - matplotlib's Axes, or several
        """Plot a slice with matplotlib: `show`, with axes in voxels and in nanometres.

        Parameters
        ----------
        x, y, z, size, channel, limits, progress
            See `show`. The axes count voxels of the first scale, whichever is read.
        ax : matplotlib Axes, or a sequence of these, optional
            Where to plot: one for each slice. By default in a new figure.

        Returns
        -------
        matplotlib Axes, or an array of these
            One; or as many as there are slices, if these are several.

        Raises
        ------
        ImportError
            If matplotlib is not installed, which the extra "plot" brings.
        IndexError, DataAccessError
            See `show`.
        """
        from precomputed_fs.view import pictures  # noqa: PLC0415 - it is made of volumes

        return pictures.plot(self, (x, y, z), size=size, channel=channel, limits=limits, ax=ax, progress=progress)

    # -------------------------------------------------------------------------------- writing

    def __enter__(self) -> Self:
        self._flushes = False
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def flush(self) -> None:
        """Write the shards that written voxels wait for; nothing else waits.

        Writing does this by itself, except in a ``with`` block of the volume, which does it in the
        end: many writes into one shard then take one pass over it.
        """
        with contextlib.ExitStack() as stack:  # all of them, also if one fails
            for accessor in self._accessors():
                stack.callback(accessor.flush)

    def close(self) -> None:
        """Flush, and let go of connections."""
        self._flushes = True
        with contextlib.ExitStack() as stack:
            for accessor in self._accessors():
                stack.callback(accessor.close)

    def accessor_for(self, key: str) -> tuple[FsspecAccessor, str]:
        """Return what moves the bytes of a scale, and the key that it knows the scale by."""
        place = self._places.get(key)
        return self._places.setdefault(key, self.accessor.for_scale(key)) if place is None else place

    def _accessors(self) -> set[FsspecAccessor]:
        return {self.accessor, *(accessor for accessor, _ in self._places.copy().values())}

    def flush_unless_in_block(self) -> None:
        """Flush, unless a ``with`` block of the volume will."""
        if self._flushes:
            self.flush()

    def downsample(self, method: str | None = None, *, skip_empty: bool = False, progress: bool | None = None) -> None:
        """Compute each scale but the first one from the one before.

        Parameters
        ----------
        method : {"average", "mode", "stride"}, optional
            By default the average of images, the most frequent label of segmentations.
        skip_empty : bool
            Whether chunks of nothing but zeros are left out.
        progress : bool, optional
            See `open_volume`.

        Raises
        ------
        ValueError
            If a scale has not half the voxels, or as many, of the one before along each axis.

        Notes
        -----
        A voxel at ``i`` is made of those from ``2 * i`` up to ``2 * i + 2``. What is in memory at
        once is a block of some chunks, 32 MiB of the finer scale.
        """
        self._downsample(_checked_method(method, self.info), skip_empty=skip_empty, progress=progress)

    def _downsample(
        self, method: str, *, skip_empty: bool, progress: bool | None = None, warns_of_labels: bool = False
    ) -> None:
        watched = _Values(self.dtype) if warns_of_labels and method == "average" else None
        pairs = [(*pair, _factors_between(*pair)) for pair in itertools.pairwise(self.scales)]
        for finer, coarser, factors in pairs:
            blocks = _blocks(coarser, factors)
            shows = self.progress if progress is None else progress
            with Progress(f"downsampling to {coarser.key}", math.prod(blocks.shape), shows, unit="block") as bar:
                xs, ys, zs = map(range, blocks.shape)
                for cell in ((x, y, z) for z in zs for y in ys for x in xs):
                    box = Box.of(blocks.chunk(cell))
                    block = _block_of(finer, box, factors)
                    if watched is not None:
                        watched.add(block)
                    voxels = downsample(block, factors, method)
                    coarser.write(box, voxels, skip_empty=skip_empty, progress=False, flush=False)
                    bar.relative_update(1)
            self.flush_unless_in_block()
            if watched is not None and (likeness := watched.likeness_to_labels(of=math.prod(finer.shape))):
                message = (
                    f"{self.url}: these integers {likeness}, and lower scales are averages, which no label is: pass "
                    'type="segmentation", or type="image" if that is meant'
                )
                warnings.warn(message, UserWarning, _stack_level())
            watched = None

    # -------------------------------------------------------------------------------- showing

    def view(self, *, layout: str | None = None, height: int = 600) -> "View":
        """Show the volume in Neuroglancer: in a notebook below the cell, elsewhere at the view's ``url``.

        The pyramid may be anywhere and stored in any way: a server in this process reads it for the
        web client, which is that of the package ``neuroglancer``. The browser has to be on this
        machine, or to reach the server's port at its own 127.0.0.1.

        Parameters
        ----------
        layout : str, optional
            "4panel", "4panel-alt", "xy", "xz", "yz", "xy-3d", "xz-3d", "yz-3d" or "3d"; by default "4panel",
            and "xy" of a single slice.
        height : int
            In a notebook, in pixels.

        Returns
        -------
        View
            Its ``server`` runs until it is closed, or the interpreter ends; further views share it.

        Raises
        ------
        ImportError
            If ``neuroglancer`` is not installed; the message says how to install it.
        ValueError
            If there is no such layout.

        Notes
        -----
        What is black and what is white is chosen by a chunk from the middle of the coarsest scale,
        except for uint8, which is shown as it is.
        """
        from precomputed_fs.view.server import view  # noqa: PLC0415 - it builds on this module

        return view(self, layout=layout, height=height)

    def neuroglancer_url(
        self, base: str = "https://neuroglancer-demo.appspot.com", *, layout: str | None = None
    ) -> str:
        """Make a link that shows the volume in a Neuroglancer on the web, to be shared.

        Parameters
        ----------
        base : str
            Where that Neuroglancer is.
        layout : str, optional
            See `view`.

        Raises
        ------
        ValueError
            If others cannot read it by that: it is not at http://, https://, s3:// or gs://, was opened
            with credentials or ``anon=False``, or is of an encoding that Neuroglancer does not decode.
            Whether it is public is not looked at. Or if there is no such layout.
        """
        from precomputed_fs.view.server import neuroglancer_url  # noqa: PLC0415

        return neuroglancer_url(self, base, layout=layout)


class Scale:
    """One scale of a volume, to be sliced in absolute voxel coordinates.

    ``scale[10:20, 30:40, 5]`` reads as an ndarray; ``scale[10:20, 30:40, 5:6] = array`` writes. The
    axes are x, y, z and channel. Coordinates include `voxel_offset` and may be negative: -5 is the
    voxel at -5. For indices that count from 0 see `array`.

    Attributes
    ----------
    volume : Volume
        The one that this is a scale of.
    """

    def __init__(self, volume: Volume, index: int) -> None:
        self.volume = volume
        self._index = index

    @property
    def info(self) -> "ScaleInfo":
        """What `info` says of this scale."""
        return self.volume.info.scales[self._index]

    @property
    def key(self) -> str:
        """The folder of its chunks."""
        return self.info.key

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """How many voxels along x, y and z, and channels."""
        return (*self.info.size, self.volume.info.num_channels)

    @property
    def ndim(self) -> int:
        """4: x, y, z and channel."""
        return _DIMENSIONS

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
        """How many voxels a chunk has along x, y and z."""
        return self.grid.chunk_size

    @property
    def encoding(self) -> str:
        """How voxels are encoded in a chunk."""
        return self.info.encoding

    @property
    def bounds(self) -> Box:
        """The box of all voxels, in absolute coordinates."""
        return self.grid.bounds

    @functools.cached_property
    def grid(self) -> ChunkGrid:
        """How the scale is cut into chunks."""
        return self.info.grid

    @functools.cached_property
    def codec(self) -> Codec:
        """What is between a chunk's bytes and its voxels."""
        info = self.volume.info
        return codec_for(
            self.encoding, info.data_type, info.num_channels, self.info.parameters, f"scales[{self._index}]"
        )

    @functools.cached_property
    def _place(self) -> tuple[FsspecAccessor, str]:
        return self.volume.accessor_for(self.key)

    @property
    def accessor(self) -> FsspecAccessor:
        """What moves the bytes of this scale."""
        return self._place[0]

    @property
    def array(self) -> "ScaleArray":
        """The same voxels as an array whose indices count from 0."""
        return ScaleArray(self)

    @property
    def layout(self) -> str:
        """How chunks are named: "shards", "flat", "sub-directories"; or "unknown" while none was met.

        Nothing is asked of the store.
        """
        if self.info.sharding is not None:
            return "shards"
        if "_place" not in vars(self):
            return "unknown"
        accessor, key = self._place
        return " and ".join(sorted(accessor.layouts_met(key))) or "unknown"

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        size = readable_resolution(self.resolution)
        return f"<Scale {one_line(self.key)}: {shape} {self.dtype}, {size}, {one_line(self.encoding)}>"

    def _repr_html_(self) -> str:
        from precomputed_fs.view import pictures  # noqa: PLC0415 - it is made of scales

        return pictures.html(self)

    def __len__(self) -> int:
        return self.shape[0]

    __iter__ = None  # counting from 0 would be wrong; `array` can be gone through

    # -------------------------------------------------------------------------------- reading

    def __getitem__(self, index: Index) -> Any:  # noqa: ANN401 - an array, or one voxel
        selection = _select(index, self.shape, self.bounds)
        _check_inside(selection, self.bounds)
        return self.read_selection(selection)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self.array.__array__(dtype, copy)

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
        box : Box, or what can stand in ``scale[...]``
            In absolute coordinates.
        fill : number, optional
            What to put where the box goes beyond the volume; by default that is an IndexError.
        missing : {"zeros", "raise"}, optional
            What an absent chunk is; by default as the volume was opened with.
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
            If every chunk that the box touches is absent: usually the path is wrong.
        """
        selection = _select(box, self.shape, self.bounds)
        if fill is None:
            _check_inside(selection, self.bounds)
        return self.read_selection(selection, fill=fill, missing=missing, progress=progress)

    def read_selection(
        self,
        selection: "Selection",
        *,
        fill: float | None = None,
        missing: str | None = None,
        progress: bool | None = None,
        warns: bool = True,
    ) -> Any:  # noqa: ANN401 - an array, or one voxel
        """Read what an index selects: `read`, for indices that are resolved already."""
        missing = self.volume.missing if missing is None else _checked_missing(missing)
        ranges, channels = selection.ranges, selection.channels
        result = np.empty(selection.shape, self.dtype, order="F")
        if fill is not None and _outside(selection, self.bounds):
            result[...] = _cast_scalar(fill, self.dtype)
        codec, overlaps = self.codec, _overlaps_with(ranges)

        def paste(coords: ChunkCoords, data: bytes | None) -> bool:
            into, out_of = overlaps(coords)
            if data is None:
                if missing == "raise":
                    message = f"{self.volume.url}: scale {self.key} has no chunk {coords}"
                    raise NotFoundError(message)
                result[into] = 0
                return False
            result[into] = codec.decode(data, size_of(coords))[(*out_of, channels)]
            return True

        present = total = 0
        coords, count = self._touched(ranges)
        with Progress(f"reading {self.key}", count, self._shows(progress)) as bar:
            accessor, key = self._place
            for _, was_there in accessor.fetch_chunks(
                key, coords, decode=paste, in_flight=self._in_flight, callback=bar
            ):
                present += was_there
                total += 1
        if total and not present and warns:
            message = (
                f"{self.volume.url}: scale {self.key} has none of the {total} chunks that this box touches, so it is "
                'all zeros; is the URL right, and was all of the data uploaded? missing="raise" makes this an error'
            )
            warnings.warn(message, UserWarning, _stack_level())
        return result[selection.final]

    # ------------------------------------------------------------------------ dask and xarray

    def to_dask(self, chunks: Any = None) -> Any:  # noqa: ANN401 - dask ships no types
        """Make a dask array (x, y, z, channel) of the scale, whose indices count from 0. Nothing is read.

        Parameters
        ----------
        chunks : optional
            The blocks, made of whole chunks. By default as many chunks as fit dask's ``array.chunk-size``
            (128 MiB), and of a sharded scale whole shards, or a part that lies together if a shard is
            larger. A text such as ``"32MiB"`` is another limit. Or in voxels, multiples of `chunk_size`:
            an integer for all of x, y and z; one for each of them; or a mapping of axes. -1 is a whole
            axis, None or "auto" the default, a tuple lists each block's length.

        Returns
        -------
        dask.array.Array
            A task reads its block, many chunks at once, and where the array is sliced only what is left
            of it. Absent chunks are as the volume was opened with; blocks without any are not warned about.

        Raises
        ------
        ImportError
            If dask is not installed, which the extra "dask" brings.
        ValueError
            If blocks would cut through chunks, or there would be more than 2**20 along an axis.

        Notes
        -----
        The array's name is made of the URL, the options, what `info` says and the blocks, and is the same
        each time: do not keep ``persist``-ed blocks of a scale that is written to. Tasks carry the options
        that the volume was opened with, credentials included, like a pickled volume; names do not show them.

        Examples
        --------
        >>> vol = create_volume("memory://docs/dask", np.ones((200, 150, 100), np.uint8), resolution=(8, 8, 8))
        >>> vol[0].to_dask(chunks=(128, 64, -1)).chunks
        ((128, 72), (64, 64, 22), (100,), (1,))
        """
        from precomputed_fs.interop import dask  # noqa: PLC0415 - it is made of scales

        return dask.to_dask(self, chunks)

    def to_xarray(self, chunks: Any = None) -> "xarray.DataArray":  # noqa: ANN401
        """Make a DataArray of the scale, lazy through dask: dimensions x, y, z and channel.

        Parameters
        ----------
        chunks : optional
            See `to_dask`.

        Returns
        -------
        xarray.DataArray
            Its coordinates are the **centres of voxels in nanometres**, ``(i + 0.5) * resolution`` for the
            voxel at the absolute coordinate ``i``, as in Neuroglancer that voxel reaches from
            ``i * resolution`` to ``(i + 1) * resolution``. So ``sel(..., method="nearest")`` finds the voxel
            that a position is in. Its attributes are numbers, texts and lists, and are the keywords by which
            `create_volume` makes such a scale again: ``create_volume(url, data, **data.attrs)``.

        Raises
        ------
        ImportError
            If dask or xarray is not installed, which the extra "xarray" brings.

        Examples
        --------
        >>> vol = create_volume("memory://docs/xarray", np.ones((20, 15, 10), np.uint8), resolution=(8, 8, 40))
        >>> data = vol[0].to_xarray()
        >>> data.dims, data.x.values[:3], data.attrs["resolution"]
        (('x', 'y', 'z', 'channel'), array([ 4., 12., 20.]), [8, 8, 40])
        """
        from precomputed_fs.interop import dask  # noqa: PLC0415 - it is made of scales

        return dask.to_xarray(self, chunks)

    # ------------------------------------------------------------------------------- pictures

    def show(
        self,
        *,
        x: int | None = None,
        y: int | None = None,
        z: int | None = None,
        size: int | None = _PICTURE_PIXELS,
        channel: int | None = None,
        limits: Iterable[float] | None = None,
        progress: bool | None = None,
    ) -> "Image":
        """Make a picture of a slice of this very scale: `Volume.show` with the scale chosen, and its coordinates.

        Every chunk that the slice crosses is read, which of the finest scale of a large volume may be very many:
        there, `Volume.show` is what shows as much in a picture of that size. Where there are more voxels than pixels,
        every n-th is kept, so that memory is bounded by the picture.

        Parameters
        ----------
        x, y, z : int, optional
            Where to slice, in absolute voxel coordinates of this scale.
        size, channel, limits, progress
            See `Volume.show`.
        """
        from precomputed_fs.view import pictures  # noqa: PLC0415 - it is made of scales

        return pictures.show(self, (x, y, z), size=size, channel=channel, limits=limits, progress=progress)

    def plot(
        self,
        *,
        x: int | None = None,
        y: int | None = None,
        z: int | None = None,
        size: int | None = _PICTURE_PIXELS,
        channel: int | None = None,
        limits: Iterable[float] | None = None,
        ax: Any = None,  # noqa: ANN401 - matplotlib's Axes, or several
        progress: bool | None = None,
    ) -> Any:  # noqa: ANN401 - matplotlib's Axes, or several
        """Plot a slice of this very scale: `Volume.plot` with the scale chosen, and its coordinates."""
        from precomputed_fs.view import pictures  # noqa: PLC0415 - it is made of scales

        return pictures.plot(self, (x, y, z), size=size, channel=channel, limits=limits, ax=ax, progress=progress)

    # -------------------------------------------------------------------------------- writing

    def __setitem__(self, index: Index, value: ArrayLike) -> None:
        self.write(index, value)

    def store(self, array: Any, box: Index = ..., *, skip_empty: bool = False, compute: bool = True) -> Any:  # noqa: ANN401
        """Write a dask array into the scale, or into a box of it, block by block and in parallel.

        Each task writes whole chunks, and of a sharded scale whole shards, so that no two tasks write
        the same object, in whichever threads, processes or machines dask runs them. A task that failed
        may be repeated. Where the array's blocks are not made of whole chunks, it is rechunked to such
        as `to_dask` has by default, lazily.

        Parameters
        ----------
        array : dask.array.Array or xarray.DataArray
            Of the box's shape, (x, y, z, channel), or (x, y, z) where there is one channel. A DataArray
            with the dimensions x, y and z is brought into this order.
        box : Box, or what can stand in ``scale[...]``
            In absolute coordinates, without steps or integers; by default the whole scale. Of chunks
            that it covers in part, the rest is kept.
        skip_empty : bool
            See `write`.
        compute : bool
            Whether to do it now, by dask's current scheduler. With False, a dask array without
            dimensions is returned: to compute it stores the array, and gives the number of chunks.

        Raises
        ------
        ImportError
            If dask is not installed, which the extra "dask" brings.
        TypeError
            If it is no dask array, or its type cannot be cast to the volume's without loss.
        IndexError, ValueError
            If the box goes beyond the volume, or the array has another shape than the box, or is made
            of this very scale: a task that is repeated would take what it has written.

        Notes
        -----
        Chunks of a shard are encoded block by block, and what is encoded of a shard is in the memory of
        one worker when the shard is written. If another hash than "identity" scatters chunks over
        several shards, all of the scale is such a group.

        Examples
        --------
        >>> import dask.array
        >>> vol = create_volume("memory://docs/store", np.zeros((100, 80, 60), np.uint8), resolution=(8, 8, 8))
        >>> vol[0].store(dask.array.ones((100, 80, 60), dtype=np.uint8, chunks=30))
        >>> stored = vol[0].store(dask.array.full((64, 80, 60), 7, dtype=np.uint8), np.s_[:64], compute=False)
        >>> int(stored.compute()), vol[0][63:65, 0, 0, 0]
        (2, array([7, 1], dtype=uint8))
        """
        from precomputed_fs.interop import dask  # noqa: PLC0415 - it is made of scales

        array = _unlabelled(array)
        dask.check_dask(array)
        array = _with_channels(array)
        selection = self._to_write(box)
        _check_cast(np.dtype(array.dtype), self.dtype, array)
        return dask.store(self, array, selection, skip_empty=skip_empty, compute=compute)

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

        Chunks that the box covers are replaced. Of others the rest is kept: they are read, changed
        and written. Several such writes into one chunk may happen at once: each changes what the last
        one has stored, in this process and, where the store can tell versions apart, in others. In an
        encoding that is not lossless, such as jpeg, the rest is encoded once more, too.

        Parameters
        ----------
        box : Box, or what can stand in ``scale[...]``
            In absolute coordinates, without steps.
        value : array
            Of the box's shape, (x, y, z, channel), or what NumPy broadcasts to that; (x, y, z) where
            there is one channel. Anything else that has a ``shape`` and a ``dtype`` and can be
            sliced is read chunk by chunk, and what `create_volume` converts is converted here, too.
            A dask array is never loaded as a whole: it is handed to `store`, which computes and writes
            it block by block; the progress is dask's to show.
        skip_empty : bool
            Whether chunks of nothing but zeros are left out, unless they replace others.
        progress : bool, optional
            See `open_volume`.
        flush : bool
            Whether shards are written before this returns; see `Volume.flush`.

        Raises
        ------
        IndexError
            If the box goes beyond the volume.
        ValueError
            If the value does not fit the box, or the encoding cannot store it, or the scale has
            several chunk sizes.
        TypeError
            If the value's type cannot be cast to the volume's without loss.
        AccessDeniedError, CorruptDataError, DataAccessError
            If a chunk cannot be written, or one that is changed cannot be read.
        """
        value = _unlabelled(value)
        if _is_dask(value):
            self.store(value, box, skip_empty=skip_empty)
            return
        selection = self._to_write(box)
        piece = _pieces(value, selection, self.dtype)
        accessor, key = self._place
        count = math.prod(map(len, self._cells(selection.ranges)))
        waiting = 0
        with Progress(f"writing {self.key}", count, self._shows(progress)) as bar:
            for coords, chunks in self._by_shard(selection.ranges):
                accessor.store_chunks(
                    key,
                    self._given(coords, selection, piece),
                    encode=functools.partial(self._encoded, skip_empty=skip_empty),
                    mime_type=self.codec.mime_type,
                    overwrite=True,
                    in_flight=self._in_flight,
                    callback=bar,
                )
                waiting += chunks * self._chunk_bytes
                if flush and waiting >= _BYTES_OF_SHARDS:
                    self.volume.flush_unless_in_block()
                    waiting = 0
        if flush:
            self.volume.flush_unless_in_block()

    def encoded(
        self, box: Index, value: ArrayLike, *, skip_empty: bool = False
    ) -> Iterator[tuple[ChunkCoords, bytes | Update]]:
        """Yield what `write` would store, as coordinates and chunks or changes of chunks; nothing is written."""
        selection = self._to_write(box)
        piece = _pieces(value, selection, self.dtype)
        coords, _ = self._touched(selection.ranges)
        for chunk, given in self._given(coords, selection, piece):
            yield chunk, self._encoded(chunk, given, skip_empty=skip_empty)

    def _to_write(self, box: Index) -> "Selection":
        """Check that a box can be written, of this scale."""
        selection = _select(box, self.shape, self.bounds)
        _check_inside(selection, self.bounds)
        if any(voxels.step != 1 for voxels in selection.ranges) or selection.is_stepped:
            message = "steps are for reading: a box is written whole"
            raise ValueError(message)
        if len(self.info.chunk_sizes) > 1:
            message = (
                f"{self.volume.url}: scale {self.key} has {len(self.info.chunk_sizes)} chunk sizes, each with a copy "
                "of the data, and would be left with copies that differ: list one in `info`"
            )
            raise ValueError(message)
        self.codec.check()
        return selection

    def _given(
        self,
        wanted: Iterable[ChunkCoords],
        selection: "Selection",
        piece: "Callable[[tuple[slice, ...]], NDArray[Any]]",
    ) -> Iterator[tuple[ChunkCoords, "_Given"]]:
        """Yield what is given of each chunk."""
        overlaps = _overlaps_with(selection.ranges)
        for coords in wanted:
            out_of, into = overlaps(coords)
            yield coords, _Given(piece((*out_of, slice(None))), (*into, selection.channels))

    def _encoded(self, coords: ChunkCoords, given: "_Given", *, skip_empty: bool) -> bytes | Update:
        """Encode a chunk that is given whole; or say what is to be changed of the one that is there."""
        is_left_out = skip_empty and _is_empty(given.voxels)
        if self._is_whole(given.voxels, coords) and not is_left_out:
            return self.codec.encode(given.voxels)
        bounds = [bound for part in given.into for bound in (part.start, part.stop)]
        head = _PATCH_HEAD.pack(*bounds, is_left_out)
        return Update(head if is_left_out else head + given.voxels.tobytes(order="F"), self._patched)

    @functools.cached_property
    def _patched(self) -> Apply:
        """What makes chunks anew; it knows no accessor, which would never go while a change waits in it."""
        return functools.partial(_patched, self.codec)

    def _is_whole(self, voxels: NDArray[Any], coords: ChunkCoords) -> bool:
        return voxels.shape == (*size_of(coords), self.shape[3])

    # ----------------------------------------------------------------------------- the inside

    @property
    def _chunk_bytes(self) -> int:
        return math.prod(map(min, self.chunk_size, self.info.size)) * self.shape[3] * self.dtype.itemsize

    @property
    def _in_flight(self) -> int:
        """How many chunks may be under way, such that their bytes are bounded, too."""
        return max(_LEAST_IN_FLIGHT, min(IN_FLIGHT, _BYTES_IN_FLIGHT // self._chunk_bytes))

    def _by_shard(self, ranges: tuple[range, range, range]) -> Iterator[tuple[Iterator[ChunkCoords], int]]:
        """Go through the chunks that voxels are in, those of a shard together if they are a block.

        So a shard can be written before the next one is begun. All are together in an unsharded
        scale, and where a hash scatters them.
        """
        sharding, block = self.info.sharding, self.grid.shape
        if sharding is not None and sharding.hash == "identity":
            block = morton_block(block, sharding.preshift_bits + sharding.minishard_bits)
        along_x, along_y, along_z = zip(self._cells(ranges), block, strict=True)
        groups = ((x, y, z) for z in _runs(*along_z) for y in _runs(*along_y) for x in _runs(*along_x))
        for xs, ys, zs in groups:
            chunks = (self.grid.chunk((x, y, z)) for z in zs for y in ys for x in xs)
            yield chunks, len(xs) * len(ys) * len(zs)

    def _touched(self, ranges: tuple[range, range, range]) -> tuple[Iterator[ChunkCoords], int]:
        """Return the chunks that voxels are in, one after the other, and how many these are."""
        cells = self._cells(ranges)
        xs, ys, zs = ([self.grid.span(axis, cell) for cell in along] for axis, along in enumerate(cells))
        return ((*x, *y, *z) for z in zs for y in ys for x in xs), math.prod(map(len, cells))

    def _cells(self, ranges: tuple[range, range, range]) -> list[Collection[int]]:
        """Return the cells of the grid that voxels are in, along x, y and z."""
        axes = zip(ranges, self.bounds.start, self.bounds.stop, self.chunk_size, strict=True)
        return [_cells(*axis) for axis in axes]

    def _shows(self, progress: bool | None) -> bool | None:
        return self.volume.progress if progress is None else progress


class ScaleArray:
    """A scale as a lazy array (x, y, z, channel) whose indices count from 0, like NumPy's.

    What takes arrays takes it as it is: ``dask.array.from_array``, ``neuroglancer.LocalVolume``,
    nibabel. Nothing is read before it is sliced or converted, as xarray does at once.

    Parameters
    ----------
    scale : Scale
    quiet : bool
        Whether reading shows no progress, and does not warn where there are no chunks.
    """

    def __init__(self, scale: Scale, *, quiet: bool = False) -> None:
        self._scale = scale
        self._quiet = quiet

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """How many voxels along x, y and z, and channels."""
        return self._scale.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element."""
        return self._scale.dtype

    @property
    def ndim(self) -> int:
        """4: x, y, z and channel."""
        return _DIMENSIONS

    @property
    def size(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes all elements take in memory."""
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"<ScaleArray of {self._scale!r}>"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:  # noqa: ANN401 - an array, or one voxel
        selection = _select(index, self.shape, self._scale.bounds, counts_from_0=True)
        return self._scale.read_selection(selection, progress=False if self._quiet else None, warns=not self._quiet)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            message = "the voxels are not in memory: to read them makes a copy"
            raise ValueError(message)
        voxels: NDArray[Any] = self[...]
        return voxels if dtype is None else voxels.astype(dtype, copy=False)


# ------------------------------------------------------------------------------- selections


@dataclass(frozen=True, slots=True)
class Selection:
    """What an index selects of a scale."""

    ranges: tuple[range, range, range]
    """Voxels along x, y and z, in absolute coordinates, ascending."""

    channels: slice
    """With a start, a stop and a positive step."""

    final: tuple[int | slice, ...]
    """What then turns axes around, and takes away those that the index has an integer for."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """How many voxels and channels, before `final`."""
        x, y, z = map(len, self.ranges)
        return x, y, z, len(range(self.channels.start, self.channels.stop, self.channels.step))

    @property
    def is_stepped(self) -> bool:
        """Whether channels are left out, or any axis is turned around."""
        return self.channels.step != 1 or any(isinstance(item, slice) and item.step == -1 for item in self.final)


def _select(index: Index, shape: tuple[int, ...], bounds: Box, *, counts_from_0: bool = False) -> Selection:
    items = _expanded(index.to_slices() if isinstance(index, Box) else index)
    chosen: list[range] = []
    final: list[int | slice] = []
    for i, item in enumerate(items):
        is_channel = i == len(_AXES)
        axis = range(shape[i]) if is_channel else range(bounds.start[i], bounds.stop[i])
        name = "channel" if is_channel else _AXES[i]
        voxels, last = _selected(item, axis, name, relative=counts_from_0 or is_channel)
        chosen.append(voxels)
        final.append(last)
    x, y, z, channels = chosen
    return Selection((x, y, z), slice(channels.start, max(channels.start, channels.stop), channels.step), tuple(final))


def _expanded(index: Index) -> list[Any]:
    """Spell out an index for four axes."""
    items = list(index) if isinstance(index, tuple) else [index]
    gaps = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(gaps) > 1:
        message = "an index can have only one Ellipsis"
        raise IndexError(message)
    missing = _DIMENSIONS - (len(items) - len(gaps))
    if missing < 0:
        message = f"too many indices: a scale has 4 axes (x, y, z, channel), got {len(items) - len(gaps)}"
        raise IndexError(message)
    gap = gaps[0] if gaps else len(items)
    return [*items[:gap], *[slice(None)] * missing, *items[gap + len(gaps) :]]


def _selected(item: Any, axis: range, name: str, *, relative: bool) -> tuple[range, int | slice]:  # noqa: ANN401
    """Resolve the index of one axis to ascending voxels, and what is to be done with them afterwards."""
    if isinstance(item, slice):
        voxels = axis[item] if relative else _absolute(item, axis)
        if voxels.step < 0:
            return voxels[::-1], slice(None, None, -1)
        return voxels, slice(None)
    try:
        if isinstance(item, (bool, np.bool_)):
            raise TypeError  # noqa: TRY301 - to NumPy it is a mask
        at = operator.index(item)
    except TypeError:
        message = f"{name}: expected an integer or a slice, got {item!r}"
        raise IndexError(message) from None
    if relative:
        if not -len(axis) <= at < len(axis):
            message = f"{name}: {at} is outside of {len(axis)} elements"
            raise IndexError(message)
        at = axis[at]
    return range(at, at + 1), 0


def _absolute(item: slice, axis: range) -> range:
    step = 1 if item.step is None else operator.index(item.step)
    if step == 0:
        message = "a slice's step must not be 0"
        raise ValueError(message)
    first, last = (axis.start, axis.stop) if step > 0 else (axis.stop - 1, axis.start - 1)
    start = first if item.start is None else operator.index(item.start)
    stop = last if item.stop is None else operator.index(item.stop)
    return range(start, stop, step)


def _outside(selection: Selection, bounds: Box) -> str:
    """Say where a selection goes beyond the volume; nothing, where it does not."""
    for name, voxels, low, high in zip(_AXES, selection.ranges, bounds.start, bounds.stop, strict=True):
        if voxels and not (low <= voxels[0] and voxels[-1] < high):
            return f"{name}: {voxels[0]}:{voxels[-1] + 1} is not inside of {low}:{high}"
    return ""


def _check_inside(selection: Selection, bounds: Box) -> None:
    if outside := _outside(selection, bounds):
        message = (
            f"{outside}, the scale's bounds in absolute coordinates; scale.read(box, fill=0) pads, "
            "and scale.array counts from 0"
        )
        raise IndexError(message)


def _cells(voxels: range, low: int, high: int, chunk: int) -> Collection[int]:
    """Return the cells of a grid's axis that voxels are in; those outside are in none."""
    inside = range(*_within(voxels, low, high))
    if not inside:
        return ()
    first, last = (voxels[inside[0]] - low) // chunk, (voxels[inside[-1]] - low) // chunk
    if voxels.step <= chunk:
        return range(first, last + 1)
    return sorted({(voxels[i] - low) // chunk for i in inside})


def _within(voxels: range, low: int, high: int) -> tuple[int, int]:
    """Return which of some ascending voxels are from `low` up to `high`: the first, and the one after the last."""
    return max(0, -((voxels.start - low) // voxels.step)), min(len(voxels), -((voxels.start - high) // voxels.step))


def _runs(cells: Collection[int], length: int) -> Iterator[range]:
    """Cut cells that follow one another at each multiple of a length."""
    first = next(iter(cells), 0)
    last = first + len(cells)
    while first < last:
        stop = min(first - first % length + length, last)
        yield range(first, stop)
        first = stop


_Slices = tuple[slice, slice, slice]


class _Given(NamedTuple):
    """What is given of a chunk to be written."""

    voxels: NDArray[Any]
    into: tuple[slice, slice, slice, slice]
    """Which voxels and channels of the chunk these are."""


def _patched(codec: Codec, coords: ChunkCoords, chunk: bytes | None, patches: Sequence[bytes]) -> bytes | None:
    """Make a chunk anew of the one that is there and of changes that `Scale.encoded` has given; see `Update`."""
    shape = (*size_of(coords), codec.num_channels)
    voxels: NDArray[Any] | None = None
    for patch in patches:
        *bounds, is_left_out = _PATCH_HEAD.unpack_from(patch)
        if voxels is None and chunk is None and is_left_out:
            continue
        into = tuple(map(slice, bounds[::2], bounds[1::2]))
        size = [part.stop - part.start for part in into]
        if voxels is None:
            voxels = np.zeros(shape, codec.dtype, order="F")
            if chunk is not None and size != [*shape]:
                voxels[...] = codec.decode(chunk, size_of(coords))
        given = np.frombuffer(patch, codec.dtype, offset=_PATCH_HEAD.size)
        voxels[into] = 0 if is_left_out else given.reshape(size, order="F")
    return None if voxels is None else codec.encode(voxels)


def _overlaps_with(ranges: tuple[range, range, range]) -> "Callable[[ChunkCoords], tuple[_Slices, _Slices]]":
    """Return what tells where the voxels of a chunk are in an array of the ranges' shape, and in the chunk."""
    along_x, along_y, along_z = (
        functools.lru_cache(_MOST_SPANS)(functools.partial(_overlap, voxels)) for voxels in ranges
    )

    def overlaps(coords: ChunkCoords) -> tuple[_Slices, _Slices]:
        x0, x1, y0, y1, z0, z1 = coords
        (x, u), (y, v), (z, w) = along_x(x0, x1), along_y(y0, y1), along_z(z0, z1)
        return (x, y, z), (u, v, w)

    return overlaps


def _overlap(voxels: range, low: int, high: int) -> tuple[slice, slice]:
    first, after = _within(voxels, low, high)
    return slice(first, after), slice(voxels[first] - low, voxels[after - 1] - low + 1, voxels.step)


def readable_resolution(resolution: tuple[float, float, float]) -> str:
    """Show a voxel size in the largest unit that is no longer than it.

    Examples
    --------
    >>> readable_resolution((4000, 4000, 40000))
    '4 x 4 x 40 µm'
    """
    nm, unit = unit_of(min(resolution))
    return " x ".join(f"{step / nm:g}" for step in resolution) + f" {unit}"


def unit_of(length: float) -> tuple[float, str]:
    """Return the largest unit that is no longer than a length, in nanometres, and its name."""
    return next((unit for unit in _UNITS if length >= unit[0]), (1, "nm"))


def one_line(text: str) -> str:
    r"""Show what an `info` or a URL says in one line of printable characters.

    Examples
    --------
    >>> one_line("a\tkey")
    'a\\tkey'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_LONGEST_LINE])
    return shown + "..." * (len(text) > _LONGEST_LINE)


# ---------------------------------------------------------------------------- what is written


def _as_source(source: ArrayLike | Scale) -> Any:  # noqa: ANN401 - an array, or what can be sliced like one
    """Make an array of a source, or what can be sliced like one and has a dtype of NumPy's."""
    if isinstance(source, np.ma.MaskedArray):
        message = "an array with a mask: fill what is masked first, with array.filled(0)"
        raise TypeError(message)
    if isinstance(source, Scale):
        return source.array
    source = _from_nibabel(_unlabelled(source))
    if not _is_sliceable(source):
        source = _loaded(source)
    return _with_channels(source)


def _loaded(source: Any) -> NDArray[Any]:  # noqa: ANN401
    """Take the array out of what is none to NumPy, such as torch's tensors and lists."""
    if getattr(source, "__array__", None) is None:
        if hasattr(source, "__dlpack__"):
            source = np.from_dlpack(source)
        elif callable(getattr(source, "numpy", None)):
            source = source.numpy()
    array = np.asarray(source)
    if array.dtype.kind in "OUS":
        message = f"{type(source).__name__} cannot be cast to an array of numbers"
        if array.ndim:
            message += f": its type is {array.dtype}; pass np.asarray(array, 'float32'), if that is meant"
        raise TypeError(message)
    return array


@dataclass(frozen=True, slots=True)
class _Converted:
    """What can be sliced like an array, and is converted part by part."""

    source: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    convert: "Callable[[NDArray[Any]], NDArray[Any]]"

    def __getitem__(self, cuts: tuple[slice, ...]) -> NDArray[Any]:
        axes = len(self.source.shape)
        part = self.convert(np.asarray(self.source[cuts[:axes]]))
        return part[..., cuts[axes]] if len(cuts) > axes else part


def _from_nibabel(source: Any) -> Any:  # noqa: ANN401
    """Take the voxels out of an image of nibabel, or of its ``dataobj``, scaled as the header says.

    Scaled, nibabel makes them float64, which the format has not: they become float32.
    """
    data = getattr(source, "dataobj", source)
    if data is source and not getattr(data, "is_proxy", False):
        return source
    first = np.asarray(data[(slice(1),) * len(data.shape)])  # only so the type after scaling is known
    if first.dtype != np.float64:
        return np.asanyarray(data)  # of a file that is not compressed, a memory map
    convert = functools.partial(np.asarray, dtype=np.float32)
    if str(getattr(data, "file_like", "")).lower().endswith(_SEQUENTIAL):
        return convert(np.asarray(data))
    return _Converted(data, data.shape, np.dtype(np.float32), convert)


def _with_channels(source: Any) -> Any:  # noqa: ANN401
    """Make channels of the fields of a structured type, such as NIfTI's RGB."""
    dtype = np.dtype(source.dtype)
    if not dtype.names:
        return source
    kind = dtype[0]
    if any(dtype[name] != kind for name in dtype.names) or kind.shape or kind.names:
        one = f"array[{dtype.names[0]!r}]"
        message = f"expected fields of one type, to be channels, got {dtype}: pass one of them, such as {one}"
        raise TypeError(message)
    from numpy.lib.recfunctions import structured_to_unstructured  # noqa: PLC0415 - brings numpy.ma

    count = len(dtype.names)
    if _is_dask(source):
        return source.map_blocks(
            structured_to_unstructured, dtype=kind, new_axis=source.ndim, chunks=(*source.chunks, (count,))
        )
    if isinstance(source, np.ndarray):
        return structured_to_unstructured(source)
    return _Converted(source, (*source.shape, count), kind, structured_to_unstructured)


def _unlabelled(value: Any) -> Any:  # noqa: ANN401
    """Take what dask holds out of xarray's arrays; dimensions named x, y and z come first, in this order."""
    if not _is_labelled(value):
        return value
    order = _axes_first(value)
    if order != [*value.dims]:
        value = value.transpose(*order)
    return value if value.chunks is None else value.data


def _is_labelled(value: object) -> bool:
    """Whether a value is an array of xarray's; without xarray, nothing is."""
    kinds = (getattr(sys.modules.get("xarray"), name, ()) for name in ("DataArray", "Variable"))
    return isinstance(value, tuple(kinds))


def _axes_first(labelled: Any) -> list[Any]:  # noqa: ANN401 - xarray's DataArray or Variable
    """Return an array's dimensions in the order that it is stored in."""
    return sorted(labelled.dims, key=lambda name: (*_AXES, str(name).lower()).index(str(name).lower()))


def _is_dask(value: object) -> bool:
    """Whether a value is a dask array; without dask, nothing is."""
    array_module = sys.modules.get("dask.array")
    return isinstance(value, getattr(array_module, "Array", ()))


def _is_sliceable(value: Any) -> bool:  # noqa: ANN401
    """Whether parts of something can be read by slicing; its dtype may be none of NumPy's, as torch's are."""
    if not all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    try:
        return bool(np.dtype(value.dtype) != np.object_)
    except TypeError:
        return False


def _pieces(
    value: ArrayLike, selection: Selection, dtype: np.dtype[Any]
) -> "Callable[[tuple[slice, ...]], NDArray[Any]]":
    """Return what gives the part of a value for a part of the selection, as (x, y, z, channel)."""
    shape = selection.shape
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN_TYPES):
        value = _cast_scalar(value, dtype)
    source = _as_source(value)
    _check_cast(np.dtype(source.dtype), dtype, value)
    dropped = tuple(axis for axis, item in enumerate(selection.final) if item == 0)
    if isinstance(source, np.ndarray) or len(source.shape) < len(_AXES):
        given = np.asarray(source)
        if not dropped and given.ndim == len(_AXES) and shape[3] == 1:
            given = given[..., np.newaxis]
        kept = [size for axis, size in enumerate(shape) if axis not in dropped]
        try:
            given = np.broadcast_to(given, kept)
        except ValueError:
            message = f"expected an array of shape {tuple(kept)}, got {np.shape(source)}"
            raise ValueError(message) from None
        whole = np.expand_dims(given, dropped)
        return lambda part: whole[part].astype(dtype, copy=False)
    sizes = shape[: len(source.shape)]
    if tuple(source.shape) != sizes or math.prod(shape[len(sizes) :]) != 1 or dropped:
        message = f"expected an array of shape {shape}, got {tuple(source.shape)}"
        raise ValueError(message)

    def piece(part: tuple[slice, ...]) -> NDArray[Any]:
        cuts = tuple(slice(*cut.indices(size)) for cut, size in zip(part, shape, strict=True))
        sizes = tuple(cut.stop - cut.start for cut in cuts)
        axes = len(source.shape)
        given = np.asarray(source[cuts[:axes]])
        if given.shape != sizes[:axes]:
            message = f"expected a part of shape {sizes[:axes]} of the array, got {given.shape}"
            raise ValueError(message)
        _check_cast(given.dtype, dtype, value)
        return given.reshape(sizes).astype(dtype, copy=False)

    return piece


def _is_empty(voxels: NDArray[Any]) -> bool:
    """Whether voxels are what an absent chunk is read as: zeros, and of floats none that is negative."""
    return not voxels.any() and not (voxels.dtype.kind == "f" and np.signbit(voxels).any())


def _check_cast(given: np.dtype[Any], dtype: np.dtype[Any], source: object) -> None:
    if not np.can_cast(given, dtype, "safe"):
        call = f"{_spelt(source, 'astype')}.astype({str(dtype)!r})"
        message = f"{given} cannot be cast to {dtype} without loss; if that is meant, pass {call}"
        raise TypeError(message)


def _spelt(source: object, method: str) -> str:
    """Return what to write for a source, called ``array``, to get an array that has a method such as ``reshape``."""
    if hasattr(source, method):
        return "array"
    if _is_labelled(source):
        return f"array.transpose{tuple(_axes_first(source))}.values"
    if _is_sliceable(source) and not hasattr(source, "__array__"):
        return "array[...]"
    return "np.asarray(array.dataobj)" if hasattr(source, "dataobj") else "np.asarray(array)"


def _cast_scalar(value: float, dtype: np.dtype[Any]) -> np.generic:
    """Make a voxel of a plain number."""
    with contextlib.suppress(OverflowError, ValueError), np.errstate(over="ignore"):
        voxel: np.generic = dtype.type(value)
        is_rounded = dtype.kind == "f" and not isinstance(value, int) and np.isinf(voxel) == math.isinf(value)
        if is_rounded or voxel.item() == value:
            return voxel
    message = f"{value!r} is no {dtype}"
    raise TypeError(message)


# ------------------------------------------------------------------------------- new pyramids


def _check_voxels(array: Any, source: object) -> None:  # noqa: ANN401
    """Check that a pyramid can be made of an array; if not, say what to make of the source that it was taken from."""
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if len(shape) not in (len(_AXES), _DIMENSIONS):
        message = f"expected an array (x, y, z) or (x, y, z, channel), got shape {shape}"
        if shape:
            wanted = (*shape, 1, 1)[:3] if len(shape) < len(_AXES) else (*shape[:3], math.prod(shape[3:]))
            message += f": pass {_spelt(source, 'reshape')}.reshape{wanted}"
        raise ValueError(message)
    if any(map(math.isnan, shape)):
        message = f"expected an array of known shape, got {shape}: call array.compute_chunk_sizes() first"
        raise ValueError(message)
    if dtype != np.bool_ and dtype.name not in ENCODINGS["raw"].data_types:
        message = f"{_STORED_TYPES}, got {dtype}"
        if dtype.kind in _STORABLE:
            message += f": pass {_STORABLE[dtype.kind].format(array=_spelt(source, 'astype'))}"
        raise TypeError(message)


def _info_for(
    array: Any,  # noqa: ANN401 - an array, or what can be sliced like one
    *,
    resolution: tuple[Any, Any, Any],
    voxel_offset: Triple,
    chunk_size: Triple,
    encoding: str,
    type: str | None,  # noqa: A002
    sharding: bool | Mapping[str, Any],
    scales: int | None,
    parameters: Mapping[str, Any],
) -> "Info":
    """Plan a pyramid for an array that `_check_voxels` has checked."""
    shape = tuple(array.shape)
    if scales is not None and scales < 1:
        message = f"scales: expected at least 1, got {scales}"
        raise ValueError(message)
    dtype = np.dtype(np.uint8 if array.dtype == np.bool_ else array.dtype)
    planned: list[dict[str, Any]] = []
    bounds = Box(voxel_offset, _triple(map(operator.add, voxel_offset, shape[:3])))
    while True:
        scale = {
            "key": "_".join(f"{step:.10g}" for step in resolution),
            "size": list(bounds.shape),
            "resolution": list(resolution),
            "voxel_offset": list(bounds.start),
            "chunk_sizes": [list(chunk_size)],
            "encoding": encoding,
            **parameters,
        }
        if sharding is True:
            grid = ChunkGrid(bounds.shape, chunk_size, bounds.start)
            chunk_bytes = math.prod(chunk_size) * math.prod(shape[3:]) * dtype.itemsize
            row = ENCODINGS.get(encoding.lower())
            data_encoding = "raw" if row and row.mime_type in INCOMPRESSIBLE_MIME_TYPES else "gzip"
            proposed = propose_sharding(grid.shape, chunk_bytes=chunk_bytes, data_encoding=data_encoding)
            scale["sharding"] = proposed.to_info()
        elif sharding:
            scale["sharding"] = dict(sharding)
        planned.append(scale)
        halvable = _halvable(bounds)
        factors = factors_for(halvable, resolution)
        is_small = all(
            size <= chunk or count == 1 for size, chunk, count in zip(bounds.shape, chunk_size, halvable, strict=True)
        )
        if len(planned) == scales or max(factors) == 1 or (scales is None and is_small):
            break
        x, y, z = map(operator.mul, resolution, factors)
        resolution = x, y, z
        bounds = _halved(bounds, factors)
    return _parse(
        {
            "@type": "neuroglancer_multiscale_volume",
            "type": _type_for(array, encoding) if type is None else type,
            "data_type": dtype.name,
            "num_channels": math.prod(shape[3:]),
            "scales": planned,
        }
    )


def _type_for(array: Any, encoding: str) -> str:  # noqa: ANN401
    """Choose whether an array is an image or a segmentation, as a mask is."""
    row, dtype = ENCODINGS.get(encoding.lower()), np.dtype(array.dtype)
    if row is not None and row.layer_type != "image":
        return row.layer_type
    if isinstance(array, ScaleArray) and (known := array._scale.volume.info.type) in _TYPES:  # noqa: SLF001 - of this module
        return known
    is_mask = dtype == np.bool_
    return "segmentation" if is_mask or (dtype.kind in "iu" and dtype.itemsize >= _LABEL_BYTES) else "image"


def _may_be_labels(array: Any, info: "Info") -> bool:  # noqa: ANN401
    """Whether an array that was taken for an image may be labels: a channel of integers, whose type nobody chose."""
    is_known = isinstance(array, ScaleArray)
    return info.type == "image" and info.num_channels == 1 and np.dtype(info.data_type).kind in "iu" and not is_known


class _Values:
    """What tells labels from an image of 8 or 16 bits: how many values there are, and how neighbours differ."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._found: NDArray[Any] = np.empty(0, dtype)
        self._neighbours = np.zeros((2, 2, 1 << 8 * dtype.itemsize), np.int64)
        """Along x and y, for each value: how many neighbours that are not 0, and how many equal ones."""

    def add(self, block: NDArray[Any]) -> None:
        """Look at the values of all voxels, until they are too many, and at the neighbours in some planes."""
        for plane in np.moveaxis(block, 2, 0):
            if len(self._found) > _MOST_LABELS:
                break
            self._found = np.union1d(self._found, plane)
        planes = block[:, :, :: max(1, block.shape[2] // _PLANES_OF_BLOCK), 0].view(f"u{block.itemsize}")
        count = self._neighbours.shape[2]
        for axis, along in enumerate((planes, planes.swapaxes(0, 1))):
            first, second = along[:-1], along[1:]
            for which, chosen in enumerate((second != 0, second == first)):
                self._neighbours[axis, which] += np.bincount(first[chosen], minlength=count)

    def likeness_to_labels(self, of: int) -> str:
        """Say what that many voxels have in common with labels; nothing, if they are an image."""
        if 1 < len(self._found) <= min(_MOST_LABELS, of // _VOXELS_PER_LABEL):
            return f"have only {len(self._found)} distinct values, as labels have"
        most_frequent = 1 + int(self._neighbours[0, 1, 1:].argmax())  # may be padding, or saturated
        some, equal = np.delete(self._neighbours, [0, most_frequent], axis=2).sum(axis=2).T
        if (some >= _LEAST_NEIGHBOURS).all() and (equal >= _EQUAL_NEIGHBOURS * some).all():
            return "mostly equal their neighbours, as labels do"
        return ""


def _halvable(bounds: Box) -> Triple:
    """Count voxels along each axis; the two beside 0 as one, as a box with both has two of them in all lower scales."""
    return _triple(high - low - (low < 0 < high) for low, high in zip(bounds.start, bounds.stop, strict=True))


def _halved(bounds: Box, factors: Triple) -> Box:
    start = _triple(low // factor for low, factor in zip(bounds.start, factors, strict=True))
    stop = _triple(-(-high // factor) for high, factor in zip(bounds.stop, factors, strict=True))
    return Box(start, stop)


def _to_write(info: "Info") -> "Info":
    """Make an `info` such as every reader accepts: only an encoding's own keys, offsets written out."""
    if info.type not in _TYPES:
        message = f"info: type: expected {' or '.join(_TYPES)}, got {shown(info.type)}"
        raise InvalidInfoError(message)
    if info.data_type not in ENCODINGS["raw"].data_types:  # no other reader, or only cloud-volume, has it
        message = f"info: data_type: {_STORED_TYPES}, got {info.data_type}"
        raise InvalidInfoError(message)
    given = info.to_dict()
    own = {parameter.key for row in ENCODINGS.values() for parameter in row.parameters}
    scales = []
    for i, scale in enumerate(info.scales):
        row = ENCODINGS.get(scale.encoding)
        parameters = {**(row.defaults if row else {}), **scale.parameters}
        codec = codec_for(scale.encoding, info.data_type, info.num_channels, parameters, f"scales[{i}]")
        codec.check()
        kept = {key: value for key, value in given["scales"][i].items() if key not in own}
        if kept.get("sharding", ...) is None:
            del kept["sharding"]
        scales.append({**kept, "voxel_offset": list(scale.voxel_offset), **codec.info_parameters()})
    return _parse({"@type": "neuroglancer_multiscale_volume", **given, "type": info.type, "scales": scales})


def _parse(given: Mapping[str, Any], where: str = "info", most: int = MAX_INFO_BYTES) -> "Info":
    """Read all that an `info` says; the first time imports what it takes."""
    from precomputed_fs.format.models import Info  # noqa: PLC0415 - brings pydantic, which takes longer than NumPy

    return Info.parse(given, where, most)


def _parameter_names(encoding: str) -> set[str]:
    row = ENCODINGS.get(encoding.lower())
    return {parameter.key for parameter in row.parameters} if row else set()


def _factors_between(finer: Scale, coarser: Scale) -> Triple:
    """Return by how much each axis is coarser than in the scale before."""
    for factors in itertools.product((1, 2), repeat=len(_AXES)):
        if _halved(finer.bounds, _triple(factors)) == coarser.bounds and all(
            math.isclose(coarse, fine * factor, rel_tol=1e-6)
            for coarse, fine, factor in zip(coarser.resolution, finer.resolution, factors, strict=True)
        ):
            return _triple(factors)
    message = (
        f"scale {coarser.key} ({coarser.bounds}) is not scale {finer.key} ({finer.bounds}) halved along some axes: "
        "write it yourself"
    )
    raise ValueError(message)


def _blocks(scale: Scale, factors: Triple) -> ChunkGrid:
    """Cut a scale into boxes of whole chunks, whose finer voxels are bounded in bytes."""
    block = list(scale.chunk_size)
    voxel_bytes = math.prod(factors) * scale.shape[3] * scale.dtype.itemsize
    for axis in itertools.cycle(range(len(_AXES))):
        if math.prod(block) * voxel_bytes * 2 > _BLOCK_BYTES:
            break
        if all(size <= length for size, length in zip(scale.info.size, block, strict=True)):
            break
        block[axis] *= 2
    return ChunkGrid(scale.info.size, _triple(block), scale.voxel_offset)


def _block_of(finer: Scale, box: Box, factors: Triple) -> NDArray[Any]:
    """Read what a box of the next lower scale is computed from."""
    start = _triple(map(operator.mul, box.start, factors))
    stop = _triple(map(operator.mul, box.stop, factors))
    selection = _select(Box(start, stop) & finer.bounds, finer.shape, finer.bounds)
    # What is absent may have been left out as empty, even all of it.
    voxels: NDArray[Any] = finer.read_selection(selection, missing="zeros", progress=False, warns=False)
    before = [(max(0, low - first), 0) for low, first in zip(finer.bounds.start, start, strict=True)]
    # Of the first voxel of a volume that begins at an odd place, half is outside.
    return np.pad(voxels, [*before, (0, 0)], mode="edge") if any(count for count, _ in before) else voxels


def _checked_method(method: str | None, info: "Info") -> str:
    if method is None:
        return "mode" if info.type == "segmentation" else "average"
    if method not in METHODS:
        message = f"downsampling: expected one of {', '.join(METHODS)}, got {method!r}"
        raise ValueError(message)
    return method


def _checked_missing(missing: str) -> str:
    if missing not in _MISSING:
        message = f"missing: expected one of {', '.join(_MISSING)}, got {missing!r}"
        raise ValueError(message)
    return missing


def _triple(values: Iterable[int]) -> Triple:
    x, y, z = values
    return x, y, z


def _triple_of(name: str, values: Iterable[Any]) -> tuple[Any, Any, Any]:
    """Check an argument of three numbers; NumPy's become Python's."""
    given = [value.item() if isinstance(value, np.generic) else value for value in values]
    if len(given) != len(_AXES) or not all(isinstance(value, (int, float)) for value in given):
        message = f"{name}: expected 3 numbers, xyz, got {given}"
        raise ValueError(message)
    x, y, z = given
    return x, y, z


# ---------------------------------------------------------------------------------- redirects


def _redirected(origin: Location, target: str, anon: bool | None) -> Location:
    """Find where an `info` redirects to, and how to ask there: credentials stay where they are meant for.

    Another host, bucket or protocol is asked without any. Options go along that are nested under its protocol, which
    are for all of that; but not to a server that the redirect itself names. `anon` is as the user has it.
    """
    if "://" not in target and not target.startswith("/"):
        message = f"{origin.display()} redirects to {target.partition('?')[0]!r}, which is no whole URL"
        raise URLError(message)
    there = resolve(target, storage_options=origin.given, anon=origin.anon)
    if len(origin.links) > 1 or len(there.links) > 1 or origin.fs is not None:
        message = f"{origin.display()} redirects to {there.display()}: open that"
        raise URLError(message)
    if origin.protocol.is_remote and not there.protocol.is_remote:
        message = (
            f"{origin.display()} redirects to {there.display()}, which is no remote place: open that, if you mean it"
        )
        raise URLError(message)
    if origin.server == there.server:
        return there
    if not there.protocol.is_asynchronous and there.links[0].protocol not in ("file", "memory"):
        message = (
            f"{origin.display()} redirects to {there.display()}, which may send your keys: open that, if you mean it"
        )
        raise URLError(message)
    nested = {name: value for name, value in origin.given.items() if name in PROTOCOLS and isinstance(value, Mapping)}
    anonymous = dataclasses.replace(resolve(target, anon=True), given=nested)
    _, bucket, *_ = anonymous.server
    names_server = not there.protocol.anonymous or "@" in bucket or "endpoint_url" in anonymous.links[0].options
    if names_server or not any(PROTOCOLS[name] is there.protocol for name in nested):
        return anonymous
    return resolve(target, storage_options=nested, anon=anon)


# ----------------------------------------------------------------------------------- progress


class Progress:
    """A progress bar that appears once something lasts; a callback as batches take it.

    Parameters
    ----------
    title : str
        What is being done.
    total : int
        How many of `unit` there are.
    shows : bool, optional
        Whether it is shown at once, or never; by default if it lasts, in a notebook or on a terminal.
    unit : str
        What is counted.
    """

    def __init__(self, title: str, total: int, shows: bool | None, unit: str = "chunk") -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._done = 0
        self._shows = _can_show() if shows is None else shows
        self._stays = bool(shows)
        self._due = time.monotonic() + (_PATIENCE if shows is None else 0)
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def relative_update(self, count: int, note: str = "") -> None:
        """Count what is done; the note is shown behind the rest."""
        self._done += count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._shows and time.monotonic() >= self._due and self._done < self._total:
            self._bar = _tqdm()(
                total=self._total, desc=self._title, unit=self._unit, initial=self._done, leave=self._stays
            )


def _can_show() -> bool:
    return _in_notebook() or getattr(sys.stderr, "isatty", lambda: False)()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _tqdm() -> Any:  # noqa: ANN401 - tqdm ships no types
    if _in_notebook() and importlib.util.find_spec("ipywidgets"):  # tqdm's widget warns without
        import tqdm.notebook  # noqa: PLC0415

        return tqdm.notebook.tqdm
    import tqdm.std  # noqa: PLC0415

    return tqdm.std.tqdm


def _stack_level() -> int:
    """Return the `stacklevel` of a warning at the first caller outside of this package."""
    package = __name__.rpartition(".")[0]
    frame, level = sys._getframe(1), 1  # noqa: SLF001 - the one way to ask for it
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame, level = frame.f_back, level + 1
    return level
