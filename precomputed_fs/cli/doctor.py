"""``precomputed-fs doctor``: find out which readers can open a pyramid."""

import argparse

from precomputed_fs import doctor
from precomputed_fs.cli.options import accessor_options, add_url
from precomputed_fs.cli.output import print_json
from precomputed_fs.doctor import SAMPLES
from precomputed_fs.doctor.checks import READERS

CANNOT_OPEN = 6
"""Exit code: a reader cannot open the pyramid."""

EXAMPLES = """\
precomputed-fs doctor s3://bucket/brain
precomputed-fs doctor s3://bucket/brain --reader neuroglancer --reader tensorstore
precomputed-fs doctor gs://bucket/annotations --reader neuroglancer
"""
HELP = "find out which readers can open a pyramid, and why the others cannot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--reader", action="append", choices=READERS, help="report on this reader only; may be repeated (default: all)"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"chunks of each scale (default {SAMPLES})")
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="SECONDS", help="report what is known then (default 60)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; return `CANNOT_OPEN` if a reader that was asked about cannot open the pyramid."""
    report = doctor(args.url, samples=args.samples, time_limit=args.time_limit, **accessor_options(args))
    report = report.only(args.reader) if args.reader else report
    if args.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0 if report.ok else CANNOT_OPEN
