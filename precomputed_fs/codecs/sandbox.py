"""Call a library that damaged data may crash, in a child process.

A call sends bytes and receives bytes. Idle children wait for the next call; as many exist as threads
have called at once. The library cannot corrupt our memory, and does not hold our interpreter's lock.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

_LENGTH_BYTES = 8
_FAILED = (1 << 64) - 1  # in the place of a length
_SERVE = """
import importlib, json, os, sys
def limit(room):
    try:
        import resource
        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        pass  # a system that cannot limit memory
def packed(result):
    if not fields:
        return result.tobytes(order="F")
    import numpy
    arrays = [numpy.asarray(getattr(result, name, ()), dtype).tobytes() for name, dtype in fields.items()]
    return b"".join(len(array).to_bytes(8, "little") + array for array in arrays)
given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # whatever the library prints must not mix with the answers
sys.path[:] = json.loads(sys.argv[1])
module, function, keywords, fields = json.loads(sys.argv[2])
call = getattr(importlib.import_module(module), function)
answers.write(b"is ready")
answers.flush()
def number():
    head = given.read(8)
    return int.from_bytes(head, "little") if len(head) == 8 else None
while (count := number()) is not None:
    room = number()
    parts = [given.read(length) for length in [number() for _ in range(count)]]
    try:
        if room:
            limit(room)
        body = b"".join([packed(call(data, **keywords)) for data in parts])
        length = len(body)
    except Exception as exc:
        body, length = f"{type(exc).__name__}: {exc}".encode(), (1 << 64) - 1
        body = len(body).to_bytes(8, "little") + body
    answers.write(length.to_bytes(8, "little") + body)
    answers.flush()
"""


_READY = b"is ready"


class CrashError(Exception):
    """The library raised an exception or ended its process."""


class StartError(RuntimeError):
    """The child process could not be started."""


class Sandbox:
    """A function ``bytes -> ndarray`` of a library, called in child processes.

    Parameters
    ----------
    module, function : str
        The module to import, and the name of its function.
    fields : dict, optional
        Of a function that returns an object with arrays: their names, and the dtypes to return them in.
    refuses : bool
        Whether an exception of the library can be trusted to be about the data; else a new child tries again.
    keywords : dict
        Further arguments of the function, as JSON can express them.
    """

    def __init__(
        self,
        module: str,
        function: str,
        *,
        fields: Mapping[str, str] | None = None,
        refuses: bool = False,
        **keywords: object,
    ) -> None:
        self._target = json.dumps([module, function, keywords, dict(fields or {})])
        self._refuses = refuses
        self._idle: dict[int, list[subprocess.Popen[bytes]]] = {}  # by process: a fork must not use its parent's
        atexit.register(self.close)

    def call(self, *data: bytes, memory: int = 0) -> bytearray:
        """Call the function; return the elements of its array in Fortran order.

        Of an object with arrays, return for each field the number of its bytes as 8 bytes, and its elements in C order.

        Parameters
        ----------
        *data : bytes
            Of several, the function is called with each, and what it returns is joined: that saves the time of waking
            the child for each.
        memory : int
            The most bytes of memory that the child may take for it, where the system can limit that (Linux); 0 for
            any number.

        Raises
        ------
        CrashError
            If the library raises or crashes.
        StartError
            If the child process cannot be started.
        """
        child = self._idle_one()
        if child is not None:
            try:
                return self._call(child, data, memory)
            except CrashError:  # the fault may be the old process's; a new one decides
                if self._refuses and child.poll() is None:
                    raise
        return self._call(self._start(), data, memory)

    def _call(self, child: "subprocess.Popen[bytes]", data: tuple[bytes, ...], memory: int) -> bytearray:
        try:
            assert child.stdin is not None  # noqa: S101 - for the type checker
            assert child.stdout is not None  # noqa: S101
            for number in (len(data), memory, *map(len, data)):
                child.stdin.write(number.to_bytes(_LENGTH_BYTES, "little"))
            for part in data:
                child.stdin.write(part)
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
        except BaseException:  # an interrupt: nobody will read the rest of the answer
            _end(child)
            raise
        self._idle.setdefault(os.getpid(), []).append(child)
        if failed:
            raise CrashError(body.decode(errors="replace"))
        return body

    def close(self) -> None:
        """End the idle processes."""
        for child in self._idle.pop(os.getpid(), []):
            _end(child)

    def _idle_one(self) -> "subprocess.Popen[bytes] | None":
        idle = self._idle.get(os.getpid(), [])
        with contextlib.suppress(IndexError):
            while True:
                child = idle.pop()
                if child.poll() is None:
                    return child
                _end(child)
        return None

    def _start(self) -> "subprocess.Popen[bytes]":
        paths = [os.fspath(path) for path in sys.path]  # which may contain pathlib's paths
        command = [sys.executable or "python3", "-P", "-c", _SERVE, json.dumps(paths), self._target]
        try:
            child = subprocess.Popen(  # noqa: S603 - our own program
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # keeps Ctrl-C from reaching it
            )
        except OSError as exc:
            message = f"cannot start {command[0]} to decode in: {exc}"
            raise StartError(message) from exc
        try:
            assert child.stdout is not None  # noqa: S101 - for the type checker
            is_ready = _read(child.stdout, len(_READY)) == _READY
        except (OSError, EOFError):
            is_ready = False
        except BaseException:
            _end(child)
            raise
        if not is_ready:
            _end(child)
            message = f"{command[0]} cannot be used to decode in: it ended with status {child.returncode}"
            raise StartError(message)
        return child


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
            except OSError:  # unflushed bytes, and no reader
                continue
