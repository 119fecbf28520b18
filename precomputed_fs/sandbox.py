"""How to call a library that damaged data may crash: in a process that may die of it.

A child process is kept for the next call, one for each thread that is at it; a call sends bytes
and gets bytes. What such a library does to its own memory does not matter to ours, and it runs beside
our threads.
"""

import atexit
import json
import os
import subprocess
import sys
from typing import IO

_LENGTH_BYTES = 8
_FAILED = (1 << 64) - 1  # in the place of a length
_SERVE = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
module, function, keywords = json.loads(sys.argv[2])
call = getattr(importlib.import_module(module), function)
given, answers = sys.stdin.buffer, sys.stdout.buffer
while len(head := given.read(8)) == 8:
    data = given.read(int.from_bytes(head, "little"))
    try:
        body = call(data, **keywords).tobytes(order="F")
        length = len(body)
    except Exception as exc:
        body, length = f"{type(exc).__name__}: {exc}".encode(), (1 << 64) - 1
        body = len(body).to_bytes(8, "little") + body
    answers.write(length.to_bytes(8, "little") + body)
    answers.flush()
"""


class CrashError(Exception):
    """The library raised, or ended its process."""


class Sandbox:
    """One function ``bytes -> ndarray`` of a library, to be called in child processes.

    Parameters
    ----------
    module, function : str
        What to import and call.
    keywords : dict
        Its further arguments, such as JSON can say.
    """

    def __init__(self, module: str, function: str, **keywords: object) -> None:
        self._target = json.dumps([module, function, keywords])
        self._idle: dict[int, list[subprocess.Popen[bytes]]] = {}  # by process: a fork has none
        atexit.register(self.close)

    def call(self, data: bytes) -> bytearray:
        """Return the elements of the resulting array in Fortran order.

        Raises
        ------
        CrashError
            If the library raises, or does not survive.
        """
        child = self._take()
        try:
            assert child.stdin is not None  # noqa: S101 - for the type checker
            assert child.stdout is not None  # noqa: S101
            child.stdin.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
            child.stdin.write(data)
            child.stdin.flush()
            length = int.from_bytes(_read(child.stdout, _LENGTH_BYTES), "little")
            failed = length == _FAILED
            if failed:
                length = int.from_bytes(_read(child.stdout, _LENGTH_BYTES), "little")
            body = _read(child.stdout, length)
        except (OSError, EOFError) as exc:
            _end(child)
            message = f"the library did not survive it (exit status {child.returncode})"
            raise CrashError(message) from exc
        except BaseException:  # an interrupt: what it still sends is nobody's
            _end(child)
            raise
        self._idle.setdefault(os.getpid(), []).append(child)
        if failed:
            raise CrashError(body.decode(errors="replace"))
        return body

    def close(self) -> None:
        """End the processes that wait for a call."""
        for child in self._idle.pop(os.getpid(), []):
            _end(child)

    def _take(self) -> "subprocess.Popen[bytes]":
        idle = self._idle.get(os.getpid())
        try:
            return idle.pop() if idle else self._start()
        except IndexError:  # another thread was faster
            return self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", "-c", _SERVE, json.dumps(sys.path), self._target]
        return subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )


def _read(stream: IO[bytes], length: int) -> bytearray:
    body = bytearray(length)
    view, position = memoryview(body), 0
    while position < length:
        count = stream.readinto(view[position:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        position += count
    return body


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was to be flushed has nowhere to go
                continue
