"""Compare precomputed_fs with tensorstore, cloud-volume and neuroglancer-scripts, side by side.

Prints a table, with what is required of each workload and whether it holds, and saves it as JSON with every run's
seconds, all settings that were tried and the reasons for what is missing. Times are medians of at least five runs, in
which the systems take turns, each in a process of its own; of a peer's settings the best one counts. Results are
compared with the source voxel by voxel. `~`: of fewer runs, as the best peer is much faster; see `benchmarks.rounds`.

Most limits are ratios to tensorstore's best setting in the same run. Opening is not timed, except where the name says
so: "first open and read after import" is from the first request to the voxels, in a new process each time, which has
imported the system and done nothing else. "processor time" is that of all threads of the reading process.
`--quick` has the limits that matter most, only the peers that these are about, and fewer rounds.

The servers are nginx, on this machine and its processors; `30 ms` is what each request waits there, without blocking.
HTTPS (HTTP/1.1), HTTP/2 and S3 TLS have TLS, as every public bucket has, with a certificate that is made for the run;
S3 is a read-only one, which does not look at signatures. The column HTTP tells which version was spoken.

Numba, if it is installed, begins to compile the decoding of labels in the second read of a volume of labels, and the
rounds until that is done are slower than the later ones.

NumPy asks for huge pages, as it does for its users (tensorstore does not). In some virtual machines that costs a run in
ten half a second: `NUMPY_MADVISE_HUGEPAGE=0 make bench` is without.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import imports, profiles, scale_out
from benchmarks.data import Folder
from benchmarks.places import Servers
from benchmarks.processes import Workers
from benchmarks.rounds import Rounds
from benchmarks.systems import CLOUD_VOLUME, OURS, SYSTEMS
from benchmarks.table import Row, compared, heading, line, row_of
from benchmarks.workloads import COMPARISONS, Workload, workloads

Placed = TypeVar("Placed", Workload, scale_out.Workload)

FULL_SIDE = 512  # voxels
IMPORT = "import"


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit code: 1 if something failed or was wrong."""
    args = arguments(argv)
    if args.scale_out:
        return scaled_out(args)
    chosen = [each for each in selected(args) if wanted(each.name, args)]
    imports_too = wanted(IMPORT, args)
    if not chosen and not imports_too:
        print("no workload has such a name; --list shows them", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join([*(each.name for each in chosen), *([IMPORT] if imports_too else [])]))
        return 0
    chosen = placed(chosen)
    began = time.monotonic()
    rows: list[Row] = []
    for row in measured(chosen, args, imports_too=imports_too):
        if not rows or rows[-1].section != row.section:
            print(heading(row.section), flush=True)
        rows.append(row)
        print(line(row), flush=True)
        args.output.write_text(json.dumps(report(rows, args), indent=1))
    required = [row for row in rows if row.holds is not None]
    print(f"\n{sum(map(bool, (row.holds for row in required)))} of {len(required)} limits hold")
    print(f"{time.monotonic() - began:.0f} s; saved as {args.output.resolve()}")
    return int(any(cell.mark == "failed" for row in rows for cell in row.cells.values()))


def scaled_out(args: argparse.Namespace) -> int:
    """Run what dask's workers do; return the exit code."""
    side = scale_out.SIDE * args.side // FULL_SIDE
    chosen = [each for each in scale_out.workloads(side) if wanted(each.name, args)]
    if not chosen:
        print("no workload has such a name; --list shows them", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join(each.name for each in chosen))
        return 0
    chosen = placed(chosen)
    rows: list[scale_out.Row] = []
    print(scale_out.heading(), flush=True)
    with data_folder(args.keep) as folder, Servers(folder) as servers:
        for row in scale_out.measure(chosen, folder, servers, args.rounds or 3):
            rows.append(row)
            print(scale_out.line(row), flush=True)
            args.output.write_text(json.dumps(report(rows, args), indent=1))
    print(f"saved as {args.output.resolve()}")
    return 0


def placed(chosen: Sequence[Placed]) -> list[Placed]:
    """Leave out what needs something that this machine has not, and say so."""
    for missing in sorted({each.place.missing for each in chosen} - {""}):
        print(f"left out is what needs {missing}")
    return [each for each in chosen if not each.place.missing]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="a few workloads, in fewer rounds, within three minutes")
    which.add_argument("--scale-out", action="store_true", help="copy and mean by dask's workers, and nothing else")
    which.add_argument("--all", action="store_true", help="every combination of place, data set and workload")
    parser.add_argument(
        "--only", metavar="WORDS", action="append", default=[], help='such as "https 0, raw": names with all of these'
    )
    parser.add_argument("--no", metavar="WORDS", action="append", default=[], help="not those with all of these")
    parser.add_argument("--system", action="append", choices=SYSTEMS, help="not all systems, but ours and these")
    parser.add_argument("--list", action="store_true", help="print the names of the workloads, and end")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="the JSON file")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="where data sets are kept, and found the next time")
    parser.add_argument(
        "--profile", action="store_true", help=f"save profiles of ours, by py-spy, in {profiles.FOLDER}/"
    )
    parser.add_argument("--side", type=int, default=FULL_SIDE, help="voxels, of the volumes that have 512")
    parser.add_argument("--rounds", type=int, help="at least, after the warm-up (5)")
    return parser.parse_args(argv)


def selected(args: argparse.Namespace) -> Iterator[Workload]:
    """Go through the workloads of a run, before `only`."""
    for each in workloads():
        if args.all or (each.in_quick if args.quick else each.in_full):
            scaled = replace(each, data=replace(each.data, side=each.data.side * args.side // FULL_SIDE))
            if scaled.fits():
                yield scaled


def wanted(name: str, args: argparse.Namespace) -> bool:
    """Tell whether a workload was asked for."""
    return (not args.only or has_words(name, args.only)) and not has_words(name, args.no)


def has_words(name: str, choices: Sequence[str]) -> bool:
    """Tell whether a name has all words of one of the choices, in which commas separate them."""
    lower = name.lower()
    return any(all(word.strip() in lower for word in words.lower().split(",")) for words in choices)


def measured(chosen: Sequence[Workload], args: argparse.Namespace, *, imports_too: bool) -> Iterator[Row]:
    least = args.rounds or (3 if args.quick else 5)
    with data_folder(args.keep) as folder, Servers(folder) as servers:
        systems = [system for name, system in SYSTEMS.items() if not args.system or name in {OURS.name, *args.system}]
        most = max(least, 5 if args.quick else 15)
        rounds = Rounds(folder, servers, systems, least, most, only_counting=args.quick)
        rows = []
        for _, group in groupby(chosen, key=lambda each: (each.section, each.place)):
            with Workers() as workers:
                for workload in group:
                    began = time.monotonic()
                    candidates = rounds.measure(workload, workers)
                    rows.append(row_of(workload, candidates, time.monotonic() - began))
                    yield rows[-1]
                    if args.profile and (path := rounds.profile(workload, workers)):
                        print(f"    profile: {path.resolve()}", flush=True)
        for comparison in COMPARISONS:
            if row := compared(comparison, rows):
                yield row
    if imports_too:
        counting = [OURS, CLOUD_VOLUME] if args.quick else [*SYSTEMS.values()]
        yield imports.measure(counting, least if args.quick else least + 2)


@contextmanager
def data_folder(keep: Path | None) -> Iterator[Folder]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)).resolve() / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        yield Folder(folder)


def report(rows: Sequence[Row] | Sequence[scale_out.Row], args: argparse.Namespace) -> dict[str, Any]:
    tools = ("tensorstore", "cloud-volume", "neuroglancer-scripts")
    packages = (*tools, "numpy", "imagecodecs", "pycurl", "aiohttp", "s3fs", "dask", "distributed")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "processors": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "rows": [row.to_json() for row in rows],
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and workers end too
    sys.exit(main())
