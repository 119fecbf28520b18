"""Images of NIfTI and nibabel as sources: their voxels, scaled as the header says, and where these are in space."""

import contextlib
import dataclasses
import functools
import io
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.lengths import nanometres
from precomputed_fs.volume.lazy import Converted
from precomputed_fs.volume.placement import SPACES, Placement

_COMPRESSED = (".gz", ".bz2", ".zst", ".mgz")  # what nibabel decompresses from the start for each part
_MILLIMETRES = {"unknown": "mm", "mm": "mm", "meter": "m", "micron": "um"}
"""Units of headers; every program takes an unknown one for millimetres."""

_HEADER_BYTES = 352
_KINDS = ((344, b"n+1\0", "Nifti1Image"), (4, b"n+2\0", "Nifti2Image"))
_PAIRS = ((344, b"ni1\0"), (4, b"ni2\0"))
_MAX_AXES = 4
_SAME_LENGTH = 1e-4  # relative difference of the voxel sizes of affine and header, which has rounded ones


@dataclass(frozen=True, slots=True)
class Image:
    """An image as a source of voxels."""

    voxels: Any
    """An array, or a lazy one: (x, y, z), or (x, y, z, channel)."""

    placement: Placement | None
    """Where the voxels are; None if the header does not say it."""

    is_of_labels: bool
    """Whether the header says that the values are labels."""


def is_image(source: object) -> bool:
    """Whether a source is an image of nibabel; does not import nibabel."""
    return hasattr(source, "dataobj") and hasattr(source, "header")


def read_image(image: Any) -> Image:  # noqa: ANN401 - of nibabel
    """Read the header of an image of nibabel."""
    return _described(image, _arranged(voxels_of(image.dataobj)))


def read_nifti(file: IO[bytes], where: str) -> Image:
    """Read the header of a NIfTI file, and map its voxels into memory; the map outlives the file.

    Raises
    ------
    ImportError
        If nibabel is not installed; the extra "nifti" brings it.
    CorruptDataError
        If it is not NIfTI, or is truncated.
    """
    return read_image(_loaded(file, where))


# ------------------------------------------------------------------------------------------------------------- voxels


def voxels_of(data: Any) -> Any:  # noqa: ANN401 - the ``dataobj`` of an image of nibabel
    """Return the voxels of an image, scaled as the header says, as an array or a lazy one.

    nibabel scales to float64, which the format does not have. These become float32, and so do wide floats in the file.
    """
    if hasattr(data, "get_unscaled") and hasattr(data, "slope"):
        raw, convert = _unscaled(data), functools.partial(_scaled, slope=data.slope, inter=data.inter)
    else:
        raw, convert = np.asanyarray(data), functools.partial(_scaled, slope=1.0, inter=0.0)
    dtype = convert(np.zeros(1, raw.dtype)).dtype
    return raw if dtype == raw.dtype else Converted(raw, raw.shape, dtype, convert)


def _scaled(part: NDArray[Any], *, slope: float, inter: float) -> NDArray[Any]:
    if (slope, inter) != (1, 0) and part.dtype.names is None:  # NIfTI does not scale colours
        from nibabel.volumeutils import apply_read_scaling  # noqa: PLC0415 - optional

        part = apply_read_scaling(part, np.float64(slope), np.float64(inter))  # as nibabel itself does
    is_wide = part.dtype.kind == "f" and part.dtype.itemsize > np.dtype(np.float32).itemsize
    return part.astype(np.float32) if is_wide else part


def _unscaled(data: Any) -> NDArray[Any]:  # noqa: ANN401 - an ArrayProxy of nibabel
    """Map the voxels of a file into memory. A compressed file is first decompressed into a temporary one."""
    file = data.file_like
    if not isinstance(file, (str, os.PathLike)) or not os.fspath(file).lower().endswith(_COMPRESSED):
        return np.asanyarray(data.get_unscaled())
    from nibabel.arrayproxy import ArrayProxy  # noqa: PLC0415 - optional
    from nibabel.openers import ImageOpener  # noqa: PLC0415

    with ImageOpener(os.fspath(file)) as compressed, tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(compressed, spool)
        spool.flush()
        spec = (data.shape, data.dtype, data.offset, data.slope, data.inter)
        return np.asanyarray(ArrayProxy(spool, spec, order=data.order).get_unscaled())


def _arranged(voxels: Any) -> Any:  # noqa: ANN401 - an array, or a lazy one
    """Bring voxels to (x, y, z) or (x, y, z, channel): add axes of length 1, or leave them out.

    Raises
    ------
    ValueError
        If more than one axis after z is longer than 1.
    """
    shape = tuple(voxels.shape)
    channels = [size for size in shape[3:] if size != 1]
    if len(channels) > 1:
        message = f"expected at most {_MAX_AXES} axes, got shape {shape}: pass a part, such as image.slicer[..., 0]"
        raise ValueError(message)
    wanted = (*shape[:3], *[1] * (3 - len(shape)), *channels)
    if wanted == shape:
        return voxels
    if isinstance(voxels, np.ndarray):
        return voxels.reshape(wanted, order="F")
    return Converted(voxels.source.reshape(wanted, order="F"), wanted, voxels.dtype, voxels.convert)


# ------------------------------------------------------------------------------------------------------------- headers


def _described(image: Any, voxels: Any) -> Image:  # noqa: ANN401 - an image of nibabel
    header = image.header
    dtype = np.dtype(voxels.dtype)
    time_step = None
    space = SPACES[0]
    unit = "mm"
    is_of_labels = False
    if hasattr(header, "get_xyzt_units"):  # NIfTI
        name = time_unit = "unknown"
        with contextlib.suppress(KeyError):  # a code that NIfTI does not have
            name, time_unit = header.get_xyzt_units()
        unit = _MILLIMETRES.get(name, "mm")
        zooms = header.get_zooms()
        if len(image.shape) >= _MAX_AXES and image.shape[3] > 1 and zooms[3] > 0:
            time_step = (_shortest(zooms[3]), time_unit)
        space = _space_of(header)
        is_of_labels = header.get_intent()[0] == "label"
    placement = _placement(image, unit)
    if placement is not None:
        placement = dataclasses.replace(placement, space=space, time_step=time_step, is_rgb=bool(dtype.names))
    return Image(voxels, placement, is_of_labels)


def _space_of(header: Any) -> str:  # noqa: ANN401
    """Return the space of the affine that nibabel chooses: that of sform, else of qform."""
    code = int(header["sform_code"]) or int(header["qform_code"])
    return SPACES[code] if 0 <= code < len(SPACES) else SPACES[0]


def _placement(image: Any, unit: str) -> Placement | None:  # noqa: ANN401
    affine = image.affine
    if affine is None and hasattr(image.header, "get_best_affine"):
        affine = image.header.get_best_affine()
    if affine is None:
        return None
    affine = np.array(affine, np.float64)
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        return None
    zooms = [*image.header.get_zooms()[:3], 0, 0, 0]  # an image of two axes has two
    sizes = [
        _shortest(zoom if math.isclose(zoom, length, rel_tol=_SAME_LENGTH) else length)
        for zoom, length in zip(zooms, lengths.tolist(), strict=False)
    ]
    x, y, z = [nanometres(f"{size!r} {unit}") for size in sizes]
    if unit != "mm":
        affine[:3] *= nanometres(f"1 {unit}") / nanometres("1 mm")
    return Placement(affine, (x, y, z))


def _shortest(value: float) -> float:
    """Return the shortest number that rounds to the same 32 bits, which headers have: 0.7 rather than 0.69999998807."""
    return float(str(np.float32(value)))


def _loaded(file: IO[bytes], where: str) -> Any:  # noqa: ANN401 - an image of nibabel
    """Read the header of a NIfTI file, and check that its voxels are all there."""
    try:
        import nibabel  # noqa: PLC0415 - optional
        from nibabel.filebasedimages import ImageFileError  # noqa: PLC0415
        from nibabel.spatialimages import HeaderDataError  # noqa: PLC0415
    except ImportError as exc:
        raise ImportError("NIfTI needs nibabel: pip install 'precomputed-fs[nifti]'", name="nibabel") from exc
    start = file.read(_HEADER_BYTES)
    file.seek(0)
    kind = next((kind for at, magic, kind in _KINDS if start[at:].startswith(magic)), "")
    if not kind:
        pair = next((", but one of a pair" for at, magic in _PAIRS if start[at:].startswith(magic)), "")
        advice = "pass nibabel.load(...) of other kinds of images, and arrays as arrays"
        raise CorruptDataError(f"{where} is not a NIfTI file{pair}: it begins with {start[:8]!r}; {advice}")
    try:
        image = getattr(nibabel, kind).from_stream(file)
        data = image.dataobj
        if not data.shape or min(data.shape) < 1:
            raise ValueError(f"expected axes of at least 1 voxel, got shape {data.shape}")  # noqa: TRY301 - as nibabel's
        there, needed = file.seek(0, io.SEEK_END), data.offset + math.prod(data.shape) * data.dtype.itemsize
    except (ImageFileError, HeaderDataError, ValueError) as exc:
        raise CorruptDataError(f"{where}: the NIfTI header is damaged: {exc}") from exc
    if there < needed:
        raise CorruptDataError(f"{where} is truncated: its header says {needed} bytes, and it has {there}")
    return image
