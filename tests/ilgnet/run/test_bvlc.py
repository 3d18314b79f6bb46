"""Finding, installing and running real Caffe (ilgnet/run/bvlc.py, bvlc_setup.py)."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from ilgnet.cli import setup_bvlc
from ilgnet.run import bvlc, bvlc_setup
from tests.bvlc import parity_nets, real, run_caffe, solvers
from tests.bvlc.engines import Engine, EngineError
from tests.bvlc.solver_goldens import check
from torchcaffe.base.errors import CaffeError

BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
live = pytest.mark.skipif(not bvlc.available(), reason="no real Caffe here: " + bvlc.HOW)


@pytest.fixture(scope="module")
def engine():
    with Engine("bvlc") as started:
        yield started


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")
def test_the_mirror_is_the_one_in_this_machines_sources(tmp_path, monkeypatch):
    def mirror():
        return bvlc_setup.debian_mirror("-o", f"Dir::Etc={tmp_path}")

    monkeypatch.setattr(bvlc_setup, "os_release", lambda: BOOKWORM)
    (tmp_path / "sources.list.d").mkdir()
    assert mirror() is None
    (tmp_path / "sources.list.d" / "other.list").write_text("deb https://tools.example/apt stable main\n")
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\n# a comment: with a colon\nURIs: http://security.example/debian\nSuites: bookworm-security\n"
        "Components: main\n\nTypes: deb\nURIs: http://new.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    assert mirror() == "http://new.example/debian/"
    (tmp_path / "sources.list").write_text(
        "# deb http://no.example/debian bookworm main\n"
        "deb [arch=amd64 trusted=yes] http://old.example/debian bookworm main\n"
    )
    assert mirror() == "http://old.example/debian/"
    monkeypatch.setattr(bvlc_setup, "os_release", lambda: {"ID": "ubuntu", "VERSION_CODENAME": "bookworm"})
    assert mirror() is None


def test_setting_up_elsewhere_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bvlc_setup, "os_release", lambda: {"ID": "fedora"})
    with pytest.raises(CaffeError, match="no Debian machine.*caffe-cpu.*--engine bvlc"):
        setup_bvlc.main([])
    monkeypatch.setattr(bvlc_setup, "os_release", lambda: BOOKWORM)
    monkeypatch.setattr(bvlc_setup.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(bvlc_setup.os, "geteuid", lambda: 1000)
    with pytest.raises(CaffeError, match="root"):
        setup_bvlc.main([])
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_debootstrap_left_mounted_is_not_emptied(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    monkeypatch.setattr(bvlc_setup, "os_release", lambda: BOOKWORM)
    monkeypatch.setattr(bvlc_setup, "proxy_settings", list)
    monkeypatch.setattr(bvlc_setup.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(bvlc_setup.os, "geteuid", lambda: 0)
    monkeypatch.setattr(bvlc_setup.os.path, "ismount", lambda path: path == root / "proc")
    with pytest.raises(CaffeError, match=f"file systems are still mounted in it; first: umount {root}/proc"):
        bvlc_setup.install(root, None)
    assert (root / "proc").is_dir()


def test_a_finished_root_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tmp_path / "ilgnet" / "bvlc"
    root.mkdir(parents=True)
    assert bvlc.bvlc_root() is None
    (root / bvlc.MARKER).write_text("caffe version 1.0.0\n")
    assert bvlc.bvlc_root() == root
    assert setup_bvlc.main([]) == 0
    assert "1.0.0" in capsys.readouterr().out
    with pytest.raises(CaffeError, match="loader"):
        bvlc.python_command()


def test_no_real_caffe_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bvlc, "_system_python", lambda: None)
    with pytest.raises(CaffeError, match="make bvlc"):
        real.python(["-c", "pass"])
    monkeypatch.setattr(bvlc.shutil, "which", lambda name: None)
    with pytest.raises(CaffeError, match="convert_imageset"):
        real.binary("convert_imageset")


def test_the_reason_is_found_in_the_log():
    log = "I1123 18:00:00.1 1 net.cpp:1] fine\nF1123 18:00:00.2 1 net.cpp:2] Check failed: a == b (1 vs. 2) why\n***"
    assert bvlc.fatal_line(log) == "Check failed: a == b (1 vs. 2) why"
    assert bvlc.fatal_line("Traceback\nImportError: no caffe\n") == "ImportError: no caffe"
    assert bvlc.fatal_line("") == "stopped without a word"


def test_the_environment_fixes_the_blas_kernel_and_keeps_our_python_out(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = bvlc.bvlc_env({"A": "b"}, coretype="Prescott", threads=2)
    assert env["OPENBLAS_CORETYPE"] == "Prescott" and env["OPENBLAS_NUM_THREADS"] == "2" and env["A"] == "b"
    assert "PYTHONPATH" not in env and env["GLOG_minloglevel"] == "2" and env["PATH"] == os.environ["PATH"]


@live
def test_python_and_programs_run_with_paths_of_this_machine(tmp_path):
    (tmp_path / "in").write_text("hello")
    code = f"import caffe, cv2, lmdb, h5py; print(open({str(tmp_path / 'in')!r}).read(), caffe.__version__)"
    assert real.python(["-c", code]).stdout.split()[0] == "hello"
    assert "caffe version 1" in real.binary("caffe", "--version").stdout
    with pytest.raises(CaffeError, match="File not found: /no/such"):
        real.binary("caffe", "train", "--solver=/no/such")
    with pytest.raises(CaffeError, match="no such module|No module named"):
        real.python(["-c", "import no_such_module"])


@live
def test_a_crash_of_real_caffe_is_a_reason_and_the_next_job_runs(engine):
    job = solvers.refused_job("unknown_policy")
    for fork in (False, True):
        with pytest.raises(EngineError, match="Unknown learning rate policy: nope"):
            engine.call("train", job, fork=fork)
    value, arrays = engine.call("train", solvers.TRAINING["sgd_zero_rate"])
    assert value == 3 and "conv1/0@0" in arrays


@live
@pytest.mark.parametrize("name", ["sgd_momentum", "adam", "hdf5"])
def test_real_caffe_goes_on_from_our_snapshot(name, engine, tmp_path):
    import torchcaffe as caffe

    run_caffe.run_train(caffe, solvers.snapshot_job(name, str(tmp_path)))
    value, got = engine.call("train", solvers.resume_job(name, str(tmp_path)))
    check("resumed", name, value, got, 2e-5)


def test_flips_are_counted_from_what_two_passes_left(tmp_path):
    """Seed 203702 of `parity nets --variants noinc --batch 2 --crop 128`: one ReLU flipped in the whole pass, but not
    in the one that is given BVLC's ties, so nothing was said to have been turned."""
    net = tmp_path / "net.prototxt"
    net.write_text("""layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 } } }
      layer { name: "r" type: "ReLU" bottom: "x" top: "x" }
      layer { name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param { kernel_size: 2 } }""")
    folders = {name: tmp_path / name for name in ("torch", "bvlc")}
    for name, values in (("torch", [0, 2, 3, 1]), ("bvlc", [1e-7, 3, 2, 1])):
        folders[name].mkdir()
        np.save(folders[name] / "d0.npy", np.float32(values).reshape(1, 1, 2, 2))
    assert parity_nets.flipped(net, {"blobs": ["x", "y"], "layers": ["x", "r", "p"]}, folders) == 2
