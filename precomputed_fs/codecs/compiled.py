"""When a function that Numba compiles takes over from the one that is always there.

To import Numba and to load a function from its cache takes about half a second, to compile the function two. So this
begins only once the other function has taken a while, and in the background: reads never wait for it.
"""

import contextlib
import importlib.util
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

_Function = TypeVar("_Function")

_WORTH = 0.25  # seconds that the other function takes

_log = logging.getLogger("precomputed_fs")


class Compiled(Generic[_Function]):
    """A function that may be compiled later, or never.

    Parameters
    ----------
    name : str
        What the function does, for the log.
    load : callable
        Imports Numba, and returns the function.
    """

    def __init__(self, name: str, load: Callable[[], _Function]) -> None:
        self._name = name
        self._load = load
        self._function: _Function | None = None
        self._loading = threading.Lock()  # held from when it begins, for good
        self._seconds = 0.0

    @property
    def function(self) -> _Function | None:
        """The function; None until it is compiled."""
        return self._function

    @contextlib.contextmanager
    def stood_in_for(self) -> Iterator[None]:
        """Add up the time that the other function takes; begin to compile when it is worth it."""
        begin = time.thread_time()
        try:
            yield
        finally:
            self._seconds += time.thread_time() - begin
            if self._seconds > _WORTH:
                self._begin()

    def load(self) -> None:
        """Compile now; if that fails, the other function is used on."""
        if importlib.util.find_spec("numba") is None or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
            return
        try:
            self._function = self._load()
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with an installation of Numba
            _log.warning("%s goes on without Numba, which failed: %s: %s", self._name, type(exc).__name__, exc)

    def _begin(self) -> None:
        if self._loading.acquire(blocking=False):
            # The interpreter waits for it at its end: LLVM must not be unloaded while it compiles.
            with contextlib.suppress(RuntimeError):  # no more threads can be started
                threading.Thread(target=self.load, name=f"compiles {self._name}").start()
