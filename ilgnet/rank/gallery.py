"""The gallery: a ranking as one offline page that a person looks through, decides in and exports from."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ilgnet.figures import html
from ilgnet.rank import cache, ranking
from torchcaffe.formats.files import write_bytes

LIMIT = 3000  # photos a page; more would make a browser slow
MARK = '<meta name="generator" content="ilgnet rank_photos">'
SCRIPT = html.TEMPLATES / "gallery.js"


def write(path: Path | str, made: ranking.Ranking, limit: int = LIMIT) -> None:
    """Write the page. The photos are linked to where they lie, seen from the page."""
    from markupsafe import Markup

    path = Path(path)
    script = SCRIPT.read_text(encoding="utf-8")
    photos = [_photo(row, photo, path) for row, photo in zip(ranking.rows(made)[:limit], made.photos)]
    crop = made.about["preprocess"]
    inset = [50 * (1 - part / whole) for part, whole in zip(crop["crop"], crop["warp"])]
    # What the browser remembers belongs to this page, not to another one opened from the same disk.
    here = os.fsencode(os.path.abspath(path)) + os.fsencode(made.folder)
    key = "ilgnet-picks-" + hashlib.sha256(here).hexdigest()[:16]
    data = json.dumps({"key": key, "inset": inset, "photos": photos}, allow_nan=False, separators=(",", ":"))
    page = html.page(
        "gallery.html",
        mark=Markup(MARK),
        title=f"{made.folder}: {len(made.photos)} photos by score",
        about=made.about,
        unread=made.unread,
        shown=len(photos),
        left_out=len(made.photos) - len(photos),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(data.replace("<", "\\u003c")),
    )  # no text of a photo's name can end the element it stands in
    write_bytes(path, page.encode("utf-8", "backslashreplace"))


def _photo(row: dict[str, Any], photo: ranking.Ranked, page: Path) -> dict[str, Any]:
    # A choice is kept under name and content: another card's photos have the same names, and a copy the same content.
    row = dict(
        row,
        id=cache.combined((photo.digest, photo.name)).hex()[:20],
        thumbnail=base64.b64encode(photo.thumbnail).decode(),
        href=quote(os.fsencode(os.path.relpath(photo.path, page.parent).replace(os.sep, "/"))),
    )
    if photo.heat is not None:
        values = np.rint(photo.heat * 127).astype(np.int8)
        row.update(heat=base64.b64encode(values.tobytes()).decode(), heat_rows=len(values))
    return row
