"""Fixtures of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import (
    __main__,
)
from precomputed_fs.codecs import Codec

if TYPE_CHECKING:
    from tests.copying.samples import Run


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to decode or encode voxels."""

    def refuse(*_: Any) -> Any:
        pytest.fail("voxels were decoded")

    monkeypatch.setattr(Codec, "decode", refuse)
    monkeypatch.setattr(Codec, "encode", refuse)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command; returns its exit code, and what it prints to stdout and stderr."""

    def running(*arguments: Any) -> tuple[int, str, str]:
        try:
            code = __main__.main(["copy", *map(str, arguments)])
        except SystemExit as exc:  # of argparse
            code = int(exc.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return running
