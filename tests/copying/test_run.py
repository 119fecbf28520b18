"""Progress, and the command line."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    copy_pyramid,
    open_volume,
)
from precomputed_fs.pyramid import copies
from tests.copying.samples import IDENTITY, KEY, Run, make, read, voxels_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place


def test_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    copy_pyramid(volume, tmp_path / "b")
    assert capsys.readouterr() == ("", "")
    put = copies.put_chunk

    def slowly(*args: Any, **given: Any) -> int:
        time.sleep(0.02)
        return put(*args, **given)

    monkeypatch.setattr(copies, "put_chunk", slowly)
    copy_pyramid(volume, tmp_path / "c", progress=True)
    shown = capsys.readouterr().err
    assert f"copying to {tmp_path}/c" in shown
    assert "60/60" in shown
    assert "B/s" in shown
    assert "<00:0" in shown, "the time that remains"


def test_the_command(tmp_path: Path, run: Run) -> None:
    volume = make(tmp_path / "a")
    wish = ["--no-gzip", "--scale", KEY, "--chunk-size", 32, 32, 20, "--verify"]
    assert run(tmp_path / "a", tmp_path / "b", *wish) == (0, "", "")
    np.testing.assert_array_equal(read(tmp_path / "b"), volume[0][...])
    message = f"{tmp_path}/b: there is a pyramid already; --overwrite deletes that first"
    assert run(tmp_path / "a", tmp_path / "b") == (1, "", f"precomputed-fs: error: {message}\n")
    assert run(tmp_path / "a", tmp_path / "b", "--overwrite", "--sharding", "auto") == (0, "", "")
    np.testing.assert_array_equal(read(tmp_path / "b", 1), volume[1][...])


def test_the_command_encodes(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "a", scales=1)
    (tmp_path / "sharding").write_text(json.dumps(IDENTITY))
    wish = ["--encoding", "jpeg", "--parameter", "jpeg_quality=33", "--sharding", f"@{tmp_path}/sharding"]
    assert run(tmp_path / "a", tmp_path / "b", *wish) == (0, "", "")
    info = open_volume(tmp_path / "b")[0].info
    assert (info.encoding, info["jpeg_quality"], info["sharding"]) == ("jpeg", 33, IDENTITY)
    assert np.abs(read(tmp_path / "b")[..., 0].astype(int) - voxels_of()).mean() < 40


def test_the_command_tells_both_sides_apart(make_pyramid: Callable[[str], Place], tmp_path: Path, run: Run) -> None:
    original, copy = make_pyramid("s3"), make_pyramid("s3")
    make(original, chunk_size=(40, 40, 40))
    options = tmp_path / "options.json"
    options.write_text(json.dumps({**original.storage_options, "key": "wrong"}))
    endpoint = f"endpoint_url={original.storage_options['endpoint_url']}"
    done = run(
        original.url, copy.url, "--storage-options", f"@{options}", "--source-storage-options", "key=test",
        "--destination-storage-options", json.dumps({"key": "test"}), "--destination-storage-options", endpoint,
        "--attempts", 2,
    )  # fmt: skip
    assert done == (0, "", "")
    assert copy.contents() == original.contents()


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["--parameter", "jpeg_quality=3"]),
        (2, ["--encoding", "gif"]),
        (2, ["--encoding", "jpeg", "--parameter", "png_level=3"]),
        (2, ["--parameter", "three"]),
        (2, ["--sharding", "always"]),
        (2, ["--sharding", "@/nowhere"]),
        (2, ["--sharding", "[]"]),
        (2, ["--sharding", "{}"]),
        (3, ["--scale", "1_1_1"]),
        (1, ["--dask", "tcp://127.0.0.1:9", "--timeout", "0.5"]),
    ],
)
def test_the_command_refuses(tmp_path: Path, run: Run, code: int, arguments: list[str]) -> None:
    make(tmp_path / "a", scales=1)
    returned, out, error = run(tmp_path / "a", tmp_path / "b", *arguments)
    assert (returned, out) == (code, "")
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(("precomputed-fs: error: ", "precomputed-fs copy: error: "))
    assert not (tmp_path / "b").exists()


def test_the_command_says_what_is_not_there(tmp_path: Path, run: Run) -> None:
    code, _, error = run(tmp_path / "nothing", tmp_path / "b")
    assert code == 3
    assert f"{tmp_path}/nothing/info" in error
