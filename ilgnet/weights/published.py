"""Published weights: BVLC GoogLeNet and NIMA from their addresses, the authors' trained ILGNets from the user.

A download is accepted only from the hosts named here, up to a size, and only if its hash is right. A file appears under
its name complete or not at all. Downloads need no torch."""

import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ilgnet.nets.targets import TARGETS
from ilgnet.nets.variants import VARIANTS
from ilgnet.run import results
from ilgnet.weights import keras, surgery
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel, files, upgrade

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """A file at a public address, known by its hash."""

    file: str
    url: str
    checksum: str  # SHA-1 or SHA-256
    max_bytes: int

    @property
    def algorithm(self) -> str:
        return "sha1" if len(self.checksum) == 40 else "sha256"


@dataclass(frozen=True)
class Released:
    """A trained net, which is converted. Without a url it is shared through services which ask for a browser."""

    file: str  # their name for it
    page: str  # where the links are
    links: tuple[str, ...]
    sha256: str  # of the file that the authors' repository holds, or records (Git LFS)
    installed: str  # our name for the converted file
    variant: str = "v1"
    url: str = ""
    licence: str = "none stated by its authors"
    measured: str | None = None  # by its authors


PAGE = "https://github.com/BestiVictory/ILGnet"
MODELS: dict[str, Published | Released] = {
    "googlenet": Published(  # address and hash: BVLC Caffe's models/bvlc_googlenet/readme.md
        "bvlc_googlenet.caffemodel",
        "http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
        "405fc5acd08a3bb12de8ee5e23a96bec22f08204",
        100 << 20,
    ),
    "ilgnet-ava1": Released(
        "ILGnet-AVA1.caffemodel",
        PAGE,
        ("https://drive.google.com/file/d/0B-wWngvfWr7WekNRX04xSzJEWlE/view", "https://pan.baidu.com/s/1slMv4yp"),
        "adac77adead5629becacd11c860262caeef14d05d21ff1e7d0fc177d00000c71",
        "ilgnet_ava1.caffemodel",
        measured='accuracy 81.68% of 2,500 photos of AVA1\'s test list, where always "high" has 80.00%',
    ),
    "ilgnet-ava2": Released(
        "ILGnet-AVA2.caffemodel",
        PAGE,
        ("https://drive.google.com/file/d/0B-wWngvfWr7WRDl4YUFNTmJqenM/view", "https://pan.baidu.com/s/1bpBsIZH"),
        "9eeac7ef7d566193c4416556c5beacae0f50cd1e158aabb87d5e974252d23de2",
        "ilgnet_ava2.caffemodel",
        measured="accuracy 85.50% of 2,400 photos of AVA2's test list",
    ),
    "nima": Released(
        "weights_mobilenet_aesthetic_0.07.hdf5",
        "https://github.com/idealo/image-quality-assessment",
        (),
        "e563ad91b3d47410e45f7238f07ab8f6abd1bd0c4b18a4b0af9c681a21a91cb2",
        "nima.caffemodel",
        "nima",
        "https://raw.githubusercontent.com/idealo/image-quality-assessment/master/models/MobileNet/"
        "weights_mobilenet_aesthetic_0.07.hdf5",
        "Apache-2.0, idealo.de",
        "on AVA: Spearman's correlation with the mean votes 0.609, linear 0.626, earth mover's distance 0.071",
    ),
}


def is_there(target: Path, model: Published) -> bool:
    """Whether `target` is the published file. CaffeError when it is another file, which is the user's."""
    if target.exists():
        refuse_other(model, target, " is there, but", ": move it away")
    return target.exists()


def refuse_other(model: Published, path: Path, how: str, what_to_do: str) -> None:
    """CaffeError when `path` is not the published file."""
    if sums := other_sums(model, path):
        raise CaffeError(f"{path}{how} not the published {model.file} ({sums}){what_to_do}")


def other_sums(model: Published, path: Path) -> str:
    """The checksum of `path` and the published one; "" where they are the same."""
    found = files.digest(path, model.algorithm)
    return "" if found == model.checksum else f"{model.algorithm} {found}, not {model.checksum}"


# -- by download -------------------------------------------------------------------------------------------------------


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects within one host, by http and https, and no others."""

    def __init__(self, host: str):
        self.host = host

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        parts = urllib.parse.urlsplit(newurl)
        if parts.scheme not in ("http", "https") or parts.hostname != self.host:
            raise urllib.error.URLError(f"redirects to {newurl[:200]!r}, which is not of {self.host}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, start: int) -> Any:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CaffeError(f"{url}: not an http or https address")
    opener = urllib.request.build_opener(_SameHost(parts.hostname))
    headers = {"User-Agent": "ilgnet-toolkit", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def download(model: Published, target: Path, url: str | None = None) -> None:
    """Download the published file to `target`; an earlier `target`.partial is continued.

    CaffeError when it fails, saying what to do by hand; the .partial file stays, unless its hash is wrong."""
    url = url or model.url
    partial = target.with_name(target.name + ".partial")
    try:
        _fetch(url, partial, model.max_bytes)
    except (OSError, HTTPException, ValueError) as error:  # URLError, timeouts and closed connections are OSErrors
        if isinstance(error, OSError) and error.filename and not isinstance(error, urllib.error.HTTPError):
            raise  # of a file here
        size = partial.stat().st_size if partial.exists() else 0
        kept = f" ({size} bytes are in {partial}: run again to continue)" if size else ""
        raise CaffeError(
            f"cannot download {url}: {getattr(error, 'reason', None) or error}{kept}; or get {model.file} "
            f"({model.algorithm} {model.checksum}) by hand and put it at {target}, or install it with --file PATH"
        ) from None
    if sums := other_sums(model, partial):
        partial.unlink()
        raise CaffeError(f"{url}: this is not {model.file}: {sums}; it was removed")
    with files.atomic(target) as temporary:
        os.replace(partial, temporary)


def _fetch(url: str, partial: Path, max_bytes: int) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    try:
        answer = _open(url, start)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: the file ends where ours does, or before
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return
        start, answer = 0, _open(url, 0)
    with answer:
        if start and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            start = 0  # the server sends it all
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        if total is not None and total > max_bytes:
            raise ValueError(f"{total} bytes, where at most {max_bytes} are expected")
        size = start
        hidden = not sys.stderr.isatty()
        progress = tqdm(desc=partial.stem, initial=start, total=total, unit="B", unit_scale=True, disable=hidden)
        with open(partial, "ab" if start else "wb") as file, progress as bar:
            for chunk in iter(lambda: answer.read(CHUNK), b""):
                size += len(chunk)
                if size > max_bytes:
                    file.truncate(0)
                    raise ValueError(f"more than the {max_bytes} bytes that are expected")
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and size < total:
            raise ValueError(f"the connection ended after {size} of {total} bytes")


# -- from a file -------------------------------------------------------------------------------------------------------


def install(model: Published, source: Path, target: Path) -> None:
    """Copy the published file from `source` to `target`. CaffeError when it is another file."""
    other = "; another file with GoogLeNet's layers need not be installed: give it to --weights"
    refuse_other(model, source, " is", other)
    files.copy(source, target)


def convert(model: Released, source: Path, target: Path, net: Any) -> str:
    """Check that `source` holds the weights of `net`, the model's variant as a NetParameter: every layer and no other.

    Write them to `target` in the current format, with the net's shapes, and a JSON beside it that says what they are.
    Returns a sentence on the file's origin."""
    from ilgnet.run import engine as engines

    name = model.variant
    if name == "nima":
        layers, definition = keras.read_nima(source, net), type(net).FromString(net.SerializeToString())
    else:
        layers = surgery.read_weights(source)
        definition = upgrade.upgrade_net(caffemodel.read_caffemodel_net(source), str(source))
    for layer in net.layer:  # the values are about to be replaced, and drawing 150 million takes seconds
        layer.convolution_param.ClearField("weight_filler")
        layer.inner_product_param.ClearField("weight_filler")
    caffe = engines.load_engine()
    made = engines.make_net(caffe, net, caffe.TEST, name)
    params = engines.arrays(made)
    missing = surgery.unloaded(params, layers)
    blobs = {layer.name: layer.blobs for layer in layers if layer.blobs}
    other = [layer for layer in blobs if layer not in params]
    if missing or other:
        raise CaffeError(
            f"{source} is not a trained {name}: "
            + "; ".join(
                f"{len(names)} layer(s) {what} ({surgery.first_of(names)})"
                for names, what in ((missing, "missing or of another shape"), (other, "too many"))
                if names
            )
        )
    for layer, values in blobs.items():
        if not all(np.isfinite(b).all() for b in values):
            raise CaffeError(f"{source}: layer '{layer}' holds values that are not finite")
        blobs[layer] = [np.reshape(b, p.shape) for b, p in zip(values, params[layer])]
    caffemodel.write_caffemodel(target, definition, blobs)
    results.write_json(target.with_suffix(".json"), card(model, files.sha256(source)))
    if files.sha256(source) == model.sha256:
        return f"{source} is the {model.file} that the authors' repository records, byte for byte"
    return f"{source} is not the {model.file} that the authors' repository records (another sha256), but fits the net"


def card(model: Released, digest: str) -> results.Card:
    """What a converted file is."""
    variant = VARIANTS[model.variant]
    mean = ", ".join(f"{value:g}" for value in variant.mean_values) or "the mean of the training set"
    return results.Card(
        kind="model",
        title=variant.title,
        answer=TARGETS[variant.target].answer,
        net=variant.name,
        licence=model.licence,
        source={"file": model.file, "page": model.page, "sha256": digest, "as_published": digest == model.sha256},
        input=f"BGR, less {mean}; 224 x 224 pixels",
        measured=model.measured,
    )


def where(name: str, model: Released) -> str:
    """How to get a released model without an address."""
    return (
        f"{model.file} (600 MB) cannot be fetched by a program: download it with a browser from {model.page} "
        f"({' or '.join(model.links)}), then run: ilgnet fetch-weights {name} --file PATH"
    )
