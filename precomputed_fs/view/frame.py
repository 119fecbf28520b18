"""How a notebook shows a view: the web client in a frame, and a line with a link below it.

JupyterLab strips frames from notebooks that it does not trust; the line remains. A page may be dark, so no colours are
set.
"""

import html


def frame_html(address: str, height: int, what: str) -> str:
    """Return a frame with a page, and a link to it.

    Parameters
    ----------
    address : str
        The page's URL, or its path on the server of the notebook.
    height : int
        Pixels of the frame.
    what : str
        What it shows.
    """
    allowed = "clipboard-read; clipboard-write; fullscreen"
    shown = html.escape(address)
    return (
        f'<iframe src="{shown}" width="100%" height="{height}" style="border: 0" allow="{allowed}"></iframe>'
        f'<div><a href="{shown}" target="_blank" rel="noopener">Open {html.escape(what)} in a new tab</a> '
        "(as long as this kernel runs; later, run the cell again)</div>"
    )
