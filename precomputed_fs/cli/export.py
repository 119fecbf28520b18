"""``precomputed-fs export``: write a pyramid as OME-Zarr."""

import argparse

from precomputed_fs.cli.options import accessor_options, add_reading_options, add_sides
from precomputed_fs.cli.parser import completing_files
from precomputed_fs.volume import open_volume

EXAMPLES = """\
precomputed-fs export s3://bucket/brain brain.zarr
"""
HELP = "write a pyramid, with all its scales, as an OME-Zarr image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    completing_files(parser.add_argument("url", metavar="URL", help="the pyramid: a path, or any fsspec URL"))
    completing_files(parser.add_argument("destination", metavar="DESTINATION", help="where to write the image"))
    add_reading_options(parser)
    add_sides(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an image that is there")


def run(args: argparse.Namespace) -> None:
    """Write the image."""
    storage_options = accessor_options(args, "destination").get("storage_options")
    with open_volume(args.url, **accessor_options(args, "source")) as volume:
        volume.export_zarr(args.destination, storage_options=storage_options, overwrite=args.overwrite)
