"""What is measured, and what has to hold."""
from dataclasses import dataclass

from benchmarks.jobs import Box, DataSet
from benchmarks.places import Place

@dataclass(frozen=True)
class Workload:
    """A row of the table."""

    place: Place
    data: DataSet
    what: str

    @property
    def name(self) -> str:
        return f"{self.place.name}, {self.data.name}, {self.what}"

    @property
    def boxes(self) -> tuple[Box, ...]:
        return BOXES[self.what](self.data)


def whole(data: DataSet) -> tuple[Box, ...]:
    return ((slice(0, data.side),) * 3,)


BOXES = {"whole": whole}
