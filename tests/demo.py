"""Show that it works: a brain through S3 and back, or a look at any pyramid.

``python -m tests.demo`` starts an embedded S3, lets neuroglancer-scripts' own
``volume-to-precomputed-pyramid`` write the MNI152 T1 template (packaged with nilearn: nothing is
downloaded) there through our accessor, reads every chunk of every scale back, compares with the
source voxel by voxel, and saves a picture of three orthogonal slices.

``python -m tests.demo URL`` makes that picture of an existing pyramid, reading only the chunks that
the slices cross.
"""

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
from neuroglancer_scripts.chunk_encoding import InvalidFormatError, InvalidInfoError, get_encoder
from neuroglancer_scripts.scripts import volume_to_precomputed_pyramid
from nilearn.datasets import load_mni152_template
from nilearn.image import new_img_like
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import precomputed_fs
from precomputed_fs import (
    Accessor,
    DataAccessError,
    NotFoundError,
    URLError,
    get_accessor_for_url,
)
from tests.servers import S3Server, s3_server

BUCKET = "demo"
PICTURE = Path("demo.png")
THREADS = 8
BIG_ENOUGH = 256  # voxels on the longest side: the coarsest such scale makes a good picture
MOST_CHUNKS = 4096  # what three slices may cost

WIDTH, MARGIN, TITLE = 900, 12, 24  # pixels: the three slices, between them, below them
RGB = 3  # as many channels are shown in colour

Coords = tuple[int, int, int, int, int, int]  # (x0, x1, y0, y1, z0, z1)
Triple = tuple[int, int, int]
Decode = Callable[[bytes, Triple], NDArray[Any]]  # bytes, shape -> (x, y, z, channel)
Paint = Callable[[NDArray[Any]], NDArray[np.uint8]]  # (row, column, channel) -> pixels


class CannotShowError(Exception):
    """What was found is beyond this demo."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", help="an existing pyramid (default: make one)")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to save the picture")
    args = parser.parse_args(argv)
    try:
        slices = show_pyramid(args.url) if args.url else brain_through_s3()
    except (CannotShowError, DataAccessError, URLError) as exc:
        print(f"cannot show it: {exc}", file=sys.stderr)
        return 1
    try:
        draw(slices).save(args.picture, format="PNG", optimize=True)
    except OSError as exc:
        print(f"cannot save it: {exc}", file=sys.stderr)
        return 1
    print(f"picture: {args.picture.resolve()}")
    return 0


# ---------------------------------------------------------------- a brain through S3


def brain_through_s3() -> "Slices":
    """Write the MNI152 template to an embedded S3, read it back, compare."""
    brain = mni152()
    url = f"s3://{BUCKET}/mni152"
    with nothing_between(), s3_server() as s3:
        s3.create_bucket(BUCKET)
        options = {"storage_options": s3.storage_options}
        print(f"{url} on {s3.endpoint}")

        started = time.perf_counter()
        write_with_neuroglancer_scripts(brain, url, options)
        written = time.perf_counter()
        acc = get_accessor_for_url(url, options)
        scales = read_scales(acc)
        volumes = {scale.key: read_whole(acc, scale) for scale in scales}
        read = time.perf_counter()

        report(scales, volumes, stored_bytes(s3, "mni152/"))
        print(f"written in {written - started:.1f} s, read in {read - written:.1f} s")
        print(request_summary(s3))

    finest = scales[0]
    if not np.array_equal(volumes[finest.key][..., 0], np.asanyarray(brain.dataobj)):
        raise CannotShowError(f"{url}: what was read is not what was written")
    print(f"scale {finest.key} equals its source, voxel by voxel")

    slices = Slices(finest, ANATOMICAL_VIEWS)
    slices.paste(finest.bounds, volumes[finest.key])
    return slices


@contextmanager
def nothing_between() -> Iterator[None]:
    """Let no proxy and no AWS setting of this machine come between the demo and its own S3."""
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    kept = {
        name: value for name, value in os.environ.items() if name.lower() not in proxies and not name.startswith("AWS_")
    }
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


def mni152() -> Any:
    """Return the T1 template as people store it: uint8, 1 mm, 197 x 233 x 189, axes R A S."""
    template = load_mni152_template(resolution=1)
    voxels = np.rint(template.get_fdata() * 255).astype(np.uint8)
    return new_img_like(template, voxels)


def write_with_neuroglancer_scripts(image: Any, url: str, options: Mapping[str, Any]) -> None:
    """Run ``volume-to-precomputed-pyramid``, with our accessor in the place of its own."""
    ours: dict[str, Any] = {
        "get_accessor_for_url": lambda url, given: get_accessor_for_url(url, {**given, **options}),
        "add_argparse_options": precomputed_fs.add_argparse_options,
        "DataAccessError": DataAccessError,
        "URLError": URLError,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.multiple("neuroglancer_scripts.accessor", **ours),
        mock.patch("neuroglancer_scripts.utils.init_logging_for_cmdline"),
    ):
        nifti = Path(folder) / "mni152.nii"
        nib.save(image, nifti)
        code = volume_to_precomputed_pyramid.main(["volume-to-precomputed-pyramid", str(nifti), url])
    if code != 0:
        raise CannotShowError(f"{url}: volume-to-precomputed-pyramid failed with exit code {code}")


def report(scales: Iterable["Scale"], volumes: Mapping[str, NDArray[Any]], stored: Mapping[str, int]) -> None:
    """Print a line for each scale."""
    print(f"{'scale':>8} {'size':>15} {'chunks':>7} {'voxel bytes':>12} {'stored bytes':>12}")
    for scale in scales:
        size = " x ".join(map(str, scale.size))
        chunks, voxel_bytes = math.prod(scale.grid), volumes[scale.key].nbytes
        print(f"{scale.key:>8} {size:>15} {chunks:>7,} {voxel_bytes:>12,} {stored[scale.key]:>12,}")


def stored_bytes(s3: S3Server, prefix: str) -> Counter[str]:
    """Return how many bytes each scale key under `prefix` takes in the bucket."""
    sizes: Counter[str] = Counter()
    for name in s3.keys(BUCKET):
        sizes[name.removeprefix(prefix).split("/")[0]] += len(s3.get(BUCKET, name)[0])
    return sizes


def request_summary(s3: S3Server) -> str:
    """Say how many requests of each kind the server has seen."""
    kinds = Counter(s3.log.methods())
    return f"S3 saw {kinds.total()} requests: " + ", ".join(
        f"{count} {method}" for method, count in kinds.most_common()
    )


# ---------------------------------------------------------------- a look at any pyramid


def show_pyramid(url: str) -> "Slices":
    """Read the three middle slices of the pyramid at `url`."""
    acc = get_accessor_for_url(url)
    scales = read_scales(acc)
    scale = good_scale(scales)
    size = " x ".join(map(str, scale.size))
    print(f"{len(scales)} scale(s); showing {scale.key}: {size} {scale.dtype.name}")
    slices = Slices(scale, STORED_VIEWS)
    absent = 0
    for coords, voxels in read_chunks(acc, scale, slices.chunks):
        if voxels is None:
            absent += 1
        else:
            slices.paste(coords, voxels)
    print(f"{len(slices.chunks) - absent} chunks read, {absent} absent (shown as zeros)")
    if absent == len(slices.chunks):
        print("warning: no chunk is there, the picture is empty", file=sys.stderr)
    return slices


def good_scale(scales: Sequence["Scale"]) -> "Scale":
    """Return the coarsest scale that still makes a good picture, or else the finest."""
    good = [scale for scale in scales if max(scale.size) >= BIG_ENOUGH]
    return min(good, key=lambda scale: max(scale.size)) if good else scales[0]


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Scale:
    """What the demo needs to know of one scale; xyz, in voxels and nanometres."""

    key: str
    size: Triple
    voxel_offset: Triple
    chunk_size: Triple
    resolution: tuple[float, float, float]
    channels: int
    dtype: np.dtype[Any]
    segmentation: bool
    decode: Decode

    @property
    def grid(self) -> Triple:
        """How many chunks there are along x, y, z."""
        return triple(-(-s // c) for s, c in zip(self.size, self.chunk_size, strict=True))

    @property
    def bounds(self) -> Coords:
        """Where the volume lies."""
        return box(self.voxel_offset, self.size)

    def chunk(self, cell: Sequence[int]) -> Coords:
        """Return where the chunk at `cell` of the grid lies."""
        low = [i * c for i, c in zip(cell, self.chunk_size, strict=True)]
        shape = map(min, self.chunk_size, (s - lo for s, lo in zip(self.size, low, strict=True)))
        return box((o + lo for o, lo in zip(self.voxel_offset, low, strict=True)), shape)


def read_scales(acc: Accessor) -> list[Scale]:
    """Fetch and understand `info`."""
    text = acc.fetch_file("info")
    try:
        info = json.loads(text)
        scales = [parse_scale(info, scale) for scale in info["scales"]]
    except (KeyError, TypeError, ValueError) as exc:
        raise CannotShowError(f"info: not what describes a volume: {exc!r}") from exc
    if not scales:
        raise CannotShowError("info: it lists no scale")
    return scales


def parse_scale(info: Mapping[str, Any], scale: Mapping[str, Any]) -> Scale:
    """Pick what is needed from one entry of `scales`."""
    x, y, z = map(float, scale["resolution"])
    return Scale(
        key=scale["key"],
        size=triple(scale["size"]),
        voxel_offset=triple(scale.get("voxel_offset", (0, 0, 0))),
        chunk_size=triple(scale["chunk_sizes"][0]),
        resolution=(x, y, z),
        channels=info["num_channels"],
        dtype=np.dtype(info["data_type"]),
        segmentation=info["type"] == "segmentation",
        decode=decoder(info, scale),
    )


def triple(numbers: Iterable[int]) -> Triple:
    """Return three integers, or raise ValueError."""
    x, y, z = map(int, numbers)
    return x, y, z


def box(low: Iterable[int], shape: Iterable[int]) -> Coords:
    """Return the coordinates (x0, x1, y0, y1, z0, z1) of a box."""
    (x, y, z), (sx, sy, sz) = low, shape
    return x, x + sx, y, y + sy, z, z + sz


def decoder(info: Mapping[str, Any], scale: Mapping[str, Any]) -> Decode:
    """Return a function from a chunk's bytes and shape to an array (x, y, z, channel)."""
    if scale["encoding"] == "raw":
        dtype = np.dtype(info["data_type"]).newbyteorder("<")
        channels = info["num_channels"]
        return lambda buf, shape: np.frombuffer(buf, dtype).reshape((*shape, channels), order="F")
    try:
        encoder = get_encoder(info, scale)
    except InvalidInfoError as exc:
        raise CannotShowError(f"info: {exc}; more encodings come with a later version") from exc
    return lambda buf, shape: encoder.decode(buf, shape).T


def read_whole(acc: Accessor, scale: Scale) -> NDArray[Any]:
    """Read all chunks of a scale into one array (x, y, z, channel)."""
    volume = np.zeros((*scale.size, scale.channels), scale.dtype, order="F")
    cells = itertools.product(*map(range, scale.grid))
    for coords, voxels in read_chunks(acc, scale, [scale.chunk(cell) for cell in cells]):
        if voxels is None:
            raise CannotShowError(f"scale {scale.key}: the chunk at {coords} is absent")
        x0, x1, y0, y1, z0, z1 = coords
        volume[x0:x1, y0:y1, z0:z1] = voxels
    return volume


def read_chunks(acc: Accessor, scale: Scale, wanted: Sequence[Coords]) -> Iterator[tuple[Coords, NDArray[Any] | None]]:
    """Read and decode chunks in a few threads; an absent one comes as None."""
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = {pool.submit(partial(read_chunk, acc, scale), coords): coords for coords in wanted}
        bar = tqdm(as_completed(jobs), f"reading {scale.key}", len(jobs), unit="chunk")
        for job in bar:
            yield jobs[job], job.result()


def read_chunk(acc: Accessor, scale: Scale, coords: Coords) -> NDArray[Any] | None:
    """Read and decode one chunk; None where the store says that there is none."""
    x0, x1, y0, y1, z0, z1 = coords
    try:
        buf = acc.fetch_chunk(scale.key, coords)
    except NotFoundError:
        return None
    try:
        return scale.decode(buf, (x1 - x0, y1 - y0, z1 - z0))
    except (ValueError, InvalidFormatError) as exc:
        raise CannotShowError(f"scale {scale.key}: the chunk at {coords} does not decode: {exc}") from exc


# ---------------------------------------------------------------- the picture


@dataclass(frozen=True)
class View:
    """How to look at a volume: which axis runs to the right, which one down (or up)."""

    title: str
    right: int
    vertical: int
    upwards: bool = False

    @property
    def through(self) -> int:
        """The axis that one looks along."""
        return 3 - self.right - self.vertical


# Of a volume with axes R A S: superior or anterior is up, the left hemisphere is on the left.
ANATOMICAL_VIEWS = (
    View("axial", 0, 1, upwards=True),
    View("coronal", 0, 2, upwards=True),
    View("sagittal", 1, 2, upwards=True),
)
# As Neuroglancer shows a volume of which it knows nothing else.
STORED_VIEWS = (View("xy", 0, 1), View("xz", 0, 2), View("zy", 2, 1))


class Slices:
    """The three middle slices of a scale, put together from chunks."""

    def __init__(self, scale: Scale, views: Sequence[View]) -> None:
        self.scale = scale
        self.views = views
        self.middle = triple(o + s // 2 for o, s in zip(scale.voxel_offset, scale.size, strict=True))
        self.chunks = self._crossed()
        self.planes = [
            np.zeros((scale.size[v.vertical], scale.size[v.right], scale.channels), scale.dtype) for v in views
        ]

    def _crossed(self) -> list[Coords]:
        """Return the chunks that the slices cross, each once."""
        scale = self.scale
        found: set[Coords] = set()
        for view in self.views:
            cells = [range(n) for n in scale.grid]
            axis = view.through
            i = (self.middle[axis] - scale.voxel_offset[axis]) // scale.chunk_size[axis]
            cells[axis] = range(i, i + 1)
            if math.prod(map(len, cells)) > MOST_CHUNKS:
                raise CannotShowError(
                    f"scale {scale.key}: one slice crosses {math.prod(map(len, cells)):,} chunks; "
                    f"this demo reads at most {MOST_CHUNKS:,}"
                )
            found.update(map(scale.chunk, itertools.product(*cells)))
        return sorted(found)

    def paste(self, coords: Coords, voxels: NDArray[Any]) -> None:
        """Lay the voxels (x, y, z, channel) of one chunk into the slices that cross it."""
        low, high = coords[::2], coords[1::2]
        for view, plane in zip(self.views, self.planes, strict=True):
            axis, at = view.through, self.middle[view.through]
            if low[axis] <= at < high[axis]:
                cut = voxels.take(at - low[axis], axis)
                rows, columns = (
                    slice(low[a] - self.scale.voxel_offset[a], high[a] - self.scale.voxel_offset[a])
                    for a in (view.vertical, view.right)
                )
                plane[rows, columns] = cut if view.vertical < view.right else cut.swapaxes(0, 1)


def draw(slices: Slices) -> Image.Image:
    """Put the slices side by side, all at one physical scale, each with its title."""
    paint = segment_colours if slices.scale.segmentation else grey_levels(slices.planes)
    panels = [
        Image.fromarray(paint(plane[::-1] if view.upwards else plane)).resize(
            pixel_size(slices, view),
            Image.Resampling.NEAREST if slices.scale.segmentation else Image.Resampling.LANCZOS,
        )
        for view, plane in zip(slices.views, slices.planes, strict=True)
    ]
    width = sum(panel.width + MARGIN for panel in panels) + MARGIN
    tallest = max(panel.height for panel in panels)
    height = tallest + 2 * MARGIN + TITLE
    picture = Image.new(panels[0].mode, (width, height))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TITLE * 2 // 3)
    left = MARGIN
    for view, panel in zip(slices.views, panels, strict=True):
        picture.paste(panel, (left, MARGIN + (tallest - panel.height) // 2))
        title = f"{view.title}, {'xyz'[view.through]} = {slices.middle[view.through]}"
        middle_bottom = (left + panel.width / 2, height - MARGIN / 2)
        pen.text(middle_bottom, title, fill="white", font=font, anchor="mb")
        left += panel.width + MARGIN
    return picture


def pixel_size(slices: Slices, view: View) -> tuple[int, int]:
    """Return the width and height of a panel, such that all panels together have WIDTH."""
    scale = slices.scale
    extent = [size * step for size, step in zip(scale.size, scale.resolution, strict=True)]
    nm_per_pixel = sum(extent[view.right] for view in slices.views) / WIDTH
    return (
        max(1, round(extent[view.right] / nm_per_pixel)),
        max(1, round(extent[view.vertical] / nm_per_pixel)),
    )


def grey_levels(planes: Sequence[NDArray[Any]]) -> Paint:
    """Return a painter whose black and white suit all planes alike."""
    values = np.concatenate([plane.ravel() for plane in planes]).astype(np.float64)
    finite = values[np.isfinite(values)]
    black, white = np.percentile(finite, (0.1, 99.9)) if finite.size else (0.0, 1.0)
    span = (white - black) or 1.0

    def paint(plane: NDArray[Any]) -> NDArray[np.uint8]:
        levels = np.clip(
            (np.nan_to_num(plane, nan=black, posinf=white, neginf=black) - black) / span * 255, 0, 255
        ).astype(np.uint8)
        pixels: NDArray[np.uint8] = levels if plane.shape[2] == RGB else levels[:, :, 0]
        return pixels

    return paint


def segment_colours(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """Paint each segment in a colour of its own, and 0 black."""
    ids = plane[..., 0].astype(np.uint64)
    mixed = ids * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: neighbours fall far apart
    colours: NDArray[np.uint8] = np.stack([(mixed >> np.uint64(s)).astype(np.uint8) for s in (56, 48, 40)], axis=-1)
    colours[...] |= 0x40  # bright
    colours[ids == 0] = 0
    return colours


if __name__ == "__main__":
    sys.exit(main())
