"""What newcomers type by mistake, and what they are told: a row for each, with what the message must contain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from aiohttp import web

import precomputed_fs
from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    URLError,
    create_volume,
)
from precomputed_fs.errors import ReadOnlyError
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BRAIN = np.arange(64 * 48 * 32, dtype=np.uint8).reshape(64, 48, 32)


class Mistake(NamedTuple):
    typed: str
    """Runs where `vol` is open at ``lab/brain``, `s` is its scale, `b` an array, `bucket` the options of a bucket."""

    error: type[Exception]
    told: str
    """A pattern."""


MISTAKES = [
    # volumes and their scales
    Mistake("vol[0:10, 0:10]", TypeError, r"a sequence of scales: vol\[0\]\[0:10, 0:10\] are voxels of the finest"),
    Mistake("vol[0.5]", TypeError, r"vol\[0\]\[0\.5\]"),
    Mistake("vol[5]", IndexError, "no scale 5; there are 1"),
    Mistake("vol['8_8_4']", KeyError, "no scale '8_8_4'; there are 8_8_40 .*; did you mean '8_8_40'"),
    Mistake("vol.shape", AttributeError, r"vol\[0\]\.shape is that of the finest"),
    Mistake("vol[0:10] = 5", TypeError, r"vol\[0\]\[0:10\] = \.\.\. writes to the finest one"),
    Mistake("np.asarray(vol)", TypeError, r"np\.asarray\(vol\[0\]\) reads"),
    Mistake("vol.at_resolution(4)", KeyError, "no scale of 4 nm; there are 8_8_40"),
    Mistake("vol.info['sizes']", KeyError, "no member 'sizes'"),
    Mistake("vol.info.scales[0]['chunk_size']", KeyError, "did you mean 'chunk_sizes'"),
    Mistake("vol.downsample('avg')", ValueError, "got 'avg'; did you mean 'average'"),
    Mistake("vol.downsample('mean')", ValueError, "got 'mean'; did you mean 'average'"),
    # indices
    Mistake("s[0.5]", IndexError, r"x: expected an integer or a slice, got 0\.5; scale\.box"),
    Mistake(
        "s[:, 0.5:3]", IndexError, r"y: expected integers, which count voxels, got 0\.5:3; scale\.box\(low, high, u"
    ),
    Mistake("s[b > 3]", IndexError, r"a mask of shape \(64, 48, 32\): read first.* scale\[\.\.\.\]\[mask\]"),
    Mistake("s[[1, 2, 3]]", IndexError, r"scale\.sample\(points\)"),
    Mistake("s[None]", IndexError, "read first, and add axes then"),
    Mistake("s['x']", IndexError, "got 'x'"),
    Mistake(
        "s[0:65]",
        IndexError,
        r"x: 0:65 is not inside of 0:64, the bounds of scale .* \([^)]*m\) .* scale\.read\(box, fill=0\) pads",
    ),
    Mistake("s[-1]", IndexError, r"absolute coordinates.* scale\.array counts from 0"),
    Mistake("s[0, 0, 0, 0, 0]", IndexError, r"4 axes \(x, y, z, channel\), got 5"),
    Mistake("s[0, 0, 0, 5]", IndexError, "channel: 5 is outside of 1 elements"),
    Mistake("s[0:10:0]", ValueError, "step must not be 0"),
    Mistake("s.mean()", AttributeError, r"scale\[\.\.\.\]\.mean"),
    # writing
    Mistake("s[0:2, 0:2, 0:2] = 300", TypeError, r"300 does not fit in uint8 \(0 to 255\)"),
    Mistake("s[0:2, 0:2, 0:2] = -1", TypeError, "-1 does not fit"),
    Mistake("s[0:2, 0:2, 0:2] = np.zeros((2, 2, 2))", TypeError, r"array\.astype\('uint8'\)"),
    Mistake("s[0:2, 0:2, 0:2] = b", ValueError, r"expected an array of shape \(2, 2, 2, 1\), got \(64, 48, 32\)"),
    Mistake("s[0:4:2] = 5", ValueError, "read it, change it, write it"),
    Mistake("s[0:100] = 5", IndexError, "not inside of 0:64"),
    # creating
    Mistake("create_volume('x', b)", TypeError, "resolution: expected the size of a voxel, .*nanometres"),
    Mistake("create_volume('x', b, resolution=(8, 8))", ValueError, "resolution: .*3"),
    Mistake("create_volume('x', b, resolution=(8, 8, 0))", ValueError, "resolution: "),
    Mistake("create_volume('x', b, resolution='8 nanos')", ValueError, "resolution: .*nm"),
    Mistake("create_volume('x', b, resolution=8, voxel_offset=5)", ValueError, "voxel_offset: expected 3 "),
    Mistake("create_volume('x', b, resolution=8, type='seg')", ValueError, "type: .*did you mean 'segmentation'"),
    Mistake("create_volume('x', b, resolution=8, type='labels')", ValueError, "did you mean 'segmentation'"),
    Mistake("create_volume('x', b, resolution=8, encoding='jpg')", ValueError, "did you mean 'jpeg'"),
    Mistake("create_volume('x', b, resolution=8, jpeg_quality=80)", TypeError, "pass encoding='jpeg'"),
    Mistake("create_volume('x', b, resolution=8, downsampling='mode.')", ValueError, "did you mean 'mode'"),
    Mistake("create_volume('x', b, resolution=8, scales=0)", ValueError, "scales: expected at least 1"),
    Mistake("create_volume('x', b, resolution=8, scales=[0, 1])", TypeError, "scales: expected a number of scales"),
    Mistake("create_volume('x', b, resolution=8, sharding='auto')", TypeError, "sharding: expected True, False or a m"),
    Mistake("create_volume('x', b, resolutions=8)", TypeError, "did you mean 'resolution'"),
    Mistake("create_volume('x', b, resolution=8, overwrit=True)", TypeError, "did you mean 'overwrite'"),
    Mistake("create_volume('x', b.astype(float), resolution=8)", TypeError, r'array\.astype\("float32"\)'),
    Mistake("create_volume('x', b.astype('int64'), resolution=8)", TypeError, r'astype\("uint64"\)'),
    Mistake("create_volume('x', b[0], resolution=8)", ValueError, r"array\.reshape\(48, 32, 1\)"),
    Mistake("create_volume('x', {'a': b}, resolution=8)", TypeError, "got dict: pass one array of it"),
    Mistake("create_volume(b, 'x', resolution=8)", TypeError, r"create_volume\(url, array\).* the URL comes first"),
    Mistake("create_volume('x', vol, resolution=8)", TypeError, r"vol\[0\]"),
    Mistake("create_volume('x', vol.info, resolution=8)", TypeError, "resolution: for arrays; `info` says it itself"),
    Mistake("create_volume('lab/brain', b, resolution=8)", AlreadyExistsError, "overwrite=True replaces it"),
    Mistake("create_volume('http://127.0.0.1:9/x', b, resolution=8)", ReadOnlyError, "cannot be written to"),
    Mistake("create_volume('a file/x', b, resolution=8)", DataAccessError, "is a file, not a folder"),
    # what is not a pyramid
    Mistake("open_volume('nowhere')", NotFoundError, r"info does not exist; .*\(looked under 6 names\)$"),
    Mistake("open_volume('lab')", NotFoundError, "there are pyramids in it: .*/lab/brain, .*/lab/labels$"),
    Mistake("open_volume('lab/brian')", NotFoundError, "nothing is there; did you mean 'brain'"),
    Mistake("open_volume('lab/brain/info')", NotFoundError, "did you mean the pyramid, .*/lab/brain"),
    Mistake("open_volume('lab/brain/8_8_40')", NotFoundError, r"open_volume\('.*/lab/brain'\)\['8_8_40'\]"),
    Mistake("open_volume('lab/brain/8_8_40/0-64_0-48_0-32')", NotFoundError, r"\['8_8_40'\]"),
    Mistake("open_volume('brain.nii.gz')", NotFoundError, r"create_volume\(url, '.*/brain\.nii\.gz'\)"),
    Mistake("open_volume('$HOME/brain')", NotFoundError, r"os\.path\.expandvars"),
    Mistake(
        "open_volume('s3://mybucket/lab', storage_options=bucket)", NotFoundError, "in it: s3://mybucket/lab/brain"
    ),
    Mistake("open_volume('s3://mybuket/lab', storage_options=bucket)", NotFoundError, "NoSuchBucket.* its name right"),
    Mistake("open_volume('html')", InvalidInfoError, "expected JSON, got HTML"),
    Mistake("open_volume('incomplete')", InvalidInfoError, "data_type, num_channels, scales: missing"),
    # what is not a URL
    Mistake("open_volume(None)", TypeError, "expected a string, a path or a UPath, got NoneType"),
    Mistake("open_volume(b)", TypeError, r"create_volume\(url, array\)"),
    Mistake("open_volume(vol)", TypeError, "open already"),
    Mistake(r"open_volume('C:\\Users\\me\\brain')", URLError, "Windows.*/mnt/c/Users/me/brain"),
    Mistake("open_volume('s3:/mybucket/lab')", URLError, "s3://mybucket/lab"),
    Mistake("open_volume('s3//mybucket/lab')", URLError, "a colon is missing: s3://mybucket/lab"),
    Mistake("open_volume('s3://')", URLError, "names no bucket"),
    Mistake("open_volume('htps://host/x')", URLError, "did you mean 'https'"),
    Mistake("open_volume('aws://mybucket/lab')", URLError, "s3://bucket/path"),
    Mistake("open_volume('hdfs://node/x')", URLError, "pip install pyarrow"),
    Mistake("open_volume('zarr://s3://mybucket/lab')", URLError, "xarray and zarr"),
    Mistake("open_volume('https://neuroglancer-demo.appspot.com/#!s3://x')", URLError, "a link to Neuroglancer"),
    Mistake("open_volume('https://console.aws.amazon.com/s3/buckets/lab?prefix=x/')", URLError, "at s3://lab/x"),
    # options
    Mistake("open_volume('lab/brain', mising='raise')", TypeError, "did you mean 'missing'"),
    Mistake("open_volume('lab/brain', missing='nan')", ValueError, "expected one of zeros, raise, got 'nan'"),
    Mistake("open_volume('lab/brain', storage_option={})", TypeError, "did you mean 'storage_options'"),
    Mistake("open_volume('s3://x', key='a')", TypeError, r"storage_options=\{'key': \.\.\.\}"),
    Mistake("open_volume('lab/brain', timeout='30')", ValueError, "timeout"),
    Mistake("open_volume('s3://x', storage_options='anon')", TypeError, "storage_options: expected a mapping such as"),
    Mistake("open_volume('s3://x', storage_options={'endpont_url': 'x'})", TypeError, "did you mean 'endpoint_url'"),
    Mistake("open_volume('s3://x', storage_options={'region': 'x'})", TypeError, "'client_kwargs': {'region_name'"),
    Mistake("open_volume('gs://x', storage_options={'tokn': 'x'})", TypeError, "did you mean 'token'"),
    Mistake(
        "open_volume('s3://x', storage_options=bucket | {'endpoint_url': 'h:9'})", DataAccessError, "begins with h"
    ),
    Mistake(
        "open_volume('s3://x/y', storage_options=denied)", AccessDeniedError, "anonymously, as no cred.*AWS_PROFILE"
    ),
    # pictures and the rest
    Mistake("vol.show(z=1000)", IndexError, r"z: 1000 is not inside of 0:32, absolute voxels of scale .* \([^)]*m\)"),
    Mistake("vol.show(z=1.5)", TypeError, r"z: expected an integer, got 1\.5"),
    Mistake("vol.show(overlays=vol)", TypeError, "did you mean 'overlay'"),
    Mistake("s.read(np.s_[0:10], fil=0)", TypeError, "did you mean 'fill'"),
    Mistake("s.sample([(0, 0, 0)], units='nm')", TypeError, "did you mean 'unit'"),
    Mistake("vol.view(layout='2panel')", ValueError, "layout: expected one of 4panel.*did you mean '4panel'"),
    Mistake("vol.neuroglancer_url()", ValueError, r"use view\(\)"),
    Mistake("copy_pyramid('lab/brain', 'lab/brain')", ValueError, "the same place"),
    Mistake(
        "copy_pyramid('lab/brain', 'y', scales=['8_8'])", ValueError, "scales: no scale '8_8'.*did you mean '8_8_40'"
    ),
    Mistake("copy_pyramid('lab/brain', 'y', encodng='jpeg')", TypeError, "did you mean 'encoding'"),
    Mistake("doctor('lab/brain', sample=3)", TypeError, "did you mean 'samples'"),
]


async def refuse(request: web.Request) -> web.Response:
    """Deny like S3."""
    return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>", content_type="application/xml")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, s3_server: servers.S3Server) -> Iterator[dict[str, Any]]:
    """Return what a newcomer has at hand: two pyramids, a bucket, and some other files."""
    folder: Path = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch, servers.fault_server(refuse) as denier:
        patch.chdir(folder)
        vol = create_volume("lab/brain", BRAIN, resolution=(8, 8, 40), scales=1)
        create_volume("lab/labels", BRAIN // 50, resolution=8, type="segmentation")
        for name, text in (("html", "<!doctype html><title>Log in</title>"), ("incomplete", '{"type": "image"}')):
            (folder / name).mkdir()
            (folder / name / "info").write_text(text)
        (folder / "a file").touch()
        (folder / "brain.nii.gz").touch()
        s3_server.create_bucket("mybucket")
        bucket = s3_server.storage_options
        create_volume("s3://mybucket/lab/brain", BRAIN, resolution=8, storage_options=bucket)
        denied = {"endpoint_url": denier.url}
        public = {name: getattr(precomputed_fs, name) for name in precomputed_fs.__all__}
        own = {"vol": vol, "s": vol[0], "b": BRAIN, "np": np, "bucket": bucket, "denied": denied}
        yield {**public, **own, "precomputed_fs": precomputed_fs}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.typed)
def test_a_mistake_is_told(mistake: Mistake, names: dict[str, Any]) -> None:
    with pytest.raises(mistake.error) as caught:
        exec(mistake.typed, dict(names))  # noqa: S102 - what is typed may be an assignment
    message = str(caught.value)
    assert re.search(mistake.told, message), message
    assert len(message) < 600


def test_there_are_enough() -> None:
    assert len({mistake.typed for mistake in MISTAKES}) == len(MISTAKES) >= 40
