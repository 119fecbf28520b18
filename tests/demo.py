"""Show that it works: a brain through S3 and back, or a look at any pyramid.

``python -m tests.demo`` starts an embedded S3, lets neuroglancer-scripts' own
``volume-to-precomputed-pyramid`` write the MNI152 T1 template (packaged with nilearn: nothing is
downloaded) there through our accessor, reads every chunk of every scale back, compares with the
source voxel by voxel, and saves a picture of three orthogonal slices.

``python -m tests.demo URL`` makes that picture of an existing pyramid, reading only the chunks that
the slices cross.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
from neuroglancer_scripts.scripts import volume_to_precomputed_pyramid
from nilearn.datasets import load_mni152_template
from nilearn.image import new_img_like
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import precomputed_fs
from precomputed_fs import (
    DataAccessError,
    InvalidInfoError,
    Scale,
    URLError,
    Volume,
    get_accessor_for_url,
    open_volume,
)
from tests.support.servers import S3Server, s3_server

BUCKET = "demo"
PICTURE = Path("demo.png")
BIG_ENOUGH = 256  # voxels on the longest side: the coarsest such scale makes a good picture
MOST_PIXELS = 1 << 26  # what a slice may have

WIDTH, MARGIN, TITLE = 900, 12, 24  # pixels: the three slices, between them, below them
RGB = 3  # as many channels are shown in colour

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
    except (CannotShowError, DataAccessError, InvalidInfoError, URLError) as exc:
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
        options: dict[str, Any] = {"storage_options": s3.storage_options}
        print(f"{url} on {s3.endpoint}")

        started = time.perf_counter()
        write_with_neuroglancer_scripts(brain, url, options)
        written = time.perf_counter()
        vol = open_volume(url, missing="raise", progress=True, storage_options=s3.storage_options)
        voxels = {scale.key: scale[...] for scale in vol}
        read = time.perf_counter()

        report(vol, stored_bytes(s3, "mni152/"))
        print(f"written in {written - started:.1f} s, read in {read - written:.1f} s")
        print(request_summary(s3))

        slices = Slices(vol[0], ANATOMICAL_VIEWS)

    if not np.array_equal(voxels[vol[0].key][..., 0], np.asanyarray(brain.dataobj)):
        raise CannotShowError(f"{url}: what was read is not what was written")
    print(f"scale {vol[0].key} equals its source, voxel by voxel")
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


def report(vol: Volume, stored: Mapping[str, int]) -> None:
    """Print a line for each scale."""
    print(f"{'scale':>8} {'size':>15} {'chunks':>7} {'voxel bytes':>12} {'stored bytes':>12}")
    for scale in vol:
        size = " x ".join(map(str, scale.shape[:3]))
        chunks, voxel_bytes = math.prod(scale.grid.shape), scale.array.nbytes
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
    vol = open_volume(url)
    scale = good_scale(vol)
    print(f"{vol}; showing {scale}")
    return Slices(scale, STORED_VIEWS)


def good_scale(vol: Volume) -> Scale:
    """Return the coarsest scale that still makes a good picture, or else the finest."""
    good = [scale for scale in vol if max(scale.shape[:3]) >= BIG_ENOUGH]
    return min(good, key=lambda scale: max(scale.shape[:3])) if good else vol[0]


# ---------------------------------------------------------------- the picture


@dataclass(frozen=True)
class View:
    """How to look at a volume: which axis runs to the right (or left), which one down (or up)."""

    title: str
    right: int
    vertical: int
    upwards: bool = False
    leftwards: bool = False

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
STORED_VIEWS = (View("xy", 0, 1), View("xz", 0, 2), View("yz", 2, 1, leftwards=True))


class Slices:
    """The three middle slices of a scale, each (row, column, channel), from the top left."""

    def __init__(self, scale: Scale, views: Sequence[View]) -> None:
        self.scale = scale
        self.views = views
        self.middle = tuple(
            offset + size // 2 for offset, size in zip(scale.voxel_offset, scale.shape[:3], strict=True)
        )
        self.planes = [self._plane(view) for view in views]

    def _plane(self, view: View) -> NDArray[Any]:
        index: list[Any] = [slice(None)] * 3
        index[view.through] = self.middle[view.through]
        sizes = [size for axis, size in enumerate(self.scale.shape[:3]) if axis != view.through]
        if math.prod(sizes) > MOST_PIXELS:
            raise CannotShowError(
                f"scale {self.scale.key}: one slice has {math.prod(sizes):,} voxels; "
                f"this demo reads at most {MOST_PIXELS:,}"
            )
        plane: NDArray[Any] = self.scale[tuple(index)]
        rows = plane if view.vertical < view.right else plane.swapaxes(0, 1)
        return rows[:: -1 if view.upwards else 1, :: -1 if view.leftwards else 1]


def draw(slices: Slices) -> Image.Image:
    """Put the slices side by side, all at one physical scale, each with its title."""
    is_segmentation = slices.scale.volume.info.type == "segmentation"
    paint = segment_colours if is_segmentation else grey_levels(slices.planes)
    panels = [
        Image.fromarray(paint(plane)).resize(
            pixel_size(slices, view),
            Image.Resampling.NEAREST if is_segmentation else Image.Resampling.LANCZOS,
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
    extent = [size * step for size, step in zip(scale.shape[:3], scale.resolution, strict=True)]
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
