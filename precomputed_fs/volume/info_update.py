"""How members of a stored `info` are changed, so that no change of another writer is lost."""

from collections.abc import Mapping
from typing import Any

from precomputed_fs.errors import DataAccessError
from precomputed_fs.format.info import Info
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.volume.volume import Volume


def update_info(volume: Volume, members: Mapping[str, Any]) -> None:
    """Change members of the stored `info`, and no others; the volume uses what is stored then.

    Parameters
    ----------
    volume : Volume
    members : mapping
        The new values, by name; not ``scales``.

    Raises
    ------
    DataAccessError
        If someone else has changed one of these members, or the scales, since the volume was opened; or if `info`
        cannot be read or written.
    """
    pyramid = volume.pyramid
    where = pyramid.location.display("info")
    known = volume.info.to_dict()
    made: list[Info] = []

    def change(text: bytes) -> bytes:
        there = parse_info(text, where, pyramid.options.max_info_bytes)
        current = Info.parse(there, where, pyramid.options.max_info_bytes)
        for name in ("scales", *members):
            if current.to_dict().get(name) != known.get(name) and there.get(name) != members.get(name):
                message = f"{where} has been changed since the volume was opened, in its {name}: open it again"
                raise DataAccessError(message)
        made[:] = [Info.parse({**there, **members}, f"{volume.url}: the new info", pyramid.options.max_info_bytes)]
        return made[0].to_json()

    pyramid.update_file("info", change, "application/json")
    volume.use_info(made[-1])
