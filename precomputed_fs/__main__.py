"""The command line, ``precomputed-fs``: look at a pyramid, and into it, and copy it.

What was asked for goes to stdout, everything else to stderr: one line for an error, a progress bar if something lasts
and stderr is a terminal.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import precomputed_fs
from precomputed_fs import (
    FsspecAccessor,
    Scale,
    Volume,
    add_argparse_options,
    copy_pyramid,
    get_accessor_for_url,
    open_volume,
)
from precomputed_fs.codecs import ENCODINGS
from precomputed_fs.doctor import SAMPLES
from precomputed_fs.doctor.rules import READERS
from precomputed_fs.errors import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    URLError,
)
from precomputed_fs.format.grid import ChunkCoords, chunk_coords, chunk_name, layout_of
from precomputed_fs.view import pictures
from precomputed_fs.volume import one_line

_PROGRAM = "precomputed-fs"
_STDOUT = "-"
_LIMIT = 1000  # names that are listed
_ACCESSOR_OPTIONS = (
    "anon",
    "storage_options",
    "timeout",
    "attempts",
    "denied_is_missing",
    "max_info_bytes",
    "max_file_bytes",
)
_WRITING_OPTIONS = ("flat", "compresslevel")
_SIDES = ("source", "destination")
_PICTURES = {"": pictures.to_png, ".png": pictures.to_png, ".jpg": pictures.to_jpeg, ".jpeg": pictures.to_jpeg}

_CANNOT_OPEN = 6  # a reader, as `doctor` says
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # 128 and the signal's number, as shells have it
_EXIT_CODES: Mapping[type[Exception], int] = {  # the first that fits counts
    NotFoundError: 3,
    AccessDeniedError: 4,
    CorruptDataError: 5,
    InvalidInfoError: 5,
    DataAccessError: 1,
    URLError: 2,
    ValueError: 2,
    IndexError: 2,
    ImportError: 1,
    MemoryError: 1,
    OSError: 1,
}
_URL = {"url": "where the pyramid is: a path, or any fsspec URL"}
_EPILOG = f"""\
exit codes:
  0    done
  1    failed: the store cannot be reached, or anything that is none of the following
  2    wrong usage: options, a URL that cannot be opened, coordinates outside of the volume
  3    not there: the store, or `info`, says so
  4    access denied
  5    the data, or `info`, is damaged
  {_CANNOT_OPEN}    doctor: a reader that was asked about cannot open it, or not all of it
  {_INTERRUPTED}  interrupted
  {_BROKEN_PIPE}  who reads the output has left
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
        _say("error: stdout is closed")
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
            _say(f"error: {exc}")
            return next(code for kind, code in _EXIT_CODES.items() if isinstance(exc, kind))
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(argv)
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


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # who reads it has left
        print(f"{_PROGRAM}: {one_line(' '.join(message.split()))}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:  # noqa: ANN401 - as `warnings` calls it
    _say(f"warning: {message}")


# --------------------------------------------------------------------------------------------------------- commands


def _info(args: argparse.Namespace) -> None:
    volume = _open(args)
    if args.json:
        _print_json(_summary(volume))
        return
    channels, scales = volume.info.num_channels, len(volume)
    print(one_line(volume.url))
    print(
        f"{one_line(volume.info.type)} of {volume.dtype}, "
        f"{channels} channel{'s' * (channels > 1)}, {scales} scale{'s' * (scales > 1)}"
    )
    rows = [pictures.described(scale) for scale in volume]
    for cells in rows:
        del cells["Layout"]  # no chunk was asked for, so that nothing is known of it
    _print_table([list(rows[0]), *(list(cells.values()) for cells in rows)])


def _summary(volume: Volume) -> dict[str, Any]:
    return {
        "url": volume.url,
        "type": volume.info.type,
        "data_type": volume.info.data_type,
        "num_channels": volume.info.num_channels,
        "scales": [
            {
                "key": scale.key,
                "size": scale.shape[:3],
                "voxel_offset": scale.voxel_offset,
                "resolution": scale.resolution,
                "chunk_size": scale.chunk_size,
                "grid": scale.grid.shape,
                "encoding": scale.encoding,
                "sharded": scale.info.sharding is not None,
                "hidden": scale.info.hidden,
                "bytes": scale.array.nbytes,
            }
            for scale in volume
        ],
    }


def _ls(args: argparse.Namespace) -> None:
    volume = _open(args)
    if args.scale is None:
        names, total = [scale.key for scale in volume], len(volume)
    else:
        scale = _scale(volume, args.scale)
        names, total = list(islice(_chunk_names(scale), max(0, args.limit))), math.prod(scale.grid.shape)
    if args.json:
        _print_json({"names": names, "total": total})
        return
    for name in names:
        print(one_line(name))
    if len(names) < total:
        _say(f"these are the first {len(names)} of {total}; --limit shows more")


def _chunk_names(scale: Scale) -> Iterator[str]:
    """Name the chunks of a scale, whether they are stored or not: only so it is no request for each."""
    grid = scale.grid
    xs, ys, zs = map(range, grid.shape)
    return (chunk_name(grid.chunk((x, y, z))) for z in zs for y in ys for x in xs)


def _cat(args: argparse.Namespace) -> None:
    accessor = get_accessor_for_url(args.url, vars(args))
    key, _, name = args.path.strip("/").rpartition("/")
    data = accessor.fetch_chunk(key, _coords_of(name)) if key and layout_of(name) else accessor.fetch_file(args.path)
    sys.stdout.buffer.write(data)


def _coords_of(name: str) -> ChunkCoords:
    return chunk_coords(int(number) for axis in name.split("_") for number in re.findall(r"(-?\d+)(?:-|$)", axis))


def _slice(args: argparse.Namespace) -> None:
    volume = _open(args)
    source = volume if args.scale is None else _scale(volume, args.scale)
    point = (args.x, args.y, args.z)
    limits = tuple(args.limits) if args.limits else None
    make_file = _PICTURES[Path(args.out).suffix.lower()]
    data = make_file(pictures.picture(source, point, size=args.size, channel=args.channel, limits=limits))
    if args.out == _STDOUT:
        sys.stdout.buffer.write(data)
    else:
        Path(args.out).write_bytes(data)


def _serve(args: argparse.Namespace) -> None:
    from precomputed_fs.view.server import serve  # noqa: PLC0415 - a server that no other command needs

    with serve(args.url, port=args.port, follow_links=args.follow_links, **_accessor_options(args)) as server:
        print(server.url, flush=True)
        with contextlib.suppress(ImportError):  # the client is optional
            _say(f"in a browser on this machine, it is shown at {server.view().url}")
        _say(f"a layer's source in Neuroglancer is {server.source}; Ctrl-C ends it")
        threading.Event().wait()  # for Ctrl-C


def _copy(args: argparse.Namespace) -> None:
    volume = open_volume(args.source, **_accessor_options(args, "source"))
    writing = {name: getattr(args, name) for name in _WRITING_OPTIONS}
    row = ENCODINGS.get((args.encoding or "").lower())
    own = {parameter.key for parameter in row.parameters} if row else set()
    if foreign := sorted(args.parameter.keys() - own):
        raise ValueError(f"--parameter {foreign[0]}: this is of no --encoding that was given")
    with contextlib.ExitStack() as stack:
        client = None if args.dask is None else stack.enter_context(_dask_client(args.dask, args.timeout))
        copy_pyramid(
            volume,
            FsspecAccessor(
                args.destination, **{**_accessor_options(args, "destination"), **writing, "denied_is_missing": False}
            ),
            scales=args.scale,
            encoding=args.encoding,
            chunk_size=args.chunk_size,
            sharding=args.sharding,
            gzip=args.gzip,
            overwrite=args.overwrite,
            verify=args.verify,
            client=client,
            **args.parameter,
        )


def _dask_client(address: str, timeout: float | None) -> Any:  # noqa: ANN401 - dask ships no types
    try:
        from distributed import Client  # noqa: PLC0415 - only where it is asked for
    except ImportError as exc:
        raise ImportError("--dask needs a package that is not installed: pip install distributed") from exc
    return Client(address, timeout=timeout, set_as_default=False)


def _doctor(args: argparse.Namespace) -> int:
    report = precomputed_fs.doctor(
        args.url, samples=args.samples, time_limit=args.time_limit, **_accessor_options(args)
    )
    if args.json:
        _print_json(report.to_dict())
    else:
        print(report)
    asked = args.reader or list(report.verdicts)
    return 0 if all(report[reader].ok for reader in asked) else _CANNOT_OPEN


def _open(args: argparse.Namespace) -> Volume:
    return open_volume(args.url, **_accessor_options(args))


def _accessor_options(args: argparse.Namespace, side: str = "") -> dict[str, Any]:
    """Return the options that were given, for one side of a copy those for both and then its own."""
    options = {name: value for name in _ACCESSOR_OPTIONS if (value := getattr(args, name)) is not None}
    for name in _ACCESSOR_OPTIONS:
        own = getattr(args, f"{side}_{name}", None)
        if own is not None:
            options[name] = {**options.get(name, {}), **own} if isinstance(own, dict) else own
    return options


def _scale(volume: Volume, key: str) -> Scale:
    try:
        return volume[key.rstrip("/")]
    except KeyError as exc:
        raise NotFoundError(f"{volume.url}: {exc.args[0]}") from exc


def _print_json(value: Any) -> None:  # noqa: ANN401 - what JSON can say
    print(json.dumps(value, indent=2))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


# -------------------------------------------------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Look at Neuroglancer precomputed pyramids, and copy them, wherever fsspec reaches.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {precomputed_fs.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[argparse.Namespace], int | None], text: str, *, urls: Mapping[str, str] = _URL
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(command=command)
        for url, what in urls.items():
            made.add_argument(url, metavar=url.upper(), help=what)
        return made

    info = add("info", _info, "list the scales of a pyramid, with what they are")
    info.add_argument("--json", action="store_true", help="as JSON")

    ls = add("ls", _ls, "list the keys of a pyramid's scales, or the names of a scale's chunks")
    ls.add_argument(
        "scale", metavar="SCALE", nargs="?", help="whose chunks to list: as there are by `info`, stored or not"
    )
    ls.add_argument("--limit", type=int, default=_LIMIT, help=f"list as many chunks at most (default {_LIMIT})")
    ls.add_argument("--json", action="store_true", help="as JSON")

    cat = add("cat", _cat, "write a file or a chunk to stdout, without the compression it is stored with")
    cat.add_argument(
        "path", metavar="PATH", help="such as info, or SCALE/0-64_0-64_0-64 for a chunk, however it is stored"
    )

    slice_ = add("slice", _slice, "make a picture of a slice, or of the three in the middle")
    slice_.add_argument(
        "--out",
        type=_picture,
        metavar="FILE",
        required=True,
        help="where to write it, as PNG; as JPEG if this ends in .jpg or .jpeg, white where PNG is transparent; "
        "- for stdout",
    )
    for axis in "xyz":
        text = "where to slice: an absolute coordinate in voxels of the scale that --scale names, or else of the first"
        slice_.add_argument(f"--{axis}", type=int, metavar="VOXEL", help=text)
    slice_.add_argument("--scale", metavar="KEY", help="read this scale (default: the one for the size)")
    slice_.add_argument("--size", type=_size, default=512, help="pixels of the longer side, or full (default 512)")
    slice_.add_argument("--channel", type=int, help="show only this one")
    slice_.add_argument("--limits", type=float, nargs=2, metavar=("LOW", "HIGH"), help="what is black and white")

    serve = add("serve", _serve, "show a pyramid to the Neuroglancer web client, until interrupted")
    serve.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1 (default: any that is free)")
    serve.add_argument("--follow-links", action="store_true", help="follow symbolic links that leave the pyramid")

    copy = add(
        "copy",
        _copy,
        "copy a pyramid, as it is or stored otherwise; what was interrupted goes on when called again",
        urls={"source": "where the pyramid is: a path, or any fsspec URL", "destination": "where to copy it"},
    )
    _add_copy_options(copy)
    doctor = add("doctor", _doctor, "find out which readers can open a pyramid, and if one cannot, why not")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.add_argument(
        "--reader", action="append", choices=READERS, help="judge by this one; may be given many times (default: all)"
    )
    doctor.add_argument("--samples", type=int, default=SAMPLES, help=f"chunks of each scale (default {SAMPLES})")
    doctor.add_argument(
        "--time-limit", type=float, default=60.0, metavar="SECONDS", help="report what is known then (default 60)"
    )

    for command in commands.choices.values():
        _add_reading_options(command)
    _add_sides(copy)
    return parser


def _add_copy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale", metavar="KEY", action="append", help="copy only this one; may be given many times (default: all)"
    )
    parser.add_argument("--encoding", help="encode chunks anew (default: as they are)")
    parser.add_argument(
        "--parameter",
        type=_key_value,
        action=_Merge,
        default={},
        metavar="KEY=JSON",
        help="of that encoding, such as jpeg_quality=90; may be given many times",
    )
    parser.add_argument(
        "--chunk-size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="of chunks, in voxels (default: as they are)"
    )
    parser.add_argument(
        "--sharding",
        type=_sharding,
        metavar="SHARDING",
        help="auto, none, or a JSON object (or @FILE) as it will be in info (default: as it is)",
    )
    parser.add_argument("--overwrite", action="store_true", help="delete first what is at the destination")
    parser.add_argument("--verify", action="store_true", help="read back what is copied, and compare")
    parser.add_argument("--dask", metavar="ADDRESS", help="copy on the dask cluster whose scheduler is there")
    add_argparse_options(parser)
    parser.add_argument("--gzip", action="store_true", help="compress with gzip what is written")
    parser.set_defaults(gzip=None)  # as each chunk is


def _add_sides(parser: argparse.ArgumentParser) -> None:
    """Let options for reading be given for one side of a copy: without a prefix, they are for both."""
    group = parser.add_argument_group("Options for one of the two places, besides those for both")
    for side in _SIDES:
        for option, settings in _PLACE_OPTIONS.items():
            told = f"as --{option}, for {side.upper()} only"
            group.add_argument(f"--{side}-{option}", **{**settings, "help": told})


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Options for reading")
    for option, settings in _PLACE_OPTIONS.items():
        group.add_argument(f"--{option}", **settings)
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="after which a request has failed (default 30)")
    group.add_argument("--attempts", type=int, metavar="N", help="how often a request is sent at most (default 5)")
    group.add_argument("--max-info-bytes", type=int, metavar="N", help="bytes that info may have (default 1 MiB)")
    group.add_argument(
        "--max-file-bytes", type=int, metavar="N", help="bytes that other files may have (default 1 GiB)"
    )
    group.add_argument(
        "--denied-is-missing",
        action="store_true",
        default=None,
        help="take a chunk that may not be read (403) for absent, as in buckets that may be read but not listed",
    )


class _Merge(argparse.Action):
    """Options that may be given many times, each with some of a dictionary."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - what `type` made
        _option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **values})


def _storage_options(text: str) -> dict[str, Any]:
    """Read ``--storage-options``. What is wrong with them is said without them: they may hold secrets."""
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        key, mark, value = text.partition("=")
        if mark and not text.lstrip().startswith("{"):
            return {key[:-1]: json.loads(value)} if key.endswith(":") else {key: value}
        options = json.loads(text)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no JSON"
        raise argparse.ArgumentTypeError(f"cannot be read: {reason}") from None
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError("expected a JSON object, @FILE, KEY=TEXT or KEY:=JSON")
    return options


_PLACE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "anon": {
        "action": argparse.BooleanOptionalAction,
        "help": "go without credentials (default: if there are none)",
    },
    "storage-options": {
        "type": _storage_options,
        "action": _Merge,
        "metavar": "OPTIONS",
        "help": "the filesystem's options, as fsspec has them: a JSON object, @FILE for one in a file, KEY=TEXT, or "
        "KEY:=JSON; may be given many times",
    },
}
"""Of a place, apart from what it is done with."""


def _key_value(text: str) -> dict[str, Any]:
    key, mark, value = text.partition("=")
    try:
        return {key: json.loads(value)}
    except ValueError:
        if mark and key:
            return {key: value}
    raise argparse.ArgumentTypeError("expected KEY=JSON")


def _sharding(text: str) -> bool | dict[str, Any]:
    if text in ("auto", "none"):
        return text == "auto"
    try:
        sharding = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as exc:
        raise argparse.ArgumentTypeError(f"expected auto, none, a JSON object or @FILE: {exc}") from None
    if not isinstance(sharding, dict):
        raise argparse.ArgumentTypeError("expected auto, none, a JSON object or @FILE")
    return sharding


def _picture(name: str) -> str:
    if Path(name).suffix.lower() not in _PICTURES:
        raise argparse.ArgumentTypeError(f"expected a name that ends in {', '.join(filter(None, _PICTURES))}")
    return name


def _size(text: str) -> int | None:
    if text != "full" and not text.isdecimal():
        raise argparse.ArgumentTypeError("expected a number of pixels, or full")
    return None if text == "full" else int(text)


if __name__ == "__main__":
    sys.exit(main())
