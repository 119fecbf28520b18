"""The command line, ``precomputed-fs``: make a pyramid, inspect it, show it, and copy it.

Results go to stdout; everything else goes to stderr: one line for an error, and a progress bar for what takes long, if
stderr is a terminal.
"""

import argparse
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import precomputed_fs
from precomputed_fs.cli import (
    cat,
    copy,
    create,
    doctor,
    downsample,
    export,
    info,
    ls,
    ngs,
    serve,
    slice,  # noqa: A004 - a command of that name
)
from precomputed_fs.cli.output import PROGRAM, say
from precomputed_fs.cli.parser import SHELLS, Parser, PrintCompletion
from precomputed_fs.errors import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    OptionError,
    URLError,
)

_COMMANDS: Mapping[str, ModuleType] = {
    "info": info,
    "ls": ls,
    "cat": cat,
    "slice": slice,
    "serve": serve,
    "create": create,
    "copy": copy,
    "downsample": downsample,
    "export": export,
    "doctor": doctor,
    "ngs": ngs,
}
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # 128 and the signal's number, as in shells
_EXIT_CODES: Mapping[type[Exception], int] = {  # the first that fits
    NotFoundError: 3,
    AccessDeniedError: 4,
    CorruptDataError: 5,
    InvalidInfoError: 5,
    OptionError: 2,
    DataAccessError: 1,
    URLError: 2,
    ValueError: 2,
    IndexError: 2,
    ImportError: 1,
    MemoryError: 1,
    OSError: 1,
}
_EPILOG = f"""\
exit codes:
  0    done
  1    failed: the store cannot be reached, or any other failure
  2    wrong usage: options, a URL that cannot be opened, coordinates outside of the volume
  3    not there: the store, or `info`, says so
  4    access denied
  5    the data, or `info`, is damaged
  {doctor.CANNOT_OPEN}    doctor: a reader that was asked about cannot open the pyramid, or not all of it
  {_INTERRUPTED}  interrupted
  {_BROKEN_PIPE}  the reader of the output has gone
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    if sys.stderr is None:  # argparse would print usage to stdout instead, into the data
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the end
    try:
        return _exit_code(argv)
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            _discard_unwritable(stream)


def _exit_code(argv: Sequence[str] | None) -> int:
    if sys.stdout is None:
        say("error: stdout is closed")
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # there are terminals that know no µ
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = _run(argv)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return _INTERRUPTED
        except BrokenPipeError:
            return _BROKEN_PIPE
        except tuple(_EXIT_CODES) as exc:
            say(f"error: {_in_options(str(exc))}")
            return next(code for kind, code in _EXIT_CODES.items() if isinstance(exc, kind))
    return code


def _in_options(message: str) -> str:
    """Name keywords of functions as the options that they are here."""
    return message.replace("overwrite=True", "--overwrite")


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse(argv)
    except SystemExit as exc:  # argparse has printed help, the version, or what is wrong
        return int(exc.code or 0)
    return args.command(args) or 0


def _discard_unwritable(stream: TextIO) -> None:
    """Discard what a stream cannot write: the interpreter flushes it again at exit, and would exit with 120."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:  # noqa: ANN401 - as `warnings` calls it
    say(f"warning: {message}")


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Make, inspect and copy Neuroglancer precomputed pyramids, wherever fsspec reaches.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {precomputed_fs.__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="print a script that completes commands and options, and exit",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        text: str = module.HELP
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog="examples:\n" + textwrap.indent(module.EXAMPLES, "  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=module.run, parser=command)
        module.add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
