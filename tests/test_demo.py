"""The demo: a brain through its own S3 and back, and a look at pyramids that other tools made."""

import contextlib
import io
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tensorstore
from neuroglancer_scripts.scripts import volume_to_precomputed_pyramid
from nilearn.image import new_img_like
from numpy.typing import NDArray
from PIL import Image

from tests import demo
from tests.support.servers import (
    fault_server,
    files,
    http_server,
    latency,
    nginx_installed,
    nginx_server,
    refused_url,
    respond,
)

Array = NDArray[Any]
OFFSET = (-100, 50, 7)  # voxels


# ------------------------------------------------------------------------------------------------------------- the runs


@dataclass(frozen=True)
class Run:
    """One run of the demo."""

    code: int
    out: str
    err: str
    picture: Path

    def pixels(self) -> Array:
        with Image.open(self.picture) as image:
            assert image.format == "PNG"
            pixels: Array = np.asarray(image)
            return pixels


def run_demo(folder: Path, *arguments: str) -> Run:
    picture = folder / "picture.png"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = demo.main([*arguments, "--picture", str(picture)])
    return Run(code, out.getvalue(), err.getvalue(), picture)


@pytest.fixture(scope="module")
def through_s3(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the demo without a URL."""
    return run_demo(tmp_path_factory.mktemp("through-s3"))


# --------------------------------------------------------------------------------------------------- what is to be seen


@dataclass(frozen=True)
class View:
    """A middle slice of a volume with axes 0, 1, 2: which axis runs to the right (or left), which one down (or up)."""

    right: int
    vertical: int
    up: bool = False
    left: bool = False

    def of(self, volume: Array) -> Array:
        """Return the rows of the slice, from the top."""
        through = 3 - self.right - self.vertical
        plane: Array = volume.take(volume.shape[through] // 2, axis=through)
        rows = plane if self.vertical < self.right else plane.swapaxes(0, 1)
        rows = rows[:, ::-1] if self.left else rows
        return rows[::-1] if self.up else rows


ANATOMICAL = (View(0, 1, up=True), View(0, 2, up=True), View(1, 2, up=True))
STORED = (View(0, 1), View(0, 2), View(2, 1, left=True))  # as Neuroglancer's panels: test_display.py


def panels(pixels: Array, volume: Array, views: Sequence[View], resolution: Sequence[float]) -> list[Array]:
    """Cut a picture into its three panels, which are about 900 pixels wide together and of one scale."""
    extent = [size * step for size, step in zip(volume.shape, resolution, strict=False)]
    longest = max(extent)
    pixel = longest / round(longest * 900 / sum(extent[view.right] for view in views))
    sizes = [(round(extent[view.right] / pixel), round(extent[view.vertical] / pixel)) for view in views]
    left, found = 12, []
    for width, height in sizes:
        found.append(pixels[12 : 12 + height, left : left + width])
        left += width + 8
    assert pixels.shape[:2] == (max(height for _, height in sizes) + 2 * 12 + 24, left + 4)
    return found


def likeness(panel: Array, rows: Array) -> float:
    """Correlate a panel with the slice that it should show; 1 is equal up to brightness and contrast."""
    shown = np.asarray(Image.fromarray(panel).resize(rows.shape[1::-1], Image.Resampling.BOX), np.float64)
    return float(np.corrcoef(shown.ravel(), rows.astype(np.float64).ravel())[0, 1])


def assert_shows(
    run: Run, volume: Array, views: Sequence[View] = STORED, resolution: Sequence[float] = (1, 1, 1)
) -> None:
    """Check that each panel shows its slice, and shows it the right way up and round."""
    for panel, view in zip(panels(run.pixels(), volume, views, resolution), views, strict=True):
        rows = view.of(volume)
        found = likeness(panel, rows)
        assert found > 0.98
        turned = [other for other in (rows[::-1], rows[:, ::-1], rows[::-1, ::-1]) if not np.array_equal(other, rows)]
        assert found > max(likeness(panel, other) for other in turned)


# --------------------------------------------------------------------------------------------------- through its own S3


def test_it_succeeds(through_s3: Run) -> None:
    assert through_s3.code == 0, through_s3.err


def test_it_says_where_the_pyramid_is(through_s3: Run) -> None:
    assert re.match(r"s3://demo/mni152 on http://127\.0\.0\.1:\d+\n", through_s3.out)


@pytest.mark.parametrize(
    ("key", "size", "chunks", "voxels"),
    [("1mm", "197 x 233 x 189", 48, 197 * 233 * 189), ("2mm", "99 x 117 x 95", 8, 99 * 117 * 95)],
)
def test_it_prints_a_line_for_each_scale(through_s3: Run, key: str, size: str, chunks: int, voxels: int) -> None:
    match = re.search(rf"^ *{key} +{size} +{chunks} +{voxels:,} +([\d,]+)$", through_s3.out, re.MULTILINE)
    assert match
    assert 0.1 < int(match[1].replace(",", "")) / voxels < 0.3  # as gzip has it


def test_it_prints_seconds(through_s3: Run) -> None:
    match = re.search(r"^written in (\d+\.\d) s, read in (\d+\.\d) s$", through_s3.out, re.MULTILINE)
    assert match
    assert 0 < float(match[1]) < 60


def test_it_prints_requests(through_s3: Run) -> None:
    match = re.search(r"^S3 saw (\d+) requests: (.+)$", through_s3.out, re.MULTILINE)
    assert match
    counts = {method: int(count) for count, method in (part.split() for part in match[2].split(", "))}
    assert sum(counts.values()) == int(match[1])
    objects = 1 + 48 + 8
    assert counts["PUT"] >= objects
    assert counts["GET"] >= objects


def test_it_says_that_it_compared_voxel_by_voxel(through_s3: Run) -> None:
    assert "scale 1mm equals its source, voxel by voxel\n" in through_s3.out


def test_it_shows_progress(through_s3: Run) -> None:
    for what in ("writing", "computing scale 2mm", "reading 1mm", "reading 2mm"):
        assert re.search(rf"{what}: 100%", through_s3.err)


def test_it_prints_the_path_of_the_picture_last(through_s3: Run) -> None:
    assert through_s3.out.splitlines()[-1] == f"picture: {through_s3.picture.resolve()}"


def test_the_picture_shows_the_brain_upright(through_s3: Run) -> None:
    assert_shows(through_s3, np.asanyarray(demo.mni152().dataobj), ANATOMICAL)


def test_the_picture_has_a_title_below_each_panel(through_s3: Run) -> None:
    titles = through_s3.pixels()[-36:]
    thirds = np.array_split(titles, 3, axis=1)
    assert [bool((third == 255).any()) for third in thirds] == [True] * 3


def test_the_picture_in_the_readme_is_what_the_demo_draws(through_s3: Run) -> None:
    with Image.open(Path(demo.__file__).with_name("mni152.png")) as kept:
        np.testing.assert_allclose(np.asarray(kept, float), through_s3.pixels().astype(float), atol=2)


def test_settings_of_the_machine_do_not_get_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may reach the world through a proxy only; the demo's S3 is on the machine itself."""
    brain = small_brain()
    monkeypatch.setattr(demo, "mni152", lambda: brain)
    for setting in ("http_proxy", "HTTPS_PROXY", "all_proxy", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"):
        monkeypatch.setenv(setting, refused_url())
    run = run_demo(tmp_path)
    assert run.code == 0, run.err
    assert os.environ["AWS_PROFILE"] == refused_url()


def test_a_voxel_that_comes_back_changed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = demo.write_with_neuroglancer_scripts

    def write_another(image: Any, url: str, options: Mapping[str, Any]) -> None:
        voxels = np.array(image.dataobj)
        voxels[33, 33, 33] ^= 1
        write(new_img_like(image, voxels), url, options)

    brain = small_brain()
    monkeypatch.setattr(demo, "mni152", lambda: brain)
    monkeypatch.setattr(demo, "write_with_neuroglancer_scripts", write_another)
    run = run_demo(tmp_path)
    assert run.code == 1
    assert run.err.endswith("cannot show it: s3://demo/mni152: what was read is not what was written\n")
    assert "equals its source" not in run.out
    assert not run.picture.exists()


# ---------------------------------------------------------------------------------------------- pyramids of other tools


@cache
def small_brain() -> Any:
    """Return the template thinned out to 3 mm: 66 x 78 x 63."""
    return demo.mni152().slicer[::3, ::3, ::3]


@cache
def small_voxels() -> NDArray[np.uint8]:
    voxels: NDArray[np.uint8] = np.ascontiguousarray(small_brain().dataobj)
    return voxels


def with_neuroglancer_scripts(folder: Path, *options: str, voxels: Array | None = None) -> str:
    """Write a pyramid with the untouched tool; return its path, which has a space."""
    image = small_brain() if voxels is None else nib.Nifti1Image(voxels, np.eye(4))
    nib.save(image, folder / "source.nii")
    url = str(folder / "a pyramid")
    assert volume_to_precomputed_pyramid.main(["", *options, str(folder / "source.nii"), url]) == 0
    return url


def with_tensorstore(folder: Path, voxels: Array | None, **changed: Any) -> str:
    """Write one scale with tensorstore; `voxels` are (x, y, z) or (x, y, z, channel), None for no chunk at all."""
    shape = (66, 78, 63) if voxels is None else voxels.shape
    scale = {
        "key": "only",
        "size": shape[:3],
        "voxel_offset": OFFSET,
        "resolution": (8.0, 8.0, 16.0),
        "encoding": "raw",
        "chunk_size": (32, 32, 16),
    }
    volume = {
        "data_type": "uint8" if voxels is None else voxels.dtype.name,
        "type": "image",
        "num_channels": (*shape, 1)[3],
    }
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {name: changed.pop(name, value) for name, value in volume.items()},
        "scale_metadata": scale | changed,
        "create": True,
    }
    store = tensorstore.open(spec).result()
    if voxels is not None:
        store[...] = voxels.reshape(store.shape)
    return str(folder)


ON_DISK: dict[str, Callable[[Path], str]] = {
    "neuroglancer-scripts raw": with_neuroglancer_scripts,
    "neuroglancer-scripts raw, flat, no gzip": lambda folder: with_neuroglancer_scripts(folder, "--flat", "--no-gzip"),
    "neuroglancer-scripts jpeg": lambda folder: with_neuroglancer_scripts(folder, "--encoding", "jpeg"),
}


@pytest.mark.parametrize("pyramid", ON_DISK)
def test_a_pyramid_on_disk_is_shown(tmp_path: Path, pyramid: str) -> None:
    url = ON_DISK[pyramid](tmp_path)
    run = run_demo(tmp_path, url)
    assert run.code == 0, run.err
    assert re.fullmatch(
        r"<Volume .*: image of uint8, 1 scale>; showing <Scale 3mm: 66 x 78 x 63 x 1 uint8, 3 mm, \w+>\n"
        rf"picture: {re.escape(str(run.picture))}\n",
        run.out,
    )
    assert_shows(run, small_voxels())


def test_the_picture_goes_to_the_current_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.main([with_neuroglancer_scripts(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(f"picture: {tmp_path.resolve() / 'demo.png'}\n")
    assert (tmp_path / "demo.png").stat().st_size > 1000


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_segments_get_a_colour_each_and_zero_is_black(tmp_path: Path, encoding: str) -> None:
    voxels = small_voxels() // 32
    url = with_neuroglancer_scripts(tmp_path, "--type", "segmentation", "--encoding", encoding, voxels=voxels)
    run = run_demo(tmp_path, url)
    assert run.code == 0, run.err
    for panel, view in zip(panels(run.pixels(), voxels, STORED, (1, 1, 1)), STORED, strict=True):
        rows = view.of(voxels)
        at_row, at_column = (
            ((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(rows.shape, panel.shape, strict=False)
        )
        colours = panel[at_row[:, None], at_column[None, :]]
        pairs = {
            (int(label), tuple(colour)) for label, colour in zip(rows.ravel(), colours.reshape(-1, 3), strict=True)
        }
        assert len(pairs) == len({label for label, _ in pairs}) == len({colour for _, colour in pairs}) > 3
        assert (0, (0, 0, 0)) in pairs


def test_a_voxel_offset_and_anisotropic_voxels_are_minded(tmp_path: Path) -> None:
    voxels = small_voxels().astype(np.uint16) * 200
    run = run_demo(tmp_path, with_tensorstore(tmp_path, voxels))
    assert run.code == 0, run.err
    assert "showing <Scale only: 66 x 78 x 63 x 1 uint16, 8 x 8 x 16 nm, raw>\n" in run.out
    assert_shows(run, voxels, resolution=(8, 8, 16))


SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 0,
    "hash": "identity",
    "minishard_bits": 1,
    "shard_bits": 1,
}


def test_a_sharded_pyramid_is_shown(tmp_path: Path) -> None:
    url = with_tensorstore(tmp_path, small_voxels(), sharding=SHARDING)
    assert {path.suffix for path in (tmp_path / "only").iterdir()} == {".shard"}
    run = run_demo(tmp_path, url)
    assert run.code == 0, run.err
    assert_shows(run, small_voxels(), resolution=(8, 8, 16))


def test_colours_are_shown(tmp_path: Path) -> None:
    red, green = small_voxels(), small_voxels()[::-1]
    run = run_demo(tmp_path, with_tensorstore(tmp_path, np.stack([red, green, 0 * red], axis=-1)))
    assert run.code == 0, run.err
    for panel, view in zip(panels(run.pixels(), red, STORED, (8, 8, 16)), STORED, strict=True):
        assert likeness(panel[..., 0], view.of(red)) > 0.98
        assert likeness(panel[..., 1], view.of(green)) > 0.98
        assert not panel[..., 2].any()


def test_numbers_that_are_none_are_black(tmp_path: Path) -> None:
    voxels = small_voxels().astype(np.float32)
    voxels[voxels == 0] = np.nan
    run = run_demo(tmp_path, with_tensorstore(tmp_path, voxels))
    assert run.code == 0, run.err
    darkest = float(np.nanpercentile(voxels, 0.5))  # is shown as black, too
    assert_shows(run, np.nan_to_num(voxels, nan=darkest), resolution=(8, 8, 16))


@pytest.mark.parametrize("value", [7.0, np.nan, np.inf])
def test_a_volume_of_one_value_is_shown(tmp_path: Path, value: float) -> None:
    run = run_demo(tmp_path, with_tensorstore(tmp_path, np.full((40, 40, 40), value, np.float32)))
    assert run.code == 0, run.err


def test_absent_chunks_are_black(tmp_path: Path) -> None:
    """Tensorstore does not store chunks that are all zero."""
    voxels = small_voxels().copy()
    voxels[:32] = 0
    run = run_demo(tmp_path, with_tensorstore(tmp_path, voxels))
    assert run.code == 0, run.err
    xy, _, _ = panels(run.pixels(), voxels, STORED, (8, 8, 16))
    assert not xy[:, : xy.shape[1] * 28 // 66].any()
    assert xy.max() > 200


def test_a_pyramid_without_any_chunk_is_warned_about(tmp_path: Path) -> None:
    url = with_tensorstore(tmp_path, None)
    with pytest.warns(UserWarning, match="is the URL right"):
        assert run_demo(tmp_path, url).code == 0


def test_the_coarsest_scale_that_is_big_enough_is_shown(tmp_path: Path) -> None:
    """Of 600, 300, 150 and 75 voxels."""
    voxels = np.tile(small_voxels()[:60, :40, :30], (10, 1, 1))
    run = run_demo(tmp_path, with_neuroglancer_scripts(tmp_path, voxels=voxels))
    assert run.code == 0, run.err
    assert "4 scales>; showing <Scale 2mm: 300 x 20 x 15 x 1 uint8," in run.out


# ------------------------------------------------------------------------------------------------------------ over HTTP


@pytest.mark.parametrize(
    "server",
    [
        http_server,
        pytest.param(nginx_server, marks=pytest.mark.skipif(not nginx_installed(), reason="nginx is not installed")),
    ],
)
def test_a_pyramid_is_shown_over_http(tmp_path: Path, server: Callable[[Path], Any]) -> None:
    with_neuroglancer_scripts(tmp_path, "--flat")
    with server(tmp_path) as running:
        run = run_demo(tmp_path, f"{running.url}/a pyramid")
    assert run.code == 0, run.err
    assert_shows(run, small_voxels())


def test_only_the_chunks_that_the_slices_cross_are_read(tmp_path: Path) -> None:
    with_tensorstore(tmp_path, small_voxels() | 1)

    def name(cell: Sequence[int]) -> str:
        lows = [offset + i * chunk for offset, i, chunk in zip(OFFSET, cell, (32, 32, 16), strict=True)]
        highs = [
            min(low + chunk, offset + size)
            for low, chunk, offset, size in zip(lows, (32, 32, 16), OFFSET, (66, 78, 63), strict=True)
        ]
        return "/only/" + "_".join(f"{low}-{high}" for low, high in zip(lows, highs, strict=True))

    grid = (3, 3, 4)
    crossed = [cell for cell in itertools.product(*map(range, grid)) if cell[0] == 1 or cell[1] == 1 or cell[2] == 1]
    with fault_server(latency(0.02, files(tmp_path))) as server:
        run = run_demo(tmp_path, server.url)
        asked = Counter(entry.path for entry in server.log.entries())
    assert run.code == 0, run.err
    assert asked.pop("/info") == 1
    assert asked == {name(cell): cell[:2].count(1) + (cell[2] == 1) for cell in crossed}  # once for each slice


def test_the_query_of_a_url_is_not_shown(tmp_path: Path) -> None:
    with_tensorstore(tmp_path, small_voxels())
    with http_server(tmp_path) as server:
        run = run_demo(tmp_path, f"{server.url}?signature=sesame")
    assert run.code == 0, run.err
    assert "sesame" not in run.out + run.err


# ------------------------------------------------------------------------------------------------- what cannot be shown


def info_only(folder: Path, info: object) -> str:
    (folder / "info").write_text(info if isinstance(info, str) else json.dumps(info))
    return str(folder)


def changed_info(folder: Path, **changed: Any) -> str:
    """Write a good `info`, but for what is changed in its scale."""
    scale = {"key": "only", "size": [64, 64, 64], "chunk_sizes": [[64, 64, 64]], "resolution": [1, 1, 1]}
    scale |= {"encoding": "raw", "voxel_offset": [0, 0, 0]}
    return changed_volume(folder, scales=[scale | changed])


def changed_volume(folder: Path, **changed: Any) -> str:
    """Write an `info` without scales, but for what is changed."""
    return info_only(folder, {"type": "image", "data_type": "uint8", "num_channels": 1} | changed)


def with_broken_shard(folder: Path) -> str:
    url = with_tensorstore(folder, small_voxels(), sharding=SHARDING)
    for shard in (folder / "only").glob("*.shard"):
        shard.write_bytes(shard.read_bytes()[:-100])
    return url


def with_broken_chunk(folder: Path, encoding: str) -> str:
    url = changed_info(
        folder, encoding=encoding, **({"compressed_segmentation_block_size": [8, 8, 8]} if "_" in encoding else {})
    )
    info = json.loads((folder / "info").read_text())
    info_only(folder, info | {"data_type": "uint32" if "_" in encoding else "uint8"})
    (folder / "only").mkdir()
    (folder / "only/0-64_0-64_0-64").write_bytes(b"not a chunk")
    return url


def with_broken_gzip(folder: Path) -> str:
    url = with_neuroglancer_scripts(folder, "--flat")
    chunk = folder / "a pyramid/3mm/0-64_0-64_0-63.gz"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    return url


CANNOT_BE_SHOWN: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (lambda folder: f"{folder}/none", r"{}/none/info does not exist"),
    "missing in memory": (lambda folder: "memory://no/where", "memory://no/where/info does not exist"),
    "refused": (lambda folder: f"{refused_url()}/p", "cannot read http://127.0.0.1:"),
    "unknown scheme": (lambda folder: "gopher://host/p", "gopher"),
    "one colon": (lambda folder: "s3:bucket/p", "two slashes"),
    "not JSON": (lambda folder: info_only(folder, "<html>"), "info: expected JSON"),
    "a list": (lambda folder: info_only(folder, []), "info: expected a JSON object"),
    "a mesh": (lambda folder: info_only(folder, {"@type": "neuroglancer_legacy_mesh"}), "neuroglancer_legacy_mesh"),
    "no scales": (lambda folder: changed_volume(folder, scales=[]), "info: scales: expected at least 1"),
    "two sizes": (lambda folder: changed_info(folder, size=[64, 64]), "scales[0].size: expected 3 integers"),
    "another encoding": (lambda folder: changed_info(folder, encoding="wavelets"), "scales[0].encoding"),
    "broken shard": (with_broken_shard, "cannot read {}/only/"),
    "huge": (lambda folder: changed_info(folder, size=[2**31] * 3), "one slice has 4,611,686,018,427,387,904 voxels"),
    "broken raw": (lambda folder: with_broken_chunk(folder, "raw"), "{}/only/0-64_0-64_0-64: "),
    "broken jpeg": (lambda folder: with_broken_chunk(folder, "jpeg"), "{}/only/0-64_0-64_0-64: "),
    "broken compressed_segmentation": (
        lambda folder: with_broken_chunk(folder, "compressed_segmentation"),
        "{}/only/0-64_0-64_0-64: ",
    ),
    "broken gzip": (with_broken_gzip, "{}/a pyramid/3mm/0-64_0-64_0-63.gz: "),
}


@pytest.mark.parametrize("reason", CANNOT_BE_SHOWN)
def test_what_cannot_be_shown_is_said_in_one_line(tmp_path: Path, reason: str) -> None:
    make, message = CANNOT_BE_SHOWN[reason]
    run = run_demo(tmp_path, make(tmp_path))
    assert run.code == 1
    (said,) = [line for line in run.err.splitlines() if "chunk/s" not in line and "?chunk" not in line and line]
    assert said.startswith("cannot show it: ")
    assert message.replace("{}", str(tmp_path)) in said
    assert not run.picture.exists()


@pytest.mark.parametrize("status", [401, 403, 410])
def test_a_refusal_is_told_from_a_missing_pyramid(tmp_path: Path, status: int) -> None:
    with fault_server(respond(status)) as server:
        run = run_demo(tmp_path, server.url)
    assert run.code == 1
    assert f"cannot read {server.url}/info" in run.err
    assert str(status) in run.err


def test_a_picture_that_cannot_be_saved_is_said_in_one_line(tmp_path: Path) -> None:
    url = with_tensorstore(tmp_path, small_voxels())
    run = run_demo(tmp_path / "no folder", url)
    assert run.code == 1
    assert run.err.splitlines()[-1].startswith("cannot save it: ")
    assert "no folder/picture.png" in run.err
