"""Which readers can open a pyramid; and if one cannot, why not, and what to do.

Nothing is written. A pyramid that is broken, or missing, is a finding and not an exception.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precomputed_fs.accessor import FsspecAccessor
    from precomputed_fs.doctor.report import Report
    from precomputed_fs.store.url import AnyURL
    from precomputed_fs.volume import Volume

SAMPLES = 8
"""How many chunks of each scale are looked at by default: the first, the last, the one in the middle, and others at
random, always the same ones. A scale with fewer chunks is looked at whole."""


def doctor(
    url: "AnyURL | Volume | FsspecAccessor",
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    time_limit: float = 60.0,
    **accessor_options: Any,  # noqa: ANN401 - as FsspecAccessor has them
) -> "Report":
    """Find out which readers can open a pyramid; and if one cannot, why not, and what to do.

    Parameters
    ----------
    url : str, path, UPath, Volume or FsspecAccessor
        The pyramid.
    samples : int
        Chunks of each scale that are looked at; see `SAMPLES`. For requests, see `MOST_REQUESTS`; besides, `info` is
        read, and over HTTP a byte of it once more, as a web page would.
    seed : int
        Chooses those that are looked at at random.
    time_limit : float
        Seconds after which the report says what is known by then.
    **accessor_options
        Options of `FsspecAccessor`, for a URL. Unless given, ``timeout`` is 10 seconds and ``attempts`` is 2.

    Returns
    -------
    Report
        Printed, it is a table; ``report["tensorstore"].ok`` is what a program asks.

    Raises
    ------
    URLError
        If this is no URL: of no known scheme, or without its driver; or if this is an accessor, and `info` redirects.
    ValueError, TypeError
        If an argument cannot be. A pyramid that is broken, forbidden or not there is no exception.

    Examples
    --------
    >>> import numpy as np
    >>> import precomputed_fs
    >>> vol = precomputed_fs.create_volume("memory://docs/doctor", np.ones((8, 8, 8), np.uint8), resolution=(1, 1, 1))
    >>> report = precomputed_fs.doctor("memory://docs/doctor")
    >>> report["precomputed_fs"].ok, report["tensorstore"].ok
    (True, False)
    >>> [finding.rule.id for finding in report["tensorstore"].findings]
    ['protocol']
    """
    from precomputed_fs.doctor.examine import examine  # noqa: PLC0415 - few programs call it

    return examine(url, samples, seed, time_limit, accessor_options)
