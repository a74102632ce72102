"""Pages of HTML in one file: tables and embedded pictures, with every text escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

from upernet.errors import printable

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e22; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2em; border-bottom: 1px solid #bcc0c7; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: 2px 10px; text-align: right; }
th { border-bottom: 1px solid #1c1e22; } td { border-bottom: 1px solid #e3e5e8; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
img { max-width: 100%; vertical-align: top; } figure { margin: 1em 0; }
.row { display: flex; flex-wrap: wrap; gap: 1em; }
.row figure { margin: 0; } figcaption { color: #626770; overflow-wrap: anywhere; } .wide { overflow-x: auto; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """Return a page of HTML with a title and sections that are HTML already."""
    heading = text(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{heading}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Return any text as HTML; control characters are escaped as in Python."""
    return html.escape(printable(value))


def heading(value: object, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{text(value)}</h{level}>"


def paragraph(value: object) -> str:
    """Return a paragraph."""
    return f"<p>{text(value)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose first column is left-aligned and names the row."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def picture(image: Image.Image, name: str, photo: bool = False) -> str:
    """Return an embedded picture: of a photo, as JPEG with its name below it; of anything else, as PNG."""
    data = io.BytesIO()
    if photo:
        image.save(data, "JPEG", quality=85)
    else:
        image.save(data, "PNG", optimize=True)
    source = f"data:image/{'jpeg' if photo else 'png'};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    below = f"<figcaption>{text(name)}</figcaption>" if photo else ""
    return f'<figure><img alt="{text(name)}" src="{source}">{below}</figure>'


def row(figures: Iterable[str]) -> str:
    """Return figures side by side, as many as fit."""
    return f'<div class="row">{"".join(figures)}</div>'
