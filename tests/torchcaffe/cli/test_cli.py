"""The program `torchcaffe`: what it says and writes against real Caffe's programs (tests/bvlc/make_cli_goldens.py), its
flags, its errors, signals, and scripts that run unchanged."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest
import torch

import torchcaffe
from tests import GOLDENS as _GOLDENS
from tests.bvlc import cli_jobs
from tests.bvlc.make_cli_goldens import pictures
from tests.loaded import finished, run_module
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError
from torchcaffe.cli import flags, main
from torchcaffe.cli.flags import Flag
from torchcaffe.proto import caffe_pb2

GOLDENS = _GOLDENS / "cli"
NUMBER = r"-?\d+\.?\d*(?:e[+-]\d+)?"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    return tmp_path


def words(line: str) -> str:
    return re.sub(NUMBER, "#", line.partition("] ")[2] or line)


def source(line: str) -> str:
    return line.partition("] ")[0]


def numbers(line: str) -> list[float]:
    return [float(x) for x in re.findall(NUMBER, line.partition("] ")[2])]


# -- against real Caffe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cli_jobs.JOBS)
def test_says_and_writes_what_real_caffe_does(name, folder, capfd):
    files, commands = cli_jobs.JOBS[name]
    pictures(folder)
    for path, text in files.items():
        (folder / path).write_text(text)
    got: list[str] = []
    for command in commands:
        assert main._main(command[1:] if command[0] == "caffe" else command) == 0
        out, err = capfd.readouterr()
        got += ["$ " + " ".join(command), *cli_jobs.normalise(out + err)]
    wanted = (GOLDENS / f"{name}.log").read_text().splitlines()
    assert [words(line) for line in got] == [words(line) for line in wanted]
    assert [source(line) for line in got] == [source(line) for line in wanted]
    for a, b in zip(got, wanted):
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=2e-5, atol=1e-6, err_msg=f"{a}\n{b}")
    with np.load(GOLDENS / "databases.npz") as databases:
        for database in filter(os.path.isdir, cli_jobs.DATABASES):
            same_records(folder / database, databases[database].tobytes(), folder / (database + ".bvlc"))
        if (folder / "mean.binaryproto").exists():
            assert (folder / "mean.binaryproto").read_bytes() == databases["mean"].tobytes()


def same_records(ours: Path, theirs: bytes, copy: Path) -> None:
    copy.mkdir()
    (copy / "data.mdb").write_bytes(theirs)
    records = []
    for path in (ours, copy):
        with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
            records.append(list(txn.cursor()))
    assert [key for key, _ in records[0]] == [key for key, _ in records[1]]
    for (_, a), (_, b) in zip(*records):
        one, two = caffe_pb2.Datum.FromString(a), caffe_pb2.Datum.FromString(b)
        if two.float_data:  # computed; the rest is the same to the byte
            np.testing.assert_allclose(one.float_data, two.float_data, rtol=1e-6)
            one.ClearField("float_data")
            two.ClearField("float_data")
        assert one.SerializeToString() == two.SerializeToString()


# -- flags ---------------------------------------------------------------------------------------------------------

SOME = (Flag("text", "none", "a text"), Flag("count", 5, "a number"), Flag("yes", False, "a switch"))


@pytest.mark.parametrize(
    "line, values, rest",
    [
        ("", ("none", 5, False), []),
        ("-text=a --count 7 -yes word", ("a", 7, True), ["word"]),
        ("word --text a=b -count=-2 --noyes", ("a=b", -2, False), ["word"]),
        ("-yes=false one -- -two", ("none", 5, False), ["one", "-two"]),
        ("--yes=1 -text -dash", ("-dash", 5, True), []),
        ("-logtostderr --stderrthreshold=0 -", ("none", 5, False), ["-"]),
    ],
)
def test_flags(line, values, rest):
    assert flags.parse(line.split(), SOME) == (dict(zip(("text", "count", "yes"), values)), rest)


@pytest.mark.parametrize("line", ["-nope", "--nope=1", "-count=x", "-count", "-yes=maybe", "-nocount", "-text"])
def test_wrong_flags(line):
    with pytest.raises(CaffeError):
        flags.parse(line.split(), SOME)


def test_log_to_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "0")
    flags.parse([f"-log_dir={tmp_path}", "-minloglevel=3"], ())
    try:
        log.info("here.cpp:1", "a line")
    finally:
        log.to_file(None)
    assert os.environ["GLOG_minloglevel"] == "3"
    assert "here.cpp:1] a line" in next(tmp_path.iterdir()).read_text()


def test_the_last_word_on_the_level_counts(capfd, monkeypatch):
    """One tool's level once outlived it in its process, and a training after it left an empty log."""
    for set_quiet in (
        lambda: log.set_level(2),
        lambda: torchcaffe.init_log(2),
        lambda: monkeypatch.setenv("GLOG_minloglevel", "2"),
    ):
        set_quiet()
        log.info("here.cpp:1", "quiet")
        log.set_level(0)
        log.info("here.cpp:1", "loud")
        said = capfd.readouterr().err
        assert "loud" in said and "quiet" not in said


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(folder):
    (folder / "net.prototxt").write_text(cli_jobs.FIXED)
    text = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 snapshot_prefix: "s"'
    (folder / "solver.prototxt").write_text(text)
    (folder / "gpu.prototxt").write_text(text + " solver_mode: GPU")
    (folder / "broken.prototxt").write_text("nonsense: 1")
    return folder


@pytest.mark.parametrize(
    "line, names",
    [
        ("nope", "nope"),
        ("train test", "train test"),
        ("train", "-solver"),
        ("train -solver none.prototxt", "none.prototxt"),
        ("train -solver broken.prototxt", "broken.prototxt:1:1"),
        ("train -solver solver.prototxt -weights none.caffemodel", "none.caffemodel"),
        ("train -solver solver.prototxt -weights a -snapshot b", "-snapshot"),
        ("train -solver solver.prototxt -snapshot none.solverstate", "none.solverstate"),
        ("train -solver solver.prototxt -sigint_effect wave", "-sigint_effect wave"),
        ("train -solver solver.prototxt -gpu one", "-gpu one"),
        ("test -model net.prototxt", "-weights"),
        ("test -weights net.prototxt", "-model"),
        ("test -model net.prototxt -weights net.prototxt", "net.prototxt"),
        ("test -model net.prototxt -weights net.prototxt -iterations 0", "-iterations 0"),
        ("time", "-model"),
        ("time -model net.prototxt -phase BOTH", "-phase BOTH"),
        ("time -model none.prototxt", "none.prototxt"),
        ("run", "SCRIPT"),
        ("run none.py", "none.py"),
        ("run .", ". is a folder without a __main__.py"),
        ("run binary", "binary: not a Python script, it holds zero bytes"),
        ("run -m ..", "no such module to run: '..'"),
        ("time -model net.prototxt -level 99999999999999999999", "-level: 99999999999999999999 is out of range"),
        ("extract_features w net.prototxt a c \u00b2 lmdb", "\u00b2 mini-batches"),
        ("extract_features w net.prototxt a c 1 lmdb GPU DEVICE_ID=\u00b2", "DEVICE_ID"),
        ("convert_imageset . none.txt db", "none.txt"),
        ("convert_imageset -backend=leveldb . list.txt db", "leveldb"),
        ("compute_image_mean none", "none"),
        ("extract_features w net.prototxt a,b c 1 lmdb", "2 blobs"),
        ("extract_features w net.prototxt a c none lmdb", "none"),
        ("upgrade_net_proto_text none.prototxt out.prototxt", "none.prototxt"),
    ],
)
def test_one_line_errors(line, names, files):
    (files / "binary").write_bytes(bytes(9))
    with pytest.raises((CaffeError, OSError)) as error:
        main._main(line.split())
    assert names in str(error.value) and "\n" not in str(error.value)


def test_run_of_no_name(files):
    with pytest.raises(CaffeError, match="no such script:$"):
        main._main(["run", ""])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    "line", ["train -solver gpu.prototxt", "train -solver solver.prototxt -gpu 0", "time -model net.prototxt -gpu all",
             "device_query -gpu 0"],
)  # fmt: skip
def test_a_gpu_that_is_not_there_is_an_error_not_a_cpu_run(line, files, capfd):
    with pytest.raises(CaffeError) as error:
        main._main(line.split())
    assert "CPU" in str(error.value)
    assert "Use CPU" not in capfd.readouterr().err


def test_usage_and_version(capsys):
    assert main._main([]) == 0 and main._main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("device_query", "-sighup_effect", "extract_features"):
        assert word in out
    assert main._main(["--version"]) == 0
    assert torchcaffe.__version__ in capsys.readouterr().out
    for program in ("convert_imageset", "compute_image_mean", "extract_features"):
        assert main._main([program]) == 1


def test_device_query_without_a_gpu(capfd, monkeypatch):
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
    assert main._main(["device_query"]) == 0
    assert "caffe.cpp:138] Querying GPUs" in capfd.readouterr().err


def test_gpu_takes_a_number_a_list_or_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert main._gpus("") == [] and main._gpus("2") == [2] and main._gpus("0,2") == [0, 2]
    assert main._gpus("all") == [0, 1, 2]
    for text in ("0,3", "0,,1", "all,1", "-1"):
        with pytest.raises(torchcaffe.CaffeError, match=f"-gpu {text}: "):
            main._gpus(text)


def test_train_on_several_gpus_is_one_line(files, monkeypatch):
    monkeypatch.setattr(main, "_gpus", lambda text: [0, 1])
    with pytest.raises(torchcaffe.CaffeError, match="-gpu all: one program trains on one GPU"):
        main._main(["train", "-solver", "solver.prototxt", "-gpu", "all"])


def test_time_counts_as_bvlc_does(files, capfd, monkeypatch):
    # Its clock: whole milliseconds for iterations and totals, means of whole microseconds for layers.
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
    assert main._main(["time", "-model", "net.prototxt", "-iterations", "4"]) == 0
    err = capfd.readouterr().err
    assert len(re.findall(r"\] Iteration: \d forward-backward time: \d+ ms\.\n", err)) == 4
    total = int(re.search(r"\] Total Time: (\d+) ms\.\n", err).group(1))
    assert float(re.search(r"\] Average Forward-Backward: (\S+) ms\.\n", err).group(1)) == total / 4
    layers = re.findall(r"\]  *\S+\t(?:for|back)ward: (\S+) ms\.\n", err)
    assert layers and all(abs(float(ms) * 4000 - round(float(ms) * 4000)) < 0.05 for ms in layers if float(ms) < 10)


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "effects, sent, iterations, snapshots",
    [
        ("", signal.SIGINT, 3, ["s_iter_3"]),  # stop: a snapshot at the end all the same
        ("", signal.SIGHUP, 6, ["s_iter_3", "s_iter_6"]),
        ("-sigint_effect=snapshot", signal.SIGINT, 6, ["s_iter_3", "s_iter_6"]),
        ("-sighup_effect=stop", signal.SIGHUP, 3, ["s_iter_3"]),
        ("-sigint_effect none", signal.SIGINT, 6, ["s_iter_6"]),
    ],
)
def test_signals(effects, sent, iterations, snapshots, files, monkeypatch, capfd):
    from torchcaffe.solvers import solver

    (files / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 6 snapshot_prefix: "s" display: 1'
    )
    made = []

    def get_solver(*args, **kwargs):
        made.append(get(*args, **kwargs))
        made[0].add_callback(lambda: made[0].iter == 2 and os.kill(os.getpid(), sent), lambda: None)
        return made[0]

    get = solver.get_solver
    monkeypatch.setattr(solver, "get_solver", get_solver)
    before = signal.getsignal(sent)
    assert main._main(f"train -solver solver.prototxt {effects}".split()) == 0
    assert made[0].iter == iterations
    assert sorted(p.stem for p in files.glob("*.caffemodel")) == snapshots
    assert signal.getsignal(sent) is before
    assert ("Optimization stopped early." in capfd.readouterr().err) == (iterations == 3)


def test_a_stop_interrupts_a_test(files, capfd):
    (files / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 6 snapshot_prefix: "s" test_iter: 5 '
        "test_interval: 2"
    )
    solver = torchcaffe.get_solver("solver.prototxt")
    asked = []
    solver.requested_action = lambda: asked.append(1) or ("stop" if len(asked) == 3 else None)
    solver.solve()
    assert solver.iter == 0
    err = capfd.readouterr().err
    assert "Test interrupted." in err and "Optimization stopped early." in err


# -- run -----------------------------------------------------------------------------------------------------------


def script(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(textwrap.dedent(text))
    return "script.py"


def program(*args: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torchcaffe", *args]
    env = dict(os.environ, GLOG_minloglevel="2")
    return subprocess.run(command, capture_output=True, text=True, env=env, **options)


def forked(*args: str, cwd: Path) -> subprocess.CompletedProcess:
    """`program`, in a process that need not load PyTorch."""
    return finished(cwd, {"GLOG_minloglevel": "2"}, run_module, "torchcaffe", *args)


def test_a_script_runs_unchanged(files):
    script(
        files,
        """
        import sys

        import caffe
        import caffe.io
        from caffe import layers as L
        from caffe.proto import caffe_pb2
        from helper import NAME

        net = caffe.Net(sys.argv[1], caffe.TEST)
        print(__name__, sys.argv[1:], NAME, caffe_pb2.TEST, sorted(net.forward()))
        sys.exit(3)
        """,
    )
    (files / "helper.py").write_text("NAME = 'from the script folder'")
    done = program("run", str(files / "script.py"), "net.prototxt", "-x", cwd=files)
    assert done.returncode == 3, done.stderr
    assert done.stdout.split() == (
        "__main__ ['net.prototxt', '-x'] from the script folder 1 ['accuracy', 'loss']".split()
    )


def test_errors_of_a_script(files, capfd):
    name = script(files, "import caffe\n\ncaffe.Net('broken.prototxt', caffe.TEST)\n")
    with pytest.raises(CaffeError, match=r"^script\.py:3: broken\.prototxt:1:1: "):
        main._main(["run", name])
    assert main._main(["run", script(files, "open('none')")]) == 1
    assert re.search(r'File "script.py", line 1, .*FileNotFoundError', capfd.readouterr().err, re.S)


def run_each(*names: str) -> None:
    """Run each module, and print the status and the error of each."""
    sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            main._main(["run", "-m", name])
        except CaffeError as error:
            print(error.status, error)


def test_a_module_runs_as_python_runs_it(files):
    (files / "pack" / "main").mkdir(parents=True)
    (files / "pack" / "__init__.py").write_text("")
    (files / "pack" / "here.py").write_text("NAME = 'from its package'")
    text = "import sys\nimport caffe\nfrom pack import here\n"
    text += "print(__name__, sys.argv[0].endswith(OWN), sys.argv[1:], here.NAME, caffe.Net('net.prototxt', 1).outputs)"
    (files / "pack" / "one.py").write_text(text.replace("OWN", "'one.py'"))
    (files / "pack" / "main" / "__main__.py").write_text(text.replace("OWN", "'__main__.py'"))
    for name in ("pack.one", "pack.main"):
        done = forked("run", "-m", name, "-m", "x", cwd=files)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "__main__ True ['-m', 'x'] from its package ['accuracy', 'loss']\n"
    (files / "fails.py").write_text("import caffe\ncaffe.Net('broken.prototxt', 1)")
    done = forked("run", "-m", "fails", cwd=files)
    assert done.returncode == 2 and re.search(r"^error: .*fails\.py:2: broken\.prototxt:1:1: ", done.stderr)
    missing = ["nope", "pack.nope", "pack", "pack.one.nope", ""]
    done = finished(files, {"GLOG_minloglevel": "2"}, run_each, *missing)
    said = [line for line in done.stdout.splitlines() if line.startswith("2 ")]  # `pack.one` is loaded, and prints
    assert said == [f"2 run: no such module to run: '{name}'" for name in missing], done.stderr
    (files / "pack" / "__init__.py").write_text("import missing_module")
    done = forked("run", "-m", "pack.one", cwd=files)
    assert done.returncode == 1 and "No module named 'missing_module'" in done.stderr


PYTHON_NET = 'layer { name: "p" type: "Python" top: "x" python_param { module: "my_layers" layer: "One" } }'
PYTHON_LAYER = """
import caffe

class One(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = 1

    def backward(self, top, propagate_down, bottom):
        pass
"""


@pytest.mark.parametrize("way", ["time", "run"])
def test_python_layers_need_permission(way, files):
    (files / "python.prototxt").write_text(PYTHON_NET.replace("my_layers", f"layers_of_{way}"))
    (files / f"layers_of_{way}.py").write_text(PYTHON_LAYER)
    script(files, "import caffe\nassert caffe.Net('python.prototxt', caffe.TEST).forward()['x'] == 1")
    line = ["script.py"] if way == "run" else ["-model", "python.prototxt", "-iterations=1"]
    with pytest.raises(CaffeError, match="allow"):
        main._main([way, *line])
    try:
        assert main._main([way, "--allow-python-layers", *line]) == 0
    finally:
        torchcaffe.allow_python_layers(False)


BAD_MODULES = [
    ("raise ValueError('of its own')", ValueError, "of its own"),
    ("1 / 0", ZeroDivisionError, "^division by zero$"),
    ("import missing_module", ModuleNotFoundError, "missing_module"),
    ("raise RuntimeError('of its own')", RuntimeError, "^of its own$"),
    ("import caffe\n\nclass One(caffe.Layer):\n    def __init__(self, p):\n        [][1]", IndexError, "list index"),
]


@pytest.mark.parametrize("index", range(len(BAD_MODULES)))
def test_what_a_layers_module_raises_surfaces(index, files):
    # BVLC prints the traceback and raises a SystemError without a reason.
    text, kind, words = BAD_MODULES[index]
    (files / f"bad_layers_{index}.py").write_text(text)
    (files / "python.prototxt").write_text(PYTHON_NET.replace("my_layers", f"bad_layers_{index}"))
    sys.path.insert(0, str(files))
    torchcaffe.allow_python_layers(True)
    try:
        with pytest.raises(kind, match=words) as caught:
            torchcaffe.Net(str(files / "python.prototxt"), torchcaffe.TEST)
        assert caught.type is kind
    finally:
        torchcaffe.allow_python_layers(False)
        sys.path.remove(str(files))


@pytest.mark.parametrize("name", ["", ".", ".my_layers", "nowhere", "nowhere.at_all", "json.nowhere"])
def test_a_module_that_is_not_there(name, files):
    (files / "python.prototxt").write_text(PYTHON_NET.replace("my_layers", name))
    torchcaffe.allow_python_layers(True)
    try:
        with pytest.raises(CaffeError, match="layer 'p' .*(no such module|whole name)"):
            torchcaffe.Net(str(files / "python.prototxt"), torchcaffe.TEST)
    finally:
        torchcaffe.allow_python_layers(False)


def test_device_query(capfd, monkeypatch):
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
    known = {"major": 9, "minor": 0, "name": "H", "total_memory": 5}
    known |= {"max_threads_per_multi_processor": 6, "multi_processor_count": 7}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(**known))
    assert main._main(["device_query"]) == 0
    said = capfd.readouterr().err
    assert said.count("common.cpp:186] ") == 7 and "] Number of multiprocessors:     7\n" in said
