"""``precomputed-fs slice``: make a picture of a slice, or a NIfTI file of one or of a whole scale."""

import argparse
import sys
from pathlib import Path

from precomputed_fs.cli.options import SCALE, accessor_options, add_box, add_url, find_scale, open_url
from precomputed_fs.view import pictures
from precomputed_fs.view.overlays import ALPHA
from precomputed_fs.view.text import readable_bytes
from precomputed_fs.volume import Volume, one_line, open_volume

EXAMPLES = """\
precomputed-fs slice s3://bucket/brain --out brain.png
precomputed-fs slice s3://bucket/brain --z 50 --scale 0 --out brain.jpg
precomputed-fs slice s3://bucket/brain --scale 1mm --out brain.nii.gz
precomputed-fs slice s3://bucket/brain --orientation anatomical --overlay s3://bucket/labels --out brain.png
"""
HELP = "make a picture of a slice, or of the three middle slices; or a NIfTI file of a slice or of a whole scale"

_STDOUT = "-"
_OF_PICTURES = ("size", "limits", "orientation", "overlay")  # options
_FORMATS = {"": pictures.to_png, ".png": pictures.to_png, ".jpg": pictures.to_jpeg, ".jpeg": pictures.to_jpeg}
_NIFTI = (".nii", ".nii.gz")
_FULL = "full"
_PICTURE_PIXELS = 512
_MOST_BYTES = 1 << 30  # of a NIfTI file of a scale that nobody has chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument(
        "--out",
        type=_file,
        metavar="FILE",
        required=True,
        help="the file to write: JPEG if the name ends in .jpg or .jpeg, with white where PNG is transparent; NIfTI if "
        "it ends in .nii or .nii.gz, of the slice, or of all voxels of the scale if no coordinate is given; and "
        "otherwise PNG; - for stdout",
    )
    for axis in "xyz":
        text = "where to slice: an absolute coordinate, in voxels of the scale of --scale, or else of the first scale"
        parser.add_argument(f"--{axis}", type=int, metavar="VOXEL", help=text)
    add_box(parser, "of a NIfTI file: write only this region", of="the scale")
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        help=f"read this scale: {SCALE} (default: the one that suits the size; for NIfTI the first)",
    )
    parser.add_argument("--size", type=_size, help=f"pixels of the longer side, or full (default {_PICTURE_PIXELS})")
    parser.add_argument("--channel", type=int, help="show only this channel")
    parser.add_argument(
        "--limits", type=float, nargs=2, metavar=("LOW", "HIGH"), help="values that are shown as black and white"
    )
    parser.add_argument(
        "--orientation",
        metavar="HOW",
        help="neuroglancer (default); anatomical for an upright body; or where x, y and z point, such as LPS",
    )
    parser.add_argument("--overlay", metavar="URL", help="a pyramid to lay over it, such as labels, opened likewise")
    parser.add_argument("--alpha", type=float, default=ALPHA, help=f"how opaque that is, from 0 to 1 (default {ALPHA})")


def run(args: argparse.Namespace) -> None:
    """Write the picture to a file or to stdout, or the NIfTI file."""
    volume = open_url(args)
    if args.out.lower().endswith(_NIFTI):
        _write_nifti(volume, args)
        return
    if args.box is not None:
        raise ValueError("--box is for NIfTI files: a picture is of a slice, --x, --y or --z")
    source = volume if args.scale is None else find_scale(volume, args.scale)
    point = (args.x, args.y, args.z)
    limits = tuple(args.limits) if args.limits else None
    size = {None: _PICTURE_PIXELS, _FULL: None}.get(args.size, args.size)
    make_file = _FORMATS[Path(args.out).suffix.lower()]
    pixels = pictures.picture(
        source,
        point,
        size=size,
        channel=args.channel,
        limits=limits,
        orientation=args.orientation,
        overlay=None if args.overlay is None else open_volume(args.overlay, **accessor_options(args)),
        alpha=args.alpha,
    )
    data = make_file(pixels)
    if args.out == _STDOUT:
        sys.stdout.buffer.write(data)
    else:
        Path(args.out).write_bytes(data)


def _write_nifti(volume: Volume, args: argparse.Namespace) -> None:
    """Write the voxels of a scale as they are: a slice, where several coordinates meet, or all of them."""
    given = [name for name in _OF_PICTURES if getattr(args, name) is not None]
    if given:
        raise ValueError(f"--{given[0]} is for pictures: --scale chooses the voxels of a NIfTI file")
    scale = volume[0] if args.scale is None else find_scale(volume, args.scale)
    point, whole = (args.x, args.y, args.z), (slice(None),) * 3
    if args.box is not None and point != (None, None, None):
        raise ValueError("--box already says where: leave --x, --y and --z out")
    axes = args.box or tuple(slice(None) if at is None else slice(at, at + 1) for at in point)
    channels = slice(None) if args.channel is None else args.channel
    if args.scale is None and axes == whole and scale.nbytes > _MOST_BYTES:
        smaller = ", ".join(f"{one_line(other.key)} ({readable_bytes(other.nbytes)})" for other in volume)
        raise ValueError(
            f"{volume.url}: choose how much to write with --scale, of {smaller}; or with --box, --x, --y, --z"
        )
    image = scale.to_nifti((*axes, channels))
    image.to_filename(args.out)


def _file(name: str) -> str:
    if Path(name).suffix.lower() not in _FORMATS and not name.lower().endswith(_NIFTI):
        raise argparse.ArgumentTypeError(
            f"expected a name that ends in {', '.join(filter(None, [*_FORMATS, *_NIFTI]))}"
        )
    return name


def _size(text: str) -> int | str:
    if text != _FULL and not text.isdecimal():
        raise argparse.ArgumentTypeError("expected a number of pixels, or full")
    return text if text == _FULL else int(text)
