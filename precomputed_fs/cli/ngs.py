"""``precomputed-fs ngs``: run a tool of neuroglancer-scripts, which reads and writes through this package."""

import argparse
import importlib.metadata

from precomputed_fs.cli.options import accessor_options, add_reading_options
from precomputed_fs.errors import did_you_mean

EXAMPLES = """\
precomputed-fs ngs volume-to-precomputed-pyramid brain.nii.gz s3://bucket/brain
precomputed-fs ngs compute-scales --downscaling-method majority gs://bucket/labels
"""
HELP = "run a tool of neuroglancer-scripts on any URL"
_DISTRIBUTION = "neuroglancer-scripts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_reading_options(parser)
    parser.add_argument("tool", metavar="TOOL", help="such as volume-to-precomputed; its own --help says more")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="the arguments of the tool")


def run(args: argparse.Namespace) -> int:
    """Run a tool, and return its exit code."""
    from precomputed_fs.interop import neuroglancer_scripts  # noqa: PLC0415 - optional, and takes its time

    tools = {
        entry.name: entry
        for entry in importlib.metadata.distribution(_DISTRIBUTION).entry_points
        if entry.group == "console_scripts"
    }
    if args.tool not in tools:
        near = did_you_mean(args.tool, tools)
        raise ValueError(f"{_DISTRIBUTION} has no tool {args.tool!r}{near}; it has {', '.join(sorted(tools))}")
    with neuroglancer_scripts.installed(**accessor_options(args)):
        code: int | None = tools[args.tool].load()([args.tool, *args.arguments])
    return code or 0
