"""Progress: when it is shown."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from precomputed_fs import (
    Scale,
)
from tests.volume.samples import make, voxels


def test_short_reads_show_no_progress(scale: Scale, capsys: pytest.CaptureFixture[str]) -> None:
    scale[...]
    assert capsys.readouterr().err == ""


def test_progress_is_shown_if_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = make(tmp_path, progress=True, scales=2)
    err = capsys.readouterr().err
    assert "writing 8_8_40" in err
    volume[0].read(..., progress=False)
    assert capsys.readouterr().err == ""
    volume[0][...]
    assert re.search(r"reading 8_8_40: .*/45", capsys.readouterr().err)


@pytest.mark.parametrize(("is_terminal", "shows"), [(True, True), (False, False)])
def test_long_reads_show_progress_on_a_terminal(
    scale: Scale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool, shows: bool
) -> None:
    monkeypatch.setattr("precomputed_fs.volume.progress._PATIENCE", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    scale[...]
    assert ("reading 8_8_40" in capsys.readouterr().err) is shows
    scale.read(..., progress=False)
    assert capsys.readouterr().err == ""


def test_a_stream_without_isatty_is_not_a_terminal(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precomputed_fs.volume.progress._PATIENCE", 0)
    monkeypatch.setattr(sys, "stderr", object())
    assert np.array_equal(scale[...], voxels())
