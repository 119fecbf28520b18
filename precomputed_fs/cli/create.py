"""``precomputed-fs create``: make a pyramid from an image."""

import argparse
from collections.abc import Sequence
from typing import TypeVar

from precomputed_fs import create_volume
from precomputed_fs.cli.options import accessor_options, add_reading_options, add_sides
from precomputed_fs.cli.parser import completing_files
from precomputed_fs.cli.storing import add_storing_options, encoding_parameters, writing_options
from precomputed_fs.store.location import resolve
from precomputed_fs.volume.downsampling import METHODS
from precomputed_fs.volume.labels import TYPES

EXAMPLES = """\
precomputed-fs create brain.nii.gz s3://bucket/brain
precomputed-fs create labels.npy labels --axes zyx --resolution 8nm --type segmentation
precomputed-fs create brain.nii.gz brain --encoding jpeg --parameter jpeg_quality=90 --chunk-size 128 --sharding auto
"""
HELP = "make a pyramid, with all lower scales, from a NIfTI file, a .npy file or an OME-Zarr image"

_T = TypeVar("_T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    file = "the file, compressed or not, or an image whose name ends in .zarr: a path, or any fsspec URL"
    completing_files(parser.add_argument("source", metavar="SOURCE", help=file))
    completing_files(parser.add_argument("destination", metavar="DESTINATION", help="where to make the pyramid"))
    add_reading_options(parser)
    add_sides(parser)
    parser.add_argument(
        "--resolution",
        type=_length,
        nargs="+",
        metavar="LENGTH",
        help="the size of a voxel: nanometres, or texts such as 1mm; one for all axes, or three, xyz (default: as the "
        "NIfTI header says)",
    )
    parser.add_argument(
        "--voxel-offset", type=int, nargs=3, metavar=("X", "Y", "Z"), help="coordinates of the first voxel (default: 0)"
    )
    parser.add_argument(
        "--axes", metavar="AXES", help="the axes of a .npy file in their order, such as zyx or czyx (default: xyzc)"
    )
    parser.add_argument(
        "--type", choices=TYPES, help="(default: segmentation for integers of 32 bits or more, else image)"
    )
    parser.add_argument(
        "--chunk-size",
        type=int,
        nargs="+",
        metavar="VOXELS",
        help="one number for all axes, or three, xyz (default: 64, or less for many channels)",
    )
    parser.add_argument("--scales", type=int, metavar="N", help="(default: as many as halving makes)")
    parser.add_argument(
        "--downsampling",
        choices=METHODS,
        help="how a lower scale is computed (default: the average of images, the most frequent label of segmentations)",
    )
    parser.add_argument("--skip-empty", action="store_true", help="leave out chunks of zeros")
    parser.add_argument("--overwrite", action="store_true", help="replace a pyramid that is there")
    add_storing_options(
        parser, encoding="raw", sharding="none", gzip="in buckets and shards, where readers are told of it"
    )


def run(args: argparse.Namespace) -> None:
    """Make the pyramid."""
    reading = accessor_options(args, "source")
    source = resolve(args.source, storage_options=reading.get("storage_options"), anon=reading.get("anon"))
    parameters = encoding_parameters(args)
    try:
        create_volume(
            args.destination,
            source,
            resolution=_one_or_all(args.resolution),
            voxel_offset=args.voxel_offset,
            axes=args.axes,
            type=args.type,
            chunk_size=_one_or_all(args.chunk_size),
            encoding=args.encoding,
            sharding=args.sharding,
            scales=args.scales,
            downsampling=args.downsampling,
            skip_empty=args.skip_empty,
            overwrite=args.overwrite,
            gzip=args.gzip,
            **accessor_options(args, "destination"),
            **writing_options(args),
            **parameters,
        )
    except TypeError as exc:  # an option that this file needs, or does not take; or the type of its voxels
        raise ValueError(str(exc)) from exc


def _length(text: str) -> float | str:
    """Read a number of nanometres; whether another text is a length, `create_volume` finds out."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _one_or_all(values: Sequence[_T] | None) -> _T | Sequence[_T] | None:
    return values[0] if values is not None and len(values) == 1 else values
