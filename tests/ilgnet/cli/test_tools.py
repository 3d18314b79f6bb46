"""The tools on a small net and a made-up data set: train, stop and go on, evaluate, operate, fold, report."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from ilgnet import score
from ilgnet.cli import (
    compare_nets,
    evaluate,
    export_onnx,
    gen_net,
    log_to_tensorboard,
    merge_bn,
    report,
    surgery,
    train,
    visualize,
)
from ilgnet.evaluate import caffe_log, protocol
from ilgnet.run import bvlc, processes, results
from ilgnet.scoring.scorers import NetScorer, Settings
from tests import ROOT, chromium
from tests.ilgnet.small_nets import write_solver
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import caffemodel, solverstate, upgrade


@pytest.fixture(scope="module")
def trained(folder):
    """Weights of plain after 30 iterations."""
    assert train.main(["--solver", write_solver(folder, mode="GPU")]) == 0
    (folder / "first.log").write_text((folder / "run" / "x.log").read_text())
    return folder / "run" / "x_iter_30.caffemodel"


def test_training_leaves_weights_and_a_log(trained, folder):
    log = (folder / "first.log").read_text()
    assert "Iteration 25" in log and "Optimization Done" in log and "lr = 0.01" in log
    assert (folder / "run" / "x_iter_30.solverstate").is_file() and trained.is_file()


def test_evaluate_takes_every_record_once(trained, folder, capsys):
    found = []
    for batch in ("1", "8", "21"):
        out = run_evaluate(trained, folder, batch)
        found.append(protocol.read_csv(out.with_suffix(".csv")))
        result = json.loads(out.read_text())
        assert result["dataset"] == "demo" and result["synthetic"] == "made up"
        assert result["preprocess"]["preset"] == "lmdb" and result["result"]["n"] == 21
        assert result["result"]["confusion"][0][0] + result["result"]["confusion"][0][1] == 7
    assert "majority baseline   66.67%" in capsys.readouterr().out
    assert found[0].keys == [f"{i:08d}_{i}.png" for i in range(21)]
    np.testing.assert_allclose(1 / (1 + np.exp(-found[0].margin)), found[0].p_high, rtol=1e-5, atol=1e-37)
    assert len(set(found[0].margin)) == 21  # where P(high) of some rounds to 1
    for other in found[1:]:
        np.testing.assert_allclose(other.p_high, found[0].p_high, rtol=1e-5)
    assert np.sum((found[0].p_high > 0.5) == (found[0].labels == 1)) >= 14
    # the log's last test is the net's own data layer: 3 batches of 8 of the same records, wrapping round
    logged = protocol.from_log(folder / "first.log").result.first_batches
    right = (found[0].p_high > 0.5) == (found[0].labels == 1)
    assert logged.n == 24
    # the solver tests one batch group after another, so the last test starts where the one before it stopped
    starts = [np.mean(right[(np.arange(24) + 24 * k) % 21]) for k in range(4)]
    assert min(abs(logged.value - s) for s in starts) < 1e-5


@pytest.fixture(scope="module")
def evaluated(trained, folder):
    """The result of evaluating it in batches of 8."""
    return run_evaluate(trained, folder, "8")


def run_evaluate(trained, folder, batch):
    out = folder / f"eval{batch}.json"
    assert (
        evaluate.main(
            [
                "--weights",
                str(trained),
                "--net",
                str(folder / "plain_deploy.prototxt"),
                "--lmdb",
                str(folder / "val_lmdb"),
                "--batch",
                batch,
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


LOGGED, NET, CHOSEN = (
    ["--log", "x.log"],
    ["--weights", "x.caffemodel", "--lmdb", "x_lmdb"],
    ["--weights", "x.caffemodel", "--picks", "x.csv"],
)


@pytest.mark.parametrize(
    "words, reason",
    [
        *[
            (LOGGED + [name, value], f"{name} means nothing with --log")
            for name, value in (
                ("--tta", "mirror"),
                ("--cut-on", "x"),
                ("--lmdb", "x"),
                ("--net", "v1"),
                ("--precision", "bf16"),
                ("--gpu", "0"),
                ("--batch", "8"),
                ("--test-batch", "8"),
                ("--mean", "x"),
                ("--engine", "bvlc"),
            )
        ],
        *[
            (CHOSEN + [name, value], f"{name} means nothing with --picks")
            for name, value in (
                ("--tta", "mirror"),
                ("--test-batch", "8"),
                ("--cut-on", "x"),
                ("--dataset", "ava1"),
                ("--lmdb", "x"),
            )
        ],
        (NET + ["--photos", "x"], "--photos means nothing with --lmdb"),
        (NET + ["--test-batch", "-5"], "--test-batch -5: must be from 1 to 1000000"),
        (NET + ["--test-batch", "0"], "--test-batch 0: must be from 1 to 1000000"),
        (NET + ["--batch", "0"], "--batch 0: must be from 1 to 1000000"),
        (CHOSEN + ["--batch", "-1"], "--batch -1: must be from 1 to 1000000"),
    ],
)
def test_evaluate_takes_no_option_that_it_does_not_apply(words, reason, capsys):
    with pytest.raises((CaffeError, SystemExit)) as ended:
        evaluate.main(words)
    assert reason in f"{capsys.readouterr().err} {ended.value}"


def test_evaluate_checks_its_outputs_before_it_scores(trained, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "ask", None)
    command = [
        "--weights",
        str(trained),
        "--lmdb",
        str(folder / "val_lmdb"),
        "--net",
        str(folder / "plain_deploy.prototxt"),
        "--out",
    ]
    (tmp_path / "folder.json").mkdir()
    for name, reason in (("ev.csv", r"ev.csv: must end in \.json"), ("folder.json", "folder.json: is a folder")):
        with pytest.raises(CaffeError, match=reason):
            evaluate.main([*command, str(tmp_path / name)])
    with pytest.raises(CaffeError, match="--cut-on: .*plain_deploy.prototxt answers"):
        evaluate.main([*command, str(tmp_path / "x.json"), "--cut-on", str(folder / "val_lmdb")])


def test_a_process_without_a_photo_waits_for_the_others(trained, folder, monkeypatch):
    """As with more processes than photos."""
    scorer = NetScorer(Settings(trained, folder / "plain_deploy.prototxt", mean=folder / "mean.binaryproto"))
    others = [("a", 1, np.array([0.25, 0.75]))]
    monkeypatch.setattr(processes, "mine", lambda: slice(30, None, 31))
    monkeypatch.setattr(processes, "everyones", lambda items: items + others)
    for augment in (None, "mirror"):
        assert protocol.ask(scorer, folder / "val_lmdb", augment=augment).rows.tolist() == [[0.25, 0.75]]


def test_score_equals_evaluate(trained, folder, evaluated):
    table = protocol.read_csv(evaluated.with_suffix(".csv"))
    got = score(
        [folder / "photos" / f"{i}.png" for i in range(21)],
        trained,
        folder / "plain_deploy.prototxt",
        mean=folder / "mean.binaryproto",
    )
    np.testing.assert_allclose(got, table.p_high, rtol=1e-5)
    one = score(folder / "photos" / "3.png", trained, folder / "plain_deploy.prototxt", preset="direct")
    assert len(one) == 1 and 0 <= one[0] <= 1


def test_score_refuses_what_was_not_loaded(trained, folder):
    with pytest.raises(CaffeError, match=r"nothing in it fits 3 layer\(s\) .*conv, conv/bn, conv/scale"):
        score(folder / "photos" / "3.png", trained, folder / "bn_deploy.prototxt")
    with pytest.raises(CaffeError, match="the weights of none of v1, v1bn"):
        score(folder / "photos" / "3.png", trained)


def test_surgery_then_merge_change_no_answer(trained, folder, capsys):
    photos = [folder / "photos" / f"{i}.png" for i in range(21)]
    mean = folder / "mean.binaryproto"
    before = score(photos, trained, folder / "plain_deploy.prototxt", mean=mean)
    for name, more in (("identity", []), ("calibrated", ["--calibrate", str(folder / "val_lmdb"), "--images", "12"])):
        out = folder / f"{name}.caffemodel"
        assert (
            surgery.main(["--weights", str(trained), "--net", str(folder / "bn.prototxt"), "--out", str(out)] + more)
            == 0
        )
        text = capsys.readouterr().out
        assert "bias into the mean of conv/bn" in text and "2 copied, 2 made" in text
        np.testing.assert_allclose(score(photos, out, folder / "bn_deploy.prototxt", mean=mean), before, atol=2e-6)
        blobs = {layer.name: layer.blobs for layer in caffemodel.read_caffemodel(out)}
        if name == "calibrated":
            assert "calibrated 1 BatchNorm layers on 12 photos" in text
            assert blobs["conv/bn"][1].std() > 0  # statistics, not the identity's
            moved = float(re.search(r"moved by (\S+)", text).group(1))
            assert moved < 1e-5
    assert (
        merge_bn.main(
            [
                "--net",
                str(folder / "bn_deploy.prototxt"),
                "--weights",
                str(out),
                "--out-net",
                str(folder / "merged.prototxt"),
                "--out",
                str(folder / "merged.caffemodel"),
            ]
        )
        == 0
    )
    after = score(photos, folder / "merged.caffemodel", folder / "merged.prototxt", mean=mean)
    np.testing.assert_allclose(after, before, atol=5e-6)
    # OpenCV reads what was written, and agrees
    net = cv2.dnn.readNetFromCaffe(str(folder / "merged.prototxt"), str(folder / "merged.caffemodel"))
    blob = cv2.imread(str(photos[0]))[112:144, 112:144].transpose(2, 0, 1)[None].astype(np.float32) - 120
    net.setInput(blob)
    np.testing.assert_allclose(net.forward()[0, 1], before[0], atol=1e-5)


def test_surgery_refuses(trained, folder, tmp_path):
    other = folder / "other.prototxt"
    other.write_text(
        (folder / "plain.prototxt").read_text().replace('name: "conv"', 'name: "c"').replace('name: "ip"', 'name: "i"')
    )
    with pytest.raises(CaffeError, match="nothing was copied"):
        surgery.main(["--weights", str(trained), "--net", str(other), "--out", str(tmp_path / "x.caffemodel")])
    other.write_text('name: "ILGNet-Inc.V3" ' + re.sub('^name: "[^"]*"', "", other.read_text(), flags=re.M))
    with pytest.raises(
        CaffeError, match="; ILGNet-Inc.V3 takes those of inception_v3.caffemodel, or starts from random"
    ):
        surgery.main(["--weights", str(trained), "--net", str(other), "--out", str(tmp_path / "x.caffemodel")])
    assert not list(tmp_path.iterdir())


def test_surgery_names_what_it_cannot_take(trained, folder, tmp_path):
    """Before any work; a folder that is not there is made."""
    (tmp_path / "uncut.prototxt").write_text((folder / "plain.prototxt").read_text().replace("crop_size: 32", ""))
    command = ["--weights", str(trained), "--net", str(folder / "plain.prototxt")]
    photos = ["--calibrate", str(folder / "photos")]
    for more, message in (
        (["--seed", "-1"], "--seed -1"),
        ([*photos, "--images", "-1"], "--images -1: must be at least 2"),
        ([*photos, "--net", str(tmp_path / "uncut.prototxt")], "uncut.prototxt: no layer has .*crop"),
        (["--out", str(tmp_path)], "is a folder; give a file"),
    ):
        with pytest.raises(CaffeError, match=message):
            surgery.main([*command, "--out", str(tmp_path / "x.caffemodel"), *more])
    out = tmp_path / "new" / "folder" / "x.caffemodel"
    assert surgery.main([*command, "--out", str(out)]) == 0 and out.is_file()


@pytest.mark.parametrize(
    "main, options",
    [
        (visualize.main, ["--lmdb", "val_lmdb", "--net", "plain_deploy.prototxt"]),
        (export_onnx.main, ["--net", "plain_deploy.prototxt"]),
        (merge_bn.main, ["--net", "bn_deploy.prototxt", "--out-net", "new.prototxt"]),
    ],
)
def test_where_a_result_goes_is_looked_at_first(main, options, trained, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(caffemodel, "read_caffemodel", lambda *_: pytest.fail("the work has begun"))
    command = ["--weights", str(trained), *options, "--out"]
    with pytest.raises(CaffeError, match="is a folder; give a file|must end in .json"):
        main([*command, str(tmp_path)])
    if main is visualize.main:
        with pytest.raises(CaffeError, match="x.csv: must end in .json"):
            main([*command, str(tmp_path / "x.csv")])


def test_training_goes_on_from_a_snapshot(trained, folder):
    state = str(trained.with_suffix(".solverstate"))
    assert train.main(["--solver", write_solver(folder, max_iter=35), "--snapshot", state]) == 0
    assert solverstate.read_solverstate(folder / "run" / "x_iter_35.solverstate").iter == 35
    log = caffe_log.read_log(folder / "run" / "x.log")
    assert log.loss.iterations.tolist() == [0, 5, 10, 15, 20, 25, 30, 35]


def test_ctrl_c_leaves_a_usable_snapshot(folder, trained):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    solver = write_solver(folder, max_iter=10**7, run="stopped")
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "--solver", solver]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen = threading.Event()
    lines = []

    def read():
        for line in process.stderr:
            lines.append(line)
            if "Iteration 5 " in line:
                seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.wait(60), "".join(lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    reader.join()
    stopped = re.search(r"go on with --snapshot (\S+)_iter_(\d+)\.solverstate", "".join(lines))
    assert stopped, "".join(lines[-5:])
    prefix, iteration = stopped.group(1), int(stopped.group(2))
    assert solverstate.read_solverstate(f"{prefix}_iter_{iteration}.solverstate").iter == iteration
    assert (
        train.main(
            [
                "--solver",
                write_solver(folder, max_iter=iteration + 2, run="stopped"),
                "--snapshot",
                f"{prefix}_iter_{iteration}.solverstate",
            ]
        )
        == 0
    )


def test_snapshot_auto_takes_the_newest_whole_one(folder, trained, capfd):
    prefix = folder / "auto" / "x"
    text = Path(write_solver(folder, max_iter=40, run="auto")).read_text()
    solver = folder / "auto.prototxt"
    solver.write_text(text + "snapshot: 10")
    command = ["--solver", str(solver), "--weights", str(trained), "--snapshot", "auto", "--keep", "2"]
    assert train.main(command) == 0
    assert f"no snapshot yet: starting from {trained}" in capfd.readouterr().err

    def kept():
        return sorted(path.name for path in prefix.parent.iterdir() if "_iter_" in path.name)

    assert kept() == [f"x_iter_{i}.{kind}" for i in (30, 40) for kind in ("caffemodel", "resume.npz", "solverstate")]
    wanted = (prefix.parent / "x_iter_40.caffemodel").read_bytes()
    damaged = prefix.parent / "x_iter_40.solverstate"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert train.main(command) == 0
    assert (prefix.parent / "x_iter_40.caffemodel").read_bytes() == wanted
    log = (prefix.parent / "x.log").read_text()
    assert "Iteration 30" in log.split("Solving", 2)[2] and "Iteration 5 " not in log.split("Solving", 2)[2]
    command[command.index(str(trained))] = str(folder / "gone.caffemodel")  # not asked for where there are snapshots
    assert train.main(command) == 0
    shutil.rmtree(prefix.parent)
    with pytest.raises(CaffeError, match="gone.caffemodel: no such file"):
        train.main(command)


def test_several_gpus_are_several_processes_also_where_a_launcher_says_one(monkeypatch):
    launched = []
    monkeypatch.setattr("torchcaffe.solvers.parallel.launch", lambda argv, count: launched.append((argv, count)) or 0)
    monkeypatch.setattr("torchcaffe.base.context.check_gpu", lambda index: None)
    for world in (None, "1", "2"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if world:
            monkeypatch.setenv("WORLD_SIZE", world)
        processes.launch(argparse.Namespace(gpu=[0, 1]), "train", [])
    assert launched == [(["-m", "ilgnet", "train"], 2)] * 2  # under "2" a launcher has made both already


def test_a_fresh_start_beside_another_runs_snapshots_is_refused(folder, trained, capfd):
    """--snapshot auto would go on with those of the other run, which are further."""
    before = trained.read_bytes()
    with pytest.raises(CaffeError, match=r"x_iter_\d+.solverstate: an earlier run's; go on with it by --snapshot auto"):
        train.main(["--solver", write_solver(folder, lr=0.02, max_iter=10)])
    assert trained.read_bytes() == before
    assert train.main(["--solver", write_solver(folder, max_iter=2, run="fresh"), "--snapshot", "auto"]) == 0
    assert "no snapshot yet: starting from the fillers" in capfd.readouterr().err


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here (apt install make)")
@pytest.mark.parametrize(
    "more, wanted, unwanted",
    [
        ("", "--estimate --engine torch  --weights out/snapshots/ava1_v1bn_init.caffemodel", "--snapshot"),
        (
            "SNAPSHOT=auto",
            "test -f out/snapshots/ava1_v1bn_init.caffemodel || .venv/bin/ilgnet surgery",
            "none",
        ),
        ("SNAPSHOT=auto", "--snapshot auto --weights out/snapshots/ava1_v1bn_init.caffemodel", "none"),
        ("SNAPSHOT=auto WEIGHTS=none", "--snapshot auto", "--weights"),
        ("SNAPSHOT=x.solverstate", "--snapshot x.solverstate", "ilgnet surgery"),
    ],
)
def test_make_starts_from_the_weights_where_there_is_no_snapshot(more, wanted, unwanted):
    done = subprocess.run(["make", "-n", "ava1-train", *more.split()], cwd=ROOT, capture_output=True, text=True)
    made = " ".join(line.strip(" \t\\") for line in done.stdout.splitlines() if not line.startswith("test -z"))
    made = re.sub(r"error: .*?exit 2", "", made)
    assert " ".join(wanted.split()) in " ".join(made.split()) and unwanted not in made, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here (apt install make)")
def test_make_looks_for_all_of_the_data_and_cleans_no_snapshots(tmp_path):
    def make(*words):
        command = ["make", "-o", ".venv/.installed", "-f", str(ROOT / "Makefile"), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    for name in ("train_lmdb/data.mdb", "val_lmdb/data.mdb", "mean.binaryproto"):
        assert f"error: data/ava1/{name} is missing" in make("ava1-train", "WEIGHTS=none").stdout
        (tmp_path / "data/ava1" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/ava1" / name).touch()
    (tmp_path / "out/demo/snapshots").mkdir(parents=True)
    (tmp_path / "out/snapshots").mkdir()
    (tmp_path / "out/report.html").touch()
    assert make("clean").returncode == 0 and [path.name for path in (tmp_path / "out").iterdir()] == ["snapshots"]


def test_compare_nets_counts_in_this_python(tmp_path, monkeypatch, capsys):
    """Whatever engine trains and tests: --engine bvlc has its pycaffe in another Python. And a comparison made again
    comes to the same: surgery's fillers once had another seed each time, which turned 83% into 53%."""
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90}
    figures = {"accuracy": share, "balanced_accuracy": 0.5, "auc": 0.5, "majority_baseline": {**share, "value": 0.8}}
    (tmp_path / "out" / "third_surgery").mkdir(parents=True)
    earlier = tmp_path / "out" / "third_surgery" / "third_iter_9.solverstate"
    source = tmp_path / "bvlc_googlenet.caffemodel"
    for file in (earlier, source):
        file.touch()
    ran = []

    def tool(name, *arguments):
        ran.append(name)
        words = [word for argument in arguments for word in argument.split("=", 1)]
        if name == "gen-net":
            assert gen_net.main(words) == 0
        elif name in ("gen-solver", "surgery"):
            assert words[words.index("--seed" if name == "surgery" else "--random-seed") + 1] == "1"
        elif name == "train":
            assert not earlier.exists() and words[-2:] == ["--engine", "bvlc"]
        elif name == "evaluate":
            Path(words[words.index("--out") + 1]).write_text(json.dumps({"result": figures}))

    monkeypatch.setattr(compare_nets, "tool", tool)
    assert (
        compare_nets.main(
            [
                "--data",
                str(tmp_path),
                "--variants",
                "third",
                "--engine",
                "bvlc",
                "--weights",
                str(source),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert re.search(r" 1e-05\*    50.00%   40.00%- 60.00%     90   80.00% ", said) and "* the net's own rate" in said
    (row,) = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (
        row["own_rate"]
        and row["parameters"] > 1e5
        and ran == ["gen-net", "gen-solver", "surgery", "train", "evaluate", "report"]
    )


def test_divergence_stops_with_one_line(folder):
    with pytest.raises(CaffeError, match=r"iteration \d+: the loss is .*lower base_lr"):
        train.main(["--solver", write_solver(folder, lr=1e20, max_iter=50, run="diverged")])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda f: (f / "solver.prototxt").write_text('net: "gone.prototxt" max_iter: 1 snapshot_prefix: "x"'),
            "net: no file gone.prototxt",
        ),
        (lambda f: (f / "solver.prototxt").write_text(f'net: "{f}/plain.prototxt"'), "max_iter is 0; nothing to train"),
        (
            lambda f: (f / "solver.prototxt").write_text(
                f'net: "{f}/bad.prototxt" max_iter: 1 snapshot_prefix: "{f}/x"'
            ),
            "layer 'data': data_param.source: no LMDB at gone",
        ),
    ],
)
def test_inputs_are_checked_first(folder, change, message):
    (folder / "bad.prototxt").write_text(
        (folder / "plain.prototxt").read_text().replace(f'source: "{folder}/val_lmdb"', 'source: "gone"')
    )
    change(folder)
    with pytest.raises(CaffeError, match=message):
        train.main(["--solver", str(folder / "solver.prototxt")])


def test_weights_that_do_not_fit_are_refused(trained, folder):
    net = (folder / "plain.prototxt").read_text().replace("num_output: 6", "num_output: 5")
    (folder / "narrow.prototxt").write_text(net)
    with pytest.raises(CaffeError, match="layer 'conv': shapes .* do not fit the net's"):
        train.main(["--solver", write_solver(folder, net="narrow", run="narrow"), "--weights", str(trained)])


def test_report_of_all_that(trained, folder, evaluated):
    out = folder / "report" / "report.html"
    assert report.main(["--run", f"plain={folder / 'run' / 'x.log'}", "--eval", str(evaluated), "--out", str(out)]) == 0
    page = out.read_text()
    assert "Synthetic labels" in page and page.count("data:image/jpeg") >= 7
    assert json.loads(out.with_suffix(".json").read_text())["synthetic_labels"] is True


@pytest.mark.skipif(not bvlc.available(), reason="real Caffe is not set up (make bvlc)")
def test_both_engines_agree(trained, folder):
    results, densities = {}, {}
    for engine in ("torch", "bvlc"):
        weights, out = folder / f"{engine}.caffemodel", folder / f"{engine}.json"
        assert (
            surgery.main(
                list(
                    map(
                        str,
                        [
                            "--weights",
                            trained,
                            "--net",
                            folder / "bn.prototxt",
                            "--out",
                            weights,
                            "--seed",
                            7,
                            "--engine",
                            engine,
                            "--calibrate",
                            folder / "photos",
                            "--images",
                            12,
                        ],
                    )
                )
            )
            == 0
        )
        assert (
            evaluate.main(
                list(
                    map(
                        str,
                        [
                            "--weights",
                            weights,
                            "--net",
                            folder / "bn_deploy.prototxt",
                            "--lmdb",
                            folder / "val_lmdb",
                            "--out",
                            out,
                            "--engine",
                            engine,
                        ],
                    )
                )
            )
            == 0
        )
        results[engine] = (
            protocol.read_csv(out.with_suffix(".csv")),
            {layer.name: layer.blobs for layer in caffemodel.read_caffemodel(weights)},
        )
        assert (
            visualize.main(
                list(
                    map(
                        str,
                        [
                            "--weights",
                            weights,
                            "--net",
                            folder / "bn_deploy.prototxt",
                            "--lmdb",
                            folder / "val_lmdb",
                            "--blobs",
                            "conv",
                            "pool",
                            "--out",
                            folder / f"{engine}_features.json",
                            "--engine",
                            engine,
                        ],
                    )
                )
            )
            == 0
        )
        densities[engine] = np.loadtxt(folder / f"{engine}_features.csv", delimiter=",", skiprows=1, usecols=(2, 3, 4))
    np.testing.assert_allclose(results["torch"][0].p_high, results["bvlc"][0].p_high, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(densities["torch"], densities["bvlc"], atol=1 / (6 * 7 * 7))  # one value at 0, at most
    for name, blobs in results["torch"][1].items():
        for ours, theirs in zip(blobs, results["bvlc"][1][name]):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not bvlc.available(), reason="real Caffe is not set up (make bvlc)")
def test_real_caffe_trains(trained, folder):
    words = ["--solver", write_solver(folder, max_iter=12, run="bvlc"), "--engine", "bvlc", "--estimate"]
    assert train.main([*words, "--weights", str(trained)]) == 0
    log = (folder / "bvlc" / "x.log").read_text()
    assert "Iteration 10" in log and "Optimization Done" in log
    assert (folder / "bvlc" / "x_iter_12.caffemodel").is_file()


def test_several_weights_give_mean_and_spread(trained, folder, capsys):
    first = folder / "seed1.caffemodel"
    first.write_bytes(trained.read_bytes())
    blobs = {layer.name: layer.blobs for layer in caffemodel.read_caffemodel(trained)}
    blobs["ip"][1] = blobs["ip"][1] + np.array([3, -3], np.float32)
    caffemodel.write_caffemodel(folder / "seed2.caffemodel", upgrade.read_net(folder / "plain.prototxt"), blobs)
    common = ["--net", str(folder / "plain_deploy.prototxt"), "--lmdb", str(folder / "val_lmdb")]
    assert (
        evaluate.main(
            [
                "--weights",
                str(first),
                str(folder / "seed2.caffemodel"),
                *common,
                "--name",
                "net",
                "--out",
                str(folder / "both.json"),
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    found = [json.loads((folder / f"both_seed{i}.json").read_text()) for i in (1, 2)]
    values = [100 * f["result"]["accuracy"]["value"] for f in found]
    assert "net: 2 runs" in text and [f["group"] for f in found] == ["net", "net"]
    assert f"whole test set     {np.mean(values):.2f}% ± {np.std(values, ddof=1):.2f}" in text
    assert found[0]["result"]["loss"] != found[1]["result"]["loss"]
    with pytest.raises(CaffeError, match="two files have one name"):
        evaluate.main(["--weights", str(first), str(first), *common])


def test_tta_averages_the_views(trained, folder):
    net, mean = folder / "plain_deploy.prototxt", np.float32(120)
    out = folder / "tta.json"
    assert (
        evaluate.main(
            [
                "--weights",
                str(trained),
                "--net",
                str(net),
                "--lmdb",
                str(folder / "val_lmdb"),
                "--tta",
                "both",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert json.loads(out.read_text())["tta"] == "both"
    got = protocol.read_csv(out.with_suffix(".csv")).p_high
    opencv = cv2.dnn.readNetFromCaffe(str(net), str(trained))
    photo = cv2.imread(str(folder / "photos" / "5.png")).transpose(2, 0, 1).astype(np.float32) - mean
    views = [photo[:, y : y + 32, x : x + 32] for y, x in ((112, 112), (0, 0), (0, 224), (224, 0), (224, 224))]
    answers = []
    for view in [*views, *(v[:, :, ::-1] for v in views)]:
        opencv.setInput(np.ascontiguousarray(view)[None])
        answers.append(opencv.forward()[0, 1])
    assert got[5] == pytest.approx(np.mean(answers), abs=1e-5)


def test_visualize(trained, folder, capsys):
    """Densities against OpenCV's own forward pass; pictures; the claim; and all of it in the report."""
    out, net = folder / "features.json", folder / "plain_deploy.prototxt"
    assert (
        visualize.main(
            [
                "--weights",
                str(trained),
                "--net",
                str(net),
                "--lmdb",
                str(folder / "val_lmdb"),
                "--blobs",
                "conv",
                "pool",
                "--shown",
                "2",
                "--batch",
                "4",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    result = json.loads(out.read_text())
    lines = (folder / "features.csv").read_text().splitlines()
    assert lines[0] == "key,label,p_high,conv,pool" and len(lines) == 22
    opencv = cv2.dnn.readNetFromCaffe(str(net), str(trained))
    for i in (0, 20):
        photo = cv2.imread(str(folder / "photos" / f"{i}.png"))[112:144, 112:144].transpose(2, 0, 1)
        opencv.setInput(photo[None].astype(np.float32) - 120)
        conv, pool, prob = opencv.forward(["relu", "pool", "prob"])
        key, label, p_high, *density = lines[1 + i].split(",")
        assert (key, label) == (f"{i:08d}_{i}.png", str(int(i % 3 != 0)))
        np.testing.assert_allclose(
            list(map(float, [p_high, *density])), [prob[0, 1], (conv > 0).mean(), (pool > 0).mean()], atol=1e-5
        )
    assert [s["label"] for s in result["shown"]] == [1, 1, 0, 0]
    c = result["stages"][1]["comparison"]
    assert (c["high"]["n"], c["low"]["n"]) == (14, 7) and result["claim"] in capsys.readouterr().out
    for shown in result["shown"]:
        for name in (shown["photo"], *shown["maps"]):
            assert cv2.imread(str(folder / name)) is not None
    assert cv2.imread(str(folder / "features.png")).shape[1] > 3 * 190
    page = folder / "fig5" / "r.html"
    assert report.main(["--features", str(out), "--out", str(page)]) == 0
    assert page.read_text().count("data:image/png") == 12 and "Cohen" in page.read_text()
    assert (folder / "fig5" / "r_fig5_1.png").is_file() and (folder / "fig5" / "r_density.csv").is_file()
    with pytest.raises(CaffeError, match="no blob 'gone' in it"):
        visualize.main(
            [
                "--weights",
                str(trained),
                "--net",
                str(net),
                "--photos",
                str(folder / "photos"),
                "--blobs",
                "gone",
                "--out",
                str(out),
            ]
        )
    with pytest.raises(CaffeError, match="not an ILGNet"):
        visualize.main(["--weights", str(trained), "--net", str(net), "--photos", str(folder / "photos")])


@pytest.fixture(scope="module")
def whole_report(trained, folder, evaluated):
    """A page with everything that a report can have."""
    features, benchmark, page = folder / "f.json", folder / "b.json", folder / "whole" / "r.html"
    assert (
        visualize.main(
            [
                "--weights",
                str(trained),
                "--net",
                str(folder / "plain_deploy.prototxt"),
                "--lmdb",
                str(folder / "val_lmdb"),
                "--blobs",
                "conv",
                "pool",
                "--out",
                str(features),
            ]
        )
        == 0
    )
    row = {"variant": "v1bn", "task": "test", "batch": 16, "engine": "torchcaffe", "median_s": 0.3}
    machine = {"cpu": "a processor", "threads": 2, "gpu": None, "sgemm_flops": 1e11, "copy_bytes_per_s": 1e10}
    results.write_json(benchmark, {"machine": machine, "rows": [row]})
    assert (
        report.main(
            [
                "--run",
                f"plain={folder / 'run' / 'x.log'}",
                "--eval",
                str(evaluated),
                "--features",
                str(features),
                "--benchmark",
                str(benchmark),
                "--out",
                str(page),
            ]
        )
        == 0
    )
    return page


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium here (apt install chromium)")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_in_a_browser(whole_report, tmp_path, width):
    """No sideways scrolling, no message in the console, no request, every picture shown, and nothing missing."""
    page = chromium.Page(tmp_path, width, 900)
    try:
        page.open(whole_report)
        assert page.value("document.documentElement.scrollWidth") <= width
        if width == 1280:  # a phone scrolls wide tables in their boxes; a desk shows them whole
            assert page.value("[...document.querySelectorAll('.scroll')].every(t => t.scrollWidth <= t.clientWidth)")
        pictures = page.value("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
        assert len(pictures) > 20 and all(natural > 0 and shown > 40 for natural, shown in pictures)
        headings = page.value("[...document.querySelectorAll('h2')].map(h => h.textContent.split(':')[0])")
        assert [h for h in headings if h.startswith(("Table", "Fig."))] == [
            "Table 1",
            "Table 2",
            "Table 3",
            "Table 4",
            "Fig. 2",
            "Fig. 3",
            "Fig. 4",
            "Fig. 5",
        ]
        assert page.value("document.querySelectorAll('p.missing').length") == 0
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith("data:")] == [whole_report.as_uri()]
    finally:
        page.close()


def test_visualize_takes_photos_without_labels(trained, folder):
    out = folder / "own.json"
    assert (
        visualize.main(
            [
                "--weights",
                str(trained),
                "--net",
                str(folder / "plain_deploy.prototxt"),
                "--photos",
                str(folder / "photos"),
                "--blobs",
                "conv",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert result["claim"].startswith("Not tested") and result["stages"][0]["comparison"] is None
    assert all(s["label"] is None for s in result["shown"])


def test_tensorboard_reads_a_run(trained, folder):
    """TensorBoard's own reader finds what the log says, and NumPy's view of the weights."""
    from tensorboard.backend.event_processing import event_accumulator as reader

    assert train.main(["--solver", write_solver(folder, max_iter=12, run="board"), "--tensorboard"]) == 0
    found = reader.EventAccumulator(str(folder / "board" / "x_tensorboard"), {reader.HISTOGRAMS: 0}).Reload()
    tags = found.Tags()
    log = caffe_log.read_log(folder / "board" / "x.log")
    for tag, series in (("train/loss", log.loss), ("lr", log.lr), ("test/accuracy", log.tests[0]["accuracy"])):
        assert tag in tags["scalars"]
        assert [e.step for e in found.Scalars(tag)] == series.iterations.tolist()
        np.testing.assert_allclose([e.value for e in found.Scalars(tag)], series.values, rtol=1e-6)
    times = [e.wall_time for e in found.Scalars("train/loss")]
    assert times == sorted(times) and abs(times[-1] - os.path.getmtime(folder / "board" / "x.log")) < 60
    blobs = {layer.name: layer.blobs for layer in caffemodel.read_caffemodel(folder / "board" / "x_iter_12.caffemodel")}
    last = found.Histograms("weights/conv/0")[-1]
    values = blobs["conv"][0].astype(np.float64)
    assert last.step == 12 and last.histogram_value.num == values.size == sum(last.histogram_value.bucket)
    assert last.histogram_value.sum == pytest.approx(values.sum())
    assert last.histogram_value.min == pytest.approx(values.min())
    assert set(tags["histograms"]) >= {"weights/conv/0", "weights/conv/1", "weights/ip/0", "weights/ip/1"}
    # again: nothing twice, and what is not ours stays
    (folder / "board" / "x_tensorboard" / "events.out.tfevents.1.other").write_bytes(b"")
    assert log_to_tensorboard.main([str(folder / "board" / "x.log"), "--no-weights"]) == 0
    assert len(list((folder / "board" / "x_tensorboard").iterdir())) == 2
    again = reader.EventAccumulator(str(folder / "board" / "x_tensorboard")).Reload()
    assert len(again.Scalars("train/loss")) == len(times) and not again.Tags()["histograms"]
