"""When what Numba compiles takes over: after enough work, once, in the background; never where it fails."""

from __future__ import annotations

import importlib.util
import threading
import time
from typing import TYPE_CHECKING

import pytest

from precomputed_fs.codecs import compiled
from precomputed_fs.codecs.compiled import Compiled

if TYPE_CHECKING:
    from collections.abc import Callable


def work(function: Compiled[str], seconds: float) -> None:
    with function.stood_in_for():
        begin = time.thread_time()
        while time.thread_time() - begin < seconds:
            pass


def test_it_is_loaded_once_the_work_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_WORTH", 0.02)
    loaded, go_on = [], threading.Event()

    def load() -> str:
        loaded.append(threading.current_thread().name)
        assert go_on.wait(20)
        return "machine code"

    function = Compiled("adding", load)
    work(function, 0.015)
    assert not loaded
    work(function, 0.015)
    work(function, 0.03)
    assert function.function is None, "the other one goes on meanwhile"
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "compiles adding":
            assert not thread.daemon, "LLVM must not be unloaded while it compiles"
            thread.join(20)
    assert loaded == ["compiles adding"]
    assert function.function == "machine code"


@pytest.mark.parametrize("error", [ImportError("Numba needs NumPy 2.3 or less"), OSError(28, "no space left")])
def test_numba_that_fails_is_logged_and_done_without(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def load() -> str:
        raise error

    function = Compiled("adding", load)
    function.load()
    assert function.function is None
    assert caplog.messages == [f"adding goes on without Numba, which failed: {type(error).__name__}: {error}"]


def test_numba_that_is_not_installed_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else find(name))
    function = Compiled("adding", lambda: pytest.fail("it was loaded"))
    function.load()
    assert function.function is None
    assert not caplog.messages


def test_numba_may_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    function = Compiled("adding", lambda: pytest.fail("it was loaded"))
    function.load()
    assert function.function is None


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the interpreter ends."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(compiled, "_WORTH", 0)
    monkeypatch.setattr(threading.Thread, "start", fail)
    function = Compiled("adding", lambda: "machine code")
    work(function, 0.001)
    assert function.function is None
