"""How a workload is measured: all systems in turns, round by round, and the best setting of each peer counts.

1. Each system runs once in each of its settings, to warm up; twice if that is brief. What takes more than 1.5 times as
   long as the best peer has no more runs: its time is marked with ``~``. What fails, or is wrong, does not count.
2. One round of all that is left. Then each peer goes on with the fastest of its settings.
3. More rounds: at least five in all, three of growth, and up to 15 of what takes less than a second together.

What was far behind is not asked to read again: at the same place, a setting that took three times as long for a whole
volume as another setting of its system; of the same data set, a system that took four times as long as the best peer.

What is measured in fresh processes, such as a first read, has a process for each run, which has imported the system
and nothing else. Memory is measured once.
"""

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import profiles
from benchmarks.data import Folder
from benchmarks.jobs import DataSet, Job, Location, Outcome
from benchmarks.places import Place, Servers
from benchmarks.processes import WorkerError, Workers
from benchmarks.systems import CLOUD_VOLUME, OURS, SYSTEMS, System, why_not
from benchmarks.workloads import WHOLE, Workload

ENOUGH_SECONDS = 1.0
BRIEF_SECONDS = 0.3
# How many times as long as the best peer, or as another setting of the same system, ...
HOPELESS = 1.5  # ... for this workload
FAR_BEHIND = 4.0  # ... for this data set
HOPELESS_SETTING = 3.0  # ... for this place


@dataclass
class Candidate:
    """A system in one setting, and its runs."""

    system: System
    setting: str
    reason: str = ""
    """Why it has no runs, or none that count."""

    mark: str = ""
    """What the table says before the seconds, or instead of them."""

    outcomes: list[Outcome] = field(default_factory=list)
    """The first is the warm-up."""

    requests: int | None = None
    sent: int | None = None
    """Bytes that a server sent in answer to them."""

    protocols: tuple[str, ...] = ()
    """By which they came, such as HTTP/1.1."""

    stored: int | None = None
    """Bytes of what was written."""

    def rule_out(self, mark: str, reason: str) -> None:
        """Let it not count."""
        self.mark, self.reason = mark, reason

    @property
    def counting(self) -> list[Outcome]:
        return self.outcomes[1:] or self.outcomes

    @property
    def seconds(self) -> float:
        return statistics.median(outcome.seconds for outcome in self.counting)

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        return statistics.median(outcome.cpu for outcome in self.counting)

    @property
    def peak(self) -> float:
        """Bytes of memory."""
        return statistics.median(outcome.peak for outcome in self.counting)

    @property
    def fastest(self) -> float:
        return min(outcome.seconds for outcome in self.outcomes)

    @property
    def spent(self) -> float:
        return sum(outcome.seconds for outcome in self.counting)


def hopeful(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return ours, and what is not much slower than the best peer; mark the others."""
    limit = HOPELESS * min((each.fastest for each in candidates if each.system is not OURS), default=math.inf)
    for each in candidates:
        if each.system is not OURS and each.fastest > limit:
            each.mark = "~"
    return [each for each in candidates if not each.mark]


def best_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return each system's best setting."""
    best: dict[str, Candidate] = {}
    for each in sorted(candidates, key=lambda each: each.fastest):
        best.setdefault(each.system.name, each)
    return [each for each in candidates if best[each.system.name] is each]


class Rounds:
    """Measures one workload after another."""

    def __init__(
        self,
        folder: Folder,
        servers: Servers,
        systems: Collection[System],
        least: int = 5,
        most: int = 15,
        *,
        only_counting: bool = False,
    ) -> None:
        self._folder = folder
        self._servers = servers
        self._systems = systems
        self._least_rounds = least
        self._most_rounds = most
        self._only_counting = only_counting
        self._bad_settings: dict[tuple[Place, str, str], str] = {}
        self._far_behind: dict[tuple[Place, DataSet, str], str] = {}

    def measure(self, workload: Workload, workers: Workers) -> list[Candidate]:
        """Return all systems in all settings, with their runs or a reason for having none."""
        candidates = self._candidates(workload)
        able = [each for each in candidates if not each.reason]
        for each in [] if workload.what.afresh else able:
            workers.of(each.system, each.setting)  # all import at the same time
        for each in able:
            self._warm_up(each, workload, workers)
        self._note_who_is_behind(able, workload)
        if workload.what.unit != "MB":
            for each in able:
                if not each.reason and each.seconds < BRIEF_SECONDS:
                    self._run(each, workload, workers)
            self._take_turns(hopeful([each for each in able if not each.reason]), workload, workers)
        return candidates

    def _candidates(self, workload: Workload) -> list[Candidate]:
        candidates = [Candidate(system, setting) for system in SYSTEMS.values() for setting in system.settings]
        job = self.job(workload)
        for each in candidates:
            if each.system not in self._systems:
                each.rule_out("-", "was not asked for")
            elif self._only_counting and not workload.counts(each.system, each.setting):
                each.rule_out("-", "does not count for the limit")
            elif reason := why_not(each.system, each.setting, job):
                each.rule_out("-", reason)
            elif noted := self._was_behind(each, workload):
                each.rule_out("far behind", noted)
        return candidates

    def _take_turns(self, candidates: Sequence[Candidate], workload: Workload, workers: Workers) -> None:
        in_turns = candidates
        for number in range(1, self._most_rounds + 1):
            for each in in_turns:
                self._run(each, workload, workers)
            in_turns = [each for each in in_turns if not each.reason]
            if number == 1:
                in_turns = best_of_each(in_turns)
            if number >= min(self._least_rounds, workload.what.least_rounds):
                in_turns = [each for each in in_turns if each.spent < ENOUGH_SECONDS]

    def profile(self, workload: Workload, workers: Workers) -> Path | None:
        """Save a profile of ours; return where."""
        ours = Candidate(OURS, "default")
        self._run(ours, workload, workers)
        pid = workers.of(OURS, "default").pid
        return profiles.record(workload.name, pid, lambda: self._run(ours, workload, workers))

    def _warm_up(self, candidate: Candidate, workload: Workload, workers: Workers) -> None:
        """Run for the first time, and see what was asked of the server, or what was written."""
        server = self._servers.at(workload.place)
        if server:
            server.clear()
        location = self._run(candidate, workload, workers, keeps=True)
        if server:
            candidate.requests, candidate.sent, candidate.protocols = server.traffic()
        if workload.what.action == "write":
            if not candidate.reason and (wrong := self._misread(candidate, workload, location, workers)):
                candidate.rule_out("failed", wrong)
            candidate.stored = self._servers.take_away(location, workload.place)

    def _note_who_is_behind(self, candidates: Sequence[Candidate], workload: Workload) -> None:
        """Remember whom not to ask again."""
        peers = [each for each in candidates if each.outcomes and each.system is not OURS]
        best = best_of_each(peers)
        for each in peers if workload.what is WHOLE else []:
            times = each.seconds / next(one.seconds for one in best if one.system is each.system)
            if times > HOPELESS_SETTING:
                noted = f"{times:.1f} times as slow as another setting in {workload.name}"
                self._bad_settings.setdefault((workload.place, each.system.name, each.setting), noted)
        for each in best if workload.what.action == "read" else []:
            times = each.seconds / min(one.seconds for one in best)
            if times > FAR_BEHIND:
                noted = f"{times:.1f} times as slow as the best peer in {workload.name}"
                self._far_behind.setdefault((workload.place, workload.data, each.system.name), noted)

    def _was_behind(self, candidate: Candidate, workload: Workload) -> str:
        """Return why a candidate is not asked again to read; empty: it is."""
        place, system, action = workload.place, candidate.system.name, workload.what.action
        noted = ""
        if action in {"read", "read warm", "read cold"}:
            noted = self._bad_settings.get((place, system, candidate.setting), "")
        if action == "read":
            noted = noted or self._far_behind.get((place, workload.data, system), "")
        return noted

    def _run(self, candidate: Candidate, workload: Workload, workers: Workers, *, keeps: bool = False) -> Location:
        """Run once; return where. What is written is removed, unless it is kept."""
        job = self.job(workload)
        which = candidate.system, candidate.setting
        try:
            outcome = workers.run_afresh(*which, job) if workload.what.afresh else workers.of(*which).run(job)
        except WorkerError as exc:
            outcome = Outcome(error=str(exc))
        if outcome.error:
            candidate.rule_out("failed", outcome.error)
        else:
            candidate.outcomes.append(outcome)
        if workload.what.action == "write" and not keeps:
            self._servers.take_away(job.location, workload.place)
        return job.location

    def _misread(self, candidate: Candidate, workload: Workload, location: Location, workers: Workers) -> str:
        """Have what was written read by another tool; return what is wrong."""
        reader = CLOUD_VOLUME if candidate.system is OURS else OURS
        job = replace(self.job(workload), action="read", location=location)
        outcome = workers.of(reader, "default").run(job)
        return f"{reader.name} reads it wrongly: {outcome.error}" if outcome.error else ""

    def job(self, workload: Workload) -> Job:
        """Return what a worker is told; where it writes, there is nothing yet."""
        data, what = workload.data, workload.what
        writes = what.action == "write"
        locate = self._servers.to_write if writes else self._servers.to_read
        return Job(
            what.action,
            locate(data, workload.place),
            data,
            self._folder.source(data) if writes else self._folder.expected(data),
            workload.boxes,
            tolerance=2 if data.is_lossy else 0,
            stored=None if writes else Path(self._folder.volume(data).url),
            at_once=what.at_once,
        )
