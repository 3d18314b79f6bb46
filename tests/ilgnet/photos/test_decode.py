"""Photos of every kind to upright pixels, against Pillow; what claims too much or is broken is refused in one line."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ilgnet.photos import decode
from torchcaffe.base.errors import CaffeError

# Four quarters of other colours: every turn and mirroring shows.
PICTURE = np.zeros((24, 40, 3), np.uint8)
PICTURE[:12, :20], PICTURE[:12, 20:], PICTURE[12:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
HOW = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}


def encoded(kind: str, picture: Image.Image, exif: Image.Exif | None = None) -> bytes:
    made = io.BytesIO()
    picture.save(made, kind, exif=exif or Image.Exif(), **HOW.get(kind, {}))
    return made.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("large", [False, True])
def test_every_orientation(kind, large):
    picture = Image.fromarray(PICTURE)
    if large:  # is shrunk by two
        picture = picture.resize((1800, 1080), Image.NEAREST)
    for orientation in (1, 6) if large else range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(kind, picture, exif)
        want = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        photo = decode.decode(data, f"photo.{kind.lower()}")
        assert (photo.width, photo.height) == want.size
        want = np.asarray(want.reduce(2) if large else want)[..., ::-1]
        assert photo.bgr.shape == want.shape
        assert np.abs(photo.bgr.astype(int) - want).mean() < 3


def test_shrinking_is_exact_where_training_photos_are():
    sizes = (800, 800), (1023, 5000), (1024, 1600), (6000, 4000), (90000, 9000)
    assert [decode.shrink_factor(*size) for size in sizes] == [1, 1, 2, 4, 8]
    photo = np.random.RandomState(0).randint(0, 256, (640, 800, 3)).astype(np.uint8)
    data = cv2.imencode(".jpg", photo)[1]
    assert np.array_equal(decode.decode(data.tobytes(), "a.jpg").bgr, cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_time_taken():
    exif = Image.Exif()
    exif[0x0132] = "2019:01:01 00:00:00"
    exif.get_ifd(0x8769).update({0x9003: "2020:02:29 12:34:56", 0x9291: "25"})
    assert decode.decode(encoded("JPEG", Image.fromarray(PICTURE), exif), "a.jpg").taken == 1582979696.25
    exif = Image.Exif()
    exif[0x0132] = "    :  :     :  :  "
    assert decode.decode(encoded("JPEG", Image.fromarray(PICTURE), exif), "a.jpg").taken is None


def test_suffixes():
    """Canon's and Sony's name of HEIF, and Windows' of JPEG."""
    assert {".hif", ".jfif"} <= set(decode.SUFFIXES)


def test_heic():
    import pillow_heif as heif

    made = io.BytesIO()
    heif.from_pillow(Image.fromarray(PICTURE).resize((400, 240), Image.NEAREST)).save(made, quality=-1)
    photo = decode.decode(made.getvalue(), "a.heic")
    assert (photo.width, photo.height, photo.bgr.shape) == (400, 240, (240, 400, 3))
    for (x, y), want in (((50, 50), (0, 0, 255)), ((350, 50), (0, 255, 0)), ((50, 200), (255, 0, 0))):
        assert np.abs(photo.bgr[y, x].astype(int) - want).max() < 12
    with pytest.raises(CaffeError, match="b.heic: not a picture"):
        decode.decode(made.getvalue()[:300], "b.heic")


def dng(preview: bytes, width: int, height: int, orientation: int = 1) -> bytes:
    """The least that LibRaw takes for a RAW file: a TIFF with a JPEG preview and an uncompressed CFA picture."""
    raw = np.arange(64 * 48, dtype="<u2").tobytes()
    blobs = {
        "preview": preview,
        "raw": raw,
        "model": b"Test Camera\0",
        "make": b"Test\0\0",
        "matrix": struct.pack("<18i", *(v for n in (1, 0, 0, 0, 1, 0, 0, 0, 1) for v in (n, 1))),
    }

    def lay(where: dict[str, int], second: int) -> tuple[bytes, bytes]:
        def entry(tag, kind, count, value):
            return struct.pack("<HHII" if kind != 1 or count != 4 else "<HHI4s", tag, kind, count, value)

        first = [
            entry(254, 4, 1, 1),
            entry(256, 4, 1, width),
            entry(257, 4, 1, height),
            entry(259, 3, 1, 7),
            entry(262, 3, 1, 6),
            entry(271, 2, 5, where["make"]),
            entry(272, 2, 12, where["model"]),
            entry(273, 4, 1, where["preview"]),
            entry(274, 3, 1, orientation),
            entry(277, 3, 1, 3),
            entry(278, 4, 1, height),
            entry(279, 4, 1, len(preview)),
            entry(330, 4, 1, second),
            entry(50706, 1, 4, bytes((1, 4, 0, 0))),
            entry(50708, 2, 12, where["model"]),
            entry(50721, 10, 9, where["matrix"]),
        ]
        inner = [
            entry(254, 4, 1, 0),
            entry(256, 4, 1, 64),
            entry(257, 4, 1, 48),
            entry(258, 3, 1, 16),
            entry(259, 3, 1, 1),
            entry(262, 3, 1, 32803),
            entry(273, 4, 1, where["raw"]),
            entry(277, 3, 1, 1),
            entry(278, 4, 1, 48),
            entry(279, 4, 1, len(raw)),
            entry(33421, 3, 2, 2 | 2 << 16),
            entry(33422, 1, 4, bytes((0, 1, 1, 2))),
        ]
        return tuple(struct.pack("<H", len(e)) + b"".join(e) + b"\0" * 4 for e in (first, inner))

    where = dict.fromkeys(blobs, 0)
    sizes = [len(part) for part in lay(where, 0)]
    at = 8 + sum(sizes)
    for name, blob in blobs.items():
        where[name] = at
        at += len(blob) + len(blob) % 2
    body = b"".join(lay(where, 8 + sizes[0])) + b"".join(blob + b"\0" * (len(blob) % 2) for blob in blobs.values())
    return struct.pack("<2sHI", b"II", 42, 8) + body


def test_preview_inside_raw():
    picture = Image.fromarray(PICTURE).resize((320, 192), Image.NEAREST)
    photo = decode.decode(dng(encoded("JPEG", picture), 320, 192), "a.dng")
    want = np.asarray(picture)[..., ::-1]
    assert photo.bgr.shape == want.shape and np.abs(photo.bgr.astype(int) - want).mean() < 3
    # the preview says nothing of its orientation, so the RAW file's counts
    turned = decode.decode(dng(encoded("JPEG", picture), 320, 192, orientation=6), "a.dng")
    want = np.asarray(picture.transpose(Image.ROTATE_270))[..., ::-1]
    assert turned.bgr.shape == want.shape and np.abs(turned.bgr.astype(int) - want).mean() < 3
    assert (turned.width, turned.height) == (192, 320)
    with pytest.raises(CaffeError, match="a.nef: no preview that LibRaw can read"):
        decode.decode(b"II*\0" + b"\0" * 100, "a.nef")


@pytest.mark.parametrize(
    "name, module, data", [("a.heic", "pillow_heif", b"\0\0\0\x18ftypheic" + b"\0" * 16), ("a.CR2", "rawpy", b"II*\0")]
)
def test_a_missing_extra_is_named(monkeypatch, name, module, data):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CaffeError, match=rf"{name}: reading .* needs {module}: pip install .*\[photos\]"):
        decode.decode(data, name)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_by_their_header(monkeypatch):
    def never(*_):
        raise AssertionError("was decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    for width, height in ((65000, 65000), (16000, 10001), (2**31 - 1, 1)):
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        png += chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
        with pytest.raises(CaffeError, match="bomb.png: .*pixels; at most 160 million"):
            decode.decode(png, "bomb.png")
    small = cv2.imencode(".jpg", PICTURE)[1].tobytes()
    at = small.index(b"\xff\xc0") + 5
    with pytest.raises(CaffeError, match="at most 160 million"):
        decode.decode(small[:at] + struct.pack(">HH", 65500, 65500) + small[at + 4 :], "bomb.jpg")


def test_broken_files(tmp_path, monkeypatch):
    whole = cv2.imencode(".jpg", np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8))[1].tobytes()
    for name, data, reason in (
        ("empty.jpg", b"", "empty file"),
        ("text.jpg", b"no picture", "not a picture"),
        ("cut.jpg", whole[:-200], "cut short"),
        ("script.png", b"%!PS-Adobe", "not a picture"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CaffeError, match=f"{name}: {reason}") as caught:
            decode.read(tmp_path / name)
        assert "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(CaffeError, match="not a regular file"):
        decode.read(tmp_path / "pipe.jpg")
    with pytest.raises(CaffeError, match="No such file"):
        decode.read(tmp_path / "missing.jpg")
    (tmp_path / "whole.jpg").write_bytes(whole)
    monkeypatch.setattr(decode.pictures, "MAX_BYTES", 100)
    with pytest.raises(CaffeError, match="at most 100 are read"):
        decode.read(tmp_path / "whole.jpg")
