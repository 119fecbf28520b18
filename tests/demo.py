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
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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

WIDTH, GAP, MARGIN, TITLE = 900, 8, 12, 24  # pixels: the three slices, between them, around them, below them


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

        slices = slices_of(vol[0], "anatomical")

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
    return slices_of(scale, "neuroglancer")


def good_scale(vol: Volume) -> Scale:
    """Return the coarsest scale that still makes a good picture, or else the finest."""
    good = [scale for scale in vol if max(scale.shape[:3]) >= BIG_ENOUGH]
    return min(good, key=lambda scale: max(scale.shape[:3])) if good else vol[0]


# ---------------------------------------------------------------- the picture


@dataclass(frozen=True)
class Slices:
    """The three middle slices of a scale, side by side at one physical scale, on black."""

    picture: Image.Image
    lefts: Sequence[float]
    """The middle of each slice along the picture, in pixels."""

    titles: Sequence[str]


def slices_of(scale: Scale, orientation: str) -> Slices:
    """Read and draw slices that have WIDTH together."""
    x, y, z = (size * step for size, step in zip(scale.shape[:3], scale.resolution, strict=True))
    for sizes in itertools.combinations(scale.shape[:3], 2):
        if math.prod(sizes) > MOST_PIXELS:
            raise CannotShowError(
                f"scale {scale.key}: one slice has {math.prod(sizes):,} voxels; this demo reads at most {MOST_PIXELS:,}"
            )
    widths = (x, x, y if orientation == "anatomical" else z)
    size = max(1, round(max(x, y, z) * WIDTH / sum(widths)))
    at = [offset + count // 2 for offset, count in zip(scale.voxel_offset, scale.shape[:3], strict=True)]
    shown = scale.show(x=at[0], y=at[1], z=at[2], size=size, orientation=orientation)
    picture = Image.new("RGBA", shown.size, "black")
    picture.alpha_composite(shown.convert("RGBA"))
    pixels = [max(1, round(width * size / max(x, y, z))) for width in widths]
    lefts = [sum(pixels[:i]) + GAP * i + pixels[i] / 2 for i in range(len(pixels))]
    titles = [f"{axis} = {at['xyz'.index(axis)]}" for axis in "zyx"]
    if orientation == "anatomical":
        titles = [f"{name}, {title}" for name, title in zip(("axial", "coronal", "sagittal"), titles, strict=True)]
    return Slices(picture.convert(shown.mode.removesuffix("A")), lefts, titles)


def draw(slices: Slices) -> Image.Image:
    """Draw the slices, each with its title."""
    width, height = slices.picture.size
    whole = Image.new(slices.picture.mode, (width + 2 * MARGIN, height + 2 * MARGIN + TITLE))
    whole.paste(slices.picture, (MARGIN, MARGIN))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(TITLE * 2 // 3)
    for left, title in zip(slices.lefts, slices.titles, strict=True):
        pen.text((MARGIN + left, whole.height - MARGIN / 2), title, fill="white", font=font, anchor="mb")
    return whole


if __name__ == "__main__":
    sys.exit(main())
