"""Decode a photo's file, upright, checking the picture's size before any pixel is allocated.

JPEG, PNG, WebP, TIFF and BMP by OpenCV, as `ilgnet prepare` reads them; HEIC by pillow-heif and the preview inside
camera RAW by rawpy, both of `pip install '.[photos]'`. Pillow reads headers and EXIF only.

A photo much larger than a net looks at is shrunk while it is read (see `shrink_factor`): Caffe's warp to 256 x 256
takes 2 x 2 pixels for each of its own, so of a large photo it would drop nearly all others, which no training photo
(AVA's are at most 800 pixels wide) ever showed a net. It is faster, too.
"""

import calendar
import importlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError, located
from torchcaffe.data import pictures
from torchcaffe.data.imageset import is_cut_short
from torchcaffe.formats import files
from torchcaffe.formats.files import PathLike

PLAIN = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
HEIF = (".heic", ".heif", ".hif")  # .hif: Canon's and Sony's
RAW = tuple(
    ".3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
    .split()
)  # fmt: skip
SUFFIXES = PLAIN + HEIF + RAW
EXTRA = "pip install 'ilgnet-toolkit[photos]' (in a checkout: pip install '.[photos]')"

SHORT = 512  # pixels: what shrinking leaves at least of the shorter side, twice what a net looks at
VERSION = 1  # of what this module makes of a file; raise it when that changes, so that caches forget

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_ORIENTATION, _EXIF_IFD, _DATE, _DATE_ORIGINAL, _SUBSECOND = 0x0112, 0x8769, 0x0132, 0x9003, 0x9291
_LIBRAW_FLIP = {3: 3, 5: 8, 6: 6}  # LibRaw's names of turns -> EXIF's


@dataclass(frozen=True)
class Photo:
    """A decoded photo: `bgr` (H, W, 3) uint8, upright, perhaps shrunk; the size of the file's picture, upright; when it
    was taken by the camera's clock, in seconds since 1970 (of no time zone), or None."""

    bgr: np.ndarray
    width: int
    height: int
    taken: float | None


def read(path: PathLike) -> Photo:
    """Read a photo of any of SUFFIXES. CaffeError, one line, for one that is missing, broken or too large."""
    return decode(read_bytes(path), path)


def read_bytes(path: PathLike) -> bytes:
    """A file's content. CaffeError when it is no regular file, empty or too large."""
    try:
        data = files.read_bytes(path, pictures.MAX_BYTES)
    except OSError as error:
        raise CaffeError(f"{path}: {error.strerror or error}") from None
    if not data:
        raise CaffeError(f"{path}: empty file")
    return data


def decode(data: bytes, path: PathLike) -> Photo:
    """As `read`, from a file's bytes. `path` names it in errors, and its suffix tells RAW."""
    raw, heif = Path(path).suffix.lower() in RAW, data[4:8] == b"ftyp"
    with located(path):
        return _raw(data) if raw else _heif(data) if heif else _plain(data)


def shrink_factor(width: int, height: int) -> int:
    """1, 2, 4 or 8: by how much a photo is shrunk while it is read, leaving at least SHORT on its shorter side."""
    return next((factor for factor in (8, 4, 2) if min(width, height) // factor >= SHORT), 1)


def upright(bgr: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror as EXIF's tag 0x0112 (1 to 8; others mean 1) says."""
    if orientation in (5, 6, 7, 8):
        bgr = bgr.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        bgr = bgr[:, ::-1]
    if orientation in (3, 4, 7, 8):
        bgr = bgr[::-1]
    return np.ascontiguousarray(bgr)


def taken_at(exif: Any) -> float | None:
    """When a photo was taken by the camera's clock, in seconds, from a Pillow Exif; None if it holds no valid time."""
    try:
        inner = exif.get_ifd(_EXIF_IFD)
        text = str(inner.get(_DATE_ORIGINAL) or exif.get(_DATE) or "").strip("\0 ")
        seconds = calendar.timegm(time.strptime(text[:19], "%Y:%m:%d %H:%M:%S"))
        fraction = str(inner.get(_SUBSECOND) or "0").strip("\0 ")
        return seconds + (float("0." + fraction) if fraction.isdigit() else 0.0)
    except Exception:  # cameras and programs write anything there
        return None


def _plain(data: bytes, flip: int = 1) -> Photo:
    """JPEG, PNG, ...: `flip` is the orientation where the file itself names none."""
    import cv2

    if is_cut_short(data):
        raise CaffeError("cut short: the end is missing")
    try:
        with pictures.header(io.BytesIO(data), _FORMATS) as header:
            width, height = header.size
            jpeg = header.format in ("JPEG", "MPO")
            # Not getexif() of a PNG: where there is no EXIF it decodes the whole picture to look behind it.
            exif = header.getexif() if jpeg or header.format == "TIFF" else _exif(header.info.get("exif"))
            orientation, taken = exif.get(_ORIENTATION), taken_at(exif)
    except CaffeError:
        raise
    except Exception:  # Pillow's readers of EXIF raise many types for broken files
        raise CaffeError("not a picture, or a broken one") from None
    factor = shrink_factor(width, height)
    flags = cv2.IMREAD_COLOR  # OpenCV turns it upright
    if jpeg and factor > 1:  # its decoder leaves the fine detail out: far faster
        flags = getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise CaffeError(f"not decoded: {error.err}") from None
    if bgr is None:
        raise CaffeError("not a picture that OpenCV can read, or a broken one")
    if not jpeg:
        height, width = bgr.shape[:2]
        bgr = _shrunk(bgr, factor)
    elif (orientation or flip) in (5, 6, 7, 8):
        width, height = height, width
    if not orientation:
        bgr = upright(bgr, flip)
    return Photo(bgr, width, height, taken)


def _exif(data: bytes | None) -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif.load(data or b"")
    return exif


def heif_exif(data: Any) -> Any:
    """The EXIF of a HEIC file's bytes."""
    return _exif(_extra("pillow_heif").open_heif(io.BytesIO(data)).info.get("exif"))


def _heif(data: bytes) -> Photo:
    """HEIC: libheif turns it upright itself, by the file's own boxes; EXIF's orientation there is only a copy."""
    heif = _extra("pillow_heif")
    try:
        file = heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True, bgr_mode=True)
        width, height = file.size
        pictures.check_size(width, height)  # pixels are decoded when they are asked for, below
        taken = taken_at(_exif(file.info.get("exif")))
        bgr = np.asarray(file)
    except CaffeError:
        raise
    except Exception as error:
        raise CaffeError(f"not a picture, or a broken one ({error or type(error).__name__})") from None
    if bgr.ndim == 2:
        bgr = np.repeat(bgr[..., None], 3, axis=2)
    bgr = np.ascontiguousarray(bgr[..., :3])
    return Photo(_shrunk(bgr, shrink_factor(width, height)), width, height, taken)


def _raw(data: bytes) -> Photo:
    """The preview that the camera put into a RAW file: developing it would take seconds, and is a matter of taste."""
    rawpy = _extra("rawpy")
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            flip = _LIBRAW_FLIP.get(raw.sizes.flip, 1)
            preview = raw.extract_thumb()
    except Exception as error:
        raise CaffeError(f"no preview that LibRaw can read ({error or type(error).__name__})") from None
    if preview.format == rawpy.ThumbFormat.JPEG:
        return _plain(bytes(preview.data), flip)
    height, width = preview.data.shape[:2]
    pictures.check_size(width, height)
    bgr = upright(_shrunk(np.ascontiguousarray(preview.data[..., 2::-1]), shrink_factor(width, height)), flip)
    return Photo(bgr, *((height, width) if flip >= 5 else (width, height)), None)


def _extra(module: str) -> Any:
    """An optional library. CaffeError naming the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CaffeError(f"reading it needs {module}: {EXTRA}") from None


def _shrunk(bgr: np.ndarray, factor: int) -> np.ndarray:
    import cv2

    if factor == 1:
        return bgr
    return cv2.resize(bgr, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
