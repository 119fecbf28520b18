"""Which readers can open a pyramid, and if one cannot, why, and what to do.

Nothing is written. A broken or missing pyramid is a finding and not an exception.
"""

from typing import TYPE_CHECKING, Unpack

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.keywords import AccessorOptions, spelled_out

if TYPE_CHECKING:
    from precomputed_fs.accessor import FsspecAccessor
    from precomputed_fs.doctor.report import Report
    from precomputed_fs.store.url import AnyURL
    from precomputed_fs.volume import Volume

SAMPLES = 8
"""How many chunks of each scale are examined by default: the first, the last, the middle one, and others at random,
the same ones each time. Of a scale with fewer chunks, all are."""

_DEFAULTS: AccessorOptions = {"timeout": 10.0, "attempts": 2}  # slowness is a finding, and not worth waiting for


@spelled_out({**OPTION_DEFAULTS, **_DEFAULTS})
def doctor(
    url: "AnyURL | Volume | FsspecAccessor",
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    time_limit: float = 60.0,
    **accessor_options: Unpack[AccessorOptions],
) -> "Report":
    """Find out which readers can open a pyramid, and if one cannot, why, and what to do.

    Parameters
    ----------
    url : str, path, UPath, Volume or FsspecAccessor
        The pyramid, with the meshes, skeletons and segment properties that its `info` names. Or a folder of
        annotations, meshes, skeletons or segment properties on its own, by its `info`.
    samples : int
        Chunks of each scale that are examined: the first, the last, the middle one, and others at random. Each takes
        at most 12 requests (`precomputed_fs.doctor.examine.MOST_REQUESTS`). `info` is read as well, and over HTTP its
        first byte once more, as a web page would. Each folder that it names takes at most 7 more
        (`precomputed_fs.doctor.folders.MOST_REQUESTS`).
    seed : int
        Seed of the random choice.
    time_limit : float
        Seconds after which the report says what is known by then.
    **accessor_options
        Options of `FsspecAccessor`, for a URL. Unless given, ``timeout`` is 10 seconds and ``attempts`` is 2.

    Returns
    -------
    Report
        It prints as a table; programs can ask ``report["tensorstore"].ok``.

    Raises
    ------
    URLError
        If the URL has an unknown scheme, or its driver is not installed; or if `info` redirects, and an accessor was
        given.
    ValueError, TypeError
        If an argument is wrong. A broken, forbidden or missing pyramid raises nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import precomputed_fs
    >>> vol = precomputed_fs.create_volume("memory://docs/doctor", np.ones((8, 8, 8), np.uint8), resolution=(1, 1, 1))
    >>> report = precomputed_fs.doctor("memory://docs/doctor")
    >>> report["precomputed_fs"].ok, str(report["tensorstore"])
    (True, 'ok elsewhere')
    >>> [finding.message for finding in report["tensorstore"].findings]
    ['tensorstore cannot open memory://: the verdict is for the same files where it can']
    """
    from precomputed_fs.doctor.examine import examine  # noqa: PLC0415 - few programs call it

    return examine(
        url,
        samples=samples,
        seed=seed,
        time_limit=time_limit,
        accessor_options=accessor_options,
        defaults=_DEFAULTS,
    )
