"""What came of it all: rows, as lines to look at and as JSON to keep."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.rounds import Candidate
from benchmarks.systems import OURS, PEERS, SYSTEMS
from benchmarks.workloads import Comparison, Required, Workload

FACTORS = {"s": 1.0, "cpu s": 1.0, "ms": 1e3, "us": 1e6, "MB": 1e-6, "": 1.0}
"""From seconds, or bytes, to a unit."""


@dataclass(frozen=True)
class Cell:
    """One system in a row."""

    value: float = math.nan
    """In the row's unit; nan: none."""

    mark: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        return not math.isnan(self.value)


@dataclass(frozen=True)
class Row:
    """One workload: a value of each system, and what has to hold."""

    section: str
    name: str
    unit: str
    cells: Mapping[str, Cell]
    required: Required | None = None
    is_relative: bool = True
    """Whether ours is compared with peers; else the value itself is what is limited."""

    took: float = math.nan
    """Seconds, with all that is not measured."""

    @property
    def ours(self) -> Cell:
        return self.cells[OURS.name]

    @property
    def best_peer(self) -> str | None:
        """The peer that ours is compared with."""
        counting = [self.required.against] if self.required and self.required.against else PEERS
        values = {peer.name: self.cells[peer.name].value for peer in counting if self.cells[peer.name].exists}
        return min(values, key=lambda name: values[name], default=None)

    @property
    def ratio(self) -> float:
        peer = self.best_peer
        return self.ours.value / self.cells[peer].value if self.is_relative and peer else math.nan

    @property
    def holds(self) -> bool | None:
        """Whether what is required holds; None: nothing is, or there is nothing to compare with."""
        required, peer = self.required, self.best_peer
        if required is None or (required.ratio is not None and math.isnan(self.ratio)):
            return None
        return (
            (required.ratio is None or self.ratio <= required.ratio)
            and (required.most is None or self.ours.value <= required.most)
            and not (peer and self._is_larger(peer))
        )

    def _is_larger(self, peer: str) -> bool:
        """Whether what ours has written is larger than what a peer has."""
        ours, theirs = (self.cells[name].details.get("bytes_stored") for name in (OURS.name, peer))
        return ours is not None and theirs is not None and ours > theirs

    def to_json(self) -> dict[str, Any]:
        required = self.required
        return {
            "section": self.section,
            "workload": self.name,
            "unit": self.unit,
            "best_peer": self.best_peer if self.is_relative else None,
            "ratio": _number(self.ratio),
            "ratio_at_most": required.ratio if required else None,
            "value_at_most": required.most if required else None,
            "holds": self.holds,
            "took_seconds": _number(self.took),
            "systems": {name: {"value": _number(cell.value), **cell.details} for name, cell in self.cells.items()},
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


# --------------------------------------------------------------------------------------------------- rows from what ran


def row_of(workload: Workload, candidates: Sequence[Candidate], took: float) -> Row:
    """Sum up a workload, which took so many seconds."""
    what, boxes = workload.what, workload.boxes
    number = {
        "ms": len(boxes),
        "us": sum(1 for box in boxes for _ in workload.data.chunks(box)),
    }.get(what.unit, 1)
    cells = {
        name: _cell([each for each in candidates if each.system.name == name], what.unit, number) for name in SYSTEMS
    }
    return Row(workload.section, workload.name, what.unit, cells, workload.required, took=took)


def _cell(candidates: Sequence[Candidate], unit: str, number: int) -> Cell:
    """Choose the setting that counts: the best one of those that were measured longest."""
    done = [each for each in candidates if each.outcomes and not each.reason]
    settings = {each.setting: _details(each) for each in candidates}
    if not done:
        told = next((each for each in candidates if each.mark == "failed"), candidates[0])
        return Cell(mark=told.mark, details={"reason": told.reason, "settings": settings})
    best = min(done, key=lambda each: (-len(each.outcomes), _value(each, unit, number)))
    details = {**_details(best), "setting": best.setting, "settings": settings}
    return Cell(_value(best, unit, number), best.mark, details)


def _value(candidate: Candidate, unit: str, number: int) -> float:
    measured = {"MB": candidate.peak, "cpu s": candidate.cpu}.get(unit, candidate.seconds / number)
    return measured * FACTORS[unit]


def _details(candidate: Candidate) -> dict[str, Any]:
    if candidate.reason:
        return {"reason": candidate.reason}
    return {
        "seconds": [round(outcome.seconds, 6) for outcome in candidate.counting],
        "warm_up_seconds": round(candidate.outcomes[0].seconds, 6),
        "cpu_seconds": round(candidate.cpu, 6),
        "peak_bytes": round(candidate.peak),
        "requests": candidate.requests,
        "bytes_sent": candidate.sent,
        "bytes_stored": candidate.stored,
        "protocols": candidate.protocols,
    }


def compared(comparison: Comparison, rows: Iterable[Row]) -> Row | None:
    """Set two rows against each other; None: one of them was not measured."""
    named = {row.name: row for row in rows}
    if comparison.row not in named or comparison.against not in named:
        return None
    above, below = named[comparison.row], named[comparison.against]
    cells = {name: Cell(above.cells[name].value / below.cells[name].value) for name in SYSTEMS}
    required = Required(None, [], [], most=comparison.most) if comparison.most else None
    return Row("comparisons", comparison.name, "", cells, required, is_relative=False)


# ------------------------------------------------------------------------------------------------------------ the lines

_NAME, _WIDTH = 62, 13


def heading(section: str) -> str:
    """Return the two lines above a section."""
    names = "".join(f"{name.replace('neuroglancer-scripts', 'ngl-scripts'):>{_WIDTH}}" for name in SYSTEMS)
    pairs = "".join(f"{name:>14}" for name in ("peak MB", "requests", "MB", "HTTP"))
    line = f"{section:<{_NAME}}{names}{'ratio':>8}{'limit':>7} {'holds':<6}{pairs}  best peer"
    return f"\n{line}\n{'-' * len(line)}"


def line(row: Row) -> str:
    """Return the line of a row."""
    values = "".join(f"{_shown(row.cells[name], row.unit):>{_WIDTH}}" for name in SYSTEMS)
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.2f}"
    holds = {True: "yes", False: "NO", None: ""}[row.holds]
    pairs = "".join(_pairs(row))
    peer = row.best_peer if row.is_relative else None
    setting = row.cells[peer].details.get("setting", "") if peer else ""
    named = f"{peer}, {setting}" if peer and setting else peer or ""
    return f"{row.name:<{_NAME}}{values}{ratio:>8}{_limit(row):>7} {holds:<6}{pairs}  {named}"


def _shown(cell: Cell, unit: str) -> str:
    if not cell.exists:
        return cell.mark or "-"
    digits = max(0, 2 - math.floor(math.log10(abs(cell.value)))) if cell.value else 0
    return f"{cell.mark}{cell.value:,.{min(digits, 4)}f} {unit}".rstrip()


def _limit(row: Row) -> str:
    required = row.required
    if required is None:
        return ""
    return f"{required.most:g}" if required.most is not None else f"{required.ratio:.2f}"


def _pairs(row: Row) -> Iterator[str]:
    """Ours and the best peer's memory, requests, what came from the server or was stored, and by which HTTP."""
    peer = row.best_peer if row.is_relative else None
    both = [row.cells[name].details if name else {} for name in (OURS.name, peer)]
    for names, shown in (
        (("peak_bytes",), _megabytes),
        (("requests",), "{:,}".format),
        (("bytes_stored", "bytes_sent"), _megabytes),
        (("protocols",), _versions),
    ):
        found = [next((each[name] for name in names if each.get(name) is not None), None) for each in both]
        texts = ["" if value is None else shown(value) for value in found]
        yield f"{'/'.join(texts) if any(texts) else '':>14}"


def _megabytes(value: float) -> str:
    return f"{value * 1e-6:,.0f}"


def _versions(protocols: Sequence[str]) -> str:
    return " ".join(name.removeprefix("HTTP/") for name in protocols)
