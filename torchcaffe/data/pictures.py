"""Picture files to pixels by OpenCV, their size looked up in the file's head before any memory is taken for it."""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError

MAX_PIXELS = 160_000_000  # the largest medium format backs have 151 million
MAX_BYTES = 512 << 20  # of a file
UNKNOWN = "not a picture, or broken"

_JPEG_SIZES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_NUMBER = rb"(?:\s|#[^\n]*\n)+(\d{1,10})"
_PNM = re.compile(rb"P[1-6Ff]" + _NUMBER + _NUMBER)
_PAM = tuple(re.compile(rb"\n" + word + rb"\s+(\d{1,10})") for word in (b"WIDTH", b"HEIGHT"))
_HDR = re.compile(rb"\n[-+]Y (\d{1,10}) [-+]X (\d{1,10})\n")
_HEAD = 1 << 16  # where a head in text must end


def size(data: Any) -> tuple[int, int]:
    """(width, height) of a picture's file, given as bytes or a map, as its head states it: JPEG, PNG, GIF, BMP, WebP,
    TIFF, PNM, JPEG 2000, Radiance HDR, Sun raster. Raises CaffeError for others and for a head that is cut short."""
    try:
        found = _size(data)
    except (struct.error, IndexError):
        raise CaffeError("cut short within its head") from None
    if found is None:
        raise CaffeError(UNKNOWN)
    return found


def _size(data: Any) -> tuple[int, int] | None:
    start = bytes(data[:32])
    if start[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return struct.unpack(">II", start[16:24])
    if start[:4] == b"GIF8":
        return struct.unpack("<HH", start[6:10])
    if start[:2] == b"BM":
        if struct.unpack("<I", start[14:18])[0] == 12:
            return struct.unpack("<HH", start[18:22])
        width, height = struct.unpack("<ii", start[18:26])
        return abs(width), abs(height)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp_size(start)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff_size(data, start)
    if start[:4] == b"\x59\xa6\x6a\x95":
        return struct.unpack(">II", start[4:12])
    if start[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or start[:4] == b"\xff\x4f\xff\x51":
        return _jpeg2000_size(bytes(data[:_HEAD]))
    if start[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"PF", b"Pf"):
        match = _PNM.match(bytes(data[:_HEAD]))
        return (int(match[1]), int(match[2])) if match else None
    if start[:2] == b"P7":
        found = [pattern.search(bytes(data[:_HEAD])) for pattern in _PAM]
        return (int(found[0][1]), int(found[1][1])) if all(found) else None
    if start[:2] == b"#?":
        match = _HDR.search(bytes(data[:_HEAD]))
        return (int(match[2]), int(match[1])) if match else None
    return None


def _jpeg_size(data: Any) -> tuple[int, int]:
    at = 2
    while True:
        if data[at] != 0xFF:
            raise struct.error
        kind = data[at + 1]
        if kind == 0xFF or kind == 0x01 or 0xD0 <= kind <= 0xD8:  # filling, and markers that stand alone
            at += 1 if kind == 0xFF else 2
        elif kind in _JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        elif kind in (0xDA, 0xD9):
            raise struct.error
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def _webp_size(start: bytes) -> tuple[int, int] | None:
    if start[12:16] == b"VP8X":
        return (1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little"))
    if start[12:16] == b"VP8L":
        bits = struct.unpack("<I", start[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if start[12:16] == b"VP8 ":
        width, height = struct.unpack("<HH", start[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff_size(data: Any, start: bytes) -> tuple[int, int] | None:
    order = "<" if start[:2] == b"II" else ">"
    big = b"+" in start[:4]
    at = struct.unpack(order + ("Q" if big else "I"), start[8:16] if big else start[4:8])[0]
    count = struct.unpack(order + ("Q" if big else "H"), data[at : at + (8 if big else 2)])[0]
    at, step = (at + 8, 20) if big else (at + 2, 12)
    found: dict[int, int] = {}
    for index in range(min(count, 4096)):
        entry = data[at + index * step : at + (index + 1) * step]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        if tag in (256, 257):
            form = {3: "H", 4: "I", 16: "Q"}.get(kind)
            if form is None:
                return None
            value = entry[12 if big else 8 :]
            found[tag] = struct.unpack(order + form, value[: struct.calcsize(form)])[0]
    return (found[256], found[257]) if len(found) == 2 else None


def _jpeg2000_size(head: bytes) -> tuple[int, int] | None:
    at = head.find(b"\xff\x51")  # the codestream's own size, which is what is decoded
    if at < 0:
        return None
    right, bottom, left, top = struct.unpack(">IIII", head[at + 6 : at + 22])
    return max(right - left, 0), max(bottom - top, 0)


def check_size(width: int, height: int) -> None:
    """CaffeError for a picture of no or too many pixels: a few bytes can claim to be gigabytes."""
    if width < 1 or height < 1:
        raise CaffeError(f"a picture of {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise CaffeError(f"{width} x {height} pixels; at most {MAX_PIXELS // 10**6} million are read")


def decode(data: bytes, flags: int) -> np.ndarray:
    """A picture's file as OpenCV's imdecode gives it: H x W or H x W x C. Raises CaffeError, saying what is wrong."""
    import cv2

    if not len(data):
        raise CaffeError("empty file")
    check_size(*size(data))
    return _decoded(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), flags))


def read(path: str | Path, flags: int) -> np.ndarray:
    """A picture as OpenCV's imread gives it: of a file that is cut short, what is there. Raises CaffeError for one that
    cannot be read, saying what is wrong; it does not name the file."""
    import cv2

    try:
        # Not blocking: opening a pipe that nobody writes to would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise CaffeError("not a regular file")
            if found.st_size > MAX_BYTES:
                raise CaffeError(f"{found.st_size} bytes; at most {MAX_BYTES} are read")
            if not found.st_size:
                raise CaffeError("empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_size(*size(data))
            return _decoded(lambda: cv2.imread(_name(path, file.fileno()), flags))
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise CaffeError((getattr(error, "strerror", None) or str(error)).lower()) from None


def _name(path: str | Path, open_file: int) -> str:
    """The file's name, or another one that OpenCV can open where it is no UTF-8."""
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"/dev/fd/{open_file}"
    return name


def _decoded(function: Any) -> np.ndarray:
    import cv2

    try:
        picture = function()
    except cv2.error as error:
        raise CaffeError(f"not decoded: {error}") from None
    if picture is None:
        raise CaffeError(UNKNOWN)
    return picture


def inside(root: str | Path, name: str) -> Path:
    """The file `name` below the folder `root`. CaffeError where it leads out of it, by .. or by a link."""
    path = Path(f"{root}/{name}")  # BVLC joins them so: a name that begins with / stays below
    folder = os.path.realpath(root)
    try:
        below = os.path.realpath(path).startswith(os.path.join(folder, ""))
    except ValueError:  # a zero byte, or half a character, is in no file's name
        raise CaffeError(f"{name!r} is no file's name") from None
    if not below:
        raise CaffeError(f"leads out of {root}")
    return path
