"""The gallery: a ranking as one offline page in which a person picks photos and exports the picks."""

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
from ilgnet.weights import models
from torchcaffe.formats.files import write_bytes

LIMIT = 3000  # photos on a page; more make a browser slow
SCRIPT = html.TEMPLATES / "gallery.js"


def write(path: Path | str, made: ranking.Ranking, limit: int = LIMIT) -> None:
    """Write the page, with relative links to the photos."""
    from markupsafe import Markup

    path = Path(path)
    script = SCRIPT.read_text(encoding="utf-8")
    photos = [_photo(row, photo, path) for row, photo in zip(ranking.rows(made)[:limit], made.photos)]
    spec = made.about.preprocess
    inset = [50 * (1 - part / whole) for part, whole in zip(spec.crop, spec.warp)]
    # The browser's memory is shared by all pages of a disk: this page's key is its own.
    here = os.fsencode(os.path.abspath(path)) + os.fsencode(made.folder)
    key = "ilgnet-picks-" + hashlib.sha256(here).hexdigest()[:16]
    data = json.dumps({"key": key, "inset": inset, "photos": photos}, allow_nan=False, separators=(",", ":"))
    page = html.page(
        "gallery.html",
        title=f"{made.folder}: {len(made.photos)} photos by score",
        about=made.about,
        cautions=models.cautions(made.about.card),
        votes=bool(made.photos) and made.photos[0].answer.mean_vote is not None,
        unread=made.unread,
        shown=len(photos),
        left_out=len(made.photos) - len(photos),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(data.replace("<", "\\u003c")),  # a photo's name cannot end the script element
    )
    write_bytes(path, page.encode("utf-8", "backslashreplace"))


def _photo(row: dict[str, Any], photo: ranking.Ranked, page: Path) -> dict[str, Any]:
    # A pick is stored under name and content: another card's photos have the same names, a copy the same content.
    row = dict(
        row,
        id=cache.combined((photo.digest, photo.name)).hex()[:20],
        thumbnail=base64.b64encode(photo.thumbnail).decode(),
        href=quote(os.fsencode(os.path.relpath(photo.path, page.parent).replace(os.sep, "/"))),
    )
    if photo.answer.heat is not None:
        values = np.rint(photo.answer.heat * 127).astype(np.int8)
        row.update(heat=base64.b64encode(values.tobytes()).decode(), heat_rows=len(values))
    return row
