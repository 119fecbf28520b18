"""``precomputed-fs serve``: show a pyramid, or annotations, in Neuroglancer until interrupted."""

import argparse
import threading

from precomputed_fs.cli.options import accessor_options, add_url
from precomputed_fs.cli.output import say

EXAMPLES = """\
precomputed-fs serve s3://bucket/brain
precomputed-fs serve brain --port 8899
precomputed-fs serve gs://bucket/annotations
ssh -L 8899:127.0.0.1:8899 machine  # where the browser is, to see what `machine` serves
"""
HELP = "show a pyramid, or annotations, in the Neuroglancer web client, until interrupted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1 (default: any free port)")
    parser.add_argument("--follow-links", action="store_true", help="follow symbolic links out of the pyramid")


def run(args: argparse.Namespace) -> None:
    """Serve the pyramid, and print where."""
    from precomputed_fs.view.server import serve  # noqa: PLC0415 - only this command needs a server

    with serve(args.url, port=args.port, follow_links=args.follow_links, **accessor_options(args)) as server:
        try:
            print(server.view().url, flush=True)
            say("open this in a browser on this machine")
        except ImportError as exc:  # the client is optional
            say(f"no view: {exc}")
        print(server.url, flush=True)
        say(f"the source of a Neuroglancer layer is {server.source}; Ctrl-C ends the server")
        threading.Event().wait()  # for Ctrl-C
