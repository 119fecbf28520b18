"""How the caller hears about a long or odd operation: a progress bar, and warnings that point at his own line."""

import importlib.util
import sys
import time
import warnings
from typing import Any, Self

_PATIENCE = 2.0  # seconds before progress is shown


class Progress:
    """A progress bar that appears once something takes long; also a callback of batches.

    Parameters
    ----------
    title : str
        The operation, such as ``"reading 8_8_40"``.
    total : int, optional
        Number of units, if it is known.
    shows : bool, optional
        Whether to show it at once, or never; by default after two seconds, in a notebook or on a terminal.
    unit : str
        What is counted.
    """

    def __init__(self, title: str, total: int | None, shows: bool | None, unit: str = "chunk") -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._done = 0
        self._shows = shows
        self._stays = bool(shows)
        self._due = time.monotonic() + (_PATIENCE if shows is None else 0)
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def _is_complete(self) -> bool:
        return self._total is not None and self._done >= self._total

    def expect(self, count: int) -> None:
        """Add units that were not known before."""
        self._total = count + (self._total or 0)
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.refresh()

    def set_size(self, size: int) -> None:
        """Set the number of units, as batches do that know how many there are."""
        self._total = size

    def relative_update(self, count: int, note: str = "") -> None:
        """Add finished units; the note is shown at the end of the bar."""
        self._done += count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._shows is not False and time.monotonic() >= self._due and not self._is_complete:
            self._shows = self._shows or _can_show()
            if self._shows:
                self._bar = _tqdm()(
                    total=self._total, desc=self._title, unit=self._unit, initial=self._done, leave=self._stays
                )


def _can_show() -> bool:
    return _in_notebook() or getattr(sys.stderr, "isatty", lambda: False)()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())  # as tqdm.autonotebook has it: Colab's shell is another class


def _tqdm() -> Any:  # noqa: ANN401 - tqdm ships no types
    if _in_notebook() and importlib.util.find_spec("ipywidgets"):  # tqdm's widget warns without
        import tqdm.notebook  # noqa: PLC0415

        return tqdm.notebook.tqdm
    import tqdm.std  # noqa: PLC0415

    return tqdm.std.tqdm


def warn(message: str) -> None:
    """Warn at the line of the first caller outside of this package."""
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(1), 2  # noqa: SLF001 - no other way to inspect callers
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, level)
