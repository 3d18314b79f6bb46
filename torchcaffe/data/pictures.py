"""Picture files to pixels by OpenCV. Pillow reads the size from a file's header before OpenCV allocates memory."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike, open_file

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 160_000_000  # the largest medium format backs have 151 million
MAX_BYTES = 512 << 20  # of a file
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "SUN")  # Pillow's names of OpenCV's formats
UNKNOWN = "not a picture, or broken"


def header(file: BinaryIO, formats: tuple[str, ...] = FORMATS) -> "Image":
    """A Pillow image of which no pixel is decoded. Raises CaffeError for an unknown format, a broken header and a
    picture with too many pixels: a few bytes can claim gigabytes."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # below which Pillow does not warn, either
    try:
        image = Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        raise CaffeError(f"too many pixels; at most {MAX_PIXELS // 10**6} million are read") from None
    except Exception:  # Pillow's readers raise many types for broken files
        raise CaffeError(UNKNOWN) from None
    check_size(*image.size)
    return image


def check_size(width: int, height: int) -> None:
    """Raise CaffeError for a picture with no pixels, or too many."""
    if width < 1 or height < 1:
        raise CaffeError(f"a picture of {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise CaffeError(f"{width} x {height} pixels; at most {MAX_PIXELS // 10**6} million are read")


def decode(data: bytes, flags: int) -> np.ndarray:
    """A picture file's content, as OpenCV's imdecode returns it: H x W or H x W x C. Raises CaffeError with the reason
    if it cannot be decoded."""
    import cv2

    if not len(data):
        raise CaffeError("empty file")
    header(io.BytesIO(data))
    return _decoded(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), flags))


def read(path: PathLike, flags: int) -> np.ndarray:
    """A picture file, as OpenCV's imread returns it: for a truncated file, the part that is there. Raises CaffeError
    with the reason, but not the file's name, if it cannot be read."""
    import cv2

    name = os.fspath(path)
    try:
        with open_file(path, MAX_BYTES) as file:
            if not os.fstat(file.fileno()).st_size:
                raise CaffeError("empty file")
            header(file)
            if not name.isascii():  # OpenCV opens no name that is not UTF-8
                name = f"/dev/fd/{file.fileno()}"
            return _decoded(lambda: cv2.imread(name, flags))
    except CaffeError as error:
        raise CaffeError(str(error).removeprefix(f"{path}: ")) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CaffeError((getattr(error, "strerror", None) or str(error)).lower()) from None


def _decoded(function: Callable[[], np.ndarray | None]) -> np.ndarray:
    import cv2

    try:
        picture = function()
    except cv2.error as error:
        raise CaffeError(f"not decoded: {error}") from None
    if picture is None:
        raise CaffeError(UNKNOWN)
    return picture


def inside(root: PathLike, name: str) -> Path:
    """The path of the file `name` below the folder `root`. Raises CaffeError if .. or a link leads out of it."""
    path = Path(f"{root}/{name}")  # BVLC joins them so: a name that begins with / stays below
    folder = os.path.realpath(root)
    try:
        below = os.path.realpath(path).startswith(os.path.join(folder, ""))
    except ValueError:  # a NUL, or half a surrogate pair
        raise CaffeError(f"{name!r} is not a file name") from None
    if not below:
        raise CaffeError(f"leads out of {root}")
    return path
