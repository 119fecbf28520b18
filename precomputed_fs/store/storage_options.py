"""Which storage options a filesystem takes, and what a misspelt one was meant to be."""

import difflib
import inspect
from collections.abc import Mapping

from precomputed_fs.errors import OptionError, did_you_mean
from precomputed_fs.store.protocols import protocol_of
from precomputed_fs.store.url import Link

_CERTAIN = 0.8  # similarity: drivers pass options on that their signatures do not have
_NESTED = ("client_kwargs", "config_kwargs")


def check_options(link: Link) -> None:
    """Check that no storage option is a misspelt one of those that the driver's signature has.

    Options that resemble none pass, as the driver may pass them on.

    Raises
    ------
    OptionError
        If one is.
    """
    own = link.options.keys() - {"skip_instance_cache"}
    if not own:
        return
    known = _known(link.protocol)
    misnamed = protocol_of(link.protocol).misnamed
    for name in sorted(own - known):
        if name in misnamed or difflib.get_close_matches(name, known, 1, _CERTAIN):
            raise _error(link, name, known)


def unknown_option(links: tuple[Link, ...], name: str) -> OptionError | None:
    """Return the error for a keyword that a driver has refused; None if it is not from the storage options."""
    for link in links:
        if name in link.options:
            return _error(link, name, _known(link.protocol))
        for place in _NESTED:
            nested = link.options.get(place)
            if isinstance(nested, Mapping) and name in nested:
                return OptionError(f"{link.display}: storage_options: {place} has no {name!r}{_meant(link, name)}")
    return None


def _known(protocol: str) -> set[str]:
    """Return the names of parameters of a filesystem's class and of those that it inherits from."""
    import fsspec  # noqa: PLC0415

    classes = fsspec.get_filesystem_class(protocol).__mro__
    makers = [kind.__init__ for kind in classes if "__init__" in vars(kind) and kind is not object]
    names = {name for make in makers for name in inspect.signature(make).parameters}
    return names | {"asynchronous", "loop", "use_listings_cache", "listings_expiry_time", "max_paths"}


def _error(link: Link, name: str, known: set[str]) -> OptionError:
    instead = _meant(link, name) or did_you_mean(name, sorted(known))
    return OptionError(f"{link.display}: storage_options: {link.protocol}:// has no option {name!r}{instead}")


def _meant(link: Link, name: str) -> str:
    meant = protocol_of(link.protocol).misnamed.get(name)
    return f"; it is {meant}" if meant else ""
