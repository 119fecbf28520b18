"""What all batches have in common: how much is in flight, and how progress is reported."""

from collections.abc import Iterable, Sized
from typing import Any, TypeVar

_T = TypeVar("_T")

Callback = Any
"""An `fsspec.callbacks.Callback`, such as its ``TqdmCallback``, or None; fsspec ships no types."""

IN_FLIGHT = 128
"""The default number of chunks, or of other values, of a batch in flight."""


def checked_in_flight(in_flight: int) -> int:
    """Check the number of values in flight."""
    if in_flight < 1:
        raise ValueError(f"in_flight: expected at least 1, got {in_flight!r}")
    return in_flight


def counted(items: Iterable[_T], callback: Callback) -> Iterable[_T]:
    """Tell a callback how many items there are, if they have a length."""
    if callback is not None and isinstance(items, Sized):
        callback.set_size(len(items))
    return items


def report(callback: Callback, count: int = 1) -> None:
    """Tell a callback of more items that are done."""
    if callback is not None:
        callback.relative_update(count)
