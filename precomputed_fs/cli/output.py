"""How commands print: results to stdout, and everything else to stderr."""

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from precomputed_fs.volume import one_line

PROGRAM = "precomputed-fs"


def say(message: str) -> None:
    """Print a line to stderr."""
    with contextlib.suppress(OSError):  # stderr may be closed
        print(f"{PROGRAM}: {one_line(' '.join(message.split()))}", file=sys.stderr)


def print_json(value: Any) -> None:  # noqa: ANN401 - what JSON can say
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
