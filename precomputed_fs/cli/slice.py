"""``precomputed-fs slice``: make a picture of a slice."""

import argparse
import sys
from pathlib import Path

from precomputed_fs.cli.options import SCALE, add_url, find_scale, open_url
from precomputed_fs.view import pictures

EXAMPLES = """\
precomputed-fs slice s3://bucket/brain --out brain.png
precomputed-fs slice s3://bucket/brain --z 50 --scale 0 --out brain.jpg
"""
HELP = "make a picture of a slice, or of the three middle slices"

_STDOUT = "-"
_FORMATS = {"": pictures.to_png, ".png": pictures.to_png, ".jpg": pictures.to_jpeg, ".jpeg": pictures.to_jpeg}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument(
        "--out",
        type=_picture,
        metavar="FILE",
        required=True,
        help="the file to write: JPEG if the name ends in .jpg or .jpeg, with white where PNG is transparent, and "
        "otherwise PNG; - for stdout",
    )
    for axis in "xyz":
        text = "where to slice: an absolute coordinate, in voxels of the scale of --scale, or else of the first scale"
        parser.add_argument(f"--{axis}", type=int, metavar="VOXEL", help=text)
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        help=f"read this scale: {SCALE} (default: the one that suits the size)",
    )
    parser.add_argument("--size", type=_size, default=512, help="pixels of the longer side, or full (default 512)")
    parser.add_argument("--channel", type=int, help="show only this channel")
    parser.add_argument(
        "--limits", type=float, nargs=2, metavar=("LOW", "HIGH"), help="values that are shown as black and white"
    )


def run(args: argparse.Namespace) -> None:
    """Write the picture to a file or to stdout."""
    volume = open_url(args)
    source = volume if args.scale is None else find_scale(volume, args.scale)
    point = (args.x, args.y, args.z)
    limits = tuple(args.limits) if args.limits else None
    make_file = _FORMATS[Path(args.out).suffix.lower()]
    data = make_file(pictures.picture(source, point, size=args.size, channel=args.channel, limits=limits))
    if args.out == _STDOUT:
        sys.stdout.buffer.write(data)
    else:
        Path(args.out).write_bytes(data)


def _picture(name: str) -> str:
    if Path(name).suffix.lower() not in _FORMATS:
        raise argparse.ArgumentTypeError(f"expected a name that ends in {', '.join(filter(None, _FORMATS))}")
    return name


def _size(text: str) -> int | None:
    if text != "full" and not text.isdecimal():
        raise argparse.ArgumentTypeError("expected a number of pixels, or full")
    return None if text == "full" else int(text)
