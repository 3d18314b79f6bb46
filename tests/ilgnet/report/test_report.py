"""The report: complete, strict about its input, and asking nothing of any network."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import lmdb
import numpy as np
import pytest

from ilgnet.cli import evaluate, plot_log
from ilgnet.cli import report as report_tool
from ilgnet.evaluate import caffe_log, metrics, protocol
from ilgnet.figures import html, plots
from ilgnet.nets.targets import TARGETS
from ilgnet.nets.variants import VARIANTS
from ilgnet.report import page as report
from ilgnet.report import tables as report_tables
from ilgnet.run import outputs, results
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2

LOG = """I1123 10:00:00.0 1 solver.cpp:347] Iteration 0, Testing net (#0)
I1123 10:00:00.0 1 solver.cpp:414]     Test net output #0: accuracy = 0.5
I1123 10:00:00.0 1 solver.cpp:414]     Test net output #1: loss = 0.7 (* 1 = 0.7 loss)
"""


def write_log(path, losses):
    path.write_text(
        LOG
        + "".join(
            f"I1123 10:00:{i:02d}.0 1 solver.cpp:239] Iteration {i} (1 iter/s, 1s/1 iters), loss = {loss}\n"
            for i, loss in enumerate(losses)
        )
    )
    return path


def write_result(folder, name="a<b>", **more):
    """An evaluation whose first photo is certainly wrong."""
    labels, p = np.array([0, 1, 0, 1]), np.array([0.99, 0.9, 0.2, 0.6])
    protocol.write_csv(folder / "r.csv", protocol.Predictions([f"{i:08d}_p{i}.jpg" for i in range(4)], labels, p))
    figures = metrics.summary(labels, p)
    figures.first_batches = metrics.first_batches(labels, p, 2, 1)
    result = {
        "kind": "evaluation",
        "name": name,
        "dataset": "ava1",
        "variant": "v1bn",
        "title": "ILGNet-Inc.V1-BN",
        "weights": "w.caffemodel",
        "net": "n.prototxt",
        "engine": "torch",
        "lmdb": str(folder / "gone_lmdb"),
        "preprocess": {"preset": "lmdb", "warp": [256, 256], "crop": [224, 224], "channel_mean_bgr": [1, 2, 3]},
        "predictions": "r.csv",
        "result": figures,
        **more,
    }
    results.write_json(folder / "r.json", result)
    return folder / "r.json"


def make(tmp_path, *more):
    log = write_log(tmp_path / "run.log", [1, 0.5, "nan", 0.25])
    out = tmp_path / "report.html"
    assert (
        report_tool.main(
            ["--run", f"first & best={log}", "--eval", str(write_result(tmp_path)), "--out", str(out), *more]
        )
        == 0
    )
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The page of one run and one result."""
    return make(tmp_path_factory.mktemp("plain"))


class Links(HTMLParser):
    """Collects what a browser would fetch, and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.links, self.open, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "srcset", "action", "data", "poster")]
        if tag not in ("meta", "link", "img", "br", "source", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_offline_and_well_formed(plain):
    page = plain.read_text()
    assert "<th>" not in page and page.count('<div class="scroll" tabindex="0" role="region"') == 6  # for keyboards
    parser = Links()
    parser.feed(page)
    assert not parser.open and parser.links and all(link.startswith("data:") for link in parser.links)
    assert not parser.tags & {"script", "iframe", "object", "form"}
    assert "default-src 'none'; img-src data:" in page and 'name="viewport"' in page
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page
    assert "a&lt;b&gt;" in page and "a<b>" not in page and "first &amp; best" in page


def test_says_what_it_should(plain):
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", plain.read_text()))
    assert "Synthetic labels" not in page
    assert "75.00 %" in page  # three of four
    assert "ILGNet-Inc.V1-BN 81.68 % 75.00 % 30.1 % – 95.4 % 50.00 %" in page and "80.71 % not run" in page  # Table 2
    assert "A-Lamp [45] 82.50 %" in page and "85.50 % not run not run" in page
    assert "called high, but low (1 in all) P(high) 0.990 p0.jpg" in page
    result = json.loads(plain.with_suffix(".json").read_text())
    assert result["runs"][0]["loss"]["value"] == [1, 0.5, None, 0.25]
    assert result["evaluations"][0]["result"]["accuracy"]["correct"] == 3
    assert "folder" not in result["evaluations"][0]
    for name in ("fig2", "fig4", "test_loss", "test_accuracy", "calibration1"):
        assert (plain.parent / f"report_{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.fromstring((plain.parent / f"report_{name}.svg").read_bytes())


def test_without_a_run_every_cell_says_so(tmp_path):
    """All of the paper's tables and figures are there, whatever was run."""
    log = write_log(tmp_path / "run.log", [1, 0.5])
    out = tmp_path / "report.html"
    assert report_tool.main(["--run", str(log), "--out", str(out)]) == 0
    text = out.read_text()
    for name in ("Table 1", "Table 2", "Table 3", "Table 4", "Fig. 2", "Fig. 3", "Fig. 4", "Fig. 5"):
        assert f"<h2>{name}" in text
    assert text.count('<p class="missing"><em>not run</em>') == 3  # results, Fig. 3 and Fig. 5
    tables = {t["name"]: t for t in json.loads(out.with_suffix(".json").read_text())["tables"]}
    for name in ("table2", "table3", "table4"):
        for row in tables[name]["rows"]:
            cells = [c["text"] for c in row]
            ours = cells[0] in {v.title for v in VARIANTS.values()}
            assert (cells.count("not run") > 0) == ours, cells


def published(shared):
    """Rows of the paper's tables as its text prints them: {method: numbers}, a dash as None."""
    text = (shared.parent / "paper" / "ilgnet.txt").read_text()
    found = {}
    for table, end in (("Table 2 The", "Table 3 The"), ("Table 3 The", "Table 4 The"), ("Table 4 The", "Fig. 4")):
        part = text[text.index(table) : text.index(end, text.index(table))]
        pattern = r"^(\S.*?)\s*((?: (?:\d+(?:\.\d+)?(?:%| days|s)|–))+)$"
        found[table[:7]] = {
            re.sub(r" ?\[", " [", m.group(1)): [
                None if w == "–" else float(re.sub("[^0-9.]", "", w))
                for w in re.sub(" days", "days", m.group(2)).split()
            ]
            for m in re.finditer(pattern, part, re.M)
        }
    return found


def test_every_published_row_is_there_with_its_figures(shared):
    rows = published(shared)
    assert [len(rows[name]) for name in ("Table 2", "Table 3", "Table 4")] == [16, 14, 4]
    ours = {t.name: t for t in (*report_tables.accuracy_tables([], []), report_tables.efficiency_table(None, [], []))}
    columns = {"Table 2": ("table2", (1, 4)), "Table 3": ("table3", (1,)), "Table 4": ("table4", (1, 3, 5))}
    for title, (name, indices) in columns.items():
        found = {
            re.sub(r"\s", "", row[0].text): [row[i].numbers[0] if row[i].numbers else None for i in indices]
            for row in ours[name].rows
        }
        order = [re.sub(r"\s", "", method) for method in rows[title]]
        assert [method for method in found if method in order] == order  # in the paper's order, too
        for method, figures in rows[title].items():
            assert found[re.sub(r"\s", "", method)] == figures, method


def test_table_1_is_as_printed(shared):
    text = (shared.parent / "paper" / "ilgnet.txt").read_text()
    table = report_tables.parameters_table([])
    for row in table.rows:
        first, rest = row[0].text.split("_")[0], row[0].text.split("_")[-1]
        printed = re.search(rf"^{first}(?:_ ?{rest})? (\S+) (\S+) (\S+)$", text, re.M).groups()
        assert [p.strip('"') for p in printed] == [
            c.text if not c.numbers else f"{c.numbers[0]:.5f}".rstrip("0").rstrip(".") for c in row[1:4]
        ]


def test_table_1_has_the_runs_own_solver(tmp_path):
    start = "I1123 10:00:00.0 1 solver.cpp:44] Initializing solver from parameters: \n"
    for name, text in (("good", 'base_lr: 0.02\nlr_policy: "fixed"\n'), ("fork", "base_lr: 1\nnew_field: 3\n")):
        log = write_log(tmp_path / f"{name}.log", [1])
        log.write_text(start + text + log.read_text())
    out = tmp_path / "r.html"
    assert (
        report_tool.main(["--run", str(tmp_path / "good.log"), "--run", str(tmp_path / "fork.log"), "--out", str(out)])
        == 0
    )
    rows = {r[0]: r[1:] for r in csv.reader(io.StringIO((tmp_path / "r_table1.csv").read_text()))}
    assert rows["parameter"][-1] == "run good" and rows["base_lr"][-1] == "0.02" and rows["lr_policy"][-1] == "fixed"
    assert rows["stepsize"][-1] == "–" and "The solver of run fork was not understood" in out.read_text()


def test_table_4_from_a_benchmark(tmp_path):
    row = {"variant": "full", "batch": 16, "engine": "torchcaffe", "trunk": "finetune"}
    rows = [
        dict(row, task="train", median_s=0.2),
        dict(row, task="test", median_s=0.16),
        dict(row, task="test1", batch=1, median_s=0.02),
        dict(row, task="test", engine="bvlc", median_s=9),
    ]
    machine = {"cpu": "x", "threads": 2, "gpu": None, "sgemm_flops": 1e11, "copy_bytes_per_s": 1e10}
    results.write_json(tmp_path / "b.json", {"machine": machine, "rows": rows})
    out = tmp_path / "r.html"
    assert report_tool.main(["--benchmark", str(tmp_path / "b.json"), "--out", str(out)]) == 0
    # 475,000 iterations of 48 photos at 0.2 s for 16
    assert "Full GoogLeNetV1-BN,82.36,not run,16,3.29861,0.84,0.02,0.01" in (tmp_path / "r_table4.csv").read_text()
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(CaffeError, match="not a result of ilgnet benchmark"):
        report_tool.main(["--benchmark", str(tmp_path / "b.json")])


def test_runs_of_one_group_give_mean_and_spread(tmp_path):
    paths = []
    for i, accuracy in enumerate((0.8, 0.81, 0.85)):
        result = {
            "kind": "evaluation",
            "name": f"seed{i}",
            "group": "v1bn",
            "dataset": "ava2",
            "variant": "v1bn",
            "title": "ILGNet-Inc.V1-BN",
            "result": {"n": 1000, "accuracy": metrics.proportion(int(accuracy * 1000), 1000)},
        }
        results.write_json(tmp_path / f"{i}.json", result)
        paths += ["--eval", str(tmp_path / f"{i}.json")]
    assert report_tool.main([*paths, "--out", str(tmp_path / "r.html")]) == 0
    cells = (tmp_path / "r_table3.csv").read_text().split("ILGNet-Inc.V1-BN,")[1].split("\n")[0].split(",")
    assert cells[:4] == ["85.5", "82", "80", "85"] and cells[4] == "–"  # no 50 batches: no such mean
    assert "82.00 ± 2.65 % (3 runs, 80.00 – 85.00 %)" in (tmp_path / "r.md").read_text()
    assert report_tool.main([*paths[:2], "--out", str(tmp_path / "one.html")]) == 0
    assert "80.00 % (1 run)" in (tmp_path / "one.md").read_text() and "nan" not in (tmp_path / "one.md").read_text()
    one = protocol.groups([report.read_evaluation(paths[1])])[0]
    assert protocol.group_lines(one) == ["v1bn: 1 run", "whole test set     80.00%"]
    results.write_json(tmp_path / "2.json", dict(result, precision="int8"))
    with pytest.raises(CaffeError, match="group 'v1bn': its evaluations differ in precision"):
        report_tool.main([*paths, "--out", str(tmp_path / "r.html")])
    results.write_json(tmp_path / "2.json", dict(result, title="ILGNet-Inc.V3"))
    with pytest.raises(CaffeError, match="group 'v1bn': its evaluations differ in title"):
        report_tool.main([*paths, "--out", str(tmp_path / "r.html")])


def test_runs_of_one_group_test_the_same_photos(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    result = {
        "kind": "evaluation",
        "name": "v1bn",
        "group": "v1bn",
        "dataset": "ava2",
        "title": "ILGNet-Inc.V1-BN",
        "lmdb": "/x/val_lmdb",
        "result": {"n": 100, "accuracy": metrics.proportion(80, 100)},
    }
    results.write_json(paths[0], result)
    first = dict(vars(metrics.proportion(40, 50)), batch=1, batches=50)
    for other, said in [
        (dict(result, lmdb="/y/val_lmdb"), "100 photos of /y/val_lmdb: "),
        (dict(result, result={"n": 90, "accuracy": metrics.proportion(80, 90)}), "90 photos of /x/val_lmdb: "),
        (dict(result, result=dict(result["result"], first_batches=first)), "/x/val_lmdb, of them 50 in the first"),
    ]:
        results.write_json(paths[1], other)
        with pytest.raises(CaffeError) as error:
            report_tool.main(["--eval", str(paths[0]), "--eval", str(paths[1]), "--out", str(tmp_path / "r.html")])
        start = f"group 'v1bn': {paths[0]} tests 100 photos of /x/val_lmdb, {paths[1]} "
        assert str(error.value).startswith(start) and said in str(error.value)
    results.write_json(paths[1], result)
    assert report_tool.main(["--eval", str(paths[0]), "--eval", str(paths[1]), "--out", str(tmp_path / "r.html")]) == 0
    assert '"path"' not in (tmp_path / "r.json").read_text()


def test_tables_say_how_a_net_was_tested_and_what_its_own_set_s_baseline_is(tmp_path):
    direct = {"preset": "direct", "warp": [224, 224], "crop": [224, 224]}
    write_result(tmp_path, tta="both", precision="bf16", preprocess=direct)
    assert report_tool.main(["--eval", str(tmp_path / "r.json"), "--out", str(tmp_path / "x.html")]) == 0
    text = (tmp_path / "x.md").read_text()
    assert text.count("(30.1 % – 95.4 %; views: both, bf16, preset direct)") == 2  # in Tables 2 and 4
    assert "| always the majority class | – | 50.00 % | – | – | 80.00 % (of the released list) | – |" in text
    other = dict(results.read_json(tmp_path / "r.json"), name="=other")
    other["result"]["majority_baseline"] = metrics.majority(np.array([1, 1, 1, 0]))
    results.write_json(tmp_path / "o.json", other)
    assert (
        report_tool.main(
            ["--eval", str(tmp_path / "r.json"), "--eval", str(tmp_path / "o.json"), "--out", str(tmp_path / "x.html")]
        )
        == 0
    )
    assert "| 50.00 % – 75.00 % (of different test sets) |" in (tmp_path / "x.md").read_text()
    heads = next(csv.reader(io.StringIO((tmp_path / "x_results.csv").read_text())))
    assert "'=other" in heads and not [head for head in heads if head.startswith("=")]


def test_a_ranking_has_correlations_and_no_accuracy(tmp_path):
    result = {
        "kind": "evaluation",
        "name": "ranked",
        "dataset": "ava2",
        "result": {"n": 7, "accuracy": None, "auc": 0.9, "spearman": 0.81, "pearson": 0.75},
    }
    results.write_json(tmp_path / "e.json", result)
    assert report_tool.main(["--eval", str(tmp_path / "e.json"), "--out", str(tmp_path / "r.html")]) == 0
    rows = dict(csv.reader(io.StringIO((tmp_path / "r_results.csv").read_text())))
    assert rows["Spearman's correlation with the votes"] == "0.81" and rows["whole test set"] == "not run"
    assert rows["photos tested"] == "7" and "earth mover's distance from the votes" not in rows


def test_markdown_and_csv(plain):
    text = plain.with_suffix(".md").read_text()
    for name in re.findall(r"\]\(([^)]+)\)", text):
        assert (plain.parent / name).is_file(), name
    assert "| ILGNet-Inc.V1-BN | 81.68 % | 75.00 % (30.1 % – 95.4 %) |" in text
    rows = list(csv.reader(io.StringIO((plain.parent / "report_table2.csv").read_text())))
    assert len({len(row) for row in rows}) == 1
    assert rows[0][:5] == [
        "method",
        "δ = 0: paper",
        "here, whole test set",
        "here, whole test set, from",
        "here, whole test set, to",
    ]
    assert next(r for r in rows if r[0] == "ILGNet-Inc.V1-BN")[1:3] == ["81.68", "75"]


def test_synthetic_labels_are_announced(tmp_path):
    write_log(tmp_path / "run.log", [1])
    assert "Synthetic labels" in make(tmp_path, "--synthetic").read_text()
    path = write_result(tmp_path, synthetic="demo")
    assert report_tool.main(["--eval", str(path), "--out", str(tmp_path / "x.html")]) == 0
    assert "Synthetic labels" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize(
    "field, value",
    [
        ("variant", [1]),
        ("lmdb", 5),
        ("title", None),
        ("group", {}),
        ("dataset", ["ava1"]),
        ("predictions", 1),
        ("preprocess.warp", 5),
        ("result.auc", [1]),
        ("result.loss", "x"),
        ("result.n", 10**400),
        ("result.confusion", [1]),
        ("result.classes", None),
        ("result.majority_baseline", None),
        ("result.calibration.bins", [{"n": 1}]),
        ("result.first_batches.batches", "x"),
    ],
)
def test_a_result_with_a_field_of_another_kind(field, value, tmp_path):
    path = write_result(tmp_path)
    result = at = json.loads(path.read_text())
    *above, name = field.split(".")
    for key in above:
        at = at[key]
    at[name] = value
    path.write_text(json.dumps(result))
    field = {"result.calibration.bins": "result.calibration.bins[0].p_high"}.get(field, field)
    with pytest.raises(CaffeError, match=rf"r\.json: not a result of ilgnet evaluate: '{re.escape(field)}"):
        report.read_evaluation(path)


def test_photos_only_of_a_test_set_that_a_result_may_name(tmp_path, monkeypatch, capsys):
    """A stranger's result may name any LMDB of the machine."""
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    theirs.mkdir(), mine.mkdir()
    with lmdb.open(str(mine / "lmdb"), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for i in range(4):
            datum = caffe_pb2.Datum(channels=3, height=8, width=8, data=bytes(192))
            transaction.put(b"%08d_p%d.jpg" % (i, i), datum.SerializeToString())
    (theirs / "linked").symlink_to(mine / "lmdb")
    (theirs / "copy").mkdir()
    (theirs / "copy/data.mdb").symlink_to(mine / "lmdb/data.mdb")
    monkeypatch.chdir(theirs)
    out = tmp_path / "out/report.html"
    for named in (mine / "lmdb", theirs / "linked", theirs / "copy", "../mine/lmdb", "\0"):
        assert report_tool.main(["--eval", str(write_result(theirs, lmdb=str(named))), "--out", str(out)]) == 0
        assert "data:image/jpeg" not in out.read_text() and not out.with_name("report_fig3_1.png").exists()
        assert "are left out: it lies neither below" in out.read_text()
        assert "are left out" in capsys.readouterr().err
    (theirs / "linked").unlink()
    shutil.copytree(mine / "lmdb", theirs / "linked")
    for folder, named in ((theirs, theirs / "linked"), (mine, mine / "lmdb")):
        monkeypatch.chdir(folder)
        assert report_tool.main(["--eval", str(write_result(theirs, lmdb=str(named))), "--out", str(out)]) == 0
        assert "data:image/jpeg" in out.read_text() and "left out" not in out.read_text() + capsys.readouterr().err


def test_refusals(tmp_path):
    log = str(write_log(tmp_path / "run.log", [1]))
    with pytest.raises(CaffeError, match="two runs have one name"):
        report_tool.main(["--run", log, "--run", log])
    with pytest.raises(CaffeError, match="nothing to report"):
        report_tool.main([])
    for option, text, message in (
        ("--eval", "{}", "not a result of ilgnet evaluate"),
        ("--eval", "{", "not JSON"),
        ("--eval", "[" * 100_000, "not JSON"),
        ("--eval", '{"kind":"evaluation"}', r"x\.json: .*ilgnet evaluate: 'name' is missing"),
        ("--eval", '{"kind":"evaluation","name":"x"}', "'result' is missing"),
        ("--eval", '{"kind":"evaluation","name":"x","result":{"n":1,"accuracy":2}}', "'result.accuracy' is"),
        ("--features", '{"kind":"features"}', r"x\.json: .*ilgnet visualize: 'name' is missing"),
        ("--benchmark", '{"machine":null,"rows":[{"engine":"torchcaffe"}]}', r"'rows\[0\]\.variant' is missing"),
        ("--benchmark", '{"machine":{"cpu":"x"},"rows":[]}', "'machine.threads' is missing"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(CaffeError, match=message):
            report_tool.main([option, str(tmp_path / "x.json"), "--out", str(tmp_path / "r.html")])
    for text in ("key,label,p_high\na,b\n", "key,label,p_high\na,1,0.5,2\n", "key,label,p_high,margin\na,1,0.5\n"):
        (tmp_path / "r.csv").write_text(text)
        with pytest.raises(CaffeError, match=r"r\.csv: line 2"):
            protocol.read_csv(tmp_path / "r.csv")


def test_the_photos_margins_are_kept_and_results_of_before_are_read(tmp_path):
    answers = protocol.Answers(["a", "b"], np.array([0, 1]), np.array([[2e-9, 1.0], [3e-12, 1.0]]))
    protocol.write_csv(tmp_path / "r.csv", answers.predictions(TARGETS["classes"]))
    found = protocol.read_csv(tmp_path / "r.csv")
    np.testing.assert_allclose(found.margin, [-np.log(2e-9), -np.log(3e-12)])
    assert found.p_high.tolist() == [1, 1] and found.keys == ["a", "b"]
    (tmp_path / "r.csv").write_text("key,label,p_high\na,1,0.75\n")
    found = protocol.read_csv(tmp_path / "r.csv")
    assert found.margin is None and found.margins() == pytest.approx([np.log(3)])


def test_outputs_are_checked_before_the_work(tmp_path):
    assert outputs.check(tmp_path / "new" / "r.json", ".json") == tmp_path / "new" / "r.json"
    assert (tmp_path / "new").is_dir() and outputs.check(tmp_path / "any.thing")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(CaffeError, match=r"r\.csv: must end in \.json or \.html"):
        outputs.check(tmp_path / "r.csv", ".json", ".html")
    with pytest.raises(CaffeError, match=r"folder\.json: is a folder"):
        outputs.check(tmp_path / "folder.json", ".json")
    log = str(write_log(tmp_path / "run.log", [1]))
    with pytest.raises(CaffeError, match=r"r\.md: must end in \.html"):
        report_tool.main(["--run", log, "--out", str(tmp_path / "r.md")])


def test_released_logs_beside_their_baseline(shared, tmp_path):
    found = [protocol.from_log(shared / "ava" / "results" / f"{name}_result.txt") for name in ("AVA1", "AVA2")]
    text = ["\n".join(protocol.lines(f)) for f in found]
    # they print a net without batch normalisation, of another name: no row of the tables is theirs
    assert [(f.title, f.variant) for f in found] == [("GoogleNet", None)] * 2
    assert "81.68%  (95% interval 80.12 to 83.15, 2500 photos)" in text[0] and "80.00%" in text[0]
    assert "whole test set     not in this log: 2500 of 20000 photos were tested" in text[0]
    assert "85.50%  (95% interval 84.03 to 86.85, 2400 photos)" in text[1] and "50.21%" in text[1]
    for name, f in zip(("a1", "a2"), found):
        results.write_json(tmp_path / f"{name}.json", {"kind": "evaluation", "name": name, **vars(f)})
    assert (
        report_tool.main(
            [
                "--eval",
                str(tmp_path / "a1.json"),
                "--eval",
                str(tmp_path / "a2.json"),
                "--out",
                str(tmp_path / "r.html"),
            ]
        )
        == 0
    )
    rows = {r[0]: r[1:] for r in csv.reader(io.StringIO((tmp_path / "r_results.csv").read_text()))}
    assert rows["whole test set"][0] == rows["whole test set"][3] == "not run"
    fifty = [float(v) for v in rows["first 50 batches, as the authors tested"]]
    assert np.round(fifty, 2).tolist() == [81.68, 80.12, 83.15, 85.5, 84.03, 86.85]
    assert rows["always the majority class"][0] == "80"


def write_test_log(path, batches, batch, source="data/ava1/val_lmdb", accuracy=0.82, name="ILGNet-Inc.V1-BN"):
    """A log of `caffe test`."""
    path.write_text(
        f'I0105 11:14:20.9  1 net.cpp:58] Initializing net from parameters: \nname: "{name}"\n'
        f'layer {{\n  name: "data"\n  data_param {{\n    source: "{source}"\n    batch_size: {batch}\n  }}\n}}\n'
        + "".join(f"I0105 11:14:28.1  1 caffe.cpp:309] Batch {i}, loss1/top-1 = {accuracy}\n" for i in range(batches))
        + f"I0105 11:14:28.2  1 caffe.cpp:326] loss1/top-1 = {accuracy}\n"
    )
    return path


@pytest.mark.parametrize(
    "batches, batch, source, interval, n",
    [
        (1000, 50, "data/ava1/val_lmdb", "81.46 to 82.53", 20000),
        (533, 48, "data/ava2/val_lmdb", "81.52 to 82.46", 25553),
        (400, 50, "data/ava1/val_lmdb", "81.46 to 82.53", 20000),
    ],
)
def test_a_log_that_meets_photos_again_has_the_interval_of_the_set(batches, batch, source, interval, n, tmp_path):
    log = write_test_log(tmp_path / "x.log", batches, batch, source)
    assert evaluate.main(["--log", str(log), "--out", str(tmp_path / "e.json")]) == 0
    found = protocol.from_log(log)
    text = protocol.lines(found)
    assert text[0] == f"whole test set      82.00%  (95% interval {interval}, {n} photos)" and found.result.n == n
    assert ("more than once" in text[1]) == (batches * batch > n)
    assert report_tool.main(["--eval", str(tmp_path / "e.json"), "--out", str(tmp_path / "r.html")]) == 0
    again = f" ({batches * batch} in the log: some more than once)" if batches * batch > n else ""
    assert f"| photos tested | {n}{again} |" in (tmp_path / "r.md").read_text()


def test_a_log_fills_the_row_of_the_net_that_it_prints(tmp_path):
    """Each cell by the last test that has its figure; a net of another name has no row."""
    given = []
    for i, (batches, accuracy, name) in enumerate(
        (
            (400, 0.82, "ILGNet-Inc.V1-BN"),
            (50, 0.8168, "ILGNet-Inc.V1-BN"),
            (400, 0.5, "ILGNet-Inc.V1-BN (spatial pyramids)"),
        )
    ):
        log = write_test_log(tmp_path / f"{i}.log", batches, 50, accuracy=accuracy, name=name)
        assert evaluate.main(["--log", str(log), "--out", str(tmp_path / f"{i}.json")]) == 0
        given += ["--eval", str(tmp_path / f"{i}.json")]
    assert report_tool.main([*given, "--out", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.md").read_text()
    whole, first = "82.00 % (81.5 % – 82.5 %; from a log)", "81.68 % (80.1 % – 83.1 %; from a log)"
    assert f"| ILGNet-Inc.V1-BN | 81.68 % | {whole} | {first} | 80.71 % | not run" in text  # Table 2
    assert f"| ILGNet-Inc.V1-BN | 81.68 % | {whole} | 4 days" in text  # Table 4
    assert "| net | ILGNet-Inc.V1-BN | ILGNet-Inc.V1-BN | ILGNet-Inc.V1-BN (spatial pyramids) |" in text
    assert "50.00 %" in text and "| 50.00 % (" not in text.split("**Table 2")[1]


def test_a_log_of_the_set_of_a_manifest(tmp_path):
    """What the manifest says, as for weights; without it, the folder's name."""
    (tmp_path / "ava2" / "val_lmdb").mkdir(parents=True)
    log = write_test_log(tmp_path / "x.log", 533, 48, str(tmp_path / "ava2" / "val_lmdb"))
    assert protocol.from_log(log).dataset == "ava2"
    (tmp_path / "ava2" / "manifest.json").write_text('{"dataset": "ava2, fraction 0.4"}')
    found = protocol.from_log(log)
    assert found.dataset == "ava2, fraction 0.4" and found.result.accuracy is None


def test_a_log_s_data_set_and_batches(tmp_path, capsys):
    log = write_test_log(tmp_path / "x.log", 100, 50)
    with pytest.raises(SystemExit) as error:
        evaluate.main(["--log", str(log), "--dataset", "ava_1"])
    assert error.value.code == 2 and "choose from" in capsys.readouterr().err
    assert evaluate.main(["--log", str(log)]) == 0
    text = capsys.readouterr().out
    assert "first 100 batches   82.00%  (95% interval 80.91 to 83.04, 5000 photos): in batches of 50\n" in text
    assert evaluate.main(["--log", str(write_test_log(log, 50, 50))]) == 0
    assert "photos): `caffe test`'s default, in batches of 50\n" in capsys.readouterr().out


def test_a_log_of_a_set_of_unknown_size_says_nothing_of_the_whole(shared, tmp_path):
    log = tmp_path / "x.log"
    log.write_text((shared / "ava" / "results" / "AVA1_result.txt").read_text(errors="replace").replace("AVA1", "mine"))
    assert evaluate.main(["--log", str(log), "--out", str(tmp_path / "e.json")]) == 0
    found = report.read_evaluation(tmp_path / "e.json")
    assert found.dataset is None and found.result.accuracy is None
    text = "\n".join(protocol.lines(found))
    assert "whole test set     unknown: 2500 photos were tested; the set's size is unknown" in text
    assert "first 50 batches    81.68%" in text
    assert report_tool.main(["--eval", str(tmp_path / "e.json"), "--out", str(tmp_path / "r.html")]) == 0
    rows = {r[0]: r[1:] for r in csv.reader(io.StringIO((tmp_path / "r_results.csv").read_text()))}
    assert rows["whole test set"][0] == "not run (the set's size is unknown)" and rows["photos tested"][0] == "2500"
    assert rows["first 50 batches, as the authors tested"][0] == "81.68"


def test_plot_log(tmp_path):
    log = write_log(tmp_path / "run.log", [1, 0.5])
    assert plot_log.main([str(log)]) == 0
    assert sorted(p.name for p in tmp_path.glob("*.svg")) == [
        "run_test_accuracy.svg",
        "run_test_loss.svg",
        "run_train_loss.svg",
    ]


def test_names_with_dollars_and_equal_signs(tmp_path):
    """Dollars make no formula; a file's name may hold a "="."""
    (tmp_path / "lr=1").mkdir()
    log = write_log(tmp_path / "lr=1" / "x$^$.log", [1, 0.5])
    assert plot_log.main([str(log)]) == 0
    assert "x$^$<" in (log.parent / "x$^$_train_loss.svg").read_text()
    runs = report.read_runs([str(log), f"a=b={write_log(tmp_path / 'y.log', [1])}"])
    assert [run.name for run in runs] == ["x$^$", "a=b"]


def test_plots_are_reproducible_and_take_bad_values():
    curve = plots.Curve("x", np.arange(50), np.where(np.arange(50) % 7, 1.0, np.nan), smooth=5)
    first, again = (plots.curves([curve], "loss", (0.5, "baseline")) for _ in range(2))
    assert first == again and first.light != first.dark
    plots.curves([plots.Curve("nan", np.arange(3), np.full(3, np.inf))], "loss")


def test_smoothed_is_the_trailing_mean():
    values = np.array([1.0, np.nan, 3, 5, 7])
    np.testing.assert_allclose(plots.smoothed(values, 2), [1, 1, 3, 4, 6])
    assert np.isnan(plots.smoothed(np.array([np.nan]), 3)[0])


def test_numbers_for_people():
    assert html.percent(0.8168) == "81.68 %" and html.percent(None) == "–"
    assert report_tables.number(float("nan")) == report_tables.share(None) == report_tables.EMPTY


def test_iterations_a_second_of_a_run_that_stood_still(tmp_path):
    """Resumed a day later: the day is not the run's."""
    path = write_log(tmp_path / "a.log", [1, 1, 1])
    path.write_text(path.read_text() + path.read_text().replace("I1123", "I1124"))
    assert report.run_facts(report.read_runs([str(path)])[0])["iterations_per_second"] == 1
    path.write_text(path.read_text().splitlines()[3])
    assert report.run_facts(report.read_runs([str(path)])[0])["iterations_per_second"] is None


def test_runs_of_several_logs_share_a_plot(tmp_path):
    runs = report.read_runs([f"a={write_log(tmp_path / 'a.log', [1])}", f"b={write_log(tmp_path / 'b.log', [2])}"])
    assert [name for name, _, _ in report.run_plots(runs, [])] == ["train_loss", "test_loss", "test_accuracy"]
    assert isinstance(runs[0].log, caffe_log.CaffeLog) and report.run_facts(runs[0])["best_accuracy"] == 0.5
