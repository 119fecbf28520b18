"""Numbers of bytes, read from texts."""

import numpy as np
import pytest

from precomputed_fs.format.byte_sizes import bytes_in, readable_bytes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, 0),
        (np.int64(7), 7),
        ("12B", 12),
        ("100 MB", 100_000_000),
        ("0.1 kb", 100),
        (" .5 GiB ", 1 << 29),
        ("2tib", 2 << 40),
    ],
)  # fmt: skip
def test_numbers_and_texts_are_bytes(given: int | str, expected: int) -> None:
    assert bytes_in(given) == expected


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "", "100", "1 XB", "-1 MB", "1 MB 2", None])
def test_anything_else_is_refused(wrong: int | str) -> None:
    with pytest.raises(ValueError, match=r"^cache: expected a number of bytes, or a text such as '100 MB'"):
        bytes_in(wrong, "cache")


def test_bytes_are_shown_in_their_largest_unit() -> None:
    assert [readable_bytes(size) for size in (999, 1000, 5 << 30, 3e18)] == ["999 B", "1.0 kB", "5.4 GB", "3000.0 PB"]
