"""Tables in Markdown, as README.md and the guide have them: for tests that check what they say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: tuple[str, ...]

    def __str__(self) -> str:
        return self.cells[0]

    def code(self, column: int) -> str:
        """Return the one piece of code in a cell."""
        (code,) = re.finditer(r"`([^`]+)`", self.cells[column])
        return code[1]


def table(page: Path, *header: str) -> list[Row]:
    """Return the rows of the one table whose header begins with these cells."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if _cells(line)[: len(header)] == header:
            next(lines)
            rows = []
            while (line := next(lines, "")).startswith("|"):
                rows.append(Row(_cells(line)))
            return rows
    raise LookupError(f"{page}: no table begins with {header}")


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line[1:-1].split("|")) if line.startswith("|") else ()
