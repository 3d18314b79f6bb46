"""Offline HTML: one file with its pictures and styles inside, that asks nothing of any network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")


def page(template: str, **values: Any) -> str:
    """A whole page from a template of templates/. Every value is escaped, unless it is Markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(str(TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number)
    environment.globals["svg"] = lambda data: data_uri(data, "image/svg+xml")
    return environment.get_template(template).render(**values)


def data_uri(data: bytes, mime: str) -> str:
    """A picture inside the page."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def thumbnail(bgr: Any, side: int = 220) -> str:
    """A photo, (H, W, 3) uint8 BGR, as a small JPEG's data URI."""
    return data_uri(small_jpeg(bgr, side), "image/jpeg")


def small_jpeg(bgr: Any, side: int) -> bytes:
    """A photo, (H, W, 3) uint8 BGR, as a JPEG of at most `side` pixels."""
    import cv2

    height, width = bgr.shape[:2]
    scale = side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def percent(value: float | None, digits: int = 2) -> str:
    """0.8168 -> 81.68 %; None or nan -> a dash."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 4) -> str:
    """None or nan -> a dash."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"
