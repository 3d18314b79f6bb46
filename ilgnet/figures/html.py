"""Offline HTML: self-contained pages, which load nothing from a network."""

import base64
from pathlib import Path
from typing import Any

from ilgnet.figures import pictures

TEMPLATES = Path(__file__).with_name("templates")


def page(template: str, **values: Any) -> str:
    """Fill a template of templates/. In HTML and SVG every value is escaped unless it is Markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(str(TEMPLATES)),
        autoescape=template.endswith((".html", ".svg")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not template.endswith(".html"),
    )
    environment.filters.update(percent=percent, cell=lambda text: text.replace("|", "\\|").replace("\n", " "))
    environment.globals["svg"] = lambda data: data_uri(data, "image/svg+xml")
    return environment.get_template(template).render(**values)


def data_uri(data: bytes, mime: str) -> str:
    """A data URI for a picture in the page."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def thumbnail(bgr: Any) -> str:
    """A photo, (H, W, 3) uint8 BGR, as a small JPEG's data URI."""
    return data_uri(pictures.small_jpeg(bgr, 220), "image/jpeg")


def percent(value: float | None) -> str:
    """0.8168 as 81.68 %; None or NaN as a dash."""
    return "–" if value is None or value != value else f"{100 * value:.2f} %"
