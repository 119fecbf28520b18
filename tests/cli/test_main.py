"""The command line, as shells have it: what it prints where, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import io
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import textwrap
import threading
import time
import tomllib
import urllib.parse
import urllib.request
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np
import pytest
from PIL import Image

import precomputed_fs
from precomputed_fs import __main__, create_volume, open_volume
from precomputed_fs.cli import options as cli_options
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tests.support.places import Place

COMMAND = [sys.executable, "-m", "precomputed_fs"]
DEADLINE = 60.0
OFFSET = (-5, 7, 100)
SIZE = (40, 30, 20)
VOXELS = np.random.default_rng(0).integers(1, 250, SIZE).astype(np.uint8)
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
KEYS = ["8_8_8", "16_16_16", "32_32_32"]


def run(*arguments: Any, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    """Run a command in this process: to start another takes ten times as long."""
    command = [str(argument) for argument in arguments]
    stdout, stderr = io.BytesIO(), io.BytesIO()
    with io.TextIOWrapper(stdout, encoding) as out, io.TextIOWrapper(stderr, encoding) as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: Any = __main__.main(command)
            except SystemExit as exc:
                code = exc.code
        out.flush()
        err.flush()
        printed = [written.getvalue() for written in (stdout, stderr)]
    return subprocess.CompletedProcess(command, code, *printed)


def run_into(stdout: TextIO | None, stderr: TextIO | None, *arguments: Any) -> int:
    """Run a command in this process with these streams, then flush them, as the interpreter does at exit.

    None stands for a stream that the shell has closed.
    """
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = __main__.main([*map(str, arguments)])
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        if stderr is None and sys.stderr is not None:  # what `main` has opened instead
            sys.stderr.close()
    return code


def output(*arguments: Any) -> str:
    """Return what a command prints, which succeeds and says nothing else."""
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def error(code: int, *arguments: Any) -> str:
    """Return the one line that a command prints, which fails with a code."""
    done = run(*arguments)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    assert said.startswith("precomputed-fs: error: ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    return said


def pixels(png: bytes) -> NDArray[Any]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def make(url: Any, array: NDArray[Any] = VOXELS, **options: Any) -> str:
    given = {"resolution": (8, 8, 8), "voxel_offset": OFFSET, "chunk_size": (16, 16, 16)}
    return create_volume(url, array, **{**given, **options}).url


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("pyramid") / "a brain")


# ----------------------------------------------------------------------------------------------------------------- info


def test_info_prints_a_table(pyramid: str) -> None:
    assert output("info", pyramid) == (
        f"{pyramid}\n"
        "image of uint8, 1 channel, 3 scales\n"
        "Key       Size          Voxel size  Chunk size    Encoding  Sharded  Bytes\n"
        "8_8_8     40 x 30 x 20  8 nm        16 x 16 x 16  raw       no       23.44 KiB\n"
        "16_16_16  21 x 16 x 10  16 nm       16 x 16 x 16  raw       no       3.281 KiB\n"
        "32_32_32  11 x 9 x 5    32 nm       16 x 16 x 16  raw       no       495 B\n"
    )


def test_scales_are_listed_shown_and_copied_from_the_finest(coarsest_first: Path, tmp_path: Path) -> None:
    keys = ["4_4_4", "8_8_8", "16_16_16"]
    assert output("ls", coarsest_first).split() == keys
    assert [line.split()[0] for line in output("info", coarsest_first).splitlines()[3:]] == keys
    assert [scale["key"] for scale in json.loads(output("info", coarsest_first, "--json"))["scales"]] == keys
    output("slice", coarsest_first, "--z", 8, "--size", "full", "--out", tmp_path / "slice.png")
    assert pixels((tmp_path / "slice.png").read_bytes()).shape == (24, 32)
    output("copy", coarsest_first, tmp_path / "b", "--scale", keys[2], "--scale", keys[0])
    assert [scale["key"] for scale in json.loads((tmp_path / "b/info").read_text())["scales"]] == [keys[0], keys[2]]


def test_a_region_is_copied_and_downsampled(tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "a", VOXELS, resolution=(8, 8, 8), voxel_offset=OFFSET, chunk_size=16, scales=2)
    output("copy", tmp_path / "a", tmp_path / "b", "--box=-3:20,:,105:")
    copied = open_volume(tmp_path / "b")
    assert np.array_equal(copied[0][...], VOXELS[2:25, :, 5:, np.newaxis])
    assert (copied[0].voxel_offset, copied[1].voxel_offset) == ((-3, 7, 105), (-2, 3, 52))
    before = volume[1][...]
    volume[0][0:16, 9:25, 102:116] = 0
    output("downsample", tmp_path / "a", "--box", "0:16,9:17,102:116")
    after = open_volume(tmp_path / "a")[1]
    assert not after[0:8, 5:8, 51:58].any()
    assert np.array_equal(after[0:8, 9:], before[3:11, 6:])
    output("downsample", tmp_path / "a", "--method", "stride")
    assert not after[0:8, 5:12, 51:58].any()


@pytest.mark.parametrize("box", ["1:2", "1:2,3:4", "a:b,:,:", "1,2,3", "1:2:3,:,:"])
def test_a_region_that_is_none_is_refused(tmp_path: Path, box: str) -> None:
    done = run("downsample", tmp_path, "--box", box)
    assert done.returncode == 2
    assert b"expected X0:X1,Y0:Y1,Z0:Z1" in done.stderr


def test_info_as_json(pyramid: str) -> None:
    printed = json.loads(output("info", pyramid, "--json"))
    volume = open_volume(pyramid)
    assert {name: value for name, value in printed.items() if name != "scales"} == {
        "url": pyramid, "type": "image", "data_type": "uint8", "num_channels": 1,
    }  # fmt: skip
    for scale, given in zip(volume, volume.info.to_dict()["scales"], strict=True):
        described = printed["scales"].pop(0)
        for name in ("key", "size", "voxel_offset", "resolution", "encoding"):
            assert described.pop(name) == given[name]
        assert described == {
            "chunk_size": [16, 16, 16],
            "grid": list(scale.grid.shape),
            "sharded": False,
            "hidden": False,
            "bytes": np.prod(scale.shape),
        }
    assert printed["scales"] == []


def test_info_of_a_segmentation_in_shards(tmp_path: Path) -> None:
    url = make(tmp_path, VOXELS.astype(np.uint64), scales=1, sharding=True, encoding="compressed_segmentation")
    described, _, row = output("info", url).splitlines()[1:]
    assert described == "segmentation of uint64, 1 channel, 1 scale"
    assert row.split()[-4:] == ["compressed_segmentation", "yes", "187.5", "KiB"]
    assert json.loads(output("info", url, "--json"))["scales"][0]["sharded"] is True


def test_what_info_says_does_not_reach_the_terminal_as_it_is(tmp_path: Path) -> None:
    info = json.loads((Path(make(tmp_path)) / "info").read_bytes())
    key = "\x1b[31ma\nb\ud800"
    info["scales"][0]["key"] = key
    (tmp_path / "info").write_text(json.dumps(info))
    for command in ("info", "ls"):
        printed = output(command, tmp_path)
        assert "\x1b" not in printed
        assert r"\x1b[31ma\nb\ud800" in printed
    assert json.loads(output("ls", tmp_path, "--json"))["names"][0] == key


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_does_not_know_all_letters(tmp_path: Path, encoding: str) -> None:
    url = make(tmp_path, resolution=(4000, 4000, 4000))
    done = run("info", url, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "4 µm".encode(encoding, "backslashreplace") in done.stdout


# ------------------------------------------------------------------------------------------------------------------- ls


def test_ls_lists_scales(pyramid: str) -> None:
    assert output("ls", pyramid).splitlines() == KEYS
    assert json.loads(output("ls", pyramid, "--json")) == {"names": KEYS, "total": 3}


@pytest.mark.parametrize("key", ["8_8_8", "8_8_8/", "8 nm"])
def test_ls_lists_the_chunks_of_a_scale(pyramid: str, key: str) -> None:
    names = output("ls", pyramid, key).splitlines()
    assert sorted(names) == sorted(path.name.removesuffix(".gz") for path in (Path(pyramid) / "8_8_8").iterdir())
    assert json.loads(output("ls", pyramid, key, "--json", "--limit", 2)) == {"names": names[:2], "total": 12}


def test_ls_does_not_enumerate_what_is_huge(tmp_path: Path) -> None:
    info = json.loads((Path(make(tmp_path)) / "info").read_bytes())
    info["scales"][0]["size"] = [2**60] * 3
    (tmp_path / "info").write_text(json.dumps(info))
    done = run("ls", tmp_path, "8_8_8")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1000)
    assert done.stderr.decode() == (f"precomputed-fs: these are the first 1000 of {2**168}; --limit shows more\n")
    assert len(output("ls", tmp_path).splitlines()) == 3


# ------------------------------------------------------------------------------------------------------------------ cat


@pytest.mark.parametrize("options", [{}, {"flat": False}, {"gzip": False}, {"sharding": True}])
def test_cat_writes_a_chunk_however_it_is_stored(tmp_path: Path, options: dict[str, Any]) -> None:
    url = make(tmp_path, **options)
    done = run("cat", url, "8_8_8/-5-11_7-23_100-116")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == VOXELS[:16, :16, :16].tobytes("F")


def test_cat_writes_a_file(pyramid: str) -> None:
    assert json.loads(output("cat", pyramid, "info")) == json.loads((Path(pyramid) / "info").read_bytes())


def test_cat_writes_what_is_stored_under_a_name_with_a_suffix(tmp_path: Path) -> None:
    name = "8_8_8/-5-11_7-23_100-116.gz"
    assert run("cat", make(tmp_path, gzip=True), name).stdout == (tmp_path / name).read_bytes()


# ---------------------------------------------------------------------------------------------------------------- slice


def test_slice_makes_the_picture_that_show_makes(pyramid: str, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    volume = open_volume(pyramid)
    assert output("slice", pyramid, "--out", out) == ""
    np.testing.assert_array_equal(pixels(out.read_bytes()), np.asarray(volume.show()))
    assert output("slice", pyramid, "--out", out, "--x", "-3", "--y", 8, "--size", 9, "--limits", "-10", "99.5") == ""
    expected = volume.show(x=-3, y=8, size=9, limits=(-10, 99.5))
    np.testing.assert_array_equal(pixels(out.read_bytes()), np.asarray(expected))


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG"])
def test_slice_makes_a_jpeg(pyramid: str, tmp_path: Path, name: str) -> None:
    assert output("slice", pyramid, "--z", 104, "--size", "full", "--out", tmp_path / name) == ""
    with Image.open(tmp_path / name) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "L")
        assert np.abs(np.asarray(picture).astype(int) - VOXELS[:, :, 4].T).max() < 30


def test_what_is_transparent_is_white_in_a_jpeg(pyramid: str, tmp_path: Path) -> None:
    labels = np.zeros((16, 16, 16), np.uint32)
    labels[8:] = 7
    for url, seen in ((pyramid, [255]), (make(tmp_path / "labels", labels), [255, 255, 255])):
        png, jpeg = tmp_path / "x.png", tmp_path / "x.jpg"
        for out in (png, jpeg):
            output("slice", url, "--out", out)
        with Image.open(png) as with_alpha, Image.open(jpeg) as picture:
            assert picture.size == with_alpha.size
            mask = np.asarray(with_alpha)[..., -1] == 0
            assert mask.any()
            np.testing.assert_allclose(np.median(np.asarray(picture)[mask].reshape(mask.sum(), -1), axis=0), seen)
            opaque = np.asarray(with_alpha)[~mask][:, :-1].astype(int)
            there = np.asarray(picture)[~mask].reshape(opaque.shape).astype(int)
            assert np.median(np.abs(opaque - there)) <= 3


def test_slice_lays_labels_over_an_upright_picture(pyramid: str, tmp_path: Path) -> None:
    labels = create_volume(tmp_path / "labels", np.ones((9, 9, 9), np.uint32), resolution=16, voxel_offset=(0, 4, 52))
    out = tmp_path / "x.png"
    over = ("--overlay", labels.url, "--alpha", 0.5)
    assert output("slice", pyramid, "--out", out, "--orientation", "anatomical", *over) == ""
    shown = open_volume(pyramid).show(orientation="anatomical", overlay=labels, alpha=0.5)
    np.testing.assert_array_equal(pixels(out.read_bytes()), np.asarray(shown))
    assert "orientation: expected" in error(2, "slice", pyramid, "--out", out, "--orientation", "upright")


def test_slice_to_stdout(pyramid: str) -> None:
    done = run("slice", pyramid, "--out", "-", "--z", 104, "--size", "full")
    assert (done.returncode, done.stderr) == (0, b"")
    np.testing.assert_array_equal(pixels(done.stdout), VOXELS[:, :, 4].T)


def test_slice_of_a_scale_is_in_its_voxels(pyramid: str) -> None:
    done = run("slice", pyramid, "--out", "-", "--z", 52, "--scale", "16_16_16", "--size", "full")
    np.testing.assert_array_equal(pixels(done.stdout), open_volume(pyramid)["16_16_16"][:, :, 52, 0].T)


def test_slice_of_a_channel(tmp_path: Path) -> None:
    array = np.stack([VOXELS, 250 - VOXELS], -1)
    done = run("slice", make(tmp_path, array), "--out", "-", "--z", 104, "--size", "full", "--channel", 1)
    np.testing.assert_array_equal(pixels(done.stdout), array[:, :, 4, 1].T)


def test_slice_does_not_need_what_is_optional(pyramid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("PIL", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    assert __main__.main(["slice", pyramid, "--out", str(tmp_path / "x.png")]) == 0


# ------------------------------------------------------------------------------------------------------ other protocols


def test_storage_options_reach_a_bucket(make_pyramid: Callable[[str], Place], tmp_path: Path) -> None:
    bucket = make_pyramid("s3")
    make(bucket.url, storage_options=bucket.storage_options)
    given = {**bucket.storage_options}
    region = json.dumps(given.pop("client_kwargs"))
    in_file = tmp_path / "options.json"
    in_file.write_text(json.dumps(bucket.storage_options))
    ways = (
        [json.dumps(bucket.storage_options)],
        [f"@{in_file}"],
        [*(f"{key}={value}" for key, value in given.items()), f"client_kwargs:={region}"],
        [json.dumps({**bucket.storage_options, "key": "wrong"}), f"key={given['key']}"],
    )
    for way in ways:
        options = [argument for one in way for argument in ("--storage-options", one)]
        done = run("cat", bucket.url, "8_8_8/-5-11_7-23_100-116", *options)
        assert (done.returncode, done.stdout) == (0, VOXELS[:16, :16, :16].tobytes("F"))


@pytest.mark.parametrize(("flag", "signed"), [("--anon", False), ("--no-anon", True)])
def test_anon_is_without_credentials(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, flag: str, signed: bool
) -> None:
    bucket = make_pyramid("s3")
    make(bucket.url, storage_options=bucket.storage_options)
    bucket.server.log.clear()
    options = json.dumps({"endpoint_url": bucket.storage_options["endpoint_url"]})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    done = run("ls", bucket.url, flag, "--storage-options", options)
    assert done.returncode == (0 if signed else 4)  # it is no public bucket
    assert [("Authorization" in entry.headers) is signed for entry in bucket.server.log.entries()] == [True]


@pytest.mark.parametrize("text", ["secret-without-a-sign", "[1]", "{secret", "key:={secret", "@/nowhere/secret"])
def test_storage_options_that_are_none_are_not_repeated(text: str) -> None:
    done = run("info", "s3://bucket/brain", "--storage-options", text)
    assert done.returncode == 2
    said = done.stderr.decode().splitlines()[-1]
    assert said.startswith("precomputed-fs info: error: argument --storage-options: ")
    assert "secret" not in said


# --------------------------------------------------------------------------------------------------------- how it fails


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "no://such/scheme"], "no://"),
        (["cat", "{}", "../info"], "'../info' is not a path inside the pyramid"),
        (["slice", "{}", "--out", "-", "--z", "99"], "z: 99 is not inside of 100:120"),
        (["slice", "{}", "--out", "-", "--channel", "1"], "channel: 1 is not inside of 0:1"),
        (["slice", "{}", "--out", "-", "--size", "0"], "size: expected at least 1 pixel, got 0"),
        (["info", "{}", "--timeout", "-1"], "timeout > 0"),
        (["cat", "{}", "8_8_8/9-9_7-23_100-116"], "expected xmin < xmax"),
    ],
)
def test_wrong_usage(pyramid: str, arguments: list[str], said: str) -> None:
    assert said in error(2, *(argument.format(pyramid) for argument in arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["info"],
        ["paint", "{}"],
        ["slice", "{}"],
        ["slice", "{}", "--out", "-", "--z", "1.5"],
        ["slice", "{}", "--out", "x.tif"],
        ["slice", "{}", "--out", "-", "--size", "large"],
        ["info", "{}", "--no-gzip"],
    ],
)
def test_wrong_arguments(pyramid: str, arguments: list[str]) -> None:
    done = run(*(argument.format(pyramid) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"usage: precomputed-fs")
    assert b"Traceback" not in done.stderr


def test_what_is_not_there(pyramid: str, tmp_path: Path) -> None:
    assert f"{tmp_path}/info does not exist" in error(3, "info", tmp_path)
    assert f"{pyramid}/notes does not exist" in error(3, "cat", pyramid, "notes")
    assert "8_8_8/-5-11_7-23_101-117 does not exist" in error(3, "cat", pyramid, "8_8_8/-5-11_7-23_101-117")
    for command in (["ls", pyramid, "4_4_4"], ["slice", pyramid, "--out", "-", "--scale", "4_4_4"]):
        assert error(3, *command) == (
            f"precomputed-fs: error: {pyramid}: no scale '4_4_4'; "
            "there are 8_8_8 (8 nm), 16_16_16 (16 nm), 32_32_32 (32 nm)\n"
        )


@pytest.mark.parametrize(("status", "code"), [(404, 3), (403, 4), (401, 4), (500, 1), (418, 1)])
def test_what_a_server_answers(status: int, code: int) -> None:
    with servers.fault_server(servers.respond(status)) as server:
        assert server.url in error(code, "info", f"{server.url}/brain?sig=s3cr3t", "--attempts", 1)


def test_a_server_that_is_not_there() -> None:
    url = servers.refused_url()
    assert url in error(1, "info", url, "--attempts", 1)


def test_secrets_are_not_shown() -> None:
    with servers.fault_server(servers.respond(403, b"s3cr3t")) as server:
        url = server.url.replace("//", "//user:s3cr3t@") + "/brain?sig=s3cr3t"
        options = 'client_kwargs:={"headers": {"X-Token": "s3cr3t-too"}}'
        assert "s3cr3t" not in error(4, "cat", url, "info", "--storage-options", options, "--attempts", 1)
        assert server.log.entries()[0].headers["X-Token"] == "s3cr3t-too"


def test_what_is_damaged(tmp_path: Path) -> None:
    url = make(tmp_path, gzip=False)
    for path in (tmp_path / "8_8_8").iterdir():
        path.write_bytes(b"too short")
    assert "8_8_8" in error(5, "slice", url, "--out", "-", "--size", 40)
    (tmp_path / "info").write_text('{"scales": 7}')
    assert f"{url}/info: " in error(5, "info", url)
    (tmp_path / "info").write_bytes(b"\x1f\x8b no gzip")
    error(5, "info", url)


def test_what_cannot_be_written(pyramid: str, tmp_path: Path) -> None:
    assert "No such file or directory" in error(1, "slice", pyramid, "--out", tmp_path / "nowhere" / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_is_not_installed(pyramid: str, capsys: pytest.CaptureFixture[str]) -> None:
    def needs_more(*_: Any, **__: Any) -> None:
        message = "crackle needs crackle:\npip install 'precomputed-fs[codecs]'"
        raise ImportError(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_options, "open_volume", needs_more)
        assert __main__.main(["ls", pyramid]) == 1
    said = "precomputed-fs: error: crackle needs crackle: pip install 'precomputed-fs[codecs]'\n"
    assert capsys.readouterr().err == said


def test_a_warning_is_one_line(tmp_path: Path) -> None:
    url = make(tmp_path)
    for path in (tmp_path / "8_8_8").iterdir():
        path.unlink()
    with warnings.catch_warnings(action="default"):  # to pytest, warnings are errors
        done = run("slice", url, "--out", "-", "--size", "full")
    assert done.returncode == 0
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"precomputed-fs: warning: {url}: scale 8_8_8 (8 nm) has none of the 12 chunks")


# --------------------------------------------------------------------------------------------------- in a shell's hands


def redirected(to: str, *arguments: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a shell does with some of its streams redirected.

    What Python cannot write to a buffered stream, as streams are by default, it tries to write once more at exit.
    """
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {to}', "sh", *COMMAND, *map(str, arguments)],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )


def dev_full(*, unbuffered: bool = False) -> io.TextIOWrapper:
    """Open a stream to a device that is full."""
    device = Path("/dev/full").open("wb", buffering=0 if unbuffered else -1)  # noqa: SIM115 - the stream closes it
    return io.TextIOWrapper(device, write_through=unbuffered)


@pytest.mark.processes
def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """As ``precomputed-fs cat ... | head`` has it; the chunk is larger than a pipe holds."""
    url = make(tmp_path, np.zeros((128, 128, 128), np.uint8), chunk_size=(128, 128, 128), scales=1)
    command = [*COMMAND, "cat", url, "8_8_8/-5-123_7-135_100-228"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False, timeout=DEADLINE)
        assert (done.returncode, done.stderr) == (141, b"")
        said = io.StringIO()
        assert (run_into(pipe, said, "slice", url, "--out", "-"), said.getvalue()) == (141, "")


@pytest.mark.processes
def test_a_stdout_that_is_closed(pyramid: str) -> None:
    done = redirected(">&-", "info", pyramid)
    assert (done.returncode, done.stderr) == (1, b"precomputed-fs: error: stdout is closed\n")
    said = io.StringIO()
    assert run_into(None, said, "--version") == 1
    assert said.getvalue() == "precomputed-fs: error: stdout is closed\n"


@pytest.mark.processes
@needs_dev_full
def test_a_stdout_that_is_full(pyramid: str) -> None:
    done = redirected(">/dev/full", "info", pyramid)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"No space left on device" in done.stderr
    said = io.StringIO()
    with dev_full(unbuffered=True) as stdout:
        assert run_into(stdout, said, "info", pyramid) == 1
    assert said.getvalue().count("\n") == 1
    assert "No space left on device" in said.getvalue()


@pytest.mark.processes
@pytest.mark.parametrize(
    "to", ["2>&-", pytest.param("2>/dev/full", marks=needs_dev_full), pytest.param("unbuffered", marks=needs_dev_full)]
)
def test_a_stderr_that_nobody_reads(pyramid: str, tmp_path: Path, to: str) -> None:
    for arguments, code, printed in (
        (["info", tmp_path], 3, 0),
        (["ls", pyramid, "8_8_8", "--limit", "1"], 0, 1),  # says that there are more
        (["paint"], 2, 0),
    ):
        out = io.StringIO()
        with contextlib.nullcontext() if to == "2>&-" else dev_full(unbuffered=to == "unbuffered") as stderr:
            assert run_into(out, stderr, *arguments) == code
        assert out.getvalue().count("\n") == printed
    if to == "2>&-":
        done = redirected(to, "ls", pyramid, "8_8_8", "--limit", "1")
        assert (done.returncode, done.stdout.count(b"\n")) == (0, 1)


@needs_dev_full
def test_streams_that_both_fail(pyramid: str) -> None:
    with dev_full() as stdout, dev_full() as stderr:
        assert run_into(stdout, stderr, "info", pyramid) == 1
    assert run_into(None, None, "info", pyramid) == 1


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """Serve a pyramid whose chunks never come; the event is set once one is asked for."""
    make(tmp_path, gzip=False)
    asked, released = threading.Event(), threading.Event()

    async def handler(request: Any) -> Any:
        if request.path != "/info":
            asked.set()
            await asyncio.to_thread(released.wait, servers.DEADLINE)
        return await servers.files(tmp_path)(request)

    with servers.fault_server(handler) as server:
        yield server.url, asked
        released.set()


@pytest.mark.processes
def test_an_interrupt(waiting: tuple[str, threading.Event]) -> None:
    url, asked = waiting
    command = [*COMMAND, "slice", url, "--out", "-"]
    with servers.child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert asked.wait(DEADLINE)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=DEADLINE)
    assert time.monotonic() - started < 5
    assert (process.returncode, printed, said) == (130, b"", b"")


def test_progress_is_for_terminals(pyramid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precomputed_fs.volume.progress._PATIENCE", 0)
    arguments = ["slice", pyramid, "--out", tmp_path / "x.png"]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    with os.fdopen(end, "w") as stderr:
        assert run_into(io.StringIO(), stderr, *arguments) == 0
        assert b"reading 8_8_8:" in os.read(terminal, 4096)
    os.close(terminal)
    assert output(*arguments) == ""


def test_the_version() -> None:
    assert output("--version") == f"precomputed-fs {precomputed_fs.__version__}\n"


def test_exit_codes_are_in_the_help() -> None:
    printed = output("--help")
    for code in {*__main__._EXIT_CODES.values(), 130, 141}:
        assert f"\n  {code} " in printed
    for command in ("info", "ls", "cat", "slice", "copy", "downsample", "serve"):
        assert "--storage-options" in output(command, "--help")


def test_each_command_has_examples_that_it_takes() -> None:
    for name, module in __main__._COMMANDS.items():
        examples = module.EXAMPLES.splitlines()
        assert module.EXAMPLES in textwrap.dedent(output(name, "--help").partition("examples:\n")[2])
        parsed = [shlex.split(line.partition(">")[0])[1:] for line in examples if line.startswith("precomputed-fs ")]
        assert parsed
        for arguments in parsed:
            assert arguments[0] == name
            __main__._parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("ifno", "x"), "'info'"),
        (("info", "x", "--jsn"), "'--json'"),
        (("slice", "x", "--out", "y.png", "--scael", "0"), "'--scale'"),
        (("doctor", "x", "--reader", "tensorstor"), "'tensorstore'"),
    ],
    ids=str,
)
def test_a_typing_error_names_the_nearest(arguments: tuple[str, ...], meant: str) -> None:
    stderr = io.StringIO()
    assert run_into(io.StringIO(), stderr, *arguments) == 2
    assert stderr.getvalue().endswith(f"; did you mean {meant}?\n")


def test_a_scale_may_be_named_by_its_number_or_size(pyramid: str) -> None:
    first = output("ls", pyramid, open_volume(pyramid)[0].key)
    assert output("ls", pyramid, "0") == first
    assert output("ls", pyramid, open_volume(pyramid)[0].key.partition("_")[0] + "nm") == first
    assert "no scale 7" in error(3, "ls", pyramid, "7")


@pytest.mark.processes
def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(output("--print-completion", "bash"))
    line = (
        "COMP_WORDS=(precomputed-fs slice --sc); COMP_CWORD=2; _shtab_precomputed_fs 2>/dev/null; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", f". {script}; {line}"], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["--scale"]


def test_completion_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert r"pip install 'precomputed-fs[completion]'" in error(1, "--print-completion", "zsh")


def test_doctor_reports_on_the_readers_that_are_asked_about(pyramid: str) -> None:
    url = "memory://tests/cli/doctor"
    create_volume(url, VOXELS, resolution=8, voxel_offset=(1, 0, 0), overwrite=True)
    printed = output("doctor", url, "--reader", "tensorstore")
    assert "tensorstore           ok elsewhere" in printed
    assert "note: tensorstore: tensorstore cannot open memory://" in printed
    assert "cloud-volume" not in printed
    assert "neuroglancer-scripts" not in printed
    report = json.loads(output("doctor", url, "--reader", "tensorstore", "--json"))
    assert [*report["readers"]] == ["tensorstore"]
    assert [finding["id"] for finding in report["findings"]] == ["protocol"]


def test_what_the_guide_says() -> None:
    guide = Path(__file__).parents[2] / "precomputed_fs" / "guide"
    chapters = [chapter.read_text(encoding="utf-8") for chapter in guide.glob("*.md")]
    commands = [line for text in chapters for line in text.splitlines() if line.startswith("precomputed-fs ")]
    parsed = [__main__._parser().parse_args(shlex.split(line)[1:]) for line in commands]
    commands_shown = {args.command.__module__.rpartition(".")[2] for args in parsed}
    assert commands_shown == set(__main__._COMMANDS)
    for code in {*__main__._EXIT_CODES.values(), "130, 141"}:
        assert f"\n| {code} | " in (guide / "command-line.md").read_text(encoding="utf-8")


def test_the_script_is_this_command() -> None:
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "scripts"
    ]
    module, _, function = scripts["precomputed-fs"].partition(":")
    assert getattr(importlib.import_module(module), function) is __main__.main


# ---------------------------------------------------------------------------------------------------------------- serve


@pytest.mark.processes
def test_serve_until_interrupted(pyramid: str) -> None:
    with servers.child([*COMMAND, "serve", pyramid], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        view, url = (process.stdout.readline().decode().strip() for _ in range(2))
        np.testing.assert_array_equal(open_volume(url)[0][:, :, 103, 0], VOXELS[:, :, 3])
        assert process.stderr is not None
        source = [process.stderr.readline().decode() for _ in range(2)][1]
        with urllib.request.urlopen(view) as page:
            assert b"<script" in page.read()
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=DEADLINE)
    assert (process.returncode, printed, said) == (130, b"", b"")
    assert f"precomputed://{url};" in source


def test_serve_at_a_port_that_is_taken(pyramid: str) -> None:
    with servers.fault_server(servers.respond(404)) as server:
        error(1, "serve", pyramid, "--port", server.url.rpartition(":")[2])


def test_serve_follows_links_out_of_the_pyramid_if_told(
    pyramid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pyramid, tmp_path / "brain")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "brain" / "mesh").symlink_to("../secret")
    statuses = []

    class Interrupted:
        def wait(self) -> None:
            url = urllib.parse.urlsplit(cast("io.StringIO", sys.stdout).getvalue().split()[-1])
            with contextlib.closing(http.client.HTTPConnection(url.netloc, timeout=DEADLINE)) as connection:
                connection.request("GET", f"{url.path}/mesh")
                statuses.append(connection.getresponse().status)
            raise KeyboardInterrupt

    monkeypatch.setattr("precomputed_fs.cli.serve.threading", SimpleNamespace(Event=Interrupted))
    for options in ((), ("--follow-links",)):
        assert run_into(io.StringIO(), io.StringIO(), "serve", tmp_path / "brain", *options) == 130
    assert statuses == [502, 200]
