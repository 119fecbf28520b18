"""The harness's end of the processes in which systems run: see `benchmarks.worker` for theirs."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing, suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Self

from benchmarks.jobs import S3_KEY, S3_REGION, S3_SECRET, Job, Outcome
from benchmarks.systems import System
from tests.support.certificates import certificate

DEADLINE = 300.0  # seconds that a job may take


class WorkerError(Exception):
    """A worker has ended, or does not answer."""


class Worker:
    """The harness's end of a worker, which begins to import what it needs at once."""

    def __init__(self, system: str, setting: str) -> None:
        self.name = f"{system}, {setting}"
        self._pipe, theirs = Pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._folder = tempfile.TemporaryDirectory()  # where a tool may leave what it likes
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", str(theirs.fileno()), system, setting],
                cwd=self._folder.name,
                env=environment() | {"PYTHONPATH": str(Path(__file__).parents[1])},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, job: Job) -> Outcome:
        try:
            self._pipe.send(job)
            if self._pipe.poll(DEADLINE):
                outcome: Outcome = self._pipe.recv()
                return outcome
        except (EOFError, OSError) as exc:
            code = self._process.wait()
            self._output.seek(0)
            said = self._output.read().decode(errors="replace")
            raise WorkerError(f"{self.name}: ended with code {code} at {job}; it said:\n{said}") from exc
        raise WorkerError(f"{self.name}: no answer in {DEADLINE:.0f} s to {job}")

    def close(self) -> None:
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._process.kill()
        self._process.wait()
        self._output.close()
        self._folder.cleanup()


def environment() -> dict[str, str]:
    """Return the variables for a worker: the servers' keys and certificate; no proxy or AWS setting of this machine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and not name.lower().endswith("_proxy")
    }
    return (
        kept
        | certificate().variables
        | {
            "AWS_ACCESS_KEY_ID": S3_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            "AWS_SESSION_TOKEN": "",
            "AWS_DEFAULT_REGION": S3_REGION,
        }
    )


class Workers:
    """The processes of one group of workloads, each started when it is first needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[tuple[str, str], Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, system: System, setting: str) -> Worker:
        which = system.name, setting
        if which not in self._running:
            worker = Worker(*which)
            self._stack.callback(worker.close)
            self._running[which] = worker
        return self._running[which]

    @staticmethod
    def run_afresh(system: System, setting: str, job: Job) -> Outcome:
        """Run in a process that has done nothing but import, and does nothing else."""
        with closing(Worker(system.name, setting)) as worker:
            return worker.run(job)
