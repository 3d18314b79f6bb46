"""XMP rating sidecars for exiftool, darktable, digiKam and Adobe's programs: xmp:Rating from -1 (reject) to 5.

A person's rating is never overwritten: a rating in the photo itself, or a sidecar that differs in any byte from what
this program writes. A rating that a person gave by --picks is marked as theirs.
"""

import mmap
import os
import re
from pathlib import Path

from ilgnet.photos import decode
from ilgnet.scoring.answers import Answer

STYLES = ("full", "base")  # photo.jpg.xmp (darktable, digiKam) and photo.xmp (Adobe's)
# The namespace of the score is the paper.
_TEMPLATE = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:ilgnet="https://arxiv.org/abs/1610.02256#"
    xmp:Rating="%s"
    ilgnet:PHigh="%s"%s
    ilgnet:Percentile="%s"%s/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
_RATING = 0x4746  # EXIF's tag
_PICKED = '\n    ilgnet:By="person"'
_VOTES = '\n    ilgnet:MeanVote="%.4f"\n    ilgnet:Spread="%.4f"'
_OURS = re.compile(
    r'xmp:Rating="(-?\d)"\s+ilgnet:PHigh="([0-9.]+)"'
    r'(\s+ilgnet:MeanVote="[0-9.]+"\s+ilgnet:Spread="[0-9.]+")?\s+ilgnet:Percentile="([0-9.]+)"'
    rf"({_PICKED})?"
)
# A rating in a photo: XMP's, as an attribute or an element, under Adobe's usual prefixes. Cameras write 0: not rated.
_EMBEDDED = re.compile(rb'(?:xmp|xap):Rating\s*(?:=\s*["\']|>)\s*(-?\d{1,9})')
# Chunks that may hold a PNG's rating. Without them, Pillow need not decode the picture to look behind it.
_PNG_EXTRAS = re.compile(rb"eXIf|XML:com\.adobe\.xmp|Raw profile type")


def sidecar(photo: Path, style: str) -> Path:
    """The path of a photo's sidecar."""
    return photo.with_name(photo.name + ".xmp") if style == "full" else photo.with_suffix(".xmp")


def render(rating: int, by_person: bool, answer: Answer, percentile: float) -> bytes:
    """A sidecar's content. by_person: whether the rating is a person's choice."""
    votes = "" if answer.shares is None else _VOTES % (answer.mean_vote, answer.spread)
    return _rendered(rating, f"{answer.p_high:.6f}", votes, f"{percentile:.2f}", _PICKED if by_person else "")


def _rendered(*values: object) -> bytes:
    """_TEMPLATE with the values that _OURS finds in it."""
    return (_TEMPLATE % values).encode()


def gives_way(path: Path, by_person: bool) -> bool:
    """Whether a sidecar may be replaced: it is unchanged since `render` made it, and if it holds a person's choice, the
    new rating is one, too (by_person)."""
    data = path.read_bytes()
    found = _OURS.search(data.decode("utf-8", "replace"))
    return found is not None and _rendered(*found.groups("")) == data and (by_person or not found[5])


def rated_by_hand(photo: Path, by_person: bool) -> str | None:
    """Why a photo's rating is, or may be, a person's; None if nobody rated it. by_person: the new rating is a person's
    choice, which may replace an earlier one."""
    for style in STYLES:
        for place in (sidecar(photo, style), sidecar(photo, style).with_suffix(".XMP")):
            if os.path.lexists(place) and not (place.is_file() and gives_way(place, by_person)):
                return f"{place.name} is there already"
    with open(photo, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        rating = _embedded_rating(data) or _header_rating(photo, data)
    return f"rated {rating} in the photo itself" if rating else None


def _embedded_rating(data: bytes | mmap.mmap) -> int:
    """The first rating in XMP that is not 0, or 0."""
    return next(filter(None, (int(match[1]) for match in _EMBEDDED.finditer(data))), 0)


def _header_rating(photo: Path, data: mmap.mmap) -> int:
    """The rating in EXIF (tag 0x4746, by Windows) or in a PNG's compressed XMP; 0 without one, and for files that
    Pillow cannot open, such as some RAW files."""
    from PIL import Image

    is_png = data[:4] == b"\x89PNG"
    if is_png and not _PNG_EXTRAS.search(data):
        return 0
    try:
        if data[4:8] == b"ftyp":
            return int(decode.heif_exif(data).get(_RATING) or 0)
        with Image.open(photo, formats=("JPEG", "TIFF", "PNG", "WEBP")) as header:
            rating = int(header.getexif().get(_RATING) or 0)
            text = header.info.get("XML:com.adobe.xmp", "") if is_png else ""
        return rating or _embedded_rating(text.encode())
    except Exception:  # Pillow's readers raise many exceptions for broken files
        return 0
