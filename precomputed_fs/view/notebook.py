"""What a notebook shows for a volume or a scale: their ``_repr_html_``.

An `info` may come from anybody, so all its text is escaped. JupyterLab strips scripts, style sheets and inline SVG
from notebooks that it does not trust, so there are none. A page may be dark, so no colours are set.
"""

import html as markup
from collections.abc import Sequence

from precomputed_fs.format.lengths import readable
from precomputed_fs.view.text import readable_bytes, shortened
from precomputed_fs.view.thumbnail import in_time, thumbnail_html
from precomputed_fs.volume import Scale, Volume

_TIME_LIMIT = 2.0  # seconds that a notebook waits for a thumbnail
_MOST_ROWS = 24  # of a table
_NUMBERS = ("Size", "Voxel size", "Chunk size", "Bytes")  # of a table's columns


def html(source: Volume | Scale) -> str:
    """Describe a volume or a scale as HTML, within about two seconds and without raising."""
    try:
        thumbnail = in_time(lambda: thumbnail_html(source), _TIME_LIMIT) or ""  # which also finds out the layouts
        scales = [source] if isinstance(source, Scale) else list(source)
        return f"<div><code>{markup.escape(repr(source))}</code>{_table(scales)}{thumbnail}</div>"
    except Exception:  # noqa: BLE001 - a missing table must not break a notebook's cell
        return f"<pre>{markup.escape(repr(source))}</pre>"


def described(scale: Scale) -> dict[str, str]:
    """Describe a scale: the cells of its row in a table, by heading."""
    return {
        "Key": shortened(scale.key),
        "Size": " x ".join(map(str, scale.shape[:3])),
        "Voxel size": readable(scale.resolution),
        "Chunk size": " x ".join(map(str, scale.chunk_size)),
        "Encoding": shortened(scale.encoding),
        "Sharded": "yes" if scale.info.sharding else "no",
        "Layout": scale.layout,
        "Bytes": readable_bytes(scale.array.nbytes),
    }


def _table(scales: Sequence[Scale]) -> str:
    shown = [described(scale) for scale in _some(scales)]
    heading = "".join(f"<th>{name}</th>" for name in shown[0])
    rows = [
        f"<tr>{''.join(f'<td>{markup.escape(_unbroken(name, cell))}</td>' for name, cell in cells.items())}</tr>"
        for cells in shown
    ]
    if len(rows) < len(scales):
        left_out = f"<tr><td colspan='{len(shown[0])}'>... and {len(scales) - len(rows)} more ...</td></tr>"
        rows.insert(len(rows) // 2, left_out)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _unbroken(name: str, cell: str) -> str:
    """Keep numbers on one line in narrow tables."""
    if name not in _NUMBERS:
        return cell
    return cell.replace(" x ", "\N{MULTIPLICATION SIGN}").replace(" ", "\N{NO-BREAK SPACE}")


def _some(scales: Sequence[Scale]) -> Sequence[Scale]:
    """Leave out the middle ones, if there are many."""
    if len(scales) <= _MOST_ROWS:
        return scales
    half = _MOST_ROWS // 2
    return [*scales[:half], *scales[-half:]]
