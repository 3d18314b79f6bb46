"""Downloads from a server of our own that resumes, lies, breaks off and redirects; files that users bring."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from ilgnet.cli import fetch_weights
from ilgnet.weights import published
from tests import ROOT
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel, files, upgrade

BODY = np.random.RandomState(0).bytes(3_000_000)
SHA1 = hashlib.sha1(BODY).hexdigest()
PUBLISHED = published.Published("model.bin", "", SHA1, 5_000_000)
GOLDENS = ROOT / "tests" / "bvlc" / "goldens" / "files"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers /MODE; `asked` collects the Range headers."""

    def do_GET(self):
        given = self.headers.get("Range")
        self.server.asked.append(given)
        mode, body, start = self.path.strip("/"), BODY, 0
        if mode.startswith("to-"):
            self.send_response(302)
            self.send_header(
                "Location",
                {
                    "to-here": "/good",
                    "to-file": "file:///etc/hostname",
                    "to-other": "http://localhost.invalid/good",
                    "to-ftp": "ftp://127.0.0.1/x",
                    "to-itself": "/to-itself",
                }[mode],
            )
            self.end_headers()
            return
        if mode == "missing":
            self.send_error(404)
            return
        if mode == "wrong":
            body = bytes(1000)
        if given and mode != "no-range":
            start = int(re.fullmatch(r"bytes=(\d+)-", given).group(1))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if mode == "huge":
            self.send_header("Content-Length", str(10**12))
        elif mode != "no-length":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that had enough
            self.wfile.write(body[start:-1_000_000] if mode == "truncated" else body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.asked = []
        threading.Thread(target=functools.partial(running.serve_forever, 0.01), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """get(mode) downloads into tmp_path/model.bin; returns what was asked of the server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def run(mode, sha1=SHA1, max_bytes=5_000_000):
        server.asked.clear()
        url = f"http://127.0.0.1:{server.server_port}/{mode}"
        published.download(published.Published("model.bin", url, sha1, max_bytes), tmp_path / "model.bin")
        return list(server.asked)

    return run


def left(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


@pytest.mark.parametrize("mode", ["good", "no-length", "to-here"])
def test_whole(get, tmp_path, mode):
    assert set(get(mode)) == {None}
    assert (tmp_path / "model.bin").read_bytes() == BODY and left(tmp_path) == {"model.bin": len(BODY)}


@pytest.mark.parametrize(
    ("mode", "size", "asked"),
    [
        ("good", 1_234_567, ["bytes=1234567-"]),
        ("no-range", 1_234_567, ["bytes=1234567-"]),  # a server that sends it all again
        ("good", len(BODY), [f"bytes={len(BODY)}-"]),  # it was all there
        ("good", len(BODY) + 5, [f"bytes={len(BODY) + 5}-", None]),  # more than there is: from the start
    ],
)
def test_resumes(get, tmp_path, mode, size, asked):
    (tmp_path / "model.bin.partial").write_bytes((BODY + b"12345")[:size])
    assert get(mode) == asked
    assert (tmp_path / "model.bin").read_bytes() == BODY and left(tmp_path) == {"model.bin": len(BODY)}


def test_broken_off_then_resumed(get, tmp_path):
    with pytest.raises(CaffeError, match="ended after 2000000 of 3000000 bytes .*run again to continue"):
        get("truncated")
    assert left(tmp_path) == {"model.bin.partial": 2_000_000}
    assert get("good") == ["bytes=2000000-"]
    assert (tmp_path / "model.bin").read_bytes() == BODY


def test_wrong_bytes_are_not_kept(get, tmp_path):
    with pytest.raises(CaffeError, match=f"not model.bin: sha1 {hashlib.sha1(bytes(1000)).hexdigest()}, not {SHA1}"):
        get("wrong")
    assert left(tmp_path) == {}
    (tmp_path / "model.bin.partial").write_bytes(bytes(1_000_000))  # a part of something else
    with pytest.raises(CaffeError, match="it was removed"):
        get("good")
    assert left(tmp_path) == {}


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("to-file", "Redirection to url 'file:"),
        ("to-ftp", "redirects to 'ftp:"),
        ("to-other", "redirects to 'http://local"),
        ("to-itself", "infinite loop"),
        ("missing", "Not Found"),
        ("huge", "1000000000000 bytes, where at most"),
    ],
)
def test_refused(get, tmp_path, mode, reason):
    with pytest.raises(CaffeError, match=reason) as error:
        get(mode)
    assert SHA1 in str(error.value) and str(tmp_path / "model.bin") in str(error.value)
    assert left(tmp_path) == {}


def test_size_limit_without_a_length(get, tmp_path):
    with pytest.raises(CaffeError, match="more than the 2000000 bytes"):
        get("no-length", max_bytes=2_000_000)
    assert sum(left(tmp_path).values()) == 0


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "no address"])
def test_only_http(tmp_path, url):
    with pytest.raises(CaffeError, match="not an http or https address"):
        published.download(published.Published("m", url, SHA1, 100), tmp_path / "m")


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def tool(*args, **env):
    return subprocess.run(
        [sys.executable, "tools/fetch_weights.py", *map(str, args)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "no_proxy": "127.0.0.1", **env},
    )


def test_offline(tmp_path):
    done = tool("--out", tmp_path / "w", "--url", f"http://127.0.0.1:{closed_port()}/bvlc_googlenet.caffemodel")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    for word in (
        "error: cannot download http://127.0.0.1",
        "refused",
        "bvlc_googlenet.caffemodel",
        "--file",
        published.MODELS["googlenet"].checksum,
        str(tmp_path / "w" / "bvlc_googlenet.caffemodel"),
    ):
        assert word in done.stderr
    assert left(tmp_path / "w") == {}


def test_published_address():
    model = published.MODELS["googlenet"]
    assert model.url == "http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel"
    assert model.checksum == "405fc5acd08a3bb12de8ee5e23a96bec22f08204"


# -- files that users bring --------------------------------------------------------------------------------------------

MODEL = published.Published("model.bin", "http://127.0.0.1:9/", SHA1, 100)


def test_installs_the_published_file(tmp_path):
    source, target = tmp_path / "mine", tmp_path / "model.bin"
    source.write_bytes(BODY)
    assert not published.is_there(target, PUBLISHED)
    published.install(MODEL, source, target)
    assert target.read_bytes() == BODY and published.is_there(target, PUBLISHED)
    source.write_bytes(BODY[:-1])
    with pytest.raises(CaffeError, match="mine is not the published model.bin .sha1 .*, not " + SHA1):
        published.install(MODEL, source, tmp_path / "again")
    assert set(left(tmp_path)) == {"mine", "model.bin"}
    with pytest.raises(CaffeError, match="mine is there, but not the published model.bin .*move it away"):
        published.is_there(source, PUBLISHED)
    with pytest.raises(CaffeError, match="cannot|No such file"):
        published.install(MODEL, tmp_path / "absent", target)


def test_tool_refuses_another_googlenet(tmp_path):
    (tmp_path / "other").write_bytes(b"x")
    done = tool("--out", tmp_path / "w", "--file", tmp_path / "other")
    assert done.returncode == 2 and "not the published bvlc_googlenet.caffemodel" in done.stderr
    assert done.stderr.count("\n") == 1 and left(tmp_path / "w") == {}


@pytest.mark.parametrize("name", ["ilgnet-ava1", "ilgnet-ava2"])
def test_says_where_released_models_are(name, tmp_path):
    done = tool(name, "--out", tmp_path / "w")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "w").exists()
    for word in ("https://github.com/BestiVictory/ILGnet", "drive.google.com", "pan.baidu.com", f"{name} --file PATH"):
        assert word in done.stderr


DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "fc2" type: "InnerProduct" bottom: "conv1" top: "fc2" inner_product_param { num_output: %d } }
"""


def released(source):
    return published.Released("theirs", "page", ("link",), files.sha256(source), "ours.caffemodel")


@pytest.mark.parametrize("name", ["v0", "v1", "v1_double"])
def test_converts_old_files(name, tmp_path, monkeypatch):
    """What real Caffe reads from an old file is what the converted one holds, in the current format."""
    monkeypatch.setenv("GLOG_minloglevel", "2")
    net, source, target = tmp_path / "deploy.prototxt", GOLDENS / f"{name}.caffemodel", tmp_path / "ours.caffemodel"
    net.write_text(DEPLOY % 2)
    assert "byte for byte" in published.convert(released(source), source, target, upgrade.read_net(net))
    other = published.Released("theirs", "page", ("link",), "0" * 64, "ours.caffemodel")
    assert "another sha256" in published.convert(other, source, target, upgrade.read_net(net))
    definition = caffemodel.read_caffemodel_net(target)
    assert not definition.layers and [layer.type for layer in definition.layer if layer.type != "Input"] == [
        "Convolution",
        "ReLU",
        "InnerProduct",
    ]
    wanted = np.load(GOLDENS / "old.npz")
    for layer in caffemodel.read_caffemodel(target):
        for i, blob in enumerate(layer.blobs):
            np.testing.assert_array_equal(blob, wanted[f"{name}/{layer.name}/{i}"])
            assert blob.shape == wanted[f"{name}/{layer.name}/{i}"].shape


def test_refuses_weights_of_another_net(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")
    (tmp_path / "v1").mkdir()
    net, source, target = tmp_path / "v1" / "deploy.prototxt", GOLDENS / "v1.caffemodel", tmp_path / "ours.caffemodel"
    net.write_text(DEPLOY % 3)
    with pytest.raises(CaffeError, match=r"not a trained v1: 1 layer\(s\) missing or of another shape \(fc2\)$"):
        published.convert(released(source), source, target, upgrade.read_net(net))
    net.write_text((DEPLOY % 2).replace('"fc2"', '"fc3"'))
    with pytest.raises(CaffeError, match=r"\(fc3\); 1 layer\(s\) too many \(fc2\)"):
        published.convert(released(source), source, target, upgrade.read_net(net))
    net.write_text(DEPLOY % 2)
    layers = caffemodel.read_caffemodel(source)
    blobs = {layer.name: [np.array(b) for b in layer.blobs] for layer in layers}
    blobs["conv1"][0].flat[0] = np.nan
    broken = tmp_path / "nan.caffemodel"
    caffemodel.write_caffemodel(broken, upgrade.upgrade_net(caffemodel.read_caffemodel_net(source), "old"), blobs)
    with pytest.raises(CaffeError, match="layer 'conv1' holds values that are not finite"):
        published.convert(released(source), broken, target, upgrade.read_net(net))
    assert not target.exists()


def test_nima_is_installed_with_what_it_is(shared, tmp_path, capsys):
    source = str(shared / "nima_mobilenet_aesthetic.hdf5")
    assert fetch_weights.main(["nima", "--file", source, "--out", str(tmp_path / "w")]) == 0
    assert "byte for byte" in capsys.readouterr().out
    card = json.loads((tmp_path / "w" / "nima.json").read_text())
    assert card["source"]["as_published"] and card["licence"].startswith("Apache-2.0") and card["net"] == "nima"
    (tmp_path / "mine").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(CaffeError, match="mine: "):
        fetch_weights.main(["nima", "--file", str(tmp_path / "mine"), "--out", str(tmp_path / "v")])
    assert not list((tmp_path / "v").glob("*"))


def test_the_list_says_what_is_installed(tmp_path, capsys):
    (tmp_path / "nima.caffemodel").write_bytes(b"")
    assert fetch_weights.main(["--list", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    lines = {line.split()[0]: line for line in said[::2]}
    assert list(lines) == [*published.MODELS, "taught"]
    assert "Apache-2.0" in said[7] and "none stated" in said[3]
    assert str(tmp_path / "nima.caffemodel") in lines["nima"] and "not installed" in lines["googlenet"]
