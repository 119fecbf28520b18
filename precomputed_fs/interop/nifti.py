"""Scales as NIfTI images: `Scale.to_nifti`."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import AccessDeniedError, NotFoundError
from precomputed_fs.volume import Scale, Volume
from precomputed_fs.volume.indexing import DIMENSIONS, Index, select
from precomputed_fs.volume.placement import FILE, MEMBER, SPACES, Placement
from precomputed_fs.volume.progress import warn

_MOST_OF_NIFTI1 = (1 << 15) - 1  # voxels along an axis
_COLOURS = {3: "RGB", 4: "RGBA"}


def to_nifti(scale: Scale, box: Index | None, *, missing: str | None, progress: bool | None) -> Any:  # noqa: ANN401
    """Make a NIfTI image: see `Scale.to_nifti`."""
    try:
        import nibabel  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise ImportError("NIfTI needs nibabel: pip install 'precomputed-fs[nifti]'", name="nibabel") from exc
    selection = select(... if box is None else box, scale.shape, scale.bounds)
    selection.check_inside(scale.bounds, scale.shown)
    if selection.has_steps:
        raise ValueError("an image holds all voxels of a box: steps are not possible, but a lower scale is")
    if 0 in selection.shape:
        raise ValueError(f"expected a box with voxels, got {' x '.join(map(str, selection.shape[:3]))}")
    placement = _placement_of(scale.volume)
    whole = dataclasses.replace(selection, final=(slice(None),) * DIMENSIONS)  # keeps axes indexed by an integer
    voxels = scale.read_selection(whole, missing=missing, progress=progress)
    voxels = _without_channels(voxels, is_rgb=placement.is_rgb)
    kind: Any = nibabel.Nifti1Image if max(voxels.shape) <= _MOST_OF_NIFTI1 else nibabel.Nifti2Image
    affine = placement.affine_of(scale.resolution, [along.start for along in selection.ranges])
    image = kind(voxels, affine, dtype=voxels.dtype)
    _describe(image.header, affine, placement, is_segmentation=scale.volume.info.type == "segmentation")
    return image


def _without_channels(voxels: NDArray[Any], *, is_rgb: bool) -> NDArray[Any]:
    """Return the voxels as NIfTI has them: without an axis of a single channel, and with colours as one value."""
    channels = voxels.shape[3]
    if channels == 1:
        return voxels[..., 0]
    if not is_rgb or voxels.dtype != np.uint8 or channels not in _COLOURS:
        return voxels
    colours = np.dtype([(name, "u1") for name in _COLOURS[channels]])
    return np.ascontiguousarray(voxels).view(colours)[..., 0]


def _placement_of(volume: Volume) -> Placement:
    """Read where the voxels are: from `info`, or else from the file that neuroglancer-scripts writes."""
    pyramid = volume.pyramid
    if MEMBER in volume.info:
        return Placement.parse(volume.info[MEMBER], pyramid.location.display("info"))
    try:
        return Placement.of_transform(pyramid.fetch_file(FILE), pyramid.location.display(FILE))
    except NotFoundError:
        pass
    except AccessDeniedError as exc:  # which S3 answers for absent files to those who may not list
        warn(f"{exc}; the image is made as if there were none")
    return Placement.of_resolution(volume[0].resolution)


def _describe(header: Any, affine: NDArray[np.float64], placement: Placement, *, is_segmentation: bool) -> None:  # noqa: ANN401
    code = SPACES.index(placement.space) or SPACES.index("aligned")  # with 0, programs would ignore the affine
    header.set_sform(affine, code)
    header.set_qform(affine, code, strip_shears=True)
    if not np.allclose(header.get_qform(), affine, rtol=1e-4, atol=1e-4 * np.abs(affine[:3, :3]).max()):
        header.set_qform(None, 0)  # it cannot express shears
    header.set_xyzt_units("mm")
    if placement.time_step is not None and len(header.get_data_shape()) == DIMENSIONS:
        step, unit = placement.time_step
        header.set_zooms((*header.get_zooms()[:3], step))
        header.set_xyzt_units("mm", unit)
    if is_segmentation:
        header.set_intent("label")
