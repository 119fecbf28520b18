"""How a workload is measured: all systems in turns, and the best setting of each counts."""

import statistics
from dataclasses import dataclass, field

from benchmarks.data import Folder
from benchmarks.jobs import Job, Outcome
from benchmarks.places import Servers
from benchmarks.systems import OURS, SYSTEMS
from benchmarks.worker import Worker
from benchmarks.workloads import Workload

ROUNDS = 5


@dataclass
class Candidate:
    system: str
    setting: str
    worker: Worker
    warm_up: Outcome = field(default_factory=Outcome)
    outcomes: list[Outcome] = field(default_factory=list)
    traffic: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        return statistics.median(outcome.seconds for outcome in self.outcomes or [self.warm_up])


def measure(workload: Workload, folder: Folder, servers: Servers) -> list[Candidate]:
    local = folder.volume(workload.data)
    job = Job(
        "read",
        servers.locate(local, workload.place),
        workload.data,
        workload.boxes,
        folder.expected(workload.data),
        tolerance=2 if workload.data.is_lossy else 0,
    )
    candidates = [
        Candidate(system.name, setting, Worker(system.name, setting))
        for system in SYSTEMS.values()
        for setting in system.settings
    ]
    server = servers.at(workload.place)
    for candidate in candidates:
        if server:
            server.clear()
        candidate.warm_up = candidate.worker.run(job)
        if server:
            candidate.traffic = server.traffic()
    for _ in range(ROUNDS):
        for candidate in candidates:
            if not candidate.warm_up.error:
                candidate.outcomes.append(candidate.worker.run(job))
    for candidate in candidates:
        candidate.worker.close()
    return candidates
