"""``precomputed-fs downsample``: compute the lower scales of a pyramid."""

import argparse

from precomputed_fs.cli.options import add_box, add_url, open_url
from precomputed_fs.volume.downsampling import METHODS

EXAMPLES = """\
precomputed-fs downsample brain
precomputed-fs downsample s3://bucket/brain --box :,:,100:120
"""
HELP = "compute each scale of a pyramid but the finest from the one before"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    add_box(parser, "compute only what this region is a part of")
    parser.add_argument(
        "--method",
        choices=[*METHODS],
        help="how some voxels become one (default: average, or for a segmentation mode, the most frequent label)",
    )
    parser.add_argument("--skip-empty", action="store_true", help="store no chunks of zeros")


def run(args: argparse.Namespace) -> None:
    """Compute and store the scales."""
    with open_url(args) as volume:
        volume.downsample(args.method, box=args.box, skip_empty=args.skip_empty)
